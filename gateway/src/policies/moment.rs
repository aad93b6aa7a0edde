//! Moments as people write them, in the site's own time.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A text that names no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no time: write \"19:30\" (the next one at the site), \"2026-11-24 19:30\" (the site's time) or \"2026-11-24T11:30:00Z\""
)]
pub struct MomentError(String);

/// The moment that a text names: an instant with its offset; a date and time of the site; or a time of day, the next one after `after`. A time
/// that the change to summer time skips is the moment of the change's length later; of one that is repeated the first is meant.
pub fn resolve(text: &str, zone: &TimeZone, after: Timestamp) -> Result<Timestamp, MomentError> {
    let (trimmed, wrong) = (text.trim(), || MomentError(crate::text::printable(text)));
    if let Ok(instant) = trimmed.parse::<Timestamp>() {
        return Ok(instant);
    }
    let at = |civil: DateTime| zone.to_ambiguous_timestamp(civil).compatible().map_err(|_| wrong());
    // A date alone would be midnight, which half of those who write it do not mean.
    if trimmed.contains(':')
        && trimmed.contains('-')
        && let Ok(civil) = trimmed.parse::<DateTime>()
    {
        return at(civil);
    }
    let time: Time = trimmed.parse().map_err(|_| wrong())?;
    let today = zone.to_datetime(after).date();
    let next = at(today.to_datetime(time))?;
    match next > after {
        true => Ok(next),
        false => at(today.tomorrow().map_err(|_| wrong())?.to_datetime(time)),
    }
}

/// How long an override lasts, as a duration of the operator's: within what a timestamp can hold.
pub(crate) fn later(from: Timestamp, seconds: u64) -> Timestamp {
    let by = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    from.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_meant_at_the_site() {
        let zone = TimeZone::get("Asia/Shanghai").unwrap();
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap(); // 20:00 there
        let at = |text: &str| resolve(text, &zone, now).map(|at| at.to_string());
        assert_eq!(at("19:30").unwrap(), "2026-11-24T11:30:00Z");
        assert_eq!(at("20:30").unwrap(), "2026-11-23T12:30:00Z");
        assert_eq!(at("2026-11-24 19:30").unwrap(), "2026-11-24T11:30:00Z");
        assert_eq!(at("2026-11-24T19:30").unwrap(), "2026-11-24T11:30:00Z");
        assert_eq!(at("2026-11-24T19:30:00Z").unwrap(), "2026-11-24T19:30:00Z");
        for wrong in ["", "tomorrow", "2026-11-24", "25:00"] {
            assert!(at(wrong).unwrap_err().to_string().contains("write \"19:30\""), "{wrong}");
        }
    }
}
