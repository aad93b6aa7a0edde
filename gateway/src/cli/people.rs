//! Commands for accounts, approvals and the audit log.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use sluice_gateway::access::Role;
use sluice_gateway::admin::{AccountRequest, Answer, AuditFormat, Request};
use std::io::Write;

/// Entries of the audit log that are asked for at once.
const BATCH: usize = 1000;

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum RoleArg {
    /// Looks, and changes nothing.
    Viewer,
    /// Steers lines and volumes.
    Operator,
    /// Agrees for the owner of a line.
    Approver,
    /// What an operator may, and accounts, tenants, revocation.
    Administrator,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Role {
        match role {
            RoleArg::Viewer => Role::Viewer,
            RoleArg::Operator => Role::Operator,
            RoleArg::Approver => Role::Approver,
            RoleArg::Administrator => Role::Administrator,
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// List accounts.
    List,
    /// Make an account; prints a password that has to be changed at the first sign-in.
    Add {
        /// Its name.
        name: String,
        /// What it may do.
        #[arg(long, value_enum)]
        role: RoleArg,
        /// For one tenant only.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Give an account another role.
    Role {
        /// Its name.
        name: String,
        /// What it may do.
        #[arg(value_enum)]
        role: RoleArg,
    },
    /// Let nobody sign in by this account, and refuse its tokens.
    Disable {
        /// Its name.
        name: String,
    },
    /// Let it sign in again.
    Enable {
        /// Its name.
        name: String,
    },
    /// Print a new password, to be changed at the next sign-in.
    ResetPassword {
        /// Its name.
        name: String,
    },
    /// Remove an account and its tokens.
    Remove {
        /// Its name.
        name: String,
    },
    /// Make an API token; prints it.
    AddToken {
        /// The account that it acts for.
        name: String,
        /// What it is for.
        #[arg(long)]
        label: String,
        /// What it may do; no more than the account.
        #[arg(long, value_enum, default_value = "viewer")]
        role: RoleArg,
        /// How many days it is good for.
        #[arg(long, default_value_t = 90)]
        days: u32,
    },
    /// List the API tokens of an account.
    Tokens {
        /// The account.
        name: String,
    },
    /// Take an API token back.
    RemoveToken {
        /// The account.
        name: String,
        /// Its id.
        id: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum ApprovalCommand {
    /// List what waits for a second person.
    List {
        /// Also what was answered.
        #[arg(long)]
        all: bool,
    },
    /// Agree, and have it done.
    Approve(AnswerArgs),
    /// Refuse it.
    Refuse(AnswerArgs),
}

#[derive(Args)]
pub(crate) struct AnswerArgs {
    /// Its number.
    number: u64,
    /// Why.
    #[arg(long)]
    reason: String,
}

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Print entries, oldest first.
    Export {
        /// Only those after this number.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// As lines of JSON, or of syslog (RFC 5424).
        #[arg(long, value_enum, default_value = "json")]
        format: FormatArg,
    },
    /// Check that no entry was changed, taken out or put in.
    Check,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    Json,
    Syslog,
}

pub(crate) fn user_request(command: UserCommand) -> Request {
    Request::Account(match command {
        UserCommand::List => AccountRequest::List,
        UserCommand::Add { name, role, tenant } => AccountRequest::Add { name, role: role.into(), tenant },
        UserCommand::Role { name, role } => AccountRequest::Change { name, role: Some(role.into()), disabled: None },
        UserCommand::Disable { name } => AccountRequest::Change { name, role: None, disabled: Some(true) },
        UserCommand::Enable { name } => AccountRequest::Change { name, role: None, disabled: Some(false) },
        UserCommand::ResetPassword { name } => AccountRequest::ResetPassword { name },
        UserCommand::Remove { name } => AccountRequest::Remove { name },
        UserCommand::AddToken { name, label, role, days } => {
            AccountRequest::AddToken { account: name, label, role: role.into(), days }
        }
        UserCommand::Tokens { name } => AccountRequest::Tokens { account: name },
        UserCommand::RemoveToken { name, id } => AccountRequest::RemoveToken { account: name, id },
    })
}

pub(crate) fn approval_request(command: ApprovalCommand) -> Request {
    let answer = |args: AnswerArgs, approve| Request::Answer { number: args.number, approve, reason: args.reason };
    match command {
        ApprovalCommand::List { all } => Request::Approvals { all },
        ApprovalCommand::Approve(args) => answer(args, true),
        ApprovalCommand::Refuse(args) => answer(args, false),
    }
}

/// Prints the audit log, piece by piece.
pub(crate) fn export(mut after: u64, format: FormatArg, ask: impl Fn(&Request) -> Result<Answer>) -> Result<()> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let format = if format == FormatArg::Json { AuditFormat::Json } else { AuditFormat::Syslog };
    let mut out = std::io::stdout().lock();
    loop {
        let Answer::Audit { entries } = ask(&Request::Audit { after, most: BATCH })? else {
            bail!("the daemon answered something else; is it of another version?");
        };
        let Some(last) = entries.last() else { return out.flush().context("printing the audit log") };
        after = last.number;
        for entry in &entries {
            writeln!(out, "{}", format.line(entry, host.trim())).context("printing the audit log")?;
        }
    }
}
