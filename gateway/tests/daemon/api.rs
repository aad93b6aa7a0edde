//! The API: signing in, rights, edits that do not get lost, a second person, long work.

use crate::client::{Client, PASSWORD, POLICY, world, world_with};
use crate::edge::{Edge, Volume, replicate};
use crate::world::World;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(crate) fn invite(chief: &Client, tenant: &str, site: &str) {
    chief.post("/api/v1/tokens", &json!({ "tenant": tenant, "site": site })).expect(200);
}

pub(crate) fn set_policy(client: &Client, site: &str, document: &str, version: u64) -> crate::client::Answer {
    let tag = format!("\"v{version}\"");
    let headers: &[(&str, &str)] = if version == 0 { &[("if-none-match", "*")] } else { &[("if-match", &tag)] };
    let body = json!({ "document": document, "reason": "as agreed" }).to_string();
    client.ask("PUT", &format!("/api/v1/sites/{site}/policy"), Some(body), headers)
}

#[test]
fn the_first_account_needs_the_code_and_then_there_is_no_code() {
    let (world, chief) = world();
    assert!(!world.state().join("setup.code").exists());
    let body = json!({ "code": "x", "name": "second", "password": PASSWORD });
    assert_eq!(chief.stranger().post("/api/v1/setup", &body).expect(409).problem(), "conflict");
    assert_eq!(chief.get("/api/v1/session").expect(200).json()["role"], "administrator");
}

#[test]
fn a_session_is_new_at_each_sign_in_and_its_cookie_is_the_browsers_alone() {
    let (_world, chief) = world();
    // Somebody put a session of their choice, or one of their own, into the browser: it is not the one that is signed in.
    for planted in ["sluice=planted".to_owned(), chief.cookie.clone().unwrap()] {
        let browser = Client { cookie: Some(planted.clone()), ..chief.stranger() };
        let body = json!({ "name": "chief", "password": PASSWORD });
        let answer = browser.post("/api/v1/session", &body).expect(200);
        let cookie = answer.header("set-cookie").unwrap();
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && cookie.contains("Path=/"),
            "{cookie}"
        );
        assert!(!cookie.starts_with(&planted), "{cookie}");
        let old = Client { cookie: Some(planted), ..chief.stranger() };
        assert_eq!(old.get("/api/v1/session").expect(401).problem(), "signed-out");
    }
    let mut again = chief.stranger();
    again.signed(again.sign_in("chief", PASSWORD).expect(200));
    again.ask("DELETE", "/api/v1/session", None, &[]).expect(204);
    assert_eq!(
        again.get("/api/v1/session").expect(401).problem(),
        "signed-out",
        "the server forgot it, not only the browser"
    );
}

#[test]
fn a_page_elsewhere_can_change_nothing() {
    let (_world, chief) = world();
    let tenant = json!({ "name": "other" });
    for word in [None, Some(String::new()), Some("x".repeat(32)), chief.cookie.clone()] {
        let forged = Client { csrf: word, ..chief.clone() };
        assert_eq!(forged.post("/api/v1/tenants", &tenant).expect(403).problem(), "csrf");
        assert_eq!(forged.ask("DELETE", "/api/v1/session", None, &[]).expect(403).problem(), "csrf");
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let sent = chief.ask("POST", "/api/v1/tenants", None, &form);
    assert!(matches!(sent.status, 400 | 415), "a form of another page is no JSON: {sent:?}");
    chief.post("/api/v1/tenants", &tenant).expect(200);
    let names: Vec<Value> = chief.get("/api/v1/tenants").json().as_array().unwrap().clone();
    assert_eq!(names.len(), 1, "{names:?}");
    let rebound = chief.ask("GET", "/api/v1/sites", None, &[("host", "evil.example")]);
    assert_eq!(rebound.status, 421, "{rebound:?}");
}

#[test]
fn guessing_is_slowed_down_for_a_name_and_says_nothing_of_who_there_is() {
    let (_world, chief) = world();
    let (wrong, nobody) = (chief.sign_in("chief", "wrong password"), chief.sign_in("nobody", "wrong password"));
    assert_eq!((wrong.status, nobody.status), (401, 401));
    assert_eq!(wrong.body, nobody.body);
    for _ in 0..4 {
        chief.sign_in("chief", "wrong password");
    }
    let throttled = chief.sign_in("chief", PASSWORD).expect(429);
    assert_eq!((throttled.problem().as_str(), throttled.header("retry-after")), ("throttled", Some("12")));
    chief.get("/api/v1/session").expect(200);
    let large = "x".repeat(3 << 20);
    let refused = chief.post("/api/v1/tenants", &json!({ "name": large }));
    assert_eq!(refused.status, 413, "{}", refused.body);
}

#[test]
fn a_given_password_has_to_be_changed_first() {
    let (_world, chief) = world();
    let body = json!({ "name": "li", "role": "operator" });
    let given = chief.post("/api/v1/accounts", &body).expect(200).json()["password"].as_str().unwrap().to_owned();
    let mut li = chief.stranger();
    li.signed(li.sign_in("li", &given).expect(200));
    assert_eq!(li.get("/api/v1/sites").expect(403).problem(), "password");
    assert_eq!(li.get("/").header("location"), Some("/password"));
    let change = |new: &str| json!({ "present": given, "new": new }).to_string();
    let weak = li.ask("PUT", "/api/v1/session/password", Some(change("password1234")), &[]);
    assert_eq!(weak.expect(422).problem(), "invalid");
    let changed = li.ask("PUT", "/api/v1/session/password", Some(change(PASSWORD)), &[]);
    let mut after = li.clone();
    after.signed(changed.expect(200));
    after.get("/api/v1/sites").expect(200);
    assert_eq!(li.get("/api/v1/session").expect(401).problem(), "signed-out", "sessions of before are over");
    // What changes an account ends its sessions at once.
    let disable = json!({ "disabled": true }).to_string();
    chief.ask("PATCH", "/api/v1/accounts/li", Some(disable), &[]).expect(200);
    after.get("/api/v1/sites").expect(401);
}

/// A body that each operation takes, and what its path is about.
fn body_of(operation: &str) -> Option<Value> {
    let why = json!({ "reason": "as agreed" });
    Some(match operation {
        "POST /session" | "POST /setup" | "PUT /session/password" => return None,
        "POST /tokens" => json!({ "tenant": "bank", "site": "b2" }),
        "PUT /sites/{tenant}/{site}/policy" => json!({ "document": POLICY, "reason": "r" }),
        "POST /policies" | "POST /policies/schedule" => {
            json!({ "tenant": "{tenant}", "sites": ["b1"], "document": POLICY, "reason": "r" })
        }
        "POST /policy/draft" => json!({ "document": POLICY }),
        "POST /policy/holidays" => json!({ "calendar": "BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:x\nEND:VCALENDAR\n" }),
        "POST /policy/preview" => json!({ "document": POLICY }),
        "POST /sites/{tenant}/{site}/overrides" => json!({ "bend": "pause", "seconds": 60, "reason": "r" }),
        "POST /sites/{tenant}/{site}/holidays" => {
            json!({ "calendar": "BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:x\nEND:VCALENDAR\n", "reason": "r" })
        }
        "POST /volumes/{tenant}/{site}/{volume}/verify" => json!({ "generation": "latest" }),
        "POST /volumes/{tenant}/{site}/{volume}/rehydrate" => json!({ "generation": "latest", "to": "/nowhere/x" }),
        "POST /volumes/{tenant}/{site}/{volume}/plan" => json!({ "generation": "latest", "target": "vault" }),
        "POST /targets" => {
            json!({ "tenant": "bank", "name": "new", "settings": { "kind": "raw", "folder": "/nowhere/x" } })
        }
        "POST /exports" => json!({ "volume": "{tenant}/b1/v" }),
        "POST /domains" => json!({ "tenant": "{tenant}", "name": "m", "target": "vault", "volumes": ["b1/v"] }),
        "POST /targets/{tenant}/{target}/orders" => json!({ "site": "b1" }),
        "PUT /targets/{tenant}/{target}/orders/{site}/{volume}" => json!({ "paused": true }),
        "POST /sites" => json!({ "tenant": "bank", "site": "b9" }),
        "PUT /workers/{name}/tranquillity" => json!({ "share": 10 }),
        "POST /jobs" => json!({ "job": "gc" }),
        "POST /accounts" => json!({ "name": "new", "role": "viewer", "tenant": "bank" }),
        "PATCH /accounts/{name}" => json!({ "disabled": false }),
        "POST /accounts/{name}/tokens" => json!({ "label": "l", "role": "viewer" }),
        "POST /retention/locks/{number}/extend" => json!({ "days": 2, "reason": "r" }),
        "POST /retention/locks" => json!({ "tenant": "bank", "days": 1, "reason": "r" }),
        "POST /rollouts" => json!({ "release": "1.0", "first": ["b1"], "reason": "r" }),
        "POST /tenants" => json!({ "name": "third" }),
        "POST /authorities" => json!({ "do": "use", "number": 1 }),
        _ if operation.starts_with("DELETE") || operation.starts_with("PUT") || operation.starts_with("POST") => why,
        _ => return None,
    })
}

#[test]
fn each_role_may_do_what_its_rights_say_for_its_tenant_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (world, chief) = world_with(vec![folder.path().to_owned()]);
    for tenant in ["bank", "rival"] {
        chief.post("/api/v1/tenants", &json!({ "name": tenant })).expect(200);
        invite(&chief, tenant, "b1");
        set_policy(&chief, &format!("{tenant}/b1"), POLICY, 0).expect(200);
        let settings = json!({ "kind": "raw", "folder": folder.path().join(tenant) });
        chief.post("/api/v1/targets", &json!({ "tenant": tenant, "name": "vault", "settings": settings })).expect(200);
    }
    chief.account(&world, "somebody", "viewer", Some("bank"));
    chief.account(&world, "rivals", "viewer", Some("rival"));
    let document: Value = chief.get("/api/v1/openapi.json").expect(200).json();
    let rights = |role: &str| match role {
        "viewer" => vec!["see"],
        "operator" => vec!["see", "operate"],
        "approver" => vec!["see", "approve"],
        _ => vec!["see", "operate", "administer"],
    };
    let mut asked = 0;
    for role in ["viewer", "operator", "approver", "administrator"] {
        let caller = chief.account(&world, &format!("the-{role}"), role, Some("bank"));
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = format!("{} {path}", method.to_uppercase());
                let Some(right) = operation["security"][0]["session"][0].as_str() else { continue };
                // Sessions only: a token has none.
                let by_token = operation["security"].as_array().unwrap().iter().any(|one| !one["token"].is_null());
                if !by_token || name.ends_with("events") {
                    continue;
                }
                for (tenant, account) in [("bank", "somebody"), ("rival", "rivals")] {
                    let filled = path.replace("{tenant}", tenant).replace("{site}", "b1").replace("{volume}", "v");
                    // Everybody has tokens of their own; those of others are for whoever manages them.
                    let own = format!("the-{role}");
                    let account = if path.contains("/tokens") && tenant == "bank" { own.as_str() } else { account };
                    let filled = filled.replace("{name}", if path.contains("workers") { "scrub" } else { account });
                    let filled = filled
                        .replace("{target}", "vault")
                        .replace("{export}", "disk")
                        .replace("{domain}", "machine")
                        .replace("{run}", &"0".repeat(32))
                        .replace("{number}", "1")
                        .replace("{id}", "1")
                        .replace("{version}", "1");
                    let query = match path.rsplit('/').next() {
                        Some("report" | "report.csv") => "?month=2026-01",
                        Some("compare") => "?from=1&to=2",
                        _ => "",
                    };
                    let body = body_of(&name).map(|body| body.to_string().replace("{tenant}", tenant));
                    let has_body = !operation["requestBody"].is_null();
                    assert!(!has_body || body.is_some(), "say in `body_of` what {name} takes");
                    let body = body.filter(|_| has_body).map(|body| match tenant {
                        "rival" => body.replace("\"bank\"", "\"rival\""),
                        _ => body,
                    });
                    let path = format!("/api/v1{filled}{query}");
                    // A name that the caller wrote may be repeated to them.
                    let named = body.as_ref().is_some_and(|body| body.contains(&format!("\"{tenant}/")));
                    let answer = caller.ask(&method.to_uppercase(), &path, body, &[("if-match", "\"v1\"")]);
                    asked += 1;
                    let said = format!("{role} of bank, {name} of {tenant}: {answer:?}");
                    assert!(answer.status < 500 && answer.status != 401, "{said}");
                    let about_tenant = path.contains(tenant) || path.contains(account) || named;
                    match (rights(role).contains(&right), tenant, about_tenant) {
                        // Who has no right is told so, or that there is nothing: never anything of what there is.
                        (false, ..) => assert!(matches!(answer.status, 403 | 404), "{said}"),
                        (true, "rival", true) => assert!(matches!(answer.status, 403 | 404), "{said}"),
                        (true, "bank", true) => assert!(answer.status != 403, "{said}"),
                        // Of the gateway itself, or of whatever the caller sees.
                        _ => {}
                    }
                    assert!(tenant == "bank" || about_tenant || !answer.body.contains("rival/"), "{said}");
                }
            }
        }
    }
    assert!(asked > 300, "{asked}");
    // Nothing came of what was refused.
    assert_eq!(chief.get("/api/v1/sites/rival/b1/policy").json()["version"], 1);
}

#[test]
fn nobody_signs_in_by_nothing_and_a_token_needs_no_word() {
    let (world, chief) = world();
    let document: Value = chief.get("/api/v1/openapi.json").json();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(_, it)| !it["security"].is_null()) {
            for client in [chief.stranger(), Client { token: Some("sluice_00_aa".into()), ..chief.stranger() }] {
                let answer = client.ask(
                    &method.to_uppercase(),
                    &format!("/api/v1{}", path.replace(['{', '}'], "")),
                    Some("{}".into()),
                    &[],
                );
                assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
                asked += 1;
            }
            assert!(!operation["security"].as_array().unwrap().is_empty());
        }
    }
    assert!(asked > 80, "{asked}");
    let token = chief.account(&world, "program", "administrator", None);
    token.post("/api/v1/tenants", &json!({ "name": "by-token" })).expect(200);
}

#[test]
fn edits_do_not_get_lost_and_a_post_that_comes_again_is_done_once() {
    let (_world, chief) = world();
    invite(&chief, "bank", "b1");
    let path = "/api/v1/sites/bank/b1/policy";
    assert_eq!(chief.get(path).expect(404).problem(), "missing");
    let body = json!({ "document": POLICY, "reason": "r" }).to_string();
    assert_eq!(chief.ask("PUT", path, Some(body), &[]).expect(428).problem(), "precondition");
    set_policy(&chief, "bank/b1", POLICY, 0).expect(200);
    assert_eq!(set_policy(&chief, "bank/b1", POLICY, 0).expect(412).problem(), "stale");
    assert_eq!(chief.get(path).expect(200).header("etag"), Some("\"v1\""));
    set_policy(&chief, "bank/b1", &POLICY.replace("07:30", "07:00"), 1).expect(200);
    let stale = set_policy(&chief, "bank/b1", POLICY, 1).expect(412);
    assert!(stale.json()["detail"].as_str().unwrap().contains("at version 2 by now"), "{stale:?}");
    let wrong = set_policy(&chief, "bank/b1", &POLICY.replace("2 Mbit/s", "2 MB"), 2).expect(422).json();
    assert_eq!((&wrong["line"], &wrong["field"]), (&json!(3), &json!("up")), "{wrong}");

    let bend = json!({ "bend": "boost", "rate": "1 Mbit/s", "seconds": 3600, "reason": "r" }).to_string();
    let overrides = "/api/v1/sites/bank/b1/overrides";
    let key = [("idempotency-key", "one")];
    let first = chief.ask("POST", overrides, Some(bend.clone()), &key).expect(200);
    let again = chief.ask("POST", overrides, Some(bend), &key).expect(200);
    assert_eq!(first.body, again.body);
    assert_eq!(chief.get(overrides).json()["overrides"].as_array().unwrap().len(), 1);
    let other = json!({ "bend": "pause", "seconds": 3600, "reason": "r" }).to_string();
    assert_eq!(chief.ask("POST", overrides, Some(other), &key).expect(422).problem(), "invalid");
}

#[test]
fn what_the_owner_of_a_line_has_to_agree_to_waits_for_a_second_person() {
    let (world, chief) = world();
    invite(&chief, "bank", "b1");
    set_policy(&chief, "bank/b1", POLICY, 0).expect(200);
    let operator = chief.account(&world, "li", "operator", Some("bank"));
    let more = POLICY.replace("\"80 %\"\n[pro", "\"90 %\"\n[pro");
    // As long as nobody speaks for the owner, nobody is asked.
    set_policy(&operator, "bank/b1", &more, 1).expect(200);
    set_policy(&operator, "bank/b1", POLICY, 2).expect(200);
    let owner = chief.account(&world, "owner", "approver", Some("bank"));
    let waits = set_policy(&operator, "bank/b1", &more, 3).expect(202).json();
    assert_eq!(waits["state"], "waiting");
    assert_eq!(waits["causes"][0], "the cap towards the gateway rises from 1.6 Mbit/s to 1.8 Mbit/s");
    assert_eq!(chief.get("/api/v1/sites/bank/b1/policy").json()["version"], 3, "nothing is done yet");
    let number = waits["approval"].as_u64().unwrap();
    let listed = owner.get("/api/v1/approvals").json();
    assert_eq!((&listed["items"][0]["number"], &listed["items"][0]["by"]), (&json!(number), &json!("li")));
    let approve = |who: &Client, number: u64| {
        who.post(&format!("/api/v1/approvals/{number}/approve"), &json!({ "reason": "agreed by telephone" }))
    };
    for cannot in [&operator, &chief] {
        assert_eq!(approve(cannot, number).expect(403).problem(), "forbidden");
    }
    assert_eq!(set_policy(&owner, "bank/b1", &more, 3).expect(403).problem(), "forbidden", "who agrees does not steer");
    approve(&owner, number).expect(200);
    let policy = chief.get("/api/v1/sites/bank/b1/policy").json();
    assert_eq!((&policy["version"], &policy["actor"]), (&json!(4), &json!("li")));
    assert_eq!(approve(&owner, number).expect(409).problem(), "conflict", "once");

    // Less is not asked for, and what was looked at must still hold.
    set_policy(&operator, "bank/b1", POLICY, 4).expect(200);
    let pierce = json!({ "bend": "boost", "rate": "1 Mbit/s", "pierce": true, "seconds": 3600, "reason": "r" });
    let waits = operator.post("/api/v1/sites/bank/b1/overrides", &pierce).expect(202).json();
    assert_eq!(waits["causes"], json!(["data may be sent in blackouts"]));
    let hold = json!({ "reason": "audit" }).to_string();
    operator.ask("PUT", "/api/v1/sites/bank/b1/hold", Some(hold), &[]).expect(200);
    let number = waits["approval"].as_u64().unwrap();
    assert_eq!(approve(&owner, number).expect(412).problem(), "stale");
    owner.post(&format!("/api/v1/approvals/{number}/refuse"), &json!({ "reason": "too late" })).expect(200);
    let all = owner.get("/api/v1/approvals?all=true").json();
    let states: Vec<&str> = all["items"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["refused", "approved"]);
}

#[test]
fn everything_that_was_done_or_refused_stands_in_the_audit_log_and_the_chain_is_whole() {
    let (world, chief) = world();
    invite(&chief, "bank", "b1");
    set_policy(&chief, "bank/b1", POLICY, 0).expect(200);
    let viewer = chief.account(&world, "wang", "viewer", Some("bank"));
    viewer.ask("PUT", "/api/v1/sites/bank/b1/hold", Some(json!({ "reason": "r" }).to_string()), &[]).expect(403);
    chief.sign_in("chief", "wrong password");
    let entries = chief.get("/api/v1/audit?most=500").expect(200).json();
    let said: BTreeSet<String> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            format!(
                "{} {} {} {}",
                entry["actor"].as_str().unwrap(),
                entry["what"].as_str().unwrap(),
                entry["object"].as_str().unwrap(),
                entry["outcome"].as_str().unwrap()
            )
        })
        .collect();
    for wanted in [
        "chief account.first chief done",
        "chief site.token b1 done",
        "chief policy.set b1 done",
        "chief account.add wang done",
        "wang forbidden  refused",
        "chief session.sign-in chief failed",
    ] {
        assert!(said.contains(wanted), "{wanted} in {said:?}");
    }
    let text = chief.get("/api/v1/audit?most=500").body + &chief.get("/api/v1/audit/export").body;
    assert!(!text.contains(PASSWORD) && !text.contains("sluice_"), "no secret is written down");
    let checked = chief.get("/api/v1/audit/check").expect(200).json();
    assert_eq!(checked["entries"].as_u64().unwrap() as usize, entries.as_array().unwrap().len());
    let lines = chief.get("/api/v1/audit/export?format=syslog&after=1").expect(200).body;
    assert!(lines.lines().next().unwrap().contains(" sluice-gateway - ") && lines.contains("number=\"2\""), "{lines}");
    assert!(!lines.contains("number=\"1\""));
    viewer.get("/api/v1/audit").expect(403);
}

#[test]
fn pages_are_served_by_tls_with_the_gateways_authority_and_cookies_stay_there() {
    let (mut world, chief) = world();
    drop(chief);
    world.stop();
    world.config.web.as_mut().unwrap().tls = sluice_gateway::config::WebTls::Own;
    world.start();
    let address = Client::of(&world).address.unwrap();
    let authority = std::fs::read(world.state().join("ca/1.crt")).unwrap();
    let ask = |name: &'static str, trusted: bool| {
        let mut roots = rustls::RootCertStore::empty();
        if trusted {
            roots.add(authority.clone().into()).unwrap();
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        world.run(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let stream = tokio::net::TcpStream::connect(address).await?;
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
            let mut stream = connector.connect(name.try_into().unwrap(), stream).await?;
            let body = json!({ "name": "chief", "password": PASSWORD }).to_string();
            let head = format!("POST /api/v1/session HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await?;
            let mut answer = Vec::new();
            // Not every end of a connection is told by TLS.
            let _cut = stream.read_to_end(&mut answer).await;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
        })
    };
    let answer = ask("gw.example", true).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("set-cookie: __Host-sluice=") && answer.contains("Secure"), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age="), "{answer}");
    assert!(ask("gw.example", false).is_err(), "an authority that is not trusted");
    assert!(ask("other.example", true).is_err(), "a name that the certificate is not for");
}

fn seeded(world: &World, name: &str) -> Volume {
    let mut volume = Volume::new(1, 3 << 20);
    world.run(async {
        let edge = Edge::enrol(world, "b").await;
        let mut control = edge.control(world).await;
        let data = edge.data(world, &control).await;
        control.announce(volume.lineage, name).await;
        replicate(&volume, &mut control, &data).await;
        volume.scribble(7, 3);
        replicate(&volume, &mut control, &data).await;
    });
    volume
}

#[test]
fn generations_are_compared_verified_and_rehydrated_with_progress() {
    let targets = tempfile::tempdir().unwrap();
    let (world, chief) = world_with(vec![targets.path().to_owned()]);
    let volume = seeded(&world, "v");
    let of = "/api/v1/volumes/bank/b/v";
    let generations = chief.get(&format!("{of}/generations")).expect(200).json();
    let root = blake3::hash(&volume.bytes).to_string();
    assert_eq!((&generations["total"], &generations["items"][0]["root"]), (&json!(2), &json!(root)));
    let numbers: Vec<u64> =
        generations["items"].as_array().unwrap().iter().map(|one| one["number"].as_u64().unwrap()).collect();
    let compared = chief.get(&format!("{of}/compare?from={}&to={}", numbers[1], numbers[0])).expect(200).json();
    assert_eq!((&compared["data"], &compared["zeroes"]), (&json!(4096), &json!(0)));
    let backwards = chief.get(&format!("{of}/compare?from={}&to={}", numbers[0], numbers[1])).expect(200).json();
    assert_eq!(compared, backwards);

    let begun = chief.post(&format!("{of}/verify"), &json!({ "generation": "latest" })).expect(202);
    let place = begun.header("location").unwrap().to_owned();
    let said = chief.events(&format!("{place}/events"), &["\"state\":\"done\""]);
    assert!(said[0].contains(&root), "{said:?}");
    let to = targets.path().join("image");
    let body = json!({ "generation": numbers[0].to_string(), "to": to });
    let begun = chief.post(&format!("{of}/rehydrate"), &body).expect(202);
    chief.events(&format!("{}/events", begun.header("location").unwrap()), &["\"state\":\"done\""]);
    assert!(std::fs::read(&to).unwrap() == volume.bytes);
    for outside in ["/etc/passwd", "image", &format!("{}/../x", targets.path().display())] {
        let body = json!({ "generation": "latest", "to": outside });
        assert_eq!(chief.post(&format!("{of}/rehydrate"), &body).expect(403).problem(), "forbidden", "{outside}");
    }
    let body = json!({ "generation": "99" });
    assert_eq!(chief.post(&format!("{of}/verify"), &body).expect(404).problem(), "missing");
    assert_eq!(chief.get("/api/v1/jobs").json()["total"], 2);
}

#[test]
fn events_say_which_sites_look_different() {
    let (_world, chief) = world();
    invite(&chief, "bank", "b1");
    let follower = chief.clone();
    let followed = std::thread::spawn(move || follower.events("/api/v1/events", &["event: sites", "\"b1\""]));
    // Whoever begins to follow knows what there is; this comes after it, each time differently, until it is heard.
    let mut version = 0;
    while !followed.is_finished() {
        let document = POLICY.replace("07:30", if version % 2 == 0 { "07:00" } else { "06:00" });
        set_policy(&chief, "bank/b1", &document, version).expect(200);
        version += 1;
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    assert_eq!(followed.join().unwrap().len(), 2);
}

#[test]
fn pages_and_answers_carry_the_headers_and_names_are_text() {
    let (world, chief) = world();
    let hostile = "<img src=x onerror=alert(1)>\"'&";
    seeded(&world, "v"); // an edge that offers another name than letters, digits, `-`, `_` and `.` is refused
    set_policy(&chief, "bank/b", POLICY, 0).expect(200);
    let bend = json!({ "bend": "pause", "seconds": 3600, "reason": hostile });
    chief.post("/api/v1/sites/bank/b/overrides", &bend).expect(200);
    let hold = json!({ "reason": hostile }).to_string();
    chief.ask("PUT", "/api/v1/sites/bank/b/hold", Some(hold), &[]).expect(200);
    for language in ["en", "zh-CN"] {
        for path in [
            "/",
            "/sites/bank/b",
            "/volumes/bank/b/v",
            "/volumes/bank/b/%3Cscript%3Ealert(1)%3C",
            "/nowhere",
            "/sites/bank/nobody",
            "/password",
        ] {
            let page = chief.ask("GET", path, None, &[("accept-language", language)]);
            assert!(matches!(page.status, 200 | 404), "{path}: {page:?}");
            let raw = ["<script>alert", "<img src=x", "onerror=alert(1)>\"'"];
            assert!(raw.iter().all(|raw| !page.body.contains(raw)), "{path}: {}", page.body);
            assert!(page.body.contains(if language == "en" { "lang=\"en\"" } else { "lang=\"zh-Hans\"" }), "{path}");
            for (name, part) in [
                ("content-security-policy", "default-src 'none'; script-src 'self'; style-src 'self'"),
                ("x-content-type-options", "nosniff"),
                ("cache-control", "no-store"),
                ("referrer-policy", "same-origin"),
            ] {
                assert!(
                    page.header(name).is_some_and(|value| value.contains(part)),
                    "{path}: {name}: {:?}",
                    page.header(name)
                );
            }
            assert!(!page.body.contains("style=\"") && !page.body.contains("onclick"), "{path} has inline code");
        }
    }
    assert!(chief.get("/sites/bank/b").body.contains("&lt;img src=x onerror=alert(1)&gt;"));
    for path in
        ["/assets/../../etc/passwd", "/assets/%2e%2e/%2e%2e/etc/passwd", "/help/..%2f..%2fetc%2fpasswd", "//etc/passwd"]
    {
        let answer = chief.get(path);
        assert!(matches!(answer.status, 404 | 400 | 303) && !answer.body.contains("root:"), "{path}: {answer:?}");
    }
    let out = chief.stranger().get("/sites/bank/b");
    assert_eq!((out.status, out.header("location")), (303, Some("/sign-in?back=%2Fsites%2Fbank%2Fb")));
}
