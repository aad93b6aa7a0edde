//! What the branch's own traffic loses beside replication with courtesy, in turns with the same traffic alone on the same line, and what
//! replication gets of the rest.

use crate::ends::{Branch, Replication, on_line};
use crate::{COURTESY, LINE, Row, foreground, line, quantile, random};
use anyhow::Result;
use lab::line::{Fate, Lab};
use shaping::BitsPerSec;
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

/// Transactions beside replication at a cap of `kbit`; `most` is what their median and their 99th of 100 may lose, in per cent.
pub(crate) fn transactions(quick: bool, kbit: u64, most: (f64, f64)) -> Result<Vec<Row>> {
    let (count, time) = turns(quick);
    on_line(line(random(LOSS)), kbit, async |branch| {
        let (mut alone, mut beside, mut got, mut free) = (Vec::new(), Vec::new(), 0.0, 0.0);
        for _ in 0..count {
            alone.extend(foreground::transactions(time).await?);
            let replication = start(branch, kbit).await?;
            let (ours, all, began) = (replication.meter().sent_bytes, carried(branch.lab), Instant::now());
            beside.extend(foreground::transactions(time).await?);
            let ours = (replication.meter().sent_bytes - ours) as f64 * 8.0;
            let theirs = (carried(branch.lab) - all) as f64 * 8.0 - ours;
            (got, free) = (got + ours, free + LINE * began.elapsed().as_secs_f64() - theirs);
            stop(replication).await;
        }
        let (p50, p99) =
            (|values: &[f64]| quantile(values.to_vec(), 0.5), |values: &[f64]| quantile(values.to_vec(), 0.99));
        let more = |of: fn(&[f64]) -> f64| 100.0 * (of(&beside) / of(&alone) - 1.0);
        let cap = BitsPerSec::kbit(kbit);
        Ok(vec![
            Row::at_most(format!("transactions at a cap of {cap}: median longer"), most.0, more(p50), "%"),
            Row::at_most(format!("transactions at a cap of {cap}: 99 of 100 longer"), most.1, more(p99), "%"),
            Row::at_least(
                format!("replication at a cap of {cap} beside them"),
                60.0,
                100.0 * got / free,
                "% of what they leave",
            ),
            Row::told(
                format!("the same at a cap of {cap}"),
                got * 1e-6 / (time.as_secs_f64() * count as f64),
                "Mbit/s",
            ),
            Row::told(format!("transactions alone (before {cap}): median"), p50(&alone), "ms"),
            Row::told(format!("transactions alone (before {cap}): 99 of 100"), p99(&alone), "ms"),
            Row::told(format!("transactions at a cap of {cap}: median"), p50(&beside), "ms"),
            Row::told(format!("transactions at a cap of {cap}: 99 of 100"), p99(&beside), "ms"),
            Row::told(format!("transactions alone (before {cap}): how many"), alone.len() as f64, "times"),
        ])
    })
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
