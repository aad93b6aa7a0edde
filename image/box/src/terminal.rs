//! One screen with a keyboard, or a serial line: keys come in, lines go out. What is typed is echoed here, so that it is the same on both.
//!
//! No cursor is moved and nothing is coloured: a serial line may end in anything.

mod line;

pub(crate) use line::Echo;

use crate::language::Language;
use crate::run::now;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, ControlFlags, InputFlags, LocalFlags, SetArg, SpecialCharacterIndices};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Nobody leaves a menu open for longer.
pub(crate) const IDLE: Duration = Duration::from_secs(600);
/// For what is written to be taken by the slowest line: 4 KiB at 1200 bit/s take 35 s.
const STUCK: Duration = Duration::from_secs(60);
/// The rest of an arrow key follows its first byte at once, also at 1200 bit/s.
const ESCAPE: Duration = Duration::from_millis(100);

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    Enter,
    /// Takes back one character.
    Erase,
    /// Takes back all.
    EraseAll,
    /// Escape, Ctrl-C, Ctrl-D.
    Cancel,
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// Somebody wants back to the menu.
    #[error("cancelled")]
    Cancel,
    /// Nobody is there any more.
    #[error("nothing was typed for a while")]
    Idle,
    /// The terminal itself is gone, or takes nothing.
    #[error("the terminal is gone: {0}")]
    Gone(#[from] io::Error),
}

/// A terminal in the state that keys come one by one.
pub(crate) struct Terminal {
    input: File,
    output: File,
    pub(crate) language: Language,
    /// Whether it can show Chinese: the kernel's own screens have no such glyphs.
    pub(crate) has_chinese: bool,
    pub(crate) idle: Duration,
    bytes: VecDeque<u8>,
    after_return: bool,
}

impl Terminal {
    /// Opens a terminal device.
    pub(crate) fn open(path: &Path, language: Language) -> io::Result<Terminal> {
        let flags = nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        prepare(&file)?;
        let has_chinese = !is_kernels_screen(path);
        let language = if has_chinese { language } else { Language::English };
        Ok(Terminal {
            input: file.try_clone()?,
            output: file,
            language,
            has_chinese,
            idle: IDLE,
            bytes: VecDeque::new(),
            after_return: false,
        })
    }

    #[cfg(test)]
    pub(crate) fn of(file: File) -> Terminal {
        let input = file.try_clone().unwrap();
        Terminal {
            input,
            output: file,
            language: Language::English,
            has_chinese: true,
            idle: IDLE,
            bytes: VecDeque::new(),
            after_return: false,
        }
    }

    /// Writes a text with a new line behind it.
    pub(crate) fn say(&mut self, text: &str) -> Result<(), Stop> {
        self.write(&format!("{text}\n"))
    }

    /// The same, in the language that is spoken.
    pub(crate) fn say_in(&mut self, english: &str, chinese: &str) -> Result<(), Stop> {
        self.say(self.language.of(english, chinese))
    }

    /// Writes a text as it is.
    pub(crate) fn write(&mut self, text: &str) -> Result<(), Stop> {
        let (mut left, until) = (text.as_bytes(), now() + STUCK);
        while !left.is_empty() {
            match self.output.write(left) {
                Ok(0) => return Err(Stop::Gone(io::ErrorKind::WriteZero.into())),
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !await_it(&self.output, PollFlags::POLLOUT, until)? {
                        return Err(Stop::Gone(io::ErrorKind::TimedOut.into()));
                    }
                }
                Err(error) => return Err(Stop::Gone(error)),
            }
        }
        Ok(())
    }

    /// The next key, if one comes until then.
    pub(crate) fn key(&mut self, until: Instant) -> Result<Option<Key>, Stop> {
        loop {
            let Some(byte) = self.byte(until)? else { return Ok(None) };
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            let key = match byte {
                b'\n' if after_return => continue, // the second half of the same Enter
                b'\r' | b'\n' => Key::Enter,
                0x08 | 0x7f => Key::Erase,
                0x15 => Key::EraseAll,
                0x03 | 0x04 => Key::Cancel,
                0x1b => match self.escape()? {
                    true => Key::Cancel,
                    false => continue,
                },
                b'\t' => Key::Char(' '),
                0..0x20 => continue,
                first => match self.char(first)? {
                    Some(char) => Key::Char(char),
                    None => continue,
                },
            };
            return Ok(Some(key));
        }
    }

    /// Whether a byte is there already, or comes within `wait`.
    fn has_more(&mut self, wait: Duration) -> Result<bool, Stop> {
        self.fill(now() + wait)?;
        Ok(!self.bytes.is_empty())
    }

    /// Whether something was sent behind an Enter within `wait`, as what is pasted is. The second half of the same Enter is nothing.
    fn goes_on(&mut self, wait: Duration) -> Result<bool, Stop> {
        if self.has_more(wait)? && self.after_return && self.bytes.front() == Some(&b'\n') {
            self.bytes.pop_front();
            self.after_return = false;
            return self.has_more(wait);
        }
        Ok(!self.bytes.is_empty())
    }

    /// Forgets what was typed before there was a question.
    pub(crate) fn forget_typed(&mut self) -> Result<(), Stop> {
        while self.has_more(Duration::ZERO)? {
            self.bytes.clear();
        }
        Ok(())
    }

    /// Swallows an arrow key or its like. Returns whether it was the escape key alone.
    fn escape(&mut self) -> Result<bool, Stop> {
        if !self.has_more(ESCAPE)? || !matches!(self.bytes.front(), Some(b'[' | b'O')) {
            return Ok(true);
        }
        self.bytes.pop_front();
        while let Some(byte) = self.byte(now() + ESCAPE)? {
            if (0x40..0x7f).contains(&byte) {
                break;
            }
        }
        Ok(false)
    }

    /// The rest of a character of UTF-8; nothing if it is none.
    fn char(&mut self, first: u8) -> Result<Option<char>, Stop> {
        let more = match first {
            0..0x80 => return Ok(Some(char::from(first))),
            0xc2..0xe0 => 1,
            0xe0..0xf0 => 2,
            0xf0..0xf5 => 3,
            _ => return Ok(None),
        };
        let mut bytes = vec![first];
        for _ in 0..more {
            if !self.has_more(ESCAPE)? || self.bytes.front().is_none_or(|byte| byte & 0xc0 != 0x80) {
                return Ok(None);
            }
            bytes.extend(self.bytes.pop_front());
        }
        Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.chars().next()))
    }

    fn byte(&mut self, until: Instant) -> Result<Option<u8>, Stop> {
        self.fill(until)?;
        Ok(self.bytes.pop_front())
    }

    /// Waits until there is a byte, or the time is over.
    fn fill(&mut self, until: Instant) -> Result<(), Stop> {
        while self.bytes.is_empty() && await_it(&self.input, PollFlags::POLLIN, until)? {
            let mut some = [0; 4096];
            match self.input.read(&mut some) {
                Ok(0) => return Err(Stop::Gone(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => self.bytes.extend(&some[..read]),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(Stop::Gone(error)),
            }
        }
        Ok(())
    }
}

/// Whether something can be done with `file` before the time is over. Looks at least once.
fn await_it(file: &File, what: PollFlags, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(now());
        // Rounded up: a wait of half a millisecond is none of zero, which would be a busy one.
        let left = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        let wait = if until <= now() { PollTimeout::ZERO } else { left };
        match poll(&mut [PollFd::new(file.as_fd(), what)], wait) {
            Ok(0) if until <= now() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Keys one by one, no echo and no signals from the kernel; a modem's lines are not waited for.
fn prepare(file: &File) -> io::Result<()> {
    let mut settings = termios::tcgetattr(file)?;
    settings.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG | LocalFlags::IEXTEN);
    settings
        .input_flags
        .remove(InputFlags::ICRNL | InputFlags::INLCR | InputFlags::IGNCR | InputFlags::ISTRIP | InputFlags::BRKINT);
    // A Ctrl-S, or noise that looks like one, must not stop the screen for good; who pastes is told to wait.
    settings.input_flags.remove(InputFlags::IXON);
    settings.input_flags.insert(InputFlags::IGNBRK | InputFlags::IXOFF);
    settings.control_flags.insert(ControlFlags::CLOCAL | ControlFlags::CREAD);
    settings.control_flags.remove(ControlFlags::HUPCL | ControlFlags::CRTSCTS);
    settings.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    settings.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    Ok(termios::tcsetattr(file, SetArg::TCSANOW, &settings)?)
}

/// /dev/tty1 and its like: the kernel draws them, with at most 512 glyphs.
fn is_kernels_screen(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix("tty").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
pub(crate) mod tests;
