//! x
/// m
pub const WORKER_MEMORY: usize = 448 << 20;
