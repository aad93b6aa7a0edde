//! Sticks that somebody plugged in.

use super::Console;
use crate::run::{Place, succeed};
use crate::status::FOLDER;
use crate::terminal::Stop;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For lsblk and mount, also on a stick that is slow.
const WITHIN: Duration = Duration::from_secs(60);
/// For everything to be written to the slowest stick.
const WRITING: Duration = Duration::from_secs(600);
/// What sticks have. The kernel brings all of them.
const FILE_SYSTEMS: [&str; 5] = ["vfat", "exfat", "ext4", "ext3", "ext2"];

/// For lsblk. Without NAME it says nothing of which partition is on which disk.
const LIST: [&str; 4] = ["-J", "-b", "-o", "NAME,PATH,FSTYPE,LABEL,SIZE,TRAN,RM"];

/// What is done with a stick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It is read.
    Read,
    /// Something is written to it.
    Write,
}

/// A file system on a stick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stick {
    pub(crate) device: PathBuf,
    label: String,
    bytes: u64,
}

impl std::fmt::Display for Stick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({:.1} GB{}{})",
            self.device.display(),
            self.bytes as f64 / 1e9,
            if self.label.is_empty() { "" } else { ", " },
            self.label
        )
    }
}

/// Lets whoever stands there choose one; `None`: there is none, which was said. `what` is for the journal.
pub(super) fn choose(console: &mut Console, what: &str) -> Result<Option<Stick>, Stop> {
    let mut sticks = match sticks(&console.place) {
        Ok(sticks) => sticks,
        Err(why) => {
            console.fail(what, "The sticks cannot be listed:", "无法列出 U 盘：", &why)?;
            return Ok(None);
        }
    };
    let chosen = match sticks.len() {
        0 => {
            console.say_in(
                "There is no USB stick with a file system (FAT, exFAT, ext4). Plug one in, wait 10 seconds, and choose this again.",
                "未找到带文件系统（FAT、exFAT、ext4）的 U 盘。请插入 U 盘，等待 10 秒后再选择此项。",
            )?;
            return Ok(None);
        }
        1 => 0,
        _ => {
            let names: Vec<String> = sticks.iter().map(Stick::to_string).collect();
            console.terminal.choose(&names)?
        }
    };
    Ok(Some(sticks.swap_remove(chosen)))
}

/// Mounts a stick and does something with the folder.
pub(crate) fn with_mounted<T>(
    place: &Place,
    device: &Path,
    access: Access,
    work: impl FnOnce(&Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let folder = place.path(FOLDER).join("stick");
    fs::create_dir_all(&folder)?;
    let options = match access {
        Access::Read => "ro,nosuid,nodev,noexec",
        Access::Write => "nosuid,nodev,noexec",
    };
    let mut mount = place.program("mount");
    succeed(mount.args(["-t", &FILE_SYSTEMS.join(","), "-o", options]).arg(device).arg(&folder), WITHIN)?;
    let done = work(&folder);
    // Only when it is taken off, all of it is on the stick.
    let mut umount = place.program("umount");
    let taken_off = succeed(umount.arg(&folder), WRITING);
    let done = done?;
    taken_off?;
    Ok(done)
}

#[derive(Deserialize)]
struct Listed {
    blockdevices: Vec<Device>,
}

/// A line of lsblk.
#[derive(Deserialize)]
struct Device {
    path: PathBuf,
    fstype: Option<String>,
    label: Option<String>,
    size: u64,
    tran: Option<String>,
    rm: bool,
    #[serde(default)]
    children: Vec<Device>,
}

/// All that are plugged in.
pub(crate) fn sticks(place: &Place) -> anyhow::Result<Vec<Stick>> {
    let said = succeed(place.program("lsblk").args(LIST), WITHIN)?;
    let own = fs::canonicalize(place.path("/dev/sluice/disk")).ok();
    sticks_of(&said, own.as_deref())
}

/// The file systems of all removable disks but `own`, from which the box was started.
fn sticks_of(listed: &str, own: Option<&Path>) -> anyhow::Result<Vec<Stick>> {
    let listed: Listed = serde_json::from_str(listed)?;
    let is_stick = |disk: &Device| (disk.rm || disk.tran.as_deref() == Some("usb")) && Some(disk.path.as_path()) != own;
    let disks = listed.blockdevices.into_iter().filter(is_stick);
    let is_usable = |volume: &Device| volume.fstype.as_deref().is_some_and(|kind| FILE_SYSTEMS.contains(&kind));
    // A stick that is one file system as a whole may look as if it had partitions: they would be the same bytes.
    let volumes =
        disks.flat_map(|mut disk| if is_usable(&disk) { vec![disk] } else { std::mem::take(&mut disk.children) });
    let usable = volumes.filter(is_usable);
    Ok(usable
        .map(|volume| Stick {
            device: volume.path,
            label: crate::files::plain(&volume.label.unwrap_or_default()),
            bytes: volume.size,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::run;

    const LISTED: &str = r#"{"blockdevices": [
        {"path":"/dev/sda", "fstype":null, "label":null, "size":8589934592, "tran":"sata", "rm":false, "children": [
            {"path":"/dev/sda2", "fstype":"vfat", "label":"SLUICE-ESP", "size":67108864, "tran":null, "rm":false}]},
        {"path":"/dev/sdb", "fstype":"iso9660", "label":"SLUICE_INSTALL", "size":8000000000, "tran":"usb", "rm":true, "children": [
            {"path":"/dev/sdb1", "fstype":"iso9660", "label":"SLUICE_INSTALL", "size":1, "tran":null, "rm":true},
            {"path":"/dev/sdb3", "fstype":"vfat", "label":"SLUICE", "size":4194304, "tran":null, "rm":true}]},
        {"path":"/dev/sdc", "fstype":"exfat", "label":null, "size":64000000000, "tran":"usb", "rm":false, "children": [
            {"path":"/dev/sdc1", "fstype":"exfat", "label":null, "size":64000000000, "tran":null, "rm":false}]},
        {"path":"/dev/sdd", "fstype":"ntfs", "label":"x", "size":64000000000, "tran":"usb", "rm":true},
        {"path":"/dev/sr0", "fstype":null, "label":null, "size":1073741312, "tran":"sata", "rm":true}
    ]}"#;

    #[test]
    fn only_file_systems_on_what_can_be_unplugged_are_sticks() {
        let devices = |own: Option<&str>| -> Vec<PathBuf> {
            sticks_of(LISTED, own.map(Path::new)).unwrap().into_iter().map(|stick| stick.device).collect()
        };
        assert_eq!(devices(Some("/dev/sda")), [Path::new("/dev/sdb3"), Path::new("/dev/sdc")]);
        // A box may be started from a stick: that one is not offered.
        assert_eq!(devices(Some("/dev/sdb")), [Path::new("/dev/sdc")]);
    }

    #[test]
    fn what_lsblk_of_this_machine_says_is_understood() {
        match run(Place::real().program("lsblk").args(LIST), WITHIN) {
            Ok(said) if said.status.success() => drop(sticks_of(&said.out, None).unwrap()),
            _ => println!("skipped: lsblk does not work here"),
        }
    }
}
