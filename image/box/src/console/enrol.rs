//! Enrolment with a token that somebody pastes.

use super::Console;
use crate::files::failed;
use crate::run::{Said, daemons_user, run};
use crate::site::{MOST_TOKEN, is_token};
use crate::status::FOLDER;
use crate::terminal::{Echo, Stop};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
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
    let file = TokenFile::put(&console.place.path(FOLDER), token)?;
    Ok(run(console.place.edge().args(["enrol", "--token-file"]).arg(&file.path), WITHIN)?)
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

/// A token in memory only the daemon's user can read; erased when it is dropped.
struct TokenFile {
    path: PathBuf,
    file: File,
    length: usize,
}

impl TokenFile {
    fn put(folder: &Path, token: &str) -> anyhow::Result<TokenFile> {
        let path = folder.join(format!("token.{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed("write", &path))?;
        let mut file = TokenFile { path, file, length: token.len() };
        if let Some(user) = daemons_user() {
            let owner = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
            std::os::unix::fs::fchown(&file.file, owner.0, owner.1).map_err(failed("give away", &file.path))?;
        }
        file.file.write_all(token.as_bytes()).map_err(failed("write", &file.path))?;
        Ok(file)
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        // It lies in memory: what is written over is gone.
        let _ = self.file.rewind().and_then(|()| self.file.write_all(&vec![0; self.length]));
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tokens_file_is_for_one_user_and_is_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::put(folder.path(), "sluice1.SECRET").unwrap();
        assert_eq!(fs::read_to_string(&file.path).unwrap(), "sluice1.SECRET");
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::hard_link(&file.path, folder.path().join("kept")).unwrap();
        drop(file);
        assert_eq!(fs::read(folder.path().join("kept")).unwrap(), [0; 14]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
