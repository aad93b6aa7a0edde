//! What is durable of a restore: `restores/<id>.json`, written whole at each step.

use super::target::Stamp;
use crate::files;
use dedupe::{BlockNumber, GenerationId, LineageId, Root, UnixMillis};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

const FORMAT: &str = "sluice-edge-restore";
const VERSION: u32 = 1;
/// Restores that are remembered after their end.
pub(crate) const REMEMBERED: usize = 20;

/// One restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    format: String,
    version: u32,
    /// Its number at this edge.
    pub(crate) id: u64,
    /// The volume's name when it was asked for.
    pub(crate) volume: String,
    /// Its lineage.
    pub(crate) lineage: LineageId,
    /// What is restored.
    pub(crate) generation: GenerationId,
    /// Its number, for people: the gateway's, or this edge's of a generation that the gateway does not hold.
    pub(crate) number: u64,
    /// What its bytes hash to.
    pub(crate) root: Root,
    /// Bytes of the volume.
    pub(crate) size: u64,
    /// Where to.
    pub(crate) to: PathBuf,
    /// What the target was when it began.
    pub(crate) stamp: Option<Stamp>,
    /// Whether it is what the volume is captured from.
    pub(crate) onto_source: bool,
    /// Whether its bytes share the way down with the answers to replication.
    pub(crate) priority: bool,
    /// Who asked.
    pub(crate) actor: String,
    /// When.
    pub(crate) asked_at: UnixMillis,
    /// The first block that is not in its place yet.
    pub(crate) cursor: BlockNumber,
    /// Bytes that came over the line for it.
    pub(crate) fetched: u64,
    /// Bytes that were expected to come over the line.
    pub(crate) expected: u64,
    /// What was written turned out wrong once: everything is brought anew, without the local store's help.
    pub(crate) whole: bool,
    /// How it stands.
    pub(crate) phase: Phase,
}

/// How a restore stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Phase {
    /// Blocks are being put into their places. The target is incomplete.
    Writing,
    /// Everything is written and is read back. The target is not proved yet.
    Proving,
    /// Read back, and its root is that of the generation.
    Done {
        /// When, Unix milliseconds.
        at: u64,
    },
    /// It cannot go on. The target is incomplete.
    Failed {
        /// Why.
        why: String,
    },
    /// Somebody ended it. The target is incomplete.
    Cancelled,
}

impl Phase {
    /// Whether nothing more happens.
    pub fn is_over(&self) -> bool {
        !matches!(self, Phase::Writing | Phase::Proving)
    }
}

/// What a restore begins with.
pub(crate) struct Asked {
    pub(crate) volume: String,
    pub(crate) lineage: LineageId,
    pub(crate) generation: GenerationId,
    pub(crate) number: u64,
    pub(crate) root: Root,
    pub(crate) size: u64,
    pub(crate) to: PathBuf,
    pub(crate) onto_source: bool,
    pub(crate) priority: bool,
    pub(crate) actor: String,
    pub(crate) expected: u64,
}

impl Record {
    pub(crate) fn new(id: u64, asked: Asked, now: UnixMillis) -> Record {
        Record {
            format: FORMAT.into(),
            version: VERSION,
            id,
            volume: asked.volume,
            lineage: asked.lineage,
            generation: asked.generation,
            number: asked.number,
            root: asked.root,
            size: asked.size,
            to: asked.to,
            stamp: None,
            onto_source: asked.onto_source,
            priority: asked.priority,
            actor: asked.actor,
            asked_at: now,
            cursor: BlockNumber(0),
            fetched: 0,
            expected: asked.expected,
            whole: false,
            phase: Phase::Writing,
        }
    }

    /// Makes it durable. Blocks.
    pub(crate) fn store(&self, folder: &Path) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("plain data serialises");
        files::write_whole(&path(folder, self.id), &[&json])
    }

    /// Forgets it. Blocks.
    pub(crate) fn remove(&self, folder: &Path) -> io::Result<()> {
        match std::fs::remove_file(path(folder, self.id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All that are remembered, oldest first; one that does not parse is left where it is and said. Blocks.
    pub(crate) fn load_all(folder: &Path) -> io::Result<Vec<Record>> {
        files::private_directory(folder)?;
        let mut records = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            match parse(&std::fs::read(&path)?) {
                Ok(record) => records.push(record),
                Err(why) => {
                    tracing::error!(path = %path.display(), why, "a restore cannot be gone on with; begin it anew, and remove this file");
                }
            }
        }
        records.sort_by_key(|record| record.id);
        Ok(records)
    }
}

fn path(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id}.json"))
}

fn parse(bytes: &[u8]) -> Result<Record, String> {
    let record: Record = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if record.format != FORMAT || record.version > VERSION {
        return Err(format!("format {} {}", record.format, record.version));
    }
    Ok(record)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use dedupe::RootScheme;

    pub(crate) fn record(id: u64) -> Record {
        let asked = Asked {
            volume: "disk".into(),
            lineage: LineageId([1; 16]),
            generation: GenerationId([2; 16]),
            number: 3,
            root: Root { scheme: RootScheme::Blake3, hash: [4; 32] },
            size: 1 << 20,
            to: "/restored.img".into(),
            onto_source: false,
            priority: false,
            actor: "li".into(),
            expected: 5,
        };
        Record::new(id, asked, UnixMillis(6))
    }

    #[test]
    fn restores_are_found_again_and_what_is_none_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("restores");
        assert_eq!(Record::load_all(&folder).unwrap(), []);
        let (mut one, two) = (record(1), record(12));
        two.store(&folder).unwrap();
        one.store(&folder).unwrap();
        one.cursor = BlockNumber(77);
        one.phase = Phase::Failed { why: "x".into() };
        one.store(&folder).unwrap();
        std::fs::write(folder.join("3.json"), "{").unwrap();
        std::fs::write(folder.join("4.part"), "bytes").unwrap();
        let newer = serde_json::to_string(&record(5)).unwrap().replace("\"version\":1", "\"version\":2");
        std::fs::write(folder.join("5.json"), newer).unwrap();
        assert_eq!(Record::load_all(&folder).unwrap(), [one.clone(), two.clone()]);
        one.remove(&folder).unwrap();
        one.remove(&folder).unwrap();
        assert_eq!(Record::load_all(&folder).unwrap(), [two]);
        assert!(!Phase::Proving.is_over() && Phase::Cancelled.is_over());
    }
}
