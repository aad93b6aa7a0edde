//! What people ask for in forms, read into what it means. Pure: a form is a claim until it is read here.

use super::say::Both;
use crate::capture::OnReadError;
use crate::source::SourceSpec;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Deserialize;
use shaping::{BitsPerSec, Rate};
use std::time::Duration;

/// Characters of a name at most.
pub(crate) const MOST_NAME: usize = 60;
/// Characters of a reason at most.
pub(crate) const MOST_REASON: usize = 200;
/// When a branch opens, for "until tomorrow morning".
const MORNING: Time = Time::constant(7, 30, 0, 0);

/// A pause or a boost as the form has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BendForm {
    /// Of the session.
    pub(crate) csrf: String,
    /// `30m`, `2h`, `morning`, `own`.
    pub(crate) lasts: String,
    /// `HH:MM` of the site's clock.
    pub(crate) until: String,
    /// Bits per second, of a boost.
    pub(crate) rate: String,
    /// Who.
    pub(crate) actor: String,
    /// Why.
    pub(crate) reason: String,
}

/// A volume as the form has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeForm {
    /// Of the session.
    pub(crate) csrf: String,
    /// Its name.
    pub(crate) name: String,
    /// `block:…`, or `file` with a path beside it.
    pub(crate) source: String,
    /// Of an image file.
    pub(crate) path: String,
    /// Go on where sectors cannot be read.
    pub(crate) list: String,
}

/// A pause or a boost.
#[derive(Debug, PartialEq)]
pub(crate) struct Bending {
    /// How long.
    pub(crate) lasts: Duration,
    /// Who.
    pub(crate) actor: String,
    /// Why.
    pub(crate) reason: String,
}

impl BendForm {
    /// What it means at this time in this zone.
    pub(crate) fn read(&self, now: Timestamp, zone: &TimeZone) -> Result<Bending, Both> {
        let (actor, reason) = (clean(&self.actor, MOST_NAME), clean(&self.reason, MOST_REASON));
        if actor.is_empty() || reason.is_empty() {
            return Err(Both::new(
                "Say who you are and why: both are kept and shown.",
                "请填写姓名和原因：两者都会被记录并显示。",
            ));
        }
        let lasts = self.lasts(now, zone).ok_or_else(|| {
            Both::new("Choose for how long, or write a time as in 07:30.", "请选择时长，或按 07:30 的格式填写时间。")
        })?;
        Ok(Bending { lasts, actor, reason })
    }

    fn lasts(&self, now: Timestamp, zone: &TimeZone) -> Option<Duration> {
        let until = match self.lasts.as_str() {
            "morning" => next_morning(now, zone)?,
            "own" => next(self.until.trim().parse().ok()?, now, zone)?,
            span => return crate::text::parse_duration(span).ok(),
        };
        Duration::try_from(until.duration_since(now)).ok()
    }

    /// The rate of a boost.
    pub(crate) fn rate(&self) -> Result<Rate, Both> {
        let bits = self.rate.parse().ok().filter(|bits| *bits >= BitsPerSec::LEAST.bits());
        bits.map(|bits| BitsPerSec::new(bits).into()).ok_or_else(|| Both::new("Choose a rate.", "请选择速率。"))
    }
}

impl VolumeForm {
    /// Where its bytes come from.
    pub(crate) fn source(&self) -> Result<SourceSpec, Both> {
        let text = match self.source.as_str() {
            "file" => format!("file:{}", self.path.trim()),
            block => block.to_owned(),
        };
        text.parse().map_err(|_| {
            Both::new(
                "Choose a disk, or write the whole path of an image file, beginning with a slash.",
                "请选择磁盘，或填写以斜杠开头的镜像文件完整路径。",
            )
        })
    }

    /// What is done where sectors cannot be read.
    pub(crate) fn on_read_error(&self) -> OnReadError {
        if self.list.is_empty() { OnReadError::Stop } else { OnReadError::List }
    }
}

/// The next time that the site's clock shows the hour at which a branch opens.
pub(crate) fn next_morning(now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    next(MORNING, now, zone)
}

fn next(time: Time, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let today = zone.to_datetime(now).date();
    let at = |days: i32| zone.to_timestamp(today.checked_add(days.days()).ok()?.to_datetime(time)).ok();
    at(0).filter(|at| *at > now).or_else(|| at(1))
}

/// One line of text without what moves cursors or turns writing around, and not too long.
pub(crate) fn clean(text: &str, most: usize) -> String {
    let turns = |c: &char| matches!(*c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.trim().chars().filter(|c| !c.is_control() && !turns(c)).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(lasts: &str, until: &str) -> BendForm {
        let [lasts, until, actor, reason] = [lasts, until, " Li\u{202e} \n", "audit"].map(str::to_owned);
        BendForm { lasts, until, actor, reason, ..BendForm::default() }
    }

    #[test]
    fn times_are_those_of_the_site() {
        let zone = TimeZone::get("Asia/Shanghai").unwrap();
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap(); // 20:00 there
        let minutes =
            |lasts, until| form(lasts, until).read(now, &zone).map(|bending| bending.lasts.as_secs() / 60).ok();
        assert_eq!(minutes("30m", ""), Some(30));
        assert_eq!(minutes("2h", ""), Some(120));
        assert_eq!(minutes("morning", ""), Some(11 * 60 + 30));
        assert_eq!(minutes("own", "21:15"), Some(75));
        assert_eq!(minutes("own", "19:00"), Some(23 * 60), "tomorrow's");
        for (lasts, until) in [("own", ""), ("own", "25:00"), ("", ""), ("forever", ""), ("30", "")] {
            assert_eq!(minutes(lasts, until), None, "{lasts} {until}");
        }
        let read = form("30m", "").read(now, &zone).unwrap();
        assert_eq!((read.actor.as_str(), read.reason.as_str()), ("Li", "audit"));
        assert!(BendForm { reason: " \u{7} ".into(), ..form("30m", "") }.read(now, &zone).is_err(), "no reason");
    }

    #[test]
    fn a_source_is_a_disk_or_a_file() {
        let source = |source: &str, path: &str| {
            let form = VolumeForm { source: source.into(), path: path.into(), ..VolumeForm::default() };
            form.source().map(|source| source.to_string()).ok()
        };
        assert_eq!(source("block:/dev/sda", "").as_deref(), Some("block:/dev/sda"));
        assert_eq!(source("file", " /srv/a.img ").as_deref(), Some("file:/srv/a.img"));
        for (kind, path) in [("file", "a.img"), ("file", ""), ("", ""), ("nbd:/x", ""), ("block:sda", "")] {
            assert_eq!(source(kind, path), None, "{kind} {path}");
        }
        let rate = |text: &str| BendForm { rate: text.into(), ..BendForm::default() }.rate().ok();
        assert_eq!(rate("1600000"), Some("1.6 Mbit/s".parse().unwrap()));
        assert_eq!((rate("0"), rate("-1"), rate("fast")), (None, None, None));
    }
}
