//! Questions to a cloud: one client for all, with deadlines, limits, and patience for what passes.
//!
//! An attempt that got no answer, was cut or was told to wait is made again after a pause that doubles, with a random part so that many gateways do not
//! come back at the same moment ("full jitter", AWS Architecture Blog, 2015), or after what `Retry-After` says. A service that says "no" is asked once.
//!
//! Every adapter's requests are safe to repeat: they name what they make by a token or a name of the run, or they look first.

use crate::error::{Retry, TargetError, is_passing};
use crate::pause::Stop;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{HeaderMap, Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How long and how often a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Attempts in all.
    pub attempts: u32,
    /// The first pause at most; each further one may be twice as long.
    pub first: Duration,
    /// A pause at most.
    pub longest: Duration,
    /// For one attempt, from connecting to the last byte of its answer.
    pub answer: Duration,
    /// For connecting.
    pub connect: Duration,
}

impl Default for Patience {
    /// Together some four minutes of pauses: longer than a service takes to be restarted, shorter than a night.
    fn default() -> Self {
        Patience {
            attempts: 10,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
            answer: Duration::from_secs(120),
            connect: Duration::from_secs(15),
        }
    }
}

/// Bytes of an answer at most, where the question does not say otherwise. Lists of a cloud come in pages far below that.
pub const MOST_ANSWER: u64 = 16 << 20;
/// Bytes a second below which an upload is given up: less than any line into a cloud carries, so that only one that stands still is.
pub const SLOWEST_UPLOAD: u64 = 256 << 10;
/// Characters of a service's own words in a message of ours.
const MOST_SAID: usize = 300;

/// What a service is asked through.
#[derive(Clone)]
pub struct Client {
    service: String,
    agent: ureq::Agent,
    patience: Patience,
    rate: Option<Arc<DefaultDirectRateLimiter>>,
    stop: Stop,
    passing: fn(&Reply) -> bool,
}

/// A service's answer.
#[derive(Debug)]
pub struct Reply {
    /// The status: one of those that were said to be fine.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// Which attempt it answers: behind the first one, the service may have done before what it refuses now.
    pub attempt: u32,
}

/// How a client is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Patience.
    pub patience: Patience,
    /// Requests a second at most.
    pub requests: Option<NonZeroU32>,
    /// A file of PEM certificates of authorities to trust besides the system's.
    pub authorities: Option<std::path::PathBuf>,
    /// Ends waiting.
    pub stop: Stop,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.service)
    }
}

impl Client {
    /// A client; `service` is its name in messages.
    ///
    /// # Errors
    /// [`TargetError::Io`] for a file of authorities that cannot be read.
    pub fn new(service: &str, options: &Options) -> Result<Client, TargetError> {
        let mut roots = system_roots();
        if let Some(path) = &options.authorities {
            let pem = std::fs::read(path).map_err(TargetError::io("read", path))?;
            let own = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
                Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            roots.extend(own);
        }
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_connections_per_host(64)
            .timeout_connect(Some(options.patience.connect))
            .timeout_global(Some(options.patience.answer))
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let rate = options.requests.map(|most| Arc::new(RateLimiter::direct(Quota::per_second(most))));
        let (patience, stop) = (options.patience, options.stop.clone());
        Ok(Client { service: service.to_owned(), agent, patience, rate, stop, passing: |_| false })
    }

    /// The same for a service that says "not now" in a way of its own, besides the statuses of HTTP: `passing` tells such an answer. When patience is over
    /// it is refused as 429 is.
    #[must_use]
    pub fn with_passing(self, passing: fn(&Reply) -> bool) -> Client {
        Client { passing, ..self }
    }

    /// The service's name in messages.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// What ends waiting.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Asks until there is an answer that is none of those that pass. `make` makes the request anew for each attempt (signatures and tokens age).
    /// Answers below 400 and those in `fine` come back, all others are [`TargetError::Refused`].
    ///
    /// # Errors
    /// [`TargetError::Unreachable`] when patience is over, [`TargetError::Refused`] when the service says no, [`TargetError::Cancelled`].
    pub fn ask(
        &self,
        fine: &[u16],
        make: impl FnMut() -> Result<Request<Vec<u8>>, TargetError>,
    ) -> Result<Reply, TargetError> {
        self.ask_for(fine, MOST_ANSWER, make)
    }

    /// The same for an answer of at most `most` bytes.
    pub fn ask_for(
        &self,
        fine: &[u16],
        most: u64,
        mut make: impl FnMut() -> Result<Request<Vec<u8>>, TargetError>,
    ) -> Result<Reply, TargetError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            self.take_turn()?;
            let request = make()?;
            let asked = format!("{} {}", request.method(), request.uri().path());
            let (said, told) = match self.once(request, most, attempt) {
                Ok(reply) if reply.status < 400 || fine.contains(&reply.status) => return Ok(reply),
                Ok(reply) if is_passing(reply.status) && attempt < self.patience.attempts => {
                    (format!("{} {}", reply.status, reply.said()), retry_after(&reply.headers))
                }
                Ok(reply) => {
                    let said = reply.said();
                    let service = self.service.clone();
                    return Err(TargetError::Refused { service, asked, status: reply.status, said });
                }
                Err(said) if attempt < self.patience.attempts => (said, None),
                Err(said) => {
                    let service = self.service.clone();
                    return Err(TargetError::Unreachable { service, asked, attempts: attempt, said });
                }
            };
            let pause = told.map_or_else(|| self.pause(attempt), |told| told.min(self.patience.longest));
            tracing::debug!(service = self.service, asked, attempt, ?pause, said, "asked again after a pause");
            if !self.stop.wait(pause) {
                return Err(TargetError::Cancelled);
            }
        }
    }

    /// For what must not be made twice, where the service knows no tokens: `make` asks once, by the client that it is given, and before it is tried
    /// again `look` says whether the last attempt did it after all.
    ///
    /// # Errors
    /// Those of `look` and `make`.
    pub fn make_once<T>(
        &self,
        mut look: impl FnMut() -> Result<Option<T>, TargetError>,
        mut make: impl FnMut(&Client) -> Result<T, TargetError>,
    ) -> Result<T, TargetError> {
        let once = Client { patience: Patience { attempts: 1, ..self.patience }, ..self.clone() };
        let mut attempt = 0;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            attempt += 1;
            match make(&once) {
                Err(error) if error.retry() == Retry::Later && attempt < self.patience.attempts => {
                    if !self.stop.wait(self.pause(attempt)) {
                        return Err(TargetError::Cancelled);
                    }
                }
                made => return made,
            }
        }
    }

    /// Sends a file as the body of a request, in one attempt: who calls knows how to begin anew. It may take as long as the bytes need at
    /// [`SLOWEST_UPLOAD`].
    ///
    /// # Errors
    /// Those of [`ask`](Client::ask), and [`TargetError::Io`] for a file that cannot be looked at.
    pub fn send_file(&self, fine: &[u16], request: Request<()>, file: &File) -> Result<Reply, TargetError> {
        self.take_turn()?;
        let asked = format!("{} {}", request.method(), request.uri().path());
        let service = self.service.clone();
        let unreachable =
            |said| TargetError::Unreachable { service: service.clone(), asked: asked.clone(), attempts: 1, said };
        let len = file.metadata().map_err(|error| unreachable(error.to_string()))?.len();
        let (mut parts, ()) = request.into_parts();
        parts.headers.insert("content-length", len.into());
        let mut body = file;
        let request = Request::from_parts(parts, ureq::SendBody::from_reader(&mut body));
        let longest = self.patience.answer + Duration::from_secs(len / SLOWEST_UPLOAD);
        let request = self.agent.configure_request(request).timeout_global(Some(longest)).build();
        match self.read(self.agent.run(request), MOST_ANSWER, 1).map_err(unreachable)? {
            reply if reply.status < 400 || fine.contains(&reply.status) => Ok(reply),
            reply => Err(TargetError::Refused { status: reply.status, said: reply.said(), service, asked }),
        }
    }

    /// Asks again and again until `look` finds what it waits for in an answer; for work that a service does in its own time. `longest` counts the pauses,
    /// not the answers.
    pub fn wait_until<T>(
        &self,
        what: &str,
        longest: Duration,
        mut look: impl FnMut() -> Result<Option<T>, TargetError>,
    ) -> Result<T, TargetError> {
        let (mut pause, mut waited) = (Duration::from_millis(100), Duration::ZERO);
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if waited >= longest {
                return Err(TargetError::Answer {
                    service: self.service.clone(),
                    asked: what.to_owned(),
                    said: format!("it did not come about within {} s; look at the service", longest.as_secs()),
                });
            }
            if !self.stop.wait(pause) {
                return Err(TargetError::Cancelled);
            }
            waited += pause;
            pause = (pause * 3 / 2).min(Duration::from_secs(3));
        }
    }

    fn take_turn(&self) -> Result<(), TargetError> {
        let Some(rate) = &self.rate else { return Ok(()) };
        while let Err(not_until) = rate.check() {
            let wait = not_until.wait_time_from(governor::clock::Clock::now(&governor::clock::DefaultClock::default()));
            if !self.stop.wait(wait) {
                return Err(TargetError::Cancelled);
            }
        }
        Ok(())
    }

    fn once(&self, request: Request<Vec<u8>>, most: u64, attempt: u32) -> Result<Reply, String> {
        self.read(self.agent.run(request), most, attempt)
    }

    fn read(&self, reply: Result<Response<ureq::Body>, ureq::Error>, most: u64, attempt: u32) -> Result<Reply, String> {
        let (parts, body) = reply.map_err(|error| error.to_string())?.into_parts();
        let mut bytes = Vec::new();
        body.into_reader().take(most + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() as u64 > most {
            return Err(format!("an answer of more than {most} bytes"));
        }
        let mut reply = Reply { status: parts.status.as_u16(), headers: parts.headers, body: bytes, attempt };
        if (self.passing)(&reply) {
            reply.status = 429;
        }
        Ok(reply)
    }

    /// A random pause, twice as long at most as the one before.
    fn pause(&self, attempt: u32) -> Duration {
        let most = self.patience.first.saturating_mul(1 << (attempt - 1).min(16)).min(self.patience.longest);
        let mut random = [0; 4];
        getrandom::fill(&mut random).expect("the operating system has a random source");
        // Never nothing: half of it at least, so that a service that is coming up is left alone for a moment.
        most / 2 + most.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX)) / 2
    }
}

impl Reply {
    /// One header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The service's own words, in one line, shortened.
    fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(4096)]).into_owned();
        let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.chars().filter(|c| !c.is_control()).take(MOST_SAID).collect::<String>() {
            line if line.is_empty() => "without a word".into(),
            line => line,
        }
    }
}

/// Seconds that a service asks to wait. Dates are not read: the machine's clock may be off.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get("retry-after")?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The authorities that the system trusts; none where it has no such file, then only those of the target are.
fn system_roots() -> Vec<Certificate<'static>> {
    const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
    let Ok(pem) = std::fs::read(BUNDLE) else { return Vec::new() };
    let certificate = |item| match item {
        Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    ureq::tls::parse_pem(&pem).filter_map(certificate).collect()
}
