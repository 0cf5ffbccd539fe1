//! One dnode on its way to the disk: its tree is changed here, block pointer by block pointer.
//! Source: `dnode_sync`, `dnode_sync_free_range`, `dnode_increase_indirection` (`dnode_sync.c`).

use crate::dmu::dirty::Slot;
use crate::dmu::sync::{Place, Sync, rewritten};
use crate::dmu::tree::Tree;
use crate::dmu::tx::slot_of;
use crate::dmu::{Accounting, Dnode};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use crate::ondisk::dnode::{DnodePhys, FLAG_USED_BYTES, MAX_OBJECT};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

/// Indirect blocks that are read together when a tree is freed.
const FREE_BATCH: usize = 16;

/// A dirty dnode, the blocks to write, and the indirect blocks that change.
pub(crate) struct SyncNode {
    pub(crate) dnode: Arc<Dnode>,
    /// The dnode as it will be on disk.
    pub(crate) phys: DnodePhys,
    /// Data blocks to write, ids ascending.
    pub(crate) blocks: Vec<(u64, Bytes)>,
    /// Where those of them are that were written before.
    pub(crate) placed: BTreeMap<u64, Blkptr>,
    /// Blocks that come to be where others are, ids ascending: none of `blocks`.
    pub(crate) cloned: Vec<(u64, Blkptr)>,
    /// The spill block to write.
    pub(crate) spill: Option<Bytes>,
    /// The object is freed: its slots become zeros.
    pub(crate) free: bool,
    /// Indirect blocks with changes, by level and id.
    indirects: BTreeMap<(u8, u64), Vec<u8>>,
}

/// What a txg changed, taken out of the dnode's lock.
#[derive(Default)]
struct Changes {
    blocks: Vec<(u64, Bytes)>,
    placed: BTreeMap<u64, Blkptr>,
    cloned: Vec<(u64, Blkptr)>,
    unused: Vec<Blkptr>,
    freed: Vec<(u64, u64)>,
    spill: Option<Option<Bytes>>,
    maxblkid: Option<u64>,
    allocated: bool,
    free: bool,
}

impl Changes {
    /// The blocks stay in the slot, where readers find them until their pointers are installed.
    fn take(slot: &mut Slot, phys: &mut DnodePhys) -> Self {
        if let Some((bonus_type, bonus)) = slot.bonus.take() {
            (phys.bonus_type, phys.bonus) = (bonus_type, bonus);
        }
        if let Some(block_size) = slot.block_size {
            phys.datablkszsec = (block_size / 512) as u16;
        }
        if let Some(object_type) = slot.object_type {
            phys.object_type = object_type;
        }
        if let Some((checksum, compress)) = slot.policy {
            (phys.checksum, phys.compress) = (checksum, compress);
        }
        let (placed, unused) = core::mem::take(&mut slot.placed).settle(&slot.blocks);
        Changes {
            placed,
            unused,
            cloned: slot.cloned.iter().map(|(&id, bp)| (id, *bp)).collect(),
            blocks: slot.blocks.iter_mut().map(|(&id, buf)| (id, buf.share())).collect(),
            freed: slot.freed.iter().collect(),
            spill: slot.spill.clone(),
            maxblkid: slot.maxblkid,
            allocated: slot.allocated,
            free: slot.free,
        }
    }
}

impl SyncNode {
    /// Takes the changes of the syncing txg, frees what was freed, and reads the indirect blocks that will change.
    pub(crate) fn prepare(sync: &Sync<'_>, dnode: Arc<Dnode>) -> Result<Self> {
        let (phys, changes) = {
            let mut state = dnode.state.lock();
            let mut phys = state.phys.clone();
            let changes = match &mut state.slots[slot_of(sync.ctx.txg)] {
                Some(slot) if slot.txg == sync.ctx.txg => Changes::take(slot, &mut phys),
                _ => Changes::default(),
            };
            (phys, changes)
        };
        let mut node = SyncNode {
            dnode,
            phys,
            blocks: changes.blocks,
            placed: changes.placed,
            cloned: changes.cloned,
            spill: None,
            free: changes.free,
            indirects: BTreeMap::new(),
        };
        changes.unused.iter().for_each(|bp| sync.ctx.owner.unused(bp));
        if node.free {
            if !changes.allocated {
                node.free_all(sync)?;
            }
            node.blocks.clear();
            core::mem::take(&mut node.placed).values().for_each(|bp| sync.ctx.owner.unused(bp));
            return Ok(node);
        }
        let to_bytes = node.phys.used_bytes();
        node.phys.used = to_bytes;
        node.phys.flags |= FLAG_USED_BYTES;
        if node.dnode.object() != 0 && node.dnode.object() < MAX_OBJECT {
            node.phys.flags |= sync.accounting.map_or(0, Accounting::dnode_flags);
        }
        for (start, end) in changes.freed {
            node.free_range(sync, start, end)?;
        }
        if let Some(maxblkid) = changes.maxblkid {
            node.phys.maxblkid = maxblkid;
        }
        match changes.spill {
            Some(Some(data)) => node.spill = Some(data),
            Some(None) => {
                if let Some(bp) = node.phys.spill.take() {
                    node.kill(sync, &bp);
                }
            }
            None => {}
        }
        let last = node.blocks.last().map_or(0, |b| b.0).max(node.cloned.last().map_or(0, |b| b.0));
        node.phys.maxblkid = node.phys.maxblkid.max(last);
        node.grow(sync)?;
        node.load_for_blocks(sync)?;
        Ok(node)
    }

    fn tree(&self) -> Tree {
        Tree::new(self.dnode.core.id, self.dnode.object(), &self.phys)
    }

    /// The block pointer at a place; indirect blocks above it are loaded, or unchanged and then it is a hole or the
    /// caller has no business here.
    pub(crate) fn get(&self, level: u8, blkid: u64) -> Blkptr {
        if level + 1 == self.phys.nlevels {
            return self.phys.blkptrs.get(blkid as usize).copied().unwrap_or(Blkptr::HOLE);
        }
        let shift = self.phys.epb_shift();
        let parent = self.indirects.get(&(level + 1, blkid >> shift));
        let i = (blkid & ((1 << shift) - 1)) as usize;
        parent.and_then(|block| Blkptr::nth(block, i)).unwrap_or(Blkptr::HOLE)
    }

    fn set(&mut self, level: u8, blkid: u64, bp: Blkptr) {
        if level + 1 == self.phys.nlevels {
            self.phys.blkptrs[blkid as usize] = bp;
            return;
        }
        let shift = self.phys.epb_shift();
        let parent = self.indirects.get_mut(&(level + 1, blkid >> shift)).expect("the parent was loaded");
        let at = (blkid & ((1 << shift) - 1)) as usize * BLKPTR_SIZE;
        parent[at..at + BLKPTR_SIZE].copy_from_slice(&bp.to_bytes());
    }

    /// The changed indirect blocks of a level, to be written.
    pub(crate) fn take_indirects(&mut self, level: u8) -> Vec<(u64, Vec<u8>)> {
        if self.indirects.is_empty() {
            return Vec::new();
        }
        let mut above = self.indirects.split_off(&(level, 0));
        let rest = above.split_off(&(level + 1, 0));
        self.indirects.extend(rest);
        above.into_iter().map(|((_, blkid), block)| (blkid, block)).collect()
    }

    /// A hole in place of a block that was there; it keeps the txg, so that incremental streams learn of it.
    pub(crate) fn hole(&self, sync: &Sync<'_>, level: u8) -> Blkptr {
        let mut bp = Blkptr::HOLE;
        if sync.settings.hole_birth {
            bp.set_sizes(self.phys.block_size_at(level) as u64, 512);
            bp.set_object_type(self.phys.object_type.0);
            bp.set_level(level);
            bp.set_birth(sync.ctx.txg);
        }
        bp
    }

    /// Puts a new block pointer into its place, and settles the accounts of the old and the new one.
    pub(crate) fn install(
        &mut self,
        sync: &Sync<'_>,
        place: Place,
        new: Blkptr,
        rewrite: Option<Blkptr>,
    ) -> Result<()> {
        let old = match place {
            Place::Block { level, blkid } => self.get(level, blkid),
            Place::Spill => self.phys.spill.unwrap_or(Blkptr::HOLE),
        };
        if !rewritten(rewrite, &new) {
            self.kill(sync, &old);
            if !new.is_hole() {
                sync.ctx.owner.born(&new);
                self.phys.used = self.phys.used.saturating_add(sync.objset.core.zio.dsize(&new));
            }
        }
        match place {
            Place::Block { level, blkid } => {
                // Where there never was a block, a hole has no birth either.
                let unborn = new.is_hole() && (old.birth() == 0 || !sync.settings.hole_birth);
                self.set(level, blkid, if unborn { Blkptr::HOLE } else { new });
            }
            Place::Spill => self.phys.spill = Some(new),
        }
        Ok(())
    }

    fn kill(&mut self, sync: &Sync<'_>, bp: &Blkptr) {
        if !bp.is_hole() {
            sync.ctx.owner.killed(bp);
            self.phys.used = self.phys.used.saturating_sub(sync.objset.core.zio.dsize(bp));
        }
    }

    /// Adds levels until the tree reaches `maxblkid`.
    fn grow(&mut self, sync: &Sync<'_>) -> Result<()> {
        let needed = self.phys.levels_for(self.phys.maxblkid);
        while self.phys.nlevels < needed {
            let top = self.phys.nlevels;
            if self.phys.blkptrs.iter().any(|bp| *bp != Blkptr::HOLE) {
                let mut block = vec![0; self.phys.block_size_at(top)];
                for (i, bp) in self.phys.blkptrs.iter().enumerate() {
                    block[i * BLKPTR_SIZE..][..BLKPTR_SIZE].copy_from_slice(&bp.to_bytes());
                }
                self.indirects.insert((top, 0), block);
                self.phys.blkptrs = [Blkptr::HOLE; 3];
            }
            self.phys.nlevels += 1;
        }
        // Everything above a changed indirect block changes.
        let lowest: Vec<(u8, u64)> = self.indirects.keys().copied().collect();
        for (level, blkid) in lowest {
            self.load_path(sync, level + 1, blkid >> self.phys.epb_shift())?;
        }
        Ok(())
    }

    /// Loads an indirect block and those above it.
    fn load_path(&mut self, sync: &Sync<'_>, level: u8, blkid: u64) -> Result<()> {
        if level >= self.phys.nlevels || self.indirects.contains_key(&(level, blkid)) {
            return Ok(());
        }
        self.load_path(sync, level + 1, blkid >> self.phys.epb_shift())?;
        let bp = self.get(level, blkid);
        let block = self.read_or_zeros(sync, &bp, level, blkid)?;
        self.indirects.insert((level, blkid), block);
        Ok(())
    }

    fn read_or_zeros(&self, sync: &Sync<'_>, bp: &Blkptr, level: u8, blkid: u64) -> Result<Vec<u8>> {
        if bp.is_hole() {
            return Ok(self.holes_below(bp, level));
        }
        Ok(self.tree().read_indirect(&sync.objset.core.zio, bp, level, blkid)?.to_vec())
    }

    /// An indirect block in place of a hole. The holes in it were born when that hole was, or an incremental stream
    /// would not learn of them (`dbuf_handle_indirect_hole`).
    fn holes_below(&self, hole: &Blkptr, level: u8) -> Vec<u8> {
        let mut block = vec![0; self.phys.block_size_at(level)];
        if hole.birth() != 0 {
            let mut child = Blkptr::HOLE;
            child.set_sizes(self.phys.block_size_at(level - 1) as u64, 512);
            child.set_object_type(self.phys.object_type.0);
            child.set_level(level - 1);
            child.set_birth(hole.birth());
            for place in block.as_chunks_mut::<BLKPTR_SIZE>().0 {
                *place = child.to_bytes();
            }
        }
        block
    }

    /// Loads all indirect blocks above the blocks to write or to clone, level by level from the top, each level's reads together.
    fn load_for_blocks(&mut self, sync: &Sync<'_>) -> Result<()> {
        let shift = self.phys.epb_shift();
        let mut changed: Vec<u64> = self.blocks.iter().map(|b| b.0).collect();
        if !self.cloned.is_empty() {
            changed.extend(self.cloned.iter().map(|b| b.0));
            changed.sort_unstable();
        }
        for level in (1..self.phys.nlevels).rev() {
            let mut ids: Vec<u64> = changed
                .iter()
                .map(|id| id.checked_shr(shift * u32::from(level)).unwrap_or(0))
                .filter(|&id| !self.indirects.contains_key(&(level, id)))
                .collect();
            ids.dedup();
            let wants: Vec<_> = ids
                .iter()
                .map(|&id| (self.get(level, id), self.dnode.bookmark(i64::from(level), id)))
                .filter(|(bp, _)| !bp.is_hole())
                .collect();
            let mut read = if wants.is_empty() { Vec::new() } else { sync.objset.core.zio.read_many(&wants) }
                .into_iter();
            for id in ids {
                let bp = self.get(level, id);
                let block = if bp.is_hole() {
                    self.holes_below(&bp, level)
                } else {
                    let block =
                        read.next().unwrap_or(Err(Error::corrupt("a read without an answer", None)))?;
                    self.tree().checked(block, level, id)?.to_vec()
                };
                self.indirects.insert((level, id), block);
            }
        }
        Ok(())
    }

    /// Frees every block of the object.
    fn free_all(&mut self, sync: &Sync<'_>) -> Result<()> {
        let top = self.phys.nlevels - 1;
        for i in 0..u64::from(self.phys.nblkptr) {
            let bp = self.phys.blkptrs[i as usize];
            self.kill_tree(sync, &bp, top, i)?;
        }
        if let Some(bp) = self.phys.spill.take() {
            self.kill(sync, &bp);
        }
        Ok(())
    }

    /// Frees data blocks `start..end`.
    fn free_range(&mut self, sync: &Sync<'_>, start: u64, end: u64) -> Result<()> {
        if start > self.phys.maxblkid {
            return Ok(());
        }
        // A range that reaches the end takes whole subtrees with it.
        let end = if end > self.phys.maxblkid { u64::MAX } else { end };
        let top = self.phys.nlevels - 1;
        for i in 0..u64::from(self.phys.nblkptr) {
            self.free_below(sync, top, i, start, end)?;
        }
        Ok(())
    }

    fn free_below(&mut self, sync: &Sync<'_>, level: u8, blkid: u64, start: u64, end: u64) -> Result<()> {
        let shift = self.phys.epb_shift() * u32::from(level);
        let base = blkid.checked_shl(shift).unwrap_or(u64::MAX);
        let behind = base.saturating_add(1u64.checked_shl(shift).unwrap_or(u64::MAX));
        let bp = self.get(level, blkid);
        if end <= base || behind <= start || bp.is_hole() {
            return Ok(());
        }
        if start <= base && behind <= end {
            self.kill_tree(sync, &bp, level, blkid)?;
            self.set(level, blkid, self.hole(sync, level));
            return Ok(());
        }
        self.load_path(sync, level, blkid)?;
        let child_shift = self.phys.epb_shift() * u32::from(level - 1);
        let first = blkid << self.phys.epb_shift();
        let last = first + (1 << self.phys.epb_shift()) - 1;
        let from = start.checked_shr(child_shift).unwrap_or(0).max(first);
        let to = (end - 1).checked_shr(child_shift).unwrap_or(0).min(last);
        for child in from..=to {
            self.free_below(sync, level - 1, child, start, end)?;
        }
        Ok(())
    }

    /// Kills a block and everything below it.
    fn kill_tree(&mut self, sync: &Sync<'_>, bp: &Blkptr, level: u8, blkid: u64) -> Result<()> {
        if bp.is_hole() {
            return Ok(());
        }
        if level > 0 {
            let block = self.tree().read_indirect(&sync.objset.core.zio, bp, level, blkid)?;
            self.kill_children(sync, &block, level, blkid)?;
        }
        self.kill(sync, bp);
        Ok(())
    }

    fn kill_children(&mut self, sync: &Sync<'_>, block: &Bytes, level: u8, blkid: u64) -> Result<()> {
        let first = blkid << self.phys.epb_shift();
        let children: Vec<(u64, Blkptr)> =
            Blkptr::present(block).map(|(i, bp)| (first + i as u64, bp)).collect();
        for part in children.chunks(FREE_BATCH) {
            if level == 1 {
                part.iter().for_each(|(_, bp)| self.kill(sync, bp));
                continue;
            }
            let at = |id: u64| self.dnode.bookmark(i64::from(level - 1), id);
            let wants: Vec<_> = part.iter().map(|(id, bp)| (*bp, at(*id))).collect();
            for ((id, bp), below) in part.iter().zip(sync.objset.core.zio.read_many(&wants)) {
                let below = self.tree().checked(below?, level - 1, *id)?;
                self.kill_children(sync, &below, level - 1, *id)?;
                self.kill(sync, bp);
            }
        }
        Ok(())
    }
}
