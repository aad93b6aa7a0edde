//! `sluice-edge line-test` over an emulated line: what it finds is what the line is.

use super::branch::{Branch, Setup};
use anyhow::{Context, Result, ensure};
use lab::line::{LinkSpec, Loss, Rate, Span};
use lab::world::EdgeOptions;
use serde_json::Value;

/// 2 Mbit/s, 40 ms each way, 200 ms of queue.
const LINE: f64 = 2e6;
const ROUND_TRIP_MS: f64 = 80.0;

fn branch(allowed: &str, loss: f64) -> Result<Branch> {
    let link = LinkSpec {
        rate: Rate(LINE),
        delay: Span(40_000_000),
        queue: Span(200_000_000),
        loss: Loss { share: loss, burst: 1.0 },
        ..LinkSpec::default()
    };
    let edge = EdgeOptions { rate: allowed.into(), ..Setup::default().edge };
    Branch::with(Setup { link, edge, size: 8 << 20, ..Setup::default() })
}

fn tested(branch: &mut Branch) -> Result<Value> {
    branch.edge.daemon()?.wait_until("a session", super::branch::RECOVERY, |edge| {
        Ok(edge.metrics()?.value("sluice_link_connected", &[]).filter(|connected| *connected == 1.0))
    })?;
    Ok(serde_json::from_str(&branch.edge.run("line-test", &["--json"])?)?)
}

fn number(tested: &Value, field: &str) -> Result<f64> {
    tested[field].as_f64().with_context(|| format!("`{field}` of {tested}"))
}

#[test]
fn a_line_that_may_be_filled_is_found_as_it_is() -> Result<()> {
    let mut branch = branch("3 Mbit/s", 0.02)?;
    let tested = tested(&mut branch)?;
    eprintln!("{tested}");
    let rate = number(&tested, "bits")?;
    ensure!((rate / LINE - 1.0).abs() <= 0.1 && tested["at_least"] == false, "{tested}");
    let least = tested["round_trip_ms"][0].as_f64().context("round trips")?;
    ensure!((least - ROUND_TRIP_MS).abs() <= 8.0, "{tested}");
    // What the full queue drops is lost too, so there is no upper bound here.
    ensure!(number(&tested, "loss_percent")? >= 1.0, "{tested}");
    ensure!(number(&tested, "queue_ms")? > 10.0, "a line that was filled has a queue: {tested}");
    Ok(())
}

#[test]
fn an_allowance_below_the_line_is_kept_and_named() -> Result<()> {
    let mut branch = branch("1.6 Mbit/s", 0.02)?;
    let (before, tested) = (branch.line.carried_up(), tested(&mut branch)?);
    eprintln!("{tested}");
    let rate = number(&tested, "bits")?;
    ensure!(tested["at_least"] == true && (1.5e6..=1.65e6).contains(&rate), "{tested}");
    ensure!((0.8..=5.0).contains(&number(&tested, "loss_percent")?), "2 % are lost: {tested}");
    let (said, carried) = (number(&tested, "sent_bytes")?, (branch.line.carried_up() - before) as f64);
    ensure!(said <= carried * 1.1 && carried <= 1.6e6 / 8.0 * 20.0, "{carried} bytes crossed, {said} were said");
    branch.edge.run("pause", &["--for", "10m", "--reason", "call"])?;
    let refused = branch.edge.run("line-test", &[]).err().context("a closed line is not tested")?.to_string();
    ensure!(refused.contains("paused") && refused.contains("sluice-edge boost"), "{refused}");
    Ok(())
}
