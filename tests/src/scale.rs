//! An edge's store with a volume of 50 TB, without 50 TB: its slab records are those of a small volume, over and over, made when they are asked for.
//!
//! A generation of the small volume is captured for real. Then the index says that the volume is as large as asked, and that each of its slabs has the
//! record of one of the captured ones. On it the edge works as ever: it captures a further generation with changes everywhere, plans and codes it against the
//! one before, codes the beginning of a seed, and proves both. Only what the edge does not read back is made up, so all that grows with a volume grows.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use dedupe::{
    BlockNumber, ByteCount, Draft, Effort, Encoder, Generation, GenerationId, Job, Keys, Kind, Lineage, LineageId,
    LocalPacks, NewGeneration, SLAB, SlabNumber, Store, StoreOptions, UnixMillis,
};
use redb::{Database, ReadableTable, TableDefinition};
use sluice_edge::budget::Budget;

use crate::index::peak_rss;
use crate::report::{Verdict, bytes};
use crate::volumes::Random;

// As in dedupe's index, which says what they are for.
const SLABS: TableDefinition<&[u8; 32], &[u8; 64]> = TableDefinition::new("slabs_v1");
const GENERATIONS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("generations_v1");

/// Slabs that are captured for real: 1 GiB.
const REAL: u64 = 64;
/// Slabs that change in the second generation, spread evenly: eight parcels. They change as a whole, because made-up records do not prove the bytes of
/// their places.
const CHANGED: u64 = 16;
/// Parcels of the seed that are coded: it would take a day to the end.
const SEED_PARCELS: u32 = 4;
/// Rows of one commit.
const BULK: u64 = 1 << 20;

/// An edge of this ceiling with a volume of `size`: the largest resident set over all it does.
pub fn at(folder: &Path, size: ByteCount, memory: ByteCount) -> Result<Vec<Verdict>> {
    let size = ByteCount(size.0 / SLAB as u64 * SLAB as u64);
    let budget = Budget::of(memory, 2);
    std::fs::create_dir_all(folder)?;
    let store = || -> Result<Arc<Store>> {
        let packs = Arc::new(LocalPacks::open(&folder.join("packs"))?);
        let options = StoreOptions {
            index_cache: budget.index_cache,
            record_cache: budget.record_cache,
            pack_target: budget.pack,
        };
        Ok(Store::open(&folder.join("index.redb"), packs, Keys::new(1, [7; 32]), options)?)
    };
    let lineage = LineageId::random();
    let first = {
        let store = store()?;
        store.put_lineage(&Lineage {
            id: lineage,
            kind: Kind::Volume,
            name: "large".into(),
            site: None,
            fork_of: None,
        })?;
        let draft = store.draft(new(lineage, None, ByteCount(REAL * SLAB as u64)))?;
        for slab in 0..REAL {
            scan(&draft, SlabNumber(slab), Random::new(8, slab))?;
        }
        draft.seal(UnixMillis(0))?
    };
    println!("captured {} for real", bytes(first.size.0));
    grow(&folder.join("index.redb"), &first, size, budget.index_cache)?;
    println!("made it {} large", bytes(size.0));
    let store = store()?;
    let mut encoder = Encoder::new(store.clone(), budget.encoder_options(size));
    let seed = code(&mut encoder, None, first.id, SEED_PARCELS)?;

    let started = Instant::now();
    let draft = store.draft(new(lineage, Some(first.id), size))?;
    let begun = started.elapsed();
    for number in 0..CHANGED {
        scan(&draft, SlabNumber(number * size.slabs() / CHANGED), Random::new(9, number))?;
    }
    println!("captured {CHANGED} changed slabs");
    let started = Instant::now();
    let second = draft.seal(UnixMillis(1))?;
    let proved = started.elapsed();
    let delta = code(&mut encoder, Some(first.id), second.id, u32::MAX)?;
    ensure!(delta == CHANGED * SLAB as u64, "{delta} bytes were coded where {} changed", CHANGED * SLAB as u64);
    ensure!(seed > 0, "nothing of the seed was coded");
    let of = |what: &str| format!("edge with a volume of {}: {what}", bytes(size.0));
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    Ok(vec![
        Verdict::reported(&of("slab records"), size.slabs() as f64, "records"),
        Verdict::reported(&of("a capture begins after"), begun.as_secs_f64(), "s"),
        Verdict::reported(&of("its root is worked out in"), proved.as_secs_f64(), "s"),
        Verdict::reported(&of("coded of its delta"), delta as f64 / 1e6, "MB"),
        Verdict::at_most(&of("peak RSS"), mib(memory.0), mib(peak_rss()?), "MiB"),
    ])
}

fn new(lineage: LineageId, parent: Option<GenerationId>, size: ByteCount) -> NewGeneration {
    NewGeneration { id: GenerationId::random(), lineage, parent, size, captured_at: UnixMillis(0), source: Vec::new() }
}

/// Scans one slab of incompressible bytes.
fn scan(draft: &Arc<Draft>, slab: SlabNumber, mut random: Random) -> Result<()> {
    let mut bytes = vec![0; SLAB];
    bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.draw().to_le_bytes()));
    let mut scan = draft.scan(slab)?;
    for piece in bytes.chunks(1 << 20) {
        scan.data(piece)?;
    }
    scan.finish()?;
    if slab.0 % 16 == 15 {
        draft.checkpoint()?;
    }
    Ok(())
}

/// Makes the generation as large as asked: each further slab has the row of a captured one.
fn grow(index: &Path, generation: &Generation, size: ByteCount, cache: usize) -> Result<()> {
    let database = Database::builder().set_cache_size(cache).create(index)?;
    let key = |slab: u64| {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&generation.lineage.0);
        key[16..24].copy_from_slice(&slab.to_be_bytes());
        key[24..].copy_from_slice(&generation.number.to_be_bytes());
        key
    };
    let mut slab = REAL;
    while slab < size.slabs() {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(SLABS)?;
            let rows = (0..REAL).map(|slab| {
                let row = table.get(&key(slab))?.context("each captured slab has a row")?;
                Ok(*row.value())
            });
            let rows: Vec<[u8; 64]> = rows.collect::<Result<_>>()?;
            for slab in slab..(slab + BULK).min(size.slabs()) {
                table.insert(&key(slab), &rows[(slab % REAL) as usize])?;
            }
        }
        transaction.commit()?;
        slab += BULK;
    }
    let transaction = database.begin_write()?;
    let record = postcard::to_stdvec(&Generation { size, ..generation.clone() })?;
    transaction.open_table(GENERATIONS)?.insert(&generation.id.0, record.as_slice())?;
    Ok(transaction.commit()?)
}

/// Codes at most so many parcels; returns the bytes that went into them.
fn code(encoder: &mut Encoder, base: Option<GenerationId>, target: GenerationId, most: u32) -> Result<u64> {
    let held = |id: GenerationId| base == Some(id);
    let (mut cursor, mut fresh) = (BlockNumber(0), 0);
    for number in 0..most {
        let job = Job { base, target, cursor, number, plain: false };
        let Some(plan) = encoder.plan(&job, &held)? else { break };
        let encoded = encoder.encode(plan, Effort::Normal, &held)?;
        (cursor, fresh) = (encoded.cursor, fresh + encoded.stats.fresh_bytes);
        println!("coded parcel {number}, up to block {}", cursor.0);
    }
    Ok(fresh)
}
