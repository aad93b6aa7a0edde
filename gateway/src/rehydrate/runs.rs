//! Runs and standing orders as the catalogue keeps them: what is being put where, how far it is, what came of it.
//!
//! ```text
//!            ┌──────────── killed, paused, failed and worth another try ────────────┐
//!            ▼                                                                      │
//! new ─► Writing{up to} ─► Proving ─► Proved ───────► Finished{point, statement}    │
//!            │   ▲                        │                                         │
//!            │   └── the proof failed ────┘ (a run of its own, all of it anew)      │
//!            └──────────────────► GivenUp{why}: the target was cleaned ◄────────────┘
//! ```

use super::places::{Proof, Where};
use dedupe::{GenerationId, TenantId, UnixMillis};
use serde::{Deserialize, Serialize};
use targets::{Image, Point, Work};

/// One generation on its way to one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What goes there.
    pub work: Work,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where.
    pub to: Where,
    /// How it is proved.
    pub proof: Proof,
    /// Who asked for it.
    pub by: String,
    /// When it was begun.
    pub begun: UnixMillis,
    /// What was found at its begin, and so what has to be written; `None`: it was not prepared yet.
    pub found: Option<Found>,
    /// How far it is.
    pub phase: Phase,
    /// The target's own notes.
    pub notes: Option<String>,
    /// Bytes written, over all attempts.
    pub written: u64,
    /// Whether the daemon goes on with it by itself after a restart: it was the daemon that began it.
    pub resumes: bool,
    /// Why it rests: somebody stopped it, or it failed. A run that was under way when the gateway was killed does not rest.
    pub held: Option<String>,
    /// When it ended, one way or the other.
    pub ended: Option<UnixMillis>,
}

/// What a target held when a run began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// Zeroes.
    Fresh,
    /// Generations that the store has.
    Delta {
        /// Below.
        base: Option<GenerationId>,
        /// On top, in part.
        others: Vec<GenerationId>,
    },
    /// Nobody knows, and why.
    Whole(String),
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Everything below this byte is written, as far as it had to be, and durable there.
    Writing {
        /// Bytes of the volume.
        up_to: u64,
    },
    /// All is written; it is read back.
    Proving,
    /// It was read back and is right; it becomes a point.
    Proved {
        /// What was read back.
        proven: Proven,
    },
    /// It is a restorable point.
    Finished {
        /// Which.
        point: Point,
        /// What was read back.
        proven: Proven,
        /// The number of the signed statement.
        statement: u64,
    },
    /// It is over without a point, and the target was cleaned of it.
    GivenUp {
        /// Why.
        why: String,
    },
}

/// What was read back and compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proven {
    /// How.
    pub method: Proof,
    /// Bytes that were read back from the target, holes that it named itself included.
    pub bytes: u64,
    /// Whether what was there before had been touched by somebody else, so that all of it was written anew.
    pub repaired: bool,
}

/// "Keep this target at the latest generation of this volume."
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which volume.
    pub image: Image,
    /// The target's name.
    pub target: String,
    /// Whether it rests for now.
    pub paused: bool,
    /// Since when.
    pub since: UnixMillis,
    /// Who said so.
    pub by: String,
    /// What went wrong last, if the last run failed.
    pub trouble: Option<Trouble>,
}

/// Why a standing order is behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// In words.
    pub why: String,
    /// Whether the credentials are what is wrong.
    pub is_credentials: bool,
    /// Since when it fails.
    pub since: UnixMillis,
    /// Not tried again before then; each failure doubles the pause.
    pub next: UnixMillis,
    /// Failures in a row.
    pub failures: u32,
}

impl Run {
    /// Whether it may go on.
    pub fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// The point that it made.
    pub fn point(&self) -> Option<&Point> {
        match &self.phase {
            Phase::Finished { point, .. } => Some(point),
            _ => None,
        }
    }
}
