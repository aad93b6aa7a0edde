//! qcow2 images, by QEMU's own programs.

use crate::contract::{self, Kept, Until, Volume, fill, noise};
use dedupe::ByteOffset;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use targets::qcow2::{Qcow2, Qcow2Settings};
use targets::{Point, Start, Stop, Target, TargetError, Work};

fn target(folder: &Path) -> Qcow2 {
    Qcow2::new(&Qcow2Settings { folder: folder.to_owned() }, &Stop::default()).unwrap()
}

/// Whether QEMU's programs are there; else says that the test is skipped.
fn qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok()
        && Command::new("qemu-nbd").arg("--version").output().is_ok();
    if !found {
        println!("skipped: qemu-utils is not installed");
    }
    found
}

/// A folder whose name has what shells and QEMU take for something else.
fn odd_folder(dir: &Path) -> PathBuf {
    let folder = dir.join("a b,c:d=$(x)'\"-é");
    std::fs::create_dir(&folder).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What QEMU says of a point: sound, and equal to its generation.
fn check(point: &Point, volume: &Volume) {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let mut bytes = volume.bytes(point.generation).to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    std::fs::write(&raw, &bytes).unwrap();
    let checked = Command::new("qemu-img").args(["check", "-f", "qcow2", &point.id]).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let compared = Command::new("qemu-img").args(["compare", "-f", "qcow2", "-F", "raw", &point.id]).arg(&raw).output();
    let compared = compared.unwrap();
    assert_eq!(String::from_utf8_lossy(&compared.stdout), "Images are identical.\n", "{} {compared:?}", point.number);
    let info = Command::new("qemu-img").args(["info", "--output=json", "-f", "qcow2", &point.id]).output().unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["virtual-size"], bytes.len(), "compare takes zeroes behind the end for equal");
}

/// Generations, each on the one before, of sizes that grow and shrink by odd bytes.
fn chain(target: &Qcow2, sizes: &[usize]) -> (Volume, Vec<Point>) {
    let mut volume = Volume::new("data");
    let mut points: Vec<Point> = Vec::new();
    let mut bytes: Vec<u8> = Vec::new();
    for (at, size) in sizes.iter().enumerate() {
        let old = bytes.len();
        bytes.resize(*size, 0);
        if *size > old && at % 2 == 0 {
            bytes[old..].copy_from_slice(&noise(at as u64, size - old));
        }
        let place = (at * 70_000) % (size - 5000);
        bytes[place..place + 5000].fill(at as u8 + 1);
        let work = Work { base: points.last().cloned(), ..volume.generation(bytes.clone()) };
        let (_, _, point) = fill(target, &volume, &work, &Kept::default(), Until::Finished).unwrap();
        points.extend(point);
    }
    (volume, points)
}

const SIZES: [usize; 5] = [1 << 20, (1 << 20) + 1000, (3 << 20) + 512, (1 << 19) + 5, (2 << 20) + 4096];

#[test]
fn qcow2_images_fulfil_the_contract() {
    if !qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = odd_folder(dir.path());
    contract::holds(&|| Box::new(target(&folder)), 3 << 20);
    assert_eq!(names(&folder), [] as [&str; 0], "nothing is left behind");
}

#[test]
fn every_generation_is_an_image_of_its_own_that_holds_what_changed() {
    if !qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let (volume, points) = chain(&target, &SIZES);
    assert_eq!(target.points(&volume.image).unwrap(), points);
    points.iter().for_each(|point| check(point, &volume));
    let len = |point: &Point| std::fs::metadata(&point.id).unwrap().len();
    assert!(
        len(&points[0]) > 700 << 10 && len(&points[1]) < 600 << 10,
        "{:?}",
        points.iter().map(len).collect::<Vec<_>>()
    );
}

#[test]
fn behind_a_shrunken_volume_are_zeroes_though_nothing_was_written() {
    if !qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let mut volume = Volume::new("data");
    let first = volume.generation(vec![1; 4096]);
    let (_, _, point) = fill(&target, &volume, &first, &Kept::default(), Until::Finished).unwrap();
    let work = Work { base: point, ..volume.generation(vec![1; 1000]) };
    let notes = Kept::default();
    let (_, filling) = target.prepare(&work, &notes).unwrap();
    filling.complete().unwrap();
    check(&filling.finish(work.captured).unwrap(), &volume);
}

#[test]
fn any_point_can_be_removed_and_the_others_stay_equal() {
    if !qemu() {
        return;
    }
    for first in 0..SIZES.len() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let (mut volume, mut points) = chain(&target, &SIZES);
        for at in [first, 1, 0, 1, 0] {
            let gone = points.remove(at.min(points.len() - 1));
            target.remove(&gone).unwrap();
            target.remove(&gone).unwrap();
            assert_eq!(target.points(&volume.image).unwrap(), points);
            points.iter().for_each(|point| check(point, &volume));
            if let Some(last) = points.last().filter(|_| points.len() == 3) {
                let work = Work { base: Some(last.clone()), ..volume.generation(noise(7, 1 << 20)) };
                let (start, _, point) = fill(&target, &volume, &work, &Kept::default(), Until::Finished).unwrap();
                assert_eq!(start, Start::Holds(last.clone()));
                check(&point.clone().unwrap(), &volume);
                target.remove(&point.unwrap()).unwrap();
            }
        }
        assert_eq!(names(dir.path()), [] as [&str; 0]);
    }
}

#[test]
fn a_point_on_which_two_build_can_be_removed() {
    if !qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let (mut volume, points) = chain(&target, &[2 << 20, (2 << 20) + 700]);
    let other = Work { base: Some(points[0].clone()), ..volume.generation(noise(9, (1 << 20) + 300)) };
    let (start, _, fork) = fill(&target, &volume, &other, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(start, Start::Holds(points[0].clone()));
    target.remove(&points[0]).unwrap();
    let left = target.points(&volume.image).unwrap();
    assert_eq!(left, [points[1].clone(), fork.unwrap()]);
    left.iter().for_each(|point| check(point, &volume));
}

/// What the folder looks like when the power fails between two steps of a removal: the record is gone; the merge was half done, or done and not renamed.
#[test]
fn a_removal_that_was_cut_short_is_taken_up_again() {
    if !qemu() {
        return;
    }
    let cut: [fn(&Path, &Path); 2] = [
        |_, _| {},
        |_, child| {
            let commit = Command::new("qemu-img").args(["commit", "-q", "-d", "-f", "qcow2"]).arg(child).status();
            assert!(commit.unwrap().success());
        },
    ];
    for (step, cut) in cut.into_iter().enumerate() {
        for at in [0, 2] {
            let dir = tempfile::tempdir().unwrap();
            let target = target(dir.path());
            let (volume, mut points) = chain(&target, &SIZES);
            let (gone, child) = (points.remove(at), &points[at]);
            // As the removal does it: what is above is marked as ours before it is touched.
            let beside = PathBuf::from(format!("{}.json", child.id));
            let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&beside).unwrap()).unwrap();
            record["stamp"] = serde_json::Value::Null;
            std::fs::write(&beside, record.to_string()).unwrap();
            std::fs::remove_file(format!("{}.json", gone.id)).unwrap();
            cut(Path::new(&gone.id), Path::new(&child.id));
            assert_eq!(target.points(&volume.image).unwrap(), points, "step {step}");
            points.iter().for_each(|point| check(point, &volume));
            target.remove(&gone).unwrap();
            assert_eq!(target.points(&volume.image).unwrap(), points);
            points.iter().for_each(|point| check(point, &volume));
            assert_eq!(names(dir.path()).len(), 2 * points.len() + 1, "images, records and the lock");
        }
    }
}

#[test]
fn an_image_that_somebody_wrote_is_no_point_any_more_nor_is_what_builds_on_it() {
    if !qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let (mut volume, points) = chain(&target, &SIZES[..3]);
    let wrote = Command::new("qemu-io").args(["-f", "qcow2", "-c", "write 0 4096", &points[1].id]).output().unwrap();
    assert!(wrote.status.success(), "{wrote:?}");
    assert_eq!(target.points(&volume.image).unwrap(), points[..1]);
    let work = Work { base: Some(points[2].clone()), ..volume.generation(noise(9, 1 << 20)) };
    assert_eq!(target.look(&work).unwrap(), Start::Zeroes, "a whole copy");
}

#[test]
fn one_run_at_a_time_fills_a_volumes_image_and_its_base_stays() {
    if !qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let (mut volume, points) = chain(&target, &SIZES[..2]);
    let work = Work { base: Some(points[1].clone()), ..volume.generation(noise(9, 1 << 20)) };
    let notes = Kept::default();
    let (_, filling) = target.prepare(&work, &notes).unwrap();
    for refused in [target.prepare(&work, &notes).err().unwrap(), target.remove(&points[1]).unwrap_err()] {
        assert!(matches!(refused, TargetError::Busy(_)), "{refused}");
    }
    drop(filling);
    let refused = target.remove(&points[1]).unwrap_err().to_string();
    assert!(refused.contains("a run that is not finished builds on it"), "{refused}");
    target.abandon(&work, &notes).unwrap();
    target.remove(&points[1]).unwrap();
    check(&target.points(&volume.image).unwrap()[0], &volume);
}

/// Not a test: the process that the next one kills. Fills a part, says so, and waits.
#[test]
fn a_process_that_is_killed_while_it_fills() {
    let Some(folder) = std::env::var_os("SLUICE_FILLS") else { return };
    let work: Work = serde_json::from_str(&std::env::var("SLUICE_WORK").unwrap()).unwrap();
    let (target, notes) = (target(Path::new(&folder)), Kept::default());
    let (_, filling) = target.prepare(&work, &notes).unwrap();
    filling.apply(ByteOffset(0), &[1; 4096]).unwrap();
    filling.flush().unwrap();
    filling.apply(ByteOffset(1 << 19), &[2; 4096]).unwrap();
    println!("\nfilled");
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[test]
fn a_run_whose_process_is_killed_leaves_no_program_behind_and_goes_on() {
    if !qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let (mut volume, points) = chain(&target, &SIZES[..2]);
    let mut bytes = volume.bytes(points[1].generation).to_vec();
    bytes[..4096].fill(1);
    bytes[1 << 19..][..4096].fill(2);
    let work = Work { base: Some(points[1].clone()), ..volume.generation(bytes) };
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "qcow2::a_process_that_is_killed_while_it_fills", "--nocapture"])
        .env("SLUICE_FILLS", dir.path())
        .env("SLUICE_WORK", serde_json::to_string(&work).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "filled"), "it fills");
    process.kill().unwrap();
    process.wait().unwrap();
    // Its program ends by itself; until then nobody else may write the image.
    let image = format!("{}.unfinished", target.path_of(&work).display());
    while serves(&image) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let (start, _, point) = fill(&target, &volume, &work, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(start, Start::Resumed);
    check(&point.unwrap(), &volume);
}

/// Whether a process has this word among its arguments.
fn serves(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut commands = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands.any(|command| command.split(|byte| *byte == 0).any(|arg| arg == word.as_bytes()))
}

/// At each step of a run its process is killed; what is on the disk is what a killed process leaves.
#[test]
fn a_run_that_is_dropped_at_any_step_goes_on_or_is_given_up() {
    if !qemu() {
        return;
    }
    for gives_up in [false, true] {
        for step in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let target = target(dir.path());
            let (mut volume, points) = chain(&target, &SIZES[..2]);
            let before = names(dir.path());
            let work = Work { base: Some(points[1].clone()), ..volume.generation(noise(9, 1 << 20)) };
            let unfinished = PathBuf::from(format!("{}.unfinished", target.path_of(&work).display()));
            let until =
                [Until::Applied(0), Until::Applied(0), Until::Applied(3), Until::Completed, Until::Completed][step];
            fill(&target, &volume, &work, &Kept::default(), until).unwrap();
            match step {
                0 => std::fs::remove_file(&unfinished).unwrap(), // its record is there, it is not
                1 => std::fs::write(&unfinished, &std::fs::read(&unfinished).unwrap()[..70_000]).unwrap(), // half made
                4 => {
                    // The point's record is there, the image has not got its name.
                    let record = std::fs::read(format!("{}.json", unfinished.display())).unwrap();
                    std::fs::write(format!("{}.json", target.path_of(&work).display()), record).unwrap();
                }
                _ => {}
            }
            assert_eq!(target.points(&volume.image).unwrap(), points, "step {step}");
            if gives_up {
                target.abandon(&work, &Kept::default()).unwrap();
                assert_eq!(names(dir.path()), before, "step {step}");
                continue;
            }
            let (start, _, point) = fill(&target, &volume, &work, &Kept::default(), Until::Finished).unwrap();
            assert_eq!(start == Start::Resumed, step > 1, "step {step}: {start:?}");
            check(&point.unwrap(), &volume);
            assert_eq!(names(dir.path()).len(), before.len() + 2, "step {step}");
        }
    }
}
