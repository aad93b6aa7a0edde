//! One snapshot that is being written, completed, read back and made a point.

use super::api::{Api, sum};
use super::written::{Sum, Written};
use super::{BLOCK, Ebs, Memory, NOTES, PROVED, STATE, blocks, put_notes};
use crate::error::TargetError;
use crate::tags;
use crate::target::{Filling, Notes, Point, Work};
use dedupe::{ByteOffset, UnixMillis};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long AWS may take to complete a snapshot. Large ones take an hour.
const COMPLETE: Duration = Duration::from_secs(6 * 3600);
/// The same when it was refused: AWS may have heard it before, and the answer was lost. Then it is under way.
const HEARD: Duration = Duration::from_secs(1800);
/// Blocks whose tokens are asked for at once: 512 MiB of the volume.
const WINDOW: u32 = 1024;
/// Windows that are kept: more than there are threads, some 10 MiB.
const WINDOWS: usize = 32;

/// See the module's documentation.
pub(crate) struct Open<'a> {
    ebs: &'a Ebs,
    work: Work,
    notes: &'a dyn Notes,
    snapshot: String,
    memory: Mutex<Memory>,
    written: Mutex<Written>,
    is_complete: AtomicBool,
    tokens: Mutex<VecDeque<(u32, Tokens)>>,
    /// It was a point when it was opened.
    point: Option<Point>,
}

type Tokens = Arc<BTreeMap<u32, String>>;

impl<'a> Open<'a> {
    pub(crate) fn new(
        ebs: &'a Ebs,
        work: &Work,
        notes: &'a dyn Notes,
        memory: &Memory,
        written: Written,
        is_complete: bool,
    ) -> Open<'a> {
        Open {
            ebs,
            work: work.clone(),
            notes,
            snapshot: memory.snapshot.clone().unwrap_or_default(),
            memory: Mutex::new(memory.clone()),
            written: Mutex::new(written),
            is_complete: AtomicBool::new(is_complete),
            tokens: Mutex::default(),
            point: None,
        }
    }

    /// One that is a point already.
    pub(crate) fn finished(
        ebs: &'a Ebs,
        work: &Work,
        notes: &'a dyn Notes,
        point: &Point,
    ) -> Result<Open<'a>, TargetError> {
        let snapshot = Some(point.id.clone());
        let memory = Memory { version: NOTES, attempt: 0, parent: None, snapshot, written: None, completing: None };
        let open = Open::new(ebs, work, notes, &memory, Written::none(blocks(work)?), true);
        Ok(Open { point: Some(point.clone()), ..open })
    }

    fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Acquire)
    }

    fn has_parent(&self) -> bool {
        self.memory.lock().expect("nobody panics while holding it").parent.is_some()
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().expect("nobody panics while holding it")
    }

    fn put(&self, block: u32, bytes: &[u8]) -> Result<(), TargetError> {
        if self.is_complete() {
            return self.compare(block, bytes);
        }
        let put = |bytes: &[u8]| self.ebs.api.put(&self.snapshot, block, bytes);
        let sum = match bytes.len() {
            BLOCK => put(bytes)?,
            _ => put(&padded(bytes))?,
        };
        self.written().put(block, sum);
        Ok(())
    }

    /// A completed snapshot takes no more; that the same bytes come once more after a crash is fine.
    fn compare(&self, block: u32, bytes: &[u8]) -> Result<(), TargetError> {
        let mut held = vec![0; bytes.len()];
        self.read(ByteOffset(u64::from(block) * BLOCK as u64), &mut held)?;
        match sum(&held) == sum(bytes) {
            true => Ok(()),
            false => Err(TargetError::Conflict(format!(
                "{} is completed and holds other bytes in block {block}; give the run up and begin anew",
                self.snapshot
            ))),
        }
    }

    /// The tokens of one window.
    fn tokens(&self, window: u32) -> Result<Tokens, TargetError> {
        let mut kept = self.tokens.lock().expect("nobody panics while holding it");
        if let Some((_, tokens)) = kept.iter().find(|(at, _)| *at == window) {
            return Ok(tokens.clone());
        }
        let start = window * WINDOW;
        let tokens = Arc::new(self.ebs.api.list(&self.snapshot, start..start.saturating_add(WINDOW))?);
        if kept.len() == WINDOWS {
            kept.pop_front();
        }
        kept.push_back((window, tokens.clone()));
        Ok(tokens)
    }

    fn note(&self, completing: Option<u64>) -> Result<(), TargetError> {
        let mut memory = self.memory.lock().expect("nobody panics while holding it");
        memory.written = self.written().to_text();
        memory.completing = completing.or(memory.completing);
        put_notes(self.notes, &memory)
    }
}

impl Filling for Open<'_> {
    fn apply(&self, at: ByteOffset, bytes: &[u8]) -> Result<(), TargetError> {
        let first = block_of(at.0);
        (first..).zip(bytes.chunks(BLOCK)).try_for_each(|(block, bytes)| self.put(block, bytes))
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        const ZEROES: &[u8] = &[0; BLOCK];
        let end = range.end.div_ceil(BLOCK as u64) as u32;
        for block in block_of(range.start)..end {
            // What is not put is the parent's; without a parent it reads as zeroes and costs nothing.
            let is_hole = !self.is_complete() && !self.has_parent() && !self.written().has(block);
            if !is_hole {
                self.put(block, &ZEROES[..bytes_of(block, &self.work)])?;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), TargetError> {
        // A put that was answered is durable; what has to be remembered is that it was made.
        if self.is_complete() { Ok(()) } else { self.note(None) }
    }

    fn complete(&self) -> Result<(), TargetError> {
        if self.is_complete() {
            return Ok(());
        }
        let (count, aggregate) = {
            let written = self.written();
            (written.count(), written.aggregate())
        };
        let is_first = self.memory.lock().expect("nobody panics while holding it").completing.is_none();
        self.note(Some(count))?;
        complete(&self.ebs.api, &self.snapshot, count, aggregate, is_first)?;
        self.is_complete.store(true, Ordering::Release);
        Ok(())
    }

    fn read(&self, at: ByteOffset, buffer: &mut [u8]) -> Result<(), TargetError> {
        let mut done = 0;
        while done < buffer.len() {
            let at = at.0 + done as u64;
            let (block, inside) = (block_of(at), (at % BLOCK as u64) as usize);
            let len = (BLOCK - inside).min(buffer.len() - done);
            let piece = &mut buffer[done..done + len];
            match self.tokens(block / WINDOW)?.get(&block) {
                Some(token) => {
                    let bytes = self.ebs.api.get(&self.snapshot, block, token)?;
                    piece.copy_from_slice(&bytes[inside..inside + len]);
                }
                None => piece.fill(0),
            }
            done += len;
        }
        Ok(())
    }

    fn is_hole(&self, range: Range<u64>) -> bool {
        let mut blocks = block_of(range.start)..range.end.div_ceil(BLOCK as u64) as u32;
        blocks.all(|block| self.tokens(block / WINDOW).is_ok_and(|tokens| !tokens.contains_key(&block)))
    }

    fn finish(&self, now: UnixMillis) -> Result<Point, TargetError> {
        if let Some(point) = &self.point {
            return Ok(point.clone());
        }
        if !self.is_complete() {
            return Err(TargetError::Conflict(format!("{} is not completed, so it can be no point", self.snapshot)));
        }
        let point = self.work.point(self.snapshot.clone(), now);
        let mut tags = tags::of_point(&self.work.image, &point);
        tags.push((STATE, PROVED.into()));
        self.ebs.api.tag(&self.snapshot, &tags)?;
        Ok(point)
    }
}

/// Asks for a snapshot to be completed and waits until AWS says that it is.
pub(crate) fn complete(
    api: &Api,
    snapshot: &str,
    count: u64,
    aggregate: Option<Sum>,
    is_first: bool,
) -> Result<(), TargetError> {
    let refused = api.complete(snapshot, count, aggregate, is_first)?;
    let failed = |said: String| TargetError::Conflict(format!("{snapshot} {said}; give the run up and begin anew"));
    let longest = if refused.is_some() { HEARD } else { COMPLETE };
    let waited = api.ec2.client.wait_until(&format!("{snapshot} completed"), longest, || {
        match api.look(snapshot)?.map(|found| found.state).as_deref() {
            Some("completed") => Ok(Some(())),
            Some("pending") => Ok(None),
            Some(state) => Err(failed(format!("went into the state `{state}`"))),
            None => Err(failed("is gone".into())),
        }
    });
    match (waited, refused) {
        (Err(TargetError::Answer { .. }), Some(refused)) => Err(refused),
        (waited, _) => waited,
    }
}

/// The last block of a volume may be shorter for us; for AWS it is whole.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

fn block_of(at: u64) -> u32 {
    (at / BLOCK as u64) as u32
}

/// Bytes of a block that are the volume's.
fn bytes_of(block: u32, work: &Work) -> usize {
    (work.size.0.saturating_sub(u64::from(block) * BLOCK as u64)).min(BLOCK as u64) as usize
}
