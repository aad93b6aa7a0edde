//! Reading what a failing medium still gives: in ever smaller pieces, and never pretending.

use super::{SECTOR, Source, SourceError, Wanted};
use dedupe::ByteOffset;
use std::ops::Range;

/// Sizes that a failed read is tried again with. A drive spends seconds on each bad sector, so most good ones should come in large pieces.
const PIECES: [usize; 3] = [64 << 10, 4 << 10, SECTOR as usize];

/// Fills `buf` from `offset` on. Where the medium fails, tries again in pieces down to a sector; the sectors that stay unreadable are
/// returned, in address order, joined where they touch, and are zero in `buf`. The caller decides what that means; any other failure is an error.
pub fn read(source: &dyn Source, offset: ByteOffset, buf: &mut [u8]) -> Result<Vec<Range<u64>>, SourceError> {
    match source.read_at(offset, buf) {
        Ok(()) => Ok(Vec::new()),
        Err(error) if error.is_medium() => {
            let mut bad = Vec::new();
            in_pieces(source, offset, buf, &PIECES, &mut bad)?;
            Ok(bad)
        }
        Err(error) => Err(error),
    }
}

/// As [`read`], for several ranges in address order.
pub fn read_all(source: &dyn Source, wanted: &mut [Wanted<'_>]) -> Result<Vec<Range<u64>>, SourceError> {
    match source.read_all(wanted) {
        Err(error) if error.is_medium() => {
            let mut bad = Vec::new();
            for (offset, buf) in wanted {
                read(source, *offset, buf)?.into_iter().for_each(|range| join(&mut bad, range));
            }
            Ok(bad)
        }
        done => done.map(|()| Vec::new()),
    }
}

fn in_pieces(
    source: &dyn Source,
    offset: ByteOffset,
    buf: &mut [u8],
    pieces: &[usize],
    bad: &mut Vec<Range<u64>>,
) -> Result<(), SourceError> {
    let Some((&size, smaller)) = pieces.split_first() else {
        buf.fill(0);
        join(bad, offset.0..offset.0 + buf.len() as u64);
        return Ok(());
    };
    let mut at = offset.0;
    for piece in buf.chunks_mut(size) {
        match source.read_at(ByteOffset(at), piece) {
            Ok(()) => {}
            Err(error) if error.is_medium() => in_pieces(source, ByteOffset(at), piece, smaller, bad)?,
            Err(error) => return Err(error),
        }
        at += piece.len() as u64;
    }
    Ok(())
}

/// Adds a range behind those that are there.
pub(crate) fn join(ranges: &mut Vec<Range<u64>>, next: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::source::Identity;
    use dedupe::ByteCount;
    use std::sync::Mutex;

    /// A medium with bad sectors, in memory: no kernel here can be told to fail on purpose.
    pub(crate) struct Failing {
        pub(crate) bytes: Vec<u8>,
        pub(crate) bad: Vec<u64>,
        pub(crate) reads: Mutex<Vec<(u64, usize)>>,
    }

    impl Source for Failing {
        fn size(&self) -> ByteCount {
            ByteCount(self.bytes.len() as u64)
        }
        fn block_size(&self) -> u32 {
            512
        }
        fn next_data(&self, within: Range<u64>) -> Result<Option<Range<u64>>, SourceError> {
            Ok(Some(within).filter(|within| !within.is_empty()))
        }
        fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), SourceError> {
            self.reads.lock().unwrap().push((offset.0, buf.len()));
            let range = offset.0..offset.0 + buf.len() as u64;
            if self.bad.iter().any(|sector| range.start < (sector + 1) * SECTOR && sector * SECTOR < range.end) {
                let source = std::io::Error::from_raw_os_error(5);
                return Err(SourceError::Read { path: "disk".into(), offset: offset.0, len: buf.len(), source });
            }
            buf.copy_from_slice(&self.bytes[range.start as usize..range.end as usize]);
            Ok(())
        }
        fn check(&self) -> Result<(), SourceError> {
            Ok(())
        }
        fn identity(&self) -> Option<Identity> {
            None
        }
    }

    fn medium(bad: &[u64]) -> Failing {
        let bytes = (0..1 << 20).map(|at: u32| 1 + (at / 512 % 255) as u8).collect();
        Failing { bytes, bad: bad.to_vec(), reads: Mutex::default() }
    }

    #[test]
    fn a_good_medium_is_read_once() {
        let source = medium(&[]);
        let mut buf = vec![0; 1 << 20];
        assert_eq!(read(&source, ByteOffset(0), &mut buf).unwrap(), []);
        assert_eq!(buf, source.bytes);
        assert_eq!(source.reads.lock().unwrap().len(), 1);
    }

    #[test]
    fn only_the_bad_sectors_are_given_up() {
        let source = medium(&[3, 4, 900]);
        let mut buf = vec![0xff; (1 << 20) - 1024];
        let bad = read(&source, ByteOffset(1024), &mut buf).unwrap();
        assert_eq!(bad, [3 * 512..5 * 512, 900 * 512..901 * 512]);
        for (at, byte) in buf.iter().enumerate() {
            let at = at + 1024;
            let expected = if bad.iter().any(|range| range.contains(&(at as u64))) { 0 } else { source.bytes[at] };
            assert_eq!(*byte, expected, "byte {at}");
        }
        // 16 large pieces, and small ones only around what failed.
        assert!(source.reads.lock().unwrap().len() < 90, "{}", source.reads.lock().unwrap().len());
    }

    #[test]
    fn another_failure_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("short.img");
        std::fs::write(&path, [1; 512]).unwrap();
        let source = crate::source::file::FileSource::open(&path).unwrap();
        assert!(matches!(read(&source, ByteOffset(0), &mut [0; 1024]), Err(SourceError::Shrank { .. })));
    }
}
