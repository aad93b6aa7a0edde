//! EBS: the rules against our strict model, the shape of requests against a community emulator (moto). Neither is AWS.

use crate::contract::{self, Kept, Until, Volume, fill, noise};
use crate::crashes::{at_every_step, options};
use crate::ebs_model::{Life, Model};
use crate::faults::{Fault, Faults};
use std::os::unix::fs::PermissionsExt;
use targets::ebs::{Ebs, EbsSettings};
use targets::{Credentials, Retry, Start, Target, TargetError, Work};

const BLOCK: usize = 512 << 10;

/// Keys in a file, as a gateway has them.
pub(crate) fn credentials(dir: &std::path::Path, access: &str, secret: &str) -> Credentials {
    let path = dir.join("aws");
    let text = format!("AWS_ACCESS_KEY_ID={access}\nAWS_SECRET_ACCESS_KEY={secret}\nAWS_DEFAULT_REGION=us-east-1\n");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Credentials::File(path)
}

fn ebs(url: &str, attempts: u32) -> Ebs {
    let dir = tempfile::tempdir().unwrap();
    let settings = EbsSettings {
        ebs_endpoint: Some(url.to_owned()),
        ec2_endpoint: Some(url.to_owned()),
        ..EbsSettings::default()
    };
    Ebs::new(settings, &credentials(dir.path(), "test", "test"), options(attempts)).unwrap()
}

fn at(model: &Model) -> Ebs {
    ebs(&format!("http://{}", model.host()), 8)
}

/// Bytes of whole blocks, of which the fourth is a hole.
fn holed(seed: u64, blocks: usize) -> Vec<u8> {
    let mut bytes = noise(seed, blocks * BLOCK);
    bytes.chunks_mut(BLOCK).skip(3).take(1).for_each(|block| block.fill(0));
    bytes
}

#[test]
fn ebs_fulfils_the_contract_under_our_strict_models_rules() {
    let model = Model::start();
    model.state().throttle_every = 7;
    let url = format!("http://{}", model.host());
    contract::holds(&move || Box::new(ebs(&url, 8)), 9 * BLOCK + 12_345);
    let state = model.state();
    assert_eq!(state.snapshots.len(), 0, "nothing is left behind");
    let broken: Vec<&String> = state
        .refused
        .iter()
        .filter(|rule| !rule.starts_with("InvalidSnapshot.NotFound") && !rule.contains("ResourceNotFound"))
        .collect();
    assert_eq!(broken, [] as [&str; 0], "no rule was broken on the way");
    assert!(state.with_checksum >= 1, "the checksum over all blocks was given");
}

#[test]
fn a_snapshot_that_is_killed_at_any_step_goes_on_or_goes_away() {
    let model = Model::start();
    let left = |_: &Volume| -> Vec<String> {
        let state = model.state();
        let unfinished = state.snapshots.iter().filter(|(_, snapshot)| snapshot.tags["sluice-state"] != "proved");
        unfinished.map(|(id, snapshot)| format!("{id} {:?}", snapshot.life)).collect()
    };
    at_every_step(&model.host(), (BLOCK, 1), &|url, attempts| Box::new(ebs(url, attempts)), &left);
    assert_eq!(model.state().snapshots.len(), 0);
}

#[test]
fn only_what_changed_is_put_and_the_rest_is_the_parents() {
    let model = Model::start();
    let mut volume = Volume::new("data");
    let first = volume.generation(holed(1, 8));
    let (.., base) = fill(&at(&model), &volume, &first, &Kept::default(), Until::Finished).unwrap();
    let base = base.unwrap();
    assert_eq!(model.state().puts, 7, "a hole is not put");
    // One block changes, one becomes zeroes, the hole gets bytes; the parent is gone afterwards.
    let mut bytes = volume.bytes(first.generation).to_vec();
    bytes[5] ^= 1;
    bytes[BLOCK..2 * BLOCK].fill(0);
    bytes[3 * BLOCK] = 1;
    let second = Work { base: Some(base.clone()), ..volume.generation(bytes) };
    let (start, _, point) = fill(&at(&model), &volume, &second, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(start, Start::Holds(base.clone()));
    let point = point.unwrap();
    {
        let state = model.state();
        assert_eq!(state.puts, 7 + 3);
        assert_eq!(state.snapshots[&point.id].parent.as_ref(), Some(&base.id));
        assert_eq!(state.with_checksum, 2);
        let tags = &state.snapshots[&point.id].tags;
        assert_eq!(
            (tags["sluice-root-blake3"].as_str(), tags["sluice-number"].as_str()),
            (second.root.to_string().as_str(), "2")
        );
    }
    at(&model).remove(&base).unwrap();
    let (start, ..) = fill(&at(&model), &volume, &second, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(start, Start::Finished(point));
    // A base that is gone is no base.
    let third = Work { base: Some(base), ..volume.generation(holed(3, 8)) };
    assert_eq!(at(&model).look(&third).unwrap(), Start::Zeroes);
}

#[test]
fn what_was_flushed_is_not_put_again_and_is_counted() {
    let model = Model::start();
    let mut volume = Volume::new("data");
    let work = volume.generation(holed(1, 8));
    let notes = Kept::default();
    fill(&at(&model), &volume, &work, &notes, Until::Applied(3)).unwrap();
    let target = at(&model);
    let (start, filling) = target.prepare(&work, &notes).unwrap();
    assert_eq!((start, model.state().puts), (Start::Resumed, 3));
    let bytes = volume.bytes(work.generation);
    for block in [4, 5, 6, 7] {
        let at = block * BLOCK;
        filling.apply(dedupe::ByteOffset(at as u64), &bytes[at..at + BLOCK]).unwrap();
    }
    filling.complete().unwrap();
    let mut held = vec![1; bytes.len()];
    filling.read(dedupe::ByteOffset(0), &mut held).unwrap();
    assert!(held == bytes && model.state().puts == 7);
    assert_eq!(model.state().with_checksum, 0, "what another process put has no checksum here");
}

#[test]
fn a_smaller_volume_inherits_nothing_from_a_larger_one() {
    let model = Model::start();
    let mut volume = Volume::new("data");
    let first = volume.generation(holed(1, 8));
    let (.., base) = fill(&at(&model), &volume, &first, &Kept::default(), Until::Finished).unwrap();
    let second = Work { base, ..volume.generation(holed(1, 5)) };
    let (start, _, point) = fill(&at(&model), &volume, &second, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(start, Start::Zeroes);
    assert_eq!(model.state().snapshots[&point.unwrap().id].parent, None);
}

#[test]
fn a_snapshot_that_aws_gave_up_is_begun_anew() {
    let model = Model::start();
    let mut volume = Volume::new("data");
    let work = volume.generation(holed(1, 6));
    let notes = Kept::default();
    fill(&at(&model), &volume, &work, &notes, Until::Applied(3)).unwrap();
    model.state().snapshots.values_mut().for_each(|snapshot| snapshot.life = Life::Error);
    let (start, _, point) = fill(&at(&model), &volume, &work, &notes, Until::Finished).unwrap();
    assert_eq!(start, Start::Zeroes, "what was put is lost and is put again");
    assert_eq!(model.state().snapshots.keys().cloned().collect::<Vec<_>>(), [point.unwrap().id]);
}

#[test]
fn a_completed_snapshot_takes_no_other_bytes() {
    let model = Model::start();
    let mut volume = Volume::new("data");
    let work = volume.generation(holed(1, 4));
    let notes = Kept::default();
    fill(&at(&model), &volume, &work, &notes, Until::Completed).unwrap();
    let target = at(&model);
    let (start, filling) = target.prepare(&work, &notes).unwrap();
    assert_eq!(start, Start::Resumed);
    filling.apply(dedupe::ByteOffset(0), &volume.bytes(work.generation)[..BLOCK]).unwrap();
    let other = filling.apply(dedupe::ByteOffset(0), &[7; BLOCK]).unwrap_err().to_string();
    assert!(other.ends_with("holds other bytes in block 0; give the run up and begin anew"), "{other}");
}

#[test]
fn a_point_that_an_image_needs_is_not_removed() {
    let model = Model::start();
    let mut volume = Volume::new("data");
    let work = volume.generation(holed(1, 2));
    let (.., point) = fill(&at(&model), &volume, &work, &Kept::default(), Until::Finished).unwrap();
    let point = point.unwrap();
    model.state().in_use.insert(point.id.clone());
    let needed = at(&model).remove(&point).unwrap_err().to_string();
    assert!(needed.ends_with("is needed by an image (AMI): deregister that first, then remove it again"), "{needed}");
    let steps = at(&model).next_steps(&point).join("\n");
    for part in ["aws ec2 create-volume", "aws ec2 register-image", &point.id, "b3sum", &work.root.to_string()] {
        assert!(steps.contains(part), "{part}: {steps}");
    }
}

#[test]
fn a_bad_day_of_ebs_is_survived_or_said() {
    let model = Model::start();
    let mut volume = Volume::new("data");
    let work = volume.generation(holed(1, 6));
    let faults = Faults::before(&model.host());
    for (path, fault) in [
        ("/snapshots", Fault::Status(503, "")),
        ("/blocks/1", Fault::Lost(10)),
        ("/blocks/2", Fault::Status(500, "")),
        ("/blocks/4", Fault::Cut),
        ("/completion", Fault::Lost(0)),
        ("blockToken", Fault::Corrupt),
    ] {
        faults.add("", path, (0, 1), fault);
    }
    let (.., point) = fill(&ebs(&faults.url(), 8), &volume, &work, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(faults.done().len(), 6, "{:?}", faults.done());
    at(&model).remove(&point.unwrap()).unwrap();
    // What does not pass is said, with what to do.
    let work = volume.generation(holed(2, 6));
    for (status, todo) in [(401, "put new ones"), (403, "lack this right"), (429, "--requests")] {
        let faults = Faults::before(&model.host());
        faults.add("PUT", "/blocks/", (0, 1000), Fault::Status(status, ""));
        let no = fill(&ebs(&faults.url(), 2), &volume, &work, &Kept::default(), Until::Finished).unwrap_err();
        assert!(
            no.to_string().starts_with("EBS refused `PUT /snapshots/snap-") && no.to_string().contains(todo),
            "{no}"
        );
        assert_eq!(no.retry(), if status == 429 { Retry::Later } else { Retry::Never });
    }
    // A block that is damaged on its way there is refused.
    let faults = Faults::before(&model.host());
    faults.add("PUT", "/blocks/", (0, 1), Fault::Garble);
    let no = fill(&ebs(&faults.url(), 2), &volume, &work, &Kept::default(), Until::Finished).unwrap_err();
    assert!(no.to_string().contains("the checksum is of other bytes"), "{no}");
    // A block that comes damaged each time is never taken for true.
    let faults = Faults::before(&model.host());
    faults.add("", "blockToken", (0, 1000), Fault::Corrupt);
    let target = ebs(&faults.url(), 2);
    let notes = Kept::default();
    let (_, filling) = target.prepare(&work, &notes).unwrap();
    filling.apply(dedupe::ByteOffset(0), &volume.bytes(work.generation)[..BLOCK]).unwrap();
    filling.complete().unwrap();
    let damaged = filling.read(dedupe::ByteOffset(0), &mut [0; 4096]).unwrap_err();
    assert!(damaged.to_string().contains("3 times bytes that do not fit their checksum"), "{damaged}");
    drop(filling);
    target.abandon(&work, &notes).unwrap();
}

#[test]
fn throttling_without_end_is_said_as_such() {
    let model = Model::start();
    model.state().throttle_every = 1;
    let mut volume = Volume::new("data");
    let work = volume.generation(holed(1, 1));
    let throttled = at(&model).look(&work).unwrap_err();
    assert_eq!(throttled.retry(), Retry::Later);
    let checks = at(&model).describe().unwrap().checks;
    assert!(checks[1].wrong.as_ref().unwrap().contains("set a lower `--requests`"), "{checks:?}");
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keys = credentials(dir.path(), "a", "b");
    let refuse = |settings| Ebs::new(settings, &keys, options(1)).unwrap_err().to_string();
    let key = EbsSettings { kms_key: Some("arn:x".into()), ..EbsSettings::default() };
    assert!(refuse(key).ends_with("set `encrypted = true`"));
    let place = EbsSettings { ebs_endpoint: Some("ebs.example".into()), ..EbsSettings::default() };
    assert!(refuse(place).contains("give it as `https://host`"));
    let region = EbsSettings { region: Some("eu/central".into()), ..EbsSettings::default() };
    assert!(refuse(region).contains("is no region"));
    let none = Ebs::new(EbsSettings::default(), &Credentials::None, options(1)).unwrap_err();
    assert!(matches!(none, TargetError::Credentials { .. }));
    assert!(serde_json::from_str::<EbsSettings>("{\"regoin\": \"x\"}").is_err());
}

#[test]
fn requests_have_the_shape_that_the_community_emulator_moto_takes() {
    let Some(url) = crate::service::value("moto", "MOTO_URL") else { return };
    let mut volume = Volume::new("data");
    let first = volume.generation(holed(1, 5));
    let notes = Kept::default();
    fill(&ebs(&url, 3), &volume, &first, &notes, Until::Applied(2)).unwrap();
    // moto does not know a snapshot that is being filled: it calls it completed at once, so this run cannot be resumed there.
    ebs(&url, 3).abandon(&first, &notes).unwrap();
    let (start, _, point) = fill(&ebs(&url, 3), &volume, &first, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(start, Start::Zeroes);
    let point = point.unwrap();
    assert_eq!(ebs(&url, 3).points(&volume.image).unwrap(), std::slice::from_ref(&point));
    assert_eq!(ebs(&url, 3).describe().unwrap().checks[0].wrong, None);
    ebs(&url, 3).remove(&point).unwrap();
    ebs(&url, 3).remove(&point).unwrap();
    assert_eq!(ebs(&url, 3).points(&volume.image).unwrap(), []);
}
