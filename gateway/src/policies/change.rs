//! What may be changed, and what comes of it. Pure: the policy in force and a change go in, the next version's document comes out.

use super::document::{check_dates, parse};
use super::draft::{Draft, DraftError};
use super::edit::edited;
use super::holidays::{Days, HolidaysError};
use super::moment::{MomentError, later, resolve};
use super::preview::PreviewError;
use super::report::ReportError;
use super::{Author, AuthorError, millis};
use crate::catalogue::{CatalogueError, LineChange, PolicyRow};
use jiff::Timestamp;
use shaping::policy::{Bend, Hold, Override, Policy, PolicyError};
use std::borrow::Cow;

/// A change that somebody wants.
#[derive(Clone, Debug)]
pub enum Change {
    /// Another document takes the place of this one. A hold and overrides that it does not name stay in force: only `release` and
    /// `override end` end them.
    Set {
        /// TOML; its `version` is not believed and may be missing.
        document: String,
        /// The version that it was written against: another one in force refuses it.
        expected: Option<u64>,
    },
    /// Bend the schedule for a while.
    Bend(Wanted),
    /// End an override before its time.
    EndOverride {
        /// Its id.
        id: u64,
    },
    /// Stop everything until it is released.
    Hold,
    /// End the hold.
    Release,
    /// Take days from a calendar.
    Holidays(Days),
    /// The schedule of another document takes the place of this one's: profiles, grid, holidays, exceptions, blackouts.
    Schedule(Box<Draft>),
}

/// An override as it is asked for; its times are understood in each site's zone.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What it does.
    pub bend: Bend,
    /// From when on, see [`resolve`]; else at once.
    pub from: Option<String>,
    /// Until when, see [`resolve`].
    pub until: Option<String>,
    /// Seconds that it lasts, in the place of `until`.
    pub seconds: Option<u64>,
    /// For one volume only.
    pub volume: Option<String>,
}

/// Why a policy was not changed or read.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A schedule is none.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// Nobody stands for it.
    #[error(transparent)]
    Author(#[from] AuthorError),
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The document is no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A time is none.
    #[error(transparent)]
    Moment(#[from] MomentError),
    /// A calendar is not usable.
    #[error(transparent)]
    Holidays(#[from] HolidaysError),
    /// A preview was asked for that cannot be made.
    #[error(transparent)]
    Preview(#[from] PreviewError),
    /// A report was asked for that cannot be made.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The site has no policy.
    #[error(
        "site `{0}` has no policy yet; `sluice-gateway policy set --site {0} --file FILE --reason TEXT` gives it one"
    )]
    NoPolicy(String),
    /// The policy never had this version.
    #[error(
        "the policy of site `{site}` has no version {version}; `sluice-gateway policy history --site {site}` lists those that there are"
    )]
    NoVersion {
        /// The site's name.
        site: String,
        /// What was asked for.
        version: u64,
    },
    /// Somebody was faster.
    #[error(
        "the policy of site `{site}` is at version {now} by now, and this was written for version {expected}: look at what changed, and save again"
    )]
    Moved {
        /// The site's name.
        site: String,
        /// The version that the document was written against; 0: none.
        expected: u64,
        /// The one in force; 0: none.
        now: u64,
    },
    /// The tenant has no sites.
    #[error("tenant `{0}` has no sites; `sluice-gateway token --tenant {0} --site NAME` makes one")]
    NoSites(String),
    /// The changed policy would not be one.
    #[error("the policy of site `{site}` would not be valid: `{field}`: {why}")]
    Invalid {
        /// The site's name.
        site: String,
        /// Which field.
        field: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// Two overrides could not be told apart.
    #[error("two overrides of the document have the id {0}: give each its own")]
    SameId(u64),
    /// An override without an end.
    #[error("an override needs an end: say when by --until, or how long by --for")]
    Endless,
    /// An override that would never begin.
    #[error("the override would end at {0}, which has passed: choose a later time")]
    Passed(String),
    /// The site has no such override.
    #[error("site `{site}` has no override {id} in force or to come; it has {there}")]
    NoOverride {
        /// The site's name.
        site: String,
        /// What was asked for.
        id: u64,
        /// Those that there are.
        there: String,
    },
    /// Somebody holds it.
    #[error(
        "site `{site}` is held already, by {actor} ({reason}); `sluice-gateway release --site {site} --reason TEXT` ends that"
    )]
    Held {
        /// The site's name.
        site: String,
        /// Who holds it.
        actor: String,
        /// Why.
        reason: String,
    },
    /// Nobody holds it.
    #[error("site `{0}` is not held: there is nothing to release")]
    NotHeld(String),
}

/// The next version.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) document: String,
    /// What is noted of it; the first is what was asked for.
    pub(super) what: Vec<LineChange>,
    /// What stays in force although the document that was set does not name it, one sentence each.
    pub(super) kept: Vec<String>,
}

/// Applies a change to the policy in force and checks all of what comes out. Overrides that have ended are dropped on the way.
pub(super) fn apply(
    site: &str,
    current: Option<&PolicyRow>,
    version: u64,
    change: &Change,
    author: &Author,
    now: Timestamp,
) -> Result<Next, ChangeError> {
    let written = current.map_or("", |row| row.document.as_str());
    let in_force = current.map_or(0, |row| row.version);
    let current = current.map(|row| Policy::parse(&row.document)).transpose()?;
    if let Change::Set { document, expected } = change {
        if let Some(expected) = expected.filter(|expected| *expected != in_force) {
            return Err(ChangeError::Moved { site: site.to_owned(), expected, now: in_force });
        }
        return set(current, version, document, now);
    }
    let mut policy = current.ok_or_else(|| ChangeError::NoPolicy(site.to_owned()))?;
    let mut written = Cow::Borrowed(written);
    if let Change::Schedule(draft) = change {
        let text = draft.applied(&written)?;
        policy = Policy::parse(&text).map_err(|error| of_site(site, error))?;
        written = text.into();
    }
    policy.version = version;
    policy.overrides.retain(|bend| bend.until > now);
    let what = match change {
        Change::Set { .. } => LineChange::PolicySet,
        Change::Bend(wanted) => add(&mut policy, wanted, author, now)?,
        Change::EndOverride { id } => {
            let there = listed(&policy);
            let at = policy.overrides.iter().position(|bend| bend.id == *id);
            let at = at.ok_or_else(|| ChangeError::NoOverride { site: site.into(), id: *id, there })?;
            policy.overrides.remove(at);
            LineChange::OverrideEnded { id: *id }
        }
        Change::Hold => {
            if let Some(Hold { actor, reason }) = policy.hold {
                return Err(ChangeError::Held { site: site.into(), actor, reason });
            }
            policy.hold = Some(Hold { actor: author.actor().into(), reason: author.reason().into() });
            LineChange::Held
        }
        Change::Release => {
            policy.hold.take().ok_or_else(|| ChangeError::NotHeld(site.into()))?;
            LineChange::Released
        }
        Change::Holidays(days) => {
            take(&mut policy, days);
            LineChange::HolidaysImported { off: days.off.len() as u32, working: days.working.len() as u32 }
        }
        Change::Schedule(_) => LineChange::ScheduleSet,
    };
    let document = checked(site, &written, &policy, now)?;
    Ok(Next { document, what: vec![what], kept: Vec::new() })
}

/// Another document, as it was written but for what has to be added or dropped.
fn set(current: Option<Policy>, version: u64, document: &str, now: Timestamp) -> Result<Next, ChangeError> {
    let (mut policy, text) = parse(document, version, now)?;
    let (mut kept, mut what) = (Vec::new(), vec![LineChange::PolicySet]);
    // What a document brings along is noted as if it had been asked for by itself.
    if policy.hold.is_some() && current.as_ref().is_none_or(|current| current.hold.is_none()) {
        what.push(LineChange::Held);
    }
    let known = |bend: &Override| current.as_ref().is_some_and(|current| current.overrides.contains(bend));
    what.extend(policy.overrides.iter().filter(|bend| bend.until > now && !known(bend)).map(added));
    if let Some(current) = current {
        if let (None, Some(hold)) = (&policy.hold, current.hold) {
            kept.push(format!("the hold by {} ({})", hold.actor, hold.reason));
            policy.hold = Some(hold);
        }
        for bend in current.overrides.into_iter().filter(|bend| bend.until > now) {
            if policy.overrides.iter().all(|other| other.id != bend.id) {
                kept.push(format!(
                    "override {}: {}, by {} ({})",
                    bend.id,
                    bend_text(&bend.bend),
                    bend.actor,
                    bend.reason
                ));
                policy.overrides.push(bend);
            }
        }
    }
    let before = policy.overrides.len();
    policy.overrides.retain(|bend| bend.until > now);
    let as_written = kept.is_empty() && policy.overrides.len() == before;
    let document = if as_written { text } else { parse(&edited(&text, &policy), version, now)?.1 };
    Ok(Next { document, what, kept })
}

fn add(policy: &mut Policy, wanted: &Wanted, author: &Author, now: Timestamp) -> Result<LineChange, ChangeError> {
    let from = wanted.from.as_deref().map_or(Ok(now), |text| resolve(text, &policy.zone, now))?;
    let until = match (&wanted.until, wanted.seconds) {
        (Some(until), _) => resolve(until, &policy.zone, from)?,
        (None, Some(seconds)) => later(from, seconds),
        (None, None) => return Err(ChangeError::Endless),
    };
    if until <= now {
        return Err(ChangeError::Passed(until.to_zoned(policy.zone.clone()).strftime("%a %Y-%m-%d %H:%M").to_string()));
    }
    // The version names it: no later override of the site gets the same id. A document that was set may have used the number.
    let taken = policy.overrides.iter().map(|bend| bend.id).max().unwrap_or(0);
    let id = if taken >= policy.version { taken + 1 } else { policy.version };
    let (actor, reason, volume) = (author.actor().into(), author.reason().into(), wanted.volume.clone());
    let new = Override { id, bend: wanted.bend, from, until, volume, actor, reason };
    let noted = added(&new);
    policy.overrides.push(new);
    Ok(noted)
}

fn added(new: &Override) -> LineChange {
    let (from, until) = (millis(new.from), millis(new.until));
    LineChange::OverrideAdded { id: new.id, bend: bend_text(&new.bend), from, until, volume: new.volume.clone() }
}

/// What a calendar says of a date takes the place of what was known of it.
fn take(policy: &mut Policy, days: &Days) {
    for (date, name) in &days.off {
        policy.holidays.working.remove(date);
        policy.holidays.off.insert(*date, name.clone());
    }
    for date in &days.working {
        policy.holidays.off.remove(date);
        policy.holidays.working.insert(*date);
    }
}

/// The policy's document in the words of the one before, read again: what is written is what was checked.
fn checked(site: &str, written: &str, policy: &Policy, now: Timestamp) -> Result<String, ChangeError> {
    let text = edited(written, policy);
    let read = Policy::parse(&text).map_err(|error| of_site(site, error))?;
    check_dates(&read, read.zone.to_datetime(now).date())?;
    Ok(text)
}

/// Nobody has seen the lines of a text that was made here, so the error names site and field.
fn of_site(site: &str, error: PolicyError) -> ChangeError {
    match error {
        PolicyError::Field { field, why, .. } => ChangeError::Invalid { site: site.into(), field, why },
        other => other.into(),
    }
}

/// `pause`, or `boost 2 Mbit/s`.
pub(crate) fn bend_text(bend: &Bend) -> String {
    match bend {
        Bend::Pause => "pause".into(),
        Bend::Boost { rate, pierce: false } => format!("boost {rate}"),
        Bend::Boost { rate, pierce: true } => format!("boost {rate}, also in blackouts"),
        Bend::Class(class) => format!("class {}", class.word()),
        Bend::Weight(weight) => format!("weight {weight}"),
    }
}

fn listed(policy: &Policy) -> String {
    let ids: Vec<String> = policy.overrides.iter().map(|bend| bend.id.to_string()).collect();
    if ids.is_empty() { "none".into() } else { ids.join(", ") }
}

#[cfg(test)]
mod tests;
