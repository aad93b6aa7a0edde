//! What sites run, and how the roll-out stands.

use super::{SiteRow, seconds};
use crate::catalogue::ApplianceRow;
use crate::releases::engine::Step;
use crate::releases::rollouts;
use crate::state::State;
use dedupe::UnixMillis;
use monitoring::Page;
use std::collections::{BTreeMap, HashSet};

/// How a roll-out may stand.
const STATES: [&str; 5] = ["running", "paused", "stopped", "done", "cancelled"];

/// What a site runs.
pub(super) struct VersionRow {
    version: String,
    sequence: u64,
    confirmed: bool,
    since: UnixMillis,
    trial_failed: bool,
}

/// How the roll-out that began last stands.
#[derive(Default)]
pub(super) struct RolloutRow {
    state: &'static str,
    ring: usize,
    /// Sites by how far they are.
    steps: BTreeMap<&'static str, usize>,
}

impl From<ApplianceRow> for VersionRow {
    fn from(row: ApplianceRow) -> VersionRow {
        let failed = row.report.last.as_ref().is_some_and(|trial| !trial.confirmed);
        VersionRow {
            version: crate::text::printable(&row.report.version),
            sequence: row.report.sequence,
            confirmed: row.report.confirmed,
            since: row.since,
            trial_failed: failed,
        }
    }
}

/// The roll-out that began last; `None`: none ever did. Blocks.
pub(super) fn read(state: &State) -> Result<Option<RolloutRow>, crate::catalogue::CatalogueError> {
    let Some(rollout) = state.catalogue.last_rollout()? else { return Ok(None) };
    let fleet = rollouts::fleet(state, &HashSet::new())?;
    let mut steps = BTreeMap::new();
    for (_, _, step) in rollouts::steps(&rollout, &fleet) {
        // What failed and what somebody went on without are one thing to be counted.
        *steps.entry(if matches!(step, Step::Failed(_)) { "failed" } else { step.word() }).or_default() += 1;
    }
    Ok(Some(RolloutRow { state: rollout.state.word(), ring: rollout.opened.len(), steps }))
}

/// What a site runs, if it said so.
pub(super) fn site(page: &mut Page, row: &SiteRow) {
    let Some(version) = &row.version else { return };
    let (tenant, name) = (row.tenant.as_str(), row.name.as_str());
    let info = [("tenant", tenant), ("site", name), ("version", version.version.as_str())];
    page.put("sluice_gateway_site_release_info", "1, with the version of the system that the site runs.", &info, 1.0);
    let labels = [("tenant", tenant), ("site", name)];
    let mut put = |name: &str, help: &str, value: f64| page.put(name, help, &labels, value);
    put("sluice_gateway_site_release_sequence", "Sequence of the release that the site runs.", version.sequence as f64);
    put(
        "sluice_gateway_site_release_confirmed",
        "1 while what the site runs is confirmed; 0: it is on trial.",
        version.confirmed.into(),
    );
    put(
        "sluice_gateway_site_release_since_timestamp_seconds",
        "Since when the site runs its release, as far as was heard here.",
        seconds(version.since),
    );
    put(
        "sluice_gateway_site_trial_failed",
        "1 while the last trial of a release at the site is one that failed: it fell back.",
        version.trial_failed.into(),
    );
}

/// How the roll-out stands.
pub(super) fn rollout(page: &mut Page, row: Option<&RolloutRow>) {
    for state in STATES {
        page.put(
            "sluice_gateway_rollout_state",
            "1 for how the roll-out that began last stands; 0 for all where there was none.",
            &[("state", state)],
            f64::from(row.is_some_and(|row| row.state == state)),
        );
    }
    let Some(row) = row else { return };
    page.put("sluice_gateway_rollout_ring", "The ring of that roll-out that opened last.", &[], row.ring as f64);
    for (step, count) in &row.steps {
        let labels = [("step", *step)];
        page.put(
            "sluice_gateway_rollout_sites",
            "Sites of that roll-out, by how far they are.",
            &labels,
            *count as f64,
        );
    }
}
