//! The gateway's own line, shared among the edges that are connected: weighted max-min of what each may send by its policy, dealt out anew
//! every few seconds for [`shaping::grants::GRANT`].
//!
//! An edge without work is dealt a small start, so that what it begins between two deals stays within the cap; with the next deal it has its share. An
//! edge that hears nothing any more goes on by its policy alone. One that sends a quarter more than it was granted is braked, see `brake`.

use crate::live::{Deal, Dealt, Live};
use crate::metrics::Metrics;
use crate::policies::timestamp;
use crate::state::State;
use crate::workers::Said;
use dedupe::SiteId;
use shaping::grants::{Ask, GRANT, share};
use shaping::policy::{ClockTrust, Policy, Situation, decide};
use shaping::{BitsPerSec, Rate};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;
use wire::message::FromGateway;

/// How often the line is dealt out: three grants within the time of one, so that two may get lost.
pub(crate) const DEAL_EVERY: Duration = Duration::from_secs(5);
/// What an edge without work may begin with, bits per second; less where many share little.
const START: u64 = 64_000;
/// How long the start of an edge without work holds, and after how many deals it is told again: three times within it. Each grant costs 117 bytes of the
/// edge's line, with every deal that made 1.4 kB a minute; what an edge begins is dealt for at once.
const IDLE: Duration = Duration::from_secs(180);
const IDLE_DEALS: u32 = 12;
/// More than its grant by so much, and a site is named and braked: bursts and what was on its way at a change.
const OVERSPEED: f64 = 1.25;
/// Who is braked and reads more than this share of its grant, in bytes of parcels alone, still has more waiting than it may send. Headers are 4 %
/// of what an edge on a line sends.
const PRESSES: f64 = 0.98;
/// Times in a row, of `DEAL_EVERY` each, that a site keeps to its grant before it is let go.
const QUIET: u32 = 3;
/// Deals that come sooner than this after the last judgement pass none.
const JUDGE_AFTER: Duration = Duration::from_secs(4);

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

/// Deals the line out again and again, and brakes those who take more than they were dealt.
#[derive(Debug, Default)]
pub(crate) struct Dealer {
    /// Edges without work: what they were told, and how many deals ago.
    idle: HashMap<SiteId, (u64, u32)>,
    accounts: HashMap<SiteId, Account>,
    /// When the accounts were closed last.
    closed: Option<Instant>,
}

/// What a site was granted and what came of it since the accounts were closed last.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// The most that was granted in that time and at its beginning, bits per second.
    granted: u64,
    /// What had come by then, bytes.
    received: u64,
    /// Of that what had been read as parcels, bytes.
    read: u64,
    /// It is read no faster than its grant; how many times in a row it has kept to that by itself since.
    braked: Option<u32>,
}

/// What becomes of a site when its account is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Free,
    /// It was too fast, or it is braked and has not kept to its grant for long enough.
    Braked {
        quiet: u32,
    },
}

/// Judges a site that was granted `granted` bits per second for `time`; in that time `received` bytes came and `read` bytes of parcels were read.
///
/// Whoever is braked and still pushes takes all that is read. Who keeps to its grant leaves a part, if only for headers.
fn judge(braked: Option<u32>, granted: u64, time: Duration, received: u64, read: u64) -> Verdict {
    let of = |bytes: u64| bytes as f64 * 8.0 / time.as_secs_f64();
    // Below the start nobody is judged: handshakes and questions come in bursts.
    let granted = granted.max(START) as f64;
    let quiet = match braked {
        None if of(received) <= granted * OVERSPEED => return Verdict::Free,
        None => 0,
        Some(_) if of(received) > granted * OVERSPEED || of(read) > granted * PRESSES => 0,
        Some(quiet) => quiet + 1,
    };
    if quiet >= QUIET { Verdict::Free } else { Verdict::Braked { quiet } }
}

impl Dealer {
    /// One deal; returns what was done, for people. Blocks; must be called within the runtime.
    pub(crate) fn deal(&mut self, state: &State, live: &Live, metrics: &Metrics, cap: BitsPerSec) -> Said {
        let arriving = live.arriving();
        self.close_accounts(&arriving, live, metrics);
        let of = |(site, works, _): &(SiteId, bool, u64)| Candidate {
            site: *site,
            may: may(state, *site, cap),
            works: *works,
        };
        let edges: Vec<Candidate> = arriving.iter().map(of).collect();
        let shares = deal(cap.bits(), &edges);
        for ((edge, bits), (.., received)) in edges.iter().zip(&shares).zip(&arriving) {
            if let Some(lasts) = self.due(edge, *bits) {
                live.tell(edge.site, FromGateway::Grant { bits: *bits, millis: lasts.as_millis() as u32 });
            }
            let read = live.brake_of(edge.site).read();
            let new = Account { received: *received, read, ..Account::default() };
            let account = self.accounts.entry(edge.site).or_insert(new);
            account.granted = account.granted.max(*bits);
            if account.braked.is_some() {
                live.brake(edge.site, Some(BitsPerSec::new((*bits).max(START))));
            }
        }
        self.idle.retain(|site, _| arriving.iter().any(|(connected, ..)| connected == site));
        let working = edges.iter().filter(|edge| edge.works).count();
        let braked = self.accounts.values().filter(|account| account.braked.is_some()).count();
        metrics.braked.set(braked as i64);
        let dealt = |(edge, bits): (&Candidate, &u64)| {
            let braked = self.accounts.get(&edge.site).is_some_and(|account| account.braked.is_some());
            (edge.site, Dealt { bits: *bits, works: edge.works, braked })
        };
        live.note_deal(Deal { ingress: Some(cap.bits()), sites: edges.iter().zip(&shares).map(dealt).collect() });
        let dealt = BitsPerSec::new(shares.iter().sum());
        let idle = edges.len() - working;
        Said::new(
            format!(
                "dealt {dealt} of {cap} to {working} edges with work and {idle} without; {braked} too fast and braked"
            ),
            format!("已将 {cap} 中的 {dealt} 分配给 {working} 台有任务和 {idle} 台空闲的边缘设备；{braked} 台超速受限"),
        )
    }

    /// Judges everybody, once in a while: a deal that came early because work began says too little. Who is away keeps its brake.
    fn close_accounts(&mut self, arriving: &[(SiteId, bool, u64)], live: &Live, metrics: &Metrics) {
        let now = Instant::now();
        let time = self.closed.map(|closed| now - closed);
        if time.is_some_and(|time| time < JUDGE_AFTER) {
            return;
        }
        self.closed = Some(now);
        let mut accounts = HashMap::new();
        for (site, _, received) in arriving {
            let read = live.brake_of(*site).read();
            let before = self.accounts.remove(site);
            let mut braked = before.and_then(|account| account.braked);
            if let (Some(before), Some(time)) = (before, time) {
                let got = received.saturating_sub(before.received);
                let verdict = judge(braked, before.granted, time, got, read - before.read);
                let bits = (got as f64 * 8.0 / time.as_secs_f64()) as u64;
                match (verdict, braked) {
                    (Verdict::Braked { .. }, None) => {
                        tracing::warn!(%site, bits, granted = before.granted, "the edge sends faster than it was granted; it is read no faster than that from now on");
                        metrics.brakes.inc();
                    }
                    (Verdict::Free, Some(_)) => {
                        tracing::info!(%site, "the edge keeps to its grants again; it is read as it comes")
                    }
                    _ => {}
                }
                braked = match verdict {
                    Verdict::Free => None,
                    Verdict::Braked { quiet } => Some(quiet),
                };
            }
            if braked.is_none() {
                live.brake(*site, None); // also where it was already: its window may not be whole yet
            }
            accounts.insert(*site, Account { granted: 0, received: *received, read, braked });
        }
        accounts.extend(self.accounts.drain().filter(|(_, account)| account.braked.is_some()));
        self.accounts = accounts;
    }
}

impl Dealer {
    /// For how long an edge is told its grant now; `None`: what it was told holds.
    fn due(&mut self, edge: &Candidate, bits: u64) -> Option<Duration> {
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

    #[test]
    fn who_is_too_fast_is_braked_until_it_has_kept_to_its_grant_three_times() {
        let five = Duration::from_secs(5);
        let mbit = |mbit: f64| (mbit * 1e6 / 8.0 * 5.0) as u64;
        let judge = |braked, received, read| judge(braked, 1_000_000, five, mbit(received), mbit(read));
        assert_eq!(judge(None, 1.25, 1.2), Verdict::Free);
        assert_eq!(judge(None, 1.26, 1.2), Verdict::Braked { quiet: 0 });
        assert_eq!(judge(Some(0), 3.0, 0.9), Verdict::Braked { quiet: 0 }, "what it was promised still comes");
        assert_eq!(judge(Some(2), 1.0, 0.99), Verdict::Braked { quiet: 0 }, "it takes all that is read");
        assert_eq!(judge(Some(0), 1.0, 0.96), Verdict::Braked { quiet: 1 });
        assert_eq!(judge(Some(1), 1.0, 0.96), Verdict::Braked { quiet: 2 });
        assert_eq!(judge(Some(2), 1.0, 0.96), Verdict::Free);
        assert_eq!(super::judge(None, 0, five, 45_000, 0), Verdict::Free, "handshakes and questions");
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
