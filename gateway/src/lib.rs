//! The gateway: takes generations in from edges, keeps them, and gives them back byte for byte.

pub mod ca;
pub mod catalogue;
pub mod config;
pub mod files;
pub mod ingest;
pub mod packs;
pub mod text;
