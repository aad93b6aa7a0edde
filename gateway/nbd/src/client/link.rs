//! One connection: callers send, a thread of its own takes replies and hands them to whom they belong.

use super::agree::{agree, printable};
use super::socket::{Incoming, Outgoing, Socket, now};
use super::{Address, ClientError, Options, Terms};
use crate::export::Errno;
use crate::proto::{ChunkHead, EXTENTS, Fields, Malformed, Reply, Request, TEXT, chunk, command};
use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes per second that a server has to manage on average while an answer is waited for. Far below any line: it only ends what trickles for ever.
const SLOWEST: u64 = 4 << 10;

/// What a request is to bring, and room for it.
pub(super) enum Want {
    Nothing,
    Data(Vec<u8>),
    Extents(Contexts),
}

/// By the number of each context: lengths and flags.
pub(super) type Contexts = Vec<(u32, Vec<(u32, u32)>)>;

/// What it brought.
pub(super) enum Answer {
    Nothing,
    Data(Vec<u8>),
    Extents(Contexts),
}

/// A request that is not answered yet.
struct Pending {
    request: Request,
    want: Want,
    /// Ranges of a read that have come, by start: sorted, apart from each other.
    came: Vec<(u64, u64)>,
    failed: Option<(Errno, String)>,
    tell: mpsc::Sender<Result<Answer, ClientError>>,
}

#[derive(Default)]
struct State {
    pending: HashMap<u64, Pending>,
    /// Why nothing is sent any more.
    broken: Option<ClientError>,
}

/// How long the reason for a broken connection may follow it: the reader has it in hand.
const REASON: Duration = Duration::from_secs(5);

struct Shared {
    state: Mutex<State>,
    /// The reason of `state.broken` is there.
    broke: Condvar,
    socket: Socket,
    structured: bool,
    /// Bytes that came, ever: whether the server is alive.
    came: AtomicU64,
    /// Bytes of payload of unanswered requests.
    owed: AtomicU64,
}

pub(super) struct Link {
    shared: Arc<Shared>,
    outgoing: Mutex<Outgoing>,
    next: AtomicU64,
    load: AtomicUsize,
    patience: Duration,
    reader: Option<JoinHandle<()>>,
}

impl Link {
    pub(super) fn connect(address: &Address, options: &Options) -> Result<(Link, Terms), ClientError> {
        let failed = |error: std::io::Error| ClientError::Connect { to: address.to_string(), cause: error.to_string() };
        let deadline = now() + options.patience;
        let socket = Socket::connect(address, options.patience).map_err(failed)?;
        let mut incoming = Incoming::new(socket.try_clone().map_err(failed)?, deadline);
        let mut outgoing = Outgoing::new(socket.try_clone().map_err(failed)?);
        let terms = agree(&mut incoming, &mut outgoing, options, deadline)?;
        incoming.without_deadline().map_err(failed)?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            broke: Condvar::new(),
            socket,
            structured: terms.structured,
            came: AtomicU64::new(0),
            owed: AtomicU64::new(0),
        });
        let reading = shared.clone();
        let reader = std::thread::Builder::new()
            .name("nbd-replies".into())
            .spawn(move || {
                if let Err(error) = reading.replies(&mut incoming) {
                    reading.break_off(error);
                }
            })
            .map_err(failed)?;
        let link = Link {
            shared,
            outgoing: Mutex::new(outgoing),
            next: AtomicU64::new(0),
            load: AtomicUsize::new(0),
            patience: options.patience,
            reader: Some(reader),
        };
        Ok((link, terms))
    }

    /// How long the server may be silent from now on.
    pub(super) fn with_patience(mut self, patience: Duration) -> Link {
        self.patience = patience;
        self
    }

    /// Requests that somebody waits for.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Sends a request, under a cookie of its own.
    pub(super) fn send(&self, request: Request, payload: &[u8], want: Want) -> Result<Ticket<'_>, ClientError> {
        let request = Request { cookie: self.next.fetch_add(1, Ordering::Relaxed), ..request };
        let (tell, told) = mpsc::channel();
        let pending = Pending { request, want, came: Vec::new(), failed: None, tell };
        {
            let mut state = self.shared.lock();
            if let Some(error) = &state.broken {
                return Err(error.clone());
            }
            state.pending.insert(request.cookie, pending);
        }
        let bytes = if matches!(request.command, command::READ | command::WRITE) { u64::from(request.len) } else { 0 };
        let owed = self.shared.owed.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.load.fetch_add(1, Ordering::Relaxed);
        let deadline = now() + self.patience + Duration::from_secs(owed / SLOWEST);
        let ticket = Ticket { link: self, told, bytes, deadline };
        let sent = {
            let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
            outgoing.send([&request.encode(), payload], deadline)
        };
        // Part of it may be out, so nothing more can be said on this connection.
        sent.map_err(|error| self.shared.break_off(error.into()))?;
        Ok(ticket)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let good_bye = Request { flags: 0, command: command::DISC, cookie: u64::MAX, at: 0, len: 0 };
        if self.shared.lock().broken.is_none() {
            let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
            // A second, or the server does without.
            let _ = outgoing.send([&good_bye.encode(), &[]], now() + Duration::from_secs(1));
        }
        self.shared.socket.shutdown();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join(); // nothing of it is left but its end
        }
    }
}

/// An answer to wait for.
pub(super) struct Ticket<'a> {
    link: &'a Link,
    told: mpsc::Receiver<Result<Answer, ClientError>>,
    bytes: u64,
    deadline: Instant,
}

impl Ticket<'_> {
    /// Waits until it is there, the server has been silent for the link's patience, or it takes longer than any line explains.
    pub(super) fn wait(self) -> Result<Answer, ClientError> {
        let shared = &self.link.shared;
        loop {
            let before = shared.came.load(Ordering::Relaxed);
            match self.told.recv_timeout(self.link.patience) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(shared.why_broken()),
                Err(RecvTimeoutError::Timeout) => {
                    if shared.came.load(Ordering::Relaxed) == before || now() > self.deadline {
                        return Err(shared.break_off(ClientError::Lost("the server took too long to answer".into())));
                    }
                }
            }
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.link.shared.owed.fetch_sub(self.bytes, Ordering::Relaxed);
        self.link.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection for everybody; the first reason stands.
    fn break_off(&self, error: ClientError) -> ClientError {
        let mut state = self.lock();
        let why = state.broken.get_or_insert(error).clone();
        state.pending.clear(); // drops the senders, which wakes who waits
        drop(state);
        self.broke.notify_all();
        self.socket.shutdown();
        why
    }

    fn why_broken(&self) -> ClientError {
        // Who read a wrong answer lets go of its request a moment before it says what was wrong with it.
        let waited = self.broke.wait_timeout_while(self.lock(), REASON, |state| state.broken.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.broken.clone().unwrap_or_else(|| ClientError::Lost("it was closed".into()))
    }

    /// Takes replies until the connection breaks.
    fn replies(&self, incoming: &mut Incoming) -> Result<(), ClientError> {
        loop {
            let mut word = [0; 4];
            incoming.read_exact(&mut word)?;
            let word = u32::from_be_bytes(word);
            let mut tail = [0; 16];
            let tail = &mut tail[..Reply::tail(word)?];
            incoming.read_exact(tail)?;
            self.came.fetch_add(1, Ordering::Relaxed);
            match Reply::parse(word, tail)? {
                Reply::Simple(cookie, errno) => self.simple(incoming, cookie, errno)?,
                Reply::Chunk(_) if !self.structured => {
                    return Err(Malformed::Rule("it sends structured replies that were not agreed on").into());
                }
                Reply::Chunk(head) => self.chunk(incoming, &head)?,
            }
        }
    }

    fn take(&self, cookie: u64) -> Result<Pending, ClientError> {
        let unknown = Malformed::Rule("it answers a request that nobody made");
        self.lock().pending.remove(&cookie).ok_or_else(|| unknown.into())
    }

    fn simple(&self, incoming: &mut Incoming, cookie: u64, errno: u32) -> Result<(), ClientError> {
        let mut pending = self.take(cookie)?;
        if errno != 0 {
            pending.failed = Some((Errno::from_wire(errno), format!("error {errno}")));
        } else if let Want::Data(data) = &mut pending.want {
            if self.structured {
                return Err(Malformed::Rule(
                    "it answers a read with a simple reply though structured ones were agreed on",
                )
                .into());
            }
            self.fill(incoming, data)?;
            pending.came.push((pending.request.at, pending.request.at + u64::from(pending.request.len)));
        }
        pending.finish()
    }

    /// Reads a payload, and shows that it gets on.
    fn fill(&self, incoming: &mut Incoming, mut into: &mut [u8]) -> Result<(), ClientError> {
        while !into.is_empty() {
            let count = match incoming.read(into) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            self.came.fetch_add(count as u64, Ordering::Relaxed);
            into = &mut into[count..];
        }
        Ok(())
    }

    fn chunk(&self, incoming: &mut Incoming, head: &ChunkHead) -> Result<(), ClientError> {
        let mut pending = self.take(head.cookie)?;
        match head.kind {
            chunk::NONE if head.len == 0 && head.flags & chunk::DONE != 0 => {}
            chunk::OFFSET_DATA => {
                let len = u64::from(head.len).saturating_sub(8);
                let into = pending.room(self.offset(incoming, head.len)?, len)?;
                self.fill(incoming, into)?;
            }
            chunk::OFFSET_HOLE if head.len == 12 => {
                let at = self.offset(incoming, head.len)?;
                let mut len = [0; 4];
                self.fill(incoming, &mut len)?;
                pending.room(at, u32::from_be_bytes(len).into())?.fill(0);
            }
            chunk::BLOCK_STATUS => {
                if head.len > 4 + 8 * EXTENTS {
                    let (what, len, most) = ("an answer about a context", head.len.into(), u64::from(EXTENTS) * 8 + 4);
                    return Err(Malformed::TooLong { what, len, most }.into());
                }
                let mut data = vec![0; head.len as usize];
                self.fill(incoming, &mut data)?;
                pending.extents(&data)?;
            }
            kind if kind & chunk::ERROR != 0 && (6..=TEXT as u32 + 64).contains(&head.len) => {
                let mut data = vec![0; head.len as usize];
                self.fill(incoming, &mut data)?;
                pending.error(&data)?;
            }
            _ => return Err(Malformed::Rule("it sends a chunk that fits no rule").into()),
        }
        if head.flags & chunk::DONE != 0 {
            return pending.finish();
        }
        let mut state = self.lock();
        match &state.broken {
            Some(error) => Err(error.clone()),
            None => {
                state.pending.insert(head.cookie, pending);
                Ok(())
            }
        }
    }

    fn offset(&self, incoming: &mut Incoming, len: u32) -> Result<u64, ClientError> {
        if len <= 8 {
            return Err(Malformed::Length("a chunk of a read").into());
        }
        let mut at = [0; 8];
        self.fill(incoming, &mut at)?;
        Ok(u64::from_be_bytes(at))
    }
}

impl Pending {
    /// Where `len` bytes at `at` go. Refused when they were not asked for or have come before, for then others would be missing.
    fn room(&mut self, at: u64, len: u64) -> Result<&mut [u8], ClientError> {
        let Want::Data(data) = &mut self.want else {
            return Err(Malformed::Rule("it answers something else than a read with data").into());
        };
        let start = at
            .checked_sub(self.request.at)
            .filter(|start| start.checked_add(len).is_some_and(|end| end <= data.len() as u64));
        let Some(start) = start.filter(|_| len > 0) else {
            return Err(Malformed::Rule("it answers a read with bytes that were not asked for").into());
        };
        let next = self.came.partition_point(|(from, _)| *from < at);
        let apart = self.came.get(next).is_none_or(|(from, _)| at + len <= *from)
            && next.checked_sub(1).is_none_or(|before| self.came[before].1 <= at);
        if !apart {
            return Err(Malformed::Rule("it answers a read with the same bytes twice").into());
        }
        match next.checked_sub(1) {
            Some(before) if self.came[before].1 == at => self.came[before].1 = at + len,
            _ => self.came.insert(next, (at, at + len)),
        }
        Ok(&mut data[start as usize..(start + len) as usize])
    }

    fn extents(&mut self, data: &[u8]) -> Result<(), ClientError> {
        let Want::Extents(all) = &mut self.want else {
            return Err(Malformed::Rule("it tells of a context without being asked").into());
        };
        let mut fields = Fields::of("an answer about a context", data);
        let id = fields.u32()?;
        if data.len() % 8 != 4 || all.iter().any(|(known, _)| *known == id) || all.len() == MOST_CONTEXTS {
            return Err(Malformed::Rule("it tells of a context in pieces, twice, or of too many").into());
        }
        let extents =
            (0..data.len() / 8).map(|_| Ok((fields.u32()?, fields.u32()?))).collect::<Result<_, Malformed>>()?;
        all.push((id, extents));
        Ok(())
    }

    fn error(&mut self, data: &[u8]) -> Result<(), ClientError> {
        let mut fields = Fields::of("an error", data);
        let errno = fields.u32()?;
        let len = fields.u16()? as usize;
        // What follows the message says where it happened, or is of a kind that this client does not know.
        let message = data.get(6..6 + len).ok_or(Malformed::Length("an error"))?;
        let message = if message.is_empty() { format!("error {errno}") } else { printable(message) };
        self.failed.get_or_insert((Errno::from_wire(errno), message));
        Ok(())
    }

    fn finish(self) -> Result<(), ClientError> {
        let answer = match (self.failed, self.want) {
            (Some((errno, message)), _) => {
                let what = match self.request.command {
                    command::READ => "read",
                    command::WRITE => "write",
                    command::FLUSH => "flush",
                    command::TRIM => "trim",
                    command::WRITE_ZEROES => "zero",
                    _ => "tell what it holds",
                };
                Err(ClientError::Failed { what, errno, message })
            }
            (None, Want::Nothing) => Ok(Answer::Nothing),
            (None, Want::Extents(all)) => Ok(Answer::Extents(all)),
            (None, Want::Data(data)) => {
                let came: u64 = self.came.iter().map(|(from, to)| to - from).sum();
                if came != data.len() as u64 {
                    return Err(Malformed::Rule("it answers a read with less than was asked for").into());
                }
                Ok(Answer::Data(data))
            }
        };
        let _ = self.tell.send(answer); // who has given up waiting does not mind
        Ok(())
    }
}

/// Contexts that one answer may tell of: more than anybody asks for.
const MOST_CONTEXTS: usize = 64;
