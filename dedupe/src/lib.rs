//! Chunking, the store, generations and the parcel codec. Synchronous; knows no network.

pub mod id;

pub use id::*;
