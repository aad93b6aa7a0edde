//! Against the servers that there are: qemu-nbd, qemu-storage-daemon and nbdkit. A test whose server is not installed says so.

#![allow(clippy::disallowed_methods, reason = "servers are waited for in real time")]

use super::*;
use crate::capture::sample::Sampling;
use crate::capture::tests::{Place, root_of};
use crate::capture::{Capture, CaptureError, Captured, How, OnReadError};
use crate::config::Config;
use crate::source::SourceSpec;
use crate::source::ask::{self, Standing};
use dedupe::{Progress, UnixMillis};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const SIZE: u64 = 48 << 20;
/// One unit of each capture.
const ONE_UNIT: Sampling = Sampling { captures: 1000, most: ByteCount(1 << 20) };
const EVERYTHING: Sampling = Sampling { captures: 1, most: ByteCount(1 << 40) };

/// Whether somebody listens at a socket; asked of the kernel, because a server may count whoever connects. The file alone is there a moment earlier.
fn listens(socket: &Path) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let path = format!(" {}", socket.display());
    sockets.lines().any(|line| line.ends_with(&path) && line.contains(" 00010000 "))
}

/// A server on a socket in a folder of its own, ended when it is dropped.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// `{}` among the arguments is the socket. `None`, and said so: the tool is not installed.
    fn start(folder: &Path, tool: &str, arguments: &[&str]) -> Option<Server> {
        let socket = folder.join("nbd.sock");
        let _ = std::fs::remove_file(&socket);
        let arguments = arguments.iter().map(|word| word.replace("{}", socket.to_str().unwrap()));
        let child = match Command::new(tool).args(arguments).stdin(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(why) => {
                eprintln!("skipped: {tool} cannot be started: {why}");
                return None;
            }
        };
        let mut server = Server { child, socket };
        let until = Instant::now() + Duration::from_secs(60);
        while !listens(&server.socket) {
            assert!(server.child.try_wait().unwrap().is_none(), "{tool} ended by itself");
            assert!(Instant::now() < until, "{tool} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(server)
    }

    fn uri(&self, more: &str) -> NbdUri {
        NbdUri::parse(&format!("nbd+unix:///?socket={}{more}", self.socket.display())).unwrap()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn open(uri: &NbdUri) -> Result<NbdSource, SourceError> {
    NbdSource::open(uri, &NbdConfig { connections: 2, ..NbdConfig::default() })
}

fn run(tool: &str, arguments: &[&str]) {
    let out = Command::new("timeout").args(["60", tool]).args(arguments).output().unwrap();
    assert!(out.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn refusal(uri: &NbdUri) -> String {
    open(uri).err().expect("it is refused").to_string()
}

// ---- a disk of QEMU with a bitmap

/// A qcow2 image whose changes a bitmap follows, written by qemu-io and shown by qemu-nbd.
struct Image {
    place: Place,
    path: String,
}

impl Image {
    /// With a bitmap `sluice` and a first generation. `None`: QEMU's tools are not installed.
    fn seeded() -> Option<(Image, Captured)> {
        let image = Image { place: Place::new(), path: String::new() };
        let path = image.place.dir.path().join("disk.qcow2").display().to_string();
        let image = Image { path, ..image };
        if let Err(why) = Command::new("qemu-img").arg("--version").output() {
            eprintln!("skipped: qemu-img cannot be started: {why}");
            return None;
        }
        run("qemu-img", &["create", "-q", "-f", "qcow2", &image.path, &format!("{SIZE}")]);
        image.write("write -P 17 0 5M");
        image.write("write -P 18 20M 3M");
        image.bitmap(&["--add", "-g", "64k"], "sluice");
        let captured = image.capture(ONE_UNIT);
        assert_eq!(why(&captured), "it is the first capture");
        Some((image, captured))
    }

    fn write(&self, command: &str) {
        run("qemu-io", &["-f", "qcow2", "-c", command, &self.path]);
    }

    fn bitmap(&self, what: &[&str], name: &str) {
        run("qemu-img", &[&["bitmap"], what, &[&self.path, name]].concat());
    }

    fn serve(&self, bitmap: &str) -> Server {
        let show = if bitmap.is_empty() { vec![] } else { vec!["-B", bitmap] };
        let arguments =
            [&["--socket={}", "--persistent", "--shared=4", "-r", "-f", "qcow2"], &show[..], &[&self.path]].concat();
        Server::start(self.place.dir.path(), "qemu-nbd", &arguments).unwrap()
    }

    /// Captures by the bitmap `sluice` and compares with what QEMU says the image holds.
    fn capture(&self, sampling: Sampling) -> Captured {
        let server = self.serve("sluice");
        let captured = capture(&self.place, &open(&server.uri("&bitmap=sluice")).unwrap(), sampling).unwrap();
        drop(server);
        self.compare(&captured);
        captured
    }

    fn compare(&self, captured: &Captured) {
        let raw = self.place.dir.path().join("raw").display().to_string();
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &self.path, &raw]);
        let bytes = std::fs::read(raw).unwrap();
        assert!(self.place.bytes(captured) == bytes, "the generation is not the image");
        assert_eq!(root_of(captured), blake3::hash(&bytes).to_hex().to_string());
    }
}

fn capture(place: &Place, source: &NbdSource, sampling: Sampling) -> Result<Captured, CaptureError> {
    let progress = Progress::default();
    Capture { sampling, ..place.capture(source, &progress) }.run(|| UnixMillis(1))
}

fn why(captured: &Captured) -> &str {
    match &captured.how {
        How::Reread { why } => why,
        how => panic!("not everything was read: {how:?}"),
    }
}

#[test]
fn what_a_dirty_bitmap_tells_is_read_and_nothing_else_but_the_sample() {
    let Some((image, _)) = Image::seeded() else { return };
    image.write("write -P 99 1M 4k");
    image.write("write -z 21M 64k");
    image.write("write -P 98 40M 4k");
    let captured = image.capture(ONE_UNIT);
    assert_eq!(captured.how, How::Changes { changed_bytes: 3 * 65536, sampled_bytes: 1 << 20 });
    assert!(captured.read_bytes <= (1 << 20) + 3 * 65536, "{}", captured.read_bytes);
    assert_eq!(captured.dirty_bytes, 4096 + 65536 + 4096);
    // The bitmap goes on: what changed before is read again, and found the same.
    image.write("write -P 97 2M 4k");
    let captured = image.capture(ONE_UNIT);
    assert_eq!(captured.how, How::Changes { changed_bytes: 4 * 65536, sampled_bytes: 1 << 20 });
    assert_eq!(captured.dirty_bytes, 4096);
}

#[test]
fn a_bitmap_that_was_cleared_made_anew_or_removed_is_not_believed() {
    let Some((image, _)) = Image::seeded() else { return };
    image.write("write -P 99 1M 4k");
    image.capture(ONE_UNIT);
    image.write("write -P 98 2M 4k");
    image.bitmap(&["--clear"], "sluice");
    let captured = image.capture(ONE_UNIT);
    assert!(
        why(&captured)
            .starts_with("the bitmap `sluice` was cleared or made anew (65536 bytes were dirty in it, and 0 are"),
        "{}",
        why(&captured)
    );
    // As many bits as before, in another place.
    image.write("write -P 97 3M 4k");
    image.capture(ONE_UNIT);
    image.bitmap(&["--remove"], "sluice");
    image.bitmap(&["--add", "-g", "64k"], "sluice");
    image.write("write -P 96 4M 128k");
    let captured = image.capture(ONE_UNIT);
    assert!(why(&captured).contains("byte 3145728 was dirty in it and is not"), "{}", why(&captured));
    // None at all: this generation has no stamp either.
    let server = image.serve("");
    let uri = server.uri("&bitmap=sluice");
    let captured = capture(&image.place, &open(&uri).unwrap(), ONE_UNIT).unwrap();
    assert!(why(&captured).starts_with("the server shows no bitmap `sluice`"), "{}", why(&captured));
    drop(server);
    assert_eq!(why(&image.capture(ONE_UNIT)), "nothing is known of changes since generation 6");
    assert!(matches!(image.capture(ONE_UNIT).how, How::Changes { .. }));
}

#[test]
fn another_bitmap_takes_over_without_a_full_read_while_both_are_shown() {
    let Some((image, _)) = Image::seeded() else { return };
    image.write("write -P 99 1M 4k");
    image.bitmap(&["--add", "-g", "64k"], "next");
    image.write("write -P 98 2M 4k");
    let both = |more: &str| {
        let file = format!("driver=qcow2,node-name=disk,read-only=on,file.driver=file,file.filename={}", image.path);
        let export = format!("type=nbd,id=e,node-name=disk,name=,{more}");
        let arguments =
            ["--blockdev", &file, "--nbd-server", "addr.type=unix,addr.path={},max-connections=4", "--export", &export];
        Server::start(image.place.dir.path(), "qemu-storage-daemon", &arguments)
    };
    let Some(server) = both("bitmaps.0=sluice,bitmaps.1=next") else { return };
    let captured = capture(&image.place, &open(&server.uri("&bitmap=next")).unwrap(), ONE_UNIT).unwrap();
    image.compare(&captured);
    assert_eq!(captured.how, How::Changes { changed_bytes: 2 * 65536, sampled_bytes: 1 << 20 });
    drop(server);
    image.write("write -P 97 30M 4k");
    let server = both("bitmaps.0=next").unwrap();
    let captured = capture(&image.place, &open(&server.uri("&bitmap=next")).unwrap(), ONE_UNIT).unwrap();
    image.compare(&captured);
    // 2 MiB and 30 MiB: not what the old one had.
    assert_eq!(captured.how, How::Changes { changed_bytes: 2 * 65536, sampled_bytes: 1 << 20 });
    drop(server);
    // Only another one is shown now.
    let server = both("bitmaps.0=sluice").unwrap();
    let captured = capture(&image.place, &open(&server.uri("&bitmap=sluice")).unwrap(), ONE_UNIT).unwrap();
    assert!(why(&captured).starts_with("the server shows no bitmap `next`"), "{}", why(&captured));
}

#[test]
fn a_bitmap_that_missed_a_write_is_found_out_and_the_generation_repaired() {
    let Some((image, _)) = Image::seeded() else { return };
    image.bitmap(&["--disable"], "sluice");
    image.write("write -P 66 33M 4k");
    image.bitmap(&["--enable"], "sluice");
    image.write("write -P 99 1M 4k");
    let captured = image.capture(EVERYTHING);
    let demoted = captured.demoted.as_ref().expect("the lie is found");
    assert_eq!(demoted.ranges, "34603008-34607103");
    assert!(why(&image.capture(ONE_UNIT)).contains("volume trust"));
}

#[test]
fn a_bitmap_that_a_crash_left_inconsistent_is_not_shown_and_everything_is_read() {
    let Some((image, _)) = Image::seeded() else { return };
    // Written by a server that is killed: the bitmap stays marked as in use.
    let arguments = ["--socket={}", "--persistent", "-f", "qcow2", &image.path];
    let mut writer = Server::start(image.place.dir.path(), "qemu-nbd", &arguments).unwrap();
    let client = ::nbd::Client::connect(&writer.uri("").address, &Default::default()).unwrap();
    client.write(7 << 20, &[5; 4096]).unwrap();
    client.flush().unwrap();
    writer.kill();
    drop(client);
    let server = image.serve("");
    let captured = capture(&image.place, &open(&server.uri("&bitmap=sluice")).unwrap(), ONE_UNIT).unwrap();
    assert!(why(&captured).contains("is inconsistent after a crash"), "{}", why(&captured));
    drop(server);
    let bytes = image.place.bytes(&captured);
    assert!(bytes[7 << 20..][..4096].iter().all(|byte| *byte == 5));
}

#[test]
fn a_bitmap_of_the_same_name_at_another_export_is_another_one() {
    let Some((image, _)) = Image::seeded() else { return };
    let server = image.serve("sluice");
    let moved = image.place.dir.path().join("moved.sock");
    std::fs::rename(&server.socket, &moved).unwrap();
    let uri = NbdUri::parse(&format!("nbd+unix:///?socket={}&bitmap=sluice", moved.display())).unwrap();
    let captured = capture(&image.place, &open(&uri).unwrap(), ONE_UNIT).unwrap();
    assert!(why(&captured).starts_with("its stamp is of another export, nbd+unix:///?socket="), "{}", why(&captured));
    assert!(matches!(capture(&image.place, &open(&uri).unwrap(), ONE_UNIT).unwrap().how, How::Changes { .. }));
}

#[test]
fn what_a_source_can_do_is_told_before_it_is_a_volume() {
    let Some((image, _)) = Image::seeded() else { return };
    let began = Instant::now();
    let found = |uri: &NbdUri| {
        let findings =
            ask::ask(&SourceSpec::Nbd(uri.clone()), &Config::new("/nonexistent").sources, || began.elapsed());
        findings.into_iter().map(|finding| (finding.what, finding.standing)).collect::<Vec<_>>()
    };
    let of = |all: &[(&str, Standing)]| all.iter().map(|(what, how)| (what.to_string(), *how)).collect::<Vec<_>>();
    use Standing::{Costly, Good, Unsupported};
    let server = image.serve("sluice");
    let head = [("reachable", Good), ("connections", Good), ("holes", Good), ("read-only", Good), ("size", Good)];
    assert_eq!(found(&server.uri("&bitmap=sluice")), of(&[&head[..], &[("changes", Good), ("rate", Good)]].concat()));
    assert_eq!(found(&server.uri("")), of(&[&head[..], &[("changes", Costly), ("rate", Good)]].concat()));
    let other = found(&server.uri("&bitmap=other"));
    assert_eq!(other, of(&[&head[..], &[("changes", Unsupported), ("rate", Good)]].concat()));
    let mut server = server;
    server.kill();
    assert_eq!(found(&server.uri("")), of(&[("reachable", Unsupported)]));
}

// ---- nbdkit

/// A sparse raw file of [`SIZE`] and an odd sector.
fn raw(place: &Place) -> Vec<u8> {
    let mut bytes = vec![0; (SIZE + 512) as usize];
    let file = std::fs::File::create(place.image()).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (at, len) in [(0usize, 70_000usize), (17 << 20, 4 << 20), (SIZE as usize, 512)] {
        for (place, byte) in bytes[at..at + len].iter_mut().enumerate() {
            *byte = ((at + place).wrapping_mul(0x9e37_79b9) >> 11) as u8 | 1;
        }
        file.write_all_at(&bytes[at..at + len], at as u64).unwrap();
    }
    bytes
}

fn nbdkit(place: &Place, arguments: &[&str]) -> Option<Server> {
    Server::start(place.dir.path(), "nbdkit", &[&["-f", "-U", "{}"], arguments].concat())
}

#[test]
fn holes_are_not_read_over_nbd() {
    let place = Place::new();
    let bytes = raw(&place);
    let (image, log) = (place.image().display().to_string(), place.dir.path().join("log"));
    let logfile = format!("logfile={}", log.display());
    let Some(server) = nbdkit(&place, &["--filter=log", "file", &image, &logfile]) else { return };
    let source = open(&server.uri("")).unwrap();
    assert_eq!(source.offered().unwrap(), Offered { connections: 2, tells_holes: true, is_read_only: false });
    let captured = capture(&place, &source, ONE_UNIT).unwrap();
    assert!(place.bytes(&captured) == bytes);
    drop((source, server));
    let said = std::fs::read_to_string(log).unwrap();
    let counts = said
        .lines()
        .filter_map(|line| line.split_once(" Read id=")?.1.split_once("count=0x")?.1.split_whitespace().next());
    let read: u64 = counts
        .map(|count| u64::from_str_radix(count.trim_end_matches(|c: char| !c.is_ascii_hexdigit()), 16).unwrap())
        .sum();
    // Data, widened to leaves, and the last sector for the check at the end.
    assert!((4 << 20..=(4 << 20) + 4 * 32768 + 1024).contains(&read), "{read}");
    assert!(captured.read_bytes <= read);
}

#[test]
fn a_server_that_dies_in_the_middle_and_comes_back_costs_nothing_but_time() {
    let place = Place::new();
    let bytes = raw(&place);
    let image = place.image().display().to_string();
    let arguments = ["--filter=noextents", "--filter=delay", "file", &image, "delay-read=50ms"];
    let Some(server) = nbdkit(&place, &arguments) else { return };
    let source = open(&server.uri("")).unwrap();
    let server = Mutex::new(server);
    let progress = Progress::default();
    let captured = std::thread::scope(|scope| {
        let capturing = scope.spawn(|| place.capture(&source, &progress).run(|| UnixMillis(1)));
        while progress.done.load(std::sync::atomic::Ordering::Relaxed) < 8 << 20 {
            assert!(!capturing.is_finished(), "it ended before its server was killed");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut server = server.lock().unwrap();
        server.kill();
        *server = nbdkit(&place, &arguments).unwrap();
        capturing.join().unwrap()
    });
    assert!(place.bytes(&captured.unwrap()) == bytes);
}

#[test]
fn a_server_that_stays_away_is_named_and_the_next_capture_is_right() {
    let place = Place::new();
    let bytes = raw(&place);
    let image = place.image().display().to_string();
    let Some(mut server) = nbdkit(&place, &["file", &image]) else { return };
    let source = open(&server.uri("")).unwrap();
    server.kill();
    let error = capture(&place, &source, ONE_UNIT).unwrap_err().to_string();
    assert!(
        error.contains(&server.socket.display().to_string()) && error.contains("check that the server runs"),
        "{error}"
    );
    drop(source);
    let server = nbdkit(&place, &["file", &image]).unwrap();
    let captured = capture(&place, &open(&server.uri("")).unwrap(), ONE_UNIT).unwrap();
    assert!(place.bytes(&captured) == bytes);
}

#[test]
fn an_export_that_has_become_another_one_ends_the_capture() {
    let place = Place::new();
    let Some(mut server) = nbdkit(&place, &["memory", "16M"]) else { return };
    let source = open(&server.uri("")).unwrap();
    server.kill();
    let _other = nbdkit(&place, &["memory", "8M"]).unwrap();
    let error = source.read_at(ByteOffset(0), &mut [0; 512]).unwrap_err().to_string();
    assert!(error.contains("it has 8388608 bytes now and had 16777216 when it was opened"), "{error}");
}

#[test]
fn what_cannot_be_captured_is_refused_with_the_remedy() {
    let place = Place::new();
    let Some(server) = nbdkit(&place, &["memory", "1000"]) else { return };
    let said = refusal(&server.uri(""));
    assert!(said.contains("1000 bytes, which is not a multiple of 512") && said.contains("round-up=512"), "{said}");
    drop(server);
    let server = nbdkit(&place, &["--filter=truncate", "memory", "1000", "round-up=512"]).unwrap();
    assert_eq!(open(&server.uri("")).unwrap().size(), ByteCount(1024));
    drop(server);
    let server = nbdkit(&place, &["memory", "0"]).unwrap();
    assert!(refusal(&server.uri("")).contains("it has no bytes"));
    drop(server);
    let minimum = [
        "--filter=blocksize-policy",
        "memory",
        "1M",
        "blocksize-minimum=64k",
        "blocksize-preferred=64k",
        "blocksize-error-policy=error",
    ];
    let server = nbdkit(&place, &minimum).unwrap();
    assert!(refusal(&server.uri("")).contains("minblock=4k"));
    drop(server);
    let server =
        nbdkit(&place, &["--filter=exportname", "memory", "1M", "exportname=a", "exportname-strict=true"]).unwrap();
    let said = refusal(&server.uri(""));
    assert!(said.contains("it refuses the export") && said.contains("nbdinfo --list"), "{said}");
    drop(server);
    let gone = refusal(&NbdUri::parse("nbd+unix:///?socket=/nowhere/nbd.sock").unwrap());
    assert!(gone.contains("cannot open the NBD export `` at /nowhere/nbd.sock"), "{gone}");
}

#[test]
fn a_medium_that_fails_behind_a_server_loses_its_bad_blocks_and_no_more() {
    let place = Place::new();
    let mut bytes = raw(&place);
    // A rescue's map: one bad range of 4 KiB.
    let (map, image) = (place.dir.path().join("map"), place.image().display().to_string());
    let bad = (18u64 << 20) + 4096;
    let lines =
        format!("0x0 + 1\n0x0 0x{bad:x} +\n0x{bad:x} 0x1000 -\n0x{:x} 0x{:x} +\n", bad + 4096, SIZE + 512 - bad - 4096);
    std::fs::write(&map, lines).unwrap();
    let mapfile = format!("ddrescue-mapfile={}", map.display());
    let Some(server) = nbdkit(&place, &["--filter=ddrescue", "file", &image, &mapfile]) else { return };
    let source = open(&server.uri("")).unwrap();
    let refused = capture(&place, &source, ONE_UNIT).unwrap_err();
    assert!(matches!(&refused, CaptureError::Unreadable { .. }), "{refused}");
    let progress = Progress::default();
    let listed = Capture { on_read_error: OnReadError::List, ..place.capture(&source, &progress) };
    let captured = listed.run(|| UnixMillis(1)).unwrap();
    assert_eq!(captured.unreadable, std::slice::from_ref(&(bad..bad + 4096)));
    bytes[bad as usize..][..4096].fill(0);
    assert!(place.bytes(&captured) == bytes);
}

#[test]
fn tls_is_used_where_it_is_asked_for_and_only_with_a_server_that_is_known() {
    let place = Place::new();
    let folder = place.dir.path();
    let issue = |authority: &CertifiedIssuer<'_, KeyPair>, name: &str, at: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, authority).unwrap();
        std::fs::write(folder.join(format!("{at}-cert.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{at}-key.pem")), key.serialize_pem()).unwrap();
    };
    let authority = |at: &str| {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, at);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join(at), authority.pem()).unwrap();
        authority
    };
    let known = authority("ca-cert.pem");
    authority("stranger.pem");
    issue(&known, "store.example", "server");
    issue(&known, "edge.example", "own");
    let certificates = format!("--tls-certificates={}", folder.display());
    let Some(server) = nbdkit(&place, &["--tls=require", &certificates, "--tls-verify-peer", "pattern", "1M"]) else {
        return;
    };
    let uri =
        NbdUri::parse(&format!("nbds+unix:///?socket={}&tls-hostname=store.example", server.socket.display())).unwrap();
    let own = Some((folder.join("own-cert.pem"), folder.join("own-key.pem")));
    let config = NbdConfig { authorities: Some(folder.join("ca-cert.pem")), own, ..NbdConfig::default() };
    let source = NbdSource::open(&uri, &config).unwrap();
    let mut word = [0; 8];
    source.read_at(ByteOffset(8192), &mut word).unwrap();
    assert_eq!(u64::from_be_bytes(word), 8192);
    let refused =
        |uri: &NbdUri, config: &NbdConfig| NbdSource::open(uri, config).err().expect("it is refused").to_string();
    let said = refused(&uri, &NbdConfig::default());
    assert!(said.contains("[nbd] authorities"), "{said}");
    let stranger = NbdConfig { authorities: Some(folder.join("stranger.pem")), ..config.clone() };
    assert!(refused(&uri, &stranger).contains("it refuses TLS"));
    let other = NbdUri { tls: Some("elsewhere.example".into()), ..uri.clone() };
    assert!(refused(&other, &config).contains("it refuses TLS"));
    assert!(refused(&server.uri(""), &config).contains("it requires TLS"));
    let missing = NbdConfig { authorities: Some(folder.join("none.pem")), ..config };
    assert!(refused(&uri, &missing).contains("none.pem"));
}
