//! What the gateway states and signs for whoever asks in years. The statement itself is `wire::statement`; here are its key and its keeping.
//!
//! The key is one of its own, `ca/statements.key`, beside the authorities' keys and in every backup with them, and not the key of policies: that one is
//! replaced when edges enrol anew, while a proof has to be verified for as long as somebody asks. That neither signs what the other does is seen to by
//! what each signature begins with, so nothing depends on the keys being two.

use crate::catalogue::{CatalogueError, NewProof, Proof};
use crate::files;
use crate::state::{State, StateError};
use dedupe::{TenantId, UnixMillis};
use serde_json::{Map, Value};
use std::path::Path;
use wire::statement::{StatementError, StatementKey};

/// Start of the key's file; the number is the format's. Behind it PKCS #8 in hexadecimal digits.
const MAGIC: &str = "sluice-statement-key-1 ";
/// Its name in the folder of the authorities.
const NAME: &str = "statements.key";

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It cannot be signed.
    #[error("a statement cannot be made: {0}")]
    Statement(#[from] StatementError),
    /// The catalogue failed.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

/// Whose a proof is, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The tenant who may see it.
    pub tenant: TenantId,
    /// What it is about, for people: `bank/branch-1`.
    pub subject: String,
}

impl State {
    /// Signs a statement, without keeping it: for whoever has to keep it in the transaction of the deed.
    ///
    /// Added to the body: `gateway` (which one states this), `software` and `stated_at`.
    pub fn state_and_sign(
        &self,
        kind: &str,
        about: &About,
        mut body: Map<String, Value>,
    ) -> Result<NewProof, ProofError> {
        let made = self.now();
        body.insert("gateway".into(), self.gateway_id().into());
        body.insert("software".into(), format!("sluice-gateway {}", env!("CARGO_PKG_VERSION")).into());
        body.insert("stated_at".into(), moment(made).into());
        let statement = self.statement_key.sign(kind, body)?;
        let (kind, statement) = (statement.kind.clone(), statement.to_json());
        Ok(NewProof { tenant: about.tenant, made, kind, subject: about.subject.clone(), statement })
    }

    /// Signs a statement and keeps it; durable on return.
    pub fn prove(&self, kind: &str, about: &About, body: Map<String, Value>) -> Result<Proof, ProofError> {
        Ok(self.catalogue.add_proof(self.state_and_sign(kind, about, body)?)?)
    }

    /// What names this gateway in statements: the fingerprint of the authority that signs, by which edges know it, too.
    pub fn gateway_id(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.authorities().fingerprint())
    }
}

/// A moment as statements write it: RFC 3339 in UTC.
pub fn moment(at: UnixMillis) -> String {
    crate::policies::timestamp(at).to_string()
}

/// Loads the key of a folder; made when there is none. `expected`: something was signed before.
pub(crate) fn load_key(folder: &Path, expected: bool) -> Result<StatementKey, StateError> {
    let path = folder.join(NAME);
    if !path.exists() && expected {
        tracing::error!(path = %path.display(), "the key that signs statements is gone and a new one is made: proofs of before are verified with the old public key; restore the key from a backup");
    }
    let pkcs8 = files::secret_of(&path, MAGIC, StatementKey::generate)?;
    pkcs8.and_then(|pkcs8| StatementKey::read(&pkcs8)).ok_or(StateError::StatementKey(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_private_and_named_when_broken() {
        let dir = tempfile::tempdir().unwrap();
        let made = load_key(dir.path(), false).unwrap();
        assert_eq!(load_key(dir.path(), true).unwrap().public(), made.public());
        let path = dir.path().join(NAME);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, format!("{MAGIC}00\n")).unwrap();
        let broken = load_key(dir.path(), true).unwrap_err().to_string();
        assert!(broken.contains("statements.key is no key for statements; restore it from a backup"), "{broken}");
    }
}
