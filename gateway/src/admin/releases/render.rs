//! Answers about releases and roll-outs for people.

use super::{ReleaseAnswer, ReleaseLine, RingLine, RolloutAnswer, RolloutLine, StepLine, VersionLine};
use crate::releases::history::Entry;
use crate::text::{bytes, duration, moment, printable, table};
use std::time::Duration;

/// An answer about releases as text that ends in a line break.
pub(crate) fn release(answer: &ReleaseAnswer) -> String {
    match answer {
        ReleaseAnswer::List { releases } if releases.is_empty() => {
            "There are no releases yet. `sluice-gateway release import FILE` takes one in.\n".into()
        }
        ReleaseAnswer::List { releases } => {
            let row = |line: &ReleaseLine| {
                vec![
                    line.version.clone(),
                    line.role.clone(),
                    line.sequence.to_string(),
                    line.id[..16].to_owned(),
                    bytes(line.bytes),
                    bytes(line.stored),
                    moment(line.imported),
                    line.by.clone(),
                    line.sites.to_string(),
                ]
            };
            table(
                &["version", "for", "sequence", "root", "image", "stored", "imported", "by", "sites"],
                &releases.iter().map(row).collect::<Vec<_>>(),
            )
        }
        ReleaseAnswer::Shown { line, .. } => shown(line),
        ReleaseAnswer::Versions { sites } if sites.is_empty() => {
            "No site has said which system it runs: none is an appliance, or none has connected yet.\n".into()
        }
        ReleaseAnswer::Versions { sites } => {
            let row = |line: &VersionLine| {
                let state = if line.confirmed { "confirmed" } else { "on trial" };
                vec![
                    line.tenant.clone(),
                    line.site.clone(),
                    line.version.clone(),
                    state.into(),
                    line.previous.clone().unwrap_or_else(|| "-".into()),
                    doing(line),
                    moment(line.heard),
                ]
            };
            table(
                &["tenant", "site", "version", "state", "other slot", "doing", "heard"],
                &sites.iter().map(row).collect::<Vec<_>>(),
            )
        }
        ReleaseAnswer::Site { line, history } => {
            let state = if line.confirmed { "confirmed" } else { "on trial" };
            let previous = line.previous.as_deref().unwrap_or("nothing that could be started");
            let entry = |entry: &Entry| {
                let from = if entry.from.is_empty() { "-" } else { &entry.from };
                vec![moment(entry.heard), entry.result.word().into(), from.into(), entry.to.clone(), entry.why.clone()]
            };
            let history =
                table(&["heard", "what", "from", "to", "why"], &history.iter().map(entry).collect::<Vec<_>>());
            format!(
                "{}/{} runs {} ({state}) since {}; in the other slot is {previous}. It {}.\n{history}",
                line.tenant,
                line.site,
                line.version,
                moment(line.since),
                doing(line)
            )
        }
    }
}

fn shown(line: &ReleaseLine) -> String {
    let next = line.next_key.as_ref().map(|key| format!("  later ones by: key {key}\n")).unwrap_or_default();
    format!(
        "Release {} for {}s, sequence {}\n  root hash: {}\n  image: {}, of which {} were new here\n  made: {}\n  imported: {} by {}\n  signed by: key {}\n{next}",
        line.version,
        line.role,
        line.sequence,
        line.id,
        bytes(line.bytes),
        bytes(line.stored),
        moment(line.made),
        moment(line.imported),
        line.by,
        line.key
    )
}

fn doing(line: &VersionLine) -> String {
    let next = line.next.as_deref().unwrap_or("?");
    match line.stage.as_str() {
        "fetching" => format!("fetches {next}: {}", progress(line.done, line.total, line.seconds_left)),
        "installing" => format!("installs {next}"),
        "failed" => format!("could not take {next}: {}", line.why.as_deref().unwrap_or("")),
        _ => "has nothing to do".into(),
    }
}

fn progress(done: u64, total: u64, left: Option<u64>) -> String {
    let left = left.map(|seconds| format!(", {} left", duration(Duration::from_secs(seconds)))).unwrap_or_default();
    match total {
        0 => bytes(done),
        _ => format!("{} % of {}{left}", done.saturating_mul(100) / total, bytes(total)),
    }
}

/// An answer about roll-outs as text that ends in a line break.
pub(crate) fn rollout(answer: &RolloutAnswer) -> String {
    match answer {
        RolloutAnswer::List { rollouts } if rollouts.is_empty() => {
            "There are no roll-outs yet. `sluice-gateway rollout start RELEASE --site SITE` begins one.\n".into()
        }
        RolloutAnswer::List { rollouts } => {
            let row = |line: &RolloutLine| {
                vec![
                    line.number.to_string(),
                    line.version.clone(),
                    line.state.clone(),
                    format!("{} of {}", line.ring, line.rings),
                    format!("{} of {}", line.confirmed, line.sites),
                    line.failed.to_string(),
                    line.by.clone(),
                    moment(line.started),
                    printable(line.why.as_deref().unwrap_or(&line.reason)),
                ]
            };
            table(
                &["number", "version", "state", "ring", "confirmed", "failed", "by", "started", "why"],
                &rollouts.iter().map(row).collect::<Vec<_>>(),
            )
        }
        RolloutAnswer::Shown { line, rings } => {
            let mut text = heading(line);
            rings.iter().for_each(|ring| text += &ring_text(ring));
            text
        }
    }
}

fn heading(line: &RolloutLine) -> String {
    let at = line.stopped_at.as_ref().map(|site| format!(" at {site}")).unwrap_or_default();
    let why = line.why.as_ref().map(|why| format!(": {}", printable(why))).unwrap_or_default();
    let next = line.next_ring.map(|next| format!("The next ring opens {}.\n", moment(next))).unwrap_or_default();
    let advice = match line.state.as_str() {
        "stopped" => {
            "Look at the site. Then `sluice-gateway rollout resume --reason WHY` goes on without the sites that failed, with --retry they try again; `sluice-gateway rollout cancel --reason WHY` ends it.\n"
        }
        _ => "",
    };
    format!(
        "Roll-out {} of {}: {}{at} since {}{why}\nBegun {} by {}: {}\n{} of {} sites run it, confirmed; {} failed.\n{next}{advice}",
        line.number,
        line.version,
        line.state,
        moment(line.since),
        moment(line.started),
        line.by,
        printable(&line.reason),
        line.confirmed,
        line.sites,
        line.failed
    )
}

fn ring_text(ring: &RingLine) -> String {
    let opened = ring.opened.map_or("closed".into(), |opened| format!("open since {}", moment(opened)));
    let row = |site: &StepLine| {
        let how = match site.step.as_str() {
            "fetching" => progress(site.done, site.total, site.seconds_left),
            _ => site.why.as_deref().map(printable).unwrap_or_default(),
        };
        let noted = match (site.left_out, site.late) {
            (true, _) => "left out",
            (_, true) => "not seen for a week",
            _ => "",
        };
        vec![site.tenant.clone(), site.site.clone(), site.version.clone(), site.step.clone(), how, noted.into()]
    };
    let rows: Vec<_> = ring.sites.iter().map(row).collect();
    let sites = match rows.is_empty() {
        true => "  no sites\n".into(),
        false => table(&["tenant", "site", "runs", "step", "", ""], &rows),
    };
    format!("\nRing {}, {opened}\n{sites}", ring.number)
}
