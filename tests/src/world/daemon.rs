//! One daemon as a process: its log, its health, its end.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::{Doing, Metrics, PATIENCE, WorldError};

/// A running process with everything it printed so far. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: Arc<Log>,
    http: SocketAddr,
}

/// How a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By this signal: 9 at a crash point.
    Signal(i32),
}

#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: Vec<String>,
    open: usize,
}

/// Lines of a log that an error shows.
const TAIL: usize = 30;
/// How often `/health` is asked while waiting for it: a daemon starts in a few of these.
const HEALTH_STEP: Duration = Duration::from_millis(20);

impl Daemon {
    /// Starts `command`; what it prints also goes to `log`, appended. `http` is where it serves `/health` and `/metrics`.
    pub fn start(name: &str, mut command: Command, log: &Path, http: SocketAddr) -> Result<Self, WorldError> {
        let file =
            File::options().create(true).append(true).open(log).doing(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().doing(|| format!("starting {:?}", command.get_program()))?;
        let shared = Arc::new(Log::default());
        let stdout = child.stdout.take().expect("piped above");
        let stderr = child.stderr.take().expect("piped above");
        shared.lock().open = 2;
        collect(Box::new(stdout), &shared, &file)?;
        collect(Box::new(stderr), &shared, &file)?;
        Ok(Self { name: name.to_owned(), child, log: shared, http })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it serves `/health` and `/metrics`.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Everything it printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.log.lock().lines.clone()
    }

    /// Waits until a line contains `needle`, and gives that line.
    pub fn wait_line(&self, needle: &str, limit: Duration) -> Result<String, WorldError> {
        let deadline = Instant::now() + limit;
        let mut state = self.log.lock();
        let mut seen = 0;
        loop {
            if let Some(line) = state.lines[seen..].iter().find(|line| line.contains(needle)) {
                return Ok(line.clone());
            }
            seen = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.open == 0 {
                return Err(self.waited(format!("a line with `{needle}`"), limit, &state));
            }
            state = self.log.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until `/health` answers with 200.
    pub fn wait_ready(&mut self) -> Result<(), WorldError> {
        self.wait_until("being ready", PATIENCE, |daemon| {
            Ok(matches!(daemon.get("/health"), Ok((200, _))).then_some(()))
        })
    }

    /// Asks again and again until `asked` gives something; fails at once when the daemon ended.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut asked: impl FnMut(&mut Self) -> Result<Option<T>, WorldError>,
    ) -> Result<T, WorldError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = asked(self)? {
                return Ok(found);
            }
            if let Some(ended) = self.ended()? {
                let (name, tail) = (self.name.clone(), self.log.lock().tail());
                return Err(WorldError::Died { name, status: format!("{ended:?}"), what: what.into(), tail });
            }
            if Instant::now() > deadline {
                return Err(self.waited(what.to_owned(), limit, &self.log.lock()));
            }
            std::thread::sleep(HEALTH_STEP);
        }
    }

    /// Waits until the process has ended by itself, and says how.
    pub fn wait_end(&mut self, limit: Duration) -> Result<Ended, WorldError> {
        let deadline = Instant::now() + limit;
        let mut state = self.log.lock();
        while state.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.waited("its end".into(), limit, &state));
            }
            state = self.log.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        let status = self.child.wait().doing(|| format!("waiting for {}", self.name))?;
        Ok(Ended::of(status))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<Ended>, WorldError> {
        let status = self.child.try_wait().doing(|| format!("asking whether {} runs", self.name))?;
        Ok(status.map(Ended::of))
    }

    /// kill -9, as a pulled plug: nothing is said, nothing is finished.
    pub fn kill(mut self) -> Result<(), WorldError> {
        self.child.kill().doing(|| format!("killing {}", self.name))?;
        self.child.wait().doing(|| format!("waiting for {}", self.name))?;
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(mut self) -> Result<Ended, WorldError> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end(PATIENCE)
    }

    /// Sends a signal to this process.
    pub fn signal(&self, signal: Signal) -> Result<(), WorldError> {
        let pid = Pid::from_raw(self.child.id() as i32);
        kill(pid, signal).map_err(std::io::Error::from).doing(|| format!("sending {signal} to {}", self.name))
    }

    /// Status and body of a GET over its HTTP port.
    pub fn get(&self, path: &str) -> Result<(u16, String), WorldError> {
        http_get(self.http, path).doing(|| format!("asking {} for {path}", self.name))
    }

    /// Its metrics now.
    pub fn metrics(&self) -> Result<Metrics, WorldError> {
        let (status, text) = self.get("/metrics")?;
        if status != 200 {
            let what = format!("/metrics of {}", self.name);
            return Err(WorldError::Answer { what, why: format!("status {status}"), text });
        }
        Ok(Metrics::parse(&text))
    }

    /// Largest resident set since the start or the last [`Daemon::reset_peak`], in bytes.
    pub fn peak_rss(&self) -> Result<u64, WorldError> {
        self.status_bytes("VmHWM:")
    }

    /// Resident set now, in bytes.
    pub fn rss(&self) -> Result<u64, WorldError> {
        self.status_bytes("VmRSS:")
    }

    /// Begins a new measurement of [`Daemon::peak_rss`].
    pub fn reset_peak(&self) -> Result<(), WorldError> {
        let path = format!("/proc/{}/clear_refs", self.pid());
        std::fs::write(&path, "5").doing(|| format!("writing {path}"))
    }

    /// CPU seconds used so far, user and system.
    pub fn cpu_seconds(&self) -> Result<f64, WorldError> {
        let path = format!("/proc/{}/stat", self.pid());
        let text = std::fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
        // Fields 14 and 15 of proc(5); the name in parentheses may hold blanks, so count from its end.
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
        Ok((ticks(11) + ticks(12)) / per_second)
    }

    fn status_bytes(&self, field: &str) -> Result<u64, WorldError> {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
        let kib =
            text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| WorldError::Answer { what: path, why: format!("no {field}"), text })
    }

    fn waited(&self, what: String, limit: Duration, state: &LogState) -> WorldError {
        WorldError::Waited { what, name: self.name.clone(), limit, tail: state.tail() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when the process has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    fn of(status: std::process::ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Code(code),
            (None, signal) => Ended::Signal(signal.unwrap_or(0)),
        }
    }
}

impl Log {
    fn lock(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogState {
    fn tail(&self) -> String {
        self.lines[self.lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

fn collect(stream: Box<dyn Read + Send>, log: &Arc<Log>, file: &File) -> Result<(), WorldError> {
    let log = Arc::clone(log);
    let mut file = file.try_clone().doing(|| "sharing a log file".into())?;
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let _ = writeln!(file, "{line}"); // the copy in memory is the one that counts
            log.lock().lines.push(line);
            log.changed.notify_all();
        }
        log.lock().open -= 1;
        log.changed.notify_all();
    });
    Ok(())
}

fn http_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
    status.map(|status| (status, body)).ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((len, rest)) = body.split_once("\r\n") {
        let len = usize::from_str_radix(len.trim(), 16).unwrap_or(0).min(rest.len());
        if len == 0 {
            break;
        }
        out.push_str(&rest[..len]);
        body = rest[len..].trim_start_matches("\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, dir: &Path) -> Daemon {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Daemon::start("sh", command, &dir.join("log"), ([127, 0, 0, 1], 1).into()).unwrap()
    }

    #[test]
    fn lines_and_ends_are_seen_as_they_happen() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = shell("echo one; echo two >&2; exec sleep 1000", dir.path());
        daemon.wait_line("one", PATIENCE).unwrap();
        daemon.wait_line("two", PATIENCE).unwrap();
        assert_eq!(daemon.ended().unwrap(), None);
        assert!(daemon.rss().unwrap() > 0 && daemon.peak_rss().unwrap() > 0);
        assert_eq!(daemon.terminate().unwrap(), Ended::Signal(15));
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(log.contains("one") && log.contains("two"));
    }

    #[test]
    fn a_line_that_never_comes_ends_with_the_log_and_not_with_a_hang() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = shell("echo last words; exit 3", dir.path());
        let error = daemon.wait_line("never", PATIENCE).unwrap_err().to_string();
        assert!(error.contains("last words"), "{error}");
    }

    #[test]
    fn a_killed_process_says_by_what() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = shell("kill -9 $$", dir.path());
        assert_eq!(daemon.wait_end(PATIENCE).unwrap(), Ended::Signal(9));
    }

    #[test]
    fn chunked_bodies_are_joined() {
        assert_eq!(unchunk("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
    }
}
