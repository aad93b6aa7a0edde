//! What the part of an appliance that has root and its daemon say to each other, as small files of JSON.
//!
//! | file | written by | says |
//! |---|---|---|
//! | `/run/sluice/system.json` | `sluice-box`, at the start and after a confirmation | what runs |
//! | `/run/sluice/install.json` | `sluice-box install` | how far it is with a release, or why not |
//! | `STATE/upgrade/ready` | the daemon | this release lies beside it, whole: install it |
//!
//! The one with root believes nothing of the last but where to look ([`crate::install`]).

use crate::slots::Slot;
use nix::fcntl::OFlag;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// Bytes of such a file at most.
const MAX_REPORT: u64 = 16 << 10;

/// What runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemReport {
    /// `edge` or `gateway`.
    pub role: String,
    /// The running release's version.
    pub version: String,
    /// Its sequence.
    pub sequence: u64,
    /// Its root hash, 64 hexadecimal digits.
    pub release: String,
    /// The slot that it was started from.
    pub slot: Slot,
    /// Whether it is confirmed, or on trial still.
    pub confirmed: bool,
    /// The version in the other slot, where that one was confirmed once.
    pub previous: Option<String>,
    /// The release in the other slot, where that one was tried and left: root hash.
    pub left: Option<String>,
    /// Whether all is said: before the running release is confirmed (again), nobody has looked how the last trial ended.
    pub settled: bool,
    /// How the last trial ended.
    pub last: Option<LastTrial>,
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTrial {
    /// The release's root hash.
    pub release: String,
    /// Its version.
    pub version: String,
    /// Whether it was confirmed; otherwise the appliance went back by itself.
    pub confirmed: bool,
    /// Why it went back.
    pub why: String,
    /// When, Unix seconds.
    pub at: u64,
}

/// How an installation stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallReport {
    /// The release's root hash; empty where it could not be read.
    pub release: String,
    /// How it stands.
    pub state: InstallState,
}

/// How an installation stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstallState {
    /// Being written, then read back.
    Running {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// On trial from the next start on: at once, or, where only a passphrase opens data, when somebody at the box starts it anew.
    OnTrial,
    /// It could not be.
    Failed {
        /// Why.
        why: String,
        /// Whether the same release may come out right when it is brought anew, coded against nothing.
        bring_whole: bool,
    },
}

/// A release lies beside this file, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its root hash.
    pub release: String,
    /// Whether its parts are coded against the running release.
    pub against_running: bool,
}

/// Reads a file; `None` where there is none.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match open_plain(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_REPORT + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_REPORT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    serde_json::from_slice(&text).map(Some).map_err(io::Error::from)
}

/// Opens a file that somebody with fewer rights may have put there: nothing that leads elsewhere, and nothing that makes who reads it wait.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file")),
    }
}

/// Writes a file that everybody may read, whole or not at all.
pub fn write<T: Serialize>(path: &Path, report: &T) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let new = path.with_added_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
    file.write_all(&serde_json::to_vec(report)?)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_elsewhere_or_never_ends_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link, pipe) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("pipe"));
        fs::write(&real, "{}").unwrap();
        assert!(open_plain(&real).is_ok());
        std::os::unix::fs::symlink(&real, &link).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open_plain(&link).is_err());
        assert!(open_plain(&pipe).is_err());
    }

    #[test]
    fn what_is_written_is_read_and_nothing_endless_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("install.json");
        assert_eq!(read::<InstallReport>(&path).unwrap(), None);
        let state = InstallState::Failed { why: "no room".into(), bring_whole: true };
        let report = InstallReport { release: "aa".into(), state };
        write(&path, &report).unwrap();
        assert_eq!(read(&path).unwrap(), Some(report));
        fs::write(&path, " ".repeat(MAX_REPORT as usize + 1)).unwrap();
        assert!(read::<InstallReport>(&path).is_err());
    }
}
