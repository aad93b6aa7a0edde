//! The pages: rendered here, without a build of scripts. They only look; what they change, their scripts ask the API for.
//!
//! ```text
//!   shell      the frame of every page, and who may see it
//!   say        what is going on, in sentences, in both languages
//!   fleet      all sites
//!   schedule   which sites keep to which schedule, and its editor
//!   site       one site: now, two days ahead, volumes, quotas, what bends its schedule
//!   volume     generations, comparison, verification, rehydration
//!   kept       where a volume is kept beside the gateway
//!   targets    all targets, one of them, and how they stand in words
//!   exports    generations as block devices
//!   domains    machines of libvirt on what targets hold
//!   entry      signing in, the first account, one's own password
//!   welcome    the first run: from nothing to a site that is enrolled
//!   quotas     all sites' quotas, whoever runs out first on top
//!   grants     how the gateway's own line is dealt out now
//!   reports    a month of a line, to be printed and signed
//!   retention  what is kept, what is to be deleted, and what was proved
//!   proofs     one proof, to be printed
//!   releases   which site runs which version, releases, and roll-outs
//!   approvals  what waits for a second person, and what it would change
//!   audit      the audit log
//!   people     accounts, tenants, one's own account and API tokens
//!   jobs       long work, and what works in the background
//!   settings   how the gateway is set, its authorities, its disk
//!   help       the guide
//!   parts      what pages have in common
//!   diff       how two documents differ, line by line
//! ```

mod approvals;
mod audit;
mod diff;
mod domains;
mod entry;
mod exports;
mod fleet;
mod grants;
mod help;
mod jobs;
mod kept;
mod parts;
mod people;
mod proofs;
mod quotas;
mod releases;
mod reports;
mod retention;
mod say;
mod schedule;
mod settings;
mod shell;
mod site;
mod targets;
mod volume;
mod welcome;

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
        Asset::new("pages.js", include_str!("ui/pages.js")),
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
        .merge(welcome::routes())
        .merge(quotas::routes())
        .merge(grants::routes())
        .merge(reports::routes())
        .merge(proofs::routes())
        .merge(releases::routes())
        .merge(targets::routes())
        .merge(exports::routes())
        .merge(domains::routes())
        .merge(retention::routes())
        .merge(approvals::routes())
        .merge(audit::routes())
        .merge(people::routes())
        .merge(jobs::routes())
        .merge(settings::routes())
        .merge(help::routes())
        .fallback(shell::nowhere)
        .layer(from_fn_with_state(web.clone(), crate::api::counted))
        .with_state(web);
    let pages = pages.layer(tower_http::compression::CompressionLayer::new());
    pages.merge(look::serve::assets(&ASSETS)).merge(look::serve::assets(&EDITOR)).merge(look::serve::languages())
}
