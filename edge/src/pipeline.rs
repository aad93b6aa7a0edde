//! Does what [`crate::sender`] decides for one volume: talks to the gateway, codes parcels off the runtime, keeps the spool, sends.
//!
//! One task per volume owns the machine, the sending record and the plan under way. Everything that happens comes in through one queue; whatever takes long
//! runs in a task of its own and reports there. Work that was given up in the meantime is recognised by the number that it was started with.

mod coding;
mod flight;
mod records;
mod seeds;

use crate::gate::Gate;
use crate::journal::Sending;
use crate::link::{Link, Session};
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::seeding::LocalSeed;
use crate::sender::{Action, CoderEvent, Event, Job, Sender, State, Target};
use crate::spool::SpoolError;
use crate::state::State as Disk;
use crate::volume::Volume;
use crate::worker::Worker;
use coding::Coding;
use dedupe::{
    BLOCK, Effort, EncodeError, Encoded, Encoder, FoundMarks, Generation, GenerationId, LineageId, Mark, PackId, Plan,
    Root, SeedId, StoreError,
};
use flight::Flight;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::message::{FromEdge, FromGateway, GenerationOffer, VolumeOffer};
use wire::seeding::Promised;

/// Inputs that wait; who fills this queue waits.
const INPUTS: usize = 64;

/// What all volumes of a daemon share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<Disk>,
    pub(crate) link: Link,
    pub(crate) encoder: Arc<Encoder>,
    /// One parcel is coded at a time: the memory ceiling has room for one.
    pub(crate) coder: Arc<Semaphore>,
    /// Where it is planned and coded.
    pub(crate) coding: Worker,
    /// Parcels of all volumes are handed to the line here, piece by piece.
    pub(crate) gate: Gate,
    /// What the gateway has sealed, by lineage.
    pub(crate) held: Mutex<HashMap<LineageId, Vec<GenerationId>>>,
    /// Bits per second that effort is chosen for.
    pub(crate) rate: u64,
    pub(crate) metrics: Metrics,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    fn hold(&self, lineage: LineageId, generations: Vec<GenerationId>) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(lineage, generations);
    }

    fn held(&self) -> HashSet<GenerationId> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().copied().collect()
    }
}

/// The next parcel with the marks to ask for first; nothing when all is coded; or why it could not be planned.
type Planned = Result<Option<(Box<Plan>, Vec<Mark>)>, Trouble>;

/// Why no parcel was made.
struct Trouble {
    why: String,
    /// The pack whose damage was in the way.
    damaged: Option<PackId>,
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Trouble { damaged: error.damaged_pack(), why: error.to_string() }
    }
}

impl From<EncodeError> for Trouble {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Store(error) => error.into(),
            EncodeError::Codec(error) => Trouble { why: error.to_string(), damaged: None },
        }
    }
}

/// What happened to a volume.
enum Input {
    Captured(Target),
    Said(FromGateway),
    /// Of the coder, with its attempt and its permit.
    Planned(u64, OwnedSemaphorePermit, Planned, Duration),
    Answered(u64, Vec<FoundMarks>),
    Encoded(u64, OwnedSemaphorePermit, Effort, Result<Box<Encoded>, Trouble>),
    /// No parcel could be made, and what could be done against it was done.
    NotCoded(u64, String),
    /// What is known of the volume's seed changed.
    Seed,
    /// The content of a seed is indexed, or could not be.
    Indexed(SeedId, Result<(), String>),
    /// Of a parcel on the line, with the number of its flight.
    Line(u64, Event),
}

/// Tells a volume's pipeline about a new generation.
#[derive(Clone)]
pub(crate) struct Notify(mpsc::Sender<Input>);

impl Notify {
    pub(crate) async fn captured(&self, target: Target) {
        // A pipeline that is gone belongs to a volume that was removed.
        let _ = self.0.send(Input::Captured(target)).await;
    }

    /// The journal has news of the volume's seed.
    pub(crate) async fn seed(&self) {
        let _ = self.0.send(Input::Seed).await; // as above
    }
}

/// See the module's documentation.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    volume: Arc<Volume>,
    sender: Sender,
    sending: Option<Sending>,
    session: Option<Arc<Session>>,
    inputs: mpsc::Receiver<Input>,
    me: mpsc::Sender<Input>,
    coding: Coding,
    /// Bytes of spooled parcels by number, to know how long the line is busy.
    spooled: BTreeMap<u32, u64>,
    flight: u64,
    flying: CancellationToken,
    pace: Pace,
    /// The volume's last seed.
    seed: Option<LocalSeed>,
    /// The seed whose content is being indexed.
    indexing: Option<SeedId>,
}

impl Pipeline {
    /// Takes up what the state says about the volume. Blocks.
    pub(crate) fn open(shared: Arc<Shared>, volume: Arc<Volume>) -> Result<(Pipeline, Notify), SpoolOrStore> {
        let lineage = volume.entry.lineage;
        let generations = shared.disk.store.generations(lineage)?;
        let known: Vec<Target> = generations.iter().filter_map(target_of).collect();
        let acknowledged = shared.disk.journal.acknowledged(lineage).map_err(SpoolError::from)?;
        let is_here = |id: GenerationId| known.iter().any(|known| known.generation == id);
        let sending = shared.disk.spool.sending(lineage)?;
        // A store that was restored or captured anew may lack what was on its way: then it is begun anew from what there is.
        let sending =
            sending.filter(|sending| is_here(sending.target) && sending.base.is_none_or(|(id, _)| is_here(id)));
        let mut spooled = BTreeMap::new();
        if let Some(sending) = &sending {
            for number in sending.acknowledged..sending.next {
                spooled.extend(shared.disk.spool.parcel(sending.target, number)?.map(|parcel| (number, parcel.len)));
            }
        }
        volume.sender.send_modify(|side| {
            let newest = acknowledged.first().copied();
            side.acknowledged = newest.map(|newest| (newest, number_of(&generations, newest.generation)));
            let sealed = newest.and_then(|newest| generations.iter().find(|known| known.id == newest.generation));
            side.sealed_captured = sealed.map(|sealed| sealed.captured_at);
            side.cost = sending.as_ref().map(|sending| sending.cost).unwrap_or_default();
        });
        let newest = acknowledged.first().map(|newest| newest.generation);
        let mut sender = Sender::new(known, newest, sending.as_ref().map(Job::resumed));
        let seeds = shared.disk.journal.seeds(lineage).map_err(SpoolError::from)?;
        let seed = crate::seeding::current(&seeds).cloned();
        let now = tokio::time::Instant::now().into_std();
        sender.handle(Event::Seed(seed.as_ref().and_then(LocalSeed::side)), now);
        let (me, inputs) = mpsc::channel(INPUTS);
        let pace = Pace::new(shared.rate);
        let notify = Notify(me.clone());
        let pipeline = Pipeline {
            shared,
            volume,
            sender,
            sending,
            session: None,
            inputs,
            me,
            coding: Coding::default(),
            spooled,
            flight: 0,
            flying: CancellationToken::new(),
            pace,
            seed,
            indexing: None,
        };
        Ok((pipeline, notify))
    }

    /// Runs until the daemon stops or the volume is removed.
    pub(crate) async fn run(mut self) {
        let (stop, removed) = (self.shared.stop.clone(), self.volume.removed.clone());
        let lineage = self.volume.entry.lineage;
        let (said, mut hears) = mpsc::channel(INPUTS);
        self.shared.link.listen(lineage, said);
        self.shared.gate.admit(lineage, &self.volume.entry.name);
        let mut sessions = self.shared.link.sessions();
        sessions.mark_changed();
        self.index();
        loop {
            self.publish();
            let deadline = self.sender.deadline().map(tokio::time::Instant::from_std);
            let wake = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            // All of these may be dropped at any time: nothing is lost but the wish to wait.
            tokio::select! {
                () = stop.cancelled() => break,
                () = removed.cancelled() => break,
                Ok(()) = sessions.changed() => {
                    let session = sessions.borrow_and_update().clone();
                    self.session_is(session).await;
                }
                Some(message) = hears.recv() => self.apply(Input::Said(message)).await,
                Some(input) = self.inputs.recv() => self.apply(input).await,
                () = wake => self.handle(Event::Tick).await,
            }
        }
        self.flying.cancel();
        self.shared.gate.forget(lineage);
        self.shared.link.unlisten(lineage);
    }

    /// A session began or ended. The gateway's answer to the volume's offer is what makes the machine go on.
    async fn session_is(&mut self, session: Option<Arc<Session>>) {
        if self.session.take().is_some() {
            self.handle(Event::Disconnected).await;
        }
        let Some(session) = session else { return };
        self.session = Some(session);
        self.tell_seed().await;
        self.announce().await;
    }

    /// Asks the gateway what it holds.
    async fn announce(&self) {
        let (lineage, name) = (self.volume.entry.lineage, self.volume.entry.name.clone());
        self.say(FromEdge::Volume(VolumeOffer { lineage, kind: dedupe::Kind::Volume, name })).await;
    }

    async fn apply(&mut self, input: Input) {
        match input {
            Input::Captured(target) => self.handle(Event::Captured(target)).await,
            Input::Said(message) => self.said(message).await,
            Input::Planned(attempt, permit, planned, cpu) => self.planned(attempt, permit, planned, cpu).await,
            Input::Answered(attempt, found) => self.answered(attempt, found).await,
            Input::Encoded(attempt, permit, effort, encoded) => self.encoded(attempt, permit, effort, encoded).await,
            Input::NotCoded(attempt, why) => self.handle(Event::Coder(attempt, CoderEvent::Failed(why))).await,
            Input::Seed => self.seed_changed().await,
            Input::Indexed(id, done) => self.indexed(id, done).await,
            Input::Line(flight, event) if flight == self.flight => self.handle(event).await,
            Input::Line(..) => {}
        }
    }

    async fn said(&mut self, message: FromGateway) {
        match message {
            FromGateway::Held { sealed, draft, .. } => self.held(sealed, draft, Vec::new()).await,
            FromGateway::Holding { sealed, draft, promised, .. } => self.held(sealed, draft, promised).await,
            FromGateway::Waits { generation } => self.handle(Event::Waits(generation)).await,
            FromGateway::Seeds(known) => self.learn_of_seed(&known.seeds).await,
            FromGateway::Accept { generation, next_parcel } => {
                self.handle(Event::Accepted(generation, next_parcel)).await
            }
            FromGateway::Refuse { generation, why } => {
                if self.is_target(generation) {
                    tracing::warn!(volume = self.volume.entry.name, %generation, %why, "the gateway refuses");
                    self.shared.metrics.refused();
                }
                self.handle(Event::Refused(generation, why)).await;
            }
            FromGateway::Sealed { generation, .. } => self.handle(Event::Sealed(generation)).await,
            _ => {}
        }
    }

    async fn held(
        &mut self,
        sealed: Vec<(GenerationId, Root)>,
        draft: Option<(GenerationId, u32)>,
        promised: Vec<Promised>,
    ) {
        let Some(session) = &self.session else { return };
        let asks = session.asks();
        self.shared.hold(self.volume.entry.lineage, sealed.iter().map(|(id, _)| *id).collect());
        let draft = draft.map(|(id, _)| id);
        self.handle(Event::Connected { held: sealed, draft, asks, promised }).await;
    }

    fn is_target(&self, generation: GenerationId) -> bool {
        self.sender.job().is_some_and(|job| job.target.generation == generation)
    }

    async fn handle(&mut self, event: Event) {
        let mut actions: std::collections::VecDeque<_> = self.decide(event).into();
        while let Some(action) = actions.pop_front() {
            if let Some(event) = self.act(action).await {
                actions.extend(self.decide(event));
            }
        }
    }

    fn decide(&mut self, event: Event) -> Vec<Action> {
        let now = tokio::time::Instant::now().into_std();
        tracing::trace!(volume = self.volume.entry.name, ?event, "event");
        self.sender.handle(event, now)
    }

    /// Does one thing; what comes of it at once is returned as an event.
    async fn act(&mut self, action: Action) -> Option<Event> {
        tracing::debug!(volume = self.volume.entry.name, ?action, "action");
        match action {
            Action::Begin(target, base, mode) => self.begin(target, base, mode).await,
            Action::Offer => self.offer().await,
            Action::Abandon(generation) => self.say(FromEdge::Abandon { generation }).await,
            Action::Plan(attempt) => self.plan(attempt),
            Action::Ask { attempt, rest: _ } => self.ask(attempt),
            Action::Encode(attempt) => self.encode(attempt),
            Action::Store(attempt) => return self.store(attempt).await,
            Action::StopCoding => self.coding = Coding::default(),
            Action::Send(number) => self.send(number),
            Action::StopSending => self.stop_sending(),
            Action::Acknowledge(until) => {
                self.spooled.retain(|number, _| *number >= until);
                let lineage = self.volume.entry.lineage;
                self.record(move |disk, sending| disk.spool.acknowledge(lineage, sending, until)).await;
                self.shared.metrics.acknowledged();
            }
            Action::Truncate(from) => self.truncate(from, None).await,
            Action::Without(generation, from) => self.truncate(from, Some(generation)).await,
            Action::Seal => self.seal().await,
            Action::Finish(target) => self.finish(target).await,
            Action::Park(target) => self.park(target).await,
            Action::Drop => self.give_up().await,
            Action::Announce => self.announce().await,
        }
        None
    }

    async fn say(&self, message: FromEdge) {
        if let Some(session) = &self.session {
            session.say(message).await;
        }
    }

    // ---- talking

    async fn offer(&mut self) {
        let Some(sending) = &self.sending else { return };
        let (id, parent, disk) = (sending.target, sending.base, self.shared.disk.clone());
        match blocking(move || disk.store.generation(id)).await {
            Ok(Some(generation)) => {
                self.volume.sender.send_modify(|side| side.size = generation.size);
                self.say(FromEdge::Offer(GenerationOffer {
                    lineage: generation.lineage,
                    generation: id,
                    parent,
                    size: generation.size,
                    captured_at: generation.captured_at,
                }))
                .await;
            }
            Ok(None) => tracing::error!(generation = %id, "the generation on its way is not in the store"),
            Err(error) => tracing::error!(generation = %id, %error, "cannot read the generation on its way"),
        }
    }

    async fn seal(&mut self) {
        let Some(sending) = &self.sending else { return };
        let (generation, parcels, root) = (sending.target, sending.next, sending.root);
        self.say(FromEdge::Seal { generation, parcels, root }).await;
    }

    // ---- sending

    fn send(&mut self, number: u32) {
        let (Some(session), Some(sending)) = (self.session.clone(), self.sending.as_ref()) else { return };
        let sent = Arc::new(AtomicU64::new(0));
        let len = self.spooled.get(&number).copied().unwrap_or(0);
        self.volume.sender.send_modify(|side| side.parcel = Some((len, sent.clone())));
        let flight = Flight {
            shared: self.shared.clone(),
            session,
            lineage: self.volume.entry.lineage,
            volume: self.volume.entry.name.clone(),
            generation: sending.target,
            number,
            sent,
            me: self.me.clone(),
            id: self.flight,
        };
        let flying = self.flying.clone();
        self.shared.tracker.spawn(async move {
            tokio::select! {
                () = flight.go() => {}
                () = flying.cancelled() => {}
            }
        });
    }

    fn stop_sending(&mut self) {
        self.flying.cancel();
        self.flying = CancellationToken::new();
        self.flight += 1;
        self.volume.sender.send_modify(|side| side.parcel = None);
    }

    /// Shows where the volume stands.
    fn publish(&self) {
        let (sending, state) = (self.sending.as_ref(), self.sender.state().clone());
        let (hold, awaited) = (self.sender.hold(), self.sender.awaited());
        self.volume.sender.send_if_modified(|side| {
            let cost = sending.map(|sending| sending.cost).unwrap_or_default();
            let planned = sending.map_or(0, |sending| sending.cursor.0 * BLOCK as u64);
            if !matches!(&state, State::Moving(_, line) if line.writing) {
                side.parcel = None;
            }
            let moved = side.state != state || side.cost != cost || side.planned != planned;
            let changed = moved || side.hold != hold || side.awaited != awaited;
            (side.state, side.cost, side.planned) = (state, cost, planned);
            (side.hold, side.awaited) = (hold, awaited);
            changed
        });
    }
}

/// The state of a volume could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolOrStore {
    /// The spool or the journal.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The store.
    #[error(transparent)]
    Store(#[from] dedupe::StoreError),
}

/// A sealed generation as something to send.
pub(crate) fn target_of(generation: &Generation) -> Option<Target> {
    let sealed = generation.sealed?;
    Some(Target { generation: generation.id, root: sealed.root })
}

fn number_of(generations: &[Generation], id: GenerationId) -> u64 {
    generations.iter().find(|generation| generation.id == id).map_or(0, |generation| generation.number)
}

/// Runs something that blocks, off the runtime. A panic in it goes on here.
pub(crate) async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(act)).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shut down cancels blocking work, and then nobody is left to hear of it.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
