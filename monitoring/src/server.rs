//! `/metrics` and `/health` over HTTP, for the loopback or a management network.
//!
//! There is no authentication here and nothing secret to be had: whoever may connect may read. What a stranger can do by connecting is bounded:
//! so many connections at a time, no request bodies, and what stands still or is still open a while after a shutdown is cut (`LIMITS`).

use crate::health::Health;
use crate::registry::{MetricError, Registry};
use crate::within::{Limits, serve_within};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// A monitoring system or two, a person or two, and room. A scrape takes milliseconds; scrapers that keep a connection come back within a minute or dial anew.
const LIMITS: Limits = Limits { connections: 32, silence: Duration::from_secs(90), drain: Duration::from_secs(2) };

/// Why metrics and health cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address could not be taken.
    #[error("cannot listen for HTTP on {address}: {source}{}", remedy(source))]
    Bind {
        /// The address of the configuration.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Serving ended by itself.
    #[error("serving metrics and health failed")]
    Serve(#[source] io::Error),
}

/// The next step for the operator.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process uses it: stop that, or choose another address in the configuration"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address: correct it in the configuration",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need privileges: choose a higher one in the configuration"
        }
        _ => "",
    }
}

/// Listens on `address`; port 0 takes a free one, which the listener then tells.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}

/// `GET /metrics` (Prometheus text) and `GET /health` (JSON; 200 when ready, 503 when not), to be served alone or merged with other routes.
pub fn router(registry: Registry, health: Health) -> Router {
    Router::new().route("/metrics", get(metrics).with_state(registry)).route("/health", get(report).with_state(health))
}

/// Serves [`router`] until `shutdown` completes and the open connections have ended, which takes 2 s at most.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    health: Health,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    serve_routes(listener, router(registry, health), shutdown).await
}

/// As [`serve`], with the routes of the caller: [`router`] merged with what else a monitoring system may ask.
pub async fn serve_routes(
    listener: TcpListener,
    routes: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    serve_within(listener, routes, LIMITS, shutdown).await.map_err(ServeError::Serve)
}

async fn metrics(State(registry): State<Registry>) -> Response {
    // Those of many sites take milliseconds, which a task of the runtime must not.
    match tokio::task::spawn_blocking(move || registry.exposition()).await {
        Ok(text) => exposition(text),
        Err(error) => {
            tracing::error!(%error, "reading the metrics ended unexpectedly");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The answer to a scrape.
pub fn exposition(text: Result<String, MetricError>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be read");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

async fn report(State(health): State<Health>) -> Response {
    let report = health.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::HealthReport;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    struct Running {
        address: SocketAddr,
        health: Health,
        stop: oneshot::Sender<()>,
        served: JoinHandle<Result<(), ServeError>>,
    }

    async fn start() -> Running {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (registry, health) = (Registry::new(), Health::new());
        registry.counter("sluice_test_reads_total", "Reads.").unwrap().inc_by(3);
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let served = tokio::spawn(serve(listener, registry, health.clone(), shutdown));
        Running { address, health, stop, served }
    }

    /// Status line, headers and body of one request.
    async fn ask(address: SocketAddr, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
        (head.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn metrics_are_served_as_prometheus_text() {
        let running = start().await;
        let (head, body) = ask(running.address, "GET /metrics HTTP/1.1").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("sluice_test_reads_total 3\n"), "{body}");
    }

    #[tokio::test]
    async fn health_is_503_until_all_needed_checks_are_ok() {
        let running = start().await;
        let store = running.health.check("store");
        store.fail("disk full: 0 bytes left");
        let (head, body) = ask(running.address, "GET /health HTTP/1.1").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let expected =
            r#"{"ready":false,"checks":[{"name":"store","ok":false,"needed":true,"why":"disk full: 0 bytes left"}]}"#;
        assert_eq!(body, expected);
        store.ok();
        let (head, body) = ask(running.address, "GET /health HTTP/1.1").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(serde_json::from_str::<HealthReport>(&body).unwrap(), running.health.report());
    }

    #[tokio::test]
    async fn what_is_not_asked_right_is_refused() {
        let running = start().await;
        for (request, status) in [
            ("GET /elsewhere HTTP/1.1", "404"),
            ("POST /health HTTP/1.1", "405"),
            ("DELETE /metrics HTTP/1.1", "405"),
            ("nonsense", "400"),
        ] {
            let (head, _) = ask(running.address, request).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {head}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_the_way_out() {
        let running = start().await;
        let why = bind(running.address).await.unwrap_err().to_string();
        assert!(why.contains(&running.address.to_string()), "{why}");
        assert!(why.contains("another process uses it"), "{why}");
        let why = bind("192.0.2.1:9470".parse().unwrap()).await.unwrap_err().to_string();
        assert!(why.contains("192.0.2.1:9470") && why.contains("no such address"), "{why}");
    }

    #[tokio::test]
    async fn a_shutdown_ends_serving_even_with_a_silent_client() {
        let running = start().await;
        let mut silent = TcpStream::connect(running.address).await.unwrap();
        silent.write_all(b"GET /met").await.unwrap();
        ask(running.address, "GET /health HTTP/1.1").await; // so the silent one was accepted before
        running.stop.send(()).unwrap();
        running.served.await.unwrap().unwrap();
        let read = silent.read(&mut [0; 64]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "the silent connection was cut: {read:?}");
        assert!(TcpStream::connect(running.address).await.is_err(), "the port is free again");
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_for_a_seat() {
        let running = start().await;
        let mut held = Vec::new();
        for _ in 0..LIMITS.connections {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            // An answer proves that the connection has a seat; it is kept alive after it.
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
            held.push(stream);
        }
        let mut waiting = tokio::spawn(ask(running.address, "GET /health HTTP/1.1"));
        // That nothing comes can only be seen by waiting; an answer takes less than a millisecond.
        let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
        assert!(early.is_err(), "the one beyond the limit was answered");
        held.pop();
        let (head, _) = waiting.await.unwrap();
        assert!(head.starts_with("HTTP/1.1"), "{head}");
    }
}
