//! Requests and replies of one connection: read one after the other, done side by side, answered as they end.

use super::haggle::ALLOCATION_ID;
use super::{Agreed, Broken, DRAIN, Limits, Shared, Stream};
use crate::export::{Errno, Export, Failure, Status};
use crate::proto::{self, ChunkHead, EXTENTS, PAYLOAD, Request, chunk, command, flag};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Bytes that one permit stands for. Coarse, so that permits of a terabyte would still fit into a semaphore.
pub(super) const GRAIN: usize = 4096;

/// What a request without payload is taken to cost: its answer's head and message.
pub(super) const SMALL: usize = 4096;

/// Most extents in one answer: 64 KiB of it, and whoever wants more asks on from where it ends.
const MOST_EXTENTS: usize = 8192;

/// What an answer about the state of a range is taken to cost: what the export says and what is made of it, 24 bytes for each extent.
const STATUS_COST: usize = MOST_EXTENTS * 24;

/// From this length on a read first asks what is a hole: for shorter ones the question costs more than it can save.
const ASK_FOR_HOLES: u32 = 64 << 10;

/// Bytes for requests that are read before they are asked for. Payloads longer than it go around it.
const READ_AHEAD: usize = 16 << 10;

/// An answer on its way, with what it holds of the limits.
struct Answer {
    bytes: Vec<u8>,
    _permits: Permits,
}

struct Permits {
    _one: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
    _all_bytes: OwnedSemaphorePermit,
}

/// Serves requests until the client says good-bye or breaks off, the export is removed or the server stops; then waits until all that was read is answered.
pub(super) async fn run(stream: Stream, agreed: Agreed, shared: &Shared) -> Result<(), Broken> {
    let removed = agreed.entry.removed.clone();
    let (reading, writing) = tokio::io::split(stream);
    let (answers, queue) = mpsc::unbounded_channel(); // bounded by the permits that its answers hold
    let writer_failed = CancellationToken::new();
    let writer = write(writing, queue, shared.limits.clone(), writer_failed.clone());
    let mut reader = Reader {
        stream: BufReader::with_capacity(READ_AHEAD, reading),
        requests: Arc::new(Semaphore::new(shared.limits.requests)),
        bytes: Arc::new(Semaphore::new(shared.limits.bytes / GRAIN)),
        agreed: Arc::new(agreed),
        shared,
        answers,
    };
    let reading = async move {
        // Dropping a half-read request is fine: after any of these nothing is read any more.
        let (ended, hurry) = tokio::select! {
            ended = reader.run() => (ended, false),
            () = writer_failed.cancelled() => (Ok(()), false),
            () = shared.stop.cancelled() => (Ok(()), true),
            () = removed.cancelled() => (Ok(()), true),
        };
        drop(reader); // with its sender: the writer ends with the last answer
        if hurry {
            tokio::time::sleep(DRAIN).await;
            return Err(Broken::Slow("take the last answers"));
        }
        ended
    };
    tokio::pin!(reading, writer);
    tokio::select! {
        read = &mut reading => read.and(writer.await),
        written = &mut writer => written,
    }
}

async fn write(
    mut stream: WriteHalf<Stream>,
    mut queue: mpsc::UnboundedReceiver<Answer>,
    limits: Limits,
    failed: CancellationToken,
) -> Result<(), Broken> {
    let _failed = failed.drop_guard();
    while let Some(answer) = queue.recv().await {
        let sending = async {
            stream.write_all(&answer.bytes).await?;
            stream.flush().await
        };
        timeout(limits.patience(answer.bytes.len()), sending).await.map_err(|_| Broken::Slow("take an answer"))??;
    }
    let _ = timeout(limits.stall, stream.shutdown()).await;
    Ok(())
}

struct Reader<'a> {
    stream: BufReader<ReadHalf<Stream>>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    agreed: Arc<Agreed>,
    shared: &'a Shared,
    answers: mpsc::UnboundedSender<Answer>,
}

impl Reader<'_> {
    async fn run(&mut self) -> Result<(), Broken> {
        loop {
            let mut head = [0; Request::SIZE];
            match self.stream.read_exact(&mut head).await {
                // Clients that just hang up are common, and by now they have lost nothing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            };
            let request = Request::parse(&head)?;
            if request.command == command::DISC {
                return Ok(());
            }
            let payload = if request.command == command::WRITE { request.len } else { 0 };
            if payload > PAYLOAD {
                // What follows cannot be skipped in any time worth waiting for.
                let (what, len, most) = ("the payload of a write", payload.into(), PAYLOAD.into());
                return Err(proto::Malformed::TooLong { what, len, most }.into());
            }
            let permits = self.permits(cost(&request)).await;
            let mut bytes = vec![0; payload as usize];
            let reading = self.stream.read_exact(&mut bytes);
            let patience = self.shared.limits.patience(payload as usize);
            timeout(patience, reading).await.map_err(|_| Broken::Slow("send a payload"))??;
            self.start(request, bytes, permits).await;
        }
    }

    /// The connection's own first: who waits for them holds nothing that others need.
    async fn permits(&self, cost: usize) -> Permits {
        let grains = cost.div_ceil(GRAIN) as u32; // at most PAYLOAD and a little
        let never = "these semaphores are never closed";
        Permits {
            _one: self.requests.clone().acquire_owned().await.expect(never),
            _bytes: self.bytes.clone().acquire_many_owned(grains).await.expect(never),
            _all_bytes: self.shared.all_bytes.clone().acquire_many_owned(grains).await.expect(never),
        }
    }

    async fn start(&self, request: Request, payload: Vec<u8>, permits: Permits) {
        let worker = self.shared.workers.clone().acquire_owned().await.expect("this semaphore is never closed");
        let (agreed, answers) = (self.agreed.clone(), self.answers.clone());
        tokio::task::spawn_blocking(move || {
            // An export that panics must not leave its client without an answer.
            let bytes = catch_unwind(AssertUnwindSafe(|| answer(&agreed, &request, &payload))).unwrap_or_else(|_| {
                tracing::error!(?request, "an export panicked");
                refusal(&agreed, &request, &Failure::new(Errno::Eio, "the server failed"))
            });
            drop((payload, worker));
            // Nobody listens any more when the connection broke.
            let _ = answers.send(Answer { bytes, _permits: permits });
        });
    }
}

/// Bytes that a request and its answer take, at most; those of reads that are too long are refused and take none.
fn cost(request: &Request) -> usize {
    match request.command {
        command::READ if request.len <= PAYLOAD => SMALL + request.len as usize,
        command::WRITE => SMALL + request.len as usize,
        command::BLOCK_STATUS => STATUS_COST,
        _ => SMALL,
    }
}

/// Does what is asked for and makes the answer's bytes. Blocks.
fn answer(agreed: &Agreed, request: &Request, payload: &[u8]) -> Vec<u8> {
    let export = &*agreed.entry.export;
    let done = admit(agreed, request).and_then(|range| {
        match request.command {
            command::READ => return read(agreed, request, range),
            command::BLOCK_STATUS => return block_status(export, request, range),
            command::FLUSH => export.flush(),
            command::WRITE => export.write(request.at, payload),
            command::TRIM => export.trim(range),
            _ => export.zero(range, request.flags & flag::NO_HOLE == 0),
        }
        .and_then(|()| if request.flags & flag::FUA != 0 { export.flush() } else { Ok(()) })
        .map(|()| success(agreed, request))
    });
    done.unwrap_or_else(|failure| refusal(agreed, request, &failure))
}

/// Whether the request makes sense, and its range.
fn admit(agreed: &Agreed, request: &Request) -> Result<Range<u64>, Failure> {
    let export = &*agreed.entry.export;
    let invalid = |message: &str| Err(Failure::new(Errno::Einval, message));
    let flags = match request.command {
        command::READ if agreed.structured => flag::FUA | flag::DF,
        command::READ | command::FLUSH => flag::FUA,
        command::WRITE | command::TRIM => flag::FUA,
        command::WRITE_ZEROES => flag::FUA | flag::NO_HOLE,
        command::BLOCK_STATUS if agreed.allocation => flag::FUA | flag::REQ_ONE,
        command::BLOCK_STATUS => return invalid("no context was agreed on"),
        _ => return invalid("this server does not know this request"),
    };
    if request.flags & !flags != 0 {
        return invalid("this server does not know a flag of this request, or it was not agreed on");
    }
    let changes = matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
    if changes && export.is_read_only() {
        return Err(Failure::read_only());
    }
    if request.command == command::FLUSH {
        return if (request.at, request.len) == (0, 0) { Ok(0..0) } else { invalid("a flush has no range") };
    }
    if request.len == 0 {
        return invalid("a length of 0");
    }
    if request.command == command::READ && request.len > PAYLOAD {
        return Err(Failure::new(Errno::Eoverflow, "more than 32 MiB at once"));
    }
    match request.at.checked_add(request.len.into()) {
        Some(end) if end <= export.size() => Ok(request.at..end),
        _ if changes => Err(Failure::new(Errno::Enospc, "past the end of the export")),
        _ => invalid("past the end of the export"),
    }
}

fn read(agreed: &Agreed, request: &Request, range: Range<u64>) -> Result<Vec<u8>, Failure> {
    let export = &*agreed.entry.export;
    let len = request.len as usize;
    if !agreed.structured {
        let mut out = vec![0; proto::SIMPLE_HEAD + len];
        out[..proto::SIMPLE_HEAD].copy_from_slice(&proto::simple_head(request.cookie, 0));
        export.read(range.start, &mut out[proto::SIMPLE_HEAD..])?;
        return Ok(out);
    }
    let pieces = pieces(export, request, range)?;
    let heads = proto::CHUNK_HEAD + 8;
    let data: usize =
        pieces.iter().map(|(range, hole)| if *hole { 4 } else { (range.end - range.start) as usize }).sum();
    let mut out = vec![0; heads * pieces.len() + data];
    let mut rest = &mut out[..];
    for (number, (range, hole)) in pieces.iter().enumerate() {
        let len = (range.end - range.start) as usize;
        let body = if *hole { 4 } else { len };
        let (this, after) = std::mem::take(&mut rest).split_at_mut(heads + body);
        rest = after;
        let flags = if number + 1 == pieces.len() { chunk::DONE } else { 0 };
        let kind = if *hole { chunk::OFFSET_HOLE } else { chunk::OFFSET_DATA };
        let head = ChunkHead { flags, kind, cookie: request.cookie, len: (8 + body) as u32 };
        this[..proto::CHUNK_HEAD].copy_from_slice(&head.encode());
        this[proto::CHUNK_HEAD..heads].copy_from_slice(&range.start.to_be_bytes());
        if *hole {
            this[heads..].copy_from_slice(&(len as u32).to_be_bytes());
        } else {
            export.read(range.start, &mut this[heads..])?;
        }
    }
    Ok(out)
}

/// The range in pieces that are all zeroes (`true`) or have to be read; a single one when the client wants no fragments.
fn pieces(export: &dyn Export, request: &Request, range: Range<u64>) -> Result<Vec<(Range<u64>, bool)>, Failure> {
    if request.len < ASK_FOR_HOLES {
        return Ok(vec![(range, false)]);
    }
    let mut pieces: Vec<(Range<u64>, bool)> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let known = export.status(at..range.end)?;
        let before = at;
        for (len, status) in known {
            let end = at.saturating_add(len).min(range.end);
            let hole = status != Status::Data;
            match pieces.last_mut() {
                Some((last, is_hole)) if *is_hole == hole => last.end = end,
                _ if end > at => pieces.push((at..end, hole)),
                _ => {}
            }
            at = end;
        }
        // An export that breaks its word, or splinters beyond what a hole is worth: the rest is read.
        if at == before || pieces.len() > MOST_EXTENTS {
            pieces.push((at..range.end, false));
            break;
        }
    }
    pieces.retain(|(range, _)| !range.is_empty());
    if request.flags & flag::DF != 0 && pieces.len() > 1 {
        return Ok(vec![(range, false)]);
    }
    Ok(pieces)
}

fn block_status(export: &dyn Export, request: &Request, range: Range<u64>) -> Result<Vec<u8>, Failure> {
    let mut extents: Vec<(u32, u32)> = Vec::new();
    let most = if request.flags & flag::REQ_ONE != 0 { 1 } else { MOST_EXTENTS };
    let mut left = request.len; // none is longer than that, so all fit their 32 bits
    for (len, status) in export.status(range)? {
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(left);
        let full = extents.len() == most;
        match extents.last_mut() {
            Some((last, flags)) if *flags == status.to_flags() => *last += len,
            _ if full => break,
            _ if len > 0 => extents.push((len, status.to_flags())),
            _ => {}
        }
        left -= len;
    }
    if extents.is_empty() {
        extents.push((request.len, Status::Data.to_flags()));
    }
    let len = (4 + 8 * extents.len()) as u32;
    let head = ChunkHead { flags: chunk::DONE, kind: chunk::BLOCK_STATUS, cookie: request.cookie, len };
    let mut out = Vec::with_capacity(proto::CHUNK_HEAD + len as usize);
    out.extend(head.encode());
    out.extend(ALLOCATION_ID.to_be_bytes());
    for (len, flags) in extents {
        out.extend(len.to_be_bytes());
        out.extend(flags.to_be_bytes());
    }
    Ok(out)
}

fn success(agreed: &Agreed, request: &Request) -> Vec<u8> {
    if agreed.structured {
        ChunkHead { flags: chunk::DONE, kind: chunk::NONE, cookie: request.cookie, len: 0 }.encode().to_vec()
    } else {
        proto::simple_head(request.cookie, 0).to_vec()
    }
}

fn refusal(agreed: &Agreed, request: &Request, failure: &Failure) -> Vec<u8> {
    if !agreed.structured {
        return proto::simple_head(request.cookie, failure.errno as u32).to_vec();
    }
    let message = &failure.message[..failure.message.floor_char_boundary(MOST_MESSAGE)];
    let len = (6 + message.len()) as u32;
    let head = ChunkHead { flags: chunk::DONE, kind: chunk::ERROR_PLAIN, cookie: request.cookie, len };
    let errno = (failure.errno as u32).to_be_bytes();
    [&head.encode()[..], &errno, &(message.len() as u16).to_be_bytes(), message.as_bytes()].concat()
}

/// Bytes of an error's message that are sent.
const MOST_MESSAGE: usize = 1024;

const _: () = assert!(MOST_EXTENTS <= EXTENTS as usize, "what is sent has to be something that is taken");
