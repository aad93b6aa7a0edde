//! The client that all clouds are asked through, on a service's bad day.

use crate::faults::{Fault, Faults, read_body, read_head};
use crate::service::private;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use targets::http::{Client, Options, Patience};
use targets::{Credentials, Retry, Settings, TargetError};
use ureq::http::Request;

/// A server that answers every request with its own path.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut bytes = [0; 8192];
            let read = client.read(&mut bytes).unwrap();
            let path = String::from_utf8_lossy(&bytes[..read]).split(' ').nth(1).unwrap_or_default().to_owned();
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{path}", path.len());
            let _client_may_be_gone = client.write_all(answer.as_bytes());
        }
    });
    address
}

fn client() -> Client {
    let patience = Patience {
        attempts: 4,
        first: Duration::from_millis(5),
        longest: Duration::from_millis(20),
        answer: Duration::from_millis(500),
        connect: Duration::from_secs(1),
    };
    Client::new("Cinder", &Options { patience, ..Options::default() }).unwrap()
}

fn get(client: &Client, faults: &Faults, path: &str) -> Result<String, TargetError> {
    let url = format!("{}{path}", faults.url());
    let reply = client.ask(&[], || Ok(Request::get(&url).body(Vec::new()).unwrap()))?;
    Ok(String::from_utf8(reply.body).unwrap())
}

#[test]
fn what_passes_is_asked_again_until_it_has_passed() {
    let faults = Faults::before(&echo());
    let client = client();
    let ill = [
        Fault::Status(429, "Retry-After: 0\r\n"),
        Fault::Status(503, ""),
        Fault::Status(500, ""),
        Fault::Cut,
        Fault::Lost(20),
        Fault::Lost(59),
        Fault::Slow(Duration::from_secs(1)),
    ];
    for (at, fault) in ill.into_iter().enumerate() {
        faults.add("GET", "/ill", (0, 2), fault.clone());
        assert_eq!(get(&client, &faults, "/ill").unwrap(), "/ill", "{fault:?}");
        assert_eq!(faults.done().len(), 2 * (at + 1), "{fault:?}");
    }
}

#[test]
fn patience_ends_with_the_services_own_words() {
    let faults = Faults::before(&echo());
    faults.add("", "/busy", (0, 100), Fault::Status(429, ""));
    faults.add("", "/cut", (0, 100), Fault::Cut);
    let client = client();
    let busy = get(&client, &faults, "/busy?token=secret").unwrap_err();
    let said = busy.to_string();
    assert!(said.starts_with("Cinder refused `GET /busy` with 429: {\"message\": \"on purpose\"}; "), "{said}");
    assert!(said.contains("--requests") && !said.contains("secret"), "{said}");
    assert_eq!((busy.retry(), faults.done().len()), (Retry::Later, 4));
    let cut = get(&client, &faults, "/cut").unwrap_err();
    assert!(cut.to_string().starts_with("Cinder does not answer `GET /cut` after 4 attempts: "), "{cut}");
    assert_eq!(cut.retry(), Retry::Later);
}

#[test]
fn a_no_is_taken_at_once_and_says_what_to_do() {
    let faults = Faults::before(&echo());
    let client = client();
    for (status, todo) in
        [(401, "put new ones"), (403, "lack this right"), (404, "it is gone"), (409, "something else"), (413, "quota")]
    {
        let before = faults.done().len();
        faults.add("GET", "/no", (0, 1), Fault::Status(status, ""));
        let no = get(&client, &faults, "/no").unwrap_err();
        assert!(no.to_string().contains(todo), "{no}");
        assert_eq!((no.retry(), no.is_credentials()), (Retry::Never, status == 401 || status == 403));
        assert_eq!(faults.done().len(), before + 1, "asked once");
    }
}

#[test]
fn a_wait_ends_when_the_daemon_does() {
    let faults = Faults::before(&echo());
    faults.add("", "", (0, 1000), Fault::Status(503, "Retry-After: 3600\r\n"));
    let patience = Patience { longest: Duration::from_secs(3600), ..Patience::default() };
    let options = Options { patience, ..Options::default() };
    let client = Client::new("Cinder", &options).unwrap();
    let asking = std::thread::spawn({
        let (client, url) = (client.clone(), faults.url());
        move || client.ask(&[], || Ok(Request::get(&url).body(Vec::new()).unwrap()))
    });
    while faults.done().is_empty() {
        std::thread::yield_now();
    }
    options.stop.stop();
    assert!(matches!(asking.join().unwrap(), Err(TargetError::Cancelled)));
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let faults = Faults::before(&echo());
    let url = format!("{}/{}", faults.url(), "x".repeat(2000));
    let client = client();
    let long = client.ask_for(&[], 1000, || Ok(Request::get(&url).body(Vec::new()).unwrap())).unwrap_err().to_string();
    assert!(long.ends_with("an answer of more than 1000 bytes"), "{long}");
}

#[test]
fn a_byte_that_changed_on_the_way_is_for_the_reader_to_find() {
    let faults = Faults::before(&echo());
    faults.add("GET", "/block", (0, 1), Fault::Corrupt);
    let client = client();
    assert_ne!(get(&client, &faults, "/block").unwrap(), "/block");
    assert_eq!(get(&client, &faults, "/block").unwrap(), "/block");
}

/// A server that is too busy for every request, and notes when each came.
#[derive(Clone)]
struct Watched {
    url: String,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    began: Instant,
}

impl Watched {
    #[allow(clippy::disallowed_methods, reason = "it watches real time")]
    fn new() -> Watched {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let watched = Watched { url, arrivals: Arc::default(), began: Instant::now() };
        let noted = watched.arrivals.clone();
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                noted.lock().unwrap().push(Instant::now());
                std::thread::spawn(move || {
                    let (head, rest) = read_head(&mut client)?;
                    read_body(&mut client, &String::from_utf8_lossy(&head), rest)?;
                    client.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                });
            }
        });
        watched
    }

    /// At least `least` requests came, and no more by any moment than may have by then: as many at once as may come in a second, and so many in each
    /// second since. Only too early is wrong, so no machine is too slow for this.
    fn saw_no_more_than(&self, a_second: u32, least: usize) {
        let arrivals = self.arrivals.lock().unwrap();
        assert!(arrivals.len() >= least, "{} requests came", arrivals.len());
        for (before, at) in arrivals.iter().enumerate() {
            let earliest = (before as f64 + 1.0 - f64::from(a_second)) / f64::from(a_second);
            let came = at.duration_since(self.began).as_secs_f64();
            assert!(
                came >= earliest,
                "number {} came after {came:.3} s, and not before {earliest:.3} s was to",
                before + 1
            );
        }
    }
}

/// Attempts without pauses, so that nothing but the rate holds them back.
fn restless(attempts: u32, requests: u32) -> Options {
    let at_once = Duration::from_micros(1);
    let patience = Patience { attempts, first: at_once, longest: at_once, ..Patience::default() };
    Options { patience, requests: NonZeroU32::new(requests), ..Options::default() }
}

#[test]
fn all_threads_together_ask_no_faster_than_agreed_and_attempts_count_as_requests() {
    const A_SECOND: u32 = 10;
    let watched = Watched::new();
    let client = Client::new("Cinder", &restless(3, A_SECOND)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (client, url) = (client.clone(), &watched.url);
            scope.spawn(move || {
                let refused = client.ask(&[], || Ok(Request::get(url).body(Vec::new()).unwrap()));
                assert!(matches!(refused, Err(TargetError::Refused { status: 503, .. })));
            });
        }
    });
    // What is sent as a file, and what is made once, take their turns too.
    let file = tempfile::tempfile().unwrap();
    for _ in 0..3 {
        client.send_file(&[], Request::put(&watched.url).body(()).unwrap(), &file).unwrap_err();
    }
    let made = client.make_once(
        || Ok(None::<()>),
        |once| once.ask(&[], || Ok(Request::post(&watched.url).body(Vec::new()).unwrap())).map(|_| ()),
    );
    made.unwrap_err();
    watched.saw_no_more_than(A_SECOND, 8 * 3 + 3 + 3);
}

/// Kinds with further settings and their credentials; `@one` is where the service is, `@other` where a second one is.
const KINDS: [(&str, &str, &str); 4] = [
    (
        "azure",
        r#"{"container": "disks", "endpoint": "@one"}"#,
        "AZURE_STORAGE_ACCOUNT=bank1\nAZURE_STORAGE_KEY=c2x1aWNl\n",
    ),
    ("s3", r#"{"bucket": "disks", "endpoint": "@one"}"#, AWS),
    ("ebs", r#"{"ebs_endpoint": "@one", "ec2_endpoint": "@other"}"#, AWS),
    ("openstack", "{}", "OS_AUTH_URL=@one/v3\nOS_USERNAME=u\nOS_PASSWORD=p\nOS_PROJECT_NAME=p\n"),
];
const AWS: &str = "AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=s\nAWS_DEFAULT_REGION=eu-central-1\n";

#[test]
fn each_kind_of_cloud_is_asked_no_faster_than_agreed() {
    const A_SECOND: u32 = 5;
    const ATTEMPTS: u32 = 13;
    let dir = tempfile::tempdir().unwrap();
    for (kind, more, credentials) in KINDS {
        // The rate is one for each service that a target asks, as the services' own limits are.
        let (watched, other) = (Watched::new(), Watched::new());
        let placed = |text: &str| text.replace("@one", &watched.url).replace("@other", &other.url);
        let mut settings: Value = serde_json::from_str(&placed(more)).unwrap();
        settings["kind"] = kind.into();
        let settings: Settings = serde_json::from_value(settings).unwrap();
        let credentials = Credentials::File(private(dir.path(), &placed(credentials)));
        let target = settings.open(&credentials, &restless(ATTEMPTS, A_SECOND), dir.path()).unwrap();
        let described = target.describe().unwrap();
        assert!(described.checks.iter().any(|check| check.wrong.is_some()), "{kind}: {described:?}");
        watched.saw_no_more_than(A_SECOND, ATTEMPTS as usize);
        other.saw_no_more_than(A_SECOND, if more.contains("@other") { ATTEMPTS as usize } else { 0 });
    }
}
