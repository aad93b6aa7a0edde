//! One entry per decoder, for whoever throws garbage at it. None may panic, hang or allocate beyond its limits.

use crate::manifest::Unverified;
use crate::part;

/// A manifest.
pub fn manifest(input: &[u8]) {
    let _refused = Unverified::parse(input);
}

/// An index after its seal was opened: what an edge that seals garbage can bring.
pub fn index(input: &[u8]) {
    let _refused = part::decode_index(input);
}
