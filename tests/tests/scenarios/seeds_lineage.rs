//! A seed by courier: what changes while it travels goes over the line as it would on a seed by wire, and joins it when it is in.

use super::branch::{Branch, RECOVERY, SITE, Setup, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::images::same_bytes;
use lab::wan::blake3_of;
use lab::world::{EdgeOptions, Ended, HURRY};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the sender says when all of a volume is at the gateway but its seed.
const WAITS: &str = "waits at the gateway for its seed";

/// A branch whose volume's first generation is on a medium, and nothing at the centre.
struct Courier {
    branch: Branch,
    /// The seed.
    id: String,
    /// Where its medium is.
    mount: PathBuf,
    /// The volume as the medium holds it.
    image: PathBuf,
}

/// A rate at which the same effort is chosen in every run, and parcels of 16 MiB.
fn setup() -> Setup {
    let extra = format!("memory = \"384 MiB\"\n{HURRY}");
    Setup { edge: EdgeOptions { extra, rate: "20 Mbit/s".into(), ..EdgeOptions::default() }, ..Setup::default() }
}

impl Courier {
    /// Captured, exported, shipped.
    fn shipped() -> Result<Self> {
        let mut branch = Branch::with(setup())?;
        let key = branch.gateway.run("seed", &["key"])?.trim().to_owned();
        branch.gateway.stop()?; // nothing goes over the line before the export
        branch.edge.run("capture", &[VOLUME])?;
        let (image, mount) = (branch.keep_copy("seed.img")?, branch.world.path().join("medium"));
        std::fs::create_dir(&mount)?;
        let to = mount.display().to_string();
        let said = branch.edge.run("seed", &["export", "--json", "--key", &key, "--to", &to])?;
        let said: serde_json::Value = serde_json::from_str(said.trim()).with_context(|| format!("reading {said}"))?;
        let id = said["id"].as_str().context("the seed has an id")?.to_owned();
        branch.edge.run("seed", &["shipped", &id, "--courier", "Post", "--number", "7"])?;
        branch.gateway.start()?;
        Ok(Courier { branch, id, mount, image })
    }

    /// A day of changes is captured, and waits at the centre. Gives the bytes that crossed the line for it.
    fn a_day_waits(&mut self) -> Result<u64> {
        self.wait_status(WAITS)?;
        self.branch.sample.busy_day()?;
        let before = self.branch.line.carried_up();
        self.branch.edge.run("capture", &[VOLUME])?;
        self.wait_waiting(1)?;
        self.wait_status(WAITS)?;
        Ok(self.branch.line.carried_up() - before)
    }

    /// Waits until the edge says this of the volume.
    fn wait_status(&self, needle: &str) -> Result<()> {
        until(|| Ok(self.branch.edge.status()?.to_string().contains(needle)))
            .with_context(|| format!("the edge never said `{needle}`"))
    }

    fn volumes(&self) -> Result<serde_json::Value> {
        let text = self.branch.gateway.run("volumes", &["--json"])?;
        serde_json::from_str(&text).with_context(|| format!("reading {text}"))
    }

    fn count(&self, what: &str) -> Result<u64> {
        let volumes = self.volumes()?;
        let line = volumes.pointer("/volumes/0").or(volumes.get(0));
        Ok(line.and_then(|line| line.get(what)).and_then(serde_json::Value::as_u64).unwrap_or(0))
    }

    fn wait_waiting(&self, count: u64) -> Result<()> {
        until(|| Ok(self.count("waiting")? == count)).with_context(|| format!("{count} never waited"))
    }

    /// The medium arrives.
    fn import(&self) -> Result<()> {
        self.branch.gateway.run("seed", &["import", &self.mount.display().to_string()]).map(drop)?;
        Ok(())
    }

    /// Everything that waited joined, and is byte for byte what the branch has.
    fn prove(&self, generations: u64) -> Result<()> {
        until(|| Ok(self.count("generations")? == generations && self.count("waiting")? == 0))
            .with_context(|| format!("what waited never joined: {:?}", self.volumes()))?;
        self.prove_one("1", &self.image)?;
        self.prove_one("latest", self.branch.sample.path())
    }

    fn prove_one(&self, generation: &str, source: &Path) -> Result<()> {
        let rebuilt = self.branch.rebuilt();
        self.branch.gateway.rehydrate(&self.branch.volume(), generation, &rebuilt)?;
        ensure!(same_bytes(source, &rebuilt)?, "generation {generation} differs from {}", source.display());
        ensure!(blake3_of(source)? == blake3_of(&rebuilt)?, "generation {generation} has another root");
        Ok(())
    }
}

fn until(mut what: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + RECOVERY;
    while !what()? {
        ensure!(Instant::now() < deadline, "nothing happened for {} s", RECOVERY.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[test]
fn a_delta_on_a_seed_by_courier_costs_what_it_costs_on_a_seed_by_wire() -> Result<()> {
    let mut by_wire = Branch::with(setup())?;
    by_wire.replicate()?;
    by_wire.sample.busy_day()?;
    let before = by_wire.line.carried_up();
    by_wire.edge.capture(VOLUME)?;
    let wire = by_wire.line.carried_up() - before;
    drop(by_wire);
    let mut courier = Courier::shipped()?;
    let before = courier.branch.line.carried_up();
    let on_promise = courier.a_day_waits()?;
    println!("a day's delta over the line: {wire} bytes on a seed by wire, {on_promise} on one by courier");
    ensure!(on_promise <= wire + wire / 50, "{on_promise} bytes on a seed by courier, {wire} on one by wire");
    ensure!(on_promise + wire / 50 >= wire, "{on_promise} bytes on a seed by courier, {wire} on one by wire");
    let all = courier.branch.line.carried_up() - before;
    ensure!(all < 2 * wire, "{all} bytes crossed in all: the seed did not go over the line");
    courier.import()?;
    courier.prove(2)?;
    // The lineage goes on as any other.
    courier.branch.sample.busy_day()?;
    let captured = courier.branch.edge.capture(VOLUME)?;
    courier.branch.prove(&captured, courier.branch.sample.path())
}

/// The centre is killed at `point` while a delta arrives that is to wait; then the seed comes.
fn killed_while_it_waits(point: &str) -> Result<()> {
    let mut courier = Courier::shipped()?;
    courier.wait_status(WAITS)?;
    courier.branch.sample.busy_day()?;
    courier.branch.gateway.stop()?;
    courier.branch.gateway.start_to_crash(point, 1)?;
    courier.branch.edge.run("capture", &[VOLUME])?;
    let ended = courier.branch.gateway.wait_crash(RECOVERY).with_context(|| format!("{point} was not passed"))?;
    ensure!(ended == Ended::Signal(9), "the gateway ended with {ended:?} instead of at {point}");
    courier.branch.gateway.start()?;
    courier.wait_waiting(1)?;
    courier.import()?;
    courier.prove(2).with_context(|| format!("after a kill at {point}"))
}

#[test]
fn a_gateway_killed_before_a_parcel_waits_finishes() -> Result<()> {
    killed_while_it_waits("gateway.waiting.before")
}

#[test]
fn a_gateway_killed_when_a_parcel_waits_finishes() -> Result<()> {
    killed_while_it_waits("gateway.waiting.after")
}

#[test]
fn a_gateway_killed_before_a_generation_waits_finishes() -> Result<()> {
    killed_while_it_waits("gateway.waiting.seal")
}

#[test]
fn a_gateway_killed_when_a_generation_waits_finishes() -> Result<()> {
    killed_while_it_waits("gateway.waiting.sealed")
}

#[test]
fn a_gateway_killed_anywhere_while_it_joins_finishes() -> Result<()> {
    let mut courier = Courier::shipped()?;
    courier.a_day_waits()?;
    courier.branch.sample.busy_day()?;
    courier.branch.edge.run("capture", &[VOLUME])?;
    courier.wait_waiting(2)?;
    courier.branch.gateway.stop()?;
    courier.import()?;
    for point in ["gateway.join.parcel", "gateway.join.before-seal", "gateway.join.sealed", "gateway.waiting.dropped"] {
        courier.branch.gateway.launch_to_crash(point, 1)?;
        let ended = courier.branch.gateway.wait_crash(RECOVERY).with_context(|| format!("{point} was not passed"))?;
        ensure!(ended == Ended::Signal(9), "the gateway ended with {ended:?} instead of at {point}");
    }
    courier.branch.gateway.start()?;
    courier.prove(3)
}

#[test]
fn an_edge_killed_while_its_delta_is_to_wait_finishes() -> Result<()> {
    for point in ["edge.send.half", "edge.ack.before-commit"] {
        let mut courier = Courier::shipped()?;
        courier.wait_status(WAITS)?;
        courier.branch.sample.busy_day()?;
        courier.branch.edge.stop()?;
        courier.branch.edge.start_to_crash(point, 1)?;
        courier.wait_status(WAITS)?;
        courier.branch.edge.run("capture", &[VOLUME])?;
        let ended = courier.branch.edge.wait_crash(RECOVERY).with_context(|| format!("{point} was not passed"))?;
        ensure!(ended == Ended::Signal(9), "the edge ended with {ended:?} instead of at {point}");
        courier.branch.edge.start()?;
        courier.wait_waiting(1)?;
        courier.import()?;
        courier.prove(2).with_context(|| format!("after a kill at {point}"))?;
    }
    Ok(())
}

#[test]
fn a_seed_that_is_given_up_holds_its_volume_until_somebody_says_how_it_goes_on() -> Result<()> {
    let mut courier = Courier::shipped()?;
    courier.a_day_waits()?;
    // Given up at the gateway, where nobody said how its volume goes on.
    courier.branch.gateway.run("seed", &["abandon", &courier.id, "--reason", "the van burnt"])?;
    courier.wait_status("its seed was given up; say how it goes on")?;
    courier.wait_waiting(0)?;
    let before = courier.branch.line.carried_up();
    courier.branch.sample.busy_day()?;
    courier.branch.edge.run("capture", &[VOLUME])?;
    courier.wait_status("its seed was given up; say how it goes on")?;
    let held = courier.branch.line.carried_up() - before;
    ensure!(held < 100_000, "{held} bytes went over the line by themselves");
    ensure!(courier.count("generations")? == 0, "nothing of it is there");
    let asked = courier.branch.edge.run("seed", &["abandon", &courier.id]).err().context("it asks how")?.to_string();
    ensure!(asked.contains("say how its volumes go on"), "{asked}");
    courier.branch.edge.run("seed", &["abandon", &courier.id, "--by", "line"])?;
    until(|| Ok(courier.count("generations")? == 1)).context("it never went over the line")?;
    courier.prove_one("latest", courier.branch.sample.path())?;
    ensure!(courier.volumes()?.to_string().contains(SITE));
    Ok(())
}
