//! The one source of chance of the sample volumes: SplitMix64, so that a seed gives the same volume on every machine.

/// A seeded generator. Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator whose draws follow from `seed` and `purpose`, so that one part's draws do not move another's.
    pub fn new(seed: u64, purpose: u64) -> Self {
        // Two draws, because the states of one stream are as far apart as the purposes: one would give shifted copies of one stream.
        let mut random = Self(seed);
        let purposes = random.draw() ^ purpose;
        Self(Self(purposes).draw())
    }

    /// 64 random bits.
    pub fn draw(&mut self) -> u64 {
        // Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound as u64) as usize
    }

    /// A number of the range.
    pub fn within(&mut self, range: std::ops::Range<usize>) -> usize {
        range.start + self.below(range.end - range.start)
    }

    /// A number below `bound`, small ones far more often, as with words and hot rows: a third falls into the first 4 %.
    pub fn skewed(&mut self, bound: usize) -> usize {
        let part = (self.draw() >> 11) as f64 / (1u64 << 53) as f64;
        ((part * part * part) * bound as f64) as usize
    }

    /// One of the slice.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Bytes that no compressor makes smaller.
    pub fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.draw().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_neighbouring_purposes_share_nothing() {
        let draws = |purpose| {
            let mut random = Random::new(11, purpose);
            (0..1000).map(move |_| random.draw())
        };
        let mut seen = std::collections::HashSet::new();
        assert!((0..16).flat_map(draws).all(|draw| seen.insert(draw)));
    }
}
