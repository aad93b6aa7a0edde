//! Which kind of place a target is, and what has to be known to reach it. No secrets: those come by [`Credentials`].

use crate::credentials::Credentials;
use crate::error::TargetError;
use crate::http::Options;
use crate::raw::Raw;
use crate::target::Target;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One for each kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Settings {
    /// A folder that gets a sparse file for each volume.
    Raw(RawSettings),
    /// One block device, for one volume.
    Device(DeviceSettings),
}

/// A folder of raw files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSettings {
    /// The folder.
    pub folder: PathBuf,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSettings {
    /// The device.
    pub path: PathBuf,
}

impl Settings {
    /// The kind, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Settings::Raw(_) => "raw",
            Settings::Device(_) => "device",
        }
    }

    /// Paths of the gateway's machine that it writes to.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Settings::Raw(settings) => vec![&settings.folder],
            Settings::Device(settings) => vec![&settings.path],
        }
    }

    /// The target. `records` is the folder where the records of block devices lie.
    ///
    /// # Errors
    /// [`TargetError::Credentials`], and what is wrong with the settings. Asks no service.
    pub fn open(
        &self,
        credentials: &Credentials,
        options: &Options,
        records: &Path,
    ) -> Result<Box<dyn Target>, TargetError> {
        let _ = (credentials, options);
        Ok(match self {
            Settings::Raw(settings) => Box::new(Raw::folder(&settings.folder, records)),
            Settings::Device(settings) => Box::new(Raw::exact(&settings.path, records)),
        })
    }
}
