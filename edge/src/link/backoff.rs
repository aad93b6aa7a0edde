//! How long to wait before the gateways are dialled again.

use std::time::Duration;

/// After the first failure: a gateway that restarts is back in seconds.
const FIRST: Duration = Duration::from_secs(1);
/// At most, while the trouble may pass: a line that comes back after hours is used within a minute.
const LONGEST_PASSING: Duration = Duration::from_secs(60);
/// At most, while only a person can help: each attempt costs some kilobytes of the line.
const LONGEST_PERSON: Duration = Duration::from_secs(600);

/// What kind of trouble keeps a session away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It ends by itself.
    Passing,
    /// A person has to do something. (Also what a restarted edge is told while its dead session is still believed: so this begins short, too.)
    Person,
}

/// Doubles the wait from attempt to attempt, with jitter, so that 62 edges do not come back in one second.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A session was had: the next failure is the first again.
    pub fn worked(&mut self) {
        self.failures = 0;
    }

    /// The next wait.
    pub fn next(&mut self, trouble: Trouble) -> Duration {
        let mut random = [0; 2];
        getrandom::fill(&mut random).expect("the operating system has a random source");
        self.next_with(trouble, f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX))
    }

    /// `random` is within 0 and 1.
    fn next_with(&mut self, trouble: Trouble, random: f64) -> Duration {
        let longest = if trouble == Trouble::Person { LONGEST_PERSON } else { LONGEST_PASSING };
        let wait = (FIRST * 2u32.pow(self.failures.min(12))).min(longest);
        self.failures += 1;
        wait.mul_f64(0.5 + 0.5 * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_begin_anew_after_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.next_with(Trouble::Passing, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.next_with(Trouble::Person, 1.0).as_secs(), 256);
        backoff.worked();
        assert_eq!(backoff.next_with(Trouble::Person, 0.0), Duration::from_millis(500));
        for _ in 0..100 {
            assert!(backoff.next(Trouble::Person) <= LONGEST_PERSON);
        }
    }
}
