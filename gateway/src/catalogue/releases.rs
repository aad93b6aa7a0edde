//! Releases of the appliance's system: those that were imported, what each site runs and ran, and roll-outs.

use super::people::last_number;
use super::{Catalogue, CatalogueError, Table, decode, encode};
use crate::releases::engine::Rollout;
use crate::releases::history::Entry;
use dedupe::{GenerationId, LineageId, SiteId, UnixMillis};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use wire::release::{Appliance, ReleaseId};

/// [`ReleaseId`] (32 bytes) to [`ReleaseRow`].
const RELEASES: Table = TableDefinition::new("releases_v1");
/// Number (8 bytes, big endian, from 1) to [`Rollout`].
const ROLLOUTS: Table = TableDefinition::new("rollouts_v1");
/// Site (16 bytes) to [`ApplianceRow`].
const APPLIANCES: Table = TableDefinition::new("appliances_v1");

pub(super) const TABLES: [Table; 3] = [RELEASES, ROLLOUTS, APPLIANCES];

/// A release that was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRow {
    /// Which.
    pub id: ReleaseId,
    /// Its manifest's file, as it was signed.
    pub manifest: String,
    /// The lineage in the store of releases that holds its image alone.
    pub lineage: LineageId,
    /// The generation that is its image.
    pub generation: GenerationId,
    /// Bytes that the store grew by.
    pub stored: u64,
    /// When it was imported.
    pub imported: UnixMillis,
    /// Who imported it.
    pub by: String,
}

/// What a site's appliance said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplianceRow {
    /// The site.
    pub site: SiteId,
    /// What it said last.
    pub report: Appliance,
    /// When it said that.
    pub at: UnixMillis,
    /// Since when it runs what it runs, as far as was heard here.
    pub since: UnixMillis,
    /// Since when what it fetches now was heard of, and how many bytes of it were there then.
    pub fetch: Option<(UnixMillis, u64)>,
    /// What became of other versions there, oldest first.
    pub history: Vec<Entry>,
}

impl Catalogue {
    /// Keeps a release.
    pub fn put_release(&self, row: &ReleaseRow) -> Result<(), CatalogueError> {
        self.put(RELEASES, &row.id.0, row)
    }

    /// All releases, in no order that matters.
    pub fn releases(&self) -> Result<Vec<ReleaseRow>, CatalogueError> {
        self.all(RELEASES, "releases")
    }

    /// One of them.
    pub fn release(&self, id: ReleaseId) -> Result<Option<ReleaseRow>, CatalogueError> {
        self.one(RELEASES, &id.0, "releases")
    }

    /// Knows a release no more.
    pub fn remove_release(&self, id: ReleaseId) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        commit.open_table(RELEASES)?.remove(id.0.as_slice())?;
        Ok(commit.commit()?)
    }

    /// Begins a roll-out; gives it its number.
    pub fn add_rollout(&self, mut rollout: Rollout) -> Result<Rollout, CatalogueError> {
        let commit = self.database.begin_write()?;
        {
            let mut table = commit.open_table(ROLLOUTS)?;
            rollout.number = last_number(&table)? + 1;
            table.insert(rollout.number.to_be_bytes().as_slice(), encode(&rollout).as_slice())?;
        }
        commit.commit()?;
        Ok(rollout)
    }

    /// Keeps what became of a roll-out.
    pub fn put_rollout(&self, rollout: &Rollout) -> Result<(), CatalogueError> {
        self.put(ROLLOUTS, &rollout.number.to_be_bytes(), rollout)
    }

    /// All roll-outs, oldest first.
    pub fn rollouts(&self) -> Result<Vec<Rollout>, CatalogueError> {
        self.all(ROLLOUTS, "roll-outs")
    }

    /// One of them.
    pub fn rollout(&self, number: u64) -> Result<Option<Rollout>, CatalogueError> {
        self.one(ROLLOUTS, &number.to_be_bytes(), "roll-outs")
    }

    /// The one that began last: no other gives orders.
    pub fn last_rollout(&self) -> Result<Option<Rollout>, CatalogueError> {
        let table = self.database.begin_read()?.open_table(ROLLOUTS)?;
        table.last()?.map(|(_, row)| decode(row.value(), "roll-outs")).transpose()
    }

    /// What the appliance of each site said last.
    pub fn appliances(&self) -> Result<Vec<ApplianceRow>, CatalogueError> {
        self.all(APPLIANCES, "appliances")
    }

    /// What the appliance of a site said last.
    pub fn appliance(&self, site: SiteId) -> Result<Option<ApplianceRow>, CatalogueError> {
        self.one(APPLIANCES, &site.0, "appliances")
    }

    /// Keeps what an appliance said.
    pub fn put_appliance(&self, row: &ApplianceRow) -> Result<(), CatalogueError> {
        self.put(APPLIANCES, &row.site.0, row)
    }
}
