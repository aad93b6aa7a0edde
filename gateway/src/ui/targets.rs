//! Targets: what is kept where, whether it is current, and how a further one is set up.

mod kinds;
mod one;
pub(super) mod say;

use super::parts::beside;
use super::shell::{empty, escaped, problem_place};
use super::{Fault, Shell, Visitor};
use crate::access::{Right, Scope};
use crate::admin::targets::TargetLine;
use crate::api::system::{TenantLine, tenant_lines};
use crate::api::targets::target_lines;
use crate::web::Web;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kinds::{KINDS, Kind};
use look::{Language, format};
use maud::{Markup, html};
pub(super) use one::act as order_actions;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/targets", get(list)).route("/targets/{tenant}/{target}", get(one::show))
}

async fn list(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let targets = match target_lines(&web, &visitor.caller).await {
        Ok(targets) => targets,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let administers = visitor.has(Right::Administer);
    let tenants = match tenant_lines(&web, &visitor.caller).await {
        Ok(tenants) => tenants,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let (language, title) = (visitor.language, visitor.language.of("Targets", "目标"));
    let content = html! {
        (beside("/targets", language))
        div.head {
            div {
                h1 { (title) }
                p.soft { (language.of("Where generations are rebuilt, so that they can be used: a disk here, a volume in a cloud. What is written is read back and compared before it counts.", "将版本还原成可用副本的位置：本地磁盘或云上的卷。写入的数据经回读比对后才算完成。")) }
            }
        }
        @if targets.is_empty() {
            (empty(language.of("No target is set up yet", "尚未设置目标"), html! {
                @if administers { p { (language.of("Set the first one up below; then test it, and say which volumes it is to be kept at the latest of.", "请在下方设置第一个目标，测试后指定要在其上保持最新的卷。")) } }
                @else { p { (language.of("Targets are set up by administrators.", "目标由管理员设置。")) } }
            }))
        } @else {
            div data-part="targets" data-again="10" {
                (say::all(&targets, web.state.now(), language))
                div.scroll tabindex="0" role="region" aria-label=(title) { (table(&targets, &web, &visitor)) }
            }
        }
        @if administers { (forms(&web, &tenants, &visitor)) }
    };
    Ok(Shell { visitor: &visitor, title, place: "/targets", follows: None, content }.render().into_response())
}

fn table(targets: &[TargetLine], web: &Web, visitor: &Visitor) -> Markup {
    let language = visitor.language;
    let operates = visitor.has(Right::Operate);
    html! {
        table.stack {
            thead { tr {
                th { (language.of("Target", "目标")) } th { (language.of("Where", "位置")) } th { (language.of("Credentials", "凭据")) }
                th { (language.of("At most", "限制")) } th { (language.of("Kept at the latest", "保持最新")) } th { (language.of("On its way", "进行中")) }
                @if operates { th { span.sr { (language.of("Actions", "操作")) } } }
            } }
            tbody {
                @for line in targets {
                    @let path = path(line);
                    tr {
                        th scope="row" {
                            a href={ "/targets/" (path) } { (line.target) }
                            @if visitor.caller.scope == Scope::Whole { " " span.soft { (line.tenant) } }
                        }
                        td.wrap data-label=(language.of("Where", "位置")) { (kinds::name(&line.kind, language)) br.wide-only; " " code { (place(line)) } }
                        td.wrap data-label=(language.of("Credentials", "凭据")) { (credentials(line, language)) }
                        td data-label=(language.of("At most", "限制")) { (limits(line, language)) }
                        td data-label=(language.of("Kept at the latest", "保持最新")) { (say::counts(line, web.state.now(), language)) }
                        td data-label=(language.of("On its way", "进行中")) { (say::runs(line, language)) }
                        @if operates { td { (test(&path, language)) } }
                    }
                }
            }
        }
    }
}

/// The address of a target's page, and of it in the API.
fn path(line: &TargetLine) -> String {
    format!("{}/{}", escaped(&line.tenant), escaped(&line.target))
}

fn test(path: &str, language: Language) -> Markup {
    html! {
        form data-api={ "/api/v1/targets/" (path) "/test" } data-then="job" data-empty {
            button.plain type="submit" { (language.of("Test", "测试")) }
            (problem_place())
        }
    }
}

/// What its settings say of where it is.
fn place(line: &TargetLine) -> String {
    let fields = line.settings.as_object().into_iter().flatten().filter(|(name, _)| *name != "kind");
    // Numbers and switches say how, not where.
    let shown = fields.filter_map(|(_, value)| value.as_str()).filter(|text| !text.is_empty());
    shown.collect::<Vec<_>>().join(" · ")
}

fn credentials(line: &TargetLine, language: Language) -> Markup {
    html! {
        @match line.credentials.as_str() {
            "none" => span.soft { (language.of("needs none", "不需要")) },
            "environment" => (language.of("the daemon's environment", "网关服务的环境变量")),
            path => code { (path) },
        }
        @if line.credentials_failing { " " span.chip.bad { (language.of("refused", "被拒绝")) } }
    }
}

fn limits(line: &TargetLine, language: Language) -> Markup {
    let rate = line.bytes_per_second.map(|rate| format!("{}/s", format::bytes(rate)));
    let requests = line
        .requests_per_second
        .map(|requests| language.of(format!("{requests} requests a second"), format!("每秒 {requests} 次请求")));
    let all: Vec<String> = rate.into_iter().chain(requests).collect();
    html! { @if all.is_empty() { span.soft { (language.of("no limit", "不限")) } } @else { (all.join(", ")) } }
}

/// How it is proved, for people.
fn proof(word: &str, language: Language) -> String {
    match word {
        "all" => language.of("all of it is read back", "全部回读").into(),
        "changed" => language.of("what was written is read back", "回读写入的部分").into(),
        share => language.of(
            format!("what was written and {share} of the rest are read back"),
            format!("回读写入的部分及其余部分的 {share}"),
        ),
    }
}

// ---- a further one

fn forms(web: &Web, tenants: &[TenantLine], visitor: &Visitor) -> Markup {
    let language = visitor.language;
    html! {
        section.card {
            h2 { (language.of("Set a target up", "设置目标")) }
            @if web.config.targets.is_empty() {
                p.note.warn { (language.of("No folder for targets is set in the gateway's configuration, so kinds that write on its own machine can be set up on the command line only: ", "网关配置中没有设置目标目录，因此写入网关本机的目标只能用命令行设置："))
                    code { "targets = [\"/srv/targets\"]" } (language.of(" under ", "，位于 ")) code { "[web]" } }
            }
            @if tenants.is_empty() { p { (language.of("There is no tenant yet: one is made with the first site.", "还没有租户：添加首个站点时创建。")) } }
            @else { @for kind in KINDS { (form(kind, web, tenants, visitor)) } }
        }
    }
}

fn form(kind: &Kind, web: &Web, tenants: &[TenantLine], visitor: &Visitor) -> Markup {
    let language = visitor.language;
    let whole = visitor.caller.scope == Scope::Whole;
    let id = |field: &str| kind.id(field);
    html! {
        details {
            summary { (kind.name(language)) }
            p.small { (kind.hint(language)) }
            form data-api="/api/v1/targets" {
                div.fields {
                    div.field {
                        label for=(id("tenant")) { (language.of("For", "租户")) }
                        select id=(id("tenant")) name="tenant" required { @for tenant in tenants { option value=(tenant.name) { (tenant.name) } } }
                    }
                    div.field {
                        label for=(id("name")) { (language.of("Name", "名称")) }
                        input id=(id("name")) name="name" required maxlength="100" autocomplete="off" autocapitalize="none" spellcheck="false";
                    }
                    (kind.fields(language))
                }
                @if kind.is_service() { (credentials_field(kind, web, whole, language)) }
                details {
                    summary { (language.of("Limits and proof", "限制与校验方式")) }
                    div.fields {
                        div.field {
                            label for=(id("rate")) { (language.of("Bytes a second, at most", "每秒最多写入")) }
                            input id=(id("rate")) name="rate" maxlength="30" placeholder="50 MB" autocomplete="off";
                        }
                        @if kind.is_service() {
                            div.field {
                                label for=(id("requests")) { (language.of("Requests a second at most", "每秒最多请求数")) }
                                input id=(id("requests")) name="requests" type="number" data-type="number" min="1";
                            }
                        }
                        div.field {
                            label for=(id("proof")) { (language.of("How it is proved", "校验方式")) }
                            select id=(id("proof")) name="proof" { @for word in ["all", "changed", "5%"] { option value=(word) { (proof(word, language)) } } }
                        }
                        div.field {
                            label for=(id("keep")) { (language.of("Points kept of a volume", "每个卷保留的恢复点数")) }
                            input id=(id("keep")) name="keep" type="number" data-type="number" min="1" placeholder=(web.state.retention);
                        }
                    }
                }
                (problem_place())
                button type="submit" { (language.of("Set it up", "设置")) }
            }
        }
    }
}

fn credentials_field(kind: &Kind, web: &Web, whole: bool, language: Language) -> Markup {
    let (source, authorities) = (kind.id("credentials"), kind.id("authorities"));
    html! {
        div.fields {
            div.field {
                label for=(source) { (language.of("Credentials: path of a file on the gateway", "凭据：网关上的文件路径")) @if whole { (language.of(", or ", "，或 ")) code { "environment" } } }
                input id=(source) name="credentials" maxlength="4096" autocomplete="off" spellcheck="false"
                    placeholder={ (web.config.credentials.first().map_or("/etc/sluice/credentials".into(), |folder| folder.display().to_string())) "/cloud" };
                p.hint { (language.of("The file (mode 600) lies below a folder for credentials of the gateway's configuration. A secret itself is never put here.", "文件（权限 600）须位于网关配置的凭据目录下。请勿在此输入密钥本身。")) }
            }
            div.field {
                label for=(authorities) { (language.of("Authorities to trust besides the system's (PEM)", "额外信任的 CA 证书（PEM）")) }
                input id=(authorities) name="authorities" maxlength="4096" autocomplete="off" spellcheck="false";
            }
        }
    }
}
