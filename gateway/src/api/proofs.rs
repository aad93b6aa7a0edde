//! Proofs: what the gateway states and signs for whoever asks later.

use super::people::unexpected;
use super::{Asked, Json, Me, PageOf, Part, Path, Problem};
use crate::access::Caller;
use crate::admin::{Answer, ProofAnswer, ProofLine, ProofRequest, Request, StatementKeyLine};
use crate::web::Web;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<Web>> {
    OpenApiRouter::new().routes(routes!(proofs)).routes(routes!(key)).routes(routes!(proof))
}

/// A statement as it was signed. `sluice-gateway proof verify` verifies it; how by hand stands in the guide.
#[derive(Serialize, ToSchema)]
struct SignedStatement {
    /// Format of the file: 1.
    statement: u64,
    /// What kind of statement it is; says what stands in the body.
    kind: String,
    /// What is stated.
    body: Map<String, Value>,
    /// The public key, 64 hexadecimal digits. Believe it only when you know it from elsewhere.
    key: String,
    /// Ed25519 over `sluice statement 1`, a zero byte, the kind, a zero byte, and the body as canonical JSON (RFC 8785); 128 hexadecimal digits.
    signature: String,
}

/// Proofs, newest first.
#[utoipa::path(get, path = "/proofs", tag = "proofs", params(PageOf), security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = Part<ProofLine>), (status = 401, body = Problem), (status = 422, body = Problem)))]
async fn proofs(State(web): State<Arc<Web>>, Me(caller): Me, Asked(page): Asked<PageOf>) -> Result<Response, Problem> {
    Ok(Json(page.take(proof_lines(&web, &caller).await?)?).into_response())
}

pub(crate) async fn proof_lines(web: &Web, caller: &Caller) -> Result<Vec<ProofLine>, Problem> {
    match web.ask(caller, Request::Proof(ProofRequest::List)).await? {
        Answer::Proof(ProofAnswer::List { proofs }) => Ok(proofs),
        _ => Err(unexpected()),
    }
}

/// The public key with which this gateway's proofs are verified.
#[utoipa::path(get, path = "/proofs/key", tag = "proofs", security(("session" = ["see"]), ("token" = ["see"])),
    responses((status = 200, body = StatementKeyLine), (status = 401, body = Problem)))]
async fn key(State(web): State<Arc<Web>>, Me(caller): Me) -> Result<Json<StatementKeyLine>, Problem> {
    match web.ask(&caller, Request::Proof(ProofRequest::Key)).await? {
        Answer::Proof(ProofAnswer::Key(key)) => Ok(Json(key)),
        _ => Err(unexpected()),
    }
}

/// The signed file of a proof.
#[utoipa::path(get, path = "/proofs/{number}", tag = "proofs", security(("session" = ["see"]), ("token" = ["see"])), params(("number" = u64, Path)),
    responses((status = 200, body = SignedStatement), (status = 401, body = Problem), (status = 404, body = Problem)))]
async fn proof(State(web): State<Arc<Web>>, Me(caller): Me, Path(number): Path<u64>) -> Result<Response, Problem> {
    let (_, statement) = shown(&web, &caller, number).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], statement).into_response())
}

/// A proof, and its file.
pub(crate) async fn shown(web: &Web, caller: &Caller, number: u64) -> Result<(ProofLine, String), Problem> {
    match web.ask(caller, Request::Proof(ProofRequest::Show { number })).await? {
        Answer::Proof(ProofAnswer::Shown { line, statement }) => Ok((line, statement)),
        _ => Err(unexpected()),
    }
}
