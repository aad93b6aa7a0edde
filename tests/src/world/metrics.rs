//! The Prometheus text format, as far as tests ask it.

/// What a daemon's `/metrics` said at one moment.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<(String, String, f64)>,
}

impl Metrics {
    /// Reads the text format; lines that are none are left out.
    pub fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter_map(sample).collect() }
    }

    /// Sum over the samples of `name` that have all these labels; `None` when there is no such sample.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let of = |(_, have, _): &&(String, String, f64)| {
            wanted.iter().all(|label| have.split(',').any(|part| part == label))
        };
        let mut values =
            self.samples.iter().filter(|(have, _, _)| have == name).filter(of).map(|(_, _, value)| *value).peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// As [`Metrics::value`], 0 where there is no such sample: counters appear with their first event.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.value(name, labels).unwrap_or(0.0) as u64
    }
}

fn sample(line: &str) -> Option<(String, String, f64)> {
    let (series, value) = line.trim().rsplit_once(' ')?;
    if series.starts_with('#') {
        return None;
    }
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    Some((name.to_owned(), labels.to_owned(), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_what_matches() {
        let text = "# HELP a b\n# TYPE a counter\na{c=\"x\",d=\"up\"} 3\na{c=\"y\",d=\"up\"} 4\na{c=\"x\",d=\"down\"} 5\nb 1e3\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.count("a", &[]), 12);
        assert_eq!(metrics.count("a", &[("d", "up")]), 7);
        assert_eq!(metrics.count("a", &[("d", "up"), ("c", "x")]), 3);
        assert_eq!(metrics.value("b", &[]), Some(1000.0));
        assert_eq!(metrics.value("a", &[("d", "sideways")]), None);
    }
}
