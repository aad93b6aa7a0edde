//! Policies of sites: what their lines may be used for. Each change makes a new version, says who wanted it and why, and reaches the edge
//! at once when it is connected, else when it comes.
//!
//! ```text
//!   change     apply      pure: a policy and a change to the next version's document
//!   document   numbered   the version in an operator's document, without touching the rest of it
//!   draft      Draft      the schedule of a document as pages edit it, and back into its text
//!   outlook    outlook    what a schedule comes to: hours, bytes, whether tonight's backlog fits, changes of the clocks
//!   edit       edited     a change put into the text as its author wrote it
//!   moment     resolve    "19:30", "2026-11-24 19:30", an instant: what people write, in the site's zone
//!   key        load       the key that signs, `ca/policy.key`
//!   preview    preview    what a policy means, day by day
//!   first      document   the policy that a new site begins with
//!   holidays   read       a calendar's days off and make-up working days
//!   evidence   keep       minutes of the line, as edges report them
//!   report     report     a month of evidence, for whoever owns the line
//! ```

mod change;
mod document;
pub mod draft;
mod edit;
pub mod evidence;
pub mod first;
pub mod holidays;
pub(crate) mod key;
mod moment;
pub mod outlook;
pub mod preview;
pub mod report;

pub use change::{Change, ChangeError, Wanted};
pub use document::check;
pub(crate) use edit::runs;
pub use moment::{MomentError, resolve};

use crate::catalogue::{Catalogue, CatalogueError, EdgePolicy, LineEvent, PolicyRow, Site};
use crate::live::{Live, Told};
use crate::state::State;
use change::Next;
pub(crate) use change::bend_text;
use dedupe::{SiteId, UnixMillis};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shaping::policy::Policy;
use wire::message::FromGateway;

/// Characters of a name at most.
const MAX_ACTOR: usize = 100;
/// Characters of a reason at most: a sentence or three.
const MAX_REASON: usize = 500;
/// Versions that an edge may claim to hold and be believed: one that lies must not use the numbers up.
const MOST_HELD: u64 = 1 << 40;

/// Who wants a change, and why. Both are needed: they are what the audit is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    actor: String,
    reason: String,
}

/// Nobody stands for a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorError {
    /// No name.
    #[error("nobody is named who wants this: say who by --actor")]
    NoActor,
    /// No reason.
    #[error("no reason is given: say why by --reason, for whoever asks later")]
    NoReason,
    /// Too long to be kept.
    #[error("the {what} has {len} characters, and at most {most} are kept: shorten it")]
    Long {
        /// `name` or `reason`.
        what: &'static str,
        /// Characters that it has.
        len: usize,
        /// Characters that it may have.
        most: usize,
    },
}

impl Author {
    /// Takes a name and a reason. What would move a terminal's cursor is taken out of both.
    pub fn new(actor: &str, reason: &str) -> Result<Author, AuthorError> {
        let clean = |text: &str, what, most| {
            let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let len = text.chars().count();
            if len > most { Err(AuthorError::Long { what, len, most }) } else { Ok(text) }
        };
        let (actor, reason) = (clean(actor, "name", MAX_ACTOR)?, clean(reason, "reason", MAX_REASON)?);
        match (actor.is_empty(), reason.is_empty()) {
            (true, _) => Err(AuthorError::NoActor),
            (_, true) => Err(AuthorError::NoReason),
            _ => Ok(Author { actor, reason }),
        }
    }

    /// Who.
    pub fn actor(&self) -> &str {
        &self.actor
    }

    /// Why.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// A new version is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// The site's name.
    pub site: String,
    /// The new version.
    pub version: u64,
    /// What was done, as the audit has it.
    pub what: String,
    /// What stays in force from the version before although the new document does not name it.
    pub kept: Vec<String>,
    /// Whether the edge was told.
    pub told: Told,
}

/// Makes the next version of the policies of all these sites and tells their edges: the only way in which a policy changes.
///
/// The change is applied to the version in force, what comes out is checked whole, and document and audit are written in one transaction for
/// all sites: either all of them change or none. Blocks. With a daemon's sessions it must be called within the runtime.
pub fn change(
    state: &State,
    live: Option<&Live>,
    sites: &[Site],
    change: &Change,
    author: &Author,
) -> Result<Vec<Changed>, ChangeError> {
    let now = state.now();
    let name_of =
        |id: SiteId| sites.iter().find(|site| site.id == id).map_or_else(|| id.to_string(), |s| s.name.clone());
    let ids: Vec<SiteId> = sites.iter().map(|site| site.id).collect();
    let mut notes = Vec::with_capacity(ids.len());
    let made = state.catalogue.change_policies(&ids, |id, current, held| {
        let from = current.as_ref().map_or(0, |row| row.version);
        let version = next_version(from, held);
        let Next { document, what, kept } =
            change::apply(&name_of(id), current.as_ref(), version, change, author, timestamp(now))?;
        let (actor, reason) = (author.actor.clone(), author.reason.clone());
        notes.push((what[0].to_string(), kept));
        let event = |what| LineEvent {
            time: now,
            site: id,
            actor: actor.clone(),
            what,
            reason: reason.clone(),
            from,
            to: version,
        };
        let events = what.into_iter().map(event).collect();
        Ok::<_, ChangeError>((PolicyRow { version, made: now, actor, reason, document }, events))
    })??;
    let changed = made.into_iter().zip(notes).zip(sites).map(|((row, (what, kept)), site)| {
        tracing::info!(site = %site.name, version = row.version, actor = author.actor, reason = author.reason, what, "policy changed");
        let version = row.version;
        if let Some(live) = live {
            live.down().ruled(site.id, &row, now);
        }
        let told = live.map_or(Told::Away, |live| live.tell(site.id, signed(state, site.id, row)));
        Changed { site: site.name.clone(), version, what, kept, told }
    });
    Ok(changed.collect())
}

/// The version after `from`. An edge that holds a later one (the gateway's state was restored from a backup) would refuse anything up to it.
fn next_version(from: u64, held: u64) -> u64 {
    let held = if held <= MOST_HELD { held } else { 0 };
    from.max(held) + 1
}

/// Notes what an edge holds, and gives the policy that is to be sent because it is newer, with its version. A site without a policy gets none,
/// and what an edge refused it is not sent twice in a session: `told` is the last version that was answered in this one.
pub(crate) fn note_held(
    state: &State,
    site: SiteId,
    version: u64,
    refused: Option<&str>,
    told: u64,
) -> Result<Option<(u64, FromGateway)>, CatalogueError> {
    let refused: Option<String> =
        refused.map(|why| why.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect());
    if let Some(why) = &refused {
        tracing::warn!(%site, version, why, "the edge refused the policy that it was sent and keeps the one that it has");
    }
    let again = refused.is_some();
    let held = EdgePolicy { version, refused, at: state.now() };
    let before = state.catalogue.edge_policy(site)?;
    // Only news is written: an edge on a bad line says the same at each connection.
    if before.is_none_or(|before| (before.version, &before.refused) != (held.version, &held.refused)) {
        state.catalogue.note_edge_policy(site, &held)?;
    }
    let current = state.catalogue.policy(site)?;
    let known = current.as_ref().map_or(0, |row| row.version);
    if version > known {
        tracing::warn!(%site, holds = version, known, "the edge holds a later policy than this gateway knows: was the gateway restored from an older backup? Set the policy again");
    }
    let due = current.filter(|row| row.version > version && (!again || row.version > told));
    Ok(due.map(|row| (row.version, signed(state, site, row))))
}

fn signed(state: &State, site: SiteId, row: PolicyRow) -> FromGateway {
    FromGateway::Policy(state.policy_key.sign(site, row.document))
}

/// A document without a version of its own, for comparing two of them.
pub(crate) fn numbered_alike(document: &str) -> String {
    document::numbered(document, 1).0
}

/// The policy in force of a site with its document read, and the row that it came from.
pub fn in_force(catalogue: &Catalogue, site: &Site) -> Result<(Policy, PolicyRow), ChangeError> {
    let row = catalogue.policy(site.id)?.ok_or_else(|| ChangeError::NoPolicy(site.name.clone()))?;
    Ok((Policy::parse(&row.document)?, row))
}

/// The time as `jiff` has it; the end of its time beyond that.
pub(crate) fn timestamp(at: UnixMillis) -> Timestamp {
    i64::try_from(at.0).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

/// And back; 0 for what lies before 1970.
pub(crate) fn millis(at: Timestamp) -> UnixMillis {
    UnixMillis(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_changes_a_policy_without_a_name_and_a_reason() {
        let refused = |actor: &str, reason: &str| Author::new(actor, reason).unwrap_err().to_string();
        assert_eq!(refused(" ", "why"), "nobody is named who wants this: say who by --actor");
        assert_eq!(refused("li", "\t"), "no reason is given: say why by --reason, for whoever asks later");
        let long = "the reason has 501 characters, and at most 500 are kept: shorten it";
        assert_eq!(refused("li", &"x".repeat(501)), long);
        let author = Author::new(" li ", "a\x1bb").unwrap();
        assert_eq!((author.actor(), author.reason()), ("li", "a b"));
    }

    #[test]
    fn versions_grow_past_what_an_honest_edge_holds() {
        assert_eq!(next_version(0, 0), 1);
        assert_eq!(next_version(4, 3), 5);
        assert_eq!(next_version(4, 9), 10, "the state was restored from an older backup");
        assert_eq!(next_version(4, u64::MAX), 5, "an edge that lies uses no numbers up");
    }
}
