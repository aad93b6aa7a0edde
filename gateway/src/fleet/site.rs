//! One site: what it does, why, and what needs a person.

use super::{Fleet, LEAST_AHEAD, Ruled, STEP_SECONDS, STEPS_PER_DAY, VolumeBrief, VolumeDoing};
use crate::catalogue::{EdgePolicy, PolicyRow, Site, Tenant};
use crate::policies::timestamp;
use crate::state::StateError;
use crate::telemetry::Heard;
use dedupe::UnixMillis;
use jiff::Timestamp;
use serde::Serialize;
use shaping::Rate;
use shaping::policy::{Allowance, Policy, REASONS, Reason};
use std::time::Duration;
use tokio::time::Instant;
use utoipa::ToSchema;

/// What an edge told counts as now for so long: it tells once a minute, and one of three may be lost.
const HEARD_FRESH: Duration = Duration::from_secs(180);
/// A clock that is off by more is shown: policies are kept to the minute.
const SKEW_SHOWN: i32 = 30_000;
/// A certificate that ends sooner is shown: edges renew a month before.
const CERTIFICATE_SHOWN: u64 = 21 * 86_400;
/// Less than this share of an edge's disk free is shown.
const DISK_SHOWN: u64 = 10;
/// A restore point older than so many times the policy's `lag` needs a person, whatever the forecast says.
const TOO_OLD: u64 = 4;

/// A site at a moment. Points in time are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SiteView {
    /// The tenant's name.
    pub tenant: String,
    /// Its name.
    pub site: String,
    /// Its id.
    pub id: String,
    /// The state that its line is in.
    pub state: SiteState,
    /// How much that needs somebody.
    pub mood: Mood,
    /// What its line does now.
    pub now: NowView,
    /// What needs to be known beside that; the most urgent first.
    pub badges: Vec<Badge>,
    /// The last day.
    #[serde(skip)]
    pub strip: StripView,
    /// Coded bytes that still have to cross, as far as its edge can tell.
    pub backlog: u64,
    /// When they will have crossed; absent: nothing waits, or nobody can tell.
    pub arrives: Option<u64>,
    /// The first deadline of what waits.
    pub deadline: Option<u64>,
    /// The policy's quotas, in its order.
    pub quotas: Vec<QuotaView>,
    /// When the oldest of the volumes' newest generations here was captured; absent: a volume has none.
    pub restore_point: Option<u64>,
    /// Its volumes, by name.
    pub volumes: Vec<VolumeBrief>,
    /// The IANA name of its zone; `UTC` without a policy.
    pub zone: String,
    /// Version of its policy; absent: it has none.
    pub policy: Option<u64>,
    /// Version that its edge holds; absent: it never said, 0: none.
    pub policy_held: Option<u64>,
    /// Its edge's software.
    pub software: String,
    /// When a session of it last began or ended.
    pub seen: Option<u64>,
    /// When its edge last told of itself.
    pub heard: Option<u64>,
}

/// The state that a site's line is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SiteState {
    /// No edge ever came.
    NeverConnected,
    /// Its certificates are refused.
    Revoked,
    /// No session now.
    Away,
    /// Connected, and data may not pass now.
    Closed,
    /// Connected, data may pass, and nothing waits.
    Idle,
    /// Connected, and something is on its way.
    Sending,
    /// Connected, and its edge has not told of itself yet.
    Connected,
}

impl SiteState {
    /// All of them.
    pub const ALL: [SiteState; 7] = [
        SiteState::Sending,
        SiteState::Idle,
        SiteState::Closed,
        SiteState::Away,
        SiteState::Connected,
        SiteState::Revoked,
        SiteState::NeverConnected,
    ];

    /// Its word in URLs.
    pub fn word(self) -> &'static str {
        match self {
            SiteState::NeverConnected => "never-connected",
            SiteState::Revoked => "revoked",
            SiteState::Away => "away",
            SiteState::Closed => "closed",
            SiteState::Idle => "idle",
            SiteState::Sending => "sending",
            SiteState::Connected => "connected",
        }
    }
}

/// How much something needs somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mood {
    /// As it should be.
    Good,
    /// As it is agreed.
    Calm,
    /// To be looked at in working hours.
    Warn,
    /// Needs somebody.
    Bad,
}

/// What the line does now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct NowView {
    /// Bits per second that were sent in the last minute; absent: its edge has not told.
    pub rate: Option<u64>,
    /// Bits per second that may be sent now; 0: closed, the greatest number: no limit.
    pub allowed: u64,
    /// What decides about that: `schedule`, `blackout`, `pause`, `quota`, `grant`, `courtesy`, …
    pub limited_by: String,
    /// The name of what decides, where it has one: a profile, a blackout, a period; of a hold or an override who made it.
    pub name: String,
    /// Why, in the words of whoever made it.
    pub reason: String,
    /// Until when that holds as far as time alone decides.
    pub until: Option<u64>,
    /// Whether the edge said so; else it follows from the policy.
    pub told: bool,
}

/// How much of a quota is used.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct QuotaView {
    /// `day`, `week`, `month`, `prepaid`.
    pub period: String,
    /// Bytes used.
    pub used: u64,
    /// Bytes of the quota.
    pub limit: u64,
    /// Thousandths of its period that have passed; absent: it has no end.
    pub passed: Option<u16>,
    /// When its period began, seconds since 1970; absent: it has no end.
    pub begins: Option<u64>,
    /// When its period ends, seconds since 1970; absent: it has no end.
    pub ends: Option<u64>,
}

/// Something that needs to be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "badge", rename_all = "kebab-case")]
pub enum Badge {
    /// A volume is stopped until a person helps.
    Stopped {
        /// Which.
        volume: String,
    },
    /// The newest generation here is much older than the policy allows.
    TooOld {
        /// Which.
        volume: String,
        /// Seconds.
        age: u64,
    },
    /// The edge refused the policy that it was sent.
    PolicyRefused {
        /// Why.
        why: String,
    },
    /// The clock of the edge cannot be trusted: nobody has told it the time.
    ClockUntrusted,
    /// What waits arrives after its deadline, or nobody can tell when.
    Late {
        /// Which volume.
        volume: String,
        /// By how many seconds; absent: nobody can tell.
        by: Option<u64>,
    },
    /// More was sent than was allowed in so many minutes since the edge started.
    CapViolated {
        /// How many.
        minutes: u32,
    },
    /// A quota is used up.
    QuotaUsedUp {
        /// Of which period.
        period: String,
    },
    /// The edge has not taken the newest policy yet.
    PolicyWaits,
    /// There is no policy.
    NoPolicy,
    /// The clock goes by what the edge was told some time ago.
    ClockHoldover,
    /// The machine's clock is off.
    ClockSkew {
        /// By how many milliseconds.
        millis: i32,
    },
    /// The edge's certificate ends soon.
    CertificateEnds {
        /// When.
        at: u64,
    },
    /// The edge's disk is nearly full.
    DiskFull {
        /// Bytes that are free.
        free: u64,
    },
}

impl Badge {
    /// How much it needs somebody.
    pub fn mood(&self) -> Mood {
        match self {
            Badge::Stopped { .. } | Badge::TooOld { .. } | Badge::PolicyRefused { .. } => Mood::Bad,
            Badge::ClockUntrusted | Badge::CapViolated { .. } => Mood::Bad,
            _ => Mood::Warn,
        }
    }
}

/// A day of a line, in quarters of an hour.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StripView {
    /// The first second.
    pub first: i64,
    /// What was allowed by the schedule.
    pub spans: Vec<look::Span>,
    /// What was sent, in thousandths of what the line carries.
    pub sent: Vec<u16>,
    /// Bytes that were sent in all of it.
    pub bytes: u64,
}

impl Fleet {
    pub(super) fn site_view(
        &self,
        tenant: &Tenant,
        site: &Site,
        volumes: Vec<VolumeBrief>,
        at: UnixMillis,
        instant: Instant,
    ) -> Result<SiteView, StateError> {
        let (catalogue, now) = (&self.state.catalogue, timestamp(at));
        let row = catalogue.policy(site.id)?;
        let held = catalogue.edge_policy(site.id)?;
        let ruled = self.ruled(site.id, row.as_ref(), now);
        let heard = self.state.telemetry.of(site.id);
        let connected = self.live.as_ref().is_some_and(|live| live.of_site(site.id).is_some());
        let fresh = heard
            .as_deref()
            .filter(|heard| connected && at.0.saturating_sub(heard.at.0) < HEARD_FRESH.as_millis() as u64);
        // What was told before the edge took a newer policy says nothing of it yet.
        let told = fresh.filter(|heard| held.as_ref().is_none_or(|held| held.at <= heard.at));
        let doing = now_view(ruled.as_deref(), told, now);
        let figures = heard.as_deref().map(|heard| &heard.site);
        let waits = volumes.iter().any(|volume| volume.left > 0) || figures.is_some_and(|told| told.backlog > 0);
        let state = match (site.revoked, connected, site.seen) {
            (Some(_), ..) => SiteState::Revoked,
            (_, false, None) => SiteState::NeverConnected,
            (_, false, _) => SiteState::Away,
            (_, true, _) if fresh.is_none() => SiteState::Connected,
            _ if doing.allowed == 0 => SiteState::Closed,
            _ if waits => SiteState::Sending,
            _ => SiteState::Idle,
        };
        let quotas = ruled.as_deref().map(|ruled| quotas(&ruled.policy, figures, now)).unwrap_or_default();
        let badges = badges(&volumes, heard.as_deref(), (row.as_ref(), held.as_ref()), &quotas, now);
        let restore_points: Option<Vec<u64>> = volumes.iter().map(|volume| volume.restore_point).collect();
        let (strip, zone) = (self.day(site, ruled.as_deref(), now, instant)?, zone_name(ruled.as_deref()));
        Ok(SiteView {
            tenant: tenant.name.clone(),
            site: site.name.clone(),
            id: site.id.to_string(),
            mood: mood(state, &badges),
            state,
            now: doing,
            badges,
            strip,
            backlog: figures.map_or(0, |told| told.backlog),
            arrives: figures.and_then(|told| known(told.arrives)),
            deadline: volumes.iter().filter(|volume| volume.left > 0).filter_map(|volume| volume.deadline).min(),
            quotas,
            restore_point: restore_points.and_then(|points| points.into_iter().min()),
            volumes,
            zone,
            policy: row.map(|row| row.version),
            policy_held: held.map(|held| held.version),
            software: site.software.clone(),
            seen: site.seen.map(|seen| seen.0 / 1000),
            heard: heard.map(|heard| heard.at.0 / 1000),
        })
    }

    /// What the schedule said of the last day, and what was sent.
    fn day(
        &self,
        site: &Site,
        ruled: Option<&Ruled>,
        now: Timestamp,
        instant: Instant,
    ) -> Result<StripView, StateError> {
        let (first, bytes) = self.sent(site.id, now, instant)?;
        let most = bytes.iter().copied().max().unwrap_or(0);
        let full = match ruled {
            Some(ruled) => ruled.policy.line.up.bits() * STEP_SECONDS as u64 / 8,
            None => most,
        }
        .max(1);
        let sent = bytes.iter().map(|bytes| (bytes * 1000).div_ceil(full).min(1000) as u16).collect();
        let begins = Timestamp::from_second(first).unwrap_or(now);
        let ends = Timestamp::from_second(first + i64::from(STEPS_PER_DAY) * STEP_SECONDS).unwrap_or(now);
        let spans = ruled.map(|ruled| shade(ruled, begins, ends)).unwrap_or_default();
        Ok(StripView { first, spans, sent, bytes: bytes.iter().sum() })
    }
}

/// The schedule from one moment to another as a shade of quarters of an hour.
pub(crate) fn shade(ruled: &Ruled, from: Timestamp, to: Timestamp) -> Vec<look::Span> {
    let step = |at: Timestamp| u32::try_from((at.as_second() - from.as_second()) / STEP_SECONDS).unwrap_or(0);
    let line = ruled.policy.line.up.bits().max(1);
    let mut spans: Vec<look::Span> = Vec::new();
    for (begins, ends, allowance) in ruled.spans(from, to) {
        let height = match allowance.up {
            Rate::Closed => 0,
            Rate::Limited(rate) => (rate.bits() * 1000).div_ceil(line).min(1000) as u16,
            Rate::Unlimited => 1000,
        };
        let barred = height == 0 && matches!(allowance.reason, Reason::Blackout(_) | Reason::Hold | Reason::Pause(_));
        let span = look::Span { from: step(begins), to: step(ends), height, barred };
        match spans.last_mut().filter(|last| last.height == height && last.barred == barred && last.to == span.from) {
            Some(last) => last.to = span.to,
            None => spans.push(span),
        }
    }
    spans.retain(|span| span.to > span.from && (span.height > 0 || span.barred));
    spans
}

fn zone_name(ruled: Option<&Ruled>) -> String {
    ruled.and_then(|ruled| ruled.policy.zone.iana_name()).unwrap_or("UTC").to_owned()
}

/// What the edge told, if it did so of late; else what follows from the policy.
fn now_view(ruled: Option<&Ruled>, fresh: Option<&Heard>, now: Timestamp) -> NowView {
    let scheduled = ruled.map(|ruled| (ruled, ruled.allowed(now)));
    let Some(heard) = fresh else {
        return match scheduled {
            Some((ruled, allowance)) => of_allowance(&ruled.policy, &allowance),
            None => NowView { limited_by: Reason::NoPolicy.word().into(), ..NowView::default() },
        };
    };
    let told = &heard.site;
    let word = REASONS.get(usize::from(told.reason)).copied().unwrap_or("unknown");
    // The edge tells a word; what it is called stands in the policy, where both look at the same.
    let named = scheduled.as_ref().filter(|(_, allowance)| allowance.reason.word() == word);
    let (name, reason) = named.map(|(ruled, allowance)| called(&ruled.policy, allowance.reason)).unwrap_or_default();
    NowView {
        rate: Some(u64::from(told.sent_minute) * 8 / 60),
        allowed: told.allowed,
        limited_by: word.into(),
        name,
        reason,
        until: known(told.until),
        told: true,
    }
}

fn of_allowance(policy: &Policy, allowance: &Allowance) -> NowView {
    let (name, reason) = called(policy, allowance.reason);
    NowView {
        rate: None,
        allowed: match allowance.up {
            Rate::Closed => 0,
            Rate::Limited(rate) => rate.bits(),
            Rate::Unlimited => u64::MAX,
        },
        limited_by: allowance.reason.word().into(),
        name,
        reason,
        until: allowance.until.and_then(|until| u64::try_from(until.as_second()).ok()),
        told: false,
    }
}

/// The name of what decides, and why it was made.
fn called(policy: &Policy, reason: Reason) -> (String, String) {
    let made =
        |id| policy.overrides.iter().find(|bend| bend.id == id).map(|bend| (bend.actor.clone(), bend.reason.clone()));
    match reason {
        Reason::Hold => policy.hold.as_ref().map(|hold| (hold.actor.clone(), hold.reason.clone())).unwrap_or_default(),
        Reason::Pause(id) | Reason::Boost(id) => made(id).unwrap_or_default(),
        Reason::Blackout(number) => (policy.blackouts[number].name.clone(), String::new()),
        Reason::Exception(number) => (policy.exceptions[number].name.clone(), String::new()),
        Reason::Window(profile) => (policy.profile(profile).name.clone(), String::new()),
        Reason::Quota(number) | Reason::Pace(number) => {
            (Policy::period_name(policy.quotas[number].period).to_owned(), String::new())
        }
        _ => Default::default(),
    }
}

fn quotas(policy: &Policy, figures: Option<&wire::telemetry::SiteFigures>, now: Timestamp) -> Vec<QuotaView> {
    let used = |number: usize| figures.and_then(|told| told.quotas.get(number)).map_or(0, |(used, _)| *used);
    let rules = policy.quotas.iter().enumerate();
    let second = |at: Timestamp| u64::try_from(at.as_second()).unwrap_or(0);
    rules
        .map(|(number, rule)| {
            let around = rule.period.around(now, &policy.zone);
            QuotaView {
                period: Policy::period_name(rule.period).into(),
                used: used(number),
                limit: rule.limit,
                passed: around.map(|(from, to)| {
                    let whole = to.duration_since(from).as_secs().max(1);
                    (now.duration_since(from).as_secs().clamp(0, whole) * 1000 / whole) as u16
                }),
                begins: around.map(|(from, _)| second(from)),
                ends: around.map(|(_, to)| second(to)),
            }
        })
        .collect()
}

fn badges(
    volumes: &[VolumeBrief],
    heard: Option<&Heard>,
    (row, held): (Option<&PolicyRow>, Option<&EdgePolicy>),
    quotas: &[QuotaView],
    now: Timestamp,
) -> Vec<Badge> {
    let second = u64::try_from(now.as_second()).unwrap_or(0);
    let mut badges = Vec::new();
    for volume in volumes {
        let name = || volume.name.clone();
        if volume.doing == VolumeDoing::Stopped {
            badges.push(Badge::Stopped { volume: name() });
        }
        if let (Some(point), Some(deadline)) = (volume.restore_point, volume.deadline) {
            let (age, lag) = (second.saturating_sub(point), deadline.saturating_sub(point));
            if lag > 0 && age > lag * TOO_OLD {
                badges.push(Badge::TooOld { volume: name(), age });
            }
        }
        match (volume.left, volume.arrives, volume.deadline) {
            (1.., Some(arrives), Some(deadline)) if arrives > deadline => {
                badges.push(Badge::Late { volume: name(), by: Some(arrives - deadline) });
            }
            (1.., None, Some(_)) => badges.push(Badge::Late { volume: name(), by: None }),
            _ => {}
        }
    }
    if let Some(why) = held.and_then(|held| held.refused.clone()) {
        badges.push(Badge::PolicyRefused { why });
    } else if let (Some(row), Some(held)) = (row, held)
        && row.version > held.version
    {
        badges.push(Badge::PolicyWaits);
    }
    if row.is_none() {
        badges.push(Badge::NoPolicy);
    }
    if let Some(told) = heard.map(|heard| &heard.site) {
        match told.clock {
            1 => badges.push(Badge::ClockHoldover),
            2.. => badges.push(Badge::ClockUntrusted),
            0 => {}
        }
        if told.clock_skew.abs() > SKEW_SHOWN {
            badges.push(Badge::ClockSkew { millis: told.clock_skew });
        }
        if told.over_minutes > 0 {
            badges.push(Badge::CapViolated { minutes: told.over_minutes });
        }
        if let Some(at) = known(told.certificate_until).filter(|at| *at < second + CERTIFICATE_SHOWN) {
            badges.push(Badge::CertificateEnds { at });
        }
        if told.disk_size > 0 && told.disk_free < told.disk_size / DISK_SHOWN {
            badges.push(Badge::DiskFull { free: told.disk_free });
        }
    }
    let used_up = quotas.iter().filter(|quota| quota.used >= quota.limit);
    badges.extend(used_up.map(|quota| Badge::QuotaUsedUp { period: quota.period.clone() }));
    badges.sort_by_key(|badge| std::cmp::Reverse(badge.mood()));
    badges
}

fn mood(state: SiteState, badges: &[Badge]) -> Mood {
    let own = match state {
        SiteState::Sending | SiteState::Idle => Mood::Good,
        SiteState::Closed | SiteState::Connected | SiteState::NeverConnected => Mood::Calm,
        SiteState::Away | SiteState::Revoked => Mood::Warn,
    };
    badges.iter().map(Badge::mood).max().map_or(own, |worst| worst.max(own))
}

fn known(second: u32) -> Option<u64> {
    (second > 0).then_some(u64::from(second))
}

const _: () = assert!(LEAST_AHEAD.as_secs() >= 48 * 3600, "pages look two days ahead");
