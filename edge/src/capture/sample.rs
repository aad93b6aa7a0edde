//! Trust but verify: which parts of a volume are read although nothing is said to have changed there.
//!
//! The volume is cut into units of [`UNIT`]. Each capture takes the next ones in an order that goes over all of them once before any comes again, and
//! that spreads whatever number was taken so far evenly: it goes on by the golden section of their number. Nothing in it is left to chance, so the
//! promises hold for certain where they can:
//!
//! - one wrong block is found within [`Sampling::cover`] captures;
//! - a range that is a share p of the volume, within 3 / (p · units per capture);
//! - wrong blocks at places that nobody chose, in L units, within [`captures_to_find`] with 99 %.

use dedupe::ByteCount;
use std::ops::Range;

/// Bytes that are read in one place: a disk spends about as long on getting there.
pub const UNIT: u64 = 1 << 20;
/// The golden section of 1.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// How much is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Captures within which all of a volume has been read once, 1 to [`MOST_CAPTURES`](Self::MOST_CAPTURES), as far as `most` lets them.
    pub captures: u64,
    /// Bytes that are read for it in one capture at most; what this costs the host is bounded by it. At least [`UNIT`].
    pub most: ByteCount,
}

impl Default for Sampling {
    fn default() -> Sampling {
        // A month of nightly captures; a disk of 40 TB would need 1.3 TB a night for that, so it takes what a slow disk reads in six minutes (64 GB).
        Sampling { captures: 32, most: ByteCount(64 << 30) }
    }
}

impl Sampling {
    /// More would verify a volume less often than once in three years of nights.
    pub const MOST_CAPTURES: u64 = 1000;

    /// Units that one capture reads of a volume of `size`.
    fn units(&self, size: u64) -> u64 {
        let wanted = units(size).div_ceil(self.captures.max(1));
        wanted.min((self.most.0 / UNIT).max(1))
    }

    /// Captures after which all of a volume of `size` has been read once.
    pub fn cover(&self, size: ByteCount) -> u64 {
        units(size.0).div_ceil(self.units(size.0).max(1))
    }
}

fn units(size: u64) -> u64 {
    size.div_ceil(UNIT)
}

/// Captures within which one of `lies` wrong units is found with 99 %, wherever they are, when `cover` captures read everything once.
///
/// Of n units k/cover are read after k captures; that none of L wrong ones is among them has a probability of at most (1 - k/cover)^L.
pub fn captures_to_find(cover: u64, lies: u64) -> u64 {
    let share = 1.0 - 0.01_f64.powf(1.0 / lies.max(1) as f64);
    ((cover as f64 * share).ceil() as u64).clamp(1, cover.max(1))
}

/// The units that one capture reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// Ascending.
    units: Vec<u64>,
    size: u64,
    /// Where the next capture goes on.
    pub(super) next: u64,
}

impl Sample {
    /// Takes the units of a volume of `size` from place `from` of the order on.
    pub(super) fn draw(size: u64, from: u64, sampling: Sampling) -> Sample {
        let all = units(size);
        let (step, count) = (step(all), sampling.units(size).min(all));
        let unit = |place: u64| (u128::from(place % all) * u128::from(step) % u128::from(all)) as u64;
        let mut units: Vec<u64> = (from..from + count).map(unit).collect();
        units.sort_unstable();
        Sample { units, size, next: (from + count) % all }
    }

    /// The sampled ranges that begin within `range`, whose bounds are whole units.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.units.partition_point(|unit| unit * UNIT < range.start);
        let inside = self.units[first..].iter().take_while(move |unit| **unit * UNIT < range.end);
        inside.map(|unit| unit * UNIT..self.size.min((unit + 1) * UNIT))
    }
}

/// The number nearest to the golden section of `all` that has no divisor in common with it: its multiples come by everything.
fn step(all: u64) -> u64 {
    let near = (all as f64 * GOLDEN).round() as u64;
    let by_distance = (0..all).flat_map(|off| [near.saturating_sub(off), near + off]);
    by_distance.into_iter().find(|step| (1..all).contains(step) && divisor(*step, all) == 1).unwrap_or(1)
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "these are lists of ranges")]

    use super::*;
    use std::collections::BTreeSet;

    fn drawn(size: u64, sampling: Sampling) -> Vec<Vec<u64>> {
        let mut next = 0;
        let mut draw = || {
            let sample = Sample::draw(size, next, sampling);
            next = sample.next;
            sample.units
        };
        (0..sampling.cover(ByteCount(size))).map(|_| draw()).collect()
    }

    #[test]
    fn all_of_a_volume_is_read_once_within_the_captures_that_were_promised() {
        for units in [1, 2, 3, 31, 32, 33, 100, 1024, 2047, 4096] {
            for captures in [1, 2, 7, 32, 1000] {
                let sampling = Sampling { captures, ..Sampling::default() };
                let rounds = drawn(units * UNIT - 512, sampling);
                assert!(rounds.len() as u64 <= captures, "{units} units, {captures} captures");
                let all: BTreeSet<u64> = rounds.iter().flatten().copied().collect();
                assert_eq!(all.len() as u64, units, "{units} units, {captures} captures");
            }
        }
        let small = Sampling { captures: 4, most: ByteCount(10 * UNIT) };
        assert_eq!(small.cover(ByteCount(1000 * UNIT)), 100);
        assert!(drawn(1000 * UNIT, small).iter().all(|round| round.len() == 10));
    }

    #[test]
    fn a_range_is_met_as_soon_as_is_promised_wherever_it_is() {
        for units in [64u64, 1000, 4096, 10_007] {
            let sampling = Sampling { captures: units, ..Sampling::default() }; // one unit a capture
            let order: Vec<u64> = drawn(units * UNIT, sampling).concat();
            for share in [2, 5, 10, 20] {
                let wide = units / share;
                let promised = (3 * units).div_ceil(wide) as usize;
                for start in 0..units - wide {
                    let met = order.iter().position(|unit| (start..start + wide).contains(unit)).unwrap();
                    assert!(met < promised, "{units} units, {wide} from {start}: after {met}, promised {promised}");
                }
            }
        }
    }

    /// The promise against drawing wrong units many times.
    #[test]
    fn scattered_lies_are_found_as_soon_as_is_promised_99_times_of_100() {
        const UNITS: u64 = 2048;
        let rounds = drawn(UNITS * UNIT, Sampling::default());
        let mut at = 1u64;
        let mut random = || {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (at >> 33) % UNITS
        };
        for lies in [1u64, 2, 4, 20, 64, 200] {
            let promised = captures_to_find(32, lies) as usize;
            let seen: BTreeSet<u64> = rounds[..promised].concat().into_iter().collect();
            let missed = (0..2000).filter(|_| (0..lies).all(|_| !seen.contains(&random()))).count();
            assert!(missed <= 40, "{lies} lies, {promised} captures: {missed} of 2000 not found");
        }
        assert_eq!([1, 4, 16, 64, 256].map(|lies| captures_to_find(32, lies)), [32, 22, 9, 3, 1]);
    }

    #[test]
    fn what_is_sampled_of_a_slab_is_in_its_bounds() {
        let sample = Sample { units: vec![0, 15, 16, 40], size: 40 * UNIT + 512, next: 0 };
        let within: Vec<_> = sample.within(0..16 * UNIT).collect();
        assert_eq!(within, [0..UNIT, 15 * UNIT..16 * UNIT]);
        assert_eq!(sample.within(32 * UNIT..48 * UNIT).collect::<Vec<_>>(), [40 * UNIT..40 * UNIT + 512]);
    }
}
