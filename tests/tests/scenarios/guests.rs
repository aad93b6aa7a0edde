//! What all of it is for: a guest of the branch boots at the centre, from a generation of its disk.

use super::branch::{SITE, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::guest::{self, Booted, Disk, Writes};
use lab::images::same_bytes;
use lab::wan::blake3_of;
use lab::world::{Captured, Edge, EdgeOptions, Gateway, GatewayOptions, World};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A guest at a branch, its disk replicated to the centre. Fields are dropped in order: daemons, folder.
pub(crate) struct Guest {
    pub(crate) edge: Edge,
    pub(crate) gateway: Gateway,
    pub(crate) world: World,
    boots: u32,
}

impl Guest {
    /// With the first generation of its disk sealed at the centre; it was never booted. `None`: no guest can be made here.
    pub(crate) fn replicated() -> Result<Option<(Self, Captured)>> {
        if let Some(why) = guest::missing() {
            lab::skip(&why);
            return Ok(None);
        }
        let world = World::new()?;
        guest::put(&world.path().join("branch.img"))?;
        let mut gateway = world.gateway(GatewayOptions::default())?;
        gateway.start()?;
        let mut edge = world.edge(SITE, EdgeOptions::default())?;
        edge.enrol(&gateway.token(SITE)?)?;
        edge.start()?;
        let guest = Self { edge, gateway, world, boots: 0 };
        guest.edge.add_volume(VOLUME, &guest.source())?;
        let captured = guest.edge.capture(VOLUME)?;
        Ok(Some((guest, captured)))
    }

    /// Its disk at the branch.
    pub(crate) fn source(&self) -> PathBuf {
        self.world.path().join("branch.img")
    }

    /// Boots from `disk`; the disk must have seen `boots` boots by then, this one included.
    pub(crate) fn boots_from(&mut self, disk: &Disk, writes: Writes, boots: u32) -> Result<Booted> {
        self.boots += 1;
        let serial = self.world.path().join(format!("boot-{}.serial", self.boots));
        let booted = guest::boot(disk, writes, &serial)?;
        println!("booted in {:.1} s from {}: BOOTS={}", booted.took.as_secs_f64(), disk.at, booted.boots);
        ensure!(booted.boots == boots, "{} says BOOTS={}, not {boots}", disk.at, booted.boots);
        Ok(booted)
    }

    /// Serves the newest generation, and gives the export's URI.
    fn export(&self, name: &str, more: &[&str]) -> Result<String> {
        let volume = format!("{SITE}/{VOLUME}");
        let mut args = vec!["start", "--volume", &volume, "--name", name, "--json"];
        args.extend(more);
        let said = self.gateway.run("export", &args)?;
        let answer: Value = serde_json::from_str(&said).with_context(|| format!("reading {said}"))?;
        let uri = answer["exports"][0]["uris"][0].as_str();
        Ok(uri.with_context(|| format!("no address in {said}"))?.to_owned())
    }

    /// Writes the newest generation to a raw file; it must be what was captured, and `source`, byte for byte.
    fn rehydrated(&self, captured: &Captured, source: &Path) -> Result<PathBuf> {
        let rebuilt = self.world.path().join(format!("rebuilt-{}.img", captured.number));
        self.gateway.rehydrate(&format!("{SITE}/{VOLUME}"), "latest", &rebuilt)?;
        ensure!(same_bytes(source, &rebuilt)?, "the rebuilt disk differs from {}", source.display());
        ensure!(blake3_of(&rebuilt)? == captured.root, "the rebuilt disk has another root than the capture");
        Ok(rebuilt)
    }

    /// Sets up a target by a file of settings; `more` are further arguments of `target add`.
    pub(crate) fn add_target(&self, name: &str, settings: &str, more: &[&str]) -> Result<()> {
        let file = self.world.path().join(format!("{name}.toml"));
        std::fs::write(&file, settings)?;
        let file = file.display().to_string();
        let args = [&["add", name, "--tenant", "bank", "--settings", &file], more].concat();
        self.gateway.run("target", &args)?;
        Ok(())
    }

    /// Brings the newest generation to a target, and gives what was done.
    pub(crate) fn brought_to(&self, target: &str) -> Result<Value> {
        let volume = format!("{SITE}/{VOLUME}");
        let said = self.gateway.run("rehydrate", &["--volume", &volume, "--target", target, "--json"])?;
        let last = said.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
        let mut answer: Value = serde_json::from_str(last).with_context(|| format!("reading {said}"))?;
        Ok(answer["done"].take())
    }

    /// Brings the newest generation to a qcow2 target, and gives the image's path.
    fn to_qcow2(&self) -> Result<String> {
        let folder = self.world.path().join("images");
        std::fs::create_dir(&folder)?;
        self.add_target("images", &format!("kind = \"qcow2\"\nfolder = {folder:?}\n"), &[])?;
        let done = self.brought_to("images")?;
        Ok(done["point"].as_str().with_context(|| format!("no point in {done}"))?.to_owned())
    }
}

#[test]
fn a_guest_boots_from_an_export_whose_overlay_keeps_what_it_writes_and_from_what_was_rehydrated() -> Result<()> {
    let Some((mut guest, captured)) = Guest::replicated()? else { return Ok(()) };
    let uri = guest.export("rehearsal", &["--writable"])?;
    let export = Disk::export(&uri);
    guest.boots_from(&export, Writes::Kept, 1)?;
    guest.boots_from(&export, Writes::Kept, 2)?;
    let written = guest.world.path().join("written.img");
    copy_out(&uri, &written)?;
    guest::check_fs(&written)?;
    // The generation knows nothing of it.
    let rebuilt = guest.rehydrated(&captured, &guest.source())?;
    guest::check_fs(&rebuilt)?;
    let image = Disk { at: guest.to_qcow2()?, format: "qcow2" };
    for disk in [Disk::raw(&rebuilt), image] {
        guest.boots_from(&disk, Writes::Dropped, 1)?;
    }
    ensure!(blake3_of(&rebuilt)? == captured.root, "a boot that drops what it writes changed {}", rebuilt.display());
    Ok(())
}

#[test]
fn what_a_guest_wrote_at_the_branch_is_there_when_its_next_generation_boots() -> Result<()> {
    let Some((mut guest, seed)) = Guest::replicated()? else { return Ok(()) };
    let source = guest.source();
    guest.boots_from(&Disk::raw(&source), Writes::Kept, 1)?;
    let captured = guest.edge.capture(VOLUME)?;
    ensure!(captured.number == seed.number + 1 && captured.dirty_bytes > 0, "{captured:?} follows {seed:?}");
    let uri = guest.export("next", &[])?;
    guest.boots_from(&Disk::export(&uri), Writes::Dropped, 2)?;
    let rebuilt = guest.rehydrated(&captured, &source)?;
    guest::check_fs(&rebuilt)?;
    Ok(())
}

/// Everything of an export, as a raw file.
fn copy_out(uri: &str, to: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw", "-O", "raw", uri]).arg(to);
    lab::world::run(command).context("copying the export out")?;
    Ok(())
}
