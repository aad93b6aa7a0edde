//! The one place that gives figures their names: an edge's own `/metrics` and the gateway's page of its site say the same.

use super::{SiteFigures, VolumeFigures, VolumeState};
use shaping::policy::REASONS;

/// How far a clock is trusted, by [`SiteFigures::clock`].
const CLOCKS: [&str; 3] = ["synced", "holdover", "untrusted"];

/// Tells `put` each series: name, help, labels and value. Names that end in `_total` are counters. `volumes` go by the names that people gave them.
/// What is not known has no series.
pub fn series<'a>(
    site: &SiteFigures,
    volumes: impl IntoIterator<Item = (&'a str, &'a VolumeFigures)>,
    mut put: impl FnMut(&'static str, &'static str, &[(&str, &str)], f64),
) {
    of_line(site, &mut put);
    of_edge(site, &mut put);
    for (name, volume) in volumes {
        of_volume(name, volume, &mut put);
    }
}

type Put<'a> = &'a mut dyn FnMut(&'static str, &'static str, &[(&str, &str)], f64);

fn of_line(site: &SiteFigures, put: Put<'_>) {
    let allowed = if site.allowed == u64::MAX { f64::INFINITY } else { site.allowed as f64 };
    put(
        "sluice_link_allowed_bits_per_second",
        "The rate towards the gateway that holds now: 0 is closed, infinity is unlimited.",
        &[],
        allowed,
    );
    for (place, reason) in REASONS.iter().enumerate() {
        let decides = f64::from(usize::from(site.reason) == place);
        put(
            "sluice_edge_limited_by",
            "1 for the term that decides about the line now.",
            &[("reason", reason)],
            decides,
        );
    }
    put(
        "sluice_link_sent_bytes_total",
        "Bytes sent at IP level since the start: payload, headers, acknowledgements, retransmissions, handshakes.",
        &[],
        site.sent as f64,
    );
    put("sluice_link_received_bytes_total", "Bytes received at IP level since the start.", &[], site.received as f64);
    put(
        "sluice_link_cap_violations_total",
        "Minutes in which more was sent than was allowed and the bucket's depth: there should be none.",
        &[],
        site.over_minutes.into(),
    );
    known(
        "sluice_link_base_round_trip_seconds",
        "Round trip of the line when it is idle: the least of ten minutes.",
        site.base_round_trip,
        1e6,
        put,
    );
    known("sluice_link_round_trip_seconds", "Round trip of the line now, smoothed.", site.round_trip, 1e6, put);
    put("sluice_link_packets_total", "Packets sent over both connections.", &[], site.packets as f64);
    put("sluice_link_lost_packets_total", "Packets sent that were lost.", &[], site.lost as f64);
    known(
        "sluice_link_tested_bits_per_second",
        "What the last line-test found that the line carries.",
        site.line_rate,
        1.0,
        put,
    );
}

fn of_edge(site: &SiteFigures, put: Put<'_>) {
    put("sluice_edge_uptime_seconds", "Since the edge's daemon started.", &[], site.uptime.into());
    for (place, state) in CLOCKS.iter().enumerate() {
        let is_so = f64::from(usize::from(site.clock) == place);
        put("sluice_edge_clock", "1 for how far the clock is trusted.", &[("state", state)], is_so);
    }
    put(
        "sluice_edge_clock_skew_seconds",
        "The machine's clock less the time that gateways told.",
        &[],
        f64::from(site.clock_skew) / 1e3,
    );
    put("sluice_edge_policy_version", "Version of the policy in force; 0: none.", &[], site.policy as f64);
    for (place, (used, limit)) in site.quotas.iter().enumerate() {
        let quota = (place + 1).to_string();
        let labels = [("quota", quota.as_str())];
        put(
            "sluice_edge_quota_used_bytes",
            "Bytes of a quota that are used; by its place in the policy.",
            &labels,
            *used as f64,
        );
        put(
            "sluice_edge_quota_limit_bytes",
            "Bytes that a quota allows; by its place in the policy.",
            &labels,
            *limit as f64,
        );
    }
    put(
        "sluice_edge_backlog_bytes",
        "Coded bytes that still have to cross, as far as can be told.",
        &[],
        site.backlog as f64,
    );
    known(
        "sluice_edge_backlog_arrives_timestamp_seconds",
        "When all of the backlog will have crossed by the policy.",
        site.arrives,
        1.0,
        put,
    );
    put("sluice_edge_spool_bytes", "Coded bytes that wait for the gateway.", &[], site.spool as f64);
    put("sluice_edge_spool_limit_bytes", "Bytes that the spool may take.", &[], site.spool_limit as f64);
    put("sluice_edge_disk_free_bytes", "Free on the disk of the edge's state.", &[], site.disk_free as f64);
    put("sluice_edge_disk_size_bytes", "Size of the disk of the edge's state.", &[], site.disk_size as f64);
    known(
        "sluice_edge_certificate_end_timestamp_seconds",
        "When the edge's certificate ends.",
        site.certificate_until,
        1.0,
        put,
    );
    put("sluice_edge_volumes", "Volumes that the edge replicates.", &[], site.volumes.into());
}

fn of_volume(name: &str, volume: &VolumeFigures, put: Put<'_>) {
    let labels = [("volume", name)];
    if volume.captured > 0 {
        put(
            "sluice_edge_volume_last_timestamp_seconds",
            "When a generation of the volume was last captured here, and last sealed at the gateway.",
            &[("volume", name), ("event", "captured")],
            volume.captured.into(),
        );
    }
    let mut always = |name, help, value: u64| put(name, help, &labels, value as f64);
    always("sluice_edge_volume_size_bytes", "Size of the volume.", volume.size);
    always(
        "sluice_edge_volume_changed_bytes",
        "Bytes that the newest capture found changed since the one before.",
        volume.changed,
    );
    always(
        "sluice_edge_volume_raw_bytes",
        "Of the generation on its way, else of the last one sent: bytes that its parcels stand for.",
        volume.raw,
    );
    always("sluice_edge_volume_coded_bytes", "Those parcels' bytes as they travel.", volume.coded);
    always(
        "sluice_edge_volume_left_bytes",
        "Coded bytes of the volume that still have to cross, as far as can be told.",
        volume.left,
    );
    always(
        "sluice_edge_volume_stopped",
        "1 while the volume is stopped until a person helps.",
        (volume.state == VolumeState::Stopped).into(),
    );
    let mut known = |name, help, second: u32| {
        if second > 0 {
            put(name, help, &labels, second.into());
        }
    };
    known(
        "sluice_edge_volume_arrives_timestamp_seconds",
        "When what is on its way will have crossed by the policy.",
        volume.arrives,
    );
    known(
        "sluice_edge_volume_deadline_timestamp_seconds",
        "When a newer generation has to be at the gateway, so that the newest there is never older than the policy's lag.",
        volume.deadline,
    );
}

/// A figure for which 0 means that it is not known.
fn known(name: &'static str, help: &'static str, figure: impl Into<u64>, per_unit: f64, put: Put<'_>) {
    let figure = figure.into();
    if figure > 0 {
        put(name, help, &[], figure as f64 / per_unit);
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{site, volume};
    use super::*;

    fn lines(site: &SiteFigures, volumes: &[(&str, VolumeFigures)]) -> Vec<String> {
        let mut lines = Vec::new();
        series(site, volumes.iter().map(|(name, figures)| (*name, figures)), |name, help, labels, value| {
            assert!(help.ends_with('.'), "{help}");
            let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
            lines.push(format!("{name} {} {value}", labels.join(",")));
        });
        lines
    }

    #[test]
    fn figures_have_the_agreed_names_units_and_labels() {
        let lines = lines(&site(), &[("core-db", volume(1))]);
        for line in [
            "sluice_link_allowed_bits_per_second  1600000",
            "sluice_edge_limited_by reason=schedule 1",
            "sluice_edge_limited_by reason=grant 0",
            "sluice_link_sent_bytes_total  40000000",
            "sluice_link_round_trip_seconds  0.084321",
            "sluice_link_base_round_trip_seconds  0.081",
            "sluice_edge_clock state=synced 1",
            "sluice_edge_clock state=untrusted 0",
            "sluice_edge_clock_skew_seconds  -1.2",
            "sluice_edge_quota_used_bytes quota=1 12000000000",
            "sluice_edge_quota_limit_bytes quota=2 6",
            "sluice_edge_backlog_arrives_timestamp_seconds  1795830000",
            "sluice_edge_volumes  3",
            "sluice_edge_volume_last_timestamp_seconds volume=core-db,event=captured 1795794000",
            "sluice_edge_volume_left_bytes volume=core-db 60000000",
            "sluice_edge_volume_stopped volume=core-db 0",
        ] {
            assert!(lines.iter().any(|have| have == line), "no `{line}` in {lines:#?}");
        }
    }

    #[test]
    fn what_is_not_known_has_no_series() {
        let unknown = SiteFigures { allowed: u64::MAX, ..SiteFigures::default() };
        let nothing = VolumeFigures { captured: 0, arrives: 0, deadline: 0, state: VolumeState::Stopped, ..volume(1) };
        let lines = lines(&unknown, &[("db", nothing)]);
        for absent in ["round_trip", "tested", "arrives", "certificate", "deadline", "last_timestamp", "quota_"] {
            assert!(!lines.iter().any(|line| line.contains(absent)), "{absent} in {lines:#?}");
        }
        assert!(lines.contains(&"sluice_link_allowed_bits_per_second  inf".to_owned()), "{lines:#?}");
        assert!(lines.contains(&"sluice_edge_volume_stopped volume=db 1".to_owned()), "{lines:#?}");
    }
}
