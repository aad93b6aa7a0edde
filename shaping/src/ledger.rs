//! The quota ledger: bytes are claimed durably in blocks before they are sent, so a crash can count too much and never too little.
//!
//! ```text
//!   counted in the period   ────────────────claimed────────────────►
//!                           ──────spent (sent and received)──►│unspent│
//! ```
//!
//! A claim counts in every running period at once. What is unspent of it counts again in each period that begins, and is what a crash
//! loses. Periods are told apart by their first second, so a clock that jumps ahead and back finds each period's count as it left it.

use crate::policy::quota::{Period, QuotaRule};
use crate::policy::{Policy, QuotaUse};
use jiff::Timestamp;

/// Bytes of a claim at least: five seconds of a thin line between two commits.
const LEAST_BLOCK: u64 = 64 << 10;
/// And at most: what a crash may lose of a fast line.
const MOST_BLOCK: u64 = 16 << 20;
/// Seconds of the line that one claim is for.
const BLOCK_SECONDS: u64 = 5;
/// A claim for control alone, once data has used its part up: some minutes of signs of life.
const CONTROL_BLOCK: u64 = 16 << 10;

/// One period of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LedgerKey {
    /// Its kind.
    pub period: Period,
    /// Its first second, Unix time; 0 for what never ends.
    pub start: i64,
}

/// Where the counts lie. A row is durable when `save` returns.
pub trait LedgerStore {
    /// Why it failed.
    type Error;

    /// Bytes claimed in a period; 0 when nothing was.
    fn load(&self, key: LedgerKey) -> Result<u64, Self::Error>;

    /// Stores counts, all of them or none, durably.
    fn save(&self, counts: &[(LedgerKey, u64)]) -> Result<(), Self::Error>;
}

/// The counts of the running periods.
#[derive(Debug, Default)]
pub struct Ledger {
    counters: Vec<Counter>,
    /// All that was claimed since the start, on the scale of the line's total.
    claimed: u64,
    /// The line's total at the last look.
    total: u64,
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    key: LedgerKey,
    ends: Option<Timestamp>,
    claimed: u64,
}

impl Ledger {
    /// Takes note of `total`, the bytes sent and received since the start, begins the periods that `now` lies in, and claims ahead where little is
    /// left. `rate` is what the line may send in bytes per second: it decides how much is claimed at once.
    ///
    /// After an error nothing was claimed, and what was still holds.
    pub fn advance<S: LedgerStore>(
        &mut self,
        policy: &Policy,
        now: Timestamp,
        total: u64,
        rate: u64,
        store: &S,
    ) -> Result<(), S::Error> {
        self.total = total;
        self.begin(policy, now, store)?;
        if self.counters.is_empty() {
            self.claimed = total;
            return Ok(());
        }
        let block = (rate * BLOCK_SECONDS).clamp(LEAST_BLOCK, MOST_BLOCK);
        let unspent = self.unspent();
        if unspent >= block / 2 {
            return Ok(());
        }
        // What was received beyond the claim is owed first: it cannot be unreceived.
        let owed = total.saturating_sub(self.claimed);
        let room = |limit: fn(&QuotaRule) -> u64| {
            let rooms = policy
                .quotas
                .iter()
                .zip(&self.counters)
                .map(|(rule, counter)| limit(rule).saturating_sub(counter.claimed.saturating_add(owed)));
            rooms.min().unwrap_or(0)
        };
        let more = match room(QuotaRule::data_limit) {
            0 if unspent == 0 => room(|rule| rule.limit).min(CONTROL_BLOCK),
            // Filled up to one block: that is the most that a kill can lose.
            room => room.min(block - unspent),
        };
        if owed + more > 0 {
            let counts: Vec<_> = self
                .counters
                .iter()
                .map(|counter| (counter.key, counter.claimed.saturating_add(owed + more)))
                .collect();
            store.save(&counts)?;
            for (counter, (_, claimed)) in self.counters.iter_mut().zip(counts) {
                counter.claimed = claimed;
            }
            self.claimed += owed + more;
        }
        Ok(())
    }

    /// The total that the line may come to before more is claimed; None: any, there are no quotas.
    pub fn budget(&self) -> Option<u64> {
        (!self.counters.is_empty()).then_some(self.claimed)
    }

    /// How far each quota of the policy is used, without the claim's unspent rest, and when its period ends.
    pub fn uses(&self) -> impl Iterator<Item = QuotaUse> + '_ {
        let unspent = self.unspent();
        self.counters.iter().map(move |counter| QuotaUse {
            used: counter.claimed.saturating_sub(unspent),
            ends: counter.ends,
            open_seconds: 0,
        })
    }

    /// Gives the unspent rest back: the line is closed for good.
    pub fn close<S: LedgerStore>(&mut self, total: u64, store: &S) -> Result<(), S::Error> {
        self.total = total;
        let unspent = self.unspent();
        let counts: Vec<_> =
            self.counters.iter().map(|counter| (counter.key, counter.claimed.saturating_sub(unspent))).collect();
        if unspent > 0 && !counts.is_empty() {
            store.save(&counts)?;
        }
        self.counters.clear();
        self.claimed = self.total;
        Ok(())
    }

    fn unspent(&self) -> u64 {
        self.claimed.saturating_sub(self.total)
    }

    /// Begins the periods of `now`: what is unspent counts in each that is new.
    fn begin<S: LedgerStore>(&mut self, policy: &Policy, now: Timestamp, store: &S) -> Result<(), S::Error> {
        let running: Vec<(LedgerKey, Option<Timestamp>)> = policy
            .quotas
            .iter()
            .map(|rule| match rule.period.around(now, &policy.zone) {
                Some((from, to)) => (LedgerKey { period: rule.period, start: from.as_second() }, Some(to)),
                None => (LedgerKey { period: rule.period, start: 0 }, None),
            })
            .collect();
        if running.iter().map(|(key, _)| *key).eq(self.counters.iter().map(|counter| counter.key)) {
            return Ok(());
        }
        let mut counters = Vec::new();
        let mut unspent = self.unspent();
        for ((key, ends), rule) in running.into_iter().zip(&policy.quotas) {
            let known = self.counters.iter().find(|counter| counter.key == key).map(|counter| counter.claimed);
            let claimed = match known {
                Some(claimed) => claimed,
                None => {
                    let stored = store.load(key)?;
                    // A period that is nearly used up, which a clock that went back comes to, has no room for all that is unspent.
                    unspent = unspent.min(rule.data_limit().saturating_sub(stored));
                    stored
                }
            };
            counters.push((Counter { key, ends, claimed }, known.is_none()));
        }
        for (counter, _) in counters.iter_mut().filter(|(_, begun)| *begun) {
            counter.claimed = counter.claimed.saturating_add(unspent);
        }
        if unspent > 0 {
            let begun: Vec<_> = counters.iter().filter(|(_, begun)| *begun).map(|(c, _)| (c.key, c.claimed)).collect();
            store.save(&begun)?;
        }
        self.claimed = self.claimed.min(self.total + unspent).max(self.claimed.min(self.total));
        self.counters = counters.into_iter().map(|(counter, _)| counter).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{DATAGRAM, KILLS_BLOCK, QUOTAS as DOCUMENT, Rows, keys, kills};

    #[test]
    fn a_thousand_kills_and_clock_jumps_never_pass_a_quota_and_lose_a_claim_each_at_most() {
        let killed = kills(1000);
        assert!(killed.over <= DATAGRAM, "{killed:?}");
        assert!(killed.uncounted <= DATAGRAM, "{killed:?}");
        assert!(killed.most_lost <= KILLS_BLOCK, "{killed:?}");
        assert!(killed.fullest_day > 2_900_000, "some day used its quota up: {killed:?}");
    }

    #[test]
    fn control_goes_on_in_its_reserve_and_ends_at_the_limit() {
        let policy = Policy::parse(DOCUMENT).unwrap();
        let (rows, mut ledger, now) = (Rows::default(), Ledger::default(), "2026-11-22T12:00:00Z".parse().unwrap());
        let mut total = 0;
        let mut steps = Vec::new();
        for _ in 0..100 {
            ledger.advance(&policy, now, total, 1_000_000, &rows).unwrap();
            let used = ledger.uses().next().unwrap().used;
            steps.push((used >= policy.quotas[0].data_limit(), used));
            total = ledger.budget().unwrap();
        }
        assert_eq!(total, 3_000_000);
        let first = steps.iter().find(|(hard, _)| *hard).unwrap();
        assert_eq!(first.1, 2_970_000, "data ends exactly where control's reserve begins");
        assert_eq!(steps.last().unwrap().1, 3_000_000);
    }

    #[test]
    fn a_line_that_is_closed_gives_the_unspent_rest_back() {
        let policy = Policy::parse(DOCUMENT).unwrap();
        let (rows, mut ledger, now) = (Rows::default(), Ledger::default(), "2026-11-22T12:00:00Z".parse().unwrap());
        ledger.advance(&policy, now, 0, 100_000, &rows).unwrap();
        ledger.close(1_234, &rows).unwrap();
        for key in keys(&policy, now) {
            assert_eq!(rows.load(key).unwrap(), 1_234);
        }
    }
}
