//! What decides about the line, without a clock, a file or a socket: whoever holds it says what the clocks show and what has crossed, and does what it
//! answers. So a year of it can be run in seconds (`lab::year`).
//!
//! ```text
//!   Clocks, Crossed, LedgerStore ──► State::look ──► Look: allowance, budget, courtesy; what to store; when to look again
//! ```

use super::conduct::Conduct;
use super::held::{Held, HeldError};
use super::local::{Local, LocalRecord};
use super::minutes::Minutes;
use super::records::Anchor;
use super::table::VolumeTable;
use dedupe::SiteId;
use jiff::{SignedDuration, Timestamp};
use shaping::ledger::{Ledger, LedgerStore};
use shaping::policy::{Allowance, ClockTrust, Grant, Override, Policy, QuotaUse, Reason, Situation, decide};
use shaping::{BitsPerSec, Rate, TrustedClock};
use std::time::Duration;
use wire::message::Minute;
use wire::policy::SignedPolicy;

/// The longest time between two looks: what is counted by the second needs it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The clock's anchor is stored again after this: it only serves a restart of the daemon.
const ANCHOR_EVERY: Duration = Duration::from_secs(600);

/// What the machine's clocks show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_BOOTTIME: counts on through suspend, and nobody can set it.
    pub counted: Duration,
    /// The machine's own clock, for what needs some time before the gateway has told it; nothing is opened by it.
    pub machine: Timestamp,
}

/// IP-level bytes since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossed {
    /// Towards the gateway.
    pub sent: u64,
    /// Towards the site.
    pub received: u64,
}

/// What a restart finds of the run before.
#[derive(Debug, Default)]
pub struct Kept {
    /// The time as it was told.
    pub anchor: Option<Anchor>,
    /// What the site has paused or boosted.
    pub local: Vec<LocalRecord>,
    /// The policy.
    pub held: Option<Held>,
    /// Why there is none although there was one.
    pub fault: Option<String>,
}

/// The answer of a look.
#[derive(Debug)]
pub struct Look<E> {
    /// What the line may be used for.
    pub allowed: Allowance,
    /// How far the clock is trusted.
    pub clock: ClockTrust,
    /// How far the quotas are used, in the policy's order.
    pub quotas: Vec<QuotaUse>,
    /// How the volumes share what is allowed.
    pub volumes: VolumeTable,
    /// Bytes that may be sent since the start, before more is claimed; none: any number.
    pub budget: Option<u64>,
    /// Queueing delay from which on data makes way for others.
    pub courtesy: Option<Duration>,
    /// Whether more could be claimed of the quotas. If not, the line stops when what is claimed is spent.
    pub claimed: Result<(), E>,
    /// A minute that is over: evidence to be kept.
    pub minute: Option<Minute>,
    /// The time, to be kept for a restart; then [`State::anchored`].
    pub anchor: Option<Anchor>,
    /// When to look again at the latest.
    pub wait: Duration,
}

/// Everything that decides about the line. Nothing is claimed before [`State::go_live`].
#[derive(Debug)]
pub struct State {
    /// Whether this is the daemon: the command line alone looks, and claims nothing.
    live: bool,
    ceiling: Option<Rate>,
    pub(super) held: Option<Held>,
    pub(super) fault: Option<String>,
    clock: TrustedClock,
    boot: String,
    /// Whether the time was told since it was last stored, and when that was.
    told: bool,
    anchored: Option<Duration>,
    pub(super) local: Vec<Local>,
    /// When the policy's own overrides end by the counting clock; by their number.
    ends: Vec<(u64, Duration)>,
    grant: Option<Grant>,
    ledger: Ledger,
    minutes: Minutes,
    pub(super) conduct: Conduct,
}

impl State {
    /// Takes up what was in force before. `boot` names this start of the machine, from which the counting clock counts; empty: unknown. `ceiling` is the
    /// configuration's rate.
    pub fn resume(kept: Kept, ceiling: Option<Rate>, boot: String, clocks: Clocks) -> State {
        let mut clock = TrustedClock::default();
        if let Some(anchor) = kept.anchor.filter(|anchor| anchor.boot == boot && !boot.is_empty())
            && let Ok(time) = Timestamp::from_nanosecond(anchor.time)
        {
            clock.told(time, Duration::from_nanos(anchor.counted));
        }
        let now = clock.now(clocks.counted);
        State {
            live: false,
            ceiling,
            held: kept.held,
            fault: kept.fault,
            clock,
            boot,
            told: false,
            anchored: None,
            local: kept.local.into_iter().filter_map(|record| record.taken_up(now, clocks.counted)).collect(),
            ends: Vec::new(),
            grant: None,
            ledger: Ledger::default(),
            minutes: Minutes::default(),
            conduct: Conduct::default(),
        }
    }

    /// From now on bytes may be sent, and are claimed.
    pub fn go_live(&mut self) {
        self.live = true;
    }

    /// Whether bytes may be sent.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The time, as far as it was ever told.
    pub fn now(&self, counted: Duration) -> Option<Timestamp> {
        self.clock.now(counted)
    }

    /// How far it is trusted, when it may be believed so long without word from the gateway.
    pub(super) fn clock_trust(&self, counted: Duration, holdover: Duration) -> ClockTrust {
        self.clock.trust(counted, holdover)
    }

    /// How long ago a gateway told the time.
    pub(super) fn told_ago(&self, counted: Duration) -> Option<Duration> {
        self.clock.told_ago(counted)
    }

    /// The configuration's rate.
    pub(super) fn ceiling(&self) -> Option<Rate> {
        self.ceiling
    }

    /// The time as well as it is known.
    pub(super) fn known(&self, clocks: Clocks) -> Timestamp {
        self.clock.now(clocks.counted).unwrap_or(clocks.machine)
    }

    /// An authenticated gateway said what time it is. Returns by how much that moves ours.
    pub fn told(&mut self, time: Timestamp, counted: Duration) -> SignedDuration {
        self.told = true;
        self.clock.told(time, counted)
    }

    /// The gateway grants so much of its own line. Below what a rate can be, it grants nothing.
    pub fn granted(&mut self, bits: u64, lasts: Duration, counted: Duration) {
        let Some(now) = self.clock.now(counted) else { return };
        let up = if bits < BitsPerSec::LEAST.bits() { Rate::Closed } else { BitsPerSec::new(bits).into() };
        let until = SignedDuration::try_from(lasts).ok().and_then(|lasts| now.checked_add(lasts).ok());
        self.grant = until.map(|until| Grant { up, until });
    }

    /// Whether a policy is one for this site, signed by its gateway and newer than what is in force; then it may be stored, and [`State::put`].
    pub fn accept(&self, signed: SignedPolicy, site: SiteId, clocks: Clocks) -> Result<Held, HeldError> {
        Held::accept(signed, site, self.held.as_ref(), self.known(clocks))
    }

    /// This policy is in force from now on. Returns its version.
    pub fn put(&mut self, held: Held) -> u64 {
        let version = held.policy.version;
        (self.held, self.fault, self.ends) = (Some(held), None, Vec::new());
        version
    }

    /// What the site has paused or boosted.
    pub(super) fn bends(&self) -> Vec<Override> {
        self.local.iter().map(|local| local.bend.clone()).collect()
    }

    /// How far the policy's quotas are used.
    pub(super) fn quotas(&self) -> Vec<QuotaUse> {
        self.ledger.uses().collect()
    }

    /// The anchor of a look is stored.
    pub fn anchored(&mut self, counted: Duration) {
        (self.told, self.anchored) = (false, Some(counted));
    }

    /// Looks at everything and decides. `asked` is the rate in force until now: it sizes the claim.
    pub fn look<S: LedgerStore>(&mut self, clocks: Clocks, crossed: Crossed, asked: Rate, store: &S) -> Look<S::Error> {
        let counted = clocks.counted;
        let now = self.clock.now(counted);
        let anchor = self.due_anchor(now, counted);
        self.local.retain(|local| counted < local.ends);
        let (mut claimed, mut volumes) = (Ok(()), VolumeTable::default());
        let (mut allowed, clock, quotas) = match &mut self.held {
            Some(held) => {
                end_overrides(&mut held.policy, &mut self.ends, now, counted);
                let trust = self.clock.trust(counted, held.policy.clock_holdover);
                let known = now.unwrap_or(clocks.machine);
                held.renew_schedule(known);
                // Without ever having been told the time nobody knows in which period bytes count: then only control goes on, and is counted later.
                let counts = now.is_some() || held.policy.quotas.is_empty();
                if let (Some(now), true) = (now, counts && self.live) {
                    let rate = asked.limit().unwrap_or(held.policy.line.up).bytes();
                    claimed = self.ledger.advance(&held.policy, now, crossed.sent + crossed.received, rate, store);
                }
                let uses: Vec<QuotaUse> = self.ledger.uses().map(|used| with_pace(used, held, known)).collect();
                let local: Vec<Override> = self.local.iter().map(|local| local.bend.clone()).collect();
                let situation = Situation {
                    now: known,
                    clock: trust,
                    quotas: &uses,
                    local: &local,
                    grant: self.grant,
                    courtesy: None,
                };
                let mut allowed = decide(&held.policy, &held.schedule, &situation);
                volumes = VolumeTable::at(&held.policy, &local, known, trust);
                if let Some(ceiling) = self.ceiling {
                    allowed.at_most(ceiling, None, Reason::Config, None);
                }
                if !counts {
                    allowed.at_most(Rate::Closed, None, Reason::Clock, None);
                }
                (allowed, trust, uses)
            }
            None => {
                let closed = Allowance::closed(Reason::NoPolicy, None);
                let by_config = match self.ceiling.filter(|_| self.fault.is_none()) {
                    Some(rate) => Allowance { up: rate, down: Rate::Unlimited, reason: Reason::Config, ..closed },
                    None => closed,
                };
                (by_config, self.clock.trust(counted, Duration::MAX), Vec::new())
            }
        };
        if self.held.is_none()
            && let Some(pause) = self.local.iter().find(|local| local.bend.bend == shaping::policy::Bend::Pause)
        {
            allowed = Allowance::closed(Reason::Pause(pause.bend.id), Some(pause.bend.until));
        }
        if self.live {
            self.conduct.note(counted, crossed.sent, allowed.up);
        }
        let minute = match self.live {
            true => self.minutes.note(now, counted, crossed.sent, crossed.received, &allowed),
            false => None,
        };
        let next = [allowed.until, volumes.until()].into_iter().flatten().min();
        let until = next.zip(now).map(|(until, now)| until.duration_since(now));
        let wait = until.and_then(|until| Duration::try_from(until).ok());
        Look {
            allowed,
            clock,
            quotas,
            volumes,
            budget: self.ledger.budget().map(|total| total.saturating_sub(crossed.received)),
            courtesy: self.held.as_ref().and_then(|held| held.policy.line.courtesy),
            claimed,
            minute,
            anchor,
            wait: wait.map_or(LOOK_EVERY, |until| until.min(LOOK_EVERY)),
        }
    }

    /// The line is closed for good: gives the unspent rest of the quotas back, and the minute in the making out.
    pub fn close<S: LedgerStore>(&mut self, crossed: Crossed, store: &S) -> (Result<(), S::Error>, Option<Minute>) {
        (self.ledger.close(crossed.sent + crossed.received, store), self.minutes.take())
    }

    /// The time for a restart of the daemon, when it was told anew.
    fn due_anchor(&self, now: Option<Timestamp>, counted: Duration) -> Option<Anchor> {
        let due = self.anchored.is_none_or(|last| counted.saturating_sub(last) > ANCHOR_EVERY);
        let now = now.filter(|_| self.told && due)?;
        Some(Anchor { time: now.as_nanosecond(), counted: counted.as_nanos() as u64, boot: self.boot.clone() })
    }
}

/// Ends the policy's overrides by the counting clock too: whichever comes first, so that a clock that is set back prolongs nothing.
fn end_overrides(policy: &mut Policy, ends: &mut Vec<(u64, Duration)>, now: Option<Timestamp>, counted: Duration) {
    let Some(now) = now else { return };
    policy.overrides.retain(|bend| {
        if bend.from > now {
            return true;
        }
        let end = match ends.iter().find(|(id, _)| *id == bend.id) {
            Some((_, end)) => *end,
            None => {
                let left = Duration::try_from(bend.until.duration_since(now)).unwrap_or_default();
                ends.push((bend.id, counted + left));
                counted + left
            }
        };
        counted < end
    });
}

/// Adds over how many open seconds a quota is to last.
fn with_pace(mut used: QuotaUse, held: &Held, now: Timestamp) -> QuotaUse {
    let even = held.policy.quotas.iter().any(|rule| rule.even);
    if let Some(ends) = used.ends.filter(|_| even) {
        used.open_seconds = held.schedule.open_seconds(&held.policy, now, ends);
    }
    used
}
