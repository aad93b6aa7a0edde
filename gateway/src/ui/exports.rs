//! Exports: which generations are served as block devices, how to connect to them, and how a further one is started.

mod commands;

use super::parts::{beside, moment, volume_link};
use super::shell::{empty, escaped, problem_place};
use super::{Fault, Shell, Visitor};
use crate::access::{Caller, Right};
use crate::admin::{Answer, ExportLine, Request, VolumeLine};
use crate::api::Problem;
use crate::api::exports::export_lines;
use crate::web::Web;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use look::Language;
use maud::{Markup, html};
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/exports", get(show))
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let (exports, volumes) = match known(&web, &visitor.caller).await {
        Ok(known) => known,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let operates = visitor.has(Right::Operate);
    let (language, title) = (visitor.language, visitor.language.of("Exports", "导出"));
    let content = html! {
        (beside("/exports", language))
        div.head { div {
            h1 { (title) }
            p.soft { (language.of(
                "Any kept generation as a block device (NBD), at once, without rebuilding it. What is read comes from the gateway's store; the generation itself never changes.",
                "任何保留的版本都可立即作为块设备（NBD）读取，无需还原。数据直接读自网关存储，版本本身不会改变。",
            )) }
        } }
        div data-part="exports" data-again="10" {
            @if exports.is_empty() {
                (empty(language.of("Nothing is exported", "没有导出"), html! {
                    @if operates { p { (language.of("Choose a volume below to serve one of its generations.", "请在下方选择卷，导出其中一个版本。")) } }
                    @else { p { (language.of("Exports are started by operators.", "导出由操作员启动。")) } }
                }))
            } @else {
                (sentence(&exports, language))
                div.scroll tabindex="0" role="region" aria-label=(title) { (table(&exports, &web, operates, language)) }
            }
        }
        @if operates { (start(&volumes, &web, language)) }
    };
    Ok(Shell { visitor: &visitor, title, place: "/exports", follows: None, content }.render().into_response())
}

async fn known(web: &Web, caller: &Caller) -> Result<(Vec<ExportLine>, Vec<VolumeLine>), Problem> {
    let exports = export_lines(web, caller).await?;
    let volumes = match web.ask(caller, Request::Volumes).await? {
        Answer::Volumes { volumes } => volumes.into_iter().filter(|volume| volume.latest.is_some()).collect(),
        _ => Vec::new(),
    };
    Ok((exports, volumes))
}

fn sentence(exports: &[ExportLine], language: Language) -> Markup {
    let served = exports.iter().filter(|line| line.served).count();
    let (kept, connections) = (exports.len() - served, exports.iter().map(|line| line.connections).sum::<usize>());
    html! {
        p.note {
            (language.of(format!("Served: {served}. Connections: {connections}. "), format!("正在导出 {served} 个，连接 {connections} 个。")))
            @if kept > 0 { (language.of(format!("Stopped, with what was written kept: {kept}."), format!("已停止并保留写入内容 {kept} 个。"))) }
        }
    }
}

fn table(exports: &[ExportLine], web: &Web, operates: bool, language: Language) -> Markup {
    html! {
        table.stack {
            thead { tr {
                th { (language.of("Export", "导出")) } th { (language.of("Volume", "卷")) } th.number { (language.of("Generation", "版本")) }
                th { (language.of("Mode", "模式")) } th.number { (language.of("Connections", "连接数")) } th { (language.of("Since", "开始")) }
                th { (language.of("Connect", "连接方式")) }
                @if operates { th { span.sr { (language.of("Actions", "操作")) } } }
            } }
            tbody {
                @for line in exports {
                    tr {
                        th.wrap scope="row" { (line.name) }
                        td.wrap data-label=(language.of("Volume", "卷")) { (volume_link(&line.volume)) }
                        td.number data-label=(language.of("Generation", "版本")) { (line.number) }
                        td data-label=(language.of("Mode", "模式")) { (mode(line, language)) }
                        td.number data-label=(language.of("Connections", "连接数")) { (line.connections) }
                        td data-label=(language.of("Since", "开始")) { (moment(line.since)) " " span.small.soft { (line.by) } }
                        td.wrap data-label=(language.of("Connect", "连接方式")) { (connect(line, web, language)) }
                        @if operates { td { (act(line, language)) } }
                    }
                }
            }
        }
    }
}

fn mode(line: &ExportLine, language: Language) -> Markup {
    let (mood, word) = match (line.served, line.writable) {
        (true, false) => ("good", language.of("read-only", "只读")),
        (true, true) => ("busy", language.of("takes writes", "可写")),
        (false, _) => ("", language.of("stopped, writes kept", "已停止，保留写入")),
    };
    html! { span.chip.(mood) { (word) } }
}

/// Where it is, and what is pasted into a shell to use it there.
fn connect(line: &ExportLine, web: &Web, language: Language) -> Markup {
    html! {
        @for (at, uri) in line.uris.iter().enumerate() {
            @let id = format!("connect-{}-{at}", line.name);
            @let place = commands::Place::of(uri, line, web.state.folder());
            details id=(id) {
                summary { @match &place {
                    commands::Place::Here { .. } => (language.of("on the gateway's machine", "在网关本机")),
                    commands::Place::Afar { address, .. } => { (language.of("from ", "地址 ")) (address) },
                } }
                @for (nth, command) in place.commands(uri, line).iter().enumerate() {
                    @let command_id = format!("{id}-{nth}");
                    div.command {
                        code id=(command_id) { (command) }
                        button.plain type="button" data-copy=(command_id) { (language.of("Copy", "复制")) }
                    }
                }
                @if let commands::Place::Here { .. } = place { p.hint { (language.of("As root, or as the gateway's user.", "以 root 或网关用户身份运行。")) } }
                @else if place.is_encrypted() { p.hint { (language.of("The folder holds ca-cert.pem, client-cert.pem and client-key.pem.", "该目录须包含 ca-cert.pem、client-cert.pem 和 client-key.pem。")) " " code { (commands::CERTIFICATES) } } }
            }
        }
        @if line.uris.is_empty() { span.soft { "–" } }
    }
}

fn act(line: &ExportLine, language: Language) -> Markup {
    let api = format!("/api/v1/exports/{}", escaped(&line.name));
    let name = html! { span.sr { " " (line.name) } };
    let discard = language.of(
        "Throw away what was written to this export? It cannot be brought back. The generation stays as it is.",
        "丢弃写入此导出的内容？丢弃后无法恢复。版本本身保持不变。",
    );
    let stop = language.of("Serve this export no more? Its connections are closed.", "停止此导出？现有连接将断开。");
    html! {
        div.row {
            @if !line.served {
                form data-api="/api/v1/exports" {
                    input type="hidden" name="volume" value=(line.volume);
                    input type="hidden" name="generation" value=(line.number);
                    input type="hidden" name="name" value=(line.name);
                    input type="checkbox" name="writable" data-type="bool" hidden checked;
                    button.plain type="submit" { (language.of("Serve again", "重新导出")) (name) }
                    (problem_place())
                }
            } @else if line.writable {
                form data-api={ (api) "?keep=true" } data-method="DELETE" data-empty data-confirm=(stop) {
                    button.plain type="submit" { (language.of("Stop, keep writes", "停止并保留写入")) (name) }
                    (problem_place())
                }
            } @else {
                form data-api=(api) data-method="DELETE" data-empty data-confirm=(stop) {
                    button.plain type="submit" { (language.of("Stop", "停止")) (name) }
                    (problem_place())
                }
            }
            @if line.writable {
                form data-api={ (api) "?keep=false" } data-method="DELETE" data-empty data-confirm=(discard) {
                    button.danger type="submit" { @if line.served { (language.of("Stop, throw writes away", "停止并丢弃写入")) } @else { (language.of("Throw writes away", "丢弃写入")) } (name) }
                    (problem_place())
                }
            }
        }
    }
}

fn start(volumes: &[VolumeLine], web: &Web, language: Language) -> Markup {
    html! {
        section.card {
            h2 { (language.of("Start an export", "启动导出")) }
            @if web.settings.export.is_none() {
                p.hint { (language.of("Only the gateway's own machine can connect. For others, set in the gateway's configuration: ", "目前仅网关本机可以连接。如需其他机器连接，请在网关配置中设置："))
                    code { "[export] listen = \"[::]:10809\", tls = \"/etc/sluice/nbd\"" } }
            }
            @if volumes.is_empty() { p { (language.of("No volume has a complete generation yet.", "尚无卷拥有完整版本。")) } }
            @else {
                form data-api="/api/v1/exports" data-confirm=(language.of("Serve this generation from now on, until it is stopped?", "现在开始导出此版本，直到停止？")) {
                    div.fields {
                        div.field {
                            label for="export-volume" { (language.of("Volume", "卷")) }
                            select id="export-volume" name="volume" required {
                                @for line in volumes {
                                    @let whole = format!("{}/{}/{}", line.tenant, line.site, line.volume);
                                    option value=(whole) { (whole) }
                                }
                            }
                        }
                        div.field {
                            label for="export-generation" { (language.of("Generation", "版本")) }
                            input id="export-generation" name="generation" maxlength="100" placeholder=(language.of("latest", "最新")) autocomplete="off" inputmode="numeric";
                            p.hint { (language.of("A number; left empty: the latest.", "版本号；留空为最新。")) }
                        }
                        div.field {
                            label for="export-name" { (language.of("Name", "名称")) }
                            input id="export-name" name="name" maxlength="100" autocomplete="off" autocapitalize="none" spellcheck="false";
                            p.hint { (language.of("Left empty: site, volume and number.", "留空为站点、卷和版本号。")) }
                        }
                    }
                    label.check {
                        input type="checkbox" name="writable" data-type="bool";
                        (language.of("Takes writes: they go into an overlay, which is kept or thrown away when it is stopped. For a rehearsal.", "可写：写入单独保存，停止时选择保留或丢弃。用于演练。"))
                    }
                    (problem_place())
                    button type="submit" { (language.of("Start", "启动")) }
                }
            }
        }
    }
}
