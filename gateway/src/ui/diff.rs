//! How two documents differ, line by line: for whoever has to agree to one.

use maud::{Markup, html};

/// Lines of a document that are compared; a policy has at most 64 KiB, and few have a hundred lines.
const MOST_LINES: usize = 1500;
/// Lines that stay the same and are shown around what differs.
const AROUND: usize = 3;

/// One line of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// In both.
    Same(&'a str),
    /// Only in the one before.
    Out(&'a str),
    /// Only in the one after.
    In(&'a str),
}

/// The shortest way from one document to the other. The gateway's own count of versions is no difference.
pub(super) fn lines<'a>(before: &'a str, after: &'a str) -> Vec<Line<'a>> {
    let read = |text: &'a str| -> Vec<&'a str> {
        text.lines().map(without_version).filter(|line| *line != VERSION).take(MOST_LINES).collect()
    };
    let (old, new) = (read(before), read(after));
    let same = |(a, b): &(&&str, &&str)| a == b;
    let head = old.iter().zip(&new).take_while(same).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(same).count();
    let (old_end, new_end) = (old.len() - tail, new.len() - tail);
    let mut out: Vec<Line<'a>> = old[..head].iter().map(|line| Line::Same(line)).collect();
    middle(&old[head..old_end], &new[head..new_end], &mut out);
    out.extend(old[old_end..].iter().map(|line| Line::Same(line)));
    out
}

const VERSION: &str = "";

/// `version = 7`, alone or before a comment, is for the gateway alone.
fn without_version(line: &str) -> &str {
    let Some(rest) = line.trim_start().strip_prefix("version") else { return line_or_blank(line) };
    let Some(value) = rest.trim_start().strip_prefix('=') else { return line_or_blank(line) };
    let value = value.trim_start();
    let rest = value.trim_start_matches(|digit: char| digit.is_ascii_digit()).trim_start();
    if rest.len() < value.len() { rest } else { line_or_blank(line) }
}

/// Blank lines say nothing: they are left out, as `VERSION` is.
fn line_or_blank(line: &str) -> &str {
    if line.trim().is_empty() { VERSION } else { line }
}

/// Longest common subsequence, by a table: at most [`MOST_LINES`] squared, 2 bytes each.
fn middle<'a>(old: &[&'a str], new: &[&'a str], out: &mut Vec<Line<'a>>) {
    let width = new.len() + 1;
    let mut longest = vec![0u16; (old.len() + 1) * width];
    for at in (0..old.len()).rev() {
        for other in (0..new.len()).rev() {
            longest[at * width + other] = match old[at] == new[other] {
                true => longest[(at + 1) * width + other + 1] + 1,
                false => longest[(at + 1) * width + other].max(longest[at * width + other + 1]),
            };
        }
    }
    let (mut at, mut other) = (0, 0);
    while at < old.len() || other < new.len() {
        if at < old.len() && other < new.len() && old[at] == new[other] {
            out.push(Line::Same(old[at]));
            (at, other) = (at + 1, other + 1);
        } else if other == new.len()
            || (at < old.len() && longest[(at + 1) * width + other] >= longest[at * width + other + 1])
        {
            out.push(Line::Out(old[at]));
            at += 1;
        } else {
            out.push(Line::In(new[other]));
            other += 1;
        }
    }
}

/// A difference as people read it: what changed, with a few lines around it.
pub(super) fn draw(before: &str, after: &str) -> Markup {
    let all = lines(before, after);
    let is_change = |at: usize| !matches!(all[at], Line::Same(_));
    let near = |at: usize| (at.saturating_sub(AROUND)..(at + AROUND + 1).min(all.len())).any(is_change);
    html! {
        div.diff tabindex="0" {
            @for (at, line) in all.iter().enumerate() {
                @match line {
                    Line::Out(text) => { div.out { "- " (text) } }
                    Line::In(text) => { div.in { "+ " (text) } }
                    Line::Same(text) if near(at) => { div { "  " (text) } }
                    Line::Same(_) if at == 0 || near(at - 1) => { div.cut { "  ⋯" } }
                    Line::Same(_) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_shown_and_versions_and_blank_lines_are_not() {
        let before = "version = 3\nzone = \"UTC\"\n\n[line]\nup = \"2 Mbit/s\"\ncap = \"80 %\"\n";
        let after = "# ours\nzone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\ncap = \"90 %\"\nversion = 12 # mine\n";
        let found: Vec<Line<'_>> =
            lines(before, after).into_iter().filter(|line| !matches!(line, Line::Same(_))).collect();
        assert_eq!(
            found,
            [Line::In("# ours"), Line::Out("cap = \"80 %\""), Line::In("cap = \"90 %\""), Line::In("# mine")]
        );
        assert!(lines(before, before).iter().all(|line| matches!(line, Line::Same(_))));
        assert_eq!(lines("", "a\n"), [Line::In("a")]);
        assert_eq!(lines("versions = 1\n", ""), [Line::Out("versions = 1")]);
    }

    #[test]
    fn every_line_of_both_is_in_the_difference() {
        // By a fixed sequence of pseudorandom lines: both documents come back whole.
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ["a", "b", "c", "d"][(seed >> 24) as usize % 4]
        };
        for _ in 0..200 {
            let (old, new): (Vec<&str>, Vec<&str>) =
                ((0..12).map(|_| next()).collect(), (0..9).map(|_| next()).collect());
            let (before, after) = (old.join("\n"), new.join("\n"));
            let found = lines(&before, &after);
            let left: Vec<&str> = found
                .iter()
                .filter_map(|line| match line {
                    Line::Same(text) | Line::Out(text) => Some(*text),
                    Line::In(_) => None,
                })
                .collect();
            let right: Vec<&str> = found
                .iter()
                .filter_map(|line| match line {
                    Line::Same(text) | Line::In(text) => Some(*text),
                    Line::Out(_) => None,
                })
                .collect();
            assert_eq!((left, right), (old, new));
        }
    }

    #[test]
    fn markup_in_a_document_stays_text() {
        let drawn = draw("", "name = \"<script>alert(1)</script>\"\n").into_string();
        assert!(!drawn.contains("<script>") && drawn.contains("&lt;script&gt;"), "{drawn}");
    }
}
