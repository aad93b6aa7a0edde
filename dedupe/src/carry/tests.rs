#![allow(clippy::unwrap_used)] // tests

use super::*;
use crate::id::{ByteCount, ByteOffset, GenerationId, Kind, LineageId, Root, SlabNumber, UnixMillis};
use crate::{Draft, Keys, Lineage, LocalPacks, NewGeneration, SealError, Store, StoreError, StoreOptions};
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

const SIZE: usize = 4 * SLAB + 5 * LEAF + 3000;

/// A carrier in memory: chunks by their spots, records by their slabs.
#[derive(Default)]
struct Carrier {
    chunks: HashMap<Spot, Vec<u8>>,
    slabs: Vec<(SlabNumber, Vec<u8>)>,
}

struct End {
    folder: tempfile::TempDir,
    store: Arc<Store>,
}

fn open(folder: &Path) -> Arc<Store> {
    let packs = Arc::new(LocalPacks::open(&folder.join("packs")).unwrap());
    let options = StoreOptions { pack_target: 256 << 10, ..StoreOptions::default() };
    Store::open(&folder.join("index.redb"), packs, Keys::new(1, [9; 32]), options).unwrap()
}

impl End {
    fn new(lineage: LineageId) -> End {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let known = Lineage { id: lineage, kind: Kind::Volume, name: "disk".into(), site: None, fork_of: None };
        store.put_lineage(&known).unwrap();
        End { folder, store }
    }

    /// As after a kill: what was not committed is gone.
    fn killed(self) -> End {
        let End { folder, store } = self;
        assert_eq!(Arc::strong_count(&store), 1, "somebody still holds the store");
        drop(store);
        let store = open(folder.path());
        End { folder, store }
    }
}

/// Bytes that compress a little, and repeat nowhere by chance.
fn text(len: usize, mut seed: u64) -> Vec<u8> {
    let word = |seed: &mut u64| {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*seed >> 58) as u8
    };
    (0..len).map(|_| word(&mut seed)).collect()
}

/// Slab 0 and 3 are alike, 1 is a hole, 2 has holes, the last is short.
fn volume() -> Vec<u8> {
    let mut volume = text(SIZE, 1);
    volume[SLAB..2 * SLAB].fill(0);
    volume[2 * SLAB + 4 * BLOCK..2 * SLAB + 900 * BLOCK].fill(0);
    volume.copy_within(..SLAB, 3 * SLAB);
    volume
}

fn new(lineage: LineageId, id: GenerationId, parent: Option<GenerationId>, len: usize) -> NewGeneration {
    let (size, captured_at) = (ByteCount(len as u64), UnixMillis(1));
    NewGeneration { id, lineage, parent, size, captured_at, source: Vec::new() }
}

fn capture(
    store: &Arc<Store>,
    lineage: LineageId,
    parent: Option<GenerationId>,
    volume: &[u8],
) -> (GenerationId, Root) {
    let id = GenerationId::random();
    let draft: Arc<Draft> = store.draft(new(lineage, id, parent, volume.len())).unwrap();
    for (number, bytes) in volume.chunks(SLAB).enumerate() {
        let mut scan = draft.scan(SlabNumber(number as u64)).unwrap();
        scan.data(bytes).unwrap();
        scan.finish().unwrap();
    }
    (id, draft.seal(UnixMillis(2)).unwrap().sealed.unwrap().root)
}

fn export(store: &Arc<Store>, id: GenerationId) -> Result<Carrier, LiftError> {
    let (view, given, mut carrier, mut at) = (store.view(id).unwrap(), Given::default(), Carrier::default(), 0);
    for slab in view.slabs_from(SlabNumber(0), usize::MAX).unwrap() {
        let Some(lifted) = view.lift(slab, &given)? else { continue };
        let mut spots = Vec::new();
        for coded in lifted.fresh() {
            let spot = Spot { part: 1, offset: at };
            at += coded.len() as u32;
            carrier.chunks.insert(spot, coded.to_vec());
            spots.push(spot);
        }
        carrier.slabs.push((slab, lifted.record(spots, &given).encode()));
    }
    Ok(carrier)
}

impl Carrier {
    /// Takes one slab in; with `near`, its chunks are at hand, otherwise they are asked for.
    fn take(&self, draft: &Draft, at: usize, near: bool) -> Result<(), TakeError<Infallible>> {
        let (slab, record) = &self.slabs[at];
        let carried = Carried::decode(record).unwrap();
        let chunks: Vec<Option<&[u8]>> =
            carried.chunks().iter().map(|chunk| near.then(|| self.chunks[&chunk.spot].as_slice())).collect();
        draft.take_carried(*slab, &carried, &chunks, |chunk| Ok(self.chunks[&chunk.spot].clone()))
    }
}

fn read(store: &Arc<Store>, id: GenerationId, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    store.view(id).unwrap().read(ByteOffset(0), &mut bytes).unwrap();
    bytes
}

#[test]
fn a_generation_arrives_with_its_root_whatever_the_order_of_its_slabs() {
    let (lineage, volume) = (LineageId::random(), volume());
    let here = End::new(lineage);
    let (id, root) = capture(&here.store, lineage, None, &volume);
    let carrier = export(&here.store, id).unwrap();
    let slabs: Vec<u64> = carrier.slabs.iter().map(|(slab, _)| slab.0).collect();
    assert_eq!(slabs, [0, 2, 3, 4], "a hole is not carried");
    let alike = Carried::decode(&carrier.slabs[2].1).unwrap();
    let first = Carried::decode(&carrier.slabs[0].1).unwrap();
    assert_eq!(alike.chunks(), first.chunks(), "nothing is carried twice");
    for (order, near) in [([0, 1, 2, 3], true), ([3, 2, 1, 0], true), ([2, 0, 3, 1], false)] {
        let there = End::new(lineage);
        let draft = there.store.draft(new(lineage, id, None, SIZE)).unwrap();
        for at in order {
            assert!(!draft.has_slab(carrier.slabs[at].0).unwrap());
            carrier.take(&draft, at, near).unwrap();
        }
        // Once more is once too often, and harms nobody.
        carrier.take(&draft, 0, near).unwrap();
        draft.checkpoint().unwrap();
        assert!(draft.has_slab(SlabNumber(2)).unwrap());
        draft.seal_as(root, UnixMillis(3)).unwrap();
        assert_eq!(read(&there.store, id, SIZE), volume);
        let stats = there.store.stats().unwrap();
        assert!(stats.data_bytes < (3 * SLAB) as u64, "slab 3 is stored once: {stats:?}");
        assert!(there.store.scrub(crate::Pace(1.0), &crate::Progress::default()).unwrap().is_empty());
    }
}

#[test]
fn marks_are_as_if_it_had_been_captured_there() {
    let (lineage, volume) = (LineageId::random(), volume());
    let (here, there) = (End::new(lineage), End::new(lineage));
    let (id, root) = capture(&here.store, lineage, None, &volume);
    let carrier = export(&here.store, id).unwrap();
    let draft = there.store.draft(new(lineage, id, None, SIZE)).unwrap();
    (0..4).for_each(|at| carrier.take(&draft, at, true).unwrap());
    draft.seal_as(root, UnixMillis(3)).unwrap();
    for slab in [0, 2, 3, 4].map(SlabNumber) {
        let [one, other] =
            [&here, &there].map(|end| end.store.view(id).unwrap().record(slab).unwrap().unwrap().as_ref().clone());
        assert_eq!((one.marks, one.leaves, one.subtree), (other.marks, other.leaves, other.subtree), "{slab}");
    }
    // The next delta finds nothing of it changed.
    let draft = there.store.draft(new(lineage, GenerationId::random(), Some(id), SIZE)).unwrap();
    for (number, bytes) in volume.chunks(SLAB).enumerate() {
        let mut scan = draft.scan(SlabNumber(number as u64)).unwrap();
        scan.data(bytes).unwrap();
        assert_eq!(scan.finish().unwrap(), crate::SlabReport::default());
    }
}

#[test]
fn what_was_committed_before_a_kill_is_not_asked_for_again() {
    let (lineage, volume) = (LineageId::random(), volume());
    let here = End::new(lineage);
    let (id, root) = capture(&here.store, lineage, None, &volume);
    let carrier = export(&here.store, id).unwrap();
    let there = End::new(lineage);
    {
        let draft = there.store.draft(new(lineage, id, None, SIZE)).unwrap();
        carrier.take(&draft, 3, true).unwrap();
        draft.checkpoint().unwrap();
        carrier.take(&draft, 0, true).unwrap();
    }
    let there = there.killed();
    let draft = there.store.draft(new(lineage, id, None, SIZE)).unwrap();
    let has: Vec<bool> = carrier.slabs.iter().map(|(slab, _)| draft.has_slab(*slab).unwrap()).collect();
    assert_eq!(has, [false, false, false, true]);
    assert!(matches!(draft.seal_as(root, UnixMillis(3)), Err(SealError::WrongRoot(_))));
    (0..3).for_each(|at| carrier.take(&draft, at, true).unwrap());
    draft.seal_as(root, UnixMillis(3)).unwrap();
    assert_eq!(read(&there.store, id, SIZE), volume);
}

#[test]
fn what_the_store_holds_already_is_not_stored_again() {
    let (lineage, volume) = (LineageId::random(), volume());
    let (here, there) = (End::new(lineage), End::new(lineage));
    let (id, root) = capture(&here.store, lineage, None, &volume);
    let other = LineageId::random();
    let known = Lineage { id: other, kind: Kind::Volume, name: "sister".into(), site: None, fork_of: None };
    there.store.put_lineage(&known).unwrap();
    capture(&there.store, other, None, &volume);
    let before = there.store.stats().unwrap().data_bytes;
    let draft = there.store.draft(new(lineage, id, None, SIZE)).unwrap();
    let carrier = export(&here.store, id).unwrap();
    (0..4).for_each(|at| carrier.take(&draft, at, at > 1).unwrap());
    draft.seal_as(root, UnixMillis(3)).unwrap();
    let grown = there.store.stats().unwrap().data_bytes - before;
    assert!(grown < before / 20, "{grown} of {before}");
    assert_eq!(read(&there.store, id, SIZE), volume);
}

#[test]
fn rests_of_many_generations_are_cut_anew() {
    let (lineage, mut volume) = (LineageId::random(), text(SLAB, 1));
    let (here, there) = (End::new(lineage), End::new(lineage));
    let (mut id, mut root) = capture(&here.store, lineage, None, &volume);
    // Of each chunk that a round writes one block stays.
    for round in 1..8u64 {
        for at in (0..SLAB / BLOCK).filter(|at| at % 8 >= round as usize) {
            let part = text(BLOCK, 1000 + round * 10_000 + at as u64);
            volume[at * BLOCK..(at + 1) * BLOCK].copy_from_slice(&part);
        }
        (id, root) = capture(&here.store, lineage, Some(id), &volume);
    }
    let carrier = export(&here.store, id).unwrap();
    let bytes: usize = carrier.chunks.values().map(Vec::len).sum();
    assert!(bytes < SLAB, "{bytes}");
    let draft = there.store.draft(new(lineage, id, None, SLAB)).unwrap();
    carrier.take(&draft, 0, true).unwrap();
    draft.seal_as(root, UnixMillis(3)).unwrap();
    assert_eq!(read(&there.store, id, SLAB), volume);
}

#[test]
fn a_carrier_that_lies_is_found_out() {
    let (lineage, volume) = (LineageId::random(), volume());
    let (here, there) = (End::new(lineage), End::new(lineage));
    let (id, root) = capture(&here.store, lineage, None, &volume);
    let carrier = export(&here.store, id).unwrap();
    let draft = there.store.draft(new(lineage, id, None, SIZE)).unwrap();
    let honest = Carried::decode(&carrier.slabs[1].1).unwrap();
    let take = |slab: u64, carried: &Carried, spoil: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut coded: Vec<Vec<u8>> = honest.chunks().iter().map(|chunk| carrier.chunks[&chunk.spot].clone()).collect();
        spoil(&mut coded);
        let near: Vec<Option<&[u8]>> = coded.iter().map(|coded| Some(coded.as_slice())).collect();
        match draft.take_carried::<Infallible>(SlabNumber(slab), carried, &near, |_| unreachable!()) {
            Err(TakeError::Damaged(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let keep = |_: &mut Vec<Vec<u8>>| {};
    let name = "a chunk is not what its name says";
    // Not compressed, so that it unpacks and only the name is wrong.
    let raw = |coded: &mut Vec<Vec<u8>>| coded[5] = [vec![0], vec![7; honest.chunks[5].raw as usize]].concat();
    let mut lying = honest.clone();
    lying.chunks[5].coded = lying.chunks[5].raw + 1;
    assert_eq!(take(2, &lying, &raw), name);
    assert_eq!(take(2, &honest, &|coded| coded[5].truncate(9)), "a chunk does not unpack to its length");
    assert_eq!(take(2, &honest, &|coded| drop(coded.pop())), "its chunks are not all named");
    let mut lying = honest.clone();
    lying.leaves[0][0] ^= 1;
    assert_eq!(take(2, &lying, &keep), "its bytes do not hash to its leaves");
    let mut lying = honest.clone();
    lying.pieces[0].at += BLOCK as u32 / 2;
    lying.pieces[0].len -= BLOCK as u32 / 2;
    assert_eq!(take(2, &lying, &keep), "its bytes do not hash to its leaves");
    assert_eq!(take(3, &honest, &keep), "its bytes do not hash to its leaves", "another slab's place");
    let short = "it has another length than the slab of this generation";
    assert_eq!([take(4, &honest, &keep), take(9, &honest, &keep)], [short; 2]);
    // Nothing of all that is to be seen, and the honest one is taken in.
    draft.checkpoint().unwrap();
    assert!(!draft.has_slab(SlabNumber(2)).unwrap() && !draft.has_slab(SlabNumber(3)).unwrap());
    (0..4).for_each(|at| carrier.take(&draft, at, true).unwrap());
    draft.seal_as(root, UnixMillis(3)).unwrap();
    assert_eq!(read(&there.store, id, SIZE), volume);
    let late = draft.take_carried::<Infallible>(SlabNumber(2), &honest, &[], |_| unreachable!());
    assert!(late.is_err(), "what is sealed never changes");
}

#[test]
fn bytes_beyond_the_volumes_end_are_not_smuggled_in() {
    let (lineage, volume) = (LineageId::random(), text(LEAF + 100, 4));
    let (here, there) = (End::new(lineage), End::new(lineage));
    let (id, _) = capture(&here.store, lineage, None, &volume);
    let carrier = export(&here.store, id).unwrap();
    let honest = Carried::decode(&carrier.slabs[0].1).unwrap();
    let draft = there.store.draft(new(lineage, id, None, volume.len())).unwrap();
    let mut filled = volume.clone();
    filled.resize(LEAF + BLOCK, 7);
    let mut lying = honest.clone();
    let id = ChunkId(*blake3::hash(&filled).as_bytes());
    lying.chunks = vec![CarriedChunk {
        id,
        raw: filled.len() as u32,
        coded: filled.len() as u32 + 1,
        spot: Spot { part: 1, offset: 0 },
    }];
    lying.pieces = vec![CarriedPiece { at: 0, len: filled.len() as u32, chunk: 0, skip: 0 }];
    let coded = [vec![0], filled].concat();
    let taken = draft.take_carried::<Infallible>(SlabNumber(0), &lying, &[Some(&coded)], |_| unreachable!());
    assert!(matches!(taken, Err(TakeError::Damaged("it has bytes beyond the volume's end"))), "{taken:?}");
}

#[test]
fn bytes_that_are_damaged_or_gone_at_the_export_name_their_slab() {
    let (lineage, volume) = (LineageId::random(), volume());
    let here = End::new(lineage);
    let (id, _) = capture(&here.store, lineage, None, &volume);
    let piece = here.store.view(id).unwrap().record(SlabNumber(2)).unwrap().unwrap().pieces[0];
    let pack = piece.place.pack.to_string();
    let path = here.folder.path().join("packs").join(&pack[..2]).join(format!("{pack}.data"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[piece.place.offset as usize + 3] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let here = here.killed();
    let lift = |store: &Arc<Store>| store.view(id).unwrap().lift(SlabNumber(2), &Given::default()).err().unwrap();
    let damaged = lift(&here.store);
    assert_eq!(damaged.slab, SlabNumber(2));
    assert_eq!(damaged.source.damaged_pack(), Some(piece.place.pack));
    std::fs::remove_file(&path).unwrap();
    let here = here.killed();
    let gone = lift(&here.store);
    assert!(gone.slab == SlabNumber(2) && matches!(gone.source, StoreError::Gone(_)), "{gone}");
}

#[test]
fn records_that_are_none_are_refused() {
    let (lineage, volume) = (LineageId::random(), volume());
    let here = End::new(lineage);
    let (id, _) = capture(&here.store, lineage, None, &volume);
    let carrier = export(&here.store, id).unwrap();
    let bytes = &carrier.slabs[3].1;
    let honest = Carried::decode(bytes).unwrap();
    for cut in 0..bytes.len() {
        assert_eq!(Carried::decode(&bytes[..cut]), None, "{cut}");
    }
    let refused = |change: &dyn Fn(&mut Carried)| {
        let mut lying = honest.clone();
        change(&mut lying);
        Carried::decode(&lying.encode()).is_none()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|lying| lying.len = SLAB as u32 + 1));
    assert!(refused(&|lying| lying.leaves.truncate(1)));
    assert!(refused(&|lying| lying.chunks[0].raw = MAX_CODED as u32 + 1));
    assert!(refused(&|lying| lying.chunks[0].coded = lying.chunks[0].raw + 2));
    assert!(refused(&|lying| lying.pieces[0].chunk = 1 << 20));
    assert!(refused(&|lying| lying.pieces[0].skip = u32::MAX));
    assert!(refused(&|lying| lying.pieces.last_mut().unwrap().len += 1 << 20));
    assert!(refused(&|lying| lying.chunks = vec![lying.chunks[0]; 20_000]), "more than two slabs of chunks");
}
