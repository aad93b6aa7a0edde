//! The key that media of seeds are encrypted to: X25519, `ca/seeds.key`, beside the authorities' keys and in every backup with them.

use crate::files;
use crate::state::StateError;
use hpke::{Deserializable, Kem as _, Serializable, kem::X25519HkdfSha256};
use std::path::Path;
use wire::seeding::SeedKey;
use zeroize::Zeroizing;

/// Start of the key's file; the number is the format's. Behind it 32 bytes in hexadecimal digits.
const MAGIC: &str = "sluice-seed-key-1 ";
/// Its name in the folder of the authorities.
const NAME: &str = "seeds.key";

/// The private key.
pub struct SeedSecret {
    secret: Zeroizing<[u8; 32]>,
    public: SeedKey,
}

impl std::fmt::Debug for SeedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SeedSecret({})", data_encoding::HEXLOWER.encode(&self.public.id))
    }
}

impl SeedSecret {
    /// What edges are told.
    pub fn public(&self) -> SeedKey {
        self.public
    }

    /// The private key's bytes, for whoever opens a medium.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    fn read(secret: &[u8]) -> Option<SeedSecret> {
        let key = <X25519HkdfSha256 as hpke::Kem>::PrivateKey::from_bytes(secret).ok()?;
        let public = X25519HkdfSha256::sk_to_pk(&key).to_bytes();
        let public = SeedKey::new(public.as_slice().try_into().ok()?);
        Some(SeedSecret { secret: Zeroizing::new(secret.try_into().ok()?), public })
    }
}

/// Loads the key of a folder; made when there is none. `expected`: media were encrypted to it before.
pub(crate) fn load(folder: &Path, expected: bool) -> Result<SeedSecret, StateError> {
    let path = folder.join(NAME);
    if !path.exists() && expected {
        tracing::error!(path = %path.display(), "the key that opens media of seeds is gone and a new one is made: media that are on their way cannot be opened; restore the key from a backup");
    }
    let secret = files::secret_of(&path, MAGIC, || {
        let mut key = Zeroizing::new(vec![0; 32]);
        getrandom::fill(&mut key).expect("the operating system has a random source");
        key
    })?;
    secret.and_then(|secret| SeedSecret::read(&secret)).ok_or(StateError::SeedKey(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_private_and_named_when_broken() {
        let dir = tempfile::tempdir().unwrap();
        let made = load(dir.path(), false).unwrap();
        assert_eq!(load(dir.path(), true).unwrap().public(), made.public());
        let path = dir.path().join(NAME);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let printed = format!("{made:?}");
        assert!(!printed.contains(&data_encoding::HEXLOWER.encode(made.secret())), "{printed}");
        std::fs::write(&path, format!("{MAGIC}00\n")).unwrap();
        let broken = load(dir.path(), true).unwrap_err().to_string();
        assert!(broken.contains("seeds.key is no key for seeds; restore it from a backup"), "{broken}");
    }

    #[test]
    fn the_public_key_is_that_of_x25519() {
        // Worked out by the ladder of RFC 7748, section 5.
        let secret: Vec<u8> = (1..=32).collect();
        let public = SeedSecret::read(&secret).unwrap().public();
        let expected = "07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c";
        assert_eq!(data_encoding::HEXLOWER.encode(&public.public), expected);
        assert_eq!(public, SeedKey::new(public.public));
    }
}
