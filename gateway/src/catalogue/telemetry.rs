//! What the catalogue keeps of what edges told, so that a restart of the gateway does not look like silence of them all.

use super::{Catalogue, CatalogueError, Table, decode, encode};
use crate::telemetry::Heard;
use crate::windows::Windows;
use dedupe::SiteId;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::HashMap;
use std::sync::Arc;

/// Site to [`Heard`]. A cache of words: a row that this build cannot read is left out, and written anew within a minute.
const HEARD: Table = TableDefinition::new("heard_v1");

/// Site to [`Windows`]. One that cannot be read begins anew.
const WINDOWS: Table = TableDefinition::new("windows_v1");

pub(super) const TABLES: [Table; 2] = [HEARD, WINDOWS];

impl Catalogue {
    /// The latest word of each site that told something.
    pub fn heard(&self) -> Result<Vec<(SiteId, Heard)>, CatalogueError> {
        let table = self.database.begin_read()?.open_table(HEARD)?;
        let mut all = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            match (<[u8; 16]>::try_from(key.value()), decode(value.value(), "telemetry")) {
                (Ok(site), Ok(heard)) => all.push((SiteId(site), heard)),
                _ => tracing::debug!("the latest word of a site was written by another version and is left out"),
            }
        }
        Ok(all)
    }

    /// The windows of each site that was looked at.
    pub fn windows(&self) -> Result<HashMap<SiteId, Windows>, CatalogueError> {
        let table = self.database.begin_read()?.open_table(WINDOWS)?;
        let mut all = HashMap::new();
        for row in table.iter()? {
            let (key, value) = row?;
            if let (Ok(site), Ok(windows)) = (<[u8; 16]>::try_from(key.value()), decode(value.value(), "windows")) {
                all.insert(SiteId(site), windows);
            }
        }
        Ok(all)
    }

    /// Keeps the windows of these sites, in one transaction.
    pub fn keep_windows(&self, windows: &[(SiteId, Windows)]) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        {
            let mut table = commit.open_table(WINDOWS)?;
            for (site, windows) in windows {
                table.insert(site.0.as_slice(), encode(windows).as_slice())?;
            }
        }
        Ok(commit.commit()?)
    }

    /// Keeps the latest words of these sites, and drops those of others, in one transaction.
    pub fn keep_heard(&self, words: &[(SiteId, Arc<Heard>)], gone: &[SiteId]) -> Result<(), CatalogueError> {
        let commit = self.database.begin_write()?;
        {
            let mut table = commit.open_table(HEARD)?;
            for (site, heard) in words {
                table.insert(site.0.as_slice(), encode(&**heard).as_slice())?;
            }
            let mut windows = commit.open_table(WINDOWS)?;
            for site in gone {
                table.remove(site.0.as_slice())?;
                windows.remove(site.0.as_slice())?;
            }
        }
        Ok(commit.commit()?)
    }
}
