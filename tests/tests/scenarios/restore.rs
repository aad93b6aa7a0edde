//! Back to the branch: generations restored over the line or from what the edge still has, through kills, cuts and closed windows.

use super::branch::{Branch, RECOVERY, SITE, Setup, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::images::{dirty_bytes, same_bytes};
use lab::line::Fate;
use lab::wan::blake3_of;
use lab::world::{EdgeOptions, Ended};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Handshakes, hellos, questions and the record's own overhead, for what crosses beside a restore's parcels.
const BESIDE: u64 = 150_000;

/// IP bytes from the centre that came out at the branch.
fn carried_down(branch: &Branch) -> u64 {
    branch.line.reading().down.of(Fate::Delivered).bytes
}

fn target(branch: &Branch, name: &str) -> PathBuf {
    branch.world.path().join(name)
}

/// Restores to the end; what it says of itself.
fn restore(branch: &Branch, generation: &str, to: &Path) -> Result<Value> {
    let to = to.to_string_lossy().into_owned();
    let said = branch.edge.run("restore", &[VOLUME, "--generation", generation, "--to", &to, "--json"])?;
    json(&said)
}

fn json(said: &str) -> Result<Value> {
    let line = said.lines().rev().find(|line| line.starts_with(['{', '['])).context("no JSON was said")?;
    serde_json::from_str(line).with_context(|| format!("reading {line}"))
}

/// Begins a restore that goes on by itself.
fn begin(branch: &Branch, generation: &str, to: &Path) -> Result<super::branch::Running> {
    let mut command = branch.edge.command("restore");
    command.args([VOLUME, "--generation", generation, "--json", "--to"]).arg(to);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    Ok(super::branch::Running::new(command.spawn().context("starting a restore")?))
}

/// The only restore, once `wanted` is true of it.
fn wait_restore(branch: &Branch, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let all = json(&branch.edge.run("restore", &["list", "--json"])?)?;
        if let Some(status) = all.get(0)
            && wanted(status)
        {
            return Ok(status.clone());
        }
        ensure!(Instant::now() < deadline, "{what} did not come about: {all}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_done(status: &Value) -> bool {
    status["phase"]["state"] == "done"
}

/// A branch whose edge keeps next to nothing of what it has sent: a restore has to bring nearly all of it back.
fn forgetful() -> Result<Branch> {
    let setup = Setup::default();
    let extra = format!("cache = \"1 MB\"\n{}", setup.edge.extra);
    let mut branch =
        Branch::with(Setup { edge: EdgeOptions { extra, ..setup.edge }, size: 48 << 20, ..Setup::default() })?;
    branch.replicate()?;
    branch.edge.run("gc", &[])?;
    Ok(branch)
}

#[test]
fn an_older_generation_comes_back_byte_for_byte_and_only_what_differs_crosses_the_line() -> Result<()> {
    let mut branch = Branch::new()?;
    let up = branch.line.carried_up();
    branch.replicate()?;
    let seed = branch.line.carried_up() - up;
    let first = branch.keep_copy("first.img")?;
    for _ in 0..5 {
        branch.sample.busy_day()?;
        branch.edge.capture(VOLUME)?;
    }
    let listed = json(&branch.edge.run("generations", &[VOLUME, "--remote", "--json"])?)?;
    let oldest = listed.as_array().and_then(|all| all.last()).context("generations are listed")?;
    ensure!(oldest["number"] == 1 && oldest["number_here"].is_null(), "the edge has forgotten the first: {listed}");
    let to = target(&branch, "restored.img");
    let said = to.to_string_lossy().into_owned();
    let planned = branch.edge.run("restore", &[VOLUME, "--generation", "1", "--to", &said, "--plan", "--json"])?;
    let plan = json(&planned)?;
    ensure!(plan["base"].is_string() && plan["line_bytes"].as_u64() > Some(0) && !to.exists(), "{plan}");
    let before = carried_down(&branch);
    let done = restore(&branch, "1", &to)?;
    let crossed = carried_down(&branch) - before;
    ensure!(same_bytes(&first, &to)?, "the restored volume differs");
    ensure!(done["root"] == blake3_of(&to)?, "{done}");
    let dirty = dirty_bytes(branch.sample.path(), &first)?;
    ensure!(crossed < dirty + BESIDE, "{crossed} bytes crossed for {dirty} that differ");
    ensure!(crossed < seed / 2, "{crossed} bytes crossed, the first copy took {seed}");
    let audit = branch.gateway.run("audit", &["export"])?;
    ensure!(audit.contains("volume.fetch") && audit.contains(&format!("{SITE}/{VOLUME}")), "{audit}");
    Ok(())
}

#[test]
fn what_the_edge_has_needs_neither_line_nor_gateway() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let first = branch.keep_copy("first.img")?;
    let here = json(&branch.edge.run("generations", &[VOLUME, "--json"])?)?;
    let id = here[0]["generation"].as_str().context("one is here")?.to_owned();
    branch.sample.busy_day()?;
    branch.edge.capture(VOLUME)?;
    branch.gateway.stop()?;
    let (one, two) = (target(&branch, "one.img"), target(&branch, "two.img"));
    restore(&branch, &id, &one)?;
    restore(&branch, "latest", &two)?;
    ensure!(same_bytes(&first, &one)? && same_bytes(branch.sample.path(), &two)?, "a restored volume differs");
    // Numbers are the gateway's: without it they are not guessed.
    let refused = restore(&branch, "1", &target(&branch, "three.img")).unwrap_err().to_string();
    ensure!(refused.contains("is a number of the gateway's"), "{refused}");
    branch.gateway.start()?;
    Ok(())
}

#[test]
fn evicted_bytes_are_fetched() -> Result<()> {
    let branch = forgetful()?;
    let to = target(&branch, "restored.img");
    let done = restore(&branch, "latest", &to)?;
    ensure!(same_bytes(branch.sample.path(), &to)?, "the restored volume differs");
    ensure!(done["fetched_bytes"].as_u64() > Some(1 << 20), "{done}");
    Ok(())
}

#[test]
fn an_edge_killed_in_a_restore_goes_on_by_itself_and_fetches_nothing_twice() -> Result<()> {
    let mut branch = forgetful()?;
    let before = carried_down(&branch);
    restore(&branch, "latest", &target(&branch, "whole.img"))?;
    let once = carried_down(&branch) - before;
    for (number, (point, pass)) in
        [("edge.fetch.synced", 3), ("edge.restore.placed", 1), ("edge.restore.named", 1)].into_iter().enumerate()
    {
        let to = target(&branch, &format!("{number}.img"));
        branch.edge.stop()?;
        branch.edge.start_to_crash(point, pass)?;
        let before = carried_down(&branch);
        let running = begin(&branch, "latest", &to)?;
        let ended = branch.edge.wait_crash(RECOVERY).with_context(|| format!("{point} was not passed {pass} times"))?;
        ensure!(ended == Ended::Signal(9), "the edge ended with {ended:?} instead of at {point}");
        drop(running);
        ensure!(point == "edge.restore.named" || !to.exists(), "a file that is not whole has its name already");
        branch.edge.start()?;
        let last = |status: &Value| is_done(status);
        let deadline = Instant::now() + RECOVERY;
        loop {
            let all = json(&branch.edge.run("restore", &["list", "--json"])?)?;
            if all.as_array().and_then(|all| all.last()).is_some_and(last) {
                break;
            }
            ensure!(Instant::now() < deadline, "it did not go on by itself: {all}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let crossed = carried_down(&branch) - before;
        ensure!(same_bytes(branch.sample.path(), &to)?, "the restored volume differs after a kill at {point}");
        // What was in flight at the kill: a megabyte between two syncs, and a second handshake.
        ensure!(crossed < once + (1 << 20) + BESIDE, "{crossed} bytes with a kill at {point}, {once} without");
    }
    Ok(())
}

#[test]
fn a_gateway_killed_in_a_restore_costs_what_was_in_flight() -> Result<()> {
    let mut branch = forgetful()?;
    let before = carried_down(&branch);
    restore(&branch, "latest", &target(&branch, "whole.img"))?;
    let once = carried_down(&branch) - before;
    branch.gateway.stop()?;
    branch.gateway.start_to_crash("gateway.fetch.piece", 60)?;
    let before = carried_down(&branch);
    let to = target(&branch, "restored.img");
    let running = begin(&branch, "latest", &to)?;
    let ended = branch.gateway.wait_crash(RECOVERY)?;
    ensure!(ended == Ended::Signal(9), "the gateway ended with {ended:?}");
    branch.gateway.start()?;
    running.wait()?;
    let crossed = carried_down(&branch) - before;
    ensure!(same_bytes(branch.sample.path(), &to)?, "the restored volume differs");
    ensure!(crossed < once + (1 << 20) + BESIDE, "{crossed} bytes with a kill, {once} without");
    Ok(())
}

#[test]
fn a_line_that_is_cut_in_a_restore_costs_what_was_in_flight() -> Result<()> {
    let branch = forgetful()?;
    let before = carried_down(&branch);
    restore(&branch, "latest", &target(&branch, "whole.img"))?;
    let once = carried_down(&branch) - before;
    let before = carried_down(&branch);
    let to = target(&branch, "restored.img");
    let running = begin(&branch, "latest", &to)?;
    let deadline = Instant::now() + RECOVERY;
    while carried_down(&branch) < before + once / 2 {
        ensure!(Instant::now() < deadline, "the line carried nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    branch.line.cut();
    // Long enough for the session to be found dead or not: either way it goes on.
    std::thread::sleep(Duration::from_secs(2));
    branch.line.heal();
    running.wait()?;
    let crossed = carried_down(&branch) - before;
    ensure!(same_bytes(branch.sample.path(), &to)?, "the restored volume differs");
    ensure!(crossed < once + (2 << 20) + BESIDE, "{crossed} bytes with a cut, {once} without");
    Ok(())
}

/// All week the same profile; what goes down has a rate of its own.
fn document(profile: &str) -> String {
    format!(
        "zone = \"UTC\"\n[line]\nup = \"100 Mbit/s\"\ncourtesy = \"off\"\n[profiles]\nfull = \"100 %\"\n\
         upload = {{ up = \"50 Mbit/s\", down = \"0\" }}\n[grid]\nall = \"00:00 {profile}\"\n"
    )
}

fn set(branch: &Branch, document: &str) -> Result<()> {
    let file = branch.world.path().join("policy.toml");
    std::fs::write(&file, document)?;
    let file = file.to_string_lossy().into_owned();
    branch.gateway.run("policy", &["set", "--site", branch.edge.site(), "--file", &file, "--reason", "a test"])?;
    Ok(())
}

#[test]
fn a_restore_waits_for_its_window_and_goes_on_when_it_opens() -> Result<()> {
    let branch = forgetful()?;
    set(&branch, &document("upload"))?;
    let to = target(&branch, "restored.img");
    let running = begin(&branch, "latest", &to)?;
    let before = carried_down(&branch);
    let waits = |status: &Value| status["waits"].as_str().is_some_and(|why| why.contains("by the policy"));
    wait_restore(&branch, "a restore that waits for the way down", waits)?;
    set(&branch, &document("closed"))?;
    let closed = |status: &Value| status["waits"].as_str().is_some_and(|why| why.contains("the line is closed"));
    wait_restore(&branch, "a restore that waits for the line", closed)?;
    ensure!(carried_down(&branch) < before + BESIDE, "nothing of it came down meanwhile");
    set(&branch, &document("full"))?;
    running.wait()?;
    ensure!(same_bytes(branch.sample.path(), &to)?, "the restored volume differs");
    Ok(())
}

#[test]
fn what_must_not_be_overwritten_is_not() -> Result<()> {
    let branch = Branch::seeded()?;
    let source = branch.sample.path().to_owned();
    let before = branch.keep_copy("before.img")?;
    let refused = |to: &Path, more: &[&str]| {
        let to = to.to_string_lossy().into_owned();
        let args: Vec<&str> = [VOLUME, "--to", &to].into_iter().chain(more.iter().copied()).collect();
        branch.edge.run("restore", &args).unwrap_err().to_string()
    };
    let said = refused(&source, &[]);
    ensure!(said.contains("is captured from") && said.contains("--onto-source"), "{said}");
    let said = refused(&source, &["--onto-source"]);
    ensure!(said.contains("--confirm disk"), "{said}");
    let said = refused(&source, &["--onto-source", "--confirm", "other"]);
    ensure!(said.contains("nothing was done"), "{said}");
    let said = refused(&before, &[]);
    ensure!(said.contains("is there already"), "{said}");
    ensure!(same_bytes(&before, &source)?, "the source was touched");
    let to = source.to_string_lossy().into_owned();
    branch.edge.run("restore", &[VOLUME, "--to", &to, "--onto-source", "--confirm", VOLUME])?;
    ensure!(same_bytes(&before, &source)?, "the source is what was captured");
    Ok(())
}

#[test]
fn a_cancelled_restore_leaves_nothing_behind() -> Result<()> {
    let branch = forgetful()?;
    set(&branch, &document("upload"))?;
    let to = target(&branch, "restored.img");
    let running = begin(&branch, "latest", &to)?;
    wait_restore(&branch, "a restore that waits", |status| status["waits"].is_string())?;
    let part = target(&branch, "restored.img.part");
    ensure!(part.exists() && !to.exists(), "it is written beside its name");
    let id = wait_restore(&branch, "a restore", |_| true)?["id"].to_string();
    branch.edge.run("restore", &["cancel", &id])?;
    ensure!(running.wait().is_err(), "whoever waits is told");
    ensure!(!part.exists() && !to.exists(), "nothing is left of it");
    let left: Vec<_> = std::fs::read_dir(branch.edge.state().join("restores"))?.collect::<std::io::Result<_>>()?;
    ensure!(left.len() == 1, "the record alone is left: {left:?}");
    Ok(())
}
