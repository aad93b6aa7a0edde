//! The console: the status of the box, and a menu for whoever stands in front of it. To stand there is the authority; what is done is in the journal.
//!
//! A new point of the menu is one entry of [`MENU`].

mod bundle;
mod enrol;
mod network;
mod page;
mod power;
mod reset;
pub(crate) mod stick;
mod upgrade;

use crate::language::{Both, Language, fold};
use crate::run::{Place, now, record};
use crate::status::{Line, Release, Role, Watch, lines};
use crate::terminal::{Key, Stop, Terminal};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How often the box is asked how it is while nobody types.
const REFRESH: Duration = Duration::from_secs(5);
/// How long a change of the network waits for somebody to keep it.
const TRIAL: Duration = Duration::from_secs(120);

/// A point of the menu.
struct Entry {
    name: Both,
    /// Which systems have it.
    roles: &'static [Role],
    act: fn(&mut Console) -> Result<(), Stop>,
}

const BOTH: &[Role] = &[Role::Edge, Role::Gateway];
const EDGE: &[Role] = &[Role::Edge];

const MENU: &[Entry] = &[
    Entry {
        name: ("Network: address, VLAN, bond", "网络：地址、VLAN、网卡绑定"), roles: BOTH, act: network::change
    },
    Entry {
        name: ("Enrol this box with a token", "注册：用令牌注册本设备"), roles: EDGE, act: enrol::enrol
    },
    Entry {
        name: ("Page: its fingerprint and a new PIN", "网页：证书指纹和新的 PIN"), roles: EDGE, act: page::renew
    },
    Entry {
        name: ("Support bundle onto a USB stick", "把诊断信息保存到 U 盘"), roles: BOTH, act: bundle::save
    },
    Entry { name: ("Start the previous version", "启动上一个版本"), roles: BOTH, act: power::previous },
    Entry {
        name: ("Reset: forget everything", "重置：清除所有数据和设置"), roles: BOTH, act: reset::reset
    },
    Entry { name: ("Restart or switch off", "重新启动或关机"), roles: BOTH, act: power::power },
    Entry { name: ("Upgrade from a USB stick", "用 U 盘升级"), roles: BOTH, act: upgrade::from_stick },
];

/// One terminal and the box behind it.
struct Console {
    terminal: Terminal,
    place: Place,
    release: Release,
    watch: Watch,
    /// For the journal: `console ttyS0`.
    who: String,
    trial: Duration,
}

/// Serves the terminal at `tty` until it is gone.
pub(crate) fn serve(tty: &Path, language: Language) -> ExitCode {
    let terminal = match Terminal::open(tty, language) {
        Ok(terminal) => terminal,
        Err(error) => {
            eprintln!("{} cannot be used as a console: {error}", tty.display());
            return crate::NO_TERMINAL.into();
        }
    };
    let place = Place::real();
    let served = Release::read(&place).and_then(|release| Ok(Console::new(terminal, place, release, tty).run()?));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", tty.display());
            ExitCode::FAILURE
        }
    }
}

impl Console {
    fn new(terminal: Terminal, place: Place, release: Release, tty: &Path) -> Console {
        let watch = Watch::new(place.clone(), release.clone());
        let name = tty.file_name().unwrap_or(tty.as_os_str()).to_string_lossy();
        Console { terminal, place, release, watch, who: format!("console {name}"), trial: TRIAL }
    }

    /// Shows the status and serves the menu; ends only with the terminal.
    fn run(&mut self) -> Result<(), Stop> {
        let mut shown: Vec<String> = Vec::new();
        loop {
            network::undo_what_was_left(self);
            let facts = self.watch.facts(shown.is_empty());
            let lines = lines(&facts, self.terminal.language);
            let lasting =
                |lines: &[Line]| lines.iter().filter(|line| !line.is_fleeting).map(|line| line.text.clone()).collect();
            let now_lasting: Vec<String> = lasting(&lines);
            if now_lasting != shown {
                self.show(&lines)?;
                shown = now_lasting;
            }
            match self.terminal.key(now() + REFRESH)? {
                None => continue,
                Some(Key::Enter) => self.serve_menu()?,
                Some(Key::Char('l' | 'L')) => self.change_language()?,
                Some(_) => self.say_in("Press Enter for the menu.", "按回车进入菜单。")?,
            }
            shown.clear(); // whoever pressed something sees how it is now
        }
    }

    fn show(&mut self, lines: &[Line]) -> Result<(), Stop> {
        let mut text = String::from("\n");
        for line in lines {
            text += &line.text;
            text += "\n";
        }
        text += match (self.terminal.has_chinese, self.terminal.language) {
            (false, _) => "Press Enter for the menu.\n",
            (true, Language::English) => "Press Enter for the menu, L for 中文.\n",
            (true, Language::Chinese) => "按回车进入菜单，按 L for English。\n",
        };
        self.terminal.write(&text)
    }

    fn change_language(&mut self) -> Result<(), Stop> {
        if !self.terminal.has_chinese {
            return self
                .terminal
                .say("This screen has no Chinese characters: use the serial line, or the page of this box.");
        }
        self.terminal.language = self.terminal.language.other();
        Ok(())
    }

    /// The menu, until somebody leaves it, or has left.
    fn serve_menu(&mut self) -> Result<(), Stop> {
        loop {
            let entries: Vec<_> = MENU.iter().filter(|entry| entry.roles.contains(&self.release.role)).collect();
            let names: Vec<String> =
                entries.iter().map(|entry| self.of(entry.name.0, entry.name.1).to_owned()).collect();
            self.terminal.say("")?;
            let chosen = match self.terminal.choose(&names) {
                Ok(chosen) => entries[chosen],
                Err(Stop::Cancel) => return Ok(()),
                Err(Stop::Idle) => return self.say_in("Nothing was typed for 10 minutes.", "10 分钟内没有输入。"),
                Err(gone) => return Err(gone),
            };
            self.terminal.say(&format!("\n== {}", self.of(chosen.name.0, chosen.name.1)))?;
            match (chosen.act)(self) {
                Err(Stop::Idle) => return self.say_in("Nothing was typed for 10 minutes.", "10 分钟内没有输入。"),
                Ok(()) | Err(Stop::Cancel) => {}
                Err(gone) => return Err(gone),
            }
        }
    }

    fn of<T>(&self, english: T, chinese: T) -> T {
        self.terminal.language.of(english, chinese)
    }

    fn say_in(&mut self, english: &str, chinese: &str) -> Result<(), Stop> {
        self.terminal.say_in(english, chinese)
    }

    /// Says a long text of somebody else's, folded, behind two spaces.
    fn say_folded(&mut self, text: &str) -> Result<(), Stop> {
        for line in fold(&crate::files::plain(text), 77) {
            self.terminal.say(&format!("  {line}"))?;
        }
        Ok(())
    }

    /// Says that something did not work, and why, and writes it into the journal.
    fn fail(&mut self, what: &str, english: &str, chinese: &str, why: &dyn std::fmt::Display) -> Result<(), Stop> {
        let why = crate::files::plain(&why.to_string());
        self.record(&format!("{what} failed: {why}"));
        self.say_in(english, chinese)?;
        self.say_folded(&why)
    }

    fn record(&self, what: &str) {
        record(&self.who, what);
    }
}

#[cfg(test)]
mod tests;
