//! Values of a document's fields, with the line that an error names.

use super::super::calendar::WhenError;
use super::super::grid::{self, cell_of, days_of};
use super::super::{Hours, Period, Share, When};
use super::PolicyError;
use crate::units::{BitsPerSec, Rate};
use jiff::civil::Date;
use jiff::{Span, SpanRelativeTo, Timestamp};
use std::time::Duration;
use toml::Spanned;

/// Turns places in the text into lines, for errors.
pub(super) struct Place<'a>(pub(super) &'a str);

impl Place<'_> {
    pub(super) fn wrong<T>(&self, value: &Spanned<T>, field: impl Into<String>, why: impl ToString) -> PolicyError {
        let before = &self.0.as_bytes()[..value.span().start.min(self.0.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        PolicyError::Field { line, field: field.into(), why: why.to_string() }
    }

    pub(super) fn number<N: TryFrom<i64> + PartialOrd + std::fmt::Display>(
        &self,
        value: &Spanned<i64>,
        field: &str,
        bounds: std::ops::RangeInclusive<N>,
    ) -> Result<N, PolicyError> {
        N::try_from(*value.get_ref()).ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
            self.wrong(
                value,
                field,
                format!("{} is not between {} and {}", value.get_ref(), bounds.start(), bounds.end()),
            )
        })
    }

    pub(super) fn share(&self, value: &Spanned<String>, field: &str) -> Result<Share, PolicyError> {
        share_of(value.get_ref()).map_err(|why| self.wrong(value, field, why))
    }

    pub(super) fn limit(&self, value: &Spanned<String>, field: &str) -> Result<BitsPerSec, PolicyError> {
        match value.get_ref().parse::<Rate>() {
            Ok(Rate::Limited(limit)) => Ok(limit),
            Ok(_) => Err(self.wrong(value, field, "a rate is needed, as in \"2 Mbit/s\"")),
            Err(why) => Err(self.wrong(value, field, why)),
        }
    }

    pub(super) fn duration(
        &self,
        value: &Spanned<String>,
        field: &str,
        example: &str,
    ) -> Result<Duration, PolicyError> {
        duration_of(value.get_ref()).ok_or_else(|| {
            self.wrong(value, field, format!("\"{}\" is no time span: write \"{example}\"", value.get_ref()))
        })
    }

    pub(super) fn date(&self, value: &Spanned<String>, text: &str, field: &str) -> Result<Date, PolicyError> {
        text.parse().map_err(|_| self.wrong(value, field, format!("\"{text}\" is no date: write \"2026-10-01\"")))
    }

    pub(super) fn when(&self, value: &Spanned<String>) -> Result<When, PolicyError> {
        value.get_ref().parse().map_err(|why: WhenError| self.wrong(value, "when", why))
    }

    pub(super) fn hours(&self, value: Option<&Spanned<String>>) -> Result<Hours, PolicyError> {
        let Some(value) = value else { return Ok(Hours::DAY) };
        let ends = value.get_ref().split_once('-').and_then(|(from, to)| {
            let (from, to) = (cell_of(from.trim())?, cell_of(to.trim())?);
            (from != to && from < grid::CELLS_PER_DAY).then_some((from, to))
        });
        let (from, to) = ends.ok_or_else(|| {
            let why =
                format!("\"{}\" is no part of a day: write \"08:00-18:30\", on quarters of an hour", value.get_ref());
            self.wrong(value, "hours", why)
        })?;
        Ok(Hours { from: from * grid::CELL_MINUTES, to: to * grid::CELL_MINUTES })
    }

    pub(super) fn instant(&self, value: &Spanned<String>, field: &str) -> Result<Timestamp, PolicyError> {
        value.get_ref().parse().map_err(|_| {
            let why = format!("\"{}\" is no instant: write \"2026-12-31T19:30:00Z\", with the zone", value.get_ref());
            self.wrong(value, field, why)
        })
    }

    pub(super) fn day(&self, value: &Spanned<String>, field: &str) -> Result<usize, PolicyError> {
        match days_of(value.get_ref()).as_deref() {
            Ok([day]) => Ok(*day),
            _ => Err(self.wrong(value, field, format!("\"{}\" is not one day: write \"sun\"", value.get_ref()))),
        }
    }
}

/// A rate, or a share of the line as `80 %`.
pub(super) fn share_of(text: &str) -> Result<Share, String> {
    let Some(percent) = text.trim().strip_suffix('%') else {
        return text.parse().map(Share::Rate).map_err(|why: crate::units::ParseRateError| why.to_string());
    };
    let wrong = || format!("\"{text}\" is no share of the line: write between \"0.1 %\" and \"100 %\"");
    let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
    let tenths = (percent * 10.0).round();
    if (1.0..=1000.0).contains(&tenths) { Ok(Share::PerMille(tenths as u16)) } else { Err(wrong()) }
}

pub(super) fn period_of(text: &str) -> Option<Period> {
    match text.trim() {
        "day" => Some(Period::Day),
        "week" => Some(Period::Week),
        "month" => Some(Period::Month(1)),
        "prepaid" => Some(Period::Prepaid),
        other => {
            let day = other.strip_prefix("month from day ")?.trim().parse().ok()?;
            (1..=31).contains(&day).then_some(Period::Month(day))
        }
    }
}

/// Bytes with a decimal or binary unit: `40 GB`, `500 MiB`, `1000000 B`.
pub(super) fn size_of(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("B", 1),
    ];
    let text = text.trim();
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim(), *unit)))?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).filter(|bytes| *bytes <= 1 << 60);
    }
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    (0.0..=(1u64 << 60) as f64).contains(&bytes).then_some(bytes as u64)
}

/// A time span; days have 24 hours.
pub(super) fn duration_of(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(span).ok().filter(|span| !span.is_zero() && *span < Duration::from_secs(400 * 24 * 3600))
}
