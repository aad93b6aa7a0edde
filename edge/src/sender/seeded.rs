//! What a seed by courier means for a volume's sender.

use super::{Action, Hold, SeedStage, Sender, State, Target};
use dedupe::{GenerationId, Root};
use wire::seeding::{Promise, Promised};

impl Sender {
    /// What the generation would be built on at the gateway; or why nothing of it may go now.
    ///
    /// A volume whose seed is out, or was given up without a word, never goes over the line by itself: that could take years.
    pub(super) fn base(&self, target: Target) -> Result<Option<(GenerationId, Root)>, Hold> {
        let is_seed = self.seed.is_some_and(|seed| seed.generation == target.generation);
        let stage = self.seed.map(|seed| seed.stage);
        let is_held = |id: GenerationId| self.held.iter().any(|(held, _)| *held == id);
        match stage {
            Some(SeedStage::Exporting) => return Err(Hold::Exporting),
            Some(SeedStage::Indexing) => return Err(Hold::Indexing),
            Some(SeedStage::Ask) => return Err(Hold::Ask),
            Some(SeedStage::NewSeed) => return Err(Hold::NewSeed),
            Some(SeedStage::Out) | None => {}
        }
        if self.is_promised(target.generation) || (is_seed && !is_held(target.generation)) {
            return Err(Hold::Waits);
        }
        let is_unheard_of = |id: GenerationId| self.promised.is_empty() && !is_held(id);
        if self.seed.is_some_and(|seed| is_unheard_of(seed.generation)) {
            return Err(Hold::NotExpected);
        }
        // The newest: the gateway lets nothing be built beside it.
        match self.promised.first() {
            None => Ok(self.base_for(target)),
            Some(tip) => {
                match self.known.iter().any(|known| (known.generation, known.root) == (tip.generation, tip.root)) {
                    true => Ok(Some((tip.generation, tip.root))),
                    false => Err(Hold::Unknown),
                }
            }
        }
    }

    /// Why the newest generation does not go, for its seed's sake.
    pub fn hold(&self) -> Option<Hold> {
        let newest = self.known.last().filter(|newest| Some(newest.generation) != self.acknowledged)?;
        // Without a session nothing is known of what is promised.
        let is_known = self.session.is_some() || self.seed.is_some_and(|seed| seed.stage != SeedStage::Out);
        (self.state == State::Idle && is_known).then(|| self.base(*newest).err()).flatten()
    }

    /// Generations that must stay here, whole, should the seed be lost: the one that it carries and all newer ones, oldest first; none without a seed.
    pub fn awaited(&self) -> Vec<GenerationId> {
        let is_awaited = |known: &Target| {
            self.is_promised(known.generation) || self.seed.is_some_and(|seed| seed.generation == known.generation)
        };
        let first = self.known.iter().position(is_awaited).unwrap_or(self.known.len());
        self.known[first..].iter().map(|known| known.generation).collect()
    }

    pub(super) fn is_promised(&self, generation: GenerationId) -> bool {
        self.promised.iter().any(|promised| promised.generation == generation)
    }

    /// Whether the generation on its way builds on something that the gateway does not have yet.
    pub(crate) fn builds_on_promise(&self) -> bool {
        self.job().and_then(|job| job.base).is_some_and(|(base, _)| self.is_promised(base))
    }

    /// What may be a base of the generation on its way, if that builds on a promise: what is promised, and nothing else.
    pub(crate) fn promised_bases(&self) -> Option<Vec<GenerationId>> {
        self.builds_on_promise().then(|| self.promised.iter().map(|promised| promised.generation).collect())
    }

    /// Stops what is on its way where its seed forbids it, or on another base than it may have.
    pub(super) fn settle(&mut self, actions: &mut Vec<Action>) {
        let Some(job) = self.job().filter(|_| self.session.is_some()) else { return };
        let goes_on = match self.base(job.target) {
            Ok(base) => self.promised.is_empty() || job.base == base,
            Err(_) => false,
        };
        // What the gateway has sealed is finished by whoever looks next.
        let is_held = self.held.iter().any(|(held, _)| *held == job.target.generation);
        if goes_on || is_held || (self.seed.is_none() && self.promised.is_empty()) {
            return;
        }
        let target = job.target.generation;
        if !self.is_promised(target) {
            actions.push(Action::Abandon(target));
        }
        self.drop_job(actions);
    }

    pub(super) fn drop_job(&mut self, actions: &mut Vec<Action>) {
        self.stop_coding(actions);
        actions.extend([Action::StopSending, Action::Drop]);
        self.state = State::Idle;
    }

    /// The generation on its way is complete at the gateway: the next one builds on it.
    pub(super) fn waits(&mut self, generation: GenerationId, actions: &mut Vec<Action>) {
        let Some(target) = self.job().map(|job| job.target).filter(|target| target.generation == generation) else {
            return;
        };
        let Target { generation, root } = target;
        self.promised.insert(0, Promised { generation, root, promise: Promise::Waiting });
        self.stop_coding(actions);
        actions.push(Action::Park(target));
        self.state = State::Idle;
    }
}
