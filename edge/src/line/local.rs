//! What people at the site ask for: a pause, which they always may, and a boost where the policy lets them. Both end by themselves.

use super::{Clocks, Line, State, clocks};
use crate::journal::{Journal, JournalError};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shaping::Rate;
use shaping::policy::{Bend, Override};
use std::time::Duration;

/// The longest that a site may pause by itself: until tomorrow morning, whenever that is said. Whoever needs more asks the operators, or pauses again.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// The longest that it may boost: a shift.
pub const LONGEST_BOOST: Duration = Duration::from_secs(12 * 3600);
/// Overrides of the site have numbers from here on, so that they are none of the policy's.
const FIRST_ID: u64 = 1 << 62;

/// An override with its end by the counting clock.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) bend: Override,
    pub(super) ends: Duration,
}

/// How it is kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalRecord {
    /// 0: a pause.
    boost_bits: u64,
    from: i64,
    until: i64,
    actor: String,
    reason: String,
}

/// Why the site does not get what it asks for.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Not that long.
    #[error("{0} s are not between a minute and {1} hours; ask the operators for more")]
    Long(u64, u64),
    /// There is no right to it.
    #[error(
        "the policy of this site does not let it boost by itself: ask the operators (`sluice-gateway override add`)"
    )]
    NoBoost,
    /// Too much.
    #[error("the policy of this site lets it boost to {0} at most")]
    Much(Rate),
    /// Nothing is paused or boosted.
    #[error("nothing was paused or boosted here")]
    Nothing,
    /// It cannot be stored.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl LocalRecord {
    /// As it holds after a restart, when the trusted time and the counting clock stand so. Before the time is told all of it is left by the counting clock: the
    /// machine's own clock, which may be years ahead, ends no pause.
    pub(super) fn taken_up(self, now: Option<Timestamp>, counted: Duration) -> Option<Local> {
        let (from, until) = (Timestamp::from_second(self.from).ok()?, Timestamp::from_second(self.until).ok()?);
        let longest = if self.boost_bits == 0 { LONGEST_PAUSE } else { LONGEST_BOOST };
        let left = Duration::try_from(until.duration_since(now.unwrap_or(from))).ok()?.min(longest);
        let bend = match self.boost_bits {
            0 => Bend::Pause,
            bits => Bend::Boost { rate: shaping::BitsPerSec::new(bits).into(), pierce: false },
        };
        let bend = Override { id: FIRST_ID, bend, from, until, volume: None, actor: self.actor, reason: self.reason };
        (!left.is_zero()).then_some(Local { bend, ends: counted + left })
    }

    fn of(local: &Local) -> LocalRecord {
        let boost_bits = match local.bend.bend {
            Bend::Boost { rate, .. } => rate.limit().map_or(0, |limit| limit.bits()),
            // The site bends no volume: what is no boost is a pause.
            Bend::Pause | Bend::Class(_) | Bend::Weight(_) => 0,
        };
        let (from, until) = (local.bend.from.as_second(), local.bend.until.as_second());
        LocalRecord { boost_bits, from, until, actor: local.bend.actor.clone(), reason: local.bend.reason.clone() }
    }
}

impl Journal {
    pub(super) fn local(&self) -> Result<Vec<LocalRecord>, JournalError> {
        Ok(self.read(super::records::LINE, b"local")?.unwrap_or_default())
    }

    fn set_local(&self, records: &[LocalRecord]) -> Result<(), JournalError> {
        self.put_all(super::records::LINE, &[(b"local".to_vec(), records)])
    }
}

impl Line {
    /// Nothing is sent for so long. It beats every boost.
    pub fn pause(&self, lasts: Duration, actor: String, reason: String) -> Result<Timestamp, LocalError> {
        self.bend(Bend::Pause, lasts, actor, reason)
    }

    /// This rate for so long instead of what the schedule says, where the policy lets the site do so. No blackout yields to it.
    pub fn boost(&self, rate: Rate, lasts: Duration, actor: String, reason: String) -> Result<Timestamp, LocalError> {
        let most = {
            let state = self.lock();
            let policy = state.held.as_ref().map(|held| &held.policy);
            policy.and_then(|policy| policy.local_boost.map(|share| share.of(policy.line.up)))
        };
        match most {
            None => Err(LocalError::NoBoost),
            Some(most) if rate > most || !rate.is_open() || rate == Rate::Unlimited => Err(LocalError::Much(most)),
            Some(_) => self.bend(Bend::Boost { rate, pierce: false }, lasts, actor, reason),
        }
    }

    /// Ends what the site has paused or boosted. What operators did stays.
    pub fn resume(&self) -> Result<(), LocalError> {
        let mut state = self.lock();
        if state.local.is_empty() {
            return Err(LocalError::Nothing);
        }
        self.0.journal.set_local(&[])?;
        state.local.clear();
        drop(state);
        tracing::info!("the site ended its pause or boost");
        self.0.changed.notify_one();
        Ok(())
    }

    fn bend(&self, bend: Bend, lasts: Duration, actor: String, reason: String) -> Result<Timestamp, LocalError> {
        let longest = if bend == Bend::Pause { LONGEST_PAUSE } else { LONGEST_BOOST };
        if !(Duration::from_secs(60)..=longest).contains(&lasts) {
            return Err(LocalError::Long(lasts.as_secs(), longest.as_secs() / 3600));
        }
        let mut state = self.lock();
        tracing::warn!(actor, reason, ?bend, ?lasts, "the site bends the schedule");
        let local = state.bent(bend, lasts, actor, reason, clocks());
        self.0.journal.set_local(&[LocalRecord::of(&local)])?;
        let until = local.bend.until;
        state.local = vec![local]; // one at a time: the last word counts
        drop(state);
        self.0.changed.notify_one();
        Ok(until)
    }
}

impl State {
    fn bent(&self, bend: Bend, lasts: Duration, actor: String, reason: String, clocks: Clocks) -> Local {
        let from = self.known(clocks);
        let until = from + SignedDuration::try_from(lasts).unwrap_or(SignedDuration::ZERO);
        let bend = Override { id: FIRST_ID, bend, from, until, volume: None, actor, reason };
        Local { bend, ends: clocks.counted + lasts }
    }

    /// The site bends the schedule from now on; returns what a restart needs of it. Rights and lengths are checked by [`Line`].
    pub fn bend(&mut self, bend: Bend, lasts: Duration, clocks: Clocks) -> LocalRecord {
        let local = self.bent(bend, lasts, String::new(), String::new(), clocks);
        let record = LocalRecord::of(&local);
        self.local = vec![local];
        record
    }
}
