//! Volumes share a line: classes come one after the other, caps keep, a hold stops one volume, and nothing is sent twice.

use super::branch::{Branch, RECOVERY, Running, SITE, Setup, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::images::same_bytes;
use lab::line::{LinkSpec, Rate, Span};
use lab::volumes::Sample;
use lab::world::{Captured, EdgeOptions, HURRY};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The rate of the policy: below that of the line, so that the gate and not the line decides.
const RATE_BITS: u64 = 8_000_000;
/// What the connection holds beyond what the gate has admitted, at most, and the piece that is being written.
const IN_HAND: u64 = 256 << 10;
const PIECE: u64 = 64 << 10;
/// The second volume.
const OTHER: &str = "other";

/// A branch with two volumes whose line is the policy's.
struct Shared {
    branch: Branch,
    other: Sample,
}

fn document(rules: &str) -> String {
    format!(
        "zone = \"Asia/Shanghai\"\n[line]\nup = \"{} kbit/s\"\ncourtesy = \"off\"\n[profiles]\nfull = \"100 %\"\n\
         [grid]\nall = \"00:00 full\"\n{rules}",
        RATE_BITS / 1000
    )
}

fn rule(name: &str, more: &str) -> String {
    format!("[[volumes]]\nname = \"{name}\"\n{more}\n")
}

impl Shared {
    fn new(rules: &str, size: u64, other: u64) -> Result<Shared> {
        let extra = format!("memory = \"384 MiB\"\n{HURRY}");
        let edge = EdgeOptions { rate: String::new(), extra, ..EdgeOptions::default() };
        let link = LinkSpec { rate: Rate::mbit(20.0), delay: Span(5_000_000), ..LinkSpec::default() };
        let branch = Branch::with(Setup { edge, link, size, ..Setup::default() })?;
        let other = Sample::create(&branch.world.path().join("other.img"), other, 7)?;
        branch.edge.add_volume(OTHER, other.path())?;
        let shared = Shared { branch, other };
        shared.set(rules)?;
        shared.wait("an open line", |status| status["allowance"]["open"] == true)?;
        Ok(shared)
    }

    fn set(&self, rules: &str) -> Result<()> {
        let file = self.branch.world.path().join("policy.toml");
        std::fs::write(&file, document(rules))?;
        let file = file.to_string_lossy().into_owned();
        self.branch.gateway.run("policy", &["set", "--site", SITE, "--file", &file, "--reason", "a test"])?;
        Ok(())
    }

    fn capture(&self, volume: &str) -> Result<Running> {
        let mut command = self.branch.edge.capture_in_background(volume);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Running::new(command.spawn().context("starting a capture")?))
    }

    /// What `status` says, once `wanted` is true of it.
    fn wait(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> Result<serde_json::Value> {
        let deadline = Instant::now() + RECOVERY;
        loop {
            let status = self.branch.edge.status()?;
            if wanted(&status) {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{what} did not come about: {status:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Bytes of a volume's parcels that were handed to the line.
    fn sent(&mut self, volume: &str) -> Result<u64> {
        let metrics = self.branch.edge.daemon()?.metrics()?;
        Ok(metrics.value("sluice_edge_volume_sent_bytes_total", &[("volume", volume)]).unwrap_or(0.0) as u64)
    }

    /// Waits until a volume has sent so much in all, and says how much it was then.
    fn wait_sent(&mut self, volume: &str, bytes: u64) -> Result<u64> {
        let deadline = Instant::now() + RECOVERY;
        loop {
            let sent = self.sent(volume)?;
            if sent >= bytes {
                return Ok(sent);
            }
            ensure!(Instant::now() < deadline, "{volume} has sent {sent} of {bytes} bytes");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn prove(&self, volume: &str, captured: &Captured) -> Result<()> {
        if volume == VOLUME {
            return self.branch.prove(captured, self.branch.sample.path());
        }
        let rebuilt = self.branch.world.path().join("other-rebuilt.img");
        self.branch.gateway.rehydrate(&format!("{SITE}/{OTHER}"), "latest", &rebuilt)?;
        ensure!(same_bytes(self.other.path(), &rebuilt)?, "the rebuilt volume differs");
        Ok(())
    }
}

fn of<'a>(status: &'a serde_json::Value, volume: &str) -> &'a serde_json::Value {
    let volumes = status["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    volumes.iter().find(|known| known["name"] == volume).unwrap_or(&serde_json::Value::Null)
}

#[test]
fn a_critical_volume_overtakes_a_bulk_one_and_nothing_is_sent_twice() -> Result<()> {
    let rules = rule(VOLUME, "class = \"bulk\"") + &rule(OTHER, "class = \"critical\"");
    let mut shared = Shared::new(&rules, 64 << 20, 16 << 20)?;
    let bulk = shared.capture(VOLUME)?;
    shared.wait_sent(VOLUME, 1 << 20)?;
    let critical = shared.capture(OTHER)?;
    shared.wait_sent(OTHER, 2 * PIECE)?;
    let before = shared.sent(VOLUME)?;
    let status = shared.wait("the bulk volume waiting", |status| {
        of(status, VOLUME)["share"]["waits"] == "waits behind critical" || of(status, OTHER)["sealed"].is_object()
    })?;
    ensure!(of(&status, VOLUME)["share"]["waits"] == "waits behind critical", "{status:#}");
    ensure!(of(&status, VOLUME)["doing"].to_string().contains("aits behind critical"), "{status:#}");
    let first = critical.finish()?;
    let meanwhile = shared.sent(VOLUME)? - before;
    println!("measured: {meanwhile} bytes of bulk while {} of critical passed", first.coded_bytes);
    ensure!(of(&shared.branch.edge.status()?, VOLUME)["sealed"].is_null(), "the critical one is first to finish");
    let second = bulk.finish()?;
    shared.prove(OTHER, &first)?;
    shared.prove(VOLUME, &second)?;
    for (volume, captured) in [(VOLUME, second), (OTHER, first)] {
        let sent = shared.sent(volume)?;
        ensure!(sent == captured.coded_bytes, "{volume}: {sent} bytes were sent for {}", captured.coded_bytes);
    }
    Ok(())
}

#[test]
fn a_volume_keeps_its_cap_while_another_has_the_rest() -> Result<()> {
    const CAP_BITS: u64 = 1_000_000;
    let rules = rule(VOLUME, "") + &rule(OTHER, "class = \"critical\"\ncap = \"1 Mbit/s\"");
    let mut shared = Shared::new(&rules, 96 << 20, 16 << 20)?;
    let _rest = shared.capture(VOLUME)?;
    let _capped = shared.capture(OTHER)?;
    shared.wait_sent(OTHER, 1)?;
    shared.wait_sent(VOLUME, 1)?;
    let (began, from, rest) = (Instant::now(), shared.sent(OTHER)?, shared.sent(VOLUME)?);
    shared.wait_sent(OTHER, from + 700_000)?;
    let (capped, rest) = (shared.sent(OTHER)? - from, shared.sent(VOLUME)? - rest);
    let seconds = began.elapsed().as_secs_f64();
    println!("measured: {} and {} kbit/s", capped as f64 / seconds / 125.0, rest as f64 / seconds / 125.0);
    let most = CAP_BITS as f64 / 8.0 * seconds + PIECE as f64;
    ensure!(capped as f64 <= most, "{capped} bytes in {seconds} s are above the cap's {most}");
    let left = (RATE_BITS - CAP_BITS) as f64 / 8.0 * seconds;
    ensure!(rest as f64 >= left * 0.8, "the other has sent {rest} of about {left} bytes");
    let status =
        shared.wait("the cap being named", |status| of(status, OTHER)["share"]["waits"] == "at its cap of 1 Mbit/s")?;
    ensure!(of(&status, OTHER)["share"]["cap"] == "1 Mbit/s", "{status:#}");
    Ok(())
}

#[test]
fn a_hold_of_one_volume_stops_it_while_the_other_goes_on() -> Result<()> {
    let mut shared = Shared::new("", 64 << 20, 64 << 20)?;
    let held = shared.capture(OTHER)?;
    shared.wait_sent(OTHER, 1 << 20)?;
    let other = shared.capture(VOLUME)?;
    shared.wait_sent(VOLUME, 1 << 20)?;
    let pause = ["add", "--site", SITE, "--pause", "--volume", OTHER, "--for", "1h", "--reason", "stock taking"];
    shared.branch.gateway.run("override", &pause)?;
    let status =
        shared.wait("the hold", |status| of(status, OTHER)["share"]["waits"].to_string().contains("held until"))?;
    ensure!(of(&status, OTHER)["doing"].to_string().contains("stock taking"), "{status:#}");
    let (stopped, passing) = (shared.sent(OTHER)?, shared.sent(VOLUME)?);
    shared.wait_sent(VOLUME, passing + (4 << 20))?;
    let after = shared.sent(OTHER)? - stopped;
    ensure!(after <= PIECE, "{after} bytes of it were handed over after the hold");
    // With both held the line falls silent once it has carried what the connection held.
    let pause = ["add", "--site", SITE, "--pause", "--volume", VOLUME, "--for", "1h", "--reason", "stock taking too"];
    shared.branch.gateway.run("override", &pause)?;
    shared.wait("the second hold", |status| of(status, VOLUME)["share"]["waits"].to_string().contains("held until"))?;
    let from = shared.branch.line.carried_up();
    let (mut last, mut alike) = (from, 0);
    while alike < 20 {
        std::thread::sleep(Duration::from_millis(25));
        let now = shared.branch.line.carried_up();
        alike = if now == last { alike + 1 } else { 0 };
        last = now;
    }
    println!("measured: {after} bytes handed over after the hold, {} carried after the second", last - from);
    ensure!(last - from <= IN_HAND + PIECE, "{} bytes were carried after both were held", last - from);
    // It is remembered over a kill, and goes on where it was.
    shared.branch.edge.kill()?;
    drop((held, other));
    shared.branch.edge.start()?;
    shared.wait("the hold again", |status| of(status, OTHER)["share"]["waits"].to_string().contains("held until"))?;
    let advice = shared.branch.edge.run("remedy", &["--volume", VOLUME, "--by", "2026-01-01 00:00"]);
    ensure!(advice.is_err_and(|error| error.to_string().contains("is no time to come")), "the past is no deadline");
    let listed = shared.branch.gateway.run("override", &["list", "--site", SITE, "--json"])?;
    for id in listed.split("\"id\":").skip(1) {
        let id: String = id.trim_start().chars().take_while(char::is_ascii_digit).collect();
        shared.branch.gateway.run("override", &["end", "--site", SITE, &id, "--reason", "done"])?;
    }
    shared.wait("both at the gateway", |status| {
        [VOLUME, OTHER].iter().all(|volume| of(status, volume)["sealed"].is_object())
    })?;
    Ok(())
}

#[test]
fn three_volumes_that_wait_leave_a_berth_to_one_that_comes_first() -> Result<()> {
    let low = |name: &str| rule(name, "class = \"bulk\"");
    let rules = low(VOLUME) + &low("b") + &low("c") + &rule(OTHER, "class = \"critical\"");
    let mut shared = Shared::new(&rules, 48 << 20, 8 << 20)?;
    let mut running = vec![(VOLUME, shared.capture(VOLUME)?)];
    let mut samples = Vec::new();
    for (seed, name) in [(11, "b"), (12, "c")] {
        let sample = Sample::create(&shared.branch.world.path().join(format!("{name}.img")), 48 << 20, seed)?;
        shared.branch.edge.add_volume(name, sample.path())?;
        samples.push(sample);
        running.push((name, shared.capture(name)?));
    }
    for (name, _) in &running {
        shared.wait_sent(name, 1)?;
    }
    let critical = shared.capture(OTHER)?.finish()?;
    shared.prove(OTHER, &critical)?;
    let status = shared.branch.edge.status()?;
    ensure!(running.iter().any(|(name, _)| of(&status, name)["sealed"].is_null()), "the bulk ones were still waiting");
    for (name, running) in running {
        let captured = running.finish()?;
        let sent = shared.sent(name)?;
        ensure!(sent == captured.coded_bytes, "{name}: {sent} bytes were sent for {}", captured.coded_bytes);
    }
    drop(samples);
    Ok(())
}

#[test]
fn a_deadline_that_is_missed_is_said_with_what_would_help() -> Result<()> {
    let closed = document("").replace("all = \"00:00 full\"", "all = \"00:00 trickle\"");
    let closed = closed.replace("full = \"100 %\"", "full = \"100 %\"\ntrickle = \"64 kbit/s\"");
    let shared = Shared::new("", 32 << 20, 8 << 20)?;
    let file = shared.branch.world.path().join("slow.toml");
    std::fs::write(&file, closed)?;
    let file = file.to_string_lossy().into_owned();
    shared.branch.gateway.run("policy", &["set", "--site", SITE, "--file", &file, "--reason", "a test"])?;
    shared.wait("the trickle", |status| status["allowance"]["up"] == "64 kbit/s")?;
    let running = shared.capture(VOLUME)?;
    shared.wait("a forecast", |status| of(status, VOLUME)["arrives_at"].is_number())?;
    let by = clock_in(Duration::from_secs(1200))?;
    let text = shared.branch.edge.run("remedy", &["--volume", VOLUME, "--by", &by, "--json"])?;
    let advice: serde_json::Value = serde_json::from_str(&text)?;
    ensure!(advice["is_met"] == false && advice["boost"]["rate"] == "8 Mbit/s", "{advice:#}");
    ensure!(advice["sentence"].to_string().contains("boost 8 Mbit/s from"), "{advice:#}");
    // Followed, it helps.
    let boost = ["add", "--site", SITE, "--boost", "8 Mbit/s", "--for", "20m", "--reason", "as was advised"];
    shared.branch.gateway.run("override", &boost)?;
    let captured = running.finish()?;
    shared.prove(VOLUME, &captured)
}

/// A moment from now on the site's clock, which is eight hours ahead, as `07:30`.
fn clock_in(ahead: Duration) -> Result<String> {
    let at = std::time::SystemTime::now() + ahead + Duration::from_secs(8 * 3600);
    let minutes = at.duration_since(std::time::UNIX_EPOCH)?.as_secs() / 60;
    Ok(format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60))
}
