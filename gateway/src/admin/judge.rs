//! Before anything is done: whose it is, who may ask for it, whether a second person has to agree, and what is written into the audit log.

use super::seeds::seed_subject;
use super::{AccountRequest, Admin, AdminError, Answer, Authority, Bending, PolicyRequest, Report, Request, Signature};
use crate::access::accounts::AccountError;
use crate::access::agreement::{self, Cause};
use crate::access::{Caller, Right, Via};
use crate::catalogue::{Approval, CatalogueError, NewAudit, Site, Tenant};
use crate::export::ExportError;
use crate::policies::draft::Draft;
use crate::policies::{self, ChangeError};
use crate::rehydrate::RehydrateError;
use dedupe::UnixMillis;
use shaping::policy::Policy;
use std::time::Duration;

/// How long something may wait for a second person. A week holds a holiday; what is older was forgotten.
const WAITS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Characters of a detail in the audit log at most.
const MAX_DETAIL: usize = 500;

/// Of what kind an error is, for whoever has to answer with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What was named is not there, or not for whoever asks.
    Missing,
    /// What was asked for cannot be: a field is wrong.
    Invalid,
    /// It does not fit what is there now.
    Conflict,
    /// It was written for something else than what is there now.
    Stale,
    /// Not theirs to do.
    Forbidden,
    /// The gateway failed.
    Failed,
}

/// Why a second person has to agree, and the versions of the policies that were looked at.
type Looked = (Vec<Cause>, Vec<(dedupe::SiteId, u64)>);

/// What a request is about.
pub(super) struct Subject {
    /// What, in a word; `None`: it only looks.
    pub(super) what: Option<&'static str>,
    /// What it takes.
    pub(super) right: Right,
    /// Whose it is; `None`: of the whole gateway, or of whatever the caller sees.
    pub(super) tenant: Option<Tenant>,
    /// Only for whoever may act for the whole gateway.
    pub(super) whole: bool,
    pub(super) object: String,
    pub(super) detail: String,
}

impl Admin {
    /// Does what somebody asks for, if they may: checks, asks for a second person where one is needed, does it, and writes it down. Blocks.
    pub fn handle_as(
        &self,
        caller: &Caller,
        request: Request,
        report: &mut dyn FnMut(Report) -> bool,
    ) -> Result<Answer, AdminError> {
        let request = signed(request, caller);
        let subject = self.subject(caller, &request);
        let allowed = subject.and_then(|subject| {
            let tenant = subject.tenant.as_ref().map(|tenant| tenant.id);
            // Lists show what their caller sees: any scope will do.
            match subject.whole || tenant.is_some() {
                true => caller.require(subject.right, tenant)?,
                false if !caller.role.has(subject.right) => caller.require(subject.right, tenant)?,
                false => {}
            }
            Ok(subject)
        });
        let subject = match allowed {
            Ok(subject) => subject,
            Err(error) => {
                if matches!(error, AdminError::Forbidden(_)) && self.may_fill_the_log(caller) {
                    self.note(caller, "forbidden", None, String::new(), error.to_string(), "refused")?;
                }
                return Err(error);
            }
        };
        debug_assert_eq!(subject.what.is_none(), request.only_looks(), "{request:?}");
        let Some(what) = subject.what else { return self.perform(caller, request, report) };
        if let Some(waiting) = self.second_person(caller, &request, &subject)? {
            let detail = format!("number {}; {}", waiting.number, subject.detail);
            self.note(caller, what, subject.tenant.as_ref(), subject.object, detail, "waiting")?;
            return Ok(Answer::Waiting { number: waiting.number, causes: waiting.causes });
        }
        let done = self.perform(caller, request, report);
        let (detail, outcome) = match &done {
            Ok(_) => (subject.detail, "done"),
            Err(error) => (format!("{}: {error}", subject.detail), "failed"),
        };
        self.note(caller, what, subject.tenant.as_ref(), subject.object, detail, outcome)?;
        done
    }

    /// Whether one more refusal of this caller is written down: whoever has no rights must not fill the disk with that.
    fn may_fill_the_log(&self, caller: &Caller) -> bool {
        self.daemon.as_ref().is_none_or(|daemon| daemon.refusals.check_key(&caller.name).is_ok())
    }

    /// Writes into the audit log what somebody did, or was kept from.
    pub fn note(
        &self,
        caller: &Caller,
        what: &'static str,
        tenant: Option<&Tenant>,
        object: String,
        detail: String,
        outcome: &'static str,
    ) -> Result<(), AdminError> {
        let clean = |text: &str| -> String {
            text.chars().take(MAX_DETAIL).map(|c| if c.is_control() { ' ' } else { c }).collect()
        };
        self.state.catalogue.audit(NewAudit {
            time: self.state.now(),
            actor: clean(&caller.name),
            via: caller.via.word(),
            tenant: tenant.map(|tenant| tenant.name.clone()).unwrap_or_default(),
            what,
            object: clean(&object),
            detail: clean(detail.trim_start_matches(": ")),
            outcome,
        })?;
        Ok(())
    }

    fn subject(&self, caller: &Caller, request: &Request) -> Result<Subject, AdminError> {
        let looks = |tenant| Subject::new(None, Right::See, tenant, "");
        Ok(match request {
            Request::Sites | Request::Volumes | Request::Status | Request::Approvals { .. } => looks(None),
            Request::Generations { volume } => looks(Some(self.tenant_of_volume(caller, volume)?)),
            Request::Audit { .. } | Request::AuditCheck => {
                Subject { right: Right::Administer, whole: true, ..looks(None) }
            }
            Request::Tenant { name } => Subject::whole("tenant.add", name),
            Request::Tranquillity { worker, share } => Subject {
                detail: format!("{share} % of the disk's time"),
                ..Subject::whole("worker.tranquillity", worker)
            },
            Request::Site { tenant, site } => {
                let there = self.state.catalogue.tenants()?.into_iter().find(|known| known.name == *tenant);
                let there = there.filter(|tenant| caller.sees(tenant));
                let whole = there.is_none();
                Subject { whole, ..Subject::new(Some("site.add"), Right::Administer, there, site) }
            }
            Request::Token { tenant, site, .. } => {
                let there = self.state.catalogue.tenants()?.into_iter().find(|known| known.name == *tenant);
                let there = there.filter(|tenant| caller.sees(tenant));
                // A token makes its tenant where there is none, which is for whoever may make tenants.
                let whole = there.is_none();
                Subject { whole, ..Subject::new(Some("site.token"), Right::Administer, there, site) }
            }
            Request::Revoke { site } => {
                let (tenant, site) = self.site_for(caller, site)?;
                Subject::new(Some("site.revoke"), Right::Administer, Some(tenant), &site.name)
            }
            Request::Rehydrate { volume, generation, to, plan, .. } => {
                let tenant = self.tenant_of_volume(caller, volume)?;
                let what = (!plan).then_some("volume.rehydrate");
                let detail = format!("generation {generation} to {to}");
                Subject { detail, ..Subject::new(what, Right::Operate, Some(tenant), volume) }
            }
            Request::Domain(request) => self.domain_subject(caller, request)?,
            Request::Export(request) => self.export_subject(caller, request)?,
            Request::Target(request) => self.target_subject(caller, request)?,
            Request::Verify { volume, generation } => {
                let tenant = self.tenant_of_volume(caller, volume)?;
                let detail = format!("generation {generation}");
                Subject { detail, ..Subject::new(Some("volume.verify"), Right::Operate, Some(tenant), volume) }
            }
            Request::Backup { to, .. } => {
                only_here(caller, "backup")?;
                Subject::whole("gateway.backup", &to.display().to_string())
            }
            Request::Rebuild => {
                only_here(caller, "rebuild")?;
                Subject::whole("gateway.rebuild", "")
            }
            Request::Gc { plan: true } => Subject { what: None, ..Subject::whole("", "") },
            Request::Gc { plan: false } => Subject::whole("gateway.gc", ""),
            Request::Scrub => Subject::whole("gateway.scrub", ""),
            Request::Authority(Authority::List) => looks(None),
            Request::Authority(what) => Subject::whole("gateway.authority", &format!("{what:?}").to_lowercase()),
            Request::Account(request) => self.account_subject(caller, request)?,
            Request::Answer { number, approve, reason } => {
                let approval = self.state.catalogue.approval(*number)?.ok_or(AdminError::NoApproval(*number))?;
                let tenant = self.tenant_seen(caller, approval.tenant)?.ok_or(AdminError::NoApproval(*number))?;
                let what = if *approve { "approval.approve" } else { "approval.refuse" };
                let detail = format!("{}; {reason}", approval.what);
                Subject { detail, ..Subject::new(Some(what), Right::Approve, Some(tenant), &number.to_string()) }
            }
            Request::Policy(request) => self.policy_subject(caller, request)?,
            Request::Proof(_) => looks(None),
            Request::Retention(request) => self.retention_subject(caller, request)?,
            Request::Release(request) => self.release_subject(caller, request)?,
            Request::Rollout(request) => self.rollout_subject(request)?,
            Request::Seed(request) => seed_subject(caller, request)?,
        })
    }

    fn account_subject(&self, caller: &Caller, request: &AccountRequest) -> Result<Subject, AdminError> {
        // The rules of accounts are finer than a right of a tenant; `access::accounts` knows them. Here it is written down.
        let subject = |what, name: &str, detail: String| Subject {
            detail,
            ..Subject::new(Some(what), Right::Administer, None, name)
        };
        let own = |name: &str| {
            if caller.name == name && caller.via != Via::CommandLine { Right::See } else { Right::Administer }
        };
        Ok(match request {
            AccountRequest::List => Subject::new(None, Right::Administer, None, ""),
            AccountRequest::Tokens { account } => Subject::new(None, own(account), None, ""),
            AccountRequest::Add { name, role, tenant } => {
                let whose = tenant.as_deref().unwrap_or("the whole gateway");
                subject("account.add", name, format!("{} of {whose}", role.word()))
            }
            AccountRequest::Change { name, role, disabled } => {
                let role = role.map(|role| format!("role {}", role.word()));
                let access = disabled.map(|disabled| if disabled { "disabled" } else { "enabled" }.to_owned());
                let detail: Vec<String> = role.into_iter().chain(access).collect();
                subject("account.change", name, detail.join(", "))
            }
            AccountRequest::ResetPassword { name } => subject("account.password-reset", name, String::new()),
            AccountRequest::Remove { name } => subject("account.remove", name, String::new()),
            AccountRequest::AddToken { account, label, role, days } => Subject {
                right: own(account),
                ..subject("token.add", account, format!("{label}, {}, {days} days", role.word()))
            },
            AccountRequest::RemoveToken { account, id } => {
                Subject { right: own(account), ..subject("token.remove", account, id.clone()) }
            }
        })
    }

    fn policy_subject(&self, caller: &Caller, request: &PolicyRequest) -> Result<Subject, AdminError> {
        let of = |what: Option<&'static str>, site: &str, detail: String| {
            let (tenant, site) = self.site_for(caller, site)?;
            let right = if what.is_none() { Right::See } else { Right::Operate };
            Ok::<_, AdminError>(Subject { detail, ..Subject::new(what, right, Some(tenant), &site.name) })
        };
        let why = |author: &Signature, what: &str| {
            format!("{what}{}{}", if what.is_empty() { "" } else { "; " }, author.reason)
        };
        match request {
            PolicyRequest::Show { site, .. }
            | PolicyRequest::Preview { site, .. }
            | PolicyRequest::History { site }
            | PolicyRequest::Overrides { site }
            | PolicyRequest::Report { site, .. } => of(None, site, String::new()),
            PolicyRequest::Set { site, all_of, sites, author, .. } => {
                let (tenant, names) = self.whose(caller, site, all_of, sites)?;
                let detail = why(author, "");
                Ok(Subject { detail, ..Subject::new(Some("policy.set"), Right::Operate, Some(tenant), &names) })
            }
            PolicyRequest::Schedule { sites, author, .. } => {
                let (tenant, names) = self.whose(caller, &None, &None, sites)?;
                let detail = why(author, "");
                Ok(Subject { detail, ..Subject::new(Some("policy.schedule"), Right::Operate, Some(tenant), &names) })
            }
            PolicyRequest::Bend { site, bend, until, seconds, volume, author, .. } => {
                let what = match bend {
                    Bending::Pause => "pause".to_owned(),
                    Bending::Boost { rate, pierce } => {
                        format!("boost {rate}{}", if *pierce { ", also in blackouts" } else { "" })
                    }
                    Bending::Class(class) => format!("class {class}"),
                    Bending::Weight(weight) => format!("weight {weight}"),
                };
                let end = until.as_ref().map(|until| format!(" until {until}"));
                let end = end.or(seconds.map(|seconds| format!(" for {seconds} s"))).unwrap_or_default();
                let volume = volume.as_ref().map(|volume| format!(" of {volume}")).unwrap_or_default();
                of(Some("override.add"), site, why(author, &format!("{what}{volume}{end}")))
            }
            PolicyRequest::EndOverride { site, id, author } => {
                of(Some("override.end"), site, why(author, &format!("override {id}")))
            }
            PolicyRequest::Hold { site, author } => of(Some("site.hold"), site, why(author, "")),
            PolicyRequest::Release { site, author } => of(Some("site.release"), site, why(author, "")),
            PolicyRequest::Holidays { site, author, .. } => of(Some("policy.holidays"), site, why(author, "")),
        }
    }

    /// The tenant of sites that a request names, and their names.
    fn whose(
        &self,
        caller: &Caller,
        site: &Option<String>,
        all_of: &Option<String>,
        sites: &[String],
    ) -> Result<(Tenant, String), AdminError> {
        let found = self.sites_of(site.clone(), all_of.clone(), sites);
        let found = found.map_err(|error| unseen(caller, error, site, all_of.as_deref()))?;
        let first = found.first().ok_or(AdminError::Whose)?;
        let tenant = self.tenant_seen(caller, first.tenant)?.ok_or_else(|| no_site(&first.name))?;
        if let Some(other) = found.iter().find(|site| site.tenant != tenant.id) {
            // One request, one tenant: rights and approvals belong to tenants.
            return Err(no_site(&other.name));
        }
        let names: Vec<&str> = found.iter().map(|site| site.name.as_str()).collect();
        Ok((tenant, names.join(", ")))
    }

    // ---- a second person

    /// Notes what a second person has to agree to; `None`: nobody has to, or nobody could.
    fn second_person(
        &self,
        caller: &Caller,
        request: &Request,
        subject: &Subject,
    ) -> Result<Option<Approval>, AdminError> {
        if let Request::Retention(asked) = request {
            return self.second_person_for_keeping(caller, asked, subject);
        }
        let (Request::Policy(asked), Some(tenant)) = (request, &subject.tenant) else { return Ok(None) };
        if !self.has_approvers(tenant)? {
            return Ok(None);
        }
        let (causes, seen) = self.causes(asked)?;
        if causes.is_empty() {
            return Ok(None);
        }
        let now = self.state.now();
        let mut texts: Vec<String> = causes.iter().map(ToString::to_string).collect();
        texts.sort();
        texts.dedup();
        let approval = Approval {
            number: 0,
            asked: now,
            by: caller.name.clone(),
            tenant: tenant.id,
            request: serde_json::to_string(request).expect("every request is plain JSON"),
            what: format!("{} of {}: {}", subject.what.unwrap_or_default(), subject.object, subject.detail),
            causes: texts,
            seen,
            valid_until: UnixMillis(now.0 + WAITS.as_millis() as u64),
            answer: None,
        };
        Ok(Some(self.state.catalogue.add_approval(approval)?))
    }

    /// Whether somebody speaks for the owners of a tenant's lines.
    pub(crate) fn has_approvers(&self, tenant: &Tenant) -> Result<bool, CatalogueError> {
        let accounts = self.state.catalogue.accounts()?;
        Ok(accounts.iter().any(|account| {
            account.role == crate::access::Role::Approver && !account.disabled && account.scope.covers(tenant.id)
        }))
    }

    /// Why a request about policies needs the owner's word, and which versions were looked at.
    fn causes(&self, request: &PolicyRequest) -> Result<Looked, AdminError> {
        let (mut causes, mut seen) = (Vec::new(), Vec::new());
        match request {
            PolicyRequest::Set { site, all_of, sites, document, .. } => {
                let after = policies::check(document, policies::timestamp(self.state.now()))?;
                for site in self.sites_of(site.clone(), all_of.clone(), sites)? {
                    let row = self.state.catalogue.policy(site.id)?;
                    seen.push((site.id, row.as_ref().map_or(0, |row| row.version)));
                    if let Some(row) = row {
                        let before = Policy::parse(&row.document).map_err(ChangeError::from)?;
                        causes.extend(agreement::of_policy(&before, &after));
                    }
                }
            }
            PolicyRequest::Schedule { sites, document, .. } => {
                let draft = Draft::read(document)?;
                for site in self.sites_of(None, None, sites)? {
                    let (before, row) = policies::in_force(&self.state.catalogue, &site)?;
                    seen.push((site.id, row.version));
                    let after = Policy::parse(&draft.applied(&row.document)?).map_err(ChangeError::from)?;
                    causes.extend(agreement::of_policy(&before, &after));
                }
            }
            PolicyRequest::Bend { site, bend: Bending::Boost { pierce: true, .. }, .. } => {
                causes.push(Cause::Pierce);
                let site = self.site(site)?;
                seen.push((site.id, self.state.catalogue.policy(site.id)?.map_or(0, |row| row.version)));
            }
            _ => {}
        }
        Ok((causes, seen))
    }

    // ---- whose it is

    /// A site and its tenant, if the caller sees them.
    pub(crate) fn site_for(&self, caller: &Caller, name: &str) -> Result<(Tenant, Site), AdminError> {
        let site = self.state.catalogue.find_site(name).map_err(|error| match error {
            // Whether another tenant has a site of the name is nobody's business.
            CatalogueError::NoTenant(_) => no_site(name),
            other => other.into(),
        })?;
        let tenant = self.tenant_seen(caller, site.tenant)?.ok_or_else(|| no_site(name))?;
        Ok((tenant, site))
    }

    pub(super) fn tenant_of_volume(&self, caller: &Caller, volume: &str) -> Result<Tenant, AdminError> {
        let wrong = || AdminError::VolumeName(crate::text::printable(volume));
        let (site, _) = volume.rsplit_once('/').ok_or_else(wrong)?;
        Ok(self.site_for(caller, site)?.0)
    }

    pub(super) fn tenant_seen(&self, caller: &Caller, id: dedupe::TenantId) -> Result<Option<Tenant>, CatalogueError> {
        Ok(self.state.catalogue.tenants()?.into_iter().find(|tenant| tenant.id == id && caller.sees(tenant)))
    }
}

impl Subject {
    pub(super) fn new(what: Option<&'static str>, right: Right, tenant: Option<Tenant>, object: &str) -> Subject {
        Subject { what, right, tenant, whole: false, object: object.to_owned(), detail: String::new() }
    }

    fn whole(what: &'static str, object: &str) -> Subject {
        Subject { whole: true, ..Subject::new(Some(what), Right::Administer, None, object) }
    }
}

/// Who comes with an account is who they are, whatever the request says; a command says who runs it.
fn signed(mut request: Request, caller: &Caller) -> Request {
    if caller.via != Via::CommandLine
        && let Request::Policy(
            PolicyRequest::Set { author, .. }
            | PolicyRequest::Schedule { author, .. }
            | PolicyRequest::Bend { author, .. }
            | PolicyRequest::EndOverride { author, .. }
            | PolicyRequest::Hold { author, .. }
            | PolicyRequest::Release { author, .. }
            | PolicyRequest::Holidays { author, .. },
        ) = &mut request
    {
        author.actor.clone_from(&caller.name);
    }
    request
}

pub(super) fn only_here(caller: &Caller, command: &'static str) -> Result<(), AdminError> {
    if caller.via == Via::CommandLine { Ok(()) } else { Err(AdminError::CommandLineOnly(command)) }
}

fn no_site(name: &str) -> AdminError {
    CatalogueError::NoSite(crate::text::printable(name)).into()
}

/// What is not there and what is not seen are answered alike.
fn unseen(caller: &Caller, error: AdminError, site: &Option<String>, all_of: Option<&str>) -> AdminError {
    match (&error, caller.scope) {
        (_, crate::access::Scope::Whole) => error,
        (AdminError::Catalogue(CatalogueError::NoTenant(_)), _) => {
            no_site(site.as_deref().or(all_of).unwrap_or_default())
        }
        _ => error,
    }
}

impl AdminError {
    /// Of what kind it is.
    pub fn fault(&self) -> Fault {
        use AdminError as E;
        match self {
            E::Catalogue(error) => of_catalogue(error),
            E::NoVolume(_)
            | E::NoGeneration { .. }
            | E::NoTarget(_)
            | E::NoDomain(_)
            | E::NoPoint { .. }
            | E::NoRun(_)
            | E::NoOrder { .. }
            | E::NoApproval(_)
            | E::NoWorker(_)
            | E::NoProof(_) => Fault::Missing,
            E::Forbidden(_)
            | E::OwnRequest
            | E::CommandLineOnly(_)
            | E::Outside(..)
            | E::NoTargets
            | E::NoLibvirt
            | E::OutsideCredentials(_)
            | E::NoCredentials
            | E::NotTheirEnvironment => Fault::Forbidden,
            E::Account(error) => match error {
                AccountError::Catalogue(error) => of_catalogue(error),
                AccountError::Forbidden(_) | AccountError::Beyond(..) => Fault::Forbidden,
                AccountError::None(_) | AccountError::NoToken(_) => Fault::Missing,
                AccountError::Exists(_) | AccountError::LastAdministrator(_) | AccountError::TooMany => Fault::Conflict,
                _ => Fault::Invalid,
            },
            E::Policy(error) => match error {
                ChangeError::Catalogue(error) => of_catalogue(error),
                ChangeError::NoPolicy(_) | ChangeError::NoVersion { .. } | ChangeError::NoOverride { .. } => {
                    Fault::Missing
                }
                ChangeError::NoSites(_) => Fault::Missing,
                ChangeError::Moved { .. } => Fault::Stale,
                ChangeError::Held { .. } | ChangeError::NotHeld(_) => Fault::Conflict,
                ChangeError::Report(crate::policies::report::ReportError::Catalogue(error)) => of_catalogue(error),
                _ => Fault::Invalid,
            },
            E::Rate(_) | E::Class(_) | E::Whose | E::VolumeName(_) | E::Share(_) | E::ForeignTarget { .. } => {
                Fault::Invalid
            }
            E::NoDisk(_)
            | E::DomainExists(_)
            | E::DomainBusy
            | E::UnderDomain { .. }
            | E::TargetExists(_)
            | E::TargetInUse(..)
            | E::TargetHasRuns(..)
            | E::KeptAtLatest { .. }
            | E::NotFree(_)
            | E::AmbiguousTarget(_) => Fault::Conflict,
            E::Export(ExportError::None(_)) => Fault::Missing,
            E::Export(
                ExportError::Exists(_) | ExportError::Undecided(_) | ExportError::TooMany | ExportError::NotRunning,
            ) => Fault::Conflict,
            E::Rehydrate(RehydrateError::Target(_) | RehydrateError::Draft(_) | RehydrateError::Busy(_)) => {
                Fault::Conflict
            }
            E::Answered(..) | E::Expired(_) | E::Running | E::NoAddress | E::Cancelled => Fault::Conflict,
            E::Stale(_) => Fault::Stale,
            E::Ca(_) => Fault::Conflict,
            E::Retention(error) => error.fault(),
            E::Releases(error) => error.fault(),
            E::NoSeed(_) => Fault::Missing,
            E::Importing | E::SeedState { .. } => Fault::Conflict,
            E::Import(_) | E::Waiting(_) => Fault::Failed,
            E::State(_)
            | E::Store(_)
            | E::Rehydrate(_)
            | E::Export(_)
            | E::Backup(_)
            | E::AuditBroken(_)
            | E::Mismatch { .. } => Fault::Failed,
        }
    }
}

fn of_catalogue(error: &CatalogueError) -> Fault {
    match error {
        CatalogueError::NoTenant(_) | CatalogueError::NoSite(_) => Fault::Missing,
        CatalogueError::Name(_) => Fault::Invalid,
        CatalogueError::Ambiguous(_) => Fault::Conflict,
        _ => Fault::Failed,
    }
}
