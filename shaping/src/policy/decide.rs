//! The one function that answers for edge, gateway, preview, forecast and audit alike.

use super::quota::QuotaStep;
use super::{Bend, BlackoutKind, Override, Policy, ProfileNumber, Schedule, Slot};
use crate::bucket::Depth;
use crate::units::{BitsPerSec, Rate};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};

/// How far a clock is to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockTrust {
    /// An authenticated gateway told the time a short while ago.
    Synced,
    /// It did once, and this machine has counted the time since without a gap.
    Holdover,
    /// Nobody has told the time since this machine started, or it is too long ago.
    Untrusted,
}

/// How far one quota of the policy is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaUse {
    /// Bytes claimed in the running period.
    pub used: u64,
    /// When the period ends; `None`: never.
    pub ends: Option<Timestamp>,
    /// Seconds until then in which the schedule is open: what an even pace is spread over.
    pub open_seconds: u64,
}

/// What the gateway grants this edge of its own line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Towards the gateway.
    pub up: Rate,
    /// After this it says nothing any more.
    pub until: Timestamp,
}

/// What is known at the moment of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The time.
    pub now: Timestamp,
    /// Whether it can be trusted.
    pub clock: ClockTrust,
    /// One for each quota of the policy, in its order.
    pub quotas: &'a [QuotaUse],
    /// Overrides that were made at the site itself.
    pub local: &'a [Override],
    /// What the gateway grants.
    pub grant: Option<Grant>,
    /// What the branch's own traffic leaves.
    pub courtesy: Option<BitsPerSec>,
}

/// What control may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    /// It shares the rate, and keeps its small reserve where data is closed.
    Normal,
    /// Nothing at all leaves.
    Silent,
}

/// The smallest of all terms: what holds the line back. Numbers are places in the policy's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no valid policy.
    NoPolicy,
    /// Somebody holds the site.
    Hold,
    /// The clock cannot be trusted.
    Clock,
    /// An override stops it.
    Pause(u64),
    /// An override raises it.
    Boost(u64),
    /// A blackout.
    Blackout(usize),
    /// A dated exception, with its profile.
    Exception(usize),
    /// The week's schedule, with its profile.
    Window(ProfileNumber),
    /// The line's cap.
    Cap,
    /// The ceiling of the edge's own configuration.
    Config,
    /// A quota's step.
    Quota(usize),
    /// A quota that is to last to its period's end.
    Pace(usize),
    /// The gateway's grant.
    Grant,
    /// The branch's own traffic.
    Courtesy,
}

/// What the line may be used for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Towards the gateway.
    pub up: Rate,
    /// Towards the site.
    pub down: Rate,
    /// Bytes that may leave at once after a pause, by the rate up.
    pub burst: u64,
    /// What control may do.
    pub control: Control,
    /// What decided.
    pub reason: Reason,
    /// Until when this holds as far as time alone decides; `None`: until something else happens.
    pub until: Option<Timestamp>,
}

impl Allowance {
    /// Nothing but control may pass, for this reason.
    pub const fn closed(reason: Reason, until: Option<Timestamp>) -> Allowance {
        Allowance { up: Rate::Closed, down: Rate::Closed, burst: 0, control: Control::Normal, reason, until }
    }

    /// Takes a term in: the smaller rate of both holds, and the reason is the term's when it is the smaller one.
    pub fn at_most(&mut self, up: Rate, down: Option<Rate>, reason: Reason, until: Option<Timestamp>) {
        if up < self.up {
            self.up = up;
            self.reason = reason;
        }
        self.down = down.map_or(self.down, |down| down.min(self.down));
        self.until = earlier(self.until, until);
    }
}

/// What a site's line may be used for now, and why.
///
/// First match: hold, untrusted clock, pause, blackout (which a boost pierces only with the right to do so), boost, dated exception, weekly grid. Then the smallest of
/// that, the line's cap, the quotas' steps, the gateway's grant and what courtesy leaves. The schedule must have been made from the same policy;
/// outside of its span the answer is the same, only slower, and `until` is the end of the quarter of an hour.
pub fn decide(policy: &Policy, schedule: &Schedule, now: &Situation<'_>) -> Allowance {
    if policy.hold.is_some() {
        return Allowance::closed(Reason::Hold, None);
    }
    let overrides = || policy.overrides.iter().chain(now.local).filter(|bend| bend.volume.is_none());
    if now.clock == ClockTrust::Untrusted {
        return match overrides().find(|bend| bend.bend == Bend::Pause) {
            Some(pause) => Allowance::closed(Reason::Pause(pause.id), None),
            None => limited(open(policy, policy.untrusted_clock, Reason::Clock, None), policy, now),
        };
    }
    let active = || overrides().filter(|bend| bend.from <= now.now && now.now < bend.until);
    if let Some(pause) = active().filter(|bend| bend.bend == Bend::Pause).max_by_key(|bend| bend.until) {
        return Allowance::closed(Reason::Pause(pause.id), Some(pause.until));
    }
    let (slot, mut until) = schedule.at(now.now).unwrap_or_else(|| (policy.slot_at(now.now), end_of_cell(now.now)));
    for begins in overrides().map(|bend| bend.from).filter(|from| *from > now.now) {
        until = until.min(begins);
    }
    let boost = active().filter_map(|bend| match bend.bend {
        Bend::Boost { rate, pierce } if pierce || slot.blackout.is_none() => Some((rate, bend)),
        _ => None,
    });
    let allowance = match (boost.max_by_key(|(rate, _)| *rate), slot.blackout) {
        (Some((rate, bend)), _) => Allowance {
            up: rate,
            down: rate,
            burst: 0,
            control: Control::Normal,
            reason: Reason::Boost(bend.id),
            until: Some(until.min(bend.until)),
        },
        (None, Some((kind, number))) => {
            let control = if kind == BlackoutKind::Silent { Control::Silent } else { Control::Normal };
            return Allowance { control, ..Allowance::closed(Reason::Blackout(number), Some(until)) };
        }
        (None, None) => scheduled(policy, slot, until),
    };
    limited(allowance, policy, now)
}

fn scheduled(policy: &Policy, slot: Slot, until: Timestamp) -> Allowance {
    let reason = slot.exception.map_or(Reason::Window(slot.profile), Reason::Exception);
    open(policy, slot.profile, reason, Some(until))
}

fn open(policy: &Policy, profile: ProfileNumber, reason: Reason, until: Option<Timestamp>) -> Allowance {
    let profile = policy.profile(profile);
    Allowance {
        up: profile.up.of(policy.line.up),
        down: profile.down.of(policy.line.down),
        burst: 0,
        control: Control::Normal,
        reason,
        until,
    }
}

/// The terms that hold whatever the schedule says.
fn limited(mut allowance: Allowance, policy: &Policy, now: &Situation<'_>) -> Allowance {
    let cap = policy.line.cap;
    allowance.at_most(cap.of(policy.line.up), Some(cap.of(policy.line.down)), Reason::Cap, None);
    for (number, (rule, quota)) in policy.quotas.iter().zip(now.quotas).enumerate() {
        let step = rule.step(quota.used);
        match step {
            QuotaStep::Free | QuotaStep::Warn => {}
            QuotaStep::Soft(profile) => {
                let profile = policy.profile(profile);
                let (up, down) = (profile.up.of(policy.line.up), profile.down.of(policy.line.down));
                allowance.at_most(up, Some(down), Reason::Quota(number), quota.ends);
            }
            QuotaStep::Hard | QuotaStep::Silent => {
                allowance.at_most(Rate::Closed, Some(Rate::Closed), Reason::Quota(number), quota.ends);
            }
        }
        if step == QuotaStep::Silent {
            allowance.control = Control::Silent;
        }
        let left = rule.data_limit().saturating_sub(quota.used);
        if rule.even
            && let Some(pace) = left.saturating_mul(8).checked_div(quota.open_seconds)
        {
            let pace = if pace < BitsPerSec::LEAST.bits() { Rate::Closed } else { BitsPerSec::new(pace).into() };
            allowance.at_most(pace, None, Reason::Pace(number), quota.ends);
        }
    }
    if let Some(grant) = now.grant.filter(|grant| now.now < grant.until) {
        allowance.at_most(grant.up, None, Reason::Grant, Some(grant.until));
    }
    if let Some(left) = now.courtesy {
        allowance.at_most(left.into(), None, Reason::Courtesy, None);
    }
    allowance.burst = allowance.up.limit().map_or(0, |limit| Depth::at(limit).bytes());
    allowance
}

fn end_of_cell(now: Timestamp) -> Timestamp {
    const CELL: i64 = 15 * 60;
    Timestamp::from_second((now.as_second().div_euclid(CELL) + 1) * CELL).unwrap_or(Timestamp::MAX)
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Allowance {
    /// The sentence that people are shown: `closed until Mon 19:30 by the schedule (closed)`.
    pub fn explain(&self, policy: &Policy, local: &[Override]) -> String {
        let rate = match self.up {
            Rate::Closed if self.control == Control::Silent => "silent".to_owned(),
            Rate::Closed => "closed".to_owned(),
            rate => rate.to_string(),
        };
        let until = self.until.map(|until| format!(" until {}", moment(until, &policy.zone))).unwrap_or_default();
        format!("{rate}{until} {}", self.reason.explain(policy, local))
    }
}

impl Reason {
    /// Part of a sentence: `by the schedule (night)`.
    pub fn explain(self, policy: &Policy, local: &[Override]) -> String {
        let find = |id| policy.overrides.iter().chain(local).find(|bend| bend.id == id);
        let by = |what: &str, id| match find(id) {
            Some(bend) => format!("{what} {} ({})", bend.actor, bend.reason),
            None => what.to_owned(),
        };
        match self {
            Reason::NoPolicy => "because there is no valid policy".into(),
            Reason::Hold => match &policy.hold {
                Some(hold) => format!("held by {} ({})", hold.actor, hold.reason),
                None => "held".into(),
            },
            Reason::Clock => "because the clock cannot be trusted".into(),
            Reason::Pause(id) => by("paused by", id),
            Reason::Boost(id) => by("boosted by", id),
            Reason::Blackout(number) => format!("by the blackout {}", policy.blackouts[number].name),
            Reason::Exception(number) => {
                let exception = &policy.exceptions[number];
                format!("by the exception {} ({})", exception.name, policy.profile(exception.profile).name)
            }
            Reason::Window(profile) => format!("by the schedule ({})", policy.profile(profile).name),
            Reason::Cap => "by the line's cap".into(),
            Reason::Config => "by the configuration of this edge".into(),
            Reason::Quota(number) => format!("by the {} quota", Policy::period_name(policy.quotas[number].period)),
            Reason::Pace(number) => {
                format!("to spread the {} quota evenly", Policy::period_name(policy.quotas[number].period))
            }
            Reason::Grant => "by the gateway's grant".into(),
            Reason::Courtesy => "to make way for the branch's own traffic".into(),
        }
    }

    /// The number under which records keep it: a place in [`REASONS`].
    pub fn code(self) -> u8 {
        match self {
            Reason::NoPolicy => 0,
            Reason::Hold => 1,
            Reason::Clock => 2,
            Reason::Pause(_) => 3,
            Reason::Boost(_) => 4,
            Reason::Blackout(_) => 5,
            Reason::Exception(_) => 6,
            Reason::Window(_) => 7,
            Reason::Cap => 8,
            Reason::Config => 9,
            Reason::Quota(_) => 10,
            Reason::Pace(_) => 11,
            Reason::Grant => 12,
            Reason::Courtesy => 13,
        }
    }

    /// One word for metrics and records.
    pub fn word(self) -> &'static str {
        REASONS[usize::from(self.code())]
    }
}

/// A word for each reason, by its code. Kept by edges and gateways for years: only ever added to.
pub const REASONS: [&str; 14] = [
    "no-policy",
    "hold",
    "clock",
    "pause",
    "boost",
    "blackout",
    "exception",
    "schedule",
    "cap",
    "config",
    "quota",
    "pace",
    "grant",
    "courtesy",
];

/// A moment in the site's civil time, to the minute, as people write it.
pub(super) fn moment(at: Timestamp, zone: &TimeZone) -> String {
    let round = at.round(Unit::Minute).unwrap_or(at);
    round.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M").to_string()
}
