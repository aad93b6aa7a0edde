//! What the catalogue knows of lines: policies with all their versions, who changed what and why, what edges hold, and the evidence.

use super::{Catalogue, CatalogueError, Table, decode, encode};
use dedupe::{SiteId, UnixMillis};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use wire::message::Minute;

// Keys begin with the site's id; numbers behind it are big endian, so that they sort.
/// Site and version (8 bytes) to [`PolicyRow`]. The greatest version is the one in force; no version is ever removed.
const POLICIES: Table = TableDefinition::new("policies_v1");
/// Site and number (8 bytes, from 1) to [`LineEvent`]. Only ever added to.
const AUDIT: Table = TableDefinition::new("line_audit_v1");
/// Site to [`EdgePolicy`].
const EDGE_POLICIES: Table = TableDefinition::new("edge_policies_v1");
/// Site and hour since 1970 (4 bytes) to its minutes, ascending.
const EVIDENCE: Table = TableDefinition::new("evidence_v1");

pub(super) const TABLES: [Table; 4] = [POLICIES, AUDIT, EDGE_POLICIES, EVIDENCE];

/// One version of a site's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// Its version, from 1.
    pub version: u64,
    /// When it was made.
    pub made: UnixMillis,
    /// Who made it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The document, TOML.
    pub document: String,
}

/// Somebody changed what a line may be used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineEvent {
    /// When.
    pub time: UnixMillis,
    /// Of which site.
    pub site: SiteId,
    /// Who.
    pub actor: String,
    /// What.
    pub what: LineChange,
    /// Why.
    pub reason: String,
    /// The version before; 0: there was none.
    pub from: u64,
    /// The version that it made.
    pub to: u64,
}

/// What was changed. Variants are only ever added at the end: rows of all ages are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LineChange {
    /// A document took the place of the one before.
    PolicySet,
    /// An override was added.
    OverrideAdded {
        /// Its id.
        id: u64,
        /// `pause`, or `boost 2 Mbit/s`.
        bend: String,
        /// From when on.
        from: UnixMillis,
        /// Until when.
        until: UnixMillis,
        /// For one volume only.
        volume: Option<String>,
    },
    /// An override was ended before its time.
    OverrideEnded {
        /// Its id.
        id: u64,
    },
    /// The site is held: nothing is sent until it is released.
    Held,
    /// The hold ended.
    Released,
    /// Days were taken from a calendar.
    HolidaysImported {
        /// Days off.
        off: u32,
        /// Make-up working days.
        working: u32,
    },
    /// The schedule of another document took the place of the one before.
    ScheduleSet,
}

impl fmt::Display for LineChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineChange::PolicySet => f.write_str("policy set"),
            LineChange::OverrideAdded { id, bend, from, until, volume } => {
                write!(f, "override {id}: {bend}")?;
                if let Some(volume) = volume {
                    write!(f, " of volume {}", crate::text::printable(volume))?;
                }
                write!(f, " from {} until {}", crate::text::moment(*from), crate::text::moment(*until))
            }
            LineChange::OverrideEnded { id } => write!(f, "override {id} ended"),
            LineChange::Held => f.write_str("held"),
            LineChange::Released => f.write_str("released"),
            LineChange::HolidaysImported { off, working } => {
                write!(f, "holidays imported: {off} days off, {working} make-up working days")
            }
            LineChange::ScheduleSet => f.write_str("schedule set"),
        }
    }
}

/// Which policy an edge says that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgePolicy {
    /// Its version; 0: none.
    pub version: u64,
    /// Why it refused the one that it was sent.
    pub refused: Option<String>,
    /// When it said so.
    pub at: UnixMillis,
}

impl Catalogue {
    /// Makes a new version of the policies of all these sites, in one transaction: all or none. `change` gets the site, its policy in force
    /// and the version that its edge says it holds, and gives the new one with what is noted about it.
    pub fn change_policies<E>(
        &self,
        sites: &[SiteId],
        mut change: impl FnMut(SiteId, Option<PolicyRow>, u64) -> Result<(PolicyRow, Vec<LineEvent>), E>,
    ) -> Result<Result<Vec<PolicyRow>, E>, CatalogueError> {
        let commit = self.database.begin_write()?;
        let mut made = Vec::with_capacity(sites.len());
        {
            let (mut policies, mut audit) = (commit.open_table(POLICIES)?, commit.open_table(AUDIT)?);
            let edges = commit.open_table(EDGE_POLICIES)?;
            for site in sites {
                let current = newest(&policies, *site)?.map(|(_, row)| decode(&row, "policies")).transpose()?;
                let held = edges.get(site.0.as_slice())?.map(|row| decode::<EdgePolicy>(row.value(), "edge policies"));
                let held = held.transpose()?.map_or(0, |held| held.version);
                let (row, events) = match change(*site, current, held) {
                    Ok(changed) => changed,
                    Err(error) => return Ok(Err(error)), // dropping the transaction takes everything back
                };
                policies.insert(numbered(*site, row.version).as_slice(), encode(&row).as_slice())?;
                let last = newest(&audit, *site)?.map_or(0, |(number, _)| number);
                for (number, event) in (last + 1..).zip(&events) {
                    audit.insert(numbered(*site, number).as_slice(), encode(event).as_slice())?;
                }
                made.push(row);
            }
        }
        commit.commit()?;
        Ok(Ok(made))
    }

    /// Whether any site ever had a policy.
    pub fn has_policies(&self) -> Result<bool, CatalogueError> {
        let table = self.database.begin_read()?.open_table(POLICIES)?;
        Ok(table.iter()?.next().is_some())
    }

    /// The policy of a site that is in force.
    pub fn policy(&self, site: SiteId) -> Result<Option<PolicyRow>, CatalogueError> {
        let table = self.database.begin_read()?.open_table(POLICIES)?;
        newest(&table, site)?.map(|(_, row)| decode(&row, "policies")).transpose()
    }

    /// One version of a site's policy.
    pub fn policy_version(&self, site: SiteId, version: u64) -> Result<Option<PolicyRow>, CatalogueError> {
        self.one(POLICIES, &numbered(site, version), "policies")
    }

    /// Who changed what of a site's line, oldest first.
    pub fn line_events(&self, site: SiteId) -> Result<Vec<LineEvent>, CatalogueError> {
        let table = self.database.begin_read()?.open_table(AUDIT)?;
        let (first, last) = (numbered(site, 0), numbered(site, u64::MAX));
        table.range(first.as_slice()..=last.as_slice())?.map(|row| decode(row?.1.value(), "audit")).collect()
    }

    /// Notes what an edge says that it holds.
    pub fn note_edge_policy(&self, site: SiteId, held: &EdgePolicy) -> Result<(), CatalogueError> {
        self.put(EDGE_POLICIES, &site.0, held)
    }

    /// What a site's edge last said that it holds.
    pub fn edge_policy(&self, site: SiteId) -> Result<Option<EdgePolicy>, CatalogueError> {
        self.one(EDGE_POLICIES, &site.0, "edge policies")
    }

    /// Keeps minutes of a site's line; durable on return. A minute that is there already keeps the greater of both in every figure, so
    /// repeating it is harmless and nothing that was once recorded grows smaller.
    pub fn keep_minutes(&self, site: SiteId, minutes: &[Minute]) -> Result<(), CatalogueError> {
        let mut hours: BTreeMap<u32, Vec<Minute>> = BTreeMap::new();
        minutes.iter().for_each(|minute| hours.entry(minute.minute / 60).or_default().push(*minute));
        let commit = self.database.begin_write()?;
        {
            let mut table = commit.open_table(EVIDENCE)?;
            for (hour, new) in hours {
                let key = hour_key(site, hour);
                let old = table.get(key.as_slice())?.map(|row| decode::<Vec<Minute>>(row.value(), "evidence"));
                let mut all: BTreeMap<u32, Minute> =
                    old.transpose()?.unwrap_or_default().into_iter().map(|minute| (minute.minute, minute)).collect();
                for minute in new {
                    all.entry(minute.minute).and_modify(|known| *known = greater(*known, minute)).or_insert(minute);
                }
                let row: Vec<Minute> = all.into_values().collect();
                table.insert(key.as_slice(), encode(&row).as_slice())?;
            }
        }
        Ok(commit.commit()?)
    }

    /// The minutes of a site that are recorded from `from` to `to` (exclusive), minutes since 1970, ascending.
    pub fn each_minute(
        &self,
        site: SiteId,
        from: u32,
        to: u32,
        mut each: impl FnMut(Minute),
    ) -> Result<(), CatalogueError> {
        if from >= to {
            return Ok(());
        }
        let table = self.database.begin_read()?.open_table(EVIDENCE)?;
        let (first, last) = (hour_key(site, from / 60), hour_key(site, (to - 1) / 60));
        for row in table.range(first.as_slice()..=last.as_slice())? {
            let minutes: Vec<Minute> = decode(row?.1.value(), "evidence")?;
            minutes.into_iter().filter(|minute| (from..to).contains(&minute.minute)).for_each(&mut each);
        }
        Ok(())
    }

    /// Drops evidence of hours that were over before `before`, minutes since 1970; returns how many hours.
    pub fn drop_minutes(&self, before: u32) -> Result<usize, CatalogueError> {
        let sites = self.sites()?;
        let commit = self.database.begin_write()?;
        let mut dropped = 0;
        {
            let mut table = commit.open_table(EVIDENCE)?;
            for site in sites {
                let (first, end) = (hour_key(site.id, 0), hour_key(site.id, before / 60));
                table.retain_in(first.as_slice()..end.as_slice(), |_, _| {
                    dropped += 1;
                    false
                })?;
            }
        }
        commit.commit()?;
        Ok(dropped)
    }
}

/// The row of a site with the greatest number.
fn newest(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    site: SiteId,
) -> Result<Option<(u64, Vec<u8>)>, CatalogueError> {
    let (first, last) = (numbered(site, 0), numbered(site, u64::MAX));
    let Some(row) = table.range(first.as_slice()..=last.as_slice())?.next_back() else { return Ok(None) };
    let (key, value) = row?;
    let number = key.value().last_chunk().map(|number| u64::from_be_bytes(*number));
    Ok(Some((number.ok_or(CatalogueError::Corrupt("policies"))?, value.value().to_vec())))
}

fn numbered(site: SiteId, number: u64) -> Vec<u8> {
    [site.0.as_slice(), &number.to_be_bytes()].concat()
}

fn hour_key(site: SiteId, hour: u32) -> Vec<u8> {
    [site.0.as_slice(), &hour.to_be_bytes()].concat()
}

fn greater(one: Minute, other: Minute) -> Minute {
    Minute {
        minute: one.minute,
        sent: one.sent.max(other.sent),
        received: one.received.max(other.received),
        allowed: one.allowed.max(other.allowed),
        peak: one.peak.max(other.peak),
        reason: other.reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::token::Token;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn catalogue() -> (Catalogue, SiteId, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::create(&dir.path().join("catalogue.redb")).unwrap();
        let tenant = catalogue.tenant("bank", NOW).unwrap();
        let token = Token::random(vec!["gw:1".into()], [0; 32]);
        let site = catalogue.add_token(&tenant, "b1", &token, NOW, NOW).unwrap().id;
        (catalogue, site, dir)
    }

    fn version(site: SiteId, number: u64) -> (PolicyRow, Vec<LineEvent>) {
        let (actor, reason) = (String::from("li"), format!("reason {number}"));
        let event = LineEvent {
            time: NOW,
            site,
            actor: actor.clone(),
            what: LineChange::PolicySet,
            reason: reason.clone(),
            from: number - 1,
            to: number,
        };
        (PolicyRow { version: number, made: NOW, actor, reason, document: format!("version = {number}") }, vec![event])
    }

    fn minute(minute: u32, sent: u32) -> Minute {
        Minute { minute, sent, received: 1, allowed: 9, peak: 2, reason: 0 }
    }

    #[test]
    fn every_version_and_event_is_kept_and_the_newest_is_in_force() {
        let (catalogue, site, _dir) = catalogue();
        let other = SiteId([0xff; 16]);
        assert_eq!(catalogue.policy(site).unwrap(), None);
        for number in [1, 2, 300] {
            let made = catalogue.change_policies(&[site], |site, current, held| {
                assert_eq!((current.is_some(), held), (number > 1, 0));
                Ok::<_, ()>(version(site, number))
            });
            assert_eq!(made.unwrap().unwrap()[0].version, number);
        }
        assert_eq!(catalogue.policy(site).unwrap().unwrap().version, 300);
        assert_eq!(catalogue.policy_version(site, 2).unwrap().unwrap().document, "version = 2");
        assert_eq!(catalogue.policy_version(site, 3).unwrap(), None);
        assert_eq!(catalogue.policy(other).unwrap(), None, "another site's are not mixed in");
        let events = catalogue.line_events(site).unwrap();
        assert_eq!(events.iter().map(|event| event.to).collect::<Vec<_>>(), [1, 2, 300]);
        // One site of several that is refused takes the others with it.
        let refused =
            catalogue.change_policies(
                &[site, other],
                |site, _, _| {
                    if site == other { Err("no") } else { Ok(version(site, 301)) }
                },
            );
        assert_eq!(refused.unwrap(), Err("no"));
        assert_eq!(catalogue.policy(site).unwrap().unwrap().version, 300);
        assert_eq!(catalogue.line_events(site).unwrap().len(), 3);
    }

    #[test]
    fn evidence_is_merged_found_and_dropped_by_hour() {
        let (catalogue, site, dir) = catalogue();
        catalogue.keep_minutes(site, &[minute(118, 5), minute(119, 5), minute(120, 5)]).unwrap();
        catalogue.keep_minutes(site, &[minute(119, 3), minute(120, 8), minute(121, 1)]).unwrap();
        let found = |catalogue: &Catalogue, from, to| {
            let mut found = Vec::new();
            catalogue.each_minute(site, from, to, |minute| found.push((minute.minute, minute.sent))).unwrap();
            found
        };
        assert_eq!(found(&catalogue, 0, 1000), [(118, 5), (119, 5), (120, 8), (121, 1)]);
        assert_eq!(found(&catalogue, 119, 121), [(119, 5), (120, 8)]);
        assert_eq!(found(&catalogue, 5, 5), []);
        let copy = dir.path().join("copy.redb");
        catalogue.copy_to(&copy).unwrap();
        assert_eq!(found(&Catalogue::open(&copy).unwrap(), 0, 1000).len(), 4);
        assert_eq!(catalogue.drop_minutes(119).unwrap(), 0, "the hour is not over");
        assert_eq!(catalogue.drop_minutes(120).unwrap(), 1);
        assert_eq!(found(&catalogue, 0, 1000), [(120, 8), (121, 1)]);
    }
}
