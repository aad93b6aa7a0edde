//! `line-test`: what the line towards the gateway carries, its round trips and losses, and a cap to begin with.
//!
//! ```text
//!   pings ──► padding, as fast as the shaper lets it ──► the gateway says how much came in each 50 ms ──► estimate
//! ```
//!
//! It runs over the session's data connection, ahead of parcels, inside of the rate, the windows, the quotas and courtesy; so where less is allowed than the line
//! carries, what is found is a lower bound, and says so.

use crate::link::{Link, Session};
use crate::text;
use serde::{Deserialize, Serialize};
use shaping::{BitsPerSec, Rate, header_bytes};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, interval, timeout};
use wire::message::{DataReply, DataRequest, MAX_TEST, Refusal, SLOT_MILLIS};
use wire::stream::{self, FrameReader, FrameWriter, StreamError};

/// Questions whose answers are timed before the padding.
const PINGS: usize = 20;
/// Between two of them; all of them take 2 s.
const PING_EVERY: Duration = Duration::from_millis(100);
/// Seconds of padding at the allowed rate: courtesy needs 4 s to come up to its rate.
const PADDING_SECONDS: u64 = 8;
/// The padding ends after this, whatever is left of it.
const LONGEST: Duration = Duration::from_secs(11);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Slots whose sum is one measurement: half a second, so that one packet more or less is 1 % at 2 Mbit/s.
const WINDOW: usize = 10;
/// The share of these sums below which the line's rate lies: courtesy lets the line be full for a part of the time only.
const QUANTILE: f64 = 0.9;
/// From this share of the allowance on, it is the allowance that was measured and not the line.
const LIMITED: f64 = 0.93;
/// A queue shorter than this is jitter.
const LEAST_QUEUE_MS: f64 = 10.0;
/// Ahead of parcels, which have 0 and less.
const PRIORITY: i32 = 10;

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineTested {
    /// IP-level bits per second towards the gateway.
    pub bits: u64,
    /// Whether the line may carry more: no more was allowed, or could be tried.
    pub at_least: bool,
    /// What was allowed.
    pub allowed: String,
    /// Round trips, ms: least, median, 99 of 100.
    pub round_trip_ms: [f64; 3],
    /// Packets lost of those sent, per cent.
    pub loss_percent: f64,
    /// The longest queue that was felt, ms; none: below 10 ms.
    pub queue_ms: Option<f64>,
    /// IP-level bytes that the test sent.
    pub sent_bytes: u64,
}

/// Why the line could not be tested.
#[derive(Debug, thiserror::Error)]
pub enum LineTestError {
    /// There is no session.
    #[error("there is no session with a gateway; `sluice-edge status` says why")]
    NoSession,
    /// Nothing may be sent.
    #[error(
        "the line is {0}; test it when it is open, or open it for a minute: `sluice-edge boost RATE --for 2m --reason line-test`"
    )]
    Closed(String),
    /// An old gateway.
    #[error("the gateway knows no line tests: upgrade it, then ask again")]
    Unknown,
    /// It said no.
    #[error("the gateway refused the test: {0}")]
    Refused(Refusal),
    /// The session failed.
    #[error("the test broke off: {0}")]
    Stream(StreamError),
    /// Nothing came back.
    #[error("the gateway did not answer within {} s; try again when the line is calmer", ANSWER.as_secs())]
    Silent,
    /// Too little came to be measured.
    #[error("too little arrived to tell the line's rate: the allowance ({0}) ended, or the line is cut; try again")]
    Little(String),
    /// Nobody wants the answer any more.
    #[error("cancelled")]
    Cancelled,
}

impl From<StreamError> for LineTestError {
    fn from(error: StreamError) -> Self {
        match error {
            // A gateway that does not know the message gives the stream up.
            StreamError::Stopped(_) | StreamError::Finished => LineTestError::Unknown,
            other => LineTestError::Stream(other),
        }
    }
}

/// Tests the line. `show` is told what is going on. Dropping it ends the padding.
pub async fn run(link: &Link, show: impl Fn(String)) -> Result<LineTested, LineTestError> {
    let session: Arc<Session> = link.sessions().borrow().clone().ok_or(LineTestError::NoSession)?;
    let allowed = link.shaper().rate();
    let connection = match session.data() {
        Some(connection) if allowed.is_open() => connection,
        _ => return Err(LineTestError::Closed(link.line().standing().sentence)),
    };
    if !session.asks() {
        return Err(LineTestError::Unknown);
    }
    let len = padding(allowed);
    let (_, within) = cost(allowed.limit().map(|limit| limit.bits()));
    show(format!("sends up to {} within {} s", text::bytes(len), within.as_secs()));
    let mut round_trips = Vec::new();
    let mut tick = interval(PING_EVERY);
    for _ in 0..PINGS {
        tick.tick().await;
        let asked = Instant::now();
        timeout(ANSWER, ask(connection, 0)).await.map_err(|_| LineTestError::Silent)??.answer().await?;
        round_trips.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    round_trips.sort_by(f64::total_cmp);
    let before = connection.stats();
    let mut asked = ask(connection, len).await?;
    let (longest, arrived) = pad(connection, &mut asked, len, &show).await?;
    let after = connection.stats();
    let datagrams = after.udp_tx.datagrams - before.udp_tx.datagrams;
    let lost = after.path.lost_packets - before.path.lost_packets;
    let packets = (after.path.sent_packets - before.path.sent_packets).max(1);
    let sent = after.udp_tx.bytes - before.udp_tx.bytes + datagrams * header_bytes(connection.remote_address());
    let carried = sent.saturating_sub(after.path.lost_bytes - before.path.lost_bytes);
    let payload: u64 = arrived.iter().map(|bytes| u64::from(*bytes)).sum();
    let rate = rate_of(&arrived).ok_or_else(|| LineTestError::Little(allowed.to_string()))?;
    let bits = (rate * carried as f64 / payload.max(1) as f64) as u64;
    let queue = longest - round_trips[0];
    Ok(LineTested {
        bits,
        at_least: is_limited(bits, allowed),
        allowed: allowed.to_string(),
        round_trip_ms: [round_trips[0], round_trips[PINGS / 2], round_trips[PINGS - 1]],
        loss_percent: 100.0 * lost as f64 / packets as f64,
        queue_ms: (queue > LEAST_QUEUE_MS).then_some(queue),
        sent_bytes: sent,
    })
}

/// What a test costs at most: bytes, and how long it takes. `bits` is what is allowed now; none: no limit.
pub fn cost(bits: Option<u64>) -> (u64, Duration) {
    let allowed =
        bits.map_or(Rate::Unlimited, |bits| if bits == 0 { Rate::Closed } else { BitsPerSec::new(bits).into() });
    (padding(allowed), PING_EVERY * PINGS as u32 + LONGEST + Duration::from_secs(1))
}

/// How much is sent: some seconds of what is allowed.
fn padding(allowed: Rate) -> u64 {
    allowed.limit().map_or(MAX_TEST, |limit| (limit.bytes() * PADDING_SECONDS).min(MAX_TEST))
}

/// Bits per second of payload; `None` of too little.
fn rate_of(arrived: &[u32]) -> Option<f64> {
    // The last slot is cut short.
    let whole = &arrived[..arrived.len().saturating_sub(1)];
    let mut sums: Vec<u64> =
        whole.windows(WINDOW).map(|slots| slots.iter().map(|bytes| u64::from(*bytes)).sum()).collect();
    sums.sort_unstable();
    let at = (sums.len().checked_sub(1)? as f64 * QUANTILE).round() as usize;
    Some(sums[at] as f64 * 8.0 / (WINDOW as f64 * SLOT_MILLIS as f64 / 1e3)).filter(|rate| *rate > 0.0)
}

/// Whether the allowance was reached: then the line may carry more. Without one 16 MiB may have been too little to fill it, which the round trips cannot tell.
fn is_limited(bits: u64, allowed: Rate) -> bool {
    allowed.limit().is_some_and(|limit| bits as f64 >= limit.bits() as f64 * LIMITED)
}

/// A question on its own stream, given up when it is dropped.
struct Asked {
    writer: FrameWriter,
    reader: FrameReader,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ended = self.writer.stream().reset(0u32.into());
    }
}

impl Asked {
    async fn answer(&mut self) -> Result<Vec<u32>, LineTestError> {
        match timeout(ANSWER, self.reader.expect()).await.map_err(|_| LineTestError::Silent)?? {
            DataReply::Tested { arrived } => Ok(arrived),
            DataReply::Refused(why) => Err(LineTestError::Refused(why)),
            _ => Err(LineTestError::Unknown),
        }
    }
}

async fn ask(connection: &quinn::Connection, len: u64) -> Result<Asked, LineTestError> {
    let (writer, reader) = stream::open_next(connection).await?;
    let mut asked = Asked { writer, reader };
    let _closed = asked.writer.stream().set_priority(PRIORITY);
    asked.writer.send(&DataRequest::Test { len }).await?;
    Ok(asked)
}

/// Sends padding until it is all there or the time is over; the longest round trip meanwhile in ms, and what arrived.
async fn pad(
    connection: &quinn::Connection,
    asked: &mut Asked,
    len: u64,
    show: &impl Fn(String),
) -> Result<(f64, Vec<u32>), LineTestError> {
    const BLOCK: usize = 16 << 10;
    // Zeros are as good as anything: the connection is encrypted and nothing compresses it.
    let (block, began, mut longest) = ([0; BLOCK], Instant::now(), 0.0f64);
    let mut tick = interval(Duration::from_millis(SLOT_MILLIS));
    let mut ticks = 0u64;
    let arrived = {
        let Asked { writer, reader } = asked;
        let writing = async {
            let mut left = len;
            while left > 0 {
                let part = left.min(BLOCK as u64);
                writer.raw(&block[..part as usize]).await?;
                left -= part;
            }
            writer.finish();
            std::future::pending::<Result<(), StreamError>>().await
        };
        let reading = reader.expect::<DataReply>();
        tokio::pin!(writing, reading);
        loop {
            tokio::select! {
                reply = &mut reading => break Some(reply?),
                failed = &mut writing => failed?,
                _ = tick.tick() => {
                    longest = longest.max(connection.rtt().as_secs_f64() * 1e3);
                    ticks += 1;
                    if ticks.is_multiple_of(10) {
                        show(format!("padding for {} s", began.elapsed().as_secs()));
                    }
                    if began.elapsed() > LONGEST {
                        break None;
                    }
                }
            }
        }
    };
    match arrived {
        Some(DataReply::Tested { arrived }) => Ok((longest, arrived)),
        Some(DataReply::Refused(why)) => Err(LineTestError::Refused(why)),
        Some(_) => Err(LineTestError::Unknown),
        None => {
            let _ended = asked.writer.stream().reset(0u32.into());
            Ok((longest, asked.answer().await?))
        }
    }
}

impl fmt::Display for LineTested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, [least, median, p99]) = (rounded(self.bits), self.round_trip_ms);
        writeln!(f, "The line carries {}{rate}.", if self.at_least { "at least " } else { "about " })?;
        if self.at_least {
            writeln!(
                f,
                "No more than {} was allowed. To find out more, allow more for a minute or two:\n  sluice-edge boost {:?} --for 2m --reason line-test",
                self.allowed,
                rounded(self.bits * 2).to_string()
            )?;
        }
        writeln!(f, "Round trips: least {least:.0} ms, median {median:.0} ms, 99 of 100 {p99:.0} ms.")?;
        write!(f, "Loss: {:.1} %. ", self.loss_percent)?;
        match self.queue_ms {
            Some(queue) => writeln!(f, "The longest queue felt: {queue:.0} ms.")?,
            None => writeln!(f, "No queue was felt.")?,
        }
        write!(
            f,
            "{} were sent for it. To begin with:\n\n[line]\nup = \"{rate}\"\ncap = \"80 %\"",
            text::bytes(self.sent_bytes)
        )
    }
}

/// To two digits that matter, in kbit/s.
fn rounded(bits: u64) -> BitsPerSec {
    let kbit = (bits / 1000).max(1);
    let unit = 10u64.pow(kbit.ilog10().saturating_sub(1));
    BitsPerSec::kbit((kbit + unit / 2) / unit * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_fullest_tenth_of_half_seconds_without_the_ends() {
        let line = 12_500; // 2 Mbit/s in slots of 50 ms
        let mut arrived = vec![line / 2; 60];
        arrived.extend(vec![line; 60]);
        arrived.push(9 * line); // cut short or late: not counted
        assert_eq!(rate_of(&arrived), Some(2_000_000.0));
        assert_eq!(rate_of(&arrived[..WINDOW]), None);
        assert_eq!(rate_of(&[]), None);
    }

    #[test]
    fn it_says_what_it_found_and_what_to_do() {
        let tested = |bits, at_least| LineTested {
            bits,
            at_least,
            allowed: "1.6 Mbit/s".into(),
            round_trip_ms: [80.2, 81.0, 90.0],
            loss_percent: 0.52,
            queue_ms: None,
            sent_bytes: 1_600_000,
        };
        let said = tested(1_587_000, true).to_string();
        assert!(
            said.starts_with("The line carries at least 1.6 Mbit/s.\nNo more than 1.6 Mbit/s was allowed."),
            "{said}"
        );
        assert!(said.contains("sluice-edge boost \"3.2 Mbit/s\" --for 2m"), "{said}");
        let said = tested(1_987_000, false).to_string();
        assert!(said.ends_with("[line]\nup = \"2 Mbit/s\"\ncap = \"80 %\""), "{said}");
        assert!(said.contains("Loss: 0.5 %. No queue was felt."), "{said}");
        assert!(
            is_limited(1_587_000, "1.6 Mbit/s".parse().unwrap()) && !is_limited(1_987_000, "3 Mbit/s".parse().unwrap())
        );
    }
}
