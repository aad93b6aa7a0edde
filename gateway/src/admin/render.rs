//! Answers for people.

use super::{Answer, Report};
use crate::rehydrate::{Done, Plan, Proof};
use crate::text::{bytes, duration, moment, printable, table};
use dedupe::UnixMillis;
use std::time::Duration;

/// An answer as text that ends in a line break.
pub fn answer(answer: &Answer) -> String {
    match answer {
        // On its own line and with nothing else, so that it can be piped into a file.
        Answer::Token { token, .. } => format!("{token}\n"),
        Answer::Sites { sites } if sites.is_empty() => {
            "There are no sites yet. `sluice-gateway token --tenant T --site NAME` makes one and its token.\n".into()
        }
        Answer::Sites { sites } => {
            let row = |line: &super::SiteLine| {
                vec![
                    line.tenant.clone(),
                    line.site.clone(),
                    line.state.clone(),
                    when(line.seen),
                    printable(&line.software),
                    policy_of(line),
                    printable(&line.doing),
                ]
            };
            table(
                &["tenant", "site", "state", "last seen", "software", "policy", "doing"],
                &sites.iter().map(row).collect::<Vec<_>>(),
            )
        }
        Answer::Volumes { volumes } if volumes.is_empty() => {
            "There are no volumes yet. `sluice-edge volume add` at a branch makes one.\n".into()
        }
        Answer::Volumes { volumes } => {
            let row = |line: &super::VolumeLine| {
                let latest = line.latest.map_or("-".into(), |number| number.to_string());
                let arriving = line.arriving.map(|parcels| format!("{parcels} parcels in"));
                let seed = line.seed.as_ref().map(|state| format!("seed {state}"));
                let waiting = (line.waiting > 0).then(|| format!("{} waiting for it", line.waiting));
                let arriving = [arriving, seed, waiting].into_iter().flatten().collect::<Vec<_>>().join(", ");
                vec![
                    line.tenant.clone(),
                    line.site.clone(),
                    printable(&line.volume),
                    line.generations.to_string(),
                    latest,
                    when(line.captured),
                    bytes(line.size),
                    arriving,
                ]
            };
            table(
                &["tenant", "site", "volume", "generations", "latest", "captured", "size", "arriving"],
                &volumes.iter().map(row).collect::<Vec<_>>(),
            )
        }
        Answer::Generations { generations } if generations.is_empty() => "The volume has no generation yet.\n".into(),
        Answer::Generations { generations } => {
            let row = |line: &super::GenerationLine| {
                let sealed = line.sealed.map_or("arriving".into(), moment);
                let root = line.root.clone().unwrap_or_default();
                vec![
                    line.number.to_string(),
                    moment(line.captured),
                    sealed,
                    bytes(line.size),
                    bytes(line.new_bytes),
                    bytes(line.coded_bytes),
                    root,
                ]
            };
            table(
                &["number", "captured", "sealed", "size", "new", "travelled", "root"],
                &generations.iter().map(row).collect::<Vec<_>>(),
            )
        }
        Answer::Plan { plan } => self::plan(plan),
        Answer::Rehydrated { done } => rehydrated(done),
        Answer::Revoked { site, was_connected } => {
            let ended = if *was_connected { " Its session was ended." } else { "" };
            format!(
                "Site {site} is revoked: its certificates are refused from now on.{ended}\nA new token lets it enrol again.\n"
            )
        }
        Answer::BackedUp { to, encrypted: true } => {
            format!("Catalogue and keys are in {}, the keys encrypted under the passphrase.\n", to.display())
        }
        Answer::BackedUp { to, encrypted: false } => format!(
            "Catalogue and keys are in {}.\nWARNING: the keys in it are not encrypted. Whoever has them can read every tenant's packs and be this gateway. Use --passphrase-file, or keep the directory as safe as the gateway itself.\n",
            to.display()
        ),
        Answer::Rebuilt { tenants, volumes, generations, unnamed_sites } => {
            let mut text = format!("Found {generations} generations of {volumes} volumes of {tenants} tenants.\n");
            for site in unnamed_sites {
                text += &format!("A site that the catalogue did not know is now called {site}.\n");
            }
            text
        }
        Answer::Gc { plans, freed_bytes } => {
            let mut text: String = plans.iter().map(|plan| format!("{plan}\n")).collect();
            text += &freed_bytes.map_or("Nothing was changed; without --plan it is done.\n".into(), |freed| {
                format!("{} were given back.\n", bytes(freed))
            });
            text
        }
        Answer::Scrubbed { damages, .. } if damages.is_empty() => "Everything is as it was written.\n".into(),
        Answer::Scrubbed { damages, mended, asked, waiting } => {
            let mut text: String = damages.iter().map(|damage| format!("{}\n", printable(damage))).collect();
            text += &format!(
                "{} damages, {mended} of them mended from their second copy; edges were asked for blocks of {asked} generations, and those of {waiting} are asked for when their edge connects.\n",
                damages.len()
            );
            text
        }
        Answer::Authorities { authorities } => {
            let row = |(number, fingerprint, signs): &(u32, String, bool)| {
                vec![number.to_string(), fingerprint.clone(), if *signs { "signs".into() } else { "is trusted".into() }]
            };
            table(&["number", "fingerprint", "role"], &authorities.iter().map(row).collect::<Vec<_>>())
        }
        Answer::Domains { domains } => super::domains::render(domains),
        Answer::Exports { exports } => super::exports::render(exports),
        Answer::Target(answer) => super::targets::render::answer(answer),
        Answer::Retention(answer) => super::retention::render(answer),
        Answer::Proof(answer) => super::proofs::render(answer),
        Answer::Release(answer) => super::releases::render_release(answer),
        Answer::Rollout(answer) => super::releases::render_rollout(answer),
        Answer::Seed(answer) => super::seeds::render(answer),
        Answer::Policy(answer) => super::policy::render::answer(answer),
        Answer::Verified { number, root, bytes: read } => {
            format!(
                "Generation {number} is what was captured: {} were read and hash to its root {root}.\n",
                bytes(*read)
            )
        }
        Answer::Tenant { tenant } => format!("Tenant {tenant} is there.\n"),
        Answer::Done { what } => format!("{what}.\n"),
        Answer::Site { site, made: true } => format!("Site {site} is made.\n"),
        Answer::Site { site, .. } => format!("Site {site} was there already.\n"),
        Answer::Accounts { .. }
        | Answer::AccountSecret { .. }
        | Answer::ApiTokens { .. }
        | Answer::ApiTokenSecret { .. }
        | Answer::Waiting { .. }
        | Answer::Approvals { .. }
        | Answer::Audit { .. }
        | Answer::AuditWhole { .. } => people(answer),
        Answer::Status { running: false, .. } => "No daemon is running on this state directory.\n".into(),
        Answer::Status { connected, workers, .. } => {
            let rows: Vec<Vec<String>> = workers.iter().map(|(name, line)| vec![name.clone(), line.clone()]).collect();
            format!("The daemon is running; {connected} sites are connected.\n\n{}", table(&["worker", "doing"], &rows))
        }
    }
}

/// Answers about accounts, approvals and the audit log.
fn people(answer: &Answer) -> String {
    match answer {
        Answer::Accounts { accounts } if accounts.is_empty() => {
            "There are no accounts yet. `sluice-gateway user add NAME --role administrator` makes the first.\n".into()
        }
        Answer::Accounts { accounts } => {
            let row = |line: &super::AccountLine| {
                let state = match (line.disabled, line.must_change) {
                    (true, _) => "disabled",
                    (false, true) => "has to change its password",
                    (false, false) => "may sign in",
                };
                let tenant = line.tenant.clone().unwrap_or_else(|| "all".into());
                vec![line.name.clone(), line.role.word().into(), tenant, state.into(), when(line.signed_in)]
            };
            table(&["name", "role", "tenant", "state", "last signed in"], &accounts.iter().map(row).collect::<Vec<_>>())
        }
        // Secrets stand alone on stdout, as tokens of edges do.
        Answer::AccountSecret { password, .. } => format!("{password}\n"),
        Answer::ApiTokenSecret { token, .. } => format!("{token}\n"),
        Answer::ApiTokens { tokens } => {
            let row = |line: &super::TokenLine| {
                let used = when(line.used);
                vec![line.id.clone(), printable(&line.label), line.role.word().into(), moment(line.valid_until), used]
            };
            table(&["id", "label", "role", "good until", "last used"], &tokens.iter().map(row).collect::<Vec<_>>())
        }
        Answer::Waiting { number, causes } => {
            let causes: String = causes.iter().map(|cause| format!("  - {cause}\n")).collect();
            format!(
                "Not done yet: the line's owner has to agree.\n{causes}It waits under number {number}; an approver answers in the web UI or by `sluice-gateway approval approve {number} --reason TEXT`.\n"
            )
        }
        Answer::Approvals { approvals } if approvals.is_empty() => "Nothing waits for approval.\n".into(),
        Answer::Approvals { approvals } => {
            let row = |line: &super::ApprovalLine| {
                vec![
                    line.number.to_string(),
                    line.state.clone(),
                    line.by.clone(),
                    printable(&line.what),
                    line.causes.join("; "),
                    line.answered_by.clone().unwrap_or_default(),
                ]
            };
            table(
                &["number", "state", "asked by", "what", "because", "answered by"],
                &approvals.iter().map(row).collect::<Vec<_>>(),
            )
        }
        Answer::Audit { entries } => {
            entries.iter().map(|entry| super::AuditFormat::Json.line(entry, "") + "\n").collect()
        }
        Answer::AuditWhole { entries, last } => {
            format!("The audit log is whole: {entries} entries, the last one hashes to {last}.\n")
        }
        _ => String::new(),
    }
}

fn plan(plan: &Plan) -> String {
    let how = match (&plan.from, &plan.whole_because) {
        (Some(from), _) if *from == plan.number => {
            "The target holds this generation already; it would be read back and verified.".to_owned()
        }
        (Some(from), _) => format!("The target holds generation {from}: only what differs would be written."),
        (None, why) => {
            format!("Everything would be written: {}.", why.as_deref().unwrap_or("nothing is known of the target"))
        }
    };
    format!(
        "{how}\n{} of data to write, {} to make zero, of {} in all.\n",
        bytes(plan.data_bytes),
        bytes(plan.zero_bytes),
        bytes(plan.size)
    )
}

fn rehydrated(done: &Done) -> String {
    let from = done.plan.from.map_or("written whole".to_owned(), |from| format!("brought from generation {from}"));
    let repaired = if done.repaired { " It had been touched since and was written anew." } else { "" };
    let proof = match done.proof {
        Proof::All => "Read back whole; its root is right".to_owned(),
        Proof::Changed => "What was written was read back and is right".to_owned(),
        Proof::Sample(share) => {
            format!("What was written and {share} % of the rest were read back and are right")
        }
    };
    let mut text = format!(
        "{} holds generation {}: {from}, {} written.{repaired}\n{proof}: {}\nThe signed statement is number {}: `sluice-gateway proof show {}`.\n",
        done.plan.target,
        done.plan.number,
        bytes(done.written_bytes),
        done.root,
        done.statement,
        done.statement
    );
    if !done.next_steps.is_empty() {
        text += &format!("To run a machine from it:\n  {}\n", done.next_steps.join("\n  "));
    }
    text
}

/// The policy of a site, and what its edge makes of it when that is something else.
fn policy_of(line: &super::SiteLine) -> String {
    let version = line.policy.map_or("none".into(), |version| format!("version {version}"));
    match (line.policy_held.unwrap_or(0), &line.policy_refused) {
        (held, Some(why)) => format!("{version}, edge holds {held}: {}", printable(why)),
        (held, None) if line.policy.unwrap_or(0) == held => version,
        (0, None) => format!("{version}, edge holds none"),
        (held, None) => format!("{version}, edge holds {held}"),
    }
}

fn when(at: Option<UnixMillis>) -> String {
    at.map_or("-".into(), moment)
}

/// Follows reports and makes lines of progress of them.
#[derive(Debug, Default)]
pub struct Meter {
    phase: String,
    since: Duration,
}

impl Meter {
    /// One line without a line break, `elapsed` after the command began: phase, bytes, share, rate, what was written, time left.
    pub fn line(&mut self, report: &Report, elapsed: Duration) -> String {
        if self.phase != report.phase {
            (self.phase, self.since) = (report.phase.clone(), elapsed);
        }
        let seconds = (elapsed.saturating_sub(self.since)).as_secs_f64();
        let rate = if seconds > 0.2 { report.done as f64 / seconds } else { 0.0 };
        let mut line = format!("{}: {}", self.phase, bytes(report.done));
        if report.total > 0 {
            let share = 100.0 * report.done as f64 / report.total as f64;
            line += &format!(" of {} ({share:.0} %)", bytes(report.total));
        }
        if rate > 0.0 {
            line += &format!(", {}/s", bytes(rate as u64));
            let left = report.total.saturating_sub(report.done) as f64 / rate;
            if left >= 1.0 {
                line += &format!(", {} left", duration(Duration::from_secs_f64(left.min(1e9))));
            }
        }
        if report.written > 0 && report.written != report.done {
            line += &format!(", {} written", bytes(report.written));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_bytes_share_rate_and_time_left() {
        let mut meter = Meter::default();
        let report = |done| Report { phase: "writing".into(), done, total: 10_000_000, written: 500_000 };
        meter.line(&report(0), Duration::ZERO);
        assert_eq!(
            meter.line(&report(2_000_000), Duration::from_secs(2)),
            "writing: 2.00 MB of 10.0 MB (20 %), 1.00 MB/s, 8 s left, 500 kB written"
        );
        let other = Report { phase: "reading back".into(), done: 0, total: 0, written: 0 };
        assert_eq!(meter.line(&other, Duration::from_secs(3)), "reading back: 0 B");
    }

    #[test]
    fn empty_answers_say_what_to_do() {
        assert!(answer(&Answer::Sites { sites: vec![] }).contains("sluice-gateway token"));
        assert!(answer(&Answer::Volumes { volumes: vec![] }).contains("sluice-edge volume add"));
        let revoked = answer(&Answer::Revoked { site: "b1".into(), was_connected: true });
        assert_eq!(
            revoked,
            "Site b1 is revoked: its certificates are refused from now on. Its session was ended.\nA new token lets it enrol again.\n"
        );
    }
}
