//! Exports: generations as block devices.

use super::judge::Subject;
use super::{Admin, AdminError, Answer};
use crate::access::{Caller, Right};
use crate::catalogue::check_name;
use crate::export::{ExportError, ExportRow, SOCKET, Server};
use crate::text::{escaped, moment, table};
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What to do with exports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ExportRequest {
    /// List them.
    List,
    /// Serve a generation.
    Start {
        /// `SITE/VOLUME` or `TENANT/SITE/VOLUME`.
        volume: String,
        /// `latest`, a number, or an id.
        generation: String,
        /// Its name; `None`: made from site, volume and number.
        name: Option<String>,
        /// Whether it takes writes, into an overlay.
        writable: bool,
    },
    /// Serve it no more.
    Stop {
        /// Its name.
        name: String,
        /// Whether what was written is kept; `None`: nothing was to be written.
        keep: Option<bool>,
    },
}

/// An export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExportLine {
    /// Its name.
    pub name: String,
    /// The volume: `TENANT/SITE/VOLUME`.
    pub volume: String,
    /// The generation's number.
    pub number: u64,
    /// Whether it takes writes.
    pub writable: bool,
    /// Whether it is served now.
    pub served: bool,
    /// Where: NBD URIs, for the gateway's own machine and for others. None while it is not served.
    pub uris: Vec<String>,
    /// Connections of clients now; a client may have several.
    #[serde(default)]
    pub connections: usize,
    /// Who asked for it.
    pub by: String,
    /// Since when.
    #[schema(value_type = u64)]
    pub since: UnixMillis,
}

impl Admin {
    pub(super) fn export(&self, caller: &Caller, request: ExportRequest) -> Result<Answer, AdminError> {
        match request {
            ExportRequest::List => {
                let mut exports = Vec::new();
                for row in self.state.catalogue.exports()? {
                    if self.tenant_seen(caller, row.tenant)?.is_some() {
                        exports.push(self.export_line(row)?);
                    }
                }
                Ok(Answer::Exports { exports })
            }
            ExportRequest::Start { volume, generation, name, writable } => {
                let server = self.export_server()?;
                let (store, found) = self.find_generation(&volume, &generation)?;
                let (_, lineage) = self.find_volume(&volume)?;
                let image = self.image_of(&store, &lineage)?;
                let name = name.unwrap_or_else(|| format!("{}.{}.{}", image.site, image.volume, found.number));
                check_name(&name)?;
                let row = ExportRow {
                    name,
                    tenant: store.id,
                    volume: format!("{}/{}/{}", image.tenant, image.site, image.volume),
                    lineage: lineage.id,
                    generation: found.id,
                    number: found.number,
                    writable,
                    served: true,
                    by: caller.name.clone(),
                    since: self.state.now(),
                };
                let row = server.add(&self.state, row)?;
                Ok(Answer::Exports { exports: vec![self.export_line(row)?] })
            }
            ExportRequest::Stop { name, keep } => {
                self.export_server()?.stop(&self.state, &name, keep)?;
                Ok(Answer::Done { what: format!("export {name} is served no more") })
            }
        }
    }

    pub(super) fn export_subject(&self, caller: &Caller, request: &ExportRequest) -> Result<Subject, AdminError> {
        match request {
            ExportRequest::List => Ok(Subject::new(None, Right::See, None, "")),
            ExportRequest::Start { volume, generation, writable, .. } => {
                let tenant = self.tenant_of_volume(caller, volume)?;
                let detail = format!("generation {generation}{}", if *writable { ", with an overlay" } else { "" });
                Ok(Subject { detail, ..Subject::new(Some("export.start"), Right::Operate, Some(tenant), volume) })
            }
            ExportRequest::Stop { name, keep } => {
                let missing = || ExportError::None(crate::text::printable(name));
                let row = self.state.catalogue.exports()?.into_iter().find(|row| row.name == *name);
                let row = row.ok_or_else(missing)?;
                let tenant = self.tenant_seen(caller, row.tenant)?.ok_or_else(missing)?;
                let fate = match (row.writable, keep) {
                    (true, Some(true)) => "; what was written is kept",
                    (true, Some(false)) => "; what was written is thrown away",
                    _ => "",
                };
                let detail = format!("{} generation {}{fate}", row.volume, row.number);
                Ok(Subject { detail, ..Subject::new(Some("export.stop"), Right::Operate, Some(tenant), name) })
            }
        }
    }

    fn export_server(&self) -> Result<&Server, AdminError> {
        let daemon = self.daemon.as_ref().ok_or(ExportError::NotRunning)?;
        Ok(&daemon.exports)
    }

    fn export_line(&self, row: ExportRow) -> Result<ExportLine, AdminError> {
        let server = self.daemon.as_ref().map(|daemon| &daemon.exports);
        let mut uris = Vec::new();
        if row.served {
            let (name, socket) = (escaped(&row.name), self.state.folder().join(SOCKET));
            let socket: Vec<String> = socket.to_string_lossy().split('/').map(escaped).collect();
            uris.push(format!("nbd+unix:///{name}?socket={}", socket.join("/")));
            if let Some((server, address)) = server.and_then(|server| Some((server, server.address?))) {
                let scheme = if server.is_encrypted { "nbds" } else { "nbd" };
                uris.push(format!("{scheme}://{}/{name}", self.reached(address)?));
            }
        }
        Ok(ExportLine {
            connections: server.map_or(0, |server| server.connections(&row.name)),
            name: row.name,
            volume: row.volume,
            number: row.number,
            writable: row.writable,
            served: row.served,
            uris,
            by: row.by,
            since: row.since,
        })
    }

    /// Where others find what listens on an address: on all addresses of a machine nobody connects to, so it is the host under which edges come.
    fn reached(&self, address: SocketAddr) -> Result<String, AdminError> {
        if !address.ip().is_unspecified() {
            return Ok(address.to_string());
        }
        let announced = self.state.catalogue.addresses()?;
        let host = announced.first().and_then(|first| first.rsplit_once(':')).map(|(host, _)| host.to_owned());
        Ok(host.map_or_else(|| address.to_string(), |host| format!("{host}:{}", address.port())))
    }
}

/// Exports for people.
pub(super) fn render(exports: &[ExportLine]) -> String {
    if exports.is_empty() {
        return "Nothing is exported; `sluice-gateway export start --volume SITE/VOLUME` serves a generation.\n".into();
    }
    let row = |line: &ExportLine| {
        let state = match (line.served, line.writable) {
            (true, true) => "served, takes writes",
            (true, false) => "served, read-only",
            (false, _) => "kept, not served",
        };
        let uri = line.uris.last().cloned().unwrap_or_default();
        vec![line.name.clone(), line.volume.clone(), line.number.to_string(), state.into(), moment(line.since), uri]
    };
    table(&["name", "volume", "generation", "state", "since", "where"], &exports.iter().map(row).collect::<Vec<_>>())
}
