//! A month of a line for whoever owns it: what was recorded, what was too much, how quotas were used, who bent the schedule and why.

use super::evidence::minute_of;
use super::{millis, timestamp};
use crate::catalogue::{Catalogue, CatalogueError, LineChange, LineEvent, Site};
use dedupe::UnixMillis;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use shaping::policy::{Period, Policy, QuotaRule};
use wire::message::Minute;

/// Bytes by which a minute may exceed what was allowed: the bucket's depth with one datagram, at the rates of branch lines.
const DEPTH: u64 = 6000;
/// Minutes over the limit that are listed one by one; the count has all of them.
const MOST_LISTED: usize = 50;
const MINUTE: u64 = 60;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// No month.
    #[error("`{0}` is no month: write it as in \"2026-11\"")]
    Month(String),
    /// Not begun.
    #[error("{0} has not begun: there is nothing to report yet")]
    Future(String),
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

/// The report of one site and month. Days are the site's; bytes are of IP level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineReport {
    /// The site's name.
    pub site: String,
    /// As `2026-11`.
    pub month: String,
    /// The site's zone.
    pub zone: String,
    /// The policy's version now; 0: none.
    pub policy: u64,
    /// When the report was made.
    #[schema(value_type = u64)]
    pub made: UnixMillis,
    /// The whole month.
    pub total: Use,
    /// Days that have begun.
    pub days: Vec<DayLine>,
    /// Minutes over the limit, at most 50 of them.
    pub over: Vec<OverLine>,
    /// Each of the policy's quotas.
    pub quotas: Vec<QuotaLine>,
    /// What was changed in the month, and overrides that held in it.
    pub events: Vec<EventLine>,
}

/// What a line was used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Use {
    /// Minutes of which there is a record.
    pub recorded: u64,
    /// Minutes that have passed since the site was made, and of which there is none: the edge was off, or has not reported them yet.
    pub missing: u64,
    /// Minutes in which more was sent than was allowed and the bucket's depth (6000 bytes).
    pub over: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes that were allowed to be sent in the recorded minutes.
    #[serde(default)]
    pub allowed: u64,
    /// The most bits sent in one second.
    pub peak_second_bits: u64,
    /// The most sent in one minute, in bits per second.
    pub peak_minute_bits: u64,
}

/// One day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DayLine {
    /// Its date.
    pub date: String,
    /// What the line was used for.
    #[serde(flatten)]
    pub figures: Use,
}

/// A minute over the limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OverLine {
    /// When it began, in the site's time.
    pub at: String,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes that were allowed.
    pub allowed: u64,
}

/// How one quota was used, counted from evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QuotaLine {
    /// `day`, `week`, `month` or `prepaid`.
    pub period: String,
    /// Bytes of the quota.
    pub limit: u64,
    /// Bytes used, both directions, in the period of the month that used the most.
    pub used: u64,
    /// When that period began; `None`: it counts since the first evidence.
    pub from: Option<String>,
    /// Periods that exceeded the quota.
    pub exceeded: usize,
}

/// Something was changed, or an override held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventLine {
    /// When it was asked for.
    #[schema(value_type = u64)]
    pub time: UnixMillis,
    /// Who asked.
    pub actor: String,
    /// For what.
    pub what: String,
    /// Why.
    pub reason: String,
    /// The version that it made.
    pub version: u64,
}

impl From<&LineEvent> for EventLine {
    fn from(event: &LineEvent) -> Self {
        EventLine {
            time: event.time,
            actor: event.actor.clone(),
            what: event.what.to_string(),
            reason: event.reason.clone(),
            version: event.to,
        }
    }
}

/// Makes the report of a month, as `2026-11`. Without a policy days are those of UTC.
pub fn report(
    catalogue: &Catalogue,
    site: &Site,
    policy: Option<&Policy>,
    month: &str,
    now: UnixMillis,
) -> Result<LineReport, ReportError> {
    let zone = policy.map_or(TimeZone::UTC, |policy| policy.zone.clone());
    let wrong = || ReportError::Month(crate::text::printable(month));
    let first = first_of(month).ok_or_else(wrong)?;
    let next = first.checked_add(1.month()).map_err(|_| wrong())?;
    let (begins, ends) = (midnight(first, &zone).ok_or_else(wrong)?, midnight(next, &zone).ok_or_else(wrong)?);
    if millis(begins).0 > now.0 {
        return Err(ReportError::Future(month.to_owned()));
    }
    let mut tally = Tally::new(first, next, &zone, site.created, now).ok_or_else(wrong)?;
    catalogue.each_minute(site.id, minute(begins), minute(ends), |minute| tally.add(minute, &zone))?;
    let mut quotas = Vec::new();
    for rule in policy.iter().flat_map(|policy| &policy.quotas) {
        quotas.push(quota(catalogue, site, rule, &zone, (begins, ends))?);
    }
    let events = catalogue.line_events(site.id)?;
    let month_of = (millis(begins), millis(ends));
    let (total, days, over) = tally.finish();
    Ok(LineReport {
        site: site.name.clone(),
        month: month.to_owned(),
        zone: zone.iana_name().unwrap_or("UTC").to_owned(),
        policy: policy.map_or(0, |policy| policy.version),
        made: now,
        total,
        days,
        over,
        quotas,
        events: events.iter().filter(|event| concerns(event, month_of)).map(EventLine::from).collect(),
    })
}

fn first_of(month: &str) -> Option<Date> {
    let (year, number) = month.split_once('-')?;
    let plain = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain(year, 4) && plain(number, 2);
    plain.then(|| Date::new(year.parse().ok()?, number.parse().ok()?, 1).ok()).flatten()
}

fn midnight(date: Date, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_timestamp(date.to_datetime(Time::midnight())).ok()
}

fn minute(at: Timestamp) -> u32 {
    minute_of(millis(at))
}

/// Whether something was asked for in a time, or is an override that overlaps it.
fn concerns(event: &LineEvent, (begins, ends): (UnixMillis, UnixMillis)) -> bool {
    match &event.what {
        LineChange::OverrideAdded { from, until, .. } if *from < ends && *until > begins => true,
        _ => (begins..ends).contains(&event.time),
    }
}

/// Adds minutes up by day.
struct Tally {
    days: Vec<Day>,
    over: Vec<OverLine>,
}

struct Day {
    date: Date,
    from: u32,
    to: u32,
    /// Minutes that should have been recorded.
    due: u64,
    figures: Use,
}

impl Tally {
    /// The days of a month that have begun. Minutes are due since the site was made and until now.
    fn new(first: Date, next: Date, zone: &TimeZone, created: UnixMillis, now: UnixMillis) -> Option<Tally> {
        let (since, until) = (minute_of(created).saturating_add(1), minute_of(now));
        let mut days = Vec::new();
        let mut date = first;
        while date < next {
            let tomorrow = date.tomorrow().ok()?;
            let (from, to) = (minute(midnight(date, zone)?), minute(midnight(tomorrow, zone)?));
            if from > until {
                break;
            }
            let due = to.min(until).saturating_sub(from.max(since));
            days.push(Day { date, from, to, due: u64::from(due), figures: Use::default() });
            date = tomorrow;
        }
        Some(Tally { days, over: Vec::new() })
    }

    fn add(&mut self, minute: Minute, zone: &TimeZone) {
        let Some(day) = self.days.iter_mut().rev().find(|day| (day.from..day.to).contains(&minute.minute)) else {
            return;
        };
        let (sent, allowed) = (u64::from(minute.sent), u64::from(minute.allowed));
        let one = Use {
            recorded: 1,
            missing: 0,
            over: u64::from(sent > allowed + DEPTH),
            sent,
            received: minute.received.into(),
            allowed,
            peak_second_bits: u64::from(minute.peak) * 8,
            peak_minute_bits: sent * 8 / MINUTE,
        };
        day.figures = day.figures.and(one);
        if one.over > 0 && self.over.len() < MOST_LISTED {
            let at = timestamp(UnixMillis(u64::from(minute.minute) * 60_000)).to_zoned(zone.clone());
            self.over.push(OverLine { at: at.strftime("%a %Y-%m-%d %H:%M").to_string(), sent, allowed });
        }
    }

    fn finish(self) -> (Use, Vec<DayLine>, Vec<OverLine>) {
        let days = self.days.into_iter().map(|day| {
            let missing = day.due.saturating_sub(day.figures.recorded);
            DayLine { date: day.date.to_string(), figures: Use { missing, ..day.figures } }
        });
        let days: Vec<DayLine> = days.collect();
        (days.iter().fold(Use::default(), |total, day| total.and(day.figures)), days, self.over)
    }
}

impl Use {
    /// Both together.
    fn and(self, other: Use) -> Use {
        Use {
            recorded: self.recorded + other.recorded,
            missing: self.missing + other.missing,
            over: self.over + other.over,
            sent: self.sent + other.sent,
            received: self.received + other.received,
            allowed: self.allowed + other.allowed,
            peak_second_bits: self.peak_second_bits.max(other.peak_second_bits),
            peak_minute_bits: self.peak_minute_bits.max(other.peak_minute_bits),
        }
    }
}

/// The fullest of a quota's periods that lie in the month, wholly or in part.
fn quota(
    catalogue: &Catalogue,
    site: &Site,
    rule: &QuotaRule,
    zone: &TimeZone,
    (begins, ends): (Timestamp, Timestamp),
) -> Result<QuotaLine, CatalogueError> {
    let mut periods: Vec<(Option<Timestamp>, Timestamp)> = Vec::new();
    let mut at = begins;
    while at < ends {
        let Some((from, to)) = rule.period.around(at, zone).filter(|(_, to)| *to > at) else { break };
        periods.push((Some(from), to));
        at = to;
    }
    if rule.period == Period::Prepaid {
        periods.push((None, ends));
    }
    let mut line = QuotaLine {
        period: Policy::period_name(rule.period).into(),
        limit: rule.limit,
        used: 0,
        from: None,
        exceeded: 0,
    };
    for (from, to) in periods {
        let mut used = 0u64;
        catalogue.each_minute(site.id, from.map_or(0, minute), minute(to), |minute| {
            used += u64::from(minute.sent) + u64::from(minute.received);
        })?;
        line.exceeded += usize::from(used > rule.limit);
        if used >= line.used {
            line.used = used;
            line.from = from.map(|from| zone.to_datetime(from).date().to_string());
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::token::Token;

    const ZONE: &str = "Asia/Shanghai";

    fn at(text: &str) -> UnixMillis {
        millis(text.parse().unwrap())
    }

    fn site(catalogue: &Catalogue, created: UnixMillis) -> Site {
        let tenant = catalogue.tenant("bank", created).unwrap();
        let token = Token::random(vec!["gw:1".into()], [0; 32]);
        catalogue.add_token(&tenant, "b1", &token, created, created).unwrap()
    }

    fn minutes(from: &str, count: u32, sent: u32, allowed: u32) -> Vec<Minute> {
        let first = minute_of(at(from));
        (first..first + count)
            .map(|minute| Minute { minute, sent, received: 1000, allowed, peak: sent / 10, reason: 0 })
            .collect()
    }

    #[test]
    fn a_month_adds_up_by_the_sites_days() {
        let dir = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::create(&dir.path().join("catalogue.redb")).unwrap();
        // Made on 2 November at 09:00 in Shanghai.
        let site = site(&catalogue, at("2026-11-02T01:00:00Z"));
        let text = format!(
            "version = 3\nzone = \"{ZONE}\"\n[line]\nup = \"2 Mbit/s\"\n[[quotas]]\nperiod = \"day\"\nlimit = \"1 MB\"\n[[quotas]]\nperiod = \"month from day 15\"\nlimit = \"1 GB\"\n[[quotas]]\nperiod = \"prepaid\"\nlimit = \"2 MB\"\n"
        );
        let policy = Policy::parse(&text).unwrap();
        // Ten minutes up to midnight in Shanghai, ten after; the last ones over what was allowed by one byte more than the depth.
        catalogue.keep_minutes(site.id, &minutes("2026-11-02T15:50:00Z", 10, 100_000, 100_000)).unwrap();
        catalogue.keep_minutes(site.id, &minutes("2026-11-02T16:00:00Z", 10, 106_000, 100_000)).unwrap();
        catalogue.keep_minutes(site.id, &minutes("2026-11-02T16:10:00Z", 2, 106_001, 100_000)).unwrap();
        // Of the month before, though of the same quota's period, and of the month after.
        catalogue.keep_minutes(site.id, &minutes("2026-10-31T15:59:00Z", 1, 500_000, 1_000_000)).unwrap();
        catalogue.keep_minutes(site.id, &minutes("2026-11-30T16:00:00Z", 1, 7, 7)).unwrap();
        let report = report(&catalogue, &site, Some(&policy), "2026-11", at("2026-11-03T16:00:00Z")).unwrap();
        let days: Vec<_> = report.days.iter().map(|day| (day.date.as_str(), day.figures)).collect();
        assert_eq!(
            days.iter().map(|(date, _)| *date).collect::<Vec<_>>()[..3],
            ["2026-11-01", "2026-11-02", "2026-11-03"]
        );
        assert_eq!((days[0].1.recorded, days[0].1.missing), (0, 0), "the site was not there yet");
        // 15 hours, less the minute in which it was made.
        assert_eq!((days[1].1.recorded, days[1].1.missing, days[1].1.sent), (10, 15 * 60 - 1 - 10, 1_000_000));
        assert_eq!((days[2].1.recorded, days[2].1.missing, days[2].1.over), (12, 1440 - 12, 2));
        assert_eq!(report.over[0].at, "Tue 2026-11-03 00:10");
        assert_eq!((report.total.sent, report.total.received), (1_000_000 + 1_060_000 + 212_002, 22_000));
        assert_eq!(report.total.allowed, 22 * 100_000, "what was allowed is of recorded minutes");
        assert_eq!((report.total.peak_second_bits, report.total.peak_minute_bits), (84_800, 14_133));
        let quotas: Vec<_> =
            report.quotas.iter().map(|q| (q.period.as_str(), q.used, q.from.as_deref(), q.exceeded)).collect();
        assert_eq!(
            quotas,
            [
                ("day", 1_284_002, Some("2026-11-03"), 2),
                ("month", 2_272_002 + 22_000 + 501_000, Some("2026-10-15"), 0),
                ("prepaid", 2_272_002 + 22_000 + 501_000, None, 1)
            ]
        );
    }

    #[test]
    fn what_was_changed_in_the_month_and_overrides_that_held_in_it_are_listed() {
        let event = |time: &str, what| LineEvent {
            time: at(time),
            site: dedupe::SiteId([1; 16]),
            actor: "li".into(),
            what,
            reason: "r".into(),
            from: 1,
            to: 2,
        };
        let month = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
        let bend = |from: &str, until: &str| LineChange::OverrideAdded {
            id: 2,
            bend: "pause".into(),
            from: at(from),
            until: at(until),
            volume: None,
        };
        let over = bend("2026-10-31T00:00:00Z", "2026-11-02T00:00:00Z");
        assert!(concerns(&event("2026-10-30T00:00:00Z", over), month));
        let before = bend("2026-10-30T00:00:00Z", "2026-11-01T00:00:00Z");
        assert!(!concerns(&event("2026-10-30T00:00:00Z", before), month));
        assert!(concerns(&event("2026-11-30T23:59:59Z", LineChange::Held), month));
        assert!(!concerns(&event("2026-12-01T00:00:00Z", LineChange::Held), month));
    }

    #[test]
    fn months_that_are_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::create(&dir.path().join("catalogue.redb")).unwrap();
        let site = site(&catalogue, UnixMillis(0));
        let why =
            |month: &str| report(&catalogue, &site, None, month, at("2026-11-03T00:00:00Z")).unwrap_err().to_string();
        for wrong in ["2026", "2026-13", "11-2026", "2026-1", "+026-01", "9999-12"] {
            assert_eq!(why(wrong), format!("`{wrong}` is no month: write it as in \"2026-11\""));
        }
        assert_eq!(why("2026-12"), "2026-12 has not begun: there is nothing to report yet");
    }
}
