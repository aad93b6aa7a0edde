//! Whether what was promised is kept: bytes of the last minute, and minutes in which more was sent than was allowed.
//!
//! Told by the counting clock, so it needs no time of day. What it finds is never more than was allowed where all works; it is counted because a cap that is
//! broken must not be found by the branch's users first.

use shaping::{Depth, Rate, ShaperOptions};
use std::collections::VecDeque;
use std::time::Duration;

/// What is summed up and judged at once.
const MINUTE: Duration = Duration::from_secs(60);
/// The datagram with which the bound may be passed: an Ethernet frame's payload.
const DATAGRAM: u64 = 1_500;

/// Watches the bytes that leave.
#[derive(Debug, Default)]
pub(super) struct Conduct {
    /// Bytes sent before each second of the last minute in which there was a look, oldest first; at most 61.
    marks: VecDeque<(u64, u64)>,
    sent: u64,
    /// The look before: when, and the rate that it set.
    last: Option<(Duration, Rate)>,
    /// The minute that is being judged.
    minute: Option<Minute>,
    over: u32,
}

#[derive(Clone, Copy, Debug)]
struct Minute {
    began: Duration,
    sent: u64,
    /// Bytes that the rates have allowed so far; infinite without one.
    allowed: f64,
    /// The deepest bucket of them.
    depth: u64,
}

impl Conduct {
    /// A look: `sent` bytes since the start, and the rate from now on.
    pub(super) fn note(&mut self, counted: Duration, sent: u64, up: Rate) {
        self.mark(counted, sent);
        let (before, was) = self.last.replace((counted, up)).unwrap_or((counted, up));
        let new = |began| Minute { began, sent, allowed: 0.0, depth: 0 };
        let minute = self.minute.get_or_insert(new(counted));
        // Between two looks the earlier rate held; the greater of both is taken, so that the moment of the change accuses nobody.
        let elapsed = counted.saturating_sub(before).as_secs_f64();
        minute.allowed += (allowed(was).max(allowed(up)) * elapsed).max(0.0);
        minute.depth = minute.depth.max(depth(was)).max(depth(up));
        if counted.saturating_sub(minute.began) >= MINUTE {
            let bound = minute.allowed + (minute.depth + DATAGRAM) as f64;
            self.over += u32::from(sent.saturating_sub(minute.sent) as f64 > bound);
            *minute = new(counted);
        }
    }

    /// Bytes sent in the last 60 s.
    pub(super) fn sent_minute(&self) -> u32 {
        let before = self.marks.front().map_or(self.sent, |(_, sent)| *sent);
        u32::try_from(self.sent - before).unwrap_or(u32::MAX)
    }

    /// Minutes in which more was sent than was allowed and the bucket's depth.
    pub(super) fn over_minutes(&self) -> u32 {
        self.over
    }

    fn mark(&mut self, counted: Duration, sent: u64) {
        let second = counted.as_secs();
        if self.marks.back().is_none_or(|(last, _)| *last != second) {
            self.marks.push_back((second, self.sent));
        }
        self.sent = sent.max(self.sent);
        while self.marks.front().is_some_and(|(first, _)| first + MINUTE.as_secs() <= second) {
            self.marks.pop_front();
        }
    }
}

/// Bytes a second that may be sent; where data is closed, control keeps its reserve.
fn allowed(rate: Rate) -> f64 {
    match rate {
        Rate::Closed => ShaperOptions::default().control_reserve.bytes() as f64,
        Rate::Limited(rate) => rate.bytes() as f64,
        Rate::Unlimited => f64::INFINITY,
    }
}

fn depth(rate: Rate) -> u64 {
    let rate = rate.limit().unwrap_or(ShaperOptions::default().control_reserve);
    Depth::at(rate).bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    /// A look each second; so many bytes between two.
    fn minutes(conduct: &mut Conduct, from: u64, count: u64, each: u64, up: Rate) {
        let sent = conduct.sent;
        for second in 0..=count * 60 {
            conduct.note(Duration::from_secs(from + second), sent + second * each, up);
        }
    }

    #[test]
    fn what_keeps_to_the_rate_is_no_violation_and_more_than_the_depth_is_one() {
        let mut conduct = Conduct::default();
        minutes(&mut conduct, 0, 3, 1_000, rate("8 kbit/s"));
        assert_eq!((conduct.over_minutes(), conduct.sent_minute()), (0, 60_000));
        // A tenth more, for three minutes; the depth of 3 kB and a datagram excuse 75 bytes a second of it.
        minutes(&mut conduct, 180, 3, 1_100, rate("8 kbit/s"));
        assert_eq!((conduct.over_minutes(), conduct.sent_minute()), (3, 66_000));
    }

    #[test]
    fn a_window_that_ends_within_a_minute_accuses_nobody_and_control_goes_on() {
        let mut conduct = Conduct::default();
        let mut sent = 0;
        for second in 0..=240 {
            let open = second < 90;
            conduct.note(Duration::from_secs(second), sent, if open { rate("8 Mbit/s") } else { Rate::Closed });
            sent += if open { 1_000_000 } else { 2_000 };
        }
        assert_eq!(conduct.over_minutes(), 0);
        minutes(&mut conduct, 241, 2, 2_200, Rate::Closed);
        assert_eq!(conduct.over_minutes(), 2, "more than control's reserve");
    }

    #[test]
    fn without_a_limit_nothing_is_too_much() {
        let mut conduct = Conduct::default();
        minutes(&mut conduct, 0, 2, 1 << 30, Rate::Unlimited);
        assert_eq!((conduct.over_minutes(), conduct.sent_minute()), (0, u32::MAX));
        assert!(conduct.marks.len() <= 61, "{}", conduct.marks.len());
    }

    #[test]
    fn what_left_more_than_a_minute_ago_does_not_count_for_the_last_one() {
        let mut conduct = Conduct::default();
        conduct.note(Duration::from_secs(10), 500, Rate::Unlimited);
        conduct.note(Duration::from_secs(11), 700, Rate::Unlimited);
        assert_eq!(conduct.sent_minute(), 700);
        conduct.note(Duration::from_secs(70), 700, Rate::Unlimited);
        assert_eq!(conduct.sent_minute(), 200);
        conduct.note(Duration::from_secs(300), 701, Rate::Unlimited);
        assert_eq!(conduct.sent_minute(), 1);
    }
}
