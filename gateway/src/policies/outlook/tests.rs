//! Figures of schedules, and what the clocks do to them.

use super::*;

const WEEK: &str =
    "[line]\nup = \"8 Mbit/s\"\n[profiles]\nnight = \"50 %\"\n[grid]\nall = \"00:00 night 06:00 closed 20:00 night\"\n";

fn policy(zone: &str, rest: &str) -> Policy {
    Policy::parse(&format!("version = 1\nzone = \"{zone}\"\n{WEEK}{rest}")).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn changes(zone: &str) -> Vec<(String, String, String, bool, u32)> {
    let changes = clock_changes(&policy(zone, ""), at("2026-11-23T12:00:00Z"));
    changes
        .into_iter()
        .map(|change| (change.date, change.from, change.to, change.skipped, change.open_minutes))
        .collect()
}

fn change(date: &str, from: &str, to: &str, skipped: bool, open: u32) -> (String, String, String, bool, u32) {
    (date.into(), from.into(), to.into(), skipped, open)
}

#[test]
fn changes_of_the_clocks_are_told_where_there_are_any() {
    assert_eq!(
        changes("Europe/Berlin"),
        [change("2027-03-28", "02:00", "03:00", true, 60), change("2027-10-31", "02:00", "03:00", false, 60)]
    );
    assert_eq!(
        changes("America/New_York"),
        [change("2027-03-14", "02:00", "03:00", true, 60), change("2027-11-07", "01:00", "02:00", false, 60)]
    );
    assert_eq!(changes("Asia/Shanghai"), []);
    // In the south summer ends in April; Lord Howe moves by half an hour.
    assert_eq!(
        changes("Australia/Sydney"),
        [change("2027-04-04", "02:00", "03:00", false, 60), change("2027-10-03", "02:00", "03:00", true, 60)]
    );
    assert_eq!(
        changes("Australia/Lord_Howe"),
        [change("2027-04-04", "01:30", "02:00", false, 30), change("2027-10-03", "02:00", "02:30", true, 30)]
    );
    // Santiago changes at midnight: the day begins at one, the one before has its last hour twice.
    assert_eq!(
        changes("America/Santiago"),
        [change("2027-04-03", "23:00", "24:00", false, 60), change("2027-09-05", "00:00", "01:00", true, 60)]
    );
}

#[test]
fn what_a_change_costs_is_what_the_schedule_has_there() {
    let first = |rest: &str| clock_changes(&policy("Europe/Berlin", rest), at("2026-11-23T12:00:00Z")).remove(0);
    // An hour at 4 Mbit/s.
    assert_eq!((first("").minutes, first("").bytes), (60, 4_000_000 / 8 * 3600 * 95 / 100));
    let blackout = "[[blackouts]]\nname = \"b\"\nwhen = \"2027-03-28\"\nhours = \"02:30-08:00\"\n";
    assert_eq!((first(blackout).minutes, first(blackout).open_minutes), (60, 30));
    let half = "[[exceptions]]\nname = \"e\"\nwhen = \"sun\"\nprofile = \"closed\"\n";
    assert_eq!((first(half).open_minutes, first(half).bytes), (0, 0));
}

#[test]
fn figures_of_a_week_and_a_night() {
    // Monday noon: ten hours each night, 0.95 of 4 Mbit/s.
    let summary = summary(&policy("UTC", ""), at("2026-11-23T12:00:00Z"), None);
    assert_eq!(summary.open_minutes, 7 * 600);
    assert_eq!(summary.night_bytes, 4_000_000 / 8 * 36_000 / 100 * 95);
    assert_eq!(
        (summary.tonight, summary.tonight_bytes),
        (at("2026-11-24T12:00:00Z").as_second() as u64, summary.night_bytes)
    );
    assert_eq!((summary.backlog, summary.arrives, summary.fits), (None, None, None), "nobody knows what waits");
}

#[test]
fn before_six_tonight_is_the_night_that_ends() {
    let tonight = |now: &str| summary(&policy("UTC", ""), at(now), None).tonight;
    assert_eq!(tonight("2026-11-24T05:59:00Z"), at("2026-11-24T12:00:00Z").as_second() as u64);
    assert_eq!(tonight("2026-11-24T06:00:00Z"), at("2026-11-25T12:00:00Z").as_second() as u64);
}

#[test]
fn a_backlog_fits_or_does_not() {
    let fit = |megabytes: u64, rest: &str, used: &[u64]| {
        let works = vec![Work { name: "db".into(), bytes: megabytes * 1_000_000 }];
        let waiting = Waiting { works, used: used.to_vec() };
        let found = summary(&policy("UTC", rest), at("2026-11-23T12:00:00Z"), Some(&waiting));
        assert_eq!(found.backlog, Some(megabytes * 1_000_000));
        (found.fits, found.arrives.map(|at| at / 3600 * 3600))
    };
    let second = |text: &str| Some(at(text).as_second() as u64);
    assert_eq!(fit(0, "", &[]), (Some(true), second("2026-11-23T12:00:00Z")));
    // 0.5 MB a second, of which 0.956 arrive: 16 GB take 9.3 hours, 18 GB 10.5, which is half an hour into the next night.
    assert_eq!(fit(16_000, "", &[]), (Some(true), second("2026-11-24T05:00:00Z")));
    assert_eq!(fit(18_000, "", &[]), (Some(false), second("2026-11-24T20:00:00Z")));
    // A quota that is used up waits for its period, which begins at midnight.
    let quota = "[[quotas]]\nperiod = \"day\"\nlimit = \"10 GB\"\n";
    assert_eq!(fit(5_000, quota, &[10_000_000_000]), (Some(true), second("2026-11-24T02:00:00Z")));
    let closed = "[[blackouts]]\nname = \"b\"\nwhen = \"2026-11-01..2027-12-31\"\n";
    assert_eq!(fit(1, closed, &[]), (Some(false), None));
}

#[test]
fn the_calendar_names_special_days_alone() {
    let rest = "[holidays]\noff = [\"2026-12-25..2026-12-26 Christmas\"]\nworking = [\"2026-12-12\"]\n\
        [[exceptions]]\nname = \"e\"\nwhen = \"2026-12-26\"\nprofile = \"closed\"\n[[blackouts]]\nname = \"b\"\nwhen = \"day 1\"\n";
    let days = calendar(&policy("UTC", rest), at("2026-11-23T12:00:00Z"));
    assert_eq!(days.len(), 12 + 3, "the first of twelve months from November on, and three more");
    let of = |date: &str| days.iter().find(|day| day.date == date).unwrap();
    assert_eq!(
        (of("2026-12-26").off.as_deref(), of("2026-12-26").exceptions.as_slice()),
        (Some("Christmas"), [0].as_slice())
    );
    assert!(of("2026-12-12").working && of("2026-11-01").blackouts == [0] && days[0].date == "2026-11-01");
}
