//! A policy as a TOML document: read with errors that name line, field and remedy, and written again.

use super::calendar::WhenError;
use super::grid::{self, GridError, cell_of, days_of, days_text, time_text};
use super::{
    Bend, Blackout, BlackoutKind, Exception, Grid, Hold, Holidays, Hours, Line, Override, Period, Policy, Profile,
    ProfileNumber, QuotaRule, Share, VolumeClass, VolumeRule, When,
};
use crate::units::{BitsPerSec, Rate};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, ToSpan};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;
use toml::Spanned;

/// Bytes of a document at most: a year of exceptions of every day is a tenth of it.
pub(crate) const MAX_DOCUMENT: usize = 64 << 10;
/// Entries of one list at most.
const MAX_ENTRIES: usize = 1000;
/// Profiles at most: more than anybody can tell apart.
const MAX_PROFILES: usize = 32;
/// The longest that an override may last: what is meant for longer belongs into the schedule.
const LONGEST_OVERRIDE: SignedDuration = SignedDuration::from_hours(31 * 24);
/// Courtesy's bounds: below a millisecond is noise, above a second no courtesy.
const COURTESY_MS: std::ops::RangeInclusive<u128> = 1..=1000;
/// What the first profile is called.
const CLOSED: &str = "closed";

/// Why a document is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Larger than any policy.
    #[error("the policy has {0} bytes; at most {MAX_DOCUMENT} are read")]
    Large(usize),
    /// It is not TOML, or has a field that there is not.
    #[error("the policy does not parse: {0}")]
    Parse(String),
    /// A field has a value that it cannot have.
    #[error("line {line}: `{field}`: {why}")]
    Field {
        /// The line, from 1.
        line: usize,
        /// The field.
        field: String,
        /// What is wrong and what to write instead.
        why: String,
    },
    /// Two exceptions want different things of the same time.
    #[error(
        "the exceptions \"{one}\" and \"{other}\" overlap on {date} and want different profiles: change the dates or hours of one"
    )]
    Overlap {
        /// The one listed first.
        one: String,
        /// The other.
        other: String,
        /// The first date on which they do.
        date: Date,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: Spanned<i64>,
    zone: Spanned<String>,
    line: RawLine,
    #[serde(default)]
    profiles: BTreeMap<Spanned<String>, RawProfile>,
    #[serde(default)]
    grid: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    holidays: RawHolidays,
    #[serde(default)]
    exceptions: Vec<RawException>,
    #[serde(default)]
    blackouts: Vec<RawBlackout>,
    #[serde(default)]
    overrides: Vec<RawOverride>,
    hold: Option<RawHold>,
    #[serde(default)]
    quotas: Vec<RawQuota>,
    #[serde(default)]
    volumes: Vec<RawVolume>,
    #[serde(default)]
    clock: RawClock,
    #[serde(default)]
    local: RawLocal,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    up: Spanned<String>,
    down: Option<Spanned<String>>,
    cap: Option<Spanned<String>>,
    courtesy: Option<Spanned<String>>,
    packet_overhead: Option<Spanned<i64>>,
}

/// `"80 %"`, or `{ up = "80 %", down = "50 %" }`.
type RawProfile = Spanned<toml::Value>;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHolidays {
    #[serde(rename = "as")]
    row: Option<Spanned<String>>,
    working_as: Option<Spanned<String>>,
    #[serde(default)]
    off: Vec<Spanned<String>>,
    #[serde(default)]
    working: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawException {
    name: Spanned<String>,
    when: Spanned<String>,
    hours: Option<Spanned<String>>,
    profile: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBlackout {
    name: Spanned<String>,
    when: Spanned<String>,
    hours: Option<Spanned<String>>,
    kind: Option<BlackoutKind>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOverride {
    id: Spanned<i64>,
    bend: Spanned<String>,
    #[serde(default)]
    pierce: bool,
    from: Spanned<String>,
    until: Spanned<String>,
    volume: Option<String>,
    actor: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHold {
    actor: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuota {
    period: Spanned<String>,
    limit: Spanned<String>,
    warn: Option<Spanned<i64>>,
    soft: Option<Spanned<String>>,
    #[serde(default)]
    even: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVolume {
    name: Spanned<String>,
    #[serde(default)]
    class: VolumeClass,
    weight: Option<Spanned<i64>>,
    cap: Option<Spanned<String>>,
    floor: Option<Spanned<String>>,
    lag: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClock {
    holdover: Option<Spanned<String>>,
    untrusted: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLocal {
    boost: Option<Spanned<String>>,
}

/// Turns places in the text into lines, for errors.
struct Place<'a>(&'a str);

impl Place<'_> {
    fn wrong<T>(&self, value: &Spanned<T>, field: impl Into<String>, why: impl ToString) -> PolicyError {
        let before = &self.0.as_bytes()[..value.span().start.min(self.0.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        PolicyError::Field { line, field: field.into(), why: why.to_string() }
    }

    fn number<N: TryFrom<i64> + PartialOrd + std::fmt::Display>(
        &self,
        value: &Spanned<i64>,
        field: &str,
        bounds: std::ops::RangeInclusive<N>,
    ) -> Result<N, PolicyError> {
        N::try_from(*value.get_ref()).ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
            self.wrong(
                value,
                field,
                format!("{} is not between {} and {}", value.get_ref(), bounds.start(), bounds.end()),
            )
        })
    }

    fn share(&self, value: &Spanned<String>, field: &str) -> Result<Share, PolicyError> {
        share_of(value.get_ref()).map_err(|why| self.wrong(value, field, why))
    }

    fn limit(&self, value: &Spanned<String>, field: &str) -> Result<BitsPerSec, PolicyError> {
        match value.get_ref().parse::<Rate>() {
            Ok(Rate::Limited(limit)) => Ok(limit),
            Ok(_) => Err(self.wrong(value, field, "a rate is needed, as in \"2 Mbit/s\"")),
            Err(why) => Err(self.wrong(value, field, why)),
        }
    }

    fn duration(&self, value: &Spanned<String>, field: &str, example: &str) -> Result<Duration, PolicyError> {
        duration_of(value.get_ref()).ok_or_else(|| {
            self.wrong(value, field, format!("\"{}\" is no time span: write \"{example}\"", value.get_ref()))
        })
    }

    fn date(&self, value: &Spanned<String>, text: &str, field: &str) -> Result<Date, PolicyError> {
        text.parse().map_err(|_| self.wrong(value, field, format!("\"{text}\" is no date: write \"2026-10-01\"")))
    }

    fn when(&self, value: &Spanned<String>) -> Result<When, PolicyError> {
        value.get_ref().parse().map_err(|why: WhenError| self.wrong(value, "when", why))
    }

    fn hours(&self, value: Option<&Spanned<String>>) -> Result<Hours, PolicyError> {
        let Some(value) = value else { return Ok(Hours::DAY) };
        let ends = value.get_ref().split_once('-').and_then(|(from, to)| {
            let (from, to) = (cell_of(from.trim())?, cell_of(to.trim())?);
            (from != to && from < grid::CELLS_PER_DAY).then_some((from, to))
        });
        let (from, to) = ends.ok_or_else(|| {
            let why =
                format!("\"{}\" is no part of a day: write \"08:00-18:30\", on quarters of an hour", value.get_ref());
            self.wrong(value, "hours", why)
        })?;
        Ok(Hours { from: from * grid::CELL_MINUTES, to: to * grid::CELL_MINUTES })
    }

    fn instant(&self, value: &Spanned<String>, field: &str) -> Result<Timestamp, PolicyError> {
        value.get_ref().parse().map_err(|_| {
            let why = format!("\"{}\" is no instant: write \"2026-12-31T19:30:00Z\", with the zone", value.get_ref());
            self.wrong(value, field, why)
        })
    }

    fn day(&self, value: &Spanned<String>, field: &str) -> Result<usize, PolicyError> {
        match days_of(value.get_ref()).as_deref() {
            Ok([day]) => Ok(*day),
            _ => Err(self.wrong(value, field, format!("\"{}\" is not one day: write \"sun\"", value.get_ref()))),
        }
    }
}

impl Policy {
    /// Reads a document and checks all that can be checked without knowing the date; see [`Policy::check_overlaps`].
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        if text.len() > MAX_DOCUMENT {
            return Err(PolicyError::Large(text.len()));
        }
        let raw: Raw = toml::from_str(text).map_err(|why| PolicyError::Parse(why.to_string().trim_end().to_owned()))?;
        let place = Place(text);
        let version = place.number(&raw.version, "version", 1..=i64::MAX as u64)?;
        let zone = TimeZone::get(raw.zone.get_ref()).map_err(|_| {
            let why =
                format!("there is no zone \"{}\": write an IANA name, as in \"Asia/Shanghai\"", raw.zone.get_ref());
            place.wrong(&raw.zone, "zone", why)
        })?;
        let profiles = profiles_of(&place, &raw.profiles)?;
        let named = |value: &Spanned<String>, field: &str| {
            let found = profiles.iter().position(|profile| profile.name == *value.get_ref());
            found.map(|at| ProfileNumber(at as u8)).ok_or_else(|| {
                let why = GridError::Profile(value.get_ref().clone(), names_of(&profiles));
                place.wrong(value, field, why)
            })
        };
        let list = |len: usize, field: &str| match len <= MAX_ENTRIES {
            true => Ok(()),
            false => Err(PolicyError::Parse(format!(
                "{len} entries of `{field}` are more than the {MAX_ENTRIES} that are read"
            ))),
        };
        list(raw.exceptions.len(), "exceptions")?;
        list(raw.blackouts.len(), "blackouts")?;
        list(raw.overrides.len(), "overrides")?;
        list(raw.volumes.len(), "volumes")?;
        list(raw.quotas.len(), "quotas")?;
        let exceptions = raw.exceptions.iter().map(|raw| {
            Ok(Exception {
                name: name_of(&place, &raw.name)?,
                when: place.when(&raw.when)?,
                hours: place.hours(raw.hours.as_ref())?,
                profile: named(&raw.profile, "profile")?,
            })
        });
        let blackouts = raw.blackouts.iter().map(|raw| {
            Ok(Blackout {
                name: name_of(&place, &raw.name)?,
                when: place.when(&raw.when)?,
                hours: place.hours(raw.hours.as_ref())?,
                kind: raw.kind.unwrap_or(BlackoutKind::Data),
            })
        });
        let policy = Policy {
            version,
            zone,
            line: line_of(&place, &raw.line)?,
            grid: grid_of(&place, &raw.grid, &profiles)?,
            holidays: holidays_of(&place, &raw.holidays)?,
            holidays_as: raw.holidays.row.as_ref().map(|day| place.day(day, "as")).transpose()?,
            working_as: raw.holidays.working_as.as_ref().map_or(Ok(0), |day| place.day(day, "working_as"))?,
            exceptions: exceptions.collect::<Result<_, PolicyError>>()?,
            blackouts: blackouts.collect::<Result<_, PolicyError>>()?,
            overrides: raw.overrides.iter().map(|raw| override_of(&place, raw)).collect::<Result<_, _>>()?,
            hold: raw.hold.map(|raw| Hold { actor: raw.actor, reason: raw.reason }),
            quotas: raw.quotas.iter().map(|raw| quota_of(&place, raw, &named)).collect::<Result<_, _>>()?,
            volumes: volumes_of(&place, &raw.volumes)?,
            clock_holdover: match &raw.clock.holdover {
                Some(value) => place.duration(value, "holdover", "7 days")?,
                None => Duration::from_secs(7 * 24 * 3600),
            },
            untrusted_clock: raw
                .clock
                .untrusted
                .as_ref()
                .map_or(Ok(ProfileNumber::CLOSED), |name| named(name, "untrusted"))?,
            local_boost: raw.local.boost.as_ref().map(|value| place.share(value, "boost")).transpose()?,
            profiles,
        };
        Ok(policy)
    }

    /// Refuses exceptions that want different things of the same time, on any of `days` dates from `from` on.
    pub fn check_overlaps(&self, from: Date, days: u32) -> Result<(), PolicyError> {
        let dates: Vec<Date> = (0..i64::from(days)).map_while(|day| from.checked_add(day.days()).ok()).collect();
        let covered: Vec<Vec<bool>> = self
            .exceptions
            .iter()
            .map(|rule| dates.iter().map(|date| rule.when.covers(*date, &self.holidays)).collect())
            .collect();
        for (first, one) in self.exceptions.iter().enumerate() {
            for (second, other) in self.exceptions.iter().enumerate().skip(first + 1) {
                if one.profile == other.profile {
                    continue;
                }
                for day in 1..dates.len() {
                    let covers = |rule: usize| (covered[rule][day], covered[rule][day - 1]);
                    let ((a, b), (c, d)) = (covers(first), covers(second));
                    let both = |minute| one.hours.cover(minute, a, b) && other.hours.cover(minute, c, d);
                    if (a || b) && (c || d) && (0..24 * 60).step_by(grid::CELL_MINUTES).any(both) {
                        let (one, other) = (one.name.clone(), other.name.clone());
                        return Err(PolicyError::Overlap { one, other, date: dates[day] });
                    }
                }
            }
        }
        Ok(())
    }

    /// The document that [`Policy::parse`] reads as this policy.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let name = |number: ProfileNumber| quoted(&self.profile(number).name);
        writeln!(text, "version = {}\nzone = {}", self.version, quoted(self.zone.iana_name().unwrap_or("UTC")))?;
        let line = &self.line;
        writeln!(text, "\n[line]\nup = \"{}\"\ndown = \"{}\"\ncap = \"{}\"", line.up, line.down, share_text(line.cap))?;
        match line.courtesy {
            Some(delay) => writeln!(text, "courtesy = \"{} ms\"", delay.as_millis())?,
            None => writeln!(text, "courtesy = \"off\"")?,
        }
        writeln!(text, "packet_overhead = {}\n\n[profiles]", line.packet_overhead)?;
        for profile in &self.profiles[1..] {
            match profile.up == profile.down {
                true => writeln!(text, "{} = \"{}\"", profile.name, share_text(profile.up))?,
                false => writeln!(
                    text,
                    "{} = {{ up = \"{}\", down = \"{}\" }}",
                    profile.name,
                    share_text(profile.up),
                    share_text(profile.down)
                )?,
            }
        }
        writeln!(text, "\n[grid]")?;
        for run in self.grid.alike() {
            let day = self.grid.day_text(run.start, |number| &self.profile(number).name);
            writeln!(text, "{} = \"{day}\"", days_text(run))?;
        }
        writeln!(text, "\n[holidays]")?;
        if let Some(row) = self.holidays_as {
            writeln!(text, "as = \"{}\"", grid::DAY_NAMES[row])?;
        }
        writeln!(text, "working_as = \"{}\"\noff = [", grid::DAY_NAMES[self.working_as])?;
        for (date, name) in &self.holidays.off {
            writeln!(text, "  {},", quoted(format!("{date} {name}").trim_end()))?;
        }
        writeln!(text, "]\nworking = [")?;
        for date in &self.holidays.working {
            writeln!(text, "  \"{date}\",")?;
        }
        writeln!(text, "]")?;
        for rule in &self.exceptions {
            writeln!(text, "\n[[exceptions]]\nname = {}\nwhen = \"{}\"", quoted(&rule.name), rule.when)?;
            writeln!(text, "hours = \"{}\"\nprofile = {}", hours_text(rule.hours), name(rule.profile))?;
        }
        for rule in &self.blackouts {
            let kind = if rule.kind == BlackoutKind::Silent { "silent" } else { "data" };
            writeln!(text, "\n[[blackouts]]\nname = {}\nwhen = \"{}\"", quoted(&rule.name), rule.when)?;
            writeln!(text, "hours = \"{}\"\nkind = \"{kind}\"", hours_text(rule.hours))?;
        }
        for bend in &self.overrides {
            writeln!(text, "\n[[overrides]]\nid = {}", bend.id)?;
            match bend.bend {
                Bend::Pause => writeln!(text, "bend = \"pause\"")?,
                Bend::Boost { rate, pierce } => writeln!(text, "bend = \"boost {rate}\"\npierce = {pierce}")?,
            }
            writeln!(text, "from = \"{}\"\nuntil = \"{}\"", bend.from, bend.until)?;
            if let Some(volume) = &bend.volume {
                writeln!(text, "volume = {}", quoted(volume))?;
            }
            writeln!(text, "actor = {}\nreason = {}", quoted(&bend.actor), quoted(&bend.reason))?;
        }
        if let Some(hold) = &self.hold {
            writeln!(text, "\n[hold]\nactor = {}\nreason = {}", quoted(&hold.actor), quoted(&hold.reason))?;
        }
        for rule in &self.quotas {
            writeln!(text, "\n[[quotas]]\nperiod = \"{}\"\nlimit = \"{} B\"", period_text(rule.period), rule.limit)?;
            writeln!(text, "warn = {}\neven = {}", rule.warn, rule.even)?;
            if let Some((percent, profile)) = rule.soft {
                writeln!(text, "soft = \"{percent} % {}\"", self.profile(profile).name)?;
            }
        }
        for rule in &self.volumes {
            let class = match rule.class {
                VolumeClass::Critical => "critical",
                VolumeClass::Normal => "normal",
                VolumeClass::Bulk => "bulk",
            };
            writeln!(
                text,
                "\n[[volumes]]\nname = {}\nclass = \"{class}\"\nweight = {}",
                quoted(&rule.name),
                rule.weight
            )?;
            for (field, rate) in [("cap", rule.cap), ("floor", rule.floor)] {
                if let Some(rate) = rate {
                    writeln!(text, "{field} = \"{rate}\"")?;
                }
            }
            if let Some(lag) = rule.lag {
                writeln!(text, "lag = \"{} s\"", lag.as_secs())?;
            }
        }
        writeln!(
            text,
            "\n[clock]\nholdover = \"{} s\"\nuntrusted = {}",
            self.clock_holdover.as_secs(),
            name(self.untrusted_clock)
        )?;
        if let Some(boost) = self.local_boost {
            writeln!(text, "\n[local]\nboost = \"{}\"", share_text(boost))?;
        }
        Ok(())
    }
}

fn profiles_of(place: &Place<'_>, raw: &BTreeMap<Spanned<String>, RawProfile>) -> Result<Vec<Profile>, PolicyError> {
    let closed = Share::Rate(Rate::Closed);
    let mut profiles = vec![Profile { name: CLOSED.into(), up: closed, down: closed }];
    for (name, raw) in raw {
        let text = name.get_ref();
        let word = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if text == CLOSED {
            return Err(place.wrong(
                name,
                "profiles",
                "every policy has the profile \"closed\", and it means 0: choose another name",
            ));
        }
        if !word || text.is_empty() || text.len() > 32 {
            let why = format!("\"{text}\" is no name for a profile: use at most 32 letters, digits, - and _");
            return Err(place.wrong(name, "profiles", why));
        }
        if profiles.len() == MAX_PROFILES {
            return Err(place.wrong(name, "profiles", format!("there are more than {MAX_PROFILES} profiles")));
        }
        let share = |value: Option<&toml::Value>| {
            let value = value.and_then(toml::Value::as_str).ok_or_else(|| {
                place.wrong(
                    raw,
                    text,
                    "write a rate or a share, as in \"80 %\", or both as in { up = \"80 %\", down = \"1 Mbit/s\" }",
                )
            })?;
            share_of(value).map_err(|why| place.wrong(raw, text, why))
        };
        let (up, down) = match raw.get_ref() {
            toml::Value::Table(each) => (share(each.get("up"))?, share(each.get("down"))?),
            both => (share(Some(both))?, share(Some(both))?),
        };
        profiles.push(Profile { name: text.clone(), up, down });
    }
    Ok(profiles)
}

fn names_of(profiles: &[Profile]) -> String {
    profiles.iter().map(|profile| format!("\"{}\"", profile.name)).collect::<Vec<_>>().join(", ")
}

fn name_of(place: &Place<'_>, name: &Spanned<String>) -> Result<String, PolicyError> {
    match name.get_ref().trim() {
        "" => Err(place.wrong(name, "name", "a name is needed: it is what people are shown as the reason")),
        text => Ok(text.to_owned()),
    }
}

fn line_of(place: &Place<'_>, raw: &RawLine) -> Result<Line, PolicyError> {
    let up = place.limit(&raw.up, "up")?;
    let courtesy = match &raw.courtesy {
        None => Some(Duration::from_millis(25)),
        Some(value) if value.get_ref() == "off" => None,
        Some(value) => {
            let delay = place.duration(value, "courtesy", "25 ms")?;
            if !COURTESY_MS.contains(&delay.as_millis()) {
                return Err(place.wrong(value, "courtesy", "write between 1 ms and 1000 ms, or \"off\""));
            }
            Some(delay)
        }
    };
    Ok(Line {
        up,
        down: raw.down.as_ref().map_or(Ok(up), |value| place.limit(value, "down"))?,
        cap: raw.cap.as_ref().map_or(Ok(Share::PerMille(1000)), |value| place.share(value, "cap"))?,
        courtesy,
        packet_overhead: raw
            .packet_overhead
            .as_ref()
            .map_or(Ok(0), |value| place.number(value, "packet_overhead", 0..=200))?,
    })
}

fn grid_of(
    place: &Place<'_>,
    raw: &BTreeMap<Spanned<String>, Spanned<String>>,
    profiles: &[Profile],
) -> Result<Grid, PolicyError> {
    let (mut grid, mut painted) = (Grid::default(), BTreeSet::new());
    for (days, text) in raw {
        let wanted = days_of(days.get_ref()).map_err(|why| place.wrong(days, "grid", why))?;
        if let Some(twice) = wanted.iter().find(|day| !painted.insert(**day)) {
            return Err(place.wrong(days, "grid", GridError::Twice(grid::DAY_NAMES[*twice])));
        }
        let number_of =
            |name: &str| profiles.iter().position(|profile| profile.name == name).map(|at| ProfileNumber(at as u8));
        grid.paint_text(&wanted, text.get_ref(), number_of, || names_of(profiles))
            .map_err(|why| place.wrong(text, days.get_ref().as_str(), why))?;
    }
    Ok(grid)
}

fn holidays_of(place: &Place<'_>, raw: &RawHolidays) -> Result<Holidays, PolicyError> {
    let mut holidays = Holidays::default();
    for value in &raw.off {
        let (dates, name) = value.get_ref().split_once(' ').unwrap_or((value.get_ref(), ""));
        let (first, last) = dates.split_once("..").unwrap_or((dates, dates));
        let (first, last) = (place.date(value, first, "off")?, place.date(value, last, "off")?);
        if last < first || first.duration_until(last) > SignedDuration::from_hours(24 * 60) {
            return Err(place.wrong(value, "off", "a holiday begins before it ends, and lasts at most 60 days"));
        }
        let dates = std::iter::successors(Some(first), |date| date.tomorrow().ok()).take_while(|date| *date <= last);
        holidays.off.extend(dates.map(|date| (date, name.trim().to_owned())));
    }
    for value in &raw.working {
        holidays.working.insert(place.date(value, value.get_ref(), "working")?);
    }
    if let Some(value) = raw
        .working
        .iter()
        .find(|value| value.get_ref().parse().is_ok_and(|date: Date| holidays.off.contains_key(&date)))
    {
        return Err(place.wrong(value, "working", "the same date is a holiday: name it in one of the two lists"));
    }
    if holidays.off.len() + holidays.working.len() > MAX_ENTRIES {
        return Err(PolicyError::Parse(format!(
            "there are more than {MAX_ENTRIES} holidays: drop those that have passed"
        )));
    }
    Ok(holidays)
}

fn override_of(place: &Place<'_>, raw: &RawOverride) -> Result<Override, PolicyError> {
    let (from, until) = (place.instant(&raw.from, "from")?, place.instant(&raw.until, "until")?);
    let lasts = until.duration_since(from);
    if !lasts.is_positive() || lasts > LONGEST_OVERRIDE {
        return Err(place.wrong(&raw.until, "until", "an override ends after it begins, and within 31 days"));
    }
    let bend = bend_of(raw.bend.get_ref(), raw.pierce).map_err(|why| place.wrong(&raw.bend, "bend", why))?;
    Ok(Override {
        id: place.number(&raw.id, "id", 1..=i64::MAX as u64)?,
        bend,
        from,
        until,
        volume: raw.volume.clone(),
        actor: raw.actor.clone(),
        reason: raw.reason.clone(),
    })
}

/// `pause`, or `boost 2 Mbit/s`.
fn bend_of(text: &str, pierce: bool) -> Result<Bend, String> {
    match text.trim().split_once(' ') {
        None if text.trim() == "pause" => Ok(Bend::Pause),
        Some(("boost", rate)) => match rate.parse::<Rate>().map_err(|why| why.to_string())? {
            Rate::Closed => Err("a boost to 0 is a pause: write \"pause\"".into()),
            rate => Ok(Bend::Boost { rate, pierce }),
        },
        _ => Err(format!("\"{text}\" is no override: write \"pause\" or \"boost 2 Mbit/s\"")),
    }
}

fn quota_of(
    place: &Place<'_>,
    raw: &RawQuota,
    named: &dyn Fn(&Spanned<String>, &str) -> Result<ProfileNumber, PolicyError>,
) -> Result<QuotaRule, PolicyError> {
    let limit = size_of(raw.limit.get_ref()).filter(|limit| *limit >= 1_000_000).ok_or_else(|| {
        place.wrong(
            &raw.limit,
            "limit",
            format!("\"{}\" is no size of at least 1 MB: write \"40 GB\"", raw.limit.get_ref()),
        )
    })?;
    let soft = raw.soft.as_ref().map(|value| {
        let wrong =
            || place.wrong(value, "soft", format!("\"{}\" is no step: write \"90 % trickle\"", value.get_ref()));
        let (percent, name) = value.get_ref().split_once('%').ok_or_else(wrong)?;
        let percent: u8 = percent.trim().parse().ok().filter(|percent| (1..=99).contains(percent)).ok_or_else(wrong)?;
        let name = Spanned::new(value.span(), name.trim().to_owned());
        Ok((percent, named(&name, "soft")?))
    });
    let period = period_of(raw.period.get_ref()).ok_or_else(|| {
        let why = format!(
            "\"{}\" is no period: write \"day\", \"week\", \"month\", \"month from day 15\" or \"prepaid\"",
            raw.period.get_ref()
        );
        place.wrong(&raw.period, "period", why)
    })?;
    Ok(QuotaRule {
        period,
        limit,
        warn: raw.warn.as_ref().map_or(Ok(80), |value| place.number(value, "warn", 1..=100))?,
        soft: soft.transpose()?,
        even: raw.even && period != Period::Prepaid,
    })
}

fn volumes_of(place: &Place<'_>, raw: &[RawVolume]) -> Result<Vec<VolumeRule>, PolicyError> {
    let mut volumes: Vec<VolumeRule> = Vec::new();
    for raw in raw {
        if volumes.iter().any(|other| other.name == *raw.name.get_ref()) {
            return Err(place.wrong(&raw.name, "name", format!("\"{}\" has two rules: keep one", raw.name.get_ref())));
        }
        let (cap, floor) = (raw.cap.as_ref(), raw.floor.as_ref());
        let rule = VolumeRule {
            name: raw.name.get_ref().clone(),
            class: raw.class,
            weight: raw.weight.as_ref().map_or(Ok(100), |value| place.number(value, "weight", 1..=10_000))?,
            cap: cap.map(|value| place.limit(value, "cap")).transpose()?,
            floor: floor.map(|value| place.limit(value, "floor")).transpose()?,
            lag: raw.lag.as_ref().map(|value| place.duration(value, "lag", "24 hours")).transpose()?,
        };
        if let (Some(cap), Some(floor), Some(value)) = (rule.cap, rule.floor, floor)
            && floor > cap
        {
            return Err(place.wrong(value, "floor", "the floor is above the cap"));
        }
        volumes.push(rule);
    }
    Ok(volumes)
}

/// A rate, or a share of the line as `80 %`.
fn share_of(text: &str) -> Result<Share, String> {
    let Some(percent) = text.trim().strip_suffix('%') else {
        return text.parse().map(Share::Rate).map_err(|why: crate::units::ParseRateError| why.to_string());
    };
    let wrong = || format!("\"{text}\" is no share of the line: write between \"0.1 %\" and \"100 %\"");
    let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
    let tenths = (percent * 10.0).round();
    if (1.0..=1000.0).contains(&tenths) { Ok(Share::PerMille(tenths as u16)) } else { Err(wrong()) }
}

fn share_text(share: Share) -> String {
    match share {
        Share::Rate(rate) => rate.to_string(),
        Share::PerMille(tenths) if tenths % 10 == 0 => format!("{} %", tenths / 10),
        Share::PerMille(tenths) => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

fn hours_text(hours: Hours) -> String {
    format!("{}-{}", time_text(hours.from), time_text(hours.to))
}

fn period_of(text: &str) -> Option<Period> {
    match text.trim() {
        "day" => Some(Period::Day),
        "week" => Some(Period::Week),
        "month" => Some(Period::Month(1)),
        "prepaid" => Some(Period::Prepaid),
        other => {
            let day = other.strip_prefix("month from day ")?.trim().parse().ok()?;
            (1..=31).contains(&day).then_some(Period::Month(day))
        }
    }
}

fn period_text(period: Period) -> String {
    match period {
        Period::Month(day) if day != 1 => format!("month from day {day}"),
        other => Policy::period_name(other).into(),
    }
}

/// Bytes with a decimal or binary unit: `40 GB`, `500 MiB`, `1000000 B`.
fn size_of(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("B", 1),
    ];
    let text = text.trim();
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim(), *unit)))?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).filter(|bytes| *bytes <= 1 << 60);
    }
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    (0.0..=(1u64 << 60) as f64).contains(&bytes).then_some(bytes as u64)
}

/// A time span; days have 24 hours.
fn duration_of(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(span).ok().filter(|span| !span.is_zero() && *span < Duration::from_secs(400 * 24 * 3600))
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
