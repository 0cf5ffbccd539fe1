//! Block reference tables: how often blocks are referred to that were cloned. Source: `include/sys/brt_impl.h`, `module/zfs/brt.c`.
//!
//! A top-level vdev whose blocks were cloned has two objects in the MOS. The object directory's entry [`OBJECT_PREFIX`] with the vdev's index
//! names the one: its blocks are an array of 16-bit numbers, how many entries there are in each range of the vdev; its bonus is
//! ```text
//! 0 object of the entries · 8 ranges · 16 byte order (0: little) · 24 entries · 32 bytes in a range · 40 space used · 48 space saved
//! ```
//! The other is a ZAP: the key is a block's offset on the vdev, the value how many references there are *besides the first*. It is eight
//! one-byte integers in the order of the machine that wrote it or, with the feature `block_cloning_endian`, one of eight bytes.

use super::read_u64;
use crate::error::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The feature that has the tables.
pub const FEATURE: &str = "com.fudosecurity:block_cloning";
/// The feature that fixes the byte order of their entries.
pub const FEATURE_ENDIAN: &str = "com.truenas:block_cloning_endian";
/// Bytes of a vdev that one number counts the entries of (`BRT_RANGESIZE`).
pub const RANGE_SIZE: u64 = 16 << 20;
/// Block size of the array of numbers, in bytes (`BRT_BLOCKSIZE`).
pub const BLOCK_SIZE: u32 = 32 << 10;
/// Numbers in one such block.
pub const COUNTS_PER_BLOCK: usize = BLOCK_SIZE as usize / 2;
/// Size of the bonus, in bytes.
pub const PHYS_SIZE: usize = 56;

/// Names a vdev's table in the object directory (`BRT_OBJECT_VDEV_PREFIX`).
const OBJECT_PREFIX: &str = "com.fudosecurity:brt:vdev:";

/// The object directory's entry of a vdev's table.
#[must_use]
pub fn name_of(vdev: u32) -> String {
    format!("{OBJECT_PREFIX}{vdev}")
}

/// The range that a block at that offset lies in.
#[must_use]
pub fn range_of(offset: u64) -> usize {
    usize::try_from(offset / RANGE_SIZE).unwrap_or(usize::MAX)
}

/// What the bonus says (`brt_vdev_phys_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VdevPhys {
    /// The ZAP's object number.
    pub entries: u64,
    /// How many ranges the vdev had.
    pub ranges: u64,
    /// Entries in all.
    pub total: u64,
    /// Bytes of data that the blocks with entries occupy.
    pub used: u64,
    /// Bytes of data that they would occupy more if each reference had a block of its own.
    pub saved: u64,
}

impl VdevPhys {
    /// Reads it.
    pub fn parse(bonus: &[u8]) -> Result<Self> {
        let bad = |rule| Err(Error::corrupt(rule, None));
        if bonus.len() < PHYS_SIZE {
            return bad("block reference table: bonus too short");
        }
        let word = |i: usize| read_u64(bonus, i * 8);
        match word(2) {
            0 => {}
            1 => return Err(Error::unsupported("a block reference table of a big-endian machine")),
            _ => return bad("block reference table: no such byte order"),
        }
        if word(4) != RANGE_SIZE {
            return Err(Error::unsupported(format!(
                "a block reference table with ranges of {} bytes",
                word(4)
            )));
        }
        let phys =
            VdevPhys { entries: word(0), ranges: word(1), total: word(3), used: word(5), saved: word(6) };
        if phys.entries == 0 || phys.ranges == 0 {
            return bad("block reference table: no entries, or no ranges");
        }
        Ok(phys)
    }

    /// As it stands in the bonus.
    #[must_use]
    pub fn emit(&self) -> [u8; PHYS_SIZE] {
        let mut bonus = [0; PHYS_SIZE];
        let words = [self.entries, self.ranges, 0, self.total, RANGE_SIZE, self.used, self.saved];
        for (at, word) in bonus.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *at = word.to_le_bytes();
        }
        bonus
    }
}

/// The numbers that an array of them holds.
#[must_use]
pub fn counts(array: &[u8]) -> Vec<u16> {
    array.as_chunks::<2>().0.iter().map(|c| u16::from_le_bytes(*c)).collect()
}

/// A block of the array, filled up with zeros.
#[must_use]
pub fn counts_block(counts: &[u16]) -> Vec<u8> {
    let mut block: Vec<u8> = counts.iter().flat_map(|c| c.to_le_bytes()).collect();
    block.resize(BLOCK_SIZE as usize, 0);
    block
}

/// The references of an entry, from the integers of its value and their size; `fixed`: with the feature [`FEATURE_ENDIAN`].
pub fn references(int_size: u8, ints: &[u64], fixed: bool) -> Result<u64> {
    let count = match (fixed, int_size, ints.len()) {
        (true, 8, 1) => ints[0],
        (false, 1, 8) => ints.iter().rev().fold(0, |sum, byte| sum << 8 | byte & 0xff),
        _ => return Err(Error::corrupt("block reference table: an entry of another form", None)),
    };
    if count == 0 {
        Err(Error::corrupt("block reference table: an entry without references", None))
    } else {
        Ok(count)
    }
}

/// The integers of an entry's value, and their size.
#[must_use]
pub fn emit_references(references: u64, fixed: bool) -> (u8, Vec<u64>) {
    match fixed {
        true => (8, alloc::vec![references]),
        false => (1, references.to_le_bytes().map(u64::from).to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bonus_comes_back_and_nonsense_is_refused() {
        let phys = VdevPhys { entries: 9, ranges: 64, total: 3, used: 4096, saved: 8192 };
        let bonus = phys.emit();
        assert_eq!(VdevPhys::parse(&bonus), Ok(phys));
        assert_eq!(
            VdevPhys::parse(&bonus[..55]),
            Err(Error::corrupt("block reference table: bonus too short", None))
        );
        let refuse = |word: usize, value: u64| {
            let mut bonus = phys.emit();
            bonus[word * 8..word * 8 + 8].copy_from_slice(&value.to_le_bytes());
            VdevPhys::parse(&bonus).unwrap_err()
        };
        assert_eq!(refuse(2, 1), Error::unsupported("a block reference table of a big-endian machine"));
        assert_eq!(refuse(2, 2), Error::corrupt("block reference table: no such byte order", None));
        assert_eq!(
            refuse(4, 1 << 20),
            Error::unsupported("a block reference table with ranges of 1048576 bytes")
        );
        for word in [0, 1] {
            let rule = "block reference table: no entries, or no ranges";
            assert_eq!(refuse(word, 0), Error::corrupt(rule, None));
        }
    }

    #[test]
    fn entries_have_two_forms() {
        assert_eq!(emit_references(0x102, false), (1, alloc::vec![2, 1, 0, 0, 0, 0, 0, 0]));
        assert_eq!(emit_references(0x102, true), (8, alloc::vec![0x102]));
        for fixed in [false, true] {
            let (size, ints) = emit_references(0x0102_0304_0506_0708, fixed);
            assert_eq!(references(size, &ints, fixed), Ok(0x0102_0304_0506_0708));
            let form = Error::corrupt("block reference table: an entry of another form", None);
            assert_eq!(references(size, &ints, !fixed), Err(form));
            let (size, none) = emit_references(0, fixed);
            let rule = "block reference table: an entry without references";
            assert_eq!(references(size, &none, fixed), Err(Error::corrupt(rule, None)));
        }
    }

    #[test]
    fn counts_fill_blocks() {
        let block = counts_block(&[1, 0x203]);
        assert_eq!((block.len(), &block[..5]), (32 << 10, &[1, 0, 3, 2, 0][..]));
        assert_eq!(counts(&block[..4]), [1, 0x203]);
    }
}
