//! Pages and API over HTTP: what they share, and how they are served.
//!
//! ```text
//!   look::serve ──► Host, sizes ──► /api/v1   api    everything that can be asked for, as JSON
//!                                ──► /…        ui     pages, whose scripts ask the API for whatever changes something
//! ```

use crate::access::accounts;
use crate::access::sessions::{Secret, Sessions};
use crate::access::{Caller, Via};
use crate::admin::{Admin, AdminError, Answer, Request};
use crate::api;
use crate::ca::CaError;
use crate::catalogue::CatalogueError;
use crate::config::{Config, WebConfig, WebTls};
use crate::files::{self, FileError};
use crate::fleet::Fleet;
use crate::jobs::Jobs;
use crate::live::Live;
use crate::state::State;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::cookie::{Cookie, SameSite};
use governor::clock::DefaultClock;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use monitoring::{Histogram, HistogramVec, IntCounterVec, MetricError, Registry};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Bytes of a request at most: a calendar in JSON, see `policies::holidays::MAX_CALENDAR`, is the largest.
const MAX_BODY: usize = 2 << 20;
/// Attempts to sign in, for a name: who has forgotten the password tries a few, who guesses tries thousands.
const TRIES_PER_NAME: NonZeroU32 = NonZeroU32::new(5).expect("not zero");
/// And from one address, behind which a whole office may sit.
const TRIES_PER_ADDRESS: NonZeroU32 = NonZeroU32::new(20).expect("not zero");
/// Requests of one caller in a second, on top of a start of [`CALLS_AT_ONCE`]: a page makes a few, a script should not make thousands.
const CALLS_PER_SECOND: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
const CALLS_AT_ONCE: NonZeroU32 = NonZeroU32::new(400).expect("not zero");
/// What limiters remember before old entries are let go.
const LIMITER_ENTRIES: usize = 10_000;
/// Passwords that are looked at together: each takes 19 MiB and a core.
const PASSWORDS_AT_ONCE: usize = 2;
/// Upper bounds of the seconds that an answer takes.
const SECONDS: [f64; 9] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

type Limiter<K> = RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock>;

/// What pages and API share.
pub struct Web {
    /// Does what is asked.
    pub admin: Admin,
    /// What is going on.
    pub fleet: Arc<Fleet>,
    /// Long work.
    pub jobs: Arc<Jobs>,
    /// Who is signed in.
    pub sessions: Arc<Sessions>,
    /// The gateway's state.
    pub state: Arc<State>,
    /// The daemon's sessions with edges.
    pub live: Arc<Live>,
    /// How it is served.
    pub config: WebConfig,
    /// How the whole gateway is set.
    pub settings: Config,
    pub(crate) idempotency: api::Idempotency,
    pub(crate) metrics: Metrics,
    pub(crate) stop: CancellationToken,
    tries_by_name: Limiter<String>,
    tries_by_address: Limiter<IpAddr>,
    calls: Limiter<String>,
    passwords: Semaphore,
    /// The word that lets the first account be made; `None`: there are accounts.
    setup: Mutex<Option<String>>,
    /// When the certificate ends, seconds since 1970; 0: none of ours to watch.
    certificate_until: Arc<AtomicU64>,
}

/// Figures of pages and API.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) seconds: HistogramVec,
    pub(crate) logins: IntCounterVec,
}

/// Why pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The certificate of our own.
    #[error("the certificate of the pages: {0}")]
    Own(#[from] CaError),
    /// A file of the certificate that was given.
    #[error(
        "`{field}` of the pages: {path}: {why}; name a file with PEM in the gateway's configuration, under `[web]`"
    )]
    Given {
        /// `certificate` or `key`.
        field: &'static str,
        /// Which file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The two do not belong together, or TLS refuses them.
    #[error("certificate and key of the pages cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The word that lets the first account be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

/// Name of the file with the word that lets the first account be made.
pub const SETUP_FILE: &str = "setup.code";

impl Metrics {
    fn register(registry: &Registry) -> Result<Metrics, MetricError> {
        Ok(Metrics {
            requests: registry.counters(
                "sluice_api_requests_total",
                "Requests of API and pages, by route and status.",
                &["method", "route", "status"],
            )?,
            seconds: registry.histograms(
                "sluice_api_request_seconds",
                "Time to answer a request of API and pages.",
                &SECONDS,
                &["method", "route"],
            )?,
            logins: registry.counters(
                "sluice_gateway_logins_total",
                "Attempts to sign in: ok, refused, throttled.",
                &["outcome"],
            )?,
        })
    }

    pub(crate) fn timer(&self, method: &str, route: &str) -> Histogram {
        self.seconds.with_label_values(&[method, route])
    }
}

/// What [`Web::new`] is made of.
pub(crate) struct Parts {
    pub(crate) admin: Admin,
    pub(crate) state: Arc<State>,
    pub(crate) live: Arc<Live>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) settings: Config,
    pub(crate) stop: CancellationToken,
}

impl Web {
    /// What pages and API share. Where there is no account, the word that lets the first one be made is written into the state directory.
    pub(crate) fn new(parts: Parts, config: WebConfig, registry: &Registry) -> Result<Arc<Web>, crate::StartError> {
        let Parts { admin, state, live, sessions, jobs, settings, stop } = parts;
        let metrics = Metrics::register(registry)?;
        for outcome in ["ok", "refused", "throttled"] {
            metrics.logins.with_label_values(&[outcome]).inc_by(0);
        }
        let waiting = state.clone();
        registry.read_gauge(
            "sluice_gateway_approvals_waiting",
            "Changes that wait for a second person.",
            &[],
            move || waiting_approvals(&waiting),
        )?;
        let certificate_until = Arc::new(AtomicU64::new(0));
        let until = certificate_until.clone();
        registry.read_gauge(
            "sluice_gateway_http_certificate_end_timestamp_seconds",
            "When the certificate of pages and API ends; 0: they are served without one.",
            &[],
            move || until.load(Ordering::Relaxed) as f64,
        )?;
        let setup = setup_word(&state).map_err(crate::StartError::Web)?;
        Ok(Arc::new(Web {
            fleet: Arc::new(Fleet::new(state.clone(), Some(live.clone()))),
            admin,
            jobs,
            sessions,
            live,
            config,
            settings,
            idempotency: api::Idempotency::default(),
            metrics,
            stop,
            tries_by_name: RateLimiter::keyed(Quota::per_minute(TRIES_PER_NAME)),
            tries_by_address: RateLimiter::keyed(Quota::per_minute(TRIES_PER_ADDRESS)),
            calls: RateLimiter::keyed(Quota::per_second(CALLS_PER_SECOND).allow_burst(CALLS_AT_ONCE)),
            passwords: Semaphore::new(PASSWORDS_AT_ONCE),
            setup: Mutex::new(setup),
            certificate_until,
            state,
        }))
    }

    /// Everything that is served.
    pub fn router(self: &Arc<Web>) -> Router {
        let router = api::router(self.clone()).merge(crate::ui::router(self.clone()));
        router.layer(DefaultBodyLimit::max(MAX_BODY)).layer(from_fn_with_state(self.clone(), known_host))
    }

    /// Serves it until the daemon stops.
    pub(crate) async fn serve(
        self: Arc<Web>,
        listener: tokio::net::TcpListener,
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    ) {
        let stop = self.stop.clone();
        if let Err(error) = look::serve::serve(listener, self.router(), tls, stop.cancelled_owned()).await {
            tracing::error!(%error, "pages and API are served no more");
        }
    }

    /// How TLS is spoken now; `None`: it is not. Called again each day.
    pub(crate) fn tls(&self) -> Result<Option<Arc<ServerConfig>>, WebError> {
        let (chain, key) = match &self.config.tls {
            WebTls::Off => return Ok(None),
            WebTls::Own => {
                let names = self.names();
                let made =
                    self.state.authorities().pages_certificate(&names, self.state.now()).map_err(CaError::from)?;
                self.certificate_until.store(made.issued.valid_until.0 / 1000, Ordering::Relaxed);
                let key = made.key.to_rustls();
                (vec![made.issued.certificate.into(), made.signer.into()], key)
            }
            WebTls::Given { certificate, key } => {
                let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
                let chain = chain.map_err(|error| given("certificate", certificate, error.to_string()))?;
                let first =
                    chain.first().ok_or_else(|| given("certificate", certificate, "it holds no certificate".into()))?;
                self.certificate_until.store(end_of(first), Ordering::Relaxed);
                let parsed = PrivateKeyDer::from_pem_file(key).map_err(|error| given("key", key, error.to_string()))?;
                (chain, parsed)
            }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(Arc::new(config)))
    }

    /// Names under which browsers come: those of the configuration, and the loopback's.
    fn names(&self) -> Vec<String> {
        let mut names = self.config.names.clone();
        for own in ["localhost", "127.0.0.1", "::1"] {
            names.push(own.to_owned());
        }
        let address = self.config.listen.ip();
        if !address.is_unspecified() {
            names.push(address.to_string());
        }
        names.sort();
        names.dedup();
        names
    }

    /// When the certificate of the pages ends, seconds since 1970; `None`: there is none.
    pub(crate) fn certificate_ends(&self) -> Option<u64> {
        Some(self.certificate_until.load(Ordering::Relaxed)).filter(|until| *until > 0)
    }

    /// Whether connections are encrypted here.
    pub fn is_secure(&self) -> bool {
        self.config.tls != WebTls::Off
    }

    // ---- who asks

    /// The cookie of a session.
    pub(crate) fn cookie(&self, secret: &Secret) -> Cookie<'static> {
        Cookie::build((self.cookie_name(), secret.reveal().to_owned()))
            .path("/")
            .http_only(true)
            .secure(self.is_secure())
            .same_site(SameSite::Strict)
            .build()
    }

    /// The cookie that takes a session's away.
    pub(crate) fn no_cookie(&self) -> Cookie<'static> {
        let mut cookie =
            Cookie::build((self.cookie_name(), "")).path("/").http_only(true).secure(self.is_secure()).build();
        cookie.make_removal();
        cookie
    }

    /// `__Host-`: browsers take it only over TLS, for this host and all of its paths, so that no neighbour can set it.
    pub(crate) fn cookie_name(&self) -> &'static str {
        if self.is_secure() { "__Host-sluice" } else { "sluice" }
    }

    /// Whether somebody may try to sign in by this name from this address.
    pub(crate) fn may_try(&self, name: &str, address: Option<IpAddr>) -> bool {
        tidy(&self.tries_by_name);
        tidy(&self.tries_by_address);
        let by_name = self.tries_by_name.check_key(&name.to_lowercase()).is_ok();
        by_name & address.is_none_or(|address| self.tries_by_address.check_key(&address).is_ok())
    }

    /// Whether a caller has not asked too often of late.
    pub(crate) fn may_call(&self, caller: &Caller) -> bool {
        tidy(&self.calls);
        self.calls.check_key(&caller.name).is_ok()
    }

    /// Does something with passwords: on a thread of its own, two at a time.
    pub(crate) async fn with_password<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _place = self.passwords.acquire().await.expect("the semaphore is never closed");
        blocking(work).await
    }

    /// Who a bearer token speaks for.
    pub(crate) async fn of_token(&self, token: String) -> Result<Option<Caller>, CatalogueError> {
        let (state, now) = (self.state.clone(), self.state.now());
        blocking(move || accounts::caller_of_token(&state.catalogue, &token, now)).await
    }

    /// Does what is asked on a thread of its own.
    pub async fn ask(&self, caller: &Caller, request: Request) -> Result<Answer, AdminError> {
        let (admin, caller, fleet) = (self.admin.clone(), caller.clone(), self.fleet.clone());
        let looks = request.only_looks();
        blocking(move || {
            let done = admin.handle_as(&caller, request, &mut |_| true);
            if !looks {
                fleet.stale(); // whoever changed something looks at it next
            }
            done
        })
        .await
    }

    // ---- the first account

    /// Whether the first account is still to be made.
    pub fn needs_setup(&self) -> bool {
        self.setup.lock().expect("it is only replaced").is_some()
    }

    /// Whether this is the word that lets the first account be made.
    pub(crate) fn is_setup_word(&self, word: &str) -> bool {
        use subtle::ConstantTimeEq;
        let known = self.setup.lock().expect("it is only replaced");
        known.as_ref().is_some_and(|known| known.as_bytes().ct_eq(word.trim().as_bytes()).into())
    }

    /// There is an account.
    pub(crate) fn set_up(&self) {
        *self.setup.lock().expect("it is only replaced") = None;
        let _gone_already = files::remove(&self.state.folder().join(SETUP_FILE));
    }
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Web({})", self.config.listen)
    }
}

/// Somebody who is signed in by a browser as this caller.
pub(crate) fn session_caller(account: &crate::catalogue::Account) -> Caller {
    accounts::caller(account, Via::Session)
}

/// Where pages are served, for people.
pub(crate) fn address_of(config: &WebConfig, bound: SocketAddr) -> String {
    let scheme = if config.tls == WebTls::Off { "http" } else { "https" };
    match config.names.first() {
        Some(name) => format!("{scheme}://{name}:{}", bound.port()),
        None => format!("{scheme}://{bound}"),
    }
}

/// Runs what blocks on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Refuses requests for other hosts: a page elsewhere whose name was pointed here would be of another origin than ours and still be answered.
async fn known_host(
    axum::extract::State(web): axum::extract::State<Arc<Web>>,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    match host_of(request.headers(), request.uri()) {
        Some(host) if is_known(&host, &web.config.names) => next.run(request).await,
        host => {
            let said = host.unwrap_or_else(|| "no host".into());
            let text = format!(
                "This gateway is not known as `{}`: add the name to `names` under `[web]` of its configuration.\n",
                crate::text::printable(&said)
            );
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
    }
}

fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let said = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST)?.to_str().ok()?,
    };
    let without_port = match said.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => said,
    };
    Some(without_port.trim_matches(['[', ']']).to_ascii_lowercase())
}

/// An address is no name that somebody else could point here.
fn is_known(host: &str, names: &[String]) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok() || names.iter().any(|name| name == host)
}

fn tidy<K: std::hash::Hash + Eq + Clone>(limiter: &Limiter<K>) {
    if limiter.len() > LIMITER_ENTRIES {
        limiter.retain_recent();
    }
}

fn waiting_approvals(state: &State) -> f64 {
    let now = state.now();
    let approvals = state.catalogue.approvals().unwrap_or_default();
    approvals.iter().filter(|approval| approval.answer.is_none() && approval.valid_until >= now).count() as f64
}

/// The word that lets the first account be made, while there is none; the same one again after a restart.
fn setup_word(state: &State) -> Result<Option<String>, WebError> {
    let path = state.folder().join(SETUP_FILE);
    if !state.catalogue.accounts()?.is_empty() {
        let _gone_already = files::remove(&path);
        return Ok(None);
    }
    if let Ok(kept) = std::fs::read_to_string(&path)
        && kept.trim().len() >= 20
    {
        return Ok(Some(kept.trim().to_owned()));
    }
    let mut bytes = [0; 15];
    getrandom::fill(&mut bytes).expect("the operating system has a random source");
    let word = data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase();
    files::write_private(&path, format!("{word}\n").as_bytes())?;
    Ok(Some(word))
}

fn given(field: &'static str, path: &std::path::Path, why: String) -> WebError {
    WebError::Given { field, path: path.to_owned(), why }
}

fn end_of(certificate: &CertificateDer<'_>) -> u64 {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.ok().and_then(|(_, parsed)| u64::try_from(parsed.validity().not_after.timestamp()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_ports() {
        let host = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, text.parse().unwrap());
            host_of(&headers, &Uri::from_static("/")).unwrap()
        };
        assert_eq!(host("GW.example:9443"), "gw.example");
        assert_eq!(host("127.0.0.1:1"), "127.0.0.1");
        assert_eq!(host("[::1]:9443"), "::1");
        assert_eq!(host("[::1]"), "::1");
        let names = ["gw.example".to_owned()];
        for (host, known) in
            [("gw.example", true), ("::1", true), ("10.1.2.3", true), ("evil.example", false), ("", false)]
        {
            assert_eq!(is_known(host, &names), known, "{host}");
        }
    }
}
