//! Seeds by courier: generations that travel on media, and what came over the line for them meanwhile.
//!
//! ```text
//!   edge ── Seeding ──► arrive::note ──► table (custody)        media ──► import ──► sealed ──┐
//!        ── Offer on what is promised ──► arrive::prepare ──► waiting (files, undecoded) ──► join ──► sealed
//! ```

pub(crate) mod arrive;
pub mod import;
pub mod join;
pub mod kept;
pub mod key;
mod run;
pub mod table;
pub mod waiting;

pub use join::{Joined, join};
pub(crate) use run::{OfLineage, of_lineages, run, tidy};
pub use table::{Custody, Seed};
pub use waiting::{WaitError, Waiting};

use crate::state::State;
use dedupe::LineageId;
use wire::seeding::{SeedState, Way};

/// Gives a seed up: what waits for it is dropped, and its volume goes on as `way` says; without one its edge holds it and asks. Nothing goes over the line by
/// itself. A seed that is over stays as it is, but what was not said before may be said once. Blocks.
pub fn abandon(state: &State, seed: &mut Seed, way: Option<Way>, entry: Custody) -> Result<(), WaitError> {
    let _alone = state.awaiting();
    let was_abandoned = !seed.becomes(entry);
    if was_abandoned && seed.state != SeedState::Abandoned {
        return Ok(()); // it is imported
    }
    seed.way = seed.way.or(way);
    state.catalogue.put_seed(seed)?;
    dedupe::crash_point("gateway.seed.abandoned");
    let rows: Vec<Waiting> = state.catalogue.waiting()?.into_iter().filter(|row| row.seed == seed.id).collect();
    let tenant = state.tenant(seed.tenant)?;
    rows.iter().for_each(|row| tenant.stop_receiving(row.generation));
    waiting::drop_rows(state, &rows)
}

/// Drops what is left of seeds that were given up, after a crash between the word and the deed. Blocks.
pub(crate) fn sweep(state: &State) -> Result<(), WaitError> {
    let _alone = state.awaiting();
    let mut rows = state.catalogue.waiting()?;
    if !rows.is_empty() {
        let seeds = state.catalogue.seeds()?;
        rows.retain(|row| seeds.iter().any(|seed| seed.id == row.seed && seed.state == SeedState::Abandoned));
    }
    waiting::drop_rows(state, &rows)
}

/// Drops everything that waits of these lineages, whose site ends. Blocks.
pub(crate) fn forget(state: &State, lineages: &[LineageId]) -> Result<(), WaitError> {
    let _alone = state.awaiting();
    let rows: Vec<Waiting> =
        state.catalogue.waiting()?.into_iter().filter(|row| lineages.contains(&row.lineage)).collect();
    waiting::drop_rows(state, &rows)
}
