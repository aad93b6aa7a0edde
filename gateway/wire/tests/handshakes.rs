//! Real QUIC connections over loopback: who gets through TLS, in which version, and what the other hears.

#![allow(clippy::unwrap_used)] // tests

use dedupe::{SiteId, TenantId, UnixMillis};
use quinn::{Connection, Endpoint};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use wire::clock::KnownTime;
use wire::identity::{Authority, Bearer, Key};
use wire::message::{FromEdge, FromGateway, Hello, Refusal};
use wire::stream::{self, Agreed, CloseCode, Ended, Purpose};
use wire::tls::{self, EdgeIdentity, GatewayIdentity, TlsError, server_name};
use wire::version::{SPOKEN, Version};

const LATER: UnixMillis = UnixMillis(1_900_000_000_000);
const BEARER: Bearer = Bearer { tenant: TenantId([1; 16]), site: SiteId([2; 16]) };

struct Pair {
    edge: Result<Connection, Ended>,
    gateway: Option<Connection>,
    _ends: [Endpoint; 2],
}

fn listen(authority: &Authority, trusted: &[Vec<u8>], versions: &[Version], clock: UnixMillis) -> Endpoint {
    let key = Key::generate().unwrap();
    let issued = authority.sign_server(&key, LATER).unwrap();
    let identity =
        GatewayIdentity { key: &key, issued: &issued, signer: authority.certificate(), authorities: trusted };
    let config = tls::gateway(&identity, versions, Arc::new(KnownTime::new(clock))).unwrap();
    Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()
}

async fn connect(gateway: Endpoint, config: quinn::ClientConfig) -> Pair {
    let edge = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = gateway.local_addr().unwrap();
    let dial = async { edge.connect_with(config, address, server_name()).unwrap().await };
    let accept = async { gateway.accept().await.unwrap().await };
    let (dialled, accepted) = tokio::join!(dial, accept);
    let mut dialled = dialled.map_err(|error| stream::ended(&error));
    if let (Ok(connection), true) = (&dialled, accepted.is_err()) {
        // TLS 1.3: the edge's half succeeds before the gateway has judged its certificate.
        dialled = Err(stream::ended(&connection.closed().await));
    }
    Pair { edge: dialled, gateway: accepted.ok(), _ends: [edge, gateway] }
}

fn edge_config(signer: &Authority, trusted: &[Vec<u8>], alpn: &[&[u8]], until: UnixMillis) -> quinn::ClientConfig {
    let key = Key::generate().unwrap();
    let issued = signer.sign_edge(&key.request().unwrap(), BEARER, until).unwrap();
    let identity = EdgeIdentity { key: &key, certificate: &issued.certificate, authorities: trusted };
    let alpn = alpn.iter().map(|name| name.to_vec()).collect();
    tls::edge_with_alpn(&identity, alpn, Arc::new(KnownTime::default())).unwrap()
}

fn authority() -> (Authority, Vec<Vec<u8>>) {
    let authority = Authority::generate("test", LATER).unwrap();
    let trusted = vec![authority.certificate().to_vec()];
    (authority, trusted)
}

const BOTH: [&[u8]; 2] = [b"sluice/2", b"sluice/1"];

#[tokio::test]
async fn an_enrolled_edge_is_known_by_its_certificate() {
    let (ca, trusted) = authority();
    let pair = connect(listen(&ca, &trusted, &SPOKEN, UnixMillis(0)), edge_config(&ca, &trusted, &BOTH, LATER)).await;
    let (edge, gateway) = (pair.edge.unwrap(), pair.gateway.unwrap());
    assert_eq!(stream::peer(&gateway).unwrap().unwrap().bearer, BEARER);
    assert_eq!(stream::agreed(&gateway), Ok(Agreed::Session(Version::V2)));
    assert_eq!(stream::agreed(&edge), Ok(Agreed::Session(Version::V2)));

    let hello = FromEdge::Hello(Hello { software: "t".into(), instance: 1, now: LATER });
    let (mut writer, mut answers) = stream::open(&edge, Purpose::Control).await.unwrap();
    writer.send(&hello).await.unwrap();
    let (purpose, mut replies, mut heard) = stream::accept(&gateway).await.unwrap();
    assert_eq!(purpose, Purpose::Control);
    assert_eq!(heard.next::<FromEdge>().await.unwrap(), Some(hello));
    let bye = FromGateway::Bye { why: Refusal::Revoked };
    replies.send(&bye).await.unwrap();
    assert_eq!(answers.expect::<FromGateway>().await.unwrap(), bye);
    stream::close(&gateway, CloseCode::Revoked, &"é".repeat(300));
    let Ended::Closed { code, why } = stream::ended(&edge.closed().await) else { panic!("not closed by the gateway") };
    assert_eq!((code, why), (CloseCode::Revoked, "é".repeat(100)));
}

#[tokio::test]
async fn two_versions_back_work_both_ways() {
    let (ca, trusted) = authority();
    type Case<'a> = (&'a [Version], &'a [&'a [u8]], Version);
    let cases: [Case<'_>; 5] = [
        (&SPOKEN, &[b"sluice/1"], Version::V1),
        (&[Version::V1], &BOTH, Version::V1),
        (&SPOKEN, &[b"sluice/7", b"sluice/3", b"sluice/2"], Version::V3),
        (&SPOKEN, &[b"sluice/7", b"sluice/2"], Version::V2),
        (&[Version::V2, Version::V1], &[b"sluice/3", b"sluice/2", b"sluice/1"], Version::V2),
    ];
    for (spoken, alpn, expected) in cases {
        let gateway = listen(&ca, &trusted, spoken, UnixMillis(0));
        let pair = connect(gateway, edge_config(&ca, &trusted, alpn, LATER)).await;
        pair.edge.unwrap();
        assert_eq!(stream::agreed(&pair.gateway.unwrap()), Ok(Agreed::Session(expected)));
    }
}

#[tokio::test]
async fn a_stranger_version_is_refused_by_name() {
    let (ca, trusted) = authority();
    let gateway = listen(&ca, &trusted, &SPOKEN, UnixMillis(0));
    let pair = connect(gateway, edge_config(&ca, &trusted, &[b"sluice/8", b"sluice/7"], LATER)).await;
    assert_eq!(pair.edge.unwrap_err(), Ended::NoCommonVersion);
}

#[tokio::test]
async fn certificates_of_another_authority_are_refused_at_both_ends() {
    let ((ours, trusted), (theirs, their_trust)) = (authority(), authority());
    let foreign_edge = edge_config(&theirs, &trusted, &BOTH, LATER);
    let pair = connect(listen(&ours, &trusted, &SPOKEN, UnixMillis(0)), foreign_edge).await;
    let why = "it was signed by an authority that is not trusted".to_owned();
    assert_eq!(pair.edge.unwrap_err(), Ended::Certificate { by: "the peer", why: why.clone() });

    let deceived = edge_config(&ours, &trusted, &BOTH, LATER);
    let pair = connect(listen(&theirs, &their_trust, &SPOKEN, UnixMillis(0)), deceived).await;
    assert_eq!(pair.edge.unwrap_err(), Ended::Certificate { by: "this end", why });
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_the_time_that_is_known() {
    let (ca, trusted) = authority();
    let ends = UnixMillis(1_890_000_000_000);
    let early = listen(&ca, &trusted, &SPOKEN, UnixMillis(0));
    assert!(connect(early, edge_config(&ca, &trusted, &BOTH, ends)).await.edge.is_ok());
    let late = listen(&ca, &trusted, &SPOKEN, UnixMillis(ends.0 + 1000));
    let refused = connect(late, edge_config(&ca, &trusted, &BOTH, ends)).await.edge.unwrap_err();
    assert!(refused.to_string().contains("expired by the clock of the end that refused it"), "{refused}");
}

#[tokio::test]
async fn a_second_authority_takes_over_without_visiting_the_branch() {
    let ((old, _), (new, _)) = (authority(), authority());
    let both = vec![new.certificate().to_vec(), old.certificate().to_vec()];
    for (signer, server) in [(&old, &old), (&old, &new), (&new, &old), (&new, &new)] {
        let gateway = listen(server, &both, &SPOKEN, UnixMillis(0));
        assert!(connect(gateway, edge_config(signer, &both, &BOTH, LATER)).await.edge.is_ok());
    }
}

#[tokio::test]
async fn enrolment_trusts_the_fingerprint_and_nothing_else() {
    let ((ca, trusted), (other, _)) = (authority(), authority());
    for (fingerprint, known) in [(ca.fingerprint(), true), (other.fingerprint(), false)] {
        let gateway = listen(&ca, &trusted, &SPOKEN, UnixMillis(0));
        let pair = connect(gateway, tls::enrolment(fingerprint, Arc::new(KnownTime::default()))).await;
        assert_eq!(pair.edge.is_ok(), known);
        if let Some(gateway) = pair.gateway {
            assert_eq!(stream::agreed(&gateway), Ok(Agreed::Enrolment));
            assert_eq!(stream::peer(&gateway).unwrap(), None);
        }
    }
}

#[test]
fn an_edge_without_authorities_is_refused_at_once() {
    let (ca, _) = authority();
    let key = Key::generate().unwrap();
    let issued = ca.sign_edge(&key.request().unwrap(), BEARER, LATER).unwrap();
    let identity = EdgeIdentity { key: &key, certificate: &issued.certificate, authorities: &[] };
    let refused = tls::edge(&identity, &SPOKEN, Arc::new(KnownTime::default())).unwrap_err();
    assert!(matches!(refused, TlsError::Authority(_)));
}
