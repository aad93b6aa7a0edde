//! Counters of what crossed a socket, at IP level.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of IP and UDP headers on each datagram to or from `peer`: 28 over IPv4 (also when it is mapped into IPv6), 48 over IPv6.
pub fn header_bytes(peer: SocketAddr) -> u64 {
    if peer.ip().to_canonical().is_ipv4() { 28 } else { 48 }
}

/// Running totals, counted without a lock.
#[derive(Debug, Default)]
pub struct Meter {
    sent_bytes: AtomicU64,
    sent_datagrams: AtomicU64,
    received_bytes: AtomicU64,
    received_datagrams: AtomicU64,
}

/// What a [`Meter`] showed at one moment: bytes at IP level and datagrams since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeterReading {
    /// Bytes that left.
    pub sent_bytes: u64,
    /// Datagrams that left.
    pub sent_datagrams: u64,
    /// Bytes that arrived.
    pub received_bytes: u64,
    /// Datagrams that arrived.
    pub received_datagrams: u64,
}

impl Meter {
    /// The totals now. The four counters are read one after the other, so a datagram may be in one and not yet in the next.
    pub fn reading(&self) -> MeterReading {
        MeterReading {
            sent_bytes: self.sent_bytes.load(Relaxed),
            sent_datagrams: self.sent_datagrams.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            received_datagrams: self.received_datagrams.load(Relaxed),
        }
    }

    pub(crate) fn sent(&self, cost: Cost) {
        self.sent_bytes.fetch_add(cost.bytes, Relaxed);
        self.sent_datagrams.fetch_add(cost.datagrams, Relaxed);
    }

    /// Adds what another one counted.
    pub(crate) fn add(&self, other: MeterReading) {
        self.sent(Cost { bytes: other.sent_bytes, datagrams: other.sent_datagrams });
        self.received(Cost { bytes: other.received_bytes, datagrams: other.received_datagrams });
    }

    pub(crate) fn received(&self, cost: Cost) {
        self.received_bytes.fetch_add(cost.bytes, Relaxed);
        self.received_datagrams.fetch_add(cost.datagrams, Relaxed);
    }
}

/// What a batch of equal datagrams costs on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) bytes: u64,
    pub(crate) datagrams: u64,
}

impl Cost {
    /// `len` bytes of payload in datagrams of `segment` bytes (the last may be shorter), each with its headers and the line's own overhead.
    pub(crate) fn of(len: usize, segment: usize, peer: SocketAddr, overhead: u16) -> Cost {
        let datagrams = len.div_ceil(segment.max(1)).max(1) as u64;
        Cost { bytes: len as u64 + datagrams * (header_bytes(peer) + u64::from(overhead)), datagrams }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_counted_for_each_datagram() {
        let v4: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:1".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:1".parse().unwrap();
        assert_eq!(Cost::of(1200, 1200, v4, 0), Cost { bytes: 1228, datagrams: 1 });
        assert_eq!(Cost::of(1200, 1200, v6, 0), Cost { bytes: 1248, datagrams: 1 });
        assert_eq!(Cost::of(1200, 1200, mapped, 38), Cost { bytes: 1266, datagrams: 1 });
        assert_eq!(Cost::of(2500, 1200, v4, 0), Cost { bytes: 2584, datagrams: 3 });
        assert_eq!(Cost::of(0, 0, v4, 0), Cost { bytes: 28, datagrams: 1 });
    }
}
