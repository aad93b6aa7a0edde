//! The configuration: one TOML file, read into a raw form that refuses unknown fields and turned at once into types that cannot be wrong.

use serde::Deserialize;
use shaping::{BitsPerSec, Rate};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use wire::statement::KeyId;

/// What one gateway is told by its operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Directory of everything durable: authority, catalogue, tenants. Owned by one daemon at a time.
    pub state: PathBuf,
    /// Where edges are awaited, QUIC over UDP. An IPv6 address serves IPv4 as well where the system allows it.
    pub listen: Vec<SocketAddr>,
    /// `host:port` under which edges reach this gateway, in order of preference; told to every edge. Empty: the bound addresses.
    pub addresses: Vec<String>,
    /// Where `/metrics` and `/health` are served; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// Parcels that are decoded at once. Each takes up to [`crate::ingest::WORKER_MEMORY`].
    pub decode_workers: usize,
    /// Sealed generations that are kept of each volume; older ones are forgotten.
    pub retention: usize,
    /// How long after a second person agreed something is given up for good.
    pub deletion_delay: Duration,
    /// Where packs lie, a folder per tenant; `None`: in the state directory.
    pub packs: Option<PathBuf>,
    /// Validity of an edge's certificate. Edges renew after two thirds.
    pub certificate_validity: Duration,
    /// What the gateway's own line carries: dealt out to the edges that have work. `None`: it is no bottleneck.
    pub ingress: Option<BitsPerSec>,
    /// Bytes that stay free on the disk: an edge is told to wait before they are touched.
    pub reserve: u64,
    /// Pages and API; `None`: they are not served.
    pub web: Option<WebConfig>,
    /// Keys of whoever makes releases of the appliance's system; empty: those of the software's own maker, see [`crate::releases::KEYS_FILE`].
    pub release_keys: Vec<KeyId>,
    /// Where other machines may read exports by NBD; `None`: only this machine, by the socket in the state directory.
    pub export: Option<ExportConfig>,
}

/// How exports are served to other machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportConfig {
    /// Where.
    pub listen: SocketAddr,
    /// A folder with `ca-cert.pem`, `server-cert.pem` and `server-key.pem`: clients have to show a certificate of that authority. `None` only on the loopback.
    pub tls: Option<PathBuf>,
}

/// How pages and API are served.
#[derive(Clone, Debug, PartialEq)]
pub struct WebConfig {
    /// Where.
    pub listen: SocketAddr,
    /// Names and addresses under which browsers come; others are refused, and our own certificate is made for these.
    pub names: Vec<String>,
    /// What encrypts them.
    pub tls: WebTls,
    /// Folders below which generations may be rehydrated by whoever does not sit at this machine.
    pub targets: Vec<PathBuf>,
    /// Folders below which files of credentials for targets may be named by whoever does not sit at this machine.
    pub credentials: Vec<PathBuf>,
    /// The libvirt whose domains may be defined, started and removed by whoever does not sit at this machine; `None`: nobody else's.
    pub libvirt: Option<String>,
    /// The folder with domains' templates, `NAME.xml`, that they may choose from.
    pub templates: Option<PathBuf>,
}

/// What encrypts pages and API.
#[derive(Clone, Debug, PartialEq)]
pub enum WebTls {
    /// A certificate of our own authority, made anew each day.
    Own,
    /// A certificate and key of somebody else's, PEM.
    Given {
        /// The certificate, and those between it and its authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Nothing: something in front of it does. Only on the loopback.
    Off,
}

/// Why a configuration cannot be used. Every text names the file, the line and the field, and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error(
        "cannot read the configuration {path}: {source}; `sluice-gateway init` writes one, give its place with --config"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It is not TOML, or has a field that there is not.
    #[error("the configuration {path} does not parse: {why}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why, in the parser's words.
        why: String,
    },
    /// A field has a value that it cannot have.
    #[error("{path}, line {line}: `{field}`: {why}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// What is wrong and what to write instead.
        why: String,
    },
}

/// Every default with its reason.
pub mod defaults {
    use super::Duration;

    /// Where a package would put it.
    pub const STATE: &str = "/var/lib/sluice-gateway";
    /// All addresses, both families; UDP, so the TCP port of the same number is free for metrics.
    pub const LISTEN: &str = "[::]:9470";
    /// Loopback only: metrics name sites and volumes.
    pub const HTTP: &str = "127.0.0.1:9470";
    /// Loopback only, until somebody decides from where the gateway is steered.
    pub const WEB: &str = "127.0.0.1:9443";
    /// A month of nightly generations.
    pub const RETENTION: usize = 30;
    /// Hours between a second person's word and a deletion: a week holds a holiday, in which somebody notices.
    pub const DELETION_DELAY: u64 = 7 * 24;
    /// Shortest: a day, so that whoever sleeps now can still cancel.
    pub const MIN_DELETION_DELAY: u64 = 24;
    /// A branch that is cut off for a month still gets back in: it renews with 30 days to go.
    pub const CERTIFICATE_DAYS: u64 = 90;
    /// Shortest validity that makes sense: a renewal must survive a long weekend.
    pub const MIN_CERTIFICATE_DAYS: u64 = 7;
    /// Longest: a stolen key should not be useful for years.
    pub const MAX_CERTIFICATE_DAYS: u64 = 825;
    /// Two packs, an index commit and the logs of a day.
    pub const RESERVE: u64 = 256 << 20;
    /// How long a daemon that was asked to stop waits for what is under way; service managers kill after 90 s.
    pub const DRAIN: Duration = Duration::from_secs(20);
    /// More decoders than this is a mistyped number, not a machine.
    pub const MAX_DECODE_WORKERS: usize = 256;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    state: Option<PathBuf>,
    listen: Option<Spanned<Vec<String>>>,
    addresses: Option<Spanned<Vec<String>>>,
    http: Option<Spanned<String>>,
    decode_workers: Option<Spanned<i64>>,
    retention: Option<Spanned<i64>>,
    deletion_delay_hours: Option<Spanned<i64>>,
    packs: Option<PathBuf>,
    certificate_days: Option<Spanned<i64>>,
    reserve_mib: Option<Spanned<i64>>,
    ingress: Option<Spanned<String>>,
    #[serde(default)]
    web: RawWeb,
    export: Option<RawExport>,
    #[serde(default)]
    releases: RawReleases,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReleases {
    keys: Option<Spanned<Vec<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExport {
    listen: Spanned<String>,
    tls: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWeb {
    listen: Option<Spanned<String>>,
    names: Option<Spanned<Vec<String>>>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<PathBuf>,
    tls: Option<Spanned<String>>,
    targets: Option<Spanned<Vec<PathBuf>>>,
    credentials: Option<Spanned<Vec<PathBuf>>>,
    libvirt: Option<Spanned<String>>,
    templates: Option<Spanned<PathBuf>>,
}

impl Config {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(&text, path)
    }

    /// Reads a text; `path` is where it came from, for messages. Relative directories are taken from the file's directory.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let raw: Raw = toml::from_str(text)
            .map_err(|why| ConfigError::Parse { path: path.to_owned(), why: why.to_string().trim_end().to_owned() })?;
        let page = Page { text, path };
        let beside = |dir: PathBuf| path.parent().map(|parent| parent.join(&dir)).unwrap_or(dir);
        let days = page.whole(
            "certificate_days",
            raw.certificate_days,
            defaults::CERTIFICATE_DAYS,
            defaults::MIN_CERTIFICATE_DAYS..=defaults::MAX_CERTIFICATE_DAYS,
        )?;
        let workers = default_workers() as u64;
        Ok(Config {
            state: beside(raw.state.unwrap_or_else(|| defaults::STATE.into())),
            listen: page.listen(raw.listen)?,
            addresses: page.addresses(raw.addresses)?,
            http: page.http(raw.http)?,
            ingress: page.ingress(raw.ingress)?,
            decode_workers: page.whole(
                "decode_workers",
                raw.decode_workers,
                workers,
                1..=defaults::MAX_DECODE_WORKERS as u64,
            )? as usize,
            retention: page.whole("retention", raw.retention, defaults::RETENTION as u64, 1..=1_000_000)? as usize,
            deletion_delay: Duration::from_secs(
                3600 * page.whole(
                    "deletion_delay_hours",
                    raw.deletion_delay_hours,
                    defaults::DELETION_DELAY,
                    defaults::MIN_DELETION_DELAY..=365 * 24,
                )?,
            ),
            packs: raw.packs.map(beside),
            certificate_validity: Duration::from_secs(days * 86_400),
            reserve: page.whole("reserve_mib", raw.reserve_mib, defaults::RESERVE >> 20, 0..=1 << 30)? << 20,
            web: page.web(raw.web, &beside)?,
            release_keys: page.release_keys(raw.releases)?,
            export: page.export(raw.export, &beside)?,
        })
    }

    /// A configuration of defaults with this state directory; what an empty file there would give.
    pub fn new(state: impl Into<PathBuf>) -> Config {
        let mut config = Config::parse("", Path::new("")).expect("every default is valid");
        config.state = state.into();
        config
    }

    /// The file that `init` writes: what has to be known, and the rest as comments.
    pub fn template(state: &Path, addresses: &[String]) -> String {
        let quoted: Vec<String> = addresses.iter().map(|address| format!("{address:?}")).collect();
        format!(
            "# Configuration of a Sluice gateway. `sluice-gateway check-config --config FILE` checks it.\n\n\
             # Everything durable.\nstate = {state:?}\n\n\
             # `host:port` under which edges reach this gateway, in order of preference.\naddresses = [{}]\n\n\
             # Where edges are awaited (UDP).\n# listen = [{:?}]\n\n\
             # Where /metrics and /health are served; \"off\" for nowhere.\n# http = {:?}\n\n\
             # Parcels decoded at once, up to {} MiB of memory each.\n# decode_workers = {}\n\n\
             # What this gateway's own line carries: shared among the edges that have work.\n# ingress = \"100 Mbit/s\"\n\n\
             # Sealed generations kept of each volume.\n# retention = {}\n\n\
             # Hours between the word of a second person and a deletion.\n# deletion_delay_hours = {}\n\n\
             # Pages and API; listen \"off\": not served. Names: how browsers reach it. Targets: folders below which it may be told\n\
             # from afar to rehydrate. Credentials: folders below which targets that are set up from afar find their files of credentials.\n\
             # Libvirt: where domains may be defined and started from afar; templates: a folder of their templates, NAME.xml.\n\
             # A certificate of your own: `certificate` and `key` (PEM); without, one of the gateway's authority.\n\
             [web]\n# listen = {:?}\n# names = [\"gateway.example.org\"]\n# targets = [\"/srv/targets\"]\n# credentials = [\"/etc/sluice/credentials\"]\n# libvirt = \"qemu:///system\"\n# templates = \"/etc/sluice/domains\"\n\n\
             # Whose releases of the appliance's system are imported: public keys; without, the maker of this software.\n\
             # [releases]\n# keys = [\"{}\"]\n\n\
             # NBD for other machines; `tls` is a folder with ca-cert.pem, server-cert.pem and server-key.pem.\n\
             # [export]\n# listen = \"[::]:10809\"\n# tls = \"/etc/sluice/nbd\"\n",
            quoted.join(", "),
            defaults::LISTEN,
            defaults::HTTP,
            crate::ingest::WORKER_MEMORY >> 20,
            default_workers(),
            defaults::RETENTION,
            defaults::DELETION_DELAY,
            defaults::WEB,
            "0".repeat(64),
        )
    }
}

/// Keys of releases at most: one, and the next, of a few makers.
const MOST_RELEASE_KEYS: usize = 16;

/// As many decoders as cores: decoding is CPU, and a further one would only hold memory.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The text that values came from, to say on which line a bad one stands.
struct Page<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Page<'_> {
    fn refuse<T>(&self, field: &'static str, at: &Spanned<T>, why: impl Into<String>) -> ConfigError {
        let line = 1 + self.text[..at.span().start].matches('\n').count();
        ConfigError::Field { path: self.path.to_owned(), line, field, why: why.into() }
    }

    fn whole(
        &self,
        field: &'static str,
        raw: Option<Spanned<i64>>,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, ConfigError> {
        let Some(raw) = raw else { return Ok(default) };
        match u64::try_from(*raw.get_ref()) {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(self.refuse(field, &raw, format!("must be from {} to {}", range.start(), range.end()))),
        }
    }

    fn ingress(&self, raw: Option<Spanned<String>>) -> Result<Option<BitsPerSec>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        match raw.get_ref().parse() {
            Ok(Rate::Limited(limit)) => Ok(Some(limit)),
            Ok(Rate::Unlimited) => Ok(None),
            Ok(Rate::Closed) => {
                Err(self.refuse("ingress", &raw, "must be above 0, as in \"100 Mbit/s\"; to stop a site, hold it"))
            }
            Err(why) => Err(self.refuse("ingress", &raw, why.to_string())),
        }
    }

    fn release_keys(&self, raw: RawReleases) -> Result<Vec<KeyId>, ConfigError> {
        let Some(keys) = raw.keys else { return Ok(Vec::new()) };
        if keys.get_ref().is_empty() || keys.get_ref().len() > MOST_RELEASE_KEYS {
            let why =
                format!("names from 1 to {MOST_RELEASE_KEYS} keys; leave it out to trust the software's own maker");
            return Err(self.refuse("keys", &keys, why));
        }
        let read = |text: &String| {
            let why = || format!("`{}` is no key: write its 64 hexadecimal digits", crate::text::printable(text));
            KeyId::read(text.trim()).map_err(|_| self.refuse("keys", &keys, why()))
        };
        keys.get_ref().iter().map(read).collect()
    }

    fn export(
        &self,
        raw: Option<RawExport>,
        beside: &impl Fn(PathBuf) -> PathBuf,
    ) -> Result<Option<ExportConfig>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        let text = raw.listen.get_ref();
        let listen: SocketAddr = text.parse().map_err(|_| self.refuse("listen", &raw.listen, not_an_address(text)))?;
        if raw.tls.is_none() && !listen.ip().is_loopback() {
            let why = "whole volumes would travel in the clear to whoever asks: name a folder of certificates as `tls`, or an address of the loopback";
            return Err(self.refuse("listen", &raw.listen, why));
        }
        Ok(Some(ExportConfig { listen, tls: raw.tls.map(beside) }))
    }

    fn web(&self, raw: RawWeb, beside: &impl Fn(PathBuf) -> PathBuf) -> Result<Option<WebConfig>, ConfigError> {
        let listen: SocketAddr = match &raw.listen {
            None => defaults::WEB.parse().expect("the default is an address"),
            Some(text) if text.get_ref() == "off" => return Ok(None),
            Some(text) => text
                .get_ref()
                .parse()
                .map_err(|_| self.refuse("listen", text, not_an_address(text.get_ref()) + ", or \"off\""))?,
        };
        let names = match &raw.names {
            None => Vec::new(),
            Some(names) => {
                let fits = |name: &String| {
                    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
                    name.parse::<std::net::IpAddr>().is_ok()
                        || (!name.is_empty() && name.len() <= 253 && name.chars().all(plain))
                };
                if let Some(wrong) = names.get_ref().iter().find(|name| !fits(name)) {
                    let why = format!(
                        "`{}` is no host name or IP address; write it without scheme and port",
                        crate::text::printable(wrong)
                    );
                    return Err(self.refuse("names", names, why));
                }
                names.get_ref().iter().map(|name| name.to_ascii_lowercase()).collect()
            }
        };
        let tls = match (&raw.tls, raw.certificate, raw.key) {
            (Some(tls), None, None) if tls.get_ref() == "off" && listen.ip().is_loopback() => WebTls::Off,
            (Some(tls), None, None) if tls.get_ref() == "off" => {
                let why = "passwords would travel in the clear: only an address of the loopback, with something in front of it that encrypts, may do without";
                return Err(self.refuse("tls", tls, why));
            }
            (Some(tls), ..) => {
                return Err(self.refuse("tls", tls, "can only be \"off\", without `certificate` and `key`"));
            }
            (None, Some(certificate), Some(key)) => {
                WebTls::Given { certificate: beside(certificate.into_inner()), key: beside(key) }
            }
            (None, Some(certificate), None) => {
                return Err(self.refuse("certificate", &certificate, "needs its `key`, too"));
            }
            (None, None, _) => WebTls::Own,
        };
        let targets = self.folders("targets", raw.targets, "/srv/targets")?;
        let credentials = self.folders("credentials", raw.credentials, "/etc/sluice/credentials")?;
        let (libvirt, templates) = self.libvirt(raw.libvirt, raw.templates)?;
        Ok(Some(WebConfig { listen, names, tls, targets, credentials, libvirt, templates }))
    }

    /// The address of libvirt and the folder of templates.
    fn libvirt(
        &self,
        uri: Option<Spanned<String>>,
        templates: Option<Spanned<PathBuf>>,
    ) -> Result<(Option<String>, Option<PathBuf>), ConfigError> {
        if let Some(uri) = &uri
            && (!uri.get_ref().contains(":/") || uri.get_ref().starts_with('-'))
        {
            let why = "is the address of a libvirt, as in \"qemu:///system\"";
            return Err(self.refuse("libvirt", uri, why));
        }
        if let Some(folder) = templates.as_ref().filter(|folder| !folder.get_ref().is_absolute()) {
            let why = "is not absolute; write it from the root, as in \"/etc/sluice/domains\"";
            return Err(self.refuse("templates", folder, why));
        }
        Ok((uri.map(Spanned::into_inner), templates.map(Spanned::into_inner)))
    }

    /// Folders of the machine, from its root.
    fn folders(
        &self,
        field: &'static str,
        raw: Option<Spanned<Vec<PathBuf>>>,
        example: &str,
    ) -> Result<Vec<PathBuf>, ConfigError> {
        let Some(folders) = raw else { return Ok(Vec::new()) };
        match folders.get_ref().iter().find(|path| !path.is_absolute()) {
            Some(path) => {
                let why = format!("`{}` is not absolute; write it from the root, as in {example:?}", path.display());
                Err(self.refuse(field, &folders, why))
            }
            None => Ok(folders.into_inner()),
        }
    }

    fn listen(&self, raw: Option<Spanned<Vec<String>>>) -> Result<Vec<SocketAddr>, ConfigError> {
        let Some(raw) = raw else { return Ok(vec![defaults::LISTEN.parse().expect("the default is an address")]) };
        if raw.get_ref().is_empty() {
            return Err(self.refuse(
                "listen",
                &raw,
                format!("needs at least one address, as in [{:?}]", defaults::LISTEN),
            ));
        }
        let parse = |text: &String| text.parse().map_err(|_| self.refuse("listen", &raw, not_an_address(text)));
        raw.get_ref().iter().map(parse).collect()
    }

    fn addresses(&self, raw: Option<Spanned<Vec<String>>>) -> Result<Vec<String>, ConfigError> {
        let Some(raw) = raw else { return Ok(Vec::new()) };
        for address in raw.get_ref() {
            check_announced(address).map_err(|why| self.refuse("addresses", &raw, why))?;
        }
        match raw.get_ref().len() {
            0..=16 => Ok(raw.into_inner()),
            _ => Err(self.refuse("addresses", &raw, "at most 16 are told to edges")),
        }
    }

    fn http(&self, raw: Option<Spanned<String>>) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(raw) = raw else { return Ok(Some(defaults::HTTP.parse().expect("the default is an address"))) };
        match raw.get_ref().as_str() {
            "off" => Ok(None),
            text => {
                text.parse().map(Some).map_err(|_| self.refuse("http", &raw, not_an_address(text) + ", or \"off\""))
            }
        }
    }
}

fn not_an_address(text: &str) -> String {
    format!("`{text}` is not an address and port; write one as in \"127.0.0.1:9470\" or \"[::]:9470\"")
}

/// Whether edges could dial this: a host (name, IPv4, or IPv6 in brackets) and a port.
pub fn check_announced(address: &str) -> Result<(), String> {
    let refuse = || {
        format!(
            "`{address}` is not a host and port; write one as in \"gateway.example:9470\" or \"[2001:db8::1]:9470\""
        )
    };
    if let Ok(address) = address.parse::<SocketAddr>() {
        let unreachable = address.ip().is_unspecified() || address.port() == 0;
        return if unreachable {
            Err(format!("edges cannot dial `{address}`; write the address that they reach"))
        } else {
            Ok(())
        };
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(refuse)?;
    let host_ok = !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    match port.parse::<u16>() {
        Ok(1..) if host_ok => Ok(()),
        _ => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Config::parse(text, Path::new("/etc/sluice/gateway.toml")).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let config = Config::new("/x");
        assert_eq!(config.listen, ["[::]:9470".parse().unwrap()]);
        assert_eq!(config.http, Some("127.0.0.1:9470".parse().unwrap()));
        assert_eq!((config.retention, config.packs.clone()), (30, None));
        assert!(config.decode_workers >= 1);
    }

    #[test]
    fn the_template_is_a_valid_file() {
        let addresses = ["gw.example:9470".to_owned(), "[::1]:7".to_owned()];
        let config = Config::parse(&Config::template(Path::new("/srv/s"), &addresses), Path::new("/a/b.toml")).unwrap();
        assert_eq!((config.state, config.addresses), (PathBuf::from("/srv/s"), addresses.to_vec()));
        let commented = Config::template(Path::new("/srv/s"), &[])
            .replace("\n# ", "\n")
            .replace("# Conf", "\n#")
            .lines()
            .filter(|line| line.contains(" = ") || line.starts_with('[') || line.is_empty())
            .collect::<Vec<_>>()
            .join("\n");
        Config::parse(&commented, Path::new("x")).expect("what stands in comments is valid too");
    }

    #[test]
    fn relative_folders_lie_beside_the_file() {
        let config = Config::parse("state = \"s\"\npacks = \"/big\"", Path::new("/etc/sluice/gateway.toml")).unwrap();
        assert_eq!(config.state, Path::new("/etc/sluice/s"));
        assert_eq!(config.packs.as_deref(), Some(Path::new("/big")));
    }

    #[test]
    fn mistakes_are_named_with_file_line_field_and_remedy() {
        assert_eq!(
            refused("state = \"x\"\nretention = 0"),
            "/etc/sluice/gateway.toml, line 2: `retention`: must be from 1 to 1000000"
        );
        assert_eq!(
            refused("\nlisten = [\"9470\"]"),
            "/etc/sluice/gateway.toml, line 2: `listen`: `9470` is not an address and port; write one as in \"127.0.0.1:9470\" or \"[::]:9470\""
        );
        assert_eq!(
            refused("listen = []"),
            "/etc/sluice/gateway.toml, line 1: `listen`: needs at least one address, as in [\"[::]:9470\"]"
        );
        assert_eq!(
            refused("addresses = [\"0.0.0.0:9470\"]"),
            "/etc/sluice/gateway.toml, line 1: `addresses`: edges cannot dial `0.0.0.0:9470`; write the address that they reach"
        );
        assert_eq!(
            refused("addresses = [\"gateway\"]"),
            "/etc/sluice/gateway.toml, line 1: `addresses`: `gateway` is not a host and port; write one as in \"gateway.example:9470\" or \"[2001:db8::1]:9470\""
        );
        assert_eq!(
            refused("http = \"yes\""),
            "/etc/sluice/gateway.toml, line 1: `http`: `yes` is not an address and port; write one as in \"127.0.0.1:9470\" or \"[::]:9470\", or \"off\""
        );
        assert!(refused("deletion_delay_hours = 23").ends_with("`deletion_delay_hours`: must be from 24 to 8760"));
        assert!(refused("certificate_days = 1").ends_with("`certificate_days`: must be from 7 to 825"));
        assert_eq!(
            refused("[web]\nlisten = \"0.0.0.0:9443\"\ntls = \"off\""),
            "/etc/sluice/gateway.toml, line 3: `tls`: passwords would travel in the clear: only an address of the loopback, with something in front of it that encrypts, may do without"
        );
        assert!(refused("[web]\nnames = [\"https://gw\"]").contains("`https://gw` is no host name or IP address"));
        assert!(refused("[releases]\nkeys = []").ends_with("leave it out to trust the software's own maker"));
        assert!(refused("[releases]\nkeys = [\"ab\"]").contains("line 2: `keys`: `ab` is no key"));
        assert!(refused("[web]\ncertificate = \"a.pem\"").ends_with("`certificate`: needs its `key`, too"));
        assert!(refused("[web]\ntargets = [\"srv\"]").contains("`srv` is not absolute"));
        assert!(refused("[web]\ncredentials = [\"keys\"]").contains("`credentials`: `keys` is not absolute"));
        assert!(refused("[web]\ntemplates = \"domains\"").contains("line 2: `templates`: is not absolute"));
        for wrong in ["here", "-c:/x"] {
            assert!(
                refused(&format!("[web]\nlibvirt = \"{wrong}\"")).contains("`libvirt`: is the address of a libvirt")
            );
        }
    }

    #[test]
    fn unknown_fields_and_broken_files_are_refused_with_their_line() {
        let unknown = refused("state = \"x\"\nretension = 30");
        assert!(
            unknown
                .starts_with("the configuration /etc/sluice/gateway.toml does not parse: TOML parse error at line 2"),
            "{unknown}"
        );
        assert!(unknown.contains("unknown field `retension`, expected one of"), "{unknown}");
        assert!(refused("state = ").contains("line 1"));
        let missing = Config::load(Path::new("/nowhere/gateway.toml")).unwrap_err().to_string();
        assert_eq!(
            missing,
            "cannot read the configuration /nowhere/gateway.toml: No such file or directory (os error 2); `sluice-gateway init` writes one, give its place with --config"
        );
    }
}
