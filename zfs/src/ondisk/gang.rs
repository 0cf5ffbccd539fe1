//! Gang headers: a 512-byte block of three block pointers whose data, one after another, is the block's.
//! Source: `zio_gbh_phys_t`.
//!
//! A header checks itself: its embedded checksum has the header's own address and birth as verifier.

use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use alloc::vec;
use alloc::vec::Vec;

/// Size of a gang header in bytes (`SPA_OLD_GANGBLOCKSIZE`).
pub const GANG_HEADER_SIZE: usize = 512;
/// Block pointers in one.
pub const GANG_MEMBERS: usize = 3;

/// The verifier of the header that `bp` leads to (`zio_checksum_gang_verifier`).
#[must_use]
pub fn verifier(bp: &Blkptr) -> [u64; 4] {
    let dva = bp.dva(0);
    [u64::from(dva.vdev), dva.offset, bp.physical_birth(), 0]
}

/// The members of a header, without holes.
#[must_use]
pub fn members(header: &[u8]) -> Vec<Blkptr> {
    (0..GANG_MEMBERS).filter_map(|i| Blkptr::nth(header, i)).filter(|bp| !bp.is_hole()).collect()
}

/// A header of these members, not yet sealed.
///
/// # Panics
/// If there are more than [`GANG_MEMBERS`].
#[must_use]
pub fn emit(members: &[Blkptr]) -> Vec<u8> {
    assert!(members.len() <= GANG_MEMBERS);
    let mut header = vec![0; GANG_HEADER_SIZE];
    for (i, bp) in members.iter().enumerate() {
        header[i * BLKPTR_SIZE..(i + 1) * BLKPTR_SIZE].copy_from_slice(&bp.to_bytes());
    }
    header
}
