//! Where packs lie: the narrow waist under the store. Packs are written once, whole, and never change.

use crate::id::PackId;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What a pack holds. The two are kept apart because old data may be evicted at the edge and records may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PackClass {
    /// Chunks of volumes.
    Data,
    /// Slab, generation and lineage records: what the index is rebuilt from.
    Meta,
    /// A second copy of each meta pack. Records are 1-2 % of the data, and no other end can send them again.
    MetaCopy,
}

impl PackClass {
    /// The file name's ending.
    pub fn suffix(self) -> &'static str {
        match self {
            PackClass::Data => "data",
            PackClass::Meta => "meta",
            PackClass::MetaCopy => "copy",
        }
    }
}

/// What was attempted on a pack, and what came of it.
#[derive(Debug, thiserror::Error)]
#[error("{what} pack {pack}: {source}")]
pub struct StorageError {
    /// `read`, `write`, …
    pub what: &'static str,
    /// Which pack.
    pub pack: String,
    /// The cause.
    #[source]
    pub source: io::Error,
}

impl StorageError {
    /// Ties an I/O error to the pack it happened on.
    pub fn new(what: &'static str, pack: impl ToString, source: io::Error) -> Self {
        StorageError { what, pack: pack.to_string(), source }
    }

    /// Whether the disk is full or over quota: a state that ends by itself when there is room.
    pub fn is_no_room(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the pack is not there.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Keeps packs. `put` returns when the pack is durable; nothing is ever overwritten.
pub trait PackStorage: Send + Sync {
    /// Writes a whole pack, durably.
    fn put(&self, pack: PackId, class: PackClass, bytes: &[u8]) -> Result<(), StorageError>;
    /// Fills `buffer` from `offset` on; an error when the pack is shorter.
    fn read_at(&self, pack: PackId, class: PackClass, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError>;
    /// The pack's length in bytes.
    fn len(&self, pack: PackId, class: PackClass) -> Result<u64, StorageError>;
    /// All packs.
    fn list(&self) -> Result<Vec<(PackId, PackClass)>, StorageError>;
    /// Removes a pack; that it is gone already is no error.
    fn delete(&self, pack: PackId, class: PackClass) -> Result<(), StorageError>;
    /// Several ranges (offset, length) of one pack, in order. One request where the storage is far away.
    fn read_ranges(
        &self,
        pack: PackId,
        class: PackClass,
        ranges: &[(u64, usize)],
    ) -> Result<Vec<Vec<u8>>, StorageError> {
        ranges
            .iter()
            .map(|&(offset, len)| {
                let mut buffer = vec![0; len];
                self.read_at(pack, class, offset, &mut buffer)?;
                Ok(buffer)
            })
            .collect()
    }
}

/// Packs as files of a directory: `ab/abcd….data`. Files are written under another name, synced, renamed, and the folder synced.
pub struct LocalPacks {
    dir: PathBuf,
    open: Mutex<Vec<OpenFile>>,
}

/// A file that is open for reading.
type OpenFile = ((PackId, PackClass), std::sync::Arc<File>);

/// Open files kept for reading. Bases of one parcel come from tens of packs.
const OPEN_FILES: usize = 64;

impl LocalPacks {
    /// Opens (and makes) the directory, and removes what a crash left half-written.
    pub fn open(dir: &Path) -> Result<LocalPacks, StorageError> {
        let fail = |what| move |source| StorageError::new(what, dir.display(), source);
        fs::create_dir_all(dir).map_err(fail("make folder for"))?;
        let packs = LocalPacks { dir: dir.to_owned(), open: Mutex::default() };
        for entry in fs::read_dir(dir).map_err(fail("list"))?.flatten() {
            if entry.path().extension().is_some_and(|e| e == "new") {
                let _ = fs::remove_file(entry.path()); // never named by any index
            }
        }
        Ok(packs)
    }

    fn path(&self, pack: PackId, class: PackClass) -> PathBuf {
        let name = pack.to_string();
        self.dir.join(&name[..2]).join(format!("{name}.{}", class.suffix()))
    }

    fn file(&self, pack: PackId, class: PackClass) -> Result<std::sync::Arc<File>, StorageError> {
        let mut open = self.open.lock().expect("no panic while held");
        if let Some(at) = open.iter().position(|(key, _)| *key == (pack, class)) {
            let entry = open.remove(at);
            open.push(entry);
            return Ok(open[open.len() - 1].1.clone());
        }
        let file = File::open(self.path(pack, class)).map_err(|e| StorageError::new("open", pack, e))?;
        if open.len() >= OPEN_FILES {
            open.remove(0);
        }
        let file = std::sync::Arc::new(file);
        open.push(((pack, class), file.clone()));
        Ok(file)
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl PackStorage for LocalPacks {
    fn put(&self, pack: PackId, class: PackClass, bytes: &[u8]) -> Result<(), StorageError> {
        let path = self.path(pack, class);
        let folder = path.parent().expect("a pack's path has a folder");
        let draft = self.dir.join(format!("{pack}.new"));
        let write = || -> io::Result<()> {
            if !folder.exists() {
                fs::create_dir_all(folder)?;
                sync_dir(&self.dir)?;
            }
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&draft, &path)?;
            sync_dir(folder)
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&draft); // gives the room back when the disk is full
            StorageError::new("write", pack, e)
        })
    }

    fn read_at(&self, pack: PackId, class: PackClass, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.file(pack, class)?.read_exact_at(buffer, offset).map_err(|e| StorageError::new("read", pack, e))
    }

    fn len(&self, pack: PackId, class: PackClass) -> Result<u64, StorageError> {
        Ok(self.file(pack, class)?.metadata().map_err(|e| StorageError::new("look at", pack, e))?.len())
    }

    fn list(&self) -> Result<Vec<(PackId, PackClass)>, StorageError> {
        let list = || -> io::Result<Vec<(PackId, PackClass)>> {
            let mut packs = Vec::new();
            for folder in fs::read_dir(&self.dir)? {
                let folder = folder?;
                if !folder.file_type()?.is_dir() {
                    continue;
                }
                for entry in fs::read_dir(folder.path())? {
                    packs.extend(entry?.file_name().to_str().and_then(parse_name));
                }
            }
            Ok(packs)
        };
        list().map_err(|e| StorageError::new("list", self.dir.display(), e))
    }

    fn delete(&self, pack: PackId, class: PackClass) -> Result<(), StorageError> {
        self.open.lock().expect("no panic while held").retain(|(key, _)| *key != (pack, class));
        match fs::remove_file(self.path(pack, class)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StorageError::new("delete", pack, e)),
            _ => Ok(()),
        }
    }
}

/// The pack that a file name `<id>.<class>` stands for.
pub fn parse_name(name: &str) -> Option<(PackId, PackClass)> {
    let (id, suffix) = name.split_once('.')?;
    let class =
        [PackClass::Data, PackClass::Meta, PackClass::MetaCopy].into_iter().find(|class| class.suffix() == suffix)?;
    Some((id.parse().ok()?, class))
}
