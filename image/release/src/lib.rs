//! Releases of the appliance's system, on a disk and as files. What is signed of one, and what is said of it on the line, is in [`wire::release`].
//!
//! * [`verity`]: the hash tree that proves an image.
//! * [`bundle`]: a release as one file.
//! * [`slots`]: the two slots of a disk and what the boot loader knows of them.
//! * [`install`]: a release into the other slot, for a trial.

pub mod bundle;
pub mod install;
pub mod slots;
pub mod verity;
