//! Targets as operators set them up: a name, what kind of place it is, where its credentials come from, what it may use.

use super::RehydrateError;
use dedupe::{TenantId, UnixMillis};
use serde::{Deserialize, Serialize};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use targets::http::Options;
use targets::{Credentials, Settings, Stop, Target};

/// A target that was set up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name, unique within the tenant.
    pub name: String,
    /// What it is.
    pub settings: Settings,
    /// Where its credentials come from.
    pub credentials: Credentials,
    /// A file of certificates of authorities to trust besides the system's.
    pub authorities: Option<PathBuf>,
    /// What it may use.
    pub limits: Limits,
    /// How what was written is proved.
    pub proof: Proof,
    /// Points of a volume that are kept there; `None`: as many as the gateway keeps generations.
    pub keep: Option<NonZeroU32>,
    /// When it was set up.
    pub made: UnixMillis,
    /// By whom.
    pub by: String,
}

/// What runs onto a target may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes a second that are written; `None`: as fast as it goes.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Requests a second to the service.
    pub requests_per_second: Option<NonZeroU32>,
}

/// How what was written is proved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// All of it is read back, and its root compared.
    #[default]
    All,
    /// What was written is read back and compared.
    Changed,
    /// What was written, and so many per cent of the rest, chosen at random.
    Sample(u8),
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Proof::All => write!(f, "all"),
            Proof::Changed => write!(f, "changed"),
            Proof::Sample(share) => write!(f, "{share}%"),
        }
    }
}

impl std::str::FromStr for Proof {
    type Err = String;

    fn from_str(text: &str) -> Result<Proof, String> {
        let share = |text: &str| text.strip_suffix('%')?.parse::<u8>().ok().filter(|share| (1..=99).contains(share));
        match text {
            "all" => Ok(Proof::All),
            "changed" => Ok(Proof::Changed),
            other => share(other).map(Proof::Sample).ok_or_else(|| {
                format!(
                    "`{}` is no way to prove: write `all`, `changed`, or a share as `5%`",
                    crate::text::printable(other)
                )
            }),
        }
    }
}

/// Where a run goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Where {
    /// To a target that was set up.
    Target(String),
    /// To one file or block device of the gateway's machine.
    Path(PathBuf),
}

impl std::fmt::Display for Where {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Where::Target(name) => write!(f, "{name}"),
            Where::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Place {
    /// The target itself. `state` is the gateway's state directory.
    pub(crate) fn open(&self, state: &Path, stop: Stop) -> Result<Box<dyn Target>, RehydrateError> {
        let options = Options {
            requests: self.limits.requests_per_second,
            authorities: self.authorities.clone(),
            stop,
            ..Options::default()
        };
        Ok(self.settings.open(&self.credentials, &options, &records_in(state))?)
    }
}

/// Where the records of block devices lie.
pub(super) fn records_in(state: &Path) -> PathBuf {
    state.join("targets")
}
