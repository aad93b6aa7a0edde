//! When what waits will have crossed, whether a deadline is met, and what would help: [`shaping::forecast`] with what this edge knows.

use super::{Line, clocks};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shaping::forecast::{EFFICIENCY, Outlook, Prospect, Work};

/// What becomes of a deadline, and what would help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// Which volume; `None`: all that have work.
    pub volume: Option<String>,
    /// By when it is to be at the gateway, Unix seconds.
    pub deadline: i64,
    /// When it will have arrived as things are, Unix seconds; `None`: nobody can tell.
    pub arrives: Option<i64>,
    /// Whether that is in time.
    pub is_met: bool,
    /// What would help, if anything is needed and helps.
    pub boost: Option<Boost>,
    /// How sure that is.
    pub sureness: Sureness,
    /// All of it for people.
    pub sentence: String,
}

/// A boost that would help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boost {
    /// The rate.
    pub rate: String,
    /// From when on, Unix seconds.
    pub from: i64,
    /// Until when, Unix seconds.
    pub until: i64,
    /// When everything will have arrived with it, Unix seconds.
    pub arrives: i64,
}

/// How sure a forecast is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sureness {
    /// It holds also when a tenth more is to be sent, and how much arrives of what is sent was measured here.
    Sure,
    /// The same, but nothing was measured here yet.
    Likely,
    /// It holds as long as no more comes than is known.
    Tight,
    /// It does not hold whatever is done.
    No,
}

/// Why there is no advice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAdvice {
    /// Without a policy there is nothing to forecast by.
    #[error("there is no policy in force here: set one at the gateway (`sluice-gateway policy set`)")]
    NoPolicy,
    /// Without the time neither.
    #[error("no gateway has told the time since this machine was started: forecasts begin with the next session")]
    NoTime,
    /// Nothing is on its way.
    #[error("nothing is on its way{0}: there is nothing to bring over in time")]
    NoWork(String),
    /// The text is no time.
    #[error(
        "`{0}` is no time to come: write \"07:30\" or \"2026-11-24 07:30\" (both of the site's clock), or \"2026-11-23T23:30:00Z\""
    )]
    Time(String),
    /// Nobody said by when.
    #[error("say by when (`--by 07:30`): the policy gives {0} no `lag`, or the gateway holds nothing of it yet")]
    NoDeadline(String),
}

/// By when something is to have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// As people wrote it, in the site's civil time.
    Text(String),
    /// Unix seconds.
    Second(i64),
}

impl Line {
    /// When each of these will have crossed the line by the policy in force, Unix seconds; all `None` without a policy or a clock. `share` is what arrives of
    /// what is sent, where it was measured.
    pub fn arrivals(&self, works: &[Work], share: Option<f64>) -> Vec<Option<i64>> {
        let arrivals = self.with_outlook(share, |outlook| outlook.arrivals(works));
        arrivals.map_or_else(|_| vec![None; works.len()], |all| all.into_iter().map(|at| at.map(seconds)).collect())
    }

    /// What becomes of the deadline of the works with these places, and what would help.
    pub(crate) fn advise(
        &self,
        works: &[Work],
        wanted: &[usize],
        by: &By,
        share: Option<f64>,
    ) -> Result<Advice, NoAdvice> {
        let volume = match wanted {
            [one] => Some(works[*one].name.clone()),
            _ => None,
        };
        self.with_outlook(share, |outlook| {
            let zone = outlook.policy.zone.clone();
            let deadline = match by {
                By::Text(text) => moment_of(text, &zone, outlook.now).ok_or_else(|| NoAdvice::Time(text.clone()))?,
                By::Second(second) => {
                    Timestamp::from_second(*second).map_err(|_| NoAdvice::Time(second.to_string()))?
                }
            };
            let prospect = outlook.prospect(works, wanted, deadline);
            Ok(advice(volume, deadline, prospect, share.is_some(), &zone))
        })?
    }

    fn with_outlook<T>(&self, share: Option<f64>, act: impl FnOnce(Outlook<'_>) -> T) -> Result<T, NoAdvice> {
        let state = self.lock();
        let held = state.held.as_ref().ok_or(NoAdvice::NoPolicy)?;
        let now = state.now(clocks().counted).ok_or(NoAdvice::NoTime)?;
        let (local, quotas) = (state.bends(), state.quotas());
        Ok(act(Outlook {
            policy: &held.policy,
            schedule: &held.schedule,
            now,
            quotas: &quotas,
            local: &local,
            efficiency: share.unwrap_or(EFFICIENCY),
        }))
    }
}

fn advice(
    volume: Option<String>,
    deadline: Timestamp,
    prospect: Prospect,
    is_measured: bool,
    zone: &TimeZone,
) -> Advice {
    let what = volume.as_ref().map_or("everything".into(), |volume| format!("`{volume}`"));
    let at = |at: Timestamp| at.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M").to_string();
    let by = at(deadline);
    let sure = |is_safe: bool| match (is_safe, is_measured) {
        (false, _) => Sureness::Tight,
        (true, true) => Sureness::Sure,
        (true, false) => Sureness::Likely,
    };
    let (arrives, boost, sureness, sentence) = match prospect {
        Prospect::Met { arrives, is_safe } => {
            (Some(arrives), None, sure(is_safe), format!("{what} arrives {}, in time for {by}", at(arrives)))
        }
        Prospect::Helped(remedy) => {
            let (from, until) = (remedy.from.to_zoned(zone.clone()), remedy.until.to_zoned(zone.clone()));
            let sentence = format!(
                "{what} misses {by}; boost {} from {} to {} meets it, with everything there {}",
                remedy.rate,
                from.strftime("%H:%M"),
                until.strftime("%H:%M"),
                at(remedy.arrives)
            );
            let boost = Boost {
                rate: remedy.rate.to_string(),
                from: seconds(remedy.from),
                until: seconds(remedy.until),
                arrives: seconds(remedy.arrives),
            };
            (None, Some(boost), sure(remedy.is_safe), sentence)
        }
        Prospect::Missed { arrives } => {
            let then = arrives
                .map_or("and nobody can tell when it arrives".into(), |then| format!("and arrives {}", at(then)));
            let sentence = format!("{what} misses {by} {then}; no boost of up to 12 hours helps");
            (arrives, None, Sureness::No, sentence)
        }
    };
    let how_sure = match sureness {
        Sureness::Sure => " (sure: also with a tenth more to send)",
        Sureness::Likely => " (likely: also with a tenth more to send; this line's goodput is not measured yet)",
        Sureness::Tight => " (tight: not with a tenth more to send)",
        Sureness::No => "",
    };
    let (is_met, sentence) = (matches!(prospect, Prospect::Met { .. }), format!("{sentence}{how_sure}."));
    Advice { volume, deadline: seconds(deadline), arrives: arrives.map(seconds), is_met, boost, sureness, sentence }
}

/// The next moment that a text names: `07:30` and `2026-11-24 07:30` of the site's clock, or an instant. None that has passed.
fn moment_of(text: &str, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim();
    let civil = |date: jiff::civil::Date, time: jiff::civil::Time| zone.to_timestamp(date.to_datetime(time)).ok();
    let found = if let Ok(instant) = text.parse::<Timestamp>() {
        Some(instant)
    } else if let Some((date, time)) = text.split_once(' ') {
        civil(date.parse().ok()?, time.trim().parse().ok()?)
    } else {
        let (time, today) = (text.parse().ok()?, zone.to_datetime(now).date());
        let at = civil(today, time)?;
        if at > now { Some(at) } else { civil(today.tomorrow().ok()?, time) }
    };
    found.filter(|at| *at > now && at.duration_since(now) < SignedDuration::from_hours(400 * 24))
}

fn seconds(at: Timestamp) -> i64 {
    at.as_second()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shaping::forecast::Remedy;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_understood_as_people_write_them() {
        let zone = TimeZone::get("Asia/Shanghai").unwrap();
        let now = at("2026-11-22T12:00:00Z"); // 20:00 there
        let read = |text| moment_of(text, &zone, now).map(|at| at.to_string());
        assert_eq!(read("21:30").as_deref(), Some("2026-11-22T13:30:00Z"));
        assert_eq!(read("07:00").as_deref(), Some("2026-11-22T23:00:00Z"), "tomorrow's");
        assert_eq!(read("2026-11-24 07:00").as_deref(), Some("2026-11-23T23:00:00Z"));
        assert_eq!(read("2026-11-24T07:00:00Z").as_deref(), Some("2026-11-24T07:00:00Z"));
        for wrong in ["soon", "25:00", "2026-11-21 07:00", "2036-11-21 07:00", ""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn advice_is_one_sentence_with_how_sure_it_is() {
        let deadline = at("2026-11-23T08:00:00Z");
        let says = |prospect, measured| advice(Some("db".into()), deadline, prospect, measured, &TimeZone::UTC);
        let remedy = Remedy {
            rate: "2 Mbit/s".parse().unwrap(),
            from: at("2026-11-23T07:00:00Z"),
            until: deadline,
            arrives: at("2026-11-23T07:40:00Z"),
            is_safe: true,
        };
        let helped = says(Prospect::Helped(remedy), true);
        assert_eq!(
            helped.sentence,
            "`db` misses Mon 2026-11-23 08:00; boost 2 Mbit/s from 07:00 to 08:00 meets it, with everything there Mon 2026-11-23 07:40 \
             (sure: also with a tenth more to send)."
        );
        assert_eq!((helped.is_met, helped.sureness), (false, Sureness::Sure));
        assert_eq!(says(Prospect::Helped(remedy), false).sureness, Sureness::Likely);
        let met = says(Prospect::Met { arrives: at("2026-11-23T07:59:00Z"), is_safe: false }, true);
        assert_eq!((met.is_met, met.sureness), (true, Sureness::Tight));
        assert!(met.sentence.contains("in time for Mon 2026-11-23 08:00 (tight"), "{}", met.sentence);
        let missed = says(Prospect::Missed { arrives: Some(at("2026-11-25T07:59:00Z")) }, true);
        assert_eq!(
            missed.sentence,
            "`db` misses Mon 2026-11-23 08:00 and arrives Wed 2026-11-25 07:59; no boost of up to 12 hours helps."
        );
    }
}
