//! What the line may be used for in the hours and days to come, as far as it is known now: schedule, exceptions, blackouts, overrides, holds and quotas that are
//! used up. What nobody can know ahead (grants, courtesy) is left out.

use super::cause::{Cause, Decided};
use super::state::State;
use super::{Line, clocks};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use shaping::Rate;
use shaping::forecast::EFFICIENCY;
use shaping::policy::{Bend, ClockTrust, QuotaUse, Reason, Situation, decide};
use std::time::Duration;
use wire::message::Minute;

/// Days that are looked ahead for what comes down.
const DAYS_AHEAD: i64 = 60;
/// Changes within one look ahead at most: a week of quarters of an hour.
const MOST: usize = 700;

/// A stretch of time in which one thing holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// From when on.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// What holds.
    pub decided: Decided,
}

/// What people at the site have paused or boosted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bent {
    /// The rate of a boost; none: a pause.
    pub boost: Option<Rate>,
    /// Until when.
    pub until: Timestamp,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}

/// How the clock stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockView {
    /// How far it is trusted.
    pub trust: ClockTrust,
    /// The time as well as it is known.
    pub now: Timestamp,
    /// How long ago a gateway told it; none: not since the machine was started.
    pub told: Option<Duration>,
    /// The machine's own clock less the time as it was told.
    pub skew: Option<SignedDuration>,
    /// How long the policy lets it be believed without word from the gateway.
    pub holdover: Option<Duration>,
}

impl Line {
    /// The site's zone; none: there is no policy.
    pub fn zone(&self) -> Option<TimeZone> {
        self.lock().held.as_ref().map(|held| held.policy.zone.clone())
    }

    /// How the clock stands.
    pub fn clock(&self) -> ClockView {
        let (state, clocks) = (self.lock(), clocks());
        let now = state.now(clocks.counted);
        ClockView {
            trust: state.trust(clocks.counted),
            now: now.unwrap_or(clocks.machine),
            told: state.told_ago(clocks.counted),
            skew: now.map(|now| clocks.machine.duration_since(now)),
            holdover: state.held.as_ref().map(|held| held.policy.clock_holdover),
        }
    }

    /// What the line carries by the policy: what full height is in pictures.
    pub fn carries(&self) -> Option<u64> {
        self.lock().held.as_ref().map(|held| held.policy.line.up.bits())
    }

    /// The most to which people at the site may boost; none: they may not.
    pub fn boost_limit(&self) -> Option<Rate> {
        let state = self.lock();
        let policy = &state.held.as_ref()?.policy;
        Some(policy.local_boost?.of(policy.line.up)).filter(|most| most.is_open())
    }

    /// What people at the site have paused or boosted.
    pub fn bent_here(&self) -> Option<Bent> {
        let bend = self.lock().bends().pop()?;
        let boost = match bend.bend {
            Bend::Boost { rate, .. } => Some(rate),
            Bend::Pause | Bend::Class(_) | Bend::Weight(_) => None,
        };
        Some(Bent { boost, until: bend.until, by: bend.actor, why: bend.reason })
    }

    /// What may be sent from `from` to `to`, stretch by stretch without a gap.
    pub fn stretches(&self, from: Timestamp, to: Timestamp) -> Vec<Stretch> {
        self.lock().stretches(from, to, clocks().counted)
    }

    /// When so many bytes of payload will have come down by the policy in force, and in how many windows; `None` without a policy or a clock, or where that
    /// takes longer than 60 days. What else comes down is left out.
    pub fn comes_down(&self, bytes: u64) -> Option<(Timestamp, u32)> {
        let state = self.lock();
        let now = state.now(clocks().counted)?;
        state.comes_down(bytes, now, clocks().counted)
    }

    /// What was sent since then, by the minute. Blocks.
    pub fn sent_since(&self, from: Timestamp, minutes: usize) -> Vec<Minute> {
        let after = u32::try_from(from.as_second().div_euclid(60)).unwrap_or(0);
        self.0.journal.minutes_after(after.saturating_sub(1), minutes).unwrap_or_default()
    }
}

fn is_same(one: &Decided, other: &Decided) -> bool {
    (one.bits, one.silent, &one.cause) == (other.bits, other.silent, &other.cause)
}

impl State {
    fn stretches(&self, from: Timestamp, to: Timestamp, counted: Duration) -> Vec<Stretch> {
        let (trust, quotas) = (self.trust(counted), self.quotas());
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut at = from;
        while at < to && stretches.len() < MOST {
            let (decided, until) = self.ahead(at, trust, &quotas);
            let until = until.filter(|until| *until > at).unwrap_or(to).min(to);
            match stretches.last_mut() {
                Some(last) if is_same(&last.decided, &decided) => last.until = until,
                _ => stretches.push(Stretch { from: at, until, decided }),
            }
            at = until;
        }
        stretches
    }

    /// Walks through what is known ahead, as [`State::stretches`] does, by the rates down.
    fn comes_down(&self, bytes: u64, now: Timestamp, counted: Duration) -> Option<(Timestamp, u32)> {
        let held = self.held.as_ref()?;
        let (trust, quotas, local) = (self.trust(counted), self.quotas(), self.bends());
        let end = now.saturating_add(SignedDuration::from_hours(24 * DAYS_AHEAD)).ok()?;
        let (mut at, mut left, mut windows, mut was_open) = (now, bytes as f64, 0, false);
        while at < end {
            let quotas: Vec<QuotaUse> = quotas.iter().map(|used| later(*used, at)).collect();
            let situation =
                Situation { now: at, clock: trust, quotas: &quotas, local: &local, grant: None, courtesy: None };
            let allowed = decide(&held.policy, &held.schedule, &situation);
            // What is asked for goes up: where that is closed, nothing comes.
            let rate = match allowed.down {
                _ if !allowed.up.is_open() => 0.0,
                Rate::Closed => 0.0,
                Rate::Limited(rate) => rate.bits() as f64,
                Rate::Unlimited => held.policy.line.down.bits() as f64,
            } * EFFICIENCY
                / 8.0;
            let until = allowed.until.filter(|until| *until > at).unwrap_or(end).min(end);
            let is_open = rate > 0.0;
            windows += u32::from(is_open && !was_open);
            was_open = is_open;
            let seconds = until.duration_since(at).as_secs_f64();
            if is_open && rate * seconds >= left {
                let arrives = at.saturating_add(SignedDuration::from_secs_f64(left / rate)).ok()?;
                return Some((arrives, windows));
            }
            left -= rate * seconds;
            at = until;
        }
        None
    }

    /// What holds at a moment to come, and until when.
    fn ahead(&self, at: Timestamp, trust: ClockTrust, quotas: &[QuotaUse]) -> (Decided, Option<Timestamp>) {
        let local = self.bends();
        let Some(held) = &self.held else { return self.ahead_without_policy(at) };
        let quotas: Vec<QuotaUse> = quotas.iter().map(|used| later(*used, at)).collect();
        let situation =
            Situation { now: at, clock: trust, quotas: &quotas, local: &local, grant: None, courtesy: None };
        let mut allowed = decide(&held.policy, &held.schedule, &situation);
        if let Some(ceiling) = self.ceiling() {
            allowed.at_most(ceiling, None, Reason::Config, None);
        }
        // A quota that begins anew may change what holds, although it does not limit now.
        let begins = quotas.iter().filter_map(|used| used.ends).filter(|ends| *ends > at).min();
        let until = [allowed.until, begins].into_iter().flatten().min();
        (Decided::of(&allowed, &held.policy, &local), until)
    }

    fn ahead_without_policy(&self, at: Timestamp) -> (Decided, Option<Timestamp>) {
        let pause =
            self.bends().into_iter().find(|bend| bend.bend == Bend::Pause && bend.from <= at && at < bend.until);
        if let Some(pause) = pause {
            let cause = Cause::Pause { by: pause.actor, why: pause.reason, here: true };
            return (Decided { bits: Some(0), silent: false, until: None, cause }, Some(pause.until));
        }
        let decided = match (self.ceiling(), &self.fault) {
            (Some(rate), None) => {
                let bits = rate.limit().map(|limit| limit.bits()).or((rate == Rate::Closed).then_some(0));
                Decided { bits, cause: Cause::Config, ..Decided::default() }
            }
            (_, Some(why)) => Decided { bits: Some(0), cause: Cause::Fault { why: why.clone() }, ..Decided::default() },
            (None, None) => Decided { bits: Some(0), ..Decided::default() },
        };
        (decided, None)
    }

    fn trust(&self, counted: Duration) -> ClockTrust {
        let holdover = self.held.as_ref().map_or(Duration::MAX, |held| held.policy.clock_holdover);
        self.clock_trust(counted, holdover)
    }
}

/// What is used of a quota at a moment to come: nothing once its period is over. Its pace is left out: it follows what is sent until then.
fn later(mut used: QuotaUse, at: Timestamp) -> QuotaUse {
    used.open_seconds = 0;
    if used.ends.is_some_and(|ends| ends <= at) {
        used.used = 0;
        used.ends = None;
    }
    used
}

#[cfg(test)]
mod tests {
    use super::super::{Clocks, Held, Kept};
    use super::*;
    use dedupe::SiteId;
    use shaping::policy::Bend;
    use wire::policy::PolicyKey;

    const SITE: SiteId = SiteId([1; 16]);
    const COUNTED: Duration = Duration::from_secs(1000);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn state(document: &str, now: Timestamp) -> State {
        let key = PolicyKey::read(&PolicyKey::generate()).unwrap();
        let held = Held::accept(key.sign(SITE, document.to_owned()), SITE, None, now).unwrap();
        let clocks = Clocks { counted: COUNTED, machine: now };
        let mut state = State::resume(Kept { held: Some(held), ..Kept::default() }, None, "boot".into(), clocks);
        state.told(now, COUNTED);
        state
    }

    const DOCUMENT: &str = r#"
version = 3
zone = "Europe/Berlin"
[line]
up = "2 Mbit/s"
cap = "80 %"
[profiles]
night = "100 %"
[grid]
mon-sun = "00:00 night 07:30 closed 19:30 night"
[[blackouts]]
name = "month end"
when = "2026-10-26"
hours = "21:00-22:00"
"#;

    #[test]
    fn what_comes_down_is_told_by_the_rates_down_window_by_window() {
        let document = r#"
version = 3
zone = "UTC"
[line]
up = "2 Mbit/s"
[profiles]
night = { up = "100 %", down = "1 Mbit/s" }
upload = { up = "100 %", down = "0" }
[grid]
mon-sun = "00:00 night 06:00 closed 20:00 upload 22:00 night"
"#;
        let now = at("2026-10-22T12:00:00Z");
        let state = state(document, now);
        let hours = |count: f64| (count * 3600.0 * 125_000.0 * EFFICIENCY) as u64;
        let comes = |bytes| state.comes_down(bytes, now, COUNTED).map(|(at, windows)| (at.as_second(), windows));
        let second = |text: &str| at(text).as_second();
        let near = |found: Option<(i64, u32)>, text: &str, windows| {
            let (found, of) = found.unwrap();
            assert!((found - second(text)).abs() <= 1 && of == windows, "{found} in {of}");
        };
        near(comes(hours(1.0)), "2026-10-22T23:00:00Z", 1);
        near(comes(hours(9.0)), "2026-10-23T23:00:00Z", 2);
        assert_eq!(comes(hours(8.0 * 70.0)), None, "longer than anybody looks ahead");
    }

    #[test]
    fn stretches_say_what_the_decision_says_at_every_quarter_of_a_week_with_a_change_of_the_clocks() {
        // Berlin goes back an hour on the 25th.
        let (from, to) = (at("2026-10-22T10:07:00Z"), at("2026-10-29T10:07:00Z"));
        let mut state = state(DOCUMENT, from);
        let _kept = state.bend(Bend::Pause, Duration::from_secs(90 * 60), Clocks { counted: COUNTED, machine: from });
        let stretches = state.stretches(from, to, COUNTED);
        assert_eq!((stretches[0].from, stretches.last().unwrap().until), (from, to));
        assert!(stretches.windows(2).all(|pair| pair[0].until == pair[1].from && pair[0].decided != pair[1].decided));
        let mut instant = from;
        while instant < to {
            let (decided, _) = state.ahead(instant, ClockTrust::Synced, &[]);
            let stretch = stretches.iter().find(|stretch| stretch.from <= instant && instant < stretch.until).unwrap();
            assert!(is_same(&stretch.decided, &decided), "{instant}: {stretch:?}, {decided:?}");
            instant += SignedDuration::from_mins(7);
        }
        let said = |stretch: &Stretch| (stretch.until.to_string(), stretch.decided.bits, stretch.decided.cause.clone());
        let here = Cause::Pause { by: String::new(), why: String::new(), here: true };
        assert_eq!(said(&stretches[0]), ("2026-10-22T11:37:00Z".into(), Some(0), here), "a pause ends to the minute");
        let month_end = Cause::Blackout { name: "month end".into() };
        let barred = stretches.iter().find(|stretch| stretch.decided.cause == month_end).unwrap();
        assert_eq!((barred.from, barred.until), (at("2026-10-26T20:00:00Z"), at("2026-10-26T21:00:00Z")));
        let open = stretches.iter().find(|stretch| stretch.decided.is_open()).unwrap();
        assert_eq!((open.decided.bits, &open.decided.cause), (Some(1_600_000), &Cause::Cap));
        let mornings: Vec<String> = stretches
            .iter()
            .filter(|stretch| !stretch.decided.is_open())
            .map(|stretch| stretch.from.to_string())
            .collect();
        assert!(
            mornings.contains(&"2026-10-24T05:30:00Z".into()) && mornings.contains(&"2026-10-25T06:30:00Z".into()),
            "{mornings:?}"
        );
    }

    #[test]
    fn without_a_policy_the_configuration_holds_but_for_a_pause() {
        let now = at("2026-10-22T10:00:00Z");
        let clocks = Clocks { counted: COUNTED, machine: now };
        let mut state = State::resume(Kept::default(), Some("1 Mbit/s".parse().unwrap()), "boot".into(), clocks);
        let _kept = state.bend(Bend::Pause, Duration::from_secs(3600), clocks);
        let stretches = state.stretches(now, now + SignedDuration::from_hours(4), COUNTED);
        let bits: Vec<_> = stretches.iter().map(|stretch| (stretch.until, stretch.decided.bits)).collect();
        assert_eq!(bits, [(at("2026-10-22T11:00:00Z"), Some(0)), (at("2026-10-22T14:00:00Z"), Some(1_000_000))]);
        let closed = State::resume(Kept::default(), None, "boot".into(), clocks);
        let stretches = closed.stretches(now, now + SignedDuration::from_hours(4), COUNTED);
        assert_eq!(
            (stretches.len(), stretches[0].decided.bits, &stretches[0].decided.cause),
            (1, Some(0), &Cause::NoPolicy)
        );
    }

    #[test]
    fn a_quota_counts_nothing_once_its_period_is_over() {
        let ends = at("2026-11-01T00:00:00Z");
        let used = QuotaUse { used: 7, ends: Some(ends), open_seconds: 9 };
        assert_eq!(later(used, ends - SignedDuration::from_secs(1)), QuotaUse { open_seconds: 0, ..used });
        assert_eq!(later(used, ends), QuotaUse { used: 0, ends: None, open_seconds: 0 });
    }
}
