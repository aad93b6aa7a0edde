//! Hands the line out, piece by piece: [`shaping::scheduler`] decides, parcels that are under way wait here.
//!
//! ```text
//!   flight ──board──► Waiting ──a berth is free──► Open ──next──► Asking ──granted──► Writing ──next──► …
//!                        ▲                                          │
//!                        └───────────────── Leave ◄─────────────────┘  for a volume that comes first
//! ```
//!
//! One piece is written at a time: the next is decided when the connection has taken it, so what is decided and not sent is what [`in_hand`] lets the
//! connection hold. At most [`BERTHS`] parcels are under way and not all written. A parcel that leaves its berth has its stream finished: everything
//! that was sent arrives, and the gateway says afterwards where to go on, so nothing is sent twice.

use crate::goodput::Goodput;
use crate::line::VolumeTable;
use dedupe::LineageId;
use shaping::policy::{VolumeClass, VolumeStanding};
use shaping::scheduler::{Scheduler, Terms, Verdict, Waits, in_hand};
use shaping::{BitsPerSec, Shaper};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Parcels that are under way at once and not all written. A gateway serves four streams of a connection at a time; those that are all written end by
/// themselves, so one place always becomes free. Each takes a piece of memory.
const BERTHS: usize = 3;

/// A handle on the gate. Clones are handles on the same one.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    shaper: Shaper,
    state: Mutex<State>,
}

struct State {
    scheduler: Scheduler<LineageId>,
    table: Arc<VolumeTable>,
    names: HashMap<LineageId, String>,
    /// In the order of their coming.
    berths: Vec<Mooring>,
    last: u64,
    /// Who writes a piece.
    writing: Option<(u64, u64)>,
    /// When somebody may send who may not now.
    wake: Option<Instant>,
    goodput: Goodput,
}

struct Mooring {
    id: u64,
    volume: LineageId,
    stage: Stage,
    /// It is to make room.
    leave: bool,
    wake: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Open,
    Asking { left: u64 },
    Granted { bytes: u64 },
    Writing,
}

/// A parcel's place at the gate; dropping it gives it back.
pub(crate) struct Berth {
    gate: Gate,
    id: u64,
    wake: Arc<Notify>,
}

/// What a parcel does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Write so many bytes.
    Send(u64),
    /// Finish the stream where it is, and board again.
    Leave,
}

/// How a volume shares the line, for people.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub(crate) standing: VolumeStanding,
    pub(crate) waits: Option<Waits>,
}

impl Gate {
    pub(crate) fn new(shaper: Shaper) -> Gate {
        let state = State {
            scheduler: Scheduler::default(),
            table: Arc::default(),
            names: HashMap::new(),
            berths: Vec::new(),
            last: 0,
            writing: None,
            wake: None,
            goodput: Goodput::default(),
        };
        Gate(Arc::new(Inner { shaper, state: Mutex::new(state) }))
    }

    /// A volume may come here from now on.
    pub(crate) fn admit(&self, volume: LineageId, name: &str) {
        let mut state = self.lock();
        state.names.insert(volume, name.to_owned());
        state.take_terms(now());
    }

    /// A volume is gone.
    pub(crate) fn forget(&self, volume: LineageId) {
        let mut state = self.lock();
        state.names.remove(&volume);
        state.scheduler.remove(&volume);
        state.settle(&self.0.shaper, now());
    }

    /// Follows what the policy says of volumes, until `stop`.
    pub(crate) async fn follow(self, mut tables: watch::Receiver<Arc<VolumeTable>>, stop: CancellationToken) {
        loop {
            {
                let mut state = self.lock();
                state.table = tables.borrow_and_update().clone();
                state.take_terms(now());
                state.settle(&self.0.shaper, now());
                // What they wait for may come sooner now.
                state.berths.iter().for_each(|berth| berth.wake.notify_one());
            }
            tokio::select! {
                changed = tables.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Waits for a berth. May be dropped at any time.
    pub(crate) async fn board(&self, volume: LineageId) -> Berth {
        let berth = {
            let mut state = self.lock();
            state.last += 1;
            let (id, wake) = (state.last, Arc::new(Notify::new()));
            let stage = Stage::Waiting;
            state.berths.push(Mooring { id, volume, stage, leave: false, wake: wake.clone() });
            state.settle(&self.0.shaper, now());
            Berth { gate: self.clone(), id, wake }
        };
        while self.lock().mooring(berth.id).stage == Stage::Waiting {
            berth.wake.notified().await;
        }
        berth
    }

    /// How a volume shares the line now.
    pub(crate) fn share(&self, volume: LineageId) -> Share {
        let mut state = self.lock();
        let standing = state.standing(volume);
        Share { waits: state.waits(volume, now()), standing }
    }

    /// What arrives of what is sent, once it is measured.
    pub(crate) fn goodput(&self) -> Option<f64> {
        self.lock().goodput.share()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole before anything that could panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Berth {
    /// The last piece is written, `left` bytes are to follow: waits until some of them may. May be dropped at any time.
    pub(crate) async fn next(&self, left: u64) -> Turn {
        {
            let mut state = self.gate.lock();
            state.written(self.id, &self.gate.0.shaper);
            state.mooring(self.id).stage = Stage::Asking { left };
            state.offer(self.id, now());
            state.settle(&self.gate.0.shaper, now());
        }
        loop {
            let until = {
                let mut state = self.gate.lock();
                let mooring = state.mooring(self.id);
                match mooring.stage {
                    Stage::Granted { bytes } => {
                        mooring.stage = Stage::Writing;
                        return Turn::Send(bytes);
                    }
                    _ if mooring.leave => {
                        mooring.stage = Stage::Open;
                        state.offer(self.id, now());
                        return Turn::Leave;
                    }
                    _ => state.wake,
                }
            };
            let timer = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = timer => self.gate.lock().settle(&self.gate.0.shaper, now()),
            }
        }
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.written(self.id, &self.gate.0.shaper);
        let Some(at) = state.berths.iter().position(|berth| berth.id == self.id) else { return };
        let gone = state.berths.remove(at);
        state.offer_of(gone.volume, now());
        state.settle(&self.gate.0.shaper, now());
    }
}

impl State {
    fn mooring(&mut self, id: u64) -> &mut Mooring {
        self.berths.iter_mut().find(|berth| berth.id == id).expect("a berth is listed until it is dropped")
    }

    fn standing(&self, volume: LineageId) -> VolumeStanding {
        self.names.get(&volume).map_or_else(|| self.table.of(""), |name| self.table.of(name))
    }

    /// Tells the scheduler what the policy says. Caps and floors are of the line, pieces are payload.
    fn take_terms(&mut self, now: Instant) {
        let share = self.goodput.share().unwrap_or(shaping::forecast::EFFICIENCY);
        let payload = |rate: BitsPerSec| rate.scaled(share);
        for (volume, name) in &self.names {
            let terms = self.table.of(name).terms;
            let terms = Terms { cap: terms.cap.map(payload), floor: terms.floor.map(payload), ..terms };
            self.scheduler.set(volume, terms, now);
        }
    }

    /// Tells the scheduler what the volume of a berth has to send.
    fn offer(&mut self, id: u64, now: Instant) {
        let volume = self.mooring(id).volume;
        self.offer_of(volume, now);
    }

    fn offer_of(&mut self, volume: LineageId, now: Instant) {
        let asking = self.asking(volume).map_or(0, |(_, left)| left);
        self.scheduler.has(&volume, asking, now);
    }

    fn asking(&self, volume: LineageId) -> Option<(u64, u64)> {
        self.berths.iter().find_map(|berth| match berth.stage {
            Stage::Asking { left } if berth.volume == volume && !berth.leave => Some((berth.id, left)),
            _ => None,
        })
    }

    /// The connection has taken the piece of a berth, or it will not be written.
    fn written(&mut self, id: u64, shaper: &Shaper) {
        if let Some((_, bytes)) = self.writing.take_if(|(writing, _)| *writing == id) {
            let before = self.goodput.share();
            self.goodput.sent(bytes, shaper.meter().sent_bytes);
            if self.goodput.share() != before {
                self.take_terms(now());
            }
        }
    }

    /// Gives berths and the next piece to whom they belong now.
    fn settle(&mut self, shaper: &Shaper, now: Instant) {
        self.moor();
        // Who is to leave gets nothing more: else it would go on as long as it is its turn.
        let asking = self.berths.iter().filter(|berth| matches!(berth.stage, Stage::Asking { .. }));
        for volume in asking.map(|berth| berth.volume).collect::<Vec<_>>() {
            self.offer_of(volume, now);
        }
        if self.writing.is_some() {
            return;
        }
        self.wake = None;
        match self.scheduler.next(now) {
            Verdict::Send { volume, bytes } => {
                // The scheduler knows only of those that ask.
                let Some((id, _)) = self.asking(volume) else { return };
                self.writing = Some((id, bytes));
                let mooring = self.mooring(id);
                mooring.stage = Stage::Granted { bytes };
                mooring.wake.notify_one();
            }
            Verdict::Wait(until) => self.wake = Some(until),
            Verdict::Idle => self.goodput.idle(in_hand(shaper.effective_rate())),
        }
    }

    /// Lets those in that come first, and has one leave for who comes before it.
    fn moor(&mut self) {
        self.berths.iter_mut().for_each(|berth| berth.leave = false);
        loop {
            let is_open = |berth: &&Mooring| berth.stage != Stage::Waiting;
            let first = self.berths.iter().filter(|berth| !is_open(berth)).min_by_key(|berth| self.rank(berth));
            let Some(first) = first.map(|first| (first.id, self.rank(first))).filter(|(_, (barred, ..))| !barred)
            else {
                return;
            };
            if self.berths.iter().filter(is_open).count() < BERTHS {
                let mooring = self.mooring(first.0);
                mooring.stage = Stage::Open;
                mooring.wake.notify_one();
                continue;
            }
            let last = self.berths.iter().filter(is_open).max_by_key(|berth| self.rank(berth));
            let Some((id, rank)) = last.map(|last| (last.id, self.rank(last))) else { return };
            if (rank.0, rank.1) > (first.1.0, first.1.1) {
                let mooring = self.mooring(id);
                mooring.leave = true;
                mooring.wake.notify_one();
            }
            return;
        }
    }

    /// Who has the first claim on a berth is the least.
    fn rank(&self, berth: &Mooring) -> (bool, VolumeClass, u64) {
        let terms = self.standing(berth.volume).terms;
        (terms.barred, terms.class, berth.id)
    }

    fn waits(&mut self, volume: LineageId, now: Instant) -> Option<Waits> {
        let berth = self.berths.iter().rev().find(|berth| berth.volume == volume)?;
        if berth.stage != Stage::Waiting {
            let waits = self.scheduler.waits(&volume, now);
            // Its next piece is a moment away: that is sending.
            return waits.filter(|waits| *waits != Waits::Turn);
        }
        let terms = self.standing(volume).terms;
        if terms.barred {
            return Some(Waits::Barred);
        }
        let open = self.berths.iter().filter(|berth| berth.stage != Stage::Waiting);
        let first = open.map(|berth| self.rank(berth).1).min()?;
        Some(if first < terms.class { Waits::Behind(first) } else { Waits::Turn })
    }
}

/// The clock of the scheduler.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
