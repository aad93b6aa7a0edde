//! What a policy means, day by day: people would rather look at it than read it.

use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use shaping::policy::grid::{CELL_MINUTES, CELLS_PER_DAY};
use shaping::policy::{Allowance, Bend, BlackoutKind, ClockTrust, Policy, Reason, Schedule, Situation, decide};

/// Days of a preview at most, as far as exceptions are checked.
pub const MAX_DAYS: u16 = 400;
/// Part of the IP-level bytes that is goodput, in per cent, as measured over shaped QUIC.
pub(super) const EFFICIENCY: u64 = 95;
const HELD: char = '#';
const PAUSED: char = '=';
const BOOSTED: char = '^';
const BLACKOUT: char = 'x';
const SILENT: char = 'X';
/// A time that the change to summer time skips.
const SKIPPED: char = '/';

/// A preview of some days. All times are the site's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Preview {
    /// The site's zone.
    pub zone: String,
    /// What the characters of the strips mean.
    pub legend: Vec<Legend>,
    /// One for each day.
    pub days: Vec<PreviewDay>,
    /// When what the line may be used for changes, and why.
    pub changes: Vec<PreviewChange>,
    /// Whether the policy has quotas, which a preview cannot know the use of.
    pub has_quotas: bool,
}

/// A character of the strips.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Legend {
    /// The character.
    pub sign: char,
    /// The profile, or what else holds.
    pub name: String,
    /// The rate towards the gateway; empty where it depends.
    pub rate: String,
}

/// One day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PreviewDay {
    /// Its date, as `2026-11-23`.
    pub date: String,
    /// Its name, as `Mon`.
    pub weekday: String,
    /// 96 characters, one for each quarter of an hour of civil time. Of one that is repeated the first is shown.
    pub strip: String,
    /// Minutes in which data may be sent.
    pub open_minutes: u32,
    /// Bytes of goodput that fit: rate × time × 0.95.
    pub bytes: u64,
}

/// What the line may be used for from a moment on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PreviewChange {
    /// From when on, as `Mon 2026-11-23 19:30`.
    pub at: String,
    /// What and why, as `explain` says it.
    pub text: String,
}

/// Why there is no preview.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreviewError {
    /// Too many days, or none.
    #[error("a preview of {0} days cannot be made: ask for between 1 and {MAX_DAYS}")]
    Days(u16),
    /// No date.
    #[error("`{0}` is no date: write it as in \"2026-11-23\"")]
    Date(String),
}

/// The date that a text names, in the zone of a policy; today when there is none.
pub fn first_day(text: Option<&str>, zone: &TimeZone, now: Timestamp) -> Result<Date, PreviewError> {
    let parsed = text.map(|text| text.trim().parse().map_err(|_| PreviewError::Date(crate::text::printable(text))));
    parsed.unwrap_or_else(|| Ok(zone.to_datetime(now).date()))
}

/// What a policy means from a date on.
pub fn preview(policy: &Policy, from: Date, days: u16) -> Result<Preview, PreviewError> {
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(PreviewError::Days(days));
    }
    let beyond = || PreviewError::Date(from.to_string());
    let midnight = |day: u16| {
        let date = from.checked_add(i32::from(day).days()).ok()?;
        policy.zone.to_timestamp(date.to_datetime(jiff::civil::Time::midnight())).ok()
    };
    let (first, end) = (midnight(0).ok_or_else(beyond)?, midnight(days).ok_or_else(beyond)?);
    // A day of a change of the clocks has an hour more.
    let schedule = policy.schedule(first, u32::from(days) + 1);
    let signs = signs(policy);
    let mut shown = Vec::new();
    for day in 0..days {
        let date = from.checked_add(i32::from(day).days()).map_err(|_| beyond())?;
        let (begins, ends) = (midnight(day).ok_or_else(beyond)?, midnight(day + 1).ok_or_else(beyond)?);
        let (open_minutes, bytes) = fits(policy, &schedule, begins, ends);
        shown.push(PreviewDay {
            date: date.to_string(),
            weekday: date.strftime("%a").to_string(),
            strip: (0..CELLS_PER_DAY).map(|cell| cell_sign(policy, &schedule, &signs, date, cell)).collect(),
            open_minutes,
            bytes,
        });
    }
    let legend = legend(policy, &signs, &shown);
    let changes = changes(policy, &schedule, first, end);
    let zone = policy.zone.iana_name().unwrap_or("UTC").to_owned();
    Ok(Preview { zone, legend, days: shown, changes, has_quotas: !policy.quotas.is_empty() })
}

/// What holds at a moment as far as time decides.
fn allowed(policy: &Policy, schedule: &Schedule, now: Timestamp) -> Allowance {
    let situation = Situation { now, clock: ClockTrust::Synced, quotas: &[], local: &[], grant: None, courtesy: None };
    decide(policy, schedule, &situation)
}

/// What holds from one moment to another, in spans in which it stays the same.
pub(super) fn spans<'a>(
    policy: &'a Policy,
    schedule: &'a Schedule,
    from: Timestamp,
    to: Timestamp,
) -> impl Iterator<Item = (Timestamp, Timestamp, Allowance)> + 'a {
    let mut at = from;
    std::iter::from_fn(move || {
        (at < to).then(|| {
            let begins = at;
            let allowance = allowed(policy, schedule, begins);
            // A second at least, so that this ends whatever is said.
            let least = begins.checked_add(SignedDuration::from_secs(1)).unwrap_or(to);
            at = allowance.until.unwrap_or(to).max(least).min(to);
            (begins, at, allowance)
        })
    })
}

fn fits(policy: &Policy, schedule: &Schedule, from: Timestamp, to: Timestamp) -> (u32, u64) {
    let (mut open, mut bits) = (0u64, 0u128);
    for (begins, ends, allowance) in spans(policy, schedule, from, to) {
        let seconds = u64::try_from(ends.duration_since(begins).as_secs()).unwrap_or(0);
        if allowance.up.is_open() {
            open += seconds;
            bits += u128::from(allowance.up.limit().unwrap_or(policy.line.up).bits()) * u128::from(seconds);
        }
    }
    let bytes = bits / 8 * u128::from(EFFICIENCY) / 100;
    ((open / 60) as u32, u64::try_from(bytes).unwrap_or(u64::MAX))
}

fn changes(policy: &Policy, schedule: &Schedule, from: Timestamp, to: Timestamp) -> Vec<PreviewChange> {
    let mut last = None;
    let mut changes = Vec::new();
    for (begins, _, allowance) in spans(policy, schedule, from, to) {
        let what = (allowance.up, allowance.down, allowance.control, allowance.reason);
        if last.replace(what) != Some(what) {
            let at = begins.to_zoned(policy.zone.clone()).strftime("%a %Y-%m-%d %H:%M").to_string();
            changes.push(PreviewChange { at, text: allowance.explain(policy, &[]) });
        }
    }
    changes
}

fn cell_sign(policy: &Policy, schedule: &Schedule, signs: &[char], date: Date, cell: usize) -> char {
    let minute = cell * CELL_MINUTES;
    let civil = date.at((minute / 60) as i8, (minute % 60) as i8, 0, 0);
    let found = policy.zone.to_ambiguous_timestamp(civil);
    if matches!(found.offset(), AmbiguousOffset::Gap { .. }) {
        return SKIPPED;
    }
    let Ok(at) = found.compatible() else { return SKIPPED };
    let slot = policy.slot_at(at);
    let boosted = || {
        policy.overrides.iter().any(|bend| {
            let pierces = matches!(bend.bend, Bend::Boost { pierce, .. } if pierce || slot.blackout.is_none());
            pierces && bend.volume.is_none() && bend.from <= at && at < bend.until
        })
    };
    match (allowed(policy, schedule, at).reason, slot.blackout) {
        (Reason::Hold, _) => HELD,
        (Reason::Pause(_), _) => PAUSED,
        (Reason::Boost(_), _) => BOOSTED,
        (Reason::Blackout(_), Some((BlackoutKind::Silent, _))) => SILENT,
        (Reason::Blackout(_), _) => BLACKOUT,
        _ if boosted() => BOOSTED, // and then capped
        _ => signs[usize::from(slot.profile.0)],
    }
}

/// A character for each profile: `.` for closed, else the first letter of its name that is free, else any that is.
fn signs(policy: &Policy) -> Vec<char> {
    let mut signs: Vec<char> = vec!['.'];
    for profile in &policy.profiles[1..] {
        let lower = profile.name.chars().map(|c| c.to_ascii_lowercase());
        let upper = profile.name.chars().map(|c| c.to_ascii_uppercase());
        let own = lower.chain(upper).filter(char::is_ascii_alphanumeric);
        let mut all = own.chain('a'..='z').chain('A'..='Z').chain('0'..='9');
        let free = all.find(|sign| !signs.contains(sign) && ![BLACKOUT, SILENT].contains(sign));
        signs.push(free.unwrap_or('?'));
    }
    signs
}

fn legend(policy: &Policy, signs: &[char], days: &[PreviewDay]) -> Vec<Legend> {
    let profiles = policy.profiles.iter().zip(signs).map(|(profile, sign)| Legend {
        sign: *sign,
        name: profile.name.clone(),
        rate: profile.up.of(policy.line.up).min(policy.line.cap.of(policy.line.up)).to_string(),
    });
    let others = [
        (BOOSTED, "boosted"),
        (PAUSED, "paused"),
        (BLACKOUT, "blackout"),
        (SILENT, "silent blackout"),
        (HELD, "held"),
        (SKIPPED, "does not occur (summer time)"),
    ];
    let others = others.into_iter().filter(|(sign, _)| days.iter().any(|day| day.strip.contains(*sign)));
    profiles.chain(others.map(|(sign, name)| Legend { sign, name: name.into(), rate: String::new() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    const DOCUMENT: &str = r#"
version = 1
zone = "Europe/Berlin"
[line]
up = "2 Mbit/s"
cap = "90 %"
[profiles]
night = "80 %"
noon = "256 kbit/s"
full = "100 %"
[grid]
mon-fri = "00:00 night 06:00 closed 12:00 noon 13:00 closed 20:00 night"
sat = "00:00 full"
[[blackouts]]
name = "year end"
when = "2026-11-25"
hours = "01:00-02:00"
[[overrides]]
id = 3
bend = "boost 1 Mbit/s"
from = "2026-11-24T07:10:00Z"
until = "2026-11-24T08:00:00Z"
actor = "li"
reason = "backlog"
"#;

    fn policy() -> Policy {
        Policy::parse(DOCUMENT).unwrap()
    }

    #[test]
    fn a_strip_shows_the_day_and_the_figures_fit_it() {
        let shown = preview(&policy(), date(2026, 11, 23), 3).unwrap();
        let monday =
            format!("{}{}{}{}{}", "n".repeat(24), ".".repeat(24), "o".repeat(4), ".".repeat(28), "n".repeat(16));
        assert_eq!((shown.days[0].strip.as_str(), shown.days[0].weekday.as_str()), (monday.as_str(), "Mon"));
        // 10 hours at 1.6 Mbit/s and one at 256 kbit/s.
        assert_eq!(shown.days[0].open_minutes, 660);
        assert_eq!(shown.days[0].bytes, (36_000 * 1_600_000 + 3_600 * 256_000) / 8 * 95 / 100);
        // From 08:10 to 09:00 the boost: cells that begin within it show it, and its minutes count exactly.
        assert_eq!(&shown.days[1].strip[32..37], ".^^^.");
        assert_eq!(shown.days[1].open_minutes, 660 + 50);
        assert_eq!(&shown.days[2].strip[..10], "nnnnxxxxnn");
        let legend: Vec<_> = shown.legend.iter().map(|l| (l.sign, l.name.as_str(), l.rate.as_str())).collect();
        assert_eq!(
            legend,
            [
                ('.', "closed", "0"),
                ('f', "full", "1.8 Mbit/s"),
                ('n', "night", "1.6 Mbit/s"),
                ('o', "noon", "256 kbit/s"),
                ('^', "boosted", ""),
                ('x', "blackout", "")
            ]
        );
        let changes: Vec<_> = shown.changes.iter().map(|change| (change.at.as_str(), change.text.as_str())).collect();
        assert_eq!(
            changes[..2],
            [
                ("Mon 2026-11-23 00:00", "1.6 Mbit/s until Mon 2026-11-23 06:00 by the schedule (night)"),
                ("Mon 2026-11-23 06:00", "closed until Mon 2026-11-23 12:00 by the schedule (closed)")
            ]
        );
        assert!(
            changes.contains(&("Tue 2026-11-24 08:10", "1 Mbit/s until Tue 2026-11-24 09:00 boosted by li (backlog)"))
        );
    }

    #[test]
    fn days_on_which_the_clocks_change_have_23_and_25_hours() {
        let mut policy = policy();
        policy.grid.paint(6, 0..96, policy.profile_named("full").unwrap());
        let spring = preview(&policy, date(2027, 3, 28), 1).unwrap();
        assert_eq!((&spring.days[0].strip[6..14], spring.days[0].open_minutes), ("ff////ff", 23 * 60));
        assert!(spring.legend.iter().any(|legend| legend.sign == '/'));
        let autumn = preview(&policy, date(2026, 10, 25), 1).unwrap();
        assert_eq!(autumn.days[0].open_minutes, 25 * 60);
    }

    #[test]
    fn bounds_and_dates_are_refused_with_what_to_write() {
        let days = preview(&policy(), date(2026, 11, 23), 401).unwrap_err().to_string();
        assert_eq!(days, "a preview of 401 days cannot be made: ask for between 1 and 400");
        let now = Timestamp::UNIX_EPOCH;
        let wrong = first_day(Some("soon"), &TimeZone::UTC, now).unwrap_err().to_string();
        assert_eq!(wrong, "`soon` is no date: write it as in \"2026-11-23\"");
        assert_eq!(first_day(None, &TimeZone::UTC, now), Ok(date(1970, 1, 1)));
        assert!(preview(&policy(), date(9999, 12, 31), 1).is_err());
        let mut held = policy();
        held.hold = Some(shaping::policy::Hold { actor: "li".into(), reason: "r".into() });
        assert_eq!(preview(&held, date(2026, 11, 23), 1).unwrap().days[0].strip, "#".repeat(96));
    }
}
