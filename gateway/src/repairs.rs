//! Blocks whose copy here is damaged. Each is asked for at the edge that sent it, as soon as that edge has a session and until it has
//! answered: damage is mostly found while some edge's line is down.
//!
//! Kept in memory. A scrub finds the same damage again after a restart.

use crate::live::{Live, LiveSession};
use crate::state::TenantStore;
use dedupe::{BlockNumber, BlockRun, Damage, GenerationId, SiteId};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

/// Blocks that one question asks for: 48 × 4 KiB fit a frame with room, also when they do not compress.
const BLOCKS_PER_QUESTION: u64 = 48;
/// Questions that may wait for one site: 12 GiB of damage. What is beyond is found again by the next scrub.
const MAX_WAITING: usize = 1 << 16;

/// One question: blocks of one generation, few enough for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Question {
    generation: GenerationId,
    first: u64,
    count: u64,
}

impl Question {
    /// Of what the blocks are.
    pub(crate) fn generation(self) -> GenerationId {
        self.generation
    }

    /// The blocks.
    pub(crate) fn blocks(self) -> BlockRun {
        BlockRun { first: BlockNumber(self.first), count: self.count }
    }
}

/// The questions of one tenant that no edge has been asked yet, by site.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    waiting: Mutex<HashMap<SiteId, BTreeSet<Question>>>,
}

/// What became of the damages of one scrub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Generations whose edge has a session and is asked.
    pub(crate) now: usize,
    /// Generations whose edge is asked when it comes.
    pub(crate) later: usize,
}

impl Repairs {
    /// The next question for this site, which waits no more.
    pub(crate) fn take(&self, site: SiteId) -> Option<Question> {
        self.lock().get_mut(&site)?.pop_first()
    }

    /// Lets a question wait. `false`: too many do.
    pub(crate) fn put(&self, site: SiteId, question: Question) -> bool {
        let mut waiting = self.lock();
        let waiting = waiting.entry(site).or_default();
        if waiting.len() >= MAX_WAITING {
            return waiting.contains(&question);
        }
        waiting.insert(question);
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SiteId, BTreeSet<Question>>> {
        self.waiting.lock().expect("no thread panics while it holds the questions")
    }
}

/// Asks the edges for the blocks that these damages took away, now or when they come. Blocks.
pub(crate) fn ask(tenant: &TenantStore, live: &Live, damages: &[Damage]) -> Asked {
    let (mut sites, mut asked) = (HashMap::<SiteId, HashSet<GenerationId>>::new(), Asked::default());
    for (generation, runs) in damages.iter().flat_map(|damage| &damage.lost) {
        let known = tenant.store.generation(*generation).ok().flatten();
        let lineage = known.and_then(|known| tenant.store.lineage(known.lineage).ok().flatten());
        let Some(site) = lineage.and_then(|lineage| lineage.site) else { continue };
        sites.entry(site).or_default().insert(*generation);
        for question in questions(*generation, runs) {
            if !tenant.repairs.put(site, question) {
                tracing::warn!(%site, %generation, "more blocks are damaged than can be asked for at once: scrub again after these are mended");
                break;
            }
        }
    }
    for (site, generations) in sites {
        match live.of_site(site) {
            Some(session) => {
                session.ask_for_repairs();
                asked.now += generations.len();
            }
            None => asked.later += generations.len(),
        }
    }
    asked
}

fn questions(generation: GenerationId, runs: &[BlockRun]) -> impl Iterator<Item = Question> {
    runs.iter().flat_map(move |run| {
        (0..run.count).step_by(BLOCKS_PER_QUESTION as usize).map(move |at| Question {
            generation,
            first: run.first.0 + at,
            count: (run.count - at).min(BLOCKS_PER_QUESTION),
        })
    })
}

impl LiveSession {
    /// Asks the edge for damaged blocks, as many questions as may be open. Others wait for its answers.
    pub(crate) fn ask_for_repairs(&self) {
        while self.may_ask_repair() {
            let Some(question) = self.tenant.repairs.take(self.site) else { return };
            if !self.ask_repair(question) {
                let _there_is_room_where_it_was = self.tenant.repairs.put(self.site, question);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_cut_into_questions_that_fit_a_frame_and_each_waits_once() {
        let (generation, site) = (GenerationId([7; 16]), SiteId([1; 16]));
        let runs = [BlockRun { first: BlockNumber(5), count: 100 }, BlockRun { first: BlockNumber(300), count: 1 }];
        let cut: Vec<_> = questions(generation, &runs).map(|question| (question.first, question.count)).collect();
        assert_eq!(cut, [(5, 48), (53, 48), (101, 4), (300, 1)]);
        let repairs = Repairs::default();
        for question in questions(generation, &runs).chain(questions(generation, &runs)) {
            assert!(repairs.put(site, question));
        }
        assert_eq!(std::iter::from_fn(|| repairs.take(site)).count(), 4);
        assert_eq!(repairs.take(SiteId([2; 16])), None);
    }
}
