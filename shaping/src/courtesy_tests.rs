#![allow(clippy::disallowed_methods, reason = "any instant will do as the beginning")]

use super::*;
use proptest::prelude::*;

const TARGET: Duration = Duration::from_millis(25);
const CAP: BitsPerSec = BitsPerSec::kbit(1_600);
/// One sample each 25 ms, as acknowledgements come.
const TICK: Duration = Duration::from_millis(25);

/// A line with a queue that others and we share: a fluid, not packets.
struct Line {
    now: Instant,
    law: Courtesy,
    cap: BitsPerSec,
    /// Bits per second.
    carries: f64,
    path: Duration,
    /// Bits that wait, and the most that do.
    waiting: f64,
    /// Our rates of the last round trip, oldest first: what we feel now was caused then.
    delayed: VecDeque<f64>,
}

impl Line {
    fn new(cap: BitsPerSec, carries: f64) -> Line {
        let now = Instant::now();
        let mut law = Courtesy::new(Some(TARGET));
        law.before_departure(now, cap);
        Line { now, law, cap, carries, path: Duration::from_millis(80), waiting: 0.0, delayed: VecDeque::new() }
    }

    fn rate(&self) -> f64 {
        self.law.limit(self.cap).unwrap_or(self.cap).bits() as f64
    }

    fn queue(&self) -> Duration {
        Duration::from_secs_f64(self.waiting / self.carries)
    }

    /// Runs for so long beside others who send at `others` bits per second; the mean of our rate and the longest queue.
    fn run(&mut self, time: Duration, others: impl Fn(Duration) -> f64) -> (f64, Duration) {
        let (began, mut sum, mut ticks, mut longest) = (self.now, 0.0, 0, Duration::ZERO);
        while self.now < began + time {
            self.now += TICK;
            self.law.before_departure(self.now, self.cap);
            self.delayed.push_back(self.rate());
            let ours = if self.delayed.len() > 4 { self.delayed.pop_front().unwrap() } else { 0.0 };
            let excess = ours + others(self.now - began) - self.carries;
            // 200 ms of queue, then drops.
            self.waiting = (self.waiting + excess * TICK.as_secs_f64()).clamp(0.0, 0.2 * self.carries);
            longest = longest.max(self.queue());
            let time = self.path + self.queue();
            self.law.observe(self.now, self.cap, RoundTrip { time, app_limited: false });
            (sum, ticks) = (sum + self.rate(), ticks + 1);
        }
        (sum / f64::from(ticks), longest)
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn nobody(_: Duration) -> f64 {
    0.0
}

#[test]
fn an_idle_line_is_ours_within_seconds_and_stays_so() {
    let mut line = Line::new(CAP, 2e6);
    assert!(line.rate() <= 0.26 * 1.6e6, "it begins gently");
    line.run(seconds(4), nobody);
    assert_eq!(line.law.limit(CAP), None, "after four seconds it leaves all");
    let (mean, _) = line.run(seconds(600), nobody);
    assert!(mean >= 0.99 * 1.6e6, "{mean}");
}

#[test]
fn others_who_keep_the_queue_full_get_the_line() {
    let mut line = Line::new(CAP, 2e6);
    line.run(seconds(10), nobody);
    line.run(seconds(3), |_| 4e6);
    assert_eq!(line.rate(), FLOOR);
    line.run(seconds(30), |_| 4e6);
    assert_eq!(line.rate(), FLOOR);
    line.run(seconds(6), nobody);
    assert_eq!(line.law.limit(CAP), None, "six seconds after they have gone it is ours again");
}

#[test]
fn a_cap_above_the_line_uses_it_and_queues_little() {
    let mut line = Line::new(BitsPerSec::kbit(2_500), 2e6);
    line.run(seconds(10), nobody);
    let (mean, longest) = line.run(seconds(60), nobody);
    assert!(mean >= 0.8 * 2e6, "{mean}");
    assert!(longest <= 3 * TARGET, "{longest:?}");
}

/// The base goes out of date after ten minutes. A queue below the target makes nothing fall, so without slowdowns it would be all that
/// is left to see, and then another one would be allowed on top of it.
#[test]
fn our_own_queue_is_never_taken_for_the_base() {
    let (start, mut law, mut slow) = (Instant::now(), Courtesy::new(Some(TARGET)), 0);
    law.before_departure(start, CAP);
    let ticks = 30 * 60 * 40;
    for tick in 1..=ticks {
        // 20 ms of it stand for as long as we send more than a few packets in a round trip.
        let ours = law.limit(CAP).unwrap_or(CAP).bits();
        let time = Duration::from_millis(if ours > 350_000 { 100 } else { 80 });
        slow += u32::from(ours <= 350_000);
        law.observe(start + tick * TICK, CAP, RoundTrip { time, app_limited: false });
        if tick * TICK > seconds(15) {
            assert_eq!(law.base.least(), Duration::from_millis(80), "after {:?}", tick * TICK);
        }
    }
    assert!(f64::from(slow) / f64::from(ticks) < 0.006, "slowdowns are short: {slow} of {ticks} samples");
}

#[test]
fn growth_is_not_saved_up_above_the_cap() {
    let mut line = Line::new(CAP, 2e6);
    line.run(seconds(55), nobody);
    line.path += Duration::from_millis(60);
    line.run(Duration::from_millis(300), nobody);
    assert!(line.rate() <= 0.5 * 1.6e6, "{}", line.rate());
}

#[test]
fn a_queue_that_was_there_first_is_found_out_by_the_first_slowdown() {
    let mut line = Line::new(BitsPerSec::kbit(2_500), 2e6);
    line.waiting = 0.2 * 2e6;
    // Thin enough that our start fills it.
    line.carries = 0.5e6;
    line.run(FIRST_SLOWDOWN + seconds(20), nobody);
    assert!(line.law.base.least() < line.path + TARGET, "{:?}", line.law.base.least());
}

#[test]
fn a_longer_route_is_believed_after_ten_minutes() {
    let mut line = Line::new(CAP, 2e6);
    line.run(seconds(60), nobody);
    line.path = Duration::from_millis(180);
    line.run(seconds(30), nobody);
    assert_eq!(line.rate(), FLOOR);
    line.run(seconds(600), nobody);
    assert_eq!(line.law.limit(CAP), None);
}

#[test]
fn noise_within_the_dead_band_costs_nothing() {
    let mut line = Line::new(CAP, 2e6);
    line.run(seconds(10), nobody);
    line.path += Duration::from_millis(29);
    line.run(seconds(30), nobody);
    assert_eq!(line.law.limit(CAP), None);
    line.path += Duration::from_millis(2);
    line.run(seconds(30), nobody);
    assert!(line.law.limit(CAP).is_some());
}

#[test]
fn after_silence_it_starts_again_from_below_and_from_above() {
    for others in [0.0, 4e6] {
        let mut line = Line::new(CAP, 2e6);
        line.run(seconds(10), |_| others);
        line.now += SILENCE;
        assert!(line.law.before_departure(line.now, CAP), "before anything has left");
        assert_eq!(line.rate(), 0.25 * 1.6e6);
        line.now += SILENCE / 2;
        assert!(!line.law.before_departure(line.now, CAP), "once");
    }
}

#[test]
fn a_sender_without_work_gets_no_more() {
    let (now, mut law) = (Instant::now(), Courtesy::new(Some(TARGET)));
    law.before_departure(now, CAP);
    for tick in 1..200 {
        law.observe(now + tick * TICK, CAP, RoundTrip { time: seconds(1), app_limited: true });
    }
    assert_eq!(law.limit(CAP), Some(BitsPerSec::kbit(400)));
}

#[test]
fn one_fall_in_a_round_trip() {
    let (mut now, mut law) = (Instant::now(), Courtesy::new(Some(TARGET)));
    law.before_departure(now, CAP);
    let mut sample = |ms| {
        now += STEP;
        law.observe(now, CAP, RoundTrip { time: Duration::from_millis(ms), app_limited: true });
        law.rate
    };
    sample(80);
    sample(80);
    assert_eq!(sample(500), 200_000.0);
    for _ in 0..4 {
        assert_eq!(sample(500), 200_000.0);
    }
    assert_eq!(sample(500), 100_000.0);
}

#[test]
fn a_packet_of_somebody_elses_is_no_queue_on_a_slow_line() {
    let cap = BitsPerSec::kbit(256);
    let mut line = Line::new(cap, 320e3);
    line.run(seconds(10), nobody);
    line.path += Duration::from_millis(47);
    line.run(seconds(30), nobody);
    assert_eq!(line.law.limit(cap), None);
}

#[test]
fn off_is_off_and_turning_it_on_begins_gently() {
    let (now, mut law) = (Instant::now(), Courtesy::new(None));
    assert!(!law.before_departure(now, CAP));
    assert!(!law.observe(now, CAP, RoundTrip { time: seconds(1), app_limited: false }));
    assert_eq!(law.limit(CAP), None);
    law.set_target(Some(TARGET));
    assert_eq!(law.limit(CAP), Some(BitsPerSec::kbit(400)));
}

proptest! {
    /// Whatever comes: never above the cap, never below the floor (or a cap below it), also while the cap changes.
    #[test]
    fn the_limit_is_always_between_floor_and_cap(
        trace in prop::collection::vec((1u64..3_000, 1u64..2_000, 8u64..20_000, any::<bool>()), 1..300),
    ) {
        let (mut now, mut law) = (Instant::now(), Courtesy::new(Some(TARGET)));
        for (gap, time, cap, app_limited) in trace {
            now += Duration::from_millis(gap);
            let cap = BitsPerSec::kbit(cap);
            law.before_departure(now, cap);
            law.observe(now, cap, RoundTrip { time: Duration::from_millis(time), app_limited });
            if let Some(limit) = law.limit(cap) {
                prop_assert!(limit < cap && limit.bits() as f64 >= FLOOR, "{limit} of {cap}");
            }
        }
    }

    /// Of two lines with the same past the one with the longer queue gets no more.
    #[test]
    fn more_queue_never_gets_more(
        past in prop::collection::vec(80u64..400, 0..100), one in 80u64..400, other in 80u64..400,
    ) {
        let (mut now, mut law) = (Instant::now(), Courtesy::new(Some(TARGET)));
        law.before_departure(now, CAP);
        let sample = |ms| RoundTrip { time: Duration::from_millis(ms), app_limited: false };
        law.observe(now, CAP, sample(80));
        for time in past {
            now += STEP;
            law.observe(now, CAP, sample(time));
        }
        now += STEP;
        let after = |time| {
            let mut law = law.clone();
            law.observe(now, CAP, sample(time));
            law.limit(CAP).unwrap_or(CAP)
        };
        prop_assert!(after(one.min(other)) >= after(one.max(other)));
    }

    /// After any past an idle line is ours within the time from the start to the whole, and some.
    #[test]
    fn an_idle_line_is_always_won_back(past in prop::collection::vec((0.0f64..6e6, 1u64..20), 1..20)) {
        let mut line = Line::new(CAP, 2e6);
        line.run(seconds(2), nobody);
        for (others, time) in past {
            line.run(seconds(time), |_| others);
        }
        line.run(seconds(8), nobody);
        // Unless a slowdown is on at that moment.
        line.run(Duration::from_millis(500), nobody);
        let again = line.law.limit(CAP);
        line.run(Duration::from_millis(500), nobody);
        prop_assert!(again.is_none() || line.law.limit(CAP).is_none(), "{again:?}");
    }
}
