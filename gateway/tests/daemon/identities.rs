//! Who gets in, who does not, and who is thrown out.

use crate::edge::{Edge, enrol_with, why_closed};
use crate::world::World;
use sluice_gateway::admin::{Answer, Request};
use wire::clock::machine_time;
use wire::identity::{Authority, Bearer, Key, PeerIdentity};
use wire::message::*;
use wire::stream::{self, CloseCode, Ended, Purpose};
use wire::token::{Secret, Token};

const NOT_VALID: &str =
    "the token is not valid: unknown, used already, or expired; have a new one made with `sluice-gateway token`";

#[test]
fn an_edge_enrols_once_and_says_hello() {
    let world = World::new();
    world.run(async {
        let token = world.token("branch-1");
        let key = Key::generate().unwrap();
        let first = enrol_with(world.address(), &token, &key).await.unwrap();
        assert!(matches!(first, EnrolReply::Enrolled { .. }), "{first:?}");
        assert_eq!(enrol_with(world.address(), &token, &key).await.unwrap(), first, "its answer may have been lost");
        let thief = enrol_with(world.address(), &token, &Key::generate().unwrap()).await.unwrap();
        assert_eq!(thief, EnrolReply::Refused { why: NOT_VALID.into() });
    });
    world.run(async {
        let edge = Edge::enrol(&world, "branch-2").await;
        let control = edge.control(&world).await;
        assert_eq!(control.welcome.addresses, world.daemon().announced());
        assert!(control.welcome.now >= machine_time().max(wire::clock::BUILT_AT) || control.welcome.now.0 > 0);
    });
    let Answer::Sites { sites } = world.ask(Request::Sites).unwrap() else { panic!() };
    assert_eq!(
        sites.iter().map(|line| (line.site.as_str(), line.software.as_str())).collect::<Vec<_>>(),
        [("branch-1", ""), ("branch-2", "test")]
    );
    assert!(world.metrics().contains("sluice_gateway_enrolments_total{outcome=\"refused\"} 1"));
}

#[test]
fn unknown_forged_and_expired_tokens_hear_the_same() {
    let world = World::new();
    let good = world.token("b");
    let expired = world.token_for("late", 0);
    world.run(async {
        let unknown = Token::random(good.addresses.clone(), good.authority);
        let forged = Token { secret: Secret::new([1; 32]), ..good.clone() };
        for token in [&unknown, &forged, &expired] {
            let reply = enrol_with(world.address(), token, &Key::generate().unwrap()).await.unwrap();
            assert_eq!(reply, EnrolReply::Refused { why: NOT_VALID.into() });
        }
        let other_authority = Token { authority: [3; 32], ..good.clone() };
        let refused = enrol_with(world.address(), &other_authority, &Key::generate().unwrap()).await.unwrap_err();
        assert!(matches!(refused, Ended::Certificate { by: "this end", .. }), "{refused:?}");
    });
}

#[test]
fn guessing_tokens_is_slowed_down() {
    let world = World::new();
    let token = Token::random(vec!["x:1".into()], world.token("b").authority);
    world.run(async {
        let key = Key::generate().unwrap();
        let mut last = None;
        for _ in 0..11 {
            last = Some(enrol_with(world.address(), &token, &key).await.unwrap());
        }
        assert_eq!(last, Some(EnrolReply::Refused { why: "too many attempts; wait a minute and try again".into() }));
    });
}

#[test]
fn a_revoked_edge_is_thrown_out_at_once_and_stays_out() {
    let world = World::new();
    let (edge, mut control, data) = world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        (edge, control, data)
    });
    let answer = world.ask(Request::Revoke { site: "b".into() }).unwrap();
    assert_eq!(answer, Answer::Revoked { site: "b".into(), was_connected: true });
    world.run(async {
        assert_eq!(control.hear().await, FromGateway::Bye { why: Refusal::Revoked });
        for connection in [&control.connection, &data.connection] {
            assert!(matches!(why_closed(connection).await, Ended::Closed { code: CloseCode::Revoked, .. }));
        }
        assert_eq!(edge.hello(world.address()).await.err(), Some(Refusal::Revoked));
        // A new token lets the site in again, the old certificate stays out.
        let again = Edge::enrol(&world, "b").await;
        again.control(&world).await;
        assert_eq!(edge.hello(world.address()).await.err(), Some(Refusal::Revoked));
    });
}

#[test]
fn two_edges_with_one_identity_are_told_apart_and_a_restarted_edge_is_let_in() {
    let world = World::new();
    let mut edge = world.run(Edge::enrol(&world, "b"));
    let first = world.run(edge.control(&world));
    edge.instance = 2;
    assert_eq!(world.run(edge.hello(world.address())).err(), Some(Refusal::Cloned));
    assert!(first.connection.close_reason().is_none(), "the older one stays");

    // The same run of the daemon takes its own place.
    edge.instance = 1;
    let killed = tokio::runtime::Runtime::new().unwrap();
    let second = killed.block_on(edge.control(&world));
    let replaced = world.run(why_closed(&first.connection));
    assert!(matches!(replaced, Ended::Closed { code: CloseCode::Replaced, .. }));

    // An edge that was killed answers no more: whoever comes next is let in.
    killed.shutdown_background();
    edge.instance = 3;
    world.run(edge.control(&world));
    drop(second);
}

#[test]
fn foreign_certificates_are_refused() {
    let world = World::new();
    world.run(async {
        let mut edge = Edge::enrol(&world, "b").await;
        let bearer = PeerIdentity::from_certificate(&edge.certificate).unwrap().bearer;
        let foreign = Authority::generate("foreign", dedupe::UnixMillis(1_900_000_000_000)).unwrap();
        let until = dedupe::UnixMillis(1_900_000_000_000);
        edge.certificate = foreign.sign_edge(&edge.key.request().unwrap(), bearer, until).unwrap().certificate;
        let (connection, _endpoint) = edge.dial(world.address()).await.unwrap();
        let refused = why_closed(&connection).await;
        let why = "it was signed by an authority that is not trusted".to_owned();
        assert_eq!(refused, Ended::Certificate { by: "the peer", why });
    });
}

#[test]
fn a_stolen_certificate_without_its_key_and_one_of_no_known_site_are_refused() {
    let world = World::new();
    let authority = {
        let pem = std::fs::read_to_string(world.state().join("ca/1.key")).unwrap();
        let certificate = std::fs::read(world.state().join("ca/1.crt")).unwrap();
        Authority::load(Key::from_pem(&pem).unwrap(), certificate).unwrap()
    };
    world.run(async {
        let mut edge = Edge::enrol(&world, "b").await;
        // Signed by the right authority, but never issued by this catalogue: a restored or forged one.
        let bearer = Bearer { ..PeerIdentity::from_certificate(&edge.certificate).unwrap().bearer };
        let until = dedupe::UnixMillis(1_900_000_000_000);
        edge.certificate = authority.sign_edge(&edge.key.request().unwrap(), bearer, until).unwrap().certificate;
        assert_eq!(edge.hello(world.address()).await.err(), Some(Refusal::Revoked));
    });
}

#[test]
fn certificates_are_renewed_over_control_and_the_old_one_stays_good() {
    let world = World::new();
    world.run(async {
        let mut edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let request = edge.key.request().unwrap();
        let FromGateway::Certificate { certificate, authorities } = control.ask(FromEdge::Renew { request }).await
        else {
            panic!("no certificate");
        };
        assert_eq!(authorities, edge.authorities);
        let [old, new] = [&edge.certificate, &certificate].map(|der| PeerIdentity::from_certificate(der).unwrap());
        assert_eq!(old.bearer, new.bearer);
        assert_ne!(old.serial, new.serial);
        edge.control(&world).await;
        edge.certificate = certificate;
        edge.control(&world).await;
    });
}

#[test]
fn an_authority_is_replaced_without_visiting_the_branch() {
    use sluice_gateway::admin::Authority as Do;
    let world = World::new();
    let act = |what: Do| world.ask(Request::Authority(what)).unwrap();
    let renew = |edge: &mut Edge| {
        world.run(async {
            let mut control = edge.control(&world).await;
            let request = edge.key.request().unwrap();
            let FromGateway::Certificate { certificate, authorities } = control.ask(FromEdge::Renew { request }).await
            else {
                panic!("no certificate");
            };
            (edge.certificate, edge.authorities) = (certificate, authorities);
        });
    };
    let mut edge = world.run(Edge::enrol(&world, "b"));
    act(Do::Add);
    renew(&mut edge);
    assert_eq!(edge.authorities.len(), 2);
    act(Do::Use(2));
    renew(&mut edge);
    act(Do::Retire(1));
    renew(&mut edge);
    assert_eq!(edge.authorities.len(), 1);
    let refused = world.ask(Request::Authority(Do::Retire(2))).unwrap_err();
    assert_eq!(refused, "authority 2 still signs; let another one sign first: `sluice-gateway authority use NUMBER`");
}

#[test]
fn versions_are_negotiated_and_strangers_refused() {
    let world = World::new();
    world.run(async {
        let mut edge = Edge::enrol(&world, "b").await;
        edge.alpn = vec![b"sluice/1".to_vec()];
        let mut old = edge.control(&world).await;
        let why =
            Refusal::Protocol("a question about marks exists since version V2, and this session speaks V1".into());
        let asked = old.ask(FromEdge::Ask(Ask { id: 1, marks: vec![] })).await;
        assert_eq!(asked, FromGateway::Bye { why });
        edge.alpn = vec![b"sluice/3".to_vec(), b"sluice/2".to_vec()];
        edge.control(&world).await;
        edge.alpn = vec![b"sluice/9".to_vec()];
        assert_eq!(edge.dial(world.address()).await.err(), Some(Ended::NoCommonVersion));
    });
}

#[test]
fn data_connections_join_only_their_own_session() {
    let world = World::new();
    world.run(async {
        let (one, two) = (Edge::enrol(&world, "one").await, Edge::enrol(&world, "two").await);
        let (control, _other) = (one.control(&world).await, two.control(&world).await);
        one.join(&world, control.welcome.session).await.unwrap();
        for (edge, session) in [(&two, control.welcome.session), (&one, control.welcome.session ^ 1)] {
            let refused = edge.join(&world, session).await.err().unwrap();
            let why = "there is no control session of this number and site".to_owned();
            assert_eq!(refused, Ended::Closed { code: CloseCode::Protocol, why });
        }
    });
}

#[test]
fn garbage_ends_the_session_and_nothing_else() {
    let world = World::new();
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        control.writer.raw(&u32::MAX.to_le_bytes()).await.unwrap();
        let why = "the peer announced a frame of 4294967295 bytes; at most 262144 are allowed".to_owned();
        assert_eq!(control.hear().await, FromGateway::Bye { why: Refusal::Protocol(why) });
        assert!(matches!(why_closed(&control.connection).await, Ended::Closed { code: CloseCode::Protocol, .. }));

        let (connection, _endpoint) = edge.dial(world.address()).await.unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let closed = why_closed(&connection).await;
        assert!(matches!(closed, Ended::Closed { code: CloseCode::Protocol, .. }), "{closed:?}");

        // Without a certificate a session is refused, whatever is said.
        let (connection, _endpoint) = edge.dial(world.address()).await.unwrap();
        let (mut writer, mut reader) = stream::open(&connection, Purpose::Control).await.unwrap();
        writer.send(&FromEdge::Status(EdgeStatus::default())).await.unwrap();
        let bye: FromGateway = reader.expect().await.unwrap();
        let why = Refusal::Protocol("the first message has to be a hello".into());
        assert_eq!(bye, FromGateway::Bye { why });
        edge.control(&world).await;
    });
}

#[test]
fn edges_notice_a_stopped_gateway_and_come_back() {
    let mut world = World::new();
    let (edge, control) = world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let control = edge.control(&world).await;
        (edge, control)
    });
    world.restart();
    world.run(async {
        assert!(matches!(why_closed(&control.connection).await, Ended::Closed { code: CloseCode::Stopping, .. }));
        edge.control(&world).await;
    });
}
