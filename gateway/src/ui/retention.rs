//! What is kept for how long, what is to be deleted, and what was proved.

use super::{Fault, Shell, Visitor, proofs};
use crate::api::proofs::proof_lines;
use crate::web::Web;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use maud::html;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Web>> {
    Router::new().route("/retention", get(show))
}

async fn show(State(web): State<Arc<Web>>, visitor: Visitor) -> Result<Response, Fault> {
    let lines = match proof_lines(&web, &visitor.caller).await {
        Ok(lines) => lines,
        Err(problem) => return Err(visitor.fault(problem)),
    };
    let language = visitor.language;
    let title = language.of("Retention", "保留");
    let content = html! {
        div.head { h1 { (title) } }
        section.card {
            h2 { (language.of("Proofs", "证明")) }
            (proofs::list(&lines, language))
        }
    };
    Ok(Shell { visitor: &visitor, title, place: "/retention", follows: None, content }.render().into_response())
}
