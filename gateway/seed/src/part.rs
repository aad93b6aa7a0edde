//! Parts and their indexes.
//!
//! Both begin with a header of 64 bytes that says what the file is; the key follows from it. A part goes on with chunks, each coded as packs code them and sealed,
//! the nonce being its offset. An index goes on with one record: the slabs of its part. So what a medium holds can be told, and asked of a store, from indexes alone.
//!
//! Names of chunks stand in the index in full. Eight bytes of each would be enough to look for one, and not to refer to it: a name that
//! fits by chance, or that somebody made fit, would put other bytes in its place. The 24 bytes more are 0.15 % of what is carried.

use crate::MAX_INDEX;
use crate::key::{FileKey, ShipmentKey, TAG};
use dedupe::carry::Carried;
use dedupe::{SeedId, SlabNumber};
use serde::{Deserialize, Serialize};

/// Bytes of a header.
pub const HEADER: usize = 64;
const MAGIC: &[u8; 8] = b"SLUICESD";
const VERSION: u16 = 1;
/// AES-256-GCM, a key per file.
const CIPHER: u8 = 1;

/// What a file of a medium is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Chunks.
    Part = 1,
    /// The slabs of a part.
    Index = 2,
}

/// Which writing of a part it is.
pub type Once = [u8; 12];

/// A medium, and one writing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediumId {
    /// The shipment.
    pub shipment: SeedId,
    /// The medium's number, from 1.
    pub number: u32,
    /// Made at random when the medium was begun: an earlier writing of the same number has another.
    pub salt: [u8; 16],
}

impl MediumId {
    /// The header of a file. `once` is made at random for each writing of a part: one that was broken off and written again has another key, so
    /// that no nonce is ever used twice.
    pub fn header(&self, kind: Kind, part: u32, once: Once) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[10] = kind as u8;
        header[11] = CIPHER;
        header[12..28].copy_from_slice(&self.shipment.0);
        header[28..32].copy_from_slice(&self.number.to_le_bytes());
        header[32..36].copy_from_slice(&part.to_le_bytes());
        header[36..52].copy_from_slice(&self.salt);
        header[52..].copy_from_slice(&once);
        header
    }

    /// Why a header is not that of this file; `None`: it is.
    pub fn mismatch(&self, kind: Kind, part: u32, once: Once, found: &[u8]) -> Option<String> {
        let wanted = self.header(kind, part, once);
        if found == wanted {
            return None;
        }
        if found.len() < HEADER || found[..8] != *MAGIC {
            return Some("it does not begin as a file of shipped media".into());
        }
        let number = |at: usize| u32::from_le_bytes(found[at..at + 4].try_into().expect("4 bytes"));
        if found[8..10] != wanted[8..10] || found[11] != CIPHER {
            let version = u16::from_le_bytes([found[8], found[9]]);
            return Some(format!("format {version}, cipher {}: made by a newer version", found[11]));
        }
        if found[12..28] != wanted[12..28] {
            let other = SeedId(found[12..28].try_into().expect("16 bytes"));
            return Some(format!("it belongs to shipment {other}"));
        }
        if number(28) != self.number {
            return Some(format!("it belongs to medium {}", number(28)));
        }
        if found[36..52] != self.salt {
            return Some("it belongs to an earlier writing of this medium".into());
        }
        if number(32) != part {
            return Some(format!("it is part {} under another name", number(32)));
        }
        if found[10] != wanted[10] {
            return Some("it is of another kind".into());
        }
        Some("it is an earlier writing of this part".into())
    }
}

/// A slab that a part brings.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The volume, as the manifest numbers them.
    pub volume: u16,
    /// The slab.
    pub slab: SlabNumber,
    /// Its record.
    pub record: Carried,
}

#[derive(Serialize, Deserialize)]
struct Disk(u16, u64, Vec<u8>);

/// An index as a file, header included.
pub(crate) fn seal_index(medium: &MediumId, part: u32, once: Once, key: &ShipmentKey, entries: &[Entry]) -> Vec<u8> {
    let disk: Vec<Disk> = entries.iter().map(|entry| Disk(entry.volume, entry.slab.0, entry.record.encode())).collect();
    let header = medium.header(Kind::Index, part, once);
    let mut bytes = header.to_vec();
    bytes.extend(postcard::to_stdvec(&disk).expect("an index always encodes"));
    key.file(&header).seal(HEADER as u64, &mut bytes, HEADER);
    bytes
}

/// The slabs of a part and which writing of it they are of; or what is wrong with its index.
pub(crate) fn open_index(
    medium: &MediumId,
    part: u32,
    key: &ShipmentKey,
    mut bytes: Vec<u8>,
) -> Result<(Once, Vec<Entry>), String> {
    if bytes.len() < HEADER + TAG || bytes.len() > MAX_INDEX {
        return Err(format!("its index has {} bytes", bytes.len()));
    }
    let (header, sealed) = bytes.split_at_mut(HEADER);
    let once: Once = header[52..].try_into().expect("the rest of a header has 12 bytes");
    if let Some(why) = medium.mismatch(Kind::Index, part, once, header) {
        return Err(format!("its index: {why}"));
    }
    let plain = key.file(header).open(HEADER as u64, sealed).ok_or("the seal of its index is broken")?;
    let entries = decode_index(plain).ok_or("its index does not decode")?;
    Ok((once, entries))
}

pub(crate) fn decode_index(plain: &[u8]) -> Option<Vec<Entry>> {
    let disk: Vec<Disk> = postcard::from_bytes(plain).ok()?;
    let entry = |Disk(volume, slab, record): Disk| {
        Some(Entry { volume, slab: SlabNumber(slab), record: Carried::decode(&record)? })
    };
    disk.into_iter().map(entry).collect()
}

/// The key of a part's chunks.
pub(crate) fn part_key(medium: &MediumId, part: u32, once: Once, key: &ShipmentKey) -> FileKey {
    key.file(&medium.header(Kind::Part, part, once))
}

/// A part's file name; its index has `index` as its ending.
pub fn file_name(part: u32, kind: Kind) -> String {
    format!(
        "{part:04}.{}",
        match kind {
            Kind::Part => "part",
            Kind::Index => "index",
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_place_is_named() {
        let medium = MediumId { shipment: SeedId([1; 16]), number: 2, salt: [3; 16] };
        let header = medium.header(Kind::Part, 7, [4; 12]);
        assert_eq!(medium.mismatch(Kind::Part, 7, [4; 12], &header), None);
        let earlier = medium.mismatch(Kind::Part, 7, [5; 12], &header);
        assert_eq!(earlier.as_deref(), Some("it is an earlier writing of this part"));
        let why = |change: &dyn Fn(&mut MediumId), kind, part| {
            let mut other = medium;
            change(&mut other);
            medium.mismatch(Kind::Part, 7, [4; 12], &other.header(kind, part, [4; 12])).unwrap()
        };
        let other = "it belongs to shipment 09090909090909090909090909090909";
        assert_eq!(why(&|other| other.shipment = SeedId([9; 16]), Kind::Part, 7), other);
        assert_eq!(why(&|other| other.number = 5, Kind::Part, 7), "it belongs to medium 5");
        assert_eq!(
            why(&|other| other.salt = [9; 16], Kind::Part, 7),
            "it belongs to an earlier writing of this medium"
        );
        assert_eq!(why(&|_| {}, Kind::Part, 8), "it is part 8 under another name");
        assert_eq!(why(&|_| {}, Kind::Index, 7), "it is of another kind");
        for cut in [0, 7, 40, 63] {
            assert!(medium.mismatch(Kind::Part, 7, [4; 12], &header[..cut]).is_some());
        }
    }
}
