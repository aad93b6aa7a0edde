//! The pages: rendered here, without a build of scripts. They only look; what they change, their scripts ask the API for.
//!
//! ```text
//!   shell      the frame of every page, and who may see it
//!   say        what is going on, in sentences, in both languages
//!   fleet      all sites
//!   schedule   which sites keep to which schedule, and its editor
//!   site       one site: now, two days ahead, volumes, quotas, what bends its schedule
//!   volume     generations, comparison, verification, rehydration
//!   entry      signing in, the first account, one's own password
//! ```

mod entry;
mod fleet;
mod say;
mod schedule;
mod shell;
mod site;
mod volume;

pub(crate) use shell::{Fault, Shell, Visitor};

use crate::web::Web;
use axum::Router;
use axum::middleware::from_fn_with_state;
use look::Asset;
use std::sync::{Arc, LazyLock};

/// Style, icon and scripts, in the order in which pages name them.
static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    vec![
        Asset::style(),
        Asset::new("gateway.css", include_str!("ui/gateway.css")),
        Asset::icon(),
        Asset::new("app.js", include_str!("ui/app.js")),
    ]
});

/// What the editor of schedules has on top: no other page loads it.
static EDITOR: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    vec![
        Asset::new("schedule.css", include_str!("ui/schedule.css")),
        Asset::new("schedule.js", include_str!("ui/schedule.js")),
    ]
});

/// All pages.
pub(crate) fn router(web: Arc<Web>) -> Router {
    let pages = Router::new()
        .merge(entry::routes())
        .merge(fleet::routes())
        .merge(schedule::routes())
        .merge(site::routes())
        .merge(volume::routes())
        .fallback(shell::nowhere)
        .layer(from_fn_with_state(web.clone(), crate::api::counted))
        .with_state(web);
    let pages = pages.layer(tower_http::compression::CompressionLayer::new());
    pages.merge(look::serve::assets(&ASSETS)).merge(look::serve::assets(&EDITOR)).merge(look::serve::languages())
}
