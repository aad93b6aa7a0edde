//! An S3-compatible store: each generation one object, the volume's raw bytes.
//!
//! Objects are put by multipart upload. Parts that did not change are copied by the store from the base's object, so that only what changed goes over the
//! line. Beside a finished object lies a small one, `….json`, that says what it is: an object without it is no point. See `docs/design/clouds.md` for the steps
//! and what a crash at each of them costs.

mod api;
mod filling;

use crate::aws::{Account, Service};
use crate::credentials::Credentials;
use crate::error::TargetError;
use crate::http;
use crate::tags;
use crate::target::{Check, Description, Filling, Image, Keeps, Notes, Point, Shape, Start, Target, Work};
use api::{Api, Listed};
use dedupe::GenerationId;
use filling::Open;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Parts of one object at most (Amazon S3: multipart upload limits).
pub(crate) const MOST_PARTS: u64 = 10_000;
/// MiB of a part, without a setting: volumes of up to 156 GiB.
const PART_MIB: u64 = 16;
/// MiB of a part at least and at most. Amazon S3 takes 5 MiB at least; a part is held in memory by each thread.
const PARTS_MIB: std::ops::RangeInclusive<u64> = 8..=512;
/// Requests at once.
const PARALLEL: usize = 8;
/// Bytes of a `….json` at most.
const MOST_SIBLING: u64 = 64 << 10;
/// What a run's notes are called in their first field, so that those of another make are not misread.
const NOTES: u32 = 1;

/// Where objects are put, as it stands in the target's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Settings {
    /// The bucket. It has to be there.
    pub bucket: String,
    /// What all keys begin with, without slashes at its ends. May be empty.
    #[serde(default)]
    pub prefix: String,
    /// The store's address, `https://host:port`; without it Amazon S3 of the region. Buckets are named in the path.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The region, as `eu-central-1`; without it `AWS_DEFAULT_REGION` of the credentials. Stores without regions take `us-east-1`.
    #[serde(default)]
    pub region: Option<String>,
    /// MiB of a part, a power of two from 8 to 512. An object has 10,000 parts at most, so this bounds the volumes.
    #[serde(default = "part_mib")]
    pub part_mib: u64,
}

fn part_mib() -> u64 {
    PART_MIB
}

/// See the module's documentation.
#[derive(Debug)]
pub struct S3 {
    settings: S3Settings,
    api: Api,
}

/// A run's notes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Memory {
    version: u32,
    /// The upload that is under way.
    upload: Option<String>,
    /// From which object unchanged parts are copied.
    source: Option<Source>,
    /// The point that the run builds on.
    base: Option<Point>,
    /// The object was asked to be put together, so that what lies under its key is of this run.
    is_completing: bool,
}

/// An object of which parts are copied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Source {
    key: String,
    size: u64,
}

/// What a `….json` says.
#[derive(Debug, Serialize, Deserialize)]
struct Sibling {
    version: u32,
    tags: BTreeMap<String, String>,
}

/// What lies below a volume's folder.
struct Survey {
    /// Points, oldest first.
    points: Vec<Point>,
    objects: Vec<Listed>,
}

impl S3 {
    /// # Errors
    /// [`TargetError::Credentials`] for `AWS_ACCESS_KEY_ID` or `AWS_SECRET_ACCESS_KEY` that are missing, [`TargetError::Unfit`] for settings that cannot be.
    pub fn new(settings: S3Settings, credentials: &Credentials, options: http::Options) -> Result<S3, TargetError> {
        let unfit = |said: String| Err(TargetError::Unfit(said));
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if settings.bucket.is_empty() || !settings.bucket.chars().all(is_name) {
            return unfit(format!("`{}` is no bucket's name", settings.bucket));
        }
        let is_prefix = settings.prefix.is_empty()
            || settings.prefix.split('/').all(|part| !matches!(part, "" | "." | "..") && part.chars().all(is_name));
        if !is_prefix || settings.prefix.len() > 200 {
            return unfit(format!(
                "`{}` is no prefix; use letters, digits, `-`, `_` and `.`, with `/` between parts",
                settings.prefix
            ));
        }
        if !settings.part_mib.is_power_of_two() || !PARTS_MIB.contains(&settings.part_mib) {
            return unfit(format!("`part_mib` is {}; set a power of two from 8 to 512", settings.part_mib));
        }
        let account = Account::read(credentials, settings.region.as_deref())?;
        let endpoint = settings.endpoint.clone().unwrap_or_else(|| account.endpoint("s3"));
        let service = Service::new("S3", "s3", &account, &endpoint, &options)?;
        let api = Api { service, bucket: settings.bucket.clone() };
        Ok(S3 { settings, api })
    }

    /// Bytes of a part.
    fn part(&self) -> u64 {
        self.settings.part_mib << 20
    }

    fn folder(&self, image: &Image) -> String {
        match self.settings.prefix.as_str() {
            "" => format!("{}/", image.label()),
            prefix => format!("{prefix}/{}/", image.label()),
        }
    }

    fn key(&self, work: &Work) -> String {
        format!("{}{}-{}.raw", self.folder(&work.image), work.number, work.generation)
    }

    fn check_size(&self, work: &Work) -> Result<(), TargetError> {
        match work.size.0.div_ceil(self.part()) {
            1..=MOST_PARTS => Ok(()),
            0 => Err(TargetError::Unfit("a volume of no bytes makes no object".into())),
            _ => Err(TargetError::Unfit(format!(
                "the volume has {} bytes, more than {MOST_PARTS} parts of {} MiB; set a larger `part_mib` on the target",
                work.size, self.settings.part_mib
            ))),
        }
    }

    fn survey(&self, image: &Image) -> Result<Survey, TargetError> {
        let objects = self.api.list(&self.folder(image))?;
        let mut points = Vec::new();
        for object in objects.iter().filter(|object| generation_of(&object.key).is_some()) {
            let sibling = sibling(&object.key);
            if !objects.iter().any(|other| other.key == sibling && other.size <= MOST_SIBLING) {
                continue;
            }
            let Some(text) = self.api.get_small(&sibling, MOST_SIBLING)? else { continue };
            let Ok(said) = serde_json::from_slice::<Sibling>(&text) else { continue };
            let get = |name: &str| said.tags.get(name).cloned();
            let point = tags::point(&object.key, get).filter(|_| tags::is_of(image, get));
            points.extend(point.filter(|point| point.size.0 == object.size));
        }
        points.sort_by_key(|point| (point.number, point.made));
        Ok(Survey { points, objects })
    }

    /// Removes what runs left behind that are dead: there is one at a time. `but` is what the run that begins keeps.
    fn sweep(&self, work: &Work, survey: &Survey, but: &Memory) -> Result<(), TargetError> {
        let key = self.key(work);
        for (other, upload) in self.api.uploads(&self.folder(&work.image))? {
            if other != key || Some(&upload) != but.upload.as_ref() {
                self.api.abort(&other, &upload)?;
            }
        }
        let is_point = |key: &str| survey.points.iter().any(|point| point.id == key);
        for object in &survey.objects {
            let raw = object.key.strip_suffix(filling::ZEROES).unwrap_or(&object.key);
            let is_ours = generation_of(raw).is_some() && !(raw == object.key && is_point(raw));
            if is_ours && !(object.key == key && but.is_completing) {
                self.api.delete(&object.key)?;
            }
        }
        Ok(())
    }

    /// Whether the notes' run can be gone on with, and whether its object is put together.
    fn is_there(&self, work: &Work, survey: &Survey, memory: &Memory) -> Result<(bool, bool), TargetError> {
        let key = self.key(work);
        let is_open = match &memory.upload {
            Some(upload) => self.api.parts(&key, upload)?.is_some(),
            None => false,
        };
        let size = work.size.0;
        let is_whole =
            memory.is_completing && survey.objects.iter().any(|object| object.key == key && object.size == size);
        Ok((is_open, is_whole))
    }
}

impl Target for S3 {
    fn shape(&self) -> Shape {
        let part = self.part();
        Shape { kind: "s3", unit: part, most: part as usize, parallel: PARALLEL, keeps: Keeps::Many }
    }

    fn describe(&self) -> Result<Description, TargetError> {
        let wrong = match self.api.try_list(&self.settings.prefix) {
            Err(TargetError::Cancelled) => return Err(TargetError::Cancelled),
            asked => asked.err().map(|error| error.to_string()),
        };
        let place = format!("{}/{}/{}", self.api.service.place(), self.settings.bucket, self.settings.prefix);
        let checks = vec![Check { what: "the bucket can be listed".into(), wrong }];
        Ok(Description { place, checks, room: None })
    }

    fn points(&self, image: &Image) -> Result<Vec<Point>, TargetError> {
        Ok(self.survey(image)?.points)
    }

    fn look(&self, work: &Work) -> Result<Start, TargetError> {
        self.check_size(work)?;
        let survey = self.survey(&work.image)?;
        if let Some(point) = survey.points.iter().find(|point| point.generation == work.generation) {
            return Ok(Start::Finished(point.clone()));
        }
        Ok(base(work, &survey.points).map_or(Start::Zeroes, Start::Holds))
    }

    fn prepare<'a>(&'a self, work: &Work, notes: &'a dyn Notes) -> Result<(Start, Box<dyn Filling + 'a>), TargetError> {
        self.check_size(work)?;
        let survey = self.survey(&work.image)?;
        let noted = get_notes(notes)?;
        let fresh = Memory { version: NOTES, upload: None, source: None, base: None, is_completing: false };
        if let Some(point) = survey.points.iter().find(|point| point.generation == work.generation) {
            self.sweep(work, &survey, &fresh)?;
            return Ok((Start::Finished(point.clone()), Box::new(Open::finished(self, work, notes, fresh, point)?)));
        }
        if let Some(mut memory) = noted {
            let (is_open, is_whole) = self.is_there(work, &survey, &memory)?;
            if is_open || is_whole {
                memory.upload.take_if(|_| !is_open);
                self.sweep(work, &survey, &memory)?;
                return Ok((Start::Resumed, Box::new(Open::resumed(self, work, notes, memory, is_open, is_whole)?)));
            }
        }
        self.sweep(work, &survey, &fresh)?;
        let base = base(work, &survey.points);
        let source = base.as_ref().map(|point| Source { key: point.id.clone(), size: point.size.0 });
        let memory = Memory { source, base: base.clone(), ..fresh };
        let start = base.map_or(Start::Zeroes, Start::Holds);
        Ok((start, Box::new(Open::begun(self, work, notes, memory)?)))
    }

    fn abandon(&self, work: &Work, notes: &dyn Notes) -> Result<(), TargetError> {
        let key = self.key(work);
        let uploads = self.api.uploads(&key)?.into_iter().filter(|(other, _)| *other == key);
        let noted = get_notes(notes).ok().flatten().and_then(|memory| memory.upload);
        let mut ids: Vec<String> = uploads.map(|(_, upload)| upload).collect();
        ids.extend(noted.filter(|noted| !ids.contains(noted)));
        ids.iter().try_for_each(|upload| self.api.abort(&key, upload))?;
        let survey = self.survey(&work.image)?;
        let is_there = |key: &str| survey.objects.iter().any(|object| object.key == key);
        let zeroes = filling::zeroes(&key);
        if is_there(&zeroes) {
            self.api.delete(&zeroes)?;
        }
        match is_there(&key) && survey.points.iter().all(|point| point.id != key) {
            true => self.api.delete(&key),
            false => Ok(()),
        }
    }

    fn remove(&self, point: &Point) -> Result<(), TargetError> {
        let is_ours = generation_of(&point.id) == Some(point.generation) && point.id.starts_with(&self.settings.prefix);
        if !is_ours {
            return Err(TargetError::Unfit(format!("`{}` is no object of this target", point.id)));
        }
        self.api.delete(&sibling(&point.id))?;
        self.api.delete(&point.id)
    }
}

/// The point that an object can take parts from.
fn base(work: &Work, points: &[Point]) -> Option<Point> {
    let wanted = work.base.as_ref()?;
    points.iter().find(|point| *point == wanted).cloned()
}

/// The generation that a key of ours names.
fn generation_of(key: &str) -> Option<GenerationId> {
    let name = key.rsplit('/').next()?.strip_suffix(".raw")?;
    let (number, generation) = name.split_once('-')?;
    number.parse::<u64>().ok().and(generation.parse().ok())
}

fn sibling(key: &str) -> String {
    format!("{key}.json")
}

fn get_notes(notes: &dyn Notes) -> Result<Option<Memory>, TargetError> {
    let Some(text) = notes.get() else { return Ok(None) };
    let memory: Option<Memory> = serde_json::from_str(&text).ok();
    match memory.filter(|memory| memory.version == NOTES) {
        Some(memory) => Ok(Some(memory)),
        None => Err(TargetError::Conflict(
            "the run's notes are not those of this kind of target; give the run up and begin anew".into(),
        )),
    }
}

fn put_notes(notes: &dyn Notes, memory: &Memory) -> Result<(), TargetError> {
    notes.put(&serde_json::to_string(memory).expect("numbers and texts are always JSON"))
}
