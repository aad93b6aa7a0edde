//! Serves exports to whoever connects: accepts, limits, stops. What is agreed on is in `haggle`, what is done with requests in `transmit`.

mod haggle;
mod transmit;

use crate::export::Export;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use haggle::{Haggle, Then};

/// What may be connected to, by name; the empty name is what clients ask for that name none. A cloneable handle: what is put in or removed while it is
/// served counts for the next client.
#[derive(Clone, Default)]
pub struct Exports(Arc<Mutex<BTreeMap<String, Entry>>>);

#[derive(Clone)]
struct Entry {
    export: Arc<dyn Export>,
    removed: CancellationToken,
    /// Held by each of its connections, and by the entry itself.
    held: Arc<()>,
}

impl Exports {
    /// None yet.
    pub fn new() -> Exports {
        Exports::default()
    }

    /// Serves `export` as `name` from now on. One that had the name is removed.
    pub fn put(&self, name: impl Into<String>, export: Arc<dyn Export>) {
        let entry = Entry { export, removed: CancellationToken::new(), held: Arc::default() };
        if let Some(old) = self.lock().insert(name.into(), entry) {
            old.removed.cancel();
        }
    }

    /// Serves it no longer: requests that have been read are answered, then its connections are closed.
    pub fn remove(&self, name: &str) {
        if let Some(old) = self.lock().remove(name) {
            old.removed.cancel();
        }
    }

    /// Connections that have agreed on the export of this name and not ended; 0 where there is none of the name. A client may have several.
    pub fn connections(&self, name: &str) -> usize {
        self.lock().get(name).map_or(0, |entry| Arc::strong_count(&entry.held) - 1)
    }

    fn find(&self, name: &str) -> Option<Entry> {
        self.lock().get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all clients together, and one alone, may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; further ones are closed unheard. A client of four connections for each of 64 volumes fits.
    pub connections: usize,
    /// Requests of one connection that have been read and not answered; then it is read no further. QEMU keeps 16 in flight, `nbdcopy` 64.
    pub requests: usize,
    /// Bytes of payload, of requests and answers, that one connection may hold: two requests of the greatest length.
    pub bytes: usize,
    /// The same for all connections together: the ceiling of the server's memory.
    pub all_bytes: usize,
    /// Calls into exports at once. They wait for disks, so there may be more than cores.
    pub workers: usize,
    /// From connecting to the first request, TLS included.
    pub handshake: Duration,
    /// How long a payload or an answer may take on the socket, beside its bytes at [`SLOWEST`].
    pub stall: Duration,
}

/// Bytes per second that a client has to manage while it sends a payload or takes an answer: half a Mbit/s, a quarter of the thinnest line. Who is slower
/// would hold memory that others wait for.
pub const SLOWEST: u64 = 64 << 10;

/// How long requests that have been read may go on once the server stops or the export is removed.
const DRAIN: Duration = Duration::from_secs(10);

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 256,
            requests: 64,
            bytes: 64 << 20,
            all_bytes: 512 << 20,
            workers: 16,
            handshake: Duration::from_secs(30),
            stall: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The deadline for `bytes` on the socket.
    fn patience(&self, bytes: usize) -> Duration {
        self.stall + Duration::from_secs(bytes as u64 / SLOWEST)
    }
}

/// Where clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// `HOST:PORT`.
    Tcp(TcpListener),
    /// A socket file; who may open it may use it.
    Unix(UnixListener),
}

/// A connection, whatever it goes over.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Wire for T {}
type Stream = Box<dyn Wire>;

/// What connections share.
struct Shared {
    exports: Exports,
    limits: Limits,
    tls: Option<tokio_rustls::TlsAcceptor>,
    connections: Arc<Semaphore>,
    all_bytes: Arc<Semaphore>,
    workers: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Serves `exports` until `cancel`; then requests that have been read are answered, for at most ten seconds, and all is closed. With `tls`, nothing is said of
/// exports and nothing served before TLS; whether clients have to show a certificate is up to the configuration ([`crate::tls::server`]).
///
/// # Panics
/// With limits of which [`bytes`](Limits::bytes) or [`all_bytes`](Limits::all_bytes) hold no request of the greatest length, [`crate::proto::PAYLOAD`].
pub async fn serve(
    listener: Listener,
    exports: Exports,
    limits: Limits,
    tls: Option<Arc<rustls::ServerConfig>>,
    cancel: CancellationToken,
) {
    assert!(
        limits.bytes.min(limits.all_bytes) > crate::proto::PAYLOAD as usize + transmit::SMALL,
        "limits hold no request"
    );
    let shared = Arc::new(Shared {
        exports,
        tls: tls.map(Into::into),
        connections: Arc::new(Semaphore::new(limits.connections)),
        all_bytes: Arc::new(Semaphore::new(limits.all_bytes / transmit::GRAIN)),
        workers: Arc::new(Semaphore::new(limits.workers)),
        stop: cancel.clone(),
        limits,
    });
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match shared.connections.clone().try_acquire_owned() {
                Ok(permit) => {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        connection(stream, &peer, &shared).await;
                        drop(permit);
                    });
                }
                Err(_) => tracing::warn!(peer, "too many NBD connections: this one is closed"),
            },
            Err(error) => {
                // No descriptors left, most likely: asking again at once would take a core.
                tracing::warn!(%error, "could not accept an NBD connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn accept(listener: &Listener) -> io::Result<(Stream, String)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            keep_alive(&stream)?;
            Ok((Box::new(stream), peer.to_string()))
        }
        Listener::Unix(listener) => Ok((Box::new(listener.accept().await?.0), "unix".to_owned())),
    }
}

/// A client that says nothing is fine, one that is gone is not: the system asks after a minute, then five times in a minute.
fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &60)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &12)?;
    setsockopt(socket, sockopt::TcpKeepCount, &5)?;
    Ok(())
}

/// Why a connection ended otherwise than by the client's word.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Malformed(#[from] crate::proto::Malformed),
    #[error("the connection broke: {0}")]
    Socket(#[from] io::Error),
    #[error("the client took too long to {0}")]
    Slow(&'static str),
}

async fn connection(stream: Stream, peer: &str, shared: &Shared) {
    let haggling = timeout(shared.limits.handshake, haggle_over(stream, shared));
    let agreed = tokio::select! {
        () = shared.stop.cancelled() => return,
        agreed = haggling => agreed.unwrap_or(Err(Broken::Slow("agree on an export"))),
    };
    let ended = match agreed {
        Ok(Some((stream, agreed))) => transmit::run(stream, agreed, shared).await,
        Ok(None) => Ok(()),
        Err(broken) => Err(broken),
    };
    if let Err(error) = ended {
        tracing::info!(peer, %error, "an NBD connection ended early");
    }
}

/// What transmission starts from.
struct Agreed {
    entry: Entry,
    structured: bool,
    allocation: bool,
}

/// The handshake: nothing is read ahead, so what a client (or somebody on the line) sends plainly after STARTTLS goes to TLS, which refuses it.
async fn haggle_over(mut stream: Stream, shared: &Shared) -> Result<Option<(Stream, Agreed)>, Broken> {
    let mut haggle = Haggle::new(shared.exports.clone(), shared.tls.is_some());
    stream.write_all(&Haggle::greeting()).await?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags).await?;
    haggle.client_flags(u32::from_be_bytes(flags))?;
    loop {
        let mut head = [0; 16];
        stream.read_exact(&mut head).await?;
        let (option, len) = crate::proto::parse_option(&head)?;
        let mut data = vec![0; len as usize];
        stream.read_exact(&mut data).await?;
        let (replies, then) = haggle.answer(option, &data);
        stream.write_all(&replies).await?;
        stream.flush().await?;
        match (then, &shared.tls) {
            (Then::Go(agreed), _) => return Ok(Some((stream, agreed))),
            (Then::StartTls, Some(tls)) => stream = Box::new(tls.accept(stream).await?),
            (Then::More, _) => {}
            (Then::Close | Then::StartTls, _) => {
                let _ = stream.shutdown().await;
                return Ok(None);
            }
        }
    }
}
