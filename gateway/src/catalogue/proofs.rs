//! What the gateway stated and signed. Only ever added to.

use super::people::last_number;
use super::{Catalogue, CatalogueError, Table, encode};
use dedupe::{TenantId, UnixMillis};
use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

/// Number (8 bytes, big endian, from 1) to [`Proof`].
const PROOFS: Table = TableDefinition::new("proofs_v1");

pub(super) const TABLES: [Table; 1] = [PROOFS];

/// A statement that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Its number.
    pub number: u64,
    /// Whose it is.
    pub tenant: TenantId,
    /// When it was signed.
    pub made: UnixMillis,
    /// Its kind: `erasure`.
    pub kind: String,
    /// What it is about, for people.
    pub subject: String,
    /// The statement's file, as `wire::statement` writes it.
    pub statement: String,
}

/// A statement to be kept; the catalogue gives it its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewProof {
    /// Whose it is.
    pub tenant: TenantId,
    /// When it was signed.
    pub made: UnixMillis,
    /// Its kind.
    pub kind: String,
    /// What it is about, for people.
    pub subject: String,
    /// The statement's file.
    pub statement: String,
}

impl Catalogue {
    /// Keeps a statement; durable on return.
    pub fn add_proof(&self, new: NewProof) -> Result<Proof, CatalogueError> {
        let commit = self.database.begin_write()?;
        let proof = insert(&commit, new)?;
        commit.commit()?;
        Ok(proof)
    }

    /// One of them.
    pub fn proof(&self, number: u64) -> Result<Option<Proof>, CatalogueError> {
        self.one(PROOFS, &number.to_be_bytes(), "proofs")
    }

    /// All of them, oldest first.
    pub fn proofs(&self) -> Result<Vec<Proof>, CatalogueError> {
        self.all(PROOFS, "proofs")
    }

    /// Whether anything was signed yet.
    pub fn has_proofs(&self) -> Result<bool, CatalogueError> {
        Ok(!self.database.begin_read()?.open_table(PROOFS)?.is_empty()?)
    }
}

/// Keeps a statement in the transaction of the deed that it states.
pub(super) fn insert(commit: &WriteTransaction, new: NewProof) -> Result<Proof, CatalogueError> {
    let mut table = commit.open_table(PROOFS)?;
    let number = last_number(&table)? + 1;
    let NewProof { tenant, made, kind, subject, statement } = new;
    let proof = Proof { number, tenant, made, kind, subject, statement };
    table.insert(number.to_be_bytes().as_slice(), encode(&proof).as_slice())?;
    Ok(proof)
}
