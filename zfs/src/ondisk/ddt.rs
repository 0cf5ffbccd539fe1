//! Dedup tables: how often each deduplicated block is referred to. Source: `include/sys/ddt.h`, `ddt_zap.c`.
//!
//! A table is a ZAP for each checksum function and class (`DDT-sha256-zap-duplicate`). A key has five words: the checksum, and sizes
//! and compression of the block. A value is a byte that names its compression, then four places of 64 bytes:
//! ```text
//! 0 three DVAs (48 B)   48 references   56 birth txg
//! ```
//! Place 1 is that of blocks with one copy, 2 with two, 3 with three; place 0 is no longer used.

use super::blkptr::{Blkptr, DVAS_PER_BP};
use super::read_u64;
use crate::compress::{Compression, Workspace, decompress};
use crate::error::{Error, Result};
use alloc::vec::Vec;

/// Words of a key.
pub const KEY_WORDS: usize = 5;
/// Places of an entry (`DDT_PHYS_MAX`).
pub const PLACES: usize = 4;
/// Words of an entry's statistics (`ddt_stat_t`).
pub const STAT_WORDS: usize = 8;
/// Buckets of a table's histogram: entries by the power of two of their references (`ddt_histogram_t`).
pub const HISTOGRAM_BUCKETS: usize = 64;

const PLACE_SIZE: usize = 64;
const VALUE_SIZE: usize = PLACES * PLACE_SIZE;
/// The byte before a value: the compression function, and whether words are little-endian.
const FUNCTION: u8 = 0x7f;
const LITTLE_ENDIAN: u8 = 0x80;

/// The key of a block (`ddt_key_fill`).
#[must_use]
pub fn key_of(bp: &Blkptr) -> [u64; KEY_WORDS] {
    let sectors = |size: u64| (size / 512).wrapping_sub(1) & 0xffff;
    let [a, b, c, d] = bp.checksum();
    let how = u64::from(bp.compress() & 0x7f) | u64::from(bp.uses_crypt()) << 7;
    [a, b, c, d, sectors(bp.lsize()) | sectors(bp.psize()) << 16 | how << 32]
}

/// One way in which a block is stored (`ddt_phys_t`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// The addresses, as the six words of a block pointer.
    pub dvas: [u64; 2 * DVAS_PER_BP],
    /// How many block pointers refer to it.
    pub references: u64,
    /// The txg in which it was written; 0: nothing is stored here.
    pub birth: u64,
}

impl Place {
    /// Whether `bp` refers to this place (`ddt_phys_select`).
    #[must_use]
    pub fn is_of(&self, bp: &Blkptr) -> bool {
        self.birth != 0 && self.birth == bp.physical_birth() && self.dvas[..2] == bp.words()[..2]
    }
}

/// All places of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entry {
    /// By number of copies.
    pub places: [Place; PLACES],
}

impl Entry {
    /// Reads a value of the table.
    pub fn parse(value: &[u8]) -> Result<Self> {
        let short = || Error::corrupt("dedup table: empty entry", None);
        let (how, data) = value.split_first().ok_or_else(short)?;
        if how & LITTLE_ENDIAN == 0 {
            return Err(Error::unsupported("a dedup table with big-endian entries"));
        }
        let raw = decompress(how & FUNCTION, data, VALUE_SIZE)?;
        let mut entry = Entry::default();
        for (i, place) in entry.places.iter_mut().enumerate() {
            let word = |n: usize| read_u64(&raw, i * PLACE_SIZE + n * 8);
            *place = Place { dvas: core::array::from_fn(word), references: word(6), birth: word(7) };
        }
        Ok(entry)
    }

    /// The value of the table.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(VALUE_SIZE);
        for place in &self.places {
            place
                .dvas
                .iter()
                .chain([&place.references, &place.birth])
                .for_each(|w| raw.extend(w.to_le_bytes()));
        }
        let mut workspace = Workspace::default();
        let packed = Compression::Zle.compress(&raw, VALUE_SIZE - 1, &mut workspace);
        let (function, data) = match packed {
            Some(packed) => (Compression::Zle, packed),
            None => (Compression::Off, &raw[..]),
        };
        let mut value = alloc::vec![function.to_raw() | LITTLE_ENDIAN];
        value.extend_from_slice(data);
        value
    }

    /// References to all places.
    #[must_use]
    pub fn references(&self) -> u64 {
        self.places.iter().fold(0, |sum, p| sum.saturating_add(p.references))
    }

    /// What the entry counts in its table's histogram: the bucket, and blocks, logical, physical and allocated bytes, first of what is
    /// stored, then of what refers to it (`ddt_stat_generate`). `dsize` gives the allocated size of a place.
    pub fn stat(
        &self,
        key: &[u64; KEY_WORDS],
        mut dsize: impl FnMut(&Place) -> u64,
    ) -> Option<(usize, [u64; STAT_WORDS])> {
        let size = |shift: u32| ((key[4] >> shift & 0xffff) + 1) * 512;
        let mut stat = [0u64; STAT_WORDS];
        for place in self.places.iter().filter(|p| p.birth != 0) {
            let one = [1, size(0), size(16), dsize(place)];
            for (i, value) in one.into_iter().enumerate() {
                stat[i] = stat[i].wrapping_add(value);
                stat[i + 4] = stat[i + 4].wrapping_add(value.wrapping_mul(place.references));
            }
        }
        let bucket = stat[4].checked_ilog2()?;
        Some((bucket as usize, stat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back() {
        let mut entry = Entry::default();
        entry.places[1] = Place { dvas: [1, 2, 0, 0, 0, 0], references: 3, birth: 77 };
        let value = entry.emit();
        assert!(value.len() < VALUE_SIZE && value[0] == 0x8e);
        assert_eq!(Entry::parse(&value), Ok(entry));
        assert_eq!(Entry::parse(&[]), Err(Error::corrupt("dedup table: empty entry", None)));
        assert!(Entry::parse(&value[..value.len() - 1]).is_err());
    }

    #[test]
    fn references_choose_the_bucket() {
        let mut entry = Entry::default();
        assert_eq!(entry.stat(&[0; 5], |_| 0), None);
        entry.places[1] = Place { dvas: [1, 2, 0, 0, 0, 0], references: 5, birth: 77 };
        let stat = entry.stat(&[0, 0, 0, 0, 1 | 1 << 32], |_| 4096);
        assert_eq!(stat, Some((2, [1, 1024, 512, 4096, 5, 5120, 2560, 20480])));
    }
}
