//! For whom media are sealed, and the keys that follow from it.
//!
//! HPKE (RFC 9180: DHKEM X25519 with HKDF-SHA256) to the gateway's key gives each shipment a secret that only the two ends know; the edge keeps it while it
//! exports, the gateway works it out from the 32 bytes in the manifest. Each file of a medium has a key of its own that follows from the secret
//! *and* from what the file is: shipment, medium, its salt, part, kind. So a file that was swapped, of another shipment, or of an earlier writing
//! of the same medium does not open.

use dedupe::{SeedId, SiteId, TenantId};
use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256 as X25519;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fmt;
use zeroize::Zeroizing;

/// Bytes that sealing adds.
pub const TAG: usize = 16;
const CONTEXT: &[u8] = b"sluice shipped media 1";

/// The public key of a gateway, to which media are sealed. No secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealingKey(pub [u8; 32]);

/// The private key of a gateway. Wiped when dropped.
pub struct OpeningKey(Zeroizing<[u8; 32]>);

/// A shipment's secret. Wiped when dropped.
#[derive(Clone)]
pub struct ShipmentKey(Zeroizing<[u8; 32]>);

/// Whose shipment it is: the secret is good for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shipment {
    /// Its id.
    pub id: SeedId,
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
}

/// Key material is none.
#[derive(Debug, thiserror::Error)]
#[error("this is no key for shipped media: 64 hexadecimal digits are, as `sluice-gateway seed key` prints them")]
pub struct NotAKey;

impl Shipment {
    fn info(&self) -> Vec<u8> {
        [CONTEXT, &[0], &self.id.0, &self.tenant.0, &self.site.0].concat()
    }
}

impl SealingKey {
    /// Its name among people: the first 16 digits of its BLAKE3.
    pub fn id(&self) -> String {
        data_encoding::HEXLOWER.encode(&blake3::hash(&self.0).as_bytes()[..8])
    }

    /// Makes a shipment's secret, and what the gateway works it out from.
    pub fn shipment(&self, shipment: &Shipment) -> Result<([u8; 32], ShipmentKey), NotAKey> {
        let key = <X25519 as Kem>::PublicKey::from_bytes(&self.0).map_err(|_| NotAKey)?;
        let (encapped, context) =
            hpke::setup_sender::<ExportOnlyAead, HkdfSha256, X25519>(&OpModeS::Base, &key, &shipment.info())
                .map_err(|_| NotAKey)?;
        let mut secret = Zeroizing::new([0; 32]);
        context.export(b"shipment key", &mut *secret).map_err(|_| NotAKey)?;
        let encapped = encapped.to_bytes().as_slice().try_into().map_err(|_| NotAKey)?;
        Ok((encapped, ShipmentKey(secret)))
    }
}

impl fmt::Display for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl std::str::FromStr for SealingKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).map_err(|_| NotAKey)?;
        bytes.try_into().map(SealingKey).map_err(|_| NotAKey)
    }
}

impl OpeningKey {
    /// A new one.
    pub fn generate() -> OpeningKey {
        let mut material = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *material).expect("the operating system has a random source");
        // Any 32 bytes are a key of X25519.
        OpeningKey(material)
    }

    /// From its 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<OpeningKey, NotAKey> {
        let key = <X25519 as Kem>::PrivateKey::from_bytes(bytes).map_err(|_| NotAKey)?;
        drop(key);
        Ok(OpeningKey(Zeroizing::new(bytes.try_into().map_err(|_| NotAKey)?)))
    }

    /// Its 32 bytes, for the gateway's key file.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public half.
    pub fn sealing(&self) -> SealingKey {
        let key = <X25519 as Kem>::PrivateKey::from_bytes(&*self.0).expect("any 32 bytes are a key of X25519");
        SealingKey(X25519::sk_to_pk(&key).to_bytes().as_slice().try_into().expect("a public key has 32 bytes"))
    }

    /// The secret of a shipment that was sealed to this key. That it is another one shows when nothing opens.
    pub fn shipment(&self, shipment: &Shipment, encapped: &[u8; 32]) -> Result<ShipmentKey, NotAKey> {
        let key = <X25519 as Kem>::PrivateKey::from_bytes(&*self.0).map_err(|_| NotAKey)?;
        let encapped = <X25519 as Kem>::EncappedKey::from_bytes(encapped).map_err(|_| NotAKey)?;
        let context = hpke::setup_receiver::<ExportOnlyAead, HkdfSha256, X25519>(
            &OpModeR::Base,
            &key,
            &encapped,
            &shipment.info(),
        )
        .map_err(|_| NotAKey)?;
        let mut secret = Zeroizing::new([0; 32]);
        context.export(b"shipment key", &mut *secret).map_err(|_| NotAKey)?;
        Ok(ShipmentKey(secret))
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpeningKey(private)")
    }
}

impl fmt::Debug for ShipmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShipmentKey(secret)")
    }
}

impl ShipmentKey {
    /// From what [`ShipmentKey::bytes`] gave, from the edge's own record.
    pub fn from_bytes(bytes: [u8; 32]) -> ShipmentKey {
        ShipmentKey(Zeroizing::new(bytes))
    }

    /// For the edge's own record, which only its owner reads.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key of a file: `header` is its header, which says all that it is.
    pub(crate) fn file(&self, header: &[u8]) -> FileKey {
        let mut hasher = blake3::Hasher::new_derive_key("sluice 2026-11 shipped file key AES-256-GCM v1");
        hasher.update(&*self.0);
        hasher.update(header);
        let derived = Zeroizing::new(*hasher.finalize().as_bytes());
        FileKey(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*derived).expect("the key is 32 bytes long")))
    }
}

/// Seals and opens the records of one file. The nonce is a record's offset: a file is written once under its salt, so it never repeats.
pub(crate) struct FileKey(LessSafeKey);

impl FileKey {
    fn nonce(offset: u64) -> Nonce {
        let mut bytes = [0; NONCE_LEN];
        bytes[..8].copy_from_slice(&offset.to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    }

    /// Seals `buffer[from..]` in place and appends the tag.
    pub(crate) fn seal(&self, offset: u64, buffer: &mut Vec<u8>, from: usize) {
        let tag = self
            .0
            .seal_in_place_separate_tag(Self::nonce(offset), Aad::empty(), &mut buffer[from..])
            .expect("a record is far below the cipher's 64 GiB");
        buffer.extend_from_slice(tag.as_ref());
    }

    /// Opens in place; `None` when a bit is not as it was sealed.
    pub(crate) fn open<'a>(&self, offset: u64, sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.0.open_in_place(Self::nonce(offset), Aad::empty(), sealed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_gateway_and_the_edge_know_a_shipments_secret() {
        let (gateway, other) = (OpeningKey::generate(), OpeningKey::generate());
        let shipment = Shipment { id: SeedId([1; 16]), tenant: TenantId([2; 16]), site: SiteId([3; 16]) };
        let (encapped, key) = gateway.sealing().shipment(&shipment).unwrap();
        assert_eq!(gateway.shipment(&shipment, &encapped).unwrap().bytes(), key.bytes());
        assert_ne!(other.shipment(&shipment, &encapped).unwrap().bytes(), key.bytes());
        let elsewhere = Shipment { site: SiteId([4; 16]), ..shipment };
        assert_ne!(gateway.shipment(&elsewhere, &encapped).unwrap().bytes(), key.bytes());
        let again = gateway.sealing().shipment(&shipment).unwrap();
        assert_ne!(again.1.bytes(), key.bytes(), "each shipment has its own");
        assert_eq!(OpeningKey::from_bytes(gateway.bytes()).unwrap().sealing(), gateway.sealing());
        assert_eq!(gateway.sealing().to_string().parse::<SealingKey>().unwrap(), gateway.sealing());
        assert!("12".parse::<SealingKey>().is_err() && OpeningKey::from_bytes(&[1; 31]).is_err());
        assert!(gateway.shipment(&shipment, &[0; 32]).is_err(), "a point of small order");
        assert!(SealingKey([0; 32]).shipment(&shipment).is_err());
    }
}
