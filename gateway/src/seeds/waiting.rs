//! Generations that wait for a seed: their parcels came over the line, coded against bytes that are still on their way.
//!
//! Nothing of them is decoded before the seed is in ([`mod@super::join`]). Until then a parcel is a file, `waiting/<generation>/<number>.parcel`: the part as
//! it arrived ([`crate::incoming`]), with its hash, moved there when it was whole and verified. How many there are in a row is how far the generation
//! is; the catalogue's row says what it is, and what it is promised to hash to when all are in.

use super::table::Seed;
use crate::catalogue::CatalogueError;
use crate::files::{self, FileError};
use crate::incoming::{Part, PartError, read_kept};
use crate::state::{State, StateError, TenantStore};
use dedupe::{ByteCount, GenerationId, LineageId, Root, SeedId, SiteId, StoreError, TenantId, UnixMillis};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use wire::message::GenerationOffer;
use wire::seeding::{Promise, Promised};

/// Generations of one volume that wait at once. Beyond it the edge is told that there is no room: it folds what comes after.
pub const MAX_WAITING: usize = 60;

/// A generation that waits, or whose parcels are arriving to do so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The generation.
    pub generation: GenerationId,
    /// The seed that it waits for.
    pub seed: SeedId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The volume's lineage.
    pub lineage: LineageId,
    /// What it builds on: the seed's generation, or one that waits too.
    pub base: (GenerationId, Root),
    /// Size of the volume in it.
    pub size: ByteCount,
    /// When it was captured.
    pub captured_at: UnixMillis,
    /// What it has to hash to, and how many parcels it has: all are here. `None`: they are arriving.
    pub promised: Option<(Root, u32)>,
    /// When the first of it came.
    pub since: UnixMillis,
}

impl Waiting {
    /// Whether an offer is of this very generation.
    pub(crate) fn is_offered_as(&self, offer: &GenerationOffer) -> bool {
        (self.lineage, Some(self.base), self.size) == (offer.lineage, offer.parent, offer.size)
    }
}

/// Where parcels that wait lie.
#[derive(Clone, Debug)]
pub struct Kept {
    folder: PathBuf,
}

impl Kept {
    /// Below a state directory; made if it is not there.
    pub(crate) fn open(state: &Path) -> Result<Kept, FileError> {
        let folder = state.join("waiting");
        files::private_folder(&folder)?;
        Ok(Kept { folder })
    }

    /// Makes room for a generation's parcels. Repeating it is harmless.
    pub(crate) fn begin(&self, generation: GenerationId) -> Result<(), FileError> {
        let folder = self.folder_of(generation);
        files::private_folder(&folder)?;
        files::sync_folder_of(&folder).map_err(FileError::on("sync", &folder))
    }

    /// How many parcels of a generation are here, from the first on without a gap.
    pub(crate) fn count(&self, generation: GenerationId) -> u32 {
        (0..u32::MAX).take_while(|number| self.path(generation, *number).exists()).count() as u32
    }

    /// Takes a parcel that arrived whole; durable on return.
    pub(crate) fn take(&self, generation: GenerationId, number: u32, part: &Part) -> Result<(), PartError> {
        dedupe::crash_point("gateway.waiting.before");
        part.keep_as(&self.path(generation, number))?;
        dedupe::crash_point("gateway.waiting.after");
        Ok(())
    }

    /// A parcel's bytes, if they are what came.
    pub(crate) fn read(&self, generation: GenerationId, number: u32) -> Result<Vec<u8>, PartError> {
        read_kept(&self.path(generation, number), generation, number)
    }

    /// Bytes of a generation's parcels.
    pub(crate) fn bytes(&self, generation: GenerationId) -> u64 {
        let Ok(entries) = std::fs::read_dir(self.folder_of(generation)) else { return 0 };
        entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum()
    }

    /// Removes a generation's parcels.
    pub(crate) fn discard(&self, generation: GenerationId) -> Result<(), FileError> {
        files::remove_folder(&self.folder_of(generation))
    }

    /// Removes what no row names, as after a crash between a row's end and the removal.
    pub(crate) fn tidy(&self, wanted: impl Fn(GenerationId) -> bool) -> Result<(), FileError> {
        let failed = FileError::on("read", &self.folder);
        let entries: Vec<_> = std::fs::read_dir(&self.folder).and_then(Iterator::collect).map_err(failed)?;
        for entry in entries {
            let generation = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(generation) = generation.filter(|generation| !wanted(*generation)) {
                self.discard(generation)?;
            }
        }
        Ok(())
    }

    fn folder_of(&self, generation: GenerationId) -> PathBuf {
        self.folder.join(generation.to_string())
    }

    fn path(&self, generation: GenerationId, number: u32) -> PathBuf {
        self.folder_of(generation).join(format!("{number:08}.parcel"))
    }
}

/// Why it is not known what is promised, or a generation cannot wait.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The tenant's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The seed of a lineage that is expected: its generation may be built on and is not sealed yet.
pub(crate) fn expected(state: &State, tenant: &TenantStore, lineage: LineageId) -> Result<Option<Seed>, WaitError> {
    let of = |seed: &Seed| seed.tenant == tenant.id && seed.lineage == lineage && seed.state.is_expected();
    let mut seeds: Vec<Seed> = state.catalogue.seeds()?.into_iter().filter(of).collect();
    seeds.sort_by_key(|seed| seed.captured_at); // the latest, should somebody have made another one without giving the first up
    let Some(seed) = seeds.pop() else { return Ok(None) };
    let sealed = tenant.store.generation(seed.generation)?.is_some_and(|known| known.is_sealed());
    Ok((!sealed).then_some(seed))
}

/// What is promised of a lineage, newest first: each builds on the one behind it.
pub(crate) fn promised(state: &State, tenant: &TenantStore, lineage: LineageId) -> Result<Vec<Promised>, WaitError> {
    let rows: Vec<Waiting> = state.catalogue.waiting()?.into_iter().filter(|row| row.lineage == lineage).collect();
    let expected = expected(state, tenant, lineage)?;
    let mut promised: Vec<Promised> = Vec::new();
    let mut tip = match &expected {
        Some(seed) => {
            let (generation, root) = (seed.generation, seed.root);
            promised.push(Promised { generation, root, promise: Promise::Expected });
            Some(generation)
        }
        // The seed is in and what waited is being joined: what is left builds on something sealed. What is left of a seed that was given up does not.
        None => {
            let first = rows.iter().map(|row| row.base.0).find(|base| rows.iter().all(|row| row.generation != *base));
            let sealed = first.map(|base| tenant.store.generation(base)).transpose()?.flatten();
            sealed.filter(|base| base.is_sealed()).map(|base| base.id)
        }
    };
    while let Some(base) = tip {
        let next = rows.iter().find(|row| row.base.0 == base && row.promised.is_some());
        tip = next.map(|row| row.generation);
        promised.extend(next.and_then(|row| {
            Some(Promised { generation: row.generation, root: row.promised?.0, promise: Promise::Waiting })
        }));
        if promised.len() > rows.len() + 1 {
            break; // a ring, which no edge can make: each row names a base that was there before it
        }
    }
    promised.reverse();
    Ok(promised)
}

/// Whether a generation's draft is not an edge's to go on with or to give up: an import makes it, or a joining.
pub(crate) fn is_ours(state: &State, generation: GenerationId) -> Result<bool, CatalogueError> {
    let is_expected = state.catalogue.seed_of(generation)?.is_some_and(|seed| seed.state.is_expected());
    Ok(is_expected || state.catalogue.waiting_row(generation)?.is_some())
}

/// Drops generations that wait, and their parcels. Whoever calls holds [`State::awaiting`].
pub(crate) fn drop_rows(state: &State, rows: &[Waiting]) -> Result<(), WaitError> {
    for row in rows {
        state.catalogue.end_waiting(row.generation)?;
        dedupe::crash_point("gateway.waiting.dropped");
        state.waiting.discard(row.generation)?;
    }
    Ok(())
}

/// These rows and all that build on them.
pub(crate) fn with_followers(all: &[Waiting], first: GenerationId) -> Vec<Waiting> {
    let mut found: Vec<Waiting> = all.iter().filter(|row| row.generation == first).cloned().collect();
    let mut at = 0;
    while at < found.len() {
        let base = found[at].generation;
        let known: Vec<_> = found.iter().map(|row| row.generation).collect();
        found.extend(all.iter().filter(|row| row.base.0 == base && !known.contains(&row.generation)).cloned());
        at += 1;
    }
    found
}
