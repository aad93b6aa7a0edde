//! What differs between two generations, from their slab records alone: no byte of the volume is read.

use crate::draft::mark_sample;
use crate::error::StoreError;
use crate::generation::Generation;
use crate::id::{BLOCK, BlockNumber, BlockRun, GenerationId, LEAF, LineageId, Mark, SlabNumber};
use crate::index;
use crate::slab::Slab;
use crate::store::Store;
use redb::ReadableDatabase;
use std::collections::HashMap;

/// Blocks of one slab that differ, and what they are now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlabDelta {
    /// Blocks with bytes, and their marks.
    pub data: Vec<(BlockNumber, Mark)>,
    /// Blocks that are zeroes now.
    pub zero: Vec<BlockNumber>,
}

impl Store {
    /// Slabs that may differ between two generations of a lineage, ascending; `None` compares with nothing.
    pub fn changed_slabs(&self, from: Option<&Generation>, to: &Generation) -> Result<Vec<SlabNumber>, StoreError> {
        match from {
            Some(from) => self.touched(to.lineage, from.number, to.number),
            None => self.slabs_with_rows(to.lineage, to.number),
        }
    }

    /// The next slabs from `start` on that may differ; a batch of them, so that a seed of millions is never listed at once.
    pub(crate) fn changed_from(
        &self,
        from: Option<&Generation>,
        to: &Generation,
        start: SlabNumber,
    ) -> Result<Vec<SlabNumber>, StoreError> {
        const BATCH: usize = 64;
        let read = self.db.begin_read()?;
        let mut slabs = Vec::new();
        let Some(from) = from else {
            let table = read.open_table(index::SLABS)?;
            let first = index::slab_key(to.lineage, start, 0);
            let last = index::slab_key(to.lineage, SlabNumber(to.size.slabs().saturating_sub(1)), u64::MAX);
            if start.0 < to.size.slabs() {
                for row in table.range::<&[u8; 32]>(&first..=&last)? {
                    let (slab, order) = index::of_slab_key(row?.0.value());
                    if order <= to.number && slabs.last() != Some(&slab) {
                        slabs.push(slab);
                        if slabs.len() == BATCH {
                            break;
                        }
                    }
                }
            }
            return Ok(slabs);
        };
        let table = read.open_table(index::TOUCHED)?;
        for order in from.number + 1..=to.number {
            let (first, last) = (
                index::touched_key(to.lineage, order, start),
                index::touched_key(to.lineage, order, SlabNumber(u64::MAX)),
            );
            for row in table.range::<&[u8; 32]>(&first..=&last)?.take(BATCH) {
                slabs.push(SlabNumber(index::of_slab_key(row?.0.value()).1));
            }
        }
        slabs.sort_unstable();
        slabs.dedup();
        slabs.truncate(BATCH);
        Ok(slabs)
    }

    /// The blocks of one slab that differ. `whole_leaves` takes each block of a leaf that differs, whatever the marks say.
    pub fn slab_delta(
        &self,
        from: Option<&Generation>,
        to: &Generation,
        slab: SlabNumber,
        whole_leaves: bool,
    ) -> Result<SlabDelta, StoreError> {
        let new = self.slab(to.lineage, slab, to.number)?;
        let old = match from {
            Some(from) => self.slab(from.lineage, slab, from.number)?,
            None => None,
        };
        Ok(compare(slab, old.as_deref(), new.as_deref(), to.size.blocks(), whole_leaves))
    }

    /// Everything that differs, slab by slab, as runs of blocks that hold bytes or zeroes now. In address order.
    pub fn changed(
        &self,
        from: Option<GenerationId>,
        to: GenerationId,
    ) -> Result<impl Iterator<Item = Result<(SlabNumber, Vec<BlockRun>), StoreError>> + '_, StoreError> {
        let to = self.must_have(to)?;
        let from = from.map(|id| self.must_have(id)).transpose()?;
        let slabs = self.changed_slabs(from.as_ref(), &to)?;
        Ok(slabs.into_iter().map(move |slab| {
            let delta = self.slab_delta(from.as_ref(), &to, slab, false)?;
            let mut blocks: Vec<BlockNumber> = delta.data.iter().map(|(block, _)| *block).chain(delta.zero).collect();
            blocks.sort_unstable();
            Ok((slab, runs_of(blocks)))
        }))
    }

    /// Which of these blocks does the store hold, in any sealed generation? Runs of the question's marks, in its order.
    ///
    /// One mark in 64 is in the index; a hit leads to a slab, and everything asked is looked up in the slabs that were hit most. So
    /// whole regions that were moved or are shared are found, single blocks seldom.
    pub fn find_marks(&self, marks: &[Mark]) -> Result<Vec<FoundMarks>, StoreError> {
        self.find_marks_in(marks, &|lineage| self.latest(lineage))
    }

    /// As [`Store::find_marks`], in the one generation of each lineage that `pick` names.
    pub(crate) fn find_marks_in(
        &self,
        marks: &[Mark],
        pick: &dyn Fn(LineageId) -> Result<Option<Generation>, StoreError>,
    ) -> Result<Vec<FoundMarks>, StoreError> {
        let mut latest: HashMap<LineageId, Option<Generation>> = HashMap::new();
        let mut votes: HashMap<(LineageId, SlabNumber), u32> = HashMap::new();
        {
            let table = self.db.begin_read()?.open_table(index::MARK_SAMPLES)?;
            for sample in marks.iter().filter_map(|mark| mark_sample(*mark)) {
                let first = index::sample_key(sample, LineageId([0; 16]));
                let last = index::sample_key(sample, LineageId([255; 16]));
                for row in table.range::<&[u8; 24]>(&first..=&last)?.take(MAX_PLACES) {
                    let (key, slab) = row?;
                    let lineage = index::of_sample_key(key.value());
                    *votes.entry((lineage, SlabNumber(slab.value()))).or_default() += 1;
                }
            }
        }
        let mut champions: Vec<_> = votes.into_iter().collect();
        champions.sort_unstable_by_key(|(slab, votes)| (std::cmp::Reverse(*votes), *slab));
        champions.truncate(MAX_CHAMPIONS);
        let mut held: HashMap<Mark, Vec<(u32, BlockNumber)>> = HashMap::new();
        let mut generations: Vec<Generation> = Vec::new();
        for ((lineage, slab), _) in champions {
            let generation = match latest.get(&lineage) {
                Some(found) => found.clone(),
                None => latest.entry(lineage).or_insert(pick(lineage)?).clone(),
            };
            let Some(generation) = generation else { continue };
            let Some(record) = self.slab(lineage, slab, generation.number)? else { continue };
            let index = generations.iter().position(|known| known.id == generation.id).unwrap_or_else(|| {
                generations.push(generation.clone());
                generations.len() - 1
            });
            for (at, mark) in record.marks.iter().enumerate().filter(|(_, mark)| **mark != Mark::ZERO) {
                let places = held.entry(*mark).or_default();
                if places.len() < MAX_PLACES {
                    places.push((index as u32, BlockNumber(slab.first_block().0 + at as u64)));
                }
            }
        }
        Ok(join_runs(marks, &held, &generations))
    }
}

/// Slabs that one question looks into at most: bounds its cost (a record is 60 KiB at most).
const MAX_CHAMPIONS: usize = 64;
/// Places remembered for one mark. More copies than this are boilerplate; any will do.
const MAX_PLACES: usize = 4;

/// `count` marks of a question from number `at` on are the blocks from `first` on of `generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundMarks {
    /// Index into the question's marks.
    pub at: u32,
    /// Length of the run.
    pub count: u32,
    /// A sealed generation.
    pub generation: GenerationId,
    /// Its block that equals mark `at`.
    pub first: BlockNumber,
}

/// Of several places for a mark, the one that goes on with the run before it wins.
fn join_runs(
    marks: &[Mark],
    held: &HashMap<Mark, Vec<(u32, BlockNumber)>>,
    generations: &[Generation],
) -> Vec<FoundMarks> {
    let mut found: Vec<FoundMarks> = Vec::new();
    for (at, mark) in marks.iter().enumerate() {
        let Some(places) = held.get(mark) else { continue };
        if let Some(last) = found.last_mut().filter(|last| (last.at + last.count) as usize == at) {
            let next = BlockNumber(last.first.0 + u64::from(last.count));
            if places
                .iter()
                .any(|(source, block)| *block == next && generations[*source as usize].id == last.generation)
            {
                last.count += 1;
                continue;
            }
        }
        let (source, first) = places[0];
        found.push(FoundMarks { at: at as u32, count: 1, generation: generations[source as usize].id, first });
    }
    found
}

fn compare(slab: SlabNumber, old: Option<&Slab>, new: Option<&Slab>, blocks: u64, whole_leaves: bool) -> SlabDelta {
    let first = slab.first_block().0;
    let mut delta = SlabDelta::default();
    let mut put = |at: usize, mark: Mark| match mark {
        Mark::ZERO => delta.zero.push(BlockNumber(first + at as u64)),
        mark => delta.data.push((BlockNumber(first + at as u64), mark)),
    };
    let Some(new) = new else {
        let was = old.map_or(&[][..], |old| &old.marks);
        for (at, _) in was.iter().enumerate().filter(|(at, mark)| **mark != Mark::ZERO && first + (*at as u64) < blocks)
        {
            put(at, Mark::ZERO);
        }
        return delta;
    };
    let per_leaf = LEAF / BLOCK;
    for leaf in 0..new.leaves.len() {
        let known = old.filter(|old| leaf < old.leaves.len());
        if known.is_some_and(|old| old.leaves[leaf] == new.leaves[leaf]) {
            continue;
        }
        let (was, is) = (known.map_or(&[][..], |old| old.leaf_marks(leaf)), new.leaf_marks(leaf));
        // The leaf differs: if no mark does, one collided.
        let all = whole_leaves || (was == is && known.is_some());
        for (at, mark) in is.iter().enumerate() {
            let before = was.get(at).copied().unwrap_or(Mark::ZERO);
            if before != *mark || (all && (*mark != Mark::ZERO || before != Mark::ZERO)) {
                put(leaf * per_leaf + at, *mark);
            }
        }
    }
    delta
}

/// Sorted blocks as runs.
pub(crate) fn runs_of(blocks: impl IntoIterator<Item = BlockNumber>) -> Vec<BlockRun> {
    let mut runs: Vec<BlockRun> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.first.0 + run.count == block.0 => run.count += 1,
            _ => runs.push(BlockRun { first: block, count: 1 }),
        }
    }
    runs
}

/// The blocks of runs, one by one.
pub(crate) fn blocks_of(runs: &[BlockRun]) -> impl Iterator<Item = BlockNumber> + '_ {
    runs.iter().flat_map(|run| (run.first.0..run.first.0 + run.count).map(BlockNumber))
}
