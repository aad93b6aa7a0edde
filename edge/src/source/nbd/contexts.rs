//! What a server says of its bytes without sending them, window by window, so that a fragmented disk of any size takes little memory.

use super::connection::Connection;
use crate::source::SourceError;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are asked about at once. Each question costs a round trip: with 20 ms a walk over 40 TB takes 13 minutes; at worst, with every second block of 4 KiB
/// another, an answer takes 6 MiB of memory.
const WINDOW: u64 = 1 << 30;
/// Windows that are remembered: workers are at neighbouring slabs.
const KEPT: usize = 2;

/// Extents with their flags, ascending and gapless.
type Extents = Arc<Vec<(Range<u64>, u32)>>;

/// One context of one export.
pub(super) struct Context {
    name: String,
    kept: Mutex<VecDeque<(u64, Extents)>>,
}

impl Context {
    pub(super) fn new(name: String) -> Context {
        Context { name, kept: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The extents of the window that holds byte `at`, and where it ends.
    pub(super) fn around(&self, connection: &Connection, at: u64) -> Result<(Extents, u64), SourceError> {
        let start = at / WINDOW * WINDOW;
        let end = connection.size().min(start.saturating_add(WINDOW));
        // Held while the server is asked: the other workers want to know the same.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, extents)) = kept.iter().find(|(known, _)| *known == start) {
            return Ok((extents.clone(), end));
        }
        let extents = Arc::new(self.ask(connection, start..end)?);
        kept.truncate(KEPT - 1);
        kept.push_front((start, extents.clone()));
        Ok((extents, end))
    }

    fn ask(&self, connection: &Connection, window: Range<u64>) -> Result<Vec<(Range<u64>, u32)>, SourceError> {
        let told = connection.ask("ask about the bytes", |client| client.block_status(&self.name, window.clone()))?;
        let mut at = window.start;
        let place = |(len, flags): (u64, u32)| {
            at += len;
            (at - len..at, flags)
        };
        Ok(told.into_iter().map(place).collect())
    }

    /// Calls `each` with all extents of `range`, clipped to it, in their order, until it says `false`.
    pub(super) fn walk(
        &self,
        connection: &Connection,
        range: Range<u64>,
        mut each: impl FnMut(Range<u64>, u32) -> bool,
    ) -> Result<(), SourceError> {
        let mut at = range.start;
        while at < range.end {
            let (extents, end) = self.around(connection, at)?;
            let first = extents.partition_point(|(extent, _)| extent.end <= at);
            for (extent, flags) in extents[first..].iter().take_while(|(extent, _)| extent.start < range.end) {
                let clipped = extent.start.max(at)..extent.end.min(range.end);
                if !each(clipped, *flags) {
                    return Ok(());
                }
            }
            at = end;
        }
        Ok(())
    }
}
