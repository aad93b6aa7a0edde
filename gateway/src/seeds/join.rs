//! Joins what waited when its seed is in: decodes it in order, seals it with the root that was promised.
//!
//! ```text
//!   seed's generation sealed ──► first that waits: draft, its parcels, seal ──► next … ──► nothing waits
//!                                  │ a damaged file, a missing base, another root
//!                                  └──► it and all that build on it are dropped, and the edge sends again from what is held
//! ```
//!
//! Everything is durable between two steps and any of them can be done again, so a crash costs the parcel that was being decoded.

use super::waiting::{WaitError, Waiting, drop_rows, with_followers};
use crate::incoming::PartError;
use crate::state::{State, TenantStore};
use dedupe::{GenerationId, IngestError, LineageId, NewGeneration, SealError, Workspace};

/// What became of a lineage's generations that waited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Sealed now, oldest first.
    pub sealed: Vec<GenerationId>,
    /// Dropped, oldest first: their edge sends again what they held.
    pub dropped: Vec<GenerationId>,
}

/// Why one generation did not join.
enum Misfit {
    /// It never will.
    Drop(String),
    /// It may later.
    Failed(WaitError),
}

impl<E: Into<WaitError>> From<E> for Misfit {
    fn from(error: E) -> Self {
        Misfit::Failed(error.into())
    }
}

/// Joins what waits for a seed of this lineage that is sealed by now. Nothing to do is no error. Can be done again at any time. Blocks, for long.
pub fn join(state: &State, tenant: &TenantStore, lineage: LineageId) -> Result<Joined, WaitError> {
    let mut joined = Joined::default();
    // Whoever drops what waits meanwhile is not kept waiting: its files are gone then, and it does not join.
    let _alone = state.joining();
    loop {
        let rows: Vec<Waiting> = state.catalogue.waiting()?.into_iter().filter(|row| row.lineage == lineage).collect();
        let mut next = None;
        for row in rows.iter().filter(|row| row.promised.is_some()) {
            let base = tenant.store.generation(row.base.0)?;
            match base.and_then(|base| base.sealed) {
                Some(sealed) if sealed.root == row.base.1 => next = Some((row, None)),
                Some(_) => next = Some((row, Some("what it builds on came out with another root".to_owned()))),
                None => {}
            }
            if next.is_some() {
                break;
            }
        }
        let Some((row, misfit)) = next else { return Ok(joined) };
        let done = match misfit {
            Some(why) => Err(Misfit::Drop(why)),
            None => take_in(state, tenant, row),
        };
        match done {
            Ok(()) => {
                dedupe::crash_point("gateway.join.sealed");
                let _changing = state.awaiting();
                drop_rows(state, std::slice::from_ref(row))?;
                tracing::info!(generation = %row.generation, "a generation that waited for its seed is sealed");
                joined.sealed.push(row.generation);
            }
            Err(Misfit::Drop(why)) => {
                let gone = with_followers(&rows, row.generation);
                tracing::warn!(generation = %row.generation, followers = gone.len() - 1, why, "a generation that waited for its seed is dropped; its edge sends it again");
                discard_draft(tenant, row)?;
                gone.iter().for_each(|row| tenant.stop_receiving(row.generation));
                let _changing = state.awaiting();
                drop_rows(state, &gone)?;
                joined.dropped.extend(gone.iter().map(|row| row.generation));
            }
            Err(Misfit::Failed(error)) => return Err(error),
        }
    }
}

/// Decodes one generation's parcels, from the first that is not in yet, and seals it.
fn take_in(state: &State, tenant: &TenantStore, row: &Waiting) -> Result<(), Misfit> {
    let Some((root, parcels)) = row.promised else { return Ok(()) };
    if let Some(sealed) = tenant.store.generation(row.generation)?.and_then(|known| known.sealed) {
        // Killed between the seal and the row's end.
        return if sealed.root == root { Ok(()) } else { Err(Misfit::Drop("another generation has its id".into())) };
    }
    let draft = tenant.store.draft(new_of(row))?;
    let mut workspace = Workspace::default();
    for number in draft.next_parcel()..parcels {
        dedupe::crash_point("gateway.join.parcel");
        let bytes = match state.waiting.read(row.generation, number) {
            Ok(bytes) => bytes,
            Err(PartError::Damaged) => return Err(Misfit::Drop(format!("its parcel {number} is damaged on disk"))),
            Err(PartError::File(error)) if error.is_gone() => {
                return Err(Misfit::Drop(format!("its parcel {number} is gone from the disk")));
            }
            Err(PartError::File(error)) => return Err(error.into()),
        };
        match draft.ingest(number, &bytes, &mut workspace) {
            Ok(_) => {}
            Err(IngestError::Store(error)) => return Err(error.into()),
            Err(error) => return Err(Misfit::Drop(format!("its parcel {number} does not fit: {error}"))),
        }
    }
    dedupe::crash_point("gateway.join.before-seal");
    match draft.seal_as(root, state.now()) {
        Ok(_) => Ok(()),
        Err(SealError::Store(error)) => Err(error.into()),
        Err(SealError::WrongRoot(found)) => {
            Err(Misfit::Drop(format!("it came out as {found} where {root} was promised")))
        }
    }
}

fn discard_draft(tenant: &TenantStore, row: &Waiting) -> Result<(), WaitError> {
    match tenant.store.generation(row.generation)? {
        Some(known) if !known.is_sealed() => Ok(tenant.store.draft(new_of(row))?.discard()?),
        _ => Ok(()),
    }
}

fn new_of(row: &Waiting) -> NewGeneration {
    NewGeneration {
        id: row.generation,
        lineage: row.lineage,
        parent: Some(row.base.0),
        size: row.size,
        captured_at: row.captured_at,
        source: Vec::new(),
    }
}
