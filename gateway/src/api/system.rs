//! The gateway itself: tenants, workers, grants, authorities, how it is set.

use super::{Json, Me, Outcome, Problem};
use crate::access::{Caller, Right};
use crate::admin::{Answer, Authority, Request};
use crate::web::{Web, blocking};
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new()
        .routes(routes!(tenants, add_tenant))
        .routes(routes!(workers))
        .routes(routes!(grants))
        .routes(routes!(authorities, change_authority))
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct TenantLine {
    /// Its name.
    pub(crate) name: String,
    /// When it was made, seconds since 1970.
    pub(crate) created: u64,
    /// How many sites it has.
    pub(crate) sites: usize,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    /// Its name: letters, digits, `-`, `_` and `.`.
    name: String,
}

/// A worker: work in the background.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct WorkerLine {
    /// Its name.
    pub(crate) name: String,
    /// What it does.
    pub(crate) doing: String,
}

/// What a site may use of the gateway's own line.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct GrantLine {
    /// The tenant.
    pub(crate) tenant: String,
    /// The site.
    pub(crate) site: String,
    /// Bits per second that it was granted last.
    pub(crate) bits: u64,
    /// Whether a generation of it is arriving.
    pub(crate) works: bool,
    /// Whether it is read no faster than its grant, because it took more.
    pub(crate) braked: bool,
}

/// How the gateway's own line is dealt out.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Grants {
    /// Bits per second of the line; absent: it is no bottleneck, and nothing is dealt.
    pub(crate) ingress: Option<u64>,
    /// The sites that are connected.
    pub(crate) sites: Vec<GrantLine>,
}

/// An authority that signs certificates.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct AuthorityLine {
    /// Its number.
    pub(crate) number: u32,
    /// SHA-256 of its certificate.
    pub(crate) fingerprint: String,
    /// Whether it signs; else it is only trusted.
    pub(crate) signs: bool,
}

/// What to do with the authorities.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
enum AuthorityChange {
    /// Make a further one, which edges learn to trust when they renew.
    Add,
    /// Let this one sign.
    Use {
        /// Its number.
        number: u32,
    },
    /// Trust this one no more.
    Retire {
        /// Its number.
        number: u32,
    },
}

/// The tenants that the caller sees, by name.
#[utoipa::path(get, path = "/tenants", tag = "system", security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Vec<TenantLine>), (status = 401, body = Problem)))]
async fn tenants(State(web): State<Arc<Web>>, Me(caller): Me) -> Result<Json<Vec<TenantLine>>, Problem> {
    Ok(Json(tenant_lines(&web, &caller).await?))
}

pub(crate) async fn tenant_lines(web: &Arc<Web>, caller: &Caller) -> Result<Vec<TenantLine>, Problem> {
    let (web, caller) = (web.clone(), caller.clone());
    blocking(move || {
        let sites = web.state.catalogue.sites()?;
        let tenants = web.state.catalogue.tenants()?.into_iter().filter(|tenant| caller.sees(tenant));
        let line = |tenant: crate::catalogue::Tenant| TenantLine {
            sites: sites.iter().filter(|site| site.tenant == tenant.id).count(),
            name: tenant.name,
            created: tenant.created.0 / 1000,
        };
        Ok(tenants.map(line).collect())
    })
    .await
}

/// Makes a tenant, if there is none of that name.
#[utoipa::path(post, path = "/tenants", tag = "system", request_body = NewTenant, security(("session" = ["administer"]), ("token" = ["administer"])),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 422, body = Problem)))]
async fn add_tenant(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Json(new): Json<NewTenant>,
) -> Result<Response, Problem> {
    Ok(Outcome::of(web.ask(&caller, Request::Tenant { name: new.name }).await?))
}

/// What works in the background.
#[utoipa::path(get, path = "/workers", tag = "system", security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Vec<WorkerLine>), (status = 401, body = Problem)))]
async fn workers(State(web): State<Arc<Web>>, Me(caller): Me) -> Result<Json<Vec<WorkerLine>>, Problem> {
    Ok(Json(worker_lines(&web, &caller).await?))
}

pub(crate) async fn worker_lines(web: &Web, caller: &Caller) -> Result<Vec<WorkerLine>, Problem> {
    match web.ask(caller, Request::Status).await? {
        Answer::Status { workers, .. } => {
            Ok(workers.into_iter().map(|(name, doing)| WorkerLine { name, doing }).collect())
        }
        _ => Err(Problem::failed("the gateway answered something else than its workers")),
    }
}

/// How the gateway's own line is dealt out now.
#[utoipa::path(get, path = "/grants", tag = "system", security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Grants), (status = 401, body = Problem)))]
async fn grants(State(web): State<Arc<Web>>, Me(caller): Me) -> Result<Json<Grants>, Problem> {
    Ok(Json(grant_lines(&web, &caller).await?))
}

pub(crate) async fn grant_lines(web: &Arc<Web>, caller: &Caller) -> Result<Grants, Problem> {
    let (web, caller) = (web.clone(), caller.clone());
    blocking(move || {
        let (mut lines, deal) = (Vec::new(), web.live.deal());
        let tenants = web.state.catalogue.tenants()?;
        for site in web.state.catalogue.sites()? {
            let Some(tenant) = tenants.iter().find(|tenant| tenant.id == site.tenant && caller.sees(tenant)) else {
                continue;
            };
            let Some(dealt) = deal.sites.get(&site.id) else { continue };
            let (tenant, bits) = (tenant.name.clone(), dealt.bits);
            lines.push(GrantLine { tenant, site: site.name, bits, works: dealt.works, braked: dealt.braked });
        }
        lines.sort_by(|a, b| b.bits.cmp(&a.bits).then_with(|| a.site.cmp(&b.site)));
        Ok(Grants { ingress: deal.ingress, sites: lines })
    })
    .await
}

/// The authorities that sign certificates of edges.
#[utoipa::path(get, path = "/authorities", tag = "system", security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Vec<AuthorityLine>), (status = 401, body = Problem)))]
async fn authorities(State(web): State<Arc<Web>>, Me(caller): Me) -> Result<Json<Vec<AuthorityLine>>, Problem> {
    Ok(Json(authority_lines(&web, &caller, Authority::List).await?))
}

/// Replaces authorities without visiting a branch: add, let edges renew, use, let edges renew, retire.
#[utoipa::path(post, path = "/authorities", tag = "system", request_body = AuthorityChange, security(("session" = ["administer"]), ("token" = ["administer"])),
    responses((status = 200, body = Vec<AuthorityLine>), (status = 401, body = Problem), (status = 403, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn change_authority(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Json(change): Json<AuthorityChange>,
) -> Result<Json<Vec<AuthorityLine>>, Problem> {
    caller.require(Right::Administer, None)?;
    let what = match change {
        AuthorityChange::Add => Authority::Add,
        AuthorityChange::Use { number } => Authority::Use(number),
        AuthorityChange::Retire { number } => Authority::Retire(number),
    };
    Ok(Json(authority_lines(&web, &caller, what).await?))
}

pub(crate) async fn authority_lines(
    web: &Web,
    caller: &Caller,
    what: Authority,
) -> Result<Vec<AuthorityLine>, Problem> {
    match web.ask(caller, Request::Authority(what)).await? {
        Answer::Authorities { authorities } => Ok(authorities
            .into_iter()
            .map(|(number, fingerprint, signs)| AuthorityLine { number, fingerprint, signs })
            .collect()),
        _ => Err(Problem::failed("the gateway answered something else than its authorities")),
    }
}
