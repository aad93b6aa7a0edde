//! The page of a real daemon, asked as a browser would.

use super::*;
use crate::config::PageConfig;
use crate::enrol::Step;
use crate::identity::{Credentials, Identity};
use crate::line::{Bent, Cause, Decided};
use crate::link::{DownCause, LinkState};
use crate::page::pin;
use crate::page::work::{Enrolling, Testing};
use crate::status::Doing;
use crate::{Config, Daemon};
use axum::body::{Body, to_bytes};
use axum::http::Request;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use tower::ServiceExt;

const HOST: &str = "127.0.0.1:9472";
/// Every route that does something; each needs a session and the session's own value.
const POSTS: [&str; 8] = ["/logout", "/pause", "/boost", "/resume", "/capture", "/volumes", "/line-test", "/enrol"];
/// Every route that shows something.
const GETS: [&str; 3] = ["/", "/diagnostics", "/nowhere"];

struct World {
    dir: tempfile::TempDir,
    daemon: Daemon,
    app: Arc<App>,
    router: Router,
    pin: String,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn location(&self) -> &str {
        self.headers.get(header::LOCATION).map_or("", |value| value.to_str().unwrap())
    }

    /// What the cookie holds that was set.
    fn cookie(&self) -> Option<String> {
        let set = self.headers.get(header::SET_COOKIE)?.to_str().unwrap();
        Some(set.split(';').next().unwrap().to_owned())
    }
}

fn config(dir: &Path) -> Config {
    let text =
        "state = \"state\"\nmemory = \"384 MiB\"\npage = \"off\"\nrate = \"1 Mbit/s\"\n[http]\nlisten = \"off\"\n";
    Config::parse(text, &dir.join("edge.toml")).unwrap()
}

fn page() -> PageConfig {
    PageConfig { listen: HOST.parse().unwrap(), names: vec!["box.branch.example".into()] }
}

/// The identity of a site whose gateway does not answer.
fn enrolled(state: &Path) {
    use wire::identity::{Authority, Bearer, Key};
    let year_2100 = dedupe::UnixMillis(4_102_444_800_000);
    let (authority, key) = (Authority::generate("test", year_2100).unwrap(), Key::generate().unwrap());
    let bearer = Bearer { tenant: dedupe::TenantId([1; 16]), site: dedupe::SiteId([2; 16]) };
    let issued = authority.sign_edge(&key.request().unwrap(), bearer, year_2100).unwrap();
    let credentials = Credentials {
        site: "Branch 17".into(),
        certificate: issued.certificate,
        authorities: vec![authority.certificate().to_vec()],
        addresses: vec!["127.0.0.1:9".into()],
        received_at: dedupe::UnixMillis(0),
    };
    Identity::store(state, &key, &credentials).unwrap();
}

impl World {
    /// An edge that was enrolled, and whose gateway does not answer.
    async fn start() -> World {
        let world = World::begin(true).await;
        let mut states = world.daemon.link().states();
        states.wait_for(|state| *state != LinkState::Unenrolled).await.unwrap();
        world
    }

    async fn new_box() -> World {
        World::begin(false).await
    }

    async fn begin(is_enrolled: bool) -> World {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let pin = pin::make(&config.state).unwrap().to_string();
        if is_enrolled {
            enrolled(&config.state);
        }
        let daemon = Daemon::start(config).await.unwrap();
        let app = App::new(daemon.clone(), &page());
        World { dir, daemon, router: router(app.clone()), app, pin }
    }

    async fn ask(&self, request: Request<Body>) -> Answer {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = to_bytes(answer.into_body(), 16 << 20).await.unwrap();
        Answer { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn get(&self, path: &str, cookie: &str) -> Answer {
        self.ask(Request::get(path).header("host", HOST).header("cookie", cookie).body(Body::empty()).unwrap()).await
    }

    async fn get_in(&self, path: &str, cookie: &str, language: &str) -> Answer {
        let request =
            Request::get(path).header("host", HOST).header("cookie", cookie).header("accept-language", language);
        self.ask(request.body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, cookie: &str, fields: &[(&str, &str)]) -> Answer {
        let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let request = Request::post(path)
            .header("host", HOST)
            .header("origin", format!("http://{HOST}"))
            .header("cookie", cookie)
            .header("content-type", "application/x-www-form-urlencoded");
        self.ask(request.body(Body::from(body.join("&"))).unwrap()).await
    }

    /// Logs in; what the cookie holds, and what forms carry.
    async fn enter(&self) -> (String, String) {
        let answer = self.post("/login", "", &[("pin", &self.pin)]).await;
        let cookie = answer.cookie().expect("a session");
        let csrf = csrf_of(&self.get("/", &cookie).await.text);
        (cookie, csrf)
    }
}

fn csrf_of(page: &str) -> String {
    let at = page.find("name=\"csrf\" value=\"").expect("a form") + 19;
    page[at..at + 64].to_owned()
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_pin_nothing_is_shown_and_nothing_is_done() {
    let world = World::start().await;
    for cookie in ["", "sluice-session=", "sluice-session=0000", "__Host-sluice=0000"] {
        for path in GETS {
            let answer = world.get(path, cookie).await;
            assert_eq!((answer.status, answer.location()), (StatusCode::SEE_OTHER, "/login"), "{path}");
            assert!(answer.text.is_empty());
        }
        for path in POSTS {
            let fields = [("csrf", ""), ("lasts", "30m"), ("actor", "a"), ("reason", "b")];
            let answer = world.post(path, cookie, &fields).await;
            assert_eq!((answer.status, answer.location()), (StatusCode::SEE_OTHER, "/login"), "{path}");
        }
    }
    assert!(world.daemon.link().line().bent_here().is_none(), "nothing was paused");
    let login = world.get("/login", "").await;
    assert!(login.text.contains("name=\"pin\"") && !login.text.contains("Diagnostics"), "{}", login.text);
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_without_a_pin_says_how_to_make_one_and_nothing_else() {
    let world = World::start().await;
    std::fs::remove_file(world.daemon.config().state.join("page-pin.json")).unwrap();
    let answer = world.get("/login", "").await;
    assert!(answer.text.contains("sluice-edge page") && !answer.text.contains("<form"), "{}", answer.text);
    let chinese = world.get_in("/login", "", "zh-CN").await;
    assert!(chinese.text.contains("本设备尚未设置 PIN 码"));
    let tried = world.post("/login", "", &[("pin", "00000000")]).await;
    assert_eq!((tried.location(), tried.cookie()), ("/login", None));
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_pins_become_slow_and_a_new_pin_ends_all_sessions() {
    let world = World::start().await;
    let (cookie, _) = world.enter().await;
    let wrong = if world.pin == "00000000" { "11111111" } else { "00000000" };
    let mut last = StatusCode::OK;
    for _ in 0..6 {
        let answer = world.post("/login", "", &[("pin", wrong)]).await;
        assert!(answer.cookie().is_none());
        last = answer.status;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    let answer = world.post("/login", "", &[("pin", &world.pin)]).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "the right one has to wait too");
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(world.get("/", &cookie).await.status, StatusCode::OK, "who is in stays in");
    let new = pin::make(&world.daemon.config().state).unwrap();
    assert_eq!(world.get("/", &cookie).await.location(), "/login", "until the PIN is another");
    let answer = world.post("/login", "", &[("pin", &new)]).await;
    assert_eq!(answer.location(), "/", "tries at another PIN begin anew");
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_of_elsewhere_do_nothing() {
    let world = World::start().await;
    let (cookie, csrf) = world.enter().await;
    let (_, other) = world.enter().await;
    assert_ne!(csrf, other);
    let long = "a".repeat(csrf.len());
    for path in POSTS {
        for wrong in ["", "0", other.as_str(), long.as_str()] {
            let fields =
                [("csrf", wrong), ("lasts", "30m"), ("actor", "a"), ("reason", "b"), ("volume", "x"), ("token", "x")];
            assert_eq!(world.post(path, &cookie, &fields).await.status, StatusCode::FORBIDDEN, "{path} {wrong}");
        }
        let request = Request::post(path)
            .header("host", HOST)
            .header("cookie", &cookie)
            .header("origin", "http://elsewhere.example");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = world.ask(request.body(Body::from(format!("csrf={csrf}"))).unwrap()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}: a page from elsewhere that knows the value");
        let json = Request::post(path)
            .header("host", HOST)
            .header("cookie", &cookie)
            .header("content-type", "application/json");
        let answer = world.ask(json.body(Body::from(format!("{{\"csrf\":\"{csrf}\"}}"))).unwrap()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}: no form");
    }
    let huge = "a".repeat(MOST_BODY + 1);
    let answer = world.post("/pause", &cookie, &[("csrf", &csrf), ("reason", &huge)]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(world.daemon.link().line().bent_here().is_none(), "nothing was done");
    assert_eq!(world.get("/", &cookie).await.status, StatusCode::OK, "nobody was logged out");
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_our_own_names_are_answered() {
    let world = World::start().await;
    let (cookie, _) = world.enter().await;
    for host in ["elsewhere.example", "elsewhere.example:9472", "127.0.0.1.elsewhere.example", ""] {
        for path in ["/", "/login", "/diagnostics", view::assets()[0].path.as_str()] {
            let request = Request::get(path).header("host", host).header("cookie", &cookie);
            let answer = world.ask(request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{host} {path}");
        }
    }
    let request = Request::get("/").header("host", "Box.branch.example:9472").header("cookie", &cookie);
    assert_eq!(world.ask(request.body(Body::empty()).unwrap()).await.status, StatusCode::OK);
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_another_one_after_each_login_and_is_kept_from_scripts() {
    let world = World::start().await;
    let planted = "sluice-session=1111111111111111111111111111111111111111111111111111111111111111";
    let first = world.post("/login", planted, &[("pin", &world.pin)]).await;
    let set = first.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict") && set.contains("Path=/"), "{set}");
    let cookie = first.cookie().unwrap();
    assert!(cookie != planted && cookie.len() == planted.len());
    assert_eq!(world.get("/", planted).await.location(), "/login", "what was planted is no session");
    let again = world.post("/login", &cookie, &[("pin", &world.pin)]).await.cookie().unwrap();
    assert_ne!(again, cookie);
    assert_eq!(world.get("/", &cookie).await.location(), "/login", "the one before has ended");
    let csrf = csrf_of(&world.get("/", &again).await.text);
    let out = world.post("/logout", &again, &[("csrf", &csrf)]).await;
    assert_eq!(out.location(), "/login");
    assert_eq!(world.get("/", &again).await.location(), "/login");
    let tls = App::new(world.daemon.clone(), &PageConfig { listen: "192.0.2.7:443".parse().unwrap(), names: vec![] });
    let cookie = tls.session_cookie("x".into()).to_string();
    assert!(cookie.starts_with("__Host-sluice=x") && cookie.contains("Secure"), "{cookie}");
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_the_line_until_it_is_ended() {
    let world = World::start().await;
    let (cookie, csrf) = world.enter().await;
    let open = || world.daemon.link().line().standing().open;
    assert!(open(), "by the configuration");
    let fields = |lasts: &'static str| {
        [("csrf", csrf.clone()), ("lasts", lasts.into()), ("actor", "Li".into()), ("reason", "stocktaking".into())]
    };
    let post = async |path: &str, fields: &[(&str, String)]| {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        world.post(path, &cookie, &fields).await
    };
    assert_eq!(post("/pause", &fields("2h")).await.location(), "/#pause");
    assert!(!open(), "{:?}", world.daemon.link().line().standing());
    let page = world.get("/", &cookie).await.text;
    assert!(
        page.contains("Paused.") && page.contains("Paused at this box") && page.contains("Li: stocktaking"),
        "{page}"
    );
    assert!(!world.get("/", &cookie).await.text.contains("Paused.</p>"), "what came of it is said once");
    post("/pause", &fields("never")).await;
    assert!(world.get("/", &cookie).await.text.contains("Choose for how long"));
    post(
        "/boost",
        &[
            ("csrf", csrf.clone()),
            ("lasts", "1h".into()),
            ("rate", "1000000".into()),
            ("actor", "Li".into()),
            ("reason", "x".into()),
        ],
    )
    .await;
    assert!(world.get("/", &cookie).await.text.contains("does not let this site boost"));
    post("/resume", &[("csrf", csrf.clone())]).await;
    assert!(open() && world.daemon.link().line().bent_here().is_none());
    post("/resume", &[("csrf", csrf.clone())]).await;
    assert!(world.get("/", &cookie).await.text.contains("Nothing was paused"));
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_added_and_captured_without_any_gateway() {
    let world = World::start().await;
    let (cookie, csrf) = world.enter().await;
    let image = world.dir.path().join("disk.img");
    std::fs::write(&image, vec![7; 1 << 20]).unwrap();
    let add = async |name: &str, source: &str, path: &str| {
        let fields = [("csrf", csrf.as_str()), ("name", name), ("source", source), ("path", path)];
        assert_eq!(world.post("/volumes", &cookie, &fields).await.location(), "/#volumes");
        world.get("/", &cookie).await.text
    };
    let path = image.to_str().unwrap();
    for (name, source, path, says) in [
        ("a b", "file", path, "That name cannot be used"),
        ("disk", "file", "/nowhere.img", "It cannot be opened"),
        ("disk", "file", "relative.img", "whole path"),
        ("disk", "block:/etc/hostname", "", "That is not a disk"),
        ("disk", "", "", "whole path"),
    ] {
        let said = add(name, source, path).await;
        assert!(said.contains(says), "{name} {source} {path}: {said}");
    }
    assert!(add("disk", "file", path).await.contains("its first capture has begun"));
    let volume = world.daemon.volume("disk").unwrap();
    tokio::time::timeout(Duration::from_secs(60), async {
        while volume.capture().newest.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it is captured");
    assert!(add("disk", "file", path).await.contains("There is a volume of that name already"));
    assert!(add("other", "file", path).await.contains("That source is replicated already"));
    world.post("/capture", &cookie, &[("csrf", &csrf), ("volume", "gone")]).await;
    assert!(world.get("/", &cookie).await.text.contains("There is no such volume"));
    world.post("/line-test", &cookie, &[("csrf", &csrf)]).await;
    let tested = tokio::time::timeout(Duration::from_secs(60), async {
        while !matches!(world.app.work.testing(), Testing::Failed { .. }) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    tested.await.expect("it ends");
    let page = world.get("/", &cookie).await.text;
    assert!(page.contains("There is no connection with the gateway"), "{page}");
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_none_is_said_to_be_none() {
    let world = World::new_box().await;
    let (cookie, csrf) = world.enter().await;
    let page = world.get("/", &cookie).await.text;
    assert!(page.contains("Enrol this box") && page.contains("data-page=\"new\""), "{page}");
    world.post("/enrol", &cookie, &[("csrf", &csrf), ("token", "sluice1.nonsense")]).await;
    let page = world.get("/", &cookie).await.text;
    assert!(page.contains("That is not a whole token") && !page.contains("nonsense"), "{page}");
    let chinese = world.get_in("/", &cookie, "zh-CN").await.text;
    assert!(chinese.contains("注册本设备") && chinese.contains("lang=\"zh-Hans\""));
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn diagnostics_hold_no_secret() {
    let world = World::start().await;
    let (cookie, csrf) = world.enter().await;
    let state = world.daemon.config().state.clone();
    // What could leak: every file that is a secret, the session, and the PIN.
    let mut secrets: HashMap<&str, Vec<u8>> = HashMap::new();
    secrets.insert("the PIN", world.pin.clone().into_bytes());
    secrets.insert("the session", cookie.split('=').next_back().unwrap().as_bytes().to_vec());
    secrets.insert("the session's value", csrf.into_bytes());
    let pin_file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(state.join("page-pin.json")).unwrap()).unwrap();
    for field in ["salt", "hash"] {
        secrets.insert(field, pin_file[field].as_str().unwrap().as_bytes().to_vec());
    }
    let identity = std::fs::read_to_string(state.join("identity.key")).unwrap();
    secrets.insert("the identity's key", identity.lines().nth(1).unwrap().as_bytes().to_vec());
    let store_key = std::fs::read(state.join("store.key")).unwrap();
    let hex = data_encoding::HEXLOWER.encode(&store_key);
    secrets.insert("the store's key", hex.into_bytes());
    secrets.insert("the store's key, base64", data_encoding::BASE64.encode(&store_key).into_bytes());
    let answer = world.get("/diagnostics", &cookie).await;
    assert_eq!(answer.status, StatusCode::OK);
    let name = answer.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert!(name.starts_with("attachment; filename=\"sluice-diagnostics-Branch-17-"), "{name}");
    let bundle: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
    for part in ["software", "clocks", "configuration", "status", "metrics", "log", "disk", "ahead"] {
        assert!(!bundle[part].is_null(), "{part}");
    }
    for (what, secret) in &secrets {
        let secret = std::str::from_utf8(secret).unwrap();
        assert!(secret.len() >= 8 && !answer.text.contains(secret), "{what}");
    }
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_whole_while_the_gateway_does_not_answer() {
    let world = World::start().await;
    let (cookie, _) = world.enter().await;
    for (language, words) in [
        (
            "en",
            [
                "Not connected",
                "The next 48 hours",
                "Pause",
                "First step: choose a volume",
                "The line",
                "Clock",
                "Policy",
                "This box",
                "Diagnostics",
            ],
        ),
        ("zh-CN", ["未连接", "未来 48 小时", "暂停", "第一步", "线路", "时钟", "策略", "本设备", "诊断"]),
    ] {
        let page = world.get_in("/", &cookie, language).await.text;
        for word in words.iter().skip(1) {
            assert!(page.contains(word), "{language}: {word}");
        }
        assert!(page.contains("svg class=\"strip\"") && page.contains("Branch 17"));
        let calls = if language == "en" { "Calling the gateway" } else { "正在连接网关" };
        assert!(page.contains(words[0]) || page.contains(calls), "{page}");
    }
    let english = world.get("/language/zh?back=/", &cookie).await;
    let chosen = format!("{cookie}; {}", english.cookie().unwrap());
    assert!(world.get_in("/", &chosen, "en").await.text.contains("未来 48 小时"), "what a person chose counts");
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_an_enrolment_is_shown_in_both_languages() {
    let world = World::new_box().await;
    let mut facts = Facts::gather(&world.app).await;
    let mut show = |enrolling: Enrolling, language| {
        facts.enrolling = enrolling;
        let inside = Inside { assets: &world.app.assets, language, csrf: "0", notice: None };
        inside.render(&facts).into_string()
    };
    let asking = || Enrolling::Running { step: Step::Asking { address: "gw.example:9470".into() } };
    for (language, at) in
        [(Language::English, "Ask the gateway at gw.example:9470"), (Language::Chinese, "连接网关 gw.example:9470")]
    {
        let page = show(asking(), language);
        assert!(page.contains(&format!("aria-current=\"step\">{at}</li>")), "{page}");
        assert!(
            page.contains("class=\"done\"") && page.contains("data-working") && !page.contains("<textarea"),
            "{page}"
        );
        assert!(show(Enrolling::Running { step: Step::Storing }, language).matches("class=\"done\"").count() == 2);
    }
    let done = show(Enrolling::Done { site: "Branch".into() }, Language::English);
    assert!(done.contains("Enrolled as “Branch”; connecting.") && !done.contains("<textarea"), "{done}");
    world.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_and_the_words_of_what_is_ahead_say_the_same() {
    use crate::line::Stretch;
    use crate::page::ahead;
    use jiff::Timestamp;
    let world = World::start().await;
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let mut facts = Facts::gather(&world.app).await;
    let stretch = |from: &str, until: &str, bits, cause: Cause| Stretch {
        from: at(from),
        until: at(until),
        decided: Decided { bits: Some(bits), cause, ..Decided::default() },
    };
    let schedule = |profile: &str| Cause::Schedule { profile: profile.into() };
    facts.clock.zone = jiff::tz::TimeZone::get("Asia/Shanghai").unwrap();
    facts.clock.now = at("2026-11-23T09:10:00Z"); // Monday 17:10 there
    facts.begin = at("2026-11-23T04:00:00Z");
    facts.carries = Some(2_000_000);
    facts.stretches = vec![
        stretch("2026-11-23T04:00:00Z", "2026-11-23T11:30:00Z", 0, schedule("closed")),
        stretch("2026-11-23T11:30:00Z", "2026-11-23T23:30:00Z", 1_000_000, schedule("night")),
        stretch("2026-11-23T23:30:00Z", "2026-11-24T01:37:00Z", 0, Cause::Blackout { name: "month end".into() }),
    ];
    let minute = |minute: i64, sent| wire::message::Minute {
        minute: minute as u32,
        sent,
        received: 0,
        allowed: 0,
        peak: 0,
        reason: 0,
    };
    let first = facts.begin.as_second() / 60;
    facts.sent = vec![minute(first + 14, 90_000_000), minute(first + 15, 1), minute(first + 10_000, 9)];
    let strip = ahead::strip(&facts);
    let spans: Vec<(u32, u32, u16, bool)> =
        strip.spans.iter().map(|span| (span.from, span.to, span.height, span.barred)).collect();
    assert_eq!(spans, [(0, 30, 0, false), (30, 78, 500, false), (78, 87, 0, true)]);
    assert_eq!((strip.steps, strip.now, strip.sent.len()), (216, Some(20), 21));
    assert_eq!(strip.sent[..3], [400, 0, 0], "800 kbit/s of 2 Mbit/s; a byte in a quarter of an hour is nothing");
    assert_eq!(ahead::ticks(&facts, Language::English), ["12", "18", "Tue", "06", "12", "18", "Wed", "06", "12", "18"]);
    assert_eq!(
        ahead::next(&facts, Language::English),
        "Opens 19:30 (in 2 h 20 min) with 1.0 Mbit/s, by the schedule (night)."
    );
    assert_eq!(
        ahead::next(&facts, Language::Chinese),
        "19:30 开放（2 小时 20 分后），速率 1.0 Mbit/s，按日程（night）。"
    );
    let week = ahead::week(&facts, Language::English);
    let rows: Vec<(&str, &str)> = week.iter().map(|row| (row.at.as_str(), row.rate.as_str())).collect();
    assert_eq!(rows, [("now", "closed"), ("Mon 11-23 19:30", "1.0 Mbit/s"), ("Tue 11-24 07:30", "closed")]);
    facts.clock.now = at("2026-11-23T12:00:00Z");
    assert_eq!(ahead::next(&facts, Language::English), "Closes Tue 07:30 (in 11 h), by the blackout “month end”.");
    world.daemon.shutdown().await;
}

/// Whatever may be in a name, a reason or an answer from elsewhere.
const HOSTILE: [&str; 4] = [
    "\"><script>alert(1)</script>",
    "' onmouseover=alert(1) x='",
    "</title></pre></textarea><img src=x onerror=alert(1)>",
    "<!-- {{7*7}} javascript:alert(1) -->",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_name_from_anywhere_becomes_markup() {
    let world = World::start().await;
    let path = world.dir.path().join("disk.img");
    std::fs::write(&path, vec![1; 4096]).unwrap();
    let entry = VolumeEntry {
        name: "disk".into(),
        lineage: LineageId::random(),
        source: crate::source::SourceSpec::File(path),
        on_read_error: crate::capture::OnReadError::Stop,
        freeze: None,
    };
    world.daemon.add_volume(entry).await.unwrap();
    world.daemon.capture("disk").await.unwrap();
    for hostile in HOSTILE {
        let text = || hostile.to_owned();
        let causes = [
            Cause::Blackout { name: text() },
            Cause::Exception { name: text(), profile: text() },
            Cause::Schedule { profile: text() },
            Cause::Hold { by: text(), why: text() },
            Cause::Pause { by: text(), why: text(), here: true },
            Cause::Fault { why: text() },
            Cause::Quota { period: text() },
        ];
        let links = [
            LinkState::Down { why: text(), retry_at: 0, needs_person: true, cause: DownCause::Other },
            LinkState::Connected { address: text(), version: text(), gateway: text() },
            LinkState::Connecting { address: text() },
        ];
        for (at, cause) in causes.into_iter().enumerate() {
            let mut facts = Facts::gather(&world.app).await;
            let decided = Decided { bits: Some(0), silent: false, until: None, cause };
            facts.stretches.iter_mut().for_each(|stretch| stretch.decided = decided.clone());
            facts.status.allowance.decided = decided;
            facts.status.allowance.fault = Some(text());
            facts.status.allowance.quotas = vec![(text(), 1, 2)];
            facts.status.link = links[at % links.len()].clone();
            facts.status.site = Some(text());
            facts.bent = Some(Bent { boost: None, until: facts.clock.now, by: text(), why: text() });
            facts.document = Some(text());
            facts.own.addresses = vec![text()];
            facts.testing = Testing::Failed { why: Both::new(text(), text()), detail: text() };
            facts.enrolling = if at % 2 == 0 {
                Enrolling::Failed { why: Both::new(text(), text()), detail: text() }
            } else {
                Enrolling::Running { step: Step::Asking { address: text() } }
            };
            let volume = &mut facts.status.volumes[0];
            (volume.name, volume.source, volume.trouble, volume.capture_failed) =
                (text(), text(), Some(text()), Some(text()));
            volume.state = if at % 2 == 0 { Doing::Stopped { why: text() } } else { Doing::HeldBack { why: text() } };
            facts
                .disks
                .iter_mut()
                .for_each(|disk| (disk.path, disk.model, disk.mounted) = (text().into(), text(), Some(text())));
            let notice = Notice { at: "pause", tone: Tone::Bad, text: Both::new(text(), text()), detail: Some(text()) };
            for language in Language::ALL {
                let inside = Inside { assets: &world.app.assets, language, csrf: "0", notice: Some(&notice) };
                for site in [Some(text()), None] {
                    facts.status.site = site;
                    let page = inside.render(&facts).into_string();
                    // Without its brackets and double quotes a text ends no attribute: none is in single ones, as seen below.
                    assert!(!page.contains(hostile) || !hostile.contains(['<', '"']), "{hostile}");
                    assert_eq!(page.matches("<script").count(), 1, "the page's own");
                    assert!(!page.contains("<img") && !page.contains("<!-- "), "{hostile}");
                    assert!(page.ends_with("</html>"), "a whole page");
                }
            }
        }
    }
    let (cookie, csrf) = world.enter().await;
    assert!(!world.get("/", &cookie).await.text.contains("='"), "no attribute is in single quotes");
    for hostile in HOSTILE {
        let fields = [("csrf", csrf.as_str()), ("lasts", "30m"), ("actor", hostile), ("reason", hostile)];
        world.post("/pause", &cookie, &fields).await;
        let page = world.get("/", &cookie).await.text;
        let is_raw = page.contains(hostile) && hostile.contains(['<', '"']);
        assert!(page.contains("Paused at this box") && !is_raw && page.matches("<script").count() == 1, "{page}");
    }
    world.daemon.shutdown().await;
}
