//! The way back: whoever holds a generation codes a part of it for the other end, against bytes that the other end says it has.
//!
//! Stateless at the end that answers: a question names everything that the answer depends on, so after a cut, a crash or a week the same question gives the
//! same parcel, and its hash says whether it did. The parcel is the same as on the way there ([`crate::parcel`]), with one base at the same addresses, no
//! anchors and no parcels before it. What proves the whole is the root, at the end.

use crate::codec::{self, CodecError, CodecMemory, Effort};
use crate::delta::runs_of;
use crate::error::{IngestError, StoreError};
use crate::generation::Generation;
use crate::id::{BLOCK, BlockNumber, BlockRun, GenerationId, LineageId, Mark, PackId, SlabNumber};
use crate::parcel::{self, Copied, Header};
use crate::storage::PackClass;
use crate::store::{Store, View};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Tables of zstd for at most 16 MiB of prefix and blocks.
const MEMORY: CodecMemory = CodecMemory { long_log: 20, chain_log: 0 };
/// Records that a measurement looks into at most; what the others hold is taken to be like these.
const SAMPLE: usize = 256;

/// A part of a generation that the other end wants, and what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The generation, sealed where it is asked for.
    pub generation: GenerationId,
    /// A generation of the same lineage, earlier or later, that both ends hold sealed.
    pub base: Option<GenerationId>,
    /// First block of the part.
    pub start: BlockNumber,
    /// The block behind its last.
    pub end: BlockNumber,
    /// Blocks of the base, within the part, whose bytes the asking end has no more.
    pub absent: Vec<BlockRun>,
    /// Generations of which the asking end has all bytes: blocks may be copied from them.
    pub held: Vec<GenerationId>,
    /// Blocks that the answer may bring or copy at most.
    pub most: u32,
}

/// The answer to [`Wanted`].
#[derive(Debug)]
pub struct Answered {
    /// A parcel.
    pub bytes: Vec<u8>,
    /// The first block that it says nothing about: the part's end, or where there was no more room.
    pub until: BlockNumber,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The question makes no sense.
    #[error("{0}")]
    Unfit(&'static str),
    /// Two generations have no lineage in common.
    #[error("generation {0} is no base of that one: it is of another lineage, or not sealed")]
    NoBase(GenerationId),
    /// The store failed. [`StoreError::NoGeneration`]: it is not here, or was forgotten meanwhile.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// zstd failed.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// How much differs between two generations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Blocks with other bytes.
    pub blocks: u64,
    /// Blocks that are zeroes.
    pub zeroes: u64,
    /// What bytes on the line stood for when these generations came, in thousandths: 4000 is 4 : 1.
    pub ratio: u32,
    /// Whether not all records were looked into.
    pub sampled: bool,
}

/// What a parcel says of its part. Blocks that it does not name are those of the base.
#[derive(Debug, Default)]
pub struct Taken {
    /// Blocks with bytes, and where these are in `bytes`.
    pub data: Vec<(BlockRun, usize)>,
    /// Blocks of zeroes.
    pub zero: Vec<BlockRun>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What differs in a part.
#[derive(Default)]
struct Part {
    data: Vec<(BlockNumber, Mark)>,
    zero: Vec<BlockNumber>,
    /// Of `data`: blocks that have no old bytes at the other end.
    without_old: Vec<BlockNumber>,
    until: BlockNumber,
}

impl Store {
    /// Codes what the other end lacks of a part. Memory: twice `most` blocks and their coded form.
    ///
    /// # Errors
    /// [`AnswerError::Store`] also when one of the generations was forgotten while it was read: what was read then may be another one's.
    pub fn answer(self: &Arc<Self>, wanted: &Wanted, effort: Effort) -> Result<Answered, AnswerError> {
        let target = self.must_have(wanted.generation)?;
        if !target.is_sealed() {
            return Err(AnswerError::Unfit("the generation is not sealed"));
        }
        let base = wanted.base.map(|id| self.base(id, &target)).transpose()?;
        if !are_in_order(&wanted.absent) {
            return Err(AnswerError::Unfit("absent blocks that are not in order"));
        }
        if wanted.start >= wanted.end || wanted.end.0 > target.size.blocks() || wanted.most == 0 {
            return Err(AnswerError::Unfit("a part that is empty, or goes beyond the volume's end"));
        }
        let part = self.part(wanted, base.as_ref(), &target)?;
        let copies = self.copies(wanted, &target, &part)?;
        let bytes = self.code(wanted, &target, part.until, &part, &copies, effort)?;
        // Generations are forgotten while this runs, and rows with them. If both are there still, nothing was.
        for id in wanted.base.into_iter().chain([wanted.generation]) {
            self.must_have(id)?;
        }
        Ok(Answered { bytes, until: part.until })
    }

    fn base(&self, id: GenerationId, target: &Generation) -> Result<Generation, AnswerError> {
        match self.generation(id)? {
            Some(base) if base.lineage == target.lineage && base.is_sealed() => Ok(base),
            _ => Err(AnswerError::NoBase(id)),
        }
    }

    /// What differs, block by block, until there is no more room.
    fn part(&self, wanted: &Wanted, base: Option<&Generation>, target: &Generation) -> Result<Part, StoreError> {
        let most = (wanted.most as usize).min(parcel::MAX_FRESH / BLOCK);
        let mut part = Part { until: wanted.end, ..Part::default() };
        let mut next = wanted.start.in_slab().0;
        let last = BlockNumber(wanted.end.0 - 1).in_slab().0;
        while next <= last {
            let mut batch = self.touched_between(base, target, next)?;
            let far = batch.last().copied();
            // Slabs that are only named as absent, as far as the batch reaches.
            let reach = far.unwrap_or(last).min(last);
            batch.extend(slabs_named(&wanted.absent, next, reach));
            batch.sort_unstable();
            batch.dedup();
            batch.retain(|slab| *slab <= last);
            for slab in batch {
                if self.part_of_slab(slab, wanted, (base, target), most, &mut part)? {
                    return Ok(part);
                }
            }
            next = SlabNumber(reach.0 + 1);
        }
        Ok(part)
    }

    /// Adds what differs in one slab; whether the room is used up.
    fn part_of_slab(
        &self,
        slab: SlabNumber,
        wanted: &Wanted,
        (base, target): (Option<&Generation>, &Generation),
        most: usize,
        part: &mut Part,
    ) -> Result<bool, StoreError> {
        let delta = self.slab_delta(base, target, slab, false)?;
        let mut blocks: BTreeMap<BlockNumber, Mark> = delta.data.into_iter().collect();
        blocks.extend(delta.zero.into_iter().map(|block| (block, Mark::ZERO)));
        let absent = named_in(&wanted.absent, slab);
        if !absent.is_empty() {
            let record = self.slab(target.lineage, slab, target.number)?;
            for block in &absent {
                let mark = record.as_ref().and_then(|record| record.marks.get(block.in_slab().1).copied());
                blocks.insert(*block, mark.unwrap_or(Mark::ZERO));
            }
        }
        for (block, mark) in blocks.range(wanted.start..wanted.end) {
            if *mark == Mark::ZERO {
                part.zero.push(*block);
                continue;
            }
            if part.data.len() == most {
                part.until = *block;
                return Ok(true);
            }
            part.data.push((*block, *mark));
            if absent.binary_search(block).is_ok() {
                part.without_old.push(*block);
            }
        }
        Ok(false)
    }

    /// The next slabs from `start` on in which two generations of a lineage may differ, whichever of them is the later one.
    fn touched_between(
        &self,
        base: Option<&Generation>,
        target: &Generation,
        start: SlabNumber,
    ) -> Result<Vec<SlabNumber>, StoreError> {
        match base {
            Some(base) if base.number > target.number => self.changed_from(Some(target), base, start),
            base => self.changed_from(base, target, start),
        }
    }

    /// Where the other end has blocks of the part already: moved within the volume, or in another one of the site.
    fn copies(
        &self,
        wanted: &Wanted,
        target: &Generation,
        part: &Part,
    ) -> Result<Vec<Option<(GenerationId, BlockNumber)>>, StoreError> {
        let mut copies = vec![None; part.data.len()];
        if wanted.held.is_empty() {
            return Ok(copies);
        }
        let site = |lineage| Ok::<_, StoreError>(self.lineage(lineage)?.map(|lineage| lineage.site));
        let own = site(target.lineage)?;
        let mut held: HashMap<LineageId, Generation> = HashMap::new();
        for id in &wanted.held {
            // Another site's blocks are never named: only what the asking end can hold by itself.
            if let Some(known) = self.generation(*id)?.filter(Generation::is_sealed)
                && site(known.lineage)? == own
            {
                held.entry(known.lineage).or_insert(known);
            }
        }
        let marks: Vec<Mark> = part.data.iter().map(|(_, mark)| *mark).collect();
        for run in self.find_marks_in(&marks, &|lineage| Ok(held.get(&lineage).cloned()))? {
            for step in 0..run.count {
                copies[(run.at + step) as usize] = Some((run.generation, BlockNumber(run.first.0 + u64::from(step))));
            }
        }
        Ok(copies)
    }

    fn code(
        self: &Arc<Self>,
        wanted: &Wanted,
        target: &Generation,
        until: BlockNumber,
        part: &Part,
        copies: &[Option<(GenerationId, BlockNumber)>],
        effort: Effort,
    ) -> Result<Vec<u8>, AnswerError> {
        debug_assert!(until <= wanted.end);
        let view = self.view(target.id)?;
        let fresh: Vec<BlockRun> =
            runs_of(part.data.iter().zip(copies).filter(|(_, copy)| copy.is_none()).map(|((block, _), _)| *block));
        let without_old = runs_of(part.without_old.iter().copied());
        let fresh_len = parcel::blocks_in(&fresh) as usize * BLOCK;
        let old = match wanted.base {
            Some(base) => {
                let base = self.view(base)?;
                let runs = self.same_addresses(&base, &fresh, &without_old)?;
                Some((base, runs))
            }
            None => None,
        };
        let start = old.as_ref().map_or(0, |(_, runs)| parcel::blocks_in(runs) as usize * BLOCK);
        let mut buffer = vec![0; start + fresh_len];
        if let Some((base, runs)) = &old {
            base.read_blocks(runs, &mut buffer[..start])?;
        }
        view.read_blocks(&fresh, &mut buffer[start..])?;
        let payload = codec::encode(&buffer, start, effort, MEMORY)?;
        let (sources, copied, copied_hash) = copied_of(&view, part, copies)?;
        let header = Header {
            generation: target.id,
            number: 0,
            sources,
            base: wanted.base,
            fresh,
            zero: runs_of(part.zero.iter().copied()),
            copied,
            chosen: Vec::new(),
            recent: 0,
            without_old,
            fresh_hash: *blake3::hash(&buffer[start..]).as_bytes(),
            copied_hash,
        };
        Ok(parcel::assemble(&header, &payload))
    }

    /// Unpacks an answer at the end that asked. Memory: twice `wanted.most` blocks.
    ///
    /// # Errors
    /// [`IngestError::MissingBase`]: bytes that the parcel builds on are not here, or are damaged; it is to be asked for again without them.
    pub fn take(self: &Arc<Self>, wanted: &Wanted, until: BlockNumber, bytes: &[u8]) -> Result<Taken, IngestError> {
        let (header, payload) = parcel::parse(bytes).map_err(|e| IngestError::Damaged(e.0))?;
        check(wanted, until, &header)?;
        let mut prefix = Vec::new();
        if let Some(id) = header.base {
            let missing = |_| IngestError::MissingBase(id);
            let base = self.view(id).map_err(missing)?;
            let runs = self.same_addresses(&base, &header.fresh, &header.without_old).map_err(missing)?;
            prefix.resize(parcel::blocks_in(&runs) as usize * BLOCK, 0);
            base.read_blocks(&runs, &mut prefix).map_err(missing)?;
        }
        let mut fresh = Vec::new();
        codec::decode(&prefix, payload, header.fresh_len(), &mut fresh)
            .map_err(|_| IngestError::Damaged("its payload does not unpack"))?;
        drop(prefix);
        if *blake3::hash(&fresh).as_bytes() != header.fresh_hash {
            return Err(IngestError::Damaged("its payload hashes to something else"));
        }
        let data = crate::store::placed(&header.fresh);
        let mut taken = Taken { data, zero: header.zero.clone(), bytes: fresh };
        self.take_copies(&header, &mut taken)?;
        Ok(taken)
    }

    fn take_copies(self: &Arc<Self>, header: &Header, taken: &mut Taken) -> Result<(), IngestError> {
        let mut hasher = blake3::Hasher::new();
        for copy in &header.copied {
            let id = header.sources[copy.source as usize];
            let missing = |_| IngestError::MissingBase(id);
            let at = taken.bytes.len();
            taken.bytes.resize(at + copy.count as usize * BLOCK, 0);
            let run = BlockRun { first: copy.from, count: copy.count };
            self.view(id).and_then(|view| view.read_blocks(&[run], &mut taken.bytes[at..])).map_err(missing)?;
            hasher.update(&taken.bytes[at..]);
            taken.data.push((BlockRun { first: copy.to, count: copy.count }, at));
        }
        match header.copied.first() {
            Some(copy) if *hasher.finalize().as_bytes() != header.copied_hash => {
                Err(IngestError::MissingBase(header.sources[copy.source as usize])) // a short hash collided
            }
            _ => Ok(()),
        }
    }

    /// Blocks from `start` on of which this store has no bytes any more, in at most `most` runs; and up to which block that was looked at.
    pub fn absent(
        &self,
        generation: &Generation,
        start: BlockNumber,
        end: BlockNumber,
        most: usize,
    ) -> Result<(Vec<BlockRun>, BlockNumber), StoreError> {
        let mut packs: HashMap<PackId, bool> = HashMap::new();
        let mut runs: Vec<BlockRun> = Vec::new();
        let mut next = start.in_slab().0;
        while next.first_block() < end {
            let batch = self.changed_from(None, generation, next)?;
            let Some(far) = batch.last().copied() else { break };
            for slab in batch.into_iter().filter(|slab| slab.first_block() < end) {
                let Some(record) = self.slab(generation.lineage, slab, generation.number)? else { continue };
                let mut blocks = Vec::new();
                for piece in &record.pieces {
                    let pack = piece.place.pack;
                    let here = match packs.get(&pack) {
                        Some(here) => *here,
                        None => *packs.entry(pack).or_insert(self.has_pack(PackClass::Data, pack)?),
                    };
                    if !here {
                        let (first, last) = (piece.at as usize / BLOCK, (piece.end() as usize).div_ceil(BLOCK));
                        blocks.extend((first..last).map(|at| BlockNumber(slab.first_block().0 + at as u64)));
                    }
                }
                blocks.sort_unstable();
                blocks.dedup();
                blocks.retain(|block| (start..end).contains(block));
                for run in runs_of(blocks) {
                    let is_full = runs.len() == most;
                    match runs.last_mut() {
                        Some(last) if last.first.0 + last.count == run.first.0 => last.count += run.count,
                        _ if is_full => return Ok((runs, run.first)),
                        _ => runs.push(run),
                    }
                }
            }
            next = SlabNumber(far.0 + 1);
        }
        Ok((runs, end))
    }

    /// How much of `target` differs from `base`, from records alone. Looks into a sample of them where there are many.
    pub fn measure(&self, base: Option<&Generation>, target: &Generation) -> Result<Measured, StoreError> {
        let (first, last) = match base {
            Some(base) => (base.number.min(target.number), base.number.max(target.number)),
            None => (0, target.number),
        };
        let mut slabs = match base {
            Some(_) => self.touched(target.lineage, first, last)?,
            None => self.slabs_with_rows(target.lineage, target.number)?,
        };
        slabs.retain(|slab| slab.0 < target.size.slabs());
        let looked = slabs.len().min(SAMPLE);
        let (mut blocks, mut zeroes) = (0u64, 0u64);
        for at in 0..looked {
            let delta = self.slab_delta(base, target, slabs[at * slabs.len() / looked], false)?;
            (blocks, zeroes) = (blocks + delta.data.len() as u64, zeroes + delta.zero.len() as u64);
        }
        let all = |count: u64| count * slabs.len() as u64 / (looked as u64).max(1);
        let (mut raw, mut coded) = (0u64, 0u64);
        for generation in self.generations(target.lineage)?.iter().filter(|known| known.number > first) {
            if generation.number <= last {
                raw += generation.stats.new_blocks * BLOCK as u64;
                coded += generation.stats.coded_bytes;
            }
        }
        let ratio = (raw * 1000).checked_div(coded).map_or(1000, |ratio| ratio.clamp(900, 1_000_000));
        Ok(Measured { blocks: all(blocks), zeroes: all(zeroes), ratio: ratio as u32, sampled: looked < slabs.len() })
    }
}

/// Whether runs are sorted, disjoint and not empty, so that looking into them ends.
fn are_in_order(runs: &[BlockRun]) -> bool {
    let mut end = 0;
    runs.iter().all(|run| {
        let begins = run.count > 0 && run.first.0 >= end;
        end = run.first.0.saturating_add(run.count);
        begins
    })
}

/// Slabs from `first` to `last` of which a run names blocks, each once.
fn slabs_named(runs: &[BlockRun], first: SlabNumber, last: SlabNumber) -> Vec<SlabNumber> {
    let (mut slabs, mut next) = (Vec::new(), first);
    for run in runs {
        let end = BlockNumber(run.first.0.saturating_add(run.count - 1)).in_slab().0.min(last);
        let begin = run.first.in_slab().0.max(next);
        slabs.extend((begin.0..=end.0).map(SlabNumber));
        next = next.max(SlabNumber(end.0 + 1));
    }
    slabs
}

/// Blocks of one slab that runs name.
fn named_in(runs: &[BlockRun], slab: SlabNumber) -> Vec<BlockNumber> {
    let (first, end) = (slab.first_block().0, SlabNumber(slab.0 + 1).first_block().0);
    let from = runs.partition_point(|run| run.first.0.saturating_add(run.count) <= first);
    let within = runs[from..].iter().take_while(|run| run.first.0 < end);
    within
        .flat_map(|run| (run.first.0.max(first)..run.first.0.saturating_add(run.count).min(end)).map(BlockNumber))
        .collect()
}

/// References as runs, with the generations that they name and the hash of what they stand for.
#[expect(clippy::type_complexity, reason = "three parts of one header")]
fn copied_of(
    target: &View,
    part: &Part,
    copies: &[Option<(GenerationId, BlockNumber)>],
) -> Result<(Vec<GenerationId>, Vec<Copied>, [u8; 32]), StoreError> {
    let (mut sources, mut copied): (Vec<GenerationId>, Vec<Copied>) = (Vec::new(), Vec::new());
    for ((to, _), copy) in part.data.iter().zip(copies) {
        let Some((id, from)) = copy else { continue };
        let source = sources.iter().position(|known| known == id).unwrap_or_else(|| {
            sources.push(*id);
            sources.len() - 1
        }) as u32;
        match copied.last_mut() {
            Some(last)
                if last.source == source && last.to.0 + last.count == to.0 && last.from.0 + last.count == from.0 =>
            {
                last.count += 1;
            }
            _ => copied.push(Copied { to: *to, count: 1, source, from: *from }),
        }
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::new();
    for copy in &copied {
        buffer.clear();
        buffer.resize(copy.count as usize * BLOCK, 0);
        target.read_blocks(&[BlockRun { first: copy.to, count: copy.count }], &mut buffer)?;
        hasher.update(&buffer);
    }
    Ok((sources, copied, *hasher.finalize().as_bytes()))
}

/// Whether a parcel is an answer to this question.
fn check(wanted: &Wanted, until: BlockNumber, header: &Header) -> Result<(), IngestError> {
    if until <= wanted.start || until > wanted.end {
        return Err(IngestError::Damaged("it ends where it should not"));
    }
    if header.generation != wanted.generation || header.base != wanted.base {
        return Err(IngestError::Damaged("it is of another generation, or builds on another one"));
    }
    if !header.chosen.is_empty() || header.recent > 0 || header.sources.iter().any(|id| !wanted.held.contains(id)) {
        return Err(IngestError::Damaged("it names bases that were not offered"));
    }
    let ends = |first: BlockNumber, count: u64| first >= wanted.start && first.0 + count <= until.0;
    let runs = header.fresh.iter().chain(&header.zero).map(|run| (run.first, run.count));
    if !runs.chain(header.copied.iter().map(|copy| (copy.to, copy.count))).all(|(first, count)| ends(first, count)) {
        return Err(IngestError::Damaged("it names blocks that were not asked for"));
    }
    let copied: u64 = header.copied.iter().map(|copy| copy.count).sum();
    match parcel::blocks_in(&header.fresh) + copied > u64::from(wanted.most) {
        true => Err(IngestError::Damaged("it brings more than was asked for")),
        false => Ok(()),
    }
}

#[cfg(test)]
#[path = "back_tests.rs"]
mod tests;
