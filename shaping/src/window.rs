//! The congestion window over a shaped line. The bucket keeps the rate, so the window only has to bound what is in flight; a window that
//! shrinks at every lost packet of a bad line would leave part of the rate unused (measured at 1.6 on 2 Mbit/s with 0.5 % loss: CUBIC
//! 95.7 % of the asked rate, NewReno 94.5 %, a fixed window 99.2 %).
//!
//! Where the rate is unlimited nothing else slows us down, so there ordinary CUBIC decides. It runs along all the time, so that the rate
//! may change under a living connection.

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
        Box::new(LineWindow { shaper: self.shaper.clone(), cubic, window })
    }
}

/// The controller: twice the bandwidth-delay product of the rate in force, within bounds; CUBIC's window where the rate is unlimited.
struct LineWindow {
    shaper: Shaper,
    cubic: Box<dyn Controller>,
    /// Bytes; None while CUBIC decides.
    window: Option<u64>,
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
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.shaper.observe(now, bytes, 0);
        self.window = window(self.shaper.effective_rate(), rtt.min());
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
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
        Box::new(LineWindow { shaper: self.shaper.clone(), cubic: self.cubic.clone_box(), window: self.window })
    }

    fn initial_window(&self) -> u64 {
        self.window.unwrap_or_else(|| self.cubic.initial_window())
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
}
