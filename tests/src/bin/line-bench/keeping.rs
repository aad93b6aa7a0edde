//! Does replication keep to its rate, use it, and stop when it must? Packets are captured at the branch's device with kernel timestamps.

use crate::ends::{Replication, on_line, since_1970};
use crate::{COURTESY, Row, line, quantile, random};
use anyhow::Result;
use lab::line::{At, Capture, Captured, LinkSpec, Loss, Span, excess_over, rate_between};
use shaping::{BitsPerSec, Depth, MeterReading, Rate};
use std::time::{Duration, Instant};

/// The largest packet here, in IP bytes: the "one datagram" of the promise.
const DATAGRAM: u64 = 1_500;
/// The rate of the promises on a 2 Mbit/s line.
const RATE: BitsPerSec = BitsPerSec::kbit(1_600);
/// DSCP of data (RFC 8622).
const LOWER_EFFORT: u8 = 1;
/// Rates of the run with changes, a second each.
const CHANGES: [u64; 5] = [1_600, 400, 1_900, 100, 1_000];

pub(crate) fn rows(quick: bool) -> Result<Vec<Row>> {
    let seconds = |full: u64, short: u64| Duration::from_secs(if quick { short } else { full });
    let mut rows = conformance(seconds(20, 6))?;
    rows.extend(used(seconds(60, 6))?);
    rows.extend(used_with_courtesy(seconds(60, 8))?);
    rows.extend(ends_and_changes(if quick { 2 } else { 10 })?);
    Ok(rows)
}

/// The gateway's direction.
pub(crate) fn down(quick: bool) -> Result<Vec<Row>> {
    let seconds = |full: u64, short: u64| Duration::from_secs(if quick { short } else { full });
    let mut rows = conformance_down(seconds(20, 6))?;
    rows.extend(used_down(seconds(60, 6))?);
    rows.extend(marked(seconds(10, 3))?);
    Ok(rows)
}

/// One run's packets and the rates that were in force, each from its moment on.
struct Trace {
    packets: Vec<(u64, u64)>,
    rates: Vec<(u64, f64)>,
    deepest: BitsPerSec,
    unmetered: u64,
}

impl Trace {
    /// The most that any interval had above rate x T, as a share of what it may.
    fn worst(&self) -> f64 {
        let allowed = (Depth::at(self.deepest).bytes() + DATAGRAM) as f64;
        excess_over(self.packets.iter().copied(), &self.rates) / allowed
    }
}

fn conformance(time: Duration) -> Result<Vec<Row>> {
    let outages = vec![At(4_000_000_000, Span(1_500_000_000)), At(10_000_000_000, Span(3_000_000_000))];
    let runs: [(&str, LinkSpec, u64, Option<Duration>, bool); 5] = [
        ("0.5 % loss", line(random(0.005)), 1_600, None, false),
        ("2 % loss in bursts of 4, 98 % of the line", line(Loss { share: 0.02, burst: 4.0 }), 1_960, None, false),
        ("outages", LinkSpec { outages, ..line(random(0.005)) }, 1_600, None, false),
        ("a new rate each second", line(random(0.005)), 1_600, None, true),
        ("courtesy", line(random(0.005)), 1_600, Some(COURTESY), false),
    ];
    let (mut rows, mut worst, mut unmetered) = (Vec::new(), 0.0f64, 0);
    for (name, link, kbit, courtesy, changing) in runs {
        let trace = trace(link, BitsPerSec::kbit(kbit), courtesy, changing, time)?;
        rows.push(Row::told(
            format!("up, over rate x T with {name}"),
            100.0 * trace.worst(),
            "% of depth + one datagram",
        ));
        (worst, unmetered) = (worst.max(trace.worst()), unmetered + trace.unmetered);
    }
    let what = "up, over rate x T in the worst interval of all runs";
    rows.insert(0, Row::at_most(what, 100.0, 100.0 * worst, "% of depth + one datagram"));
    rows.insert(1, Row::at_most("up, bytes captured but not metered", 0.0, unmetered as f64, "bytes"));
    Ok(rows)
}

fn trace(
    link: LinkSpec,
    rate: BitsPerSec,
    courtesy: Option<Duration>,
    changing: bool,
    time: Duration,
) -> Result<Trace> {
    on_line(link, 1, async |branch| {
        let capture = Capture::start()?;
        let replication = Replication::dial(branch, rate, courtesy).await?;
        replication.send_all_the_time();
        let (mut rates, mut deepest, began) = (vec![(0, rate.bits() as f64)], rate, Instant::now());
        while began.elapsed() < time {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if changing {
                let next = BitsPerSec::kbit(CHANGES[rates.len() % CHANGES.len()]);
                let before = since_1970()?;
                replication.shaper.set_rate(next.into());
                // A higher rate may hold from before the call on, a lower one must from its end on.
                let higher = rates.last().is_none_or(|(_, last)| next.bits() as f64 > *last);
                rates.push((if higher { before } else { since_1970()? }, next.bits() as f64));
                deepest = deepest.max(next);
            }
        }
        let metered = replication.close().await.sent_bytes;
        let packets: Vec<(u64, u64)> = capture.finish().iter().map(|packet| (packet.at, packet.bytes)).collect();
        let captured: u64 = packets.iter().map(|(_, bytes)| bytes).sum();
        Ok(Trace { packets, rates, deepest, unmetered: captured.abs_diff(metered) })
    })
}

/// The same of the gateway's direction: its packets as they leave the centre's device.
fn conformance_down(time: Duration) -> Result<Vec<Row>> {
    let outages = vec![At(4_000_000_000, Span(1_500_000_000)), At(10_000_000_000, Span(3_000_000_000))];
    let runs: [(&str, LinkSpec, u64, bool); 4] = [
        ("0.5 % loss", line(random(0.005)), 1_600, false),
        ("2 % loss in bursts of 4, 98 % of the line", line(Loss { share: 0.02, burst: 4.0 }), 1_960, false),
        ("outages", LinkSpec { outages, ..line(random(0.005)) }, 1_600, false),
        ("a new rate each second", line(random(0.005)), 1_600, true),
    ];
    let (mut rows, mut worst, mut unmetered) = (Vec::new(), 0.0f64, 0);
    for (name, link, kbit, changing) in runs {
        let trace = trace_down(link, BitsPerSec::kbit(kbit), changing, time)?;
        let what = format!("down, over rate x T with {name}");
        rows.push(Row::told(what, 100.0 * trace.worst(), "% of depth + one datagram"));
        (worst, unmetered) = (worst.max(trace.worst()), unmetered + trace.unmetered);
    }
    let what = "down, over rate x T in the worst interval of all runs";
    rows.insert(0, Row::at_most(what, 100.0, 100.0 * worst, "% of depth + one datagram"));
    rows.insert(1, Row::at_most("down, bytes captured but not metered", 0.0, unmetered as f64, "bytes"));
    Ok(rows)
}

fn trace_down(link: LinkSpec, rate: BitsPerSec, changing: bool, time: Duration) -> Result<Trace> {
    on_line(link, 1, async |branch| {
        let capture = branch.lab.in_centre(Capture::start)??;
        branch.down.set_rate(rate.into());
        let replication = Replication::dial(branch, RATE, None).await?;
        replication.receive_all_the_time().await?;
        let (mut rates, mut deepest, began) = (vec![(0, rate.bits() as f64)], rate, Instant::now());
        while began.elapsed() < time {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if changing {
                let next = BitsPerSec::kbit(CHANGES[rates.len() % CHANGES.len()]);
                let before = since_1970()?;
                branch.down.set_rate(next.into());
                let higher = rates.last().is_none_or(|(_, last)| next.bits() as f64 > *last);
                rates.push((if higher { before } else { since_1970()? }, next.bits() as f64));
                deepest = deepest.max(next);
            }
        }
        replication.close().await;
        // Nothing leaves from here on that the capture would not see.
        branch.down.set_silent(true);
        let metered = branch.gateway.meter().sent_bytes;
        let packets: Vec<(u64, u64)> = capture.finish().iter().map(|packet| (packet.at, packet.bytes)).collect();
        let captured: u64 = packets.iter().map(|(_, bytes)| bytes).sum();
        Ok(Trace { packets, rates, deepest, unmetered: captured.abs_diff(metered) })
    })
}

/// Use of the rate down with a backlog.
fn used_down(time: Duration) -> Result<Vec<Row>> {
    on_line(line(random(0.005)), 2, async |branch| {
        let capture = branch.lab.in_centre(Capture::start)??;
        branch.down.set_rate(RATE.into());
        let replication = Replication::dial(branch, RATE, None).await?;
        replication.receive_all_the_time().await?;
        let from = since_1970()?;
        tokio::time::sleep(time).await;
        let until = since_1970()?;
        replication.close().await;
        let packets: Vec<(u64, u64)> = capture.finish().iter().map(|packet| (packet.at, packet.bytes)).collect();
        Ok(vec![Row::at_least("use of 1.6 Mbit/s down at 0.5 % loss", 98.0, share(&packets, from, until), "%")])
    })
}

/// How the packets of both directions are marked, with a backlog each way.
fn marked(time: Duration) -> Result<Vec<Row>> {
    on_line(line(random(0.005)), 2, async |branch| {
        let up = Capture::start()?;
        let down = branch.lab.in_centre(Capture::start)??;
        branch.down.set_rate(RATE.into());
        let replication = Replication::dial(branch, RATE, None).await?;
        replication.receive_all_the_time().await?;
        replication.send_all_the_time();
        let port = replication.socket.local_addr()?.port();
        let from = since_1970()?;
        tokio::time::sleep(time).await;
        let until = since_1970()?;
        replication.close().await;
        let (up, down) = (up.finish(), down.finish());
        // Until it is known whose a connection is, the gateway marks nothing.
        let known = |packet: &&Captured| (from..until).contains(&packet.at);
        let wrong = |is_data: bool, packet: &Captured| packet.dscp != if is_data { LOWER_EFFORT } else { 0 };
        let wrong_up = up.iter().filter(|packet| wrong(packet.port == port, packet)).count();
        let wrong_down = down.iter().filter(known).filter(|packet| wrong(packet.to == port, packet)).count();
        let control = down.iter().filter(known).filter(|packet| packet.to != port).count();
        Ok(vec![
            Row::at_most("up, data not marked LE or control not CS0", 0.0, wrong_up as f64, "packets"),
            Row::at_most("down, data not marked LE or control not CS0", 0.0, wrong_down as f64, "packets"),
            Row::told("packets that were looked at", (up.len() + down.iter().filter(known).count()) as f64, "packets"),
            Row::at_least("down, of them control", 1.0, control as f64, "packets"),
        ])
    })
}

/// Use of the rate with a backlog, and what a datagram costs.
fn used(time: Duration) -> Result<Vec<Row>> {
    on_line(line(random(0.005)), 2, async |branch| {
        let capture = Capture::start()?;
        let replication = Replication::dial(branch, RATE, None).await?;
        let (before, from) = (replication.meter(), since_1970()?);
        let (goodput, until) = replication.send_for(time).await?;
        let (sent, stats) = (since(replication.meter(), before), replication.data.stats().path);
        let times = replication.message_times();
        replication.close().await;
        let packets: Vec<(u64, u64)> = capture.finish().iter().map(|packet| (packet.at, packet.bytes)).collect();
        let per = |bytes: u64, count: u64| bytes as f64 / count.max(1) as f64;
        Ok(vec![
            Row::at_least("use of 1.6 Mbit/s at 0.5 % loss", 98.0, share(&packets, from, until), "%"),
            Row::told("payload, of the IP bytes of data", 100.0 * per(goodput, sent.sent_bytes), "%"),
            Row::told(
                format!("bytes beside the payload of a datagram of {}", stats.current_mtu),
                per(sent.sent_bytes.saturating_sub(goodput), sent.sent_datagrams),
                "bytes, repairs included",
            ),
            Row::told("acknowledgements", received_kbit(sent, from, until), "kbit/s down"),
            Row::told("a message over control: median", quantile(times.clone(), 0.5), "ms"),
            Row::told("a message over control: 99 of 100", quantile(times, 0.99), "ms"),
        ])
    })
}

/// The same with courtesy on an idle line, and how soon it has the whole rate.
fn used_with_courtesy(time: Duration) -> Result<Vec<Row>> {
    on_line(line(random(0.005)), 2, async |branch| {
        let capture = Capture::start()?;
        let replication = Replication::dial(branch, RATE, Some(COURTESY)).await?;
        replication.send_all_the_time();
        let began = Instant::now();
        while replication.shaper.courtesy().is_some() && began.elapsed() < time {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let ramp = began.elapsed().as_secs_f64();
        let (before, from) = (replication.meter(), since_1970()?);
        tokio::time::sleep(time).await;
        let (sent, until) = (since(replication.meter(), before), since_1970()?);
        replication.close().await;
        let packets: Vec<(u64, u64)> = capture.finish().iter().map(|packet| (packet.at, packet.bytes)).collect();
        Ok(vec![
            Row::at_least("use of 1.6 Mbit/s with courtesy, 0.5 % loss", 95.0, share(&packets, from, until), "%"),
            Row::at_most("courtesy leaves all of an idle line after", 6.0, ramp, "s"),
            Row::told("acknowledgements with courtesy", received_kbit(sent, from, until), "kbit/s down"),
        ])
    })
}

/// Per cent of the rate that the packets between two moments made use of.
fn share(packets: &[(u64, u64)], from: u64, until: u64) -> f64 {
    100.0 * rate_between(packets, from, until) / RATE.bits() as f64
}

fn received_kbit(counted: MeterReading, from: u64, until: u64) -> f64 {
    counted.received_bytes as f64 * 8e6 / (until - from).max(1) as f64
}

/// What leaves after the rate was closed, and how soon a new rate is felt.
fn ends_and_changes(times: usize) -> Result<Vec<Row>> {
    on_line(line(random(0.005)), 3, async |branch| {
        let capture = Capture::start()?;
        let replication = Replication::dial(branch, RATE, None).await?;
        replication.send_all_the_time();
        let port = replication.socket.local_addr()?.port();
        let (slow, mut closed, mut raised, mut lowered) = (BitsPerSec::kbit(100), Vec::new(), Vec::new(), Vec::new());
        for turn in 0..times {
            // Not in step with the datagrams.
            tokio::time::sleep(Duration::from_millis(1_500 + 37 * turn as u64)).await;
            lowered.push(change(&replication, slow.into())?);
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            raised.push(change(&replication, RATE.into())?);
            tokio::time::sleep(Duration::from_millis(700)).await;
            closed.push(change(&replication, Rate::Closed)?);
            tokio::time::sleep(Duration::from_millis(700)).await;
            change(&replication, RATE.into())?;
        }
        replication.close().await;
        let packets = capture.finish();
        let data = |from: u64, to: u64| packets.iter().filter(move |p| p.port == port && (from..to).contains(&p.at));
        let after = |(at, _): &(u64, u64), ms: u64| (*at, at + ms * 1_000_000);
        let late = closed.iter().map(|(_, end)| data(*end, end + 600_000_000).count()).max().unwrap_or_default();
        let first = raised.iter().map(|raise| {
            let (from, to) = after(raise, 600);
            data(from, to).next().map_or(600.0, |packet| (packet.at - from) as f64 * 1e-6)
        });
        let felt = first
            .fold(0.0, f64::max)
            .max(lowered.iter().map(|lower| still_fast(&packets, *lower, slow)).fold(0.0, f64::max));
        Ok(vec![
            Row::at_most("data after the window's end, the most of all times", 1.0, late as f64, "datagrams"),
            Row::at_most("a new rate is felt after, the longest of all times", 50.0, felt, "ms"),
        ])
    })
}

/// Sets the rate: when that began and when it had been done.
fn change(replication: &Replication, rate: Rate) -> Result<(u64, u64)> {
    let before = since_1970()?;
    replication.shaper.set_rate(rate);
    Ok((before, since_1970()?))
}

/// For how long after a lowering more left than the lower rate, its depth and one datagram allow; ms.
fn still_fast(packets: &[Captured], (_, done): (u64, u64), rate: BitsPerSec) -> f64 {
    let allowed = (Depth::at(rate).bytes() + DATAGRAM) as f64;
    let (mut sum, mut last) = (0.0, 0.0);
    for packet in packets.iter().filter(|packet| (done..done + 1_000_000_000).contains(&packet.at)) {
        sum += packet.bytes as f64;
        let elapsed = (packet.at - done) as f64 * 1e-9;
        if sum > allowed + elapsed * rate.bytes() as f64 {
            last = elapsed * 1e3;
        }
    }
    last
}

/// What was counted between two readings.
fn since(now: MeterReading, before: MeterReading) -> MeterReading {
    MeterReading {
        sent_bytes: now.sent_bytes - before.sent_bytes,
        sent_datagrams: now.sent_datagrams - before.sent_datagrams,
        received_bytes: now.received_bytes - before.received_bytes,
        received_datagrams: now.received_datagrams - before.received_datagrams,
    }
}
