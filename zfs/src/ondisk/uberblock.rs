//! The uberblock: the root of a pool, one per synced txg. Source: `uberblock_t` (`include/sys/uberblock_impl.h`).
//!
//! ```text
//!   0 magic  8 version  16 txg  24 guid_sum  32 timestamp  40 rootbp (128 B)  168 software_version
//! 176 mmp_magic  184 mmp_delay  192 mmp_config  200 checkpoint_txg  208 raidz_reflow_info
//! ```
//! It lies in a slot of the ring of a label, whose last 40 bytes are an embedded checksum (see [`super::eck`]).

use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use crate::ondisk::read_u64;
use alloc::vec;
use alloc::vec::Vec;

/// `UBERBLOCK_MAGIC` ("oo-ba-bloc").
pub const UBERBLOCK_MAGIC: u64 = 0x00ba_b10c;
/// `MMP_MAGIC`.
pub const MMP_MAGIC: u64 = 0xa11c_ea11;
/// Bytes of the structure itself, without the slot's padding and checksum.
pub const UBERBLOCK_SIZE: usize = 216;
/// Smallest slot of the ring, in bytes (`1 << UBERBLOCK_SHIFT`).
pub const UBERBLOCK_SLOT_MIN: usize = 1 << 10;
/// Largest slot of the ring, in bytes (`1 << MAX_UBERBLOCK_SHIFT`).
pub const UBERBLOCK_SLOT_MAX: usize = 8 << 10;

const MMP_SEQ_VALID: u64 = 0x02;

/// The root of a pool as of one txg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uberblock {
    /// SPA version: 5000 with feature flags.
    pub version: u64,
    /// The txg that it completes.
    pub txg: u64,
    /// Sum of the guids of all vdevs.
    pub guid_sum: u64,
    /// When it was written, in seconds since 1970.
    pub timestamp: u64,
    /// The MOS's `objset_phys_t`.
    pub rootbp: Blkptr,
    /// Highest SPA version that the writing software knew.
    pub software_version: u64,
    /// [`MMP_MAGIC`], or 0 of software older than multihost protection.
    pub mmp_magic: u64,
    /// Nanoseconds since the last multihost write; 0 when multihost is off.
    pub mmp_delay: u64,
    /// Multihost interval, sequence number and fail intervals with their valid bits.
    pub mmp_config: u64,
    /// The txg of the checkpoint, if this is a checkpointed uberblock.
    pub checkpoint_txg: u64,
    /// State of a raidz expansion.
    pub raidz_reflow_info: u64,
}

impl Uberblock {
    /// Reads the structure at the start of `slot`. Its embedded checksum is the caller's affair.
    pub fn parse(slot: &[u8]) -> Result<Self> {
        if slot.len() < UBERBLOCK_SIZE {
            return Err(Error::corrupt("uberblock: slot too short", None));
        }
        let word = |offset| read_u64(slot, offset);
        if word(0) == UBERBLOCK_MAGIC.swap_bytes() {
            return Err(Error::unsupported("pool of a big-endian machine"));
        }
        if word(0) != UBERBLOCK_MAGIC {
            return Err(Error::corrupt("uberblock: bad magic", None));
        }
        let rootbp = Blkptr::nth(&slot[40..40 + BLKPTR_SIZE], 0).unwrap_or_default();
        Ok(Uberblock {
            version: word(8),
            txg: word(16),
            guid_sum: word(24),
            timestamp: word(32),
            rootbp,
            software_version: word(168),
            mmp_magic: word(176),
            mmp_delay: word(184),
            mmp_config: word(192),
            checkpoint_txg: word(200),
            raidz_reflow_info: word(208),
        })
    }

    /// The bytes on disk, [`UBERBLOCK_SIZE`] of them.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut out = vec![0; UBERBLOCK_SIZE];
        let mut put = |offset: usize, v: u64| out[offset..offset + 8].copy_from_slice(&v.to_le_bytes());
        put(0, UBERBLOCK_MAGIC);
        put(8, self.version);
        put(16, self.txg);
        put(24, self.guid_sum);
        put(32, self.timestamp);
        put(168, self.software_version);
        put(176, self.mmp_magic);
        put(184, self.mmp_delay);
        put(192, self.mmp_config);
        put(200, self.checkpoint_txg);
        put(208, self.raidz_reflow_info);
        out[40..40 + BLKPTR_SIZE].copy_from_slice(&self.rootbp.to_bytes());
        out
    }

    /// The multihost sequence number, 0 if there is none.
    #[must_use]
    pub fn mmp_sequence(&self) -> u64 {
        if self.mmp_magic == MMP_MAGIC && self.mmp_config & MMP_SEQ_VALID != 0 {
            self.mmp_config >> 32 & 0xffff
        } else {
            0
        }
    }

    /// The order in which uberblocks are preferred (`vdev_uberblock_compare`): the greatest is the pool's.
    #[must_use]
    pub fn rank(&self) -> (u64, u64, u64) {
        (self.txg, self.timestamp, self.mmp_sequence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Uberblock {
        let mut rootbp = Blkptr::HOLE;
        rootbp.set_sizes(4096, 512);
        Uberblock {
            version: 5000,
            txg: 7,
            guid_sum: u64::MAX,
            timestamp: 1_700_000_000,
            rootbp,
            software_version: 5000,
            mmp_magic: MMP_MAGIC,
            mmp_delay: 0,
            mmp_config: 3 << 32 | MMP_SEQ_VALID,
            checkpoint_txg: 1,
            raidz_reflow_info: 2,
        }
    }

    #[test]
    fn it_comes_back() {
        assert_eq!(Uberblock::parse(&sample().emit()), Ok(sample()));
    }

    #[test]
    fn the_mmp_sequence_breaks_a_tie() {
        let older = Uberblock { mmp_config: 2 << 32 | MMP_SEQ_VALID, ..sample() };
        assert!(sample().rank() > older.rank());
        assert_eq!(Uberblock { mmp_config: 3 << 32, ..sample() }.mmp_sequence(), 0);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert_eq!(Uberblock::parse(&[0; 216]), Err(Error::corrupt("uberblock: bad magic", None)));
        assert_eq!(Uberblock::parse(&[0; 215]), Err(Error::corrupt("uberblock: slot too short", None)));
        let mut swapped = sample().emit();
        swapped[..8].reverse();
        assert_eq!(Uberblock::parse(&swapped), Err(Error::unsupported("pool of a big-endian machine")));
    }
}
