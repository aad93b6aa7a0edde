//! What the boot loader keeps about the two slots, as far as a person at the console has to know it. `image/grub/grub.cfg` says what it means;
//! writing it is for `/usr/lib/sluice/slots`.

use crate::files::{read_at_most, words_of};
use crate::run::Place;

/// GRUB's environment block has 1,024 bytes.
const MOST: u64 = 4096;

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
    NotGood { slot: char, state: String },
}

/// The slot that did not start this system, if it was confirmed once.
pub(crate) fn previous(place: &Place) -> Result<Previous, NoPrevious> {
    let slot = match crate::status::slot(place).ok_or(NoPrevious::NoSlot)? {
        'A' => 'B',
        _ => 'A',
    };
    let block = read_at_most(&place.path("/boot/efi/grub/grubenv"), MOST);
    let block = block.map_err(|error| NoPrevious::Unreadable(error.to_string()))?;
    let state = value(&String::from_utf8_lossy(&block), &format!("{slot}_state")).unwrap_or_else(|| "empty".into());
    if state != "good" {
        return Err(NoPrevious::NotGood { slot, state: crate::files::plain(&state) });
    }
    let about = words_of(&place.path(&format!("/boot/efi/grub/slot-{slot}.cfg")), MOST).unwrap_or_default();
    let version = about.split(' ').find_map(|word| word.strip_prefix("slot_version=")).unwrap_or("?").into();
    Ok(Previous { slot, version })
}

/// A value of an environment block. Backslashes and line breaks in one are escaped; our own values have neither.
fn value(block: &str, name: &str) -> Option<String> {
    let value = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.to_owned())
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
            assert_eq!(previous(&place), Err(NoPrevious::NotGood { slot: 'B', state: state.into() }));
        }
        let Some((_folder, place)) = started_from_a(&["A_state=good"]) else { return };
        assert_eq!(previous(&place), Err(NoPrevious::NotGood { slot: 'B', state: "empty".into() }));
    }

    #[test]
    fn a_system_without_slots_has_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(previous(&Place::of(folder.path())), Err(NoPrevious::NoSlot));
    }
}
