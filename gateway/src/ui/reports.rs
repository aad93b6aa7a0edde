//! A month of a line for whoever owns it: to be looked at, printed and signed.

use super::parts::{SiteName, site_names};
use super::say;
use super::shell::{empty, escaped};
use super::{Fault, Shell, Visitor};
use crate::api::named;
use crate::api::policy::report;
use crate::policies::report::{DayLine, LineReport, Use};
use crate::policies::timestamp;
use crate::web::Web;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};
use look::{Language, format};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

/// Months that can be chosen: evidence is kept for 400 days.
const MONTHS: i32 = 14;
/// Height of the chart in its own units.
const HEIGHT: u64 = 100;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/reports", get(show))
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    site: String,
    #[serde(default)]
    month: String,
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    let sites = match site_names(&web, &visitor.caller).await {
        Ok(sites) => sites,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let (language, now) = (visitor.language, timestamp(web.state.now()).to_zoned(TimeZone::UTC));
    let title = language.of("Line report", "专线报告");
    let asked = wanted.site.split_once('/').map(|(tenant, site)| (tenant.to_owned(), site.to_owned()));
    let Some((tenant, site)) = asked.or_else(|| sites.first().cloned()) else {
        let content = html! {
            h1 { (title) }
            (empty(language.of("No sites yet", "还没有站点"), html! {
                p { (language.of("A report shows what a line was used for in a month, minute by minute as its edge recorded it. Add a site first.", "报告按边缘设备逐分钟的记录，展示专线一个月的使用情况。请先添加站点。")) }
                p { a.button href="/welcome" { (language.of("Add a site", "添加站点")) } }
            }))
        };
        return Ok(Shell { visitor: &visitor, title, place: "/reports", follows: None, content }
            .render()
            .into_response());
    };
    let month = if wanted.month.is_empty() { now.strftime("%Y-%m").to_string() } else { wanted.month };
    let name = match named(&tenant, &site) {
        Ok(name) => name,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let made = match report(&web, &visitor.caller, name, month.clone()).await {
        Ok(made) => made,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let content = html! {
        (choose(&sites, (&tenant, &site), &month, &now, language))
        article.paper { (paper(&tenant, &made, language)) }
    };
    let title = format!("{title} {site} {month}");
    Ok(Shell { visitor: &visitor, title: &title, place: "/reports", follows: None, content }.render().into_response())
}

fn choose(sites: &[SiteName], (tenant, site): (&str, &str), month: &str, now: &Zoned, language: Language) -> Markup {
    let months: Vec<String> = (0..MONTHS)
        .filter_map(|back| now.date().first_of_month().checked_sub(back.months()).ok())
        .map(|first: Date| first.strftime("%Y-%m").to_string())
        .collect();
    let api = format!("/api/v1/sites/{}/{}/report", escaped(tenant), escaped(site));
    html! {
        div.head.noprint {
            form.filters method="get" action="/reports" data-go {
                div.field {
                    label for="site" { (language.of("Site", "站点")) }
                    select #site name="site" {
                        @for (of, name) in sites {
                            @let value = format!("{of}/{name}");
                            option value=(value) selected[of == tenant && name == site] { (name) " · " (of) }
                        }
                    }
                }
                div.field {
                    label for="month" { (language.of("Month", "月份")) }
                    select #month name="month" {
                        @if !months.iter().any(|known| known == month) { option value=(month) selected { (month) } }
                        @for known in &months { option value=(known) selected[known == month] { (known) } }
                    }
                }
                button.plain type="submit" { (language.of("Show", "查看")) }
            }
            div.row {
                button type="button" data-print { (language.of("Print", "打印")) }
                a.button.plain href={ (api) ".csv?month=" (escaped(month)) } download { "CSV" }
                a.button.plain href={ (api) "?month=" (escaped(month)) } download={ (site) "-" (month) ".json" } { "JSON" }
            }
        }
    }
}

/// The report itself, as it is printed.
fn paper(tenant: &str, report: &LineReport, language: Language) -> Markup {
    let total = &report.total;
    let made = timestamp(report.made).to_zoned(TimeZone::get(&report.zone).unwrap_or(TimeZone::UTC));
    html! {
        h1 { (language.of("Line report", "专线使用报告")) ": " (report.site) ", " (report.month) }
        p.soft {
            (tenant) " · " (language.of("time zone ", "时区 ")) (report.zone) " · "
            @if report.policy > 0 { (language.of("policy version ", "策略版本 ")) (report.policy) } @else { (language.of("no policy", "无策略")) }
            " · " (language.of("made ", "生成于 ")) (made.strftime("%Y-%m-%d %H:%M"))
        }
        (verdict(report, language))
        div.figures {
            div { b { (format::bytes(total.sent)) } (language.of("sent by replication", "复制发送")) }
            div { b { (format::bytes(total.received)) } (language.of("received", "接收")) }
            div { b { (format::flow(total.peak_second_bits)) } (language.of("busiest second", "最高单秒速率")) }
            div { b { (format::flow(total.peak_minute_bits)) } (language.of("busiest minute", "最高分钟速率")) }
            div { b { (total.over) } (language.of("minutes over the limit", "超限分钟数")) }
            div { b { (share_recorded(total)) } (language.of("of all minutes recorded", "分钟有记录")) }
        }
        h2 { (language.of("Day by day", "逐日")) }
        (chart(&report.days, language))
        (days(&report.days, language))
        h2 { (language.of("Minutes over the limit", "超限分钟")) }
        @if report.over.is_empty() {
            p { (language.of("None: in no recorded minute more was sent than was allowed.", "无：所有有记录的分钟均未超过允许的流量。")) }
        } @else {
            table {
                thead { tr { th { (language.of("Minute", "时间")) } th.number { (language.of("Sent", "已发送")) } th.number { (language.of("Allowed", "允许")) } } }
                tbody { @for line in &report.over { tr { td { (line.at) } td.number { (format::bytes(line.sent)) } td.number { (format::bytes(line.allowed)) } } } }
            }
            @if total.over > report.over.len() as u64 {
                p.hint { (language.of(format!("{} more are in the JSON and CSV.", total.over - report.over.len() as u64), format!("另有 {} 分钟未列出，计入逐日统计。", total.over - report.over.len() as u64))) }
            }
        }
        h2 { (language.of("Quotas", "配额")) }
        (quotas(report, language))
        h2 { (language.of("Overrides and changes", "临时调整与变更")) }
        (events(report, language))
        (signatures(language))
    }
}

/// The one sentence that the line's owner looks for.
fn verdict(report: &LineReport, language: Language) -> Markup {
    let exceeded: usize = report.quotas.iter().map(|quota| quota.exceeded).sum();
    match (report.total.recorded, report.total.over, exceeded) {
        (0, ..) => {
            html! { p.note { (language.of("Nothing was recorded in this month: the edge was off, or has not reported yet.", "本月没有记录：边缘设备未运行，或尚未上报。")) } }
        }
        (_, 0, 0) => {
            html! { p.note.good { (language.of("In all recorded minutes the line was used as agreed.", "在所有有记录的分钟内，专线均按约定使用。")) } }
        }
        (_, over, exceeded) => html! { p.note.bad {
            (language.of(format!("Not as agreed: {over} minutes over the limit, {exceeded} quotas exceeded."), format!("未完全按约定使用：超限 {over} 分钟，超出配额 {exceeded} 次。")))
        } },
    }
}

fn share_recorded(total: &Use) -> String {
    let due = total.recorded + total.missing;
    if due == 0 { "–".into() } else { format!("{:.1} %", total.recorded as f64 * 100.0 / due as f64) }
}

/// For each day what was allowed, and in front of it what was sent.
fn chart(days: &[DayLine], language: Language) -> Markup {
    let most = days.iter().map(|day| day.figures.allowed.max(day.figures.sent)).max().unwrap_or(0).max(1);
    let height = |bytes: u64| (u128::from(bytes) * u128::from(HEIGHT) / u128::from(most)) as u64;
    let seen = |bytes: u64| height(bytes).max(u64::from(bytes > 0));
    html! {
        svg.days viewBox={ "0 0 " (days.len().max(1) * 10) " " (HEIGHT) } preserveAspectRatio="none" role="img"
            aria-label=(language.of("Bytes sent and allowed, day by day; the table has the figures.", "逐日已发送与允许的流量，数值见下表。")) {
            @for (at, day) in days.iter().enumerate() {
                @let (may, was) = (seen(day.figures.allowed), seen(day.figures.sent));
                @if day.figures.recorded == 0 && day.figures.missing > 0 { path.gap d={ "M" (at * 10 + 5) " 0v" (HEIGHT) } {} }
                rect.may x=(at * 10 + 1) y=(HEIGHT - may) width="8" height=(may) {}
                rect.(if day.figures.over > 0 { "over" } else { "was" }) x=(at * 10 + 2) y=(HEIGHT - was) width="6" height=(was) {}
            }
        }
        div.ticks aria-hidden="true" { @for day in days.iter().step_by(if days.len() > 16 { 3 } else { 1 }) { span { (day.date.get(8..).unwrap_or_default()) } } }
        p.small.soft {
            span.key.o {} (language.of("could have been sent", "允许发送")) " "
            span.key.a {} (language.of("was sent", "已发送"))
            @if most > 1 { ". " (language.of("Full height: ", "满高：")) (format::bytes(most)) }
        }
    }
}

fn days(days: &[DayLine], language: Language) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(language.of("Days", "逐日明细")) {
            table {
                thead { tr {
                    th { (language.of("Day", "日期")) } th.number { (language.of("Sent", "已发送")) } th.number { (language.of("Allowed", "允许")) }
                    th.number { (language.of("Received", "接收")) } th.number { (language.of("Peak 1 s", "单秒峰值")) } th.number { (language.of("Peak 60 s", "分钟峰值")) }
                    th.number { (language.of("Over", "超限")) } th.number { (language.of("Missing", "缺失")) }
                } }
                tbody {
                    @for day in days {
                        @let figures = &day.figures;
                        tr {
                            td.nowrap { (day.date) }
                            td.number { (format::bytes(figures.sent)) } td.number { (format::bytes(figures.allowed)) } td.number { (format::bytes(figures.received)) }
                            td.number { (format::flow(figures.peak_second_bits)) } td.number { (format::flow(figures.peak_minute_bits)) }
                            td.number { @if figures.over > 0 { strong { (figures.over) } } @else { "0" } }
                            td.number { (figures.missing) }
                        }
                    }
                }
            }
        }
        p.hint { (language.of("Bytes are counted at IP level. Over and missing are minutes; missing ones were not recorded, because the edge was off or has not reported them.", "流量按 IP 层计。超限与缺失以分钟计；缺失表示边缘设备未运行或尚未上报。")) }
    }
}

fn quotas(report: &LineReport, language: Language) -> Markup {
    html! {
        @if report.quotas.is_empty() { p { (language.of("None are set.", "未设置。")) } }
        @else {
            table {
                thead { tr {
                    th { (language.of("Quota", "配额")) } th.number { (language.of("Limit", "上限")) } th.number { (language.of("Used at most", "最多使用")) }
                    th { (language.of("In the period from", "周期起始")) } th.number { (language.of("Times exceeded", "超出次数")) }
                } }
                tbody {
                    @for quota in &report.quotas {
                        tr {
                            td { (say::period(&quota.period, language)) } td.number { (format::bytes(quota.limit)) }
                            td.number { (format::bytes(quota.used)) " (" (u128::from(quota.used) * 100 / u128::from(quota.limit.max(1))) " %)" }
                            td { (quota.from.as_deref().filter(|_| quota.used > 0).unwrap_or("–")) }
                            td.number { @if quota.exceeded > 0 { strong { (quota.exceeded) } } @else { "0" } }
                        }
                    }
                }
            }
        }
    }
}

fn events(report: &LineReport, language: Language) -> Markup {
    let zone = TimeZone::get(&report.zone).unwrap_or(TimeZone::UTC);
    html! {
        @if report.events.is_empty() { p { (language.of("Nothing was overridden or changed.", "没有临时调整或变更。")) } }
        @else {
            table.stack {
                thead { tr { th { (language.of("When", "时间")) } th { (language.of("Who", "操作人")) } th { (language.of("What", "内容")) } th { (language.of("Why", "原因")) } } }
                tbody {
                    @for event in &report.events {
                        tr {
                            td.nowrap { (format::full_moment(timestamp(event.time), &zone)) }
                            td { (event.actor) } td { (say::change(&event.what, language)) " (v" (event.version) ")" } td { (event.reason) }
                        }
                    }
                }
            }
        }
    }
}

fn signatures(language: Language) -> Markup {
    html! {
        div.signatures {
            div { (language.of("For the owner of the line: name, signature", "专线负责人（姓名、签字）")) }
            div { (language.of("For the operator of replication: name, signature", "复制系统负责人（姓名、签字）")) }
            div { (language.of("Place and date", "地点、日期")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::report::EventLine;
    use dedupe::UnixMillis;

    #[test]
    fn what_people_wrote_stays_text_on_paper() {
        let hostile = "<script>alert(1)</script>";
        let day =
            DayLine { date: "2026-11-01".into(), figures: Use { recorded: 10, sent: 5, allowed: 9, ..Use::default() } };
        let event = EventLine {
            time: UnixMillis(1_800_000_000_000),
            actor: hostile.into(),
            what: format!("override 2: pause of volume {hostile} from a until b"),
            reason: hostile.into(),
            version: 2,
        };
        let report = LineReport {
            site: hostile.into(),
            month: "2026-11".into(),
            zone: "Asia/Shanghai".into(),
            policy: 2,
            made: UnixMillis(1_800_000_000_000),
            total: day.figures,
            days: vec![day],
            over: Vec::new(),
            quotas: Vec::new(),
            events: vec![event],
        };
        for language in Language::ALL {
            let drawn = paper(hostile, &report, language).into_string();
            assert!(!drawn.contains("<script"), "{drawn}");
            assert_eq!(drawn.matches("&lt;script&gt;").count(), 5, "site, tenant, actor, what, reason");
        }
    }

    #[test]
    fn the_verdict_is_good_only_where_all_was_as_agreed() {
        let report = |recorded, over, exceeded| {
            let total = Use { recorded, over, ..Use::default() };
            let quota =
                crate::policies::report::QuotaLine { period: "day".into(), limit: 1, used: 2, from: None, exceeded };
            let (site, month, zone) = ("b1".into(), "2026-11".into(), "UTC".into());
            let made = UnixMillis(0);
            LineReport {
                site,
                month,
                zone,
                policy: 1,
                made,
                total,
                days: vec![],
                over: vec![],
                quotas: vec![quota],
                events: vec![],
            }
        };
        let said =
            |recorded, over, exceeded| verdict(&report(recorded, over, exceeded), Language::English).into_string();
        assert!(said(10, 0, 0).contains("as agreed.") && said(10, 0, 0).contains("good"));
        assert!(said(10, 2, 0).contains("2 minutes over"));
        assert!(said(10, 0, 1).contains("1 quotas exceeded"));
        assert!(said(0, 0, 0).contains("Nothing was recorded"));
    }
}
