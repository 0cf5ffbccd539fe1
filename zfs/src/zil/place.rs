//! The data of a logged write, in the blocks of its object.

use super::log::InPlace;
use crate::dmu::{Dnode, Tx};
use crate::error::Result;
use crate::zio::AllocateBlocks;
use alloc::vec::Vec;
use core::ops::Range;

/// Writes the blocks that hold bytes `range` (not empty) of an object to their final places, as `tx`'s txg has them, and tells which of
/// them holds what. `None` if that txg did not change all of them.
pub fn place_range(
    dnode: &Dnode,
    tx: &Tx,
    alloc: &dyn AllocateBlocks,
    range: Range<u64>,
) -> Result<Option<Vec<InPlace>>> {
    let size = u64::from(dnode.block_size());
    let ids = range.start / size..=(range.end - 1) / size;
    let Some(bps) = dnode.place_blocks(tx, alloc, ids.clone())? else { return Ok(None) };
    let part = |(id, bp)| {
        let start = range.start.max(id * size);
        InPlace { offset: start, len: range.end.min((id + 1) * size) - start, bp }
    };
    Ok(Some(ids.zip(bps).map(part).collect()))
}
