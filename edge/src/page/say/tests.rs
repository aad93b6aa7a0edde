use super::*;
use crate::enrol::EnrolError;

fn clock() -> Clock {
    let zone = TimeZone::get("Asia/Shanghai").unwrap();
    Clock { zone, now: "2026-11-23T09:00:00Z".parse().unwrap() } // Monday 17:00 there
}

fn at(text: &str) -> Option<i64> {
    Some(text.parse::<Timestamp>().unwrap().as_second())
}

fn connected() -> LinkState {
    LinkState::Connected { address: "gw:9470".into(), version: "V2".into(), gateway: "0.1.0".into() }
}

fn decided(bits: Option<u64>, until: Option<i64>, cause: Cause) -> Decided {
    Decided { bits, silent: false, until, cause }
}

/// Of all that is so now: both sentences, and the tone.
fn said(link: &LinkState, decided: &Decided, flow: u64, waits: bool) -> (String, String, Tone) {
    let of = |language| now(link, decided, flow, waits, &clock(), language);
    (of(Language::English).sentence, of(Language::Chinese).sentence, of(Language::English).tone)
}

#[test]
fn what_is_so_now_is_one_sentence_in_both_languages() {
    let profile = |name: &str| Cause::Schedule { profile: name.into() };
    let evening = at("2026-11-23T11:30:00Z");
    let table = [
        (
            decided(Some(1_600_000), at("2026-11-23T23:30:00Z"), profile("night")),
            1_190_000,
            true,
            "Connected. Sending 1.2 Mbit/s of the 1.6 Mbit/s allowed until Tue 07:30, by the schedule (night).",
            "已连接。正在以 1.2 Mbit/s 发送，允许 1.6 Mbit/s（至 周二 07:30），按日程（night）。",
        ),
        (
            decided(Some(0), evening, profile("closed")),
            900,
            true,
            "Connected. Closed for data until 19:30, by the schedule (closed).",
            "已连接。数据传输已关闭（至 19:30），按日程（关闭）。",
        ),
        (
            decided(Some(64_000), None, Cause::Courtesy),
            0,
            true,
            "Connected. 64.0 kbit/s allowed, to make way for the branch's own traffic; the next bytes are being made ready.",
            "已连接。允许 64.0 kbit/s，为网点自身业务让路；正在准备待发送的数据。",
        ),
        (
            decided(None, None, Cause::Config),
            3_999,
            false,
            "Connected. Nothing waits to be sent; no limit holds, by this box's configuration.",
            "已连接。没有待发送的数据；不限速，按本机配置。",
        ),
        (
            decided(Some(0), evening, Cause::Pause { by: "Li".into(), why: "stocktaking".into(), here: true }),
            0,
            false,
            "Connected. Closed for data until 19:30, paused by Li (stocktaking).",
            "已连接。数据传输已关闭（至 19:30），已由 Li 暂停（stocktaking）。",
        ),
        (
            decided(Some(0), None, Cause::NoPolicy),
            0,
            false,
            "Connected. Closed for data, because there is no policy yet.",
            "已连接。数据传输已关闭，因为尚无策略。",
        ),
    ];
    for (decided, flow, waits, english, chinese) in table {
        let (one, other, _) = said(&connected(), &decided, flow, waits);
        assert_eq!((one.as_str(), other.as_str()), (english, chinese));
    }
    let silent = Decided { silent: true, ..decided(Some(0), evening, Cause::Blackout { name: "month end".into() }) };
    let (english, chinese, tone) = said(&connected(), &silent, 0, false);
    assert_eq!(english, "Silent until 19:30: nothing at all is sent, by the blackout “month end”.");
    assert_eq!(chinese, "静默（至 19:30）：不发送任何数据，处于禁传时段“month end”。");
    assert_eq!(tone, Tone::Calm, "it is meant so");
}

#[test]
fn a_line_that_is_down_says_why_and_what_to_do() {
    let causes = [
        DownCause::Resolve,
        DownCause::Silent,
        DownCause::Restarts,
        DownCause::Revoked,
        DownCause::Cloned,
        DownCause::Certificate,
        DownCause::Version,
        DownCause::Identity,
        DownCause::Other,
    ];
    let retry_at = (clock().now.as_millisecond() + 8_000) as u64;
    for cause in causes {
        let needs_person = matches!(cause, DownCause::Revoked | DownCause::Cloned);
        let down = LinkState::Down { why: "the English detail".into(), retry_at, needs_person, cause };
        for language in Language::ALL {
            let now = now(&down, &Decided::default(), 0, false, &clock(), language);
            assert!(now.help.is_some_and(|help| !help.is_empty()));
            assert_eq!(now.detail.as_deref(), Some("the English detail"));
            assert!(!now.sentence.contains("the English detail"), "the sentence is of this language alone");
            assert_eq!(now.tone, if needs_person { Tone::Bad } else { Tone::Warn });
            assert!(now.sentence.contains(language.of("Next attempt in 8 s.", "8 秒后重试")), "{}", now.sentence);
        }
    }
    let english = said(&LinkState::Connecting { address: "gw:9470".into() }, &Decided::default(), 0, false).0;
    assert_eq!(english, "Calling the gateway at gw:9470.");
}

#[test]
fn every_cause_has_words_in_both_languages() {
    let [by, why, name, profile, period] = ["Li", "audit", "a name", "night", "month"].map(str::to_owned);
    let table = [
        (Cause::NoPolicy, "because there is no policy yet", "因为尚无策略"),
        (Cause::Fault { why: why.clone() }, "because the policy cannot be used", "因为策略无法使用"),
        (Cause::Hold { by: by.clone(), why: why.clone() }, "held by Li (audit)", "已由 Li 挂起（audit）"),
        (Cause::Clock, "because the clock is not trusted", "因为时钟不可信"),
        (
            Cause::Boost { by: by.clone(), why: why.clone(), here: false },
            "boosted by Li (audit)",
            "已由 Li 提速（audit）",
        ),
        (
            Cause::Exception { name, profile: profile.clone() },
            "by the exception “a name” (night)",
            "按例外日程“a name”（night）",
        ),
        (Cause::Cap, "by the line's cap", "受线路上限限制"),
        (Cause::Quota { period: period.clone() }, "by the monthly quota", "受每月流量配额限制"),
        (Cause::Pace { period }, "to spread the monthly quota evenly", "为均匀使用每月流量配额"),
        (Cause::Grant, "by the gateway's grant", "受网关分配的带宽限制"),
    ];
    for (of, english, chinese) in table {
        assert_eq!(cause(&of, Language::English), english);
        assert_eq!(cause(&of, Language::Chinese), chinese);
    }
}

#[test]
fn what_a_volume_does_is_a_sentence_in_both_languages() {
    let hour_ago = (clock().now.as_millisecond() - 3_600_000) as u64;
    let waits = |behind| Doing::Waits { behind };
    let table = [
        (Doing::NeverCaptured, "Not captured yet.", "尚未捕获。"),
        (
            Doing::UpToDate { number: 7, at: hour_ago },
            "Up to date: generation 7 was verified at the gateway 1 h ago.",
            "已是最新：第 7 代已于 1 小时前在网关通过校验。",
        ),
        (Doing::About { number: 8 }, "Generation 8 is about to be offered.", "即将提交第 8 代。"),
        (Doing::NoSession, "On its way; waits until the gateway is reached.", "传输中；等待连接到网关。"),
        (Doing::Offering, "Asking the gateway to take it.", "正在向网关提交。"),
        (Doing::Closed, "On its way; waits until the line opens.", "传输中；等待线路开放。"),
        (Doing::Sending { capped: false }, "Sending.", "正在发送。"),
        (Doing::Sending { capped: true }, "Sending, at this volume's own cap.", "正在发送，已达到本卷的速率上限。"),
        (
            waits(Behind::Class { class: VolumeClass::Critical }),
            "Waits behind critical volumes.",
            "等待关键级别的卷先发送。",
        ),
        (waits(Behind::Turn), "Waits for its turn.", "等待轮到本卷发送。"),
        (waits(Behind::Cap), "Waits at its own cap.", "已达到本卷的速率上限，等待中。"),
        (
            waits(Behind::Bar { until: at("2026-11-23T11:30:00Z"), by: "Li".into(), why: "audit".into() }),
            "Held until 19:30 by Li (audit).",
            "已挂起至 19:30（Li：audit）。",
        ),
        (waits(Behind::Bar { until: None, by: String::new(), why: String::new() }), "Held.", "已挂起。"),
        (Doing::TakingIn, "The gateway takes in what was sent.", "网关正在接收已发送的数据。"),
        (Doing::Planning, "Finding what is to be sent.", "正在确定需要发送的数据。"),
        (Doing::Coding, "Making the next bytes ready.", "正在编码待发送的数据。"),
        (Doing::Verifying, "All is sent; the gateway verifies it.", "已全部发送，网关正在校验。"),
        (Doing::HeldBack { why: "x".into() }, "Held back; it is tried again by itself.", "暂时受阻，将自动重试。"),
        (Doing::Stopped { why: "x".into() }, "Stopped until a person helps.", "已停止，需要人工处理。"),
    ];
    for (of, english, chinese) in table {
        assert_eq!(doing(&of, &clock(), Language::English).1, english);
        assert_eq!(doing(&of, &clock(), Language::Chinese).1, chinese);
    }
}

#[test]
fn a_refused_token_and_a_dead_line_have_different_next_steps() {
    let refused = not_enrolled(&EnrolError::Refused("no such token".into()));
    assert!(refused.of(Language::English).contains("ask the operators for a new one"));
    assert!(refused.of(Language::Chinese).contains("新令牌"));
    let unreached = not_enrolled(&EnrolError::Unreached(vec!["gw:9470: nothing".into()]));
    assert!(unreached.of(Language::English).contains("UDP") && unreached.of(Language::English).contains("same token"));
    assert!(unreached.of(Language::Chinese).contains("UDP"));
    let long = not_bent(&LocalError::Long(90_000, 24));
    assert!(long.of(Language::English).contains("24 hours") && long.of(Language::Chinese).contains("24 小时"));
}
