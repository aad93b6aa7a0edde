//! What is done next to bring a volume's newest generation to the gateway: decided here, done in [`crate::pipeline`].
//!
//! One [`Sender`] per volume. It takes events and the time and returns actions; it has no clock, file or socket.
//!
//! ```text
//!            Captured, connected                Accepted               all parcels acknowledged
//!   Idle ───────────────────────► Offering ─────────────────► Moving ─────────────────────────► Sealing
//!    ▲                              ▲  ▲                        │ ▲ │                              │
//!    │                    Connected │  │ time is up, re-plan    │ │ │ Refused (passing)            │ Refused (WrongRoot: next mode)
//!    │                              │  └─────────── Waiting ◄───┼─┼─┘◄─────────────────────────────┤
//!    │                           Offline ◄─ Disconnected ───────┘ │    Refused (only people help)   │
//!    │                                                            │  ─► Stopped ─ much later ─► Offering
//!    └──────────────────────────── Sealed ────────────────────────┴────────────────────────────────┘
//! ```
//!
//! Beside it runs the coder of the same generation, so that the next parcel is coded while the previous one is on the line:
//! Resting → Planning → (Asking samples → Asking the rest) → Encoding → Storing → Resting … → Finished.
//!
//! A volume whose seed travels on media builds on what is *promised*: the seed's generation, then those that are complete at the gateway and wait for it.
//! What keeps it from sending for the seed's sake is in [`seeded`].
//!
//! Folding: a newer generation takes the place of the one on its way as long as no parcel of that was acknowledged or has begun to be sent; what lies
//! between the last acknowledged generation and the newest is never sent on its own.

mod parts;
mod seeded;

pub use parts::{Action, Coder, CoderEvent, Event, Hold, Job, Line, SeedSide, SeedStage, State, Target};

use crate::journal::Mode;
use dedupe::{GenerationId, Root};
use std::time::{Duration, Instant};
use wire::message::Refusal;
use wire::seeding::Promised;

/// Parcels coded ahead of the last acknowledged one: one that the gateway decodes, one on the line, one that follows it at once. More would only age in the
/// spool.
pub const AHEAD: u32 = 3;
/// After a passing refusal (no room, an internal fault) the gateway is asked again after this, doubled each time up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What only a person can help is tried again after this, in case a person did.
const STOPPED_WAIT: Duration = Duration::from_secs(600);
/// A full disk is looked at again after this.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// A parcel that arrived damaged is sent again as it is so often, and then coded again.
const RESENDS: u32 = 2;

/// The machine of one volume.
#[derive(Debug)]
pub struct Sender {
    state: State,
    /// The session, and whether it knows questions.
    session: Option<bool>,
    /// Sealed at the gateway, newest first.
    held: Vec<(GenerationId, Root)>,
    /// Not sealed at the gateway yet, newest first.
    promised: Vec<Promised>,
    seed: Option<SeedSide>,
    /// Sealed here, oldest first.
    known: Vec<Target>,
    acknowledged: Option<GenerationId>,
    attempt: u64,
    /// The gateway of this session wants one parcel after the other.
    in_step: bool,
}

impl Sender {
    /// The machine of a volume with these sealed generations (oldest first), of which the gateway is known to hold `acknowledged`, and with what was on its way.
    pub fn new(known: Vec<Target>, acknowledged: Option<GenerationId>, job: Option<Job>) -> Sender {
        let state = job.map_or(State::Idle, State::Offline);
        let (held, promised) = (vec![], vec![]);
        Sender { state, session: None, held, promised, seed: None, known, acknowledged, attempt: 0, in_step: false }
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The generation on its way.
    pub fn job(&self) -> Option<&Job> {
        match &self.state {
            State::Idle => None,
            State::Offline(job) | State::Offering(job) | State::Moving(job, _) | State::Sealing(job) => Some(job),
            State::Waiting { job, .. } | State::Stopped { job, .. } => Some(job),
        }
    }

    /// The number of the coder's present attempt.
    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    /// Whether there is a generation that the gateway does not hold, as far as is known.
    pub fn has_work(&self) -> bool {
        self.job().is_some() || self.known.last().is_some_and(|newest| Some(newest.generation) != self.acknowledged)
    }

    /// Whether a generation must stay in the store: it is on its way, is what that builds on, or is the newest.
    pub fn needs(&self, generation: GenerationId) -> bool {
        let newest = self.known.last().is_some_and(|newest| newest.generation == generation);
        let job = self.job().is_some_and(|job| {
            job.target.generation == generation || job.base.is_some_and(|(base, _)| base == generation)
        });
        newest || job || self.acknowledged == Some(generation) || self.awaited().contains(&generation)
    }

    /// A generation was taken out of the store.
    pub fn forgotten(&mut self, generation: GenerationId) {
        self.known.retain(|known| known.generation != generation);
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let coder = self.job().and_then(|job| match &job.coder {
            Coder::NoRoom { until, .. } | Coder::Failed { until, .. } => Some(*until),
            _ => None,
        });
        let state = match &self.state {
            State::Waiting { until, .. } | State::Stopped { until, .. } if self.session.is_some() => Some(*until),
            _ => None,
        };
        [coder, state].into_iter().flatten().min()
    }

    /// The one transition function.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Captured(target) => self.captured(target, &mut actions),
            Event::Connected { held, draft, asks, promised } => {
                self.promised = promised;
                self.connected(held, draft, asks, &mut actions);
            }
            Event::Seed(seed) => self.seed = seed,
            Event::Disconnected => self.disconnected(&mut actions),
            Event::Accepted(generation, next) => self.accepted(generation, next, now, &mut actions),
            Event::Refused(generation, why) => self.refused(generation, why, now, &mut actions),
            Event::Sealed(generation) => self.sealed(generation, &mut actions),
            Event::Waits(generation) => self.waits(generation, &mut actions),
            Event::Written(number) => self.written(number),
            Event::Acknowledged(number) => self.parcel_acknowledged(number, &mut actions),
            Event::ParcelRefused(number, why) => self.parcel_refused(number, why, now, &mut actions),
            Event::SpoolDamaged(number) => self.recode(number, Action::Truncate(number), &mut actions),
            Event::Coder(attempt, event) if attempt == self.attempt => self.coder(event, now, &mut actions),
            Event::Coder(..) => {}
            Event::Tick => self.tick(now, &mut actions),
        }
        self.settle(&mut actions);
        self.drive(&mut actions);
        actions
    }

    /// Starts whatever can be started now: the next generation, the next plan, the next parcel, the sealing.
    fn drive(&mut self, actions: &mut Vec<Action>) {
        if self.state == State::Idle {
            self.pick(actions);
        }
        let State::Moving(job, line) = &mut self.state else { return };
        if job.coder == Coder::Resting && job.next - job.acknowledged < AHEAD {
            job.coder = Coder::Planning;
            actions.push(Action::Plan(self.attempt));
        }
        let alone = line.next == job.acknowledged;
        if !line.writing && line.next < job.next && (alone || !self.in_step) {
            line.writing = true;
            job.touched = true;
            actions.push(Action::Send(line.next));
        }
        if job.coder == Coder::Finished && job.acknowledged == job.next {
            actions.push(Action::Seal);
            self.change(State::Sealing);
        }
    }

    /// Begins with the newest generation if the gateway lacks it.
    fn pick(&mut self, actions: &mut Vec<Action>) {
        let (Some(_), Some(newest)) = (self.session, self.known.last().copied()) else { return };
        if self.held.iter().any(|(held, _)| *held == newest.generation) {
            if self.acknowledged != Some(newest.generation) {
                self.finish(newest, actions);
            }
            return;
        }
        if let Ok(base) = self.base(newest) {
            self.begin(newest, base, Mode::Coded, actions);
        }
    }

    /// The newest generation that both ends hold with the same root.
    fn base_for(&self, target: Target) -> Option<(GenerationId, Root)> {
        let common = |held: &&(GenerationId, Root)| {
            held.0 != target.generation
                && self.known.iter().any(|known| known.generation == held.0 && known.root == held.1)
        };
        self.held.iter().find(common).copied()
    }

    fn begin(&mut self, target: Target, base: Option<(GenerationId, Root)>, mode: Mode, actions: &mut Vec<Action>) {
        self.stop_coding(actions);
        actions.extend([Action::Begin(target, base, mode), Action::Offer]);
        self.state = State::Offering(Job::new(target, base, mode));
    }

    fn finish(&mut self, target: Target, actions: &mut Vec<Action>) {
        self.stop_coding(actions);
        self.acknowledged = Some(target.generation);
        actions.push(Action::Finish(target));
        self.state = State::Idle;
    }

    /// What the coder says from now on is of another attempt.
    fn stop_coding(&mut self, actions: &mut Vec<Action>) {
        self.attempt += 1;
        if self.job().is_some_and(|job| !matches!(job.coder, Coder::Resting | Coder::Finished)) {
            actions.push(Action::StopCoding);
        }
        if let Some(job) = self.job_mut() {
            job.coder = Coder::Resting;
        }
    }

    fn captured(&mut self, target: Target, actions: &mut Vec<Action>) {
        self.known.push(target);
        let replaced = match self.job() {
            Some(job) if !job.touched && job.acknowledged == 0 => job.target.generation,
            _ => return,
        };
        if self.session.is_none() {
            // The spool is dropped when the new generation begins; until then nothing may code the old one on.
            self.stop_coding(actions);
            self.state = State::Idle;
            return;
        }
        actions.push(Action::Abandon(replaced));
        match self.base(target) {
            Ok(base) => self.begin(target, base, Mode::Coded, actions),
            Err(_) => self.drop_job(actions),
        }
    }

    fn connected(
        &mut self,
        held: Vec<(GenerationId, Root)>,
        draft: Option<GenerationId>,
        asks: bool,
        actions: &mut Vec<Action>,
    ) {
        self.session = Some(asks);
        self.held = held;
        self.in_step = false;
        let target = self.job().map(|job| job.target);
        if let Some(draft) = draft.filter(|draft| target.is_none_or(|target| target.generation != *draft)) {
            actions.push(Action::Abandon(draft));
        }
        self.settle(actions);
        let Some(target) = target.filter(|_| self.job().is_some()) else { return };
        if matches!(self.state, State::Moving(..)) {
            actions.push(Action::StopSending);
        }
        if self.held.iter().any(|(held, _)| *held == target.generation) {
            self.finish(target, actions);
        } else {
            actions.push(Action::Offer);
            self.change(State::Offering);
        }
    }

    fn disconnected(&mut self, actions: &mut Vec<Action>) {
        self.session = None;
        if matches!(self.state, State::Moving(..)) {
            actions.push(Action::StopSending);
        }
        // An answer that is awaited will not come. Coding itself goes on without a line.
        if self.job().is_some_and(|job| matches!(job.coder, Coder::Asking { .. })) {
            self.stop_coding(actions);
        }
        match &self.state {
            State::Idle | State::Stopped { .. } => {}
            _ => self.change(State::Offline),
        }
    }

    fn accepted(&mut self, generation: GenerationId, next: u32, now: Instant, actions: &mut Vec<Action>) {
        let State::Offering(job) = &mut self.state else { return };
        if job.target.generation != generation {
            return;
        }
        if (job.acknowledged..=job.next).contains(&next) {
            if next > job.acknowledged {
                job.acknowledged = next;
                job.touched = true;
                actions.push(Action::Acknowledge(next));
            }
            self.change(State::moving);
            return;
        }
        // One end was set back: by a backup there, by a lost journal here. The generation is sent again from its beginning.
        let (target, base, mode, refusals) = (job.target, job.base, job.mode, job.refusals);
        if next == 0 {
            self.stop_coding(actions);
            actions.push(Action::Begin(target, base, mode));
            self.state = State::moving(Job::new(target, base, mode));
        } else if refusals == 0 {
            actions.push(Action::Abandon(generation));
            self.begin(target, base, mode, actions);
            if let Some(job) = self.job_mut() {
                job.refusals = 1;
            }
        } else {
            self.wait(format!("the gateway wants parcel {next}, which is not here"), now, actions);
        }
    }

    fn refused(&mut self, generation: GenerationId, why: Refusal, now: Instant, actions: &mut Vec<Action>) {
        let Some(job) = self.job().filter(|job| job.target.generation == generation) else { return };
        let (target, base, mode) = (job.target, job.base, job.mode);
        match why {
            Refusal::WrongBase { have } => self.wrong_base(target, base, have, now, actions),
            Refusal::WrongRoot(_) => {
                let (base, mode) = match mode {
                    Mode::Coded => (base, Mode::Plain),
                    Mode::Plain if base.is_some() => (None, Mode::Whole),
                    Mode::Plain | Mode::Whole => {
                        let why = "the gateway rebuilds another root even from plain bytes; the local copy is damaged: run `sluice-edge scrub`, then capture again";
                        return self.stop(why.into(), now, actions);
                    }
                };
                actions.push(Action::Abandon(generation));
                self.begin(target, base, mode, actions);
            }
            Refusal::MissingBase(missing) => {
                let from = job.acknowledged;
                self.recode(from, Action::Without(missing, from), actions);
            }
            why if why.is_passing() => self.wait(why.to_string(), now, actions),
            why => self.stop(why.to_string(), now, actions),
        }
    }

    fn wrong_base(
        &mut self,
        target: Target,
        base: Option<(GenerationId, Root)>,
        have: Option<(GenerationId, Root)>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if base.is_some_and(|(base, _)| self.is_promised(base)) {
            // A seed came in, or was given up, this very moment.
            actions.push(Action::Announce);
            return self.wait("the gateway has other news of its seed".into(), now, actions);
        }
        self.held = have.into_iter().collect();
        if have.is_some_and(|(held, _)| held == target.generation) {
            return self.finish(target, actions);
        }
        let other = self.base_for(target);
        if other == base {
            let why = match have {
                Some((held, _)) => format!(
                    "the gateway's newest generation {held} is not known here; remove the volume and add it again to send it from the beginning"
                ),
                None => "the gateway refuses the generation although it holds none of the volume".into(),
            };
            return self.stop(why, now, actions);
        }
        actions.push(Action::Abandon(target.generation));
        self.begin(target, other, Mode::Coded, actions);
    }

    fn sealed(&mut self, generation: GenerationId, actions: &mut Vec<Action>) {
        let Some(target) = self.job().map(|job| job.target).filter(|target| target.generation == generation) else {
            return;
        };
        self.held.insert(0, (target.generation, target.root));
        self.finish(target, actions);
    }

    fn written(&mut self, number: u32) {
        let State::Moving(_, line) = &mut self.state else { return };
        if line.writing && line.next == number {
            *line = Line { next: number + 1, writing: false };
        }
    }

    fn parcel_acknowledged(&mut self, number: u32, actions: &mut Vec<Action>) {
        let State::Moving(job, line) = &mut self.state else { return };
        if !(job.acknowledged..job.next).contains(&number) {
            return;
        }
        // The gateway takes parcels in order: the later one's acknowledgement holds for the earlier ones.
        job.acknowledged = number + 1;
        (job.refusals, job.damaged) = (0, 0);
        if number >= line.next {
            *line = Line { next: number + 1, writing: false };
        }
        actions.push(Action::Acknowledge(job.acknowledged));
    }

    fn parcel_refused(&mut self, number: u32, why: Refusal, now: Instant, actions: &mut Vec<Action>) {
        let State::Moving(job, _) = &mut self.state else { return };
        if !(job.acknowledged..job.next).contains(&number) {
            return;
        }
        let generation = job.target.generation;
        match why {
            Refusal::MissingBase(missing) => self.recode(number, Action::Without(missing, number), actions),
            // Also said by a gateway that does not take the next parcel while it decodes the one before.
            Refusal::OutOfOrder { .. } => {
                self.in_step = true;
                self.offer_again(actions);
            }
            Refusal::Damaged(_) if job.damaged < RESENDS => {
                job.damaged += 1;
                self.offer_again(actions);
            }
            Refusal::Damaged(_) if job.damaged == RESENDS => {
                job.damaged += 1;
                self.recode(number, Action::Truncate(number), actions);
            }
            why => self.refused(generation, why, now, actions),
        }
    }

    /// Parcels from `number` on are coded again; the gateway is asked where to go on.
    fn recode(&mut self, number: u32, forget: Action, actions: &mut Vec<Action>) {
        let Some(job) = self.job() else { return };
        // What is acknowledged stays so, and what is not spooled cannot be given up (but a base may turn out to be missing before anything is).
        if number < job.acknowledged || (number >= job.next && !matches!(forget, Action::Without(..))) {
            return;
        }
        self.stop_coding(actions);
        if let Some(job) = self.job_mut() {
            job.next = job.next.min(number);
        }
        actions.push(forget);
        if matches!(self.state, State::Moving(..) | State::Sealing(..)) {
            self.offer_again(actions);
        }
    }

    /// Asks the gateway where it stands with the generation on its way.
    fn offer_again(&mut self, actions: &mut Vec<Action>) {
        actions.extend([Action::StopSending, Action::Offer]);
        self.change(State::Offering);
    }

    fn wait(&mut self, why: String, now: Instant, actions: &mut Vec<Action>) {
        let Some(job) = self.job_mut() else { return };
        let until = now + (FIRST_WAIT * 2u32.saturating_pow(job.refusals.min(8))).min(LONGEST_WAIT);
        job.refusals += 1;
        actions.push(Action::StopSending);
        self.change(|job| State::Waiting { job, until, why });
    }

    fn stop(&mut self, why: String, now: Instant, actions: &mut Vec<Action>) {
        self.stop_coding(actions);
        actions.push(Action::StopSending);
        self.change(|job| State::Stopped { job, until: now + STOPPED_WAIT, why });
    }

    fn coder(&mut self, event: CoderEvent, now: Instant, actions: &mut Vec<Action>) {
        // What waits may be built on nothing but what waits: what an answer names could be forgotten before.
        let asks = self.session.map(|asks| asks && !self.builds_on_promise());
        let attempt = self.attempt;
        let Some(job) = self.job_mut() else { return };
        job.coder = match (&job.coder, event) {
            (Coder::Planning, CoderEvent::NothingLeft) => Coder::Finished,
            (Coder::Planning, CoderEvent::Planned { samples: true }) if asks == Some(true) => {
                actions.push(Action::Ask { attempt, rest: false });
                Coder::Asking { rest: false }
            }
            (Coder::Planning, CoderEvent::Planned { samples }) if !samples || asks.is_some() => {
                actions.push(Action::Encode(attempt));
                Coder::Encoding
            }
            // There is something to ask and nobody to ask: planned again when somebody is.
            (Coder::Planning, CoderEvent::Planned { .. }) => return self.stop_coding(actions),
            (Coder::Asking { rest: false }, CoderEvent::Answered { wants_rest: true }) => {
                actions.push(Action::Ask { attempt, rest: true });
                Coder::Asking { rest: true }
            }
            (Coder::Asking { .. }, CoderEvent::Answered { .. }) => {
                actions.push(Action::Encode(attempt));
                Coder::Encoding
            }
            (Coder::Encoding, CoderEvent::Encoded) => {
                actions.push(Action::Store(attempt));
                Coder::Storing
            }
            (Coder::Storing, CoderEvent::Stored) => {
                job.next += 1;
                Coder::Resting
            }
            (Coder::Storing, CoderEvent::NoRoom(why)) => Coder::NoRoom { until: now + ROOM_WAIT, why },
            (_, CoderEvent::NoRoom(why) | CoderEvent::Failed(why)) => Coder::Failed { until: now + ROOM_WAIT, why },
            (coder, _) => coder.clone(),
        };
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let attempt = self.attempt;
        match self.job().map(|job| &job.coder) {
            Some(Coder::NoRoom { until, .. }) if *until <= now => {
                actions.push(Action::Store(attempt));
                self.job_mut().expect("it was there a line ago").coder = Coder::Storing;
            }
            Some(Coder::Failed { until, .. }) if *until <= now => self.stop_coding(actions),
            _ => {}
        }
        if let State::Waiting { until, .. } | State::Stopped { until, .. } = &self.state
            && *until <= now
            && self.session.is_some()
        {
            actions.push(Action::Offer);
            self.change(State::Offering);
        }
    }

    fn job_mut(&mut self) -> Option<&mut Job> {
        match &mut self.state {
            State::Idle => None,
            State::Offline(job) | State::Offering(job) | State::Moving(job, _) | State::Sealing(job) => Some(job),
            State::Waiting { job, .. } | State::Stopped { job, .. } => Some(job),
        }
    }

    /// Moves the job into another state.
    fn change(&mut self, to: impl FnOnce(Job) -> State) {
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => State::Idle,
            State::Offline(job) | State::Offering(job) | State::Moving(job, _) | State::Sealing(job) => to(job),
            State::Waiting { job, .. } | State::Stopped { job, .. } => to(job),
        };
    }
}

#[cfg(test)]
#[path = "sender_tests.rs"]
mod tests;
