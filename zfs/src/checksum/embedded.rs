//! Checksums that stand in the block itself: labels, uberblocks, gang headers and intent-log blocks.
//!
//! The checksum is computed with a *verifier* (which says where the block belongs) in the place of the checksum
//! words, which the result then takes. Of zilog2 blocks the trailer stands at the front, in the log's chain header,
//! and only the used part of the block is covered.

use super::{fletcher, sha256};
use crate::ondisk::eck::{ECK_MAGIC, ECK_SIZE};
use crate::ondisk::read_u64;

/// Granularity of the used part of a zilog2 block, in bytes (`ZIL_MIN_BLKSZ`).
const ZIL_MIN_BLOCK: usize = 4096;
/// Offset of `zc_nused` in `zil_chain_t`.
const ZIL_NUSED: usize = 8 + 128;
/// Offset of `zc_eck` in `zil_chain_t`.
const ZIL_ECK: usize = 8 + 128 + 8;

/// The verifier of a label or an uberblock: its offset on the device, in bytes.
#[must_use]
pub fn label_verifier(offset: u64) -> [u64; 4] {
    [offset, 0, 0, 0]
}

fn put(block: &mut [u8], at: usize, words: [u64; 4]) {
    block[at..at + 8].copy_from_slice(&ECK_MAGIC.to_le_bytes());
    for (i, word) in words.iter().enumerate() {
        block[at + 8 + 8 * i..at + 16 + 8 * i].copy_from_slice(&word.to_le_bytes());
    }
}

fn get(block: &[u8], at: usize) -> [u64; 4] {
    [8, 16, 24, 32].map(|offset| read_u64(block, at + offset))
}

/// Fills in the trailer at the end of a label, an uberblock or a gang header (SHA-256).
///
/// # Panics
/// If `block` is shorter than the trailer.
pub fn seal(block: &mut [u8], verifier: [u64; 4]) {
    let at = block.len() - ECK_SIZE;
    put(block, at, verifier);
    let sum = sha256(block);
    put(block, at, sum);
}

/// Whether the trailer at the end of a label, an uberblock or a gang header is right. `block` comes back unchanged.
pub fn check(block: &mut [u8], verifier: [u64; 4]) -> bool {
    check_with(block, block.len(), block.len().wrapping_sub(ECK_SIZE), verifier, sha256, whole)
}

fn check_with(
    block: &mut [u8],
    len: usize,
    at: usize,
    verifier: [u64; 4],
    hash: impl Fn(&[u8]) -> [u64; 4],
    matches: impl Fn([u64; 4], [u64; 4]) -> bool,
) -> bool {
    if len > block.len()
        || at.checked_add(ECK_SIZE).is_none_or(|end| end > len)
        || read_u64(block, at) != ECK_MAGIC
    {
        return false;
    }
    let expected = get(block, at);
    put(block, at, verifier);
    let sum = hash(&block[..len]);
    put(block, at, expected);
    matches(sum, expected)
}

fn whole(sum: [u64; 4], expected: [u64; 4]) -> bool {
    sum == expected
}

/// Half of the checksum is a MAC; the sum is folded into the other half.
fn half(sum: [u64; 4], expected: [u64; 4]) -> bool {
    sum[0] ^ sum[2] == expected[0] && sum[1] ^ sum[3] == expected[1]
}

/// Bytes of a zilog2 block that its checksum covers; `None` if the header claims more than there is.
fn zilog2_covers(block: &[u8]) -> Option<usize> {
    let used = usize::try_from(read_u64(block, ZIL_NUSED)).ok()?;
    let covered = used.checked_next_multiple_of(ZIL_MIN_BLOCK)?;
    (covered <= block.len() && covered >= ZIL_ECK + ECK_SIZE).then_some(covered)
}

/// Fills in the trailer of an intent-log block: at its end (zilog), or in the chain header (zilog2). `verifier` is
/// the checksum of the block pointer that leads to it. `false` if a zilog2 header claims more than the block holds.
pub fn seal_zil(block: &mut [u8], zilog2: bool, verifier: [u64; 4]) -> bool {
    if zilog2 {
        let Some(covered) = zilog2_covers(block) else { return false };
        put(block, ZIL_ECK, verifier);
        let sum = fletcher::fletcher4(&block[..covered]);
        put(block, ZIL_ECK, sum);
    } else {
        let Some(at) = block.len().checked_sub(ECK_SIZE) else { return false };
        put(block, at, verifier);
        let sum = fletcher::fletcher2(block);
        put(block, at, sum);
    }
    true
}

/// Whether an intent-log block belongs behind the pointer with this verifier. `has_mac`: it is encrypted.
pub fn check_zil(block: &mut [u8], zilog2: bool, verifier: [u64; 4], has_mac: bool) -> bool {
    let matches = if has_mac { half } else { whole };
    if zilog2 {
        let Some(covered) = zilog2_covers(block) else { return false };
        check_with(block, covered, ZIL_ECK, verifier, fletcher::fletcher4, matches)
    } else {
        let (len, at) = (block.len(), block.len().wrapping_sub(ECK_SIZE));
        check_with(block, len, at, verifier, fletcher::fletcher2, matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_sealed_block_checks_and_a_moved_or_damaged_one_does_not() {
        let mut block = vec![7; 1024];
        seal(&mut block, label_verifier(4096));
        let sealed = block.clone();
        assert!(check(&mut block, label_verifier(4096)));
        assert_eq!(block, sealed);
        assert!(!check(&mut block, label_verifier(8192)));
        block[3] ^= 1;
        assert!(!check(&mut block, label_verifier(4096)));
        assert!(!check(&mut [0; 39], [0; 4]) && !check(&mut [0; 40], [0; 4]));
    }

    #[test]
    fn zil_blocks_check_in_both_forms() {
        for zilog2 in [false, true] {
            let mut block = vec![1; 12288];
            block[ZIL_NUSED..ZIL_NUSED + 8].copy_from_slice(&5000u64.to_le_bytes());
            assert!(seal_zil(&mut block, zilog2, [1, 2, 3, 4]));
            assert!(check_zil(&mut block, zilog2, [1, 2, 3, 4], false));
            assert!(!check_zil(&mut block, zilog2, [1, 2, 3, 5], false));
            block[9000] ^= 1; // beyond what zilog2 covers
            assert_eq!(check_zil(&mut block, zilog2, [1, 2, 3, 4], false), zilog2);
            block[ZIL_NUSED..ZIL_NUSED + 8].copy_from_slice(&u64::MAX.to_le_bytes());
            assert!(!check_zil(&mut block, zilog2, [1, 2, 3, 4], false));
        }
    }
}
