//! Forgetting everything: what is on the data partition goes at the next start, before anything uses it.

use super::{Console, power};
use crate::files;
use crate::status::Role;
use crate::terminal::Stop;

/// `lay-out-data` looks for it.
const MARKER: &str = "/data/reset";

/// Marks the data partition as to be emptied and restarts.
pub(super) fn reset(console: &mut Console) -> Result<(), Stop> {
    if !console.watch.facts(true).data {
        return console.fail(
            "reset",
            "This is not possible:",
            "无法执行：",
            &"the data partition is not there; install anew from the stick",
        );
    }
    let (english, chinese) = match console.release.role {
        Role::Edge => (
            "This box forgets its site, its network, its page and all that it has not sent yet. It is then as new, and needs a new token. What the gateway holds stays there.",
            "本设备将清除网点身份、网络设置、网页设置以及所有尚未发送的数据，恢复出厂状态，之后需要新令牌。网关上的数据不受影响。",
        ),
        Role::Gateway => (
            "This gateway forgets ALL SITES, ITS AUTHORITY AND ALL GENERATIONS THAT IT STORES. Every edge needs a new token then.",
            "本网关将清除所有网点、证书机构以及存储的全部数据代！此后所有设备都需要新令牌。",
        ),
    };
    let text = console.of(english, chinese);
    console.say_folded(text)?;
    if !console.terminal.has_typed("forget")? {
        return Ok(());
    }
    match files::put(&console.place.path(MARKER), b"", 0o600, None) {
        Ok(()) => {
            console.record("reset: everything is forgotten at the next start");
            power::restart(console)
        }
        Err(why) => console.fail("reset", "Nothing was forgotten:", "未执行重置：", &why),
    }
}
