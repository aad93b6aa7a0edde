//! Figures for people: sizes, times, tables, and what was asked beside what was measured.

use serde::Serialize;
use std::fmt::Write as _;

/// One line of a table of promises.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What was measured.
    pub what: String,
    /// What is asked, in words.
    pub asked: String,
    /// The figure; NaN (null in JSON) where nothing could be measured.
    pub measured: f64,
    /// Its unit.
    pub unit: String,
    /// Whether it is as asked; `None` where a figure is only reported.
    pub holds: Option<bool>,
}

impl Verdict {
    /// A figure that must be at most `most`.
    pub fn at_most(what: &str, most: f64, measured: f64, unit: &str) -> Self {
        Self::of(what, format!("<= {most}"), measured, unit, Some(measured <= most))
    }

    /// A figure that must be at least `least`.
    pub fn at_least(what: &str, least: f64, measured: f64, unit: &str) -> Self {
        Self::of(what, format!(">= {least}"), measured, unit, Some(measured >= least))
    }

    /// A figure that is only reported.
    pub fn reported(what: &str, measured: f64, unit: &str) -> Self {
        Self::of(what, "reported".into(), measured, unit, None)
    }

    fn of(what: &str, asked: String, measured: f64, unit: &str, holds: Option<bool>) -> Self {
        Self { what: what.into(), asked, measured, unit: unit.into(), holds }
    }

    /// The line's cells, for [`table`].
    pub fn cells(&self) -> Vec<String> {
        let holds = match self.holds {
            Some(true) => "holds",
            Some(false) => "MISSES",
            None => "",
        };
        vec![self.what.clone(), self.asked.clone(), figure(self.measured), self.unit.clone(), holds.into()]
    }
}

/// Prints verdicts as a table.
pub fn print_verdicts(verdicts: &[Verdict]) {
    let rows: Vec<_> = verdicts.iter().map(Verdict::cells).collect();
    print!("{}", table(&["what", "asked", "measured", "unit", ""], &rows));
}

/// Writes rows as a JSON array.
pub fn write_json<T: Serialize>(path: &std::path::Path, rows: &[T]) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// A number with about three digits that matter.
pub fn figure(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".into(),
        big if big >= 100_000.0 => grouped(value.round() as u64),
        big if big >= 100.0 => format!("{value:.0}"),
        big if big >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// An amount in decimal units, as lines and invoices have them.
pub fn bytes(amount: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = amount as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{amount} B") } else { format!("{} {}", short(value), UNITS[unit]) }
}

fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// Seconds as people say them.
pub fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// A whole number with its thousands apart.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Reads a size: a number of bytes with an optional binary or decimal unit (`4096`, `256 MiB`, `4G`, `1.5 GB`).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("`{text}` is not a size: write it as in 256M, 4 GiB or 1.5GB")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` is not a size: write it as in 256M, 4 GiB or 1.5GB"))?;
    Ok((number * factor as f64) as u64)
}

/// The geometric mean; NaN of nothing.
pub fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

/// Rows under a heading, columns aligned: the first to the left, figures to the right.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let is_figure = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let mut out = String::new();
    let mut line = |cells: &[String], ruler: bool| {
        for (column, cell) in cells.iter().enumerate() {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            let gap = if column == 0 { "" } else { "  " };
            let _ = if column > 0
                && (ruler || rows.iter().all(|row| row.get(column).is_none_or(|c| is_figure(c) || c.is_empty())))
            {
                write!(out, "{gap}{pad}{cell}")
            } else {
                write!(out, "{gap}{cell}{pad}")
            };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    };
    line(&heading.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>(), false);
    line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>(), true);
    rows.iter().for_each(|row| line(row, false));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_234_567), "1.23 MB");
        assert_eq!(bytes(268_435_456), "268 MB");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(time(3.21), "3.2 s");
        assert_eq!(time(200.0), "3 min 20 s");
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("1.5 GB"), Ok(1_500_000_000));
        assert!(parse_size("lots").is_err());
        assert!((geometric_mean(&[1.0, 4.0]) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn tables_are_aligned() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["longer".into(), "200".into()]];
        assert_eq!(table(&["what", "n"], &rows), "what      n\n------  ---\na         1\nlonger  200\n");
    }
}
