//! Schedules: which site keeps to which, whether its edge has it, and the page on which one is painted.
//!
//! The page is drawn by `schedule.js`, which keeps what a person paints and asks the API what it means (`POST /policy/draft`); no rule of policies is known to it.

mod editor;

use super::say::Here;
use super::shell::{empty, escaped};
use super::{Fault, Shell, Visitor};
use crate::access::Right;
use crate::api::sites::{Filter, fleet};
use crate::fleet::{Badge, SiteView};
use crate::policies::timestamp;
use crate::web::{Web, blocking};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use look::Language;
use maud::{Markup, html};
use shaping::policy::Policy;
use std::collections::HashMap;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/schedule", get(list)).route("/schedule/{tenant}/{site}", get(editor::show))
}

/// A site, and the name of the schedule that it shares with others; empty: it has no policy.
pub(super) struct Entry {
    pub(super) view: Arc<SiteView>,
    pub(super) group: String,
}

async fn list(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let entries = match entries(&web, &visitor, None).await {
        Ok(entries) => entries,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    let now = timestamp(web.state.now());
    let content = html! {
        div.head { div {
            h1 { (language.of("Schedules", "时间表")) }
            p.soft { (language.of("When and how fast each site's line may be used. Sites under one letter keep to the same schedule.", "规定各站点专线的使用时间与速率。字母相同的站点使用同一份时间表。")) }
        } }
        @if entries.is_empty() {
            (empty(language.of("There are no sites yet", "还没有站点"), html! {
                p { (language.of("A schedule belongs to a site. Add the first site, then come back.", "时间表属于站点。请先添加站点，再返回此页。")) }
                @if visitor.has(Right::Administer) { a.button href="/welcome" { (language.of("Add a site", "添加站点")) } }
            }))
        } @else {
            div.scroll data-part="schedules" tabindex="0" role="region" aria-label=(language.of("Schedules", "时间表")) {
                table.stack {
                    thead { tr {
                        th { (language.of("Site", "站点")) } th { (language.of("Schedule", "时间表")) }
                        th { (language.of("Zone", "时区")) } th { (language.of("Policy", "策略")) }
                        th { (language.of("At the edge", "边缘设备")) } th { span.sr { (language.of("Actions", "操作")) } }
                    } }
                    tbody { @for entry in &entries { (row(entry, &visitor, &Here::at(&entry.view, now, language))) } }
                }
            }
        }
    };
    let title = language.of("Schedules", "时间表");
    Ok(Shell { visitor: &visitor, title, place: "/schedule", follows: Some(""), content }.render().into_response())
}

fn row(entry: &Entry, visitor: &Visitor, here: &Here) -> Markup {
    let (view, language) = (&entry.view, here.language);
    let path = format!("/schedule/{}/{}", escaped(&view.tenant), escaped(&view.site));
    let open = match (view.policy, visitor.has(Right::Operate)) {
        (None, true) => language.of("Make one", "新建"),
        (_, true) => language.of("Edit", "编辑"),
        _ => language.of("Look", "查看"),
    };
    html! {
        tr {
            td { a href=(path) { strong { (view.site) } } " " span.soft.small { (view.tenant) } }
            td data-label=(language.of("Schedule", "时间表")) {
                @if entry.group.is_empty() { span.soft { (language.of("none", "无")) } } @else { span.chip { (entry.group) } }
            }
            td data-label=(language.of("Zone", "时区")) { @if view.policy.is_some() { (view.zone) } @else { "–" } }
            td data-label=(language.of("Policy", "策略")) {
                @match view.policy { Some(version) => { (language.of("version ", "版本 ")) (version) } None => { "–" } }
            }
            td data-label=(language.of("At the edge", "边缘设备")) { (held(view, language)) }
            td { a.button.plain href=(path) aria-label={ (open) " " (view.site) } { (open) } }
        }
    }
}

/// Whether the edge holds the policy in force.
pub(super) fn held(view: &SiteView, language: Language) -> Markup {
    let refused = view.badges.iter().find_map(|badge| match badge {
        Badge::PolicyRefused { why } => Some(why),
        _ => None,
    });
    let Some(version) = view.policy else {
        return html! { span.chip { (language.of("no policy", "没有策略")) } };
    };
    match (refused, view.policy_held) {
        (Some(why), held) => html! {
            span.chip.bad { (language.of("refused", "已拒绝")) } " " span.small { (why) }
            @if let Some(held) = held { span.small.soft { " · " (language.of("it holds version ", "仍使用版本 ")) (held) } }
        },
        (None, Some(held)) if held >= version => html! { span.chip.good { (language.of("acknowledged", "已确认")) } },
        (None, Some(held)) => html! {
            span.chip.warn { (language.of("waits", "等待下发")) } " "
            span.small.soft { @if held == 0 { (language.of("its edge holds none", "设备上没有策略")) } @else { (language.of("its edge holds version ", "设备上是版本 ")) (held) } }
        },
        (None, None) => html! {
            span.chip.warn { (language.of("waits", "等待下发")) } " " span.small.soft { (language.of("no edge has come yet", "设备尚未连接")) }
        },
    }
}

/// Sites of one tenant, or all that the visitor sees, with the letters of their schedules.
pub(super) async fn entries(
    web: &Arc<Web>,
    visitor: &Visitor,
    tenant: Option<&str>,
) -> Result<Vec<Entry>, crate::api::Problem> {
    let mut views = fleet(web, &visitor.caller, Filter::default()).await?;
    views.retain(|view| tenant.is_none_or(|tenant| view.tenant == tenant));
    let web = web.clone();
    blocking(move || {
        let now = timestamp(web.state.now());
        let sites = web.state.catalogue.sites()?;
        let mut letters: HashMap<[u8; 32], String> = HashMap::new();
        let mut entries = Vec::with_capacity(views.len());
        for view in views {
            let site = sites.iter().find(|site| site.id.to_string() == view.id);
            let ruled = match site {
                Some(site) => web.fleet.ruled(site.id, web.state.catalogue.policy(site.id)?.as_ref(), now),
                None => None, // it was removed a moment ago
            };
            let next = letters.len();
            let group =
                ruled.map(|ruled| letters.entry(likeness(&ruled.policy)).or_insert_with(|| letter(next)).clone());
            entries.push(Entry { view, group: group.unwrap_or_default() });
        }
        Ok(entries)
    })
    .await
}

/// The same for policies whose schedules say the same, whatever their lines are.
fn likeness(policy: &Policy) -> [u8; 32] {
    let schedule = (
        &policy.profiles,
        &policy.grid,
        (&policy.holidays, policy.holidays_as, policy.working_as),
        &policy.exceptions,
        &policy.blackouts,
    );
    *blake3::hash(format!("{schedule:?}").as_bytes()).as_bytes()
}

/// A to Z, then A1, B1, …
fn letter(number: usize) -> String {
    let letter = char::from(b'A' + (number % 26) as u8);
    if number < 26 { letter.to_string() } else { format!("{letter}{}", number / 26) }
}
