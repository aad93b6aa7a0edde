//! The branch's own traffic. TCP with CUBIC, set explicitly: the host's default may be another.

use crate::ends::{Heard, since_1970};
use anyhow::{Context, Result};
use lab::line::{BRANCH_ADDR, CENTRE_ADDR};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

/// A transaction's bytes each way.
const TRANSACTION: usize = 20_000;
const TRANSACTION_PORT: u16 = 5001;
const UPLOAD_PORT: u16 = 5002;
const VOICE_PORT: u16 = 5003;
/// A voice packet of a usual codec: UDP payload, and how often.
const VOICE_BYTES: usize = 60;
const VOICE_EVERY: Duration = Duration::from_millis(20);

/// The centre's side of it.
pub(crate) struct Services {
    transactions: TcpListener,
    uploads: TcpListener,
    voice: UdpSocket,
    heard: Arc<Heard>,
}

impl Services {
    pub(crate) async fn start(heard: Arc<Heard>) -> Result<Services> {
        let listen = |port| {
            let socket = TcpSocket::new_v4()?;
            cubic(&socket)?;
            socket.set_reuseaddr(true)?;
            socket.bind((CENTRE_ADDR, port).into())?;
            anyhow::Ok(socket.listen(16)?)
        };
        Ok(Services {
            transactions: listen(TRANSACTION_PORT)?,
            uploads: listen(UPLOAD_PORT)?,
            voice: UdpSocket::bind((CENTRE_ADDR, VOICE_PORT)).await?,
            heard,
        })
    }

    pub(crate) async fn run(self) {
        tokio::join!(self.answer_transactions(), self.swallow_uploads(), self.hear_voice());
    }

    async fn answer_transactions(&self) {
        while let Ok((mut stream, _)) = self.transactions.accept().await {
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                let mut bytes = vec![0; TRANSACTION];
                stream.read_exact(&mut bytes).await?;
                stream.write_all(&bytes).await?;
                stream.shutdown().await
            });
        }
    }

    async fn swallow_uploads(&self) {
        while let Ok((mut stream, _)) = self.uploads.accept().await {
            let heard = self.heard.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                    heard.uploaded.fetch_add(len as u64, Relaxed);
                }
            });
        }
    }

    async fn hear_voice(&self) {
        let mut packet = [0; VOICE_BYTES];
        while self.voice.recv(&mut packet).await.is_ok() {
            let mut sent = [0; 8];
            sent.copy_from_slice(&packet[..8]);
            let delay = since_1970().unwrap_or_default().saturating_sub(u64::from_be_bytes(sent)) as f64 * 1e-6;
            self.heard.voice.lock().unwrap_or_else(PoisonError::into_inner).push(delay);
        }
    }
}

/// 20 kB up and 20 kB down on a new TCP connection, one after the other for so long; how long each took, in ms.
pub(crate) async fn transactions(time: Duration) -> Result<Vec<f64>> {
    let (began, mut times) = (Instant::now(), Vec::new());
    let mut bytes = vec![7; TRANSACTION];
    while began.elapsed() < time {
        let asked = Instant::now();
        let mut stream = connect(TRANSACTION_PORT).await.context("begin a transaction")?;
        stream.set_nodelay(true)?;
        stream.write_all(&bytes).await?;
        stream.read_exact(&mut bytes).await?;
        times.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// An upload that takes what it gets, for so long after `lead`: bits per second that arrived.
pub(crate) async fn upload(heard: &Heard, lead: Duration, time: Duration) -> Result<f64> {
    let mut stream = connect(UPLOAD_PORT).await.context("begin an upload")?;
    // What is in the socket's buffer at the end must not be sent beside what is measured next.
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    let block = vec![0x5a; 64 << 10];
    let writing = async {
        loop {
            stream.write_all(&block).await?;
        }
        #[allow(unreachable_code)]
        anyhow::Ok(())
    };
    let measuring = async {
        tokio::time::sleep(lead).await;
        let (before, began) = (heard.uploaded.load(Relaxed), Instant::now());
        tokio::time::sleep(time).await;
        (heard.uploaded.load(Relaxed) - before) as f64 * 8.0 / began.elapsed().as_secs_f64()
    };
    tokio::select! {
        failed = writing => failed.map(|()| f64::NAN),
        rate = measuring => Ok(rate),
    }
}

/// Packets of a call for so long; the one-way delays of those that arrived, in ms.
pub(crate) async fn voice(heard: &Heard, time: Duration) -> Result<Vec<f64>> {
    let taken = || std::mem::take(&mut *heard.voice.lock().unwrap_or_else(PoisonError::into_inner));
    taken();
    let socket = UdpSocket::bind((BRANCH_ADDR, 0)).await?;
    socket.connect((CENTRE_ADDR, VOICE_PORT)).await?;
    let (began, mut tick) = (Instant::now(), tokio::time::interval(VOICE_EVERY));
    while began.elapsed() < time {
        tick.tick().await;
        let mut packet = [0; VOICE_BYTES];
        packet[..8].copy_from_slice(&since_1970()?.to_be_bytes());
        socket.send(&packet).await?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(taken())
}

async fn connect(port: u16) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    cubic(&socket)?;
    Ok(socket.connect((CENTRE_ADDR, port).into()).await?)
}

fn cubic(socket: &TcpSocket) -> Result<()> {
    setsockopt(socket, sockopt::TcpCongestion, &"cubic".into()).context("choose CUBIC")
}
