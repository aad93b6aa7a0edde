use super::unlock::Passphrase;
use super::*;
use std::process::Command;

/// A box whose data partition is a file with a LUKS header, made by the real cryptsetup; `None` where there is none.
fn encrypted(passphrase: &str) -> Option<(tempfile::TempDir, Place)> {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::of(folder.path());
    for path in ["dev/sluice", "run/sluice"] {
        fs::create_dir_all(folder.path().join(path)).unwrap();
    }
    let partition = place.path(PARTITION);
    fs::File::create(&partition).unwrap().set_len(32 << 20).unwrap();
    let key = folder.path().join("key");
    fs::write(&key, passphrase).unwrap();
    let mut format = Command::new("cryptsetup");
    format.args([
        "luksFormat",
        "--batch-mode",
        "--type",
        "luks2",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
    ]);
    match format.arg("--key-file").arg(&key).arg(&partition).status() {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(why) => {
            eprintln!("skipped: cryptsetup cannot be run: {why}");
            return None;
        }
    }
    fs::remove_file(key).unwrap();
    Some((folder, place))
}

fn files_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_wrong_passphrase_opens_nothing_and_stays_nowhere() {
    let Some((folder, place)) = encrypted("correct horse battery") else { return };
    assert!(Passphrase::prove(&place, "wrong horse battery").unwrap().is_none());
    assert!(Passphrase::prove(&place, "correct horse battery").unwrap().is_some());
    assert_eq!(files_in(&folder.path().join("run/sluice")), [""; 0]);
    assert_eq!(opened(&place), None);
}

#[test]
fn a_partition_that_cannot_be_read_is_not_a_wrong_passphrase() {
    let Some((folder, place)) = encrypted("correct horse battery") else { return };
    fs::write(place.path(PARTITION), [0; 4096]).unwrap();
    let why = Passphrase::prove(&place, "correct horse battery").err().unwrap().to_string();
    assert!(why.contains("cryptsetup: "), "{why}");
    assert_eq!(files_in(&folder.path().join("run/sluice")), [""; 0]);
}

#[test]
fn a_partition_that_is_not_encrypted_is_open() {
    let Some((_folder, place)) = encrypted("correct horse battery") else { return };
    fs::write(place.path(PARTITION), [0; 4096]).unwrap();
    open(&place).unwrap();
    assert_eq!((opened(&place), needs_a_person(&place)), (None, false));
}

#[test]
fn half_of_an_encryption_is_said_and_not_opened() {
    let Some((_folder, place)) = encrypted("correct horse battery") else { return };
    let mut label = Command::new("cryptsetup");
    let labelled = label.args(["config", "--label", UNFINISHED]).arg(place.path(PARTITION)).status().unwrap();
    assert!(labelled.success());
    let site = place.path("/dev/disk/by-label");
    fs::create_dir_all(&site).unwrap();
    fs::write(site.join("SLUICE"), [0; 4096]).unwrap(); // there, and no file system
    let said = open(&place).unwrap_err().to_string();
    assert!(said.contains("was being encrypted when the power went") && said.contains("put the stick"), "{said}");
}

#[test]
fn a_box_that_a_passphrase_opened_needs_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::of(folder.path());
    opened_by(&place, "tpm").unwrap();
    assert!(!needs_a_person(&place));
    opened_by(&place, "passphrase").unwrap();
    assert!(needs_a_person(&place));
}
