//! Grid, exceptions and blackouts of a policy laid out in time, so that what holds at an instant is one search away.

use super::{BlackoutKind, Policy, ProfileNumber};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

/// Seconds of one cell. Every zone has been off UTC by a multiple of a quarter of an hour since 1972 but for one in Africa before then, so
/// cells of civil time begin with cells of UTC.
const CELL_SECONDS: i64 = 15 * 60;

/// What the schedule says of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The strictest blackout, with its number in the policy.
    pub blackout: Option<(BlackoutKind, usize)>,
    /// The exception that holds; none in a blackout.
    pub exception: Option<usize>,
    /// The profile that holds; closed in a blackout.
    pub profile: ProfileNumber,
}

/// A span in which the schedule says one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its first second, of Unix time.
    pub from: i64,
    /// What holds.
    pub slot: Slot,
}

/// The schedule of a site over a span of time. Made from a policy; holds nothing that is not in it.
#[derive(Clone, Debug)]
pub struct Schedule {
    segments: Vec<Segment>,
    end: i64,
}

impl Policy {
    /// What the schedule says of an instant: exceptions before the grid, the first one listed first; the strictest blackout.
    pub fn slot_at(&self, at: Timestamp) -> Slot {
        let civil = self.zone.to_datetime(at);
        self.slot_on(
            &self.day(civil.date()),
            usize::from(civil.hour().unsigned_abs()) * 60 + usize::from(civil.minute().unsigned_abs()),
        )
    }

    /// What the schedule says of a minute of a date's civil time, whether the clocks show that minute or skip it.
    ///
    /// # Panics
    /// When `minute` is not below 1440.
    pub fn slot_of(&self, date: Date, minute: usize) -> Slot {
        self.slot_on(&self.day(date), minute)
    }

    /// Lays the schedule out from the cell that holds `from` over so many days, cell by cell.
    pub fn schedule(&self, from: Timestamp, days: u32) -> Schedule {
        let first = from.as_second().div_euclid(CELL_SECONDS) * CELL_SECONDS;
        let end = first + i64::from(days) * 86_400;
        let mut segments: Vec<Segment> = Vec::new();
        let mut day: Option<Day> = None;
        for second in (first..end).step_by(CELL_SECONDS as usize) {
            let Ok(at) = Timestamp::from_second(second) else { break };
            let civil = self.zone.to_datetime(at);
            let today = match &day {
                Some(day) if day.date == civil.date() => day,
                _ => day.insert(self.day(civil.date())),
            };
            let minute = usize::from(civil.hour().unsigned_abs()) * 60 + usize::from(civil.minute().unsigned_abs());
            let slot = self.slot_on(today, minute);
            if segments.last().is_none_or(|last| last.slot != slot) {
                segments.push(Segment { from: second, slot });
            }
        }
        Schedule { segments, end }
    }

    fn day(&self, date: Date) -> Day {
        let yesterday = date.yesterday().unwrap_or(date);
        let rules = |covers: &dyn Fn(Date, usize) -> bool, count: usize| -> Vec<(bool, bool)> {
            (0..count).map(|rule| (covers(date, rule), covers(yesterday, rule))).collect()
        };
        let weekday = date.weekday().to_monday_zero_offset().unsigned_abs().into();
        Day {
            date,
            row: match self.holidays_as {
                _ if self.holidays.working.contains(&date) => self.working_as,
                Some(row) if self.holidays.off.contains_key(&date) => row,
                _ => weekday,
            },
            exceptions: rules(
                &|date, rule| self.exceptions[rule].when.covers(date, &self.holidays),
                self.exceptions.len(),
            ),
            blackouts: rules(
                &|date, rule| self.blackouts[rule].when.covers(date, &self.holidays),
                self.blackouts.len(),
            ),
        }
    }

    fn slot_on(&self, day: &Day, minute: usize) -> Slot {
        let blackouts = self.blackouts.iter().zip(&day.blackouts).enumerate();
        let blackout = blackouts
            .filter(|(_, (rule, (today, yesterday)))| rule.hours.cover(minute, *today, *yesterday))
            .map(|(number, (rule, _))| (rule.kind, number))
            .max_by_key(|(kind, number)| (*kind, std::cmp::Reverse(*number)));
        if blackout.is_some() {
            return Slot { blackout, exception: None, profile: ProfileNumber::CLOSED };
        }
        let mut exceptions = self.exceptions.iter().zip(&day.exceptions);
        let exception = exceptions.position(|(rule, (today, yesterday))| rule.hours.cover(minute, *today, *yesterday));
        let profile = match exception {
            Some(number) => self.exceptions[number].profile,
            None => self.grid.at(day.row, minute),
        };
        Slot { blackout, exception, profile }
    }
}

/// What rules are for a date, worked out once for all its cells: whether they are for it and for the day before.
struct Day {
    date: Date,
    row: usize,
    exceptions: Vec<(bool, bool)>,
    blackouts: Vec<(bool, bool)>,
}

impl Schedule {
    /// What holds at an instant, and when the schedule says something else; `None` outside of its span.
    pub fn at(&self, at: Timestamp) -> Option<(Slot, Timestamp)> {
        let number = self.number(at)?;
        let until = self.segments.get(number + 1).map_or(self.end, |next| next.from);
        Some((self.segments[number].slot, Timestamp::from_second(until).ok()?))
    }

    /// When, from `at` on, `wanted` first holds.
    pub fn next(&self, at: Timestamp, wanted: impl Fn(&Slot) -> bool) -> Option<Timestamp> {
        let from = self.number(at)?;
        let found = self.segments[from..].iter().find(|segment| wanted(&segment.slot))?;
        Timestamp::from_second(found.from).ok().map(|begins| begins.max(at))
    }

    /// The spans from `from` to `to` with what holds in each.
    pub fn spans(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = (Timestamp, Timestamp, Slot)> + '_ {
        let first = self.number(from).unwrap_or(self.segments.len());
        (first..self.segments.len())
            .map(move |number| {
                let until = self.segments.get(number + 1).map_or(self.end, |next| next.from);
                let span = |second| Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
                (span(self.segments[number].from).max(from), span(until).min(to), self.segments[number].slot)
            })
            .take_while(|(from, to, _)| from < to)
    }

    /// Seconds from `from` to `to` in which data may be sent as far as the schedule decides.
    pub fn open_seconds(&self, policy: &Policy, from: Timestamp, to: Timestamp) -> u64 {
        let open =
            self.spans(from, to).filter(|(_, _, slot)| policy.profile(slot.profile).up.of(policy.line.up).is_open());
        open.map(|(from, to, _)| to.duration_since(from).as_secs().unsigned_abs()).sum()
    }

    /// The instant at which the span ends.
    pub fn end(&self) -> Timestamp {
        Timestamp::from_second(self.end).unwrap_or(Timestamp::MAX)
    }

    /// Whether much of the span is left: a schedule is laid out anew long before it ends.
    pub fn lasts(&self, now: Timestamp, ahead: SignedDuration) -> bool {
        self.number(now).is_some() && self.end().duration_since(now) > ahead
    }

    fn number(&self, at: Timestamp) -> Option<usize> {
        let second = at.as_second();
        let after = self.segments.partition_point(|segment| segment.from <= second);
        (after > 0 && second < self.end).then(|| after - 1)
    }
}
