//! The network: asks for it, tries it, and puts back what was unless somebody keeps it.

use super::Console;
use crate::language::Language;
use crate::network::{self, Address, BondMode, Cards, Mac, Network, VlanId, parts};
use crate::run::{RunError, now, succeed};
use crate::status::{Card, FOLDER, cards};
use crate::terminal::{Key, Stop};
use crate::trial::{self, Trial, TrialError};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// For networkd to stop and start on an old machine, and for a link to go.
const WITHIN: Duration = Duration::from_secs(60);
/// How often it is said how much time is left.
const TELL: Duration = Duration::from_secs(15);

/// Asks for a network, tries it, and keeps it if somebody says so.
pub(super) fn change(console: &mut Console) -> Result<(), Stop> {
    let network = ask(console)?;
    if let Err(why) = network.check() {
        return console.fail("network", "This cannot be:", "设置无效：", &why);
    }
    console.say_in("This is what will be tried:", "将尝试以下设置：")?;
    for line in summary(&network, console.terminal.language) {
        console.terminal.say(&format!("  {line}"))?;
    }
    let options = [console.of("Try it", "尝试").to_owned()];
    console.terminal.choose(&options)?;
    try_out(console, &network)
}

/// Undoes a change whose console died. Any console does that; most of the time there is nothing to do.
pub(super) fn undo_what_was_left(console: &mut Console) {
    let folder = folder(console);
    let links = trial::links(&folder).unwrap_or_default();
    let undone = match trial::recover(&folder, &lock(console)) {
        Ok(false) => return,
        Ok(true) => restart(console, &links).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match undone {
        Ok(()) => console.record("network put back: the console that changed it ended before it was kept"),
        Err(why) => console.record(&format!("network could not be put back: {why}")),
    }
}

fn ask(console: &mut Console) -> Result<Network, Stop> {
    let t = console.terminal.language;
    let real: Vec<Card> = cards(&console.place).into_iter().filter(|card| card.is_real).collect();
    console.say_in(
        "Which card leads to the site's network? All settings made before are replaced.",
        "哪个网卡连接网点的网络？以前的设置将被全部替换。",
    )?;
    let cards = ask_cards(console, &real)?;
    let vlan = match cards {
        Cards::Every => None,
        _ => {
            let question = t.of("VLAN number; Enter for none", "VLAN 编号；没有则直接按回车");
            console.terminal.ask(question, None, |typed| optional(typed, |typed| typed.parse::<VlanId>(), t))?
        }
    };
    let address = match cards {
        Cards::Every => Address::Dhcp,
        _ => ask_address(console)?,
    };
    let question = t.of(
        "DNS servers, with spaces between; Enter for none (or those of DHCP)",
        "DNS 服务器，用空格分隔；没有（或使用 DHCP 提供的）则按回车",
    );
    let dns = console.terminal.ask(question, None, |typed| several(typed, parts::ips, t))?;
    let question = t.of(
        "Time servers (NTP); Enter for none (or those of DHCP)",
        "时间服务器（NTP）；没有（或使用 DHCP 提供的）则按回车",
    );
    let ntp = console.terminal.ask(question, None, |typed| several(typed, parts::time_servers, t))?;
    Ok(Network { cards, vlan, address, dns, ntp })
}

fn ask_cards(console: &mut Console, real: &[Card]) -> Result<Cards, Stop> {
    let t = console.terminal.language;
    let known: Vec<(&Card, Mac)> = real.iter().filter_map(|card| Some((card, card.mac()?))).collect();
    let described = |card: &Card| {
        let link = if card.has_link { t.of("link up", "已接通") } else { t.of("no link", "未接通") };
        format!("{:<10} {}  {link}", card.name, card.mac)
    };
    let mut options: Vec<String> = known.iter().map(|(card, _)| described(card)).collect();
    options.push(t.of("every card: each asks for an address (DHCP)", "所有网卡：各自用 DHCP 获取地址").into());
    if known.len() > 1 {
        options.push(t.of("two cards as one (bond)", "两个网卡绑定为一个（bond）").into());
    }
    let chosen = console.terminal.choose(&options)?;
    if let Some((_, mac)) = known.get(chosen) {
        return Ok(Cards::One(*mac));
    }
    if chosen == known.len() {
        return Ok(Cards::Every);
    }
    let mut cards = Vec::new();
    for question in [t.of("The first card:", "第一个网卡："), t.of("The second card:", "第二个网卡：")] {
        console.terminal.say(question)?;
        let left: Vec<_> = known.iter().filter(|(_, mac)| !cards.contains(mac)).collect();
        let options: Vec<String> = left.iter().map(|(card, _)| described(card)).collect();
        cards.push(left[console.terminal.choose(&options)?].1);
    }
    console.say_in("How do they work together?", "工作方式：")?;
    let options = [
        t.of(
            "one works, the other steps in (active-backup): the switch needs no setting",
            "主备（active-backup）：交换机无需设置",
        ),
        t.of("both work (802.3ad): the switch's ports must be set to LACP", "聚合（802.3ad）：交换机端口须设置 LACP"),
    ];
    let mode = [BondMode::ActiveBackup, BondMode::Lacp][console.terminal.choose(&options.map(str::to_owned))?];
    Ok(Cards::Bond { cards, mode })
}

fn ask_address(console: &mut Console) -> Result<Address, Stop> {
    let t = console.terminal.language;
    let question = t.of(
        "Address with its network, as in 192.0.2.7/24; Enter for DHCP",
        "地址和网络长度，例如 192.0.2.7/24；使用 DHCP 则按回车",
    );
    let Some(address) =
        console.terminal.ask(question, None, |typed| optional(typed, str::parse::<parts::Prefix>, t))?
    else {
        return Ok(Address::Dhcp);
    };
    let question = t.of("Gateway (router) of this network; Enter for none", "该网络的网关（路由器）；没有则按回车");
    console.terminal.ask(question, None, |typed| {
        let gateway: Option<IpAddr> = optional(typed, parts::ip, t)?;
        Address::of(Some(address), gateway).map_err(|why| wrong(&why, t))
    })
}

fn optional<T, E: std::fmt::Display>(
    typed: &str,
    parse: impl Fn(&str) -> Result<T, E>,
    t: Language,
) -> Result<Option<T>, String> {
    if typed.is_empty() { Ok(None) } else { parse(typed).map(Some).map_err(|why| wrong(&why, t)) }
}

fn several<T, E: std::fmt::Display>(
    typed: &str,
    parse: impl Fn(&str) -> Result<Vec<T>, E>,
    t: Language,
) -> Result<Vec<T>, String> {
    let parsed = parse(typed).map_err(|why| wrong(&why, t))?;
    if parsed.len() <= network::MAX_SERVERS {
        Ok(parsed)
    } else {
        Err(wrong(&network::NetworkError::TooManyServers, t))
    }
}

/// What was wrong, and what to do. The reasons themselves are English with an example in them.
fn wrong(why: &dyn std::fmt::Display, t: Language) -> String {
    t.of(format!("Not taken: {why}. Type it again."), format!("输入无效：{why}。请重新输入。"))
}

fn summary(network: &Network, t: Language) -> Vec<String> {
    let mut lines = vec![match &network.cards {
        Cards::Every => t.of("every card".to_owned(), "所有网卡".to_owned()),
        Cards::One(mac) => t.of(format!("card {mac}"), format!("网卡 {mac}")),
        Cards::Bond { cards, mode } => {
            let cards: Vec<_> = cards.iter().map(Mac::to_string).collect();
            t.of(format!("bond of {}, {mode}", cards.join(" and ")), format!("绑定 {}，{mode}", cards.join(" + ")))
        }
    }];
    lines.extend(network.vlan.map(|vlan| format!("VLAN {vlan}")));
    lines.push(match &network.address {
        Address::Dhcp => t.of("address by DHCP", "地址由 DHCP 分配").into(),
        Address::Static { address, gateway } => {
            let gateway = gateway.map_or(t.of("none", "无").to_owned(), |gateway| gateway.to_string());
            t.of(format!("address {address}, gateway {gateway}"), format!("地址 {address}，网关 {gateway}"))
        }
    });
    let joined = |servers: Vec<String>| servers.join(" ");
    if !network.dns.is_empty() {
        lines.push(format!("DNS {}", joined(network.dns.iter().map(IpAddr::to_string).collect())));
    }
    if !network.ntp.is_empty() {
        lines.push(format!("NTP {}", joined(network.ntp.iter().map(ToString::to_string).collect())));
    }
    lines
}

fn try_out(console: &mut Console, network: &Network) -> Result<(), Stop> {
    let folder = folder(console);
    let begun = trial::links(&folder).and_then(|links| {
        let files = network::files(std::slice::from_ref(network));
        Ok((links, Trial::begin(&folder, &lock(console), &files)?))
    });
    let (links, trial) = match begun {
        Ok(begun) => begun,
        Err(why) => return console.fail("network", "The network was not changed:", "网络设置未改变：", &why),
    };
    console.record(&format!("network tried: {}", summary(network, Language::English).join(", ")));
    let kept = match restart(console, &links) {
        Ok(()) => wait(console),
        Err(why) => console.fail("network", "The network could not be set up:", "网络设置失败：", &why).map(|()| false),
    };
    // Whatever became of the terminal: what nobody keeps is undone here and now.
    if let Ok(true) = kept {
        return match trial.keep() {
            Ok(()) => {
                console.record("network kept");
                console.say_in("Kept. These settings hold from now on.", "已保存，新设置从现在起生效。")
            }
            Err(why) => console.fail("keeping the network", "It could not be kept:", "无法保存：", &why),
        };
    }
    match put_back(console, trial) {
        Ok(()) => {
            console.record("network put back");
            kept?;
            console.say_in("The settings from before are back.", "已恢复原来的设置。")
        }
        Err(why) => console.fail(
            "putting the network back",
            "Restart this box: the settings from before come back then.",
            "请重新启动本设备以恢复原来的设置。",
            &why,
        ),
    }
}

/// Waits for somebody to keep it. The time is over for whoever says nothing.
fn wait(console: &mut Console) -> Result<bool, Stop> {
    console.terminal.forget_typed()?;
    let seconds = console.trial.as_secs();
    console.say_in(
        &format!("The network is changed. Press K within {seconds} s to keep it, R to put back what was."),
        &format!("网络设置已改变。{seconds} 秒内按 K 保存，按 R 恢复原来的设置。"),
    )?;
    let until = now() + console.trial;
    loop {
        let tell = until.min(now() + TELL);
        match console.terminal.key(tell)? {
            Some(Key::Char('k' | 'K')) => return Ok(true),
            Some(Key::Char('r' | 'R') | Key::Cancel) => return Ok(false),
            Some(_) => console.say_in("K keeps the new settings, R puts back what was.", "K 保存，R 恢复。")?,
            None if now() >= until => return Ok(false),
            None => tell_what_is(console, until)?,
        }
    }
}

fn tell_what_is(console: &mut Console, until: Instant) -> Result<(), Stop> {
    let addresses: Vec<String> = cards(&console.place)
        .iter()
        .flat_map(|card| card.addresses.iter().map(move |(ip, bits)| format!("{} {ip}/{bits}", card.name)))
        .collect();
    let has = if addresses.is_empty() {
        console.of("no address yet", "尚无地址").to_owned()
    } else {
        addresses.join(", ")
    };
    let left = until.saturating_duration_since(now()).as_secs();
    let said = console.of(format!("{left} s left to press K; now: {has}"), format!("还剩 {left} 秒按 K；当前：{has}"));
    console.say_folded(&said)
}

/// Why the network of before could not be put back.
#[derive(Debug, thiserror::Error)]
enum PutBackError {
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error(transparent)]
    Restart(#[from] RunError),
}

fn put_back(console: &Console, trial: Trial) -> Result<(), PutBackError> {
    let links = trial::links(&folder(console))?;
    trial.undo()?;
    Ok(restart(console, &links)?)
}

/// Lets networkd begin anew: bonds and VLANs of before are taken away first, which it does not do by itself.
fn restart(console: &Console, links: &[String]) -> Result<(), RunError> {
    for link in links {
        if console.place.path("/sys/class/net").join(link).exists() {
            succeed(console.place.program("ip").args(["link", "delete", link]), WITHIN)?;
        }
    }
    succeed(console.place.program("systemctl").args(["restart", "systemd-networkd.service"]), WITHIN).map(drop)
}

fn folder(console: &Console) -> PathBuf {
    console.place.path(trial::FOLDER)
}

/// All consoles share it.
fn lock(console: &Console) -> PathBuf {
    console.place.path(FOLDER).join("network.lock")
}
