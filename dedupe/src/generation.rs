//! Lineages and generations as the index keeps them.

use crate::id::{ByteCount, GenerationId, Kind, LineageId, Root, SiteId, SlabNumber, UnixMillis};
use serde::{Deserialize, Serialize};

/// The generations of one volume, from its seed on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// Made once, at random, where the lineage began.
    pub id: LineageId,
    /// What it holds.
    pub kind: Kind,
    /// The volume's name at its site.
    pub name: String,
    /// The site that it comes from; the edge leaves it out.
    pub site: Option<SiteId>,
    /// The generation of another lineage that this one forked from (re-seed, rollback, failback).
    pub fork_of: Option<GenerationId>,
}

/// One point in time of one volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Unique without a counter.
    pub id: GenerationId,
    /// Its lineage.
    pub lineage: LineageId,
    /// Order in this store, from 1; what people see. Says nothing at the other end.
    pub number: u64,
    /// The generation that it was made from.
    pub parent: Option<GenerationId>,
    /// Size of the volume.
    pub size: ByteCount,
    /// When it was captured.
    pub captured_at: UnixMillis,
    /// Set once it is complete and proved; before that it is a draft, which nobody sees.
    pub sealed: Option<Sealed>,
    /// What it took.
    pub stats: GenerationStats,
    /// What the source looked like, so that a capture is only resumed on the same; empty elsewhere.
    pub source: Vec<u8>,
    /// All slabs below this one are captured and durable: where an interrupted capture goes on.
    pub scanned: SlabNumber,
}

impl Generation {
    /// Whether it is complete and proved.
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }
}

/// The proof of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sealed {
    /// Hash of the raw bytes.
    pub root: Root,
    /// When it was proved here.
    pub at: UnixMillis,
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationStats {
    /// Blocks with new bytes.
    pub new_blocks: u64,
    /// Blocks that became zeroes.
    pub zeroed_blocks: u64,
    /// Blocks taken from elsewhere by reference.
    pub copied_blocks: u64,
    /// Bytes that packs grew by.
    pub stored_bytes: u64,
    /// Bytes of its parcels as they travelled.
    pub coded_bytes: u64,
    /// Parcels taken in.
    pub parcels: u32,
}

/// What a new generation starts with.
#[derive(Clone, Debug)]
pub struct NewGeneration {
    /// Its id; that of a draft goes on with it.
    pub id: GenerationId,
    /// Its lineage, which must be known.
    pub lineage: LineageId,
    /// The sealed generation that it builds on; `None` for a seed.
    pub parent: Option<GenerationId>,
    /// Size of the volume.
    pub size: ByteCount,
    /// When it was captured.
    pub captured_at: UnixMillis,
    /// What the source looks like; empty at the receiver.
    pub source: Vec<u8>,
}
