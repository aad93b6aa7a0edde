//! A parcel's payload: the first byte says how much of the input is prefix, the second how many blocks are expected.
#![no_main]

use dedupe::BLOCK;
use dedupe::codec::decode;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [share, blocks, rest @ ..] = input else { return };
    let (prefix, coded) = rest.split_at(rest.len() * usize::from(*share) / 256);
    let len = usize::from(*blocks) * BLOCK;
    if let Ok(bytes) = decode(prefix, coded, len) {
        assert_eq!(bytes.len(), len);
    }
});
