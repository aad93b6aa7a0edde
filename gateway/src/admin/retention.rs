//! Requests about locks, and about what is to be deleted: nobody deletes alone, and nothing is deleted at once.

mod handlers;

use crate::catalogue::Term;
use crate::text::{moment, printable, table};
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RetentionRequest {
    /// List locks.
    Locks {
        /// Also those that were taken off.
        all: bool,
    },
    /// List what waits for its time.
    Pending {
        /// Also what is over.
        all: bool,
    },
    /// Set a lock.
    Lock {
        /// What it holds.
        on: On,
        /// For how long.
        term: Term,
        /// Why.
        reason: String,
    },
    /// Make a lock hold for longer.
    Extend {
        /// Its number.
        number: u64,
        /// For how long.
        term: Term,
        /// Why.
        reason: String,
    },
    /// Take a lock off, or make it hold for less long: a second person, then a delay.
    Unlock {
        /// Its number.
        number: u64,
        /// For how long it holds then; `None`: it is taken off.
        to: Option<Term>,
        /// Why.
        reason: String,
    },
    /// Delete a generation: a second person, then a delay.
    Forget {
        /// `SITE/VOLUME` or `TENANT/SITE/VOLUME`.
        volume: String,
        /// A number or an id.
        generation: String,
        /// Why.
        reason: String,
    },
    /// Erase a site: a second person, then a delay.
    Decommission {
        /// `SITE` or `TENANT/SITE`.
        site: String,
        /// Why.
        reason: String,
    },
    /// Take back what waits for its time.
    Cancel {
        /// Its number.
        number: u64,
        /// Why.
        reason: String,
    },
}

/// What a lock is to hold, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "on", rename_all = "kebab-case", deny_unknown_fields)]
pub enum On {
    /// Everything of a tenant.
    Tenant {
        /// Its name.
        tenant: String,
    },
    /// Everything of a site.
    Site {
        /// `SITE` or `TENANT/SITE`.
        site: String,
    },
    /// Everything of a volume.
    Volume {
        /// `SITE/VOLUME` or `TENANT/SITE/VOLUME`.
        volume: String,
    },
    /// One generation.
    Generation {
        /// `SITE/VOLUME` or `TENANT/SITE/VOLUME`.
        volume: String,
        /// `latest`, a number or an id.
        generation: String,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "retention", rename_all = "kebab-case")]
pub enum RetentionAnswer {
    /// Locks.
    Locks {
        /// Newest first.
        locks: Vec<LockLine>,
    },
    /// What waits for its time.
    Pending {
        /// Newest first.
        pending: Vec<PendingLine>,
    },
}

/// A lock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LockLine {
    /// Its number.
    pub number: u64,
    /// The tenant.
    pub tenant: String,
    /// `tenant`, `site`, `volume` or `generation`.
    pub kind: String,
    /// What it holds: `bank/branch-1/db`.
    pub object: String,
    /// For how long.
    pub term: Term,
    /// Why.
    pub reason: String,
    /// Who set it.
    pub by: String,
    /// When, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub set: UnixMillis,
    /// When it was taken off, milliseconds since 1970; absent: it is in force.
    #[schema(value_type = Option<u64>)]
    pub ended: Option<UnixMillis>,
}

/// Something that was agreed on and waits for its time, or is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PendingLine {
    /// Its number.
    pub number: u64,
    /// The tenant.
    pub tenant: String,
    /// `lock.release`, `generation.forget` or `site.decommission`.
    pub what: String,
    /// On what.
    pub object: String,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub by: String,
    /// When, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub asked: UnixMillis,
    /// Who agreed.
    pub approved_by: String,
    /// When, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub approved: UnixMillis,
    /// Not done before this, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub due: UnixMillis,
    /// `waiting`, `working`, `done`, `cancelled` or `refused`.
    pub state: String,
    /// More of the state: why it was refused, who cancelled it.
    pub said: Option<String>,
    /// The number of its proof.
    pub proof: Option<u64>,
}

impl RetentionRequest {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        matches!(self, RetentionRequest::Locks { .. } | RetentionRequest::Pending { .. })
    }
}

impl On {
    fn name(&self) -> String {
        match self {
            On::Tenant { tenant: name } | On::Site { site: name } | On::Volume { volume: name } => name.clone(),
            On::Generation { volume, generation } => format!("{volume}#{generation}"),
        }
    }
}

/// A term for people.
fn words(term: Term) -> String {
    match term {
        Term::Days(days) => format!("for {days} days from each seal on"),
        Term::Until(until) => format!("until {}", moment(UnixMillis(until))),
        Term::Forever => "without end".into(),
    }
}

/// An answer as text that ends in a line break.
pub(super) fn render(answer: &RetentionAnswer) -> String {
    match answer {
        RetentionAnswer::Locks { locks } if locks.is_empty() => {
            "There are no locks. `sluice-gateway retention lock --help` says how to set one.\n".into()
        }
        RetentionAnswer::Locks { locks } => {
            let row = |line: &LockLine| {
                let term = match line.ended {
                    Some(ended) => format!("taken off {}", moment(ended)),
                    None => words(line.term),
                };
                let object = format!("{} {}", line.kind, printable(&line.object));
                vec![line.number.to_string(), object, term, line.by.clone(), moment(line.set), printable(&line.reason)]
            };
            table(&["number", "holds", "how long", "by", "set", "reason"], &locks.iter().map(row).collect::<Vec<_>>())
        }
        RetentionAnswer::Pending { pending } if pending.is_empty() => "Nothing waits for its time.\n".into(),
        RetentionAnswer::Pending { pending } => {
            let row = |line: &PendingLine| {
                vec![
                    line.number.to_string(),
                    line.what.clone(),
                    printable(&line.object),
                    moment(line.due),
                    line.by.clone(),
                    line.approved_by.clone(),
                    line.state.clone(),
                    printable(line.said.as_deref().unwrap_or(&line.reason)),
                ]
            };
            table(
                &["number", "what", "on", "due", "asked by", "agreed by", "state", "why"],
                &pending.iter().map(row).collect::<Vec<_>>(),
            )
        }
    }
}
