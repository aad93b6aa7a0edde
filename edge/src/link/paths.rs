//! What the connections know of the line: packets, losses, round trips. Counts go on over all sessions of the daemon.

use quinn::Connection;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The idle round trip is the least of so many minutes, as that of [`shaping::Courtesy`]: a route may become longer.
const BASE_MINUTES: u64 = 10;

/// The connections of the session that is open, and what those before it have counted.
#[derive(Default)]
pub(super) struct Paths(Mutex<State>);

#[derive(Default)]
struct State {
    open: Vec<Connection>,
    before: Packets,
    base: Base,
    began: Option<Instant>,
}

/// Packets of all connections since the daemon's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Sent.
    pub sent: u64,
    /// Of these, lost.
    pub lost: u64,
}

/// Round trips of the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrips {
    /// The least of the last ten minutes.
    pub base: Option<Duration>,
    /// Now, smoothed; of the control connection, which has no queue of its own.
    pub now: Option<Duration>,
}

impl Paths {
    /// A session has these connections, control first.
    pub(super) fn begin(&self, connections: Vec<Connection>) {
        self.lock().open = connections;
    }

    /// It is over.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        let open = std::mem::take(&mut state.open);
        state.before = sum(state.before, &open);
    }

    /// Packets until now.
    pub(super) fn packets(&self) -> Packets {
        let state = self.lock();
        sum(state.before, &state.open)
    }

    /// Round trips until now; asked now and then, it finds the least of them.
    pub(super) fn round_trips(&self) -> RoundTrips {
        let mut state = self.lock();
        let now = state.open.first().map(Connection::rtt);
        let began = *state.began.get_or_insert_with(Instant::now);
        let minute = began.elapsed().as_secs() / 60;
        RoundTrips { base: state.base.least(minute, now), now }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each field is true by itself after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sum(before: Packets, open: &[Connection]) -> Packets {
    open.iter()
        .map(|connection| connection.stats().path)
        .fold(before, |sum, path| Packets { sent: sum.sent + path.sent_packets, lost: sum.lost + path.lost_packets })
}

/// The least of each of the last minutes.
#[derive(Debug, Default)]
struct Base(VecDeque<(u64, Duration)>);

impl Base {
    /// Takes a round trip of this minute in, if there is one; the least of the last ten.
    fn least(&mut self, minute: u64, round_trip: Option<Duration>) -> Option<Duration> {
        while self.0.front().is_some_and(|(first, _)| first + BASE_MINUTES <= minute) {
            self.0.pop_front();
        }
        match (self.0.back_mut().filter(|(last, _)| *last == minute), round_trip) {
            (Some((_, least)), Some(round_trip)) => *least = round_trip.min(*least),
            (None, Some(round_trip)) => self.0.push_back((minute, round_trip)),
            (_, None) => {}
        }
        self.0.iter().map(|(_, least)| *least).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_round_trip_is_the_least_of_ten_minutes() {
        let ms = Duration::from_millis;
        let mut base = Base::default();
        assert_eq!(base.least(0, None), None);
        assert_eq!(base.least(0, Some(ms(80))), Some(ms(80)));
        assert_eq!(base.least(0, Some(ms(70))), Some(ms(70)));
        assert_eq!(base.least(9, Some(ms(150))), Some(ms(70)));
        assert_eq!(base.least(10, None), Some(ms(150)), "the route has become longer");
        assert_eq!(base.least(19, None), None);
        assert!(base.0.is_empty());
    }
}
