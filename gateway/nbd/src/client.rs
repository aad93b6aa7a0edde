//! Reads and writes what a server exports, over one connection or several. Blocking; no runtime is needed, any thread may call.
//!
//! Long ranges are cut into pieces, of which several are in flight at once, spread over the connections: one caller alone fills a line of 20 ms. What
//! breaks once stays broken: after an error that [`ends`](ClientError::ends) the client, connect again. Nothing is repeated behind the caller's back.

mod agree;
mod link;
mod socket;

use crate::export::{Errno, Export, Failure, Status};
use crate::proto::{self, ALLOCATION, Malformed, Request, can, command, flag};
use link::{Answer, Link, Ticket, Want};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Tcp(host) => f.write_str(host),
        }
    }
}

/// How to connect.
#[derive(Clone)]
pub struct Options {
    /// The export's name; many servers serve their only one under the empty name.
    pub export: String,
    /// Contexts to ask for, `base:allocation` for example. What the server does not have is left out of [`Client::contexts`].
    pub contexts: Vec<String>,
    /// Required TLS, and the name that the server's certificate has to carry.
    pub tls: Option<(Arc<rustls::ClientConfig>, rustls::pki_types::ServerName<'static>)>,
    /// Connections at most, 1 to 64. Only one is made to a server that does not say that several see each other's writes, and no more than the server lets
    /// in within [`FURTHER`].
    pub connections: usize,
    /// How long connecting may take, and how long the server may send nothing while it owes an answer.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            export: String::new(),
            contexts: vec![ALLOCATION.to_owned()],
            tls: None,
            connections: 1,
            patience: Duration::from_secs(60), // a flush of a slow disk's cache takes tens of seconds
        }
    }
}

/// Why a client could not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect to the NBD server at {to}: {cause}; is it running and may this process reach it?")]
    Connect {
        /// Where to.
        to: String,
        /// Why not.
        cause: String,
    },
    /// The server does not want to.
    #[error("the NBD server refuses {what}: {why}")]
    Refused {
        /// What was asked for.
        what: String,
        /// What it says, or the number of its reply.
        why: String,
    },
    /// The server breaks the protocol; the connection is closed.
    #[error("the NBD server does not keep to the protocol: {0}")]
    Protocol(#[from] Malformed),
    /// The connection is gone, or the server owed an answer for too long. Writes since the last flush may be lost.
    #[error("the connection to the NBD server is lost: {0}; connect again, and write again what was not flushed")]
    Lost(Arc<str>),
    /// The server tried and failed.
    #[error("the NBD server could not {what}: {message} (error {errno:?})")]
    Failed {
        /// The request.
        what: &'static str,
        /// The kind.
        errno: Errno,
        /// What it says.
        message: String,
    },
    /// The call makes no sense for this export.
    #[error("{0}")]
    Misuse(String),
}

impl ClientError {
    /// Whether the client is of no use any more.
    pub fn ends(&self) -> bool {
        matches!(self, ClientError::Lost(_) | ClientError::Protocol(_))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let errno = match &error {
            ClientError::Failed { errno, .. } => *errno,
            ClientError::Misuse(_) => Errno::Einval,
            _ => Errno::Eio,
        };
        Failure::new(errno, error.to_string())
    }
}

/// What server and client agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Terms {
    size: u64,
    abilities: u16,
    structured: bool,
    /// Smallest and preferred block, longest payload, in bytes.
    blocks: (u32, u32, u32),
    /// Contexts by their numbers.
    contexts: Vec<(u32, String)>,
}

/// One export of one server.
pub struct Client {
    links: Vec<Link>,
    turn: AtomicUsize,
    terms: Terms,
}

/// How long each connection after the first may take. A server that is at its limit (`qemu-nbd --shared`) leaves further ones in its queue for ever, and
/// fewer of them are only slower.
pub const FURTHER: Duration = Duration::from_secs(2);

/// Bytes of a read or write that go in one request. Several in flight fill a line without filling the server's memory.
const PIECE: u64 = 1 << 20;

/// Pieces of one call in flight on each connection: what QEMU's server takes before it stops reading.
const IN_FLIGHT: usize = 16;

/// Bytes in one request to zero or trim: a server may have to write them all, well within [`Options::patience`].
const ZERO_PIECE: u64 = 128 << 20;

/// Bytes that one question about a context is about: the greatest length, less what keeps it aligned.
const STATUS_PIECE: u64 = (1 << 32) - (64 << 10);

impl Client {
    /// Connects, agrees on the export and all that is to be used of it.
    pub fn connect(address: &Address, options: &Options) -> Result<Client, ClientError> {
        let (first, terms) = Link::connect(address, options)?;
        let several = terms.abilities & can::MULTI_CONN != 0 || terms.abilities & can::READ_ONLY != 0;
        let count = if several { options.connections.clamp(1, 64) } else { 1 };
        let mut links = vec![first];
        let further = Options { patience: options.patience.min(FURTHER), ..options.clone() };
        while links.len() < count {
            let (link, same) = match Link::connect(address, &further) {
                Ok(made) => made,
                Err(error) => {
                    tracing::debug!(%address, connections = links.len(), %error, "no further connection to the NBD server");
                    break;
                }
            };
            let link = link.with_patience(options.patience);
            if same != terms {
                return Err(ClientError::Refused {
                    what: "a further connection".into(),
                    why: "it is told something else of the export than the first".into(),
                });
            }
            links.push(link);
        }
        Ok(Client { links, turn: AtomicUsize::new(0), terms })
    }

    /// Contexts that were asked for and that the server has.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.terms.contexts.iter().map(|(_, name)| name.as_str())
    }

    /// Connections in use.
    pub fn connections(&self) -> usize {
        self.links.len()
    }

    /// Bytes of the export.
    pub fn size(&self) -> u64 {
        self.terms.size
    }

    /// Whether it refuses writes.
    pub fn is_read_only(&self) -> bool {
        self.terms.abilities & can::READ_ONLY != 0
    }

    /// The smallest block that the server reads, in bytes; only the export's end need not be at a multiple.
    pub fn smallest(&self) -> u32 {
        self.terms.blocks.0
    }

    /// The block that the server likes best, in bytes.
    pub fn block(&self) -> u32 {
        self.terms.blocks.1
    }

    /// Fills `into` with the bytes at `at`.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), ClientError> {
        let range = self.check("read", at, into.len() as u64)?;
        self.pieces(
            range.clone(),
            self.piece(),
            |piece| self.send(command::READ, 0, piece, &[]),
            |piece, answer| {
                into[place(&range, &piece)].copy_from_slice(&data_of(answer)?);
                Ok(())
            },
        )
    }

    /// As [`read`](Client::read), for several ranges at the same time: over a line with latency many short reads take little longer than one.
    pub fn read_many(&self, wanted: &mut [(u64, &mut [u8])]) -> Result<(), ClientError> {
        let mut pieces = Vec::new();
        for (place, (at, into)) in wanted.iter().enumerate() {
            let range = self.check("read", *at, into.len() as u64)?;
            let starts = range.clone().step_by(self.piece() as usize);
            pieces.extend(starts.map(|start| (place, start..range.end.min(start + self.piece()))));
        }
        let send = |(_, piece): &(usize, Range<u64>)| self.send(command::READ, 0, piece.clone(), &[]);
        self.in_flight(pieces.into_iter(), send, |(place, piece), answer| {
            let (at, into) = &mut wanted[place];
            into[(piece.start - *at) as usize..(piece.end - *at) as usize].copy_from_slice(&data_of(answer)?);
            Ok(())
        })
    }

    /// Writes `bytes` at `at`. Durable after the next [`flush`](Client::flush).
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), ClientError> {
        let range = self.check_change("write", at, bytes.len() as u64)?;
        let send = |piece: Range<u64>| self.send(command::WRITE, 0, piece.clone(), &bytes[place(&range, &piece)]);
        self.pieces(range.clone(), self.piece(), send, |_, _| Ok(()))
    }

    /// Makes `range` read as zeroes; without `may_trim` the room for it is kept. Written out for a server that cannot.
    pub fn zero(&self, range: Range<u64>, may_trim: bool) -> Result<(), ClientError> {
        let range = self.check_change("zero", range.start, range.end.saturating_sub(range.start))?;
        if self.terms.abilities & can::WRITE_ZEROES == 0 {
            let zeroes = vec![0; self.piece() as usize];
            let send = |piece: Range<u64>| {
                let len = (piece.end - piece.start) as usize;
                self.send(command::WRITE, 0, piece, &zeroes[..len])
            };
            return self.pieces(range, self.piece(), send, |_, _| Ok(()));
        }
        let flags = if may_trim { 0 } else { flag::NO_HOLE };
        self.pieces(range, ZERO_PIECE, |piece| self.send(command::WRITE_ZEROES, flags, piece, &[]), |_, _| Ok(()))
    }

    /// Says that nobody needs what `range` holds. Nothing is done where the server cannot.
    pub fn trim(&self, range: Range<u64>) -> Result<(), ClientError> {
        let range = self.check_change("trim", range.start, range.end.saturating_sub(range.start))?;
        if self.terms.abilities & can::TRIM == 0 {
            return Ok(());
        }
        self.pieces(range, ZERO_PIECE, |piece| self.send(command::TRIM, 0, piece, &[]), |_, _| Ok(()))
    }

    /// Makes durable all writes that have returned, over whichever connection. Nothing is done where the server keeps nothing back.
    pub fn flush(&self) -> Result<(), ClientError> {
        if self.terms.abilities & can::FLUSH == 0 {
            return Ok(());
        }
        self.send(command::FLUSH, 0, 0..0, &[])?.wait().map(|_| ())
    }

    /// What `context`, one of [`contexts`](Client::contexts), says of `range`: lengths in bytes and flags, gapless, neighbours with other flags than each
    /// other. Costs memory for each extent: ask for a part of a fragmented export at a time.
    pub fn block_status(&self, context: &str, range: Range<u64>) -> Result<Vec<(u64, u32)>, ClientError> {
        let range = self.check("block status", range.start, range.end.saturating_sub(range.start))?;
        let mut found: Vec<(u64, u32)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            for (len, flags) in self.status_once(context, at..range.end.min(at.saturating_add(STATUS_PIECE)))? {
                match found.last_mut() {
                    Some((last, same)) if *same == flags => *last += len,
                    _ => found.push((len, flags)),
                }
                at += len;
            }
        }
        Ok(found)
    }

    /// One answer: extents from the start of `range` on, at least one, none past its end.
    fn status_once(&self, context: &str, range: Range<u64>) -> Result<Vec<(u64, u32)>, ClientError> {
        let missing =
            || ClientError::Misuse(format!("the NBD server has no context {context:?}, or it was not asked for"));
        let (id, _) = self.terms.contexts.iter().find(|(_, name)| name == context).ok_or_else(missing)?;
        let Answer::Extents(all) = self.send(command::BLOCK_STATUS, 0, range.clone(), &[])?.wait()? else {
            return Err(Malformed::Rule("a question about a context was answered without extents").into());
        };
        let silent = Malformed::Rule("the server says nothing of a context that was agreed on");
        let (_, extents) = all.into_iter().find(|(of, _)| of == id).ok_or(silent)?;
        let mut at = range.start;
        let mut inside = Vec::with_capacity(extents.len());
        for (len, flags) in extents {
            // Past the range that was asked for is allowed.
            if u64::from(len) > self.terms.size - at {
                return Err(Malformed::Rule("the server tells of bytes beyond the end of its export").into());
            }
            let len = u64::from(len).min(range.end - at);
            if len > 0 {
                inside.push((len, flags));
                at += len;
            }
        }
        if inside.is_empty() {
            Err(Malformed::Rule("the server says nothing of the range that was asked for").into())
        } else {
            Ok(inside)
        }
    }

    fn piece(&self) -> u64 {
        PIECE.min(self.terms.blocks.2.into())
    }

    fn check(&self, what: &str, at: u64, len: u64) -> Result<Range<u64>, ClientError> {
        let misuse = |why: String| {
            Err(ClientError::Misuse(format!("cannot {what} {len} bytes at {at} of an NBD export: {why}")))
        };
        let block = u64::from(self.terms.blocks.0);
        match at.checked_add(len) {
            Some(end) if end <= self.terms.size => {
                if !at.is_multiple_of(block) || (!end.is_multiple_of(block) && end != self.terms.size) {
                    return misuse(format!("the server takes multiples of {block} bytes only"));
                }
                Ok(at..end)
            }
            _ => misuse(format!("it ends at {}", self.terms.size)),
        }
    }

    fn check_change(&self, what: &str, at: u64, len: u64) -> Result<Range<u64>, ClientError> {
        if self.is_read_only() {
            return Err(ClientError::Misuse(format!("cannot {what} an NBD export that is read-only")));
        }
        self.check(what, at, len)
    }

    /// Sends a request over the connections in turn; those that nobody uses otherwise are as good as any.
    fn send(&self, command: u16, flags: u16, range: Range<u64>, payload: &[u8]) -> Result<Ticket<'_>, ClientError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.links.len();
        let link = (0..count).map(|n| &self.links[(turn + n) % count]).min_by_key(|link| link.load());
        let link = link.expect("there is at least one connection");
        let len = (range.end - range.start) as u32; // pieces are shorter than 2^32
        let want = match command {
            command::READ => Want::Data(vec![0; len as usize]),
            command::BLOCK_STATUS => Want::Extents(Vec::new()),
            _ => Want::Nothing,
        };
        link.send(Request { flags, command, cookie: 0, at: range.start, len }, payload, want)
    }

    /// Sends `range` piece by piece and `take`s the answers.
    fn pieces<'a>(
        &'a self,
        range: Range<u64>,
        piece: u64,
        send: impl Fn(Range<u64>) -> Result<Ticket<'a>, ClientError>,
        take: impl FnMut(Range<u64>, Answer) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let starts = range.clone().step_by(piece as usize);
        let pieces = starts.map(|start| start..range.end.min(start.saturating_add(piece)));
        self.in_flight(pieces, |piece| send(piece.clone()), take)
    }

    /// Sends `pieces`, `take`s the answers in that order, and keeps a bounded number in flight. The first error ends it; answers to what was sent before
    /// are then not waited for.
    fn in_flight<'a, P>(
        &'a self,
        mut pieces: impl Iterator<Item = P>,
        send: impl Fn(&P) -> Result<Ticket<'a>, ClientError>,
        mut take: impl FnMut(P, Answer) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let mut waiting: VecDeque<(P, Ticket<'a>)> = VecDeque::new();
        loop {
            while waiting.len() < IN_FLIGHT * self.links.len() {
                let Some(piece) = pieces.next() else { break };
                let ticket = send(&piece)?;
                waiting.push_back((piece, ticket));
            }
            let Some((piece, ticket)) = waiting.pop_front() else { return Ok(()) };
            take(piece, ticket.wait()?)?;
        }
    }
}

fn data_of(answer: Answer) -> Result<Vec<u8>, ClientError> {
    match answer {
        Answer::Data(data) => Ok(data),
        _ => Err(Malformed::Rule("a read was answered without data").into()),
    }
}

/// Where `piece` of `range` lies in a buffer of the range.
fn place(range: &Range<u64>, piece: &Range<u64>) -> Range<usize> {
    (piece.start - range.start) as usize..(piece.end - range.start) as usize
}

/// Another server's export, served or laid under an overlay.
impl Export for Client {
    fn size(&self) -> u64 {
        self.size()
    }
    fn block(&self) -> u32 {
        self.block()
    }
    fn is_read_only(&self) -> bool {
        self.is_read_only()
    }
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Failure> {
        Ok(self.read(at, into)?)
    }
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.write(at, bytes)?)
    }
    fn zero(&self, range: Range<u64>, may_trim: bool) -> Result<(), Failure> {
        Ok(self.zero(range, may_trim)?)
    }
    fn trim(&self, range: Range<u64>) -> Result<(), Failure> {
        Ok(self.trim(range)?)
    }
    fn flush(&self) -> Result<(), Failure> {
        Ok(self.flush()?)
    }
    /// One question to the server; `Data` all over where it has no `base:allocation`.
    fn status(&self, range: Range<u64>) -> Result<Vec<(u64, Status)>, Failure> {
        if !self.contexts().any(|name| name == ALLOCATION) {
            return Ok(vec![(range.end - range.start, Status::Data)]);
        }
        let once = range.start..range.end.min(range.start.saturating_add(STATUS_PIECE));
        let known = self.status_once(ALLOCATION, once)?;
        Ok(known.into_iter().map(|(len, flags)| (len, Status::from_flags(flags))).collect())
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Lost(error.to_string().into())
    }
}

const _: () = assert!(PIECE <= proto::PAYLOAD as u64, "a piece has to be something that servers take");
