//! One volume, in short.

use crate::catalogue::Tenant;
use crate::seeds;
use crate::state::{State, StateError};
use dedupe::{BLOCK, SiteId};
use serde::Serialize;
use std::collections::HashMap;
use utoipa::ToSchema;
use wire::telemetry::VolumeState;

/// A volume of a site, in short.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct VolumeBrief {
    /// Its name.
    pub name: String,
    /// Its lineage: stays when a name is used again.
    pub lineage: String,
    /// What is done with it, as its edge says.
    pub doing: VolumeDoing,
    /// When its newest generation here was captured, seconds since 1970; absent: there is none yet.
    pub restore_point: Option<u64>,
    /// Number of that generation.
    pub latest: Option<u64>,
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes that were new in its newest generation here.
    pub new_bytes: u64,
    /// Bytes as that generation travelled.
    pub coded_bytes: u64,
    /// Bytes that the newest capture found changed; absent: its edge has not said.
    pub changed: Option<u64>,
    /// Coded bytes that still have to cross, as far as its edge can tell.
    pub left: u64,
    /// When they will have crossed, seconds since 1970; absent: nothing is on its way, or nobody can tell.
    pub arrives: Option<u64>,
    /// When a newer generation has to be here by its policy, seconds since 1970.
    pub deadline: Option<u64>,
    /// Parcels of a generation that is arriving.
    pub arriving: Option<u32>,
    /// Where its seed is, if that travels on media and is not over: `exported`, `shipped`, ….
    pub seed: Option<String>,
    /// Generations that are complete here and wait for that seed: not to be used before it is in.
    pub waiting: usize,
}

/// What is done with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeDoing {
    /// Its edge has not said.
    Unknown,
    /// The gateway has its newest generation.
    UpToDate,
    /// It was never captured.
    NeverCaptured,
    /// It is being captured.
    Capturing,
    /// It waits for the line or for a session.
    Waiting,
    /// It is on its way.
    Sending,
    /// The gateway verifies what was sent.
    Verifying,
    /// It waits behind others, or is held.
    Behind,
    /// Something that passes holds it back.
    Troubled,
    /// It is stopped until a person helps.
    Stopped,
}

impl From<VolumeState> for VolumeDoing {
    fn from(state: VolumeState) -> VolumeDoing {
        match state {
            VolumeState::UpToDate => VolumeDoing::UpToDate,
            VolumeState::NeverCaptured => VolumeDoing::NeverCaptured,
            VolumeState::Capturing => VolumeDoing::Capturing,
            VolumeState::Waiting => VolumeDoing::Waiting,
            VolumeState::Sending => VolumeDoing::Sending,
            VolumeState::Verifying => VolumeDoing::Verifying,
            VolumeState::Behind => VolumeDoing::Behind,
            VolumeState::Troubled => VolumeDoing::Troubled,
            VolumeState::Stopped => VolumeDoing::Stopped,
        }
    }
}

/// The volumes of a tenant's sites, by site, each by name.
pub(super) fn of_tenant(state: &State, tenant: &Tenant) -> Result<HashMap<SiteId, Vec<VolumeBrief>>, StateError> {
    let store = state.tenant(tenant.id)?;
    let failed = |source| StateError::Store { tenant: tenant.id, source };
    let mut of_lineages = seeds::of_lineages(&state.catalogue)?;
    let mut by_site: HashMap<SiteId, Vec<VolumeBrief>> = HashMap::new();
    for lineage in store.store.lineages().map_err(failed)? {
        let Some(site) = lineage.site else { continue };
        let generations = store.store.generations(lineage.id).map_err(failed)?;
        let seeds = of_lineages.remove(&lineage.id).unwrap_or_default();
        let latest = generations.iter().rev().find(|generation| generation.is_sealed());
        let draft = generations.iter().find(|generation| !generation.is_sealed());
        let heard = state.telemetry.of(site);
        let told = heard.as_ref().and_then(|heard| heard.volumes.get(&lineage.id));
        let known = |second: u32| (second > 0).then_some(u64::from(second));
        by_site.entry(site).or_default().push(VolumeBrief {
            name: lineage.name,
            lineage: lineage.id.to_string(),
            doing: told.map_or(VolumeDoing::Unknown, |told| told.state.into()),
            restore_point: latest.map(|generation| generation.captured_at.0 / 1000),
            latest: latest.map(|generation| generation.number),
            size: told.map(|told| told.size).or(latest.map(|generation| generation.size.0)).unwrap_or(0),
            new_bytes: latest.map_or(0, |generation| generation.stats.new_blocks * BLOCK as u64),
            coded_bytes: latest.map_or(0, |generation| generation.stats.coded_bytes),
            changed: told.map(|told| told.changed),
            left: told.map_or(0, |told| told.left),
            arrives: told.and_then(|told| known(told.arrives)),
            deadline: told.and_then(|told| known(told.deadline)),
            arriving: draft.map(|draft| draft.stats.parcels),
            seed: seeds.seed,
            waiting: seeds.waiting,
        });
    }
    by_site.values_mut().for_each(|volumes| volumes.sort_by(|a, b| a.name.cmp(&b.name)));
    Ok(by_site)
}
