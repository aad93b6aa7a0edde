//! A roll-out: which sites are to run a release, in rings, and when it stops. Pure: what sites say and the time go in, what it means comes out.
//!
//! ```text
//!            start                       last ring proved
//!   (none) ────────► Running ───────────────────────────► Done        still orders for sites that come late
//!                     ▲   │ ▲                               │
//!              resume │   │ │ resume, with a reason         │ a trial failed
//!                     │   │ └──────────────── Stopped ◄─────┤
//!                  Paused │ a trial failed       ▲          │
//!                     ▲   └──────────────────────┘          │
//!                     └── pause            cancel: any of these ──► Cancelled
//! ```
//!
//! A ring opens when the one before is proved and has soaked. It is proved while every site of it that was seen of late runs the release, confirmed, and at
//! least one does: a ring of which nobody is heard proves nothing.

use dedupe::{SiteId, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wire::release::{Appliance, ReleaseId, Stage};

/// A site that was not seen for so long is not waited for: a week holds a holiday.
pub const LATE: u64 = 7 * 24 * 3600 * 1000;
/// Time between the proof of a ring and the next: a whole day and night of a branch.
pub const SOAK: u64 = 24 * 3600 * 1000;
/// Longest soak, so that a mistyped one does not hold a roll-out for years: 30 days.
pub const MAX_SOAK: u64 = 30 * 24 * 3600 * 1000;
/// Sites of each named ring at most.
pub const MAX_RING: usize = 10;

/// A roll-out of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its number, from 1.
    pub number: u64,
    /// What is rolled out.
    pub release: ReleaseId,
    /// Its version.
    pub version: String,
    /// Its sequence.
    pub sequence: u64,
    /// The sites of each named ring. Everybody else is the last ring.
    pub rings: Vec<Vec<SiteId>>,
    /// Milliseconds between the proof of a ring and the next.
    pub soak: u64,
    /// Who began it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub started: UnixMillis,
    /// How it stands.
    pub state: State,
    /// Since when.
    pub since: UnixMillis,
    /// When each ring opened, as many as are open.
    pub opened: Vec<UnixMillis>,
    /// Since when the last open ring is proved.
    pub proved: Option<UnixMillis>,
    /// How often failed sites were to try again.
    pub attempt: u32,
    /// What became of it at each site, of those where anything did.
    pub marks: BTreeMap<SiteId, Mark>,
}

/// How a roll-out stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It goes on.
    Running,
    /// Somebody holds it.
    Paused {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// It stopped by itself.
    Stopped {
        /// At which site.
        site: SiteId,
        /// Why, in a sentence.
        why: String,
    },
    /// Every ring is proved.
    Done,
    /// Somebody ended it.
    Cancelled {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
}

impl State {
    /// Its word.
    pub fn word(&self) -> &'static str {
        match self {
            State::Running => "running",
            State::Paused { .. } => "paused",
            State::Stopped { .. } => "stopped",
            State::Done => "done",
            State::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether nothing more is to come of it, unless a site comes late.
    pub fn is_over(&self) -> bool {
        matches!(self, State::Done | State::Cancelled { .. })
    }
}

/// What became of a roll-out at a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When it was first to run the release.
    pub ordered: Option<UnixMillis>,
    /// When it was first heard to run it, confirmed.
    pub confirmed: Option<UnixMillis>,
    /// That it could not take it, or fell back.
    pub failed: Option<Failure>,
    /// Signs of failure from before this attempt, which say nothing of it.
    pub before: Signs,
    /// Somebody looked, and went on without it.
    pub left_out: bool,
}

/// That a site could not take the release, or fell back from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When that was heard.
    pub at: UnixMillis,
    /// Whether a trial failed; otherwise none began.
    pub fell_back: bool,
    /// The appliance's words.
    pub why: String,
}

/// What an appliance says of failures with the release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signs {
    /// It could not take it, and why.
    pub not_taken: Option<String>,
    /// The trial that failed, by its time at the appliance, and why.
    pub fell_back: Option<(UnixMillis, String)>,
}

/// A site as the engine sees it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Which.
    pub site: SiteId,
    /// What its appliance said last; `None`: it never did, and is in no ring.
    pub report: Option<Appliance>,
    /// When it was last seen: now for one that is connected.
    pub seen: Option<UnixMillis>,
}

/// How far a site is with a roll-out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is no appliance, or never said what it runs.
    Unknown,
    /// Its ring is not open.
    Waiting,
    /// Its ring is open, and the roll-out gives no orders now.
    Held,
    /// It is to run the release, and has not begun.
    Ordered,
    /// The release comes over its line.
    Fetching {
        /// Bytes that are there.
        done: u64,
        /// Bytes in all; 0: not known yet.
        total: u64,
    },
    /// It is written and checked.
    Installing,
    /// It runs, on trial.
    OnTrial,
    /// It runs and stays.
    Confirmed,
    /// It runs something as new or newer.
    Newer,
    /// It was confirmed, and runs something older since: somebody at the appliance wanted that.
    WentBack,
    /// It could not take it, or fell back.
    Failed(Failure),
}

impl Step {
    /// Its word.
    pub fn word(&self) -> &'static str {
        match self {
            Step::Unknown => "unknown",
            Step::Waiting => "waiting",
            Step::Held => "held",
            Step::Ordered => "ordered",
            Step::Fetching { .. } => "fetching",
            Step::Installing => "installing",
            Step::OnTrial => "on-trial",
            Step::Confirmed => "confirmed",
            Step::Newer => "newer",
            Step::WentBack => "went-back",
            Step::Failed(Failure { fell_back: true, .. }) => "fell-back",
            Step::Failed(_) => "not-taken",
        }
    }
}

/// What happened in a step of a roll-out: for audit log and journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A ring opened, counted from 1.
    Opened(usize),
    /// A ring is proved, counted from 1.
    Proved(usize),
    /// A site runs the release and stays there.
    Confirmed(SiteId),
    /// A site could not take it, or fell back.
    Failed(SiteId, Failure),
    /// It stopped by itself.
    Stopped(SiteId),
    /// The last ring is proved.
    Done,
}

impl Signs {
    fn of(report: &Appliance, release: ReleaseId) -> Signs {
        let not_taken = match &report.stage {
            Stage::Failed { release: failed, why } if *failed == release => Some(why.clone()),
            _ => None,
        };
        let trial = report.last.as_ref().filter(|trial| trial.release == release && !trial.confirmed);
        Signs { not_taken, fell_back: trial.map(|trial| (trial.at, trial.why.clone())) }
    }

    /// What is said here and was not before.
    fn since(&self, before: &Signs, at: UnixMillis) -> Option<Failure> {
        match (&self.fell_back, &self.not_taken) {
            (Some((_, why)), _) if self.fell_back != before.fell_back => {
                Some(Failure { at, fell_back: true, why: why.clone() })
            }
            (_, Some(why)) if self.not_taken != before.not_taken => {
                Some(Failure { at, fell_back: false, why: why.clone() })
            }
            _ => None,
        }
    }
}

impl Rollout {
    /// What appliances said of the release before the roll-out began says nothing of it. Called once, at its start.
    pub fn begin(&mut self, fleet: &[Known]) {
        for (known, report) in reports(fleet) {
            let before = Signs::of(report, self.release);
            if before != Signs::default() {
                self.marks.entry(known.site).or_default().before = before;
            }
        }
    }

    /// Takes in how the sites are now.
    pub fn take(&mut self, now: UnixMillis, fleet: &[Known]) -> Vec<Event> {
        let mut events = Vec::new();
        if matches!(self.state, State::Cancelled { .. }) {
            return events;
        }
        for (known, report) in reports(fleet) {
            self.hear(now, known.site, report, &mut events);
        }
        while self.state == State::Running && self.advance(now, fleet, &mut events) {}
        for known in fleet.iter().filter(|known| self.orders(known)).collect::<Vec<_>>() {
            let mark = self.marks.entry(known.site).or_default();
            mark.ordered = mark.ordered.or(Some(now));
        }
        events
    }

    fn hear(&mut self, now: UnixMillis, site: SiteId, report: &Appliance, events: &mut Vec<Event>) {
        let signs = Signs::of(report, self.release);
        let runs_it = report.release == self.release && report.confirmed;
        if !runs_it && signs == Signs::default() && !self.marks.contains_key(&site) {
            return;
        }
        let started = self.started;
        let mark = self.marks.entry(site).or_default();
        if runs_it {
            mark.failed = None;
            if mark.confirmed.is_none() {
                mark.confirmed = Some(now);
                events.push(Event::Confirmed(site));
            }
            return;
        }
        // What it says no more is news when it says it again.
        if signs.not_taken.is_none() {
            mark.before.not_taken = None;
        }
        // Of a site that was not known at the start, an older trial is no news either.
        if let Some((when, _)) = &signs.fell_back
            && mark.before.fell_back.is_none()
            && mark.ordered.is_none()
            && *when < started
        {
            mark.before.fell_back = signs.fell_back.clone();
        }
        if mark.failed.is_some() || mark.left_out {
            return;
        }
        let Some(failure) = signs.since(&mark.before, now) else { return };
        mark.failed = Some(failure.clone());
        events.push(Event::Failed(site, failure.clone()));
        if !matches!(self.state, State::Stopped { .. }) {
            self.state = State::Stopped { site, why: failure.why };
            self.since = now;
            events.push(Event::Stopped(site));
        }
    }

    /// Opens the next ring, or ends; `true`: there may be more to do.
    fn advance(&mut self, now: UnixMillis, fleet: &[Known], events: &mut Vec<Event>) -> bool {
        if self.opened.is_empty() {
            self.opened.push(now);
            events.push(Event::Opened(1));
            return true;
        }
        let ring = self.opened.len() - 1;
        let (proved, empty) = self.judge(ring, now, fleet);
        if !proved {
            self.proved = None;
            return false;
        }
        if self.proved.is_none() {
            self.proved = Some(now);
            if !empty {
                events.push(Event::Proved(ring + 1));
            }
        }
        if ring == self.rings.len() {
            (self.state, self.since) = (State::Done, now);
            events.push(Event::Done);
            return false;
        }
        let soaked = self.proved.is_some_and(|proved| now.0 >= proved.0.saturating_add(self.soak));
        if soaked || empty {
            self.proved = None;
            self.opened.push(now);
            events.push(Event::Opened(ring + 2));
        }
        soaked || empty
    }

    /// Whether a ring is proved, and whether that is because nobody is in it.
    fn judge(&self, ring: usize, now: UnixMillis, fleet: &[Known]) -> (bool, bool) {
        let mut members =
            fleet.iter().filter(|known| known.report.is_some() && self.ring_of(known.site) == ring).peekable();
        if members.peek().is_none() {
            // Of a ring that was named, somebody has to be left to prove anything.
            let nobody = self.rings.get(ring).is_none_or(Vec::is_empty);
            return (nobody, nobody);
        }
        let mut somebody = false;
        for known in members {
            match self.step_of(known) {
                Step::Confirmed | Step::Newer => somebody = true,
                _ if self.marks.get(&known.site).is_some_and(|mark| mark.left_out) => {}
                _ if is_late(known, now) => {}
                _ => return (false, false),
            }
        }
        (somebody, false)
    }

    /// The ring of a site, from 0.
    pub fn ring_of(&self, site: SiteId) -> usize {
        self.rings.iter().position(|ring| ring.contains(&site)).unwrap_or(self.rings.len())
    }

    /// Whether orders are given at all.
    fn gives_orders(&self) -> bool {
        matches!(self.state, State::Running | State::Done)
    }

    /// How far a site is.
    pub fn step_of(&self, known: &Known) -> Step {
        let Some(report) = &known.report else { return Step::Unknown };
        let mark = self.marks.get(&known.site);
        match report.release == self.release {
            true if report.confirmed => return Step::Confirmed,
            true => return Step::OnTrial,
            false if report.sequence >= self.sequence => return Step::Newer,
            false => {}
        }
        if let Some(failure) = mark.and_then(|mark| mark.failed.clone()) {
            return Step::Failed(failure);
        }
        if mark.is_some_and(|mark| mark.confirmed.is_some()) {
            return Step::WentBack;
        }
        match &report.stage {
            Stage::Installing { release } if *release == self.release => return Step::Installing,
            Stage::Fetching { release, done, total } if *release == self.release && self.gives_orders() => {
                return Step::Fetching { done: *done, total: *total };
            }
            _ => {}
        }
        match (self.ring_of(known.site) < self.opened.len(), self.gives_orders()) {
            (false, _) => Step::Waiting,
            (true, true) => Step::Ordered,
            (true, false) => Step::Held,
        }
    }

    /// Whether a site is to run the release now. What is being installed or on trial is called back by a cancellation alone: the appliance decides.
    pub fn orders(&self, known: &Known) -> bool {
        let open = self.ring_of(known.site) < self.opened.len();
        let left_out = self.marks.get(&known.site).is_some_and(|mark| mark.left_out);
        if !open || left_out || matches!(self.state, State::Cancelled { .. }) {
            return false;
        }
        match self.step_of(known) {
            Step::Ordered | Step::Fetching { .. } => self.gives_orders(),
            Step::Installing | Step::OnTrial => true,
            _ => false,
        }
    }

    /// The number that orders carry: another one for each attempt, so that an appliance tries again what it could not take.
    pub fn order_number(&self) -> u64 {
        self.number | u64::from(self.attempt) << 32
    }

    /// Goes on after a pause.
    pub fn go_on(&mut self, now: UnixMillis) {
        (self.state, self.since) = (State::Running, now);
    }

    /// Goes on after it stopped: `retry`: sites that failed try again; otherwise it goes on without them.
    pub fn go_on_after_stop(&mut self, now: UnixMillis, retry: bool, fleet: &[Known]) {
        self.attempt += u32::from(retry);
        let release = self.release;
        for (site, mark) in self.marks.iter_mut().filter(|(_, mark)| mark.failed.is_some()) {
            let report = fleet.iter().find(|known| known.site == *site).and_then(|known| known.report.as_ref());
            mark.before = report.map(|report| Signs::of(report, release)).unwrap_or_default();
            mark.left_out = !retry;
            if retry {
                mark.failed = None;
            }
        }
        self.go_on(now);
    }
}

/// Whether a site was not seen of late.
pub fn is_late(known: &Known, now: UnixMillis) -> bool {
    known.seen.is_none_or(|seen| now.0.saturating_sub(seen.0) > LATE)
}

fn reports(fleet: &[Known]) -> impl Iterator<Item = (&Known, &Appliance)> {
    fleet.iter().filter_map(|known| Some((known, known.report.as_ref()?)))
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
