//! What the gateway itself knows of each site and volume, of each target (`figures/targets.rs`), of releases (`figures/releases.rs`) and of seeds (`figures/seeds.rs`), for Prometheus.
//!
//! A worker looks every half minute, which is as often as anybody scrapes; what is cheap and changes at once (sessions, the last word) is read at the scrape.

mod releases;
mod seeds;
mod targets;

use crate::catalogue::{Catalogue, CatalogueError, Site, Tenant};
use crate::files;
use crate::fleet::{Fleet, Ruled};
use crate::policies::timestamp;
use crate::scrape::MAX_PAGE_VOLUMES;
use crate::seeds::WaitError;
use crate::server::Gateway;
use crate::state::{State, StateError};
use crate::telemetry::{Heard, Telemetry};
use crate::windows::{Windows, Word};
use crate::workers::Board;
use crate::workers::Said;
use dedupe::{BLOCK, Generation, SiteId, TenantId, UnixMillis};
use monitoring::{Page, Registry};
use releases::VersionRow;
use shaping::Rate;
use shaping::policy::ClockTrust;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, RwLock, Weak};
use targets::{MAX_TARGETS, TargetRow};

/// Sites with series of their own: twice as many as one gateway is built for, at 18 series each.
pub(crate) const MAX_SITES: usize = 1_000;
/// Volumes with series of their own, of all sites: eight for each of 500, at 5 series each. With the sites' that is what a Prometheus of 200 MB bears.
const MAX_VOLUMES: usize = 4_000;

/// See the module's documentation.
pub(crate) struct Figures {
    /// Reads policies and keeps their schedules.
    fleet: Fleet,
    bounds: Bounds,
    snapshot: RwLock<Arc<Snapshot>>,
    windows: Mutex<Option<Kept>>,
}

/// How many have series of their own.
#[derive(Clone, Copy)]
struct Bounds {
    sites: usize,
    volumes: usize,
    targets: usize,
}

/// Windows by site: as they are, and as they are kept in the catalogue.
type Kept = HashMap<SiteId, (Windows, Windows)>;

#[derive(Default)]
struct Snapshot {
    sites: Vec<SiteRow>,
    targets: Vec<TargetRow>,
    rollout: Option<releases::RolloutRow>,
    seeds: Vec<seeds::SeedRow>,
    /// Sites, volumes and targets beyond the bounds.
    dropped: usize,
}

struct SiteRow {
    id: SiteId,
    tenant: String,
    name: String,
    seen: Option<UnixMillis>,
    certificate_end: Option<UnixMillis>,
    rules: Option<Rules>,
    /// Version that the edge holds, and whether it refused the one that it was sent.
    held: Option<(u64, bool)>,
    volumes: Vec<VolumeRow>,
    /// What it runs, if it is an appliance that said so.
    version: Option<VersionRow>,
}

/// What the policy in force says.
struct Rules {
    version: u64,
    line: u64,
    cap: f64,
    windows: Windows,
}

struct VolumeRow {
    name: String,
    captured: Option<UnixMillis>,
    limit: Option<u64>,
    /// New and coded bytes of the newest generation that is no seed.
    delta: Option<(u64, u64)>,
    kept: usize,
}

impl Figures {
    pub(crate) fn new(state: Arc<State>) -> Figures {
        Figures {
            fleet: Fleet::new(state, None),
            bounds: Bounds { sites: MAX_SITES, volumes: MAX_VOLUMES, targets: MAX_TARGETS },
            snapshot: RwLock::default(),
            windows: Mutex::default(),
        }
    }

    /// Looks at everything; what stands on the board. Blocks.
    pub(crate) fn look(&self, gateway: &Gateway) -> Said {
        match self.read(&gateway.state) {
            Ok(snapshot) => {
                let sites = snapshot.sites.len();
                let line = Said::new(format!("looked at {sites} sites"), format!("已统计 {sites} 个站点"));
                *self.snapshot.write().expect("it is only replaced") = Arc::new(snapshot);
                line
            }
            Err(error) => {
                tracing::warn!(%error, "the figures of sites cannot be read");
                Said::new(format!("could not read the figures of sites: {error}"), format!("无法读取站点统计：{error}"))
            }
        }
    }

    fn read(&self, state: &State) -> Result<Snapshot, StateError> {
        let mut windows = self.windows.lock().expect("no thread panics while it looks at windows");
        let windows = match &mut *windows {
            Some(windows) => windows,
            none => none.insert(state.catalogue.windows()?.into_iter().map(|(site, row)| (site, (row, row))).collect()),
        };
        let tenants = state.catalogue.tenants()?;
        let mut sites = state.catalogue.sites()?;
        let (ends, mut dropped) = (state.catalogue.certificate_ends()?, sites.len().saturating_sub(self.bounds.sites));
        windows.retain(|id, _| sites.iter().any(|site| site.id == *id));
        sites.truncate(self.bounds.sites);
        let appliances = state.catalogue.appliances()?.into_iter();
        let mut versions: HashMap<SiteId, VersionRow> = appliances.map(|row| (row.site, row.into())).collect();
        let mut rows = Vec::with_capacity(sites.len());
        let mut room = self.bounds.volumes;
        for tenant in &tenants {
            let mut volumes = volumes_of(state, tenant)?;
            for site in sites.iter().filter(|site| site.tenant == tenant.id) {
                let mut row = self.site(state, tenant, site, windows)?;
                row.certificate_end = ends.get(&site.id).copied();
                row.version = versions.remove(&site.id);
                row.volumes = volumes.remove(&site.id).unwrap_or_default();
                dropped += row.volumes.len().saturating_sub(room);
                row.volumes.truncate(room);
                room -= row.volumes.len();
                let heard = state.telemetry.of(site.id);
                dropped += heard.map_or(0, |heard| heard.volumes.len().saturating_sub(MAX_PAGE_VOLUMES));
                self.limit(state, &mut row)?;
                rows.push(row);
            }
        }
        keep(&state.catalogue, windows)?;
        let (targets, more) = targets::read(state, self.bounds.targets)?;
        let (seeds, even_more) = seeds::read(state, seeds::MAX_TENANTS).map_err(|error| match error {
            WaitError::State(error) => error,
            WaitError::Catalogue(error) => error.into(),
            WaitError::File(error) => error.into(),
            // No store is asked for seeds.
            WaitError::Store(source) => StateError::Store { tenant: TenantId([0; 16]), source },
        })?;
        let dropped = dropped + more + even_more;
        Ok(Snapshot { sites: rows, targets, rollout: releases::read(state)?, seeds, dropped })
    }

    fn site(&self, state: &State, tenant: &Tenant, site: &Site, all: &mut Kept) -> Result<SiteRow, StateError> {
        let now = timestamp(state.now());
        let ruled = self.ruled(state, site.id)?;
        let held = state.catalogue.edge_policy(site.id)?;
        let windows = &mut all.entry(site.id).or_default().0;
        let heard = state.telemetry.of(site.id);
        match &ruled {
            Some(ruled) => windows.look(ruled, now, heard.as_deref().map(word)),
            None => windows.rest(now),
        }
        let rules = ruled.map(|ruled| Rules {
            version: ruled.policy.version,
            line: ruled.policy.line.up.bits(),
            cap: match ruled.policy.line.cap.of(ruled.policy.line.up) {
                Rate::Closed => 0.0,
                Rate::Limited(rate) => rate.bits() as f64,
                Rate::Unlimited => f64::INFINITY,
            },
            windows: *windows,
        });
        Ok(SiteRow {
            id: site.id,
            tenant: tenant.name.clone(),
            name: site.name.clone(),
            seen: site.seen,
            certificate_end: None,
            rules,
            held: held.map(|held| (held.version, held.refused.is_some())),
            volumes: Vec::new(),
            version: None,
        })
    }

    fn ruled(&self, state: &State, site: SiteId) -> Result<Option<Arc<Ruled>>, CatalogueError> {
        let row = state.catalogue.policy(site)?;
        Ok(self.fleet.ruled(site, row.as_ref(), timestamp(state.now())))
    }

    /// How old the restore points of a site may become.
    fn limit(&self, state: &State, row: &mut SiteRow) -> Result<(), CatalogueError> {
        let Some(ruled) = self.ruled(state, row.id)? else { return Ok(()) };
        let now = timestamp(state.now());
        for volume in &mut row.volumes {
            let standing = ruled.policy.volume(&volume.name, &[], now, ClockTrust::Synced);
            volume.limit = standing.lag.map(|lag| lag.as_secs());
        }
        Ok(())
    }
}

fn word(heard: &Heard) -> Word {
    Word { at: (heard.at.0 / 1000) as i64, backlog: heard.site.backlog }
}

/// Writes the windows in which something happened, in one transaction.
fn keep(catalogue: &Catalogue, all: &mut Kept) -> Result<(), CatalogueError> {
    let news: Vec<(SiteId, Windows)> =
        all.iter().filter(|(_, (now, kept))| now.is_news(kept)).map(|(site, (now, _))| (*site, *now)).collect();
    if news.is_empty() {
        return Ok(());
    }
    catalogue.keep_windows(&news)?;
    for (site, windows) in news {
        all.insert(site, (windows, windows));
    }
    Ok(())
}

/// The volumes of a tenant's sites, by site and name.
fn volumes_of(state: &State, tenant: &Tenant) -> Result<HashMap<SiteId, Vec<VolumeRow>>, StateError> {
    let store = state.tenant(tenant.id)?;
    let failed = |source| StateError::Store { tenant: tenant.id, source };
    let mut sites: HashMap<SiteId, BTreeMap<String, VolumeRow>> = HashMap::new();
    for lineage in store.store.lineages().map_err(failed)? {
        let Some(site) = lineage.site else { continue };
        let row = volume_row(lineage.name, &store.store.generations(lineage.id).map_err(failed)?);
        let known = sites.entry(site).or_default();
        // A name that is used again is one volume: that of its newest capture.
        if known.get(&row.name).is_none_or(|other| other.captured <= row.captured) {
            known.insert(row.name.clone(), row);
        }
    }
    Ok(sites.into_iter().map(|(site, volumes)| (site, volumes.into_values().collect())).collect())
}

fn volume_row(name: String, generations: &[Generation]) -> VolumeRow {
    let sealed = || generations.iter().filter(|generation| generation.is_sealed());
    let delta = sealed().rev().find(|generation| generation.parent.is_some());
    VolumeRow {
        name,
        captured: sealed().next_back().map(|newest| newest.captured_at),
        limit: None,
        delta: delta.map(|delta| (delta.stats.new_blocks * BLOCK as u64, delta.stats.coded_bytes)),
        kept: sealed().count(),
    }
}

/// Has the registry show all of it.
pub(crate) fn register(registry: &Registry, gateway: &Arc<Gateway>, board: &Arc<Board>) {
    let (gateway, board): (Weak<Gateway>, Arc<Board>) = (Arc::downgrade(gateway), board.clone());
    registry.read_page(move |page| {
        if let Some(gateway) = gateway.upgrade() {
            whole(page, &gateway, &board);
            let snapshot = gateway.figures.snapshot.read().expect("it is only replaced").clone();
            sites(page, &snapshot, &gateway.live.connected_sites(), &gateway.state.telemetry);
            releases::rollout(page, snapshot.rollout.as_ref());
            seeds::page(page, &snapshot.seeds, gateway.state.now());
            targets::page(page, &snapshot.targets, &gateway.state, gateway.state.now());
        }
    });
}

fn sites(page: &mut Page, snapshot: &Snapshot, connected: &HashSet<SiteId>, telemetry: &Telemetry) {
    page.put(
        "sluice_gateway_series_dropped",
        "Sites, volumes and targets that have no series, because there are more than the bounds allow.",
        &[],
        snapshot.dropped as f64,
    );
    for row in &snapshot.sites {
        let heard = telemetry.of(row.id).map(|heard| heard.at);
        site_page(page, row, connected.contains(&row.id), heard);
    }
}

/// The gateway's disk, authority and workers.
fn whole(page: &mut Page, gateway: &Gateway, board: &Board) {
    let folder = gateway.state.folder();
    if let (Ok(free), Ok(size)) = (files::free_bytes(folder), files::disk_bytes(folder)) {
        page.put("sluice_gateway_disk_free_bytes", "Free on the disk of the gateway's state.", &[], free as f64);
        page.put("sluice_gateway_disk_size_bytes", "Size of the disk of the gateway's state.", &[], size as f64);
    }
    if let Some(end) = gateway.state.authorities().end() {
        page.put(
            "sluice_gateway_authority_end_timestamp_seconds",
            "When the certificate of the authority that signs ends.",
            &[],
            seconds(end),
        );
    }
    for (name, runs) in board.runs() {
        let labels = [("worker", name)];
        let alive = f64::from(runs.is_alive);
        page.put("sluice_gateway_worker_running", "0 for a worker that ended unexpectedly.", &labels, alive);
        if let Some(last) = runs.last {
            page.put(
                "sluice_gateway_worker_last_run_timestamp_seconds",
                "When a worker last ended its work.",
                &labels,
                seconds(last),
            );
        }
    }
}

fn site_page(page: &mut Page, row: &SiteRow, is_connected: bool, heard: Option<UnixMillis>) {
    let labels = [("tenant", row.tenant.as_str()), ("site", row.name.as_str())];
    let mut put = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            page.put(name, help, &labels, value);
        }
    };
    put("sluice_gateway_site_connected", "1 while there is a session with the site's edge.", Some(is_connected.into()));
    put(
        "sluice_gateway_site_seen_timestamp_seconds",
        "When a session of the site's edge last began or ended.",
        row.seen.map(seconds),
    );
    put("sluice_gateway_site_heard_timestamp_seconds", "When the site's edge last told of itself.", heard.map(seconds));
    put(
        "sluice_gateway_site_certificate_end_timestamp_seconds",
        "When the last certificate of the site's edge ends.",
        row.certificate_end.map(seconds),
    );
    let rules = row.rules.as_ref();
    let last = rules.and_then(|rules| rules.windows.last);
    put(
        "sluice_gateway_site_window_open",
        "1 while the policy lets data be sent: its schedule, less holds, pauses and blackouts.",
        rules.map(|rules| rules.windows.is_open().into()),
    );
    put(
        "sluice_gateway_site_last_window_start_timestamp_seconds",
        "Begin of the last window of at least half an hour that is over.",
        last.map(|(start, _)| start as f64),
    );
    put(
        "sluice_gateway_site_last_window_end_timestamp_seconds",
        "End of the last window of at least half an hour that is over.",
        last.map(|(_, end)| end as f64),
    );
    put(
        "sluice_gateway_site_windows_behind",
        "Windows in a row that ended with a backlog.",
        rules.map(|rules| rules.windows.behind.into()),
    );
    put(
        "sluice_gateway_site_line_bits_per_second",
        "What the policy says that the line carries towards the gateway.",
        rules.map(|rules| rules.line as f64),
    );
    put(
        "sluice_gateway_site_cap_bits_per_second",
        "The most that the policy ever allows towards the gateway.",
        rules.map(|rules| rules.cap),
    );
    put(
        "sluice_gateway_site_policy_version",
        "Version of the policy in force; 0: none.",
        Some(rules.map_or(0.0, |rules| rules.version as f64)),
    );
    put(
        "sluice_gateway_site_policy_held_version",
        "Version that the site's edge says it holds; 0: none.",
        row.held.map(|(version, _)| version as f64),
    );
    put(
        "sluice_gateway_site_policy_refused",
        "1 while the site's edge refuses the policy that it was sent.",
        row.held.map(|(_, refused)| refused.into()),
    );
    releases::site(page, row);
    for volume in &row.volumes {
        volume_page(page, row, volume);
    }
}

fn volume_page(page: &mut Page, site: &SiteRow, volume: &VolumeRow) {
    let labels = [("tenant", site.tenant.as_str()), ("site", site.name.as_str()), ("volume", volume.name.as_str())];
    let mut put = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            page.put(name, help, &labels, value);
        }
    };
    put(
        "sluice_gateway_restore_point_timestamp_seconds",
        "When the newest generation of the volume that is here was captured.",
        volume.captured.map(seconds),
    );
    put(
        "sluice_gateway_restore_point_limit_seconds",
        "How old the newest restore point may become by the policy.",
        volume.limit.map(|limit| limit as f64),
    );
    put(
        "sluice_gateway_generation_new_bytes",
        "New bytes of the newest generation that is no seed.",
        volume.delta.map(|(new, _)| new as f64),
    );
    put(
        "sluice_gateway_generation_coded_bytes",
        "Bytes of that generation as it travelled.",
        volume.delta.map(|(_, coded)| coded as f64),
    );
    put("sluice_gateway_generations_kept", "Generations of the volume that are here.", Some(volume.kept as f64));
}

fn seconds(at: UnixMillis) -> f64 {
    (at.0 / 1000) as f64
}

#[cfg(test)]
mod tests;
