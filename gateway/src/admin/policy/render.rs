//! Answers about policies for people.

use super::PolicyAnswer;
use crate::live::Told;
use crate::policies::Changed;
use crate::policies::preview::Preview;
use crate::policies::report::{EventLine, LineReport, Use};
use crate::text::{bytes, moment, printable, table};
use shaping::BitsPerSec;
use std::fmt::Write as _;

/// An answer as text that ends in a line break.
pub fn answer(answer: &PolicyAnswer) -> String {
    match answer {
        // The document and nothing else, so that it can be piped into a file and set again.
        PolicyAnswer::Document { document, .. } => format!("{}\n", document.trim_end()),
        PolicyAnswer::Changed { changes } => changes.iter().map(changed).collect(),
        PolicyAnswer::Preview { preview } => self::preview(preview),
        PolicyAnswer::History { events } if events.is_empty() => {
            "The site has no policy yet. `sluice-gateway policy set` gives it one.\n".into()
        }
        PolicyAnswer::History { events } => self::events(events),
        PolicyAnswer::Overrides { overrides, hold } => {
            let mut text = String::new();
            if let Some(hold) = hold {
                text +=
                    &format!("Held by {} ({}): nothing is sent.\n", printable(&hold.actor), printable(&hold.reason));
            }
            if overrides.is_empty() {
                return text + "No override is in force or to come.\n";
            }
            let row = |line: &super::OverrideLine| {
                vec![
                    line.id.to_string(),
                    line.bend.clone(),
                    line.volume.as_deref().map_or("all".into(), printable),
                    moment(line.from),
                    moment(line.until),
                    printable(&line.actor),
                    printable(&line.reason),
                ]
            };
            let heading = ["id", "what", "volumes", "from", "until", "by", "why"];
            text + &table(&heading, &overrides.iter().map(row).collect::<Vec<_>>())
        }
        PolicyAnswer::Report { report } => self::report(report),
    }
}

fn changed(change: &Changed) -> String {
    let told = match change.told {
        Told::Sent => "its edge was told",
        Told::Away => "its edge is told when it connects",
        Told::Old => "its edge is too old for policies and goes on as it is configured: upgrade it",
    };
    let mut text = format!("Site {}: policy version {} ({}); {told}.\n", change.site, change.version, change.what);
    for kept in &change.kept {
        text += &format!("  Still in force: {}.\n", printable(kept));
    }
    text
}

fn events(events: &[EventLine]) -> String {
    let row = |line: &EventLine| {
        vec![
            line.version.to_string(),
            moment(line.time),
            printable(&line.actor),
            printable(&line.what),
            printable(&line.reason),
        ]
    };
    table(&["version", "when", "who", "what", "why"], &events.iter().map(row).collect::<Vec<_>>())
}

/// A preview: the strips under a scale of hours, the legend, the changes.
pub fn preview(preview: &Preview) -> String {
    let scale: String = (0..24).map(|hour| format!("{hour:02}  ")).collect();
    let mut text = format!("Times of {}\n\n{:16}{}\n", preview.zone, "", scale.trim_end());
    let (mut open, mut all) = (0, 0u64);
    for day in &preview.days {
        let _ = writeln!(
            text,
            "{} {}  {}  {:>7}  {:>8}",
            day.weekday,
            day.date,
            day.strip,
            hours(day.open_minutes),
            bytes(day.bytes)
        );
        open += day.open_minutes;
        all = all.saturating_add(day.bytes);
    }
    let _ = writeln!(text, "\nOpen for {} in all; {} fit (rate x time x 0.95).", hours(open), bytes(all));
    if preview.has_quotas {
        text += "The policy has quotas, which may close the line earlier; they are not counted in.\n";
    }
    text += "\n";
    for legend in &preview.legend {
        let _ = writeln!(text, "  {}  {} {}", legend.sign, legend.name, legend.rate);
    }
    text += "\n";
    for change in &preview.changes {
        let _ = writeln!(text, "{}  {}", change.at, printable(&change.text));
    }
    text
}

fn hours(minutes: u32) -> String {
    format!("{}:{:02} h", minutes / 60, minutes % 60)
}

fn rate(bits: u64) -> String {
    if bits == 0 { "0".into() } else { BitsPerSec::new(bits).to_string() }
}

fn report(report: &LineReport) -> String {
    let total = &report.total;
    let policy = if report.policy == 0 { "no policy".into() } else { format!("policy version {}", report.policy) };
    let mut text = format!(
        "The line of site {} in {} (times of {}, {policy}; made {})\n\n",
        report.site,
        report.month,
        report.zone,
        moment(report.made)
    );
    let _ = writeln!(text, "Minutes recorded {}, missing {}.", total.recorded, total.missing);
    let _ = writeln!(text, "Minutes over the limit: {}.", total.over);
    for over in &report.over {
        let _ = writeln!(text, "  {}  {} sent, {} allowed", over.at, bytes(over.sent), bytes(over.allowed));
    }
    let _ = writeln!(text, "Peak of 1 s: {}; of 60 s: {}.", rate(total.peak_second_bits), rate(total.peak_minute_bits));
    let _ = writeln!(text, "Sent {}, received {}.", bytes(total.sent), bytes(total.received));
    for quota in &report.quotas {
        let since = quota.from.as_ref().map_or(String::new(), |from| format!(" (fullest: from {from})"));
        let share = 100.0 * quota.used as f64 / quota.limit as f64;
        let _ = writeln!(
            text,
            "Quota of the {}{since}: {} of {} ({share:.0} %); exceeded {} times.",
            quota.period,
            bytes(quota.used),
            bytes(quota.limit),
            quota.exceeded
        );
    }
    let row = |date: &str, line: &Use| {
        vec![
            date.to_owned(),
            line.recorded.to_string(),
            line.missing.to_string(),
            line.over.to_string(),
            bytes(line.sent),
            bytes(line.received),
            rate(line.peak_second_bits),
            rate(line.peak_minute_bits),
        ]
    };
    let rows: Vec<_> = report.days.iter().map(|day| row(&day.date, &day.figures)).collect();
    text += "\n";
    text += &table(&["day", "recorded", "missing", "over", "sent", "received", "peak 1 s", "peak 60 s"], &rows);
    match report.events.is_empty() {
        true => text += "\nNothing was overridden or changed.\n",
        false => text += &format!("\nOverrides and changes:\n{}", events(&report.events)),
    }
    text
}

/// The days of a report as CSV: bytes, and bits per second. Nothing in it was written by people, so nothing needs quoting.
pub fn report_csv(report: &LineReport) -> String {
    let mut text = String::from(
        "date,minutes_recorded,minutes_missing,minutes_over,bytes_sent,bytes_received,peak_1s_bits,peak_60s_bits,bytes_allowed\n",
    );
    let total = ("total".to_owned(), &report.total);
    for (date, line) in report.days.iter().map(|day| (day.date.clone(), &day.figures)).chain([total]) {
        let _ = writeln!(
            text,
            "{date},{},{},{},{},{},{},{},{}",
            line.recorded,
            line.missing,
            line.over,
            line.sent,
            line.received,
            line.peak_second_bits,
            line.peak_minute_bits,
            line.allowed
        );
    }
    text
}
