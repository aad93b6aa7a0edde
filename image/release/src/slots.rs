//! The two slots of an appliance's disk, and what the boot loader knows of them: `image/grub/grub.cfg` says what the values mean.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use wire::release::ReleaseId;

/// Bytes of GRUB's environment block.
const ENV_BYTES: usize = 1024;
const ENV_HEAD: &str = "# GRUB Environment Block\n";
/// Bytes of a slot's configuration at most.
const MAX_CFG: u64 = 4096;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The one that this is not.
    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// Its letter.
    pub fn letter(self) -> char {
        match self {
            Slot::A => 'A',
            Slot::B => 'B',
        }
    }
}

/// What is known of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing that could be started.
    Empty,
    /// To be tried.
    Trial,
    /// Confirmed.
    Good,
    /// Was tried, and left.
    Bad,
}

impl State {
    /// As it stands in `grubenv`.
    pub fn word(self) -> &'static str {
        match self {
            State::Empty => "empty",
            State::Trial => "trial",
            State::Good => "good",
            State::Bad => "bad",
        }
    }
}

/// Why the boot loader's files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the boot loader's {path}: {source}; the disk may be failing, or the system was not started from a slot")]
pub struct BootError {
    path: PathBuf,
    source: io::Error,
}

/// The boot loader's files: `grubenv` and `slot-X.cfg`.
#[derive(Clone, Debug)]
pub struct Boot {
    folder: PathBuf,
}

impl Boot {
    /// In this folder: `/boot/efi/grub`, which has to be writable for what changes something.
    pub fn new(folder: impl Into<PathBuf>) -> Boot {
        Boot { folder: folder.into() }
    }

    /// The state of a slot; what cannot be read counts as empty.
    pub fn state(&self, slot: Slot) -> Result<State, BootError> {
        let values = self.values()?;
        let word = values.get(&format!("{}_state", slot.letter()));
        let known = [State::Trial, State::Good, State::Bad];
        Ok(known.into_iter().find(|state| word.is_some_and(|word| word == state.word())).unwrap_or(State::Empty))
    }

    /// Says that a slot has nothing that could be started, before it is written to.
    pub fn empty(&self, slot: Slot) -> Result<(), BootError> {
        let order = format!("{} {}", slot.other().letter(), slot.letter());
        self.put(&[("order".into(), order), self.state_of(slot, State::Empty), self.tries_of(slot)])
    }

    /// Puts a slot on trial: it is started first, twice at most, until it is confirmed.
    pub fn put_on_trial(
        &self,
        slot: Slot,
        version: &str,
        release: ReleaseId,
        image_bytes: u64,
    ) -> Result<(), BootError> {
        let cfg =
            format!("set slot_version={version}\nset slot_root={}\nset slot_offset={image_bytes}\n", release.hex());
        self.replace(&format!("slot-{}.cfg", slot.letter()), cfg.as_bytes())?;
        let order = format!("{} {}", slot.letter(), slot.other().letter());
        self.put(&[("order".into(), order), self.state_of(slot, State::Trial), self.tries_of(slot)])
    }

    /// Says that a slot which was confirmed once is started first from now on.
    pub fn prefer(&self, slot: Slot) -> Result<(), BootError> {
        let order = format!("{} {}", slot.letter(), slot.other().letter());
        self.put(&[("order".into(), order), self.tries_of(slot)])
    }

    /// Version of what a slot holds; `None` where nothing is known of it.
    pub fn version(&self, slot: Slot) -> Option<String> {
        self.said(slot, "slot_version")
    }

    /// The release that a slot holds.
    pub fn release(&self, slot: Slot) -> Option<ReleaseId> {
        ReleaseId::read(&self.said(slot, "slot_root")?)
    }

    fn said(&self, slot: Slot, name: &str) -> Option<String> {
        let path = self.folder.join(format!("slot-{}.cfg", slot.letter()));
        if fs::metadata(&path).ok()?.len() > MAX_CFG {
            return None;
        }
        let text = fs::read_to_string(path).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("set ")?.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    }

    fn state_of(&self, slot: Slot, state: State) -> (String, String) {
        (format!("{}_state", slot.letter()), state.word().to_owned())
    }

    fn tries_of(&self, slot: Slot) -> (String, String) {
        (format!("{}_tries", slot.letter()), "0".to_owned())
    }

    fn env(&self) -> PathBuf {
        self.folder.join("grubenv")
    }

    fn values(&self) -> Result<BTreeMap<String, String>, BootError> {
        let path = self.env();
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; ENV_BYTES];
            File::open(&path)?.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| BootError { path, source })?;
        Ok(parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Changes values in place. GRUB finds the block by where it lies, so the file is never replaced; what we keep in it fits its first sector of 512 bytes,
    /// which a disk writes whole or not at all.
    fn put(&self, changes: &[(String, String)]) -> Result<(), BootError> {
        let mut values = self.values()?;
        values.extend(changes.iter().cloned());
        let path = self.env();
        let write = || -> io::Result<()> {
            let bytes = render(&values)?;
            let file = OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()
        };
        write().map_err(|source| BootError { path, source })
    }

    /// Replaces a small file, whole or not at all.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), BootError> {
        let path = self.folder.join(name);
        let new = self.folder.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            fs::write(&new, bytes)?;
            File::open(&new)?.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|source| BootError { path: path.clone(), source })
    }
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn render(values: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let mut text = ENV_HEAD.to_owned();
    for (name, value) in values {
        text.push_str(&format!("{name}={value}\n"));
    }
    if text.len() > ENV_BYTES / 2 {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "its values do not fit one sector"));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(ENV_BYTES, b'#');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    fn boot(dir: &Path) -> Boot {
        fs::write(dir.join("grubenv"), render(&BTreeMap::new()).unwrap()).unwrap();
        Boot::new(dir)
    }

    #[test]
    fn a_release_goes_from_empty_to_trial_and_the_old_one_stays_good() {
        let dir = tempfile::tempdir().unwrap();
        let boot = boot(dir.path());
        boot.put(&[
            ("A_state".into(), "good".into()),
            ("B_state".into(), "good".into()),
            ("B_tries".into(), "3".into()),
        ])
        .unwrap();
        boot.empty(Slot::B).unwrap();
        assert_eq!((boot.state(Slot::A).unwrap(), boot.state(Slot::B).unwrap()), (State::Good, State::Empty));
        assert_eq!(boot.values().unwrap()["order"], "A B");
        boot.put_on_trial(Slot::B, "0.2.0", ReleaseId([5; 32]), 8192).unwrap();
        assert_eq!((boot.state(Slot::A).unwrap(), boot.state(Slot::B).unwrap()), (State::Good, State::Trial));
        let values = boot.values().unwrap();
        assert_eq!((values["order"].as_str(), values["B_tries"].as_str()), ("B A", "0"));
        assert_eq!(
            (boot.version(Slot::B).as_deref(), boot.release(Slot::B)),
            (Some("0.2.0"), Some(ReleaseId([5; 32])))
        );
        assert_eq!(boot.version(Slot::A), None);
        boot.prefer(Slot::A).unwrap();
        assert_eq!(boot.values().unwrap()["order"], "A B");
    }

    #[test]
    fn grub_reads_what_is_written_and_the_other_way_round() {
        let dir = tempfile::tempdir().unwrap();
        let env = dir.path().join("grubenv");
        let grub = |words: &[&str]| Command::new("grub-editenv").arg(&env).args(words).output();
        match grub(&["create"]) {
            Ok(made) => assert!(made.status.success(), "{made:?}"),
            Err(_) => return eprintln!("skipped: grub-editenv is not installed"),
        }
        grub(&["set", "order=A B", "A_state=good", "A_tries=2"]).unwrap();
        let boot = Boot::new(dir.path());
        assert_eq!(boot.state(Slot::A).unwrap(), State::Good);
        boot.empty(Slot::B).unwrap();
        let listed = String::from_utf8(grub(&["list"]).unwrap().stdout).unwrap();
        let mut lines: Vec<_> = listed.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["A_state=good", "A_tries=2", "B_state=empty", "B_tries=0", "order=A B"]);
        assert_eq!(fs::metadata(&env).unwrap().len(), 1024);
    }

    #[test]
    fn a_block_that_is_cut_off_is_an_error_and_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let boot = boot(dir.path());
        File::options().write(true).open(dir.path().join("grubenv")).unwrap().set_len(100).unwrap();
        assert!(boot.empty(Slot::B).unwrap_err().to_string().contains("grubenv"));
        assert_eq!(fs::metadata(dir.path().join("grubenv")).unwrap().len(), 100);
    }
}
