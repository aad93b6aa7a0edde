//! `sluice-edge status --json`, as far as the screen shows it. Fields that are missing or unknown are no error: a daemon of another version may say them
//! otherwise.

use crate::run::{Place, succeed};
use serde::Deserialize;
use std::time::Duration;

/// For the daemon's program to start, ask and say it, on an old machine that is busy.
const WITHIN: Duration = Duration::from_secs(20);

/// What the edge says of its line and its volumes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Edge {
    pub(crate) site: Option<String>,
    pub(crate) link: Link,
    pub(crate) allowance: Allowance,
    pub(crate) volumes: Vec<Volume>,
}

/// The session with the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Link {
    /// `unenrolled`, `connecting`, `connected` or `down`.
    pub(crate) state: String,
    pub(crate) address: String,
    /// What kind of trouble it is, when it is down.
    pub(crate) cause: String,
}

/// What the line may carry now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Allowance {
    pub(crate) up: String,
    pub(crate) open: bool,
    /// Until when, Unix seconds.
    pub(crate) until: Option<i64>,
    pub(crate) sentence: String,
    pub(crate) clock: String,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) captured: Option<Captured>,
    pub(crate) sealed: Option<Sealed>,
    /// Present while it will be later than the policy allows.
    pub(crate) late: Option<String>,
    /// When what is on its way is expected at the gateway, Unix seconds.
    pub(crate) arrives_at: Option<i64>,
    pub(crate) capture_failed: Option<String>,
}

/// The newest generation here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Captured {
    pub(crate) number: u64,
    /// Unix milliseconds.
    pub(crate) captured_at: u64,
}

/// The newest generation at the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Sealed {
    pub(crate) number: u64,
    /// When the gateway had verified it, Unix milliseconds.
    pub(crate) at: u64,
}

impl Edge {
    /// Asks the daemon, which has to run.
    pub(super) fn ask(place: &Place) -> Option<Edge> {
        let said = succeed(place.edge().args(["status", "--json"]), WITHIN).ok()?;
        serde_json::from_str(&said).ok()
    }
}
