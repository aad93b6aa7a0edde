//! A parcel's header off the wire: what parses assembles to a parcel that parses to the same.
#![no_main]

use dedupe::parcel::{assemble, parse};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok((header, payload)) = parse(input) {
        let again = assemble(&header, payload);
        assert_eq!(parse(&again), Ok((header, payload)));
    }
});
