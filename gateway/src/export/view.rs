//! A generation of the store, read as a block device.

use dedupe::{ByteOffset, Content, SLAB, SlabNumber, StoreError, View};
use nbd::{Errno, Export, Failure, Status};
use std::ops::Range;

/// Extents in one answer at most.
const MOST_EXTENTS: usize = 1024;

/// See the module's documentation.
pub(super) struct StoredView {
    view: View,
}

impl StoredView {
    pub(super) fn new(view: View) -> StoredView {
        StoredView { view }
    }
}

impl Export for StoredView {
    fn size(&self) -> u64 {
        self.view.size().0
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Failure> {
        self.view.read(ByteOffset(at), into).map_err(failed)
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Failure> {
        Err(Failure::read_only())
    }

    fn zero(&self, _: Range<u64>, _: bool) -> Result<(), Failure> {
        Err(Failure::read_only())
    }

    fn trim(&self, _: Range<u64>) -> Result<(), Failure> {
        Err(Failure::read_only())
    }

    fn flush(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn status(&self, range: Range<u64>) -> Result<Vec<(u64, Status)>, Failure> {
        let mut extents: Vec<(u64, Status)> = Vec::new();
        let mut at = range.start;
        for slab in range.start / SLAB as u64..range.end.div_ceil(SLAB as u64) {
            for (run, content) in self.view.runs(SlabNumber(slab)).map_err(failed)? {
                let end = run.end.min(range.end);
                if end <= at {
                    continue;
                }
                let status = match content {
                    Content::Data => Status::Data,
                    Content::Zero => Status::Hole,
                };
                let is_full = extents.len() == MOST_EXTENTS;
                match extents.last_mut() {
                    Some((len, same)) if *same == status => *len += end - at,
                    _ if is_full => return Ok(extents),
                    _ => extents.push((end - at, status)),
                }
                at = end;
            }
        }
        Ok(extents)
    }
}

fn failed(error: StoreError) -> Failure {
    tracing::error!(%error, "a generation that is exported cannot be read");
    Failure::new(Errno::Eio, format!("the store: {error}"))
}
