//! line-bench: what the line's design promises, measured on an emulated line between two network namespaces, with kernel timestamps at the
//! sender where single packets matter.
//!
//! ```text
//!   ends       the gateway and the branch's services at both ends; replication over the shaped socket
//!   foreground the branch's own traffic: transactions, a greedy upload, voice
//!   keeping    conformance, use, the window's end, changes of the rate, what a datagram costs; the same of the gateway's direction, marks
//!   decided    decide() timed; quotas over kills, grants among 500 edges and a year of a site, simulated
//!   telemetry  what an edge without work spends
//!   polite     what the branch's own traffic loses beside replication, and what replication gets
//! ```
//!
//! Prints a table and writes rows `{what, asked, measured, unit, holds}`. Ends with 1 when one does not hold, with 2 where there are no
//! namespaces.
#![allow(clippy::disallowed_methods, reason = "a measurement of real time")]

mod decided;
mod ends;
mod foreground;
mod keeping;
mod polite;
mod telemetry;

use anyhow::{Context, Result};
use clap::Parser;
use lab::line::{Lab, LinkSpec, Loss, Rate as LineRate, Span};
use serde::Serialize;
use std::time::Duration;

/// Measures what is promised of the line.
#[derive(Parser, Debug)]
struct Args {
    /// also write the rows here, as one JSON array
    #[arg(long)]
    json: Option<std::path::PathBuf>,
    /// a smoke run: seconds instead of minutes, too short for stable figures
    #[arg(long)]
    quick: bool,
    /// only these parts: decided, telemetry, keeping, down, transactions, transactions-above, upload, voice; may be repeated
    #[arg(long)]
    only: Vec<String>,
}

/// One figure beside what is asked of it.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    /// The bound; none for what is only told.
    asked: Option<f64>,
    measured: f64,
    unit: &'static str,
    holds: Option<bool>,
}

impl Row {
    fn at_least(what: impl Into<String>, asked: f64, measured: f64, unit: &'static str) -> Row {
        Row { what: what.into(), asked: Some(asked), measured, unit, holds: Some(measured >= asked) }
    }

    fn at_most(what: impl Into<String>, asked: f64, measured: f64, unit: &'static str) -> Row {
        Row { what: what.into(), asked: Some(asked), measured, unit, holds: Some(measured <= asked) }
    }

    fn told(what: impl Into<String>, measured: f64, unit: &'static str) -> Row {
        Row { what: what.into(), asked: None, measured, unit, holds: None }
    }
}

/// The line's own rate in bit/s.
const LINE: f64 = 2e6;
/// The queueing delay that courtesy keeps to here: the policy's default.
const COURTESY: Duration = Duration::from_millis(25);

/// The line of the promises: 2 Mbit/s, 40 ms each way, 200 ms of queue, this loss both ways.
fn line(loss: Loss) -> LinkSpec {
    LinkSpec { rate: LineRate(LINE), delay: Span(40_000_000), queue: Span(200_000_000), loss, ..LinkSpec::default() }
}

/// Random loss of this share.
fn random(share: f64) -> Loss {
    Loss { share, burst: 1.0 }
}

struct Part {
    name: &'static str,
    /// Where single milliseconds matter nothing else runs; the others run together, each on a line of its own.
    alone: bool,
    rows: fn(bool) -> Result<Vec<Row>>,
}

static PARTS: [Part; 9] = [
    Part { name: "decided", alone: true, rows: decided::rows },
    Part { name: "keeping", alone: true, rows: keeping::rows },
    Part { name: "down", alone: true, rows: keeping::down },
    Part { name: "voice", alone: true, rows: polite::voice },
    Part { name: "transactions", alone: false, rows: |quick| polite::transactions(quick, 1_600, (10.0, 15.0)) },
    Part { name: "telemetry", alone: false, rows: telemetry::rows },
    Part { name: "transactions-above", alone: false, rows: |quick| polite::transactions(quick, 2_500, (12.0, 20.0)) },
    Part { name: "upload", alone: false, rows: |quick| polite::upload(quick, 1_600) },
    Part { name: "upload", alone: false, rows: |quick| polite::upload(quick, 2_500) },
];

fn main() -> Result<()> {
    let args = Args::parse();
    if let Err(why) = Lab::available() {
        eprintln!("{why}");
        std::process::exit(2);
    }
    let wanted = PARTS.iter().filter(|part| args.only.is_empty() || args.only.iter().any(|only| only == part.name));
    let rows: Vec<Row> = std::thread::scope(|scope| {
        let start = |part: &'static Part| {
            let measured = move || (part.rows)(args.quick).with_context(|| format!("measure {}", part.name));
            let thread = scope.spawn(measured);
            while part.alone && !thread.is_finished() {
                std::thread::sleep(Duration::from_millis(50));
            }
            thread
        };
        let running: Vec<_> = wanted.map(start).collect();
        let done =
            running.into_iter().map(|part| part.join().map_err(|_| anyhow::anyhow!("a measurement panicked"))?);
        done.collect::<Result<Vec<_>>>().map(|rows| rows.into_iter().flatten().collect())
    })?;
    print(&rows);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    std::process::exit(i32::from(rows.iter().any(|row| row.holds == Some(false))));
}

fn print(rows: &[Row]) {
    let width = rows.iter().map(|row| row.what.chars().count()).max().unwrap_or_default();
    for row in rows {
        let asked = row.asked.map(|asked| format!("{asked:.1}")).unwrap_or_default();
        let holds = row.holds.map_or("", |holds| if holds { "holds" } else { "MISSED" });
        println!("{:width$}  {asked:>8}  {:>9.2}  {:6}  {}", row.what, row.measured, holds, row.unit);
    }
}

/// The value below which this share of the others lies; NaN of none.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}
