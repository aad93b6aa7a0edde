//! A raw file as an export, our server on a socket, their servers, their tools.

use nbd::server::{Exports, Limits, Listener};
use nbd::{Address, Export, Failure, Status};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek64};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// SplitMix64: enough for inputs, and the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend(self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

/// A raw file.
pub(crate) struct Raw {
    file: File,
    size: u64,
    read_only: bool,
}

impl Raw {
    pub(crate) fn open(path: &Path, read_only: bool) -> Arc<Raw> {
        let file = File::options().read(true).write(!read_only).open(path).unwrap();
        let size = file.metadata().unwrap().len();
        Arc::new(Raw { file, size, read_only })
    }

    fn punch(&self, range: Range<u64>, mode: FallocateFlags) -> Result<(), Failure> {
        let mode = mode | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, mode, range.start as i64, (range.end - range.start) as i64).map_err(io::Error::from)?;
        Ok(())
    }
}

impl Export for Raw {
    fn size(&self) -> u64 {
        self.size
    }
    fn is_read_only(&self) -> bool {
        self.read_only
    }
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Failure> {
        Ok(self.file.read_exact_at(into, at)?)
    }
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.file.write_all_at(bytes, at)?)
    }
    fn zero(&self, range: Range<u64>, may_trim: bool) -> Result<(), Failure> {
        let zero = if may_trim { FallocateFlags::FALLOC_FL_PUNCH_HOLE } else { FallocateFlags::FALLOC_FL_ZERO_RANGE };
        self.punch(range, zero)
    }
    fn trim(&self, range: Range<u64>) -> Result<(), Failure> {
        self.punch(range, FallocateFlags::FALLOC_FL_PUNCH_HOLE)
    }
    fn flush(&self) -> Result<(), Failure> {
        Ok(self.file.sync_data()?)
    }
    fn status(&self, range: Range<u64>) -> Result<Vec<(u64, Status)>, Failure> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let data =
                lseek64(&self.file, at as i64, Whence::SeekData).map_or(range.end, |at| at as u64).min(range.end);
            if data > at {
                found.push((data - at, Status::Hole));
            }
            if data < range.end {
                let hole = lseek64(&self.file, data as i64, Whence::SeekHole).unwrap() as u64;
                found.push((hole.min(range.end) - data, Status::Data));
                at = hole;
            } else {
                at = data;
            }
        }
        Ok(found)
    }
}

/// Our server in a thread of its own, until it is dropped.
pub(crate) struct Server {
    pub(crate) exports: Exports,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn unix(name: &str, export: Arc<dyn Export>) -> Server {
        Server::start(name, export, false, None, Limits::default())
    }

    pub(crate) fn start(
        name: &str,
        export: Arc<dyn Export>,
        tcp: bool,
        tls: Option<Arc<rustls::ServerConfig>>,
        limits: Limits,
    ) -> Server {
        let exports = Exports::new();
        exports.put(name, export);
        let folder = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let (tell, told) = std::sync::mpsc::channel();
        let (served, socket, cancel) = (exports.clone(), folder.path().join("socket"), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (listener, port) = if tcp {
                    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let port = listener.local_addr().unwrap().port();
                    (Listener::Tcp(listener), port)
                } else {
                    (Listener::Unix(tokio::net::UnixListener::bind(socket).unwrap()), 0)
                };
                tell.send(port).unwrap();
                nbd::serve(listener, served, limits, tls, cancel).await;
            });
        });
        let port = told.recv().unwrap();
        Server { exports, folder, port, stop, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn address(&self) -> Address {
        if self.port == 0 { Address::Unix(self.socket()) } else { Address::Tcp(format!("127.0.0.1:{}", self.port)) }
    }

    pub(crate) fn uri(&self, name: &str) -> String {
        match self.port {
            0 => format!("nbd+unix:///{name}?socket={}", self.socket().display()),
            port => format!("nbd://localhost:{port}/{name}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || ended.is_ok());
    }
}

/// Another server, until it is dropped; killed with the test at the latest.
pub(crate) struct Theirs {
    child: Child,
    folder: tempfile::TempDir,
}

impl Theirs {
    /// `arguments` in which `{}` is the socket. `None`, and said so, when the tool is missing.
    pub(crate) fn start(tool: &str, arguments: &[&str]) -> Option<Theirs> {
        if !has(tool) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let arguments = arguments.iter().map(|word| word.replace("{}", socket.to_str().unwrap()));
        let child = Command::new(tool).args(arguments).stdin(Stdio::null()).spawn().unwrap();
        wait_for(&socket);
        Some(Theirs { child, folder })
    }

    pub(crate) fn address(&self) -> Address {
        Address::Unix(self.folder.path().join("socket"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Until it has ended by itself.
    pub(crate) fn wait(mut self) {
        let _ = self.child.wait();
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Until somebody listens there; a minute at most.
pub(crate) fn wait_for(socket: &Path) {
    for _ in 0..12_000 {
        if std::os::unix::net::UnixStream::connect(socket).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("nobody listens at {}", socket.display());
}

/// Whether a tool is there; says so if not.
pub(crate) fn has(tool: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).any(|folder| folder.join(tool).exists())
    });
    if !found {
        eprintln!("skipped: {tool} is not installed");
    }
    found
}

/// Runs a tool, which has to succeed within a minute; its output.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> String {
    let (good, out) = try_run(tool, arguments);
    assert!(good, "{tool} {arguments:?} failed: {out}");
    out
}

/// Runs a tool: whether it succeeded, and what it printed.
pub(crate) fn try_run(tool: &str, arguments: &[&str]) -> (bool, String) {
    let out = Command::new("timeout").arg("60").arg(tool).args(arguments).stdin(Stdio::null()).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

/// A raw image with data, holes and an odd size; its bytes.
pub(crate) fn image(path: &Path, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let size = (8 << 20) + 512;
    let mut bytes = vec![0; size];
    let file = File::create(path).unwrap();
    file.set_len(size as u64).unwrap();
    for (at, len) in [(0, 300 << 10), (1 << 20, 1 << 20), (5 << 20, 64 << 10), (size - 512, 512)] {
        bytes[at..at + len].copy_from_slice(&random.bytes(len));
        file.write_all_at(&bytes[at..at + len], at as u64).unwrap();
    }
    bytes
}
