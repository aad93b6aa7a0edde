//! Pages.
use crate::web::Web;
use axum::Router;
use std::sync::Arc;
pub(crate) fn router(_web: Arc<Web>) -> Router {
    Router::new()
}
