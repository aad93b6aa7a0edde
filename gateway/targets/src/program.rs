//! Programs that do a part of the work: run by their names and arguments, never through a shell, with a deadline, in English, and not longer than we live.

use crate::error::TargetError;
use crate::pause::Stop;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of what a program says that are kept; the rest is read and dropped.
const MOST_SAID: u64 = 1 << 20;
/// How often a program that works is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Characters of a program's own words in a message of ours.
const MOST_QUOTED: usize = 300;

/// What a program said at its end.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit status; `None`: it was ended by a signal.
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A command that ends when the thread that spawns it does (`setpriv`, because the system call needs code that runs between fork and exec). The caller
/// keeps that thread alive as long as the program.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", program]);
    command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A program and its arguments.
pub(crate) struct Run<'a> {
    pub(crate) program: &'static str,
    pub(crate) args: &'a [&'a OsStr],
    /// What it reads.
    pub(crate) input: &'a [u8],
    /// It is ended when it takes longer.
    pub(crate) longest: Duration,
    pub(crate) stop: &'a Stop,
}

impl Run<'_> {
    /// Runs it to its end, however that is.
    ///
    /// # Errors
    /// [`TargetError::Program`] when it cannot be run or takes too long, [`TargetError::Cancelled`].
    pub(crate) fn to_end(&self) -> Result<Said, TargetError> {
        let mut command = command(self.program);
        command.args(self.args).stdin(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.failed(&error.to_string()))?;
        let out = collect(child.stdout.take());
        let err = collect(child.stderr.take());
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read to the end says why by its status. What is written fits into a pipe.
            let _ended_early = stdin.write_all(self.input);
        }
        let status = self.wait(&mut child)?;
        let text = |collected: JoinHandle<String>| collected.join().unwrap_or_default();
        Ok(Said { status, out: text(out), err: text(err) })
    }

    /// Runs it; it has to end well. Answers what it said.
    ///
    /// # Errors
    /// As [`Run::to_end`], and [`TargetError::Program`] when it ends with another status than 0.
    pub(crate) fn well(&self) -> Result<String, TargetError> {
        let said = self.to_end()?;
        match said.status {
            Some(0) => Ok(said.out),
            Some(127) if said.err.starts_with("setpriv:") => Err(self.failed("it is not installed; install it")),
            _ => Err(self.failed(&line(&said.err))),
        }
    }

    fn wait(&self, child: &mut Child) -> Result<Option<i32>, TargetError> {
        let mut waited = Duration::ZERO;
        loop {
            if let Some(status) = child.try_wait().map_err(|error| self.failed(&error.to_string()))? {
                return Ok(status.code());
            }
            let is_late = waited >= self.longest;
            if is_late || !self.stop.wait(LOOK) {
                end(child);
                return Err(match is_late {
                    true => self.failed(&format!("it did not end within {} s and was stopped", self.longest.as_secs())),
                    false => TargetError::Cancelled,
                });
            }
            waited += LOOK;
        }
    }

    fn failed(&self, said: &str) -> TargetError {
        let first = self.args.first().map(|arg| format!(" {}", arg.to_string_lossy())).unwrap_or_default();
        TargetError::Program { program: format!("{}{first}", self.program), said: said.to_owned() }
    }
}

/// Ends a program that is ours and takes its status, so that nothing of it is left.
pub(crate) fn end(child: &mut Child) {
    // It may have ended by itself; then there is nothing to kill.
    let _gone = child.kill();
    let _status = child.wait();
}

/// Reads what a program says, so that it never waits for us.
pub(crate) fn collect(from: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let Some(mut from) = from else { return String::new() };
        let mut bytes = Vec::new();
        let read = (&mut from).take(MOST_SAID).read_to_end(&mut bytes);
        if read.is_ok() {
            let _rest = std::io::copy(&mut from, &mut std::io::sink());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// In one line, shortened.
pub(crate) fn line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.chars().filter(|c| !c.is_control()).take(MOST_QUOTED).collect::<String>() {
        line if line.is_empty() => "without a word".into(),
        line => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<'a>(program: &'static str, args: &'a [&'a OsStr], stop: &'a Stop) -> Run<'a> {
        Run { program, args, input: b"", longest: Duration::from_secs(60), stop }
    }

    #[test]
    fn a_program_gets_its_words_as_they_are_and_its_end_is_told() {
        let stop = Stop::default();
        let said = run("printf", &["%s".as_ref(), "a b;$HOME'".as_ref()], &stop).well().unwrap();
        assert_eq!(said, "a b;$HOME'");
        let echo = Run { input: b"input", ..run("cat", &[], &stop) };
        assert_eq!(echo.well().unwrap(), "input");
        let wrong = run("ls", &["/nowhere".as_ref()], &stop).well().unwrap_err().to_string();
        assert_eq!(wrong, "`ls /nowhere` failed: ls: cannot access '/nowhere': No such file or directory");
        let missing = run("no-such-program", &[], &stop).well().unwrap_err().to_string();
        assert_eq!(missing, "`no-such-program` failed: it is not installed; install it");
    }

    #[test]
    fn a_program_that_takes_too_long_or_is_not_wanted_any_more_is_ended() {
        let stop = Stop::default();
        let args: [&OsStr; 1] = ["600".as_ref()];
        let late = Run { longest: Duration::ZERO, ..run("sleep", &args, &stop) };
        let late = late.well().unwrap_err().to_string();
        assert_eq!(late, "`sleep 600` failed: it did not end within 0 s and was stopped");
        stop.stop();
        assert!(matches!(run("sleep", &args, &stop).well(), Err(TargetError::Cancelled)));
    }
}
