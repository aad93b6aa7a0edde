//! Where a volume's bytes come from.
//!
//! A [`Source`] is a view of one volume for one capture. It says where data is, so that holes are never read, and reads; what a failed
//! read means is decided in [`careful`].

pub mod ask;
pub mod block;
pub mod careful;
pub mod file;
pub mod nbd;
pub mod qemu;
pub mod tracking;

use self::nbd::{NbdConfig, NbdError, NbdSource, NbdUri};
use self::qemu::{QemuConfig, QemuDisk, QemuError, QemuSource};
use dedupe::{ByteCount, ByteOffset};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tracking::Tracking;

/// The smallest unit of a disk: every volume is a multiple of it.
pub const SECTOR: u64 = 512;

/// Bytes of one read of a local disk: large enough that it streams and the call costs nothing, small enough to stay in the second-level cache while it
/// is hashed.
pub(crate) const AT_ONCE: usize = 1 << 20;

/// Bytes that are wanted from an offset on.
pub type Wanted<'a> = (ByteOffset, &'a mut [u8]);

/// What sources need to know beside which one they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// What all NBD exports have in common.
    pub nbd: NbdConfig,
    /// What all disks of running machines have in common.
    pub qemu: QemuConfig,
}

/// One volume, opened for one capture. Read by several threads at once.
pub trait Source: Send + Sync {
    /// Its size when it was opened; a multiple of [`SECTOR`].
    fn size(&self) -> ByteCount;

    /// Bytes that the device reads at least at once; a multiple of [`SECTOR`].
    fn block_size(&self) -> u32;

    /// The first range of bytes within `within` that may hold data. What lies before it is a hole and reads as zeroes. `None`: only holes are left.
    fn next_data(&self, within: Range<u64>) -> Result<Option<Range<u64>>, SourceError>;

    /// Fills `buf` from `offset` on. Fails with [`SourceError::Shrank`] where the source ends early.
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), SourceError>;

    /// As [`read_at`](Source::read_at), for several ranges, which a source that is far away reads at the same time.
    fn read_all(&self, wanted: &mut [Wanted<'_>]) -> Result<(), SourceError> {
        wanted.iter_mut().try_for_each(|(offset, buf)| self.read_at(*offset, buf))
    }

    /// Bytes that a reader does best to ask for at once, a multiple of a leaf.
    fn at_once(&self) -> usize {
        AT_ONCE
    }

    /// Says whether the source is still there and at least as large as it was when it was opened.
    fn check(&self) -> Result<(), SourceError>;

    /// What stays the same as long as nobody writes to the source; `None` where that cannot be told (block devices).
    fn identity(&self) -> Option<Identity>;

    /// Where it follows its changes.
    fn tracking(&self) -> Option<&dyn Tracking> {
        None
    }
}

/// A source that was left alone has the same identity as before. Only then an interrupted capture may go on where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Device of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Nanoseconds since 1970-01-01 UTC of the last write.
    pub modified: i128,
}

/// Why a source could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be opened.
    #[error("cannot open {path}: {source}; check the path and the rights of the user that the daemon runs as")]
    Open {
        /// The file or device.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// `file:` was given something else than a regular file.
    #[error("{0} is not a regular file; for a disk or a logical volume write block:{0}")]
    NotAFile(PathBuf),
    /// `block:` was given something else than a block device.
    #[error("{0} is not a block device; for an image file write file:{0}")]
    NotABlockDevice(PathBuf),
    /// The size is no multiple of a sector.
    #[error(
        "{path} has {size} bytes, which is not a multiple of 512, so it is not the image of a disk; if it should be one, extend it: truncate -s %512 {path}"
    )]
    OddSize {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// There is nothing to capture.
    #[error("{0} has no bytes; a volume has at least one sector")]
    Empty(PathBuf),
    /// It ended before the size that it had when the capture began.
    #[error(
        "{path} shrank to {now} bytes while it was captured (it had {before}); capture it again when it is left alone"
    )]
    Shrank {
        /// The file or device.
        path: PathBuf,
        /// Bytes at the beginning of the capture.
        before: u64,
        /// Bytes now.
        now: u64,
    },
    /// The path leads to nothing, or to something else, since the capture began.
    #[error("{0} vanished or was replaced while it was captured; capture it again when it is back")]
    Vanished(PathBuf),
    /// The device could not read.
    #[error("cannot read {len} bytes at byte {offset} of {path}: {source}")]
    Read {
        /// The file or device.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// How much was asked.
        len: usize,
        /// The cause.
        source: std::io::Error,
    },
    /// An NBD export.
    #[error(transparent)]
    Nbd(Box<NbdError>),
    /// A disk of a running machine.
    #[error(transparent)]
    Qemu(Box<QemuError>),
}

impl SourceError {
    /// Whether the medium itself failed, so that smaller reads may still bring something back.
    pub fn is_medium(&self) -> bool {
        // EILSEQ is what checksumming file systems and EREMOTEIO what some drivers report for a bad sector.
        const EIO: i32 = 5;
        const EILSEQ: i32 = 84;
        const EREMOTEIO: i32 = 121;
        match self {
            SourceError::Read { source, .. } => matches!(source.raw_os_error(), Some(EIO | EILSEQ | EREMOTEIO)),
            SourceError::Nbd(error) => error.errno == Some(::nbd::Errno::Eio),
            _ => false,
        }
    }
}

/// Which volume to open, as people write it: `file:PATH`, `block:DEVICE`, the URI of an NBD export, or `qemu:MONITOR?disk=NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SourceSpec {
    /// An image file.
    File(PathBuf),
    /// A block device.
    Block(PathBuf),
    /// An NBD export.
    Nbd(NbdUri),
    /// A disk of a running machine.
    Qemu(QemuDisk),
}

/// Why a text does not name a source.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotASource {
    /// None of the kinds.
    #[error(
        "`{0}` does not say what kind of source it is; write file:PATH for an image file, block:DEVICE for a disk, nbd://HOST/EXPORT for what a server exports, qemu:MONITOR?disk=NAME for a disk of a running machine"
    )]
    Kind(String),
    /// No URI of an NBD export.
    #[error("`{0}` is not an NBD export: {1}; write {example}", example = nbd::uri::EXAMPLE)]
    Nbd(String, String),
    /// No disk of a machine.
    #[error("`{0}` is no disk of a machine: {1}; write {example}", example = qemu::uri::EXAMPLE)]
    Qemu(String, String),
    /// No absolute path.
    #[error(
        "`{0}` needs an absolute path, because the daemon runs in another directory, as in file:/srv/images/disk.img"
    )]
    Path(String),
}

impl SourceSpec {
    /// Opens it for one capture.
    pub fn open(&self, config: &SourceConfig) -> Result<Box<dyn Source>, SourceError> {
        Ok(match self {
            SourceSpec::File(path) => Box::new(file::FileSource::open(path)?),
            SourceSpec::Block(path) => Box::new(block::BlockSource::open(path)?),
            SourceSpec::Nbd(uri) => Box::new(NbdSource::open(uri, &config.nbd)?),
            SourceSpec::Qemu(disk) => Box::new(QemuSource::open(disk, &config.qemu)?),
        })
    }

    /// Whether opening it holds it at one moment, so that what uses it has to wait for that only and not for the whole capture.
    pub fn holds_a_moment(&self) -> bool {
        matches!(self, SourceSpec::Qemu(_))
    }

    /// Removes what captures left where the volume lives: what an interrupted one could not remove, and, when it is captured no more, what follows its changes. Blocks.
    pub fn leave(&self, is_over: bool) -> Result<(), SourceError> {
        match self {
            SourceSpec::File(_) | SourceSpec::Block(_) | SourceSpec::Nbd(_) => Ok(()),
            SourceSpec::Qemu(disk) => qemu::leave(disk, is_over),
        }
    }

    /// The file or device; none where it is elsewhere.
    pub fn path(&self) -> Option<&Path> {
        match self {
            SourceSpec::File(path) | SourceSpec::Block(path) => Some(path),
            SourceSpec::Nbd(_) | SourceSpec::Qemu(_) => None,
        }
    }

    /// Whether both have the same bytes, whatever follows their changes.
    pub fn is_same_disk(&self, other: &SourceSpec) -> bool {
        match (self, other) {
            (SourceSpec::Nbd(uri), SourceSpec::Nbd(other)) => uri.is_same_export(other),
            _ => self == other,
        }
    }
}

impl FromStr for SourceSpec {
    type Err = NotASource;
    fn from_str(text: &str) -> Result<Self, NotASource> {
        let said = || text.chars().take(256).collect::<String>();
        let (kind, path) = text.split_once(':').ok_or_else(|| NotASource::Kind(said()))?;
        let path = || match PathBuf::from(path) {
            path if path.is_absolute() => Ok(path),
            _ => Err(NotASource::Path(said())),
        };
        match kind {
            "file" => Ok(SourceSpec::File(path()?)),
            "block" => Ok(SourceSpec::Block(path()?)),
            "qemu" => QemuDisk::parse(text.split_at("qemu:".len()).1)
                .map(SourceSpec::Qemu)
                .map_err(|why| NotASource::Qemu(said(), why)),
            "nbd" | "nbds" | "nbd+unix" | "nbds+unix" => {
                NbdUri::parse(text).map(SourceSpec::Nbd).map_err(|why| NotASource::Nbd(said(), why))
            }
            _ => Err(NotASource::Kind(said())),
        }
    }
}

impl TryFrom<String> for SourceSpec {
    type Error = NotASource;
    fn try_from(text: String) -> Result<Self, NotASource> {
        text.parse()
    }
}

impl From<SourceSpec> for String {
    fn from(spec: SourceSpec) -> String {
        spec.to_string()
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceSpec::File(path) => write!(f, "file:{}", path.display()),
            SourceSpec::Block(path) => write!(f, "block:{}", path.display()),
            SourceSpec::Nbd(uri) => write!(f, "{uri}"),
            SourceSpec::Qemu(disk) => write!(f, "{disk}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_written_with_their_kind() {
        let spec: SourceSpec = "file:/srv/a:b.img".parse().unwrap();
        assert_eq!(spec, SourceSpec::File("/srv/a:b.img".into()));
        assert_eq!(spec.to_string().parse(), Ok(spec));
        assert_eq!("block:/dev/sda".parse(), Ok(SourceSpec::Block("/dev/sda".into())));
    }

    #[test]
    fn a_bad_source_is_refused_with_an_example() {
        let refusal = |text: &str| text.parse::<SourceSpec>().unwrap_err().to_string();
        assert_eq!(
            refusal("/dev/sda"),
            "`/dev/sda` does not say what kind of source it is; write file:PATH for an image file, block:DEVICE for a disk, nbd://HOST/EXPORT for what a server exports, qemu:MONITOR?disk=NAME for a disk of a running machine"
        );
        assert!(refusal("iscsi:/x").contains("block:DEVICE"));
        assert!(refusal("nbd:/x").contains("it has no `://`; write nbd://HOST:PORT/EXPORT"));
        assert_eq!(
            refusal("file:disk.img"),
            "`file:disk.img` needs an absolute path, because the daemon runs in another directory, as in file:/srv/images/disk.img"
        );
    }
}
