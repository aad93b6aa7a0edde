//! The configuration: one TOML file, read into a raw form that refuses unknown fields and turned at once into types that cannot be wrong.

use crate::appliance::ApplianceConfig;
use crate::budget::{Budget, DEFAULT_MEMORY, MIN_MEMORY};
use crate::capture::sample::{Sampling, UNIT};
use crate::freeze;
use crate::source::SourceConfig;
use crate::source::nbd::NbdConfig;
use crate::source::qemu::QemuConfig;
use crate::text;
use dedupe::ByteCount;
use serde::Deserialize;
use shaping::Rate;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// What one edge is told by its operator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of everything durable: identity, store, spool. Owned by one daemon at a time.
    pub state: PathBuf,
    /// What the link may use, both directions of everything counted at IP level on its way up.
    ///
    /// Where the site has a policy this is a ceiling; `None`: none, and without a policy nothing is sent.
    pub rate: Option<Rate>,
    /// Bits per second that the encoder assumes when `rate` is unlimited or closed: decides how much CPU a byte is worth.
    pub assume_rate: u64,
    /// Ceiling of the daemon's memory.
    pub memory: ByteCount,
    /// What the content cache of old bytes may take on disk.
    pub cache: ByteCount,
    /// What the spool may take on disk.
    pub spool: ByteCount,
    /// UDP payload of one datagram at most; `None`: follows from the rate.
    pub max_datagram: Option<u16>,
    /// How volumes are captured.
    pub capture: CaptureConfig,
    /// What sources need to know beside which one they are.
    pub sources: SourceConfig,
    /// Where `/metrics` and `/health` are served; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// The page for people at the site; `None`: there is none.
    pub page: Option<PageConfig>,
    /// Where the appliance says what runs on it.
    pub appliance: ApplianceConfig,
}

/// The page for people at the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageConfig {
    /// Where it is served. By TLS, unless it is a loopback address.
    pub listen: SocketAddr,
    /// Names by which browsers may ask for it, beside IP addresses and `localhost`. Without ports.
    pub names: Vec<String>,
}

impl PageConfig {
    /// Whether it is served by TLS: whatever can be heard by others is.
    pub fn is_tls(&self) -> bool {
        !self.listen.ip().is_loopback()
    }
}

/// How volumes are captured.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Time from one capture of a volume to its next; `None`: only when asked.
    pub interval: Option<Duration>,
    /// Threads that capture at most; the memory ceiling may allow fewer.
    pub workers: usize,
    /// How much is read beside what a source says has changed.
    pub sampling: Sampling,
    /// How long what uses a volume may be frozen while its moment is taken.
    pub freeze_within: Duration,
}

/// Why a configuration cannot be used. Every text names the file, the line and the field, and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {source}; give its place with --config")]
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
    use super::*;

    /// Where a package would put it.
    pub const STATE: &str = "/var/lib/sluice-edge";
    /// The thinnest line: there a byte costs most, so CPU is spent most freely.
    pub const ASSUME_RATE: u64 = 2_000_000;
    /// Old bytes that deltas use as bases. The disk of a branch's box is rarely smaller than twice this.
    pub const CACHE: ByteCount = ByteCount(200_000_000_000);
    /// A dozen parcels of incompressible bytes: enough for every volume to have its next parcels ready.
    pub const SPOOL: ByteCount = ByteCount(2 << 30);
    /// One parcel of incompressible bytes and its successor have to fit.
    pub const MIN_SPOOL: ByteCount = ByteCount(160 << 20);
    /// What a guest overwrites while one of its disks is captured: half an hour of 8 MB/s in other places each time. Never more than half of the room that there is.
    pub const SCRATCH_MOST: ByteCount = ByteCount(16 << 30);
    /// Less ends captures of machines that hardly write.
    pub const MIN_SCRATCH: ByteCount = ByteCount(16 << 20);
    /// Loopback only: metrics name volumes.
    pub const HTTP: &str = "127.0.0.1:9471";
    /// Loopback only: at the box itself, or through whatever leads there. A branch's network is given it by name, and then it is TLS.
    pub const PAGE: &str = "127.0.0.1:9472";
    /// Where `sluice-box` says which release runs.
    pub const APPLIANCE: &str = "/run/sluice";
    /// Part of the system, so that only a release changes it.
    pub const RELEASE_KEYS: &str = "/usr/lib/sluice/release-keys";
    /// Captures more often than this would do nothing but read.
    pub const MIN_INTERVAL: Duration = Duration::from_secs(10);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    state: Option<PathBuf>,
    rate: Option<Spanned<String>>,
    assume_rate: Option<Spanned<String>>,
    memory: Option<Spanned<String>>,
    cache: Option<Spanned<String>>,
    spool: Option<Spanned<String>>,
    max_datagram: Option<Spanned<i64>>,
    #[serde(default)]
    capture: RawCapture,
    #[serde(default)]
    nbd: RawNbd,
    #[serde(default)]
    qemu: RawQemu,
    #[serde(default)]
    http: RawHttp,
    /// `"127.0.0.1:9472"`, `"off"`, or `{ listen = "…", names = ["…"] }`.
    page: Option<Spanned<toml::Value>>,
    #[serde(default)]
    appliance: RawAppliance,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAppliance {
    folder: Option<PathBuf>,
    keys: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCapture {
    interval: Option<Spanned<String>>,
    workers: Option<Spanned<i64>>,
    verify_within: Option<Spanned<i64>>,
    verify_most: Option<Spanned<String>>,
    freeze_within: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQemu {
    scratch: Option<PathBuf>,
    scratch_most: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNbd {
    connections: Option<Spanned<i64>>,
    authorities: Option<PathBuf>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    listen: Option<Spanned<String>>,
}

impl Config {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(&text, path)
    }

    /// Reads a text; `path` is where it came from, for messages. A relative state directory is taken from the file's directory.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let raw: Raw = toml::from_str(text)
            .map_err(|why| ConfigError::Parse { path: path.to_owned(), why: why.to_string().trim_end().to_owned() })?;
        let page = Page { text, path };
        let state = raw.state.unwrap_or_else(|| defaults::STATE.into());
        let state = path.parent().map(|dir| dir.join(&state)).unwrap_or(state);
        let qemu = QemuConfig {
            scratch: raw.qemu.scratch.map_or_else(|| state.clone(), |folder| page.beside(folder)),
            scratch_most: page.size(
                "qemu.scratch_most",
                raw.qemu.scratch_most,
                defaults::SCRATCH_MOST,
                defaults::MIN_SCRATCH,
            )?,
        };
        Ok(Config {
            state,
            rate: page.rate(raw.rate)?,
            assume_rate: page.assume_rate(raw.assume_rate)?,
            memory: page.size("memory", raw.memory, DEFAULT_MEMORY, MIN_MEMORY)?,
            cache: page.size("cache", raw.cache, defaults::CACHE, ByteCount(0))?,
            spool: page.size("spool", raw.spool, defaults::SPOOL, defaults::MIN_SPOOL)?,
            max_datagram: page.max_datagram(raw.max_datagram)?,
            capture: CaptureConfig {
                interval: page.interval(raw.capture.interval)?,
                workers: page.workers(raw.capture.workers)?,
                freeze_within: page.freeze_within(raw.capture.freeze_within)?,
                sampling: Sampling {
                    captures: page.verify_within(raw.capture.verify_within)?,
                    most: page.size(
                        "capture.verify_most",
                        raw.capture.verify_most,
                        Sampling::default().most,
                        ByteCount(UNIT),
                    )?,
                },
            },
            sources: SourceConfig { nbd: page.nbd(raw.nbd)?, qemu },
            http: page.listen(raw.http.listen)?,
            page: page.page(raw.page)?,
            appliance: ApplianceConfig {
                folder: raw.appliance.folder.unwrap_or_else(|| defaults::APPLIANCE.into()),
                keys: raw.appliance.keys.unwrap_or_else(|| defaults::RELEASE_KEYS.into()),
            },
        })
    }

    /// A configuration of defaults with this state directory; what an empty file there would give.
    pub fn new(state: impl Into<PathBuf>) -> Config {
        let mut config = Config::parse("", Path::new("")).expect("every default is valid");
        config.state = state.into();
        config.sources.qemu.scratch = config.state.clone();
        config
    }

    /// How the memory ceiling is dealt out.
    pub fn budget(&self) -> Budget {
        Budget::of(self.memory, self.capture.workers)
    }

    /// Bits per second that the encoder reckons with.
    pub fn encoder_rate(&self) -> u64 {
        match self.rate {
            Some(Rate::Limited(rate)) => rate.bits(),
            None | Some(Rate::Closed | Rate::Unlimited) => self.assume_rate,
        }
    }
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

    fn rate(&self, raw: Option<Spanned<String>>) -> Result<Option<Rate>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        let parsed = raw.get_ref().parse();
        parsed.map(Some).map_err(|why: shaping::ParseRateError| self.refuse("rate", &raw, why.to_string()))
    }

    fn assume_rate(&self, raw: Option<Spanned<String>>) -> Result<u64, ConfigError> {
        let Some(raw) = raw else { return Ok(defaults::ASSUME_RATE) };
        match raw.get_ref().parse::<Rate>() {
            Ok(Rate::Limited(rate)) => Ok(rate.bits()),
            Ok(_) => Err(self.refuse("assume_rate", &raw, "must be a rate above 0, as in \"2 Mbit/s\"")),
            Err(why) => Err(self.refuse("assume_rate", &raw, why.to_string())),
        }
    }

    fn size(
        &self,
        field: &'static str,
        raw: Option<Spanned<String>>,
        default: ByteCount,
        least: ByteCount,
    ) -> Result<ByteCount, ConfigError> {
        let Some(raw) = raw else { return Ok(default) };
        let size = text::parse_size(raw.get_ref()).map_err(|why| self.refuse(field, &raw, why.to_string()))?;
        if size < least {
            let why = format!("{} is too small; the least that works is \"{} MiB\"", raw.get_ref(), least.0 >> 20);
            return Err(self.refuse(field, &raw, why));
        }
        Ok(size)
    }

    /// 1200 is the least that QUIC works with.
    fn max_datagram(&self, raw: Option<Spanned<i64>>) -> Result<Option<u16>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        match u16::try_from(*raw.get_ref()) {
            Ok(bytes) if (1200..=65_527).contains(&bytes) => Ok(Some(bytes)),
            _ => Err(self.refuse(
                "max_datagram",
                &raw,
                format!("{} is not possible; write a number of bytes from 1200 to 65527, as in 1452", raw.get_ref()),
            )),
        }
    }

    fn interval(&self, raw: Option<Spanned<String>>) -> Result<Option<Duration>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        if raw.get_ref() == "off" {
            return Ok(None);
        }
        let interval = text::parse_duration(raw.get_ref())
            .map_err(|why| self.refuse("capture.interval", &raw, why.to_string()))?;
        if interval < defaults::MIN_INTERVAL {
            let why =
                format!("{} is too short; the least is \"10 s\", and \"off\" captures only when asked", raw.get_ref());
            return Err(self.refuse("capture.interval", &raw, why));
        }
        Ok(Some(interval))
    }

    fn freeze_within(&self, raw: Option<Spanned<String>>) -> Result<Duration, ConfigError> {
        let Some(raw) = raw else { return Ok(freeze::DEFAULT_WITHIN) };
        let within = text::parse_duration(raw.get_ref())
            .map_err(|why| self.refuse("capture.freeze_within", &raw, why.to_string()))?;
        if !freeze::WITHIN.contains(&within) {
            let why = format!("{} is not possible; write 1 s to 5 min", raw.get_ref());
            return Err(self.refuse("capture.freeze_within", &raw, why));
        }
        Ok(within)
    }

    fn workers(&self, raw: Option<Spanned<i64>>) -> Result<usize, ConfigError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let Some(raw) = raw else { return Ok(cores()) };
        match *raw.get_ref() {
            0 => Ok(cores()),
            workers @ 1..=256 => Ok(workers as usize),
            _ => Err(self.refuse(
                "capture.workers",
                &raw,
                format!("{} is not possible; write 1 to 256, or 0 for one per core", raw.get_ref()),
            )),
        }
    }

    fn verify_within(&self, raw: Option<Spanned<i64>>) -> Result<u64, ConfigError> {
        let Some(raw) = raw else { return Ok(Sampling::default().captures) };
        let most = Sampling::MOST_CAPTURES;
        let valid = u64::try_from(*raw.get_ref()).ok().filter(|captures| (1..=most).contains(captures));
        let why = || format!("{} is not possible; write a number of captures from 1 to {most}", raw.get_ref());
        valid.ok_or_else(|| self.refuse("capture.verify_within", &raw, why()))
    }

    /// Paths are taken from the configuration's directory, as the state directory is.
    fn beside(&self, path: PathBuf) -> PathBuf {
        self.path.parent().map(|dir| dir.join(&path)).unwrap_or(path)
    }

    fn nbd(&self, raw: RawNbd) -> Result<NbdConfig, ConfigError> {
        let connections = match &raw.connections {
            None => NbdConfig::default().connections,
            Some(count) => {
                usize::try_from(*count.get_ref()).ok().filter(|count| (1..=16).contains(count)).ok_or_else(|| {
                    self.refuse("nbd.connections", count, format!("{} is not possible; write 1 to 16", count.get_ref()))
                })?
            }
        };
        let own = match (raw.certificate, raw.key) {
            (Some(certificate), Some(key)) => Some((self.beside(certificate.into_inner()), self.beside(key))),
            (Some(certificate), None) => {
                return Err(self.refuse("nbd.certificate", &certificate, "needs `key` beside it, the file of its key"));
            }
            // Nothing is shown without a certificate.
            (None, _) => None,
        };
        Ok(NbdConfig { connections, authorities: raw.authorities.map(|path| self.beside(path)), own })
    }

    fn listen(&self, raw: Option<Spanned<String>>) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(raw) = raw else { return Ok(Some(defaults::HTTP.parse().expect("the default address is valid"))) };
        if raw.get_ref() == "off" {
            return Ok(None);
        }
        let why =
            || format!("`{}` is not an address; write it as in \"{}\", or \"off\"", raw.get_ref(), defaults::HTTP);
        raw.get_ref().parse().map(Some).map_err(|_| self.refuse("http.listen", &raw, why()))
    }

    fn page(&self, raw: Option<Spanned<toml::Value>>) -> Result<Option<PageConfig>, ConfigError> {
        let listen = defaults::PAGE.parse().expect("the default address is valid");
        let Some(raw) = raw else { return Ok(Some(PageConfig { listen, names: Vec::new() })) };
        let refuse = |why: String| self.refuse("page", &raw, why);
        let address = |text: &str| {
            let why = || format!("`{text}` is not an address; write it as in \"{}\", or \"off\"", defaults::PAGE);
            text.parse().map_err(|_| refuse(why()))
        };
        let table = match raw.get_ref() {
            toml::Value::String(text) if text == "off" => return Ok(None),
            toml::Value::String(text) => return Ok(Some(PageConfig { listen: address(text)?, names: Vec::new() })),
            toml::Value::Table(table) => table,
            _ => return Err(refuse(format!("write an address, as in \"{}\", or \"off\"", defaults::PAGE))),
        };
        let mut page = PageConfig { listen, names: Vec::new() };
        for (field, value) in table {
            match (field.as_str(), value) {
                ("listen", toml::Value::String(text)) => page.listen = address(text)?,
                ("names", toml::Value::Array(names)) => {
                    page.names = names.iter().map(|name| host_name(name).map_err(&refuse)).collect::<Result<_, _>>()?;
                }
                _ => {
                    let why = format!("`{field}` is not known here, or not as it is; write {PAGE_EXAMPLE}");
                    return Err(refuse(why));
                }
            }
        }
        Ok(Some(page))
    }
}

/// How a page for a branch's network is written.
const PAGE_EXAMPLE: &str = "{ listen = \"192.0.2.7:9472\", names = [\"sluice.branch.example\"] }";

/// A name as DNS has them, in lower case.
fn host_name(value: &toml::Value) -> Result<String, String> {
    let name = value.as_str().unwrap_or_default().to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match name.len() <= 253 && name.split('.').all(is_label) {
        true => Ok(name),
        false => Err(format!("{value} is not a host name; write it without port and scheme, as in {PAGE_EXAMPLE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_an_address_or_a_table() {
        let page = |text: &str| parse(text).unwrap().page;
        let default = page("").unwrap();
        assert_eq!((default.listen.to_string().as_str(), default.is_tls()), ("127.0.0.1:9472", false));
        assert_eq!(page("page = \"off\"\n"), None);
        let of = page("page = { listen = \"192.0.2.7:443\", names = [\"Box.branch.example\"] }\n").unwrap();
        assert_eq!((of.listen.port(), of.is_tls(), of.names), (443, true, vec!["box.branch.example".to_owned()]));
        assert_eq!(
            refusal("page = \"9472\"\n"),
            "/etc/sluice/edge.toml, line 1: `page`: `9472` is not an address; write it as in \"127.0.0.1:9472\", or \"off\""
        );
        for (text, says) in [
            ("page = 9472\n", "write an address"),
            ("page = { listn = \"127.0.0.1:1\" }\n", "`listn` is not known here"),
            ("page = { names = [\"https://box\"] }\n", "is not a host name"),
            ("page = { names = [7] }\n", "is not a host name"),
        ] {
            assert!(refusal(text).contains(says), "{text}: {}", refusal(text));
        }
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/sluice/edge.toml"))
    }

    fn refusal(text: &str) -> String {
        parse(text).expect_err("is refused").to_string()
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.state, Path::new("/var/lib/sluice-edge"));
        assert_eq!((config.rate, config.encoder_rate()), (None, 2_000_000));
        assert_eq!(config.memory, DEFAULT_MEMORY);
        assert_eq!(config.http.unwrap().to_string(), "127.0.0.1:9471");
        assert!(config.capture.interval.is_none());
    }

    #[test]
    fn a_full_file_is_read() {
        let config = parse(
            "state = \"here\"\nrate = \"unlimited\"\nassume_rate = \"10 Mbit/s\"\nmemory = \"384 MiB\"\ncache = \"1 TB\"\nspool = \"1 GiB\"\n\
             max_datagram = 1452\n[capture]\ninterval = \"15 min\"\nworkers = 3\nverify_within = 10\nverify_most = \"2 GiB\"\n\
             [nbd]\nconnections = 2\nauthorities = \"ca.pem\"\ncertificate = \"own.pem\"\nkey = \"/own.key\"\n[qemu]\nscratch = \"old\"\nscratch_most = \"1 GiB\"\n[http]\nlisten = \"off\"\n",
        )
        .unwrap();
        assert_eq!(config.capture.sampling, Sampling { captures: 10, most: ByteCount(2 << 30) });
        let own = Some(("/etc/sluice/own.pem".into(), "/own.key".into()));
        assert_eq!(
            config.sources.nbd,
            NbdConfig { connections: 2, authorities: Some("/etc/sluice/ca.pem".into()), own }
        );
        let qemu = QemuConfig { scratch: "/etc/sluice/old".into(), scratch_most: ByteCount(1 << 30) };
        assert_eq!(config.sources.qemu, qemu);
        assert_eq!(config.state, Path::new("/etc/sluice/here"));
        assert_eq!(config.encoder_rate(), 10_000_000);
        assert_eq!(config.capture.interval, Some(Duration::from_secs(900)));
        assert_eq!((config.capture.workers, config.max_datagram, config.http), (3, Some(1452), None));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_a_remedy() {
        assert_eq!(
            refusal("rate = \"0\"\nmemory = \"100 MiB\"\n"),
            "/etc/sluice/edge.toml, line 2: `memory`: 100 MiB is too small; the least that works is \"384 MiB\""
        );
        assert_eq!(
            refusal("[capture]\ninterval = \"1 s\"\n"),
            "/etc/sluice/edge.toml, line 2: `capture.interval`: 1 s is too short; the least is \"10 s\", and \"off\" captures only when asked"
        );
        assert_eq!(
            refusal("[http]\nlisten = \"9471\"\n"),
            "/etc/sluice/edge.toml, line 2: `http.listen`: `9471` is not an address; write it as in \"127.0.0.1:9471\", or \"off\""
        );
        assert_eq!(
            refusal("max_datagram = 70000\n"),
            "/etc/sluice/edge.toml, line 1: `max_datagram`: 70000 is not possible; write a number of bytes from 1200 to 65527, as in 1452"
        );
        assert_eq!(
            refusal("assume_rate = \"unlimited\"\n"),
            "/etc/sluice/edge.toml, line 1: `assume_rate`: must be a rate above 0, as in \"2 Mbit/s\""
        );
        for (text, says) in [
            (
                "[capture]\nverify_within = 0\n",
                "line 2: `capture.verify_within`: 0 is not possible; write a number of captures from 1 to 1000",
            ),
            ("[capture]\nverify_most = \"1 kB\"\n", "the least that works is \"1 MiB\""),
            (
                "[capture]\nfreeze_within = \"6 min\"\n",
                "line 2: `capture.freeze_within`: 6 min is not possible; write 1 s to 5 min",
            ),
            ("[nbd]\nconnections = 17\n", "line 2: `nbd.connections`: 17 is not possible; write 1 to 16"),
            ("[nbd]\ncertificate = \"a\"\n", "line 2: `nbd.certificate`: needs `key` beside it"),
        ] {
            assert!(refusal(text).contains(says), "{text}: {}", refusal(text));
        }
        assert!(refusal("rate = \"fast\"\n").starts_with("/etc/sluice/edge.toml, line 1: `rate`: "));
        let unknown = refusal("rte = \"1 Mbit/s\"\n");
        assert!(unknown.contains("line 1") && unknown.contains("unknown field `rte`"), "{unknown}");
        let missing = Config::load(Path::new("/nonexistent/edge.toml")).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/edge.toml") && missing.contains("--config"), "{missing}");
    }
}
