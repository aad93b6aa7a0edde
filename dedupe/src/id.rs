//! Identity, place and unit as types, so that a bare `u64` never crosses a public signature.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a text is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an id: expected 32 hexadecimal digits")]
pub struct NotAnId(String);

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A new id: 128 random bits of the operating system, so unique without a counter or a coordinator.
            pub fn random() -> Self {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the operating system has a random source");
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let refuse = || NotAnId(text.chars().take(64).collect());
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(refuse());
                }
                let mut bytes = [0; 16];
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| refuse())?;
                }
                Ok(Self(bytes))
            }
        }
    };
}

random_id!(
    /// One customer. Every other id is scoped by it, and dedupe never crosses it.
    TenantId
);
random_id!(
    /// One branch: one line, one time zone, one edge.
    SiteId
);
random_id!(
    /// The generations of one volume from its seed on. A volume that was re-seeded or rolled back forks a new one.
    LineageId
);
random_id!(
    /// One point in time of one volume.
    GenerationId
);
random_id!(
    /// One immutable file of chunks or records.
    PackId
);
random_id!(
    /// One rehydration, from its plan to its proof, across crashes.
    RunId
);
random_id!(
    /// One seed by courier: a first generation on its way on media, from its export to its import.
    SeedId
);

/// What a lineage holds. Volumes today; upgrades and other objects travel the same way later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// A block volume of a branch.
    Volume,
    /// An appliance upgrade.
    Upgrade,
}

/// How a root was computed, so that a proof stays readable when the scheme changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RootScheme {
    /// BLAKE3-256 of the raw bytes, first to last: what `b3sum` prints for the image.
    Blake3,
}

/// The proof of a generation: the hash of its raw bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Root {
    /// How `hash` came about.
    pub scheme: RootScheme,
    /// The hash itself.
    pub hash: [u8; 32],
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Position of a 64-bit unit. `$unit` says of what.
macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

quantity!(
    /// Bytes from the start of a volume.
    ByteOffset
);
quantity!(
    /// A number of bytes.
    ByteCount
);
quantity!(
    /// Number of a slab of [`SLAB`] bytes from the start of a volume.
    SlabNumber
);
quantity!(
    /// Number of a block of [`BLOCK`] bytes from the start of a volume.
    BlockNumber
);
quantity!(
    /// Milliseconds since 1970-01-01 UTC.
    UnixMillis
);

/// The grain of change, of marks and of bases: what file systems and databases write in.
pub const BLOCK: usize = 4096;
/// The grain of proof: one BLAKE3 subtree value is kept for each. 32 KiB keeps the values at 0.1 % of a volume while a scattered
/// 4 KiB write makes the receiver re-read only 28 KiB to hash anew (at 64 KiB ingest of an OLTP delta lost a third of its speed).
pub const LEAF: usize = 32 << 10;
/// The unit of scanning, manifests and parallel work. 16 MiB, so that a worker fits a 384 MiB edge and a record stays below 64 KiB or so.
pub const SLAB: usize = 16 << 20;

impl BlockNumber {
    /// The slab that holds this block, and the block's number in it.
    pub fn in_slab(self) -> (SlabNumber, usize) {
        let per_slab = (SLAB / BLOCK) as u64;
        (SlabNumber(self.0 / per_slab), (self.0 % per_slab) as usize)
    }

    /// Where the block starts.
    pub fn offset(self) -> ByteOffset {
        ByteOffset(self.0 * BLOCK as u64)
    }
}

impl SlabNumber {
    /// Where the slab starts.
    pub fn offset(self) -> ByteOffset {
        ByteOffset(self.0 * SLAB as u64)
    }

    /// The first block of the slab.
    pub fn first_block(self) -> BlockNumber {
        BlockNumber(self.0 * (SLAB / BLOCK) as u64)
    }
}

impl ByteCount {
    /// How many slabs a volume of this size has; the last may be shorter.
    pub fn slabs(self) -> u64 {
        self.0.div_ceil(SLAB as u64)
    }

    /// How many blocks a volume of this size has; the last may be shorter.
    pub fn blocks(self) -> u64 {
        self.0.div_ceil(BLOCK as u64)
    }
}

/// A run of blocks of a volume: `first`, `first + 1`, … `first + count - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockRun {
    /// The first block.
    pub first: BlockNumber,
    /// How many.
    pub count: u64,
}

/// A short hash of one block: the first 6 bytes of its BLAKE3. Finds changed blocks in a changed leaf and asks the
/// gateway for blocks that it may hold already. 48 bits: in a night of 12 M changed blocks a change goes unseen with
/// probability 4e-8, and then the root says so. All zeroes means a block of zeroes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Mark(pub [u8; 6]);

impl Mark {
    /// The mark of a block of zeroes.
    pub const ZERO: Mark = Mark([0; 6]);

    /// The mark of a block's bytes.
    pub fn of(block: &[u8]) -> Mark {
        if is_zero(block) {
            return Mark::ZERO;
        }
        let hash = blake3::hash(block);
        let mut mark = [0; 6];
        mark.copy_from_slice(&hash.as_bytes()[..6]);
        if mark == [0; 6] {
            mark[5] = 1; // all zeroes is taken
        }
        Mark(mark)
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whether all bytes are zero, at memory speed.
pub fn is_zero(bytes: &[u8]) -> bool {
    // 256 bytes a step: wide enough for the vector units, short enough to leave early on data.
    let mut steps = bytes.chunks_exact(256);
    steps.all(|step| step.iter().fold(0, |all, byte| all | byte) == 0)
        && steps.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse() {
        let id = GenerationId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("".parse::<GenerationId>().is_err());
        assert!("zz".repeat(16).parse::<GenerationId>().is_err());
        assert!("é".repeat(16).parse::<GenerationId>().is_err());
    }

    #[test]
    fn zeroes_are_seen_at_any_length() {
        for len in [0, 1, 255, 256, 257, 4096, 5000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if at < len {
                    bytes[at] = 1;
                    assert!(!is_zero(&bytes), "{len} {at}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
