//! An edge on an appliance takes another release of its system. The test has root: it says what runs, and installs.

use super::small_gateway::SmallGateway;
use super::small_gateway::releases::Given;
use super::{Edge, PATIENCE, Trick, config, volume};
use dedupe::image::{FileImage, Image, Maker, Nothing};
use dedupe::{Effort, UnixMillis};
use release::install::{Allowed, InstallError, Source, System, install};
use release::report::{self, InstallReport, InstallState, LastTrial, Ready, SystemReport};
use release::slots::{Boot, Slot, State};
use release::verity::Verity;
use sluice_edge::Daemon;
use sluice_edge::appliance::ApplianceConfig;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::release::{Manifest, Order, ReleaseId, Role, Stage};
use wire::statement::StatementKey;

/// Far less than a person notices; what is waited for are files.
const LOOK: Duration = Duration::from_millis(50);

fn manifest(image: &[u8], sequence: u64) -> Manifest {
    let mut verity = Verity::new([9; 32]);
    verity.update(image);
    Manifest {
        role: Role::Edge,
        version: format!("0.{sequence}"),
        sequence,
        bytes: image.len() as u64,
        id: verity.finish().root(),
        salt: [9; 32],
        made: UnixMillis(0),
        next_key: None,
    }
}

/// The box around the daemon.
struct Box {
    edge: Edge,
    key: StatementKey,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Box {
    async fn start(gateway: &SmallGateway) -> Box {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.appliance = ApplianceConfig { folder: dir.path().join("run"), keys: dir.path().join("release-keys") };
        fs::create_dir(&config.appliance.folder).unwrap();
        let key = StatementKey::read(&StatementKey::generate()).unwrap();
        fs::write(&config.appliance.keys, key.public().hex()).unwrap();
        let old = volume(24 << 20, 3);
        let mut new = volume(40 << 20, 4)[..20 << 20].to_vec(); // two parts of it at least
        new.extend_from_slice(&old[..18 << 20]);
        sluice_edge::enrol(&config, &gateway.token()).await.unwrap();
        let this = Box { edge: Edge { dir, daemon: Daemon::start(config).await.unwrap() }, key, old, new };
        fs::write(this.path("running"), &this.old).unwrap();
        File::create(this.path("slot-b")).unwrap().set_len(48 << 20).unwrap();
        let mut env = b"# GRUB Environment Block\nA_state=good\nA_tries=0\norder=A B\n".to_vec();
        env.resize(1024, b'#');
        fs::write(this.path("grubenv"), env).unwrap();
        this.runs(&manifest(&this.old, 5), None);
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.edge.dir.path().join(name)
    }

    fn folder(&self) -> PathBuf {
        self.path("state/upgrade")
    }

    fn runs(&self, manifest: &Manifest, last: Option<LastTrial>) {
        let report = SystemReport {
            role: "edge".into(),
            version: manifest.version.clone(),
            sequence: manifest.sequence,
            release: manifest.id.hex(),
            slot: Slot::A,
            confirmed: true,
            previous: None,
            left: None,
            settled: true,
            last,
        };
        report::write(&self.path("run/system.json"), &report).unwrap();
    }

    fn says(&self, release: ReleaseId, state: InstallState) {
        report::write(&self.path("run/install.json"), &InstallReport { release: release.hex(), state }).unwrap();
    }

    fn image(&self, name: &str, bytes: &[u8]) -> FileImage {
        fs::write(self.path(name), bytes).unwrap();
        FileImage::new(File::open(self.path(name)).unwrap(), bytes.len() as u64)
    }

    fn parts(&self, old: &dyn Image, new: &[u8]) -> Vec<Vec<u8>> {
        let new = self.image("new", new);
        let mut maker = Maker::new(old, &new, Effort::Quick).unwrap();
        std::iter::from_fn(|| maker.next_part().unwrap()).collect()
    }

    fn given(&self, manifest: &Manifest, rollout: u64) -> Given {
        let text = manifest.sign(&self.key).unwrap().to_json();
        Given {
            order: Some(Order { manifest: text, rollout }),
            release: Some(manifest.id),
            base: Some(self::manifest(&self.old, 5).id),
            parts: self.parts(&self.image("old", &self.old), &self.new),
            whole: self.parts(&Nothing, &self.new),
        }
    }

    async fn ready(&self, release: ReleaseId, against_running: bool) {
        let wanted = Ready { release: release.hex(), against_running };
        self.until(|folder| report::read(&folder.join("ready")).unwrap().as_ref() == Some(&wanted)).await;
    }

    async fn until(&self, is_so: impl Fn(&Path) -> bool) {
        let wait = async {
            while !is_so(&self.folder()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{:#?}", self.edge.daemon.status()));
    }

    fn install(&self, against_running: bool) -> Result<Manifest, InstallError> {
        let running = manifest(&self.old, 5);
        let system = System {
            role: Role::Edge,
            version: running.version.clone(),
            sequence: 5,
            release: running.id,
            bytes: running.bytes,
            slot: Slot::A,
            keys: vec![self.key.public()],
            running: self.path("running"),
            target: self.path("slot-b"),
            boot: Boot::new(self.edge.dir.path()),
        };
        let folder = self.folder();
        install(&system, &Source::Parts { folder: &folder, against_running }, Allowed::Newer, &mut |_, _| {})
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_comes_in_parts_goes_on_where_a_cut_left_it_and_is_handed_over() {
    let gateway = SmallGateway::start().await;
    let appliance = Box::start(&gateway).await;
    let idle = gateway.wait_for_appliance(|heard| heard.stage == Stage::Idle).await;
    assert_eq!((idle.version.as_str(), idle.confirmed), ("0.5", true));
    let new = manifest(&appliance.new, 6);
    let given = appliance.given(&new, 1);
    assert!(given.parts.len() >= 2);
    let (count, half) = (given.parts.len(), given.parts[0].len() as u64 / 2);
    gateway.trick(Trick::CutInPartOnce);
    gateway.give(given);
    appliance.ready(new.id, true).await;

    let asked = gateway.parts_asked();
    let offsets: Vec<_> = asked.iter().filter(|(_, part, _)| *part == 0).map(|(_, _, offset)| *offset).collect();
    assert!(offsets.len() == 2 && offsets[1] > half - (2 << 20) && offsets[1] <= half, "{asked:?}, half is {half}");
    assert_eq!(asked.iter().filter(|(_, _, offset)| *offset == 0).count(), count, "no part came twice: {asked:?}");
    gateway.wait_for_appliance(|heard| matches!(heard.stage, Stage::Fetching { .. })).await;
    gateway.wait_for_appliance(|heard| heard.stage == Stage::Installing { release: new.id }).await;
    assert_eq!(appliance.install(true).unwrap(), new);
    let slot = fs::read(appliance.path("slot-b")).unwrap();
    assert!(slot[..appliance.new.len()] == appliance.new);
    assert_eq!(Boot::new(appliance.edge.dir.path()).state(Slot::B).unwrap(), State::Trial);

    // The machine starts anew, and the new one is confirmed.
    fs::remove_file(appliance.folder().join("ready")).unwrap();
    appliance.runs(&new, None);
    gateway.wait_for_appliance(|heard| heard.release == new.id && heard.stage == Stage::Idle).await;
    appliance.until(|folder| !folder.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_come_out_are_brought_once_more_without_a_base_and_a_restart_forgets_nothing() {
    let gateway = SmallGateway::start().await;
    let mut appliance = Box::start(&gateway).await;
    let new = manifest(&appliance.new, 6);
    let mut given = appliance.given(&new, 1);
    // Coded against what nobody has, under the name of what runs.
    given.parts = appliance.parts(&appliance.image("other", &volume(24 << 20, 99)), &appliance.new);
    gateway.give(given);
    appliance.ready(new.id, true).await;
    let failed = appliance.install(true).unwrap_err();
    assert!(failed.is_of_parts(), "{failed}");
    fs::remove_file(appliance.folder().join("ready")).unwrap();
    appliance.says(new.id, InstallState::Failed { why: failed.to_string(), bring_whole: true });
    appliance.ready(new.id, false).await;

    let before = gateway.parts_asked().len();
    appliance.edge = appliance.edge.restart().await;
    gateway.wait_for_appliance(|heard| heard.stage == Stage::Installing { release: new.id }).await;
    assert_eq!(gateway.parts_asked().len(), before, "nothing is fetched again");
    assert_eq!(appliance.install(false).unwrap(), new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_the_gateway_does_not_hold_is_not_insisted_on() {
    let gateway = SmallGateway::start().await;
    let appliance = Box::start(&gateway).await;
    let new = manifest(&appliance.new, 6);
    gateway.give(Given { base: None, ..appliance.given(&new, 1) });
    appliance.ready(new.id, false).await;
    assert_eq!(appliance.install(false).unwrap(), new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_nobody_trusted_signed_or_that_is_older_or_was_left_is_not_fetched() {
    let gateway = SmallGateway::start().await;
    let appliance = Box::start(&gateway).await;
    let new = manifest(&appliance.new, 6);
    let failed = |release: ReleaseId, part: &'static str| {
        let gateway = gateway.clone();
        async move {
            let fits = |stage: &Stage| matches!(stage, Stage::Failed { release: of, why } if *of == release && why.contains(part));
            gateway.wait_for_appliance(|heard| fits(&heard.stage)).await
        }
    };
    let stranger = StatementKey::read(&StatementKey::generate()).unwrap();
    let forged = Order { manifest: new.sign(&stranger).unwrap().to_json(), rollout: 1 };
    gateway.give(Given { order: Some(forged), ..Given::default() });
    failed(new.id, "not trusted").await;

    let older = Manifest { sequence: 4, ..new.clone() };
    gateway.give(appliance.given(&older, 2));
    failed(new.id, "not newer").await;

    gateway.give(appliance.given(&new, 3));
    appliance.ready(new.id, true).await;
    fs::remove_file(appliance.folder().join("ready")).unwrap();
    let why = "not ready in 600 s".to_owned();
    let last = LastTrial { release: new.id.hex(), version: new.version.clone(), confirmed: false, why, at: 1 };
    appliance.runs(&manifest(&appliance.old, 5), Some(last));
    let heard = failed(new.id, "not ready in 600 s").await;
    assert!(heard.last.is_some_and(|last| !last.confirmed));
    let asked = gateway.parts_asked().len();

    // Another roll-out tries again, and what is here already is not brought again.
    gateway.give(appliance.given(&new, 4));
    appliance.ready(new.id, true).await;
    assert_eq!(gateway.parts_asked().len(), asked);
    assert!(gateway.appliances().iter().all(|heard| heard.release == manifest(&appliance.old, 5).id));
}
