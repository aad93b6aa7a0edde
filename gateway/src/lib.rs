//! The gateway: takes generations in from edges, keeps them, and gives them back byte for byte.
//!
//! ```text
//!   server ── accepts ──► session   control connections, one per site      live: who is connected
//!                    ├──► data      parcels ──► incoming (parts on disk) ──► ingest (sized pool) ──► dedupe::Store
//!                    └──► enrol     tokens ──► catalogue, ca
//!   downlink                        the lines to the sites, at what their policies say
//!   grants, brake                   the gateway's own line among its edges; who takes more than its share is read no faster
//!   policies                        what lines may be used for, signed for their edges, and the evidence of what they were used for
//!   telemetry, scrape               what edges tell of themselves; their pages for Prometheus
//!   figures, windows                what the gateway itself knows of each site and volume, for Prometheus
//!   proofs                          what the gateway states and signs for whoever asks in years
//!   retention                       what may not be deleted, what is to be, and how a site ends
//!   releases                        systems of the appliance: imported, coded against each other, rolled out in rings
//!   seeds                           generations that travel on media, and what came over the line for them meanwhile
//!   rehydrate                       a generation ──► a file or block device
//!   admin                           one request enum, handled in one place, over a socket or in the command's own process
//!   access                          who may do what, and what needs a second person
//!   fleet, jobs                     what is going on at all sites; long work that was asked for from afar
//!   web, api, ui                    pages and API over HTTP
//!   daemon, workers                 everything together, until it is asked to stop
//! ```

pub mod access;
pub mod admin;
pub mod api;
mod back;
pub mod backup;
mod brake;
pub mod ca;
pub mod catalogue;
pub mod config;
pub mod daemon;
mod data;
mod downlink;
pub mod enrol;
pub mod export;
mod figures;
pub mod files;
pub mod fleet;
mod grants;
pub mod incoming;
pub mod ingest;
pub mod jobs;
pub mod live;
pub mod metrics;
pub mod policies;
pub mod proofs;
pub mod rehydrate;
pub mod releases;
mod repairs;
pub mod retention;
mod scrape;
pub mod seeds;
mod server;
mod session;
pub mod state;
pub mod telemetry;
pub mod text;
mod ui;
pub mod web;
pub mod windows;
pub mod workers;

pub use config::Config;
pub use daemon::{Daemon, StartError};
