//! The index: redb tables over the packs. Everything in it can be made anew from the packs' records.
//!
//! | table | key | value |
//! |---|---|---|
//! | `lineages_v1` | lineage | the lineage |
//! | `generations_v1` | generation | the generation |
//! | `orders_v1` | lineage, order | generation |
//! | `slabs_v1` | lineage, slab, order | where the slab's record is, its subtree value |
//! | `touched_v1` | lineage, order, slab | nothing: which slabs a generation changed |
//! | `parcels_v1` | generation, number | the blocks whose bytes the parcel carried |
//! | `packs_v1` | class, pack | its length, the commit that wrote it |
//! | `chunk_samples_v1` | chunk name's prefix, one in 32 | pack |
//! | `mark_samples_v1` | mark, one in 64; lineage | slab |
//! | `zeroes_v1` | slab | subtree value of 16 MiB of zeroes there |
//! | `anchors_v1` | anchor's hash, place | nothing |
//! | `numbers_v1` | short number | lineage: by which anchors name it |
//!
//! A slab's row holds from its order on until a later row: reading generation `n` takes, for each slab, the last row of order <= `n`.
//! So an unchanged slab costs nothing, a draft's rows are invisible until a generation of its order is sealed, and folding
//! generations is forgetting the ones between.

use crate::error::StoreError;
use crate::id::{GenerationId, LineageId, PackId, SlabNumber};
use crate::pack::Place;
use crate::root::Subtree;
use crate::storage::PackClass;
use redb::{Database, ReadableTable, TableDefinition};
use std::path::Path;

pub(crate) const FORMAT: u64 = 1;

type Key16 = &'static [u8; 16];
pub(crate) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(crate) const LINEAGES: TableDefinition<Key16, &[u8]> = TableDefinition::new("lineages_v1");
pub(crate) const GENERATIONS: TableDefinition<Key16, &[u8]> = TableDefinition::new("generations_v1");
pub(crate) const ORDERS: TableDefinition<&[u8; 24], Key16> = TableDefinition::new("orders_v1");
pub(crate) const SLABS: TableDefinition<&[u8; 32], &[u8; 64]> = TableDefinition::new("slabs_v1");
pub(crate) const TOUCHED: TableDefinition<&[u8; 32], ()> = TableDefinition::new("touched_v1");
pub(crate) const PARCELS: TableDefinition<&[u8; 20], &[u8]> = TableDefinition::new("parcels_v1");
/// Value: length in bytes, number of the commit that wrote it.
pub(crate) const PACKS: TableDefinition<&[u8; 17], (u64, u64)> = TableDefinition::new("packs_v1");
pub(crate) const CHUNK_SAMPLES: TableDefinition<u64, Key16> = TableDefinition::new("chunk_samples_v1");
pub(crate) const MARK_SAMPLES: TableDefinition<&[u8; 24], u64> = TableDefinition::new("mark_samples_v1");
pub(crate) const ZEROES: TableDefinition<u64, &[u8; 32]> = TableDefinition::new("zeroes_v1");
pub(crate) const ANCHORS: TableDefinition<&[u8; 16], ()> = TableDefinition::new("anchors_v1");
pub(crate) const NUMBERS: TableDefinition<u64, Key16> = TableDefinition::new("numbers_v1");

/// Opens or makes the index file and all its tables. `cache` is the memory in bytes that redb may use.
pub(crate) fn open(path: &Path, cache: usize) -> Result<Database, StoreError> {
    let database = Database::builder().set_cache_size(cache).create(path)?;
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("format")?.map(|value| value.value());
        match found {
            Some(FORMAT) => {}
            Some(found) => return Err(StoreError::Version { found, wanted: FORMAT }),
            None => {
                meta.insert("format", FORMAT)?;
            }
        }
        transaction.open_table(LINEAGES)?;
        transaction.open_table(GENERATIONS)?;
        transaction.open_table(ORDERS)?;
        transaction.open_table(SLABS)?;
        transaction.open_table(TOUCHED)?;
        transaction.open_table(PARCELS)?;
        transaction.open_table(PACKS)?;
        transaction.open_table(CHUNK_SAMPLES)?;
        transaction.open_table(MARK_SAMPLES)?;
        transaction.open_table(ZEROES)?;
        transaction.open_table(ANCHORS)?;
        transaction.open_table(NUMBERS)?;
    }
    transaction.commit()?;
    Ok(database)
}

fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    let mut at = 0;
    for part in parts {
        key[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    debug_assert_eq!(at, N);
    key
}

pub(crate) fn order_key(lineage: LineageId, order: u64) -> [u8; 24] {
    join(&[&lineage.0, &order.to_be_bytes()])
}

pub(crate) fn slab_key(lineage: LineageId, slab: SlabNumber, order: u64) -> [u8; 32] {
    join(&[&lineage.0, &slab.0.to_be_bytes(), &order.to_be_bytes()])
}

/// Slab and order of a [`slab_key`].
pub(crate) fn of_slab_key(key: &[u8; 32]) -> (SlabNumber, u64) {
    let number = |at: usize| u64::from_be_bytes(key[at..at + 8].try_into().expect("8 bytes"));
    (SlabNumber(number(16)), number(24))
}

pub(crate) fn touched_key(lineage: LineageId, order: u64, slab: SlabNumber) -> [u8; 32] {
    join(&[&lineage.0, &order.to_be_bytes(), &slab.0.to_be_bytes()])
}

pub(crate) fn parcel_key(generation: GenerationId, number: u32) -> [u8; 20] {
    join(&[&generation.0, &number.to_be_bytes()])
}

pub(crate) fn pack_key(class: PackClass, pack: PackId) -> [u8; 17] {
    join(&[&[class as u8], &pack.0])
}

pub(crate) fn of_pack_key(key: &[u8; 17]) -> (PackClass, PackId) {
    let class = if key[0] == PackClass::Data as u8 { PackClass::Data } else { PackClass::Meta };
    (class, PackId(key[1..].try_into().expect("16 bytes")))
}

/// A mark may be in several lineages: each has its own row, so that one that is not usable does not hide one that is.
pub(crate) fn sample_key(sample: u64, lineage: LineageId) -> [u8; 24] {
    join(&[&sample.to_be_bytes(), &lineage.0])
}

/// The lineage of a [`sample_key`].
pub(crate) fn of_sample_key(key: &[u8; 24]) -> LineageId {
    LineageId(key[8..].try_into().expect("16 bytes"))
}

/// What the index says of one slab at one order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SlabRow {
    /// The record; `None` for a slab of zeroes.
    pub place: Option<Place>,
    /// The slab's subtree value; not set for zeroes, whose value follows from the place.
    pub subtree: Subtree,
}

impl SlabRow {
    pub(crate) const ZERO: SlabRow = SlabRow { place: None, subtree: [0; 32] };

    pub(crate) fn encode(&self) -> [u8; 64] {
        match self.place {
            None => [0; 64],
            Some(p) => join(&[
                &[1, 0, 0, 0],
                &self.subtree,
                &p.pack.0,
                &p.offset.to_le_bytes(),
                &p.stored.to_le_bytes(),
                &p.raw.to_le_bytes(),
            ]),
        }
    }

    pub(crate) fn decode(bytes: &[u8; 64]) -> SlabRow {
        if bytes[0] == 0 {
            return SlabRow::ZERO;
        }
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        SlabRow {
            subtree: bytes[4..36].try_into().expect("32 bytes"),
            place: Some(Place {
                pack: PackId(bytes[36..52].try_into().expect("16 bytes")),
                offset: number(52),
                stored: number(56),
                raw: number(60),
            }),
        }
    }
}
