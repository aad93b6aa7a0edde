//! How far the time is known. Pure: it is told two clocks and never reads one.
//!
//! An authenticated gateway says what time it is; from then on a clock that only counts (CLOCK_BOOTTIME: on through suspend, never set)
//! carries it on. The machine's own clock is not asked: a flat battery or a wrong hand turns it.

use crate::policy::ClockTrust;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// So long after it was told the time counts as synced: a cheap crystal (100 ppm) is off by less than 9 s a day, and sessions renew it every minute.
const SYNCED: Duration = Duration::from_secs(24 * 3600);

/// The time as the gateway told it, carried on by a counting clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrustedClock {
    told: Option<Told>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    time: Timestamp,
    /// The counting clock at that moment.
    counted: Duration,
}

impl TrustedClock {
    /// An authenticated gateway said that it is `time`, when the counting clock stood at `counted`. Returns by how much that moves our
    /// time; zero the first time.
    pub fn told(&mut self, time: Timestamp, counted: Duration) -> SignedDuration {
        let moved = self.now(counted).map_or(SignedDuration::ZERO, |was| time.duration_since(was));
        self.told = Some(Told { time, counted });
        moved
    }

    /// The time, if it was ever told.
    pub fn now(&self, counted: Duration) -> Option<Timestamp> {
        let told = self.told?;
        let since = counted.saturating_sub(told.counted);
        told.time.checked_add(SignedDuration::try_from(since).ok()?).ok()
    }

    /// How long ago the time was told, if it ever was.
    pub fn told_ago(&self, counted: Duration) -> Option<Duration> {
        self.told.map(|told| counted.saturating_sub(told.counted))
    }

    /// How far it is to be trusted, given how long the policy lets it be without word from the gateway.
    pub fn trust(&self, counted: Duration, holdover: Duration) -> ClockTrust {
        match self.told_ago(counted) {
            Some(since) if since <= SYNCED.min(holdover) => ClockTrust::Synced,
            Some(since) if since <= holdover => ClockTrust::Holdover,
            _ => ClockTrust::Untrusted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_clock_that_was_never_told_is_not_trusted() {
        let clock = TrustedClock::default();
        assert_eq!(clock.now(HOUR), None);
        assert_eq!(clock.trust(HOUR, 7 * 24 * HOUR), ClockTrust::Untrusted);
    }

    #[test]
    fn it_is_carried_on_and_trusted_as_long_as_the_policy_says() {
        let mut clock = TrustedClock::default();
        let noon: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        assert_eq!(clock.told(noon, HOUR), SignedDuration::ZERO);
        assert_eq!(clock.now(3 * HOUR), Some("2026-11-22T14:00:00Z".parse().unwrap()));
        let trust = |counted| clock.trust(counted, 48 * HOUR);
        assert_eq!(trust(25 * HOUR), ClockTrust::Synced);
        assert_eq!(trust(25 * HOUR + Duration::from_nanos(1)), ClockTrust::Holdover);
        assert_eq!(trust(49 * HOUR), ClockTrust::Holdover);
        assert_eq!(trust(49 * HOUR + Duration::from_nanos(1)), ClockTrust::Untrusted);
        assert_eq!(clock.trust(3 * HOUR, HOUR), ClockTrust::Untrusted);
    }

    #[test]
    fn being_told_again_moves_it_both_ways() {
        let mut clock = TrustedClock::default();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        clock.told(at("2026-11-22T12:00:00Z"), HOUR);
        assert_eq!(clock.told(at("2026-11-22T12:59:00Z"), 2 * HOUR), SignedDuration::from_mins(-1));
        assert_eq!(clock.told(at("2026-11-22T14:00:00Z"), 3 * HOUR), SignedDuration::from_mins(1));
        assert_eq!(clock.now(3 * HOUR), Some(at("2026-11-22T14:00:00Z")));
    }
}
