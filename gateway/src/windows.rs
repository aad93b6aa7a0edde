//! Windows of a site: stretches in which data may be sent by its policy, and whether what waited had crossed when they ended.
//!
//! Pure: whoever holds [`Windows`] says what the policy is, what time it is and what the edge told last.
//!
//! ```text
//!   closed ── may send ──► open ── may not ──► over: at least 30 min long? ──► judged by the first word after its end
//! ```

use crate::fleet::Ruled;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Shorter stretches are no windows: a boost of ten minutes brings no night's changes over.
const LEAST: i64 = 30 * 60;
/// How far back windows are looked for when a site is looked at for the first time, or again after a long while: one of each week.
const BACK: i64 = 8 * 86_400;
/// For so long after a window's end a word of the edge is waited for: three of them would have come.
const WORD_WITHIN: i64 = 180;

/// The windows of one site as far as they were looked at. Points in time are seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Until when it was looked at; 0: never.
    looked: i64,
    /// Since when data may be sent.
    open_since: Option<i64>,
    /// Begin and end of the last window that is over.
    pub last: Option<(i64, i64)>,
    /// It is still to be judged.
    due: bool,
    /// Windows in a row that ended with a backlog.
    pub behind: u32,
}

/// What an edge told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// When it came.
    pub at: i64,
    /// Coded bytes that had to cross.
    pub backlog: u64,
}

impl Windows {
    /// Whether data may be sent by the schedule.
    pub fn is_open(&self) -> bool {
        self.open_since.is_some()
    }

    /// Whether there is something to be kept for a restart that was not in `before`. The time of the look alone is kept once an hour.
    pub fn is_news(&self, before: &Windows) -> bool {
        Windows { looked: before.looked, ..*self } != *before || self.looked - before.looked >= 3600
    }

    /// Looks at what happened since the last look.
    pub fn look(&mut self, ruled: &Ruled, now: Timestamp, word: Option<Word>) {
        let (first, until) = (self.looked == 0, now.as_second());
        if self.looked > until {
            self.looked = until; // the clock was set back
        }
        if until - self.looked > BACK {
            (self.looked, self.open_since) = (until - BACK, None);
        }
        let from = Timestamp::from_second(self.looked).unwrap_or(now);
        for (begins, _, allowance) in ruled.spans(from, now) {
            self.step(begins.as_second(), allowance.up.is_open());
        }
        self.step(until, ruled.allowed(now).up.is_open());
        self.looked = until;
        if first {
            self.due = false; // what was before is known to nobody
        }
        self.judge(until, word);
    }

    /// A site without a policy has no windows.
    pub fn rest(&mut self, now: Timestamp) {
        (self.looked, self.open_since) = (now.as_second(), None);
    }

    fn step(&mut self, at: i64, is_open: bool) {
        match (self.open_since, is_open) {
            (None, true) => self.open_since = Some(at),
            (Some(since), false) => {
                self.open_since = None;
                if at - since >= LEAST {
                    (self.last, self.due) = (Some((since, at)), true);
                }
            }
            _ => {}
        }
    }

    /// Counts a window that is over, by the first word after its end. Without one the last word within it counts; without that nobody can tell, and
    /// whoever looks at silent edges will.
    fn judge(&mut self, now: i64, word: Option<Word>) {
        let Some((since, end)) = self.last.filter(|_| self.due) else { return };
        let after = word.is_some_and(|word| word.at >= end);
        if !after && now < end + WORD_WITHIN {
            return;
        }
        self.due = false;
        if let Some(word) = word.filter(|word| word.at >= since) {
            self.behind = if word.backlog > 0 { self.behind.saturating_add(1) } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use shaping::policy::Policy;

    const NIGHTS: &str = "version = 1\nzone = \"UTC\"\n[line]\nup = \"2 Mbit/s\"\n[profiles]\nnight = \"80 %\"\n[grid]\n\
        mon-sun = \"00:00 night 06:00 closed 22:00 night\"\n";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// A policy laid out from a day before `now`.
    fn ruled(document: &str, now: Timestamp) -> Ruled {
        let policy = Policy::parse(document).unwrap();
        let from = now - SignedDuration::from_hours(25);
        Ruled { schedule: policy.schedule(from, 5), policy, until: from + SignedDuration::from_hours(120) }
    }

    fn second(text: &str) -> i64 {
        at(text).as_second()
    }

    /// Looks every 30 s from one moment to another.
    fn watch(windows: &mut Windows, document: &str, from: &str, to: &str, word: impl Fn(i64) -> Option<Word>) {
        let ruled = ruled(document, at(from));
        for now in (second(from)..=second(to)).step_by(30) {
            windows.look(&ruled, Timestamp::from_second(now).unwrap(), word(now));
        }
    }

    fn told(backlog: u64) -> impl Fn(i64) -> Option<Word> {
        move |now| Some(Word { at: now - 20, backlog })
    }

    #[test]
    fn the_window_that_is_over_is_found_at_the_first_look_and_judged_never() {
        let mut windows = Windows::default();
        windows.look(&ruled(NIGHTS, at("2026-11-25T12:00:00Z")), at("2026-11-25T12:00:00Z"), told(5)(0));
        assert_eq!(windows.last, Some((second("2026-11-24T22:00:00Z"), second("2026-11-25T06:00:00Z"))));
        assert_eq!((windows.is_open(), windows.behind), (false, 0));
    }

    #[test]
    fn windows_that_end_with_a_backlog_add_up_until_one_does_not() {
        let mut windows = Windows::default();
        watch(&mut windows, NIGHTS, "2026-11-25T21:50:00Z", "2026-11-25T22:01:00Z", told(5));
        assert!(windows.is_open());
        watch(&mut windows, NIGHTS, "2026-11-26T05:59:00Z", "2026-11-26T06:00:00Z", told(5));
        assert_eq!((windows.is_open(), windows.behind), (false, 0), "the first word after the end is awaited");
        watch(&mut windows, NIGHTS, "2026-11-26T06:00:30Z", "2026-11-26T06:01:00Z", told(5));
        assert_eq!(windows.behind, 1);
        watch(&mut windows, NIGHTS, "2026-11-27T05:59:00Z", "2026-11-27T06:10:00Z", told(5));
        assert_eq!(windows.behind, 2);
        assert_eq!(windows.last, Some((second("2026-11-26T22:00:00Z"), second("2026-11-27T06:00:00Z"))));
        watch(&mut windows, NIGHTS, "2026-11-28T05:59:00Z", "2026-11-28T06:10:00Z", told(0));
        assert_eq!(windows.behind, 0);
    }

    #[test]
    fn an_edge_that_was_silent_all_through_a_window_is_no_news_of_it() {
        let mut windows = Windows { behind: 3, ..Windows::default() };
        let old = |_| Some(Word { at: second("2026-11-25T12:00:00Z"), backlog: 7 });
        watch(&mut windows, NIGHTS, "2026-11-25T21:50:00Z", "2026-11-25T21:51:00Z", old);
        watch(&mut windows, NIGHTS, "2026-11-26T05:59:00Z", "2026-11-26T07:00:00Z", old);
        assert_eq!((windows.behind, windows.due), (3, false));
        // Silent at the end only: what it told within the window counts.
        let within = |_| Some(Word { at: second("2026-11-27T05:00:00Z"), backlog: 7 });
        watch(&mut windows, NIGHTS, "2026-11-27T05:59:00Z", "2026-11-27T06:02:30Z", within);
        assert_eq!((windows.behind, windows.due), (3, true));
        watch(&mut windows, NIGHTS, "2026-11-27T06:03:00Z", "2026-11-27T06:03:00Z", within);
        assert_eq!((windows.behind, windows.due), (4, false));
    }

    #[test]
    fn holds_and_pauses_close_a_window_and_short_stretches_are_none() {
        let held = format!("{NIGHTS}[hold]\nactor = \"li\"\nreason = \"audit\"\n");
        let mut windows = Windows::default();
        watch(&mut windows, NIGHTS, "2026-11-25T21:50:00Z", "2026-11-25T22:10:00Z", told(0));
        watch(&mut windows, &held, "2026-11-25T22:10:30Z", "2026-11-25T22:11:00Z", told(0));
        assert!(!windows.is_open());
        assert_eq!(windows.last.map(|(_, end)| end), Some(second("2026-11-25T06:00:00Z")), "10 minutes are no window");
        let paused = format!(
            "{NIGHTS}[[overrides]]\nid = 1\nbend = \"pause\"\nfrom = \"2026-11-25T23:30:00Z\"\nuntil = \"2026-11-26T00:30:00Z\"\n\
             actor = \"li\"\nreason = \"drill\"\n"
        );
        watch(&mut windows, &paused, "2026-11-26T01:00:00Z", "2026-11-26T01:00:00Z", told(0));
        assert_eq!(windows.last.map(|(_, end)| end), Some(second("2026-11-25T23:30:00Z")));
        assert_eq!(windows.open_since, Some(second("2026-11-26T00:30:00Z")));
    }

    #[test]
    fn what_a_restart_finds_goes_on_as_if_there_had_been_none() {
        let mut windows = Windows::default();
        watch(&mut windows, NIGHTS, "2026-11-25T21:50:00Z", "2026-11-25T22:10:00Z", told(1));
        let kept = windows;
        watch(&mut windows, NIGHTS, "2026-11-25T22:10:30Z", "2026-11-26T06:01:00Z", told(1));
        assert!(windows.is_news(&kept));
        let mut again = kept;
        watch(&mut again, NIGHTS, "2026-11-26T06:01:00Z", "2026-11-26T06:01:00Z", told(1));
        assert_eq!(again, windows);
        let later = Windows { looked: windows.looked + 30, ..windows };
        assert!(!later.is_news(&windows), "the time of a look alone is not written each time");
    }

    #[test]
    fn a_week_away_and_a_clock_that_went_back_are_borne() {
        let mut windows = Windows::default();
        watch(&mut windows, NIGHTS, "2026-11-25T21:50:00Z", "2026-11-25T22:10:00Z", told(0));
        watch(&mut windows, NIGHTS, "2026-12-25T12:00:00Z", "2026-12-25T12:00:00Z", |_| None);
        assert_eq!(windows.last.map(|(_, end)| end), Some(second("2026-12-25T06:00:00Z")));
        let before = windows;
        watch(&mut windows, NIGHTS, "2026-12-25T11:00:00Z", "2026-12-25T11:00:00Z", |_| None);
        assert_eq!(windows.last, before.last);
    }
}
