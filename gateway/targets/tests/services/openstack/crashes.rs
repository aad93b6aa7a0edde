//! A gateway that is killed right after any of its requests: the next one goes on or gives up, and leaves nothing but points.

use super::{SIZE, as_image, behind};
use crate::contract::{Kept, Until, Volume, fill, noise};
use crate::faults::Faults;
use crate::openstack::cloud::Cloud;
use targets::openstack::{OpenStack, OpenStackSettings};
use targets::{Start, Target, Work};

/// Requests that change something, of any run, at most.
const MOST_REQUESTS: usize = 40;

/// The first of a volume, for each request of its run.
fn each_first_run(
    cloud: &Cloud,
    service: &str,
    settings: &OpenStackSettings,
    then: &dyn Fn(&OpenStack, &Volume, &Work, &Kept),
) -> usize {
    let faults = Faults::before(&cloud.upstream(service));
    let mortal = super::OpenStackSettings { endpoints: behind(&faults, cloud).endpoints, ..settings.clone() };
    for skip in 0..MOST_REQUESTS {
        let mut volume = Volume::new("data");
        let (work, notes) = (volume.generation(noise(skip as u64, SIZE)), Kept::default());
        faults.kill_after(skip);
        let ran = fill(&cloud.target_with(&mortal, 1), &volume, &work, &notes, Until::Finished);
        assert!(!faults.revive() || ran.is_err(), "{skip}: {ran:?}");
        // Small clouds fail now and then by themselves; to the run that is the same.
        let was_killed = ran.is_err();
        let target = cloud.target_with(settings, 10);
        then(&target, &volume, &work, &notes);
        if !was_killed {
            return skip;
        }
    }
    panic!("a run has no end of requests");
}

#[test]
fn a_first_run_that_is_killed_after_any_request_goes_on_and_leaves_one_volume_and_one_point() {
    let Some(cloud) = Cloud::new() else { return };
    let requests = each_first_run(&cloud, "volumev3", &cloud.settings, &|target, volume, work, notes| {
        let (_, _, point) = fill(target, volume, work, notes, Until::Finished).unwrap();
        assert_eq!(target.points(&volume.image).unwrap(), [point.clone().unwrap()]);
        let expected = (vec![format!("{} available", volume.image.label())], 1, 0);
        assert_eq!(cloud.volumes(), expected);
        target.remove(&point.unwrap()).unwrap();
        assert_eq!(cloud.volumes(), (vec![], 0, 0));
    });
    assert!(requests >= 8, "{requests}");
}

#[test]
fn a_first_run_that_is_killed_after_any_request_and_given_up_leaves_nothing() {
    let Some(cloud) = Cloud::new() else { return };
    each_first_run(&cloud, "volumev3", &cloud.settings, &|target, volume, work, notes| {
        target.abandon(work, notes).unwrap();
        for point in target.points(&volume.image).unwrap() {
            assert_eq!(point.generation, work.generation, "it was finished before it was killed");
            target.remove(&point).unwrap();
        }
        assert_eq!(cloud.volumes(), (vec![], 0, 0));
    });
}

#[test]
fn an_upload_of_an_image_that_is_killed_after_any_request_goes_on_or_leaves_nothing() {
    let Some(cloud) = Cloud::new() else { return };
    let settings = as_image(&cloud, &cloud.settings);
    each_first_run(&cloud, "image", &settings, &|target, volume, work, notes| {
        let (_, _, point) = fill(target, volume, work, notes, Until::Finished).unwrap();
        assert_eq!(cloud.images(), [format!("{}.1 active", volume.image.label())]);
        target.remove(&point.unwrap()).unwrap();
    });
    each_first_run(&cloud, "image", &settings, &|target, volume, work, notes| {
        target.abandon(work, notes).unwrap();
        for point in target.points(&volume.image).unwrap() {
            target.remove(&point).unwrap();
        }
        assert_eq!(cloud.images(), [] as [&str; 0]);
    });
}

/// Deltas of one volume, each killed after one request more; `is_given_up`: then given up, else it goes on.
fn each_delta(cloud: &Cloud, is_given_up: bool) {
    let faults = Faults::before(&cloud.upstream("volumev3"));
    let mortal = behind(&faults, cloud);
    let mut volume = Volume::new("data");
    let first = volume.generation(noise(0, SIZE));
    let (_, _, mut base) = fill(&cloud.target(), &volume, &first, &Kept::default(), Until::Finished).unwrap();
    for skip in 0..MOST_REQUESTS {
        let mut bytes = volume.bytes(base.as_ref().unwrap().generation).to_vec();
        bytes[skip * 5000..][..6000].fill(skip as u8 + 1);
        let (work, notes) = (Work { base: base.clone(), ..volume.generation(bytes.clone()) }, Kept::default());
        faults.kill_after(skip);
        let ran = fill(&cloud.target_with(&mortal, 1), &volume, &work, &notes, Until::Finished);
        assert!(!faults.revive() || ran.is_err(), "{skip}: {ran:?}");
        // Small clouds fail now and then by themselves; to the run that is the same.
        let was_killed = ran.is_err();
        let target = cloud.target();
        if is_given_up {
            target.abandon(&work, &notes).unwrap();
        } else {
            fill(&target, &volume, &work, &notes, Until::Finished).unwrap();
        }
        let points = target.points(&volume.image).unwrap();
        assert!(points.contains(base.as_ref().unwrap()), "{skip}: the point before stays");
        assert!(is_given_up || points.last().unwrap().generation == work.generation, "{skip}: {points:?}");
        let (volumes, snapshots, attachments) = cloud.volumes();
        assert_eq!((volumes.len(), snapshots, attachments), (1, points.len(), 0), "{skip}: {volumes:?}");
        assert!(volumes[0].ends_with(" available"), "{skip}: {volumes:?}");
        for old in &points[..points.len() - 1] {
            target.remove(old).unwrap();
        }
        base = points.last().cloned();
        if is_given_up && (skip % 3 == 2 || !was_killed) {
            // On top of what those runs left, another generation comes out right.
            bytes = volume.bytes(base.as_ref().unwrap().generation).to_vec();
            bytes[7..9].fill(skip as u8 + 1);
            let next = Work { base: base.clone(), ..volume.generation(bytes) };
            let (start, ..) = fill(&target, &volume, &next, &Kept::default(), Until::Finished).unwrap();
            assert!(matches!(start, Start::Between { .. } | Start::Holds(_)), "{skip}: {start:?}");
            target.remove(&base.unwrap()).unwrap();
            base = target.points(&volume.image).unwrap().pop();
        }
        if !was_killed {
            assert!(skip >= 7, "{skip}");
            cloud.target().remove(&base.unwrap()).unwrap();
            assert_eq!(cloud.volumes(), (vec![], 0, 0));
            return;
        }
    }
    panic!("a run has no end of requests");
}

#[test]
fn a_delta_that_is_killed_after_any_request_goes_on_and_leaves_one_point_more() {
    let Some(cloud) = Cloud::new() else { return };
    each_delta(&cloud, false);
}

#[test]
fn a_delta_that_is_killed_after_any_request_and_given_up_leaves_the_points_before_it_as_they_were() {
    let Some(cloud) = Cloud::new() else { return };
    each_delta(&cloud, true);
}
