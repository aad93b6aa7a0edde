//! Volumes and their generations: look, compare, verify, rehydrate.

use super::folders;
use super::jobs::begun;
use super::sites::with_site;
use super::{Asked, Json, Me, PageOf, Part, Path, Problem, named};
use crate::access::Caller;
use crate::admin::{AdminError, Answer, GenerationLine, Request, VolumeLine};
use crate::rehydrate::{Plan, Proof, Where};
use crate::web::{Web, blocking};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use dedupe::BLOCK;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Parts into which a comparison divides a volume, for the picture.
const COMPARED_PARTS: usize = 200;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(generations))
        .routes(routes!(compare))
        .routes(routes!(verify))
        .routes(routes!(rehydrate))
        .routes(routes!(plan))
}

/// A generation to do something with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Which {
    /// `latest`, a number, or an id.
    generation: String,
}

/// Where a generation is to be rebuilt: on a `target`, or at the path `to`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rebuild {
    /// `latest`, a number, or an id.
    generation: String,
    /// The name of a target of the tenant.
    target: Option<String>,
    /// Absolute path of a file or block device on the gateway, below one of the folders for targets.
    to: Option<String>,
    /// How it is proved: `all` is read back, what was `changed`, or that and a share of the rest, as `5%`; left out: as the target says, or `all`.
    proof: Option<String>,
    /// Read back only what was written: the same as the proof `changed`.
    #[serde(default)]
    quick: bool,
}

/// Two generations.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Two {
    /// `latest`, a number, or an id.
    from: String,
    /// Likewise.
    to: String,
}

/// How two generations differ.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Comparison {
    /// Number of the first.
    pub(crate) from: u64,
    /// Number of the second.
    pub(crate) to: u64,
    /// Bytes of the second.
    pub(crate) size: u64,
    /// Bytes of the second that differ and are not zeroes.
    pub(crate) data: u64,
    /// Bytes that became zeroes.
    pub(crate) zeroes: u64,
    /// Bytes that differ in each of the equal parts into which the volume is divided, from its beginning.
    pub(crate) parts: Vec<u64>,
}

/// All volumes, by tenant, site and name.
#[utoipa::path(get, path = "/volumes", tag = "volumes", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<VolumeLine>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn list(State(web): State<Arc<Web>>, Me(caller): Me, Asked(page): Asked<PageOf>) -> Result<Response, Problem> {
    match web.ask(&caller, Request::Volumes).await? {
        Answer::Volumes { volumes } => Ok(Json(page.take(volumes)?).into_response()),
        _ => Err(unexpected()),
    }
}

/// The generations of a volume, newest first.
#[utoipa::path(get, path = "/volumes/{tenant}/{site}/{volume}/generations", tag = "volumes", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path), ("volume" = String, Path), PageOf),
    responses((status = 200, body = Part<GenerationLine>), (status = 401, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn generations(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site, volume)): Path<(String, String, String)>,
    Asked(page): Asked<PageOf>,
) -> Result<Response, Problem> {
    let mut lines = lines(&web, &caller, full_name(&tenant, &site, &volume)?).await?;
    lines.reverse();
    Ok(Json(page.take(lines)?).into_response())
}

/// The generations of a volume, oldest first.
pub(crate) async fn lines(web: &Web, caller: &Caller, volume: String) -> Result<Vec<GenerationLine>, Problem> {
    match web.ask(caller, Request::Generations { volume }).await? {
        Answer::Generations { generations } => Ok(generations),
        _ => Err(unexpected()),
    }
}

/// How two generations of a volume differ.
#[utoipa::path(get, path = "/volumes/{tenant}/{site}/{volume}/compare", tag = "volumes", security(("session" = ["see"]), ("token" = ["see"])),
    params(("tenant" = String, Path), ("site" = String, Path), ("volume" = String, Path), Two),
    responses((status = 200, body = Comparison), (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn compare(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site, volume)): Path<(String, String, String)>,
    Asked(two): Asked<Two>,
) -> Result<Json<Comparison>, Problem> {
    Ok(Json(compared(&web, &caller, (&tenant, &site, &volume), (two.from, two.to)).await?))
}

/// How two generations of a volume differ. In proportion to what differs.
pub(crate) async fn compared(
    web: &Arc<Web>,
    caller: &Caller,
    (tenant, site, volume): (&str, &str, &str),
    (from, to): (String, String),
) -> Result<Comparison, Problem> {
    let name = full_name(tenant, site, volume)?;
    with_site(web, caller, tenant, site, move |web, _, _, _| {
        let (store, one) = web.admin.find_generation(&name, &from)?;
        let (_, other) = web.admin.find_generation(&name, &to)?;
        // Whatever was asked first, what differs is what the later one brought.
        let (from, to) = if one.number <= other.number { (one, other) } else { (other, one) };
        let store = &store.store;
        let mut compared = Comparison {
            from: from.number,
            to: to.number,
            size: to.size.0,
            data: 0,
            zeroes: 0,
            parts: vec![0; COMPARED_PARTS.min(to.size.blocks().max(1) as usize)],
        };
        let (blocks, parts) = (to.size.blocks().max(1), compared.parts.len());
        for slab in store.changed_slabs(Some(&from), &to).map_err(AdminError::from)? {
            let delta = store.slab_delta(Some(&from), &to, slab, false).map_err(AdminError::from)?;
            compared.data += (delta.data.len() * BLOCK) as u64;
            compared.zeroes += (delta.zero.len() * BLOCK) as u64;
            for block in delta.data.iter().map(|(block, _)| block).chain(&delta.zero) {
                let part = (u128::from(block.0) * parts as u128 / u128::from(blocks)) as usize;
                compared.parts[part.min(parts - 1)] += BLOCK as u64;
            }
        }
        Ok(compared)
    })
    .await
}

/// Reads a generation from the store and compares it with its root: begins a job.
#[utoipa::path(post, path = "/volumes/{tenant}/{site}/{volume}/verify", tag = "volumes", request_body = Which, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("site" = String, Path), ("volume" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = crate::jobs::JobView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 429, body = Problem)))]
async fn verify(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site, volume)): Path<(String, String, String)>,
    Json(which): Json<Which>,
) -> Result<Response, Problem> {
    let name = found(&web, &caller, (&tenant, &site, &volume), &which.generation).await?;
    let request = Request::Verify { volume: name.clone(), generation: which.generation };
    begun(&web, &caller, ("volume.verify", name, &tenant), request)
}

/// Rebuilds a generation on a target, or on a file or block device of the gateway, and reads it back: begins a job.
#[utoipa::path(post, path = "/volumes/{tenant}/{site}/{volume}/rehydrate", tag = "volumes", request_body = Rebuild, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("site" = String, Path), ("volume" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = crate::jobs::JobView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem), (status = 429, body = Problem)))]
async fn rehydrate(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site, volume)): Path<(String, String, String)>,
    Json(wanted): Json<Rebuild>,
) -> Result<Response, Problem> {
    let (name, request) = rebuilding(&web, &caller, (&tenant, &site, &volume), wanted, false).await?;
    begun(&web, &caller, ("volume.rehydrate", name, &tenant), request)
}

/// What rebuilding a generation would write. Looks at the target and changes nothing.
#[utoipa::path(post, path = "/volumes/{tenant}/{site}/{volume}/plan", tag = "volumes", request_body = Rebuild, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("tenant" = String, Path), ("site" = String, Path), ("volume" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Plan), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn plan(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path((tenant, site, volume)): Path<(String, String, String)>,
    Json(wanted): Json<Rebuild>,
) -> Result<Json<Plan>, Problem> {
    let (_, request) = rebuilding(&web, &caller, (&tenant, &site, &volume), wanted, true).await?;
    match web.ask(&caller, request).await? {
        Answer::Plan { plan } => Ok(Json(plan)),
        _ => Err(unexpected()),
    }
}

/// The volume's name, and what is asked for, once it may be from afar.
async fn rebuilding(
    web: &Arc<Web>,
    caller: &Caller,
    (tenant, site, volume): (&str, &str, &str),
    wanted: Rebuild,
    plan: bool,
) -> Result<(String, Request), Problem> {
    let name = found(web, caller, (tenant, site, volume), &wanted.generation).await?;
    let proof = match (&wanted.proof, wanted.quick) {
        (Some(text), false) if !text.is_empty() => Some(super::targets::proof(text)?),
        (Some(text), true) if text != "changed" => {
            return Err(Problem::invalid("`quick` means the proof `changed`: leave one of the two out"));
        }
        (_, quick) => quick.then_some(Proof::Changed),
    };
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let to = match (filled(wanted.target), filled(wanted.to)) {
        (Some(target), None) => {
            let (web, caller, full) = (web.clone(), caller.clone(), super::targets::full_name(tenant, &target)?);
            // What is not there is said before a job begins.
            blocking(move || web.admin.find_target(&caller, &full).map(|_| Where::Target(full))).await?
        }
        (None, Some(asked)) => {
            let (web, owner) = (web.clone(), tenant.to_owned());
            let allowed = move || -> Result<_, AdminError> {
                let owner = web.state.catalogue.find_tenant(&owner)?;
                let path = folders::for_target(&web.config, &asked)?;
                folders::free_for(&path, &owner, &web.state.catalogue.targets()?)?;
                Ok(path)
            };
            Where::Path(blocking(allowed).await?)
        }
        _ => return Err(Problem::invalid("say where: by the name of a `target`, or by a path in `to`")),
    };
    let request = Request::Rehydrate { volume: name.clone(), generation: wanted.generation, to, proof, plan };
    Ok((name, request))
}

/// The name of a volume that the caller sees and that has this generation: what is not there is said before a job begins.
async fn found(
    web: &Arc<Web>,
    caller: &Caller,
    (tenant, site, volume): (&str, &str, &str),
    generation: &str,
) -> Result<String, Problem> {
    let (name, generation) = (full_name(tenant, site, volume)?, generation.to_owned());
    with_site(web, caller, tenant, site, move |web, _, _, _| {
        web.admin.find_generation(&name, &generation)?;
        Ok(name)
    })
    .await
}

/// A volume as requests name it.
pub(crate) fn full_name(tenant: &str, site: &str, volume: &str) -> Result<String, Problem> {
    match volume.contains('/') {
        true => Err(Problem::missing(format!("there is no volume `{}`", crate::text::printable(volume)))),
        false => Ok(format!("{}/{volume}", named(tenant, site)?)),
    }
}

fn unexpected() -> Problem {
    Problem::failed("the gateway answered something else than was asked for")
}
