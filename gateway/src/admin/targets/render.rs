//! Targets for people.

use super::{OrderLine, PointLine, RunLine, TargetAnswer, TargetLine};
use crate::text::{bytes, moment, printable, table};

/// What came of a request about targets, as text.
pub fn answer(answer: &TargetAnswer) -> String {
    match answer {
        TargetAnswer::Targets { targets } if targets.is_empty() => {
            "No target is set up; `sluice-gateway target add --help` says how.\n".into()
        }
        TargetAnswer::Targets { targets } => {
            let row = |line: &TargetLine| {
                let limit = line.bytes_per_second.map_or("-".into(), |rate| format!("{}/s", bytes(rate)));
                vec![
                    line.tenant.clone(),
                    line.target.clone(),
                    line.kind.clone(),
                    line.credentials.clone(),
                    limit,
                    line.proof.clone(),
                    line.orders.to_string(),
                ]
            };
            let head = ["tenant", "target", "kind", "credentials", "limit", "proof", "kept at the latest of"];
            table(&head, &targets.iter().map(row).collect::<Vec<_>>())
        }
        TargetAnswer::Tested { target, description } => {
            let mut text = format!("{target}: {}\n", printable(&description.place));
            for check in &description.checks {
                match &check.wrong {
                    None => text += &format!("  ok      {}\n", check.what),
                    Some(wrong) => text += &format!("  WRONG   {}: {}\n", check.what, printable(wrong)),
                }
            }
            text + &description.room.map_or(String::new(), |room| format!("  room    {}\n", bytes(room)))
        }
        TargetAnswer::Points { points } => {
            let row = |line: &PointLine| {
                vec![
                    line.volume.clone(),
                    line.number.to_string(),
                    moment(line.captured),
                    moment(line.made),
                    bytes(line.size),
                    line.point.clone(),
                ]
            };
            let head = ["volume", "generation", "captured", "made there", "size", "point"];
            table(&head, &points.iter().map(row).collect::<Vec<_>>())
        }
        TargetAnswer::Orders { orders } => {
            let number = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
            let row = |line: &OrderLine| {
                vec![
                    line.volume.clone(),
                    line.target.clone(),
                    line.state.clone(),
                    number(line.latest),
                    number(line.holds),
                    line.behind_since.map_or("-".into(), moment),
                    printable(line.trouble.as_deref().unwrap_or_default()),
                ]
            };
            let head = ["volume", "target", "state", "latest", "holds", "not current since", "trouble"];
            table(&head, &orders.iter().map(row).collect::<Vec<_>>())
        }
        TargetAnswer::Runs { runs } => {
            let row = |line: &RunLine| {
                vec![
                    line.run.clone(),
                    line.volume.clone(),
                    line.number.to_string(),
                    line.target.clone(),
                    if line.resting { "rests".to_owned() } else { line.state.clone() },
                    moment(line.begun),
                    line.ended.map_or("-".into(), moment),
                    bytes(line.written),
                    printable(line.held.as_deref().unwrap_or(&line.outcome)),
                ]
            };
            let head = ["run", "volume", "generation", "target", "state", "begun", "ended", "written", "outcome"];
            table(&head, &runs.iter().map(row).collect::<Vec<_>>())
        }
    }
}
