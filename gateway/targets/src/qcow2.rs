//! qcow2 images in a folder: for each volume a chain of files, one for each generation, each holding what changed since the one under it.
//!
//! Written and read through `qemu-nbd`, made, checked and merged by `qemu-img`: QEMU's own code is the format's reference, and nothing of it is in our
//! process. An image that is being filled has a name of its own and gets its last one when it is proved. What each image is stands beside it as JSON.

mod chain;
mod filling;
mod served;

use crate::error::TargetError;
use crate::pause::Stop;
use crate::program::Run;
use crate::raw::{Stamp, remove, sync_folder_of};
use crate::tags;
use crate::target::{Check, Description, Filling, Image, Keeps, Notes, Point, Shape, Start, Target, Work};
use chain::{Chain, Found, Lock, Record, UNFINISHED};
use filling::Open;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of one write at most.
const MOST: usize = 2 << 20;
/// Threads at most: as many as there are connections to `qemu-nbd`.
const PARALLEL: usize = 4;
/// Images on top of each other at most. QEMU opens them all at once to read the topmost.
const DEEPEST: usize = 200;
/// For a question or a new image.
const SHORT: Duration = Duration::from_secs(60);
/// For reading all tables of an image, or writing all of one image into another: terabytes on a slow disk.
const LONG: Duration = Duration::from_secs(48 * 3600);

/// What a target of this kind is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qcow2Settings {
    /// The folder.
    pub folder: PathBuf,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Qcow2 {
    folder: PathBuf,
    stop: Stop,
}

impl Qcow2 {
    /// A folder, which has to be there. `stop` ends what takes long.
    pub fn new(settings: &Qcow2Settings, stop: &Stop) -> Result<Qcow2, TargetError> {
        // QEMU takes what has no slash in front for other things than a file.
        let folder = std::path::absolute(&settings.folder).map_err(TargetError::io("find", &settings.folder))?;
        Ok(Qcow2 { folder, stop: stop.clone() })
    }

    /// The image of a generation, once it is proved.
    pub fn path_of(&self, work: &Work) -> PathBuf {
        let generation = &work.generation.to_string()[..8];
        self.folder.join(format!("{}.{}.{generation}.qcow2", work.image.label(), work.number))
    }

    fn qemu_img(&self, args: &[&OsStr], longest: Duration) -> Result<String, TargetError> {
        Run { program: "qemu-img", args, input: b"", longest, stop: &self.stop }.well()
    }

    /// Whether an image's tables are sound. Room that is lost by a crash is given back.
    fn is_sound(&self, path: &Path) -> Result<bool, TargetError> {
        let args: [&OsStr; 6] =
            ["check".as_ref(), "-q".as_ref(), "-r".as_ref(), "leaks".as_ref(), "-fqcow2".as_ref(), path.as_ref()];
        let check = Run { program: "qemu-img", args: &args, input: b"", longest: LONG, stop: &self.stop }.to_end()?;
        Ok(check.status == Some(0))
    }

    /// The point to build on: the one that is wished for, if it is there as it was written.
    fn base<'a>(&self, work: &Work, chain: &'a Chain) -> Result<Option<(Point, &'a Found)>, TargetError> {
        let Some(wish) = &work.base else { return Ok(None) };
        let base = chain.points(&work.image).into_iter().find(|(point, _)| point == wish);
        match base.as_ref().and_then(|(_, found)| chain.depth(found)) {
            Some(depth) if depth >= DEEPEST => Err(TargetError::Unfit(format!(
                "{} has {depth} images under it, and {DEEPEST} are the most; remove old points, then run it again",
                wish.id
            ))),
            _ => Ok(base),
        }
    }

    /// What the folder holds for a run. The run's own unfinished image is looked at by its record alone.
    fn judge(&self, work: &Work, chain: &Chain) -> Result<Start, TargetError> {
        let path = self.path_of(work);
        if path.try_exists().map_err(TargetError::io("look at", &path))? {
            let mut points = chain.points(&work.image).into_iter();
            return match points.find(|(point, found)| found.path == path && point.generation == work.generation) {
                Some((point, _)) => Ok(Start::Finished(point)),
                None => Err(TargetError::Conflict(format!(
                    "{} is there and is not, or no more, what was written; move it away, then run it again",
                    path.display()
                ))),
            };
        }
        if self.unfinished_of(work, chain).is_some() {
            return Ok(Start::Resumed);
        }
        Ok(self.base(work, chain)?.map_or(Start::Zeroes, |(point, _)| Start::Holds(point)))
    }

    /// The image that this very run fills.
    fn unfinished_of<'a>(&self, work: &Work, chain: &'a Chain) -> Option<&'a Found> {
        let path = self.path_of(work).with_added_extension(UNFINISHED);
        let found = chain.find(path.file_name()?.to_str()?)?;
        let record = found.record.as_ref()?;
        (tags::run(|name| record.tag(name)) == Some(work.run)).then_some(found)
    }

    /// Makes the image of a run, on its base.
    fn make(&self, work: &Work, path: &Path, chain: &Chain) -> Result<Start, TargetError> {
        remove(path)?; // of another run of this generation, or damaged
        Record::new(tags::of_work(work), None).write(path)?;
        let size = filling::disk(work.size).to_string();
        let base = self.base(work, chain)?;
        let mut args: Vec<&OsStr> = vec!["create".as_ref(), "-q".as_ref(), "-fqcow2".as_ref()];
        if let Some((_, found)) = &base {
            // By its name alone: the folder may be moved.
            args.extend::<[&OsStr; 3]>(["-Fqcow2".as_ref(), "-b".as_ref(), found.name.as_ref()]);
        }
        args.extend::<[&OsStr; 2]>([path.as_ref(), size.as_ref()]);
        self.qemu_img(&args, SHORT)?;
        sync_folder_of(path).map_err(TargetError::io("sync the folder of", path))?;
        Ok(base.map_or(Start::Zeroes, |(point, _)| Start::Holds(point)))
    }

    /// Takes an image from under the one that builds on it: what that one has goes into it, and then it takes that one's name.
    fn merge(&self, found: &Found, child: &Found) -> Result<(), TargetError> {
        mark(child, None)?;
        self.qemu_img(
            &["commit".as_ref(), "-q".as_ref(), "-d".as_ref(), "-fqcow2".as_ref(), child.path.as_ref()],
            LONG,
        )?;
        let size = child.header.size.to_string();
        let args: [&OsStr; 6] = [
            "resize".as_ref(),
            "-q".as_ref(),
            "--shrink".as_ref(),
            "-fqcow2".as_ref(),
            found.path.as_ref(),
            size.as_ref(),
        ];
        self.qemu_img(&args, SHORT)?;
        let rename = || -> std::io::Result<()> {
            std::fs::File::open(&found.path)?.sync_all()?;
            std::fs::rename(&found.path, &child.path)?;
            sync_folder_of(&child.path)
        };
        rename().map_err(TargetError::io("rename", &found.path))?;
        mark(child, Some(Stamp::of(&child.path)?))
    }

    /// Makes an image that builds on another build on what lies under that.
    fn rebase(&self, found: &Found, child: &Found) -> Result<(), TargetError> {
        mark(child, None)?;
        let under: &OsStr = found.header.backing.as_deref().unwrap_or_default().as_ref();
        let args: [&OsStr; 7] = [
            "rebase".as_ref(),
            "-q".as_ref(),
            "-fqcow2".as_ref(),
            "-Fqcow2".as_ref(),
            "-b".as_ref(),
            under,
            child.path.as_ref(),
        ];
        self.qemu_img(&args, LONG)?;
        std::fs::File::open(&child.path)
            .and_then(|file| file.sync_all())
            .map_err(TargetError::io("sync", &child.path))?;
        mark(child, Some(Stamp::of(&child.path)?))
    }
}

/// Writes down how an image looks now; `None`: we are changing it.
fn mark(found: &Found, stamp: Option<Stamp>) -> Result<(), TargetError> {
    match &found.record {
        Some(record) => Record { stamp, ..record.clone() }.write(&found.path),
        None => Ok(()), // it is being removed itself
    }
}

impl Target for Qcow2 {
    fn shape(&self) -> Shape {
        Shape { kind: "qcow2", unit: 4096, most: MOST, parallel: PARALLEL, keeps: Keeps::Many }
    }

    fn describe(&self) -> Result<Description, TargetError> {
        let folder = &self.folder;
        let check = |what: &str, wrong: Option<String>| Check { what: what.into(), wrong };
        let missing =
            (!folder.is_dir()).then(|| format!("{} is no folder; make it, or name another", folder.display()));
        let writable = nix::unistd::access(folder.as_path(), nix::unistd::AccessFlags::W_OK).err();
        let writable =
            writable.map(|errno| format!("{}: {errno}; give the gateway's user the right", folder.display()));
        let mut checks = vec![check("the folder is there", missing), check("the gateway may write there", writable)];
        for program in ["qemu-img", "qemu-nbd"] {
            let args: [&OsStr; 1] = ["--version".as_ref()];
            let version = Run { program, args: &args, input: b"", longest: SHORT, stop: &self.stop }.well();
            checks.push(check(&format!("{program} runs"), version.err().map(|error| error.to_string())));
        }
        let stat = nix::sys::statvfs::statvfs(folder.as_path()).ok();
        let room = stat.map(|stat| stat.blocks_available() * stat.fragment_size());
        Ok(Description { place: folder.display().to_string(), checks, room })
    }

    fn points(&self, image: &Image) -> Result<Vec<Point>, TargetError> {
        let chain = Chain::read(&self.folder, &image.label())?;
        Ok(chain.points(image).into_iter().map(|(point, _)| point).collect())
    }

    fn look(&self, work: &Work) -> Result<Start, TargetError> {
        self.judge(work, &Chain::read(&self.folder, &work.image.label())?)
    }

    fn prepare<'a>(&'a self, work: &Work, _: &'a dyn Notes) -> Result<(Start, Box<dyn Filling + 'a>), TargetError> {
        let lock = Lock::take(&self.folder, &work.image.label())?;
        let chain = Chain::read(&self.folder, &work.image.label())?;
        let start = self.judge(work, &chain)?;
        let path = self.path_of(work).with_added_extension(UNFINISHED);
        let start = match start {
            Start::Finished(point) => {
                Record::remove(&path)?; // it may have been killed before it did that
                return Ok((Start::Finished(point.clone()), Box::new(filling::Finished(point))));
            }
            Start::Resumed if self.is_sound(&path)? => Start::Resumed,
            _ => self.make(work, &path, &chain)?,
        };
        Ok((start, Box::new(Open::new(self, work, lock)?)))
    }

    fn abandon(&self, work: &Work, _: &dyn Notes) -> Result<(), TargetError> {
        let _lock = Lock::take(&self.folder, &work.image.label())?;
        let path = self.path_of(work);
        let unfinished = path.with_added_extension(UNFINISHED);
        if Record::of_run(&unfinished, work.run) {
            remove(&unfinished)?;
            Record::remove(&unfinished)?;
        }
        // Killed between the record of the point and the image's name: it was none.
        if Record::of_run(&path, work.run) && !path.try_exists().map_err(TargetError::io("look at", &path))? {
            Record::remove(&path)?;
        }
        Ok(())
    }

    fn remove(&self, point: &Point) -> Result<(), TargetError> {
        let path = PathBuf::from(&point.id);
        let name = path.file_name().and_then(OsStr::to_str).filter(|_| path.parent() == Some(&self.folder));
        let parts = name.map(|name| name.rsplitn(4, '.').collect::<Vec<_>>());
        let (Some(name), Some([_, _, _, label])) = (name, parts.as_deref()) else {
            let folder = self.folder.display();
            return Err(TargetError::Unfit(format!(
                "{} is no image in {folder}; name the target that has it",
                point.id
            )));
        };
        let _lock = Lock::take(&self.folder, label)?;
        let chain = Chain::read(&self.folder, label)?;
        let Some(found) = chain.find(name) else { return Record::remove(&path) };
        let generation = found.record.as_ref().and_then(|record| record.tag(tags::GENERATION));
        if generation.is_some_and(|generation| generation != point.generation.to_string()) {
            return Ok(()); // another one by now
        }
        let children = chain.children(name);
        if let Some(run) = children.iter().find(|child| child.is_unfinished()) {
            return Err(TargetError::Conflict(format!(
                "{} cannot be removed: a run that is not finished builds on it ({}); let it finish or give it up first",
                point.id, run.name
            )));
        }
        // From here on it is no point, and what lies in it is read by those that build on it only.
        Record::remove(&path)?;
        match children[..] {
            [] => remove(&path),
            [child] => self.merge(found, child),
            _ => {
                children.iter().try_for_each(|child| self.rebase(found, child))?;
                remove(&path)
            }
        }
    }
}
