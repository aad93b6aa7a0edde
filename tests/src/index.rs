//! The store's index at the size of 50 TB, without 50 TB: its own tables, filled with made-up rows.
//!
//! The file is made by [`dedupe::Store::open`], so its layout is the store's; rows go into the tables of samples and anchors as
//! commits put them there: sorted, in batches, one durable transaction each.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use dedupe::{ByteCount, Keys, LocalPacks, Store, StoreOptions};
use redb::{Database, ReadableDatabase, TableDefinition};
use sluice_edge::budget::Budget;

use crate::report::{Verdict, bytes};
use crate::volumes::Random;

// As in dedupe's index, which says what they are for.
const CHUNK_SAMPLES: TableDefinition<u64, &[u8; 16]> = TableDefinition::new("chunk_samples_v1");
const ANCHORS: TableDefinition<&[u8; 16], ()> = TableDefinition::new("anchors_v1");

/// Bytes of file that dedupe reckons an anchor with when it thins them out to their budget.
const BYTES_PER_ANCHOR: u64 = 36;
/// Rows of one commit of a bulk build: what redb sorts into pages at once without outgrowing its cache.
const BULK: u64 = 1 << 20;
/// Samples of one durable commit while capturing: a checkpoint every 256 MiB, one sample per 512 KiB of new data, and as many
/// again for what several slabs share.
const CHECKPOINT: u64 = 1024;
/// Durable commits that are timed.
const COMMITS: u64 = 200;
/// Look-ups that are timed.
const LOOKUPS: usize = 400_000;
/// New data that a night may bring, of which all anchors are looked up in an hour at most.
const NIGHT: f64 = 40e9;

/// One index file in a folder, with the memory that an edge of 1 GiB gives it.
pub struct IndexBench {
    folder: PathBuf,
    cache: usize,
}

impl IndexBench {
    /// A new index in `folder`.
    pub fn make(folder: &Path) -> Result<Self> {
        let cache = Budget::of(ByteCount(1 << 30), 2).index_cache;
        let bench = Self { folder: folder.to_path_buf(), cache };
        std::fs::create_dir_all(folder)?;
        drop(bench.store()?); // makes the tables
        Ok(bench)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("index.redb")
    }

    fn store(&self) -> Result<Arc<Store>> {
        let packs = Arc::new(LocalPacks::open(&self.folder.join("packs"))?);
        let options = StoreOptions { index_cache: self.cache, ..StoreOptions::default() };
        Ok(Store::open(&self.file(), packs, Keys::new(1, [7; 32]), options)?)
    }

    fn database(&self) -> Result<Database> {
        Ok(Database::builder().set_cache_size(self.cache).create(self.file())?)
    }

    /// Samples for 50 TB: a sorted bulk build of nine tenths, durable inserts of the rest's begin, look-ups.
    pub fn samples(&self, count: u64) -> Result<Vec<Verdict>> {
        let built = count / 10 * 9;
        let database = self.database()?;
        let started = Instant::now();
        fill(
            &database,
            built,
            |table: &mut redb::Table<'_, u64, &[u8; 16]>, key| table.insert(key, &value(key)).map(|_| ()),
            CHUNK_SAMPLES,
        )?;
        let bulk = built as f64 / started.elapsed().as_secs_f64();
        let durable = self.durable_inserts(&database, built)?;
        let found = lookups(&database, built)?;
        drop(database);
        let size = std::fs::metadata(self.file())?.len();
        let millions = count as f64 / 1e6;
        let of = |what: &str| format!("{what}, {millions} M samples");
        Ok(vec![
            Verdict::at_least(&of("sorted bulk rebuild of the index"), 200_000.0, bulk, "samples/s"),
            Verdict::at_least(&of("durable inserts at the end"), 5_000.0, durable, "samples/s"),
            Verdict::reported(&of("look-ups"), found, "look-ups/s"),
            Verdict::reported(&of("index file"), size as f64 / 1e6, "MB"),
            Verdict::at_most(
                &of("peak RSS of building and using it"),
                1024.0,
                peak_rss()? as f64 / (1 << 20) as f64,
                "MiB",
            ),
        ])
    }

    fn durable_inserts(&self, database: &Database, built: u64) -> Result<f64> {
        let started = Instant::now();
        let mut random = Random::new(5, built);
        for _ in 0..COMMITS {
            let mut keys: Vec<u64> = (0..CHECKPOINT).map(|_| random.draw()).collect();
            keys.sort_unstable();
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(CHUNK_SAMPLES)?;
                for key in keys {
                    table.insert(key, &value(key))?;
                }
            }
            transaction.commit()?; // durable: redb syncs before it returns
        }
        Ok((COMMITS * CHECKPOINT) as f64 / started.elapsed().as_secs_f64())
    }

    /// Anchors for a content cache of this size, at the budget that an edge gives them.
    pub fn anchors(&self, cache: u64) -> Result<Vec<Verdict>> {
        let budget = Budget::of(ByteCount(1 << 30), 2).encoder_options(ByteCount(cache)).anchors;
        let count = budget / BYTES_PER_ANCHOR;
        let database = self.database()?;
        let started = Instant::now();
        fill(
            &database,
            count,
            |table: &mut redb::Table<'_, &[u8; 16], ()>, key| table.insert(&anchor(key), ()).map(|_| ()),
            ANCHORS,
        )?;
        let build = count as f64 / started.elapsed().as_secs_f64();
        let rate = anchor_lookups(&database, count)?;
        drop(database);
        let size = std::fs::metadata(self.file())?.len();
        // The index samples one position in so many; new bytes are looked up at the same rate.
        let sample = (cache as f64 / count as f64).max(256.0).log2().ceil().exp2();
        let needed = NIGHT / sample / 3600.0;
        let of = |what: &str| format!("{what}, anchors for {} of cache", bytes(cache));
        Ok(vec![
            Verdict::reported(&of("number"), count as f64, "anchors"),
            Verdict::reported(&of("index file"), size as f64 / 1e6, "MB"),
            Verdict::reported(&of("sorted bulk build"), build, "anchors/s"),
            Verdict::at_least(&of("look-ups, for 40 GB of new data in an hour"), needed.ceil(), rate, "look-ups/s"),
            Verdict::at_most(&of("peak RSS"), 1024.0, peak_rss()? as f64 / (1 << 20) as f64, "MiB"),
        ])
    }
}

/// Puts `count` rows in, in ascending order, [`BULK`] a commit. Keys are spread evenly, as hashes are.
fn fill<K: redb::Key + 'static, V: redb::Value + 'static>(
    database: &Database,
    count: u64,
    mut insert: impl FnMut(&mut redb::Table<'_, K, V>, u64) -> Result<(), redb::StorageError>,
    definition: TableDefinition<'_, K, V>,
) -> Result<()> {
    let mut done = 0;
    while done < count {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(definition)?;
            for number in done..(done + BULK).min(count) {
                insert(&mut table, spread(number, count))?;
            }
        }
        transaction.commit()?;
        done += BULK;
    }
    Ok(())
}

fn spread(number: u64, count: u64) -> u64 {
    ((u128::from(number) << 64) / u128::from(count)) as u64
}

fn value(key: u64) -> [u8; 16] {
    (u128::from(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1 << 100).to_le_bytes()
}

fn anchor(hash: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&hash.to_be_bytes());
    key[8..].copy_from_slice(&hash.wrapping_mul(0x94d0_49bb_1331_11eb).to_be_bytes());
    key
}

fn lookups(database: &Database, count: u64) -> Result<f64> {
    let mut random = Random::new(6, count);
    let table = database.begin_read()?.open_table(CHUNK_SAMPLES)?;
    let started = Instant::now();
    for _ in 0..LOOKUPS {
        let _ = table.get(spread(random.draw() % count, count))?;
    }
    Ok(LOOKUPS as f64 / started.elapsed().as_secs_f64())
}

/// Sorted batches, as a parcel's look-ups are.
fn anchor_lookups(database: &Database, count: u64) -> Result<f64> {
    const BATCH: usize = 8192;
    let mut random = Random::new(7, count);
    let table = database.begin_read()?.open_table(ANCHORS)?;
    let started = Instant::now();
    for _ in 0..LOOKUPS / BATCH {
        let mut hashes: Vec<u64> = (0..BATCH).map(|_| random.draw()).collect();
        hashes.sort_unstable();
        for hash in hashes {
            let (mut first, mut last) = ([0; 16], [0xff; 16]);
            first[..8].copy_from_slice(&hash.to_be_bytes());
            last[..8].copy_from_slice(&hash.to_be_bytes());
            let _ = table.range::<&[u8; 16]>(&first..=&last)?.next();
        }
    }
    Ok((LOOKUPS / BATCH * BATCH) as f64 / started.elapsed().as_secs_f64())
}

/// Largest resident set of this process so far, bytes. A file that is mapped or cached by the kernel does not count.
pub(crate) fn peak_rss() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("/proc/self/status has no VmHWM")?;
    let kib: u64 = line.split_whitespace().next().context("VmHWM has a number")?.parse()?;
    Ok(kib * 1024)
}
