//! What the edge may do, worked out anew each time from the plan's numbers: it shares no code with `decide`, the ledger or the clock but the zone's rules.

use super::plan::{Bent, Month};
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use shaping::lab::{self, Said};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a site may pause and boost by itself at most, over a restart of the machine whose clock is unknown too.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);
const LONGEST_BOOST: Duration = Duration::from_secs(12 * 3600);

/// The edge's clocks at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The trusted time; none: never told since the machine started.
    pub(super) trusted: Option<Timestamp>,
    pub(super) counted: Duration,
    /// The counting clock when the time was told.
    pub(super) told: Option<Duration>,
}

/// What may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allows {
    /// Bits per second of data.
    pub(super) bits: u64,
    /// Not even control may pass.
    pub(super) silent: bool,
    /// Bytes of data that the quotas leave.
    pub(super) left: u64,
}

impl Allows {
    pub(super) const NOTHING: Allows = Allows { bits: 0, silent: false, left: 0 };
    const SILENT: Allows = Allows { silent: true, ..Allows::NOTHING };
}

/// A pause or boost of the site.
#[derive(Clone, Copy, Debug)]
struct Local {
    boost: Option<u64>,
    from: Option<Timestamp>,
    lasts: Duration,
    until: Timestamp,
    ends: Duration,
}

pub(super) struct Oracle {
    zone: TimeZone,
    policy: Option<(Month, lab::Oracle)>,
    /// The minute that the schedule was last asked for.
    said: Option<(i64, Said)>,
    local: Option<Local>,
    /// When overrides of the policy end by the counting clock.
    ends: BTreeMap<u64, Duration>,
    grant: Option<(u64, Timestamp)>,
    /// By quota and its period: bytes that crossed, and that were lost with claims.
    counts: BTreeMap<(usize, i64), (u64, u64)>,
    /// By quota and its period: what claims on a border that the clock crossed back and forth may have cost.
    slack: BTreeMap<(usize, i64), u64>,
    /// Bytes of control since a start of the machine, before the time was told.
    unknown: u64,
    over: u64,
    used_up: std::collections::BTreeSet<(usize, i64)>,
}

impl Oracle {
    pub(super) fn new(zone: TimeZone) -> Oracle {
        Oracle {
            zone,
            policy: None,
            said: None,
            local: None,
            ends: BTreeMap::new(),
            grant: None,
            counts: BTreeMap::new(),
            slack: BTreeMap::new(),
            unknown: 0,
            over: 0,
            used_up: Default::default(),
        }
    }

    // --- what happens

    pub(super) fn take_policy(&mut self, month: &Month) {
        self.policy = Some((month.clone(), lab::Oracle::new(month.rules.clone())));
        (self.said, self.ends) = (None, BTreeMap::new());
    }

    /// The site pauses (`None`) or boosts.
    pub(super) fn bend(&mut self, boost: Option<u64>, lasts: Duration, clock: &Clock, machine: Timestamp) {
        let until = clock.trusted.unwrap_or(machine) + SignedDuration::try_from(lasts).expect("hours");
        self.local = Some(Local { boost, from: clock.trusted, lasts, until, ends: clock.counted + lasts });
    }

    /// The daemon starts. Returns bytes of control that the run before sent without ever knowing the time: no quota counts them.
    pub(super) fn started(&mut self, clock: &Clock) -> u64 {
        (self.ends, self.grant) = (BTreeMap::new(), None);
        self.local = self.local.and_then(|local| {
            let left = match clock.trusted {
                Some(now) => Duration::try_from(local.until.duration_since(now)).ok()?,
                None => local.lasts,
            };
            let longest = if local.boost.is_some() { LONGEST_BOOST } else { LONGEST_PAUSE };
            let ends = clock.counted + left.min(longest);
            (!left.is_zero()).then_some(Local { ends, ..local })
        });
        std::mem::take(&mut self.unknown)
    }

    pub(super) fn granted(&mut self, bits: u64, until: Timestamp) {
        self.grant = Some((bits, until));
    }

    /// So many bytes crossed, both ways. Before the time is told nobody knows in which period they count: then they are counted.
    pub(super) fn count(&mut self, at: Option<Timestamp>, bytes: u64) {
        let Some(at) = at else {
            self.unknown += bytes;
            return;
        };
        let unknown = std::mem::take(&mut self.unknown);
        for (key, limit) in self.periods(at) {
            let (count, _) = self.counts.entry(key).or_default();
            *count += unknown;
            let before = (*count).max(limit);
            *count += bytes;
            // A limit that a new policy put below what was sent already is passed by what is sent from then on.
            self.over = self.over.max(count.saturating_sub(before));
        }
    }

    /// The gateway's time moved the edge's. Over the border of a period that costs a claim at most, on either side.
    pub(super) fn moved(&mut self, from: Timestamp, to: Timestamp, claim: u64) {
        let keys = |at| self.periods(at).into_iter().map(|(key, _)| key);
        let crossed: Vec<_> = keys(from).zip(keys(to)).filter(|(one, other)| one != other).collect();
        for (one, other) in crossed {
            *self.slack.entry(one).or_default() += claim;
            *self.slack.entry(other).or_default() += claim;
        }
    }

    /// A kill lost so much of what was claimed.
    pub(super) fn lost(&mut self, bytes: u64, at: Option<Timestamp>) {
        let Some(at) = at else { return };
        for (key, _) in self.periods(at) {
            self.counts.entry(key).or_default().1 += bytes;
        }
    }

    // --- what it says

    pub(super) fn is_trusted(&self, clock: &Clock) -> bool {
        let holdover =
            self.policy.as_ref().map_or(Duration::MAX, |(month, _)| Duration::from_secs(month.holdover_days * 86_400));
        clock.told.is_some_and(|told| clock.counted - told <= holdover)
    }

    pub(super) fn allows(&mut self, clock: &Clock) -> Allows {
        let Some((month, schedule)) = &self.policy else { return Allows::NOTHING };
        if month.held {
            return Allows::NOTHING;
        }
        let Some(now) = clock.trusted else { return Allows::NOTHING };
        for bent in month.overrides.iter().filter(|bent| bent.from <= now) {
            let left = Duration::try_from(bent.until.duration_since(now)).unwrap_or_default();
            self.ends.entry(bent.id).or_insert(clock.counted + left);
        }
        self.local = self.local.filter(|local| clock.counted < local.ends);
        let local = self.local.filter(|local| local.from.is_none_or(|from| from <= now) && now < local.until);
        let running = |bent: &&Bent| {
            bent.from <= now && now < bent.until && self.ends.get(&bent.id).is_none_or(|ends| clock.counted < *ends)
        };
        let bits = if self.is_trusted(clock) {
            if local.is_some_and(|local| local.boost.is_none())
                || month.overrides.iter().filter(running).any(|bent| bent.boost.is_none())
            {
                return Allows::NOTHING;
            }
            let minute = now.as_second().div_euclid(60);
            let said = match self.said {
                Some((known, said)) if known == minute => said,
                _ => schedule.says(now),
            };
            self.said = Some((minute, said));
            let blackout = said == Said::Silent || schedule.is_blackout(now);
            let boosts = month.overrides.iter().filter(running).filter(|bent| bent.pierce || !blackout);
            let boosts = boosts.filter_map(|bent| bent.boost);
            match boosts.chain(local.filter(|_| !blackout).and_then(|local| local.boost)).max() {
                Some(boost) => boost,
                None if said == Said::Silent => return Allows::SILENT,
                None => schedule.rate(said),
            }
        } else {
            let pauses = self.local.is_some_and(|local| local.boost.is_none())
                || month.overrides.iter().any(|bent| {
                    bent.boost.is_none() && self.ends.get(&bent.id).is_none_or(|ends| clock.counted < *ends)
                });
            if month.trickles && !pauses { 256_000 } else { 0 }
        };
        self.limited(bits, now)
    }

    /// Cap, quotas and grant.
    fn limited(&mut self, bits: u64, now: Timestamp) -> Allows {
        let (month, schedule) = self.policy.as_ref().expect("asked only with a policy");
        let trickle = schedule.rate(Said::Trickle);
        let mut allows = Allows { bits: bits.min(schedule.rate(Said::Full)), silent: false, left: u64::MAX };
        let soft = month.soft;
        for (quota, (key, limit)) in self.periods(now).into_iter().enumerate() {
            let (count, lost) = self.counts.get(&key).copied().unwrap_or_default();
            let (used, data) = (count + lost, limit - (limit / 100).min(10_000_000));
            if quota == 0 && used * 100 >= limit * u64::from(soft) {
                allows.bits = allows.bits.min(trickle);
            }
            if used >= data {
                allows.bits = 0;
                self.used_up.insert(key);
            }
            allows.silent |= used >= limit;
            let slack = self.slack.get(&key).copied().unwrap_or_default();
            allows.left = allows.left.min(data.saturating_sub(used + slack));
        }
        if let Some((bits, until)) = self.grant
            && now < until
        {
            allows.bits = allows.bits.min(bits);
        }
        allows
    }

    /// The most that left in one step when a quota was used up.
    pub(super) fn over_quota(&self) -> u64 {
        self.over
    }

    /// Periods in which data ended for a quota.
    pub(super) fn used_up(&self) -> u64 {
        self.used_up.len() as u64
    }

    /// The running periods: which quota, its first day, and its limit.
    fn periods(&self, at: Timestamp) -> Vec<((usize, i64), u64)> {
        let Some((month, _)) = &self.policy else { return Vec::new() };
        let today = self.zone.to_datetime(at).date();
        let fifteenth = if today.day() >= 15 { today } else { today.first_of_month() - 1.day() };
        let monday = today - i64::from(today.weekday().since(Weekday::Monday)).days();
        vec![
            ((0, i64::from(fifteenth.year()) * 12 + i64::from(fifteenth.month())), month.month_quota),
            ((1, i64::from(monday.year()) * 1000 + i64::from(monday.day_of_year())), month.week_quota),
        ]
    }
}
