//! The slot that a person at the console may go back to.

use crate::run::Place;
use release::slots::{Boot, Slot, State};

/// The other slot, when it can be started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Previous {
    pub(crate) slot: char,
    pub(crate) version: String,
}

/// Why it cannot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPrevious {
    #[error("this system was not started from a slot")]
    NoSlot,
    #[error("what GRUB keeps about the slots cannot be read: {0}")]
    Unreadable(String),
    #[error("slot {slot} is \"{state}\", not \"good\": there is no other version that ran here")]
    NotGood { slot: char, state: &'static str },
}

/// The slot that did not start this system, if it was confirmed once.
pub(crate) fn previous(place: &Place) -> Result<Previous, NoPrevious> {
    let other = match crate::status::slot(place).ok_or(NoPrevious::NoSlot)? {
        'A' => Slot::B,
        _ => Slot::A,
    };
    let boot = Boot::new(place.path("/boot/efi/grub"));
    match boot.state(other).map_err(|error| NoPrevious::Unreadable(error.to_string()))? {
        State::Good => {
            let version = boot.version(other).map_or_else(|| "?".into(), |version| crate::files::plain(&version));
            Ok(Previous { slot: other.letter(), version })
        }
        state => Err(NoPrevious::NotGood { slot: other.letter(), state: state.word() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    /// A box that was started from slot A, whose ESP a real GRUB wrote these values to; nothing where GRUB's tool is missing.
    fn started_from_a(values: &[&str]) -> Option<(tempfile::TempDir, Place)> {
        let folder = tempfile::tempdir().unwrap();
        for path in ["proc", "boot/efi/grub"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        fs::write(folder.path().join("proc/cmdline"), "ro sluice.slot=A quiet\n").unwrap();
        let block = folder.path().join("boot/efi/grub/grubenv");
        for words in [&["create"][..], &[&["set"], values].concat()] {
            match Command::new("grub-editenv").arg(&block).args(words).status() {
                Ok(status) => assert!(status.success()),
                Err(_) => {
                    println!("skipped: grub-editenv is not installed");
                    return None;
                }
            }
        }
        let place = Place::of(folder.path());
        Some((folder, place))
    }

    #[test]
    fn a_slot_that_was_good_is_the_previous_version() {
        let Some((folder, place)) = started_from_a(&["order=A B", "A_state=good", "B_state=good", "B_tries=0"]) else {
            return;
        };
        fs::write(folder.path().join("boot/efi/grub/slot-B.cfg"), "set slot_version=0.1.0+abc\nset slot_root=00\n")
            .unwrap();
        assert_eq!(previous(&place), Ok(Previous { slot: 'B', version: "0.1.0+abc".into() }));
    }

    #[test]
    fn a_slot_that_never_ran_is_not_offered() {
        for state in ["empty", "trial", "bad"] {
            let Some((_folder, place)) = started_from_a(&["A_state=good", &format!("B_state={state}")]) else { return };
            assert_eq!(previous(&place), Err(NoPrevious::NotGood { slot: 'B', state }));
        }
        let Some((_folder, place)) = started_from_a(&["A_state=good"]) else { return };
        assert_eq!(previous(&place), Err(NoPrevious::NotGood { slot: 'B', state: "empty" }));
    }

    #[test]
    fn a_system_without_slots_has_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(previous(&Place::of(folder.path())), Err(NoPrevious::NoSlot));
    }
}
