//! What a schedule comes to, in figures: hours and bytes, whether what waits fits into tonight, what changes of the clocks do, which days are special. Pure.

use super::preview::{EFFICIENCY, spans};
use jiff::civil::{Date, Time};
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::Serialize;
use shaping::Rate;
use shaping::forecast::{Outlook, Work};
use shaping::policy::grid::{CELL_MINUTES, time_text};
use shaping::policy::{Policy, QuotaUse};
use utoipa::ToSchema;

/// Nights of which the median is taken.
const NIGHTS: u32 = 14;
/// How far ahead it is looked for when everything will have arrived.
const ARRIVES_WITHIN: u32 = 60;
/// How far ahead changes of the clocks are told: the next two of every zone that has them.
const CLOCKS_AHEAD: SignedDuration = SignedDuration::from_hours(400 * 24);
/// Changes of the clocks at most: a zone that changes more often than twice a year tells the next ones.
const MOST_CHANGES: usize = 4;
/// Months of the calendar.
const MONTHS: i32 = 12;
/// Whoever looks before this hour means by "tonight" the night that is ending.
const NIGHT_ENDS: i8 = 6;

/// What a schedule comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Summary {
    /// Minutes of the next seven days in which data may be sent.
    pub open_minutes: u32,
    /// Bytes that fit into a night (noon to noon), as half of the next 14 nights take at least.
    pub night_bytes: u64,
    /// When tonight ends, seconds since 1970: at noon.
    pub tonight: u64,
    /// Bytes that fit until then.
    pub tonight_bytes: u64,
    /// Coded bytes that wait at the site; absent: its edge has not told, or no site was named.
    pub backlog: Option<u64>,
    /// When they will have crossed with this schedule, seconds since 1970; absent: not within 60 days, or nobody knows what waits.
    pub arrives: Option<u64>,
    /// Whether that is before tonight ends; absent: nobody knows what waits.
    pub fits: Option<bool>,
}

/// The clocks change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ClockChange {
    /// On which date.
    pub date: String,
    /// The first minute of the day that is skipped or repeated, as `02:00`.
    pub from: String,
    /// The first minute after them.
    pub to: String,
    /// Whether they are skipped; else they are repeated.
    pub skipped: bool,
    /// How many minutes.
    pub minutes: u32,
    /// In how many of them data may be sent: a window is so much shorter or longer.
    pub open_minutes: u32,
    /// Bytes that fit into those.
    pub bytes: u64,
}

/// A day on which something else than the ordinary week holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SpecialDay {
    /// Its date.
    pub date: String,
    /// The name of the holiday, if it is a day off; may be empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off: Option<String>,
    /// Whether it is a make-up working day.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub working: bool,
    /// Numbers of exceptions that begin on it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<usize>,
    /// Numbers of blackouts that begin on it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blackouts: Vec<usize>,
}

/// What waits at a site, and how far its quotas are used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// Each volume's bytes.
    pub works: Vec<Work>,
    /// Bytes used of each of the policy's quotas; what is missing is 0.
    pub used: Vec<u64>,
}

/// What a policy comes to from now on.
pub fn summary(policy: &Policy, now: Timestamp, waiting: Option<&Waiting>) -> Summary {
    let schedule = policy.schedule(now, ARRIVES_WITHIN);
    let week = now.checked_add(SignedDuration::from_hours(7 * 24)).unwrap_or(Timestamp::MAX);
    let noon = |days: u32| noon_after(policy, now, days);
    let fits_between = |from: Timestamp, to: Timestamp| {
        let all = spans(policy, &schedule, from, to);
        let open = all.filter(|(.., allowance)| allowance.up.is_open());
        open.fold((0u64, 0u64), |(seconds, bytes), (begins, ends, allowance)| {
            let lasts = ends.duration_since(begins).as_secs().unsigned_abs();
            (seconds + lasts, bytes + goodput(policy, allowance.up, lasts))
        })
    };
    let mut nights: Vec<u64> = (0..NIGHTS).map(|night| fits_between(noon(night), noon(night + 1)).1).collect();
    nights.sort_unstable();
    let tonight = noon(0);
    let arrives = waiting.and_then(|waiting| {
        let quotas = quota_uses(policy, &schedule, now, &waiting.used);
        let outlook = Outlook {
            policy,
            schedule: &schedule,
            now,
            quotas: &quotas,
            local: &[],
            efficiency: shaping::forecast::EFFICIENCY,
        };
        outlook.arrivals(&waiting.works).into_iter().try_fold(now, |last, at| at.map(|at| last.max(at)))
    });
    let second = |at: Timestamp| u64::try_from(at.as_second()).unwrap_or(0);
    Summary {
        open_minutes: (fits_between(now, week).0 / 60) as u32,
        night_bytes: nights[nights.len() / 2],
        tonight: second(tonight),
        tonight_bytes: fits_between(now, tonight).1,
        backlog: waiting.map(|waiting| waiting.works.iter().map(|work| work.bytes).sum()),
        arrives: arrives.map(second),
        fits: waiting.map(|_| arrives.is_some_and(|at| at <= tonight)),
    }
}

fn goodput(policy: &Policy, rate: Rate, seconds: u64) -> u64 {
    let bits = u128::from(rate.limit().unwrap_or(policy.line.up).bits()) * u128::from(seconds);
    u64::try_from(bits / 8 * u128::from(EFFICIENCY) / 100).unwrap_or(u64::MAX)
}

/// The end of tonight, and so many days later.
fn noon_after(policy: &Policy, now: Timestamp, days: u32) -> Timestamp {
    let civil = policy.zone.to_datetime(now);
    let first = i64::from(civil.hour() >= NIGHT_ENDS);
    let date = civil.date().checked_add((first + i64::from(days)).days()).unwrap_or(Date::MAX);
    policy.zone.to_timestamp(date.to_datetime(Time::constant(12, 0, 0, 0))).unwrap_or(Timestamp::MAX)
}

fn quota_uses(policy: &Policy, schedule: &shaping::policy::Schedule, now: Timestamp, used: &[u64]) -> Vec<QuotaUse> {
    let rules = policy.quotas.iter().enumerate();
    let of = rules.map(|(number, rule)| {
        let ends = rule.period.around(now, &policy.zone).map(|(_, ends)| ends);
        QuotaUse {
            used: used.get(number).copied().unwrap_or(0),
            ends,
            open_seconds: ends.map_or(0, |ends| schedule.open_seconds(policy, now, ends)),
        }
    });
    of.collect()
}

/// The changes of the clocks of the next 400 days, and what each does to the schedule.
pub fn clock_changes(policy: &Policy, now: Timestamp) -> Vec<ClockChange> {
    let until = now.checked_add(CLOCKS_AHEAD).unwrap_or(Timestamp::MAX);
    let changes = policy.zone.following(now).map(|change| change.timestamp()).take_while(|at| *at < until);
    changes.filter_map(|at| clock_change(policy, at)).take(MOST_CHANGES).collect()
}

fn clock_change(policy: &Policy, at: Timestamp) -> Option<ClockChange> {
    let before = at.checked_sub(SignedDuration::from_secs(1)).ok()?;
    let (was, will) = (policy.zone.to_offset(before), policy.zone.to_offset(at));
    let moved = i64::from(will.seconds()) - i64::from(was.seconds());
    if moved == 0 {
        return None; // another name for the same time
    }
    // What is skipped begins where the old clock stood, what is repeated where the new one does.
    let begins = if moved > 0 { was.to_datetime(at) } else { will.to_datetime(at) };
    let minutes = u32::try_from(moved.unsigned_abs() / 60).ok()?;
    let (mut open_minutes, mut bytes) = (0, 0);
    for step in 0..minutes / CELL_MINUTES as u32 {
        let civil = begins.checked_add((i64::from(step) * CELL_MINUTES as i64).minutes()).ok()?;
        let slot = policy.slot_of(civil.date(), minute_of(civil.time()));
        let line = policy.line;
        let rate = policy.profile(slot.profile).up.of(line.up).min(line.cap.of(line.up));
        if rate.is_open() {
            open_minutes += CELL_MINUTES as u32;
            bytes += goodput(policy, rate, CELL_MINUTES as u64 * 60);
        }
    }
    let ends = begins.checked_add(i64::from(minutes).minutes()).ok()?;
    let ends = match minute_of(ends.time()) {
        0 => 24 * 60,
        minute => minute,
    };
    Some(ClockChange {
        date: begins.date().to_string(),
        from: time_text(minute_of(begins.time())),
        to: time_text(ends),
        skipped: moved > 0,
        minutes,
        open_minutes,
        bytes,
    })
}

fn minute_of(time: Time) -> usize {
    usize::from(time.hour().unsigned_abs()) * 60 + usize::from(time.minute().unsigned_abs())
}

/// The special days of twelve months, from the first day of this one on.
pub fn calendar(policy: &Policy, now: Timestamp) -> Vec<SpecialDay> {
    let first = policy.zone.to_datetime(now).date().first_of_month();
    let end = first.checked_add(MONTHS.months()).unwrap_or(Date::MAX);
    let dates = std::iter::successors(Some(first), |date| date.tomorrow().ok()).take_while(|date| *date < end);
    let days = dates.map(|date| {
        let exceptions = policy.exceptions.iter().map(|rule| &rule.when).enumerate();
        let blackouts = policy.blackouts.iter().map(|rule| &rule.when).enumerate();
        let covers =
            |(number, when): (usize, &shaping::policy::When)| when.covers(date, &policy.holidays).then_some(number);
        SpecialDay {
            date: date.to_string(),
            off: policy.holidays.off.get(&date).cloned(),
            working: policy.holidays.working.contains(&date),
            exceptions: exceptions.filter_map(covers).collect(),
            blackouts: blackouts.filter_map(covers).collect(),
        }
    });
    let special =
        |day: &SpecialDay| day.off.is_some() || day.working || !day.exceptions.is_empty() || !day.blackouts.is_empty();
    days.filter(special).collect()
}

#[cfg(test)]
mod tests;
