//! What a source knows of its own changes, so that a capture reads those and keeps the rest from the generation before.
//!
//! ```text
//!   begin ──► stamp ───────────────────────────┐ durable with generation G, before G is sealed
//!   changed_since(stamp of G's parent) ──► Changes::within, range by range
//!   … what changed is read …                   │
//!   G is sealed                                ▼
//!   done(G) ◄──────── the tracker lets go of what only older stamps need
//! ```
//!
//! Who believes a stamp, and when, is decided by the capture: only if it is that of exactly the generation that is built on. A source only answers for
//! its own: whatever is unclear to it is [`Unknown`], and then everything is read.

use dedupe::GenerationId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// A source's own words for a point in time. Nobody else looks into them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(pub Vec<u8>);

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamp({} bytes)", self.0.len())
    }
}

/// Why a source cannot say what changed, as part of a sentence. The capture reads everything then, and says this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

/// A source that follows its changes. Calls block, with deadlines.
pub trait Tracking: Send + Sync {
    /// Begins to follow the changes since what this capture reads, which is what the source holds now or held a little before. Called once for each
    /// capture, before anything is read; a capture that fails never uses the stamp.
    fn begin(&self) -> Result<Stamp, Unknown>;

    /// Where the source may differ from what it held when it gave `stamp`: at least everything that differs, never less.
    fn changed_since(&self, stamp: &Stamp) -> Result<Box<dyn Changes + '_>, Unknown>;

    /// `generation` is sealed, and `stamp`, which [`begin`](Tracking::begin) gave for it, is durable: older stamps are not asked for any more. May never be
    /// called after a crash; the next `done` then stands for it too.
    fn done(&self, generation: GenerationId, stamp: &Stamp);
}

/// What changed. Asked for a part at a time, so that the memory it takes does not grow with the volume.
pub trait Changes: Send + Sync {
    /// How many bytes changed, about: for progress.
    fn bytes(&self) -> u64;

    /// The ranges within `range` that may differ, ascending, not touching each other, in whatever grain the source follows.
    fn within(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, Unknown>;
}
