//! The local page: what the junior engineer who visits once, and the branch's own people, see at the box. It works without the gateway.
//!
//! ```text
//!   browser ──► look::serve ──► routes: host, session, form ──► Facts::gather ──► view (pure)
//!                                   │                              ▲
//!                                   └── pin, access                └── daemon, Pulse (flow), Work (enrolling, line-test)
//! ```
//!
//! * [`pin`], `access`, `hosts`, [`certificate`]: who may see it, and how.
//! * `facts`: everything that it shows, gathered at one moment; `ahead`, `say`, `view`: that in pictures, words and markup, in both languages.
//! * `asks`: what people ask for in forms, read into what it means; `work`: what takes longer than an answer may.

mod access;
mod ahead;
mod asks;
pub mod certificate;
mod disks;
mod facts;
mod hosts;
pub mod pin;
mod pulse;
mod routes;
pub(crate) mod say;
mod view;
mod work;

use crate::Daemon;
use crate::config::PageConfig;
use crate::pipeline::blocking;
use access::{Sessions, Throttle};
use certificate::{Certificate, CertificateError};
use look::Asset;
use pin::PinError;
use pulse::Pulse;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use work::Work;

/// A page that cannot be served is tried again after this: replication goes on meanwhile.
const AGAIN: Duration = Duration::from_secs(30);

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The PIN.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The address.
    #[error(transparent)]
    Bind(#[from] monitoring::ServeError),
    /// Serving ended by itself.
    #[error("serving the page failed: {0}")]
    Serve(#[source] std::io::Error),
    /// There is none.
    #[error("this edge has no page: its configuration says `page = \"off\"`")]
    Off,
}

/// How people get to the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageInfo {
    /// Where it is.
    pub addresses: Vec<String>,
    /// SHA-256 of its certificate, as browsers show it; absent without TLS.
    pub fingerprint: Option<String>,
    /// The PIN that was just made.
    pub pin: Option<String>,
}

/// Says how people get to the page of this configuration, and makes a PIN if there is none, or if a new one is wanted. Blocks.
pub fn info(state: &Path, page: Option<&PageConfig>, new_pin: bool) -> Result<PageInfo, PageError> {
    let page = page.ok_or(PageError::Off)?;
    let fingerprint = match page.is_tls() {
        true => Some(Certificate::load_or_make(state, page)?.fingerprint()),
        false => None,
    };
    let has_pin = !new_pin && pin::load(state)?.is_some();
    let pin = if has_pin { None } else { Some(pin::make(state)?.to_string()) };
    let scheme = if page.is_tls() { "https" } else { "http" };
    let port = page.listen.port();
    let mut addresses: Vec<String> = page.names.iter().map(|name| format!("{scheme}://{name}:{port}/")).collect();
    addresses.push(match page.listen.ip().is_unspecified() {
        true => format!("{scheme}://ADDRESS-OF-THIS-BOX:{port}/"),
        false => format!("{scheme}://{}/", page.listen),
    });
    Ok(PageInfo { addresses, fingerprint, pin })
}

/// What the handlers share.
pub(crate) struct App {
    daemon: Daemon,
    assets: Vec<Asset>,
    is_tls: bool,
    names: Vec<String>,
    pulse: Pulse,
    work: Work,
    tries: tokio::sync::Mutex<Tries>,
    sessions: Mutex<Sessions>,
}

/// Tries at one PIN; another PIN begins anew.
#[derive(Default)]
struct Tries {
    pin: Option<[u8; 16]>,
    throttle: Throttle,
}

impl App {
    fn new(daemon: Daemon, page: &PageConfig) -> Arc<App> {
        Arc::new(App {
            daemon,
            assets: view::assets(),
            is_tls: page.is_tls(),
            names: page.names.clone(),
            pulse: Pulse::default(),
            work: Work::default(),
            tries: tokio::sync::Mutex::default(),
            sessions: Mutex::default(),
        })
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        // Whole sessions are put in and taken out; a panic elsewhere leaves nothing half done.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the page until the daemon stops. What keeps it from being served is said and tried again; nothing else depends on it.
pub(crate) async fn run(daemon: Daemon, page: PageConfig, first: Option<TcpListener>) {
    let note = daemon.health().note("page");
    let (stop, app) = (daemon.stopping().clone(), App::new(daemon.clone(), &page));
    daemon.tracker().spawn(app.pulse.clone().run(daemon.link().clone(), stop.clone()));
    let mut listener = first;
    while !stop.is_cancelled() {
        let served = async {
            let listener = match listener.take() {
                Some(listener) => listener,
                None => bind(&daemon, page.listen).await?,
            };
            note.ok();
            serve(&app, &page, listener).await
        };
        match served.await {
            Ok(()) => break,
            Err(error) => {
                tracing::error!(%error, "the page for people at the site is not served; trying again");
                note.fail(error.to_string());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => break,
        }
    }
    note.retire();
}

/// Listens where the page is, and tells the daemon where that is.
pub(crate) async fn bind(daemon: &Daemon, address: SocketAddr) -> Result<TcpListener, PageError> {
    let listener = monitoring::bind(address).await?;
    daemon.page_is_at(listener.local_addr().unwrap_or(address));
    Ok(listener)
}

async fn serve(app: &Arc<App>, page: &PageConfig, listener: TcpListener) -> Result<(), PageError> {
    let config = match app.is_tls {
        true => Some(server(app, page).await?),
        false => None,
    };
    // Nobody replaces it: it is made once.
    let (_certificates, config) = match config {
        Some(config) => {
            let (sender, receiver) = watch::channel(config);
            (Some(sender), Some(receiver))
        }
        None => (None, None),
    };
    let stop = app.daemon.stopping().clone();
    look::serve::serve(listener, routes::router(app.clone()), config, stop.cancelled_owned())
        .await
        .map_err(PageError::Serve)
}

async fn server(app: &Arc<App>, page: &PageConfig) -> Result<Arc<ServerConfig>, PageError> {
    let (directory, page) = (app.daemon.config().state.clone(), page.clone());
    let certificate = blocking(move || Certificate::load_or_make(&directory, &page)).await?;
    Ok(certificate.server()?)
}
