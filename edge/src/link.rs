//! The edge's side of the line: dials the gateways in order, keeps one session at a time, and says why there is none.
//!
//! A [`Session`] is a control and a data connection on two shaped sockets. When one of them is gone the other is closed, and everything begins anew:
//! where each parcel goes on is agreed by [`crate::sender`] and the gateway, so a cut costs only what was under way.
//!
//! ```text
//!   Unenrolled ──identity appears──► Connecting ──Welcome, Joined──► Connected
//!                                      ▲    │ no address works          │ cut, closed, Bye
//!                                      └────┴───── Down (waits) ◄───────┘
//! ```

pub mod backoff;
mod paths;
mod session;

pub use paths::{Packets, RoundTrips};
pub use session::{AskError, Session};

use crate::config::Config;
use crate::figures::Figures;
use crate::identity::{Identity, IdentityFileError};
use crate::line::Line;
use backoff::{Backoff, Trouble};
use dedupe::{BlockRun, GenerationId, LineageId, UnixMillis};
use serde::{Deserialize, Serialize};
use shaping::{MeterReading, Role, ShapedSocket, Shaper};
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use wire::clock::{KnownTime, machine_time};
use wire::message::{DataReply, DataRequest, EdgeStatus, FromEdge, FromGateway, Hello, Refusal, Welcome};
use wire::release::Order;
use wire::seeding::Seeds;
use wire::stream::{self, CloseCode, Ended, FrameReader, FrameWriter, Purpose, StreamError};
use wire::version::SPOKEN;

/// Handshake, hello and joining together: 16 kbit/s of reserve carry them in 5 s, and a bad line doubles that a few times.
const CONNECT_WITHIN: Duration = Duration::from_secs(40);
/// Between two looks for an identity while there is none.
const LOOK_FOR_IDENTITY: Duration = Duration::from_secs(2);

/// What the line is doing, for status and metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum LinkState {
    /// There is no identity: the edge was never enrolled.
    Unenrolled,
    /// A gateway is being dialled.
    Connecting {
        /// Which.
        address: String,
    },
    /// There is a session.
    Connected {
        /// With which address.
        address: String,
        /// Protocol version.
        version: String,
        /// The gateway's software.
        gateway: String,
    },
    /// There is none; another attempt follows.
    Down {
        /// Why.
        why: String,
        /// When the next attempt is due, Unix milliseconds.
        retry_at: u64,
        /// Only a person can help.
        needs_person: bool,
        /// What kind of trouble it is, for whoever says it in another language.
        #[serde(default)]
        cause: DownCause,
    },
}

/// Why there is no session, as one of few kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DownCause {
    /// The name of the gateway does not resolve.
    Resolve,
    /// Nothing answers: the line is cut, a firewall drops UDP, or the gateway is off.
    Silent,
    /// The gateway stops or started anew.
    Restarts,
    /// The site is revoked.
    Revoked,
    /// Another edge has the same identity.
    Cloned,
    /// A certificate was refused.
    Certificate,
    /// The two ends have no protocol version in common.
    Version,
    /// The identity in the state directory cannot be used.
    Identity,
    /// Anything else.
    #[default]
    Other,
}

/// Why a session could not be had, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// An address does not resolve.
    #[error("cannot resolve {address}: {source}")]
    Resolve {
        /// The address.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// No socket.
    #[error("cannot open a socket: {0}")]
    Socket(std::io::Error),
    /// The identity cannot be used.
    #[error("cannot use the identity of this edge: {0}")]
    Identity(String),
    /// It could not be dialled.
    #[error("cannot dial {address}: {why}")]
    Dial {
        /// The address.
        address: String,
        /// Why.
        why: String,
    },
    /// The connection failed or ended.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// What came over it is no message, or ended early.
    #[error(transparent)]
    Stream(StreamError),
    /// Nothing came in time.
    #[error("no answer within {} s", CONNECT_WITHIN.as_secs())]
    Silent,
    /// The gateway said why.
    #[error("the gateway ended the session: {0}")]
    Bye(Refusal),
    /// The gateway said something that does not belong there.
    #[error("unexpected answer of the gateway to {0}")]
    Unexpected(&'static str),
    /// There are no addresses.
    #[error("no gateway address is known; enrol this edge again")]
    NoAddress,
    /// The line opened while the session had no data connection: a session with one takes its place.
    #[error("the line is open again")]
    Opened,
    /// This daemon stops.
    #[error("the daemon stops")]
    Stopping,
}

impl From<StreamError> for LinkError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Ended(ended) => LinkError::Ended(ended),
            other => LinkError::Stream(other),
        }
    }
}

impl LinkError {
    fn cause(&self) -> DownCause {
        match self {
            LinkError::Resolve { .. } => DownCause::Resolve,
            LinkError::Silent | LinkError::Ended(Ended::TimedOut) => DownCause::Silent,
            LinkError::Bye(Refusal::Revoked) | LinkError::Ended(Ended::Closed { code: CloseCode::Revoked, .. }) => {
                DownCause::Revoked
            }
            LinkError::Bye(Refusal::Cloned) | LinkError::Ended(Ended::Closed { code: CloseCode::Cloned, .. }) => {
                DownCause::Cloned
            }
            LinkError::Ended(Ended::Reset | Ended::Closed { code: CloseCode::Stopping, .. }) => DownCause::Restarts,
            LinkError::Ended(Ended::Certificate { .. }) => DownCause::Certificate,
            LinkError::Ended(Ended::NoCommonVersion) => DownCause::Version,
            LinkError::Identity(_) | LinkError::NoAddress => DownCause::Identity,
            _ => DownCause::Other,
        }
    }

    fn trouble(&self) -> Trouble {
        match self {
            LinkError::Bye(Refusal::Revoked | Refusal::Cloned) | LinkError::Identity(_) => Trouble::Person,
            LinkError::Ended(Ended::Closed { code: CloseCode::Revoked | CloseCode::Cloned, .. }) => Trouble::Person,
            LinkError::Ended(Ended::Certificate { .. } | Ended::NoCommonVersion) => Trouble::Person,
            _ => Trouble::Passing,
        }
    }
}

/// IP-level bytes and datagrams of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkMeters {
    /// Of the control connection.
    pub control: Option<MeterReading>,
    /// Of the data connection.
    pub data: Option<MeterReading>,
}

/// Who wants to know what the gateway says about a volume.
pub(crate) type Listener = mpsc::Sender<FromGateway>;

/// A handle on the line. Clones are handles on the same one.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    max_datagram: Option<u16>,
    line: Line,
    /// Random number of this run: tells a restart from a copy of the edge.
    instance: u64,
    time: Arc<KnownTime>,
    state: watch::Sender<LinkState>,
    session: watch::Sender<Option<Arc<Session>>>,
    identity: Mutex<Option<Identity>>,
    endpoints: Mutex<HashMap<bool, Ends>>,
    pub(crate) listeners: Mutex<HashMap<LineageId, Listener>>,
    /// Somebody enrolled this edge: no wait is worth anything any more.
    enrolled: Notify,
    paths: paths::Paths,
    status: Mutex<Option<StatusSource>>,
    repairs: Mutex<Option<RepairSource>>,
    orders: watch::Sender<Option<Order>>,
    seeds: watch::Sender<Option<Seeds>>,
}

/// Makes the parcel for a repair at the gateway; empty when the blocks are not here. Blocks.
pub(crate) type RepairSource = Arc<dyn Fn(GenerationId, &[BlockRun]) -> Vec<u8> + Send + Sync>;

/// Makes the minute's sign of life, with the figures that go with it. Blocks.
pub(crate) type StatusSource = Arc<dyn Fn() -> (EdgeStatus, Figures) + Send + Sync>;

/// The two endpoints of one address family, kept for the daemon's life: their sockets' meters count from its start.
#[derive(Clone)]
struct Ends {
    control: (quinn::Endpoint, Arc<ShapedSocket>),
    data: (quinn::Endpoint, Arc<ShapedSocket>),
}

impl Link {
    /// Sessions over `line`. Nothing is dialled before [`Link::run`].
    pub fn new(config: &Config, line: Line) -> Link {
        let mut instance = [0; 8];
        getrandom::fill(&mut instance).expect("the operating system has a random source");
        Link(Arc::new(Inner {
            directory: config.state.clone(),
            max_datagram: config.max_datagram,
            line,
            instance: u64::from_le_bytes(instance),
            time: Arc::new(KnownTime::new(UnixMillis(0))),
            state: watch::Sender::new(LinkState::Unenrolled),
            session: watch::Sender::new(None),
            identity: Mutex::new(None),
            endpoints: Mutex::default(),
            listeners: Mutex::default(),
            enrolled: Notify::new(),
            paths: paths::Paths::default(),
            status: Mutex::new(None),
            repairs: Mutex::new(None),
            orders: watch::Sender::new(None),
            seeds: watch::Sender::new(None),
        }))
    }

    /// The state now.
    pub fn state(&self) -> LinkState {
        self.0.state.borrow().clone()
    }

    /// Follows the sessions: `None` while there is none.
    pub fn sessions(&self) -> watch::Receiver<Option<Arc<Session>>> {
        self.0.session.subscribe()
    }

    /// Follows which release this edge is to run: what the gateway said last; `None` also before it has said anything.
    pub(crate) fn orders(&self) -> watch::Receiver<Option<Order>> {
        self.0.orders.subscribe()
    }

    /// What the gateway said last of this site's seeds, with the key that media are encrypted to; `None`: nothing since this daemon started.
    pub fn seeds(&self) -> watch::Receiver<Option<Seeds>> {
        self.0.seeds.subscribe()
    }

    /// Follows the state.
    pub fn states(&self) -> watch::Receiver<LinkState> {
        self.0.state.subscribe()
    }

    /// The line's shaper.
    pub fn shaper(&self) -> &Shaper {
        self.0.line.shaper()
    }

    /// What decides about the line.
    pub fn line(&self) -> &Line {
        &self.0.line
    }

    /// The edge's clock, never behind what gateways have told.
    pub fn now(&self) -> UnixMillis {
        self.0.time.now()
    }

    /// The identity, once there is one.
    pub fn identity(&self) -> Option<Identity> {
        lock(&self.0.identity).clone()
    }

    /// Somebody enrolled this edge from within this process: dials at once, instead of when the wait is over.
    pub(crate) fn was_enrolled(&self) {
        self.0.enrolled.notify_one();
    }

    /// What the sockets have sent and received since the daemon started.
    pub fn meters(&self) -> LinkMeters {
        let ends = lock(&self.0.endpoints);
        let sum = |of: fn(&Ends) -> &ShapedSocket| ends.values().map(|ends| of(ends).meter()).reduce(add);
        LinkMeters { control: sum(|ends| &ends.control.1), data: sum(|ends| &ends.data.1) }
    }

    /// Packets of all sessions since the daemon started.
    pub fn packets(&self) -> Packets {
        self.0.paths.packets()
    }

    /// Round trips of the line.
    pub fn round_trips(&self) -> RoundTrips {
        self.0.paths.round_trips()
    }

    /// What the gateway says about this lineage, and about generations of any, goes to `listener` too.
    pub(crate) fn listen(&self, lineage: LineageId, listener: Listener) {
        lock(&self.0.listeners).insert(lineage, listener);
    }

    pub(crate) fn unlisten(&self, lineage: LineageId) {
        lock(&self.0.listeners).remove(&lineage);
    }

    /// Where the minute's sign of life comes from.
    pub(crate) fn set_status(&self, source: StatusSource) {
        *lock(&self.0.status) = Some(source);
    }

    /// Where blocks for the gateway's repairs come from.
    pub(crate) fn set_repairs(&self, source: RepairSource) {
        *lock(&self.0.repairs) = Some(source);
    }

    /// Dials and keeps sessions until `stop`. Returns when everything of the line is closed.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        while let Some(identity) = self.await_identity(&stop).await {
            let error = tokio::select! {
                error = self.attempt(&identity, &mut backoff, &stop) => error,
                () = stop.cancelled() => break,
            };
            if matches!(error, LinkError::Opened) {
                tracing::info!(why = %error, "dialling anew");
                continue;
            }
            let trouble = error.trouble();
            let wait = backoff.next(trouble);
            tracing::info!(why = %error, retry_in = ?wait, "no session with a gateway");
            let retry_at = machine_time().0 + wait.as_millis() as u64;
            let needs_person = trouble == Trouble::Person;
            let down = LinkState::Down { why: error.to_string(), retry_at, needs_person, cause: error.cause() };
            self.0.state.send_replace(down);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.0.enrolled.notified() => {}
                () = stop.cancelled() => break,
            }
        }
        self.close().await;
    }

    /// Waits until there is an identity; `None`: the daemon stops.
    async fn await_identity(&self, stop: &CancellationToken) -> Option<Identity> {
        loop {
            // Read anew each time, so that an edge that was enrolled again needs no restart.
            match Identity::load(&self.0.directory) {
                Ok(found) => {
                    let mut known = lock(&self.0.identity);
                    let same = known.as_ref().is_some_and(|known| known.credentials() == found.credentials());
                    if !same {
                        self.0.time.learn(found.known_time());
                        if known.replace(found).is_some() {
                            self.line().reload();
                        }
                    }
                    return known.clone();
                }
                Err(IdentityFileError::NotEnrolled(_)) => {
                    self.0.state.send_replace(LinkState::Unenrolled);
                }
                Err(error) => {
                    let retry_at = machine_time().0 + LOOK_FOR_IDENTITY.as_millis() as u64;
                    let cause = DownCause::Identity;
                    let down = LinkState::Down { why: error.to_string(), retry_at, needs_person: true, cause };
                    self.0.state.send_replace(down);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_FOR_IDENTITY) => {}
                () = self.0.enrolled.notified() => {}
                () = stop.cancelled() => return None,
            }
        }
    }

    /// One round over all addresses; returns why there is no session, or no longer one.
    async fn attempt(&self, identity: &Identity, backoff: &mut Backoff, stop: &CancellationToken) -> LinkError {
        let mut last = LinkError::NoAddress;
        for address in identity.credentials().addresses {
            self.0.state.send_replace(LinkState::Connecting { address: address.clone() });
            let connected = tokio::time::timeout(CONNECT_WITHIN, self.connect(identity, &address)).await;
            match connected.unwrap_or(Err(LinkError::Silent)) {
                Ok(connected) => {
                    backoff.worked();
                    return self.keep(identity, connected, &address, stop).await;
                }
                Err(error) => {
                    tracing::debug!(%address, why = %error, "gateway not reached");
                    // Said by a gateway: more telling than that the next address does not answer.
                    if !matches!(last.trouble(), Trouble::Person) {
                        last = error;
                    }
                }
            }
        }
        last
    }

    /// Tries each address that the name resolves to, IPv6 and IPv4.
    async fn connect(&self, identity: &Identity, address: &str) -> Result<Connected, LinkError> {
        let resolved = tokio::net::lookup_host(address).await;
        let peers = resolved.map_err(|source| LinkError::Resolve { address: address.into(), source })?;
        let mut last = LinkError::Dial { address: address.into(), why: "the name has no address".into() };
        for peer in peers {
            match self.dial(identity, address, peer).await {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn dial(&self, identity: &Identity, address: &str, peer: SocketAddr) -> Result<Connected, LinkError> {
        let ends = self.ends(peer)?;
        let client = identity.client(&SPOKEN, self.0.time.clone());
        let mut client = client.map_err(|error| LinkError::Identity(error.to_string()))?;
        let refused = |error: quinn::ConnectError| LinkError::Dial { address: address.into(), why: error.to_string() };
        let ended = |error: quinn::ConnectionError| LinkError::Ended(stream::ended(&error));

        client.transport_config(Arc::new(shaping::edge_control_transport()));
        let name = wire::tls::server_name();
        let connecting = ends.control.0.connect_with(client.clone(), peer, name).map_err(refused)?;
        let control = Closing(connecting.await.map_err(ended)?);
        let version = match stream::agreed(&control.0) {
            Ok(stream::Agreed::Session(version)) => version,
            _ => return Err(LinkError::Unexpected("the handshake")),
        };
        let (mut writer, mut reader) = stream::open(&control.0, Purpose::Control).await?;
        let software = env!("CARGO_PKG_VERSION").to_owned();
        let hello = Hello { software, instance: self.0.instance, now: machine_time() };
        writer.send(&FromEdge::Hello(hello)).await?;
        let welcome = match reader.expect().await? {
            FromGateway::Welcome(welcome) => welcome,
            FromGateway::Bye { why } => return Err(LinkError::Bye(why)),
            _ => return Err(LinkError::Unexpected("the hello")),
        };
        // At once: should the data connection not come about, the next attempt goes to where the gateway is.
        self.learn(identity, &welcome);

        let rate = self.shaper().rate();
        let data = if rate.is_open() {
            let largest = self.0.max_datagram.unwrap_or_else(|| shaping::largest_datagram(rate, peer));
            client.transport_config(Arc::new(shaping::edge_data_transport(self.shaper(), largest)));
            let data = ends.data.0.connect_with(client, peer, name).map_err(refused)?;
            Some(join(Closing(data.await.map_err(ended)?), welcome.session).await?)
        } else {
            None
        };
        Ok(Connected { control, data, writer, reader, welcome, version })
    }

    /// The endpoints of the peer's address family.
    fn ends(&self, peer: SocketAddr) -> Result<Ends, LinkError> {
        let mut ends = lock(&self.0.endpoints);
        if let Some(ends) = ends.get(&peer.is_ipv6()) {
            return Ok(ends.clone());
        }
        let local: SocketAddr =
            if peer.is_ipv6() { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
        let end = |role| {
            let socket = shaping::bind(local, role, self.shaper())?;
            let endpoint = shaping::endpoint(socket.clone(), shaping::endpoint_config(), None)?;
            Ok((endpoint, socket))
        };
        let made = Ends {
            control: end(Role::Control).map_err(LinkError::Socket)?,
            data: end(Role::Data).map_err(LinkError::Socket)?,
        };
        ends.insert(peer.is_ipv6(), made.clone());
        Ok(made)
    }

    /// Serves a session until it ends; returns why.
    async fn keep(
        &self,
        identity: &Identity,
        connected: Connected,
        address: &str,
        stop: &CancellationToken,
    ) -> LinkError {
        let Connected { control, data, writer, reader, welcome, version } = connected;
        let span = tracing::info_span!(
            "session",
            session = format!("{:016x}", welcome.session),
            site = identity.credentials().site
        );
        let (gateway, version_text) = (welcome.software.clone(), format!("{version:?}"));
        let state = LinkState::Connected { address: address.to_owned(), version: version_text, gateway };
        span.in_scope(|| tracing::info!(address, ?version, gateway = welcome.software, "session with a gateway"));
        let (session, outbox) =
            Session::new(welcome.session, data.as_ref().map(|data| data.connection.0.clone()), version);
        let session = Arc::new(session);
        let connections = [Some(&control), data.as_ref().map(|data| &data.connection)];
        self.0.paths.begin(connections.into_iter().flatten().map(|connection| connection.0.clone()).collect());
        self.0.state.send_replace(state);
        self.0.session.send_replace(Some(session.clone()));
        let parts = session::Parts { link: self, identity, session: &session };
        let why = tokio::select! {
            why = parts.read(reader).instrument(span.clone()) => why,
            why = parts.write(writer, outbox).instrument(span.clone()) => why,
            why = parts.keep_alive().instrument(span.clone()) => why,
            error = control.0.closed() => LinkError::Ended(stream::ended(&error)),
            error = closed(data.as_ref()) => LinkError::Ended(stream::ended(&error)),
            () = self.line().opened(), if data.is_none() => LinkError::Opened,
            () = stop.cancelled() => LinkError::Stopping,
        };
        self.0.session.send_replace(None);
        session.end();
        self.0.paths.end();
        let code = if stop.is_cancelled() { CloseCode::Stopping } else { CloseCode::Done };
        if let Some(data) = &data {
            stream::close(&data.connection.0, code, "");
        }
        stream::close(&control.0, code, "");
        span.in_scope(|| tracing::info!(%why, "session over"));
        why
    }

    fn learn(&self, identity: &Identity, welcome: &Welcome) {
        self.0.time.learn(welcome.now);
        self.line().told(welcome.now);
        let stored = identity.learn_time(welcome.now).and_then(|()| identity.moved(welcome.addresses.clone()));
        if let Err(error) = stored {
            // The old addresses go on working; the new ones are told again with the next welcome.
            tracing::warn!(%error, "cannot store what the gateway told");
        }
    }

    async fn close(&self) {
        let ends: Vec<Ends> = lock(&self.0.endpoints).values().cloned().collect();
        for ends in ends {
            for (endpoint, _) in [ends.control, ends.data] {
                endpoint.close(CloseCode::Stopping.number().into(), b"");
                // Lets the close leave; a line that is cut must not hold the daemon up.
                let _ = tokio::time::timeout(Duration::from_millis(500), endpoint.wait_idle()).await;
            }
        }
    }
}

/// A session that has just been agreed on.
struct Connected {
    control: Closing,
    data: Option<Joined>,
    writer: FrameWriter,
    reader: FrameReader,
    welcome: Welcome,
    version: wire::version::Version,
}

/// A data connection that belongs to its session.
struct Joined {
    connection: Closing,
    /// Stays open: nothing ends it but the connection.
    _stream: (FrameWriter, FrameReader),
}

async fn join(connection: Closing, session: u64) -> Result<Joined, LinkError> {
    let (mut writer, mut reader) = stream::open(&connection.0, Purpose::Data).await?;
    writer.send(&DataRequest::Join { session }).await?;
    match reader.expect().await? {
        DataReply::Joined => Ok(Joined { connection, _stream: (writer, reader) }),
        DataReply::Refused(why) => Err(LinkError::Bye(why)),
        _ => Err(LinkError::Unexpected("joining the data connection")),
    }
}

/// Completes when the data connection is gone; never while there is none to lose.
async fn closed(data: Option<&Joined>) -> quinn::ConnectionError {
    match data {
        Some(data) => data.connection.0.closed().await,
        None => std::future::pending().await,
    }
}

/// A connection that is closed when nobody wants it any more, also in the middle of an attempt.
struct Closing(quinn::Connection);

impl Drop for Closing {
    fn drop(&mut self) {
        stream::close(&self.0, CloseCode::Done, "");
    }
}

fn add(one: MeterReading, other: MeterReading) -> MeterReading {
    MeterReading {
        sent_bytes: one.sent_bytes + other.sent_bytes,
        sent_datagrams: one.sent_datagrams + other.sent_datagrams,
        received_bytes: one.received_bytes + other.received_bytes,
        received_datagrams: one.received_datagrams + other.received_datagrams,
    }
}

/// Whole values under each of these locks: a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
