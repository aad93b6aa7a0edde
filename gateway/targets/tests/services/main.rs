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
mod qcow2;
mod service;
mod s3;

/// One value of what `tests/services/up` wrote about a service, whose file the variable names; `None`, after saying so, without it.
fn service(variable: &str, name: &str) -> Option<String> {
    let Ok(path) = std::env::var(variable) else {
        eprintln!("skipped: {variable} is not set; `tests/services/up` starts the service");
        return None;
    };
    let text = std::fs::read_to_string(&path).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    Some(value.unwrap_or_else(|| panic!("{path} has no {name}")).to_owned())
}
