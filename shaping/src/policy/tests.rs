//! What a policy says, what it refuses, and what holds when several things do.

use super::*;
use jiff::SignedDuration;
use jiff::civil::date;

const WHOLE: &str = r#"
version = 12
zone = "Asia/Shanghai"

[line]
up = "2 Mbit/s"
down = "4 Mbit/s"
cap = "90 %"
courtesy = "25 ms"

[profiles]
day = "256 kbit/s"
night = { up = "80 %", down = "50 %" }

[grid]
mon-fri = "00:00 night 07:30 closed 19:30 night"
sat-sun = "00:00 day"

[holidays]
off = ["2026-10-01..2026-10-07 National Day"]
working = ["2026-10-10"]

[[exceptions]]
name = "stock taking"
when = "2026-12-19..2026-12-20"
hours = "08:00-20:00"
profile = "closed"

[[blackouts]]
name = "year end"
when = "last business day of month -1..+2"
kind = "data"

[[overrides]]
id = 3
bend = "boost 1.8 Mbit/s"
pierce = true
from = "2026-11-24T00:00:00Z"
until = "2026-11-24T01:00:00Z"
actor = "li"
reason = "the \"big\" move"

[[quotas]]
period = "month from day 15"
limit = "40 GB"
warn = 75
soft = "90 % day"
even = true

[[quotas]]
period = "day"
limit = "5 GB"

[[volumes]]
name = "core-db"
class = "critical"
weight = 300
floor = "200 kbit/s"
lag = "24 hours"

[clock]
holdover = "3 days"
untrusted = "day"

[local]
boost = "50 %"
"#;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn situation(now: Timestamp) -> Situation<'static> {
    Situation { now, clock: ClockTrust::Synced, quotas: &[], local: &[], grant: None, courtesy: None }
}

fn say(policy: &Policy, situation: &Situation<'_>) -> Allowance {
    decide(policy, &policy.schedule(situation.now, 30), situation)
}

#[test]
fn a_document_survives_being_written_and_read() {
    let policy = Policy::parse(WHOLE).unwrap();
    let text = policy.text();
    let again = Policy::parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    assert_eq!(again.text(), text);
    assert_eq!(again.grid, policy.grid);
    assert_eq!(again.exceptions, policy.exceptions);
    assert_eq!(again.blackouts, policy.blackouts);
    assert_eq!(again.overrides, policy.overrides);
    assert_eq!(again.quotas, policy.quotas);
    assert_eq!(again.volumes, policy.volumes);
    assert_eq!(again.holidays, policy.holidays);
    assert_eq!(
        (again.line, again.local_boost, again.clock_holdover),
        (policy.line, policy.local_boost, policy.clock_holdover)
    );
}

#[test]
fn what_is_wrong_is_named_with_line_field_and_remedy() {
    let cases = [
        ("zone = \"Asia/Shanghai\"", "zone = \"Asia/Peking\"", 3, "zone", "Asia/Shanghai"),
        ("up = \"2 Mbit/s\"", "up = \"2 Mb\"", 6, "up", "Mbit/s"),
        ("up = \"2 Mbit/s\"", "up = \"0\"", 6, "up", "2 Mbit/s"),
        ("up = \"2 Mbit/s\"", "up = \"-2 Mbit/s\"", 6, "up", "begin with a number"),
        ("up = \"2 Mbit/s\"", "up = \"9000 Tbit/s\"", 6, "up", "Gbit/s"),
        ("cap = \"90 %\"", "cap = \"900 %\"", 8, "cap", "100 %"),
        ("courtesy = \"25 ms\"", "courtesy = \"0 ms\"", 9, "courtesy", "25 ms"),
        ("day = \"256 kbit/s\"", "closed = \"256 kbit/s\"", 12, "profiles", "another name"),
        ("07:30 closed", "07:31 closed", 16, "mon-fri", "quarter"),
        ("07:30 closed", "07:30 shut", 16, "mon-fri", "[profiles]"),
        ("07:30 closed 19:30 night", "19:30 closed 07:30 night", 16, "mon-fri", "must grow"),
        ("sat-sun", "fri-sun", 16, "grid", "twice"),
        ("working = [\"2026-10-10\"]", "working = [\"2026-10-03\"]", 21, "working", "one of the two"),
        ("2026-12-19..2026-12-20", "2026-12-20..2026-12-19", 25, "when", "before it begins"),
        ("2026-12-19..2026-12-20", "every so often", 25, "when", "second tuesday"),
        ("hours = \"08:00-20:00\"", "hours = \"8 to 8\"", 26, "hours", "08:00-18:30"),
        ("profile = \"closed\"", "profile = \"none\"", 27, "profile", "\"closed\", \"day\", \"night\""),
        ("boost 1.8 Mbit/s", "boost 0", 36, "bend", "pause"),
        ("until = \"2026-11-24T01:00:00Z\"", "until = \"2027-11-24T01:00:00Z\"", 39, "until", "31 days"),
        ("limit = \"40 GB\"", "limit = \"40\"", 45, "limit", "40 GB"),
        ("warn = 75", "warn = 101", 46, "warn", "between 1 and 100"),
        ("90 % day", "90 % dusk", 47, "soft", "no profile"),
        ("month from day 15", "fortnight", 44, "period", "prepaid"),
        ("weight = 300", "weight = 0", 57, "weight", "between 1"),
        ("holdover = \"3 days\"", "holdover = \"soon\"", 62, "holdover", "7 days"),
    ];
    for (right, wrong, line, field, remedy) in cases {
        assert!(WHOLE.contains(right), "{right}");
        let error = Policy::parse(&WHOLE.replacen(right, wrong, 1)).unwrap_err();
        match &error {
            PolicyError::Field { line: at, field: name, why } => {
                assert_eq!((*at, name.as_str()), (line, field), "{error}");
                assert!(why.contains(remedy), "{error}");
            }
            other => panic!("{wrong}: {other}"),
        }
    }
    let unknown = Policy::parse(&WHOLE.replace("cap =", "kap =")).unwrap_err().to_string();
    assert!(unknown.contains("line 8") && unknown.contains("kap"), "{unknown}");
    assert_eq!(Policy::parse(&" ".repeat(70_000)).unwrap_err(), PolicyError::Large(70_000));
}

#[test]
fn exceptions_that_contradict_each_other_are_named_with_the_date() {
    let rule = |name: &str, when: &str, hours: &str, profile: &str| {
        format!("[[exceptions]]\nname = \"{name}\"\nwhen = \"{when}\"\nhours = \"{hours}\"\nprofile = \"{profile}\"\n")
    };
    let check =
        |other: String| Policy::parse(&format!("{WHOLE}\n{other}")).unwrap().check_overlaps(date(2026, 11, 22), 400);
    assert_eq!(check(rule("b", "2026-12-20", "20:00-21:00", "night")), Ok(()));
    assert_eq!(check(rule("b", "2026-12-20", "19:00-21:00", "closed")), Ok(()));
    let overlap = |date| Err(PolicyError::Overlap { one: "stock taking".into(), other: "b".into(), date });
    assert_eq!(check(rule("b", "sun", "19:45-21:00", "night")), overlap(date(2026, 12, 20)));
    // Over midnight into the first date.
    assert_eq!(check(rule("b", "2026-12-18", "22:00-08:15", "night")), overlap(date(2026, 12, 19)));
}

#[test]
fn the_smallest_term_wins_and_is_the_reason() {
    let policy = Policy::parse(WHOLE).unwrap();
    let night = at("2026-11-23T12:00:00Z"); // Monday, 20:00 in Shanghai
    let mut now = situation(night);
    let allowed = say(&policy, &now);
    assert_eq!((allowed.up.to_string(), allowed.down.to_string()), ("1.6 Mbit/s".into(), "2 Mbit/s".into()));
    assert_eq!(allowed.explain(&policy, &[]), "1.6 Mbit/s until Tue 2026-11-24 07:30 by the schedule (night)");
    now.grant = Some(Grant { up: "1 Mbit/s".parse().unwrap(), until: night + SignedDuration::from_secs(15) });
    assert_eq!(
        (say(&policy, &now).reason, say(&policy, &now).until),
        (Reason::Grant, now.grant.map(|grant| grant.until))
    );
    now.courtesy = Some(BitsPerSec::kbit(300));
    assert_eq!((say(&policy, &now).up.to_string(), say(&policy, &now).reason), ("300 kbit/s".into(), Reason::Courtesy));
    let ends = at("2026-12-14T16:00:00Z");
    let month = |used| QuotaUse { used, ends: Some(ends), open_seconds: 1_000_000 };
    let day = QuotaUse { used: 0, ends: Some(at("2026-11-23T16:00:00Z")), open_seconds: 40_000 };
    now.courtesy = None;
    now.grant = None;
    let with = |month: QuotaUse| say(&policy, &Situation { quotas: &[month, day], ..now });
    // 39.99 GB in a million open seconds are 319,920 bit/s.
    assert_eq!((with(month(0)).up, with(month(0)).reason), (BitsPerSec::new(319_920).into(), Reason::Pace(0)));
    let soft = with(QuotaUse { open_seconds: 1000, ..month(36_000_000_000) });
    assert_eq!(
        (soft.up.to_string(), soft.reason, soft.until),
        ("256 kbit/s".into(), Reason::Quota(0), Some(at("2026-11-23T23:30:00Z")))
    );
    let hard = with(month(39_990_000_000));
    assert_eq!((hard.up, hard.control, hard.reason), (Rate::Closed, Control::Normal, Reason::Quota(0)));
    assert_eq!(with(month(40_000_000_000)).control, Control::Silent);
}

#[test]
fn hold_clock_pause_blackout_and_boost_in_this_order() {
    let mut policy = Policy::parse(WHOLE).unwrap();
    let boosted = at("2026-11-24T00:30:00Z"); // Tuesday 08:30, closed by the week; the boost of 1.8 Mbit/s meets the cap
    assert_eq!(
        (say(&policy, &situation(boosted)).up.to_string(), say(&policy, &situation(boosted)).reason),
        ("1.8 Mbit/s".into(), Reason::Boost(3))
    );
    // A blackout yields to it, because it may pierce; without that right it does not.
    policy.blackouts[0].when = "2026-11-24".parse().unwrap();
    assert_eq!(say(&policy, &situation(boosted)).reason, Reason::Boost(3));
    policy.overrides[0].bend = Bend::Boost { rate: "1.8 Mbit/s".parse().unwrap(), pierce: false };
    let black = say(&policy, &situation(boosted));
    assert_eq!((black.up, black.control, black.reason), (Rate::Closed, Control::Normal, Reason::Blackout(0)));
    assert_eq!(black.until, Some(at("2026-11-24T16:00:00Z")));
    // A pause at the site beats everything but a hold.
    let pause = Override {
        id: 9,
        bend: Bend::Pause,
        from: boosted,
        until: boosted + SignedDuration::from_hours(2),
        volume: None,
        actor: "branch".into(),
        reason: "video call".into(),
    };
    policy.overrides[0].bend = Bend::Boost { rate: "1.8 Mbit/s".parse().unwrap(), pierce: true };
    let local = [pause];
    let paused = say(&policy, &Situation { local: &local, ..situation(boosted) });
    assert_eq!((paused.up, paused.reason, paused.until), (Rate::Closed, Reason::Pause(9), Some(local[0].until)));
    assert!(paused.explain(&policy, &local).ends_with("paused by branch (video call)"));
    // Without a clock the profile for that, and a pause still.
    let lost = Situation { clock: ClockTrust::Untrusted, ..situation(boosted) };
    assert_eq!((say(&policy, &lost).up.to_string(), say(&policy, &lost).reason), ("256 kbit/s".into(), Reason::Clock));
    assert_eq!(say(&policy, &Situation { local: &local, ..lost }).reason, Reason::Pause(9));
    policy.hold = Some(Hold { actor: "risk".into(), reason: "audit".into() });
    assert_eq!((say(&policy, &lost).up, say(&policy, &lost).reason), (Rate::Closed, Reason::Hold));
}

#[test]
fn holidays_and_make_up_days_take_the_rows_that_were_said() {
    let text = WHOLE.replace("[holidays]", "[holidays]\nas = \"sun\"\nworking_as = \"mon\"");
    let policy = Policy::parse(&text.replace("last business day of month -1..+2", "12-31")).unwrap();
    let rate = |text: &str| say(&policy, &situation(at(text))).up.to_string();
    assert_eq!(rate("2026-10-05T04:00:00Z"), "256 kbit/s"); // Monday noon, a holiday
    assert_eq!(rate("2026-10-12T04:00:00Z"), "0"); // Monday noon
    assert_eq!(rate("2026-10-10T04:00:00Z"), "0"); // Saturday noon, worked
    assert_eq!(rate("2026-10-17T04:00:00Z"), "256 kbit/s"); // Saturday noon
}

#[test]
fn quota_periods_follow_the_civil_calendar() {
    let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
    let span = |period: Period, now: &str| {
        let (from, to) = period.around(at(now), &zone).unwrap();
        (from.to_string(), to.to_string())
    };
    let of = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert_eq!(span(Period::Day, "2026-10-25T12:00:00Z"), of("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"));
    assert_eq!(span(Period::Week, "2026-11-22T12:00:00Z"), of("2026-11-15T23:00:00Z", "2026-11-22T23:00:00Z"));
    assert_eq!(span(Period::Month(31), "2027-02-15T12:00:00Z"), of("2027-01-30T23:00:00Z", "2027-02-27T23:00:00Z"));
    assert_eq!(span(Period::Month(31), "2027-02-28T12:00:00Z"), of("2027-02-27T23:00:00Z", "2027-03-30T22:00:00Z"));
    assert_eq!(Period::Prepaid.around(at("2026-11-22T12:00:00Z"), &zone), None);
}
