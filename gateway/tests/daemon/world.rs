//! A gateway of its own for each test.

use dedupe::UnixMillis;
use sluice_gateway::admin::{Answer, Request};
use sluice_gateway::catalogue::Catalogue;
use sluice_gateway::config::Config;
use sluice_gateway::state::State;
use sluice_gateway::{Daemon, StartError, admin::Admin};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;
use wire::clock::machine_time;
use wire::token::Token;

/// How often, and how many times, it is looked whether a socket was let go.
const LOOK: std::time::Duration = std::time::Duration::from_millis(100);
const RELEASED_WITHIN: u32 = 300;

/// An address that no other test has, so that a port that a restart lets go for a moment is taken by nobody else: each test runs in a process of its own, and
/// sockets that are bound to all addresses get ports above these.
fn own_address() -> SocketAddr {
    static WORLDS: AtomicU16 = AtomicU16::new(0);
    let [_, b, c, d] = std::process::id().to_be_bytes();
    let port = 20_000 + WORLDS.fetch_add(1, Ordering::Relaxed);
    SocketAddr::new(Ipv4Addr::new(127, b | 0x80, c, d).into(), port)
}

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) config: Config,
    daemon: Option<Daemon>,
    runtime: tokio::runtime::Runtime,
}

impl World {
    pub(crate) fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let state = dir.path().join("state");
        State::create(&state, machine_time()).unwrap();
        let mut config = Config::new(&state);
        config.listen = vec![own_address()];
        config.http = Some("127.0.0.1:0".parse().unwrap());
        config.web = None;
        config.decode_workers = 2;
        config.reserve = 0;
        let mut world = World { dir, config, daemon: None, runtime };
        world.start();
        // From now on it stays where it is, so that edges find it again after a restart.
        world.config.listen = world.daemon().addresses().to_vec();
        world
    }

    pub(crate) fn start(&mut self) {
        self.daemon = Some(self.runtime.block_on(async {
            // quinn lets go of a socket with its last connection: on a busy machine some time after the daemon of before has stopped. A process that ended
            // holds none.
            for _ in 0..RELEASED_WITHIN {
                match Daemon::start(self.config.clone()).await {
                    Err(StartError::Listen { source, .. }) if source.kind() == ErrorKind::AddrInUse => {
                        tokio::time::sleep(LOOK).await;
                    }
                    started => return started.unwrap(),
                }
            }
            panic!("the address of the daemon of before is still in use")
        }));
    }

    pub(crate) fn stop(&mut self) {
        self.runtime.block_on(self.daemon.take().unwrap().shutdown());
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Lets so many days pass, with a restart.
    pub(crate) fn pass(&mut self, days: u64) {
        self.stop();
        let catalogue = Catalogue::open(&self.state().join("catalogue.redb")).unwrap();
        let now = machine_time().max(catalogue.known_time().unwrap());
        catalogue.set_known_time(UnixMillis(now.0 + days * 86_400_000)).unwrap();
        drop(catalogue);
        self.start();
    }

    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(std::time::Duration::from_secs(60), work).await })
            .expect("nothing here takes a minute")
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.daemon().addresses()[0]
    }

    pub(crate) fn admin(&self) -> Admin {
        self.daemon().admin().clone()
    }

    pub(crate) fn state(&self) -> &Path {
        &self.config.state
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn ask(&self, request: Request) -> Result<Answer, String> {
        self.admin().handle(request, &mut |_| true).map_err(|error| error.to_string())
    }

    pub(crate) fn token(&self, site: &str) -> Token {
        self.token_for(site, 3600)
    }

    pub(crate) fn token_for(&self, site: &str, valid_seconds: u64) -> Token {
        let request = Request::Token { tenant: "bank".into(), site: site.into(), valid_seconds };
        let Answer::Token { token, .. } = self.ask(request).unwrap() else { panic!("not a token") };
        token.parse().unwrap()
    }

    pub(crate) fn metrics(&self) -> String {
        self.get("/metrics")
    }

    pub(crate) fn get(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let address = self.daemon().http().unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            self.runtime.block_on(daemon.shutdown());
        }
    }
}
