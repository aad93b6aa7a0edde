//! Enrolment: a one-time token is exchanged for a certificate.
//!
//! The key is made here and never leaves. The gateway is known by the fingerprint of its authority in the token, so nobody in between can answer in its
//! place; the gateway knows the edge by the token's secret. Nothing is stored before the gateway has agreed.

use crate::config::Config;
use crate::identity::{Credentials, Identity, IdentityFileError};
use crate::line::held;
use dedupe::UnixMillis;
use shaping::{Role, Shaper};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use wire::clock::{KnownTime, machine_time};
use wire::identity::{IdentityError, Key};
use wire::message::{EnrolReply, EnrolRequest};
use wire::stream::{self, CloseCode, Ended, FrameReader, FrameWriter, StreamError};
use wire::token::Token;

/// For one address: a handshake and one question, on the slowest of lines.
const WITHIN: Duration = Duration::from_secs(40);

/// Why an edge could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// A key could not be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] IdentityError),
    /// No gateway of the token answered.
    #[error("no gateway of the token could be reached; {}; check the line and the firewall (UDP)", .0.join("; "))]
    Unreached(Vec<String>),
    /// The gateway refuses.
    #[error(
        "the gateway refuses to enrol this edge: {0}; a token works once and for a limited time: get a new one with `sluice-gateway token`"
    )]
    Refused(String),
    /// The gateway's certificate does not fit the key that was made.
    #[error("the gateway at {0} answered with a certificate that does not fit; get a new token")]
    Misfit(String),
    /// The identity could not be stored. The token is used up.
    #[error("the gateway enrolled this edge, but {0}; repair that and enrol again with a new token")]
    Store(IdentityFileError),
    /// The policy of before is still there. The token is used up.
    #[error(
        "the gateway enrolled this edge, but the policy of before cannot be removed ({0}); remove policy.json from the state directory and enrol again with a new token"
    )]
    Forget(std::io::Error),
}

/// What enrolment is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The key of this edge is made.
    Key,
    /// A gateway is asked.
    Asking {
        /// Which.
        address: String,
    },
    /// What it gave is stored.
    Storing,
}

/// Enrols the edge of `config` with a token, and returns the site's name. An identity that is there already is replaced.
pub async fn enrol(config: &Config, token: &Token) -> Result<String, EnrolError> {
    enrol_showing(config, token, |_| ()).await
}

/// The same; `show` is told each step when it begins.
pub async fn enrol_showing(config: &Config, token: &Token, show: impl Fn(Step)) -> Result<String, EnrolError> {
    show(Step::Key);
    let key = Key::generate()?;
    let request = EnrolRequest { token: token.id, secret: *token.secret.reveal(), request: key.request()? };
    let mut failures = Vec::new();
    for address in &token.addresses {
        show(Step::Asking { address: address.clone() });
        let asked = tokio::time::timeout(WITHIN, ask(config, token, address, &request)).await;
        match asked.unwrap_or_else(|_| Err(format!("{address}: no answer within {} s", WITHIN.as_secs()))) {
            Ok(EnrolReply::Refused { why }) => return Err(EnrolError::Refused(why)),
            Ok(EnrolReply::Enrolled { site, certificate, authorities, addresses }) => {
                if !key.fits(&certificate) || authorities.is_empty() || addresses.is_empty() {
                    return Err(EnrolError::Misfit(address.clone()));
                }
                let credentials = Credentials {
                    site: site.clone(),
                    certificate,
                    authorities,
                    addresses,
                    received_at: machine_time(),
                };
                show(Step::Storing);
                // The policy of an earlier site or gateway is none of this one's.
                held::forget(&config.state).map_err(EnrolError::Forget)?;
                Identity::store(&config.state, &key, &credentials).map_err(EnrolError::Store)?;
                return Ok(site);
            }
            Err(why) => failures.push(why),
        }
    }
    Err(EnrolError::Unreached(failures))
}

async fn ask(config: &Config, token: &Token, address: &str, request: &EnrolRequest) -> Result<EnrolReply, String> {
    let peers = tokio::net::lookup_host(address).await.map_err(|error| format!("cannot resolve {address}: {error}"))?;
    let mut last = format!("{address} has no address");
    for peer in peers {
        match exchange(config, token, peer, request).await {
            Ok(reply) => return Ok(reply),
            Err(why) => last = format!("{address} ({peer}): {why}"),
        }
    }
    Err(last)
}

async fn exchange(
    config: &Config,
    token: &Token,
    peer: SocketAddr,
    request: &EnrolRequest,
) -> Result<EnrolReply, String> {
    let local: SocketAddr =
        if peer.is_ipv6() { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
    let shaper = Shaper::new(config.rate.unwrap_or(shaping::Rate::Closed));
    let socket = shaping::bind(local, Role::Control, &shaper).map_err(|error| format!("no socket: {error}"))?;
    let endpoint = shaping::endpoint(socket, shaping::endpoint_config(), None).map_err(|error| error.to_string())?;
    let mut client = wire::tls::enrolment(token.authority, Arc::new(KnownTime::new(UnixMillis(0))));
    client.transport_config(Arc::new(shaping::edge_control_transport()));
    let connecting =
        endpoint.connect_with(client, peer, wire::tls::server_name()).map_err(|error| error.to_string())?;
    let connection = connecting.await.map_err(|error| explain(stream::ended(&error)))?;
    let reply = talk(&connection, request).await.map_err(|error| error.to_string());
    stream::close(&connection, CloseCode::Done, "");
    // Lets the close leave, so that the gateway need not wait for a time-out.
    let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    reply
}

async fn talk(connection: &quinn::Connection, request: &EnrolRequest) -> Result<EnrolReply, StreamError> {
    let (send, recv) = connection.open_bi().await.map_err(|error| stream::ended(&error))?;
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
    writer.send(request).await?;
    writer.finish();
    reader.expect().await
}

/// A wrong authority shows as a refused certificate; here that has one likely meaning.
fn explain(ended: Ended) -> String {
    match ended {
        Ended::Certificate { why, .. } => {
            format!("it is not the gateway that the token was made by (its certificate was refused: {why})")
        }
        other => other.to_string(),
    }
}
