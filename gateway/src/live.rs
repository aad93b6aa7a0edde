//! The control sessions that are open now: one per site, found by site or by number.

use crate::brake::Brake;
use crate::downlink::Downlinks;
use crate::ingest::Receiving;
use crate::metrics::Metrics;
use crate::repairs::Question;
use crate::state::TenantStore;
use dedupe::{GenerationId, SiteId, TenantId};
use quinn::{Connection, VarInt};
use serde::{Deserialize, Serialize};
use shaping::{BitsPerSec, Class, Peer, Shaper};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::task::TaskTracker;
use wire::identity::Serial;
use wire::message::{EdgeStatus, FromGateway, Refusal};
use wire::stream::{self, CloseCode};
use wire::version::Version;

/// How long an older session of a site has to answer before it counts as dead and a newcomer takes its place: several round trips of a
/// bad line with the probe lost once.
const PROBE: Duration = Duration::from_secs(5);
/// How often the answer to a probe is looked for.
const PROBE_STEP: Duration = Duration::from_millis(50);
/// Questions for a repair that one session may have open.
const MAX_REPAIRS: usize = 16;
/// How long a session has to hear why it ends before its connections are closed.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a session is told from outside.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// Say this.
    Say(FromGateway),
    /// End, and say why.
    End(Refusal),
}

/// Whether an edge heard something that it ought to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// It is connected and was told.
    Sent,
    /// It is not connected, and hears when it comes.
    Away,
    /// It is connected but speaks a version of the protocol in which this cannot be said.
    Old,
}

/// All open sessions.
#[derive(Debug)]
pub struct Live {
    sessions: Mutex<HashMap<SiteId, Arc<LiveSession>>>,
    metrics: Arc<Metrics>,
    /// What edges are told, and what a session is asked with whether it lives.
    announced: Vec<String>,
    tasks: TaskTracker,
    /// The lines to the sites.
    down: Downlinks,
    /// How sites are read, for those that had a session since the daemon's start.
    brakes: Mutex<HashMap<SiteId, Arc<Brake>>>,
    /// How the gateway's own line was dealt out last.
    deal: Mutex<Deal>,
}

/// How the gateway's own line was dealt out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deal {
    /// Bits per second of the line; `None`: it is no bottleneck, and nothing is dealt.
    pub(crate) ingress: Option<u64>,
    /// What each connected site got.
    pub(crate) sites: HashMap<SiteId, Dealt>,
}

/// What a site got of the gateway's own line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dealt {
    /// Bits per second.
    pub(crate) bits: u64,
    /// Whether a generation of it is arriving.
    pub(crate) works: bool,
    /// Whether it is read no faster than that.
    pub(crate) braked: bool,
}

/// One open control session and the data connection that belongs to it.
#[derive(Debug)]
pub struct LiveSession {
    /// Names the control connection to the data connection.
    pub(crate) number: u64,
    /// Whose it is.
    pub(crate) site: SiteId,
    /// The store that it writes to.
    pub(crate) tenant: Arc<TenantStore>,
    /// The certificate with which it began.
    pub(crate) serial: Serial,
    /// `TENANT/SITE`, for logs.
    pub(crate) name: String,
    instance: u64,
    version: Version,
    /// The edge's software version.
    pub(crate) software: String,
    control: Connection,
    data: Mutex<Option<Connection>>,
    /// What it may be sent; shared by both connections.
    line: Shaper,
    /// The send window that was set last, and for which data connection: setting it wakes the connection.
    fitted: Mutex<Option<(usize, u64)>>,
    /// How fast its parcels are read.
    pub(crate) brake: Arc<Brake>,
    commands: mpsc::Sender<Command>,
    receiving: Mutex<HashMap<GenerationId, Arc<Receiving>>>,
    status: Mutex<EdgeStatus>,
    /// Generations of which it has fetched something: each is noted once.
    fetched: Mutex<HashSet<GenerationId>>,
    /// Damaged blocks that this edge was asked for, by the question's number.
    repairs: Mutex<HashMap<u64, Question>>,
}

/// What a new session begins with.
pub(crate) struct Newcomer {
    pub(crate) site: SiteId,
    pub(crate) tenant: Arc<TenantStore>,
    pub(crate) serial: Serial,
    pub(crate) instance: u64,
    pub(crate) version: Version,
    pub(crate) software: String,
    pub(crate) name: String,
    pub(crate) control: Connection,
    pub(crate) line: Shaper,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl Live {
    pub(crate) fn new(metrics: Arc<Metrics>, announced: Vec<String>, tasks: TaskTracker, down: Downlinks) -> Live {
        Live {
            sessions: Mutex::default(),
            metrics,
            announced,
            tasks,
            down,
            brakes: Mutex::default(),
            deal: Mutex::default(),
        }
    }

    /// Notes how the line was dealt out.
    pub(crate) fn note_deal(&self, deal: Deal) {
        *self.deal.lock().expect("it is only replaced") = deal;
    }

    /// How the line was dealt out last.
    pub(crate) fn deal(&self) -> Deal {
        self.deal.lock().expect("it is only replaced").clone()
    }

    /// The gateway's figures.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The lines to the sites.
    pub(crate) fn down(&self) -> &Downlinks {
        &self.down
    }

    /// Lets each data connection hold as much for sending as the line to its site can use.
    pub(crate) fn fit_windows(&self) {
        let sessions: Vec<Arc<LiveSession>> = self.lock().values().cloned().collect();
        sessions.iter().for_each(|session| session.fit_window());
    }

    /// How a site is read.
    pub(crate) fn brake_of(&self, site: SiteId) -> Arc<Brake> {
        let mut brakes = self.brakes.lock().expect("no thread panics while it looks up a brake");
        brakes.entry(site).or_default().clone()
    }

    /// Reads a site no faster than this, or as it comes.
    pub(crate) fn brake(&self, site: SiteId, rate: Option<BitsPerSec>) {
        let window = self.brake_of(site).set(rate);
        if let Some(session) = self.of_site(site) {
            session.set_window(window);
        }
    }

    /// Lets a newcomer in, in the place of an older session of the same run of the edge's daemon, or of one that is dead.
    pub(crate) async fn admit(&self, newcomer: Newcomer) -> Result<Arc<LiveSession>, Refusal> {
        if let Some(old) = self.of_site(newcomer.site)
            && old.instance != newcomer.instance
            && old.is_alive(FromGateway::Addresses(self.announced.clone())).await
        {
            tracing::warn!(site = %newcomer.site, "a second edge with the same identity was turned away: one of them is a copy");
            return Err(Refusal::Cloned);
        }
        let brake = self.brake_of(newcomer.site);
        let session = Arc::new(LiveSession::new(newcomer, brake));
        if let Some(old) = self.lock().insert(session.site, session.clone()) {
            old.close(CloseCode::Replaced, "a newer connection of the same edge took its place");
        }
        self.count();
        Ok(session)
    }

    /// The session is over; does nothing when a newer one has taken its place.
    pub(crate) fn leave(&self, session: &LiveSession) {
        let mut sessions = self.lock();
        if sessions.get(&session.site).is_some_and(|current| current.number == session.number) {
            sessions.remove(&session.site);
        }
        drop(sessions);
        for (_, unanswered) in session.lock_repairs().drain() {
            let _too_many_wait_already = session.tenant.repairs.put(session.site, unanswered);
        }
        // The control connection closes itself, once its last message has arrived.
        session.close_data(CloseCode::Done, "the control connection ended");
        self.count();
    }

    /// The session of a site.
    pub fn of_site(&self, site: SiteId) -> Option<Arc<LiveSession>> {
        self.lock().get(&site).cloned()
    }

    /// The session that a data connection names, if it is the same site's.
    pub(crate) fn of_number(&self, site: SiteId, number: u64) -> Option<Arc<LiveSession>> {
        self.of_site(site).filter(|session| session.number == number)
    }

    /// Which sites have a session.
    pub(crate) fn connected_sites(&self) -> HashSet<SiteId> {
        self.lock().keys().copied().collect()
    }

    /// Sites with a session.
    pub fn connected(&self) -> usize {
        self.lock().len()
    }

    /// Each connected site: whether a generation of it is arriving, and UDP payload that came over its data connections since the daemon's start.
    pub(crate) fn arriving(&self) -> Vec<(SiteId, bool, u64)> {
        let sessions: Vec<Arc<LiveSession>> = self.lock().values().cloned().collect();
        let of = |session: &Arc<LiveSession>| {
            let current = session.lock_data().as_ref().map_or(0, |data| data.stats().udp_rx.bytes);
            let received = current + session.brake.before();
            (session.site, !session.lock_receiving().is_empty(), received)
        };
        sessions.iter().map(of).collect()
    }

    /// Says something to the edge of a site, even when its session is busy just now. Must be called within the runtime.
    pub(crate) fn tell(&self, site: SiteId, message: FromGateway) -> Told {
        let Some(session) = self.of_site(site) else { return Told::Away };
        if session.version.allows_reply(&message).is_err() {
            return Told::Old;
        }
        match session.commands.try_send(Command::Say(message)) {
            Ok(()) => Told::Sent,
            Err(TrySendError::Closed(_)) => Told::Away,
            Err(TrySendError::Full(command)) => {
                let commands = session.commands.clone();
                self.tasks.spawn(async move {
                    let _the_session_is_over = commands.send(command).await;
                });
                Told::Sent
            }
        }
    }

    /// Ends the session of a site at once: it hears why, and is closed whether it listens or not. Must be called within the runtime.
    pub fn end(&self, site: SiteId, why: Refusal) {
        let Some(session) = self.of_site(site) else { return };
        session.lock_receiving().clear(); // no parcel that is still on its way is taken in
        session.close_data(code_of(&why), &why.to_string());
        let _gone_or_busy = session.commands.try_send(Command::End(why.clone()));
        self.tasks.spawn(async move {
            let _heard = tokio::time::timeout(FAREWELL, session.control.closed()).await;
            session.close(code_of(&why), &why.to_string());
        });
    }

    /// Ends the sessions of a tenant, so that its store is let go and can be opened anew. Must be called within the runtime.
    pub(crate) fn end_tenant(&self, tenant: TenantId, why: &Refusal) {
        let sites: Vec<SiteId> = self.lock().values().filter(|s| s.tenant.id == tenant).map(|s| s.site).collect();
        sites.into_iter().for_each(|site| self.end(site, why.clone()));
    }

    fn count(&self) {
        self.metrics.sites.set(self.connected() as i64);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SiteId, Arc<LiveSession>>> {
        self.sessions.lock().expect("no thread panics while it holds the sessions")
    }
}

impl LiveSession {
    fn new(newcomer: Newcomer, brake: Arc<Brake>) -> LiveSession {
        let mut number = [0; 8];
        getrandom::fill(&mut number).expect("the operating system has a random source");
        LiveSession {
            number: u64::from_le_bytes(number),
            site: newcomer.site,
            tenant: newcomer.tenant,
            serial: newcomer.serial,
            instance: newcomer.instance,
            version: newcomer.version,
            software: newcomer.software,
            name: newcomer.name,
            control: newcomer.control,
            line: newcomer.line,
            fitted: Mutex::default(),
            brake,
            data: Mutex::default(),
            commands: newcomer.commands,
            receiving: Mutex::default(),
            status: Mutex::default(),
            fetched: Mutex::default(),
            repairs: Mutex::default(),
        }
    }

    /// The version that it speaks.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Whether nothing of this generation was fetched in this session before.
    pub(crate) fn is_first_fetch(&self, generation: GenerationId) -> bool {
        self.lock_fetched().insert(generation)
    }

    /// Nothing of it was fetched after all.
    pub(crate) fn forget_fetch(&self, generation: GenerationId) {
        self.lock_fetched().remove(&generation);
    }

    fn lock_fetched(&self) -> MutexGuard<'_, HashSet<GenerationId>> {
        self.fetched.lock().expect("no thread panics while it looks for a generation")
    }

    /// Its number as logs of both ends write it.
    pub(crate) fn label(&self) -> String {
        format!("{:016x}", self.number)
    }

    /// Whether the edge at the other end still answers. Anything it sends counts, and the question makes it send an acknowledgement.
    async fn is_alive(&self, question: FromGateway) -> bool {
        let heard = || self.control.stats().udp_rx.datagrams;
        let before = heard();
        let _busy_is_fine = self.commands.try_send(Command::Say(question));
        let answered = async {
            while heard() == before {
                if self.control.close_reason().is_some() {
                    return false;
                }
                tokio::time::sleep(PROBE_STEP).await;
            }
            self.control.close_reason().is_none()
        };
        tokio::time::timeout(PROBE, answered).await.unwrap_or(false)
    }

    /// Joins a data connection, which draws on the site's line from now on; an older one is closed.
    pub(crate) fn join(&self, data: Connection, peer: &Peer) {
        peer.join(&self.line, Class::Data);
        self.close_data(CloseCode::Replaced, "a newer data connection took its place");
        let window = self.brake.connected();
        *self.lock_data() = Some(data);
        self.set_window(window);
        self.fit_window();
    }

    fn set_window(&self, window: Option<u32>) {
        if let (Some(data), Some(window)) = (self.lock_data().as_ref(), window) {
            data.set_receive_window(VarInt::from_u32(window));
        }
    }

    fn fit_window(&self) {
        let window = shaping::send_window(self.line.effective_rate());
        let mut fitted = self.fitted.lock().expect("no thread panics while it sets a window");
        let data = self.lock_data();
        if let Some(data) = data.as_ref().filter(|data| *fitted != Some((data.stable_id(), window))) {
            data.set_send_window(window);
            *fitted = Some((data.stable_id(), window));
        }
    }

    /// Parcels of this generation may come.
    pub(crate) fn receive(&self, id: GenerationId, receiving: Arc<Receiving>) {
        self.lock_receiving().insert(id, receiving);
    }

    /// No more parcels of this generation.
    pub(crate) fn stop_receiving(&self, id: GenerationId) {
        self.lock_receiving().remove(&id);
    }

    /// The generation that parcels of this id go to.
    pub(crate) fn receiving(&self, id: GenerationId) -> Option<Arc<Receiving>> {
        self.lock_receiving().get(&id).cloned()
    }

    /// Whether there is room for one more question for damaged blocks.
    pub(crate) fn may_ask_repair(&self) -> bool {
        self.lock_repairs().len() < MAX_REPAIRS
    }

    /// Asks the edge for damaged blocks. `false`: the session is too busy.
    pub(crate) fn ask_repair(&self, question: Question) -> bool {
        let mut repairs = self.lock_repairs();
        let id = repairs.keys().max().map_or(1, |last| last + 1);
        let said = FromGateway::RepairWanted { id, generation: question.generation(), blocks: vec![question.blocks()] };
        let asked = self.commands.try_send(Command::Say(said)).is_ok();
        if asked {
            repairs.insert(id, question);
        }
        asked
    }

    /// Whether these blocks were asked for; they are then asked for no more.
    pub(crate) fn take_repair(&self, id: u64, generation: GenerationId) -> bool {
        self.lock_repairs().remove(&id).is_some_and(|question| question.generation() == generation)
    }

    /// What the edge said last about itself.
    pub fn status(&self) -> EdgeStatus {
        self.status.lock().expect("no thread panics while it holds a status").clone()
    }

    pub(crate) fn set_status(&self, status: EdgeStatus) {
        *self.status.lock().expect("no thread panics while it holds a status") = status;
    }

    fn close(&self, code: CloseCode, why: &str) {
        stream::close(&self.control, code, why);
        self.close_data(code, why);
    }

    fn close_data(&self, code: CloseCode, why: &str) {
        if let Some(data) = self.lock_data().take() {
            self.brake.ended(data.stats().udp_rx.bytes);
            stream::close(&data, code, why);
        }
    }

    fn lock_data(&self) -> MutexGuard<'_, Option<Connection>> {
        self.data.lock().expect("no thread panics while it holds a connection")
    }

    fn lock_repairs(&self) -> MutexGuard<'_, HashMap<u64, Question>> {
        self.repairs.lock().expect("no thread panics while it holds the repairs")
    }

    fn lock_receiving(&self) -> MutexGuard<'_, HashMap<GenerationId, Arc<Receiving>>> {
        self.receiving.lock().expect("no thread panics while it holds the generations")
    }
}

/// The code with which a connection is closed after this refusal.
pub(crate) fn code_of(why: &Refusal) -> CloseCode {
    match why {
        Refusal::Revoked => CloseCode::Revoked,
        Refusal::Cloned => CloseCode::Cloned,
        Refusal::Protocol(_) => CloseCode::Protocol,
        _ => CloseCode::Done,
    }
}
