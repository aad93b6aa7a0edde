//! NBD servers that others wrote, on a socket file, ended with their test.

use crate::world::{Doing, WorldError, run};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to listen. Only failures wait this long.
const LISTENS: Duration = Duration::from_secs(60);

/// A server. Dropping it kills it.
#[derive(Debug)]
pub struct NbdServer {
    child: Child,
    socket: PathBuf,
}

/// Whether somebody listens at a socket; asked of the kernel, because a server may count whoever connects. The file alone is there a moment earlier.
fn listens(socket: &Path) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let path = format!(" {}", socket.display());
    sockets.lines().any(|line| line.ends_with(&path) && line.contains(" 00010000 "))
}

impl NbdServer {
    /// Starts `tool`; `{}` among the arguments is the socket. `None`, and said so: it is not installed.
    pub fn start(socket: &Path, tool: &str, arguments: &[&str]) -> Result<Option<Self>, WorldError> {
        let _ = std::fs::remove_file(socket); // of one that was killed
        let arguments = arguments.iter().map(|word| word.replace("{}", &socket.to_string_lossy()));
        let child = match Command::new(tool).args(arguments).stdin(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(why) => {
                crate::skip(&format!("{tool} cannot be started: {why}"));
                return Ok(None);
            }
        };
        let mut server = Self { child, socket: socket.to_owned() };
        let until = Instant::now() + LISTENS;
        while !listens(socket) {
            let ended = server.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > until {
                let why = std::io::Error::other(format!("it does not listen ({ended:?})"));
                return Err(WorldError::Io { doing: format!("starting {tool}"), source: why });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(server))
    }

    /// The export without a name, with `query` behind the socket's.
    pub fn uri(&self, query: &str) -> String {
        format!("nbd+unix:///?socket={}{query}", self.socket.display())
    }

    /// SIGTERM, and waits for the end: bitmaps are stored then.
    pub fn end(mut self) -> Result<(), WorldError> {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let ended = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).map_err(std::io::Error::from);
        ended.and_then(|()| self.child.wait()).map(drop).doing(|| "ending an NBD server".into())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A qcow2 image with a persistent dirty bitmap, written by qemu-io and shown by qemu-nbd.
#[derive(Debug)]
pub struct TrackedImage {
    path: PathBuf,
    bitmap: String,
}

impl TrackedImage {
    /// Makes it, `size` bytes, with `bitmap`. `None`, and said so: QEMU's tools are not installed.
    pub fn create(path: &Path, size: u64, bitmap: &str) -> Result<Option<Self>, WorldError> {
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size.to_string());
        match run(command) {
            Err(WorldError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                crate::skip("qemu-img is not installed");
                return Ok(None);
            }
            made => made?,
        };
        let image = Self { path: path.to_owned(), bitmap: bitmap.to_owned() };
        // A leaf: finer gains nothing, coarser reads more.
        image.bitmap(&["--add", "-g", "32k"])?;
        Ok(Some(image))
    }

    /// `qemu-img bitmap` with these options.
    pub fn bitmap(&self, options: &[&str]) -> Result<(), WorldError> {
        let mut command = Command::new("qemu-img");
        command.arg("bitmap").args(options).arg(&self.path).arg(&self.bitmap);
        run(command).map(drop)
    }

    /// Commands of qemu-io, one after the other.
    pub fn io(&self, commands: &[String]) -> Result<(), WorldError> {
        for some in commands.chunks(500) {
            let mut command = Command::new("qemu-io");
            command.args(["-f", "qcow2"]).args(some.iter().flat_map(|one| ["-c", one])).arg(&self.path);
            run(command)?;
        }
        Ok(())
    }

    /// Writes to it through qemu-nbd, which tells the bitmap.
    pub fn write(
        &self,
        socket: &Path,
        act: impl FnOnce(&nbd::Client) -> Result<(), nbd::ClientError>,
    ) -> Result<(), WorldError> {
        let path = self.path.to_string_lossy();
        let arguments = ["--socket={}", "--persistent", "-f", "qcow2", &path];
        let Some(server) = NbdServer::start(socket, "qemu-nbd", &arguments)? else { return Ok(()) };
        let options = nbd::client::Options::default();
        let written = nbd::Client::connect(&nbd::Address::Unix(socket.to_owned()), &options).and_then(|client| {
            act(&client)?;
            client.flush()
        });
        server.end()?;
        written.map_err(std::io::Error::other).doing(|| format!("writing to {path}"))
    }

    /// Shows it with its bitmap. Nobody may write to it meanwhile.
    pub fn serve(&self, socket: &Path) -> Result<NbdServer, WorldError> {
        let path = self.path.to_string_lossy();
        let arguments = ["--socket={}", "--persistent", "--shared=8", "-r", "-f", "qcow2", "-B", &self.bitmap, &path];
        let server = NbdServer::start(socket, "qemu-nbd", &arguments)?;
        server.ok_or_else(|| WorldError::Io {
            doing: "starting qemu-nbd".into(),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }

    /// What it holds, as a raw file.
    pub fn convert(&self, raw: &Path) -> Result<(), WorldError> {
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "qcow2", "-O", "raw"]).arg(&self.path).arg(raw);
        run(command).map(drop)
    }
}
