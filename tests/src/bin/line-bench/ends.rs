//! Both ends of the emulated line: the services at the centre, and replication at the branch.

use crate::foreground;
use anyhow::{Context, Result};
use lab::line::{BRANCH_ADDR, CENTRE_ADDR, Lab, LinkSpec};
use quinn::{Connection, Endpoint};
use shaping::{BitsPerSec, Class, MeterReading, Peer, Rate, Role, ShapedSocket, Shaper, ShaperOptions};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

const PORT: u16 = 4433;
/// A small message on the control connection, so often.
const MESSAGE_EVERY: Duration = Duration::from_millis(250);

/// What is at hand at the branch.
pub(crate) struct Branch<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) centre: Arc<Heard>,
    /// The gateway's line down to this branch; unlimited until somebody sets its rate.
    pub(crate) down: Shaper,
    /// All that the gateway's socket sends.
    pub(crate) gateway: Shaper,
    certificate: rustls::pki_types::CertificateDer<'static>,
}

/// What the centre's services have heard of the branch's own traffic.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Bytes of greedy uploads that arrived.
    pub(crate) uploaded: AtomicU64,
    /// One-way delays of voice packets, ms, since they were last taken.
    pub(crate) voice: Mutex<Vec<f64>>,
}

/// Makes a line that behaves like `link` both ways and runs `work` at its branch.
pub(crate) fn on_line<T: Send>(
    link: LinkSpec,
    seed: u64,
    work: impl AsyncFnOnce(&Branch<'_>) -> Result<T> + Send,
) -> Result<T> {
    let lab = Lab::with(link.clone(), link, 1_500, seed)?;
    let made = rcgen::generate_simple_self_signed(vec!["gateway".into()])?;
    let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
    let heard = Arc::new(Heard::default());
    let (down, gateway) = (Shaper::new(Rate::Unlimited), Shaper::new(Rate::Unlimited));
    let lines = (down.clone(), gateway.clone());
    let branch = Branch { lab: &lab, centre: heard.clone(), down, gateway, certificate: certificate.clone() };
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::watch::channel(());
    std::thread::scope(|scope| {
        let lab = &lab;
        let centre = scope
            .spawn(move || lab.in_centre(move || block_on(serve(certificate, key, heard, lines, ready, ended)))?);
        let result = match is_ready.recv() {
            Ok(()) => lab.in_branch(|| block_on(work(&branch)))?,
            Err(_) => Err(anyhow::anyhow!("the centre did not start")),
        };
        drop(end);
        centre.join().map_err(|_| anyhow::anyhow!("the centre panicked"))??;
        result
    })
}

/// Runs `work` on a runtime whose threads stay in the caller's namespace.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(work)
}

async fn serve(
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: Vec<u8>,
    heard: Arc<Heard>,
    (down, all): (Shaper, Shaper),
    ready: std::sync::mpsc::Sender<()>,
    mut ended: tokio::sync::watch::Receiver<()>,
) -> Result<()> {
    let key = rustls::pki_types::PrivateKeyDer::try_from(key).map_err(anyhow::Error::msg)?;
    let server = quinn::ServerConfig::with_single_cert(vec![certificate], key)?;
    let socket = shaping::bind((CENTRE_ADDR, PORT).into(), Role::Gateway, &all)?;
    let endpoint = shaping::endpoint(socket, shaping::endpoint_config(), Some(server.clone()))?;
    let services = foreground::Services::start(heard).await?;
    ready.send(()).context("the measurement has ended")?;
    let gateway = async {
        while let Some(incoming) = endpoint.accept().await {
            let (server, down) = (server.clone(), down.clone());
            tokio::spawn(async move {
                let (connecting, peer) = shaping::accept(incoming, &server)?;
                answer(connecting.await?, peer, down).await
            });
        }
    };
    tokio::select! {
        () = gateway => {}
        () = services.run() => {}
        _ = ended.changed() => {}
    }
    Ok(())
}

/// Streams that begin with `m` are echoed and make theirs the control connection; on one that begins with `d` comes a backlog; all others are
/// swallowed, and the answer ends with the number of bytes.
async fn answer(connection: Connection, peer: Peer, down: Shaper) -> Result<()> {
    while let Ok((mut answer, mut stream)) = connection.accept_bi().await {
        let (connection, peer, down) = (connection.clone(), peer.clone(), down.clone());
        tokio::spawn(async move {
            let mut kind = [0];
            stream.read_exact(&mut kind).await?;
            peer.join(&down, if kind == *b"m" { Class::Control } else { Class::Data });
            connection.set_receive_window(shaping::GATEWAY_WINDOW.into());
            if kind == *b"d" {
                loop {
                    connection.set_send_window(shaping::send_window(down.rate()));
                    answer.write_all(&[0x5a; 16 << 10]).await?;
                }
            }
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

/// Replication: a data and a control connection on one shaped line.
pub(crate) struct Replication {
    pub(crate) shaper: Shaper,
    pub(crate) socket: Arc<ShapedSocket>,
    pub(crate) data: Connection,
    control: Connection,
    endpoints: [Endpoint; 2],
    messages: JoinHandle<Result<()>>,
    times: Arc<Mutex<Vec<f64>>>,
}

impl Replication {
    /// Dials at this rate; small messages go to and fro on the control connection from now on.
    pub(crate) async fn dial(branch: &Branch<'_>, rate: BitsPerSec, courtesy: Option<Duration>) -> Result<Replication> {
        let shaper = Shaper::with_options(Rate::Limited(rate), ShaperOptions { courtesy, ..ShaperOptions::default() });
        let mut roots = rustls::RootCertStore::empty();
        roots.add(branch.certificate.clone())?;
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
        let (socket, data_endpoint, data) =
            dial(Role::Data, shaping::edge_data_transport(&shaper, largest)).await.context("dial data")?;
        let (_, control_endpoint, control) =
            dial(Role::Control, shaping::edge_control_transport()).await.context("dial control")?;
        let times = Arc::new(Mutex::new(Vec::new()));
        let messages = tokio::spawn(exchange(control.clone(), times.clone()));
        Ok(Replication { shaper, socket, data, control, endpoints: [data_endpoint, control_endpoint], messages, times })
    }

    /// Writes as much as the connection takes, for as long as it lives.
    pub(crate) fn send_all_the_time(&self) {
        let data = self.data.clone();
        tokio::spawn(async move { write_for(&data, Duration::from_secs(1 << 20)).await });
    }

    /// Has the gateway send a backlog down, for as long as the connection lives; returns when it has begun to come.
    pub(crate) async fn receive_all_the_time(&self) -> Result<()> {
        let (mut stream, mut backlog) = self.data.open_bi().await?;
        stream.write_all(b"d").await?;
        backlog.read_exact(&mut [0; 1_000]).await?;
        tokio::spawn(async move {
            let _stays_open = stream;
            while backlog.read_chunk(usize::MAX, true).await?.is_some() {}
            anyhow::Ok(())
        });
        Ok(())
    }

    /// Writes for so long, then waits until all of it has arrived: the bytes, and when the writing ended.
    pub(crate) async fn send_for(&self, time: Duration) -> Result<(u64, u64)> {
        let (mut answer, until) = write_for(&self.data, time).await?;
        let total = answer.read_to_end(8).await?;
        Ok((u64::from_be_bytes(total.as_slice().try_into().context("the centre's answer")?), until))
    }

    /// What the data socket sent and received until now.
    pub(crate) fn meter(&self) -> MeterReading {
        self.socket.meter()
    }

    /// Round trips of the messages so far, ms.
    pub(crate) fn message_times(&self) -> Vec<f64> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends both connections; what the line sent in all.
    pub(crate) async fn close(self) -> MeterReading {
        self.messages.abort();
        for (connection, endpoint) in [&self.data, &self.control].into_iter().zip(&self.endpoints) {
            connection.close(0u8.into(), b"measured");
            endpoint.wait_idle().await;
        }
        self.shaper.meter()
    }
}

async fn write_for(connection: &Connection, time: Duration) -> Result<(quinn::RecvStream, u64)> {
    let (mut stream, answer) = connection.open_bi().await?;
    stream.write_all(b"b").await?;
    let (started, block) = (Instant::now(), vec![0x5a; 64 << 10]);
    while started.elapsed() < time {
        stream.write_all(&block).await?;
    }
    let until = since_1970()?;
    stream.finish()?;
    Ok((answer, until))
}

/// One small message after the other, each on its way until its echo is back.
async fn exchange(connection: Connection, times: Arc<Mutex<Vec<f64>>>) -> Result<()> {
    let (mut stream, mut answer) = connection.open_bi().await?;
    stream.write_all(b"m").await?;
    let mut tick = tokio::time::interval(MESSAGE_EVERY);
    loop {
        tick.tick().await;
        let asked = Instant::now();
        stream.write_all(&[7; 64]).await?;
        answer.read_exact(&mut [0; 64]).await?;
        times.lock().unwrap_or_else(PoisonError::into_inner).push(asked.elapsed().as_secs_f64() * 1e3);
    }
}

/// The kernel's clock of captures, in ns.
pub(crate) fn since_1970() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_nanos() as u64)
}
