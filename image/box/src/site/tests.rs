use super::*;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;

const WHOLE: &str = r#"
disk = "/dev/disk/by-id/x-1"  # a comment
erase = "everything"
token = "sluice1.AbC_d-e"

[network]
card = "52:54:00:12:34:56"
address = "192.0.2.7/24"
gateway = "192.0.2.1"
dns = "192.0.2.53 192.0.2.54"
ntp = "192.0.2.123"

[edge]
rate = "1.6 Mbit/s"
[edge.capture]
interval = "1h"
"#;

fn refused(text: &str) -> (usize, String) {
    match Site::parse(text) {
        Ok(_) => panic!("taken: {text}"),
        Err(refused) => refused,
    }
}

fn assert_refused(text: &str, line: usize, why: &str) {
    let (at, said) = refused(text);
    assert!(at == line && said.contains(why), "line {at}: {said}\nin: {text}");
}

/// A box in a folder, with a daemon that takes any configuration but one that says `wrong`.
fn place() -> (tempfile::TempDir, Place) {
    let folder = tempfile::tempdir().unwrap();
    for path in ["etc/systemd/network", "etc/sluice", "bin"] {
        fs::create_dir_all(folder.path().join(path)).unwrap();
    }
    let daemon = folder.path().join("bin/sluice-edge");
    fs::write(&daemon, "#!/bin/sh\n[ \"$1 $2\" = 'check-config --config' ] || exit 9\n! grep wrong \"$3\" >&2\n")
        .unwrap();
    fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).unwrap();
    let place = Place::of(folder.path());
    (folder, place)
}

#[test]
fn all_of_a_file_comes_to_where_it_is_looked_for() {
    let (folder, place) = place();
    let site = Site::parse(WHOLE).unwrap();
    assert_eq!(site.disk.as_deref(), Some("/dev/disk/by-id/x-1"));
    site.check_edge(&place, Path::new("sluice.toml")).unwrap();
    for _ in 0..2 {
        site.apply(&place, None).unwrap();
    }
    let read = |path: &str| fs::read_to_string(folder.path().join(path)).unwrap();
    assert_eq!(read("etc/sluice/token"), "sluice1.AbC_d-e\n");
    assert_eq!(read("etc/sluice/site-edge.toml"), "rate = \"1.6 Mbit/s\"\n\n[capture]\ninterval = \"1h\"\n");
    assert!(
        read("etc/systemd/network/10-site.network")
            .contains("Address=192.0.2.7/24\nGateway=192.0.2.1\nDNS=192.0.2.53 192.0.2.54\nNTP=192.0.2.123\n")
    );
    let mode = fs::metadata(folder.path().join("etc/sluice/token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(fs::read_dir(folder.path().join("run/sluice")).unwrap().count(), 0, "what was checked stays nowhere");
}

#[test]
fn a_file_that_says_nothing_changes_nothing() {
    let (folder, place) = place();
    let site = Site::parse("# nothing\n").unwrap();
    site.check_edge(&place, Path::new("sluice.toml")).unwrap();
    site.apply(&place, None).unwrap();
    for path in ["etc/systemd/network", "etc/sluice"] {
        assert_eq!(fs::read_dir(folder.path().join(path)).unwrap().count(), 0, "{path}");
    }
}

#[test]
fn a_passphrase_is_what_asks_for_encryption() {
    let site = Site::parse("[data]\npassphrase = \"correct horse battery\"\n").unwrap();
    assert_eq!(site.passphrase(), Some("correct horse battery"));
    assert_eq!(Site::parse("[data]\n").unwrap().passphrase(), None);
    assert_eq!(Site::parse(WHOLE).unwrap().passphrase(), None);
}

#[test]
fn files_of_windows_are_read_too() {
    let site = Site::parse(&format!("\u{feff}{}", WHOLE.replace('\n', "\r\n"))).unwrap();
    assert_eq!(site.networks().len(), 1);
}

#[test]
fn several_networks_a_vlan_and_a_bond_are_understood() {
    let text = "[[network]]\nbond = [\"52:54:00:12:34:01\", \"52:54:00:12:34:02\"]\nmode = \"802.3ad\"\nvlan = 42\n\
        [[network]]\ncard = \"52:54:00:12:34:03\"\n";
    let site = Site::parse(text).unwrap();
    let names: Vec<_> = network::files(site.networks()).into_iter().map(|file| file.name).collect();
    let expected = [
        "10-site.netdev",
        "10-site-cards.network",
        "10-site-vlan.netdev",
        "10-site.network",
        "10-site-vlan.network",
        "10-site-2.network",
    ];
    assert_eq!(names, expected);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    assert_refused("\n\nnetwork = 5\n", 3, "a table [network], or several [[network]]");
    assert_refused("tokn = \"x\"\n", 1, "unknown field `tokn`");
    assert_refused("[network]\ncard = \"eth0\"\n", 2, "a card is a MAC address");
    assert_refused("[network]\n\naddress = \"192.0.2.7\"\n", 3, "192.0.2.7/24");
    assert_refused("[network]\ndns = \"192.0.2.53 x\"\n", 2, "an address as in");
    assert_refused("[network]\nvlan = 5000\n", 2, "1 to 4094");
    assert_refused("[network]\nadress = \"192.0.2.7/24\"\n", 2, "unknown field `adress`");
    assert_refused("disk = \"sda\"\n", 1, "disk is a path");
    assert_refused("disk = \"/dev/../etc/passwd\"\n", 1, "disk is a path");
    assert_refused("erase = \"all\"\n", 1, "erase can only be");
    assert_refused("token = \"a b\"\n", 1, "token is not what");
    assert_refused("token = \"a\"\ntoken = \"b\"\n", 2, "duplicate key");
    assert_refused("[netwrk]\n", 1, "unknown field `netwrk`");
    assert_refused("[data]\npassphrase = \"too short\"\n", 2, "passphrase has from 16 to 256 letters");
    assert_refused("[data]\npassphrase = \"schlüssel für die daten\"\n", 2, "that every keyboard has");
    assert_refused("[data]\npasphrase = \"x\"\n", 2, "unknown field `pasphrase`");
    assert_refused("token = \"open\n", 1, "");
}

#[test]
fn networks_that_do_not_fit_are_said_with_the_line_of_the_one_that_is_too_much() {
    assert_refused("erase = \"everything\"\n[network]\ngateway = \"192.0.2.1\"\n", 2, "gateway without address");
    let twice = "[[network]]\ncard = \"52:54:00:12:34:01\"\n\n[[network]]\ncard = \"52:54:00:12:34:01\"\n";
    assert_refused(twice, 4, "stands there twice");
    assert_refused("[network]\nmode = \"802.3ad\"\n", 1, "there is no bond");
    assert_refused("[network]\ncard = \"52:54:00:12:34:01\"\nbond = []\n", 1, "either card (one) or bond");
}

#[test]
fn a_token_in_the_wrong_place_is_not_repeated() {
    for text in [
        "network = \"sluice1.SECRET\"\n",
        "[network]\nvlan = \"sluice1.SECRET\"\n",
        "[edge]\n[[edge]]\n[network]\ncard = \"sluice1.SECRET\"\n",
        "[network]\ncard = \"sluice1.SECRET\"\n",
        "token = [\"sluice1.SECRET\"]\n",
        "[data]\npassphrase = \"SECRET\"\n",
        "data = \"a SECRET of many characters\"\n",
    ] {
        let (_, said) = refused(text);
        assert!(!said.contains("SECRET"), "{said}");
    }
}

#[test]
fn what_the_daemon_refuses_is_refused_here() {
    let (_folder, place) = place();
    let site = Site::parse("[edge]\nrate = \"wrong\"\n").unwrap();
    let said = site.check_edge(&place, Path::new("sluice.toml")).unwrap_err().to_string();
    assert_eq!(said, "sluice.toml: [edge]: rate = \"wrong\"");
}

#[test]
fn a_file_that_is_too_large_or_no_text_is_refused_before_it_is_parsed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.toml");
    fs::write(&path, vec![b'#'; MOST_BYTES as usize + 1]).unwrap();
    let said = Site::read(&path).err().unwrap().to_string();
    assert!(said.contains("more than 65536 bytes"), "{said}");
    fs::write(&path, b"# \xff\n").unwrap();
    assert!(Site::read(&path).err().unwrap().to_string().ends_with("is no text (UTF-8)"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "([a-z]{0,8}|[\\[\\]=\"\\n #.{}0-9]|network|edge|card|\\PC){0,30}") {
        let _ = Site::parse(&text);
    }
}
