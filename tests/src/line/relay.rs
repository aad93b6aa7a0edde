//! The emulated line in front of a UDP port of this process, for places where no namespaces may be made. One relay is one line: all
//! that is sent to its address shares it, so each edge gets a relay of its own.

use super::link::{Link, LinkSpec, LinkStats};
use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// What IP and UDP headers add to a datagram on the line (IPv4; the emulated line has no IPv6 of its own).
const HEADERS: usize = 28;
/// An edge has a data and a control socket and opens new ones when it dials again.
const MOST_CLIENTS: usize = 256;
/// A client that has been silent for longer than any time-out of ours is forgotten.
const CLIENT_IDLE: Duration = Duration::from_secs(3_600);
/// A second of datagrams at 30 Mbit/s while nobody reads.
const SOCKET_BUFFER: usize = 4 << 20;
/// Where to sleep to when nothing is on the way.
const LONG: Duration = Duration::from_secs(3_600);

/// A line between the clients that send to [`Relay::addr`] and the target. It ends when dropped.
pub struct Relay {
    line: Arc<Line>,
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

/// What a relay has carried.
#[derive(Debug, Clone, Default)]
pub struct RelayReading {
    /// From the clients to the target.
    pub up: LinkStats,
    /// From the target to the clients.
    pub down: LinkStats,
}

struct Line {
    front: UdpSocket,
    /// Where the target sees IPv4 clients come from.
    source: Ipv4Addr,
    started: Instant,
    state: Mutex<State>,
    /// Something is on the way that may be due before all else.
    changed: Notify,
}

struct State {
    target: SocketAddr,
    up: Link<Passing>,
    down: Link<Passing>,
    clients: HashMap<SocketAddr, Client>,
}

/// A client's own socket towards the target, so that the target can tell clients apart.
struct Client {
    socket: Arc<UdpSocket>,
    last: Instant,
    /// Ends the task that reads the socket.
    task: tokio::task::AbortHandle,
}

/// A datagram on the way: up through a client's socket, down to the client's address.
struct Passing {
    socket: Option<Arc<UdpSocket>>,
    to: SocketAddr,
    datagram: Vec<u8>,
}

impl Relay {
    /// A line on loopback to `target`, like `up` towards it and like `down` back. Within a tokio runtime.
    pub async fn start(target: SocketAddr, up: LinkSpec, down: LinkSpec) -> Result<Relay> {
        Self::with_seed(target, up, down, 1).await
    }

    /// The same with a seed of the losses.
    pub async fn with_seed(target: SocketAddr, up: LinkSpec, down: LinkSpec, seed: u64) -> Result<Relay> {
        Self::from(Ipv4Addr::UNSPECIFIED, target, up, down, seed).await
    }

    /// The same, seen by the target as coming from `source` (any 127.x.y.z): a branch with an address of its own.
    pub async fn from(source: Ipv4Addr, target: SocketAddr, up: LinkSpec, down: LinkSpec, seed: u64) -> Result<Relay> {
        let front = UdpSocket::bind("127.0.0.1:0").await.context("bind the relay's port")?;
        enlarge(&front);
        let addr = front.local_addr()?;
        let state =
            State { target, up: Link::new(up, seed * 2 + 1), down: Link::new(down, seed * 2), clients: HashMap::new() };
        let line =
            Arc::new(Line { front, source, started: Instant::now(), state: Mutex::new(state), changed: Notify::new() });
        let mut tasks = JoinSet::new();
        tasks.spawn(line.clone().receive());
        tasks.spawn(line.clone().deliver());
        Ok(Relay { line, addr, _tasks: tasks })
    }

    /// Where clients send to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Loses everything both ways until [`Relay::heal`], also what is on the way.
    pub fn cut(&self) {
        let mut state = self.line.lock();
        state.up.cut();
        state.down.cut();
    }

    /// Carries again.
    pub fn heal(&self) {
        let mut state = self.line.lock();
        state.up.heal();
        state.down.heal();
    }

    /// Other links from now on.
    pub fn set_links(&self, up: LinkSpec, down: LinkSpec) {
        let mut state = self.line.lock();
        state.up.set_spec(up);
        state.down.set_spec(down);
    }

    /// Another target for all that arrives from now on, as after a gateway was moved behind the same address.
    pub fn set_target(&self, target: SocketAddr) {
        let mut state = self.line.lock();
        state.target = target;
        state.clients.clear();
    }

    /// What it has carried so far.
    pub fn reading(&self) -> RelayReading {
        let state = self.line.lock();
        RelayReading { up: state.up.stats().clone(), down: state.down.stats().clone() }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The clients' tasks hold the line: without this they would go on reading.
        self.line.lock().clients.clear();
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    async fn receive(self: Arc<Self>) {
        let mut buffer = vec![0; 65_536];
        loop {
            // Errors here are answers to what was sent before (a client's port has closed); there is nothing to do about them.
            let Ok((len, from)) = self.front.recv_from(&mut buffer).await else { continue };
            let Some((socket, to)) = self.client(from).await else { continue };
            let passing = Passing { socket: Some(socket), to, datagram: buffer[..len].to_vec() };
            self.arrive(passing, |state| &mut state.up);
        }
    }

    async fn receive_back(self: Arc<Self>, socket: Arc<UdpSocket>, client: SocketAddr) {
        let mut buffer = vec![0; 65_536];
        loop {
            let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
            if self.lock().target != from {
                continue;
            }
            let passing = Passing { socket: None, to: client, datagram: buffer[..len].to_vec() };
            self.arrive(passing, |state| &mut state.down);
        }
    }

    fn arrive(&self, mut passing: Passing, direction: impl Fn(&mut State) -> &mut Link<Passing>) {
        let now = self.clock();
        let mut state = self.lock();
        let link = direction(&mut state);
        if link.chance(link.spec().corrupt) {
            let middle = passing.datagram.len() / 2;
            if let Some(byte) = passing.datagram.get_mut(middle) {
                *byte ^= 1;
            }
        }
        link.arrive(now, passing.datagram.len() + HEADERS, passing);
        drop(state);
        self.changed.notify_one();
    }

    /// The socket of the client at `from`, made at its first datagram, and where it sends to.
    async fn client(self: &Arc<Self>, from: SocketAddr) -> Option<(Arc<UdpSocket>, SocketAddr)> {
        {
            let mut state = self.lock();
            let target = state.target;
            if let Some(client) = state.clients.get_mut(&from) {
                client.last = Instant::now();
                return Some((client.socket.clone(), target));
            }
            state.clients.retain(|_, client| client.last.elapsed() < CLIENT_IDLE);
            if state.clients.len() >= MOST_CLIENTS {
                return None;
            }
        }
        let any = if from.is_ipv4() { IpAddr::V4(self.source) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let socket = Arc::new(UdpSocket::bind((any, 0)).await.ok()?);
        enlarge(&socket);
        let task = tokio::spawn(self.clone().receive_back(socket.clone(), from)).abort_handle();
        let mut state = self.lock();
        state.clients.insert(from, Client { socket: socket.clone(), last: Instant::now(), task });
        Some((socket, state.target))
    }

    async fn deliver(self: Arc<Self>) {
        loop {
            let next = loop {
                let (passing, next) = self.due();
                let Some(passing) = passing else { break next };
                let socket = passing.socket.as_deref().unwrap_or(&self.front);
                // A target that is down answers with an error, which the line does not know of.
                let _ = socket.send_to(&passing.datagram, passing.to).await;
            };
            let until = next.map_or(Instant::now() + LONG, |due| self.started + Duration::from_nanos(due));
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// A datagram that is due, or else when the next one is.
    fn due(&self) -> (Option<Passing>, Option<u64>) {
        let now = self.clock();
        let mut state = self.lock();
        let passing = state.up.leave(now).or_else(|| state.down.leave(now));
        let next = [state.up.next_due(), state.down.next_due()].into_iter().flatten().min();
        (passing, next)
    }
}

/// Makes room for bursts, as far as the system allows: what the kernel dropped here would be lost without being counted.
fn enlarge(socket: &UdpSocket) {
    let _ = setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER));
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::{Fate, Rate, Span};

    /// A target that sends everything back, and a client of the relay in front of it.
    async fn pair(link: LinkSpec) -> Result<(Relay, UdpSocket)> {
        let target = UdpSocket::bind("127.0.0.1:0").await?;
        let addr = target.local_addr()?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok((len, from)) = target.recv_from(&mut buffer).await {
                let _ = target.send_to(&buffer[..len], from).await;
            }
        });
        let relay = Relay::start(addr, link.clone(), link).await?;
        let client = UdpSocket::bind("127.0.0.1:0").await?;
        client.connect(relay.addr()).await?;
        Ok((relay, client))
    }

    async fn echo(client: &UdpSocket, message: &[u8]) -> Result<Vec<u8>> {
        client.send(message).await?;
        let mut buffer = vec![0; 2_000];
        let len = tokio::time::timeout(Duration::from_secs(30), client.recv(&mut buffer)).await??;
        Ok(buffer[..len].to_vec())
    }

    /// Waits for an event, at most half a minute.
    async fn until(event: impl Fn() -> bool) -> Result<()> {
        let started = Instant::now();
        while !event() {
            anyhow::ensure!(started.elapsed() < Duration::from_secs(30), "it did not happen");
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    #[tokio::test]
    async fn both_ways_take_their_time() -> Result<()> {
        let (_relay, client) = pair(LinkSpec { delay: Span(30_000_000), ..LinkSpec::default() }).await?;
        let asked = Instant::now();
        assert_eq!(echo(&client, b"hello").await?, b"hello");
        assert!(asked.elapsed() >= Duration::from_millis(60));
        Ok(())
    }

    #[tokio::test]
    async fn many_clients_are_told_apart() -> Result<()> {
        let (relay, first) = pair(LinkSpec::default()).await?;
        for n in 0..62u8 {
            let client = UdpSocket::bind("127.0.0.1:0").await?;
            client.connect(relay.addr()).await?;
            assert_eq!(echo(&client, &[n]).await?, [n]);
        }
        assert_eq!(echo(&first, b"first").await?, b"first");
        Ok(())
    }

    #[tokio::test]
    async fn a_cut_line_carries_nothing_and_a_healed_one_does() -> Result<()> {
        let (relay, client) = pair(LinkSpec::default()).await?;
        echo(&client, b"before").await?;
        relay.cut();
        client.send(b"lost").await?;
        until(|| relay.reading().up.of(Fate::Outage).packets > 0).await?;
        relay.heal();
        assert_eq!(echo(&client, b"after").await?, b"after");
        Ok(())
    }

    #[tokio::test]
    async fn the_rate_and_the_mtu_hold() -> Result<()> {
        let (relay, client) = pair(LinkSpec { rate: Rate::mbit(2.0), ..LinkSpec::default() }).await?;
        for _ in 0..200 {
            client.send(&[0; 972]).await?;
            tokio::task::yield_now().await;
        }
        client.send(&[0; 1_473]).await?;
        until(|| relay.reading().up.offered.iter().sum::<u64>() >= 201_501).await?;
        let up = relay.reading().up;
        // 200 ms of queue hold 50 packets of 1000 bytes, and some left while the others came.
        assert!(up.of(Fate::Delivered).packets >= 50 && up.of(Fate::QueueFull).packets >= 50, "{:?}", up.counts);
        assert_eq!(up.of(Fate::TooLarge).packets, 1);
        Ok(())
    }

    #[tokio::test]
    async fn a_flipped_bit_is_one_bit() -> Result<()> {
        let (_relay, client) = pair(LinkSpec { corrupt: 1.0, ..LinkSpec::default() }).await?;
        // Flipped there and flipped back.
        assert_eq!(echo(&client, &[0; 100]).await?, [0; 100]);
        Ok(())
    }
}
