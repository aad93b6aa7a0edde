//! What is going on, in sentences. Made from what is known, never from texts of the other language.

use crate::fleet::{Badge, Mood, NowView, SiteState, SiteView, VolumeDoing};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use look::{Language, format};
use maud::{Markup, html};

/// Where and when a sentence is read.
#[derive(Clone)]
pub(crate) struct Here {
    /// In which language.
    pub(crate) language: Language,
    /// When.
    pub(crate) now: Timestamp,
    /// The site's zone.
    pub(crate) zone: TimeZone,
}

impl Here {
    /// At a site, now.
    pub(crate) fn at(site: &SiteView, now: Timestamp, language: Language) -> Here {
        Here { language, now, zone: TimeZone::get(&site.zone).unwrap_or(TimeZone::UTC) }
    }

    /// A moment, near ones short.
    pub(crate) fn moment(&self, second: u64) -> String {
        let at = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
        at.map_or_else(|| "–".into(), |at| format::moment(at, self.now, &self.zone, self.language))
    }

    /// How long ago something was.
    pub(crate) fn ago(&self, second: u64) -> String {
        format::ago(u64::try_from(self.now.as_second()).unwrap_or(0).saturating_sub(second), self.language)
    }

    /// How old something is.
    pub(crate) fn age(&self, second: u64) -> String {
        format::duration(u64::try_from(self.now.as_second()).unwrap_or(0).saturating_sub(second), self.language)
    }
}

/// The class of a chip.
pub(crate) fn mood(mood: Mood) -> &'static str {
    match mood {
        Mood::Good => "good",
        Mood::Calm => "",
        Mood::Warn => "warn",
        Mood::Bad => "bad",
    }
}

/// The state of a site in a word or two.
pub(crate) fn state(state: SiteState, language: Language) -> &'static str {
    match state {
        SiteState::NeverConnected => language.of("never connected", "从未连接"),
        SiteState::Revoked => language.of("revoked", "已吊销"),
        SiteState::Away => language.of("not connected", "未连接"),
        SiteState::Closed => language.of("closed", "关闭中"),
        SiteState::Idle => language.of("idle", "空闲"),
        SiteState::Sending => language.of("sending", "传输中"),
        SiteState::Connected => language.of("connected", "已连接"),
    }
}

/// The chip of a site.
pub(crate) fn chip(site: &SiteView, language: Language) -> Markup {
    let class = match (site.state, site.mood) {
        (SiteState::Sending, Mood::Good) => "busy",
        (_, worst) => mood(worst),
    };
    html! { span.chip.(class) { (state(site.state, language)) } }
}

/// The one sentence of a site: what it does, why, and until when.
pub(crate) fn sentence(site: &SiteView, here: &Here) -> String {
    let (language, now) = (here.language, &site.now);
    let why = limited_by(now, language);
    let until = now.until.map(|until| here.moment(until));
    match site.state {
        SiteState::NeverConnected => language.of("No edge has enrolled yet.", "还没有边缘设备注册。").into(),
        SiteState::Revoked => language
            .of(
                "Its certificates are refused; a new token lets it enrol again.",
                "证书已吊销；使用新的注册令牌可重新注册。",
            )
            .into(),
        SiteState::Away => match site.seen {
            Some(seen) => language.of(
                format!("Not connected since {}.", here.moment(seen)),
                format!("自 {} 起未连接。", here.moment(seen)),
            ),
            None => language.of("Not connected.", "未连接。").into(),
        },
        SiteState::Connected => {
            language.of("Connected; it has not told of itself yet.", "已连接，尚未上报状态。").into()
        }
        SiteState::Closed => match until {
            Some(until) => language.of(format!("Closed until {until}, {why}."), format!("关闭至 {until}（{why}）。")),
            None => language.of(format!("Closed, {why}."), format!("已关闭（{why}）。")),
        },
        SiteState::Idle => {
            let allowed = format::rate(now.allowed, language);
            let open = language.of(format!("Nothing waits; up to {allowed}"), format!("没有待传数据；最高 {allowed}"));
            match until {
                Some(until) => open + &language.of(format!(" until {until}."), format!("，直至 {until}。")),
                None => open + language.of(".", "。"),
            }
        }
        SiteState::Sending => {
            let (rate, allowed) = (format::flow(now.rate.unwrap_or(0)), format::rate(now.allowed, language));
            language.of(
                format!("Sending {rate} of {allowed}, limited {why}."),
                format!("正在以 {rate} 传输，上限 {allowed}（{why}）。"),
            )
        }
    }
}

/// What decides about the line: `by the schedule (night)`.
pub(crate) fn limited_by(now: &NowView, language: Language) -> String {
    let name = &now.name;
    let named = |english: &str, chinese: &str| {
        let (before, after) = language.of((" (", ")"), ("“", "”"));
        let what = language.of(english, chinese);
        if name.is_empty() { what.to_owned() } else { format!("{what}{before}{name}{after}") }
    };
    let by = |english: &str, chinese: &str| match (name.is_empty(), now.reason.is_empty()) {
        (true, _) => language.of(english, chinese).to_owned(),
        (false, true) => language.of(format!("{english} by {name}"), format!("由 {name} {chinese}")),
        (false, false) => {
            language.of(format!("{english} by {name}: {}", now.reason), format!("由 {name} {chinese}：{}", now.reason))
        }
    };
    match now.limited_by.as_str() {
        "no-policy" => language.of("because there is no policy", "没有策略").into(),
        "hold" => by("held", "冻结"),
        "clock" => language.of("because the clock cannot be trusted", "时钟不可信").into(),
        "pause" if name.is_empty() => language.of("paused at the site", "站点已暂停").into(),
        "pause" => by("paused", "暂停"),
        "boost" if name.is_empty() => language.of("boosted at the site", "站点已提速").into(),
        "boost" => by("boosted", "提速"),
        "blackout" => named("by the blackout", "禁传时段"),
        "exception" => named("by the exception", "例外"),
        "schedule" => named("by the schedule", "时间表"),
        "cap" => language.of("by the line's cap", "专线上限").into(),
        "config" => language.of("by the edge's configuration", "边缘设备配置").into(),
        "quota" => {
            language.of(format!("by the {} quota", period(name, language)), format!("{}配额", period(name, language)))
        }
        "pace" => language.of(
            format!("to spread the {} quota evenly", period(name, language)),
            format!("{}配额匀速", period(name, language)),
        ),
        "grant" => language.of("by the gateway's grant", "网关分配").into(),
        "courtesy" => language.of("by courtesy to the branch's own traffic", "为业务流量让行").into(),
        _ => language.of("by the edge", "边缘设备").into(),
    }
}

/// The period of a quota.
pub(crate) fn period(word: &str, language: Language) -> &'static str {
    match word {
        "day" => language.of("daily", "每日"),
        "week" => language.of("weekly", "每周"),
        "month" => language.of("monthly", "每月"),
        "prepaid" => language.of("prepaid", "预付"),
        _ => "",
    }
}

/// What needs to be known, in a few words.
pub(crate) fn badge(badge: &Badge, here: &Here) -> String {
    let language = here.language;
    match badge {
        Badge::Stopped { volume } => language.of(format!("{volume} is stopped"), format!("{volume} 已停止")),
        Badge::TooOld { volume, age } => {
            let age = format::duration(*age, language);
            language.of(format!("{volume}: restore point {age} old"), format!("{volume}：恢复点已 {age}"))
        }
        Badge::PolicyRefused { why } => language.of(format!("policy refused: {why}"), format!("策略被拒绝：{why}")),
        Badge::ClockUntrusted => language.of("clock not trusted", "时钟不可信").into(),
        Badge::Late { volume, by: Some(by) } => {
            let by = format::duration(*by, language);
            language.of(format!("{volume} will be {by} late"), format!("{volume} 将超时 {by}"))
        }
        Badge::Late { volume, by: None } => {
            language.of(format!("{volume}: no forecast"), format!("{volume}：无法预测"))
        }
        Badge::CapViolated { minutes } => {
            language.of(format!("above the cap in {minutes} minutes"), format!("有 {minutes} 分钟超出上限"))
        }
        Badge::QuotaUsedUp { period: word } => language
            .of(format!("{} quota used up", period(word, language)), format!("{}配额已用完", period(word, language))),
        Badge::PolicyWaits => language.of("newest policy not taken yet", "新策略尚未生效").into(),
        Badge::NoPolicy => language.of("no policy", "没有策略").into(),
        Badge::ClockHoldover => language.of("clock in holdover", "时钟保持中").into(),
        Badge::ClockSkew { millis } => {
            let by = format::duration(u64::from(millis.unsigned_abs()) / 1000, language);
            language.of(format!("clock off by {by}"), format!("时钟偏差 {by}"))
        }
        Badge::CertificateEnds { at } => {
            language.of(format!("certificate ends {}", here.moment(*at)), format!("证书将于 {} 到期", here.moment(*at)))
        }
        Badge::DiskFull { free } => {
            let free = format::bytes(*free);
            language.of(format!("edge's disk: {free} free"), format!("设备磁盘剩余 {free}"))
        }
    }
}

/// Badges as chips.
pub(crate) fn badges(badges: &[Badge], here: &Here) -> Markup {
    html! { @for one in badges { span.chip.(mood(one.mood())) { (badge(one, here)) } " " } }
}

/// What is done with a volume.
pub(crate) fn volume(doing: VolumeDoing, language: Language) -> (&'static str, &'static str) {
    match doing {
        VolumeDoing::Unknown => ("", language.of("not told yet", "尚未上报")),
        VolumeDoing::UpToDate => ("good", language.of("up to date", "已同步")),
        VolumeDoing::NeverCaptured => ("warn", language.of("never captured", "从未捕获")),
        VolumeDoing::Capturing => ("busy", language.of("being captured", "正在捕获")),
        VolumeDoing::Waiting => ("", language.of("waits for the line", "等待专线")),
        VolumeDoing::Sending => ("busy", language.of("on its way", "传输中")),
        VolumeDoing::Verifying => ("busy", language.of("being verified", "正在校验")),
        VolumeDoing::Behind => ("", language.of("waits behind others", "排队中")),
        VolumeDoing::Troubled => ("warn", language.of("held back", "受阻")),
        VolumeDoing::Stopped => ("bad", language.of("stopped: needs a person", "已停止，需人工处理")),
    }
}

/// What was changed of a line, as the history has it ([`LineChange`](crate::catalogue::LineChange)).
pub(crate) fn change(what: &str, language: Language) -> String {
    if language == Language::English {
        return what.to_owned();
    }
    let in_chinese = || {
        Some(match what {
            "policy set" => "更新策略".to_owned(),
            "held" => "冻结".to_owned(),
            "released" => "解除冻结".to_owned(),
            _ => {
                if let Some(rest) = what.strip_prefix("holidays imported: ") {
                    let (off, rest) = rest.split_once(" days off, ")?;
                    return Some(format!(
                        "导入节假日：休息 {off} 天，调休上班 {} 天",
                        rest.strip_suffix(" make-up working days")?
                    ));
                }
                let rest = what.strip_prefix("override ")?;
                if let Some(id) = rest.strip_suffix(" ended") {
                    return Some(format!("结束临时调整 {id}"));
                }
                let (id, rest) = rest.split_once(": ")?;
                let (bend, times) = rest.rsplit_once(" from ")?;
                let (from, until) = times.split_once(" until ")?;
                let (bend, volume) =
                    bend.split_once(" of volume ").map_or((bend, None), |(bend, volume)| (bend, Some(volume)));
                let volume = volume.map(|volume| format!("，卷 {volume}")).unwrap_or_default();
                format!("临时调整 {id}：{}{volume}，自 {from} 至 {until}", bent(bend))
            }
        })
    };
    in_chinese().unwrap_or_else(|| what.to_owned())
}

/// How an override bends the schedule, in Chinese.
fn bent(bend: &str) -> String {
    let words = [("pause", "暂停"), ("boost", "提速"), ("class", "等级"), ("weight", "权重")];
    match words.into_iter().find_map(|(word, chinese)| Some((chinese, bend.strip_prefix(word)?))) {
        Some((chinese, rest)) => format!("{chinese}{rest}").replace(", also in blackouts", "，含禁传时段"),
        None => bend.to_owned(),
    }
}

/// What somebody asks a second person for: `policy.set of b1: as agreed`, as the approval keeps it.
pub(crate) fn asked(text: &str, language: Language) -> String {
    let known = || {
        let (word, rest) = text.split_once(" of ")?;
        let (object, detail) = rest.split_once(": ")?;
        let what = match word {
            "policy.set" => language.of("New policy", "更新策略"),
            "override.add" => language.of("Override", "临时调整"),
            deed => match super::retention::deed(deed, language) {
                "" => return None,
                deed => deed,
            },
        };
        Some(language.of(format!("{what} for {object}: {detail}"), format!("{what}（{object}）：{detail}")))
    };
    known().unwrap_or_else(|| text.to_owned())
}

/// Why the owner of a line has to agree, as [`Cause`](crate::access::agreement::Cause) says it.
pub(crate) fn cause(text: &str, language: Language) -> String {
    if language == Language::English {
        return text.to_owned();
    }
    let in_chinese = || {
        Some(match text {
            "data may be sent in blackouts" => "禁传时段内也可传输数据".to_owned(),
            "people at the site may boost to more than before" => "站点人员可提速的上限提高".to_owned(),
            "replication makes way for the branch's own traffic later than before" => {
                "复制为业务流量让行的时机推迟或取消".to_owned()
            }
            _ => {
                if let Some(rest) = text.strip_prefix("what was kept is given up for good, ") {
                    let days = rest.split_once(" d ")?.0;
                    return Some(format!("同意后等待 {days} 天，所保留的内容将被永久放弃"));
                }
                if let Some(rest) = text.strip_prefix("the cap towards the gateway rises from ") {
                    let (from, to) = rest.split_once(" to ")?;
                    return Some(format!("上行上限由 {from} 提高到 {to}"));
                }
                if let Some(rest) = text.strip_prefix("the cap towards the site rises from ") {
                    let (from, to) = rest.split_once(" to ")?;
                    return Some(format!("下行上限由 {from} 提高到 {to}"));
                }
                if let Some(name) = text
                    .strip_prefix("the blackout \"")
                    .and_then(|rest| rest.strip_suffix("\" is changed or taken out"))
                {
                    return Some(format!("禁传时段“{name}”被修改或取消"));
                }
                let word = text.strip_prefix("the ")?.strip_suffix(" quota is larger than before, or gone")?;
                format!("{}配额提高或取消", period(word, language))
            }
        })
    };
    in_chinese().unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(limited_by: &str, name: &str, reason: &str) -> NowView {
        NowView { limited_by: limited_by.into(), name: name.into(), reason: reason.into(), ..NowView::default() }
    }

    #[test]
    fn every_reason_has_words_of_its_own_in_both_languages() {
        for language in Language::ALL {
            let mut said: Vec<String> =
                shaping::policy::REASONS.iter().map(|word| limited_by(&now(word, "", ""), language)).collect();
            said.push(limited_by(&now("what comes later", "", ""), language));
            said.sort();
            let before = said.len();
            said.dedup();
            assert_eq!(said.len(), before, "{said:?}");
        }
    }

    #[test]
    fn names_stand_where_there_are_any() {
        let english = |word, name, reason| limited_by(&now(word, name, reason), Language::English);
        assert_eq!(english("schedule", "night", ""), "by the schedule (night)");
        assert_eq!(english("pause", "li", "audit"), "paused by li: audit");
        assert_eq!(english("quota", "day", ""), "by the daily quota");
        assert_eq!(limited_by(&now("blackout", "月末", ""), Language::Chinese), "禁传时段“月末”");
        assert_eq!(limited_by(&now("hold", "li", "核查"), Language::Chinese), "由 li 冻结：核查");
    }

    #[test]
    fn changes_and_causes_are_said_in_chinese_whatever_they_are() {
        use crate::access::agreement::Cause;
        use crate::catalogue::LineChange;
        let (from, until) = (dedupe::UnixMillis(0), dedupe::UnixMillis(60_000));
        let added = |bend: &str, volume: Option<&str>| LineChange::OverrideAdded {
            id: 4,
            bend: bend.into(),
            from,
            until,
            volume: volume.map(Into::into),
        };
        let changes = [
            LineChange::PolicySet,
            added("pause", None),
            added("boost 2 Mbit/s", Some("db")),
            LineChange::OverrideEnded { id: 4 },
            LineChange::Held,
            LineChange::Released,
            LineChange::HolidaysImported { off: 8, working: 2 },
        ];
        let rate = |text: &str| text.parse().unwrap();
        let causes = [
            Cause::Cap { up: true, from: rate("1 Mbit/s"), to: rate("2 Mbit/s") },
            Cause::Cap { up: false, from: rate("1 Mbit/s"), to: rate("2 Mbit/s") },
            Cause::Blackout("month end".into()),
            Cause::Pierce,
            Cause::LocalBoost,
            Cause::Courtesy,
            Cause::Quota("month"),
        ];
        let said = changes.iter().map(|what| (what.to_string(), change(&what.to_string(), Language::Chinese)));
        let said = said.chain(causes.iter().map(|why| (why.to_string(), cause(&why.to_string(), Language::Chinese))));
        for (english, chinese) in said {
            assert!(chinese.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c)), "{english} is left as {chinese}");
        }
        assert_eq!(
            change(&added("boost 2 Mbit/s", Some("db")).to_string(), Language::Chinese),
            "临时调整 4：提速 2 Mbit/s，卷 db，自 1970-01-01 00:00:00 UTC 至 1970-01-01 00:01:00 UTC"
        );
        assert_eq!(asked("policy.set of b1: as agreed", Language::Chinese), "更新策略（b1）：as agreed");
        assert_eq!(asked("override.add of b1: boost", Language::English), "Override for b1: boost");
        assert_eq!(asked("what comes later", Language::Chinese), "what comes later");
        assert_eq!(change("something new", Language::Chinese), "something new", "what is not known stays as it is");
    }
}
