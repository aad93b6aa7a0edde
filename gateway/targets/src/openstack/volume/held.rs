//! What a volume holds, as its metadata says.

use super::{Metadata, owned};
use crate::tags;
use crate::target::{Image, Point, Start, Work};
use dedupe::{GenerationId, RunId};

/// The snapshot of the point that it holds.
const POINT: &str = "sluice-point";
/// Generations of which a part may lie on top, by commas.
const OTHERS: &str = "sluice-parts-of";
/// Bytes that were ever written, from the start on.
const REACH: &str = "sluice-reach";
/// What stands for parts of nobody knows what.
const ANYTHING: &str = "anything";
/// Generations that fit into one value of 255 bytes. More runs given up after each other than that, and the next one writes everything.
const MOST_OTHERS: usize = 6;
/// How all our keys begin.
const OURS: &str = "sluice-";

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    /// The point that is there, or was before parts of others came on top. `None`: zeroes.
    pub(crate) point: Option<Point>,
    /// The run that is filling it.
    pub(crate) run: Option<RunId>,
    /// Generations of which a part may be there. `None`: nobody knows.
    pub(crate) others: Option<Vec<GenerationId>>,
    /// Bytes from the start on that may be something else than zeroes.
    pub(crate) reach: u64,
}

impl Held {
    /// A new volume, made for a run; nobody looked yet what is in it.
    pub(crate) fn begun_anew(work: &Work) -> Held {
        Held { point: None, run: Some(work.run), others: None, reach: work.size.0 }
    }

    /// The same, and it reads as zeroes.
    pub(crate) fn blank(work: &Work) -> Held {
        Held { others: Some(vec![work.generation]), ..Held::begun_anew(work) }
    }

    /// Exactly this point.
    pub(crate) fn whole(point: Point) -> Held {
        let reach = point.size.0;
        Held { point: Some(point), run: None, others: Some(Vec::new()), reach }
    }

    /// What metadata says.
    pub(crate) fn of(metadata: &Metadata) -> Held {
        let get = |key: &str| metadata.get(key).cloned();
        let point = get(POINT).and_then(|id| tags::point(&id, get));
        let others = match get(OTHERS) {
            None => Some(Vec::new()),
            Some(list) => list.split(',').map(|id| id.parse().ok()).collect(),
        };
        // Without it: as far as anything can reach.
        let reach = get(REACH).and_then(|reach| reach.parse().ok()).unwrap_or(u64::MAX);
        Held { point, run: tags::run(get), others, reach }
    }

    /// The metadata for it. Entries that others made stay.
    pub(crate) fn into_metadata(self, before: Metadata, image: &Image) -> Metadata {
        let mut metadata: Metadata = before.into_iter().filter(|(key, _)| !key.starts_with(OURS)).collect();
        metadata.extend(tags::of_image(image).into_iter().map(owned));
        if let Some(point) = &self.point {
            metadata.extend(tags::of_generation(point).into_iter().map(owned));
            metadata.insert(POINT.into(), point.id.clone());
        }
        if let Some(run) = self.run {
            metadata.insert(tags::RUN.into(), run.to_string());
        }
        let others = match self.others {
            None => Some(ANYTHING.to_owned()),
            Some(others) if others.is_empty() => None,
            Some(others) => Some(others.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        };
        metadata.extend(others.map(|others| (OTHERS.to_owned(), others)));
        metadata.insert(REACH.into(), self.reach.to_string());
        metadata
    }

    /// What a run finds.
    pub(crate) fn start(&self, work: &Work) -> Start {
        if self.run == Some(work.run) {
            return Start::Resumed;
        }
        match (&self.point, &self.others) {
            (_, None) => Start::Unknown(
                "nobody knows what the volume holds: it was not looked at, or too many runs were given up".into(),
            ),
            (Some(point), Some(others)) if others.is_empty() => Start::Holds(point.clone()),
            (None, Some(others)) if others.is_empty() => Start::Unknown("nothing says what the volume holds".into()),
            (base, Some(others)) => Start::Between { base: base.clone(), others: others.clone() },
        }
    }

    /// Before the first byte of a run, or when it goes on.
    pub(crate) fn begin(self, work: &Work) -> Held {
        if self.run == Some(work.run) {
            return self;
        }
        let is_known = !matches!(self.start(work), Start::Unknown(_));
        let others = self.others.filter(|others| is_known && others.len() < MOST_OTHERS).map(|mut others| {
            others.retain(|other| *other != work.generation);
            others.push(work.generation);
            others
        });
        Held { point: self.point, run: Some(work.run), others, reach: self.reach.max(work.size.0) }
    }

    /// The run is given up; what it wrote stays.
    pub(crate) fn given_up(self) -> Held {
        Held { run: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::{ByteCount, LineageId, Root, RootScheme, UnixMillis};

    fn work(image: &Image, size: u64) -> Work {
        Work {
            run: RunId::random(),
            image: image.clone(),
            generation: GenerationId::random(),
            number: 7,
            captured: UnixMillis(1),
            root: Root { scheme: RootScheme::Blake3, hash: [3; 32] },
            size: ByteCount(size),
            base: None,
        }
    }

    #[test]
    fn what_a_volume_holds_survives_as_metadata_and_runs_given_up_are_remembered_until_they_are_too_many() {
        let image = Image { tenant: "t".into(), site: "s".into(), volume: "v".into(), lineage: LineageId::random() };
        let through = |held: Held| -> Held {
            let foreign = Metadata::from([("theirs".to_owned(), "1".to_owned())]);
            let metadata = held.into_metadata(foreign, &image);
            assert_eq!(metadata["theirs"], "1", "what others wrote stays");
            assert!(metadata.iter().all(|(key, value)| key.len() <= 255 && value.len() <= 255), "{metadata:?}");
            Held::of(&metadata)
        };
        let first = work(&image, 100);
        let held = through(Held::blank(&first));
        assert_eq!(held.start(&first), Start::Resumed);
        let given_up = through(held.given_up());
        let other = Start::Between { base: None, others: vec![first.generation] };
        assert_eq!(given_up.start(&work(&image, 1)), other);
        let given_up = through(Held::begun_anew(&first).given_up());
        assert!(matches!(given_up.start(&work(&image, 1)), Start::Unknown(_)), "nobody looked: {given_up:?}");
        let point = first.point("snapshot".into(), UnixMillis(2));
        let whole = through(Held::whole(point.clone()));
        let mut last = work(&image, 90);
        assert_eq!(whole.start(&last), Start::Holds(point.clone()));
        let mut held = whole;
        let mut others = Vec::new();
        for _ in 0..MOST_OTHERS {
            held = through(held.begin(&last));
            assert_eq!((held.start(&last), held.reach), (Start::Resumed, 100));
            held = through(held.given_up());
            others.push(last.generation);
            last = work(&image, 90);
            assert_eq!(held.start(&last), Start::Between { base: Some(point.clone()), others: others.clone() });
        }
        let held = through(held.begin(&last).given_up());
        assert!(matches!(held.start(&work(&image, 1)), Start::Unknown(_)), "{held:?}");
        let held = through(held.begin(&last).given_up());
        assert!(matches!(held.start(&work(&image, 1)), Start::Unknown(_)), "what is unknown stays so: {held:?}");
    }
}
