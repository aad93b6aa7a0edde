//! `decide` against the slow oracle of [`crate::lab`], which shares no code with it but the zone's rules.

use super::{Bend, Override, Policy, Schedule, decide};
use crate::lab::{Rules, TEN_YEARS_DAYS, ZONES, bits, plain, ten_years};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

#[track_caller]
fn agrees(zone: &str) {
    let compared = ten_years(zone).unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(compared, u64::from(TEN_YEARS_DAYS) * 96);
}

fn document(zone: &str) -> String {
    Rules::sample(zone).document()
}

#[test]
fn every_quarter_of_ten_years_in_shanghai() {
    agrees(ZONES[0]);
}

#[test]
fn every_quarter_of_ten_years_in_berlin() {
    agrees(ZONES[1]);
}

#[test]
fn every_quarter_of_ten_years_in_new_york() {
    agrees(ZONES[2]);
}

#[test]
fn every_quarter_of_ten_years_on_lord_howe_island() {
    agrees(ZONES[3]);
}

#[test]
fn every_quarter_of_ten_years_in_almaty_which_changed_its_rules() {
    agrees(ZONES[4]);
}

/// The zone's rules themselves, from what was announced: the oracle above takes them from the same library.
#[test]
fn clocks_change_when_it_was_announced() {
    let hour = |zone: &str, at: &str| {
        let civil = TimeZone::get(zone).unwrap().to_datetime(at.parse().unwrap());
        (civil.hour(), civil.minute())
    };
    assert_eq!(hour("Asia/Shanghai", "2026-07-01T00:00:00Z"), (8, 0));
    // Berlin: summer time ended on 2026-10-25 at 01:00 UTC.
    assert_eq!(hour("Europe/Berlin", "2026-10-25T00:59:00Z"), (2, 59));
    assert_eq!(hour("Europe/Berlin", "2026-10-25T01:00:00Z"), (2, 0));
    // New York: summer time began on 2026-03-08 at 07:00 UTC.
    assert_eq!(hour("America/New_York", "2026-03-08T06:59:00Z"), (1, 59));
    assert_eq!(hour("America/New_York", "2026-03-08T07:00:00Z"), (3, 0));
    // Lord Howe moves by half an hour: to +10:30 on 2026-04-04 at 15:00 UTC.
    assert_eq!(hour("Australia/Lord_Howe", "2026-04-04T14:59:00Z"), (1, 59));
    assert_eq!(hour("Australia/Lord_Howe", "2026-04-04T15:00:00Z"), (1, 30));
    // Kazakhstan went to one zone, +05, on 2024-03-01.
    assert_eq!(hour("Asia/Almaty", "2024-02-29T12:00:00Z"), (18, 0));
    assert_eq!(hour("Asia/Almaty", "2024-03-01T12:00:00Z"), (17, 0));
}

/// Outside of what was laid out the answer is worked out from the rules, and is the same.
#[test]
fn a_schedule_that_ran_out_changes_nothing_but_the_time_it_takes() {
    let policy = Policy::parse(&document(ZONES[1])).unwrap();
    let from = crate::lab::ten_years_from();
    let (long, empty): (Schedule, Schedule) = (policy.schedule(from, 400), policy.schedule(from, 0));
    for quarter in 0..400 * 96 {
        let now = from + SignedDuration::from_mins(quarter * 15 + 7);
        let (one, other) = (decide(&policy, &long, &plain(now)), decide(&policy, &empty, &plain(now)));
        assert_eq!((one.up, one.control, one.reason), (other.up, other.control, other.reason), "at {now}");
        assert!(other.until.unwrap() <= one.until.unwrap());
    }
}

#[test]
fn a_repeated_hour_occurs_twice_and_a_skipped_one_not_at_all() {
    let text = document("Europe/Berlin").replace("02:15 full 23:45 closed", "02:00 full 03:00 closed");
    let policy = Policy::parse(&text).unwrap();
    let open = |from: &str, to: &str| -> SignedDuration {
        let (from, to): (Timestamp, Timestamp) = (from.parse().unwrap(), to.parse().unwrap());
        let schedule = policy.schedule(from, 3);
        let spans = schedule.spans(from, to).filter(|(_, _, slot)| policy.profile(slot.profile).name == "full");
        spans.map(|(from, to, _)| to.duration_since(from)).sum()
    };
    let hours = SignedDuration::from_hours;
    assert_eq!(open("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"), hours(2));
    assert_eq!(open("2026-10-17T22:00:00Z", "2026-10-18T22:00:00Z"), hours(1));
    assert_eq!(open("2027-03-27T23:00:00Z", "2027-03-28T22:00:00Z"), hours(0));
}

#[test]
fn an_override_ends_exactly_when_it_was_to() {
    let mut policy = Policy::parse(&document("Asia/Shanghai")).unwrap();
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let (from, until) = (at("2026-11-24T02:00:00Z"), at("2026-11-24T03:00:00Z")); // a Tuesday, 10:00 to 11:00: closed
    let bend = Bend::Boost { rate: "1 Mbit/s".parse().unwrap(), pierce: false };
    policy.overrides.push(Override {
        id: 7,
        bend,
        from,
        until,
        volume: None,
        actor: "chen".into(),
        reason: "migration".into(),
    });
    let schedule = policy.schedule(from - SignedDuration::from_hours(24), 3);
    let say = |now| decide(&policy, &schedule, &plain(now));
    let moment = SignedDuration::from_nanos(1);
    assert_eq!(bits(say(from - moment).up), 0);
    assert_eq!(say(from - moment).until, Some(from));
    assert_eq!(bits(say(from).up), 1_000_000);
    assert_eq!(say(from).until, Some(until));
    assert_eq!(bits(say(until - moment).up), 1_000_000);
    assert_eq!(bits(say(until).up), 0);
}
