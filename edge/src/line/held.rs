//! The policy that is in force at this edge, as the gateway signed it: `policy.json` in the state directory.

use crate::files;
use dedupe::SiteId;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shaping::policy::{Policy, PolicyError, Schedule};
use std::path::{Path, PathBuf};
use wire::policy::{SignatureError, SignedPolicy};

const FORMAT: &str = "sluice-edge-policy";
/// How far ahead the schedule is laid out, in days: an edge that is alone for a year goes on knowing when it may send.
const LAID_OUT: u32 = 400;
/// It is laid out anew when less than this is left of it.
const LEAST_AHEAD: SignedDuration = SignedDuration::from_hours(35 * 24);

/// A policy in force.
#[derive(Debug)]
pub struct Held {
    signed: SignedPolicy,
    pub(super) policy: Policy,
    pub(super) schedule: Schedule,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: String,
    site: SiteId,
    signed: SignedPolicy,
}

/// Why a policy is not taken, or cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// It is not what the gateway signed for this site.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Its document is none.
    #[error("{0}; the last good policy stays in force")]
    Document(#[from] PolicyError),
    /// An edge never goes back.
    #[error(
        "version {got} is not newer than version {have}, which is in force; make the change again at the gateway, so that it gets a newer version"
    )]
    Old {
        /// What is in force.
        have: u64,
        /// What came.
        got: u64,
    },
    /// The file.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not what was written.
    #[error("{0} is damaged: until the gateway sends the policy again, nothing is sent")]
    Damaged(PathBuf),
}

/// Where it lies.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join("policy.json")
}

/// Forgets the policy: this edge is enrolled anew, perhaps as another site or at another gateway.
pub(crate) fn forget(state: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path(state)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Held {
    /// Reads what was in force, if anything was.
    pub(super) fn load(state: &Path, now: Timestamp) -> Result<Option<Held>, HeldError> {
        let path = path(state);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(HeldError::File { what: "read", path, source }),
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(|_| HeldError::Damaged(path.clone()))?;
        if record.format != FORMAT {
            return Err(HeldError::Damaged(path));
        }
        record.signed.verify(record.site, None)?;
        Ok(Some(Held::new(record.signed, now)?))
    }

    fn new(signed: SignedPolicy, now: Timestamp) -> Result<Held, HeldError> {
        let policy = Policy::parse(&signed.document)?;
        let schedule = policy.schedule(now, LAID_OUT);
        Ok(Held { signed, policy, schedule })
    }

    /// A policy that came over an authenticated session, if it may take the place of `old`: it is for this site, signed by the same key, and newer. The
    /// same one again is no error.
    pub fn accept(signed: SignedPolicy, site: SiteId, old: Option<&Held>, now: Timestamp) -> Result<Held, HeldError> {
        signed.verify(site, old.map(|old| old.signed.key))?;
        let new = Held::new(signed, now)?;
        if let Some(old) = old {
            let (have, got) = (old.policy.version, new.policy.version);
            if got < have || (got == have && new.signed.document != old.signed.document) {
                return Err(HeldError::Old { have, got });
            }
        }
        Ok(new)
    }

    /// Keeps it for a restart, durably.
    pub(super) fn store(&self, site: SiteId, state: &Path) -> Result<(), HeldError> {
        let record = Record { format: FORMAT.into(), site, signed: self.signed.clone() };
        let json = serde_json::to_vec(&record).expect("plain data serialises");
        let path = path(state);
        files::write_whole(&path, &[&json]).map_err(|source| HeldError::File { what: "write", path, source })
    }

    /// Lays the schedule out anew when little is left of it, or the clock was moved out of it.
    pub(super) fn renew_schedule(&mut self, now: Timestamp) {
        if !self.schedule.lasts(now, LEAST_AHEAD) {
            self.schedule = self.policy.schedule(now, LAID_OUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::policy::PolicyKey;

    const SITE: SiteId = SiteId([1; 16]);

    fn document(version: u64) -> String {
        format!("version = {version}\nzone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\n")
    }

    fn take(signed: SignedPolicy, old: Option<&Held>, dir: &Path, now: Timestamp) -> Result<Held, HeldError> {
        let held = Held::accept(signed, SITE, old, now)?;
        held.store(SITE, dir).map(|()| held)
    }

    #[test]
    fn only_newer_policies_of_this_site_and_key_are_taken_and_the_last_good_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (key, other) = (PolicyKey::generate(), PolicyKey::generate());
        let (key, other) = (PolicyKey::read(&key).unwrap(), PolicyKey::read(&other).unwrap());
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        let take = |signed, old: Option<&Held>| take(signed, old, dir.path(), now);
        assert!(Held::load(dir.path(), now).unwrap().is_none());
        let first = take(key.sign(SITE, document(3)), None).unwrap();
        assert!(take(key.sign(SITE, document(3)), Some(&first)).is_ok(), "the same again");
        let refusals = [
            (key.sign(SITE, document(2)), "version 2 is not newer than version 3"),
            (key.sign(SITE, document(3) + "[clock]\n"), "version 3 is not newer than version 3"),
            (key.sign(SiteId([2; 16]), document(4)), "does not fit the policy and this site"),
            (other.sign(SITE, document(4)), "signed by another key"),
            (key.sign(SITE, document(4) + "[oops]\n"), "the last good policy stays in force"),
        ];
        for (signed, why) in refusals {
            let error = take(signed, Some(&first)).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(Held::load(dir.path(), now).unwrap().unwrap().policy.version, 3);
        take(key.sign(SITE, document(4)), Some(&first)).unwrap();
        assert_eq!(Held::load(dir.path(), now).unwrap().unwrap().policy.version, 4);
        forget(dir.path()).unwrap();
        forget(dir.path()).unwrap();
        assert!(Held::load(dir.path(), now).unwrap().is_none());
    }

    #[test]
    fn a_damaged_file_is_named_and_nothing_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let key = PolicyKey::generate();
        let key = PolicyKey::read(&key).unwrap();
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        take(key.sign(SITE, document(3)), None, dir.path(), now).unwrap();
        let file = path(dir.path());
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("2 Mbit/s", "9 Mbit/s")).unwrap();
        assert!(matches!(Held::load(dir.path(), now), Err(HeldError::Signature(SignatureError::Wrong))));
        std::fs::write(&file, "{").unwrap();
        assert!(matches!(Held::load(dir.path(), now), Err(HeldError::Damaged(_))));
    }
}
