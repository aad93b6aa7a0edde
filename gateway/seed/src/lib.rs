//! Shipped media: seeds that travel by courier. What an edge writes and a gateway reads.
//!
//! ```text
//! MOUNT/sluice-seed-<id>-<medium>/
//!   manifest          what is on it, signed by the edge; for the gateway and for people
//!   NNNN.part         chunks, each sealed
//!   NNNN.index        the slabs of that part: their records, with the names and spots of their chunks, sealed
//!   LABEL.txt, label.svg
//! ```
//!
//! * [`key`]: for whom a shipment is sealed, and what seals it.
//! * [`manifest`]: what a medium says of itself, and why it is believed.
//! * [`part`]: parts and their indexes.
//! * [`label`]: for people and scanners.
//! * [`write`](mod@write): a part from slabs of a store. [`read`]: a medium into drafts.
//! * [`fuzz`]: one entry per decoder.
//!
//! A *shipment* is all media of one export. It carries one seed or several and goes by the id of the first.

pub mod fuzz;
pub mod key;
pub mod label;
pub mod manifest;
pub mod part;
pub mod read;
pub mod write;

use std::io;
use std::path::{Path, PathBuf};

/// Bytes of one part at most: far below the 4 GiB that a file of FAT32 may have, and little enough to be done again after a crash.
pub const MAX_PART: u32 = 256 << 20;
/// Bytes of a part's index at most, sealed. A part is closed when its index would be longer.
pub const MAX_INDEX: usize = 16 << 20;

/// A file of a medium could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}")]
pub struct FileError {
    /// `read`, `write`, …
    pub what: &'static str,
    /// Which file.
    pub path: PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Ties an I/O error to the file it happened on.
    pub fn on(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError { what, path, source }
    }

    /// Whether the medium is full.
    pub fn is_no_room(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }
}

/// Name of a medium's folder. It has the medium's number, so that the contents of several media can be copied to one disk.
pub fn folder_name(shipment: dedupe::SeedId, medium: u32) -> String {
    format!("{PREFIX}{shipment}-{medium}")
}

const PREFIX: &str = "sluice-seed-";

/// Folders of media at `mount`, and `mount` itself if it is one; by name. At most 1000.
pub fn folders_at(mount: &Path) -> Result<Vec<PathBuf>, FileError> {
    let is_medium = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.starts_with(PREFIX));
    if mount.file_name().is_some_and(is_medium) {
        return Ok(vec![mount.to_owned()]);
    }
    let entries = std::fs::read_dir(mount).map_err(FileError::on("read the folder", mount))?;
    let mut found: Vec<PathBuf> = entries
        .take(10_000)
        .filter_map(|entry| entry.ok().filter(|entry| is_medium(&entry.file_name())))
        .map(|entry| entry.path())
        .take(1000)
        .collect();
    found.sort();
    Ok(found)
}
