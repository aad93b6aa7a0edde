//! The page of a whole edge over real sockets, beside a small gateway: enrolment, a pause that holds the line, TLS.

#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(dead_code, reason = "the other tests use more of it")]
mod small_gateway;

use ring::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sluice_edge::line::Cause;
use sluice_edge::link::LinkState;
use sluice_edge::page::{self, PageInfo};
use sluice_edge::status::Doing;
use sluice_edge::{Config, Daemon};
use small_gateway::SmallGateway;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Far more than anything here takes; a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(90);

struct Edge {
    dir: tempfile::TempDir,
    daemon: Daemon,
    info: PageInfo,
    address: SocketAddr,
}

/// A browser's session.
struct Browser {
    address: SocketAddr,
    cookie: String,
    csrf: String,
}

impl Edge {
    async fn start(page: &str) -> Edge {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "state = \"state\"\nrate = \"unlimited\"\nassume_rate = \"100 Mbit/s\"\nmemory = \"384 MiB\"\ncache = \"1 GB\"\npage = \"{page}\"\n\
             [http]\nlisten = \"off\"\n"
        );
        let config = Config::parse(&text, &dir.path().join("edge.toml")).unwrap();
        let info = page::info(&config.state, config.page.as_ref(), false).unwrap();
        let daemon = Daemon::start(config).await.unwrap();
        let port = daemon.page_address().expect("the page is served").port();
        Edge { dir, daemon, info, address: ([127, 0, 0, 1], port).into() }
    }

    async fn enter(&self) -> Browser {
        let mut browser = Browser { address: self.address, cookie: String::new(), csrf: String::new() };
        let pin = self.info.pin.as_ref().expect("a new box has a new PIN");
        let head = browser.post("/login", &[("pin", pin)]).await;
        let set = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a session");
        browser.cookie = set.split(';').next().unwrap().to_owned();
        let page = browser.get().await;
        let at = page.find("name=\"csrf\" value=\"").expect("a form") + 19;
        browser.csrf = page[at..at + 64].to_owned();
        browser
    }

    /// Waits until the status is so.
    async fn until(&self, what: &str, so: impl Fn(&sluice_edge::Status) -> bool) {
        let waiting = async {
            while !so(&self.daemon.status()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{what}: {:#?}", self.daemon.status());
    }
}

impl Browser {
    async fn get(&self) -> String {
        let request =
            format!("GET / HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nConnection: close\r\n\r\n", self.address, self.cookie);
        exchange(TcpStream::connect(self.address).await.unwrap(), &request).await
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> String {
        let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let mut body = format!("csrf={}", self.csrf);
        fields.iter().for_each(|(name, value)| body += &format!("&{name}={}", escaped(value)));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {0}\r\nOrigin: http://{0}\r\nCookie: {1}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {2}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            self.cookie,
            body.len()
        );
        exchange(TcpStream::connect(self.address).await.unwrap(), &request).await
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_box_is_enrolled_and_replicates_by_its_page_alone() {
    let gateway = SmallGateway::start().await;
    let edge = Edge::start("127.0.0.1:0").await;
    let browser = edge.enter().await;
    assert!(browser.get().await.contains("Enrol this box"));
    // An address without a port: no gateway is reached, at once.
    let dead = wire::token::Token::random(vec!["127.0.0.1".into()], gateway.token().authority);
    browser.post("/enrol", &[("token", &dead.reveal())]).await;
    tokio::time::timeout(PATIENCE, async {
        while !browser.get().await.contains("No gateway of the token could be reached") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it fails with its next step");

    browser.post("/enrol", &[("token", &gateway.token().reveal())]).await;
    edge.until("enrolled and connected", |status| matches!(status.link, LinkState::Connected { .. })).await;
    let page = browser.get().await;
    assert!(page.contains("data-page=\"edge\"") && page.contains("Branch") && page.contains("First step"), "{page}");

    let image = edge.dir.path().join("disk.img");
    std::fs::write(&image, vec![5; 3 << 20]).unwrap();
    browser.post("/volumes", &[("name", "disk"), ("source", "file"), ("path", image.to_str().unwrap())]).await;
    edge.until("the first generation at the gateway", |status| {
        status.volumes.first().is_some_and(|volume| matches!(volume.state, Doing::UpToDate { .. }))
    })
    .await;
    assert!(browser.get().await.contains("Up to date: generation"));
    edge.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_by_the_page_holds_the_line_and_ends_when_it_is_ended() {
    let gateway = SmallGateway::start().await;
    let edge = Edge::start("127.0.0.1:0").await;
    sluice_edge::enrol(edge.daemon.config(), &gateway.token()).await.unwrap();
    edge.until("connected", |status| matches!(status.link, LinkState::Connected { .. })).await;
    let browser = edge.enter().await;
    browser.post("/pause", &[("lasts", "30m"), ("actor", "Li"), ("reason", "stocktaking")]).await;
    let decided = edge.daemon.link().line().standing().decided;
    let here = Cause::Pause { by: "Li".into(), why: "stocktaking".into(), here: true };
    assert_eq!((decided.bits, &decided.cause), (Some(0), &here));

    let image = edge.dir.path().join("disk.img");
    let noise: Vec<u8> = (0..1u32 << 18).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(&image, noise).unwrap();
    browser.post("/volumes", &[("name", "disk"), ("source", "file"), ("path", image.to_str().unwrap())]).await;
    edge.until("captured, coded and held", |status| {
        status.volumes.first().is_some_and(|volume| volume.state == Doing::Closed)
    })
    .await;
    assert_eq!(gateway.received(), 0, "nothing of it has left");
    let page = browser.get().await;
    assert!(page.contains("paused by Li (stocktaking)") && page.contains("waits until the line opens"), "{page}");

    browser.post("/resume", &[]).await;
    edge.until("at the gateway", |status| matches!(status.volumes[0].state, Doing::UpToDate { .. })).await;
    assert!(gateway.received() > 0);
    edge.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_loopback_it_is_tls_with_the_fingerprint_that_was_printed() {
    let edge = Edge::start("0.0.0.0:0").await;
    let pem = std::fs::read(edge.daemon.config().state.join("page.crt")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));

    // Those who say nothing keep nobody out.
    let mut silent = Vec::new();
    for _ in 0..150 {
        silent.push(TcpStream::connect(edge.address).await.unwrap());
    }
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = client.connect(name, TcpStream::connect(edge.address).await.unwrap()).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let fingerprint: Vec<String> = digest(&SHA256, &shown).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(Some(fingerprint.join(":")), edge.info.fingerprint);
    let pin = edge.info.pin.clone().unwrap();
    let request = format!(
        "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\nConnection: close\r\n\r\npin={pin}",
        pin.len() + 4
    );
    let answer = exchange(stream, &request).await;
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    assert!(answer.contains("set-cookie: __Host-sluice=") && answer.contains("Secure"), "{answer}");
    for header in
        ["strict-transport-security: ", "content-security-policy: default-src 'none'", "cache-control: no-store"]
    {
        assert!(answer.contains(header), "{header}: {answer}");
    }
    let plain =
        exchange(TcpStream::connect(edge.address).await.unwrap(), "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 400"), "{plain}");
    edge.daemon.shutdown().await;
}
