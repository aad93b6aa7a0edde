//! Files that are there whole or not at all.

use data_encoding::HEXLOWER;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A file operation failed: what was attempted on which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}")]
pub struct FileError {
    /// `read`, `write`, …
    pub what: &'static str,
    /// Which file.
    pub path: PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn on(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError { what, path, source }
    }

    /// Whether the disk is full or over quota: a state that ends by itself.
    pub(crate) fn is_gone(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the disk is full or over quota.
    pub fn is_no_room(&self) -> bool {
        is_no_room(&self.source)
    }
}

/// Writes `path` so that after a crash at any moment it holds the old bytes or the new ones, readable by its owner alone.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let beside = path.with_added_extension("unfinished");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_folder_of(path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&beside); // gives the room back when the disk is full
        FileError { what: "write", path: path.to_owned(), source }
    })
}

/// Reads a whole file that is expected to be small.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(FileError::on("read", path))
}

/// The secret of a file that begins with a magic and goes on in hexadecimal digits, made by `make` when there is no file; `None`: the file is something else.
pub(crate) fn secret_of(
    path: &Path,
    magic: &str,
    make: impl FnOnce() -> Zeroizing<Vec<u8>>,
) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    if !path.exists() {
        let text = Zeroizing::new(format!("{magic}{}\n", HEXLOWER.encode(&make())));
        write_private(path, text.as_bytes())?;
    }
    let bytes = Zeroizing::new(read(path)?);
    let hex = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_prefix(magic));
    Ok(hex.and_then(|hex| HEXLOWER.decode(hex.trim().as_bytes()).ok()).map(Zeroizing::new))
}

/// Removes a file durably; that it is gone already is no error.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_folder_of(path)).map_err(FileError::on("remove", path)),
    }
}

/// Overwrites a file, syncs that, and removes it; that it is gone already is no error.
///
/// What a disk or a file system keeps of the blocks that were overwritten is out of reach: the key should lie on an encrypted disk.
pub(crate) fn destroy(path: &Path) -> Result<(), FileError> {
    let overwrite = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(1 << 20);
        file.write_all(&vec![0; len])?;
        file.sync_all()
    };
    match overwrite() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        overwritten => overwritten.map_err(FileError::on("overwrite", path))?,
    }
    remove(path)
}

/// Removes a folder and all in it, durably; that it is gone already is no error.
pub(crate) fn remove_folder(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_folder_of(path)).map_err(FileError::on("remove", path)),
    }
}

/// A folder for its owner alone, with those above it.
pub(crate) fn private_folder(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::on("make the folder", path))
}

/// Makes the names in a file's folder durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Whether the disk is full or over quota.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Bytes that an ordinary user may still write to the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// Bytes of the file system of `path`.
pub(crate) fn disk_bytes(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks() * stat.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private(&path, b"old and longer").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        let linked = dir.path().join("linked");
        fs::hard_link(&path, &linked).unwrap();
        destroy(&path).unwrap();
        assert_eq!(fs::read(&linked).unwrap(), [0; 3], "it was overwritten in its place");
        destroy(&path).unwrap();
        remove(&path).unwrap();
        let missing = read(&path).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read /") && missing.contains("No such file"), "{missing}");
    }
}
