//! kill -9 of either side at every point that matters, and then a correct finish in which nothing acknowledged is sent again.

use super::branch::{Branch, RECOVERY, Setup};
use anyhow::{Context, Result, ensure};
use lab::world::{Ended, GatewayOptions};

/// What the restarted side may still send when everything was acknowledged, or durable at the centre, before the kill:
/// two handshakes, hello, offers and seals.
const NOTHING_AGAIN: u64 = 60_000;
/// Kills at each point; the long ladder has more.
fn rounds() -> u32 {
    if lab::long() { 12 } else { 2 }
}

/// A day's changes are on their way while the edge is killed at `point`; it then finishes. Gives the bytes sent after the kill.
fn kill_the_edge(branch: &mut Branch, point: &str, pass: u32) -> Result<u64> {
    branch.sample.busy_day()?;
    branch.edge.stop()?;
    branch.edge.start_to_crash(point, pass)?;
    let running = branch.begin_capture()?;
    let ended = branch.edge.wait_crash(RECOVERY).with_context(|| format!("{point} was not passed {pass} times"))?;
    ensure!(ended == Ended::Signal(9), "the edge ended with {ended:?} instead of at {point}");
    drop(running);
    let before = branch.line.carried_up();
    branch.edge.start()?;
    let captured = branch.edge.capture(super::branch::VOLUME)?;
    let again = branch.line.carried_up() - before;
    branch.prove(&captured, branch.sample.path()).with_context(|| format!("after a kill at {point}"))?;
    Ok(again)
}

/// The same with the gateway; the edge and its capture go on by themselves.
fn kill_the_gateway(branch: &mut Branch, point: &str, pass: u32) -> Result<u64> {
    branch.sample.busy_day()?;
    branch.gateway.stop()?;
    branch.gateway.start_to_crash(point, pass)?;
    let running = branch.begin_capture()?;
    let ended = branch.gateway.wait_crash(RECOVERY).with_context(|| format!("{point} was not passed {pass} times"))?;
    ensure!(ended == Ended::Signal(9), "the gateway ended with {ended:?} instead of at {point}");
    let before = branch.line.carried_up();
    branch.gateway.start()?;
    let captured = running.finish().with_context(|| format!("after a kill at {point}"))?;
    let again = branch.line.carried_up() - before;
    branch.prove(&captured, branch.sample.path()).with_context(|| format!("after a kill at {point}"))?;
    Ok(again)
}

/// What must be true of the bytes that cross the line after a kill.
#[derive(Clone, Copy, PartialEq)]
enum After {
    /// The parcel, or a part of it, may still have to cross.
    Anything,
    /// It had crossed: hellos, offers and seals alone.
    NothingAgain,
}

/// Kills at `point`, several days in a row.
fn survives(kill: fn(&mut Branch, &str, u32) -> Result<u64>, point: &str, after: After) -> Result<()> {
    let mut branch = Branch::seeded()?;
    for _ in 0..rounds() {
        let again = kill(&mut branch, point, 1)?;
        ensure!(after == After::Anything || again < NOTHING_AGAIN, "{again} bytes were sent after a kill at {point}");
    }
    Ok(())
}

#[test]
fn an_edge_killed_in_a_capture_finishes() -> Result<()> {
    survives(kill_the_edge, "edge.capture.slab", After::Anything)
}

#[test]
fn an_edge_killed_after_a_capture_finishes() -> Result<()> {
    survives(kill_the_edge, "edge.capture.sealed", After::Anything)
}

#[test]
fn an_edge_killed_with_a_spooled_parcel_finishes() -> Result<()> {
    survives(kill_the_edge, "edge.spool.written", After::Anything)
}

#[test]
fn an_edge_killed_with_a_committed_parcel_finishes() -> Result<()> {
    survives(kill_the_edge, "edge.spool.committed", After::Anything)
}

#[test]
fn an_edge_killed_in_the_middle_of_sending_finishes() -> Result<()> {
    survives(kill_the_edge, "edge.send.half", After::Anything)
}

#[test]
fn an_edge_killed_before_it_noted_an_acknowledgement_sends_nothing_again() -> Result<()> {
    survives(kill_the_edge, "edge.ack.before-commit", After::NothingAgain)
}

#[test]
fn an_edge_killed_between_packs_and_index_finishes() -> Result<()> {
    survives(kill_the_edge, "dedupe.commit.data", After::Anything)
}

#[test]
fn an_edge_killed_with_records_written_finishes() -> Result<()> {
    survives(kill_the_edge, "dedupe.commit.records", After::Anything)
}

#[test]
fn an_edge_killed_after_a_commit_finishes() -> Result<()> {
    survives(kill_the_edge, "dedupe.commit.index", After::Anything)
}

#[test]
fn a_gateway_killed_between_packs_and_index_finishes() -> Result<()> {
    survives(kill_the_gateway, "dedupe.commit.data", After::Anything)
}

#[test]
fn a_gateway_killed_with_records_written_finishes() -> Result<()> {
    survives(kill_the_gateway, "dedupe.commit.records", After::Anything)
}

#[test]
fn a_gateway_killed_after_a_commit_finishes() -> Result<()> {
    survives(kill_the_gateway, "dedupe.commit.index", After::Anything)
}

#[test]
fn a_gateway_killed_with_a_decoded_parcel_is_sent_nothing_again() -> Result<()> {
    survives(kill_the_gateway, "dedupe.ingest.decoded", After::NothingAgain)
}

#[test]
fn a_gateway_killed_while_receiving_finishes() -> Result<()> {
    survives(kill_the_gateway, "gateway.part.written", After::Anything)
}

#[test]
fn a_gateway_killed_before_taking_a_parcel_in_is_sent_nothing_again() -> Result<()> {
    survives(kill_the_gateway, "gateway.ingest.before", After::NothingAgain)
}

#[test]
fn a_gateway_killed_after_taking_a_parcel_in_is_sent_nothing_again() -> Result<()> {
    survives(kill_the_gateway, "gateway.ingest.after", After::NothingAgain)
}

#[test]
fn a_gateway_killed_before_sealing_is_sent_nothing_again() -> Result<()> {
    survives(kill_the_gateway, "gateway.seal.before", After::NothingAgain)
}

#[test]
fn a_gateway_killed_after_sealing_is_sent_nothing_again() -> Result<()> {
    survives(kill_the_gateway, "gateway.seal.after", After::NothingAgain)
}

#[test]
fn an_edge_killed_at_the_third_parcel_of_a_seed_sends_the_first_two_only_once() -> Result<()> {
    let mut branch = Branch::new()?;
    branch.edge.stop()?;
    branch.edge.start_to_crash("edge.ack.before-commit", 3)?;
    let running = branch.begin_capture()?;
    branch.edge.wait_crash(RECOVERY)?;
    drop(running);
    let before = branch.line.carried_up();
    branch.edge.start()?;
    let captured = branch.edge.capture(super::branch::VOLUME)?;
    let after = branch.line.carried_up() - before;
    branch.prove(&captured, branch.sample.path())?;
    // Three of four or five parcels were acknowledged: what is left is less than half of what went before.
    ensure!(2 * after < before, "{after} bytes after the kill, {before} before");
    Ok(())
}

#[test]
fn a_rehydration_killed_in_the_middle_is_finished_by_the_next() -> Result<()> {
    let mut branch = Branch::seeded()?;
    branch.sample.busy_day()?;
    let captured = branch.edge.capture(super::branch::VOLUME)?;
    // Without the daemon the command does the work itself, and so is what dies.
    branch.gateway.stop()?;
    let mut command = branch.gateway.command("rehydrate");
    command.args(["--volume", &branch.volume(), "--generation", "latest", "--to"]).arg(branch.rebuilt());
    command.env("SLUICE_CRASH_AT", "gateway.rehydrate.middle");
    let status = command.output()?.status;
    ensure!(!status.success(), "the rehydration was killed in the middle");
    branch.prove(&captured, branch.sample.path())?;
    branch.gateway.start()?;
    Ok(())
}

#[test]
fn a_sweep_killed_in_the_middle_leaves_everything_readable() -> Result<()> {
    let extra = "retention = 1\n".to_owned();
    let setup = Setup { gateway: GatewayOptions { extra, ..GatewayOptions::default() }, ..Setup::default() };
    let mut branch = Branch::with(setup)?;
    branch.replicate()?;
    let mut captured = None;
    for _ in 0..3 {
        branch.sample.busy_day()?;
        captured = Some(branch.replicate()?);
    }
    let captured = captured.context("there were days")?;
    branch.gateway.stop()?;
    let mut sweep = branch.gateway.command("gc");
    sweep.env("SLUICE_CRASH_AT", "dedupe.gc.unlinked");
    let output = sweep.output()?;
    ensure!(
        !output.status.success(),
        "the sweep was killed in the middle: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    branch.gateway.run("gc", &[])?;
    branch.gateway.start()?;
    std::fs::remove_file(branch.rebuilt())?;
    branch.prove(&captured, branch.sample.path())?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn both_sides_killed_at_any_moment_many_times_over_still_agree() -> Result<()> {
    let mut branch = Branch::seeded()?;
    for round in 0..rounds() * 3 {
        branch.sample.busy_day()?;
        let running = branch.begin_capture()?;
        // The moment follows from the traffic, so each round hits another one.
        branch.line.wait_carried(1 + u64::from(round) * 40_000)?;
        branch.edge.kill()?;
        if round % 2 == 0 {
            branch.gateway.kill()?;
            branch.gateway.start()?;
        }
        drop(running);
        branch.edge.start()?;
        branch.replicate().with_context(|| format!("after round {round}"))?;
    }
    Ok(())
}
