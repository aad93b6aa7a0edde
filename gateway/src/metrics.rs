//! The gateway's figures for `/metrics`.

use crate::state::State;
use dedupe::StoreStats;
use monitoring::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, MetricError, Registry};
use shaping::Shaper;
use std::sync::Arc;
use wire::message::Refusal;

/// Upper bounds of the seconds that a parcel takes: from a small delta to 64 MiB of seed on a slow disk.
const INGEST_SECONDS: [f64; 10] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 20.0];

/// Milliseconds after which something that was due and is not done is late: the worker comes each hour, and a large store takes some.
const LATE: u64 = 6 * 3_600_000;

/// Counted where things happen.
#[derive(Debug)]
pub struct Metrics {
    /// Sites with a control session.
    pub sites: IntGauge,
    /// Sites that are read no faster than they were granted.
    pub braked: IntGauge,
    /// How often one began to be.
    pub brakes: IntCounter,
    /// Parcels taken in.
    pub parcels: IntCounter,
    /// Their bytes as they came.
    pub parcel_bytes: IntCounter,
    /// Bytes of parcels that went back to sites.
    pub fetched_bytes: IntCounter,
    /// Bytes of parts of releases that went to sites.
    pub release_bytes: IntCounter,
    /// What they decoded to.
    pub raw_bytes: IntCounter,
    /// How long each took to be decoded, verified and stored.
    pub ingest_seconds: Histogram,
    /// Generations sealed.
    pub sealed: IntCounter,
    /// What was refused, by reason.
    pub refusals: IntCounterVec,
    /// Enrolments, by outcome.
    pub enrolments: IntCounterVec,
    /// Damages that scrubs found.
    pub damages: IntCounter,
    /// Those that were mended, from a second copy here or with the edge's blocks.
    pub mended: IntCounter,
    /// Generations that locks hold, as of the last look.
    pub locked: IntGauge,
    /// Bytes that packs take, per tenant.
    store_bytes: IntGaugeVec,
    /// Generations and drafts, per tenant.
    generations: IntGaugeVec,
}

impl Metrics {
    /// Registers everything.
    pub fn register(registry: &Registry, shaper: &Shaper) -> Result<Arc<Metrics>, MetricError> {
        for (direction, read) in [
            ("up", (|m: shaping::MeterReading| m.received_bytes) as fn(shaping::MeterReading) -> u64),
            ("down", |m| m.sent_bytes),
        ] {
            let shaper = shaper.clone();
            registry.read_counter(
                "sluice_gateway_ip_bytes_total",
                "IP-level bytes of all connections of edges; up is from the edges.",
                &[("direction", direction)],
                move || read(shaper.meter()) as f64,
            )?;
        }
        Ok(Arc::new(Metrics {
            sites: registry.gauge("sluice_gateway_sites_connected", "Sites with a control session.")?,
            braked: registry.gauge(
                "sluice_gateway_sites_braked",
                "Sites that sent faster than they were granted and are read no faster than that.",
            )?,
            brakes: registry.counter(
                "sluice_gateway_brakes_total",
                "How often a site began to be read no faster than it was granted.",
            )?,
            parcels: registry.counter("sluice_gateway_parcels_total", "Parcels decoded, verified and stored.")?,
            parcel_bytes: registry
                .counter("sluice_gateway_parcel_bytes_total", "Bytes of those parcels as they came.")?,
            fetched_bytes: registry.counter(
                "sluice_gateway_fetched_bytes_total",
                "Bytes of parcels that sites fetched to restore volumes.",
            )?,
            release_bytes: registry.counter(
                "sluice_gateway_release_bytes_total",
                "Bytes of parts of releases that sites fetched to upgrade.",
            )?,
            raw_bytes: registry
                .counter("sluice_gateway_ingested_bytes_total", "Bytes that those parcels decoded to.")?,
            ingest_seconds: registry.histogram(
                "sluice_gateway_ingest_seconds",
                "Time to decode, verify and store one parcel.",
                &INGEST_SECONDS,
            )?,
            sealed: registry
                .counter("sluice_gateway_generations_sealed_total", "Generations verified and made visible.")?,
            refusals: refusals(registry)?,
            enrolments: registry.counters("sluice_gateway_enrolments_total", "Attempts to enrol.", &["outcome"])?,
            damages: registry.counter("sluice_gateway_damages_total", "Damages of packs that scrubs found.")?,
            mended: registry.counter(
                "sluice_gateway_damages_mended_total",
                "Damages that were mended: from a second copy here, or with blocks that an edge sent.",
            )?,
            locked: registry
                .gauge("sluice_gateway_locked_generations", "Generations that locks hold, as of the last look.")?,
            store_bytes: registry.gauges("sluice_gateway_store_bytes", "Bytes of packs.", &["tenant", "class"])?,
            generations: registry.gauges("sluice_gateway_generations", "Generations and drafts kept.", &["tenant"])?,
        }))
    }

    /// What was agreed on and waits for its time, read when somebody asks.
    pub fn register_pending(registry: &Registry, state: &Arc<State>) -> Result<(), MetricError> {
        let pending = |state: &State, late: bool| {
            let now = state.now().0;
            let open = state.catalogue.pendings().unwrap_or_default().into_iter().filter(|pending| pending.is_open());
            open.filter(|pending| !late || pending.due.0 + LATE < now).count() as f64
        };
        let (all, late) = (state.clone(), state.clone());
        registry.read_gauge(
            "sluice_gateway_deletions_pending",
            "Deletions, unlocks and decommissionings that were agreed on and wait for their time.",
            &[],
            move || pending(&all, false),
        )?;
        registry.read_gauge(
            "sluice_gateway_deletions_late",
            "Those of them whose time came more than six hours ago.",
            &[],
            move || pending(&late, true),
        )
    }

    /// Counts a refusal.
    pub fn refused(&self, why: &Refusal) {
        self.refusals.with_label_values(&[reason(why)]).inc();
    }

    /// Counts what a scrub found.
    pub fn scrubbed(&self, found: &[dedupe::Damage]) {
        self.damages.inc_by(found.len() as u64);
        self.mended.inc_by(found.iter().filter(|damage| damage.mended).count() as u64);
    }

    /// Takes the stores' figures down. Blocks.
    pub fn read_stores(&self, state: &State) {
        for tenant in state.open_tenants() {
            let name =
                state.catalogue.tenants().ok().and_then(|all| all.into_iter().find(|known| known.id == tenant.id));
            match (name, tenant.store.stats()) {
                (Some(name), Ok(stats)) => self.set_store(&name.name, &stats),
                (_, Err(error)) => tracing::warn!(tenant = %tenant.id, %error, "the figures of a store cannot be read"),
                (None, _) => {}
            }
        }
    }

    fn set_store(&self, tenant: &str, stats: &StoreStats) {
        let figure = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.store_bytes.with_label_values(&[tenant, "data"]).set(figure(stats.data_bytes));
        self.store_bytes.with_label_values(&[tenant, "records"]).set(figure(stats.meta_bytes));
        self.generations.with_label_values(&[tenant]).set(figure(stats.generations));
    }
}

/// What can be refused: all values of the label.
const REFUSALS: [&str; 11] = [
    "wrong_base",
    "wrong_root",
    "missing_base",
    "damaged",
    "out_of_order",
    "no_room",
    "revoked",
    "cloned",
    "foreign",
    "protocol",
    "internal",
];

/// Every reason is there with 0 from the start: who looks at the increase of a counter does not see its first value.
fn refusals(registry: &Registry) -> Result<IntCounterVec, MetricError> {
    let refusals = registry.counters("sluice_gateway_refusals_total", "What edges were refused.", &["reason"])?;
    for reason in REFUSALS {
        refusals.with_label_values(&[reason]);
    }
    Ok(refusals)
}

/// The label under which a refusal is counted.
fn reason(why: &Refusal) -> &'static str {
    match why {
        Refusal::WrongBase { .. } => "wrong_base",
        Refusal::WrongRoot(_) => "wrong_root",
        Refusal::MissingBase(_) => "missing_base",
        Refusal::Damaged(_) => "damaged",
        Refusal::OutOfOrder { .. } => "out_of_order",
        Refusal::NoRoom(_) => "no_room",
        Refusal::Revoked => "revoked",
        Refusal::Cloned => "cloned",
        Refusal::Foreign => "foreign",
        Refusal::Protocol(_) => "protocol",
        Refusal::Internal(_) => "internal",
    }
}
