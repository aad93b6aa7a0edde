//! The one-time invitation of a new edge: where the gateway is, how to know it, and a secret that it will accept once.
//!
//! As text: `sluice1.` and base64url of a 4-byte check value and postcard. The check value finds typing errors before
//! anything is dialled. The gateway keeps only a hash of the secret.

use crate::frame::{MAX_LIST, MAX_TEXT};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

const PREFIX: &str = "sluice1.";
const CHECK: usize = 4;

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// It starts with something else.
    #[error("this is not an enrolment token: a token starts with `sluice1.`; `sluice-gateway token` prints one")]
    NotAToken,
    /// It is a token of another version.
    #[error(
        "the token is of a version that this edge does not know; upgrade the edge, or have a token made by an older gateway"
    )]
    Version,
    /// A character cannot be part of a token.
    #[error("the token is mistyped at character {0}: only letters, digits, `-` and `_` may follow `sluice1.`")]
    Character(usize),
    /// It ends too early.
    #[error("the token is cut short; copy the whole line that `sluice-gateway token` printed")]
    CutShort,
    /// Its check value does not fit.
    #[error("the token is mistyped: its check value is wrong; copy it again from the gateway")]
    Mistyped,
}

/// A secret of 32 bytes. It prints as nothing and is wiped when dropped.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

/// What a gateway stores of a secret.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SecretHash([u8; 32]);

/// An invitation for one edge.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// Where the gateway may be reached, `host:port`, in order of preference.
    pub addresses: Vec<String>,
    /// BLAKE3 of the certificate of the gateway's authority.
    pub authority: [u8; 32],
    /// The token's name at the gateway.
    pub id: [u8; 16],
    /// What proves that its bearer was invited.
    pub secret: Secret,
}

impl Secret {
    /// Takes the bytes off the wire.
    pub fn new(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }

    /// The bytes, for the request of enrolment.
    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }

    /// What may be stored. 256 random bits need no slow hash.
    pub fn hash(&self) -> SecretHash {
        SecretHash(blake3::derive_key("sluice 2026 enrolment secret", &self.0))
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl SecretHash {
    /// Whether this is the hash of `secret`, in a time that does not depend on either.
    pub fn matches(&self, secret: &Secret) -> bool {
        self.0.ct_eq(&secret.hash().0).into()
    }
}

impl Token {
    /// An invitation with a new id and secret.
    pub fn random(addresses: Vec<String>, authority: [u8; 32]) -> Token {
        let (mut id, mut secret) = ([0; 16], [0; 32]);
        getrandom::fill(&mut id).expect("the operating system has a random source");
        getrandom::fill(&mut secret).expect("the operating system has a random source");
        Token { addresses, authority, id, secret: Secret(secret) }
    }

    /// The token as text, secret included: for the person who enrols the edge, never for a log. (That is why it is not `Display`.)
    pub fn reveal(&self) -> Zeroizing<String> {
        let body = Zeroizing::new(postcard::to_extend(self, vec![0; CHECK]).expect("memory takes any token"));
        let check = check_value(&body[CHECK..]);
        let whole = Zeroizing::new([&check, &body[CHECK..]].concat());
        Zeroizing::new(format!("{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&whole)))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Reads a token. White space is ignored: terminals wrap lines.
    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = Zeroizing::new(text.split_ascii_whitespace().collect::<String>());
        let encoded = text.strip_prefix(PREFIX).ok_or_else(|| without_prefix(&text))?;
        let misplaced = |at: usize| TokenError::Character(PREFIX.len() + at + 1);
        if let Some(at) = encoded.bytes().position(|b| !(b.is_ascii_alphanumeric() || b == b'-' || b == b'_')) {
            return Err(misplaced(at));
        }
        let whole = data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| TokenError::CutShort)?;
        let whole = Zeroizing::new(whole);
        let (check, body) = whole.split_at_checked(CHECK).ok_or(TokenError::CutShort)?;
        match postcard::take_from_bytes::<Token>(body) {
            Ok((token, [])) if check == check_value(body) && token.is_sane() => Ok(token),
            Err(postcard::Error::DeserializeUnexpectedEnd) => Err(TokenError::CutShort),
            _ => Err(TokenError::Mistyped),
        }
    }
}

impl Token {
    fn is_sane(&self) -> bool {
        !self.addresses.is_empty()
            && self.addresses.len() <= MAX_LIST
            && self.addresses.iter().all(|address| address.len() <= MAX_TEXT)
    }
}

fn without_prefix(text: &str) -> TokenError {
    match text.strip_prefix("sluice").and_then(|rest| rest.split_once('.')) {
        Some((version, _)) if version.parse::<u32>().is_ok() => TokenError::Version,
        _ => TokenError::NotAToken,
    }
}

fn check_value(body: &[u8]) -> [u8; CHECK] {
    let hash = blake3::hash(body);
    let (check, _) = hash.as_bytes().split_first_chunk().expect("a hash is longer than a check value");
    *check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token::random(vec!["gateway.example:9470".into(), "[2001:db8::1]:9470".into()], [9; 32])
    }

    #[test]
    fn tokens_print_and_parse_even_when_wrapped() {
        let token = token();
        let text = token.reveal();
        assert!(text.starts_with("sluice1.") && text.len() < 240, "{}", text.len());
        let (start, end) = text.split_at(40);
        let read: Token = format!("  {start}\n {end}\n").parse().unwrap();
        assert_eq!(read.addresses, token.addresses);
        assert_eq!((read.authority, read.id), (token.authority, token.id));
        assert!(token.secret.hash().matches(&read.secret));
    }

    #[test]
    fn every_typing_error_is_found() {
        let text = token().reveal();
        for at in PREFIX.len()..text.len() {
            let mut typo = text.as_bytes().to_vec();
            typo[at] = if typo[at] == b'A' { b'B' } else { b'A' };
            let typo = String::from_utf8(typo).unwrap();
            assert!(typo.parse::<Token>().is_err(), "at {at}");
        }
    }

    #[test]
    fn every_cut_is_found() {
        let text = token().reveal();
        for len in 0..text.len() {
            let refused = text[..len].parse::<Token>().unwrap_err();
            assert!(
                len < PREFIX.len() || matches!(refused, TokenError::CutShort | TokenError::Mistyped),
                "{len}: {refused}"
            );
        }
    }

    #[test]
    fn each_mistake_has_its_own_message() {
        let of = |text: &str| text.parse::<Token>().unwrap_err();
        assert_eq!(of("hello"), TokenError::NotAToken);
        assert_eq!(of(""), TokenError::NotAToken);
        assert_eq!(of("sluice2.AAAA"), TokenError::Version);
        assert_eq!(of("sluice1.AA+A"), TokenError::Character(11));
        assert_eq!(of("sluice1.AAAA"), TokenError::CutShort);
    }

    #[test]
    fn secrets_do_not_print() {
        let token = token();
        assert!(format!("{token:?}").contains("Secret(..)"));
        assert!(!token.secret.hash().matches(&Secret::new([0; 32])));
    }
}
