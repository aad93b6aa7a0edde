//! How the memory ceiling is dealt out: one function, so that the parts are known to fit together.

use dedupe::{ByteCount, SLAB};

/// The smallest ceiling that works: below it no room is left for a prefix, and deltas stop being small.
pub const MIN_MEMORY: ByteCount = ByteCount(384 << 20);
/// The default ceiling: what a branch's box of 8 GiB can always spare.
pub const DEFAULT_MEMORY: ByteCount = ByteCount(1 << 30);

/// Program, runtime, QUIC windows, the journal's cache, allocator slack: measured below 64 MiB, half as much again for safety.
const FIXED: usize = 96 << 20;
/// One capture worker: a slab's new chunks on their way into a pack (16 MiB), its read buffer (1 MiB), leaf values and compression state.
const PER_WORKER: usize = SLAB + (8 << 20);
/// New bytes of one parcel at most. Larger ones bring nothing (16 MiB with recently-sent matching equals 64 MiB).
const MAX_PARCEL: usize = 64 << 20;
/// Reference prefix of one parcel at most: up to here the ratio still improves.
const MAX_PREFIX: usize = 200 << 20;

/// What each part may use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Cache of the store's index.
    pub index_cache: usize,
    /// Cache of decoded slab records.
    pub record_cache: usize,
    /// Threads that capture at the same time.
    pub capture_workers: usize,
    /// Everything that coding one parcel takes: prefix, parcel, coder tables, output.
    pub encoder: usize,
    /// New bytes of one parcel.
    pub parcel: usize,
    /// Reference prefix of one parcel.
    pub prefix: usize,
}

impl Budget {
    /// Deals out `memory` (at least [`MIN_MEMORY`]) for at most `workers` capture threads.
    ///
    /// An eighth goes to the index cache and a sixteenth to slab records; capture gets at most an eighth; what is left after [`FIXED`] is the encoder's,
    /// of which a tenth is the parcel and three tenths the prefix, because a coder needs about as much again for its tables as it has in its window.
    pub fn of(memory: ByteCount, workers: usize) -> Budget {
        let memory = usize::try_from(memory.0.max(MIN_MEMORY.0)).unwrap_or(usize::MAX);
        let index_cache = memory / 8;
        let record_cache = memory / 16;
        let capture_workers = workers.clamp(1, (memory / 8 / PER_WORKER).max(1));
        let encoder = memory - FIXED - index_cache - record_cache - capture_workers * PER_WORKER;
        let whole_slabs = |bytes: usize| (bytes / SLAB).max(1) * SLAB;
        Budget {
            index_cache,
            record_cache,
            capture_workers,
            encoder,
            parcel: whole_slabs(encoder / 10).min(MAX_PARCEL),
            prefix: (encoder / 10 * 3).min(MAX_PREFIX),
        }
    }
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
                    + budget.capture_workers * PER_WORKER
                    + budget.encoder;
                assert!(sum as u64 <= memory.0, "{mib} MiB, {workers} workers: {budget:?}");
                assert!(2 * budget.parcel + budget.prefix <= budget.encoder, "{mib} MiB: {budget:?}");
                assert!(budget.capture_workers >= 1);
            }
        }
    }

    #[test]
    fn the_default_reaches_the_measured_sizes_and_the_minimum_works() {
        let default = Budget::of(DEFAULT_MEMORY, 4);
        assert_eq!(default.parcel, 64 << 20);
        assert!(default.prefix > 180 << 20, "{default:?}");
        let least = Budget::of(MIN_MEMORY, 4);
        assert_eq!(least.parcel, 16 << 20);
        assert!(least.prefix >= 40 << 20, "{least:?}");
    }
}
