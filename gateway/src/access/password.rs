//! Passwords: kept as argon2id, refused when they are easily guessed.

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use std::sync::LazyLock;

/// Characters of a password at least (OWASP ASVS 2.1.1).
pub const LEAST: usize = 12;
/// Characters of a password at most: enough for any sentence, and no work for hours (ASVS 2.1.2).
pub const MOST: usize = 128;
/// OWASP's password storage cheat sheet, first choice for argon2id with one lane: 19 MiB, two passes.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// Why a password is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    /// Too short.
    #[error("the password has fewer than {LEAST} characters: take a longer one, a sentence for example")]
    Short,
    /// Too long.
    #[error("the password has more than {MOST} characters: take a shorter one")]
    Long,
    /// It is the name, or hardly more.
    #[error("the password contains the account's name: whoever guesses would begin there")]
    Name,
    /// Few different characters, or a row of the keyboard.
    #[error("the password is one of the first that are tried: take another one")]
    Common,
}

/// Beginnings of what people take when twelve characters are asked for, in lower case without digits and signs at the end.
const COMMON: &[&str] = &[
    "password",
    "passwort",
    "passw0rd",
    "p@ssw0rd",
    "p@ssword",
    "qwerty",
    "qwertz",
    "azerty",
    "asdfgh",
    "1234567",
    "7654321",
    "0987654",
    "abcdef",
    "letmein",
    "welcome",
    "iloveyou",
    "changeme",
    "changeit",
    "administrator",
    "sluice",
    "woaini",
    "mima",
    "admin",
    "1qaz2wsx",
    "qazwsx",
    "zaq12wsx",
    "q1w2e3",
    "trustno1",
    "monkey",
    "dragon",
    "football",
    "baseball",
    "sunshine",
    "princess",
    "superman",
    "correcthorse",
];
/// So many characters must be left when a common beginning is taken away.
const BEYOND_COMMON: usize = 8;
/// Different characters at least.
const DIFFERENT: usize = 5;

/// Whether a password may be taken for an account of this name.
pub fn check(password: &str, name: &str) -> Result<(), Weak> {
    let len = password.chars().count();
    let lower = password.to_lowercase();
    let different: std::collections::BTreeSet<char> = lower.chars().collect();
    let common = |word: &&&str| lower.contains(**word) && len < word.chars().count() + BEYOND_COMMON;
    match () {
        () if len < LEAST => Err(Weak::Short),
        () if len > MOST => Err(Weak::Long),
        () if name.chars().count() >= 4 && lower.contains(&name.to_lowercase()) => Err(Weak::Name),
        () if different.len() < DIFFERENT || COMMON.iter().any(|word| common(&word)) => Err(Weak::Common),
        () => Ok(()),
    }
}

/// What is kept of a password. Takes some hundredths of a second and 19 MiB; blocks.
pub fn hash(password: &str) -> String {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).expect("the operating system has a random source");
    let hashed = argon().hash_password_with_salt(password.as_bytes(), &salt);
    hashed.expect("the parameters are constants, and any bytes are hashed").to_string()
}

/// Whether this is the password that was kept. Takes as long when there is none, so that nobody learns which accounts there are. Blocks.
pub fn matches(password: &str, kept: Option<&str>) -> bool {
    static NOBODY: LazyLock<String> = LazyLock::new(|| hash("nobody has this password"));
    let known = kept.unwrap_or(&NOBODY);
    // Longer ones are never kept; hashing them would be work for nothing.
    let fits = password.len() <= 4 * MOST;
    let verified = argon().verify_password(if fits { password.as_bytes() } else { b"" }, known).is_ok();
    verified && fits && kept.is_some()
}

fn argon() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("the parameters are constants within their bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_argon2id_and_tells_right_from_wrong() {
        let kept = hash("the river is high tonight");
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert_ne!(kept, hash("the river is high tonight"), "each has a salt of its own");
        assert!(matches("the river is high tonight", Some(&kept)));
        assert!(!matches("the river is low tonight", Some(&kept)));
        assert!(!matches("nobody has this password", None));
        assert!(!matches("anything", Some("not a hash")));
    }

    #[test]
    fn easily_guessed_ones_are_not_taken() {
        assert_eq!(check("short", "li"), Err(Weak::Short));
        assert_eq!(check(&"ab c".repeat(40), "li"), Err(Weak::Long));
        assert_eq!(check("xx-WangFang-2026", "wangfang"), Err(Weak::Name));
        for common in ["Password1234", "qwertyuiop12", "aaaaaaaaaaaaaa", "123456789012", "Changeme2026!"] {
            assert_eq!(check(common, "li"), Err(Weak::Common), "{common}");
        }
        for good in ["the river is high tonight", "长江的水今天晚上涨得很高了吗", "vK8#pd0-Lw2q"] {
            assert_eq!(check(good, "li"), Ok(()), "{good}");
        }
    }
}
