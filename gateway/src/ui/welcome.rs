//! The first run: from nothing to a site that is enrolled, in three steps. Which one it is stands in the address, so that loading it again loses nothing.

use super::parts::{only, secret};
use super::say;
use super::shell::{escaped, problem_place};
use super::{Fault, Shell, Visitor};
use crate::access::{Right, Scope};
use crate::api::Problem;
use crate::api::sites::with_site;
use crate::api::system::{TenantLine, tenant_lines};
use crate::fleet::{SiteState, SiteView};
use crate::policies::first::Preset;
use crate::web::{Web, blocking};
use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use look::Language;
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;
use tokio::time::Instant;

/// Zones that are offered; any other may be typed.
const ZONES: [&str; 16] = [
    "Asia/Shanghai",
    "Asia/Urumqi",
    "Asia/Hong_Kong",
    "Asia/Singapore",
    "Asia/Tokyo",
    "Asia/Kolkata",
    "Asia/Dubai",
    "Europe/Moscow",
    "Europe/Berlin",
    "Europe/London",
    "Africa/Lagos",
    "America/Sao_Paulo",
    "America/New_York",
    "America/Chicago",
    "America/Los_Angeles",
    "UTC",
];

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/welcome", get(show))
}

#[derive(Default, Deserialize)]
struct Wanted {
    #[serde(default)]
    step: String,
    #[serde(default)]
    site: String,
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    let (language, title) = (visitor.language, visitor.language.of("Add a site", "添加站点"));
    if !visitor.has(Right::Administer) {
        let content = html! {
            h1 { (title) }
            (only(language, "Sites are added by an administrator: it makes a new identity, and a token that lets an edge in. Ask one; what there is already is on the fleet's page.", "站点由管理员添加：这会创建新的身份，并生成允许边缘设备接入的令牌。请联系管理员；已有站点见站点总览。"))
            p { a.button.plain href="/" { (language.of("To the fleet", "前往站点总览")) } }
        };
        return Ok(Shell { visitor: &visitor, title, place: "/", follows: None, content }.render().into_response());
    }
    let site = match known(&web, &visitor, &wanted).await {
        Ok(site) => site,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let tenants = match tenant_lines(&web, &visitor.caller).await {
        Ok(tenants) => tenants,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let state = web.state.clone();
    let reachable = match blocking(move || state.catalogue.addresses()).await {
        Ok(addresses) => addresses,
        Err(error) => return Err(visitor.fault(error)),
    };
    let (step, content) = match (&site, wanted.step.as_str()) {
        (Some(view), "3") => (3, waiting(view, language)),
        (Some(view), _) => (2, token(view, &reachable, language)),
        (None, _) => (1, first(&tenants, &visitor)),
    };
    let content = html! {
        h1 { (title) }
        (steps(step, site.as_ref(), language))
        (content)
    };
    let follows = site.as_ref().map(|view| format!("{}/{}", view.tenant, view.site));
    let follows = follows.as_deref().filter(|_| step == 3);
    Ok(Shell { visitor: &visitor, title, place: "/", follows, content }.render().into_response())
}

/// The site that the address names, if it names one.
async fn known(web: &Arc<Web>, visitor: &Visitor, wanted: &Wanted) -> Result<Option<SiteView>, Problem> {
    let Some((tenant, site)) = wanted.site.split_once('/') else { return Ok(None) };
    let view = with_site(web, &visitor.caller, tenant, site, |web, caller, tenant, site| {
        caller.require(Right::Administer, Some(tenant.id))?;
        Ok(web.fleet.site(caller, tenant, site, Instant::now())?)
    });
    view.await.map(Some)
}

fn path(view: &SiteView, step: u32) -> String {
    format!("/welcome?step={step}&site={}", escaped(&format!("{}/{}", view.tenant, view.site)))
}

fn steps(step: u32, site: Option<&SiteView>, language: Language) -> Markup {
    let names = [
        language.of("The site", "站点信息"),
        language.of("The token", "注册令牌"),
        language.of("The edge connects", "等待接入"),
    ];
    html! {
        ol.steps {
            @for (number, name) in (1..).zip(names) {
                li aria-current=[(number == step).then_some("step")] {
                    @match site { Some(view) if number > 1 && number != step => { a href=(path(view, number)) { (name) } } _ => { (name) } }
                }
            }
        }
    }
}

// ---- the first step

fn first(tenants: &[TenantLine], visitor: &Visitor) -> Markup {
    let language = visitor.language;
    let tenant = tenants.first().map(|tenant| tenant.name.as_str()).unwrap_or_default();
    html! {
        form data-api="/api/v1/sites" data-then="stay" data-welcome {
            div.two {
                section.card {
                    h2 { (language.of("Which branch is it?", "哪个网点？")) }
                    div.fields {
                        div.field {
                            label for="tenant" { (language.of("Tenant", "租户")) }
                            input #tenant name="tenant" required maxlength="64" list="tenants" value=(tenant) autocapitalize="none" spellcheck="false" autocomplete="off" aria-describedby="tenant-hint"
                                readonly[visitor.caller.scope != Scope::Whole];
                            datalist #tenants { @for tenant in tenants { option value=(tenant.name) {} } }
                            p.hint #tenant-hint { (language.of("One that there is, or a new one. Sites of one tenant share what they store; tenants share nothing.", "选择已有租户或输入新名称。同一租户的站点共享存储，不同租户完全隔离。")) }
                        }
                        div.field {
                            label for="site" { (language.of("Name of the site", "站点名称")) }
                            input #site name="site" required maxlength="64" autocapitalize="none" spellcheck="false" autocomplete="off" aria-describedby="site-hint";
                            p.hint #site-hint { (language.of("Letters, digits, - _ and . : as in branch-17", "字母、数字、- _ . ，例如 branch-17")) }
                        }
                    }
                    h2 { (language.of("What does its line carry?", "专线带宽是多少？")) }
                    div.fields {
                        div.field {
                            label for="up" { (language.of("From the branch to here", "网点到中心")) }
                            input #up name="first.up" required maxlength="30" value="2 Mbit/s" autocomplete="off" aria-describedby="up-hint";
                            p.hint #up-hint { (language.of("As it is leased: 2 Mbit/s, 512 kbit/s", "按租用带宽填写：2 Mbit/s、512 kbit/s")) }
                        }
                        div.field {
                            label for="share" { (language.of("Of it for replication at most, %", "复制最多占用（%）")) }
                            input #share name="first.share" type="number" data-type="number" required min="1" max="100" value="80";
                        }
                        div.field {
                            label for="zone" { (language.of("Its time zone", "所在时区")) }
                            input #zone name="first.zone" required maxlength="60" list="zones" value=(language.of("UTC", "Asia/Shanghai")) data-browser-zone="guess" autocomplete="off" spellcheck="false";
                            datalist #zones { @for zone in ZONES { option value=(zone) {} } }
                        }
                    }
                }
                section.card {
                    h2 { (language.of("When may data pass?", "何时可以传输？")) }
                    @for (number, preset) in Preset::ALL.into_iter().enumerate() { (choice(preset, number == 0, language)) }
                    p.hint { (language.of("This is only how it begins: holidays, quotas, classes and exceptions follow on the page of the schedule.", "仅为初始设置；节假日、配额、等级和例外稍后在时间表页面设置。")) }
                    (problem_place())
                    button type="submit" { (language.of("Make the site and its token", "创建站点并生成令牌")) }
                }
            }
        }
    }
}

fn choice(preset: Preset, chosen: bool, language: Language) -> Markup {
    let (name, more) = match preset {
        Preset::NightsAndWeekends => (
            language.of("Nights and weekends", "夜间和周末"),
            language.of("19:30 to 07:30, and all of Saturday and Sunday", "19:30 至次日 07:30，以及周六、周日全天"),
        ),
        Preset::Nights => {
            (language.of("Nights only", "仅夜间"), language.of("19:30 to 07:30, every day", "每天 19:30 至次日 07:30"))
        }
        Preset::Always => (
            language.of("Always", "全天"),
            language.of("day and night, at the share of the line that you gave", "昼夜均可，按所填占比限速"),
        ),
    };
    html! {
        label.choice {
            input type="radio" name="first.preset" value=(preset.word()) required checked[chosen];
            strong { (name) }
            small { (more) }
        }
    }
}

// ---- the second step

fn token(view: &SiteView, reachable: &[String], language: Language) -> Markup {
    let file = format!("{}-{}.token", view.tenant, view.site);
    html! {
        div.two {
            section.card {
                h2 { (language.of("A token for ", "注册令牌：")) (view.site) }
                p { (language.of("It lets one edge in, once, within a day. Carry it like a key: on paper or a stick, not by mail.", "令牌允许一台边缘设备接入一次，一天内有效。请像钥匙一样妥善携带（纸质或 U 盘），不要通过邮件发送。")) }
                @if reachable.is_empty() {
                    p.note.bad { (language.of("It is not known under which address edges reach this gateway, so no token can be made. Set `addresses` in its configuration, and restart it.", "未设置边缘设备访问网关的地址，无法生成令牌。请在网关配置中设置 addresses 并重启。")) }
                } @else {
                    form data-api="/api/v1/tokens" data-then="secret" data-once data-hides {
                        input type="hidden" name="tenant" value=(view.tenant);
                        input type="hidden" name="site" value=(view.site);
                        div data-before {
                            p.small.soft { (language.of("A token that was made before stays good until it is used or a day has passed. If you lost it, make another.", "之前生成的令牌在使用前或一天内仍有效；如已丢失，请重新生成。")) }
                            button type="submit" { (language.of("Make a token", "生成令牌")) }
                        }
                        (problem_place())
                        (secret("token", &file, (language.of("The token, once", "令牌（仅显示一次）"), html! {}), language))
                    }
                    p.small.soft { (language.of("Its edge will dial ", "边缘设备将连接 ")) (reachable.join(", ")) (language.of(" (UDP): the firewall has to let that out and in.", "（UDP），请确认防火墙已放行。")) }
                }
                p { a.button href=(path(view, 3)) { (language.of("Next: wait for the edge", "下一步：等待接入")) } }
            }
            section.card {
                h2 { (language.of("At the branch", "在网点")) }
                ol.plain {
                    li { (language.of("On the edge's own page: open it on the box, paste the token, press Enrol.", "通过设备页面：在设备上打开以下地址，粘贴令牌并点击注册。"))
                        pre { "http://127.0.0.1:9472/" } }
                    li { (language.of("Or by commands, with the token in a file that only root may read:", "或使用命令，令牌保存在仅 root 可读的文件中："))
                        pre { "sluice-edge enrol --token-file " (file) "\nsluice-edge run" } }
                    li { (language.of("Then say what is to be replicated:", "然后添加要复制的卷："))
                        pre { "sluice-edge volume add data --source block:/dev/vg0/data" } }
                }
                p.hint { (language.of("Nothing is sent outside of the schedule that you chose.", "在所选时间之外不会传输数据。")) }
            }
        }
    }
}

// ---- the third step

fn waiting(view: &SiteView, language: Language) -> Markup {
    let path = format!("{}/{}", escaped(&view.tenant), escaped(&view.site));
    let connected = !matches!(view.state, SiteState::NeverConnected | SiteState::Away | SiteState::Revoked);
    html! {
        section.card data-part="waiting" aria-live="polite" {
            h2 { (view.site) " " span.soft { (view.tenant) } }
            p.big { (say::chip(view, language)) }
            @if connected {
                p.note.good { (language.of("The edge is connected. Its site is ready.", "边缘设备已连接，站点就绪。")) }
                @if view.volumes.is_empty() {
                    p { (language.of("It has no volumes yet: add the first one at the branch, on the edge's page or by", "还没有卷：请在网点的设备页面添加，或执行")) " " code { "sluice-edge volume add" } "." }
                }
                p.row {
                    a.button href={ "/sites/" (path) } { (language.of("To the site", "查看站点")) }
                    a.button.plain href={ "/schedule/" (path) } { (language.of("To its schedule", "查看时间表")) }
                    a.button.plain href="/welcome" { (language.of("Add another site", "继续添加站点")) }
                }
            } @else if view.state == SiteState::NeverConnected {
                p { (language.of("This page waits: as soon as the edge has enrolled and connects, it shows here.", "本页会自动更新：边缘设备注册并连接后即显示在此。")) }
                p.small.soft { (language.of("Nothing after some minutes? Look at the box: ", "几分钟后仍无变化？请在设备上执行：")) code { "sluice-edge status" } (language.of(" says what holds it back. Mostly it is a firewall between the two, or the token was mistyped.", "，查看原因。多为中间防火墙未放行，或令牌输入有误。")) }
            } @else {
                p { (say::sentence(view, &say::Here { language, now: jiff::Timestamp::UNIX_EPOCH, zone: jiff::tz::TimeZone::UTC })) }
                p { a.button.plain href={ "/sites/" (path) } { (language.of("To the site", "查看站点")) } }
            }
        }
        p.noprint { a href={ "/welcome?step=2&site=" (escaped(&format!("{}/{}", view.tenant, view.site))) } { (language.of("Back to the token", "返回令牌")) } }
    }
}
