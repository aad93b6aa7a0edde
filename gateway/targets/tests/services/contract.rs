//! What every target has to fulfil, whatever it is: run against each of them.

use dedupe::{ByteCount, ByteOffset, GenerationId, LineageId, Root, RootScheme, RunId, UnixMillis};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use targets::{Filling, Image, Keeps, Notes, Point, Start, Target, TargetError, Work};

/// A run's notes, which outlive its target as a catalogue's rows outlive a process.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Option<String>>);

impl Notes for Kept {
    fn get(&self) -> Option<String> {
        self.0.lock().unwrap().clone()
    }

    fn put(&self, notes: &str) -> Result<(), TargetError> {
        assert!(notes.len() <= targets::target::MOST_NOTES);
        *self.0.lock().unwrap() = Some(notes.to_owned());
        Ok(())
    }
}

/// A volume with its generations, made from a seed.
pub(crate) struct Volume {
    pub(crate) image: Image,
    generations: HashMap<GenerationId, Vec<u8>>,
    made: u64,
}

impl Volume {
    pub(crate) fn new(name: &str) -> Volume {
        let image = Image {
            tenant: "bank".into(),
            site: "branch-07".into(),
            volume: name.into(),
            lineage: LineageId::random(),
        };
        Volume { image, generations: HashMap::new(), made: 0 }
    }

    /// A generation with these bytes.
    pub(crate) fn generation(&mut self, bytes: Vec<u8>) -> Work {
        self.made += 1;
        let work = Work {
            run: RunId::random(),
            image: self.image.clone(),
            generation: GenerationId::random(),
            number: self.made,
            captured: UnixMillis(1_800_000_000_000 + self.made),
            root: Root { scheme: RootScheme::Blake3, hash: *blake3::hash(&bytes).as_bytes() },
            size: ByteCount(bytes.len() as u64),
            base: None,
        };
        self.generations.insert(work.generation, bytes);
        work
    }

    pub(crate) fn bytes(&self, generation: GenerationId) -> &[u8] {
        &self.generations[&generation]
    }

    /// Units in which two generations differ; behind the end of the shorter one are zeroes.
    fn changed(&self, from: Option<GenerationId>, to: GenerationId, unit: usize) -> Vec<usize> {
        let (old, new) = (from.map_or(&[][..], |from| self.bytes(from)), self.bytes(to));
        let of = |bytes: &[u8], at: usize| -> Vec<u8> {
            let mut unit = bytes.get(at * unit..).map_or(&[][..], |rest| &rest[..rest.len().min(unit)]).to_vec();
            while unit.last() == Some(&0) {
                unit.pop();
            }
            unit
        };
        (0..new.len().div_ceil(unit)).filter(|at| of(old, *at) != of(new, *at)).collect()
    }
}

/// Bytes that no two seeds share, with holes.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    for (at, piece) in bytes.chunks_mut(64 << 10).enumerate() {
        if at % 4 != 3 {
            reader.fill(piece);
        }
    }
    bytes
}

/// How far a run goes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Until {
    /// So many units are applied and flushed, then the target is dropped as a killed process drops it.
    Applied(usize),
    Completed,
    Finished,
}

/// A small engine: what the gateway's does, without its store. Returns what the place held and the units that were written.
pub(crate) fn fill(
    target: &dyn Target,
    volume: &Volume,
    work: &Work,
    notes: &Kept,
    until: Until,
) -> Result<(Start, usize, Option<Point>), TargetError> {
    let shape = target.shape();
    let unit = shape.unit as usize;
    assert!(unit.is_power_of_two() && unit >= 512 && shape.most.is_multiple_of(unit) && shape.parallel >= 1);
    let (start, filling) = target.prepare(work, notes)?;
    let all = 0..volume.bytes(work.generation).len().div_ceil(unit);
    let todo: Vec<usize> = match &start {
        Start::Finished(point) => return Ok((start.clone(), 0, Some(point.clone()))),
        Start::Zeroes => volume.changed(None, work.generation, unit),
        Start::Holds(point) => volume.changed(Some(point.generation), work.generation, unit),
        Start::Between { base, others } => {
            let base = base.as_ref().map(|point| point.generation);
            let mut units = volume.changed(base, work.generation, unit);
            for other in others {
                // Where the other differs from the base, and where it is longer than what is wanted now, nothing is known.
                units.extend(volume.changed(base, *other, unit).into_iter().filter(|at| all.contains(at)));
            }
            units.sort_unstable();
            units.dedup();
            units
        }
        Start::Unknown(_) | Start::Resumed => all.collect(),
    };
    let most = if let Until::Applied(most) = until { most } else { todo.len() };
    for at in todo.iter().take(most) {
        apply(&*filling, volume.bytes(work.generation), *at, unit)?;
    }
    filling.flush()?;
    if let Until::Applied(_) = until {
        return Ok((start, most.min(todo.len()), None));
    }
    filling.complete()?;
    let is_held = read(&*filling, work)? == volume.bytes(work.generation);
    assert!(is_held, "what was completed reads back");
    if until == Until::Completed {
        return Ok((start, todo.len(), None));
    }
    let point = filling.finish(UnixMillis(1_800_000_001_000))?;
    Ok((start, todo.len(), Some(point)))
}

fn apply(filling: &dyn Filling, bytes: &[u8], at: usize, unit: usize) -> Result<(), TargetError> {
    let range = at * unit..((at + 1) * unit).min(bytes.len());
    match bytes[range.clone()].iter().all(|byte| *byte == 0) {
        true => filling.zero(range.start as u64..range.end as u64),
        false => filling.apply(ByteOffset(range.start as u64), &bytes[range]),
    }
}

fn read(filling: &dyn Filling, work: &Work) -> Result<Vec<u8>, TargetError> {
    let mut bytes = vec![0; work.size.0 as usize];
    for (at, piece) in bytes.chunks_mut(1 << 20).enumerate() {
        let range: Range<u64> = (at << 20) as u64..(at << 20) as u64 + piece.len() as u64;
        filling.read(ByteOffset(range.start), piece)?;
        if filling.is_hole(range) {
            assert!(piece.iter().all(|byte| *byte == 0), "a hole reads as zeroes");
        }
    }
    Ok(bytes)
}

/// The whole contract. `open` makes the target anew, as a new process does.
pub(crate) fn holds(open: &dyn Fn() -> Box<dyn Target>, size: usize) {
    check(open, size, true);
}

/// The same for a target of which each point is a whole copy.
pub(crate) fn holds_in_whole_copies(open: &dyn Fn() -> Box<dyn Target>, size: usize) {
    check(open, size, false);
}

fn check(open: &dyn Fn() -> Box<dyn Target>, size: usize, builds_on_points: bool) {
    let keeps = open().shape().keeps;
    let unit = open().shape().unit as usize;
    let description = open().describe().unwrap();
    assert!(description.checks.iter().all(|check| check.wrong.is_none()), "{description:?}");

    // A whole copy, which is no point before it is finished.
    let mut volume = Volume::new("data");
    let first = volume.generation(noise(1, size));
    let notes = Kept::default();
    assert_eq!(open().points(&volume.image).unwrap(), []);
    let (start, ..) = fill(&*open(), &volume, &first, &notes, Until::Completed).unwrap();
    assert_eq!(start, Start::Zeroes);
    assert_eq!(open().points(&volume.image).unwrap(), [], "what is not finished is no point");
    let (start, _, point) = fill(&*open(), &volume, &first, &notes, Until::Finished).unwrap();
    assert_eq!(start, Start::Resumed, "the same run goes on");
    let held = open().points(&volume.image).unwrap();
    assert_eq!(held, [point.unwrap()]);
    assert_eq!((held[0].generation, held[0].root, held[0].number), (first.generation, first.root, 1));

    // A delta: in proportion to what changed.
    let mut bytes = volume.bytes(first.generation).to_vec();
    bytes[unit / 2..unit / 2 + 100].fill(7);
    bytes[size - 100..].fill(9);
    let second = Work { base: Some(held[0].clone()), ..volume.generation(bytes) };
    let expected = if builds_on_points { Start::Holds(held[0].clone()) } else { Start::Zeroes };
    assert_eq!(open().look(&second).unwrap(), expected);
    let notes = Kept::default();
    let (start, written, _) = fill(&*open(), &volume, &second, &notes, Until::Applied(1)).unwrap();
    assert_eq!((start, written), (expected, 1));
    assert!(open().points(&volume.image).unwrap().iter().all(|point| point.generation != second.generation));
    let (start, _, point) = fill(&*open(), &volume, &second, &notes, Until::Finished).unwrap();
    assert_eq!(start, Start::Resumed);
    let second_point = point.unwrap();
    check_points(&*open(), &volume, keeps, &[first.generation, second.generation]);

    // Finished, but the engine was killed before it wrote that down.
    let (start, ..) = fill(&*open(), &volume, &second, &notes, Until::Finished).unwrap();
    assert!(
        matches!(&start, Start::Finished(point) | Start::Holds(point) if point.generation == second.generation),
        "{start:?}"
    );
    check_points(&*open(), &volume, keeps, &[first.generation, second.generation]);

    // A run that is given up, twice, and then the next generation, which has grown.
    let mut bytes = volume.bytes(second.generation).to_vec();
    bytes[..3 * unit.min(size / 4)].fill(3);
    let third = Work { base: Some(second_point.clone()), ..volume.generation(bytes.clone()) };
    let notes = Kept::default();
    fill(&*open(), &volume, &third, &notes, Until::Applied(2)).unwrap();
    open().abandon(&third, &notes).unwrap();
    open().abandon(&third, &notes).unwrap();
    assert!(open().points(&volume.image).unwrap().iter().all(|point| point.generation != third.generation));
    bytes = volume.bytes(second.generation).to_vec();
    bytes[2 * unit.min(size / 4)..][..10].fill(4);
    bytes.resize(size + 3 * unit, 5);
    let fourth = Work { base: Some(second_point.clone()), ..volume.generation(bytes) };
    let (_, _, point) = fill(&*open(), &volume, &fourth, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(point.unwrap().size, fourth.size);
    check_points(&*open(), &volume, keeps, &[first.generation, second.generation, fourth.generation]);

    // Another volume in the same place, given up before anything of it was finished.
    let mut other = Volume::new("other");
    let lone = other.generation(noise(2, size));
    let notes = Kept::default();
    fill(&*open(), &other, &lone, &notes, Until::Applied(3)).unwrap();
    open().abandon(&lone, &notes).unwrap();
    assert_eq!(open().points(&other.image).unwrap(), []);
    check_points(&*open(), &volume, keeps, &[first.generation, second.generation, fourth.generation]);

    // Points are removed, oldest first, and again without harm.
    for point in open().points(&volume.image).unwrap() {
        open().remove(&point).unwrap();
        open().remove(&point).unwrap();
        assert!(open().points(&volume.image).unwrap().iter().all(|left| left.generation != point.generation));
    }
    assert_eq!(open().points(&volume.image).unwrap(), []);
}

fn check_points(target: &dyn Target, volume: &Volume, keeps: Keeps, expected: &[GenerationId]) {
    let held: Vec<GenerationId> =
        target.points(&volume.image).unwrap().into_iter().map(|point| point.generation).collect();
    match keeps {
        Keeps::Many => assert_eq!(held, expected),
        Keeps::One => assert_eq!(held, expected[expected.len() - 1..]),
    }
}
