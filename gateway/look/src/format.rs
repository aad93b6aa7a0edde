//! Figures for people, the same on every page. Decimal units, as lines and disks are sold in.

use crate::Language;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Bytes: `5.0 GB`.
pub fn bytes(count: u64) -> String {
    scaled(count as f64, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// Bits per second: `1.6 Mbit/s`. 0 is what is closed.
pub fn rate(bits: u64, language: Language) -> String {
    match bits {
        0 => language.of("closed", "关闭").into(),
        u64::MAX => language.of("unlimited", "不限").into(),
        bits => scaled(bits as f64, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]),
    }
}

/// A rate as a figure, where closed is 0: `0 bit/s`.
pub fn flow(bits: u64) -> String {
    scaled(bits as f64, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s"])
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // What would round to 1000 belongs to the next unit.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.95);
    format!("{value:.digits$} {}", units[unit])
}

/// A time span of seconds, to two units: `3 d 4 h`, `5 min`.
pub fn duration(seconds: u64, language: Language) -> String {
    let names = language.of(["d", "h", "min", "s"], ["天", "小时", "分", "秒"]);
    let parts = [seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60];
    let Some(first) = parts.iter().position(|part| *part > 0) else { return format!("0 {}", names[3]) };
    let mut text = format!("{} {}", parts[first], names[first]);
    // Seconds say nothing beside hours, nor hours beside many days.
    if let Some(next) = parts.get(first + 1).filter(|next| **next > 0 && parts[first] < 10) {
        text += &format!(" {next} {}", names[first + 1]);
    }
    text
}

/// How long ago something was: `3 h ago`.
pub fn ago(seconds: u64, language: Language) -> String {
    let span = duration(seconds, language);
    language.of(format!("{span} ago"), format!("{span}前"))
}

/// A moment, near ones short: `19:30`, `Mon 19:30`, `2026-11-23 19:30`; in this zone.
pub fn moment(at: Timestamp, now: Timestamp, zone: &TimeZone, language: Language) -> String {
    let (then, today) = (zone.to_datetime(at), zone.to_datetime(now));
    let days = then.date().since(today.date()).map_or(i32::MAX, |span| span.get_days());
    let clock = then.strftime("%H:%M");
    match days {
        0 => clock.to_string(),
        -6..=6 => format!("{} {clock}", weekday(then.date().weekday(), language)),
        _ => then.strftime("%Y-%m-%d %H:%M").to_string(),
    }
}

/// A moment in full, to the minute: `2026-11-23 19:30`.
pub fn full_moment(at: Timestamp, zone: &TimeZone) -> String {
    zone.to_datetime(at).strftime("%Y-%m-%d %H:%M").to_string()
}

/// A day of the week, short.
pub fn weekday(day: jiff::civil::Weekday, language: Language) -> &'static str {
    let at = day.to_monday_zero_offset() as usize;
    let english = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let chinese = ["周一", "周二", "周三", "周四", "周五", "周六", "周日"];
    language.of(english, chinese)[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_one_digit_where_it_says_something() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(999_499), "999 kB");
        assert_eq!(bytes(999_600), "1.0 MB");
        assert_eq!(bytes(5_040_000_000), "5.0 GB");
        assert_eq!(rate(1_600_000, Language::English), "1.6 Mbit/s");
        assert_eq!(rate(0, Language::Chinese), "关闭");
        assert_eq!(flow(0), "0 bit/s");
        assert_eq!(bytes(u64::MAX), "18447 PB");
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let short = |seconds| duration(seconds, Language::English);
        assert_eq!(short(0), "0 s");
        assert_eq!(short(61), "1 min 1 s");
        assert_eq!(short(3 * 86_400 + 4 * 3600 + 5), "3 d 4 h");
        assert_eq!(short(12 * 86_400 + 4 * 3600), "12 d");
        assert_eq!(ago(7200, Language::Chinese), "2 小时前");
    }

    #[test]
    fn near_moments_are_short() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (zone, now) = (TimeZone::UTC, at("2026-11-23T18:00:00Z"));
        let say = |then| moment(at(then), now, &zone, Language::English);
        assert_eq!(say("2026-11-23T19:30:00Z"), "19:30");
        assert_eq!(say("2026-11-24T07:30:00Z"), "Tue 07:30");
        assert_eq!(say("2026-11-22T07:30:00Z"), "Sun 07:30");
        assert_eq!(say("2026-12-24T07:30:00Z"), "2026-12-24 07:30");
    }
}
