//! Media come in: whose they are is verified, what they hold goes into drafts, and a draft that has all its slabs is sealed with the root that was promised.
//!
//! Nothing of a medium is believed before it is proved, and nothing that is here already is changed by one: a medium brings a generation that is not here, newer than
//! all that are, of a volume of the site that signed it.

use super::kept::{Kept, Missing};
use super::table::{Custody, Seed};
use crate::catalogue::{CatalogueError, Deed, Pending, Site};
use crate::files::FileError;
use crate::incoming::Incoming;
use crate::ingest::{self, MAX_VOLUME, Receiving};
use crate::state::{State, StateError, TenantStore};
use crate::text::printable;
use dedupe::{
    ByteCount, Draft, Generation, GenerationId, Kind, Lineage, NewGeneration, Progress, Root, SealError, StoreError,
    UnixMillis,
};
use seed::key::OpeningKey;
use seed::manifest::{Manifest, ManifestError, Volume, slabs_of};
use seed::read::{Medium, ReadError};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;
use wire::message::Refusal;
use wire::seeding::SeedState;

/// Threads that take slabs in. Two keep the disk busy while one of them waits for a pack to be durable; more wait for each other.
const WORKERS: usize = 3;

/// Why nothing was imported. What a single medium or volume was refused for stands in the [`Outcome`].
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// No media.
    #[error("there are no seeds at {0}: expected a folder `sluice-seed-…`; is the medium mounted?")]
    NoMedia(PathBuf),
    /// A folder cannot be read.
    #[error(transparent)]
    Medium(#[from] seed::FileError),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A file of the state.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key that opens media is none.
    #[error("the key for seeds is none; restore it from a backup")]
    Key,
    /// The store.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// Asked to stop.
    #[error("stopped; what is in stays in, and the same command goes on with the rest")]
    Stopped,
}

/// What came of an import.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// The media, in the order in which they were given.
    pub media: Vec<MediumOutcome>,
    /// The seeds that they carry.
    pub seeds: Vec<SeedOutcome>,
}

/// What came of one medium.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MediumOutcome {
    /// Its folder.
    pub folder: String,
    /// The shipment, as its manifest says.
    pub shipment: String,
    /// Its number.
    pub medium: u32,
    /// Why it was not looked into.
    pub refused: Option<String>,
    /// Slabs of 16 MiB that it brought.
    pub slabs: u64,
    /// Slabs that were in already.
    pub known: u64,
    /// Bytes that were read of it.
    pub bytes: u64,
    /// What was damaged.
    pub damaged: Vec<DamagedPart>,
}

/// A part that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DamagedPart {
    /// `MEDIUM/PART`, as `sluice-edge seed export --again` takes it.
    pub part: String,
    /// What was found.
    pub what: String,
    /// What it held and is not in: `VOLUME: 3 slabs from 17 on`.
    pub held: Vec<String>,
}

/// What came of one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeedOutcome {
    /// Its id.
    pub seed: String,
    /// The volume, as `SITE/VOLUME`.
    pub volume: String,
    /// Where it is.
    pub state: String,
    /// Bytes of the volume that are not in yet.
    pub missing_bytes: u64,
    /// Why it was refused, or what is to be done next.
    pub why: Option<String>,
}

impl Outcome {
    /// Whether everything that was given is in and sealed.
    pub fn is_whole(&self) -> bool {
        let whole = |medium: &MediumOutcome| medium.refused.is_none() && medium.damaged.is_empty();
        self.media.iter().all(whole) && self.seeds.iter().all(|seed| seed.state == SeedState::Imported.word())
    }
}

/// The key that opens media.
pub fn opening_key(state: &State) -> Result<OpeningKey, ImportError> {
    OpeningKey::from_bytes(state.seed_key.secret()).map_err(|_| ImportError::Key)
}

/// A medium that is ours, with the draft of each volume that it may bring something to.
struct Accepted {
    at: usize,
    medium: Medium,
    drafts: Vec<Option<Arc<Draft>>>,
}

/// A seed that is taken in.
struct Taking {
    row: Seed,
    volume: Volume,
    site: String,
    draft: Option<Arc<Draft>>,
    tenant: Arc<TenantStore>,
    why: Option<String>,
}

/// One import. Blocks, for long.
pub struct Import<'a> {
    state: &'a Arc<State>,
    key: OpeningKey,
    by: String,
    outcome: Outcome,
    taking: Vec<Taking>,
}

impl<'a> Import<'a> {
    /// By somebody.
    pub fn new(state: &'a Arc<State>, by: &str) -> Result<Import<'a>, ImportError> {
        let key = opening_key(state)?;
        Ok(Import { state, key, by: by.to_owned(), outcome: Outcome::default(), taking: Vec::new() })
    }

    /// Takes in what the media at these places hold. `progress` counts bytes of volumes, and what was read of media as stored.
    pub fn run(
        mut self,
        mounts: &[PathBuf],
        progress: &Progress,
        phase: &dyn Fn(&'static str),
    ) -> Result<Outcome, ImportError> {
        phase("looking at the media");
        let mut accepted = Vec::new();
        for mount in mounts {
            let folders = seed::folders_at(mount)?;
            if folders.is_empty() {
                return Err(ImportError::NoMedia(mount.clone()));
            }
            for folder in folders {
                accepted.extend(self.accept(&folder)?);
            }
        }
        let carried = accepted.iter().flat_map(|accepted| {
            let manifest = accepted.medium.manifest();
            let runs = manifest.parts.iter().flat_map(|part| &part.slabs);
            runs.filter(|(volume, _)| accepted.drafts.get(usize::from(**volume)).is_some_and(Option::is_some))
                .flat_map(|(_, runs)| runs.iter().map(|(_, count)| count * dedupe::SLAB as u64))
        });
        progress.total.store(carried.sum(), Ordering::Relaxed);
        phase("importing");
        for accepted in accepted {
            self.take(accepted, progress)?;
        }
        phase("proving");
        let taking = std::mem::take(&mut self.taking);
        for seed in taking {
            let line = self.finish(seed)?;
            self.outcome.seeds.push(line);
        }
        Ok(self.outcome)
    }

    /// Verifies a medium and opens the drafts that it brings something to; a medium that is refused is noted with the reason.
    fn accept(&mut self, folder: &Path) -> Result<Option<Accepted>, ImportError> {
        let at = self.outcome.media.len();
        self.outcome.media.push(MediumOutcome { folder: folder.display().to_string(), ..MediumOutcome::default() });
        let refuse = |import: &mut Self, why: String| {
            tracing::warn!(folder = %folder.display(), why, "a medium is refused");
            import.outcome.media[at].refused = Some(why);
            Ok(None)
        };
        let unverified = match Manifest::read(folder) {
            Ok(unverified) => unverified,
            Err(error) => return refuse(self, error.to_string()),
        };
        let claims = &unverified.claims.medium;
        self.outcome.media[at].shipment = claims.shipment.to_string();
        self.outcome.media[at].medium = claims.number;
        let trusted = self.state.authorities().trusted();
        let manifest = match unverified.verify(&trusted) {
            Ok((manifest, _)) => manifest,
            Err(error @ (ManifestError::Signature(_) | ManifestError::OtherSite { .. })) => {
                return refuse(self, error.to_string());
            }
            Err(error) => return refuse(self, error.to_string()),
        };
        let site = match self.site_of(&manifest)? {
            Ok(site) => site,
            Err(why) => return refuse(self, why),
        };
        let medium = match Medium::open(folder, manifest, &self.key) {
            Ok(medium) => medium,
            Err(ReadError::Store(error)) => return Err(error.into()),
            Err(error) => return refuse(self, error.to_string()),
        };
        let mut drafts = Vec::new();
        for volume in &medium.manifest().volumes {
            drafts.push(self.begin(&site, medium.manifest(), volume)?);
        }
        Ok(Some(Accepted { at, medium, drafts }))
    }

    /// The site that speaks; or why it is not listened to.
    fn site_of(&self, manifest: &Manifest) -> Result<Result<Site, String>, ImportError> {
        let unknown = || Ok(Err("its site is not one of this gateway".into()));
        let Some(site) = self.state.catalogue.site(manifest.site)? else { return unknown() };
        if site.tenant != manifest.tenant {
            return Ok(Err("its site is not one of the tenant that it names".into()));
        }
        if site.revoked.is_some() {
            let name = printable(&site.name);
            return Ok(Err(format!("site {name} is revoked; a new token lifts that: `sluice-gateway token`")));
        }
        let leaves = |pending: Pending| pending.is_open() && pending.deed == Deed::Decommission(site.id);
        match self.state.catalogue.pendings()?.into_iter().any(leaves) {
            true => Ok(Err(format!("site {} is being decommissioned", printable(&site.name)))),
            false => Ok(Ok(site)),
        }
    }

    /// The draft of a volume's seed, if it is to be taken in. Whatever speaks against it is noted with the seed.
    fn begin(&mut self, site: &Site, manifest: &Manifest, volume: &Volume) -> Result<Option<Arc<Draft>>, ImportError> {
        if let Some(known) = self.taking.iter().find(|known| known.row.id == volume.seed) {
            return Ok(if known.volume == *volume { known.draft.clone() } else { None });
        }
        let tenant = self.state.tenant(site.tenant)?;
        let Some(root) = volume.root() else { return Ok(None) };
        let now = self.state.now();
        let new = || Seed {
            id: volume.seed,
            tenant: site.tenant,
            site: site.id,
            lineage: volume.lineage,
            volume: volume.name.clone(),
            generation: volume.generation,
            root,
            size: ByteCount(volume.size),
            captured_at: UnixMillis(volume.captured_at),
            state: SeedState::Exported,
            way: None,
            custody: vec![Custody {
                state: SeedState::Exported,
                at: UnixMillis(manifest.made),
                noted: now,
                by: format!("edge: {}", site.name),
                note: "as its media say".into(),
            }],
        };
        let known = self.state.catalogue.seed(volume.seed)?;
        let is_expected = known.is_some();
        let row = known.unwrap_or_else(new);
        let taking = |row, draft, why| Taking {
            row,
            volume: volume.clone(),
            site: site.name.clone(),
            draft,
            tenant: tenant.clone(),
            why,
        };
        let why = match self.against(&row, &new(), &tenant, is_expected)? {
            Against::Nothing => None,
            Against::Here => {
                // Killed behind the seal, or given once more: the end is noted by `finish`.
                self.taking.push(taking(row, None, None));
                return Ok(None);
            }
            Against::This(why) => Some(why),
        };
        if why.is_some() {
            self.taking.push(taking(row, None, why));
            return Ok(None);
        }
        let lineage = Lineage {
            id: volume.lineage,
            kind: Kind::Volume,
            name: volume.name.clone(),
            site: Some(site.id),
            fork_of: None,
        };
        if tenant.store.lineage(volume.lineage)?.is_none() {
            tenant.store.put_lineage(&lineage)?;
        }
        if is_expected {
            self.make_way(&tenant, &row)?;
        }
        let draft = match self.draft(&tenant, &row) {
            Ok(draft) => draft,
            Err(StoreError::State { why, .. }) => {
                let why =
                    format!("its volume is arriving over the line ({why}); let that end, or abandon it at the edge");
                self.taking.push(taking(row, None, Some(why)));
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let row = self.note(row, SeedState::Importing, format!("medium {}", manifest.medium.number))?;
        self.taking.push(taking(row, Some(draft.clone()), None));
        Ok(Some(draft))
    }

    /// What speaks against taking a seed in.
    fn against(
        &self,
        row: &Seed,
        said: &Seed,
        tenant: &TenantStore,
        is_expected: bool,
    ) -> Result<Against, ImportError> {
        let this = |why: &str| Ok(Against::This(why.into()));
        if !row.is_same(said) {
            return this("its edge announced this seed with other bytes: it is not what it says");
        }
        if said.size > MAX_VOLUME
            || !said.size.0.is_multiple_of(512)
            || crate::catalogue::check_name(&said.volume).is_err()
        {
            return this("its volume's name or size is none");
        }
        if let Some(known) = tenant.store.generation(said.generation)? {
            match known.sealed {
                Some(sealed) if sealed.root == said.root && known.lineage == said.lineage => return Ok(Against::Here),
                Some(_) => return this("its generation is here with other bytes"),
                None if known.stats.parcels > 0 && !is_expected => {
                    return this("its generation is arriving over the line; abandon it at the edge first");
                }
                None => {}
            }
        }
        if row.state == SeedState::Abandoned {
            return this("it was given up; export it anew");
        }
        if tenant.store.lineage(said.lineage)?.is_some_and(|known| known.site != Some(said.site)) {
            return this("its volume is one of another site");
        }
        let newest = tenant.store.latest(said.lineage)?;
        match newest {
            Some(newest) if newest.captured_at >= said.captured_at || !is_expected => {
                let number = newest.number;
                let why = format!("generation {number} of its volume is here, and it would be put over that");
                Ok(Against::This(if is_expected { why + ": it is older" } else { why + ": nobody announced it" }))
            }
            _ => Ok(Against::Nothing),
        }
    }

    /// What of another generation had begun to arrive over the line gives way: the edge said that this one travels.
    fn make_way(&self, tenant: &Arc<TenantStore>, row: &Seed) -> Result<(), ImportError> {
        let incoming = Incoming::new(self.state.folder().join("incoming"));
        let others = tenant.store.generations(row.lineage)?;
        // Slabs that parcels filled in part would be taken for those of media.
        let is_in_the_way =
            |known: &Generation| !known.is_sealed() && (known.id != row.generation || known.stats.parcels > 0);
        for other in others.into_iter().filter(is_in_the_way) {
            match ingest::discard(tenant, &other, &incoming) {
                Ok(()) => {}
                Err(Refusal::NoRoom(why) | Refusal::Internal(why)) => {
                    tracing::warn!(generation = %other.id, why, "a draft stays in the way of a seed");
                }
                Err(why) => tracing::warn!(generation = %other.id, %why, "a draft stays in the way of a seed"),
            }
        }
        Ok(())
    }

    fn draft(&self, tenant: &Arc<TenantStore>, row: &Seed) -> Result<Arc<Draft>, StoreError> {
        let begin = || {
            let draft = tenant.store.draft(NewGeneration {
                id: row.generation,
                lineage: row.lineage,
                parent: None,
                size: row.size,
                captured_at: row.captured_at,
                source: Vec::new(),
            })?;
            Ok::<_, StoreError>(Receiving::of(draft, row.lineage))
        };
        let receiving = tenant.receive(row.generation, begin)?;
        receiving
            .draft()
            .cloned()
            .ok_or_else(|| StoreError::State { generation: row.generation, why: "it waits for another seed".into() })
    }

    /// Notes where a seed is, durably; once.
    fn note(&self, mut row: Seed, state: SeedState, note: String) -> Result<Seed, ImportError> {
        let now = self.state.now();
        if row.becomes(Custody { state, at: now, noted: now, by: self.by.clone(), note }) {
            self.state.catalogue.put_seed(&row)?;
        }
        Ok(row)
    }

    fn take(&mut self, accepted: Accepted, progress: &Progress) -> Result<(), ImportError> {
        let Accepted { at, medium, drafts } = accepted;
        if drafts.iter().all(Option::is_none) {
            return Ok(());
        }
        let brought = match medium.import(&drafts, WORKERS, progress) {
            Ok(brought) => brought,
            Err(ReadError::Store(error)) => {
                self.taking.iter().for_each(|taking| taking.tenant.note_failure(&error));
                return Err(error.into());
            }
            Err(_) => return Err(ImportError::Stopped),
        };
        let manifest = medium.manifest();
        let damaged: Vec<DamagedPart> = brought.damages.iter().map(|damage| damaged_part(manifest, damage)).collect();
        for part in &damaged {
            tracing::warn!(part = part.part, what = part.what, "a part of a medium is damaged");
        }
        let line = &mut self.outcome.media[at];
        (line.slabs, line.known, line.bytes) = (brought.slabs, brought.known, brought.bytes);
        line.damaged = damaged.clone();
        for (volume, draft) in manifest.volumes.iter().zip(&drafts) {
            if draft.is_some() {
                Kept::add(self.state.folder(), volume, manifest, &damaged)?;
            }
        }
        Ok(())
    }

    /// Seals what is whole, and says what is missing of the rest.
    fn finish(&self, seed: Taking) -> Result<SeedOutcome, ImportError> {
        let Taking { row, volume, site, draft, tenant, why } = seed;
        let line = |row: &Seed, missing_bytes, why| SeedOutcome {
            seed: row.id.to_string(),
            volume: format!("{site}/{}", printable(&row.volume)),
            state: row.state.word().to_owned(),
            missing_bytes,
            why,
        };
        if why.is_some() {
            return Ok(line(&row, 0, why));
        }
        let sealed = match &draft {
            None => true,
            Some(draft) => {
                let missing = Missing::of(draft, &volume)?;
                if missing.bytes > 0 {
                    let why = "what is missing lies on media that were not given, or was damaged; `sluice-gateway seed show` says what to ask for";
                    return Ok(line(&row, missing.bytes, Some(why.into())));
                }
                dedupe::crash_point("gateway.seed.before-seal");
                self.seal(draft, row.root, row.generation, &tenant)?
            }
        };
        if !sealed {
            let why = "all of it was in and hashed to another root: it is dropped. Give the media again; if that ends so too, export it anew".to_owned();
            return Ok(line(&row, 0, Some(why)));
        }
        dedupe::crash_point("gateway.seed.sealed");
        let row = self.note(row, SeedState::Importing, "its generation is here".into())?;
        let row = self.note(row, SeedState::Imported, "proved by its root".into())?;
        Kept::remove(self.state.folder(), row.id)?;
        // What came over the line meanwhile joins.
        self.state.seed_changed((row.tenant, row.site, row.lineage));
        Ok(line(&row, 0, None))
    }

    fn seal(
        &self,
        draft: &Arc<Draft>,
        root: Root,
        id: GenerationId,
        tenant: &TenantStore,
    ) -> Result<bool, ImportError> {
        match draft.seal_as(root, self.state.now()) {
            Ok(_) => {
                tenant.stop_receiving(id);
                tracing::info!(generation = %id, %root, "a seed by courier is in");
                Ok(true)
            }
            Err(SealError::WrongRoot(found)) => {
                tracing::error!(generation = %id, %found, wanted = %root, "a seed by courier hashes to another root");
                // Whatever made it so is not to stay in the way of the same media, given again.
                tenant.stop_receiving(id);
                draft.discard()?;
                Ok(false)
            }
            Err(SealError::Store(error)) => Err(error.into()),
        }
    }
}

/// What speaks against a seed.
enum Against {
    /// Nothing.
    Nothing,
    /// It is here already.
    Here,
    /// This.
    This(String),
}

fn damaged_part(manifest: &Manifest, damage: &seed::read::Damage) -> DamagedPart {
    let mut held = Vec::new();
    for (volume, runs) in &damage.lost {
        let name = manifest.volumes.get(usize::from(*volume)).map_or("?", |volume| volume.name.as_str());
        let slabs = slabs_of(runs).count();
        let first = runs.first().map_or(0, |(first, _)| *first);
        held.push(format!("{}: {slabs} slabs from {first} on", printable(name)));
    }
    DamagedPart { part: format!("{}/{}", damage.medium, damage.part), what: damage.what.clone(), held }
}
