//! The whole way, without any trouble: what all other scenarios build on.

use super::branch::{Branch, SITE, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::images::{data_ranges, dirty_bytes};

#[test]
fn a_volume_is_replicated_changed_followed_and_rebuilt_byte_for_byte() -> Result<()> {
    let mut branch = Branch::new()?;
    let seed = branch.replicate()?;
    for _ in 0..3 {
        let before = branch.keep_copy("before.img")?;
        branch.sample.busy_day()?;
        let dirty = dirty_bytes(&before, branch.sample.path())?;
        let delta = branch.replicate()?;
        ensure!(delta.dirty_bytes == dirty, "the edge counts {} dirty bytes, there are {dirty}", delta.dirty_bytes);
        ensure!(delta.coded_bytes < seed.coded_bytes / 5, "a day costs {} of {}", delta.coded_bytes, seed.coded_bytes);
    }
    // Every generation is still there, each as it was.
    let listed = branch.gateway.run("generations", &[&branch.volume()])?;
    ensure!(listed.lines().count() >= 4, "four generations are listed:\n{listed}");
    Ok(())
}

#[test]
fn an_unchanged_volume_costs_next_to_nothing() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let before = branch.line.carried_up();
    let captured = branch.replicate()?;
    let sent = branch.line.carried_up() - before;
    ensure!(captured.dirty_bytes == 0 && sent < 20_000, "{} dirty, {sent} bytes sent", captured.dirty_bytes);
    Ok(())
}

#[test]
fn a_volume_may_grow_and_shrink_between_captures() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let size = branch.sample.size();
    for size in [size + (20 << 20) + 512, size - (10 << 20), 8 << 20, size] {
        branch.sample.resize(size)?;
        branch.replicate()?;
    }
    Ok(())
}

#[test]
fn holes_stay_holes_at_the_target() -> Result<()> {
    let branch = Branch::seeded()?;
    let (source, target) = (std::fs::File::open(branch.sample.path())?, std::fs::File::open(branch.rebuilt())?);
    let data = |file| Ok::<u64, std::io::Error>(data_ranges(file)?.iter().map(|(start, end)| end - start).sum());
    let (source, target) = (data(&source)?, data(&target)?);
    ensure!(target <= source + (1 << 20), "the target holds {target} bytes of data, the source {source}");
    Ok(())
}

#[test]
fn rehydrating_a_delta_writes_only_what_differs() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let before = branch.keep_copy("before.img")?;
    branch.sample.busy_day()?;
    let dirty = dirty_bytes(&before, branch.sample.path())?;
    let captured = branch.edge.capture(VOLUME)?;
    let to = branch.rebuilt().display().to_string();
    let said = branch.gateway.run("rehydrate", &["--volume", &branch.volume(), "--to", &to, "--json"])?;
    let written = number_in(&said, "written_bytes")?;
    ensure!(written <= dirty, "{written} bytes were written for {dirty} dirty ones");
    branch.prove(&captured, branch.sample.path())
}

/// The number under a name anywhere in a JSON text.
fn number_in(json: &str, name: &str) -> Result<u64> {
    let after = json.split(&format!("\"{name}\":")).nth(1).with_context(|| format!("no {name} in {json}"))?;
    let digits: String = after.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("{name} is no number in {json}"))
}

#[test]
fn an_edge_says_in_a_sentence_what_it_does() -> Result<()> {
    let branch = Branch::seeded()?;
    let status = branch.edge.run("status", &[])?;
    ensure!(status.contains(VOLUME), "{status}");
    let sites = branch.gateway.run("sites", &[])?;
    ensure!(sites.contains(SITE), "{sites}");
    let volumes = branch.gateway.run("volumes", &[])?;
    ensure!(volumes.contains(VOLUME), "{volumes}");
    Ok(())
}

#[test]
fn the_gateway_takes_its_own_backup_while_it_runs_and_is_restored_from_it() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let backup = branch.world.path().join("backup");
    let folder = backup.display().to_string();
    branch.gateway.run("backup", &["--to", &folder])?;
    branch.gateway.kill()?;
    // The machine is lost; its packs lay on a disk of their own and are not.
    let (state, lost) = (branch.gateway.state(), branch.world.path().join("lost"));
    std::fs::rename(&state, &lost)?;
    branch.gateway.run("restore", &["--from", &folder])?;
    for tenant in std::fs::read_dir(lost.join("tenants"))? {
        let tenant = tenant?;
        let home = state.join("tenants").join(tenant.file_name());
        std::fs::create_dir_all(&home)?;
        std::fs::rename(tenant.path().join("packs"), home.join("packs"))?;
    }
    branch.gateway.run("rebuild", &[])?;
    branch.gateway.start()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn a_lost_index_is_made_anew_from_the_packs() -> Result<()> {
    let mut branch = Branch::seeded()?;
    branch.sample.busy_day()?;
    let captured = branch.replicate()?;
    branch.gateway.stop()?;
    let mut lost = 0;
    for tenant in std::fs::read_dir(branch.gateway.state().join("tenants"))? {
        let index = tenant?.path().join("index.redb");
        if index.exists() {
            std::fs::remove_file(index)?;
            lost += 1;
        }
    }
    ensure!(lost == 1, "the tenant's index was there to be lost");
    branch.gateway.run("rebuild", &[])?;
    branch.gateway.start()?;
    std::fs::remove_file(branch.rebuilt())?;
    branch.prove(&captured, branch.sample.path())?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}
