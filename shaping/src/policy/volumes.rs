//! How a volume shares the line at a moment: its rule, bent by the overrides of the moment that name it.

use super::decide::moment;
use super::{Bend, ClockTrust, Override, Policy, VolumeRule};
use crate::scheduler::Terms;
use crate::units::Rate;
use jiff::Timestamp;
use std::time::Duration;

/// How a volume shares the line now, and for how long that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeStanding {
    /// For the scheduler.
    pub terms: Terms,
    /// Oldest age that its newest generation at the gateway may reach.
    pub lag: Option<Duration>,
    /// What keeps it from sending, if anything does.
    pub bar: Option<Bar>,
    /// When this ends as far as time decides.
    pub until: Option<Timestamp>,
}

/// A hold or pause of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    /// When it ends; `None`: when somebody ends it.
    pub until: Option<Timestamp>,
    /// Who wanted it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// For people: `held until Mon 2026-11-23 19:30 by li (audit)`.
    pub sentence: String,
}

impl Policy {
    /// How the volume of this name shares the line. A hold beats a pause; of several overrides of one kind the one that ends last counts. A boost of
    /// a volume takes the place of its cap. While the clock cannot be trusted each pause holds, as with the site's.
    pub fn volume(&self, name: &str, local: &[Override], now: Timestamp, clock: ClockTrust) -> VolumeStanding {
        let rule = self.volumes.iter().find(|rule| rule.name == name);
        let mut terms = rule.map_or_else(Terms::default, VolumeRule::terms);
        let own = || self.overrides.iter().chain(local).filter(|bend| bend.volume.as_deref() == Some(name));
        let trusted = clock != ClockTrust::Untrusted;
        let mut until = own().map(|bend| bend.from).filter(|from| *from > now).min();
        let mut active: Vec<&Override> = own().filter(|bend| trusted && bend.from <= now && now < bend.until).collect();
        active.sort_by_key(|bend| bend.until);
        for bend in &active {
            until = Some(until.map_or(bend.until, |until| until.min(bend.until)));
            match bend.bend {
                Bend::Pause => {}
                Bend::Boost { rate: Rate::Closed, .. } => {}
                Bend::Boost { rate, .. } => terms.cap = rate.limit(),
                Bend::Class(class) => terms.class = class,
                Bend::Weight(weight) => terms.weight = weight,
            }
        }
        let hold = rule.and_then(|rule| rule.held.as_ref());
        let paused = active.iter().rev().find(|bend| bend.bend == Bend::Pause).copied();
        let paused = paused.or_else(|| own().find(|bend| !trusted && bend.bend == Bend::Pause));
        let bar = match (hold, paused) {
            (Some(hold), _) => Some(Bar {
                until: None,
                actor: hold.actor.clone(),
                reason: hold.reason.clone(),
                sentence: format!("held by {} ({})", hold.actor, hold.reason),
            }),
            (None, Some(pause)) => {
                let ends = moment(pause.until, &self.zone);
                Some(Bar {
                    until: Some(pause.until),
                    actor: pause.actor.clone(),
                    reason: pause.reason.clone(),
                    sentence: format!("held until {ends} by {} ({})", pause.actor, pause.reason),
                })
            }
            (None, None) => None,
        };
        terms.barred = bar.is_some();
        VolumeStanding { terms, lag: rule.and_then(|rule| rule.lag), bar, until }
    }
}

impl VolumeRule {
    /// For the scheduler, while nothing bends it.
    pub fn terms(&self) -> Terms {
        let VolumeRule { class, weight, cap, floor, .. } = *self;
        Terms { class, weight, cap, floor, barred: self.held.is_some() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::VolumeClass;

    const DOCUMENT: &str = r#"
version = 1
zone = "UTC"
[line]
up = "2 Mbit/s"
[[volumes]]
name = "db"
class = "critical"
weight = 300
cap = "1 Mbit/s"
floor = "64 kbit/s"
lag = "12 hours"
[[volumes]]
name = "old"
held = { actor = "li", reason = "audit" }
[[overrides]]
id = 1
bend = "pause"
from = "2026-11-22T08:00:00Z"
until = "2026-11-22T09:00:00Z"
volume = "db"
actor = "li"
reason = "stock taking"
[[overrides]]
id = 2
bend = "class bulk"
from = "2026-11-22T08:30:00Z"
until = "2026-11-22T10:00:00Z"
volume = "db"
actor = "li"
reason = "late"
[[overrides]]
id = 3
bend = "weight 7"
from = "2026-11-22T11:00:00Z"
until = "2026-11-22T12:00:00Z"
volume = "db"
actor = "li"
reason = "late"
[[overrides]]
id = 4
bend = "boost 2 Mbit/s"
from = "2026-11-22T11:00:00Z"
until = "2026-11-22T12:00:00Z"
volume = "db"
actor = "li"
reason = "late"
"#;

    fn at(policy: &Policy, name: &str, hour: &str) -> VolumeStanding {
        policy.volume(name, &[], format!("2026-11-22T{hour}:00Z").parse().unwrap(), ClockTrust::Synced)
    }

    #[test]
    fn overrides_of_a_volume_bend_its_rule_while_they_last() {
        let policy = Policy::parse(DOCUMENT).unwrap();
        let before = at(&policy, "db", "07:59");
        assert_eq!(
            (before.terms.class, before.terms.weight, before.bar.is_some()),
            (VolumeClass::Critical, 300, false)
        );
        assert_eq!(before.until, Some("2026-11-22T08:00:00Z".parse().unwrap()));
        assert_eq!(before.lag, Some(Duration::from_secs(12 * 3600)));
        let paused = at(&policy, "db", "08:30");
        assert!(paused.terms.barred && paused.terms.class == VolumeClass::Bulk);
        let said = paused.bar.unwrap().sentence;
        assert_eq!(said, "held until Sun 2026-11-22 09:00 by li (stock taking)");
        assert_eq!(at(&policy, "db", "09:00").bar, None, "half-open");
        let late = at(&policy, "db", "11:30");
        assert_eq!((late.terms.weight, late.terms.cap.unwrap().to_string()), (7, "2 Mbit/s".into()));
        assert_eq!(at(&policy, "old", "09:00").bar.unwrap().sentence, "held by li (audit)");
        assert_eq!(at(&policy, "unknown", "08:30").terms, Terms::default());
        let untrusted = policy.volume("db", &[], Timestamp::UNIX_EPOCH, ClockTrust::Untrusted);
        assert!(untrusted.terms.barred, "nobody knows whether the pause has passed");
    }

    #[test]
    fn what_a_document_says_of_volumes_survives_being_written() {
        let policy = Policy::parse(DOCUMENT).unwrap();
        let again = Policy::parse(&policy.text()).unwrap();
        assert_eq!((&again.volumes, &again.overrides), (&policy.volumes, &policy.overrides));
        let wrong = |from: &str, to: &str| Policy::parse(&DOCUMENT.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(wrong("class bulk", "class urgent").contains("write critical, normal or bulk"));
        assert!(wrong("weight 7", "weight 0").contains("between 1 and 10000"));
        let site_wide = DOCUMENT.replace("volume = \"db\"\n", "");
        let error = Policy::parse(&site_wide).unwrap_err().to_string();
        assert!(error.contains("name it with `volume`"), "{error}");
    }
}
