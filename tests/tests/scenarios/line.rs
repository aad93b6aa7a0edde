//! The line: cut for seconds, cut for longer than every time-out, flipping bits; the gateway moved.

use super::branch::{Branch, RECOVERY, Setup, VOLUME};
use anyhow::{Result, ensure};
use lab::line::{LinkSpec, Rate, Span};
use lab::world::{EdgeOptions, GatewayOptions, free_udp};
use std::time::Duration;

/// Slow enough that a seed takes a while, fast enough for a test.
fn slow() -> LinkSpec {
    LinkSpec { rate: Rate::mbit(20.0), delay: Span(5_000_000), ..LinkSpec::default() }
}

#[test]
fn a_line_cut_for_seconds_costs_what_was_in_flight() -> Result<()> {
    let branch = Branch::with(Setup { link: slow(), ..Setup::default() })?;
    let running = branch.begin_capture()?;
    for _ in 0..3 {
        branch.line.wait_carried(1 << 20)?;
        branch.line.cut();
        std::thread::sleep(Duration::from_secs(2)); // the cut itself: its length is what is tested
        branch.line.heal();
    }
    let captured = running.finish()?;
    let sent = branch.line.carried_up();
    ensure!(sent < captured.coded_bytes * 106 / 100 + (2 << 20), "{sent} bytes sent for {}", captured.coded_bytes);
    branch.prove(&captured, branch.sample.path())
}

#[test]
fn a_line_cut_for_longer_than_every_time_out_is_taken_up_where_it_was() -> Result<()> {
    let mut branch = Branch::with(Setup { link: slow(), ..Setup::default() })?;
    let running = branch.begin_capture()?;
    branch.line.wait_carried(8 << 20)?;
    branch.line.cut();
    branch.edge.daemon()?.wait_until("noticing that the line is dead", RECOVERY, |edge| {
        Ok(edge.metrics()?.value("sluice_link_connected", &[]).filter(|connected| *connected == 0.0))
    })?;
    let minutes = if lab::long() { 30 } else { 0 };
    std::thread::sleep(Duration::from_secs(60 * minutes + 5));
    let before = branch.line.carried_up();
    branch.line.heal();
    let captured = running.finish()?;
    let after = branch.line.carried_up() - before;
    ensure!(
        after + (2 << 20) < captured.coded_bytes,
        "{after} bytes after the cut, of {} in all",
        captured.coded_bytes
    );
    branch.prove(&captured, branch.sample.path())
}

#[test]
fn bits_flipped_on_the_wire_change_nothing_but_the_time() -> Result<()> {
    let link = LinkSpec { corrupt: 0.01, ..slow() };
    let mut branch = Branch::with(Setup { link, ..Setup::default() })?;
    branch.replicate()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn a_branch_line_with_loss_and_delay_carries_a_day() -> Result<()> {
    let link = LinkSpec { loss: LinkSpec::branch(Rate::mbit(20.0)).loss, ..LinkSpec::branch(Rate::mbit(20.0)) };
    let edge = EdgeOptions { rate: "18 Mbit/s".into(), ..EdgeOptions::default() };
    let mut branch = Branch::with(Setup { link, edge, size: 32 << 20, ..Setup::default() })?;
    branch.replicate()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn a_gateway_that_moved_to_another_address_of_the_list_is_found() -> Result<()> {
    let mut branch = Branch::new()?;
    let other = free_udp()?;
    let second = branch.line.beside(other)?;
    // The list reaches the edge over control, so it must run once with it.
    let list = [branch.line.addr().to_string(), second.addr().to_string()];
    branch.gateway.stop()?;
    branch.gateway.announce(&list)?;
    branch.gateway.start()?;
    branch.replicate()?;
    branch.gateway.stop()?;
    branch.gateway.listen_on(other)?;
    branch.gateway.start()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    // The list survived on the edge's disk.
    branch.edge.kill()?;
    branch.edge.start()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn an_edge_that_was_given_two_addresses_dials_the_second_when_the_first_is_dead() -> Result<()> {
    let (address, dead) = (free_udp()?, free_udp()?);
    let gateway =
        GatewayOptions { announced: Some(vec![dead.to_string(), address.to_string()]), ..GatewayOptions::default() };
    let mut world_gateway = gateway.clone();
    world_gateway.address = Some(address);
    let world = lab::world::World::new()?;
    let mut gateway = world.gateway(world_gateway)?;
    gateway.start()?;
    let mut edge = world.edge("b", EdgeOptions::default())?;
    edge.enrol(&gateway.token("b")?)?;
    edge.start()?;
    let sample = lab::volumes::Sample::create(&world.path().join("v.img"), 8 << 20, 3)?;
    edge.add_volume(VOLUME, sample.path())?;
    edge.capture(VOLUME)?;
    Ok(())
}

#[test]
fn an_edge_whose_rate_is_zero_captures_and_waits_and_sends_when_it_may() -> Result<()> {
    let edge = EdgeOptions { rate: "0".into(), ..EdgeOptions::default() };
    let mut branch = Branch::with(Setup { edge, size: 16 << 20, ..Setup::default() })?;
    let running = branch.begin_capture()?;
    branch.edge.daemon()?.wait_until("a parcel in the spool", RECOVERY, |edge| {
        Ok(edge.metrics()?.value("sluice_edge_spool_bytes", &[]).filter(|bytes| *bytes > 0.0))
    })?;
    ensure!(branch.line.carried_up() < 100_000, "control alone sent {} bytes", branch.line.carried_up());
    drop(running);
    branch.edge.stop()?;
    branch.edge.options().rate = "unlimited".into();
    branch.edge.start()?;
    branch.replicate()?;
    Ok(())
}
