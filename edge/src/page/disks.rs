//! Which disks this box has, so that a person need not know their names: what `/sys/block` says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of the unit in which the kernel tells sizes.
const UNIT: u64 = 512;
/// Disks and partitions that are listed at most.
const MOST: usize = 100;

/// A disk, a partition or a logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Where it is: `/dev/sda1`.
    pub(crate) path: PathBuf,
    /// Bytes.
    pub(crate) size: u64,
    /// What its maker calls it.
    pub(crate) model: String,
    /// A part of a disk.
    pub(crate) is_part: bool,
    /// Where it is mounted here: then it is most likely this box's own.
    pub(crate) mounted: Option<String>,
}

/// The disks of this machine. Blocks.
pub(crate) fn list() -> Vec<Disk> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    list_in(Path::new("/sys/block"), &mounts)
}

fn list_in(sys: &Path, mounts: &str) -> Vec<Disk> {
    let mounted: BTreeMap<&str, &str> = mounts
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(device, rest)| Some((device, rest.split(' ').next()?)))
        .collect();
    let mut disks = Vec::new();
    for name in names_in(sys) {
        // Memory, optical and floppy drives are nobody's volume.
        if ["ram", "zram", "sr", "fd"].iter().any(|kind| name.starts_with(kind)) {
            continue;
        }
        let folder = sys.join(&name);
        disks.extend(disk(&folder, &name, false, &mounted));
        for part in names_in(&folder).into_iter().filter(|part| part.starts_with(&name)) {
            disks.extend(disk(&folder.join(&part), &part, true, &mounted));
        }
    }
    disks.truncate(MOST);
    disks
}

fn disk(folder: &Path, name: &str, is_part: bool, mounted: &BTreeMap<&str, &str>) -> Option<Disk> {
    let size = text(&folder.join("size")).parse::<u64>().ok()?.checked_mul(UNIT).filter(|size| *size > 0)?;
    let mapped = text(&folder.join("dm/name"));
    let path = if mapped.is_empty() { Path::new("/dev").join(name) } else { Path::new("/dev/mapper").join(mapped) };
    let at = path.to_str().and_then(|path| mounted.get(path)).map(|at| (*at).to_owned());
    Some(Disk { path, size, model: text(&folder.join("device/model")), is_part, mounted: at })
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_partitions_and_logical_volumes_are_found() {
        let sys = tempfile::tempdir().unwrap();
        let put = |path: &str, content: &str| {
            let path = sys.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        put("sda/size", "1000\n");
        put("sda/device/model", "A DISK  \n");
        put("sda/sda1/size", "400\n");
        put("sda/queue/size", "1");
        put("dm-0/size", "600\n");
        put("dm-0/dm/name", "vg-data\n");
        put("loop0/size", "0\n");
        put("ram0/size", "16\n");
        let mounts = "proc /proc proc rw 0 0\n/dev/sda1 / ext4 rw 0 0\n";
        let found = list_in(sys.path(), mounts);
        let disk = |path: &str, size, model: &str, is_part, mounted: Option<&str>| Disk {
            path: path.into(),
            size,
            model: model.into(),
            is_part,
            mounted: mounted.map(str::to_owned),
        };
        let expected = [
            disk("/dev/mapper/vg-data", 307_200, "", false, None),
            disk("/dev/sda", 512_000, "A DISK", false, None),
            disk("/dev/sda1", 204_800, "", true, Some("/")),
        ];
        assert_eq!(found, expected);
        assert!(list_in(&sys.path().join("nowhere"), "").is_empty());
    }
}
