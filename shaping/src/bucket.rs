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

    /// Takes `bytes` that have left already without asking. What comes next waits until they are paid.
    pub fn owe(&mut self, now: Instant, bytes: u64) {
        if self.refill(now).is_some() {
            self.balance -= i128::from(bytes) * NANOBITS;
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

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const RESERVE: BitsPerSec = BitsPerSec::kbit(16);

    pub(crate) fn limited(kbit: u64) -> Rate {
        Rate::Limited(BitsPerSec::kbit(kbit))
    }

    /// Sends as soon as it is allowed until `until`; the bytes that left.
    fn greedy(bucket: &mut Bucket, from: Instant, until: Instant, class: Class, bytes: u64) -> u64 {
        let (mut now, mut sent) = (from, 0);
        while now < until {
            match bucket.readiness(now, class) {
                Readiness::Now => {
                    assert!(bucket.take(now, class, bytes));
                    sent += bytes;
                }
                Readiness::At(later) => {
                    assert!(later > now, "a deadline that has passed would spin");
                    now = later;
                }
                Readiness::Never => break,
            }
        }
        sent
    }

    #[test]
    fn a_backlog_uses_the_whole_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limited(1_600), RESERVE, start);
        let sent = greedy(&mut bucket, start, start + Duration::from_secs(60), Class::Data, 1_480);
        let asked = 60 * 200_000;
        assert!(sent >= asked - 1_480 && sent <= asked + 1_480, "{sent} of {asked}");
    }

    #[test]
    fn closed_is_closed_for_data_and_slow_for_control() {
        let start = Instant::now();
        let minute = start + Duration::from_secs(60);
        let mut bucket = Bucket::new(Rate::Closed, RESERVE, start);
        assert_eq!(bucket.readiness(minute, Class::Data), Readiness::Never);
        let mut bucket = Bucket::new(Rate::Closed, RESERVE, start);
        let sent = greedy(&mut bucket, start, minute, Class::Control, 100);
        let depth = Depth::at(RESERVE).bytes();
        assert!(sent >= 60 * 2_000 && sent <= 60 * 2_000 + depth + 100, "{sent}");
    }

    #[test]
    fn control_overtakes_a_backlog_of_data() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limited(256), RESERVE, start);
        greedy(&mut bucket, start, start + Duration::from_secs(1), Class::Data, 1_480);
        let now = start + Duration::from_secs(1);
        assert!(matches!(bucket.readiness(now, Class::Data), Readiness::At(_)));
        assert!(bucket.take(now, Class::Control, 100), "control has its reserve");
    }

    #[test]
    fn changes_give_nothing_away() {
        let now = Instant::now();
        let mut bucket = Bucket::new(limited(1_000), RESERVE, now);
        for rate in [limited(2_000), Rate::Closed, limited(1_000), Rate::Unlimited, limited(500)].repeat(100) {
            bucket.set_rate(now, rate);
            if rate != Rate::Unlimited {
                assert_ne!(bucket.readiness(now, Class::Data), Readiness::Now, "{rate}");
            }
        }
        // A long closed time is not saved up for data.
        bucket.set_rate(now, Rate::Closed);
        let later = now + Duration::from_secs(3_600);
        bucket.set_rate(later, limited(1_000));
        assert_ne!(bucket.readiness(later, Class::Data), Readiness::Now);
    }

    #[test]
    fn a_refund_restores_the_balance() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limited(1_000), RESERVE, start);
        let now = start + Duration::from_millis(5);
        assert!(bucket.take(now, Class::Data, 60_000));
        assert_ne!(bucket.readiness(now, Class::Data), Readiness::Now);
        bucket.refund(60_000);
        assert_eq!(bucket.readiness(now, Class::Data), Readiness::Now);
    }

    #[test]
    fn what_left_unasked_is_paid_before_anything_else_leaves() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limited(1_000), RESERVE, start);
        bucket.owe(start, 125_000);
        assert_eq!(
            bucket.readiness(start, Class::Control),
            Readiness::At(start + Duration::from_millis(988) + Duration::from_nanos(1))
        );
        assert!(!bucket.take(start + Duration::from_secs(1), Class::Data, 1));
        assert!(bucket.take(start + Duration::from_nanos(1_000_000_001), Class::Data, 1));
        let mut free = Bucket::new(Rate::Unlimited, RESERVE, start);
        free.owe(start, 125_000);
        free.set_rate(start, limited(1_000));
        assert!(
            free.take(start + Duration::from_nanos(1), Class::Data, 1),
            "nothing was counted while nothing was limited"
        );
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut bucket = Bucket::new(limited(1_000), RESERVE, start);
        assert_ne!(bucket.readiness(start - Duration::from_secs(5), Class::Data), Readiness::Now);
        assert_ne!(bucket.readiness(start, Class::Data), Readiness::Now);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Send(Class, u64),
        Change(Rate),
    }

    fn step() -> impl Strategy<Value = Step> {
        let class = prop_oneof![3 => Just(Class::Data), 1 => Just(Class::Control)];
        let rate = prop_oneof![
            1 => Just(Rate::Closed),
            1 => Just(Rate::Unlimited),
            6 => (8u64..20_000).prop_map(limited),
        ];
        prop_oneof![
            3 => (0u64..20_000_000).prop_map(Step::Wait),
            1 => (0u64..2_000_000_000).prop_map(Step::Wait),
            8 => (class, 29u64..1_500).prop_map(|(class, bytes)| Step::Send(class, bytes)),
            1 => rate.prop_map(Step::Change),
        ]
    }

    /// The slow oracle: what may have left in each interval is added up from the rates that held, second by second of the trace.
    pub(crate) struct Trace {
        /// (nanoseconds from the start, bytes)
        pub(crate) sent: Vec<(u64, u64)>,
        /// (from, rate)
        pub(crate) rates: Vec<(u64, Rate)>,
    }

    impl Trace {
        /// Bits allowed between two instants plus the deepest depth; None when the line was unlimited in between.
        fn allowed(&self, from: u64, to: u64) -> Option<f64> {
            let (mut bits, mut depth) = (0.0, 0);
            for (index, (begin, rate)) in self.rates.iter().enumerate() {
                let end = self.rates.get(index + 1).map_or(u64::MAX, |next| next.0);
                if end < from || *begin > to {
                    continue;
                }
                let rate = match rate {
                    Rate::Unlimited => return None,
                    Rate::Closed => RESERVE,
                    Rate::Limited(limit) => *limit,
                };
                bits += (end.min(to).saturating_sub((*begin).max(from))) as f64 * rate.bits() as f64 / 1e9;
                depth = depth.max(Depth::at(rate).bytes());
            }
            Some(bits + depth as f64 * 8.0)
        }

        pub(crate) fn check(&self) -> Result<(), TestCaseError> {
            for first in 0..self.sent.len() {
                let (mut bytes, mut largest) = (0, 0);
                for (at, size) in &self.sent[first..] {
                    (bytes, largest) = (bytes + size, largest.max(*size));
                    if let Some(allowed) = self.allowed(self.sent[first].0, *at) {
                        let bound = allowed / 8.0 + largest as f64 + 1.0;
                        prop_assert!(
                            bytes as f64 <= bound,
                            "{bytes} bytes in {} ns, bound {bound}",
                            at - self.sent[first].0
                        );
                    }
                }
            }
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn every_interval_of_every_trace_conforms(steps in prop::collection::vec(step(), 1..150), first in 8u64..20_000) {
            let start = Instant::now();
            let mut bucket = Bucket::new(limited(first), RESERVE, start);
            let mut trace = Trace { sent: Vec::new(), rates: vec![(0, limited(first))] };
            let mut at = 0;
            for step in steps {
                let now = start + Duration::from_nanos(at);
                match step {
                    Step::Wait(ns) => at += ns,
                    Step::Send(class, bytes) => {
                        let closed = bucket.rate() == Rate::Closed;
                        if bucket.take(now, class, bytes) {
                            prop_assert!(!(closed && class == Class::Data), "data left a closed line");
                            trace.sent.push((at, bytes));
                        }
                    }
                    Step::Change(rate) => {
                        bucket.set_rate(now, rate);
                        trace.rates.push((at, rate));
                    }
                }
            }
            trace.check()?;
        }
    }
}
