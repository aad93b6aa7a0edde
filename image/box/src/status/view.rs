//! The facts as lines for a screen of 80 cells and 24 lines.

use super::edge::{Allowance, Link, Volume};
use super::{Card, Facts, Role};
use crate::files::plain;
use crate::language::{Language, fold, width};

/// One cell less than a screen has: some break the line when the last one is written.
const WIDTH: usize = 79;
/// A screen has 24 lines; one above and one below are the console's.
const HEIGHT: usize = 22;
/// Of labels.
const LABEL: usize = 11;
/// How many of each are shown, so that all of it fits one screen.
const CARDS: usize = 5;
const PAGES: usize = 2;
const VOLUMES: usize = 4;

/// A line of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// It changes by itself all the time: no reason to show everything again.
    pub(crate) is_fleeting: bool,
}

/// What the screen says.
pub(crate) fn lines(facts: &Facts, language: Language) -> Vec<Line> {
    let mut view = View { language, lines: Vec::new() };
    view.whole(facts);
    // What is fleeting is the longest list, and the page has all of it.
    while view.lines.len() > HEIGHT {
        let Some(last) = view.lines.iter().rposition(|line| line.is_fleeting) else { break };
        view.lines.remove(last);
    }
    view.lines
}

struct View {
    language: Language,
    lines: Vec<Line>,
}

impl View {
    fn whole(&mut self, facts: &Facts) {
        let t = self.language;
        let slot = facts.slot.map(|slot| format!("{}{slot}", t.of(", slot ", "，系统槽 "))).unwrap_or_default();
        let trial = match &facts.system {
            Some(system) if !system.confirmed => t.of(", on trial", "，试用中"),
            _ => "",
        };
        let (role, version) = (facts.release.role.word(), plain(&facts.release.version));
        self.push(format!("Sluice {role} {version}{slot}{trial}"), false);
        if facts.release.role == Role::Edge {
            self.site(facts);
        }
        self.cards(&facts.cards);
        self.pages(facts);
        if let Some(pin) = &facts.pin {
            self.put("PIN", &format!("{pin} {}", t.of("(until this box is enrolled)", "（注册完成前有效）")), 1);
        }
        if let Some(setup) = &facts.setup {
            self.put(t.of("set-up", "初始设置"), setup, 2);
        }
        if let Some(why) = &facts.enrol_why {
            self.put(t.of("enrolment", "注册"), why, 3);
        }
        if facts.release.role == Role::Edge {
            self.edge(facts);
        }
        self.encryption(facts);
        self.troubles(facts);
    }

    fn site(&mut self, facts: &Facts) {
        let t = self.language;
        match facts.edge.as_ref().and_then(|edge| edge.site.as_deref()) {
            Some(site) => self.put(t.of("site", "网点"), site, 1),
            None if !facts.enrolled => {
                let text = t.of(
                    "not enrolled: choose \"Enrol\" in the menu, or use the page",
                    "尚未注册：请在菜单中选择“注册”，或使用网页",
                );
                self.put(t.of("site", "网点"), text, 1);
            }
            None => {}
        }
    }

    fn cards(&mut self, cards: &[Card]) {
        let t = self.language;
        // Those with a link first: a server may have many that nothing is plugged into.
        let mut shown: Vec<_> = cards.iter().collect();
        shown.sort_by_key(|card| !card.has_link);
        for card in shown.iter().take(CARDS) {
            let link = if card.has_link { t.of("link up", "已接通") } else { t.of("no link", "未接通") };
            let addresses: Vec<_> = card.addresses.iter().take(2).map(|(ip, bits)| format!("{ip}/{bits}")).collect();
            self.put(&card.name, &format!("{}  {link}  {}", card.mac, addresses.join("  ")), 2);
        }
        if cards.is_empty() {
            self.put(t.of("network", "网络"), t.of("no network card was found", "未找到网卡"), 1);
        }
        if let Some(more) = cards.len().checked_sub(CARDS).filter(|&more| more > 0) {
            self.put("", &t.of(format!("and {more} more cards"), format!("另有 {more} 个网卡")), 1);
        }
    }

    fn pages(&mut self, facts: &Facts) {
        let port = facts.release.role.page_port();
        let addresses = facts.cards.iter().flat_map(|card| &card.addresses);
        for (ip, _) in addresses.take(PAGES) {
            let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            self.put(self.language.of("page", "网页"), &format!("https://{host}:{port}/"), 1);
        }
    }

    fn edge(&mut self, facts: &Facts) {
        let t = self.language;
        if facts.enrolled {
            let line = facts.health.as_ref().and_then(|health| health.check("line"));
            let text = match (line, &facts.edge) {
                (Some(line), _) if line.ok => t.of("link up", "已连接").to_owned(),
                (Some(_), Some(edge)) if t == Language::Chinese => link_in_chinese(&edge.link),
                (Some(line), _) => line.why.clone().unwrap_or_default(),
                (None, _) => t.of("the daemon does not answer yet", "服务尚未应答").to_owned(),
            };
            self.put(t.of("gateway", "网关"), &text, 2);
        }
        let Some(edge) = &facts.edge else { return };
        self.line(&edge.allowance, facts.at);
        self.volumes(&edge.volumes, facts.at);
        if edge.allowance.clock == "untrusted" && facts.enrolled {
            let text = t.of("not set by a time server yet: check NTP", "尚未与时间服务器同步：请检查 NTP");
            self.put(t.of("clock", "时钟"), text, 1);
        }
    }

    fn line(&mut self, allowance: &Allowance, at: u64) {
        let t = self.language;
        let text = match allowance.open {
            _ if t == Language::English => allowance.sentence.clone(),
            true => format!("可用，{}", allowance.up),
            false => "当前不允许传输".into(),
        };
        self.put(t.of("line", "线路"), &text, 2);
        let left = allowance.until.map(|until| until - (at / 1000) as i64).filter(|&left| left >= 0);
        if let Some(left) = left {
            let time = duration(left as u64, t);
            let text = match allowance.open {
                true => t.of(format!("open for another {time}"), format!("{time}后关闭或改变")),
                false => t.of(format!("the next one opens in {time}"), format!("{time}后开放")),
            };
            self.fleeting(t.of("window", "传输窗口"), &text);
        }
    }

    fn volumes(&mut self, volumes: &[Volume], at: u64) {
        let t = self.language;
        let mut worst: Vec<_> = volumes.iter().collect();
        worst.sort_by_key(|volume| {
            (volume.late.is_none(), volume.is_up_to_date(), volume.sealed.as_ref().map(|sealed| sealed.at))
        });
        for volume in worst.iter().take(VOLUMES) {
            let text = format!("{}: {}", plain(&volume.name), lag(volume, at, t));
            self.fleeting(t.of("lag", "滞后"), &text);
        }
        if let Some(more) = volumes.len().checked_sub(VOLUMES).filter(|&more| more > 0) {
            let text = t.of(
                format!("and {more} more volumes, which are better off: see the page"),
                format!("另有 {more} 个卷，状态较好：见网页"),
            );
            self.fleeting("", &text);
        }
    }

    fn encryption(&mut self, facts: &Facts) {
        let t = self.language;
        let text = match facts.data_key.as_deref() {
            Some("tpm") => t.of("encrypted, opened by the TPM", "已加密，由 TPM 解锁"),
            Some(_) => t.of(
                "encrypted; EACH START needs somebody who types the passphrase",
                "已加密；每次启动都须有人输入口令",
            ),
            None => return,
        };
        self.put(t.of("data", "数据"), text, 1);
        if facts.waiting {
            let text = t.of(
                "another version is ready: restart this box by the menu and type the passphrase",
                "新版本已就绪：请从菜单重新启动本设备并输入口令",
            );
            self.put(t.of("upgrade", "升级"), text, 2);
        }
    }

    fn troubles(&mut self, facts: &Facts) {
        let t = self.language;
        let checks = facts.health.iter().flat_map(|health| &health.checks);
        for check in checks.filter(|check| !check.ok && check.name != "line").take(2) {
            let text = format!("{}: {}", check.name, check.why.as_deref().unwrap_or("?"));
            self.put(t.of("trouble", "故障"), &text, 2);
        }
        if let Some(last) = facts.system.as_ref().and_then(|system| system.last.as_ref()).filter(|last| !last.confirmed)
        {
            let text = t.of(
                format!("version {} was tried and left: {}", last.version, last.why),
                format!("版本 {} 试用失败，已恢复：{}", last.version, last.why),
            );
            self.put(t.of("upgrade", "升级"), &text, 2);
        }
        for warning in facts.warnings.iter().take(2) {
            self.put(t.of("trouble", "故障"), warning, 2);
        }
        if !facts.data {
            self.push(
                format!(
                    "  {}",
                    t.of(
                        "The data partition cannot be used: nothing is replicated.",
                        "数据分区不可用：不进行任何复制。"
                    )
                ),
                false,
            );
        }
    }

    /// A label and a text behind it, folded to at most `most` lines.
    fn put(&mut self, label: &str, text: &str, most: usize) {
        self.labelled(label, text, most, false);
    }

    fn fleeting(&mut self, label: &str, text: &str) {
        self.labelled(label, text, 2, true);
    }

    fn labelled(&mut self, label: &str, text: &str, most: usize, is_fleeting: bool) {
        let mut label = plain(label);
        for line in fold(&plain(text), WIDTH - 2 - LABEL).into_iter().take(most) {
            let gap = " ".repeat(LABEL.saturating_sub(width(&label)).max(1));
            self.push(format!("  {label}{gap}{line}"), is_fleeting);
            label.clear();
        }
    }

    fn push(&mut self, text: String, is_fleeting: bool) {
        self.lines.push(Line { text: text.trim_end().into(), is_fleeting });
    }
}

impl Volume {
    fn is_up_to_date(&self) -> bool {
        match (&self.captured, &self.sealed) {
            (Some(captured), Some(sealed)) => sealed.number >= captured.number,
            _ => false,
        }
    }
}

/// How far the gateway is behind this volume.
fn lag(volume: &Volume, at: u64, t: Language) -> String {
    let ago = |then: u64| duration(at.saturating_sub(then) / 1000, t);
    let mut text = match (&volume.captured, &volume.sealed) {
        (None, _) => t.of("never captured".to_owned(), "从未捕获".to_owned()),
        (Some(_), None) => t.of("nothing of it is at the gateway yet".to_owned(), "网关尚无其数据".to_owned()),
        (Some(captured), Some(_)) if volume.is_up_to_date() => {
            let ago = ago(captured.captured_at);
            t.of(format!("none; captured {ago} ago"), format!("无；{ago}前捕获"))
        }
        (Some(captured), Some(sealed)) => {
            let (behind, ago) = (captured.number - sealed.number, ago(sealed.at));
            t.of(
                format!("{behind} behind; the gateway's was verified {ago} ago"),
                format!("落后 {behind} 代；网关上的于{ago}前校验"),
            )
        }
    };
    if let Some(left) = volume.arrives_at.and_then(|then| u64::try_from(then - (at / 1000) as i64).ok()) {
        let left = duration(left, t);
        text += &t.of(format!(", the next in {left}"), format!("，下一代预计{left}后到达"));
    }
    if volume.late.is_some() {
        text.insert_str(0, t.of("LATE; ", "已超时；"));
    }
    if volume.capture_failed.is_some() {
        text.insert_str(0, t.of("CAPTURE FAILED; ", "捕获失败；"));
    }
    text
}

/// A length of time in its two largest units.
pub(crate) fn duration(seconds: u64, t: Language) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => t.of("under 1 min".into(), "不到 1 分钟".into()),
        (0, 0, _) => t.of(format!("{minutes} min"), format!(" {minutes} 分钟")),
        (0, _, _) => t.of(format!("{hours} h {minutes} min"), format!(" {hours} 小时 {minutes} 分钟")),
        _ => t.of(format!("{days} d {hours} h"), format!(" {days} 天 {hours} 小时")),
    }
}

fn link_in_chinese(link: &Link) -> String {
    match link.state.as_str() {
        "unenrolled" => "尚未注册".into(),
        "connecting" => format!("正在连接 {}", link.address),
        "connected" => "已连接".into(),
        _ => match link.cause.as_str() {
            "resolve" => "网关名称无法解析：请检查 DNS",
            "silent" => "网关无应答：请检查线路和防火墙（UDP）",
            "restarts" => "网关正在重启",
            "revoked" => "本网点已被吊销：请联系管理员",
            "cloned" => "另有设备使用相同身份：请联系管理员",
            "certificate" => "证书被拒绝：请检查时钟并联系管理员",
            "version" => "与网关版本不兼容：请联系管理员",
            "identity" => "本机身份文件不可用：请联系管理员",
            _ => "未连接，正在重试",
        }
        .into(),
    }
}
