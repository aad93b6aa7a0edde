//! The whole edge against a small gateway made of `wire` and `dedupe`: enrolment, sessions, parcels, refusals, cuts.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "cases/appliance.rs"]
mod appliance;
mod small_gateway;

use dedupe::ByteOffset;
use sluice_edge::capture::OnReadError;
use sluice_edge::source::SourceSpec;
use sluice_edge::volumes::VolumeEntry;
use sluice_edge::{Config, Daemon};
use small_gateway::{SmallGateway, Trick};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::message::Refusal;

/// Far more than anything here takes; a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(90);

struct Edge {
    dir: tempfile::TempDir,
    daemon: Daemon,
}

fn config(dir: &Path) -> Config {
    let text = "rate = \"unlimited\"\nassume_rate = \"100 Mbit/s\"\nmemory = \"384 MiB\"\ncache = \"1 GB\"\n[http]\nlisten = \"127.0.0.1:0\"\n";
    Config::parse(&format!("state = \"state\"\npage = \"off\"\n{text}"), &dir.join("edge.toml")).unwrap()
}

impl Edge {
    async fn start(gateway: &SmallGateway) -> Edge {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        assert_eq!(sluice_edge::enrol(&config, &gateway.token()).await.unwrap(), "Branch");
        let daemon = Daemon::start(config).await.unwrap();
        Edge { dir, daemon }
    }

    async fn restart(self) -> Edge {
        let config = self.daemon.config().clone();
        self.daemon.shutdown().await;
        let daemon = Daemon::start(config).await.unwrap();
        Edge { dir: self.dir, daemon }
    }

    fn image(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.img"))
    }

    async fn add(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.image(name), bytes).unwrap();
        let entry = VolumeEntry {
            name: name.into(),
            lineage: dedupe::LineageId::random(),
            source: SourceSpec::File(self.image(name)),
            on_read_error: OnReadError::Stop,
            freeze: None,
        };
        self.daemon.add_volume(entry).await.unwrap();
    }

    async fn replicate(&self, gateway: &SmallGateway, name: &str) -> sluice_edge::CaptureReport {
        let report = tokio::time::timeout(PATIENCE, self.daemon.replicate(name)).await;
        let report = report.unwrap_or_else(|_| panic!("{:#?}", self.daemon.status())).unwrap();
        self.assert_same(gateway, name);
        report
    }

    fn assert_same(&self, gateway: &SmallGateway, name: &str) {
        let volume = self.daemon.volume(name).unwrap();
        let there = gateway.store().latest(volume.entry.lineage).unwrap().expect("a generation at the gateway");
        let view = gateway.store().view(there.id).unwrap();
        let mut bytes = vec![0; view.size().0 as usize];
        view.read(ByteOffset(0), &mut bytes).unwrap();
        assert!(bytes == std::fs::read(self.image(name)).unwrap(), "the gateway holds other bytes");
    }
}

/// Bytes like a file system's: repeating text, noise, zeroes.
fn volume(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let block = &mut [0u8; 4096];
        match state >> 62 {
            0 => {}
            1 => block.chunks_mut(16).enumerate().for_each(|(at, line)| {
                let text = format!("{:08x} order {:04}", state >> 30, at);
                let len = line.len();
                line.copy_from_slice(&text.as_bytes()[..len]);
            }),
            _ => {
                let mut noise = state;
                block.chunks_mut(8).for_each(|piece| {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    piece.copy_from_slice(&noise.to_le_bytes());
                });
            }
        }
        bytes.extend_from_slice(block);
    }
    bytes.truncate(len);
    bytes
}

fn scribble(path: &Path, places: &[u64]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    for place in places {
        file.write_all_at(&volume(8192, place * 77 + 5), *place).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_arrive_byte_for_byte_and_small() {
    let gateway = SmallGateway::start().await;
    let edge = Edge::start(&gateway).await;
    edge.add("disk", &volume(40 << 20, 1)).await;
    let seed = edge.replicate(&gateway, "disk").await;
    assert!(seed.parcels > 1 && seed.coded_bytes > 10 << 20, "{seed:?}");
    scribble(&edge.image("disk"), &[0, 5 << 20, 33 << 20]);
    let delta = edge.replicate(&gateway, "disk").await;
    assert!(delta.parcels == 1 && delta.coded_bytes < 64 << 10, "{delta:?}");
    let before = gateway.received();
    let same = edge.replicate(&gateway, "disk").await;
    assert_eq!((same.parcels, same.dirty_bytes, gateway.received()), (0, 0, before));
    let status = edge.daemon.status();
    assert!(status.volumes[0].doing.starts_with("Up to date: generation 3"), "{status:#?}");
    let exposition = edge.daemon.registry().exposition().unwrap();
    for name in [
        "sluice_link_ip_bytes_total{connection=\"data\",direction=\"up\"}",
        "sluice_edge_parcels_total{state=\"acknowledged\"}",
        "sluice_link_connected 1",
    ] {
        assert!(exposition.contains(name), "{name} in {exposition}");
    }
    edge.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_either_end_repeats_nothing_that_was_acknowledged() {
    let gateway = SmallGateway::start().await;
    let mut edge = Edge::start(&gateway).await;
    edge.add("disk", &volume(48 << 20, 2)).await;
    // The gateway takes one parcel and then has no room.
    gateway.trick(Trick::RefuseParcelsFrom(1, Refusal::NoRoom("disk full".into())));
    edge.daemon.capture("disk").await.unwrap();
    gateway.wait_for_acknowledged(1).await;
    edge = edge.restart().await;
    gateway.trick(Trick::None);
    gateway.cut();
    tokio::time::timeout(PATIENCE, edge.daemon.wait_sealed("disk")).await.expect("in time").unwrap();
    edge.assert_same(&gateway, "disk");
    assert_eq!(gateway.repeated(), 0, "an acknowledged parcel was offered again");
    edge.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_spool_file_is_found_and_coded_again() {
    let gateway = SmallGateway::start().await;
    let mut edge = Edge::start(&gateway).await;
    edge.add("disk", &volume(48 << 20, 3)).await;
    gateway.trick(Trick::RefuseParcelsFrom(0, Refusal::NoRoom("disk full".into())));
    edge.daemon.capture("disk").await.unwrap();
    gateway.wait_for_refused(1).await;
    let config = edge.daemon.config().clone();
    edge.daemon.shutdown().await;
    let spooled = std::fs::read_dir(config.state.join("spool")).unwrap().next().unwrap().unwrap().path();
    let file = std::fs::File::options().write(true).read(true).open(&spooled).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 5000).unwrap();
    gateway.trick(Trick::None);
    edge.daemon = Daemon::start(config).await.unwrap();
    tokio::time::timeout(PATIENCE, edge.daemon.wait_sealed("disk")).await.expect("in time").unwrap();
    edge.assert_same(&gateway, "disk");
    let exposition = edge.daemon.registry().exposition().unwrap();
    assert!(exposition.contains("sluice_edge_parcels_total{state=\"damaged\"} 1"), "{exposition}");
    edge.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_end_in_the_right_generation() {
    let gateway = SmallGateway::start().await;
    let edge = Edge::start(&gateway).await;
    edge.add("disk", &volume(8 << 20, 4)).await;
    edge.replicate(&gateway, "disk").await;
    let base = gateway.store().latest(edge.daemon.volume("disk").unwrap().entry.lineage).unwrap().unwrap().id;
    for (round, trick) in [
        Trick::RefuseSealOnce(Refusal::WrongRoot(dedupe::Root { scheme: dedupe::RootScheme::Blake3, hash: [0; 32] })),
        Trick::RefuseParcelOnce(Refusal::MissingBase(base)),
        Trick::RefuseParcelOnce(Refusal::Damaged("a bit".into())),
        Trick::RefuseParcelOnce(Refusal::OutOfOrder { want: 0, got: 1 }),
        Trick::CutInParcelOnce,
    ]
    .into_iter()
    .enumerate()
    {
        scribble(&edge.image("disk"), &[(round as u64) << 20, (round as u64 + 2) << 20]);
        gateway.trick(trick);
        edge.replicate(&gateway, "disk").await;
        assert!(!gateway.trick_is_left(), "round {round} was not tried");
    }
    edge.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_volumes_share_one_line_and_one_store() {
    let gateway = SmallGateway::start().await;
    let edge = Edge::start(&gateway).await;
    let bytes = volume(20 << 20, 5);
    for name in ["a", "b", "c"] {
        edge.add(name, &bytes).await;
    }
    let first = edge.replicate(&gateway, "a").await;
    for name in ["b", "c"] {
        let copy = edge.replicate(&gateway, name).await;
        assert!(copy.coded_bytes * 20 < first.coded_bytes, "{copy:?}");
    }
    edge.daemon.remove_volume("b").await.unwrap();
    assert!(edge.daemon.volume("b").is_err());
    scribble(&edge.image("c"), &[0]);
    edge.replicate(&gateway, "c").await;
    edge.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_gateway_is_found_by_its_new_address() {
    let gateway = SmallGateway::start().await;
    let edge = Edge::start(&gateway).await;
    edge.add("disk", &volume(4 << 20, 6)).await;
    edge.replicate(&gateway, "disk").await;
    gateway.announce_and_move().await;
    scribble(&edge.image("disk"), &[0]);
    edge.replicate(&gateway, "disk").await;
    edge.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_and_a_wrong_gateway_are_told_apart() {
    let gateway = SmallGateway::start().await;
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut token = gateway.token();
    token.secret = wire::token::Secret::new([9; 32]);
    let refused = sluice_edge::enrol(&config, &token).await.unwrap_err().to_string();
    assert!(refused.contains("refuses to enrol") && refused.contains("sluice-gateway token"), "{refused}");
    let mut token = gateway.token();
    token.authority = [9; 32];
    let wrong = sluice_edge::enrol(&config, &token).await.unwrap_err().to_string();
    assert!(wrong.contains("not the gateway that the token was made by"), "{wrong}");
    assert!(!config.state.join("identity.json").exists(), "nothing is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_asks_the_running_daemon() {
    use sluice_edge::admin::{AskError, Outcome, Request, ask};
    let gateway = SmallGateway::start().await;
    let edge = Edge::start(&gateway).await;
    let state = edge.daemon.config().state.clone();
    std::fs::write(edge.image("disk"), volume(4 << 20, 7)).unwrap();
    let source = SourceSpec::File(edge.image("disk"));
    let add = Request::VolumeAdd { name: "disk".into(), source, on_read_error: OnReadError::Stop, freeze: None };
    assert!(matches!(ask(&state, &add, |_| ()).await, Ok(Outcome::Volumes(names)) if names == ["disk"]));
    let again = ask(&state, &add, |_| ()).await.unwrap_err().to_string();
    assert_eq!(again, "there is a volume `disk` already; choose another name, or remove that one first");
    let wait = Request::Capture { volume: Some("disk".into()), wait: true };
    let Ok(Outcome::Captured(reports)) = ask(&state, &wait, |_| ()).await else { panic!("not captured") };
    assert!(reports[0].parcels == 1 && reports[0].coded_bytes > 0);
    edge.assert_same(&gateway, "disk");
    assert!(matches!(ask(&state, &Request::Gc { dry_run: false }, |_| ()).await, Ok(Outcome::Swept { .. })));
    assert!(matches!(ask(&state, &Request::Scrub, |_| ()).await, Ok(Outcome::Scrubbed(damages)) if damages.is_empty()));
    edge.daemon.shutdown().await;
    assert!(matches!(ask(&state, &Request::Status, |_| ()).await, Err(AskError::NotRunning(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_pack_is_mended_from_the_gateway() {
    use sluice_edge::admin::{Outcome, Request, ask};
    let gateway = SmallGateway::start().await;
    let mut edge = Edge::start(&gateway).await;
    edge.add("disk", &volume(6 << 20, 8)).await;
    edge.replicate(&gateway, "disk").await;
    let config = edge.daemon.config().clone();
    edge.daemon.shutdown().await;
    let packs = std::fs::read_dir(config.state.join("store/packs")).unwrap();
    let packs: Vec<PathBuf> = packs.flat_map(|entry| walk(entry.unwrap().path())).collect();
    let largest = packs.iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(largest, bytes).unwrap();

    edge.daemon = Daemon::start(config.clone()).await.unwrap();
    let mut sessions = edge.daemon.link().sessions();
    tokio::time::timeout(PATIENCE, sessions.wait_for(Option::is_some)).await.unwrap().unwrap();
    let Ok(Outcome::Scrubbed(damages)) = ask(&config.state, &Request::Scrub, |_| ()).await else { panic!("no answer") };
    assert!(!damages.is_empty() && damages.iter().all(|damage| damage.mended), "{damages:?}");
    let Ok(Outcome::Scrubbed(damages)) = ask(&config.state, &Request::Scrub, |_| ()).await else { panic!("no answer") };
    // The bad chunk lies in its pack until a sweep rewrites that; nothing names it any more.
    assert!(damages.iter().all(|damage| damage.what.contains("no block was found that needs it")), "{damages:?}");
    edge.daemon.shutdown().await;
}

fn walk(path: PathBuf) -> Vec<PathBuf> {
    if path.is_dir() {
        return std::fs::read_dir(path).unwrap().flat_map(|entry| walk(entry.unwrap().path())).collect();
    }
    vec![path]
}
