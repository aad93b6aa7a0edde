//! What the branch's own traffic loses beside replication with courtesy, in turns with the same traffic alone on the same line, and what
//! replication gets of the rest.

use crate::ends::{Branch, Replication, on_line};
use crate::{COURTESY, LINE, Row, foreground, line, quantile, random};
use anyhow::Result;
use lab::line::{Fate, Lab};
use shaping::BitsPerSec;
use shaping::lab::Random;
use std::time::{Duration, Instant};

/// Loss of these lines, both ways: what a good leased line has.
const LOSS: f64 = 0.001;
/// Replication finds its rate before the figures begin.
const LEAD: Duration = Duration::from_secs(5);
/// The line's queue drains between two turns.
const REST: Duration = Duration::from_secs(1);

/// Turns of alone and beside, and how long each is.
fn turns(quick: bool) -> (usize, Duration) {
    if quick { (1, Duration::from_secs(8)) } else { (3, Duration::from_secs(60)) }
}

/// Lines that are measured at the same time: 99 of 100 hangs on the few transactions that lose a packet, so it takes thousands of them.
const LANES: u64 = 3;

/// Turns of alone and beside on each lane, and how long each is: short ones, so that a busy minute of the machine meets both alike.
fn short_turns(quick: bool) -> (usize, Duration) {
    if quick { (1, Duration::from_secs(8)) } else { (14, Duration::from_secs(15)) }
}

/// What one line gave.
#[derive(Default)]
struct Lane {
    alone: Vec<f64>,
    beside: Vec<f64>,
    /// Bits that replication sent, and that it could have beside the transactions.
    got: f64,
    free: f64,
    seconds: f64,
}

/// Transactions beside replication at a cap of `kbit`; `most` is what their median and their 99th of 100 may lose, in per cent.
pub(crate) fn transactions(quick: bool, kbit: u64, most: (f64, f64)) -> Result<Vec<Row>> {
    let lanes: Vec<Lane> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|lane| scope.spawn(move || on_lane(quick, kbit, lane))).collect();
        let joined = lanes.into_iter().map(|lane| lane.join().map_err(|_| anyhow::anyhow!("a lane panicked"))?);
        joined.collect::<Result<_>>()
    })?;
    let all = |of: fn(&Lane) -> &Vec<f64>| -> Vec<f64> { lanes.iter().flat_map(|lane| of(lane).clone()).collect() };
    let sum = |of: fn(&Lane) -> f64| -> f64 { lanes.iter().map(of).sum() };
    let (alone, beside) = (all(|lane| &lane.alone), all(|lane| &lane.beside));
    let more = |share| 100.0 * (quantile(beside.clone(), share) / quantile(alone.clone(), share) - 1.0);
    let (low, high) = interval(&alone, &beside);
    let cap = BitsPerSec::kbit(kbit);
    let (got, free) = (sum(|lane| lane.got), sum(|lane| lane.free));
    Ok(vec![
        Row::at_most(format!("transactions at a cap of {cap}: median longer"), most.0, more(0.5), "%"),
        Row::at_most(format!("transactions at a cap of {cap}: 99 of 100 longer"), most.1, more(0.99), "%"),
        Row::told(format!("the same, between (95 % of resamples, cap of {cap})"), low, "%"),
        Row::told(format!("and (cap of {cap})"), high, "%"),
        Row::at_least(
            format!("replication at a cap of {cap} beside them"),
            60.0,
            100.0 * got / free,
            "% of what they leave",
        ),
        Row::told(format!("the same at a cap of {cap}"), got * 1e-6 / sum(|lane| lane.seconds), "Mbit/s"),
        Row::told(format!("transactions alone (before {cap}): median"), quantile(alone.clone(), 0.5), "ms"),
        Row::told(format!("transactions alone (before {cap}): 99 of 100"), quantile(alone.clone(), 0.99), "ms"),
        Row::told(format!("transactions at a cap of {cap}: median"), quantile(beside.clone(), 0.5), "ms"),
        Row::told(format!("transactions at a cap of {cap}: 99 of 100"), quantile(beside.clone(), 0.99), "ms"),
        Row::told(format!("transactions alone (before {cap}): how many"), alone.len() as f64, "times"),
        Row::told(format!("transactions at a cap of {cap}: how many"), beside.len() as f64, "times"),
    ])
}

fn on_lane(quick: bool, kbit: u64, lane: u64) -> Result<Lane> {
    let (count, time) = short_turns(quick);
    on_line(line(random(LOSS)), kbit * 10 + lane, async |branch| {
        let mut found = Lane::default();
        for _ in 0..count {
            found.alone.extend(foreground::transactions(time).await?);
            let replication = start(branch, kbit).await?;
            let (ours, all, began) = (replication.meter().sent_bytes, carried(branch.lab), Instant::now());
            found.beside.extend(foreground::transactions(time).await?);
            let ours = (replication.meter().sent_bytes - ours) as f64 * 8.0;
            let theirs = (carried(branch.lab) - all) as f64 * 8.0 - ours;
            let seconds = began.elapsed().as_secs_f64();
            found.got += ours;
            found.free += LINE * seconds - theirs;
            found.seconds += seconds;
            stop(replication).await;
        }
        Ok(found)
    })
}

/// Between what the 99th of 100 is longer in 95 of 100 resamples of both (bootstrap), per cent.
fn interval(alone: &[f64], beside: &[f64]) -> (f64, f64) {
    const RESAMPLES: usize = 1_000;
    let mut random = Random(99);
    let mut resample = |of: &[f64]| {
        let drawn = (0..of.len()).map(|_| of[(random.draw() % of.len() as u64) as usize]).collect();
        quantile(drawn, 0.99)
    };
    let ratios: Vec<f64> = (0..RESAMPLES).map(|_| 100.0 * (resample(beside) / resample(alone) - 1.0)).collect();
    (quantile(ratios.clone(), 0.025), quantile(ratios, 0.975))
}

/// A greedy upload beside replication at a cap of `kbit`.
pub(crate) fn upload(quick: bool, kbit: u64) -> Result<Vec<Row>> {
    let (count, time) = turns(quick);
    on_line(line(random(LOSS)), kbit + 1, async |branch| {
        let (mut alone, mut beside, mut got) = (0.0, 0.0, 0.0);
        for _ in 0..count {
            alone += foreground::upload(&branch.centre, LEAD, time).await? / count as f64;
            tokio::time::sleep(REST).await;
            let replication = start(branch, kbit).await?;
            let (ours, began) = (replication.meter().sent_bytes, Instant::now());
            beside += foreground::upload(&branch.centre, LEAD, time).await? / count as f64;
            let ours = (replication.meter().sent_bytes - ours) as f64 * 8.0;
            got += ours / began.elapsed().as_secs_f64() / count as f64;
            stop(replication).await;
        }
        let cap = BitsPerSec::kbit(kbit);
        let replication = start(branch, kbit).await?;
        let (ours, began) = (replication.meter().sent_bytes, Instant::now());
        tokio::time::sleep(time).await;
        let idle = (replication.meter().sent_bytes - ours) as f64 * 8.0 / began.elapsed().as_secs_f64();
        stop(replication).await;
        Ok(vec![
            Row::told(format!("replication at a cap of {cap} on an idle line"), idle * 1e-6, "Mbit/s"),
            Row::at_least(format!("greedy upload beside a cap of {cap} keeps"), 95.0, 100.0 * beside / alone, "%"),
            Row::told(format!("greedy upload alone (before {cap})"), alone * 1e-6, "Mbit/s"),
            Row::told(format!("replication at a cap of {cap} beside it"), got * 1e-6, "Mbit/s"),
        ])
    })
}

/// A voice stream beside replication at 80 % of the line.
pub(crate) fn voice(quick: bool) -> Result<Vec<Row>> {
    // 50 packets a second: a third of the time gives as many figures as are needed.
    let (count, time) = turns(quick);
    let time = if quick { time } else { time / 3 };
    on_line(line(random(LOSS)), 3, async |branch| {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..count {
            alone.extend(foreground::voice(&branch.centre, time).await?);
            let replication = start(branch, 1_600).await?;
            beside.extend(foreground::voice(&branch.centre, time).await?);
            stop(replication).await;
        }
        let p99 = |values: &[f64]| quantile(values.to_vec(), 0.99);
        Ok(vec![
            Row::at_most("voice beside a cap of 80 %: 99 of 100 later by", 10.0, p99(&beside) - p99(&alone), "ms"),
            Row::told("voice alone: 99 of 100", p99(&alone), "ms one way"),
        ])
    })
}

async fn start(branch: &Branch<'_>, kbit: u64) -> Result<Replication> {
    let replication = Replication::dial(branch, BitsPerSec::kbit(kbit), Some(COURTESY)).await?;
    replication.send_all_the_time();
    tokio::time::sleep(LEAD).await;
    Ok(replication)
}

async fn stop(replication: Replication) {
    replication.close().await;
    tokio::time::sleep(REST).await;
}

/// IP bytes that the line has carried up, lost ones included.
fn carried(lab: &Lab) -> u64 {
    let up = lab.stats().0;
    up.of(Fate::Delivered).bytes + up.of(Fate::Lost).bytes
}
