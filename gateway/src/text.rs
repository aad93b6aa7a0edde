//! Quantities and tables for people.

use dedupe::UnixMillis;
use std::time::Duration;

/// A size in decimal units, as disks and lines are sold: `37.0 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value < 9.995 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A duration, two units at most: `3 min 20 s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A moment as UTC, to the second.
pub fn moment(at: UnixMillis) -> String {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => format!("{} ms after 1970", at.0),
    }
}

/// Reads a duration: a whole number and one of s, min, h, d, as in `24h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || {
        format!("`{}` is not a duration: write a whole number and a unit (s, min, h, d), as in `24h`", printable(text))
    };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().map_err(|_| refuse())?;
    let unit = match text[end..].trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(refuse()),
    };
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(refuse)
}

/// Reads a size: a number and one of B, kB, MB, GB, TB, as in `50MB` or `1.5 GB`; without a unit bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let refuse =
        || format!("`{}` is not a size: write a number and a unit (B, kB, MB, GB, TB), as in `50MB`", printable(text));
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| refuse())?;
    let unit = match text[end..].trim() {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => return Err(refuse()),
    };
    Some(number * unit).filter(|bytes| *bytes < 9e18).map(|bytes| bytes.round() as u64).ok_or_else(refuse)
}

/// The end of a day in UTC (`2031-12-31`), or a time (`2031-12-31T18:00:00Z`); `None`: it is neither.
pub fn end_of(text: &str) -> Option<UnixMillis> {
    let day = || {
        let date: jiff::civil::Date = text.parse().ok()?;
        Some(date.tomorrow().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    };
    let at = if text.contains('T') { text.parse::<jiff::Timestamp>().ok() } else { day() };
    at.and_then(|at| u64::try_from(at.as_millisecond()).ok()).map(UnixMillis)
}

/// What came from elsewhere, made safe for a terminal: control characters would let a hostile edge rewrite the operator's screen.
pub fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A text as part of a query or path of a URI.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte.into()),
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

/// Rows under a heading, columns aligned, two spaces between them. Columns of figures are aligned to the right.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width_of = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = heading.iter().map(|cell| width_of(cell)).collect();
    let mut figures = vec![!rows.is_empty(); heading.len()];
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            widths[at] = widths[at].max(width_of(cell));
            figures[at] &= cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains("UTC");
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (at, cell) in cells.enumerate() {
            let room = " ".repeat(widths[at] - width_of(cell));
            let gap = if at == 0 { "" } else { "  " };
            line += &if figures[at] { format!("{gap}{room}{cell}") } else { format!("{gap}{cell}{room}") };
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut heading.iter().copied());
    rows.iter().for_each(|row| text += &line(&mut row.iter().map(String::as_str)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(
            (parse_bytes("50MB"), parse_bytes("1.5 GB"), parse_bytes("800")),
            (Ok(50_000_000), Ok(1_500_000_000), Ok(800))
        );
        for wrong in ["", "MB", "1.2.3MB", "5 apples", "99999999999 TB", "-1"] {
            assert!(parse_bytes(wrong).unwrap_err().contains("is not a size"), "{wrong}");
        }
    }

    #[test]
    fn tables_are_aligned() {
        let rows = vec![vec!["a".into(), "9.00 MB".into()], vec!["longer".into(), "120 MB".into()]];
        assert_eq!(table(&["site", "size"], &rows), "site       size\na       9.00 MB\nlonger   120 MB\n");
        assert_eq!(table(&["site", "size"], &[]), "site  size\n");
    }

    #[test]
    fn durations_read_and_print() {
        assert_eq!(parse_duration("24h").unwrap(), Duration::from_secs(86_400));
        assert_eq!(parse_duration("90 min").unwrap(), Duration::from_secs(5400));
        assert!(parse_duration("99999999999999999d").is_err());
        assert_eq!(
            parse_duration("soon").unwrap_err(),
            "`soon` is not a duration: write a whole number and a unit (s, min, h, d), as in `24h`"
        );
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_secs(90_000)), "1 d 1 h");
    }

    #[test]
    fn a_day_ends_with_the_next_one() {
        assert_eq!(end_of("2026-07-31"), Some(UnixMillis(1_785_542_400_000)));
        assert_eq!(end_of("2026-08-01T00:00:00Z"), Some(UnixMillis(1_785_542_400_000)));
        assert_eq!((end_of("tomorrow"), end_of("2026-08-01T99:00:00Z"), end_of("1960-01-01")), (None, None, None));
    }

    #[test]
    fn a_hostile_name_cannot_move_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(moment(UnixMillis(1_785_542_400_123)), "2026-08-01 00:00:00 UTC");
        assert_eq!(bytes(37_000_000), "37.0 MB");
    }
}
