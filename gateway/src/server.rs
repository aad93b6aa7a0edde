//! Accepting connections, and what all of them share.

use crate::back::Back;
use crate::ca::ServerCertificate;
use crate::figures::Figures;
use crate::ingest::Pool;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::state::State;
use crate::{data, enrol, session};
use governor::clock::DefaultClock;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use quinn::{Endpoint, Incoming, ServerConfig};
use std::num::NonZeroU32;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::stream::{self, Agreed, CloseCode, Purpose};
use wire::tls::{self, GatewayIdentity, TlsError};
use wire::version::SPOKEN;

/// Connections at a time, of all kinds: two for each of two thousand edges.
const MAX_CONNECTIONS: usize = 4096;
/// From so many open connections on, an address has to prove itself before the gateway spends a signature on it.
const RETRY_FROM: usize = 256;
/// How long a handshake and the first stream may take: 60 s cover a 64 kbit/s reserve with loss.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// Attempts to enrol, per source and minute: enough for somebody who mistypes a token.
const ENROLMENTS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Certificates that a site may ask for, per hour: one is needed every two months.
const RENEWALS_PER_HOUR: NonZeroU32 = NonZeroU32::new(6).expect("not zero");
/// Sources that the limiters remember before old ones are let go.
const LIMITER_ENTRIES: usize = 10_000;

type Limiter = RateLimiter<[u8; 16], DefaultKeyedStateStore<[u8; 16]>, DefaultClock>;

/// What all connections share.
pub(crate) struct Gateway {
    pub(crate) state: Arc<State>,
    pub(crate) live: Arc<Live>,
    pub(crate) pool: Pool,
    /// What bounds the answers on the way back.
    pub(crate) back: Back,
    pub(crate) metrics: Arc<Metrics>,
    /// What is known of each site and volume, for Prometheus.
    pub(crate) figures: Figures,
    /// Everything that runs; the daemon waits for it at its end.
    pub(crate) tasks: TaskTracker,
    /// The daemon stops.
    pub(crate) stop: CancellationToken,
    /// Wakes the workers before their time.
    pub(crate) work: Notify,
    /// Addresses that edges are told.
    pub(crate) announced: Vec<String>,
    /// Bytes that stay free on the disk.
    pub(crate) reserve: u64,
    /// What the gateway's own line carries; `None`: it is no bottleneck.
    pub(crate) ingress: Option<shaping::BitsPerSec>,
    /// How connections are accepted: with a certificate of the signing authority.
    pub(crate) listening: RwLock<Arc<ServerConfig>>,
    pub(crate) enrolments: Limiter,
    pub(crate) renewals: Limiter,
}

/// Limiters for [`Gateway::enrolments`] and [`Gateway::renewals`].
pub(crate) fn limiters() -> (Limiter, Limiter) {
    let enrolments = RateLimiter::keyed(Quota::per_minute(ENROLMENTS_PER_MINUTE));
    (enrolments, RateLimiter::keyed(Quota::per_hour(RENEWALS_PER_HOUR)))
}

impl Gateway {
    /// How the next connection is accepted.
    fn server(&self) -> Arc<ServerConfig> {
        self.listening.read().expect("it is only replaced").clone()
    }

    /// Lets go what the limiters remember of long ago.
    pub(crate) fn tidy_limiters(&self) {
        for limiter in [&self.enrolments, &self.renewals] {
            if limiter.len() > LIMITER_ENTRIES {
                limiter.retain_recent();
            }
        }
    }
}

/// How QUIC listens: with a certificate of the signing authority, for edges of all trusted ones.
pub(crate) fn server_config(state: &State, certificate: &ServerCertificate) -> Result<ServerConfig, TlsError> {
    let trusted = state.authorities().trusted();
    let identity = GatewayIdentity {
        key: &certificate.key,
        issued: &certificate.issued,
        signer: &certificate.signer,
        authorities: &trusted,
    };
    let mut config = tls::gateway(&identity, &SPOKEN, state.time.clone())?;
    config.transport_config(Arc::new(shaping::gateway_transport()));
    Ok(config)
}

/// Accepts connections until the daemon stops.
pub(crate) async fn accept(gateway: Arc<Gateway>, endpoint: Endpoint) {
    loop {
        let incoming = tokio::select! {
            () = gateway.stop.cancelled() => return,
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => incoming,
                None => return,
            },
        };
        let open = endpoint.open_connections();
        if open >= MAX_CONNECTIONS {
            incoming.refuse();
        } else if open >= RETRY_FROM && !incoming.remote_address_validated() {
            let _gone = incoming.retry();
        } else {
            gateway.tasks.spawn(serve(gateway.clone(), incoming));
        }
    }
}

async fn serve(gateway: Arc<Gateway>, incoming: Incoming) {
    let from = incoming.remote_address();
    let (connecting, line) = match shaping::accept(incoming, &gateway.server()) {
        Ok(accepted) => accepted,
        Err(error) => return tracing::info!(%from, why = %stream::ended(&error), "handshake failed"),
    };
    let connection = match tokio::time::timeout(HANDSHAKE, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::info!(%from, why = %stream::ended(&error), "handshake failed"),
        Err(_) => return tracing::info!(%from, "handshake took too long"),
    };
    let refuse = |why: &str| {
        tracing::info!(%from, why, "connection refused");
        stream::close(&connection, CloseCode::Protocol, why);
    };
    let version = match stream::agreed(&connection) {
        Ok(Agreed::Enrolment) => return enrol::serve(gateway, connection).await,
        Ok(Agreed::Session(version)) => version,
        Err(error) => return refuse(&error.to_string()),
    };
    let peer = match stream::peer(&connection) {
        Ok(Some(peer)) => peer,
        Ok(None) => return refuse("a session needs a certificate; enrol the edge first"),
        Err(error) => return refuse(&error.to_string()),
    };
    let accepted = tokio::select! {
        () = gateway.stop.cancelled() => return stream::close(&connection, CloseCode::Stopping, "the gateway stops"),
        accepted = tokio::time::timeout(HANDSHAKE, stream::accept(&connection)) => accepted,
    };
    match accepted {
        Ok(Ok((Purpose::Control, writer, reader))) => {
            session::run(gateway, (connection, line), version, peer, (writer, reader)).await;
        }
        Ok(Ok((Purpose::Data, writer, reader))) => data::run(gateway, (connection, line), peer, (writer, reader)).await,
        Ok(Err(error)) => refuse(&error.to_string()),
        Err(_) => refuse("no stream was opened"),
    }
}
