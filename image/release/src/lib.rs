//! Releases of the appliance's system, on a disk and as files. What is signed of one, and what is said of it on the line, is in [`wire::release`].
//!
//! * [`verity`]: the hash tree that proves an image.
//! * [`bundle`]: a release as one file.
//! * [`slots`]: the two slots of a disk and what the boot loader knows of them.
//! * [`install`]: a release into the other slot, for a trial.
//! * [`report`]: what the part that has root and the daemon say to each other.
//! * [`machine`]: this machine as an appliance. [`upgrade`]: another release on it.

pub mod bundle;
pub mod install;
pub mod machine;
pub mod report;
pub mod slots;
pub mod upgrade;
pub mod verity;
