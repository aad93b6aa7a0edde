//! The circuit breaker: heavy loss for seconds means that the line carries less than we were told, so the rate is halved, and given back
//! in steps when the loss has gone. Pure: acknowledged and lost bytes and `now` go in, a share of the rate comes out.
//!
//! Random loss of a bad line (a few per cent) must not trip it: the rate is someone's decision, and slowing down does not mend a cable.

use std::time::{Duration, Instant};

/// Loss above this share of a second's bytes makes the second bad.
const BAD_SHARE: f64 = 0.10;
/// Below this share a second is good; between the two it counts for neither side.
const GOOD_SHARE: f64 = 0.05;
/// So many bad seconds in a row halve the rate, so many good ones give a step back.
const SECONDS: u32 = 3;
/// The step back, as a factor: from half to whole in four steps, so a line that is still too thin is not hit at once with the old rate.
const STEP: f64 = 1.25;
/// Never below this share of the rate that was asked: a dead line must not end in silence when it comes back.
const LEAST_SHARE: f64 = 1.0 / 16.0;
/// A second with fewer bytes than ten full packets says nothing about shares of loss.
const LEAST_BYTES: u64 = 15_000;
const SECOND: Duration = Duration::from_secs(1);

/// Watches the loss of one line.
#[derive(Debug, Clone)]
pub struct Breaker {
    share: f64,
    began: Option<Instant>,
    acknowledged: u64,
    lost: u64,
    bad: u32,
    good: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { share: 1.0, began: None, acknowledged: 0, lost: 0, bad: 0, good: 0 }
    }
}

impl Breaker {
    /// The share of the asked rate that holds now: 1 unless the line was losing a lot.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Takes in what was acknowledged and lost since the last call. True when the share changed.
    pub fn observe(&mut self, now: Instant, acknowledged: u64, lost: u64) -> bool {
        let began = *self.began.get_or_insert(now);
        let mut changed = false;
        if now.saturating_duration_since(began) >= SECOND {
            changed = self.judge();
            (self.began, self.acknowledged, self.lost) = (Some(now), 0, 0);
        }
        self.acknowledged += acknowledged;
        self.lost += lost;
        changed
    }

    fn judge(&mut self) -> bool {
        let all = self.acknowledged + self.lost;
        if all < LEAST_BYTES {
            return false;
        }
        let loss = self.lost as f64 / all as f64;
        self.bad = if loss > BAD_SHARE { self.bad + 1 } else { 0 };
        self.good = if loss < GOOD_SHARE { self.good + 1 } else { 0 };
        let before = self.share;
        if self.bad == SECONDS {
            (self.share, self.bad) = ((self.share / 2.0).max(LEAST_SHARE), 0);
        } else if self.good == SECONDS {
            (self.share, self.good) = ((self.share * STEP).min(1.0), 0);
        }
        self.share != before
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
mod tests {
    use super::*;

    /// Feeds `seconds` of 200 kB with this share lost, in ten pieces each.
    fn run(breaker: &mut Breaker, now: &mut Instant, seconds: u32, loss: f64) {
        for _ in 0..seconds * 10 {
            *now += Duration::from_millis(100);
            breaker.observe(*now, (20_000.0 * (1.0 - loss)) as u64, (20_000.0 * loss) as u64);
        }
    }

    #[test]
    fn random_loss_leaves_the_rate_alone() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        run(&mut breaker, &mut now, 60, 0.08);
        assert_eq!(breaker.share(), 1.0);
    }

    #[test]
    fn heavy_loss_halves_and_calm_gives_back() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        // A second is judged when the next one begins.
        run(&mut breaker, &mut now, 3, 0.3);
        assert_eq!(breaker.share(), 1.0, "two bad seconds are not enough");
        run(&mut breaker, &mut now, 1, 0.3);
        assert_eq!(breaker.share(), 0.5);
        run(&mut breaker, &mut now, 60, 0.3);
        assert_eq!(breaker.share(), LEAST_SHARE);
        run(&mut breaker, &mut now, 60, 0.0);
        assert_eq!(breaker.share(), 1.0);
    }

    #[test]
    fn a_cut_line_says_nothing() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 0..60 {
            now += SECOND;
            breaker.observe(now, 0, 1_480);
        }
        assert_eq!(breaker.share(), 1.0);
    }
}
