//! The gateway's own direction: one line for each site, which its control and its data connection share, at the rate that the site's policy
//! has for it now.
//!
//! Looked at once a second, at each change of a policy, and when an answer ends. Without a policy nothing is limited. What only the edge knows
//! (quotas, pauses and boosts of the site) does not count here.

use crate::catalogue::PolicyRow;
use crate::policies::timestamp;
use crate::server::Gateway;
use dedupe::{SiteId, UnixMillis};
use jiff::{SignedDuration, Timestamp};
use monitoring::Registry;
use shaping::policy::{Bend, ClockTrust, Control, Override, Policy, Schedule, Situation, decide};
use shaping::{BitsPerSec, Rate, Shaper};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The longest time between two looks: the time of the machine may be set.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Days of the schedule that are laid out at once. Behind them a look takes longer, so a new one is made before.
const LAID_OUT: u32 = 2;
/// So much of it is left when it is laid out anew.
const LEAST_AHEAD: SignedDuration = SignedDuration::from_hours(24);
/// Who dials within a silent blackout does not know of it: time and policy may be told for so long, some round trips of a bad line. Turned away
/// without a word it would dial again and again, which costs more.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// Part of the rate up that its acknowledgements may use where the way down is closed. Measured with courtesy, the most: 1 %.
const ACKNOWLEDGEMENTS: u64 = 50;
/// The least of that: control's own reserve.
const LEAST: BitsPerSec = BitsPerSec::kbit(16);
/// What a site may use whose policy this build cannot read, until there is one that it can.
const UNREADABLE: BitsPerSec = BitsPerSec::kbit(64);

/// What may go down to a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Down {
    /// The rate.
    pub(crate) rate: Rate,
    /// Nothing at all leaves, not even control.
    pub(crate) silent: bool,
    /// Whether more than acknowledgements may go down.
    pub(crate) open: bool,
    /// Until when that holds as far as time alone decides.
    until: Option<Timestamp>,
}

/// What a policy says of the way down at `now`.
///
/// Closed means closed for what goes down. Where the way up is open, or people at the site may open it, its acknowledgements have to come down, or
/// nothing goes up either.
pub(crate) fn down(policy: &Policy, schedule: &Schedule, now: Timestamp) -> Down {
    let at = |local: &[Override]| {
        let clock = ClockTrust::Synced;
        decide(policy, schedule, &Situation { now, clock, quotas: &[], local, grant: None, courtesy: None })
    };
    let allowed = at(&[]);
    let rate = match allowed.down {
        Rate::Closed => acknowledgements(policy, at(&most_local(policy, now)).up),
        open => open,
    };
    let open = allowed.down.is_open();
    Down { rate, silent: allowed.control == Control::Silent, open, until: allowed.until }
}

/// The boost that people at the site may give themselves, if they may, as if it held.
fn most_local(policy: &Policy, now: Timestamp) -> Vec<Override> {
    let boost = |rate| Override {
        id: u64::MAX,
        bend: Bend::Boost { rate, pierce: false },
        from: now,
        until: now.saturating_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX),
        volume: None,
        actor: String::new(),
        reason: String::new(),
    };
    policy.local_boost.map(|share| boost(share.of(policy.line.up))).into_iter().collect()
}

fn acknowledgements(policy: &Policy, up: Rate) -> Rate {
    let of = |up: BitsPerSec| Rate::Limited(BitsPerSec::new((up.bits() / ACKNOWLEDGEMENTS).max(LEAST.bits())));
    match up {
        Rate::Closed => Rate::Closed,
        Rate::Limited(up) => of(up),
        Rate::Unlimited => of(policy.line.up),
    }
}

/// The lines down to all sites that had a session since the daemon's start.
#[derive(Debug)]
pub(crate) struct Downlinks {
    sites: Mutex<HashMap<SiteId, Site>>,
    changed: Notify,
    registry: Registry,
}

#[derive(Debug)]
struct Site {
    line: Shaper,
    rule: Rule,
    /// A session that began then may be told of a silent blackout.
    dialled: Instant,
    /// Whether more than acknowledgements may go down.
    open: bool,
}

#[derive(Debug)]
enum Rule {
    /// There is no policy.
    None,
    /// The version in force.
    Policy(u64, Box<Policy>, Schedule),
    /// A version that this build cannot read.
    Unreadable(u64),
}

impl Downlinks {
    pub(crate) fn new(registry: Registry) -> Downlinks {
        Downlinks { sites: Mutex::default(), changed: Notify::new(), registry }
    }

    /// A session of a site begins: its line, at the rate that holds now. `tenant` and `name` are for the metrics.
    pub(crate) fn dialled(
        &self,
        site: SiteId,
        (tenant, name): (&str, &str),
        policy: Option<&PolicyRow>,
        now: UnixMillis,
    ) -> Shaper {
        let mut sites = self.lock();
        let known = sites.entry(site).or_insert_with(|| {
            let line = Shaper::new(Rate::Unlimited);
            self.register(&line, &[("tenant", tenant), ("site", name)]);
            Site { line, rule: Rule::None, dialled: Instant::now(), open: true }
        });
        known.dialled = Instant::now();
        if let Some(row) = policy {
            known.rule(row, timestamp(now));
        }
        known.look(timestamp(now));
        known.line.clone()
    }

    /// A site has another policy.
    pub(crate) fn ruled(&self, site: SiteId, policy: &PolicyRow, now: UnixMillis) {
        if let Some(known) = self.lock().get_mut(&site) {
            known.rule(policy, timestamp(now));
            known.look(timestamp(now));
        }
        self.changed.notify_one();
    }

    /// Whether what a site fetches may go down to it now: a window is open, nobody holds or pauses the site.
    pub(crate) fn is_open(&self, site: SiteId) -> bool {
        self.lock().get(&site).is_none_or(|site| site.open)
    }

    /// Sets what holds now, for all sites; how long it does.
    fn look(&self, now: UnixMillis) -> Duration {
        let now = timestamp(now);
        let ends = self.lock().values_mut().filter_map(|site| site.look(now)).min();
        let left = ends.and_then(|ends| Duration::try_from(ends.duration_since(now)).ok());
        left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY))
    }

    fn register(&self, line: &Shaper, labels: &[(&str, &str)]) {
        let (bytes, rate) = (line.clone(), line.clone());
        let registered = self.registry.read_counter(
            "sluice_gateway_downlink_ip_bytes_total",
            "IP-level bytes sent to a site since the start, handshakes of its sessions included.",
            labels,
            move || bytes.meter().sent_bytes as f64,
        );
        let registered = registered.and_then(|()| {
            self.registry.read_gauge(
                "sluice_gateway_downlink_allowed_bits_per_second",
                "The rate down to a site that holds now: 0 is closed, infinity is unlimited.",
                labels,
                move || match rate.effective_rate() {
                    Rate::Closed => 0.0,
                    Rate::Limited(rate) => rate.bits() as f64,
                    Rate::Unlimited => f64::INFINITY,
                },
            )
        });
        if let Err(error) = registered {
            tracing::error!(?labels, %error, "the line down to a site has no metrics");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SiteId, Site>> {
        self.sites.lock().expect("no thread panics while it looks at the lines")
    }
}

impl Site {
    /// Takes a policy that is at least as new as the one before.
    fn rule(&mut self, row: &PolicyRow, now: Timestamp) {
        let known = match &self.rule {
            Rule::None => 0,
            Rule::Policy(version, ..) | Rule::Unreadable(version) => *version,
        };
        if row.version < known {
            return; // read before the change that came in between
        }
        self.rule = match Policy::parse(&row.document) {
            Ok(policy) => {
                let schedule = policy.schedule(now, LAID_OUT);
                Rule::Policy(row.version, Box::new(policy), schedule)
            }
            Err(error) => {
                tracing::error!(version = row.version, %error, rate = %UNREADABLE, "the policy of a site cannot be read; set it again. Its line down is slow until then");
                Rule::Unreadable(row.version)
            }
        };
    }

    /// Sets what holds now; until when it does.
    fn look(&mut self, now: Timestamp) -> Option<Timestamp> {
        let mut down = match &mut self.rule {
            Rule::None => Down { rate: Rate::Unlimited, silent: false, open: true, until: None },
            Rule::Unreadable(_) => Down { rate: UNREADABLE.into(), silent: false, open: false, until: None },
            Rule::Policy(_, policy, schedule) => {
                if !schedule.lasts(now, LEAST_AHEAD) {
                    *schedule = policy.schedule(now, LAID_OUT);
                }
                down(policy, schedule, now)
            }
        };
        down.silent &= self.dialled.elapsed() >= TOLD_WITHIN;
        if self.line.rate() != down.rate {
            self.line.set_rate(down.rate);
        }
        self.line.set_silent(down.silent);
        self.open = down.open;
        down.until
    }
}

/// Keeps the lines at what their policies say until the daemon stops.
pub(crate) async fn run(gateway: Arc<Gateway>) {
    loop {
        let wait = gateway.live.down().look(gateway.state.now());
        gateway.live.fit_windows();
        tokio::select! {
            () = gateway.stop.cancelled() => return,
            () = gateway.live.down().changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"version = 1
zone = "UTC"
[line]
up = "2 Mbit/s"
down = "10 Mbit/s"
cap = "80 %"
[profiles]
night = { up = "80 %", down = "50 %" }
upload = { up = "1 Mbit/s", down = "0" }
[grid]
mon-sun = "00:00 night 06:00 closed 12:00 upload"
[[blackouts]]
name = "audit"
when = "2026-12-24"
kind = "data"
[[blackouts]]
name = "quiet"
when = "2026-12-25"
kind = "silent"
"#;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn of(document: &str, now: &str) -> (Rate, bool) {
        let policy = Policy::parse(document).unwrap();
        let down = down(&policy, &policy.schedule(at(now), LAID_OUT), at(now));
        (down.rate, down.silent)
    }

    fn limited(kbit: u64) -> (Rate, bool) {
        (Rate::Limited(BitsPerSec::kbit(kbit)), false)
    }

    #[test]
    fn the_way_down_has_its_own_rates_and_stays_open_for_acknowledgements() {
        assert_eq!(of(DOCUMENT, "2026-11-23T03:00:00Z"), limited(5_000));
        assert_eq!(of(DOCUMENT, "2026-11-23T07:00:00Z"), (Rate::Closed, false));
        assert_eq!(of(DOCUMENT, "2026-11-23T13:00:00Z"), limited(20), "a fiftieth of what may go up");
        assert_eq!(of(DOCUMENT, "2026-12-24T03:00:00Z"), (Rate::Closed, false), "control goes on");
        assert_eq!(of(DOCUMENT, "2026-12-25T03:00:00Z"), (Rate::Closed, true));
        // Where the site may boost by itself, the gateway does not hear of it.
        let local = format!("{DOCUMENT}[local]\nboost = \"90 %\"\n");
        assert_eq!(of(&local, "2026-11-23T07:00:00Z"), limited(32), "a fiftieth of the cap");
        assert_eq!(
            of(&local, "2026-12-24T03:00:00Z"),
            (Rate::Closed, false),
            "no boost of the site pierces a blackout"
        );
    }

    fn row(version: u64, document: &str) -> PolicyRow {
        let document = document.replace("version = 1", &format!("version = {version}"));
        PolicyRow { version, made: UnixMillis(0), actor: "li".into(), reason: "why".into(), document }
    }

    fn millis(text: &str) -> UnixMillis {
        UnixMillis(at(text).as_millisecond() as u64)
    }

    #[tokio::test]
    async fn a_line_follows_its_policy_and_each_change_of_it() {
        let (registry, site) = (Registry::new(), SiteId([7; 16]));
        let downlinks = Downlinks::new(registry.clone());
        let night = millis("2026-11-23T05:59:59Z");
        let line = downlinks.dialled(site, ("bank", "b"), None, night);
        assert_eq!(line.rate(), Rate::Unlimited, "without a policy");
        downlinks.ruled(site, &row(2, DOCUMENT), night);
        assert_eq!(line.rate(), limited(5_000).0);
        assert_eq!(downlinks.look(night), Duration::from_secs(1), "until the window ends");
        downlinks.look(millis("2026-11-23T06:00:00Z"));
        assert_eq!(line.rate(), Rate::Closed);
        assert!(!downlinks.is_open(site), "nothing that is fetched");
        downlinks.look(millis("2026-11-23T13:00:00Z"));
        assert!(line.rate().is_open() && !downlinks.is_open(site), "acknowledgements go down, and nothing else");
        downlinks.look(night);
        assert!(downlinks.is_open(site));
        downlinks.look(millis("2026-11-23T06:00:00Z"));
        // What was read before a change does not undo it, and a session that dials again has the same line.
        downlinks.ruled(site, &row(3, &DOCUMENT.replace("\"50 %\"", "\"1 Mbit/s\"")), night);
        let again = downlinks.dialled(site, ("bank", "b"), Some(&row(2, DOCUMENT)), night);
        assert_eq!((line.rate(), again.rate()), (limited(1_000).0, limited(1_000).0));
        downlinks.ruled(site, &row(4, "no policy"), night);
        assert_eq!(again.rate(), UNREADABLE.into());
        let metrics = registry.exposition().unwrap();
        let rate = "sluice_gateway_downlink_allowed_bits_per_second{site=\"b\",tenant=\"bank\"} 64000";
        assert!(metrics.contains(rate), "{metrics}");
        assert!(metrics.contains("sluice_gateway_downlink_ip_bytes_total{site=\"b\",tenant=\"bank\"} 0"), "{metrics}");
    }

    #[tokio::test]
    async fn who_dials_in_a_silent_blackout_is_told_of_it_and_nothing_else() {
        let (downlinks, site) = (Downlinks::new(Registry::new()), SiteId([7; 16]));
        let quiet = timestamp(millis("2026-12-25T03:00:00Z"));
        let line = downlinks.dialled(site, ("bank", "b"), Some(&row(1, DOCUMENT)), millis("2026-12-25T03:00:00Z"));
        let is_silent = |line: &Shaper| line.is_silent();
        assert!(!is_silent(&line) && line.rate() == Rate::Closed);
        let mut sites = downlinks.lock();
        let known = sites.get_mut(&site).unwrap();
        known.dialled = Instant::now().checked_sub(TOLD_WITHIN).unwrap();
        known.look(quiet);
        assert!(is_silent(&line));
    }
}
