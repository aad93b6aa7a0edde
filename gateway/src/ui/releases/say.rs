//! Versions and how far sites are with them, in words.

use crate::admin::{RolloutLine, StepLine, VersionLine};
use crate::releases::history::{Entry, Outcome};
use look::{Language, format};
use maud::{Markup, html};

/// Whether a version stays.
pub(crate) fn confirmed(line: &VersionLine, language: Language) -> Markup {
    match line.confirmed {
        true => html! { span.chip.good { (language.of("confirmed", "已确认")) } },
        false => html! { span.chip.warn { (language.of("on trial", "试运行")) } },
    }
}

/// What a site does about another version.
pub(crate) fn doing(line: &VersionLine, language: Language) -> Markup {
    let next = line.next.as_deref().unwrap_or("?");
    html! {
        @match line.stage.as_str() {
            "fetching" => {
                (language.of(format!("fetches {next}: "), format!("正在下载 {next}："))) (left(line.done, line.total, line.seconds_left, language))
                progress value=(line.done) max=(line.total.max(1)) aria-label=(next) {}
            }
            "installing" => (language.of(format!("installs {next}"), format!("正在安装 {next}"))),
            "failed" => { span.chip.bad { (language.of(format!("could not take {next}"), format!("未能安装 {next}"))) } " " (line.why.as_deref().unwrap_or("")) }
            _ => span.soft { (language.of("nothing to do", "无操作")) },
        }
    }
}

/// How much of it is there, and how long the rest takes.
pub(super) fn left(done: u64, total: u64, seconds: Option<u64>, language: Language) -> String {
    let rest = seconds.map(|seconds| format::duration(seconds, language));
    match (total, rest) {
        (0, _) => format::bytes(done),
        (_, None) => language.of(
            format!("{} % of {}", done.saturating_mul(100) / total, format::bytes(total)),
            format!("{} 的 {}%", format::bytes(total), done.saturating_mul(100) / total),
        ),
        (_, Some(rest)) => language.of(
            format!("{} % of {}, {rest} left", done.saturating_mul(100) / total, format::bytes(total)),
            format!("{} 的 {}%，剩余 {rest}", format::bytes(total), done.saturating_mul(100) / total),
        ),
    }
}

/// How a roll-out stands.
pub(crate) fn state(line: &RolloutLine, language: Language) -> Markup {
    let (class, text) = match line.state.as_str() {
        "running" => ("busy", language.of("running", "进行中")),
        "paused" => ("warn", language.of("paused", "已暂停")),
        "stopped" => ("bad", language.of("stopped by itself", "已自动停止")),
        "done" => ("good", language.of("done", "已完成")),
        _ => ("", language.of("cancelled", "已取消")),
    };
    html! { span.chip.(class) { (text) } }
}

/// How far a site is with a roll-out.
pub(crate) fn step(line: &StepLine, language: Language) -> Markup {
    let (class, text) = match line.step.as_str() {
        "waiting" => ("", language.of("waits for its ring", "等待批次")),
        "held" => ("warn", language.of("held", "已暂缓")),
        "ordered" => ("busy", language.of("told to fetch it", "已下达")),
        "fetching" => ("busy", language.of("fetches it", "下载中")),
        "installing" => ("busy", language.of("installs it", "安装中")),
        "on-trial" => ("warn", language.of("on trial", "试运行")),
        "confirmed" => ("good", language.of("confirmed", "已确认")),
        "newer" => ("good", language.of("runs newer", "版本更新")),
        "went-back" => ("warn", language.of("went back by hand", "人工回退")),
        "fell-back" => ("bad", language.of("fell back", "已自动回退")),
        _ => ("bad", language.of("could not take it", "未能安装")),
    };
    html! {
        span.chip.(class) { (text) }
        @if line.step == "fetching" {
            " " (left(line.done, line.total, line.seconds_left, language))
            progress value=(line.done) max=(line.total.max(1)) aria-label=(text) {}
        }
        @if let Some(why) = &line.why { " " (why) }
        @if line.left_out { " " span.chip { (language.of("left out", "已略过")) } }
        @else if line.late { " " span.chip { (language.of("not seen for a week", "一周未连接")) } }
    }
}

/// What became of a version at a site.
pub(crate) fn entry(entry: &Entry, language: Language) -> String {
    let (from, to) = (&entry.from, &entry.to);
    match entry.result {
        Outcome::FirstSeen => language.of(format!("First seen with {to}"), format!("首次上报：{to}")),
        Outcome::OnTrial => {
            language.of(format!("{to} on trial, after {from}"), format!("{to} 开始试运行（原 {from}）"))
        }
        Outcome::Confirmed => language.of(format!("{to} confirmed"), format!("{to} 已确认")),
        Outcome::FellBack => {
            language.of(format!("Fell back from {to} to {from}"), format!("从 {to} 自动回退到 {from}"))
        }
        Outcome::NotTaken => language.of(format!("Could not take {to}"), format!("未能安装 {to}")),
        Outcome::ByHand => {
            language.of(format!("{to} in the place of {from}, by hand"), format!("人工由 {from} 改为 {to}"))
        }
    }
}
