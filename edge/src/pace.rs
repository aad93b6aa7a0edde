//! How much effort a parcel is worth: as much as there is time for before the line would run dry.
//!
//! At a branch a byte on the line costs more than CPU, so the highest effort is right as long as the coder keeps ahead of the line. A generation of a few
//! parcels may keep the line waiting for [`GRACE`] in all: a minute of a night buys 10-25 % fewer bytes. On faster lines a byte is worth less, and so is the wait.

use dedupe::Effort;

/// Seconds that one generation may keep an idle line waiting for higher effort, on lines up to [`GRACE_RATE`]; in proportion less on faster ones.
const GRACE: f64 = 60.0;
/// Bits per second.
const GRACE_RATE: f64 = 4e6;
/// Seconds of one core per byte, from cheapest to dearest, before anything was measured: 120, 25, 12 and 3 MB/s.
const FIRST_GUESS: [f64; 4] = [1.0 / 120e6, 1.0 / 25e6, 1.0 / 12e6, 1.0 / 3e6];
/// Weight of the newest measurement in an estimate.
const WEIGHT: f64 = 0.5;
/// Below this a parcel says nothing about speed.
const LEAST_MEASURED: u64 = 1 << 20;

/// Chooses the effort of a volume's parcels and learns what each costs.
#[derive(Clone, Debug)]
pub struct Pace {
    seconds_per_byte: [f64; 4],
    full_grace: f64,
    grace: f64,
}

impl Pace {
    /// For a line of `rate` bits per second.
    pub fn new(rate: u64) -> Pace {
        let grace = GRACE * (GRACE_RATE / rate.max(1) as f64).min(1.0);
        Pace { seconds_per_byte: FIRST_GUESS, full_grace: grace, grace }
    }

    /// A generation begins.
    pub fn begin(&mut self) {
        self.grace = self.full_grace;
    }

    /// The effort for a parcel of `raw` bytes while the line is busy for another `busy` seconds with what is coded already.
    pub fn choose(&self, raw: u64, busy: f64) -> Effort {
        let room = busy.max(self.grace);
        let fits = |effort: &&Effort| self.seconds_per_byte[index(**effort)] * raw as f64 <= room;
        Effort::LADDER.iter().rev().find(fits).copied().unwrap_or(Effort::Quick)
    }

    /// A parcel of `raw` bytes took `seconds` while the line was busy for `busy` seconds.
    pub fn learn(&mut self, effort: Effort, raw: u64, seconds: f64, busy: f64) {
        self.grace = (self.grace - (seconds - busy).max(0.0)).max(0.0);
        if raw >= LEAST_MEASURED {
            let known = &mut self.seconds_per_byte[index(effort)];
            *known += WEIGHT * (seconds / raw as f64 - *known);
        }
    }
}

fn index(effort: Effort) -> usize {
    Effort::LADDER.iter().position(|rung| *rung == effort).expect("the ladder has all rungs")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARCEL: u64 = 32 << 20;

    #[test]
    fn a_single_parcel_gets_all_the_effort() {
        assert_eq!(Pace::new(2_000_000).choose(PARCEL, 0.0), Effort::Thorough);
        assert_eq!(Pace::new(100_000_000).choose(PARCEL, 0.0), Effort::Light, "a fast line is not kept waiting");
    }

    #[test]
    fn a_long_queue_leaves_time_and_a_dry_line_does_not() {
        let mut pace = Pace { grace: 0.0, ..Pace::new(2_000_000) };
        assert_eq!(pace.choose(PARCEL, 40.0), Effort::Thorough);
        assert_eq!(pace.choose(PARCEL, 4.0), Effort::Normal);
        assert_eq!(pace.choose(PARCEL, 2.0), Effort::Light);
        assert_eq!(pace.choose(PARCEL, 0.0), Effort::Quick);
        pace.begin();
        assert_eq!(pace.choose(PARCEL, 0.0), Effort::Thorough, "the next generation has its own grace");
    }

    #[test]
    fn the_grace_is_used_up_and_speeds_are_learnt() {
        let mut pace = Pace::new(2_000_000);
        let mut rungs = Vec::new();
        for _ in 0..8 {
            let effort = pace.choose(PARCEL, 0.0);
            rungs.push(effort);
            pace.learn(effort, PARCEL, [0.3, 1.5, 3.0, 30.0][index(effort)], 0.0);
        }
        assert_eq!(rungs[..3], [Effort::Thorough, Effort::Thorough, Effort::Quick]);
        let mut slow = Pace { grace: 0.0, ..Pace::new(2_000_000) };
        slow.learn(Effort::Thorough, PARCEL, 1000.0, 2000.0);
        assert_eq!(slow.choose(PARCEL, 100.0), Effort::Normal);
    }
}
