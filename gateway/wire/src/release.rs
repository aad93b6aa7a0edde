//! A release of the appliance's system: what its maker signed of it, and what edge and gateway say to each other about it.
//!
//! The manifest is a [`Statement`] of the kind [`KIND`]; its body says which role it is for, its version and sequence, how long its image is and which root
//! hash (dm-verity) the image has. So a signature over a few hundred bytes proves every byte of the system, and whoever checks it needs nothing but the
//! image. The gateway only passes manifests on: an edge believes the keys in its own system and no others.

use crate::statement::{KeyId, Statement, StatementError, StatementKey};
use data_encoding::HEXLOWER;
use dedupe::UnixMillis;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Kind of the statement that a manifest is.
pub const KIND: &str = "release";
/// Bytes of a manifest's file at most.
pub const MAX_MANIFEST: usize = 16 << 10;
/// Bytes of an image at most: a slot of 2 GiB without its hash tree (`image/lib/disk.sh`).
pub const MAX_IMAGE: u64 = (2 << 30) - (32 << 20);
/// An image is a whole number of blocks, because the hash tree counts in them.
pub const IMAGE_BLOCK: u64 = 4096;
/// Characters of a version at most, of `A-Z`, `a-z`, `0-9` and `.+~-`.
pub const MAX_VERSION: usize = 64;
/// Characters of a reason that travels with a report, at most.
pub const MAX_WHY: usize = 300;

/// Names a release: the root hash of its image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseId(pub [u8; 32]);

impl ReleaseId {
    /// All of it, 64 hexadecimal digits: as the boot loader and `veritysetup` write it.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// Reads what [`ReleaseId::hex`] wrote.
    pub fn read(text: &str) -> Option<ReleaseId> {
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(ReleaseId)
    }
}

/// 32 bytes on the wire, hexadecimal digits where people read along.
impl Serialize for ReleaseId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match to.is_human_readable() {
            true => to.serialize_str(&self.hex()),
            false => self.0.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for ReleaseId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<ReleaseId, D::Error> {
        if !from.is_human_readable() {
            return <[u8; 32]>::deserialize(from).map(ReleaseId);
        }
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        ReleaseId::read(&text)
            .ok_or_else(|| serde::de::Error::custom("a release's root hash has 64 hexadecimal digits"))
    }
}

impl std::fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0[..8]))
    }
}

impl std::fmt::Debug for ReleaseId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReleaseId({self})")
    }
}

/// What a system is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The appliance at a site.
    Edge,
    /// The central gateway.
    Gateway,
}

impl Role {
    /// As it stands in manifests and file names.
    pub fn word(self) -> &'static str {
        match self {
            Role::Edge => "edge",
            Role::Gateway => "gateway",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Role, ()> {
        [Role::Edge, Role::Gateway].into_iter().find(|role| role.word() == text).ok_or(())
    }
}

/// What the maker of a release states of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it is made for.
    pub role: Role,
    /// Its version, for people.
    pub version: String,
    /// Grows from release to release: a box takes none that is not greater than what it runs, unless a person at the box says so.
    pub sequence: u64,
    /// Bytes of the image, without its hash tree.
    pub bytes: u64,
    /// The image's root hash.
    pub id: ReleaseId,
    /// Salt of the hash tree.
    pub salt: [u8; 32],
    /// When it was made.
    pub made: UnixMillis,
    /// The key that will sign later releases, where the maker changes it: it stands in this release's system already.
    pub next_key: Option<KeyId>,
}

/// Why a release is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The manifest is no statement, or its signature does not fit.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// A statement about something else.
    #[error("this is a statement about `{0}` and no release's manifest")]
    Kind(String),
    /// Something is missing in it or makes no sense.
    #[error("the release's manifest has no usable `{0}`; it was made by other software, or for a later one")]
    Field(&'static str),
    /// Nobody who is trusted here signed it.
    #[error(
        "the release is signed by key {0}, which is not trusted here: it is somebody else's, or from after a change of keys that this system has not seen"
    )]
    Untrusted(KeyId),
    /// Too long.
    #[error("the release's manifest has more than {} KiB", MAX_MANIFEST >> 10)]
    TooLong,
}

impl Manifest {
    /// Signs it.
    pub fn sign(&self, key: &StatementKey) -> Result<Statement, ReleaseError> {
        self.check()?;
        let body = json!({
            "role": self.role.word(),
            "version": self.version,
            "sequence": self.sequence,
            "bytes": self.bytes,
            "root": self.id.hex(),
            "salt": HEXLOWER.encode(&self.salt),
            "made": self.made.0,
            "next_key": self.next_key.map(|key| key.hex()),
        });
        let Value::Object(body) = body else { return Err(ReleaseError::Field("body")) };
        Ok(key.sign(KIND, body)?)
    }

    /// Reads a manifest's file and believes it if one of `trusted` signed it.
    pub fn read(text: &str, trusted: &[KeyId]) -> Result<Manifest, ReleaseError> {
        let (manifest, statement) = Manifest::read_unproved(text)?;
        let key = trusted.iter().find(|key| **key == statement.key).ok_or(ReleaseError::Untrusted(statement.key))?;
        statement.verify(*key)?;
        Ok(manifest)
    }

    /// Reads a manifest's file without believing it.
    pub fn read_unproved(text: &str) -> Result<(Manifest, Statement), ReleaseError> {
        if text.len() > MAX_MANIFEST {
            return Err(ReleaseError::TooLong);
        }
        let statement = Statement::read(text)?;
        if statement.kind != KIND {
            return Err(ReleaseError::Kind(statement.kind));
        }
        let fields = Fields(&statement.body);
        let manifest = Manifest {
            role: fields.text("role")?.parse().map_err(|()| ReleaseError::Field("role"))?,
            version: fields.text("version")?.to_owned(),
            sequence: fields.number("sequence")?,
            bytes: fields.number("bytes")?,
            id: ReleaseId(fields.hash("root")?),
            salt: fields.hash("salt")?,
            made: UnixMillis(fields.number("made")?),
            next_key: match fields.0.get("next_key") {
                None | Some(Value::Null) => None,
                Some(_) => Some(KeyId(fields.hash("next_key")?)),
            },
        };
        manifest.check()?;
        Ok((manifest, statement))
    }

    fn check(&self) -> Result<(), ReleaseError> {
        let named = !self.version.is_empty()
            && self.version.len() <= MAX_VERSION
            && self.version.bytes().all(|c| c.is_ascii_alphanumeric() || b".+~-".contains(&c));
        if !named {
            return Err(ReleaseError::Field("version"));
        }
        match self.bytes > 0 && self.bytes <= MAX_IMAGE && self.bytes.is_multiple_of(IMAGE_BLOCK) {
            true => Ok(()),
            false => Err(ReleaseError::Field("bytes")),
        }
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn text(&self, name: &'static str) -> Result<&str, ReleaseError> {
        self.0.get(name).and_then(Value::as_str).ok_or(ReleaseError::Field(name))
    }

    fn number(&self, name: &'static str) -> Result<u64, ReleaseError> {
        self.0.get(name).and_then(Value::as_u64).ok_or(ReleaseError::Field(name))
    }

    fn hash(&self, name: &'static str) -> Result<[u8; 32], ReleaseError> {
        let bytes = HEXLOWER.decode(self.text(name)?.as_bytes()).ok();
        bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(ReleaseError::Field(name))
    }
}

/// Which system an appliance runs, and how far it is with another: said after the welcome and whenever it changed. Since version 5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appliance {
    /// The running release.
    pub release: ReleaseId,
    /// Its version.
    pub version: String,
    /// Its sequence.
    pub sequence: u64,
    /// Whether it is confirmed, or on trial still.
    pub confirmed: bool,
    /// The version in the other slot, where one is there that could be started.
    pub previous: Option<String>,
    /// What is being done about another release.
    pub stage: Stage,
    /// How the last trial ended.
    pub last: Option<Trial>,
}

/// How far an appliance is with another release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Nothing is to be done.
    Idle,
    /// It comes over the line.
    Fetching {
        /// Which.
        release: ReleaseId,
        /// Bytes that are here.
        done: u64,
        /// Bytes in all; 0: not known yet.
        total: u64,
    },
    /// It is written to the other slot and checked; then the appliance starts it, for a trial.
    Installing {
        /// Which.
        release: ReleaseId,
    },
    /// It could not be taken, and why, at most [`MAX_WHY`] characters. Tried again when the gateway says so again.
    Failed {
        /// Which.
        release: ReleaseId,
        /// Why.
        why: String,
    },
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The release.
    pub release: ReleaseId,
    /// Whether it was confirmed; otherwise the appliance went back by itself.
    pub confirmed: bool,
    /// Why it went back, at most [`MAX_WHY`] characters.
    pub why: String,
    /// When, by the appliance's clock.
    pub at: UnixMillis,
}

/// What an edge is to run: said when a roll-out has reached its site, and again as `None` when it no longer holds. Since version 5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The manifest's file, at most [`MAX_MANIFEST`] bytes.
    pub manifest: String,
    /// Number of the roll-out. An edge that could not take the release tries it again for another number.
    pub rollout: u64,
}

/// An edge wants a part of a release, coded against the release that it runs. Since version 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartWanted {
    /// The release.
    pub release: ReleaseId,
    /// What the edge runs; `None`: nothing of it is to be used.
    pub base: Option<ReleaseId>,
    /// Number of the part, from 0.
    pub part: u32,
    /// BLAKE3 of an answer of which some came before, and how many of its bytes are durable here.
    pub have: Option<([u8; 32], u64)>,
}

/// Which part follows. Since version 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFollows {
    /// How many parts there are, 1 at least.
    pub parts: u32,
    /// Bytes of all of them.
    pub total: u64,
    /// Bytes of this part, at most [`MAX_PART`].
    pub len: u64,
    /// BLAKE3 of them.
    pub hash: [u8; 32],
    /// Where it goes on: what was had before, or 0 when the part is another one.
    pub offset: u64,
}

/// Bytes of one part at most: what [`dedupe::image`] codes at once where nothing compresses, and a header.
pub const MAX_PART: u64 = (dedupe::image::PART as u64) + (2 << 20);
/// Parts of one release at most.
pub const MAX_PARTS: u32 = (MAX_IMAGE / dedupe::image::PART as u64) as u32 + 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            role: Role::Edge,
            version: "0.2.0+abc".into(),
            sequence: 7,
            bytes: 4096 * 100,
            id: ReleaseId([1; 32]),
            salt: [2; 32],
            made: UnixMillis(1_785_542_400_123),
            next_key: Some(KeyId([3; 32])),
        }
    }

    fn key() -> StatementKey {
        StatementKey::read(&StatementKey::generate()).unwrap()
    }

    #[test]
    fn a_manifest_is_believed_if_a_trusted_key_signed_all_of_it() {
        let (ours, other) = (key(), key());
        let text = manifest().sign(&ours).unwrap().to_json();
        assert_eq!(Manifest::read(&text, &[other.public(), ours.public()]), Ok(manifest()));
        assert_eq!(Manifest::read(&text, &[other.public()]), Err(ReleaseError::Untrusted(ours.public())));
        assert_eq!(Manifest::read(&text, &[]), Err(ReleaseError::Untrusted(ours.public())));
        for (from, to) in
            [("edge", "gateway"), ("\"sequence\":7", "\"sequence\":8"), ("0101", "0102"), ("409600", "819200")]
        {
            assert!(text.contains(from), "{text}");
            let changed = Manifest::read(&text.replacen(from, to, 1), &[ours.public()]);
            assert_eq!(changed, Err(ReleaseError::Statement(StatementError::Wrong)), "{from} became {to}");
        }
    }

    #[test]
    fn a_statement_about_something_else_is_no_release() {
        let key = key();
        let body = manifest().sign(&key).unwrap().body;
        let text = key.sign("erasure", body).unwrap().to_json();
        assert_eq!(Manifest::read(&text, &[key.public()]), Err(ReleaseError::Kind("erasure".into())));
    }

    #[test]
    fn what_no_slot_could_hold_is_refused_when_signing_and_when_reading() {
        for (bytes, version) in [(0, "1"), (4095, "1"), (MAX_IMAGE + 4096, "1"), (4096, ""), (4096, "1 2"), (4096, "ü")]
        {
            let wrong = Manifest { bytes, version: version.into(), ..manifest() };
            assert!(matches!(wrong.sign(&key()), Err(ReleaseError::Field(_))), "{bytes} {version}");
        }
        let key = key();
        let mut body = manifest().sign(&key).unwrap().body;
        body.insert("bytes".into(), 4097.into());
        let text = key.sign(KIND, body).unwrap().to_json();
        assert_eq!(Manifest::read(&text, &[key.public()]), Err(ReleaseError::Field("bytes")));
    }
}
