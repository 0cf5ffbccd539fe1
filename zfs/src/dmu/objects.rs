//! Which object numbers are in use. Source: `dmu_object_alloc_impl` (`dmu_object.c`).
//!
//! Numbers go upwards from a frontier; numbers that were freed since the objset was opened are used again first.
//! A freed number is not free before its free is on disk.

use crate::dmu::Dnode;
use crate::dmu::tree::Tree;
use crate::error::{Error, Result};
use crate::ondisk::dnode::{DNODE_SIZE, DNODES_PER_BLOCK, MAX_OBJECT};
use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, BTreeSet};
use bytes::Bytes;

/// Blocks of dnodes below one level-1 block of the meta-dnode.
const SPAN: u64 = 1024;
/// A span with more dnodes than this is not searched for holes (a quarter full, as OpenZFS has it).
const SPARSE_FILL: u64 = SPAN * DNODES_PER_BLOCK / 4;

/// The slots of one block of dnodes, a bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BlockMap {
    /// Slots in use.
    pub(crate) used: u32,
    /// Slots where a dnode starts.
    pub(crate) heads: u32,
    /// Of the heads, those that were freed in a txg that is not yet on disk.
    pub(crate) freeing: u32,
}

impl BlockMap {
    /// What a block on disk says.
    pub(crate) fn of(block: &Bytes) -> Self {
        let mut map = BlockMap::default();
        let mut slot = 0;
        while slot < DNODES_PER_BLOCK as usize {
            let core = &block[slot * DNODE_SIZE..][..DNODE_SIZE];
            let slots = if core[0] == 0 { 1 } else { usize::from(core[12]) + 1 };
            if core[0] != 0 {
                map.heads |= 1 << slot;
                map.used |= mask(slot, slots);
            }
            slot += slots;
        }
        map
    }

    /// The first run of `slots` free slots.
    fn find(&self, slots: usize, from: usize) -> Option<usize> {
        (from..=DNODES_PER_BLOCK as usize - slots).find(|&slot| self.used & mask(slot, slots) == 0)
    }
}

/// Bits `slot..slot + slots`, cut off at the end of the block.
pub(crate) fn mask(slot: usize, slots: usize) -> u32 {
    let bits = (1u64 << slots.min(32)) - 1;
    ((bits << slot) & u64::from(u32::MAX)) as u32
}

/// The allocator of one objset's object numbers.
#[derive(Default)]
pub(crate) struct AllocState {
    /// Maps of all blocks that were looked at for changing them.
    maps: BTreeMap<u64, BlockMap>,
    /// Blocks in which numbers became free.
    freed: BTreeSet<u64>,
    /// The block that numbers are taken from.
    current: Option<u64>,
    /// The block up to which everything was looked at.
    frontier: u64,
}

impl AllocState {
    pub(crate) fn map(&mut self, meta: &Dnode, block: u64) -> Result<&mut BlockMap> {
        match self.maps.entry(block) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(BlockMap::of(&meta.read_block(block)?))),
        }
    }

    /// The map if it is known, without reading.
    pub(crate) fn known(&self, block: u64) -> Option<BlockMap> {
        self.maps.get(&block).copied()
    }

    /// The first block from `block` on whose map is known and has an object in it.
    pub(crate) fn next_known(&self, block: u64) -> Option<u64> {
        self.maps.range(block..).find(|(_, map)| map.heads & !map.freeing != 0).map(|(&b, _)| b)
    }

    /// Takes a number for a dnode of `slots` slots.
    pub(crate) fn take(&mut self, meta: &Dnode, slots: u8) -> Result<u64> {
        let slots = usize::from(slots);
        let mut block = match self.current {
            Some(block) => block,
            None => {
                self.frontier = first_sparse_span(meta)?;
                self.frontier
            }
        };
        loop {
            if block >= MAX_OBJECT / DNODES_PER_BLOCK {
                return Err(Error::NoSpace);
            }
            // Number 0 is the meta-dnode's own.
            let from = usize::from(block == 0);
            let map = self.map(meta, block)?;
            if let Some(slot) = map.find(slots, from) {
                map.heads |= 1 << slot;
                map.used |= mask(slot, slots);
                self.current = Some(block);
                return Ok(block * DNODES_PER_BLOCK + slot as u64);
            }
            block = match self.freed.pop_first() {
                Some(block) => block,
                None => {
                    self.frontier = next_block(meta, self.frontier)?;
                    self.frontier
                }
            };
        }
    }

    /// Takes this number. [`Error::Exists`] if one of its slots is in use, [`Error::Busy`] if it is being freed.
    pub(crate) fn claim(&mut self, meta: &Dnode, object: u64, slots: u8) -> Result<()> {
        let (block, slot) = (object / DNODES_PER_BLOCK, (object % DNODES_PER_BLOCK) as usize);
        let slots = usize::from(slots);
        if object == 0 || object >= MAX_OBJECT || slot + slots > DNODES_PER_BLOCK as usize {
            return Err(Error::Invalid("no dnode of that size can have that object number"));
        }
        let map = self.map(meta, block)?;
        if map.used & mask(slot, slots) != 0 {
            return Err(if map.freeing & 1 << slot != 0 { Error::Busy } else { Error::Exists });
        }
        map.heads |= 1 << slot;
        map.used |= mask(slot, slots);
        Ok(())
    }

    /// The object is freed by a txg that is not on disk yet.
    pub(crate) fn freeing(&mut self, meta: &Dnode, object: u64) -> Result<()> {
        self.map(meta, object / DNODES_PER_BLOCK)?.freeing |= 1 << (object % DNODES_PER_BLOCK);
        Ok(())
    }

    /// The object's free is on disk: its number can be used again.
    pub(crate) fn release(&mut self, object: u64, slots: u8) {
        let (block, slot) = (object / DNODES_PER_BLOCK, (object % DNODES_PER_BLOCK) as usize);
        if let Some(map) = self.maps.get_mut(&block) {
            map.used &= !mask(slot, usize::from(slots));
            map.heads &= !(1 << slot);
            map.freeing &= !(1 << slot);
        }
        self.freed.insert(block);
    }
}

/// Where to begin: the first span of dnode blocks that is at most a quarter full.
fn first_sparse_span(meta: &Dnode) -> Result<u64> {
    let (tree, maxblkid) = {
        let state = meta.state.lock();
        (meta.tree(&state), state.phys.maxblkid)
    };
    let mut block = 0;
    while block <= maxblkid && is_full_span(meta, &tree, block)? {
        block += SPAN;
    }
    Ok(block)
}

fn is_full_span(meta: &Dnode, tree: &Tree, block: u64) -> Result<bool> {
    if tree.nlevels < 2 || tree.epb_shift != SPAN.trailing_zeros() {
        return Ok(false);
    }
    Ok(tree.lookup(&meta.core.zio, 1, block / SPAN)?.fill() > SPARSE_FILL)
}

/// The block to look at after `block`: spans that are well filled are left out.
fn next_block(meta: &Dnode, block: u64) -> Result<u64> {
    let mut next = block + 1;
    let (tree, maxblkid) = {
        let state = meta.state.lock();
        (meta.tree(&state), state.phys.maxblkid)
    };
    while next.is_multiple_of(SPAN) && next <= maxblkid && is_full_span(meta, &tree, next)? {
        next += SPAN;
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_stay_in_the_block() {
        assert_eq!((mask(0, 1), mask(31, 1), mask(0, 32), mask(30, 4)), (1, 1 << 31, u32::MAX, 3 << 30));
    }

    #[test]
    fn large_dnodes_need_a_run_of_slots() {
        let map = BlockMap { used: 0b1011, heads: 0b1011, freeing: 0 };
        assert_eq!(
            (map.find(1, 1), map.find(2, 1), map.find(28, 0), map.find(29, 0)),
            (Some(2), Some(4), Some(4), None)
        );
    }
}
