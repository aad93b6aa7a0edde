//! Lines that are typed: echoed, with a way to take characters back.

use super::{Key, Stop, Terminal};
use crate::language::width;
use crate::run::now;
use std::time::Duration;
use zeroize::Zeroizing;

/// What is pasted with line breaks in it goes on within this; who types takes longer. A serial line of 1200 bit/s needs 8 ms for a byte.
const PASTE: Duration = Duration::from_millis(300);
/// So much of a secret is shown that somebody sees that it is the right one.
const SHOWN: usize = 8;

/// How what is typed is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// As it is.
    Plain,
    /// A secret, as it is pasted: stars behind its first characters, and line breaks in it are none.
    Secret,
    /// A secret that somebody types: not even how long it is.
    Nothing,
}

impl Terminal {
    /// A line of at most `most` bytes. What does not fit is not taken, which its echo shows by a bell.
    pub(crate) fn line(&mut self, echo: Echo, most: usize) -> Result<Zeroizing<String>, Stop> {
        // As large as it can become: moving it would leave copies of a secret behind.
        let mut line = Zeroizing::new(String::with_capacity(most));
        let mut utf8 = [0; 4];
        loop {
            let key = self.key(now() + self.idle)?.ok_or(Stop::Idle);
            match key {
                Ok(Key::Enter) if echo == Echo::Secret && !line.is_empty() && self.goes_on(PASTE)? => {}
                Ok(Key::Enter) => {
                    self.write("\n")?;
                    return Ok(line);
                }
                Ok(Key::Char(char)) if line.len() + char.len_utf8() > most => self.write("\x07")?,
                Ok(Key::Char(char)) => {
                    line.push(char);
                    let hidden = echo == Echo::Secret && line.chars().count() > SHOWN;
                    if echo != Echo::Nothing {
                        self.write(if hidden { "*" } else { char.encode_utf8(&mut utf8) })?;
                    }
                }
                Ok(Key::Erase) => {
                    if let Some(char) = line.pop() {
                        self.erase(match echo {
                            Echo::Plain => width(char.encode_utf8(&mut utf8)),
                            Echo::Secret => 1,
                            Echo::Nothing => 0,
                        })?;
                    }
                }
                Ok(Key::EraseAll) => {
                    let cells = match echo {
                        Echo::Plain => width(&line),
                        Echo::Secret => line.chars().count(),
                        Echo::Nothing => 0,
                    };
                    line.clear();
                    self.erase(cells)?;
                }
                Ok(Key::Cancel) => {
                    self.write("\n")?;
                    return Err(Stop::Cancel);
                }
                Err(idle) => {
                    self.write("\n")?;
                    return Err(idle);
                }
            }
        }
    }

    fn erase(&mut self, cells: usize) -> Result<(), Stop> {
        self.write(&"\x08 \x08".repeat(cells))
    }

    /// Asks until the answer makes sense. Where there is a `usual` answer, Enter alone gives it.
    pub(crate) fn ask<T>(
        &mut self,
        question: &str,
        usual: Option<&str>,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Stop> {
        loop {
            match usual {
                Some(usual) if !usual.is_empty() => self.write(&format!("{question} [{usual}]: "))?,
                _ => self.write(&format!("{question}: "))?,
            }
            let line = self.line(Echo::Plain, 256)?;
            let typed = line.trim();
            let answer = if typed.is_empty() { usual.unwrap_or_default() } else { typed };
            match check(answer) {
                Ok(answer) => return Ok(answer),
                Err(why) => self.say(&format!("  {why}"))?,
            }
        }
    }

    /// Asks for one of `options` by its number; returns its place. 0 is the way back.
    pub(crate) fn choose(&mut self, options: &[String]) -> Result<usize, Stop> {
        for (number, option) in (1..).zip(options) {
            self.say(&format!("  {number:>2}  {option}"))?;
        }
        self.say_in("   0  Back", "   0  返回")?;
        let (language, most) = (self.language, options.len());
        let chosen = self.ask(language.of("Number", "编号"), None, |typed| number(typed, most, language))?;
        chosen.checked_sub(1).ok_or(Stop::Cancel)
    }

    /// Asks for a word before something that cannot be taken back. Returns whether it was typed.
    pub(crate) fn has_typed(&mut self, word: &str) -> Result<bool, Stop> {
        self.forget_typed()?;
        let question = self.language.of(
            format!("Type {word} and press Enter to do it; Enter alone does nothing"),
            format!("输入 {word} 并按回车确认；直接按回车则不执行"),
        );
        self.write(&format!("{question}: "))?;
        let is_it = self.line(Echo::Plain, 64)?.trim() == word;
        if !is_it {
            self.say_in("  Nothing was done.", "  未执行任何操作。")?;
        }
        Ok(is_it)
    }
}

/// A number of a list that ends at `most`.
pub(crate) fn number(typed: &str, most: usize, language: crate::language::Language) -> Result<usize, String> {
    typed.parse().ok().filter(|&number| number <= most).ok_or_else(|| {
        let typed: String = typed.chars().take(40).collect();
        language.of(
            format!("\"{typed}\" is not in the list. Type a number from 0 to {most} and press Enter."),
            format!("列表中没有“{typed}”。请输入 0 到 {most} 之间的数字，然后按回车。"),
        )
    })
}
