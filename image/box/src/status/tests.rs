use super::edge::{Captured, Sealed, Volume};
use super::health::Check;
use super::*;
use crate::language::{Language, width};
use std::fs;

/// What `sluice-edge status --json` printed on a box that had one volume and no gateway.
const PRINTED: &str = include_str!("printed.json");

const AT: u64 = 1_795_867_048_762 + 20 * 60_000;

fn card(name: &str, has_link: bool) -> Card {
    let addresses = if has_link { vec![("192.0.2.7".parse().unwrap(), 24)] } else { Vec::new() };
    Card { name: name.into(), mac: "52:54:00:12:34:56".into(), has_link, is_real: true, addresses }
}

fn facts() -> Facts {
    let release = Release { role: Role::Edge, version: "0.1.0+abc".into() };
    let health = Health { ready: true, checks: vec![Check { name: "line".into(), ok: true, why: None }] };
    Facts {
        release,
        slot: Some('A'),
        cards: vec![card("ens4", false), card("ens3", true)],
        enrolled: true,
        enrol_why: None,
        pin: None,
        setup: None,
        health: Some(health),
        edge: Some(serde_json::from_str(PRINTED).unwrap()),
        data: true,
        data_key: None,
        waiting: false,
        system: None,
        warnings: Vec::new(),
        at: AT,
    }
}

fn shown(facts: &Facts, language: Language) -> String {
    lines(facts, language).into_iter().map(|line| line.text + "\n").collect()
}

fn volume(name: &str, captured: u64, sealed: u64) -> Volume {
    Volume {
        name: name.into(),
        captured: Some(Captured { number: captured, captured_at: AT - 60_000 }),
        sealed: Some(Sealed { number: sealed, at: AT - 3 * 3_600_000 }),
        ..Volume::default()
    }
}

#[test]
fn a_box_at_work_says_where_it_is_and_how_it_is() {
    let expected = "\
Sluice edge 0.1.0+abc, slot A
  ens3       52:54:00:12:34:56 link up 192.0.2.7/24
  ens4       52:54:00:12:34:56 no link
  page       https://192.0.2.7:9472/
  gateway    link up
  line       1.6 Mbit/s by the configuration of this edge; there is no policy
             yet
  lag        vol: nothing of it is at the gateway yet
  clock      not set by a time server yet: check NTP
";
    assert_eq!(shown(&facts(), Language::English), expected);
}

#[test]
fn a_new_box_shows_the_pin_and_what_is_to_be_done() {
    let new = Facts {
        enrolled: false,
        pin: Some("7855 1267".into()),
        enrol_why: Some("the gateway refuses".into()),
        ..facts()
    };
    let said = shown(&new, Language::English);
    assert!(said.contains("\n  PIN        7855 1267 (until this box is enrolled)\n"), "{said}");
    assert!(said.contains("\n  site       not enrolled: choose \"Enrol\" in the menu"), "{said}");
    assert!(said.contains("\n  enrolment  the gateway refuses\n"), "{said}");
    assert!(!said.contains("  gateway "), "{said}");
}

#[test]
fn a_gateway_shows_its_set_up_code_and_its_own_page() {
    let release = Release { role: Role::Gateway, version: "1".into() };
    let said = shown(
        &Facts { release, setup: Some("https://x/welcome CODE".into()), edge: None, ..facts() },
        Language::English,
    );
    assert!(said.contains("  set-up     https://x/welcome CODE\n"), "{said}");
    assert!(
        said.contains("https://192.0.2.7:9443/") && !said.contains("enrolled") && !said.contains("  gateway "),
        "{said}"
    );
}

#[test]
fn what_is_wrong_is_said_in_the_daemons_words() {
    let mut ill = facts();
    ill.data = false;
    let check = |name: &str, why: &str| Check { name: name.into(), ok: false, why: Some(why.into()) };
    ill.health = Some(Health {
        ready: false,
        checks: vec![check("line", "the gateway does not answer"), check("store", "disk full")],
    });
    let said = shown(&ill, Language::English);
    assert!(said.contains("  gateway    the gateway does not answer\n"), "{said}");
    assert!(said.contains("  trouble    store: disk full\n"), "{said}");
    assert!(said.contains("  The data partition cannot be used: nothing is replicated.\n"), "{said}");
    ill.health = None;
    assert!(shown(&ill, Language::English).contains("  gateway    the daemon does not answer yet\n"));
}

#[test]
fn whether_data_is_encrypted_and_who_opens_it_is_said() {
    let mut box_ = facts();
    assert!(!shown(&box_, Language::English).contains("encrypted"));
    box_.data_key = Some("tpm".into());
    assert!(shown(&box_, Language::English).contains("\n  data       encrypted, opened by the TPM\n"));
    (box_.data_key, box_.waiting) = (Some("passphrase".into()), true);
    let said = shown(&box_, Language::English);
    assert!(said.contains("\n  data       encrypted; EACH START needs somebody who types the passphrase\n"), "{said}");
    assert!(
        said.contains("\n  upgrade    another version is ready: restart this box by the menu and type\n"),
        "{said}"
    );
    let chinese = shown(&box_, Language::Chinese);
    assert!(chinese.contains("每次启动都须有人输入口令\n") && chinese.contains("新版本已就绪"), "{chinese}");
}

#[test]
fn data_is_there_only_if_its_own_file_system_is() {
    let root = "overlay / overlay rw,relatime 0 0\n";
    let data = "/dev/sda5 /data ext4 rw,nosuid,nodev,noatime 0 0\n";
    assert!(is_data_mounted(&format!("{root}{data}")));
    // As the console sees it when data cannot be mounted.
    assert!(!is_data_mounted(&format!("{root}overlay /data overlay rw,relatime 0 0\n")));
    assert!(!is_data_mounted(root));
}

#[test]
fn the_lag_and_the_next_window_are_said_in_hours() {
    let mut busy = facts();
    let edge = busy.edge.as_mut().unwrap();
    edge.allowance.open = false;
    edge.allowance.sentence = "closed until Sat 2026-11-28 19:30 by the schedule (closed)".into();
    edge.allowance.until = Some((AT / 1000) as i64 + 3 * 3600 + 20 * 60);
    edge.volumes = vec![volume("fine", 4, 4), volume("mail", 7, 5), volume("late", 2, 1)];
    edge.volumes[2].late = Some("late".into());
    edge.volumes[2].arrives_at = Some((AT / 1000) as i64 + 90_000);
    let said = shown(&busy, Language::English);
    let expected = "\
  line       closed until Sat 2026-11-28 19:30 by the schedule (closed)
  window     the next one opens in 3 h 20 min
  lag        late: LATE; 1 behind; the gateway's was verified 3 h 0 min ago,
             the next in 1 d 1 h
  lag        mail: 2 behind; the gateway's was verified 3 h 0 min ago
  lag        fine: none; captured 1 min ago
";
    assert!(said.contains(expected), "{said}");
    let chinese = shown(&busy, Language::Chinese);
    assert!(chinese.contains(" 3 小时 20 分钟后开放\n") && chinese.contains("mail: 落后 2 代"), "{chinese}");
}

#[test]
fn everything_fits_one_screen_in_both_languages() {
    let mut full = facts();
    full.cards = (0..40).map(|at| card(&format!("enp{at}s0f0np0"), at % 2 == 0)).collect();
    full.enrolled = false;
    full.pin = Some("7855 1267".into());
    full.enrol_why = Some("word ".repeat(60));
    full.data = false;
    let failing = |at: usize| Check { name: format!("check{at}"), ok: false, why: Some("long ".repeat(100)) };
    full.health = Some(Health { ready: false, checks: (0..5).map(failing).collect() });
    let edge = full.edge.as_mut().unwrap();
    edge.allowance.sentence = "long ".repeat(100);
    edge.allowance.until = Some(i64::MAX);
    edge.volumes = (0..300).map(|at| volume(&format!("volume-{at}-{}", "x".repeat(90)), 2, 1)).collect();
    for language in [Language::English, Language::Chinese] {
        let lines = lines(&full, language);
        assert!(lines.len() <= 22, "{} lines", lines.len());
        for line in lines {
            assert!(width(&line.text) < 80, "{}", line.text);
        }
    }
    assert!(shown(&full, Language::English).contains("and 35 more cards\n"));
}

#[test]
fn what_others_wrote_cannot_steer_the_screen() {
    let mut evil = facts();
    evil.edge.as_mut().unwrap().site = Some("a\x1b[2J\x07\nb".into());
    for line in lines(&evil, Language::English) {
        assert!(!line.text.chars().any(char::is_control), "{:?}", line.text);
    }
}

#[test]
fn chinese_says_all_that_is_ours_in_chinese() {
    let said = shown(&facts(), Language::Chinese);
    for expected in [
        "Sluice edge 0.1.0+abc，系统槽 A\n",
        "  ens3       52:54:00:12:34:56 已接通 192.0.2.7/24\n",
        "  网关       已连接\n",
        "  网页       https://192.0.2.7:9472/\n",
    ] {
        assert!(said.contains(expected), "{expected}\nnot in\n{said}");
    }
}

#[test]
fn a_slot_and_a_release_are_read_and_another_system_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::of(folder.path());
    for path in ["proc", "usr/lib/sluice"] {
        fs::create_dir_all(folder.path().join(path)).unwrap();
    }
    assert_eq!(slot(&place), None);
    fs::write(folder.path().join("proc/cmdline"), "root=/dev/x sluice.slot=B sluice.part=1\n").unwrap();
    assert_eq!(slot(&place), Some('B'));
    assert!(Release::read(&place).is_err());
    fs::write(folder.path().join("usr/lib/sluice/release"), "ROLE=edge\nVERSION=1.2\n").unwrap();
    assert_eq!(Release::read(&place).unwrap(), Release { role: Role::Edge, version: "1.2".into() });
    fs::write(folder.path().join("usr/lib/sluice/release"), "ROLE=else\n").unwrap();
    assert!(Release::read(&place).is_err());
}

#[test]
fn a_card_in_a_bond_keeps_the_address_that_it_was_made_with() {
    let folder = tempfile::tempdir().unwrap();
    let make = |path: &str, text: &str| {
        let path = folder.path().join("sys/class/net").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for (path, text) in [
        ("bond1/address", "52:54:00:00:00:01\n"),
        ("bond1/carrier", "1\n"),
        ("ens4/device/x", ""),
        ("ens4/address", "52:54:00:00:00:01\n"),
        ("ens4/bonding_slave/perm_hwaddr", "52:54:00:00:00:02\n"),
        ("lo/address", "00:00:00:00:00:00\n"),
    ] {
        make(path, text);
    }
    let cards = cards(&Place::of(folder.path()));
    let said: Vec<_> =
        cards.iter().map(|card| (card.name.as_str(), card.mac.as_str(), card.has_link, card.is_real)).collect();
    assert_eq!(said, [("ens4", "52:54:00:00:00:02", false, true), ("bond1", "52:54:00:00:00:01", true, false)]);
}

#[test]
fn two_consoles_show_one_pin() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::of(folder.path());
    for path in ["bin", "run/sluice-console"] {
        fs::create_dir_all(folder.path().join(path)).unwrap();
    }
    let daemon = folder.path().join("bin/sluice-edge");
    let script = "#!/bin/sh\necho x >>\"$0.asked\"\necho 'page         https://192.0.2.7:9472/'\necho 'fingerprint  AB:CD'\necho 'PIN          7855 126'$(wc -l <\"$0.asked\")' (shown this once)'\n";
    fs::write(&daemon, script).unwrap();
    fs::set_permissions(&daemon, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(pin::pin(&place).as_deref(), Some("7855 1261"));
    assert_eq!(pin::pin(&place).as_deref(), Some("7855 1261"));
    let page = new_pin(&place).unwrap();
    assert_eq!((page.pin.as_str(), page.fingerprint.as_deref()), ("7855 1262", Some("AB:CD")));
    assert_eq!(pin::pin(&place).as_deref(), Some("7855 1262"));
}

#[test]
fn a_trial_one_that_was_left_and_a_failing_disk_are_said() {
    let mut facts = facts();
    let last = release::report::LastTrial {
        release: "00".repeat(32),
        version: "0.2.0".into(),
        confirmed: false,
        why: "after 900 s the daemon is not ready".into(),
        at: 1,
    };
    facts.system = Some(SystemReport {
        role: "edge".into(),
        version: "0.1.0+abc".into(),
        sequence: 1,
        release: "11".repeat(32),
        slot: release::slots::Slot::A,
        confirmed: false,
        previous: None,
        left: None,
        settled: true,
        last: Some(last),
    });
    facts.warnings = vec!["Device: /dev/sda, FAILED SMART self-check. BACK UP DATA NOW!".into()];
    let english = shown(&facts, Language::English);
    assert!(english.contains("slot A, on trial\n"), "{english}");
    assert!(english.contains("upgrade    version 0.2.0 was tried and left: after 900 s the daemon"), "{english}");
    assert!(english.contains("trouble    Device: /dev/sda, FAILED"), "{english}");
    let chinese = shown(&facts, Language::Chinese);
    assert!(chinese.contains("试用中") && chinese.contains("版本 0.2.0 试用失败，已恢复"), "{chinese}");
}

#[test]
fn warnings_are_read_where_smartd_and_the_watch_put_them() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run/sluice");
    fs::create_dir_all(run.join("smart")).unwrap();
    assert!(warnings(&Place::of(folder.path())).is_empty());
    fs::write(run.join("data-full"), "data is full\n").unwrap();
    fs::write(run.join("smart/sda"), "it fails\n").unwrap();
    assert_eq!(warnings(&Place::of(folder.path())), ["data is full", "it fails"]);
}
