//! The block tree of an object, as it was on disk at one moment: from block ids to block pointers.
//! Source: `dbuf_findbp`, `dnode_next_offset` (`dbuf.c`, `dnode.c`).

use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dnode::{DnodePhys, MAX_NBLKPTR};
use crate::zio::Zio;
use alloc::vec::Vec;
use bytes::Bytes;

/// The root of a block tree. Blocks are never changed in place, so it stays readable until its blocks are reused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) objset: u64,
    pub(crate) object: u64,
    pub(crate) nlevels: u8,
    pub(crate) nblkptr: u8,
    pub(crate) epb_shift: u32,
    pub(crate) blkptrs: [Blkptr; MAX_NBLKPTR],
}

impl Tree {
    pub(crate) fn new(objset: u64, object: u64, phys: &DnodePhys) -> Self {
        Tree {
            objset,
            object,
            nlevels: phys.nlevels,
            nblkptr: phys.nblkptr,
            epb_shift: phys.epb_shift(),
            blkptrs: phys.blkptrs,
        }
    }

    pub(crate) fn bookmark(&self, level: u8, blkid: u64) -> Bookmark {
        Bookmark { objset: self.objset, object: self.object, level: i64::from(level), blkid }
    }

    /// The id at `level` of the block above (or at) data block `blkid`; 0 where the shift leaves nothing.
    fn at_level(&self, blkid: u64, levels: u8) -> u64 {
        blkid.checked_shr(self.epb_shift * u32::from(levels)).unwrap_or(0)
    }

    fn indirect_size(&self) -> usize {
        BLKPTR_SIZE << self.epb_shift
    }

    /// Reads an indirect block; its size is checked.
    pub(crate) fn read_indirect(&self, zio: &Zio, bp: &Blkptr, level: u8, blkid: u64) -> Result<Bytes> {
        self.checked(zio.read(bp, self.bookmark(level, blkid))?, level, blkid)
    }

    pub(crate) fn checked(&self, block: Bytes, level: u8, blkid: u64) -> Result<Bytes> {
        if block.len() == self.indirect_size() {
            Ok(block)
        } else {
            Err(Error::corrupt(
                "indirect block of another size than its dnode says",
                self.bookmark(level, blkid),
            ))
        }
    }

    /// The `i`-th block pointer of an indirect block, verified.
    fn child(&self, block: &Bytes, i: usize, level: u8, blkid: u64) -> Result<Blkptr> {
        let at = self.bookmark(level, blkid);
        let bp = Blkptr::nth(block, i).ok_or(Error::corrupt("indirect block too short", at))?;
        bp.verify(Some(at))?;
        if !bp.is_hole() && bp.level() != level {
            return Err(Error::corrupt("block pointer of another level than its place", at));
        }
        Ok(bp)
    }

    /// The block pointer of block `blkid` at `level`; a hole if there is none.
    pub(crate) fn lookup(&self, zio: &Zio, level: u8, blkid: u64) -> Result<Blkptr> {
        if level >= self.nlevels {
            return Ok(Blkptr::HOLE);
        }
        let top = self.nlevels - 1;
        let root = self.at_level(blkid, top - level);
        if root >= u64::from(self.nblkptr) {
            return Ok(Blkptr::HOLE);
        }
        let mut bp = self.blkptrs[root as usize];
        for l in (level..top).rev() {
            if bp.is_hole() {
                return Ok(Blkptr::HOLE);
            }
            let block = self.read_indirect(zio, &bp, l + 1, self.at_level(blkid, l + 1 - level))?;
            let id = self.at_level(blkid, l - level);
            bp = self.child(&block, (id & ((1 << self.epb_shift) - 1)) as usize, l, id)?;
        }
        Ok(bp)
    }

    /// The block pointers of many data blocks, ids ascending. Indirect blocks are read once each, and those of one
    /// level together.
    pub(crate) fn lookup_many(&self, zio: &Zio, ids: &[u64]) -> Result<Vec<Blkptr>> {
        let top = self.nlevels.saturating_sub(1);
        // Blocks of the level that was resolved last, by id, ascending.
        let mut resolved: Vec<(u64, Blkptr)> = Vec::new();
        for level in (0..=top).rev() {
            let mut wanted: Vec<u64> = ids.iter().map(|&id| self.at_level(id, level)).collect();
            wanted.dedup();
            let next = if level == top {
                let root = |id: u64| {
                    let known = id < u64::from(self.nblkptr);
                    if known { self.blkptrs[id as usize] } else { Blkptr::HOLE }
                };
                wanted.iter().map(|&id| (id, root(id))).collect()
            } else {
                self.resolve_below(zio, level, &wanted, &resolved)?
            };
            resolved = next;
        }
        let mut at = 0;
        Ok(ids
            .iter()
            .map(|id| {
                while resolved.get(at).is_some_and(|(r, _)| r < id) {
                    at += 1;
                }
                resolved.get(at).map_or(Blkptr::HOLE, |(_, bp)| *bp)
            })
            .collect())
    }

    fn resolve_below(
        &self,
        zio: &Zio,
        level: u8,
        wanted: &[u64],
        parents: &[(u64, Blkptr)],
    ) -> Result<Vec<(u64, Blkptr)>> {
        let present: Vec<(u64, Blkptr)> = parents.iter().filter(|(_, bp)| !bp.is_hole()).copied().collect();
        let blocks = if let [(id, bp)] = present[..] {
            alloc::vec![(id, self.read_indirect(zio, &bp, level + 1, id)?)]
        } else {
            let wants: Vec<_> = present.iter().map(|(id, bp)| (*bp, self.bookmark(level + 1, *id))).collect();
            let read = zio.read_many(&wants);
            let mut blocks = Vec::with_capacity(read.len());
            for ((id, _), block) in present.iter().zip(read) {
                blocks.push((*id, self.checked(block?, level + 1, *id)?));
            }
            blocks
        };
        let mut out = Vec::with_capacity(wanted.len());
        for &id in wanted {
            let parent = id >> self.epb_shift;
            let bp = match blocks.binary_search_by_key(&parent, |(p, _)| *p) {
                Ok(i) => self.child(&blocks[i].1, (id & ((1 << self.epb_shift) - 1)) as usize, level, id)?,
                Err(_) => Blkptr::HOLE,
            };
            out.push((id, bp));
        }
        Ok(out)
    }

    /// The first data block from `from` on that is a hole (`hole`) or is none. A hole behind the tree's reach is not found.
    pub(crate) fn next(&self, zio: &Zio, hole: bool, from: u64) -> Result<Option<u64>> {
        let top = self.nlevels.saturating_sub(1);
        for root in self.at_level(from, top)..u64::from(self.nblkptr) {
            let bp = self.blkptrs[root as usize];
            if let Some(found) = self.next_below(zio, hole, from, &bp, top, root)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn next_below(
        &self,
        zio: &Zio,
        hole: bool,
        from: u64,
        bp: &Blkptr,
        level: u8,
        id: u64,
    ) -> Result<Option<u64>> {
        let base = id.checked_shl(self.epb_shift * u32::from(level)).unwrap_or(u64::MAX);
        if bp.is_hole() {
            return Ok(hole.then_some(from.max(base)));
        }
        if level == 0 {
            return Ok((!hole).then_some(id));
        }
        let block = self.read_indirect(zio, bp, level, id)?;
        let first = id << self.epb_shift;
        let start = self.at_level(from, level - 1).max(first);
        for child_id in start..first + (1 << self.epb_shift) {
            let child = self.child(&block, (child_id - first) as usize, level - 1, child_id)?;
            if let Some(found) = self.next_below(zio, hole, from, &child, level - 1, child_id)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
