//! The server of pages: plain on the loopback, TLS elsewhere; bounded against whoever connects; every answer with the headers that browsers keep to.
//!
//! ```text
//!   TcpListener ──► TLS, a task for each handshake ──► places (monitoring::serve_within) ──► headers, panics ──► Router
//! ```
//!
//! Handlers get who connected as `ConnectInfo<monitoring::Peer>`, and the language of the answer as [`Language`].

use crate::page::CONTENT_POLICY;
use crate::{Asset, Language, asset};
use axum::Router;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::serve::Listener;
use axum_extra::extract::CookieJar;
use axum_extra::extract::cookie::{Cookie, SameSite};
use monitoring::{Limits, serve_within};
use rustls::ServerConfig;
use serde::Deserialize;
use std::any::Any;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower_http::catch_panic::CatchPanicLayer;

/// 40 operators with the two to six connections that a browser opens, and room. One takes some 60 kB, so all of them 15 MB.
///
/// What stands still for 60 s is cut: handlers take seconds, and streams of events say something every 15 s. A page that is being sent when the daemon stops has 5 s
/// to arrive.
const LIMITS: Limits = Limits { connections: 256, silence: Duration::from_secs(60), drain: Duration::from_secs(5) };
/// How long a handshake may take: several round trips of a bad line.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at a time. When there are so many the oldest one gives way, so that silent clients keep nobody out who answers.
const HANDSHAKES: usize = 128;
/// Where both ends of TLS begin: the type of a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// What somebody sees who forgot the `s` of `https`.
const PLAIN: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n\
    This page is served over TLS: write https:// in front of the address.\n本页面通过 TLS 提供，请在地址前加上 https://。\n";
/// The cookie of a language that a person chose.
const LANGUAGE_COOKIE: &str = "sluice-language";

/// Serves `router` on `listener` until `shutdown` completes and the open connections have ended, which takes 5 s at most.
///
/// With `tls` it is served by TLS, each connection with the configuration that the channel holds when it begins, so that a certificate may be replaced while this runs.
/// Only HTTP/1.1 is spoken.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = with_headers(router, tls.is_some());
    match tls {
        Some(config) => {
            let listener = Secure { listener, config, handshakes: JoinSet::new(), begun: VecDeque::new() };
            serve_within(listener, router, LIMITS, shutdown).await
        }
        None => serve_within(listener, router, LIMITS, shutdown).await,
    }
}

/// The router with the headers of every answer, and with panics of handlers made an answer. [`serve`] does this; tests that ask a router directly may.
pub fn with_headers(router: Router, is_tls: bool) -> Router {
    let router = router.layer(CatchPanicLayer::custom(panicked));
    router.layer(map_response(move |mut answer: Response| async move {
        let headers = answer.headers_mut();
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if is_tls {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
        }
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        answer
    }))
}

/// What every answer tells the browser: run and load nothing from elsewhere, tell no other site where the person was, let no other page embed or open it.
///
/// The referrer goes to this server: with `no-referrer` browsers send `Origin: null` with our own forms, which then look like those of a page from elsewhere.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
];

fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    // The panic itself is in the log, where the hook of the process writes it.
    tracing::error!("a page failed");
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "The server failed at this page; its log says more.\n服务器处理本页面时出错，详情见日志。\n",
    )
        .into_response()
}

/// Routes of these assets, to be kept by browsers for ever.
pub fn assets(assets: &[Asset]) -> Router {
    assets.iter().fold(Router::new(), |router, asset| {
        let (media, body) = (asset.media, asset.body);
        let headers = [(header::CONTENT_TYPE, media), (header::CACHE_CONTROL, asset::KEEP)];
        router.route(&asset.path, get(move || async move { (headers, body) }))
    })
}

impl<S: Sync> FromRequestParts<S> for Language {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Language, Infallible> {
        Ok(language(&parts.headers))
    }
}

/// The language that a person chose, else what the browser asks for.
pub fn language(headers: &HeaderMap) -> Language {
    let jar = CookieJar::from_headers(headers);
    let chosen = jar.get(LANGUAGE_COOKIE).map(Cookie::value);
    let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    Language::choose(chosen, accepted)
}

/// The route by which a person chooses a language: [`language_path`] leads there.
pub fn languages() -> Router {
    Router::new().route("/language/{code}", get(choose_language))
}

/// The link that chooses this language and comes back to `back`, a path of this server.
pub fn language_path(language: Language, back: &str) -> String {
    let mut escaped = String::new();
    for byte in back.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte.into()),
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    format!("/language/{}?back={escaped}", language.code())
}

#[derive(Deserialize)]
struct Back {
    #[serde(default)]
    back: String,
}

async fn choose_language(jar: CookieJar, Path(code): Path<String>, Query(Back { back }): Query<Back>) -> Response {
    let Some(language) = Language::from_code(&code) else { return StatusCode::NOT_FOUND.into_response() };
    let cookie = Cookie::build((LANGUAGE_COOKIE, language.code()))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .permanent()
        .build();
    (jar.add(cookie), Redirect::to(local_path(&back))).into_response()
}

/// The path, where it is one of this server: what begins with two slashes, or has a backslash or a control character, may lead elsewhere.
pub fn local_path(path: &str) -> &str {
    let is_local = path.starts_with('/')
        && !path.starts_with("//")
        && !path.contains(|c: char| c == '\\' || c.is_control())
        && path.parse::<Uri>().is_ok();
    if is_local { path } else { "/" }
}

/// A listener whose connections have their handshake behind them.
struct Secure {
    listener: TcpListener,
    config: watch::Receiver<Arc<ServerConfig>>,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
    /// Those under way, and some that are over; oldest first.
    begun: VecDeque<AbortHandle>,
}

impl Listener for Secure {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TlsStream<TcpStream>, SocketAddr) {
        loop {
            tokio::select! {
                // Whoever is ready comes before who is new; axum's accept waits and tries again when descriptors run out.
                biased;
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(secured)) = done {
                        return secured;
                    }
                }
                (stream, peer) = Listener::accept(&mut self.listener) => self.begin(stream, peer),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Secure {
    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.begun.retain(|handshake| !handshake.is_finished());
        if self.begun.len() >= HANDSHAKES
            && let Some(oldest) = self.begun.pop_front()
        {
            oldest.abort();
        }
        let config = self.config.borrow().clone();
        self.begun.push_back(self.handshakes.spawn(async move {
            let secured = tokio::time::timeout(HANDSHAKE, secure(stream, config)).await.ok().flatten()?;
            Some((secured, peer))
        }));
    }
}

async fn secure(mut stream: TcpStream, config: Arc<ServerConfig>) -> Option<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 1 && first[0] != TLS_HANDSHAKE {
        stream.write_all(PLAIN.as_bytes()).await.ok()?;
        stream.shutdown().await.ok()?;
        return None;
    }
    match TlsAcceptor::from(config).accept(stream).await {
        Ok(secured) => Some(secured),
        Err(error) => {
            // A browser that does not know the certificate yet ends so, each time it is asked to.
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
    }
}

#[cfg(test)]
mod tests;
