//! What uses a volume is frozen while its moment is taken, and thawed whatever happens.
//!
//! A volume may have a *script*: called with `freeze` it makes whoever writes to the volume finish and wait (fsfreeze, a database's own way), with `thaw` it lets them go on. Both calls
//! are made by a process of its own, the [`guard`], and not by the daemon, so that the thaw comes also when the daemon is killed in between.
//!
//! ```text
//!   daemon ── starts ──► guard ── `SCRIPT freeze` ──► "frozen"
//!     holds the moment      │ thaws when it is told to, when the daemon is gone, when the time is up; first the freeze is ended if it still runs
//!   daemon ── "thaw" ─────► │── `SCRIPT thaw` ───────► "thawed", or why not
//! ```

pub mod guard;

use nix::unistd::geteuid;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long something may be frozen: what answers people stays silent for so long at most.
pub const DEFAULT_WITHIN: Duration = Duration::from_secs(30);
/// The bounds of what may be set.
pub const WITHIN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// Bytes of one line that the guard says at most.
const LONGEST: u64 = 16 << 10;

/// Why nothing was captured: what uses the volume could not be frozen or thawed as it should.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The script is none that may be run.
    #[error("the script {} cannot be used to freeze and thaw: {why}", script.display())]
    Script {
        /// The script.
        script: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// It did not freeze.
    #[error("`{} freeze` failed: {why}; it was thawed, and nothing was captured", script.display())]
    Freeze {
        /// The script.
        script: PathBuf,
        /// What it said.
        why: String,
    },
    /// It did not thaw.
    #[error("`{} thaw` failed: {why}; NOTHING MAY BE WRITTEN ON THIS VOLUME UNTIL SOMEBODY RUNS IT", script.display())]
    Thaw {
        /// The script.
        script: PathBuf,
        /// What it said.
        why: String,
    },
    /// It was thawed before the moment was held.
    #[error(
        "the moment could not be held within {} s, and `{} thaw` was run without it; nothing was captured (`[capture] freeze_within` says how long)",
        within.as_secs(),
        script.display()
    )]
    Late {
        /// The script.
        script: PathBuf,
        /// How long it may be frozen.
        within: Duration,
    },
    /// The guard could not be started or does not answer.
    #[error("the process that thaws cannot be used: {0}; nothing was frozen that it does not thaw")]
    Guard(String),
}

/// Says why a script may not be run: the daemon would lend its rights to whoever may change it.
pub fn check(script: &Path) -> Result<(), FreezeError> {
    let refuse = |why: String| Err(FreezeError::Script { script: script.into(), why });
    if !script.is_absolute() {
        return refuse("it needs an absolute path, because the daemon runs in another directory".into());
    }
    let found = match std::fs::metadata(script) {
        Ok(found) => found,
        Err(error) => return refuse(format!("{error}; give the path of a program")),
    };
    let mode = found.permissions().mode();
    if !found.is_file() || mode & 0o111 == 0 {
        return refuse("it is no program; `chmod 755` makes it one".into());
    }
    let us = geteuid().as_raw();
    if mode & 0o022 != 0 || !(found.uid() == 0 || found.uid() == us) {
        return refuse("others may change it; it has to belong to root or the daemon's user, and `chmod 755` takes the rights of others away".into());
    }
    Ok(())
}

/// Something that is frozen. Dropped, it is thawed, without anybody hearing how that went; that takes [`guard::LONGEST_THAW`] at most.
pub struct Frozen {
    script: PathBuf,
    within: Duration,
    guard: Child,
    line: BufReader<UnixStream>,
}

impl Frozen {
    /// Runs `script freeze` for `volume`, and returns when it is frozen. Blocks, `within` at most and what a thaw takes.
    pub fn begin(script: &Path, volume: &str, within: Duration) -> Result<Frozen, FreezeError> {
        check(script)?;
        let failed = |error: std::io::Error| FreezeError::Guard(error.to_string());
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        // Longer than the guard takes in the worst case: it has its own limits.
        ours.set_read_timeout(Some(within + guard::LONGEST_THAW + Duration::from_secs(5))).map_err(failed)?;
        // A group of its own, so that Ctrl-C at a terminal reaches the daemon only.
        let guard = Command::new("/proc/self/exe")
            .arg("thaw-guard")
            .arg("--script")
            .arg(script)
            .args(["--volume", volume, "--within-ms", &within.as_millis().to_string()])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut frozen = Frozen { script: script.into(), within, guard, line: BufReader::new(ours) };
        match frozen.hear()? {
            (word, _) if word == "frozen" => Ok(frozen),
            (word, why) if word == "failed" => Err(FreezeError::Freeze { script: script.into(), why }),
            (word, why) => Err(FreezeError::Guard(format!("it said `{word} {why}`"))),
        }
    }

    /// Runs `script thaw`, and returns when that is done.
    pub fn thaw(mut self) -> Result<(), FreezeError> {
        // A guard whose time was up has hung up, and has said so before.
        let _ = self.line.get_mut().write_all(b"thaw\n");
        let (word, why) = self.hear()?;
        match word.as_str() {
            "thawed" => Ok(()),
            "late" => Err(FreezeError::Late { script: self.script.clone(), within: self.within }),
            "stuck" => Err(FreezeError::Thaw { script: self.script.clone(), why }),
            _ => Err(FreezeError::Guard(format!("it said `{word} {why}`"))),
        }
    }

    /// A word of the guard's, and what follows it on its line.
    fn hear(&mut self) -> Result<(String, String), FreezeError> {
        let mut line = Vec::new();
        let read = (&mut self.line).take(LONGEST).read_until(b'\n', &mut line);
        match read {
            Ok(0) => Err(FreezeError::Guard("it ended without a word".into())),
            Ok(_) => {
                let line = String::from_utf8_lossy(&line);
                let (word, more) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
                Ok((word.to_owned(), more.to_owned()))
            }
            Err(error) => Err(FreezeError::Guard(error.to_string())),
        }
    }
}

impl Drop for Frozen {
    /// Waits until it is thawed, so that the next capture begins with something that is not frozen.
    fn drop(&mut self) {
        let _ = self.line.get_ref().shutdown(Shutdown::Both);
        let _ = self.guard.wait();
    }
}
