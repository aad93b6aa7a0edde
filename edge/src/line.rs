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

mod ahead;
mod cause;
mod conduct;
pub(crate) mod held;
mod local;
mod minutes;
pub(crate) mod outlook;
pub(crate) mod records;
mod state;
mod table;

pub use ahead::{Bent, ClockView, Stretch};
pub use cause::{Cause, Decided};
pub use held::{Held, HeldError};
pub use local::{LONGEST_BOOST, LONGEST_PAUSE, LocalError, LocalRecord};
pub use outlook::{Advice, Boost, NoAdvice, Sureness};
pub use records::Anchor;
pub use state::{Clocks, Crossed, Kept, Look, State};
pub use table::VolumeTable;

use crate::journal::{Journal, JournalError};
use dedupe::{SiteId, UnixMillis};
use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use shaping::policy::{ClockTrust, Control, Policy, Reason};
use shaping::{Rate, Shaper};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wire::clock::machine_time;
use wire::message::{MAX_MINUTES, Minute};
use wire::policy::SignedPolicy;

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
    /// Until when it holds as far as time alone decides, Unix seconds.
    #[serde(default)]
    pub until: Option<i64>,
    /// The sentence for people: `closed until Mon 2026-11-23 19:30 by the schedule (closed)`.
    pub sentence: String,
    /// The same as data.
    #[serde(default)]
    pub decided: Decided,
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
    state: Mutex<State>,
    changed: Notify,
    /// Bits per second that the last line-test found; 0: none was made.
    tested: AtomicU64,
    standing: watch::Sender<Standing>,
    volumes: watch::Sender<Arc<VolumeTable>>,
}

impl Line {
    /// Takes up what was in force before. Nothing is claimed, and the shaper stays closed, until [`Line::go_live`].
    pub fn open(directory: &Path, journal: Arc<Journal>, ceiling: Option<Rate>) -> Result<Line, JournalError> {
        let clocks = clocks();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let (held, fault) = match Held::load(directory, clocks.machine) {
            Ok(held) => (held, None),
            Err(error) => (None, Some(error.to_string())),
        };
        if let Some(fault) = &fault {
            tracing::error!(fault, "the policy cannot be used: closed until the gateway sends it again");
        }
        let kept = Kept { anchor: journal.anchor()?, local: journal.local()?, held, fault };
        let tested = AtomicU64::new(journal.tested()?);
        let state = State::resume(kept, ceiling, boot, clocks);
        let shaper = Shaper::new(Rate::Closed);
        let line = Line(Arc::new(Inner {
            directory: directory.to_owned(),
            journal,
            shaper,
            state: Mutex::new(state),
            changed: Notify::new(),
            tested,
            volumes: watch::Sender::default(),
            standing: watch::Sender::new(Standing {
                up: "0".into(),
                open: false,
                reason: Reason::NoPolicy.word().into(),
                until: None,
                sentence: String::new(),
                decided: Decided::default(),
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

    /// Bytes sent in the last 60 s, and minutes in which more was sent than was allowed and the bucket's depth.
    pub(crate) fn conduct(&self) -> (u32, u32) {
        let state = self.lock();
        (state.conduct.sent_minute(), state.conduct.over_minutes())
    }

    /// The machine's clock less the trusted time, milliseconds; 0 before a gateway has told it.
    pub(crate) fn clock_skew(&self) -> i32 {
        let (clocks, state) = (clocks(), self.lock());
        let skew = state.now(clocks.counted).map_or(0, |now| clocks.machine.duration_since(now).as_millis());
        skew.clamp(i32::MIN.into(), i32::MAX.into()) as i32
    }

    /// Bits per second that the last line-test found; 0: none was made.
    pub(crate) fn tested(&self) -> u64 {
        self.0.tested.load(Ordering::Relaxed)
    }

    /// A line-test found this. Blocks.
    pub(crate) fn set_tested(&self, bits: u64) {
        self.0.tested.store(bits, Ordering::Relaxed);
        if let Err(error) = self.0.journal.set_tested(bits) {
            tracing::warn!(%error, "what the line-test found is forgotten with the next restart");
        }
    }

    /// From now on bytes may be sent. Blocks.
    pub fn go_live(&self) {
        self.lock().go_live();
        self.look();
    }

    /// The identity is another one: what was in force for the old one is so no more. Blocks.
    pub(crate) fn reload(&self) {
        let mut state = self.lock();
        let now = state.known(clocks());
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
        let moved = self.lock().told(time, clocks().counted);
        if moved.abs() > SignedDuration::from_secs(5) {
            tracing::warn!(by = %moved, "the gateway's time moves ours");
        }
        self.0.changed.notify_one();
    }

    /// Takes a policy from the gateway in. `Err`: why it is not taken; the last good one stays in force. Blocks.
    pub(crate) fn take_policy(&self, signed: SignedPolicy, site: SiteId) -> Result<u64, String> {
        let mut state = self.lock();
        let taken =
            state.accept(signed, site, clocks()).and_then(|held| held.store(site, &self.0.directory).map(|()| held));
        let version = match taken {
            Ok(held) => {
                let version = held.policy.version;
                if state.held.as_ref().is_none_or(|old| old.policy.version != version) {
                    tracing::info!(version, "a new policy is in force");
                }
                state.put(held)
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
        self.lock().granted(bits, lasts, clocks().counted);
        self.0.changed.notify_one();
    }

    /// Evidence that the gateway does not have yet, oldest first; none while there is less than a quarter of an hour of it. Blocks.
    pub(crate) fn evidence(&self) -> Vec<Minute> {
        let held = self.0.journal.evidence_held();
        let minutes = held.and_then(|held| self.0.journal.minutes_after(held, MAX_MINUTES));
        let now = self.lock().now(clocks().counted).map_or(0, |now| now.as_second().div_euclid(60));
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
        let (shaper, clocks) = (&self.0.shaper, clocks());
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut look = state.look(clocks, self.crossed(), shaper.rate(), &*self.0.journal);
        if let Err(error) = &look.claimed {
            tracing::warn!(%error, "nothing can be claimed of the quotas: the line stops when what is claimed is spent");
        }
        if state.is_live() {
            self.apply(&look);
        }
        self.store(state, &mut look, clocks.counted);
        if let Some(left) = shaper.courtesy() {
            // The shaper takes this term in itself, ten times a second; here it is for people.
            look.allowed.at_most(left.into(), None, Reason::Courtesy, None);
        }
        let standing = standing_of(state, &look);
        self.0.standing.send_if_modified(|old| {
            let changed = *old != standing;
            if changed {
                *old = standing;
            }
            changed
        });
        self.0.volumes.send_if_modified(|old| {
            let changed = **old != look.volumes;
            if changed {
                *old = Arc::new(std::mem::take(&mut look.volumes));
            }
            changed
        });
        look.wait
    }

    /// Stores what a restart and the gateway need of a look.
    fn store(&self, state: &mut State, look: &mut Look<JournalError>, counted: Duration) {
        if let Some(minute) = look.minute.take()
            && let Err(error) = self.0.journal.add_minute(minute)
        {
            tracing::warn!(%error, "a minute of evidence cannot be stored");
        }
        match look.anchor.take().map(|anchor| self.0.journal.set_anchor(&anchor)) {
            Some(Ok(())) => state.anchored(counted),
            Some(Err(error)) => tracing::warn!(%error, "the time cannot be stored for a restart"),
            None => {}
        }
    }

    fn crossed(&self) -> Crossed {
        Crossed { sent: self.0.shaper.spent(), received: self.0.shaper.meter().received_bytes }
    }

    fn apply(&self, look: &Look<JournalError>) {
        let (shaper, allowed) = (&self.0.shaper, &look.allowed);
        // Closing comes before the budget is raised for control, opening after it.
        if !allowed.up.is_open() && shaper.rate() != allowed.up {
            shaper.set_rate(allowed.up);
        }
        shaper.set_silent(allowed.control == Control::Silent);
        if shaper.courtesy_target() != look.courtesy {
            shaper.set_courtesy(look.courtesy);
        }
        shaper.set_budget(look.budget);
        if shaper.rate() != allowed.up {
            shaper.set_rate(allowed.up);
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        if !state.is_live() {
            return;
        }
        self.0.shaper.set_budget(Some(0));
        let (closed, minute) = state.close(self.crossed(), &*self.0.journal);
        if let Err(error) = closed {
            tracing::warn!(%error, "the unspent rest of the quotas cannot be given back");
        }
        if let Some(minute) = minute
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

fn standing_of<E>(state: &State, look: &Look<E>) -> Standing {
    let (allowed, local) = (&look.allowed, state.bends());
    let (sentence, decided, quotas) = match &state.held {
        Some(held) => {
            let rules = held.policy.quotas.iter().zip(&look.quotas);
            let quotas = rules.map(|(rule, used)| (Policy::period_name(rule.period).to_owned(), used.used, rule.limit));
            (allowed.explain(&held.policy, &local), Decided::of(allowed, &held.policy, &local), quotas.collect())
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
            (format!("{rate} {why}"), Decided::without_policy(allowed, state, &local), Vec::new())
        }
    };
    Standing {
        up: allowed.up.to_string(),
        open: allowed.up.is_open(),
        reason: allowed.reason.word().into(),
        until: allowed.until.map(Timestamp::as_second),
        sentence,
        decided,
        policy: state.held.as_ref().map(|held| held.policy.version),
        fault: state.fault.clone(),
        clock: look.clock,
        quotas,
    }
}

/// What the machine's clocks show now.
fn clocks() -> Clocks {
    let counted = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    let machine = Timestamp::from_millisecond(machine_time().0 as i64).unwrap_or(Timestamp::UNIX_EPOCH);
    Clocks { counted, machine }
}
