//! Standing orders: a target is kept at the latest generation, whatever happens to the gateway meanwhile.

use super::branch::{Branch, RECOVERY, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::images::same_bytes;
use lab::wan::blake3_of;
use lab::world::{Captured, Ended, WorldError};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Where a gateway is killed on its way to a restorable point: half of it is written, it is proved, it is a point that the gateway has not noted.
const STEPS: [&str; 3] = ["gateway.rehydrate.middle", "gateway.rehydrate.proved", "gateway.rehydrate.finished"];

#[test]
fn a_target_that_is_kept_is_brought_forward_by_itself_also_by_a_gateway_killed_at_every_step() -> Result<()> {
    let mut branch = Branch::new()?;
    let mut captured = branch.edge.capture(VOLUME)?;
    let folder = branch.world.path().join("cloud");
    std::fs::create_dir(&folder)?;
    branch.gateway.stop()?;
    let place = folder.display().to_string();
    branch.gateway.run("target", &["add", "cloud", "--tenant", "bank", "--folder", &place])?;
    branch.gateway.run("target", &["keep", "cloud", "--volume", &branch.volume()])?;
    let mut statements = BTreeSet::new();
    for step in STEPS {
        branch.gateway.launch_to_crash(step, 1)?;
        let ended = branch.gateway.wait_crash(RECOVERY).with_context(|| format!("{step} was not passed"))?;
        ensure!(ended == Ended::Signal(9), "the gateway ended with {ended:?} instead of at {step}");
        branch.gateway.start()?;
        wait_current(&mut branch, captured.number).with_context(|| format!("after a kill at {step}"))?;
        holds(&branch, &folder, &captured).with_context(|| format!("after a kill at {step}"))?;
        statements.insert(only_run(&branch, captured.number).with_context(|| format!("after a kill at {step}"))?);
        captured = next_generation(&mut branch)?;
    }
    ensure!(statements.len() == STEPS.len(), "each generation has a statement of its own: {statements:?}");
    // And without any kill.
    branch.gateway.start()?;
    wait_current(&mut branch, captured.number)?;
    holds(&branch, &folder, &captured)?;
    only_run(&branch, captured.number)?;
    Ok(())
}

/// A day passes and is captured while the order rests; at its next start the gateway finds the target behind.
fn next_generation(branch: &mut Branch) -> Result<Captured> {
    let order = ["cloud", "--volume", &branch.volume()];
    branch.gateway.run("target", &[&["pause"], &order[..]].concat())?;
    branch.sample.busy_day()?;
    let captured = branch.edge.capture(VOLUME)?;
    branch.gateway.stop()?;
    branch.gateway.run("target", &[&["resume"], &order[..]].concat())?;
    Ok(captured)
}

/// What `target WHAT --json` lists.
fn listed(gateway: &lab::world::Gateway, what: &str) -> Result<Vec<Value>, WorldError> {
    let text = gateway.run("target", &[what, "--json"])?;
    let answer = |why: String, text| WorldError::Answer { what: format!("`target {what} --json`"), why, text };
    let mut said: Value = match serde_json::from_str(&text) {
        Ok(said) => said,
        Err(why) => return Err(answer(why.to_string(), text)),
    };
    match said[what].take() {
        Value::Array(lines) => Ok(lines),
        _ => Err(answer(format!("there are no {what} in it"), text)),
    }
}

/// Waits until the only order is at this generation.
fn wait_current(branch: &mut Branch, number: u64) -> Result<()> {
    let deadline = std::time::Instant::now() + RECOVERY;
    loop {
        let orders = listed(&branch.gateway, "orders")?;
        ensure!(orders.len() == 1, "one order was given: {orders:?}");
        if orders[0]["state"] == "current" && orders[0]["holds"] == number {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < deadline, "still behind after {} s: {orders:?}", RECOVERY.as_secs());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// The target is the volume as it was captured, and nothing else lies beside it.
fn holds(branch: &Branch, folder: &Path, captured: &Captured) -> Result<()> {
    let names: BTreeSet<String> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    let image = names.iter().find(|name| name.ends_with(".raw")).with_context(|| format!("no image in {names:?}"))?;
    ensure!(names == BTreeSet::from([image.clone(), format!("{image}.sluice.json")]), "there is {names:?}");
    let image = folder.join(image);
    ensure!(same_bytes(branch.sample.path(), &image)?, "the target differs from the volume");
    ensure!(blake3_of(&image)? == captured.root, "the target has another root than the capture");
    Ok(())
}

/// The number of the statement of the one run that brought this generation there.
fn only_run(branch: &Branch, number: u64) -> Result<u64> {
    let mut runs = listed(&branch.gateway, "runs")?;
    runs.retain(|run| run["number"] == number);
    ensure!(runs.len() == 1 && runs[0]["state"] == "finished", "one run, finished, was to bring it there: {runs:?}");
    runs[0]["statement"].as_u64().with_context(|| format!("no statement: {runs:?}"))
}
