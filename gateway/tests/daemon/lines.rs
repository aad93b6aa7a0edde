//! The lines to and from the sites: what goes down keeps to the policy, who sends more than it was granted is braked.

#![allow(clippy::disallowed_methods, reason = "tests of real lines, in real time")]

use crate::edge::{Control, Data, Edge, Volume, replicate};
use crate::policies::{change, hold, set};
use crate::world::World;
use dedupe::{BlockNumber, BlockRun, GenerationId, Kind};
use quinn::Connection;
use shaping::{BitsPerSec, GATEWAY_WINDOW};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wire::message::*;
use wire::stream;

/// A policy that lets 256 kbit/s down at any time.
const SLOW_DOWN: &str = "zone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\n[profiles]\nall = { up = \"1 Mbit/s\", down = \"256 kbit/s\" }\n[grid]\nmon-sun = \"00:00 all\"\n";

/// IP bytes that came over a connection.
fn received(connection: &Connection) -> u64 {
    let heard = connection.stats().udp_rx;
    heard.bytes + heard.datagrams * 28
}

fn figure(world: &World, name: &str) -> f64 {
    let metrics = world.metrics();
    let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn what_goes_down_to_a_site_keeps_to_its_policy_and_is_counted() {
    let world = World::new();
    let volume = Volume::new(3, 3 << 20);
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        control.announce(volume.lineage, "v").await;
        let generation = replicate(&volume, &mut control, &data).await;
        let allowed = "sluice_gateway_downlink_allowed_bits_per_second{site=\"b\",tenant=\"bank\"}";
        assert_eq!(figure(&world, allowed), f64::INFINITY, "without a policy");
        change(&world, set("b", SLOW_DOWN));
        assert_eq!(figure(&world, allowed), 256e3);
        let runs = (0..3).map(|run| BlockRun { first: BlockNumber(run * 16), count: 11 }).collect();
        let fetch = FromEdge::Fetch { id: 1, generation: generation.id, blocks: runs };
        let (began, before) = (Instant::now(), received(&control.connection));
        for _ in 0..2 {
            control.say(fetch.clone()).await;
        }
        for _ in 0..2 {
            loop {
                match control.hear().await {
                    FromGateway::Blocks { parcel, .. } => break assert!(parcel.len() > 30_000),
                    FromGateway::Policy(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        let (took, bytes) = (began.elapsed(), received(&control.connection) - before);
        let least = (bytes as f64 - 4_500.0) * 8.0 / 256e3;
        assert!(took.as_secs_f64() >= least, "{bytes} bytes in {took:?}");
        assert!(took.as_secs_f64() <= least * 1.5 + 1.0, "{bytes} bytes in {took:?}");
        // Closed for data; control lives on its reserve.
        change(&world, hold("b"));
        assert_eq!(figure(&world, allowed), 0.0);
        let answer = control.ask(FromEdge::Status(EdgeStatus::default())).await;
        assert!(matches!(answer, FromGateway::Policy(_) | FromGateway::Time { .. }), "{answer:?}");
        // Every byte of both connections is the site's, those of their handshakes too.
        let counted = || figure(&world, "sluice_gateway_downlink_ip_bytes_total{site=\"b\",tenant=\"bank\"}") as u64;
        let came = || received(&control.connection) + received(&data.connection);
        let began = Instant::now();
        while counted() != came() {
            assert!(began.elapsed() < Duration::from_secs(20), "{} counted, {} came", counted(), came());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

/// Bytes per second that each of two edges with work is granted.
const GRANTED: f64 = 1e6;

/// An edge that offered a generation and has a parcel without end to send.
struct Sender {
    data: Arc<Data>,
    generation: GenerationId,
    /// Bytes of parcels that were written.
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    _control: Control,
}

impl Sender {
    async fn new(world: &World, site: &str, seed: u64) -> Sender {
        let edge = Edge::enrol(world, site).await;
        let mut control = edge.control(world).await;
        let data = Arc::new(edge.data(world, &control).await);
        let volume = Volume::new(seed, 1 << 20);
        control
            .say(FromEdge::Volume(VolumeOffer { lineage: volume.lineage, kind: Kind::Volume, name: "v".into() }))
            .await;
        let generation = volume.capture();
        control.say(volume.offer(&generation)).await;
        loop {
            match control.hear().await {
                FromGateway::Accept { .. } => break,
                FromGateway::Held { .. } => {}
                FromGateway::Grant { .. } => {} // unheeded
                other => panic!("{other:?}"),
            }
        }
        let (written, stop) = (Arc::default(), Arc::default());
        Sender { data, generation: generation.id, written, stop, _control: control }
    }

    /// Sends garbage at this pace, in bytes per second, until it is stopped. What was announced never comes whole.
    fn send(&self, pace: f64) {
        let (data, generation) = (self.data.clone(), self.generation);
        let (written, stop) = (self.written.clone(), self.stop.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let piece = vec![0x5a; 16 << 10];
            for attempt in 0u8.. {
                let (mut writer, mut reader) = stream::open_next(&data.connection).await.unwrap();
                // Another hash each time, so that it begins anew.
                let len = dedupe::parcel::MAX_PARCEL as u64;
                writer.send(&DataRequest::Parcel { generation, number: 0, len, hash: [attempt; 32] }).await.unwrap();
                assert_eq!(reader.expect::<DataReply>().await.unwrap(), DataReply::From { offset: 0 });
                for _ in 0..len / piece.len() as u64 {
                    if stop.load(Relaxed) {
                        return;
                    }
                    let sent = written.load(Relaxed) as f64;
                    let ahead = sent / pace - began.elapsed().as_secs_f64();
                    tokio::time::sleep(Duration::from_secs_f64(ahead.clamp(0.0, 1.0))).await;
                    if writer.raw(&piece).await.is_err() {
                        return;
                    }
                    written.fetch_add(piece.len() as u64, Relaxed);
                }
            }
        });
    }

    /// Bytes that left.
    fn sent(&self) -> u64 {
        self.data.connection.stats().udp_tx.bytes
    }
}

/// Waits for something, at most so long.
async fn until(seconds: u64, what: &str, event: impl Fn() -> bool) {
    let began = Instant::now();
    while !event() {
        assert!(began.elapsed() < Duration::from_secs(seconds), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn an_edge_that_ignores_its_grant_is_braked_and_an_honest_one_beside_it_is_not_touched() {
    let mut world = World::new();
    world.stop();
    world.config.ingress = Some(BitsPerSec::new((2.0 * 8.0 * GRANTED) as u64));
    world.start();
    let braked = |world: &World| figure(world, "sluice_gateway_sites_braked");
    let (greedy, honest) = world.run(async {
        let greedy = Sender::new(&world, "greedy", 1).await;
        let honest = Sender::new(&world, "honest", 2).await;
        greedy.send(4.0 * GRANTED);
        honest.send(0.9 * GRANTED);
        until(30, "the brake", || braked(&world) == 1.0).await;
        (greedy, honest)
    });
    world.run(async {
        // What was promised before the brake may come at once: measured is past that.
        let promised = u64::from(GATEWAY_WINDOW);
        let (began, before, honest_before) = (Instant::now(), greedy.sent(), honest.sent());
        until(40, "the rest of it", || greedy.sent() - before >= promised + 4_000_000).await;
        let (took, honest_sent) = (began.elapsed().as_secs_f64(), honest.sent() - honest_before);
        let sent = (greedy.sent() - before) as f64;
        let window = 1.02 * GRANTED + 16_384.0;
        // A twentieth for what is sent beside the bytes of parcels.
        let most = 1.05 * (promised as f64).max(took * GRANTED + window);
        assert!(sent <= most, "{sent} bytes within {took} s of the brake");
        assert!(took >= 6.0, "unbraked, {sent} bytes take {} s", sent / (4.0 * GRANTED));
        assert!(honest_sent as f64 >= 0.85 * GRANTED * took, "the honest one sent {honest_sent} bytes in {took} s");
        assert_eq!(figure(&world, "sluice_gateway_brakes_total"), 1.0, "the honest one is not braked");
    });
    world.run(async {
        greedy.stop.store(true, Relaxed);
        until(50, "its release", || braked(&world) == 0.0).await;
        honest.stop.store(true, Relaxed);
    });
}
