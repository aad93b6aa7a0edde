//! Enrolment with a token that somebody pastes.

use super::Console;
use crate::run::{Said, daemons_user, run};
use crate::secret::SecretFile;
use crate::site::{MOST_TOKEN, is_token};
use crate::status::FOLDER;
use crate::terminal::{Echo, Stop};
use std::fs;
use std::time::Duration;
use zeroize::Zeroizing;

/// `sluice-edge enrol` gives each address of a token 40 s; a token has a few.
const WITHIN: Duration = Duration::from_secs(300);

/// Asks for a token and enrols this box with it.
pub(super) fn enrol(console: &mut Console) -> Result<(), Stop> {
    if console.watch.facts(true).enrolled {
        console.say_in(
            "This box is enrolled already. A new token replaces what it is now.",
            "本设备已经注册。使用新令牌将替换现有身份。",
        )?;
        if !console.terminal.has_typed("replace")? {
            return Ok(());
        }
    }
    console.say_in(
        "Paste the token that the centre sent, then press Enter. Only its beginning is shown.",
        "粘贴中心提供的令牌，然后按回车。屏幕只显示开头部分。",
    )?;
    let typed = console.terminal.line(Echo::Secret, MOST_TOKEN)?;
    let token: Zeroizing<String> = Zeroizing::new(typed.split_whitespace().collect());
    if token.is_empty() {
        return Err(Stop::Cancel);
    }
    let count = token.chars().count();
    if !is_token(&token) {
        return console.say_in(
            &format!("  These {count} characters are no token: it has only letters, digits and . _ - and begins with sluice1. Paste it again."),
            &format!("  这 {count} 个字符不是令牌：令牌只含字母、数字和 . _ -，以 sluice1. 开头。请重新粘贴。"),
        );
    }
    console.say_in(
        &format!("{count} characters. Asking the gateway; this takes up to some minutes..."),
        &format!("共 {count} 个字符。正在联系网关，最多需要几分钟……"),
    )?;
    match ask(console, &token) {
        Ok(said) if said.status.success() => {
            forget_the_sites_token(console);
            console.record(&format!("enrolled: {}", crate::files::plain(said.out.trim())));
            console.say_in("Enrolled. The box connects to the gateway by itself.", "注册成功。本设备将自动连接网关。")
        }
        Ok(said) => {
            let why = said.failure("sluice-edge".into());
            console.fail("enrolment", "Not enrolled:", "注册失败：", &why)
        }
        Err(why) => console.fail("enrolment", "Not enrolled:", "注册失败：", &why),
    }
}

fn ask(console: &Console, token: &str) -> anyhow::Result<Said> {
    let owner = daemons_user().map(|user| (user.uid, user.gid));
    let file = SecretFile::put(&console.place.path(FOLDER), "token", token, owner)?;
    Ok(run(console.place.edge().args(["enrol", "--token-file"]).arg(file.path()), WITHIN)?)
}

/// What the site's file brought is of no use any more.
fn forget_the_sites_token(console: &Console) {
    let stopped =
        run(console.place.program("systemctl").args(["stop", "sluice-enrol.service"]), Duration::from_secs(60));
    let removed = match fs::remove_file(console.place.path("/etc/sluice/token")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Some(error),
        _ => None,
    };
    if let Some(why) = stopped.err().map(|why| why.to_string()).or(removed.map(|why| why.to_string())) {
        console.record(&format!("the token of the site's file could not be forgotten: {why}"));
    }
}
