//! What a blob holds and who fills it, as its metadata: the tags of the volume and, once whole, of the point; and beside them one entry of JSON.
//!
//! Names of metadata are identifiers (of C#), so `-` becomes `_`.

use super::blobs::Listed;
use crate::tags;
use crate::target::{Image, Point, Work};
use dedupe::{GenerationId, RunId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The entry beside the tags.
const FILLING: &str = "sluice_filling";
/// Number of its format.
const FORMAT: u32 = 1;
/// Runs that were given up, one after the other, before what the blob holds is taken as unknown: each one adds to what has to be written.
const MOST_OTHERS: usize = 16;

/// What was begun on a blob.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// The run that may go on, or that made it whole; `None`: it was given up.
    pub(super) run: Option<RunId>,
    /// What it held before; `None`: zeroes.
    pub(super) base: Option<Point>,
    /// Generations of which a part may be there.
    pub(super) others: Vec<GenerationId>,
    /// Whether what lies under them is unknown.
    pub(super) is_unknown: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    run: Option<String>,
    base: Option<BTreeMap<String, String>>,
    others: Vec<String>,
    unknown: bool,
}

impl Record {
    /// A run that begins on a base, over what other runs left.
    pub(super) fn begin(work: &Work, base: Option<Point>, mut others: Vec<GenerationId>) -> Record {
        let is_unknown = others.len() >= MOST_OTHERS;
        others.push(work.generation);
        Record { run: Some(work.run), base, others, is_unknown }
    }

    /// A blob's metadata while it is filled.
    pub(super) fn metadata(&self, image: &Image) -> Vec<(String, String)> {
        let base = self.base.as_ref().map(|base| {
            let tags = tags::of_generation(base).into_iter().map(|(name, value)| (name.to_owned(), value));
            tags.chain([("id".to_owned(), base.id.clone())]).collect()
        });
        let written = Written {
            format: FORMAT,
            run: self.run.map(|run| run.to_string()),
            base,
            others: self.others.iter().map(ToString::to_string).collect(),
            unknown: self.is_unknown,
        };
        let json = serde_json::to_string(&written).expect("a record is plain JSON");
        let mut metadata = named(tags::of_image(image));
        metadata.push((FILLING.into(), json));
        metadata
    }

    /// The same once it is whole. The point's id is not known yet.
    pub(super) fn metadata_of_point(&self, work: &Work, point: &Point) -> Vec<(String, String)> {
        let mut metadata = self.metadata(&work.image);
        metadata.extend(named(tags::of_generation(point)));
        metadata.push((name(tags::RUN), work.run.to_string()));
        metadata
    }

    /// The record of a blob; `None`: it is none of ours.
    pub(super) fn of(blob: &Listed) -> Option<Record> {
        let written: Written = serde_json::from_str(blob.metadata.get(FILLING)?).ok()?;
        if written.format != FORMAT || written.others.len() > MOST_OTHERS + 1 {
            return None;
        }
        let base = match &written.base {
            Some(tags) => Some(tags::point(tags.get("id")?, |name| tags.get(name).cloned())?),
            None => None,
        };
        Some(Record {
            run: written.run.map(|run| run.parse()).transpose().ok()?,
            base,
            others: written.others.iter().map(|other| other.parse()).collect::<Result<_, _>>().ok()?,
            is_unknown: written.unknown,
        })
    }
}

/// The point that a snapshot is, or that a whole blob is about to be.
pub(super) fn point(id: &str, listed: &Listed) -> Option<Point> {
    tags::point(id, |tag| listed.metadata.get(&name(tag)).cloned())
}

/// The run that made it.
pub(super) fn run(listed: &Listed) -> Option<RunId> {
    tags::run(|tag| listed.metadata.get(&name(tag)).cloned())
}

/// Whether it belongs to this volume.
pub(super) fn is_of(image: &Image, listed: &Listed) -> bool {
    tags::is_of(image, |tag| listed.metadata.get(&name(tag)).cloned())
}

fn named(tags: impl IntoIterator<Item = (&'static str, String)>) -> Vec<(String, String)> {
    tags.into_iter().map(|(tag, value)| (name(tag), value)).collect()
}

fn name(tag: &str) -> String {
    tag.replace('-', "_")
}
