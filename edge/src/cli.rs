//! The command line: asks the running daemon, or does it itself where none runs and that makes sense.

mod restore;
mod seeds;
mod volume;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use dedupe::{ByteOffset, Progress};
use monitoring::LogFormat;
use sluice_edge::admin::{self, AskError, Outcome, Reply, Request};
use sluice_edge::capture::How;
use sluice_edge::source::{Source, SourceError};
use sluice_edge::status::Status;
use sluice_edge::{CaptureReport, Config, Daemon, Extent, diagnostics, text};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use wire::token::Token;

/// Where a configuration is looked for.
const CONFIG: &str = "/etc/sluice/edge.toml";
/// The environment's place for a token, for machines that enrol themselves.
const TOKEN_VARIABLE: &str = "SLUICE_TOKEN";
/// A token has a few hundred characters; more than this is another file.
const MAX_TOKEN: u64 = 16 << 10;

/// Replicates the volumes of this site to the central gateway.
#[derive(Parser)]
#[command(name = "sluice-edge", version, about, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The configuration that a command goes by.
#[derive(Args)]
pub(crate) struct At {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

impl At {
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(&self.config)?)
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the daemon.
    Run {
        #[command(flatten)]
        at: At,
        /// How log lines are written to stderr: `text` for people, `json` for programs. RUST_LOG says how much.
        #[arg(long, value_name = "FORMAT", env = "SLUICE_LOG", default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Enrol this edge at a gateway with a one-time token (from `sluice-gateway token`).
    Enrol {
        #[command(flatten)]
        at: At,
        /// The file that holds the token; without it SLUICE_TOKEN is used, or standard input.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Freezes and thaws what uses a volume; started by the daemon.
    #[command(hide = true)]
    ThawGuard {
        #[arg(long)]
        script: PathBuf,
        #[arg(long)]
        volume: String,
        #[arg(long)]
        within_ms: u64,
    },
    /// Add, list and remove volumes; look at sources before, and say what is believed of them.
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Capture a volume now.
    Capture {
        #[command(flatten)]
        at: At,
        /// The volume.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        volume: Option<String>,
        /// All volumes, one after the other.
        #[arg(long)]
        all: bool,
        /// Wait until the gateway has verified the generation.
        #[arg(long)]
        wait: bool,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the generations of a volume.
    Generations(restore::Generations),
    /// Serve a generation as a read-only block device, so that the host can mount it and copy single files.
    Export(restore::Export),
    /// Write a generation of a volume to a file or block device here; what is here needs no line.
    Restore(restore::Restore),
    /// Bring the first copy of volumes to the gateway by courier: write media, and say what becomes of them.
    #[command(subcommand)]
    Seed(seeds::SeedCommand),
    /// Show what each volume is doing and what holds it back.
    Status {
        #[command(flatten)]
        at: At,
        /// Print everything as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the root of an image or device: what `b3sum` prints, with progress.
    Root {
        /// The file or block device.
        file: PathBuf,
    },
    /// Check a configuration and say what it means.
    CheckConfig(At),
    /// Give back room that nothing needs in the local store.
    Gc {
        #[command(flatten)]
        at: At,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Read the local store again and name what is damaged.
    Scrub {
        #[command(flatten)]
        at: At,
    },
    /// Send nothing for a while; it ends by itself. Always allowed.
    Pause {
        #[command(flatten)]
        at: At,
        /// How long, a minute to 24 hours: 30m, 2h.
        #[arg(long = "for", value_name = "TIME", value_parser = text::parse_duration)]
        lasts: Duration,
        /// Why: it is kept and shown.
        #[arg(long)]
        reason: String,
    },
    /// Send faster than the schedule says for a while, where the policy lets this site do so.
    Boost {
        #[command(flatten)]
        at: At,
        /// The rate, as in "1.8 Mbit/s".
        rate: shaping::Rate,
        /// How long, a minute to 12 hours: 30m, 2h.
        #[arg(long = "for", value_name = "TIME", value_parser = text::parse_duration)]
        lasts: Duration,
        /// Why: it is kept and shown.
        #[arg(long)]
        reason: String,
    },
    /// End what was paused or boosted here.
    Resume(At),
    /// Say whether what is on its way arrives in time, and what would help if it does not.
    Remedy {
        #[command(flatten)]
        at: At,
        /// Of this volume; else of all that is on its way.
        #[arg(long)]
        volume: Option<String>,
        /// By when: "07:30", "2026-11-24 07:30" (both of the site's clock) or "2026-11-23T23:30:00Z"; else when the policy's `lag` is over.
        #[arg(long, value_name = "TIME")]
        by: Option<String>,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure what the line carries, its round trips and losses: up to 20 s of padding, within what the policy allows now.
    LineTest {
        #[command(flatten)]
        at: At,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say how to get to the page of this box; makes the PIN where there is none.
    Page {
        #[command(flatten)]
        at: At,
        /// Make a new PIN; the old one, and all sessions, end.
        #[arg(long)]
        new_pin: bool,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write one file with everything that can be known of this edge without its secrets, for whoever helps from afar.
    Diagnostics {
        #[command(flatten)]
        at: At,
        /// Where to; else sluice-diagnostics-SITE-TIME.json in this directory. `-` is standard output.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Show the policy in force, and what it says now.
    Policy {
        #[command(flatten)]
        at: At,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Does everything but [`Command::Run`].
pub(crate) async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { .. } => unreachable!("the daemon is run by the caller"),
        Command::Enrol { at, token_file } => enrol(&at.load()?, token_file.as_deref()).await?,
        Command::ThawGuard { script, volume, within_ms } => {
            sluice_edge::freeze::guard::run(&script, &volume, Duration::from_millis(within_ms)).await?
        }
        Command::Volume(asked) => return volume::volume(asked).await,
        Command::Capture { at, volume, all: _, wait, json } => capture(&at.load()?, volume, wait, json).await?,
        Command::Generations(asked) => restore::generations(asked).await?,
        Command::Export(asked) => restore::export(asked).await?,
        Command::Restore(asked) => restore::restore(asked).await?,
        Command::Seed(asked) => seeds::seed(asked).await?,
        Command::Status { at, json } => show(&status(&at.load()?).await?, json)?,
        Command::Root { file } => root(file).await?,
        Command::CheckConfig(at) => check(&at.load()?),
        Command::Gc { at, dry_run } => match request(&at.load()?, Request::Gc { dry_run }).await? {
            Outcome::Swept { plan, freed_bytes: None } => println!("{plan}"),
            Outcome::Swept { plan, freed_bytes: Some(freed) } => println!("{plan}; {} given back", text::bytes(freed)),
            _ => bail!(AskError::NotUnderstood),
        },
        Command::Scrub { at } => return scrub(&at.load()?).await,
        Command::Pause { at, lasts, reason } => {
            bend(&at.load()?, Request::Pause { seconds: lasts.as_secs(), actor: actor(), reason }).await?;
        }
        Command::Boost { at, rate, lasts, reason } => {
            bend(&at.load()?, Request::Boost { rate, seconds: lasts.as_secs(), actor: actor(), reason }).await?;
        }
        Command::Resume(at) => bend(&at.load()?, Request::Resume).await?,
        Command::Remedy { at, volume, by, json } => {
            let Outcome::Advice(advice) = request(&at.load()?, Request::Remedy { volume, by }).await? else {
                bail!(AskError::NotUnderstood)
            };
            if json { println!("{}", serde_json::to_string(&advice)?) } else { println!("{}", advice.sentence) }
        }
        Command::Page { at, new_pin, json } => page(&at.load()?, new_pin, json).await?,
        Command::Diagnostics { at, to } => diagnose(&at.load()?, to).await?,
        Command::Policy { at, json } => policy(&at.load()?, json).await?,
        Command::LineTest { at, json } => match request(&at.load()?, Request::LineTest).await? {
            Outcome::LineTested(tested) if json => println!("{}", serde_json::to_string(&tested)?),
            Outcome::LineTested(tested) => println!("{tested}"),
            _ => bail!(AskError::NotUnderstood),
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the running daemon, or opens the state directory where none runs.
async fn request(config: &Config, request: Request) -> anyhow::Result<Outcome> {
    let mut line = ProgressLine::new();
    let outcome = match admin::ask(&config.state, &request, |text| line.show(text)).await {
        Err(AskError::NotRunning(_)) if !needs_daemon(&request) => locally(config, request, &mut line).await,
        asked => asked.map_err(anyhow::Error::from),
    };
    line.end();
    outcome
}

/// Without a line to a gateway nothing is ever verified there.
fn needs_daemon(request: &Request) -> bool {
    matches!(
        request,
        Request::Capture { wait: true, .. }
            | Request::LineTest
            | Request::Restore(_)
            | Request::Export(_)
            | Request::RestoreCancel { .. }
            | Request::Generations { remote: true, .. }
    )
}

async fn locally(config: &Config, request: Request, line: &mut ProgressLine) -> anyhow::Result<Outcome> {
    let daemon = Daemon::start_with(config.clone(), Extent::Local).await?;
    let (replies, mut said) = mpsc::channel(16);
    let handled = {
        let work = admin::handle(&daemon, request, &replies);
        tokio::pin!(work);
        loop {
            tokio::select! {
                handled = &mut work => break handled,
                Some(reply) = said.recv() => if let Reply::Progress(text) = reply { line.show(&text) },
                _ = tokio::signal::ctrl_c() => {
                    // The second one ends the process as usual.
                    line.show("stopping; what was captured is kept");
                    daemon.clone().shutdown().await;
                }
            }
        }
    };
    daemon.shutdown().await;
    Ok(handled?)
}

async fn status(config: &Config) -> anyhow::Result<Status> {
    match request(config, Request::Status).await? {
        Outcome::Status(status) => Ok(*status),
        _ => bail!(AskError::NotUnderstood),
    }
}

async fn enrol(config: &Config, token_file: Option<&Path>) -> anyhow::Result<()> {
    let token: Token = read_token(token_file)?.parse()?;
    let site = sluice_edge::enrol(config, &token).await?;
    println!("enrolled as site {site}; start the daemon with `sluice-edge run`");
    Ok(())
}

/// A token is a secret: it never comes by the command line, where every process of the machine could read it.
fn read_token(file: Option<&Path>) -> anyhow::Result<zeroize::Zeroizing<String>> {
    let mut text = zeroize::Zeroizing::new(String::new());
    match file {
        Some(path) => {
            let file =
                std::fs::File::open(path).with_context(|| format!("cannot read the token in {}", path.display()))?;
            file.take(MAX_TOKEN)
                .read_to_string(&mut text)
                .with_context(|| format!("{} holds no token", path.display()))?;
        }
        None => match std::env::var(TOKEN_VARIABLE) {
            Ok(token) => *text = token,
            Err(_) => {
                if std::io::stdin().is_terminal() {
                    eprintln!("Paste the token that `sluice-gateway token` printed, then press Enter and Ctrl-D:");
                }
                std::io::stdin()
                    .take(MAX_TOKEN)
                    .read_to_string(&mut text)
                    .context("cannot read a token from standard input")?;
            }
        },
    }
    Ok(text)
}

async fn capture(config: &Config, volume: Option<String>, wait: bool, json: bool) -> anyhow::Result<()> {
    let single = volume.is_some();
    let Outcome::Captured(reports) = request(config, Request::Capture { volume, wait }).await? else {
        bail!(AskError::NotUnderstood);
    };
    match (json, single, reports.first()) {
        (true, true, Some(report)) => println!("{}", serde_json::to_string(report)?),
        (true, ..) => println!("{}", serde_json::to_string(&reports)?),
        (false, ..) => reports.iter().for_each(|report| println!("{}", captured(report, wait))),
    }
    Ok(())
}

/// Who asks, for the record.
fn actor() -> String {
    let name = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
    name.unwrap_or_else(|_| format!("uid {}", nix::unistd::getuid()))
}

async fn bend(config: &Config, asked: Request) -> anyhow::Result<()> {
    let Outcome::Line(standing) = request(config, asked).await? else { bail!(AskError::NotUnderstood) };
    println!("The line is {}.", standing.sentence);
    Ok(())
}

async fn policy(config: &Config, json: bool) -> anyhow::Result<()> {
    let Outcome::Policy { document, standing } = request(config, Request::Policy).await? else {
        bail!(AskError::NotUnderstood)
    };
    if json {
        println!("{}", serde_json::json!({ "document": document, "standing": standing }));
        return Ok(());
    }
    println!("# now: {}", standing.sentence);
    print!("{}", document.unwrap_or_default());
    Ok(())
}

async fn page(config: &Config, new_pin: bool, json: bool) -> anyhow::Result<()> {
    let Outcome::Page(info) = request(config, Request::Page { new_pin }).await? else { bail!(AskError::NotUnderstood) };
    if json {
        println!("{}", serde_json::to_string(&info)?);
        return Ok(());
    }
    info.addresses.iter().for_each(|address| println!("page         {address}"));
    if let Some(fingerprint) = &info.fingerprint {
        println!("fingerprint  {fingerprint}");
        println!("             (SHA-256 of its certificate: compare it with what the browser shows, then trust it)");
    }
    match &info.pin {
        Some(pin) => println!("PIN          {} (shown this once)", *sluice_edge::page::pin::grouped(pin)),
        None => println!("PIN          is set; `sluice-edge page --new-pin` makes another"),
    }
    Ok(())
}

async fn diagnose(config: &Config, to: Option<PathBuf>) -> anyhow::Result<()> {
    let Outcome::Diagnostics(bundle) = request(config, Request::Diagnostics).await? else {
        bail!(AskError::NotUnderstood)
    };
    let (text, name) = (diagnostics::text(&bundle), diagnostics::file_name(&bundle));
    if to.as_deref() == Some(Path::new("-")) {
        print!("{text}");
        return Ok(());
    }
    let path = to.unwrap_or_else(|| name.into());
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}; name another place with --to", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

fn captured(report: &CaptureReport, wait: bool) -> String {
    let mut text = format!(
        "{}: generation {} captured in {:.1} s: {} of {} differ from the generation before\n  root {}",
        report.volume,
        report.number,
        report.capture_s,
        text::bytes(report.dirty_bytes),
        text::bytes(report.size),
        report.root
    );
    if wait {
        text +=
            &format!("\n  verified at the gateway: {} parcels, {}", report.parcels, text::bytes(report.coded_bytes));
        // An earlier capture's bytes may have gone along: then the ratio would say nothing.
        if report.dirty_bytes > report.coded_bytes && report.coded_bytes > 0 {
            text += &format!(" ({:.1} : 1)", report.dirty_bytes as f64 / report.coded_bytes as f64);
        }
    }
    match &report.how {
        How::Whole => {}
        How::Reread { why } => text += &format!("\n  everything was read ({}): {why}", text::bytes(report.read_bytes)),
        How::Changes { .. } => {
            text +=
                &format!("\n  {} were read: what changed, and a sample of the rest", text::bytes(report.read_bytes));
        }
    }
    if report.unreadable_ranges > 0 {
        text += &format!("\n  {} ranges of sectors were unreadable and are zero in it", report.unreadable_ranges);
    }
    if report.moved {
        text += "\n  the source was written to while it was read: take a snapshot of it if it should be consistent";
    }
    text
}

fn show(status: &Status, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(status)?);
        return Ok(());
    }
    if let Some(site) = &status.site {
        println!("Site {site}");
    }
    if let Some(system) = &status.appliance {
        let state = if system.confirmed { "confirmed" } else { "on trial" };
        println!("Version {} in slot {}, {state}.", system.version, system.slot);
        system.doing().iter().for_each(|doing| println!("{doing}"));
        for last in system.last.iter().filter(|last| !last.confirmed) {
            println!("Version {} was tried and left: {}.", last.version, last.why);
        }
    }
    println!("{}", status.line);
    println!("The line is {}.", status.allowance.sentence);
    for (period, used, limit) in &status.allowance.quotas {
        let percent = *used as f64 * 100.0 / (*limit).max(1) as f64;
        println!("{period} quota: {} of {} used ({percent:.0} %).", text::bytes(*used), text::bytes(*limit));
    }
    let (sent, received) = (text::bytes(status.sent_bytes), text::bytes(status.received_bytes));
    println!(
        "{sent} sent and {received} received since the start; {} wait in the spool.",
        text::bytes(status.spool_bytes)
    );
    let width = status.volumes.iter().map(|volume| volume.name.len()).max().unwrap_or(0);
    for volume in &status.volumes {
        let arrives = volume.arrives.as_ref().map(|at| format!(" Expected at the gateway {at}.")).unwrap_or_default();
        let late = volume.late.as_ref().map(|late| format!(" {late}")).unwrap_or_default();
        println!("{:width$}  {:8}  {}{arrives}{late}", volume.name, volume.share.class, volume.doing);
    }
    status.restores.iter().filter(|restore| !restore.phase.is_over()).for_each(|restore| println!("{restore}"));
    if status.volumes.is_empty() {
        println!("No volumes; add one with `sluice-edge volume add NAME --source file:PATH`.");
    }
    Ok(())
}

fn check(config: &Config) {
    let budget = config.budget();
    let encoder = config.budget().encoder_options(config.cache);
    println!("state directory    {}", config.state.display());
    let rate = config.rate.map_or("closed until there is a policy".into(), |rate| rate.to_string());
    println!("rate               {rate} (effort is chosen for {:.3} Mbit/s)", config.encoder_rate() as f64 / 1e6);
    println!("memory             {} MiB", config.memory.0 >> 20);
    println!("  index cache      {} MiB", budget.index_cache >> 20);
    println!("  record cache     {} MiB", budget.record_cache >> 20);
    println!("  coder            {} MiB, parcels of {} MiB", budget.encoder >> 20, encoder.parcel >> 20);
    println!("  capture threads  {}", budget.capture_workers);
    println!("content cache      {}", text::bytes(config.cache.0));
    println!("spool              {}", text::bytes(config.spool.0));
    match config.capture.interval {
        Some(interval) => println!("capture            every {}", text::duration(interval)),
        None => println!("capture            when asked"),
    }
    let sampling = config.capture.sampling;
    println!(
        "  verified         all of a tracked volume within {} captures, at most {} in each",
        sampling.captures,
        text::bytes(sampling.most.0)
    );
    match config.http {
        Some(http) => println!("metrics, health    http://{http}/metrics, /health"),
        None => println!("metrics, health    not served"),
    }
    match &config.page {
        Some(page) if page.is_tls() => {
            println!("page               https://{}/, with a certificate of its own", page.listen)
        }
        Some(page) => println!("page               http://{}/", page.listen),
        None => println!("page               not served"),
    }
}

async fn scrub(config: &Config) -> anyhow::Result<ExitCode> {
    let Outcome::Scrubbed(damages) = request(config, Request::Scrub).await? else { bail!(AskError::NotUnderstood) };
    if damages.is_empty() {
        println!("the local store is whole");
        return Ok(ExitCode::SUCCESS);
    }
    for damage in &damages {
        println!("{}; {}", damage.what, if damage.mended { "mended" } else { "not mended: capture the volumes again" });
    }
    let whole = damages.iter().all(|damage| damage.mended);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the root as `b3sum` does.
async fn root(file: PathBuf) -> anyhow::Result<()> {
    let is_device = std::fs::metadata(&file).is_ok_and(|metadata| !metadata.is_file());
    let source: Box<dyn Source> = match is_device {
        true => Box::new(sluice_edge::source::block::BlockSource::open(&file)?),
        false => Box::new(sluice_edge::source::file::FileSource::open(&file)?),
    };
    let progress = std::sync::Arc::new(Progress::default());
    let shown = progress.clone();
    let mut work = tokio::task::spawn_blocking(move || root_of(&*source, &progress));
    let (mut line, began) = (ProgressLine::new(), tokio::time::Instant::now());
    let root = loop {
        tokio::select! {
            done = &mut work => break done.context("the reading thread failed")?,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                let (done, total) = (shown.done.load(Ordering::Relaxed), shown.total.load(Ordering::Relaxed));
                line.show(&text::progress(done, total, began.elapsed()));
            }
        }
    };
    line.end();
    println!("{}  {}", root?, file.display());
    Ok(())
}

fn root_of(source: &dyn Source, progress: &Progress) -> Result<dedupe::Root, SourceError> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    // A hole that cannot be told is read: that only takes longer.
    let is_hole = |at: u64, len: u64| matches!(source.next_data(at..at + len), Ok(None));
    let root =
        dedupe::root_of(source.size(), workers, progress, is_hole, |at, buf| source.read_at(ByteOffset(at), buf))?;
    Ok(root.expect("nobody cancels it"))
}

/// One line on stderr that is written over; nothing where stderr is no terminal.
struct ProgressLine {
    shows: bool,
    width: usize,
}

impl ProgressLine {
    fn new() -> Self {
        ProgressLine { shows: std::io::stderr().is_terminal(), width: 0 }
    }

    fn show(&mut self, text: &str) {
        const MOST: usize = 160;
        if !self.shows {
            return;
        }
        let text: String = text.chars().take(MOST).collect();
        let (width, before) = (text.chars().count(), self.width);
        // A terminal that went away must not stop the work.
        let _ = write!(std::io::stderr(), "\r{text:before$}");
        let _ = std::io::stderr().flush();
        self.width = width;
    }

    fn end(&mut self) {
        if self.width > 0 {
            let _ = write!(std::io::stderr(), "\r{:width$}\r", "", width = self.width);
            self.width = 0;
        }
    }
}
