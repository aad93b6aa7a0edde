//! The support bundle: what the daemon says of itself and the journal, onto a stick.

use super::Console;
use crate::run::{Place, RunError, run_into, succeed};
use crate::status::{FOLDER, Role};
use crate::terminal::Stop;
use serde::Deserialize;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// For lsblk and mount, also on a stick that is slow.
const WITHIN: Duration = Duration::from_secs(60);
/// For the bundle to be made and to be written to the slowest stick.
const WRITING: Duration = Duration::from_secs(600);
/// Lines of the journal: some weeks, some megabytes.
const JOURNAL: &str = "20000";
/// What sticks have. The kernel brings all of them.
const FILE_SYSTEMS: [&str; 5] = ["vfat", "exfat", "ext4", "ext3", "ext2"];

/// Writes the bundle to a stick that somebody plugged in.
pub(super) fn save(console: &mut Console) -> Result<(), Stop> {
    let sticks = match sticks(&console.place) {
        Ok(sticks) => sticks,
        Err(why) => return console.fail("support bundle", "The sticks cannot be listed:", "无法列出 U 盘：", &why),
    };
    let stick = match sticks.as_slice() {
        [] => {
            return console.say_in(
                "There is no USB stick with a file system (FAT, exFAT, ext4). Plug one in, wait 10 seconds, and choose this again.",
                "未找到带文件系统（FAT、exFAT、ext4）的 U 盘。请插入 U 盘，等待 10 秒后再选择此项。",
            );
        }
        [one] => one,
        several => {
            let names: Vec<String> = several.iter().map(Stick::to_string).collect();
            &several[console.terminal.choose(&names)?]
        }
    };
    console.say_in(&format!("Writing to {stick}; leave it in..."), &format!("正在写入 {stick}，请勿拔出……"))?;
    match write(console, stick) {
        Ok(names) => {
            console.record(&format!("support bundle written to {stick}"));
            let names = names.join(", ");
            let said = console.of(
                format!("Written: {names}. The stick can be taken out."),
                format!("已写入：{names}。现在可以拔出 U 盘。"),
            );
            console.say_folded(&said)
        }
        Err(why) => console.fail("support bundle", "It was not written:", "写入失败：", &why),
    }
}

/// A file system on a stick.
#[derive(Debug, PartialEq, Eq)]
struct Stick {
    device: PathBuf,
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

fn sticks(place: &Place) -> anyhow::Result<Vec<Stick>> {
    let said = succeed(place.program("lsblk").args(["-J", "-b", "-o", "PATH,FSTYPE,LABEL,SIZE,TRAN,RM"]), WITHIN)?;
    let own = fs::canonicalize(place.path("/dev/sluice/disk")).ok();
    sticks_of(&said, own.as_deref())
}

/// The file systems of all removable disks but `own`, from which the box was started.
fn sticks_of(listed: &str, own: Option<&Path>) -> anyhow::Result<Vec<Stick>> {
    let listed: Listed = serde_json::from_str(listed)?;
    let is_stick = |disk: &Device| (disk.rm || disk.tran.as_deref() == Some("usb")) && Some(disk.path.as_path()) != own;
    let disks = listed.blockdevices.into_iter().filter(is_stick);
    let volumes = disks.flat_map(|mut disk| std::mem::take(&mut disk.children).into_iter().chain([disk]));
    let usable = volumes.filter(|volume| volume.fstype.as_deref().is_some_and(|kind| FILE_SYSTEMS.contains(&kind)));
    Ok(usable
        .map(|volume| Stick {
            device: volume.path,
            label: crate::files::plain(&volume.label.unwrap_or_default()),
            bytes: volume.size,
        })
        .collect())
}

/// Mounts the stick, where only this process sees it, and writes. Returns the names of the files.
fn write(console: &Console, stick: &Stick) -> anyhow::Result<Vec<String>> {
    let folder = console.place.path(FOLDER).join("stick");
    fs::create_dir_all(&folder)?;
    let mut mount = console.place.program("mount");
    let kinds = FILE_SYSTEMS.join(",");
    succeed(mount.args(["-t", &kinds, "-o", "nosuid,nodev,noexec"]).arg(&stick.device).arg(&folder), WITHIN)?;
    let written = write_files(console, &folder);
    // Only when it is taken off, all of it is on the stick.
    let mut umount = console.place.program("umount");
    let taken_off = succeed(umount.arg(&folder), WRITING);
    let names = written?;
    taken_off?;
    Ok(names)
}

fn write_files(console: &Console, folder: &Path) -> anyhow::Result<Vec<String>> {
    let at = console_time(&console.place)?;
    let mut names = Vec::new();
    if console.release.role == Role::Edge {
        let name = format!("sluice-diagnostics-{at}.json");
        into(&folder.join(&name), console.place.edge().args(["diagnostics", "--to", "-"]))?;
        names.push(name);
    }
    let name = format!("sluice-journal-{at}.txt");
    into(
        &folder.join(&name),
        console.place.program("journalctl").args(["--no-pager", "-q", "-o", "short-iso", "-n", JOURNAL]),
    )?;
    names.push(name);
    Ok(names)
}

/// The time in a file's name, as in 20261128-120000 (UTC).
fn console_time(place: &Place) -> Result<String, RunError> {
    Ok(succeed(place.program("date").args(["-u", "+%Y%m%d-%H%M%S"]), WITHIN)?.trim().to_owned())
}

/// What a program says, as a file, synced; nothing is left of it when the program fails.
fn into(path: &Path, program: &mut Command) -> anyhow::Result<()> {
    let file = File::create(path)?;
    let said = run_into(program, file.try_clone()?.into(), WRITING)?;
    if !said.status.success() {
        let _ = fs::remove_file(path);
        return Err(said.failure(program.get_program().to_string_lossy().into_owned()).into());
    }
    Ok(file.sync_all()?)
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
        {"path":"/dev/sdc", "fstype":"exfat", "label":null, "size":64000000000, "tran":"usb", "rm":false},
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
        match run(Place::real().program("lsblk").args(["-J", "-b", "-o", "PATH,FSTYPE,LABEL,SIZE,TRAN,RM"]), WITHIN) {
            Ok(said) if said.status.success() => drop(sticks_of(&said.out, None).unwrap()),
            _ => println!("skipped: lsblk does not work here"),
        }
    }

    #[test]
    fn a_program_that_fails_leaves_no_half_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut fails = Place::real().program("sh");
        assert!(
            into(&path, fails.args(["-c", "echo half; echo why >&2; exit 1"])).unwrap_err().to_string().contains("why")
        );
        assert!(!path.exists());
        into(&path, Place::real().program("echo").arg("whole")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\n");
    }
}
