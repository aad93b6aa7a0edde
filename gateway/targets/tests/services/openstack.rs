//! OpenStack: a real Keystone, Cinder with its NFS driver, and Glance.

mod cloud;
mod crashes;

use crate::contract::{self, Kept, Until, Volume, fill, noise};
use crate::faults::{Fault, Faults};
use cloud::{Cloud, PASSWORD};
use dedupe::{ByteCount, ByteOffset, UnixMillis};
use serde_json::{Value, json};
use std::os::unix::fs::FileExt;
use targets::openstack::{Endpoints, OpenStackSettings};
use targets::{Filling, Retry, Start, Target, Work};

/// Bytes of a volume in these tests: large enough for holes, small enough for qcow2 to be quick.
const SIZE: usize = 1 << 20;

/// Settings by which Cinder is reached through a proxy.
fn behind(faults: &Faults, cloud: &Cloud) -> OpenStackSettings {
    let endpoints = Endpoints { volume: Some(format!("{}/v3/{{project}}", faults.url())), image: Some(faults.url()) };
    OpenStackSettings { endpoints, ..cloud.settings.clone() }
}

fn as_image(cloud: &Cloud, settings: &OpenStackSettings) -> OpenStackSettings {
    OpenStackSettings { as_image: true, staging: Some(cloud.dir.path().to_owned()), ..settings.clone() }
}

#[test]
fn a_cinder_volume_fulfils_the_contract_and_leaves_nothing_behind() {
    let Some(cloud) = Cloud::new() else { return };
    contract::holds(&|| Box::new(cloud.target()), SIZE);
    assert_eq!(cloud.volumes(), (vec![], 0, 0));
}

#[test]
fn glance_images_fulfil_the_contract_and_leave_nothing_behind() {
    let Some(cloud) = Cloud::new() else { return };
    let settings = as_image(&cloud, &cloud.settings);
    contract::holds_in_whole_copies(&|| Box::new(cloud.target_with(&settings, 10)), SIZE);
    assert_eq!(cloud.images(), [] as [&str; 0]);
    let left = std::fs::read_dir(cloud.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["openrc"], "nor here");
}

#[test]
fn an_application_credential_does_as_a_password_does() {
    let Some(cloud) = Cloud::new() else { return };
    let path = format!("/users/{}/application_credentials", cloud.user);
    let made = cloud.as_account("POST", &path, &json!({ "application_credential": { "name": "sluice" } }));
    let credential = |key: &str| made["application_credential"][key].as_str().unwrap().to_owned();
    let (id, secret) = (credential("id"), credential("secret"));
    let mut volume = Volume::new("data");
    for lines in [
        format!("OS_APPLICATION_CREDENTIAL_ID={id}\nOS_APPLICATION_CREDENTIAL_SECRET={secret}\n"),
        format!(
            "OS_APPLICATION_CREDENTIAL_NAME=sluice\nOS_APPLICATION_CREDENTIAL_SECRET={secret}\nOS_USER_ID={}\n",
            cloud.user
        ),
    ] {
        cloud.write_credentials(&lines);
        let work = volume.generation(noise(1, SIZE));
        fill(&cloud.target(), &volume, &work, &Kept::default(), Until::Finished).unwrap();
    }
    assert_eq!(cloud.target().points(&volume.image).unwrap().len(), 2);
    cloud.write_credentials(&format!("OS_APPLICATION_CREDENTIAL_ID={id}\nOS_APPLICATION_CREDENTIAL_SECRET=wrong\n"));
    let refused = cloud.target().points(&volume.image).unwrap_err();
    assert!(refused.is_credentials() && refused.retry() == Retry::Never, "{refused}");
    let said = refused.to_string();
    assert!(said.contains("Keystone refused") && said.contains("put new ones in their place"), "{said}");
    assert!(!said.contains("wrong:") && !said.contains(&id), "no secrets, no names: {said}");
}

#[test]
fn a_token_that_is_revoked_in_the_middle_of_a_run_is_renewed() {
    let Some(cloud) = Cloud::new() else { return };
    let mut volume = Volume::new("data");
    let work = volume.generation(noise(1, SIZE));
    let (target, notes) = (cloud.target(), Kept::default());
    let (_, filling) = target.prepare(&work, &notes).unwrap();
    write_all(&*filling, &volume, &work);
    filling.complete().unwrap();
    // A new password, though it is the same, ends all tokens of an account.
    let password = json!({ "user": { "password": format!("{PASSWORD}2") } });
    cloud.as_admin("PATCH", &format!("/users/{}", cloud.user), &password);
    let refused = filling.finish(UnixMillis(1)).unwrap_err();
    assert!(refused.is_credentials(), "the credentials hold no more: {refused}");
    let password = json!({ "user": { "password": PASSWORD } });
    cloud.as_admin("PATCH", &format!("/users/{}", cloud.user), &password);
    // Keystone may refuse tokens for a moment still, as if they were made before the change: until anybody's new one is taken.
    let is_taken = || match cloud.target().points(&volume.image) {
        Err(error) => {
            assert!(error.is_credentials(), "{error}");
            std::thread::sleep(std::time::Duration::from_millis(100));
            false
        }
        Ok(_) => true,
    };
    assert!((0..600).any(|_| is_taken()), "nobody is let in");
    let point = filling.finish(UnixMillis(2)).unwrap();
    assert_eq!(target.points(&volume.image).unwrap(), [point]);
}

fn write_all(filling: &dyn Filling, volume: &Volume, work: &Work) {
    for (at, bytes) in volume.bytes(work.generation).chunks(1 << 20).enumerate() {
        filling.apply(ByteOffset((at as u64) << 20), bytes).unwrap();
    }
    filling.flush().unwrap();
}

#[test]
fn a_quota_that_is_used_up_is_named_with_its_numbers_and_the_run_goes_on_when_it_is_raised() {
    let Some(cloud) = Cloud::new() else { return };
    let mut volume = Volume::new("data");
    let work = volume.generation(noise(1, SIZE));
    let notes = Kept::default();
    cloud.set_quotas(&json!({ "volumes": 0 }));
    let described = cloud.target().describe().unwrap();
    let wrong: Vec<String> = described.checks.into_iter().filter_map(|check| check.wrong).collect();
    assert_eq!(wrong, ["the project's quota of volumes is used up (0 of 0); have it raised"]);
    let refuse = |notes: &Kept| fill(&cloud.target(), &volume, &work, notes, Until::Finished).unwrap_err();
    let said = refuse(&notes).to_string();
    assert!(said.contains("a quota of the OpenStack project is used up"), "{said}");
    assert!(
        said.contains("volumes allowed (0) exceeded for quota 'volumes'") && said.contains("have it raised"),
        "{said}"
    );
    assert_eq!(cloud.volumes(), (vec![], 0, 0));
    cloud.set_quotas(&json!({ "volumes": 10, "snapshots": 0 }));
    let error = refuse(&notes);
    assert!(error.to_string().contains("snapshots allowed (0)") && error.retry() == Retry::Never, "{error}");
    assert_eq!(cloud.volumes().1, 0, "no snapshot");
    cloud.set_quotas(&json!({ "snapshots": 10 }));
    let (start, ..) = fill(&cloud.target(), &volume, &work, &notes, Until::Finished).unwrap();
    assert_eq!(start, Start::Resumed);
    assert_eq!(cloud.volumes(), (vec![format!("{} available", volume.image.label())], 1, 0));
}

#[test]
fn a_volume_grows_with_its_generations_and_what_was_behind_the_end_of_a_shorter_one_is_zeroes() {
    let Some(cloud) = Cloud::new() else { return };
    let target = cloud.target();
    let mut volume = Volume::new("data");
    let small = volume.generation(noise(1, 8192));
    fill(&target, &volume, &small, &Kept::default(), Until::Finished).unwrap();
    let end = (1 << 30) + 4096;
    let put = |work: Work, writes: &[u64], zero_at: Option<u64>| {
        let notes = Kept::default();
        let (start, filling) = target.prepare(&work, &notes).unwrap();
        assert!(matches!(start, Start::Holds(_)), "{start:?}");
        for at in writes {
            filling.apply(ByteOffset(*at), &[6; 4096]).unwrap();
        }
        filling.complete().unwrap();
        let mut buffer = vec![1; 4096];
        for at in writes.iter().chain(&zero_at) {
            filling.read(ByteOffset(*at), &mut buffer).unwrap();
            let expected = if zero_at == Some(*at) { 0 } else { 6 };
            assert!(buffer.iter().all(|byte| *byte == expected), "at {at}");
        }
        filling.finish(UnixMillis(1)).unwrap();
    };
    let mut sized = |size: u64| Work { size: ByteCount(size), ..volume.generation(vec![0; 1]) };
    let (large, shorter, large_again) = (sized(end), sized(8192), sized(end));
    put(large, &[end - 4096], Some(end - 8192));
    put(shorter, &[0], None);
    put(large_again, &[8192], Some(end - 4096));
    let found = cloud.cinder("GET", "/volumes/detail", &Value::Null);
    assert_eq!(found["volumes"].as_array().unwrap().len(), 1);
    assert_eq!(found["volumes"][0]["size"], 2);
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let Some(cloud) = Cloud::new() else { return };
    let mut volume = Volume::new("data");
    let target = cloud.target();
    let first = volume.generation(noise(1, SIZE));
    // One of another, under the name that ours will have.
    let other =
        json!({ "volume": { "size": 1, "name": volume.image.label(), "metadata": { "sluice-lineage": "another" } } });
    cloud.cinder("POST", "/volumes", &other);
    let (_, _, point) = fill(&target, &volume, &first, &Kept::default(), Until::Finished).unwrap();
    let point = point.unwrap();
    assert_eq!(cloud.volumes().0.len(), 2);
    // Somebody attaches ours.
    let all = cloud.cinder("GET", "/volumes/detail", &Value::Null);
    let lineage = volume.image.lineage.to_string();
    let ours =
        all["volumes"].as_array().unwrap().iter().find(|one| one["metadata"]["sluice-lineage"] == lineage.as_str());
    let id = ours.unwrap()["id"].as_str().unwrap().to_owned();
    let body = json!({ "attachment": { "volume_uuid": id, "connector": { "host": "somebody" } } });
    let attachment = cloud.cinder("POST", "/attachments", &body)["attachment"]["id"].as_str().unwrap().to_owned();
    let second = volume.generation(noise(2, SIZE));
    let said = target.prepare(&second, &Kept::default()).err().unwrap().to_string();
    assert!(
        said.contains(&format!("volume {id} is attached")) && said.contains("not by a run of ours; detach it"),
        "{said}"
    );
    target.abandon(&second, &Kept::default()).unwrap();
    assert_eq!(cloud.volumes().2, 1, "their attachment is there");
    cloud.cinder("DELETE", &format!("/attachments/{attachment}"), &Value::Null);
    // A snapshot without our tags is not removed, whoever asks.
    let metadata = json!({ "metadata": {} });
    cloud.cinder("PUT", &format!("/snapshots/{}/metadata", point.id), &metadata);
    let said = target.remove(&point).unwrap_err().to_string();
    assert!(said.contains("lacks our tags, so it is not removed"), "{said}");
    assert_eq!((cloud.volumes().0.len(), cloud.volumes().1), (2, 1));
}

#[test]
fn services_that_are_ill_for_a_while_cost_time_and_leave_no_second_of_anything() {
    let Some(cloud) = Cloud::new() else { return };
    let faults = Faults::before(&cloud.upstream("volumev3"));
    let settings = behind(&faults, &cloud);
    for (method, path) in [
        ("POST", "/volumes"),
        ("POST", "/attachments"),
        ("POST", "/action"),
        ("DELETE", "/attachments"),
        ("POST", "/snapshots"),
        ("PUT", "/metadata"),
    ] {
        faults.add(method, path, (0, 1), Fault::Lost(0));
    }
    faults.add("GET", "/volumes", (1, 2), Fault::Status(503, ""));
    faults.add("GET", "/snapshots", (1, 1), Fault::Status(429, "Retry-After: 0\r\n"));
    faults.add("GET", "/attachments", (0, 1), Fault::Cut);
    faults.add("GET", "/volumes", (2, 1), Fault::Lost(40));
    faults.add("", "/volumes", (4, 1), Fault::Status(401, ""));
    let mut volume = Volume::new("data");
    let work = volume.generation(noise(1, SIZE));
    let target = cloud.target_with(&settings, 10);
    let (start, ..) = fill(&target, &volume, &work, &Kept::default(), Until::Finished).unwrap();
    assert_eq!(start, Start::Zeroes);
    assert_eq!(cloud.volumes(), (vec![format!("{} available", volume.image.label())], 1, 0), "{:?}", faults.done());
    assert_eq!(faults.done().len(), 12, "{:?}", faults.done());
}

#[test]
fn a_no_is_taken_at_once_and_says_what_to_do() {
    let Some(cloud) = Cloud::new() else { return };
    let faults = Faults::before(&cloud.upstream("volumev3"));
    let target = cloud.target_with(&behind(&faults, &cloud), 3);
    let mut volume = Volume::new("data");
    let work = volume.generation(noise(1, SIZE));
    for (status, what_to_do, retry) in [
        (403, "the credentials lack this right", Retry::Never),
        (409, "something else is working on it there", Retry::Never),
        (401, "the credentials are wrong or expired", Retry::Never),
        (503, "the service is ill", Retry::Later),
    ] {
        let before = faults.done().len();
        faults.add("POST", "/volumes", (0, 3), Fault::Status(status, ""));
        let refused = target.prepare(&work, &Kept::default()).err().unwrap();
        assert!(refused.to_string().contains(what_to_do) && refused.retry() == retry, "{status}: {refused}");
        // With 401 a new token is tried, with 503 all three attempts.
        let asked = faults.done().len() - before;
        assert_eq!(asked, if status == 503 { 3 } else { 1 + usize::from(status == 401) }, "{status}");
        faults.forget();
    }
    assert_eq!(cloud.volumes(), (vec![], 0, 0));
}

#[test]
fn wrong_bytes_are_seen_when_they_are_read_back() {
    let Some(cloud) = Cloud::new() else { return };
    let mut volume = Volume::new("data");
    let mut second = Vec::new();
    for number in 1..=2 {
        let work = volume.generation(noise(number, SIZE));
        let (target, notes) = (cloud.target(), Kept::default());
        let (_, filling) = target.prepare(&work, &notes).unwrap();
        write_all(&*filling, &volume, &work);
        let place = target.place_of(&volume.image).unwrap();
        assert!(place.path.starts_with(cloud.share()), "{place:?}");
        assert_eq!(place.format, if number == 1 { "raw" } else { "qcow2" });
        if number == 1 {
            let file = std::fs::OpenOptions::new().write(true).open(&place.path).unwrap();
            file.write_all_at(&[volume.bytes(work.generation)[5] ^ 1], 5).unwrap();
        }
        filling.complete().unwrap();
        let mut read = vec![0; SIZE];
        filling.read(ByteOffset(0), &mut read).unwrap();
        assert_eq!(read == volume.bytes(work.generation), number == 2);
        filling.finish(UnixMillis(1)).unwrap();
        second = read;
    }
    assert_eq!(blake3::hash(&second), blake3::hash(&noise(2, SIZE)));
    // An image's bytes come from Glance itself.
    let faults = Faults::before(&cloud.upstream("image"));
    let target = cloud.target_with(&as_image(&cloud, &behind(&faults, &cloud)), 3);
    let work = volume.generation(noise(3, SIZE));
    let notes = Kept::default();
    let (_, filling) = target.prepare(&work, &notes).unwrap();
    write_all(&*filling, &volume, &work);
    filling.complete().unwrap();
    let mut read = vec![0; SIZE];
    faults.add("GET", "/file", (0, 1), Fault::Corrupt);
    filling.read(ByteOffset(0), &mut read).unwrap();
    assert_ne!(read, volume.bytes(work.generation));
    faults.add("GET", "/file", (0, 1), Fault::Lost(5000));
    filling.read(ByteOffset(0), &mut read).unwrap();
    assert_eq!(read, volume.bytes(work.generation), "a cut answer is asked for again");
    drop(filling);
    target.abandon(&work, &notes).unwrap();
    assert_eq!(cloud.images(), [] as [&str; 0]);
}
