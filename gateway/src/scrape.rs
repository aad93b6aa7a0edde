//! What Prometheus asks beside `/metrics`: a page of each site, in the place of the edge that it cannot reach, and the list of these pages.

use crate::figures::MAX_SITES;
use crate::server::Gateway;
use crate::state::StateError;
use crate::telemetry::Heard;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use dedupe::TenantId;
use monitoring::Page;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Volumes on the page of one site: nine series each, so that no site makes more than two thousand. What is beyond is counted in
/// `sluice_gateway_series_dropped`.
pub(crate) const MAX_PAGE_VOLUMES: usize = 200;

/// Where the pages of sites lie.
const PAGES: &str = "/metrics/site";

/// `GET /metrics/site/TENANT/SITE` (Prometheus text; 503 when nothing was heard for 3 minutes) and `GET /sd` (Prometheus' HTTP service discovery).
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route(&format!("{PAGES}/{{tenant}}/{{site}}"), get(page))
        .route("/sd", get(discovery))
        .with_state(gateway)
}

async fn page(State(gateway): State<Arc<Gateway>>, Path((tenant, site)): Path<(String, String)>) -> Response {
    let read = tokio::task::spawn_blocking(move || page_of(&gateway, &format!("{tenant}/{site}"))).await;
    read.unwrap_or_else(|error| {
        tracing::error!(%error, "the page of a site ended unexpectedly");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    })
}

fn page_of(gateway: &Gateway, name: &str) -> Response {
    let site = match gateway.state.catalogue.find_site(name) {
        Ok(site) => site,
        Err(error) => return (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
    };
    let now = gateway.state.now();
    let Some(heard) = gateway.state.telemetry.of(site.id) else {
        return silent(name, "has not told anything yet");
    };
    if heard.is_silent(now) {
        return silent(name, &format!("was last heard at {}", crate::text::moment(heard.at)));
    }
    match volume_names(gateway, site.tenant, &heard) {
        Ok(names) => monitoring::exposition(exposed(&heard, &names).text()),
        Err(error) => {
            tracing::warn!(site = name, %error, "the names of a site's volumes cannot be read");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

fn silent(name: &str, what: &str) -> Response {
    let text = format!("the edge of {} {what}; its line may be cut\n", crate::text::printable(name));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// The figures of a site and its volumes, by the volumes' names.
fn exposed(heard: &Heard, names: &[String]) -> Page {
    let mut page = Page::new();
    let volumes = names.iter().map(String::as_str).zip(heard.volumes.values());
    wire::telemetry::series(&heard.site, volumes, |name, help, labels, value| page.put(name, help, labels, value));
    page
}

/// Names in the order of [`Heard::volumes`], for as many as the page has room.
fn volume_names(gateway: &Gateway, tenant: TenantId, heard: &Heard) -> Result<Vec<String>, StateError> {
    let tenant = gateway.state.tenant(tenant)?;
    let mut names = Vec::new();
    for id in heard.volumes.keys().take(MAX_PAGE_VOLUMES) {
        let known = tenant.store.lineage(*id).map_err(|source| StateError::Store { tenant: tenant.id, source })?;
        let name = known.map_or_else(|| id.to_string(), |lineage| lineage.name);
        // Two lineages of one name are two series all the same.
        names.push(if names.contains(&name) { id.to_string() } else { name });
    }
    Ok(names)
}

/// One group of targets, as Prometheus wants it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Group {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

async fn discovery(State(gateway): State<Arc<Gateway>>, headers: HeaderMap) -> Response {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| is_host(host)) else {
        return (StatusCode::BAD_REQUEST, "the request names no host under which the pages could be had\n")
            .into_response();
    };
    let host = host.to_owned();
    let read = tokio::task::spawn_blocking(move || gateway.state.catalogue.enrolled_names());
    match read.await {
        Ok(Ok(sites)) => {
            let groups = sites.iter().take(MAX_SITES);
            Json(groups.map(|(tenant, site)| group(&host, tenant, site)).collect::<Vec<_>>()).into_response()
        }
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(error) => {
            tracing::error!(%error, "the list of sites ended unexpectedly");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn group(host: &str, tenant: &str, site: &str) -> Group {
    let labels = BTreeMap::from([
        ("__metrics_path__", format!("{PAGES}/{tenant}/{site}")),
        ("tenant", tenant.to_owned()),
        ("site", site.to_owned()),
        ("instance", format!("{tenant}/{site}")),
    ]);
    Group { targets: [host.to_owned()], labels }
}

/// A name or address with or without a port, and nothing else.
fn is_host(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']' | '_');
    (1..=255).contains(&text.len()) && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_says_where_the_page_of_a_site_is() {
        let json = serde_json::to_value(group("gw.bank.example:9470", "bank", "branch-17")).unwrap();
        let expected = serde_json::json!({
            "targets": ["gw.bank.example:9470"],
            "labels": {
                "__metrics_path__": "/metrics/site/bank/branch-17",
                "instance": "bank/branch-17",
                "site": "branch-17",
                "tenant": "bank",
            },
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn only_a_host_is_given_back_as_one() {
        for host in ["127.0.0.1:9470", "[::1]:9470", "gw.bank.example", "sluice_gateway:9470"] {
            assert!(is_host(host), "{host}");
        }
        for other in ["", "a b", "x/../y", "<script>", &"a".repeat(256)] {
            assert!(!is_host(other), "{other}");
        }
    }
}
