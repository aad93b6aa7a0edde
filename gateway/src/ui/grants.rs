//! How the gateway's own line is dealt out now.

use super::parts::site_link;
use super::shell::empty;
use super::{Fault, Shell, Visitor};
use crate::api::system::{GrantLine, Grants, grant_lines};
use crate::web::Web;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use look::{Language, format};
use maud::{Markup, html};
use std::sync::Arc;

/// Sites that have a colour of their own in the bar; the others share the last one.
const COLOURS: usize = 8;
/// Width of the bar in its own units.
const WIDTH: u64 = 1000;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/grants", get(show))
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let dealt = match grant_lines(&web, &visitor.caller).await {
        Ok(dealt) => dealt,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    // What is set is known before anything is dealt.
    let ingress = dealt.ingress.or(web.settings.ingress.map(|ingress| ingress.bits()));
    let content = html! {
        div.head {
            div {
                h1 { (language.of("Grants", "带宽分配")) }
                p.soft { (language.of("The gateway's own line, shared among the edges that have work; dealt out anew every five seconds.", "网关自身的线路在有任务的边缘设备之间分配，每五秒重新分配一次。")) }
            }
        }
        @match ingress {
            None => { (unset(language)) }
            Some(ingress) => { div data-part="grants" data-again="5" { (shares(&dealt, ingress, language)) } }
        }
    };
    let title = language.of("Grants", "带宽分配");
    Ok(Shell { visitor: &visitor, title, place: "/grants", follows: None, content }.render().into_response())
}

fn unset(language: Language) -> Markup {
    empty(
        language.of("The gateway's line is no bottleneck", "网关线路不是瓶颈"),
        html! {
            p { (language.of("No `ingress` is set, so nothing is dealt out: each edge goes by its own policy. Where all branches together can fill the gateway's line, say what it carries, in the gateway's configuration, and restart the gateway:", "未设置 ingress，因此不做分配，各边缘设备仅按自身策略传输。如果所有网点合计可能占满网关线路，请在网关配置中写明其带宽并重启网关：")) }
            pre { "ingress = \"100 Mbit/s\"" }
            p { a href="/settings" { (language.of("Where the configuration is", "配置文件位置")) } }
        },
    )
}

fn shares(dealt: &Grants, ingress: u64, language: Language) -> Markup {
    let sum: u64 = dealt.sites.iter().map(|line| line.bits).sum();
    let working = dealt.sites.iter().filter(|line| line.works).count();
    let whole = ingress.max(sum).max(1);
    let width = |bits: u64| (u128::from(bits) * u128::from(WIDTH) / u128::from(whole)) as u64;
    let mut at = 0;
    let places: Vec<(u64, u64)> = dealt
        .sites
        .iter()
        .map(|line| {
            let from = width(at);
            at += line.bits;
            (from, width(at) - from)
        })
        .collect();
    html! {
        section.card {
            p.big { (format::flow(sum)) (language.of(" of ", " / ")) (format::flow(ingress)) (language.of(" dealt out", " 已分配")) }
            svg.stack viewBox={ "0 0 " (WIDTH) " 10" } preserveAspectRatio="none" role="img"
                aria-label=(language.of(format!("{} of {} dealt out to {} edges", format::flow(sum), format::flow(ingress), dealt.sites.len()), format!("{} 中的 {} 已分配给 {} 台边缘设备", format::flow(ingress), format::flow(sum), dealt.sites.len()))) {
                @for (number, (from, wide)) in places.iter().enumerate() {
                    rect.{ "c" (number.min(COLOURS - 1)) } x=(from) width=(wide) height="10" {}
                }
            }
            p.small.soft { (language.of(format!("{working} edges with work, {} without: those may begin with a little each.", dealt.sites.len() - working), format!("{working} 台有任务，{} 台空闲（各保留少量带宽以便启动）。", dealt.sites.len() - working))) }
        }
        @if dealt.sites.is_empty() {
            (empty(language.of("No edge is connected", "没有已连接的边缘设备"), html! {
                p { (language.of("Shares appear here as soon as an edge connects.", "边缘设备连接后，这里显示其份额。")) " " a href="/" { (language.of("To the fleet", "前往站点总览")) } }
            }))
        } @else {
            div.scroll tabindex="0" role="region" aria-label=(language.of("Shares", "份额")) {
                table.stack {
                    thead { tr {
                        th { (language.of("Site", "站点")) } th.number { (language.of("Granted", "已分配")) }
                        th.number { (language.of("Share", "占比")) } th { (language.of("State", "状态")) }
                    } }
                    tbody { @for (number, line) in dealt.sites.iter().enumerate() { (row(number, line, ingress, language)) } }
                }
            }
        }
    }
}

fn row(number: usize, line: &GrantLine, ingress: u64, language: Language) -> Markup {
    let share = line.bits as f64 * 100.0 / ingress.max(1) as f64;
    html! {
        tr {
            th scope="row" {
                svg.dot viewBox="0 0 10 10" aria-hidden="true" { rect.{ "c" (number.min(COLOURS - 1)) } width="10" height="10" rx="2" {} }
                (site_link(&line.tenant, &line.site)) " " span.soft.small { (line.tenant) }
            }
            td.number data-label=(language.of("Granted", "已分配")) { (format::flow(line.bits)) }
            td.number data-label=(language.of("Share", "占比")) { (format!("{share:.1} %")) }
            td data-label=(language.of("State", "状态")) {
                @if line.braked { span.chip.bad { (language.of("took more: braked", "超速：已限速")) } }
                @else if line.works { span.chip.busy { (language.of("has work", "有任务")) } }
                @else { span.chip { (language.of("without work", "空闲")) } }
            }
        }
    }
}
