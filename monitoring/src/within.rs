//! HTTP for whoever may connect, within bounds: so many connections at a time, none that stands still, none that outlives a shutdown.
//!
//! `/metrics`, the gateway's pages and the edge's page are all served by [`serve_within`]; what differs is the listener below it (TCP, or TLS over it) and the
//! [`Limits`].

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What those who connect may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// A connection to which nothing could be written for so long is cut. So neither a request that never ends, nor an answer that nobody reads, nor an idle
    /// connection keeps its place. Handlers must answer within it, and streams of events say something within it.
    pub silence: Duration,
    /// How long open connections may take to end after the shutdown was asked for.
    pub drain: Duration,
}

/// Who is at the other end of a connection; handlers get it as `ConnectInfo<Peer>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

impl<L: Listener<Addr = SocketAddr>> Connected<IncomingStream<'_, Limited<L>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Limited<L>>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

/// Serves `router` until `shutdown` completes and the open connections have ended, which takes [`Limits::drain`] at most.
pub async fn serve_within<L>(
    listener: L,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()>
where
    L: Listener<Addr = SocketAddr>,
{
    let (asked, drain) = oneshot::channel();
    let shutdown = async move {
        shutdown.await;
        // Nobody hears it when serving has ended already.
        let _ = asked.send(());
    };
    let (room, cut) = (Arc::new(Semaphore::new(limits.connections)), CancellationToken::new());
    let limited = Limited { listener, room, silence: limits.silence, cut: cut.clone() };
    let service = router.into_make_service_with_connect_info::<Peer>();
    let mut serving = pin!(async { axum::serve(limited, service).with_graceful_shutdown(shutdown).await });
    let deadline = async {
        if drain.await.is_err() {
            return std::future::pending().await;
        }
        sleep(limits.drain).await;
    };
    tokio::select! {
        served = &mut serving => return served,
        () = deadline => cut.cancel(),
    }
    tracing::debug!("cut the HTTP connections that were still open {:?} after the shutdown", limits.drain);
    serving.await
}

/// A listener that accepts no more connections than there is room for.
pub struct Limited<L> {
    listener: L,
    room: Arc<Semaphore>,
    silence: Duration,
    cut: CancellationToken,
}

impl<L: Listener<Addr = SocketAddr>> Listener for Limited<L> {
    type Io = Seat<L::Io>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Seat<L::Io>, SocketAddr) {
        let permit = self.room.clone().acquire_owned().await.expect("the semaphore is never closed");
        // axum's own accept waits and tries again when the process is out of file descriptors.
        let (stream, peer) = self.listener.accept().await;
        let cut = Box::pin(self.cut.clone().cancelled_owned());
        (Seat { stream, cut, silence: self.silence, patience: Box::pin(sleep(self.silence)), _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when it is cut or stands still, and holds its permit until it is dropped.
pub struct Seat<S> {
    stream: S,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    silence: Duration,
    /// Ends when nothing was written for too long.
    patience: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl<S: Unpin> Seat<S> {
    /// The stream, unless the connection is cut or stands still; then both reading and writing fail, and wake up to do so.
    fn open(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut S>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match self.patience.as_mut().poll(cx) {
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Seat<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.open(cx)?.poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Seat<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.open(cx)?.poll_write(cx, bytes);
        if matches!(written, Poll::Ready(Ok(1..))) {
            let until = Instant::now() + self.silence;
            self.patience.as_mut().reset(until);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open(cx)?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::ConnectInfo;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_connection_that_stands_still_is_cut_and_one_that_is_answered_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let who = get(|ConnectInfo(Peer(peer)): ConnectInfo<Peer>| async move { peer.to_string() });
        let silence = Duration::from_millis(300);
        let limits = Limits { connections: 1, silence, drain: Duration::from_secs(1) };
        let stop = CancellationToken::new();
        let router = Router::new().route("/who", who);
        let served = tokio::spawn(serve_within(listener, router, limits, stop.clone().cancelled_owned()));

        // One place: a client that never ends its request gives it back.
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /who HT").await.unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            next.write_all(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut answer = vec![0; 1024];
            let len = next.read(&mut answer).await.unwrap();
            let text = String::from_utf8_lossy(&answer[..len]).into_owned();
            assert!(text.ends_with(&next.local_addr().unwrap().to_string()), "{text}");
            // Longer in all than the silence that is allowed: each answer begins it anew.
            tokio::time::sleep(silence / 2).await;
        }
        assert!(matches!(slow.read(&mut [0; 64]).await, Ok(0) | Err(_)), "the slow one was cut");
        stop.cancel();
        served.await.unwrap().unwrap();
    }
}
