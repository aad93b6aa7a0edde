//! True round trips of datagrams, out of what quinn tells its congestion controller. Pure.
//!
//! Two things would pass for a queue on the line. quinn stamps a datagram when it is made, and then the datagram waits for the bucket: for
//! 7 ms at 1.6 Mbit/s, but for 185 ms at 64 kbit/s, so a slow sender would think that the line is full and stay slow. And the peer holds
//! acknowledgements back. So the first is measured from the moment of departure, and the second is taken off.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Datagrams on their way whose departures are remembered; 16 MiB of window in datagrams of 1452 bytes are less.
const MOST: usize = 12_000;
/// The longest time for which we ask a peer to hold an acknowledgement back.
const LONGEST_HELD: Duration = Duration::from_millis(90);

/// When the datagrams of a line left.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    /// Made, and waiting for the bucket. quinn has one at a time for each connection; if those of two connections meet here, the time of
    /// departure is found too early and the round trip too long, never too short.
    waiting: Option<Datagram>,
    left: VecDeque<(Datagram, Instant)>,
}

/// One datagram, as the controller of its connection knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// A number of the connection on this line.
    pub(crate) connection: u64,
    /// Its last packet's number.
    pub(crate) packet: u64,
    /// When quinn made it.
    pub(crate) made: Instant,
}

impl Departures {
    /// It will be the next to leave.
    pub(crate) fn made(&mut self, datagram: Datagram) {
        self.waiting = Some(datagram);
    }

    /// The one that waited has left.
    pub(crate) fn left(&mut self, now: Instant) {
        if let Some(datagram) = self.waiting.take() {
            self.left.push_back((datagram, now));
            if self.left.len() > MOST {
                self.left.pop_front();
            }
        }
    }

    /// When an acknowledged datagram left; what was made before it on its connection is forgotten.
    pub(crate) fn acknowledged(&mut self, datagram: Datagram) -> Option<Instant> {
        let at = self.left.iter().find(|(known, _)| *known == datagram).map(|(_, at)| *at);
        self.left.retain(|(known, _)| known.connection != datagram.connection || known.packet > datagram.packet);
        at
    }
}

/// For how long the peer held an acknowledgement back. quinn knows and does not tell; but its smoothed round trip moves by an eighth of
/// the difference to each new one without that time (RFC 9002 section 5.3), so from its values before and after the one can be worked out.
/// `total` is the round trip as quinn saw it. Where quinn did not take the time off, the answer is zero.
pub(crate) fn held_back(total: Duration, smoothed_before: Duration, smoothed_after: Duration) -> Duration {
    let (before, after) = (smoothed_before.as_nanos() as i128, smoothed_after.as_nanos() as i128);
    let held = total.as_nanos() as i128 - (8 * after - 7 * before);
    Duration::from_nanos(held.clamp(0, LONGEST_HELD.as_nanos() as i128) as u64)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    proptest! {
        #[test]
        fn the_time_held_back_is_worked_out_to_the_nanosecond(
            smoothed in 1_000_000u64..2_000_000_000, line in 1_000_000u64..2_000_000_000, held in 0u64..90_000_000,
        ) {
            let [smoothed, line, held] = [smoothed, line, held].map(Duration::from_nanos);
            let after = (7 * smoothed + line) / 8;
            let found = held_back(line + held, smoothed, after);
            prop_assert!(found >= held && found - held < Duration::from_nanos(9), "{held:?} {found:?}");
        }
    }

    #[test]
    fn a_round_trip_begins_when_the_datagram_leaves() {
        let start = Instant::now();
        let datagram = |packet, made| Datagram { connection: 1, packet, made };
        let mut departures = Departures::default();
        departures.made(datagram(20, start));
        departures.left(start + ms(7));
        // Made at the same moment, left later.
        departures.made(datagram(21, start));
        departures.left(start + ms(14));
        // Not one of the connection's.
        departures.left(start + ms(15));
        departures.made(datagram(22, start + ms(15)));
        departures.left(start + ms(21));
        assert_eq!(departures.acknowledged(datagram(21, start)), Some(start + ms(14)));
        assert_eq!(departures.acknowledged(datagram(21, start)), None, "each counts once");
        assert_eq!(departures.acknowledged(datagram(20, start)), None, "older ones are forgotten");
        assert_eq!(departures.acknowledged(datagram(22, start + ms(15))), Some(start + ms(21)), "newer ones are not");
    }

    #[test]
    fn another_space_or_connection_with_the_same_number_is_not_mistaken() {
        let start = Instant::now();
        let mut departures = Departures::default();
        departures.made(Datagram { connection: 1, packet: 3, made: start });
        departures.left(start);
        assert_eq!(departures.acknowledged(Datagram { connection: 2, packet: 3, made: start }), None);
        assert_eq!(departures.acknowledged(Datagram { connection: 1, packet: 3, made: start + ms(1) }), None);
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut departures = Departures::default();
        for packet in 0..2 * MOST as u64 {
            departures.made(Datagram { connection: 1, packet, made: start });
            departures.left(start);
        }
        assert_eq!(departures.left.len(), MOST);
    }
}
