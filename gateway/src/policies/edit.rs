//! A changed policy in its author's own words: what changed is put into the text as it was written, so that comments, order and spelling stay.
//!
//! Only version, overrides, hold and holidays change other than by `policy set`. New parts are taken from the policy's plain text. What comes out is read
//! again and must say what the policy says; where it does not, the plain text takes its place, without comments.

use jiff::civil::Date;
use shaping::policy::Policy;
use std::collections::BTreeMap;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, RawString, Table, Value};

/// Days of one entry at most, as documents are read.
const MOST_DAYS: i32 = 60;

/// The text of `policy`, written into `document`, from which it came; plain where that cannot be done.
pub(super) fn edited(document: &str, policy: &Policy) -> String {
    let plain = policy.text();
    let same = |text: &String| Policy::parse(text).is_ok_and(|read| read.text() == plain);
    edit(document, &plain).filter(same).unwrap_or(plain)
}

fn edit(document: &str, plain: &str) -> Option<String> {
    let mut text: DocumentMut = document.parse().ok()?;
    let new: DocumentMut = plain.parse().ok()?;
    replace(text.get_mut("version")?.as_value_mut()?, new.get("version")?.as_value()?);
    overrides(&mut text, &new)?;
    match (text.contains_key("hold"), new.get("hold")) {
        (true, None) => drop(text.remove("hold")),
        (false, Some(hold)) => drop(text.insert("hold", Item::Table(fresh(hold.as_table()?)))),
        _ => {}
    }
    holidays(&mut text, &new)?;
    Some(text.to_string())
}

/// Ended ones go, with the comments above them; new ones come after the others.
fn overrides(text: &mut DocumentMut, new: &DocumentMut) -> Option<()> {
    let id = |table: &Table| table.get("id").and_then(Item::as_integer);
    let none = ArrayOfTables::new();
    let wanted = new.get("overrides").map_or(Some(&none), Item::as_array_of_tables)?;
    if wanted.is_empty() {
        text.remove("overrides");
        return Some(());
    }
    let there =
        text.entry("overrides").or_insert(Item::ArrayOfTables(ArrayOfTables::new())).as_array_of_tables_mut()?;
    there.retain(|table| wanted.iter().any(|other| id(other) == id(table)));
    for table in wanted {
        if there.iter().all(|other| id(other) != id(table)) {
            there.push(fresh(table));
        }
    }
    Some(())
}

pub(super) fn holidays(text: &mut DocumentMut, new: &DocumentMut) -> Option<()> {
    let new = new.get("holidays")?;
    for list in ["off", "working"] {
        let mut wanted = days(new.get(list)?.as_array()?)?;
        let there = match text.get_mut("holidays") {
            None if wanted.is_empty() => continue,
            None => text.entry("holidays").or_insert(Item::Table(Table::new())),
            Some(there) => there,
        };
        let there = there.as_table_like_mut()?;
        if !there.contains_key(list) {
            if wanted.is_empty() {
                continue;
            }
            there.insert(list, Item::Value(Value::Array(Array::new())));
        }
        rewrite(there.get_mut(list)?.as_array_mut()?, &mut wanted)?;
    }
    Some(())
}

/// Leaves the entries that still hold, puts in the place of others what is left of them, and adds what is new at the end.
fn rewrite(array: &mut Array, wanted: &mut BTreeMap<Date, String>) -> Option<()> {
    let mut at = 0;
    while at < array.len() {
        let entry = entry_days(array.get(at)?.as_str()?)?;
        if entry.iter().all(|(date, name)| wanted.get(date) == Some(name)) {
            entry.keys().for_each(|date| drop(wanted.remove(date)));
            at += 1;
            continue;
        }
        // What is still wanted of it is added below, day by day.
        let gone = array.remove(at);
        let above = gone.decor().prefix().and_then(RawString::as_str).unwrap_or_default().to_owned();
        match array.get_mut(at) {
            Some(next) if above.contains('#') => {
                let own = next.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
                let both = format!("{}{own}", above.trim_end());
                next.decor_mut().set_prefix(both);
            }
            None if above.contains('#') => {
                let own = array.trailing().as_str().unwrap_or_default();
                array.set_trailing(format!("{}{own}", above.trim_end()));
            }
            _ => {}
        }
    }
    for (first, last, name) in runs(std::mem::take(wanted)) {
        let span = if first == last { first.to_string() } else { format!("{first}..{last}") };
        push(array, format!("{span} {name}").trim_end());
    }
    Some(())
}

/// Days that follow each other under one name, as people write them. What has no name is a make-up working day, of which each stands by itself.
pub(crate) fn runs(days: BTreeMap<Date, String>) -> Vec<(Date, Date, String)> {
    let mut runs: Vec<(Date, Date, String)> = Vec::new();
    for (date, name) in days {
        match runs.last_mut() {
            Some((first, last, known))
                if *known == name
                    && !name.is_empty()
                    && last.tomorrow().is_ok_and(|next| next == date)
                    && (date - *first).get_days() < MOST_DAYS =>
            {
                *last = date;
            }
            _ => runs.push((date, date, name)),
        }
    }
    runs
}

/// Adds an entry at the end, in a line of its own where the others are.
fn push(array: &mut Array, entry: &str) {
    let prefix = |value: &Value| value.decor().prefix().and_then(RawString::as_str).map(str::to_owned);
    let first = array.get(0).and_then(prefix).unwrap_or_default();
    let mut value = Value::from(entry);
    if let Some((_, indent)) = first.rsplit_once('\n').filter(|_| !array.is_empty()) {
        // A comment behind the last entry stays behind it.
        let behind = array.trailing().as_str().unwrap_or_default().trim_end().to_owned();
        value.decor_mut().set_prefix(format!("{behind}\n{indent}"));
        array.set_trailing("\n");
        array.set_trailing_comma(true);
        array.push_formatted(value);
    } else {
        array.push(value);
    }
}

/// The dates of a list, with their names.
fn days(array: &Array) -> Option<BTreeMap<Date, String>> {
    array.iter().map(|entry| entry_days(entry.as_str()?)).try_fold(BTreeMap::new(), |mut all, days| {
        all.extend(days?);
        Some(all)
    })
}

/// `2026-10-01..2026-10-07 National Day`, day by day.
fn entry_days(entry: &str) -> Option<BTreeMap<Date, String>> {
    let (span, name) = entry.trim().split_once(' ').unwrap_or((entry.trim(), ""));
    let (from, to) = span.split_once("..").unwrap_or((span, span));
    let (from, to): (Date, Date) = (from.parse().ok()?, to.parse().ok()?);
    let dates = from.series(jiff::Span::new().days(1)).take_while(|date| *date <= to);
    Some(dates.map(|date| (date, name.trim().to_owned())).collect())
}

/// A table of its own, an empty line above it.
pub(super) fn fresh(table: &Table) -> Table {
    let mut fresh = Table::new();
    table.iter().for_each(|(key, item)| drop(fresh.insert(key, item.clone())));
    fresh.decor_mut().set_prefix("\n");
    fresh
}

/// Another value with the spaces and comments around the old one.
pub(super) fn replace(old: &mut Value, new: &Value) {
    let decor = old.decor().clone();
    *old = new.clone();
    *old.decor_mut() = decor;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_put_into_the_text_is_written_plainly() {
        // Overrides as an inline list: not edited, and nothing is lost but the comment.
        let inline = "version = 1 # ours\nzone = \"UTC\"\noverrides = [{ id = 1, bend = \"pause\", from = \
                      \"2026-11-23T10:00:00Z\", until = \"2026-11-23T18:00:00Z\", actor = \"a\", reason = \"r\" }]\n\
                      [line]\nup = \"2 Mbit/s\"\n";
        let mut policy = Policy::parse(inline).unwrap();
        policy.version = 2;
        assert_eq!(edited(inline, &policy), policy.text());
    }

    #[test]
    fn days_leave_and_enter_lists_and_comments_stay_where_they_were() {
        let written = "version = 1\nzone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\n[holidays]\noff = [ # by the ministry\n  \
                       \"2026-10-01..2026-10-03 National Day\", # the long one\n  \"2026-12-25 Christmas\", # only here\n]\n";
        let mut policy = Policy::parse(written).unwrap();
        policy.version = 2;
        let off = &mut policy.holidays.off;
        off.remove(&"2026-10-02".parse().unwrap());
        off.insert("2027-01-01".parse().unwrap(), "New Year".into());
        policy.holidays.working.insert("2026-10-02".parse().unwrap());
        let wanted = "version = 2\nzone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\n[holidays]\noff = [ # by the ministry # the long one\n  \
                      \"2026-12-25 Christmas\", # only here\n  \"2026-10-01 National Day\",\n  \"2026-10-03 National Day\",\n  \
                      \"2027-01-01 New Year\",\n]\nworking = [\"2026-10-02\"]\n";
        assert_eq!(edited(written, &policy), wanted);
    }
}
