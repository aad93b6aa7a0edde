//! Requests about releases of the appliance's system, and about roll-outs.

mod handlers;
mod render;

pub(super) use render::{release as render_release, rollout as render_rollout};

use crate::releases::history::Entry;
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;

/// What is asked for about releases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ReleaseRequest {
    /// List releases.
    List,
    /// Show one.
    Show {
        /// Its version, or the beginning of its root hash.
        release: String,
    },
    /// Take a release in.
    Import {
        /// Absolute path of its bundle.
        file: PathBuf,
        /// Whether it was sent to this gateway for the purpose, and is removed afterwards.
        uploaded: bool,
    },
    /// Forget a release.
    Remove {
        /// Its version, or the beginning of its root hash.
        release: String,
    },
    /// What each site runs.
    Versions,
    /// What one site runs, and ran.
    Site {
        /// `SITE` or `TENANT/SITE`.
        site: String,
    },
}

/// What is asked for about roll-outs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RolloutRequest {
    /// List them.
    List,
    /// Show one with its sites.
    Show {
        /// Its number; `None`: the last.
        number: Option<u64>,
    },
    /// Begin one.
    Start {
        /// Version of the release, or the beginning of its root hash.
        release: String,
        /// Sites of the first ring, one at least.
        first: Vec<String>,
        /// Sites of the second ring; `None`: up to ten, those that are connected first.
        second: Option<Vec<String>>,
        /// Hours between the proof of a ring and the next; `None`: 24.
        soak_hours: Option<u32>,
        /// Why.
        reason: String,
    },
    /// Hold the one that runs.
    Pause {
        /// The number of the roll-out that is meant; `None`: the last.
        number: Option<u64>,
        /// Why.
        reason: String,
    },
    /// Let the one that is paused or stopped go on.
    Resume {
        /// The number of the roll-out that is meant; `None`: the last.
        number: Option<u64>,
        /// Whether sites that failed try again; otherwise it goes on without them.
        retry: bool,
        /// Why.
        reason: String,
    },
    /// End it.
    Cancel {
        /// The number of the roll-out that is meant; `None`: the last.
        number: Option<u64>,
        /// Why.
        reason: String,
    },
}

/// What came of a request about releases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "release", rename_all = "kebab-case")]
pub enum ReleaseAnswer {
    /// Releases.
    List {
        /// Newest first.
        releases: Vec<ReleaseLine>,
    },
    /// A release, or the one that was imported.
    Shown {
        /// Which.
        line: ReleaseLine,
        /// Its manifest's file.
        manifest: String,
    },
    /// What sites run.
    Versions {
        /// By tenant and name.
        sites: Vec<VersionLine>,
    },
    /// What a site runs, and ran.
    Site {
        /// What it runs.
        line: VersionLine,
        /// What became of other versions there, newest first.
        history: Vec<Entry>,
    },
}

/// What came of a request about roll-outs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rollout", rename_all = "kebab-case")]
pub enum RolloutAnswer {
    /// Roll-outs.
    List {
        /// Newest first.
        rollouts: Vec<RolloutLine>,
    },
    /// One with its sites.
    Shown {
        /// It.
        line: Box<RolloutLine>,
        /// Its rings, the first first.
        rings: Vec<RingLine>,
    },
}

/// A release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseLine {
    /// Its root hash, 64 hexadecimal digits.
    pub id: String,
    /// Its version.
    pub version: String,
    /// `edge` or `gateway`.
    pub role: String,
    /// Its sequence.
    pub sequence: u64,
    /// Bytes of its image.
    pub bytes: u64,
    /// Bytes that the store grew by.
    pub stored: u64,
    /// When it was made, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub made: UnixMillis,
    /// When it was imported, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub imported: UnixMillis,
    /// Who imported it.
    pub by: String,
    /// The key that signed it: first 16 digits of the public key.
    pub key: String,
    /// The key that will sign later ones, where the maker changes it.
    pub next_key: Option<String>,
    /// Sites that run it, of those that the caller sees.
    pub sites: usize,
}

/// What a site runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionLine {
    /// The tenant.
    pub tenant: String,
    /// The site.
    pub site: String,
    /// The version.
    pub version: String,
    /// Its sequence.
    pub sequence: u64,
    /// Its root hash, 64 hexadecimal digits.
    pub release: String,
    /// Whether it is confirmed; otherwise it is on trial.
    pub confirmed: bool,
    /// The version in the other slot, where one is there that could be started.
    pub previous: Option<String>,
    /// `idle`, `fetching`, `installing` or `failed`.
    pub stage: String,
    /// The version that the stage is about; of one that this gateway does not have, the beginning of its root hash.
    pub next: Option<String>,
    /// Bytes of it that are there.
    pub done: u64,
    /// Bytes of it in all; 0: not known.
    pub total: u64,
    /// Seconds until all of it is there, at the rate so far.
    pub seconds_left: Option<u64>,
    /// Why it failed.
    pub why: Option<String>,
    /// Since when it runs this, as far as was heard here, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub since: UnixMillis,
    /// When it said so last, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub heard: UnixMillis,
    /// Whether it is connected.
    pub connected: bool,
}

/// A roll-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutLine {
    /// Its number.
    pub number: u64,
    /// The version that is rolled out.
    pub version: String,
    /// Its root hash, 64 hexadecimal digits.
    pub release: String,
    /// `running`, `paused`, `stopped`, `done` or `cancelled`.
    pub state: String,
    /// Since when, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub since: UnixMillis,
    /// Why it stopped, or who paused or cancelled it and why.
    pub why: Option<String>,
    /// The site at which it stopped, of those that the caller sees.
    pub stopped_at: Option<String>,
    /// Who began it.
    pub by: String,
    /// When, milliseconds since 1970.
    #[schema(value_type = u64)]
    pub started: UnixMillis,
    /// Why.
    pub reason: String,
    /// The ring that opened last, from 1.
    pub ring: usize,
    /// How many rings there are.
    pub rings: usize,
    /// Hours between the proof of a ring and the next.
    pub soak_hours: u64,
    /// When the next ring opens, milliseconds since 1970; absent: the present one is not proved, or is the last.
    #[schema(value_type = Option<u64>)]
    pub next_ring: Option<UnixMillis>,
    /// Sites that run the release, confirmed, of those that the caller sees.
    pub confirmed: usize,
    /// Sites that could not take it or fell back, of those that the caller sees.
    pub failed: usize,
    /// Sites in all, of those that the caller sees.
    pub sites: usize,
}

/// A ring of a roll-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RingLine {
    /// Its number, from 1.
    pub number: usize,
    /// When it opened, milliseconds since 1970; absent: it is closed.
    #[schema(value_type = Option<u64>)]
    pub opened: Option<UnixMillis>,
    /// Its sites, of those that the caller sees.
    pub sites: Vec<StepLine>,
}

/// A site of a roll-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepLine {
    /// The tenant.
    pub tenant: String,
    /// The site.
    pub site: String,
    /// `waiting`, `held`, `ordered`, `fetching`, `installing`, `on-trial`, `confirmed`, `newer`, `went-back`, `fell-back` or `not-taken`.
    pub step: String,
    /// Bytes that are there, while it is fetching.
    pub done: u64,
    /// Bytes in all; 0: not known.
    pub total: u64,
    /// Seconds until all of it is there, at the rate so far.
    pub seconds_left: Option<u64>,
    /// Why it failed.
    pub why: Option<String>,
    /// What it runs.
    pub version: String,
    /// Whether it was not seen for a week: it is not waited for.
    pub late: bool,
    /// Whether somebody went on without it.
    pub left_out: bool,
}

impl ReleaseRequest {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        !matches!(self, ReleaseRequest::Import { .. } | ReleaseRequest::Remove { .. })
    }
}

impl RolloutRequest {
    /// Whether it changes nothing.
    pub fn only_looks(&self) -> bool {
        matches!(self, RolloutRequest::List | RolloutRequest::Show { .. })
    }
}
