//! The minute in the making: what was sent, received and allowed, and the busiest second.

use jiff::Timestamp;
use shaping::policy::Allowance;
use std::time::Duration;
use wire::message::Minute;

/// Sums up looks into minutes. Only minutes of a trusted time are made: others could not be told where they belong.
#[derive(Debug, Default)]
pub(super) struct Minutes {
    current: Option<Minute>,
    last: Option<(Duration, u64, u64)>,
    /// Since the beginning of the running second: when it began, and the bytes sent before it.
    second: Option<(Duration, u64)>,
}

impl Minutes {
    /// Takes a look in; returns the minute that it ended. `sent` and `received` count from the daemon's start.
    pub(super) fn note(
        &mut self,
        now: Option<Timestamp>,
        counted: Duration,
        sent: u64,
        received: u64,
        allowed: &Allowance,
    ) -> Option<Minute> {
        let (before, sent_before, received_before) =
            self.last.replace((counted, sent, received)).unwrap_or((counted, 0, 0));
        let now = now?;
        let number = u32::try_from(now.as_second().div_euclid(60)).ok()?;
        let ended = self.current.take_if(|minute| minute.minute != number);
        let minute =
            self.current.get_or_insert(Minute { minute: number, sent: 0, received: 0, allowed: 0, peak: 0, reason: 0 });
        let elapsed = counted.saturating_sub(before);
        let rate = allowed.up.limit().map_or(if allowed.up.is_open() { u64::MAX } else { 0 }, |limit| limit.bytes());
        let may = (rate as f64 * elapsed.as_secs_f64()).min(f64::from(u32::MAX)) as u32;
        minute.sent = minute.sent.saturating_add(low(sent.saturating_sub(sent_before)));
        minute.received = minute.received.saturating_add(low(received.saturating_sub(received_before)));
        minute.allowed = minute.allowed.saturating_add(may);
        minute.reason = allowed.reason.code();
        let (began, sent_then) = *self.second.get_or_insert((before, sent_before));
        let lasted = counted.saturating_sub(began);
        if lasted >= Duration::from_secs(1) {
            let per_second = sent.saturating_sub(sent_then) as f64 / lasted.as_secs_f64();
            minute.peak = minute.peak.max(per_second.min(f64::from(u32::MAX)) as u32);
            self.second = Some((counted, sent));
        }
        ended
    }

    /// The minute as far as it has come; the daemon stops.
    pub(super) fn take(&mut self) -> Option<Minute> {
        self.current.take()
    }
}

fn low(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shaping::policy::Reason;

    #[test]
    fn looks_become_minutes_with_their_busiest_second() {
        let mut minutes = Minutes::default();
        let allowed = Allowance { up: "8 kbit/s".parse().unwrap(), ..Allowance::closed(Reason::Cap, None) };
        let begin: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let mut made = Vec::new();
        let mut sent = 0;
        for second in 0..=121u64 {
            sent += if second == 30 { 3_000 } else { 500 };
            let now = begin + jiff::SignedDuration::from_secs(second as i64);
            made.extend(minutes.note(Some(now), Duration::from_secs(second), sent, second, &allowed));
        }
        let number = (begin.as_second() / 60) as u32;
        let numbers: Vec<_> = made.iter().map(|minute| minute.minute - number).collect();
        assert_eq!(numbers, [0, 1]);
        assert_eq!((made[0].sent, made[0].peak, made[0].allowed), (500 * 59 + 3_000, 3_000, 59_000));
        assert_eq!((made[1].sent, made[1].received, made[1].peak, made[1].reason), (30_000, 60, 500, 8));
        assert!(minutes.note(None, Duration::from_secs(200), sent, 0, &allowed).is_none(), "no time, no minute");
        assert_eq!(minutes.take().map(|minute| minute.minute - number), Some(2));
    }
}
