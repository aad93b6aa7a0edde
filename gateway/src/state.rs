//! Everything durable of one gateway, opened by one process at a time.
//!
//! ```text
//! state/
//!   catalogue.redb            tenants, sites, tokens, certificates; open means: this process owns the state
//!   ca/                       authorities, the keys that sign policies and statements, and the key that opens media of seeds
//!   reset.key                 lets edges notice a restart at once
//!   releases/                 systems of the appliance, see `releases.rs`
//!   incoming/                 parcels that have not arrived whole
//!   waiting/                  parcels of generations that wait for a seed by courier, see `seeds/waiting.rs`
//!   tenants/<id>/key          the tenant's store key
//!   tenants/<id>/index.redb   its index
//!   tenants/<id>/packs/       its packs, unless the configuration puts them elsewhere
//!   admin.sock                commands to the running daemon
//! ```

use crate::ca::{Authorities, CaError};
use crate::catalogue::{Catalogue, CatalogueError, Tenant};
use crate::config::Config;
use crate::files::{self, FileError};
use crate::ingest::Receiving;
use crate::policies;
use crate::proofs;
use crate::rehydrate::tally::Tally;
use crate::rehydrate::{RehydrateError, Where};
use crate::releases::Releases;
use crate::repairs::Repairs;
use crate::seeds::key::{self, SeedSecret};
use crate::seeds::waiting::Kept;
use crate::telemetry::Telemetry;
use dedupe::{
    GenerationId, Keys, LineageId, LocalPacks, PackStorage, SiteId, StorageError, Store, StoreError, StoreOptions,
    TenantId, UnixMillis,
};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use wire::clock::KnownTime;
use wire::policy::PolicyKey;
use wire::statement::StatementKey;
use zeroize::Zeroizing;

/// Start of a tenant's key file; the number is the format's.
const KEY_FILE: &str = "sluice-store-key-1 ";
/// The id of a tenant's first key; it goes into each pack's header.
const FIRST_KEY: u32 = 1;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The authorities failed.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The packs of a tenant cannot be reached.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A tenant's store failed.
    #[error("the store of tenant {tenant}: {source}")]
    Store {
        /// Which tenant.
        tenant: TenantId,
        /// Why.
        source: StoreError,
    },
    /// A tenant's key file is not one.
    #[error("{0} is not a store key; restore it from a backup, without it the tenant's packs cannot be read")]
    Key(PathBuf),
    /// The key that signs policies is not one.
    #[error(
        "{0} is no key for policies; restore it from a backup. Without it a new one can be made by removing the file, and every edge that has a policy has to enrol again"
    )]
    PolicyKey(PathBuf),
    /// The key that signs statements is not one.
    #[error(
        "{0} is no key for statements; restore it from a backup. Without it a new one can be made by removing the file: what the old one signed is verified with the old public key"
    )]
    StatementKey(PathBuf),
    /// The key that opens media of seeds is not one.
    #[error(
        "{0} is no key for seeds; restore it from a backup. Without it a new one can be made by removing the file: media that were encrypted to the old one cannot be opened then"
    )]
    SeedKey(PathBuf),
    /// There is a state already.
    #[error("{0} holds the state of a gateway already; choose an empty directory")]
    Exists(PathBuf),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    packs: Option<PathBuf>,
    /// Tenants, sites, tokens, certificates.
    pub catalogue: Catalogue,
    authorities: Mutex<Authorities>,
    /// Signs policies.
    pub policy_key: PolicyKey,
    /// Signs statements: proofs.
    pub statement_key: StatementKey,
    /// Opens media of seeds.
    pub seed_key: SeedSecret,
    /// Generations that wait for a seed.
    pub(crate) waiting: Kept,
    /// Wakes whoever joins what waited: a seed was imported, or a generation began to wait for one that is in already.
    pub(crate) joins: Notify,
    /// Of whose seeds something changed that their edges are to hear.
    seed_news: Mutex<BTreeSet<(TenantId, SiteId, LineageId)>>,
    joining: Mutex<()>,
    awaiting: Mutex<()>,
    /// The time by which certificates are judged.
    pub time: Arc<KnownTime>,
    /// Validity of an edge's certificate.
    pub certificate_validity: Duration,
    /// How long after a second person agreed something is given up for good.
    pub deletion_delay: Duration,
    /// What edges told of themselves last.
    pub telemetry: Telemetry,
    /// Generations that are kept of each volume.
    pub retention: usize,
    /// Bytes that stay free on the disk.
    pub(crate) reserve: u64,
    /// Systems of the appliance.
    pub(crate) releases: Releases,
    tenants: Mutex<HashMap<TenantId, Arc<TenantStore>>>,
    /// What was put onto targets since the start.
    pub(crate) tally: Tally,
    /// What is being rehydrated where.
    runs: Arc<Mutex<HashSet<RunsOf>>>,
    keeping: Mutex<()>,
}

/// A volume on its way to a target: one run at a time.
type RunsOf = (TenantId, Where, LineageId);

/// Held while a volume is on its way to a target.
#[derive(Debug)]
pub(crate) struct Rehydrating {
    of: RunsOf,
    all: Arc<Mutex<HashSet<RunsOf>>>,
}

impl Drop for Rehydrating {
    fn drop(&mut self) {
        self.all.lock().expect("it is only added to and taken from").remove(&self.of);
    }
}

/// One tenant's store and the generations that are arriving in it.
pub struct TenantStore {
    /// Whose it is.
    pub id: TenantId,
    /// The store.
    pub store: Arc<Store>,
    /// One entry per draft that is in use: two `Draft`s of one generation would not know of each other.
    receiving: Mutex<HashMap<GenerationId, Arc<Receiving>>>,
    failed: AtomicBool,
    pub(crate) repairs: Repairs,
}

impl std::fmt::Debug for TenantStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TenantStore({})", self.id)
    }
}

impl State {
    /// Makes the state of a new gateway.
    pub fn create(folder: &Path, now: UnixMillis) -> Result<(), StateError> {
        if catalogue_of(folder).exists() {
            return Err(StateError::Exists(folder.to_owned()));
        }
        files::private_folder(folder)?;
        Authorities::create(&folder.join("ca"), now)?;
        let mut reset = Zeroizing::new([0; 64]);
        getrandom::fill(&mut *reset).expect("the operating system has a random source");
        files::write_private(&folder.join("reset.key"), &*reset)?;
        // The catalogue comes last: it is what says that there is a state.
        let catalogue = Catalogue::create(&catalogue_of(folder))?;
        Ok(catalogue.set_known_time(now)?)
    }

    /// Opens the state for this process alone. Stores are opened when they are first asked for.
    pub fn open(config: &Config) -> Result<Arc<State>, StateError> {
        let folder = config.state.clone();
        let catalogue = Catalogue::open(&catalogue_of(&folder))?;
        let authorities = Authorities::load(&folder.join("ca"))?;
        let telemetry = Telemetry::load(&catalogue)?;
        let policy_key = policies::key::load(&folder.join("ca"), catalogue.has_policies()?)?;
        let statement_key = proofs::load_key(&folder.join("ca"), catalogue.has_proofs()?)?;
        let time = Arc::new(KnownTime::new(catalogue.known_time()?));
        files::private_folder(&folder.join("incoming"))?;
        let seed_key = key::load(&folder.join("ca"), !catalogue.seeds()?.is_empty())?;
        let waiting = Kept::open(&folder)?;
        let releases = Releases::new(&folder, config.release_keys.clone());
        Ok(Arc::new(State {
            folder,
            packs: config.packs.clone(),
            catalogue,
            authorities: Mutex::new(authorities),
            policy_key,
            statement_key,
            seed_key,
            waiting,
            joins: Notify::new(),
            seed_news: Mutex::default(),
            joining: Mutex::default(),
            awaiting: Mutex::default(),
            time,
            certificate_validity: config.certificate_validity,
            deletion_delay: config.deletion_delay,
            telemetry,
            retention: config.retention,
            reserve: config.reserve,
            releases,
            tenants: Mutex::default(),
            tally: Tally::default(),
            runs: Arc::default(),
            keeping: Mutex::default(),
        }))
    }

    /// Held by whoever sets a lock, and by whoever deletes a sealed generation from asking the locks until it is gone.
    pub(crate) fn keeping(&self) -> MutexGuard<'_, ()> {
        // What it guards is on disk and whole whoever panicked.
        self.keeping.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Something became of a seed: what waits for it is looked at, and its edge is told.
    pub(crate) fn seed_changed(&self, of: (TenantId, SiteId, LineageId)) {
        self.seed_news.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(of);
        self.joins.notify_one();
    }

    /// Of whose seeds something changed since this was asked last.
    pub(crate) fn seed_news(&self) -> BTreeSet<(TenantId, SiteId, LineageId)> {
        std::mem::take(&mut *self.seed_news.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Held, for long, by whoever joins what waited.
    pub(crate) fn joining(&self) -> MutexGuard<'_, ()> {
        // What it guards is on disk and whole whoever panicked.
        self.joining.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Held, for a moment, by whoever changes which generations wait.
    pub(crate) fn awaiting(&self) -> MutexGuard<'_, ()> {
        // As above.
        self.awaiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Destroys a tenant's key, then its packs and index. `false`, and nothing is done: somebody uses the store. Can be done again. Blocks.
    pub(crate) fn destroy_tenant(&self, id: TenantId) -> Result<bool, StateError> {
        let mut tenants = self.tenants.lock().expect("no thread panics while it opens a store");
        let is_used = |open: &Arc<TenantStore>| Arc::strong_count(open) > 1 || Arc::strong_count(&open.store) > 1;
        if tenants.get(&id).is_some_and(is_used) {
            return Ok(false);
        }
        tenants.remove(&id);
        let folder = self.tenant_folder(id);
        files::destroy(&folder.join("key"))?;
        dedupe::crash_point("gateway.erasure.key");
        files::remove_folder(&self.packs_of(id))?;
        files::remove_folder(&folder)?;
        Ok(true)
    }

    /// The state directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The time to judge and to write down by.
    pub fn now(&self) -> UnixMillis {
        self.time.now()
    }

    /// The authorities, for a moment.
    pub fn authorities(&self) -> MutexGuard<'_, Authorities> {
        self.authorities.lock().expect("no thread panics while it holds the authorities")
    }

    /// The key with which connections of an earlier run are reset.
    pub(crate) fn reset_key(&self) -> Result<ring::hmac::Key, FileError> {
        let bytes = Zeroizing::new(files::read(&self.folder.join("reset.key"))?);
        Ok(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &bytes))
    }

    /// Where a tenant's packs lie.
    pub fn packs_of(&self, tenant: TenantId) -> PathBuf {
        match &self.packs {
            Some(root) => root.join(tenant.to_string()),
            None => self.tenant_folder(tenant).join("packs"),
        }
    }

    /// Where a tenant's key and index lie.
    pub fn tenant_folder(&self, tenant: TenantId) -> PathBuf {
        self.folder.join("tenants").join(tenant.to_string())
    }

    /// A tenant's store, opened if it is not open. Blocks.
    ///
    /// A store whose index has failed is opened anew; until its last user has let it go that fails, and passes by itself.
    pub fn tenant(&self, id: TenantId) -> Result<Arc<TenantStore>, StateError> {
        let mut tenants = self.tenants.lock().expect("no thread panics while it opens a store");
        if let Some(open) = tenants.get(&id).filter(|open| !open.has_failed()) {
            return Ok(open.clone());
        }
        tenants.remove(&id);
        let opened = Arc::new(TenantStore {
            id,
            store: self.open_store(id)?,
            receiving: Mutex::default(),
            failed: AtomicBool::new(false),
            repairs: Repairs::default(),
        });
        tenants.insert(id, opened.clone());
        Ok(opened)
    }

    /// Makes the index of a tenant's store anew from its packs. Nobody else may have the store open. Blocks, for long.
    pub fn open_parts(&self, id: TenantId) -> Result<(PathBuf, Arc<dyn PackStorage>, Keys), StateError> {
        let folder = self.tenant_folder(id);
        files::private_folder(&folder)?;
        let keys = store_key(&folder.join("key"))?;
        let packs = self.packs_of(id);
        files::private_folder(&packs)?;
        let packs = LocalPacks::open(&packs)?;
        Ok((folder.join("index.redb"), Arc::new(packs), keys))
    }

    fn open_store(&self, id: TenantId) -> Result<Arc<Store>, StateError> {
        let (index, packs, keys) = self.open_parts(id)?;
        let opened = Store::open(&index, packs, keys, StoreOptions::default());
        opened.map_err(|source| StateError::Store { tenant: id, source })
    }

    /// Takes the way of a volume to a target, for as long as what is returned lives.
    pub(crate) fn begin_run(
        &self,
        tenant: TenantId,
        to: &Where,
        lineage: LineageId,
    ) -> Result<Rehydrating, RehydrateError> {
        let of = (tenant, to.clone(), lineage);
        match self.runs.lock().expect("it is only added to and taken from").insert(of.clone()) {
            true => Ok(Rehydrating { of, all: self.runs.clone() }),
            false => Err(RehydrateError::Busy(to.to_string())),
        }
    }

    /// Whether a volume is on its way to a target now.
    pub(crate) fn is_running(&self, tenant: TenantId, to: &Where, lineage: LineageId) -> bool {
        self.runs.lock().expect("it is only added to and taken from").contains(&(tenant, to.clone(), lineage))
    }

    /// The stores that are open now.
    pub fn open_tenants(&self) -> Vec<Arc<TenantStore>> {
        self.tenants.lock().expect("no thread panics while it opens a store").values().cloned().collect()
    }

    /// All tenants with their stores. Blocks.
    pub fn all_tenants(&self) -> Result<Vec<(Tenant, Arc<TenantStore>)>, StateError> {
        let tenants = self.catalogue.tenants()?;
        tenants.into_iter().map(|tenant| Ok((tenant.clone(), self.tenant(tenant.id)?))).collect()
    }
}

impl TenantStore {
    /// The generation that is arriving under this id, if any is.
    pub(crate) fn receiving(&self, id: GenerationId) -> Option<Arc<Receiving>> {
        self.lock().get(&id).cloned()
    }

    /// What is arriving under this id, begun by `begin` if nothing is. One at a time.
    pub(crate) fn receive<E>(
        &self,
        id: GenerationId,
        begin: impl FnOnce() -> Result<Receiving, E>,
    ) -> Result<Arc<Receiving>, E> {
        let mut receiving = self.lock();
        if let Some(found) = receiving.get(&id) {
            return Ok(found.clone());
        }
        let begun = Arc::new(begin()?);
        receiving.insert(id, begun.clone());
        Ok(begun)
    }

    /// The generation arrives no more: sealed, abandoned or refused for good.
    pub(crate) fn stop_receiving(&self, id: GenerationId) {
        self.lock().remove(&id);
    }

    /// After an I/O error the index refuses everything until it is opened anew: lets that happen.
    pub(crate) fn note_failure(&self, error: &StoreError) {
        if matches!(error, StoreError::Index(_)) && !self.failed.swap(true, Ordering::Relaxed) {
            tracing::error!(tenant = %self.id, %error, "the index failed and will be opened anew");
        }
    }

    /// Whether the index has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GenerationId, Arc<Receiving>>> {
        self.receiving.lock().expect("no thread panics while it begins a draft")
    }
}

/// The catalogue's file.
pub(crate) fn catalogue_of(folder: &Path) -> PathBuf {
    folder.join("catalogue.redb")
}

/// The key of a store; made when there is none.
pub(crate) fn store_key(path: &Path) -> Result<Keys, StateError> {
    let key = files::secret_of(path, KEY_FILE, || {
        let mut key = Zeroizing::new(vec![0; 32]);
        getrandom::fill(&mut key).expect("the operating system has a random source");
        key
    })?;
    match key.as_deref().map(|key| <[u8; 32]>::try_from(key.as_slice())) {
        Some(Ok(key)) => Ok(Keys::new(FIRST_KEY, key)),
        _ => Err(StateError::Key(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_state_is_made_once_opened_once_and_keeps_its_keys() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        State::create(&folder, NOW).unwrap();
        assert!(matches!(State::create(&folder, NOW), Err(StateError::Exists(_))));
        let config = Config::new(&folder);
        let state = State::open(&config).unwrap();
        let second = State::open(&config).unwrap_err().to_string();
        assert!(second.ends_with("is in use: another gateway runs on this state directory"), "{second}");
        let tenant = state.catalogue.tenant("bank", NOW).unwrap();
        let opened = state.tenant(tenant.id).unwrap();
        assert!(Arc::ptr_eq(&opened, &state.tenant(tenant.id).unwrap()));
        let key = state.tenant_folder(tenant.id).join("key");
        let before = files::read(&key).unwrap();
        drop((opened, state));
        let state = State::open(&config).unwrap();
        state.tenant(tenant.id).unwrap();
        assert_eq!(files::read(&key).unwrap(), before);
        assert!(state.now() >= NOW);
    }

    #[test]
    fn a_broken_key_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "sluice-store-key-1 1234\n").unwrap();
        let broken = store_key(&path).err().unwrap().to_string();
        assert!(broken.contains("is not a store key; restore it from a backup"), "{broken}");
    }
}
