//! One volume: its generations as a timeline, how two differ, whether one is what was captured, and back to a disk.

use super::kept::{self, Copies};
use super::shell::{empty, escaped, problem_place};
use super::{Fault, Shell, Visitor};
use crate::access::Right;
use crate::admin::GenerationLine;
use crate::api::sites::with_site;
use crate::api::volumes::{Comparison, compared, full_name, lines};
use crate::jobs::JobView;
use crate::policies::timestamp;
use crate::web::Web;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::tz::TimeZone;
use look::{Language, format};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

/// Generations that the picture shows.
const DRAWN: usize = 60;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/volumes/{tenant}/{site}/{volume}", get(show))
}

#[derive(Deserialize)]
struct Two {
    from: Option<String>,
    to: Option<String>,
}

struct Place<'a> {
    tenant: &'a str,
    site: &'a str,
    volume: &'a str,
    zone: TimeZone,
    language: Language,
    /// The lineage of its generations.
    lineage: String,
}

async fn show(
    State(web): State<Arc<Web>>,
    visitor: Visitor,
    Path((tenant, site, volume)): Path<(String, String, String)>,
    Query(two): Query<Two>,
) -> Result<Response, Fault> {
    let name = match full_name(&tenant, &site, &volume) {
        Ok(name) => name,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let generations = match lines(&web, &visitor.caller, name.clone()).await {
        Ok(generations) => generations,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let wanted = name.clone();
    let known = with_site(&web, &visitor.caller, &tenant, &site, move |web, caller, tenant, site| {
        let row = web.state.catalogue.policy(site.id)?;
        let (_, lineage) = web.admin.find_volume(&wanted)?;
        let ruled = web.fleet.ruled(site.id, row.as_ref(), timestamp(web.state.now()));
        let zone = ruled.map_or(TimeZone::UTC, |ruled| ruled.policy.zone.clone());
        Ok((zone, lineage.id.to_string(), caller.require(Right::Operate, Some(tenant.id)).is_ok()))
    });
    let (zone, lineage, may_operate) = match known.await {
        Ok(known) => known,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let comparison = match (two.from, two.to) {
        (Some(from), Some(to)) => match compared(&web, &visitor.caller, (&tenant, &site, &volume), (from, to)).await {
            Ok(comparison) => Some(comparison),
            Err(problem) => return Err(visitor.fault(problem)),
        },
        _ => None,
    };
    let copies = match Copies::of(&web, &visitor.caller, (&tenant, &site, &volume)).await {
        Ok(copies) => copies,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    let place = Place { tenant: &tenant, site: &site, volume: &volume, zone, language, lineage };
    let jobs: Vec<JobView> =
        web.jobs.seen_by(&visitor.caller).iter().map(|job| job.view()).filter(|job| job.object == name).collect();
    let content = html! {
        div.head {
            h1 { a href={ "/sites/" (escaped(&tenant)) "/" (escaped(&site)) } { (site) } " / " (volume) }
        }
        @if generations.is_empty() {
            (empty(language.of("No generation yet", "还没有版本"), html! {
                p { (language.of("The first one appears here once it has arrived whole and its root came out right.", "第一个版本完整到达并通过校验后显示在这里。")) }
            }))
        } @else {
            section.card { (drawn(&generations, &place)) }
            section.card data-part="generations" { (table(&generations, &place)) }
            section.card data-part="targets" { (kept::section(&copies, may_operate, language)) }
            div.two {
                (compare_form(&generations, comparison.as_ref(), &place))
                @if may_operate { (act(&generations, &web, (&place, &copies))) }
            }
            @if may_operate && generations.len() > 1 { (forget(&generations, &place)) }
            @if !jobs.is_empty() { section.card data-part="jobs" { (job_list(&jobs, language)) } }
        }
    };
    let follows = format!("{tenant}/{site}");
    let title = format!("{site} / {volume}");
    Ok(Shell { visitor: &visitor, title: &title, place: "/", follows: Some(&follows), content }
        .render()
        .into_response())
}

/// Each generation as two bars: what was new, and what travelled for it.
fn drawn(generations: &[GenerationLine], place: &Place<'_>) -> Markup {
    let shown = &generations[generations.len().saturating_sub(DRAWN)..];
    // The seed would dwarf all that follows.
    let deltas = || shown.iter().skip(usize::from(shown.len() > 1 && shown.len() == generations.len()));
    let most = deltas().map(|line| line.new_bytes.max(line.coded_bytes)).max().unwrap_or(0).max(1);
    let height = |bytes: u64| (u128::from(bytes) * 100 / u128::from(most)).min(100).max(u128::from(bytes > 0)) as u64;
    // A few generations are bars too, and no walls.
    let width = shown.len().max(20) * 10;
    let language = place.language;
    html! {
        h2 { (language.of("Generations", "版本")) }
        svg.generations viewBox={ "0 0 " (width) " 100" } preserveAspectRatio="none" aria-hidden="true" {
            @for (at, line) in shown.iter().enumerate() {
                rect.new x=(at * 10 + 1) y=(100 - height(line.new_bytes)) width="4" height=(height(line.new_bytes)) {}
                rect.(if line.sealed.is_some() { "wire" } else { "bad" }) x=(at * 10 + 5) y=(100 - height(line.coded_bytes)) width="4" height=(height(line.coded_bytes)) {}
            }
        }
        p.small.soft {
            span.key.f {} (language.of("new bytes", "新增数据")) " " span.key.a {} (language.of("bytes on the line", "线路传输量")) ". "
            (language.of("Up to ", "最高 ")) (format::bytes(most))
        }
    }
}

fn table(generations: &[GenerationLine], place: &Place<'_>) -> Markup {
    let language = place.language;
    let at = |millis: u64| {
        let at = jiff::Timestamp::from_millisecond(i64::try_from(millis).unwrap_or(0)).unwrap_or_default();
        format::full_moment(at, &place.zone)
    };
    html! {
        div.scroll tabindex="0" role="region" aria-label=(language.of("Generations", "版本")) {
            table.stack {
                thead { tr {
                    th.number { "#" } th { (language.of("Captured", "捕获时间")) } th { (language.of("Verified here", "网关校验")) }
                    th.number { (language.of("Size", "大小")) } th.number { (language.of("New", "新增")) }
                    th.number { (language.of("On the line", "传输量")) } th { (language.of("Root (BLAKE3)", "根哈希（BLAKE3）")) }
                } }
                tbody {
                    @for line in generations.iter().rev() {
                        tr {
                            td.number data-label="#" { (line.number) }
                            td data-label=(language.of("Captured", "捕获时间")) { (at(line.captured.0)) }
                            td data-label=(language.of("Verified here", "网关校验")) {
                                @match line.sealed {
                                    Some(sealed) => { span.chip.good { (at(sealed.0)) } }
                                    None => { span.chip.busy { (language.of("arriving", "到达中")) } }
                                }
                            }
                            td.number data-label=(language.of("Size", "大小")) { (format::bytes(line.size)) }
                            td.number data-label=(language.of("New", "新增")) { (format::bytes(line.new_bytes)) }
                            td.number data-label=(language.of("On the line", "传输量")) { (format::bytes(line.coded_bytes)) }
                            td data-label=(language.of("Root", "根哈希")) { code.mono.wrap { (line.root.as_deref().unwrap_or("–")) } }
                        }
                    }
                }
            }
        }
        p.hint { (language.of("A root is what `b3sum` prints for the volume's image.", "根哈希与对卷镜像执行 `b3sum` 的结果一致。")) " " (place.zone.iana_name().unwrap_or("UTC")) ". "
            (language.of("All of them are one lineage: ", "以上版本属于同一谱系：")) code.mono.wrap { (place.lineage) } }
    }
}

fn choices(name: &str, id: &str, generations: &[GenerationLine], chosen: Option<u64>) -> Markup {
    html! {
        select id=(id) name=(name) required {
            @for line in generations.iter().rev().filter(|line| line.sealed.is_some()) {
                option value=(line.number) selected[chosen == Some(line.number)] { (line.number) }
            }
        }
    }
}

fn compare_form(generations: &[GenerationLine], comparison: Option<&Comparison>, place: &Place<'_>) -> Markup {
    let language = place.language;
    let sealed: Vec<u64> = generations.iter().filter(|line| line.sealed.is_some()).map(|line| line.number).collect();
    let before_last = sealed.len().checked_sub(2).and_then(|at| sealed.get(at)).copied();
    html! {
        section.card {
            h2 { (language.of("Compare two", "对比两个版本")) }
            form method="get" {
                div.fields {
                    div.field {
                        label for="from" { (language.of("From", "从")) }
                        (choices("from", "from", generations, comparison.map(|done| done.from).or(before_last)))
                    }
                    div.field {
                        label for="to" { (language.of("To", "到")) }
                        (choices("to", "to", generations, comparison.map(|done| done.to).or(sealed.last().copied())))
                    }
                }
                button.plain type="submit" disabled[sealed.len() < 2] { (language.of("Compare", "对比")) }
            }
            @if let Some(done) = comparison { (difference(done, language)) }
        }
    }
}

fn forget(generations: &[GenerationLine], place: &Place<'_>) -> Markup {
    let (language, path) =
        (place.language, format!("{}/{}/{}", escaped(place.tenant), escaped(place.site), escaped(place.volume)));
    html! {
        section.card {
            details {
                summary { (language.of("Delete a generation", "删除版本")) }
                p.small { (language.of("Nobody deletes alone, and nothing is deleted at once: this asks a second person; then a delay passes in which it stands on the page of retention and can be cancelled. What a lock holds cannot be deleted.", "删除不能由一人完成，也不会立即执行：提交后须由另一人同意，再经过等待期；期间显示在“保留”页面并可取消。被锁定的版本无法删除。")) }
                form data-api={ "/api/v1/volumes/" (path) "/generations/{generation}/forget" }
                    data-confirm=(language.of("Ask to delete this generation for good?", "确定申请永久删除此版本？")) {
                    div.field {
                        label for="forget-generation" { (language.of("Generation", "版本")) }
                        (choices("generation", "forget-generation", generations, None))
                    }
                    (super::retention::reason("forget", language))
                    (problem_place())
                    button.danger type="submit" { (language.of("Ask to delete it", "申请删除")) }
                }
            }
        }
    }
}

fn difference(done: &Comparison, language: Language) -> Markup {
    let most = done.parts.iter().copied().max().unwrap_or(0).max(1);
    let changed = done.data + done.zeroes;
    let share = changed as f64 * 100.0 / done.size.max(1) as f64;
    html! {
        p {
            (language.of(format!("From {} to {}: ", done.from, done.to), format!("从 {} 到 {}：", done.from, done.to)))
            strong { (format::bytes(changed)) } (language.of(" differ", " 不同")) (format!(" ({share:.2} %), "))
            (format::bytes(done.zeroes)) (language.of(" of them became zeroes.", " 变为零。"))
        }
        svg.parts viewBox={ "0 0 " (done.parts.len()) " 100" } preserveAspectRatio="none" role="img"
            aria-label=(language.of("Where on the volume they differ", "差异在卷上的分布")) {
            @for (at, bytes) in done.parts.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
                @let height = (bytes * 100 / most).max(4);
                rect x=(at) y=(100 - height) width="1" height=(height) {}
            }
        }
        p.hint { (language.of("From the volume's beginning to its end.", "从卷首到卷尾。")) }
    }
}

fn act(generations: &[GenerationLine], web: &Web, (place, copies): (&Place<'_>, &Copies)) -> Markup {
    let language = place.language;
    let api = format!("/api/v1/volumes/{}/{}/{}", escaped(place.tenant), escaped(place.site), escaped(place.volume));
    let targets = &web.config.targets;
    html! {
        div {
            section.card {
                h2 { (language.of("Verify", "校验")) }
                p.small { (language.of("Reads the generation from the store and compares it with its root.", "从存储读取该版本并与根哈希比对。")) }
                form data-api={ (api) "/verify" } data-then="job" {
                    div.field { label for="verify" { (language.of("Generation", "版本")) } (choices("generation", "verify", generations, None)) }
                    (problem_place())
                    button type="submit" { (language.of("Verify", "校验")) }
                }
            }
            (kept::rehydrate(copies, generations, choices("generation", "target-generation", generations, None), language))
            section.card {
                h2 { (language.of("Rehydrate to a file or device", "还原到文件或设备")) }
                @if targets.is_empty() {
                    p { (language.of("No folder for targets is set in the gateway's configuration. On the gateway itself:", "网关配置中没有设置还原目录。可在网关主机上执行：")) }
                    pre { "sluice-gateway rehydrate --volume " (place.site) "/" (place.volume) " --to FILE" }
                } @else {
                    form data-api={ (api) "/rehydrate" } data-then="job" {
                        div.field { label for="rehydrate" { (language.of("Generation", "版本")) } (choices("generation", "rehydrate", generations, None)) }
                        div.field {
                            label for="to-path" { (language.of("To this file or block device of the gateway", "网关上的目标文件或块设备")) }
                            input #to-path name="to" required maxlength="4096" value={ (targets[0].display()) "/" (place.site) "-" (place.volume) ".img" };
                        }
                        div.field { label.check { input type="checkbox" name="quick" data-type="bool"; (language.of("Read back only what was written", "仅回读本次写入的部分")) } }
                        (problem_place())
                        button type="submit" { (language.of("Rehydrate", "还原")) }
                    }
                }
            }
        }
    }
}

fn job_list(jobs: &[JobView], language: Language) -> Markup {
    html! {
        h2 { (language.of("Jobs", "任务")) }
        ul.history { @for job in jobs.iter().take(5) { @let (class, state) = super::jobs::state(&job.state, language); li { a href={ "/jobs/" (job.number) } { "#" (job.number) " " (super::jobs::what(&job.what, language)) } " " span.chip.(class) { (state) } } } }
    }
}
