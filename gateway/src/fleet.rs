//! What is going on at all sites, for pages and the API: what each may use its line for, what it does, what waits, and what needs a person.
//!
//! Made from the catalogue, the stores, what edges tell, and the policies' own `decide`; nothing is kept but what would be slow to make again. A
//! snapshot of all sites is at most [`FRESH`] old; whoever asks while a new one is made gets the one before.

mod site;
mod volume;

pub(crate) use site::shade;
pub use site::{Badge, Mood, NowView, QuotaView, SiteState, SiteView, StripView};
pub use volume::{VolumeBrief, VolumeDoing};

use crate::access::Caller;
use crate::catalogue::{CatalogueError, PolicyRow, Site, Tenant};
use crate::live::Live;
use crate::state::{State, StateError};
use dedupe::{SiteId, UnixMillis};
use jiff::{SignedDuration, Timestamp};
use shaping::policy::{Allowance, ClockTrust, Policy, Schedule, Situation, decide};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;
use tokio::time::Instant;

/// How old a snapshot of all sites may be before a new one is made.
const FRESH: Duration = Duration::from_secs(2);
/// How old what was read of a line's evidence may be: edges report it by the quarter of an hour.
const EVIDENCE_FRESH: Duration = Duration::from_secs(60);
/// Steps of a day's strip: quarters of an hour.
pub const STEPS_PER_DAY: u32 = 96;
const STEP_SECONDS: i64 = 900;
/// The schedule is laid out from so long ago, for so many days.
const LAID_BACK: SignedDuration = SignedDuration::from_hours(25);
const LAID_DAYS: u32 = 5;
/// So much of it is left when it is laid out anew: what pages look ahead.
const LEAST_AHEAD: SignedDuration = SignedDuration::from_hours(50);

/// All sites at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When.
    pub at: UnixMillis,
    /// By tenant and name.
    pub sites: Vec<Arc<SiteView>>,
}

/// Makes views, and keeps what would be slow to make again.
#[derive(Debug)]
pub struct Fleet {
    state: Arc<State>,
    live: Option<Arc<Live>>,
    snapshot: RwLock<(Option<Instant>, Arc<Snapshot>)>,
    /// Held by whoever makes a new one.
    making: Mutex<()>,
    rules: Mutex<HashMap<SiteId, Arc<Ruled>>>,
    sent: Mutex<HashMap<SiteId, Sent>>,
}

/// A policy with its schedule laid out around now.
#[derive(Debug)]
pub struct Ruled {
    /// The policy.
    pub policy: Policy,
    /// Its schedule.
    pub schedule: Schedule,
    pub(crate) until: Timestamp,
}

#[derive(Debug)]
struct Sent {
    read: Instant,
    first: i64,
    /// Bytes sent in each step from `first` on.
    bytes: Arc<Vec<u64>>,
}

impl Fleet {
    /// Views of a state, with a running daemon's sessions or without.
    pub fn new(state: Arc<State>, live: Option<Arc<Live>>) -> Fleet {
        Fleet {
            state,
            live,
            snapshot: RwLock::default(),
            making: Mutex::default(),
            rules: Mutex::default(),
            sent: Mutex::default(),
        }
    }

    /// All sites. Blocks only while there is no snapshot at all.
    pub fn snapshot(&self, now: Instant) -> Result<Arc<Snapshot>, StateError> {
        let (made, known) = self.known();
        if made.is_some_and(|made| now.saturating_duration_since(made) < FRESH) {
            return Ok(known);
        }
        let making = match self.making.try_lock() {
            Ok(making) => making,
            Err(_) if made.is_some() => return Ok(known),
            Err(_) => self.making.lock().expect("a panic in making a snapshot ends its request alone"),
        };
        let (made, known) = self.known();
        if made.is_some_and(|made| made >= now) {
            return Ok(known); // somebody else has made one while this waited
        }
        let fresh = Arc::new(self.make(now)?);
        *self.snapshot.write().expect("it is only replaced") = (Some(now), fresh.clone());
        drop(making);
        Ok(fresh)
    }

    fn known(&self) -> (Option<Instant>, Arc<Snapshot>) {
        let snapshot = self.snapshot.read().expect("it is only replaced");
        (snapshot.0, snapshot.1.clone())
    }

    /// The next look makes a new one: something was changed by whoever looks.
    pub fn stale(&self) {
        self.snapshot.write().expect("it is only replaced").0 = None;
    }

    fn make(&self, now: Instant) -> Result<Snapshot, StateError> {
        let at = self.state.now();
        let mut sites = Vec::new();
        let all = self.state.catalogue.sites()?;
        for tenant in self.state.catalogue.tenants()? {
            let volumes = volume::of_tenant(&self.state, &tenant)?;
            for site in all.iter().filter(|site| site.tenant == tenant.id) {
                let of_site = volumes.get(&site.id).cloned().unwrap_or_default();
                sites.push(Arc::new(self.site_view(&tenant, site, of_site, at, now)?));
            }
        }
        Ok(Snapshot { at, sites })
    }

    /// One site that the caller sees, as it is now.
    pub fn site(&self, caller: &Caller, tenant: &Tenant, site: &Site, now: Instant) -> Result<SiteView, StateError> {
        debug_assert!(caller.sees(tenant));
        let at = self.state.now();
        let mut volumes = volume::of_tenant(&self.state, tenant)?;
        self.site_view(tenant, site, volumes.remove(&site.id).unwrap_or_default(), at, now)
    }

    /// The policy in force of a site with its schedule laid out; `None`: it has none, or one that this build cannot read.
    pub fn ruled(&self, site: SiteId, row: Option<&PolicyRow>, now: Timestamp) -> Option<Arc<Ruled>> {
        let row = row?;
        let least = now.checked_add(LEAST_AHEAD).unwrap_or(now);
        let mut rules = self.lock_rules();
        if let Some(known) = rules.get(&site).filter(|known| known.policy.version == row.version && known.until > least)
        {
            return Some(known.clone());
        }
        let policy = match Policy::parse(&row.document) {
            Ok(policy) => policy,
            Err(error) => {
                tracing::error!(%site, version = row.version, %error, "a policy in the catalogue cannot be read");
                return None;
            }
        };
        let from = now.checked_sub(LAID_BACK).unwrap_or(now);
        let until = from.checked_add(SignedDuration::from_hours(i64::from(LAID_DAYS) * 24)).unwrap_or(now);
        let schedule = policy.schedule(from, LAID_DAYS);
        let ruled = Arc::new(Ruled { policy, schedule, until });
        rules.insert(site, ruled.clone());
        Some(ruled)
    }

    /// Bytes that were sent in each quarter of an hour of the last day, and the first second of the first one.
    fn sent(&self, site: SiteId, now: Timestamp, instant: Instant) -> Result<(i64, Arc<Vec<u64>>), CatalogueError> {
        let first = (now.as_second().div_euclid(STEP_SECONDS) - i64::from(STEPS_PER_DAY) + 1) * STEP_SECONDS;
        let known = self.lock_sent().get(&site).map(|sent| (sent.read, sent.first, sent.bytes.clone()));
        if let Some((read, at, bytes)) = known
            && at == first
            && instant.saturating_duration_since(read) < EVIDENCE_FRESH
        {
            return Ok((first, bytes));
        }
        let mut bytes = vec![0u64; STEPS_PER_DAY as usize];
        let minute = |second: i64| u32::try_from(second / 60).unwrap_or(0);
        let last = first + i64::from(STEPS_PER_DAY) * STEP_SECONDS;
        self.state.catalogue.each_minute(site, minute(first), minute(last), |found| {
            let step = (i64::from(found.minute) * 60 - first) / STEP_SECONDS;
            if let Some(step) = usize::try_from(step).ok().and_then(|step| bytes.get_mut(step)) {
                *step += u64::from(found.sent);
            }
        })?;
        let bytes = Arc::new(bytes);
        self.lock_sent().insert(site, Sent { read: instant, first, bytes: bytes.clone() });
        Ok((first, bytes))
    }

    fn lock_rules(&self) -> MutexGuard<'_, HashMap<SiteId, Arc<Ruled>>> {
        self.rules.lock().expect("no thread panics while it holds the rules")
    }

    fn lock_sent(&self) -> MutexGuard<'_, HashMap<SiteId, Sent>> {
        self.sent.lock().expect("no thread panics while it holds what was sent")
    }
}

impl Ruled {
    /// What the schedule allows at a moment, as far as the gateway can tell: quotas, courtesy and what people at the site do is the edge's to know.
    pub fn allowed(&self, now: Timestamp) -> Allowance {
        allowed(&self.policy, &self.schedule, now)
    }

    /// What is allowed from one moment to another, in spans in which it stays the same.
    pub fn spans(
        &self,
        from: Timestamp,
        to: Timestamp,
    ) -> impl Iterator<Item = (Timestamp, Timestamp, Allowance)> + '_ {
        let mut at = from;
        std::iter::from_fn(move || {
            (at < to).then(|| {
                let (begins, allowance) = (at, self.allowed(at));
                // A second at least, so that this ends whatever is said.
                let least = begins.checked_add(SignedDuration::from_secs(1)).unwrap_or(to);
                at = allowance.until.unwrap_or(to).max(least).min(to);
                (begins, at, allowance)
            })
        })
    }
}

/// What a policy allows at a moment, as far as the gateway can tell. The schedule was made from the same grid, exceptions and blackouts.
pub(crate) fn allowed(policy: &Policy, schedule: &Schedule, now: Timestamp) -> Allowance {
    let situation = Situation { now, clock: ClockTrust::Synced, quotas: &[], local: &[], grant: None, courtesy: None };
    decide(policy, schedule, &situation)
}
