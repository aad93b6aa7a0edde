//! What the media of an unfinished seed said, kept until it is imported: `seeds/<seed>.json` in the state directory. Losing it loses nothing but the list.

use super::import::DamagedPart;
use crate::files::{self, FileError};
use dedupe::{ByteCount, Draft, SLAB, SeedId, StoreError};
use seed::manifest::{Manifest, Run, Volume, runs_of, slabs_of};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Damaged parts that are remembered.
const MOST: usize = 1000;

/// What is known of the media of a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The shipment.
    pub shipment: String,
    /// The volume, as manifests have it.
    pub volume: Volume,
    /// Media that were given, and whether each is the last.
    pub media: BTreeMap<u32, bool>,
    /// Parts that could not be read.
    pub damaged: Vec<DamagedPart>,
}

/// What is not in yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Missing {
    /// Slabs.
    pub slabs: Vec<Run>,
    /// Bytes of the volume.
    pub bytes: u64,
}

impl Missing {
    /// Of a volume in its draft.
    pub fn of(draft: &Arc<Draft>, volume: &Volume) -> Result<Missing, StoreError> {
        let (mut slabs, mut bytes) = (Vec::new(), 0);
        for slab in slabs_of(&volume.slabs) {
            if !draft.has_slab(slab)? {
                bytes += ByteCount(volume.size).0.saturating_sub(slab.offset().0).min(SLAB as u64);
                slabs.push(slab);
            }
        }
        Ok(Missing { slabs: runs_of(slabs), bytes })
    }
}

fn path(state: &Path, seed: SeedId) -> PathBuf {
    state.join("seeds").join(format!("{seed}.json"))
}

impl Kept {
    /// Adds what a medium said.
    pub(super) fn add(
        state: &Path,
        volume: &Volume,
        manifest: &Manifest,
        damaged: &[DamagedPart],
    ) -> Result<(), FileError> {
        let mut kept = Kept::load(state, volume.seed).unwrap_or_else(|| Kept {
            shipment: manifest.medium.shipment.to_string(),
            volume: volume.clone(),
            media: BTreeMap::new(),
            damaged: Vec::new(),
        });
        kept.media.insert(manifest.medium.number, manifest.last);
        let of_this = format!("{}/", manifest.medium.number);
        kept.damaged.retain(|part| !part.part.starts_with(&of_this));
        kept.damaged.extend(damaged.iter().cloned());
        kept.damaged.truncate(MOST);
        let path = path(state, volume.seed);
        files::private_folder(&state.join("seeds"))?;
        files::write_private(&path, &serde_json::to_vec(&kept).expect("plain data serialises"))
    }

    /// What is kept of a seed, if anything is.
    pub fn load(state: &Path, seed: SeedId) -> Option<Kept> {
        serde_json::from_slice(&std::fs::read(path(state, seed)).ok()?).ok()
    }

    pub(super) fn remove(state: &Path, seed: SeedId) -> Result<(), FileError> {
        let path = path(state, seed);
        if path.exists() { files::remove(&path) } else { Ok(()) }
    }
}
