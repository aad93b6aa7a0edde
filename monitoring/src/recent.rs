//! The last lines of the log, in memory: what a diagnostics bundle shows although nobody has a shell on the box.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that are kept: a quiet edge writes some dozens a day.
const LINES: usize = 600;
/// Bytes of one line that are kept.
const LINE: usize = 1000;

/// A ring of the last lines. Clones are the same one; a subscriber of `tracing` writes into it.
#[derive(Clone, Debug, Default)]
pub struct Recent(Arc<Mutex<VecDeque<String>>>);

impl Recent {
    /// The lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.lock().iter().cloned().collect()
    }

    fn push(&self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let mut lines = self.lock();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if lines.len() == LINES {
                lines.pop_front();
            }
            let mut line = line.to_owned();
            line.truncate(line.floor_char_boundary(LINE));
            lines.push_back(line);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        // Whole lines are pushed; a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One event while it is written; it is kept when it is dropped.
#[derive(Debug)]
pub struct Event {
    recent: Recent,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Recent {
    type Writer = Event;

    fn make_writer(&'a self) -> Event {
        Event { recent: self.clone(), text: Vec::new() }
    }
}

impl Write for Event {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (2 * LINE).saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.recent.push(&self.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_no_more() {
        let recent = Recent::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(recent.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..LINES + 3 {
                tracing::info!(number, "a line");
            }
            tracing::warn!("{}", "é".repeat(10 * LINE));
        });
        let lines = recent.lines();
        assert_eq!(lines.len(), LINES);
        assert!(lines[0].ends_with("a line number=4"), "{}", lines[0]);
        assert!(lines[LINES - 1].len() <= LINE);
    }
}
