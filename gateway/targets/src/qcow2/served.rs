//! An image served by `qemu-nbd` to nobody but us: over a socket that has a name only until we are connected, by a process that ends with us.

use crate::error::TargetError;
use crate::pause::Stop;
use crate::program;
use nbd::client::{Address, Client, ClientError, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, mkdtemp};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections: what the image's own lock lets work side by side.
const CONNECTIONS: usize = 4;
/// How long it may take to open the image and listen, in looks of 10 ms.
const LOOKS: u32 = 6000;
/// How long it may take to write what it holds and end, in looks of 10 ms.
const LOOKS_TO_END: u32 = 12_000;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// See the module's documentation.
pub(super) struct Served {
    path: PathBuf,
    client: Option<Client>,
    /// Dropped: the program is to end.
    end: Option<Sender<()>>,
    keeper: Option<JoinHandle<Result<(), String>>>,
}

impl Served {
    /// Serves an image, to read only or to write.
    pub(super) fn open(path: &Path, read_only: bool, stop: &Stop) -> Result<Served, TargetError> {
        let folder = mkdtemp(&std::env::temp_dir().join("sluice-nbd-XXXXXX"))
            .map_err(|errno| TargetError::io("make a folder for a socket in", &std::env::temp_dir())(errno.into()))?;
        let socket = folder.join("s");
        let mut command = program::command("qemu-nbd");
        command.arg("--socket").arg(&socket).args(["--format=qcow2", "--cache=writeback", "--discard=unmap"]);
        command.arg(format!("--shared={CONNECTIONS}")).args(read_only.then_some("--read-only")).arg(path);
        let (end, ends) = channel();
        // A thread of its own: the program ends with the thread that started it.
        let keeper = std::thread::spawn(move || keep(command, &ends));
        let mut served = Served { path: path.to_owned(), client: None, end: Some(end), keeper: Some(keeper) };
        let connected = served.connect(&socket, stop);
        let _socket = std::fs::remove_file(&socket); // nobody else needs its name
        std::fs::remove_dir(&folder).map_err(TargetError::io("remove", &folder))?;
        served.client = Some(connected?);
        Ok(served)
    }

    fn connect(&mut self, socket: &Path, stop: &Stop) -> Result<Client, TargetError> {
        let options = Options { connections: CONNECTIONS, ..Options::default() };
        for _ in 0..LOOKS {
            match Client::connect(&Address::Unix(socket.to_owned()), &options) {
                Ok(client) => return Ok(client),
                Err(ClientError::Connect { .. }) if !self.has_ended() => {}
                Err(ClientError::Connect { .. }) => return Err(self.ended()),
                Err(error) => return Err(self.failed(&error.to_string())),
            }
            if !stop.wait(LOOK) {
                return Err(TargetError::Cancelled);
            }
        }
        Err(self.failed("it does not listen"))
    }

    fn has_ended(&self) -> bool {
        self.keeper.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn ended(&mut self) -> TargetError {
        match self.join() {
            Ok(()) => self.failed("it ended by itself"),
            Err(error) => error,
        }
    }

    fn join(&mut self) -> Result<(), TargetError> {
        let ended = self.keeper.take().map(JoinHandle::join);
        let said = ended.map_or(Ok(()), |ended| ended.unwrap_or_else(|_| Err("its keeper panicked".into())));
        said.map_err(|said| self.failed(&said))
    }

    pub(super) fn client(&self) -> Result<&Client, TargetError> {
        self.client.as_ref().ok_or_else(|| self.failed("it is closed"))
    }

    /// Ends it and waits until the image is closed: all that was written is in the file.
    pub(super) fn close(mut self) -> Result<(), TargetError> {
        self.end_it()
    }

    fn end_it(&mut self) -> Result<(), TargetError> {
        self.client = None; // without a client it closes the image and ends
        self.end = None;
        self.join()
    }

    pub(super) fn failed(&self, said: &str) -> TargetError {
        TargetError::Program { program: format!("qemu-nbd {}", self.path.display()), said: said.to_owned() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Err(error) = self.end_it() {
            tracing::warn!(%error, "an image was not closed well");
        }
    }
}

/// Starts the program, and ends it when it is told to or when nobody is there any more to tell.
fn keep(mut command: std::process::Command, ends: &Receiver<()>) -> Result<(), String> {
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let said = program::collect(child.stderr.take());
    // Until it is wanted no longer, or has ended by itself.
    while let Err(RecvTimeoutError::Timeout) = ends.recv_timeout(LOOK) {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            break;
        }
    }
    let status = wait(&mut child);
    let said = program::line(&said.join().unwrap_or_default());
    match status {
        Some(0) => Ok(()),
        Some(127) => Err("it is not installed; install qemu-utils".into()),
        _ => Err(said),
    }
}

/// Waits for its end; it is asked for after a while, since one that nobody ever connected to waits for ever, and at last not asked any more.
fn wait(child: &mut Child) -> Option<i32> {
    for look in 0..LOOKS_TO_END {
        match child.try_wait() {
            Ok(Some(status)) => return status.code(),
            Ok(None) if look % 100 == 99 => {
                // It was not waited for yet, so the id is still its own.
                let _gone = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            }
            _ => {}
        }
        std::thread::sleep(LOOK);
    }
    program::end(child);
    None
}
