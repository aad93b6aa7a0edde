//! All sites: a row for each. Small enough for five hundred of them on one page.

use super::say::{self, Here};
use super::{Fault, Shell, Visitor};
use crate::access::Right;
use crate::api::sites::{Filter, fleet};
use crate::fleet::{Mood, SiteState, SiteView};
use crate::policies::timestamp;
use crate::ui::shell::escaped;
use crate::web::Web;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use jiff::Timestamp;
use look::{Language, Strip, format};
use maud::{Markup, html};
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/", get(show))
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor, Query(filter): Query<Filter>) -> Result<Response, Fault> {
    let all = match fleet(&web, &visitor.caller, Filter::default()).await {
        Ok(all) => all,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    if all.is_empty() && visitor.has(Right::Administer) {
        return Ok(Redirect::to("/welcome").into_response());
    }
    let fits = match fleet(&web, &visitor.caller, filter.clone()).await {
        Ok(fits) => fits,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let (language, now) = (visitor.language, timestamp(web.state.now()));
    let content = html! {
        div.head {
            div {
                h1 { (language.of("Fleet", "站点总览")) }
                @if all.is_empty() {
                    p { (language.of("There are no sites yet. An administrator adds the first one.", "还没有站点，请管理员添加第一个站点。")) }
                }
            }
            @if visitor.has(Right::Administer) {
                a.button href="/welcome" { (language.of("Add a site", "添加站点")) }
            }
        }
        div data-part="tiles" { (tiles(&all, &filter, language)) }
        (filters(&filter, language))
        div.scroll data-part="rows" tabindex="0" role="region" aria-label=(language.of("Sites", "站点")) {
            table.fleet {
                (heading(language, visitor.has(Right::Operate)))
                tbody { @for site in &fits { (row(site, now, language, visitor.has(Right::Operate))) } }
            }
            @if fits.is_empty() && !all.is_empty() {
                p.soft { (language.of("No site fits these filters.", "没有符合条件的站点。")) }
            }
        }
        (legend(language))
        @if visitor.has(Right::Operate) { (bulk(language)) }
    };
    let title = language.of("Fleet", "站点总览");
    Ok(Shell { visitor: &visitor, title, place: "/", follows: Some(""), content }.render().into_response())
}

/// How many sites are in which state; each leads to them.
fn tiles(all: &[Arc<SiteView>], filter: &Filter, language: Language) -> Markup {
    let count = |state: SiteState| all.iter().filter(|site| site.state == state).count();
    let attention = all.iter().filter(|site| site.mood >= Mood::Warn).count();
    let backlog: u64 = all.iter().map(|site| site.backlog).sum();
    let wants = filter.attention();
    html! {
        div.tiles {
            a.tile href="/" aria-current=[(filter.state().is_none() && !wants).then_some("true")] {
                b { (all.len()) } (language.of("sites", "站点"))
            }
            a.tile href="/?attention=true" aria-current=[wants.then_some("true")] {
                b { (attention) } (language.of("need somebody", "需要处理"))
            }
            @for state in [SiteState::Sending, SiteState::Idle, SiteState::Closed, SiteState::Away] {
                a.tile href={ "/?state=" (state.word()) } aria-current=[(filter.state() == Some(state)).then_some("true")] {
                    b { (count(state)) } (say::state(state, language))
                }
            }
            div.tile { b { (format::bytes(backlog)) } (language.of("still to cross", "待传数据")) }
        }
    }
}

fn filters(filter: &Filter, language: Language) -> Markup {
    html! {
        form.filters method="get" action="/" data-live role="search" {
            div.field {
                label for="q" { (language.of("Name", "名称")) }
                input #q name="q" type="search" value=(filter.q()) placeholder=(language.of("part of a name", "名称关键字")) maxlength="100";
            }
            div.field {
                label for="state" { (language.of("State", "状态")) }
                select #state name="state" {
                    // An empty word is no state: the option has no value of its own to send.
                    option value="" { (language.of("all", "全部")) }
                    @for state in SiteState::ALL {
                        option value=(state.word()) selected[filter.state() == Some(state)] { (say::state(state, language)) }
                    }
                }
            }
            div.field {
                label.check {
                    input type="checkbox" name="attention" value="true" checked[filter.attention()];
                    (language.of("only those that need somebody", "仅显示需要处理的"))
                }
            }
            button.plain type="submit" { (language.of("Show", "筛选")) }
        }
    }
}

fn heading(language: Language, steers: bool) -> Markup {
    html! {
        thead { tr {
            th { @if steers { input type="checkbox" data-tick-all aria-label=(language.of("Tick all", "全选")); } }
            th { (language.of("Site", "站点")) }
            th { (language.of("Now", "当前")) }
            th { (language.of("Last 24 h", "最近 24 小时")) }
            th { (language.of("Backlog", "待传")) }
            th { (language.of("Arrives", "到达")) }
            th { (language.of("Quota", "配额")) }
            th { (language.of("Restore point", "恢复点")) }
        } }
    }
}

fn row(site: &SiteView, now: Timestamp, language: Language, steers: bool) -> Markup {
    let here = Here::at(site, now, language);
    let path = site_path(site);
    html! {
        tr {
            td { @if steers { input type="checkbox" data-tick value={ (site.tenant) "/" (site.site) } aria-label=(site.site); } }
            td { a href=(path) { (site.site) } small { (site.tenant) } }
            td {
                (say::chip(site, language))
                @if let Some(first) = site.badges.first() {
                    " " span.chip.(say::mood(first.mood())) { (say::badge(first, &here)) }
                    @if site.badges.len() > 1 { " +" (site.badges.len() - 1) }
                }
                small { (say::sentence(site, &here)) }
            }
            td { (strip(site)) }
            td { @if site.backlog > 0 { (format::bytes(site.backlog)) } }
            td { (arrival(site, &here)) }
            td { @if let Some(quota) = site.quotas.first() { (quota_meter(quota.used, quota.limit)) } }
            td { @if let Some(point) = site.restore_point { (here.age(point)) } }
        }
    }
}

/// The last day.
pub(super) fn strip(site: &SiteView) -> Markup {
    // Half hours: twice as coarse as the schedule, which nobody sees at this width, and half the bytes.
    let halves = site.strip.sent.chunks(2).flat_map(|pair| {
        let mean = pair.iter().map(|step| u32::from(*step)).sum::<u32>().div_ceil(pair.len() as u32) as u16;
        std::iter::repeat_n(mean, pair.len())
    });
    let steps = site.strip.sent.len() as u32;
    // Now is where it ends: it needs no mark.
    let drawn =
        Strip { steps, spans: site.strip.spans.clone(), sent: halves.collect(), forecast: Vec::new(), now: None };
    drawn.draw()
}

fn arrival(site: &SiteView, here: &Here) -> Markup {
    let late = matches!((site.arrives, site.deadline), (Some(arrives), Some(deadline)) if arrives > deadline);
    html! {
        @if let Some(arrives) = site.arrives { (here.moment(arrives)) }
        @if let Some(deadline) = site.deadline.filter(|_| site.backlog > 0) {
            small.bad[late] { (here.language.of("due ", "时限 ")) (here.moment(deadline)) }
        }
    }
}

/// How much of a quota is used, in few bytes: there are five hundred of them.
fn quota_meter(used: u64, limit: u64) -> Markup {
    let share = (u128::from(used) * 100 / u128::from(limit.max(1))).min(100) as u64;
    html! { meter max="100" value=(share) title={ (share) " %" } {} small { (share) " %" } }
}

/// How much of a quota is used; a mark where an even pace would be.
pub(super) fn quota_bar(used: u64, limit: u64, passed: Option<u16>) -> Markup {
    let width = (u128::from(used) * 100 / u128::from(limit.max(1))).min(100) as u64;
    html! {
        svg.bar viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            rect.(if width >= 90 { "w" } else { "u" }) width=(width) height="8" {}
            @if let Some(passed) = passed { path.p d={ "M" (passed / 10) " 0v8" } {} }
        }
        small { (width) " %" }
    }
}

fn legend(language: Language) -> Markup {
    html! {
        p.small.soft {
            span.key.o {} (language.of("may be sent", "允许传输")) " "
            span.key.x {} (language.of("blackout, pause or hold", "禁传、暂停或冻结")) " "
            span.key.a {} (language.of("was sent", "已传输"))
        }
    }
}

fn bulk(language: Language) -> Markup {
    html! {
        form.bulk data-bulk hidden {
            div.row {
                strong { span data-count { "0" } " " (language.of("sites", "个站点")) }
                div.field {
                    label.sr for="bulk-bend" { (language.of("What", "操作")) }
                    select #bulk-bend name="bend" {
                        option value="pause" { (language.of("pause", "暂停")) }
                        option value="boost" { (language.of("boost", "提速")) }
                    }
                }
                div.field {
                    label.sr for="bulk-rate" { (language.of("Rate of a boost", "提速速率")) }
                    input #bulk-rate name="rate" placeholder=(language.of("rate of a boost: 2 Mbit/s", "提速速率：2 Mbit/s")) maxlength="30";
                }
                div.field {
                    label.sr for="bulk-until" { (language.of("Until", "截止时间")) }
                    input #bulk-until name="until" required placeholder=(language.of("until: 07:30", "截止：07:30")) maxlength="30";
                }
                div.field {
                    label.sr for="bulk-reason" { (language.of("Reason", "原因")) }
                    input #bulk-reason name="reason" required placeholder=(language.of("reason", "原因")) maxlength="500";
                }
                button type="submit" { (language.of("Do it", "执行")) }
            }
            (super::shell::problem_place())
        }
    }
}

/// The page of a site.
pub(super) fn site_path(site: &SiteView) -> String {
    format!("/sites/{}/{}", escaped(&site.tenant), escaped(&site.site))
}
