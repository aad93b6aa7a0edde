//! Schedules in the making, over the API of a real daemon: what they come to, one for many sites, and the pages.

use crate::api::{invite, set_policy};
use crate::client::{Client, POLICY, world};
use crate::edge::Edge;
use dedupe::LineageId;
use serde_json::{Value, json};
use wire::message::{EdgeStatus, FromEdge};
use wire::telemetry::{SiteFigures, Teller};

fn draft(client: &Client, body: Value) -> Value {
    client.post("/api/v1/policy/draft", &body).expect(200).json()
}

fn document(client: &Client, site: &str) -> String {
    client.get(&format!("/api/v1/sites/{site}/policy")).expect(200).json()["document"].as_str().unwrap().to_owned()
}

#[test]
fn an_edit_comes_back_in_its_authors_text_with_what_it_comes_to() {
    let (_world, chief) = world();
    invite(&chief, "bank", "b1");
    let commented = POLICY.replace("[grid]", "[grid] # branch hours");
    set_policy(&chief, "bank/b1", &commented, 0).expect(200);
    let read = draft(&chief, json!({ "site": "bank/b1" }));
    assert_eq!((&read["problems"], &read["diff"], &read["version"]), (&json!([]), &json!(""), &json!(1)));
    assert_eq!(read["summary"]["backlog"], Value::Null, "its edge has told nothing");
    assert_eq!(read["clocks"], json!([]), "Shanghai leaves its clocks alone");
    assert_eq!(read["preview"]["days"].as_array().unwrap().len(), 14);
    let mut edit = read["schedule"].clone();
    edit["grid"][5] = json!([1].repeat(96));
    let edited = draft(&chief, json!({ "document": read["document"], "edit": edit, "site": "bank/b1" }));
    let text = edited["document"].as_str().unwrap();
    assert!(text.contains("[grid] # branch hours") && text.contains("\nsat = \"00:00 night\"\n"), "{text}");
    let changed: Vec<&str> =
        edited["diff"].as_str().unwrap().lines().filter(|line| line.starts_with(['+', '-'])).collect();
    assert_eq!(changed, ["+sat = \"00:00 night\""], "{changed:?}");
    let minutes = |answer: &Value| answer["summary"]["open_minutes"].as_u64().unwrap();
    assert!(minutes(&edited) > minutes(&read), "a day more is open");
    assert_eq!(document(&chief, "bank/b1"), read["document"].as_str().unwrap(), "nothing was saved");
    // A version that somebody else saved meanwhile is shown as what it changed.
    set_policy(&chief, "bank/b1", text, 1).expect(200);
    let theirs = draft(&chief, json!({ "site": "bank/b1", "against": 1 }));
    assert!(theirs["diff"].as_str().unwrap().contains("+sat = "), "{theirs}");
}

#[test]
fn what_is_wrong_is_part_of_the_answer_and_names_its_line() {
    let (_world, chief) = world();
    let wrong = draft(&chief, json!({ "document": POLICY.replace("2 Mbit/s", "2 MB") }));
    assert_eq!((&wrong["problems"][0]["line"], &wrong["problems"][0]["field"]), (&json!(3), &json!("up")), "{wrong}");
    assert_eq!((&wrong["schedule"], &wrong["preview"], &wrong["summary"]), (&Value::Null, &Value::Null, &Value::Null));
    let broken = draft(&chief, json!({ "document": "zone = \"UTC\"\n[line\n" }));
    assert_eq!(broken["problems"][0]["line"], 2, "{broken}");
    // What no editor makes is refused whole, and so is a site that is not there.
    let mut edit = draft(&chief, json!({ "document": POLICY }))["schedule"].clone();
    edit["grid"] = json!([]);
    let refused = chief.post("/api/v1/policy/draft", &json!({ "document": POLICY, "edit": edit })).expect(422);
    assert!(refused.json()["detail"].as_str().unwrap().starts_with("`grid` has seven rows"), "{refused:?}");
    for site in ["bank/b9", "nowhere/b1", "bank/../b1"] {
        chief.post("/api/v1/policy/draft", &json!({ "document": POLICY, "site": site })).expect(404);
    }
    chief.post("/api/v1/policy/draft", &json!({ "document": POLICY, "site": "b1" })).expect(422);
}

#[test]
fn a_site_without_a_policy_gets_a_document_from_an_edit_alone() {
    let (_world, chief) = world();
    invite(&chief, "bank", "b1");
    let mut edit = draft(&chief, json!({ "document": POLICY }))["schedule"].clone();
    edit["zone"] = json!("Europe/Berlin");
    let first = draft(&chief, json!({ "site": "bank/b1", "edit": edit }));
    assert_eq!((&first["problems"], &first["version"]), (&json!([]), &Value::Null), "{first}");
    assert_eq!(first["clocks"].as_array().unwrap().len() / 2, 1, "{first}");
    set_policy(&chief, "bank/b1", first["document"].as_str().unwrap(), 0).expect(200);
    let saved = draft(&chief, json!({ "site": "bank/b1" }));
    assert_eq!((&saved["schedule"], &saved["version"]), (&first["schedule"], &json!(1)));
}

#[test]
fn what_waits_at_a_site_is_held_against_the_draft() {
    let (world, chief) = world();
    let edge = world.run(Edge::enrol(&world, "b1"));
    let edge = Edge { alpn: vec![b"sluice/3".to_vec()], ..edge };
    let _session = world.run(async {
        let mut control = edge.control(&world).await;
        control.announce(LineageId([5; 16]), "core-db").await;
        let figures = SiteFigures { uptime: 60, backlog: 300_000_000, volumes: 1, ..SiteFigures::default() };
        control.say(FromEdge::Telemetry(Teller::default().tell(&figures, &[]))).await;
        control.ask(FromEdge::Status(EdgeStatus::default())).await;
        control
    });
    let always = POLICY
        .replace("mon-fri = \"00:00 night 07:30 closed 19:30 night\"", "all = \"00:00 night\"")
        .replace("day 1..3", "2020-01-01");
    let open = draft(&chief, json!({ "document": always, "site": "bank/b1" }))["summary"].clone();
    assert_eq!((&open["backlog"], &open["fits"]), (&json!(300_000_000), &json!(true)), "{open}");
    assert!(open["arrives"].as_u64().unwrap() <= open["tonight"].as_u64().unwrap());
    let never = always.replace("00:00 night", "00:00 closed");
    let closed = draft(&chief, json!({ "document": never, "site": "bank/b1" }))["summary"].clone();
    assert_eq!((&closed["fits"], &closed["arrives"], &closed["night_bytes"]), (&json!(false), &Value::Null, &json!(0)));
}

#[test]
fn one_schedule_goes_to_many_sites_and_each_keeps_its_own_line() {
    let (world, chief) = world();
    let own =
        "zone = \"Europe/Berlin\"\n[line]\nup = \"8 Mbit/s\" # fibre\n[[quotas]]\nperiod = \"day\"\nlimit = \"5 GB\"\n";
    for (site, document) in [("b1", POLICY), ("b2", own), ("b3", POLICY)] {
        invite(&chief, "bank", site);
        set_policy(&chief, &format!("bank/{site}"), document, 0).expect(200);
    }
    invite(&chief, "bank", "b4");
    let apply = |who: &Client, sites: &[&str], document: &str| {
        who.post(
            "/api/v1/policies/schedule",
            &json!({ "tenant": "bank", "sites": sites, "document": document, "reason": "one for all" }),
        )
    };
    let new = POLICY.replace("07:30", "06:00");
    // All or none: one of them has no policy that could take it.
    let refused = apply(&chief, &["b2", "b4"], &new).expect(404);
    assert!(refused.json()["detail"].as_str().unwrap().contains("site `b4` has no policy yet"), "{refused:?}");
    assert_eq!(chief.get("/api/v1/sites/bank/b2/policy").json()["version"], 1);
    let done = apply(&chief, &["b2", "b3"], &new).expect(200).json();
    assert_eq!(done["what"].as_array().unwrap().len(), 2, "{done}");
    let b2 = document(&chief, "bank/b2");
    assert!(
        b2.contains("up = \"8 Mbit/s\" # fibre") && b2.contains("limit = \"5 GB\"") && b2.contains("06:00 closed"),
        "{b2}"
    );
    let history = chief.get("/api/v1/sites/bank/b2/history").json();
    let last = &history["items"][0];
    assert_eq!(
        (&last["what"], &last["reason"], &last["version"]),
        (&json!("schedule set"), &json!("one for all"), &json!(2)),
        "{history}"
    );

    // A blackout that goes is for the owner to agree to; the request waits as it was asked.
    let operator = chief.account(&world, "li", "operator", Some("bank"));
    let owner = chief.account(&world, "owner", "approver", Some("bank"));
    assert_eq!(apply(&owner, &["b2"], &new).expect(403).problem(), "forbidden");
    let without = new.split("[[blackouts]]").next().unwrap().to_owned();
    let told = draft(&operator, json!({ "document": without, "site": "bank/b3" }));
    assert_eq!(told["causes"], json!(["the blackout \"month end\" is changed or taken out"]));
    let waits = apply(&operator, &["b2", "b3"], &without).expect(202).json();
    assert_eq!(waits["causes"], told["causes"]);
    assert!(document(&chief, "bank/b3").contains("month end"), "nothing is done yet");
    let path = format!("/api/v1/approvals/{}/approve", waits["approval"]);
    owner.post(&path, &json!({ "reason": "agreed" })).expect(200);
    for site in ["bank/b2", "bank/b3"] {
        assert!(!document(&chief, site).contains("month end"));
    }
    let audit = chief.get("/api/v1/audit?most=500").expect(200).body;
    assert!(audit.contains("policy.schedule") && audit.contains("b2, b3"), "{audit}");
}

#[test]
fn a_calendar_is_looked_at_before_it_is_taken() {
    let (_world, chief) = world();
    let event = |summary: &str, from: &str, to: &str| {
        format!(
            "BEGIN:VEVENT\r\nUID:{from}\r\nSUMMARY:{summary}\r\nDTSTART;VALUE=DATE:{from}\r\nDTEND;VALUE=DATE:{to}\r\nEND:VEVENT\r\n"
        )
    };
    let calendar = format!(
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\n{}{}END:VCALENDAR\r\n",
        event("国庆节", "20271001", "20271008"),
        event("国庆节 补班", "20271010", "20271011")
    );
    let days = chief.post("/api/v1/policy/holidays", &json!({ "calendar": calendar })).expect(200).json();
    assert_eq!(
        days,
        json!({ "off": [{ "from": "2027-10-01", "to": "2027-10-07", "name": "国庆节" }], "working": ["2027-10-10"] })
    );
    chief.post("/api/v1/policy/holidays", &json!({ "calendar": "x" })).expect(422);
}

#[test]
fn the_pages_show_who_shares_a_schedule_and_whose_edge_has_it() {
    let (world, chief) = world();
    let empty = chief.get("/schedule").expect(200).body;
    assert!(empty.contains("There are no sites yet") && empty.contains("href=\"/welcome\""), "{empty}");
    for (site, up) in [("b1", "2 Mbit/s"), ("b2", "8 Mbit/s"), ("b3", "2 Mbit/s")] {
        invite(&chief, "bank", site);
        let document = POLICY.replace("2 Mbit/s", up);
        let document = if site == "b3" { document.replace("07:30", "06:00") } else { document };
        set_policy(&chief, &format!("bank/{site}"), &document, 0).expect(200);
    }
    invite(&chief, "bank", "b4");
    let list = chief.get("/schedule").expect(200).body;
    assert_eq!(
        (list.matches("<span class=\"chip\">A</span>").count(), list.matches("<span class=\"chip\">B</span>").count()),
        (2, 1),
        "{list}"
    );
    assert!(list.contains("no policy") && list.contains("no edge has come yet"), "{list}");
    let page = chief.get("/schedule/bank/b1").expect(200).body;
    assert!(page.contains("/assets/schedule-") && page.contains("id=\"save\"") && !page.contains(" style="), "{page}");
    assert!(!chief.get("/").expect(200).body.contains("/assets/schedule-"), "no other page loads the editor");
    let first = chief.get("/schedule/bank/b4").expect(200).body;
    assert!(first.contains("This site has no policy yet") && first.contains("id=\"begin\""), "{first}");
    chief.get("/schedule/bank/b9").expect(404);
    let viewer = chief.account(&world, "wang", "viewer", Some("bank"));
    viewer.post("/api/v1/policy/draft", &json!({ "site": "bank/b1" })).expect(200);
    // A script's data ends at no `<` of a document.
    let nasty = POLICY.replace("month end", "</script><script>alert(1)</script>");
    set_policy(&chief, "bank/b1", &nasty, 1).expect(200);
    let page = chief.get("/schedule/bank/b1").expect(200).body;
    assert!(!page.contains("<script>alert") && page.contains("\\u003c/script>"), "{page}");
}
