//! Sources that misbehave while they are read: shrinking, vanishing, unreadable sectors; and block devices.

use super::branch::{Branch, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::volumes::Sample;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device over a file, for as long as it is held.
struct LoopDevice(PathBuf);

impl LoopDevice {
    /// `None` where none may be made; the test is skipped then.
    fn over(file: &Path) -> Result<Option<Self>> {
        let output = Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(file).output();
        match output {
            Ok(output) if output.status.success() => {
                Ok(Some(Self(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))))
            }
            Ok(output) => {
                lab::skip(&format!(
                    "no loop device can be made here: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                ));
                Ok(None)
            }
            Err(why) => {
                lab::skip(&format!("losetup cannot be started: {why}"));
                Ok(None)
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status(); // it goes with the machine otherwise
    }
}

/// What a refused capture says.
fn refusal(branch: &Branch, volume: &str) -> Result<String> {
    let refused = branch.edge.capture(volume).err().context("the capture must be refused")?;
    Ok(refused.to_string())
}

#[test]
fn a_source_that_vanishes_is_named_and_the_others_go_on() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let other = branch.world.path().join("other.img");
    let _other_sample = Sample::create(&other, 8 << 20, 9)?;
    branch.edge.add_volume("other", &other)?;
    let away = branch.world.path().join("away.img");
    std::fs::rename(branch.sample.path(), &away)?;
    let error = refusal(&branch, VOLUME)?;
    ensure!(error.contains("volume.img"), "the error names the source: {error}");
    branch.edge.capture("other")?;
    std::fs::rename(&away, branch.sample.path())?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn a_source_that_shrinks_while_it_is_read_leaves_no_half_generation() -> Result<()> {
    let mut branch = Branch::seeded()?;
    branch.edge.stop()?;
    let size = branch.sample.size();
    // The capture stops dead in its second slab; the source is then shorter than the draft believes.
    branch.edge.start_to_crash("edge.capture.slab", 2)?;
    branch.sample.busy_day()?;
    let running = branch.begin_capture()?;
    branch.edge.wait_crash(super::branch::RECOVERY)?;
    drop(running);
    branch.sample.resize(size / 2)?;
    branch.edge.start()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn a_file_of_an_odd_size_is_refused_with_the_remedy() -> Result<()> {
    let branch = Branch::seeded()?;
    let odd = branch.world.path().join("odd.img");
    std::fs::write(&odd, vec![1; 1000])?;
    let said = branch.edge.add_volume("odd", &odd).err().map(|error| error.to_string());
    let error = match said {
        Some(error) => error,
        None => refusal(&branch, "odd")?,
    };
    ensure!(error.contains("512"), "{error}");
    Ok(())
}

#[test]
fn a_block_device_is_replicated() -> Result<()> {
    let branch = Branch::seeded()?;
    let image = branch.world.path().join("device.img");
    let sample = Sample::create(&image, (16 << 20) + 512 * 3, 9)?;
    let Some(device) = LoopDevice::over(sample.path())? else { return Ok(()) };
    branch.edge.run("volume", &["add", "device", "--source", &format!("block:{}", device.0.display())])?;
    let captured = branch.edge.capture("device")?;
    let rebuilt = branch.world.path().join("device-rebuilt.img");
    branch.gateway.rehydrate(&format!("{}/device", super::branch::SITE), "latest", &rebuilt)?;
    ensure!(lab::images::same_bytes(&image, &rebuilt)?);
    ensure!(lab::wan::blake3_of(&rebuilt)? == captured.root);
    Ok(())
}

#[test]
fn unreadable_sectors_are_listed_and_never_silently_zero() -> Result<()> {
    let branch = Branch::seeded()?;
    let image = branch.world.path().join("bad.img");
    let sample = Sample::create(&image, 16 << 20, 9)?;
    let Some(device) = LoopDevice::over(sample.path())? else { return Ok(()) };
    branch.edge.run("volume", &["add", "bad", "--source", &format!("block:{}", device.0.display())])?;
    // The device keeps its size, but what lies behind its last quarter is gone: reads there fail as on a dying disk.
    let file = std::fs::OpenOptions::new().write(true).open(&image)?;
    file.set_len(12 << 20)?;
    drop_cache(&device.0)?;
    let error = refusal(&branch, "bad")?;
    ensure!(
        error.contains("read") && error.contains(&device.0.display().to_string()),
        "the error names the device: {error}"
    );
    let status = branch.edge.run("status", &[])?;
    ensure!(status.contains("bad"), "{status}");
    let listed = branch.gateway.run("volumes", &[])?;
    let generations = branch.gateway.run("generations", &[&format!("{}/bad", super::branch::SITE)]);
    ensure!(
        generations.as_ref().map_or(true, |text| !text.contains("sealed")),
        "nothing of it is sealed: {generations:?}; {listed}"
    );
    Ok(())
}

/// Lets the kernel forget what it read of a device.
fn drop_cache(device: &Path) -> Result<()> {
    let status = Command::new("blockdev").arg("--flushbufs").arg(device).status()?;
    ensure!(status.success(), "blockdev --flushbufs {}", device.display());
    Ok(())
}
