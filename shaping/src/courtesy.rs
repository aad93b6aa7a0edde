//! Courtesy: what the branch's own traffic leaves of the line, felt by the queue before it. A law like LEDBAT++
//! (draft-irtf-iccrg-ledbat-plus-plus), which steers the bucket's rate instead of a window. Pure: round trips and `now` go in, a rate
//! comes out.
//!
//! ```text
//!   queue = least round trip of the last tenth of a second - base       base = least round trip of the last ten minutes
//!
//!   queue < target            grow by a share of the cap, in proportion to the room below the target
//!   target .. target + 20 %   stay: a packet of somebody else's is no queue
//!   above                     fall in proportion to the excess, to the half at most, once in a round trip
//! ```
//!
//! Never above the cap, never below 64 kbit/s (or the cap, if that is less). Once a minute the rate is lowered for two round trips, so
//! that our own standing queue, if there is one, drains and is not taken for the base. After silence it starts again at a quarter.
//!
//! What it cannot tell: a queue that somebody else keeps standing for ten minutes becomes the base, and a route that became longer is a
//! queue for ten minutes.

use crate::units::BitsPerSec;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So much is always taken, so that work never dies and there are round trips to measure: five full packets a second. It is 3.2 % of a
/// 2 Mbit/s line, which leaves a greedy transfer its 95 %. A cap below it holds all the same.
const FLOOR: f64 = 64_000.0;
/// The law acts no more often. The least round trip of so long a time is free of the noise of wake-ups and jitter.
const STEP: Duration = Duration::from_millis(100);
/// A longer time between two steps counts as this, so that a pause is not followed by a leap.
const LONGEST_STEP: f64 = 0.25;
/// Growth per second as a share of the cap, over an empty queue: from nothing to the whole in four seconds, from the start in three.
/// Half and a third of it, beside transactions, changed the figures by one per cent and made an idle line be used later.
const GROWTH: f64 = 0.25;
/// The fall for each target of excess, as a share of the rate: a queue of 12 ms above the target is enough for the half. Measured beside
/// transactions on a 2 Mbit/s line at a cap of 1.6, the median's loss and what replication gets of the rest: 0.5 makes 12 % and 82 %,
/// 2 makes 8 % and 70 %. Above the line, at 2.5: 16 % and 84 %, 9 % and 74 %.
const FALL: f64 = 2.0;
/// But never to less than this share at once: an acknowledgement that was late by itself must not end the work.
const LEAST_FACTOR: f64 = 0.5;
/// Above the target by this share of it nothing happens yet: 5 ms of 25, about one full packet of somebody else's at 2 Mbit/s (6 ms).
const DEAD_BAND: f64 = 0.2;
/// The share of the cap to start with, on a new path and after silence.
const START: f64 = 0.25;
/// Without a sample for so long nothing is known of the line any more. The packets of the floor are 0.2 s apart.
const SILENCE: Duration = Duration::from_secs(2);
/// The base is the least of this many minutes, as in RFC 6817.
const BASE_MINUTES: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// The first slowdown after a path began, when the rate has found its place; then one a minute, so that each minute of the base has one.
const FIRST_SLOWDOWN: Duration = Duration::from_secs(10);
/// A slowdown lasts two round trips, in which the queue drains and is measured, and this, in which acknowledgements are on hold. At
/// 80 ms 0.26 s of each 60 s: 0.4 % of the rate.
const SLOWDOWN_SLACK: Duration = Duration::from_millis(100);
/// A full packet in bits, at IP level.
const PACKET: f64 = 12_000.0;
/// Packets in a round trip of a slowdown, as in LEDBAT++.
const SLOWDOWN_PACKETS: f64 = 2.0;
/// A target of less than this many packets at the cap would call every single one of somebody else's a queue: matters below 1 Mbit/s.
const LEAST_TARGET_PACKETS: f64 = 2.0;

/// Steers the rate of one line.
#[derive(Debug, Clone)]
pub struct Courtesy {
    /// The queueing delay that may stand; None: off.
    target: Option<Duration>,
    /// Bits per second that the branch leaves.
    rate: f64,
    /// Whether `rate` has begun from the start's share.
    started: bool,
    phase: Phase,
    base: Base,
    /// The least round trip since the last step, and whether more would have been sent if it had been allowed.
    least: Option<Duration>,
    wanted: bool,
    stepped: Option<Instant>,
    /// The last sample, or the start after which none has come yet.
    heard: Option<Instant>,
    slow_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// By the law; no fall before this.
    Steering { hold: Option<Instant> },
    /// Slowed down to measure the base; then back to the rate before.
    Slow { until: Instant, then: f64 },
}

/// One round trip of a full packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundTrip {
    /// From the packet's departure to its acknowledgement, without the time that the peer held it back.
    pub time: Duration,
    /// Whether the sender had no more to send.
    pub app_limited: bool,
}

impl Courtesy {
    /// A law that keeps to this queueing delay; `None` is off. It starts with a quarter of the cap.
    pub fn new(target: Option<Duration>) -> Self {
        Courtesy {
            target,
            rate: FLOOR,
            started: false,
            phase: Phase::Steering { hold: None },
            base: Base::default(),
            least: None,
            wanted: false,
            stepped: None,
            heard: None,
            slow_at: None,
        }
    }

    /// The queueing delay it keeps to; None when off.
    pub fn target(&self) -> Option<Duration> {
        self.target
    }

    /// Another target from now on; what is known of the line is kept unless it was off.
    pub fn set_target(&mut self, target: Option<Duration>) {
        match (self.target, target) {
            (Some(_), Some(_)) => self.target = target,
            _ => *self = Courtesy::new(target),
        }
    }

    /// A new path, of which nothing is known.
    pub fn begin_path(&mut self) {
        *self = Courtesy::new(self.target);
    }

    /// What it leaves of `cap`; None when it is off or leaves all.
    pub fn limit(&self, cap: BitsPerSec) -> Option<BitsPerSec> {
        self.target?;
        let rate = if self.started { self.rate } else { start(cap) };
        (rate < cap.bits() as f64).then(|| BitsPerSec::new(rate as u64).min(cap))
    }

    /// Data is about to leave. True when the limit changed: after silence it starts again, and a slowdown ends in time.
    pub fn before_departure(&mut self, now: Instant, cap: BitsPerSec) -> bool {
        if self.target.is_none() {
            return false;
        }
        let silent = self.heard.is_none_or(|heard| now.saturating_duration_since(heard) >= SILENCE);
        if silent {
            let before = self.limit(cap);
            (self.rate, self.started) = (start(cap), true);
            (self.phase, self.least, self.stepped) = (Phase::Steering { hold: None }, None, None);
            self.heard = Some(now);
            return before != self.limit(cap);
        }
        self.end_slowdown(now)
    }

    /// Takes in a round trip under a rate that is at most `cap`. True when the limit may have changed: ten times a second at most.
    pub fn observe(&mut self, now: Instant, cap: BitsPerSec, sample: RoundTrip) -> bool {
        if self.target.is_none() {
            return false;
        }
        if !self.started {
            (self.rate, self.started) = (start(cap), true);
        }
        self.heard = Some(now);
        self.slow_at.get_or_insert(now + FIRST_SLOWDOWN);
        self.base.observe(now, sample.time);
        self.least = Some(self.least.map_or(sample.time, |least| least.min(sample.time)));
        self.wanted |= !sample.app_limited;
        let elapsed = now.saturating_duration_since(*self.stepped.get_or_insert(now));
        if elapsed < STEP {
            return false;
        }
        self.stepped = Some(now);
        let (least, wanted) = (self.least.take().unwrap_or(sample.time), std::mem::take(&mut self.wanted));
        let before = self.rate;
        self.step(now, cap, least, wanted, elapsed.as_secs_f64().min(LONGEST_STEP));
        self.rate != before
    }

    fn step(&mut self, now: Instant, cap: BitsPerSec, round_trip: Duration, wanted: bool, elapsed: f64) {
        self.end_slowdown(now);
        let Phase::Steering { hold } = self.phase else { return };
        let (cap, base) = (cap.bits() as f64, self.base.least());
        let target = self.target.unwrap_or_default().as_secs_f64().max(LEAST_TARGET_PACKETS * PACKET / cap);
        let queue = round_trip.saturating_sub(base).as_secs_f64() / target;
        let mut rate = self.rate;
        if queue < 1.0 && wanted {
            rate += (1.0 - queue) * GROWTH * cap * elapsed;
        } else if queue > 1.0 + DEAD_BAND && hold.is_none_or(|hold| now >= hold) {
            rate *= (1.0 - (queue - 1.0) * FALL).max(LEAST_FACTOR);
            self.phase = Phase::Steering { hold: Some(now + round_trip) };
        }
        // A cap below the floor holds in `limit`; when it rises again the floor is there.
        self.rate = rate.min(cap).max(FLOOR);
        self.maybe_slow(now, round_trip, base);
    }

    /// Begins a slowdown when it is time, unless the rate is as low already.
    fn maybe_slow(&mut self, now: Instant, round_trip: Duration, base: Duration) {
        if self.slow_at.is_none_or(|at| now < at) {
            return;
        }
        self.slow_at = Some(now + MINUTE);
        let slow = (SLOWDOWN_PACKETS * PACKET / base.as_secs_f64().max(1e-3)).max(FLOOR);
        if slow < self.rate {
            self.phase = Phase::Slow { until: now + 2 * round_trip + SLOWDOWN_SLACK, then: self.rate };
            self.rate = slow;
        }
    }

    fn end_slowdown(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Slow { until, then } if now >= until => {
                (self.rate, self.phase) = (then, Phase::Steering { hold: None });
                true
            }
            _ => false,
        }
    }
}

fn start(cap: BitsPerSec) -> f64 {
    (cap.bits() as f64 * START).max(FLOOR)
}

/// The least round trip of each of the last ten minutes.
#[derive(Debug, Clone, Default)]
struct Base {
    minutes: VecDeque<(Instant, Duration)>,
}

impl Base {
    fn observe(&mut self, now: Instant, round_trip: Duration) {
        match self.minutes.back_mut() {
            Some((began, least)) if now.saturating_duration_since(*began) < MINUTE => *least = round_trip.min(*least),
            _ => self.minutes.push_back((now, round_trip)),
        }
        while self
            .minutes
            .front()
            .is_some_and(|(began, _)| now.saturating_duration_since(*began) >= BASE_MINUTES * MINUTE)
        {
            self.minutes.pop_front();
        }
    }

    fn least(&self) -> Duration {
        self.minutes.iter().map(|(_, least)| *least).min().unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "courtesy_tests.rs"]
mod tests;
