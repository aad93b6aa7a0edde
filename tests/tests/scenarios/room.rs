//! Disk full on either side: a clear state, no loss, and it goes on by itself when there is room.

use super::branch::{Branch, RECOVERY};
use anyhow::{Context, Result, ensure};
use lab::volumes::Sample;
use lab::world::{EdgeOptions, GatewayOptions, HURRY, World};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};

/// A small file system in memory, for as long as it is held.
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where none may be made; the test is skipped then.
    pub(super) fn mount(at: &Path, mib: u64) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let size = format!("size={mib}m");
        match mount(Some("sluice-test"), at, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())) {
            Ok(()) => Ok(Some(Self(at.to_path_buf()))),
            Err(why) => {
                lab::skip(&format!("no file system can be mounted here ({why}); run as root"));
                Ok(None)
            }
        }
    }

    fn resize(&self, mib: u64) -> Result<()> {
        let size = format!("size={mib}m");
        Ok(mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_REMOUNT, Some(size.as_str()))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH); // nothing else could be done about it
    }
}

#[test]
fn a_full_disk_at_the_edge_is_said_clearly_and_ends_by_itself() -> Result<()> {
    let world = World::new()?;
    let Some(disk) = SmallDisk::mount(&world.path().join("edge-full"), 24)? else { return Ok(()) };
    let mut gateway = world.gateway(GatewayOptions::default())?;
    gateway.start()?;
    let extra = format!("memory = \"384 MiB\"\nspool = \"160 MiB\"\n{HURRY}");
    let mut edge = world.edge("full", EdgeOptions { extra, ..EdgeOptions::default() })?;
    edge.enrol(&gateway.token("full")?)?;
    edge.start()?;
    let sample = Sample::create(&world.path().join("volume.img"), 96 << 20, 5)?;
    edge.add_volume("disk", sample.path())?;
    let mut capture = edge.capture_in_background("disk").stdout(std::process::Stdio::piped()).spawn()?;
    let status = wait_for_status(&mut edge, &["room", "full", "space"])?;
    ensure!(!status.is_empty());
    disk.resize(2000)?;
    let done = edge.capture("disk");
    let _ = capture.kill(); // it may have ended with the error, or have finished
    let _ = capture.wait();
    done?;
    let rebuilt = world.path().join("rebuilt.img");
    gateway.rehydrate("full/disk", "latest", &rebuilt)?;
    ensure!(lab::images::same_bytes(sample.path(), &rebuilt)?);
    drop(edge);
    drop(disk);
    Ok(())
}

/// Waits until `status` says that something is full.
fn wait_for_status(edge: &mut lab::world::Edge, words: &[&str]) -> Result<String> {
    let deadline = std::time::Instant::now() + RECOVERY;
    loop {
        let status = edge.run("status", &[])?;
        if words.iter().any(|word| status.contains(word)) {
            return Ok(status);
        }
        ensure!(std::time::Instant::now() < deadline, "the status never said that the disk is full: {status}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn a_full_disk_at_the_gateway_is_said_clearly_and_ends_by_itself() -> Result<()> {
    let world = World::new()?;
    let Some(disk) = SmallDisk::mount(&world.path().join("gateway"), 40)? else { return Ok(()) };
    let extra = "reserve_mib = 1\n".to_owned();
    let mut gateway = world.gateway(GatewayOptions { extra, ..GatewayOptions::default() })?;
    gateway.start()?;
    let mut edge = world.edge("b", EdgeOptions::default())?;
    edge.enrol(&gateway.token("b")?)?;
    edge.start()?;
    let sample = Sample::create(&world.path().join("volume.img"), 160 << 20, 5)?;
    edge.add_volume("disk", sample.path())?;
    let capture = edge.capture_in_background("disk").stdout(std::process::Stdio::piped()).spawn()?;
    wait_for_status(&mut edge, &["room", "full", "space"])?;
    disk.resize(2000)?;
    let output = capture.wait_with_output().context("waiting for the capture")?;
    ensure!(output.status.success(), "the capture goes on by itself: {}", String::from_utf8_lossy(&output.stdout));
    let rebuilt = world.path().join("rebuilt.img");
    gateway.rehydrate("b/disk", "latest", &rebuilt)?;
    ensure!(lab::images::same_bytes(sample.path(), &rebuilt)?);
    gateway.stop()?;
    drop(disk);
    Ok(())
}

#[test]
fn a_target_without_room_is_refused_and_nothing_is_lost() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let Some(disk) = SmallDisk::mount(&branch.world.path().join("target"), 4)? else { return Ok(()) };
    let target = branch.world.path().join("target/rebuilt.img");
    let refused = branch.gateway.rehydrate(&branch.volume(), "latest", &target);
    let error = refused.err().context("there is no room")?.to_string();
    ensure!(error.contains("rebuilt.img"), "the error names the target: {error}");
    disk.resize(2000)?;
    branch.gateway.rehydrate(&branch.volume(), "latest", &target)?;
    ensure!(lab::images::same_bytes(branch.sample.path(), &target)?);
    branch.gateway.stop()?;
    Ok(())
}
