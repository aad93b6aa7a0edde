//! How the memory ceiling is dealt out: one function, so that the parts are known to fit together.

use dedupe::{ByteCount, CodecMemory, EncoderOptions, SLAB};

/// The smallest ceiling that works: below it no room is left for a prefix, and deltas stop being small.
pub const MIN_MEMORY: ByteCount = ByteCount(384 << 20);
/// The default ceiling: what a branch's box of 8 GiB can always spare.
pub const DEFAULT_MEMORY: ByteCount = ByteCount(1 << 30);

/// Program, runtime, QUIC windows, the journal's cache, zstd's smaller tables, allocator slack: with 172 MiB the peak was 272 MiB at a ceiling of 384.
const FIXED: usize = 128 << 20;
/// One capture worker: a slab's record old and new, a run of new bytes on its way into chunks (4 MiB), its read buffer (1 MiB), compression state.
const PER_WORKER: usize = 8 << 20;
/// One capture worker of a source that is far away: its read buffer is 3 MiB larger, and what is under way is held a second time.
const PER_FAR_WORKER: usize = PER_WORKER + (6 << 20);
/// New bytes of one parcel at most; larger ones brought nothing once what was just sent is a base too.
const MAX_PARCEL: usize = 32 << 20;
/// Old blocks chosen by anchors for one parcel at most: up to here the ratio still improved.
const MAX_CHOSEN: usize = 64 << 20;
/// Recently sent bytes that a parcel may refer to at most.
const MAX_RECENT: usize = 64 << 20;
/// Anchors on disk per byte of content cache: about 0.1 %, but not so few that a small cache has none.
const ANCHOR_SHARE: u64 = 512;
const MIN_ANCHORS: u64 = 64 << 20;

/// What each part may use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Cache of the store's index.
    pub index_cache: usize,
    /// Cache of slab records, chunks and chunk names.
    pub record_cache: usize,
    /// A pack in the making; held in memory until it is written.
    pub pack: usize,
    /// Threads that capture at the same time.
    pub capture_workers: usize,
    /// Everything that coding one parcel takes: prefix, parcel, coder tables, output.
    pub encoder: usize,
}

impl Budget {
    /// Deals out `memory` (at least [`MIN_MEMORY`]) for at most `workers` capture threads.
    ///
    /// A fourteenth each to the index cache and the record cache, a thirty-second to the pack in the making (counted twice: one fills while one is written);
    /// capture gets at most a twelfth; what is left after [`FIXED`] is the encoder's.
    pub fn of(memory: ByteCount, workers: usize) -> Budget {
        let memory = usize::try_from(memory.0.max(MIN_MEMORY.0)).unwrap_or(usize::MAX);
        let (index_cache, record_cache, pack) = (memory / 14, memory / 14, (memory / 32).min(32 << 20));
        let capture_workers = workers.clamp(1, memory / 12 / PER_WORKER);
        let encoder = memory - FIXED - index_cache - record_cache - 2 * pack - capture_workers * PER_WORKER;
        Budget { index_cache, record_cache, pack, capture_workers, encoder }
    }

    /// How the encoder's share is used, with anchors for a content cache of `cache` bytes.
    ///
    /// Prefix, parcel and output are held side by side, and zstd has its tables beside them: eight bytes for each entry of the long-distance table and four
    /// for each of the chain table.
    pub fn encoder_options(&self, cache: ByteCount) -> EncoderOptions {
        let whole_slabs = |bytes: usize| (bytes / SLAB).max(1) * SLAB;
        let log = |bytes: usize| bytes.ilog2();
        let parcel = whole_slabs(self.encoder / 16).min(MAX_PARCEL);
        let (chosen, recent) = ((self.encoder / 8).min(MAX_CHOSEN), (self.encoder / 8).min(MAX_RECENT));
        // At most a quarter of the share, and 24 is what the measured ratios were reached with.
        let long_log = log(self.encoder / 4 / 8).min(24);
        // What is left; below 2^24 entries the deep search gains nothing.
        let left = self.encoder.saturating_sub(chosen + recent + 3 * parcel + (8 << long_log));
        let chain_log = Some(log((left / 4).max(1)).min(26)).filter(|log| *log >= 24).unwrap_or(0);
        let anchors = (cache.0 / ANCHOR_SHARE).max(MIN_ANCHORS);
        EncoderOptions { parcel, chosen, recent, anchors, codec: CodecMemory { long_log, chain_log } }
    }
}

/// How many workers of a source that is far away have room in the memory of `workers`. Two where there are two: one alone would leave the line idle while
/// it hashes; the 12 MiB that they take more are within the slack of [`FIXED`].
pub fn far_workers(workers: usize) -> usize {
    (workers * PER_WORKER / PER_FAR_WORKER).max(workers.min(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_never_exceed_the_ceiling() {
        for mib in (384..8192).step_by(13) {
            for workers in [1, 2, 4, 64] {
                let memory = ByteCount(mib << 20);
                let budget = Budget::of(memory, workers);
                let sum = FIXED
                    + budget.index_cache
                    + budget.record_cache
                    + 2 * budget.pack
                    + budget.capture_workers * PER_WORKER
                    + budget.encoder;
                assert!(sum as u64 <= memory.0, "{mib} MiB, {workers} workers: {budget:?}");
                assert!(budget.capture_workers >= 1);
                let options = budget.encoder_options(ByteCount(0));
                // Chosen, recent, same addresses, the parcel itself and its output, and the tables.
                let buffers = options.chosen + options.recent + 3 * options.parcel;
                let tables = (8 << options.codec.long_log)
                    + if options.codec.chain_log > 0 { 4 << options.codec.chain_log } else { 0 };
                assert!(buffers + tables <= budget.encoder, "{mib} MiB: {options:?}");
            }
        }
    }

    #[test]
    fn workers_of_far_sources_fit_into_the_memory_of_near_ones() {
        assert_eq!([1, 2, 4, 8, 64].map(far_workers), [1, 2, 2, 4, 36]);
        assert!((3..256).all(|workers| far_workers(workers) * PER_FAR_WORKER <= workers * PER_WORKER + (12 << 20)));
    }

    #[test]
    fn the_default_reaches_the_measured_sizes_and_the_minimum_works() {
        let default = Budget::of(DEFAULT_MEMORY, 4).encoder_options(ByteCount(200_000_000_000));
        assert_eq!((default.parcel, default.codec.long_log, default.codec.chain_log), (32 << 20, 24, 26));
        assert!(default.chosen >= 60 << 20, "{default:?}");
        assert_eq!(default.anchors, 390_625_000);
        let least = Budget::of(MIN_MEMORY, 4).encoder_options(ByteCount(0));
        assert_eq!((least.parcel, least.codec.chain_log, least.anchors), (16 << 20, 0, MIN_ANCHORS));
        assert!(least.chosen >= 11 << 20, "{least:?}");
    }
}
