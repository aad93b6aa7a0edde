//! Resemblance: features of a block that another block has too when most of its short byte strings are the same, although no 64 bytes
//! in a row are. As in Odess (Zou and others, 2021): a rolling gear hash over 16 bytes samples positions, each of twelve linear
//! transforms keeps its largest value, and four of these together make a super-feature.
//!
//! Super-features share the anchors' index, within the same range of hashes, so that thinning the index thins them alike.

use crate::anchors::{DENSEST, GEAR};

/// Bits that the gear hash shifts a byte: 64 / 4 = a window of 16 bytes.
const SHIFT: u32 = 4;
/// One position in 16 is a sample: 256 of a block, enough for a stable maximum.
const SAMPLE_LOG: u32 = 4;
const GROUPS: usize = 3;
const PER_GROUP: usize = 4;

/// Multipliers and addends of the transforms: odd numbers from the gear table, so fixed for ever with it.
const TRANSFORMS: [(u64, u64); GROUPS * PER_GROUP] = {
    let mut transforms = [(0, 0); GROUPS * PER_GROUP];
    let mut at = 0;
    while at < transforms.len() {
        transforms[at] = (GEAR[2 * at] | 1, GEAR[2 * at + 1]);
        at += 1;
    }
    transforms
};

/// The super-features of a block, as hashes for the anchors' index. Two blocks that share one resemble each other.
pub(crate) fn features(block: &[u8]) -> [u64; GROUPS] {
    let mut most = [0u64; GROUPS * PER_GROUP];
    let mut hash = 0u64;
    for &byte in block {
        hash = (hash << SHIFT).wrapping_add(GEAR[byte as usize]);
        if hash >> (64 - SAMPLE_LOG) == 0 {
            for (most, (times, plus)) in most.iter_mut().zip(TRANSFORMS) {
                *most = (*most).max(hash.wrapping_mul(times).wrapping_add(plus));
            }
        }
    }
    let mut features = [0; GROUPS];
    for (group, feature) in features.iter_mut().enumerate() {
        let mut mixed = group as u64 + 1;
        for value in &most[group * PER_GROUP..(group + 1) * PER_GROUP] {
            mixed = (mixed ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        // Within the hashes of the densest sample, like an anchor's.
        *feature = mixed >> DENSEST;
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_resembles_its_edited_self_and_not_another() {
        let mut other = vec![0; 4096];
        blake3::Hasher::new_derive_key("resemblance").finalize_xof().fill(&mut other);
        let mut block = other.clone();
        block.rotate_left(1000);
        block.iter_mut().for_each(|byte| *byte ^= 0x5a);
        let mut resembling = 0;
        for at in 0..16 {
            // A changed byte every 100: no two strings of 128 bytes are the same.
            let mut edited = block.clone();
            edited.iter_mut().skip(at).step_by(997).for_each(|byte| *byte ^= 1);
            let (a, b) = (features(&block), features(&edited));
            resembling += usize::from(a.iter().zip(b).any(|(a, b)| *a == b));
            assert!(features(&other).iter().zip(a).all(|(a, b)| *a != b));
        }
        assert!(resembling >= 12, "{resembling} of 16");
    }
}
