//! Exports: generations as block devices, at once.

use super::people::unexpected;
use super::{Asked, Json, Me, Outcome, PageOf, Part, Path, Problem};
use crate::access::Caller;
use crate::admin::{AdminError, Answer, ExportLine, ExportRequest, Request};
use crate::text::printable;
use crate::web::Web;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new().routes(routes!(list, start)).routes(routes!(stop))
}

/// A generation to be served as a block device.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewExport {
    /// The volume: `TENANT/SITE/VOLUME`, as lists name it.
    volume: String,
    /// `latest`, a number, or an id; `latest` unless said otherwise.
    generation: Option<String>,
    /// The name by which clients ask for it, of the whole gateway; `SITE.VOLUME.NUMBER` unless said otherwise.
    name: Option<String>,
    /// Whether it takes writes, into an overlay that is thrown away or kept in the end; the generation stays what it is.
    writable: Option<bool>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Fate {
    /// What becomes of what was written: kept, to be served again, or thrown away. Has to be said of an export that takes writes.
    keep: Option<bool>,
}

/// What is exported, and what was written and kept, by name.
#[utoipa::path(get, path = "/exports", tag = "exports", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<ExportLine>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn list(State(web): State<Arc<Web>>, Me(caller): Me, Asked(page): Asked<PageOf>) -> Result<Response, Problem> {
    Ok(Json(page.take(export_lines(&web, &caller).await?)?).into_response())
}

pub(crate) async fn export_lines(web: &Web, caller: &Caller) -> Result<Vec<ExportLine>, Problem> {
    ask(web, caller, ExportRequest::List).await
}

/// Serves a generation as a block device from now on, also after a restart. What was kept under the name is served again.
#[utoipa::path(post, path = "/exports", tag = "exports", request_body = NewExport, security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ExportLine), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn start(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Json(new): Json<NewExport>,
) -> Result<Json<ExportLine>, Problem> {
    if new.volume.matches('/').count() != 2 {
        return Err(AdminError::VolumeName(printable(&new.volume)).into());
    }
    let part = |text: Option<String>| text.filter(|text| !text.is_empty());
    let request = ExportRequest::Start {
        volume: new.volume,
        generation: part(new.generation).unwrap_or_else(|| "latest".into()),
        name: part(new.name),
        writable: new.writable.unwrap_or(false),
    };
    ask(&web, &caller, request).await?.pop().map(Json).ok_or_else(unexpected)
}

/// Serves it no more: its connections are closed once what they asked for is answered.
#[utoipa::path(delete, path = "/exports/{export}", tag = "exports", security(("session" = ["operate"]), ("token" = ["operate"])),
    params(("export" = String, Path), Fate),
    responses((status = 200, body = Outcome), (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn stop(
    State(web): State<Arc<Web>>,
    Me(caller): Me,
    Path(name): Path<String>,
    Asked(fate): Asked<Fate>,
) -> Result<Response, Problem> {
    let request = ExportRequest::Stop { name, keep: fate.keep };
    Ok(Outcome::of(web.ask(&caller, Request::Export(request)).await?))
}

async fn ask(web: &Web, caller: &Caller, request: ExportRequest) -> Result<Vec<ExportLine>, Problem> {
    match web.ask(caller, Request::Export(request)).await? {
        Answer::Exports { exports } => Ok(exports),
        _ => Err(unexpected()),
    }
}
