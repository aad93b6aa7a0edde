//! The appliance at a site.

pub mod budget;
pub mod capture;
pub mod config;
mod files;
pub mod journal;
pub mod sender;
pub mod source;
pub mod spool;
pub mod text;
