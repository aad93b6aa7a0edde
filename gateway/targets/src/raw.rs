//! A regular file, sparse where the volume is, or a block device.
//!
//! What it holds is written down beside it: `PATH.sluice.json`; for a device in a folder of the gateway's state. A file that is being filled is called
//! `PATH.unfinished` and gets its name back when it is proved, so that under its name there is a whole generation or nothing. A device has no second
//! name: there the record alone says that it is being filled.

mod record;

pub(crate) use record::{Stamp, sync_folder_of};

use crate::error::TargetError;
use crate::target::{Check, Description, Filling, Image, Keeps, Notes, Point, Shape, Start, Target, Work};
use dedupe::{ByteCount, ByteOffset, UnixMillis};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::unistd::{Whence, lseek};
use record::{Begun, Record, Records};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Threads at most: beyond this a disk is the limit.
const MOST_PARALLEL: usize = 8;
/// Bytes of one write: large enough for any disk's full speed.
const MOST: usize = 1 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub struct Raw {
    place: Place,
    /// Where records of devices lie.
    records: PathBuf,
}

#[derive(Debug)]
enum Place {
    /// One file or device, for one volume.
    Exact(PathBuf),
    /// A folder with a file for each volume.
    Folder(PathBuf),
}

impl Raw {
    /// One file or block device, which need not be there yet. `records` is the folder where the records of devices lie.
    pub fn exact(path: &Path, records: &Path) -> Raw {
        Raw { place: Place::Exact(path.to_owned()), records: records.to_owned() }
    }

    /// A folder that gets a file for each volume.
    pub fn folder(path: &Path, records: &Path) -> Raw {
        Raw { place: Place::Folder(path.to_owned()), records: records.to_owned() }
    }

    /// Where a volume's bytes are, or will be.
    pub fn path_of(&self, image: &Image) -> PathBuf {
        match &self.place {
            Place::Exact(path) => path.clone(),
            Place::Folder(folder) => folder.join(format!("{}.raw", image.label())),
        }
    }

    fn site(&self, image: &Image) -> Result<Site, TargetError> {
        let path = self.path_of(image);
        let kind = |path: &Path| match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(metadata.file_type())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TargetError::io("look at", path)(error)),
        };
        let found = kind(&path)?;
        if found.is_some_and(|kind| !kind.is_file() && !kind.is_block_device()) {
            return Err(TargetError::Kind(path));
        }
        let is_device = found.is_some_and(|kind| kind.is_block_device());
        let unfinished = path.with_added_extension("unfinished");
        let is_unfinished = !is_device && kind(&unfinished)?.is_some();
        let records = Records::of(&path, is_device, &self.records)?;
        Ok(Site { is_there: found.is_some(), path, unfinished, is_unfinished, is_device, records })
    }
}

/// One volume's place as it is found.
struct Site {
    path: PathBuf,
    unfinished: PathBuf,
    is_there: bool,
    is_unfinished: bool,
    is_device: bool,
    records: Records,
}

impl Site {
    /// The name under which the bytes are now.
    fn bytes(&self) -> &Path {
        if self.is_unfinished { &self.unfinished } else { &self.path }
    }

    fn look(&self, work: &Work) -> Result<Start, TargetError> {
        if !self.is_there && !self.is_unfinished {
            return Ok(Start::Zeroes);
        }
        let unknown = |why: &str| Ok(Start::Unknown(why.into()));
        let Some(record) = self.records.read() else { return unknown("nothing says what the target holds") };
        if record.lineage != work.image.lineage {
            return unknown("the target holds another volume");
        }
        let is_stamped = || Ok::<_, TargetError>(record.is_stamped(&Stamp::of(self.bytes())?));
        let Some(begun) = &record.begun else {
            return match record.point.clone() {
                Some(point) if is_stamped()? => Ok(self.grown(work, Start::Holds(point))),
                Some(_) => unknown("the target was touched since it was last written"),
                None => unknown("nothing says what the target holds"),
            };
        };
        if begun.run == Some(work.run) {
            return Ok(Start::Resumed);
        }
        match record.point.clone() {
            // The run was given up before its first byte.
            Some(point) if !self.is_device && is_stamped()? => return Ok(Start::Holds(point)),
            _ if begun.is_unknown => return unknown("the target holds a part of a run that was given up"),
            _ => {}
        }
        let others = begun.others.clone();
        Ok(self.grown(work, Start::Between { base: record.point, others }))
    }

    /// A file grows by zeroes; what lies behind a volume's old end on a device is anybody's.
    fn grown(&self, work: &Work, start: Start) -> Start {
        let held = match &start {
            Start::Holds(point) => Some(point.size),
            Start::Between { base, .. } => Some(base.as_ref().map_or(ByteCount(0), |point| point.size)),
            _ => None,
        };
        match self.is_device && held.is_some_and(|held| held < work.size) {
            true => {
                Start::Unknown("the volume has grown, and what lies behind its old end on the device is unknown".into())
            }
            false => start,
        }
    }
}

impl Target for Raw {
    fn shape(&self) -> Shape {
        // One more than there are cores: one waits for the disk.
        let parallel = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_PARALLEL - 1) + 1;
        Shape { kind: "raw", unit: 4096, most: MOST, parallel, keeps: Keeps::One }
    }

    fn describe(&self) -> Result<Description, TargetError> {
        let (path, folder) = match &self.place {
            Place::Folder(folder) => (folder, folder.as_path()),
            Place::Exact(path) => (path, path.parent().unwrap_or(Path::new("/"))),
        };
        let check = |what: &str, wrong: Option<String>| Check { what: what.into(), wrong };
        let is_folder = folder.is_dir();
        let missing = (!is_folder).then(|| format!("{} is no folder; make it, or name another", folder.display()));
        let mut checks = vec![check("the folder is there", missing)];
        if is_folder {
            let writable = nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK);
            let wrong =
                writable.err().map(|errno| format!("{}: {errno}; give the gateway's user the right", folder.display()));
            checks.push(check("the gateway may write there", wrong));
        }
        let stat = nix::sys::statvfs::statvfs(folder).ok();
        let room = stat.map(|stat| stat.blocks_available() * stat.fragment_size());
        Ok(Description { place: path.display().to_string(), checks, room })
    }

    fn points(&self, image: &Image) -> Result<Vec<Point>, TargetError> {
        let site = self.site(image)?;
        if !site.is_there {
            return Ok(Vec::new());
        }
        let record = site.records.read().filter(|record| record.lineage == image.lineage && record.begun.is_none());
        let Some(record) = record else { return Ok(Vec::new()) };
        let stamped = record.is_stamped(&Stamp::of(&site.path)?);
        Ok(record.point.filter(|_| stamped).into_iter().collect())
    }

    fn look(&self, work: &Work) -> Result<Start, TargetError> {
        let site = self.site(&work.image)?;
        let start = site.look(work)?;
        if site.is_device {
            open(&site.path, true, false)?.check_room(work.size)?;
        }
        Ok(start)
    }

    fn prepare<'a>(&'a self, work: &Work, _: &'a dyn Notes) -> Result<(Start, Box<dyn Filling + 'a>), TargetError> {
        let mut site = self.site(&work.image)?;
        let mut start = site.look(work)?;
        let open = open(site.bytes(), site.is_device, true)?;
        open.check_room(work.size)?;
        if start != Start::Resumed {
            let (point, mut others, mut is_unknown) = match &start {
                Start::Holds(point) => (Some(point.clone()), Vec::new(), false),
                Start::Between { base, others } => (base.clone(), others.clone(), false),
                Start::Zeroes => (None, Vec::new(), false),
                // A file is emptied, which makes its holes holes again.
                Start::Unknown(_) => (None, Vec::new(), site.is_device),
                Start::Resumed | Start::Finished(_) => unreachable!("handled or never found here"),
            };
            is_unknown |= others.len() >= record::MOST_OTHERS;
            others.push(work.generation);
            let begun = Begun { run: Some(work.run), others, is_unknown };
            let stamp = matches!(start, Start::Holds(_)).then(|| site.records.read()?.stamp).flatten();
            // Before the first byte: after a crash nobody must take the old record for true.
            site.records.write(&Record { lineage: work.image.lineage, point, begun: Some(begun), stamp })?;
        }
        if !site.is_device {
            if !site.is_unfinished {
                std::fs::rename(&site.path, &site.unfinished).map_err(TargetError::io("rename", &site.path))?;
                record::sync_folder_of(&site.unfinished).map_err(TargetError::io("rename", &site.path))?;
                site.is_unfinished = true;
            }
            let resize = || -> io::Result<()> {
                if matches!(start, Start::Unknown(_)) {
                    open.file.set_len(0)?;
                }
                open.file.set_len(work.size.0)
            };
            resize().map_err(TargetError::io("resize", &site.unfinished))?;
            if matches!(start, Start::Unknown(_)) {
                start = Start::Zeroes;
            }
        }
        Ok((start, Box::new(Open { work: work.clone(), site, open })))
    }

    fn abandon(&self, work: &Work, _: &dyn Notes) -> Result<(), TargetError> {
        let site = self.site(&work.image)?;
        let Some(mut record) = site.records.read() else { return Ok(()) };
        let Some(begun) = record.begun.as_mut().filter(|begun| begun.run == Some(work.run)) else { return Ok(()) };
        begun.run = None;
        // What was made for this run alone goes; what held a point before keeps it, with what was written over it.
        if record.point.is_none() && begun.others.len() == 1 && !site.is_device {
            remove(&site.unfinished)?;
            return site.records.remove();
        }
        site.records.write(&record)
    }

    fn remove(&self, point: &Point) -> Result<(), TargetError> {
        let path = PathBuf::from(&point.id);
        let is_device = std::fs::metadata(&path).is_ok_and(|found| found.file_type().is_block_device());
        let records = Records::of(&path, is_device, &self.records)?;
        let held = records.read().is_some_and(|record| {
            record.begun.is_none() && record.point.is_some_and(|held| held.generation == point.generation)
        });
        if !held {
            return Ok(()); // gone, or something else by now
        }
        if !is_device {
            remove(&path)?;
        }
        records.remove()
    }
}

/// A file or device that is being filled.
struct Open {
    work: Work,
    site: Site,
    open: Handle,
}

impl Filling for Open {
    fn apply(&self, at: ByteOffset, bytes: &[u8]) -> Result<(), TargetError> {
        self.open.write(at.0, bytes)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.open.zero(range)
    }

    fn flush(&self) -> Result<(), TargetError> {
        self.open.flush()
    }

    fn complete(&self) -> Result<(), TargetError> {
        self.open.settle()
    }

    fn read(&self, at: ByteOffset, buffer: &mut [u8]) -> Result<(), TargetError> {
        self.open.read(at.0, buffer)
    }

    fn is_hole(&self, range: Range<u64>) -> bool {
        self.open.is_hole(&range)
    }

    fn finish(&self, now: UnixMillis) -> Result<Point, TargetError> {
        if !self.site.is_device {
            std::fs::rename(&self.site.unfinished, &self.site.path)
                .and_then(|()| record::sync_folder_of(&self.site.path))
                .map_err(TargetError::io("rename", &self.site.unfinished))?;
        }
        let point = self.work.point(self.site.path.display().to_string(), now);
        let stamp = Some(Stamp::of(&self.site.path)?);
        let lineage = self.work.image.lineage;
        self.site.records.write(&Record { lineage, point: Some(point.clone()), begun: None, stamp })?;
        Ok(point)
    }
}

/// An open file or device.
pub(crate) struct Handle {
    path: PathBuf,
    pub(crate) file: Flock<File>,
    is_device: bool,
}

/// Opens to write and locks it against other runs; `make` makes a file that is not there.
pub(crate) fn open(path: &Path, is_device: bool, make: bool) -> Result<Handle, TargetError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if is_device {
        // Exclusively: a mounted device, or one of a RAID or of LVM, is refused as busy.
        options.custom_flags(nix::libc::O_EXCL);
    } else {
        options.create(make).mode(0o600);
    }
    let file = options.open(path).map_err(TargetError::io("open", path))?;
    let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => TargetError::Busy(path.to_owned()),
        errno => TargetError::io("lock", path)(errno.into()),
    })?;
    Ok(Handle { path: path.to_owned(), file, is_device })
}

impl Handle {
    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> TargetError + use<> {
        TargetError::io(what, &self.path)
    }

    fn check_room(&self, size: ByteCount) -> Result<(), TargetError> {
        if !self.is_device {
            return Ok(());
        }
        match self.len()? {
            has if has < size.0 => Err(TargetError::TooSmall { path: self.path.clone(), has, needs: size }),
            _ => Ok(()),
        }
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.file.write_all_at(bytes, at).map_err(self.failed("write"))
    }

    pub(crate) fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), TargetError> {
        self.file.read_exact_at(buffer, at).map_err(self.failed("read"))
    }

    pub(crate) fn is_hole(&self, range: &Range<u64>) -> bool {
        !self.is_device && is_hole(&self.file, range)
    }

    /// Makes a range read as zeroes, a hole where that can be.
    pub(crate) fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&*self.file, flags, range.start as i64, (range.end - range.start) as i64) {
            Ok(()) => Ok(()),
            // Not every file system and device can; some want other alignments.
            Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS | Errno::ENODEV | Errno::EPERM) => {
                const ZEROES: &[u8] = &[0; 256 << 10];
                for start in range.clone().step_by(ZEROES.len()) {
                    self.write(start, &ZEROES[..(range.end - start).min(ZEROES.len() as u64) as usize])?;
                }
                Ok(())
            }
            Err(errno) => Err(self.failed("zero a part of")(errno.into())),
        }
    }

    /// Makes what was written durable.
    pub(crate) fn flush(&self) -> Result<(), TargetError> {
        self.file.sync_data().map_err(self.failed("sync"))
    }

    /// The same, and what is read next comes from the disk.
    pub(crate) fn settle(&self) -> Result<(), TargetError> {
        self.file.sync_all().map_err(self.failed("sync"))?;
        // Best effort.
        let _advice = posix_fadvise(&*self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        Ok(())
    }

    pub(crate) fn len(&self) -> Result<u64, TargetError> {
        length(&self.file).map_err(self.failed("look at"))
    }
}

/// Whether a range is a hole of a sparse file.
fn is_hole(file: &File, range: &Range<u64>) -> bool {
    match lseek(file, range.start as i64, Whence::SeekData) {
        Ok(data) => data as u64 >= range.end,
        Err(Errno::ENXIO) => true, // no data up to the end
        Err(_) => false,
    }
}

/// Bytes of a file or device.
fn length(file: &File) -> io::Result<u64> {
    Ok(lseek(file, 0, Whence::SeekEnd)? as u64)
}

pub(crate) fn remove(path: &Path) -> Result<(), TargetError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| record::sync_folder_of(path)).map_err(TargetError::io("remove", path)),
    }
}

/// An image or device that is read as a whole, for its root.
#[derive(Debug)]
pub struct Whole {
    path: PathBuf,
    file: File,
    size: ByteCount,
    is_device: bool,
}

impl Whole {
    /// Opens a file or block device.
    pub fn open(path: &Path) -> Result<Whole, TargetError> {
        let file = File::open(path).map_err(TargetError::io("open", path))?;
        let kind = file.metadata().map_err(TargetError::io("look at", path))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(TargetError::Kind(path.to_owned()));
        }
        let size = ByteCount(length(&file).map_err(TargetError::io("look at", path))?);
        Ok(Whole { path: path.to_owned(), file, size, is_device: kind.is_block_device() })
    }

    /// Its size in bytes.
    pub fn size(&self) -> ByteCount {
        self.size
    }

    /// Reads bytes.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), TargetError> {
        self.file.read_exact_at(buffer, at).map_err(TargetError::io("read", &self.path))
    }

    /// Whether a range is a hole of a sparse file.
    pub fn is_hole(&self, start: u64, len: u64) -> bool {
        !self.is_device && is_hole(&self.file, &(start..start + len))
    }
}

impl Stamp {
    /// What tells whether somebody else touched it. Says nothing of devices beyond their size.
    pub(crate) fn of(path: &Path) -> Result<Stamp, TargetError> {
        let failed = TargetError::io("look at", path);
        let metadata = std::fs::metadata(path).map_err(&failed)?;
        if metadata.file_type().is_block_device() {
            let size = File::open(path).and_then(|file| length(&file)).map_err(&failed)?;
            return Ok(Stamp { size, inode: 0, modified_ns: 0 });
        }
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_ns = modified.map_or(0, |since| since.as_nanos() as u64);
        Ok(Stamp { size: metadata.len(), inode: metadata.ino(), modified_ns })
    }
}
