//! Who may come in: foreign certificates, tokens that were used or are too old, revoked and cloned edges, garbage.

use super::branch::{Branch, RECOVERY, SITE, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::volumes::Random;
use lab::world::{Edge, EdgeOptions, GatewayOptions, PATIENCE, WorldError};
use std::path::Path;
use std::process::Command;

/// What a failed command said.
fn refused(result: Result<String, WorldError>) -> Result<String> {
    Ok(result.err().context("this must be refused")?.to_string())
}

/// Waits until the edge's status contains one of `words`.
fn wait_status(edge: &mut Edge, words: &[&str]) -> Result<String> {
    let mut last = String::new();
    let deadline = std::time::Instant::now() + RECOVERY;
    while std::time::Instant::now() < deadline {
        last = edge.run("status", &[])?;
        if words.iter().any(|word| last.contains(word)) {
            return Ok(last);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    anyhow::bail!("the status never said any of {words:?}: {last}")
}

#[test]
fn a_token_enrols_one_edge_only() -> Result<()> {
    let branch = Branch::new()?;
    let token = branch.gateway.token("second")?;
    let first = branch.world.edge("second", EdgeOptions::default())?;
    first.enrol(&token)?;
    let again = branch.world.edge("third", EdgeOptions::default())?;
    let said = refused(again.enrol(&token))?;
    ensure!(said.contains("token"), "{said}");
    ensure!(!said.contains(&token), "the secret is not repeated");
    Ok(())
}

#[test]
fn a_mistyped_or_expired_token_is_refused_with_a_reason() -> Result<()> {
    let branch = Branch::new()?;
    let edge = branch.world.edge("second", EdgeOptions::default())?;
    let token = branch.gateway.token("second")?;
    let mut typo = token.clone().into_bytes();
    let middle = typo.len() / 2;
    typo[middle] = if typo[middle] == b'A' { b'B' } else { b'A' };
    for bad in [String::from_utf8(typo)?, token[..token.len() - 9].to_owned(), "hello".into(), String::new()] {
        let said = refused(edge.enrol(&bad))?;
        ensure!(said.contains("token"), "`{bad}`: {said}");
    }
    let short = branch.gateway.run("token", &["--tenant", "bank", "--site", "late", "--valid", "1s"])?;
    std::thread::sleep(std::time::Duration::from_millis(2500)); // until it has expired: time is what is tested
    let late = branch.world.edge("late", EdgeOptions::default())?;
    refused(late.enrol(short.trim()))?;
    edge.enrol(&token)?;
    Ok(())
}

#[test]
fn a_certificate_of_another_gateway_opens_nothing() -> Result<()> {
    let branch = Branch::seeded()?;
    let mut other = branch.world.gateway(GatewayOptions { name: "other".into(), ..GatewayOptions::default() })?;
    other.start()?;
    let mut foreign = branch.world.edge("foreign", EdgeOptions::default())?;
    foreign.enrol(&other.token("foreign")?)?;
    // The foreign edge now finds this gateway where its own was.
    other.stop()?;
    let before = branch.line.carried_up();
    let relay = branch.line.beside(branch.gateway.address())?;
    relay.set_target(branch.gateway.address());
    drop(relay);
    foreign.start()?;
    foreign.add_volume(VOLUME, branch.sample.path())?;
    let status = foreign.run("status", &[])?;
    ensure!(!status.is_empty());
    ensure!(branch.line.carried_up() - before < 100_000);
    let sites = branch.gateway.run("sites", &[])?;
    ensure!(!sites.contains("foreign"), "{sites}");
    Ok(())
}

#[test]
fn a_revoked_edge_is_cut_off_at_once_and_says_so() -> Result<()> {
    let mut branch = Branch::seeded()?;
    branch.gateway.run("revoke", &[SITE])?;
    let status = wait_status(&mut branch.edge, &["revoked"])?;
    ensure!(status.contains("enrol"), "it says what to do: {status}");
    branch.edge.stop()?;
    branch.edge.start()?;
    wait_status(&mut branch.edge, &["revoked"])?;
    // Enrolled anew it goes on where it was, and loses nothing.
    branch.edge.stop()?;
    branch.edge.enrol(&branch.gateway.token(SITE)?)?;
    branch.edge.start()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}

#[test]
fn of_two_edges_with_one_identity_the_copy_is_refused_and_says_so() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let clone = branch.world.edge("clone", EdgeOptions::default())?;
    copy_tree(&branch.edge.state(), &clone.state())?;
    let mut clone = clone;
    clone.launch()?;
    clone.daemon()?.wait_line("ready", PATIENCE)?;
    wait_status(&mut clone, &["copy", "same identity"])?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    // When the first is gone for good the second may take over.
    branch.edge.kill()?;
    clone.capture(VOLUME)?;
    Ok(())
}

/// A copy of everything but sockets, as somebody makes who clones a machine.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    let status = Command::new("chmod").arg("--reference").arg(from).arg(to).status()?;
    ensure!(status.success());
    Ok(())
}

#[test]
fn garbage_on_the_gateways_port_changes_nothing() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let mut random = Random::new(1, 1);
    for _ in 0..20_000 {
        let len = random.within(1..1400);
        let mut datagram = random.noise(len);
        datagram[0] |= 0xc0 * (random.below(2) as u8); // half of them look like long headers
        let _ = socket.send_to(&datagram, branch.gateway.address()); // a full queue drops them, which is as well
    }
    branch.sample.busy_day()?;
    branch.replicate()?;
    let rss = branch.gateway.daemon()?.rss()?;
    ensure!(rss < 1 << 30, "{rss} bytes");
    Ok(())
}

#[test]
fn a_delta_on_a_base_that_the_gateway_lost_is_sent_again_on_one_that_it_has() -> Result<()> {
    let mut branch = Branch::seeded()?;
    let backup = branch.world.path().join("old-state");
    branch.gateway.stop()?;
    copy_tree(&branch.gateway.state(), &backup)?;
    branch.gateway.start()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    // The gateway's machine is restored to yesterday: the edge's base is not there any more.
    branch.gateway.stop()?;
    std::fs::remove_dir_all(branch.gateway.state())?;
    copy_tree(&backup, &branch.gateway.state())?;
    branch.gateway.start()?;
    branch.sample.busy_day()?;
    branch.replicate()?;
    Ok(())
}
