//! One bit for each block, on disk in pages, of which some are in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a page: what is read and written at once. Speaks for 128 MiB of a volume.
const PAGE: usize = 4096;
const BITS: u64 = PAGE as u64 * 8;

/// Pages in memory: 16 MiB, the map of 512 GiB. Of larger volumes, what was not used lately is read again.
const MOST: usize = 4096;

struct Page {
    bits: Box<[u8; PAGE]>,
    /// Counts changes; 0 once what is here is on disk.
    changes: u64,
}

#[derive(Default)]
struct Pages {
    by_number: HashMap<u64, Page>,
    changed: usize,
}

pub(super) struct Map {
    /// Where the first page lies in the file.
    at: u64,
    pages: Mutex<Pages>,
}

/// A page as it was at one moment.
pub(super) struct Copy {
    number: u64,
    bits: Box<[u8; PAGE]>,
    changes: u64,
}

impl Map {
    /// A map that lies at `at` of a file.
    pub(super) fn new(at: u64) -> Map {
        Map { at, pages: Mutex::default() }
    }

    /// Whether `block` is set, and how many blocks from it on, up to `end`, are the same.
    pub(super) fn run(&self, file: &File, block: u64, end: u64) -> io::Result<(bool, u64)> {
        let mut pages = self.lock();
        let first = is_set(self.page(&mut pages, file, block / BITS)?, block % BITS);
        let mut at = block;
        while at < end {
            let bits = &self.page(&mut pages, file, at / BITS)?.bits;
            let from = at % BITS;
            let until = BITS.min(from + (end - at));
            let same = same(bits, from, until, first);
            at += same;
            if from + same < until {
                break;
            }
        }
        Ok((first, at - block))
    }

    /// Sets the bits of `from..to`, whose blocks have been written.
    pub(super) fn set(&self, file: &File, from: u64, to: u64) -> io::Result<()> {
        let mut pages = self.lock();
        let mut at = from;
        while at < to {
            let until = to.min((at / BITS + 1) * BITS);
            let page = self.page(&mut pages, file, at / BITS)?;
            let mut changed = false;
            for bit in at % BITS..at % BITS + (until - at) {
                changed |= !is_set(page, bit);
                page.bits[bit as usize / 8] |= 1 << (bit % 8);
            }
            if changed {
                page.changes += 1;
                let newly = page.changes == 1;
                pages.changed += usize::from(newly);
            }
            at = until;
        }
        Ok(())
    }

    /// Whether so many pages have changed that they should be written before more do: those in memory would outgrow their bound.
    pub(super) fn wants_flush(&self) -> bool {
        self.lock().changed > MOST / 2
    }

    /// Copies of the pages that have changed since they were last on disk.
    pub(super) fn changed(&self) -> Vec<Copy> {
        let pages = self.lock();
        let changed = pages.by_number.iter().filter(|(_, page)| page.changes > 0);
        changed.map(|(&number, page)| Copy { number, bits: page.bits.clone(), changes: page.changes }).collect()
    }

    /// Writes them. Pages that changed since the copy stay changed.
    pub(super) fn write(&self, file: &File, copies: &[Copy]) -> io::Result<()> {
        for copy in copies {
            file.write_all_at(&copy.bits[..], self.at + copy.number * PAGE as u64)?;
        }
        let mut pages = self.lock();
        for copy in copies {
            let page = pages.by_number.get_mut(&copy.number).expect("pages that have changed stay in memory");
            if page.changes == copy.changes {
                page.changes = 0;
                pages.changed -= 1;
            }
        }
        Ok(())
    }

    fn page<'a>(&self, pages: &'a mut Pages, file: &File, number: u64) -> io::Result<&'a mut Page> {
        if !pages.by_number.contains_key(&number) {
            if pages.by_number.len() >= MOST {
                pages.by_number.retain(|_, page| page.changes > 0);
            }
            let mut bits = Box::new([0; PAGE]);
            file.read_exact_at(&mut bits[..], self.at + number * PAGE as u64)?;
            pages.by_number.insert(number, Page { bits, changes: 0 });
        }
        Ok(pages.by_number.get_mut(&number).expect("it was put there"))
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_set(page: &Page, bit: u64) -> bool {
    page.bits[bit as usize / 8] & (1 << (bit % 8)) != 0
}

/// How many bits from `from` on, before `until`, are `set`; whole bytes at a time where they can be.
fn same(bits: &[u8; PAGE], from: u64, until: u64, set: bool) -> u64 {
    let whole = if set { 0xff } else { 0 };
    let mut at = from;
    while at < until {
        let byte = bits[at as usize / 8];
        if at.is_multiple_of(8) && byte == whole && at + 8 <= until {
            at += 8;
        } else if (byte & (1 << (at % 8)) != 0) == set {
            at += 1;
        } else {
            break;
        }
    }
    at - from
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of `blocks` at the beginning of a file.
    fn map(blocks: u64) -> (File, Map) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(blocks.div_ceil(BITS) * PAGE as u64).unwrap();
        (file, Map::new(0))
    }

    #[test]
    fn what_is_set_after_the_copy_is_not_written_with_it() {
        let (file, map) = map(2 * BITS);
        map.set(&file, 5, 6).unwrap();
        let copies = map.changed();
        map.set(&file, 6, 7).unwrap();
        map.write(&file, &copies).unwrap();
        let on_disk = Map::new(0);
        assert_eq!(on_disk.run(&file, 5, BITS).unwrap(), (true, 1));
        assert_eq!(map.run(&file, 5, BITS).unwrap(), (true, 2));
        // And it is not forgotten: the next flush has it.
        map.write(&file, &map.changed()).unwrap();
        assert_eq!(Map::new(0).run(&file, 5, BITS).unwrap(), (true, 2));
        assert!(map.changed().is_empty());
    }

    #[test]
    fn runs_go_on_across_bytes_and_pages() {
        let (file, map) = map(3 * BITS);
        map.set(&file, 3, 2 * BITS + 77).unwrap();
        assert_eq!(map.run(&file, 0, 3 * BITS).unwrap(), (false, 3));
        assert_eq!(map.run(&file, 3, 3 * BITS).unwrap(), (true, 2 * BITS + 74));
        assert_eq!(map.run(&file, 9, BITS).unwrap(), (true, BITS - 9));
        assert_eq!(map.run(&file, 2 * BITS + 77, 3 * BITS).unwrap(), (false, BITS - 77));
    }

    #[test]
    fn memory_is_bounded_and_what_left_it_is_read_again() {
        let pages = MOST as u64 + 100;
        let (file, map) = map(pages * BITS);
        for page in 0..pages {
            map.set(&file, page * BITS + 9, page * BITS + 10).unwrap();
            if map.wants_flush() {
                map.write(&file, &map.changed()).unwrap();
            }
        }
        assert!(map.lock().by_number.len() <= MOST);
        for page in 0..pages {
            assert_eq!(map.run(&file, page * BITS + 9, page * BITS + 20).unwrap(), (true, 1), "page {page}");
        }
    }
}
