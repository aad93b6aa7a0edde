//! Does what [`crate::sender`] decides for one volume: talks to the gateway, codes parcels off the runtime, keeps the spool, sends.
//!
//! One task per volume owns the machine, the sending record and the plan under way. Everything that happens comes in through one queue; whatever takes long
//! runs in a task of its own and reports there. Work that was given up in the meantime is recognised by the number that it was started with.

mod flight;

use crate::capture::thread_cpu;
use crate::journal::{Acknowledged, Cost, Mode, Sending};
use crate::link::{Link, Session};
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::sender::{Action, CoderEvent, Event, Job, Sender, State, Target};
use crate::spool::SpoolError;
use crate::state::State as Disk;
use crate::volume::Volume;
use dedupe::{
    BLOCK, BlockNumber, Effort, Encoded, Encoder, FoundMarks, Generation, GenerationId, LineageId, Mark, Plan,
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

/// Inputs that wait; who fills this queue waits.
const INPUTS: usize = 64;
/// After a record could not be written, most likely for want of room.
const RECORD_AGAIN: Duration = Duration::from_secs(5);

/// What all volumes of a daemon share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<Disk>,
    pub(crate) link: Link,
    pub(crate) encoder: Arc<Encoder>,
    /// One parcel is coded at a time: the memory ceiling has room for one.
    pub(crate) coder: Arc<Semaphore>,
    /// One parcel is handed to the line at a time, in the order of asking: the line is not shared out between half-sent parcels.
    pub(crate) turn: Arc<Semaphore>,
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
type Planned = Result<Option<(Box<Plan>, Vec<Mark>)>, String>;

/// What happened to a volume.
enum Input {
    Captured(Target),
    Said(FromGateway),
    /// Of the coder, with its attempt and its permit.
    Planned(u64, OwnedSemaphorePermit, Planned, Duration),
    Answered(u64, Vec<FoundMarks>),
    Encoded(u64, OwnedSemaphorePermit, Effort, Result<Box<Encoded>, String>),
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
}

/// The parcel that is being made.
#[derive(Default)]
struct Coding {
    permit: Option<OwnedSemaphorePermit>,
    plan: Option<Box<Plan>>,
    marks: Vec<Mark>,
    /// Generations that answers named: held by the gateway, of whatever volume.
    named: HashSet<GenerationId>,
    coded: Option<Arc<Encoded>>,
    cpu: Duration,
    raw: u64,
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
            side.cost = sending.as_ref().map(|sending| sending.cost).unwrap_or_default();
        });
        let newest = acknowledged.first().map(|newest| newest.generation);
        let sender = Sender::new(known, newest, sending.as_ref().map(Job::resumed));
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
        };
        Ok((pipeline, notify))
    }

    /// Runs until the daemon stops or the volume is removed.
    pub(crate) async fn run(mut self) {
        let (stop, removed) = (self.shared.stop.clone(), self.volume.removed.clone());
        let lineage = self.volume.entry.lineage;
        let (said, mut hears) = mpsc::channel(INPUTS);
        self.shared.link.listen(lineage, said);
        let mut sessions = self.shared.link.sessions();
        sessions.mark_changed();
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
        self.shared.link.unlisten(lineage);
    }

    /// A session began or ended. The gateway's answer to the volume's offer is what makes the machine go on.
    async fn session_is(&mut self, session: Option<Arc<Session>>) {
        if self.session.take().is_some() {
            self.handle(Event::Disconnected).await;
        }
        let Some(session) = session else { return };
        let entry = &self.volume.entry;
        let kind = dedupe::Kind::Volume;
        session.say(FromEdge::Volume(VolumeOffer { lineage: entry.lineage, kind, name: entry.name.clone() })).await;
        self.session = Some(session);
    }

    async fn apply(&mut self, input: Input) {
        match input {
            Input::Captured(target) => self.handle(Event::Captured(target)).await,
            Input::Said(message) => self.said(message).await,
            Input::Planned(attempt, permit, planned, cpu) => self.planned(attempt, permit, planned, cpu).await,
            Input::Answered(attempt, found) => self.answered(attempt, found).await,
            Input::Encoded(attempt, permit, effort, encoded) => self.encoded(attempt, permit, effort, encoded).await,
            Input::Line(flight, event) if flight == self.flight => self.handle(event).await,
            Input::Line(..) => {}
        }
    }

    async fn said(&mut self, message: FromGateway) {
        match message {
            FromGateway::Held { sealed, draft, .. } => {
                let Some(session) = &self.session else { return };
                let asks = session.asks();
                self.shared.hold(self.volume.entry.lineage, sealed.iter().map(|(id, _)| *id).collect());
                self.handle(Event::Connected { held: sealed, draft: draft.map(|(id, _)| id), asks }).await;
            }
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
        }
        None
    }

    async fn say(&self, message: FromEdge) {
        if let Some(session) = &self.session {
            session.say(message).await;
        }
    }

    // ---- records

    async fn begin(&mut self, target: Target, base: Option<(GenerationId, dedupe::Root)>, mode: Mode) {
        self.pace.begin();
        self.spooled.clear();
        self.sending = Some(Sending {
            base,
            target: target.generation,
            root: target.root,
            cursor: BlockNumber(0),
            next: 0,
            acknowledged: 0,
            mode,
            without: Vec::new(),
            cost: Cost::default(),
        });
        let lineage = self.volume.entry.lineage;
        self.record(move |disk, sending| disk.spool.begin(lineage, sending)).await;
    }

    async fn truncate(&mut self, from: u32, without: Option<GenerationId>) {
        self.spooled.retain(|number, _| *number < from);
        self.shared.metrics.recoded();
        let lineage = self.volume.entry.lineage;
        self.record(move |disk, sending| {
            sending.without.extend(without.filter(|gone| !sending.without.contains(gone)));
            disk.spool.truncate(lineage, sending, from)
        })
        .await;
    }

    /// Changes the sending record, durably. A disk without room is waited for: the machine has decided, and going on without the record would break
    /// its promise.
    async fn record(
        &mut self,
        change: impl Fn(&Disk, &mut Sending) -> Result<(), SpoolError> + Clone + Send + 'static,
    ) {
        let Some(sending) = self.sending.clone() else { return };
        let disk = self.shared.disk.clone();
        let changed = self.insist(move || {
            let mut sending = sending.clone();
            change(&disk, &mut sending).map(|()| sending)
        });
        let changed = changed.await;
        self.sending = changed.or(self.sending.take());
    }

    /// Does something until it succeeds; `None`: the daemon stops.
    async fn insist<T: Send + 'static>(
        &self,
        act: impl Fn() -> Result<T, SpoolError> + Clone + Send + 'static,
    ) -> Option<T> {
        loop {
            match blocking(act.clone()).await {
                Ok(done) => {
                    self.volume.sender.send_if_modified(|side| side.trouble.take().is_some());
                    return Some(done);
                }
                Err(error) => {
                    tracing::warn!(volume = self.volume.entry.name, %error, "cannot write a record; trying again");
                    self.volume.sender.send_modify(|side| side.trouble = Some(error.to_string()));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RECORD_AGAIN) => {}
                () = self.shared.stop.cancelled() => return None,
            }
        }
    }

    async fn finish(&mut self, target: Target) {
        let lineage = self.volume.entry.lineage;
        let sending = self.sending.take().filter(|sending| sending.target == target.generation);
        let done = Acknowledged {
            generation: target.generation,
            root: target.root,
            at: self.shared.link.now(),
            cost: sending.map(|sending| sending.cost).unwrap_or_default(),
        };
        let disk = self.shared.disk.clone();
        let number = self.insist(move || {
            disk.spool.finish(lineage, done)?;
            // Numbers are for people: one that cannot be read is no reason to stop.
            Ok(disk.store.generation(target.generation).ok().flatten().map_or(0, |generation| generation.number))
        });
        let number = number.await.unwrap_or(0);
        self.spooled.clear();
        {
            let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.entry(lineage).or_default().insert(0, target.generation);
        }
        self.shared.metrics.sealed(&self.volume.entry.name, done.at);
        tracing::info!(volume = self.volume.entry.name, generation = %target.generation, number, "sealed at the gateway");
        self.volume.sender.send_modify(|side| side.acknowledged = Some((done, number)));
        self.forget_old().await;
    }

    /// Takes generations that nobody needs any more out of the store.
    async fn forget_old(&mut self) {
        let (disk, lineage) = (self.shared.disk.clone(), self.volume.entry.lineage);
        let listed = blocking(move || {
            let kept = disk.journal.acknowledged(lineage).map_err(SpoolError::from)?;
            Ok::<_, SpoolOrStore>((disk.store.generations(lineage)?, kept))
        });
        let Ok((generations, kept)) = listed.await else { return };
        let newest = generations.iter().rev().find(|generation| generation.is_sealed()).map(|newest| newest.id);
        for generation in generations.into_iter().filter(Generation::is_sealed) {
            let id = generation.id;
            let is_kept = kept.iter().any(|kept| kept.generation == id) || newest == Some(id) || self.sender.needs(id);
            if is_kept {
                continue;
            }
            let disk = self.shared.disk.clone();
            match blocking(move || disk.store.forget(id)).await {
                Ok(()) => self.sender.forgotten(id),
                Err(error) => tracing::warn!(generation = %id, %error, "cannot forget a generation"),
            }
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

    // ---- coding

    fn plan(&mut self, attempt: u64) {
        let Some(sending) = &self.sending else { return };
        let job = dedupe::Job {
            base: sending.base.map(|(id, _)| id),
            target: sending.target,
            cursor: sending.cursor,
            number: sending.next,
            plain: sending.mode != Mode::Coded,
        };
        let held = self.usable();
        let (shared, me) = (self.shared.clone(), self.me.clone());
        self.shared.tracker.spawn(async move {
            let Ok(permit) = shared.coder.clone().acquire_owned().await else { return };
            let encoder = shared.encoder.clone();
            let (planned, cpu) = blocking(move || {
                let before = thread_cpu();
                let planned = encoder.plan(&job, &|id| held.contains(&id)).map(|plan| {
                    plan.map(|mut plan| {
                        let samples = plan.samples();
                        (Box::new(plan), samples)
                    })
                });
                (planned.map_err(|error| error.to_string()), thread_cpu().saturating_sub(before))
            })
            .await;
            let _ = me.send(Input::Planned(attempt, permit, planned, cpu)).await;
        });
    }

    /// Generations that may serve as bases.
    fn usable(&self) -> HashSet<GenerationId> {
        let mut held = self.shared.held();
        held.extend(&self.coding.named);
        if let Some(sending) = &self.sending {
            sending.without.iter().for_each(|gone| {
                held.remove(gone);
            });
        }
        held
    }

    async fn planned(&mut self, attempt: u64, permit: OwnedSemaphorePermit, planned: Planned, cpu: Duration) {
        let event = match planned {
            Ok(None) => CoderEvent::NothingLeft,
            Ok(Some((plan, marks))) => {
                let samples = !marks.is_empty();
                if self.sender.attempt() == attempt {
                    let raw = plan.blocks() * BLOCK as u64;
                    self.coding =
                        Coding { permit: Some(permit), plan: Some(plan), marks, cpu, raw, ..Coding::default() };
                }
                CoderEvent::Planned { samples }
            }
            Err(why) => self.coder_failed("plan", why),
        };
        self.handle(Event::Coder(attempt, event)).await;
    }

    fn coder_failed(&self, what: &str, why: String) -> CoderEvent {
        tracing::warn!(volume = self.volume.entry.name, why, "cannot {what} a parcel");
        CoderEvent::Failed(why)
    }

    fn ask(&mut self, attempt: u64) {
        let Some(session) = self.session.clone() else { return };
        let (marks, me) = (std::mem::take(&mut self.coding.marks), self.me.clone());
        self.shared.metrics.asked(marks.len());
        self.shared.tracker.spawn(async move {
            // Without an answer the session is over, and the machine hears that.
            if let Ok(found) = session.ask(&marks).await {
                let _ = me.send(Input::Answered(attempt, found)).await;
            }
        });
    }

    async fn answered(&mut self, attempt: u64, found: Vec<FoundMarks>) {
        let asking = self.sender.job().map(|job| job.coder.clone());
        let (Some(plan), true) = (self.coding.plan.as_mut(), self.sender.attempt() == attempt) else { return };
        self.coding.named.extend(found.iter().map(|run| run.generation));
        let wants_rest = if asking == Some(crate::sender::Coder::Asking { rest: false }) {
            self.coding.marks = plan.narrow(&found);
            !self.coding.marks.is_empty()
        } else {
            plan.take_answer(&found);
            false
        };
        self.handle(Event::Coder(attempt, CoderEvent::Answered { wants_rest })).await;
    }

    fn encode(&mut self, attempt: u64) {
        let (Some(plan), Some(permit)) = (self.coding.plan.take(), self.coding.permit.take()) else { return };
        let effort = self.pace.choose(self.coding.raw, self.busy());
        let held = self.usable();
        let (encoder, me) = (self.shared.encoder.clone(), self.me.clone());
        self.shared.tracker.spawn(async move {
            let encoded = blocking(move || encoder.encode(*plan, effort, &|id| held.contains(&id))).await;
            let encoded = encoded.map(Box::new).map_err(|error| error.to_string());
            let _ = me.send(Input::Encoded(attempt, permit, effort, encoded)).await;
        });
    }

    /// Seconds for which the line has work already.
    fn busy(&self) -> f64 {
        8.0 * self.spooled.values().sum::<u64>() as f64 / self.shared.rate as f64
    }

    async fn encoded(
        &mut self,
        attempt: u64,
        permit: OwnedSemaphorePermit,
        effort: Effort,
        encoded: Result<Box<Encoded>, String>,
    ) {
        let event = match encoded {
            Ok(encoded) => {
                let seconds = encoded.stats.code_seconds + encoded.stats.choose_seconds;
                self.pace.learn(effort, self.coding.raw, seconds, self.busy());
                if self.sender.attempt() == attempt {
                    self.coding.cpu += Duration::try_from_secs_f64(seconds).unwrap_or_default();
                    self.coding.permit = Some(permit);
                    self.coding.coded = Some(Arc::from(encoded));
                }
                CoderEvent::Encoded
            }
            Err(why) => self.coder_failed("encode", why),
        };
        self.handle(Event::Coder(attempt, event)).await;
    }

    async fn store(&mut self, attempt: u64) -> Option<Event> {
        let (coded, mut sending) = (self.coding.coded.clone()?, self.sending.clone()?);
        let mut cost = sending.cost;
        cost.parcels += 1;
        cost.coded_bytes += coded.bytes.len() as u64;
        cost.raw_bytes += coded.stats.fresh_bytes + coded.stats.copied_bytes + coded.stats.zeroed_bytes;
        cost.cpu_micros += self.coding.cpu.as_micros() as u64;
        let (disk, lineage, bytes) = (self.shared.disk.clone(), self.volume.entry.lineage, coded.clone());
        let pushed = blocking(move || {
            let pushed = disk.spool.push(lineage, &mut sending, &bytes.bytes, bytes.cursor, cost);
            pushed.map(|parcel| (parcel, sending))
        });
        let event = match pushed.await {
            Ok((parcel, sending)) => {
                self.spooled.insert(parcel.number, parcel.len);
                self.shared.metrics.coded(&coded.stats, parcel.len, self.coding.cpu);
                self.sending = Some(sending);
                self.coding = Coding::default();
                CoderEvent::Stored
            }
            Err(error) if error.is_no_room() => CoderEvent::NoRoom(error.to_string()),
            Err(error) => {
                self.coding = Coding::default();
                self.coder_failed("spool", error.to_string())
            }
        };
        Some(Event::Coder(attempt, event))
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
        self.volume.sender.send_if_modified(|side| {
            let cost = sending.map(|sending| sending.cost).unwrap_or_default();
            let planned = sending.map_or(0, |sending| sending.cursor.0 * BLOCK as u64);
            if !matches!(&state, State::Moving(_, line) if line.writing) {
                side.parcel = None;
            }
            let changed = side.state != state || side.cost != cost || side.planned != planned;
            (side.state, side.cost, side.planned) = (state, cost, planned);
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
    match tokio::task::spawn_blocking(act).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shut down cancels blocking work, and then nobody is left to hear of it.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
