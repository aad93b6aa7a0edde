//! Page blobs of an Azure storage account, of which managed disks are made.
//!
//! One blob for each volume, a *fixed VHD*: `PREFIX LABEL.vhd`. It is written over for each generation, changed pages only, and each generation that was
//! proved is kept as a snapshot of it. What a blob holds and who fills it is in its metadata; a lease keeps two runs off one blob.

mod blobs;
mod filling;
mod record;
mod sign;
mod vhd;

use crate::credentials::Credentials;
use crate::error::TargetError;
use crate::http::{Client, Options};
use crate::target::{Check, Description, Filling, Image, Keeps, Notes, Point, Shape, Start, Target, Work};
use blobs::{Blobs, Found, Listed};
use dedupe::RunId;
use filling::{Lease, Open};
use record::Record;
use serde::{Deserialize, Serialize};
use sign::Account;
use std::path::PathBuf;

/// Bytes of a page blob at most (8 TiB), its footer among them.
const MOST_BLOB: u64 = 8 << 40;
/// Requests in flight: 8 of 4 MiB fill a line of 1 Gbit/s at 100 ms.
const PARALLEL: usize = 8;

/// What a target of this kind is told. No secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureSettings {
    /// The container, which has to be there.
    pub container: String,
    /// The storage account, where the credentials do not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What the names of our blobs begin with; letters, digits, `-`, `_`, `.` and `/`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// The address of the account's blob service, where it is not the public cloud's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Azure {
    blobs: Blobs,
    prefix: String,
}

impl Azure {
    /// A container of an account. Asks nobody. Credentials name `AZURE_STORAGE_CONNECTION_STRING`, or `AZURE_STORAGE_ACCOUNT` and one of
    /// `AZURE_STORAGE_KEY` and `AZURE_STORAGE_SAS_TOKEN`.
    ///
    /// # Errors
    /// [`TargetError::Credentials`] and [`TargetError::Unfit`] say which line or setting is wrong.
    pub fn new(settings: &AzureSettings, credentials: &Credentials, options: &Options) -> Result<Azure, TargetError> {
        let (container, prefix) = (&settings.container, &settings.prefix);
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(3..=63).contains(&container.len()) || !container.bytes().all(fits) {
            return Err(TargetError::Unfit(format!(
                "`{container}` is no name of a container: 3 to 63 small letters, digits and `-`; correct the target"
            )));
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if prefix.len() > 200 || !prefix.bytes().all(fits) || prefix.split('/').any(|part| part == "." || part == "..")
        {
            return Err(TargetError::Unfit(format!(
                "`{prefix}` is no prefix for blobs: at most 200 letters, digits, `-`, `_`, `.` and `/`; correct the target"
            )));
        }
        let vars = credentials.read(&sign::NAMES)?;
        let account = Account::of(&vars, settings.account.as_deref(), settings.endpoint.as_deref())?;
        let client = Client::new(&format!("Azure storage account {}", account.name), options)?;
        Ok(Azure { blobs: Blobs::new(client, account, container), prefix: prefix.clone() })
    }

    /// The name of a volume's blob.
    pub fn name_of(&self, image: &Image) -> String {
        format!("{}{}.vhd", self.prefix, image.label())
    }

    fn id_of(&self, name: &str, snapshot: &str) -> String {
        format!("{}?snapshot={snapshot}", self.blobs.address(name))
    }

    /// The blob's name and the snapshot's of a point.
    fn parts<'a>(&self, id: &'a str) -> Result<(&'a str, &'a str), TargetError> {
        let rest = id.strip_prefix(self.blobs.address("").as_str()).and_then(|rest| rest.strip_prefix('/'));
        rest.and_then(|rest| rest.split_once("?snapshot=")).ok_or_else(|| {
            TargetError::Unfit(format!(
                "{id} is no snapshot in {}; name the target that has it",
                self.blobs.address("")
            ))
        })
    }

    fn busy(&self, name: &str) -> TargetError {
        TargetError::Busy(PathBuf::from(self.blobs.address(name)))
    }

    /// The snapshots that are points of a volume, oldest first; of a run that made two (its request was repeated) the first.
    fn points_in(&self, image: &Image, name: &str, found: &Found) -> Vec<(RunId, Point, Listed)> {
        let mut points: Vec<(RunId, Point, Listed)> = Vec::new();
        for listed in found.snapshots.iter().filter(|listed| record::is_of(image, listed)) {
            let id = self.id_of(name, listed.snapshot.as_deref().unwrap_or_default());
            let (Some(run), Some(point)) = (record::run(listed), record::point(&id, listed)) else { continue };
            if points.iter().all(|(other, ..)| *other != run) {
                points.push((run, point, listed.clone()));
            }
        }
        points
    }

    /// What a blob holds for a run.
    fn judge(&self, work: &Work, name: &str, found: &Found) -> Result<Start, TargetError> {
        let points = self.points_in(&work.image, name, found);
        if let Some((_, point, _)) = points.iter().find(|(run, ..)| *run == work.run) {
            return Ok(Start::Finished(point.clone()));
        }
        let Some(blob) = &found.blob else { return Ok(Start::Zeroes) };
        let record = Record::of(blob).filter(|_| blob.is_page_blob && record::is_of(&work.image, blob));
        let Some(record) = record else {
            return Err(TargetError::Conflict(format!(
                "{} is there and nothing says that it is ours; remove or rename it, or give the target another prefix",
                self.blobs.address(name)
            )));
        };
        let whole = record::run(blob).and_then(|run| points.iter().find(|(other, ..)| *other == run));
        Ok(match whole {
            // The ETag of a snapshot is the one that the blob had then: nothing was written since.
            Some((_, point, snapshot)) if snapshot.etag == blob.etag => Start::Holds(point.clone()),
            Some(_) => Start::Unknown("the blob was touched since it was last written".into()),
            None if record.run == Some(work.run) => Start::Resumed,
            None if record.is_unknown => Start::Unknown("the blob holds a part of a run that was given up".into()),
            None => Start::Between { base: record.base, others: record.others },
        })
    }

    /// Makes the blob, if it is not there. `true`: it is new and reads as zeroes.
    fn make(&self, work: &Work, name: &str) -> Result<bool, TargetError> {
        let record = Record::begin(work, None, Vec::new());
        let len = vhd::blob(work.size);
        if self.blobs.create(name, len, &record.metadata(&work.image))? {
            return Ok(true);
        }
        // Perhaps this very request, repeated after its answer was lost.
        let found = self.blobs.find(name)?;
        let is_ours = found.blob.as_ref().and_then(Record::of).is_some_and(|found| found == record);
        Ok(is_ours && self.blobs.ranges(name, &(0..len))?.is_empty())
    }

    /// Under the lease: writes down who fills the blob, before its first byte, and gives it its size.
    fn begin(&self, work: &Work, open: &Open<'_>, start: Start, blob: &Listed) -> Result<Start, TargetError> {
        let (name, lease) = (open.name(), open.lease());
        let mut start = start;
        let record = match &start {
            Start::Resumed => Record::of(blob).expect("it was judged by its record"),
            Start::Holds(point) => Record::begin(work, Some(point.clone()), Vec::new()),
            Start::Between { base, others } => Record::begin(work, base.clone(), others.clone()),
            Start::Unknown(_) => {
                // Emptied under nobody's name: after a crash it is still unknown.
                let unknown = Record { run: None, base: None, others: Vec::new(), is_unknown: true };
                self.blobs.set_metadata(name, lease.id(), &unknown.metadata(&work.image))?;
                self.blobs.clear(name, lease.id(), &(0..blob.len))?;
                start = Start::Zeroes;
                Record::begin(work, None, Vec::new())
            }
            Start::Zeroes => Record::begin(work, None, Vec::new()),
            Start::Finished(_) => return Ok(start),
        };
        self.blobs.set_metadata(name, lease.id(), &record.metadata(&work.image))?;
        let len = vhd::blob(work.size);
        if blob.len != len {
            // The old footer would be in the middle of the volume.
            self.blobs.clear(name, lease.id(), &(blob.len.saturating_sub(vhd::FOOTER)..blob.len))?;
            self.blobs.resize(name, lease.id(), len)?;
        }
        open.remember(record);
        Ok(start)
    }
}

impl Target for Azure {
    fn shape(&self) -> Shape {
        Shape { kind: "azure", unit: 4096, most: blobs::MOST, parallel: PARALLEL, keeps: Keeps::Many }
    }

    fn describe(&self) -> Result<Description, TargetError> {
        let wrong = self.blobs.check().err().map(|error| error.to_string());
        let checks = vec![Check { what: "the container can be listed with these credentials".into(), wrong }];
        Ok(Description { place: self.blobs.address(&self.prefix), checks, room: None })
    }

    fn points(&self, image: &Image) -> Result<Vec<Point>, TargetError> {
        let name = self.name_of(image);
        let found = self.blobs.find(&name)?;
        Ok(self.points_in(image, &name, &found).into_iter().map(|(_, point, _)| point).collect())
    }

    fn look(&self, work: &Work) -> Result<Start, TargetError> {
        check_size(work)?;
        let name = self.name_of(&work.image);
        self.judge(work, &name, &self.blobs.find(&name)?)
    }

    fn prepare<'a>(&'a self, work: &Work, _: &'a dyn Notes) -> Result<(Start, Box<dyn Filling + 'a>), TargetError> {
        check_size(work)?;
        let name = self.name_of(&work.image);
        let found = self.blobs.find(&name)?;
        let start = self.judge(work, &name, &found)?;
        let is_finished = matches!(start, Start::Finished(_));
        let is_new = found.blob.is_none() && !is_finished && self.make(work, &name)?;
        let open = Open::new(self, work, name);
        if is_finished {
            open.lease().release()?; // it may have been killed before it gave it back
            return Ok((start, Box::new(open)));
        }
        if !open.lease().take()? {
            return Err(self.busy(open.name()));
        }
        // Looked at again: now nobody else changes it.
        let found = self.blobs.find(open.name())?;
        let start = match self.judge(work, open.name(), &found)? {
            Start::Resumed if is_new => Start::Zeroes,
            start => start,
        };
        let gone =
            || TargetError::Conflict(format!("{} was removed just now; run it again", self.blobs.address(open.name())));
        let start = self.begin(work, &open, start, found.blob.as_ref().ok_or_else(gone)?)?;
        Ok((start, Box::new(open)))
    }

    fn abandon(&self, work: &Work, _: &dyn Notes) -> Result<(), TargetError> {
        let name = self.name_of(&work.image);
        let is_ours = |found: &Found| {
            let record = Record::of(found.blob.as_ref()?).filter(|record| record.run == Some(work.run))?;
            let is_point = found.snapshots.iter().any(|listed| record::run(listed) == Some(work.run));
            (!is_point).then(|| (found.blob.clone(), record))
        };
        let lease = Lease::new(self, &name, work.run);
        if is_ours(&self.blobs.find(&name)?).is_none() {
            // It may have been killed between its lease and its first word, or after its last.
            return lease.release();
        }
        if !lease.take()? {
            return Err(self.busy(&name));
        }
        let found = self.blobs.find(&name)?;
        if let Some((Some(blob), record)) = is_ours(&found) {
            // What was made for this run alone goes; what held a point before keeps it, with what was written over it.
            let is_alone = record.base.is_none() && record.others.len() == 1 && found.snapshots.is_empty();
            if is_alone && self.blobs.remove(&name, Some(lease.id()), &blob.etag)? {
                return Ok(());
            }
            let given_up = Record { run: None, ..record };
            self.blobs.set_metadata(&name, lease.id(), &given_up.metadata(&work.image))?;
        }
        lease.release()
    }

    // What a person runs to make a managed disk of a point, and what it costs them. Azure makes disks of blobs, not of their snapshots, so the snapshot
    // becomes a blob of its own first, within the account.
    fn next_steps(&self, point: &Point) -> Vec<String> {
        let disk = format!("sluice-{}-{}", point.number, &point.generation.to_string()[..8]);
        let copy = self.blobs.address(&format!("{}disks/{disk}.vhd", self.prefix));
        vec![
            format!(
                "az storage blob copy start --destination-blob {}disks/{disk}.vhd --destination-container {} --account-name {} --source-uri '{}'",
                self.prefix,
                self.blobs.container(),
                self.blobs.account(),
                point.id
            ),
            format!(
                "az disk create --resource-group GROUP --name {disk} --source '{copy}' --hyper-v-generation V1  # V2 for a volume that boots by UEFI"
            ),
            format!("az storage blob delete --blob-url '{copy}'  # when the disk is there"),
        ]
    }

    fn remove(&self, point: &Point) -> Result<(), TargetError> {
        let (name, snapshot) = self.parts(&point.id)?;
        let found = self.blobs.find(name)?;
        let is_it = |listed: &&Listed| listed.snapshot.as_deref() == Some(snapshot);
        let is_same =
            |listed: &Listed| record::point("", listed).is_some_and(|held| held.generation == point.generation);
        let held = found.snapshots.iter().find(is_it).filter(|listed| is_same(listed));
        let run = held.and_then(record::run);
        let is_gone = |listed: &Listed| run.is_some() && record::run(listed) == run;
        for listed in found.snapshots.iter().filter(|listed| is_gone(listed)) {
            self.blobs.remove_snapshot(name, listed.snapshot.as_deref().unwrap_or_default())?;
        }
        // The blob itself goes with its last point, unless a run fills it.
        let is_last = found.snapshots.iter().all(is_gone);
        let Some(blob) = found.blob.filter(|_| is_last) else { return Ok(()) };
        let is_idle = record::run(&blob).is_some() || Record::of(&blob).is_some_and(|record| record.run.is_none());
        if is_idle {
            self.blobs.remove(name, None, &blob.etag)?;
        }
        Ok(())
    }
}

fn check_size(work: &Work) -> Result<(), TargetError> {
    match vhd::blob(work.size) {
        len if len > MOST_BLOB => Err(TargetError::Unfit(format!(
            "the volume has {} bytes and a page blob at most {MOST_BLOB}; choose another target for it",
            work.size
        ))),
        _ => Ok(()),
    }
}
