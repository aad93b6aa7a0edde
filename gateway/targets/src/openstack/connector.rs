//! From what Cinder says of an attachment to bytes that can be read and written.
//!
//! A raw file on a share is opened directly. Other formats go through `qemu-nbd` and our NBD client, so that no kernel module and no device is needed. What
//! is not known here is refused by its name.

use crate::error::TargetError;
use crate::raw::{Handle, open};
use nbd::client::{Address, Client, ClientError, Options};
use nbd::proto::ALLOCATION;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long `qemu-nbd` may take to open an image, and another one that lost its gateway to let go of it.
const OPENING: Duration = Duration::from_secs(20);
/// How long it may take to close it after the last byte is flushed.
const CLOSING: Duration = Duration::from_secs(20);
/// Between looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// Where volumes are, for those who want to look at one: a path of this machine and its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// `raw` or `qcow2`, as Cinder says; nothing is guessed from what the file holds.
    pub format: String,
}

/// What this machine says of itself when it asks for an attachment.
pub(crate) fn myself() -> Value {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    json!({
        "host": host.unwrap_or_else(|| "sluice-gateway".into()),
        "ip": "127.0.0.1",
        "os_type": "linux",
        "platform": std::env::consts::ARCH,
        "multipath": false,
        "initiator": initiator(),
    })
}

/// Our name to iSCSI targets, as open-iscsi keeps it.
fn initiator() -> String {
    let file = std::fs::read_to_string("/etc/iscsi/initiatorname.iscsi").unwrap_or_default();
    let name = file.lines().find_map(|line| line.trim().strip_prefix("InitiatorName="));
    name.unwrap_or("iqn.2026-01.dev.sluice:gateway").to_owned()
}

/// What Cinder says of a share.
#[derive(Deserialize)]
struct Share {
    export: String,
    name: String,
    #[serde(default)]
    format: Option<String>,
}

/// Where an attached volume is. `shares` are folders of this machine by what is mounted there.
///
/// # Errors
/// [`TargetError::Unfit`] names what is not known or not mounted, and what to do.
pub(crate) fn place(info: &Value, shares: &BTreeMap<String, PathBuf>) -> Result<Place, TargetError> {
    let kind = info["driver_volume_type"].as_str().unwrap_or("nothing");
    if kind != "nfs" {
        return Err(TargetError::Unfit(format!(
            "the cloud offers this volume by `{}`, which cannot be reached from here; name a `volume_type` whose backend offers NFS, or use images \
             (`as_image`)",
            kind.chars().take(40).collect::<String>()
        )));
    }
    // Older releases have it one level down.
    let data = if info["export"].is_null() { &info["data"] } else { info };
    let unfit = |why: &str| TargetError::Unfit(format!("what Cinder says of the attachment cannot be used: {why}"));
    let share: Share = serde_json::from_value(data.clone()).map_err(|error| unfit(&error.to_string()))?;
    if share.name.is_empty() || share.name.contains(['/', '\0']) || share.name.starts_with('.') {
        return Err(unfit("the volume's file has no plain name"));
    }
    let format = share.format.unwrap_or_else(|| "raw".into());
    if !matches!(format.as_str(), "raw" | "qcow2") {
        return Err(unfit("its format is neither raw nor qcow2"));
    }
    let folder = shares.get(&share.export).cloned().or_else(|| mounted(&share.export)).ok_or_else(|| {
        TargetError::Unfit(format!(
            "the volume is on the share {export}, which is not mounted here; mount it (`mount -t nfs {export} FOLDER`), or say in `shares` where it is",
            export = share.export
        ))
    })?;
    Ok(Place { path: folder.join(share.name), format })
}

/// Where an NFS share is mounted.
fn mounted(export: &str) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let folder = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (what, folder, kind) = (words.next()?, words.next()?, words.next()?);
        (what == export && kind.starts_with("nfs")).then(|| folder.to_owned())
    })?;
    Some(folder.replace("\\040", " ").into())
}

/// An attached volume, open.
pub(crate) enum Disk {
    File(Handle),
    Nbd(Nbd),
}

impl Disk {
    /// Opens it. `at_least` bytes have to be there.
    pub(crate) fn open(place: &Place, at_least: u64) -> Result<Disk, TargetError> {
        let (disk, size) = match place.format.as_str() {
            "raw" => {
                let file = open(&place.path, false, false)?;
                let size = file.len()?;
                (Disk::File(file), size)
            }
            format => {
                let served = Nbd::open(&place.path, format)?;
                let size = served.client().size();
                (Disk::Nbd(served), size)
            }
        };
        match size < at_least {
            true => Err(TargetError::Conflict(format!(
                "{} has {size} bytes and the volume has {at_least}; somebody changed it outside of Cinder: remove the volume there, then run it again",
                place.path.display()
            ))),
            false => Ok(disk),
        }
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), TargetError> {
        match self {
            Disk::File(file) => file.write(at, bytes),
            Disk::Nbd(served) => served.client().write(at, bytes).map_err(failed),
        }
    }

    pub(crate) fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        match self {
            Disk::File(file) => file.zero(range),
            Disk::Nbd(served) => served.client().zero(range, true).map_err(failed),
        }
    }

    pub(crate) fn flush(&self) -> Result<(), TargetError> {
        match self {
            Disk::File(file) => file.flush(),
            Disk::Nbd(served) => served.client().flush().map_err(failed),
        }
    }

    /// The same, and what is read next comes from the place itself.
    pub(crate) fn settle(&self) -> Result<(), TargetError> {
        match self {
            Disk::File(file) => file.settle(),
            Disk::Nbd(served) => {
                served.client().flush().map_err(failed)?;
                served.forget_cached();
                Ok(())
            }
        }
    }

    pub(crate) fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), TargetError> {
        match self {
            Disk::File(file) => file.read(at, buffer),
            Disk::Nbd(served) => served.client().read(at, buffer).map_err(failed),
        }
    }

    pub(crate) fn is_hole(&self, range: Range<u64>) -> bool {
        match self {
            Disk::File(file) => file.is_hole(&range),
            Disk::Nbd(served) => {
                let reads_as_zeroes = |(_, flags): &(u64, u32)| flags & 2 != 0;
                served.client().block_status(ALLOCATION, range).is_ok_and(|found| found.iter().all(reads_as_zeroes))
            }
        }
    }

    /// Closes it for good, everything flushed.
    pub(crate) fn close(self) -> Result<(), TargetError> {
        self.flush()
    }
}

fn failed(error: ClientError) -> TargetError {
    TargetError::Program { program: "qemu-nbd".into(), said: error.to_string() }
}

/// An image that `qemu-nbd` serves to us alone, over a socket in a folder of its own. Ends with us: it stops when its last client is gone.
pub(crate) struct Nbd {
    /// `None` while it is being dropped.
    client: Option<Client>,
    program: Child,
    image: PathBuf,
    folder: PathBuf,
}

impl Nbd {
    fn open(image: &Path, format: &str) -> Result<Nbd, TargetError> {
        let until = OPENING.as_millis() / LOOK.as_millis();
        let mut attempt = 0;
        loop {
            match Nbd::start(image, format) {
                // One that lost its gateway a moment ago is still closing it.
                Err(TargetError::Program { said, .. }) if said.contains("lock") && attempt < until => {
                    attempt += 1;
                    std::thread::sleep(LOOK);
                }
                started => return started,
            }
        }
    }

    fn start(image: &Path, format: &str) -> Result<Nbd, TargetError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the operating system has a random source");
        let folder = std::env::temp_dir().join(format!("sluice-{}", data_encoding::HEXLOWER.encode(&random)));
        std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(TargetError::io("make", &folder))?;
        let (socket, said) = (folder.join("nbd"), folder.join("said"));
        let words = File::create(&said).map_err(TargetError::io("make", &said))?;
        let started = Command::new("qemu-nbd")
            .args(["--format", format, "--cache", "writeback", "--discard", "unmap", "--shared", "4", "--socket"])
            .arg(&socket)
            .arg("--")
            .arg(image)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words)
            .spawn();
        let program = match started {
            Ok(program) => program,
            Err(error) => {
                // What could not be made is gone with the folder; an error of that would hide this one.
                let _gone = std::fs::remove_dir_all(&folder);
                let said = format!("{error}; install the package qemu-utils");
                return Err(TargetError::Program { program: "qemu-nbd".into(), said });
            }
        };
        let mut served = Nbd { client: None, program, image: image.to_owned(), folder };
        served.client = Some(served.connect(&socket, &said)?);
        Ok(served)
    }

    fn connect(&mut self, socket: &Path, said: &Path) -> Result<Client, TargetError> {
        let failed = |said: String| TargetError::Program { program: "qemu-nbd".into(), said };
        let address = Address::Unix(socket.to_owned());
        for _ in 0..OPENING.as_millis() / LOOK.as_millis() {
            if socket.exists() {
                match Client::connect(&address, &Options::default()) {
                    Ok(client) => return Ok(client),
                    Err(ClientError::Connect { .. }) => {}
                    Err(error) => return Err(failed(error.to_string())),
                }
            }
            if let Ok(Some(_)) = self.program.try_wait() {
                let mut words = String::new();
                // Without its words the error is still one.
                let _read = File::open(said).map(|file| file.take(4096).read_to_string(&mut words));
                return Err(failed(words.split_whitespace().collect::<Vec<_>>().join(" ")));
            }
            std::thread::sleep(LOOK);
        }
        Err(failed(format!("it did not open {} within {} s", self.image.display(), OPENING.as_secs())))
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is taken when it is dropped, and not before")
    }

    /// Best effort: the image's own file and not what lies under it.
    fn forget_cached(&self) {
        use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
        let _advice = File::open(&self.image).map(|file| {
            file.sync_all().and_then(|()| {
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(std::io::Error::from)
            })
        });
    }
}

impl Drop for Nbd {
    /// Waits until it let go of the image, so that Cinder finds it closed.
    fn drop(&mut self) {
        self.client = None;
        for _ in 0..CLOSING.as_millis() / LOOK.as_millis() {
            if !matches!(self.program.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(LOOK);
        }
        // No harm where it ended; there is nobody to tell of what fails here.
        let _killed = self.program.kill();
        let _waited = self.program.wait();
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_reached_is_refused_by_name() {
        let shares = BTreeMap::from([("h:/v".to_owned(), PathBuf::from("/mnt/v"))]);
        let of = |info: Value| place(&info, &shares).map_err(|error| error.to_string());
        let share = |name: &str, format: &str| json!({ "driver_volume_type": "nfs", "export": "h:/v", "name": name, "format": format });
        let found = of(share("volume-1", "qcow2")).unwrap();
        assert_eq!((found.path.to_str().unwrap(), found.format.as_str()), ("/mnt/v/volume-1", "qcow2"));
        let nested = json!({ "driver_volume_type": "nfs", "data": { "export": "h:/v", "name": "v" } });
        assert_eq!(of(nested).unwrap().format, "raw");
        for (info, why) in [
            (json!({ "driver_volume_type": "fibre_channel" }), "by `fibre_channel`, which cannot be reached"),
            (json!({}), "by `nothing`"),
            (share("../../etc/passwd", "raw"), "no plain name"),
            (share("v", "vmdk"), "neither raw nor qcow2"),
            (
                json!({ "driver_volume_type": "nfs", "export": "other:/v", "name": "v" }),
                "other:/v, which is not mounted here; mount it",
            ),
        ] {
            let said = of(info).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
