//! Keys at rest. A store has one 32-byte key; each pack derives its own from it, so that a nonce is never used twice.

use crate::id::PackId;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// Bytes that sealing adds.
pub(crate) const TAG: usize = 16;
/// Cipher ids of pack headers. Other suites get other numbers.
pub(crate) const AES_256_GCM_PER_PACK: u8 = 1;

/// The key of one store: of a site at the edge, of a tenant at the gateway. Wiped from memory when dropped.
pub struct Keys {
    id: u32,
    key: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// `id` goes into each pack's header, so that a store can tell which key a pack wants.
    pub fn new(id: u32, key: [u8; 32]) -> Keys {
        Keys { id, key: Zeroizing::new(key) }
    }

    /// The key's id.
    pub fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn pack(&self, pack: PackId) -> PackKey {
        let mut hasher = blake3::Hasher::new_derive_key("sluice 2026-11 pack key AES-256-GCM v1");
        hasher.update(&*self.key);
        hasher.update(&pack.0);
        let derived = Zeroizing::new(*hasher.finalize().as_bytes());
        PackKey(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*derived).expect("the key is 32 bytes long")))
    }
}

/// Seals and opens the records of one pack. The nonce is the record's offset: a pack is written once, so it never repeats.
pub(crate) struct PackKey(LessSafeKey);

impl PackKey {
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
