//! What edges tell of themselves: the latest word of each site, for pages, the API and Prometheus.

use dedupe::{LineageId, SiteId, UnixMillis};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};
use wire::telemetry::{SiteFigures, VolumeFigures};

/// The latest word of one site's edge.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// When it came, by the gateway's clock.
    pub at: UnixMillis,
    /// Of the site.
    pub site: SiteFigures,
    /// Of its volumes, each as it was told last.
    pub volumes: BTreeMap<LineageId, VolumeFigures>,
}

/// The latest word of every site.
#[derive(Debug, Default)]
pub struct Telemetry {
    heard: RwLock<HashMap<SiteId, Arc<Heard>>>,
}

impl Telemetry {
    /// What a site's edge told last; `None`: nothing since its state was made.
    pub fn of(&self, site: SiteId) -> Option<Arc<Heard>> {
        self.heard.read().expect("no thread panics while it reads what was heard").get(&site).cloned()
    }
}
