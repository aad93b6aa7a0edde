//! A disk of a running QEMU, driven over QMP: held at one moment while its guest goes on writing, with a dirty bitmap for each generation.
//!
//! [`machine`] is what happens in QEMU; bytes are read over NBD ([`super::nbd`]). The bitmap's name is the stamp: it is made before the moment that is captured, and its bits
//! only ever come on, so it holds at least what differs from there on. Once a generation is sealed the older bitmaps go.

mod machine;
mod monitor;
pub mod uri;

use super::nbd::{NbdConfig, NbdSource, NbdUri};
use super::tracking::{Changes, Stamp, Tracking, Unknown};
use super::{Identity, SECTOR, Source, SourceError, Wanted};
use crate::files;
use dedupe::{ByteCount, ByteOffset, GenerationId};
use machine::{Device, GUEST_WAITS, Machine};
use nbd::{Address, Errno};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
pub use uri::QemuDisk;

/// First byte of a stamp.
const VERSION: u8 = 1;
/// Of a disk's free room, the share that the old bytes of one capture may take: whoever else needs room there shall have some.
const SHARE: u64 = 2;

/// What all disks of running machines have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuConfig {
    /// The folder of the disk that holds, while a capture runs, the old bytes of what guests overwrite. Files there have no names and end with the capture.
    pub scratch: PathBuf,
    /// Bytes of these for one disk at most; a capture that needs more is given up.
    pub scratch_most: ByteCount,
}

/// Something went wrong with a machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} of the machine at {}: {why}; {next}", machine.display())]
pub struct QemuError {
    machine: PathBuf,
    what: String,
    why: String,
    next: String,
}

impl QemuError {
    fn of(machine: &Path, what: &str, why: impl Into<String>, next: impl Into<String>) -> QemuError {
        QemuError { machine: machine.into(), what: what.into(), why: why.into(), next: next.into() }
    }
}

impl From<QemuError> for SourceError {
    fn from(error: QemuError) -> SourceError {
        SourceError::Qemu(Box::new(error))
    }
}

/// What a stamp holds, after its version.
#[derive(Serialize, Deserialize)]
struct Since {
    /// The bitmap's name, drawn at random: no two moments have the same.
    bitmap: String,
    /// Bytes of the disk.
    size: u64,
}

/// A disk of a machine, held at one moment. What was done in the machine is undone when this is dropped.
pub struct QemuSource {
    disk: QemuDisk,
    machine: Mutex<Machine>,
    device: Device,
    tag: String,
    since: String,
    /// The socket that QEMU serves the disk at, in our own folder.
    door: Door,
    frozen: NbdSource,
    scratch: File,
    scratch_most: u64,
    round: AtomicU32,
    sealed: AtomicBool,
}

/// A socket's file, removed when it is dropped.
struct Door(PathBuf);

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Door {
    fn uri(&self, export: &str, bitmap: Option<String>) -> NbdUri {
        NbdUri { address: Address::Unix(self.0.clone()), tls: None, export: export.to_owned(), bitmap }
    }
}

impl QemuSource {
    /// Holds `disk` at this moment.
    pub fn open(disk: &QemuDisk, config: &QemuConfig) -> Result<QemuSource, SourceError> {
        let mut machine = Machine::open(&disk.socket)?;
        if machine.tidy()? {
            tracing::warn!(%disk, "what an interrupted capture had left in the machine was removed");
        }
        let device = machine.find(&disk.disk)?;
        if device.size == 0 || !device.size.is_multiple_of(SECTOR) {
            let why = format!(
                "its disk `{}` has {} bytes, which is no whole number of sectors of 512",
                disk.disk, device.size
            );
            return Err(QemuError::of(&disk.socket, "use a disk", why, "enlarge it, with qemu-img resize").into());
        }
        let mut tag = [0; 8];
        getrandom::fill(&mut tag).expect("the operating system has a random source");
        let tag = data_encoding::HEXLOWER.encode(&tag);
        let (scratch, scratch_most) = scratch(&disk.socket, config, &tag, device.size)?;
        let held = machine.freeze(&device, &tag, &scratch).map_err(SourceError::from).and_then(|since| {
            let (door, listener) = door(disk, config, &tag)?;
            let export = machine.serve(&tag, &listener)?;
            let frozen = NbdSource::open(&door.uri(&export, None), &NbdConfig::default())?;
            Ok((since, door, frozen))
        });
        match held {
            Ok((since, door, frozen)) => Ok(QemuSource {
                disk: disk.clone(),
                machine: Mutex::new(machine),
                device,
                tag,
                since,
                door,
                frozen,
                scratch,
                scratch_most,
                round: AtomicU32::new(0),
                sealed: AtomicBool::new(false),
            }),
            Err(error) => {
                undo(disk, &mut machine);
                Err(error)
            }
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the capture when the guest has overwritten too much, and says so where QEMU has given the moment up by itself.
    fn still_held<T>(&self, read: Result<T, SourceError>) -> Result<T, SourceError> {
        let given_up = |why: String| {
            let next = "capture while its guest writes less, or give `[qemu] scratch_most` or the disk below `[qemu] scratch` more room";
            Err(QemuError::of(&self.disk.socket, "hold the moment", why, next).into())
        };
        if let Err(SourceError::Nbd(error)) = &read
            && matches!(error.errno, Some(Errno::Eperm | Errno::Einval))
        {
            return given_up(format!(
                "QEMU gave it up: the old bytes of what its guest overwrote could not be kept within {GUEST_WAITS} s"
            ));
        }
        let used = self.scratch.metadata().map_or(0, |scratch| scratch.blocks() * 512);
        if used > self.scratch_most {
            return given_up(format!(
                "its guest overwrote more than the {} bytes that may be kept of it",
                self.scratch_most
            ));
        }
        read
    }

    /// Whether bitmaps of the disk outlive the machine.
    pub fn keeps_bitmaps(&self) -> bool {
        self.device.format == "qcow2"
    }
}

impl Drop for QemuSource {
    fn drop(&mut self) {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        if undo(&self.disk, &mut machine) && !self.sealed.load(Ordering::Relaxed) {
            // Nobody will ask for changes since this moment. If it stays, the next capture that knows what it builds on removes it.
            let _ = machine.remove_bitmap(&self.device.node, &self.since);
        }
    }
}

/// Takes everything of ours out of a machine, and says whether that worked.
fn undo(disk: &QemuDisk, machine: &mut Machine) -> bool {
    let undone = machine.tidy();
    if let Err(error) = &undone {
        tracing::warn!(%disk, %error, "what a capture did in the machine is not undone yet; the next one does it");
    }
    undone.is_ok()
}

/// Removes what an interrupted capture left in a machine; and, where nobody captures the disk any more, the bitmaps that follow its changes, too.
pub fn leave(disk: &QemuDisk, is_over: bool) -> Result<(), SourceError> {
    let mut machine = Machine::open(&disk.socket)?;
    machine.tidy()?;
    if is_over {
        let device = machine.find(&disk.disk)?;
        machine.forget(&device, &[])?;
    }
    Ok(())
}

/// A file without a name, as large as the disk and empty, and how much it may take.
fn scratch(socket: &Path, config: &QemuConfig, tag: &str, size: u64) -> Result<(File, u64), SourceError> {
    let failed = |error: std::io::Error| {
        let why = format!("a file for old bytes in {}: {error}", config.scratch.display());
        QemuError::of(socket, "hold the moment", why, "name a folder that the daemon may write to: `[qemu] scratch`")
    };
    let file = files::nameless(&config.scratch.join(format!("{tag}.scratch"))).map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    let room = nix::sys::statvfs::fstatvfs(&file).map_err(|error| failed(error.into()))?;
    let room = room.blocks_available() * room.fragment_size();
    Ok((file, config.scratch_most.0.min(room / SHARE)))
}

fn door(disk: &QemuDisk, config: &QemuConfig, tag: &str) -> Result<(Door, UnixListener), SourceError> {
    let path = config.scratch.join(format!("{tag}.nbd"));
    let listener = UnixListener::bind(&path).map_err(|error| {
        let why = format!("a socket at {}: {error}", path.display());
        QemuError::of(
            &disk.socket,
            "read the disk",
            why,
            "name a folder with a short path that the daemon may write to: `[qemu] scratch`",
        )
    })?;
    Ok((Door(path), listener))
}

impl Source for QemuSource {
    fn size(&self) -> ByteCount {
        self.frozen.size()
    }

    fn block_size(&self) -> u32 {
        self.frozen.block_size()
    }

    fn next_data(&self, within: Range<u64>) -> Result<Option<Range<u64>>, SourceError> {
        self.still_held(self.frozen.next_data(within))
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), SourceError> {
        self.still_held(self.frozen.read_at(offset, buf))
    }

    fn read_all(&self, wanted: &mut [Wanted<'_>]) -> Result<(), SourceError> {
        self.still_held(self.frozen.read_all(wanted))
    }

    fn at_once(&self) -> usize {
        self.frozen.at_once()
    }

    fn check(&self) -> Result<(), SourceError> {
        self.still_held(self.frozen.check())
    }

    fn identity(&self) -> Option<Identity> {
        None
    }

    fn tracking(&self) -> Option<&dyn Tracking> {
        Some(self)
    }
}

impl Tracking for QemuSource {
    /// The bitmap was made when the disk was opened, before the moment that is read.
    fn begin(&self) -> Result<Stamp, Unknown> {
        let mut stamp = vec![VERSION];
        let since = Since { bitmap: self.since.clone(), size: self.device.size };
        stamp.extend(postcard::to_allocvec(&since).expect("plain data serialises"));
        Ok(Stamp(stamp))
    }

    fn changed_since(&self, stamp: &Stamp) -> Result<Box<dyn Changes + '_>, Unknown> {
        let unknown = |error: SourceError| Unknown(error.to_string());
        let then = stamp.0.strip_prefix(&[VERSION]).and_then(|bytes| postcard::from_bytes::<Since>(bytes).ok());
        let then = then.ok_or_else(|| Unknown("its stamp is of another version or source".into()))?;
        if then.size != self.device.size {
            return Err(Unknown(format!("the size changed from {} to {} bytes", then.size, self.device.size)));
        }
        let served = {
            let mut machine = self.machine();
            let doubt = machine.doubt(&self.device, &then.bitmap).map_err(|error| unknown(error.into()))?;
            if let Some(why) = doubt {
                return Err(Unknown(why));
            }
            // What captures that failed have left.
            let kept = [then.bitmap.as_str(), &self.since];
            let served = machine.forget(&self.device, &kept).and_then(|()| {
                let round = self.round.fetch_add(1, Ordering::Relaxed);
                machine.serve_changes(&self.device, &self.tag, &then.bitmap, round)
            });
            served.map_err(|error| unknown(error.into()))?
        };
        let (export, bitmap, bytes) = served;
        let changes = NbdSource::open(
            &self.door.uri(&export, Some(bitmap)),
            &NbdConfig { connections: 1, ..NbdConfig::default() },
        );
        changes.map_err(unknown)?.into_dirty(bytes)
    }

    fn done(&self, _generation: GenerationId, _stamp: &Stamp) {
        self.sealed.store(true, Ordering::Relaxed);
        if let Err(error) = self.machine().forget(&self.device, &[&self.since]) {
            tracing::warn!(disk = %self.disk, %error, "older bitmaps are still in the machine; the next capture removes them");
        }
    }
}

#[cfg(test)]
mod tests;
