//! The client that all clouds are asked through, on a service's bad day.

use crate::faults::{Fault, Faults};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;
use targets::http::{Client, Options, Patience};
use targets::{Retry, TargetError};
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
