//! Garbage, truncated and mutated input to every decoder, from fixed seeds. Long runs come with the fuzz package.

#![allow(clippy::unwrap_used)] // tests

use std::path::Path;
use wire::identity::{Authority, Bearer, Key};
use wire::token::Token;

/// SplitMix64: enough for inputs, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// A few changes, insertions and cuts.
    fn mutate(&mut self, input: &[u8]) -> Vec<u8> {
        let mut out = input.to_vec();
        for _ in 0..1 + self.below(4) {
            let at = self.below(out.len());
            match self.below(5) {
                0 if !out.is_empty() => out[at] ^= 1 << self.below(8),
                1 if !out.is_empty() => out[at] = self.next() as u8,
                2 => out.insert(at.min(out.len()), 0xff),
                3 => out.truncate(at),
                _ => {
                    let piece = self.bytes(4);
                    out.splice(at.min(out.len())..at.min(out.len()), piece);
                }
            }
        }
        out
    }
}

const DECODERS: [fn(&[u8]); 5] =
    [wire::fuzz::frames, wire::fuzz::messages, wire::fuzz::telemetry, wire::fuzz::token, wire::fuzz::certificate];

fn samples() -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                let body = &bytes[wire::frame::HEADER..];
                samples.push(body.to_vec());
                if let (true, Ok(len)) = (path.ends_with("from-edge/telemetry.bin"), u8::try_from(body.len())) {
                    samples.push([&[len], body].concat()); // as `wire::fuzz::telemetry` reads it
                }
                samples.push(bytes);
            }
        }
    }
    assert!(samples.len() > 60, "the golden files are the seeds");
    let token = Token::random(vec!["gateway.example:9470".into()], [1; 32]);
    samples.push(token.reveal().as_bytes().to_vec());
    let authority = Authority::generate("test", dedupe::UnixMillis(1_900_000_000_000)).unwrap();
    let bearer = Bearer { tenant: dedupe::TenantId([1; 16]), site: dedupe::SiteId([2; 16]) };
    let request = Key::generate().unwrap().request().unwrap();
    let issued = authority.sign_edge(&request, bearer, dedupe::UnixMillis(1_900_000_000_000)).unwrap();
    samples.push(issued.certificate);
    samples
}

#[test]
fn no_decoder_falls_for_random_bytes() {
    let mut random = Random(1);
    for _ in 0..20_000 {
        let len = random.below(200);
        let input = random.bytes(len);
        DECODERS.iter().for_each(|decoder| decoder(&input));
    }
}

#[test]
fn no_decoder_falls_for_mutated_messages() {
    let samples = samples();
    let mut random = Random(2);
    for _ in 0..40_000 {
        let sample = &samples[random.below(samples.len())];
        let input = random.mutate(sample);
        DECODERS.iter().for_each(|decoder| decoder(&input));
    }
}

#[test]
fn no_decoder_falls_for_truncated_messages() {
    for sample in samples() {
        for len in 0..sample.len() {
            DECODERS.iter().for_each(|decoder| decoder(&sample[..len]));
        }
    }
}

#[test]
fn huge_counts_in_small_messages_allocate_little() {
    // Variant, id, then a count of 2^60 marks: the decoder must not believe it.
    for variant in 0..14u8 {
        let mut input = vec![variant, 1];
        input.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
        input.extend([0xff; 64]);
        wire::fuzz::messages(&input);
    }
}
