//! Captures of a source that follows its changes: an image file with a tracker that says what the test tells it to.

use super::*;
use crate::source::tracking::{Changes, Tracking};
use std::sync::atomic::AtomicBool;

const SIZE: u64 = (64 << 20) + 512;

/// An image file, and a log of what was written to it.
struct Disk {
    inner: Counting,
    /// Ranges that were written; a stamp is how many there were.
    log: Mutex<Vec<Range<u64>>>,
    /// Ranges that were read, in the order in which they were asked for.
    reads: Mutex<Vec<Range<u64>>>,
    done: Mutex<Vec<GenerationId>>,
    /// What the tracker cannot do, and why.
    begins: Option<&'static str>,
    tells: Option<&'static str>,
    /// It cannot say anything any more once it was asked about a slab.
    forgets: AtomicBool,
    /// Written as soon as somebody reads, and told of after that.
    meanwhile: Mutex<Option<u64>>,
}

impl Disk {
    fn open(place: &Place) -> Disk {
        let inner = FileSource::open(&place.image()).unwrap();
        Disk {
            inner: Counting { inner, read: AtomicU64::new(0) },
            log: Mutex::default(),
            reads: Mutex::default(),
            done: Mutex::default(),
            begins: None,
            tells: None,
            forgets: AtomicBool::new(false),
            meanwhile: Mutex::default(),
        }
    }

    /// The same disk at the next capture.
    fn again(self, place: &Place) -> Disk {
        Disk { log: Mutex::new(self.log.into_inner().unwrap()), ..Disk::open(place) }
    }

    fn read(&self) -> u64 {
        self.inner.read.load(Ordering::Relaxed)
    }

    fn write(&self, place: &Place, at: u64, bytes: &[u8]) {
        write(place, at, bytes);
        self.log.lock().unwrap().push(at..at + bytes.len() as u64);
    }
}

/// Writes what no tracker notices.
fn write(place: &Place, at: u64, bytes: &[u8]) {
    File::options().write(true).open(place.image()).unwrap().write_all_at(bytes, at).unwrap();
}

impl Source for Disk {
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
        if let Some(at) = self.meanwhile.lock().unwrap().take() {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(self.inner.inner.file()));
            File::options().write(true).open(path).unwrap().write_all_at(&[0x77; 4096], at).unwrap();
            self.log.lock().unwrap().push(at..at + 4096);
        }
        self.reads.lock().unwrap().push(offset.0..offset.0 + buf.len() as u64);
        self.inner.read_at(offset, buf)
    }
    fn check(&self) -> Result<(), SourceError> {
        self.inner.check()
    }
    fn identity(&self) -> Option<crate::source::Identity> {
        self.inner.identity()
    }
    fn tracking(&self) -> Option<&dyn Tracking> {
        Some(self)
    }
}

impl Tracking for Disk {
    fn begin(&self) -> Result<Stamp, Unknown> {
        match self.begins {
            Some(why) => Err(Unknown(why.into())),
            None => Ok(Stamp((self.log.lock().unwrap().len() as u64).to_le_bytes().into())),
        }
    }
    fn changed_since(&self, stamp: &Stamp) -> Result<Box<dyn Changes + '_>, Unknown> {
        if let Some(why) = self.tells {
            return Err(Unknown(why.into()));
        }
        let since = u64::from_le_bytes(stamp.0.as_slice().try_into().unwrap()) as usize;
        Ok(Box::new(Since { disk: self, told: united(self.log.lock().unwrap()[since..].iter().cloned()) }))
    }
    fn done(&self, generation: GenerationId, _stamp: &Stamp) {
        self.done.lock().unwrap().push(generation);
    }
}

struct Since<'a> {
    disk: &'a Disk,
    told: Vec<Range<u64>>,
}

impl Changes for Since<'_> {
    fn bytes(&self) -> u64 {
        self.told.iter().map(|range| range.end - range.start).sum()
    }
    fn within(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, Unknown> {
        if self.disk.forgets.load(Ordering::Relaxed) && range.start > 0 {
            return Err(Unknown("the bitmap is gone".into()));
        }
        let clipped = self.told.iter().map(|told| told.start.max(range.start)..told.end.min(range.end));
        Ok(clipped.filter(|clipped| !clipped.is_empty()).collect())
    }
}

/// A unit of each capture: one of 65.
const ONE_UNIT: Sampling = Sampling { captures: 1000, most: dedupe::ByteCount(1 << 20) };

fn seeded() -> (Place, Disk) {
    let place = Place::new();
    let bytes: Vec<u8> = (0..SIZE).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 17) as u8).collect();
    std::fs::write(place.image(), bytes).unwrap();
    let disk = Disk::open(&place);
    let captured = capture(&place, &disk, ONE_UNIT);
    assert_eq!(captured.how, How::Reread { why: "it is the first capture".into() });
    let disk = disk.again(&place);
    (place, disk)
}

fn try_capture(place: &Place, disk: &Disk, sampling: Sampling) -> Result<Captured, CaptureError> {
    let progress = Progress::default();
    let captured = Capture { sampling, ..place.capture(disk, &progress) }.run(|| UnixMillis(1))?;
    assert_eq!(captured.read_bytes, disk.read());
    Ok(captured)
}

/// Captures, and compares with the file.
fn capture(place: &Place, disk: &Disk, sampling: Sampling) -> Captured {
    let captured = try_capture(place, disk, sampling).unwrap();
    assert_is_the_file(place, &captured);
    captured
}

fn assert_is_the_file(place: &Place, captured: &Captured) {
    let bytes = std::fs::read(place.image()).unwrap();
    assert_eq!(root_of(captured), blake3::hash(&bytes).to_hex().to_string());
    assert!(place.bytes(captured) == bytes, "the generation is not the file");
}

fn why(captured: &Captured) -> &str {
    match &captured.how {
        How::Reread { why } => why,
        how => panic!("not everything was read: {how:?}"),
    }
}

#[test]
fn what_changed_is_read_with_a_sample_and_the_rest_is_kept() {
    let (place, disk) = seeded();
    disk.write(&place, 5 << 20, &[1; 4096]);
    disk.write(&place, (20 << 20) + 100, &[2; 70_000]);
    disk.write(&place, SIZE - 512, &[3; 512]);
    disk.write(&place, 40 << 20, &[0; 1 << 20]);
    let captured = capture(&place, &disk, ONE_UNIT);
    let changed = 4096 + 70_000 + 512 + (1 << 20);
    assert_eq!(captured.how, How::Changes { changed_bytes: changed, sampled_bytes: 1 << 20 });
    // Whole leaves of 32 KiB around what changed, and the sample.
    let most = 32768 + 4 * 32768 + 512 + (1 << 20) + (1 << 20);
    assert!((changed..=most).contains(&disk.read()), "{}", disk.read());
    assert_eq!(captured.dirty_bytes, 4096 + 18 * 4096 + 4096 + (1 << 20));
    assert_eq!(*disk.done.lock().unwrap(), [captured.generation.id]);
    // Nothing changed: only the sample is read.
    let disk = disk.again(&place);
    let captured = capture(&place, &disk, ONE_UNIT);
    assert_eq!((captured.dirty_bytes, disk.read()), (0, 1 << 20));
}

#[test]
fn slabs_that_were_all_zeroes_come_to_hold_data_by_their_changes_alone() {
    let place = Place::new();
    File::create(place.image()).unwrap().set_len(40 << 20).unwrap();
    let disk = Disk::open(&place);
    capture(&place, &disk, ONE_UNIT);
    let disk = disk.again(&place);
    disk.write(&place, (16 << 20) + 8192, &[9; 4096]);
    capture(&place, &disk, ONE_UNIT);
    let disk = disk.again(&place);
    disk.write(&place, (16 << 20) + 8192, &[0; 4096]);
    let captured = capture(&place, &disk, ONE_UNIT);
    assert_eq!(captured.dirty_bytes, 4096);
}

#[test]
fn whatever_is_unclear_makes_it_read_everything_and_say_why() {
    let (place, mut disk) = seeded();
    disk.begins = Some("the bitmap is inconsistent");
    assert_eq!(why(&capture(&place, &disk, ONE_UNIT)), "the bitmap is inconsistent");
    // The generation that is built on has no stamp then, and nothing is known since.
    let mut disk = disk.again(&place);
    assert_eq!(why(&capture(&place, &disk, ONE_UNIT)), "nothing is known of changes since generation 2");
    disk = disk.again(&place);
    disk.tells = Some("the bitmap is missing");
    assert_eq!(why(&capture(&place, &disk, ONE_UNIT)), "the bitmap is missing");
    // A generation that somebody captured without the tracker.
    disk = disk.again(&place);
    write(&place, 9 << 20, &[4; 4096]);
    place.run().unwrap();
    assert_eq!(why(&capture(&place, &disk, ONE_UNIT)), "nothing is known of changes since generation 5");
    disk = disk.again(&place);
    disk.forgets = true.into();
    disk.write(&place, 50 << 20, &[5; 4096]);
    assert_eq!(why(&capture(&place, &disk, ONE_UNIT)), "the bitmap is gone");
    // It grows.
    File::options().write(true).open(place.image()).unwrap().set_len(SIZE + 512).unwrap();
    disk = disk.again(&place);
    assert!(why(&capture(&place, &disk, ONE_UNIT)).starts_with("the size changed from 67109376"));
    disk = disk.again(&place);
    assert!(matches!(capture(&place, &disk, ONE_UNIT).how, How::Changes { .. }));
}

#[test]
fn a_stamp_is_only_believed_for_the_generation_that_is_built_on() {
    let (place, disk) = seeded();
    disk.write(&place, 3 << 20, &[1; 4096]);
    // A capture that ends before it is sealed: its stamp is there, and belongs to nothing.
    let progress = Progress::default();
    let stopping = place.journal.tracks(place.lineage).unwrap();
    let shrunk = File::options().write(true).open(place.image()).unwrap();
    shrunk.set_len(1 << 20).unwrap();
    assert!(place.capture(&disk, &progress).run(|| UnixMillis(1)).is_err());
    assert_eq!(place.journal.tracks(place.lineage).unwrap(), stopping);
    shrunk.set_len(SIZE).unwrap();
    for slab in [0u64, 1, 2, 3] {
        // What shrinking took is gone; the tracker says so.
        disk.log.lock().unwrap().push(slab * (16 << 20)..(slab + 1) * (16 << 20));
    }
    disk.log.lock().unwrap().push(64 << 20..SIZE);
    let disk = disk.again(&place);
    let captured = capture(&place, &disk, ONE_UNIT);
    assert!(matches!(captured.how, How::Changes { .. }), "the parent's stamp is still there");
    // A stamp under another generation's id.
    place
        .journal
        .change_tracks(place.lineage, |tracks| {
            let kept = tracks.of(captured.generation.id).unwrap().clone();
            tracks.keep(Kept { generation: GenerationId([9; 16]), ..kept }, None);
        })
        .unwrap();
    let disk = disk.again(&place);
    assert_eq!(why(&capture(&place, &disk, ONE_UNIT)), "nothing is known of changes since generation 2");
}

#[test]
fn sectors_that_could_not_be_read_are_tried_again_though_nothing_changed_there() {
    let (place, disk) = seeded();
    let parent = place.store.latest(place.lineage).unwrap().unwrap();
    let bad = (30 << 20) + 512..(30 << 20) + 1024;
    place.journal.set_unreadable(parent.id, std::slice::from_ref(&bad)).unwrap();
    let captured = capture(&place, &disk, ONE_UNIT);
    let tried = disk.reads.lock().unwrap().iter().any(|range| range.contains(&((30 << 20) + 512)));
    assert!(tried && captured.demoted.is_none());
}

/// The largest sample: all of it.
const EVERYTHING: Sampling = Sampling { captures: 1, most: dedupe::ByteCount(1 << 40) };

#[test]
fn a_lie_ends_the_belief_and_is_repaired_in_the_capture_that_finds_it() {
    let (place, disk) = seeded();
    let disk = {
        disk.write(&place, 1 << 20, &[1; 4096]);
        capture(&place, &disk, ONE_UNIT);
        disk.again(&place)
    };
    write(&place, 33 << 20, &[7; 8192]);
    disk.write(&place, 2 << 20, &[1; 4096]);
    let captured = capture(&place, &disk, EVERYTHING);
    let demoted = captured.demoted.clone().unwrap();
    assert_eq!((demoted.generation, demoted.whole), (3, Some(1)));
    assert_eq!(demoted.ranges, "34603008-34611199");
    assert_eq!(why(&captured), demoted.to_string());
    assert!(demoted.to_string().contains("generations after 1 and before it may lack some"), "{demoted}");
    assert_eq!(captured.generation.parent, place.store.generations(place.lineage).unwrap()[1].id.into());
    // Everything is read from then on, until somebody says otherwise, and then the stamps are there.
    let disk = disk.again(&place);
    assert_eq!(why(&capture(&place, &disk, ONE_UNIT)), demoted.to_string());
    assert_eq!(disk.read(), SIZE);
    place.journal.change_tracks(place.lineage, |tracks| tracks.demoted = None).unwrap();
    let disk = disk.again(&place);
    assert!(matches!(capture(&place, &disk, ONE_UNIT).how, How::Changes { .. }));
}

#[test]
fn a_lie_beside_a_change_in_the_same_leaf_is_one_too() {
    let (place, disk) = seeded();
    disk.write(&place, 1 << 20, &[1; 4096]);
    write(&place, (1 << 20) + 8192, &[7; 512]);
    let captured = capture(&place, &disk, ONE_UNIT);
    assert_eq!(captured.demoted.unwrap().ranges, "1056768-1060863");
}

#[test]
fn a_demotion_outlives_a_capture_that_fails_after_it() {
    let (place, disk) = seeded();
    write(&place, 33 << 20, &[7; 8192]);
    let progress = Progress::default();
    // Stopped between finding the lie and reading everything.
    let stopping = Stopping {
        inner: Counting { inner: FileSource::open(&place.image()).unwrap(), read: AtomicU64::new(0) },
        after: SIZE,
        progress: &progress,
    };
    let both = Both { disk: &disk, stopping };
    let capture_ended = Capture { sampling: EVERYTHING, ..place.capture(&both, &progress) }.run(|| UnixMillis(1));
    assert!(matches!(capture_ended, Err(CaptureError::Stopped)));
    assert!(place.journal.tracks(place.lineage).unwrap().demoted.is_some());
    let disk = disk.again(&place);
    assert!(why(&capture(&place, &disk, ONE_UNIT)).contains("missed changes at bytes 34603008-34611199"));
}

/// Reads by the one, tracks by the other.
struct Both<'a> {
    disk: &'a Disk,
    stopping: Stopping<'a>,
}

impl Source for Both<'_> {
    fn size(&self) -> dedupe::ByteCount {
        self.disk.size()
    }
    fn block_size(&self) -> u32 {
        512
    }
    fn next_data(&self, within: Range<u64>) -> Result<Option<Range<u64>>, SourceError> {
        self.disk.next_data(within)
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), SourceError> {
        self.stopping.read_at(offset, buf)
    }
    fn check(&self) -> Result<(), SourceError> {
        Ok(())
    }
    fn identity(&self) -> Option<crate::source::Identity> {
        None
    }
    fn tracking(&self) -> Option<&dyn Tracking> {
        self.disk.tracking()
    }
}

#[test]
fn what_is_written_while_it_is_captured_is_no_lie_if_the_tracker_tells_of_it_later() {
    let (place, disk) = seeded();
    disk.write(&place, 1 << 20, &[1; 4096]);
    *disk.meanwhile.lock().unwrap() = Some(60 << 20);
    let captured = try_capture(&place, &disk, EVERYTHING).unwrap();
    assert!(captured.demoted.is_none() && matches!(captured.how, How::Changes { .. }), "{:?}", captured.how);
    let disk = disk.again(&place);
    capture(&place, &disk, ONE_UNIT);
}

/// The promise of [`sample::Sampling::cover`], with real captures: one wrong block, wherever it is.
#[test]
fn one_wrong_block_is_found_within_the_captures_that_read_everything_once() {
    let (place, mut disk) = seeded();
    let sampling = Sampling { captures: 8, ..Sampling::default() };
    assert_eq!(sampling.cover(dedupe::ByteCount(SIZE)), 8);
    write(&place, 47 << 20, &[7; 512]);
    let mut captures = 0;
    loop {
        captures += 1;
        assert!(captures <= 8, "not found");
        if try_capture(&place, &disk, sampling).unwrap().demoted.is_some() {
            break;
        }
        disk = disk.again(&place);
    }
    assert_is_the_file(&place, &try_capture(&place, &disk.again(&place), sampling).unwrap());
}
