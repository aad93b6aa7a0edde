//! The lab: what the scenarios, benchmarks and the demo are made of.
//!
//! ```text
//!   appliance what an edge sees of the appliance's system
//!   browser   a real Chromium: pages, clicks, screenshots, what axe finds
//!   codec     capture, coding and ingest between two stores of this process
//!   nbd       NBD servers that others wrote
//!   index     the store's index at the size of 50 TB
//!   volumes   small realistic volumes, made in-process, that change as a working day changes them
//!   images    raw images as files: holes, copies, differences
//!   guest     a small Debian, booted by QEMU from wherever its disk is
//!   line      the emulated line: between namespaces, or as a relay in-process
//!   world     real daemons as processes: logs, metrics, crashes, ends
//!   wan       what generations cost on the wire, beside R and the peers
//!   year      a year of a site on a virtual clock
//!   report    figures for people
//! ```

#![allow(clippy::disallowed_methods, reason = "the lab watches real time")]

pub mod appliance;
pub mod browser;
pub mod codec;
pub mod guest;
pub mod images;
pub mod index;
pub mod line;
pub mod nbd;
pub mod report;
pub mod scale;
pub mod seeds;
pub mod volumes;
pub mod wan;
pub mod world;
pub mod year;

/// Says that a test cannot run here, and why; the test then returns. `tests/run` counts such lines, and CI accepts none.
pub fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Whether the long ladders are wanted (`tests/run --long`).
pub fn long() -> bool {
    std::env::var_os("SLUICE_LONG").is_some()
}
