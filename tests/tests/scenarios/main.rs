//! What Sluice survives, over real processes. Each test is named for the promise that it proves; `SPECIFICATION.md` refers to them.
//!
//! One binary for all, because each links both daemons' libraries. Scenarios wait for events; the limits in them only bound how long a
//! failure takes.

#![allow(clippy::disallowed_methods, reason = "scenarios watch real time")]

mod branch;
mod clock;
mod crashes;
mod damage;
mod export;
mod garbage;
mod guests;
mod identity;
mod line;
mod line_test;
mod monitoring;
mod nbd;
mod openstack;
mod pages;
mod policy;
mod qemu;
mod restore;
mod room;
mod scheduler;
mod seeds;
mod seeds_lineage;
mod sources;
mod targets;
mod telemetry;
mod versions;
mod whole;
