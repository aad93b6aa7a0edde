//! What the catalogue keeps of targets, of runs onto them, of standing orders, of exports and of domains. Rows are JSON: they hold settings of many kinds, and a person with a
//! damaged gateway may have to read what lies in a cloud.

use super::{Catalogue, CatalogueError, NewProof, Table};
use crate::admin::DomainRow;
use crate::export::ExportRow;
use crate::rehydrate::places::Place;
use crate::rehydrate::runs::{Phase, Proven, Run, Standing};
use dedupe::{LineageId, RunId, TenantId};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use targets::Point;

/// Tenant and name to [`Place`].
const TARGETS: Table = TableDefinition::new("targets_v1");
/// [`RunId`] to [`Run`].
const RUNS: Table = TableDefinition::new("runs_v1");
/// Tenant, lineage and name of a target to [`Standing`].
const STANDING: Table = TableDefinition::new("standing_v1");

/// Name to [`ExportRow`].
const EXPORTS: Table = TableDefinition::new("exports_v1");

/// Name to [`DomainRow`].
const DOMAINS: Table = TableDefinition::new("domains_v1");

pub(super) const TABLES: [Table; 5] = [TARGETS, RUNS, STANDING, EXPORTS, DOMAINS];

/// Runs that are over and still known, of the whole gateway: a year of 40 volumes a night would be 14,600.
const MOST_OVER: usize = 5000;

impl Catalogue {
    /// All targets, by tenant and name.
    pub fn targets(&self) -> Result<Vec<Place>, CatalogueError> {
        self.all_json(TARGETS, "targets")
    }

    /// One target.
    pub fn target(&self, tenant: TenantId, name: &str) -> Result<Option<Place>, CatalogueError> {
        self.one_json(TARGETS, &target_key(tenant, name), "targets")
    }

    /// Adds a target or changes it.
    pub fn put_target(&self, place: &Place) -> Result<(), CatalogueError> {
        self.put_json(TARGETS, &target_key(place.tenant, &place.name), place)
    }

    /// Removes a target and the standing orders for it. What it holds stays where it is.
    pub fn remove_target(&self, tenant: TenantId, name: &str) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        {
            commit.open_table(TARGETS)?.remove(target_key(tenant, name).as_slice())?;
            let mut standing = commit.open_table(STANDING)?;
            let mut gone = Vec::new();
            for row in standing.range(tenant.0.as_slice()..)? {
                let (key, value) = row?;
                if !key.value().starts_with(&tenant.0) {
                    break;
                }
                if decode::<Standing>(value.value(), "standing")?.target == name {
                    gone.push(key.value().to_vec());
                }
            }
            for key in gone {
                standing.remove(key.as_slice())?;
            }
        }
        Ok(commit.commit()?)
    }

    /// All runs that are known, in no order.
    pub fn runs(&self) -> Result<Vec<Run>, CatalogueError> {
        self.all_json(RUNS, "runs")
    }

    /// One run.
    pub fn run(&self, id: RunId) -> Result<Option<Run>, CatalogueError> {
        self.one_json(RUNS, &id.0, "runs")
    }

    /// Adds a run or changes it.
    pub fn put_run(&self, run: &Run) -> Result<(), CatalogueError> {
        self.put_json(RUNS, &run.work.run.0, run)
    }

    /// Ends a run with its point, and keeps the statement about it, in one transaction. Returns the statement's number.
    pub fn finish_run(
        &self,
        mut run: Run,
        point: Point,
        proven: Proven,
        statement: NewProof,
    ) -> Result<u64, CatalogueError> {
        let commit = self.database.begin_write()?;
        let number = super::proofs::insert(&commit, statement)?.number;
        run.phase = Phase::Finished { point, proven, statement: number };
        commit.open_table(RUNS)?.insert(run.work.run.0.as_slice(), encode(&run).as_slice())?;
        commit.commit()?;
        Ok(number)
    }

    /// Forgets the oldest runs that are over, beyond what is kept.
    pub fn tidy_runs(&self) -> Result<(), CatalogueError> {
        let mut over: Vec<_> = self.runs()?.into_iter().filter_map(|run| Some((run.ended?, run.work.run))).collect();
        over.sort_unstable();
        let commit = self.database.begin_write()?;
        {
            let mut table = commit.open_table(RUNS)?;
            for (_, id) in over.iter().take(over.len().saturating_sub(MOST_OVER)) {
                table.remove(id.0.as_slice())?;
            }
        }
        Ok(commit.commit()?)
    }

    /// All standing orders, by tenant, volume and target.
    pub fn standing(&self) -> Result<Vec<Standing>, CatalogueError> {
        self.all_json(STANDING, "standing")
    }

    /// Gives a standing order or changes it.
    pub fn put_standing(&self, order: &Standing) -> Result<(), CatalogueError> {
        self.put_json(STANDING, &standing_key(order.tenant, order.image.lineage, &order.target), order)
    }

    /// Ends a standing order; says whether there was one.
    pub fn end_standing(&self, tenant: TenantId, lineage: LineageId, target: &str) -> Result<bool, CatalogueError> {
        let commit = self.database.begin_write()?;
        let found = commit.open_table(STANDING)?.remove(standing_key(tenant, lineage, target).as_slice())?.is_some();
        commit.commit()?;
        Ok(found)
    }

    /// All domains, by name.
    pub fn domains(&self) -> Result<Vec<DomainRow>, CatalogueError> {
        self.all_json(DOMAINS, "domains")
    }

    /// Adds a domain or changes it.
    pub fn put_domain(&self, row: &DomainRow) -> Result<(), CatalogueError> {
        self.put_json(DOMAINS, row.name.as_bytes(), row)
    }

    /// Removes a domain.
    pub fn remove_domain(&self, name: &str) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        commit.open_table(DOMAINS)?.remove(name.as_bytes())?;
        Ok(commit.commit()?)
    }

    /// All exports, by name.
    pub fn exports(&self) -> Result<Vec<ExportRow>, CatalogueError> {
        self.all_json(EXPORTS, "exports")
    }

    /// Adds an export or changes it.
    pub fn put_export(&self, row: &ExportRow) -> Result<(), CatalogueError> {
        self.put_json(EXPORTS, row.name.as_bytes(), row)
    }

    /// Removes an export.
    pub fn remove_export(&self, name: &str) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        commit.open_table(EXPORTS)?.remove(name.as_bytes())?;
        Ok(commit.commit()?)
    }

    pub(super) fn all_json<T: DeserializeOwned>(
        &self,
        table: Table,
        name: &'static str,
    ) -> Result<Vec<T>, CatalogueError> {
        let table = self.database.begin_read()?.open_table(table)?;
        table.iter()?.map(|row| decode(row?.1.value(), name)).collect()
    }

    pub(super) fn one_json<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
        name: &'static str,
    ) -> Result<Option<T>, CatalogueError> {
        let table = self.database.begin_read()?.open_table(table)?;
        table.get(key)?.map(|row| decode(row.value(), name)).transpose()
    }

    pub(super) fn put_json<T: Serialize>(&self, table: Table, key: &[u8], row: &T) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        commit.open_table(table)?.insert(key, encode(row).as_slice())?;
        Ok(commit.commit()?)
    }
}

fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows are plain JSON")
}

fn decode<T: DeserializeOwned>(bytes: &[u8], name: &'static str) -> Result<T, CatalogueError> {
    serde_json::from_slice(bytes).map_err(|_| CatalogueError::Corrupt(name))
}

fn target_key(tenant: TenantId, name: &str) -> Vec<u8> {
    [&tenant.0[..], name.as_bytes()].concat()
}

fn standing_key(tenant: TenantId, lineage: LineageId, target: &str) -> Vec<u8> {
    [&tenant.0[..], &lineage.0[..], target.as_bytes()].concat()
}
