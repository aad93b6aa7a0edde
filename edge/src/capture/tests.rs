#![allow(clippy::disallowed_methods, reason = "tests ask for the time themselves")]

use super::*;
use crate::source::careful::tests::Failing;
use crate::source::file::FileSource;
use dedupe::{Keys, Kind, Lineage, LocalPacks, StoreOptions, View};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    store: Arc<Store>,
    pub(crate) journal: Journal,
    pub(crate) lineage: LineageId,
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let packs = Arc::new(LocalPacks::open(&dir.path().join("packs")).unwrap());
        let index = dir.path().join("index.redb");
        let store = Store::open(&index, packs, Keys::new(1, [7; 32]), StoreOptions::default()).unwrap();
        let lineage = LineageId::random();
        let named = Lineage { id: lineage, kind: Kind::Volume, name: "disk".into(), site: None, fork_of: None };
        store.put_lineage(&named).unwrap();
        let journal = Journal::open(&dir.path().join("spool.redb")).unwrap();
        Place { dir, store, journal, lineage }
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    pub(crate) fn capture<'a>(&'a self, source: &'a dyn Source, progress: &'a Progress) -> Capture<'a> {
        Capture {
            store: &self.store,
            journal: &self.journal,
            lineage: self.lineage,
            source,
            place: self.image().display().to_string(),
            workers: 2,
            on_read_error: OnReadError::Stop,
            sampling: Sampling::default(),
            progress,
        }
    }

    fn run(&self) -> Result<Captured, CaptureError> {
        let source = FileSource::open(&self.image())?;
        self.capture(&source, &Progress::default()).run(|| UnixMillis(1))
    }

    pub(crate) fn bytes(&self, captured: &Captured) -> Vec<u8> {
        let view: View = self.store.view(captured.generation.id).unwrap();
        let mut bytes = vec![0; view.size().0 as usize];
        view.read(ByteOffset(0), &mut bytes).unwrap();
        bytes
    }
}

/// A sparse file of `len` bytes with data here and there, at offsets that fit no grain.
fn write_image(path: &Path, len: u64) {
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    for (at, size) in [(0, 70_000), (3 << 20, 4096), ((16 << 20) - 100, 9000), (40 << 20, 3 << 20)] {
        if at + size <= len {
            let bytes: Vec<u8> = (0..size).map(|i: u64| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
            file.write_all_at(&bytes, at).unwrap();
        }
    }
}

pub(crate) fn root_of(captured: &Captured) -> String {
    captured.generation.sealed.unwrap().root.to_string()
}

#[test]
fn the_generation_holds_the_file_and_the_root_is_its_hash() {
    let place = Place::new();
    write_image(&place.image(), (50 << 20) + 512);
    let captured = place.run().unwrap();
    let bytes = std::fs::read(place.image()).unwrap();
    assert_eq!(root_of(&captured), blake3::hash(&bytes).to_hex().to_string());
    assert!(place.bytes(&captured) == bytes);
    assert!(captured.dirty_bytes >= 3 << 20 && captured.dirty_bytes < 4 << 20, "{}", captured.dirty_bytes);
    let again = place.run().unwrap();
    assert_eq!((again.dirty_bytes, root_of(&again)), (0, root_of(&captured)));
    assert_eq!(again.generation.parent, Some(captured.generation.id));
}

#[test]
fn growing_shrinking_and_zeroing_are_followed() {
    let place = Place::new();
    write_image(&place.image(), 50 << 20);
    place.run().unwrap();
    let file = File::options().write(true).open(place.image()).unwrap();
    for len in [(60 << 20) + 1024, (33 << 20) + 512, 512, 20 << 20] {
        file.set_len(len).unwrap();
        file.write_all_at(&[5; 512], len - 512).unwrap();
        file.write_all_at(&[0; 512], 0).unwrap();
        let captured = place.run().unwrap();
        let bytes = std::fs::read(place.image()).unwrap();
        assert_eq!(root_of(&captured), blake3::hash(&bytes).to_hex().to_string(), "{len}");
        assert!(place.bytes(&captured) == bytes, "{len}");
    }
}

#[test]
fn holes_are_not_read() {
    let place = Place::new();
    File::create(place.image()).unwrap().set_len(16 << 30).unwrap();
    // Asked of the source itself: reading 16 GiB would also take a while.
    let began = Instant::now();
    let source = FileSource::open(&place.image()).unwrap();
    let counting = Counting { inner: source, read: AtomicU64::new(0) };
    let captured = place.capture(&counting, &Progress::default()).run(|| UnixMillis(1)).unwrap();
    assert_eq!(counting.read.load(Ordering::Relaxed), 0);
    assert_eq!(captured.dirty_bytes, 0);
    eprintln!("16 GiB of holes: {:?}", began.elapsed());
}

struct Counting {
    inner: FileSource,
    read: AtomicU64,
}

impl Source for Counting {
    fn size(&self) -> dedupe::ByteCount {
        self.inner.size()
    }
    fn block_size(&self) -> u32 {
        self.inner.block_size()
    }
    fn next_data(&self, within: Range<u64>) -> Result<Option<Range<u64>>, SourceError> {
        self.inner.next_data(within)
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), SourceError> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.inner.read_at(offset, buf)
    }
    fn check(&self) -> Result<(), SourceError> {
        self.inner.check()
    }
    fn identity(&self) -> Option<crate::source::Identity> {
        self.inner.identity()
    }
}

/// Stops the capture from within once `after` bytes were read.
struct Stopping<'a> {
    inner: Counting,
    after: u64,
    progress: &'a Progress,
}

impl Source for Stopping<'_> {
    fn size(&self) -> dedupe::ByteCount {
        self.inner.size()
    }
    fn block_size(&self) -> u32 {
        self.inner.block_size()
    }
    fn next_data(&self, within: Range<u64>) -> Result<Option<Range<u64>>, SourceError> {
        self.inner.next_data(within)
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), SourceError> {
        if self.inner.read.load(Ordering::Relaxed) >= self.after {
            self.progress.cancel();
        }
        self.inner.read_at(offset, buf)
    }
    fn check(&self) -> Result<(), SourceError> {
        self.inner.check()
    }
    fn identity(&self) -> Option<crate::source::Identity> {
        self.inner.identity()
    }
}

/// Stops when a quarter is read: until then no slab is complete, so each of the two workers has at most two of the four slabs when it
/// sees the stop, and at least one slab is left to be read.
fn stopped(place: &Place) {
    let after = 16 << 20;
    let progress = Progress::default();
    let inner = Counting { inner: FileSource::open(&place.image()).unwrap(), read: AtomicU64::new(0) };
    let source = Stopping { inner, after, progress: &progress };
    let result = place.capture(&source, &progress).run(|| UnixMillis(1));
    assert!(matches!(result, Err(CaptureError::Stopped)), "{:?}", result.map(|captured| captured.dirty_bytes));
}

fn full_image(place: &Place) {
    let bytes: Vec<u8> = (0..64u64 << 20).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 17) as u8).collect();
    std::fs::write(place.image(), bytes).unwrap();
}

#[test]
fn an_interrupted_capture_reads_nothing_twice() {
    let place = Place::new();
    full_image(&place);
    stopped(&place);
    let source = Counting { inner: FileSource::open(&place.image()).unwrap(), read: AtomicU64::new(0) };
    let captured = place.capture(&source, &Progress::default()).run(|| UnixMillis(1)).unwrap();
    let read = source.read.load(Ordering::Relaxed);
    assert!(read > 0 && read <= 48 << 20, "{read}");
    let bytes = std::fs::read(place.image()).unwrap();
    assert_eq!(root_of(&captured), blake3::hash(&bytes).to_hex().to_string());
}

#[test]
fn a_source_that_was_written_to_since_is_read_anew() {
    let place = Place::new();
    full_image(&place);
    stopped(&place);
    let file = File::options().write(true).open(place.image()).unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(1)).unwrap();
    let captured = place.run().unwrap();
    let bytes = std::fs::read(place.image()).unwrap();
    assert_eq!(root_of(&captured), blake3::hash(&bytes).to_hex().to_string());
}

#[test]
fn a_source_that_shrinks_while_read_leaves_no_generation_and_the_next_capture_works() {
    let place = Place::new();
    full_image(&place);
    let source = FileSource::open(&place.image()).unwrap();
    File::options().write(true).open(place.image()).unwrap().set_len(20 << 20).unwrap();
    let result = place.capture(&source, &Progress::default()).run(|| UnixMillis(1));
    assert!(matches!(result, Err(CaptureError::Source(SourceError::Shrank { .. }))));
    assert!(place.store.generations(place.lineage).unwrap().is_empty(), "the draft is gone");
    let captured = place.run().unwrap();
    assert_eq!(captured.generation.size.0, 20 << 20);
}

#[test]
fn unreadable_sectors_stop_the_capture_or_are_listed() {
    let place = Place::new();
    let bytes: Vec<u8> = (0..1u32 << 20).map(|at| 1 + (at / 512 % 255) as u8).collect();
    let source = Failing { bytes: bytes.clone(), bad: vec![3, 4, 900], reads: Mutex::default() };
    let progress = Progress::default();
    let mut capture = place.capture(&source, &progress);
    let refusal = capture.run(|| UnixMillis(1)).unwrap_err().to_string();
    assert!(refusal.contains("unreadable sectors: bytes 1536-2559, 460800-461311"), "{refusal}");
    assert!(refusal.contains("--on-read-error list"), "{refusal}");
    assert!(place.store.generations(place.lineage).unwrap().is_empty());

    capture.on_read_error = OnReadError::List;
    let captured = capture.run(|| UnixMillis(1)).unwrap();
    assert_eq!(captured.unreadable, [1536..2560, 460_800..461_312]);
    assert_eq!(place.journal.unreadable(captured.generation.id).unwrap(), captured.unreadable);
    let mut expected = bytes;
    captured.unreadable.iter().for_each(|range| expected[range.start as usize..range.end as usize].fill(0));
    assert!(place.bytes(&captured) == expected);
}

mod tracked;
