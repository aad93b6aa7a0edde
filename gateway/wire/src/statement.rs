//! What the gateway states and signs, for whoever asks in years: a proof of erasure, and whatever else has to be believed without the gateway.
//!
//! A statement is one file of JSON: `{"body":{…},"key":"…","kind":"erasure","signature":"…","statement":1}`. Signed are these bytes, one after the other:
//!
//! ```text
//!   "sluice statement 1\0"   so that a signature of anything else is never one of a statement, and the other way round
//!   kind "\0"                so that a statement of one kind is never one of another
//!   the body                 as canonical JSON, see `canonical`
//! ```
//!
//! The key in the file says which key to look for, and is believed by nobody: a statement is worth what the key is that it is verified with.
//! Ed25519 (RFC 8032), so `openssl pkeyutl -verify -rawin` verifies [`Statement::signed_bytes`] too.

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// Format of the file, and of what is signed.
const FORMAT: u64 = 1;
/// What is signed begins so.
const CONTEXT: &[u8] = b"sluice statement 1\0";
/// Bytes of a statement's file at most: some 100,000 generations, each with its root.
pub const MAX_STATEMENT: usize = 16 << 20;
/// Characters of a kind at most.
const MAX_KIND: usize = 40;
/// The greatest whole number that every reader of JSON takes for the same (RFC 8785, 3.2.2.3 and its appendix B): 2^53 - 1.
const MAX_WHOLE: u64 = (1 << 53) - 1;
/// DER in front of the 32 bytes of an Ed25519 public key (RFC 8410, 4).
const PUBLIC_DER: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a statement is not made, read or believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// The file is something else.
    #[error("this is no statement: {0}; take the file as `sluice-gateway proof show N --json` or the API gave it")]
    Unreadable(String),
    /// Made by later software.
    #[error("the statement is of format {0}, and this software knows format {FORMAT}: verify it with a newer one")]
    Format(u64),
    /// The body cannot be signed.
    #[error(
        "`{0}` cannot stand in a statement: only texts, whole numbers below 2^53, yes and no, lists and objects can"
    )]
    Body(String),
    /// Too long.
    #[error("the statement has more than {} MiB", MAX_STATEMENT >> 20)]
    TooLong,
    /// Another key.
    #[error(
        "the statement is signed by key {found}, not by key {wanted}: get the public key of the gateway that made it, by a way that you trust"
    )]
    OtherKey {
        /// The key that it names.
        found: KeyId,
        /// The key that it was to be verified with.
        wanted: KeyId,
    },
    /// The body, the kind or the signature was changed.
    #[error("the signature does not fit: the statement was changed after it was signed, or never was one of this key")]
    Wrong,
    /// A public key is none.
    #[error("this is no public key: give 64 hexadecimal digits, or the PEM that `sluice-gateway proof key` prints")]
    Key,
}

/// A public key, and its name among people: the first 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId(pub [u8; 32]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0[..8]))
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl KeyId {
    /// All of it, 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// As PEM (RFC 8410), which other software reads.
    pub fn pem(&self) -> String {
        let der = [PUBLIC_DER.as_slice(), &self.0].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(&der))
    }

    /// Reads what [`KeyId::hex`] or [`KeyId::pem`] wrote.
    pub fn read(text: &str) -> Result<KeyId, StatementError> {
        let text = text.trim();
        let bytes = match text.strip_prefix("-----BEGIN PUBLIC KEY-----") {
            None => HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(),
            Some(rest) => rest
                .strip_suffix("-----END PUBLIC KEY-----")
                .map(|body| body.split_whitespace().collect::<String>())
                .and_then(|body| BASE64.decode(body.as_bytes()).ok())
                .and_then(|der| der.strip_prefix(&PUBLIC_DER).map(<[u8]>::to_vec)),
        };
        bytes.and_then(|bytes| bytes.try_into().ok()).map(KeyId).ok_or(StatementError::Key)
    }
}

/// The key that signs statements.
pub struct StatementKey(Ed25519KeyPair);

impl std::fmt::Debug for StatementKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatementKey({})", self.public())
    }
}

impl StatementKey {
    /// A new key as a PKCS #8 document, to be kept secret.
    ///
    /// # Panics
    /// When the operating system has no random numbers.
    pub fn generate() -> Zeroizing<Vec<u8>> {
        let made =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the operating system has a random source");
        Zeroizing::new(made.as_ref().to_vec())
    }

    /// Reads what [`StatementKey::generate`] made; `None` when it is something else.
    pub fn read(pkcs8: &[u8]) -> Option<StatementKey> {
        Ed25519KeyPair::from_pkcs8(pkcs8).ok().map(StatementKey)
    }

    /// The public half.
    pub fn public(&self) -> KeyId {
        KeyId(self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// Signs a body as a statement of a kind: a word of `a-z`, `0-9`, `-` and `.`.
    pub fn sign(&self, kind: &str, body: Map<String, Value>) -> Result<Statement, StatementError> {
        check_kind(kind)?;
        let mut statement = Statement { kind: kind.to_owned(), body, key: self.public(), signature: [0; 64] };
        let bytes = statement.signed_bytes()?;
        statement.signature = self.0.sign(&bytes).as_ref().try_into().expect("an Ed25519 signature has 64 bytes");
        if statement.to_json().len() > MAX_STATEMENT {
            return Err(StatementError::TooLong);
        }
        Ok(statement)
    }
}

/// What was stated. Nothing in it is believed before [`Statement::verify`].
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// What kind of statement it is: `erasure`, …; says what stands in the body.
    pub kind: String,
    /// What is stated.
    pub body: Map<String, Value>,
    /// The key that it says it was signed with.
    pub key: KeyId,
    /// Ed25519.
    signature: [u8; 64],
}

impl Statement {
    /// Reads a statement's file.
    pub fn read(text: &str) -> Result<Statement, StatementError> {
        let unreadable = |why: &str| StatementError::Unreadable(why.to_owned());
        if text.len() > MAX_STATEMENT {
            return Err(StatementError::TooLong);
        }
        // The parser refuses what is nested deeper than 128; a name that stands twice would hide the first one from who reads the text.
        let NoTwice(parsed) = serde_json::from_str(text).map_err(|error| unreadable(&error.to_string()))?;
        let Value::Object(mut fields) = parsed else { return Err(unreadable("it is no JSON object")) };
        match fields.remove("statement").as_ref().and_then(Value::as_u64) {
            Some(FORMAT) => {}
            Some(other) => return Err(StatementError::Format(other)),
            None => return Err(unreadable("it does not say its format in `statement`")),
        }
        let mut text_of = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(StatementError::Unreadable(format!("it has no text `{name}`"))),
        };
        let (kind, key, signature) = (text_of("kind")?, text_of("key")?, text_of("signature")?);
        check_kind(&kind)?;
        let key = KeyId::read(&key)?;
        let signature = HEXLOWER_PERMISSIVE.decode(signature.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let signature = signature.ok_or_else(|| unreadable("`signature` is not 128 hexadecimal digits"))?;
        let Some(Value::Object(body)) = fields.remove("body") else { return Err(unreadable("it has no `body`")) };
        match fields.keys().next() {
            // What is not signed must not stand beside what is: somebody would believe it.
            Some(unknown) => Err(StatementError::Unreadable(format!("`{unknown}` has no place in it"))),
            None => Ok(Statement { kind, body, key, signature }),
        }
    }

    /// The file: canonical JSON and a line break.
    pub fn to_json(&self) -> String {
        let whole = json!({
            "statement": FORMAT,
            "kind": self.kind,
            "body": self.body,
            "key": self.key.hex(),
            "signature": HEXLOWER.encode(&self.signature),
        });
        let mut text = String::new();
        let _written_already_when_signed = canonical(&whole, &mut text);
        text + "\n"
    }

    /// Whether it is what was signed with this key.
    pub fn verify(&self, key: KeyId) -> Result<(), StatementError> {
        if self.key != key {
            return Err(StatementError::OtherKey { found: self.key, wanted: key });
        }
        let bytes = self.signed_bytes()?;
        UnparsedPublicKey::new(&ED25519, key.0).verify(&bytes, &self.signature).map_err(|_| StatementError::Wrong)
    }

    /// The bytes that are signed; see the module's documentation.
    pub fn signed_bytes(&self) -> Result<Vec<u8>, StatementError> {
        let mut body = String::new();
        canonical(&Value::Object(self.body.clone()), &mut body)?;
        Ok([CONTEXT, self.kind.as_bytes(), b"\0", body.as_bytes()].concat())
    }
}

fn check_kind(kind: &str) -> Result<(), StatementError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    match !kind.is_empty() && kind.len() <= MAX_KIND && kind.chars().all(fits) {
        true => Ok(()),
        false => Err(StatementError::Unreadable(format!("`{}` is no kind of statement", kind.escape_debug()))),
    }
}

/// Writes a value in the one way in which it is signed: RFC 8785 without fractions. Names are ASCII and sorted, nothing stands between
/// tokens, texts escape what must be.
fn canonical(value: &Value, to: &mut String) -> Result<(), StatementError> {
    match value {
        Value::Null => to.push_str("null"),
        Value::Bool(yes) => to.push_str(if *yes { "true" } else { "false" }),
        Value::Number(number) => {
            let fits = number.as_u64().is_some_and(|number| number <= MAX_WHOLE)
                || number.as_i64().is_some_and(|number| number.unsigned_abs() <= MAX_WHOLE);
            if !fits {
                return Err(StatementError::Body(number.to_string()));
            }
            to.push_str(&number.to_string());
        }
        Value::String(text) => to.push_str(&quoted(text)),
        Value::Array(items) => {
            to.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    to.push(',');
                }
                canonical(item, to)?;
            }
            to.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            // RFC 8785 sorts by UTF-16, which is the same for ASCII.
            sorted.sort_unstable_by_key(|(name, _)| name.as_str());
            to.push('{');
            for (at, (name, value)) in sorted.into_iter().enumerate() {
                if !name.is_ascii() {
                    return Err(StatementError::Body(name.clone()));
                }
                if at > 0 {
                    to.push(',');
                }
                to.push_str(&quoted(name));
                to.push(':');
                canonical(value, to)?;
            }
            to.push('}');
        }
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("every text is one of JSON")
}

/// JSON in which no object has a name twice.
struct NoTwice(Value);

impl<'de> serde::Deserialize<'de> for NoTwice {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<NoTwice, D::Error> {
        from.deserialize_any(Reader).map(NoTwice)
    }
}

struct Reader;

impl<'de> serde::de::Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Err(E::custom(format_args!("{value} is no whole number below 2^53")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(NoTwice(item)) = from.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((name, NoTwice(value))) = from.next_entry::<String, NoTwice>()? {
            if fields.contains_key(&name) {
                return Err(serde::de::Error::custom(format_args!("`{}` stands twice", name.escape_debug())));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicyKey;

    fn key() -> StatementKey {
        StatementKey::read(&StatementKey::generate()).unwrap()
    }

    fn body() -> Map<String, Value> {
        let body = json!({ "site": "b1 \"x\"\n分行", "bytes": 9_007_199_254_740_991_u64, "list": [true, null, -1, { "b": 1, "a": 2 }] });
        body.as_object().unwrap().clone()
    }

    #[test]
    fn a_statement_is_believed_as_it_was_signed_and_by_the_known_key() {
        let (key, other) = (key(), key());
        let signed = key.sign("erasure", body()).unwrap();
        let read = Statement::read(&signed.to_json()).unwrap();
        assert_eq!(read, signed);
        assert_eq!(read.verify(key.public()), Ok(()));
        assert!(matches!(read.verify(other.public()), Err(StatementError::OtherKey { .. })));
        let forged = Statement { key: other.public(), ..signed.clone() };
        assert_eq!(forged.verify(other.public()), Err(StatementError::Wrong));
        for (from, to) in
            [("b1", "b2"), ("erasure", "erasuro"), ("-1", "-2"), ("\"a\":2", "\"a\":3"), ("true", "false")]
        {
            let text = signed.to_json();
            assert!(text.contains(from), "{text}");
            let changed = Statement::read(&text.replacen(from, to, 1)).unwrap();
            assert_eq!(changed.verify(key.public()), Err(StatementError::Wrong), "{from} became {to}");
        }
        let spaced = signed.to_json().replace("\":", "\" : ").replace(",\"", ",\n  \"");
        assert_eq!(Statement::read(&spaced).unwrap().verify(key.public()), Ok(()), "layout is nothing that is stated");
    }

    #[test]
    fn what_is_signed_is_written_in_one_way() {
        let signed = key().sign("erasure", body()).unwrap();
        let expected = "sluice statement 1\0erasure\0{\"bytes\":9007199254740991,\"list\":[true,null,-1,{\"a\":2,\"b\":1}],\"site\":\"b1 \\\"x\\\"\\n分行\"}";
        assert_eq!(String::from_utf8(signed.signed_bytes().unwrap()).unwrap(), expected);
    }

    #[test]
    fn the_same_key_signs_no_policy_by_a_statement() {
        let pkcs8 = StatementKey::generate();
        let (statements, policies) = (StatementKey::read(&pkcs8).unwrap(), PolicyKey::read(&pkcs8).unwrap());
        let signed = statements.sign("erasure", body()).unwrap();
        let site = dedupe::SiteId(*b"2026-0123456789a");
        let policy = policies.sign(site, String::from_utf8(signed.signed_bytes().unwrap()).unwrap());
        let taken = Statement { signature: policy.signature.try_into().unwrap(), ..signed };
        assert_eq!(taken.verify(statements.public()), Err(StatementError::Wrong));
    }

    #[test]
    fn what_two_readers_could_take_for_two_things_is_refused() {
        let key = key();
        let good = key.sign("erasure", body()).unwrap().to_json();
        let refused = |text: String| Statement::read(&text).unwrap_err().to_string();
        assert!(refused(good.replacen("\"bytes\":", "\"bytes\":1,\"bytes\":", 1)).contains("`bytes` stands twice"));
        assert!(
            refused(good.replacen("\"kind\"", "\"comment\":\"all is well\",\"kind\"", 1))
                .contains("`comment` has no place")
        );
        assert!(refused(good.replacen("-1", "-1.5", 1)).contains("-1.5"));
        assert!(refused(good.replacen("\"statement\":1", "\"statement\":2", 1)).contains("format 2"));
        assert!(refused("[".repeat(100_000)).starts_with("this is no statement"));
        assert!(refused("{}".into()).contains("`statement`"));
        assert_eq!(Statement::read(&" ".repeat(MAX_STATEMENT + 1)), Err(StatementError::TooLong));
        for wrong in [json!({ "x": 0.5 }), json!({ "x": 1_u64 << 53 }), json!({ "größe": 1 })] {
            let refused = key.sign("erasure", wrong.as_object().unwrap().clone());
            assert!(matches!(refused, Err(StatementError::Body(_))), "{wrong}");
        }
        assert!(key.sign("Erasure\0", body()).is_err());
    }

    #[test]
    fn a_public_key_travels_as_digits_and_as_pem() {
        let public = key().public();
        for text in [public.hex(), public.pem(), public.hex().to_uppercase(), format!("\n{}\n", public.pem())] {
            assert_eq!(KeyId::read(&text), Ok(public), "{text}");
        }
        assert_eq!(public.to_string().len(), 16);
        for wrong in ["", "00", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"] {
            assert_eq!(KeyId::read(wrong), Err(StatementError::Key));
        }
    }
}
