//! Flipped bits at rest: found, named, repaired or asked for again.

use super::branch::{Branch, RECOVERY, Setup, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::world::EdgeOptions;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// All files below `folder`, largest first.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(std::fs::metadata(path).map_or(0, |data| data.len())));
    Ok(found)
}

fn flip_a_bit(file: &Path) -> Result<()> {
    let middle = std::fs::metadata(file)?.len() / 2;
    flip_a_bit_at(file, middle)
}

fn flip_a_bit_at(file: &Path, at: u64) -> Result<()> {
    let image = OpenOptions::new().read(true).write(true).open(file)?;
    let mut byte = [0];
    image.read_exact_at(&mut byte, at)?;
    Ok(image.write_all_at(&[byte[0] ^ 0x10], at)?)
}

fn largest_pack(state: &Path) -> Result<PathBuf> {
    let packs = files(state)?.into_iter().filter(|path| path.components().any(|part| part.as_os_str() == "packs"));
    packs.into_iter().next().with_context(|| format!("no pack below {}", state.display()))
}

#[test]
fn a_flipped_bit_in_a_pack_of_the_gateway_is_found_named_and_repaired_from_the_edge() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let pack = largest_pack(&branch.gateway.state())?;
    branch.gateway.stop()?;
    flip_a_bit(&pack)?;
    branch.gateway.start()?;
    std::fs::remove_file(branch.rebuilt())?;
    let refused = branch.gateway.rehydrate(&branch.volume(), "latest", &branch.rebuilt());
    let error = refused.err().context("a damaged generation must not be rebuilt as if nothing were")?.to_string();
    let name = pack.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    ensure!(error.contains(&name), "the error names pack {name}: {error}");
    // The damage is found while the edge is away, as it mostly will be: it is asked when it comes back.
    branch.edge.stop()?;
    let said = branch.gateway.run("scrub", &[])?;
    ensure!(said.contains("asked for when their edge connects"), "the scrub says what it waits for: {said}");
    branch.edge.start()?;
    let captured = branch.edge.capture(VOLUME)?;
    let deadline = Instant::now() + RECOVERY;
    while branch.gateway.rehydrate(&branch.volume(), "latest", &branch.rebuilt()).is_err() {
        ensure!(Instant::now() < deadline, "the edge still has the block, but it was never repaired");
        std::thread::sleep(Duration::from_millis(200));
    }
    branch.prove(&captured, branch.sample.path())
}

#[test]
fn flipped_bits_all_over_a_pack_of_the_edge_are_named_and_mended_when_the_next_generation_builds_on_it() -> Result<()> {
    let mut branch = Branch::seeded()?;
    branch.edge.stop()?;
    // So many that the day's changes cannot miss them all.
    let pack = largest_pack(&branch.edge.state())?;
    for at in (64 << 10..std::fs::metadata(&pack)?.len()).step_by(256 << 10) {
        flip_a_bit_at(&pack, at)?;
    }
    // Without a line the scrub can only name it: what the next generation builds on is asked for when it is needed.
    branch.line.cut();
    branch.edge.start()?;
    let said =
        branch.edge.run("scrub", &[]).err().context("a scrub that mended nothing ends with an error")?.to_string();
    ensure!(said.contains("damaged") && said.contains("there is no session"), "the scrub names the damage: {said}");
    branch.line.heal();
    branch.sample.busy_day()?;
    branch.replicate()?;
    let said = branch.edge.run("scrub", &[]);
    ensure!(said.is_ok(), "nothing that a generation needs is damaged any more: {said:?}");
    Ok(())
}

#[test]
fn a_flipped_bit_in_a_spooled_parcel_is_found_before_it_is_sent() -> Result<()> {
    let edge = EdgeOptions { rate: "0".into(), ..EdgeOptions::default() };
    let mut branch = Branch::with(Setup { edge, size: 16 << 20, ..Setup::default() })?;
    let running = branch.begin_capture()?;
    branch.edge.daemon()?.wait_until("a parcel in the spool", RECOVERY, |edge| {
        Ok(edge.metrics()?.value("sluice_edge_spool_bytes", &[]).filter(|bytes| *bytes > 0.0))
    })?;
    branch.edge.kill()?;
    drop(running);
    let parcels: Vec<_> = files(&branch.edge.state().join("spool"))?;
    flip_a_bit(
        parcels.iter().find(|path| path.extension().is_some_and(|e| e == "parcel")).context("a parcel in the spool")?,
    )?;
    branch.edge.options().rate = "unlimited".into();
    branch.edge.start()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn a_target_that_somebody_wrote_to_is_noticed_and_made_right() -> Result<()> {
    let mut branch = Branch::seeded()?;
    flip_a_bit(&branch.rebuilt())?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}
