//! The certificate of the page: signed by itself, made once, known by its fingerprint, which `sluice-edge page` prints.

use crate::config::PageConfig;
use crate::files;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, date_time_ymd};
use ring::digest::{SHA256, digest};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The files are not what was written.
    #[error(
        "{path} is no certificate with its key ({why}); remove page.key and page.crt: they are made anew with the next start"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// It could not be made.
    #[error("cannot make the page's certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// The page's certificate with its key.
pub struct Certificate {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    path: PathBuf,
}

impl Certificate {
    /// The certificate in `state`; made if there is none. Blocks.
    pub fn load_or_make(state: &Path, page: &PageConfig) -> Result<Certificate, CertificateError> {
        match Certificate::load(state)? {
            Some(certificate) => Ok(certificate),
            None => {
                make(state, page)?;
                let gone = || CertificateError::Damaged { path: state.join("page.crt"), why: "it is gone".into() };
                Certificate::load(state)?.ok_or_else(gone)
            }
        }
    }

    /// The certificate in `state`, if there is one. Blocks.
    pub fn load(state: &Path) -> Result<Option<Certificate>, CertificateError> {
        let (path, key_path) = (state.join("page.crt"), state.join("page.key"));
        let read = |path: &Path| match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CertificateError::File { what: "read", path: path.to_owned(), source }),
            Ok(bytes) => Ok(Some(bytes)),
        };
        // The key goes first when it is made, so without both there is none.
        let (Some(certificate), Some(key)) = (read(&path)?, read(&key_path)?) else { return Ok(None) };
        let damaged = |why: String| CertificateError::Damaged { path: path.clone(), why };
        let certificate = CertificateDer::from_pem_slice(&certificate).map_err(|error| damaged(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| damaged(error.to_string()))?;
        Ok(Some(Certificate { certificate, key, path }))
    }

    /// SHA-256 of the certificate as browsers show it: `AB:CD:…`.
    pub fn fingerprint(&self) -> String {
        let hash = digest(&SHA256, &self.certificate);
        let pairs: Vec<String> = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        pairs.join(":")
    }

    /// For a server that shows it. TLS 1.3 and 1.2.
    pub fn server(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let damaged =
            |error: rustls::Error| CertificateError::Damaged { path: self.path.clone(), why: error.to_string() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(damaged)?.with_no_client_auth();
        let mut config =
            config.with_single_cert(vec![self.certificate.clone()], self.key.clone_key()).map_err(damaged)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn make(state: &Path, page: &PageConfig) -> Result<(), CertificateError> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".into(), "::1".into()];
    if !page.listen.ip().is_unspecified() {
        names.push(page.listen.ip().to_string());
    }
    names.extend(page.names.iter().cloned());
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "Sluice edge, local page");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Known by its fingerprint and by nothing else, and looked at by browsers only: an end would help nobody, and the machine's clock may be years off.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2050, 1, 1);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let write = |name: &str, pem: &str| {
        let path = state.join(name);
        files::write_whole(&path, &[pem.as_bytes()]).map_err(|source| CertificateError::File {
            what: "write",
            path,
            source,
        })
    };
    files::private_directory(state).map_err(|source| CertificateError::File {
        what: "write",
        path: state.to_owned(),
        source,
    })?;
    write("page.key", &zeroize::Zeroizing::new(key.serialize_pem()))?;
    write("page.crt", &certificate.pem())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_known_by_its_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let page = PageConfig { listen: "192.0.2.7:443".parse().unwrap(), names: vec!["box.example".into()] };
        assert!(Certificate::load(dir.path()).unwrap().is_none());
        let first = Certificate::load_or_make(dir.path(), &page).unwrap();
        let again = Certificate::load_or_make(dir.path(), &page).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.fingerprint().len(), 32 * 3 - 1);
        first.server().unwrap();
        std::fs::write(dir.path().join("page.key"), "nonsense").unwrap();
        let why = Certificate::load(dir.path()).err().unwrap().to_string();
        assert!(why.contains("page.key") && why.contains("made anew"), "{why}");
    }
}
