//! The gateway's direction with real quinn on loopback: each site's connections share that site's rate, and no site waits for another.

#![allow(clippy::disallowed_methods, reason = "tests of real sockets, in real time")]

use anyhow::{Context, Result};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig};
use rustls::pki_types::PrivateKeyDer;
use shaping::{Class, Departure, Depth, Peer, Rate, Role, ShapedSocket, Shaper};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A gateway whose connections come out of a channel, each with its peer.
struct Gateway {
    socket: Arc<ShapedSocket>,
    accepted: mpsc::Receiver<(Connection, Peer)>,
    addr: SocketAddr,
    certificate: rustls::pki_types::CertificateDer<'static>,
    _endpoint: Endpoint,
}

/// Both ends of one connection.
struct Pair {
    here: Connection,
    peer: Peer,
    there: Connection,
    edge: Arc<ShapedSocket>,
    _endpoint: Endpoint,
}

impl Gateway {
    fn start() -> Result<Gateway> {
        let made = rcgen::generate_simple_self_signed(vec!["gateway".into()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let certificate = made.cert.der().clone();
        let server = ServerConfig::with_single_cert(vec![certificate.clone()], key)?;
        let socket = shaping::bind("127.0.0.1:0".parse()?, Role::Gateway, &Shaper::new(Rate::Unlimited))?;
        let addr = socket.local_addr()?;
        let endpoint = shaping::endpoint(socket.clone(), shaping::endpoint_config(), Some(server.clone()))?;
        let (report, accepted) = mpsc::channel(8);
        let listening = endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = listening.accept().await {
                let (connecting, peer) = shaping::accept(incoming, &server)?;
                report.send((connecting.await?, peer)).await?;
            }
            anyhow::Ok(())
        });
        Ok(Gateway { socket, accepted, addr, certificate, _endpoint: endpoint })
    }

    async fn pair(&mut self) -> Result<Pair> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let shaper = Shaper::new(Rate::Unlimited);
        let socket = shaping::bind("127.0.0.1:0".parse()?, Role::Data, &shaper)?;
        let endpoint = shaping::endpoint(socket.clone(), shaping::endpoint_config(), None)?;
        let mut client = ClientConfig::with_root_certificates(Arc::new(roots))?;
        client.transport_config(Arc::new(shaping::edge_data_transport(&shaper, 1_452)));
        let there = endpoint.connect_with(client, self.addr, "gateway")?.await?;
        let (here, peer) = self.accepted.recv().await.context("the gateway accepts")?;
        Ok(Pair { here, peer, there, edge: socket, _endpoint: endpoint })
    }

    async fn joined(&mut self, line: &Shaper, class: Class) -> Result<Pair> {
        let pair = self.pair().await?;
        pair.peer.join(line, class);
        pair.here.set_send_window(shaping::send_window(line.rate()));
        Ok(pair)
    }
}

impl Pair {
    /// Sends so much down and waits until it is there.
    async fn down(&self, bytes: usize) -> Result<()> {
        let here = self.here.clone();
        let sending = tokio::spawn(async move {
            let mut stream = here.open_uni().await?;
            stream.write_all(&vec![0x5a; bytes]).await?;
            stream.finish()?;
            anyhow::Ok(())
        });
        let mut stream = self.there.accept_uni().await?;
        let mut total = 0;
        while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
            total += chunk.bytes.len();
        }
        anyhow::ensure!(total == bytes, "{total} of {bytes} bytes came");
        sending.await?
    }

    /// Has more to send than will ever leave.
    fn backlog(&self) {
        let here = self.here.clone();
        tokio::spawn(async move {
            let mut stream = here.open_uni().await?;
            loop {
                stream.write_all(&[0x5a; 8_192]).await?;
            }
            #[allow(unreachable_code)]
            anyhow::Ok(())
        });
        let there = self.there.clone();
        tokio::spawn(async move {
            let mut stream = there.accept_uni().await?;
            while stream.read_chunk(usize::MAX, true).await?.is_some() {}
            anyhow::Ok(())
        });
    }
}

fn rate(text: &str) -> Rate {
    text.parse().expect("a rate")
}

/// Waits until so many bytes have left on a line, at most a minute.
async fn until_spent(line: &Shaper, bytes: u64) -> Result<()> {
    let began = Instant::now();
    while line.spent() < bytes {
        anyhow::ensure!(began.elapsed() < Duration::from_secs(60), "{} of {bytes} bytes left", line.spent());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// The most by which any interval's bytes exceed rate x T.
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
async fn a_slow_site_with_a_backlog_conforms_and_a_fast_one_beside_it_is_not_slowed() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let (slow, fast) = (Shaper::new(rate("1 Mbit/s")), Shaper::new(rate("40 Mbit/s")));
    slow.record(1 << 20);
    let data = gateway.joined(&slow, Class::Data).await?;
    let control = gateway.joined(&slow, Class::Control).await?;
    let other = gateway.joined(&fast, Class::Data).await?;
    data.backlog();
    until_spent(&slow, 60_000).await?;
    let (began, before) = (Instant::now(), slow.spent());
    // The slow site's control speaks meanwhile, on the same rate.
    let messages = async {
        for _ in 0..8 {
            control.down(100).await?;
        }
        anyhow::Ok(())
    };
    let (sent, said) = tokio::join!(
        async {
            other.down(8_000_000).await?;
            anyhow::Ok(began.elapsed())
        },
        messages
    );
    let took = sent?;
    said?;
    let least = Duration::from_secs_f64(8_000_000.0 * 8.0 / 40e6);
    assert!(took >= least.mul_f64(0.98) && took <= least.mul_f64(1.15), "{took:?}, alone {least:?} at least");
    let used = (slow.spent() - before) as f64 * 8.0 / took.as_secs_f64();
    assert!(used > 0.95e6, "the slow one used {used} bit/s of its rate meanwhile");
    let record = slow.take_record();
    let largest = record.iter().map(|d| u64::from(d.bytes)).max().context("datagrams")?;
    let bound = Depth::at(slow.rate().limit().context("limited")?).bytes() + largest;
    let worst = excess(&record, 1_000_000);
    assert!(worst > 0.0 && worst <= bound as f64, "{worst} bytes over the rate, {bound} allowed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_rate_wakes_a_site_that_waits_for_the_old_one() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let line = Shaper::new(rate("64 kbit/s"));
    let data = gateway.joined(&line, Class::Data).await?;
    let before = line.spent();
    // Ten minutes at the first rate.
    let transfer = tokio::spawn(async move { data.down(5_000_000).await });
    until_spent(&line, before + 8_000).await?;
    line.set_rate(Rate::Unlimited);
    tokio::time::timeout(Duration::from_secs(60), transfer).await.context("the old rate went on")??
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_sends_no_data_while_control_lives_and_silent_sends_nothing() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let line = Shaper::new(rate("2 Mbit/s"));
    let data = gateway.joined(&line, Class::Data).await?;
    let control = gateway.joined(&line, Class::Control).await?;
    data.backlog();
    until_spent(&line, 60_000).await?;
    line.set_rate(Rate::Closed);
    let (closed_at, before, spent) = (Instant::now(), data.here.stats().udp_tx.datagrams, line.spent());
    let arrived = data.edge.meter().received_datagrams;
    for _ in 0..8 {
        control.down(100).await.context("control is alive")?;
    }
    let reserve = 16_000.0 / 8.0 * closed_at.elapsed().as_secs_f64() + 3_000.0 + 1_500.0;
    let control_bytes = (line.spent() - spent) as f64;
    assert!(control_bytes <= reserve, "{control_bytes} of {reserve}");
    // What quinn made and could not send yet is counted there, so the edge's end says what came: what was on its way.
    let late = data.edge.meter().received_datagrams - arrived;
    assert!(late <= 2, "{late} datagrams of data came after closing ({before} before)");
    line.set_silent(true);
    let silent = line.spent();
    let mut said = control.here.open_uni().await?;
    said.write_all(b"?").await?;
    let nothing = tokio::time::timeout(Duration::from_millis(500), control.there.accept_uni()).await;
    assert!(nothing.is_err() && line.spent() == silent);
    line.set_silent(false);
    tokio::time::timeout(Duration::from_secs(30), control.there.accept_uni()).await.context("silence has ended")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_goes_on_a_small_account_and_is_paid_by_the_site() -> Result<()> {
    let mut gateway = Gateway::start()?;
    let line = Shaper::new(rate("1 Mbit/s"));
    let pair = gateway.pair().await?;
    assert_eq!(line.spent(), 0);
    pair.peer.join(&line, Class::Control);
    pair.down(1_000).await?;
    assert_eq!(line.meter().sent_bytes, gateway.socket.meter().sent_bytes, "every byte of it is the site's");
    // Its edge turns up under another address: the same account.
    pair._endpoint.rebind(std::net::UdpSocket::bind("127.0.0.1:0")?)?;
    pair.there.open_uni().await?.write_all(b"moved").await?;
    pair.here.accept_uni().await?;
    pair.down(20_000).await?;
    assert!(pair.here.remote_address() != pair.edge.local_addr()?);
    assert_eq!(line.meter().sent_bytes, gateway.socket.meter().sent_bytes);
    Ok(())
}
