//! Commands about policies and lines.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use sluice_gateway::admin::{Bending, PolicyRequest, Request, Signature};
use sluice_gateway::policies::{self, holidays::MAX_CALENDAR};
use sluice_gateway::text;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::clock::machine_time;

/// Bytes of a policy's file that are read: more than any policy has, so that a wrong file is named and does not fill memory.
const MAX_POLICY_FILE: usize = 1 << 20;

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print a policy.
    Show {
        /// SITE, or TENANT/SITE.
        #[arg(long)]
        site: String,
        /// Which version; else the one in force.
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Put another policy in the place of the one before. Overrides and a hold stay in force.
    Set {
        #[command(flatten)]
        whose: Whose,
        /// The policy, TOML; its `version` is ignored and may be missing.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        author: AuthorArgs,
    },
    /// Check a policy's file, without a gateway.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Show what a policy means, day by day.
    Preview {
        /// SITE, or TENANT/SITE.
        #[arg(long, conflicts_with = "file", required_unless_present = "file")]
        site: Option<String>,
        /// A policy's file, in the place of a site.
        file: Option<PathBuf>,
        /// How many days.
        #[arg(long, default_value_t = 14)]
        days: u16,
        /// The first day, as 2026-11-23; else today.
        #[arg(long, value_name = "DATE")]
        from: Option<String>,
    },
    /// List who changed a site's policy, when and why.
    History {
        /// SITE, or TENANT/SITE.
        #[arg(long)]
        site: String,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// SITE, or TENANT/SITE.
    #[arg(long)]
    site: Option<String>,
    /// All sites of a tenant.
    #[arg(long, value_name = "TENANT")]
    all_of: Option<String>,
}

#[derive(Args)]
pub(crate) struct AuthorArgs {
    /// Why; kept for whoever asks later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who wants it; else the user who runs this.
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum OverrideCommand {
    /// Bend the schedule for a while.
    Add {
        /// SITE, or TENANT/SITE.
        #[arg(long)]
        site: String,
        #[command(flatten)]
        bend: BendArgs,
        /// Until when: "19:30", "2026-11-24 19:30" (both of the site's clock) or "2026-11-24T11:30:00Z".
        #[arg(long, value_name = "TIME", required_unless_present = "for")]
        until: Option<String>,
        /// For how long, as in 2h.
        #[arg(long = "for", id = "for", value_name = "DURATION", conflicts_with = "until", value_parser = text::parse_duration)]
        lasts: Option<Duration>,
        /// From when on; else at once.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Boost in a blackout too.
        #[arg(long, conflicts_with_all = ["pause", "class", "weight"])]
        pierce: bool,
        /// For this volume only.
        #[arg(long)]
        volume: Option<String>,
        #[command(flatten)]
        author: AuthorArgs,
    },
    /// List the overrides in force and to come.
    List {
        /// SITE, or TENANT/SITE.
        #[arg(long)]
        site: String,
    },
    /// End an override before its time.
    End {
        /// SITE, or TENANT/SITE.
        #[arg(long)]
        site: String,
        /// Its id.
        id: u64,
        #[command(flatten)]
        author: AuthorArgs,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct BendArgs {
    /// Nothing is sent.
    #[arg(long)]
    pause: bool,
    /// This rate in the place of the schedule's, never above the line's cap; "unlimited" for the cap itself.
    #[arg(long, value_name = "RATE")]
    boost: Option<String>,
    /// The volume is served with this class.
    #[arg(long, requires = "volume", value_parser = ["critical", "normal", "bulk"])]
    class: Option<String>,
    /// The volume has this weight within its class.
    #[arg(long, requires = "volume", value_parser = clap::value_parser!(u32).range(1..))]
    weight: Option<u32>,
}

impl BendArgs {
    /// What was asked for; clap sees to it that exactly one thing was.
    fn asked(self, pierce: bool) -> Bending {
        match (self.boost, self.class, self.weight) {
            (Some(rate), ..) => Bending::Boost { rate, pierce },
            (_, Some(class), _) => Bending::Class(class),
            (.., Some(weight)) => Bending::Weight(weight),
            _ => Bending::Pause,
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum HolidaysCommand {
    /// Take days off and make-up working days from an iCalendar file.
    Import {
        /// SITE, or TENANT/SITE.
        #[arg(long)]
        site: String,
        /// The calendar (.ics).
        file: PathBuf,
        #[command(flatten)]
        author: AuthorArgs,
    },
}

/// How a report is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// A row for each day.
    Csv,
    /// All of it.
    Json,
}

/// The request of a `policy` command that needs a gateway.
pub(crate) fn policy_request(command: PolicyCommand) -> Result<Request> {
    Ok(Request::Policy(match command {
        PolicyCommand::Show { site, version } => PolicyRequest::Show { site, version },
        PolicyCommand::Set { whose: Whose { site, all_of }, file, author } => {
            let (document, author) = (read(&file, MAX_POLICY_FILE)?, author.signed());
            PolicyRequest::Set { site, all_of, sites: Vec::new(), document, expected: None, author }
        }
        PolicyCommand::Preview { site: Some(site), days, from, .. } => PolicyRequest::Preview { site, days, from },
        PolicyCommand::History { site } => PolicyRequest::History { site },
        PolicyCommand::Check { .. } | PolicyCommand::Preview { site: None, .. } => bail!("this command is no request"),
    }))
}

/// The request of an `override` command.
pub(crate) fn override_request(command: OverrideCommand) -> Request {
    Request::Policy(match command {
        OverrideCommand::Add { site, bend, until, lasts, from, pierce, volume, author } => PolicyRequest::Bend {
            site,
            bend: bend.asked(pierce),
            from,
            until,
            seconds: lasts.map(|lasts| lasts.as_secs()),
            volume,
            author: author.signed(),
        },
        OverrideCommand::List { site } => PolicyRequest::Overrides { site },
        OverrideCommand::End { site, id, author } => PolicyRequest::EndOverride { site, id, author: author.signed() },
    })
}

/// The request of a `holidays` command.
pub(crate) fn holidays_request(command: HolidaysCommand) -> Result<Request> {
    let HolidaysCommand::Import { site, file, author } = command;
    let calendar = read(&file, MAX_CALENDAR)?;
    Ok(Request::Policy(PolicyRequest::Holidays { site, calendar, author: author.signed() }))
}

/// `policy check`.
pub(crate) fn check(file: &Path) -> Result<()> {
    let policy = checked(file)?;
    println!("{} is a good policy for a site in {}.", file.display(), policy.zone.iana_name().unwrap_or("UTC"));
    Ok(())
}

/// `policy preview` of a file.
pub(crate) fn preview_file(file: &Path, days: u16, from: Option<&str>, json: bool) -> Result<()> {
    let policy = checked(file)?;
    let first = policies::preview::first_day(from, &policy.zone, now())?;
    let shown = policies::preview::preview(&policy, first, days)?;
    let answer = sluice_gateway::admin::PolicyAnswer::Preview { preview: shown };
    super::print(&sluice_gateway::admin::Answer::Policy(answer), json)
}

fn checked(file: &Path) -> Result<shaping::policy::Policy> {
    let text = read(file, MAX_POLICY_FILE)?;
    policies::check(&text, now()).with_context(|| file.display().to_string())
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(machine_time().0 as i64).unwrap_or(jiff::Timestamp::MAX)
}

fn read(path: &Path, most: usize) -> Result<String> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = String::new();
    let limited = file.take(most as u64 + 1).read_to_string(&mut text);
    limited.with_context(|| format!("cannot read {} as UTF-8 text", path.display()))?;
    if text.len() > most {
        bail!("{} has more than {} bytes: is it the right file?", path.display(), most);
    }
    Ok(text)
}

impl AuthorArgs {
    pub(crate) fn signed(self) -> Signature {
        Signature { actor: self.actor.or_else(user).unwrap_or_default(), reason: self.reason }
    }
}

/// The login name of whoever runs this; under sudo of who ran that.
fn user() -> Option<String> {
    let uid = nix::unistd::getuid();
    let before_sudo = uid.is_root().then(|| std::env::var("SUDO_USER").ok()).flatten();
    before_sudo.or_else(|| Some(nix::unistd::User::from_uid(uid).ok()??.name))
}
