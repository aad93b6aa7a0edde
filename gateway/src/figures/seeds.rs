//! Seeds by courier, and what waits for them: sums for each tenant that has any, so that there are no more series than tenants times 11.

use crate::seeds::WaitError;
use crate::state::State;
use dedupe::{TenantId, UnixMillis};
use monitoring::Page;
use std::collections::HashMap;
use wire::seeding::SeedState;

/// Tenants with series of their own: more than one gateway has.
pub(super) const MAX_TENANTS: usize = 200;

/// What a look found of one tenant.
#[derive(Default)]
pub(super) struct SeedRow {
    tenant: String,
    /// In the order of [`SeedState::ALL`].
    states: [u64; SeedState::ALL.len()],
    /// When the oldest that is not over was first heard of.
    out_since: Option<UnixMillis>,
    waiting: u64,
    bytes: u64,
}

/// Looks at the seeds; also how many tenants were left out.
pub(super) fn read(state: &State, most: usize) -> Result<(Vec<SeedRow>, usize), WaitError> {
    let mut rows: HashMap<TenantId, SeedRow> = HashMap::new();
    for seed in state.catalogue.seeds()? {
        let row = rows.entry(seed.tenant).or_default();
        for (count, known) in row.states.iter_mut().zip(SeedState::ALL) {
            *count += u64::from(known == seed.state);
        }
        if let Some(since) = seed.out_since() {
            row.out_since = Some(row.out_since.map_or(since, |oldest| oldest.min(since)));
        }
    }
    for waits in state.catalogue.waiting()? {
        let row = rows.entry(waits.tenant).or_default();
        row.waiting += u64::from(waits.promised.is_some());
        row.bytes += state.waiting.bytes(waits.generation);
    }
    for tenant in state.catalogue.tenants()? {
        if let Some(row) = rows.get_mut(&tenant.id) {
            row.tenant = tenant.name;
        }
    }
    let mut rows: Vec<SeedRow> = rows.into_values().filter(|row| !row.tenant.is_empty()).collect();
    rows.sort_by(|a, b| a.tenant.cmp(&b.tenant));
    let dropped = rows.len().saturating_sub(most);
    rows.truncate(most);
    Ok((rows, dropped))
}

pub(super) fn page(page: &mut Page, rows: &[SeedRow], now: UnixMillis) {
    for row in rows {
        let tenant = ("tenant", row.tenant.as_str());
        for (count, state) in row.states.iter().zip(SeedState::ALL) {
            page.put(
                "sluice_gateway_seeds",
                "Seeds by courier, by where they are.",
                &[tenant, ("state", state.word())],
                *count as f64,
            );
        }
        let out = row.out_since.map_or(0, |since| now.0.saturating_sub(since.0) / 1000);
        let gauges = [
            (
                "sluice_gateway_seed_oldest_out_seconds",
                "Since when the oldest seed is on its way that is neither imported nor given up; 0: none is.",
                out,
            ),
            (
                "sluice_gateway_seed_waiting_generations",
                "Generations that are complete here and wait for their seed.",
                row.waiting,
            ),
            ("sluice_gateway_seed_waiting_bytes", "Bytes on disk of parcels that wait for a seed.", row.bytes),
        ];
        for (name, help, value) in gauges {
            page.put(name, help, &[tenant], value as f64);
        }
    }
}
