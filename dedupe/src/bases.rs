//! Which old blocks go into a parcel's prefix: anchors of the new bytes vote, each for one block, and the best blocks win.
//!
//! Measured: one vote is enough; each anchor's vote goes to its copy in the best supported region; widen by two blocks each side;
//! keep chosen blocks in address order. Asking for two votes, or ordering by votes, lost.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

/// A block of one of the prefix's sources: source number above, block number below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Base(u64);

/// Blocks within 64 KiB support each other when several hold the same anchor.
const REGION_LOG: u32 = 4;
const BLOCK_BITS: u32 = 48;

impl Base {
    pub(crate) fn new(source: usize, block: u64) -> Base {
        Base((source as u64) << BLOCK_BITS | block)
    }

    pub(crate) fn source(self) -> usize {
        (self.0 >> BLOCK_BITS) as usize
    }

    pub(crate) fn block(self) -> u64 {
        self.0 & ((1 << BLOCK_BITS) - 1)
    }

    fn region(self) -> u64 {
        self.0 >> REGION_LOG
    }

    /// The block so many further on, or back.
    fn step(self, by: i64) -> Option<Base> {
        let block = self.block().checked_add_signed(by)?;
        Some(Base::new(self.source(), block))
    }
}

/// Chooses at most `budget` blocks from `pairs` of (anchor of the new bytes, block that has it). `given` blocks are in the prefix
/// anyway: what they answer is not asked of others. `exists` says whether a neighbour may be taken.
pub(crate) fn choose(
    pairs: &mut [(u64, Base)],
    given: &HashSet<Base>,
    widen: i64,
    budget: usize,
    exists: impl Fn(Base) -> bool,
) -> Vec<Base> {
    pairs.sort_unstable();
    let asked =
        || pairs.chunk_by(|a, b| a.0 == b.0).filter(|copies| !copies.iter().any(|(_, base)| given.contains(base)));
    let mut support: HashMap<u64, u32> = HashMap::new();
    for (_, base) in asked().flatten() {
        *support.entry(base.region()).or_default() += 1;
    }
    let mut votes: HashMap<Base, u32> = HashMap::new();
    for copies in asked() {
        let best = copies.iter().map(|(_, base)| *base).max_by_key(|base| (support[&base.region()], *base));
        if let Some(base) = best {
            *votes.entry(base).or_default() += 1;
        }
    }
    let mut ranked: Vec<(Reverse<u32>, Base)> = votes.into_iter().map(|(base, votes)| (Reverse(votes), base)).collect();
    ranked.sort_unstable();
    ranked.truncate(budget);
    let mut chosen: Vec<Base> = ranked.iter().map(|(_, base)| *base).collect();
    let mut taken: HashSet<Base> = chosen.iter().copied().collect();
    for distance in 1..=widen {
        for (_, base) in &ranked {
            for neighbour in [base.step(-distance), base.step(distance)].into_iter().flatten() {
                if chosen.len() < budget && !given.contains(&neighbour) && exists(neighbour) && taken.insert(neighbour)
                {
                    chosen.push(neighbour);
                }
            }
        }
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_go_to_the_best_supported_region_and_neighbours_follow() {
        let base = |block| Base::new(0, block);
        let mut pairs =
            vec![(1, base(100)), (1, base(900)), (2, base(101)), (3, base(102)), (4, base(50)), (4, base(7))];
        let given = HashSet::from([base(7)]);
        let chosen = choose(&mut pairs, &given, 1, 100, |base| base.block() != 99);
        assert_eq!(chosen, [100, 101, 102, 103].map(base));
        assert_eq!(choose(&mut pairs, &given, 1, 2, |_| true).len(), 2, "never more than the budget");
    }
}
