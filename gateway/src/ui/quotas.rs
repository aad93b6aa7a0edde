//! All sites' quotas: how much is used, how much an even pace would have used, and who runs out first.

use super::say::{self, Here};
use super::shell::empty;
use super::{Fault, Shell, Visitor};
use crate::api::sites::{Filter, fleet};
use crate::fleet::{QuotaView, SiteView};
use crate::policies::timestamp;
use crate::ui::fleet::quota_bar;
use crate::ui::parts::site_link;
use crate::web::Web;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use look::{Language, format};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

/// A forecast from less of a period than this many thousandths says nothing.
const LEAST_PASSED: u16 = 20;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/quotas", get(show))
}

#[derive(Default, Deserialize)]
struct Wanted {
    #[serde(default)]
    q: String,
    #[serde(default)]
    period: String,
    #[serde(default)]
    short: bool,
}

/// How a quota will end at the present pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing is left.
    UsedUp,
    /// It is used up then, before its period is over.
    RunsOut(u64),
    /// Of its period so many bytes are left over.
    Lasts(u64),
    /// Nobody can tell.
    Unknown,
}

struct Row {
    site: Arc<SiteView>,
    quota: QuotaView,
    end: End,
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor, Query(wanted): Query<Wanted>) -> Result<Response, Fault> {
    let sites = match fleet(&web, &visitor.caller, Filter::default()).await {
        Ok(sites) => sites,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let (language, now) = (visitor.language, timestamp(web.state.now()));
    let second = u64::try_from(now.as_second()).unwrap_or(0);
    let without = sites.iter().filter(|site| site.quotas.is_empty()).count();
    let all = rows(&sites, second);
    let fits = |row: &&Row| {
        row.site.site.to_lowercase().contains(&wanted.q.trim().to_lowercase())
            && (wanted.period.is_empty() || row.quota.period == wanted.period)
            && (!wanted.short || matches!(row.end, End::UsedUp | End::RunsOut(_)))
    };
    let shown: Vec<&Row> = all.iter().filter(fits).collect();
    let content = html! {
        div.head {
            div {
                h1 { (language.of("Quotas", "配额")) }
                p.soft { (language.of("Whoever runs out first stands first. Both directions count, as the edge counts them.", "最先用完的排在最前。双向流量均计入，以边缘设备的统计为准。")) }
            }
        }
        @if all.is_empty() {
            (empty(language.of("No quotas yet", "还没有配额"), html! {
                p { (language.of("A quota limits the bytes of a day, a week, a month, or of prepaid volume. It stands in the schedule of a site:", "配额限制每日、每周、每月或预付的流量，在站点的时间表中设置：")) }
                pre { "[[quotas]]\nperiod = \"month from day 15\"\nlimit = \"40 GB\"\neven = true" }
                p { a.button href="/schedule" { (language.of("To the schedules", "前往时间表")) } }
            }))
        } @else {
            (filters(&wanted, language))
            div.scroll data-part="quotas" tabindex="0" role="region" aria-label=(language.of("Quotas", "配额")) {
                table.stack {
                    thead { tr {
                        th { (language.of("Site", "站点")) } th { (language.of("Quota", "配额")) } th { (language.of("Used", "已用")) }
                        th.number { (language.of("Left", "剩余")) } th { (language.of("At this pace", "按当前速度")) } th { (language.of("Begins anew", "重新计算")) }
                    } }
                    tbody { @for row in &shown { (line(row, &Here::at(&row.site, now, language))) } }
                }
                @if shown.is_empty() { p.soft { (language.of("No quota fits these filters.", "没有符合条件的配额。")) } }
            }
            p.small.soft {
                (language.of("The line in a gauge is where an even pace would be.", "进度条中的竖线表示匀速使用的进度。")) " "
                @if without > 0 { (language.of(format!("{without} sites have no quota."), format!("{without} 个站点没有配额。"))) }
            }
        }
    };
    let title = language.of("Quotas", "配额");
    Ok(Shell { visitor: &visitor, title, place: "/quotas", follows: Some(""), content }.render().into_response())
}

/// One for each quota, who runs out first on top.
fn rows(sites: &[Arc<SiteView>], now: u64) -> Vec<Row> {
    let of = |site: &Arc<SiteView>| {
        let ends: Vec<Row> = site
            .quotas
            .iter()
            .map(|quota| Row {
                site: site.clone(),
                quota: quota.clone(),
                end: end_of(quota, site.heard.is_some(), site.strip.bytes, now),
            })
            .collect();
        ends
    };
    let mut rows: Vec<Row> = sites.iter().flat_map(of).collect();
    rows.sort_by_key(|row| {
        let when = match row.end {
            End::UsedUp => 0,
            End::RunsOut(at) => at,
            End::Lasts(_) => u64::MAX - 1,
            End::Unknown => u64::MAX,
        };
        (when, std::cmp::Reverse(share(&row.quota)), row.site.site.clone())
    });
    rows
}

/// Thousandths of a quota that are used.
fn share(quota: &QuotaView) -> u64 {
    (u128::from(quota.used) * 1000 / u128::from(quota.limit.max(1))).min(u128::from(u64::MAX)) as u64
}

/// How a quota ends: at the mean pace of its period, or, where it has none, at that of the last day.
fn end_of(quota: &QuotaView, heard: bool, last_day: u64, now: u64) -> End {
    if !heard {
        return End::Unknown;
    }
    let left = quota.limit.saturating_sub(quota.used);
    if left == 0 {
        return End::UsedUp;
    }
    let (used, seconds) = match (quota.begins, quota.passed) {
        (Some(_), Some(passed)) if passed < LEAST_PASSED => return End::Unknown,
        (Some(begins), _) => (quota.used, now.saturating_sub(begins)),
        (None, _) => (last_day, 86_400),
    };
    if used == 0 {
        return quota.ends.map_or(End::Unknown, |_| End::Lasts(left));
    }
    let until = u64::try_from(u128::from(left) * u128::from(seconds.max(1)) / u128::from(used)).unwrap_or(u64::MAX);
    let empty = now.saturating_add(until);
    match quota.ends {
        Some(ends) if empty >= ends => {
            let more = u128::from(used) * u128::from(ends.saturating_sub(now)) / u128::from(seconds.max(1));
            End::Lasts(left.saturating_sub(u64::try_from(more).unwrap_or(u64::MAX)))
        }
        // A century ahead is no forecast.
        _ if until > 100 * 365 * 86_400 => End::Unknown,
        _ => End::RunsOut(empty),
    }
}

fn filters(wanted: &Wanted, language: Language) -> Markup {
    html! {
        form.filters method="get" action="/quotas" data-live role="search" {
            div.field {
                label for="q" { (language.of("Site", "站点")) }
                input #q name="q" type="search" value=(wanted.q) maxlength="100" placeholder=(language.of("part of a name", "名称关键字"));
            }
            div.field {
                label for="period" { (language.of("Period", "周期")) }
                select #period name="period" {
                    option value="" { (language.of("all", "全部")) }
                    @for period in ["day", "week", "month", "prepaid"] {
                        option value=(period) selected[wanted.period == period] { (say::period(period, language)) }
                    }
                }
            }
            div.field {
                label.check {
                    input type="checkbox" name="short" value="true" checked[wanted.short];
                    (language.of("only those that run out", "仅显示将用完的"))
                }
            }
            button.plain type="submit" { (language.of("Show", "筛选")) }
        }
    }
}

fn line(row: &Row, here: &Here) -> Markup {
    let (language, quota) = (here.language, &row.quota);
    html! {
        tr {
            th scope="row" { (site_link(&row.site.tenant, &row.site.site)) " " span.soft.small { (row.site.tenant) } }
            td data-label=(language.of("Quota", "配额")) { (say::period(&quota.period, language)) ", " (format::bytes(quota.limit)) }
            td.gauge data-label=(language.of("Used", "已用")) {
                @if row.site.heard.is_some() {
                    (quota_bar(quota.used, quota.limit, quota.passed))
                    span.small.soft {
                        " · " (format::bytes(quota.used))
                        @if let Some(passed) = quota.passed { (language.of(" · even pace: ", " · 匀速：")) (passed / 10) " %" }
                    }
                } @else { span.soft { (language.of("its edge has not told yet", "边缘设备尚未上报")) } }
            }
            td.number data-label=(language.of("Left", "剩余")) { (format::bytes(quota.limit.saturating_sub(quota.used))) }
            td data-label=(language.of("At this pace", "按当前速度")) { (ending(row.end, here)) }
            td data-label=(language.of("Begins anew", "重新计算")) { @if let Some(ends) = quota.ends { (here.moment(ends)) } @else { "–" } }
        }
    }
}

fn ending(end: End, here: &Here) -> Markup {
    let language = here.language;
    match end {
        End::UsedUp => html! { span.chip.bad { (language.of("used up", "已用完")) } },
        End::RunsOut(at) => {
            html! { span.chip.warn { (language.of(format!("used up {}", here.moment(at)), format!("将于 {} 用完", here.moment(at)))) } }
        }
        End::Lasts(left) => {
            html! { span.chip.good { (language.of("lasts", "够用")) } " " span.small.soft { (language.of(format!("{} left over", format::bytes(left)), format!("预计剩余 {}", format::bytes(left)))) } }
        }
        End::Unknown => html! { span.soft { (language.of("cannot be told yet", "暂无法预测")) } },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const BEGAN: u64 = 1_800_000_000;

    fn quota(used: u64, passed: u16) -> QuotaView {
        let (begins, ends) = (Some(BEGAN), Some(BEGAN + 30 * DAY));
        QuotaView { period: "month".into(), used, limit: 30_000, passed: Some(passed), begins, ends }
    }

    #[test]
    fn a_quota_ends_as_its_pace_says() {
        let now = BEGAN + 10 * DAY;
        let end = |quota: &QuotaView| end_of(quota, true, 0, now);
        // Twice the even pace: the rest is gone in half the time.
        assert_eq!(end(&quota(20_000, 333)), End::RunsOut(BEGAN + 15 * DAY));
        assert_eq!(end(&quota(10_000, 333)), End::Lasts(0), "an even pace just lasts");
        assert_eq!(end(&quota(5_000, 333)), End::Lasts(15_000));
        assert_eq!(end(&quota(0, 333)), End::Lasts(30_000));
        assert_eq!(end(&quota(30_001, 333)), End::UsedUp);
        assert_eq!(end(&quota(20_000, 19)), End::Unknown, "too early to say");
        assert_eq!(end_of(&quota(20_000, 333), false, 0, now), End::Unknown, "its edge never told");
        let prepaid =
            QuotaView { period: "prepaid".into(), begins: None, ends: None, passed: None, ..quota(20_000, 0) };
        assert_eq!(end_of(&prepaid, true, 5_000, now), End::RunsOut(now + 2 * DAY), "at the pace of the last day");
        assert_eq!(end_of(&prepaid, true, 0, now), End::Unknown);
    }
}
