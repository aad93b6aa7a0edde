//! What the generations of real volumes cost on the wire: a real gateway, real edges, and nothing left uncounted.
//!
//! Each volume is a folder with `g0.img`, `g1.img`, …; it becomes one volume of a site of its own. All sites belong to one tenant,
//! in the given order, so what a later one shares with an earlier one is at the gateway already. Connections are kept between the
//! steps of a volume. The wire figures are IP-level bytes of the edge's two sockets, both ways, from the start of its process.

pub mod asked;
pub mod made;
pub mod reference;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use dedupe::ByteCount;
use serde::{Deserialize, Serialize};
use sluice_edge::budget::Budget;

use crate::images::{data_ranges, dirty_bytes, used_bytes};
use crate::report;
use crate::volumes::{Random, Writer};
use crate::world::{Binaries, Edge, EdgeOptions, Gateway, GatewayOptions, World};

/// One step of one volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The volume: its folder's name.
    pub volume: String,
    /// `seed`, or `g0-g1` and so on.
    pub step: String,
    /// IP-level bytes from the edge, both connections, everything counted.
    pub wire_up: u64,
    /// IP-level bytes to the edge.
    pub wire_down: u64,
    /// Bytes of the 4 KiB blocks that differ from the generation before; of a seed, of those that are not zero.
    pub dirty_4k: u64,
    /// Seconds of the capture.
    pub capture_s: f64,
    /// CPU seconds of the capture.
    pub capture_cpu_s: f64,
    /// CPU seconds of the encoder.
    pub code_cpu_s: f64,
    /// Largest resident set of the edge during the step, bytes.
    pub edge_peak_rss: u64,
    /// Largest resident set of the gateway during the step, bytes.
    pub gateway_peak_rss: u64,
    /// The gateway rebuilt the generation, its root is the BLAKE3 of the image, and every byte is equal.
    pub verified: bool,
}

impl Row {
    /// Bytes on the wire, up plus down.
    pub fn wire(&self) -> u64 {
        self.wire_up + self.wire_down
    }

    /// Whether this is a first generation.
    pub fn is_seed(&self) -> bool {
        self.step == "seed"
    }
}

/// How the bench runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rate that the encoder reckons with; the line itself is not slowed down.
    pub assume_rate: String,
    /// Bytes of further, unchanging data of each volume.
    pub ballast: u64,
    /// Bytes of an IP datagram at most, to see what an Ethernet line would carry; `None`: as large as loopback takes.
    pub mtu: Option<u16>,
    /// The edges' memory ceiling, as in their configuration; `None`: their default.
    pub memory: Option<String>,
    /// Where daemons and images of the run lie.
    pub work: PathBuf,
}

/// The generations of one volume.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its name, and that of its site.
    pub name: String,
    /// `g0.img`, `g1.img`, …
    pub images: Vec<PathBuf>,
}

/// IP and UDP headers of IPv4.
const IP_UDP: u16 = 28;

impl Volume {
    /// The volume in `folder`.
    pub fn open(folder: &Path) -> Result<Self> {
        let real = folder.canonicalize().with_context(|| format!("{}: no such folder", folder.display()))?;
        let name = real.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let images: Vec<_> = (0..).map(|n| real.join(format!("g{n}.img"))).take_while(|image| image.exists()).collect();
        ensure!(
            !images.is_empty(),
            "{}: holds no g0.img; name folders that each hold the generations of one volume",
            folder.display()
        );
        Ok(Self { name, images })
    }

    fn step(number: usize) -> String {
        if number == 0 { "seed".into() } else { format!("g{}-g{number}", number - 1) }
    }
}

/// Runs all volumes; `each` gets every row as soon as it is there.
pub fn run(binaries: Binaries, volumes: &[Volume], options: &Options, mut each: impl FnMut(&Row)) -> Result<Vec<Row>> {
    std::fs::create_dir_all(&options.work).with_context(|| format!("making {}", options.work.display()))?;
    let world = World::with(binaries, &options.work)?;
    let mut gateway = world.gateway(GatewayOptions::default())?;
    gateway.start()?;
    let mut rows = Vec::new();
    for volume in volumes {
        let mut site = Site::open(&world, &gateway, volume, options)?;
        for number in 0..volume.images.len() {
            let row = site
                .step(&mut gateway, volume, number)
                .with_context(|| format!("{} {}", volume.name, Volume::step(number)))?;
            each(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// A running edge with the source that it captures and the target that the gateway rebuilds.
struct Site {
    edge: Edge,
    source: Source,
    rebuilt: PathBuf,
    up: u64,
    down: u64,
}

impl Site {
    fn open(world: &World, gateway: &Gateway, volume: &Volume, options: &Options) -> Result<Self> {
        let folder = world.path().join(format!("images-{}", volume.name));
        std::fs::create_dir_all(&folder)?;
        let source = Source::make(&folder.join("source.img"), volume, options.ballast)?;
        let mut extra = format!("assume_rate = {:?}\n", options.assume_rate);
        if let Some(mtu) = options.mtu {
            extra += &format!("max_datagram = {}\n", mtu - IP_UDP);
        }
        if let Some(memory) = &options.memory {
            extra += &format!("memory = {memory:?}\n");
        }
        let mut edge = world.edge(&volume.name, EdgeOptions { extra, ..EdgeOptions::default() })?;
        edge.enrol(&gateway.token(&volume.name)?)?;
        edge.start()?;
        // A volume is added only if its source can be opened.
        source.show(&volume.images[0])?;
        edge.add_volume("disk", &source.path)?;
        Ok(Self { edge, source, rebuilt: folder.join("rebuilt.img"), up: 0, down: 0 })
    }

    fn step(&mut self, gateway: &mut Gateway, volume: &Volume, number: usize) -> Result<Row> {
        let image = &volume.images[number];
        self.source.show(image)?;
        self.edge.daemon()?.reset_peak()?;
        gateway.daemon()?.reset_peak()?;
        let captured = self.edge.capture("disk")?;
        let (up, down) = self.settled()?;
        let edge_peak_rss = self.edge.daemon()?.peak_rss()?;
        let gateway_peak_rss = gateway.daemon()?.peak_rss()?;
        gateway.rehydrate(&format!("{}/disk", volume.name), "latest", &self.rebuilt)?;
        let row = Row {
            volume: volume.name.clone(),
            step: Volume::step(number),
            wire_up: up - self.up,
            wire_down: down - self.down,
            dirty_4k: match number {
                0 => used_bytes(&self.source.path)?,
                _ => dirty_bytes(&volume.images[number - 1], image)?,
            },
            capture_s: captured.capture_s,
            capture_cpu_s: captured.capture_cpu_s,
            code_cpu_s: captured.code_cpu_s,
            edge_peak_rss,
            gateway_peak_rss,
            verified: self.verify(&captured.root)?,
        };
        (self.up, self.down) = (up, down);
        Ok(row)
    }

    /// The root that the edge computed and the gateway sealed is what a stock BLAKE3 says of both files, and they are equal.
    fn verify(&self, root: &str) -> Result<bool> {
        let equal = crate::images::same_bytes(&self.source.path, &self.rebuilt)?;
        Ok(equal && blake3_of(&self.source.path)? == root && blake3_of(&self.rebuilt)? == root)
    }

    /// The counters once the last acknowledgements have crossed: read until a fifth of a second brings nothing new.
    fn settled(&mut self) -> Result<(u64, u64)> {
        let mut last = self.meter()?;
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(200));
            let now = self.meter()?;
            if now == last {
                break;
            }
            last = now;
        }
        Ok(last)
    }

    fn meter(&mut self) -> Result<(u64, u64)> {
        let metrics = self.edge.daemon()?.metrics()?;
        let way = |direction| {
            let name = "sluice_link_ip_bytes_total";
            metrics
                .value(name, &[("direction", direction)])
                .with_context(|| format!("the edge has no metric {name} for {direction}"))
        };
        Ok((way("up")? as u64, way("down")? as u64))
    }
}

/// The file that an edge captures: the image of the step, and the ballast behind it.
struct Source {
    path: PathBuf,
    /// Bytes of the largest image, rounded up: where the ballast begins in every generation, so that it never moves.
    room: u64,
    ballast: u64,
}

/// Ballast begins at a multiple of this, and is made in pieces of it.
const PIECE: u64 = 16 << 20;

impl Source {
    fn make(path: &Path, volume: &Volume, ballast: u64) -> Result<Self> {
        let sizes: Result<Vec<u64>, io::Error> =
            volume.images.iter().map(|image| Ok(std::fs::metadata(image)?.len())).collect();
        let largest = sizes?.into_iter().max().unwrap_or(0);
        let ballast = ballast.next_multiple_of(4096);
        let room = if ballast > 0 { largest.next_multiple_of(PIECE) } else { largest };
        let source = Self { path: path.to_path_buf(), room, ballast };
        if ballast > 0 {
            source.write_ballast(&volume.name)?;
        }
        Ok(source)
    }

    /// Text that compresses like text, from the volume's name as the seed: other volumes have other ballast.
    fn write_ballast(&self, name: &str) -> Result<()> {
        let file = File::create(&self.path)?;
        file.set_len(self.room + self.ballast)?;
        let seed = name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let writer = Writer::new();
        let started = Instant::now();
        for piece in 0..self.ballast.div_ceil(PIECE) {
            let len = PIECE.min(self.ballast - piece * PIECE);
            let text = writer.text(&mut Random::new(seed, piece), len as usize);
            file.write_all_at(&text, self.room + piece * PIECE)?;
        }
        eprintln!(
            "{name}: {} of ballast made in {}",
            report::bytes(self.ballast),
            report::time(started.elapsed().as_secs_f64())
        );
        Ok(())
    }

    /// Lets the edge see this image. Without ballast a link is enough; with it the image's bytes are copied in front of it.
    fn show(&self, image: &Path) -> Result<()> {
        if self.ballast == 0 {
            let link = self.path.with_extension("new");
            std::os::unix::fs::symlink(image, &link)?;
            return Ok(std::fs::rename(&link, &self.path)?);
        }
        let target = OpenOptions::new().write(true).open(&self.path)?;
        let mode = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(&target, mode, 0, self.room as i64)?;
        let image = File::open(image)?;
        let mut piece = vec![0; 1 << 20];
        for (start, end) in data_ranges(&image)? {
            let mut at = start;
            while at < end {
                let len = (end - at).min(piece.len() as u64) as usize;
                image.read_exact_at(&mut piece[..len], at)?;
                target.write_all_at(&piece[..len], at)?;
                at += len as u64;
            }
        }
        Ok(())
    }
}

/// What `b3sum` prints for the file.
pub fn blake3_of(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?).with_context(|| format!("reading {}", path.display()))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The memory ceiling at which the edge's prefix is at most a sixteenth of the old data of every volume.
pub fn memory_for(volumes: &[Volume], ballast: u64) -> Result<Option<String>> {
    if ballast == 0 {
        return Ok(None);
    }
    let mut least = u64::MAX;
    for volume in volumes {
        least = least.min(used_bytes(&volume.images[0])? + ballast);
    }
    for mib in [1024, 896, 768, 640, 512, 448, 384] {
        let prefix = prefix_of(mib << 20);
        if 16 * prefix <= least {
            return Ok(Some(format!("{mib} MiB")));
        }
    }
    bail!(
        "the ballast is too small: with the least memory the prefix is {}, and 16 times that is more than the old data of {}; give more ballast",
        report::bytes(prefix_of(384 << 20)),
        report::bytes(least)
    )
}

/// Bytes of one parcel's reference prefix at most: chosen old blocks, recently sent bytes, the same addresses.
fn prefix_of(memory: u64) -> u64 {
    let options = Budget::of(ByteCount(memory), 2).encoder_options(ByteCount(0));
    (options.chosen + options.recent + options.parcel) as u64
}
