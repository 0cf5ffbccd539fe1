//! Dnodes: the description of an object. Source: `dnode_phys_t` (`include/sys/dnode.h`).
//!
//! ```text
//!   0 type u8 · 1 indblkshift u8 · 2 nlevels u8 · 3 nblkptr u8 · 4 bonustype u8 · 5 checksum u8 · 6 compress u8 · 7 flags u8
//!   8 datablkszsec u16 · 10 bonuslen u16 · 12 extra_slots u8 · 13 padding · 16 maxblkid u64 · 24 used u64 · 32 padding
//!  64 blkptr[nblkptr] (128 each) · bonus[bonuslen] · … · spill blkptr in the last 128 bytes if the flag says so
//! ```

use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::object_type::ObjectType;
use bytes::Bytes;

/// The smallest dnode, and the unit in which dnodes are placed, in bytes (`DNODE_MIN_SIZE`).
pub const DNODE_SIZE: usize = 512;
/// Base-2 logarithm of [`DNODE_SIZE`] (`DNODE_SHIFT`).
pub const DNODE_SHIFT: u32 = 9;
/// A block of dnodes, in bytes (`DNODE_BLOCK_SIZE`).
pub const DNODE_BLOCK_SIZE: usize = 16384;
/// Slots in a block of dnodes (`DNODES_PER_BLOCK`).
pub const DNODES_PER_BLOCK: u64 = (DNODE_BLOCK_SIZE / DNODE_SIZE) as u64;
/// Bytes before the first block pointer (`DNODE_CORE_SIZE`).
pub const DNODE_CORE_SIZE: usize = 64;
/// Most block pointers in a dnode (`DN_MAX_NBLKPTR`).
pub const MAX_NBLKPTR: usize = 3;
/// Smallest and largest base-2 logarithm of an indirect block's size (`DN_MIN_INDBLKSHIFT`, `DN_MAX_INDBLKSHIFT`).
pub const INDBLKSHIFT: core::ops::RangeInclusive<u8> = 12..=17;
/// The logarithm that new objects get: 128 KiB.
pub const DEFAULT_INDBLKSHIFT: u8 = 17;
/// One past the largest object number (`DN_MAX_OBJECT`).
pub const MAX_OBJECT: u64 = 1 << 48;
/// Most levels that a tree of blocks can have (`DN_MAX_LEVELS`).
pub const MAX_LEVELS: u8 = 12;

/// `used` counts bytes, not sectors (`DNODE_FLAG_USED_BYTES`).
pub const FLAG_USED_BYTES: u8 = 1 << 0;
/// Counted in the user and group space accounting (`DNODE_FLAG_USERUSED_ACCOUNTED`).
pub const FLAG_USERUSED_ACCOUNTED: u8 = 1 << 1;
/// The last 128 bytes are the block pointer of a spill block (`DNODE_FLAG_SPILL_BLKPTR`).
pub const FLAG_SPILL_BLKPTR: u8 = 1 << 2;
/// Counted in the user and group object accounting (`DNODE_FLAG_USEROBJUSED_ACCOUNTED`).
pub const FLAG_USEROBJUSED_ACCOUNTED: u8 = 1 << 3;

/// Largest bonus of a dnode of `slots` slots with one block pointer and no spill (`DN_SLOTS_TO_BONUSLEN`).
#[must_use]
pub fn max_bonus_len(slots: u8) -> usize {
    usize::from(slots) * DNODE_SIZE - DNODE_CORE_SIZE - BLKPTR_SIZE
}

/// A dnode that obeys the rules of the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnodePhys {
    /// What the blocks hold; [`ObjectType::NONE`] of a free dnode.
    pub object_type: ObjectType,
    /// Base-2 logarithm of the size of an indirect block.
    pub indblkshift: u8,
    /// 1 if the block pointers lead to data.
    pub nlevels: u8,
    /// How many of `blkptrs` there are, 1 to 3.
    pub nblkptr: u8,
    /// What the bonus holds.
    pub bonus_type: ObjectType,
    /// Checksum function of the data, 0 to inherit.
    pub checksum: u8,
    /// Compression function of the data, 0 to inherit.
    pub compress: u8,
    /// `FLAG_*`, without [`FLAG_SPILL_BLKPTR`], which `spill` says.
    pub flags: u8,
    /// Data block size in units of 512 bytes.
    pub datablkszsec: u16,
    /// Slots of [`DNODE_SIZE`] bytes that it fills, 1 to 32.
    pub slots: u8,
    /// Largest block id that may hold data.
    pub maxblkid: u64,
    /// Space used, in bytes or sectors as `flags` says.
    pub used: u64,
    /// The block pointers; those from `nblkptr` on are [`Blkptr::HOLE`].
    pub blkptrs: [Blkptr; MAX_NBLKPTR],
    /// The bonus, exactly `bonuslen` bytes.
    pub bonus: Bytes,
    /// The spill block.
    pub spill: Option<Blkptr>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl DnodePhys {
    /// A dnode that is free.
    #[must_use]
    pub fn free() -> Self {
        DnodePhys {
            object_type: ObjectType::NONE,
            indblkshift: 0,
            nlevels: 0,
            nblkptr: 0,
            bonus_type: ObjectType::NONE,
            checksum: 0,
            compress: 0,
            flags: 0,
            datablkszsec: 0,
            slots: 1,
            maxblkid: 0,
            used: 0,
            blkptrs: [Blkptr::HOLE; MAX_NBLKPTR],
            bonus: Bytes::new(),
            spill: None,
        }
    }

    /// Whether the slot is free.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.object_type == ObjectType::NONE
    }

    /// Reads the dnode that starts at slot `slot` of `block`; all zeros are a free one.
    pub fn parse(block: &Bytes, slot: usize, at: Option<Bookmark>) -> Result<Self> {
        let bad = |rule| Error::corrupt(rule, at);
        let start = slot * DNODE_SIZE;
        let core = block.get(start..start + DNODE_SIZE).ok_or(bad("dnode: slot outside its block"))?;
        if core[0] == 0 {
            return Ok(Self::free());
        }
        let slots = core[12].saturating_add(1);
        let end = start + usize::from(slots) * DNODE_SIZE;
        let raw = block.get(start..end).ok_or(bad("dnode: extra slots reach past the block"))?;
        let (nlevels, nblkptr, flags) = (raw[2], raw[3], raw[7]);
        if !ObjectType(raw[0]).is_valid() {
            return Err(bad("dnode: unknown object type"));
        }
        if !(1..=MAX_NBLKPTR as u8).contains(&nblkptr) {
            return Err(bad("dnode: number of block pointers out of range"));
        }
        if !(1..=MAX_LEVELS).contains(&nlevels) {
            return Err(bad("dnode: number of levels out of range"));
        }
        if !INDBLKSHIFT.contains(&raw[1]) && (raw[1] != 0 || nlevels != 1) {
            return Err(bad("dnode: indirect block size out of range"));
        }
        let datablkszsec = u16_at(raw, 8);
        if datablkszsec == 0 {
            return Err(bad("dnode: block size is zero"));
        }
        let maxblkid = u64_at(raw, 16);
        let end_of_object =
            maxblkid.checked_add(1).and_then(|n| n.checked_mul(u64::from(datablkszsec) * 512));
        if end_of_object.is_none() {
            return Err(bad("dnode: last block beyond all offsets"));
        }
        let spilled = flags & FLAG_SPILL_BLKPTR != 0;
        let bonus_at = DNODE_CORE_SIZE + usize::from(nblkptr) * BLKPTR_SIZE;
        let bonus_end = bonus_at + usize::from(u16_at(raw, 10));
        if bonus_end + if spilled { BLKPTR_SIZE } else { 0 } > raw.len() {
            return Err(bad("dnode: bonus reaches past the dnode"));
        }
        let mut blkptrs = [Blkptr::HOLE; MAX_NBLKPTR];
        for (i, bp) in blkptrs.iter_mut().enumerate().take(usize::from(nblkptr)) {
            *bp = Blkptr::nth(&raw[DNODE_CORE_SIZE..], i).ok_or(bad("dnode: block pointer outside"))?;
            bp.verify(at)?;
        }
        let spill = match raw.last_chunk::<BLKPTR_SIZE>() {
            Some(last) if spilled => Some(Blkptr::parse(last, at)?),
            _ => None,
        };
        Ok(DnodePhys {
            object_type: ObjectType(raw[0]),
            indblkshift: raw[1],
            nlevels,
            nblkptr,
            bonus_type: ObjectType(raw[4]),
            checksum: raw[5],
            compress: raw[6],
            flags: flags & !FLAG_SPILL_BLKPTR,
            datablkszsec,
            slots,
            maxblkid,
            used: u64_at(raw, 24),
            blkptrs,
            // Copied: a slice would keep the whole block in memory as long as the dnode lives.
            bonus: Bytes::copy_from_slice(&raw[bonus_at..bonus_end]),
            spill,
        })
    }

    /// Writes the dnode over `out`, which is exactly its slots.
    ///
    /// # Panics
    /// If the dnode breaks a rule of the format, or `out` is of another size.
    pub fn emit(&self, out: &mut [u8]) {
        out.fill(0);
        if self.is_free() {
            return;
        }
        assert_eq!(out.len(), usize::from(self.slots) * DNODE_SIZE, "a dnode fills its slots");
        out[..8].copy_from_slice(&[
            self.object_type.0,
            self.indblkshift,
            self.nlevels,
            self.nblkptr,
            self.bonus_type.0,
            self.checksum,
            self.compress,
            self.flags | if self.spill.is_some() { FLAG_SPILL_BLKPTR } else { 0 },
        ]);
        out[8..10].copy_from_slice(&self.datablkszsec.to_le_bytes());
        let bonus_len = u16::try_from(self.bonus.len()).expect("a bonus is smaller than a dnode");
        out[10..12].copy_from_slice(&bonus_len.to_le_bytes());
        out[12] = self.slots - 1;
        out[16..24].copy_from_slice(&self.maxblkid.to_le_bytes());
        out[24..32].copy_from_slice(&self.used.to_le_bytes());
        let mut at = DNODE_CORE_SIZE;
        for bp in &self.blkptrs[..usize::from(self.nblkptr)] {
            out[at..at + BLKPTR_SIZE].copy_from_slice(&bp.to_bytes());
            at += BLKPTR_SIZE;
        }
        let bonus_end = at + self.bonus.len();
        out[at..bonus_end].copy_from_slice(&self.bonus);
        if let Some(spill) = &self.spill {
            let spill_at = out.len() - BLKPTR_SIZE;
            assert!(bonus_end <= spill_at, "the bonus leaves room for the spill block pointer");
            out[spill_at..].copy_from_slice(&spill.to_bytes());
        }
    }

    /// Data block size in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        u32::from(self.datablkszsec) * 512
    }

    /// Space used in bytes.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        if self.flags & FLAG_USED_BYTES != 0 { self.used } else { self.used.saturating_mul(512) }
    }

    /// Base-2 logarithm of the number of block pointers in an indirect block.
    #[must_use]
    pub fn epb_shift(&self) -> u32 {
        u32::from(self.indblkshift).saturating_sub(BLKPTR_SIZE.trailing_zeros())
    }

    /// Size of a block at `level`, in bytes.
    #[must_use]
    pub fn block_size_at(&self, level: u8) -> usize {
        if level == 0 { self.block_size() as usize } else { 1 << self.indblkshift }
    }

    /// Levels that a tree needs to hold block `maxblkid`.
    #[must_use]
    pub fn levels_for(&self, maxblkid: u64) -> u8 {
        let mut levels = 1;
        let mut top = maxblkid;
        while top >= u64::from(self.nblkptr) && self.epb_shift() > 0 {
            top >>= self.epb_shift();
            levels += 1;
        }
        levels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn sample() -> DnodePhys {
        let mut bp = Blkptr::embed(&[7; 30], 512, 15, 19, 0);
        bp.set_birth(4);
        DnodePhys {
            object_type: ObjectType::PLAIN_FILE_CONTENTS,
            indblkshift: 17,
            nlevels: 1,
            nblkptr: 1,
            bonus_type: ObjectType::SA,
            checksum: 0,
            compress: 0,
            flags: FLAG_USED_BYTES,
            datablkszsec: 256,
            slots: 2,
            maxblkid: 0,
            used: 512,
            blkptrs: [bp, Blkptr::HOLE, Blkptr::HOLE],
            bonus: Bytes::from(vec![9; 176]),
            spill: Some(bp),
        }
    }

    #[test]
    fn parse_undoes_emit() {
        let dnode = sample();
        let mut block = vec![0; DNODE_BLOCK_SIZE];
        dnode.emit(&mut block[1024..2048]);
        let block = Bytes::from(block);
        assert_eq!(DnodePhys::parse(&block, 2, None).unwrap(), dnode);
        assert!(DnodePhys::parse(&block, 0, None).unwrap().is_free());
    }

    #[test]
    fn broken_rules_are_named() {
        let cases: [(usize, u8, &str); 8] = [
            (0, 54, "dnode: unknown object type"),
            (1, 18, "dnode: indirect block size out of range"),
            (2, 13, "dnode: number of levels out of range"),
            (3, 4, "dnode: number of block pointers out of range"),
            (3, 0, "dnode: number of block pointers out of range"),
            (23, 128, "dnode: last block beyond all offsets"),
            (11, 4, "dnode: bonus reaches past the dnode"),
            (12, 40, "dnode: extra slots reach past the block"),
        ];
        for (at, byte, rule) in cases {
            let mut block = vec![0; DNODE_BLOCK_SIZE];
            sample().emit(&mut block[..1024]);
            block[at] = byte;
            assert_eq!(DnodePhys::parse(&block.into(), 0, None), Err(Error::corrupt(rule, None)), "{rule}");
        }
    }

    #[test]
    fn levels_grow_by_a_thousand() {
        let dnode = DnodePhys { nblkptr: 3, ..sample() };
        assert_eq!([0, 2, 3, 3 * 1024 - 1, 3 * 1024].map(|id| dnode.levels_for(id)), [1, 1, 2, 2, 3]);
    }
}
