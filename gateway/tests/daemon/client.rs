//! A client of pages and API: a browser without a screen, with what it needs of HTTP and nothing more.

use crate::world::World;
use serde_json::{Value, json};
use sluice_gateway::access::Role;
use sluice_gateway::admin::{self, AccountRequest, Request};
use sluice_gateway::config::{WebConfig, WebTls};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) const PASSWORD: &str = "the river is high tonight";
pub(crate) const POLICY: &str = "zone = \"Asia/Shanghai\"\n[line]\nup = \"2 Mbit/s\"\ncap = \"80 %\"\n[profiles]\nnight = \"80 %\"\n[grid]\nmon-fri = \"00:00 night 07:30 closed 19:30 night\"\n[[blackouts]]\nname = \"month end\"\nwhen = \"day 1..3\"\n";

/// How a request proves who it comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) cookie: Option<String>,
    pub(crate) csrf: Option<String>,
    pub(crate) token: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The last word of a problem's type.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        self.json()["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// A world whose gateway serves pages and API, with one account.
pub(crate) fn world() -> (World, Client) {
    world_with(Vec::new())
}

pub(crate) fn world_with(targets: Vec<std::path::PathBuf>) -> (World, Client) {
    let mut world = World::new();
    world.stop();
    let listen = "127.0.0.1:0".parse().unwrap();
    let credentials = vec![world.path("credentials")];
    std::fs::create_dir(&credentials[0]).unwrap();
    let names = vec!["gw.example".into()];
    let tls = WebTls::Off;
    world.config.web = Some(WebConfig { listen, names, tls, targets, credentials, libvirt: None, templates: None });
    world.start();
    let mut client = Client::of(&world);
    client.set_up(&world);
    (world, client)
}

impl Client {
    pub(crate) fn of(world: &World) -> Client {
        let pages = world.daemon().pages().unwrap();
        let port: u16 = pages.rsplit(':').next().unwrap().parse().unwrap();
        Client { address: Some(([127, 0, 0, 1], port).into()), ..Client::default() }
    }

    /// Makes the first account and signs in by it.
    fn set_up(&mut self, world: &World) {
        let code = std::fs::read_to_string(world.state().join("setup.code")).unwrap();
        let body = json!({ "code": code.trim(), "name": "chief", "password": PASSWORD });
        self.signed(self.post("/api/v1/setup", &body).expect(200));
    }

    pub(crate) fn signed(&mut self, answer: Answer) {
        let cookie = answer.header("set-cookie").unwrap();
        self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        self.csrf = Some(answer.json()["csrf"].as_str().unwrap().to_owned());
    }

    /// Somebody else, who is not signed in.
    pub(crate) fn stranger(&self) -> Client {
        Client { address: self.address, ..Client::default() }
    }

    pub(crate) fn sign_in(&self, name: &str, password: &str) -> Answer {
        self.stranger().post("/api/v1/session", &json!({ "name": name, "password": password }))
    }

    /// Makes an account for a tenant, or for all; it asks by a token, which the command line makes.
    pub(crate) fn account(&self, world: &World, name: &str, role: &str, tenant: Option<&str>) -> Client {
        self.post("/api/v1/accounts", &json!({ "name": name, "role": role, "tenant": tenant })).expect(200);
        let role = Role::from_word(role).unwrap();
        let request = AccountRequest::AddToken { account: name.into(), label: "test".into(), role, days: 1 };
        match world.ask(Request::Account(request)).unwrap() {
            admin::Answer::ApiTokenSecret { token, .. } => Client { token: Some(token), ..self.stranger() },
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None, &[])
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, Some(body.to_string()), &[])
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<String>, headers: &[(&str, &str)]) -> Answer {
        let mut stream = self.send(method, path, body, headers);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        parsed(&String::from_utf8_lossy(&bytes))
    }

    /// The first lines of a stream of events that contain each of these words in turn.
    pub(crate) fn events(&self, path: &str, words: &[&str]) -> Vec<String> {
        let stream = BufReader::new(self.send("GET", path, None, &[("accept", "text/event-stream")]));
        let mut wanted = words.iter();
        let mut next = wanted.next();
        let mut found = Vec::new();
        for line in stream.lines() {
            let line = line.unwrap();
            while next.is_some_and(|word| line.contains(word)) {
                found.push(line.clone());
                next = wanted.next();
            }
            if next.is_none() {
                return found;
            }
        }
        panic!("the stream ended before {next:?}; it said {found:?}");
    }

    /// Sends a file as it is.
    pub(crate) fn upload(&self, path: &str, bytes: &[u8]) -> Answer {
        let length = bytes.len().to_string();
        let headers = [("content-type", "application/octet-stream"), ("content-length", &length)];
        let mut stream = self.send("POST", path, None, &headers);
        let _refused_already = stream.write_all(bytes);
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        parsed(&String::from_utf8_lossy(&said))
    }

    fn send(&self, method: &str, path: &str, body: Option<String>, headers: &[(&str, &str)]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address.unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        let mut add = |name: &str, value: &str| head += &format!("{name}: {value}\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            add("host", "gw.example");
        }
        if let Some(cookie) = &self.cookie {
            add("cookie", cookie);
        }
        if let Some(csrf) = &self.csrf {
            add("x-csrf-token", csrf);
        }
        if let Some(token) = &self.token {
            add("authorization", &format!("Bearer {token}"));
        }
        if let Some(body) = &body {
            add("content-type", "application/json");
            add("content-length", &body.len().to_string());
        }
        headers.iter().for_each(|(name, value)| add(name, value));
        head += "\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        // A server that has refused may close before it has read all.
        let _refused_already = stream.write_all(body.unwrap_or_default().as_bytes());
        stream
    }
}

fn parsed(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { joined(body) } else { body.to_owned() };
    Answer { status: status.unwrap_or_else(|| panic!("no answer: {text}")), headers, body }
}

fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        body += &rest[..size];
        chunks = rest[size..].trim_start_matches("\r\n");
    }
    body
}
