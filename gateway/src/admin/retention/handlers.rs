//! What requests about locks and deletions do, and who may ask and agree.

use super::words;
use super::{LockLine, On, PendingLine, RetentionAnswer, RetentionRequest};
use crate::access::{Caller, Right, Via};
use crate::admin::judge::Subject;
use crate::admin::{Admin, AdminError, Answer, Request};
use crate::catalogue::{Approval, CatalogueError, Deed, Lock, LockOn, Pending, PendingState, Tenant, Term};
use crate::policies::{Author, ChangeError};
use crate::retention::{RetentionError, due, erasure, law, leaving};
use crate::text::{duration, moment, printable};
use dedupe::UnixMillis;

/// How long something may wait for a second person: as for policies.
const WAITS: u64 = 7 * 86_400_000;
/// What is written of whatever makes an account one that somebody else may use.
const TOUCHES: [&str; 3] = ["account.add", "account.change", "account.password-reset"];

/// A deed that a request asks for, once it was looked up.
struct Wanted {
    deed: Deed,
    object: String,
    reason: String,
}

impl Admin {
    pub(in crate::admin) fn retention_subject(
        &self,
        caller: &Caller,
        request: &RetentionRequest,
    ) -> Result<Subject, AdminError> {
        use RetentionRequest as R;
        let subject = |what, right, tenant: Tenant, object: &str, detail: String| Subject {
            detail,
            ..Subject::new(Some(what), right, Some(tenant), object)
        };
        Ok(match request {
            R::Locks { .. } | R::Pending { .. } => Subject::new(None, Right::See, None, ""),
            R::Lock { on, term, reason } => {
                let tenant = match on {
                    On::Tenant { tenant } => {
                        let found = self.state.catalogue.tenants()?.into_iter().find(|known| known.name == *tenant);
                        let missing = || CatalogueError::NoTenant(printable(tenant));
                        found.filter(|tenant| caller.sees(tenant)).ok_or_else(missing)?
                    }
                    On::Site { site } => self.site_for(caller, site)?.0,
                    On::Volume { volume } | On::Generation { volume, .. } => self.tenant_of_volume(caller, volume)?,
                };
                subject("lock.set", Right::Operate, tenant, &on.name(), format!("{}; {reason}", words(*term)))
            }
            R::Extend { number, term, reason } => {
                let (lock, tenant) = self.lock_seen(caller, *number)?;
                let detail = format!("lock {number}: {}; {reason}", words(*term));
                subject("lock.extend", Right::Operate, tenant, &lock.object, detail)
            }
            R::Unlock { number, to, reason } => {
                let (lock, tenant) = self.lock_seen(caller, *number)?;
                let to = to.map_or_else(|| "taken off".into(), words);
                let detail = format!("lock {number}: {to}; {reason}");
                subject("lock.release", Right::Operate, tenant, &lock.object, detail)
            }
            R::Forget { volume, generation, reason } => {
                let tenant = self.tenant_of_volume(caller, volume)?;
                let detail = format!("generation {generation}; {reason}");
                subject("generation.forget", Right::Operate, tenant, volume, detail)
            }
            R::Decommission { site, reason } => {
                let (tenant, site) = self.site_for(caller, site)?;
                subject("site.decommission", Right::Administer, tenant, &site.name, reason.clone())
            }
            R::Cancel { number, reason } => {
                let missing = || RetentionError::NoPending(*number);
                let pending = self.state.catalogue.pending(*number)?.ok_or_else(missing)?;
                let tenant = self.tenant_seen(caller, pending.tenant)?.ok_or_else(missing)?;
                let detail = format!("number {number}, {}; {reason}", due::word(&pending.deed));
                subject("retention.cancel", Right::Operate, tenant, &pending.object, detail)
            }
        })
    }

    fn lock_seen(&self, caller: &Caller, number: u64) -> Result<(Lock, Tenant), AdminError> {
        let missing = || RetentionError::NoLock(number);
        let lock = self.state.catalogue.lock(number)?.filter(|lock| lock.ended.is_none()).ok_or_else(missing)?;
        let tenant = self.tenant_seen(caller, lock.tenant)?.ok_or_else(missing)?;
        Ok((lock, tenant))
    }

    /// Does what needs nobody else.
    pub(in crate::admin) fn retention(&self, caller: &Caller, request: RetentionRequest) -> Result<Answer, AdminError> {
        use RetentionRequest as R;
        let (catalogue, now) = (&self.state.catalogue, self.state.now());
        let done = |what: String| Ok(Answer::Done { what });
        match request {
            R::Locks { all } => self.locks(caller, all),
            R::Pending { all } => self.pending(caller, all),
            R::Lock { on, term, reason } => {
                let reason = self.reason(caller, &reason)?;
                if !law::is_possible(term, now) {
                    return Err(RetentionError::Term.into());
                }
                let _alone = self.state.keeping();
                let (tenant, held, object) = self.found(caller, &on)?;
                let (by, number) = (caller.name.clone(), 0);
                let lock = Lock { number, tenant, on: held, object, term, reason, by, set: now, ended: None };
                let lock = catalogue.add_lock(lock)?;
                done(format!("lock {} holds {} {}", lock.number, printable(&lock.object), words(term)))
            }
            R::Extend { number, term, reason } => {
                self.reason(caller, &reason)?;
                let _alone = self.state.keeping();
                let (lock, _) = self.lock_seen(caller, number)?;
                if !law::is_possible(term, now) {
                    return Err(RetentionError::Term.into());
                }
                if law::is_longer(lock.term, term) != Some(true) {
                    return Err(RetentionError::NotLonger(number).into());
                }
                catalogue.put_lock(&Lock { term, ..lock })?;
                done(format!("lock {number} holds {}", words(term)))
            }
            R::Cancel { number, reason } => {
                let (by, reason) = (caller.name.clone(), self.reason(caller, &reason)?);
                let _alone = self.state.keeping();
                match catalogue.set_pending(number, PendingState::Cancelled { by, reason }, true, now)? {
                    true => done(format!("number {number} is cancelled: nothing comes of it")),
                    false => Err(RetentionError::Over(number).into()),
                }
            }
            // `handle_as` never lets these come here without a second person.
            R::Unlock { .. } | R::Forget { .. } | R::Decommission { .. } => Err(RetentionError::NotInPerson.into()),
        }
    }

    fn reason(&self, caller: &Caller, reason: &str) -> Result<String, AdminError> {
        Ok(Author::new(&caller.name, reason).map_err(ChangeError::from)?.reason().to_owned())
    }

    /// What a lock holds, by ids, and its name.
    fn found(&self, caller: &Caller, on: &On) -> Result<(dedupe::TenantId, LockOn, String), AdminError> {
        Ok(match on {
            On::Tenant { tenant } => {
                let tenant = self.state.catalogue.find_tenant(tenant)?;
                (tenant.id, LockOn::Tenant, tenant.name)
            }
            On::Site { site } => {
                let (tenant, site) = self.site_for(caller, site)?;
                self.stays(site.id, &site.name)?;
                (tenant.id, LockOn::Site(site.id), format!("{}/{}", tenant.name, site.name))
            }
            On::Volume { volume } => {
                let (site, name) = volume.rsplit_once('/').ok_or_else(|| AdminError::VolumeName(printable(volume)))?;
                let (tenant, site) = self.site_for(caller, site)?;
                self.stays(site.id, &site.name)?;
                let mut lineages = self.state.tenant(tenant.id)?.store.lineages()?;
                lineages.retain(|lineage| lineage.site == Some(site.id) && lineage.name == name);
                if lineages.is_empty() {
                    return Err(AdminError::NoVolume(printable(volume)));
                }
                let lineages = lineages.iter().map(|lineage| lineage.id).collect();
                let object = format!("{}/{}/{name}", tenant.name, site.name);
                (tenant.id, LockOn::Volume { site: site.id, name: name.to_owned(), lineages }, object)
            }
            On::Generation { volume, generation } => {
                let (store, generation) = self.find_generation(volume, generation)?;
                if let Some(site) = store.store.lineage(generation.lineage)?.and_then(|lineage| lineage.site) {
                    self.stays(site, volume)?;
                }
                (store.id, LockOn::Generation(generation.id), format!("{volume}#{}", generation.number))
            }
        })
    }

    /// Refuses what is about a site that is being erased already: a lock that holds nothing would be a lie.
    fn stays(&self, site: dedupe::SiteId, name: &str) -> Result<(), AdminError> {
        match leaving(&self.state.catalogue, site)? {
            Some(Pending { number, state: PendingState::Working(_), .. }) => {
                Err(RetentionError::Leaving { site: printable(name), number }.into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses a token for a site that is to be erased.
    pub(in crate::admin) fn not_leaving(&self, tenant: &str, site: &str) -> Result<(), AdminError> {
        let Ok(found) = self.state.catalogue.find_site(&format!("{tenant}/{site}")) else { return Ok(()) };
        match leaving(&self.state.catalogue, found.id)? {
            Some(pending) => Err(RetentionError::Leaving { site: printable(site), number: pending.number }.into()),
            None => Ok(()),
        }
    }

    // ---- two people

    /// Notes what a second person has to agree to. What the law refuses is refused now, and written down.
    pub(in crate::admin) fn second_person_for_keeping(
        &self,
        caller: &Caller,
        request: &RetentionRequest,
        subject: &Subject,
    ) -> Result<Option<Approval>, AdminError> {
        let tenant = subject.tenant.as_ref();
        let wanted = match self.wanted(caller, request) {
            Ok(None) => return Ok(None),
            Ok(Some(wanted)) => wanted,
            Err(error) => {
                let detail = format!("{}: {error}", subject.detail);
                self.note(caller, subject.what.unwrap_or_default(), tenant, subject.object.clone(), detail, "refused")?;
                return Err(error);
            }
        };
        let Some(tenant) = tenant else { return Err(RetentionError::NotInPerson.into()) };
        let now = self.state.now();
        let what = due::word(&wanted.deed);
        let after = duration(self.state.deletion_delay);
        let approval = Approval {
            number: 0,
            asked: now,
            by: caller.name.clone(),
            tenant: tenant.id,
            request: serde_json::to_string(&Request::Retention(exact(request, &wanted.deed)))
                .expect("every request is plain JSON"),
            what: format!("{what} of {}: {}", wanted.object, subject.detail),
            causes: vec![format!("what was kept is given up for good, {after} after somebody agrees")],
            seen: Vec::new(),
            valid_until: UnixMillis(now.0 + WAITS),
            answer: None,
        };
        Ok(Some(self.state.catalogue.add_approval(approval)?))
    }

    /// The deed that a request asks for, if it may be done as things are now.
    fn wanted(&self, caller: &Caller, request: &RetentionRequest) -> Result<Option<Wanted>, AdminError> {
        use RetentionRequest as R;
        let now = self.state.now();
        let wanted = match request {
            R::Unlock { number, to, reason } => {
                let (lock, _) = self.lock_seen(caller, *number)?;
                if let Some(to) = to {
                    let days = matches!(to, Term::Until(_)) || law::is_possible(*to, now);
                    if !days || law::is_longer(*to, lock.term) != Some(true) {
                        return Err(RetentionError::NotShorter(*number).into());
                    }
                }
                let reason = self.reason(caller, reason)?;
                Wanted { deed: Deed::Unlock { lock: *number, to: *to }, object: lock.object, reason }
            }
            R::Forget { volume, generation, reason } => {
                let (tenant, found) = self.find_generation(volume, generation)?;
                let name = printable(volume);
                due::may_go(&self.state, &tenant, &found, &name)??;
                let (deed, reason) = (Deed::Forget(found.id), self.reason(caller, reason)?);
                Wanted { deed, object: format!("{name}#{}", found.number), reason }
            }
            R::Decommission { site, reason } => {
                let (tenant, site) = self.site_for(caller, site)?;
                let object = format!("{}/{}", tenant.name, site.name);
                if let Some(error) = erasure::held_of(&self.state, &site, &object)? {
                    return Err(error.into());
                }
                Wanted { deed: Deed::Decommission(site.id), object, reason: self.reason(caller, reason)? }
            }
            _ => return Ok(None),
        };
        let pendings = self.state.catalogue.pendings()?;
        match pendings.iter().find(|pending| pending.is_open() && pending.deed == wanted.deed) {
            Some(same) => Err(RetentionError::Again(same.number).into()),
            None => Ok(Some(wanted)),
        }
    }

    /// Whether somebody may be the second person of a deletion: signed in themselves, with an account that nobody could have made for the purpose.
    pub(in crate::admin) fn may_agree(&self, caller: &Caller, approval: &Approval) -> Result<(), AdminError> {
        let Ok(Request::Retention(request)) = serde_json::from_str(&approval.request) else { return Ok(()) };
        if caller.via != Via::Session {
            return Err(RetentionError::NotInPerson.into());
        }
        let delay = self.state.deletion_delay.as_millis() as u64;
        let since = self.state.now().0.saturating_sub(delay);
        let mut touched = false;
        self.state.catalogue.each_audit_back(u64::MAX, |row| {
            touched |= row.time.0 >= since
                && row.object == caller.name
                && row.outcome == "done"
                && TOUCHES.contains(&row.what.as_str());
            row.time.0 >= since && !touched
        })?;
        let made = self.state.catalogue.account(&caller.name)?.map_or(u64::MAX, |account| account.created.0);
        if touched || made >= since {
            let account = printable(&caller.name);
            return Err(RetentionError::Fresh { account, hours: delay / 3_600_000 }.into());
        }
        // What was set since it was asked for is looked at now, and once more when the time has come.
        self.wanted(caller, &request).map(drop)
    }

    /// Somebody agreed: from now on the delay runs.
    pub(in crate::admin) fn agreed(
        &self,
        caller: &Caller,
        approval: &Approval,
        why: &str,
        request: &RetentionRequest,
    ) -> Result<Answer, AdminError> {
        let Some(wanted) = self.wanted(caller, request)? else { return self.retention(caller, request.clone()) };
        let now = self.state.now();
        let due = UnixMillis(now.0 + self.state.deletion_delay.as_millis() as u64);
        let pending = self.state.catalogue.add_pending(Pending {
            number: 0,
            tenant: approval.tenant,
            deed: wanted.deed,
            object: wanted.object,
            reason: wanted.reason,
            by: approval.by.clone(),
            asked: approval.asked,
            approval: approval.number,
            approved_by: caller.name.clone(),
            approved: now,
            approved_reason: why.to_owned(),
            due,
            state: PendingState::Waiting,
            since: now,
        })?;
        let what = due::word(&pending.deed);
        if let RetentionRequest::Decommission { site, .. } = request {
            self.revoke(site)?;
        }
        let tenant = self.tenant_seen(caller, pending.tenant)?;
        let detail = format!("number {}, asked for by {}, is due {}", pending.number, pending.by, moment(due));
        self.note(caller, what, tenant.as_ref(), pending.object.clone(), detail, "waiting")?;
        tracing::warn!(number = pending.number, what, object = %pending.object, due = %moment(due), "something is to be given up for good");
        let what = format!(
            "{what} of {} is due {} under number {}; until then `sluice-gateway retention cancel {} --reason WHY` takes it back",
            printable(&pending.object),
            moment(due),
            pending.number,
            pending.number
        );
        Ok(Answer::Done { what })
    }

    // ---- lists

    fn locks(&self, caller: &Caller, all: bool) -> Result<Answer, AdminError> {
        let tenants = self.state.catalogue.tenants()?;
        let mut locks = Vec::new();
        for lock in self.state.catalogue.locks()?.into_iter().rev().filter(|lock| all || lock.ended.is_none()) {
            let Some(tenant) = tenants.iter().find(|tenant| tenant.id == lock.tenant && caller.sees(tenant)) else {
                continue;
            };
            let kind = match lock.on {
                LockOn::Tenant => "tenant",
                LockOn::Site(_) => "site",
                LockOn::Volume { .. } => "volume",
                LockOn::Generation(_) => "generation",
            };
            let Lock { number, object, term, reason, by, set, ended, .. } = lock;
            let (tenant, kind) = (tenant.name.clone(), kind.to_owned());
            locks.push(LockLine { number, tenant, kind, object, term, reason, by, set, ended });
        }
        Ok(Answer::Retention(RetentionAnswer::Locks { locks }))
    }

    fn pending(&self, caller: &Caller, all: bool) -> Result<Answer, AdminError> {
        let tenants = self.state.catalogue.tenants()?;
        let mut lines = Vec::new();
        for pending in self.state.catalogue.pendings()?.into_iter().rev().filter(|pending| all || pending.is_open()) {
            if let Some(tenant) = tenants.iter().find(|tenant| tenant.id == pending.tenant && caller.sees(tenant)) {
                lines.push(pending_line(pending, tenant.name.clone()));
            }
        }
        Ok(Answer::Retention(RetentionAnswer::Pending { pending: lines }))
    }
}

/// What a second person is asked: by ids, so that a number does not come to mean something else meanwhile.
fn exact(request: &RetentionRequest, deed: &Deed) -> RetentionRequest {
    match (request.clone(), deed) {
        (RetentionRequest::Forget { volume, reason, .. }, Deed::Forget(id)) => {
            RetentionRequest::Forget { volume, generation: id.to_string(), reason }
        }
        (other, _) => other,
    }
}

fn pending_line(pending: Pending, tenant: String) -> PendingLine {
    let (state, said, proof) = match &pending.state {
        PendingState::Waiting => ("waiting", None, None),
        PendingState::Working(_) => ("working", None, None),
        PendingState::Done(proof) => ("done", None, *proof),
        PendingState::Cancelled { by, reason } => ("cancelled", Some(format!("{by}: {reason}")), None),
        PendingState::Refused(why) => ("refused", Some(why.clone()), None),
    };
    PendingLine {
        number: pending.number,
        tenant,
        what: due::word(&pending.deed).into(),
        object: pending.object,
        reason: pending.reason,
        by: pending.by,
        asked: pending.asked,
        approved_by: pending.approved_by,
        approved: pending.approved,
        due: pending.due,
        state: state.into(),
        said,
        proof,
    }
}
