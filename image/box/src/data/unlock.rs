//! Asking for the passphrase at a terminal, before anything else runs. The screen and the serial line each have a process for it; the first one that is given
//! it opens data for both.

use super::{MAPPED, OPENED, PARTITION, WITHIN, bind_to_tpm, cryptsetup, key_file, opened_by};
use crate::language::Language;
use crate::run::{Place, record, run, succeed};
use crate::secret::SecretFile;
use crate::site::PASSPHRASE;
use crate::terminal::{Echo, Stop, Terminal};
use std::path::Path;
use std::process::ExitCode;

/// Asks at the terminal `tty` until data is open, or the terminal is gone.
pub(crate) fn unlock(tty: &Path) -> ExitCode {
    let mut terminal = match Terminal::open(tty, Language::English) {
        Ok(terminal) => terminal,
        Err(error) => {
            eprintln!("{} cannot be used to ask for the passphrase: {error}", tty.display());
            return crate::NO_TERMINAL.into();
        }
    };
    let place = Place::real();
    let who = format!("screen {}", tty.display());
    match ask(&mut terminal, &place, &who) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", tty.display());
            ExitCode::FAILURE
        }
    }
}

/// Says something in every language that the terminal can show: nobody has chosen one yet.
fn say(terminal: &mut Terminal, english: &str, chinese: &str) -> Result<(), Stop> {
    terminal.say(english)?;
    if terminal.has_chinese { terminal.say(chinese) } else { Ok(()) }
}

pub(super) fn ask(terminal: &mut Terminal, place: &Place, who: &str) -> Result<(), Stop> {
    terminal.say("")?;
    say(
        terminal,
        "The data of this box is encrypted, and its TPM does not open it. Nothing is replicated until somebody types the passphrase.",
        "本设备的数据已加密，且 TPM 未能解锁。输入口令之前不进行任何复制。",
    )?;
    while !place.path(OPENED).exists() {
        say(terminal, "Passphrase, then Enter (it is not shown):", "请输入口令，然后按回车（不显示）：")?;
        let typed = match terminal.line(Echo::Nothing, *PASSPHRASE.end()) {
            Ok(typed) => typed,
            Err(gone @ Stop::Gone(_)) => return Err(gone),
            Err(Stop::Cancel | Stop::Idle) => continue,
        };
        if typed.is_empty() {
            continue;
        }
        say(terminal, "Checking, this takes some seconds...", "正在验证，需要几秒钟……")?;
        let opened = match Passphrase::prove(place, &typed) {
            Ok(None) => {
                record(who, "a wrong passphrase was typed");
                say(
                    terminal,
                    "This is not the passphrase. Mind capital letters and the keyboard: signs are where a US keyboard has them.",
                    "口令不正确。请注意大小写和键盘布局：符号位置按美式键盘。",
                )?;
                continue;
            }
            Ok(Some(passphrase)) => {
                // Said before it is done: as soon as data is open, this process is stopped.
                record(who, "the passphrase was typed");
                say(terminal, "It is the passphrase. The box starts.", "口令正确，设备正在启动。")?;
                passphrase.open(place)
            }
            Err(why) => Err(why),
        };
        if let Err(why) = opened {
            record(who, &format!("data cannot be opened: {why}"));
            say(terminal, &format!("Data cannot be opened: {why}"), "数据无法解锁，原因见上。")?;
        }
    }
    Ok(())
}

/// One that opens data, in a file for as long as this is there.
pub(super) struct Passphrase(SecretFile);

impl Passphrase {
    /// `None`: it is not the passphrase.
    pub(super) fn prove(place: &Place, typed: &str) -> anyhow::Result<Option<Passphrase>> {
        /// Of cryptsetup: no key of the header fits.
        const NO_KEY: Option<i32> = Some(2);

        let key = key_file(place, typed)?;
        let mut test = cryptsetup(place, &["open", "--test-passphrase", "--key-file"]);
        let said = run(test.arg(key.path()).arg(place.path(PARTITION)), WITHIN)?;
        match said.status.code() {
            Some(0) => Ok(Some(Passphrase(key))),
            code if code == NO_KEY => Ok(None),
            _ => Err(said.failure("cryptsetup".into()).into()),
        }
    }

    /// Opens data, and asks the TPM to do it from now on.
    fn open(&self, place: &Place) -> anyhow::Result<()> {
        let partition = place.path(PARTITION);
        // Before it is open: whoever waits for that reads it.
        match bind_to_tpm(place, &partition, &self.0) {
            Ok(()) => {
                record("start", "the TPM opens data from the next start on");
                opened_by(place, "tpm")?;
            }
            Err(why) => {
                record("start", &format!("the TPM will not open data at the next start either: {why}"));
                opened_by(place, "passphrase")?;
            }
        }
        let mut open = cryptsetup(place, &["open", "--key-file"]);
        match succeed(open.arg(self.0.path()).arg(&partition).arg(MAPPED), WITHIN) {
            Err(why) if !place.path(OPENED).exists() => Err(why.into()), // the other terminal may have been faster
            _ => Ok(()),
        }
    }
}
