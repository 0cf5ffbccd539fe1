//! Optional attributes in log records: flags of a file, its creation time, its project. Source: `lr_attr_t` (`include/sys/zil.h`),
//! `zfs_log_xvattr` (`module/zfs/zfs_log.c`), `XAT0_*` (`include/sys/xvattr.h`).
//!
//! ```text
//! 0 words in the mask u32 · 4 mask: u32 each · flags u64 · creation time 2 × u64 · 32 bytes: the project u64, or a scan stamp
//! ```

use crate::error::{Error, Result};
use crate::ondisk::znode::flags;
use alloc::vec::Vec;

/// Words of the mask, as every implementation writes it (`XVA_MAPSIZE`).
const MASK_WORDS: usize = 3;
/// What follows the mask, in bytes.
const BODY_SIZE: usize = 8 * 7;
/// `XAT0_CREATETIME`.
const CREATE_TIME: u32 = 0x1;
/// `XAT0_PROJID`.
const PROJECT: u32 = 0x4_0000;
/// Bits of the mask, and the file's flag that each stands for.
const FLAGS: [(u32, u64); 9] = [
    (0x2, flags::ARCHIVE),
    (0x4, flags::SYSTEM),
    (0x8, flags::READONLY),
    (0x10, flags::HIDDEN),
    (0x20, flags::NOUNLINK),
    (0x40, flags::IMMUTABLE),
    (0x80, flags::APPENDONLY),
    (0x100, flags::NODUMP),
    (0x2_0000, flags::PROJINHERIT),
];

/// Optional attributes. Those that we do not keep (of virus scanners and SMB) are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Optional {
    /// Which of a file's flags (`zp_flags`) are told.
    pub flags_mask: u64,
    /// Those of them that are set.
    pub flags: u64,
    /// Creation time: seconds and nanoseconds.
    pub crtime: Option<[u64; 2]>,
    /// Project id.
    pub project: Option<u64>,
}

impl Optional {
    /// Reads them from the start of `bytes`; and their length.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize)> {
        let short = Error::corrupt("log record: shorter than its optional attributes", None);
        let words = bytes.first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b)) as usize;
        if words == 0 || words > 64 {
            return Err(Error::corrupt("log record: attribute mask size", None));
        }
        let at = 4 + 4 * words;
        let len = at + BODY_SIZE;
        let body = bytes.get(at..len).ok_or(short.clone())?;
        let mask = bytes.get(4..8).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_le_bytes(*b));
        let words = body.as_chunks::<8>().0;
        let word = |i: usize| words.get(i).map_or(0, |w| u64::from_le_bytes(*w));
        let mut found = Optional::default();
        for (bit, flag) in FLAGS {
            if mask & bit != 0 {
                found.flags_mask |= flag;
                found.flags |= if word(0) & u64::from(bit) != 0 { flag } else { 0 };
            }
        }
        found.crtime = (mask & CREATE_TIME != 0).then(|| [word(1), word(2)]);
        found.project = (mask & PROJECT != 0).then(|| word(3));
        Ok((found, len))
    }

    /// As they stand in a record.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let (mut mask, mut set) = (0, 0);
        for (bit, flag) in FLAGS {
            mask |= if self.flags_mask & flag != 0 { bit } else { 0 };
            set |= if self.flags & flag != 0 { u64::from(bit) } else { 0 };
        }
        mask |= if self.crtime.is_some() { CREATE_TIME } else { 0 };
        mask |= if self.project.is_some() { PROJECT } else { 0 };
        let mut out = Vec::with_capacity(4 + 4 * MASK_WORDS + BODY_SIZE);
        out.extend_from_slice(&(MASK_WORDS as u32).to_le_bytes());
        out.extend_from_slice(&mask.to_le_bytes());
        out.resize(4 + 4 * MASK_WORDS, 0);
        let crtime = self.crtime.unwrap_or_default();
        for word in [set, crtime[0], crtime[1], self.project.unwrap_or(0), 0, 0, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_back() {
        let all = Optional {
            flags_mask: flags::IMMUTABLE | flags::APPENDONLY | flags::PROJINHERIT,
            flags: flags::IMMUTABLE,
            crtime: Some([7, 8]),
            project: Some(9),
        };
        for optional in [all, Optional::default(), Optional { project: Some(1), ..Optional::default() }] {
            let bytes = optional.emit();
            assert_eq!(Optional::parse(&bytes).unwrap(), (optional, 72));
            for cut in 0..bytes.len() {
                assert!(Optional::parse(&bytes[..cut]).is_err());
            }
        }
    }
}
