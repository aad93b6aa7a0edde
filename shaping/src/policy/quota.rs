//! How much may be sent: in a day, a week, a month from an anchor day, or in all.

use super::{Policy, ProfileNumber};
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// What a quota counts over, in the site's civil time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday.
    Week,
    /// From this day of each month on, 1 to 31; in shorter months from their last day.
    Month(i8),
    /// For ever: bytes that were bought.
    Prepaid,
}

/// One quota. All of a policy hold together; the strictest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaRule {
    /// What it counts over.
    pub period: Period,
    /// IP-level bytes, both directions.
    pub limit: u64,
    /// From this share on, people are told. Per cent of the limit.
    pub warn: u8,
    /// From this share on, a profile holds at most.
    pub soft: Option<(u8, ProfileNumber)>,
    /// Whether the rate is held so that the quota lasts to its period's end.
    pub even: bool,
}

/// The part of a quota that control keeps for itself: a hundredth, but no more than 10 MB, a week of a session's signs of life.
pub(crate) const MOST_CONTROL_RESERVE: u64 = 10_000_000;

impl QuotaRule {
    /// Bytes up to which data may be sent; control goes on to the limit.
    pub fn data_limit(&self) -> u64 {
        self.limit - (self.limit / 100).min(MOST_CONTROL_RESERVE)
    }
}

impl Period {
    /// The span of this period that `now` lies in; `None` for one that does not end.
    pub fn around(self, now: Timestamp, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        let today = zone.to_datetime(now).date();
        let (first, next) = match self {
            Period::Day => (today, today.tomorrow().ok()?),
            Period::Week => {
                let back = i32::from(today.weekday().since(Weekday::Monday));
                let first = today.checked_sub(back.days()).ok()?;
                (first, first.checked_add(7.days()).ok()?)
            }
            Period::Month(day) => {
                let of = |month: Date| anchored(month, day);
                let this = of(today.first_of_month());
                match today >= this {
                    true => (this, of(today.first_of_month().checked_add(1.month()).ok()?)),
                    false => (of(today.first_of_month().checked_sub(1.month()).ok()?), this),
                }
            }
            Period::Prepaid => return None,
        };
        let midnight = |date: Date| zone.to_timestamp(date.to_datetime(jiff::civil::Time::midnight())).ok();
        Some((midnight(first)?, midnight(next)?))
    }
}

/// The anchor day of the month that begins at `month`.
fn anchored(month: Date, day: i8) -> Date {
    let day = day.min(month.days_in_month());
    month.with().day(day).build().unwrap_or(month)
}

/// How far a quota is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotaStep {
    /// Less than anybody needs to know.
    Free,
    /// People are told.
    Warn,
    /// A profile holds at most.
    Soft(ProfileNumber),
    /// No more data.
    Hard,
    /// Nothing more at all.
    Silent,
}

impl QuotaRule {
    /// The step that a use of so many bytes is at.
    pub fn step(&self, used: u64) -> QuotaStep {
        let reached = |percent: u8| u128::from(used) * 100 >= u128::from(self.limit) * u128::from(percent);
        match self.soft {
            _ if used >= self.limit => QuotaStep::Silent,
            _ if used >= self.data_limit() => QuotaStep::Hard,
            Some((percent, profile)) if reached(percent) => QuotaStep::Soft(profile),
            _ if reached(self.warn) => QuotaStep::Warn,
            _ => QuotaStep::Free,
        }
    }
}

impl Policy {
    /// How a quota is named to people.
    pub fn period_name(period: Period) -> &'static str {
        match period {
            Period::Day => "day",
            Period::Week => "week",
            Period::Month(_) => "month",
            Period::Prepaid => "prepaid",
        }
    }
}
