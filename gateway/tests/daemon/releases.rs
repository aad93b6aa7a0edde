//! Releases: what is imported, who gets it, and what stops it.

use crate::client::{self, Client};
use crate::commands::{gateway, stderr, stdout};
use crate::edge::{Control, Data, Edge};
use crate::pages::browser;
use crate::world::World;
use dedupe::image::{self, Image, Nothing};
use dedupe::{BlockNumber, GenerationId, UnixMillis};
use release::bundle;
use release::verity::Verity;
use sluice_gateway::admin::{
    Answer, PolicyRequest, ReleaseAnswer, ReleaseRequest, Request, RolloutAnswer, RolloutRequest, Signature,
};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use wire::message::*;
use wire::release::{Appliance, Manifest, Order, PartFollows, PartWanted, ReleaseId, Role, Stage, Trial};
use wire::statement::StatementKey;
use wire::stream::{self, StreamError};

const SIZE: usize = 3 << 20;
/// A policy that lets nothing down at any time, but for what acknowledges what goes up.
const NOTHING_DOWN: &str = "zone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\n[profiles]\nall = { up = \"1 Mbit/s\", down = \"0\" }\n[grid]\nmon-sun = \"00:00 all\"\n";

/// An image, what its maker said of it, and its bundle.
struct Made {
    bytes: Vec<u8>,
    manifest: Manifest,
    text: String,
    bundle: Vec<u8>,
}

struct Old(Vec<u8>);

impl Image for Old {
    fn blocks(&self) -> u64 {
        (self.0.len() / 4096) as u64
    }

    fn read(&self, first: BlockNumber, into: &mut [u8]) -> std::io::Result<()> {
        let at = first.0 as usize * 4096;
        into.copy_from_slice(&self.0[at..at + into.len()]);
        Ok(())
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn key() -> StatementKey {
    StatementKey::read(&StatementKey::generate()).unwrap()
}

fn make(key: &StatementKey, version: &str, sequence: u64, bytes: Vec<u8>) -> Made {
    let mut verity = Verity::new([9; 32]);
    verity.update(&bytes);
    let manifest = Manifest {
        role: Role::Edge,
        version: version.into(),
        sequence,
        bytes: bytes.len() as u64,
        id: verity.finish().root(),
        salt: [9; 32],
        made: UnixMillis(1_800_000_000_000),
        next_key: None,
    };
    let text = manifest.sign(key).unwrap().to_json();
    let mut packed = Vec::new();
    bundle::write(&text, bytes.as_slice(), &mut packed, 1).unwrap();
    Made { bytes, manifest, text, bundle: packed }
}

/// Version 1, and version 2 that has 40 blocks of its own and the rest elsewhere.
fn pair(key: &StatementKey) -> (Made, Made) {
    let old = noise(1, SIZE);
    let mut new = noise(2, 40 * 4096);
    new.extend_from_slice(&old[..SIZE - 20 * 4096]);
    (make(key, "1.0", 1, old), make(key, "2.0", 2, new))
}

/// A gateway that trusts a key.
fn world(key: &StatementKey) -> World {
    let mut world = World::new();
    world.stop();
    world.config.release_keys = vec![key.public()];
    world.start();
    world
}

fn put(world: &World, name: &str, bytes: &[u8]) -> PathBuf {
    let path = world.path(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn import(world: &World, bytes: &[u8]) -> Result<Answer, String> {
    let file = put(world, "x.sluice-release", bytes);
    world.ask(Request::Release(ReleaseRequest::Import { file, uploaded: false }))
}

fn listed(world: &World) -> Vec<String> {
    let Answer::Release(ReleaseAnswer::List { releases }) = world.ask(Request::Release(ReleaseRequest::List)).unwrap()
    else {
        panic!()
    };
    releases.into_iter().map(|line| line.version).collect()
}

fn rollout(world: &World, request: RolloutRequest) -> Result<(String, Vec<(String, String)>), String> {
    let Answer::Rollout(RolloutAnswer::Shown { line, rings }) = world.ask(Request::Rollout(request))? else { panic!() };
    let steps = rings.into_iter().flat_map(|ring| ring.sites).map(|site| (site.site, site.step));
    Ok((line.state, steps.collect()))
}

fn shown(world: &World) -> (String, Vec<(String, String)>) {
    rollout(world, RolloutRequest::Show { number: None }).unwrap()
}

fn start(world: &World, release: &str, first: &[&str]) -> Result<(String, Vec<(String, String)>), String> {
    rollout(
        world,
        RolloutRequest::Start {
            release: release.into(),
            first: first.iter().map(ToString::to_string).collect(),
            second: None,
            soak_hours: Some(0),
            reason: "monthly".into(),
        },
    )
}

fn runs(made: &Made) -> Appliance {
    Appliance {
        release: made.manifest.id,
        version: made.manifest.version.clone(),
        sequence: made.manifest.sequence,
        confirmed: true,
        previous: None,
        stage: Stage::Idle,
        last: None,
    }
}

async fn enrol(world: &World, site: &str) -> Edge {
    Edge { alpn: vec![b"sluice/5".to_vec()], ..Edge::enrol(world, site).await }
}

/// Says what a site runs; what it is to run.
async fn report(control: &mut Control, appliance: Appliance) -> Option<Order> {
    control.say(FromEdge::Appliance(appliance)).await;
    order(control).await
}

async fn order(control: &mut Control) -> Option<Order> {
    match control.hear().await {
        FromGateway::Release(order) => order,
        other => panic!("{other:?}"),
    }
}

fn wanted(made: &Made, base: Option<&Made>, part: u32) -> PartWanted {
    let base = base.map(|base| base.manifest.id);
    PartWanted { release: made.manifest.id, base, part, have: None }
}

/// Asks once; the answer and what follows it, or so many bytes of that before the line is cut.
async fn ask(data: &Data, wanted: PartWanted, most: Option<usize>) -> Result<(DataReply, Vec<u8>), StreamError> {
    let (mut writer, mut reader) = stream::open_next(&data.connection).await?;
    writer.send(&DataRequest::Part(wanted)).await?;
    writer.finish();
    let reply = reader.expect().await?;
    let mut bytes = Vec::new();
    while most.is_none_or(|most| bytes.len() < most)
        && let Some(piece) = reader.raw().await?
    {
        bytes.extend_from_slice(&piece);
    }
    Ok((reply, bytes))
}

/// Asks until the delta is made.
async fn part(data: &Data, wanted: PartWanted, most: Option<usize>) -> (PartFollows, Vec<u8>) {
    loop {
        match ask(data, wanted, most).await.unwrap() {
            (DataReply::Part(follows), bytes) => return (follows, bytes),
            (DataReply::Later { why: Wait::Busy, .. }, _) => tokio::time::sleep(Duration::from_millis(50)).await,
            other => panic!("{other:?}"),
        }
    }
}

fn applied(old: &dyn Image, parts: &[Vec<u8>], len: usize) -> Vec<u8> {
    let (mut next, mut bytes) = (BlockNumber(0), Vec::new());
    for (number, part) in parts.iter().enumerate() {
        let blocks = (len / 4096) as u64;
        next = image::apply(part, number as u32, next, blocks, old, |_, piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
    }
    bytes
}

fn bytes_below(folder: &std::path::Path) -> u64 {
    let size = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => bytes_below(&entry.path()),
        false => entry.metadata().unwrap().len(),
    };
    std::fs::read_dir(folder).unwrap().map(|entry| size(entry.unwrap())).sum()
}

fn audited(world: &World, what: &str) -> Vec<(String, String, String)> {
    let Answer::Audit { entries } = world.ask(Request::Audit { after: 0, most: 1000 }).unwrap() else { panic!() };
    let of = entries.into_iter().filter(|entry| entry.what == what);
    of.map(|entry| (entry.object, entry.detail, entry.outcome)).collect()
}

#[test]
fn a_release_is_imported_whole_as_signed_and_once_or_not_at_all() {
    let ours = key();
    let mut world = world(&ours);
    let (old, new) = pair(&ours);
    assert!(
        import(&world, b"PK\x03\x04 and so on, a file of another kind").unwrap_err().contains("this is no release")
    );
    let foreign = make(&key(), "1.0", 1, old.bytes.clone());
    let why = import(&world, &foreign.bundle).unwrap_err();
    assert!(why.contains("is not trusted here"), "{why}");
    for cut in [10, old.text.len(), old.bundle.len() / 2, old.bundle.len() - 1] {
        let why = import(&world, &old.bundle[..cut]).unwrap_err();
        assert!(why.contains("no release") || why.contains("copy it again"), "{cut}: {why}");
    }
    let mut damaged = Vec::new();
    bundle::write(&old.text, noise(3, SIZE).as_slice(), &mut damaged, 1).unwrap();
    let why = import(&world, &damaged).unwrap_err();
    assert!(why.contains("the image is not the one that was signed"), "{why}");
    assert!(listed(&world).is_empty());
    let stored = |world: &World| bytes_below(&world.state().join("releases/packs"));

    import(&world, &old.bundle).unwrap();
    let first = stored(&world);
    assert!(first > SIZE as u64, "nothing of it compresses: {first}");
    assert!(import(&world, &old.bundle).unwrap_err().contains("release 1.0 is here already, imported 20"));
    let twin = make(&ours, "1.0-again", 1, noise(4, SIZE));
    assert!(import(&world, &twin.bundle).unwrap_err().contains("has the sequence 1, as release 1.0 has"));
    import(&world, &new.bundle).unwrap();
    assert_eq!(listed(&world), ["2.0", "1.0"]);
    let Answer::Release(ReleaseAnswer::List { releases }) = world.ask(Request::Release(ReleaseRequest::List)).unwrap()
    else {
        panic!()
    };
    assert!(releases[0].stored < SIZE as u64 / 2, "what both have is stored once: {releases:?}");
    let missing = world.path("nothing");
    let why = world.ask(Request::Release(ReleaseRequest::Import { file: missing, uploaded: false })).unwrap_err();
    assert!(why.starts_with("cannot read /"), "{why}");

    world.restart();
    assert_eq!(listed(&world), ["2.0", "1.0"]);
    for release in ["2.0", &old.manifest.id.hex()[..8]] {
        world.ask(Request::Release(ReleaseRequest::Remove { release: release.into() })).unwrap();
    }
    assert!(listed(&world).is_empty());
    assert!(stored(&world) < first / 10, "its bytes are gone: {} of {first} are left", stored(&world));
    import(&world, &old.bundle).unwrap();
    assert_eq!(audited(&world, "release.import").iter().filter(|(_, _, outcome)| outcome == "done").count(), 3);
    assert_eq!(audited(&world, "release.remove").len(), 2);
    // Nobody is trusted where nobody is named.
    world.stop();
    world.config.release_keys.clear();
    world.start();
    if !std::path::Path::new(sluice_gateway::releases::KEYS_FILE).exists() {
        assert!(import(&world, &new.bundle).unwrap_err().contains("no key for releases is trusted here"));
    }
}

#[test]
fn an_import_that_is_killed_leaves_nothing_half() {
    let ours = key();
    let mut world = world(&ours);
    let made = make(&ours, "1.0", 1, noise(1, 48 << 20));
    world.stop();
    let config = put(
        &world,
        "gateway.toml",
        format!("state = {:?}\n[releases]\nkeys = [\"{}\"]\n", world.state(), ours.public().hex()).as_bytes(),
    );
    let fifo = world.path("fifo.sluice-release");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-gateway"))
        .args(["release", "import"])
        .arg(&fifo)
        .arg("--config")
        .arg(&config)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = std::fs::OpenOptions::new().write(true).custom_flags(0).open(&fifo).unwrap();
    // A pipe holds 64 KiB: once this is written, three slabs of 16 MiB were taken in but for a few blocks.
    pipe.write_all(&made.bundle[..made.bundle.len() - (1 << 20)]).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(command.id() as i32), nix::sys::signal::SIGKILL).unwrap();
    assert!(bytes_below(&world.state().join("releases/packs")) > 16 << 20, "some of it was written");
    assert!(!command.wait().unwrap().success());
    world.start();
    assert!(listed(&world).is_empty());
    let left = bytes_below(&world.state().join("releases/packs"));
    assert!(left < 1 << 20, "{left} bytes of it are left");
    import(&world, &made.bundle).unwrap();
    assert_eq!(listed(&world), ["1.0"]);
}

#[test]
fn a_site_gets_what_its_order_names_and_goes_on_where_the_line_was_cut() {
    let ours = key();
    let world = world(&ours);
    let (old, new) = pair(&ours);
    import(&world, &old.bundle).unwrap();
    import(&world, &new.bundle).unwrap();
    world.run(async {
        let edge = enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        assert_eq!(report(&mut control, runs(&old)).await, None);
        let refused = ask(&data, wanted(&new, Some(&old), 0), None).await.unwrap();
        assert!(matches!(refused.0, DataReply::Refused(Refusal::Protocol(_))), "no roll-out yet: {refused:?}");

        start(&world, "2.0", &["b"]).unwrap();
        let ordered = order(&mut control).await.expect("the connected site is told at once");
        assert_eq!((ordered.manifest.as_str(), ordered.rollout), (new.text.as_str(), 1));
        let other = ask(&data, wanted(&old, None, 0), None).await.unwrap();
        assert!(matches!(other.0, DataReply::Refused(_)), "only what the order names: {other:?}");
        let nobodys = PartWanted { base: Some(ReleaseId([7; 32])), ..wanted(&new, None, 0) };
        let unknown = ask(&data, nobodys, None).await.unwrap();
        assert_eq!(unknown.0, DataReply::Refused(Refusal::MissingBase(GenerationId([0xff; 16]))));

        let (follows, some) = part(&data, wanted(&new, Some(&old), 0), Some(40_000)).await;
        assert_eq!((follows.parts, follows.offset), (1, 0));
        assert!(follows.total < 45 * 4096, "what the old image has elsewhere is not sent: {follows:?}");
        data.cut().await;
        let data = edge.data(&world, &control).await;
        let have = Some((follows.hash, some.len() as u64));
        let again = PartWanted { have, ..wanted(&new, Some(&old), 0) };
        let (goes_on, rest) = part(&data, again, None).await;
        assert_eq!(goes_on, PartFollows { offset: some.len() as u64, ..follows });
        let whole = [some, rest].concat();
        assert_eq!((whole.len() as u64, *blake3::hash(&whole).as_bytes()), (follows.len, follows.hash));
        assert!(applied(&Old(old.bytes.clone()), &[whole], SIZE + 20 * 4096) == new.bytes);
        let other_hash = PartWanted { have: Some(([1; 32], 5)), ..wanted(&new, Some(&old), 0) };
        assert_eq!(part(&data, other_hash, None).await.0.offset, 0);
        let beyond = ask(&data, wanted(&new, Some(&old), 1), None).await.unwrap();
        assert!(matches!(beyond.0, DataReply::Refused(Refusal::Protocol(_))), "{beyond:?}");
        let (_, all) = part(&data, wanted(&new, None, 0), None).await;
        assert!(applied(&Nothing, &[all], new.bytes.len()) == new.bytes, "and without a base");

        let done = Appliance { previous: Some("1.0".into()), ..runs(&new) };
        assert_eq!(report(&mut control, done).await, None, "what it runs it is not told to run");
        let over = ask(&data, wanted(&new, Some(&old), 0), None).await.unwrap();
        assert!(matches!(over.0, DataReply::Refused(_)), "{over:?}");
        // An edge of an older version ends the session over none of this.
        let before = Edge { alpn: vec![b"sluice/4".to_vec()], instance: 1, ..edge };
        let control = before.control(&world).await;
        let data = before.data(&world, &control).await;
        assert!(ask(&data, wanted(&new, None, 0), None).await.is_err());
    });
    assert!(world.metrics().contains("sluice_gateway_release_bytes_total"));
    let used = world.ask(Request::Release(ReleaseRequest::Remove { release: "2.0".into() })).unwrap_err();
    assert!(used.contains("is rolled out by roll-out 1"), "{used}");
    rollout(&world, RolloutRequest::Cancel { number: None, reason: "over".into() }).unwrap();
    let runs = world.ask(Request::Release(ReleaseRequest::Remove { release: "2.0".into() })).unwrap_err();
    assert!(runs.contains("release 2.0 is what b run"), "{runs}");
    world.ask(Request::Release(ReleaseRequest::Remove { release: "1.0".into() })).unwrap();
    assert_eq!(std::fs::read_dir(world.state().join("releases/parts")).unwrap().count(), 1, "its delta is gone");
}

#[test]
fn a_failed_trial_anywhere_stops_the_roll_out_and_somebody_has_to_look() {
    let ours = key();
    let mut world = world(&ours);
    let (old, new) = pair(&ours);
    import(&world, &old.bundle).unwrap();
    import(&world, &new.bundle).unwrap();
    let edges = world.run(async {
        let (one, two) = (enrol(&world, "one").await, enrol(&world, "two").await);
        let (mut first, mut second) = (one.control(&world).await, two.control(&world).await);
        report(&mut first, runs(&old)).await;
        report(&mut second, runs(&old)).await;
        let unknown = start(&world, "2.0", &["three"]).unwrap_err();
        assert!(unknown.contains("there is no site `three`"), "{unknown}");
        let none = start(&world, "3.0", &["one"]).unwrap_err();
        assert!(none.contains("there is no release `3.0`"), "{none}");
        start(&world, "2.0", &["one", "two"]).unwrap();
        assert!(order(&mut first).await.is_some() && order(&mut second).await.is_some());
        let again = start(&world, "2.0", &["one"]).unwrap_err();
        assert!(again.contains("roll-out 1 is running: one at a time"), "{again}");
        let trial = Trial {
            release: new.manifest.id,
            confirmed: false,
            why: "no link".into(),
            at: wire::clock::machine_time(),
        };
        let back = Appliance { last: Some(trial), ..runs(&old) };
        assert_eq!(report(&mut first, back).await, None);
        assert_eq!(order(&mut second).await, None, "the other site's order is taken back at once");
        (one, two)
    });
    let (state, steps) = shown(&world);
    assert_eq!(state, "stopped");
    assert!(
        steps.contains(&("one".into(), "fell-back".into())) && steps.contains(&("two".into(), "held".into())),
        "{steps:?}"
    );
    assert_eq!(audited(&world, "rollout.stop").len(), 1);
    assert_eq!(audited(&world, "rollout.site")[0].1, "fell back: no link");
    let why = rollout(&world, RolloutRequest::Resume { number: None, retry: false, reason: " ".into() }).unwrap_err();
    assert!(why.contains("say why"), "{why}");

    // It stays so over a restart, and until somebody says why it goes on.
    world.restart();
    assert_eq!(shown(&world).0, "stopped");
    world.run(async {
        let mut second = edges.1.control(&world).await;
        assert_eq!(report(&mut second, runs(&old)).await, None);
        let resumed =
            rollout(&world, RolloutRequest::Resume { number: None, retry: false, reason: "one has a bad disk".into() });
        assert_eq!(resumed.unwrap().0, "running");
        let ordered = order(&mut second).await.unwrap();
        assert_eq!(ordered.rollout, 1);
        assert_eq!(report(&mut second, runs(&new)).await, None);
    });
    let Answer::Release(ReleaseAnswer::Site { history, .. }) =
        world.ask(Request::Release(ReleaseRequest::Site { site: "one".into() })).unwrap()
    else {
        panic!()
    };
    let told: Vec<_> =
        history.iter().map(|entry| (entry.result.word(), entry.to.as_str(), entry.why.as_str())).collect();
    assert_eq!(told, [("fell-back", "2.0", "no link"), ("first-seen", "1.0", "")]);
    assert_eq!(shown(&world).0, "done", "the one that was left out is not waited for");
}

#[test]
fn nothing_of_a_release_goes_down_while_the_policy_lets_nothing_down() {
    let ours = key();
    let world = world(&ours);
    let (old, new) = pair(&ours);
    import(&world, &old.bundle).unwrap();
    import(&world, &new.bundle).unwrap();
    world.run(async {
        let edge = enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        report(&mut control, runs(&old)).await;
        start(&world, "2.0", &["b"]).unwrap();
        order(&mut control).await.unwrap();
        part(&data, wanted(&new, Some(&old), 0), None).await;
        let author = Signature { actor: "li".into(), reason: "month end".into() };
        let document = NOTHING_DOWN.to_owned();
        let set = PolicyRequest::Set {
            site: Some("b".into()),
            all_of: None,
            sites: Vec::new(),
            document,
            expected: None,
            author,
        };
        world.ask(Request::Policy(set)).unwrap();
        loop {
            match ask(&data, wanted(&new, Some(&old), 0), None).await.unwrap().0 {
                DataReply::Later { why: Wait::Closed, .. } => break,
                DataReply::Part(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_damaged_part_is_made_anew_and_what_a_crash_left_of_one_counts_as_nothing() {
    let ours = key();
    let mut world = world(&ours);
    let (old, new) = pair(&ours);
    import(&world, &old.bundle).unwrap();
    import(&world, &new.bundle).unwrap();
    let edge = world.run(async {
        let edge = enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        report(&mut control, runs(&old)).await;
        start(&world, "2.0", &["b"]).unwrap();
        order(&mut control).await.unwrap();
        let (follows, bytes) = part(&data, wanted(&new, Some(&old), 0), None).await;
        let pair = format!("releases/parts/{}-{}", old.manifest.id.hex(), new.manifest.id.hex());
        let path = world.state().join(pair).join("0");
        let mut other = bytes.clone();
        other[100] ^= 1;
        std::fs::write(&path, &other).unwrap();
        let damaged = ask(&data, wanted(&new, Some(&old), 0), None).await.unwrap();
        assert!(matches!(damaged.0, DataReply::Later { .. }), "{damaged:?}");
        assert_eq!(part(&data, wanted(&new, Some(&old), 0), None).await, (follows, bytes), "coding is the same again");
        std::fs::remove_file(path.with_file_name("index")).unwrap();
        edge
    });
    world.restart();
    assert_eq!(std::fs::read_dir(world.state().join("releases/parts")).unwrap().count(), 0);
    world.run(async {
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        assert!(report(&mut control, runs(&old)).await.is_some(), "the roll-out and its order outlive a restart");
        part(&data, wanted(&new, Some(&old), 0), None).await;
    });
}

#[test]
fn the_commands_import_roll_out_and_say_how_far_it_is() {
    let ours = key();
    let world = world(&ours);
    let (old, new) = pair(&ours);
    let state = world.state().to_str().unwrap().to_owned();
    let run = |args: &[&str]| gateway(&[args, &["--state", &state]].concat());
    assert!(stdout(&run(&["release", "list"])).contains("There are no releases yet"));
    assert!(stdout(&run(&["rollout", "list"])).contains("There are no roll-outs yet"));
    for (made, name) in [(&old, "1"), (&new, "2")] {
        let file = put(&world, name, &made.bundle);
        let said = stdout(&run(&["release", "import", file.to_str().unwrap()]));
        assert!(said.contains(&made.manifest.id.hex()) && said.contains("for edges"), "{said}");
    }
    assert!(stdout(&run(&["release", "sites"])).contains("No site has said which system it runs"));
    world.run(async {
        let edge = enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        report(&mut control, runs(&old)).await;
        let blocking = |args: Vec<&'static str>| {
            let state = state.clone();
            tokio::task::spawn_blocking(move || gateway(&[&args[..], &["--state", &state]].concat()))
        };
        let wrong = blocking(vec!["rollout", "start", "1.0", "--site", "b", "--reason", "x"]).await.unwrap();
        assert!(stderr(&wrong).contains("site `b` runs 1.0 already, which is as new or newer"));
        let begun = blocking(vec!["rollout", "start", "2.0", "--site", "b", "--reason", "monthly"]).await.unwrap();
        let said = stdout(&begun);
        assert!(said.contains("Roll-out 1 of 2.0: running") && said.contains("ordered"), "{said}");
        order(&mut control).await.unwrap();
        let stage = Stage::Fetching { release: new.manifest.id, done: 70_000, total: 140_000 };
        report(&mut control, Appliance { stage, ..runs(&old) }).await;
        let said = stdout(&blocking(vec!["rollout", "show"]).await.unwrap());
        assert!(said.contains("fetching") && said.contains("50 % of"), "{said}");
        let said = stdout(&blocking(vec!["rollout", "pause", "--reason", "quarter end"]).await.unwrap());
        assert!(said.contains("paused") && said.contains("quarter end") && said.contains("held"), "{said}");
        assert_eq!(order(&mut control).await, None);
        let said = stdout(&blocking(vec!["rollout", "resume", "--reason", "go on"]).await.unwrap());
        assert!(said.contains("running"), "{said}");
        assert!(order(&mut control).await.is_some());
        let json = stdout(&blocking(vec!["rollout", "cancel", "--reason", "wrong one", "--json"]).await.unwrap());
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["line"]["state"], "cancelled", "{json}");
        assert_eq!(order(&mut control).await, None);
        let said = stdout(&blocking(vec!["release", "site", "b"]).await.unwrap());
        assert!(said.contains("bank/b runs 1.0 (confirmed)") && said.contains("first-seen"), "{said}");
        let held = blocking(vec!["release", "--site", "b", "--reason", "x"]).await.unwrap();
        assert!(!stderr(&held).contains("unexpected argument"), "a hold is still ended by `release --site`");
    });
}

/// A gateway with pages that trusts a key, and its first account.
fn world_with_pages(key: &StatementKey) -> (World, Client) {
    let (mut world, mut chief) = client::world();
    world.stop();
    world.config.release_keys = vec![key.public()];
    world.start();
    chief.address = Client::of(&world).address;
    chief.signed(chief.sign_in("chief", client::PASSWORD).expect(200));
    (world, chief)
}

/// Waits until a job is over: how it ended, and what came of it.
fn ended(chief: &Client, number: &serde_json::Value) -> (String, String) {
    chief.events(&format!("/api/v1/jobs/{number}/events"), &["\"ended\":1"]);
    let job = chief.get(&format!("/api/v1/jobs/{number}")).expect(200).json();
    (job["state"].as_str().unwrap().into(), job["result"].as_str().unwrap().into())
}

#[test]
fn releases_are_sent_and_rolled_out_by_api_and_shown_on_pages_to_each_role() {
    let ours = key();
    let (world, chief) = world_with_pages(&ours);
    let (old, new) = pair(&ours);
    let people: Vec<Client> =
        ["viewer", "operator"].iter().map(|role| browser(&chief, &format!("a-{role}"), role, None)).collect();
    let (viewer, operator) = (&people[0], &people[1]);
    assert_eq!(viewer.upload("/api/v1/releases", &old.bundle).expect(403).problem(), "forbidden");
    let stranger = chief.stranger().upload("/api/v1/releases", &old.bundle);
    assert_eq!(stranger.status, 401, "{stranger:?}");
    let job = operator.upload("/api/v1/releases", &old.bundle[..1000]).expect(202).json();
    let (state, why) = ended(&chief, &job["number"]);
    assert!(state == "failed" && why.contains("copy it again"), "{state}: {why}");
    for made in [&old, &new] {
        let job = operator.upload("/api/v1/releases", &made.bundle).expect(202).json();
        assert_eq!(ended(&chief, &job["number"]).0, "done");
    }
    assert_eq!(std::fs::read_dir(world.state().join("releases/upload")).unwrap().count(), 0, "nothing of it stays");
    let list = viewer.get("/api/v1/releases").expect(200).json();
    assert_eq!((list["items"][0]["version"].as_str(), list["total"].as_u64()), (Some("2.0"), Some(2)));
    assert_eq!(viewer.get("/api/v1/releases/2.0").expect(200).json()["manifest"], new.text.as_str());
    viewer.get("/api/v1/releases/9.9").expect(404);
    viewer.get("/api/v1/rollouts/1").expect(404);

    let begin =
        serde_json::json!({ "release": "2.0", "first": ["bank/b"], "soak_hours": 1, "reason": "<b>monthly</b>" });
    assert_eq!(operator.post("/api/v1/rollouts", &begin).expect(404).problem(), "missing");
    let mut control = world.run(async {
        let edge = enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        report(&mut control, runs(&old)).await;
        control
    });
    viewer.post("/api/v1/rollouts", &begin).expect(403);
    let tenants = browser(&chief, "of-bank", "operator", Some("bank"));
    tenants.post("/api/v1/rollouts", &begin).expect(403);
    operator.post("/api/v1/rollouts", &begin).expect(200);
    operator.post("/api/v1/rollouts", &begin).expect(409);
    world.run(async {
        order(&mut control).await.unwrap();
        let stage = Stage::Fetching { release: new.manifest.id, done: 50, total: 200 };
        report(&mut control, Appliance { stage, ..runs(&old) }).await;
    });
    let shown = viewer.get("/api/v1/rollouts/1").expect(200).json();
    let site = &shown["rings"][0]["sites"][0];
    assert_eq!((site["step"].as_str(), site["done"].as_u64()), (Some("fetching"), Some(50)), "{shown}");
    let known = viewer.get("/api/v1/sites/bank/b/appliance").expect(200).json();
    assert_eq!(known["appliance"]["version"], "1.0", "{known}");
    assert_eq!(viewer.get("/api/v1/appliances").expect(200).json()["total"], 1);
    for (person, may) in [(viewer, false), (operator, true), (&tenants, false)] {
        for (accept, words) in [("en", ["What sites run", "fetches it"]), ("zh-CN", ["各站点运行的版本", "下载中"])]
        {
            let page = person.ask("GET", "/versions", None, &[("accept-language", accept)]).expect(200);
            assert!(words.iter().all(|word| page.body.contains(word)), "{}", page.body);
            assert!(page.body.contains("&lt;b&gt;monthly") && !page.body.contains("<b>monthly"), "reasons are text");
            assert_eq!(page.body.contains("data-api=\"/api/v1/rollouts/1/pause\""), may);
            assert_eq!(page.body.contains("data-upload"), may, "who may not import is offered no form");
            person.ask("GET", "/rollouts/1", None, &[("accept-language", accept)]).expect(200);
        }
        assert!(person.get("/sites/bank/b").expect(200).body.contains("First seen with 1.0"));
    }
    let why = serde_json::json!({ "reason": "quarter end" });
    operator.post("/api/v1/rollouts/7/pause", &why).expect(409);
    assert_eq!(operator.post("/api/v1/rollouts/1/pause", &why).expect(200).json()["rollout"]["state"], "paused");
    assert_eq!(operator.post("/api/v1/rollouts/1/resume", &why).expect(200).json()["rollout"]["state"], "running");
    assert_eq!(operator.post("/api/v1/rollouts/1/cancel", &why).expect(200).json()["rollout"]["state"], "cancelled");
    assert_eq!(operator.ask("DELETE", "/api/v1/releases/1.0", None, &[]).expect(409).problem(), "conflict");
    operator.ask("DELETE", "/api/v1/releases/2.0", None, &[]).expect(200);
    let known = "sluice_gateway_site_release_info{tenant=\"bank\",site=\"b\",version=\"1.0\"} 1";
    // Figures are read as soon as the daemon has begun.
    let mut world = world;
    world.restart();
    let text = loop {
        let text = world.metrics();
        if text.contains(known) {
            break text;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(text.contains("sluice_gateway_rollout_state{state=\"cancelled\"} 1"), "{text}");
    assert!(text.contains("sluice_gateway_site_trial_failed{tenant=\"bank\",site=\"b\"} 0"), "{text}");
}
