//! Every target against the real thing, or what comes closest, under one contract.

mod contract;
mod local;
