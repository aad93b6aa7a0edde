//! Which site runs which version, the releases that are here, and how the roll-out stands.

mod rollout;
pub(super) mod say;

use super::parts::{moment, site_link};
use super::shell::{empty, escaped, problem_place};
use super::{Fault, Shell, Visitor};
use crate::access::{Right, Scope};
use crate::admin::{ReleaseLine, RolloutLine, RolloutRequest, VersionLine};
use crate::api::releases::{release_lines, version_lines};
use crate::api::rollouts::{RolloutView, rollout_lines, view};
use crate::web::Web;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use look::{Language, format};
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Units of the picture's width.
const WIDTH: usize = 1000;
/// Versions that have a colour of their own; older ones share the last.
const COLOURS: usize = 8;
/// Roll-outs that are shown.
const ROLLOUTS: usize = 20;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/versions", get(show)).route("/rollouts/{number}", get(rollout::show))
}

/// Everything that the page shows.
struct Known {
    releases: Vec<ReleaseLine>,
    sites: Vec<VersionLine>,
    rollouts: Vec<RolloutLine>,
    last: Option<RolloutView>,
    /// Whether the visitor may import and roll out: for the whole gateway.
    may: bool,
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let caller = &visitor.caller;
    let known = async {
        let rollouts = rollout_lines(&web, caller).await?;
        let last = match rollouts.first() {
            Some(_) => Some(view(&web, caller, RolloutRequest::Show { number: None }).await?),
            None => None,
        };
        let may = visitor.has(Right::Operate) && caller.scope == Scope::Whole;
        let (releases, sites) = (release_lines(&web, caller).await?, version_lines(&web, caller).await?);
        Ok::<_, crate::api::Problem>(Known { releases, sites, rollouts, last, may })
    };
    let known = match known.await {
        Ok(known) => known,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    let title = language.of("Versions", "版本管理");
    let content = html! {
        div.head {
            div {
                h1 { (title) }
                p.soft { (language.of("Systems of the appliance: imported once, and brought to sites in rings, over the lines that carry the volumes, when these have nothing else to carry.", "设备系统：一次导入，按批次推送到各站点；利用复制专线的空闲时间传输。")) }
            }
        }
        section.card data-part="versions" data-again="10" aria-labelledby="runs" { (picture(&known.sites, language)) }
        div data-part="rollout" { @if let Some(last) = known.last.as_ref().filter(|last| !is_over(last)) { (rollout::card(last, known.may, language)) } }
        @if known.may { (rollout::form(&known.releases, &known.sites, known.last.as_ref(), language)) }
        div data-part="sites" { (sites(&known.sites, language)) }
        (releases(&known, language))
        div data-part="rollouts" { (rollouts(&known.rollouts, language)) }
    };
    Ok(Shell { visitor: &visitor, title, place: "/versions", follows: None, content }.render().into_response())
}

fn is_over(view: &RolloutView) -> bool {
    matches!(view.rollout.state.as_str(), "done" | "cancelled")
}

/// Versions with how many sites run each, newest first.
fn counted(sites: &[VersionLine]) -> Vec<(&str, usize)> {
    let mut counts: BTreeMap<(u64, &str), usize> = BTreeMap::new();
    for line in sites {
        *counts.entry((line.sequence, line.version.as_str())).or_default() += 1;
    }
    counts.into_iter().rev().map(|((_, version), count)| (version, count)).collect()
}

fn picture(sites: &[VersionLine], language: Language) -> Markup {
    let counts = counted(sites);
    let total = sites.len().max(1);
    let mut at = 0;
    let places: Vec<(usize, usize)> = counts
        .iter()
        .map(|(_, count)| {
            let from = at * WIDTH / total;
            at += count;
            (from, at * WIDTH / total - from)
        })
        .collect();
    let said: Vec<String> = counts.iter().map(|(version, count)| format!("{version}: {count}")).collect();
    html! {
        h2 #runs { (language.of("What sites run", "各站点运行的版本")) }
        @if sites.is_empty() {
            p { (language.of("No site has said which system it runs. Appliances say so as soon as they connect; an edge that was installed on a system of your own does not.", "还没有站点上报系统版本。设备连接后会自动上报；安装在自有系统上的边缘软件不上报。")) }
        } @else {
            svg.stack viewBox={ "0 0 " (WIDTH) " 10" } preserveAspectRatio="none" role="img" aria-label=(said.join(", ")) {
                @for (number, (from, wide)) in places.iter().enumerate() {
                    rect.{ "c" (number.min(COLOURS - 1)) } x=(from) width=(wide) height="10" {}
                }
            }
            p.legend {
                @for (number, (version, count)) in counts.iter().enumerate() {
                    span.nowrap {
                        svg.dot viewBox="0 0 10 10" aria-hidden="true" { rect.{ "c" (number.min(COLOURS - 1)) } width="10" height="10" rx="2" {} }
                        strong { (version) } " " (language.of(format!("{count} {}", if *count == 1 { "site" } else { "sites" }), format!("{count} 个站点")))
                    } " "
                }
            }
        }
    }
}

fn sites(sites: &[VersionLine], language: Language) -> Markup {
    html! {
        @if !sites.is_empty() {
            section.card {
                h2 { (language.of("Site by site", "站点明细")) }
                div.scroll tabindex="0" role="region" aria-label=(language.of("Versions of sites", "各站点版本")) {
                    table.stack {
                        thead { tr {
                            th { (language.of("Site", "站点")) } th { (language.of("Runs", "运行版本")) } th { (language.of("Since", "自")) }
                            th { (language.of("Other slot", "备用分区")) } th { (language.of("Doing", "状态")) } th { (language.of("Heard", "上报时间")) }
                        } }
                        tbody { @for line in sites {
                            tr {
                                th scope="row" { (site_link(&line.tenant, &line.site)) " " span.soft.small { (line.tenant) } }
                                td data-label=(language.of("Runs", "运行版本")) { (line.version) " " (say::confirmed(line, language)) }
                                td data-label=(language.of("Since", "自")) { (moment(line.since)) }
                                td data-label=(language.of("Other slot", "备用分区")) { (line.previous.as_deref().unwrap_or("–")) }
                                td.wrap data-label=(language.of("Doing", "状态")) { (say::doing(line, language)) }
                                td data-label=(language.of("Heard", "上报时间")) { (moment(line.heard)) @if !line.connected { " " span.chip { (language.of("away", "未连接")) } } }
                            }
                        } }
                    }
                }
            }
        }
    }
}

fn releases(known: &Known, language: Language) -> Markup {
    html! {
        section.card {
            h2 #releases { (language.of("Releases that are here", "已导入的发行版")) }
            @if known.releases.is_empty() {
                p { (language.of("There are none yet.", "暂无。")) }
            } @else {
                div.scroll tabindex="0" role="region" aria-labelledby="releases" {
                    table.stack {
                        thead { tr {
                            th { (language.of("Version", "版本")) } th.number { (language.of("Sequence", "序号")) } th.number { (language.of("Image", "镜像")) }
                            th { (language.of("Imported", "导入")) } th { (language.of("Signed by key", "签名密钥")) } th { (language.of("Root hash", "根哈希")) } th.number { (language.of("Sites", "站点数")) }
                            @if known.may { th { span.sr { (language.of("Actions", "操作")) } } }
                        } }
                        tbody { @for line in &known.releases { (release(line, known.may, language)) } }
                    }
                }
            }
            @if known.may { (import(language)) }
        }
    }
}

fn release(line: &ReleaseLine, may: bool, language: Language) -> Markup {
    html! {
        tr {
            th scope="row" { (line.version) @if line.role != "edge" { " " span.chip { (language.of("for gateways", "网关用")) } } }
            td.number data-label=(language.of("Sequence", "序号")) { (line.sequence) }
            td.number data-label=(language.of("Image", "镜像")) { (format::bytes(line.bytes)) br.wide-only; " " span.soft.small { (language.of("new: ", "新增 ")) (format::bytes(line.stored)) } }
            td data-label=(language.of("Imported", "导入")) { (moment(line.imported)) br.wide-only; " " span.soft.small { (line.by) } }
            td data-label=(language.of("Signed by key", "签名密钥")) { code { (line.key) } @if let Some(next) = &line.next_key { br.wide-only; " " span.small { (language.of("later ones: ", "后续密钥：")) code { (next) } } } }
            td data-label=(language.of("Root hash", "根哈希")) { code title=(line.id) { (line.id[..16]) "…" } }
            td.number data-label=(language.of("Sites", "站点数")) { (line.sites) }
            @if may { td {
                form data-api={ "/api/v1/releases/" (escaped(&line.id)) } data-method="DELETE" data-empty
                    data-confirm=(language.of(format!("Remove release {}?", line.version), format!("确定删除发行版 {}？", line.version))) {
                    button.plain type="submit" { (language.of("Remove", "删除")) }
                    (problem_place())
                }
            } }
        }
    }
}

fn import(language: Language) -> Markup {
    html! {
        form data-upload="/api/v1/releases" {
            h3 { (language.of("Import a release", "导入发行版")) }
            div.field {
                label for="bundle" { (language.of("Its file, NAME.sluice-release", "发行版文件（NAME.sluice-release）")) }
                input #bundle type="file" accept=".sluice-release" required;
                p.hint { (language.of("Signature and every byte are checked before it counts. On the gateway's machine: sluice-gateway release import FILE", "导入前校验签名与全部内容。也可在网关本机执行：sluice-gateway release import FILE")) }
            }
            progress hidden value="0" max="1" aria-label=(language.of("Sent", "已上传")) {}
            (problem_place())
            button type="submit" { (language.of("Import", "导入")) }
        }
    }
}

fn rollouts(rollouts: &[RolloutLine], language: Language) -> Markup {
    html! {
        section.card {
            h2 #rollouts { (language.of("Roll-outs", "推送记录")) }
            @if rollouts.is_empty() { p.soft { (language.of("There was none yet.", "暂无。")) } }
            @else {
                div.scroll tabindex="0" role="region" aria-labelledby="rollouts" {
                    table.stack {
                        thead { tr {
                            th.number { "#" } th { (language.of("Version", "版本")) } th { (language.of("State", "状态")) } th { (language.of("Sites", "站点")) }
                            th { (language.of("Begun", "开始")) } th { (language.of("Why", "原因")) }
                        } }
                        tbody { @for line in rollouts.iter().take(ROLLOUTS) {
                            tr {
                                td.number data-label="#" { a href={ "/rollouts/" (line.number) } { (line.number) } }
                                td data-label=(language.of("Version", "版本")) { (line.version) }
                                td data-label=(language.of("State", "状态")) { (say::state(line, language)) }
                                td data-label=(language.of("Sites", "站点")) { (line.confirmed) " / " (line.sites) @if line.failed > 0 { " " span.chip.bad { (language.of(format!("{} failed", line.failed), format!("失败 {}", line.failed))) } } }
                                td data-label=(language.of("Begun", "开始")) { (moment(line.started)) br.wide-only; " " span.soft.small { (line.by) } }
                                td.wrap data-label=(language.of("Why", "原因")) { (line.reason) @if let Some(why) = &line.why { br; span.soft { (why) } } }
                            }
                        } }
                    }
                }
            }
        }
    }
}

/// What a site runs and ran, on its own page; nothing of one that never said so.
pub(super) fn of_site(
    known: Option<&(VersionLine, Vec<crate::releases::history::Entry>)>,
    language: Language,
) -> Markup {
    html! {
        @if let Some((line, history)) = known {
            section.card data-part="version" {
                h2 { (language.of("The appliance's system", "设备系统")) }
                dl.facts {
                    dt { (language.of("Version", "版本")) } dd { (line.version) " " (say::confirmed(line, language)) }
                    dt { (language.of("Since", "自")) } dd { (moment(line.since)) }
                    dt { (language.of("Other slot", "备用分区")) } dd { (line.previous.as_deref().unwrap_or(language.of("nothing that could be started", "没有可启动的系统"))) }
                    dt { (language.of("Doing", "状态")) } dd { (say::doing(line, language)) }
                }
                h3 { (language.of("What became of versions here", "版本历史")) }
                ul.history {
                    @for entry in history.iter().take(HISTORY) {
                        li { (say::entry(entry, language)) " " span.soft { (moment(entry.heard)) } @if !entry.why.is_empty() { br; (entry.why) } }
                    }
                }
                p { a href="/versions" { (language.of("All sites' versions", "全部站点版本")) } }
            }
        }
    }
}

/// Entries that are shown on a site's page.
const HISTORY: usize = 10;

fn nothing(language: Language) -> Markup {
    empty(language.of("No site of yours is in it", "其中没有您的站点"), html! {})
}
