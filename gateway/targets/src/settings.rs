//! Which kind of place a target is, and what has to be known to reach it. No secrets: those come by [`Credentials`].

use crate::azure::{Azure, AzureSettings};
use crate::credentials::Credentials;
use crate::ebs::{Ebs, EbsSettings};
use crate::error::TargetError;
use crate::http::Options;
use crate::openstack::{OpenStack, OpenStackSettings};
use crate::qcow2::{Qcow2, Qcow2Settings};
use crate::raw::Raw;
use crate::s3::{S3, S3Settings};
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
    /// A folder that gets a chain of qcow2 images for each volume.
    Qcow2(Qcow2Settings),
    /// A container of an Azure storage account that gets a page blob for each volume.
    Azure(AzureSettings),
    /// AWS: an EBS snapshot for each generation, by the EBS direct APIs.
    Ebs(EbsSettings),
    /// A bucket of an S3-compatible store that gets an object for each generation.
    S3(S3Settings),
    /// A project of an OpenStack cloud that gets a Cinder volume for each volume here, or a Glance image for each generation.
    #[serde(rename = "openstack")]
    OpenStack(OpenStackSettings),
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
            Settings::Qcow2(_) => "qcow2",
            Settings::Azure(_) => "azure",
            Settings::Ebs(_) => "ebs",
            Settings::S3(_) => "s3",
            Settings::OpenStack(_) => "openstack",
        }
    }

    /// Paths of the gateway's machine that it writes to.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Settings::Raw(settings) => vec![&settings.folder],
            Settings::Device(settings) => vec![&settings.path],
            Settings::Qcow2(settings) => vec![&settings.folder],
            Settings::Azure(_) | Settings::Ebs(_) | Settings::S3(_) => Vec::new(),
            Settings::OpenStack(settings) => {
                settings.staging.iter().chain(settings.shares.values()).map(PathBuf::as_path).collect()
            }
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
        Ok(match self {
            Settings::Raw(settings) => Box::new(Raw::folder(&settings.folder, records)),
            Settings::Device(settings) => Box::new(Raw::exact(&settings.path, records)),
            Settings::Qcow2(settings) => Box::new(Qcow2::new(settings, &options.stop)?),
            Settings::Azure(settings) => Box::new(Azure::new(settings, credentials, options)?),
            Settings::Ebs(settings) => Box::new(Ebs::new(settings.clone(), credentials, options.clone())?),
            Settings::OpenStack(settings) => Box::new(OpenStack::new(settings, credentials, options)?),
            Settings::S3(settings) => Box::new(S3::new(settings.clone(), credentials, options.clone())?),
        })
    }
}
