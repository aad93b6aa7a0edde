//! A Cinder volume for each volume, a snapshot for each generation that is kept.

mod held;

use super::OpenStackSettings;
use super::cinder::{Cinder, Metadata, Snapshot, Volume};
use super::connector::{self, Disk, Place};
use super::keystone::Keystone;
use crate::error::TargetError;
use crate::http::Options;
use crate::tags;
use crate::target::{Check, Description, Filling, Image, Keeps, Notes, Point, Shape, Start, Target, Work};
use dedupe::{ByteOffset, UnixMillis};
use held::Held;
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Cinder's unit of size.
const GIB: u64 = 1 << 30;
/// Threads that write at once: a share or a line has its depth, and memory its price.
const PARALLEL: usize = 4;
/// Bytes of one write.
const MOST: usize = 1 << 20;

/// See the module's documentation.
pub(crate) struct Volumes {
    cinder: Cinder,
    settings: OpenStackSettings,
}

/// What there is of a volume in the cloud.
struct Found {
    /// The one to write to.
    volume: Option<Volume>,
    /// Further ones of the same run with nothing in them: a request whose answer was lost made them.
    extra: Vec<Volume>,
    snapshots: Vec<Snapshot>,
}

impl Found {
    /// What this run made a point of, in whatever state.
    fn snapshot_of(&self, work: &Work) -> Option<&Snapshot> {
        let ours = |snapshot: &&Snapshot| run_of(&snapshot.metadata) == Some(work.run);
        // One that is whole before one that is not.
        self.snapshots.iter().filter(ours).min_by_key(|snapshot| (snapshot.status != "available", snapshot.id.clone()))
    }
}

impl Volumes {
    pub(crate) fn new(
        settings: &OpenStackSettings,
        keystone: &Arc<Keystone>,
        options: &Options,
    ) -> Result<Volumes, TargetError> {
        let cinder = Cinder::new(keystone, settings.endpoints.volume.clone(), options)?;
        Ok(Volumes { cinder, settings: settings.clone() })
    }

    pub(crate) fn place_of(&self, image: &Image) -> Result<Place, TargetError> {
        let volumes: Vec<Volume> = self.cinder.tagged(tags::LINEAGE, &image.lineage.to_string())?;
        for volume in volumes {
            if let Some(attachment) = self.cinder.attachments(&volume.id)?.first() {
                let whole = self.cinder.attachment(&attachment.id)?;
                return connector::place(&whole.connection_info, &self.settings.shares);
            }
        }
        Err(TargetError::Unfit("the volume is not attached; that is so while a run fills it".into()))
    }

    fn find(&self, work: &Work) -> Result<Found, TargetError> {
        let lineage = work.image.lineage.to_string();
        let mut volumes: Vec<Volume> = self.cinder.tagged(tags::LINEAGE, &lineage)?;
        // A service that does not know the filter answers with everything.
        volumes.retain(|volume| is_of(&work.image, &volume.metadata) && volume.status != "deleting");
        let rank = |volume: &Volume| {
            let held = Held::of(&volume.metadata);
            let number = held.point.as_ref().map(|point| point.number);
            (std::cmp::Reverse((held.run == Some(work.run), number)), volume.id.clone())
        };
        volumes.sort_by_key(rank);
        let mut volumes = volumes.into_iter();
        let volume = volumes.next();
        let is_extra = |extra: &Volume| {
            let held = Held::of(&extra.metadata);
            held.run == Some(work.run) && held.point.is_none()
        };
        let extra = volumes.filter(is_extra).collect();
        Ok(Found { volume, extra, snapshots: self.snapshots(&work.image)? })
    }

    fn snapshots(&self, image: &Image) -> Result<Vec<Snapshot>, TargetError> {
        let mut snapshots: Vec<Snapshot> = self.cinder.tagged(tags::LINEAGE, &image.lineage.to_string())?;
        snapshots.retain(|snapshot| is_of(image, &snapshot.metadata) && snapshot.status != "deleting");
        Ok(snapshots)
    }

    /// Makes the volume for this run, or finds what an earlier attempt made.
    fn create(&self, work: &Work) -> Result<Volume, TargetError> {
        let held = Held::begun_anew(work);
        let mut volume = json!({
            "name": unfinished(&work.image),
            "size": gib(work),
            "metadata": held.into_metadata(Metadata::new(), &work.image),
            "description": "Being filled by Sluice. Restorable are its snapshots.",
        });
        for (name, value) in
            [("volume_type", &self.settings.volume_type), ("availability_zone", &self.settings.availability_zone)]
        {
            if let Some(value) = value {
                volume[name] = Value::from(value.as_str());
            }
        }
        let volume = self.cinder.create_volume(|| Ok(self.find(work)?.volume), &volume)?;
        self.cinder.wait_for(&volume.id, "available")
    }

    /// Makes a volume that is there ready to be attached: nothing of an earlier run on it, and large enough.
    fn make_ready(&self, volume: Volume, work: &Work) -> Result<Volume, TargetError> {
        if Held::of(&volume.metadata).run.is_some() {
            self.cinder.detach_ours(&volume.id)?;
        } else if volume.status != "available" {
            self.refuse_attached(&volume)?;
        }
        let volume: Volume = self.cinder.wait_for(&volume.id, "available")?;
        match volume.size < gib(work) {
            true => self.cinder.extend(&volume.id, gib(work)),
            false => Ok(volume),
        }
    }

    /// No run of ours is at work on it, so whoever attached it is somebody else.
    fn refuse_attached(&self, volume: &Volume) -> Result<(), TargetError> {
        match self.cinder.attachments(&volume.id)?.first() {
            None => Ok(()),
            Some(attachment) => Err(TargetError::Conflict(format!(
                "volume {} is attached ({}), and not by a run of ours; detach it, and start servers from volumes that are made from a snapshot",
                volume.id,
                attachment.instance.as_ref().map_or("to no server".into(), |server| format!("to server {server}"))
            ))),
        }
    }

    fn put(&self, volume: &Volume, held: Held, image: &Image) -> Result<(), TargetError> {
        self.cinder.put_metadata(&volume.id, &held.into_metadata(volume.metadata.clone(), image))
    }

    /// Attaches the volume and opens it; what fails leaves it detached.
    fn open(&self, volume: &Volume, work: &Work) -> Result<(String, Disk), TargetError> {
        let attachment = self.cinder.attach(&volume.id, &connector::myself())?;
        let opened = connector::place(&attachment.connection_info, &self.settings.shares)
            .and_then(|place| Disk::open(&place, work.size.0));
        match opened {
            Ok(disk) => Ok((attachment.id, disk)),
            Err(error) => Err(self.cinder.detach(&attachment.id).err().unwrap_or(error)),
        }
    }

    /// Writes down that the volume holds what the snapshot is of, with nothing begun on top.
    fn settle(&self, volume: &Volume, snapshot: &Snapshot, work: &Work) -> Result<Point, TargetError> {
        let point = point_of(snapshot).ok_or_else(|| {
            TargetError::Conflict(format!(
                "snapshot {} lost its metadata; remove it there, then run it again",
                snapshot.id
            ))
        })?;
        // The metadata last: as long as it names the run, all of this is done again after a crash.
        self.cinder.rename(&volume.id, &work.image.label())?;
        self.put(volume, Held::whole(point.clone()), &work.image)?;
        Ok(point)
    }

    /// A point of this run that is whole, with everything around it as `finish` leaves it. One that failed is removed.
    fn finished(&self, found: &Found, work: &Work) -> Result<Option<Point>, TargetError> {
        let Some(snapshot) = found.snapshot_of(work) else { return Ok(None) };
        if snapshot.status.starts_with("error") {
            self.cinder.delete::<Snapshot>(&snapshot.id)?;
            return Ok(None);
        }
        let snapshot: Snapshot = self.cinder.wait_for(&snapshot.id, "available")?;
        let same = |other: &&Snapshot| other.id != snapshot.id && run_of(&other.metadata) == Some(work.run);
        for other in found.snapshots.iter().filter(same) {
            self.cinder.delete::<Snapshot>(&other.id)?;
        }
        match found.volume.as_ref().filter(|volume| volume.id == snapshot.volume_id) {
            Some(volume) if Held::of(&volume.metadata).run == Some(work.run) => {
                self.settle(volume, &snapshot, work).map(Some)
            }
            _ => Ok(point_of(&snapshot)),
        }
    }
}

impl Target for Volumes {
    fn shape(&self) -> Shape {
        Shape { kind: "openstack", unit: 4096, most: MOST, parallel: PARALLEL, keeps: Keeps::Many }
    }

    fn describe(&self) -> Result<Description, TargetError> {
        let mut checks = Vec::new();
        let mut check = |what: &str, wrong: Option<String>| {
            let is_well = wrong.is_none();
            checks.push(Check { what: what.into(), wrong });
            is_well
        };
        let address = self.cinder.address();
        let is_well =
            check("Keystone knows the account and the way to Cinder", address.as_ref().err().map(ToString::to_string));
        let (mut room, place) = (None, address.unwrap_or_else(|_| "Cinder, somewhere".into()));
        if is_well {
            let limits = self.cinder.limits();
            check("Cinder answers the account", limits.as_ref().err().map(ToString::to_string));
            if let Ok(limits) = limits {
                let left = |most: i64, used: i64| if most < 0 { i64::MAX } else { most - used };
                let gib = left(limits.max_total_volume_gigabytes, limits.total_gigabytes_used);
                room = (gib != i64::MAX).then(|| u64::try_from(gib).unwrap_or(0).saturating_mul(GIB));
                let full = |what: &str, most: i64, used: i64| {
                    (left(most, used) <= 0)
                        .then(|| format!("the project's quota of {what} is used up ({used} of {most}); have it raised"))
                };
                let wrong = full("volumes", limits.max_total_volumes, limits.total_volumes_used)
                    .or_else(|| full("snapshots", limits.max_total_snapshots, limits.total_snapshots_used))
                    .or_else(|| full("GiB", limits.max_total_volume_gigabytes, limits.total_gigabytes_used));
                check("the project's quotas have room", wrong);
            }
            if let Some(wanted) = &self.settings.volume_type {
                let wrong = match self.cinder.types() {
                    Ok(types) if types.contains(wanted) => None,
                    Ok(types) => Some(format!("there is no `{wanted}`; there are {}", types.join(", "))),
                    Err(error) => Some(error.to_string()),
                };
                check("the volume type is there", wrong);
            }
        }
        Ok(Description { place, checks, room })
    }

    fn points(&self, image: &Image) -> Result<Vec<Point>, TargetError> {
        let snapshots = self.snapshots(image)?;
        let whole = snapshots.iter().filter(|snapshot| snapshot.status == "available");
        let mut points: Vec<Point> = whole.filter_map(point_of).collect();
        points.sort_by_key(|point| (point.number, point.made));
        // Two of one generation: an answer that was lost. The run that made them removes one.
        points.dedup_by_key(|point| point.generation);
        Ok(points)
    }

    fn look(&self, work: &Work) -> Result<Start, TargetError> {
        let found = self.find(work)?;
        if let Some(snapshot) = found.snapshot_of(work).filter(|snapshot| snapshot.status == "available")
            && let Some(point) = point_of(snapshot)
        {
            return Ok(Start::Finished(point));
        }
        Ok(found.volume.map_or(Start::Zeroes, |volume| Held::of(&volume.metadata).start(work)))
    }

    fn prepare<'a>(&'a self, work: &Work, _: &'a dyn Notes) -> Result<(Start, Box<dyn Filling + 'a>), TargetError> {
        let found = self.find(work)?;
        for extra in &found.extra {
            self.cinder.delete::<Volume>(&extra.id)?;
        }
        if let Some(point) = self.finished(&found, work)? {
            return Ok((Start::Finished(point.clone()), Box::new(super::Done(point))));
        }
        let is_new = found.volume.is_none();
        let volume = match found.volume {
            None => self.create(work)?,
            Some(volume) => self.make_ready(volume, work)?,
        };
        let held = Held::of(&volume.metadata);
        let mut start = held.start(work);
        // Before the first byte: whoever looks from now on knows that it is in the making.
        let held = held.begin(work);
        let reach = held.reach;
        self.put(&volume, held, &work.image)?;
        self.cinder.rename(&volume.id, &unfinished(&work.image))?;
        let (attachment, disk) = self.open(&volume, work)?;
        if is_new {
            start = match disk.is_hole(0..work.size.0) {
                true => Start::Zeroes,
                false => Start::Unknown("the backend does not say that its new volumes read as zeroes".into()),
            };
            if start == Start::Zeroes {
                self.put(&volume, Held::blank(work), &work.image)?;
            }
        }
        let filling = Open {
            volumes: self,
            work: work.clone(),
            volume,
            attachment,
            reach,
            disk: Mutex::new(Some(Arc::new(disk))),
        };
        Ok((start, Box::new(filling)))
    }

    fn abandon(&self, work: &Work, _: &dyn Notes) -> Result<(), TargetError> {
        let found = self.find(work)?;
        for extra in &found.extra {
            self.cinder.detach_ours(&extra.id)?;
            self.cinder.delete::<Volume>(&extra.id)?;
        }
        if self.finished(&found, work)?.is_some() {
            return Ok(()); // a point already
        }
        let Some(volume) = found.volume else { return Ok(()) };
        let held = Held::of(&volume.metadata);
        if held.run != Some(work.run) {
            return Ok(());
        }
        // Parts of runs that were given up are worth nothing without a point below them.
        let is_worth_nothing = held.point.is_none() && !found.snapshots.iter().any(|one| one.volume_id == volume.id);
        if !volume.status.starts_with("error") {
            self.cinder.detach_ours(&volume.id)?;
        }
        match is_worth_nothing {
            true => self.cinder.delete::<Volume>(&volume.id),
            false => self.put(&volume, held.given_up(), &work.image),
        }
    }

    fn remove(&self, point: &Point) -> Result<(), TargetError> {
        let snapshot = self.cinder.get::<Snapshot>(&point.id)?;
        match snapshot.as_ref().map(point_of) {
            Some(None) => {
                return Err(TargetError::Conflict(format!(
                    "snapshot {} lacks our tags, so it is not removed; look at it in the cloud",
                    point.id
                )));
            }
            Some(Some(held)) if held.generation != point.generation => return Ok(()), // something else by now
            _ => {}
        }
        if snapshot.is_some() {
            self.cinder.delete::<Snapshot>(&point.id)?;
        }
        // The last point takes its volume along. Found by what it holds, so that a crash in between does not leave it.
        let volumes: Vec<Volume> = self.cinder.tagged(tags::GENERATION, &point.generation.to_string())?;
        let by_snapshot =
            snapshot.map(|snapshot| self.cinder.get::<Volume>(&snapshot.volume_id)).transpose()?.flatten();
        for volume in volumes.into_iter().chain(by_snapshot) {
            self.remove_if_bare(&volume)?;
        }
        Ok(())
    }
}

impl Volumes {
    /// Removes a volume of ours without points and without a run.
    fn remove_if_bare(&self, volume: &Volume) -> Result<(), TargetError> {
        let lineage = volume.metadata.get(tags::LINEAGE);
        let Some(lineage) = lineage.filter(|_| Held::of(&volume.metadata).run.is_none()) else { return Ok(()) };
        let snapshots: Vec<Snapshot> = self.cinder.tagged(tags::LINEAGE, lineage)?;
        if snapshots.iter().any(|snapshot| snapshot.volume_id == volume.id) {
            return Ok(());
        }
        match self.cinder.get::<Volume>(&volume.id)? {
            None => Ok(()),
            Some(volume) => {
                self.refuse_attached(&volume)?;
                self.cinder.delete::<Volume>(&volume.id)
            }
        }
    }
}

/// A volume that is being filled.
struct Open<'a> {
    volumes: &'a Volumes,
    work: Work,
    volume: Volume,
    attachment: String,
    /// Bytes from the start on that may be something else than zeroes.
    reach: u64,
    /// `None` once it is closed to be made a point.
    disk: Mutex<Option<Arc<Disk>>>,
}

impl Open<'_> {
    fn disk(&self) -> Result<Arc<Disk>, TargetError> {
        let disk = self.disk.lock().expect("nobody panics while holding it").clone();
        disk.ok_or_else(|| TargetError::Conflict("the volume is closed; prepare the run again".into()))
    }

    /// Flushes, closes, detaches. May be called again.
    fn close(&self) -> Result<(), TargetError> {
        let disk = self.disk.lock().expect("nobody panics while holding it").take();
        if let Some(disk) = disk.and_then(Arc::into_inner) {
            disk.close()?;
        }
        self.volumes.cinder.detach(&self.attachment)?;
        self.volumes.cinder.wait_for::<Volume>(&self.volume.id, "available").map(|_| ())
    }
}

impl Filling for Open<'_> {
    fn apply(&self, at: ByteOffset, bytes: &[u8]) -> Result<(), TargetError> {
        self.disk()?.write(at.0, bytes)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.disk()?.zero(range)
    }

    fn flush(&self) -> Result<(), TargetError> {
        self.disk()?.flush()
    }

    fn complete(&self) -> Result<(), TargetError> {
        let disk = self.disk()?;
        let end = self.reach.min(self.volume.size.saturating_mul(GIB));
        if end > self.work.size.0 {
            // A longer generation was here; what builds on this one counts on zeroes behind its end.
            disk.zero(self.work.size.0..end)?;
        }
        disk.settle()
    }

    fn read(&self, at: ByteOffset, buffer: &mut [u8]) -> Result<(), TargetError> {
        self.disk()?.read(at.0, buffer)
    }

    fn is_hole(&self, range: Range<u64>) -> bool {
        self.disk().is_ok_and(|disk| disk.is_hole(range))
    }

    fn finish(&self, now: UnixMillis) -> Result<Point, TargetError> {
        self.close()?;
        let (cinder, work) = (&self.volumes.cinder, &self.work);
        let mut metadata: Metadata =
            tags::of_point(&work.image, &work.point(String::new(), now)).into_iter().map(owned).collect();
        metadata.insert(tags::RUN.to_owned(), work.run.to_string());
        let snapshot = json!({
            "volume_id": self.volume.id,
            "name": format!("{}.{}", work.image.label(), work.number),
            "description": "A generation, whole and proved by Sluice.",
            "metadata": metadata,
        });
        let of_this_run = || {
            let found = self.volumes.find(work)?;
            Ok(found.snapshot_of(work).filter(|snapshot| !snapshot.status.starts_with("error")).cloned())
        };
        let begun = cinder.create_snapshot(of_this_run, &snapshot)?;
        let snapshot: Snapshot = cinder.wait_for(&begun.id, "available")?;
        self.volumes.settle(&self.volume, &snapshot, work)
    }
}

fn owned((key, value): (&'static str, String)) -> (String, String) {
    (key.to_owned(), value)
}

fn is_of(image: &Image, metadata: &Metadata) -> bool {
    tags::is_of(image, |key| metadata.get(key).cloned())
}

fn run_of(metadata: &Metadata) -> Option<dedupe::RunId> {
    tags::run(|key| metadata.get(key).cloned())
}

fn point_of(snapshot: &Snapshot) -> Option<Point> {
    tags::point(&snapshot.id, |key| snapshot.metadata.get(key).cloned())
}

/// The name of a volume that is no whole generation.
fn unfinished(image: &Image) -> String {
    format!("{}.unfinished", image.label())
}

/// The size that Cinder is asked for.
fn gib(work: &Work) -> u64 {
    work.size.0.div_ceil(GIB).max(1)
}
