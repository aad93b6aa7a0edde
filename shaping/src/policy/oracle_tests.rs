//! `decide` against a slow oracle that shares no code with it but the zone's rules: every quarter of an hour of ten years in five zones.

use super::{Bend, ClockTrust, Control, Override, Policy, Schedule, Situation, decide};
use crate::units::Rate;
use jiff::civil::{Date, Weekday, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

const ZONES: [&str; 5] = ["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Almaty"];

const DOCUMENT: &str = r#"
version = 1
zone = "ZONE"
[line]
up = "2 Mbit/s"
cap = "90 %"
[profiles]
trickle = "256 kbit/s"
night = "80 %"
full = "100 %"
[grid]
mon-thu = "00:00 night 06:00 trickle 07:30 closed 19:30 night"
fri = "00:00 night 06:00 closed"
sat-sun = "02:15 full 23:45 closed"
[holidays]
as = "sun"
working_as = "tue"
off = ["2024-10-01..2024-10-07 National Day", "2027-01-01"]
working = ["2024-09-29", "2024-10-12"]
[[exceptions]]
name = "month end"
when = "last business day of month -1..+2"
hours = "06:00-22:00"
profile = "closed"
[[exceptions]]
name = "patch night"
when = "second tuesday"
hours = "22:30-04:00"
profile = "trickle"
[[blackouts]]
name = "year end"
when = "12-30..01-02"
[[blackouts]]
name = "clearing"
when = "day 15..16"
hours = "23:00-01:15"
kind = "silent"
"#;

/// The sample policy's rules as plain sets of dates.
struct Oracle {
    zone: TimeZone,
    month_ends: BTreeSet<Date>,
    off: BTreeSet<Date>,
    working: BTreeSet<Date>,
}

impl Oracle {
    fn new(zone: &str) -> Oracle {
        let day = |from: Date, to: Date| from.series(jiff::Span::new().days(1)).take_while(move |date| *date <= to);
        let off: BTreeSet<Date> = day(date(2024, 10, 1), date(2024, 10, 7)).chain([date(2027, 1, 1)]).collect();
        let working = BTreeSet::from([date(2024, 9, 29), date(2024, 10, 12)]);
        let business: Vec<Date> = day(date(2019, 1, 1), date(2032, 1, 1))
            .filter(|date| {
                let weekend = matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday);
                working.contains(date) || !(weekend || off.contains(date))
            })
            .collect();
        let mut month_ends = BTreeSet::new();
        for at in 1..business.len() - 3 {
            if business[at].month() != business[at + 1].month() {
                month_ends.extend(day(business[at - 1], business[at + 2]));
            }
        }
        Oracle { zone: TimeZone::get(zone).unwrap(), month_ends, off, working }
    }

    /// Bits per second and whether control is silent.
    fn answer(&self, at: Timestamp) -> (u64, bool) {
        let civil = at.to_zoned(self.zone.clone());
        let (today, hour) = (civil.date(), f64::from(civil.hour()) + f64::from(civil.minute()) / 60.0);
        let yesterday = today.yesterday().unwrap();
        if (matches!(today.day(), 15 | 16) && hour >= 23.0) || (matches!(yesterday.day(), 15 | 16) && hour < 1.25) {
            return (0, true);
        }
        if (today.month() == 12 && today.day() >= 30) || (today.month() == 1 && today.day() <= 2) {
            return (0, false);
        }
        if self.month_ends.contains(&today) && (6.0..22.0).contains(&hour) {
            return (0, false);
        }
        let patch = |date: Date| date.weekday() == Weekday::Tuesday && (8..=14).contains(&date.day());
        if (patch(today) && hour >= 22.5) || (patch(yesterday) && hour < 4.0) {
            return (256_000, false);
        }
        let weekday = match () {
            () if self.working.contains(&today) => Weekday::Tuesday,
            () if self.off.contains(&today) => Weekday::Sunday,
            () => today.weekday(),
        };
        let bits = match weekday {
            Weekday::Saturday | Weekday::Sunday if (2.25..23.75).contains(&hour) => 1_800_000, // the cap
            Weekday::Saturday | Weekday::Sunday => 0,
            _ if hour < 6.0 => 1_600_000,
            Weekday::Friday => 0,
            _ if hour < 7.5 => 256_000,
            _ if hour < 19.5 => 0,
            _ => 1_600_000,
        };
        (bits, false)
    }
}

fn bits(rate: Rate) -> u64 {
    rate.limit().map_or(0, |limit| limit.bits())
}

fn plain(now: Timestamp) -> Situation<'static> {
    Situation { now, clock: ClockTrust::Synced, quotas: &[], local: &[], grant: None, courtesy: None }
}

fn ten_years() -> (Timestamp, u32) {
    ("2021-01-01T00:00:00Z".parse().unwrap(), 3652)
}

fn agrees(zone: &str) {
    let policy = Policy::parse(&DOCUMENT.replace("ZONE", zone)).unwrap();
    let oracle = Oracle::new(zone);
    let (from, days) = ten_years();
    let schedule = policy.schedule(from, days);
    let mut changes: Option<Timestamp> = None;
    let mut before = None;
    for quarter in 0..i64::from(days) * 96 {
        let now = from + SignedDuration::from_mins(quarter * 15);
        let allowed = decide(&policy, &schedule, &plain(now));
        let said = (bits(allowed.up), allowed.control == Control::Silent);
        assert_eq!(said, oracle.answer(now), "{zone} at {now}");
        // What it said of its next change came true: no change before, and one then.
        let slot = schedule.at(now).unwrap().0;
        if let (Some(until), Some(last)) = (changes, before) {
            assert_eq!(now >= until, slot != last, "{zone} at {now}");
        }
        (changes, before) = (allowed.until, Some(slot));
    }
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
    let policy = Policy::parse(&DOCUMENT.replace("ZONE", ZONES[1])).unwrap();
    let (from, _) = ten_years();
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
    let text = DOCUMENT.replace("ZONE", "Europe/Berlin").replace("02:15 full 23:45 closed", "02:00 full 03:00 closed");
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
    let mut policy = Policy::parse(&DOCUMENT.replace("ZONE", "Asia/Shanghai")).unwrap();
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
