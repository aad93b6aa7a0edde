//! The audit log: who did what, from where, and whether nothing of it was changed since.

use super::parts::{moment, only};
use super::shell::{empty, escaped, problem_place};
use super::{Fault, Shell, Visitor};
use crate::access::{Right, Scope};
use crate::api::people::{AuditEntry, Entries, audit_entries};
use crate::web::{Web, blocking};
use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dedupe::UnixMillis;
use look::Language;
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

/// Entries of a page.
const PER_PAGE: usize = 100;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/audit", get(show))
}

#[derive(Default, Deserialize)]
struct Wanted {
    #[serde(default)]
    actor: String,
    #[serde(default)]
    object: String,
    before: Option<u64>,
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    let (language, title) = (visitor.language, visitor.language.of("Audit log", "审计日志"));
    if !visitor.has(Right::Administer) || visitor.caller.scope != Scope::Whole {
        let content = html! {
            h1 { (title) }
            (only(language, "The audit log is for administrators of the whole gateway. What was changed at a site stands on the page of the site.", "审计日志仅供整个网关的管理员查看；站点的变更记录见站点页面。"))
        };
        return Ok(Shell { visitor: &visitor, title, place: "/audit", follows: None, content }
            .render()
            .into_response());
    }
    let which = Entries {
        before: wanted.before,
        most: Some(PER_PAGE),
        actor: Some(wanted.actor.trim().to_owned()).filter(|actor| !actor.is_empty()),
        object: Some(wanted.object.trim().to_owned()).filter(|object| !object.is_empty()),
    };
    let entries = match audit_entries(&web, &visitor.caller, which).await {
        Ok(entries) => entries,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let state = web.state.clone();
    let total = match blocking(move || state.catalogue.audit_len()).await {
        Ok(total) => total,
        Err(error) => return Err(visitor.fault(error)),
    };
    let content = html! {
        div.head {
            div {
                h1 { (title) }
                p.soft { (language.of(format!("{total} entries; each carries the hash of the one before it."), format!("共 {total} 条，每条都包含前一条的哈希值。"))) }
            }
            div.row {
                form data-api="/api/v1/audit/check" data-method="GET" data-then="stay" data-said=(language.of("The log is whole: {entries} entries. The last one hashes to {last}.", "日志完整：共 {entries} 条，最后一条的哈希值为 {last}。")) {
                    button type="submit" { (language.of("Check the chain", "校验日志链")) }
                    (problem_place())
                }
                a.button.plain href="/api/v1/audit/export?format=json" download="audit.jsonl" { (language.of("JSON lines", "导出 JSON")) }
                a.button.plain href="/api/v1/audit/export?format=syslog" download="audit.log" { (language.of("Syslog", "导出 syslog")) }
            }
        }
        (filters(&wanted, language))
        @if entries.is_empty() {
            (empty(language.of("No entries", "没有记录"), html! { p { (language.of("Nothing fits; try another name.", "没有符合条件的记录，请更换关键字。")) " " a href="/audit" { (language.of("Show all", "显示全部")) } } }))
        } @else { (table(&entries, language)) (pages(&entries, &wanted, language)) }
    };
    Ok(Shell { visitor: &visitor, title, place: "/audit", follows: None, content }.render().into_response())
}

fn filters(wanted: &Wanted, language: Language) -> Markup {
    html! {
        form.filters method="get" action="/audit" data-live role="search" {
            div.field {
                label for="actor" { (language.of("Who, exactly", "操作人（完整名称）")) }
                input #actor name="actor" type="search" value=(wanted.actor) maxlength="100" autocapitalize="none";
            }
            div.field {
                label for="object" { (language.of("On what, in part", "对象（关键字）")) }
                input #object name="object" type="search" value=(wanted.object) maxlength="200" autocapitalize="none";
            }
            button.plain type="submit" { (language.of("Show", "筛选")) }
        }
    }
}

fn table(entries: &[AuditEntry], language: Language) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(language.of("Entries", "记录")) {
            table.stack {
                thead { tr {
                    th.number { "#" } th { (language.of("When", "时间")) } th { (language.of("Who", "操作人")) } th { (language.of("What", "操作")) }
                    th { (language.of("On what", "对象")) } th { (language.of("More", "详情")) } th { (language.of("Outcome", "结果")) } th { (language.of("Hash", "哈希")) }
                } }
                tbody { @for entry in entries { (row(entry, language)) } }
            }
        }
    }
}

fn row(entry: &AuditEntry, language: Language) -> Markup {
    let (class, outcome) = match entry.outcome.as_str() {
        "done" => ("good", language.of("done", "完成")),
        "waiting" => ("warn", language.of("waits for approval", "待审批")),
        "refused" => ("bad", language.of("refused", "被拒绝")),
        "failed" => ("bad", language.of("failed", "失败")),
        other => ("", other),
    };
    let via = match entry.via.as_str() {
        "command-line" => language.of("command line", "命令行"),
        "session" => language.of("browser", "浏览器"),
        "token" => language.of("API token", "API 令牌"),
        "edge" => language.of("at the site", "在分支现场"),
        other => other,
    };
    html! {
        tr {
            td.number data-label="#" { (entry.number) }
            td data-label=(language.of("When", "时间")) { (moment(UnixMillis(entry.time))) }
            td data-label=(language.of("Who", "操作人")) { strong { (entry.actor) } " " span.small.soft { (via) } }
            td data-label=(language.of("What", "操作")) { code { (entry.what) } }
            td data-label=(language.of("On what", "对象")) { (entry.object) @if !entry.tenant.is_empty() { " " span.small.soft { (entry.tenant) } } }
            td data-label=(language.of("More", "详情")) { span.wrap { (entry.detail) } }
            td data-label=(language.of("Outcome", "结果")) { span.chip.(class) { (outcome) } }
            td.wide-only data-label=(language.of("Hash", "哈希")) { code title=(entry.hash) { (entry.hash.get(..12).unwrap_or_default()) "…" } }
        }
    }
}

/// To the entries before these, and back to the newest.
fn pages(entries: &[AuditEntry], wanted: &Wanted, language: Language) -> Markup {
    let filter = format!("actor={}&object={}", escaped(&wanted.actor), escaped(&wanted.object));
    let last = entries.last().map_or(1, |entry| entry.number);
    html! {
        p.row {
            @if wanted.before.is_some() { a.button.plain href={ "/audit?" (filter) } { (language.of("The newest", "最新")) } }
            @if entries.len() == PER_PAGE && last > 1 {
                a.button.plain href={ "/audit?" (filter) "&before=" (last) } { (language.of("Older", "更早")) }
            }
        }
    }
}
