//! Targets, what is kept there at the latest, what was put there: each target's sums, so that there are no more series than targets times 12.

use crate::rehydrate::standing::{Held, Sum};
use crate::state::{State, StateError};
use dedupe::{TenantId, UnixMillis};
use monitoring::Page;

/// Targets with series of their own: more than tenants of one gateway have places to put things.
pub(super) const MAX_TARGETS: usize = 200;

/// What a look found of one target.
pub(super) struct TargetRow {
    tenant: TenantId,
    tenant_name: String,
    name: String,
    sum: Sum,
}

/// Looks at the targets; also how many were left out.
pub(super) fn read(state: &State, most: usize) -> Result<(Vec<TargetRow>, usize), StateError> {
    let mut places = state.catalogue.targets()?;
    let dropped = places.len().saturating_sub(most);
    places.truncate(most);
    if places.is_empty() {
        return Ok((Vec::new(), dropped));
    }
    let (tenants, orders, runs) = (state.catalogue.tenants()?, state.catalogue.standing()?, state.catalogue.runs()?);
    let held = Held::of(&runs);
    let mut rows = Vec::new();
    for place in places {
        let Some(tenant) = tenants.iter().find(|tenant| tenant.id == place.tenant) else { continue };
        let sum = state.sum(&place, &orders, &runs, &held)?;
        rows.push(TargetRow { tenant: tenant.id, tenant_name: tenant.name.clone(), name: place.name, sum });
    }
    Ok((rows, dropped))
}

pub(super) fn page(page: &mut Page, rows: &[TargetRow], state: &State, now: UnixMillis) {
    for row in rows {
        let labels = [("tenant", row.tenant_name.as_str()), ("target", row.name.as_str())];
        let sum = &row.sum;
        let behind = sum.behind_since.map_or(0, |since| now.0.saturating_sub(since.0));
        let gauges = [
            ("sluice_gateway_target_orders", "Volumes that the target is kept at the latest of.", sum.orders as f64),
            (
                "sluice_gateway_target_orders_behind",
                "Of those: the latest generation is not there yet, and nothing went wrong.",
                sum.behind as f64,
            ),
            ("sluice_gateway_target_orders_failing", "Of those: the last run failed.", sum.failing as f64),
            ("sluice_gateway_target_orders_paused", "Of those: somebody let them rest.", sum.paused as f64),
            (
                "sluice_gateway_target_behind_seconds",
                "Since when the oldest generation is complete here that the target should hold and lacks; 0: it lacks none.",
                (behind / 1000) as f64,
            ),
            (
                "sluice_gateway_target_credentials_failing",
                "1 while the target's credentials are what its runs fail by.",
                f64::from(sum.credentials_failing),
            ),
            ("sluice_gateway_target_runs_open", "Runs to the target that are not over.", sum.runs_open as f64),
            (
                "sluice_gateway_target_runs_resting",
                "Of those: stopped or failed, and tried again only when somebody asks for it.",
                sum.runs_resting as f64,
            ),
        ];
        for (name, help, value) in gauges {
            page.put(name, help, &labels, value);
        }
        let counts = state.tally.of(row.tenant, &row.name);
        let counters = [
            ("sluice_gateway_target_written_bytes_total", "Bytes written to the target.", counts.written),
            (
                "sluice_gateway_target_read_back_bytes_total",
                "Bytes read back from the target and compared.",
                counts.read_back,
            ),
            (
                "sluice_gateway_target_statements_total",
                "Runs to the target that ended with a proof and a signed statement of it.",
                counts.statements,
            ),
            (
                "sluice_gateway_target_proofs_failed_total",
                "Times that something else was read back from the target than was written.",
                counts.unproved,
            ),
        ];
        for (name, help, value) in counters {
            page.put(name, help, &labels, value as f64);
        }
    }
}
