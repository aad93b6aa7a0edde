//! The store of releases: what is imported is proved before anybody sees it, and what is removed leaves nothing.
//!
//! A release is a lineage of its own with one generation: the newest generation of a lineage can never be forgotten, and chunks are shared over all of them.
//! The row in the catalogue is written last, and taken away first; what a crash leaves between the two is removed at the next start ([`State::tidy_releases`]).

use super::{Opened, Releases, ReleasesError};
use crate::catalogue::ReleaseRow;
use crate::files;
use crate::state::{State, store_key};
use dedupe::image::Image;
use dedupe::{
    BLOCK, BlockNumber, ByteCount, Draft, GenerationId, Kind, Lineage, LineageId, LocalPacks, NewGeneration, Pace,
    Progress, SLAB, SlabNumber, SlabScan, Store, StoreError, StoreOptions, View,
};
use release::bundle;
use std::io::{self, Read};
use std::sync::Arc;
use wire::release::{Manifest, ReleaseId};

/// A release holds few records, and nothing waits for them: small caches.
const OPTIONS: StoreOptions = StoreOptions { index_cache: 16 << 20, record_cache: 16 << 20, pack_target: 32 << 20 };
/// Bytes after which what is imported is made durable: bounds what a store holds in memory.
const CHECKPOINT: u64 = 256 << 20;

/// The image of a release, read from the store.
pub(crate) struct StoredImage(View);

impl Image for StoredImage {
    fn blocks(&self) -> u64 {
        self.0.size().blocks()
    }

    fn read(&self, first: BlockNumber, into: &mut [u8]) -> io::Result<()> {
        self.0.read(first.offset(), into).map_err(io::Error::other)
    }
}

impl ReleaseRow {
    /// Its manifest. It was believed when the release was imported; the catalogue is the gateway's own.
    pub(crate) fn read(&self) -> Result<Manifest, ReleasesError> {
        Ok(Manifest::read_unproved(&self.manifest)?.0)
    }
}

impl Releases {
    /// The store, opened if it is not open. Blocks.
    fn store(&self) -> Result<Arc<Store>, ReleasesError> {
        let mut opened = self.store.lock().expect("no thread panics while it opens a store");
        if let Some(Opened(store)) = &*opened {
            return Ok(store.clone());
        }
        files::private_folder(&self.folder.join("packs"))?;
        let keys = store_key(&self.folder.join("key"))?;
        let packs = LocalPacks::open(&self.folder.join("packs")).map_err(crate::state::StateError::from)?;
        let store = Store::open(&self.folder.join("index.redb"), Arc::new(packs), keys, OPTIONS)?;
        *opened = Some(Opened(store.clone()));
        Ok(store)
    }

    /// After an I/O error the index refuses everything until it is opened anew: lets that happen.
    fn note_failure(&self, error: &ReleasesError) {
        if let ReleasesError::Store(StoreError::Index(_)) = error {
            tracing::error!(%error, "the index of releases failed and will be opened anew");
            *self.store.lock().expect("no thread panics while it opens a store") = None;
        }
    }

    /// Whether the image of a release is here. Blocks.
    pub(crate) fn holds(&self, row: &ReleaseRow) -> Result<bool, ReleasesError> {
        Ok(self.store()?.generation(row.generation)?.is_some())
    }

    /// The image of a release. Blocks.
    pub(crate) fn image(&self, row: &ReleaseRow) -> Result<StoredImage, ReleasesError> {
        Ok(StoredImage(self.store()?.view(row.generation)?))
    }
}

impl State {
    /// Imports a bundle of which `len` bytes are to be read. `report` hears how many bytes of how many of the image are here, and says whether to go on. Blocks.
    pub(crate) fn import_release(
        &self,
        from: impl Read,
        by: &str,
        report: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<ReleaseRow, ReleasesError> {
        let releases = &self.releases;
        let _alone = releases.changing.try_lock().map_err(|_| ReleasesError::Busy)?;
        let (text, manifest, rest) = bundle::open(from, &releases.trusted()?)?;
        self.check_new(&manifest)?;
        let imported = self.take_image(&manifest, rest, report);
        let (lineage, generation, stored) = imported.inspect_err(|error| releases.note_failure(error))?;
        dedupe::crash_point("gateway.release.sealed");
        let row = ReleaseRow {
            id: manifest.id,
            manifest: text,
            lineage,
            generation,
            stored,
            imported: self.now(),
            by: by.to_owned(),
        };
        self.catalogue.put_release(&row)?;
        tracing::info!(version = manifest.version, release = %manifest.id, by, "release imported");
        Ok(row)
    }

    /// Whether such a release may be taken in.
    fn check_new(&self, manifest: &Manifest) -> Result<(), ReleasesError> {
        for row in self.catalogue.releases()? {
            let known = row.read()?;
            // After a restore from a backup there are rows without images: those are imported again.
            if row.id == manifest.id && self.releases.holds(&row)? {
                let (when, by) = (crate::text::moment(row.imported), row.by);
                return Err(ReleasesError::Exists { version: known.version, when, by });
            }
            if row.id != manifest.id && known.role == manifest.role && known.sequence == manifest.sequence {
                let (new, old) = (manifest.version.clone(), known.version);
                return Err(ReleasesError::SameSequence { new, old, sequence: known.sequence });
            }
        }
        let folder = self.folder();
        let free = files::free_bytes(folder).map_err(files::FileError::on("look at the disk of", folder))?;
        match free >= manifest.bytes.saturating_add(self.reserve) {
            true => Ok(()),
            false => Err(ReleasesError::NoRoom(folder.to_owned(), crate::text::bytes(manifest.bytes))),
        }
    }

    /// Takes the image in, proves it, and seals it; nothing of it stays when that fails.
    fn take_image(
        &self,
        manifest: &Manifest,
        rest: impl Read,
        report: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(LineageId, GenerationId, u64), ReleasesError> {
        let store = self.releases.store()?;
        let lineage = LineageId::random();
        let name = format!("{} {}", manifest.role.word(), manifest.version);
        store.put_lineage(&Lineage { id: lineage, kind: Kind::Upgrade, name, site: None, fork_of: None })?;
        let new = NewGeneration {
            id: GenerationId::random(),
            lineage,
            parent: None,
            size: ByteCount(manifest.bytes),
            captured_at: manifest.made,
            source: Vec::new(),
        };
        let taken = store.draft(new).map_err(ReleasesError::from).and_then(|draft| {
            let mut taking = Taking { draft: draft.clone(), scan: None, at: 0, total: manifest.bytes, failed: None };
            let read = bundle::read_image(rest, manifest, |bytes| {
                taking.take(bytes)?;
                match report(taking.at, taking.total) {
                    true => Ok(()),
                    false => Err(io::ErrorKind::Interrupted.into()),
                }
            });
            match read {
                Ok(_tree) => Ok(draft.seal(self.now())?),
                Err(bundle::BundleError::Write(_)) => {
                    Err(taking.failed.take().map_or(ReleasesError::Cancelled, ReleasesError::Store))
                }
                Err(error) => Err(error.into()),
            }
        });
        match taken {
            Ok(sealed) => Ok((lineage, sealed.id, sealed.stats.stored_bytes)),
            Err(error) => {
                if let Err(left) = store.forget_lineages(&[lineage]) {
                    tracing::warn!(error = %left, "what was imported in vain is removed at the next start");
                }
                Err(error)
            }
        }
    }

    /// Forgets a release: its row, its image, its deltas. `keep`: says why it has to stay. Blocks.
    pub(crate) fn remove_release(&self, row: &ReleaseRow) -> Result<(), ReleasesError> {
        let releases = &self.releases;
        let _alone = releases.changing.try_lock().map_err(|_| ReleasesError::Busy)?;
        self.catalogue.remove_release(row.id)?;
        dedupe::crash_point("gateway.release.removed");
        releases.drop_parts(|base, release| base == Some(row.id) || release == row.id)?;
        let store = releases.store()?;
        let swept = store.forget_lineages(&[row.lineage]).and_then(|()| {
            let progress = Progress::default();
            store.gc(&store.gc_plan(&progress)?, Pace(1.0), &progress)
        });
        swept.map_err(ReleasesError::from).inspect_err(|error| releases.note_failure(error))?;
        Ok(())
    }

    /// Removes what a crash left: images without a row, uploads, deltas that are not whole or of a release that is gone. Blocks; called before anything is served.
    pub(crate) fn tidy_releases(&self) -> Result<(), ReleasesError> {
        let releases = &self.releases;
        if !releases.folder.exists() {
            return Ok(());
        }
        files::remove_folder(&releases.uploads())?;
        let rows = self.catalogue.releases()?;
        let is_known = |id: ReleaseId| rows.iter().any(|row| row.id == id);
        releases.drop_parts(|base, release| !is_known(release) || base.is_some_and(|base| !is_known(base)))?;
        releases.drop_unfinished_parts()?;
        let store = releases.store()?;
        let lineages = store.lineages()?.into_iter().map(|lineage| lineage.id);
        let left: Vec<LineageId> = lineages.filter(|id| !rows.iter().any(|row| row.lineage == *id)).collect();
        if !left.is_empty() {
            store.forget_lineages(&left)?;
            let progress = Progress::default();
            store.gc(&store.gc_plan(&progress)?, Pace(1.0), &progress)?;
        }
        Ok(())
    }

    /// The release of a name: its version, or the beginning of its root hash, 8 digits at least.
    pub(crate) fn find_release(&self, name: &str) -> Result<(ReleaseRow, Manifest), ReleasesError> {
        let mut found = Vec::new();
        for row in self.catalogue.releases()? {
            let manifest = row.read()?;
            if manifest.version == name || (name.len() >= 8 && row.id.hex().starts_with(name)) {
                found.push((row, manifest));
            }
        }
        match found.len() {
            0 => Err(ReleasesError::None(crate::text::printable(name))),
            1 => Ok(found.remove(0)),
            _ => Err(ReleasesError::Ambiguous(crate::text::printable(name))),
        }
    }
}

/// An image on its way into a draft.
struct Taking {
    draft: Arc<Draft>,
    scan: Option<SlabScan>,
    at: u64,
    total: u64,
    failed: Option<StoreError>,
}

impl Taking {
    /// The next bytes: whole leaves, but for the image's end.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        debug_assert!(bytes.len().is_multiple_of(BLOCK));
        while !bytes.is_empty() {
            let room = SLAB as u64 - self.at % SLAB as u64;
            let (now, behind) = bytes.split_at((bytes.len() as u64).min(room) as usize);
            self.scan(now).map_err(|error| {
                let said = io::Error::other(error.to_string());
                self.failed = Some(error);
                said
            })?;
            bytes = behind;
        }
        Ok(())
    }

    fn scan(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut scan = match self.scan.take() {
            Some(scan) => scan,
            None => self.draft.scan(SlabNumber(self.at / SLAB as u64))?,
        };
        scan.data(bytes)?;
        self.at += bytes.len() as u64;
        if self.at.is_multiple_of(SLAB as u64) || self.at == self.total {
            scan.finish()?;
            if self.at.is_multiple_of(CHECKPOINT) {
                self.draft.checkpoint()?;
            }
        } else {
            self.scan = Some(scan);
        }
        Ok(())
    }
}
