//! The registry: makes metrics with names that follow the rules, reads all of them for the exposition.

use crate::page::Page;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Why a metric could not be registered or read.
#[derive(Debug, thiserror::Error)]
pub enum MetricError {
    /// The name breaks a naming rule of this crate. A programming error.
    #[error("metric name `{name}` {rule}")]
    Name {
        /// The name as given.
        name: String,
        /// The rule, as the rest of a sentence that begins with the name.
        rule: &'static str,
    },
    /// A metric of that name and these labels exists, or one of that name with other labels or help. A programming error.
    #[error("cannot register metric `{name}`")]
    Register {
        /// The name.
        name: String,
        /// What the registry says.
        source: prometheus::Error,
    },
    /// The exposition could not be written.
    #[error("cannot write the metrics' exposition")]
    Expose(#[from] prometheus::Error),
}

/// All metrics of one daemon. A clone is the same registry.
#[derive(Clone, Default)]
pub struct Registry {
    inner: prometheus::Registry,
    pages: Arc<RwLock<Vec<Fill>>>,
}

/// Puts samples on the page.
type Fill = Arc<dyn Fn(&mut Page) + Send + Sync>;

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// A count that only grows. `name` ends in `_total`.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricError> {
        self.own(name, Kind::Counter, IntCounter::new(name, help))
    }

    /// One [`counter`](Self::counter) for each combination of label values.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricError> {
        self.own(name, Kind::Counter, IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A figure that goes up and down.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricError> {
        self.own(name, Kind::Other, IntGauge::new(name, help))
    }

    /// One [`gauge`](Self::gauge) for each combination of label values.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricError> {
        self.own(name, Kind::Other, IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A distribution, counted in buckets with these upper bounds (ascending, in the unit of the name).
    pub fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> Result<Histogram, MetricError> {
        let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec()));
        self.own(name, Kind::Other, made)
    }

    /// One [`histogram`](Self::histogram) for each combination of label values.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec, MetricError> {
        let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(bounds.to_vec()), labels);
        self.own(name, Kind::Other, made)
    }

    /// A counter that someone else keeps, read when asked for: `read` must be quick and never go down. `labels` are pairs of name and value; the
    /// same name may be registered again with other values, for example once per connection. May be fractional, as CPU seconds are.
    pub fn read_counter(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Result<(), MetricError> {
        self.own(name, Kind::Counter, Reading::new(name, help, labels, MetricType::COUNTER, read)).map(drop)
    }

    /// Like [`read_counter`](Self::read_counter), for a figure that goes up and down.
    pub fn read_gauge(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Result<(), MetricError> {
        self.own(name, Kind::Other, Reading::new(name, help, labels, MetricType::GAUGE, read)).map(drop)
    }

    /// Samples whose number changes while the daemon runs, as those of its volumes or sites: `fill` puts them on the page at each reading. It must be quick.
    pub fn read_page(&self, fill: impl Fn(&mut Page) + Send + Sync + 'static) {
        self.pages.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(fill));
    }

    /// All metrics in the Prometheus text format 0.0.4.
    pub fn exposition(&self) -> Result<String, MetricError> {
        // Pushed to in one step, so that a panic elsewhere leaves nothing half done.
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut page = Page::new();
        pages.iter().for_each(|fill| fill(&mut page));
        page.beside(self.inner.gather())
    }

    fn own<C: Collector + Clone + 'static>(
        &self,
        name: &str,
        kind: Kind,
        made: prometheus::Result<C>,
    ) -> Result<C, MetricError> {
        if let Some(rule) = broken_rule(name, kind) {
            return Err(MetricError::Name { name: name.to_owned(), rule });
        }
        let refuse = |source| MetricError::Register { name: name.to_owned(), source };
        let metric = made.map_err(refuse)?;
        self.inner.register(Box::new(metric.clone())).map_err(refuse)?;
        Ok(metric)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Other,
}

/// The naming rule that `name` breaks, if any.
pub(crate) fn broken_rule(name: &str, kind: Kind) -> Option<&'static str> {
    let words: Vec<&str> = name.split('_').collect();
    let least = if words[0] == "sluice" { 3 } else { 2 };
    if !matches!(words[0], "sluice" | "process") || words.len() < least {
        return Some("must be `sluice_<component>_<what>` or `process_<what>`");
    }
    if words.iter().any(|word| word.is_empty() || !word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())) {
        return Some("must be lower-case words with single underscores between them");
    }
    if words.iter().any(|word| FOREIGN_UNITS.contains(word)) {
        return Some("must be in base units: seconds, bytes, bits_per_second, ratio");
    }
    match (kind, words.last() == Some(&"total")) {
        (Kind::Counter, false) => Some("is a counter and must end in `_total`"),
        (Kind::Other, true) => Some("is no counter and must not end in `_total`"),
        _ => None,
    }
}

/// Units that someone will want to use and that would make two dashboards disagree.
const FOREIGN_UNITS: &[&str] = &[
    "ms",
    "millis",
    "milliseconds",
    "us",
    "micros",
    "microseconds",
    "nanos",
    "nanoseconds",
    "minutes",
    "hours",
    "kb",
    "kib",
    "mb",
    "mib",
    "gb",
    "gib",
    "kilobytes",
    "megabytes",
    "mbit",
    "kbit",
    "bps",
    "percent",
];

/// A metric whose value lives elsewhere.
#[derive(Clone)]
struct Reading {
    desc: Desc,
    kind: MetricType,
    read: std::sync::Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl Reading {
    fn new(
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        kind: MetricType,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> prometheus::Result<Self> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), Vec::new(), labels)?;
        Ok(Self { desc, kind, read: std::sync::Arc::new(read) })
    }
}

impl Collector for Reading {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metric = proto::Metric::from_label(self.desc.const_label_pairs.clone());
        let value = (self.read)();
        if self.kind == MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(self.kind);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_exposed_with_its_type() {
        let registry = Registry::new();
        registry.counter("sluice_test_reads_total", "Reads.").unwrap().inc_by(3);
        let states = registry.counters("sluice_test_parcels_total", "Parcels by state.", &["state"]).unwrap();
        states.with_label_values(&["sent \"x\"\n\\"]).inc();
        registry.gauge("sluice_test_spool_bytes", "Bytes in the spool.").unwrap().set(-7);
        registry.histogram("sluice_test_ingest_seconds", "Time.", &[0.1, 1.0]).unwrap().observe(0.5);
        for (direction, bytes) in [("up", 11.0), ("down", 12.5)] {
            let labels = [("direction", direction)];
            registry.read_counter("sluice_test_line_bytes_total", "Bytes.", &labels, move || bytes).unwrap();
        }
        let text = registry.exposition().unwrap();
        for line in [
            "# TYPE sluice_test_reads_total counter",
            "sluice_test_reads_total 3",
            "sluice_test_parcels_total{state=\"sent \\\"x\\\"\\n\\\\\"} 1",
            "# TYPE sluice_test_spool_bytes gauge",
            "sluice_test_spool_bytes -7",
            "# TYPE sluice_test_ingest_seconds histogram",
            "sluice_test_ingest_seconds_bucket{le=\"0.1\"} 0",
            "sluice_test_ingest_seconds_bucket{le=\"+Inf\"} 1",
            "sluice_test_line_bytes_total{direction=\"down\"} 12.5",
            "sluice_test_line_bytes_total{direction=\"up\"} 11",
        ] {
            assert!(text.lines().any(|have| have == line), "no line `{line}` in\n{text}");
        }
        let families = text.lines().filter(|line| line.starts_with("# TYPE sluice_test_line_bytes_total")).count();
        assert_eq!(families, 1, "one family however many label values:\n{text}");
    }

    #[test]
    fn names_that_break_a_rule_are_refused_and_the_rule_is_named() {
        let registry = Registry::new();
        let counters = [
            ("line_bytes_total", "sluice_<component>"),
            ("sluice_bytes", "sluice_<component>"),
            ("sluice_line__bytes_total", "single underscores"),
            ("sluice_line_Bytes_total", "lower-case"),
            ("sluice_line_wait_ms_total", "base units"),
            ("sluice_line_bytes", "must end in `_total`"),
        ];
        for (name, rule) in counters {
            let why = registry.counter(name, "Help.").unwrap_err().to_string();
            assert!(why.contains(name) && why.contains(rule), "{why}");
        }
        let why = registry.gauge("sluice_line_rate_total", "Help.").unwrap_err().to_string();
        assert!(why.contains("must not end in `_total`"), "{why}");
        assert_eq!(registry.exposition().unwrap(), "", "nothing of it was registered");
    }

    #[test]
    fn a_page_is_read_anew_each_time_and_shares_its_names_with_the_rest() {
        let registry = Registry::new();
        let last = registry.gauges("sluice_test_last_timestamp_seconds", "When.", &["event"]).unwrap();
        last.with_label_values(&["sealed"]).set(7);
        let volumes = Arc::new(std::sync::atomic::AtomicU64::new(1));
        let count = volumes.clone();
        registry.read_page(move |page| {
            for volume in 0..count.load(std::sync::atomic::Ordering::Relaxed) {
                let volume = volume.to_string();
                page.put("sluice_test_last_timestamp_seconds", "When.", &[("volume", &volume)], 5.0);
            }
        });
        let lines = |text: String| text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(lines(registry.exposition().unwrap()), 2);
        volumes.store(3, std::sync::atomic::Ordering::Relaxed);
        let text = registry.exposition().unwrap();
        assert!(text.contains("sluice_test_last_timestamp_seconds{event=\"sealed\"} 7"), "{text}");
        assert_eq!(text.matches("# TYPE").count(), 1, "{text}");
        assert_eq!(lines(text), 4);
    }

    #[test]
    fn a_second_metric_of_the_same_name_is_an_error() {
        let registry = Registry::new();
        registry.counter("sluice_test_reads_total", "Reads.").unwrap();
        let why = registry.counter("sluice_test_reads_total", "Reads.").unwrap_err();
        assert_eq!(why.to_string(), "cannot register metric `sluice_test_reads_total`");
    }
}
