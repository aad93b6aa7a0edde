//! Where a gateway rehydrates to.
//!
//! One small trait, [`Target`], and behind it a file, a block device, a qcow2 image, the volumes of a cloud. The engine that decides what
//! has to be written is the gateway's; what is here knows one kind of place and nothing of stores and policies. See `docs/design/targets.md`.

mod aws;
pub mod azure;
mod crc64;
pub mod credentials;
pub mod ebs;
pub mod error;
pub mod http;
pub mod libvirt;
pub mod openstack;
pub mod pause;
mod program;
pub mod qcow2;
pub mod raw;
pub mod s3;
pub mod settings;
pub mod tags;
pub mod target;
mod xml;

pub use credentials::{Credentials, Vars};
pub use error::{Retry, TargetError};
pub use pause::Stop;
pub use settings::Settings;
pub use target::{Check, Description, Filling, Image, Keeps, Notes, Point, Shape, Start, Target, Work};
