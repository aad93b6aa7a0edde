//! Garbage, mutated and truncated input to every decoder of what comes off the line: a minute in all, an hour with `--long`.
//!
//! Each round changes a few bytes of something valid. `dedupe/fuzz` and `gateway/wire/fuzz` have the same entries for a fuzzer that
//! looks at coverage.

use anyhow::{Context, Result};
use dedupe::{BLOCK, ByteCount, codec, parcel};
use lab::codec::Sender;
use lab::volumes::{Random, Sample};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For each of the six decoders.
fn share() -> Duration {
    if lab::long() { Duration::from_secs(600) } else { Duration::from_secs(10) }
}

/// A few flipped, replaced, inserted, removed or repeated bytes.
fn mutate(random: &mut Random, valid: &[u8]) -> Vec<u8> {
    let mut out = valid.to_vec();
    for _ in 0..random.within(1..5) {
        let at = random.below(out.len() + 1);
        let end = (at + random.below(9)).min(out.len());
        match random.below(6) {
            0 if at < out.len() => out[at] ^= 1 << random.below(8),
            1 if at < out.len() => out[at] = random.draw() as u8,
            2 => out.truncate(at),
            3 => {
                let noise = random.noise(4);
                out.splice(at..at, noise);
            }
            4 => out.drain(at..end).for_each(drop),
            _ => {
                let piece = out[at..end].to_vec();
                out.splice(at..at, piece);
            }
        }
    }
    out
}

fn feed(seed: u64, valid: &[Vec<u8>], decoder: impl Fn(&[u8])) {
    let (mut random, until) = (Random::new(seed, 77), Instant::now() + share());
    while Instant::now() < until {
        for _ in 0..200 {
            let input = if random.below(8) == 0 {
                let len = random.below(2000);
                random.noise(len)
            } else {
                let valid = random.pick(valid).clone();
                mutate(&mut random, &valid)
            };
            decoder(&input);
        }
    }
}

/// The messages whose bytes are kept beside the protocol.
fn golden() -> Result<Vec<Vec<u8>>> {
    let mut folders: Vec<PathBuf> = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/wire/golden")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { found.push(std::fs::read(&path)?) }
        }
    }
    Ok(found)
}

fn a_parcel() -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let sample = Sample::create(&folder.path().join("volume.img"), 8 << 20, 1)?;
    let sender = Sender::make(&folder.path().join("edge"), "disk", ByteCount(384 << 20), 1)?;
    let captured = sender.capture(sample.path())?;
    sender.first_parcel(&captured)
}

#[test]
fn no_decoder_of_the_protocol_falls_for_garbage() -> Result<()> {
    let valid = golden()?;
    feed(1, &valid, wire::fuzz::frames);
    feed(2, &valid, wire::fuzz::messages);
    feed(3, &[b"sluice1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_vec()], wire::fuzz::token);
    feed(4, &valid, wire::fuzz::certificate);
    Ok(())
}

#[test]
fn no_decoder_of_parcels_falls_for_garbage() -> Result<()> {
    let parcel = a_parcel()?;
    // The header is at the front: short pieces spend the time there, not on copying megabytes.
    let fronts: Vec<Vec<u8>> =
        [64, 256, 4096, 65536].iter().map(|len| parcel[..parcel.len().min(*len)].to_vec()).collect();
    feed(5, &fronts, |input| {
        if let Ok((header, payload)) = parcel::parse(input) {
            let again = parcel::assemble(&header, payload);
            assert_eq!(parcel::parse(&again), Ok((header, payload)));
        }
    });
    let payload = codec_of(&parcel)?;
    feed(6, &[payload], |input| {
        let blocks = 16;
        let mut bytes = Vec::new();
        if codec::decode(&[], input, blocks * BLOCK, &mut bytes).is_ok() {
            assert_eq!(bytes.len(), blocks * BLOCK);
        }
    });
    Ok(())
}

/// The first 64 KiB of the parcel's own payload: valid until they end.
fn codec_of(parcel: &[u8]) -> Result<Vec<u8>> {
    let (_, payload) = parcel::parse(parcel).ok().context("the parcel parses")?;
    Ok(payload[..payload.len().min(64 << 10)].to_vec())
}
