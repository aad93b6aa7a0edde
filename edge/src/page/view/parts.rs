//! The parts that say what is so.

use super::{Inside, chip, detail_of};
use crate::appliance::ApplianceStatus;
use crate::line::Cause;
use crate::line_test::{self, LineTested};
use crate::link::LinkState;
use crate::page::ahead;
use crate::page::facts::Facts;
use crate::page::say::{self, Tone};
use crate::page::work::Testing;
use crate::status::{Doing, VolumeStatus};
use look::{Language, format};
use maud::{Markup, html};
use shaping::policy::ClockTrust;
use std::time::Duration;
use wire::release::Stage;

/// Changes of the week that are shown at once.
const SOON: usize = 6;

impl Inside<'_> {
    pub(super) fn now(&self, facts: &Facts) -> Markup {
        let language = self.language;
        let decided = &facts.status.allowance.decided;
        let now = say::now(&facts.status.link, decided, facts.flow, facts.waits(), &facts.clock, language);
        html! {
            section #now .card.now.(now.tone.class()) {
                h1.sr { (language.of("Now", "现在")) }
                (self.notice_at("now"))
                div data-live="now" role="status" {
                    p.sentence { (now.sentence) }
                    @if let Some(help) = &now.help { p { (help) } }
                    @if let Some(detail) = &now.detail { (detail_of(detail)) }
                    @if let Some(fault) = facts.status.allowance.fault.as_ref().filter(|_| !matches!(decided.cause, Cause::Fault { .. })) {
                        (detail_of(fault))
                    }
                }
            }
        }
    }

    pub(super) fn ahead(&self, facts: &Facts) -> Markup {
        let language = self.language;
        html! {
            section #ahead .card {
                h2 { (language.of("The next 48 hours", "未来 48 小时")) }
                div data-live="ahead" {
                    p.big { (ahead::next(facts, language)) }
                    div.picture { (ahead::strip(facts).draw()) }
                    div.ticks aria-hidden="true" { @for (number, tick) in ahead::ticks(facts, language).into_iter().enumerate() { span.minor[number % 2 == 1] { (tick) } } }
                    p.small.soft.legend {
                        span { span.key.o {} (language.of("may be used", "可用速率")) }
                        span { span.key.a {} (language.of("was sent", "已发送")) }
                        span { span.key.f {} (language.of("expected", "预计")) }
                        span { span.key.x {} (language.of("paused or blacked out", "暂停或禁传")) }
                        span { span.key.n {} (language.of("now", "现在")) " " (facts.clock.moment(facts.clock.now.as_second(), language)) " · " (zone_name(facts)) }
                    }
                }
            }
        }
    }

    pub(super) fn volumes(&self, facts: &Facts) -> Markup {
        let language = self.language;
        html! {
            section #volumes .card {
                h2 { (language.of("Volumes", "卷")) }
                (self.notice_at("volumes"))
                @for volume in &facts.status.volumes {
                    article.volume {
                        div data-live={ "volume-" (volume.name) } { (self.volume(facts, volume)) }
                        form method="post" action="/capture" {
                            (self.csrf())
                            input type="hidden" name="volume" value=(volume.name);
                            button.plain type="submit" { (language.of("Capture now", "立即捕获")) span.sr { " " (volume.name) } }
                        }
                    }
                }
                details {
                    summary { (language.of("Add a volume", "添加卷")) }
                    (self.add_volume(facts))
                }
            }
        }
    }

    fn volume(&self, facts: &Facts, volume: &VolumeStatus) -> Markup {
        let language = self.language;
        let (tone, sentence) = say::doing(&volume.state, &facts.clock, language);
        let ago =
            |millis: u64| format::ago((facts.clock.now.as_second() - (millis / 1000) as i64).max(0) as u64, language);
        let never = language.of("never", "从未");
        html! {
            h3 { (volume.name) " " (chip(tone, word(&volume.state, language))) }
            p { (sentence) }
            @match &volume.state {
                Doing::HeldBack { why } | Doing::Stopped { why } => (detail_of(why)),
                _ => {},
            }
            @if let Some(trouble) = &volume.trouble { (detail_of(trouble)) }
            @if let Some(failed) = &volume.capture_failed {
                p.problem { (language.of("The last capture failed.", "上次捕获失败。")) }
                (detail_of(failed))
            }
            @if let Some(capturing) = &volume.capturing {
                p { (language.of("Being captured: ", "正在捕获：")) (amount(capturing.done_bytes, capturing.total_bytes, capturing.seconds, language)) }
                progress max="1000" value=(share(capturing.done_bytes, capturing.total_bytes)) aria-label=(language.of("Capture", "捕获")) {}
            }
            @if let Some(sending) = volume.sending.as_ref().filter(|sending| sending.coded_bytes > 0) {
                @let left = sending.left();
                @let crossed = crossed(sending.coded_bytes, sending.parcels_acknowledged, sending.parcels_coded, sending.parcel_sent_bytes);
                p {
                    (language.of(
                        format!("{} sent, about {} left", format::bytes(crossed), format::bytes(left)),
                        format!("已发送 {}，剩余约 {}", format::bytes(crossed), format::bytes(left)),
                    ))
                    @if let Some(at) = volume.arrives_at {
                        (language.of(", there ", "，预计 ")) b { (facts.clock.moment(at, language)) } (language.of("", " 送达"))
                    }
                    (language.of(".", "。"))
                }
                progress max="1000" value=(share(crossed, crossed + left)) aria-label=(language.of("Sending", "发送")) {}
            }
            @if volume.late.is_some() {
                p.problem { (language.of("It will be at the gateway later than the policy wants.", "送达网关的时间将晚于策略要求。")) }
            }
            @if volume.captured.as_ref().is_some_and(|captured| captured.unreadable_ranges > 0) {
                p.problem { (language.of("Some sectors could not be read; they are zero in the newest generation.", "部分扇区无法读取，在最新一代中以零填充。")) }
            }
            dl.facts {
                dt { (language.of("Captured", "捕获")) }
                dd { @match &volume.captured {
                    Some(captured) => { (ago(captured.captured_at)) (language.of(", ", "，")) (format::bytes(captured.size)) },
                    None => (never),
                } }
                dt { (language.of("At the gateway", "已到网关")) }
                dd { @match &volume.sealed { Some(sealed) => (ago(sealed.at)), None => (never) } }
                dt { (language.of("Source", "来源")) }
                dd { code { (volume.source) } }
            }
        }
    }

    pub(super) fn line(&self, facts: &Facts) -> Markup {
        let language = self.language;
        html! {
            section #line .card {
                h2 { (language.of("The line", "线路")) }
                (self.notice_at("line"))
                div data-live="line" data-working[matches!(facts.testing, Testing::Running)] {
                    dl.facts {
                        dt { (language.of("Used now", "当前使用")) }
                        dd { (used(facts, language)) }
                        @if let Some(carries) = facts.carries {
                            dt { (language.of("It carries", "线路带宽")) }
                            dd { (format::rate(carries, language)) (language.of(", by the policy", "（按策略）")) }
                        }
                        @if let (Some(now), Some(base)) = (facts.round_trips.now, facts.round_trips.base) {
                            dt { (language.of("Round trip", "往返时延")) }
                            dd { (language.of(
                                format!("{} ms now, {} ms when idle", now.as_millis(), base.as_millis()),
                                format!("当前 {} 毫秒，空闲时 {} 毫秒", now.as_millis(), base.as_millis()),
                            )) }
                        } @else {
                            dt { (language.of("Round trip", "往返时延")) }
                            dd { (language.of("not known without a connection", "未连接时无法得知")) }
                        }
                        @if facts.packets.sent > 0 {
                            dt { (language.of("Lost packets", "丢包")) }
                            dd { (percent(facts.packets.lost, facts.packets.sent)) (language.of(
                                format!(" of {} since the start", facts.packets.sent), format!("（启动以来共 {} 个）", facts.packets.sent))) }
                        }
                        @for (period, used, limit) in &facts.status.allowance.quotas {
                            @let (english, chinese) = say::quota(period);
                            dt { (language.of(format!("{english} quota"), format!("{chinese}配额"))) }
                            dd {
                                (format::bytes(*used)) " / " (format::bytes(*limit))
                                meter min="0" max="1000" value=(share(*used, *limit)) aria-label=(language.of("Quota used", "已用配额")) {}
                            }
                        }
                    }
                    (self.tested(facts))
                }
                @if !matches!(facts.testing, Testing::Running) { (self.test_form(facts)) }
            }
        }
    }

    fn test_form(&self, facts: &Facts) -> Markup {
        let language = self.language;
        let decided = &facts.status.allowance.decided;
        let connected = matches!(facts.status.link, LinkState::Connected { .. });
        let (most, within) = line_test::cost(decided.bits);
        html! {
            @if connected && decided.is_open() {
                form method="post" action="/line-test" {
                    (self.csrf())
                    button.plain type="submit" { (language.of("Test the line", "测试线路")) }
                    p.hint { (language.of(
                        format!("Sends up to {} within {} s, within what is allowed now. It counts towards quotas.", format::bytes(most), within.as_secs()),
                        format!("在 {} 秒内发送最多 {}，不超过当前允许的速率，并计入流量配额。", within.as_secs(), format::bytes(most)),
                    )) }
                }
            } @else {
                p.hint { (language.of("The line can be tested while it is connected and open.", "线路连通且开放时可进行线路测试。")) }
            }
        }
    }

    fn tested(&self, facts: &Facts) -> Markup {
        let language = self.language;
        match &facts.testing {
            Testing::Never if facts.tested > 0 => html! {
                p { (language.of(
                    format!("The last test found {}.", format::rate(facts.tested, language)),
                    format!("上次测试结果：{}。", format::rate(facts.tested, language)),
                )) }
            },
            Testing::Never => html! {},
            Testing::Running => {
                html! { p.note role="status" { (language.of("The line is being tested; that takes up to 20 s.", "正在测试线路，最多需要 20 秒。")) } }
            }
            Testing::Failed { why, detail } => html! {
                div.note.warn { p { (why.of(language)) } (detail_of(detail)) }
            },
            Testing::Done { found, at } => html! {
                div.note.good {
                    p { b { (carried(found, language)) } " " (format::ago(at.elapsed().as_secs(), language)) }
                    @let [least, median, p99] = found.round_trip_ms;
                    p.small { (language.of(
                        format!("Round trips: least {least:.0} ms, median {median:.0} ms, 99 of 100 {p99:.0} ms. Loss {:.1} %. Sent for it: {}.", found.loss_percent, format::bytes(found.sent_bytes)),
                        format!("往返时延：最小 {least:.0} 毫秒，中位 {median:.0} 毫秒，99% 在 {p99:.0} 毫秒内。丢包 {:.1} %。本次测试发送 {}。", found.loss_percent, format::bytes(found.sent_bytes)),
                    )) }
                }
            },
        }
    }

    pub(super) fn time(&self, facts: &Facts) -> Markup {
        let language = self.language;
        let time = &facts.time;
        let (tone, sentence) = match time.trust {
            ClockTrust::Synced => (
                Tone::Good,
                language.of("The clock is right: the gateway told the time.", "时钟可信：时间由网关校准。"),
            ),
            ClockTrust::Holdover => (
                Tone::Warn,
                language.of(
                    "The clock is carried on by itself; the gateway has not told the time for long.",
                    "时钟由本机推算；网关已较长时间未校时。",
                ),
            ),
            ClockTrust::Untrusted => (
                Tone::Warn,
                language.of(
                    "The clock is not trusted: no gateway has told the time since this box was started.",
                    "时钟不可信：本设备启动后网关尚未校时。",
                ),
            ),
        };
        html! {
            section #clock .card {
                h2 { (language.of("Clock", "时钟")) }
                div data-live="clock" {
                    p { (chip(tone, trust_word(time.trust, language))) " " (sentence) }
                    dl.facts {
                        dt { (language.of("Time at the site", "网点时间")) }
                        dd { (format::full_moment(facts.clock.now, &facts.clock.zone)) " " (zone_name(facts)) }
                        @if let Some(told) = time.told {
                            dt { (language.of("Told by the gateway", "网关校时")) }
                            dd { (format::ago(told.as_secs(), language)) }
                        }
                        @if let Some(skew) = time.skew {
                            dt { (language.of("This box's own clock", "本机时钟")) }
                            dd { (skew_in_words(skew.as_millis() as i64, language)) }
                        }
                        @if let Some(holdover) = time.holdover {
                            dt { (language.of("Believed without the gateway for", "脱离网关后仍可信")) }
                            dd { (format::duration(holdover.as_secs(), language)) }
                        }
                    }
                }
            }
        }
    }

    pub(super) fn policy(&self, facts: &Facts) -> Markup {
        let language = self.language;
        html! {
            section #policy .card {
                h2 { (language.of("Policy", "策略")) }
                @match facts.status.allowance.policy {
                    Some(version) => p {
                        (language.of(format!("Version {version} is in force"), format!("第 {version} 版已生效")))
                        @if let Some(since) = facts.policy_since {
                            (language.of(format!(", here since {}", format::full_moment(since, &facts.clock.zone)), format!("，于 {} 到达本机", format::full_moment(since, &facts.clock.zone))))
                        }
                        (language.of(".", "。"))
                    },
                    None => p { (language.of("There is no policy here yet.", "本机尚无策略。")) },
                }
                h3 { (language.of("What the line may be used for, in the coming week", "未来一周的可用速率")) }
                @let mut rows = ahead::week(facts, language);
                @let rest = rows.split_off(rows.len().min(SOON));
                (self.changes(&rows))
                @if !rest.is_empty() {
                    details {
                        summary { (language.of("The rest of the week", "本周其余时间")) }
                        (self.changes(&rest))
                    }
                }
                @if let Some(document) = &facts.document {
                    details {
                        summary { (language.of("The document", "策略文档")) }
                        pre lang="en" { (document) }
                    }
                }
            }
        }
    }

    fn changes(&self, rows: &[ahead::Row]) -> Markup {
        let language = self.language;
        html! {
            table.week {
                thead { tr {
                    th scope="col" { (language.of("From", "开始")) }
                    th scope="col" { (language.of("Rate", "速率")) }
                    th scope="col" { (language.of("Why", "原因")) }
                } }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { (row.at) }
                            td.nowrap { @if row.is_open { b { (row.rate) } } @else { span.soft { (row.rate) } } }
                            td.soft { (row.why) }
                        }
                    }
                }
            }
        }
    }

    pub(super) fn own(&self, facts: &Facts) -> Markup {
        let language = self.language;
        let own = &facts.own;
        let gateway = match &facts.status.link {
            LinkState::Connected { address, gateway, .. } => {
                language.of(format!("{address}, version {gateway}"), format!("{address}，版本 {gateway}"))
            }
            LinkState::Connecting { address } => {
                language.of(format!("{address}, being called"), format!("{address}，正在连接"))
            }
            LinkState::Down { .. } | LinkState::Unenrolled => {
                let all = own.addresses.join(", ");
                language.of(format!("{all}, not connected"), format!("{all}，未连接"))
            }
        };
        html! {
            section #box .card {
                h2 { (language.of("This box", "本设备")) }
                div data-live="box" {
                    dl.facts {
                        dt { (language.of("Gateway", "网关")) } dd { (gateway) }
                        dt { (language.of("Version", "版本")) }
                        @match &facts.status.appliance {
                            None => dd { (env!("CARGO_PKG_VERSION")) },
                            Some(system) => dd { (system_in_words(system, language)) },
                        }
                        dt { (language.of("Runs for", "已运行")) } dd { (format::duration(own.uptime.as_secs(), language)) }
                        @if let Some((free, size)) = own.disk {
                            dt { (language.of("Disk", "磁盘")) }
                            dd { (language.of(format!("{} free of {}", format::bytes(free), format::bytes(size)), format!("剩余 {}，共 {}", format::bytes(free), format::bytes(size)))) }
                        }
                        dt { (language.of("Waiting in the spool", "待发送队列")) }
                        dd { (format::bytes(facts.status.spool_bytes)) " / " (format::bytes(own.spool_limit)) }
                        @if let Some(until) = own.certificate_until {
                            dt { (language.of("Certificate until", "证书有效期至")) }
                            dd { (certificate(facts, until, language)) }
                        }
                        dt { (language.of("Since the start", "启动以来")) }
                        dd { (language.of(
                            format!("{} sent, {} received", format::bytes(facts.status.sent_bytes), format::bytes(facts.status.received_bytes)),
                            format!("发送 {}，接收 {}", format::bytes(facts.status.sent_bytes), format::bytes(facts.status.received_bytes)),
                        )) }
                    }
                }
                @if needs_enrolment(&facts.status.link) { (self.enrol(facts, false)) }
            }
        }
    }

    pub(super) fn diagnostics(&self, _facts: &Facts) -> Markup {
        let language = self.language;
        html! {
            section #diagnostics .card {
                h2 { (language.of("Diagnostics", "诊断")) }
                p { (language.of(
                    "One file for whoever helps from afar: what this page shows, the configuration, the policy, figures and the last lines of the log. It holds no keys, tokens or PINs, and nothing of the volumes' content.",
                    "供远程支持人员使用的单个文件：包含本页内容、配置、策略、指标和最近的日志。不含密钥、令牌或 PIN 码，也不含卷的内容。",
                )) }
                a.button.plain href="/diagnostics" download { (language.of("Download", "下载")) }
            }
        }
    }
}

/// What is sent now, beside what may be.
fn used(facts: &Facts, language: Language) -> String {
    let (flow, decided) = (format::flow(facts.flow), &facts.status.allowance.decided);
    match decided.bits {
        Some(0) => language.of(format!("{flow}; closed for data"), format!("{flow}；数据传输已关闭")),
        bits => {
            let allowed = format::rate(bits.unwrap_or(u64::MAX), language);
            language.of(format!("{flow} of {allowed} allowed"), format!("{flow}，允许 {allowed}"))
        }
    }
}

fn needs_enrolment(link: &LinkState) -> bool {
    matches!(link, LinkState::Down { needs_person: true, .. })
}

fn certificate(facts: &Facts, until: i64, language: Language) -> Markup {
    let at = jiff::Timestamp::from_second(until).unwrap_or_default();
    let left = until - facts.clock.now.as_second();
    html! {
        (format::full_moment(at, &facts.clock.zone))
        @if left <= 0 { " " (chip(Tone::Bad, language.of("ended", "已过期"))) }
        @else if left < 14 * 86_400 { " " (chip(Tone::Warn, language.of("ends soon", "即将过期"))) }
    }
}

/// The zone's name, as people know it.
fn zone_name(facts: &Facts) -> String {
    facts.clock.zone.iana_name().unwrap_or("UTC").to_owned()
}

fn trust_word(trust: ClockTrust, language: Language) -> &'static str {
    match trust {
        ClockTrust::Synced => language.of("trusted", "可信"),
        ClockTrust::Holdover => language.of("carried on", "推算"),
        ClockTrust::Untrusted => language.of("not trusted", "不可信"),
    }
}

fn skew_in_words(millis: i64, language: Language) -> String {
    let off = Duration::from_millis(millis.unsigned_abs());
    if off < Duration::from_secs(2) {
        return language.of("right to within 2 s", "误差在 2 秒以内").to_owned();
    }
    let span = format::duration(off.as_secs(), language);
    match millis > 0 {
        true => {
            language.of(format!("{span} ahead; nothing is decided by it"), format!("快 {span}；系统不依据该时钟做决定"))
        }
        false => language
            .of(format!("{span} behind; nothing is decided by it"), format!("慢 {span}；系统不依据该时钟做决定")),
    }
}

fn carried(found: &LineTested, language: Language) -> String {
    let rate = format::rate(found.bits, language);
    match found.at_least {
        true => language.of(
            format!("The line carries at least {rate} (no more was allowed)."),
            format!("线路至少可承载 {rate}（受当前允许速率限制）。"),
        ),
        false => language.of(format!("The line carries about {rate}."), format!("线路可承载约 {rate}。")),
    }
}

/// One word for a chip.
fn word(doing: &Doing, language: Language) -> &'static str {
    match doing {
        Doing::NeverCaptured => language.of("new", "新"),
        Doing::UpToDate { .. } => language.of("up to date", "已是最新"),
        Doing::Sending { .. } => language.of("sending", "发送中"),
        Doing::Verifying => language.of("verifying", "校验中"),
        Doing::About { .. } | Doing::Offering | Doing::TakingIn | Doing::Planning | Doing::Coding => {
            language.of("at work", "处理中")
        }
        Doing::Closed | Doing::NoSession | Doing::Waits { .. } => language.of("waits", "等待中"),
        Doing::HeldBack { .. } => language.of("held back", "受阻"),
        Doing::Stopped { .. } => language.of("stopped", "已停止"),
    }
}

/// `1.0 GB of 4.0 GB, 50 MB/s, 1 min left`, as far as it is known.
fn amount(done: u64, total: u64, seconds: f64, language: Language) -> String {
    let mut text = match total {
        0 => format::bytes(done),
        _ => language.of(
            format!("{} of {}", format::bytes(done), format::bytes(total)),
            format!("{}，共 {}", format::bytes(done), format::bytes(total)),
        ),
    };
    if seconds >= 1.0 && done > 0 {
        let per_second = (done as f64 / seconds) as u64;
        text +=
            &language.of(format!(", {}/s", format::bytes(per_second)), format!("，{}/秒", format::bytes(per_second)));
        if total > done && per_second > 0 {
            let left = format::duration(((total - done) / per_second).max(1), language);
            text += &language.of(format!(", {left} left"), format!("，剩余 {left}"));
        }
    }
    text
}

/// Coded bytes that have crossed, as far as can be told.
fn crossed(coded: u64, acknowledged: u32, parcels: u32, in_flight: u64) -> u64 {
    let done = coded as f64 * (f64::from(acknowledged) / f64::from(parcels.max(1))).min(1.0);
    (done as u64 + in_flight).min(coded)
}

fn share(part: u64, whole: u64) -> u64 {
    (u128::from(part) * 1000 / u128::from(whole.max(1))).min(1000) as u64
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.2} %", 100.0 * part as f64 / whole.max(1) as f64)
}

/// What runs on an appliance, what is being done about another release, and how the last trial ended.
fn system_in_words(system: &ApplianceStatus, language: Language) -> Markup {
    let state = match system.confirmed {
        true => language.of("confirmed", "已确认"),
        false => language.of("on trial", "试用中"),
    };
    let doing = match (&system.stage, language) {
        (_, Language::English) => system.doing(),
        (Stage::Idle, _) => None,
        (Stage::Fetching { total: 0, .. }, _) => Some("正在向网关请求新版系统。".to_owned()),
        (Stage::Fetching { done, total, .. }, _) => {
            Some(format!("正在下载新版系统：{} / {}。", format::bytes(*done), format::bytes(*total)))
        }
        (Stage::Installing { .. }, _) => Some("正在安装新版系统，完成后设备将重新启动。".to_owned()),
        (Stage::Failed { why, .. }, _) => Some(format!("未能接受新版系统：{why}。")),
    };
    html! {
        (system.version) " (" (language.of(format!("slot {}, {state}", system.slot), format!("系统槽 {}，{state}", system.slot))) ")"
        @if let Some(previous) = &system.previous {
            br; span.soft { (language.of(format!("In the other slot: {previous}"), format!("另一系统槽：{previous}"))) }
        }
        @if let Some(doing) = doing { br; (doing) }
        @if let Some(last) = system.last.as_ref().filter(|last| !last.confirmed) {
            br; (language.of(format!("Version {} was tried and left: {}", last.version, last.why), format!("版本 {} 试用失败，已恢复：{}", last.version, last.why)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use release::report::LastTrial;
    use wire::release::ReleaseId;

    #[test]
    fn a_system_that_is_fetched_and_one_that_was_left_are_told_in_both_languages() {
        let last = LastTrial {
            release: String::new(),
            version: "0.3".into(),
            confirmed: false,
            why: "no link <b>".into(),
            at: 0,
        };
        let system = ApplianceStatus {
            version: "0.2".into(),
            slot: 'B',
            confirmed: true,
            previous: Some("0.1".into()),
            stage: Stage::Fetching { release: ReleaseId([1; 32]), done: 500_000, total: 2_000_000 },
            last: Some(last),
        };
        let english = system_in_words(&system, Language::English).into_string();
        for part in [
            "0.2 (slot B, confirmed)",
            "In the other slot: 0.1",
            "500 kB of 2",
            "Version 0.3 was tried and left: no link &lt;b&gt;",
        ] {
            assert!(english.contains(part), "{part} is not in {english}");
        }
        let chinese = system_in_words(&system, Language::Chinese).into_string();
        for part in ["0.2 (系统槽 B，已确认)", "正在下载新版系统：500 kB / 2", "版本 0.3 试用失败"]
        {
            assert!(chinese.contains(part), "{part} is not in {chinese}");
        }
    }
}
