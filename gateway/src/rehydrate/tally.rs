//! What was put onto targets since the gateway's start, for the figures.

use super::{Done, RehydrateError};
use dedupe::{Progress, TenantId};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

/// The phase in which what was written is read back.
pub(super) const READING_BACK: &str = "reading back";

/// Counts by tenant and name of the target.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<HashMap<(TenantId, String), Counts>>);

/// What was counted of one target since the gateway's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Bytes written, by runs that failed too.
    pub(crate) written: u64,
    /// Bytes read back.
    pub(crate) read_back: u64,
    /// Statements: runs that ended with a proof.
    pub(crate) statements: u64,
    /// Runs that read back something else than was written.
    pub(crate) unproved: u64,
}

impl Tally {
    /// Counts what one attempt did. `phase` is the last one that it told of.
    pub(crate) fn note(
        &self,
        (tenant, target): (TenantId, &str),
        progress: &Progress,
        phase: &str,
        outcome: Result<&Done, &RehydrateError>,
    ) {
        let mut all = self.0.lock().expect("counts are only added to");
        let counts = all.entry((tenant, target.to_owned())).or_default();
        counts.written += progress.stored.load(Ordering::Relaxed);
        match outcome {
            Ok(done) => {
                counts.read_back += done.verified_bytes;
                counts.statements += 1;
                counts.unproved += u64::from(done.repaired);
            }
            Err(error) => {
                let is_reading = phase == READING_BACK;
                counts.read_back += if is_reading { progress.done.load(Ordering::Relaxed) } else { 0 };
                counts.unproved += u64::from(matches!(error, RehydrateError::Unproved { .. }));
            }
        }
    }

    /// What was counted of one target.
    pub(crate) fn of(&self, tenant: TenantId, target: &str) -> Counts {
        let all = self.0.lock().expect("counts are only added to");
        all.get(&(tenant, target.to_owned())).copied().unwrap_or_default()
    }
}
