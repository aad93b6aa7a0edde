//! What comes over the line for a generation that is to wait: offers, the last word about them, and what an edge says of its seeds.

use super::table::{Custody, Seed};
use super::waiting::{self, MAX_WAITING, WaitError, Waiting};
use crate::ingest::{Prepared, Receiving, file_refusal, store_refusal};
use crate::state::{State, TenantStore};
use dedupe::{GenerationId, Root, SiteId};
use std::sync::Arc;
use wire::frame::MAX_LIST;
use wire::message::{GenerationOffer, Refusal};
use wire::seeding::{SeedState, Seeding, Seeds};

/// Seeds of one site that are remembered. A site needs a few; an edge that makes them up fills no disk.
const MAX_SEEDS: usize = 1024;

/// Takes up an offer whose generation is to wait, or goes on with it; `None`: it is none of those. Blocks.
pub(crate) fn prepare(
    state: &State,
    tenant: &Arc<TenantStore>,
    site: SiteId,
    offer: &GenerationOffer,
) -> Result<Option<Prepared>, Refusal> {
    let failed = |error: WaitError| wait_refusal(tenant, error);
    let _alone = state.awaiting();
    let known = state.catalogue.waiting_row(offer.generation).map_err(|error| failed(error.into()))?;
    let row = match known {
        Some(row) if (row.tenant, row.site, row.lineage) != (tenant.id, site, offer.lineage) => {
            return Err(Refusal::Foreign);
        }
        Some(row) if row.is_offered_as(offer) => row,
        // Begun anew on another base: what came is of no use.
        Some(row) if row.promised.is_none() => {
            tenant.stop_receiving(row.generation);
            waiting::drop_rows(state, &[row]).map_err(failed)?;
            match new_row(state, tenant, site, offer)? {
                Some(row) => row,
                None => return Ok(None),
            }
        }
        Some(_) => return Err(Refusal::Protocol("the generation waits already, on another base".into())),
        None => match new_row(state, tenant, site, offer)? {
            Some(row) => row,
            None => return Ok(None),
        },
    };
    if let Some((_, parcels)) = row.promised {
        return Ok(Some((None, parcels)));
    }
    let (lineage, kept, id) = (row.lineage, state.waiting.clone(), row.generation);
    let begin = move || Ok::<_, WaitError>(Receiving::waiting(lineage, kept, id));
    let receiving = tenant.receive(offer.generation, begin).map_err(failed)?;
    let due = receiving.due();
    Ok(Some((Some(receiving), due)))
}

/// The row of a generation that begins to wait; `None` when its parent is not promised.
fn new_row(
    state: &State,
    tenant: &TenantStore,
    site: SiteId,
    offer: &GenerationOffer,
) -> Result<Option<Waiting>, Refusal> {
    let failed = |error: WaitError| wait_refusal(tenant, error);
    let promised = waiting::promised(state, tenant, offer.lineage).map_err(failed)?;
    // Only the newest may be built on: a lineage does not fork.
    let Some(base) = offer.parent.filter(|base| promised.first().map(|tip| (tip.generation, tip.root)) == Some(*base))
    else {
        return Ok(None);
    };
    let mut rows = state.catalogue.waiting().map_err(|error| failed(error.into()))?;
    rows.retain(|row| row.lineage == offer.lineage);
    let complete = rows.iter().filter(|row| row.promised.is_some()).count();
    if complete >= MAX_WAITING {
        return Err(Refusal::NoRoom(format!("{complete} generations of the volume wait for its seed already")));
    }
    let seed = match waiting::expected(state, tenant, offer.lineage).map_err(failed)? {
        Some(seed) => seed.id,
        None => match rows.first() {
            Some(row) => row.seed, // it is in, and others are being joined
            None => return Ok(None),
        },
    };
    // One at a time arrives, as of what is decoded at once.
    for other in rows.iter().filter(|row| row.promised.is_none()) {
        tenant.stop_receiving(other.generation);
        waiting::drop_rows(state, std::slice::from_ref(other)).map_err(failed)?;
    }
    let row = Waiting {
        generation: offer.generation,
        seed,
        tenant: tenant.id,
        site,
        lineage: offer.lineage,
        base,
        size: offer.size,
        captured_at: offer.captured_at,
        promised: None,
        since: state.now(),
    };
    state.waiting.begin(row.generation).map_err(|error| failed(error.into()))?;
    state.catalogue.put_waiting(&row).map_err(|error| failed(error.into()))?;
    Ok(Some(row))
}

/// Takes the last word about a generation whose parcels are all in: it waits from now on, durable. `false`: it does not wait. Blocks.
pub(crate) fn seal(
    state: &State,
    tenant: &TenantStore,
    site: SiteId,
    id: GenerationId,
    (parcels, root): (u32, Root),
) -> Result<bool, Refusal> {
    let failed = |error: WaitError| wait_refusal(tenant, error);
    let _alone = state.awaiting();
    let Some(mut row) = state.catalogue.waiting_row(id).map_err(|error| failed(error.into()))? else {
        return Ok(false);
    };
    if (row.tenant, row.site) != (tenant.id, site) {
        return Err(Refusal::Foreign);
    }
    if let Some((promised, _)) = row.promised {
        return if promised == root { Ok(true) } else { Err(Refusal::WrongRoot(promised)) };
    }
    let due = state.waiting.count(id);
    if due != parcels {
        return Err(Refusal::OutOfOrder { want: due, got: parcels });
    }
    dedupe::crash_point("gateway.waiting.seal");
    row.promised = Some((root, parcels));
    state.catalogue.put_waiting(&row).map_err(|error| failed(error.into()))?;
    dedupe::crash_point("gateway.waiting.sealed");
    tenant.stop_receiving(id);
    state.joins.notify_one(); // the seed may have come in meanwhile
    Ok(true)
}

/// Gives up a generation that was on its way to wait. `false`: it is none. Blocks.
pub(crate) fn abandon(state: &State, tenant: &TenantStore, site: SiteId, id: GenerationId) -> Result<bool, Refusal> {
    let failed = |error: WaitError| wait_refusal(tenant, error);
    let _alone = state.awaiting();
    match state.catalogue.waiting_row(id).map_err(|error| failed(error.into()))? {
        None => Ok(false),
        Some(row) if (row.tenant, row.site) != (tenant.id, site) => Err(Refusal::Foreign),
        Some(row) if row.promised.is_some() => Ok(true), // nothing acknowledged as complete is taken back
        Some(row) => {
            tenant.stop_receiving(id);
            waiting::drop_rows(state, &[row]).map_err(failed)?;
            Ok(true)
        }
    }
}

/// Notes what an edge says of one of its seeds. What it may not say, or what cannot follow, changes nothing. Blocks.
pub(crate) fn note(state: &State, tenant: &TenantStore, site: SiteId, said: &Seeding) -> Result<(), Refusal> {
    let failed = |error: WaitError| wait_refusal(tenant, error);
    let refused = |why: &str| tracing::warn!(%site, seed = %said.seed, why, "word about a seed is not believed");
    let lineage = tenant.store.lineage(said.lineage).map_err(|error| failed(error.into()))?;
    if lineage.is_some_and(|lineage| lineage.site != Some(site)) {
        refused("its volume is another site's");
        return Ok(());
    }
    let is_its_own = matches!(
        said.state,
        SeedState::Exporting | SeedState::Exported | SeedState::Shipped | SeedState::Lost | SeedState::Abandoned
    );
    let known = state.catalogue.seed(said.seed).map_err(|error| failed(error.into()))?;
    let name = site_name(state, site).map_err(failed)?;
    let entry = Custody {
        state: said.state,
        at: said.at,
        noted: state.now(),
        by: format!("edge: {name}"),
        note: said.note.clone(),
    };
    let new = Seed {
        id: said.seed,
        tenant: tenant.id,
        site,
        lineage: said.lineage,
        volume: said.volume.clone(),
        generation: said.generation,
        root: said.root,
        size: said.size,
        captured_at: said.captured_at,
        state: said.state,
        way: said.way,
        custody: vec![entry.clone().cut()],
    };
    match known {
        Some(known) if !known.is_same(&new) => refused("another seed has its id"),
        _ if !is_its_own => refused("the gateway says that by itself"),
        None => {
            let all = state.catalogue.seeds().map_err(|error| failed(error.into()))?;
            match all.iter().filter(|seed| seed.site == site).count() {
                known if known >= MAX_SEEDS => refused("the site has too many seeds"),
                _ => state.catalogue.put_seed(&new).map_err(|error| failed(error.into()))?,
            }
        }
        Some(mut known) if said.state == SeedState::Abandoned => {
            super::abandon(state, &mut known, said.way, entry).map_err(failed)?;
        }
        Some(mut known) => {
            if known.becomes(entry) {
                state.catalogue.put_seed(&known).map_err(|error| failed(error.into()))?;
            }
        }
    }
    Ok(())
}

/// What an edge is told of its site's seeds. Blocks.
pub(crate) fn known(state: &State, site: SiteId) -> Result<Seeds, WaitError> {
    let mut seeds: Vec<Seed> = state.catalogue.seeds()?.into_iter().filter(|seed| seed.site == site).collect();
    seeds.sort_by_key(|seed| (seed.state.is_over(), std::cmp::Reverse(seed.since())));
    Ok(Seeds { key: state.seed_key.public(), seeds: seeds.iter().take(MAX_LIST).map(Seed::known).collect() })
}

fn site_name(state: &State, site: SiteId) -> Result<String, WaitError> {
    Ok(state.catalogue.site(site)?.map_or_else(|| site.to_string(), |site| site.name))
}

/// What an edge is told when a generation cannot wait.
pub(crate) fn wait_refusal(tenant: &TenantStore, error: WaitError) -> Refusal {
    match error {
        WaitError::Store(error) => store_refusal(tenant, error),
        WaitError::File(error) => file_refusal(error),
        WaitError::Catalogue(error) => crate::ingest::state_refusal(error.into()),
        WaitError::State(error) => crate::ingest::state_refusal(error),
    }
}
