//! The parts of deltas: coded once for each pair of a base and a release, however many sites ask, and kept as files.
//!
//! A part is written, synced and renamed; the index with the length and hash of each comes last. So a folder without an index is one that a crash left, and
//! is begun anew: coding is the same for the same images, and what an edge has of a part goes on where it was, as hashes say.

use super::{Releases, ReleasesError};
use crate::catalogue::ReleaseRow;
use crate::files::{self, FileError};
use crate::state::State;
use dedupe::image::{Image, Maker, Nothing};
use dedupe::{Effort, Progress};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use wire::release::{MAX_PART, MAX_PARTS, ReleaseId};

/// What an index begins with; the number is the format's.
const MAGIC: &[u8] = b"sluice parts 1\n";
/// Name of the index in its folder.
const INDEX: &str = "index";
/// Deltas that are kept: a fleet runs two or three versions, and each release needs one from each. A whole one is at most as large as its image.
pub(crate) const MOST: usize = 8;
/// Deltas that may wait to be made.
const MOST_WAITING: usize = MOST;
/// How a part is coded: once, for hundreds of lines.
const EFFORT: Effort = Effort::Thorough;
/// Longest rest after a part, see [`State::make_parts`].
const MOST_REST: Duration = Duration::from_secs(60);

/// A base (`None`: nothing) and a release.
pub(crate) type Pair = (Option<ReleaseId>, ReleaseId);

/// Deltas that were asked for and are not there.
#[derive(Debug, Default)]
pub(crate) struct Wanted(Mutex<VecDeque<Pair>>);

impl Wanted {
    /// Asks for one. `false`: too many wait.
    pub(crate) fn ask(&self, pair: Pair) -> bool {
        let mut waiting = self.0.lock().expect("pairs are only added and taken");
        if waiting.contains(&pair) {
            return true;
        }
        let room = waiting.len() < MOST_WAITING;
        if room {
            waiting.push_back(pair);
        }
        room
    }

    fn first(&self) -> Option<Pair> {
        self.0.lock().expect("pairs are only added and taken").front().copied()
    }

    fn done(&self, pair: Pair) {
        self.0.lock().expect("pairs are only added and taken").retain(|other| *other != pair);
    }
}

/// What a delta consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index(pub(crate) Vec<(u64, [u8; 32])>);

impl Index {
    /// Bytes of all parts.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|(len, _)| len).sum()
    }

    fn read(folder: &Path) -> Option<Index> {
        let bytes = std::fs::read(folder.join(INDEX)).ok()?;
        let index: Index = postcard::from_bytes(bytes.strip_prefix(MAGIC)?).ok()?;
        let fits = |len: &u64| (1..=MAX_PART).contains(len);
        let sound =
            !index.0.is_empty() && index.0.len() <= MAX_PARTS as usize && index.0.iter().all(|(len, _)| fits(len));
        sound.then_some(index)
    }
}

/// A part that can be read.
pub(crate) struct Found {
    pub(crate) index: Index,
    pub(crate) file: File,
}

impl Releases {
    /// A part of a delta with what it belongs to; `None`: the delta is not there. A file that is not what was written takes its delta with it. Blocks.
    pub(crate) fn part(&self, (base, release): Pair, number: u32) -> Result<Option<Found>, ReleasesError> {
        let folder = self.pair(base, release);
        let Some(index) = Index::read(&folder) else { return Ok(None) };
        let Some((len, hash)) = index.0.get(number as usize).copied() else {
            return Err(ReleasesError::NoPart { parts: index.0.len(), number });
        };
        let path = folder.join(number.to_string());
        let whole =
            files::read(&path).is_ok_and(|bytes| bytes.len() as u64 == len && *blake3::hash(&bytes).as_bytes() == hash);
        if !whole {
            tracing::error!(path = %path.display(), "a part of a release is damaged: its delta is made anew");
            files::remove_folder(&folder)?;
            return Ok(None);
        }
        let file = File::open(&path).map_err(FileError::on("open", &path))?;
        // Old deltas go first when there are too many: this one is in use.
        let used = File::open(folder.join(INDEX)).and_then(|index| index.set_modified(now()));
        if let Err(error) = used {
            tracing::debug!(%error, "the time of a delta's last use is not kept");
        }
        Ok(Some(Found { index, file }))
    }

    /// Removes deltas that `gone` says of.
    pub(super) fn drop_parts(&self, gone: impl Fn(Option<ReleaseId>, ReleaseId) -> bool) -> Result<(), FileError> {
        for (path, (base, release)) in self.pairs() {
            if gone(base, release) {
                files::remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what is no whole delta.
    pub(super) fn drop_unfinished_parts(&self) -> Result<(), FileError> {
        let entries = std::fs::read_dir(self.parts()).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            if pair_of(&path).is_none() || Index::read(&path).is_none() {
                files::remove_folder(&path)?;
            }
        }
        Ok(())
    }

    fn pairs(&self) -> Vec<(PathBuf, Pair)> {
        let entries = std::fs::read_dir(self.parts()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter_map(|path| Some((path.clone(), pair_of(&path)?))).collect()
    }

    /// Removes the deltas that were used least recently until there is room for one more.
    fn make_room(&self) -> Result<(), FileError> {
        let used = |path: &Path| std::fs::metadata(path.join(INDEX)).and_then(|index| index.modified()).ok();
        let mut pairs: Vec<_> = self.pairs().into_iter().map(|(path, _)| (used(&path), path)).collect();
        pairs.sort();
        let over = pairs.len().saturating_sub(MOST - 1);
        pairs.iter().take(over).try_for_each(|(_, path)| files::remove_folder(path))
    }
}

impl State {
    /// Makes deltas that were asked for, one after the other; returns how many. After each part it rests as long as that took, since ingest has the same
    /// processors. Blocks, for minutes.
    pub(crate) fn make_deltas(&self, progress: &Progress) -> (usize, Option<ReleasesError>) {
        let (mut made, mut failed) = (0, None);
        while let Some(pair) = self.releases.wanted.first().filter(|_| !progress.is_cancelled()) {
            match self.make_parts(pair, progress) {
                Ok(()) => made += 1,
                Err(error) => {
                    tracing::warn!(%error, release = %pair.1, "a delta between releases could not be made; sites ask again");
                    failed = Some(error);
                }
            }
            self.releases.wanted.done(pair);
        }
        (made, failed)
    }

    fn make_parts(&self, pair: Pair, progress: &Progress) -> Result<(), ReleasesError> {
        let releases = &self.releases;
        let folder = releases.pair(pair.0, pair.1);
        if Index::read(&folder).is_some() {
            return Ok(());
        }
        let row = |id: ReleaseId| self.catalogue.release(id)?.ok_or_else(|| ReleasesError::None(id.to_string()));
        let new = row(pair.1)?;
        let old: Box<dyn Image> = match pair.0 {
            Some(base) => Box::new(releases.image(&row(base)?)?),
            None => Box::new(Nothing),
        };
        files::remove_folder(&folder)?;
        releases.make_room()?;
        self.check_room_for_parts(&new)?;
        files::private_folder(&folder)?;
        let made = self.write_parts(&folder, &*old, &new, progress);
        if made.is_err() {
            files::remove_folder(&folder)?;
        }
        made
    }

    fn check_room_for_parts(&self, new: &ReleaseRow) -> Result<(), ReleasesError> {
        let folder = self.folder();
        let (free, bytes) = (files::free_bytes(folder).unwrap_or(u64::MAX), new.read()?.bytes);
        match free >= bytes.saturating_add(self.reserve) {
            true => Ok(()),
            false => Err(ReleasesError::NoRoom(folder.to_owned(), crate::text::bytes(bytes))),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "how long it rests depends on how long the part took")]
    fn write_parts(
        &self,
        folder: &Path,
        old: &dyn Image,
        new: &ReleaseRow,
        progress: &Progress,
    ) -> Result<(), ReleasesError> {
        let image = self.releases.image(new)?;
        let mut maker = Maker::new(old, &image, EFFORT).map_err(|error| ReleasesError::Delta(error.into()))?;
        let mut index = Index(Vec::new());
        loop {
            let began = std::time::Instant::now();
            let Some(part) = maker.next_part().map_err(ReleasesError::Delta)? else { break };
            files::write_private(&folder.join(index.0.len().to_string()), &part)?;
            dedupe::crash_point("gateway.release.part");
            index.0.push((part.len() as u64, *blake3::hash(&part).as_bytes()));
            progress.add(part.len() as u64);
            if progress.is_cancelled() {
                return Err(ReleasesError::Cancelled);
            }
            std::thread::sleep(began.elapsed().min(MOST_REST));
        }
        let bytes = [MAGIC, &postcard::to_stdvec(&index).expect("memory takes an index")].concat();
        files::write_private(&folder.join(INDEX), &bytes)?;
        tracing::info!(release = %new.id, parts = index.0.len(), bytes = index.total(), "a delta between releases is made");
        Ok(())
    }
}

/// The pair that a folder's name says.
fn pair_of(path: &Path) -> Option<Pair> {
    let (base, release) = path.file_name()?.to_str()?.split_once('-')?;
    let base = match base {
        "none" => None,
        hex => Some(ReleaseId::read(hex)?),
    };
    Some((base, ReleaseId::read(release)?))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file's time, by which nothing is decided but which delta was used last"
)]
fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
