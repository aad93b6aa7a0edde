//! What operators do: over the socket, without a daemon, by the real binary.

use crate::edge::{Edge, Volume, replicate};
use crate::world::World;
use sluice_gateway::admin::socket::{self, AskError};
use sluice_gateway::admin::{Answer, Request};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

pub(crate) fn gateway(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice-gateway")).args(args).env_remove("SLUICE_GATEWAY_CONFIG").output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn seeded() -> (World, Volume) {
    let world = World::new();
    let volume = Volume::new(1, 3 << 20);
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        control.announce(volume.lineage, "v").await;
        replicate(&volume, &mut control, &data).await;
    });
    (world, volume)
}

#[test]
fn the_socket_is_private_and_answers_with_progress() {
    let (world, volume) = seeded();
    let mode = std::fs::metadata(world.state().join(socket::NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::metadata(world.state()).unwrap().permissions().mode() & 0o777, 0o700);
    let request = Request::Rehydrate {
        volume: "b/v".into(),
        generation: "latest".into(),
        to: sluice_gateway::rehydrate::Where::Path(world.path("image")),
        proof: None,
        plan: false,
    };
    let Answer::Rehydrated { done } = socket::ask(world.state(), &request, &mut |_| {}).unwrap() else { panic!() };
    assert!(std::fs::read(world.path("image")).unwrap() == volume.bytes);
    assert_eq!(done.verified_bytes, volume.bytes.len() as u64);
    let Err(AskError::Refused(why)) = socket::ask(world.state(), &Request::Rebuild, &mut |_| {}) else { panic!() };
    assert_eq!(why, "the daemon is running; stop it first, then run this again");
}

#[test]
fn the_commands_work_with_and_without_a_daemon() {
    let (mut world, volume) = seeded();
    let state = world.state().to_str().unwrap().to_owned();
    let image = world.path("image").to_str().unwrap().to_owned();
    for running in [true, false] {
        if !running {
            world.stop();
        }
        let sites = stdout(&gateway(&["sites", "--state", &state]));
        assert!(sites.contains("bank") && sites.contains('b'), "{sites}");
        let volumes = stdout(&gateway(&["volumes", "--state", &state]));
        assert!(volumes.starts_with("tenant  site  volume  generations  latest"), "{volumes}");
        let json = stdout(&gateway(&["generations", "b/v", "--json", "--state", &state]));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["generations"][0]["root"], blake3::hash(&volume.bytes).to_string());
        let done = stdout(&gateway(&["rehydrate", "--volume", "b/v", "--to", &image, "--state", &state]));
        assert!(done.contains("Read back whole; its root is right"), "{done}");
        let proof = stdout(&gateway(&["verify-image", &image, "--volume", "b/v", "--state", &state]));
        assert!(proof.ends_with("The image is the generation, byte for byte.\n"), "{proof}");
        let status = stdout(&gateway(&["status", "--state", &state]));
        assert_eq!(status.starts_with("The daemon is running"), running, "{status}");
        let gc = stdout(&gateway(&["gc", "--plan", "--state", &state]));
        assert!(gc.contains("Nothing was changed"), "{gc}");
        let scrub = stdout(&gateway(&["scrub", "--state", &state]));
        assert_eq!(scrub, "Everything is as it was written.\n");
        let token = gateway(&["token", "--tenant", "bank", "--site", "new", "--state", &state]);
        assert!(stdout(&token).starts_with("sluice1.") && stdout(&token).lines().count() == 1);
    }
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&image, bytes).unwrap();
    let differs = stderr(&gateway(&["verify-image", &image, "--volume", "b/v", "--state", &state]));
    assert!(differs.contains("is something else: its root should be"), "{differs}");
}

#[test]
fn init_run_and_stop_by_the_binary() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state").to_str().unwrap().to_owned();
    let made = stdout(&gateway(&["init", "--state", &state, "--tenant", "bank", "--address", "127.0.0.1:9470"]));
    assert!(made.contains("Next: sluice-gateway run --config"), "{made}");
    let twice = stderr(&gateway(&["init", "--state", &state]));
    assert!(twice.contains("holds the state of a gateway already; choose an empty directory"), "{twice}");
    let config = dir.path().join("gateway.toml");
    let text = format!(
        "state = {state:?}\nlisten = [\"127.0.0.1:0\"]\nhttp = \"127.0.0.1:0\"\naddresses = [\"gw.example:1\"]\n"
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let good = stdout(&gateway(&["check-config", "--config", config]));
    assert!(good.contains("The configuration is good.") && good.contains("Edges are told gw.example:1."), "{good}");
    let token = stdout(&gateway(&["token", "--tenant", "bank", "--site", "b", "--config", config]));
    let token: wire::token::Token = token.parse().unwrap();
    assert_eq!(token.addresses, ["gw.example:1"], "the configuration's addresses hold before the daemon ever ran");

    let mut daemon = Command::new(env!("CARGO_BIN_EXE_sluice-gateway"))
        .args(["run", "--config", config])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(daemon.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("serving /metrics and /health") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut log, &mut line).unwrap() > 0, "the daemon ended");
    }
    let second = stderr(&gateway(&["run", "--config", config]));
    assert!(second.contains("is in use: another gateway runs on this state directory"), "{second}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon.id() as i32), nix::sys::signal::SIGTERM).unwrap();
    assert!(daemon.wait().unwrap().success(), "SIGTERM ends it cleanly");
    assert!(!std::path::Path::new(&state).join(socket::NAME).exists());
}

#[test]
fn mistakes_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none").to_str().unwrap().to_owned();
    let missing = stderr(&gateway(&["run", "--state", &none]));
    assert!(
        missing.contains("there is no catalogue at") && missing.contains("`sluice-gateway init` makes one"),
        "{missing}"
    );
    let config = stderr(&gateway(&["check-config", "--config", &none]));
    assert!(config.contains("`sluice-gateway init` writes one, give its place with --config"), "{config}");
    let address = stderr(&gateway(&["init", "--state", &none, "--address", "gateway"]));
    assert!(address.contains("`gateway` is not a host and port; write one as in"), "{address}");
    let world = World::new();
    let state = world.state().to_str().unwrap();
    for (args, text) in [
        (vec!["generations", "v"], "`v` does not name a volume: write SITE/VOLUME, or TENANT/SITE/VOLUME"),
        (vec!["generations", "x/v"], "there is no site `x`; `sluice-gateway sites` lists tenants and sites"),
        (vec!["revoke", "x"], "there is no site `x`"),
        (vec!["token", "--tenant", "bank", "--site", "a b"], "`a b` cannot be a name: use 1 to 100 letters"),
        (vec!["token", "--tenant", "t", "--site", "s", "--valid", "soon"], "`soon` is not a duration"),
        (vec!["verify-image", "/nowhere", "--root", "12"], "a root has 64 hexadecimal digits"),
        (vec!["verify-image", "/nowhere"], "cannot open /nowhere: No such file or directory"),
        (vec!["verify-image", "/dev/null"], "/dev/null is neither a regular file nor a block device"),
    ] {
        let refused = stderr(&gateway(&[args.clone(), vec!["--state", state]].concat()));
        assert!(refused.contains(text), "{args:?}: {refused}");
    }
    let (world, _) = seeded();
    let state = world.state().to_str().unwrap();
    let to = |path: &str| stderr(&gateway(&["rehydrate", "--volume", "b/v", "--to", path, "--state", state]));
    assert!(to("/dev/null").contains("/dev/null is neither a regular file nor a block device"));
    assert!(to("/nowhere/image").contains("cannot open /nowhere/image: No such file or directory"));
    let none = stderr(&gateway(&["generations", "b/w", "--state", state]));
    assert!(none.contains("there is no volume `b/w`; `sluice-gateway volumes` lists those that there are"), "{none}");
    let generation =
        stderr(&gateway(&["rehydrate", "--volume", "b/v", "--generation", "9", "--to", "x", "--state", state]));
    assert!(generation.contains("volume `b/v` has no sealed generation `9`"), "{generation}");
}

#[test]
fn a_lost_gateway_comes_back_from_its_backup_and_packs() {
    let (mut world, volume) = seeded();
    let backup = world.path("backup");
    let request = Request::Backup { to: backup.clone(), passphrase_file: None };
    assert_eq!(world.ask(request).unwrap(), Answer::BackedUp { to: backup.clone(), encrypted: false });
    world.stop();
    // Everything is lost but the packs.
    let old = world.path("old");
    std::fs::rename(world.state(), &old).unwrap();
    let state = world.state().to_str().unwrap().to_owned();
    let restored = stdout(&gateway(&["restore", "--from", backup.to_str().unwrap(), "--state", &state]));
    assert!(restored.contains("run `sluice-gateway rebuild`"), "{restored}");
    let tenant = std::fs::read_dir(old.join("tenants")).unwrap().next().unwrap().unwrap().file_name();
    let packs = |state: &std::path::Path| state.join("tenants").join(&tenant).join("packs");
    std::fs::rename(packs(&old), packs(world.state())).unwrap();
    let rebuilt = stdout(&gateway(&["rebuild", "--state", &state]));
    assert_eq!(rebuilt, "Found 1 generations of 1 volumes of 1 tenants.\n");
    world.start();
    let to = world.path("image");
    let request = Request::Rehydrate {
        volume: "b/v".into(),
        generation: "latest".into(),
        to: sluice_gateway::rehydrate::Where::Path(to.clone()),
        proof: None,
        plan: false,
    };
    world.ask(request).unwrap();
    assert!(std::fs::read(to).unwrap() == volume.bytes);
}

#[test]
fn a_lost_catalogue_is_recovered_as_far_as_the_packs_know() {
    let (mut world, volume) = seeded();
    world.stop();
    std::fs::remove_file(world.state().join("catalogue.redb")).unwrap();
    drop(sluice_gateway::catalogue::Catalogue::create(&world.state().join("catalogue.redb")).unwrap());
    let state = world.state().to_str().unwrap().to_owned();
    let rebuilt = stdout(&gateway(&["rebuild", "--state", &state, "--json"]));
    let rebuilt: serde_json::Value = serde_json::from_str(&rebuilt).unwrap();
    let site = rebuilt["unnamed_sites"][0].as_str().unwrap().to_owned();
    assert!(site.starts_with("recovered-"));
    let image = world.path("image").to_str().unwrap().to_owned();
    let name = format!("{site}/v");
    stdout(&gateway(&["rehydrate", "--volume", &name, "--to", &image, "--state", &state]));
    assert!(std::fs::read(image).unwrap() == volume.bytes);
    world.start();
}

#[test]
fn health_and_metrics_are_served() {
    let (world, _) = seeded();
    let health = world.get("/health");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"ready\":true"), "{health}");
    let metrics = world.metrics();
    for name in [
        "sluice_gateway_sites_connected",
        "sluice_gateway_parcels_total",
        "sluice_gateway_parcel_bytes_total",
        "sluice_gateway_ingested_bytes_total",
        "sluice_gateway_ingest_seconds_count",
        "sluice_gateway_ip_bytes_total{direction=\"up\"}",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
}
