//! Secrets that programs read from a file.

use crate::files::{FileError, failed};
use nix::unistd::{Gid, Uid};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A secret in a file in memory that only one user can read; erased when it is dropped.
pub(crate) struct SecretFile {
    path: PathBuf,
    file: File,
    length: usize,
}

impl SecretFile {
    /// In `folder`, which lies in memory; for `owner` where there is one, else for who runs this.
    pub(crate) fn put(
        folder: &Path,
        name: &str,
        secret: &str,
        owner: Option<(Uid, Gid)>,
    ) -> Result<SecretFile, FileError> {
        let path = folder.join(format!("{name}.{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed("write", &path))?;
        let mut file = SecretFile { path, file, length: secret.len() };
        if let Some((user, group)) = owner {
            let (user, group) = (Some(user.as_raw()), Some(group.as_raw()));
            std::os::unix::fs::fchown(&file.file, user, group).map_err(failed("give away", &file.path))?;
        }
        file.file.write_all(secret.as_bytes()).map_err(failed("write", &file.path))?;
        Ok(file)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        // It lies in memory: what is written over is gone.
        let _ = self.file.rewind().and_then(|()| self.file.write_all(&vec![0; self.length]));
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secrets_file_is_for_one_user_and_is_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let file = SecretFile::put(folder.path(), "token", "sluice1.SECRET", None).unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "sluice1.SECRET");
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        fs::hard_link(file.path(), folder.path().join("kept")).unwrap();
        drop(file);
        assert_eq!(fs::read(folder.path().join("kept")).unwrap(), [0; 14]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
