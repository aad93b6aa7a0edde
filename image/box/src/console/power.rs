//! Restarting, switching off, and starting the version of before.

use super::Console;
use crate::run::succeed;
use crate::slots;
use crate::terminal::Stop;
use std::time::Duration;

/// For systemd to take an order, and for the ESP to be written.
const WITHIN: Duration = Duration::from_secs(60);

/// Restarts the box, or switches it off.
pub(super) fn power(console: &mut Console) -> Result<(), Stop> {
    let options = [console.of("Restart", "重新启动"), console.of("Switch off", "关机")].map(str::to_owned);
    if console.terminal.choose(&options)? == 0 {
        return restart(console);
    }
    console.say_in("Somebody has to come here to switch it on again.", "关机后须有人到现场才能开机。")?;
    if console.terminal.has_typed("off")? {
        order(console, "poweroff", "Switching off...", "正在关机……")
    } else {
        Ok(())
    }
}

/// Makes the other slot the first to be tried and restarts.
pub(super) fn previous(console: &mut Console) -> Result<(), Stop> {
    let previous = match slots::previous(&console.place) {
        Ok(previous) => previous,
        Err(why) => return console.fail("previous version", "This is not possible:", "无法执行：", &why),
    };
    let (slot, version, now) = (previous.slot, &previous.version, &console.release.version);
    let said = console.of(
        format!(
            "Now version {now} runs. Slot {slot} has version {version}, which ran here before. Data and settings stay."
        ),
        format!("当前版本为 {now}。系统槽 {slot} 中是曾在本机运行过的版本 {version}。数据和设置保留。"),
    );
    console.say_folded(&said)?;
    if !console.terminal.has_typed("previous")? {
        return Ok(());
    }
    match succeed(console.place.program("systemctl").args(["start", "sluice-previous.service"]), WITHIN) {
        Ok(_) => {
            console.record(&format!("previous version chosen: slot {slot}, {version}"));
            restart(console)
        }
        Err(why) => console.fail("previous version", "It could not be chosen:", "无法切换：", &why),
    }
}

/// Restarts the box.
pub(super) fn restart(console: &mut Console) -> Result<(), Stop> {
    order(console, "reboot", "Restarting...", "正在重新启动……")
}

fn order(console: &mut Console, order: &str, english: &str, chinese: &str) -> Result<(), Stop> {
    console.record(order);
    console.say_in(english, chinese)?;
    match succeed(console.place.program("systemctl").arg(order), WITHIN) {
        Ok(_) => Ok(()),
        Err(why) => console.fail(order, "It was not done:", "未能执行：", &why),
    }
}
