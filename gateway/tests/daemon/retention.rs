//! What was kept is given up by two people and after a delay, or not at all.

use crate::api::invite;
use crate::client::{Answer, Client, PASSWORD, world_with};
use crate::edge::{Edge, Volume, replicate};
use crate::pages::browser;
use crate::world::World;
use serde_json::{Value, json};
use sluice_gateway::access::Role;
use sluice_gateway::admin::{self, AccountRequest, Request, RetentionRequest};
use std::time::Duration;
use wire::message::{FromEdge, FromGateway, Refusal};
use wire::statement::{KeyId, Statement};

/// A bank with a site, an operator who asks by a token and an approver who is signed in; both accounts are older than the delay.
struct Bank {
    world: World,
    li: Client,
    owner: Client,
}

impl Bank {
    fn new(keep: usize) -> Bank {
        let (mut world, chief) = world_with(Vec::new());
        world.config.retention = keep;
        invite(&chief, "bank", "b");
        chief.account(&world, "li", "administrator", Some("bank"));
        let li = Client { token: Some(token(&world, "li", Role::Administrator)), ..chief.stranger() };
        let owner = browser(&chief, "owner", "approver", Some("bank"));
        let mut bank = Bank { world, li, owner };
        bank.pass(8);
        bank
    }

    /// Lets days pass; whoever was signed in signs in again.
    fn pass(&mut self, days: u64) {
        self.world.pass(days);
        let at = Client::of(&self.world);
        self.li.address = at.address;
        self.owner = at.stranger();
        let signed = self.owner.sign_in("owner", PASSWORD).expect(200);
        self.owner.signed(signed);
    }

    fn ask(&self, path: &str) -> Answer {
        self.li.post(path, &json!({ "reason": "as the committee decided" }))
    }

    /// Asks for something, and has it agreed to; the number under which it waits for its time.
    fn agreed(&self, path: &str) -> u64 {
        let approval = self.ask(path).expect(202).json()["approval"].as_u64().unwrap();
        approve(&self.owner, approval).expect(200);
        self.pending()[0]["number"].as_u64().unwrap()
    }

    fn pending(&self) -> Vec<Value> {
        self.li.get("/api/v1/retention/pending?all=true").expect(200).json()["items"].as_array().unwrap().clone()
    }

    /// What became of what waited, once the worker has been there.
    fn outcome(&self, number: u64) -> Value {
        for _ in 0..600 {
            let found = self.pending().into_iter().find(|line| line["number"] == number).unwrap();
            if found["state"] != "waiting" && found["state"] != "working" {
                return found;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("nothing became of it: {:?}", self.pending());
    }

    fn generations(&self, volume: &str) -> Vec<u64> {
        let listed = self.li.get(&format!("/api/v1/volumes/bank/{volume}/generations")).expect(200).json();
        let mut numbers: Vec<u64> =
            listed["items"].as_array().unwrap().iter().map(|line| line["number"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// An API token that outlives what these tests let pass.
fn token(world: &World, account: &str, role: Role) -> String {
    let request = AccountRequest::AddToken { account: account.into(), label: "test".into(), role, days: 365 };
    match world.ask(Request::Account(request)).unwrap() {
        admin::Answer::ApiTokenSecret { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

fn approve(who: &Client, number: u64) -> Answer {
    who.post(&format!("/api/v1/approvals/{number}/approve"), &json!({ "reason": "agreed" }))
}

fn detail(answer: &Answer) -> String {
    answer.json()["detail"].as_str().unwrap().to_owned()
}

/// Replicates so many generations of a volume of a site.
fn grow(world: &World, edge: &Edge, volume: &mut Volume, name: &str, count: usize) {
    world.run(async {
        let mut control = edge.control(world).await;
        let data = edge.data(world, &control).await;
        control.announce(volume.lineage, name).await;
        for block in 0..count {
            volume.scribble(block as u64 + 100, block);
            replicate(volume, &mut control, &data).await;
        }
    });
}

#[test]
fn nobody_deletes_alone_nothing_at_once_and_a_lock_set_meanwhile_wins() {
    let mut bank = Bank::new(30);
    let edge = bank.world.run(Edge::enrol(&bank.world, "b"));
    grow(&bank.world, &edge, &mut Volume::new(1, 1 << 20), "db", 4);
    let forget = |number: u64| format!("/api/v1/volumes/bank/b/db/generations/{number}/forget");
    assert!(detail(&bank.ask(&forget(4)).expect(409)).contains("is the newest generation"));

    // Whoever asked, a stolen token of the approver, a command on the machine, and an approver who was made for the purpose: none is the second person.
    let number = bank.ask(&forget(1)).expect(202).json()["approval"].as_u64().unwrap();
    assert_eq!(approve(&bank.li, number).expect(403).problem(), "forbidden");
    let command = Request::Answer { number, approve: true, reason: "r".into() };
    assert!(bank.world.ask(command).unwrap_err().contains("may not agree"));
    let stolen = Client { token: Some(token(&bank.world, "owner", Role::Approver)), ..bank.li.stranger() };
    assert!(detail(&approve(&stolen, number).expect(403)).contains("signed in on the pages"));
    let made = browser(&bank.li, "made", "approver", Some("bank"));
    assert!(detail(&approve(&made, number).expect(403)).contains("could be the one who uses it"));
    let reset = AccountRequest::ResetPassword { name: "made".into() };
    bank.world.ask(Request::Account(reset)).unwrap();
    assert_eq!(bank.generations("b/db"), [1, 2, 3, 4]);

    // Two people: from then on the delay runs, and until then it can be taken back.
    approve(&bank.owner, number).expect(200);
    let first = bank.pending()[0]["number"].as_u64().unwrap();
    assert!(detail(&bank.ask(&forget(1)).expect(409)).contains("waits already"));
    let second = bank.agreed(&forget(2));
    let third = bank.agreed(&forget(3));
    bank.ask(&format!("/api/v1/retention/pending/{third}/cancel")).expect(200);
    bank.pass(6);
    assert_eq!(bank.generations("b/db"), [1, 2, 3, 4], "not before its time");
    let lock = json!({ "tenant": "bank", "site": "b", "volume": "db", "generation": "2", "forever": true, "reason": "a lawsuit" });
    bank.li.post("/api/v1/retention/locks", &lock).expect(200);
    bank.pass(2);
    assert_eq!(bank.outcome(first)["state"], "done");
    let refused = bank.outcome(second);
    assert_eq!(refused["state"], "refused");
    assert!(refused["said"].as_str().unwrap().contains("is held by lock 1 without end"), "{refused}");
    assert_eq!(bank.outcome(third)["state"], "cancelled");
    assert_eq!(bank.generations("b/db"), [2, 3, 4]);
    assert!(detail(&bank.ask(&forget(2)).expect(409)).contains("retention unlock 1"));

    let mut log = Vec::new();
    let Ok(admin::Answer::Audit { entries }) = bank.world.ask(Request::Audit { after: 0, most: 1000 }) else {
        panic!("no log")
    };
    log.extend(entries.iter().map(|row| format!("{} {} {} {}", row.actor, row.what, row.object, row.outcome)));
    for entry in [
        "li generation.forget bank/b/db waiting",
        "owner approval.approve 1 done",
        "owner generation.forget bank/b/db#1 waiting",
        "gateway generation.forget bank/b/db#1 done",
        "gateway generation.forget bank/b/db#2 refused",
        "li retention.cancel bank/b/db#3 done",
        "li generation.forget bank/b/db refused",
        "li lock.set bank/b/db#2 done",
    ] {
        assert!(log.iter().any(|line| line == entry), "{entry}: {log:#?}");
    }
}

#[test]
fn a_lock_is_set_by_one_person_and_taken_off_by_two_after_a_delay() {
    let mut bank = Bank::new(30);
    let edge = bank.world.run(Edge::enrol(&bank.world, "b"));
    grow(&bank.world, &edge, &mut Volume::new(1, 1 << 20), "db", 2);
    let lock = json!({ "tenant": "bank", "site": "b", "days": 90, "reason": "the regulator" });
    bank.li.post("/api/v1/retention/locks", &lock).expect(200);
    let forget = "/api/v1/volumes/bank/b/db/generations/1/forget";
    assert!(detail(&bank.ask(forget).expect(409)).contains("is held by lock 1 until 20"));
    let term = |days: u64| json!({ "days": days, "reason": "r" });
    bank.li.post("/api/v1/retention/locks/1/extend", &term(89)).expect(422);
    bank.li.post("/api/v1/retention/locks/1/extend", &term(100)).expect(200);
    bank.li.post("/api/v1/retention/locks/1/release", &term(101)).expect(422);
    // A command on the gateway's machine asks like anybody else.
    let unlock = RetentionRequest::Unlock { number: 1, to: None, reason: "r".into() };
    let asked = bank.world.ask(Request::Retention(unlock)).unwrap();
    let admin::Answer::Waiting { number, .. } = asked else { panic!("{asked:?}") };
    assert!(bank.pending().is_empty());
    approve(&bank.owner, number).expect(200);
    bank.ask(forget).expect(409);
    bank.pass(6);
    bank.ask(forget).expect(409);
    bank.pass(2);
    assert_eq!(bank.outcome(1)["state"], "done");
    assert_eq!(bank.li.get("/api/v1/retention/locks").json()["total"], 0);
    bank.ask(forget).expect(202);
}

#[test]
fn a_hostile_edge_can_remove_nothing_that_is_sealed_and_push_nothing_out_that_is_locked() {
    let mut bank = Bank::new(2);
    let edge = bank.world.run(Edge::enrol(&bank.world, "b"));
    let mut volume = Volume::new(1, 1 << 20);
    grow(&bank.world, &edge, &mut volume, "db", 1);
    let lock = json!({ "tenant": "bank", "site": "b", "volume": "db", "days": 30, "reason": "the regulator" });
    bank.li.post("/api/v1/retention/locks", &lock).expect(200);
    // It makes itself another name, and generation after generation, so that the old ones would have to go.
    grow(&bank.world, &edge, &mut volume, "renamed", 5);
    bank.world.run(async {
        let mut control = edge.control(&bank.world).await;
        let FromGateway::Held { sealed, .. } = control.announce(volume.lineage, "renamed").await else { panic!() };
        for (generation, _) in &sealed {
            control.say(FromEdge::Abandon { generation: *generation }).await;
        }
        let seed = volume.capture();
        let mut offer = volume.offer(&seed);
        if let FromEdge::Offer(offer) = &mut offer {
            offer.parent = None;
        }
        control.ask(offer).await;
        control.say(FromEdge::Abandon { generation: seed.id }).await;
        // Whatever was said before this was dealt with.
        let FromGateway::Held { sealed: after, .. } = control.announce(volume.lineage, "renamed").await else {
            panic!()
        };
        assert_eq!(sealed, after);
    });
    bank.pass(1);
    let line = || bank.li.get("/api/v1/workers").expect(200).body;
    for _ in 0..600 {
        if line().contains("4 more are kept by locks") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(line().contains("4 more are kept by locks"), "{}", line());
    assert_eq!(bank.generations("b/renamed"), [1, 2, 3, 4, 5, 6]);
    assert!(bank.world.metrics().contains("sluice_gateway_locked_generations 6"));
}

#[test]
fn a_site_is_erased_by_two_people_after_a_delay_with_a_proof_and_the_last_one_with_the_key() {
    let mut bank = Bank::new(30);
    let first = bank.world.run(Edge::enrol(&bank.world, "b"));
    grow(&bank.world, &first, &mut Volume::new(1, 4 << 20), "db", 2);
    let other = bank.world.run(Edge::enrol(&bank.world, "c"));
    let mut stays = Volume::new(1, 4 << 20); // the same bytes, but for what is scribbled
    stays.scribble(77, 900);
    grow(&bank.world, &other, &mut stays, "db", 2);
    let path = "/api/v1/sites/bank/b/decommission";
    let lock = json!({ "tenant": "bank", "site": "b", "days": 3, "reason": "r" });
    bank.li.post("/api/v1/retention/locks", &lock).expect(200);
    assert!(detail(&bank.ask(path).expect(409)).contains("of bank/b/db is held by lock 1"));
    bank.pass(4);
    let number = bank.agreed(path);
    let refused = bank.world.run(first.hello(bank.world.address())).err();
    assert_eq!(refused, Some(Refusal::Revoked), "its edge is refused at once");
    let again = bank.li.post("/api/v1/tokens", &json!({ "tenant": "bank", "site": "b" })).expect(409);
    assert!(detail(&again).contains("is being decommissioned"));
    assert_eq!(bank.generations("b/db"), [1, 2]);
    bank.pass(8);
    let done = bank.outcome(number);
    assert_eq!((&done["state"], &done["proof"]), (&json!("done"), &json!(1)), "{done}");
    bank.li.get("/api/v1/volumes/bank/b/db/generations").expect(404);

    let key = KeyId::read(bank.li.get("/api/v1/proofs/key").json()["hex"].as_str().unwrap()).unwrap();
    let proof = Statement::read(&bank.li.get("/api/v1/proofs/1").expect(200).body).unwrap();
    proof.verify(key).unwrap();
    let body = Value::Object(proof.body.clone());
    for (language, word) in [("en", "Proof of erasure"), ("zh-CN", "擦除证明")] {
        for path in ["/retention", "/proofs/1"] {
            let page = bank.owner.ask("GET", path, None, &[("accept-language", language)]).expect(200);
            assert!(page.body.contains(word), "{path} {language}: {}", page.body);
        }
    }
    assert_eq!((&body["asked"]["by"], &body["approved"]["by"]), (&json!("li"), &json!("owner")));
    assert_eq!((&body["generations"], &body["tenant_key_destroyed"]), (&json!(2), &json!(false)));
    assert_eq!(body["volumes"][0]["generations"][1]["root"].as_str().unwrap().len(), 64);
    for name in ["chunks_left_over", "records_left_over", "packs_unreadable"] {
        assert_eq!(body["erased"][name], 0, "{body}");
    }
    let (shared, all) = (body["shared"]["bytes"].as_u64().unwrap(), body["before"]["bytes_of_site"].as_u64().unwrap());
    assert!(0 < shared && shared < all, "{body}");
    let request = Request::Verify { volume: "bank/c/db".into(), generation: "latest".into() };
    bank.world.ask(request).expect("the other site has all that it had");

    // The last site takes the tenant's key with it.
    let tenants = bank.world.state().join("tenants");
    let tenant = std::fs::read_dir(&tenants).unwrap().next().unwrap().unwrap().path();
    let (secret, linked) = (std::fs::read(tenant.join("key")).unwrap(), bank.world.path("linked"));
    std::fs::hard_link(tenant.join("key"), &linked).unwrap();
    let number = bank.agreed("/api/v1/sites/bank/c/decommission");
    bank.pass(8);
    let done = bank.outcome(number);
    assert_eq!((&done["state"], &done["proof"]), (&json!("done"), &json!(2)), "{done}");
    let proof = Statement::read(&bank.li.get("/api/v1/proofs/2").expect(200).body).unwrap();
    assert_eq!(proof.body["tenant_key_destroyed"], true);
    assert_eq!(std::fs::read(&linked).unwrap(), vec![0; secret.len()], "the key was overwritten where it lay");
    let packs = std::fs::read_dir(tenant.join("packs")).map_or(0, |packs| {
        packs
            .flatten()
            .filter(|entry| {
                entry.path().is_file() || entry.path().read_dir().is_ok_and(|mut in_it| in_it.next().is_some())
            })
            .count()
    });
    assert_eq!(packs, 0, "no pack is left");
}
