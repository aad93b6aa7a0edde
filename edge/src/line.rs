//! What the line may be used for now: the policy in force, the time, the quotas and what people at the site ask for go into
//! [`shaping::policy::decide`]; what comes out goes to the shaper, to whoever shows it, and into the evidence.
//!
//! ```text
//!   gateway ── policy, time, grant ──►┐                        ┌──► Shaper: rate, silence, budget
//!   site ───── pause, boost ─────────►│ Line ── decide() ──────┤
//!   journal ── quotas, overrides ────►┘  once a second, at     ├──► status, link
//!                                        each change, and when └──► evidence, minute by minute
//!                                        the answer ends
//! ```
//!
//! A site without a policy runs at the constant rate of its configuration; where that has none either, it is closed. From its first policy on the
//! policy decides, and the configuration's rate is a ceiling.

pub(crate) mod held;
mod local;
mod minutes;
pub(crate) mod outlook;
pub(crate) mod records;
mod table;

pub use local::LocalError;
pub use outlook::{Advice, Boost, NoAdvice, Sureness};
pub use table::VolumeTable;

use crate::journal::{Journal, JournalError};
use dedupe::{SiteId, UnixMillis};
use held::Held;
use jiff::{SignedDuration, Timestamp};
use local::Local;
use minutes::Minutes;
use nix::time::{ClockId, clock_gettime};
use records::Anchor;
use serde::{Deserialize, Serialize};
use shaping::ledger::Ledger;
use shaping::policy::{Allowance, ClockTrust, Control, Grant, Override, Policy, QuotaUse, Reason, Situation, decide};
use shaping::{BitsPerSec, Rate, Shaper, TrustedClock};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wire::clock::machine_time;
use wire::message::{MAX_MINUTES, Minute};
use wire::policy::SignedPolicy;

/// The longest time between two looks: what is counted by the second needs it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The clock's anchor is stored again after this: it only serves a restart of the daemon.
const ANCHOR_EVERY: Duration = Duration::from_secs(600);
/// Minutes of evidence that are worth a message.
const BATCH: usize = 15;

/// What holds now, for status, metrics and whoever waits for the line to open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The rate towards the gateway.
    pub up: String,
    /// Whether data may leave.
    pub open: bool,
    /// One word for the deciding term, see [`shaping::policy::REASONS`].
    pub reason: String,
    /// The sentence for people: `closed until Mon 2026-11-23 19:30 by the schedule (closed)`.
    pub sentence: String,
    /// The version of the policy in force; none: the configuration decides.
    pub policy: Option<u64>,
    /// What is wrong with the policy, if anything is.
    pub fault: Option<String>,
    /// Whether the clock is trusted.
    pub clock: ClockTrust,
    /// Bytes of each quota: what it counts over, used, limit.
    pub quotas: Vec<(String, u64, u64)>,
}

/// A handle on what decides about the line. Clones are handles on the same one.
#[derive(Clone)]
pub struct Line(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    journal: Arc<Journal>,
    shaper: Shaper,
    ceiling: Option<Rate>,
    state: Mutex<State>,
    changed: Notify,
    standing: watch::Sender<Standing>,
    volumes: watch::Sender<Arc<VolumeTable>>,
}

struct State {
    /// Whether this is the daemon: the command line alone looks, and claims nothing.
    live: bool,
    held: Option<Held>,
    fault: Option<String>,
    clock: TrustedClock,
    boot: String,
    /// Whether the time was told since it was last stored, and when that was.
    told: bool,
    anchored: Option<Duration>,
    local: Vec<Local>,
    /// When the policy's own overrides end by the counting clock; by their number.
    ends: Vec<(u64, Duration)>,
    grant: Option<Grant>,
    ledger: Ledger,
    minutes: Minutes,
}

impl Line {
    /// Takes up what was in force before. Nothing is claimed, and the shaper stays closed, until [`Line::go_live`].
    pub fn open(directory: &Path, journal: Arc<Journal>, ceiling: Option<Rate>) -> Result<Line, JournalError> {
        let counted = counted();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let mut clock = TrustedClock::default();
        if let Some(anchor) = journal.anchor()?.filter(|anchor| anchor.boot == boot && !boot.is_empty())
            && let Ok(time) = Timestamp::from_nanosecond(anchor.time)
        {
            clock.told(time, Duration::from_nanos(anchor.counted));
        }
        let now = clock.now(counted).unwrap_or_else(machine);
        let (held, fault) = match Held::load(directory, now) {
            Ok(held) => (held, None),
            Err(error) => (None, Some(error.to_string())),
        };
        if let Some(fault) = &fault {
            tracing::error!(fault, "the policy cannot be used: closed until the gateway sends it again");
        }
        let local = journal.local()?.into_iter().filter_map(|record| record.taken_up(now, counted)).collect();
        let state = State {
            live: false,
            held,
            fault,
            clock,
            boot,
            told: false,
            anchored: None,
            local,
            ends: Vec::new(),
            grant: None,
            ledger: Ledger::default(),
            minutes: Minutes::default(),
        };
        let shaper = Shaper::new(Rate::Closed);
        let line = Line(Arc::new(Inner {
            directory: directory.to_owned(),
            journal,
            shaper,
            ceiling,
            state: Mutex::new(state),
            changed: Notify::new(),
            volumes: watch::Sender::default(),
            standing: watch::Sender::new(Standing {
                up: "0".into(),
                open: false,
                reason: Reason::NoPolicy.word().into(),
                sentence: String::new(),
                policy: None,
                fault: None,
                clock: ClockTrust::Untrusted,
                quotas: Vec::new(),
            }),
        }));
        line.look();
        Ok(line)
    }

    /// The line's shaper.
    pub fn shaper(&self) -> &Shaper {
        &self.0.shaper
    }

    /// What holds now.
    pub fn standing(&self) -> Standing {
        self.0.standing.borrow().clone()
    }

    /// Follows how volumes share the line.
    pub(crate) fn volumes(&self) -> watch::Receiver<Arc<VolumeTable>> {
        self.0.volumes.subscribe()
    }

    /// Completes when data may leave.
    pub async fn opened(&self) {
        let mut standing = self.0.standing.subscribe();
        let _never_dropped_before_us = standing.wait_for(|standing| standing.open).await;
    }

    /// The document in force.
    pub fn document(&self) -> Option<String> {
        self.lock().held.as_ref().map(|held| held.policy.text())
    }

    /// The version of the policy in force; 0: none.
    pub fn policy_version(&self) -> u64 {
        self.lock().held.as_ref().map_or(0, |held| held.policy.version)
    }

    /// From now on bytes may be sent. Blocks.
    pub fn go_live(&self) {
        self.lock().live = true;
        self.look();
    }

    /// The identity is another one: what was in force for the old one is so no more. Blocks.
    pub(crate) fn reload(&self) {
        let mut state = self.lock();
        let now = state.clock.now(counted()).unwrap_or_else(machine);
        (state.held, state.fault) = match Held::load(&self.0.directory, now) {
            Ok(held) => (held, None),
            Err(error) => (None, Some(error.to_string())),
        };
        drop(state);
        self.0.changed.notify_one();
    }

    /// A moment in the site's civil time, for people.
    pub fn moment(&self, second: i64) -> String {
        let zone = self.lock().held.as_ref().map_or(jiff::tz::TimeZone::UTC, |held| held.policy.zone.clone());
        let at = Timestamp::from_second(second).unwrap_or_default();
        at.to_zoned(zone).strftime("%a %Y-%m-%d %H:%M").to_string()
    }

    /// Decides again and again until `stop`; then gives the unspent rest of the quotas back.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let look = self.clone();
            let wait = crate::pipeline::blocking(move || look.look()).await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.0.changed.notified() => {}
                () = stop.cancelled() => break,
            }
        }
        let line = self.clone();
        crate::pipeline::blocking(move || line.close()).await;
    }

    /// An authenticated gateway said what time it is.
    pub(crate) fn told(&self, now: UnixMillis) {
        let Ok(time) = Timestamp::from_millisecond(now.0 as i64) else { return };
        let counted = counted();
        let mut state = self.lock();
        let moved = state.clock.told(time, counted);
        if moved.abs() > SignedDuration::from_secs(5) {
            tracing::warn!(by = %moved, "the gateway's time moves ours");
        }
        state.told = true;
        drop(state);
        self.0.changed.notify_one();
    }

    /// Takes a policy from the gateway in. `Err`: why it is not taken; the last good one stays in force. Blocks.
    pub(crate) fn take_policy(&self, signed: SignedPolicy, site: SiteId) -> Result<u64, String> {
        let mut state = self.lock();
        let now = state.clock.now(counted()).unwrap_or_else(machine);
        let taken = Held::take(signed, site, state.held.as_ref(), &self.0.directory, now);
        let version = match taken {
            Ok(held) => {
                let version = held.policy.version;
                if state.held.as_ref().is_none_or(|old| old.policy.version != version) {
                    tracing::info!(version, "a new policy is in force");
                }
                state.held = Some(held);
                (state.fault, state.ends) = (None, Vec::new());
                version
            }
            Err(error) => {
                tracing::error!(%error, "a policy was refused");
                return Err(error.to_string());
            }
        };
        drop(state);
        self.0.changed.notify_one();
        Ok(version)
    }

    /// The gateway grants so much of its own line.
    pub(crate) fn granted(&self, bits: u64, lasts: Duration) {
        let mut state = self.lock();
        let Some(now) = state.clock.now(counted()) else { return };
        let up = if bits < BitsPerSec::LEAST.bits() { Rate::Closed } else { BitsPerSec::new(bits).into() };
        let until = SignedDuration::try_from(lasts).ok().and_then(|lasts| now.checked_add(lasts).ok());
        state.grant = until.map(|until| Grant { up, until });
        drop(state);
        self.0.changed.notify_one();
    }

    /// Evidence that the gateway does not have yet, oldest first; none while there is less than a quarter of an hour of it. Blocks.
    pub(crate) fn evidence(&self) -> Vec<Minute> {
        let held = self.0.journal.evidence_held();
        let minutes = held.and_then(|held| self.0.journal.minutes_after(held, MAX_MINUTES));
        let now = self.lock().clock.now(counted()).map_or(0, |now| now.as_second().div_euclid(60));
        // A minute that a restart has cut in two is whole only once it is over.
        let minutes = minutes
            .map(|minutes| minutes.into_iter().filter(|minute| i64::from(minute.minute) < now).collect::<Vec<_>>());
        match minutes {
            Ok(minutes) if minutes.len() >= BATCH => minutes,
            Ok(_) => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "evidence cannot be read");
                Vec::new()
            }
        }
    }

    /// The gateway has evidence up to this minute. Blocks.
    pub(crate) fn evidence_held(&self, minute: u32) {
        if let Err(error) = self.0.journal.set_evidence_held(minute) {
            tracing::warn!(%error, "cannot note how much evidence the gateway has; it is sent again");
        }
    }

    /// Looks at everything, decides, and tells the shaper. Returns when to look again.
    pub(crate) fn look(&self) -> Duration {
        let (shaper, counted) = (&self.0.shaper, counted());
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = state.clock.now(counted);
        self.store_time(state, now, counted);
        state.local.retain(|local| counted < local.ends);
        let (sent, received) = (shaper.spent(), shaper.meter().received_bytes);
        let mut table = VolumeTable::default();
        let (mut allowed, trust, uses) = match &mut state.held {
            Some(held) => {
                end_overrides(&mut held.policy, &mut state.ends, now, counted);
                let trust = state.clock.trust(counted, held.policy.clock_holdover);
                let known = now.unwrap_or_else(machine);
                held.renew_schedule(known);
                // Without ever having been told the time nobody knows in which period bytes count: then only control goes on, and is counted later.
                let counts = now.is_some() || held.policy.quotas.is_empty();
                if let (Some(now), true) = (now, counts && state.live) {
                    let rate = shaper.rate().limit().unwrap_or(held.policy.line.up).bytes();
                    let done = state.ledger.advance(&held.policy, now, sent + received, rate, &*self.0.journal);
                    if let Err(error) = done {
                        tracing::warn!(%error, "nothing can be claimed of the quotas: the line stops when what is claimed is spent");
                    }
                }
                let uses: Vec<QuotaUse> = state.ledger.uses().map(|used| with_pace(used, held, known)).collect();
                let local: Vec<Override> = state.local.iter().map(|local| local.bend.clone()).collect();
                let situation = Situation {
                    now: known,
                    clock: trust,
                    quotas: &uses,
                    local: &local,
                    grant: state.grant,
                    courtesy: None,
                };
                let mut allowed = decide(&held.policy, &held.schedule, &situation);
                table = VolumeTable::at(&held.policy, &local, known, trust);
                if let Some(ceiling) = self.0.ceiling {
                    allowed.at_most(ceiling, None, Reason::Config, None);
                }
                if !counts {
                    allowed.at_most(Rate::Closed, None, Reason::Clock, None);
                }
                (allowed, trust, uses)
            }
            None => {
                let closed = Allowance::closed(Reason::NoPolicy, None);
                let by_config = match self.0.ceiling.filter(|_| state.fault.is_none()) {
                    Some(rate) => Allowance { up: rate, down: Rate::Unlimited, reason: Reason::Config, ..closed },
                    None => closed,
                };
                (by_config, state.clock.trust(counted, Duration::MAX), Vec::new())
            }
        };
        if state.held.is_none()
            && let Some(pause) = state.local.iter().find(|local| local.bend.bend == shaping::policy::Bend::Pause)
        {
            allowed = Allowance::closed(Reason::Pause(pause.bend.id), Some(pause.bend.until));
        }
        if state.live {
            self.apply(state, &allowed, received);
            if let Some(minute) = state.minutes.note(now, counted, sent, received, &allowed)
                && let Err(error) = self.0.journal.add_minute(minute)
            {
                tracing::warn!(%error, "a minute of evidence cannot be stored");
            }
        }
        if let Some(left) = shaper.courtesy() {
            // The shaper takes this term in itself, ten times a second; here it is for people.
            allowed.at_most(left.into(), None, Reason::Courtesy, None);
        }
        let standing = self.standing_of(state, &allowed, trust, &uses);
        self.0.standing.send_if_modified(|old| {
            let changed = *old != standing;
            if changed {
                *old = standing;
            }
            changed
        });
        let next = [allowed.until, table.until()].into_iter().flatten().min();
        self.0.volumes.send_if_modified(|old| {
            let changed = **old != table;
            if changed {
                *old = Arc::new(table);
            }
            changed
        });
        let until = next.zip(now).map(|(until, now)| until.duration_since(now));
        until.and_then(|until| Duration::try_from(until).ok()).map_or(LOOK_EVERY, |until| until.min(LOOK_EVERY))
    }

    /// Stores the time for a restart of the daemon, when it was told anew.
    fn store_time(&self, state: &mut State, now: Option<Timestamp>, counted: Duration) {
        let due = state.anchored.is_none_or(|last| counted.saturating_sub(last) > ANCHOR_EVERY);
        let Some(now) = now.filter(|_| state.told && due) else { return };
        let anchor = Anchor { time: now.as_nanosecond(), counted: counted.as_nanos() as u64, boot: state.boot.clone() };
        match self.0.journal.set_anchor(&anchor) {
            Ok(()) => (state.told, state.anchored) = (false, Some(counted)),
            Err(error) => tracing::warn!(%error, "the time cannot be stored for a restart"),
        }
    }

    fn apply(&self, state: &State, allowed: &Allowance, received: u64) {
        let shaper = &self.0.shaper;
        // Closing comes before the budget is raised for control, opening after it.
        if !allowed.up.is_open() && shaper.rate() != allowed.up {
            shaper.set_rate(allowed.up);
        }
        shaper.set_silent(allowed.control == Control::Silent);
        let courtesy = state.held.as_ref().and_then(|held| held.policy.line.courtesy);
        if shaper.courtesy_target() != courtesy {
            shaper.set_courtesy(courtesy);
        }
        shaper.set_budget(state.ledger.budget().map(|total| total.saturating_sub(received)));
        if shaper.rate() != allowed.up {
            shaper.set_rate(allowed.up);
        }
    }

    fn standing_of(&self, state: &State, allowed: &Allowance, clock: ClockTrust, uses: &[QuotaUse]) -> Standing {
        let local: Vec<Override> = state.local.iter().map(|local| local.bend.clone()).collect();
        let (sentence, quotas) = match &state.held {
            Some(held) => {
                let rules = held.policy.quotas.iter().zip(uses);
                let quotas =
                    rules.map(|(rule, used)| (Policy::period_name(rule.period).to_owned(), used.used, rule.limit));
                (allowed.explain(&held.policy, &local), quotas.collect())
            }
            None => {
                let why = match (allowed.reason, &state.fault) {
                    (Reason::Pause(_), _) => "paused at this site".to_owned(),
                    (Reason::Config, _) => "by the configuration of this edge; there is no policy yet".to_owned(),
                    (_, Some(fault)) => fault.clone(),
                    _ => "there is no policy: set one at the gateway (`sluice-gateway policy set`), or a `rate` here"
                        .to_owned(),
                };
                let rate = if allowed.up.is_open() { allowed.up.to_string() } else { "closed".into() };
                (format!("{rate} {why}"), Vec::new())
            }
        };
        Standing {
            up: allowed.up.to_string(),
            open: allowed.up.is_open(),
            reason: allowed.reason.word().into(),
            sentence,
            policy: state.held.as_ref().map(|held| held.policy.version),
            fault: state.fault.clone(),
            clock,
            quotas,
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        if !state.live {
            return;
        }
        self.0.shaper.set_budget(Some(0));
        let total = self.0.shaper.spent() + self.0.shaper.meter().received_bytes;
        if let Err(error) = state.ledger.close(total, &*self.0.journal) {
            tracing::warn!(%error, "the unspent rest of the quotas cannot be given back");
        }
        if let Some(minute) = state.minutes.take()
            && let Err(error) = self.0.journal.add_minute(minute)
        {
            tracing::warn!(%error, "the last minute of evidence cannot be stored");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole values are put in its place; a panic elsewhere leaves nothing half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
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

/// CLOCK_BOOTTIME: counts on through suspend, and nobody can set it.
fn counted() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// The machine's own clock, for what needs some time before the gateway has told it; nothing is opened by it.
fn machine() -> Timestamp {
    Timestamp::from_millisecond(machine_time().0 as i64).unwrap_or(Timestamp::UNIX_EPOCH)
}
