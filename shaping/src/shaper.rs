//! The handle on one line: its rate, its bucket and everyone who waits for it.

use crate::breaker::Breaker;
use crate::bucket::{Bucket, Class, Readiness};
use crate::courtesy::{Courtesy, RoundTrip};
use crate::meter::{Meter, MeterReading};
use crate::round_trips::{Datagram, Departures};
use crate::units::{BitsPerSec, Rate};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// One line, shared by the sockets that were bound with it. Clones are handles on the same line.
#[derive(Debug, Clone)]
pub struct Shaper(Arc<Line>);

/// What may be set once, when the line is made.
#[derive(Debug, Clone, Copy)]
pub struct ShaperOptions {
    /// The rate that control keeps while data is closed: enough for keep-alives, a policy and a handshake in under 5 s.
    pub control_reserve: BitsPerSec,
    /// Bytes that the line adds to each packet and that count against the rate: 0 when the rate means IP bytes, 38 for whole
    /// Ethernet frames, about 40 for PPPoE over ATM.
    pub packet_overhead: u16,
    /// Queueing delay before the line at which data begins to make way for others' traffic (see [`Courtesy`]); None: it does not.
    /// [`Shaper::set_courtesy`] changes it.
    pub courtesy: Option<Duration>,
}

impl Default for ShaperOptions {
    fn default() -> Self {
        ShaperOptions { control_reserve: BitsPerSec::kbit(16), packet_overhead: 0, courtesy: None }
    }
}

/// One datagram that left, as the bucket saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// When it was allowed to leave.
    pub at: Instant,
    /// Its bytes at IP level, with the line's overhead.
    pub bytes: u32,
}

#[derive(Debug)]
struct Line {
    state: Mutex<State>,
    options: ShaperOptions,
    meter: Meter,
}

/// Numbers of pollers and paths, unique within the process: a poller of the gateway changes lines when its connection's site is known.
static NEXT_WAITER: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
struct State {
    /// What was asked; the bucket holds it times the breaker's share, or what courtesy leaves of that.
    asked: Rate,
    breaker: Breaker,
    courtesy: Courtesy,
    departures: Departures,
    bucket: Bucket,
    waiters: HashMap<u64, Waker>,
    trace: Option<Trace>,
    /// Bytes that left since the line was made.
    spent: u64,
    /// Where `spent` ends; None: nowhere.
    budget: Option<u64>,
    /// Nothing leaves, not even control.
    silent: bool,
}

#[derive(Debug)]
struct Trace {
    room: usize,
    departures: Vec<Departure>,
}

impl Shaper {
    /// A line of this rate, with the default options. Nothing is saved up at the start.
    pub fn new(rate: Rate) -> Self {
        Self::with_options(rate, ShaperOptions::default())
    }

    /// A line of this rate.
    pub fn with_options(rate: Rate, options: ShaperOptions) -> Self {
        let mut state = State {
            asked: rate,
            breaker: Breaker::default(),
            courtesy: Courtesy::new(options.courtesy),
            departures: Departures::default(),
            bucket: Bucket::new(rate, options.control_reserve, now()),
            waiters: HashMap::new(),
            trace: None,
            spent: 0,
            budget: None,
            silent: false,
        };
        state.apply(now());
        Shaper(Arc::new(Line { state: Mutex::new(state), options, meter: Meter::default() }))
    }

    /// Sets the rate from this moment on and wakes every sender that waits; what is under way on the line stays under way.
    pub fn set_rate(&self, rate: Rate) {
        self.set_rate_at(now(), rate);
    }

    pub(crate) fn set_rate_at(&self, now: Instant, rate: Rate) {
        let mut state = self.lock();
        state.asked = rate;
        state.apply(now);
    }

    /// Whether nothing at all may leave, not even control.
    pub fn set_silent(&self, silent: bool) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.silent, silent) != silent {
            state.wake();
        }
    }

    /// Whether that is so.
    pub fn is_silent(&self) -> bool {
        self.lock().silent
    }

    /// How many bytes may leave since the line was made, data and control together; None: any number. The last datagram may go beyond it.
    pub fn set_budget(&self, budget: Option<u64>) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.budget, budget) != budget {
            state.wake();
        }
    }

    /// Bytes that left since the line was made, at IP level with the line's overhead: what the budget is compared with.
    pub fn spent(&self) -> u64 {
        self.lock().spent
    }

    /// Makes way for others' traffic from a queueing delay of `target` on (see [`Courtesy`]), or not at all. With [`Rate::Unlimited`] it
    /// rests. Connections that are dialled from now on ask for acknowledgements to match; older ones feel the queue a little later.
    pub fn set_courtesy(&self, target: Option<Duration>) {
        let mut state = self.lock();
        state.courtesy.set_target(target);
        state.apply(now());
    }

    /// What courtesy leaves at the moment, when that is less than would be allowed otherwise; None when it is off or leaves all.
    pub fn courtesy(&self) -> Option<BitsPerSec> {
        let state = self.lock();
        state.courtesy.limit(state.cap()?)
    }

    /// The rate that was asked.
    pub fn rate(&self) -> Rate {
        self.lock().asked
    }

    /// The rate that holds now: the asked one, or less while the line loses heavily (see [`Breaker`]) or others use it (see [`Courtesy`]).
    pub fn effective_rate(&self) -> Rate {
        self.lock().bucket.rate()
    }

    /// What all sockets of this line sent and received.
    pub fn meter(&self) -> MeterReading {
        self.0.meter.reading()
    }

    /// Keeps the next `room` departures in memory, for a check of conformance. 24 bytes each.
    pub fn record(&self, room: usize) {
        self.lock().trace = Some(Trace { room, departures: Vec::new() });
    }

    /// Ends the record and hands it over; empty when there was none.
    pub fn take_record(&self) -> Vec<Departure> {
        self.lock().trace.take().map(|trace| trace.departures).unwrap_or_default()
    }

    /// Takes in what the peer acknowledged and what was lost of the data connection.
    pub(crate) fn observe(&self, now: Instant, acknowledged: u64, lost: u64) {
        let mut state = self.lock();
        if state.breaker.observe(now, acknowledged, lost) {
            state.apply(now);
            tracing::warn!(rate = %state.bucket.rate(), asked = %state.asked, "the line's loss changed the rate");
        }
    }

    /// A connection's path begins; its number on this line.
    pub(crate) fn begin_path(&self) -> u64 {
        let mut state = self.lock();
        state.courtesy.begin_path();
        state.apply(now());
        drop(state);
        self.waiter()
    }

    /// The queueing delay from which on courtesy makes way; None: it is off.
    pub fn courtesy_target(&self) -> Option<Duration> {
        self.lock().courtesy.target()
    }

    /// A datagram of the data connection was made, and is the next to leave.
    pub(crate) fn made(&self, datagram: Datagram) {
        let mut state = self.lock();
        if state.is_courteous() {
            state.departures.made(datagram);
        }
    }

    /// When an acknowledged datagram left, where that is known.
    pub(crate) fn acknowledged(&self, datagram: Datagram) -> Option<Instant> {
        self.lock().departures.acknowledged(datagram)
    }

    /// Takes in a round trip of the data connection.
    pub(crate) fn round_trip(&self, now: Instant, sample: RoundTrip) {
        let mut state = self.lock();
        if let Some(cap) = state.cap()
            && state.courtesy.observe(now, cap, sample)
        {
            state.apply(now);
        }
    }

    pub(crate) fn options(&self) -> ShaperOptions {
        self.0.options
    }

    pub(crate) fn total(&self) -> &Meter {
        &self.0.meter
    }

    /// A number under which one poller waits.
    pub(crate) fn waiter(&self) -> u64 {
        NEXT_WAITER.fetch_add(1, Relaxed)
    }

    /// Ends `other`, whose senders go on here: what left there counts here and is paid here before anything else leaves.
    pub(crate) fn inherit(&self, now: Instant, other: &Shaper) {
        // Nothing leaves there any more, so what it spent is final; who waited there is woken and asks here.
        other.set_silent(true);
        let left = other.spent();
        let mut state = self.lock();
        state.bucket.owe(now, left);
        state.spent += left;
        drop(state);
        self.total().add(other.meter());
    }

    /// Whether both are handles on one line.
    pub(crate) fn is(&self, other: &Shaper) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether `class` may send; if not, `waker` is woken when the rate changes (the deadline is the caller's to wait for).
    pub(crate) fn poll(&self, class: Class, waiter: u64, waker: &Waker) -> Readiness {
        let (mut state, now) = (self.lock(), now());
        if class == Class::Data {
            state.before_departure(now);
        }
        let readiness = match state.is_stopped() {
            true => Readiness::Never,
            false => state.bucket.readiness(now, class),
        };
        if readiness == Readiness::Now {
            state.waiters.remove(&waiter);
        } else {
            state.waiters.entry(waiter).and_modify(|known| known.clone_from(waker)).or_insert_with(|| waker.clone());
        }
        readiness
    }

    pub(crate) fn forget(&self, waiter: u64) {
        self.lock().waiters.remove(&waiter);
    }

    /// Pays for a datagram of `bytes`; false when another sender was faster or the rate has changed since it was polled.
    #[must_use]
    pub(crate) fn take(&self, class: Class, bytes: u64) -> bool {
        self.take_at(now(), class, bytes)
    }

    #[must_use]
    pub(crate) fn take_at(&self, now: Instant, class: Class, bytes: u64) -> bool {
        let mut state = self.lock();
        if state.is_stopped() || !state.bucket.take(now, class, bytes) {
            return false;
        }
        state.spent += bytes;
        if class == Class::Data {
            state.departures.left(now);
        }
        if let Some(trace) = state.trace.as_mut().filter(|trace| trace.departures.len() < trace.room) {
            trace.departures.push(Departure { at: now, bytes: bytes as u32 });
        }
        true
    }

    /// Gives back what was paid for a datagram that the kernel did not take.
    pub(crate) fn refund(&self, bytes: u64) {
        let mut state = self.lock();
        state.bucket.refund(bytes);
        state.spent -= bytes;
        if let Some(trace) = &mut state.trace
            && let Some(at) = trace.departures.iter().rposition(|departure| u64::from(departure.bytes) == bytes)
        {
            trace.departures.remove(at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement, so a panic elsewhere under the lock leaves nothing half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What was asked, less what the breaker takes off; None while the rate is closed or unlimited.
    fn cap(&self) -> Option<BitsPerSec> {
        self.asked.limit().map(|limit| limit.scaled(self.breaker.share()))
    }

    fn is_courteous(&self) -> bool {
        self.courtesy.target().is_some() && self.asked.limit().is_some()
    }

    /// Lets courtesy start again after silence, before the first datagram has left at a rate that nothing speaks for any more.
    fn before_departure(&mut self, now: Instant) {
        if let Some(cap) = self.cap()
            && self.courtesy.before_departure(now, cap)
        {
            self.apply(now);
        }
    }

    /// Puts what was asked, what the line bears and what others leave into the bucket, and wakes those whose deadline belongs to the old
    /// rate.
    fn apply(&mut self, now: Instant) {
        let rate = match self.cap() {
            Some(cap) => Rate::Limited(self.courtesy.limit(cap).unwrap_or(cap)),
            None => self.asked,
        };
        self.bucket.set_rate(now, rate);
        self.wake();
    }

    /// Whether nothing leaves whatever the bucket says.
    fn is_stopped(&self) -> bool {
        self.silent || self.budget.is_some_and(|budget| self.spent >= budget)
    }

    /// Wakes those whose answer may be another one now.
    fn wake(&mut self) {
        self.waiters.drain().for_each(|(_, waker)| waker.wake());
    }
}

/// The runtime's clock, so that tests may pause it; the same that quinn reads.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    const TARGET: Option<Duration> = Some(Duration::from_millis(25));

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    /// Round trips of `ms`, `count` of them, a tenth of a second apart from `from` on.
    fn feel(shaper: &Shaper, from: Instant, count: u32, ms: u64) {
        for tick in 0..count {
            let sample = RoundTrip { time: Duration::from_millis(ms), app_limited: false };
            shaper.round_trip(from + tick * Duration::from_millis(100), sample);
        }
    }

    #[test]
    fn the_least_of_asked_and_courtesy_holds() {
        let shaper = Shaper::new(rate("1.6 Mbit/s"));
        assert_eq!((shaper.courtesy(), shaper.effective_rate()), (None, rate("1.6 Mbit/s")), "off by default");
        shaper.set_courtesy(TARGET);
        assert_eq!(shaper.courtesy(), Some(BitsPerSec::kbit(400)));
        assert_eq!((shaper.rate(), shaper.effective_rate()), (rate("1.6 Mbit/s"), rate("400 kbit/s")));
        let start = now();
        feel(&shaper, start, 50, 80);
        assert_eq!((shaper.courtesy(), shaper.effective_rate()), (None, rate("1.6 Mbit/s")), "an idle line");
        feel(&shaper, start + Duration::from_secs(5), 50, 280);
        assert_eq!((shaper.courtesy(), shaper.effective_rate()), (Some(BitsPerSec::kbit(64)), rate("64 kbit/s")));
        shaper.set_rate(rate("32 kbit/s"));
        assert_eq!((shaper.courtesy(), shaper.effective_rate()), (None, rate("32 kbit/s")), "below the floor");
        shaper.set_courtesy(None);
        shaper.set_rate(rate("1.6 Mbit/s"));
        assert_eq!(shaper.effective_rate(), rate("1.6 Mbit/s"));
    }

    #[test]
    fn courtesy_rests_while_nothing_is_limited_or_nothing_may_leave() {
        for text in ["unlimited", "0"] {
            let shaper =
                Shaper::with_options(rate(text), ShaperOptions { courtesy: TARGET, ..ShaperOptions::default() });
            feel(&shaper, now(), 50, 280);
            assert_eq!((shaper.courtesy(), shaper.effective_rate()), (None, rate(text)));
        }
    }

    #[test]
    fn everyone_who_waits_is_woken_when_courtesy_changes_the_rate() {
        let shaper =
            Shaper::with_options(rate("1.6 Mbit/s"), ShaperOptions { courtesy: TARGET, ..ShaperOptions::default() });
        let woken = [Arc::new(Woken::default()), Arc::new(Woken::default())];
        let wait = || {
            for one in &woken {
                // A debt, so that both have to wait.
                while shaper.take(Class::Control, 1_500) {}
                assert_ne!(shaper.poll(Class::Data, shaper.waiter(), &Waker::from(one.clone())), Readiness::Now);
            }
        };
        wait();
        let before = woken.each_ref().map(|one| one.0.load(Relaxed));
        feel(&shaper, now(), 3, 80);
        let after = woken.each_ref().map(|one| one.0.load(Relaxed));
        assert!(after.iter().zip(before).all(|(after, before)| *after > before), "{before:?} {after:?}");
    }

    #[test]
    fn after_silence_the_first_datagram_leaves_at_the_start_rate() {
        let shaper = Shaper::new(rate("1.6 Mbit/s"));
        shaper.set_courtesy(TARGET);
        // The last sample is long ago by the clock that `poll` reads.
        let Some(past) = now().checked_sub(Duration::from_secs(60)) else { return };
        feel(&shaper, past, 50, 80);
        assert_eq!(shaper.courtesy(), None);
        let _ = shaper.poll(Class::Data, shaper.waiter(), Waker::noop());
        assert_eq!(shaper.effective_rate(), rate("400 kbit/s"));
    }

    #[tokio::test]
    async fn a_budget_ends_within_one_datagram_and_a_raise_wakes_who_waits() {
        let counter = Arc::new(Woken::default());
        let waker = Waker::from(counter.clone());
        let line = Shaper::new(Rate::Unlimited);
        line.set_budget(Some(2_000));
        assert!(line.take(Class::Data, 1_500) && line.take(Class::Data, 1_500), "the last one may go beyond");
        assert!(!line.take(Class::Data, 1) && !line.take(Class::Control, 1));
        let waiter = line.waiter();
        assert_eq!(line.poll(Class::Control, waiter, &waker), Readiness::Never);
        line.refund(1_500);
        assert_eq!(line.spent(), 1_500);
        line.set_budget(Some(3_001));
        assert_eq!(counter.0.load(Relaxed), 1);
        assert_eq!(line.poll(Class::Control, waiter, &waker), Readiness::Now);
        line.set_silent(true);
        assert_eq!(line.poll(Class::Control, waiter, &waker), Readiness::Never);
        assert!(!line.take(Class::Control, 1));
        line.set_silent(false);
        assert_eq!((counter.0.load(Relaxed), line.take(Class::Control, 1)), (2, true));
    }
}
