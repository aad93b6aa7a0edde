//! What is kept for how long, what is to be deleted, and what was proved.

use super::parts::moment;
use super::shell::problem_place;
use super::{Fault, Shell, Visitor, proofs};
use crate::access::{Caller, Right};
use crate::admin::{LockLine, PendingLine, ProofLine, Term};
use crate::api::Problem;
use crate::api::proofs::proof_lines;
use crate::api::retention::{lock_lines, pending_lines};
use crate::web::Web;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dedupe::UnixMillis;
use look::Language;
use maud::{Markup, html};
use std::sync::Arc;

/// Deeds that are over and are shown.
const HISTORY: usize = 100;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/retention", get(show))
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let (proved, locks, pending) = match look(&web, &visitor.caller).await {
        Ok(asked) => asked,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    let may = visitor.has(Right::Operate);
    let (open, over): (Vec<PendingLine>, Vec<PendingLine>) =
        pending.into_iter().partition(|line| matches!(line.state.as_str(), "waiting" | "working"));
    let days = web.state.deletion_delay.as_secs() / 86_400;
    let title = language.of("Retention", "保留");
    let content = html! {
        div.head { div {
            h1 { (title) }
            p.soft { (language.of(
                format!("What a lock holds cannot be deleted by anybody. Nothing that was kept is deleted by one person, or at once: a second person agrees, then {days} days pass in which everybody sees it and can stop it."),
                format!("被锁定的内容任何人都无法删除。已保留的内容不能由一人删除，也不会立即删除：须由另一人同意，并等待 {days} 天，期间所有人可见并可取消。"),
            )) }
        } }
        section.card data-part="pending" {
            h2 { (language.of("Waiting for their time", "等待执行")) }
            @if open.is_empty() { p { (language.of("Nothing is to be deleted.", "没有待执行的删除。")) } }
            @for line in &open { (waiting(line, may, language)) }
        }
        section.card data-part="locks" {
            h2 { (language.of("Locks", "锁定")) }
            (lock_table(&locks, may, language))
        }
        @if may { (new_lock(language)) }
        section.card data-part="proofs" {
            h2 { (language.of("Proofs", "证明")) }
            (proofs::list(&proved, language))
        }
        @if !over.is_empty() { (history(&over, language)) }
    };
    Ok(Shell { visitor: &visitor, title, place: "/retention", follows: None, content }.render().into_response())
}

async fn look(web: &Web, caller: &Caller) -> Result<(Vec<ProofLine>, Vec<LockLine>, Vec<PendingLine>), Problem> {
    Ok((
        proof_lines(web, caller).await?,
        lock_lines(web, caller, false).await?,
        pending_lines(web, caller, true).await?,
    ))
}

fn waiting(line: &PendingLine, may: bool, language: Language) -> Markup {
    html! {
        div.note.warn {
            p { strong { "#" (line.number) " " (deed(&line.what, language)) ": " (line.object) } }
            p {
                @if line.state == "working" { (language.of("It has begun and cannot be stopped any more.", "已开始执行，无法取消。")) }
                @else { (language.of("Due ", "执行时间 ")) (moment(line.due)) }
            }
            p.small {
                (language.of("Asked for by ", "申请人 ")) (line.by) ", " (moment(line.asked)) ": " (line.reason) ". "
                (language.of("Agreed to by ", "同意人 ")) (line.approved_by) ", " (moment(line.approved)) "."
            }
            @if may && line.state == "waiting" {
                form data-api={ "/api/v1/retention/pending/" (line.number) "/cancel" } {
                    (reason(&format!("cancel-{}", line.number), language))
                    (problem_place())
                    button type="submit" { (language.of("Cancel it: nothing is deleted", "取消（不删除）")) }
                }
            }
        }
    }
}

fn lock_table(locks: &[LockLine], may: bool, language: Language) -> Markup {
    html! {
        @if locks.is_empty() { p { (language.of("There are none: what is older than the number of generations that are kept goes by itself.", "暂无锁定：超出保留数量的版本会自动清理。")) } }
        @else {
            div.scroll tabindex="0" role="region" aria-label=(language.of("Locks", "锁定")) {
                table.stack {
                    thead { tr {
                        th.number { "#" } th { (language.of("Holds", "对象")) } th { (language.of("How long", "期限")) }
                        th { (language.of("Set", "设置")) } th { (language.of("Reason", "原因")) } @if may { th { (language.of("Take off", "解除")) } }
                    } }
                    tbody { @for line in locks { tr {
                        td.number data-label="#" { (line.number) }
                        td data-label=(language.of("Holds", "对象")) { (kind(&line.kind, language)) " " (line.object) }
                        td data-label=(language.of("How long", "期限")) { (term(line.term, language)) }
                        td data-label=(language.of("Set", "设置")) { (line.by) ", " (moment(line.set)) }
                        td data-label=(language.of("Reason", "原因")) { (line.reason) }
                        @if may {
                            td data-label=(language.of("Take off", "解除")) {
                                details {
                                    summary { (language.of("Ask", "申请")) }
                                    form data-api={ "/api/v1/retention/locks/" (line.number) "/release" } {
                                        (reason(&format!("release-{}", line.number), language))
                                        (problem_place())
                                        button.danger type="submit" { (language.of("Ask to take it off", "申请解除")) }
                                    }
                                }
                            }
                        }
                    } } }
                }
            }
        }
    }
}

fn new_lock(language: Language) -> Markup {
    let field = |name: &str, label: &str, required: bool, kind: &str| {
        html! {
            div.field {
                label for={ "lock-" (name) } { (label) }
                input id={ "lock-" (name) } name=(name) required[required] maxlength="100" autocomplete="off"
                    inputmode=[(kind == "number").then_some("numeric")] data-type=[(kind == "number").then_some("number")];
            }
        }
    };
    html! {
        section.card {
            h2 { (language.of("Set a lock", "设置锁定")) }
            p.hint { (language.of("It holds at once, and one person sets it. Leave site, volume or generation empty to hold all of them. To take it off takes two people and the delay.", "由一人设置，立即生效。站点、卷或版本留空表示全部。解除须两人同意并等待。")) }
            form data-api="/api/v1/retention/locks" {
                div.fields {
                    (field("tenant", language.of("Tenant", "租户"), true, "text"))
                    (field("site", language.of("Site", "站点"), false, "text"))
                    (field("volume", language.of("Volume", "卷"), false, "text"))
                    (field("generation", language.of("Generation", "版本"), false, "text"))
                    (field("days", language.of("Days from each seal on", "自封存起的天数"), false, "number"))
                }
                label {
                    input type="checkbox" name="forever" data-type="bool";
                    " " (language.of("Without end", "无限期"))
                }
                (reason("lock", language))
                (problem_place())
                button type="submit" { (language.of("Lock", "锁定")) }
            }
        }
    }
}

fn history(over: &[PendingLine], language: Language) -> Markup {
    html! {
        section.card {
            h2 { (language.of("What came of others", "已结束")) }
            div.scroll tabindex="0" role="region" aria-label=(language.of("What came of others", "已结束")) {
                table.stack {
                    thead { tr {
                        th.number { "#" } th { (language.of("State", "状态")) } th { (language.of("What", "内容")) }
                        th { (language.of("Asked for", "申请")) } th { (language.of("Agreed to", "同意")) } th { (language.of("Why", "说明")) }
                    } }
                    tbody { @for line in over.iter().take(HISTORY) {
                        @let (class, word) = state(&line.state, language);
                        tr {
                            td.number data-label="#" { (line.number) }
                            td data-label=(language.of("State", "状态")) {
                                span.chip.(class) { (word) }
                                @if let Some(proof) = line.proof { " " a href={ "/proofs/" (proof) } { (language.of("proof ", "证明 ")) (proof) } }
                            }
                            td data-label=(language.of("What", "内容")) { (deed(&line.what, language)) ": " (line.object) }
                            td data-label=(language.of("Asked for", "申请")) { (line.by) ", " (moment(line.asked)) }
                            td data-label=(language.of("Agreed to", "同意")) { (line.approved_by) ", " (moment(line.approved)) }
                            td data-label=(language.of("Why", "说明")) { (line.said.as_deref().unwrap_or(&line.reason)) }
                        }
                    } }
                }
            }
        }
    }
}

/// A form's field for the reason.
pub(super) fn reason(of: &str, language: Language) -> Markup {
    html! {
        div.field {
            label for={ (of) "-reason" } { (language.of("Reason", "原因")) }
            input id={ (of) "-reason" } name="reason" required maxlength="500" autocomplete="off";
        }
    }
}

/// What is to be done, in a word or two; `None`: it is no deed of this page.
pub(super) fn deed(word: &str, language: Language) -> &'static str {
    match word {
        "lock.release" => language.of("Take a lock off, or shorten it", "解除或缩短锁定"),
        "generation.forget" => language.of("Delete a generation", "删除版本"),
        "site.decommission" => language.of("Decommission a site", "站点退役"),
        _ => "",
    }
}

fn kind(word: &str, language: Language) -> &'static str {
    match word {
        "tenant" => language.of("tenant", "租户"),
        "site" => language.of("site", "站点"),
        "volume" => language.of("volume", "卷"),
        _ => language.of("generation", "版本"),
    }
}

fn term(term: Term, language: Language) -> Markup {
    match term {
        Term::Days(days) => {
            html! { (language.of(format!("{days} days from each seal on"), format!("自封存起 {days} 天"))) }
        }
        Term::Until(until) => html! { (language.of("until ", "至 ")) (moment(UnixMillis(until))) },
        Term::Forever => html! { (language.of("without end", "无限期")) },
    }
}

fn state(word: &str, language: Language) -> (&'static str, &'static str) {
    match word {
        "done" => ("good", language.of("done", "已执行")),
        "cancelled" => ("", language.of("cancelled", "已取消")),
        _ => ("bad", language.of("refused", "已拒绝")),
    }
}
