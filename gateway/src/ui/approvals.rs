//! What waits for a second person: why, who asked, what would change; and what was answered.

use super::parts::moment;
use super::shell::{empty, problem_place};
use super::{Fault, Shell, Visitor, diff, say};
use crate::access::Right;
use crate::admin::{ApprovalLine, Proposal};
use crate::api::people::{approval_lines, proposal};
use crate::web::Web;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use look::Language;
use maud::{Markup, html};
use std::sync::Arc;

/// Answered ones that are shown.
const HISTORY: usize = 100;
/// Documents of one request that are shown in full.
const DOCUMENTS: usize = 5;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/approvals", get(show))
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let all = match approval_lines(&web, &visitor.caller, true).await {
        Ok(all) => all,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    let (waiting, over): (Vec<ApprovalLine>, Vec<ApprovalLine>) =
        all.into_iter().partition(|line| line.state == "waiting");
    let mut proposals = Vec::new();
    for line in &waiting {
        match proposal(&web, &visitor.caller, line.number).await {
            Ok(proposal) => proposals.push(proposal),
            Err(problem) => return Err(visitor.fault(problem)),
        }
    }
    let content = html! {
        div.head {
            div {
                h1 { (language.of("Approvals", "审批")) }
                p.soft { (language.of("Changes that give replication more than the owner of a line agreed to before wait here for a second person.", "超出专线负责人原先约定的变更，须由另一人在此审批。")) }
            }
        }
        @if proposals.is_empty() {
            (empty(language.of("Nothing waits", "没有待审批的变更"), html! {
                p { (language.of("A larger cap or quota, a blackout taken out, and a boost through a blackout appear here, where the tenant has an approver.", "提高上限或配额、取消禁传时段、在禁传时段内提速等变更，在租户设有审批人时显示于此。")) }
                @if visitor.has(Right::Administer) { p { a href="/users" { (language.of("Make an account of an approver", "创建审批人账号")) } } }
            }))
        }
        @for waiting in &proposals { (card(waiting, &visitor)) }
        @if !over.is_empty() { (history(&over, language)) }
    };
    let title = language.of("Approvals", "审批");
    Ok(Shell { visitor: &visitor, title, place: "/approvals", follows: None, content }.render().into_response())
}

fn card(proposal: &Proposal, visitor: &Visitor) -> Markup {
    let (line, language) = (&proposal.approval, visitor.language);
    html! {
        section.card aria-labelledby={ "a" (line.number) } {
            h2 id={ "a" (line.number) } { "#" (line.number) " " (say::asked(&line.what, language)) }
            p { (language.of("Asked for by ", "申请人 ")) strong { (line.by) } ", " (moment(line.asked)) " · " (language.of("tenant ", "租户 ")) (line.tenant)
                " · " (language.of("may be answered until ", "有效期至 ")) (moment(line.valid_until)) }
            h3 {
                @if is_deed(&line.what) { (language.of("Why a second person has to agree", "需要另一人同意的原因")) }
                @else { (language.of("Why the owner of the line has to agree", "需要专线负责人同意的原因")) }
            }
            ul { @for cause in &line.causes { li { (say::cause(cause, language)) } } }
            @for document in proposal.documents.iter().take(DOCUMENTS) {
                h3 { (language.of("What would change at ", "将要变更的内容：")) (document.site) }
                (diff::draw(document.before.as_deref().unwrap_or_default(), &document.after))
            }
            @if proposal.documents.len() > DOCUMENTS {
                p { (language.of("The same document would hold at: ", "同一策略还将用于：")) (names(&proposal.documents[DOCUMENTS..])) }
            }
            @if proposal.stale.is_empty() { (answer(line, visitor)) } @else { (stale(proposal, visitor)) }
        }
    }
}

fn names(documents: &[crate::admin::ProposedDocument]) -> String {
    documents.iter().map(|document| document.site.as_str()).collect::<Vec<_>>().join(", ")
}

fn stale(proposal: &Proposal, visitor: &Visitor) -> Markup {
    let (line, language) = (&proposal.approval, visitor.language);
    html! {
        p.note.warn {
            (language.of("Nobody can agree to this any more, because the policy was changed since: ", "此后策略已被修改，无法再同意：")) (proposal.stale.join(", ")) ". "
            (language.of("Whoever wants it has to look at it and ask again.", "请申请人查看后重新提交。"))
        }
        @if visitor.has(Right::Approve) { (refuse(line, language)) }
    }
}

/// Who may answer and how; else why not.
fn answer(line: &ApprovalLine, visitor: &Visitor) -> Markup {
    let language = visitor.language;
    let own = line.by == visitor.caller.name;
    html! {
        @if !visitor.has(Right::Approve) {
            p.note {
                @if own { (language.of("You asked for this: somebody else has to agree, with the role of an approver.", "这是您提交的申请，须由另一位审批人同意。")) }
                @else { (language.of("An approver answers this; your role may only look.", "由审批人处理，您的角色仅可查看。")) }
            }
        } @else if own {
            p.note.warn { (language.of("You asked for this yourself. One person is not two: somebody else has to agree. You may take it back by refusing it.", "这是您本人提交的申请，须由他人同意；您可以拒绝以撤回。")) }
            (refuse(line, language))
        } @else {
            form data-api={ "/api/v1/approvals/" (line.number) "/approve" } {
                div.field {
                    label for={ "reason-" (line.number) } { (language.of("Reason", "原因")) }
                    input id={ "reason-" (line.number) } name="reason" required maxlength="500" autocomplete="off";
                }
                (problem_place())
                div.row {
                    button type="submit" {
                        @if is_deed(&line.what) { (language.of("Agree: from now on the delay runs", "同意（开始等待期）")) }
                        @else { (language.of("Agree: it is done at once", "同意（立即生效）")) }
                    }
                    button.danger type="submit" data-api={ "/api/v1/approvals/" (line.number) "/refuse" } { (language.of("Refuse", "拒绝")) }
                }
            }
        }
    }
}

/// Whether something is given up for good, which is never done at once.
fn is_deed(what: &str) -> bool {
    what.split_once(" of ").is_some_and(|(word, _)| !super::retention::deed(word, Language::English).is_empty())
}

fn refuse(line: &ApprovalLine, language: Language) -> Markup {
    html! {
        form data-api={ "/api/v1/approvals/" (line.number) "/refuse" } {
            div.field {
                label for={ "reason-" (line.number) } { (language.of("Reason", "原因")) }
                input id={ "reason-" (line.number) } name="reason" required maxlength="500" autocomplete="off";
            }
            (problem_place())
            button.danger type="submit" { (language.of("Refuse", "拒绝")) }
        }
    }
}

fn history(over: &[ApprovalLine], language: Language) -> Markup {
    html! {
        section.card {
            h2 { (language.of("Answered", "已处理")) }
            div.scroll tabindex="0" role="region" aria-label=(language.of("Answered", "已处理")) {
                table.stack {
                    thead { tr {
                        th.number { "#" } th { (language.of("State", "状态")) } th { (language.of("What", "内容")) }
                        th { (language.of("Asked for", "申请")) } th { (language.of("Answered by", "处理人")) } th { (language.of("Reason", "原因")) }
                    } }
                    tbody {
                        @for line in over.iter().take(HISTORY) {
                            @let (class, word) = state(&line.state, language);
                            tr {
                                td.number data-label="#" { (line.number) }
                                td data-label=(language.of("State", "状态")) { span.chip.(class) { (word) } }
                                td data-label=(language.of("What", "内容")) { (say::asked(&line.what, language)) }
                                td data-label=(language.of("Asked for", "申请")) { (line.by) " " (moment(line.asked)) }
                                td data-label=(language.of("Answered by", "处理人")) { (line.answered_by.as_deref().unwrap_or("–")) }
                                td data-label=(language.of("Reason", "原因")) { (line.answer.as_deref().unwrap_or("–")) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn state(word: &str, language: Language) -> (&'static str, &'static str) {
    match word {
        "approved" => ("good", language.of("agreed", "已同意")),
        "refused" => ("bad", language.of("refused", "已拒绝")),
        "expired" => ("", language.of("nobody answered", "已过期")),
        _ => ("warn", language.of("waiting", "待审批")),
    }
}
