//! An image file as a source, sparse or not.

use super::{Identity, SECTOR, Source, SourceError};
use dedupe::{ByteCount, ByteOffset};
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::{Whence, lseek};
use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A regular file.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    file: File,
    identity: Identity,
}

impl FileSource {
    /// Opens `path` for reading.
    pub fn open(path: &Path) -> Result<FileSource, SourceError> {
        let failed = |source| SourceError::Open { path: path.to_owned(), source };
        // Asked before opening: opening a pipe would wait for its other end.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(SourceError::NotAFile(path.to_owned()));
        }
        let file = File::open(path).map_err(failed)?;
        let identity = identity_of(&file.metadata().map_err(failed)?);
        if !identity.size.is_multiple_of(SECTOR) {
            return Err(SourceError::OddSize { path: path.to_owned(), size: identity.size });
        }
        if identity.size == 0 {
            return Err(SourceError::Empty(path.to_owned()));
        }
        advise(&file);
        Ok(FileSource { path: path.to_owned(), file, identity })
    }

    #[cfg(test)]
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Source for FileSource {
    fn size(&self) -> ByteCount {
        ByteCount(self.identity.size)
    }

    fn block_size(&self) -> u32 {
        SECTOR as u32
    }

    fn next_data(&self, within: Range<u64>) -> Result<Option<Range<u64>>, SourceError> {
        let seek = |from: u64, whence| match lseek(&self.file, from as i64, whence) {
            Ok(at) => Ok(Some(at as u64)),
            // From there to the end there is no data, or the file was cut below `from`: reading and `check` tell which.
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno),
        };
        let found = seek(within.start, Whence::SeekData).and_then(|start| match start {
            Some(start) if start < within.end => {
                let end = seek(start, Whence::SeekHole)?.unwrap_or(within.end);
                Ok(Some(start..end.min(within.end)))
            }
            _ => Ok(None),
        });
        match found {
            // A file system that knows no holes: all of it is data.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some(within)),
            found => found.map_err(|errno| SourceError::Read {
                path: self.path.clone(),
                offset: within.start,
                len: 0,
                source: errno.into(),
            }),
        }
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), SourceError> {
        read_exactly(&self.file, &self.path, self.identity.size, offset, buf)
    }

    fn check(&self) -> Result<(), SourceError> {
        let Ok(now) = std::fs::metadata(&self.path) else { return Err(SourceError::Vanished(self.path.clone())) };
        if (now.dev(), now.ino()) != (self.identity.device, self.identity.inode) {
            return Err(SourceError::Vanished(self.path.clone()));
        }
        if now.size() < self.identity.size {
            let (before, now) = (self.identity.size, now.size());
            return Err(SourceError::Shrank { path: self.path.clone(), before, now });
        }
        Ok(())
    }

    fn identity(&self) -> Option<Identity> {
        Some(self.identity.clone())
    }
}

/// Reads all of `buf` or says where the file ended.
pub(super) fn read_exactly(
    file: &File,
    path: &Path,
    size: u64,
    offset: ByteOffset,
    buf: &mut [u8],
) -> Result<(), SourceError> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset.0 + done as u64;
        match file.read_at(&mut buf[done..], at) {
            Ok(0) => return Err(SourceError::Shrank { path: path.to_owned(), before: size, now: at }),
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(SourceError::Read { path: path.to_owned(), offset: at, len: buf.len() - done, source });
            }
        }
    }
    Ok(())
}

/// Read ahead, and do not count these reads as use: a capture of 20 GB must not push out what the host's own work keeps in the page cache,
/// while pages that are cached already stay there. Advice only, so a refusal does not matter.
pub(super) fn advise(file: &File) {
    for advice in [PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL, PosixFadviseAdvice::POSIX_FADV_NOREUSE] {
        let _ = posix_fadvise(file, 0, 0, advice);
    }
}

fn identity_of(metadata: &Metadata) -> Identity {
    Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn sparse() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[7; 65536], 1 << 20).unwrap();
        file.write_all_at(&[8; 4096], 5 << 20).unwrap();
        (dir, path)
    }

    #[test]
    fn holes_are_told_from_data() {
        let (_dir, path) = sparse();
        let source = FileSource::open(&path).unwrap();
        let mut at = 0;
        let mut ranges = Vec::new();
        while let Some(range) = source.next_data(at..8 << 20).unwrap() {
            at = range.end;
            ranges.push(range);
        }
        assert_eq!(ranges, [1 << 20..(1 << 20) + 65536, 5 << 20..(5 << 20) + 4096]);
        assert_eq!(source.next_data((1 << 20) + 100..(1 << 20) + 200).unwrap(), Some((1 << 20) + 100..(1 << 20) + 200));
        assert_eq!(source.next_data(6 << 20..8 << 20).unwrap(), None);
        let mut buf = [0; 4096];
        source.read_at(ByteOffset(5 << 20), &mut buf).unwrap();
        assert_eq!(buf, [8; 4096]);
    }

    #[test]
    fn an_odd_size_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd.img");
        File::create(&path).unwrap().write_all(&[1; 1000]).unwrap();
        let refusal = FileSource::open(&path).unwrap_err().to_string();
        assert!(refusal.contains("1000 bytes") && refusal.contains("truncate -s %512"), "{refusal}");
    }

    #[test]
    fn what_is_not_a_file_is_refused() {
        let refusal = FileSource::open(Path::new("/dev/null")).unwrap_err().to_string();
        assert_eq!(refusal, "/dev/null is not a regular file; for a disk or a logical volume write block:/dev/null");
        assert!(matches!(FileSource::open(Path::new("/nonexistent")), Err(SourceError::Open { .. })));
    }

    #[test]
    fn a_file_that_shrinks_or_vanishes_is_noticed() {
        let (_dir, path) = sparse();
        let source = FileSource::open(&path).unwrap();
        source.check().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(4 << 20).unwrap();
        assert!(matches!(source.check(), Err(SourceError::Shrank { now: 4_194_304, .. })));
        let read = source.read_at(ByteOffset((4 << 20) - 512), &mut [0; 1024]);
        assert!(matches!(read, Err(SourceError::Shrank { now: 4_194_304, .. })), "{read:?}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(source.check(), Err(SourceError::Vanished(_))));
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        assert!(matches!(source.check(), Err(SourceError::Vanished(_))), "another file at the same place");
    }

    #[test]
    fn the_identity_changes_with_a_write() {
        let (_dir, path) = sparse();
        let before = FileSource::open(&path).unwrap().identity();
        assert_eq!(FileSource::open(&path).unwrap().identity(), before);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[1], 0).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_ne!(FileSource::open(&path).unwrap().identity(), before);
    }
}
