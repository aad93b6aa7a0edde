//! Samples that somebody has at hand all at once, as those of many sites: put on a page, then written in the text format.

use crate::registry::{Kind, MetricError, broken_rule};
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::BTreeMap;

/// A page in the making. Whoever fills it sees to it that no series comes twice.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<String, MetricFamily>,
    /// The first name that broke a rule.
    fault: Option<MetricError>,
}

impl Page {
    /// An empty page.
    pub fn new() -> Page {
        Page::default()
    }

    /// Puts a sample on the page. A name that ends in `_total` is a counter, all others are gauges; one that breaks the rules of this crate makes
    /// [`Page::text`] fail. The help of a name's first sample counts.
    pub fn put(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut metric = Metric::from_label(labels.iter().map(|(name, value)| label(name, value)).collect());
        let kind = if name.ends_with("_total") {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
            MetricType::COUNTER
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
            MetricType::GAUGE
        };
        if let Some(family) = self.families.get_mut(name) {
            family.mut_metric().push(metric);
            return;
        }
        let rule = broken_rule(name, if kind == MetricType::COUNTER { Kind::Counter } else { Kind::Other });
        if let Some(rule) = rule {
            self.fault.get_or_insert(MetricError::Name { name: name.to_owned(), rule });
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        self.families.insert(name.to_owned(), family);
    }

    /// The page in the Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// A name breaks a rule of this crate: a programming error.
    pub fn text(self) -> Result<String, MetricError> {
        self.beside(Vec::new())
    }

    /// The same with what others have gathered; one family for one name, whoever has it.
    pub(crate) fn beside(mut self, gathered: Vec<MetricFamily>) -> Result<String, MetricError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        for family in gathered {
            match self.families.get_mut(family.name()) {
                Some(known) => known.mut_metric().extend(family.get_metric().iter().cloned()),
                None => drop(self.families.insert(family.name().to_owned(), family)),
            }
        }
        let families: Vec<MetricFamily> = self.families.into_values().collect();
        Ok(TextEncoder::new().encode_to_string(&families)?)
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stand_under_one_heading_for_each_name() {
        let mut page = Page::new();
        page.put("sluice_test_free_bytes", "Free.", &[("site", "b \"1\"")], 1e15);
        page.put("sluice_test_reads_total", "Reads.", &[], 3.0);
        page.put("sluice_test_free_bytes", "Free.", &[("site", "c")], f64::INFINITY);
        let text = page.text().unwrap();
        let expected = "# HELP sluice_test_free_bytes Free.\n# TYPE sluice_test_free_bytes gauge\n\
                        sluice_test_free_bytes{site=\"b \\\"1\\\"\"} 1000000000000000\nsluice_test_free_bytes{site=\"c\"} inf\n\
                        # HELP sluice_test_reads_total Reads.\n# TYPE sluice_test_reads_total counter\nsluice_test_reads_total 3\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_name_that_breaks_a_rule_fails_the_page() {
        let mut page = Page::new();
        page.put("sluice_test_wait_ms", "Wait.", &[], 1.0);
        let why = page.text().unwrap_err().to_string();
        assert!(why.contains("sluice_test_wait_ms") && why.contains("base units"), "{why}");
    }
}
