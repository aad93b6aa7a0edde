//! The proof: BLAKE3 of a volume's raw bytes, kept as values of the hash's own tree so that a small change costs little.
//!
//! BLAKE3 is a binary tree over 1 KiB chunks. An aligned piece of a power of two bytes is an exact subtree, so the values of leaves
//! (32 KiB) and slabs (16 MiB) can be kept and merged into what `b3sum` prints for the whole image, whatever the chunker does.
//! The tree mixes each chunk's position into its value: a leaf of zeroes has another value at every place. So the values of
//! hole slabs are no single constant; they are constants per place, the same for all volumes, and the index keeps them once computed.

use crate::id::{ByteCount, LEAF, Root, RootScheme, SLAB, SlabNumber};
use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use std::sync::atomic::{AtomicU64, Ordering};

/// The value of one subtree.
pub type Subtree = [u8; 32];

/// The value of a leaf: `bytes` at `offset` of the volume. All leaves but a volume's last are [`LEAF`] long.
pub fn leaf(offset: u64, bytes: &[u8]) -> Subtree {
    debug_assert!(offset.is_multiple_of(LEAF as u64) && bytes.len() <= LEAF && !bytes.is_empty());
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The value of a leaf of zeroes.
pub fn zero_leaf(offset: u64, len: usize) -> Subtree {
    static ZEROES: [u8; LEAF] = [0; LEAF];
    leaf(offset, &ZEROES[..len])
}

/// The value of a slab of `len` zeroes.
pub fn zero_slab(slab: SlabNumber, len: usize) -> Subtree {
    static ZEROES: [u8; 1 << 20] = [0; 1 << 20];
    let mut hasher = Hasher::new();
    hasher.set_input_offset(slab.offset().0);
    let mut left = len;
    while left > 0 {
        let step = left.min(ZEROES.len());
        hasher.update(&ZEROES[..step]);
        left -= step;
    }
    hasher.finalize_non_root()
}

/// Merges values of equal pieces (the last may be shorter), first to last, as BLAKE3 does: the left part of a subtree is the
/// largest power of two. Holds one value per level, whatever the number of pieces.
#[derive(Default)]
pub struct Tree {
    stack: Vec<Subtree>,
    count: u64,
}

impl Tree {
    /// Adds the next piece.
    pub fn push(&mut self, piece: Subtree) {
        // Merging waits for the next piece, since the last merge of all is the root's and differs.
        while self.stack.len() > self.count.count_ones() as usize {
            self.merge_top();
        }
        self.stack.push(piece);
        self.count += 1;
    }

    fn merge_top(&mut self) {
        let (right, left) = (self.stack.pop(), self.stack.pop());
        if let (Some(left), Some(right)) = (left, right) {
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }

    /// The value of all pieces as a subtree of something larger; `None` when there were none.
    pub fn subtree(mut self) -> Option<Subtree> {
        while self.stack.len() > 1 {
            self.merge_top();
        }
        self.stack.pop()
    }

    /// The root of a volume of at least two pieces; `None` with fewer, whose root needs the bytes or the finer pieces.
    pub fn root(mut self) -> Option<Root> {
        if self.count < 2 {
            return None;
        }
        while self.stack.len() > 2 {
            self.merge_top();
        }
        let hash = merge_subtrees_root(&self.stack[0], &self.stack[1], Mode::Hash);
        Some(Root { scheme: RootScheme::Blake3, hash: *hash.as_bytes() })
    }
}

/// The subtree of a slab from its leaves.
pub fn slab(leaves: &[Subtree]) -> Subtree {
    let mut tree = Tree::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree.subtree().expect("a slab has at least one leaf")
}

/// The root of raw bytes small enough to be at hand.
pub fn of_bytes(bytes: &[u8]) -> Root {
    Root { scheme: RootScheme::Blake3, hash: *blake3::hash(bytes).as_bytes() }
}

/// What long work shows of itself; cheap to read at any time, from any thread.
#[derive(Default, Debug)]
pub struct Progress {
    /// Bytes to do, as far as known.
    pub total: AtomicU64,
    /// Bytes done.
    pub done: AtomicU64,
    /// Bytes of that which were new, or were written.
    pub stored: AtomicU64,
    cancelled: std::sync::atomic::AtomicBool,
}

impl Progress {
    /// Asks the work to stop at the next good place.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Counts work done.
    pub fn add(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }
}

/// The root of anything that can be read at an offset, by `workers` threads, a slab at a time each.
/// Holes that `is_hole` names are not read. Errors of `read` end the work; a cancelled progress ends it with `None`.
pub fn root_of<E: Send>(
    size: ByteCount,
    workers: usize,
    progress: &Progress,
    is_hole: impl Fn(u64, u64) -> bool + Sync,
    read: impl Fn(u64, &mut [u8]) -> Result<(), E> + Sync,
) -> Result<Option<Root>, E> {
    progress.total.store(size.0, Ordering::Relaxed);
    if size.0 <= SLAB as u64 {
        let mut bytes = vec![0; size.0 as usize];
        read(0, &mut bytes)?;
        progress.add(size.0);
        return Ok(Some(of_bytes(&bytes)));
    }
    let next = AtomicU64::new(0);
    let slabs = size.slabs();
    let work = || -> Result<Vec<(u64, Subtree)>, E> {
        let (mut buffer, mut values) = (vec![0; 1 << 20], Vec::new());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= slabs || progress.is_cancelled() {
                return Ok(values);
            }
            let start = number * SLAB as u64;
            let len = (size.0 - start).min(SLAB as u64);
            let value = if is_hole(start, len) {
                zero_slab(SlabNumber(number), len as usize)
            } else {
                let mut hasher = Hasher::new();
                hasher.set_input_offset(start);
                let mut at = 0;
                while at < len {
                    let step = (len - at).min(buffer.len() as u64) as usize;
                    read(start + at, &mut buffer[..step])?;
                    hasher.update(&buffer[..step]);
                    at += step as u64;
                }
                hasher.finalize_non_root()
            };
            values.push((number, value));
            progress.add(len);
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut values = Vec::new();
    for result in results {
        values.extend(result?);
    }
    if values.len() as u64 != slabs {
        return Ok(None);
    }
    values.sort_unstable_by_key(|(number, _)| *number);
    let mut tree = Tree::default();
    values.iter().for_each(|(_, value)| tree.push(*value));
    Ok(tree.root())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(len: usize) -> Vec<u8> {
        let mut reader = Hasher::new_derive_key("root test").finalize_xof();
        let mut bytes = vec![0; len];
        reader.fill(&mut bytes);
        bytes
    }

    #[test]
    fn leaves_merge_to_what_b3sum_prints() {
        for len in [LEAF + 512, 2 * LEAF, 3 * LEAF + 4096, 17 * LEAF + 1, 64 * LEAF, 65 * LEAF - 512] {
            let bytes = sample(len);
            let mut tree = Tree::default();
            bytes.chunks(LEAF).enumerate().for_each(|(i, b)| tree.push(leaf((i * LEAF) as u64, b)));
            assert_eq!(tree.root(), Some(of_bytes(&bytes)), "{len}");
        }
    }

    #[test]
    fn slabs_merge_to_what_b3sum_prints_with_holes_unread() {
        let mut bytes = sample(3 * SLAB + 12_800);
        bytes[SLAB..2 * SLAB].fill(0);
        let read = |at: u64, into: &mut [u8]| -> Result<(), ()> {
            assert!(!(SLAB as u64..2 * SLAB as u64).contains(&at), "the hole was read");
            into.copy_from_slice(&bytes[at as usize..at as usize + into.len()]);
            Ok(())
        };
        let size = ByteCount(bytes.len() as u64);
        let root = root_of(size, 2, &Progress::default(), |at, len| at == SLAB as u64 && len == SLAB as u64, read);
        assert_eq!(root, Ok(Some(of_bytes(&bytes))));
    }
}
