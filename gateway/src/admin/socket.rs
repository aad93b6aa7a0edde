//! Requests over a Unix socket in the state directory, which only the daemon's user may open.
//!
//! One request per connection: a line of JSON in, lines of JSON out: any number of `{"report": …}`, then one `{"answer": …}` or `{"error": …}`.
//! A client that goes away cancels what it asked for.

use super::handlers::login_of;
use super::policy::MAX_REQUEST;
use super::{Admin, Answer, Report, Request};
use crate::access::Caller;
use serde::{Deserialize, Serialize};
use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Name of the socket in the state directory.
pub const NAME: &str = "admin.sock";
/// Reports that may wait for a slow client before older ones are dropped.
const REPORTS: usize = 8;
/// How long a client may take to say what it wants.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Longest path that fits a socket's address, less one: `sockaddr_un` has 108 bytes.
const MAX_PATH: usize = 107;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Report(Report),
    Answer(Box<Answer>),
    Error(String),
}

/// Why a request over the socket brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no daemon is running on this state directory")]
    NotRunning,
    /// The socket failed.
    #[error("the daemon's socket {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The daemon ended before it answered.
    #[error("the daemon ended before it answered; look at its log, and run the command again")]
    Cut,
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
}

/// Binds the socket. Whoever calls this owns the state, so a socket that is there was left by a crash.
pub(crate) fn bind(state: &Path) -> io::Result<UnixListener> {
    let path = state.join(NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder = File::open(state)?;
    let listener = UnixListener::bind(reachable(&folder, &path))?;
    // The folder is private, so nobody could connect before this either.
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A path for a socket's address: through the open folder where the plain one is too long.
fn reachable(folder: &File, path: &Path) -> PathBuf {
    match path.as_os_str().len() {
        0..=MAX_PATH => path.to_owned(),
        _ => PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd())),
    }
}

/// Serves requests until `stop`.
pub(crate) async fn serve(listener: UnixListener, admin: Admin, tasks: TaskTracker, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin socket cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (admin, stop) = (admin.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = serve_one(stream, admin, stop).await {
                tracing::debug!(%error, "a client of the admin socket went away");
            }
        });
    }
}

async fn serve_one(stream: tokio::net::UnixStream, admin: Admin, stop: CancellationToken) -> io::Result<()> {
    // The socket's mode lets nobody else in; who it is stands in the audit log.
    let caller =
        Caller::command_line(stream.peer_cred().map_or_else(|_| "unknown".into(), |peer| login_of(peer.uid())));
    let (read, mut write) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(read.take(MAX_REQUEST)).lines();
    let line = tokio::time::timeout(FIRST_WORD, lines.next_line()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let request: Request = match serde_json::from_str(&line.unwrap_or_default()) {
        Ok(request) => request,
        Err(error) => return send(&mut write, &Line::Error(format!("the request does not parse: {error}"))).await,
    };
    let (reports_in, mut reports) = mpsc::channel(REPORTS);
    let gone = CancellationToken::new();
    let (cancelled, stopping) = (gone.clone(), stop.clone());
    let work = move || {
        let mut report = |now| {
            let _slow_clients_miss_some = reports_in.try_send(now);
            !cancelled.is_cancelled() && !stopping.is_cancelled()
        };
        admin.handle_as(&caller, request, &mut report)
    };
    let _cancel_when_gone = gone.drop_guard();
    let mut work = tokio::task::spawn_blocking(work);
    let done = loop {
        tokio::select! {
            Some(report) = reports.recv() => send(&mut write, &Line::Report(report)).await?,
            done = &mut work => break done,
            // A client says nothing more; the end of its stream means that it is gone.
            _ = lines.next_line() => return Ok(()),
        }
    };
    let line = match done {
        Ok(Ok(answer)) => Line::Answer(Box::new(answer)),
        Ok(Err(error)) => Line::Error(error.to_string()),
        Err(error) => Line::Error(format!("the request ended unexpectedly: {error}")),
    };
    send(&mut write, &line).await
}

async fn send(write: &mut tokio::net::unix::OwnedWriteHalf, line: &Line) -> io::Result<()> {
    let mut json = serde_json::to_vec(line).expect("every line is plain JSON");
    json.push(b'\n');
    write.write_all(&json).await
}

/// Asks the daemon that runs on `state`. Blocks until it has answered.
pub fn ask(state: &Path, request: &Request, report: &mut dyn FnMut(Report)) -> Result<Answer, AskError> {
    let path = state.join(NAME);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning,
        _ => AskError::Io { path: path.clone(), source },
    };
    let folder = File::open(state).map_err(failed)?;
    let mut stream = UnixStream::connect(reachable(&folder, &path)).map_err(failed)?;
    let mut json = serde_json::to_vec(request).expect("every request is plain JSON");
    json.push(b'\n');
    stream.write_all(&json).map_err(failed)?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        // The daemon is trusted with the state, yet a broken one should not fill this process.
        lines.by_ref().take(256 << 20).read_line(&mut line).map_err(failed)?;
        match serde_json::from_str(&line) {
            Ok(Line::Report(now)) => report(now),
            Ok(Line::Answer(answer)) => return Ok(*answer),
            Ok(Line::Error(why)) => return Err(AskError::Refused(why)),
            Err(_) => return Err(AskError::Cut),
        }
    }
}
