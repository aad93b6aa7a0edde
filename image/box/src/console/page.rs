//! The page of the box: what makes sure that it is the right one, and a new way in.

use super::Console;
use crate::status::new_pin;
use crate::terminal::Stop;

/// Makes a new PIN and shows it with the fingerprint of the page's certificate.
pub(super) fn renew(console: &mut Console) -> Result<(), Stop> {
    let options = [console
        .of(
            "Make a new PIN: the old one, and whoever is logged in, ends",
            "生成新的 PIN：旧 PIN 和已登录的会话随即失效",
        )
        .to_owned()];
    console.terminal.choose(&options)?;
    match new_pin(&console.place) {
        Ok(page) => {
            console.record("new PIN for the page");
            console.terminal.say(&format!("  PIN  {}", page.pin))?;
            if let Some(fingerprint) = page.fingerprint {
                console.say_in(
                    "  SHA-256 of the page's certificate, which the browser shows as well:",
                    "  网页证书的 SHA-256 指纹，应与浏览器显示的一致：",
                )?;
                for half in crate::language::fold(&fingerprint.replace(':', " "), 48) {
                    console.terminal.say(&format!("  {}", half.replace(' ', ":")))?;
                }
            }
            Ok(())
        }
        Err(why) => console.fail("new PIN", "No PIN was made:", "未能生成 PIN：", &why),
    }
}
