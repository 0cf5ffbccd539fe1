//! Blocks that are lost, and intent-log blocks that some sides lack.

use super::{Verified, Zio};
use crate::error::Result;
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use alloc::collections::BTreeSet;

/// A block that no copy gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lost {
    /// Where it is.
    pub(crate) at: Bookmark,
    /// The txg in which it came to be there, by which it can be told from what takes its place.
    pub(crate) birth: u64,
}

impl Lost {
    pub(crate) fn new(bp: &Blkptr, at: Bookmark) -> Self {
        Lost { at, birth: bp.birth() }
    }
}

/// Lost blocks that are remembered at once; a pool that has lost more has a longer list anyway.
const LOST_MAX: usize = 10_000;

impl Zio {
    /// [`Zio::repair`] of an intent-log block, whose checksum stands in it. The end of a log is bad everywhere: that is an error,
    /// and nobody's fault.
    pub fn repair_zil(&self, bp: &Blkptr, at: Bookmark) -> Result<Verified> {
        let mut examined = self.examine_zil(bp, at)?;
        if examined.data.is_none() {
            return Err(super::examine::lost(examined.failure, at));
        }
        self.settle(&mut examined);
        Ok(examined.verified)
    }

    /// A block that no copy gave, to be listed in the pool's error log.
    pub(super) fn note_lost(&self, bp: &Blkptr, at: Bookmark) {
        // Blocks known by their pointer alone have no place that could be named; the end of an intent log is no damage.
        if at == Bookmark::default() || at.level == Bookmark::LEVEL_ZIL {
            return;
        }
        let mut lost = self.lost.lock();
        if lost.len() < LOST_MAX {
            lost.insert(Lost::new(bp, at));
        }
    }

    /// The blocks that reads found lost since the last call.
    pub(crate) fn take_lost(&self) -> BTreeSet<Lost> {
        core::mem::take(&mut *self.lost.lock())
    }
}
