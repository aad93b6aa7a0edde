//! Which volume may hand the next piece to the line, and how large. Pure: the time comes as an argument, nothing is sent here.
//!
//! Floors are served first, then the classes one after the other, then the volumes of a class by weight (deficit round robin in bytes), all
//! below their caps. Pieces are small, so a volume that comes, a hold and a new policy bite with the next one.
//!
//! | promise | where it comes from |
//! |---|---|
//! | somebody sends while anybody may | each candidate that may send is looked at before [`Verdict::Wait`] is given |
//! | shares of a class are those of the weights, to within a piece, over every interval in which all have work | [`QUANTUM`] and twice [`LEAST`] are one [`PIECE`] |
//! | over every interval T a volume sends at most its cap × T and a piece | a bucket of one piece, that begins empty |
//! | a volume that has work gets its floor, whatever class is above it | credit at the floor's rate, served before all else |
//!
//! Bytes are payload: who wants caps and floors at IP level scales them by what arrives of what is sent.

use crate::policy::VolumeClass;
use crate::units::{BitsPerSec, Rate};
use std::time::{Duration, Instant};

/// Bytes of a piece at most: a quarter of a second of 2 Mbit/s, so that a change bites at once.
pub const PIECE: u64 = 64 << 10;
/// Bytes of a piece at least, but for the last one of a parcel: six datagrams of a thin line, so that little of them is header.
pub const LEAST: u64 = 8 << 10;
/// What the heaviest volume of a class may send in a round; the others in proportion. With the two pieces that are saved up to [`LEAST`] this
/// makes one [`PIECE`].
const QUANTUM: u64 = PIECE - 2 * LEAST;
/// Bounds of [`in_hand`] on branch lines, as `transport` has them for the send window at dialling.
const IN_HAND: (u64, u64) = (64 << 10, 256 << 10);
const IN_HAND_FAST: u64 = 16 << 20;
/// Rates above this are no longer branch lines.
const FAST: u64 = 20_000_000;
/// Billionths of a bit in a byte: levels are kept in what a bit per second brings in a nanosecond, so that nothing is rounded.
const BYTE: i128 = 8_000_000_000;

/// How one volume shares the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Which class is served first.
    pub class: VolumeClass,
    /// Shares within the class, 1 to 10,000.
    pub weight: u32,
    /// Never more than this.
    pub cap: Option<BitsPerSec>,
    /// This much whatever class is above it.
    pub floor: Option<BitsPerSec>,
    /// It is held or paused: nothing of it is sent.
    pub barred: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a piece that is granted counts as sent"]
pub enum Verdict<K> {
    /// This volume may send so many bytes. They count as sent.
    Send {
        /// The volume.
        volume: K,
        /// At most [`PIECE`], and never more than it has.
        bytes: u64,
    },
    /// Nobody may before this moment, unless something else happens.
    Wait(Instant),
    /// Nobody has anything that may be sent.
    Idle,
}

/// Why a volume with work does not send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It is held or paused.
    Barred,
    /// It has sent what its cap allows.
    Cap(BitsPerSec),
    /// A class that comes first has work.
    Behind(VolumeClass),
    /// Others of its class have their turns.
    Turn,
}

/// The queue of all volumes. `K` names a volume.
#[derive(Debug)]
pub struct Scheduler<K> {
    queues: Vec<Queue<K>>,
    /// Where the round of each class goes on, by its rank; a place in `queues`.
    turns: [usize; 3],
    /// The heaviest that took part when the round of each class began: all of a round get their quantum by the same measure, also while a capped one
    /// comes and goes.
    heaviest: [u32; 3],
}

#[derive(Debug)]
struct Queue<K> {
    volume: K,
    terms: Terms,
    /// Bytes that it has to send now.
    left: u64,
    /// What the round owes it; negative after its floor was served out of turn.
    deficit: i64,
    cap: Level,
    floor: Level,
}

/// Fills at a rate, up to a piece.
#[derive(Debug)]
struct Level {
    filled: i128,
    at: Instant,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { class: VolumeClass::Normal, weight: 100, cap: None, floor: None, barred: false }
    }
}

impl<K> Default for Scheduler<K> {
    fn default() -> Scheduler<K> {
        Scheduler { queues: Vec::new(), turns: [0; 3], heaviest: [1; 3] }
    }
}

impl<K: Clone + Eq> Scheduler<K> {
    /// A volume is known by these terms from now on. What it has saved up under a cap or floor stays: a change gives nothing away.
    pub fn set(&mut self, volume: &K, terms: Terms, now: Instant) {
        match self.queues.iter_mut().find(|queue| queue.volume == *volume) {
            Some(queue) => {
                queue.fill(now);
                queue.terms = terms;
            }
            None => self.queues.push(Queue {
                volume: volume.clone(),
                terms,
                left: 0,
                deficit: 0,
                cap: Level { filled: 0, at: now },
                floor: Level { filled: 0, at: now },
            }),
        }
    }

    /// A volume is gone.
    pub fn remove(&mut self, volume: &K) {
        let Some(gone) = self.queues.iter().position(|queue| queue.volume == *volume) else { return };
        self.queues.remove(gone);
        for turn in &mut self.turns {
            *turn -= usize::from(*turn > gone);
        }
    }

    /// A volume has so many bytes to send from now on; 0: none. One that is not known is left alone.
    pub fn has(&mut self, volume: &K, bytes: u64, now: Instant) {
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.volume == *volume) else { return };
        queue.fill(now);
        queue.left = bytes;
        if bytes == 0 {
            // Who has nothing saves nothing up.
            (queue.deficit, queue.floor.filled) = (0, 0);
        }
    }

    /// The next piece.
    pub fn next(&mut self, now: Instant) -> Verdict<K> {
        self.queues.iter_mut().for_each(|queue| queue.fill(now));
        let at = self.floor_due().or_else(|| self.turn());
        let Some((at, bytes)) = at else {
            let soonest = self.queues.iter().filter_map(|queue| queue.may_at(now)).min();
            return soonest.map_or(Verdict::Idle, Verdict::Wait);
        };
        let queue = &mut self.queues[at];
        queue.left -= bytes;
        queue.deficit = (queue.deficit - bytes as i64).max(-(PIECE as i64));
        queue.cap.take(bytes);
        queue.floor.take(bytes);
        Verdict::Send { volume: queue.volume.clone(), bytes }
    }

    /// Why a volume with work does not send at this moment; `None`: it may, or has nothing to send.
    pub fn waits(&mut self, volume: &K, now: Instant) -> Option<Waits> {
        self.queues.iter_mut().for_each(|queue| queue.fill(now));
        let queue = self.queues.iter().find(|queue| queue.volume == *volume)?;
        if queue.terms.barred {
            return Some(Waits::Barred);
        }
        if queue.left == 0 {
            return None;
        }
        if let Some(cap) = queue.terms.cap.filter(|_| !queue.may()) {
            return Some(Waits::Cap(cap));
        }
        let others = || self.queues.iter().filter(|other| other.volume != *volume && other.may());
        let first = others().map(|other| other.terms.class).min()?;
        match first.cmp(&queue.terms.class) {
            std::cmp::Ordering::Less => Some(Waits::Behind(first)),
            std::cmp::Ordering::Equal => Some(Waits::Turn),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// The volume whose floor is to be served: of the first class, and there the one with most credit for its floor.
    fn floor_due(&self) -> Option<(usize, u64)> {
        let due = self.queues.iter().enumerate().filter_map(|(at, queue)| {
            let (floor, credit) = (queue.terms.floor?, queue.floor.bytes());
            let late = u128::from(credit) * 1_000_000 / u128::from(floor.bits().max(1));
            (queue.may() && credit >= LEAST.min(queue.left)).then_some((queue.terms.class, std::cmp::Reverse(late), at))
        });
        let (_, _, at) = due.min()?;
        let queue = &self.queues[at];
        Some((at, queue.floor.bytes().min(queue.most())))
    }

    /// The volume whose turn it is in the first class that may send.
    fn turn(&mut self) -> Option<(usize, u64)> {
        let class = self.queues.iter().filter(|queue| queue.may()).map(|queue| queue.terms.class).min()?;
        let rank = class as usize;
        let takes_part = |queue: &Queue<K>| queue.terms.class == class && queue.may();
        let count = self.queues.len();
        // Ends: each round gives the heaviest a quantum, and nobody owes more than a piece.
        loop {
            let at = self.turns[rank] % count;
            self.turns[rank] = (at + 1) % count;
            if at == 0 {
                let parts = self.queues.iter().filter(|queue| takes_part(queue));
                self.heaviest[rank] = parts.map(|queue| queue.terms.weight).max().unwrap_or(1).max(1);
            }
            let queue = &mut self.queues[at];
            if !takes_part(queue) {
                continue;
            }
            let quantum = QUANTUM * u64::from(queue.terms.weight) / u64::from(self.heaviest[rank]);
            queue.deficit = (queue.deficit + quantum.max(1) as i64).min(PIECE as i64);
            if queue.deficit >= LEAST.min(queue.left) as i64 {
                return Some((at, (queue.deficit as u64).min(queue.most())));
            }
        }
    }
}

impl<K> Queue<K> {
    fn fill(&mut self, now: Instant) {
        self.cap.fill(self.terms.cap, now);
        // Credit is for who has work: an idle volume's floor is not saved up.
        let works = self.left > 0 && !self.terms.barred;
        self.floor.fill(self.terms.floor.filter(|_| works), now);
    }

    /// Whether it may send a piece now, as far as it alone is concerned.
    fn may(&self) -> bool {
        let capped = self.terms.cap.is_some() && self.cap.bytes() < LEAST.min(self.left);
        self.left > 0 && !self.terms.barred && !capped
    }

    /// When it may send a piece.
    fn may_at(&self, now: Instant) -> Option<Instant> {
        if self.left == 0 || self.terms.barred {
            return None;
        }
        let missing = i128::from(LEAST.min(self.left)) * BYTE - self.cap.filled;
        match self.terms.cap.filter(|_| missing > 0) {
            Some(cap) => Some(now + Duration::from_nanos((missing as u128).div_ceil(u128::from(cap.bits())) as u64)),
            None => Some(now),
        }
    }

    /// Bytes that it may send now at most.
    fn most(&self) -> u64 {
        let capped = self.terms.cap.map_or(PIECE, |_| self.cap.bytes());
        self.left.min(PIECE).min(capped)
    }
}

impl Level {
    fn fill(&mut self, rate: Option<BitsPerSec>, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_nanos() as i128;
        self.at = self.at.max(now);
        if let Some(rate) = rate {
            self.filled = (self.filled + passed * i128::from(rate.bits())).min(i128::from(PIECE) * BYTE);
        }
    }

    fn bytes(&self) -> u64 {
        (self.filled.max(0) / BYTE) as u64
    }

    fn take(&mut self, bytes: u64) {
        self.filled = (self.filled - i128::from(bytes) * BYTE).max(0);
    }
}

/// Bytes that a connection may hold which are admitted and not acknowledged: what is on the line, what may have to be repaired, and a little that waits, so
/// that the line does not run dry between two pieces. Half a second of line within bounds; a connection keeps what it was dialled with until it is told.
pub fn in_hand(rate: Rate) -> u64 {
    match rate {
        Rate::Closed => IN_HAND.0,
        Rate::Limited(limit) if limit.bits() <= FAST => (limit.bytes() / 2).clamp(IN_HAND.0, IN_HAND.1),
        Rate::Limited(limit) => (limit.bytes() / 2).clamp(IN_HAND.1, IN_HAND_FAST),
        Rate::Unlimited => IN_HAND_FAST,
    }
}

/// How a rate is shared in the long run among volumes that all have work, in the same unit: what [`Scheduler`] comes to, for forecasts.
pub fn shares(rate: f64, terms: &[Terms]) -> Vec<f64> {
    let most = |terms: &Terms| if terms.barred { 0.0 } else { terms.cap.map_or(rate, |cap| cap.bits() as f64) };
    let mut shares = vec![0.0; terms.len()];
    let mut left = rate;
    for class in VolumeClass::ALL {
        for (at, terms) in terms.iter().enumerate().filter(|(_, terms)| terms.class == class) {
            shares[at] = terms.floor.map_or(0.0, |floor| floor.bits() as f64).min(most(terms)).min(left);
            left -= shares[at];
        }
    }
    for class in VolumeClass::ALL {
        let members: Vec<usize> = (0..terms.len()).filter(|at| terms[*at].class == class).collect();
        let floors: f64 = members.iter().map(|at| shares[*at]).sum();
        let at_level =
            |level: f64, at: usize| (level * f64::from(terms[at].weight)).max(shares[at]).min(most(&terms[at]));
        let sum = |level: f64| members.iter().map(|at| at_level(level, *at)).sum::<f64>();
        // Halved until it is exact to far below a bit: the level at which the class has used what is left.
        let (mut low, mut high) = (0.0, rate);
        for _ in 0..80 {
            let middle = (low + high) / 2.0;
            if sum(middle) > left + floors { high = middle } else { low = middle }
        }
        let filled: Vec<f64> = members.iter().map(|at| at_level(low, *at)).collect();
        left = (left + floors - filled.iter().sum::<f64>()).max(0.0);
        members.into_iter().zip(filled).for_each(|(at, share)| shares[at] = share);
    }
    shares
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
