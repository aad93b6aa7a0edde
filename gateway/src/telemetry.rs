//! What edges tell of themselves: the latest word of each site, for pages, the API and Prometheus.
//!
//! ```text
//!   session ── hear ──► Telemetry ──► of: whoever asks
//!                           │ ▲
//!       once a minute, keep ▼ │ load, at the start
//!                        catalogue
//! ```

use crate::catalogue::{Catalogue, CatalogueError};
use crate::state::{State, TenantStore};
use dedupe::{LineageId, SiteId, StoreError, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use wire::telemetry::{SiteFigures, VolumeFigures};

/// An edge tells of itself once a minute; one that has not for three times that is not heard.
pub const SILENT_AFTER: Duration = Duration::from_secs(180);

/// The latest word of one site's edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// When it came, by the gateway's clock.
    pub at: UnixMillis,
    /// Of the site.
    pub site: SiteFigures,
    /// Of its volumes, each as it was told last.
    pub volumes: BTreeMap<LineageId, VolumeFigures>,
}

impl Heard {
    /// Whether the edge has been silent since for longer than it should.
    pub fn is_silent(&self, now: UnixMillis) -> bool {
        now.0.saturating_sub(self.at.0) > SILENT_AFTER.as_millis() as u64
    }
}

/// The latest word of every site.
#[derive(Debug, Default)]
pub struct Telemetry {
    words: RwLock<Words>,
}

#[derive(Debug, Default)]
struct Words {
    heard: HashMap<SiteId, Arc<Heard>>,
    /// Heard since words were last kept.
    news: HashSet<SiteId>,
}

impl Telemetry {
    /// What was heard before the gateway was started.
    pub fn load(catalogue: &Catalogue) -> Result<Telemetry, CatalogueError> {
        let heard = catalogue.heard()?.into_iter().map(|(site, heard)| (site, Arc::new(heard))).collect();
        Ok(Telemetry { words: RwLock::new(Words { heard, news: HashSet::new() }) })
    }

    /// What a site's edge told last; `None`: nothing since its state was made.
    pub fn of(&self, site: SiteId) -> Option<Arc<Heard>> {
        self.read().heard.get(&site).cloned()
    }

    /// An edge told this of its site.
    pub fn hear(&self, site: SiteId, heard: Heard) {
        let mut words = self.write();
        words.heard.insert(site, Arc::new(heard));
        words.news.insert(site);
    }

    /// Keeps what is new for a restart, and drops the words of sites that are no more, in one transaction. How many were kept. Blocks.
    pub fn keep(&self, catalogue: &Catalogue) -> Result<usize, CatalogueError> {
        let sites: HashSet<SiteId> = catalogue.sites()?.into_iter().map(|site| site.id).collect();
        let (news, gone) = {
            let words = self.read();
            let new = |site: &SiteId| Some((*site, words.heard.get(site)?.clone()));
            let gone: Vec<SiteId> = words.heard.keys().filter(|site| !sites.contains(site)).copied().collect();
            (words.news.iter().filter(|site| sites.contains(site)).filter_map(new).collect::<Vec<_>>(), gone)
        };
        if news.is_empty() && gone.is_empty() {
            return Ok(0);
        }
        catalogue.keep_heard(&news, &gone)?;
        let mut words = self.write();
        for site in &gone {
            words.heard.remove(site);
            words.news.remove(site);
        }
        for (site, kept) in &news {
            // What came meanwhile is kept the next time.
            if words.heard.get(site).is_some_and(|heard| Arc::ptr_eq(heard, kept)) {
                words.news.remove(site);
            }
        }
        Ok(news.len())
    }

    fn read(&self) -> RwLockReadGuard<'_, Words> {
        self.words.read().expect("no thread panics while it changes what was heard")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Words> {
        self.words.write().expect("no thread panics while it changes what was heard")
    }
}

/// Takes what an edge told of its site in. Only volumes that are the site's own count: what it says of others is nobody's word. Blocks.
pub(crate) fn take_in(
    state: &State,
    tenant: &TenantStore,
    site: SiteId,
    figures: SiteFigures,
    volumes: Vec<VolumeFigures>,
) -> Result<(), StoreError> {
    let mut own = BTreeMap::new();
    for volume in volumes {
        let lineage = tenant.store.lineage(volume.lineage)?;
        if lineage.is_some_and(|lineage| lineage.site == Some(site)) {
            own.insert(volume.lineage, volume);
        }
    }
    state.telemetry.hear(site, Heard { at: state.now(), site: figures, volumes: own });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Tenant;
    use wire::token::Token;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn heard(uptime: u32) -> Heard {
        let volume = VolumeFigures {
            lineage: LineageId([4; 16]),
            state: wire::telemetry::VolumeState::Sending,
            captured: 1,
            size: 2,
            changed: 3,
            raw: 4,
            coded: 5,
            left: 6,
            arrives: 7,
            deadline: 8,
            class: 0,
            weight: 9,
        };
        let site = SiteFigures { uptime, quotas: vec![(1, 2)], ..SiteFigures::default() };
        Heard { at: NOW, site, volumes: BTreeMap::from([(volume.lineage, volume)]) }
    }

    fn site(catalogue: &Catalogue, tenant: &Tenant, name: &str) -> SiteId {
        let token = Token::random(vec!["gw:1".into()], [0; 32]);
        catalogue.add_token(tenant, name, &token, NOW, NOW).unwrap().id
    }

    #[test]
    fn the_latest_word_survives_a_restart_and_that_of_an_unknown_site_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::create(&dir.path().join("catalogue.redb")).unwrap();
        let tenant = catalogue.tenant("bank", NOW).unwrap();
        let (one, two, stranger) = (site(&catalogue, &tenant, "1"), site(&catalogue, &tenant, "2"), SiteId([9; 16]));
        let telemetry = Telemetry::load(&catalogue).unwrap();
        assert_eq!(telemetry.of(one), None);
        for (site, uptime) in [(one, 60), (two, 60), (one, 120), (stranger, 1)] {
            telemetry.hear(site, heard(uptime));
        }
        assert_eq!(telemetry.keep(&catalogue).unwrap(), 2);
        assert_eq!(telemetry.keep(&catalogue).unwrap(), 0, "only news is written");
        assert_eq!(telemetry.of(stranger), None);
        let again = Telemetry::load(&catalogue).unwrap();
        assert_eq!(again.of(one).as_deref(), Some(&heard(120)));
        assert_eq!(again.of(two).as_deref(), Some(&heard(60)));
        assert_eq!(again.of(stranger), None);
    }

    #[test]
    fn an_edge_is_silent_after_three_minutes() {
        let heard = heard(60);
        assert!(!heard.is_silent(UnixMillis(NOW.0 + 180_000)));
        assert!(heard.is_silent(UnixMillis(NOW.0 + 180_001)));
        assert!(!heard.is_silent(UnixMillis(0)), "a clock that went back");
    }
}
