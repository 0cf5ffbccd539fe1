//! The hash of ZAP keys: a CRC-64 that starts from the ZAP's salt. Source: `zap_hash` (`zap_impl.c`).

use crate::zap::{FLAG_HASH64, FLAG_PRE_HASHED_KEY};

const POLY: u64 = 0xC96C_5795_D787_0F42;

static TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ ((crc & 1).wrapping_neg() & POLY);
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

fn step(hash: u64, byte: u8) -> u64 {
    (hash >> 8) ^ TABLE[((hash ^ u64::from(byte)) & 0xff) as usize]
}

/// How many (high) bits of a hash are used.
pub(crate) fn hash_bits(flags: u64) -> u32 {
    if flags & FLAG_HASH64 != 0 { 48 } else { 28 }
}

fn cut(hash: u64, flags: u64) -> u64 {
    hash & !((1 << (64 - hash_bits(flags))) - 1)
}

/// The hash of a (folded) name without its terminating zero.
pub(crate) fn hash_name(salt: u64, flags: u64, name: &[u8]) -> u64 {
    cut(name.iter().fold(salt, |h, &b| step(h, b)), flags)
}

/// The hash of a key of words.
pub(crate) fn hash_words(salt: u64, flags: u64, words: &[u64]) -> u64 {
    if flags & FLAG_PRE_HASHED_KEY != 0 {
        return cut(words.first().copied().unwrap_or(0), flags);
    }
    cut(words.iter().flat_map(|w| w.to_le_bytes()).fold(salt, step), flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_reflected_ecma_polynomial() {
        assert_eq!(TABLE[128], POLY);
        // CRC-64/XZ of "123456789" is the same function with inverted start and end.
        let crc = !b"123456789".iter().fold(!0, |h, &b| step(h, b));
        assert_eq!(crc, 0x995d_c9bb_df19_39fa);
    }

    #[test]
    fn only_the_high_bits_count() {
        let hash = hash_name(1, 0, b"name");
        assert_eq!(hash & 0xf_ffff_ffff, 0);
        assert_eq!(hash_words(1, FLAG_HASH64, &[7]) & 0xffff, 0);
        assert_eq!(
            hash_words(1, FLAG_PRE_HASHED_KEY | FLAG_HASH64, &[0x1234_5678_9abc_def0]),
            0x1234_5678_9abc_0000
        );
    }
}
