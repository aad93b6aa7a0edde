//! Domains of libvirt on what targets hold: so that a generation boots with one command. Only for commands on the gateway's own machine.

use super::judge::{Subject, only_here};
use super::{Admin, AdminError, Answer};
use crate::access::{Caller, Right};
use crate::catalogue::check_name;
use crate::rehydrate::{Place, RehydrateError};
use crate::text::{moment, table};
use dedupe::{GenerationId, LineageId, TenantId, UnixMillis};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use targets::libvirt::{Disk, Domain, Libvirt};
use targets::{Settings, Stop};

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DomainLine {
    /// Its name.
    pub name: String,
    /// The target that holds its disks.
    pub target: String,
    /// Volumes and generations, as `TENANT/SITE/VOLUME@NUMBER`.
    pub disks: Vec<String>,
    /// What it does, in libvirt's words; `gone`: libvirt does not know it.
    pub state: String,
    /// Who defined it.
    pub by: String,
    /// When.
    pub since: UnixMillis,
}

impl Admin {
    pub(super) fn domain(&self, caller: &Caller, request: DomainRequest) -> Result<Answer, AdminError> {
        let failed = |error| AdminError::Rehydrate(RehydrateError::Target(error));
        match request {
            DomainRequest::List => {
                let mut domains = Vec::new();
                for row in self.state.catalogue.domains()? {
                    domains.push(self.domain_line(row)?);
                }
                Ok(Answer::Domains { domains })
            }
            DomainRequest::Define { name, target, volumes, memory, processors, bus, template, uri } => {
                check_name(&name)?;
                let (_, place) = self.find_target(caller, &target)?;
                let mut disks = Vec::new();
                let mut kept = Vec::new();
                for volume in &volumes {
                    let (disk, keeps) = self.domain_disk(&place, volume, &bus)?;
                    disks.push(disk);
                    kept.push(keeps);
                }
                let overlays = self.state.folder().join(OVERLAYS);
                crate::files::private_folder(&overlays).map_err(crate::state::StateError::from)?;
                let row = DomainRow {
                    name: name.clone(),
                    tenant: place.tenant,
                    uri: uri.clone(),
                    target: place.name,
                    disks: kept,
                    by: caller.name.clone(),
                    since: self.state.now(),
                };
                // Written down first: what a domain may stand on is not taken away, also when we are killed in between.
                self.state.catalogue.put_domain(&row)?;
                let domain = Domain { name, memory, vcpus: processors, disks, template, overlays: Some(overlays) };
                if let Err(error) = Libvirt::new(&uri, &Stop::default()).define(&domain) {
                    self.state.catalogue.remove_domain(&row.name)?;
                    return Err(failed(error));
                }
                Ok(Answer::Domains { domains: vec![self.domain_line(row)?] })
            }
            DomainRequest::Start { name } => {
                let row = self.find_domain(&name)?;
                Libvirt::new(&row.uri, &Stop::default()).start(&name).map_err(failed)?;
                Ok(Answer::Domains { domains: vec![self.domain_line(row)?] })
            }
            DomainRequest::Remove { name } => {
                let row = self.find_domain(&name)?;
                let overlays = self.state.folder().join(OVERLAYS);
                Libvirt::new(&row.uri, &Stop::default()).remove(&name, Some(&overlays)).map_err(failed)?;
                self.state.catalogue.remove_domain(&name)?;
                Ok(Answer::Done { what: format!("domain {name} is removed, with what it wrote") })
            }
        }
    }

    pub(super) fn domain_subject(&self, caller: &Caller, request: &DomainRequest) -> Result<Subject, AdminError> {
        only_here(caller, "domain")?;
        let of = |what, name: &str| {
            let row = self.find_domain(name)?;
            let tenant = self.tenant_seen(caller, row.tenant)?;
            Ok(Subject::new(Some(what), Right::Operate, tenant, name))
        };
        match request {
            DomainRequest::List => Ok(Subject::new(None, Right::See, None, "")),
            DomainRequest::Define { name, target, volumes, .. } => {
                let (tenant, _) = self.find_target(caller, target)?;
                let detail = volumes.join(", ");
                Ok(Subject { detail, ..Subject::new(Some("domain.define"), Right::Operate, Some(tenant), name) })
            }
            DomainRequest::Start { name } => of("domain.start", name),
            DomainRequest::Remove { name } => of("domain.remove", name),
        }
    }

    fn find_domain(&self, name: &str) -> Result<DomainRow, AdminError> {
        let found = self.state.catalogue.domains()?.into_iter().find(|row| row.name == name);
        found.ok_or_else(|| AdminError::NoDomain(crate::text::printable(name)))
    }

    /// The point of a volume on a target, as a disk.
    fn domain_disk(&self, place: &Place, text: &str, bus: &str) -> Result<(Disk, DomainDisk), AdminError> {
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
        let mut points = opened.points(&image).map_err(RehydrateError::from)?;
        points.retain(|point| number.is_none_or(|number| point.number.to_string() == number));
        let missing = || AdminError::NoPoint { target: place.name.clone(), volume: crate::text::printable(text) };
        let point = points.pop().ok_or_else(missing)?;
        let volume = format!("{}/{}/{}", image.tenant, image.site, image.volume);
        let disk = Disk { path: PathBuf::from(&point.id), format: format.into(), bus: bus.to_owned() };
        Ok((disk, DomainDisk { volume, lineage: lineage.id, generation: point.generation, number: point.number }))
    }

    fn domain_line(&self, row: DomainRow) -> Result<DomainLine, AdminError> {
        let state = Libvirt::new(&row.uri, &Stop::default()).state(&row.name);
        let state = match state {
            Ok(state) => state.unwrap_or_else(|| "gone".into()),
            Err(error) => error.to_string(),
        };
        let disk = |disk: &DomainDisk| format!("{}@{}", disk.volume, disk.number);
        Ok(DomainLine {
            disks: row.disks.iter().map(disk).collect(),
            name: row.name,
            target: row.target,
            state,
            by: row.by,
            since: row.since,
        })
    }
}

/// Domains for people.
pub(super) fn render(domains: &[DomainLine]) -> String {
    if domains.is_empty() {
        return "No domain is defined; `sluice-gateway domain define --help` says how.\n".into();
    }
    let row = |line: &DomainLine| {
        vec![
            line.name.clone(),
            crate::text::printable(&line.state),
            line.target.clone(),
            line.disks.join(" "),
            line.by.clone(),
            moment(line.since),
        ]
    };
    table(&["name", "state", "target", "disks", "by", "since"], &domains.iter().map(row).collect::<Vec<_>>())
}
