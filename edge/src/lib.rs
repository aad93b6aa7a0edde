//! The appliance at a site: captures volumes into a local store and brings each generation to the gateway over a thin line.
//!
//! ```text
//!   source ──► capture ──► dedupe::Store ──► sender + pipeline ──► spool ──► link ═══ gateway
//! ```
//!
//! * [`config`], [`budget`]: what the operator says, and how the memory ceiling is dealt out.
//! * [`source`], [`capture`], [`tracks`]: where bytes come from; a volume becomes a generation; what changed since the last one.
//! * [`volumes`], [`state`], [`journal`], [`spool`], [`identity`]: everything durable.
//! * [`sender`]: what is done next for a volume, as a pure state machine; `pipeline` does it; [`pace`] chooses the coder's effort.
//! * [`link`], [`mod@enrol`]: the line to the gateway. [`restore`]: generations back to the branch. [`shipments`]: seeds by courier. [`appliance`]: another release of the box's own system.
//! * [`daemon`]: all of it together. [`status`], [`admin`], [`metrics`], [`figures`], [`page`], [`diagnostics`]: how it is seen and asked.

pub mod admin;
pub mod appliance;
mod arriving;
pub mod budget;
pub mod capture;
pub mod config;
pub mod daemon;
pub mod diagnostics;
pub mod enrol;
pub mod export;
pub mod figures;
mod files;
pub mod freeze;
mod gate;
mod goodput;
pub mod identity;
pub mod journal;
mod keeper;
pub mod line;
pub mod line_test;
pub mod link;
pub mod metrics;
pub mod pace;
pub mod page;
mod pipeline;
pub mod restore;
pub mod seeding;
pub mod sender;
pub mod shipments;
pub mod source;
pub mod spool;
pub mod state;
pub mod status;
pub mod text;
pub mod tracks;
pub mod volume;
pub mod volumes;
mod worker;

pub use config::Config;
pub use daemon::{CaptureReport, Daemon, DaemonError, Extent, StartError};
pub use enrol::enrol;
pub use pipeline::SpoolOrStore;
pub use status::Status;
