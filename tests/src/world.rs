//! Real daemons in a world of their own: a folder, free ports, a gateway and edges as processes.
//!
//! Whatever a world starts, it ends: dropping it kills its own processes by their ids and removes its folder, unless the
//! test is failing or `SLUICE_KEEP` is set; then the folder with all logs stays and its place is printed. Waiting is for
//! events (a line of a log, an answer of `/health`, the end of a process); the limits only bound how long a failure takes.

mod daemon;
mod edge;
mod gateway;
mod metrics;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use daemon::{Daemon, Ended};
pub use edge::{Captured, Edge, EdgeOptions, HURRY};
pub use gateway::{Gateway, GatewayOptions};
pub use metrics::Metrics;

/// How long anything may take that takes seconds on a slow machine. Only failures wait this long.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `sluice-gateway`.
    pub gateway: PathBuf,
    /// `sluice-edge`.
    pub edge: PathBuf,
}

/// Why no world could be made, or something in it went wrong.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A program is not there.
    #[error(
        "{0} is not there: build it first (`cargo build -p sluice-edge -p sluice-gateway`), or name its folder in SLUICE_BIN_DIR"
    )]
    NoProgram(PathBuf),
    /// A program has no crash points.
    #[error("{0} was built without crash points: run the scenarios through `tests/run`, which builds them in")]
    NoCrashPoints(PathBuf),
    /// Something of the operating system failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was attempted.
        doing: String,
        /// The cause.
        source: io::Error,
    },
    /// A command ended with an error.
    #[error("`{command}` ended with {status}:\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it printed, both streams.
        output: String,
    },
    /// What was waited for did not happen.
    #[error("{what} did not happen within {} s; the last lines of {name}:\n{tail}", limit.as_secs())]
    Waited {
        /// What was waited for.
        what: String,
        /// Whose log it is.
        name: String,
        /// How long.
        limit: Duration,
        /// The end of the log.
        tail: String,
    },
    /// A daemon ended where it should have gone on.
    #[error("{name} ended ({status}) before {what}; its last lines:\n{tail}")]
    Died {
        /// Which.
        name: String,
        /// How it ended.
        status: String,
        /// What it should have done.
        what: String,
        /// The end of the log.
        tail: String,
    },
    /// An answer does not have the form that was agreed.
    #[error("{what}: {why}; it said: {text}")]
    Answer {
        /// Whose answer.
        what: String,
        /// What is wrong.
        why: String,
        /// The text.
        text: String,
    },
}

pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, WorldError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, WorldError> {
        self.map_err(|source| WorldError::Io { doing: what(), source })
    }
}

impl Binaries {
    /// In `SLUICE_BIN_DIR`, or beside the running program, or beside its folder (tests run in `deps/`).
    pub fn find() -> Result<Self, WorldError> {
        let running = std::env::current_exe().doing(|| "asking for this program's own path".into())?;
        let folder = match std::env::var_os("SLUICE_BIN_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => running
                .ancestors()
                .skip(1)
                .take(2)
                .find(|folder| folder.join("sluice-edge").exists())
                .unwrap_or_else(|| running.parent().expect("a program lies in a folder"))
                .to_path_buf(),
        };
        Self::within(&folder)
    }

    /// In this folder.
    pub fn within(folder: &Path) -> Result<Self, WorldError> {
        let there = |name: &str| {
            let path = folder.join(name);
            if path.exists() { Ok(path) } else { Err(WorldError::NoProgram(path)) }
        };
        Ok(Self { gateway: there("sluice-gateway")?, edge: there("sluice-edge")? })
    }
}

/// A folder in which daemons live, removed with everything in it at the end.
#[derive(Debug)]
pub struct World {
    folder: Option<tempfile::TempDir>,
    binaries: Binaries,
}

impl World {
    /// A new folder under the system's temporary folder (`TMPDIR`).
    pub fn new() -> Result<Self, WorldError> {
        Self::with(Binaries::find()?, &std::env::temp_dir())
    }

    /// A new folder under `parent`, for these programs.
    pub fn with(binaries: Binaries, parent: &Path) -> Result<Self, WorldError> {
        let folder = tempfile::Builder::new()
            .prefix("sluice-world-")
            .tempdir_in(parent)
            .doing(|| format!("making a folder in {}", parent.display()))?;
        Ok(Self { folder: Some(folder), binaries })
    }

    /// The world's folder.
    pub fn path(&self) -> &Path {
        self.folder.as_ref().expect("taken only by drop").path()
    }

    /// A gateway, initialised and not yet running.
    pub fn gateway(&self, options: GatewayOptions) -> Result<Gateway, WorldError> {
        let folder = self.path().join(&options.name);
        Gateway::init(&self.binaries.gateway, &folder, options)
    }

    /// An edge for `site`, configured and neither enrolled nor running.
    pub fn edge(&self, site: &str, options: EdgeOptions) -> Result<Edge, WorldError> {
        Edge::configure(&self.binaries.edge, &self.path().join(format!("edge-{site}")), site, options)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("SLUICE_KEEP").is_some() {
            let kept = self.folder.take().map(tempfile::TempDir::keep);
            eprintln!("everything of this run is kept in {}", kept.unwrap_or_default().display());
        }
    }
}

/// Refuses a program that would pass by its crash points: it would be waited for in vain. One that has them names their variable.
fn must_crash(program: &Path) -> Result<(), WorldError> {
    const VARIABLE: &[u8] = b"SLUICE_CRASH_AT";
    let bytes = std::fs::read(program).doing(|| format!("reading {}", program.display()))?;
    match bytes.windows(VARIABLE.len()).any(|window| window == VARIABLE) {
        true => Ok(()),
        false => Err(WorldError::NoCrashPoints(program.to_path_buf())),
    }
}

/// A UDP address of the loopback that nobody uses at the moment.
pub fn free_udp() -> Result<SocketAddr, WorldError> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).doing(|| "looking for a free UDP port".into())?;
    socket.local_addr().doing(|| "asking for a socket's address".into())
}

/// A TCP address of the loopback that nobody uses at the moment.
pub fn free_tcp() -> Result<SocketAddr, WorldError> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing(|| "looking for a free TCP port".into())?;
    socket.local_addr().doing(|| "asking for a socket's address".into())
}

/// Runs a command to its end and gives its standard output; an error shows everything it printed.
pub fn run(mut command: Command) -> Result<String, WorldError> {
    let line = format!("{command:?}");
    let output = command.output().doing(|| format!("running {line}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let said = stdout + &String::from_utf8_lossy(&output.stderr);
    Err(WorldError::Command { command: line, status: output.status.to_string(), output: said })
}
