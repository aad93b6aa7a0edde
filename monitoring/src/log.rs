//! Logs of a daemon: to stderr, as text for people or as JSON for programs. `RUST_LOG` says how much.

use crate::recent::Recent;
use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt as lines};

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line: `timestamp`, `level`, `message`, the event's fields, and in `span` which session it is about.
    Json,
}

/// The text is no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no format of logs: write `text` or `json`")]
pub struct ParseLogFormatError(String);

impl FromStr for LogFormat {
    type Err = ParseLogFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(ParseLogFormatError(other.chars().take(40).flat_map(char::escape_default).collect())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

/// Logs what is at least of `level`, where `RUST_LOG` does not say otherwise. The journal has a clock and no colours of its own: neither is written to it.
/// To be called once, before anything else.
pub fn start_log(format: LogFormat, level: &str) {
    start(format, level, None);
}

/// The same; the last lines are kept in memory too, for whoever makes diagnostics of them.
pub fn start_log_keeping(format: LogFormat, level: &str) -> Recent {
    let recent = Recent::default();
    start(format, level, Some(recent.clone()));
    recent
}

fn start(format: LogFormat, level: &str, recent: Option<Recent>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let is_journal = journal.is_some_and(|journal| stderr_is().is_ok_and(|stderr| names(&journal, stderr)));
    let colours = !is_journal && io::stderr().is_terminal();
    let layer = lines::layer().with_writer(io::stderr).with_target(false).with_ansi(colours);
    let layer = match (format, is_journal) {
        (LogFormat::Text, false) => layer.boxed(),
        (LogFormat::Text, true) => layer.without_time().boxed(),
        (LogFormat::Json, false) => layer.json().flatten_event(true).with_span_list(false).boxed(),
        (LogFormat::Json, true) => layer.json().flatten_event(true).with_span_list(false).without_time().boxed(),
    };
    let kept = recent.map(|recent| lines::layer().with_writer(recent).with_target(false).with_ansi(false));
    tracing_subscriber::registry().with(filter).with(layer).with(kept).init();
}

/// Device and inode of stderr.
fn stderr_is() -> nix::Result<(u64, u64)> {
    nix::sys::stat::fstat(io::stderr()).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Whether `JOURNAL_STREAM` is about this stream: a child of a service inherits the variable, and may have been given another stderr.
fn names(journal: &str, (device, inode): (u64, u64)) -> bool {
    journal == format!("{device}:{inode}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_two_words() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        let why = "\u{1b}[1mxml".parse::<LogFormat>().unwrap_err().to_string();
        assert_eq!(why, "`\\u{1b}[1mxml` is no format of logs: write `text` or `json`");
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(names("9:12345", (9, 12345)));
        for other in ["9:1234", "", "9", "9:12345:1"] {
            assert!(!names(other, (9, 12345)), "{other}");
        }
        assert!(stderr_is().is_ok());
    }
}
