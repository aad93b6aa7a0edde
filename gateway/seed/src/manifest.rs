//! What a medium says of itself: one line of what it is, one of JSON, one with the signature of the edge.
//!
//! It is not secret: whoever finds a medium reads whose it is. It holds no content but the roots of whole volumes.

use crate::key::Shipment;
use crate::part::MediumId;
use crate::{FileError, MAX_PART};
use data_encoding::{BASE64, HEXLOWER};
use dedupe::{ByteCount, GenerationId, LineageId, Root, RootScheme, SeedId, SiteId, SlabNumber, TenantId, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use wire::identity::{Key, MAX_CERTIFICATE, PeerIdentity};
use wire::message::MAX_NAME;
use wire::signed::{self, MAX_SIGNATURE, SignedError};

/// The file's name.
pub const FILE: &str = "manifest";
/// Bytes of a manifest at most: 100,000 parts, or 25 TB, at 300 bytes, and the runs of their slabs.
pub const MAX_MANIFEST: usize = 64 << 20;
const FIRST: &str = "sluice shipped media 1";
const CONTEXT: &str = "sluice shipped media manifest 1";
/// Volumes of one shipment at most.
pub const MAX_VOLUMES: usize = 1000;

/// Bytes of a volume at most, so that its slabs can be gone through: 1 PiB.
pub const MAX_SIZE: u64 = 1 << 50;

/// A run of slabs: the first, and how many.
pub type Run = (u64, u64);

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Which medium it is.
    #[serde(flatten)]
    pub medium: MediumLine,
    /// Whether no medium of the shipment has a higher number.
    pub last: bool,
    /// When it was signed, by the edge's clock.
    pub made: u64,
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The site.
    #[serde(with = "text")]
    pub site: SiteId,
    /// The site's name.
    pub site_name: String,
    /// The gateway's key: first 16 digits.
    pub key: String,
    /// What the shipment's secret is worked out from: 64 digits.
    pub encapped: String,
    /// What is carried by the shipment.
    pub volumes: Vec<Volume>,
    /// What is carried by this medium, ascending by number.
    pub parts: Vec<Part>,
}

/// A [`MediumId`] as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediumLine {
    /// The shipment.
    #[serde(with = "text")]
    pub shipment: SeedId,
    /// The medium's number, from 1.
    pub number: u32,
    /// 32 digits.
    pub salt: String,
}

/// A volume that is carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its seed.
    #[serde(with = "text")]
    pub seed: SeedId,
    /// Its name at the site.
    pub name: String,
    /// Its lineage.
    #[serde(with = "text")]
    pub lineage: LineageId,
    /// The generation.
    #[serde(with = "text")]
    pub generation: GenerationId,
    /// BLAKE3 of its bytes, 64 digits.
    pub root: String,
    /// Bytes of the volume.
    pub size: u64,
    /// When it was captured.
    pub captured_at: u64,
    /// Its slabs that are not all zeroes: what all media together bring.
    pub slabs: Vec<Run>,
}

/// A part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its number, from 1.
    pub number: u32,
    /// Bytes of the part.
    pub bytes: u64,
    /// BLAKE3 of the part, 64 digits.
    pub blake3: String,
    /// Bytes of its index.
    pub index_bytes: u64,
    /// BLAKE3 of its index, 64 digits.
    pub index_blake3: String,
    /// Its slabs, by volume.
    pub slabs: BTreeMap<u16, Vec<Run>>,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    certificate: String,
    signature: String,
}

/// Why a manifest is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is none.
    #[error(
        "it has no manifest: it was not written to its end; mount it at the edge again and run `sluice-edge seed export` once more"
    )]
    Unfinished,
    /// It is none.
    #[error("its manifest is damaged: {0}")]
    Damaged(String),
    /// Made by later software.
    #[error("its manifest was made by a newer version of Sluice; upgrade the gateway first")]
    Newer,
    /// The signature.
    #[error("its manifest is not believed: {0}")]
    Signature(#[from] SignedError),
    /// Signed by somebody else.
    #[error("its manifest speaks for site {said} of tenant {tenant}, but site {signer} signed it")]
    OtherSite {
        /// Whom it names.
        said: SiteId,
        /// Of whom.
        tenant: TenantId,
        /// Who signed.
        signer: SiteId,
    },
}

pub(crate) mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T: std::str::FromStr, D: Deserializer<'de>>(from: D) -> Result<T, D::Error>
    where
        T::Err: std::fmt::Display,
    {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// 32 bytes as digits.
pub(crate) fn hash_of(text: &str) -> Option<[u8; 32]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

impl From<MediumId> for MediumLine {
    fn from(id: MediumId) -> Self {
        MediumLine { shipment: id.shipment, number: id.number, salt: HEXLOWER.encode(&id.salt) }
    }
}

impl MediumLine {
    /// As the headers of its files have it; `None`: it is none.
    pub fn id(&self) -> Option<MediumId> {
        let salt = HEXLOWER.decode(self.salt.as_bytes()).ok()?.try_into().ok()?;
        (self.number > 0).then_some(MediumId { shipment: self.shipment, number: self.number, salt })
    }
}

impl Volume {
    /// Its root.
    pub fn root(&self) -> Option<Root> {
        Some(Root { scheme: RootScheme::Blake3, hash: hash_of(&self.root)? })
    }
}

impl Manifest {
    /// Whose shipment it is.
    pub fn shipment(&self) -> Shipment {
        Shipment { id: self.medium.shipment, tenant: self.tenant, site: self.site }
    }

    /// What the shipment's secret is worked out from.
    pub fn encapped(&self) -> Option<[u8; 32]> {
        hash_of(&self.encapped)
    }

    /// Bytes of parts and indexes.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes + part.index_bytes).sum()
    }

    /// As a file, signed.
    pub fn sign(&self, key: &Key, certificate: &[u8]) -> Result<Vec<u8>, wire::identity::IdentityError> {
        let body = serde_json::to_string(self).expect("plain data serialises");
        let signature = Signature {
            signature: BASE64.encode(&signed::sign(key, CONTEXT, body.as_bytes())?),
            certificate: BASE64.encode(certificate),
        };
        let signature = serde_json::to_string(&signature).expect("plain data serialises");
        Ok(format!("{FIRST}\n{body}\n{signature}\n").into_bytes())
    }

    /// Reads the manifest in a medium's folder. It is believed only after [`Unverified::verify`].
    pub fn read(folder: &Path) -> Result<Unverified, ManifestError> {
        let path = folder.join(FILE);
        let file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(ManifestError::Unfinished),
            opened => opened.map_err(FileError::on("read", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST as u64 + 1).read_to_end(&mut bytes).map_err(FileError::on("read", &path))?;
        Unverified::parse(&bytes)
    }

    fn check(&self) -> Result<(), &'static str> {
        let is_hash = |text: &str| hash_of(text).is_some();
        if self.medium.id().is_none() || !is_hash(&self.encapped) || self.site_name.len() > MAX_NAME * 4 {
            return Err("its medium, key or site is none");
        }
        if self.volumes.is_empty() || self.volumes.len() > MAX_VOLUMES {
            return Err("it has no volumes, or too many");
        }
        for volume in &self.volumes {
            let slabs = ByteCount(volume.size).slabs();
            if volume.size > MAX_SIZE
                || volume.root().is_none()
                || volume.name.len() > MAX_NAME
                || !are_runs(&volume.slabs, slabs)
            {
                return Err("a volume is none");
            }
        }
        let mut last = 0;
        for part in &self.parts {
            let sizes = part.bytes <= u64::from(MAX_PART) && part.index_bytes <= crate::MAX_INDEX as u64;
            let slabs = part.slabs.iter().all(|(volume, runs)| {
                let volume = self.volumes.get(usize::from(*volume));
                volume.is_some_and(|volume| are_runs(runs, ByteCount(volume.size).slabs()))
            });
            if part.number <= last || !sizes || !slabs || !is_hash(&part.blake3) || !is_hash(&part.index_blake3) {
                return Err("a part is none");
            }
            last = part.number;
        }
        Ok(())
    }
}

/// Whether runs ascend, are apart, and end before `end`.
fn are_runs(runs: &[Run], end: u64) -> bool {
    let mut next = 0;
    runs.iter().all(|&(first, count)| {
        let fits = first >= next && count > 0 && first.checked_add(count).is_some_and(|stop| stop <= end);
        next = first.saturating_add(count);
        fits
    })
}

/// Slabs as runs; they ascend.
pub fn runs_of(slabs: impl IntoIterator<Item = SlabNumber>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for SlabNumber(slab) in slabs {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == slab => *count += 1,
            _ => runs.push((slab, 1)),
        }
    }
    runs
}

/// Slabs of runs.
pub fn slabs_of(runs: &[Run]) -> impl Iterator<Item = SlabNumber> + '_ {
    runs.iter().flat_map(|&(first, count)| (first..first.saturating_add(count)).map(SlabNumber))
}

/// A manifest that nobody has verified: whom it names is a claim.
#[derive(Clone, Debug)]
pub struct Unverified {
    /// What it says.
    pub claims: Manifest,
    body: Vec<u8>,
    certificate: Vec<u8>,
    signature: Vec<u8>,
}

impl Unverified {
    /// From a file's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Unverified, ManifestError> {
        let damaged = |why: &str| ManifestError::Damaged(why.into());
        if bytes.len() > MAX_MANIFEST {
            return Err(damaged("it is too long"));
        }
        let mut lines = bytes.split(|byte| *byte == b'\n');
        match lines.next() {
            Some(first) if first == FIRST.as_bytes() => {}
            Some(first) if first.starts_with(b"sluice shipped media ") => return Err(ManifestError::Newer),
            _ => return Err(damaged("it does not begin as a manifest")),
        }
        let (Some(body), Some(signature)) = (lines.next(), lines.next()) else {
            return Err(damaged("it has no signature"));
        };
        let claims: Manifest =
            serde_json::from_slice(body).map_err(|error| ManifestError::Damaged(error.to_string()))?;
        claims.check().map_err(damaged)?;
        if signature.len() > 2 * (MAX_CERTIFICATE + MAX_SIGNATURE) {
            return Err(damaged("its signature is none"));
        }
        let signature: Signature =
            serde_json::from_slice(signature).map_err(|error| ManifestError::Damaged(error.to_string()))?;
        let decode = |text: &str| BASE64.decode(text.as_bytes()).map_err(|_| damaged("its signature is none"));
        let (certificate, signature) = (decode(&signature.certificate)?, decode(&signature.signature)?);
        Ok(Unverified { claims, body: body.to_vec(), certificate, signature })
    }

    /// The manifest, if an edge signed it that one of these authorities (DER) knows, and speaks for itself.
    pub fn verify(self, authorities: &[Vec<u8>]) -> Result<(Manifest, PeerIdentity), ManifestError> {
        let at = UnixMillis(self.claims.made);
        let signer = signed::verify(&self.certificate, authorities, at, CONTEXT, &self.body, &self.signature)?;
        let (tenant, site) = (self.claims.tenant, self.claims.site);
        match (signer.bearer.tenant, signer.bearer.site) == (tenant, site) {
            true => Ok((self.claims, signer)),
            false => Err(ManifestError::OtherSite { said: site, tenant, signer: signer.bearer.site }),
        }
    }
}
