//! What is kept, and how it comes to be deleted.
//!
//! ```text
//!   law       (generation, locks, now) ──► held until when, and by which lock; pure
//!   due       what was agreed on and whose time has come; judged once more at that moment
//!   erasure   a site's end: forgotten, purged, looked for, proved
//! ```
//!
//! Whatever deletes a sealed generation holds [`State::keeping`](crate::state::State) while it asks the law and deletes, and so does whoever sets a lock:
//! a lock that was set is one that holds.

pub mod due;
pub mod erasure;
pub mod law;

pub use law::{Held, Kept, held};

use crate::admin::Fault;
use crate::catalogue::{Catalogue, CatalogueError, Deed, Lock, Pending};
use dedupe::{SiteId, TenantId};

/// Days that a lock may hold at most: a hundred years.
pub const MAX_DAYS: u32 = 36_525;

/// Why something is not locked, unlocked or deleted.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// A lock holds it.
    #[error(
        "{what} is held by lock {lock} {until}: nobody can delete it before. If it has to be, ask for `sluice-gateway retention unlock {lock} --reason WHY`, which takes a second person and a delay"
    )]
    Held {
        /// What was to be deleted.
        what: String,
        /// The lock's number.
        lock: u64,
        /// `until …` or `without end`.
        until: String,
    },
    /// The newest generation.
    #[error(
        "{0} is the newest generation of its volume and is never deleted by itself; decommission the site to delete all"
    )]
    Newest(String),
    /// No such lock.
    #[error("there is no lock {0} in force; `sluice-gateway retention locks` lists those that there are")]
    NoLock(u64),
    /// A change that makes a lock no longer.
    #[error(
        "that does not make lock {0} hold for longer. To shorten it ask for `sluice-gateway retention unlock {0}`; of another kind of term set a further lock, the longest holds"
    )]
    NotLonger(u64),
    /// A change that makes a lock longer.
    #[error("that does not make lock {0} hold for less long: `sluice-gateway retention extend {0}` does it at once")]
    NotShorter(u64),
    /// A term is none.
    #[error("a lock holds for 1 to {MAX_DAYS} days, until a time that is to come, or without end")]
    Term,
    /// Nothing waits under that number.
    #[error("nothing waits under number {0}; `sluice-gateway retention pending` lists what does")]
    NoPending(u64),
    /// It cannot be taken back any more.
    #[error("number {0} is over or has begun, and cannot be cancelled any more")]
    Over(u64),
    /// The same waits already.
    #[error("the same waits already under number {0}: cancel that first, or wait")]
    Again(u64),
    /// The site is going.
    #[error("site `{site}` is being decommissioned under number {number}: cancel that first, while it waits")]
    Leaving {
        /// The site.
        site: String,
        /// The number.
        number: u64,
    },
    /// Programs agree to nothing.
    #[error(
        "to a deletion somebody agrees who is signed in on the pages of the gateway: neither a program with a token nor a command on the gateway's machine can"
    )]
    NotInPerson,
    /// Somebody who was made for the purpose.
    #[error(
        "account `{account}` cannot agree to this: somebody else made it, changed it or set its password less than {hours} hours ago, and could be the one who uses it. Have another approver agree, or wait"
    )]
    Fresh {
        /// The account.
        account: String,
        /// The delay.
        hours: u64,
    },
}

impl RetentionError {
    /// Of what kind it is.
    pub fn fault(&self) -> Fault {
        use RetentionError as E;
        match self {
            E::NoLock(_) | E::NoPending(_) => Fault::Missing,
            E::NotLonger(_) | E::NotShorter(_) | E::Term => Fault::Invalid,
            E::Held { .. } | E::Newest(_) | E::Over(_) | E::Again(_) | E::Leaving { .. } => Fault::Conflict,
            E::NotInPerson | E::Fresh { .. } => Fault::Forbidden,
        }
    }
}

/// The locks of a tenant that are in force.
pub fn locks_of(catalogue: &Catalogue, tenant: TenantId) -> Result<Vec<Lock>, CatalogueError> {
    let mut locks = catalogue.locks()?;
    locks.retain(|lock| lock.tenant == tenant && lock.ended.is_none());
    Ok(locks)
}

/// The decommissioning of a site that is under way, if one is.
pub fn leaving(catalogue: &Catalogue, site: SiteId) -> Result<Option<Pending>, CatalogueError> {
    let found = catalogue.pendings()?.into_iter();
    let mut found = found.filter(|pending| pending.is_open() && pending.deed == Deed::Decommission(site));
    Ok(found.next())
}
