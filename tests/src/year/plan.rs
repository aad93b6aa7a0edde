//! What happens in the year: the same for the same seed.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};
use shaping::BitsPerSec;
use shaping::lab::{Random, Rules};
use std::time::Duration;

const DAY: u64 = 86_400;
const ZONE: &str = "Europe/Berlin";

/// A policy, as text for the edge and as numbers for the oracle.
#[derive(Clone, Debug)]
pub(super) struct Month {
    pub(super) version: u64,
    pub(super) rules: Rules,
    /// Bytes in a month from day 15 on, and in a week.
    pub(super) month_quota: u64,
    pub(super) week_quota: u64,
    /// Per cent of the month's quota from which on only a trickle is left.
    pub(super) soft: u8,
    pub(super) holdover_days: u64,
    /// Whether an edge that does not know the time may trickle.
    pub(super) trickles: bool,
    pub(super) overrides: Vec<Bent>,
    pub(super) held: bool,
}

/// An override of the policy.
#[derive(Clone, Debug)]
pub(super) struct Bent {
    pub(super) id: u64,
    /// Bits per second; none: a pause.
    pub(super) boost: Option<u64>,
    pub(super) pierce: bool,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// So many bytes wait.
    Backlog(u64),
    /// The gateway sends a policy.
    Policy(Month),
    /// kill -9 of the daemon, which is started again at once.
    Kill,
    /// A clean stop and start.
    Restart,
    /// The machine loses power for so long; its own clock is then off by so many hours.
    Reboot { off: Duration, machine: i64 },
    /// The machine's own clock is moved by so many hours.
    MachineClock(i64),
    /// People at the site pause.
    Pause(Duration),
    /// And boost, to bits per second.
    Boost(u64, Duration),
}

/// The year.
pub(super) struct Plan {
    pub(super) from: Timestamp,
    pub(super) zone: TimeZone,
    pub(super) length: Duration,
    /// By when they happen, from the beginning on.
    pub(super) events: Vec<(Duration, Event)>,
    /// Spans in which no gateway is there: from, to.
    lost: Vec<(Duration, Duration)>,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Plan {
        let zone = TimeZone::get(ZONE).expect("it is in the bundled database");
        let local = |month, day, hour, minute| {
            zone.to_timestamp(civil::date(2024, month, day).at(hour, minute, 0, 0)).expect("a time of 2024")
        };
        let from = local(1, 1, 0, 0);
        let after = |at: Timestamp| Duration::try_from(at.duration_since(from)).unwrap_or_default();
        let length = Duration::from_secs(366 * DAY);
        let mut random = Random(seed);
        let mut events = vec![(Duration::ZERO, Event::Policy(month(1, &zone)))];
        for number in 2..=12 {
            events.push((after(local(number, 1, 0, 10)), Event::Policy(month(number, &zone))));
        }
        // Held over a day: two more versions.
        let held = |version, held| Month { version, held, ..month(9, &zone) };
        events.push((after(local(9, 18, 12, 0)), Event::Policy(held(91, true))));
        events.push((after(local(9, 19, 15, 30)), Event::Policy(held(92, false))));
        for day in 0..366 {
            let evening = Duration::from_secs(day * DAY + 18 * 3600);
            let bytes = 120_000_000 + random.draw() % 160_000_000;
            events.push((evening, Event::Backlog(if day % 7 == 5 { bytes * 3 } else { bytes })));
        }
        let mut often = |count: u64, make: &mut dyn FnMut(u64) -> Event| {
            for _ in 0..count {
                // Not within the first day; by the millisecond, so that nothing falls on a minute's beginning by arrangement.
                let at = Duration::from_millis(DAY * 1000 + random.draw() * 7 % (364 * DAY * 1000));
                let draw = random.draw();
                events.push((at, make(draw)));
            }
        };
        often(150, &mut |_| Event::Kill);
        often(40, &mut |_| Event::Restart);
        often(25, &mut |draw| Event::Reboot {
            off: Duration::from_secs(60 + draw % if draw.is_multiple_of(3) { 40_000 } else { 240 }),
            machine: [0, 0, -480_000, 9_000, -1][(draw % 5) as usize],
        });
        often(60, &mut |draw| Event::MachineClock((draw % 2_000) as i64 - 1_000));
        often(25, &mut |draw| Event::Pause(Duration::from_secs(60 * (5 + draw % 200))));
        often(25, &mut |draw| Event::Boost(100_000 + draw % 300_000, Duration::from_secs(60 * (5 + draw % 300))));
        events.sort_by_key(|(at, _)| *at);
        let lost = vec![
            (after(local(5, 6, 13, 0)), after(local(5, 27, 9, 0))), // three weeks, of which the clock is held for one
            (after(local(10, 20, 8, 0)), after(local(11, 1, 0, 5))), // over the end of summer time
            (after(local(12, 5, 8, 0)), after(local(12, 9, 8, 0))),
        ];
        Plan { from, zone, length, events, lost }
    }

    /// What the gateway grants of its own line in its busy weeks, bits per second.
    pub(super) fn grant(&self, at: Duration) -> Option<u64> {
        let day = at.as_secs() / DAY;
        (day % 40 < 6).then_some(150_000 + day * 500)
    }

    /// Whether a gateway hears control.
    pub(super) fn is_reachable(&self, at: Duration) -> bool {
        !self.lost.iter().any(|(from, to)| (*from..*to).contains(&at))
    }
}

/// The policy of a month.
fn month(number: i8, zone: &TimeZone) -> Month {
    let n = u64::from(number.unsigned_abs());
    let up = BitsPerSec::kbit([512, 640, 400][(n % 3) as usize]);
    let rules = Rules { up, night: 60 + n * 3, night_from: 19 * 60 + 15 * (n as u32 % 4), ..Rules::sample(ZONE) };
    let at = |day, hour| zone.to_timestamp(civil::date(2024, number, day).at(hour, 0, 0, 0)).expect("a time of 2024");
    // Not in the weeks without a gateway, and across a blackout by day 15.
    let bent = |id, boost, pierce, day, hours: i64| {
        let from = at(day, 10);
        Bent { id, boost, pierce, from, until: from + SignedDuration::from_hours(hours) }
    };
    let overrides = vec![
        bent(n * 10, Some(300_000), false, 4, 4),
        bent(n * 10 + 1, None, false, 5, 30),
        bent(n * 10 + 2, Some(200_000), n.is_multiple_of(2), 15, 16),
    ];
    Month {
        version: n * 10,
        rules,
        month_quota: [6_500_000_000, 4_000_000_000, 20_000_000_000][(n % 3) as usize],
        week_quota: if n.is_multiple_of(4) { 900_000_000 } else { 5_000_000_000 },
        soft: 90,
        holdover_days: if n == 10 { 21 } else { 7 },
        trickles: n.is_multiple_of(5),
        overrides: if n == 5 || n == 12 { Vec::new() } else { overrides },
        held: false,
    }
}

impl Month {
    /// The document, as an operator would write it.
    pub(super) fn document(&self) -> String {
        let mut text = self.rules.document().replace("version = 1\n", &format!("version = {}\n", self.version));
        text += &format!(
            "[[quotas]]\nperiod = \"month from day 15\"\nlimit = \"{} MB\"\nsoft = \"{} % trickle\"\n\
             [[quotas]]\nperiod = \"week\"\nlimit = \"{} MB\"\n[clock]\nholdover = \"{} days\"\nuntrusted = \"{}\"\n",
            self.month_quota / 1_000_000,
            self.soft,
            self.week_quota / 1_000_000,
            self.holdover_days,
            if self.trickles { "trickle" } else { "closed" },
        );
        for Bent { id, boost, pierce, from, until } in &self.overrides {
            let bend = match boost {
                None => "pause".into(),
                Some(bits) => format!("boost {} kbit/s", bits / 1000),
            };
            text += &format!(
                "[[overrides]]\nid = {id}\nbend = \"{bend}\"\n{}from = \"{from}\"\nuntil = \"{until}\"\nactor = \"li\"\nreason = \"year\"\n",
                if *pierce { "pierce = true\n" } else { "" },
            );
        }
        if self.held {
            text += "[hold]\nactor = \"li\"\nreason = \"audit\"\n";
        }
        text
    }
}
