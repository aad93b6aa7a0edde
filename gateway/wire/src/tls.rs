//! TLS configurations of both ends for QUIC: TLS 1.3 with ring and nothing older.
//!
//! * A gateway shows a certificate for [`SERVER_NAME`] and verifies edges against its authorities. A connection without a client certificate
//!   gets through TLS, because an edge that enrols has none yet; a session must then check [`crate::stream::peer`] itself.
//! * An edge trusts a list of authorities, so that one can be replaced by another without visiting the branch.
//! * An edge that enrols trusts only a chain whose authority hashes to the fingerprint in its token.
//!
//! No session tickets: a resumed session would skip the look at a certificate that may have been revoked, and each ticket costs bytes.

use crate::clock::KnownTime;
use crate::identity::{Issued, Key, SERVER_NAME};
use crate::version::{ENROL_ALPN, Version};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use std::sync::Arc;

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// An authority's certificate cannot be used.
    #[error("an authority's certificate is unusable: {0}")]
    Authority(String),
    /// The own certificate or key cannot be used.
    #[error("the certificate and key for the connection are unusable: {0}")]
    Own(rustls::Error),
}

/// What an edge needs to connect.
pub struct EdgeIdentity<'a> {
    /// Its key.
    pub key: &'a Key,
    /// Its certificate, DER.
    pub certificate: &'a [u8],
    /// The authorities that it trusts, DER.
    pub authorities: &'a [Vec<u8>],
}

/// What a gateway needs to listen.
pub struct GatewayIdentity<'a> {
    /// Key of its server certificate.
    pub key: &'a Key,
    /// Its server certificate.
    pub issued: &'a Issued,
    /// The certificate of the authority that signed it, DER; shown to edges that enrol.
    pub signer: &'a [u8],
    /// The authorities whose edges may connect, DER.
    pub authorities: &'a [Vec<u8>],
}

/// Listens for edges (every version in `versions`) and for enrolments.
pub fn gateway(
    identity: &GatewayIdentity<'_>,
    versions: &[Version],
    time: Arc<KnownTime>,
) -> Result<quinn::ServerConfig, TlsError> {
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity.authorities)?, provider.clone())
        .allow_unauthenticated()
        .clear_root_hint_subjects() // edges have one certificate: the list of our authorities would only cost bytes
        .build()
        .map_err(|error| TlsError::Authority(error.to_string()))?;
    let mut config = ServerConfig::builder_with_details(provider.clone(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(ServerCertificate::new(identity, &provider)?));
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = versions.iter().map(|version| version.alpn().to_vec()).collect();
    config.alpn_protocols.push(ENROL_ALPN.to_vec());
    let quic = QuicServerConfig::try_from(config).expect("ring has the cipher suite of QUIC's first packets");
    Ok(quinn::ServerConfig::with_crypto(Arc::new(quic)))
}

/// Connects an enrolled edge, offering `versions`, newest first. Use [`SERVER_NAME`] as the name to connect to.
pub fn edge(
    identity: &EdgeIdentity<'_>,
    versions: &[Version],
    time: Arc<KnownTime>,
) -> Result<quinn::ClientConfig, TlsError> {
    let alpn = versions.iter().map(|version| version.alpn().to_vec()).collect();
    edge_with_alpn(identity, alpn, time)
}

/// Like [`edge`], with the bare protocol names: for tests that play a peer of another version.
pub fn edge_with_alpn(
    identity: &EdgeIdentity<'_>,
    alpn: Vec<Vec<u8>>,
    time: Arc<KnownTime>,
) -> Result<quinn::ClientConfig, TlsError> {
    let provider = provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(identity.authorities)?, provider.clone())
        .build()
        .map_err(|error| TlsError::Authority(error.to_string()))?;
    let chain = vec![CertificateDer::from(identity.certificate.to_vec())];
    let config = client(provider, time)
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, identity.key.to_rustls())
        .map_err(TlsError::Own)?;
    Ok(quic_client(config, alpn))
}

/// Connects an edge that has no certificate yet to the gateway whose authority hashes to `fingerprint`.
pub fn enrolment(fingerprint: [u8; 32], time: Arc<KnownTime>) -> quinn::ClientConfig {
    let provider = provider();
    let verifier = Arc::new(Fingerprint { fingerprint, provider: provider.clone() });
    let config = client(provider, time).with_custom_certificate_verifier(verifier).with_no_client_auth();
    quic_client(config, vec![ENROL_ALPN.to_vec()])
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client(provider: Arc<CryptoProvider>, time: Arc<KnownTime>) -> rustls::client::danger::DangerousClientConfigBuilder {
    ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .dangerous()
}

fn quic_client(mut config: ClientConfig, alpn: Vec<Vec<u8>>) -> quinn::ClientConfig {
    config.alpn_protocols = alpn;
    config.resumption = rustls::client::Resumption::disabled();
    let quic = QuicClientConfig::try_from(config).expect("ring has the cipher suite of QUIC's first packets");
    quinn::ClientConfig::new(Arc::new(quic))
}

pub(crate) fn roots(authorities: &[Vec<u8>]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let added = roots.add(CertificateDer::from(authority.as_slice()));
        added.map_err(|error| TlsError::Authority(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(TlsError::Authority("the list of authorities is empty".into()));
    }
    Ok(Arc::new(roots))
}

/// Shows the bare certificate to edges, which know the authority, and the chain to those that enrol.
#[derive(Debug)]
struct ServerCertificate {
    bare: Arc<CertifiedKey>,
    chain: Arc<CertifiedKey>,
}

impl ServerCertificate {
    fn new(identity: &GatewayIdentity<'_>, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let leaf = CertificateDer::from(identity.issued.certificate.clone());
        let signer = CertificateDer::from(identity.signer.to_vec());
        let certified = |chain| CertifiedKey::from_der(chain, identity.key.to_rustls(), provider).map(Arc::new);
        Ok(Self {
            bare: certified(vec![leaf.clone()]).map_err(TlsError::Own)?,
            chain: certified(vec![leaf, signer]).map_err(TlsError::Own)?,
        })
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let enrols = hello.alpn().is_some_and(|mut names| names.any(|name| name == ENROL_ALPN));
        Some(if enrols { self.chain.clone() } else { self.bare.clone() })
    }
}

/// Trusts the one authority whose certificate hashes to the fingerprint.
#[derive(Debug)]
struct Fingerprint {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Fingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let ours = |certificate: &&CertificateDer<'_>| blake3::hash(certificate) == self.fingerprint;
        let authority = intermediates.iter().find(ours).ok_or_else(unknown)?;
        let roots = roots(&[authority.to_vec()]).map_err(|_| unknown())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone()).build();
        verifier.map_err(|_| unknown())?.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The name to connect to, for `quinn::Endpoint::connect_with`.
pub fn server_name() -> &'static str {
    SERVER_NAME
}
