//! The address of a block in the pool's tree. Source: `zbookmark_phys_t` (`include/sys/zio.h`).

use core::fmt;

/// Objset, object, level and block id: `<objset>:<object>:<level>:<blkid>` in zdb's wording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bookmark {
    /// The dataset's object number in the MOS; 0 is the MOS itself.
    pub objset: u64,
    /// The object in that objset; 0 is its meta-dnode.
    pub object: u64,
    /// 0 for data, above for indirect blocks, [`Bookmark::LEVEL_OBJSET`] for the objset's root, …
    pub level: i64,
    /// Index of the block at its level.
    pub blkid: u64,
}

impl Bookmark {
    /// Level of the root block of an objset (`ZB_ROOT_LEVEL`).
    pub const LEVEL_OBJSET: i64 = -1;
    /// Level of an intent-log block (`ZB_ZIL_LEVEL`).
    pub const LEVEL_ZIL: i64 = -2;

    /// The address of an objset's root block.
    #[must_use]
    pub fn objset_root(objset: u64) -> Self {
        Bookmark { objset, object: 0, level: Self::LEVEL_OBJSET, blkid: 0 }
    }
}

impl fmt::Display for Bookmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}:{}:{}:{}>", self.objset, self.object, self.level, self.blkid)
    }
}
