//! A site's own file, `sluice.toml`: what it says, and putting it where the system looks for it.
//!
//! ```toml
//! disk = "/dev/sda"           # which disk the installer takes; without it, the only one that is large enough
//! erase = "everything"        # the installer may take a disk that has data
//! token = "..."               # enrols this edge
//!
//! [network]                   # without it, every card asks for an address; several networks are [[network]]
//! card = "52:54:00:12:34:56"  # which card; without it, every one
//! bond = ["52:54:00:12:34:56", "52:54:00:12:34:57"]  # instead of `card`: these as one
//! mode = "802.3ad"            # of the bond; without it, active-backup
//! vlan = 42
//! address = "192.0.2.7/24"
//! gateway = "192.0.2.1"
//! dns = "192.0.2.53 192.0.2.54"
//! ntp = "192.0.2.123"
//!
//! [data]
//! passphrase = "..."          # data is encrypted: the machine's TPM opens it, where there is one, else whoever types this at each start
//!
//! [edge]                      # lines of edge.toml as they are; [edge.capture] is its [capture]
//! ```

mod networks;

use crate::files::{self, FileError, failed};
use crate::network;
use crate::run::{Place, RunError, run};
use crate::trial;
use networks::Networks;
use serde::{Deserialize, Deserializer, de};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// A file for people to write; what is larger is another one.
pub(crate) const MOST_BYTES: u64 = 64 << 10;
/// As `sluice-edge enrol` takes them.
pub(crate) const MOST_TOKEN: usize = 16_000;
/// Characters of a passphrase. The least is what people can be asked to type; the most is half of what cryptsetup takes from a terminal.
pub(crate) const PASSPHRASE: RangeInclusive<usize> = 16..=256;
/// For `sluice-edge check-config`, which reads one file, on a slow disk.
const CHECK: Duration = Duration::from_secs(30);

/// What a site's file says.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Site {
    #[serde(default, deserialize_with = "disk")]
    pub(crate) disk: Option<String>,
    #[serde(default, deserialize_with = "erase")]
    pub(crate) erase: Option<String>,
    #[serde(default, deserialize_with = "token")]
    token: Option<Zeroizing<String>>,
    #[serde(default)]
    network: Networks,
    #[serde(default)]
    data: DataWishes,
    #[serde(default)]
    edge: toml::Table,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct DataWishes {
    #[serde(default, deserialize_with = "passphrase")]
    passphrase: Option<Zeroizing<String>>,
}

/// Why a site's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SiteError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is no text (UTF-8)", .0.display())]
    NoText(PathBuf),
    #[error("{}, line {line}: {why}", .path.display())]
    Line { path: PathBuf, line: usize, why: String },
    #[error("{}: [edge]: {said}", .path.display())]
    Edge { path: PathBuf, said: String },
    #[error("{}: [edge] cannot be checked: {source}", .path.display())]
    Check { path: PathBuf, source: RunError },
    #[error("[edge] cannot be written as TOML: {0}")]
    Write(#[from] toml::ser::Error),
    #[error("the network's files cannot be written: {0}")]
    Network(#[from] trial::TrialError),
}

impl Site {
    /// Reads the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Site, SiteError> {
        let bytes = Zeroizing::new(files::read_at_most(path, MOST_BYTES)?);
        let text = std::str::from_utf8(&bytes).map_err(|_| SiteError::NoText(path.into()))?;
        Site::parse(text).map_err(|(line, why)| SiteError::Line { path: path.into(), line, why })
    }

    /// The error is the line, counted from 1, and what is wrong there.
    fn parse(text: &str) -> Result<Site, (usize, String)> {
        let line = |at: usize| text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count() + 1;
        let site: Site = toml::from_str(text)
            .map_err(|error| (error.span().map_or(1, |span| line(span.start)), without_values(error.message())))?;
        network::check_together(site.network.list())
            .map_err(|(at, why)| (line(site.network.place(at)), why.to_string()))?;
        Ok(site)
    }

    /// Whether the daemon understands what `[edge]` says.
    pub(crate) fn check_edge(&self, place: &Place, path: &Path) -> Result<(), SiteError> {
        if self.edge.is_empty() {
            return Ok(());
        }
        let folder = place.path("/run/sluice");
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        let lines = folder.join(format!("site-edge.{}.toml", std::process::id()));
        files::put(&lines, self.edge_lines()?.as_bytes(), 0o600, None)?;
        let mut check = place.program("sluice-edge");
        let said = run(check.arg("check-config").arg("--config").arg(&lines), CHECK);
        let _ = fs::remove_file(&lines);
        let said = said.map_err(|source| SiteError::Check { path: path.into(), source })?;
        match said.status.success() {
            true => Ok(()),
            false => Err(SiteError::Edge { path: path.into(), said: said.err.trim().into() }),
        }
    }

    /// Puts it where the system looks for it. Done again after a crash, it does the same.
    pub(crate) fn apply(&self, place: &Place, group: Option<u32>) -> Result<(), SiteError> {
        if !self.network.list().is_empty() {
            trial::replace(&place.path(trial::FOLDER), &network::files(self.network.list()))?;
        }
        if !self.edge.is_empty() {
            files::put(&place.path("/etc/sluice/site-edge.toml"), self.edge_lines()?.as_bytes(), 0o640, group)?;
        }
        if let Some(token) = &self.token {
            let line = Zeroizing::new(format!("{}\n", token.as_str()));
            files::put(&place.path("/etc/sluice/token"), line.as_bytes(), 0o640, group)?;
        }
        Ok(())
    }

    /// What opens the data partition beside the machine's TPM; without it, data is not encrypted.
    pub(crate) fn passphrase(&self) -> Option<&str> {
        self.data.passphrase.as_ref().map(|passphrase| passphrase.as_str())
    }

    fn edge_lines(&self) -> Result<String, SiteError> {
        Ok(toml::to_string(&self.edge)?)
    }

    #[cfg(test)]
    fn networks(&self) -> &[network::Network] {
        self.network.list()
    }
}

/// What somebody put into the wrong place may be a token: it is not repeated.
fn without_values(message: &str) -> String {
    match (message.find("string \""), message.rfind("\", expected")) {
        (Some(from), Some(to)) if from < to => {
            format!("{}a text{}", &message[..from], message[to + 1..].replace('\n', " "))
        }
        _ => message.replace('\n', " "),
    }
}

fn disk<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let disk = String::deserialize(from)?;
    let is_path = disk.len() < 256
        && disk.strip_prefix("/dev/").is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_.:-".contains(&byte))
        })
        && !disk.split('/').any(|part| part == "..");
    if is_path {
        Ok(Some(disk))
    } else {
        Err(de::Error::custom("disk is a path as in \"/dev/sda\" or \"/dev/disk/by-id/...\""))
    }
}

fn erase<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let erase = String::deserialize(from)?;
    if erase == "everything" { Ok(Some(erase)) } else { Err(de::Error::custom("erase can only be \"everything\"")) }
}

fn token<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    let token = Zeroizing::new(String::deserialize(from)?);
    if is_token(&token) {
        Ok(Some(token))
    } else {
        Err(de::Error::custom("token is not what sluice-gateway token printed"))
    }
}

fn passphrase<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    let passphrase = Zeroizing::new(String::deserialize(from)?);
    if PASSPHRASE.contains(&passphrase.len()) && passphrase.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        Ok(Some(passphrase))
    } else {
        Err(de::Error::custom(format!(
            "passphrase has from {} to {} letters, digits, spaces and signs that every keyboard has (ASCII)",
            PASSPHRASE.start(),
            PASSPHRASE.end()
        )))
    }
}

/// Whether a text could be a token; whether it is one, `sluice-edge enrol` says.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=MOST_TOKEN).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:/+=-".contains(&byte))
}

#[cfg(test)]
mod tests;
