//! What is being brought back to this site.

use super::{Inside, chip, detail_of};
use crate::page::facts::Facts;
use crate::page::say::Tone;
use crate::restore::{Phase, RestoreStatus};
use look::{Language, format};
use maud::{Markup, html};

/// Restores that are over and still shown.
const OVER: usize = 3;

impl Inside<'_> {
    /// Nothing where nothing was ever restored.
    pub(super) fn restores(&self, facts: &Facts) -> Markup {
        let language = self.language;
        let (over, running): (Vec<_>, Vec<_>) =
            facts.status.restores.iter().rev().partition(|restore| restore.phase.is_over());
        html! {
            @if !facts.status.restores.is_empty() {
                section #restores .card {
                    h2 { (language.of("Back to this site", "恢复到本站点")) }
                    div data-live="restores" {
                        @for restore in running.into_iter().chain(over.into_iter().take(OVER)) { (one(restore, facts, language)) }
                    }
                }
            }
        }
    }
}

fn one(restore: &RestoreStatus, facts: &Facts, language: Language) -> Markup {
    let (tone, word) = word(&restore.phase, restore.waits.is_some(), language);
    let what = language.of(
        format!("{}, generation {}", restore.volume, restore.number),
        format!("{}，第 {} 代", restore.volume, restore.number),
    );
    html! {
        article.volume {
            h3 { (what) " " (chip(tone, word)) }
            p { code { (restore.to.display()) } }
            @match &restore.phase {
                Phase::Writing => (written(restore, facts, language)),
                Phase::Proving => {
                    p { (language.of(
                        format!("Being read back: {} of {}.", format::bytes(restore.proved_bytes), format::bytes(restore.size)),
                        format!("正在回读校验：{} / {}。", format::bytes(restore.proved_bytes), format::bytes(restore.size)),
                    )) }
                    progress max="1000" value=(share(restore.proved_bytes, restore.size)) aria-label=(language.of("Reading back", "回读校验")) {}
                },
                Phase::Done { .. } => p { (language.of("Whole, read back and proved.", "完整，已回读并验证。")) },
                Phase::Failed { why } => (detail_of(why)),
                Phase::Cancelled => {},
            }
            @if let Some(waits) = &restore.waits { (detail_of(waits)) }
            @if restore.is_device && !matches!(restore.phase, Phase::Done { .. }) {
                p.problem { (language.of("This device is incomplete: do not use it.", "该设备内容不完整，请勿使用。")) }
            }
        }
    }
}

fn written(restore: &RestoreStatus, facts: &Facts, language: Language) -> Markup {
    let (placed, size) = (format::bytes(restore.placed_bytes), format::bytes(restore.size));
    let fetched = format::bytes(restore.fetched_bytes);
    html! {
        p {
            (language.of(
                format!("{placed} of {size} in place, {fetched} came over the line"),
                format!("已写入 {placed} / {size}，经线路接收 {fetched}"),
            ))
            @if let Some(at) = restore.arrives_at {
                (language.of("; expected ", "；预计 ")) b { (facts.clock.moment(at, language)) } (language.of("", " 完成"))
            }
            (language.of(".", "。"))
        }
        progress max="1000" value=(share(restore.placed_bytes, restore.size)) aria-label=(language.of("Restore", "恢复")) {}
    }
}

fn word(phase: &Phase, waits: bool, language: Language) -> (Tone, &'static str) {
    match phase {
        Phase::Writing if waits => (Tone::Calm, language.of("waits", "等待中")),
        Phase::Writing => (Tone::Busy, language.of("being restored", "恢复中")),
        Phase::Proving => (Tone::Busy, language.of("being proved", "校验中")),
        Phase::Done { .. } => (Tone::Good, language.of("restored", "已恢复")),
        Phase::Failed { .. } => (Tone::Bad, language.of("failed", "失败")),
        Phase::Cancelled => (Tone::Calm, language.of("cancelled", "已取消")),
    }
}

fn share(done: u64, all: u64) -> u64 {
    (done.min(all) as u128 * 1000 / u128::from(all.max(1))) as u64
}
