//! What is asked of the wire figures, judged row by row and in the mean.

use super::Row;
use super::made::NOISE;
use super::reference::Reference;
use crate::report::{Verdict, bytes, figure, geometric_mean, grouped, table};

/// What framing, encryption, handshakes and questions may cost beside the payload of R.
const FRAMING: f64 = 20_000.0;
/// A volume whose first generation finds most of itself at the gateway: another branch's server, built like `os`.
const SISTER: (&str, &str) = ("sister", "os");

/// Rows as a table, with R and the best peer where they are known.
pub fn rows_table(rows: &[Row], reference: Option<&Reference>) -> String {
    let cells = |row: &Row| {
        let mut cells = vec![
            row.volume.clone(),
            row.step.clone(),
            grouped(row.wire_up),
            grouped(row.wire_down),
            bytes(row.dirty_4k),
            figure(row.capture_s),
            figure(row.capture_cpu_s),
            figure(row.code_cpu_s),
            (row.edge_peak_rss >> 20).to_string(),
            (row.gateway_peak_rss >> 20).to_string(),
            if row.verified { "yes".into() } else { "NO".into() },
        ];
        if let Some(reference) = reference {
            cells.push(reference.r(&row.volume, &row.step).map_or("-".into(), grouped));
            cells.push(to_r(row, reference).map_or("-".into(), figure));
            let best = reference.best_peer(&row.volume, &row.step);
            cells.push(best.map_or("-".into(), |(peer, _)| peer.to_owned()));
            cells.push(best.map_or("-".into(), |(_, bytes)| grouped(bytes)));
            cells.push(to_peer(row, reference).map_or("-".into(), figure));
        }
        cells
    };
    let mut heading = vec![
        "volume",
        "step",
        "up",
        "down",
        "dirty",
        "capture s",
        "CPU s",
        "code CPU s",
        "edge MiB",
        "gateway MiB",
        "verified",
    ];
    if reference.is_some() {
        heading.extend(["R", "to R + 20 kB", "best peer", "its bytes", "to it"]);
    }
    table(&heading, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// Every line that these rows can answer.
pub fn verdicts(rows: &[Row], reference: Option<&Reference>) -> Vec<Verdict> {
    let mut out = vec![Verdict::at_least("rows rebuilt and verified", 1.0, share(rows, |row| row.verified), "share")];
    for row in rows.iter().filter(|row| !row.is_seed() && row.dirty_4k == 0) {
        let what = format!("{} {}: an unchanged volume", row.volume, row.step);
        out.push(Verdict::at_most(&what, FRAMING, row.wire() as f64, "bytes on the wire"));
    }
    for row in rows.iter().filter(|row| row.volume == NOISE) {
        let ratio = row.wire() as f64 / row.dirty_4k as f64;
        out.push(Verdict::at_most("incompressible data, to its size", 1.015, ratio, "ratio"));
    }
    let Some(reference) = reference else { return out };
    let changed = || rows.iter().filter(|row| !row.is_seed() && row.dirty_4k > 0);
    judge(&mut out, "deltas to R + 20 kB", changed().filter_map(|row| to_r(row, reference)).collect(), 1.0, 1.15);
    judge(
        &mut out,
        "deltas to the best real peer",
        changed().filter_map(|row| to_peer(row, reference)).collect(),
        0.30,
        1.0,
    );
    let helped =
        |row: &&Row| row.volume == SISTER.0 && rows.iter().any(|other| other.volume == SISTER.1 && other.is_seed());
    let seeds = || rows.iter().filter(|row| row.is_seed());
    let alone = seeds().filter(|row| !helped(row)).filter_map(|row| to_peer(row, reference)).collect();
    judge(&mut out, "first generations to the best real peer", alone, 0.9, 0.97);
    for ratio in seeds().filter(helped).filter_map(|row| to_peer(row, reference)) {
        out.push(Verdict::at_most(
            "first generation of `sister` with `os` at the gateway, to the best real peer",
            0.22,
            ratio,
            "ratio",
        ));
    }
    out
}

fn judge(out: &mut Vec<Verdict>, what: &str, ratios: Vec<f64>, mean: f64, worst: f64) {
    if ratios.is_empty() {
        return;
    }
    out.push(Verdict::at_most(&format!("{what}, geometric mean"), mean, geometric_mean(&ratios), "ratio"));
    let largest = ratios.into_iter().fold(f64::MIN, f64::max);
    out.push(Verdict::at_most(&format!("{what}, worst"), worst, largest, "ratio"));
}

fn to_r(row: &Row, reference: &Reference) -> Option<f64> {
    reference.r(&row.volume, &row.step).map(|r| row.wire() as f64 / (r as f64 + FRAMING))
}

fn to_peer(row: &Row, reference: &Reference) -> Option<f64> {
    reference.best_peer(&row.volume, &row.step).map(|(_, bytes)| row.wire() as f64 / bytes as f64)
}

fn share(rows: &[Row], holds: impl Fn(&Row) -> bool) -> f64 {
    rows.iter().filter(|row| holds(row)).count() as f64 / rows.len().max(1) as f64
}
