//! Every target against the real thing, or what comes closest, under one contract.

mod client;
mod contract;
mod faults;
mod local;
