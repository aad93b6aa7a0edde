//! The congestion window over a shaped line. The bucket keeps the rate, so the window only has to bound what is in flight; a window that
//! shrinks at every lost packet of a bad line would leave part of the rate unused (measured at 1.6 on 2 Mbit/s with 0.5 % loss: CUBIC
//! 95.7 % of the asked rate, NewReno 94.5 %, a fixed window 99.2 %).
//!
//! Where the rate is unlimited nothing else slows us down, so there ordinary CUBIC decides. It runs along all the time, so that the rate
//! may change under a living connection.

use crate::courtesy::RoundTrip;
use crate::downlink::Peer;
use crate::round_trips::{Datagram, held_back};
use crate::shaper::Shaper;
use crate::units::{BitsPerSec, Rate};
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Never less than this in flight: 40 full packets, so that a loss and its repair fit.
const LEAST: u64 = 64 << 10;
/// The most at line rates: 0.4 s of 10 Mbit/s. In a queue that we share, this is what others wait behind at worst.
const MOST: u64 = 512 << 10;
/// The most on fast limited lines.
const MOST_FAST: u64 = 16 << 20;
/// Rates above this are no longer branch lines.
const FAST: u64 = 20_000_000;
/// Time that acknowledgements are held back, and some for a repair: part of every round trip here.
const SLACK: Duration = Duration::from_millis(150);
/// Only packets of this size are sampled, of 1200 bytes or more when they are full: small ones pass a slow line faster, and would set a
/// base that no full one can reach.
const FULL: u64 = 1_000;
/// The handshake numbers its packets in spaces of its own, from 0 to less than this.
const FIRST_SAMPLE: u64 = 16;
/// CUBIC's first window where nothing is limited.
const FIRST_UNLIMITED: u64 = 1 << 20;

/// Makes a [`LineWindow`] for each new path.
pub(crate) struct LineWindowConfig {
    shaper: Shaper,
    cubic: Arc<CubicConfig>,
}

impl LineWindowConfig {
    pub(crate) fn new(shaper: Shaper) -> Self {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(FIRST_UNLIMITED);
        LineWindowConfig { shaper, cubic: Arc::new(cubic) }
    }
}

impl ControllerFactory for LineWindowConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = self.cubic.clone().build(now, mtu);
        let window = window(self.shaper.effective_rate(), Duration::ZERO);
        let samples = Samples { connection: self.shaper.begin_path(), batch: None, open: None };
        Box::new(LineWindow { shaper: self.shaper.clone(), cubic, window, samples })
    }
}

/// The controller: twice the bandwidth-delay product of the rate in force, within bounds; CUBIC's window where the rate is unlimited.
struct LineWindow {
    shaper: Shaper,
    cubic: Box<dyn Controller>,
    /// Bytes; None while CUBIC decides.
    window: Option<u64>,
    samples: Samples,
}

/// Takes the round trip of the newest full datagram out of each acknowledgement. How long the peer held that back is known when the next
/// one has come, so a sample is as late as that.
#[derive(Clone)]
struct Samples {
    connection: u64,
    /// What the acknowledgement that is being taken in has confirmed so far.
    batch: Option<Batch>,
    open: Option<Open>,
}

#[derive(Clone, Copy)]
struct Batch {
    newest: Instant,
    bytes: u64,
    /// quinn's smoothed round trip before this acknowledgement.
    smoothed: Duration,
}

/// A round trip of which the time that the peer held it back is not yet known.
#[derive(Clone, Copy)]
struct Open {
    left: Instant,
    acknowledged: Instant,
    /// The round trip as quinn saw it, from the making of the datagram on.
    total: Duration,
    smoothed: Duration,
    app_limited: bool,
}

impl Samples {
    /// A packet of `bytes`, made at `made`, was acknowledged. The first of an acknowledgement completes the sample of the one before.
    fn acknowledged(&mut self, made: Instant, bytes: u64, smoothed: Duration) -> Option<RoundTrip> {
        if let Some(batch) = &mut self.batch {
            if made >= batch.newest {
                (batch.newest, batch.bytes) = (made, bytes);
            }
            return None;
        }
        self.batch = Some(Batch { newest: made, bytes, smoothed });
        let open = self.open.take()?;
        let held = held_back(open.total, open.smoothed, smoothed);
        let time = open.acknowledged.saturating_duration_since(open.left).saturating_sub(held);
        Some(RoundTrip { time, app_limited: open.app_limited })
    }

    /// The acknowledgement ends; `largest` is the number of the last packet that the peer has confirmed.
    fn end(&mut self, now: Instant, shaper: &Shaper, largest: Option<u64>, app_limited: bool) {
        let (Some(batch), Some(packet)) = (self.batch.take(), largest) else { return };
        let Some(left) = shaper.acknowledged(Datagram { connection: self.connection, packet, made: batch.newest })
        else {
            return;
        };
        if packet >= FIRST_SAMPLE && batch.bytes >= FULL {
            let total = now.saturating_duration_since(batch.newest);
            self.open = Some(Open { left, acknowledged: now, total, smoothed: batch.smoothed, app_limited });
        }
    }
}

/// The window over a line of this rate and least round trip; None where the rate does not bound it.
fn window(rate: Rate, round_trip: Duration) -> Option<u64> {
    let in_time = |rate: BitsPerSec| (rate.bytes() as f64 * (2 * round_trip + SLACK).as_secs_f64()) as u64;
    match rate {
        Rate::Closed => Some(LEAST),
        Rate::Limited(limit) if limit.bits() <= FAST => Some(in_time(limit).clamp(LEAST, MOST)),
        Rate::Limited(limit) => Some(in_time(limit).clamp(MOST, MOST_FAST)),
        Rate::Unlimited => None,
    }
}

impl Controller for LineWindow {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.shaper.made(Datagram { connection: self.samples.connection, packet: last_packet_number, made: now });
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.shaper.observe(now, bytes, 0);
        if let Some(sample) = self.samples.acknowledged(sent, bytes, rtt.get()) {
            self.shaper.round_trip(now, sample);
        }
        self.window = window(self.shaper.effective_rate(), rtt.min());
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.samples.end(now, &self.shaper, largest, app_limited);
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.shaper.observe(now, 0, lost);
        self.cubic.on_congestion_event(now, sent, persistent, lost);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.cubic.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        self.window.unwrap_or_else(|| self.cubic.window())
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let (shaper, cubic, samples) = (self.shaper.clone(), self.cubic.clone_box(), self.samples.clone());
        Box::new(LineWindow { shaper, cubic, window: self.window, samples })
    }

    fn initial_window(&self) -> u64 {
        self.window.unwrap_or_else(|| self.cubic.initial_window())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Makes a [`PeerWindow`] for each new path of one of the gateway's connections.
pub(crate) struct PeerWindowConfig {
    peer: Peer,
    cubic: Arc<CubicConfig>,
}

impl PeerWindowConfig {
    pub(crate) fn new(peer: Peer) -> Self {
        PeerWindowConfig { peer, cubic: Arc::new(CubicConfig::default()) }
    }
}

impl ControllerFactory for PeerWindowConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = self.cubic.clone().build(now, mtu);
        Box::new(PeerWindow { peer: self.peer.clone(), cubic, round_trip: Duration::ZERO })
    }
}

/// The gateway's controller: the same window, over the line that the connection is on at the moment. It takes no samples: the queue that
/// courtesy looks for is before the branch's own sender, not before the gateway.
struct PeerWindow {
    peer: Peer,
    cubic: Box<dyn Controller>,
    /// The least.
    round_trip: Duration,
}

impl Controller for PeerWindow {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.peer.turn().line.observe(now, bytes, 0);
        self.round_trip = rtt.min();
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.peer.turn().line.observe(now, 0, lost);
        self.cubic.on_congestion_event(now, sent, persistent, lost);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.cubic.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        let rate = self.peer.turn().line.effective_rate();
        window(rate, self.round_trip).unwrap_or_else(|| self.cubic.window())
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let (peer, cubic) = (self.peer.clone(), self.cubic.clone_box());
        Box::new(PeerWindow { peer, cubic, round_trip: self.round_trip })
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_rate_and_round_trip_within_bounds() {
        let at = |rate: &str, ms| window(rate.parse().unwrap(), Duration::from_millis(ms));
        assert_eq!(at("1.6 Mbit/s", 80), Some(LEAST));
        assert_eq!(at("1.6 Mbit/s", 300), Some(150_000));
        assert_eq!(at("10 Mbit/s", 80), Some(387_500));
        assert_eq!(at("10 Mbit/s", 600), Some(MOST));
        assert_eq!(at("0", 80), Some(LEAST));
        assert_eq!(at("unlimited", 80), None);
    }

    /// Courtesy halves the rate at most once in a round trip. If the window fell below what is in flight by then, sending would stop
    /// and start in turns.
    #[test]
    fn halving_the_rate_does_not_stop_the_sender() {
        for mbit in [0.064, 0.4, 1.6, 5.0, 10.0, 20.0] {
            for ms in [5, 80, 300, 600] {
                let at = |mbit: f64| {
                    let rate = Rate::Limited(BitsPerSec::new((mbit * 1e6) as u64));
                    window(rate, Duration::from_millis(ms)).unwrap() as f64
                };
                let in_flight = (mbit * 125.0 * (ms as f64 + 25.0)).min(at(mbit));
                assert!(at(mbit / 2.0) >= in_flight.min(MOST as f64), "{mbit} Mbit/s, {ms} ms");
            }
        }
    }

    #[test]
    fn a_sample_is_the_newest_full_datagram_without_the_time_it_was_held_back() {
        let (shaper, start) = (Shaper::new("1.6 Mbit/s".parse().unwrap()), tokio::time::Instant::now().into_std());
        shaper.set_courtesy(Some(Duration::from_millis(25)));
        let ms = Duration::from_millis;
        let mut samples = Samples { connection: 7, batch: None, open: None };
        let leaves = |packet, made| {
            shaper.made(Datagram { connection: 7, packet, made });
            while !shaper.take(crate::bucket::Class::Data, 100) {}
        };
        leaves(20, start);
        leaves(21, start + ms(1));
        let left = tokio::time::Instant::now().into_std();
        // Held back for 20 ms, of 100 as quinn sees them.
        assert_eq!(samples.acknowledged(start, 1_452, ms(80)), None);
        assert_eq!(samples.acknowledged(start + ms(1), 1_452, ms(80)), None);
        samples.end(start + ms(101), &shaper, Some(21), false);
        let sample = samples.acknowledged(start + ms(200), 1_452, ms(80)).unwrap();
        assert!(sample.time <= ms(81) && sample.time + ms(1) >= ms(81).saturating_sub(left - start), "{sample:?}");
        // A small one is no sample.
        leaves(22, start + ms(200));
        samples.acknowledged(start + ms(200), 60, ms(80));
        samples.end(start + ms(300), &shaper, Some(22), false);
        assert_eq!(samples.acknowledged(start + ms(300), 1_452, ms(80)), None);
    }
}
