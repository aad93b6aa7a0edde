//! quinn's transport parameters for each role, and why they are as they are.
//!
//! What a packet costs on the wire beside its payload, IPv4 (IPv6: 20 more):
//!
//! | part | bytes |
//! |---|---|
//! | IP and UDP headers | 28 |
//! | QUIC short header: flags 1, connection id 4, packet number 1-2 | 6-7 |
//! | AEAD tag | 16 |
//! | STREAM frame: type 1, id 1-2, offset 1-8, length 0-2 | 4-9 |
//! | a datagram that acknowledges, as a whole | about 62 |
//!
//! Measured without loss: 56 bytes with every 1452-byte datagram of data, 62 for one that acknowledges. So 4.6 % of a 1200-byte datagram,
//! 3.8 % of a 1452-byte one, 0.1 % of a 64 KiB one.

use crate::downlink::Peer;
use crate::shaper::Shaper;
use crate::units::{BitsPerSec, Rate};
use crate::window::{LineWindowConfig, PeerWindowConfig};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, socket, sockopt};
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::RandomConnectionIdGenerator;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// Every QUIC path carries this, RFC 9000 section 14; also over IPsec and PPPoE, and with a path MTU of 1280 over IPv6 (1280 - 48).
const FIRST_DATAGRAM: u16 = 1_200;
/// What an Ethernet path carries over IPv6, and over IPv4 with room for PPPoE's 8 bytes.
const ETHERNET_DATAGRAM: u16 = 1_452;
/// The largest UDP payload: 65,535 less the UDP header. quinn's own limit.
const LARGEST_DATAGRAM: u16 = 65_527;
/// One datagram may keep the line for this long, so that someone else's packet never waits much longer than behind an ordinary one at
/// 2 Mbit/s (1500 bytes, 6 ms).
const DATAGRAM_TIME_US: u64 = 6_500;
/// Four random bytes tell apart the few thousand connections of one endpoint; quinn draws again on a collision. quinn's default is 8.
const CONNECTION_ID_BYTES: usize = 4;

/// Control is kept alive at this pace: below the 30 s after which common NATs forget a UDP flow. One PING and its ACK are about 110 bytes,
/// so 260 bytes a minute.
const CONTROL_KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Three missed keep-alives and some: the line is gone, dial again.
const CONTROL_IDLE: Duration = Duration::from_secs(90);
/// Data is not kept alive (nothing at all may leave while closed). A pause up to this long costs no new handshake (about 5 kB);
/// a longer one does, which is less than keep-alives over the same time would be.
const DATA_IDLE: Duration = Duration::from_secs(30 * 60);

/// A path that grew is found within this time; a shorter interval would spend probes on a line that never changes. quinn's default is 10 min.
const PROBE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// One ACK for so many packets of data at most (and after `ACK_DELAY`): an ACK is some 62 bytes of the other direction, which the
/// branch's downloads share. quinn's default is one for two.
const ACK_EVERY: u32 = 16;
/// At 1.6 Mbit/s twelve packets. quinn lowers it to the round trip where that is shorter, but not below 25 ms.
const ACK_DELAY: Duration = Duration::from_millis(90);
/// The same while courtesy listens: a sample each 25 ms or for each packet, whichever is rarer, so four in each of its steps. The delay
/// itself is taken off each sample and would do no harm. Costs 16 kbit/s of the other direction at 1.6 Mbit/s, against 6 without.
const COURTEOUS_ACK_DELAY: Duration = Duration::from_millis(25);

/// Bytes that quinn keeps for retransmission: half a second of line, so that what is queued here stays short (the default, 10 MB, is
/// 40 s of a 2 Mbit/s line), within these bounds.
const SEND_WINDOW: (u64, u64) = (64 << 10, 256 << 10);
const SEND_WINDOW_FAST: u64 = 16 << 20;
/// What one stream of an edge may have of that.
const GATEWAY_STREAM_WINDOW: u32 = 4 << 20;
/// What an edge may have under way to the gateway before it is read, bytes: bounds memory per connection.
pub const GATEWAY_WINDOW: u32 = 6 << 20;
/// The same for a connection of which it is not known yet whose it is, bytes. A message of 256 KiB, the longest, fits.
pub const NEWCOMER_WINDOW: u32 = 256 << 10;
/// The same towards the edge.
const EDGE_WINDOW: u32 = 1 << 20;
/// Streams that a peer may have open at once.
const STREAMS: u32 = 32;

/// The largest UDP payload worth trying towards `peer` at `rate`, in bytes: what the route's interface carries, and what takes the line
/// no longer than 6.5 ms: 1452 up to 1.8 Mbit/s, 8 kB at 10 Mbit/s, up to 65,527 where nothing is limited.
pub fn largest_datagram(rate: Rate, peer: SocketAddr) -> u16 {
    let by_rate = match rate {
        Rate::Closed => ETHERNET_DATAGRAM,
        Rate::Limited(limit) => datagram_at(limit),
        Rate::Unlimited => LARGEST_DATAGRAM,
    };
    by_rate.min(route_payload(peer).unwrap_or(ETHERNET_DATAGRAM)).max(FIRST_DATAGRAM)
}

fn datagram_at(rate: BitsPerSec) -> u16 {
    let bytes = rate.bits().saturating_mul(DATAGRAM_TIME_US) / 8_000_000;
    u16::try_from(bytes).unwrap_or(u16::MAX).clamp(ETHERNET_DATAGRAM, LARGEST_DATAGRAM)
}

/// The UDP payload that the route to `peer` takes on this machine, asked from the kernel without sending anything.
fn route_payload(peer: SocketAddr) -> Option<u16> {
    let (family, headers) = match peer.ip().to_canonical().is_ipv4() {
        true => (AddressFamily::Inet, 28),
        false => (AddressFamily::Inet6, 48),
    };
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(peer)).ok()?;
    let mtu = u32::try_from(getsockopt(&fd, sockopt::IpMtu).ok()?).ok()?;
    // An IPv4 packet ends at 65,535 bytes even where the interface takes more (loopback: 65,536).
    let payload = mtu.min(65_535).saturating_sub(headers);
    // Ethernet's full frame is left alone: behind the first router PPPoE may take 8 bytes of it.
    let payload = if mtu == 1_500 { payload.min(u32::from(ETHERNET_DATAGRAM)) } else { payload };
    u16::try_from(payload).ok()
}

/// The endpoint's parameters, the same for every role: datagrams of any size are accepted (the sender's rate decides how large they
/// are), connection ids are short. A gateway adds its lasting reset key, so that edges notice a restart at once.
pub fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(LARGEST_DATAGRAM).expect("65,527 is the largest value allowed");
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(CONNECTION_ID_BYTES)));
    config
}

/// The edge's data connection on the line of `shaper`, with datagrams of at most `largest` bytes of UDP payload (see
/// [`largest_datagram`]; values below 1200 mean 1200). Sizes that follow from the rate follow the rate at this moment; the window in
/// flight goes on following it.
pub fn edge_data_transport(shaper: &Shaper, largest: u16) -> TransportConfig {
    let mut config = common();
    config
        .max_idle_timeout(Some(idle(DATA_IDLE)))
        .mtu_discovery_config(discovery(largest))
        .send_window(send_window(shaper.rate()))
        .congestion_controller_factory(Arc::new(LineWindowConfig::new(shaper.clone())))
        .ack_frequency_config(Some(few_acks(shaper.courtesy_target().is_some())))
        .stream_receive_window(EDGE_WINDOW.into())
        .receive_window(EDGE_WINDOW.into());
    config
}

/// The edge's control connection: small messages, kept alive, datagrams of 1200 bytes without probing (a probe would cost more than
/// larger datagrams ever save here).
pub fn edge_control_transport() -> TransportConfig {
    let mut config = common();
    config
        .max_idle_timeout(Some(idle(CONTROL_IDLE)))
        .keep_alive_interval(Some(CONTROL_KEEP_ALIVE))
        .mtu_discovery_config(None)
        .send_window(SEND_WINDOW.1)
        .stream_receive_window(EDGE_WINDOW.into())
        .receive_window(EDGE_WINDOW.into());
    config
}

/// The gateway's side of both connections. It sends acknowledgements and small answers, so it does not probe for larger datagrams.
/// The effective idle time-out is the smaller one of both ends, so the edge's decides.
pub fn gateway_transport() -> TransportConfig {
    let mut config = common();
    config
        .max_idle_timeout(Some(idle(DATA_IDLE)))
        .mtu_discovery_config(None)
        .send_window(SEND_WINDOW_FAST)
        .stream_receive_window(GATEWAY_STREAM_WINDOW.into())
        .receive_window(GATEWAY_WINDOW.into());
    config
}

/// The gateway's side of a connection of which it is not yet known who it is: little memory for it, and a window over whatever line its
/// `peer` is on. When it is known, [`Connection::set_receive_window`](quinn::Connection::set_receive_window) with [`GATEWAY_WINDOW`] gives
/// it what an edge has, and `set_send_window` with [`send_window`] what its line can use.
pub(crate) fn newcomer_transport(peer: &Peer) -> TransportConfig {
    let mut config = gateway_transport();
    config
        .receive_window(NEWCOMER_WINDOW.into())
        .send_window(SEND_WINDOW.1)
        .congestion_controller_factory(Arc::new(PeerWindowConfig::new(peer.clone())));
    config
}

/// What all have in common: the first datagram size, no unreliable datagrams, no spin bit (it shows the round trip to onlookers).
fn common() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .initial_mtu(FIRST_DATAGRAM)
        .min_mtu(FIRST_DATAGRAM)
        .allow_spin(false)
        .datagram_receive_buffer_size(None)
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(STREAMS.into());
    config
}

/// Probes go straight to `largest` and, when that is lost three times, to the middle: a binary search with fine steps would spend ten
/// datagrams of ever larger size to gain a fraction of a per cent. quinn detects black holes by itself and falls back to 1200.
fn discovery(largest: u16) -> Option<MtuDiscoveryConfig> {
    let room = largest.saturating_sub(FIRST_DATAGRAM);
    if room == 0 {
        return None;
    }
    let mut config = MtuDiscoveryConfig::default();
    config.upper_bound(largest).minimum_change(room / 2 + 1).interval(PROBE_INTERVAL);
    Some(config)
}

fn few_acks(courteous: bool) -> AckFrequencyConfig {
    let delay = if courteous { COURTEOUS_ACK_DELAY } else { ACK_DELAY };
    let mut acks = AckFrequencyConfig::default();
    // quinn acknowledges when more than this number has arrived.
    acks.ack_eliciting_threshold((ACK_EVERY - 1).into()).max_ack_delay(Some(delay));
    acks
}

/// Bytes that one connection may hold for sending and for repair at this rate: half a second of it, within bounds.
pub fn send_window(rate: Rate) -> u64 {
    match rate {
        Rate::Closed => SEND_WINDOW.0,
        Rate::Limited(limit) if limit.bits() <= 20_000_000 => (limit.bytes() / 2).clamp(SEND_WINDOW.0, SEND_WINDOW.1),
        Rate::Limited(limit) => (limit.bytes() / 2).clamp(SEND_WINDOW.1, SEND_WINDOW_FAST),
        Rate::Unlimited => SEND_WINDOW_FAST,
    }
}

fn idle(time: Duration) -> IdleTimeout {
    IdleTimeout::from(VarInt::from_u32(time.as_millis() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rate: &str, peer: &str) -> u16 {
        largest_datagram(rate.parse().unwrap(), peer.parse().unwrap())
    }

    #[test]
    fn a_datagram_never_keeps_the_line_for_long() {
        assert_eq!(at("256 kbit/s", "127.0.0.1:1"), 1_452);
        assert_eq!(at("1.6 Mbit/s", "127.0.0.1:1"), 1_452);
        assert_eq!(at("2 Mbit/s", "127.0.0.1:1"), 1_625);
        assert_eq!(at("10 Mbit/s", "127.0.0.1:1"), 8_125);
        assert_eq!(at("unlimited", "127.0.0.1:1"), 65_507);
    }

    #[test]
    fn ipv6_and_mapped_addresses_are_known() {
        assert_eq!(at("unlimited", "[::1]:1"), 65_487);
        assert_eq!(at("unlimited", "[::ffff:127.0.0.1]:1"), 65_507);
    }

    #[test]
    fn without_a_route_ethernet_is_assumed() {
        // A link-local address without its interface leads nowhere.
        assert_eq!(at("unlimited", "[fe80::1]:1"), 1_452);
    }

    #[test]
    fn the_send_window_is_half_a_second_of_line() {
        assert_eq!(send_window("256 kbit/s".parse().unwrap()), 64 << 10);
        assert_eq!(send_window("1.6 Mbit/s".parse().unwrap()), 100_000);
        assert_eq!(send_window("10 Mbit/s".parse().unwrap()), 256 << 10);
        assert_eq!(send_window("100 Mbit/s".parse().unwrap()), 6_250_000);
    }
}
