//! The policy of one site: what its line may be used for, and when. Pure: no clock, no files, no network.
//!
//! ```text
//!   grid       Grid                 7 × 96 cells of a quarter of an hour, each a named profile
//!   calendar   When, Holidays       which dates a rule is for
//!   document   Policy::parse, text  TOML in and out, with errors that name line, field and remedy
//!   schedule   Schedule             grid, exceptions and blackouts laid out in time, in the site's zone
//!   quota      QuotaRule, Period    how much in a day, week, month or in all
//!   decide     decide, Allowance    what the line may be used for now, why, and until when
//!   volumes    VolumeStanding       how a volume shares the line now
//! ```
//!
//! Times are civil times of the site's IANA zone. An hour that a change to summer time skips does not occur; one that is repeated occurs
//! twice.

pub mod calendar;
mod decide;
mod document;
pub mod grid;
pub mod quota;
mod schedule;
mod volumes;

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod tests;

pub use calendar::{Holidays, When};
pub use decide::{Allowance, ClockTrust, Control, Grant, QuotaUse, REASONS, Reason, Situation, decide};
pub use document::PolicyError;
pub use grid::{Grid, ProfileNumber};
pub use quota::{Period, QuotaRule};
pub use schedule::{Schedule, Segment, Slot};
pub use volumes::{Bar, VolumeStanding};

use crate::units::{BitsPerSec, Rate};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Everything that a site's line owner and operators agreed on. Made by [`Policy::parse`], which checks it whole.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Grows with every change; an edge never goes back.
    pub version: u64,
    /// Where the site's clocks are.
    pub zone: TimeZone,
    /// What is known of the line.
    pub line: Line,
    /// What cells and exceptions name; the first is `closed`.
    pub profiles: Vec<Profile>,
    /// The ordinary week.
    pub grid: Grid,
    /// Days off and make-up working days.
    pub holidays: Holidays,
    /// Which day's row of the grid holidays take; `None`: their own.
    pub holidays_as: Option<usize>,
    /// Which day's row make-up working days take. Monday, if nothing is said: an open weekend must not hit a branch that works.
    pub working_as: usize,
    /// Dates on which another profile holds.
    pub exceptions: Vec<Exception>,
    /// Times at which nothing may pass.
    pub blackouts: Vec<Blackout>,
    /// What bends the schedule for a while.
    pub overrides: Vec<Override>,
    /// Stops everything until somebody ends it.
    pub hold: Option<Hold>,
    /// How much may be sent.
    pub quotas: Vec<QuotaRule>,
    /// How volumes share the line.
    pub volumes: Vec<VolumeRule>,
    /// Days for which the edge's clock is believed without word from the gateway.
    pub clock_holdover: Duration,
    /// Profile while the clock cannot be trusted.
    pub untrusted_clock: ProfileNumber,
    /// The most to which people at the site may boost by themselves; `None`: they may not. Pausing they always may.
    pub local_boost: Option<Share>,
}

/// What is known of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it carries towards the gateway. Percentages are of this.
    pub up: BitsPerSec,
    /// What it carries towards the site.
    pub down: BitsPerSec,
    /// Never above this, whatever else is said.
    pub cap: Share,
    /// Queueing delay at which replication begins to make way for the branch's own traffic; `None`: it does not.
    pub courtesy: Option<Duration>,
    /// Bytes that the line adds to each packet.
    pub packet_overhead: u16,
}

/// A rate, or a part of what the line carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So much.
    Rate(Rate),
    /// Tenths of a per cent of the line.
    PerMille(u16),
}

impl Share {
    /// The rate on a line that carries `line`.
    pub fn of(self, line: BitsPerSec) -> Rate {
        match self {
            Share::Rate(rate) => rate,
            Share::PerMille(0) => Rate::Closed,
            Share::PerMille(share) => Rate::Limited(BitsPerSec::new(line.bits() / 1000 * u64::from(share))),
        }
    }
}

/// A name for what the line may be used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// Towards the gateway.
    pub up: Share,
    /// Towards the site.
    pub down: Share,
}

/// Part of a day, in minutes from midnight. It may run over midnight, and then belongs to the day on which it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// The first minute.
    pub from: usize,
    /// The first minute after it.
    pub to: usize,
}

impl Hours {
    /// The whole day.
    pub const DAY: Hours = Hours { from: 0, to: 24 * 60 };

    /// Whether a rule that is for a date is for this minute, given whether it is for this date and for the date before.
    pub(crate) fn cover(self, minute: usize, today: bool, yesterday: bool) -> bool {
        match self.from < self.to {
            true => today && (self.from..self.to).contains(&minute),
            false => (today && minute >= self.from) || (yesterday && minute < self.to),
        }
    }
}

/// On these dates another profile holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// For people.
    pub name: String,
    /// Which dates.
    pub when: When,
    /// Which part of them.
    pub hours: Hours,
    /// What holds then.
    pub profile: ProfileNumber,
}

/// What a blackout lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlackoutKind {
    /// No data; control goes on.
    Data,
    /// Nothing at all.
    Silent,
}

/// A time at which nothing may pass; only a boost with the right to do so pierces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blackout {
    /// For people.
    pub name: String,
    /// Which dates.
    pub when: When,
    /// Which part of them.
    pub hours: Hours,
    /// What it lets through.
    pub kind: BlackoutKind,
}

/// What an override does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bend {
    /// Nothing is sent.
    Pause,
    /// This rate instead of what the schedule says; `pierce`: also in a blackout.
    Boost {
        /// The rate.
        rate: Rate,
        /// Whether a blackout yields to it.
        pierce: bool,
    },
    /// The volume is served with this class.
    Class(VolumeClass),
    /// The volume has this weight.
    Weight(u32),
}

/// Bends the schedule for a while. It always ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Names it, so that it can be ended.
    pub id: u64,
    /// What it does.
    pub bend: Bend,
    /// From when on.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// For one volume only; else for the site.
    pub volume: Option<String>,
    /// Who wanted it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Stops everything until somebody ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who wanted it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What a volume is to its owner: a class is served before the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeClass {
    /// First.
    Critical,
    /// Then.
    #[default]
    Normal,
    /// What is left.
    Bulk,
}

impl VolumeClass {
    /// In the order in which they are served.
    pub const ALL: [VolumeClass; 3] = [VolumeClass::Critical, VolumeClass::Normal, VolumeClass::Bulk];

    /// As documents write it.
    pub fn word(self) -> &'static str {
        match self {
            VolumeClass::Critical => "critical",
            VolumeClass::Normal => "normal",
            VolumeClass::Bulk => "bulk",
        }
    }
}

/// How one volume shares the line with the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRule {
    /// Its name at the site.
    pub name: String,
    /// Which class is served first.
    pub class: VolumeClass,
    /// Shares within the class go by weight.
    pub weight: u32,
    /// Never more than this.
    pub cap: Option<BitsPerSec>,
    /// This much before others of lower classes get any.
    pub floor: Option<BitsPerSec>,
    /// Oldest age that its newest generation at the gateway may reach.
    pub lag: Option<Duration>,
    /// Nothing of it is sent until somebody takes this out.
    pub held: Option<Hold>,
}

impl Policy {
    /// The profile of a number.
    pub fn profile(&self, number: ProfileNumber) -> &Profile {
        &self.profiles[usize::from(number.0)]
    }

    /// The number of a profile.
    pub fn profile_named(&self, name: &str) -> Option<ProfileNumber> {
        self.profiles.iter().position(|profile| profile.name == name).map(|at| ProfileNumber(at as u8))
    }
}
