//! Requests about proofs.

use super::{Admin, AdminError, Answer};
use crate::access::Caller;
use crate::catalogue::Proof;
use crate::text::{moment, printable, table};
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use wire::statement::{KeyId, Statement};

/// What to look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ProofRequest {
    /// List proofs.
    List,
    /// Show one.
    Show {
        /// Its number.
        number: u64,
    },
    /// The public key with which this gateway's statements are verified.
    Key,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "proof", rename_all = "kebab-case")]
pub enum ProofAnswer {
    /// Proofs.
    List {
        /// Newest first.
        proofs: Vec<ProofLine>,
    },
    /// A proof.
    Shown {
        /// Which.
        line: ProofLine,
        /// The statement's file.
        statement: String,
    },
    /// A public key.
    Key(StatementKeyLine),
}

/// A proof in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProofLine {
    /// Its number.
    pub number: u64,
    /// Its kind: `erasure`.
    pub kind: String,
    /// The tenant.
    pub tenant: String,
    /// What it is about.
    pub subject: String,
    /// When it was signed, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub made: UnixMillis,
    /// The key that it was signed with: first 16 digits of the public key.
    pub key: String,
    /// Whether it is as it was signed, by the key that this gateway signs with now. `false` also for what an earlier key signed: verify that with the earlier one.
    pub verified: bool,
}

/// The public key with which statements are verified.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatementKeyLine {
    /// Its name among people: its first 16 digits.
    pub id: String,
    /// All of it, 64 hexadecimal digits.
    pub hex: String,
    /// As PEM.
    pub pem: String,
}

impl From<KeyId> for StatementKeyLine {
    fn from(key: KeyId) -> StatementKeyLine {
        StatementKeyLine { id: key.to_string(), hex: key.hex(), pem: key.pem() }
    }
}

impl Admin {
    pub(super) fn proof(&self, caller: &Caller, request: &ProofRequest) -> Result<Answer, AdminError> {
        let tenants = self.state.catalogue.tenants()?;
        let line = |proof: &Proof| {
            let tenant = tenants.iter().find(|tenant| tenant.id == proof.tenant && caller.sees(tenant))?;
            let read = Statement::read(&proof.statement).ok();
            Some(ProofLine {
                number: proof.number,
                kind: proof.kind.clone(),
                tenant: tenant.name.clone(),
                subject: proof.subject.clone(),
                made: proof.made,
                key: read.as_ref().map(|read| read.key.to_string()).unwrap_or_default(),
                verified: read.is_some_and(|read| read.verify(self.state.statement_key.public()).is_ok()),
            })
        };
        Ok(Answer::Proof(match request {
            ProofRequest::List => {
                ProofAnswer::List { proofs: self.state.catalogue.proofs()?.iter().rev().filter_map(line).collect() }
            }
            ProofRequest::Show { number } => {
                let missing = || AdminError::NoProof(*number);
                let proof = self.state.catalogue.proof(*number)?.ok_or_else(missing)?;
                ProofAnswer::Shown { line: line(&proof).ok_or_else(missing)?, statement: proof.statement }
            }
            ProofRequest::Key => ProofAnswer::Key(self.state.statement_key.public().into()),
        }))
    }
}

/// An answer as text that ends in a line break.
pub(super) fn render(answer: &ProofAnswer) -> String {
    match answer {
        ProofAnswer::List { proofs } if proofs.is_empty() => "There are no proofs yet.\n".into(),
        ProofAnswer::List { proofs } => {
            let row = |line: &ProofLine| {
                let state = if line.verified { "verified" } else { "NOT by this gateway's key" };
                vec![
                    line.number.to_string(),
                    line.kind.clone(),
                    line.tenant.clone(),
                    printable(&line.subject),
                    moment(line.made),
                    line.key.clone(),
                    state.into(),
                ]
            };
            table(
                &["number", "kind", "tenant", "about", "signed", "key", "state"],
                &proofs.iter().map(row).collect::<Vec<_>>(),
            )
        }
        ProofAnswer::Shown { line, statement } => match Statement::read(statement) {
            Ok(read) => {
                let state = match line.verified {
                    true => format!("The signature fits key {}, by which this gateway signs.", line.key),
                    false => {
                        format!("The signature was NOT made by the key of this gateway; it names key {}.", line.key)
                    }
                };
                format!(
                    "Proof {}: {} of {}\n{}\n{state}\n",
                    line.number,
                    line.kind,
                    printable(&line.subject),
                    laid_out(&read)
                )
            }
            Err(error) => format!("Proof {} cannot be read: {error}\n", line.number),
        },
        ProofAnswer::Key(key) => key.pem.clone(),
    }
}

/// A statement's body for people, a line for each value.
fn laid_out(statement: &Statement) -> String {
    let mut text = String::new();
    statement.body.iter().for_each(|(name, value)| lay_out(name, value, 1, &mut text));
    text
}

fn lay_out(name: &str, value: &Value, depth: usize, to: &mut String) {
    let indent = "  ".repeat(depth);
    let name = printable(name);
    match value {
        Value::Object(fields) => {
            *to += &format!("{indent}{name}:\n");
            fields.iter().for_each(|(name, value)| lay_out(name, value, depth + 1, to));
        }
        Value::Array(items) if items.is_empty() => *to += &format!("{indent}{name}: none\n"),
        Value::Array(items) => {
            let numbered = items.iter().enumerate();
            numbered.for_each(|(at, item)| lay_out(&format!("{name} {}", at + 1), item, depth, to));
        }
        Value::String(text) => *to += &format!("{indent}{name}: {}\n", printable(text)),
        other => *to += &format!("{indent}{name}: {other}\n"),
    }
}
