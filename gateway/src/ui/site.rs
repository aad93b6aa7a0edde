//! One site: the one sentence, a day back and two days ahead, volumes, quotas, what bends its schedule, what was changed.

use super::fleet::quota_bar;
use super::say::{self, Here};
use super::shell::{escaped, problem_place};
use super::{Fault, Shell, Visitor};
use crate::access::Right;
use crate::api::releases::site_versions;
use crate::api::sites::with_site;
use crate::api::{Problem, named};
use crate::catalogue::LineEvent;
use crate::fleet::{Ruled, STEPS_PER_DAY, SiteView, VolumeBrief, shade};
use crate::policies::{self, timestamp};
use crate::web::Web;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::{SignedDuration, Timestamp};
use look::{Language, Strip, format};
use maud::{Markup, html};
use serde::Deserialize;
use shaping::policy::{Bend, Override, Policy, VolumeClass, VolumeRule};
use shaping::{Rate, forecast};
use std::sync::Arc;
use tokio::time::Instant;

/// Changes that are shown.
const EVENTS: usize = 12;
/// Hours that the timeline looks ahead.
const AHEAD_HOURS: i64 = 48;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/sites/{tenant}/{site}", get(show)).route("/sites/{tenant}/{site}/cost", get(cost))
}

/// Everything that the page shows.
struct Known {
    view: SiteView,
    ruled: Option<Arc<Ruled>>,
    events: Vec<LineEvent>,
    may_operate: bool,
    may_administer: bool,
}

async fn show(
    State(web): State<Arc<Web>>,
    visitor: Visitor,
    Path((tenant, site)): Path<(String, String)>,
) -> Result<Response, Fault> {
    let known = with_site(&web, &visitor.caller, &tenant, &site, |web, caller, tenant, site| {
        let view = web.fleet.site(caller, tenant, site, Instant::now())?;
        let row = web.state.catalogue.policy(site.id)?;
        let ruled = web.fleet.ruled(site.id, row.as_ref(), timestamp(web.state.now()));
        let mut events = web.state.catalogue.line_events(site.id)?;
        events.reverse();
        events.truncate(EVENTS);
        let may = |right| caller.require(right, Some(tenant.id)).is_ok();
        Ok(Known { view, ruled, events, may_operate: may(Right::Operate), may_administer: may(Right::Administer) })
    });
    let known = match known.await {
        Ok(known) => known,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    // A site that is no appliance has none.
    let version = site_versions(&web, &visitor.caller, format!("{tenant}/{site}")).await.ok();
    let (language, now) = (visitor.language, timestamp(web.state.now()));
    let here = Here::at(&known.view, now, language);
    let path = format!("{}/{}", escaped(&tenant), escaped(&site));
    let content = html! {
        (head(&known, &here, &path))
        section.card.timeline data-part="timeline" aria-label=(language.of("Timeline", "时间线")) { (timeline(&known, &here)) }
        div.two {
            div {
                section.card data-part="volumes" aria-labelledby="volumes" { (volumes(&known, &here, &path)) }
                section.card data-part="events" aria-labelledby="events" { (events(&known.events, &here)) }
            }
            div {
                @if let Some(ruled) = &known.ruled { (quotas(&known.view, language)) (bends(&known, ruled, &here, &path)) }
                @else { (no_policy(&known, language, &path)) }
                (facts(&known, &here, &path))
                (super::releases::of_site(version.as_ref(), language))
            }
        }
    };
    let title = known.view.site.clone();
    let follows = format!("{}/{}", known.view.tenant, known.view.site);
    Ok(Shell { visitor: &visitor, title: &title, place: "/", follows: Some(&follows), content }
        .render()
        .into_response())
}

fn head(known: &Known, here: &Here, path: &str) -> Markup {
    let (view, language) = (&known.view, here.language);
    html! {
        div.head {
            div data-part="now" {
                h1 { (view.site) " " span.soft { (view.tenant) } }
                p.big { (say::chip(view, language)) " " (say::sentence(view, here)) }
                p { (say::badges(&view.badges, here)) }
            }
            div.row {
                @if known.may_operate {
                    a.button href={ "/schedule/" (path) } { (language.of("Schedule", "时间表")) }
                    @if known.ruled.is_some() { (hold(known, here, path)) }
                }
                a.button.plain href={ "/reports?site=" (escaped(&format!("{}/{}", view.tenant, view.site))) } { (language.of("Line report", "专线报告")) }
            }
        }
    }
}

fn hold(known: &Known, here: &Here, path: &str) -> Markup {
    let language = here.language;
    let held = known.ruled.as_ref().is_some_and(|ruled| ruled.policy.hold.is_some());
    let (title, hint, button) = match held {
        true => (
            language.of("Release", "解除冻结"),
            language.of("Why may it go on?", "恢复传输的原因"),
            language.of("Release it", "解除"),
        ),
        false => (
            language.of("Hold", "冻结"),
            language.of("Why is everything stopped?", "停止全部传输的原因"),
            language.of("Hold the site", "冻结站点"),
        ),
    };
    html! {
        details {
            summary { (title) }
            form.card data-api={ "/api/v1/sites/" (path) "/hold" } data-method=(if held { "DELETE" } else { "PUT" }) {
                div.field {
                    label for="hold-reason" { (hint) }
                    input #hold-reason name="reason" required maxlength="500";
                }
                (problem_place())
                button.danger[!held] type="submit" { (button) }
            }
        }
    }
}

// ---- the timeline

fn timeline(known: &Known, here: &Here) -> Markup {
    let (view, language) = (&known.view, here.language);
    let ahead = (AHEAD_HOURS * 4) as u32;
    let (begins, steps) = (Timestamp::from_second(view.strip.first).unwrap_or(here.now), STEPS_PER_DAY + ahead);
    let ends = begins.checked_add(SignedDuration::from_mins(i64::from(steps) * 15)).unwrap_or(begins);
    let spans = known.ruled.as_deref().map(|ruled| shade(ruled, begins, ends)).unwrap_or_default();
    let forecast = forecast_of(view, &spans, ahead);
    let strip = Strip { steps, spans, sent: view.strip.sent.clone(), forecast, now: Some(STEPS_PER_DAY) };
    // A tick each six hours of the site's clock.
    let ticks = (0..=(24 + AHEAD_HOURS) / 6)
        .map(|tick| begins.checked_add(SignedDuration::from_hours(tick * 6)).unwrap_or(begins));
    html! {
        h2 { (language.of("A day back, two days ahead", "前一天与后两天")) }
        (strip.draw())
        div.ticks aria-hidden="true" { @for at in ticks { span { (format::moment(at, here.now, &here.zone, language)) } } }
        p.small.soft {
            span.key.o {} (language.of("may be sent", "允许传输")) " "
            span.key.x {} (language.of("blackout, pause or hold", "禁传、暂停或冻结")) " "
            span.key.a {} (language.of("was sent", "已传输")) " "
            span.key.f {} (language.of("forecast", "预测")) " "
            span.key.n {} (language.of("now", "当前时间"))
        }
        p { (outlook(view, here)) }
    }
}

/// What will be sent: all that is allowed, until what waits has arrived.
fn forecast_of(view: &SiteView, spans: &[look::Span], ahead: u32) -> Vec<u16> {
    let Some(arrives) = view.arrives.filter(|_| view.backlog > 0) else { return Vec::new() };
    let begins = view.strip.first + i64::from(STEPS_PER_DAY) * 900;
    let until = i64::try_from(arrives).map_or(0, |arrives| (arrives - begins).max(0) / 900) as u32;
    let height = |step: u32| {
        let at = STEPS_PER_DAY + step;
        spans.iter().find(|span| span.from <= at && at < span.to).map_or(0, |span| span.height)
    };
    (0..ahead.min(until + 1)).map(height).collect()
}

/// When what waits will have arrived, in a sentence.
fn outlook(view: &SiteView, here: &Here) -> String {
    let language = here.language;
    let backlog = format::bytes(view.backlog);
    match (view.backlog, view.arrives, view.deadline) {
        (0, ..) => language.of("Nothing waits to be sent.", "没有待传数据。").into(),
        (_, None, _) => language.of(
            format!("{backlog} still have to cross; nobody can tell when they will have."),
            format!("还有 {backlog} 待传，暂时无法预测完成时间。"),
        ),
        (_, Some(arrives), Some(deadline)) if arrives > deadline => {
            let (at, late) = (here.moment(arrives), format::duration(arrives - deadline, language));
            language.of(
                format!("{backlog} still have to cross; they arrive {at}, {late} too late. A longer window or a boost would help."),
                format!("还有 {backlog} 待传，预计 {at} 完成，将超时 {late}。可延长传输窗口或提速。"),
            )
        }
        (_, Some(arrives), _) => {
            let at = here.moment(arrives);
            language.of(
                format!("{backlog} still have to cross; they will have by {at}."),
                format!("还有 {backlog} 待传，预计 {at} 完成。"),
            )
        }
    }
}

// ---- volumes, events

fn volumes(known: &Known, here: &Here, path: &str) -> Markup {
    let (view, language) = (&known.view, here.language);
    html! {
        h2 #volumes { (language.of("Volumes", "卷")) }
        @if view.volumes.is_empty() {
            p { (language.of("There are no volumes yet. At the branch, on the edge's page or by:", "还没有卷。请在网点的边缘设备页面添加，或执行：")) }
            pre { "sluice-edge volume add NAME --source block:/dev/vg0/data" }
        } @else {
            div.scroll tabindex="0" role="region" aria-label=(language.of("Table of volumes", "卷列表")) {
                table.stack {
                    thead { tr {
                        th { (language.of("Volume", "卷")) } th { (language.of("State", "状态")) }
                        th { (language.of("Class, weight", "等级与权重")) }
                        th.number { (language.of("Size", "大小")) } th { (language.of("Restore point", "恢复点")) }
                        th.number { (language.of("Changes", "变化量")) } th.number { (language.of("Ratio", "压缩比")) }
                        th { (language.of("On its way", "在途")) }
                    } }
                    tbody { @for volume in &view.volumes { (volume_row(volume, rule_of(known, &volume.name), here, path)) } }
                }
            }
        }
    }
}

/// What the policy says of a volume.
fn rule_of<'a>(known: &'a Known, name: &str) -> Option<&'a VolumeRule> {
    known.ruled.as_ref()?.policy.volumes.iter().find(|rule| rule.name == name)
}

fn volume_row(volume: &VolumeBrief, rule: Option<&VolumeRule>, here: &Here, path: &str) -> Markup {
    let language = here.language;
    let (class, text) = say::volume(volume.doing, language);
    let ratio = (volume.coded_bytes > 0).then(|| volume.new_bytes as f64 / volume.coded_bytes as f64);
    html! {
        tr {
            td { a href={ "/volumes/" (path) "/" (escaped(&volume.name)) } { (volume.name) } }
            td data-label=(language.of("State", "状态")) { span.chip.(class) { (text) } }
            td data-label=(language.of("Class, weight", "等级与权重")) {
                (volume_class(rule.map_or(VolumeClass::default(), |rule| rule.class), language)) ", " (rule.map_or(100, |rule| rule.weight))
                @if let Some(cap) = rule.and_then(|rule| rule.cap) { ", ≤ " (cap) }
            }
            td.number data-label=(language.of("Size", "大小")) { (format::bytes(volume.size)) }
            td data-label=(language.of("Restore point", "恢复点")) {
                @match volume.restore_point {
                    Some(point) => { (here.ago(point)) }
                    None => { (language.of("none yet", "暂无")) }
                }
                @if let Some(lag) = rule.and_then(|rule| rule.lag) {
                    br; span.small.soft { (language.of("at most ", "最多 ")) (format::duration(lag.as_secs(), language)) }
                }
            }
            td.number data-label=(language.of("Changes", "变化量")) { @if let Some(changed) = volume.changed { (format::bytes(changed)) } @else { "–" } }
            td.number data-label=(language.of("Ratio", "压缩比")) { @if let Some(ratio) = ratio { (format!("{ratio:.1}")) " : 1" } @else { "–" } }
            td data-label=(language.of("On its way", "在途")) {
                @if volume.left > 0 {
                    (format::bytes(volume.left))
                    @if let Some(arrives) = volume.arrives { ", " (here.moment(arrives)) }
                } @else { "–" }
            }
        }
    }
}

fn volume_class(class: VolumeClass, language: Language) -> &'static str {
    match class {
        VolumeClass::Critical => language.of("critical", "关键"),
        VolumeClass::Normal => language.of("normal", "普通"),
        VolumeClass::Bulk => language.of("bulk", "批量"),
    }
}

fn events(events: &[LineEvent], here: &Here) -> Markup {
    let language = here.language;
    html! {
        h2 #events { (language.of("What was changed", "变更记录")) }
        @if events.is_empty() { p.soft { (language.of("Nothing yet.", "暂无。")) } }
        ul.history {
            @for event in events {
                li {
                    strong { (event.actor) } " " (say::change(&event.what.to_string(), language)) " "
                    span.soft { (here.moment(event.time.0 / 1000)) ", " (language.of("version ", "版本 ")) (event.to) }
                    br; (event.reason)
                }
            }
        }
    }
}

// ---- quotas, overrides

fn quotas(view: &SiteView, language: Language) -> Markup {
    html! {
        @if !view.quotas.is_empty() {
            section.card data-part="quotas" {
                h2 { (language.of("Quotas", "配额")) }
                @for quota in &view.quotas {
                    p {
                        (say::period(&quota.period, language)) ": " (format::bytes(quota.used)) " / " (format::bytes(quota.limit))
                        (quota_bar(quota.used, quota.limit, quota.passed))
                    }
                }
                p.hint { (language.of("The line marks an even pace.", "竖线表示匀速使用的进度。")) }
            }
        }
    }
}

fn bends(known: &Known, ruled: &Ruled, here: &Here, path: &str) -> Markup {
    let language = here.language;
    let ahead: Vec<&Override> = ruled.policy.overrides.iter().filter(|bend| bend.until > here.now).collect();
    html! {
        section.card {
            h2 { (language.of("Pause and boost", "暂停与提速")) }
            @for bend in &ahead { (bend_line(bend, here, path, known.may_operate)) }
            @if known.may_operate {
                (pause_form(here, path))
                (boost_form(ruled, here, path))
            } @else if ahead.is_empty() { p.soft { (language.of("Nothing bends the schedule.", "没有临时调整。")) } }
        }
    }
}

fn bend_line(bend: &Override, here: &Here, path: &str, may: bool) -> Markup {
    let language = here.language;
    let what = match bend.bend {
        Bend::Pause => language.of("Pause", "暂停").to_owned(),
        Bend::Boost { rate, pierce } => {
            let rate = rate.limit().map_or(u64::MAX, |limit| limit.bits());
            let also = if pierce { language.of(", also in blackouts", "，含禁传时段") } else { "" };
            format!("{} {}{also}", language.of("Boost", "提速"), format::rate(rate, language))
        }
        Bend::Class(class) => format!("{} {}", language.of("Class", "等级"), class.word()),
        Bend::Weight(weight) => format!("{} {weight}", language.of("Weight", "权重")),
    };
    let second = |at: Timestamp| u64::try_from(at.as_second()).unwrap_or(0);
    html! {
        div.note {
            strong { (what) @if let Some(volume) = &bend.volume { " · " (volume) } }
            " " (here.moment(second(bend.from))) " – " (here.moment(second(bend.until)))
            br; (bend.actor) ": " (bend.reason)
            @if may {
                form data-api={ "/api/v1/sites/" (path) "/overrides/" (bend.id) } data-method="DELETE" {
                    label.sr for={ "end-" (bend.id) } { (language.of("Why is it ended?", "结束原因")) }
                    div.row {
                        input id={ "end-" (bend.id) } name="reason" required placeholder=(language.of("why is it ended?", "结束原因")) maxlength="500";
                        button.plain type="submit" { (language.of("End it", "结束")) }
                    }
                    (problem_place())
                }
            }
        }
    }
}

fn pause_form(here: &Here, path: &str) -> Markup {
    let language = here.language;
    html! {
        details {
            summary { (language.of("Pause for a while", "暂停一段时间")) }
            form data-api={ "/api/v1/sites/" (path) "/overrides" } data-cost={ "/sites/" (path) "/cost" } {
                input type="hidden" name="bend" value="pause";
                (until_field("pause", language))
                (reason_field("pause", language))
                div.cost.small aria-live="polite" {}
                (problem_place())
                button type="submit" { (language.of("Pause", "暂停")) }
            }
        }
    }
}

fn boost_form(ruled: &Ruled, here: &Here, path: &str) -> Markup {
    let language = here.language;
    let cap = ruled.policy.line.cap.of(ruled.policy.line.up);
    html! {
        details {
            summary { (language.of("Boost for a while", "提速一段时间")) }
            form data-api={ "/api/v1/sites/" (path) "/overrides" } data-cost={ "/sites/" (path) "/cost" } {
                input type="hidden" name="bend" value="boost";
                div.field {
                    label for="boost-rate" { (language.of("Rate", "速率")) }
                    input #boost-rate name="rate" required value=(cap) maxlength="30" aria-describedby="boost-cap";
                    p.hint #boost-cap { (language.of("The line's cap stays: ", "仍受专线上限约束：")) (cap) }
                }
                (until_field("boost", language))
                (reason_field("boost", language))
                div.field {
                    label.check { input type="checkbox" name="pierce" data-type="bool"; (language.of("Also in blackouts: the owner of the line has to agree", "含禁传时段：须经专线负责人审批")) }
                }
                div.cost.small aria-live="polite" {}
                (problem_place())
                button type="submit" { (language.of("Boost", "提速")) }
            }
        }
    }
}

fn until_field(of: &str, language: Language) -> Markup {
    html! {
        div.field {
            label for={ (of) "-until" } { (language.of("Until", "截止时间")) }
            input id={ (of) "-until" } name="until" required value="07:30" maxlength="40" aria-describedby={ (of) "-until-hint" };
            p.hint id={ (of) "-until-hint" } { (language.of("Of the site's clock: 07:30, or 2026-12-24 07:30", "站点当地时间：07:30 或 2026-12-24 07:30")) }
        }
    }
}

fn reason_field(of: &str, language: Language) -> Markup {
    html! {
        div.field {
            label for={ (of) "-reason" } { (language.of("Reason", "原因")) }
            input id={ (of) "-reason" } name="reason" required maxlength="500";
        }
    }
}

fn no_policy(known: &Known, language: Language, path: &str) -> Markup {
    html! {
        section.card {
            h2 { (language.of("No policy yet", "尚无策略")) }
            p { (language.of("Without a policy the edge goes by the rate of its own configuration, and sends nothing where that has none.", "没有策略时，边缘设备按自身配置的速率传输；若未配置速率，则不传输数据。")) }
            @if known.may_operate { a.button href={ "/schedule/" (path) } { (language.of("Make a schedule", "制定时间表")) } }
        }
    }
}

fn facts(known: &Known, here: &Here, path: &str) -> Markup {
    let (view, language) = (&known.view, here.language);
    let version = |version: Option<u64>| version.map_or("–".to_owned(), |version| version.to_string());
    html! {
        section.card data-part="facts" {
            h2 { (language.of("The edge", "边缘设备")) }
            dl.facts {
                dt { (language.of("Software", "软件版本")) } dd { @if view.software.is_empty() { "–" } @else { (view.software) } }
                dt { (language.of("Last session", "最近会话")) } dd { @if let Some(seen) = view.seen { (here.ago(seen)) } @else { "–" } }
                dt { (language.of("Last told", "最近上报")) } dd { @if let Some(heard) = view.heard { (here.ago(heard)) } @else { "–" } }
                dt { (language.of("Policy", "策略")) } dd { (version(view.policy)) " (" (language.of("edge: ", "设备：")) (version(view.policy_held)) ")" }
                dt { (language.of("Time zone", "时区")) } dd { (view.zone) }
            }
            @if known.may_administer {
                details {
                    summary { (language.of("Revoke this site", "吊销此站点")) }
                    p.small { (language.of("Its edge is cut off at once. What the gateway holds stays. A new token lets an edge enrol again.", "立即断开其边缘设备；网关上的数据保留。使用新的注册令牌可重新注册。")) }
                    form data-api={ "/api/v1/sites/" (path) "/revoke" } data-empty
                        data-confirm=(language.of("Cut this site's edge off now?", "确定立即断开此站点的边缘设备？")) {
                        (problem_place())
                        button.danger type="submit" { (language.of("Revoke", "吊销")) }
                    }
                }
                details {
                    summary { (language.of("Decommission this site", "站点退役")) }
                    p.small { (language.of("For a branch that is closed. A second person agrees, its edge is refused from then on, a delay passes, all that was kept of it is erased, and a proof is signed.", "用于已关闭的分支机构。经另一人同意后，其边缘设备即被拒绝；等待期过后，该站点的全部保留内容被擦除，并签署证明。")) }
                    form data-api={ "/api/v1/sites/" (path) "/decommission" }
                        data-confirm=(language.of("Ask to erase everything that was kept of this site?", "确定申请擦除此站点的全部保留内容？")) {
                        (reason_field("decommission", language))
                        (problem_place())
                        button.danger type="submit" { (language.of("Ask to decommission", "申请退役")) }
                    }
                }
            }
        }
    }
}

// ---- what a pause or a boost costs

#[derive(Deserialize)]
struct Bent {
    #[serde(default)]
    bend: String,
    #[serde(default)]
    rate: String,
    #[serde(default)]
    until: String,
    #[serde(default)]
    pierce: String,
}

/// What fits into the line until then, with and without the change: a fragment for the page of the site.
async fn cost(
    State(web): State<Arc<Web>>,
    visitor: Visitor,
    Path((tenant, site)): Path<(String, String)>,
    Query(bent): Query<Bent>,
) -> Result<Response, Problem> {
    named(&tenant, &site)?;
    let language = visitor.language;
    let said = with_site(&web, &visitor.caller, &tenant, &site, move |web, _, _, site| {
        let now = timestamp(web.state.now());
        let row = web.state.catalogue.policy(site.id)?;
        let Some(ruled) = web.fleet.ruled(site.id, row.as_ref(), now) else { return Ok(None) };
        Ok(cost_of(&ruled, &bent, now, language))
    });
    Ok(html! { @if let Some(said) = said.await? { p.note { (said) } } }.into_response())
}

fn cost_of(ruled: &Ruled, bent: &Bent, now: Timestamp, language: Language) -> Option<String> {
    let until = policies::resolve(&bent.until, &ruled.policy.zone, now).ok().filter(|until| *until > now)?;
    let bend = match bent.bend.as_str() {
        "pause" => Bend::Pause,
        _ => Bend::Boost { rate: bent.rate.parse().ok()?, pierce: bent.pierce == "true" },
    };
    let without = fits(ruled, &ruled.policy, now, until);
    let mut policy = ruled.policy.clone();
    let (actor, reason) = (String::new(), String::new());
    policy.overrides.push(Override { id: u64::MAX, bend, from: now, until, volume: None, actor, reason });
    let with = fits(ruled, &policy, now, until);
    let at = format::moment(until, now, &ruled.policy.zone, language);
    let (before, after) = (format::bytes(without), format::bytes(with));
    Some(match with.cmp(&without) {
        std::cmp::Ordering::Less => language.of(
            format!(
                "Until {at} {before} would fit into the line; so it is {after}: {} less.",
                format::bytes(without - with)
            ),
            format!("到 {at} 为止原可传输 {before}，调整后为 {after}，减少 {}。", format::bytes(without - with)),
        ),
        std::cmp::Ordering::Equal => language.of(
            format!("It changes nothing until {at}: {before} fit into the line either way."),
            format!("到 {at} 为止没有变化，可传输量均为 {before}。"),
        ),
        std::cmp::Ordering::Greater => language.of(
            format!(
                "Until {at} {before} would fit into the line; so it is {after}: {} more.",
                format::bytes(with - without)
            ),
            format!("到 {at} 为止原可传输 {before}，调整后为 {after}，增加 {}。", format::bytes(with - without)),
        ),
    })
}

/// Bytes of goodput that may pass between two moments.
fn fits(ruled: &Ruled, policy: &Policy, from: Timestamp, to: Timestamp) -> u64 {
    let mut bits = 0f64;
    let mut at = from;
    while at < to {
        let allowance = crate::fleet::allowed(policy, &ruled.schedule, at);
        let least = at.checked_add(SignedDuration::from_secs(1)).unwrap_or(to);
        let next = allowance.until.unwrap_or(to).max(least).min(to);
        let rate = match allowance.up {
            Rate::Closed => 0,
            Rate::Limited(rate) => rate.bits(),
            Rate::Unlimited => policy.line.up.bits(),
        };
        bits += rate as f64 * next.duration_since(at).as_secs_f64();
        at = next;
    }
    (bits / 8.0 * forecast::EFFICIENCY) as u64
}
