//! OpenStack: a Cinder volume for each volume and a snapshot for each generation that is kept, or a Glance image for each generation.
//!
//! Everything that is known of what is there lies in the cloud, as metadata of the things themselves, so that a gateway that lost all goes on where it was.
//! What lacks our tags is never touched. Steps and what a crash at each of them leaves: `docs/design/openstack.md`.

mod cinder;
mod connector;
mod glance;
mod image;
mod keystone;
mod volume;

use crate::credentials::Credentials;
use crate::error::TargetError;
use crate::http::Options;
use crate::target::{Description, Filling, Image, Notes, Point, Shape, Start, Target, Work};
pub use connector::Place;
use dedupe::{ByteOffset, UnixMillis};
use keystone::Keystone;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// What an operator says of an OpenStack target. Who we are there, and the address of Keystone, are in the credentials, under the names of `openrc` files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpenStackSettings {
    /// The region, where the credentials do not say it or another is meant.
    pub region: Option<String>,
    /// Which kind of volume; the cloud's default without.
    pub volume_type: Option<String>,
    /// Where volumes are made; the cloud's default without.
    pub availability_zone: Option<String>,
    /// A Glance image for each generation, a whole copy each, instead of a Cinder volume with snapshots.
    pub as_image: bool,
    /// For images: a folder of this machine with room for a whole volume, where one is put together before it is uploaded.
    pub staging: Option<PathBuf>,
    /// Addresses of services where those of the catalog are not to be used; `{project}` stands for the project's id.
    pub endpoints: Endpoints,
    /// Folders where shares of Cinder's NFS backends are mounted, by share (`host:/path`); without, those of the system's mounts.
    pub shares: BTreeMap<String, PathBuf>,
}

/// See [`OpenStackSettings::endpoints`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Endpoints {
    /// Cinder's, with its version and project, as `https://cinder.example:8776/v3/{project}`.
    pub volume: Option<String>,
    /// Glance's.
    pub image: Option<String>,
}

/// See the module's documentation.
pub struct OpenStack {
    way: Way,
}

enum Way {
    Volumes(volume::Volumes),
    Images(image::Images),
}

impl OpenStack {
    /// A target; asks nobody yet.
    ///
    /// # Errors
    /// [`TargetError::Io`] for a file of authorities that cannot be read, [`TargetError::Unfit`] for settings that contradict each other.
    pub fn new(
        settings: &OpenStackSettings,
        credentials: &Credentials,
        options: &Options,
    ) -> Result<OpenStack, TargetError> {
        let keystone = Arc::new(Keystone::new(credentials, settings.region.clone(), options)?);
        let way = match settings.as_image {
            true => Way::Images(image::Images::new(settings, &keystone, options)?),
            false => Way::Volumes(volume::Volumes::new(settings, &keystone, options)?),
        };
        Ok(OpenStack { way })
    }

    /// Where the bytes of a run's volume are now, for who wants to look at them from this machine while it is attached.
    ///
    /// # Errors
    /// [`TargetError::Unfit`] when it is not attached, or cannot be reached from here.
    pub fn place_of(&self, image: &Image) -> Result<Place, TargetError> {
        match &self.way {
            Way::Volumes(volumes) => volumes.place_of(image),
            Way::Images(_) => Err(TargetError::Unfit("an image has no place on this machine".into())),
        }
    }

    fn way(&self) -> &dyn Target {
        match &self.way {
            Way::Volumes(volumes) => volumes,
            Way::Images(images) => images,
        }
    }
}

/// What there is to fill when the run finished before: nothing.
struct Done(Point);

impl Done {
    fn refuse(&self) -> Result<(), TargetError> {
        Err(TargetError::Conflict(format!(
            "the run finished before, as {}; there is nothing to write or read",
            self.0.id
        )))
    }
}

impl Filling for Done {
    fn apply(&self, _: ByteOffset, _: &[u8]) -> Result<(), TargetError> {
        self.refuse()
    }

    fn zero(&self, _: Range<u64>) -> Result<(), TargetError> {
        self.refuse()
    }

    fn flush(&self) -> Result<(), TargetError> {
        Ok(())
    }

    fn complete(&self) -> Result<(), TargetError> {
        Ok(())
    }

    fn read(&self, _: ByteOffset, _: &mut [u8]) -> Result<(), TargetError> {
        self.refuse()
    }

    fn finish(&self, _: UnixMillis) -> Result<Point, TargetError> {
        Ok(self.0.clone())
    }
}

impl Target for OpenStack {
    fn shape(&self) -> Shape {
        self.way().shape()
    }

    fn describe(&self) -> Result<Description, TargetError> {
        self.way().describe()
    }

    fn points(&self, image: &Image) -> Result<Vec<Point>, TargetError> {
        self.way().points(image)
    }

    fn look(&self, work: &Work) -> Result<Start, TargetError> {
        self.way().look(work)
    }

    fn prepare<'a>(&'a self, work: &Work, notes: &'a dyn Notes) -> Result<(Start, Box<dyn Filling + 'a>), TargetError> {
        self.way().prepare(work, notes)
    }

    fn abandon(&self, work: &Work, notes: &dyn Notes) -> Result<(), TargetError> {
        self.way().abandon(work, notes)
    }

    fn remove(&self, point: &Point) -> Result<(), TargetError> {
        self.way().remove(point)
    }
}
