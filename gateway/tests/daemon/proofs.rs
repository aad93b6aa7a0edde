//! Proofs: stated and signed once, listed for whom they concern, and verified without the gateway.

use crate::client::{Client, world};
use serde_json::{Map, json};
use sluice_gateway::proofs::About;
use sluice_gateway::state::State;
use wire::statement::{KeyId, Statement};

#[test]
fn a_proof_is_kept_listed_for_its_tenant_alone_and_verified_elsewhere() {
    let (mut world, chief) = world();
    for tenant in ["bank", "rival"] {
        chief.post("/api/v1/tenants", &json!({ "name": tenant })).expect(200);
    }
    let people =
        [("li", "bank"), ("wu", "rival")].map(|(name, tenant)| chief.account(&world, name, "viewer", Some(tenant)));
    world.stop();
    let state = State::open(&world.config).unwrap();
    let tenant = state.catalogue.find_tenant("bank").unwrap();
    let about = About { tenant: tenant.id, subject: "bank/b1".into() };
    let body: Map<_, _> = json!({ "volumes": [{ "name": "<b>core</b>" }] }).as_object().unwrap().clone();
    let kept = state.prove("example", &about, body).unwrap();
    drop(state);
    world.start();
    let address = Client::of(&world).address;
    let [bank, rival] = people.map(|client| Client { address, ..client });
    let listed = bank.get("/api/v1/proofs").expect(200).json();
    assert_eq!((&listed["total"], &listed["items"][0]["verified"]), (&json!(1), &json!(true)), "{listed}");
    assert_eq!(rival.get("/api/v1/proofs").expect(200).json()["total"], 0);
    rival.get("/api/v1/proofs/1").expect(404);
    let file = bank.get("/api/v1/proofs/1").expect(200).body;
    assert_eq!(file, kept.statement);
    let key = KeyId::read(bank.get("/api/v1/proofs/key").json()["pem"].as_str().unwrap()).unwrap();
    let read = Statement::read(&file).unwrap();
    read.verify(key).unwrap();
    assert_eq!(read.body["software"], format!("sluice-gateway {}", env!("CARGO_PKG_VERSION")));
}
