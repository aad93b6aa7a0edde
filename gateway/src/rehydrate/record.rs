//! What a target holds, written down beside it: `<target>.sluice.json`, or for a block device a file in the state directory named
//! after its path and size.

use super::target::Target;
use crate::files::{self, FileError};
use dedupe::{Generation, GenerationId, LineageId, Root, RootScheme};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Number of the record's format.
const FORMAT: u32 = 1;

/// What a file looked like after it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    pub(crate) inode: u64,
    pub(crate) modified_ns: u64,
}

/// What a target holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) lineage: LineageId,
    pub(crate) generation: GenerationId,
    pub(crate) root: Root,
    stamp: Stamp,
}

/// The record as JSON, for people too.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    note: String,
    lineage: String,
    generation: String,
    number: u64,
    root: String,
    stamp: Stamp,
}

/// Where the record of one target is.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
}

impl Records {
    /// Beside a file; in the state directory for a device.
    pub(crate) fn of(target: &Target, state: &Path) -> Records {
        if !target.is_device() {
            return Records { path: target.path().with_added_extension("sluice.json") };
        }
        let name = blake3::hash(format!("{}\n{}", target.path().display(), target.len().unwrap_or(0)).as_bytes());
        Records { path: state.join("targets").join(format!("{}.json", &name.to_hex()[..32])) }
    }

    /// What the target holds; `None` when nothing that can be believed says so.
    pub(crate) fn read(&self) -> Option<Record> {
        let written: Written = serde_json::from_slice(&files::read(&self.path).ok()?).ok()?;
        let hash = data_encoding::HEXLOWER.decode(written.root.as_bytes()).ok()?.try_into().ok()?;
        Some(Record {
            lineage: written.lineage.parse().ok()?,
            generation: written.generation.parse().ok()?,
            root: Root { scheme: RootScheme::Blake3, hash },
            stamp: written.stamp,
        })
        .filter(|_| written.format == FORMAT)
    }

    /// Removes the record, durably: the target is about to change.
    pub(crate) fn forget(&self) -> Result<(), FileError> {
        files::remove(&self.path)
    }

    /// Writes the record, durably: the target is proved.
    pub(crate) fn remember(&self, record: &(Record, u64)) -> Result<(), FileError> {
        let (record, number) = record;
        if let Some(folder) = self.path.parent().filter(|folder| folder.ends_with("targets")) {
            files::private_folder(folder)?;
        }
        let written = Written {
            format: FORMAT,
            note: "Written by sluice-gateway: what the file of this name holds. Removing it makes the next run write everything.".into(),
            lineage: record.lineage.to_string(),
            generation: record.generation.to_string(),
            number: *number,
            root: record.root.to_string(),
            stamp: record.stamp,
        };
        files::write_private(&self.path, &serde_json::to_vec_pretty(&written).expect("a record is plain JSON"))
    }
}

impl Record {
    /// The record of a generation and its number for people.
    pub(crate) fn new(generation: &Generation, root: Root, stamp: Stamp) -> (Record, u64) {
        (Record { lineage: generation.lineage, generation: generation.id, root, stamp }, generation.number)
    }

    /// Whether the target looks as it did when the record was written.
    pub(crate) fn is_stamped(&self, stamp: &Stamp) -> bool {
        self.stamp == *stamp
    }
}
