//! A roll-out: its rings, its sites, and what can be done with it.

use super::say;
use super::{is_over, nothing};
use crate::access::{Right, Scope};
use crate::admin::{ReleaseLine, RingLine, RolloutRequest, VersionLine};
use crate::api::rollouts::{RolloutView, view};
use crate::ui::parts::{moment, site_link};
use crate::ui::shell::problem_place;
use crate::ui::{Fault, Shell, Visitor};
use crate::web::Web;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use look::Language;
use maud::{Markup, html};
use std::sync::Arc;

pub(super) async fn show(
    State(web): State<Arc<Web>>,
    visitor: Visitor,
    Path(number): Path<u64>,
) -> Result<Response, Fault> {
    let view = match view(&web, &visitor.caller, RolloutRequest::Show { number: Some(number) }).await {
        Ok(view) => view,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    let may = visitor.has(Right::Operate) && visitor.caller.scope == Scope::Whole;
    let title = format!("{} {number}", language.of("Roll-out", "推送"));
    let content = html! {
        div.head { div {
            h1 { (title) " · " (view.rollout.version) }
            p { a href="/versions" { (language.of("Back to versions", "返回版本管理")) } }
        } }
        div data-part="rollout" data-again="10" { (card(&view, may, language)) }
    };
    Ok(Shell { visitor: &visitor, title: &title, place: "/versions", follows: None, content }.render().into_response())
}

/// How it stands, with its rings.
pub(super) fn card(view: &RolloutView, may: bool, language: Language) -> Markup {
    let line = &view.rollout;
    html! {
        section.card aria-labelledby="rollout" {
            h2 #rollout { (language.of("Roll-out ", "推送 ")) (line.number) ": " (line.version) " " (say::state(line, language)) }
            @if line.state == "stopped" {
                p.note.bad role="status" {
                    strong { @match &line.stopped_at { Some(site) => (language.of(format!("Stopped at {site}."), format!("在 {site} 停止。"))), None => (language.of("Stopped.", "已停止。")) } }
                    " " (line.why.as_deref().unwrap_or("")) br;
                    (language.of("No further site gets it. Look at the site, then go on or cancel it.", "不再推送到其他站点。请先检查该站点，再决定继续或取消。"))
                }
            } @else if let Some(why) = &line.why { p.note { (why) } }
            p {
                (language.of(format!("{} of {} sites run it, confirmed", line.confirmed, line.sites), format!("{} 个站点中 {} 个已确认运行", line.sites, line.confirmed)))
                @if line.failed > 0 { (language.of(format!("; {} failed", line.failed), format!("；{} 个失败", line.failed))) }
                (language.of(". ", "。"))
                @if let Some(next) = line.next_ring { (language.of("The next ring opens ", "下一批次将于 ")) (moment(next)) (language.of(".", " 开始。")) }
            }
            p.small.soft {
                (language.of("Begun by ", "发起人：")) (line.by) " · " (moment(line.started)) " · " (line.reason) " · "
                (language.of(format!("{} h between rings", line.soak_hours), format!("批次间隔 {} 小时", line.soak_hours)))
            }
            @if view.rings.iter().all(|ring| ring.sites.is_empty()) { (nothing(language)) }
            @for ring in &view.rings { (ring_of(ring, language)) }
            @if may && !is_over(view) { (actions(view, language)) }
        }
    }
}

fn ring_of(ring: &RingLine, language: Language) -> Markup {
    let name = match ring.number {
        1 => language.of("First ring", "第一批"),
        2 => language.of("Second ring", "第二批"),
        _ => language.of("Everybody else", "其余站点"),
    };
    html! {
        @if !ring.sites.is_empty() {
            details open[ring.opened.is_some()] id={ "ring-" (ring.number) } {
                summary {
                    strong { (name) } " (" (ring.sites.len()) ") "
                    @match ring.opened { Some(opened) => { span.soft { (language.of("open since ", "开始于 ")) (moment(opened)) } } None => { span.chip { (language.of("closed", "未开始")) } } }
                }
                div.scroll tabindex="0" role="region" aria-label=(name) {
                    table.stack {
                        thead { tr { th { (language.of("Site", "站点")) } th { (language.of("Runs", "运行版本")) } th { (language.of("How far", "进度")) } } }
                        tbody { @for site in &ring.sites {
                            tr {
                                th scope="row" { (site_link(&site.tenant, &site.site)) " " span.soft.small { (site.tenant) } }
                                td data-label=(language.of("Runs", "运行版本")) { (site.version) }
                                td.wrap data-label=(language.of("How far", "进度")) { (say::step(site, language)) }
                            }
                        } }
                    }
                }
            }
        }
    }
}

fn actions(view: &RolloutView, language: Language) -> Markup {
    let (number, state) = (view.rollout.number, view.rollout.state.as_str());
    html! {
        div.row {
            @if state == "running" {
                (act(number, "pause", (language.of("Pause", "暂停"), language.of("Why is it held?", "暂停原因")), false, language))
            } @else {
                (act(number, "resume", (language.of("Go on", "继续"), language.of("What did you find, and why may it go on?", "检查结果与继续的理由")), state == "stopped", language))
            }
            (act(number, "cancel", (language.of("Cancel the roll-out", "取消推送"), language.of("Why is it cancelled?", "取消原因")), false, language))
        }
    }
}

fn act(number: u64, what: &str, (title, why): (&str, &str), retry: bool, language: Language) -> Markup {
    let id = format!("{what}-reason");
    html! {
        details id={ "do-" (what) } {
            summary { (title) }
            form.card data-api={ "/api/v1/rollouts/" (number) "/" (what) } {
                div.field {
                    label for=(id) { (why) }
                    input id=(id) name="reason" required maxlength="500";
                }
                @if retry {
                    div.field { label.check { input type="checkbox" name="retry" data-type="bool"; (language.of("Sites that failed try again; otherwise it goes on without them", "失败的站点重试；不勾选则略过这些站点")) } }
                }
                (problem_place())
                button.danger[what == "cancel"] type="submit" { (title) }
            }
        }
    }
}

/// Begins a roll-out, where none is under way.
pub(super) fn form(
    releases: &[ReleaseLine],
    sites: &[VersionLine],
    last: Option<&RolloutView>,
    language: Language,
) -> Markup {
    let newest = releases.iter().filter(|line| line.role == "edge");
    let older: Vec<&VersionLine> = sites
        .iter()
        .filter(|site| releases.iter().any(|line| line.role == "edge" && line.sequence > site.sequence))
        .collect();
    html! {
        @if last.is_none_or(is_over) && !older.is_empty() {
            section.card {
                h2 { (language.of("Roll a release out", "推送发行版")) }
                p.small { (language.of("It goes to one site first, then to ten, then to all: each ring has to be proved, and a day has to pass. A trial that fails anywhere stops it.", "先推送到一个站点，再到十个，最后到全部：每一批都须确认正常并经过观察期。任一站点试运行失败即自动停止。")) }
                form data-api="/api/v1/rollouts" {
                    div.fields {
                        div.field {
                            label for="rollout-release" { (language.of("Release", "发行版")) }
                            select #rollout-release name="release" required { @for line in newest { option value=(line.id) { (line.version) } } }
                        }
                        div.field {
                            label for="rollout-first" { (language.of("First site", "首个站点")) }
                            select #rollout-first name="first" data-type="list" required {
                                @for site in &older { option value={ (site.tenant) "/" (site.site) } { (site.tenant) " / " (site.site) " (" (site.version) ")" } }
                            }
                        }
                        div.field {
                            label for="rollout-soak" { (language.of("Hours between rings", "批次间隔（小时）")) }
                            input #rollout-soak name="soak_hours" type="number" data-type="number" min="0" max="720" value="24" required;
                        }
                        div.field {
                            label for="rollout-reason" { (language.of("Reason", "原因")) }
                            input #rollout-reason name="reason" required maxlength="500";
                        }
                    }
                    (problem_place())
                    button type="submit" { (language.of("Begin", "开始推送")) }
                }
            }
        }
    }
}
