//! When what waits will have crossed the line: [`decide`] integrated over the future, against the queue; and what would help.

use crate::policy::quota::QuotaStep;
use crate::policy::{Bend, ClockTrust, Override, Policy, QuotaUse, Schedule, Situation, decide};
use crate::scheduler::{Terms, shares};
use crate::units::Rate;
use jiff::{SignedDuration, Timestamp};

/// Share of IP bytes that arrives as payload with full datagrams of 1452 bytes on a line that loses 0.5 %: measured, see `docs/design/line.md`.
pub const EFFICIENCY: f64 = 0.956;
/// What may come on top of what is known to wait: sizes of what is not coded yet are guessed from the ratio so far. A tenth is chosen, not measured: it tells
/// a deadline that is met by minutes from one that is met by hours.
pub const MARGIN: f64 = 0.1;
/// Steps after which a forecast gives up: a year of quarter-hour windows.
const MOST_STEPS: usize = 50_000;
/// Hours of boost that a remedy proposes at most: more is not a remedy but another schedule.
const MOST_BOOST_HOURS: i64 = 12;

/// Bytes of one volume that still have to cross the line.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// The volume.
    pub name: String,
    /// Coded bytes that are not acknowledged yet.
    pub bytes: u64,
}

/// What would bring a volume over in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// Boost to this rate,
    pub rate: Rate,
    /// from here
    pub from: Timestamp,
    /// to here.
    pub until: Timestamp,
    /// When everything that was to arrive will have, with that.
    pub arrives: Timestamp,
    /// Whether it also helps when there is [`MARGIN`] more to send than is known.
    pub is_safe: bool,
}

/// What becomes of a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It is met; `is_safe`: also when there is [`MARGIN`] more to send.
    Met {
        /// When it will have arrived.
        arrives: Timestamp,
        /// Whether there is room for more.
        is_safe: bool,
    },
    /// It is missed as things are, and this helps.
    Helped(Remedy),
    /// It is missed, and no boost of at most 12 hours helps.
    Missed {
        /// When it will have arrived; `None`: not before the schedule ends.
        arrives: Option<Timestamp>,
    },
}

/// What the future is worked out from.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// Its schedule, from now on.
    pub schedule: &'a Schedule,
    /// From when on.
    pub now: Timestamp,
    /// How far the policy's quotas are used now.
    pub quotas: &'a [QuotaUse],
    /// Overrides of the site.
    pub local: &'a [Override],
    /// What arrives of what is sent, 0 to 1: measured, or [`EFFICIENCY`].
    pub efficiency: f64,
}

impl Outlook<'_> {
    /// When each work will have crossed, in their order; `None`: not before the schedule ends.
    ///
    /// Shared as [`crate::scheduler::Scheduler`] does in the long run: floors, classes one after the other, weights, all below the caps.
    pub fn arrivals(&self, works: &[Work]) -> Vec<Option<Timestamp>> {
        let mut left: Vec<f64> = works.iter().map(|work| work.bytes as f64).collect();
        let mut done: Vec<Option<Timestamp>> = works.iter().map(|work| (work.bytes == 0).then_some(self.now)).collect();
        let mut quotas = self.quotas.to_vec();
        let (mut now, end) = (self.now, self.schedule.end());
        for _ in 0..MOST_STEPS {
            if done.iter().all(Option::is_some) || now >= end {
                break;
            }
            self.turn_periods(&mut quotas, now);
            let allowed = self.allowed(&quotas, now);
            let mut until = allowed.until.unwrap_or(end).min(end);
            let rate = match allowed.up {
                Rate::Closed => 0.0,
                Rate::Limited(limit) => limit.bits() as f64,
                Rate::Unlimited => self.policy.line.up.bits() as f64,
            };
            let terms: Vec<Terms> = works
                .iter()
                .zip(&done)
                .map(|(work, done)| {
                    let standing = self.policy.volume(&work.name, self.local, now, ClockTrust::Synced);
                    until = standing.until.map_or(until, |ends| until.min(ends));
                    Terms { barred: standing.terms.barred || done.is_some(), ..standing.terms }
                })
                .collect();
            // IP bytes a second of each.
            let shares: Vec<f64> = shares(rate, &terms).into_iter().map(|share| share / 8.0).collect();
            let all: f64 = shares.iter().sum();
            let mut seconds = until.duration_since(now).as_secs_f64().max(0.001);
            if all > 0.0 {
                // To the first volume that is over, or the first step of a quota, whichever comes first.
                for (at, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
                    seconds = seconds.min(left[at] / (share * self.efficiency));
                }
                for (rule, used) in self.policy.quotas.iter().zip(&quotas) {
                    let soft = rule.soft.map(|(percent, _)| (rule.limit as u128 * u128::from(percent) / 100) as u64);
                    let steps = [soft.unwrap_or(u64::MAX), rule.data_limit()];
                    let next = steps.into_iter().filter(|step| *step > used.used).min();
                    if let Some(next) = next.filter(|next| *next < u64::MAX) {
                        seconds = seconds.min((next - used.used) as f64 / all);
                    }
                }
                seconds = seconds.max(0.001);
            }
            now = now.saturating_add(SignedDuration::from_secs_f64(seconds)).unwrap_or(Timestamp::MAX);
            for used in &mut quotas {
                used.used += (all * seconds).ceil() as u64;
            }
            for (at, share) in shares.into_iter().enumerate().filter(|(_, share)| *share > 0.0) {
                left[at] -= share * seconds * self.efficiency;
                if left[at] < 1.0 {
                    done[at] = Some(now);
                }
            }
        }
        done
    }

    /// Whether the works with these places arrive by `deadline`, and if not, the shortest boost to the line's cap, up to the deadline, that brings them over
    /// by then. The others compete with them.
    pub fn prospect(&self, works: &[Work], wanted: &[usize], deadline: Timestamp) -> Prospect {
        let last = |outlook: &Outlook<'_>, works: &[Work]| {
            let arrivals = outlook.arrivals(works);
            wanted.iter().map(|at| arrivals[*at]).try_fold(outlook.now, |last, at| at.map(|at| last.max(at)))
        };
        let in_time = |at: &Option<Timestamp>| at.is_some_and(|at| at <= deadline);
        let more: Vec<Work> = works
            .iter()
            .map(|work| Work { name: work.name.clone(), bytes: (work.bytes as f64 * (1.0 + MARGIN)) as u64 })
            .collect();
        let arrives = last(self, works);
        if let Some(arrives) = arrives.filter(|at| *at <= deadline) {
            return Prospect::Met { arrives, is_safe: in_time(&last(self, &more)) };
        }
        if deadline <= self.now {
            return Prospect::Missed { arrives };
        }
        let rate = self.policy.line.cap.of(self.policy.line.up);
        let helps = (1..=MOST_BOOST_HOURS).find_map(|hours| {
            let from = deadline.saturating_sub(SignedDuration::from_hours(hours)).unwrap_or(self.now).max(self.now);
            let mut policy = self.policy.clone();
            policy.overrides.push(Override {
                id: u64::MAX,
                bend: Bend::Boost { rate, pierce: false },
                from,
                until: deadline,
                volume: None,
                actor: String::new(),
                reason: String::new(),
            });
            let helped = Outlook { policy: &policy, ..*self };
            let arrives = last(&helped, works).filter(|at| *at <= deadline)?;
            Some(Remedy { rate, from, until: deadline, arrives, is_safe: in_time(&last(&helped, &more)) })
        });
        helps.map_or(Prospect::Missed { arrives }, Prospect::Helped)
    }

    fn allowed(&self, quotas: &[QuotaUse], now: Timestamp) -> crate::policy::Allowance {
        let clock = ClockTrust::Synced;
        let situation = Situation { now, clock, quotas, local: self.local, grant: None, courtesy: None };
        decide(self.policy, self.schedule, &situation)
    }

    /// Begins the periods anew that have ended.
    fn turn_periods(&self, quotas: &mut [QuotaUse], now: Timestamp) {
        for (rule, used) in self.policy.quotas.iter().zip(quotas) {
            if used.ends.is_some_and(|ends| ends <= now) {
                used.used = 0;
                used.ends = rule.period.around(now, &self.policy.zone).map(|(_, ends)| ends);
            }
            if rule.even && matches!(rule.step(used.used), QuotaStep::Free | QuotaStep::Warn | QuotaStep::Soft(_)) {
                used.open_seconds = used.ends.map_or(0, |ends| self.schedule.open_seconds(self.policy, now, ends));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "version = 1\nzone = \"UTC\"\n[line]\nup = \"8 Mbit/s\"\n[profiles]\nnight = \"100 %\"\n\
        [grid]\nall = \"00:00 night 06:00 closed 18:00 night\"\n";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn work(name: &str, megabytes: u64) -> Work {
        Work { name: name.into(), bytes: megabytes * 1_000_000 }
    }

    /// A megabyte a second while open, and everything arrives.
    fn with<T>(document: &str, now: &str, quotas: &[QuotaUse], act: impl FnOnce(Outlook<'_>) -> T) -> T {
        let policy = Policy::parse(document).unwrap();
        let now = at(now);
        let schedule = policy.schedule(now, 30);
        act(Outlook { policy: &policy, schedule: &schedule, now, quotas, local: &[], efficiency: 1.0 })
    }

    #[track_caller]
    fn assert_near(found: Option<Timestamp>, wanted: &str) {
        let off = found.unwrap().duration_since(at(wanted)).abs();
        assert!(off < SignedDuration::from_secs(2), "{found:?}, not {wanted}");
    }

    #[test]
    fn closed_hours_are_waited_for() {
        with(DOCUMENT, "2026-11-22T05:00:00Z", &[], |outlook| {
            let arrivals = outlook.arrivals(&[work("a", 1_800), work("b", 0)]);
            assert_near(arrivals[0], "2026-11-22T05:30:00Z");
            assert_eq!(arrivals[1], Some(outlook.now));
            assert_near(outlook.arrivals(&[work("a", 3_600 + 60)])[0], "2026-11-22T18:01:00Z");
            assert_eq!(outlook.arrivals(&[work("a", 90_000_000)])[0], None, "not within what is laid out");
        });
    }

    #[test]
    fn classes_come_one_after_the_other_and_weights_share_a_class() {
        let rules = "[[volumes]]\nname = \"db\"\nclass = \"critical\"\n[[volumes]]\nname = \"a\"\nweight = 300\n[[volumes]]\nname = \"b\"\nweight = 100\n";
        with(&format!("{DOCUMENT}{rules}"), "2026-11-22T00:00:00Z", &[], |outlook| {
            let arrivals = outlook.arrivals(&[work("a", 600), work("b", 600), work("db", 600)]);
            assert_near(arrivals[2], "2026-11-22T00:10:00Z");
            // Three quarters of the line: 800 s; then b, which has 400 MB left, alone.
            assert_near(arrivals[0], "2026-11-22T00:23:20Z");
            assert_near(arrivals[1], "2026-11-22T00:30:00Z");
        });
    }

    #[test]
    fn a_quota_stops_until_its_period_ends() {
        let document = format!("{DOCUMENT}[[quotas]]\nperiod = \"day\"\nlimit = \"1 GB\"\n");
        let used = QuotaUse { used: 390_000_000, ends: Some(at("2026-11-23T00:00:00Z")), open_seconds: 0 };
        with(&document, "2026-11-22T00:00:00Z", &[used], |outlook| {
            // 600 MB today (10 MB are control's), 300 tomorrow.
            assert_near(outlook.arrivals(&[work("a", 900)])[0], "2026-11-23T00:05:00Z");
        });
    }

    #[test]
    fn caps_floors_holds_and_pauses_of_volumes_count() {
        let rules = "[[volumes]]\nname = \"db\"\nclass = \"critical\"\ncap = \"4 Mbit/s\"\n\
            [[volumes]]\nname = \"held\"\nheld = { actor = \"li\", reason = \"r\" }\n\
            [[overrides]]\nid = 1\nbend = \"pause\"\nfrom = \"2026-11-22T00:00:00Z\"\nuntil = \"2026-11-22T00:30:00Z\"\nvolume = \"a\"\nactor = \"li\"\nreason = \"r\"\n";
        with(&format!("{DOCUMENT}{rules}"), "2026-11-22T00:00:00Z", &[], |outlook| {
            let arrivals = outlook.arrivals(&[work("db", 900), work("a", 600), work("held", 1)]);
            // Half the line until it is over; `a` begins when its pause ends, and has the whole line.
            assert_near(arrivals[0], "2026-11-22T00:30:00Z");
            assert_near(arrivals[1], "2026-11-22T00:40:00Z");
            assert_eq!(arrivals[2], None, "nobody knows when it is let go");
        });
        let floor =
            "[[volumes]]\nname = \"db\"\nclass = \"critical\"\n[[volumes]]\nname = \"a\"\nfloor = \"2 Mbit/s\"\n";
        with(&format!("{DOCUMENT}{floor}"), "2026-11-22T00:00:00Z", &[], |outlook| {
            let arrivals = outlook.arrivals(&[work("db", 900), work("a", 300)]);
            assert_near(arrivals[0], "2026-11-22T00:20:00Z");
            assert_near(arrivals[1], "2026-11-22T00:20:00Z");
        });
    }

    #[test]
    fn the_shortest_boost_that_helps_is_proposed() {
        with(DOCUMENT, "2026-11-22T05:00:00Z", &[], |outlook| {
            let works = [work("a", 3_600 + 5_000)];
            let deadline = at("2026-11-22T10:00:00Z");
            let Prospect::Helped(remedy) = outlook.prospect(&works, &[0], deadline) else { panic!("a boost helps") };
            assert_eq!((remedy.from, remedy.until), (at("2026-11-22T08:00:00Z"), deadline));
            assert_near(Some(remedy.arrives), "2026-11-22T09:23:20Z");
            assert!(remedy.is_safe, "there is time for a tenth more");
            assert_eq!(remedy.rate.to_string(), "8 Mbit/s");
            let evening = outlook.prospect(&works, &[0], at("2026-11-22T20:00:00Z"));
            assert!(matches!(evening, Prospect::Met { is_safe: true, .. }), "{evening:?}");
            let close = outlook.prospect(&works, &[0], at("2026-11-22T19:24:00Z"));
            assert!(matches!(close, Prospect::Met { is_safe: false, .. }), "{close:?}");
            let much = outlook.prospect(&[work("a", 900_000)], &[0], deadline);
            assert!(matches!(much, Prospect::Missed { .. }), "no boost is enough: {much:?}");
        });
    }

    #[test]
    fn a_remedy_is_for_one_volume_while_the_others_compete() {
        let rules = "[[volumes]]\nname = \"db\"\nclass = \"critical\"\n";
        with(&format!("{DOCUMENT}{rules}"), "2026-11-22T05:00:00Z", &[], |outlook| {
            let works = [work("db", 3_000), work("a", 2_000)];
            let deadline = at("2026-11-22T07:00:00Z");
            assert!(matches!(outlook.prospect(&works, &[0], deadline), Prospect::Met { .. }));
            let Prospect::Helped(remedy) = outlook.prospect(&works, &[1], deadline) else { panic!("a boost helps") };
            assert_near(Some(remedy.arrives), "2026-11-22T06:23:20Z");
        });
    }
}
