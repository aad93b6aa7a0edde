//! Small realistic volumes, made in-process: the same bytes for the same seed, without root and without other programs.
//!
//! A [`Sample`] is laid out like the system volume of a branch server: file system metadata, a database with its log, growing
//! log files, and folders of texts, web pages, programs and packed documents between holes. [`Sample::busy_day`] changes it as
//! a working day does. Programs are the same at every branch (they do not depend on the seed) but lie at other addresses.

mod content;
mod database;
mod random;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

pub use content::Writer;
use database::Database;
pub use random::Random;

/// Smallest sample: below it the layout has no room.
pub const MIN_SIZE: u64 = 8 << 20;
const BLOCK: u64 = 4096;
/// Bytes of metadata per file, as an inode has.
const INODE: usize = 256;
/// Seconds at the start of the first day.
const FIRST_DAY: u64 = 1_760_000_000;

/// A sample volume: an image file and what is needed to change it further.
#[derive(Debug)]
pub struct Sample {
    path: PathBuf,
    image: File,
    size: u64,
    days: u64,
    writer: Writer,
    random: Random,
    database: Database,
    logs: Vec<Log>,
    files: Vec<Stored>,
    free: Vec<Extent>,
    programs: u64,
}

/// What a day did to a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Database pages that were updated.
    pub pages: u64,
    /// Bytes appended to the database's log.
    pub database_log: u64,
    /// Bytes appended to log files.
    pub logged: u64,
    /// Files saved anew with bytes inserted.
    pub edited: u64,
    /// Files that lie elsewhere now.
    pub moved: u64,
    /// New files.
    pub added: u64,
    /// Files that were removed.
    pub removed: u64,
    /// Bytes that were overwritten with zeroes or given back as holes.
    pub zeroed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Extent {
    start: u64,
    len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Text,
    Page,
    Program,
    Document,
}

#[derive(Clone, Copy, Debug)]
struct Stored {
    sort: Sort,
    at: Extent,
    len: u64,
}

#[derive(Debug)]
struct Log {
    at: Extent,
    len: u64,
}

impl Sample {
    /// Makes the image at `path`: `size` bytes (at least [`MIN_SIZE`], any multiple of 512), a little over half of it in use.
    pub fn create(path: &Path, size: u64, seed: u64) -> io::Result<Self> {
        if size < MIN_SIZE || !size.is_multiple_of(512) {
            let why = format!("a sample volume has at least {MIN_SIZE} bytes and a multiple of 512, not {size}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let image = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        image.set_len(size)?;
        let writer = Writer::new();
        let mut random = Random::new(seed, 2);
        let part = |hundredths: u64| size * hundredths / 100 / 8192 * 8192;
        let (metadata, table, log) = (part(1), part(15), part(5));
        let database = Database::load(
            &image,
            &writer,
            &mut random,
            metadata..metadata + table,
            metadata + table..metadata + table + log,
        )?;
        let mut rest = Extent { start: metadata + table + log, len: 0 };
        let log_room = part(3);
        let logs =
            (0..3).map(|n| Log { at: Extent { start: rest.start + n * log_room, len: log_room }, len: 0 }).collect();
        rest.start += 3 * log_room;
        rest.len = (size - rest.start) / BLOCK * BLOCK;
        let path = path.to_path_buf();
        let (files, free) = (Vec::new(), vec![rest]);
        let mut sample = Self { path, image, size, days: 0, writer, random, database, logs, files, free, programs: 0 };
        sample.fill(rest.len * 55 / 100)?;
        sample.append_logs(log_room / 2)?;
        sample.write_metadata()?;
        Ok(sample)
    }

    /// The image.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Changes about 2 to 4 % of the volume as a working day does.
    pub fn busy_day(&mut self) -> io::Result<Day> {
        self.days += 1;
        let traded = self.database.trade(&self.image, &self.writer, &mut self.random, 0.06)?;
        let mut day = Day { pages: traded.pages, database_log: traded.log_bytes, ..Day::default() };
        day.logged = self.append_logs(self.size / 1500)?;
        let some = (self.files.len() / 60).max(1);
        day.edited = self.edit(some)?;
        day.moved = self.move_files(some)?;
        (day.removed, day.zeroed) = self.remove(some)?;
        day.added = self.add(some)?;
        self.write_metadata()?;
        self.image.sync_data()?;
        Ok(day)
    }

    /// Changes nothing but one database row and what follows from it.
    pub fn quiet_day(&mut self) -> io::Result<Day> {
        self.days += 1;
        let traded = self.database.trade(&self.image, &self.writer, &mut self.random, 0.0)?;
        Ok(Day { pages: traded.pages, database_log: traded.log_bytes, ..Day::default() })
    }

    /// Makes the volume longer or shorter, in bytes. What is cut off is lost, as on a real volume.
    pub fn resize(&mut self, size: u64) -> io::Result<()> {
        self.image.set_len(size)?;
        let lost = |at: &Extent| at.start + at.len > size;
        self.files.retain(|file| !lost(&file.at));
        self.free.retain(|at| !lost(at));
        if size > self.size {
            let start = self.size.next_multiple_of(BLOCK);
            self.free.push(Extent { start, len: size.saturating_sub(start) / BLOCK * BLOCK });
        }
        self.size = size;
        Ok(())
    }

    fn fill(&mut self, bytes: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes {
            let sort = *self.random.pick(&[Sort::Text, Sort::Page, Sort::Program, Sort::Program, Sort::Document]);
            let Some(stored) = self.create_file(sort)? else { break };
            filled += stored.at.len;
            if self.random.below(12) == 0 {
                self.leave_gap();
            }
        }
        Ok(())
    }

    /// Leaves a hole between files, as a file system that spreads its folders does.
    fn leave_gap(&mut self) {
        let gap = self.random.within(1..64) as u64 * BLOCK;
        if let Some(free) = self.free.last_mut().filter(|free| free.len > 4 * gap) {
            let hole = Extent { start: free.start, len: gap };
            *free = Extent { start: free.start + gap, len: free.len - gap };
            self.free.insert(0, hole);
        }
    }

    /// A new file, or `None` when no room is left.
    fn create_file(&mut self, sort: Sort) -> io::Result<Option<Stored>> {
        let content = match sort {
            Sort::Text => {
                let len = self.random.within(2_000..90_000);
                self.writer.text(&mut self.random, len)
            }
            Sort::Page => {
                let len = self.random.within(3_000..60_000);
                self.writer.page(&mut self.random, len)
            }
            Sort::Program => self.program(),
            Sort::Document => {
                let len = self.random.within(20_000..120_000);
                self.writer.document(&mut self.random, len)
            }
        };
        self.store(sort, &content)
    }

    /// The next program of the common stock: the same bytes at every branch.
    fn program(&mut self) -> Vec<u8> {
        self.programs += 1;
        let mut random = Random::new(0, 1000 + self.programs);
        let len = random.within(8_000..200_000);
        self.writer.program(&mut random, len)
    }

    fn store(&mut self, sort: Sort, content: &[u8]) -> io::Result<Option<Stored>> {
        let Some(at) = self.allocate((content.len() as u64).next_multiple_of(BLOCK)) else { return Ok(None) };
        let mut padded = content.to_vec();
        padded.resize(at.len as usize, 0);
        self.image.write_all_at(&padded, at.start)?;
        let stored = Stored { sort, at, len: content.len() as u64 };
        self.files.push(stored);
        Ok(Some(stored))
    }

    fn allocate(&mut self, len: u64) -> Option<Extent> {
        let place = self.free.iter().rposition(|free| free.len >= len)?;
        let free = &mut self.free[place];
        let at = Extent { start: free.start, len };
        *free = Extent { start: free.start + len, len: free.len - len };
        Some(at)
    }

    fn read(&self, file: Stored) -> io::Result<Vec<u8>> {
        let mut content = vec![0; file.len as usize];
        self.image.read_exact_at(&mut content, file.at.start)?;
        Ok(content)
    }

    fn take_any(&mut self) -> Option<Stored> {
        (!self.files.is_empty()).then(|| self.files.swap_remove(self.random.below(self.files.len())))
    }

    /// Saves files anew, elsewhere, with a line inserted at the start; the old bytes stay where they were.
    fn edit(&mut self, count: usize) -> io::Result<u64> {
        let mut edited = 0;
        for _ in 0..count {
            let Some(file) = self.take_any() else { break };
            let mut content = format!("Reviewed by branch office, day {}\n", self.days).into_bytes();
            content.extend(self.read(file)?);
            if self.store(file.sort, &content)?.is_none() {
                self.files.push(file);
                break;
            }
            self.free.insert(0, file.at);
            edited += 1;
        }
        Ok(edited)
    }

    fn move_files(&mut self, count: usize) -> io::Result<u64> {
        let mut moved = 0;
        for _ in 0..count {
            let Some(file) = self.take_any() else { break };
            let content = self.read(file)?;
            if self.store(file.sort, &content)?.is_none() {
                self.files.push(file);
                break;
            }
            self.free.insert(0, file.at);
            moved += 1;
        }
        Ok(moved)
    }

    /// Removes files: in turn their bytes stay, are overwritten with zeroes, or are given back as holes.
    fn remove(&mut self, count: usize) -> io::Result<(u64, u64)> {
        let (mut removed, mut zeroed) = (0, 0);
        for turn in 0..count {
            let Some(file) = self.take_any() else { break };
            match turn % 3 {
                0 => self.image.write_all_at(&vec![0; file.at.len as usize], file.at.start)?,
                1 => {
                    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                    fallocate(&self.image, mode, file.at.start as i64, file.at.len as i64)?;
                }
                _ => {}
            }
            zeroed += if turn % 3 < 2 { file.at.len } else { 0 };
            removed += 1;
            self.free.insert(0, file.at);
        }
        Ok((removed, zeroed))
    }

    fn add(&mut self, count: usize) -> io::Result<u64> {
        let mut added = 0;
        for turn in 0..count {
            let sort = [Sort::Document, Sort::Text, Sort::Page][turn % 3];
            added += u64::from(self.create_file(sort)?.is_some());
        }
        Ok(added)
    }

    /// Appends about `bytes` to each log file; a full one begins anew. Gives the bytes appended in all.
    fn append_logs(&mut self, bytes: u64) -> io::Result<u64> {
        let mut all = 0;
        for log in &mut self.logs {
            let mut lines = Vec::new();
            let mut now = FIRST_DAY + self.days * 86_400;
            while (lines.len() as u64) < bytes.min(log.at.len / 2) {
                now += self.random.below(4) as u64;
                self.writer.log_line(&mut self.random, now, &mut lines);
            }
            lines.truncate((log.at.len / 2) as usize);
            if log.len + lines.len() as u64 > log.at.len {
                log.len = 0;
            }
            self.image.write_all_at(&lines, log.at.start + log.len)?;
            log.len += lines.len() as u64;
            all += lines.len() as u64;
        }
        Ok(all)
    }

    /// The metadata area: one record a file, rewritten in place where it changed.
    fn write_metadata(&mut self) -> io::Result<()> {
        let room = (self.size / 100 / 8192 * 8192) as usize;
        let mut area = vec![0; room];
        area[..16].copy_from_slice(b"sample file tree");
        area[16..24].copy_from_slice(&(FIRST_DAY + self.days * 86_400).to_le_bytes());
        for (record, file) in area[BLOCK as usize..].chunks_exact_mut(INODE).zip(&self.files) {
            record[0] = file.sort as u8 + 1;
            record[8..16].copy_from_slice(&file.len.to_le_bytes());
            record[16..24].copy_from_slice(&file.at.start.to_le_bytes());
            record[24..32].copy_from_slice(&file.at.len.to_le_bytes());
        }
        self.image.write_all_at(&area, 0)
    }
}

/// Changes an image of which nothing is known: small edits in a hundredth of its used blocks, runs copied elsewhere at odd byte
/// offsets, runs zeroed. Gives about how many bytes were touched. For the demo over a volume of the user's own.
pub fn disturb(image: &Path, seed: u64) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(image)?;
    let size = file.metadata()?.len();
    let mut random = Random::new(seed, 3);
    let used: Vec<u64> = crate::images::data_ranges(&file)?
        .iter()
        .flat_map(|(start, end)| (start.next_multiple_of(BLOCK)..end / BLOCK * BLOCK).step_by(BLOCK as usize))
        .collect();
    if used.is_empty() {
        return Ok(0);
    }
    let edits = (used.len() / 100).max(1);
    for _ in 0..edits {
        let at = *random.pick(&used) + random.below(BLOCK as usize - 24) as u64;
        file.write_all_at(&random.noise(24), at)?;
    }
    let run = (64 << 10).min(size) as usize;
    let runs = edits / 64 + 1;
    for turn in 0..runs {
        let mut bytes = vec![0; run];
        if turn % 4 != 3 {
            let from = (*random.pick(&used)).min(size - run as u64);
            file.read_exact_at(&mut bytes, from)?;
        }
        let to = (*random.pick(&used) + random.below(BLOCK as usize) as u64).min(size - run as u64);
        file.write_all_at(&bytes, to)?;
    }
    file.sync_data()?;
    Ok((edits * BLOCK as usize + runs * run) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{copy_sparse, data_ranges, dirty_bytes, same_bytes, used_bytes};

    const SIZE: u64 = 24 << 20;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (name, seed) in [("a", 7), ("b", 7), ("c", 8)] {
            let mut sample = Sample::create(&path(name), SIZE, seed).unwrap();
            sample.busy_day().unwrap();
        }
        assert!(same_bytes(&path("a"), &path("b")).unwrap());
        assert!(!same_bytes(&path("a"), &path("c")).unwrap());
    }

    #[test]
    fn a_sample_has_data_holes_and_what_compresses_and_what_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample::create(&dir.path().join("v"), SIZE, 1).unwrap();
        let used = used_bytes(sample.path()).unwrap();
        assert!((SIZE * 45 / 100..SIZE * 75 / 100).contains(&used), "{used} of {SIZE} used");
        assert!(data_ranges(&sample.image).unwrap().len() > 3, "holes between the files");
        for sort in [Sort::Text, Sort::Page, Sort::Program, Sort::Document] {
            assert!(sample.files.iter().any(|file| file.sort == sort), "{sort:?}");
        }
    }

    #[test]
    fn a_busy_day_does_everything_and_changes_a_few_hundredths() {
        let dir = tempfile::tempdir().unwrap();
        let mut sample = Sample::create(&dir.path().join("v"), 4 * SIZE, 1).unwrap();
        let before = dir.path().join("before");
        for _ in 0..3 {
            copy_sparse(sample.path(), &before).unwrap();
            let day = sample.busy_day().unwrap();
            let done =
                [day.pages, day.database_log, day.logged, day.edited, day.moved, day.added, day.removed, day.zeroed];
            assert!(done.iter().all(|part| *part > 0), "{day:?}");
            let dirty = dirty_bytes(&before, sample.path()).unwrap();
            assert!((4 * SIZE / 100..4 * SIZE * 8 / 100).contains(&dirty), "{dirty} dirty: {day:?}");
        }
    }

    #[test]
    fn programs_are_the_same_at_every_branch() {
        let dir = tempfile::tempdir().unwrap();
        let mut one = Sample::create(&dir.path().join("1"), SIZE, 1).unwrap();
        let mut two = Sample::create(&dir.path().join("2"), SIZE, 2).unwrap();
        one.programs = 5;
        two.programs = 5;
        assert_eq!(one.program(), two.program());
    }

    #[test]
    fn an_unknown_image_is_disturbed_a_little() {
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample::create(&dir.path().join("v"), SIZE, 1).unwrap();
        let before = dir.path().join("before");
        copy_sparse(sample.path(), &before).unwrap();
        disturb(sample.path(), 1).unwrap();
        let dirty = dirty_bytes(&before, sample.path()).unwrap();
        assert!((SIZE / 500..SIZE / 20).contains(&dirty), "{dirty}");
        assert_eq!(std::fs::metadata(sample.path()).unwrap().len(), SIZE);
    }

    #[test]
    fn a_volume_that_cannot_be_laid_out_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Sample::create(&dir.path().join("v"), MIN_SIZE - 512, 1).is_err());
        assert!(Sample::create(&dir.path().join("v"), MIN_SIZE + 100, 1).is_err());
    }
}
