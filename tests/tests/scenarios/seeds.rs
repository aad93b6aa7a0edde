//! The first copy by courier: from a site that has no line to speak of onto media, and from media into the gateway, through kills, full disks and wrong disks.

use super::room::SmallDisk;
use anyhow::{Context, Result, bail, ensure};
use lab::images::same_bytes;
use lab::world::{Edge, EdgeOptions, Gateway, GatewayOptions, World};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SITE: &str = "branch-1";
const VOLUME: &str = "db";
const MIB: usize = 1 << 20;

/// A site that was enrolled once, whose volume is captured, and which has no session with its gateway.
struct Apart {
    world: World,
    gateway: Gateway,
    edge: Edge,
    image: PathBuf,
    key: String,
}

/// Bytes that do not compress, so that media are as long as volumes.
fn noise(len: usize, seed: &str) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key(seed).finalize_xof().fill(&mut bytes);
    bytes
}

fn json(said: &str) -> Result<Value> {
    let line = said.lines().rev().find(|line| line.starts_with(['{', '['])).context("no JSON was said")?;
    serde_json::from_str(line).with_context(|| format!("reading {line}"))
}

impl Apart {
    fn new(mib: usize) -> Result<Apart> {
        let world = World::new()?;
        let mut gateway = world.gateway(GatewayOptions::default())?;
        gateway.start()?;
        let edge = world.edge(SITE, EdgeOptions::default())?;
        edge.enrol(&gateway.token(SITE)?)?;
        let image = world.path().join("db.img");
        let mut bytes = noise(mib * MIB, "seeds");
        bytes[4 * MIB..20 * MIB].fill(0);
        std::fs::write(&image, bytes)?;
        edge.add_volume(VOLUME, &image)?;
        edge.run("capture", &[VOLUME])?;
        let key = gateway.run("seed", &["key"])?.trim().to_owned();
        Ok(Apart { world, gateway, edge, image, key })
    }

    fn mount(&self, name: &str) -> Result<PathBuf> {
        let path = self.world.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    fn export(&self, mounts: &[&Path]) -> Result<Value> {
        json(&lab::world::run(self.exporting(mounts))?)
    }

    fn exporting(&self, mounts: &[&Path]) -> Command {
        let mut command = self.edge.command("seed");
        command.args(["export", "--json", "--key", &self.key, "--to"]).args(mounts);
        reordered(&command)
    }

    fn import(&self, mounts: &[&Path]) -> Result<Output> {
        Ok(self.importing(mounts).output()?)
    }

    fn importing(&self, mounts: &[&Path]) -> Command {
        let mut command = self.gateway.command("seed");
        command.args(["--json", "import"]).args(mounts);
        command
    }

    /// What an import says that is expected to be whole.
    fn imported(&self, mounts: &[&Path]) -> Result<Value> {
        let output = self.import(mounts)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        json(&said)
    }

    /// The gateway's generation is the volume.
    fn is_there(&self) -> Result<()> {
        let to = self.world.path().join("rehydrated.img");
        self.gateway.rehydrate(&format!("{SITE}/{VOLUME}"), "latest", &to)?;
        ensure!(same_bytes(&self.image, &to)?, "the gateway's generation is something else");
        Ok(std::fs::remove_file(&to)?)
    }

    fn seeds(&self) -> Result<Value> {
        json(&self.gateway.run("seed", &["--json", "list"])?)
    }
}

/// The edge's options come after its subcommands.
fn reordered(command: &Command) -> Command {
    let mut args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let at = args.iter().position(|arg| arg == "--config").expect("the edge's command names its configuration");
    let config: Vec<_> = args.drain(at..at + 2).collect();
    let mut again = Command::new(command.get_program());
    again.args(&args[..2]).args(config).args(&args[2..]);
    again
}

fn folder_in(mount: &Path) -> Result<PathBuf> {
    let mut found = std::fs::read_dir(mount)?.filter_map(|entry| Some(entry.ok()?.path()));
    found.find(|path| path.is_dir()).context("there is a medium")
}

fn why(outcome: &Value) -> String {
    let media = outcome["outcome"]["media"].as_array().into_iter().flatten();
    let seeds = outcome["outcome"]["seeds"].as_array().into_iter().flatten();
    media.map(|medium| &medium["refused"]).chain(seeds.map(|seed| &seed["why"])).map(Value::to_string).collect()
}

#[test]
fn a_volume_reaches_the_gateway_by_courier_and_nothing_of_it_crosses_the_line() -> Result<()> {
    let mut apart = Apart::new(40)?;
    let mount = apart.mount("disk")?;
    let said = apart.export(&[&mount])?;
    ensure!(said["state"] == "exported" && said["media"].as_array().is_some_and(|media| media.len() == 1), "{said}");
    let id = said["id"].as_str().context("an id")?.to_owned();
    let label = std::fs::read_to_string(folder_in(&mount)?.join("LABEL.txt"))?;
    ensure!(label.contains(&id) && label.contains(SITE), "{label}");
    apart.edge.run("seed", &["shipped", &id, "--courier", "Post", "--number", "4711"])?;
    let shipped = json(&apart.edge.run("seed", &["status", "--json"])?)?;
    ensure!(shipped[0]["state"] == "shipped" && shipped[0]["custody"][2]["note"] == "Post 4711", "{shipped}");
    let outcome = apart.imported(&[&mount])?;
    ensure!(outcome["outcome"]["seeds"][0]["state"] == "imported", "{outcome}");
    apart.is_there()?;
    let listed = apart.seeds()?;
    ensure!(listed["seeds"][0]["state"] == "imported" && listed["seeds"][0]["volume"] == VOLUME, "{listed}");
    // Given again, it is not taken in again.
    let again = apart.imported(&[&mount])?;
    ensure!(again["outcome"]["media"][0]["bytes"] == 0, "{again}");
    // The edge goes to the line: the generation is held, so a wait for it ends without a parcel.
    apart.edge.start()?;
    let captured = apart.edge.capture(VOLUME)?;
    ensure!(
        captured.coded_bytes < 1_000_000,
        "{} bytes were coded for a volume that did not change",
        captured.coded_bytes
    );
    Ok(())
}

#[test]
fn an_export_goes_on_after_a_kill_at_any_point() -> Result<()> {
    let apart = Apart::new(300)?;
    let mount = apart.mount("disk")?;
    let points = [
        "edge.seed.medium:1",
        "seed.part.written:1",
        "seed.index.written:1",
        "seed.part.read:1",
        "edge.seed.noted:1",
        "seed.part.written:1",
        "edge.seed.noted:1",
        "edge.seed.closed:1",
    ];
    for point in points {
        let output = apart.exporting(&[&mount]).env("SLUICE_CRASH_AT", point).output()?;
        let killed = std::os::unix::process::ExitStatusExt::signal(&output.status);
        ensure!(killed == Some(9), "{point}: {:?} {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let said = apart.export(&[&mount])?;
    ensure!(said["state"] == "exported", "{said}");
    ensure!(said["media"].as_array().is_some_and(|media| media.len() == 1), "one medium was begun once: {said}");
    ensure!(said["media"][0]["parts"].as_u64() >= Some(2), "{said}");
    apart.imported(&[&mount])?;
    apart.is_there()
}

#[test]
fn an_import_goes_on_after_a_kill_at_any_point() -> Result<()> {
    let mut apart = Apart::new(100)?;
    let mount = apart.mount("disk")?;
    apart.export(&[&mount])?;
    // The command does it itself, so that it is what dies.
    apart.gateway.stop()?;
    let points = [
        "dedupe.carry.taken:3",
        "dedupe.commit.data:2",
        "dedupe.commit.records:2",
        "dedupe.commit.index:2",
        "gateway.seed.before-seal:1",
        "gateway.seed.sealed:1",
    ];
    for point in points {
        let output = apart.importing(&[&mount]).env("SLUICE_CRASH_AT", point).output()?;
        let killed = std::os::unix::process::ExitStatusExt::signal(&output.status);
        ensure!(killed == Some(9), "{point}: {:?} {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let outcome = apart.imported(&[&mount])?;
    ensure!(outcome["outcome"]["seeds"][0]["state"] == "imported", "{outcome}");
    apart.gateway.start()?;
    apart.is_there()
}

#[test]
fn full_media_are_closed_and_the_next_one_is_asked_for() -> Result<()> {
    let apart = Apart::new(150)?;
    let mut disks = Vec::new();
    for name in ["one", "two", "three"] {
        let Some(disk) = SmallDisk::mount(&apart.world.path().join(name), 100)? else { return Ok(()) };
        disks.push((apart.world.path().join(name), disk));
    }
    let [one, two, three] = [0, 1, 2].map(|at: usize| disks[at].0.clone());
    let output = apart.exporting(&[&one]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("full") && said.contains("another --to"), "{said}");
    ensure!(folder_in(&one)?.join("manifest").exists(), "what is full is closed");
    let said = apart.export(&[&two, &three])?;
    ensure!(said["state"] == "exported" && said["media"].as_array().is_some_and(|media| media.len() == 2), "{said}");
    // One alone is not all of it, and says so; in any order they are.
    let partial = apart.import(&[&two])?;
    let partial_said = json(&String::from_utf8_lossy(&partial.stdout))?;
    ensure!(!partial.status.success() && partial_said["outcome"]["seeds"][0]["state"] == "importing", "{partial_said}");
    ensure!(partial_said["outcome"]["seeds"][0]["missing_bytes"].as_u64() > Some(0), "{partial_said}");
    let shown =
        apart.gateway.run("seed", &["show", partial_said["outcome"]["seeds"][0]["seed"].as_str().unwrap_or("")])?;
    ensure!(shown.contains("are not in yet") && shown.contains("media given so far: 2"), "{shown}");
    apart.imported(&[&one, &two])?;
    apart.is_there()
}

#[test]
fn a_medium_that_was_pulled_out_is_gone_on_with_or_written_again() -> Result<()> {
    let apart = Apart::new(300)?;
    let (mount, away) = (apart.mount("disk")?, apart.world.path().join("away"));
    let output = apart.exporting(&[&mount]).env("SLUICE_CRASH_AT", "edge.seed.noted:1").output()?;
    ensure!(!output.status.success());
    // Pulled out: another one is given, and the first is asked for.
    std::fs::rename(&mount, &away)?;
    let other = apart.mount("other")?;
    let output = apart.exporting(&[&other]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("medium 1 was taken out before it was closed"), "{said}");
    // It comes back with a part that was lost on the way: that is written again.
    std::fs::rename(&away, &mount)?;
    std::fs::remove_file(folder_in(&mount)?.join("0001.part"))?;
    let said = apart.export(&[&mount])?;
    ensure!(said["state"] == "exported", "{said}");
    apart.imported(&[&other, &mount])?;
    apart.is_there()
}

#[test]
fn a_damaged_part_is_named_and_comes_on_the_next_medium() -> Result<()> {
    let apart = Apart::new(300)?;
    let mount = apart.mount("disk")?;
    let said = apart.export(&[&mount])?;
    let id = said["id"].as_str().context("an id")?.to_owned();
    let path = folder_in(&mount)?.join("0001.part");
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes)?;
    let output = apart.import(&[&mount])?;
    let outcome = json(&String::from_utf8_lossy(&output.stdout))?;
    let damaged = &outcome["outcome"]["media"][0]["damaged"][0];
    ensure!(!output.status.success() && damaged["part"] == "1/1", "{outcome}");
    ensure!(damaged["what"].to_string().contains("a seal is broken"), "{outcome}");
    ensure!(outcome["outcome"]["seeds"][0]["state"] == "importing", "{outcome}");
    let again = apart.mount("again")?;
    let to = again.to_string_lossy().into_owned();
    apart.edge.run("seed", &["export", "--again", &id, "--parts", "1/1", "--to", &to])?;
    apart.imported(&[&again])?;
    apart.is_there()
}

#[test]
fn wrong_disks_are_refused_by_name_and_change_nothing() -> Result<()> {
    let (apart, other) = (Apart::new(24)?, Apart::new(24)?);
    let (mount, theirs) = (apart.mount("disk")?, other.mount("disk")?);
    apart.export(&[&mount])?;
    other.export(&[&theirs])?;
    let refused = |mount: &Path, what: &str| -> Result<()> {
        let output = apart.import(&[mount])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            bail!("it was taken in: {said}");
        }
        let why = json(&said)
            .map(|outcome| why(&outcome))
            .unwrap_or_else(|_| String::from_utf8_lossy(&output.stderr).into_owned());
        ensure!(why.contains(what), "`{what}` is not in {why}");
        Ok(())
    };
    refused(&theirs, "was not signed by an authority of this gateway")?;
    refused(&apart.mount("empty")?, "there are no seeds at")?;
    let folder = folder_in(&mount)?;
    let manifest = std::fs::read(folder.join("manifest"))?;
    std::fs::write(folder.join("manifest"), String::from_utf8(manifest.clone())?.replace(SITE, "branch-2"))?;
    refused(&mount, "this was changed after it was signed")?;
    std::fs::remove_file(folder.join("manifest"))?;
    refused(&mount, "it was not written to its end")?;
    std::fs::write(folder.join("manifest"), manifest)?;
    let nothing = apart.gateway.run("volumes", &["--json"])?;
    ensure!(json(&nothing)?["volumes"].as_array().is_some_and(Vec::is_empty), "{nothing}");
    apart.imported(&[&mount])?;
    apart.is_there()?;
    // A later generation that nobody announced would be put over what is here.
    let status = json(&apart.edge.run("seed", &["status", "--json"])?)?;
    let id = status[0]["id"].as_str().context("an id")?;
    apart.edge.run("seed", &["abandon", id, "--by", "new-seed"])?;
    let mut image = std::fs::read(&apart.image)?;
    image[MIB] ^= 1;
    std::fs::write(&apart.image, &image)?;
    apart.edge.run("capture", &[VOLUME])?;
    let newer = apart.mount("newer")?;
    apart.export(&[&newer])?;
    refused(&newer, "nobody announced it")?;
    image[MIB] ^= 1;
    std::fs::write(&apart.image, &image)?;
    apart.is_there()
}
