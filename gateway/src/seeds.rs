//! Seeds by courier: generations that travel on media, and what came over the line for them meanwhile.

pub mod table;

pub use table::{Custody, Seed};
