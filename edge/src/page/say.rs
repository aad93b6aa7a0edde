//! What is so, in words: from data, in both languages. Pure.

use crate::daemon::DaemonError;
use crate::enrol::EnrolError;
use crate::line::{Cause, Decided, LocalError};
use crate::line_test::LineTestError;
use crate::link::{DownCause, LinkState};
use crate::source::SourceError;
use crate::state::AddError;
use crate::status::{Behind, Doing};
use crate::volumes::VolumesError;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use look::{Language, format};
use shaping::policy::VolumeClass;

/// How urgent something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Work goes on.
    Busy,
    /// Nothing to do, nothing wrong.
    Calm,
    /// Somebody should look at it.
    Warn,
    /// Somebody must do something.
    Bad,
}

impl Tone {
    /// As the style names it.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Busy => "busy",
            Tone::Calm => "calm",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
        }
    }
}

/// A text in both languages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Both {
    english: String,
    chinese: String,
}

impl Both {
    /// Of its two forms.
    pub(crate) fn new(english: impl Into<String>, chinese: impl Into<String>) -> Both {
        Both { english: english.into(), chinese: chinese.into() }
    }

    /// In one language.
    pub(crate) fn of(&self, language: Language) -> &str {
        language.of(&self.english, &self.chinese)
    }
}

/// What came of something that was asked for: shown once, at the part of the page that it was asked in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// The part.
    pub(crate) at: &'static str,
    /// Whether it was done.
    pub(crate) tone: Tone,
    /// In words, with the next step.
    pub(crate) text: Both,
    /// What the program itself says, in English.
    pub(crate) detail: Option<String>,
}

/// Where and when one is, for moments.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The site's zone.
    pub(crate) zone: TimeZone,
    /// The time as well as it is known.
    pub(crate) now: Timestamp,
}

impl Clock {
    /// A moment for people.
    pub(crate) fn moment(&self, second: i64, language: Language) -> String {
        format::moment(Timestamp::from_second(second).unwrap_or_default(), self.now, &self.zone, language)
    }
}

/// What is so now, in one sentence, and what it means.
pub(crate) struct Now {
    /// How urgent.
    pub(crate) tone: Tone,
    /// The sentence.
    pub(crate) sentence: String,
    /// What a person may do about it.
    pub(crate) help: Option<String>,
    /// What the program itself says, in English.
    pub(crate) detail: Option<String>,
}

/// The one sentence of now. `flow` is what is sent now, bits per second; `waits`: something waits to be sent.
pub(crate) fn now(
    link: &LinkState,
    decided: &Decided,
    flow: u64,
    waits: bool,
    clock: &Clock,
    language: Language,
) -> Now {
    let said = |tone, sentence| Now { tone, sentence, help: None, detail: None };
    match link {
        LinkState::Unenrolled => {
            said(Tone::Warn, language.of("This box is not enrolled yet.", "本设备尚未注册。").to_owned())
        }
        LinkState::Connecting { address } => said(
            Tone::Busy,
            language.of(format!("Calling the gateway at {address}."), format!("正在连接网关 {address}。")),
        ),
        LinkState::Down { why, retry_at, needs_person, cause } => {
            let wait = (*retry_at as i64 / 1000 - clock.now.as_second()).clamp(1, 3600) as u64;
            let wait = format::duration(wait, language);
            let (what, help) = down(*cause, language);
            let sentence = language.of(
                format!("Not connected: {what}. Next attempt in {wait}."),
                format!("未连接：{what}。{wait}后重试。"),
            );
            let tone = if *needs_person { Tone::Bad } else { Tone::Warn };
            Now { tone, sentence, help: Some(help.to_owned()), detail: Some(why.clone()) }
        }
        LinkState::Connected { .. } => {
            let (tone, sentence) = connected(decided, flow, waits, clock, language);
            let detail = match &decided.cause {
                Cause::Fault { why } => Some(why.clone()),
                _ => None,
            };
            Now { tone, sentence, help: help_of(&decided.cause, language), detail }
        }
    }
}

fn connected(decided: &Decided, flow: u64, waits: bool, clock: &Clock, language: Language) -> (Tone, String) {
    let until = until(decided.until, clock, language);
    let why = cause(&decided.cause, language);
    let sentence = |english: String, chinese: String| language.of(english, chinese);
    match decided.bits {
        Some(0) if decided.silent => (
            Tone::Calm,
            sentence(
                format!("Silent{until}: nothing at all is sent, {why}."),
                format!("静默{until}：不发送任何数据，{why}。"),
            ),
        ),
        Some(0) => {
            let tone = if needs_attention(&decided.cause) { Tone::Warn } else { Tone::Calm };
            (
                tone,
                sentence(
                    format!("Connected. Closed for data{until}, {why}."),
                    format!("已连接。数据传输已关闭{until}，{why}。"),
                ),
            )
        }
        bits => {
            // What control alone sends is nothing to speak of.
            const TRICKLE: u64 = 4_000;
            let rate = bits.map(|bits| format::rate(bits, language));
            let allowed = match (&rate, language) {
                (Some(rate), Language::English) => format!("{rate} allowed"),
                (None, Language::English) => "no limit holds".to_owned(),
                (Some(rate), Language::Chinese) => format!("允许 {rate}"),
                (None, Language::Chinese) => "不限速".to_owned(),
            };
            if flow >= TRICKLE {
                let flow = format::flow(flow);
                let of = rate.map_or_else(|| ", without a limit".to_owned(), |rate| format!(" of the {rate} allowed"));
                let sentence = sentence(
                    format!("Connected. Sending {flow}{of}{until}, {why}."),
                    format!("已连接。正在以 {flow} 发送，{allowed}{until}，{why}。"),
                );
                return (Tone::Good, sentence);
            }
            match waits {
                true => (
                    Tone::Busy,
                    sentence(
                        format!("Connected. {allowed}{until}, {why}; the next bytes are being made ready."),
                        format!("已连接。{allowed}{until}，{why}；正在准备待发送的数据。"),
                    ),
                ),
                false => (
                    Tone::Good,
                    sentence(
                        format!("Connected. Nothing waits to be sent; {allowed}{until}, {why}."),
                        format!("已连接。没有待发送的数据；{allowed}{until}，{why}。"),
                    ),
                ),
            }
        }
    }
}

fn until(until: Option<i64>, clock: &Clock, language: Language) -> String {
    let Some(until) = until else { return String::new() };
    let at = clock.moment(until, language);
    language.of(format!(" until {at}"), format!("（至 {at}）"))
}

/// What decided, as part of a sentence.
pub(crate) fn cause(cause: &Cause, language: Language) -> String {
    let say = |english: String, chinese: String| language.of(english, chinese);
    let plain = |english: &str, chinese: &str| language.of(english, chinese).to_owned();
    match cause {
        Cause::NoPolicy => plain("because there is no policy yet", "因为尚无策略"),
        Cause::Fault { .. } => plain("because the policy cannot be used", "因为策略无法使用"),
        Cause::Hold { by, why } => say(format!("held by {by} ({why})"), format!("已由 {by} 挂起（{why}）")),
        Cause::Clock => plain("because the clock is not trusted", "因为时钟不可信"),
        Cause::Pause { by, why, .. } => say(format!("paused by {by} ({why})"), format!("已由 {by} 暂停（{why}）")),
        Cause::Boost { by, why, .. } => say(format!("boosted by {by} ({why})"), format!("已由 {by} 提速（{why}）")),
        Cause::Blackout { name } => say(format!("by the blackout “{name}”"), format!("处于禁传时段“{name}”")),
        Cause::Exception { name, profile } => {
            let profile = profile_name(profile, language);
            say(format!("by the exception “{name}” ({profile})"), format!("按例外日程“{name}”（{profile}）"))
        }
        Cause::Schedule { profile } => {
            let profile = profile_name(profile, language);
            say(format!("by the schedule ({profile})"), format!("按日程（{profile}）"))
        }
        Cause::Cap => plain("by the line's cap", "受线路上限限制"),
        Cause::Config => plain("by this box's configuration", "按本机配置"),
        Cause::Quota { period } => {
            let (english, chinese) = quota(period);
            say(format!("by the {english} quota"), format!("受{chinese}流量配额限制"))
        }
        Cause::Pace { period } => {
            let (english, chinese) = quota(period);
            say(format!("to spread the {english} quota evenly"), format!("为均匀使用{chinese}流量配额"))
        }
        Cause::Grant => plain("by the gateway's grant", "受网关分配的带宽限制"),
        Cause::Courtesy => plain("to make way for the branch's own traffic", "为网点自身业务让路"),
    }
}

/// What a quota counts over, as an adjective.
pub(crate) fn quota(period: &str) -> (&'static str, &'static str) {
    match period {
        "day" => ("daily", "每日"),
        "week" => ("weekly", "每周"),
        "month" => ("monthly", "每月"),
        _ => ("prepaid", "预付"),
    }
}

fn profile_name(profile: &str, language: Language) -> String {
    match profile {
        "closed" => language.of("closed", "关闭").to_owned(),
        own => own.to_owned(),
    }
}

fn needs_attention(cause: &Cause) -> bool {
    matches!(cause, Cause::NoPolicy | Cause::Fault { .. } | Cause::Clock)
}

fn help_of(cause: &Cause, language: Language) -> Option<String> {
    let help = match cause {
        Cause::NoPolicy => language.of(
            "Ask the operators to give this site a policy (at the gateway: `sluice-gateway policy set`). It arrives by itself.",
            "请中心运维人员为本网点下发策略（在网关上执行 sluice-gateway policy set），策略会自动到达。",
        ),
        Cause::Fault { .. } => language.of(
            "Nothing is sent until the gateway has sent the policy again; that happens by itself with the next session.",
            "在网关重新下发策略之前不会发送数据；下次会话时会自动下发。",
        ),
        Cause::Clock => language.of(
            "The gateway tells the time as soon as it is reached; nothing is to be done here.",
            "连接到网关后会自动校时，此处无需操作。",
        ),
        Cause::Pause { here: true, .. } | Cause::Boost { here: true, .. } => {
            language.of("It was done at this box, and can be ended below.", "此操作在本设备上进行，可在下方结束。")
        }
        Cause::Hold { .. } => language.of("Only the operators can end it.", "只有中心运维人员可以解除。"),
        _ => return None,
    };
    Some(help.to_owned())
}

/// Why there is no session, and what to do.
fn down(cause: DownCause, language: Language) -> (&'static str, &'static str) {
    match cause {
        DownCause::Resolve => (
            language.of("the gateway's name does not resolve", "无法解析网关的域名"),
            language.of(
                "Check the DNS server that this box uses, and that the line is up.",
                "请检查本设备使用的 DNS 服务器以及线路是否连通。",
            ),
        ),
        DownCause::Silent => (
            language.of("nothing answers", "没有应答"),
            language.of(
                "Check that the line is up, and that the firewall lets UDP out to the gateway's address.",
                "请检查线路是否连通，以及防火墙是否放行到网关地址的 UDP。",
            ),
        ),
        DownCause::Restarts => (
            language.of("the gateway starts anew", "网关正在重启"),
            language.of("Nothing is to be done; it is back in a moment.", "无需操作，稍后会自动恢复。"),
        ),
        DownCause::Revoked => (
            language.of("the gateway has revoked this site", "网关已吊销本网点"),
            language.of(
                "If that was a mistake, ask the operators for a new token and enrol again below.",
                "如属误操作，请向中心运维人员索取新令牌，并在下方重新注册。",
            ),
        ),
        DownCause::Cloned => (
            language.of("another box uses this box's identity", "另一台设备正在使用本设备的身份"),
            language.of(
                "One of the two is a copy: switch the copy off, or enrol it by itself with a token of its own.",
                "其中一台是复制品：请关闭复制品，或用新的令牌单独注册。",
            ),
        ),
        DownCause::Certificate => (
            language.of("a certificate was refused", "证书被拒绝"),
            language.of(
                "If this box was off for months, its certificate has ended: enrol it again below with a new token.",
                "如果本设备已停用数月，其证书可能已过期：请用新令牌在下方重新注册。",
            ),
        ),
        DownCause::Version => (
            language.of("box and gateway have no protocol version in common", "设备与网关没有共同的协议版本"),
            language.of("Upgrade the gateway first, then this box.", "请先升级网关，再升级本设备。"),
        ),
        DownCause::Identity => (
            language.of("this box's identity cannot be used", "本设备的身份无法使用"),
            language.of("Enrol it again below with a new token.", "请用新令牌在下方重新注册。"),
        ),
        DownCause::Other => (
            language.of("the connection failed", "连接失败"),
            language.of(
                "If it lasts, give the diagnostics below to the operators.",
                "如果持续出现，请将下方的诊断信息交给中心运维人员。",
            ),
        ),
    }
}

/// What is done with a volume, in one sentence, and how urgent that is.
pub(crate) fn doing(doing: &Doing, clock: &Clock, language: Language) -> (Tone, String) {
    let plain = |tone, english: &str, chinese: &str| (tone, language.of(english, chinese).to_owned());
    let say = |tone, english: String, chinese: String| (tone, language.of(english, chinese));
    match doing {
        Doing::NeverCaptured => plain(Tone::Warn, "Not captured yet.", "尚未捕获。"),
        Doing::UpToDate { number, at } => {
            let ago = format::ago((clock.now.as_second() - *at as i64 / 1000).max(0) as u64, language);
            say(
                Tone::Good,
                format!("Up to date: generation {number} was verified at the gateway {ago}."),
                format!("已是最新：第 {number} 代已于 {ago}在网关通过校验。"),
            )
        }
        Doing::About { number } => {
            say(Tone::Busy, format!("Generation {number} is about to be offered."), format!("即将提交第 {number} 代。"))
        }
        Doing::NoSession => {
            plain(Tone::Warn, "On its way; waits until the gateway is reached.", "传输中；等待连接到网关。")
        }
        Doing::Offering => plain(Tone::Busy, "Asking the gateway to take it.", "正在向网关提交。"),
        Doing::Closed => plain(Tone::Calm, "On its way; waits until the line opens.", "传输中；等待线路开放。"),
        Doing::Sending { capped: false } => plain(Tone::Busy, "Sending.", "正在发送。"),
        Doing::Sending { capped: true } => {
            plain(Tone::Busy, "Sending, at this volume's own cap.", "正在发送，已达到本卷的速率上限。")
        }
        Doing::Waits { behind } => waits(behind, clock, language),
        Doing::TakingIn => plain(Tone::Busy, "The gateway takes in what was sent.", "网关正在接收已发送的数据。"),
        Doing::Planning => plain(Tone::Busy, "Finding what is to be sent.", "正在确定需要发送的数据。"),
        Doing::Coding => plain(Tone::Busy, "Making the next bytes ready.", "正在编码待发送的数据。"),
        Doing::Verifying => plain(Tone::Busy, "All is sent; the gateway verifies it.", "已全部发送，网关正在校验。"),
        Doing::HeldBack { .. } => {
            plain(Tone::Warn, "Held back; it is tried again by itself.", "暂时受阻，将自动重试。")
        }
        Doing::Stopped { .. } => plain(Tone::Bad, "Stopped until a person helps.", "已停止，需要人工处理。"),
    }
}

fn waits(behind: &Behind, clock: &Clock, language: Language) -> (Tone, String) {
    let sentence = match behind {
        Behind::Bar { until, by, why } => {
            let until = until.map(|until| clock.moment(until, language));
            let by = match (by.is_empty(), language) {
                (true, _) => String::new(),
                (false, Language::English) => format!(" by {by} ({why})"),
                (false, Language::Chinese) => format!("（{by}：{why}）"),
            };
            match (until, language) {
                (Some(until), Language::English) => format!("Held until {until}{by}."),
                (None, Language::English) => format!("Held{by}."),
                (Some(until), Language::Chinese) => format!("已挂起至 {until}{by}。"),
                (None, Language::Chinese) => format!("已挂起{by}。"),
            }
        }
        Behind::Cap => language.of("Waits at its own cap.", "已达到本卷的速率上限，等待中。").into(),
        Behind::Class { class } => {
            let name = class_name(*class, language);
            language.of(format!("Waits behind {name} volumes."), format!("等待{name}级别的卷先发送。"))
        }
        Behind::Turn => language.of("Waits for its turn.", "等待轮到本卷发送。").into(),
    };
    (Tone::Calm, sentence)
}

/// A class for people.
pub(crate) fn class_name(class: VolumeClass, language: Language) -> &'static str {
    match class {
        VolumeClass::Critical => language.of("critical", "关键"),
        VolumeClass::Normal => language.of("normal", "普通"),
        VolumeClass::Bulk => language.of("bulk", "批量"),
    }
}

/// Why an edge was not enrolled, and what to do.
pub(crate) fn not_enrolled(error: &EnrolError) -> Both {
    match error {
        EnrolError::Key(_) => {
            Both::new("A key could not be made. Restart the box and try again.", "无法生成密钥。请重启设备后重试。")
        }
        EnrolError::Unreached(_) => Both::new(
            "No gateway of the token could be reached. Check that the line is up and that the firewall lets UDP out to the addresses below, then try again with the same token.",
            "无法连接令牌中的任何网关。请检查线路是否连通、防火墙是否放行到下列地址的 UDP，然后用同一令牌重试。",
        ),
        EnrolError::Refused(_) => Both::new(
            "The gateway refuses this token. A token works once and for a limited time: ask the operators for a new one.",
            "网关拒绝了该令牌。令牌只能使用一次且有有效期：请向中心运维人员索取新令牌。",
        ),
        EnrolError::Misfit(_) => Both::new(
            "The gateway answered with a certificate that does not fit. Ask the operators for a new token.",
            "网关返回的证书不匹配。请向中心运维人员索取新令牌。",
        ),
        EnrolError::Store(_) | EnrolError::Forget(_) => Both::new(
            "The gateway enrolled this box, but that could not be stored here. Look at the disk of this box; then ask for a new token and enrol again.",
            "网关已注册本设备，但结果无法保存在本机。请检查本机磁盘，然后索取新令牌重新注册。",
        ),
    }
}

/// Why a pause or boost was not had.
pub(crate) fn not_bent(error: &LocalError) -> Both {
    match error {
        LocalError::Long(_, hours) => Both::new(
            format!("Choose a time between a minute and {hours} hours from now; ask the operators for more."),
            format!("请选择一分钟到 {hours} 小时之间的时长；需要更长时间请联系中心运维人员。"),
        ),
        LocalError::NoBoost => Both::new(
            "The policy does not let this site boost by itself: ask the operators.",
            "策略不允许本网点自行提速：请联系中心运维人员。",
        ),
        LocalError::Much(most) => Both::new(
            format!("The policy lets this site boost to {most} at most."),
            format!("策略允许本网点最高提速到 {most}。"),
        ),
        LocalError::Nothing => Both::new("Nothing was paused or boosted here.", "本设备上没有暂停或提速。"),
        LocalError::Journal(_) => {
            Both::new("It could not be stored; look at the disk of this box.", "无法保存；请检查本机磁盘。")
        }
    }
}

/// Why a volume was not added, or not captured.
pub(crate) fn not_added(error: &DaemonError) -> Both {
    match error {
        DaemonError::Add(AddError::Source(error)) => no_source(error),
        DaemonError::Add(AddError::Volumes(error)) | DaemonError::Volumes(error) => match error {
            VolumesError::BadName(_) => Both::new(
                "That name cannot be used: letters, digits, dot, dash and underscore, beginning with a letter or digit.",
                "名称不可用：只能使用字母、数字、点、横线和下划线，且以字母或数字开头。",
            ),
            VolumesError::Taken(_) => Both::new("There is a volume of that name already.", "已存在同名的卷。"),
            VolumesError::SameSource { .. } => Both::new("That source is replicated already.", "该来源已在复制。"),
            VolumesError::NoBitmaps { .. } | VolumesError::BadBitmap(_) => {
                Both::new("Its changes cannot be followed like that.", "无法以这种方式跟踪其变化。")
            }
            VolumesError::Unknown { .. } => Both::new("There is no such volume any more.", "该卷已不存在。"),
            VolumesError::File { .. } | VolumesError::Damaged { .. } => stored_not(),
        },
        DaemonError::Gone(_) => Both::new("There is no such volume any more.", "该卷已不存在。"),
        _ => stored_not(),
    }
}

fn stored_not() -> Both {
    Both::new("It could not be stored; look at the disk of this box.", "无法保存；请检查本机磁盘。")
}

fn no_source(error: &SourceError) -> Both {
    match error {
        SourceError::Open { .. } => Both::new(
            "It cannot be opened: check the path, and that the daemon's user may read it.",
            "无法打开：请检查路径以及服务用户是否有读取权限。",
        ),
        SourceError::NotAFile(_) => Both::new(
            "That is not an image file; choose a disk from the list instead.",
            "这不是镜像文件；请从列表中选择磁盘。",
        ),
        SourceError::NotABlockDevice(_) => Both::new(
            "That is not a disk; for an image file choose “an image file”.",
            "这不是磁盘；如为镜像文件，请选择“镜像文件”。",
        ),
        SourceError::OddSize { .. } => Both::new(
            "Its size is not a multiple of 512 bytes, so it is not the image of a disk.",
            "其大小不是 512 字节的整数倍，不是磁盘镜像。",
        ),
        SourceError::Empty(_) => Both::new("It has no bytes.", "内容为空。"),
        SourceError::Qemu(_) => {
            Both::new("The machine does not let this box read its disk.", "虚拟机不允许本机读取其磁盘。")
        }
        SourceError::Nbd(_) => Both::new("The server does not let this box read it.", "服务器不允许本机读取。"),
        SourceError::Shrank { .. } | SourceError::Vanished(_) | SourceError::Read { .. } => {
            Both::new("It cannot be read.", "无法读取。")
        }
    }
}

/// Why the line could not be tested.
pub(crate) fn not_tested(error: &LineTestError) -> Both {
    match error {
        LineTestError::NoSession => Both::new("There is no connection with the gateway.", "未连接到网关。"),
        LineTestError::Closed(_) => Both::new(
            "The line is closed for data now: test it when it is open.",
            "线路当前不允许传输数据：请在开放时段测试。",
        ),
        LineTestError::Unknown => Both::new(
            "The gateway knows no line tests: it has to be upgraded first.",
            "网关不支持线路测试：请先升级网关。",
        ),
        LineTestError::Refused(_) => Both::new("The gateway refused the test.", "网关拒绝了测试。"),
        LineTestError::Stream(_) => Both::new("The test broke off; try again.", "测试中断，请重试。"),
        LineTestError::Silent => Both::new(
            "The gateway did not answer in time; try again when the line is calmer.",
            "网关未及时应答；请在线路空闲时重试。",
        ),
        LineTestError::Little(_) => {
            Both::new("Too little arrived to tell the rate; try again.", "到达的数据太少，无法得出速率；请重试。")
        }
        LineTestError::Cancelled => Both::new("The test was cancelled.", "测试已取消。"),
    }
}

#[cfg(test)]
mod tests;
