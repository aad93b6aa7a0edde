//! The policy: nothing without one, windows and overrides, pauses at the site, quotas over kills, and what is refused.

use super::branch::{Branch, RECOVERY, Setup, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::world::{EdgeOptions, GatewayOptions};
use std::time::{Duration, Instant};

/// All week the same profile.
fn document(profile: &str, more: &str) -> String {
    format!(
        "zone = \"Asia/Shanghai\"\n[line]\nup = \"100 Mbit/s\"\ncourtesy = \"off\"\n[profiles]\nfull = \"100 %\"\n\
         [grid]\nall = \"00:00 {profile}\"\n{more}"
    )
}

/// A branch whose edge has no rate of its own.
fn governed() -> Result<Branch> {
    let edge = EdgeOptions { rate: String::new(), ..Setup::default().edge };
    Branch::with(Setup { edge, size: 32 << 20, ..Setup::default() })
}

fn set(branch: &Branch, document: &str) -> Result<String> {
    let file = branch.world.path().join("policy.toml");
    std::fs::write(&file, document)?;
    let file = file.to_string_lossy().into_owned();
    Ok(branch.gateway.run("policy", &["set", "--site", branch.edge.site(), "--file", &file, "--reason", "a test"])?)
}

/// What the edge says of its line, once `wanted` is true of it.
fn wait_standing(
    branch: &Branch,
    what: &str,
    wanted: impl Fn(&serde_json::Value) -> bool,
) -> Result<serde_json::Value> {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let standing = branch.edge.status()?["allowance"].clone();
        if wanted(&standing) {
            return Ok(standing);
        }
        ensure!(Instant::now() < deadline, "{what} did not come about: {standing}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// IP bytes that the running daemon has sent.
fn sent(branch: &mut Branch) -> Result<u64> {
    let metrics = branch.edge.daemon()?.metrics()?;
    let of = |connection| {
        metrics.value("sluice_link_ip_bytes_total", &[("connection", connection), ("direction", "up")]).unwrap_or(0.0)
    };
    Ok((of("control") + of("data")) as u64)
}

#[test]
fn without_a_policy_nothing_is_sent_and_the_first_one_opens_the_line() -> Result<()> {
    let mut branch = governed()?;
    let standing = wait_standing(&branch, "a closed line", |standing| standing["reason"] == "no-policy")?;
    ensure!(standing["open"] == false && standing["sentence"].to_string().contains("policy set"), "{standing}");
    let running = branch.begin_capture()?;
    branch.edge.daemon()?.wait_until("a parcel in the spool", RECOVERY, |edge| {
        Ok(edge.metrics()?.value("sluice_edge_spool_bytes", &[]).filter(|bytes| *bytes > 0.0))
    })?;
    ensure!(branch.line.carried_up() < 64 << 10, "only control may pass: {} bytes did", branch.line.carried_up());
    set(&branch, &document("full", ""))?;
    let captured = running.finish()?;
    branch.prove(&captured, branch.sample.path())?;
    let standing = branch.edge.status()?["allowance"].clone();
    ensure!(standing["policy"] == 1 && standing["clock"] == "synced", "{standing}");
    // It is enforced alone: after a restart, with the gateway gone, the same policy holds.
    branch.gateway.stop()?;
    branch.edge.kill()?;
    branch.edge.start()?;
    wait_standing(&branch, "the policy of before", |standing| standing["policy"] == 1 && standing["open"] == true)?;
    Ok(())
}

#[test]
fn a_closed_window_an_override_and_a_hold_are_kept() -> Result<()> {
    let mut branch = governed()?;
    set(&branch, &document("closed", ""))?;
    wait_standing(&branch, "a closed window", |standing| standing["policy"] == 1 && standing["reason"] == "schedule")?;
    let running = branch.begin_capture()?;
    branch.edge.daemon()?.wait_until("a parcel in the spool", RECOVERY, |edge| {
        Ok(edge.metrics()?.value("sluice_edge_spool_bytes", &[]).filter(|bytes| *bytes > 0.0))
    })?;
    let site = branch.edge.site().to_owned();
    let boost = ["add", "--site", &site, "--boost", "50 Mbit/s", "--for", "1h", "--reason", "a late delivery"];
    branch.gateway.run("override", &boost)?;
    let captured = running.finish()?;
    branch.prove(&captured, branch.sample.path())?;
    let standing = wait_standing(&branch, "the boost", |standing| standing["reason"] == "boost")?;
    ensure!(standing["sentence"].to_string().contains("a late delivery"), "people are told why: {standing}");
    branch.gateway.run("hold", &["--site", &site, "--reason", "audit"])?;
    let held = wait_standing(&branch, "the hold", |standing| standing["reason"] == "hold")?;
    ensure!(held["open"] == false, "{held}");
    branch.gateway.run("release", &["--site", &site, "--reason", "done"])?;
    wait_standing(&branch, "the release", |standing| standing["reason"] == "boost")?;
    Ok(())
}

#[test]
fn the_site_may_pause_at_any_time_and_boost_only_where_it_was_allowed() -> Result<()> {
    let mut branch = governed()?;
    set(&branch, &document("full", ""))?;
    wait_standing(&branch, "an open line", |standing| standing["open"] == true)?;
    let said = branch.edge.run("pause", &["--for", "10m", "--reason", "video call"])?;
    ensure!(said.contains("closed") && said.contains("video call"), "{said}");
    let refused = branch.edge.run("boost", &["150 Mbit/s", "--for", "10m", "--reason", "haste"]);
    ensure!(refused.is_err_and(|error| error.to_string().contains("override add")), "a boost needs a right");
    // It outlives a kill, and ends when it is ended.
    branch.edge.kill()?;
    branch.edge.start()?;
    wait_standing(&branch, "the pause", |standing| standing["reason"] == "pause" && standing["open"] == false)?;
    branch.edge.run("resume", &[])?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn a_quota_holds_over_kills_and_says_so() -> Result<()> {
    const QUOTA: u64 = 6_000_000;
    const KILLS: usize = 4;
    let mut branch = governed()?;
    set(&branch, &document("full", "[[quotas]]\nperiod = \"prepaid\"\nlimit = \"6 MB\"\n"))?;
    wait_standing(&branch, "an open line", |standing| standing["open"] == true)?;
    let mut all = 0;
    for _ in 0..KILLS {
        let running = branch.begin_capture()?;
        let from = sent(&mut branch)?;
        let deadline = Instant::now() + Duration::from_secs(8);
        while sent(&mut branch)? < from + 400_000 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        all += sent(&mut branch)?; // what leaves between this and the kill is on the line's own count below
        branch.edge.kill()?;
        drop(running);
        branch.edge.start()?;
    }
    let _running = branch.begin_capture()?;
    wait_standing(&branch, "the end of the quota", |standing| standing["reason"] == "quota")?;
    all += sent(&mut branch)?;
    let carried = branch.line.carried_up();
    ensure!(carried <= QUOTA + 1_500, "{carried} bytes passed of a quota of {QUOTA}; the edge counted {all}");
    let standing = branch.edge.status()?["allowance"].clone();
    ensure!(standing["sentence"].to_string().contains("prepaid quota"), "{standing}");
    let used = standing["quotas"][0][1].as_u64().context("the quota's use is shown")?;
    ensure!(used + 1_500 >= carried, "{used} are counted, {carried} passed");
    Ok(())
}

#[test]
fn a_policy_that_was_changed_on_disk_is_not_believed_and_comes_again() -> Result<()> {
    let mut branch = governed()?;
    set(&branch, &document("closed", ""))?;
    wait_standing(&branch, "a closed window", |standing| standing["policy"] == 1)?;
    branch.edge.kill()?;
    let file = branch.edge.state().join("policy.json");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("closed\\\"", "full\\\""))?;
    branch.line.cut();
    branch.edge.start()?;
    let standing = wait_standing(&branch, "the refusal", |standing| !standing["fault"].is_null())?;
    ensure!(standing["open"] == false && standing["fault"].to_string().contains("signature"), "{standing}");
    branch.line.heal();
    wait_standing(&branch, "the policy again", |standing| standing["policy"] == 1 && standing["fault"].is_null())?;
    let captures = branch.edge.run("capture", &[VOLUME])?;
    ensure!(captures.contains("captured"), "capture goes on while the line is closed: {captures}");
    Ok(())
}

#[test]
fn the_gateways_own_line_is_granted_to_who_has_work() -> Result<()> {
    let edge = EdgeOptions { rate: String::new(), ..Setup::default().edge };
    let gateway = GatewayOptions { extra: "ingress = \"8 Mbit/s\"\n".into(), ..GatewayOptions::default() };
    let branch = Branch::with(Setup { edge, gateway, size: 32 << 20, ..Setup::default() })?;
    set(&branch, &document("full", ""))?;
    // Without work it holds the start; with work, all of the gateway's line and no more, although its policy lets it send 100 Mbit/s.
    let idle = wait_standing(&branch, "the start", |standing| standing["reason"] == "grant")?;
    ensure!(idle["up"] == "64 kbit/s", "{idle}");
    let running = branch.begin_capture()?;
    wait_standing(&branch, "the share", |standing| standing["up"] == "8 Mbit/s" && standing["reason"] == "grant")?;
    let captured = running.finish()?;
    branch.prove(&captured, branch.sample.path())
}
