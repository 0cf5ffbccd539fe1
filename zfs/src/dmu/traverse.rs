//! Visits every block of an objset. Source: `dmu_traverse.c`.

use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dnode::DnodePhys;
use crate::zio::Zio;
use alloc::sync::Arc;

/// What a visitor wants done with what lies below a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// Go on into it.
    Continue,
    /// Leave out what is below this block.
    Skip,
    /// Stop the traversal; it answers `Ok`.
    Stop,
}

/// Hears of everything in pre-order.
pub trait Traverse {
    /// A block pointer that is not a hole (holes born after `min_txg` too, if [`Traverse::want_holes`]).
    /// The bookmark's level says what it is; a spill block has blkid `u64::MAX`.
    fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> Result<Visit>;
    /// A dnode, before its blocks; object 0 is the meta-dnode.
    fn dnode(&mut self, object: u64, dnode: &DnodePhys) -> Result<Visit> {
        let _ = (object, dnode);
        Ok(Visit::Continue)
    }
    /// Whether [`Traverse::block`] wants to hear of holes.
    fn want_holes(&self) -> bool {
        false
    }
    /// A metadata block could not be read or parsed: an `Ok` answer goes on beside it.
    fn unreadable(&mut self, at: &Bookmark, error: Error) -> Result<()> {
        let _ = at;
        Err(error)
    }
}

/// Visits what the objset below `root` refers to and was born after `min_txg` (0: everything). Only metadata is read.
pub fn traverse(
    zio: &Arc<Zio>,
    objset: u64,
    root: &Blkptr,
    min_txg: u64,
    visitor: &mut dyn Traverse,
) -> Result<()> {
    let _ = (zio, objset, root, min_txg, visitor);
    todo!()
}
