//! One direction of the line. Pure: packets and `now` (nanoseconds from the start) go in, packets come out when they are due.

use super::units::{At, Loss, Rate, Span};
use serde::Serialize;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

/// Statistics are kept per 100 ms.
const SLOT: u64 = 100_000_000;
/// A packet that is let pass by later ones is held back by the jitter, but at least by this.
const LEAST_HOLD: u64 = 10_000_000;
/// The most that is on the way at once, so that a fast sender into an unlimited line cannot fill the memory.
const MOST_IN_FLIGHT: u64 = 256 << 20;

/// What a direction of the line does to packets. The default does nothing.
#[derive(Debug, Clone)]
pub struct LinkSpec {
    /// The bottleneck's rate, counted in IP bytes.
    pub rate: Rate,
    /// From the bottleneck to the other end.
    pub delay: Span,
    /// Uniform, of plus or minus this; the order is kept.
    pub jitter: Span,
    /// Lost on the line, after the bottleneck.
    pub loss: Loss,
    /// The share of packets that later ones overtake, 0 to 1.
    pub reorder: f64,
    /// The share of packets with one flipped bit (only the relay does this, in the UDP payload), 0 to 1.
    pub corrupt: f64,
    /// The queue before the bottleneck, as time at its rate; what finds it full is dropped.
    pub queue: Span,
    /// Bytes that the line adds to each packet (Ethernet 38, PPPoE over ATM about 40).
    pub overhead: usize,
    /// The largest packet in IP bytes; larger ones vanish.
    pub mtu: usize,
    /// Times in which everything is lost.
    pub outages: Vec<At<Span>>,
    /// New rates, in order of time.
    pub rate_at: Vec<At<Rate>>,
}

impl Default for LinkSpec {
    fn default() -> Self {
        LinkSpec {
            rate: Rate(0.0),
            delay: Span(0),
            jitter: Span(0),
            loss: Loss::default(),
            reorder: 0.0,
            corrupt: 0.0,
            queue: Span(200_000_000),
            overhead: 0,
            mtu: 1_500,
            outages: Vec::new(),
            rate_at: Vec::new(),
        }
    }
}

impl LinkSpec {
    /// A branch's line as the promises name it: 80 ms of round trip, 0.5 % of loss, 200 ms of queue.
    pub fn branch(rate: Rate) -> LinkSpec {
        LinkSpec {
            rate,
            delay: Span(40_000_000),
            loss: Loss { share: 0.005, burst: 1.0 },
            queue: Span(200_000_000),
            ..LinkSpec::default()
        }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It comes out at the other end.
    Delivered,
    /// The queue before the bottleneck was full.
    QueueFull,
    /// The line lost it.
    Lost,
    /// The line was out.
    Outage,
    /// Larger than the line's MTU.
    TooLarge,
}

/// Packets and their IP bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many.
    pub packets: u64,
    /// IP bytes in all.
    pub bytes: u64,
}

/// What a link has done so far.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LinkStats {
    /// By fate.
    pub counts: BTreeMap<Fate, Count>,
    /// The longest wait in the queue, in ns.
    pub most_queued_ns: u64,
    /// The latest delivery after its due time, in ns: how punctually this process was woken.
    pub latest_ns: u64,
    /// IP bytes that arrived, per 100 ms from the start.
    pub offered: Vec<u64>,
    /// IP bytes that left the bottleneck, per 100 ms from the start.
    pub sent: Vec<u64>,
}

impl LinkStats {
    /// Packets of this fate.
    pub fn of(&self, fate: Fate) -> Count {
        self.counts.get(&fate).copied().unwrap_or_default()
    }
}

/// One direction. `T` is the packet, or whatever stands for it.
pub struct Link<T> {
    spec: LinkSpec,
    random: u64,
    /// Within a run of losses.
    losing: bool,
    /// Cut by hand, until healed.
    cut: bool,
    /// When the bottleneck has sent all that is queued.
    free_at: u64,
    /// Keeps the order under jitter.
    last_due: u64,
    sequence: u64,
    flying: BinaryHeap<Reverse<Flying<T>>>,
    in_flight: u64,
    stats: LinkStats,
}

struct Flying<T> {
    due: u64,
    sequence: u64,
    bytes: u64,
    packet: T,
}

impl<T> PartialEq for Flying<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T> Eq for Flying<T> {}
impl<T> PartialOrd for Flying<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Flying<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

impl<T> Link<T> {
    /// A link at time 0; the same seed makes the same losses.
    pub fn new(spec: LinkSpec, seed: u64) -> Self {
        Link {
            spec,
            random: seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1,
            losing: false,
            cut: false,
            free_at: 0,
            last_due: 0,
            sequence: 0,
            flying: BinaryHeap::new(),
            in_flight: 0,
            stats: LinkStats::default(),
        }
    }

    /// A packet of `bytes` arrives at the near end. What becomes of it, and how long it waits in the queue (ns).
    pub fn arrive(&mut self, now: u64, bytes: usize, packet: T) -> (Fate, u64) {
        let (fate, queued, due) = self.judge(now, bytes);
        if let Some(due) = due {
            self.sequence += 1;
            self.in_flight += bytes as u64;
            self.flying.push(Reverse(Flying { due, sequence: self.sequence, bytes: bytes as u64, packet }));
        }
        bump(&mut self.stats.offered, now, bytes);
        let count = self.stats.counts.entry(fate).or_default();
        (count.packets, count.bytes) = (count.packets + 1, count.bytes + bytes as u64);
        (fate, queued)
    }

    /// The next packet that is due at `now`, if any.
    pub fn leave(&mut self, now: u64) -> Option<T> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(flying) = self.flying.pop()?;
        self.in_flight -= flying.bytes;
        self.stats.latest_ns = self.stats.latest_ns.max(now - flying.due);
        Some(flying.packet)
    }

    /// When the next packet is due.
    pub fn next_due(&self) -> Option<u64> {
        self.flying.peek().map(|Reverse(flying)| flying.due)
    }

    /// From now on everything is lost, also what is on the way.
    pub fn cut(&mut self) {
        self.cut = true;
        let fallen = self.flying.drain().fold(Count::default(), |sum, Reverse(flying)| Count {
            packets: sum.packets + 1,
            bytes: sum.bytes + flying.bytes,
        });
        self.in_flight = 0;
        if fallen.packets > 0 {
            for (fate, sign) in [(Fate::Delivered, false), (Fate::Outage, true)] {
                let count = self.stats.counts.entry(fate).or_default();
                *count = match sign {
                    true => Count { packets: count.packets + fallen.packets, bytes: count.bytes + fallen.bytes },
                    false => Count { packets: count.packets - fallen.packets, bytes: count.bytes - fallen.bytes },
                };
            }
        }
    }

    /// The line carries again.
    pub fn heal(&mut self) {
        self.cut = false;
    }

    /// Another behaviour from now on; what is on the way stays on it.
    pub fn set_spec(&mut self, spec: LinkSpec) {
        self.spec = spec;
    }

    /// How it behaves now.
    pub fn spec(&self) -> &LinkSpec {
        &self.spec
    }

    /// What it has done so far.
    pub fn stats(&self) -> &LinkStats {
        &self.stats
    }

    /// True with the probability `share`.
    pub fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.uniform() < share
    }

    /// What becomes of a packet, how long it waits in the queue, and when it is due if it is delivered.
    fn judge(&mut self, now: u64, bytes: usize) -> (Fate, u64, Option<u64>) {
        while self.spec.rate_at.first().is_some_and(|At(time, _)| *time <= now) {
            self.spec.rate = self.spec.rate_at.remove(0).1;
        }
        if bytes > self.spec.mtu {
            return (Fate::TooLarge, 0, None);
        }
        let queued = self.free_at.saturating_sub(now);
        if queued > self.spec.queue.0 || self.in_flight > MOST_IN_FLIGHT {
            return (Fate::QueueFull, queued, None);
        }
        let leaves = self.send(now, bytes);
        self.stats.most_queued_ns = self.stats.most_queued_ns.max(queued);
        if self.is_out(leaves) {
            return (Fate::Outage, queued, None);
        }
        if self.lost() {
            return (Fate::Lost, queued, None);
        }
        (Fate::Delivered, queued, Some(self.due(leaves)))
    }

    /// Occupies the bottleneck; when the packet has left it.
    fn send(&mut self, now: u64, bytes: usize) -> u64 {
        self.free_at = self.free_at.max(now);
        if self.spec.rate.0 > 0.0 {
            self.free_at += ((bytes + self.spec.overhead) as f64 * 8e9 / self.spec.rate.0) as u64;
        }
        bump(&mut self.stats.sent, self.free_at, bytes);
        self.free_at
    }

    fn is_out(&self, at: u64) -> bool {
        self.cut || self.spec.outages.iter().any(|At(from, span)| (*from..from + span.0).contains(&at))
    }

    /// Gilbert's two states: every packet of a bad run is lost.
    fn lost(&mut self) -> bool {
        let (Loss { share, burst }, draw) = (self.spec.loss, self.uniform());
        self.losing = match self.losing && burst > 1.0 {
            true => draw >= 1.0 / burst,
            false if burst > 1.0 => draw < share / (1.0 - share) / burst,
            false => draw < share,
        };
        self.losing
    }

    fn due(&mut self, leaves: u64) -> u64 {
        let jitter = (self.uniform() * 2.0 - 1.0) * self.spec.jitter.0 as f64;
        let due = (leaves + self.spec.delay.0).saturating_add_signed(jitter as i64).max(self.last_due);
        if self.chance(self.spec.reorder) {
            return due + self.spec.jitter.0.max(LEAST_HOLD);
        }
        self.last_due = due;
        due
    }

    /// Uniform in [0, 1) (xorshift64*).
    fn uniform(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn bump(slots: &mut Vec<u64>, at: u64, bytes: usize) {
    let slot = (at / SLOT) as usize;
    slots.resize(slots.len().max(slot + 1), 0);
    slots[slot] += bytes as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Offers packets of 1000 bytes every `gap` ns for `seconds`.
    fn offer(link: &mut Link<u64>, gap: u64, seconds: u64) {
        for n in 0..seconds * SECOND / gap {
            link.arrive(n * gap, 1_000, n);
        }
    }

    #[test]
    fn the_rate_is_exact_and_the_rest_is_dropped() {
        let spec = LinkSpec { rate: Rate::mbit(2.0), ..LinkSpec::default() };
        let mut link = Link::new(spec, 1);
        offer(&mut link, 2_000_000, 10); // 4 Mbit/s
        let bytes = link.stats().of(Fate::Delivered).bytes as f64;
        // Ten seconds at the rate and what is still queued at the end.
        assert!((bytes / (10.2 * 250_000.0) - 1.0).abs() < 0.01, "{bytes}");
        assert!(link.stats().of(Fate::QueueFull).packets > 2_000);
        assert!(link.stats().most_queued_ns <= 200_000_000);
    }

    #[test]
    fn packets_are_due_after_bottleneck_and_delay_in_order() {
        let spec =
            LinkSpec { rate: Rate::mbit(8.0), delay: Span(40_000_000), jitter: Span(5_000_000), ..LinkSpec::default() };
        let mut link = Link::new(spec, 1);
        offer(&mut link, 2_000_000, 1);
        assert!(link.leave(35_000_000).is_none());
        let order: Vec<u64> = std::iter::from_fn(|| link.leave(2 * SECOND)).collect();
        assert_eq!(order, (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn loss_has_its_share_and_its_runs() {
        for burst in [1.0, 4.0] {
            let spec = LinkSpec { loss: Loss { share: 0.05, burst }, ..LinkSpec::default() };
            let mut link = Link::new(spec, 7);
            let (mut runs, mut before) = (0, false);
            for n in 0..200_000 {
                let lost = link.arrive(n, 100, n).0 == Fate::Lost;
                runs += u64::from(lost && !before);
                before = lost;
            }
            let lost = link.stats().of(Fate::Lost).packets as f64;
            assert!((lost / 10_000.0 - 1.0).abs() < 0.1, "{lost}");
            assert!((lost / runs as f64 / burst - 1.0).abs() < 0.15, "{burst}: {}", lost / runs as f64);
        }
    }

    #[test]
    fn outages_rate_steps_and_mtu_bite_when_they_should() {
        let spec = LinkSpec {
            rate: Rate::mbit(8.0),
            outages: vec![At(SECOND, Span(SECOND))],
            rate_at: vec![At(3 * SECOND, Rate::mbit(4.0))],
            ..LinkSpec::default()
        };
        let mut link = Link::new(spec, 1);
        offer(&mut link, 2_000_000, 3);
        assert_eq!(link.stats().of(Fate::Outage).packets, 500);
        let before = link.next_due();
        link.arrive(4 * SECOND, 1_000, 0);
        while link.leave(4 * SECOND).is_some() {}
        assert!(before.is_some() && link.next_due() == Some(4 * SECOND + 2_000_000), "1000 bytes at 4 Mbit/s");
        assert_eq!(link.arrive(4 * SECOND, 1_501, 0).0, Fate::TooLarge);
    }

    #[test]
    fn a_cut_takes_what_is_on_the_way() {
        let mut link = Link::new(LinkSpec { delay: Span(SECOND), ..LinkSpec::default() }, 1);
        link.arrive(0, 100, 1);
        link.cut();
        assert_eq!(link.arrive(1, 100, 2).0, Fate::Outage);
        link.heal();
        assert_eq!(link.arrive(2, 100, 3).0, Fate::Delivered);
        assert_eq!(link.leave(2 * SECOND), Some(3));
        assert_eq!(link.leave(2 * SECOND), None);
        assert_eq!(link.stats().of(Fate::Outage), Count { packets: 2, bytes: 200 });
        assert_eq!(link.stats().of(Fate::Delivered), Count { packets: 1, bytes: 100 });
    }
}
