//! Braking an edge that sends faster than it was granted, by flow control: its streams are read no faster than the grant, and it may have little
//! under way that has not been read. What it was promised before cannot be taken back (RFC 9000, section 4.1), so within `T` from the brake on at
//! most
//!
//! ```text
//!   max(6 MiB, grant * T + one second of the grant + 20 ms of it + one piece)
//! ```
//!
//! of its parcels arrive. An edge that keeps to its grant is not slowed by this: it is read as fast as it sends.

use shaping::{BitsPerSec, Bucket, Class, GATEWAY_WINDOW, NEWCOMER_WINDOW, Readiness};
use std::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The least window while braked, bytes: what quinn needs to go on at all, and a second of 512 kbit/s.
const LEAST_WINDOW: u64 = 64 << 10;
/// Nobody's control reserve: only parcels pass here.
const NO_RESERVE: BitsPerSec = BitsPerSec::LEAST;

/// How one site's parcels are read, over all its connections. It outlives sessions, so that dialling again changes nothing.
#[derive(Debug)]
pub(crate) struct Brake {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// What may be read now; None: it is not braked.
    bucket: Option<Bucket>,
    rate: Option<BitsPerSec>,
    /// Bytes of parcels that were read.
    read: u64,
    /// What came over data connections that have ended, IP payload.
    before: u64,
    credit: Credit,
}

/// What quinn does with the window of the data connection: a smaller one is reached by reading without raising the limit.
#[derive(Debug, Clone, Copy)]
struct Credit {
    window: u64,
    /// Bytes that will be read without the limit being raised: what the edge was promised above the window.
    debt: u64,
}

impl Default for Brake {
    fn default() -> Brake {
        let state = State { bucket: None, rate: None, read: 0, before: 0, credit: Credit::new() };
        Brake { state: Mutex::new(state), changed: Notify::new() }
    }
}

impl Brake {
    /// Brakes to this rate, changes it, or lets go; the window that the data connection is to have from now on, if it changes.
    #[must_use = "the window has to be set, too"]
    pub(crate) fn set(&self, rate: Option<BitsPerSec>) -> Option<u32> {
        let (mut state, now) = (self.lock(), Instant::now().into_std());
        if state.rate != rate {
            state.rate = rate;
            match (&mut state.bucket, rate) {
                (Some(bucket), Some(rate)) => bucket.set_rate(now, rate.into()),
                (bucket, rate) => *bucket = rate.map(|rate| Bucket::new(rate.into(), NO_RESERVE, now)),
            }
            self.changed.notify_waiters();
        }
        let target = window(rate);
        state.credit.change(target)
    }

    /// A new data connection; the window that it is to have.
    #[must_use = "the window has to be set, too"]
    pub(crate) fn connected(&self) -> Option<u32> {
        let mut state = self.lock();
        state.credit = Credit::new();
        let target = window(state.rate);
        state.credit.change(target)
    }

    /// A data connection has ended over which so many bytes came.
    pub(crate) fn ended(&self, bytes: u64) {
        self.lock().before += bytes;
    }

    /// What came over connections that have ended, bytes.
    pub(crate) fn before(&self) -> u64 {
        self.lock().before
    }

    /// Bytes of parcels that were read.
    pub(crate) fn read(&self) -> u64 {
        self.lock().read
    }

    /// Waits until something may be read. Cancel-safe.
    pub(crate) async fn pass(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let readiness = match &mut self.lock().bucket {
                Some(bucket) => bucket.readiness(Instant::now().into_std(), Class::Data),
                None => Readiness::Now,
            };
            match readiness {
                Readiness::Now => return,
                Readiness::At(at) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    () = changed => {}
                },
                Readiness::Never => changed.await,
            }
        }
    }

    /// So many bytes were read.
    pub(crate) fn paid(&self, bytes: u64) {
        let (mut state, now) = (self.lock(), Instant::now().into_std());
        state.read += bytes;
        state.credit.debt = state.credit.debt.saturating_sub(bytes);
        if let Some(bucket) = &mut state.bucket {
            bucket.owe(now, bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds a brake")
    }
}

impl Credit {
    fn new() -> Credit {
        Credit { window: NEWCOMER_WINDOW.into(), debt: 0 }
    }

    /// A larger window is only given when nothing is promised above the old one: else what an edge may have under way would grow with each time
    /// that it is braked and let go.
    fn change(&mut self, target: u32) -> Option<u32> {
        let to = u64::from(target);
        if to == self.window || (to > self.window && self.debt > 0) {
            return None;
        }
        self.debt += self.window.saturating_sub(to);
        self.window = to;
        Some(target)
    }
}

/// One second of the rate, within bounds; what an edge has that is not braked.
fn window(rate: Option<BitsPerSec>) -> u32 {
    let bytes = rate.map_or(u64::from(GATEWAY_WINDOW), |rate| rate.bytes().max(LEAST_WINDOW));
    u32::try_from(bytes).unwrap_or(u32::MAX).min(GATEWAY_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MBIT: BitsPerSec = BitsPerSec::kbit(1_000);

    #[test]
    fn what_may_be_under_way_never_grows_however_often_an_edge_is_braked() {
        let brake = Brake::default();
        assert_eq!(brake.connected(), Some(GATEWAY_WINDOW));
        for _ in 0..10 {
            let braked = brake.set(Some(MBIT));
            assert!(braked.is_none_or(|window| window == 125_000));
            brake.paid(50_000);
            let free = brake.set(None);
            assert_eq!(free, None, "what was promised has not been read");
            let Credit { window, debt } = brake.lock().credit;
            assert!(window + debt <= u64::from(GATEWAY_WINDOW), "{window} + {debt}");
        }
        brake.paid(GATEWAY_WINDOW.into());
        assert_eq!(brake.set(None), Some(GATEWAY_WINDOW));
        assert_eq!(brake.set(None), None);
    }

    #[test]
    fn who_dials_again_is_still_braked() {
        let brake = Brake::default();
        let _ = (brake.connected(), brake.set(Some(MBIT)));
        assert_eq!(brake.connected(), Some(125_000));
        assert_eq!(window(Some(BitsPerSec::kbit(64))), 64 << 10);
        assert_eq!(window(Some(BitsPerSec::kbit(1_000_000))), GATEWAY_WINDOW);
    }

    #[tokio::test]
    async fn a_braked_reader_waits_and_is_let_go_at_once() {
        let brake = std::sync::Arc::new(Brake::default());
        let _ = brake.set(Some(MBIT));
        brake.pass().await;
        brake.paid(10_000_000); // more than a minute
        let waiting = tokio::spawn({
            let brake = brake.clone();
            async move { brake.pass().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let _ = brake.set(None);
        tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await.unwrap().unwrap();
        assert_eq!(brake.read(), 10_000_000);
    }
}
