//! What a generation is written to: a regular file, sparse where the volume is, or a block device.

use super::record::Stamp;
use dedupe::ByteCount;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::unistd::{Whence, lseek};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The system refused.
    #[error("cannot {what} {path}: {source}{}", remedy(source))]
    Io {
        /// `open`, `write`, …
        what: &'static str,
        /// Which target.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is neither a file nor a block device.
    #[error("{0} is neither a regular file nor a block device; name one of those, or a file that is not there yet")]
    Kind(PathBuf),
    /// The device is smaller than the volume.
    #[error("{path} has {has} bytes and the volume has {needs}; choose a larger device")]
    TooSmall {
        /// Which device.
        path: PathBuf,
        /// Its size.
        has: u64,
        /// The volume's.
        needs: ByteCount,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(code) if code == Errno::EBUSY as i32 => "; it is mounted or used by something else: release it first",
        Some(code) if code == Errno::ENOSPC as i32 => "; make room and run it again",
        _ => "",
    }
}

/// An open target.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    file: File,
    size: ByteCount,
    is_device: bool,
    is_new: bool,
}

impl Target {
    /// Opens a target for a volume of `size`; makes an empty file when there is nothing.
    pub(crate) fn open(path: &Path, size: ByteCount) -> Result<Target, TargetError> {
        let failed = failed("open", path);
        let found = match std::fs::metadata(path) {
            Ok(metadata) => Some(metadata.file_type()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let is_device = found.is_some_and(|kind| kind.is_block_device());
        if found.is_some_and(|kind| !kind.is_file() && !kind.is_block_device()) {
            return Err(TargetError::Kind(path.to_owned()));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if is_device {
            // Exclusively: a mounted device, or one of a RAID or of LVM, is refused as busy.
            options.custom_flags(nix::libc::O_EXCL);
        } else {
            options.create(true).mode(0o600);
        }
        let target = Target {
            path: path.to_owned(),
            file: options.open(path).map_err(failed)?,
            size,
            is_device,
            is_new: found.is_none(),
        };
        let has = target.len()?;
        if is_device && has < size.0 {
            return Err(TargetError::TooSmall { path: path.to_owned(), has, needs: size });
        }
        Ok(target)
    }

    /// Opens an image or device to be read as a whole.
    pub(crate) fn open_to_read(path: &Path) -> Result<Target, TargetError> {
        let file = File::open(path).map_err(failed("open", path))?;
        let kind = file.metadata().map_err(failed("look at", path))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(TargetError::Kind(path.to_owned()));
        }
        let is_device = kind.is_block_device();
        let mut target = Target { path: path.to_owned(), file, size: ByteCount(0), is_device, is_new: false };
        target.size = ByteCount(target.len()?);
        Ok(target)
    }

    /// Whether there was nothing before.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether it is a block device.
    pub(crate) fn is_device(&self) -> bool {
        self.is_device
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the volume, or of the image that was opened to be read.
    pub(crate) fn size(&self) -> ByteCount {
        self.size
    }

    /// Bytes of the file or device.
    pub(crate) fn len(&self) -> Result<u64, TargetError> {
        let end = lseek(&self.file, 0, Whence::SeekEnd).map_err(|errno| failed("look at", &self.path)(errno.into()))?;
        Ok(end as u64)
    }

    /// Gives a file the volume's size; `whole` empties it first. Says whether the target reads as zeroes now: a device keeps its bytes,
    /// and zeroing all of one that cannot discard would take as long as filling it.
    pub(crate) fn prepare(&self, whole: bool) -> Result<bool, TargetError> {
        if self.is_device {
            return Ok(false);
        }
        let resize = || -> io::Result<()> {
            if whole {
                self.file.set_len(0)?;
            }
            self.file.set_len(self.size.0)
        };
        resize().map_err(failed("resize", &self.path))?;
        Ok(whole)
    }

    /// Writes bytes.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.file.write_all_at(bytes, at).map_err(failed("write", &self.path))
    }

    /// Makes a range read as zeroes, without taking room where the system can do that.
    pub(crate) fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, range.start as i64, (range.end - range.start) as i64) {
            Ok(()) => Ok(()),
            // Not every file system and device can; some want other alignments.
            Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS | Errno::ENODEV | Errno::EPERM) => {
                const ZEROES: &[u8] = &[0; 256 << 10];
                for start in range.clone().step_by(ZEROES.len()) {
                    self.write(start, &ZEROES[..(range.end - start).min(ZEROES.len() as u64) as usize])?;
                }
                Ok(())
            }
            Err(errno) => Err(failed("zero a part of", &self.path)(errno.into())),
        }
    }

    /// Reads bytes.
    pub(crate) fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), TargetError> {
        self.file.read_exact_at(buffer, at).map_err(failed("read", &self.path))
    }

    /// Whether a range is a hole of a sparse file.
    pub(crate) fn is_hole(&self, start: u64, len: u64) -> bool {
        if self.is_device {
            return false;
        }
        match lseek(&self.file, start as i64, Whence::SeekData) {
            Ok(data) => data as u64 >= start + len,
            Err(Errno::ENXIO) => true, // no data up to the end
            Err(_) => false,
        }
    }

    /// Makes everything durable.
    pub(crate) fn sync(&self) -> Result<(), TargetError> {
        self.file.sync_all().map_err(failed("sync", &self.path))
    }

    /// Lets the system's copy in memory go, so that what is read next comes from the disk. Best effort.
    pub(crate) fn drop_cache(&self) {
        let _advice = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    /// What tells whether somebody else touched it. Says nothing for devices beyond their size.
    pub(crate) fn stamp(&self) -> Result<Stamp, TargetError> {
        let metadata = self.file.metadata().map_err(failed("look at", &self.path))?;
        let size = self.len()?;
        if self.is_device {
            return Ok(Stamp { size, inode: 0, modified_ns: 0 });
        }
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_ns = modified.map_or(0, |since| since.as_nanos() as u64);
        Ok(Stamp { size, inode: metadata.ino(), modified_ns })
    }
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> TargetError + use<> {
    let path = path.to_owned();
    move |source| TargetError::Io { what, path: path.clone(), source }
}
