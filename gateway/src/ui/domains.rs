//! Domains: which machines stand on what targets hold, what they do, and how a further one is defined.

use super::parts::{beside, moment, volume_link};
use super::shell::{empty, escaped, problem_place};
use super::{Fault, Shell, Visitor};
use crate::access::{Caller, Right};
use crate::admin::DomainLine;
use crate::admin::targets::{RunLine, TargetLine};
use crate::api::Problem;
use crate::api::domains::{BUSES, MEMORY, PROCESSORS, domain_lines, templates};
use crate::api::targets::{run_lines, target_lines};
use crate::web::Web;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use look::Language;
use maud::{Markup, html};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Disks that the form has fields for; the API and the command take more.
const DISKS: usize = 4;
/// Points of a target that are offered.
const MOST_POINTS: usize = 200;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/domains", get(show))
}

/// A target on which a machine can stand, and the points that runs put there: as requests name them, newest first.
struct Ground {
    line: TargetLine,
    points: Vec<String>,
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let (domains, grounds) = match known(&web, &visitor.caller).await {
        Ok(known) => known,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let operates = visitor.has(Right::Operate);
    let may = operates && web.config.libvirt.is_some();
    let (language, title) = (visitor.language, visitor.language.of("Domains", "虚拟机"));
    let content = html! {
        (beside("/domains", language))
        div.head { div {
            h1 { (title) }
            p.soft { (language.of(
                "Machines of libvirt that boot from what a target holds. What a machine writes goes to an overlay that is thrown away with it; the copy on the target stays what it was proved to be.",
                "从目标上的副本启动的 libvirt 虚拟机。虚拟机写入的内容单独存放，随虚拟机一并删除；目标上的副本保持校验时的内容。",
            )) }
        } }
        @if operates && web.config.libvirt.is_none() {
            p.note { (language.of("Machines can be steered from here once the gateway's configuration says where libvirt is: ", "在网关配置中指定 libvirt 后，方可在此操作虚拟机："))
                code { "libvirt = \"qemu:///system\"" } (language.of(" under ", "，位于 ")) code { "[web]" } (language.of(". Until then: ", "。在此之前请使用：")) code { "sluice-gateway domain" } }
        }
        div data-part="domains" data-again="10" {
            @if domains.is_empty() {
                (empty(language.of("No domain is defined", "没有虚拟机"), html! {
                    @if may { p { (language.of("Define one below on what a target holds. It is started only when somebody presses Start.", "请在下方基于目标上的副本定义虚拟机。只有点击“启动”才会启动。")) } }
                    @else if !operates { p { (language.of("Domains are defined by operators.", "虚拟机由操作员定义。")) } }
                }))
            } @else {
                (trouble(&domains, language))
                div.scroll tabindex="0" role="region" aria-label=(title) { (table(&domains, may, language)) }
            }
        }
        @if may { (define(&grounds, &web, language)) }
    };
    Ok(Shell { visitor: &visitor, title, place: "/domains", follows: None, content }.render().into_response())
}

async fn known(web: &Web, caller: &Caller) -> Result<(Vec<DomainLine>, Vec<Ground>), Problem> {
    let domains = domain_lines(web, caller).await?;
    let runs = run_lines(web, caller).await?;
    let mut targets = target_lines(web, caller).await?;
    targets.retain(|line| matches!(line.kind.as_str(), "raw" | "device" | "qcow2"));
    let grounds = targets.into_iter().map(|line| Ground { points: points(&line, &runs), line }).collect();
    Ok((domains, grounds))
}

/// What runs put on a target: `SITE/VOLUME`, the newest point of it, and where each generation stays a point, `SITE/VOLUME@NUMBER` of those before.
fn points(target: &TargetLine, runs: &[RunLine]) -> Vec<String> {
    let of_tenant = format!("{}/", target.tenant);
    let mut seen = BTreeSet::new();
    let there = runs.iter().filter(|run| run.target == target.target && run.state == "finished");
    let named = there.filter_map(|run| {
        let volume = run.volume.strip_prefix(&of_tenant)?;
        match seen.insert((volume.to_owned(), None)) {
            true => Some(volume.to_owned()),
            false if target.kind != "qcow2" => None,
            false => seen.insert((volume.to_owned(), Some(run.number))).then(|| format!("{volume}@{}", run.number)),
        }
    });
    named.take(MOST_POINTS).collect()
}

fn trouble(domains: &[DomainLine], language: Language) -> Markup {
    let said: BTreeSet<&str> = domains.iter().filter_map(|line| line.trouble.as_deref()).collect();
    html! {
        @for why in said {
            p.note.bad { (language.of("Libvirt does not answer, so it is not known what machines do: ", "libvirt 没有响应，无法获知虚拟机状态：")) (why) }
        }
    }
}

fn table(domains: &[DomainLine], may: bool, language: Language) -> Markup {
    html! {
        table.stack {
            thead { tr {
                th { (language.of("Domain", "虚拟机")) } th { (language.of("State", "状态")) } th { (language.of("Disks: volume and generation", "磁盘：卷与版本")) }
                th { (language.of("On target", "所在目标")) } th { (language.of("Defined", "定义")) }
                @if may { th { span.sr { (language.of("Actions", "操作")) } } }
            } }
            tbody {
                @for line in domains {
                    @let (mood, word) = state(&line.state, language);
                    tr {
                        th.wrap scope="row" { (line.name) }
                        td data-label=(language.of("State", "状态")) { span.chip.(mood) { (word) } }
                        td.wrap data-label=(language.of("Disks: volume and generation", "磁盘：卷与版本")) {
                            @for disk in &line.disks {
                                @let (volume, number) = disk.rsplit_once('@').unwrap_or((disk, ""));
                                div { (volume_link(volume)) " " span.small { (language.of("generation ", "版本 ")) (number) } }
                            }
                        }
                        td.wrap data-label=(language.of("On target", "所在目标")) { a href={ "/targets/" (escaped(&line.tenant)) "/" (escaped(&line.target)) } { (line.target) } }
                        td data-label=(language.of("Defined", "定义")) { (moment(line.since)) " " span.small.soft { (line.by) } }
                        @if may { td { (act(line, language)) } }
                    }
                }
            }
        }
    }
}

/// A state in libvirt's words, for people.
fn state(word: &str, language: Language) -> (&'static str, String) {
    let (mood, text) = match word {
        "running" => ("good", language.of("running", "运行中")),
        "idle" => ("good", language.of("idle", "空闲")),
        "paused" => ("warn", language.of("paused", "已暂停")),
        "in shutdown" => ("busy", language.of("shutting down", "正在关机")),
        "shut off" => ("", language.of("off", "已关机")),
        "crashed" => ("bad", language.of("crashed", "已崩溃")),
        "pmsuspended" => ("warn", language.of("suspended", "已挂起")),
        "gone" => ("bad", language.of("not known to libvirt", "libvirt 中不存在")),
        "unknown" => ("warn", language.of("unknown", "未知")),
        other => return ("", other.to_owned()),
    };
    (mood, text.to_owned())
}

fn act(line: &DomainLine, language: Language) -> Markup {
    let api = format!("/api/v1/domains/{}", escaped(&line.name));
    let name = html! { span.sr { " " (line.name) } };
    let start = language.of("Start this machine?", "启动此虚拟机？");
    let remove = language.of(
        "End this machine as pulling the plug does, and remove it with everything that it wrote? The copy on the target stays.",
        "强制关闭并删除此虚拟机及其写入的全部内容？目标上的副本保留不变。",
    );
    html! {
        div.row {
            @if line.state == "shut off" {
                form data-api={ (api) "/start" } data-empty data-confirm=(start) {
                    button.plain type="submit" { (language.of("Start", "启动")) (name) }
                    (problem_place())
                }
            }
            form data-api=(api) data-method="DELETE" data-empty data-confirm=(remove) {
                button.danger type="submit" { (language.of("Remove", "删除")) (name) }
                (problem_place())
            }
        }
    }
}

fn define(grounds: &[Ground], web: &Web, language: Language) -> Markup {
    let (filled, bare): (Vec<&Ground>, Vec<&Ground>) = grounds.iter().partition(|ground| !ground.points.is_empty());
    let templates = templates(&web.config);
    html! {
        section.card {
            h2 { (language.of("Define a domain", "定义虚拟机")) }
            @if filled.is_empty() {
                p { (language.of("No target holds a disk yet that a machine could boot from: rebuild a generation on a folder of raw files, a block device, or qcow2 first.", "还没有目标包含可启动的磁盘：请先将版本还原到 raw 文件目录、块设备或 qcow2 目标。")) }
            }
            @for ground in filled { (form(ground, &templates, language)) }
            @if !bare.is_empty() {
                p.hint { (language.of("Nothing was rebuilt yet on: ", "尚未还原任何内容的目标：")) (bare.iter().map(|ground| ground.line.target.as_str()).collect::<Vec<_>>().join(", ")) }
            }
        }
    }
}

fn form(ground: &Ground, templates: &[String], language: Language) -> Markup {
    let line = &ground.line;
    let id = |field: &str| format!("{}-{}-{field}", line.tenant, line.target);
    html! {
        details {
            summary { (language.of("on target ", "基于目标 ")) (line.target) " " span.soft { (line.tenant) } }
            form data-api="/api/v1/domains" data-confirm=(language.of("Define this machine? It is not started.", "定义此虚拟机？不会自动启动。")) {
                input type="hidden" name="tenant" value=(line.tenant);
                input type="hidden" name="target" value=(line.target);
                div.fields {
                    div.field {
                        label for=(id("name")) { (language.of("Name", "名称")) }
                        input id=(id("name")) name="name" required maxlength="100" autocomplete="off" autocapitalize="none" spellcheck="false";
                    }
                    @for at in 0..DISKS.min(ground.points.len()) {
                        @let disk = id(&format!("disk-{at}"));
                        div.field {
                            label for=(disk) { @if at == 0 { (language.of("Boots from", "启动盘")) } @else { (language.of("Further disk", "其他磁盘")) " " (at) } }
                            select id=(disk) name="volumes" data-type="list" required[at == 0] {
                                @if at > 0 { option value="" { (language.of("none", "无")) } }
                                @for point in &ground.points { option value=(point) { (offer(point, language)) } }
                            }
                        }
                    }
                    div.field {
                        label for=(id("memory")) { (language.of("Memory (MiB)", "内存（MiB）")) }
                        input id=(id("memory")) name="memory" type="number" data-type="number" min="1" max="4194304" value=(MEMORY);
                    }
                    div.field {
                        label for=(id("processors")) { (language.of("Processors", "处理器数")) }
                        input id=(id("processors")) name="processors" type="number" data-type="number" min="1" max="1024" value=(PROCESSORS);
                    }
                    div.field {
                        label for=(id("bus")) { (language.of("Disks hang on", "磁盘总线")) }
                        select id=(id("bus")) name="bus" { @for bus in BUSES { option value=(bus) { (bus) } } }
                    }
                    @if !templates.is_empty() {
                        div.field {
                            label for=(id("template")) { (language.of("Template", "模板")) }
                            select id=(id("template")) name="template" {
                                option value="" { (language.of("built-in: BIOS, no network", "内置：BIOS，无网络")) }
                                @for name in templates { option value=(name) { (name) } }
                            }
                        }
                    }
                }
                (problem_place())
                button type="submit" { (language.of("Define", "定义")) }
            }
        }
    }
}

/// A point as the form offers it.
fn offer(point: &str, language: Language) -> String {
    match point.split_once('@') {
        Some((volume, number)) => format!("{volume}, {} {number}", language.of("generation", "版本")),
        None => format!("{point}, {}", language.of("newest", "最新")),
    }
}
