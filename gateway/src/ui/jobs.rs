//! Long work with its progress, and what works in the background.

use super::parts::moment;
use super::shell::{empty, problem_place};
use super::{Fault, Shell, Visitor};
use crate::access::{Right, Scope};
use crate::api::Problem;
use crate::jobs::{Job, JobView};
use crate::ui::shell::escaped;
use crate::web::Web;
use crate::workers::WorkerView;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dedupe::UnixMillis;
use look::{Language, format};
use maud::{Markup, html};
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/jobs", get(list)).route("/jobs/{number}", get(one))
}

async fn list(State(web): State<Arc<Web>>, visitor: Visitor) -> Response {
    let (language, title) = (visitor.language, visitor.language.of("Jobs", "任务"));
    let jobs = web.jobs.seen_by(&visitor.caller);
    let whole = visitor.caller.scope == Scope::Whole;
    let sets = whole && visitor.has(Right::Administer);
    let content = html! {
        div.head {
            div {
                h1 { (title) }
                p.soft { (language.of("What somebody asked for, and what the gateway does by itself. Jobs are forgotten when the gateway restarts; the audit log keeps who asked.", "由人发起的任务，以及网关自动执行的后台任务。网关重启后任务列表清空，发起记录保留在审计日志中。")) }
            }
            @if sets {
                div.row {
                    (begin("scrub", language.of("Scrub now", "立即巡检"), language.of("Read everything stored, at full speed, and name what is damaged?", "全速读取全部存储数据并检查损坏？")))
                    (begin("gc", language.of("Give room back now", "立即回收空间"), language.of("Give back what no generation needs, at full speed?", "全速回收所有版本均不再需要的空间？")))
                }
            }
        }
        @if jobs.is_empty() {
            (empty(language.of("No jobs yet", "还没有任务"), html! {
                p { (language.of("Verifying and rehydrating a generation are jobs: begin them on the page of a volume.", "校验和还原版本会产生任务，请在卷页面发起。")) " " a href="/" { (language.of("To the fleet", "前往站点总览")) } }
            }))
        } @else {
            div.scroll data-part="jobs" data-again="3" tabindex="0" role="region" aria-label=(title) { (table(&jobs, &visitor)) }
        }
        @if whole {
            section.card {
                h2 { (language.of("In the background", "后台任务")) }
                p.small.soft { (language.of("Tranquillity: the share of the disk's time that a worker may take, so that edges come first. It counts from the next store on.", "占用上限：后台任务可占用的磁盘时间比例，优先保证边缘设备。从下一个存储开始生效。")) }
                div data-part="workers" data-again="10" { (workers(&web.admin.workers(), sets, language)) }
            }
        }
    };
    Shell { visitor: &visitor, title, place: "/jobs", follows: None, content }.render().into_response()
}

fn begin(what: &str, name: &str, sure: &str) -> Markup {
    html! {
        form data-api="/api/v1/jobs" data-then="job" data-confirm=(sure) {
            input type="hidden" name="job" value=(what);
            button.plain type="submit" { (name) }
            (problem_place())
        }
    }
}

fn table(jobs: &[Arc<Job>], visitor: &Visitor) -> Markup {
    let language = visitor.language;
    html! {
        table.stack {
            thead { tr {
                th.number { "#" } th { (language.of("What", "内容")) } th { (language.of("State", "状态")) } th { (language.of("Progress", "进度")) }
                th { (language.of("Begun", "开始")) } th { (language.of("By", "发起人")) } th { span.sr { (language.of("Actions", "操作")) } }
            } }
            tbody {
                @for job in jobs {
                    @let view = job.view();
                    @let (class, word) = state(&view.state, language);
                    tr {
                        td.number data-label="#" { a href={ "/jobs/" (view.number) } { (view.number) } }
                        td data-label=(language.of("What", "内容")) { a href={ "/jobs/" (view.number) } { (what(&view.what, language)) } @if !view.object.is_empty() { " " (view.object) } }
                        td data-label=(language.of("State", "状态")) { span.chip.(class) { (word) } }
                        td data-label=(language.of("Progress", "进度")) {
                            @if view.state == "running" { @if view.total > 0 { progress max=(view.total) value=(view.done) {} } span.small { (progress_text(&view, language)) } }
                            @else { span.small.soft { (job.outcome(language).or(view.result.clone()).unwrap_or_default().lines().next().unwrap_or_default()) } }
                        }
                        td data-label=(language.of("Begun", "开始")) { (moment(UnixMillis(view.begun))) }
                        td data-label=(language.of("By", "发起人")) { (view.by) }
                        td { @if view.state == "running" && may_stop(job, visitor) { (stop(view.number, language)) } }
                    }
                }
            }
        }
    }
}

fn may_stop(job: &Job, visitor: &Visitor) -> bool {
    let right = if job.tenant().is_some() { Right::Operate } else { Right::Administer };
    visitor.may(right, job.tenant())
}

fn stop(number: u64, language: Language) -> Markup {
    html! {
        form data-api={ "/api/v1/jobs/" (number) } data-method="DELETE" data-empty data-confirm=(language.of("Stop this job at its next step?", "确定在下一步停止此任务？")) {
            button.plain type="submit" { (language.of("Stop", "停止")) }
            (problem_place())
        }
    }
}

fn workers(workers: &[WorkerView], sets: bool, language: Language) -> Markup {
    html! {
        table.stack {
            thead { tr {
                th { (language.of("Worker", "后台任务")) } th { (language.of("What it does", "状态")) } th { (language.of("Done last", "最近完成")) } th { (language.of("Share of the disk's time", "磁盘时间占用上限")) }
            } }
            tbody {
                @for worker in workers {
                    tr {
                        th scope="row" { (worker_name(worker.name, language)) }
                        td data-label=(language.of("What it does", "状态")) { @if worker.working { span.chip.busy { (worker.said.of(language)) } } @else { (worker.said.of(language)) } }
                        td data-label=(language.of("Done last", "最近完成")) { @match worker.last { Some(at) => { (moment(at)) } None => { "–" } } }
                        td data-label=(language.of("Share of the disk's time", "磁盘时间占用上限")) { @match worker.share { Some(share) => { (tranquillity(worker.name, share, sets, language)) } None => { "–" } } }
                    }
                }
            }
        }
    }
}

fn tranquillity(name: &str, share: u8, sets: bool, language: Language) -> Markup {
    let id = format!("share-{name}");
    html! {
        @if sets {
            form data-api={ "/api/v1/workers/" (escaped(name)) "/tranquillity" } data-method="PUT" {
                label.sr for=(id) { (language.of("Per cent of the disk's time", "磁盘时间百分比")) }
                div.row {
                    input.short id=(id) name="share" type="number" data-type="number" required min="1" max="100" value=(share);
                    span { "%" }
                    button.plain type="submit" { (language.of("Set", "设置")) }
                }
                (problem_place())
            }
        } @else { (share) " %" }
    }
}

async fn one(State(web): State<Arc<Web>>, visitor: Visitor, Path(number): Path<u64>) -> Result<Response, Fault> {
    let language = visitor.language;
    let Some(job) = web.jobs.of(number, &visitor.caller) else {
        let detail = language.of(
            format!("There is no job {number}. Jobs are forgotten when the gateway restarts."),
            format!("没有任务 {number}。网关重启后任务列表会清空。"),
        );
        return Err(visitor.fault(Problem::missing(detail)));
    };
    let (view, title) = (job.view(), format!("{} #{number}", language.of("Job", "任务")));
    let (class, word) = state(&view.state, language);
    let running = view.state == "running";
    let outcome = job.outcome(language);
    let content = html! {
        div.head {
            div {
                h1 { (what(&view.what, language)) " " span.soft { "#" (number) } }
                @if !view.object.is_empty() { p.big { (object(&view)) } }
            }
            a.button.plain href="/jobs" { (language.of("All jobs", "全部任务")) }
        }
        section.card data-part="job" aria-live="polite" {
            p { span.chip.(class) { (word) } }
            @if running {
                div data-job=(number) {
                    progress max=(view.total.max(1)) value=(view.done) aria-label=(language.of("Progress", "进度")) {}
                    p.job-text { (progress_text(&view, language)) }
                    noscript { p.hint { (language.of("Load the page again to see how far it is.", "重新加载页面以查看进度。")) } }
                }
                @if may_stop(&job, &visitor) { (stop(number, language)) }
            } @else {
                @if let Some(said) = &outcome { p.note.(if job.found_wrong() { "bad" } else { "good" }) { @for line in said.lines() { (line) br; } } }
                @else if let Some(why) = &view.result { p.note.(if view.state == "failed" { "bad" } else { "warn" }) { @if view.state == "cancelled" { (language.of("It was stopped. What was written so far is no whole generation.", "任务已停止，已写入的内容不是完整版本。")) } @else { (why) } } }
            }
            dl.facts {
                dt { (language.of("Begun", "开始")) } dd { (moment(UnixMillis(view.begun))) }
                @if let Some(ended) = view.ended {
                    dt { (language.of("Ended", "结束")) } dd { (moment(UnixMillis(ended))) " (" (format::duration(ended.saturating_sub(view.begun) / 1000, language)) ")" }
                }
                dt { (language.of("By", "发起人")) } dd { (view.by) }
                @if view.written > 0 { dt { (language.of("Written", "已写入")) } dd { (format::bytes(view.written)) } }
            }
        }
    };
    Ok(Shell { visitor: &visitor, title: &title, place: "/jobs", follows: None, content }.render().into_response())
}

/// What it is about; the page of the volume, where it is one.
fn object(view: &JobView) -> Markup {
    let parts: Vec<&str> = view.object.split('/').collect();
    html! {
        @if let [tenant, site, volume] = parts[..] {
            a href={ "/volumes/" (escaped(tenant)) "/" (escaped(site)) "/" (escaped(volume)) } { (site) " / " (volume) }
        } @else if let ([tenant, target], true) = (&parts[..], view.what.starts_with("target.")) {
            a href={ "/targets/" (escaped(tenant)) "/" (escaped(target)) } { (target) }
        } @else { (view.object) }
        @if let Some(to) = &view.to { " → " (to) }
    }
}

pub(super) fn what(word: &str, language: Language) -> &str {
    match word {
        "volume.verify" => language.of("Verify", "校验"),
        "volume.rehydrate" => language.of("Rehydrate", "还原"),
        "target.test" => language.of("Test a target", "测试目标"),
        "target.look" => language.of("Ask a target what it holds", "查询目标恢复点"),
        "target.give-up" => language.of("Give a run up", "放弃还原"),
        "release.import" => language.of("Import a release", "导入发行版"),
        "gateway.gc" => language.of("Give room back", "回收空间"),
        "gateway.scrub" => language.of("Scrub", "存储巡检"),
        other => other,
    }
}

pub(super) fn state(word: &str, language: Language) -> (&'static str, &'static str) {
    match word {
        "running" => ("busy", language.of("running", "进行中")),
        "done" => ("good", language.of("done", "完成")),
        "cancelled" => ("warn", language.of("stopped", "已停止")),
        _ => ("bad", language.of("failed", "失败")),
    }
}

fn worker_name(word: &str, language: Language) -> &str {
    match word {
        "figures" => language.of("figures of stores", "存储统计"),
        "sites" => language.of("figures of sites", "站点统计"),
        "retention" => language.of("retention", "版本保留"),
        "collection" => language.of("collection (gives room back)", "空间回收"),
        "scrub" => language.of("scrub (reads everything again)", "存储巡检"),
        "grants" => language.of("grants", "带宽分配"),
        "words" => language.of("what edges told", "保存设备上报"),
        "certificate" => language.of("certificate", "证书更新"),
        other => other,
    }
}

/// How far it is, as the scripts say it too.
pub(super) fn progress_text(view: &JobView, language: Language) -> String {
    let mut parts = vec![phase(&view.phase, language).to_owned()];
    if view.total > 0 {
        parts.push(format!("{} / {}", format::bytes(view.done), format::bytes(view.total)));
    }
    if let Some(rate) = view.rate {
        parts.push(format!("{}/s", format::bytes(rate)));
    }
    if let Some(left) = view.seconds_left {
        parts.push(format!("{} {}", language.of("left", "剩余"), format::duration(left, language)));
    }
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() { language.of("begins", "即将开始").to_owned() } else { parts.join(" · ") }
}

fn phase(word: &str, language: Language) -> &str {
    match word {
        "writing" => language.of("writing", "正在写入"),
        "looking at the target" => language.of("looking at the target", "正在检查目标"),
        "preparing the target" => language.of("preparing the target", "正在准备目标"),
        "making it a restorable point" => language.of("making it a restorable point", "正在生成恢复点"),
        "asking the target" => language.of("asking the target", "正在查询目标"),
        "reading back" => language.of("reading back", "正在回读校验"),
        "writing anew" => language.of("writing anew", "正在重新写入"),
        "reading the store" => language.of("reading the store", "正在读取存储"),
        "reading packs" => language.of("reading packs", "正在读取数据包"),
        "looking for what nothing needs" => language.of("looking for what nothing needs", "正在查找无用数据"),
        "giving room back" => language.of("giving room back", "正在释放空间"),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_said_as_far_as_it_is_known() {
        let mut view = JobView {
            number: 1,
            what: "volume.verify".into(),
            object: "bank/b1/<script>".into(),
            to: None,
            by: "li".into(),
            begun: 0,
            state: "running".into(),
            phase: String::new(),
            done: 0,
            total: 0,
            written: 0,
            rate: None,
            seconds_left: None,
            ended: None,
            result: None,
        };
        assert_eq!(progress_text(&view, Language::English), "begins");
        (view.phase, view.done, view.total) = ("reading the store".into(), 5_000_000, 10_000_000);
        (view.rate, view.seconds_left) = (Some(1_000_000), Some(5));
        assert_eq!(progress_text(&view, Language::Chinese), "正在读取存储 · 5.0 MB / 10.0 MB · 1.0 MB/s · 剩余 5 秒");
        let drawn = object(&view).into_string();
        assert!(drawn.contains("/volumes/bank/b1/%3Cscript%3E") && !drawn.contains("<script>"), "{drawn}");
    }
}
