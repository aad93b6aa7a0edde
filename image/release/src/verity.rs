//! The hash tree by which the kernel checks each block of a slot (dm-verity), as `veritysetup format` makes it: version 1, SHA-256, blocks of 4 KiB.
//!
//! Made here, and not only by veritysetup when an image is built, so that an upgrade need not bring it: 0.8 % of an image, of bytes that nothing compresses.
//! And because whoever made the tree from what is on a disk, and came to the signed root, has proved every byte of it.
//!
//! ```text
//!   superblock, 512 bytes in a block of its own | top level, one block | … | hashes of the image's blocks
//! ```
//! Source: the kernel's `Documentation/admin-guide/device-mapper/verity.rst` and cryptsetup's "DMVerity" page (on-disk format).

use ring::digest::{Context, SHA256};
use wire::release::ReleaseId;

/// Bytes of a block, of the image as of the tree.
pub const BLOCK: usize = 4096;
/// Bytes of a hash.
const HASH: usize = 32;
/// The tree's id: the same in every slot (`image/lib/slot.sh`), since the root hash is what tells them apart.
const UUID: [u8; 16] = [0x51, 0xce, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 0x0e];

/// Takes an image's blocks in order.
pub struct Verity {
    salt: [u8; HASH],
    hashes: Vec<u8>,
    /// The beginning of a block that has not come whole.
    rest: Vec<u8>,
}

impl Verity {
    /// Memory: 32 bytes for each block.
    pub fn new(salt: [u8; HASH]) -> Verity {
        Verity { salt, hashes: Vec::new(), rest: Vec::with_capacity(BLOCK) }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.rest.is_empty() {
            let (more, behind) = bytes.split_at(bytes.len().min(BLOCK - self.rest.len()));
            self.rest.extend_from_slice(more);
            bytes = behind;
            if self.rest.len() == BLOCK {
                let block = std::mem::take(&mut self.rest);
                self.hashes.extend_from_slice(&hash(&self.salt, &block));
            }
        }
        let whole = bytes.chunks_exact(BLOCK);
        self.rest.extend_from_slice(whole.remainder());
        for block in whole {
            self.hashes.extend_from_slice(&hash(&self.salt, block));
        }
    }

    /// The tree. A block that did not come whole counts as filled up with zeroes.
    pub fn finish(mut self) -> Tree {
        if !self.rest.is_empty() {
            let missing = BLOCK - self.rest.len();
            self.update(&vec![0; missing]);
        }
        let blocks = (self.hashes.len() / HASH) as u64;
        let mut levels = vec![padded(self.hashes)];
        while levels.last().is_some_and(|level| level.len() > BLOCK) {
            let below = levels.last().expect("there is one");
            let hashes = below.chunks_exact(BLOCK).flat_map(|block| hash(&self.salt, block)).collect();
            levels.push(padded(hashes));
        }
        // An image of one block has no level: its hash is the root. None is made so small.
        let root = levels.last().map_or([0; HASH], |top| hash(&self.salt, top));
        Tree { salt: self.salt, blocks, levels, root: ReleaseId(root) }
    }
}

fn hash(salt: &[u8; HASH], block: &[u8]) -> [u8; HASH] {
    let mut context = Context::new(&SHA256);
    context.update(salt);
    context.update(block);
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn padded(mut level: Vec<u8>) -> Vec<u8> {
    level.resize(level.len().next_multiple_of(BLOCK), 0);
    level
}

/// A hash tree.
#[derive(Debug)]
pub struct Tree {
    salt: [u8; HASH],
    blocks: u64,
    /// Each a whole number of blocks; the hashes of the image's blocks first.
    levels: Vec<Vec<u8>>,
    root: ReleaseId,
}

impl Tree {
    /// What the image is proved by.
    pub fn root(&self) -> ReleaseId {
        self.root
    }

    /// What lies behind the image in a slot, from the block behind its last.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.superblock();
        bytes.resize(BLOCK, 0);
        for level in self.levels.iter().rev() {
            bytes.extend_from_slice(level);
        }
        bytes
    }

    fn superblock(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK);
        block.extend_from_slice(b"verity\0\0");
        block.extend_from_slice(&1u32.to_le_bytes()); // version of the superblock
        block.extend_from_slice(&1u32.to_le_bytes()); // hash type: the salt comes first
        block.extend_from_slice(&UUID);
        let mut algorithm = [0; 32];
        algorithm[..6].copy_from_slice(b"sha256");
        block.extend_from_slice(&algorithm);
        block.extend_from_slice(&(BLOCK as u32).to_le_bytes()); // of the image
        block.extend_from_slice(&(BLOCK as u32).to_le_bytes()); // of the tree
        block.extend_from_slice(&self.blocks.to_le_bytes());
        block.extend_from_slice(&(HASH as u16).to_le_bytes()); // of the salt
        block.extend_from_slice(&[0; 6]);
        block.extend_from_slice(&self.salt);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Command;

    fn image(blocks: usize) -> Vec<u8> {
        let word = |at: usize| ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) as u8;
        (0..blocks * BLOCK).map(word).collect()
    }

    fn tree(bytes: &[u8], piece: usize) -> Tree {
        let mut verity = Verity::new([7; 32]);
        bytes.chunks(piece).for_each(|piece| verity.update(piece));
        verity.finish()
    }

    #[test]
    fn the_tree_is_the_one_that_veritysetup_makes() {
        let Ok(version) = Command::new("veritysetup").arg("--version").output() else {
            return eprintln!("skipped: veritysetup is not installed");
        };
        assert!(version.status.success());
        // Below one block of hashes, exactly one, one and a bit, and a third level.
        for blocks in [2, 127, 128, 129, 20_000] {
            let bytes = image(blocks);
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&bytes).unwrap();
            let path = file.path().to_str().unwrap();
            let made = Command::new("veritysetup")
                .args([
                    "format",
                    path,
                    path,
                    &format!("--hash-offset={}", bytes.len()),
                    "--uuid=51ce0000-0000-4000-8000-00000000000e",
                ])
                .arg(format!("--salt={}", "07".repeat(32)))
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
            let ours = tree(&bytes, 100_003);
            let said = String::from_utf8(made.stdout).unwrap();
            assert!(said.contains(&ours.root().hex()), "{blocks} blocks: {} is not in {said}", ours.root().hex());
            let theirs = std::fs::read(path).unwrap();
            assert!(theirs[bytes.len()..] == ours.bytes(), "{blocks} blocks");
        }
    }

    #[test]
    fn any_bit_changes_the_root_and_how_bytes_come_does_not() {
        let bytes = image(300);
        let root = tree(&bytes, BLOCK).root();
        assert_eq!(tree(&bytes, 1 << 20).root(), root);
        assert_eq!(tree(&bytes, 777).root(), root);
        for at in [0, 5 * BLOCK + 17, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_ne!(tree(&changed, BLOCK).root(), root);
        }
    }
}
