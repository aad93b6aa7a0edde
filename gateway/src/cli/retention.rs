//! Commands for locks, and for deleting what was kept.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use sluice_gateway::admin::{On, Request, RetentionRequest, Term};

#[derive(Subcommand)]
pub(crate) enum RetentionCommand {
    /// List locks.
    Locks {
        /// Also those that were taken off.
        #[arg(long)]
        all: bool,
    },
    /// Set a lock: what it holds cannot be deleted by anybody.
    Lock {
        #[command(flatten)]
        on: OnArgs,
        #[command(flatten)]
        term: TermArgs,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Make a lock hold for longer.
    Extend {
        /// Its number.
        number: u64,
        #[command(flatten)]
        term: TermArgs,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Ask to take a lock off, or with a term to shorten it: somebody else has to agree, and then a delay passes.
    Unlock {
        /// Its number.
        number: u64,
        #[command(flatten)]
        term: TermArgs,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// List what was agreed on and waits for its time.
    Pending {
        /// Also what is over.
        #[arg(long)]
        all: bool,
    },
    /// Take back what waits for its time.
    Cancel {
        /// Its number.
        number: u64,
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum GenerationCommand {
    /// Ask to delete a generation: somebody else has to agree, and then a delay passes.
    Forget {
        /// SITE/VOLUME, or TENANT/SITE/VOLUME.
        volume: String,
        /// A number or an id.
        number: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum SiteCommand {
    /// Ask to erase a site with all that was kept of it: somebody else has to agree, a delay passes, and a proof is signed.
    Decommission {
        /// SITE, or TENANT/SITE.
        site: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

/// What a lock holds.
#[derive(Args)]
pub(crate) struct OnArgs {
    /// Everything of a tenant.
    #[arg(long, value_name = "NAME", required_unless_present_any = ["site", "volume"])]
    tenant: Option<String>,
    /// Everything of a site: SITE, or TENANT/SITE.
    #[arg(long, conflicts_with = "tenant")]
    site: Option<String>,
    /// A volume: SITE/VOLUME, or TENANT/SITE/VOLUME.
    #[arg(long, conflicts_with_all = ["tenant", "site"])]
    volume: Option<String>,
    /// Only this generation of the volume: `latest`, a number, or an id.
    #[arg(long, requires = "volume")]
    generation: Option<String>,
}

/// For how long a lock holds.
#[derive(Args)]
pub(crate) struct TermArgs {
    /// So many days from the seal of each generation on.
    #[arg(long)]
    days: Option<u32>,
    /// Until the end of a day in UTC, as 2031-12-31, or a time, as 2031-12-31T18:00:00Z.
    #[arg(long, value_name = "DATE", conflicts_with = "days")]
    until: Option<String>,
    /// Until it is taken off.
    #[arg(long, conflicts_with_all = ["days", "until"])]
    forever: bool,
}

impl TermArgs {
    fn term(&self) -> Result<Option<Term>> {
        Ok(match (self.days, &self.until, self.forever) {
            (Some(days), ..) => Some(Term::Days(days)),
            (_, Some(until), _) => {
                let no_date =
                    || format!("`{until}` is no date: write one as 2031-12-31, or a time as 2031-12-31T18:00:00Z");
                Some(Term::Until(sluice_gateway::text::end_of(until).with_context(no_date)?.0))
            }
            (_, _, true) => Some(Term::Forever),
            _ => None,
        })
    }

    fn given(&self) -> Result<Term> {
        match self.term()? {
            Some(term) => Ok(term),
            None => bail!("say for how long: --days N, --until DATE, or --forever"),
        }
    }
}

pub(crate) fn request(command: RetentionCommand) -> Result<Request> {
    Ok(Request::Retention(match command {
        RetentionCommand::Locks { all } => RetentionRequest::Locks { all },
        RetentionCommand::Pending { all } => RetentionRequest::Pending { all },
        RetentionCommand::Lock { on, term, reason } => {
            let on = match on {
                OnArgs { volume: Some(volume), generation: Some(generation), .. } => {
                    On::Generation { volume, generation }
                }
                OnArgs { volume: Some(volume), .. } => On::Volume { volume },
                OnArgs { site: Some(site), .. } => On::Site { site },
                OnArgs { tenant, .. } => On::Tenant { tenant: tenant.unwrap_or_default() },
            };
            RetentionRequest::Lock { on, term: term.given()?, reason }
        }
        RetentionCommand::Extend { number, term, reason } => {
            RetentionRequest::Extend { number, term: term.given()?, reason }
        }
        RetentionCommand::Unlock { number, term, reason } => {
            RetentionRequest::Unlock { number, to: term.term()?, reason }
        }
        RetentionCommand::Cancel { number, reason } => RetentionRequest::Cancel { number, reason },
    }))
}

pub(crate) fn forget(command: GenerationCommand) -> Request {
    let GenerationCommand::Forget { volume, number, reason } = command;
    Request::Retention(RetentionRequest::Forget { volume, generation: number, reason })
}

pub(crate) fn site(command: SiteCommand) -> Request {
    let SiteCommand::Decommission { site, reason } = command;
    Request::Retention(RetentionRequest::Decommission { site, reason })
}
