//! The command line: parse, ask the daemon or do it here, print.

mod domains;
mod exports;
mod people;
mod policy;
mod proofs;
mod releases;
mod retention;
mod seeds;
mod targets;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use domains::DomainCommand;
use exports::ExportCommand;
use people::{ApprovalCommand, AuditCommand, UserCommand};
use policy::{AuthorArgs, Format, HolidaysCommand, OverrideCommand, PolicyCommand};
use proofs::ProofCommand;
use releases::{ReleaseCommand, RolloutCommand};
use retention::{GenerationCommand, RetentionCommand, SiteCommand};
use sluice_gateway::admin::socket::{self, AskError};
use sluice_gateway::admin::{Admin, Answer, Authority, PolicyAnswer, PolicyRequest, Report, Request, render};
use sluice_gateway::config::{Config, ConfigError, check_announced, defaults};
use sluice_gateway::rehydrate::{Proof, Where};
use sluice_gateway::state::State;
use sluice_gateway::{backup, rehydrate, text};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use targets::TargetCommand;
use wire::clock::machine_time;

/// Takes generations of branch volumes in, keeps them, and gives them back byte for byte.
#[derive(Parser)]
#[command(name = "sluice-gateway", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Print the answer as JSON instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which gateway a command is about.
#[derive(Args)]
pub(crate) struct Place {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", env = "SLUICE_GATEWAY_CONFIG")]
    config: Option<PathBuf>,
    /// The state directory, instead of a configuration file.
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "config")]
    state: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make the state of a new gateway: authority, catalogue, keys, and a configuration file.
    Init {
        /// Make a tenant of this name too.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Where edges reach this gateway; may be given several times, best first.
        #[arg(long = "address", value_name = "HOST:PORT")]
        addresses: Vec<String>,
    },
    /// Run the daemon.
    Run {
        /// How log lines are written to stderr: `text` for people, `json` for programs. RUST_LOG says how much.
        #[arg(long, value_name = "FORMAT", env = "SLUICE_LOG", default_value_t = monitoring::LogFormat::Text)]
        log_format: monitoring::LogFormat,
    },
    /// Check the configuration file.
    CheckConfig,
    /// Make a one-time token with which a new edge enrols; it is printed and kept nowhere.
    Token {
        /// The tenant; made if there is none of this name.
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// The site; made if there is none of this name.
        #[arg(long, value_name = "NAME")]
        site: String,
        /// How long the token is good for.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = text::parse_duration)]
        valid: Duration,
    },
    /// List sites and how they are.
    Sites,
    /// List volumes.
    Volumes,
    /// List the generations of a volume.
    Generations {
        /// SITE/VOLUME, or TENANT/SITE/VOLUME.
        volume: String,
    },
    /// Rebuild a generation on a target, a file or a block device, read it back and prove it.
    Rehydrate {
        /// SITE/VOLUME, or TENANT/SITE/VOLUME.
        #[arg(long)]
        volume: String,
        /// `latest`, a number, or an id.
        #[arg(long, default_value = "latest")]
        generation: String,
        /// A file (made if it is not there) or a block device.
        #[arg(long, value_name = "PATH", required_unless_present = "target")]
        to: Option<PathBuf>,
        /// A target that was set up: NAME, or TENANT/NAME.
        #[arg(long, value_name = "NAME", conflicts_with = "to")]
        target: Option<String>,
        /// How it is proved: `all` is read back, what was `changed`, or that and a share of the rest, as `5%`.
        #[arg(long, value_name = "HOW")]
        proof: Option<Proof>,
        /// Read back only what was written: the same as `--proof changed`.
        #[arg(long, conflicts_with = "proof")]
        quick: bool,
        /// Only say what would be done.
        #[arg(long)]
        plan: bool,
    },
    /// Serve generations as block devices (NBD), without rehydrating them.
    Export {
        #[command(subcommand)]
        what: ExportCommand,
    },
    /// Boot what targets hold, as machines of libvirt on this machine.
    Domain {
        #[command(subcommand)]
        what: DomainCommand,
    },
    /// Set up where generations are rehydrated to, and keep it at the latest.
    Target {
        #[command(subcommand)]
        what: TargetCommand,
    },
    /// Compute the root of an image and compare it.
    VerifyImage {
        /// The image or block device.
        image: PathBuf,
        /// The root that it should have: what `b3sum` printed.
        #[arg(long, value_name = "HEX", conflicts_with = "volume")]
        root: Option<String>,
        /// The volume whose generation it should hold: SITE/VOLUME, or TENANT/SITE/VOLUME.
        #[arg(long)]
        volume: Option<String>,
        /// `latest`, a number, or an id.
        #[arg(long, default_value = "latest", requires = "volume")]
        generation: String,
    },
    /// Refuse a site's certificates from now on and end its session.
    Revoke {
        /// SITE, or TENANT/SITE.
        site: String,
    },
    /// Copy catalogue and keys to a directory, also while the daemon runs.
    Backup {
        /// A directory that is empty or not there yet.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Encrypt the keys under the first line of this file.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Make a state directory from a backup.
    Restore {
        /// The backup.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// The file with the passphrase, if its keys are encrypted.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Make the indexes anew from the packs; not while the daemon runs.
    Rebuild,
    /// Give back what no generation needs.
    Gc {
        /// Only say what would be done.
        #[arg(long)]
        plan: bool,
    },
    /// Read everything stored and name what is damaged.
    Scrub,
    /// Replace the authority without visiting a branch: add, let edges renew, use, let edges renew, retire.
    Authority {
        #[command(subcommand)]
        what: AuthorityCommand,
    },
    /// Say what sites' lines may be used for.
    Policy {
        #[command(subcommand)]
        what: PolicyCommand,
    },
    /// Bend a site's schedule for a while.
    Override {
        #[command(subcommand)]
        what: OverrideCommand,
    },
    /// Stop everything at a site until it is released.
    Hold {
        /// SITE, or TENANT/SITE.
        #[arg(long)]
        site: String,
        #[command(flatten)]
        author: AuthorArgs,
    },
    /// End a hold; or take releases of the appliance's system in, and say which site runs what.
    #[command(subcommand_negates_reqs = true)]
    Release {
        /// Whose hold ends: SITE, or TENANT/SITE.
        #[arg(long, required = true)]
        site: Option<String>,
        #[command(flatten)]
        author: Option<AuthorArgs>,
        #[command(subcommand)]
        what: Option<ReleaseCommand>,
    },
    /// Report what a site's line was used for in a month.
    Report {
        /// SITE, or TENANT/SITE.
        #[arg(long)]
        site: String,
        /// As 2026-11.
        #[arg(long, value_name = "YYYY-MM")]
        month: String,
        /// How to print it.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Days off and make-up working days.
    Holidays {
        #[command(subcommand)]
        what: HolidaysCommand,
    },
    /// Say what the daemon and its workers are doing.
    Status,
    /// Read a generation from the store and compare it with its root.
    Verify {
        /// SITE/VOLUME, or TENANT/SITE/VOLUME.
        #[arg(long)]
        volume: String,
        /// `latest`, a number or an id.
        #[arg(long, default_value = "latest")]
        generation: String,
    },
    /// Make accounts for the web UI and the API.
    User {
        #[command(subcommand)]
        what: UserCommand,
    },
    /// Answer what needs a second person.
    Approval {
        #[command(subcommand)]
        what: ApprovalCommand,
    },
    /// Print the description of the API, OpenAPI 3.1.
    Openapi,
    /// Locks on what was kept, and what is to be deleted.
    Retention {
        #[command(subcommand)]
        what: RetentionCommand,
    },
    /// Delete a generation by hand.
    Generation {
        #[command(subcommand)]
        what: GenerationCommand,
    },
    /// End a site.
    Site {
        #[command(subcommand)]
        what: SiteCommand,
    },
    /// List, print and verify proofs: what this gateway states and signs for whoever asks later.
    Proof {
        #[command(subcommand)]
        what: ProofCommand,
    },
    /// Take in what came by courier, and see where seeds are.
    Seed {
        #[command(subcommand)]
        what: seeds::SeedCommand,
    },
    /// Roll releases out to sites, in rings, and see how far that is.
    Rollout {
        #[command(subcommand)]
        what: RolloutCommand,
    },
    /// Read and check the audit log.
    Audit {
        #[command(subcommand)]
        what: AuditCommand,
    },
}

#[derive(Subcommand)]
pub(crate) enum AuthorityCommand {
    /// Show the authorities.
    List,
    /// Make a further one, which edges learn to trust when they renew.
    Add,
    /// Let this one sign.
    Use {
        /// Its number.
        number: u32,
    },
    /// Trust this one no more.
    Retire {
        /// Its number.
        number: u32,
    },
}

impl Place {
    /// The configuration: the file that was named, that of the state directory, or defaults for it.
    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        let state = self.state.clone().unwrap_or_else(|| defaults::STATE.into());
        let written = state.join(CONFIG_NAME);
        match &self.config {
            Some(path) => Config::load(path),
            None if written.exists() => Config::load(&written),
            None => Ok(Config::new(state)),
        }
    }
}

/// Name of the configuration that `init` writes into the state directory.
const CONFIG_NAME: &str = "gateway.toml";

/// Runs any command but the daemon.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let Cli { place, json, command } = cli;
    let request = match command {
        Command::Run { .. } => bail!("the daemon is started elsewhere"),
        Command::Init { tenant, addresses } => return init(&place, tenant.as_deref(), &addresses),
        Command::CheckConfig => return check_config(&place),
        Command::Restore { from, passphrase_file } => return restore(&place, &from, passphrase_file.as_deref()),
        Command::VerifyImage { image, root, volume, generation } => {
            return verify_image(&place, json, &image, root, volume.as_deref(), &generation);
        }
        Command::Openapi => {
            let text = sluice_gateway::api::described();
            return std::io::stdout().write_all(text.as_bytes()).context("printing the description");
        }
        Command::Policy { what: PolicyCommand::Check { file } } => return policy::check(&file),
        Command::Policy { what: PolicyCommand::Preview { file: Some(file), days, from, .. } } => {
            return policy::preview_file(&file, days, from.as_deref(), json);
        }
        Command::Report { site, month, format } => return report(&place, site, month, format, json),
        Command::Audit { what: AuditCommand::Export { after, format } } => {
            let config = place.config()?;
            return people::export(after, format, |request| ask(&config, request, true));
        }
        Command::Proof { what } => return proofs::run(&place, what, json),
        other => request_of(other)?,
    };
    let answer = ask(&place.config()?, &request, json)?;
    print(&answer, json)?;
    seeds::check(&answer)
}

fn request_of(command: Command) -> Result<Request> {
    Ok(match command {
        Command::Token { tenant, site, valid } => Request::Token { tenant, site, valid_seconds: valid.as_secs() },
        Command::Sites => Request::Sites,
        Command::Volumes => Request::Volumes,
        Command::Generations { volume } => Request::Generations { volume },
        Command::Rehydrate { volume, generation, to, target, proof, quick, plan } => {
            let to = match (to, target) {
                (Some(path), _) => Where::Path(absolute(&path)?),
                (None, Some(name)) => Where::Target(name),
                (None, None) => bail!("say where: --to PATH, or --target NAME"),
            };
            Request::Rehydrate { volume, generation, to, proof: proof.or(quick.then_some(Proof::Changed)), plan }
        }
        Command::Export { what } => exports::request(what),
        Command::Domain { what } => domains::request(what)?,
        Command::Target { what } => targets::request(what)?,
        Command::Revoke { site } => Request::Revoke { site },
        Command::Backup { to, passphrase_file } => {
            let passphrase_file = passphrase_file.map(|path| absolute(&path)).transpose()?;
            Request::Backup { to: absolute(&to)?, passphrase_file }
        }
        Command::Rebuild => Request::Rebuild,
        Command::Gc { plan } => Request::Gc { plan },
        Command::Scrub => Request::Scrub,
        Command::Authority { what } => Request::Authority(match what {
            AuthorityCommand::List => Authority::List,
            AuthorityCommand::Add => Authority::Add,
            AuthorityCommand::Use { number } => Authority::Use(number),
            AuthorityCommand::Retire { number } => Authority::Retire(number),
        }),
        Command::Policy { what } => policy::policy_request(what)?,
        Command::Override { what } => policy::override_request(what),
        Command::Hold { site, author } => Request::Policy(PolicyRequest::Hold { site, author: author.signed() }),
        Command::Release { what: Some(_), site: Some(_), .. } => {
            bail!("--site ends a hold and has no place beside a command about releases: leave it out")
        }
        Command::Release { what: Some(what), .. } => releases::request(what)?,
        Command::Release { site: Some(site), author: Some(author), .. } => {
            Request::Policy(PolicyRequest::Release { site, author: author.signed() })
        }
        Command::Release { .. } => bail!("name the site whose hold ends: --site SITE; or `release import FILE`"),
        Command::Rollout { what } => releases::rollout(what),
        Command::Seed { what } => seeds::request(what)?,
        Command::Holidays { what } => policy::holidays_request(what)?,
        Command::Status => Request::Status,
        Command::Verify { volume, generation } => Request::Verify { volume, generation },
        Command::User { what } => people::user_request(what),
        Command::Retention { what } => retention::request(what)?,
        Command::Generation { what } => retention::forget(what),
        Command::Site { what } => retention::site(what),
        Command::Approval { what } => people::approval_request(what),
        Command::Audit { what: AuditCommand::Check } => Request::AuditCheck,
        Command::Audit { what: AuditCommand::Export { .. } }
        | Command::Openapi
        | Command::Proof { .. }
        | Command::Run { .. }
        | Command::Init { .. }
        | Command::CheckConfig
        | Command::Restore { .. }
        | Command::Report { .. }
        | Command::VerifyImage { .. } => bail!("this command is no request"),
    })
}

/// Asks the daemon; without one, opens the state and does it here.
fn ask(config: &Config, request: &Request, quiet: bool) -> Result<Answer> {
    let mut progress = ProgressLine::new(quiet);
    match socket::ask(&config.state, request, &mut |report| progress.show(&report)) {
        Err(AskError::NotRunning) => {}
        asked => {
            progress.end();
            return Ok(asked?);
        }
    }
    let state = State::open(config)?;
    if !config.addresses.is_empty() && state.catalogue.addresses()? != config.addresses {
        state.catalogue.set_addresses(&config.addresses)?;
    }
    let answered = Admin::alone(state).handle(request.clone(), &mut |report| {
        progress.show(&report);
        true
    });
    progress.end();
    Ok(answered?)
}

fn print(answer: &Answer, json: bool) -> Result<()> {
    let text = if json { serde_json::to_string(answer)? + "\n" } else { render::answer(answer) };
    std::io::stdout().write_all(text.as_bytes()).context("printing the answer")
}

fn report(place: &Place, site: String, month: String, format: Format, json: bool) -> Result<()> {
    let answer = ask(&place.config()?, &Request::Policy(PolicyRequest::Report { site, month }), true)?;
    match &answer {
        Answer::Policy(PolicyAnswer::Report { report }) if format == Format::Csv && !json => {
            let text = sluice_gateway::admin::policy::render::report_csv(report);
            std::io::stdout().write_all(text.as_bytes()).context("printing the report")
        }
        answer => print(answer, json || format == Format::Json),
    }
}

fn init(place: &Place, tenant: Option<&str>, addresses: &[String]) -> Result<()> {
    let Some(folder) = &place.state else { bail!("name the new state directory: `sluice-gateway init --state DIR`") };
    let folder = absolute(folder)?;
    for address in addresses {
        check_announced(address).map_err(anyhow::Error::msg)?;
    }
    let now = machine_time();
    State::create(&folder, now)?;
    let state = State::open(&Config::new(&folder))?;
    state.catalogue.set_addresses(addresses)?;
    if let Some(name) = tenant {
        let tenant = state.catalogue.tenant(name, now)?;
        state.tenant(tenant.id)?;
    }
    let written = folder.join(CONFIG_NAME);
    std::fs::write(&written, Config::template(&folder, addresses))
        .with_context(|| format!("writing {}", written.display()))?;
    println!("The state of a new gateway is in {}.", folder.display());
    println!("Its configuration: {}", written.display());
    println!("Next: sluice-gateway run --config {}", written.display());
    Ok(())
}

fn check_config(place: &Place) -> Result<()> {
    let config = place.config()?;
    println!("The configuration is good. State: {}", config.state.display());
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    println!("Edges are awaited on UDP {}.", listen.join(", "));
    if config.addresses.is_empty() {
        println!("No `addresses` are set: edges are told what the daemon is bound to, or what `init --address` said.");
    } else {
        println!("Edges are told {}.", config.addresses.join(", "));
    }
    let memory = config.decode_workers * sluice_gateway::ingest::WORKER_MEMORY;
    println!(
        "{} parcels are decoded at once, with up to {} of memory.",
        config.decode_workers,
        text::bytes(memory as u64)
    );
    println!("The last {} generations of each volume are kept.", config.retention);
    Ok(())
}

fn restore(place: &Place, from: &Path, passphrase_file: Option<&Path>) -> Result<()> {
    let config = place.config()?;
    backup::restore(from, &config.state, passphrase_file)?;
    println!("Catalogue and keys are restored to {}.", config.state.display());
    println!("Next: put the packs where they were, and run `sluice-gateway rebuild` to make the indexes anew.");
    Ok(())
}

fn verify_image(
    place: &Place,
    json: bool,
    image: &Path,
    root: Option<String>,
    volume: Option<&str>,
    generation: &str,
) -> Result<()> {
    let wanted = match (root, volume) {
        (Some(root), _) => Some(root.trim().to_ascii_lowercase()),
        (None, Some(volume)) => Some(root_of_generation(place, volume, generation)?),
        (None, None) => None,
    };
    if wanted.as_ref().is_some_and(|root| root.len() != 64 || !root.bytes().all(|b| b.is_ascii_hexdigit())) {
        bail!("a root has 64 hexadecimal digits, as `b3sum` prints them");
    }
    let mut progress = ProgressLine::new(json);
    let found = sluice_gateway::admin::watch(
        &mut |report: Report| {
            progress.show(&report);
            true
        },
        |watched, phase| {
            phase("reading");
            rehydrate::root_of_image(image, watched)
        },
    );
    progress.end();
    let found = found?.context("cancelled")?.to_string();
    let equal = wanted.as_ref().map(|wanted| *wanted == found);
    if json {
        println!("{}", serde_json::json!({ "image": image, "root": found, "wanted": wanted, "equal": equal }));
    } else {
        println!("{found}  {}", image.display());
    }
    match (equal, wanted) {
        (Some(false), Some(wanted)) => bail!("{} is something else: its root should be {wanted}", image.display()),
        (Some(true), _) if !json => println!("The image is the generation, byte for byte."),
        _ => {}
    }
    Ok(())
}

fn root_of_generation(place: &Place, volume: &str, generation: &str) -> Result<String> {
    let config = place.config()?;
    let Answer::Generations { generations } = ask(&config, &Request::Generations { volume: volume.into() }, true)?
    else {
        bail!("the daemon answered something else; is it of another version?");
    };
    let mut sealed: Vec<_> =
        generations.into_iter().filter_map(|line| Some((line.number, line.id, line.root?))).collect();
    let found = match generation {
        "latest" => sealed.pop(),
        text => sealed.into_iter().find(|(number, id, _)| number.to_string() == text || id == text),
    };
    let missing = || {
        format!(
            "volume `{volume}` has no sealed generation `{generation}`; `sluice-gateway generations {volume}` lists those that there are"
        )
    };
    Ok(found.with_context(missing)?.2)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))
}

/// Progress on stderr: one line that changes on a terminal, a line every few seconds elsewhere.
struct ProgressLine {
    quiet: bool,
    terminal: bool,
    begun: Instant,
    shown: Option<Instant>,
    meter: render::Meter,
}

/// How often a line is printed where lines cannot change.
const LINE_EVERY: Duration = Duration::from_secs(5);

impl ProgressLine {
    #[expect(clippy::disallowed_methods, reason = "a progress line measures how long its command takes")]
    fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { quiet, terminal, begun: Instant::now(), shown: None, meter: render::Meter::default() }
    }

    #[expect(clippy::disallowed_methods, reason = "a progress line measures how long its command takes")]
    fn show(&mut self, report: &Report) {
        let now = Instant::now();
        let line = self.meter.line(report, now - self.begun);
        let due = self.terminal || self.shown.is_none_or(|shown| now - shown >= LINE_EVERY);
        if self.quiet || !due {
            return;
        }
        self.shown = Some(now);
        // `\x1b[K` clears what a longer line left.
        let text = if self.terminal { format!("\r{line}\x1b[K") } else { format!("{line}\n") };
        let _nobody_reads = std::io::stderr().write_all(text.as_bytes());
    }

    fn end(&mut self) {
        if self.terminal && !self.quiet && self.shown.is_some() {
            let _nobody_reads = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
