//! The pack: one immutable file of sealed records.
//!
//! ```text
//! header   64 B   magic, version, class, cipher, key id, pack id
//! records         each: AES-256-GCM(codec byte, bytes) + 16 B tag; the nonce is the record's offset
//! footer          one more record: what is where, for rebuilding the index and for finding a chunk's neighbours
//! trailer  32 B   footer's offset and length, check, magic
//! ```
//!
//! Whoever holds a [`Place`] reads one record with one read; footers are needed only to look around.

use crate::chunk::ChunkId;
use crate::id::{GenerationId, LineageId, PackId, SlabNumber};
use crate::keys::{AES_256_GCM_PER_PACK, Keys, PackKey, TAG};
use crate::storage::{PackClass, PackStorage, StorageError};
use serde::{Deserialize, Serialize};
use zstd::zstd_safe::{CCtx, CParameter, DCtx};

const MAGIC: &[u8; 8] = b"SLUICEPK";
const END_MAGIC: &[u8; 8] = b"SLUICEFT";
const VERSION: u16 = 1;
const HEADER: usize = 64;
const TRAILER: usize = 32;
/// Bytes of one record before compression at most: the largest is a generation record of a 50 TB seed.
const MAX_RECORD: usize = 256 << 20;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The pack.
    pub pack: PackId,
    /// Bytes from the pack's start. Packs stay below 4 GiB.
    pub offset: u32,
    /// Bytes in the pack, tag included.
    pub stored: u32,
    /// Bytes after unpacking.
    pub raw: u32,
}

/// What a footer says of one record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// A chunk of a volume.
    Chunk(ChunkId),
    /// A slab of a generation, by the generation's local order number.
    Slab {
        /// The lineage.
        lineage: LineageId,
        /// The slab.
        slab: SlabNumber,
        /// The generation's order number in its lineage, in this store.
        order: u64,
        /// The slab's subtree value.
        subtree: [u8; 32],
        /// Whether the slab is all zeroes; there is no record then.
        zero: bool,
    },
    /// A lineage's row.
    Lineage,
    /// A generation's row: begun, or sealed. The latest wins.
    Generation,
    /// A parcel was taken in: number and blocks.
    Parcel {
        /// The draft.
        generation: GenerationId,
        /// The parcel's number.
        number: u32,
    },
    /// A generation was forgotten or discarded.
    Forgotten(GenerationId),
    /// This pack lists every lineage, generation and draft there is: what earlier commits said of them no longer holds.
    Checkpoint,
    /// The commit that wrote this pack: when the index is rebuilt, what a later one says wins.
    Commit(u64),
}

/// What is wrong with a pack's bytes.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A bit is not as it was written.
    #[error(
        "pack {pack} is damaged at byte {offset}: {what}; scrub finds what it held and fetches it from the other end"
    )]
    Damaged {
        /// The pack.
        pack: PackId,
        /// Where.
        offset: u64,
        /// What did not fit.
        what: &'static str,
    },
    /// Written by a newer program, or under another key.
    #[error("pack {pack} cannot be read: {what}")]
    Unreadable {
        /// The pack.
        pack: PackId,
        /// Why.
        what: String,
    },
}

/// Builds one pack in memory.
pub(crate) struct PackWriter {
    pub(crate) pack: PackId,
    class: PackClass,
    key: PackKey,
    bytes: Vec<u8>,
    entries: Vec<(Entry, Place)>,
}

/// Packs a record for [`PackWriter::add`]: outside of any lock, since this is where the time goes.
/// Level 1: at the gateway unpacking speed decides, at the edge capture speed; local bytes are cheap.
pub(crate) fn compress(context: &mut CCtx<'static>, raw: &[u8]) -> Vec<u8> {
    let mut coded = Vec::with_capacity(1 + zstd::zstd_safe::compress_bound(raw.len()) + TAG);
    coded.push(1);
    let mut body = std::io::Cursor::new(&mut coded);
    body.set_position(1);
    let fits = context.compress2(&mut body, raw).is_ok();
    if !fits || coded.len() > raw.len() - raw.len() / 32 {
        coded.clear();
        coded.push(0);
        coded.extend_from_slice(raw);
    }
    coded
}

/// A context for [`compress`].
pub(crate) fn fast_context() -> CCtx<'static> {
    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(1)).expect("level 1 exists");
    context
}

impl PackWriter {
    pub(crate) fn new(class: PackClass, keys: &Keys) -> Self {
        Self::of(PackId::random(), class, keys)
    }

    /// The next pack, in the memory of this one.
    pub(crate) fn next(&mut self, keys: &Keys) -> Self {
        Self::begin(PackId::random(), self.class, keys, std::mem::take(&mut self.bytes))
    }

    /// A pack of this id, which must never have been used before: its key follows from it.
    pub(crate) fn of(pack: PackId, class: PackClass, keys: &Keys) -> Self {
        Self::begin(pack, class, keys, Vec::with_capacity(HEADER))
    }

    fn begin(pack: PackId, class: PackClass, keys: &Keys, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.push(class as u8);
        bytes.push(AES_256_GCM_PER_PACK);
        bytes.extend_from_slice(&keys.id().to_le_bytes());
        bytes.extend_from_slice(&pack.0);
        bytes.resize(HEADER, 0);
        PackWriter { pack, class, key: keys.pack(pack), bytes, entries: Vec::new() }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a record that [`compress`] made of `raw` bytes.
    pub(crate) fn add(&mut self, entry: Entry, raw: usize, coded: &[u8]) -> Place {
        let place = self.append(raw, coded);
        self.entries.push((entry, place));
        place
    }

    /// Adds an entry without a record.
    pub(crate) fn note(&mut self, entry: Entry) {
        let place = Place { pack: self.pack, offset: 0, stored: 0, raw: 0 };
        self.entries.push((entry, place));
    }

    fn append(&mut self, raw: usize, coded: &[u8]) -> Place {
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(coded);
        self.key.seal(offset as u64, &mut self.bytes, offset);
        let stored = self.bytes.len() - offset;
        Place { pack: self.pack, offset: offset as u32, stored: stored as u32, raw: raw as u32 }
    }

    /// Writes the pack, durably; returns its length. After an error (no room, say) nothing is lost and it may be tried again, with
    /// more records or without: the footer of the failed try stays where it is, unused, since its offset was its nonce.
    pub(crate) fn finish(&mut self, storage: &dyn PackStorage) -> Result<u64, StorageError> {
        let footer = postcard::to_stdvec(&self.entries).expect("a footer always encodes");
        let coded = compress(&mut fast_context(), &footer);
        let place = self.append(footer.len(), &coded);
        let mut trailer = Vec::with_capacity(TRAILER);
        trailer.extend_from_slice(&u64::from(place.offset).to_le_bytes());
        trailer.extend_from_slice(&place.stored.to_le_bytes());
        trailer.extend_from_slice(&place.raw.to_le_bytes());
        let check = blake3::hash(&trailer);
        trailer.extend_from_slice(&check.as_bytes()[..8]);
        trailer.extend_from_slice(END_MAGIC);
        self.bytes.extend_from_slice(&trailer);
        storage.put(self.pack, self.class, &self.bytes)?;
        if self.class == PackClass::Meta {
            storage.put(self.pack, PackClass::MetaCopy, &self.bytes)?;
        }
        Ok(self.bytes.len() as u64)
    }
}

thread_local! {
    /// Making one costs as much as unpacking a chunk.
    static UNPACKER: std::cell::RefCell<DCtx<'static>> = std::cell::RefCell::new(DCtx::create());
}

/// Opens what was stored at `place` in place and unpacks it.
pub(crate) fn open_record(key: &PackKey, place: Place, sealed: &mut [u8]) -> Result<Vec<u8>, PackError> {
    if place.raw as usize > MAX_RECORD {
        return Err(PackError::Damaged {
            pack: place.pack,
            offset: place.offset.into(),
            what: "a record has an unknown length",
        });
    }
    let mut bytes = vec![0; place.raw as usize];
    open_record_into(key, place, sealed, &mut bytes)?;
    Ok(bytes)
}

/// The same into a buffer of exactly the record's length.
pub(crate) fn open_record_into(
    key: &PackKey,
    place: Place,
    sealed: &mut [u8],
    into: &mut [u8],
) -> Result<(), PackError> {
    debug_assert_eq!(into.len(), place.raw as usize);
    let damaged = |what| PackError::Damaged { pack: place.pack, offset: place.offset.into(), what };
    let plain = key.open(place.offset.into(), sealed).ok_or_else(|| damaged("its seal is broken"))?;
    if unpack(plain, into) { Ok(()) } else { Err(damaged("a record does not unpack to its length")) }
}

/// Unpacks what [`compress`] made into a buffer of exactly its length; `false` when it is something else.
pub(crate) fn unpack(coded: &[u8], into: &mut [u8]) -> bool {
    match coded.split_first() {
        Some((0, body)) if body.len() == into.len() => into.copy_from_slice(body),
        Some((1, body)) => {
            return UNPACKER.with_borrow_mut(|context| context.decompress(into, body)) == Ok(into.len());
        }
        _ => return false,
    }
    true
}

/// Reads records of packs. Keys are derived for each pack when needed.
pub(crate) fn read_record(
    storage: &dyn PackStorage,
    keys: &Keys,
    class: PackClass,
    place: Place,
) -> Result<Vec<u8>, PackError> {
    let mut sealed = vec![0; place.stored as usize];
    storage.read_at(place.pack, class, place.offset.into(), &mut sealed)?;
    open_record(&keys.pack(place.pack), place, &mut sealed)
}

/// Reads a pack's footer: every entry and where its record lies.
pub(crate) fn read_footer(
    storage: &dyn PackStorage,
    keys: &Keys,
    pack: PackId,
    class: PackClass,
) -> Result<Vec<(Entry, Place)>, PackError> {
    let unreadable = |what: String| PackError::Unreadable { pack, what };
    let len = storage.len(pack, class)?;
    if len < (HEADER + TRAILER) as u64 {
        return Err(unreadable(format!("it has {len} bytes, too few for a pack")));
    }
    let mut header = [0; HEADER];
    storage.read_at(pack, class, 0, &mut header)?;
    if &header[..8] != MAGIC {
        return Err(unreadable("it does not begin as a pack".into()));
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION || header[11] != AES_256_GCM_PER_PACK {
        return Err(unreadable(format!("format {version}, cipher {}: made by a newer version", header[11])));
    }
    let key_id = u32::from_le_bytes(header[12..16].try_into().expect("4 bytes"));
    if key_id != keys.id() {
        return Err(unreadable(format!("it is sealed under key {key_id}, and this store has key {}", keys.id())));
    }
    if header[16..32] != pack.0 {
        return Err(unreadable("it names another pack: the file was renamed or copied".into()));
    }
    let at = len - TRAILER as u64;
    let damaged = |what| PackError::Damaged { pack, offset: at, what };
    let mut trailer = [0; TRAILER];
    storage.read_at(pack, class, at, &mut trailer)?;
    if &trailer[24..] != END_MAGIC || blake3::hash(&trailer[..16]).as_bytes()[..8] != trailer[16..24] {
        return Err(damaged("its end is not a pack's end"));
    }
    let offset = u64::from_le_bytes(trailer[..8].try_into().expect("8 bytes"));
    let number = |at: usize| u32::from_le_bytes(trailer[at..at + 4].try_into().expect("4 bytes"));
    let (stored, raw) = (number(8), number(12));
    if offset + u64::from(stored) != at {
        return Err(damaged("its footer lies elsewhere"));
    }
    let place = Place { pack, offset: offset as u32, stored, raw };
    let footer = read_record(storage, keys, class, place)?;
    postcard::from_bytes(&footer).map_err(|_| damaged("its footer does not decode"))
}
