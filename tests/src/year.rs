//! A year of a site on a virtual clock: the edge's own decisions (schedule, quotas, trusted clock, overrides, grants, evidence) and the shaper's bucket over
//! 2024 in Berlin, datagram by datagram, beside an oracle that works each minute out anew.
//!
//! ```text
//!   plan    what happens: a policy each month, a gateway that is lost for weeks, kills, restarts, boosts, a backlog each evening
//!   site    the edge: `sluice_edge::line::State`, `shaping::Bucket`, and what a restart finds
//!   oracle  what the edge may send, from plain numbers
//! ```
//!
//! Time passes as the edge's trusted clock has it, crystal errors and corrections included; the oracle keeps that clock too, by itself. While there is nothing to send,
//! and while the line is closed, the edge looks once a minute instead of once a second. Its timers are never late. The sender sends whenever it is let, also
//! when the gateway that tells the time is lost: what stops it is the edge alone.

mod oracle;
mod plan;
mod site;

use jiff::Timestamp;
use oracle::{Allows, Oracle};
use plan::{Event, Plan};
use shaping::lab::DATAGRAM;
use site::Site;
use std::time::Duration;

/// The use of a window that counts as missed: the promise of the line.
const LEAST_USE: f64 = 0.98;
/// Windows in which less than this was allowed are too short for a share: two claims of the quotas' ledger, ten seconds.
const LEAST_SECONDS: f64 = 10.0;
/// A minute is looked at once where nothing can be sent.
const MINUTE: Duration = Duration::from_secs(60);

/// What came of a year.
#[derive(Clone, Debug, Default)]
pub struct Year {
    /// Virtual seconds.
    pub seconds: u64,
    /// IP-level bytes of data.
    pub data: u64,
    /// And of control, both ways.
    pub control: u64,
    /// Bytes of data that left where the oracle says closed.
    pub outside: u64,
    /// Bytes of control that left where the oracle says silent.
    pub broke_silence: u64,
    /// Windows with a backlog, of ten seconds and more.
    pub windows: u64,
    /// Those of them that were used to less than 98 %.
    pub missed: Vec<String>,
    /// The least share of what was allowed that was sent in any.
    pub least_use: f64,
    /// Bytes allowed in all of them together, and sent.
    pub allowed_and_sent: (f64, f64),
    /// The most that left at once when a quota was used up, in bytes.
    pub over_quota: u64,
    /// Bytes of control that no quota counts: sent by a run of the daemon that was never told the time.
    pub uncounted: u64,
    /// Periods whose quota was used up, so that data stopped.
    pub used_up: u64,
    /// The most that a kill lost of what was claimed, as a share of a claim.
    pub lost_claim: f64,
    /// Bytes in the evidence, of what was sent while the time was known; the minute in which a kill came is lost with it.
    pub evidence: (u64, u64),
    /// The most that may be missing of it for that.
    pub evidence_slack: u64,
    /// Bytes that waited at the end, and that were handed in over the year.
    pub left: (u64, u64),
    /// How often the edge looked.
    pub looks: u64,
    /// Seconds for which the clock was not trusted although the machine ran.
    pub untrusted: u64,
    /// The most by which the gateway's time moved the edge's.
    pub moved: Duration,
    /// Kills, clean restarts, restarts of the machine, policies taken.
    pub happened: (u64, u64, u64, u64),
}

/// A window in the making.
#[derive(Default)]
struct Window {
    began: Option<Timestamp>,
    allowed: f64,
    seconds: f64,
    sent: u64,
}

/// Runs the year. `seed` places what is random of it.
pub fn run(seed: u64) -> Year {
    let plan = Plan::new(seed);
    let (mut site, mut oracle) = (Site::new(plan.from), Oracle::new(plan.zone.clone()));
    let mut year = Year { least_use: 1.0, ..Year::default() };
    let (mut events, mut window, mut at) = (plan.events.iter().peekable(), Window::default(), Duration::ZERO);
    let mut next_control = Duration::from_secs(5);
    while at < plan.length {
        while let Some((_, event)) = events.next_if(|(due, _)| *due <= at) {
            happen(event, at, &mut site, &mut oracle, &mut year);
            if matches!(event, Event::Reboot { .. } | Event::Kill | Event::Restart) {
                next_control = site.up_from(at) + Duration::from_secs(5);
            }
        }
        let next_event = events.peek().map_or(plan.length, |(due, _)| *due);
        if !site.is_up(at) {
            at = next_event.min(site.up_from(at));
            continue;
        }
        let mut wait = site.look(at);
        if next_control <= at {
            let silent = oracle.allows(&site.clock(at)).silent;
            let bytes = site.control(at, plan.is_reachable(at), plan.grant(at), &mut oracle);
            year.control += bytes;
            year.broke_silence += if silent { bytes } else { 0 };
            next_control = at + MINUTE;
            wait = site.look(at); // the gateway's answer wakes it
            year.looks += 1;
        }
        year.looks += 1;
        let (clock, allows) = (site.clock(at), oracle.allows(&site.clock(at)));
        let busy = site.backlog() > 0 && (site.is_open() || allows.bits > 0);
        let end = (at + if busy { wait } else { MINUTE }).min(site.next_minute(at)).min(site.change_at(at));
        let end = end.min(next_event).min(next_control).min(plan.length).max(at + Duration::from_nanos(1));
        if !oracle.is_trusted(&clock) {
            year.untrusted += (end - at).as_secs();
        }
        let sent = site.send(at, end, &mut oracle);
        year.data += sent;
        if allows.bits == 0 {
            year.outside += sent;
        }
        measure(&mut year, &mut window, (clock.trusted, allows), end - at, (site.backlog(), sent), busy);
        at = end;
    }
    measure(&mut year, &mut window, (None, Allows::NOTHING), Duration::ZERO, (0, 0), false);
    year.seconds = plan.length.as_secs();
    (year.over_quota, year.used_up) = (oracle.over_quota(), oracle.used_up());
    year.evidence = site.evidence();
    year.moved = site.moved();
    year.left = (site.backlog(), site.offered());
    year
}

fn happen(event: &Event, at: Duration, site: &mut Site, oracle: &mut Oracle, year: &mut Year) {
    match event {
        Event::Kill | Event::Restart | Event::Reboot { .. } if !site.is_up(at) => {}
        Event::Backlog(bytes) => site.offer(*bytes),
        Event::Policy(month) => {
            site.take_policy(at, month);
            oracle.take_policy(month);
            year.happened.3 += 1;
        }
        Event::Kill | Event::Reboot { .. } => {
            let (lost, evidence) = site.kill();
            oracle.lost(lost, site.trusted(at));
            year.lost_claim = year.lost_claim.max(lost as f64 / site.block() as f64);
            year.evidence_slack += evidence;
            match event {
                Event::Reboot { off, machine } => {
                    site.boot(at + *off, *machine);
                    year.happened.2 += 1;
                }
                _ => {
                    site.start(at);
                    year.happened.0 += 1;
                }
            }
            year.uncounted += oracle.started(&site.clock(site.up_from(at)));
        }
        Event::Restart => {
            year.evidence_slack += site.stop();
            site.start(at);
            year.uncounted += oracle.started(&site.clock(at));
            year.happened.1 += 1;
        }
        Event::MachineClock(jump) => site.move_machine_clock(*jump),
        Event::Pause(lasts) => site.bend(at, None, *lasts, oracle),
        Event::Boost(rate, lasts) => site.bend(at, Some(*rate), *lasts, oracle),
    }
}

/// Adds a step to the window that it belongs to; one that is closed ends it.
fn measure(
    year: &mut Year,
    window: &mut Window,
    (trusted, allows): (Option<Timestamp>, Allows),
    lasted: Duration,
    (backlog, sent): (u64, u64),
    busy: bool,
) {
    if allows.bits > 0 && busy {
        // What was left of the backlog ended within this step: it says nothing of the rate.
        if backlog > 0 {
            window.began = window.began.or(trusted);
            window.seconds += lasted.as_secs_f64();
            window.allowed += (allows.bits as f64 / 8.0 * lasted.as_secs_f64()).min(allows.left as f64);
            window.sent += sent;
        }
        return;
    }
    let Window { began, allowed, seconds, sent } = std::mem::take(window);
    if seconds < LEAST_SECONDS || allowed < 100.0 * DATAGRAM as f64 {
        return;
    }
    let share = sent as f64 / allowed;
    year.windows += 1;
    year.allowed_and_sent.0 += allowed;
    year.allowed_and_sent.1 += sent as f64;
    year.least_use = year.least_use.min(share);
    if share < LEAST_USE {
        let began = began.unwrap_or_default();
        year.missed
            .push(format!("the window of {began}: {:.2} % of {allowed:.0} bytes in {seconds:.0} s", share * 100.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_year_no_byte_leaves_outside_of_a_window_and_no_window_is_missed() {
        let year = run(1);
        eprintln!("{year:#?}");
        assert_eq!(year.outside, 0);
        assert_eq!(year.broke_silence, 0);
        assert!(year.missed.is_empty(), "{:#?}", year.missed);
        assert!(year.windows > 200, "{}", year.windows);
        assert!(year.over_quota <= DATAGRAM, "{}", year.over_quota);
        assert!(year.uncounted * 20 < year.control, "{} of {}", year.uncounted, year.control);
        assert!(year.used_up >= 2, "quotas were used up in {} periods: they were not put to the test", year.used_up);
        assert!(year.lost_claim <= 1.0, "{} claims", year.lost_claim);
        let (kept, sent) = year.evidence;
        assert!(kept <= sent && sent - kept <= year.evidence_slack, "{kept} of {sent} bytes are in the evidence");
        let (left, offered) = year.left;
        assert_eq!(
            year.data.div_ceil(DATAGRAM),
            (offered - left).div_ceil(DATAGRAM),
            "what was handed in arrived or waits"
        );
    }
}
