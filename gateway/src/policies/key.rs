//! The key that signs policies: `ca/policy.key`, beside the authorities' keys and in every backup with them.

use crate::files;
use crate::state::StateError;
use std::path::Path;
use wire::policy::PolicyKey;

/// Start of the file; the number is the format's. Behind it PKCS #8 in hexadecimal digits.
const MAGIC: &str = "sluice-policy-key-1 ";
/// Its name in the folder of the authorities.
const NAME: &str = "policy.key";

/// Loads the key of a folder; made when there is none. `expected`: policies were signed with one before.
pub(crate) fn load(folder: &Path, expected: bool) -> Result<PolicyKey, StateError> {
    let path = folder.join(NAME);
    if !path.exists() && expected {
        tracing::error!(path = %path.display(), "the key that signs policies is gone and a new one is made: edges that know the old one refuse its policies until they enrol again; restore it from a backup");
    }
    let pkcs8 = files::secret_of(&path, MAGIC, PolicyKey::generate)?;
    pkcs8.and_then(|pkcs8| PolicyKey::read(&pkcs8)).ok_or(StateError::PolicyKey(path))
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
        std::fs::write(&path, format!("{MAGIC}00\n")).unwrap();
        let broken = load(dir.path(), true).unwrap_err().to_string();
        assert!(broken.contains("policy.key is no key for policies; restore it from a backup"), "{broken}");
    }
}
