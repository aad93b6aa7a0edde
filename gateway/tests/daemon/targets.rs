//! Targets, as people and programs see them: set up, tested, kept at the latest by themselves, stopped, gone on with, given up; what was proved.

use crate::client::{Client, world_with};
use crate::commands::{gateway, stdout};
use crate::edge::{Control, Data, Edge, Volume, replicate};
use crate::world::World;
use serde_json::{Value, json};
use sluice_gateway::admin::{Answer, Request, TargetAnswer, TargetRequest};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A gateway with a site `b` of `bank`, whose volume `v` has one generation.
pub(crate) struct Bank {
    pub(crate) world: World,
    pub(crate) chief: Client,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) volume: Volume,
    control: Control,
    data: Data,
    _edge: Edge,
}

impl Bank {
    pub(crate) fn new(size: usize) -> Bank {
        let folder = tempfile::tempdir().unwrap();
        let (world, chief) = world_with(vec![folder.path().to_owned()]);
        let volume = Volume::new(1, size);
        let (_edge, control, data) = world.run(async {
            let edge = Edge::enrol(&world, "b").await;
            let mut control = edge.control(&world).await;
            let data = edge.data(&world, &control).await;
            control.announce(volume.lineage, "v").await;
            replicate(&volume, &mut control, &data).await;
            (edge, control, data)
        });
        Bank { world, chief, folder, volume, control, data, _edge }
    }

    /// A further generation: some blocks are other ones.
    pub(crate) fn change(&mut self, seed: u64) {
        for block in [3, 40] {
            self.volume.scribble(seed, block);
        }
        self.world.run(replicate(&self.volume, &mut self.control, &self.data));
    }

    pub(crate) fn add(&self, name: &str, more: Value) -> crate::client::Answer {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut body = json!({ "tenant": "bank", "name": name, "settings": { "kind": "raw", "folder": folder } });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.chief.post("/api/v1/targets", &body)
    }

    fn order(&self) -> Value {
        let orders = self.chief.get("/api/v1/orders").expect(200).json();
        orders["items"][0].clone()
    }

    fn runs(&self) -> Vec<Value> {
        self.chief.get("/api/v1/runs").expect(200).json()["items"].as_array().unwrap().clone()
    }

    /// What the target's only file holds.
    pub(crate) fn held(&self, target: &str) -> Option<Vec<u8>> {
        let files = raw_files(&self.folder.path().join(target));
        assert!(files.len() <= 1, "{files:?}");
        files.first().map(|file| std::fs::read(file).unwrap())
    }

    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&Bank) -> bool) {
        // A minute and more on a loaded machine; only failures wait so long.
        let came = (0..3000).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            is_so(self)
        });
        assert!(came, "{what}: {} {:?}", self.order(), self.runs());
    }

    /// Waits until a job is over, and gives what came of it.
    pub(crate) fn over(&self, begun: crate::client::Answer) -> Value {
        let place = begun.expect(202).header("location").unwrap().to_owned();
        self.chief.events(&format!("{place}/events"), &["\"ended\":1"]);
        self.chief.get(&place).expect(200).json()
    }
}

fn raw_files(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|extension| extension == "raw")).collect()
}

#[test]
fn a_sealed_generation_comes_to_its_target_by_itself_until_the_order_rests_or_ends() {
    let mut bank = Bank::new(3 << 20);
    bank.add("vault", json!({})).expect(200);
    assert_eq!(bank.add("vault", json!({})).expect(409).problem(), "conflict");
    let tested = bank.over(bank.chief.post("/api/v1/targets/bank/vault/test", &json!({})));
    assert_eq!(tested["state"], "done", "{tested}");
    assert!(tested["result"].as_str().unwrap().contains("ok      the folder is there"), "{tested}");
    let page = bank.chief.get("/targets/bank/vault").expect(200).body;
    assert!(page.contains("the folder is there") && page.contains("fine"), "the page has the result: {page}");

    let keep = json!({ "site": "b", "volume": "v" });
    bank.chief.post("/api/v1/targets/bank/vault/orders", &keep).expect(200);
    bank.wait("what is there already comes at once", |bank| bank.order()["state"] == "current");
    assert!(bank.held("vault").unwrap() == bank.volume.bytes);
    bank.change(7);
    bank.wait("and each further one by itself", |bank| bank.order()["holds"] == 2);
    assert!(bank.held("vault").unwrap() == bank.volume.bytes);
    let order = bank.order();
    assert_eq!((&order["state"], &order["behind_since"]), (&json!("current"), &Value::Null), "{order}");

    // By hand another generation would be put under the order's feet.
    let older = json!({ "generation": "1", "target": "vault" });
    let refused = bank.over(bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &older));
    assert!(refused["result"].as_str().unwrap().contains("let that rest first"), "{refused}");

    let rest = |paused: bool| {
        let path = "/api/v1/targets/bank/vault/orders/b/v";
        bank.chief.ask("PUT", path, Some(json!({ "paused": paused }).to_string()), &[]).expect(200)
    };
    rest(true);
    assert_eq!(bank.order()["state"], "paused");
    // While it rests, an older one may be put there; it is the latest no more then, and comes back when the order goes on.
    let done = bank.over(bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &older));
    assert_eq!(done["state"], "done", "{done}");
    assert!(bank.order()["behind_since"].is_u64(), "{}", bank.order());
    rest(false);
    bank.wait("it goes on", |bank| bank.order()["holds"] == 2 && bank.order()["state"] == "current");
    assert!(bank.held("vault").unwrap() == bank.volume.bytes);

    let in_use = bank.chief.ask("DELETE", "/api/v1/targets/bank/vault", None, &[]).expect(409).json();
    assert!(in_use["detail"].as_str().unwrap().contains("kept at the latest of 1 volumes"), "{in_use}");
    let order = "/api/v1/targets/bank/vault/orders/b";
    bank.chief.ask("DELETE", &format!("{order}/%2A"), None, &[]).expect(200);
    assert_eq!(bank.chief.ask("DELETE", &format!("{order}/v"), None, &[]).expect(404).problem(), "missing");
    let before = bank.held("vault").unwrap();
    bank.change(8);
    // Somebody looks at orders at every seal, and no run comes of this one: the next order's run is the first after.
    bank.chief.post("/api/v1/targets/bank/vault/orders", &json!({ "site": "b" })).expect(200);
    bank.wait("all of a site", |bank| bank.order()["holds"] == 3);
    assert_eq!(bank.runs().iter().filter(|run| run["number"] == 3).count(), 1, "{:?}", bank.runs());
    assert!(before != bank.held("vault").unwrap());
    bank.chief.ask("DELETE", &format!("{order}/v"), None, &[]).expect(200);
    bank.chief.ask("DELETE", "/api/v1/targets/bank/vault", None, &[]).expect(200);
    bank.chief.get("/api/v1/targets/bank/vault").expect(404);
    assert!(bank.held("vault").unwrap() == bank.volume.bytes, "what a removed target holds stays");
    let done: Vec<String> = audited(&bank.chief);
    for what in ["target.add", "target.keep", "target.pause", "target.resume", "target.release", "target.remove"] {
        assert!(done.iter().any(|known| known == what), "{what}: {done:?}");
    }
}

fn audited(chief: &Client) -> Vec<String> {
    let log = chief.get("/api/v1/audit?most=500").expect(200).json();
    log.as_array().unwrap().iter().map(|entry| entry["what"].as_str().unwrap().to_owned()).collect()
}

/// Begins a run that takes seconds, and stops it while it writes.
fn stopped(bank: &Bank) -> Value {
    let body = json!({ "generation": "latest", "target": "slow" });
    let begun = bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &body).expect(202);
    let place = begun.header("location").unwrap().to_owned();
    bank.chief.events(&format!("{place}/events"), &["\"phase\":\"writing\""]);
    bank.chief.ask("DELETE", &place, None, &[]).expect(202);
    bank.chief.events(&format!("{place}/events"), &["\"state\":\"cancelled\""]);
    let runs = bank.runs();
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!((&runs[0]["state"], &runs[0]["resting"]), (&json!("writing"), &json!(true)), "{runs:?}");
    assert!(runs[0]["held"].as_str().unwrap().contains("the target is incomplete"), "{runs:?}");
    runs[0].clone()
}

#[test]
fn a_run_that_somebody_stopped_rests_and_goes_on_when_somebody_asks() {
    let bank = Bank::new(12 << 20);
    bank.add("slow", json!({ "rate": "1 MB" })).expect(200);
    let run = stopped(&bank);
    let page = bank.chief.get("/targets/bank/slow").expect(200).body;
    assert!(page.contains("rests: somebody has to act") && page.contains(run["run"].as_str().unwrap()), "{page}");
    let open = bank.chief.ask("DELETE", "/api/v1/targets/bank/slow", None, &[]).expect(409).json();
    assert!(open["detail"].as_str().unwrap().contains("are not over"), "{open}");
    let body = json!({ "generation": "latest", "target": "slow", "proof": "changed" });
    let plan = bank.chief.post("/api/v1/volumes/bank/b/v/plan", &body).expect(200).json();
    assert_eq!((&plan["number"], &plan["size"]), (&json!(1), &json!(12 << 20)), "{plan}");
    let done = bank.over(bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &body));
    assert_eq!(done["state"], "done", "{done}");
    assert!(bank.held("slow").unwrap() == bank.volume.bytes);
    let runs = bank.runs();
    assert_eq!(runs.len(), 1, "the same run went on: {runs:?}");
    assert_eq!(
        (&runs[0]["run"], &runs[0]["state"], &runs[0]["resting"]),
        (&run["run"], &json!("finished"), &json!(false))
    );
    assert!(runs[0]["ended"].as_u64() > runs[0]["begun"].as_u64(), "it took time: {runs:?}");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a rate is a matter of real time")]
fn a_target_with_a_rate_is_written_no_faster() {
    const A_SECOND: f64 = 1e6;
    /// What may be written at once.
    const BURST: f64 = 1048576.0;
    let bank = Bank::new(4 << 20);
    bank.add("slow", json!({ "rate": "1MB" })).expect(200);
    let began = std::time::Instant::now();
    let done = bank
        .over(bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &json!({ "generation": "1", "target": "slow" })));
    let took = began.elapsed().as_secs_f64();
    assert_eq!(done["state"], "done", "{done}");
    assert!(bank.held("slow").unwrap() == bank.volume.bytes);
    let written = bank.runs()[0]["written"].as_f64().unwrap();
    assert!(written > 2.0 * BURST, "{written}");
    // Only too soon is wrong, so no machine is too slow for this.
    let least = (written - BURST) / A_SECOND;
    assert!(took >= least, "{written} bytes were there after {took:.2} s, and not before {least:.2} s were to");
}

#[test]
fn a_run_that_is_given_up_leaves_no_file_behind() {
    let bank = Bank::new(12 << 20);
    bank.add("slow", json!({ "rate": "1 MB" })).expect(200);
    let run = stopped(&bank);
    let there = || std::fs::read_dir(bank.folder.path().join("slow")).unwrap().count();
    assert!(there() > 0, "something was written");
    let path = format!("/api/v1/runs/{}", run["run"].as_str().unwrap());
    let done = bank.over(bank.chief.ask("DELETE", &path, None, &[]));
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(there(), 0);
    assert_eq!(bank.runs()[0]["state"], "given up");
    bank.chief.ask("DELETE", &path, None, &[]).expect(404);
    bank.chief.ask("DELETE", "/api/v1/targets/bank/slow", None, &[]).expect(200);
}

#[test]
fn what_was_proved_is_a_statement_that_anybody_verifies() {
    let bank = Bank::new(3 << 20);
    bank.add("vault", json!({})).expect(200);
    let body = json!({ "generation": "latest", "target": "vault" });
    let done = bank.over(bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &body));
    assert_eq!(done["state"], "done", "{done}");
    let (run, root) = (bank.runs().remove(0), blake3::hash(&bank.volume.bytes).to_string());
    assert_eq!((&run["compared"], &run["root"]), (&json!(3 << 20), &json!(root)), "{run}");
    let number = run["statement"].as_u64().unwrap();
    let (file, key) = (bank.world.path("proof.json"), bank.world.path("gateway.pem"));
    std::fs::write(&file, bank.chief.get(&format!("/api/v1/proofs/{number}")).expect(200).body).unwrap();
    let pem = bank.chief.get("/api/v1/proofs/key").expect(200).json()["pem"].as_str().unwrap().to_owned();
    std::fs::write(&key, pem).unwrap();
    let verify = || gateway(&["proof", "verify", file.to_str().unwrap(), "--key", key.to_str().unwrap()]);
    assert!(stdout(&verify()).contains("is what was signed: rehydration"));
    let statement = std::fs::read_to_string(&file).unwrap();
    for part in [root.as_str(), "all of it was read back from the target", "vault", run["run"].as_str().unwrap()] {
        assert!(statement.contains(part), "{part}: {statement}");
    }
    let page = bank.chief.get(&format!("/proofs/{number}")).expect(200).body;
    assert!(page.contains("bank/b/v generation 1 on vault") && page.contains(&root), "{page}");
    for path in ["/volumes/bank/b/v", "/targets/bank/vault"] {
        assert!(bank.chief.get(path).expect(200).body.contains(&format!("/proofs/{number}")), "{path} leads to it");
    }
    // Another root in the statement: nobody signed that.
    let forged = std::fs::read_to_string(&file).unwrap().replace(&root, &"00".repeat(32));
    std::fs::write(&file, forged).unwrap();
    assert!(!verify().status.success());
}

#[test]
fn an_account_of_another_tenant_sees_nothing_of_a_target() {
    let bank = Bank::new(3 << 20);
    bank.add("vault", json!({})).expect(200);
    bank.chief.post("/api/v1/targets/bank/vault/orders", &json!({ "site": "b" })).expect(200);
    bank.wait("it is there", |bank| bank.order()["state"] == "current");
    let run = bank.runs().remove(0)["run"].as_str().unwrap().to_owned();
    bank.chief.post("/api/v1/tenants", &json!({ "name": "rival" })).expect(200);
    let rival = bank.chief.account(&bank.world, "rivals", "administrator", Some("rival"));
    for list in ["targets", "orders", "runs", "jobs"] {
        let listed = rival.get(&format!("/api/v1/{list}")).expect(200);
        assert_eq!(listed.json()["total"], 0, "{list}");
        assert!(!listed.body.contains("vault"), "{list}: {}", listed.body);
    }
    let vault = "/api/v1/targets/bank/vault";
    for (method, path) in [
        ("GET", vault.to_owned()),
        ("GET", format!("{vault}/points")),
        ("POST", format!("{vault}/test")),
        ("POST", format!("{vault}/look")),
        ("POST", format!("{vault}/orders")),
        ("PUT", format!("{vault}/orders/b/v")),
        ("DELETE", format!("{vault}/orders/b/v")),
        ("DELETE", vault.to_owned()),
        ("DELETE", format!("/api/v1/runs/{run}")),
    ] {
        let body = match method {
            "POST" => Some(json!({ "site": "b" }).to_string()),
            "PUT" => Some(json!({ "paused": true }).to_string()),
            _ => None,
        };
        assert_eq!(rival.ask(method, &path, body, &[]).expect(404).problem(), "missing", "{method} {path}");
    }
    // Nor may it write where the other's target does.
    let taken = bank.folder.path().join("vault");
    let body = json!({ "tenant": "rival", "name": "mine", "settings": { "kind": "raw", "folder": taken } });
    let refused = rival.post("/api/v1/targets", &body).expect(409).json();
    assert!(refused["detail"].as_str().unwrap().contains("is not free"), "{refused}");
    // A target of that name may be theirs, too.
    let own = json!({ "tenant": "rival", "name": "vault", "settings": { "kind": "raw", "folder": bank.folder.path().join("rival") } });
    rival.post("/api/v1/targets", &own).expect(200);
    assert_eq!(rival.get("/api/v1/targets").json()["total"], 1);
    assert_eq!(bank.chief.get("/api/v1/targets").json()["total"], 2);
    let both = bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &json!({ "generation": "1", "target": "vault" }));
    assert_eq!(bank.over(both)["state"], "done", "the tenant of the volume says whose target is meant");
}

#[test]
fn credentials_are_named_and_never_said() {
    const SECRET: &str = "wJalrXUtnFEMI-a-secret-access-key";
    let log = monitoring::start_log_keeping(
        monitoring::LogFormat::Text,
        "sluice_gateway=trace,targets=trace,tower_http=trace",
    );
    let bank = Bank::new(3 << 20);
    let folder = bank.world.path("credentials/bank");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("cloud");
    std::fs::write(&file, format!("AWS_SECRET_ACCESS_KEY={SECRET}\n")).unwrap();
    let own = bank.chief.account(&bank.world, "li", "administrator", Some("bank"));
    let mut heard = Vec::new();
    // A secret in the wrong field is not repeated, whatever the field.
    for wrong in [
        json!({ "credentials": SECRET }),
        json!({ "authorities": SECRET }),
        json!({ "settings": { "kind": "raw", "folder": "/x", "secret_key": SECRET } }),
        json!({ "settings": { "kind": "raw", "folder": { "key": SECRET } } }),
        json!({ "secret_key": SECRET }),
    ] {
        let said = bank.add("vault", wrong.clone());
        assert!(matches!(said.status, 403 | 422), "{wrong}: {said:?}");
        heard.push(said.body);
    }
    for (client, path, status) in [
        (&own, "/etc/passwd".to_owned(), 403),
        (&own, bank.world.path("credentials/rival/cloud").display().to_string(), 403),
        (&own, "environment".to_owned(), 403),
        (&bank.chief, "environment".to_owned(), 200),
        (&own, file.display().to_string(), 200),
    ] {
        let place = bank.folder.path().join(format!("v{}", heard.len()));
        let name = format!("t{}", heard.len());
        let body = json!({ "tenant": "bank", "name": name, "settings": { "kind": "raw", "folder": place }, "credentials": path });
        heard.push(client.post("/api/v1/targets", &body).expect(status).body);
    }
    for path in [
        "/api/v1/targets",
        "/targets",
        "/targets/bank/t9",
        "/api/v1/audit?most=500",
        "/api/v1/audit/export",
        "/audit",
        "/settings",
    ] {
        heard.push(bank.chief.get(path).expect(200).body);
    }
    let listed = bank.chief.get("/api/v1/targets/bank/t9").expect(200).json();
    assert_eq!(listed["credentials"], file.display().to_string(), "where they come from is no secret");
    heard.push(bank.world.metrics());
    // Something is said in the log, so that it is looked at.
    let settled = bank.chief.post("/api/v1/targets/bank/t9/test", &json!({}));
    bank.over(settled);
    assert!(!log.lines().is_empty());
    heard.push(log.lines().join("\n"));
    for text in &heard {
        assert!(!text.contains(SECRET), "{text}");
    }
    // None set: it is said what to do.
    let mut bank = bank;
    bank.world.stop();
    bank.world.config.web.as_mut().unwrap().credentials.clear();
    bank.world.start();
    let own = Client { token: own.token, ..Client::of(&bank.world) };
    let body = json!({ "tenant": "bank", "name": "x", "settings": { "kind": "raw", "folder": bank.folder.path().join("x") }, "credentials": file });
    let refused = own.post("/api/v1/targets", &body).expect(403).json();
    assert!(refused["detail"].as_str().unwrap().contains("`credentials = ["), "{refused}");
}

#[test]
fn paths_that_are_named_from_afar_lie_below_the_folders_for_targets() {
    let bank = Bank::new(3 << 20);
    for folder in ["/etc/sluice".to_owned(), "relative".into(), format!("{}/../x", bank.folder.path().display())] {
        let settings = json!({ "settings": { "kind": "raw", "folder": folder } });
        assert_eq!(bank.add("vault", settings).expect(403).problem(), "forbidden", "{folder}");
    }
    let wrong = bank.add("vault", json!({ "settings": { "kind": "floppy" } })).expect(422).json();
    let said = wrong["detail"].as_str().unwrap();
    assert!(said.contains("unknown variant `floppy`") && said.contains("`raw`"), "{said}");
    for (field, value) in [("rate", json!("fast")), ("rate", json!("0")), ("proof", json!("101%")), ("keep", json!(0))]
    {
        let refused = bank.add("vault", json!({ field: value })).expect(422).json();
        assert_eq!(refused["field"], field, "{refused}");
    }
    for body in [json!({ "generation": "latest" }), json!({ "generation": "latest", "target": "a", "to": "/b" })] {
        let refused = bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &body).expect(422).json();
        assert!(refused["detail"].as_str().unwrap().contains("say where"), "{refused}");
    }
    assert_eq!(bank.chief.get("/api/v1/targets").json()["total"], 0);
}

#[test]
fn figures_of_a_target_say_what_was_written_and_proved() {
    let mut bank = Bank::new(3 << 20);
    bank.add("vault", json!({})).expect(200);
    // Figures are looked at when the gateway starts, and each half minute.
    let token = bank.chief.account(&bank.world, "program", "operator", Some("bank")).token;
    bank.world.restart();
    bank.chief = Client { token, ..Client::of(&bank.world) };
    let line =
        |what: &str, value: u64| format!("sluice_gateway_target_{what}{{tenant=\"bank\",target=\"vault\"}} {value}\n");
    bank.wait("a look", |bank| bank.world.metrics().contains(&line("orders", 0)));
    let body = json!({ "generation": "latest", "target": "vault" });
    let begun = bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &body);
    assert_eq!(bank.over(begun)["state"], "done");
    let metrics = bank.world.metrics();
    let data = bank.volume.bytes.chunks(4096).filter(|block| block.iter().any(|byte| *byte != 0)).count() as u64 * 4096;
    for (what, value) in [
        ("written_bytes_total", data),
        ("read_back_bytes_total", 3 << 20),
        ("statements_total", 1),
        ("proofs_failed_total", 0),
    ] {
        assert!(metrics.contains(&line(what, value)), "{}: {metrics}", line(what, value));
    }
    // Somebody writes to it behind our back: the next run finds it, writes it anew, and it is counted.
    let file = raw_files(&bank.folder.path().join("vault")).remove(0);
    let touched = std::fs::File::options().write(true).open(&file).unwrap();
    let before = touched.metadata().unwrap().modified().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&touched, b"touched", 12_345).unwrap();
    touched.set_modified(before).unwrap();
    let again = bank.chief.post("/api/v1/volumes/bank/b/v/rehydrate", &body);
    assert_eq!(bank.over(again)["state"], "done");
    let metrics = bank.world.metrics();
    assert!(metrics.contains(&line("proofs_failed_total", 1)), "{metrics}");
    assert!(bank.held("vault").unwrap() == bank.volume.bytes);
    assert!(bank.runs().iter().any(|run| run["repaired"] == true), "{:?}", bank.runs());
}

#[test]
fn commands_and_pages_say_the_same_of_an_order() {
    let bank = Bank::new(3 << 20);
    bank.add("vault", json!({})).expect(200);
    let none = TargetRequest::Keep { target: "vault".into(), volume: "bank/b/nothing".into() };
    assert!(bank.world.ask(Request::Target(none)).unwrap_err().contains("there is no volume"));
    let keep = TargetRequest::Keep { target: "bank/vault".into(), volume: "b/v".into() };
    bank.world.ask(Request::Target(keep)).unwrap();
    bank.wait("it is current", |bank| bank.order()["state"] == "current");
    let Answer::Target(TargetAnswer::Orders { orders }) =
        bank.world.ask(Request::Target(TargetRequest::Orders)).unwrap()
    else {
        panic!("not orders")
    };
    assert_eq!((orders[0].state.as_str(), orders[0].holds, orders[0].behind_since), ("current", Some(1), None));
    for (path, said) in [("/targets", "The copy is current."), ("/volumes/bank/b/v", "holds generation 1")] {
        assert!(bank.chief.get(path).expect(200).body.contains(said), "{path} says {said}");
    }
}
