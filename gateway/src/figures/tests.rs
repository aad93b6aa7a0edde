//! What stands on the page of the gateway's own figures, within its bounds, and in what time.

use super::*;
use crate::catalogue::PolicyRow;
use crate::config::Config;
use crate::rehydrate::{Limits, Phase, Place, Proof, Proven, Run, Standing, Trouble, Where};
use crate::telemetry::Heard;
use ::targets::settings::RawSettings;
use ::targets::{Credentials, Image, Settings, Work};
use dedupe::RunId;
use dedupe::{ByteCount, GenerationId, Kind, Lineage, LineageId, NewGeneration, SLAB, SlabNumber, Store};
use std::time::Duration;
use tokio::time::Instant;
use wire::telemetry::SiteFigures;
use wire::token::Token;

const NIGHTS: &str = "version = 4\nzone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\ncap = \"80 %\"\n[profiles]\nnight = \"80 %\"\n[grid]\n\
    mon-sun = \"00:00 night\"\n[[volumes]]\nname = \"db\"\nlag = \"24 hours\"\n";

struct World {
    state: Arc<State>,
    tenant: Tenant,
    figures: Figures,
    _dir: tempfile::TempDir,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("state");
    State::create(&folder, UnixMillis(1)).unwrap();
    let state = State::open(&Config::new(&folder)).unwrap();
    let tenant = state.catalogue.tenant("bank", state.now()).unwrap();
    World { figures: Figures::new(state.clone()), tenant, state, _dir: dir }
}

impl World {
    fn site(&self, name: &str) -> SiteId {
        let token = Token::random(vec!["gw:1".into()], [0; 32]);
        self.state.catalogue.add_token(&self.tenant, name, &token, UnixMillis(u64::MAX), UnixMillis(1)).unwrap().id
    }

    fn rule(&self, site: SiteId, document: &str) {
        let row = PolicyRow {
            version: 4,
            made: UnixMillis(1),
            actor: "li".into(),
            reason: "why".into(),
            document: document.into(),
        };
        let made = self.state.catalogue.change_policies(&[site], |_, _, _| Ok::<_, ()>((row.clone(), vec![])));
        made.unwrap().unwrap();
    }

    fn store(&self) -> Arc<Store> {
        self.state.tenant(self.tenant.id).unwrap().store.clone()
    }

    fn lineage(&self, site: SiteId, name: &str) -> LineageId {
        let id = LineageId::random();
        let lineage = Lineage { id, kind: Kind::Volume, name: name.into(), site: Some(site), fork_of: None };
        self.store().put_lineage(&lineage).unwrap();
        id
    }

    /// A sealed generation of so many blocks.
    fn generation(&self, lineage: LineageId, captured: u64, byte: u8) -> GenerationId {
        let store = self.store();
        let id = GenerationId::random();
        let new = NewGeneration {
            id,
            lineage,
            parent: store.latest(lineage).unwrap().map(|parent| parent.id),
            size: ByteCount(64 << 10),
            captured_at: UnixMillis(captured),
            source: Vec::new(),
        };
        let draft = store.draft(new).unwrap();
        let mut scan = draft.scan(SlabNumber(0)).unwrap();
        scan.data(&vec![byte; (64 << 10).min(SLAB)]).unwrap();
        scan.finish().unwrap();
        draft.seal(UnixMillis(captured + 1)).unwrap();
        id
    }

    fn text(&self) -> String {
        let snapshot = self.figures.read(&self.state).unwrap();
        let mut page = Page::new();
        sites(&mut page, &snapshot, &HashSet::new(), &self.state.telemetry);
        targets::page(&mut page, &snapshot.targets, &self.state, UnixMillis(LATER));
        page.text().unwrap()
    }

    fn target(&self, name: &str) {
        let place = Place {
            tenant: self.tenant.id,
            name: name.into(),
            settings: Settings::Raw(RawSettings { folder: "/nowhere".into() }),
            credentials: Credentials::None,
            authorities: None,
            limits: Limits::default(),
            proof: Proof::All,
            keep: None,
            made: UnixMillis(1),
            by: "li".into(),
        };
        self.state.catalogue.put_target(&place).unwrap();
    }

    fn order(&self, lineage: LineageId, target: &str) -> Standing {
        let volume = self.store().lineage(lineage).unwrap().unwrap().name;
        Standing {
            tenant: self.tenant.id,
            image: Image { tenant: "bank".into(), site: "b1".into(), volume, lineage },
            target: target.into(),
            paused: false,
            since: UnixMillis(1_700_000_000_000),
            by: "li".into(),
            trouble: None,
        }
    }

    /// A run that brought a generation to a target, or, without an end, one that rests.
    fn run(&self, order: &Standing, generation: GenerationId, ended: Option<u64>) {
        let known = self.store().generation(generation).unwrap().unwrap();
        let work = Work {
            run: RunId::random(),
            image: order.image.clone(),
            generation,
            number: known.number,
            captured: known.captured_at,
            root: known.sealed.unwrap().root,
            size: known.size,
            base: None,
        };
        let point = work.point("x".into(), UnixMillis(1));
        let proven = Proven { method: Proof::All, bytes: 1, repaired: false };
        let finished = Phase::Finished { point, proven, statement: 1 };
        let run = Run {
            work,
            tenant: order.tenant,
            to: Where::Target(order.target.clone()),
            proof: Proof::All,
            by: "li".into(),
            begun: UnixMillis(1),
            found: None,
            phase: if ended.is_some() { finished } else { Phase::Proving },
            notes: None,
            written: 0,
            resumes: true,
            held: ended.is_none().then(|| "stopped".to_owned()),
            ended: ended.map(UnixMillis),
        };
        self.state.catalogue.put_run(&run).unwrap();
    }
}

/// Some time after all that is captured here.
const LATER: u64 = 1_700_009_000_000;

#[track_caller]
fn assert_line(text: &str, line: &str) {
    assert!(text.lines().any(|have| have == line), "no `{line}` in\n{text}");
}

#[test]
fn each_site_and_volume_has_its_series_and_none_of_what_is_not_known() {
    let world = world();
    let (ruled, free) = (world.site("b1"), world.site("b2"));
    world.rule(ruled, NIGHTS);
    let lineage = world.lineage(ruled, "db");
    world.lineage(free, "files");
    world.generation(lineage, 1_700_000_000_000, 1);
    world.generation(lineage, 1_700_000_600_000, 2);
    let site = SiteFigures { backlog: 5, ..SiteFigures::default() };
    world.state.telemetry.hear(ruled, Heard { at: UnixMillis(9_000), site, volumes: BTreeMap::new() });
    let text = world.text();
    let of = |site: &str| format!("{{tenant=\"bank\",site=\"{site}\"");
    let (b1, b2) = (of("b1"), of("b2"));
    for line in [
        format!("sluice_gateway_site_connected{b1}}} 0"),
        format!("sluice_gateway_site_heard_timestamp_seconds{b1}}} 9"),
        format!("sluice_gateway_site_window_open{b1}}} 1"),
        format!("sluice_gateway_site_windows_behind{b1}}} 0"),
        format!("sluice_gateway_site_line_bits_per_second{b1}}} 2000000"),
        format!("sluice_gateway_site_cap_bits_per_second{b1}}} 1600000"),
        format!("sluice_gateway_site_policy_version{b1}}} 4"),
        format!("sluice_gateway_site_policy_version{b2}}} 0"),
        format!("sluice_gateway_restore_point_timestamp_seconds{b1},volume=\"db\"}} 1700000600"),
        format!("sluice_gateway_restore_point_limit_seconds{b1},volume=\"db\"}} 86400"),
        format!("sluice_gateway_generation_new_bytes{b1},volume=\"db\"}} 65536"),
        format!("sluice_gateway_generations_kept{b1},volume=\"db\"}} 2"),
        format!("sluice_gateway_generations_kept{b2},volume=\"files\"}} 0"),
        "sluice_gateway_series_dropped 0".into(),
    ] {
        assert_line(&text, &line);
    }
    for absent in ["site_window_open", "windows_behind", "line_bits", "heard", "restore_point", "generation_new"] {
        let found = text.lines().find(|line| line.contains(absent) && line.contains("site=\"b2\""));
        assert_eq!(found, None, "of a site without policy, word or generation");
    }
    assert!(!text.contains("last_window"), "it is open all week: no window was ever over\n{text}");
    // A volume that was seeded anew under its name is one volume.
    world.generation(world.lineage(ruled, "db"), 1_700_001_000_000, 3);
    let text = world.text();
    assert_line(&text, &format!("sluice_gateway_restore_point_timestamp_seconds{b1},volume=\"db\"}} 1700001000"));
    assert_eq!(text.matches("sluice_gateway_generations_kept{tenant=\"bank\",site=\"b1\"").count(), 1);
    assert!(!text.contains("generation_new_bytes"), "a seed is no measure of change\n{text}");
}

#[test]
fn windows_are_kept_for_a_restart() {
    let world = world();
    let site = world.site("b1");
    world.rule(site, &NIGHTS.replace("mon-sun = \"00:00 night\"", "mon-sun = \"00:00 night 12:00 closed\""));
    world.text();
    let kept = world.state.catalogue.windows().unwrap();
    assert!(kept[&site].last.is_some(), "{kept:?}");
    let mut windows = kept[&site];
    windows.behind = 3;
    world.state.catalogue.keep_windows(&[(site, windows)]).unwrap();
    let after = World { figures: Figures::new(world.state.clone()), ..world };
    let line = "sluice_gateway_site_windows_behind{tenant=\"bank\",site=\"b1\"} 3";
    assert_line(&after.text(), line);
}

#[test]
fn what_is_beyond_the_bounds_is_counted_and_has_no_series() {
    let world = world();
    let world =
        World { figures: Figures { bounds: Bounds { sites: 2, volumes: 2, targets: 1 }, ..world.figures }, ..world };
    let [one, _two, _three] = ["one", "two", "three"].map(|name| world.site(name));
    for name in ["a", "b", "c"] {
        world.lineage(one, name);
    }
    let text = world.text();
    assert_line(&text, "sluice_gateway_series_dropped 2");
    assert_eq!(text.matches("sluice_gateway_generations_kept{").count(), 2);
    assert!(!text.contains("site=\"two\""), "sites go by name\n{text}");
}

/// The promise is a scrape of less than 200 ms with 500 sites of three volumes each, measured with released binaries; here with checks, beside other
/// tests.
#[test]
fn a_scrape_of_500_sites_is_quick() {
    let telemetry = Telemetry::default();
    let mut windows = Windows::default();
    windows.last = Some((1_700_000_000, 1_700_030_000));
    let volume = |name: &str| VolumeRow {
        name: name.into(),
        captured: Some(UnixMillis(1_700_000_000_000)),
        limit: Some(86_400),
        delta: Some((123_456_789, 12_345_678)),
        kept: 30,
    };
    let version = |sequence| {
        let report = wire::release::Appliance {
            release: wire::release::ReleaseId([1; 32]),
            version: "1.0".into(),
            sequence,
            confirmed: true,
            previous: None,
            stage: wire::release::Stage::Idle,
            last: None,
        };
        let (at, since) = (UnixMillis(9_000), UnixMillis(8_000));
        crate::catalogue::ApplianceRow { site: SiteId([0; 16]), report, at, since, fetch: None, history: Vec::new() }
            .into()
    };
    let site = |number: u16| {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let heard = Heard { at: UnixMillis(9_000), site: SiteFigures::default(), volumes: BTreeMap::new() };
        telemetry.hear(SiteId(id), heard);
        SiteRow {
            id: SiteId(id),
            tenant: "bank".into(),
            name: format!("branch-{number}"),
            seen: Some(UnixMillis(1_700_000_000_000)),
            certificate_end: Some(UnixMillis(1_800_000_000_000)),
            rules: Some(Rules { version: 4, line: 2_000_000, cap: 1_600_000.0, windows }),
            held: Some((4, false)),
            volumes: ["db", "files", "mail"].map(volume).into(),
            version: Some(version(number.into())),
        }
    };
    let snapshot = Snapshot {
        sites: (0..500).map(site).collect(),
        targets: Vec::new(),
        rollout: None,
        seeds: Vec::new(),
        dropped: 0,
    };
    let begin = Instant::now();
    let mut page = Page::new();
    sites(&mut page, &snapshot, &HashSet::new(), &telemetry);
    let text = page.text().unwrap();
    let took = begin.elapsed();
    println!("a scrape of {} lines, {} bytes: {took:?}", text.lines().count(), text.len());
    assert_eq!(text.matches("{tenant=\"bank\"").count(), 500 * (18 + 3 * 5));
    assert!(took < Duration::from_secs(1), "a scrape took {took:?}");
}

#[test]
fn a_target_has_the_sums_of_its_orders_and_runs_and_the_time_since_it_lacks_something() {
    let world = world();
    let site = world.site("b1");
    let [db, files, mail] = ["db", "files", "mail"].map(|name| world.lineage(site, name));
    world.target("vault");
    let of = "{tenant=\"bank\",target=\"vault\"}";
    for zero in ["orders", "behind_seconds", "runs_resting", "written_bytes_total", "proofs_failed_total"] {
        assert_line(&world.text(), &format!("sluice_gateway_target_{zero}{of} 0"));
    }
    let first = world.generation(db, 1_700_001_000_000, 1);
    let (current, failing, paused) =
        (world.order(db, "vault"), world.order(files, "vault"), world.order(mail, "vault"));
    world.state.catalogue.put_standing(&current).unwrap();
    // Complete here, and not there: behind, since it was complete.
    assert_line(&world.text(), &format!("sluice_gateway_target_orders_behind{of} 1"));
    assert_line(&world.text(), &format!("sluice_gateway_target_behind_seconds{of} 7999"));
    world.run(&current, first, Some(1_700_001_500_000));
    assert_line(&world.text(), &format!("sluice_gateway_target_behind_seconds{of} 0"));
    assert_line(&world.text(), &format!("sluice_gateway_target_orders_behind{of} 0"));
    // Two more: it is late by the older of them.
    world.generation(db, 1_700_003_000_000, 2);
    let latest = world.generation(db, 1_700_004_000_000, 3);
    assert_line(&world.text(), &format!("sluice_gateway_target_behind_seconds{of} 5999"));
    world.run(&current, latest, Some(1_700_004_500_000));
    assert_line(&world.text(), &format!("sluice_gateway_target_orders{of} 1"));
    assert_line(&world.text(), &format!("sluice_gateway_target_behind_seconds{of} 0"));
    // An older generation was put there since: it is not the latest that is there.
    world.run(&current, first, Some(1_700_004_600_000));
    assert_line(&world.text(), &format!("sluice_gateway_target_orders_behind{of} 1"));
    world.run(&current, latest, Some(1_700_004_700_000));
    // One fails by its credentials; one rests because somebody said so, and is not late.
    world.generation(files, 1_700_002_000_000, 4);
    let trouble =
        Trouble { why: "refused".into(), is_credentials: true, since: UnixMillis(1), next: UnixMillis(2), failures: 1 };
    world.state.catalogue.put_standing(&Standing { trouble: Some(trouble), ..failing }).unwrap();
    let left = world.generation(mail, 1_700_000_500_000, 5);
    world.state.catalogue.put_standing(&Standing { paused: true, ..paused.clone() }).unwrap();
    for (what, value) in [
        ("orders", 3),
        ("orders_behind", 0),
        ("orders_failing", 1),
        ("orders_paused", 1),
        ("credentials_failing", 1),
        ("behind_seconds", 6999),
    ] {
        assert_line(&world.text(), &format!("sluice_gateway_target_{what}{of} {value}"));
    }
    // A run that stopped rests, unless there is an order by which it is tried again.
    world.run(&paused, left, None);
    assert_line(&world.text(), &format!("sluice_gateway_target_runs_open{of} 1"));
    assert_line(&world.text(), &format!("sluice_gateway_target_runs_resting{of} 0"));
    world.state.catalogue.end_standing(world.tenant.id, mail, "vault").unwrap();
    assert_line(&world.text(), &format!("sluice_gateway_target_runs_resting{of} 1"));
    // Beyond the bound there is no series, and it is said.
    world.target("zzz");
    let world =
        World { figures: Figures { bounds: Bounds { sites: 2, volumes: 9, targets: 1 }, ..world.figures }, ..world };
    let text = world.text();
    assert!(!text.contains("zzz"), "{text}");
    assert_line(&text, "sluice_gateway_series_dropped 1");
}
