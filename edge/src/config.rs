//! The configuration: one TOML file, read into a raw form that refuses unknown fields and turned at once into types that cannot be wrong.

use crate::budget::{Budget, DEFAULT_MEMORY, MIN_MEMORY};
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
    /// Where `/metrics` and `/health` are served; `None`: nowhere.
    pub http: Option<SocketAddr>,
}

/// How volumes are captured.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Time from one capture of a volume to its next; `None`: only when asked.
    pub interval: Option<Duration>,
    /// Threads that capture at most; the memory ceiling may allow fewer.
    pub workers: usize,
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
    /// Loopback only: metrics name volumes.
    pub const HTTP: &str = "127.0.0.1:9471";
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
    http: RawHttp,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCapture {
    interval: Option<Spanned<String>>,
    workers: Option<Spanned<i64>>,
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
            },
            http: page.listen(raw.http.listen)?,
        })
    }

    /// A configuration of defaults with this state directory; what an empty file there would give.
    pub fn new(state: impl Into<PathBuf>) -> Config {
        let mut config = Config::parse("", Path::new("")).expect("every default is valid");
        config.state = state.into();
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

    fn listen(&self, raw: Option<Spanned<String>>) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(raw) = raw else { return Ok(Some(defaults::HTTP.parse().expect("the default address is valid"))) };
        if raw.get_ref() == "off" {
            return Ok(None);
        }
        let why =
            || format!("`{}` is not an address; write it as in \"{}\", or \"off\"", raw.get_ref(), defaults::HTTP);
        raw.get_ref().parse().map(Some).map_err(|_| self.refuse("http.listen", &raw, why()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
             max_datagram = 1452\n[capture]\ninterval = \"15 min\"\nworkers = 3\n[http]\nlisten = \"off\"\n",
        )
        .unwrap();
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
        assert!(refusal("rate = \"fast\"\n").starts_with("/etc/sluice/edge.toml, line 1: `rate`: "));
        let unknown = refusal("rte = \"1 Mbit/s\"\n");
        assert!(unknown.contains("line 1") && unknown.contains("unknown field `rte`"), "{unknown}");
        let missing = Config::load(Path::new("/nonexistent/edge.toml")).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/edge.toml") && missing.contains("--config"), "{missing}");
    }
}
