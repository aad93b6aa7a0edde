//! The gateway's own line, shared among the edges that are connected: weighted max-min of what each may send by its policy, dealt out anew
//! every few seconds for [`shaping::grants::GRANT`].
//!
//! An edge without work is dealt a small start, so that what it begins between two deals stays within the cap; with the next deal it has its share. An
//! edge that hears nothing any more goes on by its policy alone.

use crate::live::Live;
use crate::policies::timestamp;
use crate::state::State;
use dedupe::SiteId;
use shaping::grants::{Ask, GRANT, share};
use shaping::policy::{ClockTrust, Policy, Situation, decide};
use shaping::{BitsPerSec, Rate};
use std::collections::HashMap;
use wire::message::FromGateway;

/// How often the line is dealt out: three grants within the time of one, so that two may get lost.
pub(crate) const DEAL_EVERY: std::time::Duration = std::time::Duration::from_secs(5);
/// What an edge without work may begin with, bits per second; less where many share little.
const START: u64 = 64_000;
/// How long the start of an edge without work holds, and after how many deals it is told again: three times within it. Each grant costs 117 bytes of the
/// edge's line, with every deal that made 1.4 kB a minute; what an edge begins is dealt for at once.
const IDLE: std::time::Duration = std::time::Duration::from_secs(180);
const IDLE_DEALS: u32 = 12;
/// More than its grant by so much, and a site is named: bursts and what was on its way at a change.
const OVERSPEED: f64 = 1.25;

/// One connected edge at a deal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Whose.
    pub(crate) site: SiteId,
    /// What its policy lets it send now.
    pub(crate) may: u64,
    /// Whether a generation of it is arriving.
    pub(crate) works: bool,
}

/// Bits per second for each, in their order; their sum is at most `cap`.
pub(crate) fn deal(cap: u64, edges: &[Candidate]) -> Vec<u64> {
    let idle = edges.iter().filter(|edge| !edge.works).count() as u64;
    // A quarter of the line at most is kept for those who may begin.
    let start = START.min((cap / 4).checked_div(idle).unwrap_or(0));
    let asks: Vec<Ask> =
        edges.iter().map(|edge| Ask { want: if edge.works { edge.may } else { 0 }, weight: 1 }).collect();
    let mut shares = share(cap - start * idle, &asks);
    for (share, _) in shares.iter_mut().zip(edges).filter(|(_, edge)| !edge.works) {
        *share = start;
    }
    shares
}

/// What an edge is granted as soon as it comes, until the next deal.
pub(crate) fn first(cap: BitsPerSec) -> FromGateway {
    FromGateway::Grant { bits: START.min(cap.bits() / 4), millis: IDLE.as_millis() as u32 }
}

/// Deals the line out again and again.
#[derive(Debug, Default)]
pub(crate) struct Dealer {
    /// By site: bits granted at the last deal, and payload bytes that had come by then.
    last: HashMap<SiteId, (u64, u64)>,
    /// Edges without work: what they were told, and how many deals ago.
    idle: HashMap<SiteId, (u64, u32)>,
}

impl Dealer {
    /// One deal; returns what was done, for people. Blocks; must be called within the runtime.
    pub(crate) fn deal(&mut self, state: &State, live: &Live, cap: BitsPerSec) -> String {
        let mut edges = Vec::new();
        let mut fast = Vec::new();
        let mut seen = HashMap::new();
        for (site, works, received) in live.arriving() {
            if let Some((granted, before)) = self.last.get(&site) {
                let bits = received.saturating_sub(*before) as f64 * 8.0 / DEAL_EVERY.as_secs_f64();
                // Below the start nobody is told: handshakes and questions come in bursts.
                if bits > (*granted).max(START) as f64 * OVERSPEED {
                    fast.push(site);
                    tracing::warn!(%site, bits = bits as u64, granted, "the edge sends faster than it was granted");
                }
            }
            seen.insert(site, received);
            edges.push(Candidate { site, may: may(state, site, cap), works });
        }
        let shares = deal(cap.bits(), &edges);
        for (edge, bits) in edges.iter().zip(&shares) {
            if let Some(lasts) = self.due(edge, *bits) {
                live.tell(edge.site, FromGateway::Grant { bits: *bits, millis: lasts.as_millis() as u32 });
            }
        }
        self.idle.retain(|site, _| seen.contains_key(site));
        self.last = edges.iter().zip(&shares).map(|(edge, bits)| (edge.site, (*bits, seen[&edge.site]))).collect();
        let working = edges.iter().filter(|edge| edge.works).count();
        let dealt = BitsPerSec::new(shares.iter().sum());
        format!(
            "dealt {dealt} of {cap} to {working} edges with work and {} without; {} too fast",
            edges.len() - working,
            fast.len()
        )
    }
}

impl Dealer {
    /// For how long an edge is told its grant now; `None`: what it was told holds.
    fn due(&mut self, edge: &Candidate, bits: u64) -> Option<std::time::Duration> {
        if edge.works {
            self.idle.remove(&edge.site);
            return Some(GRANT);
        }
        let told = self.idle.entry(edge.site).or_insert((bits, IDLE_DEALS));
        told.1 += 1;
        (told.0 != bits || told.1 > IDLE_DEALS).then(|| {
            *told = (bits, 0);
            IDLE
        })
    }
}

/// What the policy of a site lets it send now; the whole line where there is none.
fn may(state: &State, site: SiteId, cap: BitsPerSec) -> u64 {
    let row = state.catalogue.policy(site).ok().flatten();
    let Some(policy) = row.and_then(|row| Policy::parse(&row.document).ok()) else { return cap.bits() };
    let now = timestamp(state.now());
    let situation = Situation { now, clock: ClockTrust::Synced, quotas: &[], local: &[], grant: None, courtesy: None };
    match decide(&policy, &policy.schedule(now, 0), &situation).up {
        Rate::Closed => 0,
        Rate::Limited(limit) => limit.bits(),
        Rate::Unlimited => cap.bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(number: u16, may: u64, works: bool) -> Candidate {
        let mut site = [0; 16];
        site[..2].copy_from_slice(&number.to_le_bytes());
        Candidate { site: SiteId(site), may, works }
    }

    #[test]
    fn those_with_work_share_the_line_and_those_without_may_begin() {
        let edges =
            [edge(1, 2_000_000, true), edge(2, 500_000, true), edge(3, 9_000_000, true), edge(4, 2_000_000, false)];
        assert_eq!(deal(4_064_000, &edges), [1_750_000, 500_000, 1_750_000, 64_000]);
        assert_eq!(deal(20_000_000, &edges), [2_000_000, 500_000, 9_000_000, 64_000], "nobody gets more than it may");
    }

    #[test]
    fn edges_without_work_are_told_seldom_and_changes_at_once() {
        let (mut dealer, idle, works) = (Dealer::default(), edge(1, 9, false), edge(1, 9, true));
        let mut told = |edge, bits| dealer.due(edge, bits);
        assert_eq!(told(&idle, 64_000), Some(IDLE));
        let again = (0..IDLE_DEALS * 2).filter(|_| told(&idle, 64_000).is_some()).count();
        assert!((1..=2).contains(&again), "{again}");
        assert!(DEAL_EVERY * (IDLE_DEALS + 1) * 2 < IDLE, "one may get lost");
        assert_eq!(told(&idle, 32_000), Some(IDLE), "another start");
        assert_eq!((told(&works, 9_000_000), told(&works, 9_000_000)), (Some(GRANT), Some(GRANT)));
        assert_eq!(told(&idle, 32_000), Some(IDLE), "its work is done");
    }

    /// 500 edges whose work and policies change from deal to deal.
    #[test]
    fn five_hundred_edges_never_exceed_the_cap_use_it_and_are_treated_alike() {
        const CAP: u64 = 100_000_000;
        let mut random = 7u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..200 {
            let edges: Vec<Candidate> = (0..500)
                .map(|number| edge(number, [256_000, 1_600_000, 8_000_000][draw(3) as usize], draw(4) > 0))
                .collect();
            let shares = deal(CAP, &edges);
            let sum: u64 = shares.iter().sum();
            let wanted: u64 = edges.iter().filter(|edge| edge.works).map(|edge| edge.may).sum();
            assert!(sum <= CAP);
            assert!(sum as f64 >= 0.97 * CAP.min(wanted) as f64, "{sum} of {wanted}");
            let held_back: Vec<u64> = shares
                .iter()
                .zip(&edges)
                .filter(|(share, edge)| edge.works && **share < edge.may)
                .map(|(share, _)| *share)
                .collect();
            let (least, most) = (held_back.iter().min(), held_back.iter().max());
            if let (Some(least), Some(most)) = (least, most) {
                assert!(*most as f64 <= *least as f64 * 1.05, "{least} to {most}");
            }
        }
    }
}
