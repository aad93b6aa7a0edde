//! Exports and domains by their pages.

use super::{Eyes, SOON, WIDTHS, gateway_with, set_up_by_browser};
use anyhow::{Context, Result, ensure};
use lab::volumes::Sample;
use lab::world::{EdgeOptions, Gateway, World, free_tcp};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Generations are served and thrown away, and a machine is defined and started, by pages: what they say to paste into a shell works there.
#[test]
fn exports_and_domains_are_steered_in_a_real_browser() -> Result<()> {
    let world = World::new()?;
    let libvirt = std::env::var_os("SLUICE_LIBVIRT").map(std::fs::read_to_string).transpose()?;
    let uri =
        libvirt.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("SLUICE_LIBVIRT_URI=")));
    let templates = world.path().join("templates");
    std::fs::create_dir(&templates)?;
    std::fs::write(
        templates.join("branch-server.xml"),
        include_str!("../../../../gateway/targets/src/libvirt/domain.xml"),
    )?;
    // Without a libvirtd the page of domains says so, and is looked at as well.
    let more = uri.map(|uri| format!("libvirt = {uri:?}\ntemplates = {templates:?}\n")).unwrap_or_default();
    let more = format!("{more}[export]\nlisten = \"{}\"\n", free_tcp()?);
    let (gateway, pages) = gateway_with(&world, &more)?;
    let Some(mut eyes) = Eyes::open(pages)? else { return Ok(()) };
    let sample = Sample::create(&world.path().join("disk.img"), 24 << 20, 7)?;
    let mut edge = world.edge("branch-07", EdgeOptions::default())?;
    edge.enrol(&gateway.token("branch-07")?)?;
    edge.start()?;
    edge.add_volume("disk", sample.path())?;
    edge.capture("disk")?;
    set_up_by_browser(&mut eyes, &gateway)?;
    wait_sealed(&gateway)?;
    eyes.goto("/exports")?;
    eyes.browser.wait_text("Nothing is exported")?;
    eyes.look("exports-none", "en", WIDTHS[0])?;
    exports(&mut eyes)?;
    if uri.is_some() {
        gateway.run("target", &["add", "vault", "--tenant", "bank", "--folder", &folder_of(&world)?])?;
        gateway.run("rehydrate", &["--volume", "branch-07/disk", "--target", "vault"])?;
        domains(&mut eyes)?;
    } else {
        println!(
            "skipped: SLUICE_LIBVIRT is not set, so no machine is made; start it by `eval \"$(tests/services/up libvirt)\"`"
        );
        eyes.look_at_all(&[("domains-none", "/domains".into())])?;
    }
    eyes.content()
}

fn wait_sealed(gateway: &Gateway) -> Result<()> {
    let until = Instant::now() + SOON;
    while !gateway.run("volumes", &[])?.lines().any(|line| line.contains("disk") && line.contains("UTC")) {
        ensure!(Instant::now() < until, "{}", gateway.run("volumes", &[])?);
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn folder_of(world: &World) -> Result<String> {
    let folder = world.path().join("targets/vault");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.to_string_lossy().into_owned())
}

/// A script says yes, or no, to what is asked before something is done, and keeps what was asked.
fn answer(eyes: &Eyes, yes: bool) -> Result<()> {
    eyes.browser.run(&format!("window.confirm = (text) => {{ window.asked = text; return {yes}; }}"))?;
    Ok(())
}

fn exports(eyes: &mut Eyes) -> Result<()> {
    answer(eyes, false)?;
    eyes.press("Start")?;
    eyes.browser.wait("the question", "window.asked?.includes('Serve this generation')")?;
    ensure!(!eyes.browser.text()?.contains("branch-07.disk.1"), "who says no starts nothing");
    answer(eyes, true)?;
    eyes.press("Start")?;
    eyes.browser.wait_text("branch-07.disk.1")?;
    eyes.fill("#export-name", "rehearsal")?;
    eyes.click("form[data-api='/api/v1/exports'] input[name=writable]:not([hidden])")?;
    answer(eyes, true)?;
    eyes.press("Start")?;
    eyes.browser.wait_text("takes writes")?;
    // What is to be pasted works in a shell, by the socket and by the address.
    eyes.browser.run("document.querySelectorAll('td details').forEach((d) => { d.open = true; })")?;
    let commands =
        eyes.browser.run("return [...document.querySelectorAll('.command code')].map((c) => c.textContent)")?;
    let commands: Vec<&str> = commands.as_array().into_iter().flatten().filter_map(|text| text.as_str()).collect();
    ensure!(commands.len() == 12, "three for each of two places of two exports: {commands:?}");
    for command in commands.iter().filter(|command| command.starts_with("nbdinfo")) {
        let said = Command::new("sh").args(["-c", command]).output()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        if said.status.code() == Some(127) {
            println!("skipped: nbdinfo is not installed, so {command} was not tried");
            continue;
        }
        ensure!(said.status.success() && text.contains("export-size: 25165824"), "{command}: {said:?}");
        let writable = command.contains("rehearsal");
        ensure!(
            text.contains(if writable { "is_read_only: false" } else { "is_read_only: true" }),
            "{command}: {text}"
        );
    }
    // QEMU takes its drives as they are written: it opens them before the machine would run.
    for command in commands.iter().filter(|command| command.starts_with("qemu-system")) {
        let tried = format!("{command} -nodefaults -display none -S -monitor stdio");
        let mut qemu = Command::new("sh")
            .args(["-c", &tried])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        qemu.stdin.take().context("its input")?.write_all(b"info block\nquit\n")?;
        let said = qemu.wait_with_output()?;
        if said.status.code() == Some(127) {
            println!("skipped: qemu-system-x86_64 is not installed, so {command} was not tried");
            continue;
        }
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        ensure!(said.status.success() && text.contains("virtio0"), "{command}: {said:?}");
        ensure!(text.contains("read-only") != command.contains("rehearsal"), "{command}: {text}");
    }
    // What is unfolded stays so when the page asks again.
    eyes.browser.run("return window.sluice.refresh()")?;
    eyes.browser.wait("the commands to stay", "document.querySelectorAll('td details[open]').length === 4")?;
    eyes.look_unfolded("exports-commands", "/exports")?;
    eyes.goto("/exports")?;
    answer(eyes, true)?;
    eyes.press("Stop, keep writes")?;
    eyes.browser.wait_text("stopped, writes kept")?;
    eyes.look_at_all(&[("exports", "/exports".into()), ("help-exports", "/help/targets".into())])?;
    eyes.goto("/exports")?;
    eyes.press("Serve again")?;
    eyes.browser.wait_text("takes writes")?;
    answer(eyes, true)?;
    eyes.press("Stop, throw writes away")?;
    eyes.browser.wait("the other one to be left", "document.querySelectorAll('tbody tr').length === 1")?;
    answer(eyes, true)?;
    eyes.press("Stop")?;
    Ok(eyes.browser.wait_text("Nothing is exported")?)
}

fn domains(eyes: &mut Eyes) -> Result<()> {
    let name = format!("page-{}", std::process::id());
    eyes.goto("/domains")?;
    eyes.browser.wait_text("No domain is defined")?;
    eyes.press("on target vault")?;
    eyes.fill("#bank-vault-name", &name)?;
    eyes.fill("#bank-vault-memory", "64")?;
    eyes.browser.run("document.querySelector('#bank-vault-template').value = 'branch-server'")?;
    answer(eyes, true)?;
    eyes.press("Define")?;
    eyes.browser.wait("its row", &format!("document.querySelector('tbody')?.innerText.includes({name:?})"))?;
    let state = eyes.browser.run("return document.querySelector('tbody .chip').innerText")?;
    ensure!(state == "off", "it is not started: {state}");
    answer(eyes, true)?;
    eyes.press("Start")?;
    eyes.browser.wait_text("running")?;
    eyes.look_at_all(&[("domains", "/domains".into())])?;
    eyes.look_unfolded("domains-forms", "/domains")?;
    eyes.goto("/domains")?;
    answer(eyes, false)?;
    eyes.press("Remove")?;
    eyes.browser.wait("the question", "window.asked?.includes('pulling the plug')")?;
    ensure!(eyes.browser.text()?.contains("running"), "who says no ends nothing");
    answer(eyes, true)?;
    eyes.press("Remove")?;
    Ok(eyes.browser.wait_text("No domain is defined")?)
}
