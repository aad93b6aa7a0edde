//! quinn over the shaped socket on loopback: the rate holds, changes bite, closed is closed, large datagrams are found, packets are marked.

#![allow(clippy::disallowed_methods, reason = "tests of real sockets, in real time")]

use anyhow::{Context, Result};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig, TransportConfig};
use rustls::pki_types::PrivateKeyDer;
use shaping::{Departure, Depth, Rate, Role, ShapedSocket, Shaper};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const ANYWHERE: &str = "127.0.0.1:0";

/// A gateway that counts what arrives on each stream and answers with the count, and what clients need to trust it.
struct Gateway {
    endpoint: Endpoint,
    addr: SocketAddr,
    certificate: rustls::pki_types::CertificateDer<'static>,
}

impl Gateway {
    fn start(bind: &str) -> Result<Gateway> {
        let made = rcgen::generate_simple_self_signed(vec!["gateway".into()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let certificate = made.cert.der().clone();
        let mut server = ServerConfig::with_single_cert(vec![certificate.clone()], key)?;
        server.transport_config(Arc::new(shaping::gateway_transport()));
        let socket = shaping::bind(bind.parse()?, Role::Gateway, &Shaper::new(Rate::Unlimited))?;
        let addr = socket.local_addr()?;
        let endpoint = shaping::endpoint(socket, shaping::endpoint_config(), Some(server))?;
        tokio::spawn(serve(endpoint.clone()));
        Ok(Gateway { endpoint, addr, certificate })
    }

    fn trust(&self, transport: TransportConfig) -> Result<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let mut client = ClientConfig::with_root_certificates(Arc::new(roots))?;
        client.transport_config(Arc::new(transport));
        Ok(client)
    }
}

async fn serve(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = incoming.await?;
            while let Ok((mut answer, mut stream)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    let mut total = 0u64;
                    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
                        total += chunk.bytes.len() as u64;
                    }
                    answer.write_all(&total.to_be_bytes()).await?;
                    answer.finish()?;
                    anyhow::Ok(())
                });
            }
            anyhow::Ok(())
        });
    }
}

struct Edge {
    socket: Arc<ShapedSocket>,
    connection: Connection,
    _endpoint: Endpoint,
}

async fn dial(
    gateway: &Gateway,
    to: SocketAddr,
    role: Role,
    shaper: &Shaper,
    transport: TransportConfig,
) -> Result<Edge> {
    let bind = if to.is_ipv4() { ANYWHERE } else { "[::]:0" };
    let socket = shaping::bind(bind.parse()?, role, shaper)?;
    let endpoint = shaping::endpoint(socket.clone(), shaping::endpoint_config(), None)?;
    let connection = endpoint.connect_with(gateway.trust(transport)?, to, "gateway")?.await?;
    Ok(Edge { socket, connection, _endpoint: endpoint })
}

async fn data(gateway: &Gateway, to: SocketAddr, shaper: &Shaper) -> Result<Edge> {
    let largest = shaping::largest_datagram(shaper.rate(), to);
    dial(gateway, to, Role::Data, shaper, shaping::edge_data_transport(shaper, largest)).await
}

/// Sends `bytes` on a stream and waits until the other end has them all.
async fn send(connection: &Connection, bytes: usize) -> Result<()> {
    let (mut stream, mut answer) = connection.open_bi().await?;
    stream.write_all(&vec![0x5a; bytes]).await?;
    stream.finish()?;
    let total = answer.read_to_end(8).await?;
    anyhow::ensure!(total == (bytes as u64).to_be_bytes(), "all bytes arrive");
    Ok(())
}

fn rate(text: &str) -> Rate {
    text.parse().expect("a rate")
}

/// The most by which any interval's bytes exceed rate x T, in one pass: the sum so far less its allowance, against the least before.
fn excess(record: &[Departure], bits_per_s: u64) -> f64 {
    let (mut sum, mut least, mut worst) = (0.0f64, f64::INFINITY, 0.0f64);
    for departure in record {
        let allowed = (departure.at - record[0].at).as_secs_f64() * bits_per_s as f64 / 8.0;
        least = least.min(sum - allowed);
        sum += f64::from(departure.bytes);
        worst = worst.max(sum - allowed - least);
    }
    worst
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_interval_conforms_and_data_and_control_share_the_rate() -> Result<()> {
    let gateway = Gateway::start(ANYWHERE)?;
    let shaper = Shaper::new(rate("8 Mbit/s"));
    shaper.record(1 << 20);
    let edge = data(&gateway, gateway.addr, &shaper).await?;
    let control = dial(&gateway, gateway.addr, Role::Control, &shaper, shaping::edge_control_transport()).await?;
    let messages = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            let asked = Instant::now();
            send(&control.connection, 100).await?;
            longest = longest.max(asked.elapsed());
        }
        anyhow::Ok(longest)
    });
    send(&edge.connection, 2_000_000).await?;
    messages.await??;
    let sent = edge.socket.meter();
    let record = shaper.take_record();
    assert!(sent.sent_bytes > 2_000_000);
    assert_eq!(record.iter().map(|d| u64::from(d.bytes)).sum::<u64>(), shaper.meter().sent_bytes);
    let limit = rate("8 Mbit/s").limit().context("limited")?;
    let largest = record.iter().map(|d| d.bytes).max().context("datagrams")?;
    let bound = Depth::at(limit).bytes() + u64::from(largest);
    let worst = excess(&record, limit.bits());
    assert!(worst <= bound as f64, "{worst} bytes over the rate, {bound} allowed");
    assert!(worst > 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_rate_wakes_those_who_wait_for_the_old_one() -> Result<()> {
    let gateway = Gateway::start(ANYWHERE)?;
    let shaper = Shaper::new(rate("64 kbit/s"));
    let edge = data(&gateway, gateway.addr, &shaper).await?;
    // Ten minutes at the first rate.
    let connection = edge.connection.clone();
    let transfer = tokio::spawn(async move { send(&connection, 5_000_000).await });
    while edge.socket.meter().sent_bytes < 10_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shaper.set_rate(Rate::Unlimited);
    tokio::time::timeout(Duration::from_secs(60), transfer).await.context("the old rate went on")???;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_sends_nothing_while_control_lives_on_its_reserve() -> Result<()> {
    let gateway = Gateway::start(ANYWHERE)?;
    let shaper = Shaper::new(rate("2 Mbit/s"));
    let edge = data(&gateway, gateway.addr, &shaper).await?;
    let control = dial(&gateway, gateway.addr, Role::Control, &shaper, shaping::edge_control_transport()).await?;
    let connection = edge.connection.clone();
    let transfer = tokio::spawn(async move { send(&connection, 1_000_000).await });
    while edge.socket.meter().sent_bytes < 50_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shaper.set_rate(Rate::Closed);
    let (closed_at, before) = (Instant::now(), edge.socket.meter());
    let control_before = control.socket.meter();
    for _ in 0..8 {
        send(&control.connection, 100).await.context("control is alive")?;
    }
    let (elapsed, after) = (closed_at.elapsed(), edge.socket.meter());
    // One datagram may have been paid for just before the change.
    assert!(after.sent_datagrams <= before.sent_datagrams + 1, "{before:?} {after:?}");
    let control_bytes = control.socket.meter().sent_bytes - control_before.sent_bytes;
    let reserve = 16_000.0 / 8.0 * elapsed.as_secs_f64() + 3_000.0 + 1_500.0;
    assert!(control_bytes as f64 <= reserve, "{control_bytes} of {reserve}");
    assert!(!transfer.is_finished());
    shaper.set_rate(Rate::Unlimited);
    tokio::time::timeout(Duration::from_secs(60), transfer).await.context("reopened")???;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_past_a_closed_line_by_closing() -> Result<()> {
    let gateway = Gateway::start(ANYWHERE)?;
    let shaper = Shaper::new(rate("2 Mbit/s"));
    let edge = data(&gateway, gateway.addr, &shaper).await?;
    send(&edge.connection, 10_000).await?;
    shaper.set_rate(Rate::Closed);
    let before = edge.socket.meter().sent_datagrams;
    edge.connection.close(0u8.into(), b"done");
    gateway.endpoint.close(0u8.into(), b"done");
    edge.connection.closed().await;
    tokio::task::yield_now().await;
    assert!(edge.socket.meter().sent_datagrams <= before + 1);
    Ok(())
}

/// Sends until the path's MTU is `want`, at most a minute.
async fn until_mtu(connection: &Connection, want: u16) -> Result<()> {
    let started = Instant::now();
    while connection.stats().path.current_mtu != want {
        anyhow::ensure!(started.elapsed() < Duration::from_secs(60), "{:?}", connection.stats().path);
        send(connection, 100_000).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlimited_finds_and_uses_the_largest_datagrams() -> Result<()> {
    for (bind, largest) in [(ANYWHERE, 65_507), ("[::1]:0", 65_487)] {
        let gateway = Gateway::start(bind)?;
        let shaper = Shaper::new(Rate::Unlimited);
        let edge = data(&gateway, gateway.addr, &shaper).await?;
        until_mtu(&edge.connection, largest).await?;
        let before = edge.socket.meter();
        send(&edge.connection, 50_000_000).await?;
        let after = edge.socket.meter();
        let (bytes, datagrams) = (after.sent_bytes - before.sent_bytes, after.sent_datagrams - before.sent_datagrams);
        println!(
            "{bind}: {bytes} bytes in {datagrams} datagrams, back {}",
            after.received_bytes - before.received_bytes
        );
        println!("{:?}", edge.connection.stats().path);
        assert!(bytes / datagrams > 40_000, "{bytes} bytes in {datagrams} datagrams");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_socket_reaches_both_families() -> Result<()> {
    let gateway = Gateway::start("[::]:0")?;
    let v4 = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), gateway.addr.port());
    let v6 = SocketAddr::new("::1".parse()?, gateway.addr.port());
    for to in [v4, v6] {
        let shaper = Shaper::new(rate("50 Mbit/s"));
        let edge = data(&gateway, to, &shaper).await?;
        send(&edge.connection, 100_000).await.with_context(|| to.to_string())?;
    }
    Ok(())
}

/// A path that loses every datagram above 1280 bytes at IP level without a word, as a tunnel may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_of_1280_bytes_is_enough() -> Result<()> {
    let gateway = Gateway::start(ANYWHERE)?;
    let tunnel = Arc::new(tokio::net::UdpSocket::bind(ANYWHERE).await?);
    let path = tunnel.local_addr()?;
    let to = gateway.addr;
    let swallowed = Arc::new(AtomicUsize::new(0));
    let counted = swallowed.clone();
    tokio::spawn(async move {
        let (mut buffer, mut edge) = (vec![0; 65_536], None);
        loop {
            let (len, from) = tunnel.recv_from(&mut buffer).await?;
            if len + 28 > 1_280 {
                counted.fetch_add(1, Relaxed);
                continue;
            }
            if from != to {
                edge = Some(from);
            }
            let onwards = if from == to { edge.context("asked first")? } else { to };
            tunnel.send_to(&buffer[..len], onwards).await?;
        }
        #[allow(unreachable_code)]
        anyhow::Ok(())
    });
    let shaper = Shaper::new(rate("20 Mbit/s"));
    let transport = shaping::edge_data_transport(&shaper, 1_452);
    let edge = dial(&gateway, path, Role::Data, &shaper, transport).await?;
    send(&edge.connection, 500_000).await?;
    assert!(swallowed.load(Relaxed) > 0, "larger datagrams were tried");
    assert!(edge.connection.stats().path.current_mtu <= 1_252);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_is_marked_as_lower_effort_and_control_is_not() -> Result<()> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
    use std::os::fd::AsRawFd;
    for (role, dscp) in [(Role::Data, 1), (Role::Control, 0)] {
        let gateway = Gateway::start(ANYWHERE)?;
        let listener = std::net::UdpSocket::bind(ANYWHERE)?;
        listener.set_read_timeout(Some(Duration::from_secs(30)))?;
        setsockopt(&listener, sockopt::IpRecvTos, &true)?;
        let to = listener.local_addr()?;
        let shaper = Shaper::new(rate("1 Mbit/s"));
        let socket = shaping::bind(ANYWHERE.parse()?, role, &shaper)?;
        let endpoint = shaping::endpoint(socket, shaping::endpoint_config(), None)?;
        let _connecting = endpoint.connect_with(gateway.trust(TransportConfig::default())?, to, "gateway")?;
        let tos = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 2_000];
            let mut iov = [std::io::IoSliceMut::new(&mut buffer)];
            let mut space = nix::cmsg_space!(u8);
            let message = recvmsg::<SockaddrIn>(listener.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty())?;
            let tos = message.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::Ipv4Tos(tos) => Some(tos),
                _ => None,
            });
            tos.context("the traffic class comes with the datagram")
        })
        .await??;
        assert_eq!(tos >> 2, dscp, "{role:?}");
        assert_eq!(tos & 3, 2, "ECT(0) is kept");
    }
    Ok(())
}
