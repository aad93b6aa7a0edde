//! Domains: machines of libvirt on what targets hold.

use super::people::unexpected;
use super::targets::full_name;
use super::{Asked, Json, Me, Outcome, PageOf, Part, Path, Problem, named};
use crate::access::{Caller, Right};
use crate::admin::{AdminError, Answer, DomainLine, DomainRequest, Request};
use crate::catalogue::check_name;
use crate::config::WebConfig;
use crate::text::printable;
use crate::web::Web;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// MiB of memory, where nobody says otherwise: as the command has it.
pub(crate) const MEMORY: u64 = 2048;
/// Processors, the same.
pub(crate) const PROCESSORS: u32 = 2;
/// What disks hang on, the usual one first.
pub(crate) const BUSES: [&str; 4] = ["virtio", "sata", "scsi", "ide"];
/// Templates that are offered at most.
const MOST_TEMPLATES: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new().routes(routes!(list, define)).routes(routes!(start)).routes(routes!(remove))
}

/// A domain that is to be defined.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewDomain {
    /// The tenant.
    tenant: String,
    /// Its name, of the whole libvirt.
    name: String,
    /// The target that holds its disks: raw files, a device or qcow2.
    target: String,
    /// Its disks, the one to boot from first: `SITE/VOLUME`, or `SITE/VOLUME@NUMBER` for another point than the newest. At most 26.
    volumes: Vec<String>,
    /// MiB of memory, 2,048 unless said otherwise.
    memory: Option<u64>,
    /// Processors, 2 unless said otherwise.
    processors: Option<u32>,
    /// What disks hang on: `virtio`, `sata`, `scsi` or `ide`; `virtio` unless said otherwise.
    bus: Option<String>,
    /// The name of a template in the folder of the gateway's configuration, without `.xml`, instead of a BIOS machine without network.
    template: Option<String>,
}

/// Domains and what they do, by name.
#[utoipa::path(get, path = "/domains", tag = "domains", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<DomainLine>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn list(State(web): State<Arc<Web>>, Me(caller): Me, Asked(page): Asked<PageOf>) -> Result<Response, Problem> {
    Ok(Json(page.take(domain_lines(&web, &caller).await?)?).into_response())
}

pub(crate) async fn domain_lines(web: &Web, caller: &Caller) -> Result<Vec<DomainLine>, Problem> {
    ask(web, caller, DomainRequest::List).await
}

/// Defines a domain on points of a target. It is not started. What it writes goes to overlays that are thrown away with it.
#[utoipa::path(post, path = "/domains", tag = "domains", request_body = NewDomain, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = DomainLine), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn define(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Json(new): Json<NewDomain>,
) -> Result<Json<DomainLine>, Problem> {
    let target = full_name(&new.tenant, &new.target)?;
    let uri = from_afar(&web, &caller)?;
    // A volume is one of the tenant, whatever is written in front of it.
    let volume = |text: &String| match text.split_once('/') {
        Some((site, volume)) if !volume.contains('/') => Ok(format!("{}/{volume}", named(&new.tenant, site)?)),
        _ => Err(AdminError::VolumeName(printable(text)).into()),
    };
    let request = DomainRequest::Define {
        volumes: new.volumes.iter().map(volume).collect::<Result<_, Problem>>()?,
        name: new.name,
        target,
        memory: new.memory.unwrap_or(MEMORY),
        processors: new.processors.unwrap_or(PROCESSORS),
        bus: new.bus.filter(|bus| !bus.is_empty()).unwrap_or_else(|| BUSES[0].into()),
        template: new.template.filter(|name| !name.is_empty()).map(|name| template(&web.config, &name)).transpose()?,
        uri,
    };
    ask(&web, &caller, request).await?.pop().map(Json).ok_or_else(unexpected)
}

/// Starts a domain.
#[utoipa::path(post, path = "/domains/{domain}/start", tag = "domains", security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("domain" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = DomainLine), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn start(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(name): Path<String>,
) -> Result<Json<DomainLine>, Problem> {
    from_afar(&web, &caller)?;
    ask(&web, &caller, DomainRequest::Start { name }).await?.pop().map(Json).ok_or_else(unexpected)
}

/// Ends a domain as pulling the plug does, and removes it with what it wrote. The points under it stay.
#[utoipa::path(delete, path = "/domains/{domain}", tag = "domains", security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("domain" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn remove(State(web): State<Arc<Web>>, Me(caller): Me, Path(name): Path<String>) -> Result<Response, Problem> {
    from_afar(&web, &caller)?;
    Ok(Outcome::of(web.ask(&caller, Request::Domain(DomainRequest::Remove { name })).await?))
}

async fn ask(web: &Web, caller: &Caller, request: DomainRequest) -> Result<Vec<DomainLine>, Problem> {
    match web.ask(caller, Request::Domain(request)).await? {
        Answer::Domains { domains } => Ok(domains),
        _ => Err(unexpected()),
    }
}

/// The libvirt that may be used from afar. Whoever may not operate hears that first, and nothing of the configuration.
fn from_afar(web: &Web, caller: &Caller) -> Result<String, Problem> {
    match &web.config.libvirt {
        Some(uri) => Ok(uri.clone()),
        None if caller.role.has(Right::Operate) => Err(AdminError::NoLibvirt.into()),
        None => Err(caller.require(Right::Operate, None).map_or_else(Problem::from, |()| AdminError::NoLibvirt.into())),
    }
}

/// A template of the folder, by its name: no path comes from afar.
fn template(config: &WebConfig, name: &str) -> Result<PathBuf, Problem> {
    let wrong = |why: String| Problem { field: Some("template".into()), ..Problem::invalid(why) };
    let folder = config.templates.as_ref().ok_or_else(|| {
        wrong("no folder of templates is set: write `templates = \"/etc/sluice/domains\"` under `[web]` in the gateway's configuration".into())
    })?;
    let path = folder.join(format!("{name}.xml"));
    match check_name(name).is_ok() && path.is_file() {
        true => Ok(path),
        false => Err(wrong(format!("there is no template `{}`: {}", printable(name), offered(config)))),
    }
}

fn offered(config: &WebConfig) -> String {
    match templates(config) {
        names if names.is_empty() => "the folder of templates has none".into(),
        names => format!("there are {}", names.join(", ")),
    }
}

/// Names of the templates that there are, at most a hundred.
pub(crate) fn templates(config: &WebConfig) -> Vec<String> {
    let entries = config.templates.as_ref().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
    let named = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".xml").map(str::to_owned));
    let mut names: Vec<String> = named.filter(|name| check_name(name).is_ok()).take(MOST_TEMPLATES).collect();
    names.sort();
    names
}
