//! Slow oracles and simulations that tests and benchmarks share. Not part of any daemon: compiled for tests and with the feature `lab`.
//!
//! ```text
//!   Rules        a rich sample policy as text, and what it says of an instant, worked out anew each time from plain numbers
//!   ten_years    decide() against Rules, every quarter of an hour
//!   kills        a ledger over kills and clock jumps
//!   shared_out   a gateway's line among many edges
//! ```
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "what tests take for granted")]

use crate::grants::{Ask, share};
use crate::ledger::{Ledger, LedgerKey, LedgerStore};
use crate::policy::quota::QuotaRule;
use crate::policy::{ClockTrust, Control, Policy, Situation, decide};
use crate::units::{BitsPerSec, Rate};
use jiff::civil::{Date, Weekday, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

/// Where the ten years are compared: no summer time, three kinds of it (one of half an hour), and a zone that changed its rules.
pub const ZONES: [&str; 5] =
    ["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Almaty"];
/// Days of the ten years.
pub const TEN_YEARS_DAYS: u32 = 3652;

/// The sample policy, with what changes from one version of it to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// IANA.
    pub zone: String,
    /// What the line carries.
    pub up: BitsPerSec,
    /// Per cent of it at night.
    pub night: u64,
    /// Minute of the day from which nights are open, Monday to Thursday; a multiple of 15.
    pub night_from: u32,
}

/// What the schedule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing at all.
    Silent,
    /// No data.
    Closed,
    /// 256 kbit/s.
    Trickle,
    /// [`Rules::night`].
    Night,
    /// All of the line, but for its cap of 90 %.
    Full,
}

impl Rules {
    /// As the ten years have it.
    pub fn sample(zone: &str) -> Rules {
        Rules { zone: zone.into(), up: BitsPerSec::kbit(2_000), night: 80, night_from: 19 * 60 + 30 }
    }

    /// The policy's document, version 1.
    pub fn document(&self) -> String {
        let Rules { zone, up, night, night_from } = self;
        let from = format!("{:02}:{:02}", night_from / 60, night_from % 60);
        format!(
            r#"
version = 1
zone = "{zone}"
[line]
up = "{up}"
cap = "90 %"
[profiles]
trickle = "256 kbit/s"
night = "{night} %"
full = "100 %"
[grid]
mon-thu = "00:00 night 06:00 trickle 07:30 closed {from} night"
fri = "00:00 night 06:00 closed"
sat-sun = "02:15 full 23:45 closed"
[holidays]
as = "sun"
working_as = "tue"
off = ["2024-10-01..2024-10-07 National Day", "2027-01-01"]
working = ["2024-09-29", "2024-10-12"]
[[exceptions]]
name = "month end"
when = "last business day of month -1..+2"
hours = "06:00-22:00"
profile = "closed"
[[exceptions]]
name = "patch night"
when = "second tuesday"
hours = "22:30-04:00"
profile = "trickle"
[[blackouts]]
name = "year end"
when = "12-30..01-02"
[[blackouts]]
name = "clearing"
when = "day 15..16"
hours = "23:00-01:15"
kind = "silent"
"#
        )
    }
}

/// The sample policy's rules as plain sets of dates. It shares no code with the policy but the zone's rules.
#[derive(Clone, Debug)]
pub struct Oracle {
    rules: Rules,
    zone: TimeZone,
    month_ends: BTreeSet<Date>,
    off: BTreeSet<Date>,
    working: BTreeSet<Date>,
}

impl Oracle {
    /// Works the dates of 2019 to 2031 out.
    pub fn new(rules: Rules) -> Oracle {
        let day = |from: Date, to: Date| from.series(jiff::Span::new().days(1)).take_while(move |date| *date <= to);
        let off: BTreeSet<Date> = day(date(2024, 10, 1), date(2024, 10, 7)).chain([date(2027, 1, 1)]).collect();
        let working = BTreeSet::from([date(2024, 9, 29), date(2024, 10, 12)]);
        let business: Vec<Date> = day(date(2019, 1, 1), date(2032, 1, 1))
            .filter(|date| {
                let weekend = matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday);
                working.contains(date) || !(weekend || off.contains(date))
            })
            .collect();
        let mut month_ends = BTreeSet::new();
        for at in 1..business.len() - 3 {
            if business[at].month() != business[at + 1].month() {
                month_ends.extend(day(business[at - 1], business[at + 2]));
            }
        }
        Oracle { zone: TimeZone::get(&rules.zone).unwrap(), rules, month_ends, off, working }
    }

    /// The rules that it answers for.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The site's zone.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Bits per second that the rules allow, whatever the cap says of other terms.
    pub fn rate(&self, said: Said) -> u64 {
        let up = self.rules.up.bits();
        match said {
            Said::Silent | Said::Closed => 0,
            Said::Trickle => 256_000.min(up * 9 / 10),
            Said::Night => (up / 1000 * 10 * self.rules.night).min(up * 9 / 10),
            Said::Full => up * 9 / 10,
        }
    }

    /// Whether a blackout holds, data or silent.
    pub fn is_blackout(&self, at: Timestamp) -> bool {
        let today = at.to_zoned(self.zone.clone()).date();
        let turn = (today.month() == 12 && today.day() >= 30) || (today.month() == 1 && today.day() <= 2);
        turn || self.says(at) == Said::Silent
    }

    /// What holds at an instant.
    pub fn says(&self, at: Timestamp) -> Said {
        let civil = at.to_zoned(self.zone.clone());
        let (today, hour) = (civil.date(), f64::from(civil.hour()) + f64::from(civil.minute()) / 60.0);
        let yesterday = today.yesterday().unwrap();
        if (matches!(today.day(), 15 | 16) && hour >= 23.0) || (matches!(yesterday.day(), 15 | 16) && hour < 1.25) {
            return Said::Silent;
        }
        if (today.month() == 12 && today.day() >= 30) || (today.month() == 1 && today.day() <= 2) {
            return Said::Closed;
        }
        if self.month_ends.contains(&today) && (6.0..22.0).contains(&hour) {
            return Said::Closed;
        }
        let patch = |date: Date| date.weekday() == Weekday::Tuesday && (8..=14).contains(&date.day());
        if (patch(today) && hour >= 22.5) || (patch(yesterday) && hour < 4.0) {
            return Said::Trickle;
        }
        let weekday = match () {
            () if self.working.contains(&today) => Weekday::Tuesday,
            () if self.off.contains(&today) => Weekday::Sunday,
            () => today.weekday(),
        };
        match weekday {
            Weekday::Saturday | Weekday::Sunday if (2.25..23.75).contains(&hour) => Said::Full,
            Weekday::Saturday | Weekday::Sunday => Said::Closed,
            _ if hour < 6.0 => Said::Night,
            Weekday::Friday => Said::Closed,
            _ if hour < 7.5 => Said::Trickle,
            _ if hour < f64::from(self.rules.night_from) / 60.0 => Said::Closed,
            _ => Said::Night,
        }
    }
}

/// Bits per second; 0 for what is not limited.
pub fn bits(rate: Rate) -> u64 {
    rate.limit().map_or(0, |limit| limit.bits())
}

/// A situation in which nothing counts but the time.
pub fn plain(now: Timestamp) -> Situation<'static> {
    Situation { now, clock: ClockTrust::Synced, quotas: &[], local: &[], grant: None, courtesy: None }
}

/// When the ten years begin.
pub fn ten_years_from() -> Timestamp {
    "2021-01-01T00:00:00Z".parse().unwrap()
}

/// Compares `decide` with the oracle for every quarter of an hour of ten years, and what it says of its next change with what then comes. How many
/// answers were compared; `Err`: the first that differs.
pub fn ten_years(zone: &str) -> Result<u64, String> {
    let rules = Rules::sample(zone);
    let policy = Policy::parse(&rules.document()).unwrap();
    let oracle = Oracle::new(rules);
    let from = ten_years_from();
    let schedule = policy.schedule(from, TEN_YEARS_DAYS);
    let mut changes: Option<Timestamp> = None;
    let mut before = None;
    let mut compared = 0;
    for quarter in 0..i64::from(TEN_YEARS_DAYS) * 96 {
        let now = from + SignedDuration::from_mins(quarter * 15);
        let allowed = decide(&policy, &schedule, &plain(now));
        let (said, wanted) = ((bits(allowed.up), allowed.control == Control::Silent), oracle.says(now));
        if said != (oracle.rate(wanted), wanted == Said::Silent) {
            return Err(format!("{zone} at {now}: {said:?} where the oracle says {wanted:?}"));
        }
        // What it said of its next change came true: no change before, and one then.
        let slot = schedule.at(now).unwrap().0;
        if let (Some(until), Some(last)) = (changes, before)
            && (now >= until) != (slot != last)
        {
            return Err(format!("{zone} at {now}: a change was announced for {until}"));
        }
        (changes, before) = (allowed.until, Some(slot));
        compared += 1;
    }
    Ok(compared)
}

/// Counts in memory, as durable as the journal's: what was saved is there after a kill.
#[derive(Debug, Default)]
pub struct Rows(RefCell<BTreeMap<LedgerKey, u64>>);

impl LedgerStore for Rows {
    type Error = Infallible;

    fn load(&self, key: LedgerKey) -> Result<u64, Infallible> {
        Ok(self.0.borrow().get(&key).copied().unwrap_or(0))
    }

    fn save(&self, counts: &[(LedgerKey, u64)]) -> Result<(), Infallible> {
        self.0.borrow_mut().extend(counts.iter().copied());
        Ok(())
    }
}

/// A day, a week and a prepaid amount, all at once.
pub const QUOTAS: &str = "version = 1\nzone = \"Asia/Shanghai\"\n[line]\nup = \"8 Mbit/s\"\n\
    [[quotas]]\nperiod = \"day\"\nlimit = \"3 MB\"\n[[quotas]]\nperiod = \"week\"\nlimit = \"12 MB\"\n\
    [[quotas]]\nperiod = \"prepaid\"\nlimit = \"200 MB\"\n";
/// The datagrams of [`kills`].
pub const DATAGRAM: u64 = 1_500;
/// Bytes per second of the line of [`kills`], and of one claim on it: five seconds.
const KILLS_RATE: u64 = 100_000;
/// What one kill there may lose: one claim.
pub const KILLS_BLOCK: u64 = 5 * KILLS_RATE;

/// What came of [`kills`].
#[derive(Clone, Debug, Default)]
pub struct Killed {
    /// Kills and clock jumps.
    pub events: u64,
    /// The most that was sent in any period beyond its quota, in bytes.
    pub over: u64,
    /// The most that was sent in any period beyond what is counted of it, in bytes.
    pub uncounted: u64,
    /// The most that one kill lost of what was claimed, in bytes.
    pub most_lost: u64,
    /// The most that a day had.
    pub fullest_day: u64,
}

/// The first seconds of the periods that `now` lies in.
pub fn keys(policy: &Policy, now: Timestamp) -> Vec<LedgerKey> {
    let start = |rule: &QuotaRule| rule.period.around(now, &policy.zone).map_or(0, |(from, _)| from.as_second());
    policy.quotas.iter().map(|rule| LedgerKey { period: rule.period, start: start(rule) }).collect()
}

/// A sender as the shaper is one (it sends while it is below the budget, and the last datagram may go beyond it) over so many random kills and clock jumps.
pub fn kills(events: u64) -> Killed {
    let policy = Policy::parse(QUOTAS).unwrap();
    let (rows, mut sent) = (Rows::default(), BTreeMap::<LedgerKey, u64>::new());
    let (mut now, mut ledger, mut total): (Timestamp, _, u64) =
        ("2026-11-22T12:00:00Z".parse().unwrap(), Ledger::default(), 0);
    let mut random = Random(0x9e37_79b9_97f4_a7c5);
    let mut killed = Killed::default();
    while killed.events < events {
        let draw = random.draw();
        ledger.advance(&policy, now, total, KILLS_RATE, &rows).unwrap();
        let hard = policy.quotas.iter().zip(ledger.uses()).any(|(rule, used)| used.used >= rule.data_limit());
        let budget = ledger.budget().unwrap();
        for _ in 0..draw % 50 {
            if total >= budget || hard && !draw.is_multiple_of(7) {
                break;
            }
            total += DATAGRAM;
            for key in keys(&policy, now) {
                *sent.entry(key).or_default() += DATAGRAM;
            }
        }
        now += SignedDuration::from_secs((draw % 20) as i64);
        match draw % 61 {
            0 => {
                // The next run starts from what is stored, with a line that has sent nothing.
                killed.most_lost = killed.most_lost.max(budget.saturating_sub(total));
                (ledger, total) = (Ledger::default(), 0);
            }
            1 => now += SignedDuration::from_hours((draw % 100) as i64),
            2 => now -= SignedDuration::from_hours((draw % 90) as i64),
            _ => continue,
        }
        killed.events += 1;
    }
    for (key, sent) in &sent {
        let rule = policy.quotas.iter().find(|rule| rule.period == key.period).unwrap();
        killed.over = killed.over.max(sent.saturating_sub(rule.limit));
        killed.uncounted = killed.uncounted.max(sent.saturating_sub(rows.load(*key).unwrap()));
        if key.period == crate::policy::Period::Day {
            killed.fullest_day = killed.fullest_day.max(*sent);
        }
    }
    killed
}

/// What came of [`shared_out`].
#[derive(Clone, Copy, Debug)]
pub struct SharedOut {
    /// Deals in which more than the cap was dealt out.
    pub over_cap: u64,
    /// The least that was dealt out of what could be, per cent.
    pub least_used: f64,
    /// The least that an edge that was held back got, of what another one that was held back got, by weight, per cent.
    pub least_fair: f64,
}

/// A line of 100 Mbit/s among so many edges whose work, policies and weights change from deal to deal.
pub fn shared_out(edges: usize, deals: usize) -> SharedOut {
    const CAP: u64 = 100_000_000;
    let mut random = Random(7);
    let mut found = SharedOut { over_cap: 0, least_used: 100.0, least_fair: 100.0 };
    for _ in 0..deals {
        let mut ask = || Ask {
            want: if !random.draw().is_multiple_of(4) {
                [256_000, 1_600_000, 8_000_000][(random.draw() % 3) as usize]
            } else {
                0
            },
            weight: 1 + (random.draw() % 3) as u32,
        };
        let asks: Vec<Ask> = (0..edges).map(|_| ask()).collect();
        let shares = share(CAP, &asks);
        let (dealt, wanted): (u64, u64) = (shares.iter().sum(), asks.iter().map(|ask| ask.want).sum());
        found.over_cap += u64::from(dealt > CAP);
        found.least_used = found.least_used.min(100.0 * dealt as f64 / CAP.min(wanted).max(1) as f64);
        let by_weight = shares.iter().zip(&asks).filter(|(share, ask)| **share < ask.want);
        let by_weight: Vec<f64> = by_weight.map(|(share, ask)| *share as f64 / f64::from(ask.weight)).collect();
        let (least, most) = by_weight.iter().fold((f64::MAX, 0.0f64), |(l, m), share| (l.min(*share), m.max(*share)));
        if most > 0.0 {
            found.least_fair = found.least_fair.min(100.0 * least / most);
        }
    }
    found
}

/// Numbers that look random and are the same each time (Knuth's MMIX).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next one, 31 bits of it.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}
