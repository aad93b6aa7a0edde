//! Commands for proofs.

use super::{Place, ask, print};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use sluice_gateway::admin::{Answer, ProofAnswer, ProofRequest, Request};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use wire::statement::{KeyId, MAX_STATEMENT, Statement};

#[derive(Subcommand)]
pub(crate) enum ProofCommand {
    /// List proofs, newest first.
    List,
    /// Print a proof; with --json the signed file itself.
    Show {
        /// Its number.
        number: u64,
    },
    /// Print the public key with which this gateway's proofs are verified, as PEM.
    Key,
    /// Verify the file of a proof; with --key also where there is no gateway.
    Verify {
        /// The file.
        file: PathBuf,
        /// The public key of the gateway that made it; this gateway's own unless given.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
}

pub(crate) fn run(place: &Place, command: ProofCommand, json: bool) -> Result<()> {
    let asked = |request| ask(&place.config()?, &Request::Proof(request), true);
    match command {
        ProofCommand::List => print(&asked(ProofRequest::List)?, json),
        ProofCommand::Key => print(&asked(ProofRequest::Key)?, json),
        ProofCommand::Show { number } => match asked(ProofRequest::Show { number })? {
            Answer::Proof(ProofAnswer::Shown { statement, .. }) if json => {
                std::io::stdout().write_all(statement.as_bytes()).context("printing the proof")
            }
            answer => print(&answer, json),
        },
        ProofCommand::Verify { file, key } => {
            let key = match key {
                Some(path) => KeyId::read(&text_of(&path)?).with_context(|| path.display().to_string())?,
                None => match asked(ProofRequest::Key)? {
                    Answer::Proof(ProofAnswer::Key(key)) => KeyId::read(&key.hex)?,
                    _ => bail!("the daemon answered something else; is it of another version?"),
                },
            };
            let statement = Statement::read(&text_of(&file)?).with_context(|| file.display().to_string())?;
            statement.verify(key).with_context(|| file.display().to_string())?;
            if json {
                let verified = serde_json::json!({ "kind": statement.kind, "key": key.hex(), "verified": true });
                println!("{verified}");
            } else {
                println!("{} is what was signed: {} of key {key}.", file.display(), statement.kind);
            }
            Ok(())
        }
    }
}

/// A file that should be a small text.
fn text_of(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let limited = file.take(MAX_STATEMENT as u64 + 1).read_to_string(&mut text);
    limited.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}
