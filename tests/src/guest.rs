//! A guest: a small Debian that is booted by QEMU, without KVM, from wherever its disk is.
//!
//! At each boot it counts the boot on its own disk, says `sluice-guest: ready BOOTS=n KERNEL=…` on its serial line and powers off
//! (`tests/guest/init`), so nobody waits for a time to pass. `tests/guest/build` makes its disk, once. A [`Writer`] stays up and writes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::images::copy_sparse;

/// What the disk is made from: another text makes another disk.
const SOURCES: [&[u8]; 4] = [
    include_bytes!("../guest/build"),
    include_bytes!("../guest/init"),
    include_bytes!("../../image/lib/sources.sh"),
    include_bytes!("../../image/lib/grub.sh"),
];
/// GRUB's boot sector, from Debian's `grub-pc-bin`.
const BOOT_SECTOR: &str = "/usr/lib/grub/i386-pc/boot.img";
/// The partition of the root file system.
const ROOT: &str = "2";
/// What the guest says before it ends.
const READY: &str = "sluice-guest: ready ";
/// What it says when it has begun to write.
const WRITING: &str = "sluice-guest: writing";
/// What its kernel says when it gives up, which ends QEMU as powering off does.
const PANIC: &str = "Kernel panic";
/// How long a boot may take. Emulated, it takes half a minute on two cores; others may be using them.
const LIMIT: Duration = Duration::from_secs(600);
/// Between two looks whether QEMU has ended.
const STEP: Duration = Duration::from_millis(50);
/// Lines of the serial log that an error shows.
const TAIL: usize = 20;

/// Why there is no guest, or it did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Something of the operating system failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was attempted.
        doing: String,
        /// The cause.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} ended with {status}:\n{said}")]
    Program {
        /// Which, on what.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        said: String,
    },
    /// It was booted and did not say that it was ready.
    #[error("the guest on {disk} {what}; QEMU said: {said}\nthe last lines of its serial line:\n{serial}")]
    Boot {
        /// Its disk.
        disk: String,
        /// What happened instead.
        what: String,
        /// What QEMU printed.
        said: String,
        /// The end of the serial log.
        serial: String,
    },
    /// A disk has no root partition.
    #[error("{0} has no partition {ROOT}: it is no disk of a guest")]
    NoRoot(PathBuf),
}

/// A disk as QEMU is told of it.
#[derive(Clone, Debug)]
pub struct Disk {
    /// A path, or the URI of an NBD export.
    pub at: String,
    /// QEMU's name of its format: `raw`, `qcow2`.
    pub format: &'static str,
}

impl Disk {
    /// A raw image or block device.
    pub fn raw(path: &Path) -> Disk {
        Disk { at: path.display().to_string(), format: "raw" }
    }

    /// An NBD export.
    pub fn export(uri: &str) -> Disk {
        Disk { at: uri.to_owned(), format: "raw" }
    }
}

/// What becomes of what a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// It goes to the disk.
    Kept,
    /// It goes to a temporary file of QEMU's; the disk is only read.
    Dropped,
}

/// A guest that came up and powered off.
#[derive(Clone, Debug)]
pub struct Booted {
    /// How often it was booted from this disk, by what stands on the disk.
    pub boots: u32,
    /// Its kernel's release.
    pub kernel: String,
    /// Everything on its serial line.
    pub serial: String,
    /// From QEMU's start to its end.
    pub took: Duration,
}

/// What a guest needs and this machine lacks.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("a guest's disk is made by root".into());
    }
    let programs = ["mmdebstrap", "sgdisk", "mke2fs", "e2fsck", "grub-mkimage", "qemu-system-x86_64", "qemu-img"];
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&str| std::env::split_paths(&folders).any(|folder| folder.join(program).is_file());
    let mut missing: Vec<&str> = programs.into_iter().filter(|program| !is_there(program)).collect();
    if !Path::new(BOOT_SECTOR).is_file() {
        missing.push(BOOT_SECTOR);
    }
    (!missing.is_empty()).then(|| format!("no guest without {}", missing.join(", ")))
}

/// Puts a disk from which no guest was booted yet to `to`. It is made once, kept under the target folder, and copied.
pub fn put(to: &Path) -> Result<(), GuestError> {
    let folder = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
        .join("guests");
    std::fs::create_dir_all(&folder).map_err(io_error("making", &folder))?;
    let mut hasher = blake3::Hasher::new();
    SOURCES.iter().for_each(|source| {
        hasher.update(source);
    });
    let kept = folder.join(format!("{}.raw", &hasher.finalize().to_hex()[..16]));
    let lock = folder.join("lock");
    let held = File::create(&lock).map_err(io_error("opening", &lock))?;
    held.lock().map_err(io_error("locking", &lock))?; // the tests of one run are processes that begin together
    if !kept.exists() {
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/build");
        run(Command::new(&build).arg(&kept))?;
    }
    copy_sparse(&kept, to).map_err(io_error("copying the guest's disk to", to))
}

/// Boots a guest from a disk with nothing else attached, and waits until it has powered off. `serial` takes what it says on its
/// serial line, and QEMU's own words in a file beside it.
pub fn boot(disk: &Disk, writes: Writes, serial: &Path) -> Result<Booted, GuestError> {
    let began = Instant::now();
    let own = serial.with_extension("qemu");
    let said = File::create(&own).map_err(io_error("making", &own))?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]);
    qemu.args(["-machine", "q35", "-accel", "tcg", "-m", "512", "-serial", &format!("file:{}", doubled(serial))]);
    let at = disk.at.replace(',', ",,"); // as QEMU writes a comma in a value
    qemu.args(["-drive", &format!("if=virtio,format={},file={at}", disk.format)]);
    if writes == Writes::Dropped {
        qemu.arg("-snapshot");
    }
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
    let mut running = Running(qemu.spawn().map_err(io_error("starting", Path::new("qemu-system-x86_64")))?);
    let ended = running.wait(began + LIMIT)?;
    let heard = std::fs::read(serial).map_err(io_error("reading", serial))?;
    let heard = String::from_utf8_lossy(&heard).into_owned();
    let failed = |what: String| {
        let lines: Vec<&str> = heard.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        let said = std::fs::read_to_string(&own).unwrap_or_default(); // it only explains the error
        GuestError::Boot { disk: disk.at.clone(), what, said, serial: tail }
    };
    match ended {
        None => return Err(failed(format!("did not power off within {} s", LIMIT.as_secs()))),
        Some(status) if !status.success() => return Err(failed(format!("ended: QEMU with {status}"))),
        Some(_) => {}
    }
    if heard.contains(PANIC) {
        return Err(failed("ended by a panic".into()));
    }
    let (boots, kernel) = ready(&heard).ok_or_else(|| failed("ended without being ready".into()))?;
    Ok(Booted { boots, kernel, serial: heard, took: began.elapsed() })
}

/// A guest that stays up and writes to a second disk without end, as `data` in QEMU's words; freezes and thaws that when it is told to. Dropping it kills it.
pub struct Writer {
    running: Running,
}

impl Writer {
    /// Makes its disks in `folder`; the second has 256 MiB, as `data.qcow2`.
    pub fn make(folder: &Path) -> Result<(), GuestError> {
        put(&folder.join("root.raw"))?;
        let (raw, data) = (folder.join("data.raw"), folder.join("data.qcow2"));
        let made = File::create(&raw).and_then(|file| file.set_len(256 << 20));
        made.map_err(io_error("making", &raw))?;
        run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-L", "sluice-writes"]).arg(&raw))?;
        run(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(&raw).arg(&data))?;
        std::fs::remove_file(&raw).map_err(io_error("removing", &raw))
    }

    /// Boots it from the disks in `folder`, and returns when it writes. It has the monitors `sluice.qmp` and `test.qmp`, and hears words at `words.sock`.
    pub fn start(folder: &Path) -> Result<Writer, GuestError> {
        let at = |name: &str| doubled(&folder.join(name));
        let said = File::create(folder.join("qemu.log")).map_err(io_error("making", &folder.join("qemu.log")))?;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]);
        qemu.args(["-machine", "q35", "-accel", "tcg", "-m", "256", "-serial", &format!("file:{}", at("serial.log"))]);
        qemu.args(["-chardev", &format!("socket,id=words,path={},server=on,wait=off", at("words.sock"))]);
        qemu.args(["-serial", "chardev:words"]);
        qemu.args(["-drive", &format!("if=none,id=root,format=raw,snapshot=on,file={}", at("root.raw"))]);
        qemu.args(["-device", "virtio-blk-pci,drive=root"]);
        qemu.args(["-drive", &format!("if=none,id=disk,format=qcow2,file={}", at("data.qcow2"))]);
        qemu.args(["-device", "virtio-blk-pci,drive=disk,id=data"]);
        for monitor in ["sluice.qmp", "test.qmp"] {
            qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", at(monitor))]);
        }
        qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let running = Running(qemu.spawn().map_err(io_error("starting", Path::new("qemu-system-x86_64")))?);
        let mut writer = Writer { running };
        let (until, serial) = (Instant::now() + LIMIT, folder.join("serial.log"));
        while !std::fs::read_to_string(&serial).is_ok_and(|heard| heard.contains(WRITING)) {
            let ended = writer.running.wait(Instant::now() + STEP)?;
            if ended.is_some() || Instant::now() > until {
                let what = format!("does not write ({ended:?})");
                let tail = std::fs::read_to_string(&serial).unwrap_or_default();
                let said = std::fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
                return Err(GuestError::Boot { disk: "root.raw".into(), what, said, serial: tail });
            }
            std::thread::sleep(STEP);
        }
        Ok(writer)
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.running.0.id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.running.0.kill(); // fails only when it has ended already
        let _ = self.running.0.wait();
    }
}

/// Checks the root file system of a raw image with e2fsck, which changes nothing. Anything to be mended is an error.
pub fn check_fs(image: &Path) -> Result<(), GuestError> {
    let shown = run(Command::new("sgdisk").args(["-i", ROOT]).arg(image))?;
    let sector =
        shown.lines().find_map(|line| line.strip_prefix("First sector: ")?.split(' ').next()?.parse::<u64>().ok());
    let sector = sector.ok_or_else(|| GuestError::NoRoot(image.to_path_buf()))?;
    run(Command::new("e2fsck").arg("-fn").arg(format!("{}?offset={}", image.display(), sector * 512)))?;
    Ok(())
}

/// QEMU while it runs. Dropping it kills it.
struct Running(Child);

impl Running {
    /// How it ended by itself; `None`: it had not by `deadline`.
    fn wait(&mut self, deadline: Instant) -> Result<Option<ExitStatus>, GuestError> {
        while Instant::now() < deadline {
            let ended = self.0.try_wait().map_err(io_error("waiting for", Path::new("qemu-system-x86_64")))?;
            if ended.is_some() {
                return Ok(ended);
            }
            std::thread::sleep(STEP);
        }
        Ok(None)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails only when it has ended already
        let _ = self.0.wait();
    }
}

/// Boots and kernel of the line by which the guest says that it is ready.
fn ready(serial: &str) -> Option<(u32, String)> {
    let said = serial.lines().find_map(|line| line.split_once(READY))?.1;
    let value = |name: &str| said.split_whitespace().find_map(|word| word.strip_prefix(name));
    Some((value("BOOTS=")?.parse().ok()?, value("KERNEL=")?.to_owned()))
}

fn doubled(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn io_error(doing: &'static str, at: &Path) -> impl FnOnce(io::Error) -> GuestError {
    move |source| GuestError::Io { doing: format!("{doing} {}", at.display()), source }
}

/// Runs a program to its end and gives its standard output.
fn run(command: &mut Command) -> Result<String, GuestError> {
    let program = format!("{command:?}");
    let output =
        command.stdin(Stdio::null()).output().map_err(io_error("running", Path::new(command.get_program())))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => {
            let said = said + &String::from_utf8_lossy(&output.stderr);
            Err(GuestError::Program { program, status: output.status, said })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_line_of_readiness_counts() {
        let said = "SeaBIOS\r\n[    3.1] sluice-guest: ready BOOTS=12 KERNEL=6.1.0-56-cloud-amd64\r\n[    3.2] reboot: Power down\r\n";
        assert_eq!(ready(said), Some((12, "6.1.0-56-cloud-amd64".into())));
        assert_eq!(ready("[    3.1] sluice-guest: ready BOOTS=12"), None);
        assert_eq!(ready("[    3.1] sluice-guest: ready BOOTS= KERNEL=6.1"), None);
        assert_eq!(ready("Kernel panic - not syncing"), None);
    }
}
