//! Telemetry: what an edge knows of itself is at the gateway, under the same names, whatever happens to either.

use super::branch::{Branch, RECOVERY, SITE, Setup, VOLUME};
use anyhow::{Context, Result, ensure};
use lab::world::{EdgeOptions, GatewayOptions, Metrics};

/// What does not change while nothing happens: name, and a label to tell series of one name apart.
const STABLE: [(&str, &[(&str, &str)]); 14] = [
    ("sluice_link_allowed_bits_per_second", &[]),
    ("sluice_edge_limited_by", &[("reason", "schedule")]),
    ("sluice_edge_limited_by", &[("reason", "no-policy")]),
    ("sluice_edge_clock", &[("state", "synced")]),
    ("sluice_edge_policy_version", &[]),
    ("sluice_edge_spool_limit_bytes", &[]),
    ("sluice_edge_disk_size_bytes", &[]),
    ("sluice_edge_certificate_end_timestamp_seconds", &[]),
    ("sluice_edge_volumes", &[]),
    ("sluice_link_cap_violations_total", &[]),
    ("sluice_edge_volume_last_timestamp_seconds", &[("volume", VOLUME), ("event", "captured")]),
    ("sluice_edge_volume_size_bytes", &[("volume", VOLUME)]),
    ("sluice_edge_volume_changed_bytes", &[("volume", VOLUME)]),
    ("sluice_edge_volume_coded_bytes", &[("volume", VOLUME)]),
];

/// Longer than the three minutes after which an edge counts as silent.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(240);

fn page(branch: &mut Branch) -> Result<(u16, String)> {
    Ok(branch.gateway.daemon()?.get(&format!("/metrics/site/{}", place()))?)
}

/// `TENANT/SITE`.
fn place() -> String {
    format!("bank/{SITE}")
}

/// The page of the site, once `wanted` is true of it.
fn wait_page(branch: &mut Branch, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
    let path = format!("/metrics/site/{}", place());
    let found = branch.gateway.daemon()?.wait_until(what, RECOVERY, |gateway| {
        let (status, text) = gateway.get(&path)?;
        Ok((status == 200).then(|| Metrics::parse(&text)).filter(&wanted))
    })?;
    Ok(found)
}

fn same(edge: &Metrics, page: &Metrics) -> Result<()> {
    for (name, labels) in STABLE {
        let (here, there) = (edge.value(name, labels), page.value(name, labels));
        ensure!(here.is_some() && here == there, "{name}{labels:?}: {here:?} at the edge, {there:?} at the gateway");
    }
    Ok(())
}

#[test]
fn an_edges_figures_are_at_the_gateway_until_it_falls_silent_and_outlive_a_restart_of_it() -> Result<()> {
    let edge = EdgeOptions { rate: String::new(), ..Setup::default().edge };
    let mut branch = Branch::with(Setup { edge, size: 32 << 20, ..Setup::default() })?;
    let file = branch.world.path().join("policy.toml");
    std::fs::write(
        &file,
        "zone = \"UTC\"\n[line]\nup = \"100 Mbit/s\"\ncap = \"60 %\"\ncourtesy = \"off\"\n[profiles]\nfull = \"100 %\"\n[grid]\nall = \"00:00 full\"\n",
    )?;
    let file = file.to_string_lossy().into_owned();
    branch.gateway.run("policy", &["set", "--site", SITE, "--file", &file, "--reason", "a test"])?;
    branch.replicate()?;

    let told = wait_page(&mut branch, "what was replicated on the site's page", |page| {
        page.value("sluice_edge_volume_coded_bytes", &[]).is_some_and(|bytes| bytes > 0.0)
            && page.value("sluice_edge_volume_left_bytes", &[]) == Some(0.0)
    })?;
    same(&branch.edge.daemon()?.metrics()?, &told)?;
    ensure!(told.value("sluice_link_allowed_bits_per_second", &[]) == Some(6e7), "{told:?}");
    ensure!(told.value("sluice_link_packets_total", &[]).is_some_and(|packets| packets > 100.0), "{told:?}");
    for name in ["sluice_link_round_trip_seconds", "sluice_edge_disk_free_bytes", "sluice_edge_uptime_seconds"] {
        ensure!(told.value(name, &[]).is_some_and(|value| value > 0.0), "{name}: {told:?}");
    }
    let own = branch.gateway.daemon()?.wait_until("the site's own figures", RECOVERY, |gateway| {
        let metrics = gateway.metrics()?;
        Ok(metrics.value("sluice_gateway_restore_point_timestamp_seconds", &[("volume", VOLUME)]).map(|_| metrics))
    })?;
    let site = [("site", SITE)];
    ensure!(own.value("sluice_gateway_site_connected", &site) == Some(1.0), "{own:?}");
    ensure!(own.value("sluice_gateway_site_window_open", &site) == Some(1.0), "{own:?}");
    ensure!(own.value("sluice_gateway_site_cap_bits_per_second", &site) == Some(6e7), "{own:?}");

    // The edge is gone: a restart of the gateway does not make it forget what it heard, nor the page for whoever is late.
    branch.edge.stop()?;
    branch.gateway.stop()?;
    branch.gateway.start()?;
    let (status, text) = page(&mut branch)?;
    ensure!(status == 200, "{status} {text}");
    let after = Metrics::parse(&text);
    for (name, labels) in STABLE {
        ensure!(after.value(name, labels) == told.value(name, labels), "{name}{labels:?} after the restart: {text}");
    }
    branch.gateway.daemon()?.wait_until("the silence of the edge", SILENCE, |gateway| {
        let (status, text) = gateway.get(&format!("/metrics/site/{}", place()))?;
        Ok((status == 503 && text.contains("was last heard at")).then_some(()))
    })?;
    let (_, groups) = branch.gateway.daemon()?.get("/sd")?;
    let groups: serde_json::Value = serde_json::from_str(&groups).with_context(|| groups.clone())?;
    ensure!(groups[0]["labels"]["instance"] == place() && groups[0]["labels"]["site"] == SITE, "{groups}");
    Ok(())
}

#[test]
fn logs_of_both_ends_are_json_when_asked_and_name_one_session() -> Result<()> {
    let env = vec![("SLUICE_LOG".to_owned(), "json".to_owned())];
    let edge = EdgeOptions { env: env.clone(), ..Setup::default().edge };
    let gateway = GatewayOptions { env, ..GatewayOptions::default() };
    let mut branch = Branch::with(Setup { size: 32 << 20, edge, gateway, ..Setup::default() })?;
    branch.replicate()?;
    let session = |line: String| -> Result<String> {
        let line: serde_json::Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        ensure!(line["timestamp"].is_string() && line["level"] == "INFO", "{line}");
        ensure!(line["span"]["site"].as_str().is_some_and(|site| site.ends_with(SITE)), "{line}");
        line["span"]["session"].as_str().map(str::to_owned).with_context(|| line.to_string())
    };
    let gateway = session(branch.gateway.daemon()?.wait_line("generation sealed", RECOVERY)?)?;
    ensure!(gateway.len() == 16, "{gateway}");
    // The edge may have dialled more than once: one of its sessions is this one.
    let edge = session(branch.edge.daemon()?.wait_line(&gateway, RECOVERY)?)?;
    ensure!(edge == gateway, "{edge} at the edge, {gateway} at the gateway");
    let lines = [branch.edge.daemon()?.lines(), branch.gateway.daemon()?.lines()].concat();
    for line in &lines {
        ensure!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "no JSON: {line}");
    }
    Ok(())
}
