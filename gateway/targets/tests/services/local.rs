//! Files and block devices of this machine.

use crate::contract::{self, Kept, Until, Volume, fill, noise};
use targets::raw::Raw;
use targets::{Start, Target, Work};

#[test]
fn a_raw_file_fulfils_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    contract::holds(&move || Box::new(Raw::folder(&path, &path.join("records"))), 3 << 20);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [] as [&str; 0], "nothing is left behind");
}

#[test]
fn under_a_files_name_is_a_whole_generation_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let target = Raw::folder(dir.path(), dir.path());
    let mut volume = Volume::new("data");
    let first = volume.generation(noise(1, 1 << 20));
    let path = target.path_of(&volume.image);
    fill(&target, &volume, &first, &Kept::default(), Until::Applied(2)).unwrap();
    assert!(!path.exists() && path.with_added_extension("unfinished").exists());
    fill(&target, &volume, &first, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), volume.bytes(first.generation));
    let second = volume.generation(noise(2, 1 << 20));
    fill(&target, &volume, &second, &Kept::default(), Until::Applied(2)).unwrap();
    assert!(!path.exists(), "a delta that is half there is not offered");
}

#[test]
fn a_file_that_somebody_touched_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let target = Raw::folder(dir.path(), dir.path());
    let mut volume = Volume::new("data");
    let first = volume.generation(noise(1, 1 << 20));
    fill(&target, &volume, &first, &Kept::default(), Until::Finished).unwrap();
    let path = target.path_of(&volume.image);
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().set_len(2 << 20).unwrap();
    let second = Work { base: None, ..volume.generation(noise(2, 1 << 20)) };
    assert_eq!(target.points(&volume.image).unwrap(), []);
    let Start::Unknown(why) = target.look(&second).unwrap() else { panic!("it is taken for true") };
    assert_eq!(why, "the target was touched since it was last written");
    let (start, ..) = fill(&target, &volume, &second, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(start, Start::Zeroes, "a file is emptied");
    assert_eq!(std::fs::read(&path).unwrap(), volume.bytes(second.generation));
}

#[test]
fn two_runs_do_not_write_one_file_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let target = Raw::folder(dir.path(), dir.path());
    let mut volume = Volume::new("data");
    let (first, second) = (volume.generation(noise(1, 1 << 20)), volume.generation(noise(2, 1 << 20)));
    let (notes, others) = (Kept::default(), Kept::default());
    let (_, _filling) = target.prepare(&first, &notes).unwrap();
    let busy = target.prepare(&second, &others).err().unwrap().to_string();
    assert!(busy.ends_with("is being written by another run; wait for it, or stop it"), "{busy}");
}
