//! Who is who: an authority (CA) of the gateway signs certificates that carry a tenant and a site.
//!
//! Keys are ECDSA P-256. An edge's certificate names its bearer in one URI, `sluice://tenant/<id>/site/<id>`, and nothing in the
//! certificate request but the public key is believed. A gateway's certificate carries the fixed name [`SERVER_NAME`], so that
//! gateways may move to other addresses without new certificates.

use dedupe::{SiteId, TenantId, UnixMillis};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::time::Duration;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

/// The name in every gateway's certificate, and the one that edges ask for, whatever the address.
pub const SERVER_NAME: &str = "gateway.sluice";
/// Bytes of one certificate or request at most; ours have about 600.
pub const MAX_CERTIFICATE: usize = 4096;
/// Start of every certificate's validity: before any build of this code. A later one would make edges whose clock is behind refuse
/// good certificates, and would protect nothing.
const VALID_FROM: (i32, u8, u8) = (2026, 1, 1);

/// Why something about keys and certificates failed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A key could not be made or read.
    #[error("the private key is unusable: {0}")]
    Key(rcgen::Error),
    /// A certificate could not be signed.
    #[error("the certificate could not be signed: {0}")]
    Sign(rcgen::Error),
    /// A certificate request does not parse, or its signature is wrong.
    #[error("the certificate request is not valid: {0}")]
    Request(rcgen::Error),
    /// A certificate does not parse.
    #[error("the certificate does not parse")]
    NotACertificate,
    /// A certificate names no tenant and site.
    #[error("the certificate names no tenant and site of Sluice")]
    NoBearer,
    /// A serial number is no serial number of ours.
    #[error("`{0}` is not a serial number: expected 32 hexadecimal digits")]
    NotASerial(String),
}

/// The number of one certificate, unique without a counter; revocation goes by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub [u8; 16]);

/// Who a verified certificate speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bearer {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
}

/// What a peer's certificate says. Only a certificate that TLS has verified makes this more than a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who it is.
    pub bearer: Bearer,
    /// The certificate's number.
    pub serial: Serial,
    /// End of its validity.
    pub valid_until: UnixMillis,
}

/// A private key that never leaves its machine. Dropping it wipes it.
pub struct Key {
    pair: KeyPair,
}

/// The authority of a gateway: its key and self-signed certificate.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

/// A certificate that was signed just now, DER, with what has to be kept about it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// DER.
    pub certificate: Vec<u8>,
    /// Its number.
    pub serial: Serial,
    /// End of its validity.
    pub valid_until: UnixMillis,
}

impl Serial {
    fn random() -> Serial {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system has a random source");
        // X.509 numbers are positive integers without leading zeroes: both hold when the first byte is in 0x40..0x80.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Serial(bytes)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl std::str::FromStr for Serial {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let refuse = || IdentityError::NotASerial(text.chars().take(64).collect());
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| refuse())?;
        bytes.try_into().map(Serial).map_err(|_| refuse())
    }
}

impl Bearer {
    fn uri(&self) -> String {
        format!("sluice://tenant/{}/site/{}", self.tenant, self.site)
    }

    fn from_uri(uri: &str) -> Option<Bearer> {
        let (tenant, site) = uri.strip_prefix("sluice://tenant/")?.split_once("/site/")?;
        Some(Bearer { tenant: tenant.parse().ok()?, site: site.parse().ok()? })
    }
}

impl PeerIdentity {
    /// Reads the bearer out of a certificate.
    pub fn from_certificate(der: &[u8]) -> Result<PeerIdentity, IdentityError> {
        let certificate = parse(der)?;
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::NoBearer)?;
        let names = names.ok_or(IdentityError::NoBearer)?;
        let [GeneralName::URI(uri)] = names.value.general_names[..] else { return Err(IdentityError::NoBearer) };
        Ok(PeerIdentity {
            bearer: Bearer::from_uri(uri).ok_or(IdentityError::NoBearer)?,
            serial: Serial(certificate.raw_serial().try_into().map_err(|_| IdentityError::NoBearer)?),
            valid_until: end_of(&certificate),
        })
    }

    /// When the certificate should be renewed: after two thirds of `valid_for`, its whole validity.
    pub fn renew_at(&self, valid_for: Duration) -> UnixMillis {
        UnixMillis(self.valid_until.0.saturating_sub(valid_for.as_millis() as u64 / 3))
    }
}

impl Key {
    /// Makes a new key.
    pub fn generate() -> Result<Key, IdentityError> {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(|pair| Key { pair }).map_err(IdentityError::Key)
    }

    /// Reads what [`Key::to_pem`] wrote.
    pub fn from_pem(pem: &str) -> Result<Key, IdentityError> {
        KeyPair::from_pem(pem).map(|pair| Key { pair }).map_err(IdentityError::Key)
    }

    /// PKCS #8, PEM, for a file that only its owner may read.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.pair.serialize_pem())
    }

    /// A request for a certificate, PKCS #10, DER. It carries the public key and nothing else.
    pub fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair).map_err(IdentityError::Key)?;
        Ok(request.der().to_vec())
    }

    /// Whether the certificate is for this key.
    pub fn fits(&self, certificate: &[u8]) -> bool {
        parse(certificate).is_ok_and(|c| c.public_key().subject_public_key.data.as_ref() == self.pair.public_key_raw())
    }

    /// Signs what an edge says of itself on paper or media, see [`crate::signed`]. ECDSA P-256 over SHA-256, ASN.1.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        rcgen::SigningKey::sign(&self.pair, message).map_err(IdentityError::Sign)
    }

    /// For TLS.
    pub fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(private)")
    }
}

impl Authority {
    /// Makes an authority with a new key, whose certificate ends at `valid_until`. Its number is part of its subject: authorities
    /// of the same name would be taken for each other, and a foreign certificate would look like a forged one.
    pub fn generate(name: &str, valid_until: UnixMillis) -> Result<Authority, IdentityError> {
        let key = Key::generate()?;
        let serial = Serial::random();
        let mut params = params(&format!("{name} {serial}"), serial, valid_until);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key.pair).map_err(IdentityError::Sign)?.der().to_vec();
        Ok(Authority { issuer: Issuer::new(params, key.pair), certificate })
    }

    /// Takes an authority up again from its stored key and certificate.
    pub fn load(key: Key, certificate: Vec<u8>) -> Result<Authority, IdentityError> {
        if !key.fits(&certificate) {
            return Err(IdentityError::NotACertificate);
        }
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(certificate.as_slice()), key.pair);
        Ok(Authority { issuer: issuer.map_err(IdentityError::Sign)?, certificate })
    }

    /// The key, for the gateway's key file.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// BLAKE3 of the certificate: what tokens carry.
    pub fn fingerprint(&self) -> [u8; 32] {
        blake3::hash(&self.certificate).into()
    }

    /// Signs a certificate for the key in an edge's request. Everything else in the request is ignored.
    pub fn sign_edge(&self, request: &[u8], bearer: Bearer, valid_until: UnixMillis) -> Result<Issued, IdentityError> {
        let request = read_request(request)?;
        let serial = Serial::random();
        let mut params = params("sluice edge", serial, valid_until);
        params.subject_alt_names = vec![SanType::URI(bearer.uri().try_into().expect("ids are ASCII"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params.signed_by(&request.public_key, &self.issuer).map_err(IdentityError::Sign)?;
        Ok(Issued { certificate: signed.der().to_vec(), serial, valid_until: whole_second(valid_until) })
    }

    /// Names the key that a certificate request is for, after checking that the requester has it. Two requests for one key differ in their
    /// signatures, so a request itself names nothing.
    pub fn key_of(request: &[u8]) -> Result<[u8; 32], IdentityError> {
        Ok(blake3::hash(read_request(request)?.public_key.der_bytes()).into())
    }

    /// Signs a certificate with [`SERVER_NAME`] for a gateway's key.
    pub fn sign_server(&self, key: &Key, valid_until: UnixMillis) -> Result<Issued, IdentityError> {
        let serial = Serial::random();
        let mut params = params("sluice gateway", serial, valid_until);
        params.subject_alt_names = vec![SanType::DnsName(SERVER_NAME.try_into().expect("the name is ASCII"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = params.signed_by(&key.pair, &self.issuer).map_err(IdentityError::Sign)?;
        Ok(Issued { certificate: signed.der().to_vec(), serial, valid_until: whole_second(valid_until) })
    }
}

impl Authority {
    /// Signs a certificate with which pages are served under these names (DNS names and IP addresses). It has not [`SERVER_NAME`], so whoever steals its key cannot
    /// play the gateway to an edge.
    pub fn sign_pages(&self, key: &Key, names: &[String], valid_until: UnixMillis) -> Result<Issued, IdentityError> {
        let serial = Serial::random();
        let mut params = params("sluice gateway pages", serial, valid_until);
        let name = |name: &String| match name.parse::<std::net::IpAddr>() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => name.as_str().try_into().map(SanType::DnsName).map_err(IdentityError::Sign),
        };
        let others = names.iter().filter(|name| !name.eq_ignore_ascii_case(SERVER_NAME));
        params.subject_alt_names = others.map(name).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = params.signed_by(&key.pair, &self.issuer).map_err(IdentityError::Sign)?;
        Ok(Issued { certificate: signed.der().to_vec(), serial, valid_until: whole_second(valid_until) })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", data_encoding::HEXLOWER.encode(&self.fingerprint()))
    }
}

fn read_request(request: &[u8]) -> Result<CertificateSigningRequestParams, IdentityError> {
    if request.len() > MAX_CERTIFICATE {
        return Err(IdentityError::Request(rcgen::Error::CouldNotParseCertificationRequest));
    }
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map_err(IdentityError::Request)
}

/// What all our certificates have in common.
fn params(name: &str, serial: Serial, valid_until: UnixMillis) -> CertificateParams {
    let mut params = CertificateParams::default();
    let (year, month, day) = VALID_FROM;
    params.not_before = rcgen::date_time_ymd(year, month, day);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(whole_second(valid_until).0);
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

/// X.509 counts in seconds and in years of four digits.
fn whole_second(time: UnixMillis) -> UnixMillis {
    const YEAR_9999: u64 = 253_370_764_800_000;
    UnixMillis(time.0.min(YEAR_9999) / 1000 * 1000)
}

/// The public key of a certificate, as a point of P-256.
pub(crate) fn public_key(der: &[u8]) -> Result<Vec<u8>, IdentityError> {
    Ok(parse(der)?.public_key().subject_public_key.data.to_vec())
}

/// When a certificate (DER) ends.
pub fn certificate_end(der: &[u8]) -> Result<UnixMillis, IdentityError> {
    Ok(end_of(&parse(der)?))
}

fn end_of(certificate: &X509Certificate<'_>) -> UnixMillis {
    let seconds = certificate.validity().not_after.timestamp();
    UnixMillis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    if der.len() > MAX_CERTIFICATE {
        return Err(IdentityError::NotACertificate);
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(IdentityError::NotACertificate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: UnixMillis = UnixMillis(1_900_000_000_123);

    fn bearer() -> Bearer {
        Bearer { tenant: TenantId([0xab; 16]), site: SiteId([0x0c; 16]) }
    }

    #[test]
    fn a_certificate_tells_its_bearer_number_and_end() {
        let authority = Authority::generate("test", LATER).unwrap();
        let key = Key::generate().unwrap();
        let issued = authority.sign_edge(&key.request().unwrap(), bearer(), LATER).unwrap();
        let peer = PeerIdentity::from_certificate(&issued.certificate).unwrap();
        assert_eq!(peer.bearer, bearer());
        assert_eq!(peer.serial, issued.serial);
        assert_eq!(peer.valid_until, UnixMillis(1_900_000_000_000));
        assert!(key.fits(&issued.certificate));
        assert!(!Key::generate().unwrap().fits(&issued.certificate));
        let [one, again, other] = [&key, &key, &Key::generate().unwrap()].map(|key| key.request().unwrap());
        assert_eq!(Authority::key_of(&one).unwrap(), Authority::key_of(&again).unwrap());
        assert_ne!(Authority::key_of(&one).unwrap(), Authority::key_of(&other).unwrap());
        assert_eq!(peer.renew_at(Duration::from_secs(900)), UnixMillis(1_900_000_000_000 - 300_000));
    }

    #[test]
    fn an_authority_survives_its_files() {
        let authority = Authority::generate("test", LATER).unwrap();
        let key = Key::from_pem(&authority.key_pem()).unwrap();
        let loaded = Authority::load(key, authority.certificate().to_vec()).unwrap();
        assert_eq!(loaded.fingerprint(), authority.fingerprint());
        let other = Key::generate().unwrap();
        assert!(Authority::load(other, authority.certificate().to_vec()).is_err());
    }

    #[test]
    fn names_in_a_request_are_not_believed() {
        let authority = Authority::generate("test", LATER).unwrap();
        let key = Key::generate().unwrap();
        let liar = Bearer { tenant: TenantId([1; 16]), site: SiteId([2; 16]) };
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(liar.uri().try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = params.serialize_request(&key.pair).unwrap();
        let issued = authority.sign_edge(request.der(), bearer(), LATER).unwrap();
        assert_eq!(PeerIdentity::from_certificate(&issued.certificate).unwrap().bearer, bearer());
        assert!(!parse(&issued.certificate).unwrap().is_ca());
    }

    #[test]
    fn a_gateways_certificate_is_no_edges() {
        let authority = Authority::generate("test", LATER).unwrap();
        let issued = authority.sign_server(&Key::generate().unwrap(), LATER).unwrap();
        assert!(matches!(PeerIdentity::from_certificate(&issued.certificate), Err(IdentityError::NoBearer)));
        assert!(matches!(PeerIdentity::from_certificate(b"garbage"), Err(IdentityError::NotACertificate)));
    }

    #[test]
    fn a_request_with_a_wrong_signature_is_refused() {
        let authority = Authority::generate("test", LATER).unwrap();
        let mut request = Key::generate().unwrap().request().unwrap();
        let last = request.len() - 1;
        request[last] ^= 1;
        assert!(matches!(authority.sign_edge(&request, bearer(), LATER), Err(IdentityError::Request(_))));
    }

    #[test]
    fn serial_numbers_print_and_parse() {
        let serial = Serial::random();
        assert_eq!(serial.to_string().parse::<Serial>().unwrap(), serial);
        assert!("7".parse::<Serial>().is_err());
    }
}
