//! What each request about targets does.

use super::{OrderLine, PointLine, RunLine, TargetAnswer, TargetLine, TargetRequest};
use crate::access::{Caller, Right, Via};
use crate::admin::judge::Subject;
use crate::admin::{Admin, AdminError, Answer, DomainRow, Report, watch};
use crate::catalogue::{Tenant, check_name};
use crate::rehydrate::orders;
use crate::rehydrate::places::Place;
use crate::rehydrate::standing::{Held, Sum, rests};
use crate::rehydrate::{self, Asked, Limits, Phase, Proof, RehydrateError, Rehydration, Run, Standing, Watch, Where};
use crate::retention::Kept;
use crate::state::TenantStore;
use dedupe::{Lineage, LineageId, RunId, SiteId, TenantId};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use targets::{Credentials, Image, Keeps, Point, Stop, Target};

impl Admin {
    pub(in crate::admin) fn target(
        &self,
        caller: &Caller,
        request: TargetRequest,
        report: &mut dyn FnMut(Report) -> bool,
    ) -> Result<Answer, AdminError> {
        let done = |what: String| Ok(Answer::Done { what });
        match request {
            TargetRequest::List => self.targets(caller),
            TargetRequest::Add { tenant, name, settings, credentials, authorities, limits, proof, keep } => {
                check_name(&name)?;
                let tenant = self.state.catalogue.find_tenant(&tenant)?;
                if self.state.catalogue.target(tenant.id, &name)?.is_some() {
                    return Err(AdminError::TargetExists(name));
                }
                let (made, by) = (self.state.now(), caller.name.clone());
                let place = Place {
                    tenant: tenant.id,
                    name: name.clone(),
                    settings,
                    credentials,
                    authorities,
                    limits,
                    proof,
                    keep,
                    made,
                    by,
                };
                place.open(self.state.folder(), Stop::default())?;
                self.state.catalogue.put_target(&place)?;
                done(format!("target {name} is set up; `target test {name}` looks whether it can be used"))
            }
            TargetRequest::Test { target } => {
                let place = self.find_target(caller, &target)?.1;
                let opened = place.open(self.state.folder(), Stop::default())?;
                let description = watch(report, |_, phase| {
                    phase("asking the target");
                    opened.describe().map_err(RehydrateError::from)
                })?;
                Ok(Answer::Target(TargetAnswer::Tested { target: place.name, description }))
            }
            TargetRequest::Remove { target } => {
                let (tenant, place) = self.find_target(caller, &target)?;
                match self.orders_of(&place)?.len() {
                    0 => {}
                    orders => return Err(AdminError::TargetInUse(place.name, orders)),
                }
                let to = Where::Target(place.name.clone());
                let on_its_way = |run: &&Run| run.is_open() && run.tenant == tenant.id && run.to == to;
                match self.state.catalogue.runs()?.iter().filter(on_its_way).count() {
                    0 => {}
                    runs => return Err(AdminError::TargetHasRuns(place.name, runs)),
                }
                self.state.catalogue.remove_target(tenant.id, &place.name)?;
                done(format!("target {} is removed from the gateway; what it holds stays where it is", place.name))
            }
            TargetRequest::Points { target } => self.points(caller, &target),
            TargetRequest::Keep { target, volume } => {
                let images = self.for_order(caller, &target, &volume)?;
                let count = images.len();
                for (place, image) in images {
                    let order = Standing {
                        tenant: place.tenant,
                        image,
                        target: place.name,
                        paused: false,
                        since: self.state.now(),
                        by: caller.name.clone(),
                        trouble: None,
                    };
                    self.state.catalogue.put_standing(&order)?;
                }
                self.wake_orders();
                done(format!("target {target} is kept at the latest of {count} volumes from now on"))
            }
            TargetRequest::Release { target, volume } => {
                let mut ended = false;
                for (place, image) in self.for_order(caller, &target, &volume)? {
                    ended |= self.state.catalogue.end_standing(place.tenant, image.lineage, &place.name)?;
                }
                if !ended {
                    return Err(AdminError::NoOrder { target, volume });
                }
                done(format!("target {target} is kept at the latest of {volume} no more"))
            }
            TargetRequest::Pause { target, volume, paused } => {
                let mut changed = false;
                for (place, image) in self.for_order(caller, &target, &volume)? {
                    let orders = self.orders_of(&place)?;
                    for order in orders.into_iter().filter(|order| order.image.lineage == image.lineage) {
                        self.state.catalogue.put_standing(&Standing { paused, trouble: None, ..order })?;
                        changed = true;
                    }
                }
                if !changed {
                    return Err(AdminError::NoOrder { target, volume });
                }
                self.wake_orders();
                done(format!("{volume} to target {target} {}", if paused { "rests" } else { "goes on" }))
            }
            TargetRequest::Orders => self.orders(caller),
            TargetRequest::Runs { most } => self.runs(caller, most),
            TargetRequest::GiveUp { run } => self.give_up(caller, &run),
        }
    }

    /// What a request about targets is about.
    pub(in crate::admin) fn target_subject(
        &self,
        caller: &Caller,
        request: &TargetRequest,
    ) -> Result<Subject, AdminError> {
        let of = |what: Option<&'static str>, right, target: &str, detail: String| {
            let (tenant, place) = self.find_target(caller, target)?;
            Ok::<_, AdminError>(Subject { detail, ..Subject::new(what, right, Some(tenant), &place.name) })
        };
        match request {
            TargetRequest::List | TargetRequest::Orders | TargetRequest::Runs { .. } => {
                Ok(Subject::new(None, Right::See, None, ""))
            }
            TargetRequest::Add { tenant, name, settings, .. } => {
                let found = self.state.catalogue.tenants()?.into_iter().find(|known| known.name == *tenant);
                let missing = || crate::catalogue::CatalogueError::NoTenant(crate::text::printable(tenant));
                let tenant = found.filter(|tenant| caller.sees(tenant)).ok_or_else(missing)?;
                let detail = settings.kind().to_owned();
                Ok(Subject { detail, ..Subject::new(Some("target.add"), Right::Administer, Some(tenant), name) })
            }
            TargetRequest::Test { target } | TargetRequest::Points { target } => {
                of(None, Right::Operate, target, String::new())
            }
            TargetRequest::Remove { target } => of(Some("target.remove"), Right::Administer, target, String::new()),
            TargetRequest::Keep { target, volume } => of(Some("target.keep"), Right::Operate, target, volume.clone()),
            TargetRequest::Release { target, volume } => {
                of(Some("target.release"), Right::Operate, target, volume.clone())
            }
            TargetRequest::Pause { target, volume, paused } => {
                let what = if *paused { "target.pause" } else { "target.resume" };
                of(Some(what), Right::Operate, target, volume.clone())
            }
            TargetRequest::GiveUp { run } => {
                let (tenant, found) = self.find_run(caller, run)?;
                let detail = format!("{} to {}", found.work.image.volume, found.to);
                Ok(Subject { detail, ..Subject::new(Some("target.give-up"), Right::Operate, Some(tenant), run) })
            }
        }
    }

    pub(in crate::admin) fn rehydrate(
        &self,
        caller: &Caller,
        (volume, generation): (&str, &str),
        to: &Where,
        proof: Option<Proof>,
        plan_only: bool,
        report: &mut dyn FnMut(Report) -> bool,
    ) -> Result<Answer, AdminError> {
        let (store, found) = self.find_generation(volume, generation)?;
        let lineage = store.store.lineage(found.lineage)?.ok_or_else(|| AdminError::NoVolume(volume.to_owned()))?;
        let stop = Stop::default();
        let (to, target, place) = self.open(caller, to, (&store, volume), &stop)?;
        let _busy = self.state.begin_run(store.id, &to, lineage.id)?;
        // Once nobody can define a domain on it any more, see `Admin::domain`.
        if let Some(place) = place.as_ref().filter(|_| !plan_only && target.shape().keeps == Keeps::One) {
            self.check_under(place, lineage.id)?;
        }
        let asked = Asked {
            store: &store.store,
            state: &self.state,
            tenant: store.id,
            image: self.image_of(&store, &lineage)?,
            generation: found.id,
            to: to.clone(),
            target: &*target,
            proof: proof.or(place.as_ref().map(|place| place.proof)).unwrap_or_default(),
            limits: place.as_ref().map_or(Limits::default(), |place| place.limits),
            by: caller.name.clone(),
            now: self.state.now(),
            resumes: self.daemon.is_some(),
        };
        let image = asked.image.clone();
        if let Where::Target(name) = &to
            && !plan_only
            // The order's own run may have been overtaken by a generation that was sealed just now.
            && caller.via != Via::Order
            && store.store.latest(lineage.id)?.is_some_and(|latest| latest.id != found.id)
            && self.is_kept(store.id, lineage.id, name)?
        {
            return Err(AdminError::KeptAtLatest { target: name.clone(), volume: volume.to_owned() });
        }
        if plan_only {
            return Ok(Answer::Plan { plan: Rehydration::plan(asked)?.shown().clone() });
        }
        let mut report = |now: Report| {
            let go_on = report(now);
            if !go_on {
                stop.stop();
            }
            go_on
        };
        let is_ending = || self.daemon.as_ref().is_some_and(|daemon| daemon.stop.is_cancelled());
        let done = watch(&mut report, |progress, phase| {
            phase("looking at the target");
            let last = Cell::new("");
            let told = |word| {
                last.set(word);
                phase(word);
            };
            let done = Rehydration::plan(asked)
                .and_then(|planned| planned.execute(&Watch { progress, phase: &told, is_ending: &is_ending }));
            if let Where::Target(name) = &to {
                self.state.tally.note((store.id, name), progress, last.get(), done.as_ref());
            }
            done
        });
        if let Where::Target(name) = &to
            && !is_ending()
        {
            orders::note_outcome(&self.state, store.id, lineage.id, name, done.as_ref().map(|_| ()))?;
        }
        let done = done?;
        tracing::info!(volume, number = done.plan.number, %to, written = done.written_bytes, "rehydrated and proved");
        if let Some(place) = place {
            self.retire(&place, &*target, &image, lineage.site);
        }
        Ok(Answer::Rehydrated { done })
    }

    /// Refuses to write over what a domain stands on.
    fn check_under(&self, place: &Place, lineage: LineageId) -> Result<(), AdminError> {
        let stands = |row: &DomainRow| {
            row.tenant == place.tenant
                && row.target == place.name
                && row.disks.iter().any(|disk| disk.lineage == lineage)
        };
        match self.state.catalogue.domains()?.into_iter().find(stands) {
            Some(row) => Err(AdminError::UnderDomain { domain: row.name, target: place.name.clone() }),
            None => Ok(()),
        }
    }

    /// Points beyond what is kept go. That this fails is no reason to call the new point a failure: the next run tries again.
    fn retire(&self, place: &Place, target: &dyn Target, image: &Image, site: Option<SiteId>) {
        let keep = place.keep.map_or(self.state.retention, |keep| keep.get() as usize);
        let locks = match crate::retention::locks_of(&self.state.catalogue, place.tenant) {
            Ok(locks) => locks,
            Err(error) => return tracing::warn!(%error, "locks cannot be read: old points stay for now"),
        };
        let domains = match self.state.catalogue.domains() {
            Ok(domains) => domains,
            Err(error) => return tracing::warn!(%error, "domains cannot be read: old points stay for now"),
        };
        let under = |generation| {
            let on_it = |row: &&DomainRow| row.tenant == place.tenant && row.target == place.name;
            let mut disks = domains.iter().filter(on_it).flat_map(|row| &row.disks);
            disks.any(|disk| disk.generation == generation)
        };
        // A lock holds the copy in the cloud as it holds the generation.
        let is_held = |point: &Point| {
            let (name, lineage, id) = (image.volume.as_str(), image.lineage, point.generation);
            let kept = Kept { tenant: place.tenant, site, name, lineage, id, sealed: point.made };
            crate::retention::held(&kept, &locks, self.state.now()).is_some() || under(point.generation)
        };
        match rehydrate::retire_points(target, image, keep, &is_held) {
            Ok(0) => {}
            Ok(gone) => tracing::info!(target = place.name, volume = image.volume, gone, "old points are removed"),
            Err(error) => tracing::warn!(target = place.name, volume = image.volume, %error, "old points stay for now"),
        }
    }

    #[expect(clippy::type_complexity, reason = "read once, right here")]
    fn open(
        &self,
        caller: &Caller,
        to: &Where,
        (store, volume): (&Arc<TenantStore>, &str),
        stop: &Stop,
    ) -> Result<(Where, Box<dyn Target>, Option<Place>), AdminError> {
        match to {
            Where::Path(path) => Ok((to.clone(), rehydrate::target_at(path, self.state.folder()), None)),
            Where::Target(name) => {
                let (tenant, place) = self.find_target(caller, name)?;
                if tenant.id != store.id {
                    return Err(AdminError::ForeignTarget { target: place.name, volume: volume.to_owned() });
                }
                let target = place.open(self.state.folder(), stop.clone())?;
                Ok((Where::Target(place.name.clone()), target, Some(place)))
            }
        }
    }

    pub(crate) fn image_of(&self, store: &TenantStore, lineage: &Lineage) -> Result<Image, AdminError> {
        let tenant = self.tenant_name(store.id)?;
        let site = self.site_name(lineage)?;
        Ok(Image { tenant, site, volume: lineage.name.clone(), lineage: lineage.id })
    }

    fn tenant_name(&self, id: dedupe::TenantId) -> Result<String, AdminError> {
        let found = self.state.catalogue.tenants()?.into_iter().find(|tenant| tenant.id == id);
        Ok(found.map_or_else(|| id.to_string(), |tenant| tenant.name))
    }

    /// A target that the caller sees.
    pub(crate) fn find_target(&self, caller: &Caller, text: &str) -> Result<(Tenant, Place), AdminError> {
        let (tenant, name) = match text.split_once('/') {
            Some((tenant, name)) => (Some(tenant), name),
            None => (None, text),
        };
        let tenants = self.state.catalogue.tenants()?;
        let seen = tenants.into_iter().filter(|known| caller.sees(known));
        let seen = seen.filter(|known| tenant.is_none_or(|tenant| known.name == tenant));
        let mut found = Vec::new();
        for tenant in seen {
            found.extend(self.state.catalogue.target(tenant.id, name)?.map(|place| (tenant, place)));
        }
        match found.len() {
            0 => Err(AdminError::NoTarget(crate::text::printable(text))),
            1 => Ok(found.remove(0)),
            _ => Err(AdminError::AmbiguousTarget(crate::text::printable(text))),
        }
    }

    /// A run that is not over, of a tenant that the caller sees.
    pub(crate) fn find_run(&self, caller: &Caller, text: &str) -> Result<(Tenant, Run), AdminError> {
        let missing = || AdminError::NoRun(crate::text::printable(text));
        let id: RunId = text.parse().map_err(|_| missing())?;
        let run = self.state.catalogue.run(id)?.filter(Run::is_open).ok_or_else(missing)?;
        let tenant = self.tenant_seen(caller, run.tenant)?.ok_or_else(missing)?;
        Ok((tenant, run))
    }

    /// Standing orders are looked at now.
    fn wake_orders(&self) {
        if let Some(daemon) = &self.daemon {
            daemon.board.wake(crate::workers::TARGETS);
        }
    }

    /// Whether an order that does not rest keeps a target at the latest of a volume.
    fn is_kept(&self, tenant: TenantId, lineage: LineageId, target: &str) -> Result<bool, AdminError> {
        let kept = |order: &Standing| {
            order.tenant == tenant && order.image.lineage == lineage && order.target == target && !order.paused
        };
        Ok(self.state.catalogue.standing()?.iter().any(kept))
    }

    fn orders_of(&self, place: &Place) -> Result<Vec<Standing>, AdminError> {
        let mut orders = self.state.catalogue.standing()?;
        orders.retain(|order| order.tenant == place.tenant && order.target == place.name);
        Ok(orders)
    }

    /// The volumes that an order is about.
    fn for_order(&self, caller: &Caller, target: &str, volume: &str) -> Result<Vec<(Place, Image)>, AdminError> {
        let (tenant, place) = self.find_target(caller, target)?;
        let foreign =
            || AdminError::ForeignTarget { target: target.to_owned(), volume: crate::text::printable(volume) };
        let mut images = Vec::new();
        if let Some(site) = volume.strip_suffix("/*") {
            let (owner, site) = self.site_for(caller, site)?;
            if owner.id != tenant.id {
                return Err(foreign());
            }
            let store = self.state.tenant(tenant.id)?;
            // Of several of one name (removed and added again at the edge) the newest is the volume.
            let mut names = BTreeMap::new();
            for lineage in store.store.lineages()?.into_iter().filter(|lineage| lineage.site == Some(site.id)) {
                names.insert(lineage.name.clone(), ());
            }
            for name in names.into_keys() {
                let (_, lineage) = self.find_volume(&format!("{}/{}/{name}", tenant.name, site.name))?;
                images.push(self.image_of(&store, &lineage)?);
            }
            if images.is_empty() {
                return Err(AdminError::NoVolume(crate::text::printable(volume)));
            }
        } else {
            let (store, lineage) = self.find_volume(volume)?;
            if store.id != tenant.id {
                return Err(foreign());
            }
            images.push(self.image_of(&store, &lineage)?);
        }
        Ok(images.into_iter().map(|image| (place.clone(), image)).collect())
    }

    fn targets(&self, caller: &Caller) -> Result<Answer, AdminError> {
        let (runs, orders) = (self.state.catalogue.runs()?, self.state.catalogue.standing()?);
        let held = Held::of(&runs);
        let mut targets = Vec::new();
        for place in self.state.catalogue.targets()? {
            let Some(tenant) = self.tenant_seen(caller, place.tenant)? else { continue };
            let sum = self.state.sum(&place, &orders, &runs, &held)?;
            targets.push(target_line(tenant, place, &sum));
        }
        targets.sort_by(|a, b| (&a.tenant, &a.target).cmp(&(&b.tenant, &b.target)));
        Ok(Answer::Target(TargetAnswer::Targets { targets }))
    }

    fn points(&self, caller: &Caller, target: &str) -> Result<Answer, AdminError> {
        let (tenant, place) = self.find_target(caller, target)?;
        let opened = place.open(self.state.folder(), Stop::default())?;
        let store = self.state.tenant(tenant.id)?;
        let mut points = Vec::new();
        for lineage in store.store.lineages()? {
            let image = self.image_of(&store, &lineage)?;
            for point in opened.points(&image).map_err(RehydrateError::from)? {
                points.push(PointLine {
                    volume: format!("{}/{}/{}", image.tenant, image.site, image.volume),
                    number: point.number,
                    captured: point.captured,
                    made: point.made,
                    size: point.size.0,
                    root: point.root.to_string(),
                    point: point.id,
                });
            }
        }
        points.sort_by(|a, b| (&a.volume, a.number).cmp(&(&b.volume, b.number)));
        Ok(Answer::Target(TargetAnswer::Points { points }))
    }

    fn orders(&self, caller: &Caller) -> Result<Answer, AdminError> {
        let held = Held::of(&self.state.catalogue.runs()?);
        let mut orders = Vec::new();
        for order in self.state.catalogue.standing()? {
            let Some(tenant) = self.tenant_seen(caller, order.tenant)? else { continue };
            let stand = held.stand(&self.state, &order)?;
            orders.push(OrderLine {
                volume: format!("{}/{}/{}", tenant.name, order.image.site, order.image.volume),
                target: order.target,
                state: stand.stands.word().into(),
                latest: stand.latest.map(|latest| latest.number),
                holds: stand.holds,
                behind_since: stand.behind_since,
                credentials_failing: order.trouble.as_ref().is_some_and(|trouble| trouble.is_credentials),
                next_try: order.trouble.as_ref().map(|trouble| trouble.next),
                trouble: order.trouble.map(|trouble| trouble.why),
                since: order.since,
                by: order.by,
            });
        }
        orders.sort_by(|a, b| (&a.volume, &a.target).cmp(&(&b.volume, &b.target)));
        Ok(Answer::Target(TargetAnswer::Orders { orders }))
    }

    fn runs(&self, caller: &Caller, most: usize) -> Result<Answer, AdminError> {
        let orders = self.state.catalogue.standing()?;
        let mut runs = Vec::new();
        for run in self.state.catalogue.runs()? {
            let Some(tenant) = self.tenant_seen(caller, run.tenant)? else { continue };
            let resting = rests(&run, &orders);
            runs.push(run_line(&tenant, run, resting));
        }
        runs.sort_by_key(|run| std::cmp::Reverse((run.begun, run.number)));
        runs.truncate(most);
        Ok(Answer::Target(TargetAnswer::Runs { runs }))
    }

    fn give_up(&self, caller: &Caller, text: &str) -> Result<Answer, AdminError> {
        let (_, run) = self.find_run(caller, text)?;
        let store = self.state.tenant(run.tenant)?;
        let _busy = self.state.begin_run(run.tenant, &run.to, run.work.image.lineage)?;
        let (_, target, _) = self.open(caller, &run.to, (&store, &run.work.image.volume), &Stop::default())?;
        let (volume, to) = (run.work.image.volume.clone(), run.to.clone());
        rehydrate::give_up(&self.state.catalogue, &*target, run, &format!("by {}", caller.name), self.state.now())?;
        Ok(Answer::Done { what: format!("the run of {volume} to {to} is given up, and the target is cleaned of it") })
    }
}

fn target_line(tenant: Tenant, place: Place, sum: &Sum) -> TargetLine {
    TargetLine {
        tenant: tenant.name,
        kind: place.settings.kind().into(),
        settings: serde_json::to_value(&place.settings).expect("settings are plain JSON"),
        credentials: match &place.credentials {
            Credentials::None => "none".into(),
            Credentials::Environment => "environment".into(),
            Credentials::File(path) => path.display().to_string(),
        },
        bytes_per_second: place.limits.bytes_per_second.map(Into::into),
        requests_per_second: place.limits.requests_per_second.map(Into::into),
        proof: place.proof.to_string(),
        keep: place.keep.map(Into::into),
        orders: sum.orders,
        current: sum.orders - sum.behind - sum.failing - sum.paused,
        behind: sum.behind,
        failing: sum.failing,
        paused: sum.paused,
        credentials_failing: sum.credentials_failing,
        behind_since: sum.behind_since,
        runs_open: sum.runs_open,
        runs_resting: sum.runs_resting,
        target: place.name,
        made: place.made,
        by: place.by,
    }
}

fn run_line(tenant: &Tenant, run: Run, resting: bool) -> RunLine {
    let image = &run.work.image;
    let proven = match &run.phase {
        Phase::Proved { proven } | Phase::Finished { proven, .. } => Some(proven),
        _ => None,
    };
    let (state, outcome, statement) = match &run.phase {
        Phase::Writing { .. } => ("writing", String::new(), None),
        Phase::Proving => ("reading back", String::new(), None),
        Phase::Proved { .. } => ("proved", String::new(), None),
        Phase::Finished { point, statement, .. } => ("finished", point.id.clone(), Some(*statement)),
        Phase::GivenUp { why } => ("given up", why.clone(), None),
    };
    RunLine {
        run: run.work.run.to_string(),
        volume: format!("{}/{}/{}", tenant.name, image.site, image.volume),
        number: run.work.number,
        target: run.to.to_string(),
        state: state.into(),
        outcome,
        held: run.held.clone().filter(|_| run.is_open()),
        resting,
        size: run.work.size.0,
        root: run.work.root.to_string(),
        proof: run.proof.to_string(),
        compared: proven.map(|proven| proven.bytes),
        repaired: proven.is_some_and(|proven| proven.repaired),
        written: run.written,
        by: run.by.clone(),
        begun: run.begun,
        ended: run.ended,
        statement,
    }
}
