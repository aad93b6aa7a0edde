//! The edge's figures. Names and units follow the rules of `monitoring`.

use crate::link::{Link, LinkState};
use crate::volume::Volume;
use dedupe::{ParcelStats, UnixMillis};
use monitoring::{IntCounter, IntCounterVec, IntGaugeVec, MetricError, Registry};
use shaping::MeterReading;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Figures that the daemon's tasks count. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    parcels: IntCounterVec,
    parcel_bytes: IntCounterVec,
    /// Microseconds.
    code_cpu: Arc<AtomicU64>,
    handed_over: IntCounterVec,
    marks: IntCounter,
    captures: IntCounterVec,
    read: IntCounter,
    source: IntCounter,
    demoted: IntGaugeVec,
    held: IntGaugeVec,
    dirty: IntCounter,
    /// Microseconds.
    capture_cpu: Arc<AtomicU64>,
    /// Captures are told of in [`crate::figures`].
    sealed: IntGaugeVec,
}

impl Metrics {
    /// Registers all counters.
    pub fn new(registry: &Registry) -> Result<Metrics, MetricError> {
        Ok(Metrics {
            parcels: registry.counters(
                "sluice_edge_parcels_total",
                "Parcels by what happened to them: coded, sent, acknowledged, refused, damaged (in the spool), recoded.",
                &["state"],
            )?,
            parcel_bytes: registry.counters(
                "sluice_edge_parcel_bytes_total",
                "Bytes of parcels: of the volume (fresh, copied, zeroed), and as coded.",
                &["kind"],
            )?,
            code_cpu: seconds(registry, "sluice_edge_code_cpu_seconds_total", "CPU time of planning and coding parcels.")?,
            handed_over: registry.counters(
                "sluice_edge_volume_sent_bytes_total",
                "Bytes of the volume's parcels that were handed to the line, also those that had to come again.",
                &["volume"],
            )?,
            marks: registry.counter("sluice_edge_marks_asked_total", "Marks that the gateway was asked for.")?,
            captures: registry.counters("sluice_edge_captures_total", "Captures by how they ended.", &["result"])?,
            read: registry.counter("sluice_edge_capture_read_bytes_total", "Bytes of volumes that captures covered.")?,
            source: registry.counter(
                "sluice_edge_capture_source_bytes_total",
                "Bytes that captures read from their sources: less than they covered where changes are followed.",
            )?,
            demoted: registry.gauges(
                "sluice_edge_volume_tracker_demoted",
                "1 while the change tracker of the volume's source is not believed, because it missed changes.",
                &["volume"],
            )?,
            held: registry.gauges(
                "sluice_edge_volume_held_for_seed",
                "1 while the newest generation of the volume does not go to the gateway, or waits there, for its seed's sake.",
                &["volume"],
            )?,
            dirty: registry.counter("sluice_edge_capture_dirty_bytes_total", "Bytes that captures found changed.")?,
            capture_cpu: seconds(registry, "sluice_edge_capture_cpu_seconds_total", "CPU time of captures.")?,
            sealed: registry.gauges(
                "sluice_edge_volume_last_timestamp_seconds",
                "When a generation of the volume was last captured here, and last sealed at the gateway.",
                &["volume", "event"],
            )?,
        })
    }

    pub(crate) fn coded(&self, stats: &ParcelStats, len: u64, cpu: Duration) {
        self.parcels.with_label_values(&["coded"]).inc();
        for (kind, bytes) in [
            ("fresh", stats.fresh_bytes),
            ("copied", stats.copied_bytes),
            ("zeroed", stats.zeroed_bytes),
            ("coded", len),
        ] {
            self.parcel_bytes.with_label_values(&[kind]).inc_by(bytes);
        }
        self.code_cpu.fetch_add(cpu.as_micros() as u64, Ordering::Relaxed);
    }

    pub(crate) fn handed_over(&self, volume: &str, bytes: u64) {
        self.handed_over.with_label_values(&[volume]).inc_by(bytes);
    }

    pub(crate) fn sent(&self) {
        self.parcels.with_label_values(&["sent"]).inc();
    }

    pub(crate) fn acknowledged(&self) {
        self.parcels.with_label_values(&["acknowledged"]).inc();
    }

    pub(crate) fn refused(&self) {
        self.parcels.with_label_values(&["refused"]).inc();
    }

    pub(crate) fn damaged(&self) {
        self.parcels.with_label_values(&["damaged"]).inc();
    }

    pub(crate) fn recoded(&self) {
        self.parcels.with_label_values(&["recoded"]).inc();
    }

    pub(crate) fn asked(&self, marks: usize) {
        self.marks.inc_by(marks as u64);
    }

    pub(crate) fn captured(&self, captured: &crate::capture::Captured) {
        self.captures.with_label_values(&["sealed"]).inc();
        self.read.inc_by(captured.generation.size.0);
        self.source.inc_by(captured.read_bytes);
        self.dirty.inc_by(captured.dirty_bytes);
        self.capture_cpu.fetch_add(captured.cpu.as_micros() as u64, Ordering::Relaxed);
    }

    pub(crate) fn held_for_seed(&self, volume: &str, is: bool) {
        self.held.with_label_values(&[volume]).set(is.into());
    }

    pub(crate) fn demoted(&self, volume: &str, is: bool) {
        self.demoted.with_label_values(&[volume]).set(is.into());
    }

    pub(crate) fn capture_failed(&self) {
        self.captures.with_label_values(&["failed"]).inc();
    }

    pub(crate) fn sealed(&self, volume: &str, at: UnixMillis) {
        self.sealed.with_label_values(&[volume, "sealed"]).set((at.0 / 1000) as i64);
    }

    /// Takes a removed volume's figures away.
    pub(crate) fn forget(&self, volume: &str) {
        let _ = self.handed_over.remove_label_values(&[volume]);
        let _ = self.demoted.remove_label_values(&[volume]);
        let _ = self.held.remove_label_values(&[volume]);
        // It may never have been set.
        let _ = self.sealed.remove_label_values(&[volume, "sealed"]);
    }
}

/// A counter of microseconds, shown as seconds.
fn seconds(registry: &Registry, name: &str, help: &str) -> Result<Arc<AtomicU64>, MetricError> {
    let micros = Arc::new(AtomicU64::new(0));
    let read = micros.clone();
    registry.read_counter(name, help, &[], move || read.load(Ordering::Relaxed) as f64 / 1e6)?;
    Ok(micros)
}

/// Registers what the line knows itself, by connection, and what the caches may take. What the gateway is told too comes from [`crate::figures`].
pub(crate) fn register(registry: &Registry, link: &Link, config: &crate::Config) -> Result<(), MetricError> {
    for (connection, of) in [("control", control as fn(&Link) -> MeterReading), ("data", data)] {
        for (direction, bytes, datagrams) in [
            ("up", sent as fn(MeterReading) -> u64, sent_datagrams as fn(MeterReading) -> u64),
            ("down", received, received_datagrams),
        ] {
            let labels = [("connection", connection), ("direction", direction)];
            let (line, same) = (link.clone(), link.clone());
            registry.read_counter(
                "sluice_link_ip_bytes_total",
                "Bytes at IP level since the start: payload, headers, acknowledgements, retransmissions, handshakes.",
                &labels,
                move || bytes(of(&line)) as f64,
            )?;
            registry.read_counter("sluice_link_datagrams_total", "Datagrams since the start.", &labels, move || {
                datagrams(of(&same)) as f64
            })?;
        }
    }
    let line = link.clone();
    registry.read_gauge("sluice_link_connected", "1 while there is a session with a gateway.", &[], move || {
        f64::from(matches!(line.state(), LinkState::Connected { .. }))
    })?;
    let budget = config.budget();
    let parts = [
        ("index", budget.index_cache),
        ("records", budget.record_cache),
        ("pack", budget.pack),
        ("encoder", budget.encoder),
    ];
    for (part, bytes) in parts {
        registry.read_gauge(
            "sluice_edge_memory_budget_bytes",
            "What each part may use of the memory ceiling.",
            &[("part", part)],
            move || bytes as f64,
        )?;
    }
    Ok(())
}

/// Seeds the volume's timestamp from what the state remembers, so that a restart does not look like never.
pub(crate) fn remember(metrics: &Metrics, volume: &Weak<Volume>) {
    let Some(volume) = volume.upgrade() else { return };
    metrics.demoted(&volume.entry.name, volume.capture().demoted.is_some());
    metrics.held_for_seed(&volume.entry.name, volume.sender.borrow().hold.is_some());
    let sealed = volume.sender.borrow().acknowledged;
    if let Some((sealed, _)) = sealed {
        metrics.sealed(&volume.entry.name, sealed.at);
    }
}

fn control(link: &Link) -> MeterReading {
    link.meters().control.unwrap_or_default()
}

fn data(link: &Link) -> MeterReading {
    link.meters().data.unwrap_or_default()
}

fn sent(reading: MeterReading) -> u64 {
    reading.sent_bytes
}

fn received(reading: MeterReading) -> u64 {
    reading.received_bytes
}

fn sent_datagrams(reading: MeterReading) -> u64 {
    reading.sent_datagrams
}

fn received_datagrams(reading: MeterReading) -> u64 {
    reading.received_datagrams
}
