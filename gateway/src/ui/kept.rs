//! Where a volume is kept beside the gateway: a part of its page.

use super::parts::moment;
use super::shell::{escaped, problem_place};
use super::targets::{order_actions, say};
use crate::access::Caller;
use crate::admin::GenerationLine;
use crate::admin::targets::{OrderLine, RunLine, TargetLine};
use crate::api::Problem;
use crate::api::targets::{order_lines, run_lines, target_lines};
use crate::web::Web;
use dedupe::UnixMillis;
use look::Language;
use maud::{Markup, html};

/// What is known of a volume's copies.
pub(super) struct Copies {
    tenant: String,
    site: String,
    volume: String,
    /// Targets of its tenant.
    pub(super) targets: Vec<TargetLine>,
    orders: Vec<OrderLine>,
    /// Runs that ended with a proof, newest first.
    proved: Vec<RunLine>,
    now: UnixMillis,
}

impl Copies {
    pub(super) async fn of(
        web: &Web,
        caller: &Caller,
        (tenant, site, volume): (&str, &str, &str),
    ) -> Result<Copies, Problem> {
        let name = format!("{tenant}/{site}/{volume}");
        let mut targets = target_lines(web, caller).await?;
        targets.retain(|target| target.tenant == tenant);
        let mut orders = order_lines(web, caller).await?;
        orders.retain(|order| order.volume == name);
        let mut proved = run_lines(web, caller).await?;
        proved.retain(|run| run.volume == name && run.statement.is_some());
        let (tenant, site, volume) = (tenant.to_owned(), site.to_owned(), volume.to_owned());
        Ok(Copies { tenant, site, volume, targets, orders, proved, now: web.state.now() })
    }

    /// The last run to a target that ended with a proof.
    fn last(&self, target: &str) -> Option<&RunLine> {
        self.proved.iter().filter(|run| run.target == target).max_by_key(|run| run.ended)
    }
}

/// Where it is kept, whether that is current, what was proved; with buttons for whoever may.
pub(super) fn section(copies: &Copies, may_operate: bool, language: Language) -> Markup {
    html! {
        h2 #targets { (language.of("On targets", "目标上的副本")) }
        @if copies.targets.is_empty() { p { (language.of("No target is set up for this tenant.", "该租户尚未设置目标。")) " " a href="/targets" { (language.of("To the targets", "前往目标")) } } }
        @else {
            div.scroll tabindex="0" role="region" aria-labelledby="targets" {
                table.stack {
                    thead { tr { th { (language.of("Target", "目标")) } th { (language.of("Is it current?", "是否最新")) } th { (language.of("Proved last", "最近证明")) } @if may_operate { th { span.sr { (language.of("Actions", "操作")) } } } } }
                    tbody { @for target in &copies.targets { (row(target, copies, may_operate, language)) } }
                }
            }
        }
    }
}

fn row(target: &TargetLine, copies: &Copies, may_operate: bool, language: Language) -> Markup {
    let order = copies.orders.iter().find(|order| order.target == target.target);
    let last = copies.last(&target.target);
    let api = format!("/api/v1/targets/{}/{}", escaped(&target.tenant), escaped(&target.target));
    html! {
        tr {
            th scope="row" { a href={ "/targets/" (escaped(&target.tenant)) "/" (escaped(&target.target)) } { (target.target) } }
            td.wrap data-label=(language.of("Is it current?", "是否最新")) {
                @match (order, last) {
                    (Some(order), _) => (say::order(order, copies.now, language)),
                    (None, Some(run)) => span.soft { (language.of(format!("not kept at the latest; generation {} was put there", run.number), format!("未设为保持最新；曾还原版本 {}", run.number))) },
                    (None, None) => span.soft { (language.of("not kept there", "未保存")) },
                }
            }
            td data-label=(language.of("Proved last", "最近证明")) {
                @match last.and_then(|run| Some((run, run.statement?, run.ended?))) {
                    Some((run, number, at)) => { a href={ "/proofs/" (number) } { (language.of("Proof ", "证明 ")) (number) } ": " (language.of("generation ", "版本 ")) (run.number) ", " (moment(at)) },
                    None => "–",
                }
            }
            @if may_operate { td { @match order { Some(order) => (order_actions(&api, order, language)), None => (keep(&api, copies, language)) } } }
        }
    }
}

fn keep(api: &str, copies: &Copies, language: Language) -> Markup {
    html! {
        form data-api={ (api) "/orders" } {
            input type="hidden" name="site" value=(copies.site);
            input type="hidden" name="volume" value=(copies.volume);
            button.plain type="submit" { (language.of("Keep at the latest", "保持最新")) }
            (problem_place())
        }
    }
}

/// Rebuilds a generation on a target.
pub(super) fn rehydrate(
    copies: &Copies,
    generations: &[GenerationLine],
    choices: Markup,
    language: Language,
) -> Markup {
    let api =
        format!("/api/v1/volumes/{}/{}/{}", escaped(&copies.tenant), escaped(&copies.site), escaped(&copies.volume));
    html! {
        @if !copies.targets.is_empty() && !generations.is_empty() {
            section.card {
                h2 { (language.of("Rehydrate to a target", "还原到目标")) }
                form data-api={ (api) "/rehydrate" } data-then="job" {
                    div.field { label for="target-generation" { (language.of("Generation", "版本")) } (choices) }
                    div.field {
                        label for="target-name" { (language.of("Target", "目标")) }
                        select #target-name name="target" required { @for target in &copies.targets { option value=(target.target) { (target.target) } } }
                    }
                    (problem_place())
                    button type="submit" { (language.of("Rehydrate", "还原")) }
                }
            }
        }
    }
}
