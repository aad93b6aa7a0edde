//! How the gateway is set, its authorities, what its disk holds.

use super::parts::{moment, only};
use super::shell::problem_place;
use super::{Fault, Shell, Visitor};
use crate::access::{Right, Scope};
use crate::admin::Authority;
use crate::api::system::{AuthorityLine, Settings, StoreLine, authority_lines, settings_of, store_lines};
use crate::web::Web;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dedupe::UnixMillis;
use look::{Language, format};
use maud::{Markup, html};
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/settings", get(show))
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let (language, title, whole) =
        (visitor.language, visitor.language.of("Settings", "设置"), visitor.caller.scope == Scope::Whole);
    let settings = match whole {
        true => match settings_of(&web, &visitor.caller).await {
            Ok(settings) => Some(settings),
            Err(problem) => return Err(visitor.fault(problem)),
        },
        false => None,
    };
    let stores = match store_lines(&web, &visitor.caller).await {
        Ok(stores) => stores,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let authorities = match authority_lines(&web, &visitor.caller, Authority::List).await {
        Ok(authorities) => authorities,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let sets = whole && visitor.has(Right::Administer);
    let content = html! {
        div.head {
            div { h1 { (title) } p.soft { "Sluice " (env!("CARGO_PKG_VERSION")) } }
        }
        @match &settings {
            Some(settings) => { (how(settings, language)) }
            None => { (only(language, "How the gateway is set is shown to accounts of the whole gateway.", "网关配置仅对整个网关范围的账号显示。")) }
        }
        div.three {
            (disk(&stores, settings.as_ref(), language))
            (pages(settings.as_ref(), language))
        }
        (authority_part(&authorities, settings.as_ref().map_or(90, |settings| settings.certificate_days), sets, language))
    };
    Ok(Shell { visitor: &visitor, title, place: "/settings", follows: None, content }.render().into_response())
}

fn how(settings: &Settings, language: Language) -> Markup {
    let (none, nowhere) = (language.of("none", "无").to_owned(), language.of("nowhere", "未启用").to_owned());
    let list = |all: &[String]| if all.is_empty() { none.clone() } else { all.join(", ") };
    let facts: [(&str, &str, &str, String); 12] = [
        ("listen", "Edges are awaited at (UDP)", "边缘设备接入地址（UDP）", list(&settings.listen)),
        ("addresses", "Edges are told to dial", "告知边缘设备的地址", list(&settings.addresses)),
        ("http", "Metrics and health", "指标与健康检查", settings.http.clone().unwrap_or(nowhere)),
        (
            "ingress",
            "The gateway's own line",
            "网关线路带宽",
            settings
                .ingress
                .map_or(language.of("no bottleneck: not dealt out", "非瓶颈，不做分配").into(), format::flow),
        ),
        ("retention", "Generations kept of each volume", "每个卷保留的版本数", settings.retention.to_string()),
        ("decode_workers", "Parcels decoded at once", "并行解码数", settings.decode_workers.to_string()),
        ("reserve_mib", "Stays free on the disk", "磁盘保留空间", format::bytes(settings.reserve)),
        (
            "certificate_days",
            "Days that an edge's certificate is good for",
            "边缘设备证书有效天数",
            settings.certificate_days.to_string(),
        ),
        ("[web] listen", "Pages and API", "页面与 API 地址", settings.web_listen.clone()),
        ("[web] names", "Names under which browsers come", "浏览器访问的名称", list(&settings.web_names)),
        ("[web] targets", "Folders for rehydration from here", "页面可还原到的目录", list(&settings.targets)),
        (
            "[web] credentials",
            "Folders for credentials of targets that are set up from here",
            "页面可使用的凭据目录",
            list(&settings.credentials),
        ),
    ];
    html! {
        section.card {
            h2 { (language.of("How it is set", "当前配置")) }
            p.small {
                (language.of("These stand in the configuration file of the gateway, which is changed on its own machine:", "以上设置写在网关的配置文件中，需在网关主机上修改："))
                " " code { (settings.state) "/gateway.toml" } " " (language.of("unless --config names another. Check it before a restart:", "（除非用 --config 指定其他文件）。重启前请先检查："))
            }
            pre { "sluice-gateway check-config --config " (settings.state) "/gateway.toml" }
            div.scroll tabindex="0" role="region" aria-label=(language.of("How it is set", "当前配置")) {
                table.stack {
                    thead { tr { th { (language.of("What", "项目")) } th { (language.of("Value", "当前值")) } th { (language.of("In the file", "配置项")) } } }
                    tbody {
                        @for (key, english, chinese, value) in &facts {
                            tr { th scope="row" { (language.of(*english, *chinese)) } td { (value) } td { code { (key) } } }
                        }
                    }
                }
            }
            p.small.soft { (language.of("Protocol versions that edges may speak: ", "支持的边缘协议版本：")) (settings.protocols.join(", ")) }
        }
    }
}

fn disk(stores: &[StoreLine], settings: Option<&Settings>, language: Language) -> Markup {
    html! {
        section.card {
            h2 { (language.of("Disk use by tenant", "各租户磁盘占用")) }
            @if let Some(free) = settings.and_then(|settings| settings.disk_free) {
                p { (language.of("Free on the disk of the state: ", "状态目录所在磁盘剩余：")) strong { (format::bytes(free)) } }
            }
            @if stores.is_empty() { p.soft { (language.of("There are no tenants yet.", "还没有租户。")) } }
            @else {
                table.stack {
                    thead { tr { th { (language.of("Tenant", "租户")) } th.number { (language.of("Content", "数据")) } th.number { (language.of("Records", "索引记录")) } th.number { (language.of("Generations", "版本")) } } }
                    tbody {
                        @for store in stores {
                            tr {
                                th scope="row" { (store.tenant) }
                                td.number data-label=(language.of("Content", "数据")) { (format::bytes(store.data_bytes)) }
                                td.number data-label=(language.of("Records", "索引记录")) { (format::bytes(store.record_bytes)) }
                                td.number data-label=(language.of("Generations", "版本")) { (store.generations) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn pages(settings: Option<&Settings>, language: Language) -> Markup {
    html! {
        section.card {
            h2 { (language.of("Certificate of these pages", "页面证书")) }
            @if let Some(settings) = settings {
                @match settings.web_tls {
                    "own" => { p { (language.of("Made by the gateway's own authority, anew each day. Browsers trust it once they trust the authority.", "由网关自有 CA 签发，每天更新。浏览器信任该 CA 后即信任页面。")) } }
                    "given" => { p { (language.of("From the files named in the configuration (`certificate`, `key`); read again each day.", "使用配置中指定的文件（certificate、key），每天重新读取。")) } }
                    _ => { p.note.warn { (language.of("Not encrypted here: something in front of the gateway has to do it.", "此处未加密，须由前置设备负责加密。")) } }
                }
                @if let Some(ends) = settings.web_certificate_ends { p { (language.of("Good until ", "有效期至 ")) (moment(UnixMillis(ends * 1000))) } }
            }
            p { a.button.plain href="/ca.crt" download { (language.of("Certificate of the authority", "下载 CA 证书")) } }
            p.hint { (language.of("Import it as a trusted authority, then browsers show no warning.", "将其导入为受信任的根证书后，浏览器不再告警。")) }
        }
    }
}

fn authority_part(authorities: &[AuthorityLine], days: u64, sets: bool, language: Language) -> Markup {
    let more_than_one = authorities.len() > 1;
    html! {
        section.card {
            h2 { (language.of("Authorities", "证书颁发机构（CA）")) }
            p.small.soft { (language.of("They sign the certificates of edges. One signs; the others are only trusted.", "为边缘设备签发证书。其中一个负责签发，其余仅被信任。")) }
            table.stack {
                thead { tr { th.number { "#" } th { (language.of("SHA-256 of its certificate", "证书 SHA-256")) } th { (language.of("State", "状态")) } @if sets { th { span.sr { (language.of("Actions", "操作")) } } } } }
                tbody {
                    @for authority in authorities {
                        tr {
                            td.number data-label="#" { (authority.number) }
                            td data-label="SHA-256" { code.mono.wrap { (authority.fingerprint) } }
                            td data-label=(language.of("State", "状态")) { @if authority.signs { span.chip.good { (language.of("signs", "签发中")) } } @else { span.chip { (language.of("is trusted", "受信任")) } } }
                            @if sets { td { @if !authority.signs && more_than_one { (change("use", Some(authority.number), language)) (change("retire", Some(authority.number), language)) } } }
                        }
                    }
                }
            }
            h3 { (language.of("How to replace one without visiting a branch", "如何在不去网点的情况下更换")) }
            ol.plain {
                li { strong { (language.of("Add", "添加")) } ": " (language.of(format!("edges learn to trust it when they renew, after two thirds of {days} days at the latest. Wait {days} days."), format!("边缘设备在续期时（最迟为 {days} 天的三分之二）开始信任新 CA。请等待 {days} 天。"))) }
                li { strong { (language.of("Use", "启用")) } ": " (language.of(format!("the new one signs; edges get its certificates as they renew. Wait {days} days again."), format!("由新 CA 签发，边缘设备续期时获得新证书。请再等待 {days} 天。"))) }
                li { strong { (language.of("Retire", "停用")) } ": " (language.of("the old one is trusted no more. Whoever has not renewed by then is cut off, and enrols again with a token.", "不再信任旧 CA。此前未续期的边缘设备将被断开，须用令牌重新注册。")) }
            }
            @if sets { (change("add", None, language)) }
        }
    }
}

fn change(what: &str, number: Option<u32>, language: Language) -> Markup {
    let (name, sure) = match what {
        "use" => (
            language.of("Use", "启用"),
            language.of(
                "Let this authority sign from now on? Edges that do not trust it yet cannot renew.",
                "确定由此 CA 签发？尚未信任它的边缘设备将无法续期。",
            ),
        ),
        "retire" => (
            language.of("Retire", "停用"),
            language.of(
                "Trust this authority no more? Edges with certificates of it are cut off.",
                "确定不再信任此 CA？使用其证书的边缘设备将被断开。",
            ),
        ),
        _ => (
            language.of("Add an authority", "添加 CA"),
            language.of("Make a further authority?", "确定添加一个新的 CA？"),
        ),
    };
    html! {
        form data-api="/api/v1/authorities" data-confirm=(sure) {
            input type="hidden" name="do" value=(what);
            @if let Some(number) = number { input type="hidden" name="number" data-type="number" value=(number); }
            button.plain.danger[what == "retire"] type="submit" { (name) }
            (problem_place())
        }
    }
}
