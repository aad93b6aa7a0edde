//! A QEMU monitor by QMP: one JSON object a line each way, over a Unix socket.
//!
//! QEMU serves one client of a monitor at a time; whoever comes second hears nothing until the first one has gone. Open files go with a command, so that
//! QEMU needs no right to any folder of ours.
//!
//! Source: the QEMU Machine Protocol specification and the QMP reference of QEMU.

use super::QemuError;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the greeting may take: QEMU sends it as soon as it is its turn.
const GREETING: Duration = Duration::from_secs(5);
/// How long QEMU may be silent while it owes an answer: it waits for what its disks have under way.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of one line at most: a machine with a thousand disks describes itself in less.
const LONGEST: u64 = 16 << 20;
/// Lines of events between a command and its answer at most.
const EVENTS: usize = 10_000;

/// A monitor, ready for commands.
pub(super) struct Monitor {
    socket: PathBuf,
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    number: u64,
    /// QEMU's version, as (major, minor).
    pub(super) version: (u64, u64),
}

impl Monitor {
    /// Connects, and says that it knows the protocol.
    pub(super) fn connect(socket: &Path) -> Result<Monitor, QemuError> {
        let failed = |why: String| {
            QemuError::of(
                socket,
                "open its monitor",
                why,
                "check that the machine runs with `-qmp unix:PATH,server=on,wait=off` and that this user may open PATH",
            )
        };
        let stream = UnixStream::connect(socket).map_err(|error| failed(error.to_string()))?;
        let reading = stream.try_clone().and_then(|stream| {
            stream.set_read_timeout(Some(GREETING))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        let reading = reading.map_err(|error| failed(error.to_string()))?;
        let mut monitor =
            Monitor { socket: socket.into(), stream, reader: BufReader::new(reading), number: 0, version: (0, 0) };
        let greeting = monitor.line().map_err(|why| {
            let next =
                "one program at a time may use a monitor; give the machine another one with `-qmp`, for Sluice alone";
            QemuError::of(socket, "open its monitor", format!("no greeting came: {why}"), next)
        })?;
        let version = &greeting["QMP"]["version"]["qemu"];
        let (Some(major), Some(minor)) = (version["major"].as_u64(), version["minor"].as_u64()) else {
            return Err(QemuError::of(
                socket,
                "open its monitor",
                "what answers is no QMP monitor",
                "`-qmp` makes one; `-monitor` makes one for people",
            ));
        };
        monitor.version = (major, minor);
        let set = monitor.reader.get_ref().set_read_timeout(Some(PATIENCE));
        set.map_err(|error| failed(error.to_string()))?;
        monitor.run("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Runs a command.
    pub(super) fn run(&mut self, command: &str, arguments: Value) -> Result<Value, QemuError> {
        self.run_with(command, arguments, None)
    }

    /// Runs a command that takes an open file along.
    pub(super) fn run_with(
        &mut self,
        command: &str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QemuError> {
        self.answer(command, arguments, file)?
            .map_err(|(_, why)| QemuError::of(&self.socket, &format!("run {command}"), why, "QEMU's log may say more"))
    }

    /// As [`run`](Monitor::run); what QEMU refuses is the inner error: its class, and its words.
    pub(super) fn try_run(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Result<Value, (String, String)>, QemuError> {
        self.answer(command, arguments, None)
    }

    fn answer(
        &mut self,
        command: &str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Result<Value, (String, String)>, QemuError> {
        self.number += 1;
        let lost = |socket: &Path, why: String| {
            QemuError::of(
                socket,
                &format!("run {command}"),
                why,
                "the next capture looks for what was left in the machine, and removes it",
            )
        };
        let mut line = json!({"execute": command, "arguments": arguments, "id": self.number}).to_string();
        line.push('\n');
        self.send(line.as_bytes(), file).map_err(|error| lost(&self.socket, error.to_string()))?;
        for _ in 0..EVENTS {
            let mut told = self.line().map_err(|why| lost(&self.socket, why))?;
            if told["id"] != json!(self.number) {
                continue; // an event, or the answer to a command that was given up
            }
            if let Some(error) = told.get("error") {
                let word = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
                return Ok(Err((word("class"), word("desc"))));
            }
            return Ok(Ok(told["return"].take()));
        }
        Err(lost(&self.socket, format!("{EVENTS} events came and no answer")))
    }

    fn send(&mut self, line: &[u8], file: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
        let Some(file) = file else { return self.stream.write_all(line) };
        let files = [file.as_raw_fd()];
        let sent = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(line)],
            &[ControlMessage::ScmRights(&files)],
            MsgFlags::empty(),
            None,
        )?;
        self.stream.write_all(&line[sent..])
    }

    /// The next line; the error says why there is none.
    fn line(&mut self) -> Result<Value, String> {
        let mut line = Vec::new();
        let read =
            (&mut self.reader).take(LONGEST).read_until(b'\n', &mut line).map_err(|error| match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => "QEMU is silent".to_owned(),
                _ => error.to_string(),
            })?;
        match line.last() {
            None if read == 0 => Err("QEMU closed the connection".into()),
            Some(b'\n') => serde_json::from_slice(&line).map_err(|error| format!("what came is no JSON: {error}")),
            _ => Err(format!("a line came that was cut off, or has more than {LONGEST} bytes")),
        }
    }
}
