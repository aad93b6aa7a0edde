//! A release as one file, `NAME.sluice-release`: for the gateway to import, and for a stick that is carried to a site without a line.
//!
//! ```text
//!   "SLUICE RELEASE 1\n" | manifest's length u32, little endian | manifest | the image as one zstd frame
//! ```
//!
//! Nothing in it is believed: the manifest is signed, and the image is what its root hash says or nothing.

use crate::verity::{Tree, Verity};
use std::io::{self, BufReader, Read, Write};
use wire::release::{MAX_MANIFEST, Manifest, ReleaseError, ReleaseId};
use wire::statement::KeyId;

/// What such a file begins with.
const MAGIC: &[u8; 17] = b"SLUICE RELEASE 1\n";
/// What such a file's name ends with.
pub const SUFFIX: &str = ".sluice-release";
/// log2 of the window that a reader has to have: 128 MiB.
const WINDOW_LOG: u32 = 27;
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Something else.
    #[error("this is no release: it does not begin as one; take the file as it was made, NAME{SUFFIX}")]
    Other,
    /// It cannot be read.
    #[error("the release cannot be read: {0}; it may be cut off: copy it again")]
    Read(#[source] io::Error),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ReleaseError),
    /// It goes on behind its image.
    #[error("the release has {0} bytes of image and goes on: it was not made as its manifest says")]
    Longer(u64),
    /// The image is not the one that was signed.
    #[error("the image is not the one that was signed: its root hash is {found}, not {wanted}; copy the file again")]
    Image {
        /// Of what is in the file.
        found: ReleaseId,
        /// Of the manifest.
        wanted: ReleaseId,
    },
    /// Where the image goes.
    #[error("the image cannot be written: {0}")]
    Write(#[source] io::Error),
}

/// Reads what stands before the image: the manifest's text.
pub fn read_head(from: &mut impl Read) -> Result<String, BundleError> {
    let mut head = [0; MAGIC.len() + 4];
    from.read_exact(&mut head).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BundleError::Other,
        _ => BundleError::Read(error),
    })?;
    let (magic, len) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(BundleError::Other);
    }
    let len = u32::from_le_bytes(len.try_into().expect("4 bytes")) as usize;
    if len > MAX_MANIFEST {
        return Err(ReleaseError::TooLong.into());
    }
    let mut text = vec![0; len];
    from.read_exact(&mut text).map_err(BundleError::Read)?;
    String::from_utf8(text).map_err(|_| BundleError::Other)
}

/// Reads the image behind the head, hands its bytes on in order, and proves them: `Ok` means that they were all of it and the very ones that were signed.
/// Memory: 128 MiB of window and some MiB.
pub fn read_image(
    from: impl Read,
    manifest: &Manifest,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Tree, BundleError> {
    let mut image = zstd::stream::read::Decoder::new(from).map_err(BundleError::Read)?;
    image.window_log_max(WINDOW_LOG).map_err(BundleError::Read)?;
    let mut verity = Verity::new(manifest.salt);
    let (mut left, mut buffer) = (manifest.bytes, vec![0; PIECE]);
    while left > 0 {
        let piece = &mut buffer[..left.min(PIECE as u64) as usize];
        image.read_exact(piece).map_err(BundleError::Read)?;
        verity.update(piece);
        take(piece).map_err(BundleError::Write)?;
        left -= piece.len() as u64;
    }
    if image.read(&mut buffer[..1]).map_err(BundleError::Read)? > 0 {
        return Err(BundleError::Longer(manifest.bytes));
    }
    let tree = verity.finish();
    match tree.root() == manifest.id {
        true => Ok(tree),
        false => Err(BundleError::Image { found: tree.root(), wanted: manifest.id }),
    }
}

/// Opens a bundle that somebody trusted signed. What is returned goes on with [`read_image`].
pub fn open<R: Read>(from: R, trusted: &[KeyId]) -> Result<(String, Manifest, BufReader<R>), BundleError> {
    let mut from = BufReader::with_capacity(PIECE, from);
    let text = read_head(&mut from)?;
    let manifest = Manifest::read(&text, trusted)?;
    Ok((text, manifest, from))
}

/// Writes a bundle.
pub fn write(manifest: &str, mut image: impl Read, mut to: impl Write, level: i32) -> io::Result<()> {
    to.write_all(MAGIC)?;
    to.write_all(&(manifest.len() as u32).to_le_bytes())?;
    to.write_all(manifest.as_bytes())?;
    let mut packed = zstd::stream::write::Encoder::new(to, level)?;
    packed.long_distance_matching(true)?;
    packed.window_log(WINDOW_LOG)?;
    packed.include_checksum(false)?; // the root hash proves more
    io::copy(&mut image, &mut packed)?;
    packed.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dedupe::UnixMillis;
    use wire::release::Role;
    use wire::statement::StatementKey;

    fn image() -> Vec<u8> {
        (0..600 * 4096_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn manifest(image: &[u8]) -> Manifest {
        let mut verity = Verity::new([9; 32]);
        verity.update(image);
        Manifest {
            role: Role::Edge,
            version: "1".into(),
            sequence: 1,
            bytes: image.len() as u64,
            id: verity.finish().root(),
            salt: [9; 32],
            made: UnixMillis(0),
            next_key: None,
        }
    }

    fn taken(bundle: &[u8], trusted: &[KeyId]) -> Result<Vec<u8>, BundleError> {
        let (_, manifest, rest) = open(bundle, trusted)?;
        let mut image = Vec::new();
        read_image(rest, &manifest, |bytes| {
            image.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(image)
    }

    #[test]
    fn a_bundle_is_taken_whole_and_as_signed_or_not_at_all() {
        let key = StatementKey::read(&StatementKey::generate()).unwrap();
        let (image, trusted) = (image(), [key.public()]);
        let text = manifest(&image).sign(&key).unwrap().to_json();
        let mut bundle = Vec::new();
        write(&text, image.as_slice(), &mut bundle, 3).unwrap();
        assert!(taken(&bundle, &trusted).unwrap() == image);

        assert!(matches!(taken(&bundle, &[]), Err(BundleError::Manifest(ReleaseError::Untrusted(_)))));
        assert!(matches!(taken(b"PK\x03\x04 something else entirely", &trusted), Err(BundleError::Other)));
        for cut in [0, 10, 25, text.len(), text.len() + 40, bundle.len() - 1] {
            assert!(taken(&bundle[..cut], &trusted).is_err(), "{cut}");
        }
        for (other, longer) in [(false, true), (true, false)] {
            let mut bytes = image.clone();
            if other {
                bytes[9000] ^= 1;
            }
            if longer {
                bytes.push(0);
            }
            let mut forged = Vec::new();
            write(&text, bytes.as_slice(), &mut forged, 3).unwrap();
            let refused = taken(&forged, &trusted).unwrap_err();
            assert!(matches!(refused, BundleError::Image { .. } | BundleError::Longer(_)), "{refused}");
        }
        let mut long = bundle.clone();
        long[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(taken(&long, &trusted), Err(BundleError::Manifest(ReleaseError::TooLong))));
    }
}
