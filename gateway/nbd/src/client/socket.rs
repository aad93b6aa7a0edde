//! A blocking socket in two halves, each with its deadlines, with or without TLS between.
//!
//! With TLS the halves share rustls' connection behind a lock that nobody holds while he waits for the socket: the reader takes ciphertext off the
//! socket first and decrypts it then, the writer encrypts first and sends then. So neither can keep the other from getting on.

use super::Address;
use rustls::ClientConnection;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects within `patience`, every address of a name together.
    pub(super) fn connect(address: &Address, patience: Duration) -> io::Result<Socket> {
        let (address, deadline) = (address.clone(), now() + patience);
        let (tell, told) = mpsc::channel();
        // Neither looking up a name nor a socket file takes a deadline, so another thread waits; one that the system lets hang ends when it lets go.
        std::thread::spawn(move || {
            let _ = tell.send(match &address {
                Address::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
                Address::Tcp(host) => connect_tcp(host, deadline),
            });
        });
        told.recv_timeout(patience).unwrap_or_else(|_| Err(late()))
    }

    pub(super) fn try_clone(&self) -> io::Result<Socket> {
        match self {
            Socket::Tcp(stream) => stream.try_clone().map(Socket::Tcp),
            Socket::Unix(stream) => stream.try_clone().map(Socket::Unix),
        }
    }

    /// Ends all waiting on it, of every clone.
    pub(super) fn shutdown(&self) {
        // It may be gone already, which is as good.
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn reads_within(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_read_timeout(patience),
            Socket::Unix(stream) => stream.set_read_timeout(patience),
        }
    }

    fn writes_within(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_write_timeout(patience),
            Socket::Unix(stream) => stream.set_write_timeout(patience),
        }
    }

    fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(into),
            Socket::Unix(stream) => stream.read(into),
        }
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }
}

fn connect_tcp(host: &str, deadline: Instant) -> io::Result<Socket> {
    let mut failed = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(Socket::Tcp(stream));
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

type Tls = Arc<Mutex<ClientConnection>>;

/// What comes from the server.
pub(super) struct Incoming {
    socket: Socket,
    tls: Option<Tls>,
    /// Ciphertext, or plain bytes that came with others.
    ahead: Vec<u8>,
    from: usize,
    to: usize,
    /// Until when all reading has to be done; `None`: who waits for an answer watches over it.
    pub(super) deadline: Option<Instant>,
}

/// Bytes taken off the socket at once, if no more are wanted: four records of TLS.
const AHEAD: usize = 64 << 10;

/// Shortest read that goes around the buffer.
const DIRECT: usize = 4 << 10;

impl Incoming {
    pub(super) fn new(socket: Socket, deadline: Instant) -> Incoming {
        Incoming { socket, tls: None, ahead: vec![0; AHEAD], from: 0, to: 0, deadline: Some(deadline) }
    }

    fn off_the_socket(&mut self, into: Option<&mut [u8]>) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            self.socket.reads_within(Some(left(deadline)?))?;
        }
        let count = match into {
            Some(into) => self.socket.read_some(into),
            None => self.socket.read_some(&mut self.ahead),
        };
        match count {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server hung up")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(late()),
            count => count,
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.to = self.off_the_socket(None)?;
        self.from = 0;
        Ok(())
    }

    fn read_tls(&mut self, tls: &Tls, into: &mut [u8]) -> io::Result<usize> {
        loop {
            {
                let mut tls = lock(tls);
                match tls.reader().read(into) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server ended TLS")),
                    read => return read,
                }
                if self.from < self.to {
                    self.from += tls.read_tls(&mut &self.ahead[self.from..self.to])?;
                    tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                    continue;
                }
            }
            self.refill()?;
        }
    }

    /// After the handshake: reading waits as long as it takes.
    pub(super) fn without_deadline(&mut self) -> io::Result<()> {
        self.deadline = None;
        self.socket.reads_within(None)
    }
}

impl Read for Incoming {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(tls) = self.tls.clone() {
            return self.read_tls(&tls, into);
        }
        if self.from == self.to {
            // The handshake takes what it needs and no more, so that nothing sent plainly is taken for the inside of TLS.
            if into.len() >= DIRECT || self.deadline.is_some() {
                return self.off_the_socket(Some(into));
            }
            self.refill()?;
        }
        let count = into.len().min(self.to - self.from);
        into[..count].copy_from_slice(&self.ahead[self.from..self.from + count]);
        self.from += count;
        Ok(count)
    }
}

/// What goes to the server.
pub(super) struct Outgoing {
    socket: Socket,
    tls: Option<Tls>,
    sealed: Vec<u8>,
}

impl Outgoing {
    pub(super) fn new(socket: Socket) -> Outgoing {
        Outgoing { socket, tls: None, sealed: Vec::new() }
    }

    /// Sends all of `parts` until `deadline`.
    pub(super) fn send(&mut self, parts: [&[u8]; 2], deadline: Instant) -> io::Result<()> {
        let Some(tls) = self.tls.clone() else {
            return parts.into_iter().try_for_each(|part| send_all(&mut self.socket, part, deadline));
        };
        for piece in parts.into_iter().flat_map(|part| part.chunks(AHEAD)) {
            self.sealed.clear();
            let mut tls = lock(&tls);
            let mut rest = piece;
            while !rest.is_empty() {
                let taken = tls.writer().write(rest)?;
                rest = &rest[taken..];
                while tls.wants_write() {
                    tls.write_tls(&mut self.sealed)?;
                }
            }
            drop(tls);
            send_all(&mut self.socket, &self.sealed, deadline)?;
        }
        Ok(())
    }
}

fn send_all(socket: &mut Socket, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.writes_within(Some(left(deadline)?))?;
        match socket.write_some(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Puts TLS between, once the server has agreed: handshakes until the deadline of `incoming`.
pub(super) fn start_tls(
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    mut tls: ClientConnection,
    deadline: Instant,
) -> io::Result<()> {
    while tls.is_handshaking() {
        let mut sealed = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut sealed)?;
        }
        send_all(&mut outgoing.socket, &sealed, deadline)?;
        if !tls.is_handshaking() {
            break;
        }
        if incoming.from == incoming.to {
            incoming.refill()?;
        }
        incoming.from += tls.read_tls(&mut &incoming.ahead[incoming.from..incoming.to])?;
        if let Err(error) = tls.process_new_packets() {
            // The server is to hear why; that it cannot be told changes nothing.
            let mut alert = Vec::new();
            let _ = tls.write_tls(&mut alert).and_then(|_| send_all(&mut outgoing.socket, &alert, deadline));
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
    }
    let mut sealed = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut sealed)?;
    }
    send_all(&mut outgoing.socket, &sealed, deadline)?;
    let tls = Arc::new(Mutex::new(tls));
    (incoming.tls, outgoing.tls) = (Some(tls.clone()), Some(tls));
    Ok(())
}

fn lock(tls: &Tls) -> std::sync::MutexGuard<'_, ClientConnection> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is left until `deadline`; an error once nothing is.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

fn late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "the server took too long")
}

#[allow(clippy::disallowed_methods, reason = "deadlines of blocking sockets are in real time")]
pub(super) fn now() -> Instant {
    Instant::now()
}
