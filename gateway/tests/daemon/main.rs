//! A real daemon over loopback, and a tiny edge made of the wire crate.

#![allow(clippy::unwrap_used)] // tests

mod api;
mod back;
mod client;
mod commands;
mod domains;
mod edge;
mod exports;
mod fuzz;
mod generations;
mod identities;
mod lines;
mod pages;
mod policies;
mod proofs;
mod releases;
mod retention;
mod schedule;
mod seeds;
mod targets;
mod telemetry;
mod world;
