#![allow(clippy::disallowed_methods, reason = "tests need a first instant")]

use super::*;
use proptest::prelude::*;

fn kbit(rate: u64) -> Option<BitsPerSec> {
    Some(BitsPerSec::kbit(rate))
}

/// A line of a constant rate that hands each piece over at its end.
struct Sim {
    scheduler: Scheduler<usize>,
    began: Instant,
    now: Instant,
    /// Bits per second.
    rate: f64,
    left: Vec<u64>,
    /// Begin, volume, bytes.
    pieces: Vec<(Instant, usize, u64)>,
}

const LOTS: u64 = 1 << 50;

impl Sim {
    fn new(rate: f64, terms: &[Terms]) -> Sim {
        let began = Instant::now();
        let mut sim = Sim {
            scheduler: Scheduler::default(),
            began,
            now: began,
            rate,
            left: vec![LOTS; terms.len()],
            pieces: vec![],
        };
        for (volume, terms) in terms.iter().enumerate() {
            sim.scheduler.set(&volume, *terms, began);
            sim.scheduler.has(&volume, LOTS, began);
        }
        sim
    }

    fn has(&mut self, volume: usize, bytes: u64) {
        self.left[volume] = bytes;
        self.scheduler.has(&volume, bytes, self.now);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            match self.scheduler.next(self.now) {
                Verdict::Send { volume, bytes } => {
                    assert!(bytes > 0 && bytes <= PIECE && bytes <= self.left[volume], "{bytes} of volume {volume}");
                    self.pieces.push((self.now, volume, bytes));
                    self.left[volume] -= bytes;
                    self.now += Duration::from_secs_f64(bytes as f64 * 8.0 / self.rate);
                }
                Verdict::Wait(until) => {
                    assert!(until > self.now, "waiting for a moment that has passed");
                    self.now = until.min(end);
                }
                Verdict::Idle => self.now = end,
            }
        }
    }

    fn sent(&self, volume: usize) -> u64 {
        self.pieces.iter().filter(|(_, of, _)| *of == volume).map(|(_, _, bytes)| bytes).sum()
    }

    fn bits_per_second(&self, volume: usize) -> f64 {
        self.sent(volume) as f64 * 8.0 / (self.now - self.began).as_secs_f64()
    }
}

fn class(class: VolumeClass) -> Terms {
    Terms { class, ..Terms::default() }
}

#[test]
fn a_class_waits_for_the_one_before_and_takes_over_with_the_next_piece() {
    let mut sim = Sim::new(2e6, &[class(VolumeClass::Bulk), class(VolumeClass::Critical), class(VolumeClass::Normal)]);
    sim.has(1, 0);
    sim.has(2, 0);
    sim.run(Duration::from_secs(5));
    assert_eq!(sim.sent(0), sim.pieces.iter().map(|piece| piece.2).sum::<u64>());
    sim.has(1, 1_000_000);
    sim.has(2, 500_000);
    let from = sim.pieces.len();
    sim.run(Duration::from_secs(10));
    let order: Vec<usize> = sim.pieces[from..].iter().map(|piece| piece.1).collect();
    let expected: Vec<usize> = {
        let mut sorted = order.clone();
        sorted.sort_by_key(|volume| [2, 0, 1][*volume]);
        sorted
    };
    assert_eq!(order, expected, "critical, then normal, then bulk");
    assert_eq!((sim.sent(1), sim.sent(2)), (1_000_000, 500_000));
}

#[test]
fn a_volume_that_is_barred_stops_with_the_piece_and_the_others_go_on() {
    let mut sim = Sim::new(2e6, &[Terms::default(), Terms::default()]);
    sim.run(Duration::from_secs(3));
    let before = sim.sent(0);
    sim.scheduler.set(&0, Terms { barred: true, ..Terms::default() }, sim.now);
    assert_eq!(sim.scheduler.waits(&0, sim.now), Some(Waits::Barred));
    let (from, other) = (sim.now, sim.sent(1));
    sim.run(Duration::from_secs(3));
    assert_eq!(sim.sent(0), before);
    let line = 2e6 / 8.0 * (sim.now - from).as_secs_f64();
    assert!((sim.sent(1) - other) as f64 >= line - PIECE as f64, "the line is not left idle");
    sim.scheduler.set(&1, Terms { barred: true, ..Terms::default() }, sim.now);
    assert_eq!(sim.scheduler.next(sim.now), Verdict::Idle);
}

#[test]
fn a_volume_that_comes_or_goes_gets_and_leaves_nothing_saved_up() {
    let capped = Terms { cap: kbit(256), floor: kbit(128), ..Terms::default() };
    let mut sim = Sim::new(2e6, &[capped, Terms::default()]);
    sim.has(0, 0);
    sim.run(Duration::from_secs(100));
    sim.has(0, LOTS);
    let (from, began) = (sim.now, sim.sent(0));
    sim.run(Duration::from_secs(1));
    let most = 256e3 / 8.0 * (sim.now - from).as_secs_f64() + PIECE as f64;
    assert!((sim.sent(0) - began) as f64 <= most, "an idle volume saved more than a piece");
    sim.scheduler.remove(&0);
    sim.run(Duration::from_secs(1));
    assert_eq!(sim.pieces.last().map(|piece| piece.1), Some(1));
}

#[test]
fn what_a_volume_waits_for_is_said() {
    let capped = Terms { cap: kbit(256), ..class(VolumeClass::Critical) };
    let mut sim = Sim::new(2e6, &[capped, Terms::default(), class(VolumeClass::Bulk)]);
    let says = |sim: &mut Sim, volume: usize| sim.scheduler.waits(&volume, sim.now);
    assert_eq!(says(&mut sim, 0), Some(Waits::Cap(BitsPerSec::kbit(256))));
    assert_eq!(says(&mut sim, 1), None, "it may send");
    assert_eq!(says(&mut sim, 2), Some(Waits::Behind(VolumeClass::Normal)));
    sim.now += Duration::from_secs(10);
    assert_eq!(says(&mut sim, 1), Some(Waits::Behind(VolumeClass::Critical)));
    sim.has(0, 0);
    assert_eq!(says(&mut sim, 0), None, "it has nothing to send");
    sim.scheduler.set(&2, Terms::default(), sim.now);
    assert_eq!(says(&mut sim, 2), Some(Waits::Turn));
}

#[test]
fn the_long_run_is_shared_as_written() {
    let bulk = Terms { floor: kbit(200), ..class(VolumeClass::Bulk) };
    let terms = [
        Terms { cap: kbit(500), ..class(VolumeClass::Critical) },
        Terms { weight: 300, ..Terms::default() },
        Terms::default(),
        bulk,
    ];
    let got: Vec<u64> = shares(2e6, &terms).into_iter().map(|share| share.round() as u64).collect();
    assert_eq!(got, [500_000, 975_000, 325_000, 200_000]);
    let barred = [Terms { barred: true, ..Terms::default() }, Terms { cap: kbit(100), ..Terms::default() }];
    assert_eq!(shares(2e6, &barred).into_iter().map(f64::round).collect::<Vec<_>>(), [0.0, 100_000.0]);
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let class = prop_oneof![Just(VolumeClass::Critical), Just(VolumeClass::Normal), Just(VolumeClass::Bulk)];
    let cap = proptest::option::weighted(0.4, 100u64..2_000);
    let floor = proptest::option::weighted(0.3, 20u64..100);
    (class, 1u32..1_000, cap, floor, proptest::bool::weighted(0.1)).prop_map(|(class, weight, cap, floor, barred)| {
        Terms { class, weight, cap: cap.map(BitsPerSec::kbit), floor: floor.map(BitsPerSec::kbit), barred }
    })
}

proptest! {
    #[test]
    fn backlogged_volumes_of_a_class_share_by_weight_to_within_a_piece(
        weights in proptest::collection::vec(1u32..=1_000, 2..6),
        cuts in proptest::collection::vec(0.0f64..1.0, 8),
    ) {
        let terms: Vec<Terms> = weights.iter().map(|weight| Terms { weight: *weight, ..Terms::default() }).collect();
        let mut sim = Sim::new(2e6, &terms);
        sim.run(Duration::from_secs(60));
        let heaviest = f64::from(*weights.iter().max().unwrap());
        for pair in cuts.chunks(2) {
            let place = |cut: f64| (cut * sim.pieces.len() as f64) as usize;
            let (from, to) = (place(pair[0].min(pair[1])), place(pair[0].max(pair[1])));
            let sent = |volume| sim.pieces[from..to].iter().filter(|p| p.1 == volume).map(|p| p.2).sum::<u64>() as f64;
            for one in 0..weights.len() {
                for other in 0..one {
                    let off = sent(one) * f64::from(weights[other]) - sent(other) * f64::from(weights[one]);
                    prop_assert!(off.abs() / heaviest <= PIECE as f64 + 8.0, "{one} and {other} are {off} apart");
                }
            }
        }
    }

    #[test]
    fn a_cap_holds_over_every_interval_and_a_floor_is_kept(terms in proptest::collection::vec(any_terms(), 1..6)) {
        let mut sim = Sim::new(2e6, &terms);
        sim.run(Duration::from_secs(40));
        for (volume, terms) in terms.iter().enumerate() {
            let own: Vec<_> = sim.pieces.iter().filter(|piece| piece.1 == volume).collect();
            if let Some(cap) = terms.cap {
                for from in 0..own.len() {
                    let mut sum = 0;
                    for piece in &own[from..] {
                        sum += piece.2;
                        let most = cap.bits() as f64 / 8.0 * (piece.0 - own[from].0).as_secs_f64() + PIECE as f64;
                        prop_assert!(sum as f64 <= most + 1.0, "volume {volume} sent {sum} where {most} were allowed");
                    }
                }
            }
            if let Some(floor) = terms.floor.filter(|_| !terms.barred) {
                let floor = floor.min(terms.cap.unwrap_or(floor)).bits() as f64 / 8.0;
                // A piece of each of the others may be on the line before it, and one is saved up.
                let slack = (PIECE * 3) as f64;
                for window in [10, 40] {
                    let from = sim.now - Duration::from_secs(window);
                    let sent: u64 = own.iter().filter(|piece| piece.0 >= from).map(|piece| piece.2).sum();
                    prop_assert!(sent as f64 >= floor * window as f64 - slack, "volume {volume}: {sent} in {window} s");
                }
            }
        }
    }

    /// Work-conserving: the scheduler is only asked when the line is free, so any wait is one in which nobody may send.
    #[test]
    fn nothing_is_left_idle_while_somebody_may_send(terms in proptest::collection::vec(any_terms(), 1..6), small in 1u64..100_000) {
        let mut sim = Sim::new(2e6, &terms);
        for round in 0..200 {
            if round % 3 == 0 {
                sim.has(round % terms.len(), small);
            }
            let may = |sim: &Sim| sim.scheduler.queues.iter().any(|queue| {
                let capped = queue.terms.cap.is_some() && queue.cap.bytes() < LEAST.min(queue.left);
                queue.left > 0 && !queue.terms.barred && !capped
            });
            let (verdict, now) = (sim.scheduler.next(sim.now), sim.now);
            match verdict {
                Verdict::Send { volume, bytes } => {
                    sim.left[volume] -= bytes;
                    sim.now += Duration::from_secs_f64(bytes as f64 * 8.0 / sim.rate);
                }
                Verdict::Wait(until) => {
                    prop_assert!(!may(&sim) && until > now);
                    sim.now = until;
                    // Not too late either: a nanosecond before nobody may send.
                    let before = sim.scheduler.next(until - Duration::from_nanos(1));
                    prop_assert!(matches!(before, Verdict::Wait(_)), "somebody could have sent before");
                    prop_assert!(matches!(sim.scheduler.next(until), Verdict::Send { .. }), "nobody may when it was said");
                }
                Verdict::Idle => {
                    prop_assert!(sim.scheduler.queues.iter().all(|queue| queue.left == 0 || queue.terms.barred));
                    sim.now += Duration::from_millis(100);
                }
            }
        }
    }

    /// The slow oracle: what a fluid would get.
    #[test]
    fn in_the_long_run_everybody_gets_what_a_fluid_would(terms in proptest::collection::vec(any_terms(), 1..5)) {
        let mut sim = Sim::new(2e6, &terms);
        sim.run(Duration::from_secs(400));
        for (volume, share) in shares(2e6, &terms).into_iter().enumerate() {
            let got = sim.bits_per_second(volume);
            prop_assert!((got - share).abs() <= 2e6 * 0.02, "volume {volume} got {got}, a fluid {share}: {terms:?}");
        }
    }
}
