//! AWS: each generation an EBS snapshot, written and read through the EBS direct APIs, without any instance.
//!
//! A delta is a snapshot whose parent is the base: only blocks that changed are put, all others are the parent's. What a snapshot is stands in its tags; it is
//! a point when the tag `sluice-state` says `proved`. See `docs/design/clouds.md` for the steps and what a crash at each of them costs.

mod api;
mod filling;
mod written;

use crate::aws::{Account, Service};
use crate::credentials::Credentials;
use crate::error::TargetError;
use crate::http;
use crate::tags;
use crate::target::{Check, Description, Filling, Image, Keeps, Notes, Point, Shape, Start, Target, Work};
use api::{Api, Begin, Found, is_id};
use filling::Open;
use serde::{Deserialize, Serialize};
use written::Written;

/// Bytes of a block (EBS direct APIs: fixed).
pub(crate) const BLOCK: usize = 512 << 10;
/// Puts at once. AWS takes 1,000 a second of an account; at some 50 ms each, 16 use a third of that and a line of 1.3 Gbit/s.
const PARALLEL: usize = 16;
/// The largest volume (EBS direct APIs: `VolumeSize`).
const MOST_GIB: u64 = 65_536;
/// How long a pending snapshot is kept without a put, in minutes: the most that AWS allows, three days. A run that is resumed later begins anew.
const MINUTES: u32 = 4320;
/// The tag that tells a point from what is being made.
const STATE: &str = "sluice-state";
const FILLING: &str = "filling";
const PROVED: &str = "proved";
/// What a run's notes are called in their first field, so that those of another make are not misread.
const NOTES: u32 = 1;

/// Where snapshots are made, as it stands in the target's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EbsSettings {
    /// The region, as `eu-central-1`; without it `AWS_DEFAULT_REGION` of the credentials.
    pub region: Option<String>,
    /// Whether first copies are encrypted, with the account's key for EBS or with `kms_key`. A delta is encrypted as its base is.
    pub encrypted: bool,
    /// The ARN of a KMS key.
    pub kms_key: Option<String>,
    /// Another address of the EBS direct APIs, such as that of a VPC endpoint.
    pub ebs_endpoint: Option<String>,
    /// Another address of EC2.
    pub ec2_endpoint: Option<String>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Ebs {
    settings: EbsSettings,
    region: String,
    api: Api,
}

/// A run's notes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Memory {
    version: u32,
    /// Snapshots that were begun before this one and cannot be gone on with.
    attempt: u32,
    /// What the snapshot builds on.
    parent: Option<Point>,
    /// Its name, once it is known.
    snapshot: Option<String>,
    /// The blocks that are put, as runs; `None`: too many to note, so that a crash means beginning anew.
    written: Option<String>,
    /// It was asked to be completed, with so many blocks.
    completing: Option<u64>,
}

impl Ebs {
    /// # Errors
    /// [`TargetError::Credentials`] for `AWS_ACCESS_KEY_ID` or `AWS_SECRET_ACCESS_KEY` that are missing, [`TargetError::Unfit`] for settings that cannot be.
    pub fn new(settings: EbsSettings, credentials: &Credentials, options: http::Options) -> Result<Ebs, TargetError> {
        if settings.kms_key.is_some() && !settings.encrypted {
            return Err(TargetError::Unfit("`kms_key` is set and `encrypted` is not; set `encrypted = true`".into()));
        }
        let account = Account::read(credentials, settings.region.as_deref())?;
        let at = |setting: &Option<String>, service| setting.clone().unwrap_or_else(|| account.endpoint(service));
        let ebs = Service::new("EBS", "ebs", &account, &at(&settings.ebs_endpoint, "ebs"), &options)?;
        let ec2 = Service::new("EC2", "ec2", &account, &at(&settings.ec2_endpoint, "ec2"), &options)?;
        Ok(Ebs { settings, region: account.region, api: Api { ebs, ec2 } })
    }

    /// All snapshots of a volume, points and others.
    fn survey(&self, image: &Image) -> Result<Vec<Found>, TargetError> {
        let mut found = self.api.find(&[(tags::LINEAGE, &image.lineage.to_string())])?;
        found.retain(|found| tags::is_of(image, |name| found.tag(name)));
        Ok(found)
    }

    /// Starts the snapshot that the notes describe, or finds it: the same token gives the same one.
    fn start(&self, work: &Work, memory: &mut Memory, notes: &dyn Notes) -> Result<String, TargetError> {
        let mut tags = tags::of_work(work);
        tags.push((STATE, FILLING.into()));
        tags.push(("Name", format!("{} {}", work.image.label(), work.number)));
        // Twice at most is enough for a parent that changed between a start whose answer was lost and now.
        for _ in 0..3 {
            put_notes(notes, memory)?;
            let begin = Begin {
                token: &format!("sluice-{}-{}", work.run, memory.attempt),
                gib: gib(work)?,
                parent: memory.parent.as_ref().map(|point| point.id.as_str()),
                tags: &tags,
                description: &format!("Sluice: {} {}", work.image.label(), work.number),
                encrypted: self.settings.encrypted,
                kms_key: self.settings.kms_key.as_deref(),
                minutes: MINUTES,
            };
            if let Some(id) = self.api.start(&begin)? {
                memory.snapshot = Some(id.clone());
                put_notes(notes, memory)?;
                return Ok(id);
            }
            memory.attempt += 1;
        }
        Err(TargetError::Conflict(
            "AWS says that the run's tokens were used for other snapshots; give the run up and begin anew".into(),
        ))
    }

    /// Goes on with the snapshot that the notes name, if that can be.
    fn resume<'a>(
        &'a self,
        work: &Work,
        notes: &'a dyn Notes,
        memory: &Memory,
        mine: &[Found],
    ) -> Result<Option<Open<'a>>, TargetError> {
        let Some(id) = &memory.snapshot else { return Ok(None) };
        let blocks = blocks(work)?;
        let state = match mine.iter().find(|found| found.id == *id) {
            Some(found) => Some(found.state.clone()),
            None => self.api.look(id)?.map(|found| found.state), // tags may take a while to be found
        };
        let is_pending = state.as_deref() == Some("pending");
        if is_pending && let Some(count) = memory.completing {
            // Asked before: whether AWS heard it shows in what becomes of it.
            filling::complete(&self.api, id, count, None, false)?;
        }
        let is_complete = state.as_deref() == Some("completed") || (is_pending && memory.completing.is_some());
        let written = memory.written.as_deref().and_then(|text| Written::from_text(text, blocks));
        match written {
            Some(written) if is_pending || is_complete => {
                Ok(Some(Open::new(self, work, notes, memory, written, is_complete)))
            }
            None if is_complete => Ok(Some(Open::new(self, work, notes, memory, Written::none(blocks), true))),
            _ => Ok(None),
        }
    }
}

impl Target for Ebs {
    fn shape(&self) -> Shape {
        Shape { kind: "ebs", unit: BLOCK as u64, most: BLOCK, parallel: PARALLEL, keeps: Keeps::Many }
    }

    fn describe(&self) -> Result<Description, TargetError> {
        let check = |what: &str, asked: Result<(), TargetError>| match asked {
            Err(TargetError::Cancelled) => Err(TargetError::Cancelled),
            asked => Ok(Check { what: what.into(), wrong: asked.err().map(|error| error.to_string()) }),
        };
        let checks = vec![
            check("snapshots can be listed", self.api.try_ec2())?,
            check("the EBS direct APIs can be asked", self.api.try_ebs())?,
        ];
        Ok(Description { place: format!("{} ({})", self.region, self.api.ebs.place()), checks, room: None })
    }

    fn points(&self, image: &Image) -> Result<Vec<Point>, TargetError> {
        Ok(points(&self.survey(image)?))
    }

    fn look(&self, work: &Work) -> Result<Start, TargetError> {
        gib(work)?;
        let found = self.survey(&work.image)?;
        let points = points(&found);
        if let Some(point) = points.iter().find(|point| point.generation == work.generation) {
            return Ok(Start::Finished(point.clone()));
        }
        if found.iter().any(|found| run_of(found) == Some(work.run)) {
            return Ok(Start::Resumed);
        }
        Ok(base(work, &points).map_or(Start::Zeroes, Start::Holds))
    }

    fn prepare<'a>(&'a self, work: &Work, notes: &'a dyn Notes) -> Result<(Start, Box<dyn Filling + 'a>), TargetError> {
        gib(work)?;
        let found = self.survey(&work.image)?;
        let points = points(&found);
        let (mine, others): (Vec<Found>, Vec<Found>) =
            found.into_iter().filter(is_unfinished).partition(|found| run_of(found) == Some(work.run));
        for leftover in &others {
            self.api.delete(&leftover.id)?; // of runs that are dead: there is one at a time
        }
        let noted = get_notes(notes)?;
        if let Some(point) = points.iter().find(|point| point.generation == work.generation) {
            mine.iter().try_for_each(|found| self.api.delete(&found.id))?;
            return Ok((Start::Finished(point.clone()), Box::new(Open::finished(self, work, notes, point)?)));
        }
        if let Some(memory) = &noted
            && let Some(open) = self.resume(work, notes, memory, &mine)?
        {
            let current = memory.snapshot.as_ref();
            mine.iter().filter(|found| Some(&found.id) != current).try_for_each(|found| self.api.delete(&found.id))?;
            return Ok((Start::Resumed, Box::new(open)));
        }
        let attempt = noted.as_ref().map_or(0, |noted| noted.attempt + u32::from(noted.snapshot.is_some()));
        if let Some(dead) = noted.and_then(|noted| noted.snapshot) {
            self.api.delete(&dead)?;
        }
        let parent = base(work, &points);
        let written = Some(String::new());
        let mut memory = Memory { version: NOTES, attempt, parent, snapshot: None, written, completing: None };
        let id = self.start(work, &mut memory, notes)?;
        mine.iter().filter(|found| found.id != id).try_for_each(|found| self.api.delete(&found.id))?;
        let start = memory.parent.clone().map_or(Start::Zeroes, Start::Holds);
        let open = Open::new(self, work, notes, &memory, Written::none(blocks(work)?), false);
        Ok((start, Box::new(open)))
    }

    fn abandon(&self, work: &Work, notes: &dyn Notes) -> Result<(), TargetError> {
        let mine = self.api.find(&[(tags::RUN, &work.run.to_string())])?;
        for found in mine.iter().filter(|found| is_unfinished(found)) {
            self.api.delete(&found.id)?;
        }
        let noted = get_notes(notes).ok().flatten().and_then(|memory| memory.snapshot);
        match noted.filter(|id| mine.iter().all(|found| found.id != *id)) {
            Some(id) => self.api.delete(&id), // not found by its tags, or gone
            None => Ok(()),
        }
    }

    // What a person does with a point: commands that make a volume and an image (AMI) of it, and how to prove what is on it.
    fn next_steps(&self, point: &Point) -> Vec<String> {
        let (region, id, number) = (&self.region, &point.id, point.number);
        let disk = format!(
            "[{{\"DeviceName\":\"/dev/xvda\",\"Ebs\":{{\"SnapshotId\":\"{id}\",\"VolumeType\":\"gp3\",\"DeleteOnTermination\":true}}}}]"
        );
        vec![
            format!("# A volume of generation {number}; choose the zone of the instance that is to use it:"),
            format!("aws ec2 create-volume --region {region} --availability-zone {region}a --snapshot-id {id} --volume-type gp3"),
            "# An image to start instances from, when the volume holds a system; `legacy-bios` where it starts without UEFI:".into(),
            format!(
                "aws ec2 register-image --region {region} --name sluice-{number}-{} --architecture x86_64 --virtualization-type hvm \
                 --ena-support --boot-mode uefi --root-device-name /dev/xvda --block-device-mappings '{disk}'",
                &point.generation.to_string()[..8],
            ),
            format!("# The proof, on an instance that has the volume as /dev/xvdf; it has to say {}:", point.root),
            format!("head -c {} /dev/xvdf | b3sum", point.size.0),
            "# A snapshot that an image needs cannot be removed before `aws ec2 deregister-image`.".into(),
        ]
    }

    fn remove(&self, point: &Point) -> Result<(), TargetError> {
        match is_id(&point.id) {
            true => self.api.delete(&point.id),
            false => Err(TargetError::Unfit(format!("`{}` is no snapshot's name", point.id))),
        }
    }
}

/// Points among snapshots, oldest first.
fn points(found: &[Found]) -> Vec<Point> {
    let proved = |found: &&Found| found.state == "completed" && found.tag(STATE).as_deref() == Some(PROVED);
    let mut points: Vec<Point> =
        found.iter().filter(proved).filter_map(|found| tags::point(&found.id, |name| found.tag(name))).collect();
    points.sort_by_key(|point| (point.number, point.made));
    points
}

/// Whether a snapshot is one of ours that is no point.
fn is_unfinished(found: &Found) -> bool {
    found.tag(STATE).as_deref() == Some(FILLING)
}

fn run_of(found: &Found) -> Option<dedupe::RunId> {
    tags::run(|name| found.tag(name))
}

/// The point that a snapshot can build on. One of a larger volume cannot: what lies behind the new end would be inherited.
fn base(work: &Work, points: &[Point]) -> Option<Point> {
    let wanted = work.base.as_ref()?;
    points.iter().find(|point| *point == wanted && point.size <= work.size).cloned()
}

/// Size for AWS: GiB, rounded up.
fn gib(work: &Work) -> Result<u64, TargetError> {
    match work.size.0.div_ceil(1 << 30) {
        gib if (1..=MOST_GIB).contains(&gib) => Ok(gib),
        _ => Err(TargetError::Unfit(format!(
            "the volume has {} bytes and EBS takes 1 byte to 64 TiB; choose another kind of target",
            work.size
        ))),
    }
}

/// Blocks of the volume.
fn blocks(work: &Work) -> Result<u32, TargetError> {
    gib(work)?;
    Ok(work.size.0.div_ceil(BLOCK as u64) as u32)
}

fn get_notes(notes: &dyn Notes) -> Result<Option<Memory>, TargetError> {
    let Some(text) = notes.get() else { return Ok(None) };
    let memory: Option<Memory> = serde_json::from_str(&text).ok();
    match memory.filter(|memory| memory.version == NOTES && memory.snapshot.as_deref().is_none_or(is_id)) {
        Some(memory) => Ok(Some(memory)),
        None => Err(TargetError::Conflict(
            "the run's notes are not those of this kind of target; give the run up and begin anew".into(),
        )),
    }
}

fn put_notes(notes: &dyn Notes, memory: &Memory) -> Result<(), TargetError> {
    notes.put(&serde_json::to_string(memory).expect("numbers and texts are always JSON"))
}
