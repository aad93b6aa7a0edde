//! Machines on what targets hold, by a real libvirtd: on the command line and from afar.

use crate::client::{Answer, Client};
use crate::commands::{gateway, stderr, stdout};
use crate::targets::Bank;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

/// A gateway whose target `vault` holds the only generation of `b/v`, and a libvirt.
struct Machines {
    bank: Bank,
    uri: String,
    /// Of this process alone: libvirtd has one set of domains.
    name: String,
}

/// `None`: no libvirtd runs for tests, and it is said so.
fn machines() -> Option<Machines> {
    let Some(file) = std::env::var_os("SLUICE_LIBVIRT") else {
        println!("skipped: SLUICE_LIBVIRT is not set; start it by `eval \"$(tests/services/up libvirt)\"`");
        return None;
    };
    let text = std::fs::read_to_string(file).unwrap();
    let uri = text.lines().find_map(|line| line.strip_prefix("SLUICE_LIBVIRT_URI=")).unwrap().to_owned();
    let bank = filled();
    Some(Machines { bank, uri, name: format!("gateway-{}", std::process::id()) })
}

fn filled() -> Bank {
    let bank = Bank::new(1 << 20);
    bank.add("vault", json!({})).expect(200);
    let body = json!({ "generation": "latest", "target": "vault" });
    assert_eq!(bank.over(bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &body))["state"], "done");
    bank
}

impl Machines {
    /// What libvirt itself says of the domain.
    fn state(&self) -> Option<String> {
        let said = Command::new("virsh").args(["-q", "-c", &self.uri, "domstate", &self.name]).output().unwrap();
        said.status.success().then(|| String::from_utf8(said.stdout).unwrap().trim().to_owned())
    }

    fn xml(&self) -> String {
        let said = Command::new("virsh").args(["-q", "-c", &self.uri, "dumpxml", &self.name]).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    }

    /// Nothing is left of the domain, and what it stood on is as it was.
    fn assert_gone(&self) {
        assert_eq!(self.state(), None);
        let overlays = self.bank.world.state().join("domains");
        assert_eq!(std::fs::read_dir(overlays).unwrap().count(), 0, "its overlay is gone");
        assert!(self.bank.held("vault").unwrap() == self.bank.volume.bytes, "the point is as it was");
    }

    /// From now on it may be steered from afar.
    fn open(&mut self, templates: Option<PathBuf>) {
        let token = self.bank.chief.account(&self.bank.world, "program", "administrator", None).token;
        self.bank.world.stop();
        let web = self.bank.world.config.web.as_mut().unwrap();
        (web.libvirt, web.templates) = (Some(self.uri.clone()), templates);
        self.bank.world.start();
        self.bank.chief = Client { token, ..Client::of(&self.bank.world) };
    }

    fn wanted(&self) -> Value {
        json!({ "tenant": "bank", "name": self.name, "target": "vault", "volumes": ["b/v"], "memory": 64, "processors": 1 })
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for ends in ["destroy", "undefine"] {
            let _gone_already = Command::new("virsh").args(["-q", "-c", &self.uri, ends, &self.name]).output();
        }
    }
}

fn delete(client: &Client, name: &str) -> Answer {
    client.ask("DELETE", &format!("/api/v1/domains/{name}"), None, &[])
}

#[test]
fn a_machine_is_defined_started_when_asked_and_removed_by_the_command() {
    let Some(machines) = machines() else { return };
    let state = machines.bank.world.state().to_str().unwrap().to_owned();
    let domain = |args: &[&str]| gateway(&[&["domain"], args, &["--state", &state]].concat());
    let name = machines.name.as_str();
    let define = ["define", name, "--target", "vault", "--volume", "b/v", "--memory", "64", "--processors", "1"];
    let define = [&define[..], &["--uri", &machines.uri]].concat();
    assert!(stdout(&domain(&["list"])).contains("No domain is defined"));
    assert!(stderr(&domain(&["start", name])).contains("there is no domain"));
    let defined = stdout(&domain(&define));
    assert!(defined.contains(&format!("{name}  shut off  vault   bank/b/v@1")), "{defined}");
    assert_eq!(machines.state().as_deref(), Some("shut off"), "nobody asked for a start");
    let taken = stderr(&domain(&define));
    assert!(taken.contains(&format!("there is a domain `{name}` already; remove it first")), "{taken}");
    assert!(stdout(&domain(&["start", name])).contains("running"));
    assert_eq!(machines.state().as_deref(), Some("running"));
    assert!(stdout(&domain(&["list"])).contains(&format!("{name}  running")));
    assert!(stderr(&domain(&define)).contains("already"), "one that runs is not replaced either");
    assert_eq!(machines.state().as_deref(), Some("running"));
    // What it stands on is not written over.
    let to = ["rehydrate", "--volume", "b/v", "--target", "vault", "--state", &state];
    assert!(stderr(&gateway(&to)).contains(&format!("domain `{name}` stands on what target `vault` holds")));
    assert!(stdout(&domain(&["remove", name])).contains("is removed, with what it wrote"));
    machines.assert_gone();
    assert!(stderr(&domain(&["remove", name])).contains("there is no domain"));
    stdout(&gateway(&to));
}

#[test]
fn a_machine_is_defined_started_when_asked_and_removed_from_afar() {
    let Some(mut machines) = machines() else { return };
    let templates = machines.bank.world.path("templates");
    std::fs::create_dir(&templates).unwrap();
    let plain = include_str!("../../targets/src/libvirt/domain.xml");
    let marked = plain.replace("<devices>", "<description>of the folder</description>\n  <devices>");
    std::fs::write(templates.join("branch.xml"), marked).unwrap();
    machines.open(Some(templates));
    let (chief, name) = (&machines.bank.chief, machines.name.as_str());
    let path = format!("/api/v1/domains/{name}");
    let mut wanted = machines.wanted();
    for wrong in ["none", "../templates/branch", "/etc/passwd"] {
        wanted["template"] = json!(wrong);
        assert_eq!(chief.post("/api/v1/domains", &wanted).expect(422).json()["field"], "template", "{wrong}");
    }
    wanted["template"] = json!("branch");
    let defined = chief.post("/api/v1/domains", &wanted).expect(200).json();
    assert_eq!((&defined["state"], &defined["disks"]), (&json!("shut off"), &json!(["bank/b/v@1"])), "{defined}");
    assert_eq!(machines.state().as_deref(), Some("shut off"), "nobody asked for a start");
    assert!(machines.xml().contains("of the folder"), "{}", machines.xml());
    assert_eq!(chief.post("/api/v1/domains", &wanted).expect(409).problem(), "conflict");
    // Another tenant, and whoever may only look, do nothing to it; nor can its name be taken.
    chief.post("/api/v1/tenants", &json!({ "name": "rival" })).expect(200);
    let looks = chief.account(&machines.bank.world, "looks", "viewer", Some("bank"));
    let rival = chief.account(&machines.bank.world, "rivals", "administrator", Some("rival"));
    assert_eq!(looks.get("/api/v1/domains").expect(200).json()["items"][0]["name"], name);
    assert_eq!(rival.get("/api/v1/domains").expect(200).json()["total"], 0);
    for (client, status) in [(&looks, 403), (&rival, 404)] {
        client.post(&format!("{path}/start"), &json!({})).expect(status);
        delete(client, name).expect(status);
        client.post("/api/v1/domains", &machines.wanted()).expect(status);
    }
    assert_eq!(machines.state().as_deref(), Some("shut off"));
    assert_eq!(chief.post(&format!("{path}/start"), &json!({})).expect(200).json()["state"], "running");
    assert_eq!(machines.state().as_deref(), Some("running"));
    assert_eq!(chief.get("/api/v1/domains").json()["items"][0]["state"], "running");
    assert_eq!(chief.post(&format!("{path}/start"), &json!({})).expect(409).problem(), "conflict", "it runs already");
    delete(chief, name).expect(200);
    machines.assert_gone();
    delete(chief, name).expect(404);
    let log = chief.get(&format!("/api/v1/audit?object={name}")).expect(200).json();
    for (what, detail) in
        [("domain.define", "bank/b/v on bank/vault"), ("domain.start", "bank/b/v@1"), ("domain.remove", "bank/b/v@1")]
    {
        let is_it = |entry: &Value| entry["what"] == what && entry["detail"] == detail && entry["outcome"] == "done";
        assert!(log.as_array().unwrap().iter().any(is_it), "{what} {detail}: {log}");
    }
}

#[test]
fn a_domain_of_somebody_else_is_not_replaced_and_libvirt_that_refuses_leaves_nothing() {
    let Some(mut machines) = machines() else { return };
    machines.open(None);
    let foreign = machines.bank.world.path("foreign.xml");
    let name = &machines.name;
    let xml =
        format!("<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type>hvm</type></os></domain>");
    std::fs::write(&foreign, xml).unwrap();
    let virsh = |args: &[&str]| Command::new("virsh").args(["-q", "-c", &machines.uri]).args(args).output().unwrap();
    assert!(virsh(&["define", foreign.to_str().unwrap()]).status.success());
    let taken = machines.bank.chief.post("/api/v1/domains", &machines.wanted()).expect(409).json();
    assert!(taken["detail"].as_str().unwrap().contains("already"), "{taken}");
    assert_eq!(machines.state().as_deref(), Some("shut off"), "it is there");
    delete(&machines.bank.chief, name).expect(404);
    assert!(virsh(&["undefine", name]).status.success());
    // The built-in machine has no IDE: libvirt refuses it when everything else is made already.
    let mut wanted = machines.wanted();
    wanted["bus"] = json!("ide");
    machines.bank.chief.post("/api/v1/domains", &wanted).expect(409);
    machines.assert_gone();
    assert_eq!(machines.bank.chief.get("/api/v1/domains").json()["total"], 0);
}

#[test]
fn nobody_makes_machines_from_afar_where_no_libvirt_is_named_and_what_cannot_be_is_refused_before_it_is_asked() {
    let mut bank = filled();
    let wanted = |more: Value| {
        let mut body = json!({ "tenant": "bank", "name": "m", "target": "vault", "volumes": ["b/v"] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let refused = bank.chief.post("/api/v1/domains", &wanted(json!({}))).expect(403).json();
    assert!(refused["detail"].as_str().unwrap().contains("`libvirt = \"qemu:///system\"` under `[web]`"), "{refused}");
    bank.chief.post("/api/v1/domains/m/start", &json!({})).expect(403);
    delete(&bank.chief, "m").expect(403);
    let token = bank.chief.account(&bank.world, "program", "administrator", None).token;
    bank.world.stop();
    bank.world.config.web.as_mut().unwrap().libvirt = Some("test:///nowhere/at/all".into());
    bank.world.start();
    let chief = Client { token, ..Client::of(&bank.world) };
    for (more, status, said) in [
        (json!({ "uri": "qemu+ssh://elsewhere/system" }), 422, "unknown field `uri`"),
        (json!({ "template": "branch" }), 422, "no folder of templates is set"),
        (json!({ "volumes": [] }), 409, "1 to 26 disks"),
        (json!({ "volumes": vec!["b/v"; 27] }), 409, "1 to 26 disks"),
        (json!({ "volumes": ["bank/b/v"] }), 422, "does not name a volume"),
        (json!({ "target": "gone" }), 404, "there is no target"),
        (json!({ "target": "rival/vault" }), 404, "target"),
        (json!({ "name": "a/b" }), 422, "a/b"),
        (json!({ "name": "x".repeat(3 << 20) }), 413, ""),
        (json!({}), 409, "virsh"),
    ] {
        let answer = chief.post("/api/v1/domains", &wanted(more.clone()));
        assert!(answer.status == status && answer.body.contains(said), "{status} {said}: {answer:.300?}");
    }
    chief.post("/api/v1/domains/m/start", &json!({})).expect(404);
    assert_eq!(chief.get("/api/v1/domains").expect(200).json()["total"], 0);
}
