//! The running gateway: everything built, started, and stopped in order.

use crate::access::sessions::Sessions;
use crate::admin::{Admin, socket};
use crate::ca::CaError;
use crate::config::{Config, defaults};
use crate::downlink::{self, Downlinks};
use crate::export;
use crate::figures::{self, Figures};
use crate::files::FileError;
use crate::incoming::Incoming;
use crate::ingest::Pool;
use crate::jobs::Jobs;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::scrape;
use crate::seeds::{self, WaitError};
use crate::server::{self, Gateway};
use crate::state::{State, StateError};
use crate::web::{self, Parts, Web, WebError};
use crate::workers::{self, Board};
use dedupe::GenerationId;
use monitoring::{Health, MetricError, Registry, ServeError};
use quinn::{Endpoint, ServerConfig};
use shaping::{Rate, Role, Shaper};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::stream::CloseCode;
use wire::tls::TlsError;

/// How long edges have to hear that the gateway stops, once everything else is done.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state cannot be opened.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// An address for edges cannot be taken.
    #[error(
        "cannot listen for edges on UDP {address}: {source}; another process may use it, or this machine may not have it: correct `listen` in the configuration"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Metrics and health cannot be served.
    #[error(transparent)]
    Http(#[from] ServeError),
    /// The admin socket cannot be made.
    #[error("cannot make the admin socket {path}: {source}")]
    Socket {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The gateway's certificate cannot be made.
    #[error("the gateway's certificate: {0}")]
    Certificate(#[from] CaError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Pages and API cannot be served.
    #[error(transparent)]
    Web(#[from] WebError),
    /// Exports cannot be served.
    #[error(transparent)]
    Export(#[from] export::ServeError),
    /// A metric cannot be registered; a programming error.
    #[error(transparent)]
    Metric(#[from] MetricError),
}

/// A running gateway. [`Daemon::shutdown`] ends it in order; dropping it tells everything to stop and waits for nothing.
pub struct Daemon {
    gateway: Arc<Gateway>,
    admin: Admin,
    endpoints: Vec<Endpoint>,
    addresses: Vec<SocketAddr>,
    http: Option<SocketAddr>,
    pages: Option<String>,
    health: Health,
    socket: PathBuf,
}

impl Daemon {
    /// Opens the state, binds everything, starts everything. Must be called within a multi-threaded runtime.
    pub async fn start(config: Config) -> Result<Daemon, StartError> {
        let (registry, health) = (Registry::new(), Health::new());
        let (listening, stores) = (health.check("listening"), health.check("stores"));
        let shaper = Shaper::new(Rate::Unlimited);
        let metrics = Metrics::register(&registry, &shaper)?;
        monitoring::register_process(&registry, "sluice-gateway", env!("CARGO_PKG_VERSION"))?;
        let opened = config.clone();
        let state = blocking(move || State::open(&opened)).await?;
        let listener = socket::bind(state.folder())
            .map_err(|source| StartError::Socket { path: state.folder().join(socket::NAME), source })?;
        let http = match config.http {
            Some(address) => Some(monitoring::bind(address).await?),
            None => None,
        };
        let pages = match &config.web {
            Some(web) => Some(monitoring::bind(web.listen).await?),
            None => None,
        };
        let (endpoints, listening_with) = listen(&config, &state, &shaper)?;
        let addresses: Vec<SocketAddr> = endpoints.iter().filter_map(|endpoint| endpoint.local_addr().ok()).collect();
        let announced = announce(&config, &state, &addresses)?;
        let incoming = Incoming::new(state.folder().join("incoming"));
        let (enrolments, renewals) = server::limiters();
        let tasks = TaskTracker::new();
        let gateway = Arc::new(Gateway {
            live: Arc::new(Live::new(
                metrics.clone(),
                announced.clone(),
                tasks.clone(),
                Downlinks::new(registry.clone()),
            )),
            pool: Pool::new(config.decode_workers, incoming, metrics.clone()),
            back: crate::back::Back::default(),
            figures: Figures::new(state.clone()),
            state,
            metrics,
            tasks,
            stop: CancellationToken::new(),
            work: Notify::new(),
            announced,
            reserve: config.reserve,
            ingress: config.ingress,
            listening: RwLock::new(Arc::new(listening_with)),
            enrolments,
            renewals,
        });
        let shared = gateway.clone();
        blocking(move || open_stores(&shared)).await?;

        let board = Arc::new(Board::default());
        Metrics::register_pending(&registry, &gateway.state)?;
        figures::register(&registry, &gateway, &board);
        let sessions = Arc::new(Sessions::default());
        let ends = (&gateway.tasks, &gateway.stop);
        let exports = export::Server::start(&gateway.state, config.export.as_ref(), ends)?;
        let (state, live) = (gateway.state.clone(), gateway.live.clone());
        let admin = Admin::of_daemon(state, live, board.clone(), sessions.clone(), (exports, gateway.stop.clone()));
        let jobs = Arc::new(Jobs::new(gateway.tasks.clone(), gateway.stop.clone()));
        let (mut shown, mut certificates) = (None, None);
        if let (Some(listener), Some(web)) = (pages, config.web.clone()) {
            shown = listener.local_addr().ok().map(|bound| web::address_of(&web, bound));
            let (jobs, stop) = (jobs.clone(), gateway.stop.clone());
            let (state, live) = (gateway.state.clone(), gateway.live.clone());
            let settings = config.clone();
            let parts = Parts { admin: admin.clone(), state, live, sessions, jobs, settings, stop };
            let web = Web::new(parts, web, &registry)?;
            let (renewed, tls) = match web.tls()? {
                Some(config) => {
                    let (renewed, tls) = watch::channel(config);
                    (Some(renewed), Some(tls))
                }
                None => (None, None),
            };
            certificates = renewed.map(|renewed| (web.clone(), renewed));
            gateway.tasks.spawn(web.serve(listener, tls));
        }
        let http_address = http.as_ref().and_then(|listener| listener.local_addr().ok());
        if let Some(listener) = http {
            let stop = gateway.stop.clone().cancelled_owned();
            let routes = monitoring::router(registry, health.clone()).merge(scrape::router(gateway.clone()));
            gateway.tasks.spawn(async move {
                if let Err(error) = monitoring::serve_routes(listener, routes, stop).await {
                    tracing::error!(%error, "metrics and health are served no more");
                }
            });
        }
        gateway.tasks.spawn(socket::serve(listener, admin.clone(), gateway.tasks.clone(), gateway.stop.clone()));
        stores.ok();
        workers::start(&gateway, &board, &endpoints, (config.retention, config.ingress), stores, certificates);
        workers::start_orders(&gateway, &board, admin.clone(), jobs);
        gateway.tasks.spawn(downlink::run(gateway.clone()));
        gateway.tasks.spawn(seeds::run(gateway.clone()));
        for endpoint in &endpoints {
            gateway.tasks.spawn(server::accept(gateway.clone(), endpoint.clone()));
        }
        let stopped = gateway.stop.clone();
        gateway.tasks.spawn(async move {
            listening.ok();
            stopped.cancelled().await;
            listening.fail("the daemon stops");
        });
        let socket = gateway.state.folder().join(socket::NAME);
        Ok(Daemon { gateway, admin, endpoints, addresses, http: http_address, pages: shown, health, socket })
    }

    /// Where it listens for edges.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it serves `/metrics` and `/health`.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where it serves pages and API, as a browser writes it.
    pub fn pages(&self) -> Option<&str> {
        self.pages.as_deref()
    }

    /// What edges are told to dial.
    pub fn announced(&self) -> &[String] {
        &self.gateway.announced
    }

    /// Whether it is ready, and why not.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Handles requests of operators.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Stops: no new work, what is under way is finished within 20 s, edges hear that it stops.
    pub async fn shutdown(self) {
        self.gateway.stop.cancel();
        self.gateway.tasks.close();
        if tokio::time::timeout(defaults::DRAIN, self.gateway.tasks.wait()).await.is_err() {
            tracing::warn!("work was still under way after {:?}; it will be done again", defaults::DRAIN);
        }
        let state = self.gateway.state.clone();
        let kept = tokio::task::spawn_blocking(move || state.telemetry.keep(&state.catalogue)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "the last minute of what edges told is not kept for the next start");
        }
        for endpoint in &self.endpoints {
            endpoint.close(CloseCode::Stopping.number().into(), b"the gateway stops");
            let _heard = tokio::time::timeout(FAREWELL, endpoint.wait_idle()).await;
        }
        let _gone_already = std::fs::remove_file(&self.socket);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.gateway.stop.cancel();
    }
}

fn listen(config: &Config, state: &State, shaper: &Shaper) -> Result<(Vec<Endpoint>, ServerConfig), StartError> {
    let certificate = state.authorities().server_certificate(state.now()).map_err(CaError::from)?;
    let server = server::server_config(state, &certificate)?;
    let mut endpoint_config = shaping::endpoint_config();
    endpoint_config.reset_key(Arc::new(state.reset_key()?));
    let listen = |address: &SocketAddr| {
        let failed = |source| StartError::Listen { address: *address, source };
        let socket = shaping::bind(*address, Role::Gateway, shaper).map_err(failed)?;
        shaping::endpoint(socket, endpoint_config.clone(), Some(server.clone())).map_err(failed)
    };
    let endpoints: Result<Vec<Endpoint>, StartError> = config.listen.iter().map(listen).collect();
    Ok((endpoints?, server))
}

/// What edges are told to dial; kept, so that tokens can be made while no daemon runs.
fn announce(config: &Config, state: &State, bound: &[SocketAddr]) -> Result<Vec<String>, StartError> {
    let known = state.catalogue.addresses().map_err(StateError::from)?;
    let specific = bound.iter().filter(|address| !address.ip().is_unspecified()).map(SocketAddr::to_string);
    let announced = match config.addresses.is_empty() {
        false => config.addresses.clone(),
        // `init --address` was given, and the configuration says nothing.
        true if bound.iter().all(|address| address.ip().is_unspecified()) => known.clone(),
        true => specific.collect(),
    };
    if announced != known {
        state.catalogue.set_addresses(&announced).map_err(StateError::from)?;
    }
    Ok(announced)
}

/// Opens all stores, so that a broken one shows at the start, and removes parts that no draft wants any more.
fn open_stores(gateway: &Gateway) -> Result<(), StateError> {
    let mut drafts: Vec<GenerationId> = Vec::new();
    for (tenant, store) in gateway.state.all_tenants()? {
        let failed = |source| StateError::Store { tenant: tenant.id, source };
        for lineage in store.store.lineages().map_err(failed)? {
            let generations = store.store.generations(lineage.id).map_err(failed)?;
            drafts.extend(generations.iter().filter(|generation| !generation.is_sealed()).map(|draft| draft.id));
        }
    }
    if let Err(error) = gateway.state.tidy_releases() {
        // Volumes are taken in all the same.
        tracing::error!(%error, "the store of releases cannot be used; if it is damaged, remove `releases/` of the state directory and import them again");
    }
    match seeds::tidy(&gateway.state) {
        Ok(rows) => drafts.extend(rows.iter().map(|row| row.generation)),
        Err(WaitError::State(error)) => return Err(error),
        Err(WaitError::Catalogue(error)) => return Err(error.into()),
        Err(WaitError::File(error)) => return Err(error.into()),
        // No store is asked for what waits.
        Err(error @ WaitError::Store(_)) => tracing::error!(%error, "what waits for seeds could not be tidied"),
    }
    let incoming = gateway.pool.incoming();
    let tidied = incoming.tidy(|generation| drafts.contains(&generation));
    tidied.map_err(|source| FileError { what: "tidy", path: gateway.state.folder().join("incoming"), source })?;
    Ok(())
}

async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
