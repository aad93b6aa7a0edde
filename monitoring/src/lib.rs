//! What an operator's tools can ask a daemon: figures at `/metrics`, readiness at `/health`; and its log. Knows no other crate of ours.
//!
//! A daemon makes one [`Registry`] and one [`Health`], hands them to its components, and runs [`serve`]. There is no global registry: each component
//! has a struct of its own with the metrics that it owns, registered where the component is built, so that two daemons may live in one process.
//!
//! ```
//! # use monitoring::{IntCounter, IntCounterVec, MetricError, Registry};
//! struct Metrics {
//!     bytes: IntCounter,
//!     refusals: IntCounterVec,
//! }
//!
//! impl Metrics {
//!     fn new(registry: &Registry) -> Result<Self, MetricError> {
//!         Ok(Self {
//!             bytes: registry.counter("sluice_gateway_ingest_bytes_total", "Raw bytes decoded and verified.")?,
//!             refusals: registry.counters("sluice_gateway_refusals_total", "Offers that were refused, by reason.", &["reason"])?,
//!         })
//!     }
//! }
//! # let registry = Registry::new();
//! # let metrics = Metrics::new(&registry).unwrap();
//! # metrics.bytes.inc_by(4096);
//! # metrics.refusals.with_label_values(&["wrong_base"]).inc();
//! # assert!(registry.exposition().unwrap().contains("sluice_gateway_ingest_bytes_total 4096"));
//! ```
//!
//! # Names
//!
//! [`Registry`] refuses what breaks these rules, so that dashboards and alerts can rely on them:
//!
//! - `sluice_<component>_<what>_<unit>`, lower case with single underscores; `process_` for what every process has.
//! - Base units, spelled out, last: `_seconds`, `_bytes`, `_bits_per_second`, `_ratio` (0 to 1). Never milliseconds, KiB or percent. What is merely
//!   counted has no unit: `sluice_gateway_sites_connected`. Points in time are `_timestamp_seconds`, since 1970.
//! - Counters end in `_total` (after the unit), and nothing else does.
//! - Labels have few values, known when the code is written, or as many as there are volumes or sites; never an id of a parcel or generation.
//!   A name or address that an outsider chooses is no label value.

mod health;
#[cfg(test)]
mod kit_tests;
mod log;
mod page;
mod process;
mod recent;
mod registry;
mod server;
mod within;

pub use health::{Check, CheckReport, Health, HealthReport};
pub use log::{LogFormat, ParseLogFormatError, start_log, start_log_keeping};
pub use page::Page;
pub use process::{MemoryUse, register_process};
pub use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
pub use recent::Recent;
pub use registry::{MetricError, Registry};
pub use server::{ServeError, bind, exposition, router, serve, serve_routes};
pub use within::{Limited, Limits, Peer, Seat, serve_within};
