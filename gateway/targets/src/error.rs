//! Why a target cannot be used, and whether trying again helps.

use dedupe::ByteCount;
use nix::errno::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// See the module's documentation.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The system refused.
    #[error("cannot {what} {path}: {source}{}", remedy(source))]
    Io {
        /// `open`, `write`, …
        what: &'static str,
        /// Which target.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is neither a file nor a block device.
    #[error("{0} is neither a regular file nor a block device; name one of those, or a file that is not there yet")]
    Kind(PathBuf),
    /// The device is smaller than the volume.
    #[error("{path} has {has} bytes and the volume has {needs}; choose a larger device")]
    TooSmall {
        /// Which device.
        path: PathBuf,
        /// Its size.
        has: u64,
        /// The volume's.
        needs: ByteCount,
    },
    /// Another run is writing it.
    #[error("{0} is being written by another run; wait for it, or stop it")]
    Busy(PathBuf),
    /// A program that does the work failed.
    #[error("`{program}` failed: {said}")]
    Program {
        /// Which, with its first word of arguments.
        program: String,
        /// What it said, in a line.
        said: String,
    },
    /// Credentials cannot be read or lack something.
    #[error("the credentials from {from}: {why}")]
    Credentials {
        /// Which file, or the environment.
        from: String,
        /// What is wrong.
        why: String,
    },
    /// A service cannot be reached, or answers nothing that can be used.
    #[error("{service} does not answer `{asked}` after {attempts} attempts: {said}")]
    Unreachable {
        /// Which service.
        service: String,
        /// What was asked for: method and path, no query.
        asked: String,
        /// How often.
        attempts: u32,
        /// What came instead.
        said: String,
    },
    /// A service refused.
    #[error("{service} refused `{asked}` with {status}: {said}{}", advice(*status))]
    Refused {
        /// Which service.
        service: String,
        /// What was asked for: method and path, no query.
        asked: String,
        /// The HTTP status.
        status: u16,
        /// What it said, in a line.
        said: String,
    },
    /// The service answered something that it must not.
    #[error("{service} answered `{asked}` with something else than expected: {said}")]
    Answer {
        /// Which service.
        service: String,
        /// What was asked for.
        asked: String,
        /// What is wrong with it.
        said: String,
    },
    /// The target cannot hold this volume.
    #[error("{0}")]
    Unfit(String),
    /// Something stands in the way that a person has to look at.
    #[error("{0}")]
    Conflict(String),
    /// Asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same again later: it passes by itself.
    Later,
    /// Not before a person did what the message says.
    Never,
}

impl TargetError {
    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        match self {
            TargetError::Unreachable { .. } | TargetError::Busy(_) | TargetError::Cancelled => Retry::Later,
            TargetError::Refused { status, .. } if is_passing(*status) => Retry::Later,
            _ => Retry::Never,
        }
    }

    /// Whether the credentials are what is wrong: missing, expired or without a right.
    pub fn is_credentials(&self) -> bool {
        matches!(self, TargetError::Credentials { .. } | TargetError::Refused { status: 401 | 403, .. })
    }

    /// Whether a service said that there is no such thing.
    pub fn is_missing(&self) -> bool {
        matches!(self, TargetError::Refused { status: 404 | 410, .. })
    }

    pub(crate) fn io(what: &'static str, path: &Path) -> impl Fn(io::Error) -> TargetError + use<> {
        let path = path.to_owned();
        move |source| TargetError::Io { what, path: path.clone(), source }
    }
}

/// Whether a status says "not now" and not "no".
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(code) if code == Errno::EBUSY as i32 => "; it is mounted or used by something else: release it first",
        Some(code) if code == Errno::ENOSPC as i32 => "; make room and run it again",
        _ => "",
    }
}

fn advice(status: u16) -> &'static str {
    match status {
        401 => "; the credentials are wrong or expired: put new ones in their place, then run `target test`",
        403 => "; the credentials lack this right: ask the cloud's administrator for it, then run `target test`",
        404 => "; it is gone, or was never there: look at the cloud, then run it again",
        409 => "; something else is working on it there: look at the cloud, then run it again",
        413 => "; a quota of the cloud is used up: raise it or remove what is not needed there, then run it again",
        429 => "; the cloud slows us down: set a lower `--requests` on the target",
        500..=599 => "; the service is ill: run it again when it is well",
        _ => "",
    }
}
