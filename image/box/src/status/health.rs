//! `/health` of the daemon.

use crate::run::now;
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// For the daemon, which is on this machine, to answer.
const WITHIN: Duration = Duration::from_secs(5);
/// A report has some hundred bytes for each check.
const MOST: usize = 64 << 10;

/// What the daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Health {
    pub(crate) ready: bool,
    #[serde(default)]
    pub(crate) checks: Vec<Check>,
}

/// One thing that it watches.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) ok: bool,
    #[serde(default)]
    pub(crate) why: Option<String>,
}

impl Health {
    /// Asks the daemon; nothing when none answers.
    pub(crate) fn ask(port: u16) -> Option<Health> {
        let said = said((Ipv4Addr::LOCALHOST, port).into(), now() + WITHIN).ok()?;
        let body = said.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        serde_json::from_slice(&said[body..]).ok()
    }

    /// The check of this name.
    pub(crate) fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }
}

fn said(address: SocketAddr, until: Instant) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_write_timeout(Some(WITHIN))?;
    stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut said = Vec::new();
    loop {
        let left = until.saturating_duration_since(now());
        if left.is_zero() || said.len() > MOST {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let mut some = [0; 4096];
        match stream.read(&mut some)? {
            0 => return Ok(said),
            read => said.extend_from_slice(&some[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Somebody who answers one question with `answer`, and then with nothing more.
    fn answering(answer: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked);
            let _ = stream.write_all(&answer);
        });
        address
    }

    #[test]
    fn a_report_is_understood_also_when_it_is_not_ready() {
        let body = r#"{"ready":false,"checks":[{"name":"line","ok":false,"needed":false,"why":"cut"},{"name":"state","ok":true,"needed":true}]}"#;
        let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\r\n";
        let health = Health::ask(answering(format!("{head}{body}").into_bytes()).port()).unwrap();
        assert!(!health.ready);
        assert_eq!(health.check("line").unwrap().why.as_deref(), Some("cut"));
        assert!(health.check("state").unwrap().ok);
    }

    #[test]
    fn what_is_no_report_is_none() {
        for answer in [&b""[..], b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n{\"ready\":", b"\xff\xfe"] {
            assert_eq!(Health::ask(answering(answer.to_vec()).port()), None);
        }
        assert_eq!(Health::ask(answering(vec![b'x'; 10 * MOST]).port()), None);
    }

    #[test]
    fn who_answers_slowly_or_never_is_left() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let until = now() + Duration::from_millis(100);
        assert!(said(listener.local_addr().unwrap(), until).is_err());
    }
}
