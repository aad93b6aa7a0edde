//! A block device as a source: a disk, a partition, a logical volume, a loop device.

use super::file::{advise, read_exactly};
use super::{Identity, SECTOR, Source, SourceError};
use dedupe::{ByteCount, ByteOffset};
use nix::sys::stat::{major, minor};
use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A block device. It has no holes and no time of last write, so an interrupted capture of it begins anew.
#[derive(Debug)]
pub struct BlockSource {
    path: PathBuf,
    file: File,
    device: u64,
    size: u64,
    block_size: u32,
}

impl BlockSource {
    /// Opens `path` for reading.
    pub fn open(path: &Path) -> Result<BlockSource, SourceError> {
        let failed = |source| SourceError::Open { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.file_type().is_block_device() {
            return Err(SourceError::NotABlockDevice(path.to_owned()));
        }
        let mut file = File::open(path).map_err(failed)?;
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size == 0 {
            return Err(SourceError::Empty(path.to_owned()));
        }
        advise(&file);
        Ok(BlockSource {
            path: path.to_owned(),
            file,
            device: metadata.rdev(),
            size,
            block_size: logical_block_size(&metadata),
        })
    }
}

impl Source for BlockSource {
    fn size(&self) -> ByteCount {
        ByteCount(self.size)
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn next_data(&self, within: Range<u64>) -> Result<Option<Range<u64>>, SourceError> {
        Ok(Some(within).filter(|within| !within.is_empty()))
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), SourceError> {
        read_exactly(&self.file, &self.path, self.size, offset, buf)
    }

    fn check(&self) -> Result<(), SourceError> {
        let gone = || SourceError::Vanished(self.path.clone());
        let metadata = std::fs::metadata(&self.path).map_err(|_| gone())?;
        if metadata.rdev() != self.device {
            return Err(gone());
        }
        // A descriptor of its own: its position is nobody else's.
        let now = File::open(&self.path).and_then(|mut file| file.seek(SeekFrom::End(0))).map_err(|_| gone())?;
        if now < self.size {
            return Err(SourceError::Shrank { path: self.path.clone(), before: self.size, now });
        }
        Ok(())
    }

    fn identity(&self) -> Option<Identity> {
        None
    }
}

/// What the kernel says in sysfs; a partition's is its disk's. Unknown: a sector, which every device can be asked for through the page cache.
fn logical_block_size(metadata: &Metadata) -> u32 {
    let device = format!("/sys/dev/block/{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
    ["queue/logical_block_size", "../queue/logical_block_size"]
        .iter()
        .find_map(|name| std::fs::read_to_string(Path::new(&device).join(name)).ok()?.trim().parse().ok())
        .unwrap_or(SECTOR as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A loop device over a file, detached on drop.
    struct Loop(String);

    impl Loop {
        fn over(file: &Path) -> Option<Loop> {
            let output = Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(file).output().ok()?;
            let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
            output.status.success().then_some(Loop(name))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["--detach", &self.0]).status();
        }
    }

    #[test]
    fn a_loop_device_is_read_to_its_last_sector() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        let bytes: Vec<u8> = (0..1_000_448).map(|at| (at / 512) as u8).collect();
        std::fs::write(&image, &bytes).unwrap();
        let Some(device) = Loop::over(&image) else {
            eprintln!("skipped: no loop device can be made here");
            return;
        };
        let source = BlockSource::open(Path::new(&device.0)).unwrap();
        assert_eq!(source.size(), ByteCount(bytes.len() as u64));
        assert_eq!(source.block_size(), 512);
        assert_eq!(source.next_data(0..1_000_448).unwrap(), Some(0..1_000_448));
        let mut read = vec![0; 1024];
        source.read_at(ByteOffset(1_000_448 - 1024), &mut read).unwrap();
        assert_eq!(read, bytes[bytes.len() - 1024..]);
        source.check().unwrap();
        assert!(source.identity().is_none());
        assert!(matches!(source.read_at(ByteOffset(1_000_448), &mut read), Err(SourceError::Shrank { .. })));
    }

    #[test]
    fn what_is_not_a_block_device_is_refused() {
        let refusal = BlockSource::open(Path::new("/dev/null")).unwrap_err().to_string();
        assert_eq!(refusal, "/dev/null is not a block device; for an image file write file:/dev/null");
    }
}
