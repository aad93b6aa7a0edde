//! The volumes that this edge replicates: a list that the operator changes while the daemon runs, kept in `volumes.json`.

use crate::capture::OnReadError;
use crate::files;
use crate::source::SourceSpec;
use crate::source::nbd::NbdUri;
use dedupe::LineageId;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use wire::message::MAX_NAME;

const FORMAT: &str = "sluice-edge-volumes";
const VERSION: u32 = 1;

/// One volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeEntry {
    /// Its name at this site.
    pub name: String,
    /// Its lineage, made when it was added.
    pub lineage: LineageId,
    /// Where its bytes come from.
    pub source: SourceSpec,
    /// What is done when sectors cannot be read.
    #[serde(default)]
    pub on_read_error: OnReadError,
    /// The script that freezes what uses it while its moment is taken, and thaws it ([`crate::freeze`]).
    #[serde(default)]
    pub freeze: Option<PathBuf>,
}

/// Why the list of volumes could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum VolumesError {
    /// The file could not be read or written.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "{path} is not a list of volumes ({why}); restore it from a backup, or remove it and add the volumes again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// A name that cannot be used.
    #[error(
        "`{0}` is not a volume name: use 1 to {MAX_NAME} letters, digits, `.`, `_` and `-`, beginning with a letter or digit"
    )]
    BadName(String),
    /// The name is taken.
    #[error("there is a volume `{0}` already; choose another name, or remove that one first")]
    Taken(String),
    /// Another volume has that source.
    #[error("{source_text} is replicated already, as volume `{name}`")]
    SameSource {
        /// The source.
        source_text: String,
        /// The volume.
        name: String,
    },
    /// There is no bitmap to follow.
    #[error("volume `{name}` comes from {source_text}, and only an NBD export of QEMU has dirty bitmaps")]
    NoBitmaps {
        /// The volume.
        name: String,
        /// Its source.
        source_text: String,
    },
    /// The bitmap's name cannot be used.
    #[error("`{0}` is not the name of a dirty bitmap; use up to 1000 characters without control characters")]
    BadBitmap(String),
    /// No volume of that name.
    #[error("there is no volume `{name}`; there are: {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: String,
    version: u32,
    volumes: Vec<VolumeEntry>,
}

/// The list, in the order in which volumes were added.
#[derive(Debug)]
pub struct Volumes {
    path: PathBuf,
    entries: Vec<VolumeEntry>,
}

impl Volumes {
    /// Reads the list at `path`; none is there: an empty one.
    pub fn load(path: &Path) -> Result<Volumes, VolumesError> {
        let damaged = |why: String| VolumesError::Damaged { path: path.to_owned(), why };
        let entries = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(VolumesError::File { what: "read", path: path.to_owned(), source }),
            Ok(bytes) => {
                let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
                if record.format != FORMAT || record.version > VERSION {
                    return Err(damaged(format!("format {} {}", record.format, record.version)));
                }
                record.volumes
            }
        };
        Ok(Volumes { path: path.to_owned(), entries })
    }

    /// All volumes.
    pub fn entries(&self) -> &[VolumeEntry] {
        &self.entries
    }

    /// The volume of this name.
    pub fn find(&self, name: &str) -> Result<&VolumeEntry, VolumesError> {
        self.entries.iter().find(|entry| entry.name == name).ok_or_else(|| {
            let names: Vec<_> = self.entries.iter().map(|entry| entry.name.as_str()).collect();
            let known = if names.is_empty() { "none".into() } else { names.join(", ") };
            VolumesError::Unknown { name: name.chars().take(MAX_NAME).collect(), known }
        })
    }

    /// Adds a volume, durably.
    pub fn add(&mut self, entry: VolumeEntry) -> Result<(), VolumesError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let name = entry.name.as_str();
        let good = name.len() <= MAX_NAME && name.bytes().all(allowed);
        if !good || !name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) {
            return Err(VolumesError::BadName(name.chars().take(MAX_NAME).collect()));
        }
        if self.find(name).is_ok() {
            return Err(VolumesError::Taken(entry.name));
        }
        if let Some(same) = self.entries.iter().find(|other| other.source.is_same_disk(&entry.source)) {
            return Err(VolumesError::SameSource { source_text: entry.source.to_string(), name: same.name.clone() });
        }
        let mut entries = self.entries.clone();
        entries.push(entry);
        self.write(entries)
    }

    /// Removes a volume, durably. What the gateway holds of it stays there.
    pub fn remove(&mut self, name: &str) -> Result<VolumeEntry, VolumesError> {
        let removed = self.find(name)?.clone();
        let entries = self.entries.iter().filter(|entry| entry.name != name).cloned().collect();
        self.write(entries)?;
        Ok(removed)
    }

    /// From now on a volume's changes are followed by this dirty bitmap, durably. Returns the new source.
    pub fn follow(&mut self, name: &str, bitmap: String) -> Result<SourceSpec, VolumesError> {
        let SourceSpec::Nbd(uri) = self.find(name)?.source.clone() else {
            let source_text = self.find(name)?.source.to_string();
            return Err(VolumesError::NoBitmaps { name: name.into(), source_text });
        };
        if !(1..=1000).contains(&bitmap.len()) || bitmap.chars().any(char::is_control) {
            return Err(VolumesError::BadBitmap(bitmap.escape_default().take(MAX_NAME).collect()));
        }
        let source = SourceSpec::Nbd(NbdUri { bitmap: Some(bitmap), ..uri });
        let mut entries = self.entries.clone();
        entries.iter_mut().filter(|entry| entry.name == name).for_each(|entry| entry.source = source.clone());
        self.write(entries)?;
        Ok(source)
    }

    fn write(&mut self, entries: Vec<VolumeEntry>) -> Result<(), VolumesError> {
        let record = Record { format: FORMAT.into(), version: VERSION, volumes: entries };
        let json = serde_json::to_vec_pretty(&record).expect("plain data serialises");
        files::write_whole(&self.path, &[&json]).map_err(|source| VolumesError::File {
            what: "write",
            path: self.path.clone(),
            source,
        })?;
        self.entries = record.volumes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, path: &str) -> VolumeEntry {
        VolumeEntry {
            name: name.into(),
            lineage: LineageId::random(),
            source: SourceSpec::File(path.into()),
            on_read_error: OnReadError::List,
            freeze: None,
        }
    }

    #[test]
    fn the_list_is_durable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volumes.json");
        let mut volumes = Volumes::load(&path).unwrap();
        volumes.add(entry("db", "/a")).unwrap();
        volumes.add(entry("files", "/b")).unwrap();
        assert_eq!(Volumes::load(&path).unwrap().entries(), volumes.entries());
        volumes.remove("db").unwrap();
        assert_eq!(Volumes::load(&path).unwrap().entries().len(), 1);
    }

    #[test]
    fn what_cannot_be_added_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let mut volumes = Volumes::load(&dir.path().join("volumes.json")).unwrap();
        assert_eq!(volumes.find("db").unwrap_err().to_string(), "there is no volume `db`; there are: none");
        volumes.add(entry("db", "/a")).unwrap();
        for bad in ["", "-x", "a/b", "ä", &"x".repeat(101)] {
            assert!(matches!(volumes.add(entry(bad, "/z")), Err(VolumesError::BadName(_))), "{bad}");
        }
        let taken = volumes.add(entry("db", "/c")).unwrap_err().to_string();
        assert_eq!(taken, "there is a volume `db` already; choose another name, or remove that one first");
        let same = volumes.add(entry("db2", "/a")).unwrap_err().to_string();
        assert_eq!(same, "file:/a is replicated already, as volume `db`");
        volumes.add(VolumeEntry { source: "nbd://h/x?bitmap=a".parse().unwrap(), ..entry("vm", "/vm") }).unwrap();
        let again = VolumeEntry { source: "nbd://h/x?bitmap=b".parse().unwrap(), ..entry("vm2", "/vm") };
        assert!(matches!(volumes.add(again), Err(VolumesError::SameSource { .. })));
        let followed = volumes.follow("vm", "b".into()).unwrap();
        assert_eq!(followed.to_string(), "nbd://h:10809/x?bitmap=b");
        assert_eq!(Volumes::load(&dir.path().join("volumes.json")).unwrap().find("vm").unwrap().source, followed);
        assert!(matches!(volumes.follow("db", "b".into()), Err(VolumesError::NoBitmaps { .. })));
        assert!(matches!(volumes.follow("vm", "\n".into()), Err(VolumesError::BadBitmap(_))));
        volumes.remove("vm").unwrap();
        assert_eq!(volumes.remove("x").unwrap_err().to_string(), "there is no volume `x`; there are: db");
    }
}
