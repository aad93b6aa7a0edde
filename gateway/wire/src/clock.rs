//! The time by which certificates are judged: never earlier than what is known to have passed.

use dedupe::UnixMillis;
use rustls::pki_types::UnixTime;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// No honest clock shows less than this: 2026-08-01, before the first build of this code was. Moved forward by releases.
pub const BUILT_AT: UnixMillis = UnixMillis(1_785_542_400_000);

/// A clock that a flat battery cannot turn back: the greatest of the build's time, the last time that was
/// known for sure, and what the machine says. A machine that is ahead is believed; its peer's certificate then looks expired,
/// and the error says by which time it was judged.
#[derive(Debug, Default)]
pub struct KnownTime {
    last: AtomicU64,
}

impl KnownTime {
    /// Starts from the last time that was stored, 0 if there is none.
    pub fn new(last: UnixMillis) -> Self {
        Self { last: AtomicU64::new(last.0) }
    }

    /// An authenticated peer named the time: it has passed.
    pub fn learn(&self, time: UnixMillis) {
        self.last.fetch_max(time.0, Ordering::Relaxed);
    }

    /// The greatest time that was learnt, to be stored; 0 if none was.
    pub fn last(&self) -> UnixMillis {
        UnixMillis(self.last.load(Ordering::Relaxed))
    }

    /// The time to judge by.
    pub fn now(&self) -> UnixMillis {
        self.judge(machine_time())
    }

    fn judge(&self, machine: UnixMillis) -> UnixMillis {
        machine.max(self.last()).max(BUILT_AT)
    }
}

impl rustls::time_provider::TimeProvider for KnownTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now().0)))
    }
}

/// What the machine's clock says; 0 for a clock before 1970.
#[expect(clippy::disallowed_methods, reason = "the one place of both daemons that asks the machine for the time")]
pub fn machine_time() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_is_not_believed() {
        let clock = KnownTime::new(UnixMillis(0));
        assert_eq!(clock.judge(UnixMillis(0)), BUILT_AT);
        let later = UnixMillis(BUILT_AT.0 + 1000);
        clock.learn(later);
        clock.learn(BUILT_AT);
        assert_eq!(clock.judge(UnixMillis(5)), later);
        assert_eq!(clock.judge(UnixMillis(later.0 + 1)), UnixMillis(later.0 + 1));
        assert_eq!(clock.last(), later);
    }
}
