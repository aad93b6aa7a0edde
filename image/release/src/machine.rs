//! This machine as an appliance: which slot it was started from, and the files that say so. For whoever has root on one.

use crate::install::{InstallError, System, read_keys};
use crate::report::{LastTrial, SystemReport};
use crate::slots::{Boot, Slot, State};
use nix::mount::{MsFlags, mount};
use serde::Deserialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use wire::release::{ReleaseId, Role};

/// What the image's build wrote into the system (`image/lib/tree.sh`).
const RELEASE: &str = "usr/lib/sluice/release";
const KEYS: &str = "usr/lib/sluice/release-keys";
/// What GRUB was told to hand on (`image/grub/start.cfg`).
const COMMAND_LINE: &str = "proc/cmdline";
const ESP: &str = "boot/efi";
/// How the last trial ended (`rootfs/usr/lib/sluice/confirm`).
const LAST: &str = "data/upgrade/last.json";

/// Why this machine's system cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something is missing in one.
    #[error("{0} does not say `{1}`: this system was not started from a slot of an appliance")]
    Missing(&'static str, &'static str),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] InstallError),
}

/// An appliance, with its files under `root`: `/`, but for tests.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { root: "/".into() }
    }
}

impl Machine {
    /// With its files under this folder.
    pub fn new(root: impl Into<PathBuf>) -> Machine {
        Machine { root: root.into() }
    }

    fn read(&self, path: &str) -> Result<String, MachineError> {
        let path = self.root.join(path);
        fs::read_to_string(&path).map_err(|source| MachineError::File { path, source })
    }

    /// The boot loader's files.
    pub fn boot(&self) -> Boot {
        Boot::new(self.root.join(ESP).join("grub"))
    }

    /// What runs.
    pub fn system(&self) -> Result<System, MachineError> {
        let (release, line) = (self.read(RELEASE)?, self.read(COMMAND_LINE)?);
        let said = |name: &'static str| {
            let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.ok_or(MachineError::Missing("/usr/lib/sluice/release", name))
        };
        let word = |name: &'static str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.ok_or(MachineError::Missing("/proc/cmdline", name))
        };
        let slot = match word("sluice.slot")? {
            "A" => Slot::A,
            "B" => Slot::B,
            _ => return Err(MachineError::Missing("/proc/cmdline", "sluice.slot=A or B")),
        };
        let number = |text: &str, file, name| text.parse().map_err(|_| MachineError::Missing(file, name));
        Ok(System {
            role: said("ROLE")?
                .parse::<Role>()
                .map_err(|()| MachineError::Missing("/usr/lib/sluice/release", "ROLE"))?,
            version: said("VERSION")?.to_owned(),
            sequence: number(said("SEQUENCE")?, "/usr/lib/sluice/release", "SEQUENCE")?,
            release: ReleaseId::read(word("sluice.root")?)
                .ok_or(MachineError::Missing("/proc/cmdline", "sluice.root"))?,
            bytes: number(word("sluice.offset")?, "/proc/cmdline", "sluice.offset")?,
            slot,
            keys: read_keys(&self.keys())?,
            running: self.root.join("dev/mapper/sluice-root"),
            target: self.root.join(match slot.other() {
                Slot::A => "dev/sluice/slot-a",
                Slot::B => "dev/sluice/slot-b",
            }),
            boot: self.boot(),
        })
    }

    /// File of the keys whose releases are taken.
    pub fn keys(&self) -> PathBuf {
        self.root.join(KEYS)
    }

    /// Where the daemon reads what runs.
    pub fn system_report(&self) -> PathBuf {
        self.root.join("run/sluice/system.json")
    }

    /// Where the daemon reads how an installation stands.
    pub fn install_report(&self) -> PathBuf {
        self.root.join("run/sluice/install.json")
    }

    /// Removes what is known of the last trial, because another one begins.
    pub(crate) fn forget_last_trial(&self) -> Result<(), (PathBuf, io::Error)> {
        let path = self.root.join(LAST);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err((path, source)),
            _ => Ok(()),
        }
    }

    /// What the daemon is told of it; `settled`: how the last trial ended is known.
    pub fn report(&self, system: &System, settled: bool) -> Result<SystemReport, MachineError> {
        let boot_failed = |error| MachineError::Keys(InstallError::Boot(error));
        let other = system.slot.other();
        let state = system.boot.state(other).map_err(boot_failed)?;
        let previous = if state == State::Good { system.boot.version(other) } else { None };
        let left = if state == State::Bad { system.boot.release(other).map(|left| left.hex()) } else { None };
        Ok(SystemReport {
            role: system.role.word().to_owned(),
            version: system.version.clone(),
            sequence: system.sequence,
            release: system.release.hex(),
            slot: system.slot,
            confirmed: system.boot.state(system.slot).map_err(boot_failed)? == State::Good,
            previous,
            left,
            settled,
            last: self.last(system),
        })
    }

    /// How the last trial ended; `None` where there was none, or its file says nothing that can be read.
    fn last(&self, system: &System) -> Option<LastTrial> {
        let last: Last = serde_json::from_str(&self.read(LAST).ok()?).ok()?;
        let release = if last.slot == system.slot { system.release } else { system.boot.release(last.slot)? };
        Some(LastTrial {
            release: release.hex(),
            version: last.version,
            confirmed: last.result == "confirmed",
            why: last.why,
            at: last.at,
        })
    }

    /// Does something with the boot loader's files writable.
    pub fn with_writable_boot<T>(&self, work: impl FnOnce() -> T) -> Result<T, MachineError> {
        let esp = self.root.join(ESP);
        let remount = |flags| {
            let failed = |error: nix::Error| MachineError::File { path: esp.clone(), source: error.into() };
            mount(None::<&Path>, &esp, None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>).map_err(failed)
        };
        let common = MsFlags::MS_NOATIME;
        remount(common)?;
        let done = work();
        // Every write was synced already; that it stays writable until the next start would be no loss.
        let _read_only_again = remount(common | MsFlags::MS_RDONLY);
        Ok(done)
    }
}

/// `last.json`.
#[derive(Deserialize)]
struct Last {
    version: String,
    slot: Slot,
    result: String,
    #[serde(default)]
    why: String,
    /// Unix seconds.
    at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(dir: &Path) -> Machine {
        let put = |path: &str, text: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put(RELEASE, "ROLE=edge\nVERSION=0.5+x\nSEQUENCE=1785542400\n");
        put(KEYS, &format!("# ours\n{}\n", "07".repeat(32)));
        let root = "ab".repeat(32);
        put(
            COMMAND_LINE,
            &format!("BOOT_IMAGE=x ro sluice.slot=B sluice.part=1 sluice.root={root} sluice.offset=8192 quiet\n"),
        );
        let mut env = b"# GRUB Environment Block\nA_state=good\nB_state=trial\nB_tries=1\norder=B A\n".to_vec();
        env.resize(1024, b'#');
        put("boot/efi/grub/grubenv", std::str::from_utf8(&env).unwrap());
        put("boot/efi/grub/slot-A.cfg", &format!("set slot_version=0.4\nset slot_root={}\n", "cd".repeat(32)));
        Machine::new(dir)
    }

    #[test]
    fn what_runs_is_told_from_what_grub_handed_on() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(dir.path());
        let system = machine.system().unwrap();
        assert_eq!((system.slot, system.sequence, system.bytes), (Slot::B, 1_785_542_400, 8192));
        assert!(system.target.ends_with("dev/sluice/slot-a"));
        let report = machine.report(&system, false).unwrap();
        assert_eq!((report.left, report.settled), (None, false));
        let report = machine.report(&system, true).unwrap();
        assert_eq!((report.confirmed, report.previous.as_deref(), report.last), (false, Some("0.4"), None));
        let last = r#"{"version":"0.4","slot":"A","result":"fell back","why":"not ready","at":9}"#;
        fs::create_dir_all(dir.path().join("data/upgrade")).unwrap();
        fs::write(dir.path().join(LAST), last).unwrap();
        let last = machine.report(&system, true).unwrap().last.unwrap();
        assert_eq!((last.release, last.confirmed, last.why.as_str()), ("cd".repeat(32), false, "not ready"));
        let env = fs::read_to_string(dir.path().join("boot/efi/grub/grubenv")).unwrap();
        fs::write(dir.path().join("boot/efi/grub/grubenv"), env.replace("A_state=good", "A_state=bad#")).unwrap();
        let env = fs::read_to_string(dir.path().join("boot/efi/grub/grubenv")).unwrap();
        fs::write(dir.path().join("boot/efi/grub/grubenv"), env.replace("bad#\n", "bad\n") + "#").unwrap();
        let report = machine.report(&system, true).unwrap();
        assert_eq!((report.previous, report.left), (None, Some("cd".repeat(32))));
    }

    #[test]
    fn a_system_that_no_slot_holds_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(dir.path());
        fs::write(dir.path().join(COMMAND_LINE), "root=/dev/sda1\n").unwrap();
        assert!(machine.system().unwrap_err().to_string().contains("sluice."));
    }
}
