//! Volumes that the bench makes itself: what nothing shrinks, and what does not change.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};

use super::Volume;
use crate::volumes::{Random, Writer};

/// Name of the volume that no compressor makes smaller.
pub const NOISE: &str = "noise";
/// Name of the volume whose second generation is its first.
pub const UNCHANGED: &str = "unchanged";
/// Bytes made at a time.
const PIECE: u64 = 8 << 20;
/// The unchanging volume repeats this much text, each time under a number of its own: a large volume of cheap making.
const REPEATED: u64 = 64 << 20;

/// A volume of one generation: `size` bytes that look random.
pub fn noise(folder: &Path, size: u64) -> Result<Volume> {
    make(folder, NOISE, size, |piece| Random::new(11, piece).noise(PIECE as usize))
}

/// A volume of two generations: `size` bytes of data, the same both times.
pub fn unchanged(folder: &Path, size: u64) -> Result<Volume> {
    let writer = Writer::new();
    let texts: Vec<Vec<u8>> =
        (0..REPEATED / PIECE).map(|piece| writer.text(&mut Random::new(13, piece), PIECE as usize)).collect();
    let mut volume = make(folder, UNCHANGED, size, |piece| {
        let mut text = texts[(piece % (REPEATED / PIECE)) as usize].clone();
        text.chunks_mut(1 << 20).enumerate().for_each(|(at, part)| part[..16].copy_from_slice(&label(piece, at)));
        text
    })?;
    let again = volume.images[0].with_file_name("g1.img");
    symlink(&volume.images[0], &again)?;
    volume.images.push(again);
    Ok(volume)
}

fn label(piece: u64, at: usize) -> [u8; 16] {
    ((u128::from(piece) << 64) | at as u128 | 1 << 127).to_be_bytes()
}

fn make(folder: &Path, name: &str, size: u64, mut content: impl FnMut(u64) -> Vec<u8>) -> Result<Volume> {
    let folder = folder.join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("removing what an earlier run left in {}", folder.display()))?;
    }
    fs::create_dir_all(&folder)?;
    let image = folder.join("g0.img");
    let file = File::create(&image)?;
    for piece in 0..size.div_ceil(PIECE) {
        let at = piece * PIECE;
        let content = content(piece);
        file.write_all_at(&content[..PIECE.min(size - at) as usize], at)?;
    }
    Ok(Volume { name: name.into(), images: vec![image] })
}
