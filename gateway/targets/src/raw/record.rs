//! What a file or device holds, written down beside it: `<target>.sluice.json`, or for a block device a file in a folder of the gateway's state, named
//! after its path and size.

use crate::error::TargetError;
use crate::tags;
use crate::target::Point;
use dedupe::{GenerationId, LineageId, RunId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Number of the record's format. 1 knew no run that was not finished; such a record is not believed any more, which costs one whole run.
const FORMAT: u32 = 2;
/// Bytes of a record at most.
const MOST: u64 = 64 << 10;
/// Runs that were given up, one after the other, before the target is taken as unknown: each one adds to what has to be written.
pub(super) const MOST_OTHERS: usize = 16;

/// What a file looked like after it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(super) size: u64,
    pub(super) inode: u64,
    pub(super) modified_ns: u64,
}

/// What a target holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) lineage: LineageId,
    /// The point that is there, or was before what `begun` says.
    pub(super) point: Option<Point>,
    /// A run that is not finished, or was given up.
    pub(super) begun: Option<Begun>,
    /// How the file looked when the point was proved.
    pub(super) stamp: Option<Stamp>,
}

/// What was begun on top of a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    /// The run that may go on; `None`: it was given up.
    #[serde(with = "as_text")]
    pub(super) run: Option<RunId>,
    /// Generations of which a part may be there.
    #[serde(with = "many_as_text")]
    pub(super) others: Vec<GenerationId>,
    /// Whether what lies under them is unknown.
    pub(super) is_unknown: bool,
}

/// The record as JSON, for people too.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    note: String,
    lineage: String,
    point: Option<BTreeMap<String, String>>,
    begun: Option<Begun>,
    stamp: Option<Stamp>,
}

/// Where the record of one target is.
#[derive(Debug)]
pub(super) struct Records {
    target: PathBuf,
    path: PathBuf,
}

impl Records {
    /// Beside a file; in `folder` for a device.
    pub(super) fn of(target: &Path, is_device: bool, folder: &Path) -> Result<Records, TargetError> {
        let path = if is_device {
            let size =
                File::open(target).and_then(|file| super::length(&file)).map_err(TargetError::io("open", target))?;
            let name = blake3::hash(format!("{}\n{size}", target.display()).as_bytes());
            folder.join(format!("{}.json", &name.to_hex()[..32]))
        } else {
            target.with_added_extension("sluice.json")
        };
        Ok(Records { target: target.to_owned(), path })
    }

    /// What the target holds; `None` when nothing that can be believed says so.
    pub(super) fn read(&self) -> Option<Record> {
        let mut bytes = Vec::new();
        File::open(&self.path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
        let written: Written =
            serde_json::from_slice(&bytes).ok().filter(|written: &Written| written.format == FORMAT)?;
        let point = match &written.point {
            Some(tags) => Some(tags::point(&self.target.display().to_string(), |name| tags.get(name).cloned())?),
            None => None,
        };
        Some(Record { lineage: written.lineage.parse().ok()?, point, begun: written.begun, stamp: written.stamp })
    }

    /// Writes the record, durably.
    pub(super) fn write(&self, record: &Record) -> Result<(), TargetError> {
        let tags =
            |point| tags::of_generation(point).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let written = Written {
            format: FORMAT,
            note: "Written by sluice-gateway: what the file of this name holds. Removing it makes the next run write everything.".into(),
            lineage: record.lineage.to_string(),
            point: record.point.as_ref().map(tags),
            begun: record.begun.clone(),
            stamp: record.stamp,
        };
        let bytes = serde_json::to_vec_pretty(&written).expect("a record is plain JSON");
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let beside = self.path.with_added_extension("unfinished");
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, &self.path)?;
            sync_folder_of(&self.path)
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&beside); // gives the room back when the disk is full
            TargetError::io("write", &self.path)(error)
        })
    }

    /// Removes it, durably.
    pub(super) fn remove(&self) -> Result<(), TargetError> {
        super::remove(&self.path)
    }
}

impl Record {
    /// Whether the target looks as it did when the record was written.
    pub(super) fn is_stamped(&self, stamp: &Stamp) -> bool {
        self.stamp.as_ref() == Some(stamp)
    }
}

/// Makes the names in a file's folder durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

mod as_text {
    use dedupe::RunId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(run: &Option<RunId>, to: S) -> Result<S::Ok, S::Error> {
        run.map(|run| run.to_string()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<RunId>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

mod many_as_text {
    use dedupe::GenerationId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(all: &[GenerationId], to: S) -> Result<S::Ok, S::Error> {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<GenerationId>, D::Error> {
        let all = Vec::<String>::deserialize(from)?;
        all.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
    }
}
