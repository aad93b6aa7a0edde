//! The shell around [`engine`](super::engine): reads what sites said, keeps what comes of it, writes it down, and tells edges.
//!
//! Only the roll-out that began last gives orders. What it says of a site is computed each time from its row and what the site said last, so nothing that is
//! kept can contradict it; what each connected site was told last is in memory, and a site that connects says what it runs and is told anew.

use super::engine::{Event, Known, MAX_RING, MAX_SOAK, Rollout, SOAK, State as Standing, Step, is_late};
use super::{ReleasesError, history};
use crate::catalogue::{ApplianceRow, CatalogueError, NewAudit};
use crate::live::{Live, Told};
use crate::state::State;
use dedupe::{SiteId, UnixMillis};
use std::collections::{BTreeMap, HashMap, HashSet};
use wire::message::FromGateway;
use wire::release::{Appliance, Order, ReleaseId, Role, Stage};

/// Orders that sites are to be told: `None`: that there is none any more.
pub(crate) type Orders = Vec<(SiteId, Option<Order>)>;

/// What a roll-out is begun with.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    /// Version or root hash.
    pub(crate) release: &'a str,
    /// The sites of the first ring, one at least.
    pub(crate) pilots: Vec<SiteId>,
    /// Those of the second; `None`: up to ten, those that are connected first.
    pub(crate) second: Option<Vec<SiteId>>,
    /// Time between rings; `None`: a day.
    pub(crate) soak_hours: Option<u32>,
    pub(crate) by: &'a str,
    pub(crate) reason: &'a str,
}

/// Notes what the appliance of a site says of itself; gives the order that holds for it, and those of others that changed with that. Blocks.
pub(crate) fn note(
    state: &State,
    connected: &HashSet<SiteId>,
    site: SiteId,
    report: Appliance,
) -> Result<(Option<Order>, Orders), ReleasesError> {
    let _turn = state.releases.turn();
    let now = state.now();
    let before = state.catalogue.appliance(site)?;
    let names: HashMap<ReleaseId, String> = versions(state)?;
    let news = history::news(before.as_ref().map(|row| &row.report), &report, now, |id| names.get(&id).cloned());
    let unchanged = before.as_ref().filter(|row| row.report.release == report.release);
    let since = unchanged.map_or(now, |row| row.since);
    let fetch = fetch_of(before.as_ref(), &report, now);
    let mut history = before.map(|row| row.history).unwrap_or_default();
    history.extend(news);
    history.drain(..history.len().saturating_sub(history::MOST));
    state.catalogue.put_appliance(&ApplianceRow { site, report, at: now, since, fetch, history })?;
    let mut others = look_on(state, connected)?;
    let order = order_of(state, site)?;
    lock_told(state).insert(site, order.as_ref().map(|order| order.rollout));
    others.retain(|(other, _)| *other != site);
    Ok((order, others))
}

/// Where a fetch was when it was first heard of: what is left is reckoned from there.
fn fetch_of(before: Option<&ApplianceRow>, report: &Appliance, now: UnixMillis) -> Option<(UnixMillis, u64)> {
    let Stage::Fetching { release, done, .. } = &report.stage else { return None };
    let same =
        before.filter(|row| matches!(&row.report.stage, Stage::Fetching { release: other, .. } if other == release));
    same.and_then(|row| row.fetch).or(Some((now, *done)))
}

/// Lets the roll-out take in the time and what sites said; gives what changed for connected sites. Blocks.
pub(crate) fn look(state: &State, connected: &HashSet<SiteId>) -> Result<Orders, ReleasesError> {
    let _turn = state.releases.turn();
    look_on(state, connected)
}

fn look_on(state: &State, connected: &HashSet<SiteId>) -> Result<Orders, ReleasesError> {
    let Some(mut rollout) = state.catalogue.last_rollout()? else { return Ok(Vec::new()) };
    let (now, fleet, before) = (state.now(), fleet(state, connected)?, rollout.clone());
    let events = rollout.take(now, &fleet);
    write_down(state, &rollout, &events)?;
    if rollout != before {
        state.catalogue.put_rollout(&rollout)?;
    }
    changed(state, &rollout, &fleet)
}

/// Orders of sites that are others than they were told.
fn changed(state: &State, rollout: &Rollout, fleet: &[Known]) -> Result<Orders, ReleasesError> {
    let mut told = lock_told(state);
    let mut orders = Vec::new();
    for known in fleet {
        let number = rollout.orders(known).then(|| rollout.order_number());
        if let Some(last) = told.get_mut(&known.site)
            && *last != number
        {
            *last = number;
            let order = if number.is_some() { order_in(state, rollout)? } else { None };
            orders.push((known.site, order));
        }
    }
    Ok(orders)
}

/// Tells edges. One that is away hears when it comes: it says what it runs then. Must be called within the runtime.
pub(crate) fn tell(state: &State, live: &Live, orders: Orders) {
    for (site, order) in orders {
        tracing::info!(%site, ordered = order.is_some(), "a site is told what it is to run");
        if live.tell(site, FromGateway::Release(order)) != Told::Sent {
            lock_told(state).remove(&site);
        }
    }
}

/// The release that a site is to run now. Blocks.
pub(crate) fn ordered(state: &State, site: SiteId) -> Result<Option<ReleaseId>, ReleasesError> {
    let Some(rollout) = state.catalogue.last_rollout()? else { return Ok(None) };
    let report = state.catalogue.appliance(site)?.map(|row| row.report);
    let known = Known { site, report, seen: None };
    Ok(rollout.orders(&known).then_some(rollout.release))
}

fn order_of(state: &State, site: SiteId) -> Result<Option<Order>, ReleasesError> {
    match (ordered(state, site)?, state.catalogue.last_rollout()?) {
        (Some(_), Some(rollout)) => order_in(state, &rollout),
        _ => Ok(None),
    }
}

fn order_in(state: &State, rollout: &Rollout) -> Result<Option<Order>, ReleasesError> {
    let row = state.catalogue.release(rollout.release)?;
    Ok(row.map(|row| Order { manifest: row.manifest, rollout: rollout.order_number() }))
}

/// Sites that are not revoked, with what their appliances said. Blocks.
pub(crate) fn fleet(state: &State, connected: &HashSet<SiteId>) -> Result<Vec<Known>, CatalogueError> {
    let now = state.now();
    let mut reports: HashMap<SiteId, Appliance> =
        state.catalogue.appliances()?.into_iter().map(|row| (row.site, row.report)).collect();
    let sites = state.catalogue.sites()?.into_iter().filter(|site| site.revoked.is_none());
    let known = sites.map(|site| Known {
        site: site.id,
        report: reports.remove(&site.id),
        seen: if connected.contains(&site.id) { Some(now) } else { site.seen },
    });
    Ok(known.collect())
}

/// Versions of the releases that are here.
pub(crate) fn versions(state: &State) -> Result<HashMap<ReleaseId, String>, ReleasesError> {
    let rows = state.catalogue.releases()?.into_iter();
    rows.map(|row| Ok((row.id, row.read()?.version))).collect()
}

// ---- what people do with it

/// Begins a roll-out. Blocks.
pub(crate) fn start(state: &State, connected: &HashSet<SiteId>, plan: &Plan<'_>) -> Result<Rollout, ReleasesError> {
    let _turn = state.releases.turn();
    if let Some(last) = state.catalogue.last_rollout()?
        && !last.state.is_over()
    {
        return Err(ReleasesError::NotOver { number: last.number, state: last.state.word() });
    }
    let (row, manifest) = state.find_release(plan.release)?;
    if manifest.role != Role::Edge {
        return Err(ReleasesError::NotForEdges(manifest.version));
    }
    let (now, fleet) = (state.now(), fleet(state, connected)?);
    let second = match &plan.second {
        Some(named) => named.clone(),
        None => next_ring(&fleet, &plan.pilots, manifest.sequence, connected, now),
    };
    check_ring(state, &fleet, &plan.pilots, manifest.sequence)?;
    check_ring(state, &fleet, &second, manifest.sequence)?;
    let rings = |why: &str| Err(ReleasesError::Rings(why.into()));
    if plan.pilots.is_empty() || plan.pilots.len() > MAX_RING || second.len() > MAX_RING {
        return rings("name from 1 to 10 sites for the first ring, and up to 10 for the second");
    }
    if plan.pilots.iter().any(|site| second.contains(site)) {
        return rings("a site is in one ring alone: leave those of the first out of the second");
    }
    let soak = plan.soak_hours.map_or(SOAK, |hours| u64::from(hours) * 3_600_000);
    if soak > MAX_SOAK {
        return rings("between rings may pass up to 720 hours, which is 30 days");
    }
    let mut rollout = Rollout {
        number: 0,
        release: row.id,
        version: manifest.version,
        sequence: manifest.sequence,
        rings: vec![plan.pilots.clone(), second],
        soak,
        by: plan.by.to_owned(),
        reason: plan.reason.to_owned(),
        started: now,
        state: Standing::Running,
        since: now,
        opened: Vec::new(),
        proved: None,
        attempt: 0,
        marks: BTreeMap::new(),
    };
    rollout.begin(&fleet);
    Ok(state.catalogue.add_rollout(rollout)?)
}

/// The second ring, where nobody names it: those that are connected first.
fn next_ring(
    fleet: &[Known],
    pilots: &[SiteId],
    sequence: u64,
    connected: &HashSet<SiteId>,
    now: UnixMillis,
) -> Vec<SiteId> {
    let gains = |known: &&Known| known.report.as_ref().is_some_and(|report| report.sequence < sequence);
    let mut others: Vec<&Known> =
        fleet.iter().filter(gains).filter(|known| !pilots.contains(&known.site) && !is_late(known, now)).collect();
    others.sort_by_key(|known| !connected.contains(&known.site));
    others.into_iter().take(MAX_RING).map(|known| known.site).collect()
}

/// Whether each site of a ring could prove something.
fn check_ring(state: &State, fleet: &[Known], ring: &[SiteId], sequence: u64) -> Result<(), ReleasesError> {
    for site in ring {
        let name =
            || Ok::<_, CatalogueError>(state.catalogue.site(*site)?.map_or_else(|| site.to_string(), |site| site.name));
        let report = fleet.iter().find(|known| known.site == *site).and_then(|known| known.report.as_ref());
        match report {
            None => return Err(ReleasesError::NoAppliance(name()?)),
            Some(report) if report.sequence >= sequence => {
                return Err(ReleasesError::Newer { site: name()?, version: report.version.clone() });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Holds the roll-out that runs. Blocks.
pub(crate) fn pause(state: &State, number: Option<u64>, (by, reason): (&str, &str)) -> Result<Rollout, ReleasesError> {
    change(
        state,
        number,
        "running",
        |rollout| matches!(rollout.state, Standing::Running),
        |rollout, now| {
            (rollout.state, rollout.since) = (Standing::Paused { by: by.to_owned(), reason: reason.to_owned() }, now);
        },
    )
}

/// Lets the roll-out that is paused or stopped go on; `retry`: sites that failed try again, otherwise it goes on without them. Blocks.
pub(crate) fn resume(
    state: &State,
    number: Option<u64>,
    connected: &HashSet<SiteId>,
    (retry, reason): (bool, &str),
) -> Result<Rollout, ReleasesError> {
    let fleet = fleet(state, connected)?;
    let stopped = state.catalogue.last_rollout()?.is_some_and(|last| matches!(last.state, Standing::Stopped { .. }));
    if stopped && reason.trim().is_empty() {
        return Err(ReleasesError::NoReason);
    }
    let rests = |rollout: &Rollout| matches!(rollout.state, Standing::Paused { .. } | Standing::Stopped { .. });
    change(state, number, "paused or stopped", rests, |rollout, now| match rollout.state {
        Standing::Stopped { .. } => rollout.go_on_after_stop(now, retry, &fleet),
        _ => rollout.go_on(now),
    })
}

/// Ends the roll-out. Blocks.
pub(crate) fn cancel(state: &State, number: Option<u64>, (by, reason): (&str, &str)) -> Result<Rollout, ReleasesError> {
    // One that is done may be ended, too: sites that come late then stay as they are.
    let open = |rollout: &Rollout| !matches!(rollout.state, Standing::Cancelled { .. });
    change(state, number, "there to be cancelled", open, |rollout, now| {
        (rollout.state, rollout.since) = (Standing::Cancelled { by: by.to_owned(), reason: reason.to_owned() }, now);
    })
}

fn change(
    state: &State,
    number: Option<u64>,
    what: &'static str,
    fits: impl Fn(&Rollout) -> bool,
    change: impl FnOnce(&mut Rollout, UnixMillis),
) -> Result<Rollout, ReleasesError> {
    let _turn = state.releases.turn();
    let last = state.catalogue.last_rollout()?;
    if let Some(number) = number
        && last.as_ref().is_none_or(|last| last.number != number)
    {
        // An earlier one gives no orders any more.
        return Err(ReleasesError::NotLast(number));
    }
    let mut rollout = last.filter(fits).ok_or(ReleasesError::NoneIs(what))?;
    change(&mut rollout, state.now());
    state.catalogue.put_rollout(&rollout)?;
    Ok(rollout)
}

/// Whether a release has to stay: a roll-out or a site needs it. Blocks.
pub(crate) fn check_unused(state: &State, id: ReleaseId, version: &str) -> Result<(), ReleasesError> {
    if let Some(last) = state.catalogue.last_rollout()?
        && last.release == id
        && !matches!(last.state, Standing::Cancelled { .. })
    {
        return Err(ReleasesError::RolledOut { version: version.to_owned(), rollout: last.number });
    }
    let running: HashSet<SiteId> =
        state.catalogue.appliances()?.into_iter().filter(|row| row.report.release == id).map(|row| row.site).collect();
    let names: Vec<String> =
        state.catalogue.sites()?.into_iter().filter(|site| running.contains(&site.id)).map(|site| site.name).collect();
    match names.len() {
        0 => Ok(()),
        count => {
            let more = if count > 3 { format!(" and {} more", count - 3) } else { String::new() };
            let sites = format!("{}{more}", names[..count.min(3)].join(", "));
            Err(ReleasesError::Runs { version: version.to_owned(), sites })
        }
    }
}

// ---- what is written down

/// Writes what a roll-out did by itself into the audit log.
fn write_down(state: &State, rollout: &Rollout, events: &[Event]) -> Result<(), CatalogueError> {
    for event in events {
        let (site, what, detail, outcome) = match event {
            Event::Opened(ring) => (None, "rollout.ring", format!("ring {ring} is open"), "done"),
            Event::Proved(ring) => (None, "rollout.ring", format!("ring {ring} is proved"), "done"),
            Event::Confirmed(site) => (Some(site), "rollout.site", "runs the release, confirmed".into(), "done"),
            Event::Failed(site, failure) => {
                let what = if failure.fell_back { "fell back" } else { "could not take it" };
                (Some(site), "rollout.site", format!("{what}: {}", crate::text::printable(&failure.why)), "failed")
            }
            Event::Stopped(site) => (Some(site), "rollout.stop", "stopped by itself".into(), "done"),
            Event::Done => (None, "rollout.done", "every ring is proved".into(), "done"),
        };
        let site = site.map(|site| state.catalogue.site(*site)).transpose()?.flatten();
        let tenants = state.catalogue.tenants()?;
        let tenant = site.as_ref().and_then(|site| tenants.iter().find(|tenant| tenant.id == site.tenant));
        let at = site.as_ref().map(|site| format!(" at {}", site.name)).unwrap_or_default();
        tracing::info!(rollout = rollout.number, version = rollout.version, what, at, detail, "roll-out");
        state.catalogue.audit(NewAudit {
            time: state.now(),
            actor: rollout.by.clone(),
            via: crate::access::Via::Order.word(),
            tenant: tenant.map(|tenant| tenant.name.clone()).unwrap_or_default(),
            what,
            object: format!("roll-out {} of {}{at}", rollout.number, rollout.version),
            detail,
            outcome,
        })?;
    }
    Ok(())
}

/// Sites of a roll-out with how far each is, those of the first ring first.
pub(crate) fn steps(rollout: &Rollout, fleet: &[Known]) -> Vec<(usize, SiteId, Step)> {
    let mut steps: Vec<_> = fleet
        .iter()
        .filter(|known| known.report.is_some())
        .map(|known| (rollout.ring_of(known.site), known.site, rollout.step_of(known)))
        .collect();
    steps.sort_by_key(|(ring, _, _)| *ring);
    steps
}

fn lock_told(state: &State) -> std::sync::MutexGuard<'_, HashMap<SiteId, Option<u64>>> {
    state.releases.told.lock().expect("numbers are only set and looked up")
}
