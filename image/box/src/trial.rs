//! A change of the network that comes undone by itself unless somebody keeps it: also when the console or the machine dies meanwhile.
//!
//! All of it lies in networkd's folder, which looks at no names that begin with a dot:
//!
//! ```text
//!   10-site*            what holds now
//!   .before.new/        copies in the making; nothing is changed yet
//!   .before/            what held before. While it is there, the change is on trial
//!   .before.old/        no longer needed, whether the change was kept or undone
//!
//!   begin:  copy 10-site* to .before.new, sync │ rename to .before, sync │ replace 10-site*
//!   keep:   rename .before to .before.old, sync │ remove it
//!   undo:   replace 10-site* by what is in .before │ rename .before to .before.old, sync │ remove it
//! ```
//!
//! Each `│` is a place where a crash leaves either what was, or a trial that the next start undoes ([`recover`], before networkd starts).
//! Undoing twice is the same as once. Whoever holds a trial holds a lock: a trial without a holder is undone at once.

use crate::files::{self, FileError, failed, sync_folder};
use crate::network::{File, PREFIX, link_of};
use std::fs::{self, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// networkd's folder for the site's own files.
pub(crate) const FOLDER: &str = "/etc/systemd/network";
/// What a file there may have. Ours have some hundred bytes.
const MOST_BYTES: u64 = 64 << 10;
const BEFORE: &str = ".before";
const MAKING: &str = ".before.new";
const DONE: &str = ".before.old";

/// Why the network's files could not be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrialError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("somebody changes the network at another console right now: wait until that is kept or undone")]
    Busy,
}

/// A change on trial. Dropped without [`Trial::keep`] or [`Trial::undo`], it is undone by the next [`recover`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Trial {
    folder: PathBuf,
    _held: fs::File,
}

impl Trial {
    /// Replaces our files in `folder` by `new`. `lock` is a file that all consoles share.
    pub(crate) fn begin(folder: &Path, lock: &Path, new: &[File]) -> Result<Trial, TrialError> {
        let held = hold(lock)?.ok_or(TrialError::Busy)?;
        undo_what_was_left(folder)?;
        let making = folder.join(MAKING);
        fs::create_dir(&making).map_err(failed("make", &making))?;
        for file in ours(folder)? {
            files::put(&making.join(&file.name), file.text.as_bytes(), 0o644, None)?;
        }
        sync_folder(&making)?;
        rename(folder, MAKING, BEFORE)?;
        let trial = Trial { folder: folder.into(), _held: held };
        // From here on what was is put back, by whoever comes first.
        match replace(folder, new) {
            Ok(()) => Ok(trial),
            Err(error) => {
                trial.undo()?;
                Err(error)
            }
        }
    }

    /// What holds now stays.
    pub(crate) fn keep(self) -> Result<(), TrialError> {
        finish(&self.folder)
    }

    /// What was before holds again.
    pub(crate) fn undo(self) -> Result<(), TrialError> {
        undo_what_was_left(&self.folder).map(drop)
    }
}

/// Undoes a trial that nobody holds. Returns whether there was one.
pub(crate) fn recover(folder: &Path, lock: &Path) -> Result<bool, TrialError> {
    if !folder.join(BEFORE).exists() {
        return Ok(false);
    }
    let Some(_held) = hold(lock)? else { return Ok(false) };
    undo_what_was_left(folder)
}

/// Makes `new` all that is ours in `folder`.
pub(crate) fn replace(folder: &Path, new: &[File]) -> Result<(), TrialError> {
    for file in new {
        files::put(&folder.join(&file.name), file.text.as_bytes(), 0o644, None)?;
    }
    for name in names(folder)? {
        if !new.iter().any(|file| file.name == name) {
            let path = folder.join(&name);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(sync_folder(folder)?)
}

/// The links that our files make; networkd does not take them away by itself.
pub(crate) fn links(folder: &Path) -> Result<Vec<String>, TrialError> {
    let files = ours(folder)?;
    let netdevs = files.iter().filter(|file| file.name.ends_with(".netdev"));
    Ok(netdevs.filter_map(|file| link_of(&file.text)).map(str::to_owned).collect())
}

fn hold(lock: &Path) -> Result<Option<fs::File>, TrialError> {
    let open = fs::File::options().write(true).create(true).truncate(false).open(lock);
    let file = open.map_err(failed("open", lock))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed("lock", lock)(source).into()),
    }
}

fn undo_what_was_left(folder: &Path) -> Result<bool, TrialError> {
    remove(folder, MAKING)?;
    remove(folder, DONE)?;
    let before = folder.join(BEFORE);
    if !before.exists() {
        return Ok(false);
    }
    replace(folder, &ours(&before)?)?;
    finish(folder)?;
    Ok(true)
}

fn finish(folder: &Path) -> Result<(), TrialError> {
    rename(folder, BEFORE, DONE)?;
    remove(folder, DONE)
}

fn rename(folder: &Path, from: &str, to: &str) -> Result<(), TrialError> {
    let from = folder.join(from);
    fs::rename(&from, folder.join(to)).map_err(failed("rename", &from))?;
    Ok(sync_folder(folder)?)
}

fn remove(folder: &Path, name: &str) -> Result<(), TrialError> {
    let path = folder.join(name);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", &path)(error).into()),
        _ => Ok(()),
    }
}

fn names(folder: &Path) -> Result<Vec<String>, TrialError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let name = entry.map_err(failed("list", folder))?.file_name();
        // What was being written when a crash came is ours as well, and goes.
        names.extend(name.to_str().filter(|name| name.starts_with(PREFIX)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn ours(folder: &Path) -> Result<Vec<File>, TrialError> {
    let whole = names(folder)?.into_iter().filter(|name| !name.ends_with(".new"));
    whole
        .map(|name| {
            let bytes = files::read_at_most(&folder.join(&name), MOST_BYTES)?;
            Ok(File { name, text: String::from_utf8_lossy(&bytes).into_owned() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Box {
        folder: tempfile::TempDir,
        lock: tempfile::NamedTempFile,
    }

    impl Box {
        /// A folder with two files of ours and one of somebody else's.
        fn new() -> Box {
            let new = Box { folder: tempfile::tempdir().unwrap(), lock: tempfile::NamedTempFile::new().unwrap() };
            replace(new.folder(), &old()).unwrap();
            fs::write(new.folder().join("50-other.network"), "other").unwrap();
            new
        }

        fn folder(&self) -> &Path {
            self.folder.path()
        }

        fn begin(&self) -> Result<Trial, TrialError> {
            Trial::begin(self.folder(), self.lock.path(), &new())
        }

        fn recover(&self) -> bool {
            recover(self.folder(), self.lock.path()).unwrap()
        }

        /// That these, the other's, and nothing else, hidden or not, is there.
        fn assert_has(&self, files: &[File]) {
            assert_eq!(ours(self.folder()).unwrap(), files);
            assert_eq!(fs::read(self.folder().join("50-other.network")).unwrap(), b"other");
            assert_eq!(fs::read_dir(self.folder()).unwrap().count(), files.len() + 1);
        }
    }

    fn file(name: &str, text: &str) -> File {
        File { name: name.into(), text: text.into() }
    }

    fn old() -> Vec<File> {
        vec![file("10-site.netdev", "[NetDev]\nName=bond1\n"), file("10-site.network", "old")]
    }

    fn new() -> Vec<File> {
        vec![file("10-site-vlan.netdev", "[NetDev]\nName=vlan7\n"), file("10-site.network", "new")]
    }

    #[test]
    fn a_change_that_is_kept_stays() {
        let a_box = Box::new();
        let trial = a_box.begin().unwrap();
        assert_eq!(links(a_box.folder()).unwrap(), ["vlan7"]);
        trial.keep().unwrap();
        a_box.assert_has(&new());
        assert!(!a_box.recover());
        a_box.assert_has(&new());
    }

    #[test]
    fn a_change_that_is_undone_was_never_there() {
        let a_box = Box::new();
        a_box.begin().unwrap().undo().unwrap();
        a_box.assert_has(&old());
    }

    #[test]
    fn a_change_whose_console_died_is_undone_by_whoever_comes_next() {
        let a_box = Box::new();
        let trial = a_box.begin().unwrap();
        assert!(!a_box.recover(), "it is held");
        drop(trial); // as the death of the process does
        assert!(a_box.recover());
        a_box.assert_has(&old());
    }

    #[test]
    fn two_consoles_cannot_change_the_network_at_once() {
        let a_box = Box::new();
        let trial = a_box.begin().unwrap();
        assert!(matches!(a_box.begin().unwrap_err(), TrialError::Busy));
        trial.keep().unwrap();
        a_box.begin().unwrap().undo().unwrap();
        a_box.assert_has(&new());
    }

    #[test]
    fn a_box_without_files_of_its_own_has_none_again() {
        let a_box = Box::new();
        replace(a_box.folder(), &[]).unwrap();
        a_box.begin().unwrap().undo().unwrap();
        a_box.assert_has(&[]);
    }

    /// What the folder looks like when the power goes at each of the places, and what has to be there after the next start.
    #[test]
    fn a_crash_anywhere_leaves_what_was_or_what_was_kept() {
        type Crash = fn(&Path);
        let crashes: [(&str, Crash, Vec<File>); 6] = [
            (
                "copies half made",
                |folder| {
                    fs::create_dir(folder.join(MAKING)).unwrap();
                    fs::write(folder.join(MAKING).join("10-site.network"), "ol").unwrap();
                },
                old(),
            ),
            ("on trial, nothing replaced", |folder| copy_to(folder, BEFORE), old()),
            (
                "on trial, half replaced",
                |folder| {
                    copy_to(folder, BEFORE);
                    fs::write(folder.join("10-site-vlan.netdev"), "new").unwrap();
                    fs::write(folder.join("10-site.network.new"), "ne").unwrap();
                },
                old(),
            ),
            (
                "being undone",
                |folder| {
                    copy_to(folder, BEFORE);
                    replace(folder, &new()).unwrap();
                    fs::write(folder.join("10-site.network"), "old").unwrap();
                },
                old(),
            ),
            ("undone or kept, not tidied", |folder| copy_to(folder, DONE), old()),
            (
                "kept, not tidied",
                |folder| {
                    copy_to(folder, DONE);
                    replace(folder, &new()).unwrap();
                },
                new(),
            ),
        ];
        for (name, crash, expected) in crashes {
            let a_box = Box::new();
            crash(a_box.folder());
            a_box.recover();
            assert_eq!(ours(a_box.folder()).unwrap(), expected, "{name}");
            assert!(!a_box.folder().join(BEFORE).exists(), "{name}");
            // Whatever was left hinders nobody.
            a_box.begin().unwrap().undo().unwrap();
            a_box.assert_has(&expected);
        }
    }

    fn copy_to(folder: &Path, name: &str) {
        let copies = folder.join(name);
        fs::create_dir(&copies).unwrap();
        for file in ours(folder).unwrap() {
            fs::write(copies.join(file.name), file.text).unwrap();
        }
    }
}
