//! The footer that makes a page blob a *fixed VHD*, from which Azure makes managed disks: the volume's bytes up to a whole MiB, then these 512.
//!
//! Source: "Virtual Hard Disk Image Format Specification", Microsoft, 2006; that the size has to be a whole number of MiB and the footer the last 512
//! bytes is what Azure asks for ("Prepare a Windows VHD or VHDX to upload to Azure").

use dedupe::{ByteCount, LineageId, UnixMillis};

/// Bytes of the footer.
pub(super) const FOOTER: u64 = 512;
/// Disks made from blobs are whole MiB.
const GRAIN: u64 = 1 << 20;
/// Seconds from 1970 to 2000, where the format's clock begins.
const EPOCH: u64 = 946_684_800;

/// Bytes of the disk that holds a volume: up to the next whole MiB.
pub(super) fn disk(size: ByteCount) -> u64 {
    size.0.div_ceil(GRAIN).max(1) * GRAIN
}

/// Bytes of its blob.
pub(super) fn blob(size: ByteCount) -> u64 {
    disk(size) + FOOTER
}

/// The footer of a volume's disk. The same for the same volume, size and moment, so that a run that goes on writes the same.
pub(super) fn footer(lineage: LineageId, size: ByteCount, captured: UnixMillis) -> [u8; FOOTER as usize] {
    let disk = disk(size);
    let (cylinders, heads, sectors) = geometry(disk / 512);
    let mut footer = [0; FOOTER as usize];
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    put(8, &2u32.to_be_bytes()); // features: the reserved bit, which is always set
    put(12, &0x0001_0000u32.to_be_bytes()); // the format's version
    put(16, &u64::MAX.to_be_bytes()); // no dynamic header: fixed
    put(24, &u32::try_from((captured.0 / 1000).saturating_sub(EPOCH)).unwrap_or(u32::MAX).to_be_bytes());
    put(28, b"win "); // as Hyper-V writes it: readers then take the size and not the geometry, which is rounded
    put(32, &0x000a_0000u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &disk.to_be_bytes());
    put(48, &disk.to_be_bytes());
    put(56, &cylinders.to_be_bytes());
    put(58, &[heads, sectors]);
    put(60, &2u32.to_be_bytes()); // fixed
    put(68, &lineage.0);
    let sum = !footer.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    footer[64..68].copy_from_slice(&sum.to_be_bytes());
    footer
}

/// Cylinders, heads and sectors by the rules of the specification's appendix. For old programs only.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(65535 * 16 * 255);
    if total >= 65535 * 16 * 63 {
        return ((total / 255 / 16) as u16, 16, 255);
    }
    let (mut per_track, mut tracks) = (17, total / 17);
    let mut heads = tracks.div_ceil(1024).max(4);
    if tracks >= heads * 1024 || heads > 16 {
        (per_track, heads, tracks) = (31, 16, total / 31);
    }
    if tracks >= heads * 1024 {
        (per_track, heads, tracks) = (63, 16, total / 63);
    }
    ((tracks / heads) as u16, heads as u8, per_track as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_whole_mebibytes_and_its_footer_adds_up() {
        assert_eq!([0, 1, 1 << 20, (1 << 20) + 1].map(|size| disk(ByteCount(size)) >> 20), [1, 1, 1, 2]);
        let footer = footer(LineageId([7; 16]), ByteCount(5 << 30), UnixMillis(1_800_000_000_123));
        let sum: u32 = (0..512).filter(|at| !(64..68).contains(at)).map(|at| u32::from(footer[at])).sum();
        assert_eq!(footer[64..68], (!sum).to_be_bytes());
        assert_eq!(footer[24..28], (1_800_000_000u32 - 946_684_800).to_be_bytes());
        assert_eq!(footer[48..56], (5u64 << 30).to_be_bytes());
    }

    #[test]
    fn the_geometry_never_says_more_than_there_is() {
        assert_eq!(geometry(2048), (30, 4, 17));
        assert_eq!(geometry(u64::MAX), (65535, 16, 255), "beyond 127 GiB the size alone counts");
        for mib in (1..200_000).step_by(37) {
            let (cylinders, heads, sectors) = geometry(mib * 2048);
            assert!(u64::from(cylinders) * u64::from(heads) * u64::from(sectors) <= mib * 2048, "{mib} MiB");
        }
    }
}
