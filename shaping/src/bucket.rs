//! The token bucket: whether a datagram may leave now and, if not, when. Pure: it takes `now` and touches no clock.
//!
//! A sender asks before each datagram and may leave the bucket in debt by that one datagram, so for every interval `T`
//!
//! ```text
//!   bytes(T) <= rate * T + depth + one datagram
//! ```
//!
//! where `bytes` counts data and control together, at IP level. The arithmetic is in whole billionths of a bit, so the bound is exact.
//!
//! Data and control share one balance and differ in how deep they may go: data needs a positive balance, control may use the *reserve*
//! below zero as well. So control overtakes data within one datagram's time, and the sum still keeps to the one rate.

use crate::units::{BitsPerSec, Rate};
use std::time::{Duration, Instant};

/// Who wants to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Parcels. Sends nothing while the rate is [`Rate::Closed`].
    Data,
    /// Messages, keep-alives, enrolment. Has the reserve, and goes on at the control reserve's rate while data is closed.
    Control,
}

/// The answer of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// A datagram may leave.
    Now,
    /// Ask again then (unless the rate changes before).
    At(Instant),
    /// Not before the rate changes.
    Never,
}

/// How much may leave at once after a pause, in bytes: `capacity` by data, `reserve` more by control. Their sum is the depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// The most that is saved up.
    pub capacity: u64,
    /// How far below zero control may still begin a datagram.
    pub reserve: u64,
}

/// The size of an ordinary packet on a line: Ethernet's.
const MTU: u64 = 1_500;
/// What may be saved up on a fast line: long enough to bridge a late wake-up (timers tick in ms), too short for others to feel.
const DEPTH_TIME_MS: u64 = 20;
/// Billionths of a bit in a byte.
const NANOBITS: i128 = 8 * 1_000_000_000;
/// A deadline further off is of no use: the answer is asked again then.
const LONGEST_WAIT_NS: i128 = 3_600_000_000_000;

impl Depth {
    /// max(2 MTU, 20 ms at the rate), one MTU of it as the reserve.
    pub const fn at(rate: BitsPerSec) -> Depth {
        let time = rate.bytes() * DEPTH_TIME_MS / 1_000;
        let depth = if time > 2 * MTU { time } else { 2 * MTU };
        Depth { capacity: depth - MTU, reserve: MTU }
    }

    /// The `depth` of the bound, in bytes.
    pub const fn bytes(self) -> u64 {
        self.capacity + self.reserve
    }
}

/// One line's balance of bytes. It starts empty, and neither a new rate nor a reopening fills it.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    control_reserve: BitsPerSec,
    /// Billionths of a bit; negative is debt.
    balance: i128,
    /// The balance holds at this instant.
    at: Instant,
}

impl Bucket {
    /// An empty bucket. `control_reserve` is the rate that control keeps while data is closed.
    pub fn new(rate: Rate, control_reserve: BitsPerSec, now: Instant) -> Self {
        Bucket { rate, control_reserve, balance: 0, at: now }
    }

    /// Whether `class` may begin a datagram of any size at `now`.
    pub fn readiness(&mut self, now: Instant, class: Class) -> Readiness {
        let Some(refill) = self.refill(now) else { return Readiness::Now };
        if class == Class::Data && !self.rate.is_open() {
            return Readiness::Never;
        }
        let missing = self.floor(class, refill) + 1 - self.balance;
        if missing <= 0 {
            return Readiness::Now;
        }
        let wait = (missing + i128::from(refill.bits()) - 1) / i128::from(refill.bits());
        let wait = wait.min(LONGEST_WAIT_NS);
        Readiness::At(self.at.max(now) + Duration::from_nanos(wait as u64))
    }

    /// Takes `bytes` (at IP level) if `class` may send at `now`; whether it did.
    #[must_use = "a datagram that was not paid for must not be sent"]
    pub fn take(&mut self, now: Instant, class: Class, bytes: u64) -> bool {
        let ready = self.readiness(now, class) == Readiness::Now;
        if ready && self.rate != Rate::Unlimited {
            self.balance -= i128::from(bytes) * NANOBITS;
        }
        ready
    }

    /// Takes back a [`take`](Bucket::take) whose datagram the kernel did not accept.
    pub fn refund(&mut self, bytes: u64) {
        if let Some(refill) = self.refill_rate() {
            let full = i128::from(Depth::at(refill).capacity) * NANOBITS;
            self.balance = (self.balance + i128::from(bytes) * NANOBITS).min(full);
        }
    }

    /// From `now` on another rate. What was saved up at the old one is kept as far as the new depth allows; coming from closed or
    /// unlimited, where the balance meant something else, nothing is.
    pub fn set_rate(&mut self, now: Instant, rate: Rate) {
        self.refill(now);
        let kept = matches!((self.rate, rate), (Rate::Limited(_), Rate::Limited(_)));
        if !kept && self.rate != rate {
            self.balance = self.balance.min(0);
        }
        self.rate = rate;
        self.at = self.at.max(now);
        self.refill(now);
    }

    /// The rate in force.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Books the time up to `now`; the rate at which the balance grows, or None when nothing is counted.
    fn refill(&mut self, now: Instant) -> Option<BitsPerSec> {
        let refill = self.refill_rate()?;
        let elapsed = now.saturating_duration_since(self.at).as_nanos() as i128;
        let full = i128::from(Depth::at(refill).capacity) * NANOBITS;
        self.balance = (self.balance + elapsed.saturating_mul(i128::from(refill.bits()))).min(full);
        self.at = self.at.max(now);
        Some(refill)
    }

    fn refill_rate(&self) -> Option<BitsPerSec> {
        match self.rate {
            Rate::Closed => Some(self.control_reserve),
            Rate::Limited(limit) => Some(limit),
            Rate::Unlimited => None,
        }
    }

    /// `class` may begin a datagram while the balance is above this.
    fn floor(&self, class: Class, refill: BitsPerSec) -> i128 {
        match class {
            Class::Data => 0,
            Class::Control => -i128::from(Depth::at(refill).reserve) * NANOBITS,
        }
    }
}
