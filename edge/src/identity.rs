//! Who this edge is, and whom it trusts: key, certificate, authorities and gateway addresses, kept durably.
//!
//! `identity.key` holds the private key (PKCS #8, PEM), made here at enrolment and never sent. `identity.json` holds the rest. Both are readable by their
//! owner alone and are replaced whole, so that a crash leaves the old identity or the new one.

use crate::files;
use data_encoding::BASE64;
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wire::identity::{IdentityError, Key, PeerIdentity};
use wire::tls::{EdgeIdentity, TlsError};
use wire::version::Version;

const FORMAT: &str = "sluice-edge-identity";
const VERSION: u32 = 1;

/// Why the identity could not be read or stored.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFileError {
    /// Never enrolled, or the state directory is another one.
    #[error(
        "this edge is not enrolled: {0} is not there; get a token with `sluice-gateway token` and run `sluice-edge enrol`"
    )]
    NotEnrolled(PathBuf),
    /// A file could not be read or written.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{path} is damaged ({why}); enrol this edge again with a new token")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// The file was written by a newer version.
    #[error("{path} has format {found}, and this program knows {VERSION}; upgrade it")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// What `identity.json` holds. Certificates are base64 of DER.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    format: String,
    version: u32,
    site: String,
    certificate: String,
    authorities: Vec<String>,
    addresses: Vec<String>,
    /// When the certificate came: with its end, this gives the time to renew it.
    received_at: u64,
    /// The latest time that a gateway has told: certificates are never judged by an earlier one.
    known_time: u64,
}

/// What the gateway gave: a certificate and what goes with it, DER.
#[derive(Clone, Debug, PartialEq)]
pub struct Credentials {
    /// The site's name.
    pub site: String,
    /// The edge's certificate.
    pub certificate: Vec<u8>,
    /// Authorities to trust.
    pub authorities: Vec<Vec<u8>>,
    /// Gateway addresses, in order of preference.
    pub addresses: Vec<String>,
    /// When the certificate came.
    pub received_at: UnixMillis,
}

/// The identity of one edge. A clone is the same identity.
#[derive(Clone)]
pub struct Identity {
    directory: PathBuf,
    key: Arc<Key>,
    now: Arc<Mutex<(Credentials, UnixMillis)>>,
}

impl Identity {
    /// Reads the identity in `directory`.
    pub fn load(directory: &Path) -> Result<Identity, IdentityFileError> {
        let path = directory.join("identity.json");
        let record: Record = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(IdentityFileError::NotEnrolled(path)),
            Err(source) => return Err(IdentityFileError::File { what: "read", path, source }),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error.to_string()))?,
        };
        if record.format != FORMAT {
            return Err(damaged(&path, "it is not an identity".into()));
        }
        if record.version > VERSION {
            return Err(IdentityFileError::Newer { path, found: record.version });
        }
        let credentials = record.credentials().ok_or_else(|| damaged(&path, "a certificate is not base64".into()))?;
        let path = directory.join("identity.key");
        let pem = std::fs::read_to_string(&path).map_err(|source| IdentityFileError::File {
            what: "read",
            path: path.clone(),
            source,
        })?;
        let key = Key::from_pem(&pem).map_err(|error| damaged(&path, error.to_string()))?;
        if !key.fits(&credentials.certificate) {
            return Err(damaged(&path, "it is not the key of the certificate in identity.json".into()));
        }
        let now = Arc::new(Mutex::new((credentials, UnixMillis(record.known_time))));
        Ok(Identity { directory: directory.to_owned(), key: Arc::new(key), now })
    }

    /// Stores a new identity in `directory`. The key goes first: without `identity.json` it means nothing.
    pub fn store(directory: &Path, key: &Key, credentials: &Credentials) -> Result<(), IdentityFileError> {
        let failed = |path: PathBuf| move |source| IdentityFileError::File { what: "write", path, source };
        files::private_directory(directory).map_err(failed(directory.to_owned()))?;
        let path = directory.join("identity.key");
        files::write_whole(&path, &[key.to_pem().as_bytes()]).map_err(failed(path))?;
        write(directory, credentials, UnixMillis(0))
    }

    /// What the gateway gave last.
    pub fn credentials(&self) -> Credentials {
        self.lock().0.clone()
    }

    /// The latest time that a gateway has told.
    pub fn known_time(&self) -> UnixMillis {
        self.lock().1
    }

    /// Tenant, site and end of the certificate.
    pub fn bearer(&self) -> Result<PeerIdentity, IdentityError> {
        PeerIdentity::from_certificate(&self.lock().0.certificate)
    }

    /// When the certificate is to be renewed: after two thirds of its time here. An unreadable one: at once.
    pub fn renew_at(&self) -> UnixMillis {
        let received_at = self.lock().0.received_at;
        self.bearer().map_or(UnixMillis(0), |bearer| {
            bearer.renew_at(Duration::from_millis(bearer.valid_until.0.saturating_sub(received_at.0)))
        })
    }

    /// A request to renew the certificate of the same key, DER.
    pub fn request(&self) -> Result<Vec<u8>, IdentityError> {
        self.key.request()
    }

    /// Signs what a medium says of itself.
    pub fn sign(&self, manifest: &seed::manifest::Manifest) -> Result<Vec<u8>, IdentityError> {
        manifest.sign(&self.key, &self.lock().0.certificate)
    }

    /// A QUIC client configuration that shows this identity.
    pub fn client(
        &self,
        versions: &[Version],
        time: Arc<wire::clock::KnownTime>,
    ) -> Result<quinn::ClientConfig, TlsError> {
        let credentials = self.credentials();
        let identity = EdgeIdentity {
            key: &self.key,
            certificate: &credentials.certificate,
            authorities: &credentials.authorities,
        };
        wire::tls::edge(&identity, versions, time)
    }

    /// Takes a renewed certificate, durably. One for another key or without authorities is refused: it would lock this edge out.
    pub fn renewed(
        &self,
        certificate: Vec<u8>,
        authorities: Vec<Vec<u8>>,
        at: UnixMillis,
    ) -> Result<(), IdentityFileError> {
        if !self.key.fits(&certificate) || authorities.is_empty() {
            let path = self.directory.join("identity.json");
            return Err(damaged(&path, "the gateway sent a certificate that does not fit the key".into()));
        }
        self.change(|credentials, _| {
            credentials.certificate = certificate;
            credentials.authorities = authorities;
            credentials.received_at = at;
        })
    }

    /// Takes the gateway's addresses, durably. An empty list is ignored.
    pub fn moved(&self, addresses: Vec<String>) -> Result<(), IdentityFileError> {
        if addresses.is_empty() || addresses == self.lock().0.addresses {
            return Ok(());
        }
        self.change(|credentials, _| credentials.addresses = addresses)
    }

    /// A gateway told the time. Stored at most once an hour: a clock that was set back further would be noticed all the same.
    pub fn learn_time(&self, time: UnixMillis) -> Result<(), IdentityFileError> {
        const HOUR: u64 = 3_600_000;
        if time.0 < self.lock().1.0 + HOUR {
            return Ok(());
        }
        self.change(|_, known| *known = time)
    }

    fn change(&self, change: impl FnOnce(&mut Credentials, &mut UnixMillis)) -> Result<(), IdentityFileError> {
        let mut now = self.lock();
        let (mut credentials, mut known) = now.clone();
        change(&mut credentials, &mut known);
        write(&self.directory, &credentials, known)?;
        *now = (credentials, known);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, (Credentials, UnixMillis)> {
        // Set whole or not at all, so a panic elsewhere leaves nothing half done.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn credentials(&self) -> Option<Credentials> {
        let decode = |text: &String| BASE64.decode(text.as_bytes()).ok();
        Some(Credentials {
            site: self.site.clone(),
            certificate: decode(&self.certificate)?,
            authorities: self.authorities.iter().map(decode).collect::<Option<_>>()?,
            addresses: self.addresses.clone(),
            received_at: UnixMillis(self.received_at),
        })
    }
}

fn write(directory: &Path, credentials: &Credentials, known: UnixMillis) -> Result<(), IdentityFileError> {
    let record = Record {
        format: FORMAT.into(),
        version: VERSION,
        site: credentials.site.clone(),
        certificate: BASE64.encode(&credentials.certificate),
        authorities: credentials.authorities.iter().map(|der| BASE64.encode(der)).collect(),
        addresses: credentials.addresses.clone(),
        received_at: credentials.received_at.0,
        known_time: known.0,
    };
    let path = directory.join("identity.json");
    let json = serde_json::to_vec_pretty(&record).expect("plain data serialises");
    files::write_whole(&path, &[&json]).map_err(|source| IdentityFileError::File { what: "write", path, source })
}

fn damaged(path: &Path, why: String) -> IdentityFileError {
    IdentityFileError::Damaged { path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::{SiteId, TenantId};
    use std::os::unix::fs::PermissionsExt;
    use wire::identity::{Authority, Bearer};

    const YEAR_2100: UnixMillis = UnixMillis(4_102_444_800_000);

    fn enrolled(directory: &Path) -> (Key, Authority) {
        let (key, authority) = (Key::generate().unwrap(), Authority::generate("test", YEAR_2100).unwrap());
        let credentials = credentials(&key, &authority);
        Identity::store(directory, &key, &credentials).unwrap();
        (key, authority)
    }

    fn credentials(key: &Key, authority: &Authority) -> Credentials {
        let bearer = Bearer { tenant: TenantId([1; 16]), site: SiteId([2; 16]) };
        let issued = authority.sign_edge(&key.request().unwrap(), bearer, UnixMillis(1_800_000_000_000)).unwrap();
        Credentials {
            site: "Branch 1".into(),
            certificate: issued.certificate,
            authorities: vec![authority.certificate().to_vec()],
            addresses: vec!["gateway.example:4433".into()],
            received_at: UnixMillis(1_797_000_000_000),
        }
    }

    #[test]
    fn an_identity_survives_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Identity::load(dir.path()).err().unwrap().to_string();
        assert!(missing.contains("not enrolled") && missing.contains("sluice-edge enrol"), "{missing}");
        enrolled(dir.path());
        let identity = Identity::load(dir.path()).unwrap();
        assert_eq!(identity.credentials().site, "Branch 1");
        assert_eq!(identity.renew_at(), UnixMillis(1_799_000_000_000));
        for file in ["identity.key", "identity.json"] {
            let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn renewals_addresses_and_time_are_durable() {
        let dir = tempfile::tempdir().unwrap();
        let (key, authority) = enrolled(dir.path());
        let identity = Identity::load(dir.path()).unwrap();
        let renewed = credentials(&key, &authority);
        identity.renewed(renewed.certificate.clone(), renewed.authorities.clone(), UnixMillis(9)).unwrap();
        identity.moved(vec!["[2001:db8::1]:4433".into()]).unwrap();
        identity.moved(vec![]).unwrap();
        identity.learn_time(YEAR_2100).unwrap();
        let again = Identity::load(dir.path()).unwrap();
        assert_eq!(again.credentials(), identity.credentials());
        assert_eq!(again.credentials().addresses, ["[2001:db8::1]:4433"]);
        assert_eq!(again.known_time(), YEAR_2100);
        let foreign = credentials(&Key::generate().unwrap(), &authority);
        assert!(identity.renewed(foreign.certificate, foreign.authorities, UnixMillis(10)).is_err());
        assert_eq!(identity.credentials().received_at, UnixMillis(9), "nothing has changed");
    }

    #[test]
    fn a_damaged_identity_is_named() {
        let dir = tempfile::tempdir().unwrap();
        enrolled(dir.path());
        let other = Key::generate().unwrap();
        std::fs::write(dir.path().join("identity.key"), other.to_pem().as_bytes()).unwrap();
        let refusal = Identity::load(dir.path()).err().unwrap().to_string();
        assert!(refusal.contains("identity.key") && refusal.contains("enrol this edge again"), "{refusal}");
        std::fs::write(dir.path().join("identity.json"), "{").unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityFileError::Damaged { .. })));
    }
}
