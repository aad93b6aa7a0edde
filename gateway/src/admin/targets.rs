//! Targets: set up, looked at, filled, kept at the latest.

mod handlers;
pub mod render;

use crate::rehydrate::{Limits, Proof};
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::path::PathBuf;
use targets::{Credentials, Description, Settings};

/// What to do with targets. A target is named `NAME` or `TENANT/NAME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "one at a time is asked for")]
pub enum TargetRequest {
    /// List them.
    List,
    /// Set one up. Nothing is asked of it yet.
    Add {
        /// Whose it is.
        tenant: String,
        /// Its name.
        name: String,
        /// What it is.
        settings: Settings,
        /// Where its credentials come from.
        credentials: Credentials,
        /// A file of certificates of authorities to trust besides the system's.
        authorities: Option<PathBuf>,
        /// What it may use.
        limits: Limits,
        /// How what is written is proved.
        proof: Proof,
        /// Points of a volume that are kept there; `None`: as many as generations here.
        keep: Option<NonZeroU32>,
    },
    /// Look whether it can be used.
    Test {
        /// Which.
        target: String,
    },
    /// Remove it from the gateway. What it holds stays where it is.
    Remove {
        /// Which.
        target: String,
    },
    /// List what it holds.
    Points {
        /// Which.
        target: String,
    },
    /// Keep it at the latest generation of a volume from now on.
    Keep {
        /// Which.
        target: String,
        /// `SITE/VOLUME` or `TENANT/SITE/VOLUME`; `SITE/*`: all volumes that the site has now.
        volume: String,
    },
    /// Keep it so no more. What it holds stays.
    Release {
        /// Which.
        target: String,
        /// The volume.
        volume: String,
    },
    /// Rest for now, or go on.
    Pause {
        /// Which.
        target: String,
        /// The volume.
        volume: String,
        /// Whether to rest.
        paused: bool,
    },
    /// List what is kept at the latest.
    Orders,
    /// List runs, newest first.
    Runs {
        /// So many at most.
        most: usize,
    },
    /// Give a run up that is not over, and clean its target of it.
    GiveUp {
        /// Its id.
        run: String,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum TargetAnswer {
    /// Targets, by tenant and name.
    Targets {
        /// Each.
        targets: Vec<TargetLine>,
    },
    /// What a look at it said.
    Tested {
        /// Its name.
        target: String,
        /// What was found.
        description: Description,
    },
    /// What it holds.
    Points {
        /// By volume, oldest first.
        points: Vec<PointLine>,
    },
    /// What is kept at the latest.
    Orders {
        /// By volume and target.
        orders: Vec<OrderLine>,
    },
    /// Runs.
    Runs {
        /// Newest first.
        runs: Vec<RunLine>,
    },
}

/// A target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TargetLine {
    /// Whose it is.
    pub tenant: String,
    /// Its name.
    pub target: String,
    /// Its kind: `raw`, `device`, `qcow2`, `openstack`, …
    pub kind: String,
    /// Its settings. No secrets.
    #[schema(value_type = Object)]
    pub settings: serde_json::Value,
    /// Where its credentials come from: a path, `environment`, or `none`.
    pub credentials: String,
    /// Bytes a second that are written at most.
    pub bytes_per_second: Option<u64>,
    /// Requests a second to the service at most.
    pub requests_per_second: Option<u32>,
    /// How what is written is proved: `all`, `changed`, or a share.
    pub proof: String,
    /// Points of a volume that are kept there.
    pub keep: Option<u32>,
    /// Volumes that it is kept at the latest of.
    pub orders: usize,
    /// Of those: brought to the latest generation.
    pub current: usize,
    /// Of those: not there yet, and nothing went wrong.
    pub behind: usize,
    /// Of those: the last run failed.
    pub failing: usize,
    /// Of those: somebody let them rest.
    pub paused: usize,
    /// Whether the credentials are what is wrong.
    pub credentials_failing: bool,
    /// Since when it lacks a generation of a volume that it is kept at the latest of, paused ones aside; absent: it lacks none.
    #[schema(value_type = Option<u64>)]
    pub behind_since: Option<UnixMillis>,
    /// Runs that are not over.
    pub runs_open: usize,
    /// Of those: resting until somebody does something.
    pub runs_resting: usize,
    /// When it was set up.
    #[schema(value_type = u64)]
    pub made: UnixMillis,
    /// By whom.
    pub by: String,
}

/// A restorable point on a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PointLine {
    /// The volume: `TENANT/SITE/VOLUME`.
    pub volume: String,
    /// The generation's number.
    pub number: u64,
    /// When it was captured.
    #[schema(value_type = u64)]
    pub captured: UnixMillis,
    /// When it was made there.
    #[schema(value_type = u64)]
    pub made: UnixMillis,
    /// Size of the volume in bytes.
    pub size: u64,
    /// Its root.
    pub root: String,
    /// What the target calls it.
    pub point: String,
}

/// What is kept at the latest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OrderLine {
    /// The volume: `TENANT/SITE/VOLUME`.
    pub volume: String,
    /// The target.
    pub target: String,
    /// `current`, `behind`, `paused`, `failing`.
    pub state: String,
    /// The newest sealed generation here.
    pub latest: Option<u64>,
    /// The generation that the target was brought to last.
    pub holds: Option<u64>,
    /// Since when it lacks a generation that is here; absent: it lacks none.
    #[schema(value_type = Option<u64>)]
    pub behind_since: Option<UnixMillis>,
    /// Why it fails.
    pub trouble: Option<String>,
    /// Whether the credentials are what is wrong.
    pub credentials_failing: bool,
    /// When it is tried again, if it failed.
    #[schema(value_type = Option<u64>)]
    pub next_try: Option<UnixMillis>,
    /// Since when the order stands.
    #[schema(value_type = u64)]
    pub since: UnixMillis,
    /// Who said so.
    pub by: String,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RunLine {
    /// Its id.
    pub run: String,
    /// The volume: `TENANT/SITE/VOLUME`.
    pub volume: String,
    /// The generation's number.
    pub number: u64,
    /// Where.
    pub target: String,
    /// `writing`, `reading back`, `proved`, `finished`, `given up`.
    pub state: String,
    /// What the target calls the point, or why it was given up.
    pub outcome: String,
    /// Why it stopped, if it did and is not over: it goes on when somebody asks for it, or by its order.
    pub held: Option<String>,
    /// Whether it rests until somebody does something.
    pub resting: bool,
    /// Size of the volume in bytes.
    pub size: u64,
    /// The generation's root.
    pub root: String,
    /// How it is proved: `all`, `changed`, or a share.
    pub proof: String,
    /// Bytes that were read back and compared, once it is proved.
    pub compared: Option<u64>,
    /// Whether the target had been touched by somebody else and was written anew.
    pub repaired: bool,
    /// Bytes written.
    pub written: u64,
    /// Who asked for it.
    pub by: String,
    /// When it was begun.
    #[schema(value_type = u64)]
    pub begun: UnixMillis,
    /// When it ended.
    #[schema(value_type = Option<u64>)]
    pub ended: Option<UnixMillis>,
    /// The number of the signed statement.
    pub statement: Option<u64>,
}
