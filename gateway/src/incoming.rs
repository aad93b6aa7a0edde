//! Parcels that are arriving: one file each, `incoming/<generation>-<number>.part`, so that a cut costs the bytes in flight and no more.
//!
//! A file begins with 64 bytes (magic, version, length, how much is durable, BLAKE3 of the whole parcel); the parcel follows. Bytes count as
//! durable once they were synced *and* the header says so, so a crash at any moment leaves a header that promises no more than
//! there is. At most [`SYNC_EVERY`] bytes have to come again after a crash, none after a cut.

use crate::files::{self, FileError};
use dedupe::GenerationId;
use dedupe::parcel::MAX_PARCEL;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes between two syncs: half a second at 16 Mbit/s, and few enough syncs for many edges on one disk.
pub const SYNC_EVERY: u64 = 1 << 20;

const MAGIC: &[u8; 8] = b"SLUICEPT";
const VERSION: u32 = 1;
const HEADER: usize = 64;

/// The folder of parts.
#[derive(Clone, Debug)]
pub struct Incoming {
    folder: PathBuf,
}

/// A parcel as its sender announced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The generation.
    pub generation: GenerationId,
    /// Its number in the generation.
    pub number: u32,
    /// Its length in bytes.
    pub len: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
}

/// A parcel that is arriving. Its methods block.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    announced: Announced,
    /// Bytes that are in the file.
    at: u64,
    /// Bytes that the header promises.
    durable: u64,
}

/// Why a whole part is not the parcel that was announced.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its bytes hash to something else; it has to come again.
    #[error("it hashes to something else than was announced")]
    Damaged,
}

impl Incoming {
    /// Parts lie in `folder`, which exists.
    pub fn new(folder: PathBuf) -> Incoming {
        Incoming { folder }
    }

    /// Goes on with a part, or begins it: also when another parcel was announced under the same number, which is dropped.
    pub fn open(&self, announced: Announced) -> Result<Part, FileError> {
        let path = self.path(announced.generation, announced.number);
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open().map_err(FileError::on("open", &path))?;
        let mut part = Part { file, path, announced, at: 0, durable: 0 };
        match part.read_header() {
            Some(durable) => (part.at, part.durable) = (durable, durable),
            None => part.begin()?,
        }
        Ok(part)
    }

    /// Removes what came of a generation.
    pub fn discard(&self, generation: GenerationId) -> io::Result<()> {
        self.discard_where(|found| found == generation)
    }

    /// Removes what no generation wants any more, as after a crash between a commit and the removal.
    pub fn tidy(&self, wanted: impl Fn(GenerationId) -> bool) -> io::Result<()> {
        self.discard_where(|generation| !wanted(generation))
    }

    fn discard_where(&self, unwanted: impl Fn(GenerationId) -> bool) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let generation = entry.file_name().to_str().and_then(generation_of);
            if generation.is_some_and(&unwanted) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, generation: GenerationId, number: u32) -> PathBuf {
        self.folder.join(format!("{generation}-{number}.part"))
    }
}

impl Part {
    /// What it is.
    pub fn announced(&self) -> Announced {
        self.announced
    }

    /// Where the sender goes on: everything before is durable, and in this run of the daemon everything that arrived.
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.at == self.announced.len
    }

    /// Adds bytes, which must not go beyond the announced length, and syncs now and then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        debug_assert!(self.at + bytes.len() as u64 <= self.announced.len);
        let written = self.file.write_all_at(bytes, HEADER as u64 + self.at);
        written.map_err(FileError::on("write", &self.path))?;
        self.at += bytes.len() as u64;
        if self.at - self.durable >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes everything that arrived durable.
    pub fn sync(&mut self) -> Result<(), FileError> {
        if self.durable == self.at {
            return Ok(());
        }
        let sync = || -> io::Result<()> {
            self.file.sync_data()?;
            self.file.write_all_at(&self.header(self.at), 0)?;
            self.file.sync_data()
        };
        sync().map_err(FileError::on("sync", &self.path))?;
        self.durable = self.at;
        dedupe::crash_point("gateway.part.written");
        Ok(())
    }

    /// All bytes, if they are what was announced. A damaged part is removed: it has to come again.
    pub fn read_whole(&self) -> Result<Vec<u8>, PartError> {
        let mut bytes = vec![0; self.announced.len as usize];
        self.file.read_exact_at(&mut bytes, HEADER as u64).map_err(FileError::on("read", &self.path))?;
        if blake3::hash(&bytes) != self.announced.hash {
            self.remove()?;
            return Err(PartError::Damaged);
        }
        Ok(bytes)
    }

    /// Removes it, because its parcel is durable elsewhere or worth nothing.
    pub fn remove(&self) -> Result<(), FileError> {
        // Not synced: a part that comes back after a crash is found unwanted and removed again.
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::on("remove", &self.path)(error)),
            _ => Ok(()),
        }
    }

    /// Moves a whole parcel, whose bytes are what was announced, to `path` in a folder that exists; durable on return. Its header goes with it.
    pub fn keep_as(&self, path: &Path) -> Result<(), PartError> {
        self.read_whole()?;
        let keep = || -> io::Result<()> {
            std::fs::rename(&self.path, path)?;
            files::sync_folder_of(path)
        };
        Ok(keep().map_err(FileError::on("keep", path))?)
    }

    fn begin(&mut self) -> Result<(), FileError> {
        let begin = || -> io::Result<()> {
            self.file.set_len(0)?;
            self.file.write_all_at(&self.header(0), 0)?;
            self.file.sync_all()?;
            files::sync_folder_of(&self.path)
        };
        begin().map_err(FileError::on("write", &self.path))
    }

    fn header(&self, durable: u64) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&self.announced.len.to_le_bytes());
        header[24..32].copy_from_slice(&durable.to_le_bytes());
        header[32..].copy_from_slice(&self.announced.hash);
        header
    }

    /// How much of this very parcel is durable; `None` when the file is new, damaged or another parcel's.
    fn read_header(&self) -> Option<u64> {
        let mut found = [0; HEADER];
        self.file.read_exact_at(&mut found, 0).ok()?;
        let durable = u64::from_le_bytes(found[24..32].try_into().expect("eight bytes"));
        let there = self.file.metadata().ok()?.len().checked_sub(HEADER as u64)?;
        (found == self.header(durable) && durable <= there && durable <= self.announced.len).then_some(durable)
    }
}

/// The parcel of a file that [`Part::keep_as`] made, if its bytes are still what was announced.
pub(crate) fn read_kept(path: &Path, generation: GenerationId, number: u32) -> Result<Vec<u8>, PartError> {
    let file = File::open(path).map_err(FileError::on("open", path))?;
    let mut header = [0; HEADER];
    let there = file.metadata().map_err(FileError::on("read", path))?.len();
    // A file that was cut is a damaged one, not one that cannot be read.
    if there < HEADER as u64 {
        return Err(PartError::Damaged);
    }
    file.read_exact_at(&mut header, 0).map_err(FileError::on("read", path))?;
    let len = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
    let hash = header[32..].try_into().expect("the header's last 32 bytes");
    let announced = Announced { generation, number, len, hash };
    let part = Part { file, path: path.to_owned(), announced, at: len, durable: len };
    if header != part.header(len) || len > MAX_PARCEL as u64 || there != HEADER as u64 + len {
        return Err(PartError::Damaged);
    }
    let mut bytes = vec![0; len as usize];
    part.file.read_exact_at(&mut bytes, HEADER as u64).map_err(FileError::on("read", path))?;
    if blake3::hash(&bytes) != hash { Err(PartError::Damaged) } else { Ok(bytes) }
}

fn generation_of(name: &str) -> Option<GenerationId> {
    name.strip_suffix(".part")?.split_once('-')?.0.parse().ok()
}

/// Whether the file system of `folder` has room for `len` more bytes above the reserve.
pub(crate) fn has_room(folder: &Path, len: u64, reserve: u64) -> io::Result<bool> {
    Ok(files::free_bytes(folder)? >= len.saturating_add(reserve))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(bytes: &[u8]) -> Announced {
        let generation = GenerationId([7; 16]);
        Announced { generation, number: 3, len: bytes.len() as u64, hash: blake3::hash(bytes).into() }
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 % 251) as u8).collect()
    }

    #[test]
    fn a_cut_part_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path().to_owned());
        let all = bytes(3_000_000);
        let mut part = incoming.open(announce(&all)).unwrap();
        part.write(&all[..1_234_567]).unwrap();
        part.sync().unwrap();
        drop(part);
        let mut part = incoming.open(announce(&all)).unwrap();
        assert_eq!(part.offset(), 1_234_567);
        part.write(&all[1_234_567..]).unwrap();
        assert!(part.is_whole());
        assert_eq!(part.read_whole().unwrap(), all);
        part.remove().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn after_a_crash_only_what_was_promised_counts() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path().to_owned());
        let all = bytes(3_000_000);
        let mut part = incoming.open(announce(&all)).unwrap();
        part.write(&all[..1_100_000]).unwrap();
        part.write(&all[1_100_000..1_200_000]).unwrap();
        drop(part); // without a sync, as when the process is killed
        assert_eq!(incoming.open(announce(&all)).unwrap().offset(), 1_100_000);
        let path = incoming.path(GenerationId([7; 16]), 3);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1000).unwrap();
        assert_eq!(incoming.open(announce(&all)).unwrap().offset(), 0, "a shorter file than promised is worth nothing");
    }

    #[test]
    fn another_parcel_under_the_same_number_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path().to_owned());
        let (one, two) = (bytes(100), bytes(101));
        let mut part = incoming.open(announce(&one)).unwrap();
        part.write(&one[..50]).unwrap();
        part.sync().unwrap();
        assert_eq!(incoming.open(announce(&two)).unwrap().offset(), 0);
    }

    #[test]
    fn a_damaged_part_is_found_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path().to_owned());
        let all = bytes(5000);
        let mut part = incoming.open(announce(&all)).unwrap();
        let mut wrong = all.clone();
        wrong[4000] ^= 1;
        part.write(&wrong).unwrap();
        part.sync().unwrap();
        assert!(matches!(part.read_whole(), Err(PartError::Damaged)));
        assert_eq!(incoming.open(announce(&all)).unwrap().offset(), 0);
    }

    #[test]
    fn parts_of_other_generations_stay() {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(dir.path().to_owned());
        let other = Announced { generation: GenerationId([8; 16]), ..announce(b"x") };
        incoming.open(announce(b"x")).unwrap();
        incoming.open(other).unwrap();
        std::fs::write(dir.path().join("stranger"), "x").unwrap();
        incoming.discard(GenerationId([7; 16])).unwrap();
        incoming.tidy(|generation| generation == other.generation).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        incoming.tidy(|_| false).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
