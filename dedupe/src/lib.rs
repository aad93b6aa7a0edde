//! Chunking, the store, generations and the parcel codec. Synchronous; knows no network.
//!
//! Bottom up:
//! * [`id`]: identity, place and unit as types; the grains (block, leaf, slab).
//! * [`root`]: the proof, BLAKE3 as a tree. [`chunk`]: content-defined pieces. [`keys`]: encryption at rest.
//! * [`storage`]: where packs lie. [`pack`]: what one looks like.
//! * [`store`]: lineages, generations and their bytes, over packs and a redb index. [`draft`]: a generation in the making. [`back`]: parts of one for the other end.
//! * [`carry`]: a generation on its way to another store by hand.
//! * [`image`]: a delta between two images, without a store.

mod anchors;
pub mod back;
mod bases;
mod cache;
pub mod carry;
pub mod chunk;
pub mod codec;
pub mod delta;
pub mod draft;
pub mod encoder;
pub mod erase;
pub mod error;
pub mod fault;
pub mod fuzz;
pub mod generation;
pub mod id;
pub mod image;
mod index;
pub mod ingest;
pub mod keep;
pub mod keys;
pub mod pack;
pub mod parcel;
mod rebuild;
pub mod recent;
mod resemblance;
pub mod root;
pub mod scrub;
mod slab;
pub mod storage;
pub mod store;

pub use anchors::BYTES_PER_ANCHOR;
pub use back::{AnswerError, Answered, Measured, Taken, Wanted};
pub use codec::{CodecMemory, Effort};
pub use delta::{FoundMarks, SlabDelta};
pub use draft::{Draft, SlabReport, SlabScan};
pub use encoder::{EncodeError, Encoded, Encoder, EncoderOptions, Job, ParcelStats, Plan};
pub use erase::{Footprint, Leftovers, Purged};
pub use error::{IngestError, SealError, StoreError};
pub use fault::crash_point;
pub use generation::{Generation, GenerationStats, Lineage, NewGeneration, Sealed};
pub use id::*;
pub use ingest::{IngestReport, Workspace};
pub use keep::{GcPlan, Pace};
pub use keys::Keys;
pub use pack::PackError;
pub use root::{Progress, root_of};
pub use scrub::Damage;
pub use storage::{LocalPacks, PackClass, PackStorage, StorageError};
pub use store::{Content, Store, StoreOptions, StoreStats, View};
