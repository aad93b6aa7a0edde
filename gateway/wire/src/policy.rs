//! A policy on its way from the gateway to the edge that it is for: the document and the gateway's signature over it.
//!
//! Signed is the site's id with the document, so a policy of one site is none of another's. The version is inside of the document: an
//! edge takes nothing that is not newer than what it has.

use dedupe::SiteId;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// Bytes of a document at most, as `shaping` reads it.
pub const MAX_DOCUMENT: usize = 64 << 10;
/// What is signed begins so, so that a signature of something else is never one of a policy.
const CONTEXT: &[u8] = b"sluice policy 1\0";

/// A document with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPolicy {
    /// TOML, at most [`MAX_DOCUMENT`] bytes.
    pub document: String,
    /// Ed25519, 64 bytes.
    pub signature: Vec<u8>,
    /// The public key that it was signed with.
    pub key: [u8; 32],
}

/// Why a policy is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Another key than the one that this edge knows.
    #[error(
        "the policy is signed by another key than the one that this edge learnt from its gateway; if the gateway was made anew, enrol again"
    )]
    OtherKey,
    /// The document, the site or the signature was changed.
    #[error("the signature does not fit the policy and this site; the last good policy stays in force")]
    Wrong,
}

/// The gateway's key for policies.
pub struct PolicyKey(Ed25519KeyPair);

impl std::fmt::Debug for PolicyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PolicyKey({})", data_encoding::HEXLOWER.encode(&self.public()))
    }
}

impl PolicyKey {
    /// A new key as a PKCS #8 document, to be kept secret.
    ///
    /// # Panics
    /// When the operating system has no random numbers.
    pub fn generate() -> zeroize::Zeroizing<Vec<u8>> {
        let made =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the operating system has a random source");
        zeroize::Zeroizing::new(made.as_ref().to_vec())
    }

    /// Reads what [`PolicyKey::generate`] made; `None` when it is something else.
    pub fn read(pkcs8: &[u8]) -> Option<PolicyKey> {
        Ed25519KeyPair::from_pkcs8(pkcs8).ok().map(PolicyKey)
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    /// Signs a document for a site.
    pub fn sign(&self, site: SiteId, document: String) -> SignedPolicy {
        let signature = self.0.sign(&signed_bytes(site, &document)).as_ref().to_vec();
        SignedPolicy { signature, key: self.public(), document }
    }
}

impl SignedPolicy {
    /// Whether this is a policy for this site, signed by the key that is known; the first key that comes over an authenticated session is taken.
    pub fn verify(&self, site: SiteId, known: Option<[u8; 32]>) -> Result<(), SignatureError> {
        if known.is_some_and(|known| known != self.key) {
            return Err(SignatureError::OtherKey);
        }
        let key = UnparsedPublicKey::new(&ED25519, self.key);
        key.verify(&signed_bytes(site, &self.document), &self.signature).map_err(|_| SignatureError::Wrong)
    }
}

fn signed_bytes(site: SiteId, document: &str) -> Vec<u8> {
    [CONTEXT, &site.0, document.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_for_its_site_as_it_was_signed_and_by_the_known_key() {
        let (key, other) = (PolicyKey::generate(), PolicyKey::generate());
        let (key, other) = (PolicyKey::read(&key).unwrap(), PolicyKey::read(&other).unwrap());
        let (site, elsewhere) = (SiteId([1; 16]), SiteId([2; 16]));
        let signed = key.sign(site, "version = 1".into());
        assert_eq!(signed.verify(site, None), Ok(()));
        assert_eq!(signed.verify(site, Some(key.public())), Ok(()));
        assert_eq!(signed.verify(elsewhere, Some(key.public())), Err(SignatureError::Wrong));
        assert_eq!(signed.verify(site, Some(other.public())), Err(SignatureError::OtherKey));
        let changed = SignedPolicy { document: "version = 2".into(), ..signed.clone() };
        assert_eq!(changed.verify(site, None), Err(SignatureError::Wrong));
        let forged = SignedPolicy { key: other.public(), ..signed };
        assert_eq!(forged.verify(site, None), Err(SignatureError::Wrong));
        assert!(PolicyKey::read(b"something else").is_none());
    }
}
