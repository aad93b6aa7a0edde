//! What edges tell: pages for Prometheus, survival of a restart, and what is not believed.

use crate::edge::{Control, Edge};
use crate::world::World;
use dedupe::LineageId;
use wire::message::{EdgeStatus, FromEdge, FromGateway, Refusal};
use wire::telemetry::{SiteFigures, Teller, VolumeFigures, VolumeState};

fn site(uptime: u32) -> SiteFigures {
    SiteFigures { uptime, allowed: 1_600_000, reason: 7, sent: 4_000, policy: 3, volumes: 2, ..SiteFigures::default() }
}

fn volume(lineage: LineageId, left: u64) -> VolumeFigures {
    VolumeFigures {
        lineage,
        state: VolumeState::Sending,
        captured: 1_795_794_000,
        size: 1 << 30,
        changed: 4096,
        raw: 4096,
        coded: 1000,
        left,
        arrives: 0,
        deadline: 0,
        class: 1,
        weight: 10,
    }
}

/// Says it with a status; the answer to that comes when both were taken in.
async fn tell(control: &mut Control, teller: &mut Teller, site: &SiteFigures, volumes: &[VolumeFigures]) {
    control.say(FromEdge::Telemetry(teller.tell(site, volumes))).await;
    let answer = control.ask(FromEdge::Status(EdgeStatus::default())).await;
    assert!(matches!(answer, FromGateway::Time { .. }), "{answer:?}");
}

async fn newest(world: &World, name: &str) -> Edge {
    let mut edge = Edge::enrol(world, name).await;
    edge.alpn = vec![b"sluice/3".to_vec()];
    edge
}

#[test]
fn what_an_edge_tells_is_on_its_page_and_survives_a_restart() {
    let mut world = World::new();
    let page = "/metrics/site/bank/b1";
    let edge = world.run(newest(&world, "b1"));
    let silent = world.get(page);
    assert!(silent.starts_with("HTTP/1.1 503") && silent.contains("has not told anything yet"), "{silent}");
    let (lineage, stranger) = (LineageId([5; 16]), LineageId([6; 16]));
    world.run(async {
        let mut control = edge.control(&world).await;
        control.announce(lineage, "core-db").await;
        let mut teller = Teller::default();
        for uptime in [60, 120] {
            tell(&mut control, &mut teller, &site(uptime), &[volume(lineage, 7), volume(stranger, 8)]).await;
        }
    });
    let has = |text: &str, line: &str| assert!(text.lines().any(|have| have == line), "no `{line}` in\n{text}");
    let check = |text: &str| {
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("content-type: text/plain; version=0.0.4"), "{text}");
        has(text, "sluice_edge_uptime_seconds 120");
        has(text, "sluice_link_allowed_bits_per_second 1600000");
        has(text, "sluice_edge_limited_by{reason=\"schedule\"} 1");
        has(text, "# TYPE sluice_link_sent_bytes_total counter");
        has(text, "sluice_edge_volume_left_bytes{volume=\"core-db\"} 7");
        assert_eq!(text.matches("sluice_edge_volume_left_bytes{").count(), 1, "the other was never announced\n{text}");
    };
    check(&world.get(page));
    world.restart();
    check(&world.get(page));
    let unknown = world.get("/metrics/site/bank/b9");
    assert!(unknown.starts_with("HTTP/1.1 404") && unknown.contains("there is no site"), "{unknown}");
}

#[test]
fn service_discovery_lists_who_is_enrolled_and_not_revoked() {
    let world = World::new();
    world.token("only-a-token");
    world.run(async {
        Edge::enrol(&world, "b1").await;
        Edge::enrol(&world, "b2").await;
    });
    world.ask(sluice_gateway::admin::Request::Revoke { site: "b2".into() }).unwrap();
    let answer = world.get("/sd");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
    let expected = r#"[{"targets":["x"],"labels":{"__metrics_path__":"/metrics/site/bank/b1","instance":"bank/b1","site":"b1","tenant":"bank"}}]"#;
    assert_eq!(body, expected);
}

#[test]
fn nobody_speaks_for_the_volumes_of_another_site() {
    let world = World::new();
    let (mine, theirs) = (LineageId([1; 16]), LineageId([2; 16]));
    world.run(async {
        let (one, two) = (newest(&world, "one").await, newest(&world, "two").await);
        let mut other = two.control(&world).await;
        other.announce(theirs, "theirs").await;
        let mut control = one.control(&world).await;
        control.announce(mine, "mine").await;
        control.announce(theirs, "theirs").await;
        tell(&mut control, &mut Teller::default(), &site(60), &[volume(mine, 1), volume(theirs, 2)]).await;
    });
    let page = world.get("/metrics/site/bank/one");
    assert!(page.contains("{volume=\"mine\"}") && !page.contains("theirs"), "{page}");
    assert!(world.get("/metrics/site/bank/two").starts_with("HTTP/1.1 503"), "it told nothing itself");
}

#[test]
fn telemetry_that_follows_from_nothing_or_is_of_a_later_version_ends_the_session() {
    let world = World::new();
    world.run(async {
        let mut edge = newest(&world, "b1").await;
        let mut teller = Teller::default();
        teller.tell(&site(60), &[volume(LineageId([1; 16]), 1)]);
        let second = FromEdge::Telemetry(teller.tell(&site(120), &[volume(LineageId([1; 16]), 2)]));
        let why = "telemetry names volume 0, which it did not introduce, or introduces it twice";
        let heard = edge.control(&world).await.ask(second.clone()).await;
        assert_eq!(heard, FromGateway::Bye { why: Refusal::Protocol(why.into()) });
        edge.alpn = vec![b"sluice/2".to_vec()];
        edge.instance += 1;
        let why = "telemetry exists since version V3, and this session speaks V2";
        let heard = edge.control(&world).await.ask(second).await;
        assert_eq!(heard, FromGateway::Bye { why: Refusal::Protocol(why.into()) });
    });
}
