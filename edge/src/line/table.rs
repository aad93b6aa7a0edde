//! How the volumes that the policy names share the line at a moment.

use jiff::Timestamp;
use shaping::policy::{ClockTrust, Override, Policy, VolumeStanding};
use shaping::scheduler::Terms;

/// Standings by volume; those that nobody names share alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeTable(Vec<(String, VolumeStanding)>);

impl VolumeTable {
    /// What a policy says now.
    pub(super) fn at(policy: &Policy, local: &[Override], now: Timestamp, clock: ClockTrust) -> VolumeTable {
        let ruled = policy.volumes.iter().map(|rule| rule.name.clone());
        let bent = policy.overrides.iter().chain(local).filter_map(|bend| bend.volume.clone());
        let mut names: Vec<String> = ruled.chain(bent).collect();
        names.sort_unstable();
        names.dedup();
        let standing = |name: String| {
            let standing = policy.volume(&name, local, now, clock);
            (name, standing)
        };
        VolumeTable(names.into_iter().map(standing).collect())
    }

    /// How the volume of this name shares the line.
    pub(crate) fn of(&self, name: &str) -> VolumeStanding {
        let found = self.0.iter().find(|(known, _)| known == name).map(|(_, standing)| standing.clone());
        found.unwrap_or(VolumeStanding { terms: Terms::default(), lag: None, bar: None, until: None })
    }

    /// When this changes as far as time decides.
    pub(super) fn until(&self) -> Option<Timestamp> {
        self.0.iter().filter_map(|(_, standing)| standing.until).min()
    }

    #[cfg(test)]
    pub(crate) fn made(rows: &[(&str, Terms)]) -> VolumeTable {
        let row = |(name, terms): &(&str, Terms)| {
            (name.to_string(), VolumeStanding { terms: *terms, lag: None, bar: None, until: None })
        };
        VolumeTable(rows.iter().map(row).collect())
    }
}
