//! What an edge signs with the key of its certificate, for a gateway that reads it later and elsewhere.
//!
//! Signed are the context, a zero byte, and the message. A certificate is judged by the time at which the message says that it was signed: media travel
//! for weeks, and a certificate that ended meanwhile is none the worse. Whoever stole an old key could write an old time; what such a message
//! is worth has to be decided by what the gateway knows beside it.

use crate::identity::{self, IdentityError, Key, PeerIdentity};
use crate::tls;
use dedupe::UnixMillis;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use std::time::Duration;

/// Bytes of a signature at most: two numbers of 33 bytes in ASN.1.
pub const MAX_SIGNATURE: usize = 80;

/// Why a signature is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// The certificate is none of an edge.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No authority of this gateway signed it, or it had ended.
    #[error(
        "the certificate was not signed by an authority of this gateway, or was not valid when this was signed: {0}"
    )]
    Foreign(String),
    /// What was signed is something else.
    #[error("the signature does not fit: this was changed after it was signed")]
    Wrong,
}

/// Signs `message` in a context.
pub fn sign(key: &Key, context: &str, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
    key.sign(&[context.as_bytes(), &[0], message].concat())
}

/// Verifies that the bearer of `certificate`, which one of the authorities (DER) signed and which was valid `at`, signed `message` in this context.
pub fn verify(
    certificate: &[u8],
    authorities: &[Vec<u8>],
    at: UnixMillis,
    context: &str,
    message: &[u8],
    signature: &[u8],
) -> Result<PeerIdentity, SignedError> {
    let bearer = PeerIdentity::from_certificate(certificate)?;
    let foreign = |error: &dyn std::fmt::Display| SignedError::Foreign(error.to_string());
    let roots = tls::roots(authorities).map_err(|error| foreign(&error))?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots, tls::provider()).build().map_err(|error| foreign(&error))?;
    let time = UnixTime::since_unix_epoch(Duration::from_millis(at.0));
    verifier.verify_client_cert(&CertificateDer::from(certificate), &[], time).map_err(|error| foreign(&error))?;
    let message = [context.as_bytes(), &[0], message].concat();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, identity::public_key(certificate)?)
        .verify(&message, signature)
        .map_err(|_| SignedError::Wrong)?;
    Ok(bearer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Authority, Bearer};
    use dedupe::{SiteId, TenantId};

    const END: UnixMillis = UnixMillis(1_900_000_000_000);

    #[test]
    fn only_what_an_edge_of_this_gateway_signed_is_believed() {
        let (authority, foreign) =
            (Authority::generate("ours", END).unwrap(), Authority::generate("theirs", END).unwrap());
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        let bearer = Bearer { tenant: TenantId([1; 16]), site: SiteId([2; 16]) };
        let certificate = authority.sign_edge(&key.request().unwrap(), bearer, END).unwrap().certificate;
        let (ours, theirs) = (vec![authority.certificate().to_vec()], vec![foreign.certificate().to_vec()]);
        let signature = sign(&key, "a", b"message").unwrap();
        assert!(signature.len() <= MAX_SIGNATURE);
        let at = UnixMillis(1_800_000_000_000);
        let verified = verify(&certificate, &ours, at, "a", b"message", &signature).unwrap();
        assert_eq!(verified.bearer, bearer);
        let refused = |authorities: &[Vec<u8>], at, context, message: &[u8], signature: &[u8]| {
            verify(&certificate, authorities, at, context, message, signature).unwrap_err()
        };
        assert!(matches!(refused(&theirs, at, "a", b"message", &signature), SignedError::Foreign(_)));
        assert!(matches!(
            refused(&ours, UnixMillis(END.0 + 1000), "a", b"message", &signature),
            SignedError::Foreign(_)
        ));
        assert!(matches!(refused(&ours, at, "b", b"message", &signature), SignedError::Wrong));
        assert!(matches!(refused(&ours, at, "a", b"massage", &signature), SignedError::Wrong));
        let forged = sign(&other, "a", b"message").unwrap();
        assert!(matches!(refused(&ours, at, "a", b"message", &forged), SignedError::Wrong));
        let server = authority.sign_server(&key, END).unwrap().certificate;
        let refused = verify(&server, &ours, at, "a", b"message", &signature);
        assert!(matches!(refused, Err(SignedError::Identity(_))), "{refused:?}");
    }
}
