//! Volumes over NBD: disks of QEMU by what changed, servers that die, trackers that lie.

use super::branch::{Branch, RECOVERY, Running, SITE, Setup};
use anyhow::{Context, Result, ensure};
use lab::images::same_bytes;
use lab::nbd::{NbdServer, TrackedImage};
use lab::wan::blake3_of;
use lab::world::{Captured, EdgeOptions, HURRY};
use sluice_edge::capture::How;
use std::process::Stdio;

const SIZE: u64 = 96 << 20;

/// A branch with a disk of QEMU as its volume `vm`.
struct Machine {
    branch: Branch,
    image: TrackedImage,
    server: Option<NbdServer>,
}

impl Machine {
    /// With its first generation at the gateway, and `capture` in the edge's `[capture]`. `None`: QEMU's tools are not installed.
    fn seeded(capture: &str) -> Result<Option<Machine>> {
        let extra = format!("memory = \"384 MiB\"\n{HURRY}");
        let edge = EdgeOptions { extra, capture: capture.into(), ..EdgeOptions::default() };
        let branch = Branch::with(Setup { edge, size: 8 << 20, ..Setup::default() })?;
        let Some(image) = TrackedImage::create(&branch.world.path().join("vm.qcow2"), SIZE, "sluice")? else {
            return Ok(None);
        };
        let mut machine = Machine { branch, image, server: None };
        machine.write(&["write -P 1 0 3M".into(), "write -P 2 40M 5M".into()])?;
        machine.image.bitmap(&["--clear"])?; // what it held before is no change
        let uri = machine.server()?.uri("&bitmap=sluice");
        machine.branch.edge.run("volume", &["add", "vm", "--source", &uri])?;
        let captured = machine.capture()?;
        ensure!(captured.how == How::Reread { why: "it is the first capture".into() }, "{:?}", captured.how);
        Ok(Some(machine))
    }

    fn server(&mut self) -> Result<&mut NbdServer> {
        if self.server.is_none() {
            self.server = Some(self.image.serve(&self.branch.world.path().join("vm.sock"))?);
        }
        self.server.as_mut().context("it was just started")
    }

    /// Writes while nobody serves it: qemu-io and qemu-nbd exclude each other.
    fn write(&mut self, commands: &[String]) -> Result<()> {
        self.server = None;
        Ok(self.image.io(commands)?)
    }

    /// Captures, and proves at the gateway that the generation is what QEMU says the disk holds.
    fn capture(&mut self) -> Result<Captured> {
        self.server()?;
        let captured = self.branch.edge.capture("vm")?;
        self.prove(&captured)?;
        Ok(captured)
    }

    fn prove(&self, captured: &Captured) -> Result<()> {
        let (raw, rebuilt) = (self.branch.world.path().join("vm.raw"), self.branch.world.path().join("vm.rebuilt"));
        self.image.convert(&raw)?;
        self.branch.gateway.rehydrate(&format!("{SITE}/vm"), "latest", &rebuilt)?;
        ensure!(same_bytes(&raw, &rebuilt)?, "the rebuilt disk is not the machine's");
        ensure!(blake3_of(&raw)? == captured.root, "it has another root");
        Ok(())
    }

    fn status(&self) -> Result<serde_json::Value> {
        let status = self.branch.edge.status()?;
        let volumes = status["volumes"].as_array().context("status lists volumes")?;
        volumes.iter().find(|volume| volume["name"] == "vm").cloned().context("vm is listed")
    }

    fn demoted(&mut self) -> Result<u64> {
        let metrics = self.branch.edge.daemon()?.metrics()?;
        Ok(metrics.count("sluice_edge_volume_tracker_demoted", &[("volume", "vm")]))
    }
}

fn changed(captured: &Captured) -> Result<u64> {
    match captured.how {
        How::Changes { changed_bytes, .. } => Ok(changed_bytes),
        ref how => anyhow::bail!("not what changed was read: {how:?}"),
    }
}

#[test]
fn a_machine_s_disk_is_replicated_by_reading_what_changed() -> Result<()> {
    let Some(mut machine) = Machine::seeded("verify_within = 96")? else { return Ok(()) };
    machine.write(&["write -P 9 70M 64k".into(), "write -z 41M 64k".into()])?;
    let captured = machine.capture()?;
    ensure!(changed(&captured)? == 2 * 65536 && captured.dirty_bytes == 2 * 65536, "{captured:?}");
    ensure!(captured.read_bytes <= (1 << 20) + 2 * 65536, "{} bytes were read", captured.read_bytes);
    let status = machine.status()?;
    ensure!(status["how"]["how"] == "changes" && status["tracker_demoted"].is_null(), "{status}");
    let said = machine.branch.edge.run("capture", &["vm"])?;
    ensure!(said.contains("were read: what changed, and a sample of the rest"), "{said}");
    Ok(())
}

#[test]
fn a_tracker_that_lies_is_found_within_the_captures_that_are_promised_and_believed_again_when_somebody_says_so()
-> Result<()> {
    let Some(mut machine) = Machine::seeded("verify_within = 4")? else { return Ok(()) };
    machine.server = None;
    machine.image.bitmap(&["--disable"])?;
    machine.write(&["write -P 7 80M 4k".into()])?;
    machine.image.bitmap(&["--enable"])?;
    let mut found = None;
    for capture in 1..=4 {
        machine.write(&[format!("write -P 3 {capture}M 4k")])?;
        machine.server()?;
        let captured = machine.branch.edge.capture("vm")?;
        if captured.demoted.is_some() {
            machine.prove(&captured)?; // repaired in the capture that found it
            found = captured.demoted;
            break;
        }
    }
    let why = found.context("the lie was not found within 4 captures")?;
    ensure!(why.contains("bytes 83886080-83890175") && why.contains("generations after 1"), "{why}");
    ensure!(machine.status()?["tracker_demoted"] == why && machine.demoted()? == 1);
    ensure!(machine.branch.edge.run("status", &[])?.contains("volume trust"));
    machine.branch.edge.daemon()?.wait_line("the change tracker is not believed any more", RECOVERY)?;
    // It outlives the daemon.
    machine.branch.edge.stop()?;
    machine.branch.edge.start()?;
    ensure!(machine.status()?["tracker_demoted"] == why && machine.demoted()? == 1);
    ensure!(matches!(machine.capture()?.how, How::Reread { .. }));
    machine.branch.edge.run("volume", &["trust", "vm"])?;
    ensure!(machine.demoted()? == 0 && machine.status()?["tracker_demoted"].is_null());
    changed(&machine.capture()?)?;
    Ok(())
}

#[test]
fn an_edge_that_dies_anywhere_in_a_tracked_capture_loses_no_change_and_reads_no_more() -> Result<()> {
    let Some(mut machine) = Machine::seeded("verify_within = 96")? else { return Ok(()) };
    for (number, (point, pass)) in
        [("edge.capture.slab", 2), ("edge.capture.stamp", 1), ("edge.capture.sealed", 1)].into_iter().enumerate()
    {
        machine.branch.edge.stop()?;
        machine.branch.edge.start_to_crash(point, pass)?;
        machine.write(&[format!("write -P {} {}M 64k", 20 + number, 10 + number)])?;
        machine.server()?;
        let mut command = machine.branch.edge.capture_in_background("vm");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let running = Running::new(command.spawn()?);
        machine.branch.edge.wait_crash(RECOVERY)?;
        drop(running);
        // Changed again while nobody looks.
        machine.write(&[format!("write -P {} 60M 64k", 30 + number)])?;
        machine.branch.edge.start()?;
        let captured = machine.capture()?;
        ensure!(changed(&captured)? == (2 + number as u64) * 65536, "{point}: {captured:?}");
    }
    Ok(())
}

#[test]
fn a_server_that_is_killed_in_the_middle_of_a_capture_ends_it_by_name_and_the_next_one_is_right() -> Result<()> {
    let branch = Branch::new()?;
    let (socket, image) = (branch.world.path().join("kit.sock"), branch.sample.path().display().to_string());
    let slow = ["-f", "-U", "{}", "--filter=noextents", "--filter=delay", "file", &image, "delay-read=100ms"];
    let Some(mut server) = NbdServer::start(&socket, "nbdkit", &slow)? else { return Ok(()) };
    branch.edge.run("volume", &["add", "kit", "--source", &server.uri("")])?;
    let mut command = branch.edge.capture_in_background("kit");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let running = Running::new(command.spawn()?);
    let volume = || -> Result<serde_json::Value> {
        let status = branch.edge.status()?;
        let volumes = status["volumes"].as_array().context("status lists volumes")?;
        volumes.iter().find(|volume| volume["name"] == "kit").cloned().context("kit is listed")
    };
    let until = std::time::Instant::now() + RECOVERY;
    while volume()?["capturing"]["done_bytes"].as_u64().is_none_or(|done| done == 0) {
        ensure!(std::time::Instant::now() < until, "the capture does not begin");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    server.kill();
    ensure!(running.finish().is_err(), "a capture without its server");
    let failed = volume()?["capture_failed"].to_string();
    ensure!(failed.contains("kit.sock") && failed.contains("check that the server runs"), "{failed}");
    let _server = NbdServer::start(&socket, "nbdkit", &["-f", "-U", "{}", "file", &image])?;
    let captured = branch.edge.capture("kit")?;
    let rebuilt = branch.world.path().join("kit.rebuilt");
    branch.gateway.rehydrate(&format!("{SITE}/kit"), "latest", &rebuilt)?;
    ensure!(same_bytes(branch.sample.path(), &rebuilt)? && blake3_of(&rebuilt)? == captured.root);
    Ok(())
}

#[test]
fn what_a_source_lacks_is_said_before_it_is_a_volume() -> Result<()> {
    let branch = Branch::new()?;
    let socket = branch.world.path().join("kit.sock");
    let arguments = ["-f", "-U", "{}", "memory", "4M"];
    let Some(server) = NbdServer::start(&socket, "nbdkit", &arguments)? else { return Ok(()) };
    let said = branch.edge.run("volume", &["test", &server.uri(""), "--json"])?;
    let findings: Vec<sluice_edge::source::ask::Finding> = serde_json::from_str(&said)?;
    let of = |what: &str| findings.iter().find(|finding| finding.what == what).map(|finding| finding.standing);
    use sluice_edge::source::ask::Standing;
    ensure!(
        of("read-only") == Some(Standing::Costly)
            && of("holes") == Some(Standing::Good)
            && of("rate") == Some(Standing::Good),
        "{said}"
    );
    let refused = branch.edge.run("volume", &["test", &server.uri("&bitmap=sluice")]);
    let said = refused.err().context("a bitmap that is not there is not supported")?.to_string();
    ensure!(said.contains("the server shows no bitmap `sluice`"), "{said}");
    drop(server);
    let said = branch.edge.run("volume", &["test", &format!("nbd+unix:///?socket={}", socket.display())]);
    ensure!(said.err().is_some_and(|said| said.to_string().contains("unsupported")));
    Ok(())
}
