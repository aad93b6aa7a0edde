//! The trait that every target fulfils.
//!
//! ```text
//!            prepare                 complete              finish
//!   Target ──────────► Filling:  apply, zero, flush ─► read ─────────► Point
//!      ▲                  │ dropped, killed                              │
//!      └── prepare again, or abandon ◄┘                          remove ◄┘
//! ```
//!
//! All methods block and are called by the engine from several threads at once where [`Shape::parallel`] says so. Whatever happens between
//! `prepare` and `finish`, nobody who looks at the target may take what is there for a whole generation.

use crate::error::TargetError;
use dedupe::{ByteCount, ByteOffset, GenerationId, LineageId, Root, RunId, UnixMillis};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A place that holds rehydrated volumes.
pub trait Target: Send + Sync {
    /// What it is and how it wants to be written. Asks nobody.
    fn shape(&self) -> Shape;

    /// Looks at the real place: whether it can be reached, whether the credentials do, how much room there is. Changes nothing.
    fn describe(&self) -> Result<Description, TargetError>;

    /// The restorable points of a volume that this target holds, oldest first. Those that are being filled are none.
    fn points(&self, image: &Image) -> Result<Vec<Point>, TargetError>;

    /// What `prepare` would find. Changes nothing; for the plan.
    fn look(&self, work: &Work) -> Result<Start, TargetError>;

    /// Makes ready for one run, or goes on with the same run after a crash: the same [`Work`] with the same [`RunId`] and notes never leaves two of
    /// anything behind. Says what the place holds now, from which the engine works out what has to be written.
    fn prepare<'a>(&'a self, work: &Work, notes: &'a dyn Notes) -> Result<(Start, Box<dyn Filling + 'a>), TargetError>;

    /// Gives a run up: whatever it made and that is no point goes away, attachments, uploads and unfinished snapshots too. May be called again, for a run
    /// that never began, and after a crash at any moment of `prepare` to `finish`.
    fn abandon(&self, work: &Work, notes: &dyn Notes) -> Result<(), TargetError>;

    /// What a person does to run a machine from a point, where that takes more than naming it: commands, one a line, with what they cost.
    fn next_steps(&self, point: &Point) -> Vec<String> {
        let _ = point;
        Vec::new()
    }

    /// Removes a point for good. That it is gone already is no error; that something else still needs it is.
    fn remove(&self, point: &Point) -> Result<(), TargetError>;
}

/// A target that is being filled by one run.
pub trait Filling: Send + Sync {
    /// Writes bytes. `at` is a multiple of [`Shape::unit`] and the bytes are whole units, [`Shape::most`] at most; only the volume's last unit may be
    /// shorter. The same range may come again, then with the bytes that hold.
    fn apply(&self, at: ByteOffset, bytes: &[u8]) -> Result<(), TargetError>;

    /// Makes a range read as zeroes, without taking room where the place can do that. Units as in `apply`, any length.
    fn zero(&self, range: Range<u64>) -> Result<(), TargetError>;

    /// Makes everything that was applied so durable that the same run, prepared again after a power failure, finds it ([`Start::Resumed`]).
    fn flush(&self) -> Result<(), TargetError>;

    /// Nothing more is applied: makes the whole readable by `read`. It is no point yet. May be called again.
    fn complete(&self) -> Result<(), TargetError>;

    /// Reads back from the place itself, past any cache of ours, after `complete`. The engine compares it with the root.
    fn read(&self, at: ByteOffset, buffer: &mut [u8]) -> Result<(), TargetError>;

    /// Whether the place says itself that a range was never written or reads as zeroes, so that it need not be read. `false` where it cannot say.
    fn is_hole(&self, range: Range<u64>) -> bool {
        let _ = range;
        false
    }

    /// Makes what was completed and proved a restorable point. A crash after this and before the engine writes it down is followed by `prepare` with the
    /// same run, which must answer [`Start::Finished`] or [`Start::Holds`] of this generation.
    fn finish(&self, now: UnixMillis) -> Result<Point, TargetError>;
}

/// How a target wants to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its kind, in a word, as in `target add --kind`.
    pub kind: &'static str,
    /// Bytes: ranges begin and end at its multiples. A power of two, 512 at least.
    pub unit: u64,
    /// Bytes of one `apply` at most; a multiple of `unit`.
    pub most: usize,
    /// Threads that may call at once.
    pub parallel: usize,
    /// How many points of a volume there can be beside each other.
    pub keeps: Keeps,
}

/// How many points of one volume a target can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeps {
    /// The latest alone: the next one is written over it.
    One,
    /// Each stays restorable until it is removed.
    Many,
}

/// What a look at the real place said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Where it is: a path, an address, a region. No secrets.
    pub place: String,
    /// What was checked, in the order in which it was.
    pub checks: Vec<Check>,
    /// Bytes that may still be put there, where it says so.
    pub room: Option<u64>,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What, in a few words.
    pub what: String,
    /// `None`: it is well. Else what is wrong and what to do.
    pub wrong: Option<String>,
}

/// A volume, as targets name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Image {
    /// The tenant's name.
    pub tenant: String,
    /// The site's name.
    pub site: String,
    /// The volume's name.
    pub volume: String,
    /// Its lineage.
    pub lineage: LineageId,
}

impl Image {
    /// A name for files, objects and cloud volumes: for people the site and the volume, and enough of the lineage that no two are alike. Letters, digits,
    /// `-`, `_` and `.`; other characters become `-`. At most 140 bytes.
    pub fn label(&self) -> String {
        let clean = |name: &str| -> String {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            name.chars().take(60).map(|c| if fits(c) { c } else { '-' }).collect()
        };
        format!("{}.{}.{}", clean(&self.site), clean(&self.volume), &self.lineage.to_string()[..12])
    }
}

/// What one run puts on a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Names the run: tokens for idempotent requests are made from it.
    pub run: RunId,
    /// Which volume.
    pub image: Image,
    /// Which generation.
    pub generation: GenerationId,
    /// Its number for people.
    pub number: u64,
    /// When it was captured.
    pub captured: UnixMillis,
    /// Its root.
    pub root: Root,
    /// Size of the volume in bytes.
    pub size: ByteCount,
    /// The point that the engine would like to build on: one that the target named, of a generation that the store still has.
    pub base: Option<Point>,
}

impl Work {
    /// The point that this run makes, under the target's own id for it.
    pub fn point(&self, id: String, made: UnixMillis) -> Point {
        Point {
            id,
            generation: self.generation,
            number: self.number,
            captured: self.captured,
            root: self.root,
            size: self.size,
            made,
        }
    }
}

/// A restorable point: one generation, whole, proved before it was offered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What the target calls it: a path, the id of a snapshot, the key of an object.
    pub id: String,
    /// Which generation.
    pub generation: GenerationId,
    /// Its number for people.
    pub number: u64,
    /// When it was captured.
    pub captured: UnixMillis,
    /// Its root.
    pub root: Root,
    /// Size of the volume in bytes.
    pub size: ByteCount,
    /// When it was made there.
    pub made: UnixMillis,
}

/// What a place holds when a run begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// It reads as zeroes from end to end.
    Zeroes,
    /// Exactly this point, and zeroes behind its end.
    Holds(Point),
    /// A point (`None`: zeroes) and on top of it some of the bytes of other generations: runs that were given up. What differs between the base and any of
    /// them has to be written as well.
    Between {
        /// What it held before.
        base: Option<Point>,
        /// Generations of which a part may be there.
        others: Vec<GenerationId>,
    },
    /// Nobody knows: everything has to be written, zeroes too.
    Unknown(String),
    /// What this very run applied and flushed is there, on top of what it began with.
    Resumed,
    /// This very run finished before: it is a point already.
    Finished(Point),
}

/// A run's own memory, durable before `put` returns. One text of at most [`MOST_NOTES`] bytes, the target's own JSON.
pub trait Notes: Send + Sync {
    /// What was put last.
    fn get(&self) -> Option<String>;
    /// Replaces it.
    fn put(&self, notes: &str) -> Result<(), TargetError>;
}

/// Bytes of a run's notes at most: ids of a few things in a cloud, no lists of blocks.
pub const MOST_NOTES: usize = 64 << 10;
