//! Files that are there whole or not at all, also if the power goes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// An operation on a file that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", .path.display())]
pub(crate) struct FileError {
    pub(crate) what: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

/// For `map_err`: what was attempted on which path.
pub(crate) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { what, path, source }
}

/// Puts `bytes` at `path`, with `mode` and the group of this id, if one is given. Written beside, synced, renamed, the folder synced.
pub(crate) fn put(path: &Path, bytes: &[u8], mode: u32, group: Option<u32>) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        // Secrets may be in it: nobody else can ever open it, whatever the umask is.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        if group.is_some() {
            std::os::unix::fs::fchown(&file, None, group)?;
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(failed("write", path))?;
    sync_folder(folder)
}

/// What was made, renamed or removed in a folder stays so from here on.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

/// Reads a file of at most `most` bytes; one that is larger is refused before it is read.
pub(crate) fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::other(format!("it has more than {most} bytes")));
        }
        Ok(bytes)
    };
    read().map_err(failed("read", path))
}

/// The first `most` bytes of a small file as text without control characters; nothing if it cannot be read.
pub(crate) fn words_of(path: &Path, most: u64) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(most).read_to_end(&mut bytes).ok()?;
    let text = plain(String::from_utf8_lossy(&bytes).trim());
    (!text.is_empty()).then_some(text)
}

/// A text for a screen: control characters, which a terminal would obey, are spaces.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_with_its_mode_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        put(&path, b"one", 0o644, None).unwrap();
        put(&path, b"two", 0o640, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_too_large_is_refused_and_a_screen_gets_no_escapes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"a\x1b[2Jb\n").unwrap();
        assert_eq!(words_of(&path, 100).unwrap(), "a [2Jb");
        assert!(read_at_most(&path, 3).unwrap_err().to_string().contains("more than 3 bytes"));
        assert_eq!(words_of(&folder.path().join("none"), 100), None);
    }
}
