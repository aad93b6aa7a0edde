//! The shaped UDP socket: every datagram that quinn sends passes the line's bucket here. The only file that knows quinn's socket traits.
//!
//! quinn asks a poller before it sends. The poller asks the bucket first and the kernel second, and sleeps until the bucket's deadline or
//! a change of the rate, whichever comes first. `try_send` then pays; if another connection was faster it answers `WouldBlock`, after
//! which quinn polls again and sleeps on the new deadline, so nothing spins. What the endpoint sends without polling (refusals, resets)
//! is dropped when the line has no room, as if it were lost: none of it is worth a byte over the rate.
//!
//! An edge's socket has one line. The gateway's serves all sites, and the poller of each connection knows the connection's (see `downlink`).
//!
//! Datagrams are sent with our own `sendmsg`: quinn-udp writes the traffic class of every packet from ECN alone, and data must be marked
//! as lower effort (RFC 8622) while control keeps the default class.

use crate::bucket::{Class, Readiness};
use crate::downlink::{self, Peer, Turn};
use crate::meter::{Cost, Meter, MeterReading};
use crate::shaper::Shaper;
use crate::units::Rate;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrStorage, sendmsg, setsockopt, socket, sockopt,
};
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, TokioRuntime, UdpPoller};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::Interest;
use tokio::time::Sleep;

/// What a socket is for. It decides who may overtake whom, and how packets are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The edge's parcels: limited, marked as lower effort (DSCP LE, RFC 8622) so that a line with queues of its own puts them last.
    Data,
    /// The edge's messages: limited with the reserve, default class.
    Control,
    /// The gateway's one socket for all edges. Each connection that was taken in by [`accept`](crate::accept) is limited and marked by the line
    /// that it has joined; others are limited by the socket's own.
    Gateway,
}

/// A UDP socket whose datagrams are metered, marked, never fragmented, and sent only when the line's bucket allows.
#[derive(Debug)]
pub struct ShapedSocket {
    io: tokio::net::UdpSocket,
    /// Receives with ECN and coalescing, and has set up the socket against fragmentation.
    state: UdpSocketState,
    role: Role,
    /// The line of an edge; of a gateway, all its lines together.
    shaper: Shaper,
    /// What the gateway answers to those with whom it has no connection.
    strangers: Shaper,
    meter: Meter,
    /// The kernel's buffer had no room at the last try, so the next poll must wait for it.
    full: AtomicBool,
    warned: AtomicBool,
}

/// DSCP LE (RFC 8622) in the upper six bits of the traffic class.
const LOWER_EFFORT: u8 = 1 << 2;
/// Room for bursts of large datagrams: 212,992 bytes, the usual default, hold three of 64 KiB. Best effort: the kernel may grant less.
const SOCKET_BUFFER: usize = 4 << 20;
/// The most that one `sendmsg` may carry: 65,535 less the longest headers, however many segments it is.
const LARGEST_SEND: usize = 65_487;

/// Binds a socket for `role` on the line of `shaper`. An IPv6 address is bound for both families where the system allows it.
///
/// Must be called within a tokio runtime. Errors are the system's: the address in use or not ours, no descriptor left.
pub fn bind(addr: SocketAddr, role: Role, shaper: &Shaper) -> io::Result<Arc<ShapedSocket>> {
    let fd = open(addr)?;
    let socket = std::net::UdpSocket::from(fd);
    let state = UdpSocketState::new((&socket).into())?;
    Ok(Arc::new(ShapedSocket {
        io: tokio::net::UdpSocket::from_std(socket)?,
        state,
        role,
        shaper: shaper.clone(),
        strangers: Shaper::new(Rate::Limited(downlink::STRANGERS)),
        meter: Meter::default(),
        full: AtomicBool::new(false),
        warned: AtomicBool::new(false),
    }))
}

/// A quinn endpoint over a shaped socket; with a server configuration it also accepts.
pub fn endpoint(
    socket: Arc<ShapedSocket>,
    config: quinn::EndpointConfig,
    server: Option<quinn::ServerConfig>,
) -> io::Result<quinn::Endpoint> {
    quinn::Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
}

fn open(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if addr.is_ipv6()
        && let Err(error) = setsockopt(&fd, sockopt::Ipv6V6Only, &false)
    {
        tracing::debug!(%error, "no dual-stack socket; IPv6 only");
    }
    // With the right to do so the system's ceiling is passed; else it is taken as it is.
    let forced = setsockopt(&fd, sockopt::RcvBufForce, &SOCKET_BUFFER)
        .and_then(|()| setsockopt(&fd, sockopt::SndBufForce, &SOCKET_BUFFER));
    if forced.is_err() {
        setsockopt(&fd, sockopt::RcvBuf, &SOCKET_BUFFER)?;
        setsockopt(&fd, sockopt::SndBuf, &SOCKET_BUFFER)?;
    }
    nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    Ok(fd)
}

impl ShapedSocket {
    /// The address it is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// What this socket sent and received.
    pub fn meter(&self) -> MeterReading {
        self.meter.reading()
    }

    /// What a connection without a line of its own draws on, and as what.
    fn own(&self) -> Turn {
        let class = if self.role == Role::Data { Class::Data } else { Class::Control };
        Turn { line: self.shaper.clone(), class }
    }

    /// On whose account the datagram goes that is being sent on this thread.
    fn payer(&self) -> Turn {
        match self.role {
            Role::Data | Role::Control => self.own(),
            Role::Gateway => {
                downlink::take_over().unwrap_or_else(|| Turn { line: self.strangers.clone(), class: Class::Control })
            }
        }
    }

    fn poller(self: Arc<Self>, peer: Peer) -> Pin<Box<dyn UdpPoller>> {
        let waiter = self.shaper.waiter();
        Box::pin(Poller { socket: self, peer, waiter, sleep: None, room: None })
    }

    /// Pays for and sends one piece: one datagram, or equal ones that the kernel takes apart.
    fn send_piece(&self, payer: &Turn, transmit: &Transmit<'_>, piece: &[u8], segment: usize) -> io::Result<()> {
        let cost = Cost::of(piece.len(), segment, transmit.destination, self.shaper.options().packet_overhead);
        if !payer.line.take(payer.class, cost.bytes) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.io.try_io(Interest::WRITABLE, || self.sendmsg(payer.class, transmit, piece, segment)) {
            Ok(()) => {
                self.meter.sent(cost);
                self.shaper.total().sent(cost);
                if !payer.line.is(&self.shaper) {
                    payer.line.total().sent(cost);
                }
                Ok(())
            }
            Err(error) => {
                payer.line.refund(cost.bytes);
                self.judge(error, transmit)
            }
        }
    }

    /// Only a full kernel buffer is news to quinn. Everything else is a datagram that did not leave, which it treats like a lost one:
    /// the line may be down, the address gone, a firewall in the way, and all of that may pass.
    fn judge(&self, error: io::Error, transmit: &Transmit<'_>) -> io::Result<()> {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.full.store(true, Relaxed);
            return Err(error);
        }
        // A probe above the interface's MTU is how the path's MTU is found.
        let expected = error.raw_os_error() == Some(libc::EMSGSIZE);
        if !expected && !self.warned.swap(true, Relaxed) {
            tracing::warn!(%error, peer = %transmit.destination, "a datagram could not be sent; will go on trying");
        }
        Ok(())
    }

    fn sendmsg(&self, class: Class, transmit: &Transmit<'_>, piece: &[u8], segment: usize) -> io::Result<()> {
        let destination = transmit.destination;
        let mark = if class == Class::Data { LOWER_EFFORT } else { 0 };
        let class = mark | transmit.ecn.map_or(0, |ecn| ecn as u8);
        let (class6, segment_size) = (i32::from(class), segment as u16);
        // A mapped IPv4 address on a dual-stack socket takes IPv4's control messages.
        let marked = match destination.ip().to_canonical() {
            IpAddr::V4(_) => ControlMessage::Ipv4Tos(&class),
            IpAddr::V6(_) => ControlMessage::Ipv6TClass(&class6),
        };
        let (source4, source6) = sources(transmit.src_ip);
        let mut control = [marked, marked, marked];
        let mut count = 1;
        let source = source4.as_ref().map(ControlMessage::Ipv4PacketInfo);
        if let Some(source) = source.or(source6.as_ref().map(ControlMessage::Ipv6PacketInfo)) {
            control[count] = source;
            count += 1;
        }
        if piece.len() > segment {
            control[count] = ControlMessage::UdpGsoSegments(&segment_size);
            count += 1;
        }
        let address = SockaddrStorage::from(destination);
        loop {
            match sendmsg(
                self.io.as_raw_fd(),
                &[IoSlice::new(piece)],
                &control[..count],
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
                Some(&address),
            ) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop).map_err(io::Error::from),
            }
        }
    }
}

/// The address to send from, as the kernel wants it, so that an answer leaves from where the question arrived.
fn sources(ip: Option<IpAddr>) -> (Option<libc::in_pktinfo>, Option<libc::in6_pktinfo>) {
    match ip.map(|ip| ip.to_canonical()) {
        None => (None, None),
        Some(IpAddr::V4(ip)) => {
            let ip = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
            (Some(libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: ip, ipi_addr: libc::in_addr { s_addr: 0 } }), None)
        }
        Some(IpAddr::V6(ip)) => {
            (None, Some(libc::in6_pktinfo { ipi6_ifindex: 0, ipi6_addr: libc::in6_addr { s6_addr: ip.octets() } }))
        }
    }
}

impl AsyncUdpSocket for ShapedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let newcomer = if self.role == Role::Gateway { downlink::newcomer() } else { None };
        let own = self.own();
        self.poller(newcomer.unwrap_or_else(|| Peer::new(own.line, own.class)))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let at_once = (LARGEST_SEND / segment).max(1) * segment;
        let mut pieces = transmit.contents.chunks(at_once);
        let payer = self.payer();
        self.send_piece(&payer, transmit, pieces.next().unwrap_or_default(), segment)?;
        for piece in pieces {
            // The first piece has left and cannot be taken back: what finds the buffer full now counts as lost on the way.
            self.send_piece(&payer, transmit, piece, segment).or_else(|error| match error.kind() {
                io::ErrorKind::WouldBlock => Ok(()),
                _ => Err(error),
            })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, meta));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => break received?,
            }
        };
        for arrived in &meta[..count] {
            let cost = Cost::of(arrived.len, arrived.stride, arrived.addr, self.shaper.options().packet_overhead);
            self.meter.received(cost);
            self.shaper.total().received(cost);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// One where a rate is to be kept: a batch would leave as one burst (measured at 1.6 Mbit/s: peaks of 170-235 % over 100 ms). The gateway's
    /// connections may get a rate at any time.
    fn max_transmit_segments(&self) -> usize {
        let unlimited = self.role != Role::Gateway && self.shaper.rate() == Rate::Unlimited;
        if unlimited { self.state.max_gso_segments() } else { 1 }
    }

    /// One, although the kernel coalesces: quinn multiplies this with the largest datagram we accept, which is as large as any
    /// coalesced packet can be, so each of its buffers holds one anyway.
    fn max_receive_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// One connection's turn at the socket: waits for the line first, then for the kernel.
struct Poller {
    socket: Arc<ShapedSocket>,
    peer: Peer,
    waiter: u64,
    /// Made at the first wait and used again: a busy connection waits for each of its datagrams.
    sleep: Option<Pin<Box<Sleep>>>,
    /// The wait for room in the kernel's buffer, which is rare. Each poller has its own: the socket's plain `poll_send_ready` wakes
    /// only the last that asked.
    room: Option<Room>,
}

type Room = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("waiter", &self.waiter).finish_non_exhaustive()
    }
}

impl Poller {
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            let turn = self.peer.turn();
            match turn.line.poll(turn.class, self.waiter, cx.waker()) {
                Readiness::Now => return Poll::Ready(turn),
                Readiness::Never => return Poll::Pending,
                Readiness::At(deadline) => ready!(self.poll_sleep(cx, deadline)),
            }
        }
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(deadline);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.socket.full.load(Relaxed) {
            self.room = None;
            return Poll::Ready(Ok(()));
        }
        let room = self.room.get_or_insert_with(|| {
            let socket = self.socket.clone();
            Box::pin(async move { socket.io.writable().await })
        });
        let writable = ready!(room.as_mut().poll(cx));
        self.room = None;
        self.socket.full.store(false, Relaxed);
        Poll::Ready(writable)
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let turn = ready!(self.poll_line(cx));
        ready!(self.poll_room(cx))?;
        if self.socket.role == Role::Gateway {
            downlink::hand_over(turn);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.peer.turn().line.forget(self.waiter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BitsPerSec;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    struct Bench {
        socket: Arc<ShapedSocket>,
        shaper: Shaper,
        peer: std::net::UdpSocket,
    }

    impl Bench {
        /// A data socket on a line of this rate, known to the runtime as writable, and someone to send to.
        async fn new(rate: Rate) -> Bench {
            Bench::of(Role::Data, rate).await
        }

        async fn of(role: Role, rate: Rate) -> Bench {
            let shaper = Shaper::new(rate);
            let socket = bind("127.0.0.1:0".parse().unwrap(), role, &shaper).unwrap();
            socket.io.writable().await.unwrap();
            Bench { socket, shaper, peer: std::net::UdpSocket::bind("127.0.0.1:0").unwrap() }
        }

        fn send(&self, len: usize) -> io::Result<()> {
            let destination = self.peer.local_addr()?;
            let contents = &vec![0; len];
            self.socket.try_send(&Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None })
        }
    }

    const SLOW: Rate = Rate::Limited(BitsPerSec::LEAST);

    #[tokio::test]
    async fn would_block_is_followed_by_a_wait_and_a_new_rate_ends_it() {
        let bench = Bench::new(SLOW).await;
        let mut poller = bench.socket.clone().create_io_poller();
        std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
        bench.send(1_200).unwrap();
        // In debt for more than a second: neither a send nor a poll goes through, so a caller sleeps and does not spin.
        assert_eq!(bench.send(1_200).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(poller.as_mut().poll_writable(&mut cx).is_pending());
        assert!(poller.as_mut().poll_writable(&mut cx).is_pending());
        assert_eq!(wakes.0.load(Relaxed), 0);
        bench.shaper.set_rate(Rate::Unlimited);
        assert_eq!(wakes.0.load(Relaxed), 1);
        assert!(poller.as_mut().poll_writable(&mut cx).is_ready());
        bench.send(1_200).unwrap();
        assert_eq!(bench.socket.meter().sent_datagrams, 2);
        assert_eq!(bench.socket.meter().sent_bytes, 2 * 1_228);
    }

    #[tokio::test]
    async fn every_waiting_poller_is_woken() {
        let bench = Bench::new(Rate::Closed).await;
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut pollers: Vec<_> = (0..3).map(|_| bench.socket.clone().create_io_poller()).collect();
        for poller in &mut pollers {
            assert!(poller.as_mut().poll_writable(&mut Context::from_waker(&waker)).is_pending());
        }
        pollers.pop();
        bench.shaper.set_rate(Rate::Unlimited);
        assert_eq!(wakes.0.load(Relaxed), 2, "one of three is gone");
    }

    /// Polls once: whether the poller may send.
    fn asks(poller: &mut Pin<Box<dyn UdpPoller>>, wakes: &Arc<Wakes>) -> bool {
        let waker = Waker::from(wakes.clone());
        poller.as_mut().poll_writable(&mut Context::from_waker(&waker)).is_ready()
    }

    #[tokio::test]
    async fn of_the_gateways_connections_each_waits_for_its_own_line_and_pays_there() {
        let bench = Bench::of(Role::Gateway, Rate::Unlimited).await;
        let (slow, fast) = (Shaper::new(SLOW), Shaper::new(Rate::Unlimited));
        let peers = [&slow, &slow, &fast].map(|line| Peer::new(line.clone(), Class::Data));
        let mut pollers = peers.clone().map(|peer| bench.socket.clone().poller(peer));
        let wakes = [(); 3].map(|()| Arc::new(Wakes::default()));
        let woken = || wakes.each_ref().map(|wakes| wakes.0.load(Relaxed));
        // Both of the slow site may begin; who is second has to wait, also if it asked before the first sent.
        assert!(asks(&mut pollers[0], &wakes[0]));
        bench.send(1_200).unwrap();
        assert!(!asks(&mut pollers[0], &wakes[0]) && !asks(&mut pollers[1], &wakes[1]));
        for _ in 0..100 {
            assert!(asks(&mut pollers[2], &wakes[2]));
            bench.send(1_200).unwrap();
        }
        assert!(!asks(&mut pollers[0], &wakes[0]) && !asks(&mut pollers[1], &wakes[1]));
        assert_eq!(woken(), [0, 0, 0], "nobody spins, and nobody is woken by others");
        assert_eq!((slow.meter().sent_datagrams, fast.meter().sent_datagrams), (1, 100));
        // A new rate wakes those of its line. What was handed over to a poller that lost the race is not sent.
        slow.set_rate(Rate::Limited(BitsPerSec::kbit(20_000)));
        assert_eq!(woken(), [1, 1, 0]);
        std::future::poll_fn(|cx| pollers[0].as_mut().poll_writable(cx)).await.unwrap();
        assert!(slow.take(Class::Data, 1_000_000), "another thread was faster");
        assert_eq!(bench.send(1_200).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!asks(&mut pollers[0], &wakes[0]));
        // Nobody was asked: the strangers' account.
        bench.send(1_200).unwrap();
        assert_eq!((slow.meter().sent_datagrams, fast.meter().sent_datagrams), (1, 100));
        assert_eq!(bench.shaper.meter().sent_datagrams, 102);
        let refused = (0..1_000).filter(|_| bench.send(1_200).is_err()).count();
        assert!(refused > 900, "a flood of strangers is answered little");
    }

    #[tokio::test]
    async fn the_gateway_marks_each_connections_datagrams_by_what_it_carries() {
        use nix::sys::socket::{ControlMessageOwned, SockaddrIn, recvmsg};
        let bench = Bench::of(Role::Gateway, Rate::Unlimited).await;
        setsockopt(&bench.peer, sockopt::IpRecvTos, &true).unwrap();
        let line = Shaper::new(Rate::Unlimited);
        for (class, dscp) in [(Class::Data, 1), (Class::Control, 0), (Class::Data, 1)] {
            let mut poller = bench.socket.clone().poller(Peer::new(line.clone(), class));
            assert!(asks(&mut poller, &Arc::default()));
            bench.send(100).unwrap();
            let (mut buffer, mut space) = ([0; 2_000], nix::cmsg_space!(u8));
            let mut iov = [IoSliceMut::new(&mut buffer)];
            let fd = bench.peer.as_raw_fd();
            let message = recvmsg::<SockaddrIn>(fd, &mut iov, Some(&mut space), MsgFlags::empty()).unwrap();
            let tos = message.cmsgs().unwrap().find_map(|control| match control {
                ControlMessageOwned::Ipv4Tos(tos) => Some(tos),
                _ => None,
            });
            assert_eq!(tos.unwrap() >> 2, dscp, "{class:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_joins_a_line_pays_there_what_it_sent_before_and_is_woken() {
        let bench = Bench::of(Role::Gateway, Rate::Unlimited).await;
        let (first, site) = (Shaper::new(SLOW), Shaper::new(Rate::Limited(BitsPerSec::kbit(1_000))));
        let peer = Peer::new(first.clone(), Class::Control);
        let mut poller = bench.socket.clone().poller(peer.clone());
        let wakes = Arc::new(Wakes::default());
        while asks(&mut poller, &wakes) {
            bench.send(1_200).unwrap();
        }
        let before = first.spent();
        assert!(before >= 1_228);
        peer.join(&site, Class::Data);
        assert_eq!(wakes.0.load(Relaxed), 1);
        assert_eq!((site.spent(), site.meter().sent_bytes), (before, before));
        assert!(!asks(&mut poller, &wakes), "first it pays");
        std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
        bench.send(1_200).unwrap();
        assert_eq!((site.spent(), first.spent()), (before + 1_228, before));
        peer.join(&site, Class::Control);
        assert_eq!(site.spent(), before + 1_228, "nothing is paid twice");
    }

    #[tokio::test]
    async fn a_datagram_that_the_kernel_refuses_costs_nothing() {
        let bench = Bench::new(Rate::Limited(BitsPerSec::kbit(1_000))).await;
        bench.shaper.record(10);
        let mut poller = bench.socket.clone().create_io_poller();
        std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
        // Larger than any datagram: EMSGSIZE, as a probe above the interface's MTU.
        bench.send(65_520).unwrap();
        assert_eq!(bench.socket.meter(), MeterReading::default());
        bench.send(100).unwrap();
        assert_eq!(bench.shaper.take_record().len(), 1);
    }

    #[tokio::test]
    async fn batches_are_cut_to_what_one_call_may_carry() {
        let bench = Bench::new(Rate::Unlimited).await;
        let destination = bench.peer.local_addr().unwrap();
        bench.peer.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let contents = &vec![7; 5 * 20_000 + 10];
        let transmit = Transmit { destination, ecn: None, contents, segment_size: Some(20_000), src_ip: None };
        bench.socket.try_send(&transmit).unwrap();
        let lens: Vec<usize> = (0..6).map(|_| bench.peer.recv(&mut vec![0; 65_536]).unwrap()).collect();
        assert_eq!(lens, [20_000, 20_000, 20_000, 20_000, 20_000, 10]);
        assert_eq!(bench.socket.meter().sent_bytes, 100_010 + 6 * 28);
    }
}
