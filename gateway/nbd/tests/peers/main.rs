//! NBD against the implementations that others use: QEMU's, libnbd's, nbdkit's and the kernel's client; and what no honest peer does.

#![allow(clippy::unwrap_used)] // tests

mod asking;
mod garbage;
mod overlays;
mod serving;
mod support;
