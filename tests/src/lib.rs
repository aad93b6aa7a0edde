//! The lab: what the scenarios, benchmarks and the demo are made of.

pub mod images;
pub mod line;
pub mod volumes;
pub mod world;
