use super::*;
use crate::terminal::tests::Person;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;

/// A box in a folder, and who stands in front of it. Programs that would change this machine write down how they were called.
struct Bench {
    folder: tempfile::TempDir,
    person: Person,
    console: JoinHandle<Stop>,
}

/// What the console says when the menu is complete.
const MENU_END: &str = "Number: ";

impl Bench {
    fn new() -> Bench {
        Bench::with(|_| ())
    }

    /// `set_up` may change the console before it begins.
    fn with(set_up: impl FnOnce(&mut Console)) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        for path in
            ["bin", "etc/systemd/network", "etc/sluice", "run/sluice-console", "proc/self", "data", "boot/efi/grub"]
        {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        fs::write(folder.path().join("proc/cmdline"), "sluice.slot=A\n").unwrap();
        fs::write(folder.path().join("proc/self/mounts"), "/dev/sda5 /data ext4 rw 0 0\n").unwrap();
        for (name, mac, carrier) in [("ens3", "52:54:00:12:34:56", "1"), ("ens4", "52:54:00:12:34:57", "0")] {
            let card = folder.path().join("sys/class/net").join(name);
            fs::create_dir_all(card.join("device")).unwrap();
            fs::write(card.join("address"), mac).unwrap();
            fs::write(card.join("carrier"), carrier).unwrap();
        }
        let place = Place::of(folder.path());
        let (person, terminal) = Person::new();
        let release = Release { role: Role::Edge, version: "1.0".into() };
        let mut console = Console::new(terminal, place, release, Path::new("/dev/ttyS0"));
        for program in ["systemctl", "sluice-edge", "ip", "mount", "umount", "journalctl"] {
            answer(folder.path(), program, "");
        }
        answer(folder.path(), "lsblk", "echo '{\"blockdevices\": []}'");
        set_up(&mut console);
        let console = std::thread::spawn(move || console.run().unwrap_err());
        Bench { folder, person, console }
    }

    fn menu(&mut self) {
        self.person.sees("Press Enter for the menu");
        self.person.types("\r");
        self.person.sees(MENU_END);
    }

    /// Answers questions one after the other, each when it is asked.
    fn answers(&mut self, answers: &[(&str, &str)]) {
        for (question, answer) in answers {
            self.person.sees(question);
            self.person.types(answer);
        }
    }

    /// How this program was called, a line for each time.
    fn calls(&self, program: &str) -> String {
        fs::read_to_string(self.folder.path().join("bin").join(format!("{program}.calls"))).unwrap_or_default()
    }

    fn network(&self) -> Option<String> {
        fs::read_to_string(self.folder.path().join("etc/systemd/network/10-site.network")).ok()
    }

    /// The terminal goes away, and with it the console.
    fn end(self) {
        let Bench { folder, person, console } = self;
        drop(person);
        assert!(matches!(console.join().unwrap(), Stop::Gone(_)));
        drop(folder);
    }
}

/// Makes a program that writes down its arguments and then does what `script` says.
fn answer(folder: &Path, program: &str, script: &str) {
    let path = folder.join("bin").join(program);
    let calls = folder.join("bin").join(format!("{program}.calls"));
    fs::write(&path, format!("#!/bin/sh\necho \"$*\" >>{}\n{script}\n", calls.display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

const STATIC: [(&str, &str); 8] = [
    ("Number: ", "1\r"), // the first card
    ("VLAN", "\r"),
    ("Address", "192.0.2.7/24\r"),
    ("Gateway", "192.0.2.1\r"),
    ("DNS", "\r"),
    ("Time servers", "\r"),
    ("address 192.0.2.7/24, gateway 192.0.2.1", ""),
    ("Number: ", "1\r"), // try it
];

#[test]
fn the_status_and_the_menu_speak_both_languages() {
    let mut bench = Bench::new();
    bench.person.sees("Sluice edge 1.0, slot A");
    bench.person.sees("Press Enter for the menu, L for 中文.");
    bench.person.types("l");
    bench.person.sees("Sluice edge 1.0，系统槽 A");
    bench.person.sees("按回车进入菜单，按 L for English。");
    bench.person.types("\r");
    bench.person.sees("1  网络：地址、VLAN、网卡绑定");
    bench.person.sees("编号: ");
    bench.person.types("9\r");
    bench.person.sees("列表中没有“9”。请输入 0 到 8 之间的数字，然后按回车。");
    bench.person.types("0\r");
    bench.person.sees("按 L for English。");
    bench.person.types("L");
    bench.person.sees("Sluice edge 1.0, slot A");
    bench.end();
}

#[test]
fn the_kernels_screen_says_why_it_has_no_chinese() {
    let mut bench = Bench::with(|console| console.terminal.has_chinese = false);
    bench.person.sees("Press Enter for the menu.\n");
    bench.person.types("L");
    bench.person.sees("This screen has no Chinese characters");
    bench.person.sees("Sluice edge 1.0, slot A");
    bench.end();
}

#[test]
fn a_wrong_key_or_number_says_what_to_do() {
    let mut bench = Bench::new();
    bench.person.sees("Press Enter for the menu, L");
    bench.person.types("x");
    bench.person.sees("Press Enter for the menu.\n");
    bench.menu();
    bench.person.types("network\r");
    bench.person.sees("\"network\" is not in the list. Type a number from 0 to 8 and press Enter.");
    bench.end();
}

#[test]
fn a_network_that_somebody_keeps_stays() {
    let mut bench = Bench::new();
    bench.menu();
    bench.person.types("1\r");
    bench.answers(&STATIC);
    bench.person.sees("Press K within 120 s to keep it");
    assert!(bench.network().unwrap().contains("PermanentMACAddress=52:54:00:12:34:56\n"));
    bench.person.types("k");
    bench.person.sees("Kept. These settings hold from now on.");
    assert!(bench.network().unwrap().contains("Address=192.0.2.7/24\nGateway=192.0.2.1\n"));
    assert_eq!(bench.calls("systemctl"), "restart systemd-networkd.service\n");
    bench.end();
}

#[test]
fn a_network_that_nobody_keeps_is_put_back_when_the_time_is_over() {
    let mut bench = Bench::with(|console| console.trial = Duration::from_millis(500));
    bench.menu();
    bench.person.types("1\r");
    bench.answers(&STATIC);
    bench.person.sees("to keep it");
    bench.person.sees("The settings from before are back.");
    assert_eq!(bench.network(), None);
    assert_eq!(bench.calls("systemctl"), "restart systemd-networkd.service\n".repeat(2));
    bench.end();
}

#[test]
fn keys_typed_ahead_keep_nothing() {
    let mut bench = Bench::with(|console| console.trial = Duration::from_millis(500));
    bench.menu();
    bench.person.types("1\r1\r\r192.0.2.7/24\r192.0.2.1\r\r\r1\rkkk");
    bench.person.sees("The settings from before are back.");
    assert_eq!(bench.network(), None);
    bench.end();
}

#[test]
fn a_network_is_put_back_when_the_terminal_goes_away() {
    let mut bench = Bench::new();
    bench.menu();
    bench.person.types("1\r");
    bench.answers(&STATIC);
    bench.person.sees("to keep it");
    let Bench { folder, person, console } = bench;
    drop(person);
    assert!(matches!(console.join().unwrap(), Stop::Gone(_)));
    assert_eq!(fs::read_dir(folder.path().join("etc/systemd/network")).unwrap().count(), 0);
}

#[test]
fn a_network_that_cannot_be_set_up_is_put_back_with_the_reason() {
    let mut bench = Bench::new();
    answer(
        bench.folder.path(),
        "systemctl",
        "[ -e \"$0.failed\" ] || { touch \"$0.failed\"; echo no networkd >&2; exit 1; }",
    );
    bench.menu();
    bench.person.types("1\r");
    bench.answers(&STATIC);
    bench.person.sees("The network could not be set up:\n  systemctl: no networkd");
    bench.person.sees("The settings from before are back.");
    assert_eq!(bench.network(), None);
    bench.end();
}

#[test]
fn a_change_whose_console_died_is_put_back_by_the_next_one() {
    let mut bench = Bench::with(|console| {
        let folder = console.place.path(crate::trial::FOLDER);
        let file = |text: &str| crate::network::File { name: "10-site.network".into(), text: text.into() };
        crate::trial::replace(&folder, &[file("old")]).unwrap();
        let lock = console.place.path("/run/sluice-console/network.lock");
        drop(crate::trial::Trial::begin(&folder, &lock, &[file("new")]).unwrap());
    });
    bench.person.sees("Press Enter for the menu");
    assert_eq!(bench.network().as_deref(), Some("old"));
    assert_eq!(bench.calls("systemctl"), "restart systemd-networkd.service\n");
    bench.end();
}

#[test]
fn wrong_answers_about_the_network_say_what_is_wrong_and_ask_again() {
    let mut bench = Bench::new();
    bench.menu();
    bench.person.types("1\r");
    bench.answers(&[
        ("Number: ", "1\r"),
        ("VLAN", "4095\r"),
        ("Not taken: a VLAN is a number from 1 to 4094. Type it again.", "42\r"),
        ("Address", "192.0.2.7\r"),
        ("as in 192.0.2.7/24 (or 192.0.2.7/255.255.255.0). Type it again.", "192.0.2.7/24\r"),
        ("Gateway", "192.0.3.1\r"),
        ("Not taken: the gateway 192.0.3.1 is not in the network of 192.0.2.7/24", "192.0.2.1\r"),
        ("DNS", "dns.example.com\r"),
        ("Not taken: this is an address as in 192.0.2.1", "192.0.2.53\r"),
        ("Time servers", "a_b\r"),
        ("Not taken: a time server is an address or a name", "\x1b"), // and back to the menu
        ("Number: ", ""),
    ]);
    assert_eq!(bench.network(), None);
    bench.end();
}

#[test]
fn two_cards_become_a_bond_and_its_link_goes_when_it_is_put_back() {
    let mut bench = Bench::new();
    bench.menu();
    bench.person.types("1\r");
    bench.answers(&[
        ("4  two cards as one (bond)", ""),
        ("Number: ", "4\r"),
        ("The first card:", ""),
        ("Number: ", "1\r"),
        ("The second card:", ""),
        ("1  ens4", ""),
        ("Number: ", "1\r"),
        ("How do they work together?", ""),
        ("Number: ", "2\r"),
        ("VLAN", "\r"),
        ("Address", "\r"),
        ("DNS", "\r"),
        ("Time servers", "\r"),
        ("bond of 52:54:00:12:34:56 and 52:54:00:12:34:57, 802.3ad", ""),
        ("Number: ", "1\r"),
        ("to keep it", ""),
    ]);
    // As the kernel shows it once networkd made it.
    fs::create_dir_all(bench.folder.path().join("sys/class/net/bond1")).unwrap();
    bench.person.types("r");
    bench.person.sees("The settings from before are back.");
    assert_eq!(bench.calls("ip"), "link delete bond1\n");
    bench.end();
}

#[test]
fn a_token_goes_to_the_daemon_in_a_file_and_nowhere_else() {
    let mut bench = Bench::new();
    let seen = bench.folder.path().join("seen");
    answer(
        bench.folder.path(),
        "sluice-edge",
        &format!("cat \"$3\" >{}; echo 'enrolled as site duisburg'", seen.display()),
    );
    fs::write(bench.folder.path().join("etc/sluice/token"), "old").unwrap();
    bench.menu();
    bench.person.types("2\r");
    bench.person.sees("Only its beginning is shown.\n");
    bench.person.types("sluice1.TOPSECRET\r");
    let shown = bench.person.sees("Enrolled.");
    assert!(!shown.contains("SECRET"), "{shown}");
    assert_eq!(fs::read_to_string(&seen).unwrap(), "sluice1.TOPSECRET");
    let calls = bench.calls("sluice-edge");
    assert!(calls.starts_with("enrol --token-file ") && !calls.contains("SECRET"), "{calls}");
    assert_eq!(
        fs::read_dir(bench.folder.path().join("run/sluice-console"))
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name() != "network.lock")
            .count(),
        0
    );
    assert!(!bench.folder.path().join("etc/sluice/token").exists());
    bench.end();
}

#[test]
fn a_token_that_is_refused_says_why_and_one_that_is_none_asks_nobody() {
    let mut bench = Bench::new();
    answer(
        bench.folder.path(),
        "sluice-edge",
        "echo 'the gateway refuses to enrol this edge: it was used' >&2; exit 1",
    );
    bench.menu();
    bench.person.types("2\r");
    bench.answers(&[("is shown.\n", "not a token!\r"), ("are no token", ""), ("Number: ", "2\r")]);
    assert_eq!(bench.calls("sluice-edge"), "");
    bench.answers(&[
        ("is shown.\n", "sluice1.x\r"),
        ("Not enrolled:\n  sluice-edge: the gateway refuses to enrol this edge: it was used", ""),
    ]);
    bench.end();
}

#[test]
fn what_cannot_be_taken_back_wants_a_word() {
    let mut bench = Bench::new();
    bench.menu();
    bench.person.types("6\r");
    bench.answers(&[
        ("This box forgets its site", ""),
        ("Type forget", "yes\r"),
        ("Nothing was done.", ""),
        ("Number: ", "7\r"),
    ]);
    bench.answers(&[
        ("2  Switch off", ""),
        ("Number: ", "2\r"),
        ("Type off", "\r"),
        ("Nothing was done.", ""),
        ("Number: ", "6\r"),
    ]);
    assert_eq!(bench.calls("systemctl"), "");
    assert!(!bench.folder.path().join("data/reset").exists());
    bench.answers(&[
        ("Type forget", "forget\r"),
        ("Restarting...", ""),
        ("Number: ", "7\r"),
        ("Number: ", "2\r"),
        ("Type off", "off\r"),
        ("Number: ", ""),
    ]);
    assert!(bench.folder.path().join("data/reset").exists());
    assert_eq!(bench.calls("systemctl"), "reboot\npoweroff\n");
    bench.end();
}

#[test]
fn nothing_is_reset_without_a_data_partition() {
    let mut bench = Bench::new();
    fs::write(bench.folder.path().join("proc/self/mounts"), "").unwrap();
    bench.menu();
    bench.person.types("6\r");
    bench.person.sees("This is not possible:\n  the data partition is not there");
    bench.end();
}

#[test]
fn the_previous_version_is_named_and_started_only_by_its_word() {
    let mut bench = Bench::new();
    let esp = bench.folder.path().join("boot/efi/grub");
    bench.menu();
    bench.person.types("5\r");
    bench.answers(&[("This is not possible:", ""), ("cannot be read", ""), ("Number: ", "")]);
    let block = "# GRUB Environment Block\nA_state=good\nB_state=good\n";
    fs::write(esp.join("grubenv"), format!("{block}{}", "#".repeat(1024 - block.len()))).unwrap();
    fs::write(esp.join("slot-B.cfg"), "set slot_version=0.9\n").unwrap();
    bench.person.types("5\r");
    bench.answers(&[
        ("Now version 1.0 runs. Slot B has version 0.9", ""),
        ("Type previous", "previous\r"),
        ("Restarting...", ""),
        ("Number: ", ""),
    ]);
    assert_eq!(bench.calls("systemctl"), "start sluice-previous.service\nreboot\n");
    bench.end();
}

#[test]
fn a_bundle_is_written_to_the_stick_or_it_is_said_that_there_is_none() {
    let mut bench = Bench::new();
    bench.menu();
    bench.person.types("4\r");
    bench.answers(&[("There is no USB stick", ""), ("Number: ", "")]);
    let listed = r#"{"blockdevices": [{"path":"/dev/sdb", "fstype":"vfat", "label":"MINE", "size":4000000000, "tran":"usb", "rm":true}]}"#;
    answer(bench.folder.path(), "lsblk", &format!("echo '{listed}'"));
    answer(bench.folder.path(), "sluice-edge", "echo '{\"bundle\":1}'");
    bench.person.types("4\r");
    bench.answers(&[
        ("Writing to /dev/sdb (4.0 GB, MINE); leave it in...", ""),
        ("Written: sluice-diagnostics-", ""),
        ("Number: ", ""),
    ]);
    assert!(
        bench.calls("mount").starts_with("-t vfat,exfat,ext4,ext3,ext2 -o nosuid,nodev,noexec /dev/sdb "),
        "{}",
        bench.calls("mount")
    );
    assert_eq!(bench.calls("umount").lines().count(), 1);
    let mut written: Vec<_> = fs::read_dir(bench.folder.path().join("run/sluice-console/stick"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    written.sort();
    assert!(
        written.len() == 2
            && written[0].starts_with("sluice-diagnostics-")
            && written[1].starts_with("sluice-journal-"),
        "{written:?}"
    );
    bench.end();
}

#[test]
fn a_new_pin_is_shown_with_the_fingerprint() {
    let mut bench = Bench::new();
    answer(
        bench.folder.path(),
        "sluice-edge",
        "echo 'fingerprint  AB:CD'; echo 'PIN          1234 5678 (shown this once)'",
    );
    bench.menu();
    bench.person.types("3\r");
    bench.answers(&[("Number: ", "1\r"), ("  PIN  1234 5678\n", ""), ("  AB:CD\n", "")]);
    assert_eq!(bench.calls("sluice-edge"), "page --new-pin\n");
    bench.end();
}

#[test]
fn a_menu_that_is_left_open_goes_back_to_the_status() {
    let mut bench = Bench::with(|console| console.terminal.idle = Duration::from_millis(200));
    bench.menu();
    bench.person.sees("Nothing was typed for 10 minutes.");
    bench.person.sees("Sluice edge 1.0, slot A");
    bench.end();
}

#[test]
fn a_gateway_has_no_points_of_an_edge() {
    let mut bench = Bench::with(|console| console.release.role = Role::Gateway);
    bench.person.sees("Press Enter for the menu");
    bench.person.types("\r");
    let menu = bench.person.sees("Number: ");
    assert!(!menu.contains("Enrol") && menu.contains("Network") && menu.contains("5  Restart or switch off"), "{menu}");
    bench.end();
}
