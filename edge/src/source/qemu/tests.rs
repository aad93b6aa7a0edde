//! Against a real QEMU whose processor stands still: what its guest would write is written through the guest's device by the monitor.

#![allow(clippy::disallowed_methods, reason = "machines are waited for in real time")]

use super::*;
use crate::capture::sample::Sampling;
use crate::capture::tests::{Place, root_of};
use crate::capture::{Capture, CaptureError, Captured, How};
use dedupe::{Progress, UnixMillis};
use monitor::Monitor;
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SIZE: u64 = 64 << 20;
/// One unit of each capture.
const ONE_UNIT: Sampling = Sampling { captures: 1000, most: ByteCount(1 << 20) };

/// A machine with the disk `vd0`, which ends with this. Two monitors: the second is the test's own.
struct Qemu {
    child: Child,
    folder: PathBuf,
    own: Monitor,
}

impl Qemu {
    /// `None`, and said so: QEMU is not installed.
    fn start(place: &Place, format: &str) -> Option<Qemu> {
        let folder = place.dir.path().to_owned();
        let image = folder.join("guest.img");
        let run = |tool: &str, words: &[&str]| {
            Command::new(tool).args(words).stdin(Stdio::null()).stdout(Stdio::null()).spawn()
        };
        if !image.exists() {
            match run("qemu-img", &["create", "-q", "-f", format, image.to_str().unwrap(), &SIZE.to_string()]) {
                Ok(mut child) => assert!(child.wait().unwrap().success()),
                Err(why) => {
                    eprintln!("skipped: qemu-img cannot be started: {why}");
                    return None;
                }
            }
        }
        let drive = format!("if=none,id=drive0,format={format},file={}", image.display());
        let monitor = |name: &str| format!("unix:{},server=on,wait=off", folder.join(name).display());
        let child = run(
            "qemu-system-x86_64",
            &[
                "-accel",
                "tcg",
                "-m",
                "32",
                "-nodefaults",
                "-display",
                "none",
                "-S",
                "-drive",
                &drive,
                "-device",
                "virtio-blk-pci,drive=drive0,id=vd0",
                "-qmp",
                &monitor("sluice.qmp"),
                "-qmp",
                &monitor("test.qmp"),
            ],
        );
        let mut child = match child {
            Ok(child) => child,
            Err(why) => {
                eprintln!("skipped: qemu-system-x86_64 cannot be started: {why}");
                return None;
            }
        };
        let until = Instant::now() + Duration::from_secs(60);
        let own = loop {
            assert!(child.try_wait().unwrap().is_none(), "QEMU ended by itself");
            assert!(Instant::now() < until, "QEMU does not answer");
            match Monitor::connect(&folder.join("test.qmp")) {
                Ok(own) if folder.join("sluice.qmp").exists() => break own,
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        Some(Qemu { child, folder, own })
    }

    fn disk(&self) -> QemuDisk {
        QemuDisk { socket: self.folder.join("sluice.qmp"), disk: "vd0".into() }
    }

    fn config(&self) -> QemuConfig {
        QemuConfig { scratch: self.folder.clone(), scratch_most: ByteCount(1 << 30) }
    }

    fn open(&self) -> QemuSource {
        QemuSource::open(&self.disk(), &self.config()).unwrap()
    }

    /// What the guest writes: `len` bytes of one value.
    fn write(&mut self, value: u8, at: u64, len: u64) {
        self.device(&format!("write -P {value} {at} {len}"));
    }

    fn device(&mut self, does: &str) {
        let line = format!("qemu-io -d /machine/peripheral/vd0/virtio-backend \"{does}\"");
        let told = self.own.run("human-monitor-command", json!({"command-line": line})).unwrap();
        assert_eq!(told, json!(""), "{does} failed");
    }

    /// What the guest has on its disk now, by another program.
    fn image(&mut self) -> Vec<u8> {
        self.device("flush"); // where qcow2 has what is not in memory any more
        let out = self.folder.join("now.raw");
        let image = self.folder.join("guest.img");
        let copied =
            Command::new("qemu-img").args(["convert", "-U", "-O", "raw"]).arg(&image).arg(&out).status().unwrap();
        assert!(copied.success());
        let mut bytes = std::fs::read(out).unwrap();
        bytes.resize(SIZE as usize, 0);
        bytes
    }

    /// Names of what is ours in the machine: nodes, exports, open files, and bitmaps.
    fn ours(&mut self) -> (Vec<String>, Vec<String>) {
        let mut names = Vec::new();
        let mut bitmaps = Vec::new();
        for node in self.own.run("query-named-block-nodes", json!({"flat": true})).unwrap().as_array().unwrap() {
            names.push(node["node-name"].as_str().unwrap().to_owned());
            for bitmap in node["dirty-bitmaps"].as_array().unwrap_or(&vec![]) {
                bitmaps.extend(bitmap["name"].as_str().map(str::to_owned)); // QEMU's own have no names
            }
        }
        for export in self.own.run("query-block-exports", json!({})).unwrap().as_array().unwrap() {
            names.push(export["id"].as_str().unwrap().to_owned());
        }
        names.retain(|name| name.starts_with("sluice"));
        bitmaps.sort();
        bitmaps.dedup();
        (names, bitmaps)
    }

    fn quit(mut self) {
        let _ = self.own.try_run("quit", json!({}));
        self.child.wait().unwrap();
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

fn capture(place: &Place, source: &QemuSource) -> Result<Captured, CaptureError> {
    let progress = Progress::default();
    Capture { sampling: ONE_UNIT, ..place.capture(source, &progress) }.run(|| UnixMillis(1))
}

fn root(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}

fn why(captured: &Captured) -> String {
    match &captured.how {
        How::Reread { why } => why.clone(),
        other => panic!("not everything was read: {other:?}"),
    }
}

#[test]
fn a_disk_is_captured_as_it_was_at_one_moment_and_then_only_what_changed() {
    for format in ["qcow2", "raw"] {
        let place = Place::new();
        let Some(mut qemu) = Qemu::start(&place, format) else { return };
        qemu.write(1, 0, 20 << 20);
        let at_first = qemu.image();
        let source = qemu.open();
        // While it is captured: into what is read next, what is a hole, and what is never read again.
        qemu.write(2, 4 << 20, 1 << 20);
        qemu.write(3, 40 << 20, 64 << 10);
        let first = capture(&place, &source).unwrap();
        assert_eq!(root_of(&first), root(&at_first), "{format}");
        drop(source);

        qemu.write(4, 60 << 20, 4096);
        let at_second = qemu.image();
        let source = qemu.open();
        qemu.write(5, 60 << 20, 4096);
        let second = capture(&place, &source).unwrap();
        assert_eq!(root_of(&second), root(&at_second), "{format}");
        assert!(matches!(second.how, How::Changes { .. }), "{:?}", second.how);
        // What was written since the first moment, and one unit of the sample.
        assert!(second.read_bytes <= (1 << 20) + (96 << 10) + (1 << 20), "{} bytes were read", second.read_bytes);
        assert!(second.demoted.is_none());
        drop(source);

        let (names, bitmaps) = qemu.ours();
        assert_eq!((names, bitmaps.len()), (vec![], 1), "{bitmaps:?}");
        let third = capture(&place, &qemu.open()).unwrap();
        assert_eq!(root_of(&third), root(&qemu.image()));
        leave(&qemu.disk(), true).unwrap();
        assert_eq!(qemu.ours(), (vec![], vec![]), "a volume that is removed leaves nothing");
    }
}

#[test]
fn a_capture_that_fails_leaves_nothing_and_loses_no_change() {
    let place = Place::new();
    let Some(mut qemu) = Qemu::start(&place, "qcow2") else { return };
    qemu.write(1, 0, 8 << 20);
    capture(&place, &qemu.open()).unwrap();
    let (_, after_first) = qemu.ours();
    qemu.write(2, 1 << 20, 4096);
    drop(qemu.open());
    assert_eq!(qemu.ours(), (vec![], after_first), "a moment that nobody captured has no bitmap");
    qemu.write(3, 2 << 20, 4096);
    let second = capture(&place, &qemu.open()).unwrap();
    assert!(matches!(second.how, How::Changes { .. }), "{:?}", second.how);
    assert_eq!(root_of(&second), root(&qemu.image()));
}

#[test]
fn bitmaps_outlive_the_machine_on_qcow2_only_and_not_its_crash() {
    let place = Place::new();
    let Some(mut qemu) = Qemu::start(&place, "qcow2") else { return };
    qemu.write(1, 0, 8 << 20);
    capture(&place, &qemu.open()).unwrap();
    qemu.write(2, 1 << 20, 4096);
    qemu.quit();
    let mut qemu = Qemu::start(&place, "qcow2").unwrap();
    let second = capture(&place, &qemu.open()).unwrap();
    assert!(matches!(second.how, How::Changes { .. }), "{:?}", second.how);
    assert_eq!(root_of(&second), root(&qemu.image()));

    // One bitmap that is on the disk, and one that was never written to it.
    qemu.quit();
    for says in
        ["QEMU did not end well, and its bitmap is not whole", "the machine has lost its bitmap: QEMU did not end well"]
    {
        let mut qemu = Qemu::start(&place, "qcow2").unwrap();
        qemu.write(3, 1 << 20, 4096);
        qemu.kill();
        let mut qemu = Qemu::start(&place, "qcow2").unwrap();
        let third = capture(&place, &qemu.open()).unwrap();
        assert!(why(&third).starts_with(says), "{}", why(&third));
        assert_eq!(root_of(&third), root(&qemu.image()));
        assert_eq!(qemu.ours().1.len(), 1, "a bitmap that is not whole is removed");
        assert!(matches!(capture(&place, &qemu.open()).unwrap().how, How::Changes { .. }));
        qemu.kill();
    }

    let place = Place::new();
    let mut qemu = Qemu::start(&place, "raw").unwrap();
    qemu.write(1, 0, 8 << 20);
    capture(&place, &qemu.open()).unwrap();
    qemu.quit();
    let mut qemu = Qemu::start(&place, "raw").unwrap();
    let second = capture(&place, &qemu.open()).unwrap();
    assert!(why(&second).contains("disks of the format raw lose their bitmaps"), "{}", why(&second));
    assert_eq!(root_of(&second), root(&qemu.image()));
}

#[test]
fn a_machine_that_dies_ends_the_capture_and_the_next_one_is_right() {
    let place = Place::new();
    let Some(mut qemu) = Qemu::start(&place, "qcow2") else { return };
    qemu.write(1, 0, 30 << 20);
    let source = qemu.open();
    qemu.kill();
    let died = capture(&place, &source).unwrap_err().to_string();
    assert!(died.contains("NBD"), "{died}");
    drop(source);
    let mut qemu = Qemu::start(&place, "qcow2").unwrap();
    assert_eq!(root_of(&capture(&place, &qemu.open()).unwrap()), root(&qemu.image()));
}

#[test]
fn what_a_killed_edge_left_in_the_machine_is_removed_by_the_next_capture() {
    let place = Place::new();
    let Some(mut qemu) = Qemu::start(&place, "qcow2") else { return };
    qemu.write(1, 0, 8 << 20);
    capture(&place, &qemu.open()).unwrap();
    qemu.write(2, 1 << 20, 4096);
    // As far as a capture gets, in a machine that nobody tidies up: only its monitor is closed.
    let mut machine = Machine::open(&qemu.disk().socket).unwrap();
    let device = machine.find("vd0").unwrap();
    let (scratch, _) = scratch(&qemu.disk().socket, &qemu.config(), "left", SIZE).unwrap();
    let listener = UnixListener::bind(qemu.folder.join("left.nbd")).unwrap();
    machine.freeze(&device, "00112233445566ff", &scratch).unwrap();
    machine.serve("00112233445566ff", &listener).unwrap();
    let since = qemu.ours().1.into_iter().find(|name| !name.ends_with("66ff")).unwrap();
    machine.serve_changes(&device, "00112233445566ff", &since, 0).unwrap();
    drop((machine, scratch, listener));
    assert_eq!(qemu.ours().0.len(), 6, "{:?}", qemu.ours());
    qemu.write(3, 2 << 20, 4096);

    let second = capture(&place, &qemu.open()).unwrap();
    assert!(matches!(second.how, How::Changes { .. }), "{:?}", second.how);
    assert_eq!(root_of(&second), root(&qemu.image()));
    let (names, bitmaps) = qemu.ours();
    assert_eq!((names, bitmaps.len()), (vec![], 1), "{bitmaps:?}");
}

#[test]
fn a_moment_that_costs_too_much_is_given_up_and_the_guest_writes_on() {
    let place = Place::new();
    let Some(mut qemu) = Qemu::start(&place, "raw") else { return };
    qemu.write(1, 0, 32 << 20);
    let source =
        QemuSource::open(&qemu.disk(), &QemuConfig { scratch_most: ByteCount(4 << 20), ..qemu.config() }).unwrap();
    qemu.write(2, 0, 16 << 20);
    let refused = capture(&place, &source).unwrap_err().to_string();
    assert!(refused.contains("its guest overwrote more than the 4194304 bytes"), "{refused}");
    drop(source);
    assert_eq!(qemu.ours(), (vec![], vec![]));
}

#[test]
fn a_full_disk_of_ours_costs_the_moment_and_not_the_guests_write() {
    let place = Place::new();
    let Some(mut qemu) = Qemu::start(&place, "raw") else { return };
    let small = place.dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = nix::mount::mount(Some("none"), &small, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=2M"));
    if let Err(why) = mounted {
        eprintln!("skipped: a small file system cannot be mounted: {why}");
        return;
    }
    qemu.write(1, 0, 32 << 20);
    let source = QemuSource::open(&qemu.disk(), &QemuConfig { scratch: small.clone(), ..qemu.config() }).unwrap();
    qemu.write(2, 0, 16 << 20);
    let refused = capture(&place, &source).unwrap_err().to_string();
    drop(source);
    // A machine that stands still keeps the file that it was given.
    nix::mount::umount2(&small, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert!(refused.contains("QEMU gave it up: the old bytes"), "{refused}");
    assert_eq!(qemu.ours(), (vec![], vec![]));
    assert_eq!(root_of(&capture(&place, &qemu.open()).unwrap()), root(&qemu.image()));
}

#[test]
fn what_cannot_be_captured_is_refused_with_the_next_step() {
    let place = Place::new();
    let Some(mut qemu) = Qemu::start(&place, "raw") else { return };
    let refusal = |disk: QemuDisk, config: &QemuConfig| match QemuSource::open(&disk, config) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    };
    let other = QemuDisk { disk: "vdz".into(), ..qemu.disk() };
    assert!(refusal(other, &qemu.config()).contains("it has no disk `vdz`; it has: vd0"));
    let nowhere = QemuConfig { scratch: "/nonexistent".into(), ..qemu.config() };
    assert!(refusal(qemu.disk(), &nowhere).contains("name a folder that the daemon may write to"));
    let elsewhere = QemuDisk { socket: "/nonexistent.qmp".into(), ..qemu.disk() };
    assert!(refusal(elsewhere, &qemu.config()).contains("check that the machine runs"));
    let held = Monitor::connect(&qemu.disk().socket).unwrap();
    assert!(refusal(qemu.disk(), &qemu.config()).contains("one program at a time may use a monitor"));
    drop(held);
    let server = json!({"addr": {"type": "unix", "data": {"path": qemu.folder.join("other.nbd")}}});
    qemu.own.run("nbd-server-start", server).unwrap();
    assert!(refusal(qemu.disk(), &qemu.config()).contains("which another program uses"));
    assert_eq!(qemu.ours().0, Vec::<String>::new(), "a capture that could not begin leaves nothing");
    let running: Value = qemu.own.run("nbd-server-stop", json!({})).unwrap();
    assert_eq!(running, json!({}), "somebody else's server was not stopped");
}
