//! The images of one volume in a folder, what is written beside them, and which of them builds on which.

use crate::error::TargetError;
use crate::raw::{Stamp, remove, sync_folder_of};
use crate::tags;
use crate::target::{Image, Point};
use dedupe::RunId;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What an image is called while it is filled: its name and this.
pub(super) const UNFINISHED: &str = "unfinished";
/// Number of the record's format.
const FORMAT: u32 = 1;
/// Bytes of a record at most.
const MOST_RECORD: u64 = 64 << 10;
/// Names in the folder at most that are looked at.
const MOST_NAMES: usize = 100_000;

/// What is written beside an image: `NAME.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) format: u32,
    pub(super) note: String,
    pub(super) tags: BTreeMap<String, String>,
    /// How the image looked when it was proved; nothing while it is filled, or while we change what lies under it.
    pub(super) stamp: Option<Stamp>,
}

impl Record {
    pub(super) fn new(tags: impl IntoIterator<Item = (&'static str, String)>, stamp: Option<Stamp>) -> Record {
        let note = "Written by sluice-gateway: what the image of this name holds. Without it the image is not offered any more.";
        let tags = tags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Record { format: FORMAT, note: note.into(), tags, stamp }
    }

    fn read(image: &Path) -> Option<Record> {
        let mut bytes = Vec::new();
        File::open(path_of(image)).ok()?.take(MOST_RECORD).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|record: &Record| record.format == FORMAT)
    }

    /// Writes it beside its image, durably.
    pub(super) fn write(&self, image: &Path) -> Result<(), TargetError> {
        let path = path_of(image);
        let beside = path.with_added_extension(UNFINISHED);
        let bytes = serde_json::to_vec_pretty(self).expect("a record is plain JSON");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)?;
            sync_folder_of(&path)
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&beside); // gives the room back when the disk is full
            TargetError::io("write", &path)(error)
        })
    }

    /// Removes an image's, durably.
    pub(super) fn remove(image: &Path) -> Result<(), TargetError> {
        remove(&path_of(image))
    }

    /// Whether it is there and was written by a run.
    pub(super) fn of_run(image: &Path, run: RunId) -> bool {
        Record::read(image).is_some_and(|record| tags::run(|name| record.tag(name)) == Some(run))
    }

    pub(super) fn tag(&self, name: &str) -> Option<String> {
        self.tags.get(name).cloned()
    }
}

fn path_of(image: &Path) -> PathBuf {
    image.with_added_extension("json")
}

/// What an image's header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The image under it, as its name is written.
    pub(super) backing: Option<String>,
    /// Bytes of the disk.
    pub(super) size: u64,
}

impl Header {
    /// Reads it. `None`: it is no qcow2 image. Source: "qcow2 image file format", docs/interop/qcow2 of QEMU.
    pub(super) fn read(path: &Path) -> io::Result<Option<Header>> {
        let file = File::open(path)?;
        let mut head = [0; 32];
        match file.read_exact_at(&mut head, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes of 32"));
        let len = (number(16) >> 32) as usize;
        if head[..4] != *b"QFI\xfb" || len > 1023 {
            return Ok(None);
        }
        let mut name = vec![0; len];
        let backing = match number(8) {
            0 => None,
            at => file.read_exact_at(&mut name, at).ok().and_then(|()| String::from_utf8(name).ok()),
        };
        Ok(Some(Header { backing, size: number(24) }))
    }
}

/// One image.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) header: Header,
    /// `None`: its removal was begun.
    pub(super) record: Option<Record>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Chain(Vec<Found>);

impl Chain {
    /// The images of the volume of this label.
    pub(super) fn read(folder: &Path, label: &str) -> Result<Chain, TargetError> {
        let failed = TargetError::io("read", folder);
        let mut all = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(&failed)?.take(MOST_NAMES) {
            let Ok(name) = entry.map_err(&failed)?.file_name().into_string() else { continue };
            let is_image = name.ends_with(".qcow2") || name.ends_with(".qcow2.unfinished");
            if !is_image || !name.strip_prefix(label).is_some_and(|rest| rest.starts_with('.')) {
                continue;
            }
            let path = folder.join(&name);
            if let Some(header) = Header::read(&path).map_err(TargetError::io("read", &path))? {
                let record = Record::read(&path);
                all.push(Found { name, path, header, record });
            }
        }
        Ok(Chain(all))
    }

    pub(super) fn find(&self, name: &str) -> Option<&Found> {
        self.0.iter().find(|found| found.name == name)
    }

    /// Those that build on an image.
    pub(super) fn children(&self, name: &str) -> Vec<&Found> {
        self.0.iter().filter(|found| found.header.backing.as_deref() == Some(name)).collect()
    }

    /// How many images lie under one, itself included; `None` when one of them is missing or was touched.
    pub(super) fn depth(&self, found: &Found) -> Option<usize> {
        let mut here = found;
        for depth in 1..=self.0.len() {
            let stamp = here.record.as_ref().and_then(|record| record.stamp);
            if stamp.is_some_and(|stamp| Stamp::of(&here.path).ok() != Some(stamp)) {
                return None;
            }
            match &here.header.backing {
                None => return Some(depth),
                Some(under) => here = self.find(under).filter(|under| !under.is_unfinished())?,
            }
        }
        None // in a circle
    }

    /// The points among them, oldest first.
    pub(super) fn points(&self, image: &Image) -> Vec<(Point, &Found)> {
        let whole = self.0.iter().filter(|found| !found.is_unfinished() && self.depth(found).is_some());
        let mut points: Vec<_> = whole.filter_map(|found| Some((found.point(image)?, found))).collect();
        points.sort_by_key(|(point, _)| (point.captured.0, point.number));
        points
    }
}

impl Found {
    pub(super) fn is_unfinished(&self) -> bool {
        self.name.ends_with(UNFINISHED)
    }

    fn point(&self, image: &Image) -> Option<Point> {
        let record = self.record.as_ref().filter(|record| tags::is_of(image, |name| record.tag(name)))?;
        tags::point(&self.path.display().to_string(), |name| record.tag(name))
    }
}

/// One volume's images, for one process at a time.
pub(super) struct Lock {
    folder: PathBuf,
    label: String,
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    /// [`TargetError::Busy`] when another run has it.
    pub(super) fn take(folder: &Path, label: &str) -> Result<Lock, TargetError> {
        let path = folder.join(format!(".{label}.lock"));
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = file.map_err(TargetError::io("open", &path))?;
            let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
                Errno::EWOULDBLOCK => TargetError::Busy(folder.join(label)),
                errno => TargetError::io("lock", &path)(errno.into()),
            })?;
            // The one who had it before may have removed its name with the last image.
            let inode = |metadata: io::Result<std::fs::Metadata>| metadata.map(|metadata| metadata.ino()).ok();
            if inode(file.metadata()) == inode(std::fs::metadata(&path)) {
                return Ok(Lock { folder: folder.to_owned(), label: label.to_owned(), path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    /// Its file goes with the volume's last image.
    fn drop(&mut self) {
        if Chain::read(&self.folder, &self.label).is_ok_and(|chain| chain.0.is_empty()) {
            let _ = std::fs::remove_file(&self.path); // an empty file that is left does no harm
        }
    }
}
