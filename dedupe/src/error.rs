//! What can go wrong in the store, as types.

use crate::id::{GenerationId, LineageId, PackId, Root};
use crate::pack::PackError;
use crate::storage::StorageError;

/// A store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The index could not be read or written.
    #[error("the index: {0}")]
    Index(#[from] Box<redb::Error>),
    /// A pack could not be read or written, or is damaged.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// No such generation.
    #[error("there is no generation {0} here")]
    NoGeneration(GenerationId),
    /// No such lineage.
    #[error("there is no lineage {0} here")]
    NoLineage(LineageId),
    /// Bytes that were evicted from the content cache, or never arrived.
    #[error("pack {0} is here no more, evicted from the content cache")]
    Gone(PackId),
    /// The index holds something that does not decode: rebuild it from the packs.
    #[error("the index is damaged at {0}; rebuild it from the packs")]
    Corrupt(&'static str),
    /// The index was made by another version.
    #[error(
        "the index has format {found}, this program reads format {wanted}; run the version that made it, or rebuild the index from the packs"
    )]
    Version {
        /// What the index says.
        found: u64,
        /// What this program reads.
        wanted: u64,
    },
    /// The operation does not fit the generation's state.
    #[error("generation {generation}: {why}")]
    State {
        /// Which.
        generation: GenerationId,
        /// What does not fit.
        why: String,
    },
    /// Asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl StoreError {
    /// Whether the disk is full: ends by itself when there is room.
    pub fn is_no_room(&self) -> bool {
        match self {
            StoreError::Pack(PackError::Storage(e)) => e.is_no_room(),
            StoreError::Index(e) => match &**e {
                redb::Error::Io(e) => {
                    matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// The pack that was found damaged.
    pub fn damaged_pack(&self) -> Option<PackId> {
        match self {
            StoreError::Pack(PackError::Damaged { pack, .. }) => Some(*pack),
            _ => None,
        }
    }
}

impl From<StorageError> for StoreError {
    fn from(error: StorageError) -> Self {
        StoreError::Pack(PackError::Storage(error))
    }
}

macro_rules! from_redb {
    ($($kind:ty),*) => {$(
        impl From<$kind> for StoreError {
            fn from(error: $kind) -> Self {
                StoreError::Index(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(redb::DatabaseError, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

/// A parcel could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Parcels come in order.
    #[error("parcel {got} came where parcel {want} was due")]
    WrongNumber {
        /// The next due.
        want: u32,
        /// What came.
        got: u32,
    },
    /// Its bytes are not what was encoded.
    #[error("the parcel is damaged: {0}")]
    Damaged(&'static str),
    /// It names bytes that are not here: to be encoded again without them.
    #[error("a base is missing: generation {0}")]
    MissingBase(GenerationId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A generation could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The bytes hash to another root than the sender said.
    #[error("the volume hashes to {0}, which is not the root that was promised")]
    WrongRoot(Root),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
