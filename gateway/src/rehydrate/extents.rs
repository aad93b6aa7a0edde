//! What has to be written: worked out from slab records, in the units that a target takes.

use super::RehydrateError;
use dedupe::{BLOCK, BlockNumber, Content, Generation, SLAB, SlabNumber, Store, View};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use targets::{Shape, Start};

/// What a target holds now, as far as it matters for what is written.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a run has one")]
pub(super) enum Scope {
    /// All of it is zeroes: bytes are written, holes are not.
    Fresh,
    /// A generation that the store has (`None`: zeroes), with parts of others on top.
    Delta {
        /// Below.
        base: Option<Generation>,
        /// On top, in part.
        others: Vec<Generation>,
    },
    /// Nobody knows: holes are written too.
    Whole(String),
}

impl Scope {
    /// What a target's answer means for the store: a generation that is forgotten here says nothing about what differs.
    pub(super) fn of(store: &Store, generation: &Generation, start: &Start) -> Result<Scope, RehydrateError> {
        let whole = |why: &str| Ok(Scope::Whole(why.to_owned()));
        const FORGOTTEN: &str = "the generation that the target holds is kept no more";
        let (base, others) = match start {
            Start::Zeroes => return Ok(Scope::Fresh),
            Start::Unknown(why) => return Ok(Scope::Whole(why.clone())),
            Start::Holds(point) | Start::Finished(point) => (Some(point), &[][..]),
            Start::Between { base, others } => (base.as_ref(), &others[..]),
            Start::Resumed => return whole("nothing says what the run began with"),
        };
        let known = |id| {
            let found = store.generation(id)?;
            Ok::<_, RehydrateError>(found.filter(|found: &Generation| found.lineage == generation.lineage))
        };
        let base = match base {
            None => None,
            Some(point) => match known(point.generation)? {
                Some(found) if found.sealed.is_some_and(|sealed| sealed.root == point.root) => Some(found),
                _ => return whole(FORGOTTEN),
            },
        };
        let mut found = Vec::new();
        for id in others {
            match known(*id)? {
                Some(other) => found.push(other),
                None => return whole(FORGOTTEN),
            }
        }
        Ok(Scope::Delta { base, others: found })
    }

    /// Whether all of the target is written.
    pub(super) fn is_all(&self) -> bool {
        !matches!(self, Scope::Delta { .. })
    }
}

/// What is written of one generation, stretch by stretch. A stretch is the grain of parallel work and of resuming: a slab, or the target's unit where that
/// is larger.
pub(super) struct Extents {
    store: Arc<Store>,
    view: View,
    scope: Scope,
    unit: u64,
    stretch: u64,
}

impl Extents {
    pub(super) fn new(store: &Arc<Store>, view: &View, scope: Scope, shape: &Shape) -> Extents {
        let stretch = shape.unit.max(SLAB as u64);
        Extents { store: store.clone(), view: view.clone(), scope, unit: shape.unit, stretch }
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether the target reads as zeroes where nothing is written.
    fn is_fresh(&self) -> bool {
        matches!(self.scope, Scope::Fresh)
    }

    /// First bytes of the stretches that have something to be written, ascending.
    pub(super) fn stretches(&self) -> Result<Vec<u64>, RehydrateError> {
        let generation = self.view.generation();
        let Scope::Delta { base, others } = &self.scope else {
            return Ok((0..generation.size.0.div_ceil(self.stretch)).map(|at| at * self.stretch).collect());
        };
        let mut starts = BTreeSet::new();
        for to in std::iter::once(generation).chain(others) {
            if base.as_ref().is_some_and(|base| base.id == to.id) {
                continue;
            }
            // What differs between two generations differs both ways.
            let slabs = match base {
                Some(base) if base.number > to.number => self.store.changed_slabs(Some(to), base)?,
                base => self.store.changed_slabs(base.as_ref(), to)?,
            };
            let within = slabs.iter().map(|slab| slab.offset().0).filter(|start| *start < generation.size.0);
            starts.extend(within.map(|start| start - start % self.stretch));
        }
        Ok(starts.into_iter().collect())
    }

    /// What has to be written of a stretch, in address order, in whole units; the last ends with the volume.
    pub(super) fn of(&self, stretch: u64) -> Result<Vec<(Range<u64>, Content)>, RehydrateError> {
        let size = self.view.size().0;
        let slabs = (stretch..(stretch + self.stretch).min(size)).step_by(SLAB).map(|at| SlabNumber(at / SLAB as u64));
        let mut extents: Vec<(Range<u64>, Content)> = Vec::new();
        for slab in slabs {
            let runs = self.view.runs(slab)?;
            match self.touched(slab)? {
                None => runs.into_iter().for_each(|(range, content)| push(&mut extents, range, content)),
                Some(blocks) => {
                    let mut runs = runs.iter();
                    let mut run = runs.next();
                    for block in blocks {
                        let range = block.offset().0..(block.offset().0 + BLOCK as u64).min(size);
                        while run.is_some_and(|(run, _)| run.end <= range.start) {
                            run = runs.next();
                        }
                        let Some((_, content)) = run else { break };
                        push(&mut extents, range, *content);
                    }
                }
            }
        }
        if self.unit > BLOCK as u64 {
            extents = self.in_units(&extents)?;
        }
        if self.is_fresh() {
            extents.retain(|(_, content)| *content == Content::Data);
        }
        Ok(extents)
    }

    /// Blocks of a slab that may read as something else on the target, ascending; `None`: all.
    fn touched(&self, slab: SlabNumber) -> Result<Option<BTreeSet<BlockNumber>>, RehydrateError> {
        let Scope::Delta { base, others } = &self.scope else { return Ok(None) };
        let mut blocks = BTreeSet::new();
        for to in std::iter::once(self.view.generation()).chain(others) {
            let delta = self.store.slab_delta(base.as_ref(), to, slab, false)?;
            blocks.extend(delta.data.into_iter().map(|(block, _)| block));
            blocks.extend(delta.zero);
        }
        Ok(Some(blocks))
    }

    /// Widened to the target's units: a unit that holds any bytes is data.
    fn in_units(&self, extents: &[(Range<u64>, Content)]) -> Result<Vec<(Range<u64>, Content)>, RehydrateError> {
        let size = self.view.size().0;
        let mut wide: Vec<(Range<u64>, Content)> = Vec::new();
        let mut done = 0;
        for (range, _) in extents {
            let first = (range.start - range.start % self.unit).max(done);
            for start in (first..range.end).step_by(self.unit as usize) {
                let unit = start..(start + self.unit).min(size);
                done = unit.end;
                let content = if self.is_zero(&unit)? { Content::Zero } else { Content::Data };
                push(&mut wide, unit, content);
            }
        }
        Ok(wide)
    }

    fn is_zero(&self, range: &Range<u64>) -> Result<bool, RehydrateError> {
        for slab in range.start / SLAB as u64..range.end.div_ceil(SLAB as u64) {
            let has_bytes = |(run, content): &(Range<u64>, Content)| {
                *content == Content::Data && run.start < range.end && range.start < run.end
            };
            if self.view.runs(SlabNumber(slab))?.iter().any(has_bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn push(extents: &mut Vec<(Range<u64>, Content)>, range: Range<u64>, content: Content) {
    match extents.last_mut() {
        Some((last, same)) if last.end == range.start && *same == content => last.end = range.end,
        _ => extents.push((range, content)),
    }
}
