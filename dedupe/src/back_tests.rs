#![allow(clippy::unwrap_used)] // tests

use super::*;
use crate::id::{ByteCount, ByteOffset, Kind, LEAF, SLAB, UnixMillis};
use crate::{Draft, Keys, Lineage, LocalPacks, NewGeneration, StoreOptions};
use std::path::Path;

const SIZE: usize = SLAB + SLAB / 2 + 5 * LEAF + 3000;

/// Two ends that were given the same generations.
struct Ends {
    _folder: tempfile::TempDir,
    centre: Arc<Store>,
    branch: Arc<Store>,
    lineage: LineageId,
    volumes: Vec<(GenerationId, Vec<u8>)>,
}

fn open(folder: &Path) -> Arc<Store> {
    let packs = Arc::new(LocalPacks::open(&folder.join("packs")).unwrap());
    let options = StoreOptions { pack_target: 256 << 10, ..StoreOptions::default() };
    Store::open(&folder.join("index.redb"), packs, Keys::new(1, [9; 32]), options).unwrap()
}

fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let word = |seed: &mut u64| {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*seed >> 56) as u8
    };
    (0..len).map(|_| word(&mut seed)).collect()
}

fn capture(store: &Arc<Store>, lineage: LineageId, id: GenerationId, parent: Option<GenerationId>, volume: &[u8]) {
    let new = NewGeneration {
        id,
        lineage,
        parent,
        size: ByteCount(volume.len() as u64),
        captured_at: UnixMillis(1),
        source: Vec::new(),
    };
    let draft: Arc<Draft> = store.draft(new).unwrap();
    for (number, bytes) in volume.chunks(SLAB).enumerate() {
        let mut scan = draft.scan(SlabNumber(number as u64)).unwrap();
        scan.data(bytes).unwrap();
        scan.finish().unwrap();
    }
    draft.seal(UnixMillis(2)).unwrap();
}

impl Ends {
    /// Each of the volumes is a generation at both ends.
    fn with(volumes: &[Vec<u8>]) -> Ends {
        let folder = tempfile::tempdir().unwrap();
        let end = |name: &str| {
            std::fs::create_dir_all(folder.path().join(name).join("packs")).unwrap();
            open(&folder.path().join(name))
        };
        let (centre, branch, lineage) = (end("centre"), end("branch"), LineageId::random());
        let known = Lineage { id: lineage, kind: Kind::Volume, name: "disk".into(), site: None, fork_of: None };
        let mut ends = Ends { centre, branch, lineage, volumes: Vec::new(), _folder: folder };
        for store in [&ends.centre, &ends.branch] {
            store.put_lineage(&known).unwrap();
        }
        for volume in volumes {
            let (id, parent) = (GenerationId::random(), ends.volumes.last().map(|(id, _)| *id));
            for store in [&ends.centre, &ends.branch] {
                capture(store, lineage, id, parent, volume);
            }
            ends.volumes.push((id, volume.clone()));
        }
        ends
    }

    fn wanted(&self, generation: usize, base: Option<usize>) -> Wanted {
        let (id, volume) = &self.volumes[generation];
        Wanted {
            generation: *id,
            base: base.map(|at| self.volumes[at].0),
            start: BlockNumber(0),
            end: BlockNumber(volume.len().div_ceil(BLOCK) as u64),
            absent: Vec::new(),
            held: Vec::new(),
            most: 512,
        }
    }

    /// Brings a generation back from its beginning to its end; its bytes, and those that would have crossed the line.
    fn bring(&self, wanted: Wanted) -> (Vec<u8>, usize) {
        let (mut wanted, mut crossed) = (wanted, 0);
        let size = self.volumes.iter().find(|(id, _)| *id == wanted.generation).unwrap().1.len();
        let mut volume = vec![0; wanted.end.0 as usize * BLOCK];
        if let Some(base) = wanted.base {
            let base = self.branch.view(base).unwrap();
            for at in (0..volume.len()).step_by(BLOCK) {
                // What is gone is asked for: the answer has to bring it.
                let _gone = base.read(ByteOffset(at as u64), &mut volume[at..at + BLOCK]);
            }
        }
        let end = wanted.end;
        while wanted.start < end {
            let answered = self.centre.answer(&wanted, Effort::Light).unwrap();
            let again = self.centre.answer(&wanted, Effort::Light).unwrap();
            assert_eq!(answered.bytes, again.bytes, "the same question has the same answer");
            crossed += answered.bytes.len();
            let taken = self.branch.take(&wanted, answered.until, &answered.bytes).unwrap();
            for run in &taken.zero {
                volume[run.first.0 as usize * BLOCK..(run.first.0 + run.count) as usize * BLOCK].fill(0);
            }
            for (run, at) in &taken.data {
                let (first, len) = (run.first.0 as usize * BLOCK, run.count as usize * BLOCK);
                volume[first..first + len].copy_from_slice(&taken.bytes[*at..*at + len]);
            }
            wanted.start = answered.until;
        }
        volume.truncate(size);
        (volume, crossed)
    }
}

/// Three days: a volume, some blocks of it changed and zeroed, and then a part of it moved and the volume grown.
fn days() -> Vec<Vec<u8>> {
    let mut first = noise(SIZE, 1);
    first[SLAB / 2..SLAB / 2 + 40 * BLOCK].fill(0);
    let mut second = first.clone();
    second[7 * BLOCK..9 * BLOCK].copy_from_slice(&noise(2 * BLOCK, 2));
    second[SLAB + 100..SLAB + 200].fill(7);
    second[SLAB / 4..SLAB / 4 + 10 * BLOCK].fill(0);
    let mut third = second.clone();
    third.truncate(SLAB + 5 * BLOCK + 512);
    let mut fourth = third.clone();
    fourth.extend(noise(SLAB / 2, 4));
    vec![first, second, third, fourth]
}

#[test]
fn any_generation_comes_back_from_any_other_earlier_or_later_larger_or_smaller() {
    let ends = Ends::with(&days());
    for target in 0..4 {
        for base in (0..4).map(Some).chain([None]) {
            let (volume, crossed) = ends.bring(ends.wanted(target, base));
            assert!(volume == ends.volumes[target].1, "{target} from {base:?}");
            if base == Some(target) {
                assert!(crossed < 200, "nothing differs, and {crossed} bytes crossed");
            }
        }
    }
    let (_, delta) = ends.bring(ends.wanted(0, Some(1)));
    let (_, all) = ends.bring(ends.wanted(0, None));
    assert!(delta * 100 < all, "{delta} bytes for a delta, {all} for everything");
}

#[test]
fn what_was_evicted_is_named_and_brought_and_nothing_else() {
    let ends = Ends::with(&days());
    let id = ends.volumes[3].0;
    let budget = ends.branch.stats().unwrap().data_bytes / 2;
    ends.branch.evict(budget, &[]).unwrap();
    let generation = ends.branch.generation(id).unwrap().unwrap();
    let mut wanted = ends.wanted(3, Some(3));
    let (absent, until) = ends.branch.absent(&generation, wanted.start, wanted.end, 1000).unwrap();
    assert_eq!(until, wanted.end);
    let gone = parcel::blocks_in(&absent) as usize;
    assert!(gone > 100 && gone * BLOCK < ends.volumes[3].1.len(), "{gone} blocks are gone");
    wanted.absent = absent.clone();
    let (volume, crossed) = ends.bring(wanted);
    assert!(volume == ends.volumes[3].1);
    assert!(crossed < gone * BLOCK + gone * BLOCK / 50 + 2000, "{crossed} bytes for {gone} blocks");
    // As a list that is cut short: what it says up to where it ends is all there is.
    let (few, until) = ends.branch.absent(&generation, BlockNumber(0), generation_end(&generation), 1).unwrap();
    assert_eq!(few[..], absent[..1]);
    assert!(absent.get(1).is_none_or(|next| next.first == until));
}

fn generation_end(generation: &Generation) -> BlockNumber {
    BlockNumber(generation.size.blocks())
}

#[test]
fn blocks_that_moved_need_no_line() {
    let first = noise(SIZE, 5);
    let mut second = first.clone();
    second[SLAB..SLAB + 800 * BLOCK].copy_from_slice(&first[100 * BLOCK..900 * BLOCK]);
    second[100 * BLOCK..900 * BLOCK].copy_from_slice(&noise(800 * BLOCK, 6));
    second.truncate(SLAB + 1000 * BLOCK);
    let mut first = first;
    first.truncate(SLAB);
    let ends = Ends::with(&[first, second]);
    // The older one back from the newer one, which has the blocks elsewhere.
    let mut wanted = ends.wanted(0, Some(1));
    let (_, plainly) = ends.bring(wanted.clone());
    wanted.held = vec![ends.volumes[1].0];
    let (volume, crossed) = ends.bring(wanted.clone());
    assert!(volume == ends.volumes[0].1);
    assert!(crossed * 20 < plainly, "{crossed} bytes with copies, {plainly} without");
    // Gone meanwhile: said, so that it is asked for without them.
    let answered = ends.centre.answer(&wanted, Effort::Light).unwrap();
    ends.branch.evict(0, &[]).unwrap();
    let taken = ends.branch.take(&wanted, answered.until, &answered.bytes);
    assert!(matches!(taken, Err(IngestError::MissingBase(id)) if id == ends.volumes[1].0));
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    let ends = Ends::with(&days());
    let refused = |change: &dyn Fn(&mut Wanted)| {
        let mut wanted = ends.wanted(1, Some(0));
        change(&mut wanted);
        ends.centre.answer(&wanted, Effort::Light).unwrap_err()
    };
    assert!(matches!(refused(&|w| w.end = w.start), AnswerError::Unfit(_)));
    assert!(matches!(refused(&|w| w.end.0 = u64::MAX), AnswerError::Unfit(_)));
    assert!(matches!(refused(&|w| w.most = 0), AnswerError::Unfit(_)));
    let run = |first, count| BlockRun { first: BlockNumber(first), count };
    for bad in [vec![run(0, 0)], vec![run(9, 2), run(3, 1)], vec![run(0, u64::MAX), run(1, 1)]] {
        assert!(matches!(refused(&|w| w.absent = bad.clone()), AnswerError::Unfit(_)), "{bad:?}");
    }
    assert!(matches!(refused(&|w| w.base = Some(GenerationId([9; 16]))), AnswerError::NoBase(_)));
    let gone = refused(&|w| w.generation = GenerationId([9; 16]));
    assert!(matches!(gone, AnswerError::Store(StoreError::NoGeneration(_))));
    let other = LineageId::random();
    let known = Lineage { id: other, kind: Kind::Volume, name: "other".into(), site: None, fork_of: None };
    ends.centre.put_lineage(&known).unwrap();
    let stranger = GenerationId::random();
    capture(&ends.centre, other, stranger, None, &noise(BLOCK, 9));
    assert!(matches!(refused(&|w| w.base = Some(stranger)), AnswerError::NoBase(_)));
    assert_ne!(ends.lineage, other);
}

#[test]
fn absurd_runs_cost_no_more_than_the_part() {
    let ends = Ends::with(&days());
    let run = |first, count| BlockRun { first: BlockNumber(first), count };
    let mut wanted = ends.wanted(1, Some(1));
    wanted.absent = vec![run(3, 2), run(u64::MAX - 1, u64::MAX)];
    assert!(ends.centre.answer(&wanted, Effort::Light).is_ok());
    wanted.absent = vec![run(0, u64::MAX)];
    let answered = ends.centre.answer(&wanted, Effort::Light).unwrap();
    assert_eq!(answered.until, BlockNumber(512), "as many as were asked for");
    let slabs = |runs: &[BlockRun], last| slabs_named(runs, SlabNumber(0), SlabNumber(last));
    assert_eq!(slabs(&[run(0, 1), run(5, 1), run(4095, 2)], 9), [SlabNumber(0), SlabNumber(1)]);
    assert_eq!(slabs(&[run(0, u64::MAX)], 2), [SlabNumber(0), SlabNumber(1), SlabNumber(2)]);
}

#[test]
fn an_answer_to_another_question_is_not_taken() {
    let ends = Ends::with(&days());
    let wanted = ends.wanted(0, Some(1));
    let answered = ends.centre.answer(&wanted, Effort::Light).unwrap();
    let damaged = |wanted: &Wanted, until, bytes: &[u8]| {
        assert!(matches!(ends.branch.take(wanted, until, bytes), Err(IngestError::Damaged(_))));
    };
    let (until, bytes) = (answered.until, &answered.bytes[..]);
    damaged(&Wanted { base: None, ..wanted.clone() }, until, bytes);
    damaged(&Wanted { generation: ends.volumes[2].0, ..wanted.clone() }, until, bytes);
    damaged(&Wanted { most: 1, ..wanted.clone() }, until, bytes);
    damaged(&Wanted { start: BlockNumber(8), ..wanted.clone() }, until, bytes);
    damaged(&wanted, BlockNumber(8), bytes);
    damaged(&wanted, BlockNumber(until.0 + 1), bytes);
    damaged(&wanted, until, &bytes[..bytes.len() - 1]);
    for at in (0..bytes.len()).step_by(97) {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 0x10;
        if let Ok(taken) = ends.branch.take(&wanted, until, &flipped) {
            // A flip that the parcel's own hashes do not cover names other blocks of the part; the whole's hash finds it.
            assert!(taken.data.iter().all(|(run, _)| run.first.0 + run.count <= until.0));
        }
    }
}

#[test]
fn a_measurement_tells_what_differs() {
    let ends = Ends::with(&days());
    let generation = |at: usize| ends.centre.generation(ends.volumes[at].0).unwrap().unwrap();
    let measured = ends.centre.measure(Some(&generation(1)), &generation(0)).unwrap();
    let differ = ends.volumes[0].1.chunks(BLOCK).zip(ends.volumes[1].1.chunks(BLOCK)).filter(|(a, b)| a != b).count();
    assert_eq!((measured.blocks, measured.zeroes, measured.sampled), (differ as u64, 0, false));
    let all = ends.centre.measure(None, &generation(0)).unwrap();
    assert_eq!(all.blocks, (SIZE.div_ceil(BLOCK) - 40) as u64);
}
