//! Generations as block devices, read by the implementations that others use.

use crate::edge::{Edge, Volume, replicate};
use crate::targets::Bank;
use crate::world::World;
use nbd::client::{Address, Options};
use nbd::{Client, Export};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};
use sluice_gateway::admin::{Answer, ExportLine, ExportRequest, Request};
use sluice_gateway::config::ExportConfig;
use std::process::Command;

const SIZE: usize = (18 << 20) + 512;

/// A volume with two generations.
fn world() -> (World, Volume, Vec<u8>) {
    let world = World::new();
    let mut volume = Volume::new(1, SIZE);
    volume.bytes[1 << 20..3 << 20].fill(0);
    let first = volume.bytes.clone();
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let mut control = edge.control(&world).await;
        let data = edge.data(&world, &control).await;
        control.announce(volume.lineage, "v").await;
        replicate(&volume, &mut control, &data).await;
        volume.scribble(5, 700);
        replicate(&volume, &mut control, &data).await;
    });
    (world, volume, first)
}

fn start(world: &World, generation: &str, name: Option<&str>, writable: bool) -> Result<ExportLine, String> {
    let (volume, generation) = ("b/v".to_owned(), generation.to_owned());
    let request = ExportRequest::Start { volume, generation, name: name.map(Into::into), writable };
    match world.ask(Request::Export(request))? {
        Answer::Exports { mut exports } => Ok(exports.remove(0)),
        other => panic!("{other:?}"),
    }
}

fn stop(world: &World, name: &str, keep: Option<bool>) -> Result<(), String> {
    world.ask(Request::Export(ExportRequest::Stop { name: name.into(), keep })).map(drop)
}

fn open(world: &World, name: &str) -> Client {
    let options = Options { export: name.into(), ..Options::default() };
    Client::connect(&Address::Unix(world.state().join("nbd.sock")), &options).unwrap()
}

fn bytes_of(client: &Client) -> Vec<u8> {
    let mut bytes = vec![0; client.size() as usize];
    client.read(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn any_generation_is_a_block_device_at_once_also_after_a_restart() {
    let (mut world, volume, first) = world();
    let latest = start(&world, "latest", None, false).unwrap();
    assert_eq!((latest.name.as_str(), latest.number, latest.uris.len()), ("b.v.2", 2, 1));
    start(&world, "1", Some("old"), false).unwrap();
    let taken = start(&world, "1", Some("old"), false).unwrap_err();
    assert_eq!(taken, "there is an export `old` already; stop it first, or choose another name");
    assert!(bytes_of(&open(&world, "old")) == first);
    world.restart();
    let client = open(&world, "b.v.2");
    assert!(client.is_read_only() && client.write(0, &[1]).is_err());
    assert!(bytes_of(&client) == volume.bytes);
    // Holes are told as such, and what is told covers the whole.
    let status = Export::status(&client, 0..client.size()).unwrap();
    let holes = status.iter().filter(|(_, status)| *status == nbd::Status::Hole).map(|(len, _)| len);
    let zeroes = volume.bytes.chunks(4096).filter(|block| block.iter().all(|byte| *byte == 0));
    assert_eq!(holes.sum::<u64>(), zeroes.map(|block| block.len() as u64).sum::<u64>());
    assert_eq!(status.iter().map(|(len, _)| len).sum::<u64>(), client.size());
    drop(client);
    stop(&world, "old", None).unwrap();
    assert!(stop(&world, "old", None).unwrap_err().contains("there is no export `old`"));
    // The other one is still there for QEMU.
    let image = world.path("image");
    std::fs::write(&image, &volume.bytes).unwrap();
    let uri = &latest.uris[0];
    let same = Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&image).arg(uri).output();
    match same {
        Ok(same) => assert!(same.status.success(), "{}{uri}", String::from_utf8_lossy(&same.stderr)),
        Err(_) => eprintln!("skipped: no qemu-img here"),
    }
}

#[test]
fn what_a_rehearsal_writes_is_kept_or_thrown_away_and_never_reaches_the_generation() {
    let (mut world, volume, _) = world();
    start(&world, "latest", Some("rehearsal"), true).unwrap();
    let client = open(&world, "rehearsal");
    client.write(4096 * 5 + 100, b"written by the guest").unwrap();
    client.zero(4096 * 9..4096 * 11, true).unwrap();
    client.flush().unwrap();
    let mut expected = volume.bytes.clone();
    expected[4096 * 5 + 100..][..20].copy_from_slice(b"written by the guest");
    expected[4096 * 9..4096 * 11].fill(0);
    assert!(bytes_of(&client) == expected);
    drop(client);
    world.restart();
    assert!(bytes_of(&open(&world, "rehearsal")) == expected, "also after a restart");
    let undecided = stop(&world, "rehearsal", None).unwrap_err();
    assert!(undecided.contains("thrown away (--discard) or kept (--keep)"), "{undecided}");
    stop(&world, "rehearsal", Some(true)).unwrap();
    let Answer::Exports { exports } = world.ask(Request::Export(ExportRequest::List)).unwrap() else { panic!() };
    assert!(!exports[0].served && exports[0].uris.is_empty());
    let other = start(&world, "1", Some("rehearsal"), true).unwrap_err();
    assert!(other.contains("already"), "another generation does not take its place: {other}");
    start(&world, "2", Some("rehearsal"), true).unwrap();
    assert!(bytes_of(&open(&world, "rehearsal")) == expected);
    let file = world.state().join("exports/rehearsal.overlay");
    let overlay = std::fs::read(&file).unwrap();
    stop(&world, "rehearsal", Some(false)).unwrap();
    assert_eq!(std::fs::read_dir(world.state().join("exports")).unwrap().count(), 0, "nothing is left of it");
    // A gateway that was killed between the row and the file: what was thrown away does not come back.
    std::fs::write(&file, overlay).unwrap();
    start(&world, "2", Some("rehearsal"), true).unwrap();
    assert!(bytes_of(&open(&world, "rehearsal")) == volume.bytes);
}

#[test]
fn a_generation_that_is_exported_is_not_forgotten() {
    let (mut world, _, first) = world();
    start(&world, "1", Some("old"), false).unwrap();
    world.config.retention = 1;
    world.restart();
    // The worker looks at its start; what it says comes after it has looked.
    let looked = (0..3000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let Answer::Status { workers, .. } = world.ask(Request::Status).unwrap() else { panic!() };
        workers.iter().any(|(name, line)| name == "retention" && line.contains("forgot 0"))
    });
    assert!(looked);
    assert!(bytes_of(&open(&world, "old")) == first);
}

#[test]
fn other_machines_come_with_a_certificate_or_not_at_all() {
    let (mut world, volume, _) = world();
    let folder = world.path("tls");
    std::fs::create_dir(&folder).unwrap();
    let authority = |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let leaf = |authority: &CertifiedIssuer<KeyPair>| {
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, authority).unwrap(), key)
    };
    let (own, key) = leaf(&ours);
    std::fs::write(folder.join("ca-cert.pem"), ours.pem()).unwrap();
    std::fs::write(folder.join("server-cert.pem"), own.pem()).unwrap();
    std::fs::write(folder.join("server-key.pem"), key.serialize_pem()).unwrap();
    world.config.export = Some(ExportConfig { listen: "127.0.0.1:0".parse().unwrap(), tls: Some(folder) });
    world.restart();
    let line = start(&world, "latest", Some("disk"), false).unwrap();
    let address = line.uris[1].strip_prefix("nbds://").unwrap().strip_suffix("/disk").unwrap().to_owned();
    let address = Address::Tcp(address);
    let connect = |identity: Option<nbd::tls::Identity>| {
        let tls = nbd::tls::client(&[ours.der().clone()], identity).unwrap();
        let name = "localhost".try_into().unwrap();
        let options = Options { export: "disk".into(), tls: Some((tls, name)), ..Options::default() };
        Client::connect(&address, &options)
    };
    let identity = |(certificate, key): (rcgen::Certificate, KeyPair)| {
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![certificate.der().clone()], key)
    };
    let mut start = vec![0; 4096];
    connect(Some(identity(leaf(&ours)))).unwrap().read(0, &mut start).unwrap();
    assert!(start == volume.bytes[..4096]);
    for stranger in [None, Some(identity(leaf(&theirs)))] {
        // In TLS 1.3 a client hears of it with its first answer.
        assert!(connect(stranger).and_then(|client| client.read(0, &mut start)).is_err());
    }
    let options = Options { export: "disk".into(), ..Options::default() };
    assert!(Client::connect(&address, &options).is_err(), "not without TLS");
}

#[test]
fn a_generation_is_served_from_afar_to_whom_it_belongs_and_what_was_written_is_not_given_up_unasked() {
    let bank = Bank::new(SIZE);
    let (chief, world) = (&bank.chief, &bank.world);
    let exports = || chief.get("/api/v1/exports").expect(200).json();
    assert_eq!(exports()["total"], 0, "nothing is served that nobody asked for");
    let disk = json!({ "volume": "bank/b/v" });
    let key = [("idempotency-key", "once")];
    let begun = chief.ask("POST", "/api/v1/exports", Some(disk.to_string()), &key).expect(200).json();
    assert_eq!((&begun["name"], &begun["number"], &begun["writable"]), (&json!("b.v.1"), &json!(1), &json!(false)));
    let again = chief.ask("POST", "/api/v1/exports", Some(disk.to_string()), &key).expect(200).json();
    assert_eq!((begun, exports()["total"].clone()), (again, json!(1)), "a request that comes again is answered again");
    assert_eq!(chief.post("/api/v1/exports", &disk).expect(409).problem(), "conflict");
    let client = open(world, "b.v.1");
    assert!(bytes_of(&client) == bank.volume.bytes && client.is_read_only());
    let reading = || exports()["items"][0]["connections"].as_u64().unwrap();
    assert!(reading() > 0);
    drop(client);
    bank.wait("it is seen to go", |_| reading() == 0);

    let name = |name: &str| json!({ "volume": "bank/b/v", "name": name, "writable": true });
    chief.post("/api/v1/exports", &name("rehearsal")).expect(200);
    let client = open(world, "rehearsal");
    client.write(4096, b"written by the guest").unwrap();
    client.flush().unwrap();
    drop(client);
    let stop = |keep: &str| chief.ask("DELETE", &format!("/api/v1/exports/rehearsal{keep}"), None, &[]);
    let undecided = stop("").expect(409).json();
    assert!(undecided["detail"].as_str().unwrap().contains("`keep=false` or `keep=true`"), "{undecided}");
    stop("?keep=perhaps").expect(400);
    stop("?keep=true").expect(200);
    let kept = exports()["items"][1].clone();
    assert_eq!((&kept["served"], &kept["uris"]), (&json!(false), &json!([])), "{kept}");
    chief.post("/api/v1/exports", &name("rehearsal")).expect(200);
    let mut written = vec![0; 20];
    open(world, "rehearsal").read(4096, &mut written).unwrap();
    assert_eq!(written, b"written by the guest");
    stop("?keep=false").expect(200);
    stop("?keep=false").expect(404);
    assert_eq!(std::fs::read_dir(world.state().join("exports")).unwrap().count(), 0);

    // Who looks starts nothing; another tenant sees nothing; what cannot be is said.
    chief.post("/api/v1/tenants", &json!({ "name": "rival" })).expect(200);
    let looks = chief.account(world, "looks", "viewer", Some("bank"));
    let rival = chief.account(world, "rivals", "administrator", Some("rival"));
    assert_eq!(looks.get("/api/v1/exports").expect(200).json()["total"], 1);
    assert_eq!(rival.get("/api/v1/exports").expect(200).json()["total"], 0);
    for (client, status) in [(&looks, 403), (&rival, 404)] {
        client.post("/api/v1/exports", &name("mine")).expect(status);
        client.ask("DELETE", "/api/v1/exports/b.v.1", None, &[]).expect(status);
    }
    for (field, value, status) in [
        ("volume", json!("bank/b/nothing"), 404),
        ("volume", json!("b/v"), 422),
        ("generation", json!("9"), 404),
        ("name", json!("a/b"), 422),
        ("name", json!("x".repeat(3 << 20)), 413),
        ("overlay", json!(true), 422),
    ] {
        let mut body = disk.clone();
        body[field] = value;
        assert_eq!(chief.post("/api/v1/exports", &body).status, status, "{field}");
    }
    assert_eq!(exports()["total"], 1);
    assert!(bytes_of(&open(world, "b.v.1")) == bank.volume.bytes, "it is served on");
    chief.ask("DELETE", "/api/v1/exports/b.v.1", None, &[]).expect(200);
    let log = chief.get("/api/v1/audit").expect(200).json();
    let log: Vec<&Value> = log.as_array().unwrap().iter().collect();
    for (what, detail, outcome) in [
        ("export.start", "generation latest", "done"),
        ("export.start", "generation latest, with an overlay", "done"),
        ("export.stop", "bank/b/v generation 1; what was written is kept", "done"),
        ("export.stop", "bank/b/v generation 1; what was written is thrown away", "done"),
        ("export.stop", "bank/b/v generation 1", "done"),
    ] {
        let is_it = |e: &&&Value| e["what"] == what && e["detail"] == detail && e["outcome"] == outcome;
        assert!(log.iter().any(|entry| is_it(&entry)), "{what} {detail}: {log:?}");
    }
}
