//! One session with a gateway: what is said on it, and who hears the answers.

use super::{Link, LinkError, lock};
use crate::identity::Identity;
use dedupe::{BlockRun, FoundMarks, GenerationId, LineageId, Mark, Measured};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::clock::machine_time;
use wire::frame::MAX_LIST;
use wire::message::{Answer, Ask, Found, FromEdge, FromGateway, Held, MAX_FRAME, MAX_MARKS};
use wire::policy::SignedPolicy;
use wire::stream::{FrameReader, FrameWriter};
use wire::telemetry::Teller;
use wire::version::Version;

/// Messages that wait for the control connection. Each is small, and who fills this queue waits.
const OUTBOX: usize = 32;
/// Bytes of a repair that fit a frame with the rest of their message.
const MAX_REPAIR: usize = MAX_FRAME - 256;
/// Characters of the reason why a policy was refused.
const MAX_REFUSED: usize = 300;
/// The first sign of life after the welcome: volumes are announced by then.
const FIRST_STATUS: Duration = Duration::from_secs(3);
/// Between two looks at the round trip, whose least is kept.
const ROUND_TRIPS_EVERY: Duration = Duration::from_secs(5);
/// Between two signs of life.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// Between two looks whether the certificate is due for renewal; also how long an answer may take before it is asked again.
const RENEWAL_EVERY: Duration = Duration::from_secs(60);

/// How long an answer about restoring may take: 64 generations at control's reserve take 3 s, and a gateway looks into some hundred records.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Generations of one volume that are listed at most: eleven years of nights.
const MOST_LISTED: usize = 4096;

/// A control and a data connection that belong together.
pub struct Session {
    /// `None` while the rate is 0: data is closed, and not even a handshake may leave.
    data: Option<quinn::Connection>,
    id: u64,
    version: Version,
    /// What is said at once shares a packet.
    outbox: mpsc::Sender<Vec<FromEdge>>,
    questions: Mutex<HashMap<u64, oneshot::Sender<Vec<Found>>>>,
    fetches: Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>,
    lists: Mutex<HashMap<u64, oneshot::Sender<Vec<Held>>>>,
    measures: Mutex<HashMap<u64, oneshot::Sender<Option<Measured>>>>,
    next_question: AtomicU64,
    ended: CancellationToken,
}

/// The session ended before the answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session ended before the gateway answered, or it did not answer in time")]
pub struct AskError;

impl Session {
    pub(super) fn new(
        id: u64,
        data: Option<quinn::Connection>,
        version: Version,
    ) -> (Session, mpsc::Receiver<Vec<FromEdge>>) {
        let (outbox, waiting) = mpsc::channel(OUTBOX);
        let session = Session {
            data,
            id,
            version,
            outbox,
            questions: Mutex::default(),
            fetches: Mutex::default(),
            lists: Mutex::default(),
            measures: Mutex::default(),
            next_question: AtomicU64::new(1),
            ended: CancellationToken::new(),
        };
        (session, waiting)
    }

    /// The data connection, unless the rate is 0.
    pub fn data(&self) -> Option<&quinn::Connection> {
        self.data.as_ref()
    }

    /// Whether this session knows questions about marks.
    pub fn asks(&self) -> bool {
        self.version >= Version::V2
    }

    /// Whether the gateway of this session gives generations back.
    pub fn gives_back(&self) -> bool {
        self.version >= Version::V4
    }

    /// Whether the gateway of this session knows releases of the appliance's system.
    pub fn knows_releases(&self) -> bool {
        self.version >= Version::V5
    }

    /// Whether the gateway of this session knows seeds by courier.
    pub fn knows_seeds(&self) -> bool {
        self.version >= Version::V6
    }

    /// Completes when the session is over.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// The gateway's number of the session.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Says something. A session that ended swallows it: the next one begins with asking the gateway for its state.
    pub async fn say(&self, message: FromEdge) {
        self.say_all(vec![message]).await;
    }

    /// Says several things at once, so that they travel together.
    async fn say_all(&self, messages: Vec<FromEdge>) {
        tokio::select! {
            _ = self.outbox.send(messages) => {}
            () = self.ended.cancelled() => {}
        }
    }

    /// Asks which of these blocks the gateway holds, in as many messages as it takes.
    pub async fn ask(&self, marks: &[Mark]) -> Result<Vec<FoundMarks>, AskError> {
        let mut found = Vec::new();
        for (at, marks) in marks.chunks(MAX_MARKS).enumerate() {
            let id = self.next_question.fetch_add(1, Ordering::Relaxed);
            let (answer, answered) = oneshot::channel();
            lock(&self.questions).insert(id, answer);
            self.say(FromEdge::Ask(Ask { id, marks: marks.to_vec() })).await;
            let runs = tokio::select! {
                runs = answered => runs.map_err(|_| AskError)?,
                () = self.ended.cancelled() => return Err(AskError),
            };
            let offset = (at * MAX_MARKS) as u32;
            // A run beyond the question would point at nothing: what a gateway says is not believed blindly.
            let within = |run: &Found| u64::from(run.at) + u64::from(run.count) <= marks.len() as u64;
            found.extend(runs.into_iter().filter(within).map(|run| FoundMarks {
                at: run.at + offset,
                count: run.count,
                generation: run.generation,
                first: run.first,
            }));
        }
        Ok(found)
    }

    /// Asks for blocks of a sealed generation, few enough for one frame. Returns a parcel for [`dedupe::Store::repair`]; empty when the gateway has them no more.
    pub async fn fetch(&self, generation: GenerationId, blocks: Vec<BlockRun>) -> Result<Vec<u8>, AskError> {
        let id = self.next_question.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.fetches).insert(id, answer);
        self.say(FromEdge::Fetch { id, generation, blocks }).await;
        tokio::select! {
            parcel = answered => parcel.map_err(|_| AskError),
            () = self.ended.cancelled() => Err(AskError),
        }
    }

    /// Asks which generations of a volume of this site the gateway holds: all, newest first.
    pub async fn list(&self, lineage: LineageId) -> Result<Vec<Held>, AskError> {
        let mut all: Vec<Held> = Vec::new();
        loop {
            let before = all.last().map_or(0, |last| last.number);
            let part = self.ask_for(&self.lists, |id| FromEdge::List { id, lineage, before }).await?;
            // A gateway that repeats itself would be listened to for ever.
            let goes_on = part.first().is_some_and(|first| before == 0 || first.number < before);
            if !goes_on {
                return Ok(all);
            }
            let is_last = part.len() < MAX_LIST;
            all.extend(part);
            if is_last || all.len() >= MOST_LISTED {
                return Ok(all);
            }
        }
    }

    /// Asks how much of a generation differs from one that is here; `None`: the gateway holds no such generation of this site.
    pub async fn measure(
        &self,
        generation: GenerationId,
        base: Option<GenerationId>,
    ) -> Result<Option<Measured>, AskError> {
        self.ask_for(&self.measures, |id| FromEdge::Measure { id, generation, base }).await
    }

    /// Asks something whose answer comes with the question's number.
    async fn ask_for<T>(
        &self,
        waiting: &Mutex<HashMap<u64, oneshot::Sender<T>>>,
        question: impl FnOnce(u64) -> FromEdge,
    ) -> Result<T, AskError> {
        let id = self.next_question.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(waiting).insert(id, answer);
        self.say(question(id)).await;
        tokio::select! {
            answer = answered => answer.map_err(|_| AskError),
            () = self.ended.cancelled() => Err(AskError),
            () = tokio::time::sleep(ANSWER_WITHIN) => {
                lock(waiting).remove(&id);
                Err(AskError)
            }
        }
    }

    pub(super) fn end(&self) {
        self.ended.cancel();
        lock(&self.questions).clear();
        lock(&self.fetches).clear();
        lock(&self.lists).clear();
        lock(&self.measures).clear();
    }

    fn answered(&self, answer: Answer) {
        // An answer that nobody waits for is of a coder that was stopped.
        if let Some(waiting) = lock(&self.questions).remove(&answer.id) {
            let _ = waiting.send(answer.found);
        }
    }
}

/// What the tasks of one session need.
pub(super) struct Parts<'a> {
    pub(super) link: &'a Link,
    pub(super) identity: &'a Identity,
    pub(super) session: &'a Session,
}

impl Parts<'_> {
    /// Hears the gateway until it ends the session; returns why.
    pub(super) async fn read(&self, mut reader: FrameReader) -> LinkError {
        loop {
            match reader.next::<FromGateway>().await {
                Ok(Some(FromGateway::Bye { why })) => return LinkError::Bye(why),
                Ok(Some(message)) => self.heard(message).await,
                Ok(None) => return LinkError::Unexpected("an open control stream: it ended"),
                Err(error) => return error.into(),
            }
        }
    }

    /// Says what waits in the outbox.
    pub(super) async fn write(&self, mut writer: FrameWriter, mut outbox: mpsc::Receiver<Vec<FromEdge>>) -> LinkError {
        while let Some(messages) = outbox.recv().await {
            if let Err(error) = writer.send_all(&messages).await {
                return error.into();
            }
        }
        LinkError::Stopping
    }

    /// Gives signs of life and renews the certificate.
    pub(super) async fn keep_alive(&self) -> LinkError {
        // The hello is the first sign of life; what there is to tell follows when the volumes are announced.
        let mut status = tokio::time::interval_at(Instant::now() + FIRST_STATUS, STATUS_EVERY);
        let mut renewal = tokio::time::interval(RENEWAL_EVERY);
        let mut round_trips = tokio::time::interval(ROUND_TRIPS_EVERY);
        let mut teller = Teller::default();
        self.tell_policy(None).await;
        loop {
            tokio::select! {
                _ = status.tick() => {
                    self.tell_status(&mut teller).await;
                    self.tell_evidence().await;
                }
                _ = round_trips.tick() => drop(self.link.round_trips()),
                _ = renewal.tick() => self.renew().await,
            }
        }
    }

    async fn heard(&self, message: FromGateway) {
        match message {
            FromGateway::Answer(answer) => self.session.answered(answer),
            FromGateway::Certificate { certificate, authorities } => {
                let taken = self.identity.renewed(certificate, authorities, machine_time());
                match taken {
                    Ok(()) => tracing::info!("certificate renewed"),
                    Err(error) => tracing::warn!(%error, "cannot take the renewed certificate"),
                }
            }
            FromGateway::Addresses(addresses) => {
                if let Err(error) = self.identity.moved(addresses) {
                    tracing::warn!(%error, "cannot store the gateway's addresses");
                }
            }
            FromGateway::RepairWanted { id, generation, blocks } => {
                let source = lock(&self.link.0.repairs).clone();
                let parcel = match source {
                    Some(source) => crate::pipeline::blocking(move || source(generation, &blocks)).await,
                    None => Vec::new(),
                };
                // An empty one says that it cannot be had here.
                let parcel = if parcel.len() > MAX_REPAIR { Vec::new() } else { parcel };
                self.session.say(FromEdge::Repair { id, generation, parcel }).await;
            }
            FromGateway::Blocks { id, parcel } => {
                if let Some(waiting) = lock(&self.session.fetches).remove(&id) {
                    let _ = waiting.send(parcel);
                }
            }
            FromGateway::Listed { id, generations } => {
                if let Some(waiting) = lock(&self.session.lists).remove(&id) {
                    let _ = waiting.send(generations);
                }
            }
            FromGateway::Measured { id, measured } => {
                if let Some(waiting) = lock(&self.session.measures).remove(&id) {
                    let _ = waiting.send(measured);
                }
            }
            FromGateway::Held { lineage, .. } | FromGateway::Holding { lineage, .. } => {
                let listener = lock(&self.link.0.listeners).get(&lineage).cloned();
                if let Some(listener) = listener {
                    let _ = listener.send(message).await;
                }
            }
            FromGateway::Seeds(seeds) => {
                self.link.0.seeds.send_replace(Some(seeds.clone()));
                let listeners: Vec<_> = lock(&self.link.0.listeners).values().cloned().collect();
                for listener in listeners {
                    let _ = listener.send(FromGateway::Seeds(seeds.clone())).await;
                }
            }
            FromGateway::Accept { .. }
            | FromGateway::Refuse { .. }
            | FromGateway::Sealed { .. }
            | FromGateway::Waits { .. } => {
                // These name only the generation: each volume knows its own.
                let listeners: Vec<_> = lock(&self.link.0.listeners).values().cloned().collect();
                for listener in listeners {
                    let _ = listener.send(message.clone()).await;
                }
            }
            FromGateway::Policy(signed) => self.take_policy(signed).await,
            FromGateway::Time { now } => self.link.line().told(now),
            FromGateway::Grant { bits, millis } => {
                self.link.line().granted(bits, Duration::from_millis(millis.into()));
            }
            FromGateway::EvidenceHeld { minute } => {
                let line = self.link.line().clone();
                crate::pipeline::blocking(move || line.evidence_held(minute)).await;
            }
            FromGateway::Release(order) => drop(self.link.0.orders.send_replace(order)),
            FromGateway::Welcome(_) | FromGateway::Bye { .. } => {}
        }
    }

    async fn take_policy(&self, signed: SignedPolicy) {
        let (line, identity) = (self.link.line().clone(), self.identity.clone());
        let taken = crate::pipeline::blocking(move || match identity.bearer() {
            Ok(peer) => line.take_policy(signed, peer.bearer.site),
            Err(error) => Err(error.to_string()),
        });
        self.tell_policy(taken.await.err()).await;
    }

    /// Says which policy is in force here: the gateway sends a newer one if it has one.
    async fn tell_policy(&self, refused: Option<String>) {
        if self.session.version >= Version::V2 {
            let version = self.link.line().policy_version();
            let refused = refused.map(|why| why.chars().take(MAX_REFUSED).collect());
            self.session.say(FromEdge::PolicyHeld { version, refused }).await;
        }
    }

    async fn tell_evidence(&self) {
        if self.session.version >= Version::V2 {
            let line = self.link.line().clone();
            let minutes = crate::pipeline::blocking(move || line.evidence()).await;
            if !minutes.is_empty() {
                self.session.say(FromEdge::Evidence(minutes)).await;
            }
        }
    }

    /// A sign of life, and with it what changed of the figures.
    async fn tell_status(&self, teller: &mut Teller) {
        let Some(source) = lock(&self.link.0.status).clone() else { return };
        let (status, figures) = crate::pipeline::blocking(move || source()).await;
        let mut messages = vec![FromEdge::Status(status)];
        if self.session.version >= Version::V3 {
            let volumes: Vec<_> = figures.volumes.into_iter().map(|(_, volume)| volume).collect();
            messages.push(FromEdge::Telemetry(teller.tell(&figures.site, &volumes)));
        }
        self.session.say_all(messages).await;
    }

    async fn renew(&self) {
        if self.link.now() < self.identity.renew_at() {
            return;
        }
        match self.identity.request() {
            Ok(request) => self.session.say(FromEdge::Renew { request }).await,
            Err(error) => tracing::warn!(%error, "cannot ask for a new certificate"),
        }
    }
}
