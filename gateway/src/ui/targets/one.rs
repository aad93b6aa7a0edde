//! One target: whether its copies are current, what it holds, what is on its way, what was proved.

use super::super::jobs::{progress_text, what};
use super::super::parts::{moment, volume_link};
use super::super::shell::{escaped, problem_place};
use super::super::{Fault, Shell, Visitor};
use super::{credentials, kinds, limits, path, place, proof, say, test};
use crate::access::{Caller, Right};
use crate::admin::targets::{OrderLine, PointLine, RunLine, TargetLine};
use crate::admin::{Answer, Request, TargetAnswer, VolumeLine};
use crate::api::Problem;
use crate::api::targets::{LOOK, TEST, full_name, order_lines, run_lines, target_line};
use crate::jobs::{Job, JobView};
use crate::web::Web;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use dedupe::UnixMillis;
use look::{Language, format};
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::sync::Arc;
use targets::Description;

/// Runs that the page shows.
const SHOWN_RUNS: usize = 20;
/// Orders that the page shows, those that are not current first.
const SHOWN_ORDERS: usize = 200;
/// Points that the page shows.
const SHOWN_POINTS: usize = 500;

/// All that the page tells.
struct Known {
    line: TargetLine,
    orders: Vec<OrderLine>,
    runs: Vec<RunLine>,
    /// Volumes of its tenant.
    volumes: Vec<VolumeLine>,
    jobs: Vec<Arc<Job>>,
    now: UnixMillis,
    operates: bool,
}

pub(super) async fn show(
    State(web): State<Arc<Web>>,
    visitor: Visitor,
    Path((tenant, target)): Path<(String, String)>,
) -> Result<Response, Fault> {
    let known = match known(&web, &visitor.caller, &tenant, &target).await {
        Ok(known) => known,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    let api = format!("/api/v1/targets/{}", path(&known.line));
    let content = html! {
        div.head {
            div {
                p.small { a href="/targets" { (language.of("All targets", "全部目标")) } }
                h1 { (known.line.target) " " span.soft { (known.line.tenant) } }
                p.big { (kinds::name(&known.line.kind, language)) }
            }
            @if known.operates { div.row { (test(&path(&known.line), language)) (look(&api, language)) } }
        }
        div data-part="sentence" data-again="3" { (say::all(std::slice::from_ref(&known.line), known.now, language)) }
        section.card data-part="orders" { (orders(&known, &api, language)) }
        @if known.operates { (keep(&known, &api, language)) }
        section.card data-part="runs" { (runs(&known, language)) }
        div.two {
            section.card data-part="points" { (holds(&known, language)) }
            div {
                section.card { (facts(&known.line, language)) }
                section.card data-part="tested" { (tested(&known, language)) }
                @if visitor.has(Right::Administer) { (remove(&api, language)) }
            }
        }
    };
    let title = known.line.target.clone();
    Ok(Shell { visitor: &visitor, title: &title, place: "/targets", follows: None, content }.render().into_response())
}

async fn known(web: &Arc<Web>, caller: &Caller, tenant: &str, target: &str) -> Result<Known, Problem> {
    full_name(tenant, target)?;
    let line = target_line(web, caller, tenant, target).await?;
    let of_tenant = format!("{tenant}/");
    let mut orders = order_lines(web, caller).await?;
    orders.retain(|order| order.target == target && order.volume.starts_with(&of_tenant));
    orders.sort_by_key(|order| order.state == "current");
    let mut runs = run_lines(web, caller).await?;
    runs.retain(|run| run.target == target && run.volume.starts_with(&of_tenant));
    let volumes = match web.ask(caller, Request::Volumes).await? {
        Answer::Volumes { volumes } => volumes.into_iter().filter(|volume| volume.tenant == tenant).collect(),
        _ => Vec::new(),
    };
    let owner = web.state.catalogue.find_tenant(tenant)?;
    let operates = caller.require(Right::Operate, Some(owner.id)).is_ok();
    let jobs = web.jobs.seen_by(caller).into_iter().filter(|job| job.tenant() == Some(owner.id)).collect();
    Ok(Known { line, orders, runs, volumes, jobs, now: web.state.now(), operates })
}

impl Known {
    /// What the newest job of this kind about this target answered, or that it runs.
    fn newest(&self, what: &str) -> Option<(JobView, Option<Answer>)> {
        let name = format!("{}/{}", self.line.tenant, self.line.target);
        let found = self.jobs.iter().find(|job| {
            let view = job.view();
            view.what == what && view.object == name
        })?;
        Some((found.view(), found.answer().map(|(_, answer)| answer)))
    }

    /// The job that works on a run now.
    fn job_of(&self, run: &RunLine) -> Option<JobView> {
        let views = self.jobs.iter().filter(|job| job.is_running()).map(|job| job.view());
        let mut of_run = views.filter(|view| {
            view.what == "volume.rehydrate" && view.object == run.volume && view.to.as_deref() == Some(&run.target)
        });
        of_run.next()
    }
}

fn look(api: &str, language: Language) -> Markup {
    html! {
        form data-api={ (api) "/look" } data-then="job" data-empty {
            button.plain type="submit" { (language.of("Ask what it holds", "查询现有恢复点")) }
            (problem_place())
        }
    }
}

// ---- orders

fn orders(known: &Known, api: &str, language: Language) -> Markup {
    html! {
        h2 #orders { (language.of("Kept at the latest", "保持最新")) }
        @if known.orders.is_empty() { p { (language.of("No volume yet. A volume that is kept here at the latest is rebuilt here by itself whenever a generation is complete at the gateway.", "暂无。设为保持最新的卷，每当网关收到完整的新版本即自动还原到此目标。")) } }
        @else {
            div.scroll tabindex="0" role="region" aria-labelledby="orders" {
                table.stack {
                    thead { tr { th { (language.of("Volume", "卷")) } th { (language.of("Is it current?", "是否最新")) } th { (language.of("Since", "设置时间")) } @if known.operates { th { span.sr { (language.of("Actions", "操作")) } } } } }
                    tbody {
                        @for line in known.orders.iter().take(SHOWN_ORDERS) {
                            tr {
                                th scope="row" { (volume_link(&line.volume)) }
                                td.wrap data-label=(language.of("Is it current?", "是否最新")) { (say::order(line, known.now, language)) }
                                td data-label=(language.of("Since", "设置时间")) { (moment(line.since)) " " span.small.soft { (line.by) } }
                                @if known.operates { td { (act(api, line, language)) } }
                            }
                        }
                    }
                }
            }
            @if known.orders.len() > SHOWN_ORDERS { p.hint { (language.of(format!("{} more are in the API.", known.orders.len() - SHOWN_ORDERS), format!("其余 {} 个见 API。", known.orders.len() - SHOWN_ORDERS))) } }
        }
    }
}

/// Let it rest, let it go on, keep it no more.
pub(in crate::ui) fn act(api: &str, line: &OrderLine, language: Language) -> Markup {
    let parts: Vec<&str> = line.volume.splitn(3, '/').collect();
    let [_, site, volume] = parts[..] else { return html! {} };
    let order = format!("{api}/orders/{}/{}", escaped(site), escaped(volume));
    let paused = line.state == "paused";
    html! {
        div.row {
            form data-api=(order) data-method="PUT" {
                input type="checkbox" name="paused" data-type="bool" hidden checked[!paused];
                button.plain type="submit" { (if paused { language.of("Resume", "继续") } else { language.of("Pause", "暂停") }) span.sr { " " (line.volume) } }
                (problem_place())
            }
            form data-api=(order) data-method="DELETE" data-empty data-confirm=(language.of("Keep this copy at the latest no more? What the target holds stays there.", "不再保持此副本最新？目标上已有的内容保留不变。")) {
                button.plain type="submit" { (language.of("Release", "取消")) span.sr { " " (line.volume) } }
                (problem_place())
            }
        }
    }
}

fn keep(known: &Known, api: &str, language: Language) -> Markup {
    let kept = |volume: &VolumeLine| {
        let name = format!("{}/{}/{}", volume.tenant, volume.site, volume.volume);
        known.orders.iter().any(|order| order.volume == name)
    };
    let mut sites: BTreeMap<&str, Vec<&VolumeLine>> = BTreeMap::new();
    for volume in known.volumes.iter().filter(|volume| !kept(volume)) {
        sites.entry(&volume.site).or_default().push(volume);
    }
    html! {
        @if !sites.is_empty() {
            section.card {
                h2 { (language.of("Keep a further volume at the latest", "将其他卷设为保持最新")) }
                div.cards {
                    @for (site, volumes) in &sites {
                        form data-api={ (api) "/orders" } {
                            input type="hidden" name="site" value=(site);
                            label for={ "keep-" (site) } { (site) }
                            div.row {
                                select id={ "keep-" (site) } name="volume" {
                                    option value="*" { (language.of("all of its volumes", "该站点的全部卷")) }
                                    @for volume in volumes { option value=(volume.volume) { (volume.volume) } }
                                }
                                button type="submit" { (language.of("Keep", "保持")) }
                            }
                            (problem_place())
                        }
                    }
                }
            }
        }
    }
}

// ---- runs

fn runs(known: &Known, language: Language) -> Markup {
    let open = known.runs.iter().filter(|run| run.ended.is_none());
    let over = known.runs.iter().filter(|run| run.ended.is_some());
    let shown: Vec<&RunLine> = open.chain(over).take(SHOWN_RUNS).collect();
    html! {
        h2 #runs { (language.of("Runs, and what they proved", "还原记录与校验结果")) }
        @if shown.is_empty() { p { (language.of("There was none yet.", "暂无。")) } }
        @else {
            div.scroll tabindex="0" role="region" aria-labelledby="runs" {
                table.stack {
                    thead { tr {
                        th { (language.of("Volume", "卷")) } th.number { (language.of("Generation", "版本")) } th { (language.of("State", "状态")) }
                        th { (language.of("Begun", "开始")) } th { (language.of("Ended", "结束")) } th.number { (language.of("Written", "写入")) } th { (language.of("Proof", "证明")) }
                        @if known.operates { th { span.sr { (language.of("Actions", "操作")) } } }
                    } }
                    tbody { @for run in shown { (row(run, known, language)) } }
                }
            }
        }
    }
}

fn row(run: &RunLine, known: &Known, language: Language) -> Markup {
    let job = known.job_of(run).filter(|_| run.ended.is_none());
    let held = run.held.is_some() && job.is_none();
    let (mood, word) = say::run(&run.state, run.resting && job.is_none(), held, language);
    html! {
        tr {
            th scope="row" { (volume_link(&run.volume)) }
            td.number data-label=(language.of("Generation", "版本")) { (run.number) }
            td.wrap data-label=(language.of("State", "状态")) {
                span.chip.(mood) { (word) }
                @if let Some(job) = &job {
                    @if job.total > 0 { progress max=(job.total) value=(job.done) aria-label=(language.of("Progress", "进度")) {} }
                    p.small { a href={ "/jobs/" (job.number) } { (progress_text(job, language)) } }
                }
                @if let Some(why) = run.held.as_ref().filter(|_| job.is_none()) { p.small { (why) } }
                @if run.state == "given up" { p.small { (run.outcome) } }
                @if run.repaired { p.small { (language.of("It had been touched since it was written, and was written anew.", "目标曾被改动，已全部重写。")) } }
            }
            td data-label=(language.of("Begun", "开始")) { (moment(run.begun)) }
            td data-label=(language.of("Ended", "结束")) { @match run.ended { Some(at) => { (moment(at)) } None => { "–" } } }
            td.number data-label=(language.of("Written", "写入")) { (format::bytes(run.written)) }
            td.wrap data-label=(language.of("Proof", "证明")) { (proved(run, language)) }
            @if known.operates { td { @if run.ended.is_none() && job.is_none() { (go_on(run, language)) } } }
        }
    }
}

/// What was proved, and the signed statement of it.
fn proved(run: &RunLine, language: Language) -> Markup {
    html! {
        @if let Some(number) = run.statement { a href={ "/proofs/" (number) } { (language.of("Proof ", "证明 ")) (number) } " " }
        @if let Some(bytes) = run.compared { span.small { (format::bytes(bytes)) " " (language.of("compared", "已比对")) ": " (proof(&run.proof, language)) } }
        @if run.statement.is_none() { span.soft { "–" } }
    }
}

fn go_on(run: &RunLine, language: Language) -> Markup {
    let parts: Vec<&str> = run.volume.splitn(3, '/').collect();
    let [tenant, site, volume] = parts[..] else { return html! {} };
    html! {
        div.row {
            form data-api={ "/api/v1/volumes/" (escaped(tenant)) "/" (escaped(site)) "/" (escaped(volume)) "/rehydrate" } data-then="job" {
                input type="hidden" name="generation" value=(run.number);
                input type="hidden" name="target" value=(run.target);
                button.plain type="submit" { (language.of("Go on", "继续")) span.sr { " " (run.volume) } }
                (problem_place())
            }
            form data-api={ "/api/v1/runs/" (run.run) } data-method="DELETE" data-empty data-then="job" data-confirm=(language.of("Give this run up? What it wrote so far is removed from the target; points that are complete stay.", "放弃此次还原？已写入的部分将从目标清除，完整的恢复点保留。")) {
                button.plain type="submit" { (language.of("Give up", "放弃")) span.sr { " " (run.volume) } }
                (problem_place())
            }
        }
    }
}

// ---- what it holds

fn holds(known: &Known, language: Language) -> Markup {
    html! {
        h2 #points { (language.of("What it holds", "现有恢复点")) }
        @match known.newest(LOOK) {
            None => p { (language.of("The target was not asked since the gateway's start.", "网关启动后尚未查询目标。")) },
            Some((job, Some(Answer::Target(TargetAnswer::Points { points })))) => {
                p.small.soft { (language.of("As it said at ", "查询时间：")) (moment(UnixMillis(job.ended.unwrap_or(job.begun)))) }
                (point_table(&points, language))
            },
            Some((job, _)) => (unanswered(&job, language)),
        }
    }
}

fn unanswered(job: &JobView, language: Language) -> Markup {
    html! {
        @if job.state == "running" { p { span.chip.busy { (language.of("is asked now", "正在查询")) } " " a href={ "/jobs/" (job.number) } { (what(&job.what, language)) } } }
        @else { p.note.bad { (job.result.clone().unwrap_or_default()) " (" (moment(UnixMillis(job.ended.unwrap_or(job.begun)))) ")" } }
    }
}

fn point_table(points: &[PointLine], language: Language) -> Markup {
    html! {
        @if points.is_empty() { p { (language.of("Nothing: no generation is whole there yet.", "无：目标上还没有完整的版本。")) } }
        @else {
            div.scroll tabindex="0" role="region" aria-labelledby="points" {
                table.stack {
                    thead { tr {
                        th { (language.of("Volume", "卷")) } th.number { (language.of("Generation", "版本")) } th { (language.of("Captured", "捕获时间")) }
                        th { (language.of("Made there", "还原时间")) } th.number { (language.of("Size", "大小")) } th { (language.of("What the target calls it", "目标中的标识")) }
                    } }
                    tbody {
                        @for point in points.iter().rev().take(SHOWN_POINTS) {
                            tr {
                                th scope="row" { (volume_link(&point.volume)) }
                                td.number data-label=(language.of("Generation", "版本")) { (point.number) }
                                td data-label=(language.of("Captured", "捕获时间")) { (moment(point.captured)) }
                                td data-label=(language.of("Made there", "还原时间")) { (moment(point.made)) }
                                td.number data-label=(language.of("Size", "大小")) { (format::bytes(point.size)) }
                                td.wrap data-label=(language.of("What the target calls it", "目标中的标识")) { code.wrap { (point.point) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

// ---- what it is, and whether it can be used

fn facts(line: &TargetLine, language: Language) -> Markup {
    html! {
        h2 { (language.of("How it is set up", "设置")) }
        dl.facts {
            dt { (language.of("Kind", "类型")) } dd { (kinds::name(&line.kind, language)) }
            dt { (language.of("Where", "位置")) } dd { code.wrap { (place(line)) } }
            dt { (language.of("Credentials", "凭据")) } dd { (credentials(line, language)) }
            dt { (language.of("At most", "限制")) } dd { (limits(line, language)) }
            dt { (language.of("Proof", "校验方式")) } dd { (proof(&line.proof, language)) }
            dt { (language.of("Points kept of a volume", "每个卷保留恢复点")) } dd { @match line.keep { Some(keep) => { (keep) } None => { (language.of("as many as generations here", "与网关版本数相同")) } } }
            dt { (language.of("Set up", "设置时间")) } dd { (moment(line.made)) " " span.soft { (line.by) } }
        }
    }
}

fn tested(known: &Known, language: Language) -> Markup {
    html! {
        h2 { (language.of("Can it be used?", "是否可用")) }
        @match known.newest(TEST) {
            None => p { (language.of("It was not tested since the gateway's start.", "网关启动后尚未测试。")) },
            Some((job, Some(Answer::Target(TargetAnswer::Tested { description, .. })))) => {
                (checks(&description, language))
                p.small.soft { (language.of("Tested at ", "测试时间：")) (moment(UnixMillis(job.ended.unwrap_or(job.begun)))) }
            },
            Some((job, _)) => (unanswered(&job, language)),
        }
    }
}

fn checks(description: &Description, language: Language) -> Markup {
    html! {
        p { code.wrap { (description.place) } }
        ul.history {
            @for check in &description.checks {
                li {
                    @match &check.wrong {
                        None => { span.chip.good { (language.of("fine", "正常")) } " " (check.what) },
                        Some(wrong) => { span.chip.bad { (language.of("wrong", "异常")) } " " (check.what) p.small { (wrong) } },
                    }
                }
            }
        }
        @if let Some(room) = description.room { p { (language.of("Room: ", "剩余空间：")) (format::bytes(room)) } }
    }
}

fn remove(api: &str, language: Language) -> Markup {
    html! {
        section.card {
            h2 { (language.of("Remove it from the gateway", "从网关删除")) }
            p.small { (language.of("What it holds stays where it is. Possible once no volume is kept at the latest here and no run is open.", "目标上的内容保留不变。须先取消全部保持最新的卷，且没有未结束的还原。")) }
            form data-api=(api) data-method="DELETE" data-empty data-then="/targets" data-confirm=(language.of("Remove this target from the gateway?", "确定从网关删除此目标？")) {
                (problem_place())
                button.danger type="submit" { (language.of("Remove", "删除")) }
            }
        }
    }
}
