//! Dates and the rules that people state them by: ranges, days of the month, business days, holidays with make-up working days.

use super::grid::{DAY_NAMES, days_of, days_text};
use jiff::ToSpan;
use jiff::civil::{Date, Weekday};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// The furthest that a rule may reach from its anchor, in business days: more than a month's end is no rule about a month's end.
const MOST_OFFSET: i32 = 15;

/// Days off and make-up working days.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holidays {
    /// Days off, with their names.
    pub off: BTreeMap<Date, String>,
    /// Days that are worked although they are weekends (China makes long holidays so).
    pub working: BTreeSet<Date>,
}

impl Holidays {
    /// Whether the branch works on this day.
    pub fn is_business(&self, date: Date) -> bool {
        self.working.contains(&date) || (is_weekday(date) && !self.off.contains_key(&date))
    }
}

/// Whether it is Monday to Friday.
pub(crate) fn is_weekday(date: Date) -> bool {
    !matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday)
}

/// Which dates an exception or a blackout is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// From the first to the last date, both included. One date is a range of one.
    Dates(Date, Date),
    /// Every year from month and day to month and day, both included; may run over New Year. Written `12-24..01-02`.
    Yearly((i8, i8), (i8, i8)),
    /// These days of every month, both included. Written `day 1..3`. Days that a month has not do not occur.
    MonthDays(i8, i8),
    /// Around the first or last business day of every month: from `from` to `to` business days after it (before it when negative), with
    /// all days that lie between. Written `last business day of month -1..+2`.
    BusinessDay {
        /// The last one of the month, else the first.
        last: bool,
        /// Business days from it to the first day that is meant.
        from: i32,
        /// And to the last one.
        to: i32,
    },
    /// The nth weekday of every month; negative counts from the end. Written `second tuesday`, `last friday`.
    Nth(i8, Weekday),
    /// Days of the week. Written `mon-fri`.
    Days(Vec<usize>),
    /// All days off of the holiday lists.
    Holidays,
}

/// A text that names no dates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    /// Nothing that is known.
    #[error(
        "\"{0}\" names no dates: write \"2026-12-31\", \"2026-12-24..2027-01-02\", \"12-24..01-02\", \"day 1..3\", \
         \"last business day of month -1..+2\", \"second tuesday\", \"mon-fri\" or \"holidays\""
    )]
    Unknown(String),
    /// The end lies before the beginning.
    #[error("\"{0}\" ends before it begins")]
    Backwards(String),
    /// Too far from its anchor.
    #[error("\"{0}\" reaches further than 15 business days from its anchor: name the dates instead")]
    Far(String),
}

impl When {
    /// Whether this date is meant.
    pub fn covers(&self, date: Date, holidays: &Holidays) -> bool {
        match self {
            When::Dates(first, last) => (*first..=*last).contains(&date),
            When::Yearly(first, last) => {
                let day = (date.month(), date.day());
                if first <= last { (*first..=*last).contains(&day) } else { day >= *first || day <= *last }
            }
            When::MonthDays(first, last) => (*first..=*last).contains(&date.day()),
            When::BusinessDay { last, from, to } => {
                // Anchors of the neighbouring months reach into this one.
                (-1..=1).filter_map(|months| date.first_of_month().checked_add(months.months()).ok()).any(|month| {
                    let Some(anchor) = anchor(month, *last, holidays) else { return false };
                    let ends = (business(anchor, *from, holidays), business(anchor, *to, holidays));
                    matches!(ends, (Some(first), Some(last)) if (first..=last).contains(&date))
                })
            }
            When::Nth(nth, weekday) => {
                date.first_of_month().nth_weekday_of_month(*nth, *weekday).is_ok_and(|found| found == date)
            }
            When::Days(days) => days.contains(&(date.weekday().to_monday_zero_offset() as usize)),
            When::Holidays => holidays.off.contains_key(&date),
        }
    }
}

/// The first or last business day of the month that begins at `month`.
fn anchor(month: Date, last: bool, holidays: &Holidays) -> Option<Date> {
    let days = month.days_in_month();
    let mut all = (0..days).filter_map(|day| month.checked_add(i32::from(day).days()).ok());
    match last {
        true => all.rev().find(|day| holidays.is_business(*day)),
        false => all.find(|day| holidays.is_business(*day)),
    }
}

/// `steps` business days from a date. A year without business days ends the search.
fn business(mut date: Date, steps: i32, holidays: &Holidays) -> Option<Date> {
    let (mut left, mut looked) = (steps.abs(), 0);
    while left > 0 {
        date = if steps > 0 { date.tomorrow().ok()? } else { date.yesterday().ok()? };
        left -= i32::from(holidays.is_business(date));
        looked += 1;
        if looked > 366 {
            return None;
        }
    }
    Some(date)
}

const ORDINALS: [(&str, i8); 6] =
    [("first", 1), ("second", 2), ("third", 3), ("fourth", 4), ("fifth", 5), ("last", -1)];
const WEEKDAYS: [(&str, Weekday); 7] = [
    ("monday", Weekday::Monday),
    ("tuesday", Weekday::Tuesday),
    ("wednesday", Weekday::Wednesday),
    ("thursday", Weekday::Thursday),
    ("friday", Weekday::Friday),
    ("saturday", Weekday::Saturday),
    ("sunday", Weekday::Sunday),
];

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        let unknown = || WhenError::Unknown(text.into());
        let lower = text.trim().to_lowercase();
        if lower == "holidays" {
            return Ok(When::Holidays);
        }
        if let Some(days) = lower.strip_prefix("day ") {
            let (first, last) = days.split_once("..").unwrap_or((days, days));
            let day = |text: &str| text.trim().parse().ok().filter(|day| (1..=31).contains(day)).ok_or_else(unknown);
            let (first, last) = (day(first)?, day(last)?);
            return if first <= last {
                Ok(When::MonthDays(first, last))
            } else {
                Err(WhenError::Backwards(text.into()))
            };
        }
        if let Some((which, rest)) = lower.split_once(" business day of month") {
            let last = match which {
                "last" => true,
                "first" => false,
                _ => return Err(unknown()),
            };
            let rest = rest.trim();
            let (from, to) = if rest.is_empty() { ("0", "0") } else { rest.split_once("..").unwrap_or((rest, rest)) };
            let steps = |text: &str| text.trim().trim_start_matches('+').parse::<i32>().map_err(|_| unknown());
            let (from, to) = (steps(from)?, steps(to)?);
            if from > to {
                return Err(WhenError::Backwards(text.into()));
            }
            if from < -MOST_OFFSET || to > MOST_OFFSET {
                return Err(WhenError::Far(text.into()));
            }
            return Ok(When::BusinessDay { last, from, to });
        }
        if let Some((ordinal, weekday)) = lower.split_once(' ')
            && let Some((_, nth)) = ORDINALS.iter().find(|(name, _)| *name == ordinal)
            && let Some((_, weekday)) = WEEKDAYS.iter().find(|(name, _)| *name == weekday.trim())
        {
            return Ok(When::Nth(*nth, *weekday));
        }
        let (first, last) = lower.split_once("..").unwrap_or((&lower, &lower));
        let (first, last) = (first.trim(), last.trim());
        if let (Ok(first), Ok(last)) = (first.parse::<Date>(), last.parse::<Date>()) {
            return if first <= last { Ok(When::Dates(first, last)) } else { Err(WhenError::Backwards(text.into())) };
        }
        if let (Some(first), Some(last)) = (month_day(first), month_day(last)) {
            return Ok(When::Yearly(first, last));
        }
        days_of(&lower).map(When::Days).map_err(|_| unknown())
    }
}

fn month_day(text: &str) -> Option<(i8, i8)> {
    let (month, day) = text.split_once('-')?;
    let (month, day) = (month.parse().ok()?, day.parse().ok()?);
    // 2024 has a 29 February.
    Date::new(2024, month, day).is_ok().then_some((month, day))
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed = |steps: i32| if steps > 0 { format!("+{steps}") } else { steps.to_string() };
        match self {
            When::Dates(first, last) if first == last => write!(f, "{first}"),
            When::Dates(first, last) => write!(f, "{first}..{last}"),
            When::Yearly(first, last) if first == last => write!(f, "{:02}-{:02}", first.0, first.1),
            When::Yearly(first, last) => write!(f, "{:02}-{:02}..{:02}-{:02}", first.0, first.1, last.0, last.1),
            When::MonthDays(first, last) if first == last => write!(f, "day {first}"),
            When::MonthDays(first, last) => write!(f, "day {first}..{last}"),
            When::BusinessDay { last, from, to } => {
                write!(f, "{} business day of month", if *last { "last" } else { "first" })?;
                match (from, to) {
                    (0, 0) => Ok(()),
                    (from, to) if from == to => write!(f, " {}", signed(*from)),
                    (from, to) => write!(f, " {}..{}", signed(*from), signed(*to)),
                }
            }
            When::Nth(nth, weekday) => {
                let ordinal = ORDINALS.iter().find(|(_, number)| number == nth).map_or("?", |(name, _)| name);
                let day = WEEKDAYS.iter().find(|(_, day)| day == weekday).map_or("?", |(name, _)| name);
                write!(f, "{ordinal} {day}")
            }
            When::Days(days) => {
                let runs = days.chunk_by(|one, next| next - one == 1);
                let names: Vec<String> = runs
                    .map(|run| match run {
                        [day] => DAY_NAMES[*day].to_owned(),
                        run => days_text(run[0]..run[run.len() - 1] + 1),
                    })
                    .collect();
                f.write_str(&names.join(", "))
            }
            When::Holidays => f.write_str("holidays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn covered(text: &str, holidays: &Holidays, from: Date, days: i32) -> Vec<Date> {
        let when: When = text.parse().unwrap();
        (0..days).map(|day| from.checked_add(day.days()).unwrap()).filter(|date| when.covers(*date, holidays)).collect()
    }

    #[test]
    fn rules_are_for_the_dates_that_people_mean() {
        let none = Holidays::default();
        let november =
            |text: &str| covered(text, &none, date(2026, 11, 1), 35).iter().map(|d| d.day()).collect::<Vec<_>>();
        // 30 November 2026 is a Monday: from the Friday before to the Wednesday after, with the weekend.
        // October ended on Friday the 30th.
        assert_eq!(november("last business day of month -1..+2"), [1, 2, 3, 27, 28, 29, 30, 1, 2]);
        assert_eq!(november("first business day of month"), [2, 1]);
        assert_eq!(november("second tuesday"), [10]);
        assert_eq!(november("last friday"), [27]);
        assert_eq!(november("day 30..31"), [30]);
        assert_eq!(november("2026-11-05..2026-11-07"), [5, 6, 7]);
        assert_eq!(november("sat"), [7, 14, 21, 28, 5]);
        assert_eq!(covered("12-31..01-01", &none, date(2026, 12, 30), 5), [date(2026, 12, 31), date(2027, 1, 1)]);
    }

    #[test]
    fn holidays_and_make_up_days_move_business_days() {
        let mut holidays = Holidays::default();
        holidays.off.insert(date(2026, 11, 30), "a holiday".into());
        assert_eq!(covered("last business day of month", &holidays, date(2026, 11, 20), 15), [date(2026, 11, 27)]);
        holidays.working.insert(date(2026, 11, 29));
        assert_eq!(covered("last business day of month", &holidays, date(2026, 11, 20), 15), [date(2026, 11, 29)]);
        assert_eq!(covered("holidays", &holidays, date(2026, 11, 1), 40), [date(2026, 11, 30)]);
    }

    #[test]
    fn every_rule_survives_its_text() {
        for text in [
            "2026-12-31",
            "2026-12-24..2027-01-02",
            "12-24..01-02",
            "05-01",
            "day 3",
            "day 1..3",
            "last business day of month -1..+2",
            "first business day of month",
            "last business day of month +3",
            "second tuesday",
            "last friday",
            "mon-fri",
            "mon, wed-fri",
            "holidays",
        ] {
            assert_eq!(text.parse::<When>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "2026-02-30",
            "13-01",
            "day 0",
            "day 32",
            "middle business day of month",
            "sixth monday",
            "day 3..1",
            "last business day of month -16",
        ] {
            assert!(wrong.parse::<When>().is_err(), "{wrong}");
        }
    }
}
