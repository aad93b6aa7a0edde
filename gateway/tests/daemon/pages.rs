//! The pages: for every role, in both languages, with names that want to be more than text.

use crate::client::{Answer, Client, PASSWORD, POLICY, world, world_with};
use crate::edge::{Edge, Volume, replicate};
use crate::world::World;
use serde_json::json;

const SCRIPT: &str = "<script>alert(1)</script>";
const IMAGE: &str = "<img src=x onerror=alert(1)>\"'&";
const ROLES: [&str; 4] = ["viewer", "operator", "approver", "administrator"];

/// Somebody with this role who is signed in by a browser.
pub(crate) fn browser(chief: &Client, name: &str, role: &str, tenant: Option<&str>) -> Client {
    let made =
        chief.post("/api/v1/accounts", &json!({ "name": name, "role": role, "tenant": tenant })).expect(200).json();
    let given = made["password"].as_str().unwrap().to_owned();
    let mut client = chief.stranger();
    client.signed(chief.sign_in(name, &given).expect(200));
    let change = json!({ "present": given, "new": PASSWORD }).to_string();
    let changed = client.ask("PUT", "/api/v1/session/password", Some(change), &[]);
    assert!(matches!(changed.status, 200 | 204), "{changed:?}");
    client.signed(chief.sign_in(name, PASSWORD).expect(200));
    client
}

fn set_policy(client: &Client, site: &str, (document, reason): (&str, &str), version: u64) -> Answer {
    let tag = format!("\"v{version}\"");
    let headers: &[(&str, &str)] = if version == 0 { &[("if-none-match", "*")] } else { &[("if-match", &tag)] };
    let body = json!({ "document": document, "reason": reason }).to_string();
    client.ask("PUT", &format!("/api/v1/sites/{site}/policy"), Some(body), headers)
}

/// A site `b` of `bank` with a volume.
fn seeded(world: &World) {
    let volume = Volume::new(1, 1 << 20);
    world.run(async {
        let edge = Edge::enrol(world, "b").await;
        let mut control = edge.control(world).await;
        let data = edge.data(world, &control).await;
        control.announce(volume.lineage, "db").await;
        replicate(&volume, &mut control, &data).await;
    });
}

#[test]
fn every_page_is_shown_to_every_role_in_both_languages_and_names_are_text() {
    let folder = tempfile::tempdir().unwrap();
    let (world, chief) = world_with(vec![folder.path().to_owned()]);
    seeded(&world);
    // A folder whose name wants to be more than text, kept at the latest of what there is.
    let settings = json!({ "kind": "raw", "folder": folder.path().join("<script>alert(1)<") });
    chief.post("/api/v1/targets", &json!({ "tenant": "bank", "name": "vault", "settings": settings })).expect(200);
    chief.post("/api/v1/targets/bank/vault/orders", &json!({ "site": "b" })).expect(200);
    let quota = "[[quotas]]\nperiod = \"month\"\nlimit = \"40 GB\"\n";
    let document = format!("{POLICY}{quota}").replace("month end", "<script>alert(1)</script>");
    set_policy(&chief, "bank/b", (&document, IMAGE), 0).expect(200);
    let people: Vec<Client> = ROLES.iter().map(|role| browser(&chief, &format!("a-{role}"), role, None)).collect();
    // Something that waits, with a reason, and lines that come and go.
    let more = document.replace("\"80 %\"\n[pro", "\"90 %\"\n[pro").replace("40 GB", "41 GB");
    set_policy(&people[1], "bank/b", (&more, SCRIPT), 1).expect(202);
    for person in people.iter().chain([&chief]) {
        let name = person.get("/api/v1/session").expect(200).json()["name"].as_str().unwrap().to_owned();
        person
            .post(&format!("/api/v1/accounts/{name}/tokens"), &json!({ "label": IMAGE, "role": "viewer" }))
            .expect(200);
    }
    let verify = json!({ "generation": "latest" });
    let job = chief.post("/api/v1/volumes/bank/b/db/verify", &verify).expect(202).json();
    let job = format!("/jobs/{}", job["number"]);
    let month = "/reports?site=bank%2Fb";
    let paths = [
        "/",
        "/welcome",
        "/welcome?step=2&site=bank%2Fb",
        "/welcome?step=3&site=bank%2Fb",
        "/quotas",
        "/quotas?q=%3Cscript%3Ealert(1)",
        "/grants",
        month,
        "/approvals",
        "/retention",
        "/targets",
        "/targets/bank/vault",
        "/exports",
        "/domains",
        "/versions",
        "/volumes/bank/b/db",
        "/audit",
        "/audit?actor=%3Cscript%3Ealert(1)&object=%22onclick",
        "/users",
        "/me",
        "/jobs",
        &job,
        "/settings",
        "/help",
        "/help/branch",
        "/help/operator",
        "/help/noc",
        "/help/targets",
        "/sites/bank/b",
    ];
    for (person, role) in people.iter().zip(ROLES) {
        for path in paths {
            for (accept, tag) in [("en", "lang=\"en\""), ("zh-CN", "lang=\"zh-Hans\"")] {
                let page = person.ask("GET", path, None, &[("accept-language", accept)]);
                let said = format!("{role}, {path}, {accept}: {} {}", page.status, page.body);
                assert_eq!(page.status, 200, "{said}");
                assert!(page.body.contains(tag) && page.body.contains("<h1"), "{said}");
                for raw in ["<script>alert", "<img src=x", "onerror=alert(1)>\"'", "\"onclick\""] {
                    assert!(!page.body.contains(raw), "{raw}: {said}");
                }
                assert!(!page.body.contains("style=\"") && !page.body.contains(" onclick="), "inline code: {said}");
            }
        }
    }
    // The names are there, as text.
    let shown = |path: &str| people[3].get(path).body;
    assert!(shown("/approvals").contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(shown(month).contains("&lt;img src=x onerror=alert(1)&gt;"), "the reason stands in the report");
    assert!(shown("/me").contains("&lt;img src=x"));
    assert!(shown(&job).contains("/volumes/bank/b/db"));
    assert!(shown("/audit").contains("&lt;script&gt;"));
    // Whoever may only look finds nothing to press that would be refused.
    for path in [
        "/users",
        "/settings",
        "/jobs",
        "/welcome",
        "/audit",
        "/approvals",
        "/quotas",
        "/targets",
        "/targets/bank/vault",
        "/exports",
        "/domains",
        "/versions",
        "/volumes/bank/b/db",
    ] {
        let page = people[0].get(path).body;
        let own = ["data-api=\"/api/v1/session\""];
        let forms = page.matches("data-api=").count();
        assert_eq!(forms, own.len(), "{path} offers a viewer a form: {page}");
    }
    assert!(people[0].get("/nowhere").expect(404).body.contains("<h1"));
    assert!(people[0].get("/jobs/99").expect(404).body.contains("99"));
    assert!(people[0].get("/help/nothing").status == 404);
}

#[test]
fn an_account_of_a_tenant_sees_pages_of_its_own_and_nothing_of_another() {
    let (_world, chief) = world();
    for tenant in ["bank", "rival"] {
        let first = json!({ "up": "2 Mbit/s", "zone": "UTC", "preset": "always", "share": 80 });
        let site = json!({ "tenant": tenant, "site": format!("{tenant}-site"), "first": first });
        chief.post("/api/v1/sites", &site).expect(200);
    }
    for role in ROLES {
        let person = browser(&chief, &format!("r-{role}"), role, Some("bank"));
        for path in [
            "/",
            "/quotas",
            "/grants",
            "/reports",
            "/approvals",
            "/targets",
            "/exports",
            "/domains",
            "/audit",
            "/users",
            "/me",
            "/jobs",
            "/settings",
            "/welcome",
        ] {
            let page = person.get(path).expect(200);
            assert!(!page.body.contains("rival"), "{role}, {path}: {}", page.body);
        }
        assert!(person.get("/reports").body.contains("bank-site"), "{role}");
        for path in ["/reports?site=rival%2Frival-site", "/welcome?step=3&site=rival%2Frival-site"] {
            let page = person.get(path);
            assert!(
                page.status == 404 || (path.starts_with("/welcome") && role != "administrator"),
                "{role}, {path}: {page:?}"
            );
        }
    }
}

#[test]
fn the_first_run_ends_with_a_site_that_has_a_policy_a_token_and_its_edge() {
    let (world, chief) = world();
    let home = chief.get("/").expect(303);
    assert_eq!(home.header("location"), Some("/welcome"), "an empty fleet leads to the first run");
    let page = chief.get("/welcome").expect(200).body;
    assert!(page.contains("data-api=\"/api/v1/sites\"") && page.contains("first.preset"), "{page}");
    let site = |first: serde_json::Value| json!({ "tenant": "bank", "site": "b", "first": first });
    let wrong = site(json!({ "up": "2 Mb", "zone": "UTC", "preset": "nights", "share": 80 }));
    let problem = chief.post("/api/v1/sites", &wrong).expect(422).json();
    assert!(problem["detail"].as_str().unwrap().contains("Mbit/s"), "{problem}");
    assert_eq!(chief.get("/api/v1/sites").json()["total"], 0, "what cannot be is refused before anything is made");
    let good = site(json!({ "up": "2 Mbit/s", "zone": "Asia/Shanghai", "preset": "nights", "share": 80 }));
    let made = chief.post("/api/v1/sites", &good).expect(200).json();
    assert_eq!(made["what"], json!(["site bank/b is made", "it has its first policy"]));
    let again = chief.post("/api/v1/sites", &good).expect(200).json();
    assert_eq!(again["what"], json!(["site bank/b was there already", "the policy that it has stays"]));
    assert_eq!(chief.get("/api/v1/sites/bank/b/policy").json()["version"], 1);

    let second = chief.get("/welcome?step=2&site=bank%2Fb").expect(200).body;
    assert!(second.contains("data-once") && second.contains("sluice-edge enrol --token-file bank-b.token"), "{second}");
    let third = "/welcome?step=3&site=bank%2Fb";
    assert!(chief.get(third).expect(200).body.contains("never connected"));
    world.run(async {
        let edge = Edge::enrol(&world, "b").await;
        let _control = edge.control(&world).await;
        let shown = tokio::task::block_in_place(|| chief.get(third).expect(200).body);
        assert!(shown.contains("The edge is connected") && shown.contains("/schedule/bank/b"), "{shown}");
    });
    let viewer = browser(&chief, "looks", "viewer", None);
    let told = viewer.get("/welcome").expect(200).body;
    assert!(told.contains("added by an administrator") && !told.contains("/api/v1/sites\""), "{told}");
}

#[test]
fn an_approval_shows_what_would_change_and_to_whom_it_is_open() {
    let (world, chief) = world();
    seeded(&world);
    set_policy(&chief, "bank/b", (POLICY, "as agreed"), 0).expect(200);
    let (asks, agrees) = (browser(&chief, "li", "operator", None), browser(&chief, "owner", "approver", None));
    let more = POLICY.replace("\"80 %\"\n[pro", "\"90 %\"\n[pro");
    let waits = set_policy(&asks, "bank/b", (&more, "faster"), 1).expect(202).json();
    let number = waits["approval"].as_u64().unwrap();
    let path = format!("/api/v1/approvals/{number}");
    let proposal = agrees.get(&path).expect(200).json();
    assert_eq!((&proposal["approval"]["state"], &proposal["stale"]), (&json!("waiting"), &json!([])));
    assert!(proposal["documents"][0]["before"].as_str().unwrap().contains("80 %"), "{proposal}");
    assert_eq!(proposal["documents"][0]["after"], more);
    let (open, own) = (agrees.get("/approvals").expect(200).body, asks.get("/approvals").expect(200).body);
    assert!(open.contains("- cap = &quot;80 %&quot;") && open.contains("+ cap = &quot;90 %&quot;"), "{open}");
    assert!(open.contains(&format!("data-api=\"{path}/approve\"")));
    assert!(!own.contains("/approve\"") && own.contains("You asked for this"), "{own}");
    // What was looked at is not what is there any more.
    let less = POLICY.replace("\"80 %\"\n[pro", "\"70 %\"\n[pro");
    set_policy(&asks, "bank/b", (&less, "slower"), 1).expect(200);
    assert_eq!(agrees.get(&path).json()["stale"], json!(["b"]));
    let late = agrees.get("/approvals").expect(200).body;
    assert!(!late.contains("/approve\"") && late.contains("Nobody can agree"), "{late}");
    agrees.post(&format!("{path}/refuse"), &json!({ "reason": "ask again" })).expect(200);
    assert!(agrees.get("/approvals").body.contains("ask again"));
}

#[test]
fn a_workers_share_of_the_disk_is_kept_audited_and_for_administrators_of_the_whole_gateway() {
    let (mut world, chief) = world();
    let share = |client: &Client, worker: &str, share: u32| {
        client.ask(
            "PUT",
            &format!("/api/v1/workers/{worker}/tranquillity"),
            Some(json!({ "share": share }).to_string()),
            &[],
        )
    };
    let of = |client: &Client, name: &str| {
        let workers = client.get("/api/v1/workers").expect(200).json();
        let found = workers.as_array().unwrap().iter().find(|worker| worker["name"] == name).unwrap();
        found["share"].clone()
    };
    assert_eq!(
        (of(&chief, "scrub"), of(&chief, "collection"), of(&chief, "words")),
        (json!(10), json!(50), json!(null))
    );
    share(&chief, "scrub", 25).expect(200);
    assert_eq!(of(&chief, "scrub"), 25);
    for (worker, wrong, status) in [("scrub", 0, 422), ("scrub", 101, 422), ("words", 5, 404), ("nobody", 5, 404)] {
        share(&chief, worker, wrong).expect(status);
    }
    chief.post("/api/v1/tenants", &json!({ "name": "bank" })).expect(200);
    for (name, role, tenant) in [("o", "operator", None), ("t", "administrator", Some("bank"))] {
        let other = chief.account(&world, name, role, tenant);
        share(&other, "scrub", 90).expect(403);
    }
    let log = chief.get("/api/v1/audit?object=scrub").expect(200).json();
    let entries: Vec<_> =
        log.as_array().unwrap().iter().map(|entry| (entry["what"].clone(), entry["detail"].clone())).collect();
    assert!(entries.contains(&(json!("worker.tranquillity"), json!("25 % of the disk's time"))), "{entries:?}");
    world.restart();
    let mut again = Client::of(&world);
    again.signed(again.sign_in("chief", PASSWORD).expect(200));
    assert_eq!(of(&again, "scrub"), 25, "it is kept");
}

#[test]
fn a_report_is_a_page_for_paper_a_table_and_a_document() {
    let (world, chief) = world();
    seeded(&world);
    set_policy(&chief, "bank/b", (POLICY, "as agreed"), 0).expect(200);
    let page = chief.get("/reports?site=bank%2Fb").expect(200).body;
    for part in ["report.csv?month=", "as agreed", "signature", "Minutes over the limit"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let month = page.split("report.csv?month=").nth(1).unwrap().get(..7).unwrap();
    let csv = chief.get(&format!("/api/v1/sites/bank/b/report.csv?month={month}")).expect(200);
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(csv.header("content-disposition"), Some(format!("attachment; filename=\"b-{month}.csv\"").as_str()));
    let mut lines = csv.body.lines();
    assert!(lines.next().unwrap().ends_with(",bytes_allowed"));
    assert!(csv.body.lines().last().unwrap().starts_with("total,"));
    let wrong = chief.get("/reports?site=bank%2Fb&month=2026-13").expect(422).body;
    assert!(wrong.contains("is no month"), "{wrong}");
    let csv = chief.get("/api/v1/sites/bank/b/report.csv?month=x").expect(422);
    assert_eq!(csv.problem(), "invalid");
}
