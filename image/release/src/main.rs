//! For whoever makes releases: keys, and signed bundles of images that `image/build` made.

#![allow(missing_docs)] // a program

use clap::{Parser, Subcommand};
use data_encoding::HEXLOWER;
use dedupe::image::{FileImage, Maker};
use dedupe::{Effort, UnixMillis};
use release::bundle;
use release::verity::Verity;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use wire::release::{Manifest, Role};
use wire::statement::{KeyId, StatementKey};

/// Bytes of a private key's file at most.
const MAX_KEY: u64 = 4096;

#[derive(Parser)]
#[command(name = "sluice-release", version, about = "Makes and reads signed releases of the appliance's system.")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make a private key and print its public half, which goes into `release-keys` of the systems that are to take releases signed with it.
    Keygen {
        /// Where the key goes (PKCS #8, readable by its owner alone); it must not exist.
        file: PathBuf,
    },
    /// Print the public half of a private key.
    Public {
        /// The key.
        file: PathBuf,
    },
    /// Sign an image and put both into a bundle.
    Pack {
        /// The slot's image, as image/build made it.
        #[arg(long)]
        slot: PathBuf,
        /// Bytes of the image before its hash tree.
        #[arg(long)]
        bytes: u64,
        /// Salt of the hash tree, 64 hexadecimal digits.
        #[arg(long)]
        salt: String,
        /// edge or gateway.
        #[arg(long)]
        role: String,
        /// The release's version.
        #[arg(long)]
        version: String,
        /// Greater than that of every release before.
        #[arg(long)]
        sequence: u64,
        /// The private key.
        #[arg(long)]
        key: PathBuf,
        /// Public half of the key that signs later releases, when it changes: 64 hexadecimal digits.
        #[arg(long)]
        next_key: Option<String>,
        /// zstd's level, 1 to 19.
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=19))]
        level: i32,
        /// The bundle.
        #[arg(long)]
        out: PathBuf,
    },
    /// Say how many bytes an upgrade takes on the line, from one image to another.
    Delta {
        /// The slot's image that runs, with its .cfg beside it.
        old: PathBuf,
        /// The one that is to run.
        new: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Say what a bundle holds, and check all of it.
    Show {
        /// The bundle.
        file: PathBuf,
        /// File of trusted keys.
        #[arg(long)]
        keys: PathBuf,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
}

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(Cli::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-release: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> Result<(), Failed> {
    match what {
        What::Keygen { file } => {
            let pkcs8 = StatementKey::generate();
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
            let mut made = made.map_err(|error| about(&file, &error))?;
            made.write_all(&pkcs8).and_then(|()| made.sync_all()).map_err(|error| about(&file, &error))?;
            println!("{}", read_key(&file)?.public().hex());
        }
        What::Public { file } => println!("{}", read_key(&file)?.public().hex()),
        What::Pack { slot, bytes, salt, role, version, sequence, key, next_key, level, out } => {
            let salt = HEXLOWER.decode(salt.as_bytes()).ok().and_then(|salt| salt.try_into().ok());
            let salt = salt.ok_or("--salt has to be 64 hexadecimal digits")?;
            let next_key = next_key.map(|key| KeyId::read(&key)).transpose()?;
            let mut manifest = Manifest {
                role: role.parse::<Role>().map_err(|()| "--role is edge or gateway")?,
                version,
                sequence,
                bytes,
                id: wire::release::ReleaseId([0; 32]),
                salt,
                made: UnixMillis(sequence.saturating_mul(1000)),
                next_key,
            };
            manifest.id = root_of(&slot, bytes, salt)?;
            let text = manifest.sign(&read_key(&key)?)?.to_json();
            let image = BufReader::new(File::open(&slot).map_err(|error| about(&slot, &error))?).take(bytes);
            let to = BufWriter::new(File::create(&out).map_err(|error| about(&out, &error))?);
            bundle::write(&text, image, to, level).map_err(|error| about(&out, &error))?;
        }
        What::Delta { old, new, json } => delta(&old, &new, json)?,
        What::Show { file, keys, json } => show(&file, &keys, json)?,
    }
    Ok(())
}

fn root_of(slot: &Path, bytes: u64, salt: [u8; 32]) -> Result<wire::release::ReleaseId, Failed> {
    let mut image = File::open(slot).map_err(|error| about(slot, &error))?.take(bytes);
    let (mut verity, mut buffer, mut read) = (Verity::new(salt), vec![0; 1 << 20], 0);
    loop {
        let len = image.read(&mut buffer).map_err(|error| about(slot, &error))?;
        if len == 0 {
            break;
        }
        verity.update(&buffer[..len]);
        read += len as u64;
    }
    match read == bytes {
        true => Ok(verity.finish().root()),
        false => Err(format!("{} has {read} bytes, not {bytes}", slot.display()).into()),
    }
}

fn delta(old: &Path, new: &Path, json: bool) -> Result<(), Failed> {
    let (old, new) = (image_of(old)?, image_of(new)?);
    let mut maker = Maker::new(&old, &new, Effort::Thorough)?;
    let (mut parts, mut bytes) = (0, 0);
    while let Some(part) = maker.next_part()? {
        (parts, bytes) = (parts + 1, bytes + part.len());
    }
    match json {
        true => println!("{{\"parts\":{parts},\"bytes\":{bytes}}}"),
        false => println!("{bytes} bytes in {parts} parts"),
    }
    Ok(())
}

/// The image in a slot's file, without its hash tree.
fn image_of(slot: &Path) -> Result<FileImage, Failed> {
    let cfg = slot.with_added_extension("cfg");
    let text = std::fs::read_to_string(&cfg).map_err(|error| about(&cfg, &error))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("set slot_offset=")?.parse().ok());
    let bytes: u64 = bytes.ok_or_else(|| format!("{} does not say slot_offset", cfg.display()))?;
    if !bytes.is_multiple_of(4096) {
        return Err(format!("{}: {bytes} bytes are no whole number of blocks", cfg.display()).into());
    }
    Ok(FileImage::new(File::open(slot).map_err(|error| about(slot, &error))?, bytes))
}

fn show(file: &Path, keys: &Path, json: bool) -> Result<(), Failed> {
    let trusted = release::install::read_keys(keys)?;
    let (text, manifest, rest) = bundle::open(File::open(file).map_err(|error| about(file, &error))?, &trusted)?;
    bundle::read_image(rest, &manifest, |_| Ok(()))?;
    if json {
        print!("{text}");
    } else {
        println!("{} {}, sequence {}", manifest.role.word(), manifest.version, manifest.sequence);
        println!("{} bytes, root hash {}", manifest.bytes, manifest.id.hex());
        println!("signed and whole");
    }
    Ok(())
}

fn read_key(path: &Path) -> Result<StatementKey, Failed> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(MAX_KEY).read_to_end(&mut bytes));
    read.map_err(|error| about(path, &error))?;
    StatementKey::read(&bytes).ok_or_else(|| {
        format!("{} is no private key: make one with `sluice-release keygen FILE`", path.display()).into()
    })
}

fn about(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
