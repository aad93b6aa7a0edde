//! What is decided about the line, without a line: how long `decide` takes, and the promises of the policy over ten years, a thousand kills, a year of a
//! site and five hundred edges. The same simulations as the tests', of the same code.

use crate::{Row, quantile};
use anyhow::Result;
use jiff::SignedDuration;
use lab::year;
use shaping::lab::{DATAGRAM, KILLS_BLOCK, QUOTAS, Random, Rules, TEN_YEARS_DAYS, ZONES, kills, shared_out, ten_years};
use shaping::policy::{ClockTrust, Grant, Policy, QuotaUse, Situation, decide};
use std::hint::black_box;
use std::time::Instant;

/// Answers that are timed together: a clock's reading costs a twentieth of one answer then.
const BATCH: usize = 1_000;

pub(crate) fn rows(quick: bool) -> Result<Vec<Row>> {
    let mut rows = deciding(if quick { 20 } else { 500 })?;
    rows.push(oracle());
    rows.extend(quotas(if quick { 100 } else { 1_000 }));
    rows.extend(grants(if quick { 100 } else { 2_000 }));
    rows.extend(a_year());
    Ok(rows)
}

/// `decide` at random instants of 400 days, with a policy of exceptions, blackouts, quotas and overrides, a grant and courtesy.
fn deciding(batches: usize) -> Result<Vec<Row>> {
    let text = Rules::sample("Europe/Berlin").document()
        + QUOTAS.split_once("[[quotas]]").map(|(_, quotas)| format!("[[quotas]]{quotas}")).unwrap_or_default().as_str()
        + "[[overrides]]\nid = 1\nbend = \"boost 1 Mbit/s\"\nfrom = \"2024-03-04T10:00:00Z\"\nuntil = \"2024-03-14T10:00:00Z\"\n\
           actor = \"li\"\nreason = \"a\"\n[[overrides]]\nid = 2\nbend = \"pause\"\nfrom = \"2024-05-04T10:00:00Z\"\n\
           until = \"2024-05-14T10:00:00Z\"\nactor = \"li\"\nreason = \"a\"\n";
    let policy = Policy::parse(&text)?;
    let from: jiff::Timestamp = "2024-01-01T00:00:00Z".parse()?;
    let schedule = policy.schedule(from, 400);
    let mut random = Random(3);
    let mut nanos = Vec::new();
    for _ in 0..batches {
        let instants: Vec<_> =
            (0..BATCH).map(|_| from + SignedDuration::from_secs((random.draw() % (400 * 86_400)) as i64)).collect();
        let quotas = [QuotaUse { used: random.draw() % 3_000_000, ends: Some(instants[0]), open_seconds: 3_600 }; 3];
        let began = Instant::now();
        for now in &instants {
            let grant = Some(Grant { up: shaping::BitsPerSec::kbit(900).into(), until: *now });
            let clock = ClockTrust::Synced;
            let courtesy = Some(shaping::BitsPerSec::kbit(800));
            black_box(decide(
                &policy,
                &schedule,
                &Situation { now: *now, clock, quotas: &quotas, local: &[], grant, courtesy },
            ));
        }
        nanos.push(began.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    let worst = nanos.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Row::at_most("decide(), median of batches", 1_000.0, quantile(nanos.clone(), 0.5), "ns"),
        Row::told("decide(), slowest batch", worst, "ns"),
    ])
}

fn oracle() -> Row {
    let wrong = ZONES.iter().filter(|zone| match ten_years(zone) {
        Ok(compared) => compared != u64::from(TEN_YEARS_DAYS) * 96,
        Err(difference) => {
            eprintln!("{difference}");
            true
        }
    });
    Row::at_most("zones in which decide() differs from the oracle in ten years", 0.0, wrong.count() as f64, "of 5")
}

fn quotas(events: u64) -> Vec<Row> {
    let killed = kills(events);
    let most = |what: &str, bytes: u64, of: u64, unit| {
        Row::at_most(format!("quotas over {events} kills and clock jumps: {what}"), 1.0, bytes as f64 / of as f64, unit)
    };
    vec![
        most("sent beyond", killed.over, DATAGRAM, "datagrams"),
        most("sent and not counted", killed.uncounted, DATAGRAM, "datagrams"),
        most("lost by one kill", killed.most_lost, KILLS_BLOCK, "claims"),
    ]
}

fn grants(deals: usize) -> Vec<Row> {
    let found = shared_out(500, deals);
    vec![
        Row::at_most("500 edges: deals above the cap", 0.0, found.over_cap as f64, "times"),
        Row::at_least("500 edges: dealt out, of what could be, least", 97.0, found.least_used, "%"),
        Row::at_least("500 edges: least share of one held back, of the largest", 95.0, found.least_fair, "%"),
    ]
}

fn a_year() -> Vec<Row> {
    let began = Instant::now();
    let year = year::run(1);
    let took = began.elapsed().as_secs_f64();
    year.missed.iter().for_each(|missed| eprintln!("{missed}"));
    vec![
        Row::at_most("a year of a site: run time", 60.0, took, "s"),
        Row::at_most("a year of a site: outside of windows", 0.0, (year.outside + year.broke_silence) as f64, "bytes"),
        Row::at_most("a year of a site: missed windows", 0.0, year.missed.len() as f64, "windows"),
        Row::at_least("a year of a site: least used window", 98.0, year.least_use * 100.0, "% of what was allowed"),
        Row::at_most("a year of a site: beyond a quota", DATAGRAM as f64, year.over_quota as f64, "bytes"),
        Row::told("a year of a site: windows with a backlog", year.windows as f64, "windows"),
        Row::told("a year of a site: sent", year.data as f64 * 1e-9, "GB"),
    ]
}
