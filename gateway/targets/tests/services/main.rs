//! Every target against the real thing, or what comes closest, under one contract.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod azure;
mod client;
mod contract;
mod crashes;
mod ebs;
mod ebs_model;
mod faults;
mod libvirt;
mod local;
mod openstack;
mod qcow2;
mod s3;
mod service;
