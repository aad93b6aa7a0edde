//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Ending of a file that is being written; one that is found at start was left by a crash and means nothing.
pub(crate) const UNFINISHED: &str = "unfinished";

/// Writes `path` so that after a crash at any moment it holds the old bytes or the new ones: write beside it, fsync, rename, fsync the directory.
/// Only the owner may read it.
pub(crate) fn write_whole(path: &Path, pieces: &[&[u8]]) -> io::Result<()> {
    let beside = path.with_added_extension(UNFINISHED);
    let written = write_durably(&beside, pieces).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // What is left would only take room, which may be what is missing.
        let _ = fs::remove_file(&beside);
    }
    written?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

fn write_durably(path: &Path, pieces: &[&[u8]]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    pieces.iter().try_for_each(|piece| file.write_all(piece))?;
    file.sync_all()
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Bytes that an ordinary user may still write to the file system of `path`, and its size.
pub(crate) fn disk(path: &Path) -> io::Result<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok((stat.blocks_available() * stat.fragment_size(), stat.blocks() * stat.fragment_size()))
}

/// A directory for its owner alone, with those above it.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether the disk is full or over quota: a state that ends by itself when there is room.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A new file of ours alone that has no name any more: its room is free again when the last who holds it closes it, whatever happens. `path` is the name
/// that it has for a moment.
pub(crate) fn nameless(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_whole(&path, &[b"old and longer"]).unwrap();
        write_whole(&path, &[b"ne", b"w"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::create_dir(&path).unwrap();
        assert!(write_whole(&path, &[b"x"]).is_err(), "a directory is in the way");
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
