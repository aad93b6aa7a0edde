//! How targets stand, in words: is the copy current, since when not, why, and what was proved.

use super::super::parts::moment;
use crate::admin::targets::{OrderLine, TargetLine};
use dedupe::UnixMillis;
use look::{Language, format};
use maud::{Markup, html};

/// All targets in a sentence, for whoever only wants to know whether somebody has to act.
pub(super) fn all(targets: &[TargetLine], now: UnixMillis, language: Language) -> Markup {
    let sum = |of: fn(&TargetLine) -> usize| targets.iter().map(of).sum::<usize>();
    let (orders, current, failing, paused) =
        (sum(|t| t.orders), sum(|t| t.current), sum(|t| t.failing), sum(|t| t.paused));
    let resting = sum(|t| t.runs_resting);
    let since = targets.iter().filter_map(|target| target.behind_since).min();
    let mood = match (orders, failing + resting) {
        (0, 0) => "",
        (_, 0) if current + paused == orders => "good",
        (_, 0) => "warn",
        _ => "bad",
    };
    html! {
        p.note.(mood) {
            @if orders == 0 { (language.of("No volume is kept at the latest on any target: generations are rebuilt only when somebody asks for it.", "没有卷在任何目标上保持最新：仅在有人发起时还原。")) }
            @else if current == orders { (language.of(if orders == 1 { "The copy is current.".to_owned() } else { format!("All {orders} copies are current.") }, format!("全部 {orders} 个副本均为最新。"))) }
            @else {
                (language.of(format!("{current} of {orders} copies are current"), format!("{orders} 个副本中有 {current} 个为最新")))
                @if failing > 0 { (language.of(format!(", {failing} {}", one_or_more(failing, "fails", "fail")), format!("，{failing} 个失败"))) }
                @if paused > 0 { (language.of(format!(", {paused} {} because somebody said so", one_or_more(paused, "rests", "rest")), format!("，{paused} 个被人为暂停"))) }
                (language.of(".", "。"))
                @if let Some(since) = since { (language.of(" The oldest has lacked a generation since ", "最早落后于 ")) (moment(since)) (ago(since, now, language)) (language.of(".", "。")) }
            }
            @if resting > 0 { " " (language.of(format!("{resting} {} until somebody does something.", one_or_more(resting, "run rests", "runs rest")), format!("{resting} 次还原已停止，等待处理。"))) }
        }
    }
}

/// How the orders of one target stand.
pub(super) fn counts(line: &TargetLine, now: UnixMillis, language: Language) -> Markup {
    let shown = [
        (line.current, "good", language.of("current", "最新")),
        (line.behind, "busy", language.of("behind", "落后")),
        (line.failing, "bad", language.of("failing", "失败")),
        (line.paused, "warn", language.of("paused", "已暂停")),
    ];
    html! {
        @if line.orders == 0 { span.soft { (language.of("no volume", "无")) } }
        @for (count, mood, word) in shown.into_iter().filter(|(count, ..)| *count > 0) { span.chip.(mood) { (count) " " (word) } " " }
        @if let Some(since) = line.behind_since { br; span.small { (language.of("since ", "自 ")) (moment(since)) (ago(since, now, language)) } }
    }
}

/// What is on its way to one target.
pub(super) fn runs(line: &TargetLine, language: Language) -> Markup {
    let moving = line.runs_open - line.runs_resting;
    html! {
        @if line.runs_open == 0 { span.soft { (language.of("nothing", "无")) } }
        @if moving > 0 { span.chip.busy { (language.of(format!("{moving} {}", one_or_more(moving, "run", "runs")), format!("{moving} 次还原"))) } " " }
        @if line.runs_resting > 0 { span.chip.bad { (language.of(format!("{} resting", line.runs_resting), format!("{} 次已停止", line.runs_resting))) } }
    }
}

fn one_or_more(count: usize, one: &'static str, more: &'static str) -> &'static str {
    if count == 1 { one } else { more }
}

/// How long that is, in brackets.
fn ago(since: UnixMillis, now: UnixMillis, language: Language) -> String {
    let seconds = now.0.saturating_sub(since.0) / 1000;
    format!(" ({})", format::duration(seconds, language))
}

/// The state of an order: its mood and its word.
pub(in crate::ui) fn state(word: &str, language: Language) -> (&'static str, &'static str) {
    match word {
        "current" => ("good", language.of("current", "最新")),
        "behind" => ("busy", language.of("behind", "落后")),
        "failing" => ("bad", language.of("failing", "失败")),
        _ => ("warn", language.of("paused", "已暂停")),
    }
}

/// Whether the copy is current, since when not, and why.
pub(in crate::ui) fn order(line: &OrderLine, now: UnixMillis, language: Language) -> Markup {
    let (mood, word) = state(&line.state, language);
    let holds = match line.holds {
        Some(number) => language.of(format!("holds generation {number}"), format!("现为版本 {number}")),
        None => language.of("holds none yet".into(), "尚无版本".into()),
    };
    html! {
        span.chip.(mood) { (word) } " " (holds)
        @if let (Some(latest), true) = (line.latest, line.latest != line.holds) { (language.of(format!(", here is {latest}"), format!("，网关为版本 {latest}"))) }
        @if let Some(since) = line.behind_since { br; span.small { (language.of("not current since ", "落后自 ")) (moment(since)) (ago(since, now, language)) } }
        @if let Some(why) = &line.trouble {
            p.small.bad-text { @if line.credentials_failing { strong { (language.of("Credentials: ", "凭据：")) } } (why) }
            @if let Some(next) = line.next_try.filter(|_| line.state == "failing") { p.small { (language.of("Tried again at ", "下次重试：")) (moment(next)) } }
        }
    }
}

/// State of a run: its mood and its word.
pub(in crate::ui) fn run(state: &str, resting: bool, held: bool, language: Language) -> (&'static str, &'static str) {
    match state {
        _ if resting => ("bad", language.of("rests: somebody has to act", "已停止，等待处理")),
        _ if held => ("warn", language.of("is tried again", "等待重试")),
        "writing" => ("busy", language.of("writing", "写入中")),
        "reading back" => ("busy", language.of("reading back", "回读校验中")),
        "proved" => ("busy", language.of("proved", "已校验")),
        "finished" => ("good", language.of("finished and proved", "已完成并校验")),
        _ => ("warn", language.of("given up", "已放弃")),
    }
}
