#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| dedupe::fuzz::carried(input));
