//! A policy as a TOML document: read with errors that name line, field and remedy, and written again.

mod place;
mod text;

use super::grid::{self, GridError, days_of};
use super::{
    Bend, Blackout, BlackoutKind, Exception, Grid, Hold, Holidays, Line, Override, Period, Policy, Profile,
    ProfileNumber, QuotaRule, Share, VolumeClass, VolumeRule,
};
use crate::units::Rate;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, ToSpan};
use place::{Place, period_of, share_of, size_of};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
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
/// Weights of volumes: four digits are finer than anybody can justify.
const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;
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
    held: Option<RawHold>,
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

    /// Refuses exceptions that want different things of the same time, on any of `days` dates from `from` on. The first of them is looked at only
    /// for hours that run over midnight: begin with yesterday.
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
}

/// Finds a profile that a field names.
type Named<'a> = dyn Fn(&Spanned<String>, &str) -> Result<ProfileNumber, PolicyError> + 'a;

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
    if matches!(bend, Bend::Class(_) | Bend::Weight(_)) && raw.volume.is_none() {
        return Err(place.wrong(&raw.bend, "bend", "a class or weight is a volume's: name it with `volume`"));
    }
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

/// `pause`, `boost 2 Mbit/s`, `class critical` or `weight 300`.
fn bend_of(text: &str, pierce: bool) -> Result<Bend, String> {
    match text.trim().split_once(' ') {
        None if text.trim() == "pause" => Ok(Bend::Pause),
        Some(("boost", rate)) => match rate.parse::<Rate>().map_err(|why| why.to_string())? {
            Rate::Closed => Err("a boost to 0 is a pause: write \"pause\"".into()),
            rate => Ok(Bend::Boost { rate, pierce }),
        },
        Some(("class", word)) => {
            let class = VolumeClass::ALL.into_iter().find(|class| class.word() == word.trim());
            class.map(Bend::Class).ok_or_else(|| format!("\"{word}\" is no class: write critical, normal or bulk"))
        }
        Some(("weight", number)) => {
            let weight = number.trim().parse().ok().filter(|weight| WEIGHTS.contains(weight));
            weight.map(Bend::Weight).ok_or_else(|| format!("\"{number}\" is no weight between 1 and 10000"))
        }
        _ => Err(format!(
            "\"{text}\" is no override: write \"pause\" or \"boost 2 Mbit/s\", for a volume also \"class critical\" or \"weight 300\""
        )),
    }
}

fn quota_of(place: &Place<'_>, raw: &RawQuota, named: &Named<'_>) -> Result<QuotaRule, PolicyError> {
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
            weight: raw.weight.as_ref().map_or(Ok(100), |value| place.number(value, "weight", WEIGHTS))?,
            cap: cap.map(|value| place.limit(value, "cap")).transpose()?,
            floor: floor.map(|value| place.limit(value, "floor")).transpose()?,
            lag: raw.lag.as_ref().map(|value| place.duration(value, "lag", "24 hours")).transpose()?,
            held: raw.held.as_ref().map(|raw| Hold { actor: raw.actor.clone(), reason: raw.reason.clone() }),
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
