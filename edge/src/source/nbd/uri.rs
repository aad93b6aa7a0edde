//! Where an NBD export is, as people write it: the URIs of the NBD project, and `bitmap=` for who follows changes.

use nbd::Address;
use std::fmt;
use std::path::PathBuf;

/// The port that NBD has at IANA.
const PORT: u16 = 10809;
/// Longest name of an export or a bitmap, in bytes: the protocol's bound on texts, less what stands before a bitmap's name.
const MAX_NAME: usize = 4000;

/// An export, as in `nbd://host:10809/disk?bitmap=sluice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdUri {
    /// Where the server listens.
    pub address: Address,
    /// By TLS: the name that the server's certificate has to carry.
    pub tls: Option<String>,
    /// The export; many servers have one without a name.
    pub export: String,
    /// The dirty bitmap of QEMU that follows changes.
    pub bitmap: Option<String>,
}

/// How it is written, for who wrote it otherwise.
pub const EXAMPLE: &str = "nbd://HOST:PORT/EXPORT, nbds://HOST:PORT/EXPORT for TLS, nbd+unix:///EXPORT?socket=/PATH, and ?bitmap=NAME where QEMU follows changes";

impl NbdUri {
    /// Parses it; the error says what is wrong.
    pub fn parse(text: &str) -> Result<NbdUri, String> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no `://`")?;
        let (tls, unix) = match scheme {
            "nbd" => (false, false),
            "nbds" => (true, false),
            "nbd+unix" => (false, true),
            "nbds+unix" => (true, true),
            _ => return Err(format!("`{scheme}` is no scheme of NBD")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let (mut socket, mut bitmap, mut name) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` has no `=`"))?;
            let slot = match key {
                "socket" => &mut socket,
                "bitmap" => &mut bitmap,
                "tls-hostname" => &mut name,
                _ => return Err(format!("`{key}` is not known here")),
            };
            if slot.replace(named(key, value)?).is_some() {
                return Err(format!("`{key}` is there twice"));
            }
        }
        let address = match (unix, socket) {
            (true, Some(path)) if path.starts_with('/') && authority.is_empty() => Address::Unix(PathBuf::from(path)),
            (true, _) => return Err("a Unix socket needs `?socket=` with an absolute path, and no host".into()),
            (false, Some(_)) => return Err("`socket` belongs to nbd+unix".into()),
            (false, None) => Address::Tcp(host(authority)?),
        };
        let tls = match (tls, name, &address) {
            (false, Some(_), _) => return Err("`tls-hostname` belongs to nbds".into()),
            (false, None, _) => None,
            (true, Some(name), _) => Some(name),
            (true, None, Address::Tcp(host)) => Some(host_of(host)),
            (true, None, Address::Unix(_)) => {
                return Err("TLS over a Unix socket needs `tls-hostname=`, the name in the server's certificate".into());
            }
        };
        if bitmap.as_ref().is_some_and(String::is_empty) {
            return Err("`bitmap` has no name".into());
        }
        Ok(NbdUri { address, tls, export: named("the export", export)?, bitmap })
    }

    /// Whether both are the same export, whatever follows its changes.
    pub fn is_same_export(&self, other: &NbdUri) -> bool {
        (&self.address, &self.export) == (&other.address, &other.export)
    }
}

/// A host and port that may be dialled.
fn host(authority: &str) -> Result<String, String> {
    if authority.contains('@') {
        return Err("a user has no place in it".into());
    }
    // The colons of an IPv6 address are in brackets.
    let (name, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((name, port)) => (name, port.parse().map_err(|_| format!("`{port}` is no port"))?),
        None => (authority, PORT),
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:%".contains(&byte);
    if name.is_empty() || !name.bytes().all(good) || name.starts_with('[') != name.ends_with(']') {
        return Err(format!("`{name}` is no host"));
    }
    Ok(format!("{name}:{port}"))
}

fn host_of(address: &str) -> String {
    let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
    name.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// Undoes percent-encoding; refuses what no name has.
pub(in crate::source) fn named(what: &str, text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(format!("{what} ends in half a `%`")) };
        bytes.push((high * 16 + low) as u8);
    }
    match String::from_utf8(bytes) {
        Ok(name) if name.len() <= MAX_NAME && !name.chars().any(char::is_control) => Ok(name),
        _ => Err(format!("{what} is no name: at most {MAX_NAME} bytes of text without control characters")),
    }
}

pub(in crate::source) fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(byte);
    let one = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.tls.is_some() { "s" } else { "" };
        let mut query = Vec::new();
        match &self.address {
            Address::Tcp(host) => write!(f, "nbd{s}://{host}/{}", encoded(&self.export))?,
            Address::Unix(path) => {
                write!(f, "nbd{s}+unix:///{}", encoded(&self.export))?;
                query.push(format!("socket={}", encoded(&path.to_string_lossy())));
            }
        }
        let implied = match &self.address {
            Address::Tcp(host) => Some(host_of(host)),
            Address::Unix(_) => None,
        };
        query.extend(
            self.tls
                .iter()
                .filter(|name| implied.as_ref() != Some(name))
                .map(|name| format!("tls-hostname={}", encoded(name))),
        );
        query.extend(self.bitmap.iter().map(|bitmap| format!("bitmap={}", encoded(bitmap))));
        if query.is_empty() { Ok(()) } else { write!(f, "?{}", query.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_written_as_the_nbd_project_writes_them() {
        for (text, shown) in [
            ("nbd://host", "nbd://host:10809/"),
            ("nbd://host/disk", "nbd://host:10809/disk"),
            ("nbd://[::1]:99/a/b?bitmap=s", "nbd://[::1]:99/a/b?bitmap=s"),
            ("nbd+unix:///?socket=/run/a%20b", "nbd+unix:///?socket=/run/a%20b"),
            ("nbd+unix:///d%C3%A4?bitmap=x&socket=/s", "nbd+unix:///d%C3%A4?socket=/s&bitmap=x"),
            ("nbds://host:1/x", "nbds://host:1/x"),
            ("nbds://10.0.0.1/x?tls-hostname=store", "nbds://10.0.0.1:10809/x?tls-hostname=store"),
            ("nbds+unix:///?socket=/s&tls-hostname=store", "nbds+unix:///?socket=/s&tls-hostname=store"),
        ] {
            let uri = NbdUri::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(uri.to_string(), shown);
            assert_eq!(NbdUri::parse(shown).as_ref(), Ok(&uri));
        }
        assert_eq!(NbdUri::parse("nbds://[fe80::1]/").unwrap().tls.as_deref(), Some("fe80::1"));
    }

    #[test]
    fn what_is_no_export_is_refused_with_the_reason() {
        for (text, why) in [
            ("nbd:host", "no `://`"),
            ("nbd:///disk", "is no host"),
            ("nbd://me@host/", "a user"),
            ("nbd://host:x/", "is no port"),
            ("nbd://[::1/", "is no host"),
            ("nbd://host/?socket=/s", "belongs to nbd+unix"),
            ("nbd+unix:///x", "`?socket=`"),
            ("nbd+unix:///x?socket=rel", "absolute"),
            ("nbds+unix:///x?socket=/s", "tls-hostname"),
            ("nbd://host/?tls-hostname=a", "belongs to nbds"),
            ("nbd://host/?bitmap=", "has no name"),
            ("nbd://host/?bitmap=a&bitmap=b", "twice"),
            ("nbd://host/?colour=red", "`colour` is not known"),
            ("nbd://host/%0a", "control"),
            ("nbd://host/%f", "half a `%`"),
            ("nbd://host/%ff", "is no name"),
        ] {
            let refused = NbdUri::parse(text).expect_err(text);
            assert!(refused.contains(why), "{text}: {refused}");
        }
        assert!(NbdUri::parse(&format!("nbd://host/{}", "x".repeat(MAX_NAME + 1))).is_err());
    }
}
