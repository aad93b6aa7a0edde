//! What the demo shows: numbered steps, a live line below the current one, and what each step found.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

/// A terminal, or a file or pipe that gets whole lines only.
pub(crate) struct Screen {
    terminal: bool,
    steps: usize,
    step: usize,
    said: Instant,
}

/// How often a pipe or file gets a line of progress. A terminal gets it as often as it changes.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Columns of the steps' texts.
const WIDTH: usize = 46;

impl Screen {
    pub(crate) fn new(steps: usize) -> Self {
        Self { terminal: stdout().is_terminal(), steps, step: 0, said: Instant::now() }
    }

    /// A line that stays.
    pub(crate) fn say(&mut self, text: &str) {
        self.clear();
        println!("{text}");
    }

    /// Begins a step.
    pub(crate) fn begin(&mut self, text: &str) {
        self.step += 1;
        let number = format!("[{}/{}]", self.step, self.steps);
        self.say(&format!("\n{} {}", self.dim(&number), self.bold(text)));
        self.said = Instant::now();
    }

    /// A finding of the current step.
    pub(crate) fn found(&mut self, what: &str, value: &str) {
        self.say(&format!("      {what:<WIDTH$} {value}"));
    }

    /// Progress: replaced by the next on a terminal, now and then a line elsewhere.
    pub(crate) fn live(&mut self, text: &str) {
        if self.terminal {
            print!("\r\x1b[K      {}", self.dim(text));
            let _ = stdout().flush();
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            println!("      {text}");
        }
    }

    pub(crate) fn bold(&self, text: &str) -> String {
        if self.terminal { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn dim(&self, text: &str) -> String {
        if self.terminal { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn clear(&self) {
        if self.terminal {
            print!("\r\x1b[K");
        }
    }
}
