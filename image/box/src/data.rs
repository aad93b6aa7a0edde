//! The data partition, and its encryption (LUKS2).
//!
//! One passphrase opens it everywhere; a TPM of version 2, where the machine has one that can be used, opens it in this machine without anybody. The TPM gives
//! its key only to a firmware with the same Secure Boot state (PCR 7): it keeps what is on a disk that was taken out, not what is in a box that was taken away.
//! When the TPM does not open it, because the firmware or the board is another one, the passphrase does, and the TPM is asked anew from then on.
//!
//! | a crash while it is made | the next start finds |
//! |---|---|
//! | before the header is there | what was there before |
//! | before the file system is whole | the label [`UNFINISHED`]: made again, from the site's file |

mod unlock;

pub(crate) use unlock::unlock;

use crate::console::stick;
use crate::files::{self, FileError, failed};
use crate::run::{Place, RunError, now, record, run, succeed};
use crate::secret::SecretFile;
use crate::site::Site;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Partition 5 of the disk that was started from (`sluice-boot` in the initramfs).
const PARTITION: &str = "/dev/sluice/data-partition";
/// The name of what it holds when it is open.
const MAPPED: &str = "sluice-data";
const OPENED: &str = "/dev/mapper/sluice-data";
/// The kernel's way to a TPM of version 2; one of version 1.2 has none.
const TPM: &str = "/dev/tpmrm0";
/// Labels of the header.
const FINISHED: &str = "sluice-data";
const UNFINISHED: &str = "sluice-data-unfinished";
/// Where small secrets are put for programs to read; in memory.
const RUN: &str = "/run/sluice";
/// What opened data at this start: `tpm` or `passphrase`.
const OPENED_BY: &str = "/run/sluice/data-key";
/// The platform register of Secure Boot's state and keys.
const REGISTERS: &str = "--tpm2-pcrs=7";
/// KiB of memory for Argon2id: a passphrase is opened on a box of 1 GiB, before anything else runs. RFC 9106 takes 64 MiB where memory is short.
const KIB_OF_MEMORY: &str = "131072";
/// For the key to be derived by the slowest processor, and for a TPM, which takes seconds for a signature.
const WITHIN: Duration = Duration::from_secs(120);
/// For a file system to be made on the slowest disk.
const FORMAT: Duration = Duration::from_secs(900);
/// For the disk to be there at all.
const APPEAR: Duration = Duration::from_secs(60);
/// How often somebody who types is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// Whose terminals are asked for the passphrase.
const TERMINALS: [&str; 2] = ["sluice-unlock@tty1.service", "sluice-unlock@ttyS0.service"];

/// Why the data partition cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{PARTITION} did not appear within {} s: the disk that was started from has no fifth partition, or cannot be read", APPEAR.as_secs())]
    NoPartition,
    #[error(
        "the data partition was being encrypted when the power went, and the site's file that says how cannot be used ({0}): put the stick with the volume SLUICE back in and start the box again"
    )]
    Unfinished(String),
}

/// How a partition that was made is opened.
#[derive(Debug)]
pub(crate) enum Made {
    Plain,
    /// By the TPM, and by the passphrase where there is none.
    ByTpm,
    /// By the passphrase alone, and why.
    ByPassphrase(String),
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Made::Plain => f.write_str("data is not encrypted"),
            Made::ByTpm => f.write_str("data is encrypted; the TPM of this machine opens it, or else the passphrase"),
            Made::ByPassphrase(why) => write!(
                f,
                "data is encrypted; somebody has to type the passphrase AT EACH START, because the TPM cannot open it: {why}"
            ),
        }
    }
}

/// Makes an empty file system on `device`, encrypted if there is a passphrase; then it is left open as [`OPENED`].
pub(crate) fn make(place: &Place, device: &Path, passphrase: Option<&str>) -> Result<Made, DataError> {
    succeed(place.program("wipefs").arg("-qa").arg(device), WITHIN)?;
    let Some(passphrase) = passphrase else {
        make_file_system(place, device)?;
        return Ok(Made::Plain);
    };
    let key = key_file(place, passphrase)?;
    let mut format = cryptsetup(place, &["luksFormat", "--batch-mode", "--type", "luks2", "--label", UNFINISHED]);
    format.args(["--cipher", "aes-xts-plain64", "--key-size", "512", "--pbkdf", "argon2id", "--pbkdf-memory"]);
    succeed(format.arg(KIB_OF_MEMORY).arg("--key-file").arg(key.path()).arg(device), WITHIN)?;
    let made = match bind_to_tpm(place, device, &key) {
        Ok(()) => Made::ByTpm,
        Err(why) => Made::ByPassphrase(why),
    };
    succeed(cryptsetup(place, &["open", "--key-file"]).arg(key.path()).arg(device).arg(MAPPED), WITHIN)?;
    make_file_system(place, &place.path(OPENED))?;
    succeed(cryptsetup(place, &["config", "--label", FINISHED]).arg(device), WITHIN)?;
    Ok(made)
}

fn make_file_system(place: &Place, device: &Path) -> Result<(), DataError> {
    let mut mke2fs = place.program("mke2fs");
    succeed(mke2fs.args(["-q", "-F", "-t", "ext4", "-L", "sluice-data", "-m", "1"]).arg(device), FORMAT)?;
    Ok(())
}

fn cryptsetup(place: &Place, words: &[&str]) -> std::process::Command {
    let mut command = place.program("cryptsetup");
    command.args(words);
    command
}

fn key_file(place: &Place, passphrase: &str) -> Result<SecretFile, DataError> {
    let folder = place.path(RUN);
    fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
    Ok(SecretFile::put(&folder, "data", passphrase, None)?)
}

/// From now on the TPM opens `device`; what it was given before is forgotten. The error is for people.
fn bind_to_tpm(place: &Place, device: &Path, key: &SecretFile) -> Result<(), String> {
    if !place.path(TPM).exists() {
        return Err("this machine has none of version 2, or it is switched off in the firmware".into());
    }
    // First, and by itself: while another chip's key for the same registers is there, systemd-cryptenroll takes that for enough and does nothing.
    let mut wipe = place.program("systemd-cryptenroll");
    succeed(wipe.arg("--wipe-slot=tpm2").arg(device), WITHIN).map_err(|why| why.to_string())?;
    let mut enrol = place.program("systemd-cryptenroll");
    enrol.args(["--tpm2-device=auto", REGISTERS]);
    enrol.arg(format!("--unlock-key-file={}", key.path().display())).arg(device);
    succeed(&mut enrol, WITHIN).map(drop).map_err(|why| why.to_string())
}

/// Opens the data partition, and waits for somebody who types the passphrase where the TPM does not do it.
pub(crate) fn open(place: &Place) -> anyhow::Result<()> {
    let partition = place.path(PARTITION);
    anyhow::ensure!(appears(&partition), DataError::NoPartition);
    if !run(cryptsetup(place, &["isLuks"]).arg(&partition), WITHIN)?.status.success() {
        return Ok(());
    }
    let label = succeed(place.program("blkid").args(["-p", "-s", "LABEL", "-o", "value"]).arg(&partition), WITHIN)?;
    if label.trim() == UNFINISHED {
        return finish(place, &partition).map_err(|why| DataError::Unfinished(why.to_string()).into());
    }
    let why = match open_by_tpm(place, &partition) {
        Ok(()) => return opened_by(place, "tpm"),
        Err(why) => why,
    };
    record("start", &format!("the TPM does not open data: {why}"));
    succeed(place.program("systemctl").args(["start", "--no-block"]).args(TERMINALS), WITHIN)?;
    while !place.path(OPENED).exists() {
        std::thread::sleep(LOOK);
    }
    succeed(place.program("systemctl").args(["stop", "--no-block"]).args(TERMINALS), WITHIN)?;
    Ok(())
}

/// Waits for a device.
fn appears(device: &Path) -> bool {
    let until = now() + APPEAR;
    while !device.exists() && now() < until {
        std::thread::sleep(LOOK);
    }
    device.exists()
}

fn opened_by(place: &Place, key: &str) -> anyhow::Result<()> {
    let folder = place.path(RUN);
    fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
    Ok(files::put(&place.path(OPENED_BY), key.as_bytes(), 0o644, None)?)
}

/// The error is for people.
fn open_by_tpm(place: &Place, partition: &Path) -> Result<(), String> {
    if !place.path(TPM).exists() {
        return Err("there is none of version 2".into());
    }
    let mut open = cryptsetup(place, &["open", "--token-only", "--token-type", "systemd-tpm2"]);
    succeed(open.arg(partition).arg(MAPPED), WITHIN).map(drop).map_err(|why| why.to_string())
}

/// Makes again what a power cut interrupted; nothing was kept on it yet.
fn finish(place: &Place, partition: &Path) -> anyhow::Result<()> {
    let site = sites_own_file(place)?;
    match make(place, partition, site.passphrase())? {
        Made::Plain => Ok(()),
        Made::ByTpm => opened_by(place, "tpm"),
        Made::ByPassphrase(_) => opened_by(place, "passphrase"),
    }
}

/// From the volume SLUICE, where there is one.
fn sites_own_file(place: &Place) -> anyhow::Result<Site> {
    let device = place.path("/dev/disk/by-label/SLUICE");
    anyhow::ensure!(appears(&device), "there is no volume SLUICE");
    stick::with_mounted(place, &device, stick::Access::Read, |folder| Ok(Site::read(&folder.join("sluice.toml"))?))
}

/// Whether nobody but a person can start this box: what is encrypted was opened by a passphrase, and no TPM does it the next time.
pub(crate) fn needs_a_person(place: &Place) -> bool {
    opened(place).is_some_and(|key| key == "passphrase")
}

/// What opened data at this start; nothing where it is not encrypted.
pub(crate) fn opened(place: &Place) -> Option<String> {
    files::words_of(&place.path(OPENED_BY), 20)
}

#[cfg(test)]
mod tests;
