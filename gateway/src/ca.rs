//! The gateway's authorities on disk: `ca/<number>.key` and `ca/<number>.crt`, and `ca/signing` with the number of the one that signs.
//!
//! Replacing one without visiting a branch takes three steps, each when all edges have had time to renew: add a new one (edges learn to
//! trust both), let it sign (edges get certificates of the new one), retire the old one (nobody trusts it any more).

use crate::files::{self, FileError};
use dedupe::UnixMillis;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::identity::{Authority, Bearer, IdentityError, Issued, Key};

/// How long an authority is good for. Ten years: replacing one is a deliberate act, not something that falls due over a weekend.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 366 * 86_400);
/// How long a gateway's own certificate is good for. It is made anew at each start and each day.
const SERVER_VALIDITY: Duration = Duration::from_secs(90 * 86_400);

/// Why the authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key or certificate is unusable.
    #[error("{path}: {source}; restore it from a backup")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// Signing failed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The folder has no authority.
    #[error("{0} holds no authority; `sluice-gateway init` makes one, or restore the state from a backup")]
    None(PathBuf),
    /// There is no authority of that number.
    #[error("there is no authority {0}; `sluice-gateway authority list` shows those that there are")]
    NoSuch(u32),
    /// The authority is still needed.
    #[error("authority {0} still signs; let another one sign first: `sluice-gateway authority use NUMBER`")]
    Signs(u32),
}

/// The gateway's authorities.
#[derive(Debug)]
pub struct Authorities {
    folder: PathBuf,
    /// Ascending by number; the first is the oldest.
    all: Vec<(u32, Authority)>,
    signing: u32,
}

/// A gateway's own key and certificate, made in memory.
#[derive(Debug)]
pub struct ServerCertificate {
    /// The key.
    pub key: Key,
    /// The certificate.
    pub issued: Issued,
    /// The certificate of the authority that signed it.
    pub signer: Vec<u8>,
}

impl Authorities {
    /// Makes the first authority in a folder that has none.
    pub fn create(folder: &Path, now: UnixMillis) -> Result<Authorities, CaError> {
        files::private_folder(folder)?;
        let mut authorities = Authorities { folder: folder.to_owned(), all: Vec::new(), signing: 0 };
        let number = authorities.add(now)?;
        authorities.sign_with(number)?;
        Ok(authorities)
    }

    /// Loads the authorities of a folder.
    pub fn load(folder: &Path) -> Result<Authorities, CaError> {
        let mut all = Vec::new();
        let entries = std::fs::read_dir(folder).map_err(|_| CaError::None(folder.to_owned()))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".crt")).and_then(|name| name.parse().ok());
            if let Some(number) = number {
                all.push((number, load_one(folder, number)?));
            }
        }
        all.sort_by_key(|(number, _)| *number);
        let text = std::fs::read_to_string(folder.join("signing")).unwrap_or_default();
        let signing = text.trim().parse().ok().filter(|number| all.iter().any(|(known, _)| known == number));
        let signing = signing.ok_or_else(|| CaError::None(folder.to_owned()))?;
        Ok(Authorities { folder: folder.to_owned(), all, signing })
    }

    /// Makes a further authority, which does not sign yet, and returns its number.
    pub fn add(&mut self, now: UnixMillis) -> Result<u32, CaError> {
        let number = self.all.last().map_or(1, |(number, _)| number + 1);
        let authority = Authority::generate("Sluice authority", later(now, AUTHORITY_VALIDITY))?;
        // The certificate comes last: without it a crash has left no authority.
        files::write_private(&self.file(number, "key"), authority.key_pem().as_bytes())?;
        files::write_private(&self.file(number, "crt"), authority.certificate())?;
        self.all.push((number, authority));
        Ok(number)
    }

    /// Lets an authority sign from now on.
    pub fn sign_with(&mut self, number: u32) -> Result<(), CaError> {
        if !self.all.iter().any(|(known, _)| *known == number) {
            return Err(CaError::NoSuch(number));
        }
        files::write_private(&self.folder.join("signing"), number.to_string().as_bytes())?;
        self.signing = number;
        Ok(())
    }

    /// Trusts an authority no more: edges with its certificates have to enrol anew.
    pub fn retire(&mut self, number: u32) -> Result<(), CaError> {
        if number == self.signing {
            return Err(CaError::Signs(number));
        }
        let at = self.all.iter().position(|(known, _)| *known == number).ok_or(CaError::NoSuch(number))?;
        files::remove(&self.file(number, "crt"))?;
        files::remove(&self.file(number, "key"))?;
        self.all.remove(at);
        Ok(())
    }

    /// Number, fingerprint in hexadecimal digits, and whether it signs.
    pub fn list(&self) -> impl Iterator<Item = (u32, String, bool)> + '_ {
        let hex = |authority: &Authority| data_encoding::HEXLOWER.encode(&authority.fingerprint());
        self.all.iter().map(move |(number, authority)| (*number, hex(authority), *number == self.signing))
    }

    /// The certificates to trust, DER, the signing one first.
    pub fn trusted(&self) -> Vec<Vec<u8>> {
        let signing = std::iter::once(self.signer().certificate().to_vec());
        let others = self.all.iter().filter(|(number, _)| *number != self.signing);
        signing.chain(others.map(|(_, authority)| authority.certificate().to_vec())).collect()
    }

    /// When the certificate of the authority that signs ends; `None`: it cannot be read.
    pub fn end(&self) -> Option<UnixMillis> {
        wire::identity::certificate_end(self.signer().certificate()).ok()
    }

    /// What a token has to carry.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.signer().fingerprint()
    }

    /// Signs an edge's request.
    pub fn sign_edge(
        &self,
        request: &[u8],
        bearer: Bearer,
        now: UnixMillis,
        validity: Duration,
    ) -> Result<Issued, IdentityError> {
        self.signer().sign_edge(request, bearer, later(now, validity))
    }

    /// A key and certificate for this gateway.
    pub fn server_certificate(&self, now: UnixMillis) -> Result<ServerCertificate, IdentityError> {
        let key = Key::generate()?;
        let issued = self.signer().sign_server(&key, later(now, SERVER_VALIDITY))?;
        Ok(ServerCertificate { key, issued, signer: self.signer().certificate().to_vec() })
    }

    /// A key and certificate with which pages are served under these names.
    pub fn pages_certificate(&self, names: &[String], now: UnixMillis) -> Result<ServerCertificate, IdentityError> {
        let key = Key::generate()?;
        let issued = self.signer().sign_pages(&key, names, later(now, SERVER_VALIDITY))?;
        Ok(ServerCertificate { key, issued, signer: self.signer().certificate().to_vec() })
    }

    /// The certificate of the authority that signs, DER: what browsers are told to trust.
    pub fn signing_certificate(&self) -> Vec<u8> {
        self.signer().certificate().to_vec()
    }

    fn signer(&self) -> &Authority {
        let signer = self.all.iter().find(|(number, _)| *number == self.signing);
        &signer.expect("the signing number is checked wherever it is set").1
    }

    fn file(&self, number: u32, ending: &str) -> PathBuf {
        self.folder.join(format!("{number}.{ending}"))
    }
}

fn load_one(folder: &Path, number: u32) -> Result<Authority, CaError> {
    let (key, certificate) = (folder.join(format!("{number}.key")), folder.join(format!("{number}.crt")));
    let pem = zeroize::Zeroizing::new(files::read(&key)?);
    let unusable = |source| CaError::Unusable { path: key.clone(), source };
    let pem = std::str::from_utf8(&pem).map_err(|_| unusable(IdentityError::NotACertificate))?;
    let parsed = Key::from_pem(pem).map_err(unusable)?;
    let loaded = Authority::load(parsed, files::read(&certificate)?);
    loaded.map_err(|source| CaError::Unusable { path: certificate, source })
}

fn later(now: UnixMillis, by: Duration) -> UnixMillis {
    UnixMillis(now.0.saturating_add(by.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn authorities_survive_and_are_replaced_in_three_steps() {
        let dir = tempfile::tempdir().unwrap();
        let mut made = Authorities::create(dir.path(), NOW).unwrap();
        let first = made.fingerprint();
        let second = made.add(NOW).unwrap();
        assert_eq!((made.fingerprint(), made.trusted().len()), (first, 2), "added, but does not sign yet");
        assert!(matches!(made.retire(1), Err(CaError::Signs(1))));
        made.sign_with(second).unwrap();
        let mut loaded = Authorities::load(dir.path()).unwrap();
        assert_ne!(loaded.fingerprint(), first);
        assert_eq!(loaded.trusted(), made.trusted());
        loaded.retire(1).unwrap();
        assert_eq!(Authorities::load(dir.path()).unwrap().list().count(), 1);
        assert!(matches!(loaded.sign_with(7), Err(CaError::NoSuch(7))));
    }

    #[test]
    fn a_missing_or_broken_folder_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let none = Authorities::load(&dir.path().join("ca")).unwrap_err().to_string();
        assert!(none.contains("holds no authority; `sluice-gateway init` makes one"), "{none}");
        Authorities::create(dir.path(), NOW).unwrap();
        std::fs::write(dir.path().join("1.key"), "nonsense").unwrap();
        let broken = Authorities::load(dir.path()).unwrap_err().to_string();
        assert!(broken.contains("1.key") && broken.contains("restore it from a backup"), "{broken}");
    }
}
