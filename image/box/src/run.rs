//! Programs that are asked for something: each has a deadline and may say so much and no more.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a program may say, each on standard output and error. A status with hundreds of volumes has some hundred kilobytes.
const MOST: usize = 1 << 20;
/// How often a program that closed its outputs is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Where the box's things are: `/`, or a folder in tests.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    root: PathBuf,
    /// A folder that is looked into first for programs.
    programs: Option<PathBuf>,
}

impl Place {
    pub(crate) fn real() -> Place {
        Place { root: "/".into(), programs: None }
    }

    #[cfg(test)]
    pub(crate) fn of(root: &Path) -> Place {
        Place { root: root.into(), programs: Some(root.join("bin")) }
    }

    /// The path of something that is at `path` on a box.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn program(&self, name: &str) -> Command {
        let path = "/usr/sbin:/usr/bin:/sbin:/bin";
        let own = self.programs.as_ref().map(|folder| folder.join(name)).filter(|own| own.exists());
        let mut command = Command::new(own.unwrap_or_else(|| name.into()));
        command.env_clear().env("PATH", path).env("LC_ALL", "C.UTF-8").current_dir("/");
        command
    }

    /// The daemon's own program, as the daemon's user: its files stay its own.
    pub(crate) fn edge(&self) -> Command {
        let mut command = self.program("sluice-edge");
        if let Some(user) = daemons_user() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }
}

/// Whom the daemon runs as; nobody where no appliance is.
pub(crate) fn daemons_user() -> Option<User> {
    User::from_name("sluice").ok().flatten()
}

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Why there is nothing that it said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("{program} cannot be run: {source}")]
    Start { program: String, source: io::Error },
    #[error("{program} did not end within {} s and was stopped", .within.as_secs())]
    Late { program: String, within: Duration },
    #[error("{program} said more than {MOST} bytes and was stopped")]
    TooMuch { program: String },
    #[error("{program}: {said}")]
    Failed { program: String, said: String },
}

/// The clock of this process.
#[allow(clippy::disallowed_methods, reason = "the one place where a console asks what time it is")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Runs a program without input, until it ends or `within` is over; then it and what it started are killed.
pub(crate) fn run(command: &mut Command, within: Duration) -> Result<Said, RunError> {
    run_into(command, Stdio::piped(), within)
}

/// The same; what it says on standard output goes to `out`.
pub(crate) fn run_into(command: &mut Command, out: Stdio, within: Duration) -> Result<Said, RunError> {
    let program = name_of(command);
    let start = |source| RunError::Start { program: program.clone(), source };
    command.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(start)?;
    let outcome = listen(&mut child, now() + within);
    match outcome {
        Ok(Ok(said)) => Ok(said),
        stopped => {
            let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
            let _ = child.wait();
            Err(match stopped {
                Err(source) => start(source),
                Ok(Err(Stopped::Late)) => RunError::Late { program, within },
                _ => RunError::TooMuch { program },
            })
        }
    }
}

/// Runs a program that has to succeed, and returns what it said on standard output.
pub(crate) fn succeed(command: &mut Command, within: Duration) -> Result<String, RunError> {
    let said = run(command, within)?;
    if said.status.success() {
        return Ok(said.out);
    }
    Err(said.failure(name_of(command)))
}

impl Said {
    /// That it failed, in its own words.
    pub(crate) fn failure(&self, program: String) -> RunError {
        let words = [self.err.trim(), self.out.trim()].into_iter().find(|text| !text.is_empty());
        let said =
            words.map_or_else(|| self.status.to_string(), |text| crate::files::plain(text).chars().take(600).collect());
        RunError::Failed { program, said }
    }
}

fn name_of(command: &Command) -> String {
    let program = Path::new(command.get_program());
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}

enum Stopped {
    Late,
    TooMuch,
}

fn listen(child: &mut Child, until: Instant) -> io::Result<Result<Said, Stopped>> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut out_pipe = child.stdout.take().map(|pipe| File::from(OwnedFd::from(pipe)));
    let mut err_pipe = child.stderr.take().map(|pipe| File::from(OwnedFd::from(pipe)));
    loop {
        let left = until.saturating_duration_since(now());
        if left.is_zero() {
            return Ok(Err(Stopped::Late));
        }
        if out_pipe.is_none() && err_pipe.is_none() {
            if let Some(status) = child.try_wait()? {
                let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                return Ok(Ok(Said { status, out: text(out), err: text(err) }));
            }
            std::thread::sleep(LOOK.min(left));
            continue;
        }
        await_any(&[&out_pipe, &err_pipe], left)?;
        for (pipe, bytes) in [(&mut out_pipe, &mut out), (&mut err_pipe, &mut err)] {
            take_what_is_there(pipe, bytes)?;
            if bytes.len() > MOST {
                return Ok(Err(Stopped::TooMuch));
            }
        }
    }
}

fn await_any(pipes: &[&Option<File>], left: Duration) -> io::Result<()> {
    let mut polled: Vec<_> = pipes
        .iter()
        .filter_map(|pipe| pipe.as_ref())
        .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
        .collect();
    match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
        Err(nix::errno::Errno::EINTR) => Ok(()),
        polled => polled.map(drop).map_err(io::Error::from),
    }
}

/// Reads once from a pipe that has something, and closes it at its end.
fn take_what_is_there(pipe: &mut Option<File>, bytes: &mut Vec<u8>) -> io::Result<()> {
    let Some(file) = pipe else { return Ok(()) };
    let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut polled, PollTimeout::ZERO).map_err(io::Error::from)? > 0;
    if ready {
        let mut some = [0; 16 << 10];
        match file.read(&mut some)? {
            0 => *pipe = None,
            n => bytes.extend_from_slice(&some[..n]),
        }
    }
    Ok(())
}

/// A line for the journal: who did what. `who` is where somebody stood.
pub(crate) fn record(who: &str, what: &str) {
    // Standard error is the journal; <5> is its priority "notice". If it is gone, the work goes on.
    let _ = writeln!(io::stderr(), "<5>who=\"{who}\" {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Place::real().program("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_program_says_is_heard_whole() {
        let said = run(&mut shell("echo out; echo err >&2; exit 3"), Duration::from_secs(60)).unwrap();
        assert_eq!((said.out.as_str(), said.err.as_str(), said.status.code()), ("out\n", "err\n", Some(3)));
        let said = succeed(&mut shell("head -c 300000 /dev/zero"), Duration::from_secs(60)).unwrap();
        assert_eq!(said.len(), 300_000);
    }

    #[test]
    fn a_program_that_fails_is_named_with_what_it_said() {
        let failed = succeed(&mut shell("echo no such card >&2; false"), Duration::from_secs(60)).unwrap_err();
        assert_eq!(failed.to_string(), "sh: no such card");
        let missing = succeed(&mut Place::real().program("no-such-program"), Duration::from_secs(60)).unwrap_err();
        assert!(missing.to_string().starts_with("no-such-program cannot be run"), "{missing}");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_what_it_started() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let late = run(
            &mut shell(&format!("sleep 1000 & echo $! >{}; wait", file.path().display())),
            Duration::from_millis(500),
        )
        .unwrap_err();
        assert!(matches!(late, RunError::Late { .. }), "{late}");
        let inner: i32 = std::fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
        // It is killed, and then reaped by whoever inherited it.
        let is_there =
            || std::fs::read_to_string(format!("/proc/{inner}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        let until = now() + Duration::from_secs(30);
        while is_there() {
            assert!(now() < until, "{inner} still runs");
            std::thread::sleep(LOOK);
        }
        // It closes its outputs and stays.
        let late = run(&mut shell("exec >&- 2>&-; sleep 1000"), Duration::from_millis(300)).unwrap_err();
        assert!(matches!(late, RunError::Late { .. }), "{late}");
    }

    #[test]
    fn a_program_that_says_too_much_is_killed() {
        let much = run(&mut shell("cat /dev/zero"), Duration::from_secs(60)).unwrap_err();
        assert!(matches!(much, RunError::TooMuch { .. }), "{much}");
    }
}
