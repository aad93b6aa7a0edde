//! Minutes of the line as edges report them: what is kept, for how long, and up to where it need not be sent again.

use crate::catalogue::CatalogueError;
use crate::state::State;
use dedupe::{SiteId, UnixMillis};
use wire::message::Minute;

/// Days for which evidence is kept: a year, and time to write about it.
pub const KEEP_DAYS: u32 = 400;
/// Minutes that an edge's clock may be ahead of the gateway's: more is a broken clock, and its minutes would hide the real ones later.
const AHEAD: u32 = 10;
const MINUTES_OF_A_DAY: u32 = 24 * 60;

/// The minute since 1970 that a time lies in.
pub fn minute_of(at: UnixMillis) -> u32 {
    u32::try_from(at.0 / 60_000).unwrap_or(u32::MAX)
}

/// Minutes of before this one are kept no more.
pub(crate) fn oldest(now: UnixMillis) -> u32 {
    minute_of(now).saturating_sub(KEEP_DAYS * MINUTES_OF_A_DAY)
}

/// Keeps what an edge says of its line, and names the newest minute that it need not say again; `None`: nothing of it can be acknowledged.
/// Durable on return.
pub(crate) fn keep(state: &State, site: SiteId, minutes: &[Minute]) -> Result<Option<u32>, CatalogueError> {
    let (kept, newest) = sort_out(minutes, state.now());
    if kept.len() < minutes.len() {
        let ignored = minutes.len() - kept.len();
        tracing::warn!(%site, ignored, "minutes of the line lie in the future or more than {KEEP_DAYS} days back and are ignored: is the edge's clock right?");
    }
    if !kept.is_empty() {
        state.catalogue.keep_minutes(site, &kept)?;
    }
    Ok(newest)
}

/// What is to be kept of these minutes, and the newest that is acknowledged: minutes that are too old are done with, those of the future
/// may come again once they have passed.
fn sort_out(minutes: &[Minute], now: UnixMillis) -> (Vec<Minute>, Option<u32>) {
    let (first, last) = (oldest(now), minute_of(now).saturating_add(AHEAD));
    let kept = minutes.iter().filter(|minute| (first..=last).contains(&minute.minute)).copied().collect();
    let newest = minutes.iter().map(|minute| minute.minute).filter(|minute| *minute <= last).max();
    (kept, newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_of_the_future_and_of_long_ago_are_ignored() {
        let minute = |minute| Minute { minute, sent: 0, received: 0, allowed: 0, peak: 0, reason: 0 };
        let now = UnixMillis(30_000_000 * 60_000);
        let old = 30_000_000 - 400 * 1440;
        let sorted = |numbers: &[u32]| {
            let (kept, newest) = sort_out(&numbers.iter().copied().map(minute).collect::<Vec<_>>(), now);
            (kept.iter().map(|minute| minute.minute).collect::<Vec<_>>(), newest)
        };
        assert_eq!(sorted(&[old - 1, old, 30_000_010, 30_000_011]), (vec![old, 30_000_010], Some(30_000_010)));
        assert_eq!(sorted(&[old - 1]), (vec![], Some(old - 1)), "done with");
        assert_eq!(sorted(&[30_000_011]), (vec![], None), "it may come again");
    }
}
