//! One file for whoever helps from afar: everything that can be known of an edge without its secrets.
//!
//! It is put together from what is shown anyway, and from named fields of the configuration; no file of the state directory is copied into it.

use crate::Daemon;
use crate::files;
use crate::line::Stretch;
use crate::pipeline::blocking;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const FORMAT: &str = "sluice-diagnostics";
const VERSION: u32 = 1;
/// Minutes of what was sent, and of what is allowed ahead.
const HOURS: i64 = 48;

/// What can be known now.
pub async fn bundle(daemon: &Daemon) -> Value {
    let (line, config) = (daemon.link().line().clone(), daemon.config().clone());
    let (clock, status) = (line.clock(), daemon.status());
    let (from, to) = (clock.now - SignedDuration::from_hours(HOURS), clock.now + SignedDuration::from_hours(HOURS));
    let (sent, asked, state) = (line.clone(), line.clone(), config.state.clone());
    let (minutes, ahead, disk) = blocking(move || {
        (sent.sent_since(from, (HOURS * 60) as usize), asked.stretches(clock.now, to), files::disk(&state).ok())
    })
    .await;
    let identity = daemon.link().identity();
    let certificate = identity.as_ref().and_then(|identity| identity.bearer().ok());
    let minutes: Vec<Value> = minutes
        .iter()
        .map(|minute| json!([minute.minute, minute.sent, minute.received, minute.allowed, minute.reason]))
        .collect();
    json!({
        "format": FORMAT,
        "version": VERSION,
        "made_at": clock.now.to_string(),
        "site": status.site,
        "software": {
            "sluice_edge": env!("CARGO_PKG_VERSION"),
            "system": system(),
        },
        "clocks": {
            "trust": clock.trust,
            "told_seconds_ago": clock.told.map(|told| told.as_secs()),
            "machine_less_told_milliseconds": clock.skew.map(|skew| skew.as_millis() as i64),
            "zone": line.zone().and_then(|zone| zone.iana_name().map(str::to_owned)),
        },
        "configuration": configuration(&config),
        "enrolment": {
            "gateways": identity.as_ref().map(|identity| identity.credentials().addresses),
            "certificate_until": certificate.map(|bearer| moment(bearer.valid_until.0)),
        },
        "disk": disk.map(|(free, size)| json!({ "free_bytes": free, "size_bytes": size })),
        "status": status,
        "policy": line.document(),
        "ahead": ahead.iter().map(stretch).collect::<Vec<_>>(),
        "minutes": { "fields": ["minute", "sent", "received", "allowed", "reason"], "rows": minutes },
        "metrics": daemon.registry().exposition().unwrap_or_else(|error| error.to_string()),
        "log": daemon.recent().lines(),
    })
}

/// As a file has it.
pub fn text(bundle: &Value) -> String {
    // Keys are texts and nothing in it fails by itself.
    serde_json::to_string_pretty(bundle).unwrap_or_default() + "\n"
}

/// What its file is called: `sluice-diagnostics-branch-017-20261123T193000.json`.
pub fn file_name(bundle: &Value) -> String {
    let word = |value: &Value| -> String {
        let text = value.as_str().unwrap_or("new");
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        text.chars().map(safe).take(40).collect()
    };
    let made: String =
        bundle["made_at"].as_str().unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(15).collect();
    format!("{FORMAT}-{}-{made}.json", word(&bundle["site"]))
}

/// Field by field, so that a secret that is added to the configuration one day does not get in by itself.
fn configuration(config: &crate::Config) -> Value {
    json!({
        "state": config.state,
        "rate": config.rate.map(|rate| rate.to_string()),
        "assume_rate": config.assume_rate,
        "memory_bytes": config.memory.0,
        "cache_bytes": config.cache.0,
        "spool_bytes": config.spool.0,
        "max_datagram": config.max_datagram,
        "capture_interval_seconds": config.capture.interval.map(|interval| interval.as_secs()),
        "capture_workers": config.capture.workers,
        "http": config.http.map(|http| http.to_string()),
        "page": config.page.as_ref().map(|page| json!({ "listen": page.listen.to_string(), "names": page.names })),
    })
}

fn stretch(stretch: &Stretch) -> Value {
    json!({ "from": stretch.from.to_string(), "until": stretch.until.to_string(), "decided": stretch.decided })
}

fn moment(millis: u64) -> Option<String> {
    Timestamp::from_millisecond(millis as i64).ok().map(|at| at.to_string())
}

fn system() -> Value {
    let name = nix::sys::utsname::uname().ok();
    let text = |of: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        name.as_ref().map(|name| of(name).to_string_lossy().into_owned())
    };
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    json!({
        "kernel": text(nix::sys::utsname::UtsName::release),
        "machine": text(nix::sys::utsname::UtsName::machine),
        "system": pretty.map(|name| name.trim_matches('"')),
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
    })
}
