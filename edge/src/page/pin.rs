//! The PIN of the page: eight digits that the command line prints once. Here only a salted hash of it is kept, in `page-pin.json`, for the owner alone.

use crate::files;
use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const FORMAT: &str = "sluice-edge-pin";
const VERSION: u32 = 1;
/// Digits: few enough to be read off a console and typed on a telephone, and with [`super::access::Throttle`] hundreds of years to guess.
const DIGITS: usize = 8;
/// 12 MiB, three times over, one lane: what OWASP asks of Argon2id where memory is scarce. One is computed at a time.
const MEMORY_KIB: u32 = 12 * 1024;
const PASSES: u32 = 3;

/// Why the PIN cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The file.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{0} is damaged; make a new PIN with `sluice-edge page --new-pin`")]
    Damaged(PathBuf),
    /// The hash could not be computed.
    #[error("the PIN cannot be hashed: {0}")]
    Hash(argon2::Error),
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: String,
    version: u32,
    salt: String,
    hash: String,
}

/// A PIN as it is kept: enough to know it again, and no more.
#[derive(Clone)]
pub struct KeptPin {
    salt: [u8; 16],
    hash: [u8; 32],
}

/// Makes a PIN, keeps its hash in `state`, and returns it: it is seen this once. An older one is worth nothing from now on. Blocks.
pub fn make(state: &Path) -> Result<Zeroizing<String>, PinError> {
    let path = path(state);
    let failed = |source| PinError::File { what: "write", path: path.clone(), source };
    let pin = random_digits();
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).expect("the operating system has a random source");
    let hash = hash(&pin, &salt)?;
    let record =
        Record { format: FORMAT.into(), version: VERSION, salt: HEXLOWER.encode(&salt), hash: HEXLOWER.encode(&hash) };
    let bytes = serde_json::to_vec_pretty(&record).expect("plain data serialises");
    files::private_directory(state).map_err(failed)?;
    files::write_whole(&path, &[&bytes]).map_err(failed)?;
    Ok(pin)
}

/// The PIN that is kept in `state`; none: none was made. Blocks.
pub fn load(state: &Path) -> Result<Option<KeptPin>, PinError> {
    let path = path(state);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PinError::File { what: "read", path, source }),
        Ok(bytes) => bytes,
    };
    let record: Option<Record> = serde_json::from_slice(&bytes).ok();
    let record = record.filter(|record| record.format == FORMAT && record.version == VERSION);
    let of = |text: &str| HEXLOWER.decode(text.as_bytes()).ok();
    let kept = record.and_then(|record| {
        Some(KeptPin { salt: of(&record.salt)?.try_into().ok()?, hash: of(&record.hash)?.try_into().ok()? })
    });
    kept.map(Some).ok_or(PinError::Damaged(path))
}

impl KeptPin {
    /// Whether this is the PIN. Spaces and dashes that people write between digits do not count. Takes a tenth of a second. Blocks.
    pub fn is(&self, typed: &str) -> bool {
        let digits: Zeroizing<String> =
            Zeroizing::new(typed.chars().filter(|c| !c.is_whitespace() && *c != '-').take(2 * DIGITS).collect());
        hash(&digits, &self.salt).is_ok_and(|hash| hash.ct_eq(&self.hash).into())
    }

    /// Which PIN it is, so that sessions end with theirs.
    pub fn id(&self) -> [u8; 16] {
        self.salt
    }
}

/// As people read it: `1234 5678`.
pub fn grouped(pin: &str) -> Zeroizing<String> {
    let (first, second) = pin.split_at(pin.len() / 2);
    Zeroizing::new(format!("{first} {second}"))
}

fn path(state: &Path) -> PathBuf {
    state.join("page-pin.json")
}

fn hash(pin: &str, salt: &[u8]) -> Result<[u8; 32], PinError> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(32)).map_err(PinError::Hash)?;
    let mut hash = [0; 32];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(pin.as_bytes(), salt, &mut hash).map_err(PinError::Hash)?;
    Ok(hash)
}

/// Each PIN as likely as the others: what lies above the last whole multiple is drawn again.
fn random_digits() -> Zeroizing<String> {
    const PINS: u32 = 10u32.pow(DIGITS as u32);
    loop {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).expect("the operating system has a random source");
        let number = u32::from_le_bytes(bytes);
        if number < u32::MAX / PINS * PINS {
            return Zeroizing::new(format!("{:0width$}", number % PINS, width = DIGITS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_pin_is_known_again_and_cannot_be_read_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert!(load(&state).unwrap().is_none());
        let pin = make(&state).unwrap();
        assert!(pin.len() == DIGITS && pin.bytes().all(|byte| byte.is_ascii_digit()), "{pin:?}");
        let file = state.join("page-pin.json");
        assert!(!std::fs::read_to_string(&file).unwrap().contains(pin.as_str()));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let kept = load(&state).unwrap().unwrap();
        assert!(kept.is(&pin) && kept.is(&format!(" {}\n", *grouped(&pin))));
        let wrong = if pin.starts_with('0') { "1" } else { "0" }.to_owned() + &pin[1..];
        assert!(!kept.is(&wrong) && !kept.is("") && !kept.is(&pin[1..]));
        let other = make(&state).unwrap();
        let kept = load(&state).unwrap().unwrap();
        assert!(kept.is(&other) && !kept.is(&pin), "the older one is worth nothing");
        std::fs::write(&file, "{}").unwrap();
        assert!(load(&state).err().unwrap().to_string().contains("--new-pin"));
    }
}
