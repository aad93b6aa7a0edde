//! What may not be deleted, and what is to be: locks, and deeds that wait for their time. Rows are never removed: they are what an auditor reads.

use super::people::last_number;
use super::{Catalogue, CatalogueError, NewProof, Proof, Table, decode, encode, proofs};
use dedupe::{GenerationId, LineageId, SiteId, TenantId, UnixMillis};
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Number (8 bytes, big endian, from 1) to [`Lock`].
const LOCKS: Table = TableDefinition::new("locks_v1");
/// Number (8 bytes, big endian, from 1) to [`Pending`].
const PENDING: Table = TableDefinition::new("pending_v1");

pub(super) const TABLES: [Table; 2] = [LOCKS, PENDING];

/// What nobody may delete before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Its number.
    pub number: u64,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it holds.
    pub on: LockOn,
    /// The same for people: `bank/branch-1/db`.
    pub object: String,
    /// For how long.
    pub term: Term,
    /// Why.
    pub reason: String,
    /// Who set it.
    pub by: String,
    /// When.
    pub set: UnixMillis,
    /// When it was taken off.
    pub ended: Option<UnixMillis>,
}

/// What a lock holds. Named by ids, which a rebuild from packs finds again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockOn {
    /// Everything of the tenant.
    Tenant,
    /// Everything of a site.
    Site(SiteId),
    /// Everything of a volume: what has its name at the site, and the lineages that had it when the lock was set, since an edge may rename them.
    Volume {
        /// The site.
        site: SiteId,
        /// The volume's name.
        name: String,
        /// Its lineages.
        lineages: Vec<LineageId>,
    },
    /// One generation.
    Generation(GenerationId),
}

/// For how long a lock holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Term {
    /// Each generation for so many days from its seal on.
    Days(u32),
    /// Until a time, milliseconds since 1970.
    Until(u64),
    /// Until it is taken off.
    Forever,
}

/// Something that is agreed on and waits for its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its number.
    pub number: u64,
    /// Whose it is.
    pub tenant: TenantId,
    /// What is to be done.
    pub deed: Deed,
    /// On what, for people.
    pub object: String,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub by: String,
    /// When.
    pub asked: UnixMillis,
    /// Under which number a second person agreed.
    pub approval: u64,
    /// Who that was.
    pub approved_by: String,
    /// When.
    pub approved: UnixMillis,
    /// Why they agreed.
    pub approved_reason: String,
    /// Not before this.
    pub due: UnixMillis,
    /// What became of it.
    pub state: PendingState,
    /// Since when.
    pub since: UnixMillis,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// A lock is taken off, or made to hold for less long.
    Unlock {
        /// Its number.
        lock: u64,
        /// For how long it holds then; `None`: it is taken off.
        to: Option<Term>,
    },
    /// A generation is deleted.
    Forget(GenerationId),
    /// A site is erased.
    Decommission(SiteId),
}

/// What became of a deed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingState {
    /// It waits for its time.
    Waiting,
    /// It began; what was found then, as JSON, empty before that was looked for.
    Working(String),
    /// It is done, and the number of its proof.
    Done(Option<u64>),
    /// Somebody took it back.
    Cancelled {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// It could not be done any more when its time came.
    Refused(String),
}

impl Pending {
    /// Whether it is still to be done.
    pub fn is_open(&self) -> bool {
        matches!(self.state, PendingState::Waiting | PendingState::Working(_))
    }
}

impl Catalogue {
    /// Sets a lock; gives it its number.
    pub fn add_lock(&self, mut lock: Lock) -> Result<Lock, CatalogueError> {
        let commit = self.database.begin_write()?;
        {
            let mut table = commit.open_table(LOCKS)?;
            lock.number = last_number(&table)? + 1;
            table.insert(lock.number.to_be_bytes().as_slice(), encode(&lock).as_slice())?;
        }
        commit.commit()?;
        Ok(lock)
    }

    /// All locks, also those that were taken off, oldest first.
    pub fn locks(&self) -> Result<Vec<Lock>, CatalogueError> {
        self.all(LOCKS, "locks")
    }

    /// One lock.
    pub fn lock(&self, number: u64) -> Result<Option<Lock>, CatalogueError> {
        self.one(LOCKS, &number.to_be_bytes(), "locks")
    }

    /// Makes a lock hold for another time.
    pub fn put_lock(&self, lock: &Lock) -> Result<(), CatalogueError> {
        self.put(LOCKS, &lock.number.to_be_bytes(), lock)
    }

    /// Takes a lock off or shortens it, and says that the deed is done, in one transaction.
    pub fn unlock(&self, pending: u64, lock: u64, to: Option<Term>, now: UnixMillis) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        {
            let mut table = commit.open_table(LOCKS)?;
            let row = table.get(lock.to_be_bytes().as_slice())?.map(|row| row.value().to_vec());
            let row: Option<Lock> = row.map(|row| decode(&row, "locks")).transpose()?;
            if let Some(mut row) = row {
                match to {
                    Some(term) => row.term = term,
                    None => row.ended = Some(now),
                }
                table.insert(lock.to_be_bytes().as_slice(), encode(&row).as_slice())?;
            }
        }
        set_state(&commit, pending, PendingState::Done(None), now)?;
        Ok(commit.commit()?)
    }

    /// Notes something that waits for its time; gives it its number.
    pub fn add_pending(&self, mut pending: Pending) -> Result<Pending, CatalogueError> {
        let commit = self.database.begin_write()?;
        {
            let mut table = commit.open_table(PENDING)?;
            pending.number = last_number(&table)? + 1;
            table.insert(pending.number.to_be_bytes().as_slice(), encode(&pending).as_slice())?;
        }
        commit.commit()?;
        Ok(pending)
    }

    /// All of them, oldest first.
    pub fn pendings(&self) -> Result<Vec<Pending>, CatalogueError> {
        self.all(PENDING, "pending deeds")
    }

    /// One of them.
    pub fn pending(&self, number: u64) -> Result<Option<Pending>, CatalogueError> {
        self.one(PENDING, &number.to_be_bytes(), "pending deeds")
    }

    /// Says what became of one; `false`, and nothing is changed, when it is over or, where only that is wanted, does not wait any more.
    pub fn set_pending(
        &self,
        number: u64,
        state: PendingState,
        only_waiting: bool,
        now: UnixMillis,
    ) -> Result<bool, CatalogueError> {
        let row = self.pending(number)?;
        let fits = |row: &Pending| if only_waiting { row.state == PendingState::Waiting } else { row.is_open() };
        if !row.as_ref().is_some_and(fits) {
            return Ok(false);
        }
        let commit = self.database.begin_write()?;
        set_state(&commit, number, state, now)?;
        commit.commit()?;
        Ok(true)
    }

    /// Keeps the proof of an erasure and says that it is done, in one transaction: there is never one without the other.
    pub fn finish_erasure(&self, number: u64, proof: NewProof, now: UnixMillis) -> Result<Proof, CatalogueError> {
        let commit = self.database.begin_write()?;
        let proof = proofs::insert(&commit, proof)?;
        set_state(&commit, number, PendingState::Done(Some(proof.number)), now)?;
        commit.commit()?;
        Ok(proof)
    }
}

fn set_state(
    commit: &WriteTransaction,
    number: u64,
    state: PendingState,
    now: UnixMillis,
) -> Result<(), CatalogueError> {
    let mut table = commit.open_table(PENDING)?;
    let row = table.get(number.to_be_bytes().as_slice())?.map(|row| row.value().to_vec());
    let row: Pending = decode(&row.ok_or(CatalogueError::Corrupt("pending deeds"))?, "pending deeds")?;
    table.insert(number.to_be_bytes().as_slice(), encode(&Pending { state, since: now, ..row }).as_slice())?;
    Ok(())
}
