//! The schedule of a document as pages edit it, and an edited one put back into the text as its author wrote it. Pure.
//!
//! ```text
//!   document ── read ──► Draft ──(a person paints)──► Draft ── written ──► document
//! ```
//!
//! Comments, order and spelling stay. What comes out is read again and must say what the draft says; where the text cannot be edited, the plain text of
//! the policy takes its place, without comments. Quotas, volumes, clock and what is local are no part of a draft and are left alone, but for names of
//! profiles that were renamed.

mod put;

use super::ChangeError;
use super::document::numbered;
use super::edit::runs;
use jiff::civil::Date;
use put::put;
use serde::{Deserialize, Serialize};
use shaping::policy::Policy;
use shaping::policy::grid::{CELLS_PER_DAY, DAYS};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// Entries of one list of a draft at most, as in a document.
const MAX_ENTRIES: usize = 1000;
/// Profiles at most, `closed` included, as in a document.
const MAX_PROFILES: usize = 32;

/// What a document says of times: the part of it that pages edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// The IANA name of the site's zone.
    pub zone: String,
    /// What is known of the line.
    pub line: LineDraft,
    /// What cells and exceptions name; the first is `closed`.
    pub profiles: Vec<ProfileDraft>,
    /// Seven rows from Monday of 96 quarters of an hour, each the number of a profile.
    pub grid: Vec<Vec<u8>>,
    /// Days off and make-up working days.
    pub holidays: HolidaysDraft,
    /// Dates on which another profile holds.
    pub exceptions: Vec<ExceptionDraft>,
    /// Times at which nothing may pass.
    pub blackouts: Vec<BlackoutDraft>,
}

/// What is known of a line, as documents write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LineDraft {
    /// What it carries towards the gateway, as `2 Mbit/s`.
    pub up: String,
    /// What it carries towards the site.
    pub down: String,
    /// Never above this: a rate, or a share as `80 %`.
    pub cap: String,
    /// Queueing delay from which replication makes way, as `25 ms`, or `off`.
    pub courtesy: String,
}

/// A profile, as documents write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileDraft {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// Towards the gateway: a rate, or a share as `80 %`.
    pub up: String,
    /// Towards the site, likewise.
    pub down: String,
    /// The name that it has in the document, where it is renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
}

/// Days off and make-up working days.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HolidaysDraft {
    /// The day of the grid whose row holidays take, as `sun`; absent: each its own.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
    /// The day of the grid whose row make-up working days take.
    pub working_as: String,
    /// Days off.
    pub off: Vec<OffDraft>,
    /// Make-up working days, as `2026-10-10`.
    pub working: Vec<String>,
}

/// Some days off that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OffDraft {
    /// The first, as `2026-10-01`.
    pub from: String,
    /// The last.
    pub to: String,
    /// What is celebrated; may be empty.
    pub name: String,
}

/// On these dates another profile holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExceptionDraft {
    /// Its number in the document, from 0; absent: it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<usize>,
    /// For people.
    pub name: String,
    /// Which dates, as `2026-12-24..2026-12-26` or `second tuesday`.
    pub when: String,
    /// Which part of them, as `08:00-20:00`.
    pub hours: String,
    /// The name of the profile that holds then.
    pub profile: String,
}

/// A time at which nothing may pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlackoutDraft {
    /// Its number in the document, from 0; absent: it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<usize>,
    /// For people.
    pub name: String,
    /// Which dates.
    pub when: String,
    /// Which part of them.
    pub hours: String,
    /// `data`, or `silent`: control too.
    pub kind: String,
}

/// Why a draft is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// Rows or cells are missing, or there are too many.
    #[error("`grid` has seven rows, Monday first, of {CELLS_PER_DAY} cells each")]
    Grid,
    /// A cell names no profile.
    #[error("a cell of `grid` is {cell}, and there are {profiles} profiles, counted from 0")]
    Cell {
        /// What it says.
        cell: u8,
        /// How many there are.
        profiles: usize,
    },
    /// `closed` is not where it has to be.
    #[error("the first of `profiles` is `closed`, and no other has its name")]
    Closed,
    /// Two profiles of one name.
    #[error("two profiles are called `{0}`: rename one")]
    Twice(String),
    /// Too many.
    #[error("{count} `{list}` are more than the {most} that are taken")]
    Many {
        /// Of what.
        list: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// No date.
    #[error("`{0}` is no date: write it as in \"2026-10-01\"")]
    Date(String),
    /// Backwards, or too long.
    #[error("days off from {0} to {1}: they begin before they end, and last at most 60 days")]
    Span(String, String),
}

/// What a policy's plain text says, as far as drafts hold it.
#[derive(Deserialize)]
struct Plain {
    zone: String,
    line: PlainLine,
    #[serde(default)]
    profiles: BTreeMap<String, toml::Value>,
    holidays: PlainHolidays,
    #[serde(default)]
    exceptions: Vec<PlainRule>,
    #[serde(default)]
    blackouts: Vec<PlainRule>,
}

#[derive(Deserialize)]
struct PlainLine {
    up: String,
    down: String,
    cap: String,
    courtesy: String,
}

#[derive(Deserialize)]
struct PlainHolidays {
    #[serde(rename = "as")]
    row: Option<String>,
    working_as: String,
}

#[derive(Deserialize)]
struct PlainRule {
    name: String,
    when: String,
    hours: String,
    profile: Option<String>,
    kind: Option<String>,
}

impl Draft {
    /// The schedule of a document, whose version may be missing.
    pub fn read(document: &str) -> Result<Draft, ChangeError> {
        Draft::of(&Policy::parse(&numbered(document, 1).0)?)
    }

    /// The schedule of a policy, spelt as [`Policy::text`] does.
    pub fn of(policy: &Policy) -> Result<Draft, ChangeError> {
        let plain: Plain = toml::from_str(&policy.text())
            .map_err(|error| ChangeError::Policy(shaping::policy::PolicyError::Parse(error.to_string())))?;
        let share = |value: &toml::Value, way: &str| {
            value.as_str().or_else(|| value.get(way)?.as_str()).unwrap_or_default().to_owned()
        };
        let closed = ProfileDraft { name: "closed".into(), up: "0".into(), down: "0".into(), was: None };
        let profiles = plain.profiles.iter().map(|(name, value)| ProfileDraft {
            name: name.clone(),
            up: share(value, "up"),
            down: share(value, "down"),
            was: None,
        });
        let row = |day| (0..CELLS_PER_DAY).map(|cell| policy.grid.at(day, cell * 15).0).collect();
        let off = runs(policy.holidays.off.clone()).into_iter();
        Ok(Draft {
            zone: plain.zone,
            line: LineDraft {
                up: plain.line.up,
                down: plain.line.down,
                cap: plain.line.cap,
                courtesy: plain.line.courtesy,
            },
            profiles: std::iter::once(closed).chain(profiles).collect(),
            grid: (0..DAYS).map(row).collect(),
            holidays: HolidaysDraft {
                row: plain.holidays.row,
                working_as: plain.holidays.working_as,
                off: off
                    .map(|(from, to, name)| OffDraft { from: from.to_string(), to: to.to_string(), name })
                    .collect(),
                working: policy.holidays.working.iter().map(Date::to_string).collect(),
            },
            exceptions: numbered_rules(plain.exceptions, |was, rule| ExceptionDraft {
                was,
                name: rule.name,
                when: rule.when,
                hours: rule.hours,
                profile: rule.profile.unwrap_or_default(),
            }),
            blackouts: numbered_rules(plain.blackouts, |was, rule| BlackoutDraft {
                was,
                name: rule.name,
                when: rule.when,
                hours: rule.hours,
                kind: rule.kind.unwrap_or_default(),
            }),
        })
    }

    /// The document with this schedule. A value that no document can have is written too: whoever reads the text names its line.
    pub fn written(&self, document: &str) -> Result<String, ChangeError> {
        self.check()?;
        let before = Policy::parse(&numbered(document, 1).0)?;
        let base = Draft::of(&before)?;
        if *self == base {
            return Ok(document.to_owned());
        }
        let parsed =
            |text: &str| Policy::parse(&numbered(text, 1).0).map(|policy| Policy { version: 1, ..policy }.text());
        let plain = put(&before.text(), &base, self);
        let meant = plain.as_deref().map(parsed);
        // The text's own line ends: the editor of TOML writes those of Unix.
        let ends = |text: String| {
            if document.contains("\r\n") { text.replace("\r\n", "\n").replace('\n', "\r\n") } else { text }
        };
        match (put(document, &base, self).map(ends), meant) {
            (Some(text), Some(Ok(meant))) if parsed(&text).is_ok_and(|says| says == meant) => Ok(text),
            (Some(text), Some(Err(_))) => Ok(text), // it says what is wrong with it, in its author's lines
            _ => Ok(plain.unwrap_or_else(|| document.to_owned())),
        }
    }

    /// Another site's document with this schedule. Its zone and line stay its own, and so do profiles that its quotas or its clock name.
    pub fn applied(&self, document: &str) -> Result<String, ChangeError> {
        let before = Policy::parse(&numbered(document, 1).0)?;
        let own = Draft::of(&before)?;
        let mut draft = Draft { zone: own.zone.clone(), line: own.line.clone(), ..self.clone() };
        draft.profiles.iter_mut().for_each(|profile| profile.was = None);
        let named = before.quotas.iter().filter_map(|quota| Some(quota.soft?.1)).chain([before.untrusted_clock]);
        for number in named {
            let profile = &own.profiles[usize::from(number.0)];
            if draft.profiles.iter().all(|known| known.name != profile.name) {
                draft.profiles.push(profile.clone());
            }
        }
        // Rules of the same name keep their comments.
        for rule in &mut draft.exceptions {
            rule.was = own.exceptions.iter().position(|own| own.name == rule.name);
        }
        for rule in &mut draft.blackouts {
            rule.was = own.blackouts.iter().position(|own| own.name == rule.name);
        }
        once(draft.exceptions.iter_mut().map(|rule| &mut rule.was));
        once(draft.blackouts.iter_mut().map(|rule| &mut rule.was));
        draft.written(document)
    }

    /// The name of each profile's cell of a day.
    fn names(&self, day: usize) -> Vec<&str> {
        self.grid[day].iter().map(|cell| self.profiles[usize::from(*cell)].name.as_str()).collect()
    }

    /// Refuses what is not shaped as a draft. What its texts say is checked where they are read.
    fn check(&self) -> Result<(), DraftError> {
        if self.grid.len() != DAYS || self.grid.iter().any(|row| row.len() != CELLS_PER_DAY) {
            return Err(DraftError::Grid);
        }
        let lists = [
            ("profiles", self.profiles.len(), MAX_PROFILES),
            ("exceptions", self.exceptions.len(), MAX_ENTRIES),
            ("blackouts", self.blackouts.len(), MAX_ENTRIES),
            ("holidays", self.holidays.off.len() + self.holidays.working.len(), MAX_ENTRIES),
        ];
        if let Some((list, count, most)) = lists.into_iter().find(|(_, count, most)| count > most) {
            return Err(DraftError::Many { list, count, most });
        }
        if self.profiles.first().is_none_or(|first| first.name != "closed") {
            return Err(DraftError::Closed);
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.profiles.iter().find(|profile| !names.insert(&profile.name)) {
            return Err(DraftError::Twice(crate::text::printable(&twice.name)));
        }
        let profiles = self.profiles.len();
        if let Some(cell) = self.grid.iter().flatten().find(|cell| usize::from(**cell) >= profiles) {
            return Err(DraftError::Cell { cell: *cell, profiles });
        }
        for off in &self.holidays.off {
            let (from, to) = (date(&off.from)?, date(&off.to)?);
            if to < from || (to - from).get_days() >= 60 {
                return Err(DraftError::Span(off.from.clone(), off.to.clone()));
            }
        }
        self.holidays.working.iter().try_for_each(|day| date(day).map(drop))
    }
}

fn date(text: &str) -> Result<Date, DraftError> {
    text.trim().parse().map_err(|_| DraftError::Date(crate::text::printable(text)))
}

fn numbered_rules<T>(rules: Vec<PlainRule>, of: impl Fn(Option<usize>, PlainRule) -> T) -> Vec<T> {
    rules.into_iter().enumerate().map(|(number, rule)| of(Some(number), rule)).collect()
}

/// Each number once: of two rules that claim one place the second is new.
fn once<'a>(places: impl Iterator<Item = &'a mut Option<usize>>) {
    let mut taken = BTreeSet::new();
    for place in places {
        if place.is_some_and(|number| !taken.insert(number)) {
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests;
