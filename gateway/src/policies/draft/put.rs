//! A draft put into a document's text: only what differs from what the text says is touched.

use super::super::edit::{self, fresh, replace};
use super::Draft;
use shaping::policy::When;
use shaping::policy::grid::{CELL_MINUTES, DAYS, days_of, time_text};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Key, Table, TableLike, Value};

/// `document`, which says `base`, changed to say `draft`. `None`: its text is built in a way that cannot be edited so.
pub(super) fn put(document: &str, base: &Draft, draft: &Draft) -> Option<String> {
    let mut text: DocumentMut = document.parse().ok()?;
    set(text.as_table_mut(), "zone", &base.zone, &draft.zone)?;
    line(text.get_mut("line")?.as_table_like_mut()?, base, draft)?;
    profiles(&mut text, base, draft)?;
    grid(&mut text, base, draft)?;
    holidays(&mut text, base, draft)?;
    rules(&mut text, "exceptions", &exceptions_of(base), &exceptions_of(draft))?;
    rules(&mut text, "blackouts", &blackouts_of(base), &blackouts_of(draft))?;
    renamed(&mut text, draft)?;
    Some(text.to_string())
}

fn set(table: &mut dyn TableLike, key: &str, was: &str, will: &str) -> Option<()> {
    if was != will {
        match table.get_mut(key) {
            Some(item) => replace(item.as_value_mut()?, &will.into()),
            None => drop(table.insert(key, Item::Value(will.into()))),
        }
    }
    Some(())
}

fn line(table: &mut dyn TableLike, base: &Draft, draft: &Draft) -> Option<()> {
    let (was, will) = (&base.line, &draft.line);
    set(table, "up", &was.up, &will.up)?;
    // Where the text does not say it, the line carries as much towards the site.
    let down = if table.contains_key("down") { &was.down } else { &will.up };
    set(table, "down", down, &will.down)?;
    set(table, "cap", &was.cap, &will.cap)?;
    set(table, "courtesy", &was.courtesy, &will.courtesy)
}

// ---- profiles

fn profiles(text: &mut DocumentMut, base: &Draft, draft: &Draft) -> Option<()> {
    let (was, will) = (&base.profiles[1..], &draft.profiles[1..]);
    if was.len() == will.len() && will.iter().all(|profile| profile.was.is_none() && was.contains(profile)) {
        return Some(());
    }
    let table = text.entry("profiles").or_insert_with(|| Item::Table(fresh(&Table::new()))).as_table_mut()?;
    // All at once, so that names may be swapped.
    rebuild(table, |key, item| {
        let now = will.iter().find(|profile| profile.was.as_deref() == Some(key.get()));
        let stays = will.iter().any(|profile| profile.was.is_none() && profile.name == key.get());
        match now {
            Some(profile) => vec![(named_anew(&key, &profile.name), item)],
            None if stays => vec![(key, item)],
            None => Vec::new(),
        }
    });
    for profile in will {
        let from = profile.was.as_deref().unwrap_or(&profile.name);
        let same =
            was.iter().any(|known| known.name == from && (&known.up, &known.down) == (&profile.up, &profile.down));
        let value = match profile.up == profile.down {
            true => Value::from(profile.up.as_str()),
            false => {
                let mut each = InlineTable::new();
                each.insert("up", profile.up.as_str().into());
                each.insert("down", profile.down.as_str().into());
                Value::InlineTable(each)
            }
        };
        match table.get_mut(&profile.name) {
            Some(_) if same => {}
            Some(Item::Value(there)) => replace(there, &value),
            Some(there) => *there = Item::Value(value),
            None => drop(table.insert(&profile.name, Item::Value(value))),
        }
    }
    Some(())
}

/// Quotas and the clock name profiles too.
fn renamed(text: &mut DocumentMut, draft: &Draft) -> Option<()> {
    let new_name = |name: &str| {
        let found = draft.profiles.iter().find(|profile| profile.was.as_deref() == Some(name));
        found.map(|profile| profile.name.clone())
    };
    if let Some(untrusted) = text.get_mut("clock").and_then(|clock| clock.as_table_like_mut()?.get_mut("untrusted"))
        && let Some(name) = new_name(untrusted.as_str()?)
    {
        replace(untrusted.as_value_mut()?, &name.into());
    }
    let Some(quotas) = text.get_mut("quotas") else { return Some(()) };
    for quota in quotas.as_array_of_tables_mut()?.iter_mut() {
        let Some(soft) = quota.get_mut("soft") else { continue };
        let (percent, name) = soft.as_str()?.split_once('%')?;
        if let Some(name) = new_name(name.trim()) {
            let value = format!("{percent}% {name}");
            replace(soft.as_value_mut()?, &value.into());
        }
    }
    Some(())
}

// ---- the grid

/// Lines whose days all look as before stay; where days of one line part, the line keeps those that look as before, else those of the first.
fn grid(text: &mut DocumentMut, base: &Draft, draft: &Draft) -> Option<()> {
    let same: Vec<bool> = (0..DAYS).map(|day| base.names(day) == draft.names(day)).collect();
    if same.iter().all(|same| *same) {
        return Some(());
    }
    let rows: Vec<String> = (0..DAYS).map(|day| row_text(&draft.names(day))).collect();
    let table = text.entry("grid").or_insert_with(|| Item::Table(fresh(&Table::new()))).as_table_mut()?;
    let lines: Vec<(String, Vec<usize>)> =
        table.iter().map(|(key, _)| Some((key.to_owned(), days_of(key).ok()?))).collect::<Option<_>>()?;
    // What no line says is closed.
    let closed = |day: &usize| rows[*day] == CLOSED_DAY && lines.iter().all(|(_, days)| !days.contains(day));
    let mut left: Vec<usize> = (0..DAYS).filter(|day| !closed(day)).collect();
    let new_line = |days: Vec<usize>, left: &mut Vec<usize>| {
        left.retain(|day| !days.contains(day));
        let row = rows[days[0]].as_str();
        (Key::new(When::Days(days).to_string()), Item::Value(row.into()))
    };
    rebuild(table, |key, item| {
        let Some((_, days)) = lines.iter().find(|(line, _)| line == key.get()) else { return vec![(key, item)] };
        let Some(first) = days.iter().find(|day| same[**day]).or(days.first()) else { return Vec::new() };
        let kept: Vec<usize> = days.iter().copied().filter(|day| rows[*day] == rows[*first]).collect();
        left.retain(|day| !kept.contains(day));
        let mut item = item;
        if let (false, Some(value)) = (same[*first], item.as_value_mut()) {
            replace(value, &rows[*first].as_str().into());
        }
        let name = When::Days(kept.clone()).to_string();
        let mut lines = vec![(if kept == *days { key } else { named_anew(&key, &name) }, item)];
        // Those that parted from it stand below it.
        while let Some(parted) = days.iter().find(|day| left.contains(day)) {
            let alike = days.iter().copied().filter(|day| rows[*day] == rows[*parted]).collect();
            lines.push(new_line(alike, &mut left));
        }
        lines
    });
    while let Some(first) = left.first().copied() {
        let alike = left.iter().copied().filter(|day| rows[*day] == rows[first]).collect();
        let (key, item) = new_line(alike, &mut left);
        table.insert_formatted(&key, item);
    }
    Some(())
}

/// Puts in the place of each entry those that it becomes.
fn rebuild(table: &mut Table, mut each: impl FnMut(Key, Item) -> Vec<(Key, Item)>) {
    let keys: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
    let entries: Vec<(Key, Item)> = keys.iter().filter_map(|key| table.remove_entry(key)).collect();
    for (key, item) in entries.into_iter().flat_map(|(key, item)| each(key, item)) {
        table.insert_formatted(&key, item);
    }
}

/// Another name with the comments around the old one.
fn named_anew(key: &Key, name: &str) -> Key {
    Key::new(name).with_leaf_decor(key.leaf_decor().clone())
}

/// A day on which nothing is painted.
const CLOSED_DAY: &str = "00:00 closed";

/// A day as documents write it.
fn row_text(names: &[&str]) -> String {
    let mut parts = Vec::new();
    let mut before = "closed";
    for (cell, name) in names.iter().enumerate() {
        if *name != before {
            parts.push(format!("{} {name}", time_text(cell * CELL_MINUTES)));
            before = name;
        }
    }
    if parts.is_empty() { CLOSED_DAY.into() } else { parts.join(" ") }
}

// ---- dates

fn holidays(text: &mut DocumentMut, base: &Draft, draft: &Draft) -> Option<()> {
    let (was, will) = (&base.holidays, &draft.holidays);
    if was == will {
        return Some(());
    }
    if (&was.row, &was.working_as) != (&will.row, &will.working_as) {
        let table = text.entry("holidays").or_insert_with(|| Item::Table(fresh(&Table::new()))).as_table_like_mut()?;
        match &will.row {
            Some(row) => set(table, "as", was.row.as_deref().unwrap_or_default(), row)?,
            None => drop(table.remove("as")),
        }
        set(table, "working_as", &was.working_as, &will.working_as)?;
    }
    // Day by day, as `edit` compares them.
    let (mut off, mut working) = (Array::new(), Array::new());
    for days in &will.off {
        off.push(format!("{}..{} {}", days.from.trim(), days.to.trim(), one_line(&days.name)).trim_end());
    }
    will.working.iter().for_each(|day| working.push(day.trim()));
    let mut lists = Table::new();
    lists.insert("off", Item::Value(off.into()));
    lists.insert("working", Item::Value(working.into()));
    let mut new = DocumentMut::new();
    new.insert("holidays", Item::Table(lists));
    edit::holidays(text, &new)
}

/// A rule as its fields, the first of which is its name.
struct Rule<'a> {
    was: Option<usize>,
    fields: [(&'static str, &'a str); 4],
}

fn exceptions_of(draft: &Draft) -> Vec<Rule<'_>> {
    let of = draft.exceptions.iter().map(|rule| Rule {
        was: rule.was,
        fields: [("name", &rule.name), ("when", &rule.when), ("hours", &rule.hours), ("profile", &rule.profile)],
    });
    of.collect()
}

fn blackouts_of(draft: &Draft) -> Vec<Rule<'_>> {
    let of = draft.blackouts.iter().map(|rule| Rule {
        was: rule.was,
        fields: [("name", &rule.name), ("when", &rule.when), ("hours", &rule.hours), ("kind", &rule.kind)],
    });
    of.collect()
}

/// Rules that are kept stay where they are with what is written around them, those that are gone go with the comments above them, new ones come last.
fn rules(text: &mut DocumentMut, key: &str, base: &[Rule<'_>], draft: &[Rule<'_>]) -> Option<()> {
    let unchanged = base.len() == draft.len()
        && draft.iter().enumerate().all(|(at, rule)| rule.was == Some(at) && rule.fields == base[at].fields);
    if unchanged {
        return Some(());
    }
    let there = match text.get(key) {
        Some(item) => item.as_array_of_tables()?.clone(),
        None => ArrayOfTables::new(),
    };
    let mut rules = ArrayOfTables::new();
    for rule in draft {
        let known = rule.was.and_then(|was| Some((there.get(was)?, base.get(was)?)));
        let mut table = known.map_or_else(|| fresh(&Table::new()), |(table, _)| table.clone());
        for (at, (field, value)) in rule.fields.iter().enumerate() {
            // What a document need not say is said where it differs from what then holds.
            let usual = match *field {
                "hours" => "00:00-24:00",
                "kind" => "data",
                _ => "",
            };
            let was = known.filter(|(table, _)| table.contains_key(field)).map_or(usual, |(_, base)| base.fields[at].1);
            set(&mut table, field, was, one_line(value).as_str())?;
        }
        rules.push(table);
    }
    match rules.is_empty() {
        true => drop(text.remove(key)),
        false => drop(text.insert(key, Item::ArrayOfTables(rules))),
    }
    Some(())
}

/// What people type becomes one line of a document.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}
