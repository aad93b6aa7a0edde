//! The gateway itself: tenants, workers, grants, authorities, how it is set.

use super::{Json, Me, Outcome, Path, Problem};
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
        .routes(routes!(set_tranquillity))
        .routes(routes!(settings))
        .routes(routes!(stores))
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
    /// What it does, or did last.
    pub(crate) doing: String,
    /// Whether it is at work.
    pub(crate) working: bool,
    /// When it was done last, milliseconds since 1970; absent: not since the gateway's start.
    pub(crate) last: Option<u64>,
    /// The share of a disk's time that it may take, per cent, where that can be set.
    pub(crate) share: Option<u8>,
}

/// The share of a disk's time that a worker may take.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Tranquillity {
    /// Per cent.
    #[schema(minimum = 1, maximum = 100)]
    share: u32,
}

/// How the gateway is set; changed in its configuration, and nowhere else.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Settings {
    /// The gateway's version.
    pub(crate) version: &'static str,
    /// The protocol versions that edges may speak.
    pub(crate) protocols: Vec<String>,
    /// Directory of everything durable.
    pub(crate) state: String,
    /// Where edges are awaited, QUIC over UDP.
    pub(crate) listen: Vec<String>,
    /// Under which addresses edges are told to reach it.
    pub(crate) addresses: Vec<String>,
    /// Where metrics and health are served; absent: nowhere.
    pub(crate) http: Option<String>,
    /// Bits per second of the gateway's own line; absent: it is no bottleneck.
    pub(crate) ingress: Option<u64>,
    /// Sealed generations that are kept of each volume.
    pub(crate) retention: usize,
    /// Parcels that are decoded at once.
    pub(crate) decode_workers: usize,
    /// Bytes that stay free on the disk.
    pub(crate) reserve: u64,
    /// Days that an edge's certificate is good for.
    pub(crate) certificate_days: u64,
    /// Where pages and API are served.
    pub(crate) web_listen: String,
    /// Names under which browsers come.
    pub(crate) web_names: Vec<String>,
    /// What encrypts them: `own`, `given` or `off`.
    pub(crate) web_tls: &'static str,
    /// When the certificate of the pages ends, seconds since 1970; absent: there is none.
    pub(crate) web_certificate_ends: Option<u64>,
    /// Folders below which generations may be rehydrated from afar.
    pub(crate) targets: Vec<String>,
    /// Folders below which targets that are set up from afar find their files of credentials.
    pub(crate) credentials: Vec<String>,
    /// Bytes that are free on the disk of the state directory; absent: it does not say.
    pub(crate) disk_free: Option<u64>,
}

/// What a tenant takes of the disk.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct StoreLine {
    /// The tenant.
    pub(crate) tenant: String,
    /// Bytes of content, as stored.
    pub(crate) data_bytes: u64,
    /// Bytes of records, as stored, both copies.
    pub(crate) record_bytes: u64,
    /// Generations, arriving ones too.
    pub(crate) generations: u64,
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
async fn workers(State(web): State<Arc<Web>>, Me(_caller): Me) -> Result<Json<Vec<WorkerLine>>, Problem> {
    Ok(Json(worker_lines(&web)))
}

fn worker_lines(web: &Web) -> Vec<WorkerLine> {
    let line = |view: crate::workers::WorkerView| WorkerLine {
        name: view.name.into(),
        doing: view.said.of(look::Language::English).into(),
        working: view.working,
        last: view.last.map(|last| last.0),
        share: view.share,
    };
    web.admin.workers().into_iter().map(line).collect()
}

/// Sets the share of a disk's time that a worker may take: `collection` or `scrub`. It counts from the worker's next store on.
#[utoipa::path(put, path = "/workers/{name}/tranquillity", tag = "system", request_body = Tranquillity, security(("session" = ["administer"]), ("token" = ["administer"])),
    params(("name" = String, Path)),
    responses((status = 200, body = Outcome), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn set_tranquillity(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(worker): Path<String>,
    Json(set): Json<Tranquillity>,
) -> Result<Response, Problem> {
    Ok(Outcome::of(web.ask(&caller, Request::Tranquillity { worker, share: set.share }).await?))
}

/// How the gateway is set, for whoever sees all of it. Holds no secrets.
#[utoipa::path(get, path = "/settings", tag = "system", security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Settings), (status = 401, body = Problem), (status = 403, body = Problem)))]
async fn settings(State(web): State<Arc<Web>>, Me(caller): Me) -> Result<Json<Settings>, Problem> {
    Ok(Json(settings_of(&web, &caller).await?))
}

pub(crate) async fn settings_of(web: &Arc<Web>, caller: &Caller) -> Result<Settings, Problem> {
    caller.require(Right::See, None)?;
    let web = web.clone();
    blocking(move || {
        let (config, pages) = (&web.settings, &web.config);
        let text = |all: &[std::net::SocketAddr]| all.iter().map(ToString::to_string).collect();
        let tls = match pages.tls {
            crate::config::WebTls::Own => "own",
            crate::config::WebTls::Given { .. } => "given",
            crate::config::WebTls::Off => "off",
        };
        let folders = |all: &[std::path::PathBuf]| all.iter().map(|folder| folder.display().to_string()).collect();
        Ok(Settings {
            version: env!("CARGO_PKG_VERSION"),
            protocols: wire::version::SPOKEN.iter().map(|version| format!("{version:?}")).collect(),
            state: web.state.folder().display().to_string(),
            listen: text(&config.listen),
            addresses: web.state.catalogue.addresses()?,
            http: config.http.map(|address| address.to_string()),
            ingress: config.ingress.map(|ingress| ingress.bits()),
            retention: config.retention,
            decode_workers: config.decode_workers,
            reserve: config.reserve,
            certificate_days: config.certificate_validity.as_secs() / 86_400,
            web_listen: pages.listen.to_string(),
            web_names: pages.names.clone(),
            web_tls: tls,
            web_certificate_ends: web.certificate_ends(),
            targets: folders(&pages.targets),
            credentials: folders(&pages.credentials),
            disk_free: crate::files::free_bytes(web.state.folder()).ok(),
        })
    })
    .await
}

/// What each tenant takes of the disk, the largest first.
#[utoipa::path(get, path = "/stores", tag = "system", security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Vec<StoreLine>), (status = 401, body = Problem), (status = 500, body = Problem)))]
async fn stores(State(web): State<Arc<Web>>, Me(caller): Me) -> Result<Json<Vec<StoreLine>>, Problem> {
    Ok(Json(store_lines(&web, &caller).await?))
}

pub(crate) async fn store_lines(web: &Arc<Web>, caller: &Caller) -> Result<Vec<StoreLine>, Problem> {
    let (web, caller) = (web.clone(), caller.clone());
    blocking(move || {
        let mut lines = Vec::new();
        for (tenant, store) in web.state.all_tenants()?.into_iter().filter(|(tenant, _)| caller.sees(tenant)) {
            let stats = store.store.stats().map_err(crate::admin::AdminError::from)?;
            let (data_bytes, record_bytes, generations) = (stats.data_bytes, stats.meta_bytes, stats.generations);
            lines.push(StoreLine { tenant: tenant.name, data_bytes, record_bytes, generations });
        }
        lines.sort_by_key(|line| std::cmp::Reverse(line.data_bytes + line.record_bytes));
        Ok(lines)
    })
    .await
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
