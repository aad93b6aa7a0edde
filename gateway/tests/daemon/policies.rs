//! Policies and evidence: over the protocol, by the commands, and through a backup.

use crate::commands::{gateway, stderr, stdout};
use crate::edge::{Control, Edge};
use crate::world::World;
use dedupe::SiteId;
use sluice_gateway::admin::{Answer, PolicyAnswer, PolicyRequest, Request, Signature};
use sluice_gateway::policies::Changed;
use std::time::Duration;
use wire::clock::machine_time;
use wire::message::*;
use wire::policy::SignedPolicy;

const DOCUMENT: &str = "# ours\nzone = \"Asia/Shanghai\"\n\n[line]\nup = \"2 Mbit/s\"\n\n[profiles]\nnight = \"80 %\"\n\n[grid]\nmon-fri = \"19:30 night\"\n\n[[quotas]]\nperiod = \"day\"\nlimit = \"5 GB\"\n";

fn signature() -> Signature {
    Signature { actor: "li".into(), reason: "month end".into() }
}

pub(crate) fn set(site: &str, document: &str) -> PolicyRequest {
    PolicyRequest::Set {
        site: Some(site.into()),
        all_of: None,
        sites: Vec::new(),
        document: document.into(),
        expected: None,
        author: signature(),
    }
}

pub(crate) fn hold(site: &str) -> PolicyRequest {
    PolicyRequest::Hold { site: site.into(), author: signature() }
}

fn ask(world: &World, request: PolicyRequest) -> PolicyAnswer {
    let Answer::Policy(answer) = world.ask(Request::Policy(request)).unwrap() else { panic!("not about policies") };
    answer
}

pub(crate) fn change(world: &World, request: PolicyRequest) -> Vec<Changed> {
    let PolicyAnswer::Changed { changes } = ask(world, request) else { panic!("nothing was changed") };
    changes
}

fn refused(world: &World, request: PolicyRequest) -> String {
    world.ask(Request::Policy(request)).unwrap_err()
}

fn site_id(world: &World, name: &str) -> SiteId {
    let Answer::Sites { sites } = world.ask(Request::Sites).unwrap() else { panic!() };
    sites.iter().find(|line| line.site == name).unwrap().id.parse().unwrap()
}

fn held(version: u64, refused: Option<&str>) -> FromEdge {
    FromEdge::PolicyHeld { version, refused: refused.map(Into::into) }
}

async fn policy(control: &mut Control) -> SignedPolicy {
    match control.hear().await {
        FromGateway::Policy(signed) => signed,
        other => panic!("{other:?}"),
    }
}

/// The next thing that the edge hears is the answer to this, so nothing else was said before.
async fn hears_only_the_time(control: &mut Control) {
    let heard = control.ask(FromEdge::Status(EdgeStatus::default())).await;
    assert!(matches!(heard, FromGateway::Time { now } if now.0.abs_diff(machine_time().0) < 60_000), "{heard:?}");
}

#[test]
fn a_policy_reaches_a_connected_edge_at_once_and_another_when_it_comes() {
    let world = World::new();
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let site = site_id(&world, "b");
        let mut control = edge.control(&world).await;
        control.say(held(0, None)).await;
        hears_only_the_time(&mut control).await; // a site without a policy gets none
        let changes = change(&world, set("b", DOCUMENT));
        assert_eq!((changes[0].version, format!("{:?}", changes[0].told).as_str()), (1, "Sent"));
        let first = policy(&mut control).await;
        assert_eq!(first.verify(site, None), Ok(()));
        assert_eq!(first.document, DOCUMENT.replace("# ours", "version = 1 # ours"));
        control.say(held(1, None)).await;
        hears_only_the_time(&mut control).await; // it has the newest
        // What it refuses it hears once more after that, and no further.
        change(&world, hold("b"));
        let second = policy(&mut control).await;
        assert_eq!(second.verify(site, Some(first.key)), Ok(()));
        control.say(held(1, Some("no\x1b[2J room"))).await;
        assert_eq!(policy(&mut control).await, second);
        control.say(held(1, Some("no\x1b[2J room"))).await;
        hears_only_the_time(&mut control).await;
        let Answer::Sites { sites } = world.ask(Request::Sites).unwrap() else { panic!() };
        assert_eq!((sites[0].policy, sites[0].policy_held), (Some(2), Some(1)));
        assert_eq!(sites[0].policy_refused.as_deref(), Some("no [2J room"));
        drop(control);
        // In its next session it says what it has, and hears what is newer.
        let mut control = edge.control(&world).await;
        control.say(held(1, None)).await;
        assert_eq!(policy(&mut control).await, second);
        // An edge that holds a later one than the gateway knows gets nothing until there is a later one still.
        control.say(held(7, None)).await;
        hears_only_the_time(&mut control).await;
        let release = PolicyRequest::Release { site: "b".into(), author: signature() };
        assert_eq!(change(&world, release)[0].version, 8);
        let third = policy(&mut control).await;
        assert_eq!(
            third.document,
            DOCUMENT.replace("# ours", "version = 8 # ours"),
            "held and released, it says what it did"
        );
    });
}

#[test]
fn an_edge_of_protocol_1_hears_neither_policies_nor_the_time() {
    let world = World::new();
    world.run(async {
        let mut edge = Edge::enrol(&world, "b").await;
        edge.alpn = vec![b"sluice/1".to_vec()];
        let mut control = edge.control(&world).await;
        let changes = change(&world, set("b", DOCUMENT));
        assert_eq!(format!("{:?}", changes[0].told), "Old");
        control.say(FromEdge::Status(EdgeStatus::default())).await;
        // The next answer is to the next question: nothing came between.
        let answer = control.announce(dedupe::LineageId::random(), "v").await;
        assert!(matches!(answer, FromGateway::Held { .. }), "{answer:?}");
        let silence = tokio::time::timeout(Duration::from_millis(300), control.hear()).await;
        assert!(silence.is_err(), "{silence:?}");
    });
}

#[test]
fn evidence_is_durable_acknowledged_and_reported() {
    let mut world = World::new();
    let now = (machine_time().0 / 60_000) as u32;
    let minute = |minute, sent| Minute { minute, sent, received: 500, allowed: 10_000, peak: 3000, reason: 0 };
    let month = jiff::Timestamp::from_second(i64::from(now) * 60).unwrap().strftime("%Y-%m").to_string();
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let sent = vec![minute(now - 401 * 1440, 1), minute(now, 16_001), minute(now + 30, 1)];
        let reply = control.ask(FromEdge::Evidence(sent)).await;
        assert_eq!(reply, FromGateway::EvidenceHeld { minute: now });
        control.say(FromEdge::Evidence(vec![minute(now + 30, 1)])).await;
        hears_only_the_time(&mut control).await; // nothing of it can be acknowledged
    });
    world.restart();
    let request = PolicyRequest::Report { site: "b".into(), month: month.clone() };
    let PolicyAnswer::Report { report } = ask(&world, request) else { panic!() };
    assert_eq!(
        (report.total.recorded, report.total.over, report.total.sent, report.total.received),
        (1, 1, 16_001, 500)
    );
    let state = world.state().to_str().unwrap().to_owned();
    let text = stdout(&gateway(&["report", "--site", "b", "--month", &month, "--state", &state]));
    assert!(text.contains("Minutes over the limit: 1.") && text.contains("Peak of 1 s: 24 kbit/s"), "{text}");
    let csv = stdout(&gateway(&["report", "--site", "b", "--month", &month, "--format", "csv", "--state", &state]));
    assert!(csv.lines().last().unwrap().starts_with("total,1,") && csv.contains(",1,16001,500,24000,"), "{csv}");
    let json = stdout(&gateway(&["report", "--site", "b", "--month", &month, "--format", "json", "--state", &state]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["report"]["total"]["sent"], 16_001);
}

#[test]
fn a_backup_keeps_policies_their_audit_and_the_key() {
    let world = World::new();
    world.token("b");
    let site = site_id(&world, "b");
    change(&world, set("b", DOCUMENT));
    change(&world, hold("b"));
    let (backup, restored) = (world.path("backup"), world.path("restored"));
    world.ask(Request::Backup { to: backup.clone(), passphrase_file: None }).unwrap();
    sluice_gateway::backup::restore(&backup, &restored, None).unwrap();
    let open = |folder: &std::path::Path| {
        let config = sluice_gateway::Config::new(folder);
        sluice_gateway::state::State::open(&config).unwrap()
    };
    let state = open(&restored);
    let row = state.catalogue.policy(site).unwrap().unwrap();
    assert_eq!((row.version, row.actor.as_str(), row.reason.as_str()), (2, "li", "month end"));
    let first = state.catalogue.policy_version(site, 1).unwrap().unwrap();
    assert_eq!(state.catalogue.line_events(site).unwrap().len(), 2);
    let key = std::fs::read(world.state().join("ca/policy.key")).unwrap();
    assert_eq!(std::fs::read(restored.join("ca/policy.key")).unwrap(), key);
    let signed = state.policy_key.sign(site, first.document);
    assert_eq!(signed.verify(site, Some(state.policy_key.public())), Ok(()));
}

#[test]
fn a_volume_is_given_another_class_or_weight_for_a_while() {
    let world = World::new();
    world.token("b");
    change(&world, set("b", DOCUMENT));
    let state = world.state().to_str().unwrap().to_owned();
    let run = |line: &str| {
        let mut args: Vec<&str> = line.split_whitespace().collect();
        args.extend(["override", "add", "--site", "b", "--for", "2h", "--reason", "migration", "--state", &state]);
        args.rotate_left(line.split_whitespace().count());
        gateway(&args)
    };
    let class = stdout(&run("--volume mail --class critical"));
    assert!(class.contains("version 2 (override 2: class critical"), "{class}");
    let weight = stdout(&run("--volume mail --weight 300"));
    assert!(weight.contains("version 3 (override 3: weight 300"), "{weight}");
    let document = stdout(&gateway(&["policy", "show", "--site", "b", "--state", &state]));
    assert!(document.contains("bend = \"class critical\"") && document.contains("volume = \"mail\""), "{document}");
    let refused = |line: &str, words: &str| {
        let output = run(line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(words), "{line}: {text}");
    };
    refused("--class critical", "--volume");
    refused("--volume mail --class urgent", "critical, normal, bulk");
    refused("--volume mail --weight 0", "0 is not in");
    refused("--volume mail --weight 20000", "between 1 and 10000");
    refused("--pause --pierce", "--pierce");
}

#[test]
fn the_commands_change_show_and_explain() {
    let world = World::new();
    world.token("b");
    world.token("c");
    let state = world.state().to_str().unwrap().to_owned();
    let file = world.path("policy.toml").to_str().unwrap().to_owned();
    std::fs::write(&file, DOCUMENT).unwrap();
    let run = |line: &str| {
        let mut args: Vec<&str> = line.split_whitespace().collect();
        args.extend(["--state", &state]);
        gateway(&args)
    };
    let good = stdout(&run(&format!("policy check {file}")));
    assert!(good.ends_with("is a good policy for a site in Asia/Shanghai.\n"), "{good}");
    let both = stdout(&run(&format!("policy set --all-of bank --file {file} --reason begin --actor wu")));
    assert_eq!(
        both,
        "Site b: policy version 1 (policy set); its edge is told when it connects.\nSite c: policy version 1 (policy set); its edge is told when it connects.\n"
    );
    let added = stdout(&run("override add --site b --boost unlimited --for 2h --pierce --reason backlog --actor wu"));
    assert!(added.contains("version 2 (override 2: boost unlimited, also in blackouts from "), "{added}");
    let held = stdout(&run("hold --site b --reason audit"));
    assert!(held.contains("version 3 (held)"), "{held}");
    let listed = stdout(&run("override list --site b"));
    assert!(listed.starts_with("Held by ") && listed.contains("backlog"), "{listed}");
    let again = stdout(&run(&format!("policy set --site b --file {file} --reason again")));
    assert!(again.contains("version 4") && again.contains("Still in force: override 2: boost unlimited"), "{again}");
    assert!(stdout(&run("release --site b --reason done")).contains("version 5 (released)"));
    assert!(stdout(&run("override end --site b 2 --reason done")).contains("version 6 (override 2 ended)"));
    let calendar = world.path("c.ics").to_str().unwrap().to_owned();
    let event = "BEGIN:VEVENT\r\nDTSTART;VALUE=DATE:20261001\r\nSUMMARY:National Day\r\nEND:VEVENT\r\n";
    std::fs::write(&calendar, format!("BEGIN:VCALENDAR\r\n{event}END:VCALENDAR\r\n")).unwrap();
    let imported = stdout(&run(&format!("holidays import --site b {calendar} --reason 2026")));
    assert!(imported.contains("version 7 (holidays imported: 1 days off"), "{imported}");
    let shown = stdout(&run("policy show --site b"));
    assert!(shown.starts_with("version = 7 # ours\n") && shown.contains("\"2026-10-01 National Day\""), "{shown}");
    assert!(stdout(&run("policy show --site b --version 1")).contains("# ours"));
    let history = stdout(&run("policy history --site b"));
    let words = ["policy set", "override 2: boost", "held", "released", "override 2 ended", "holidays imported"];
    assert!(words.iter().all(|word| history.contains(word)) && history.contains("wu"), "{history}");
    for preview in ["--site b".to_owned(), file] {
        let preview = stdout(&run(&format!("policy preview {preview} --days 2 --from 2026-11-23")));
        let strip = format!("Mon 2026-11-23  {}{}", ".".repeat(78), "n".repeat(18));
        assert!(preview.contains(&strip) && preview.contains("4:30 h"), "{preview}");
        assert!(
            preview.contains("Mon 2026-11-23 19:30  1.6 Mbit/s until Tue 2026-11-24 00:00 by the schedule (night)"),
            "{preview}"
        );
    }
    let sites = stdout(&run("sites"));
    assert!(sites.contains("version 7, edge holds none"), "{sites}");
}

#[test]
fn every_refusal_has_its_words() {
    let world = World::new();
    world.token("b");
    let show = |version| PolicyRequest::Show { site: "b".into(), version };
    assert!(refused(&world, show(None)).starts_with("site `b` has no policy yet; `sluice-gateway policy set --site b"));
    let unsigned = |actor: &str, reason: &str| PolicyRequest::Set {
        site: Some("b".into()),
        all_of: None,
        sites: Vec::new(),
        document: DOCUMENT.into(),
        expected: None,
        author: Signature { actor: actor.into(), reason: reason.into() },
    };
    assert_eq!(refused(&world, unsigned("", "r")), "nobody is named who wants this: say who by --actor");
    assert!(refused(&world, unsigned("li", "")).starts_with("no reason is given: say why by --reason"));
    let nobody = PolicyRequest::Set {
        site: None,
        all_of: None,
        sites: Vec::new(),
        document: DOCUMENT.into(),
        expected: None,
        author: signature(),
    };
    assert!(refused(&world, nobody).contains("--site, or for all sites of a tenant by --all-of"));
    let wrong = refused(&world, set("b", &DOCUMENT.replace("80 %", "800 %")));
    assert!(wrong.starts_with("line 8: `night`: \"800 %\" is no share of the line"), "{wrong}");
    assert!(
        matches!(ask(&world, PolicyRequest::History { site: "b".into() }), PolicyAnswer::History { events } if events.is_empty())
    );
    change(&world, set("b", DOCUMENT));
    assert!(refused(&world, show(Some(9))).contains("has no version 9; `sluice-gateway policy history --site b`"));
    assert!(
        refused(&world, PolicyRequest::Report { site: "b".into(), month: "now".into() }).contains("write it as in")
    );
    assert!(refused(&world, set("x", DOCUMENT)).contains("there is no site `x`"));
    let state = world.state().to_str().unwrap().to_owned();
    let missing = stderr(&gateway(&["hold", "--site", "b", "--state", &state]));
    assert!(missing.contains("--reason <TEXT>"), "{missing}");
    let file = world.path("bad.toml").to_str().unwrap().to_owned();
    std::fs::write(&file, DOCUMENT.replace("Asia/Shanghai", "Asia/Peking")).unwrap();
    let output = gateway(&["policy", "check", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("line 2: `zone`: there is no zone \"Asia/Peking\": write an IANA name"));
}
