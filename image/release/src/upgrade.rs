//! An upgrade of this machine, from what its daemon brought or from a stick: [`crate::install`] with everything around it, but for the start of the machine.

use crate::install::{Allowed, InstallError, Source, install};
use crate::machine::{Machine, MachineError};
use crate::report::{self, InstallReport, InstallState, Ready};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use wire::release::Manifest;

/// The file in which the daemon says that a release lies beside it.
const READY: &str = "ready";
/// Bytes between two words about progress.
const TELL_EVERY: u64 = 8 << 20;

/// Why there was no upgrade.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// This machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The release, or the disk.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// A small file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl UpgradeError {
    fn brings_whole(&self) -> bool {
        matches!(self, UpgradeError::Install(error) if error.is_of_parts())
    }
}

/// Where a release is.
#[derive(Clone, Copy, Debug)]
pub enum From<'a> {
    /// In the daemon's folder, with a file that says so.
    Daemon(&'a Path),
    /// In a bundle, on a stick; whether somebody at the box said that it may be an older one.
    Stick(&'a Path, Allowed),
}

/// Puts a release on trial. The machine has to be started anew for it. `say` is told of progress: bytes done, bytes in all.
///
/// # Errors
/// What runs goes on running, and stays what is started.
pub fn upgrade(machine: &Machine, from: From<'_>, say: &mut dyn FnMut(u64, u64)) -> Result<Manifest, UpgradeError> {
    let done = attempt(machine, from, say);
    let report = match &done {
        Ok(manifest) => InstallReport { release: manifest.id.hex(), state: InstallState::OnTrial },
        Err(error) => {
            let state = InstallState::Failed { why: error.to_string(), bring_whole: error.brings_whole() };
            InstallReport { release: named(from), state }
        }
    };
    let path = machine.install_report();
    report::write(&path, &report).map_err(|source| UpgradeError::File { path, source })?;
    if let From::Daemon(folder) = from {
        // Only now: after a power cut it is done again.
        let path = folder.join(READY);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(UpgradeError::File { path, source });
            }
            _ => {}
        }
    }
    done
}

/// The release that it is about, as far as the daemon said it; nothing of one on a stick, which is none of the daemon's business.
fn named(from: From<'_>) -> String {
    let From::Daemon(folder) = from else { return String::new() };
    let ready = report::read::<Ready>(&folder.join(READY)).ok().flatten();
    ready.map_or_else(String::new, |ready| ready.release)
}

fn attempt(machine: &Machine, from: From<'_>, say: &mut dyn FnMut(u64, u64)) -> Result<Manifest, UpgradeError> {
    let system = machine.system()?;
    let release = named(from);
    let (source, allowed) = match from {
        From::Daemon(folder) => {
            let path = folder.join(READY);
            let ready = report::read::<Ready>(&path).and_then(|ready| ready.ok_or(io::ErrorKind::NotFound.into()));
            let ready = ready.map_err(|source| UpgradeError::File { path, source })?;
            (Source::Parts { folder, against_running: ready.against_running }, Allowed::Newer)
        }
        From::Stick(path, allowed) => (Source::Bundle(path), allowed),
    };
    let report_path = machine.install_report();
    let mut told = 0;
    let mut progress = |done: u64, total: u64| {
        if done >= told + TELL_EVERY || done == total {
            told = done;
            say(done, total);
            let report = InstallReport { release: release.clone(), state: InstallState::Running { done, total } };
            let _the_next_says_more = report::write(&report_path, &report);
        }
    };
    // Before the slot is on trial: what is said of a trial is never of another one.
    machine.forget_last_trial().map_err(|(path, source)| UpgradeError::File { path, source })?;
    Ok(machine.with_writable_boot(|| install(&system, &source, allowed, &mut progress))??)
}
