//! Where a restore writes to: a file that gets its name when it is whole, or a block device.

use crate::files;
use dedupe::{ByteCount, Progress, Root};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::sys::stat::{major, minor};
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Threads that read a target back: beyond two its disk is the limit, and the host's own work comes first.
const READERS: usize = 2;

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The system refused.
    #[error("cannot {what} {path}: {source}{}", remedy(source))]
    Io {
        /// `open`, `write`, …
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Neither a file nor a device.
    #[error("{0} is neither a block device nor a new file; name one of those")]
    Kind(PathBuf),
    /// A file is there already.
    #[error("{0} is there already and is not overwritten; name another file, or move that one away")]
    Exists(PathBuf),
    /// The path is not absolute.
    #[error("{0} has to be an absolute path, because the daemon runs in another directory")]
    Relative(PathBuf),
    /// The device is smaller than the volume.
    #[error("{path} has {has} bytes and the volume has {needs}; choose a larger device")]
    TooSmall {
        /// Which device.
        path: PathBuf,
        /// Its size.
        has: u64,
        /// The volume's.
        needs: u64,
    },
    /// Too little room for a file.
    #[error("the file system of {path} has {free} bytes free and {needs} are needed; make room, or name another place")]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed at most.
        needs: u64,
    },
    /// The device is another one than when the restore began.
    #[error("{0} is another device than the one that the restore began with; cancel it and begin anew")]
    Changed(PathBuf),
    /// A volume is captured from there.
    #[error(
        "{path} is what volume `{volume}` is captured from; if that is to be overwritten, stop what uses it and say --onto-source"
    )]
    IsSource {
        /// The target.
        path: PathBuf,
        /// The volume.
        volume: String,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(code) if code == Errno::EBUSY as i32 => "; it is mounted or used by something else: release it first",
        Some(code) if code == Errno::ENOSPC as i32 => "; make room, it goes on by itself",
        _ => "",
    }
}

/// What a target was when the restore began: it goes on only there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stamp {
    /// A file of this inode, under its unfinished name.
    File {
        /// Device of the file system.
        device: u64,
        /// Inode.
        inode: u64,
    },
    /// A block device of this number.
    Device {
        /// Its number.
        device: u64,
    },
}

/// An open target.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    /// Where the bytes are written: beside `path` until they are whole.
    at: PathBuf,
    file: File,
    size: u64,
    stamp: Stamp,
}

/// The name of a file that is not whole yet.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    path.with_added_extension("part")
}

/// Whether a path leads to a block device.
pub(crate) fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Whether a target could be used for a volume of `size`, without changing anything. `replaces`: the file may be there, it is a source that is overwritten.
pub(crate) fn check(path: &Path, size: u64, data: u64, replaces: bool) -> Result<(), TargetError> {
    if !path.is_absolute() {
        return Err(TargetError::Relative(path.to_owned()));
    }
    let failed = |what| failed(what, path);
    match std::fs::symlink_metadata(path) {
        _ if is_device(path) => {
            let file = exclusively(path).map_err(failed("open"))?;
            let has = lseek(&file, 0, Whence::SeekEnd).map_err(|errno| failed("look at")(errno.into()))? as u64;
            if has < size {
                return Err(TargetError::TooSmall { path: path.to_owned(), has, needs: size });
            }
        }
        Ok(found) if found.is_file() && !replaces => return Err(TargetError::Exists(path.to_owned())),
        Ok(found) if !found.is_file() => return Err(TargetError::Kind(path.to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("look at")(error)),
        _ => {
            let part = unfinished(path);
            if part.symlink_metadata().is_ok() {
                return Err(TargetError::Exists(part));
            }
            let folder = path.parent().unwrap_or(Path::new("/"));
            let (free, _) = files::disk(folder).map_err(failed("look at the folder of"))?;
            if free < data {
                return Err(TargetError::NoRoom { path: folder.to_owned(), free, needs: data });
            }
        }
    }
    Ok(())
}

/// Refuses what a volume is captured from.
pub(crate) fn refuse_sources<'a>(
    path: &Path,
    sources: impl Iterator<Item = (&'a str, &'a Path)>,
) -> Result<(), TargetError> {
    for (volume, source) in sources {
        if overlaps(path, source) {
            return Err(TargetError::IsSource { path: path.to_owned(), volume: volume.to_owned() });
        }
    }
    Ok(())
}

/// Whether writing to one changes the other: the same file or device, or a disk and its partition.
pub(crate) fn overlaps(one: &Path, other: &Path) -> bool {
    let (Ok(a), Ok(b)) = (std::fs::metadata(one), std::fs::metadata(other)) else { return one == other };
    match (a.file_type().is_block_device(), b.file_type().is_block_device()) {
        (true, true) => {
            let (a, b) = (a.rdev(), b.rdev());
            a == b || disk_of(a) == Some(b) || disk_of(b) == Some(a)
        }
        (false, false) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// The disk of which a device is a partition.
fn disk_of(device: u64) -> Option<u64> {
    let place = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    std::fs::metadata(Path::new(&place).join("partition")).ok()?;
    let text = std::fs::read_to_string(Path::new(&place).join("../dev")).ok()?;
    let (first, second) = text.trim().split_once(':')?;
    Some(nix::sys::stat::makedev(first.parse().ok()?, second.parse().ok()?))
}

/// Exclusively: a mounted device, or one of a RAID or of LVM, is refused as busy.
fn exclusively(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_EXCL).open(path)
}

impl Target {
    /// Opens what a restore writes to. `known` is what it was when the restore began; a file that is gone, or was never made, is made anew. Says whether it was.
    pub(crate) fn open(path: &Path, size: u64, known: Option<Stamp>) -> Result<(Target, bool), TargetError> {
        let failed = |what| failed(what, path);
        if is_device(path) || matches!(known, Some(Stamp::Device { .. })) {
            let file = exclusively(path).map_err(failed("open"))?;
            let metadata = file.metadata().map_err(failed("look at"))?;
            let stamp = Stamp::Device { device: metadata.rdev() };
            if !metadata.file_type().is_block_device() || known.is_some_and(|known| known != stamp) {
                return Err(TargetError::Changed(path.to_owned()));
            }
            let target = Target { path: path.to_owned(), at: path.to_owned(), file, size, stamp };
            let has = target.len()?;
            if has < size {
                return Err(TargetError::TooSmall { path: path.to_owned(), has, needs: size });
            }
            return Ok((target, known.is_none()));
        }
        let at = unfinished(path);
        let stamp_of = |file: &File| {
            let metadata = file.metadata().map_err(failed("look at"))?;
            Ok::<_, TargetError>(Stamp::File { device: metadata.dev(), inode: metadata.ino() })
        };
        if let Some(known) = known
            && let Ok(file) = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW).open(&at)
            && stamp_of(&file)? == known
        {
            return Ok((Target { path: path.to_owned(), at, file, size, stamp: known }, false));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&at).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => TargetError::Exists(at.clone()),
            _ => failed("make")(error),
        })?;
        file.set_len(size).map_err(failed("resize"))?;
        let stamp = stamp_of(&file)?;
        Ok((Target { path: path.to_owned(), at, file, size, stamp }, true))
    }

    /// What it is, to be found again.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    fn len(&self) -> Result<u64, TargetError> {
        let end = lseek(&self.file, 0, Whence::SeekEnd);
        end.map(|end| end as u64).map_err(|errno| failed("look at", &self.at)(errno.into()))
    }

    /// Writes bytes; what lies behind the volume's end is left out.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let len = (self.size.saturating_sub(at)).min(bytes.len() as u64) as usize;
        self.file.write_all_at(&bytes[..len], at).map_err(failed("write", &self.at))
    }

    /// Makes a range read as zeroes, without taking room where the system can do that.
    pub(crate) fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        let range = range.start..range.end.min(self.size);
        if range.is_empty() || self.is_hole(range.start, range.end - range.start) {
            return Ok(());
        }
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
            Err(errno) => Err(failed("zero a part of", &self.at)(errno.into())),
        }
    }

    fn is_hole(&self, start: u64, len: u64) -> bool {
        if matches!(self.stamp, Stamp::Device { .. }) {
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
        self.file.sync_data().map_err(failed("sync", &self.at))
    }

    /// Reads all of it back from its disk and computes its root; `None` when it was cancelled.
    pub(crate) fn root(&self, progress: &Progress) -> Result<Option<Root>, TargetError> {
        let _advice = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        let read = |at: u64, buffer: &mut [u8]| self.file.read_exact_at(buffer, at).map_err(failed("read", &self.at));
        dedupe::root_of(ByteCount(self.size), READERS, progress, |start, len| self.is_hole(start, len), read)
    }

    /// It is whole and proved: a file gets its name.
    pub(crate) fn finish(&self) -> Result<(), TargetError> {
        if matches!(self.stamp, Stamp::Device { .. }) {
            return Ok(());
        }
        let renamed = || -> io::Result<()> {
            // A source that is overwritten stays whose it was: a hypervisor opens it as its own user.
            if let Ok(old) = std::fs::metadata(&self.path) {
                std::os::unix::fs::fchown(&self.file, Some(old.uid()), Some(old.gid()))?;
                self.file.set_permissions(old.permissions())?;
            }
            self.file.sync_all()?;
            std::fs::rename(&self.at, &self.path)?;
            files::sync_directory(self.path.parent().unwrap_or(Path::new("/")))
        };
        renamed().map_err(failed("give its name to", &self.path))
    }
}

/// Whether a file got its name already: the note of it was lost in a crash.
pub(crate) fn is_named(path: &Path, stamp: Option<Stamp>) -> bool {
    std::fs::symlink_metadata(path)
        .is_ok_and(|metadata| stamp == Some(Stamp::File { device: metadata.dev(), inode: metadata.ino() }))
}

/// Removes a file that never became whole. A device keeps what was written.
pub(crate) fn remove_unfinished(path: &Path, stamp: Option<Stamp>) {
    let at = unfinished(path);
    if is_named(&at, stamp)
        && let Err(error) = std::fs::remove_file(&at)
    {
        tracing::warn!(path = %at.display(), %error, "a file that never became whole stays");
    }
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> TargetError + use<> {
    let path = path.to_owned();
    move |source| TargetError::Io { what, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole_and_is_found_again_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        check(&path, 9000, 1000, false).unwrap();
        let (target, is_new) = Target::open(&path, 9000, None).unwrap();
        assert!(is_new && !path.exists());
        target.write(4096, &[7; 8192]).unwrap();
        let stamp = target.stamp();
        drop(target);
        let (target, is_new) = Target::open(&path, 9000, Some(stamp)).unwrap();
        assert!(!is_new);
        target.zero(4096..8192).unwrap();
        let mut whole = vec![0; 8192];
        whole.resize(9000, 7);
        let root = target.root(&Progress::default()).unwrap().unwrap();
        assert_eq!(root.hash, *blake3::hash(&whole).as_bytes());
        target.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert!(!unfinished(&path).exists());
        assert!(matches!(check(&path, 1, 1, false), Err(TargetError::Exists(_))));
        check(&path, 1, 1, true).unwrap();
        // What is overwritten keeps who may open it.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let (target, _) = Target::open(&path, 4096, None).unwrap();
        target.finish().unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.len(), found.mode() & 0o777), (4096, 0o640));
    }

    #[test]
    fn what_is_not_ours_is_neither_written_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        std::fs::write(unfinished(&path), "somebody's").unwrap();
        assert!(matches!(check(&path, 10, 10, false), Err(TargetError::Exists(_))));
        let other = Some(Stamp::File { device: 1, inode: 2 });
        assert!(matches!(Target::open(&path, 10, other), Err(TargetError::Exists(_))));
        remove_unfinished(&path, other);
        assert_eq!(std::fs::read(unfinished(&path)).unwrap(), b"somebody's");
        assert!(matches!(check(Path::new("disk.img"), 1, 1, false), Err(TargetError::Relative(_))));
        assert!(matches!(check(Path::new("/dev/null"), 1, 1, false), Err(TargetError::Kind(_))));
        assert!(matches!(check(&dir.path().join("x"), 1 << 62, 1 << 62, false), Err(TargetError::NoRoom { .. })));
    }

    #[test]
    fn sources_are_known_under_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&path, "x").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let sources = || [("disk", path.as_path())].into_iter();
        let refused = refuse_sources(&link, sources()).unwrap_err().to_string();
        assert!(refused.contains("is what volume `disk` is captured from"), "{refused}");
        refuse_sources(&dir.path().join("c"), sources()).unwrap();
    }

    /// A loop device over a file, detached on drop.
    struct Loop(String);

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["--detach", &self.0]).status();
        }
    }

    #[test]
    fn a_device_is_opened_exclusively_and_found_again_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&image).output();
        let Some(made) = made.ok().filter(|made| made.status.success()) else {
            eprintln!("skipped: no loop device can be made here");
            return;
        };
        let device = Loop(String::from_utf8(made.stdout).unwrap().trim().to_owned());
        let path = Path::new(&device.0);
        check(path, 1 << 20, 1 << 20, false).unwrap();
        assert!(matches!(check(path, 2 << 20, 0, false), Err(TargetError::TooSmall { .. })));
        let (target, _) = Target::open(path, 1 << 20, None).unwrap();
        target.write(4096, &[9; 4096]).unwrap();
        target.sync().unwrap();
        let busy = check(path, 1, 1, false).unwrap_err().to_string();
        assert!(busy.contains("mounted or used by something else"), "{busy}");
        let stamp = target.stamp();
        drop(target);
        assert!(!Target::open(path, 1 << 20, Some(stamp)).unwrap().1);
        let other = Some(Stamp::Device { device: 0 });
        assert!(matches!(Target::open(path, 1 << 20, other), Err(TargetError::Changed(_))));
        assert!(overlaps(path, path) && !overlaps(path, &image));
    }
}
