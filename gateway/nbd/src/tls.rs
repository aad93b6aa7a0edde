//! TLS configurations of both ends: TLS 1.3 with ring and nothing older.
//!
//! NBD starts plainly and changes over by STARTTLS, so there is no ALPN. No session tickets, for a resumed session would skip the look at a certificate.

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// An authority's certificate cannot be used.
    #[error("an authority's certificate for NBD is unusable: {0}; give the certificates of the authorities in DER")]
    Authority(String),
    /// The own certificate or key cannot be used.
    #[error("the certificate and key for NBD are unusable: {0}; give a chain, leaf first, and the leaf's key")]
    Own(rustls::Error),
}

/// A certificate's chain, leaf first, and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// For a server that shows `own`. With `clients`, whoever connects has to show a certificate of one of these authorities.
pub fn server(own: Identity, clients: Option<&[CertificateDer<'static>]>) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authorities) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(roots(authorities)?.into(), provider())
                .build()
                .map_err(|error| TlsError::Authority(error.to_string()))?,
        ),
    };
    let mut config = builder.with_single_cert(own.0, own.1).map_err(TlsError::Own)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For a client that believes `authorities` and shows `own` if there is one.
pub fn client(authorities: &[CertificateDer<'static>], own: Option<Identity>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_root_certificates(roots(authorities)?);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(TlsError::Own)?,
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| TlsError::Authority(error.to_string()))?;
    }
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
