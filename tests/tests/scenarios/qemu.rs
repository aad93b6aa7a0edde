//! A disk of a running machine whose guest writes all the time: what is captured is what it held when it was frozen, and whoever dies, it is thawed.

use super::branch::{Branch, RECOVERY, Running, SITE, Setup};
use anyhow::{Context, Result, ensure};
use lab::guest::{self, Writer};
use lab::images::same_bytes;
use lab::wan::blake3_of;
use lab::world::{Captured, EdgeOptions, HURRY};
use sluice_edge::capture::How;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long the guest may be frozen. In it its disk is copied, on a machine that does other things as well.
const WITHIN: &str = "20 s";

/// Speaks with the guest on its second serial line, keeps an image of what it holds while it is frozen, and writes down what it did. Files beside it make it worse: `kill` holds the id of a
/// process that it kills when all is frozen, with `slow` it does not come to its end.
const SCRIPT: &str = r#"#!/usr/bin/python3
import os, signal, socket, subprocess, sys, time

folder = os.path.dirname(os.path.abspath(__file__))

def at(name):
    return os.path.join(folder, name)

def say(word):
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(60)
    line.connect(at("words.sock"))
    line.sendall(word.encode() + b"\n")
    heard = b""
    while not heard.endswith(b"\n"):
        heard += line.recv(100)
    with open(at("said"), "ab") as said:
        said.write(heard)

assert os.environ["SLUICE_VOLUME"] == "vm"
say(sys.argv[1])
if sys.argv[1] == "freeze":
    subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", at("data.qcow2"), at("frozen.raw")], check=True)
    if os.path.exists(at("kill")):
        os.kill(int(open(at("kill")).read()), signal.SIGKILL)
    while os.path.exists(at("slow")):
        time.sleep(0.1)
"#;

struct Machine {
    branch: Branch,
    folder: PathBuf,
}

impl Machine {
    fn captured(&self) -> Result<Captured> {
        let captured = self.branch.edge.capture("vm")?;
        self.prove(&captured)?;
        Ok(captured)
    }

    /// The generation is what the guest held when it was frozen, here and at the gateway; it wrote on meanwhile, and nothing of ours is left in the machine.
    fn prove(&self, captured: &Captured) -> Result<()> {
        let (frozen, rebuilt) = (self.folder.join("frozen.raw"), self.branch.world.path().join("vm.rebuilt"));
        ensure!(blake3_of(&frozen)? == captured.root, "the generation is not what the guest held when it was frozen");
        self.branch.gateway.rehydrate(&format!("{SITE}/vm"), "latest", &rebuilt)?;
        ensure!(same_bytes(&frozen, &rebuilt)?, "the rebuilt disk is not the machine's");
        self.thawed()?;
        let (parts, bitmaps) = self.left()?;
        ensure!(parts == 0 && bitmaps == 1, "{parts} parts and {bitmaps} bitmaps are left in the machine");
        Ok(())
    }

    /// Waits until the guest is not frozen.
    fn thawed(&self) -> Result<()> {
        let until = Instant::now() + RECOVERY;
        loop {
            let said = std::fs::read_to_string(self.folder.join("said")).unwrap_or_default();
            if said.lines().last().is_some_and(|last| last != "frozen") {
                return Ok(());
            }
            ensure!(Instant::now() < until, "the guest is still frozen: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Nodes and exports of ours in the machine, and bitmaps.
    fn left(&self) -> Result<(usize, usize)> {
        let mut monitor = UnixStream::connect(self.folder.join("test.qmp"))?;
        monitor.set_read_timeout(Some(RECOVERY))?;
        let nodes = "{\"execute\": \"query-named-block-nodes\", \"arguments\": {\"flat\": true}}";
        for line in ["{\"execute\": \"qmp_capabilities\"}", nodes, "{\"execute\": \"query-block-exports\"}"] {
            writeln!(monitor, "{line}")?;
        }
        let (mut lines, mut answers) = (BufReader::new(monitor).lines(), Vec::new());
        while answers.len() < 3 {
            let line = lines.next().context("the monitor ended")??;
            if line.starts_with("{\"return\"") {
                answers.push(line);
            }
        }
        let answers = answers.concat();
        let parts = ["filter", "scratch", "frozen", "server", "read"]
            .map(|part| answers.matches(&format!("\"sluice-{part}-")).count());
        Ok((parts.iter().sum(), answers.matches("\"sluice-since-").count()))
    }

    /// A capture that something kills.
    fn begin(&self) -> Result<Running> {
        let mut command = self.branch.edge.capture_in_background("vm");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Running::new(command.spawn()?))
    }

    fn is_captured_by_changes(&self) -> Result<()> {
        let captured = self.captured()?;
        ensure!(matches!(captured.how, How::Changes { .. }), "{:?}", captured.how);
        ensure!(captured.dirty_bytes > 0, "the guest wrote nothing");
        Ok(())
    }
}

fn script(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("freeze");
    std::fs::write(&path, SCRIPT)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn a_guest_that_writes_is_captured_as_it_was_when_it_was_frozen_and_is_thawed_whoever_dies() -> Result<()> {
    if let Some(why) = guest::missing() {
        lab::skip(&why);
        return Ok(());
    }
    let capture = format!("verify_within = 1000\nfreeze_within = \"{WITHIN}\"");
    let edge = EdgeOptions { extra: format!("memory = \"384 MiB\"\n{HURRY}"), capture, ..EdgeOptions::default() };
    let branch = Branch::with(Setup { edge, size: 8 << 20, ..Setup::default() })?;
    let folder = branch.world.path().join("vm");
    std::fs::create_dir(&folder)?;
    Writer::make(&folder)?;
    let mut writer = Writer::start(&folder)?;
    let script = script(&folder)?;
    let mut machine = Machine { branch, folder };
    let source = format!("qemu:{}?disk=data", machine.folder.join("sluice.qmp").display());
    let said = machine.branch.edge.run("volume", &["test", &source])?;
    ensure!(said.contains("the disk is qcow2"), "{said}");
    let add = ["add", "vm", "--source", &source, "--freeze", &script.display().to_string()];
    machine.branch.edge.run("volume", &add)?;

    machine.captured()?;
    machine.is_captured_by_changes()?;

    // The edge is killed while the guest is frozen.
    let pid = machine.branch.edge.daemon()?.pid().to_string();
    std::fs::write(machine.folder.join("kill"), pid)?;
    let running = machine.begin()?;
    machine.branch.edge.wait_crash(RECOVERY)?;
    drop(running);
    machine.thawed()?;
    std::fs::remove_file(machine.folder.join("kill"))?;

    // It is killed with the moment held, and all that it takes in the machine.
    machine.branch.edge.start_to_crash("edge.capture.stamp", 1)?;
    let running = machine.begin()?;
    machine.branch.edge.wait_crash(RECOVERY)?;
    drop(running);
    machine.thawed()?;
    ensure!(machine.left()?.0 > 0, "nothing was left that has to be removed");
    machine.branch.edge.start()?;
    machine.is_captured_by_changes()?;

    // A script that does not come to its end.
    std::fs::write(machine.folder.join("slow"), "")?;
    let refused = machine.branch.edge.capture("vm").err().context("it was captured")?.to_string();
    ensure!(refused.contains("freeze` failed: it did not end within 20 s; it was thawed"), "{refused}");
    machine.thawed()?;
    std::fs::remove_file(machine.folder.join("slow"))?;
    machine.is_captured_by_changes()?;

    // The machine dies while it is captured, and is started again.
    std::fs::write(machine.folder.join("kill"), writer.pid().to_string())?;
    ensure!(machine.branch.edge.capture("vm").is_err(), "a machine that is dead was captured");
    writer.kill();
    std::fs::remove_file(machine.folder.join("kill"))?;
    let _writer = Writer::start(&machine.folder)?;
    let captured = machine.captured()?;
    ensure!(
        matches!(&captured.how, How::Reread { why } if why.contains("QEMU did not end well")),
        "{:?}",
        captured.how
    );

    machine.branch.edge.run("volume", &["remove", "vm"])?;
    ensure!(machine.left()? == (0, 0), "a volume that is removed leaves something in the machine");
    Ok(())
}
