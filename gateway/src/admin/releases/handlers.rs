//! What requests about releases and roll-outs do.

use super::{
    ReleaseAnswer, ReleaseLine, ReleaseRequest, RingLine, RolloutAnswer, RolloutLine, RolloutRequest, StepLine,
    VersionLine,
};
use crate::access::{Caller, Right, Via};
use crate::admin::judge::Subject;
use crate::admin::{Admin, AdminError, Answer, Report};
use crate::catalogue::{ApplianceRow, ReleaseRow, Site, Tenant};
use crate::files::FileError;
use crate::releases::engine::{Known, Rollout, State, Step, is_late};
use crate::releases::{ReleasesError, rollouts};
use dedupe::{SiteId, UnixMillis};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use wire::release::{Manifest, ReleaseId, Stage};

/// Names of the sites that a caller sees.
type Seen = HashMap<SiteId, (Tenant, Site)>;

impl Admin {
    pub(in crate::admin) fn release_subject(
        &self,
        caller: &Caller,
        request: &ReleaseRequest,
    ) -> Result<Subject, AdminError> {
        let whole =
            |what, object: &str| Subject { whole: true, ..Subject::new(Some(what), Right::Operate, None, object) };
        Ok(match request {
            ReleaseRequest::Import { file, uploaded } => {
                let here = caller.via == Via::CommandLine && !uploaded;
                let sent = *uploaded && file.parent() == Some(&self.state.releases.uploads());
                if !here && !sent {
                    return Err(AdminError::CommandLineOnly("release import"));
                }
                whole("release.import", &file.file_name().unwrap_or_default().to_string_lossy())
            }
            ReleaseRequest::Remove { release } => whole("release.remove", release),
            ReleaseRequest::Site { site } => {
                let (tenant, site) = self.site_for(caller, site)?;
                Subject::new(None, Right::See, Some(tenant), &site.name)
            }
            ReleaseRequest::List | ReleaseRequest::Show { .. } | ReleaseRequest::Versions => {
                Subject::new(None, Right::See, None, "")
            }
        })
    }

    pub(in crate::admin) fn rollout_subject(&self, request: &RolloutRequest) -> Result<Subject, AdminError> {
        let last = self.state.catalogue.last_rollout()?;
        let named = last.map_or_else(String::new, |last| format!("roll-out {} of {}", last.number, last.version));
        let subject = |what, object: &str, detail: String| Subject {
            whole: true,
            detail,
            ..Subject::new(Some(what), Right::Operate, None, object)
        };
        Ok(match request {
            RolloutRequest::List | RolloutRequest::Show { .. } => Subject::new(None, Right::See, None, ""),
            RolloutRequest::Start { release, first, second, soak_hours, reason } => {
                let second = second.as_ref().map_or("chosen".to_owned(), |sites| sites.join(", "));
                let soak = soak_hours.map_or("24".to_owned(), |hours| hours.to_string());
                let detail = format!("first ring: {}; second: {second}; {soak} h between; {reason}", first.join(", "));
                subject("rollout.start", release, detail)
            }
            RolloutRequest::Pause { reason, .. } => subject("rollout.pause", &named, reason.clone()),
            RolloutRequest::Resume { retry, reason, .. } => {
                let what = if *retry { "failed sites try again; " } else { "" };
                subject("rollout.resume", &named, format!("{what}{reason}"))
            }
            RolloutRequest::Cancel { reason, .. } => subject("rollout.cancel", &named, reason.clone()),
        })
    }

    pub(in crate::admin) fn release(
        &self,
        caller: &Caller,
        request: ReleaseRequest,
        report: &mut dyn FnMut(Report) -> bool,
    ) -> Result<Answer, AdminError> {
        Ok(Answer::Release(match request {
            ReleaseRequest::List => ReleaseAnswer::List { releases: self.release_lines(caller)? },
            ReleaseRequest::Show { release } => {
                let (row, manifest) = self.state.find_release(&release)?;
                let line = self.release_line(&row, &manifest, &self.running(caller)?);
                ReleaseAnswer::Shown { line, manifest: row.manifest }
            }
            ReleaseRequest::Import { file, uploaded } => {
                let imported = self.import(caller, &file, report);
                if uploaded && let Err(error) = crate::files::remove(&file) {
                    tracing::warn!(%error, "a bundle that was sent stays until the next start");
                }
                let row = imported?;
                let line = self.release_line(&row, &row.read()?, &HashMap::new());
                ReleaseAnswer::Shown { line, manifest: row.manifest }
            }
            ReleaseRequest::Remove { release } => {
                let (row, manifest) = self.state.find_release(&release)?;
                rollouts::check_unused(&self.state, row.id, &manifest.version)?;
                self.state.remove_release(&row)?;
                return Ok(Answer::Done { what: format!("release {} is removed", manifest.version) });
            }
            ReleaseRequest::Versions => ReleaseAnswer::Versions { sites: self.version_lines(caller)? },
            ReleaseRequest::Site { site } => {
                let (tenant, site) = self.site_for(caller, &site)?;
                let missing = || ReleasesError::NoAppliance(site.name.clone());
                let row = self.state.catalogue.appliance(site.id)?.ok_or_else(missing)?;
                let line =
                    version_line(&tenant, &site, &row, &rollouts::versions(&self.state)?, &self.connected_sites());
                let mut history = row.history;
                history.reverse();
                ReleaseAnswer::Site { line, history }
            }
        }))
    }

    fn import(
        &self,
        caller: &Caller,
        path: &Path,
        report: &mut dyn FnMut(Report) -> bool,
    ) -> Result<ReleaseRow, ReleasesError> {
        let file = File::open(path).map_err(FileError::on("read", path))?;
        self.state.import_release(file, &caller.name, &mut |done, total| {
            report(Report { phase: "importing".into(), done, total, written: done })
        })
    }

    pub(in crate::admin) fn rollout(&self, caller: &Caller, request: RolloutRequest) -> Result<Answer, AdminError> {
        let (state, connected) = (&self.state, self.connected_sites());
        let rollout = match request {
            RolloutRequest::List => {
                let all = state.catalogue.rollouts()?;
                let (fleet, seen) = (rollouts::fleet(state, &connected)?, self.seen(caller)?);
                let rollouts = all.iter().rev().map(|rollout| line(rollout, &fleet, &seen)).collect();
                return Ok(Answer::Rollout(RolloutAnswer::List { rollouts }));
            }
            RolloutRequest::Show { number: Some(number) } => {
                state.catalogue.rollout(number)?.ok_or(ReleasesError::NoRollout(number))?
            }
            RolloutRequest::Show { number: None } => {
                state.catalogue.last_rollout()?.ok_or(ReleasesError::NoneIs("there"))?
            }
            RolloutRequest::Start { release, first, second, soak_hours, reason } => {
                let ids = |names: Vec<String>| -> Result<Vec<SiteId>, AdminError> {
                    let mut ids = Vec::new();
                    for name in names {
                        let id = self.site_for(caller, &name)?.1.id;
                        if !ids.contains(&id) {
                            ids.push(id);
                        }
                    }
                    Ok(ids)
                };
                let (pilots, second) = (ids(first)?, second.map(ids).transpose()?);
                let plan =
                    rollouts::Plan { release: &release, pilots, second, soak_hours, by: &caller.name, reason: &reason };
                rollouts::start(state, &connected, &plan)?
            }
            RolloutRequest::Pause { number, reason } => rollouts::pause(state, number, (&caller.name, &reason))?,
            RolloutRequest::Resume { number, retry, reason } => {
                rollouts::resume(state, number, &connected, (retry, &reason))?
            }
            RolloutRequest::Cancel { number, reason } => rollouts::cancel(state, number, (&caller.name, &reason))?,
        };
        let orders = rollouts::look(state, &connected)?;
        if let Some(daemon) = &self.daemon {
            let _runtime = daemon.runtime.enter();
            rollouts::tell(state, &daemon.live, orders);
        }
        let rollout = state.catalogue.rollout(rollout.number)?.unwrap_or(rollout);
        Ok(Answer::Rollout(self.shown(caller, &rollout, &connected)?))
    }

    fn shown(
        &self,
        caller: &Caller,
        rollout: &Rollout,
        connected: &HashSet<SiteId>,
    ) -> Result<RolloutAnswer, AdminError> {
        let (fleet, seen) = (rollouts::fleet(&self.state, connected)?, self.seen(caller)?);
        let rows: HashMap<SiteId, ApplianceRow> =
            self.state.catalogue.appliances()?.into_iter().map(|row| (row.site, row)).collect();
        let mut rings: Vec<RingLine> = (0..=rollout.rings.len())
            .map(|ring| RingLine { number: ring + 1, opened: rollout.opened.get(ring).copied(), sites: Vec::new() })
            .collect();
        let now = self.state.now();
        for (ring, id, step) in rollouts::steps(rollout, &fleet) {
            let (Some((tenant, site)), Some(row)) = (seen.get(&id), rows.get(&id)) else { continue };
            let (done, total) = if let Step::Fetching { done, total } = step { (done, total) } else { (0, 0) };
            rings[ring].sites.push(StepLine {
                tenant: tenant.name.clone(),
                site: site.name.clone(),
                step: step.word().into(),
                done,
                total,
                seconds_left: if matches!(step, Step::Fetching { .. }) { seconds_left(row) } else { None },
                why: if let Step::Failed(failure) = &step { Some(failure.why.clone()) } else { None },
                version: row.report.version.clone(),
                late: fleet.iter().any(|known| known.site == id && is_late(known, now)),
                left_out: rollout.marks.get(&id).is_some_and(|mark| mark.left_out),
            });
        }
        rings.iter_mut().for_each(|ring| ring.sites.sort_by(|a, b| (&a.tenant, &a.site).cmp(&(&b.tenant, &b.site))));
        Ok(RolloutAnswer::Shown { line: Box::new(line(rollout, &fleet, &seen)), rings })
    }

    // ---- what there is

    fn connected_sites(&self) -> HashSet<SiteId> {
        self.daemon.as_ref().map(|daemon| daemon.live.connected_sites()).unwrap_or_default()
    }

    fn seen(&self, caller: &Caller) -> Result<Seen, AdminError> {
        let tenants = self.state.catalogue.tenants()?;
        let named = |site: Site| {
            let tenant = tenants.iter().find(|tenant| tenant.id == site.tenant && caller.sees(tenant))?;
            Some((site.id, (tenant.clone(), site)))
        };
        Ok(self.state.catalogue.sites()?.into_iter().filter_map(named).collect())
    }

    /// How many sites that the caller sees run each release.
    fn running(&self, caller: &Caller) -> Result<HashMap<ReleaseId, usize>, AdminError> {
        let seen = self.seen(caller)?;
        let mut runs = HashMap::new();
        for row in self.state.catalogue.appliances()?.into_iter().filter(|row| seen.contains_key(&row.site)) {
            *runs.entry(row.report.release).or_default() += 1;
        }
        Ok(runs)
    }

    fn release_lines(&self, caller: &Caller) -> Result<Vec<ReleaseLine>, AdminError> {
        let runs = self.running(caller)?;
        let mut lines = Vec::new();
        for row in self.state.catalogue.releases()? {
            lines.push(self.release_line(&row, &row.read()?, &runs));
        }
        lines.sort_by(|a, b| (&a.role, b.sequence).cmp(&(&b.role, a.sequence)));
        Ok(lines)
    }

    fn release_line(&self, row: &ReleaseRow, manifest: &Manifest, runs: &HashMap<ReleaseId, usize>) -> ReleaseLine {
        let key = Manifest::read_unproved(&row.manifest).map(|(_, statement)| statement.key.to_string());
        ReleaseLine {
            id: row.id.hex(),
            version: manifest.version.clone(),
            role: manifest.role.word().into(),
            sequence: manifest.sequence,
            bytes: manifest.bytes,
            stored: row.stored,
            made: manifest.made,
            imported: row.imported,
            by: row.by.clone(),
            key: key.unwrap_or_default(),
            next_key: manifest.next_key.map(|key| key.to_string()),
            sites: runs.get(&row.id).copied().unwrap_or(0),
        }
    }

    fn version_lines(&self, caller: &Caller) -> Result<Vec<VersionLine>, AdminError> {
        let (seen, names, connected) = (self.seen(caller)?, rollouts::versions(&self.state)?, self.connected_sites());
        let rows = self.state.catalogue.appliances()?;
        let line = |row: &ApplianceRow| {
            let (tenant, site) = seen.get(&row.site)?;
            Some(version_line(tenant, site, row, &names, &connected))
        };
        let mut lines: Vec<VersionLine> = rows.iter().filter_map(line).collect();
        lines.sort_by(|a, b| (&a.tenant, &a.site).cmp(&(&b.tenant, &b.site)));
        Ok(lines)
    }
}

fn version_line(
    tenant: &Tenant,
    site: &Site,
    row: &ApplianceRow,
    names: &HashMap<ReleaseId, String>,
    connected: &HashSet<SiteId>,
) -> VersionLine {
    let name = |id: &ReleaseId| names.get(id).cloned().unwrap_or_else(|| id.to_string());
    let (stage, next, done, total, why) = match &row.report.stage {
        Stage::Idle => ("idle", None, 0, 0, None),
        Stage::Fetching { release, done, total } => ("fetching", Some(name(release)), *done, *total, None),
        Stage::Installing { release } => ("installing", Some(name(release)), 0, 0, None),
        Stage::Failed { release, why } => ("failed", Some(name(release)), 0, 0, Some(crate::text::printable(why))),
    };
    VersionLine {
        tenant: tenant.name.clone(),
        site: site.name.clone(),
        version: crate::text::printable(&row.report.version),
        sequence: row.report.sequence,
        release: row.report.release.hex(),
        confirmed: row.report.confirmed,
        previous: row.report.previous.as_deref().map(crate::text::printable),
        stage: stage.into(),
        next,
        done,
        total,
        seconds_left: seconds_left(row),
        why,
        since: row.since,
        heard: row.at,
        connected: connected.contains(&site.id),
    }
}

/// Seconds until a release is there at the rate since its fetch was first heard of.
fn seconds_left(row: &ApplianceRow) -> Option<u64> {
    let (Stage::Fetching { done, total, .. }, Some((since, before))) = (&row.report.stage, row.fetch) else {
        return None;
    };
    let (millis, moved) = (row.at.0.saturating_sub(since.0), done.saturating_sub(before));
    let left = total.saturating_sub(*done);
    (*total > 0 && millis > 0 && moved > 0).then(|| (left as f64 / moved as f64 * millis as f64 / 1000.0) as u64)
}

fn line(rollout: &Rollout, fleet: &[Known], seen: &Seen) -> RolloutLine {
    let steps: Vec<Step> = fleet
        .iter()
        .filter(|known| known.report.is_some() && seen.contains_key(&known.site))
        .map(|known| rollout.step_of(known))
        .collect();
    let count = |fits: fn(&Step) -> bool| steps.iter().filter(|step| fits(step)).count();
    let (why, at) = match &rollout.state {
        State::Running | State::Done => (None, None),
        State::Stopped { site, why } => {
            (Some(crate::text::printable(why)), seen.get(site).map(|(_, site)| site.name.clone()))
        }
        State::Paused { by, reason } | State::Cancelled { by, reason } => (Some(format!("{by}: {reason}")), None),
    };
    let is_last = rollout.opened.len() > rollout.rings.len();
    let opens = rollout.proved.filter(|_| !is_last && rollout.state == State::Running);
    RolloutLine {
        number: rollout.number,
        version: rollout.version.clone(),
        release: rollout.release.hex(),
        state: rollout.state.word().into(),
        since: rollout.since,
        why,
        stopped_at: at,
        by: rollout.by.clone(),
        started: rollout.started,
        reason: rollout.reason.clone(),
        ring: rollout.opened.len(),
        rings: rollout.rings.len() + 1,
        soak_hours: rollout.soak / 3_600_000,
        next_ring: opens.map(|proved| UnixMillis(proved.0 + rollout.soak)),
        confirmed: count(|step| matches!(step, Step::Confirmed)),
        failed: count(|step| matches!(step, Step::Failed(_))),
        sites: steps.len(),
    }
}
