//! Enrolment: a token and a certificate request in, a certificate out.

use crate::catalogue::{CatalogueError, Enrolled, NewCertificate, Site};
use crate::server::Gateway;
use crate::state::State;
use dedupe::{TenantId, UnixMillis};
use quinn::Connection;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use wire::identity::{Authority, Bearer, IdentityError};
use wire::message::{EnrolReply, EnrolRequest, Refusal};
use wire::stream::{self, CloseCode};
use wire::token::{Secret, Token};

/// How long an edge that enrols may take to say what it wants.
const FIRST_WORD: Duration = Duration::from_secs(30);
/// How long the answer has to arrive before the connection is closed. Lost answers are asked for again.
const FAREWELL: Duration = Duration::from_secs(10);
/// What everybody hears whose token is unknown, used, expired or forged: which of them it is would help a thief.
const NOT_VALID: &str =
    "the token is not valid: unknown, used already, or expired; have a new one made with `sluice-gateway token`";

/// Serves one enrolment connection.
pub(crate) async fn serve(gateway: Arc<Gateway>, connection: Connection) {
    let Ok(Ok((mut writer, mut reader))) = tokio::time::timeout(FIRST_WORD, stream::accept_next(&connection)).await
    else {
        return stream::close(&connection, CloseCode::Protocol, "no request for enrolment came");
    };
    let reply = match tokio::time::timeout(FIRST_WORD, reader.expect::<EnrolRequest>()).await {
        Ok(Ok(request)) => answer(&gateway, connection.remote_address().ip(), request).await,
        _ => return stream::close(&connection, CloseCode::Protocol, "no request for enrolment came"),
    };
    if writer.send(&reply).await.is_ok() {
        let _heard = tokio::time::timeout(FAREWELL, writer.finish_and_wait()).await;
    }
    stream::close(&connection, CloseCode::Done, "the enrolment is over");
}

async fn answer(gateway: &Arc<Gateway>, from: IpAddr, request: EnrolRequest) -> EnrolReply {
    let outcome = |name: &str| gateway.metrics.enrolments.with_label_values(&[name]).inc();
    if gateway.enrolments.check_key(&network_of(from)).is_err() {
        outcome("too_often");
        return EnrolReply::Refused { why: "too many attempts; wait a minute and try again".into() };
    }
    let secret = Secret::new(request.secret);
    let state = gateway.state.clone();
    let live = gateway.live.clone();
    let enrolled = move || {
        let (site, certificate, authorities) = enrol(&state, &request.token, &secret, &request.request)?;
        // An older edge of the site has no valid certificate any more, unless this was the same request again.
        let old = live.of_site(site.id);
        let superseded = old.is_some_and(|old| !state.catalogue.accepts(site.id, old.serial).unwrap_or(true));
        Ok::<_, EnrolError>((site, certificate, authorities, superseded))
    };
    match tokio::task::spawn_blocking(enrolled).await {
        Ok(Ok((site, certificate, authorities, superseded))) => {
            outcome("enrolled");
            tracing::info!(site = %site.name, id = %site.id, "enrolled");
            if superseded {
                gateway.live.end(site.id, Refusal::Revoked);
            }
            EnrolReply::Enrolled { site: site.name, certificate, authorities, addresses: gateway.announced.clone() }
        }
        Ok(Err(error)) => {
            outcome("refused");
            tracing::warn!(%from, %error, "enrolment refused");
            EnrolReply::Refused { why: told(&error) }
        }
        Err(error) => {
            tracing::error!(%error, "an enrolment ended unexpectedly");
            EnrolReply::Refused { why: "the gateway could not do it now; try again".into() }
        }
    }
}

/// Why an enrolment failed.
#[derive(Debug, thiserror::Error)]
enum EnrolError {
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Request(#[from] IdentityError),
}

fn told(error: &EnrolError) -> String {
    match error {
        EnrolError::Catalogue(CatalogueError::Token(_)) => NOT_VALID.into(),
        EnrolError::Request(error) => error.to_string(),
        EnrolError::Catalogue(_) => "the gateway could not do it now; try again".into(),
    }
}

type Papers = (Site, Vec<u8>, Vec<Vec<u8>>);

fn enrol(state: &State, token: &[u8; 16], secret: &Secret, request: &[u8]) -> Result<Papers, EnrolError> {
    let key = Authority::key_of(request)?;
    let authorities = state.authorities();
    let now = state.now();
    let sign = |site: &Site| -> Result<NewCertificate, IdentityError> {
        let bearer = Bearer { tenant: site.tenant, site: site.id };
        let issued = authorities.sign_edge(request, bearer, now, state.certificate_validity)?;
        Ok(NewCertificate { certificate: issued.certificate, serial: issued.serial, valid_until: issued.valid_until })
    };
    let Enrolled { site, certificate } = state.catalogue.enrol(token, secret, key, now, sign)??;
    Ok((site, certificate, authorities.trusted()))
}

/// Makes a token for a site of a tenant, both made if there are none. Blocks.
pub fn invite(
    state: &State,
    tenant: &str,
    site: &str,
    valid_for: Duration,
    now: UnixMillis,
) -> Result<(Token, TenantId, Site), CatalogueError> {
    let addresses = state.catalogue.addresses()?;
    let token = Token::random(addresses, state.authorities().fingerprint());
    let tenant = state.catalogue.tenant(tenant, now)?;
    let valid_until = UnixMillis(now.0.saturating_add(valid_for.as_millis() as u64));
    let site = state.catalogue.add_token(&tenant, site, &token, valid_until, now)?;
    Ok((token, tenant.id, site))
}

/// What counts as one source of attempts: an IPv4 address, or an IPv6 network of 64 bits, which is what one subscriber has.
fn network_of(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => (u128::from(v6) >> 64 << 64).to_be_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subscriber_is_one_source() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
