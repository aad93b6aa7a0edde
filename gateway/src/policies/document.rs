//! The version in an operator's document. The gateway counts; what the document says is not believed, and the rest is left as it was written.

use super::ChangeError;
use jiff::civil::Date;
use serde::Deserialize;
use shaping::policy::{Policy, PolicyError};
use toml::Spanned;

/// How far ahead exceptions are looked at for contradictions.
const AHEAD_DAYS: u32 = 400;

#[derive(Deserialize)]
struct Head {
    version: Option<Spanned<toml::Value>>,
}

/// The document with this version: in the place of the one that it has; else in an empty or comment line of its head, so that lines keep their
/// numbers in errors; else in a line of its own before all others, and then `true`.
pub(super) fn numbered(document: &str, version: u64) -> (String, bool) {
    // What does not parse is for `Policy::parse` to complain about.
    let head = toml::from_str::<Head>(document).unwrap_or(Head { version: None });
    if let Some(said) = head.version {
        let (before, after) = (&document[..said.span().start], &document[said.span().end..]);
        return (format!("{before}{version}{after}"), false);
    }
    let mut at = 0;
    for line in document.split_inclusive('\n') {
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            let space = if text.is_empty() { "" } else { " " };
            return (format!("{}version = {version}{space}{}", &document[..at], &document[at..]), false);
        }
        if text.starts_with('[') || text.contains("\"\"\"") || text.contains("'''") || text.ends_with(['[', '{', ',']) {
            break; // the head ends, or a value goes on over several lines
        }
        at += line.len();
    }
    (format!("version = {version}\n{document}"), true)
}

/// Reads a document with this version and checks all that can be: each field, and that no exceptions contradict each other within 400 days
/// from today on. `now` is when today is, in the document's zone.
pub(super) fn parse(document: &str, version: u64, now: jiff::Timestamp) -> Result<(Policy, String), ChangeError> {
    let (text, moved) = numbered(document, version);
    let policy = Policy::parse(&text).map_err(|error| if moved { one_line_up(error) } else { error })?;
    check_dates(&policy, policy.zone.to_datetime(now).date())?;
    let mut ids: Vec<u64> = policy.overrides.iter().map(|bend| bend.id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ChangeError::SameId(pair[0])),
        None => Ok((policy, text)),
    }
}

/// Checks a document that is in no gateway yet, as `policy set` would. `now`: when today is.
pub fn check(document: &str, now: jiff::Timestamp) -> Result<Policy, ChangeError> {
    parse(document, 1, now).map(|(policy, _)| policy)
}

pub(super) fn check_dates(policy: &Policy, today: Date) -> Result<(), PolicyError> {
    // The day before is where a rule that runs over midnight into today begins.
    policy.check_overlaps(today.yesterday().unwrap_or(today), AHEAD_DAYS + 1)
}

/// An error of a document that was given a line more than its author wrote.
fn one_line_up(error: PolicyError) -> PolicyError {
    match error {
        PolicyError::Field { line, field, why } => PolicyError::Field { line: line - 1, field, why },
        PolicyError::Parse(why) => {
            PolicyError::Parse(format!("{why}\n(lines are counted with `version = …`, which was put before the first)"))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    #[test]
    fn the_version_is_the_gateways_and_everything_else_the_operators() {
        let line = "[line]\nup = \"2 Mbit/s\"\n";
        let cases = [
            (
                format!("version = 7 # mine\nzone = \"UTC\"\n{line}"),
                format!("version = 3 # mine\nzone = \"UTC\"\n{line}"),
            ),
            (format!("version = \"x\"\nzone = \"UTC\"\n{line}"), format!("version = 3\nzone = \"UTC\"\n{line}")),
            (format!("# ours\nzone = \"UTC\"\n{line}"), format!("version = 3 # ours\nzone = \"UTC\"\n{line}")),
            (format!("zone = \"UTC\"\n\n{line}"), format!("zone = \"UTC\"\nversion = 3\n{line}")),
            (format!("zone = \"UTC\"\n{line}"), format!("version = 3\nzone = \"UTC\"\n{line}")),
        ];
        for (written, wanted) in cases {
            let (policy, text) = parse(&written, 3, NOW).unwrap();
            assert_eq!((policy.version, text.as_str()), (3, wanted.as_str()));
        }
    }

    #[test]
    fn errors_count_the_lines_that_the_operator_wrote() {
        let why = |text: &str| check(text, NOW).unwrap_err().to_string();
        for head in ["version = 1\nzone", "\nzone", "# a\nzone", "version = 0\nzone"] {
            let error = why(&format!("{head} = \"UTC\"\n[line]\nup = \"2 Mb\"\n"));
            assert!(error.starts_with("line 4: `up`: ") && error.contains("Mbit/s"), "{error}");
        }
        let error = why("zone = \"UTC\"\n[line]\nup = \"2 Mb\"\n");
        assert!(error.starts_with("line 3: `up`: "), "{error}");
        let error = why("zone = \"UTC\"\n[line]\nupp = \"2 Mbit/s\"\n");
        assert!(error.contains("line 4") && error.contains("lines are counted with `version = …`"), "{error}");
        let error = why("zone = \"UTC\"\n[line\n");
        assert!(error.contains("the policy does not parse"), "{error}");
    }

    #[test]
    fn contradictions_from_today_on_and_ids_used_twice_are_refused() {
        let head = "version = 1\nzone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\n[profiles]\nday = \"50 %\"\n";
        let rule = |name: &str, profile: &str| {
            format!("[[exceptions]]\nname = \"{name}\"\nwhen = \"1970-01-01\"\nprofile = \"{profile}\"\n")
        };
        let both = format!("{head}{}{}", rule("a", "day"), rule("b", "closed"));
        let error = check(&both, NOW).unwrap_err().to_string();
        assert!(error.contains("\"a\" and \"b\" overlap on 1970-01-01"), "{error}");
        assert!(check(&both, NOW + jiff::SignedDuration::from_hours(24)).is_ok(), "that day has passed");
        let bend = "[[overrides]]\nid = 4\nbend = \"pause\"\nfrom = \"2026-11-24T00:00:00Z\"\nuntil = \"2026-11-24T01:00:00Z\"\nactor = \"li\"\nreason = \"r\"\n";
        let twice = check(&format!("{head}{bend}{bend}"), NOW).unwrap_err().to_string();
        assert_eq!(twice, "two overrides of the document have the id 4: give each its own");
    }
}
