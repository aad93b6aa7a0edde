//! Raw images as files: holes, copies and differences.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// What file systems and databases write in; differences are counted at this grain.
pub const BLOCK: u64 = 4096;
/// Bytes read at a time: large enough for the disk, small enough to stay in the cache.
const STRIDE: usize = 1 << 20;

/// The ranges of a file that hold data, in order. Everything between them is a hole and was not read.
pub fn data_ranges(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let size = file.metadata()?.len();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match lseek(file, at as i64, Whence::SeekData) {
            Ok(start) => start as u64,
            Err(Errno::ENXIO) => break, // nothing but a hole from here on
            Err(why) => return Err(why.into()),
        };
        at = lseek(file, start as i64, Whence::SeekHole).map_err(io::Error::from)? as u64;
        ranges.push((start, at));
    }
    Ok(ranges)
}

/// Copies an image; its holes stay holes.
pub fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = File::create(to)?;
    target.set_len(source.metadata()?.len())?;
    for_each_piece(&data_ranges(&source)?, |at, len| {
        let mut piece = vec![0; len];
        source.read_exact_at(&mut piece, at)?;
        target.write_all_at(&piece, at)
    })
}

/// How many bytes of `new` lie in 4 KiB blocks that differ from `old`; a block past the end of `old` differs from zeroes.
pub fn dirty_bytes(old: &Path, new: &Path) -> io::Result<u64> {
    let (old, new) = (File::open(old)?, File::open(new)?);
    let size = new.metadata()?.len();
    let mut ranges = data_ranges(&old)?;
    ranges.extend(data_ranges(&new)?);
    let mut dirty = 0;
    for_each_piece(&merged(ranges, size), |at, len| {
        let (mut before, mut after) = (vec![0; len], vec![0; len]);
        read_or_zero(&old, at, &mut before)?;
        read_or_zero(&new, at, &mut after)?;
        dirty += before
            .chunks(BLOCK as usize)
            .zip(after.chunks(BLOCK as usize))
            .filter(|(before, after)| before != after)
            .map(|(_, after)| after.len() as u64)
            .sum::<u64>();
        Ok(())
    })?;
    Ok(dirty)
}

/// Bytes of the blocks that hold anything but zeroes: what a first generation has to bring.
pub fn used_bytes(image: &Path) -> io::Result<u64> {
    let file = File::open(image)?;
    let mut used = 0;
    for_each_piece(&data_ranges(&file)?, |at, len| {
        let mut piece = vec![0; len];
        file.read_exact_at(&mut piece, at)?;
        used += piece
            .chunks(BLOCK as usize)
            .filter(|block| block.iter().any(|byte| *byte != 0))
            .map(|block| block.len() as u64)
            .sum::<u64>();
        Ok(())
    })?;
    Ok(used)
}

/// Whether two files hold the same bytes; holes count as zeroes.
pub fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    if std::fs::metadata(one)?.len() != std::fs::metadata(other)?.len() {
        return Ok(false);
    }
    Ok(dirty_bytes(one, other)? == 0)
}

/// Joins ranges that touch, aligned to blocks and cut at `size`, in order.
fn merged(mut ranges: Vec<(u64, u64)>, size: u64) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        let (start, end) = (start / BLOCK * BLOCK, end.next_multiple_of(BLOCK).min(size));
        match out.last_mut() {
            _ if start >= end => {}
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

fn for_each_piece(ranges: &[(u64, u64)], mut each: impl FnMut(u64, usize) -> io::Result<()>) -> io::Result<()> {
    for (start, end) in ranges {
        let mut at = *start;
        while at < *end {
            let len = (end - at).min(STRIDE as u64) as usize;
            each(at, len)?;
            at += len as u64;
        }
    }
    Ok(())
}

/// Fills `buf` from `at` on; what lies past the end of the file is zeroes.
fn read_or_zero(file: &File, at: u64, buf: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    buf[done..].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(dir: &Path, name: &str, size: u64, pieces: &[(u64, &[u8])]) -> std::path::PathBuf {
        let path = dir.join(name);
        let file = File::create(&path).unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
        path
    }

    #[test]
    fn counts_blocks_that_differ_and_sees_holes_as_zeroes() {
        let dir = tempfile::tempdir().unwrap();
        let size = 8 << 20;
        let old = image(dir.path(), "old", size, &[(0, &[1; 4096]), (1 << 20, &[0; 8192]), (5 << 20, b"x")]);
        let new = image(dir.path(), "new", size, &[(0, &[1; 4096]), (3_000_000, b"yy"), (5 << 20, b"z")]);
        assert_eq!(dirty_bytes(&old, &new).unwrap(), 2 * BLOCK);
        assert!(!same_bytes(&old, &new).unwrap());
        assert_eq!(used_bytes(&old).unwrap(), 2 * BLOCK);
        let copy = dir.path().join("copy");
        copy_sparse(&new, &copy).unwrap();
        assert!(same_bytes(&new, &copy).unwrap());
    }

    #[test]
    fn a_longer_image_differs_where_it_is_longer() {
        let dir = tempfile::tempdir().unwrap();
        let old = image(dir.path(), "old", 4096, &[(0, b"a")]);
        let new = image(dir.path(), "new", 3 * 4096 + 512, &[(0, b"a"), (3 * 4096, b"tail")]);
        assert_eq!(dirty_bytes(&old, &new).unwrap(), 512);
    }
}
