//! A Glance image for each generation.
//!
//! Images cannot be changed, so each is a whole copy: put together in a file of this machine, uploaded, read back, and then shown. Until it is proved it is
//! hidden and says that it is being filled.

use super::OpenStackSettings;
use super::glance::{self, Glance};
use super::keystone::Keystone;
use crate::error::TargetError;
use crate::http::Options;
use crate::raw::{Handle, open};
use crate::tags;
use crate::target::{Check, Description, Filling, Image, Keeps, Notes, Point, Shape, Start, Target, Work};
use dedupe::{ByteOffset, UnixMillis};
use serde_json::{Value, json};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The property that tells what is proved from what is not.
const STATE: &str = "sluice-state";
const FILLING: &str = "filling";
const WHOLE: &str = "whole";
/// Threads that write at once, into a file.
const PARALLEL: usize = 4;
/// Bytes of one write.
const MOST: usize = 1 << 20;
/// Uploads of one image at most before it is given up for now.
const UPLOADS: usize = 5;
/// Glance's unit of the disk that an image needs.
const GIB: u64 = 1 << 30;

/// See the module's documentation.
pub(crate) struct Images {
    glance: Glance,
    staging: PathBuf,
}

impl Images {
    pub(crate) fn new(
        settings: &OpenStackSettings,
        keystone: &Arc<Keystone>,
        options: &Options,
    ) -> Result<Images, TargetError> {
        let Some(staging) = settings.staging.clone() else {
            return Err(TargetError::Unfit(
                "`as_image` needs a folder with room for a whole volume; set `staging`".into(),
            ));
        };
        Ok(Images { glance: Glance::new(keystone, settings.endpoints.image.clone(), options)?, staging })
    }

    /// Where a run's image is put together.
    fn staged(&self, work: &Work) -> PathBuf {
        self.staging.join(format!("{}.{}.staged", work.image.label(), work.run))
    }

    /// What runs of this volume left; a volume has one run at a time.
    fn drop_staged(&self, image: &Image, except: Option<&Path>) -> Result<(), TargetError> {
        let failed = TargetError::io("look at", &self.staging);
        let begin = format!("{}.", image.label());
        for entry in std::fs::read_dir(&self.staging).map_err(&failed)? {
            let path = entry.map_err(&failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(&begin) && name.ends_with(".staged") && Some(path.as_path()) != except {
                remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn images(&self, image: &Image) -> Result<Vec<glance::Image>, TargetError> {
        let mut images = self.glance.tagged(tags::LINEAGE, &image.lineage.to_string())?;
        images.retain(|one| {
            tags::is_of(image, |key| one.get(key)) && !matches!(one.status.as_str(), "deleted" | "pending_delete")
        });
        Ok(images)
    }

    fn of_run(&self, work: &Work) -> Result<Vec<glance::Image>, TargetError> {
        let mut images = self.images(&work.image)?;
        images.retain(|image| tags::run(|key| image.get(key)) == Some(work.run));
        Ok(images)
    }

    fn finished(&self, work: &Work) -> Result<Option<Point>, TargetError> {
        Ok(self.of_run(work)?.iter().find_map(point_of))
    }

    /// Removes what this run uploaded and did not finish.
    fn drop_uploads(&self, work: &Work) -> Result<(), TargetError> {
        for image in self.of_run(work)?.iter().filter(|image| point_of(image).is_none()) {
            self.glance.delete(&image.id)?;
        }
        Ok(())
    }

    fn upload(&self, work: &Work, file: &File) -> Result<String, TargetError> {
        let mut image = json!({
            "name": format!("{}.{}", work.image.label(), work.number),
            "disk_format": "raw",
            "container_format": "bare",
            "visibility": "private",
            "os_hidden": true,
            "min_disk": work.size.0.div_ceil(GIB),
            STATE: FILLING,
        });
        for (key, value) in tags::of_work(work) {
            image[key] = value.into();
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            // What an attempt left cannot be uploaded to again.
            self.drop_uploads(work)?;
            let made = self
                .glance
                .create(|| Ok(self.of_run(work)?.into_iter().find(|image| image.status == "queued")), &image)?;
            match self.glance.upload(&made.id, file) {
                Ok(()) => return self.uploaded(&made.id, work),
                Err(error) if error.retry() == crate::error::Retry::Later && attempt < UPLOADS => {
                    tracing::debug!(%error, attempt, "an upload is begun anew");
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn uploaded(&self, id: &str, work: &Work) -> Result<String, TargetError> {
        let refuse = |said: String| TargetError::Conflict(format!("image {id} {said}; run it again"));
        match self.glance.get(id)? {
            Some(image) if image.status == "active" && image.size == Some(work.size.0) => Ok(image.id),
            Some(image) => Err(refuse(format!("is `{}` with {:?} bytes after its upload", image.status, image.size))),
            None => Err(refuse("is gone after its upload".into())),
        }
    }
}

impl Target for Images {
    fn shape(&self) -> Shape {
        Shape { kind: "openstack-image", unit: 4096, most: MOST, parallel: PARALLEL, keeps: Keeps::Many }
    }

    fn describe(&self) -> Result<Description, TargetError> {
        let check = |what: &str, wrong: Option<String>| Check { what: what.into(), wrong };
        let address = self.glance.address();
        let wrong = address.as_ref().err().map(ToString::to_string);
        let mut checks = vec![check("Keystone knows the account and the way to Glance", wrong)];
        if address.is_ok() {
            let listed = self.glance.tagged(STATE, FILLING);
            checks.push(check("Glance answers the account", listed.err().map(|error| error.to_string())));
        }
        let may_write = nix::unistd::access(&self.staging, nix::unistd::AccessFlags::W_OK);
        let wrong = may_write.err().map(|errno| {
            format!(
                "{}: {errno}; make the folder, and give the gateway's user the right to write there",
                self.staging.display()
            )
        });
        checks.push(check("the gateway may write to the staging folder", wrong));
        Ok(Description { place: address.unwrap_or_else(|_| "Glance, somewhere".into()), checks, room: None })
    }

    fn points(&self, image: &Image) -> Result<Vec<Point>, TargetError> {
        let mut points: Vec<Point> = self.images(image)?.iter().filter_map(point_of).collect();
        points.sort_by_key(|point| (point.number, point.made));
        points.dedup_by_key(|point| point.generation);
        Ok(points)
    }

    fn look(&self, work: &Work) -> Result<Start, TargetError> {
        if let Some(point) = self.finished(work)? {
            return Ok(Start::Finished(point));
        }
        Ok(if self.staged(work).exists() { Start::Resumed } else { Start::Zeroes })
    }

    fn prepare<'a>(&'a self, work: &Work, _: &'a dyn Notes) -> Result<(Start, Box<dyn Filling + 'a>), TargetError> {
        let path = self.staged(work);
        if let Some(point) = self.finished(work)? {
            self.drop_uploads(work)?;
            self.drop_staged(&work.image, None)?;
            return Ok((Start::Finished(point.clone()), Box::new(super::Done(point))));
        }
        let start = if path.exists() { Start::Resumed } else { Start::Zeroes };
        self.drop_staged(&work.image, Some(&path))?;
        let staged = open(&path, false, true)?;
        staged.file.set_len(work.size.0).map_err(TargetError::io("resize", &path))?;
        Ok((start, Box::new(Open { images: self, work: work.clone(), path, staged, uploaded: Mutex::new(None) })))
    }

    fn abandon(&self, work: &Work, _: &dyn Notes) -> Result<(), TargetError> {
        self.drop_uploads(work)?;
        remove_file(&self.staged(work))
    }

    fn remove(&self, point: &Point) -> Result<(), TargetError> {
        match self.glance.get(&point.id)? {
            None => Ok(()),
            Some(image) => match point_of(&image) {
                Some(held) if held.generation == point.generation => self.glance.delete(&image.id),
                Some(_) => Ok(()), // something else by now
                None => Err(TargetError::Conflict(format!(
                    "image {} lacks our tags, so it is not removed; look at it in the cloud",
                    point.id
                ))),
            },
        }
    }
}

/// An image that is put together.
struct Open<'a> {
    images: &'a Images,
    work: Work,
    path: PathBuf,
    staged: Handle,
    /// The image's id, once all is uploaded and as long as nothing is written after that.
    uploaded: Mutex<Option<String>>,
}

impl Open<'_> {
    fn changed(&self) {
        *self.uploaded.lock().expect("nobody panics while holding it") = None;
    }

    fn id(&self) -> Result<String, TargetError> {
        let id = self.uploaded.lock().expect("nobody panics while holding it").clone();
        id.ok_or_else(|| TargetError::Conflict("the image is not uploaded; complete it first".into()))
    }
}

impl Filling for Open<'_> {
    fn apply(&self, at: ByteOffset, bytes: &[u8]) -> Result<(), TargetError> {
        self.changed();
        self.staged.write(at.0, bytes)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        self.changed();
        self.staged.zero(range)
    }

    fn flush(&self) -> Result<(), TargetError> {
        self.staged.flush()
    }

    fn complete(&self) -> Result<(), TargetError> {
        if self.id().is_ok() {
            return Ok(());
        }
        self.staged.flush()?;
        let file = File::open(&self.path).map_err(TargetError::io("open", &self.path))?;
        let id = self.images.upload(&self.work, &file)?;
        *self.uploaded.lock().expect("nobody panics while holding it") = Some(id);
        Ok(())
    }

    fn read(&self, at: ByteOffset, buffer: &mut [u8]) -> Result<(), TargetError> {
        self.images.glance.read(&self.id()?, at.0, buffer)
    }

    fn finish(&self, now: UnixMillis) -> Result<Point, TargetError> {
        let point = self.work.point(self.id()?, now);
        let mut properties: Vec<(&str, Value)> =
            tags::of_generation(&point).into_iter().map(|(key, value)| (key, value.into())).collect();
        properties.push((STATE, WHOLE.into()));
        properties.push(("os_hidden", false.into()));
        self.images.glance.set(&point.id, &properties)?;
        remove_file(&self.path)?;
        Ok(point)
    }
}

/// Removes a file; that it is gone is fine.
fn remove_file(path: &Path) -> Result<(), TargetError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(TargetError::io("remove", path)),
    }
}

/// The point that an image is; `None` for one that is not proved, or not ours.
fn point_of(image: &glance::Image) -> Option<Point> {
    let is_whole = image.status == "active" && image.get(STATE).as_deref() == Some(WHOLE);
    is_whole.then(|| tags::point(&image.id, |key| image.get(key))).flatten()
}
