//! A proxy in front of a real service that does to some requests what services do on a bad day.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes of a request's or an answer's head at most.
const MOST_HEAD: usize = 64 << 10;

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It never reaches the service; this status and these headers come back.
    Status(u16, &'static str),
    /// It never reaches the service; the connection ends without a byte.
    Cut,
    /// The service does what is asked, and the connection ends after so many bytes of its answer.
    Lost(usize),
    /// The service's answer comes so much later.
    Slow(Duration),
    /// One byte of the answer's body, the one in its middle, is another.
    Corrupt,
    /// One byte of the request's body, the one in its middle, reaches the service as another.
    Garble,
}

/// To which requests it happens.
#[derive(Clone, Debug)]
struct Rule {
    method: &'static str,
    path: &'static str,
    skip: usize,
    times: usize,
    fault: Fault,
}

struct Death {
    skip: usize,
    is_dead: bool,
}

impl Death {
    fn come(&mut self, method: &str) -> Option<Fault> {
        if self.is_dead {
            return Some(Fault::Cut);
        }
        if method == "GET" {
            return None;
        }
        self.is_dead = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        self.is_dead.then_some(Fault::Lost(0))
    }
}

/// See the module's documentation. Ends with the test's process.
pub(crate) struct Faults {
    address: SocketAddr,
    death: Arc<Mutex<Option<Death>>>,
    rules: Arc<Mutex<Vec<Rule>>>,
    done: Arc<Mutex<Vec<String>>>,
}

impl Faults {
    /// A proxy in front of the service at `upstream` (`host:port`).
    pub(crate) fn before(upstream: &str) -> Faults {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (rules, done) = (Arc::<Mutex<Vec<Rule>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let death = Arc::<Mutex<Option<Death>>>::default();
        let (upstream, known, noted, dying) = (upstream.to_owned(), rules.clone(), done.clone(), death.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, known, noted, dying) = (upstream.clone(), known.clone(), noted.clone(), dying.clone());
                // A client that goes away in the middle is its own affair.
                std::thread::spawn(move || drop(pass(client, &upstream, (&known, &dying), &noted)));
            }
        });
        Faults { address, death, rules, done }
    }

    /// Where the proxy listens, as `http://host:port`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on: of the requests with this method (any, when empty) whose path and query contain `path`, the first `skip` pass, and `fault` happens to the
    /// `times` after them.
    pub(crate) fn add(&self, method: &'static str, path: &'static str, (skip, times): (usize, usize), fault: Fault) {
        self.rules.lock().unwrap().push(Rule { method, path, skip, times, fault });
    }

    /// Nothing happens to requests any more.
    pub(crate) fn forget(&self) {
        self.rules.lock().unwrap().clear();
    }

    /// As if the client were killed right after a request: of those that change something the first `skip` are answered, the next one is done by the
    /// service and never answered, and nothing gets through any more until `revive`.
    pub(crate) fn kill_after(&self, skip: usize) {
        *self.death.lock().unwrap() = Some(Death { skip, is_dead: false });
    }

    /// Lets everything through again. Whether it had come to the kill.
    pub(crate) fn revive(&self) -> bool {
        self.death.lock().unwrap().take().is_some_and(|death| death.is_dead)
    }

    /// Requests to which something happened, as `METHOD path`.
    pub(crate) fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }
}

fn pass(
    mut client: TcpStream,
    upstream: &str,
    (rules, death): (&Mutex<Vec<Rule>>, &Mutex<Option<Death>>),
    done: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let (head, rest) = read_head(&mut client)?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut body = read_body(&mut client, &text, rest)?;
    let killed = death.lock().unwrap().as_mut().and_then(|death| death.come(method));
    let fault = killed.or_else(|| choose(rules, method, path));
    if fault.is_some() {
        done.lock().unwrap().push(format!("{method} {path}"));
    }
    match &fault {
        Some(Fault::Status(status, headers)) => {
            let said = "{\"message\": \"on purpose\"}";
            let head = format!(
                "HTTP/1.1 {status} On Purpose\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
                said.len()
            );
            client.write_all(head.as_bytes())?;
            return client.write_all(said.as_bytes());
        }
        Some(Fault::Cut) => return client.shutdown(Shutdown::Both),
        Some(Fault::Garble) => {
            let middle = body.len() / 2;
            body.get_mut(middle).into_iter().for_each(|byte| *byte ^= 1);
        }
        _ => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    // One request a connection keeps this simple; the client opens the next by itself.
    let head = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    match fault {
        Some(Fault::Lost(bytes)) => {
            client.write_all(&answer[..bytes.min(answer.len())])?;
            return client.shutdown(Shutdown::Both);
        }
        Some(Fault::Slow(time)) => std::thread::sleep(time),
        Some(Fault::Corrupt) => {
            let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
            let middle = body + (answer.len() - body) / 2;
            answer.get_mut(middle).into_iter().for_each(|byte| *byte ^= 1);
        }
        _ => {}
    }
    client.write_all(&answer)
}

fn choose(rules: &Mutex<Vec<Rule>>, method: &str, path: &str) -> Option<Fault> {
    let mut rules = rules.lock().unwrap();
    let fits = |rule: &&mut Rule| {
        (rule.method.is_empty() || rule.method == method) && path.contains(rule.path) && rule.skip + rule.times > 0
    };
    let rule = rules.iter_mut().find(fits)?;
    if rule.skip > 0 {
        rule.skip -= 1;
        return None;
    }
    rule.times -= 1;
    Some(rule.fault.clone())
}

/// The bytes up to the empty line, and what came after it.
pub(crate) fn read_head(from: &mut TcpStream) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 8192]);
    loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok((bytes, rest));
        }
        match from.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ if bytes.len() > MOST_HEAD => return Err(std::io::ErrorKind::InvalidData.into()),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// The body, as it was sent: with a length, or in chunks.
pub(crate) fn read_body(from: &mut TcpStream, head: &str, mut body: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let is_chunked = head.lines().any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked"));
    let mut piece = [0; 64 << 10];
    loop {
        let is_whole = match length {
            Some(length) => body.len() >= length,
            None => !is_chunked || body.ends_with(b"0\r\n\r\n"),
        };
        if is_whole {
            return Ok(body);
        }
        match from.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => body.extend_from_slice(&piece[..read]),
        }
    }
}
