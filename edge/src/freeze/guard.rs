//! The process that freezes and thaws: `sluice-edge thaw-guard`, started by the daemon and by nobody else.
//!
//! It says one line when it is frozen (`frozen`, or `failed WHY` after thawing), and one when it is thawed (`thawed`; `late` when nobody had asked for it; `stuck WHY`).
//! SIGTERM, SIGINT and SIGHUP do not end it: a service that is stopped while something is frozen still thaws it.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

/// How long one call of `thaw` may take.
const THAW: Duration = Duration::from_secs(20);
/// Calls of `thaw`, and the wait between two.
const TIMES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// How long thawing takes at most.
pub const LONGEST_THAW: Duration = Duration::from_secs((20 + 1) * 5);
/// Bytes of what a script says that are passed on: its last ones.
const SAID: usize = 2000;

/// Freezes, waits for the word on standard input, its end, or the end of `within`, and thaws. Standard input is a socket, and what is said goes there as well.
pub async fn run(script: &Path, volume: &str, within: Duration) -> std::io::Result<()> {
    let _deaf = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let until = Instant::now() + within;
    let daemon = std::os::unix::net::UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    daemon.set_nonblocking(true)?;
    let (mut words, mut says) = UnixStream::from_std(daemon)?.into_split();
    let frozen = tokio::select! {
        ended = call(script, "freeze", volume, within) => ended,
        // Nobody waits for it any more: what was begun is undone.
        _ = words.read_u8() => Err("the daemon is gone".into()),
    };
    if let Err(why) = frozen {
        let thawed = thaw(script, volume).await;
        let more = thawed.err().map(|why| format!("; and `thaw` failed as well: {why}")).unwrap_or_default();
        return say(&mut says, &format!("failed {why}{more}")).await;
    }
    say(&mut says, "frozen").await?;
    let word = timeout(until.saturating_duration_since(Instant::now()), words.read_u8()).await;
    let thawed = thaw(script, volume).await;
    let said = match (thawed, word) {
        (Err(why), _) => format!("stuck {why}"),
        (Ok(()), Ok(Ok(_))) => "thawed".to_owned(),
        (Ok(()), _) => "late".to_owned(),
    };
    say(&mut says, &said).await
}

/// One line; whoever should read it may be gone.
async fn say(says: &mut OwnedWriteHalf, line: &str) -> std::io::Result<()> {
    let line = line.replace(['\n', '\r'], " ") + "\n";
    let _ = says.write_all(line.as_bytes()).await;
    Ok(())
}

async fn thaw(script: &Path, volume: &str) -> Result<(), String> {
    let mut why = String::new();
    for time in 0..TIMES {
        if time > 0 {
            sleep(PAUSE).await;
        }
        match call(script, "thaw", volume, THAW).await {
            Ok(()) => return Ok(()),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// Ends a script with all that it started when it is dropped: a freeze that came to its end after the thaw would last for ever.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(id) = self.0.id() {
            let group = nix::unistd::Pid::from_raw(id as i32);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Runs the script with one word, `within` at most.
async fn call(script: &Path, word: &str, volume: &str, within: Duration) -> Result<(), String> {
    let started = Command::new(script)
        .arg(word)
        .env("SLUICE_VOLUME", volume)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut script = Ended(started.map_err(|error| error.to_string())?);
    let mut complaints = script.0.stderr.take().ok_or("its complaints cannot be heard")?;
    let mut said = Vec::new();
    let ended = timeout(within, async {
        let mut some = [0; 1024];
        while let Ok(read @ 1..) = complaints.read(&mut some).await {
            said.extend_from_slice(&some[..read]);
            let more = said.len().saturating_sub(SAID);
            said.drain(..more);
        }
        script.0.wait().await
    })
    .await;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) if said.is_empty() => Err(status.to_string()),
        Ok(Ok(status)) => Err(format!("{status}, and said: {said}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it did not end within {} s", within.as_secs_f64())),
    }
}
