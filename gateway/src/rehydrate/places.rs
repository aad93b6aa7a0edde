//! Targets as operators set them up: a name, what kind of place it is, where its credentials come from, what it may use.

use super::RehydrateError;
use dedupe::{TenantId, UnixMillis};
use serde::{Deserialize, Serialize};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use targets::http::Options;
use targets::{Credentials, Settings, Stop, Target};

/// A target that was set up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name, unique within the tenant.
    pub name: String,
    /// What it is.
    pub settings: Settings,
    /// Where its credentials come from.
    pub credentials: Credentials,
    /// A file of certificates of authorities to trust besides the system's.
    pub authorities: Option<PathBuf>,
    /// What it may use.
    pub limits: Limits,
    /// How what was written is proved.
    pub proof: Proof,
    /// Points of a volume that are kept there; `None`: as many as the gateway keeps generations.
    pub keep: Option<NonZeroU32>,
    /// When it was set up.
    pub made: UnixMillis,
    /// By whom.
    pub by: String,
}

/// What runs onto a target may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes a second that are written; `None`: as fast as it goes.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Requests a second to the service.
    pub requests_per_second: Option<NonZeroU32>,
}

/// How what was written is proved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// All of it is read back, and its root compared.
    #[default]
    All,
    /// What was written is read back and compared.
    Changed,
    /// What was written, and so many per cent of the rest, chosen at random.
    Sample(u8),
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Proof::All => write!(f, "all"),
            Proof::Changed => write!(f, "changed"),
            Proof::Sample(share) => write!(f, "{share}%"),
        }
    }
}

impl std::str::FromStr for Proof {
    type Err = String;

    fn from_str(text: &str) -> Result<Proof, String> {
        let share = |text: &str| text.strip_suffix('%')?.parse::<u8>().ok().filter(|share| (1..=99).contains(share));
        match text {
            "all" => Ok(Proof::All),
            "changed" => Ok(Proof::Changed),
            other => share(other).map(Proof::Sample).ok_or_else(|| {
                format!(
                    "`{}` is no way to prove: write `all`, `changed`, or a share as `5%`",
                    crate::text::printable(other)
                )
            }),
        }
    }
}

/// Where a run goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Where {
    /// To a target that was set up.
    Target(String),
    /// To one file or block device of the gateway's machine.
    Path(PathBuf),
}

impl std::fmt::Display for Where {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Where::Target(name) => write!(f, "{name}"),
            Where::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Place {
    /// The target itself. `state` is the gateway's state directory.
    pub(crate) fn open(&self, state: &Path, stop: Stop) -> Result<Box<dyn Target>, RehydrateError> {
        let options = Options {
            requests: self.limits.requests_per_second,
            authorities: self.authorities.clone(),
            stop,
            ..Options::default()
        };
        Ok(self.settings.open(&self.credentials, &options, &records_in(state))?)
    }
}

/// Where the records of block devices lie.
pub(super) fn records_in(state: &Path) -> PathBuf {
    state.join("targets")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;
    use targets::s3::S3Settings;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a rate is a matter of real time")]
    fn a_targets_service_is_asked_no_faster_than_was_agreed_when_it_was_set_up() {
        const A_SECOND: u32 = 5;
        const ASKED: u32 = 12;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        std::fs::write(&credentials, "AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=s\nAWS_DEFAULT_REGION=x\n").unwrap();
        std::fs::set_permissions(&credentials, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let place = Place {
            tenant: TenantId::random(),
            name: "cloud".into(),
            settings: Settings::S3(S3Settings {
                bucket: "disks".into(),
                prefix: String::new(),
                endpoint: Some(url),
                region: None,
                part_mib: 8,
            }),
            credentials: Credentials::File(credentials),
            authorities: None,
            limits: Limits { bytes_per_second: None, requests_per_second: NonZeroU32::new(A_SECOND) },
            proof: Proof::All,
            keep: None,
            made: UnixMillis(1),
            by: "somebody".into(),
        };
        let began = Instant::now();
        // It says no, which is taken at once: each question is one request.
        let service = std::thread::spawn(move || {
            let answered = (0..ASKED).map(|_| {
                let (mut client, _) = listener.accept().unwrap();
                let came = began.elapsed().as_secs_f64();
                let _head = client.read(&mut [0; 8192]).unwrap();
                client.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
                came
            });
            answered.collect::<Vec<f64>>()
        });
        let target = place.open(dir.path(), Stop::default()).unwrap();
        for _ in 0..ASKED {
            assert!(target.describe().unwrap().checks[0].wrong.is_some());
        }
        // As many at once as may come in a second; only too early is wrong, so no machine is too slow for this.
        for (at, came) in (1..).zip(service.join().unwrap()) {
            let earliest = (f64::from(at) - f64::from(A_SECOND)) / f64::from(A_SECOND);
            assert!(came >= earliest, "number {at} came after {came:.3} s, and not before {earliest:.3} s was to");
        }
    }
}
