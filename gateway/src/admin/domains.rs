//! Domains of libvirt on what targets hold: so that a generation boots with one command.
//!
//! Which libvirt and which template a domain is made by is said on the gateway's own machine, by whoever runs the command or by the configuration: an address of
//! libvirt can run programs, and a template can hand any file of the machine to a guest.

use super::judge::Subject;
use super::{Admin, AdminError, Answer};
use crate::access::{Caller, Right};
use crate::catalogue::{Tenant, check_name};
use crate::rehydrate::{Place, RehydrateError, Where};
use crate::state::Rehydrating;
use crate::text::{moment, table};
use dedupe::{GenerationId, LineageId, TenantId, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::MutexGuard;
use targets::libvirt::{Disk, Domain, Libvirt, MOST_DISKS};
use targets::{Keeps, Settings, Stop, TargetError};

/// Folder of domains' overlays in the state directory.
const OVERLAYS: &str = "domains";

/// What to do with domains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DomainRequest {
    /// List them.
    List,
    /// Define one; it is not started.
    Define {
        /// Its name.
        name: String,
        /// The target that holds its disks.
        target: String,
        /// Its volumes, `SITE/VOLUME` or `TENANT/SITE/VOLUME`, the one to boot from first; each may end in `@NUMBER`, else the newest point is taken.
        volumes: Vec<String>,
        /// MiB of memory.
        memory: u64,
        /// Processors.
        processors: u32,
        /// What disks hang on: `virtio`, `sata`, `scsi` or `ide`.
        bus: String,
        /// A file with a domain's XML to fill in.
        template: Option<PathBuf>,
        /// Where libvirt is.
        uri: String,
    },
    /// Start one.
    Start {
        /// Its name.
        name: String,
    },
    /// End one and remove it, with what it wrote.
    Remove {
        /// Its name.
        name: String,
    },
}

/// A domain as the catalogue keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRow {
    /// Its name.
    pub name: String,
    /// Whose disks it has.
    pub tenant: TenantId,
    /// Where libvirt is.
    pub uri: String,
    /// The target that holds the disks.
    pub target: String,
    /// Its disks.
    pub disks: Vec<DomainDisk>,
    /// Who defined it.
    pub by: String,
    /// When.
    pub since: UnixMillis,
}

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainDisk {
    /// The volume, `TENANT/SITE/VOLUME`.
    pub volume: String,
    /// Its lineage.
    pub lineage: LineageId,
    /// The generation.
    pub generation: GenerationId,
    /// Its number.
    pub number: u64,
}

/// A domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DomainLine {
    /// Its name.
    pub name: String,
    /// Whose disks it has.
    pub tenant: String,
    /// The target that holds its disks.
    pub target: String,
    /// Volumes and generations, as `TENANT/SITE/VOLUME@NUMBER`, the one that it boots from first.
    pub disks: Vec<String>,
    /// What it does, in libvirt's words: `running`, `shut off`, …; `gone`: libvirt does not know it; `unknown`: libvirt does not answer.
    pub state: String,
    /// Why libvirt does not answer.
    pub trouble: Option<String>,
    /// Where libvirt is.
    pub uri: String,
    /// Who defined it.
    pub by: String,
    /// When.
    #[schema(value_type = u64)]
    pub since: UnixMillis,
}

/// What is to be defined, see [`DomainRequest::Define`].
struct Wanted {
    name: String,
    target: String,
    volumes: Vec<String>,
    memory: u64,
    processors: u32,
    bus: String,
    template: Option<PathBuf>,
    uri: String,
}

impl Admin {
    pub(super) fn domain(&self, caller: &Caller, request: DomainRequest) -> Result<Answer, AdminError> {
        match request {
            DomainRequest::List => {
                let mut rows = Vec::new();
                for row in self.state.catalogue.domains()? {
                    rows.extend(self.tenant_seen(caller, row.tenant)?.map(|tenant| (tenant.name, row)));
                }
                Ok(Answer::Domains { domains: lines(rows) })
            }
            DomainRequest::Define { name, target, volumes, memory, processors, bus, template, uri } => {
                let _one_at_a_time = self.changing_domains()?;
                self.define(caller, Wanted { name, target, volumes, memory, processors, bus, template, uri })
            }
            DomainRequest::Start { name } => {
                let _one_at_a_time = self.changing_domains()?;
                let (tenant, row) = self.find_domain(caller, &name)?;
                Libvirt::new(&row.uri, &Stop::default()).start(&name).map_err(failed)?;
                Ok(Answer::Domains { domains: lines(vec![(tenant.name, row)]) })
            }
            DomainRequest::Remove { name } => {
                let _one_at_a_time = self.changing_domains()?;
                let (_, row) = self.find_domain(caller, &name)?;
                let overlays = self.state.folder().join(OVERLAYS);
                Libvirt::new(&row.uri, &Stop::default()).remove(&name, Some(&overlays)).map_err(failed)?;
                self.state.catalogue.remove_domain(&name)?;
                Ok(Answer::Done { what: format!("domain {name} is removed, with what it wrote") })
            }
        }
    }

    fn define(&self, caller: &Caller, wanted: Wanted) -> Result<Answer, AdminError> {
        let Wanted { name, target, volumes, memory, processors, bus, template, uri } = wanted;
        check_name(&name)?;
        let (tenant, place) = self.find_target(caller, &target)?;
        if !(1..=MOST_DISKS).contains(&volumes.len()) {
            let why = format!("a domain has 1 to {MOST_DISKS} disks, not {}", volumes.len());
            return Err(failed(TargetError::Unfit(why)));
        }
        let libvirt = Libvirt::new(&uri, &Stop::default());
        let is_known = self.state.catalogue.domains()?.iter().any(|row| row.name == name);
        // What a domain wrote is thrown away by whoever removes it, not by whoever takes its name.
        if is_known || libvirt.state(&name).map_err(failed)?.is_some() {
            return Err(AdminError::DomainExists(name));
        }
        let (mut disks, mut kept, mut still) = (Vec::new(), Vec::new(), Vec::new());
        for volume in &volumes {
            let (disk, keeps) = self.domain_disk(&place, (volume, &bus), &mut still)?;
            disks.push(disk);
            kept.push(keeps);
        }
        let overlays = self.state.folder().join(OVERLAYS);
        crate::files::private_folder(&overlays).map_err(crate::state::StateError::from)?;
        let row = DomainRow {
            name: name.clone(),
            tenant: place.tenant,
            uri,
            target: place.name,
            disks: kept,
            by: caller.name.clone(),
            since: self.state.now(),
        };
        // Written down first: what a domain may stand on is not taken away, also when we are killed in between.
        self.state.catalogue.put_domain(&row)?;
        drop(still);
        let domain = Domain { name, memory, vcpus: processors, disks, template, overlays: Some(overlays.clone()) };
        if let Err(error) = libvirt.define(&domain) {
            // The row stays where a domain may: it can be removed by its name.
            if libvirt.remove(&row.name, Some(&overlays)).is_ok() {
                self.state.catalogue.remove_domain(&row.name)?;
            }
            return Err(failed(error));
        }
        Ok(Answer::Domains { domains: lines(vec![(tenant.name, row)]) })
    }

    pub(super) fn domain_subject(&self, caller: &Caller, request: &DomainRequest) -> Result<Subject, AdminError> {
        let of = |what, name: &str| {
            let (tenant, row) = self.find_domain(caller, name)?;
            let detail = row.disks.iter().map(disk_name).collect::<Vec<_>>().join(", ");
            Ok(Subject { detail, ..Subject::new(Some(what), Right::Operate, Some(tenant), name) })
        };
        match request {
            DomainRequest::List => Ok(Subject::new(None, Right::See, None, "")),
            DomainRequest::Define { name, target, volumes, .. } => {
                let (tenant, _) = self.find_target(caller, target)?;
                let detail = format!("{} on {target}", volumes.join(", "));
                Ok(Subject { detail, ..Subject::new(Some("domain.define"), Right::Operate, Some(tenant), name) })
            }
            DomainRequest::Start { name } => of("domain.start", name),
            DomainRequest::Remove { name } => of("domain.remove", name),
        }
    }

    /// Calls of libvirt take up to minutes, so whoever comes in between does not wait in line.
    fn changing_domains(&self) -> Result<MutexGuard<'_, ()>, AdminError> {
        use std::sync::TryLockError;
        match self.changing_domains.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::WouldBlock) => Err(AdminError::DomainBusy),
            // It guards nothing that could be half changed: libvirt and the catalogue are asked anew.
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        }
    }

    /// A domain of a tenant that the caller sees.
    fn find_domain(&self, caller: &Caller, name: &str) -> Result<(Tenant, DomainRow), AdminError> {
        let missing = || AdminError::NoDomain(crate::text::printable(name));
        let row = self.state.catalogue.domains()?.into_iter().find(|row| row.name == name).ok_or_else(missing)?;
        let tenant = self.tenant_seen(caller, row.tenant)?.ok_or_else(missing)?;
        Ok((tenant, row))
    }

    /// The point of a volume on a target, as a disk. Where the next point is written over it, nothing is on its way while `still` holds it: until it is written
    /// down that a domain stands on it, and runs see that.
    fn domain_disk(
        &self,
        place: &Place,
        (text, bus): (&str, &str),
        still: &mut Vec<(LineageId, Rehydrating)>,
    ) -> Result<(Disk, DomainDisk), AdminError> {
        let (volume, number) = match text.rsplit_once('@') {
            Some((volume, number)) => (volume, Some(number)),
            None => (text, None),
        };
        let (store, lineage) = self.find_volume(volume)?;
        let foreign = || AdminError::ForeignTarget { target: place.name.clone(), volume: volume.to_owned() };
        if store.id != place.tenant {
            return Err(foreign());
        }
        let format = match &place.settings {
            Settings::Raw(_) | Settings::Device(_) => "raw",
            Settings::Qcow2(_) => "qcow2",
            _ => return Err(AdminError::NoDisk(place.name.clone())),
        };
        let image = self.image_of(&store, &lineage)?;
        let opened = place.open(self.state.folder(), Stop::default())?;
        if opened.shape().keeps == Keeps::One && still.iter().all(|(known, _)| *known != lineage.id) {
            let run = self.state.begin_run(place.tenant, &Where::Target(place.name.clone()), lineage.id)?;
            still.push((lineage.id, run));
        }
        let mut points = opened.points(&image).map_err(RehydrateError::from)?;
        points.retain(|point| number.is_none_or(|number| point.number.to_string() == number));
        let missing = || AdminError::NoPoint { target: place.name.clone(), volume: crate::text::printable(text) };
        let point = points.pop().ok_or_else(missing)?;
        let volume = format!("{}/{}/{}", image.tenant, image.site, image.volume);
        let disk = Disk { path: PathBuf::from(&point.id), format: format.into(), bus: bus.to_owned() };
        Ok((disk, DomainDisk { volume, lineage: lineage.id, generation: point.generation, number: point.number }))
    }
}

fn failed(error: TargetError) -> AdminError {
    AdminError::Rehydrate(RehydrateError::Target(error))
}

fn disk_name(disk: &DomainDisk) -> String {
    format!("{}@{}", disk.volume, disk.number)
}

/// Rows with the names of their tenants, and what libvirt says of each; each libvirt is asked once.
fn lines(rows: Vec<(String, DomainRow)>) -> Vec<DomainLine> {
    let mut asked: BTreeMap<String, Result<BTreeMap<String, String>, String>> = BTreeMap::new();
    let line = |(tenant, row): (String, DomainRow)| {
        let ask = || Libvirt::new(&row.uri, &Stop::default()).states().map_err(|error| error.to_string());
        let (state, trouble) = match asked.entry(row.uri.clone()).or_insert_with(ask) {
            Ok(states) => (states.get(&row.name).cloned().unwrap_or_else(|| "gone".into()), None),
            Err(why) => ("unknown".into(), Some(crate::text::printable(why))),
        };
        DomainLine {
            disks: row.disks.iter().map(disk_name).collect(),
            name: row.name,
            tenant,
            target: row.target,
            state,
            trouble,
            uri: row.uri,
            by: row.by,
            since: row.since,
        }
    };
    rows.into_iter().map(line).collect()
}

/// Domains for people.
pub(super) fn render(domains: &[DomainLine]) -> String {
    if domains.is_empty() {
        return "No domain is defined; `sluice-gateway domain define --help` says how.\n".into();
    }
    let row = |line: &DomainLine| {
        vec![
            line.name.clone(),
            line.trouble.as_ref().map_or_else(|| line.state.clone(), |why| format!("{}: {why}", line.state)),
            line.target.clone(),
            line.disks.join(" "),
            line.by.clone(),
            moment(line.since),
        ]
    };
    table(&["name", "state", "target", "disks", "by", "since"], &domains.iter().map(row).collect::<Vec<_>>())
}
