//! line-use: how much of the asked rate quinn uses over the shaped socket with a backlog, and whether the rate holds in every interval,
//! on an emulated line between two network namespaces, from a capture with kernel timestamps at the sender.
//!
//! Prints one JSON row per figure: `{what, asked, measured, unit, holds}`. Ends with 1 when one does not hold, with 2 where there are
//! no namespaces.
#![allow(clippy::disallowed_methods, reason = "a measurement of real time")]

use anyhow::{Context, Result};
use clap::Parser;
use lab::line::{
    BRANCH_ADDR, CENTRE_ADDR, Capture, Captured, Lab, LinkSpec, Loss, Rate as LineRate, Span, excess, rate_between,
};
use quinn::Connection;
use serde::Serialize;
use shaping::{BitsPerSec, Depth, MeterReading, Rate, Role, Shaper};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Use and conformance of the shaped line.
#[derive(Parser, Debug)]
struct Args {
    /// asked rate at IP level, e.g. "1.6 Mbit/s"; may be repeated [default: 1.6 Mbit/s and 98 % of the line]
    #[arg(long)]
    rate: Vec<BitsPerSec>,
    /// the line's own rate
    #[arg(long, default_value = "2mbit")]
    line: LineRate,
    /// one-way delay
    #[arg(long, default_value = "40ms")]
    delay: Span,
    /// loss both ways
    #[arg(long, default_value = "0.5%")]
    loss: Loss,
    /// queue before the line
    #[arg(long, default_value = "200ms")]
    queue: Span,
    /// seconds of backlog to measure for each rate
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// the same seed makes the same losses
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// also write the rows here, as one JSON array
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// One figure beside what is asked of it.
#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    rate: String,
    asked: Option<f64>,
    measured: f64,
    unit: &'static str,
    holds: Option<bool>,
}

/// The share of the asked rate that a backlog must use.
const LEAST_USE: f64 = 0.98;
const PORT: u16 = 4433;
/// A small message on the control connection, so often.
const MESSAGE_EVERY: Duration = Duration::from_millis(250);
/// The largest packet here, in IP bytes: the "one MTU" of the promise.
const MTU: u64 = 1_500;

fn main() -> Result<()> {
    let mut args = Args::parse();
    if let Err(why) = Lab::available() {
        eprintln!("{why}");
        std::process::exit(2);
    }
    if args.rate.is_empty() {
        args.rate = vec![BitsPerSec::kbit(1_600), BitsPerSec::new((args.line.0 * 0.98) as u64)];
    }
    let mut rows = Vec::new();
    for rate in args.rate.clone() {
        eprintln!("{rate} for {} s over a line of {} bit/s", args.seconds, args.line.0);
        for row in measure(&args, rate)? {
            println!("{}", serde_json::to_string(&row)?);
            rows.push(row);
        }
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&rows)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    std::process::exit(i32::from(rows.iter().any(|row| row.holds == Some(false))));
}

/// What one run gave.
struct Run {
    packets: Vec<Captured>,
    /// When the backlog began and ended, in ns since 1970.
    from: u64,
    until: u64,
    /// Both sockets, from their making on.
    total: MeterReading,
    /// The data socket alone, without its handshake, and the payload that it carried.
    data: MeterReading,
    goodput: u64,
    messages: Vec<Duration>,
    mtu: u16,
    lost_packets: u64,
}

fn measure(args: &Args, rate: BitsPerSec) -> Result<Vec<Row>> {
    let link =
        LinkSpec { rate: args.line, delay: args.delay, loss: args.loss, queue: args.queue, ..LinkSpec::default() };
    let lab = Lab::with(link.clone(), link, 1_500, args.seed)?;
    let identity = Identity::make()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::watch::channel(());
    let run = std::thread::scope(|scope| {
        let (lab, identity) = (&lab, &identity);
        let centre = scope.spawn(move || lab.in_centre(move || block_on(centre(identity, ready, ended)))?);
        let run = match is_ready.recv() {
            Ok(()) => lab.in_branch(|| block_on(branch(args, rate, identity)))?,
            Err(_) => Err(anyhow::anyhow!("the centre did not start")),
        };
        drop(end);
        centre.join().map_err(|_| anyhow::anyhow!("the centre panicked"))??;
        run
    })?;
    judge(rate, run)
}

/// Runs `work` on a runtime whose threads stay in the caller's namespace.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(work)
}

struct Identity {
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    fn make() -> Result<Identity> {
        let made = rcgen::generate_simple_self_signed(vec!["gateway".into()])?;
        Ok(Identity { certificate: made.cert.der().clone(), key: made.signing_key.serialize_der() })
    }
}

/// The gateway: streams that begin with `m` are echoed, all others swallowed; the answer ends with the number of bytes.
async fn centre(
    identity: &Identity,
    ready: std::sync::mpsc::Sender<()>,
    mut ended: tokio::sync::watch::Receiver<()>,
) -> Result<()> {
    let key = rustls::pki_types::PrivateKeyDer::try_from(identity.key.clone()).map_err(anyhow::Error::msg)?;
    let mut server = quinn::ServerConfig::with_single_cert(vec![identity.certificate.clone()], key)?;
    server.transport_config(Arc::new(shaping::gateway_transport()));
    let addr = SocketAddr::from((CENTRE_ADDR, PORT));
    let socket = shaping::bind(addr, Role::Gateway, &Shaper::new(Rate::Unlimited))?;
    let endpoint = shaping::endpoint(socket, shaping::endpoint_config(), Some(server))?;
    ready.send(()).context("the measurement has ended")?;
    let serving = async {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move { serve(incoming.await?).await });
        }
    };
    tokio::select! {
        () = serving => {}
        _ = ended.changed() => {}
    }
    Ok(())
}

async fn serve(connection: Connection) -> Result<()> {
    while let Ok((mut answer, mut stream)) = connection.accept_bi().await {
        tokio::spawn(async move {
            let mut kind = [0];
            stream.read_exact(&mut kind).await?;
            let mut total = 0u64;
            while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
                total += chunk.bytes.len() as u64;
                if kind == *b"m" {
                    answer.write_all(&chunk.bytes).await?;
                }
            }
            answer.write_all(&total.to_be_bytes()).await?;
            answer.finish()?;
            anyhow::Ok(())
        });
    }
    Ok(())
}

async fn branch(args: &Args, rate: BitsPerSec, identity: &Identity) -> Result<Run> {
    let capture = Capture::start()?;
    let shaper = Shaper::new(Rate::Limited(rate));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.certificate.clone())?;
    let roots = Arc::new(roots);
    let to = SocketAddr::from((CENTRE_ADDR, PORT));
    let dial = |role, transport| {
        let (roots, shaper) = (roots.clone(), shaper.clone());
        async move {
            let socket = shaping::bind(SocketAddr::from((BRANCH_ADDR, 0)), role, &shaper)?;
            let endpoint = shaping::endpoint(socket.clone(), shaping::endpoint_config(), None)?;
            let mut client = quinn::ClientConfig::with_root_certificates(roots)?;
            client.transport_config(Arc::new(transport));
            let connection = endpoint.connect_with(client, to, "gateway")?.await?;
            anyhow::Ok((socket, endpoint, connection))
        }
    };
    let largest = shaping::largest_datagram(Rate::Limited(rate), to);
    let (data_socket, data_endpoint, data) =
        dial(Role::Data, shaping::edge_data_transport(&shaper, largest)).await.context("dial data")?;
    let (_socket, control_endpoint, control) =
        dial(Role::Control, shaping::edge_control_transport()).await.context("dial control")?;
    let times = Arc::new(Mutex::new(Vec::new()));
    let messages = tokio::spawn(exchange(control.clone(), times.clone()));
    let before = data_socket.meter();
    let from = since_1970()?;
    let (goodput, until) = backlog(&data, Duration::from_secs(args.seconds)).await?;
    let run_total = shaper.meter();
    messages.abort();
    let stats = data.stats();
    let times = std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner));
    let run = Run {
        packets: Vec::new(),
        from,
        until,
        total: run_total,
        data: since(data_socket.meter(), before),
        goodput,
        messages: times,
        mtu: stats.path.current_mtu,
        lost_packets: stats.path.lost_packets,
    };
    for (connection, endpoint) in [(data, data_endpoint), (control, control_endpoint)] {
        connection.close(0u8.into(), b"measured");
        endpoint.wait_idle().await;
    }
    let total = shaper.meter();
    Ok(Run { packets: capture.finish(), total, ..run })
}

/// Writes as much as the connection takes for so long, then waits until all of it has arrived. The bytes, and when the writing ended.
async fn backlog(connection: &Connection, time: Duration) -> Result<(u64, u64)> {
    let (mut stream, mut answer) = connection.open_bi().await?;
    stream.write_all(b"b").await?;
    let (started, block) = (Instant::now(), vec![0x5a; 64 << 10]);
    while started.elapsed() < time {
        stream.write_all(&block).await?;
    }
    let until = since_1970()?;
    stream.finish()?;
    let total = answer.read_to_end(8).await?;
    Ok((u64::from_be_bytes(total.as_slice().try_into().context("the centre's answer")?), until))
}

/// One small message after the other, each on its way until its echo is back.
async fn exchange(connection: Connection, times: Arc<Mutex<Vec<Duration>>>) -> Result<()> {
    let (mut stream, mut answer) = connection.open_bi().await?;
    stream.write_all(b"m").await?;
    let mut tick = tokio::time::interval(MESSAGE_EVERY);
    loop {
        tick.tick().await;
        let asked = Instant::now();
        stream.write_all(&[7; 64]).await?;
        answer.read_exact(&mut [0; 64]).await?;
        times.lock().unwrap_or_else(PoisonError::into_inner).push(asked.elapsed());
    }
}

/// What was counted between two readings.
fn since(now: MeterReading, before: MeterReading) -> MeterReading {
    MeterReading {
        sent_bytes: now.sent_bytes - before.sent_bytes,
        sent_datagrams: now.sent_datagrams - before.sent_datagrams,
        received_bytes: now.received_bytes - before.received_bytes,
        received_datagrams: now.received_datagrams - before.received_datagrams,
    }
}

fn since_1970() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_nanos() as u64)
}

fn judge(rate: BitsPerSec, mut run: Run) -> Result<Vec<Row>> {
    let row = |what, asked, measured, unit, holds| Row { what, rate: rate.to_string(), asked, measured, unit, holds };
    let trace: Vec<(u64, u64)> = run.packets.iter().map(|packet| (packet.at, packet.bytes)).collect();
    let captured: u64 = trace.iter().map(|(_, bytes)| bytes).sum();
    let used = rate_between(&trace, run.from, run.until) / rate.bits() as f64;
    let worst = excess(trace.iter().copied(), rate.bits() as f64);
    let allowed = (Depth::at(rate).bytes() + MTU) as f64;
    run.messages.sort();
    let quantile = |share: f64| -> Result<f64> {
        let at = (run.messages.len().saturating_sub(1) as f64 * share).round() as usize;
        Ok(run.messages.get(at).context("no message came back")?.as_secs_f64() * 1e3)
    };
    let per = |bytes: u64, count: u64| bytes as f64 / count.max(1) as f64;
    Ok(vec![
        row("use", Some(LEAST_USE), used, "of the asked rate", Some(used >= LEAST_USE)),
        row("excess over rate x T", Some(allowed), worst, "bytes", Some(worst <= allowed)),
        row(
            "captured",
            Some(run.total.sent_bytes as f64),
            captured as f64,
            "bytes",
            Some(captured == run.total.sent_bytes),
        ),
        row("goodput", None, per(run.goodput, run.data.sent_bytes), "of the IP bytes of data", None),
        row("datagram", None, f64::from(run.mtu), "bytes of UDP payload", None),
        row(
            "overhead",
            None,
            per(run.data.sent_bytes.saturating_sub(run.goodput), run.data.sent_datagrams),
            "bytes per datagram, repairs included",
            None,
        ),
        row("lost", None, per(run.lost_packets, run.data.sent_datagrams), "of the datagrams", None),
        row("back", None, per(run.data.received_bytes, run.data.received_datagrams), "bytes per datagram", None),
        row("back", None, per(run.data.received_datagrams, run.data.sent_datagrams), "datagrams per datagram", None),
        row("message", None, quantile(0.5)?, "ms, median", None),
        row("message", None, quantile(0.99)?, "ms, 99 of 100", None),
    ])
}
