//! Quantities as people write and read them: sizes, durations, rates of progress.

use dedupe::ByteCount;
use std::time::Duration;

/// Why a text is not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a size; write a number and a unit, as in \"1 GiB\" or \"500 MB\"")]
pub struct NotASize(String);

/// Why a text is not a duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a duration; write a number and a unit (s, min, h, d), as in \"15 min\"")]
pub struct NotADuration(String);

/// Reads a size: a whole or decimal number and one of B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).
pub fn parse_size(text: &str) -> Result<ByteCount, NotASize> {
    let refuse = || NotASize(shorten(text));
    let (number, unit) = split_unit(text).ok_or_else(refuse)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(refuse()),
    };
    let bytes = number * factor as f64;
    // Above 2^53 a decimal would lose bytes, and no disk of a branch is that large.
    if bytes > (1u64 << 53) as f64 { Err(refuse()) } else { Ok(ByteCount(bytes.round() as u64)) }
}

/// Reads a duration: a number and one of ms, s, min, h, d.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    let refuse = || NotADuration(shorten(text));
    let (number, unit) = split_unit(text).ok_or_else(refuse)?;
    let seconds = match unit.to_ascii_lowercase().as_str() {
        "ms" => 0.001,
        "s" | "sec" => 1.0,
        "min" | "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(refuse()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| refuse())
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A size for people, in decimal units as lines and disks are sold: `37.0 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
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

/// A duration for people, two units at most: `3 min 20 s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// `done of total, rate, time left`, each part only when it is known.
pub fn progress(done: u64, total: u64, elapsed: Duration) -> String {
    let mut text = match total {
        0 => bytes(done),
        _ => {
            format!("{} of {} ({:.0} %)", bytes(done), bytes(total), 100.0 * done.min(total) as f64 / total as f64)
        }
    };
    let per_second = done as f64 / elapsed.as_secs_f64().max(1e-3);
    // Below a second the rate says more about start-up than about the work.
    if elapsed >= Duration::from_secs(1) && done > 0 {
        text += &format!(", {}/s", bytes(per_second as u64));
        if total > done {
            let left = Duration::from_secs_f64(((total - done) as f64 / per_second).min(1e9));
            text += &format!(", {} left", duration(left));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_in_both_systems_of_units() {
        assert_eq!(parse_size("1 GiB"), Ok(ByteCount(1 << 30)));
        assert_eq!(parse_size("1.5MB"), Ok(ByteCount(1_500_000)));
        assert_eq!(parse_size(" 512 "), Ok(ByteCount(512)));
        for bad in ["", "GiB", "1 Gbit", "-1 GB", "1e9", "9999999999 TB", "1.2.3 MB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parse_size("much").unwrap_err().to_string(),
            "`much` is not a size; write a number and a unit, as in \"1 GiB\" or \"500 MB\""
        );
    }

    #[test]
    fn durations_parse() {
        assert_eq!(parse_duration("15 min"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        for bad in ["", "15", "min", "15 months", "99999999999999999999 d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(36_960_000), "37.0 MB");
        assert_eq!(bytes(999_600), "1.00 MB");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(
            progress(500_000, 1_000_000, Duration::from_secs(2)),
            "500 kB of 1.00 MB (50 %), 250 kB/s, 2 s left"
        );
        assert_eq!(progress(5, 0, Duration::ZERO), "5 B");
    }
}
