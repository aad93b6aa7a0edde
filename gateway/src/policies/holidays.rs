//! Days off and make-up working days from an iCalendar file, as governments and HR departments publish them.
//!
//! What cannot be understood for certain is refused, naming the event: a holiday that was silently dropped opens the line on a day on which
//! nobody expects it.

use icalendar::parser::{Component, Property, read_calendar, unfold};
use jiff::ToSpan;
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a calendar at most: decades of holidays of a country are some 100 kB.
pub const MAX_CALENDAR: usize = 1 << 20;
/// Days of one event at most, as in a policy's document.
const MAX_DAYS: i32 = 60;
/// How deep components may lie in each other: calendar, event, alarm are three. The parser recurses, and a hostile file must not use up its stack.
const MAX_DEPTH: usize = 8;
/// Words that make an event a day off although they hold a word of [`WORKING`].
const OFF: [&str; 5] = ["non-working", "nonworking", "non working", "not a working", "不上班"];
/// Words by which an event says that it is a make-up working day.
const WORKING: [&str; 8] = ["working day", "workday", "work day", "补班", "補班", "上班", "(班)", "（班）"];
/// Properties by which an event happens more than once, or not as it is written.
const REPEATING: [&str; 4] = ["RRULE", "RDATE", "EXDATE", "RECURRENCE-ID"];

/// What a calendar says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Days {
    /// Days off with their names.
    pub off: BTreeMap<Date, String>,
    /// Make-up working days.
    pub working: BTreeSet<Date>,
}

/// Why a calendar is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolidaysError {
    /// Larger than any list of holidays.
    #[error(
        "the calendar has {0} bytes, and at most {MAX_CALENDAR} are read: export the holidays alone, or fewer years of them"
    )]
    Large(usize),
    /// It does not parse.
    #[error("the calendar does not parse as iCalendar: {0}; export it again as .ics (iCalendar, RFC 5545)")]
    Parse(String),
    /// It holds no events.
    #[error("the calendar holds no events (VEVENT): is it the right file?")]
    Empty,
    /// One event cannot be taken.
    #[error("the event {event} {why}; nothing was imported")]
    Event {
        /// Its summary and date, as far as they are known.
        event: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// Two events contradict each other.
    #[error(
        "the calendar says both that {0} is a day off and that it is worked: remove one of the two events; nothing was imported"
    )]
    Both(Date),
}

/// Reads a calendar.
pub fn read(text: &str) -> Result<Days, HolidaysError> {
    if text.len() > MAX_CALENDAR {
        return Err(HolidaysError::Large(text.len()));
    }
    let unfolded = unfold(text.trim_start_matches('\u{feff}'));
    check_depth(&unfolded)?;
    // The parser's own words run over many lines; the first says what is wrong.
    let first_line = |why: String| {
        let line = why.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        HolidaysError::Parse(crate::text::printable(line.trim().trim_end_matches(':')))
    };
    let calendar = read_calendar(&unfolded).map_err(first_line)?;
    let mut events = Vec::new();
    collect(&calendar.components, &mut events);
    if events.is_empty() {
        return Err(HolidaysError::Empty);
    }
    let mut days = Days::default();
    for event in events {
        if value(event, "STATUS").is_some_and(|status| status.eq_ignore_ascii_case("CANCELLED")) {
            continue;
        }
        let (dates, name) = (dates_of(event)?, summary_of(event));
        match is_working(event) {
            true => days.working.extend(dates),
            false => days.off.extend(dates.into_iter().map(|date| (date, name.clone()))),
        }
    }
    match days.working.iter().find(|date| days.off.contains_key(date)) {
        Some(date) => Err(HolidaysError::Both(*date)),
        None => Ok(days),
    }
}

fn check_depth(text: &str) -> Result<(), HolidaysError> {
    let mut depth = 0usize;
    for line in text.lines() {
        let begins =
            |word: &str| line.trim_start().get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        if begins("BEGIN:") {
            depth += 1;
        } else if begins("END:") {
            depth = depth.saturating_sub(1);
        }
        if depth > MAX_DEPTH {
            return Err(HolidaysError::Parse(format!("components lie more than {MAX_DEPTH} deep in each other")));
        }
    }
    if depth > 0 { Err(HolidaysError::Parse("it ends in the middle of a component".into())) } else { Ok(()) }
}

/// Events wherever they lie: some programs write several calendars into one file.
fn collect<'a, 'i>(components: &'a [Component<'i>], events: &mut Vec<&'a Component<'i>>) {
    for component in components {
        match component.name.as_str().eq_ignore_ascii_case("VEVENT") {
            true => events.push(component),
            false => collect(&component.components, events),
        }
    }
}

fn property<'a, 'i>(event: &'a Component<'i>, name: &str) -> Option<&'a Property<'i>> {
    event.properties.iter().find(|property| property.name.as_str().eq_ignore_ascii_case(name))
}

fn value<'a>(event: &'a Component<'_>, name: &str) -> Option<&'a str> {
    property(event, name).map(|property| property.val.as_str())
}

/// The summary as one line that a policy's document and a terminal can show.
fn summary_of(event: &Component<'_>) -> String {
    let text = value(event, "SUMMARY").unwrap_or_default();
    let text = text.replace("\\n", " ").replace("\\N", " ").replace('\\', "");
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect();
    text.trim().to_owned()
}

fn is_working(event: &Component<'_>) -> bool {
    let all = event.properties.iter().filter(|property| {
        ["SUMMARY", "CATEGORIES"].iter().any(|name| property.name.as_str().eq_ignore_ascii_case(name))
    });
    let words = all.map(|property| property.val.as_str().to_lowercase()).collect::<Vec<_>>().join("\n");
    WORKING.iter().any(|word| words.contains(word)) && !OFF.iter().any(|word| words.contains(word))
}

/// The dates of an event; its end is exclusive, and without one it is one day.
fn dates_of(event: &Component<'_>) -> Result<Vec<Date>, HolidaysError> {
    let wrong = |why: &str| {
        let start = value(event, "DTSTART").map_or("without a date".to_owned(), crate::text::printable);
        let event = format!("\"{}\" ({start})", summary_of(event));
        HolidaysError::Event { event, why: why.to_owned() }
    };
    if let Some(name) = REPEATING.iter().find(|name| property(event, name).is_some()) {
        return Err(wrong(&format!(
            "repeats ({name}), and rules of calendars are not followed: export it with every date as an event of its own, or write the dates into [holidays]"
        )));
    }
    if property(event, "DURATION").is_some() {
        return Err(wrong("has a DURATION: write its last day, plus one, as DTEND"));
    }
    let start = value(event, "DTSTART").ok_or_else(|| wrong("has no DTSTART: add its date, or remove the event"))?;
    let date = |text: &str| {
        if text.contains('T') {
            return Err(wrong(
                "has a time of day, and holidays are whole days: make it an all-day event, or remove it",
            ));
        }
        let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = |range: std::ops::Range<usize>| text.get(range)?.parse().ok();
        let date = digits
            .then(|| Some((number(0..4)?, number(4..6)? as i8, number(6..8)? as i8)))
            .flatten()
            .and_then(|(year, month, day)| Date::new(year, month, day).ok());
        date.ok_or_else(|| {
            wrong(&format!("has \"{}\" where a date is due: write it as 20261001", crate::text::printable(text)))
        })
    };
    let first = date(start.trim())?;
    let next = match value(event, "DTEND") {
        Some(end) => date(end.trim())?,
        None => first.tomorrow().map_err(|_| wrong("lies beyond all calendars: correct its DTSTART"))?,
    };
    // Some programs write the same day as the end of an event of one day.
    let next = if next == first { first.tomorrow().unwrap_or(next) } else { next };
    let days = first.until((jiff::Unit::Day, next)).map_or(i32::MAX, |span| span.get_days());
    if days < 1 {
        return Err(wrong("ends before it begins: correct its DTEND, which is the day after its last one"));
    }
    if days > MAX_DAYS {
        return Err(wrong(&format!("lasts {days} days, and a holiday has at most {MAX_DAYS}: correct its DTEND")));
    }
    Ok((0..days).filter_map(|day| first.checked_add(day.days()).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn calendar(events: &[&str]) -> String {
        let events: String = events.iter().map(|event| format!("BEGIN:VEVENT\r\n{event}\r\nEND:VEVENT\r\n")).collect();
        format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\n{events}END:VCALENDAR\r\n")
    }

    #[test]
    fn days_off_and_make_up_days_are_told_apart() {
        let days = read(&calendar(&[
            "DTSTART;VALUE=DATE:20261001\r\nDTEND;VALUE=DATE:20261004\r\nSUMMARY:National\r\n  Day",
            "DTSTART;VALUE=DATE:20261010\r\nSUMMARY:国庆节补班",
            "DTSTART;VALUE=DATE:20261011\r\nSUMMARY:October\r\nCATEGORIES:Holidays,Working Day",
            "DTSTART;VALUE=DATE:20261225\r\nDTEND;VALUE=DATE:20261225\r\nSUMMARY:A non-working day\\, for all",
            "DTSTART;VALUE=DATE:20261226\r\nSTATUS:CANCELLED\r\nSUMMARY:never",
        ]))
        .unwrap();
        let off: Vec<_> = days.off.iter().map(|(date, name)| (*date, name.as_str())).collect();
        assert_eq!(
            off,
            [
                (date(2026, 10, 1), "National Day"),
                (date(2026, 10, 2), "National Day"),
                (date(2026, 10, 3), "National Day"),
                (date(2026, 12, 25), "A non-working day, for all"),
            ]
        );
        assert_eq!(days.working, [date(2026, 10, 10), date(2026, 10, 11)].into());
    }

    #[test]
    fn what_is_not_certain_is_refused_with_the_events_name() {
        let why = |event: &str| read(&calendar(&[event])).unwrap_err().to_string();
        let cases = [
            (
                "DTSTART;VALUE=DATE:20261225\r\nRRULE:FREQ=YEARLY\r\nSUMMARY:X-mas",
                "\"X-mas\" (20261225) repeats (RRULE)",
            ),
            ("DTSTART:20261225T080000Z\r\nSUMMARY:X", "has a time of day"),
            ("SUMMARY:X", "\"X\" (without a date) has no DTSTART"),
            ("DTSTART;VALUE=DATE:20261332\r\nSUMMARY:X", "has \"20261332\" where a date is due"),
            ("DTSTART;VALUE=DATE:20261225\r\nDTEND;VALUE=DATE:20261224\r\nSUMMARY:X", "ends before it begins"),
            ("DTSTART;VALUE=DATE:20260101\r\nDTEND;VALUE=DATE:20261224\r\nSUMMARY:X", "lasts 357 days"),
            ("DTSTART;VALUE=DATE:20261225\r\nDURATION:P1D\r\nSUMMARY:X", "has a DURATION"),
        ];
        for (event, wanted) in cases {
            let said = why(event);
            assert!(said.contains(wanted) && said.ends_with("; nothing was imported"), "{said}");
        }
        let both = calendar(&["DTSTART:20261010\r\nSUMMARY:off", "DTSTART:20261010\r\nSUMMARY:补班"]);
        assert!(
            read(&both).unwrap_err().to_string().contains("both that 2026-10-10 is a day off and that it is worked")
        );
        assert_eq!(read(&calendar(&[])).unwrap_err(), HolidaysError::Empty);
    }

    #[test]
    fn hostile_calendars_are_refused_before_they_cost_anything() {
        assert_eq!(read(&" ".repeat(MAX_CALENDAR + 1)).unwrap_err(), HolidaysError::Large(MAX_CALENDAR + 1));
        let deep = read(&"BEGIN:A\n".repeat(100_000)).unwrap_err().to_string();
        assert!(deep.contains("more than 8 deep"), "{deep}");
        assert!(
            read("BEGIN:VCALENDAR\nBEGIN:VEVENT\n").unwrap_err().to_string().contains("in the middle of a component")
        );
        for text in ["", "nonsense", "BEGIN:", "BEGIN:VCALENDAR\nEND:VEVENT\n", "BEGIN:VCALENDAR\n;;\nEND:VCALENDAR\n"]
        {
            assert!(read(text).is_err(), "{text}");
        }
        // The largest that is parsed: many events, and one value that fills it.
        let events = vec!["DTSTART:20261001\r\nSUMMARY:a"; 15_000];
        assert_eq!(read(&calendar(&events)).unwrap().off.len(), 1);
        let long = format!("DTSTART:20261001\r\nSUMMARY:{}", "a;=:\"".repeat(200_000));
        assert!(read(&calendar(&[&long])).is_ok());
    }
}
