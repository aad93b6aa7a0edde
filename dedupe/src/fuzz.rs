//! One entry per decoder, for whoever throws garbage at it. None may panic, hang or allocate beyond its limits; what decodes must
//! encode to bytes that decode to the same again.

use crate::pack::{self, Entry, Place};
use crate::parcel;
use crate::slab::Slab;

/// A parcel as it arrives.
pub fn parcel(input: &[u8]) {
    let _refused = parcel::parse(input);
}

/// A parcel's header after unpacking: what a sender that packs garbage well can bring.
pub fn header(input: &[u8]) {
    if let Ok(header) = parcel::parse_header(input) {
        let again = parcel::parse(&parcel::assemble(&header, b"")).map(|(again, _)| again);
        assert_eq!(again.as_ref(), Ok(&header));
    }
}

/// A payload, with garbage as its prefix.
pub fn payload(input: &[u8]) {
    let (prefix, coded) = input.split_at(input.len() / 2);
    let _refused = crate::codec::decode(prefix, coded, 16 * crate::id::BLOCK, &mut Vec::new());
}

/// A slab's record.
pub fn slab(input: &[u8]) {
    if let Some(slab) = Slab::decode(input) {
        let again = Slab::decode(&slab.encode()).expect("what decoded encodes");
        assert_eq!((again.pieces, again.marks, again.subtree), (slab.pieces, slab.marks, slab.subtree));
    }
}

/// A slab's record as a carrier brings it.
pub fn carried(input: &[u8]) {
    if let Some(carried) = crate::carry::Carried::decode(input) {
        assert_eq!(crate::carry::Carried::decode(&carried.encode()), Some(carried));
    }
}

/// A pack's footer, and the rows of the index.
pub fn records(input: &[u8]) {
    let _refused = postcard::from_bytes::<Vec<(Entry, Place)>>(input);
    let _refused = postcard::from_bytes::<crate::generation::Generation>(input);
    let _refused = postcard::from_bytes::<crate::generation::Lineage>(input);
    let _refused = parcel::decode_runs(input);
}

/// A whole pack file.
pub fn pack(input: &[u8]) {
    let storage = One(input);
    let keys = crate::keys::Keys::new(1, [7; 32]);
    let pack = crate::id::PackId([3; 16]);
    if let Ok(footer) = pack::read_footer(&storage, &keys, pack, crate::storage::PackClass::Data) {
        for (_, place) in footer {
            let _refused = pack::read_record(&storage, &keys, crate::storage::PackClass::Data, Place { pack, ..place });
        }
    }
}

/// A storage of one pack.
struct One<'a>(&'a [u8]);

impl crate::storage::PackStorage for One<'_> {
    fn put(
        &self,
        pack: crate::id::PackId,
        _: crate::storage::PackClass,
        _: &[u8],
    ) -> Result<(), crate::storage::StorageError> {
        Err(crate::storage::StorageError::new("write", pack, std::io::ErrorKind::Unsupported.into()))
    }

    fn read_at(
        &self,
        pack: crate::id::PackId,
        _: crate::storage::PackClass,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), crate::storage::StorageError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match self.0.get(start..).and_then(|rest| rest.get(..buffer.len())) {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => {
                return Err(crate::storage::StorageError::new("read", pack, std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }

    fn len(&self, _: crate::id::PackId, _: crate::storage::PackClass) -> Result<u64, crate::storage::StorageError> {
        Ok(self.0.len() as u64)
    }

    fn list(&self) -> Result<Vec<(crate::id::PackId, crate::storage::PackClass)>, crate::storage::StorageError> {
        Ok(Vec::new())
    }

    fn delete(&self, _: crate::id::PackId, _: crate::storage::PackClass) -> Result<(), crate::storage::StorageError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::ChunkId;
    use crate::id::{BlockNumber, BlockRun, GenerationId, LineageId, PackId, SlabNumber};
    use crate::parcel::{Copied, Header};
    use std::path::PathBuf;

    fn golden_header() -> Header {
        let run = |first, count| BlockRun { first: BlockNumber(first), count };
        Header {
            generation: GenerationId([1; 16]),
            number: 7,
            sources: vec![GenerationId([2; 16])],
            base: Some(GenerationId([2; 16])),
            fresh: vec![run(5, 2), run(4100, 1)],
            zero: vec![run(9, 3)],
            copied: vec![Copied { to: BlockNumber(50), count: 2, source: 0, from: BlockNumber(7) }],
            chosen: vec![(0, vec![run(0, 4)])],
            recent: 1,
            without_old: vec![run(6, 1)],
            fresh_hash: [3; 32],
            copied_hash: [4; 32],
        }
    }

    fn golden_slab() -> Slab {
        let mut slab = Slab::zero(96 << 10);
        let place = Place { pack: PackId([5; 16]), offset: 64, stored: 1000, raw: 8192 };
        slab.splice(4096..12_288, [crate::slab::Piece { at: 4096, len: 8192, place, skip: 0 }]);
        slab.marks[1] = crate::id::Mark([1, 2, 3, 4, 5, 6]);
        slab.settle();
        slab
    }

    fn golden_carried() -> crate::carry::Carried {
        use crate::carry::{Carried, CarriedChunk, CarriedPiece, Spot};
        let spot = Spot { part: 3, offset: 64 };
        Carried {
            len: 40 << 10,
            leaves: vec![[7; 32], [8; 32]],
            chunks: vec![CarriedChunk { id: ChunkId([9; 32]), raw: 12_288, coded: 1000, spot }],
            pieces: vec![CarriedPiece { at: 4096, len: 8192, chunk: 0, skip: 4096 }],
        }
    }

    fn golden_entries() -> Vec<(Entry, Place)> {
        let place = Place { pack: PackId([5; 16]), offset: 64, stored: 1000, raw: 8192 };
        let slab =
            Entry::Slab { lineage: LineageId([6; 16]), slab: SlabNumber(1), order: 2, subtree: [7; 32], zero: false };
        let entries = [
            Entry::Chunk(ChunkId([8; 32])),
            slab,
            Entry::Lineage,
            Entry::Generation,
            Entry::Parcel { generation: GenerationId([1; 16]), number: 3 },
            Entry::Forgotten(GenerationId([1; 16])),
            Entry::Checkpoint,
            Entry::Commit(9),
        ];
        entries.into_iter().map(|entry| (entry, place)).collect()
    }

    /// Files of the format's first version. To make those of a *new* version, run with SLUICE_WRITE_GOLDEN set; old ones stay.
    fn golden(name: &str, made: &[u8]) -> Vec<u8> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
        if std::env::var_os("SLUICE_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(&path, made).expect("written");
        }
        std::fs::read(&path).expect("the golden file is in the repository")
    }

    fn golden_pack() -> Vec<u8> {
        let keys = crate::keys::Keys::new(1, [7; 32]);
        let mut writer = pack::PackWriter::of(PackId([3; 16]), crate::storage::PackClass::Data, &keys);
        writer.add(Entry::Chunk(ChunkId(*blake3::hash(b"chunk").as_bytes())), 5, b"\0chunk");
        let kept = Kept::default();
        writer.finish(&kept).expect("kept");
        kept.0.into_inner().expect("no panic")
    }

    /// Keeps what is put.
    #[derive(Default)]
    struct Kept(std::sync::Mutex<Vec<u8>>);

    impl crate::storage::PackStorage for Kept {
        fn put(
            &self,
            _: PackId,
            _: crate::storage::PackClass,
            bytes: &[u8],
        ) -> Result<(), crate::storage::StorageError> {
            *self.0.lock().expect("no panic") = bytes.to_vec();
            Ok(())
        }
        fn read_at(
            &self,
            pack: PackId,
            class: crate::storage::PackClass,
            at: u64,
            into: &mut [u8],
        ) -> Result<(), crate::storage::StorageError> {
            One(&self.0.lock().expect("no panic")).read_at(pack, class, at, into)
        }
        fn len(&self, _: PackId, _: crate::storage::PackClass) -> Result<u64, crate::storage::StorageError> {
            Ok(self.0.lock().expect("no panic").len() as u64)
        }
        fn list(&self) -> Result<Vec<(PackId, crate::storage::PackClass)>, crate::storage::StorageError> {
            Ok(Vec::new())
        }
        fn delete(&self, _: PackId, _: crate::storage::PackClass) -> Result<(), crate::storage::StorageError> {
            Ok(())
        }
    }

    #[test]
    fn files_of_the_first_version_are_read_for_ever() {
        let bytes = golden("parcel-1", &parcel::assemble(&golden_header(), b"payload"));
        assert_eq!(parcel::parse(&bytes), Ok((golden_header(), &b"payload"[..])));
        let slab = Slab::decode(&golden("slab-1", &golden_slab().encode())).expect("a slab");
        assert_eq!((slab.pieces, slab.subtree), (golden_slab().pieces, golden_slab().subtree));
        let carried = golden("carried-1", &golden_carried().encode());
        assert_eq!(crate::carry::Carried::decode(&carried), Some(golden_carried()));
        let footer = golden("footer-1", &postcard::to_stdvec(&golden_entries()).expect("encodes"));
        assert_eq!(postcard::from_bytes::<Vec<(Entry, Place)>>(&footer), Ok(golden_entries()));
        let bytes = golden("pack-1", &golden_pack());
        let (storage, keys, id) = (One(&bytes), crate::keys::Keys::new(1, [7; 32]), PackId([3; 16]));
        let footer = pack::read_footer(&storage, &keys, id, crate::storage::PackClass::Data).expect("a footer");
        let chunk = pack::read_record(&storage, &keys, crate::storage::PackClass::Data, footer[0].1).expect("a record");
        assert_eq!(chunk, b"chunk");
    }

    /// splitmix64.
    fn random(state: &mut u64) -> usize {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize
    }

    #[test]
    fn no_decoder_falls_for_garbage() {
        let samples = [
            parcel::assemble(&golden_header(), b"payload"),
            parcel::raw_header(&golden_header()),
            golden_slab().encode(),
            golden_carried().encode(),
            postcard::to_stdvec(&golden_entries()).expect("encodes"),
            golden_pack(),
        ];
        let decoders: [fn(&[u8]); 7] = [parcel, header, payload, slab, carried, records, pack];
        let rounds = if std::env::var_os("SLUICE_LONG").is_some() { 5_000_000 } else { 40_000 };
        let mut state = 1;
        for round in 0..rounds {
            let mut input = samples[round % samples.len()].clone();
            for _ in 0..1 + random(&mut state) % 4 {
                let at = random(&mut state) % input.len().max(1);
                match random(&mut state) % 5 {
                    0 if !input.is_empty() => input[at] ^= 1 << (random(&mut state) % 8),
                    1 if !input.is_empty() => input[at] = random(&mut state) as u8,
                    2 => input.truncate(at),
                    3 => input.insert(at, 0xff),
                    _ => input.extend_from_slice(&random(&mut state).to_le_bytes()),
                }
            }
            decoders.iter().for_each(|decoder| decoder(&input));
        }
    }
}
