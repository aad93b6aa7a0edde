//! What the line does at the moment: measured every two seconds, whoever looks.

use crate::link::Link;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two measurements.
const EVERY: Duration = Duration::from_secs(2);
/// Measurements that the rate is taken over: ten seconds, so that one parcel's end is no stop.
const SPAN: usize = 6;

/// What was measured last. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Pulse(Arc<Mutex<VecDeque<(Instant, u64)>>>);

impl Pulse {
    /// Measures until `stop`.
    pub(crate) async fn run(self, link: Link, stop: CancellationToken) {
        let mut clock = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                _ = clock.tick() => self.note(Instant::now(), link.shaper().meter().sent_bytes),
                () = stop.cancelled() => return,
            }
        }
    }

    fn note(&self, now: Instant, sent: u64) {
        let mut seen = self.lock();
        if seen.len() == SPAN {
            seen.pop_front();
        }
        seen.push_back((now, sent));
    }

    /// Bits per second over the last ten seconds, at IP level.
    pub(crate) fn rate(&self) -> u64 {
        let seen = self.lock();
        let (Some((began, first)), Some((ended, last))) = (seen.front(), seen.back()) else { return 0 };
        let seconds = ended.duration_since(*began).as_secs_f64();
        if seconds > 0.0 { (last.saturating_sub(*first) as f64 * 8.0 / seconds) as u64 } else { 0 }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, u64)>> {
        // Pushed to in one step; a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_rate_is_that_of_the_last_seconds() {
        let (pulse, now) = (Pulse::default(), Instant::now());
        assert_eq!(pulse.rate(), 0);
        for step in 0..20u64 {
            // 250 kB in each two seconds at first, then nothing.
            pulse.note(now + EVERY * step as u32, step.min(13) * 250_000);
            match step {
                0 => assert_eq!(pulse.rate(), 0),
                1..=13 => assert_eq!(pulse.rate(), 1_000_000),
                _ => assert!(pulse.rate() < 1_000_000),
            }
        }
        assert_eq!(pulse.rate(), 0);
    }
}
