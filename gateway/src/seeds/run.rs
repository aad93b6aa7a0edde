//! Joins in the background, as seeds come in, and tells the edges.

use super::table::Custody;
use super::waiting::{self, WaitError};
use super::{arrive, join};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::ingest;
use crate::server::Gateway;
use crate::state::State;
use dedupe::{LineageId, SiteId, TenantId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use wire::message::FromGateway;
use wire::seeding::SeedState;

/// Between two looks when nobody said that there is something to join: after a failure, and for imports that another process made.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Runs until the daemon stops. One generation at a time is joined, beside the pool, whose workers stay with what arrives: it takes the memory of one worker more.
pub(crate) async fn run(gateway: Arc<Gateway>) {
    loop {
        let shared = gateway.clone();
        let done = tokio::task::spawn_blocking(move || look(&shared)).await;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "what waits for a seed cannot be joined now; it is tried again")
            }
            Err(error) => tracing::error!(%error, "a worker ended unexpectedly"),
        }
        tokio::select! {
            () = gateway.state.joins.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = gateway.stop.cancelled() => return,
        }
    }
}

/// Joins whatever can be joined.
fn look(gateway: &Gateway) -> Result<(), WaitError> {
    let state = &gateway.state;
    let mut changed: BTreeSet<(TenantId, SiteId, LineageId)> = note_imports(state)?;
    changed.append(&mut state.seed_news());
    super::sweep(state)?;
    let rows = state.catalogue.waiting()?;
    let lineages: BTreeSet<_> = rows.iter().map(|row| (row.tenant, row.site, row.lineage)).collect();
    for of in lineages {
        if gateway.stop.is_cancelled() {
            return Ok(());
        }
        let joined = join(state, &*state.tenant(of.0)?, of.2)?;
        if joined != join::Joined::default() {
            changed.insert(of);
        }
    }
    for (tenant, site, lineage) in changed {
        let told = ingest::holding(state, &*state.tenant(tenant)?, lineage);
        if let Ok(holding) = told {
            gateway.live.tell(site, holding);
        }
        gateway.live.tell(site, FromGateway::Seeds(arrive::known(state, site)?));
        gateway.work.notify_one(); // retention may have something to do
    }
    Ok(())
}

/// Notes seeds whose generation is sealed by now: an import that was killed behind its last step says no more.
fn note_imports(state: &State) -> Result<BTreeSet<(TenantId, SiteId, LineageId)>, WaitError> {
    let mut changed = BTreeSet::new();
    for mut seed in state.catalogue.seeds()?.into_iter().filter(|seed| !seed.state.is_over()) {
        let sealed = state.tenant(seed.tenant)?.store.generation(seed.generation)?.and_then(|known| known.sealed);
        if sealed.is_none_or(|sealed| sealed.root != seed.root) {
            continue;
        }
        let now = state.now();
        let entry = |state| Custody { state, at: now, noted: now, by: "gateway".into(), note: "it is sealed".into() };
        seed.becomes(entry(SeedState::Importing));
        seed.becomes(entry(SeedState::Imported));
        state.catalogue.put_seed(&seed)?;
        changed.insert((seed.tenant, seed.site, seed.lineage));
    }
    Ok(changed)
}

/// What lists say of a volume's seed.
#[derive(Clone, Debug, Default)]
pub(crate) struct OfLineage {
    /// Where it is, if it is not over.
    pub(crate) seed: Option<String>,
    /// Generations that are complete and wait for it.
    pub(crate) waiting: usize,
}

/// The same of all lineages that have any.
pub(crate) fn of_lineages(catalogue: &Catalogue) -> Result<HashMap<LineageId, OfLineage>, CatalogueError> {
    let mut all: HashMap<LineageId, OfLineage> = HashMap::new();
    for seed in catalogue.seeds()?.into_iter().filter(|seed| !seed.state.is_over()) {
        all.entry(seed.lineage).or_default().seed = Some(seed.state.word().to_owned());
    }
    for row in catalogue.waiting()?.into_iter().filter(|row| row.promised.is_some()) {
        all.entry(row.lineage).or_default().waiting += 1;
    }
    Ok(all)
}

/// Parts that arrive and parcels that wait of generations that nobody knows are removed at the start.
pub(crate) fn tidy(state: &State) -> Result<Vec<waiting::Waiting>, WaitError> {
    let rows = state.catalogue.waiting()?;
    state.waiting.tidy(|generation| rows.iter().any(|row| row.generation == generation))?;
    Ok(rows)
}
