//! What each request does.

use super::{AdminError, Answer, Authority, GenerationLine, Report, Request, SiteLine, VolumeLine};
use crate::access::Caller;
use crate::access::sessions::Sessions;
use crate::catalogue::{Site, Tenant};
use crate::live::Live;
use crate::rehydrate;
use crate::seeds::{self, OfLineage};
use crate::state::{State, TenantStore};
use crate::workers::{self, Board, WorkerView};
use crate::{backup, enrol, repairs};
use dedupe::{BLOCK, Generation, Lineage, Pace, Progress, Store, StoreOptions, UnixMillis};
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wire::message::Refusal;

/// How often progress is reported: often enough to be smooth for people.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// Handles requests, with a running daemon's sessions or without.
#[derive(Clone)]
pub struct Admin {
    pub(super) state: Arc<State>,
    pub(super) daemon: Option<Running>,
    /// Held while a domain is defined, started or removed: libvirt and the catalogue have to say the same.
    pub(super) changing_domains: Arc<Mutex<()>>,
    /// Held while media are imported: two would take the same slabs in.
    pub(super) importing: Arc<Mutex<()>>,
}

#[derive(Clone)]
pub(super) struct Running {
    pub(super) live: Arc<Live>,
    pub(super) board: Arc<Board>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) runtime: Handle,
    /// What serves generations as block devices.
    pub(super) exports: crate::export::Server,
    /// Ends with the daemon.
    pub(super) stop: CancellationToken,
    /// Refusals for want of rights that are written into the audit log, by caller.
    pub(super) refusals: Arc<Limiter>,
}

type Limiter = governor::RateLimiter<
    String,
    governor::state::keyed::DefaultKeyedStateStore<String>,
    governor::clock::DefaultClock,
>;

/// Refusals of one caller in a minute that are written down: a person who is curious makes a few, a script that is would fill the log.
const REFUSALS_NOTED: NonZeroU32 = NonZeroU32::new(30).expect("not zero");

impl Admin {
    /// For a command that opened the state itself.
    pub fn alone(state: Arc<State>) -> Admin {
        Admin { state, daemon: None, changing_domains: Arc::default(), importing: Arc::default() }
    }

    pub(crate) fn of_daemon(
        state: Arc<State>,
        live: Arc<Live>,
        board: Arc<Board>,
        sessions: Arc<Sessions>,
        (exports, stop): (crate::export::Server, CancellationToken),
    ) -> Admin {
        let refusals = Arc::new(Limiter::keyed(governor::Quota::per_minute(REFUSALS_NOTED)));
        let runtime = Handle::current();
        let daemon = Some(Running { live, board, sessions, runtime, exports, stop, refusals });
        Admin { state, daemon, changing_domains: Arc::default(), importing: Arc::default() }
    }

    /// The gateway's time.
    pub fn now(&self) -> UnixMillis {
        self.state.now()
    }

    /// Does what is asked by whoever runs this process, see [`Admin::handle_as`].
    pub fn handle(&self, request: Request, report: &mut dyn FnMut(Report) -> bool) -> Result<Answer, AdminError> {
        self.handle_as(&Caller::command_line(own_login()), request, report)
    }

    /// Does what is asked, once it is allowed. `report` hears how far it is, and says whether to go on.
    pub(super) fn perform(
        &self,
        caller: &Caller,
        request: Request,
        report: &mut dyn FnMut(Report) -> bool,
    ) -> Result<Answer, AdminError> {
        match request {
            Request::Token { tenant, site, valid_seconds } => self.token(&tenant, &site, valid_seconds),
            Request::Sites => self.sites(caller),
            Request::Volumes => self.volumes(caller),
            Request::Generations { volume } => self.generations(&volume),
            Request::Rehydrate { volume, generation, to, proof, plan } => {
                self.rehydrate(caller, (&volume, &generation), &to, proof, plan, report)
            }
            Request::Domain(request) => self.domain(caller, request),
            Request::Export(request) => self.export(caller, request),
            Request::Target(request) => self.target(caller, request, report),
            Request::Revoke { site } => self.revoke(&site),
            Request::Backup { to, passphrase_file } => {
                let encrypted = backup::back_up(&self.state, &to, passphrase_file.as_deref())?;
                Ok(Answer::BackedUp { to, encrypted })
            }
            Request::Rebuild => self.rebuild(report),
            Request::Gc { plan } => self.gc(plan, report),
            Request::Scrub => self.scrub(report),
            Request::Authority(what) => self.authority(&what),
            Request::Policy(request) => self.policy(request),
            Request::Status => Ok(self.status()),
            Request::Verify { volume, generation } => self.verify(&volume, &generation, report),
            Request::Tenant { name } => self.add_tenant(name),
            Request::Site { tenant, site } => self.add_site(&tenant, &site),
            Request::Tranquillity { worker, share } => self.set_tranquillity(&worker, share),
            Request::Account(request) => self.account(caller, request),
            Request::Approvals { all } => self.approvals(caller, all),
            Request::Answer { number, approve, reason } => self.answer(caller, (number, approve, &reason), report),
            Request::Audit { after, most } => self.audit(after, most),
            Request::AuditCheck => self.audit_check(),
            Request::Retention(request) => self.retention(caller, request),
            Request::Proof(request) => self.proof(caller, &request),
            Request::Release(request) => self.release(caller, request, report),
            Request::Rollout(request) => self.rollout(caller, request),
            Request::Seed(request) => self.seed(caller, request, report),
        }
    }

    fn add_tenant(&self, name: String) -> Result<Answer, AdminError> {
        let tenant = self.state.catalogue.tenant(&name, self.state.now())?;
        self.state.tenant(tenant.id)?;
        Ok(Answer::Tenant { tenant: tenant.name })
    }

    fn add_site(&self, tenant: &str, site: &str) -> Result<Answer, AdminError> {
        crate::catalogue::check_name(site)?;
        let tenant = self.state.catalogue.tenant(tenant, self.state.now())?;
        self.state.tenant(tenant.id)?;
        let (site, made) = self.state.catalogue.add_site(&tenant, site, self.state.now())?;
        Ok(Answer::Site { site: site.name, made })
    }

    /// Kept, and used from the worker's next store on.
    fn set_tranquillity(&self, worker: &str, share: u32) -> Result<Answer, AdminError> {
        let name = workers::paced(worker).ok_or_else(|| AdminError::NoWorker(crate::text::printable(worker)))?;
        let known = u8::try_from(share).ok().filter(|share| (1..=100).contains(share));
        let known = known.ok_or(AdminError::Share(share))?;
        self.state.catalogue.set_tranquillity(name, known)?;
        if let Some(daemon) = &self.daemon {
            daemon.board.set_share(name, known);
        }
        Ok(Answer::Done { what: format!("{name} may take {share} % of the disk's time") })
    }

    /// What works in the background; nothing while no daemon runs.
    pub(crate) fn workers(&self) -> Vec<WorkerView> {
        self.daemon.as_ref().map(|daemon| daemon.board.views()).unwrap_or_default()
    }

    /// Reads a generation from the store and compares what it hashes to with its root.
    fn verify(
        &self,
        volume: &str,
        generation: &str,
        report: &mut dyn FnMut(Report) -> bool,
    ) -> Result<Answer, AdminError> {
        let (tenant, generation) = self.find_generation(volume, generation)?;
        let found = watch(report, |progress, phase| {
            phase("reading the store");
            rehydrate::root_of_generation(&tenant.store, generation.id, progress)
        })?;
        let wanted = generation.sealed.map(|sealed| sealed.root);
        if Some(found) != wanted {
            let wanted = wanted.map_or_else(|| "nothing".into(), |root| root.to_string());
            tracing::error!(volume, number = generation.number, %found, wanted, "a generation in the store is not what was captured");
            return Err(AdminError::Mismatch { number: generation.number, found: found.to_string(), wanted });
        }
        tracing::info!(volume, number = generation.number, "verified in the store");
        Ok(Answer::Verified { number: generation.number, root: found.to_string(), bytes: generation.size.0 })
    }

    fn token(&self, tenant: &str, site: &str, valid_seconds: u64) -> Result<Answer, AdminError> {
        if self.state.catalogue.addresses()?.is_empty() {
            return Err(AdminError::NoAddress);
        }
        self.not_leaving(tenant, site)?;
        let (now, valid_for) = (self.state.now(), Duration::from_secs(valid_seconds));
        let (token, _, site) = enrol::invite(&self.state, tenant, site, valid_for, now)?;
        let valid_until = UnixMillis(now.0.saturating_add(valid_for.as_millis() as u64));
        Ok(Answer::Token { token: token.reveal().to_string(), site: site.name, valid_until })
    }

    fn sites(&self, caller: &Caller) -> Result<Answer, AdminError> {
        let mut lines = Vec::new();
        for tenant in self.state.catalogue.tenants()?.into_iter().filter(|tenant| caller.sees(tenant)) {
            let sites = self.state.catalogue.sites()?.into_iter().filter(|site| site.tenant == tenant.id);
            for site in sites {
                lines.push(self.site_line(&tenant, site)?);
            }
        }
        Ok(Answer::Sites { sites: lines })
    }

    fn site_line(&self, tenant: &Tenant, site: Site) -> Result<SiteLine, AdminError> {
        let live = self.daemon.as_ref().and_then(|daemon| daemon.live.of_site(site.id));
        let state = match (&live, site.revoked, site.seen) {
            (_, Some(_), _) => "revoked",
            (Some(_), None, _) => "connected",
            (None, None, Some(_)) => "away",
            (None, None, None) => "never connected",
        };
        let catalogue = &self.state.catalogue;
        let (policy, held) = (catalogue.policy(site.id)?, catalogue.edge_policy(site.id)?);
        Ok(SiteLine {
            tenant: tenant.name.clone(),
            site: site.name,
            id: site.id.to_string(),
            state: state.into(),
            seen: site.seen,
            software: site.software,
            doing: live.map(|live| live.status().doing).unwrap_or_default(),
            policy: policy.map(|row| row.version),
            policy_held: held.as_ref().map(|held| held.version),
            policy_refused: held.and_then(|held| held.refused),
        })
    }

    fn volumes(&self, caller: &Caller) -> Result<Answer, AdminError> {
        let mut lines = Vec::new();
        let mut of_lineages = seeds::of_lineages(&self.state.catalogue)?;
        for (tenant, store) in self.state.all_tenants()?.into_iter().filter(|(tenant, _)| caller.sees(tenant)) {
            for lineage in store.store.lineages()? {
                let site = self.site_name(&lineage)?;
                lines.push(volume_line(
                    &tenant,
                    site,
                    &lineage,
                    &store.store.generations(lineage.id)?,
                    &of_lineages.remove(&lineage.id).unwrap_or_default(),
                ));
            }
        }
        lines.sort_by(|a, b| (&a.tenant, &a.site, &a.volume).cmp(&(&b.tenant, &b.site, &b.volume)));
        Ok(Answer::Volumes { volumes: lines })
    }

    pub(super) fn site_name(&self, lineage: &Lineage) -> Result<String, AdminError> {
        let Some(id) = lineage.site else { return Ok("-".into()) };
        Ok(self.state.catalogue.site(id)?.map_or_else(|| id.to_string(), |site| site.name))
    }

    fn generations(&self, volume: &str) -> Result<Answer, AdminError> {
        let (tenant, lineage) = self.find_volume(volume)?;
        let generations = tenant.store.generations(lineage.id)?;
        let line = |generation: &Generation| GenerationLine {
            number: generation.number,
            id: generation.id.to_string(),
            captured: generation.captured_at,
            sealed: generation.sealed.map(|sealed| sealed.at),
            size: generation.size.0,
            new_bytes: generation.stats.new_blocks * BLOCK as u64,
            coded_bytes: generation.stats.coded_bytes,
            root: generation.sealed.map(|sealed| sealed.root.to_string()),
        };
        Ok(Answer::Generations { generations: generations.iter().map(line).collect() })
    }

    /// The volume of that name. Of several (removed and added again at the edge) the one with the newest generation.
    pub(crate) fn find_volume(&self, text: &str) -> Result<(Arc<TenantStore>, Lineage), AdminError> {
        let printable = || crate::text::printable(text);
        let (site, volume) = text.rsplit_once('/').ok_or_else(|| AdminError::VolumeName(printable()))?;
        let site = self.state.catalogue.find_site(site)?;
        let tenant = self.state.tenant(site.tenant)?;
        let mut found: Option<(Option<UnixMillis>, Lineage)> = None;
        for lineage in tenant.store.lineages()? {
            if lineage.site == Some(site.id) && lineage.name == volume {
                let newest = tenant.store.latest(lineage.id)?.map(|generation| generation.captured_at);
                if found.as_ref().is_none_or(|(best, _)| newest > *best) {
                    found = Some((newest, lineage));
                }
            }
        }
        let (_, lineage) = found.ok_or_else(|| AdminError::NoVolume(printable()))?;
        Ok((tenant, lineage))
    }

    pub(crate) fn find_generation(
        &self,
        volume: &str,
        wanted: &str,
    ) -> Result<(Arc<TenantStore>, Generation), AdminError> {
        let (tenant, lineage) = self.find_volume(volume)?;
        let mut sealed = tenant.store.generations(lineage.id)?;
        sealed.retain(Generation::is_sealed);
        let found = match wanted {
            "latest" => sealed.pop(),
            text => sealed.into_iter().find(|known| known.number.to_string() == text || known.id.to_string() == text),
        };
        let missing = || AdminError::NoGeneration {
            volume: crate::text::printable(volume),
            generation: crate::text::printable(wanted),
        };
        Ok((tenant, found.ok_or_else(missing)?))
    }

    pub(super) fn revoke(&self, site: &str) -> Result<Answer, AdminError> {
        let site = self.state.catalogue.find_site(site)?;
        self.state.catalogue.revoke(site.id, self.state.now())?;
        let mut was_connected = false;
        if let Some(daemon) = &self.daemon {
            was_connected = daemon.live.of_site(site.id).is_some();
            let _runtime = daemon.runtime.enter();
            daemon.live.end(site.id, Refusal::Revoked);
        }
        tracing::warn!(site = %site.name, "revoked");
        Ok(Answer::Revoked { site: site.name, was_connected })
    }

    fn rebuild(&self, report: &mut dyn FnMut(Report) -> bool) -> Result<Answer, AdminError> {
        if self.daemon.is_some() {
            return Err(AdminError::Running);
        }
        backup::recover_tenants(&self.state)?;
        let (mut volumes, mut generations, mut unnamed_sites) = (0, 0, Vec::new());
        let tenants = self.state.catalogue.tenants()?;
        for tenant in &tenants {
            let (index, packs, keys) = self.state.open_parts(tenant.id)?;
            backup::set_aside(&index)?;
            let store = watch(report, |progress, phase| {
                phase("reading packs");
                Store::rebuild(&index, packs, keys, StoreOptions::default(), progress)
            })?;
            for lineage in store.lineages()? {
                volumes += 1;
                generations += store.generations(lineage.id)?.len();
                unnamed_sites.extend(backup::recover_site(&self.state, tenant.id, &lineage)?);
            }
        }
        Ok(Answer::Rebuilt { tenants: tenants.len(), volumes, generations, unnamed_sites })
    }

    fn gc(&self, plan_only: bool, report: &mut dyn FnMut(Report) -> bool) -> Result<Answer, AdminError> {
        let (mut plans, mut freed) = (Vec::new(), 0);
        for (tenant, store) in self.state.all_tenants()? {
            let plan = watch(report, |progress, phase| {
                phase("looking for what nothing needs");
                store.store.gc_plan(progress)
            })?;
            plans.push(format!("{}: {plan}", tenant.name));
            if !plan_only {
                freed += watch(report, |progress, phase| {
                    phase("giving room back");
                    store.store.gc(&plan, Pace(1.0), progress)
                })?;
            }
        }
        Ok(Answer::Gc { plans, freed_bytes: (!plan_only).then_some(freed) })
    }

    fn scrub(&self, report: &mut dyn FnMut(Report) -> bool) -> Result<Answer, AdminError> {
        let (mut damages, mut mended, mut asked, mut waiting) = (Vec::new(), 0, 0, 0);
        for (tenant, store) in self.state.all_tenants()? {
            let found = watch(report, |progress, phase| {
                phase("reading packs");
                store.store.scrub(Pace(1.0), progress)
            })?;
            if let Some(daemon) = &self.daemon {
                daemon.live.metrics().scrubbed(&found);
                let repairs = repairs::ask(&store, &daemon.live, &found);
                asked += repairs.now;
                waiting += repairs.later;
            }
            for damage in found {
                mended += usize::from(damage.mended);
                damages.push(format!("{}: pack {}: {}", tenant.name, damage.pack, damage.what));
            }
        }
        Ok(Answer::Scrubbed { damages, mended, asked, waiting })
    }

    fn authority(&self, what: &Authority) -> Result<Answer, AdminError> {
        let mut authorities = self.state.authorities();
        match what {
            Authority::List => {}
            Authority::Add => drop(authorities.add(self.state.now())?),
            Authority::Use(number) => authorities.sign_with(*number)?,
            Authority::Retire(number) => authorities.retire(*number)?,
        }
        if let (Some(daemon), false) = (&self.daemon, *what == Authority::List) {
            daemon.board.wake("certificate"); // listens with the new ones at once
        }
        Ok(Answer::Authorities { authorities: authorities.list().collect() })
    }

    fn status(&self) -> Answer {
        let (connected, workers) = match &self.daemon {
            Some(daemon) => (daemon.live.connected(), daemon.board.lines()),
            None => (0, Vec::new()),
        };
        Answer::Status { running: self.daemon.is_some(), connected, workers }
    }
}

/// The login name of whoever runs this process, for the audit log.
fn own_login() -> String {
    login_of(nix::unistd::getuid().as_raw())
}

/// The login name of a user of this machine.
pub(super) fn login_of(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

fn volume_line(
    tenant: &Tenant,
    site: String,
    lineage: &Lineage,
    generations: &[Generation],
    seeds: &OfLineage,
) -> VolumeLine {
    let latest = generations.iter().rev().find(|generation| generation.is_sealed());
    VolumeLine {
        tenant: tenant.name.clone(),
        site,
        volume: lineage.name.clone(),
        lineage: lineage.id.to_string(),
        generations: generations.iter().filter(|generation| generation.is_sealed()).count(),
        latest: latest.map(|generation| generation.number),
        captured: latest.map(|generation| generation.captured_at),
        size: latest.or(generations.last()).map_or(0, |generation| generation.size.0),
        arriving: generations.iter().find(|generation| !generation.is_sealed()).map(|draft| draft.stats.parcels),
        seed: seeds.seed.clone(),
        waiting: seeds.waiting,
    }
}

/// Runs `work` on a thread of its own while `report` hears how far it is; work whose listener is gone is cancelled.
pub fn watch<T: Send, E: Send>(
    report: &mut dyn FnMut(Report) -> bool,
    work: impl FnOnce(&Progress, &dyn Fn(&'static str)) -> Result<T, E> + Send,
) -> Result<T, E> {
    let (progress, phase) = (Progress::default(), Mutex::new(""));
    let (ended_in, ended) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        let (progress, phase) = (&progress, &phase);
        let worker = scope.spawn(move || {
            let set = |name| *phase.lock().expect("a phase is only set") = name;
            let done = work(progress, &set);
            let _nobody_waits = ended_in.send(());
            done
        });
        // A worker that panics drops its end of the channel, which ends the waiting too.
        while ended.recv_timeout(REPORT_EVERY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let now = Report {
                phase: (*phase.lock().expect("a phase is only set")).to_owned(),
                done: progress.done.load(Ordering::Relaxed),
                total: progress.total.load(Ordering::Relaxed),
                written: progress.stored.load(Ordering::Relaxed),
            };
            if !report(now) {
                progress.cancel();
            }
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
