//! Visits the blocks of a destroyed objset from the bottom up, a part at a time. Source: `traverse_visitbp` with `TRAVERSE_POST`
//! (`module/zfs/dmu_traverse.c`), `zbookmark_subtree_completed` (`zio.c`).

use crate::dmu::objects::BlockMap;
use crate::dmu::tree::Tree;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dnode::{DNODE_SIZE, DNODES_PER_BLOCK, DnodePhys};
use crate::ondisk::objset::ObjsetPhys;
use crate::zio::Zio;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Objset number in bookmarks of destroyed objsets (`ZB_DESTROYED_OBJSET`).
const DESTROYED: u64 = u64::MAX;

/// How far a visit came: to the data block `blkid` of `object`, which is the next one. In object 0, the meta-dnode, the objects
/// in that block of dnodes were visited and the block itself was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Object number.
    pub object: u64,
    /// Block id at level 0; `u64::MAX` is the spill block.
    pub blkid: u64,
}

/// How a visit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unraveled {
    /// Everything was visited, the root last.
    Done,
    /// As many blocks were visited as were asked for.
    Paused(Position),
    /// A block could not be read; all before it were visited.
    Unreadable(Position, Error),
}

/// Visits what lies below `root` and was born after `min_txg`, every block after all that is below it. Goes on at `from`; pauses when `left` blocks were
/// visited. The root is visited last.
pub fn unravel(
    zio: &Arc<Zio>,
    root: &Blkptr,
    min_txg: u64,
    from: Option<Position>,
    left: &mut u64,
    visit: &mut dyn FnMut(&Blkptr) -> Result<()>,
) -> Result<Unraveled> {
    let mut walk = Walk { zio, min_txg, from, left, visit, end: Unraveled::Done };
    walk.root(root)?;
    Ok(walk.end)
}

/// `false` of a step says that the visit has ended, as `end` tells.
struct Walk<'a> {
    zio: &'a Arc<Zio>,
    min_txg: u64,
    from: Option<Position>,
    left: &'a mut u64,
    visit: &'a mut dyn FnMut(&Blkptr) -> Result<()>,
    end: Unraveled,
}

impl Walk<'_> {
    fn root(&mut self, root: &Blkptr) -> Result<()> {
        if root.is_hole() || root.birth() <= self.min_txg {
            return Ok(());
        }
        let at = Bookmark::objset_root(DESTROYED);
        let start = Position { object: 0, blkid: 0 };
        let phys = match self.zio.read(root, at).and_then(|block| ObjsetPhys::parse(&block, Some(at))) {
            Ok(phys) => phys,
            Err(error) => {
                self.end = Unraveled::Unreadable(self.from.unwrap_or(start), error);
                return Ok(());
            }
        };
        if !self.dnode(0, &phys.meta_dnode)? {
            return Ok(());
        }
        let accounts = phys.accounting_dnodes()?;
        for (index, dnode) in accounts.iter().enumerate().rev().filter(|(_, dnode)| !dnode.is_free()) {
            if !self.dnode(u64::MAX - index as u64, dnode)? {
                return Ok(());
            }
        }
        (self.visit)(root)
    }

    fn dnode(&mut self, object: u64, dnode: &DnodePhys) -> Result<bool> {
        let tree = Tree::new(DESTROYED, object, dnode);
        let roots: Vec<_> = (0..u64::from(dnode.nblkptr)).map(|i| (i, dnode.blkptrs[i as usize])).collect();
        if !self.blocks(&tree, dnode.nlevels - 1, &roots)? {
            return Ok(false);
        }
        match &dnode.spill {
            Some(spill) if spill.birth() > self.min_txg && !self.is_past(object, u64::MAX, u64::MAX) => {
                self.leave(&tree, 0, u64::MAX, spill)
            }
            _ => Ok(true),
        }
    }

    /// Whether data blocks `first` to before `end` of an object were visited: of the meta-dnode, with all objects in them.
    fn is_past(&self, object: u64, first: u64, end: u64) -> bool {
        match self.from {
            None => false,
            Some(Position { object: 0, blkid }) if object == 0 => end <= blkid,
            Some(Position { object: 0, blkid }) => object / DNODES_PER_BLOCK <= blkid,
            Some(at) if object == 0 => end.saturating_mul(DNODES_PER_BLOCK) <= at.object,
            Some(at) if object == at.object => end <= at.blkid && first != at.blkid,
            Some(at) => object < at.object,
        }
    }

    /// Sibling blocks of one level, with their ids.
    fn blocks(&mut self, tree: &Tree, level: u8, siblings: &[(u64, Blkptr)]) -> Result<bool> {
        let shift = tree.epb_shift * u32::from(level);
        let span = |id: u64| id.checked_shl(shift).filter(|s| s >> shift == id).unwrap_or(u64::MAX);
        let mut live: Vec<(u64, Blkptr)> = Vec::new();
        for (id, bp) in siblings.iter().filter(|(_, bp)| !bp.is_hole() && bp.birth() > self.min_txg) {
            if !self.is_past(tree.object, span(*id), span(id + 1)) {
                live.push((*id, *bp));
            }
        }
        let has_below = level > 0 || tree.object == 0;
        if has_below && live.len() > 1 {
            let wants = live.iter().map(|(id, bp)| (*bp, tree.bookmark(level, *id)));
            self.zio.prefetch(wants.take(32).collect());
        }
        for (id, bp) in &live {
            let resumed = level == 0 && self.from == Some(Position { object: tree.object, blkid: *id });
            if has_below && !resumed {
                match self.below(tree, level, *id, bp) {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(error) => {
                        let at = Position { object: tree.object, blkid: span(*id) };
                        self.end = Unraveled::Unreadable(at, error);
                        return Ok(false);
                    }
                }
            }
            if !self.leave(tree, level, *id, bp)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn below(&mut self, tree: &Tree, level: u8, id: u64, bp: &Blkptr) -> Result<bool> {
        if level > 0 {
            let block = tree.read_indirect(self.zio, bp, level, id)?;
            let first = id << tree.epb_shift;
            let children: Vec<_> =
                (0..).map_while(|i| Blkptr::nth(&block, i)).zip(first..).map(|(bp, id)| (id, bp)).collect();
            for (child, bp) in &children {
                bp.verify(Some(tree.bookmark(level - 1, *child)))?;
                if !bp.is_hole() && bp.level() != level - 1 {
                    let at = tree.bookmark(level - 1, *child);
                    return Err(Error::corrupt("block pointer of another level than its place", at));
                }
            }
            return self.blocks(tree, level - 1, &children);
        }
        let at = tree.bookmark(0, id);
        let block = self.zio.read_structure(bp, at)?;
        if block.len() != DNODES_PER_BLOCK as usize * DNODE_SIZE {
            return Err(Error::corrupt("dnode block of another size than 16 KiB", at));
        }
        let heads = BlockMap::of(&block).heads;
        for slot in (0..DNODES_PER_BLOCK as usize).filter(|slot| heads & 1 << slot != 0) {
            let dnode = DnodePhys::parse(&block, slot, Some(at))?;
            if !dnode.is_free() && !self.dnode(id * DNODES_PER_BLOCK + slot as u64, &dnode)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Visits a block, after all below it; pauses before it if enough was done.
    fn leave(&mut self, tree: &Tree, level: u8, id: u64, bp: &Blkptr) -> Result<bool> {
        if level == 0 && *self.left == 0 {
            self.end = Unraveled::Paused(Position { object: tree.object, blkid: id });
            return Ok(false);
        }
        *self.left = self.left.saturating_sub(1);
        (self.visit)(bp)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dmu::testing::TestPool;
    use crate::dmu::{Allocate, Traverse, Visit, traverse};
    use crate::ondisk::object_type::ObjectType;
    use crate::ondisk::objset::ObjsetKind;
    use alloc::vec;

    /// Every block that a visit from the top meets, in that order.
    struct Listed(Vec<(Bookmark, Blkptr)>);

    impl Traverse for Listed {
        fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> Result<Visit> {
            self.0.push((*at, *bp));
            Ok(Visit::Continue)
        }
    }

    /// An objset with files of one and of three levels, holes between, and a spill block.
    fn sample(pool: &TestPool) -> Blkptr {
        let tx = pool.txgs.begin(0).unwrap();
        let os = pool.create(9, ObjsetKind::Zfs, &tx);
        for i in 0..70u64 {
            let what = Allocate {
                indirect_shift: 12,
                bonus_type: ObjectType::SA,
                bonus_len: 32,
                ..Allocate::plain(ObjectType::PLAIN_FILE_CONTENTS, 512)
            };
            let dnode = os.allocate(&tx, &what).unwrap();
            let blocks = if i % 30 == 7 { 60 } else { 1 };
            for block in 0..blocks {
                dnode.write(&tx, block * 3 * 512, &vec![(i + block) as u8 | 1; 512]).unwrap();
            }
            if i == 37 {
                dnode.set_spill(&tx, &[5; 700]).unwrap();
            }
        }
        drop(tx);
        pool.sync();
        os.root()
    }

    fn parts(pool: &TestPool, root: &Blkptr, size: u64) -> Vec<Blkptr> {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let before = all.len();
            let mut left = size;
            let mut visit = |bp: &Blkptr| {
                all.push(*bp);
                Ok(())
            };
            match unravel(&pool.zio, root, 0, from, &mut left, &mut visit).unwrap() {
                Unraveled::Done => return all,
                Unraveled::Paused(at) => from = Some(at),
                Unraveled::Unreadable(at, error) => panic!("{at:?}: {error}"),
            }
            assert!(all.len() > before, "no progress from {from:?}");
        }
    }

    #[test]
    fn every_block_comes_once_and_after_what_is_below_it() {
        let pool = TestPool::new(64 << 20);
        let root = sample(&pool);
        let mut listed = Listed(Vec::new());
        traverse(&pool.zio, 9, &root, 0, &mut listed).unwrap();
        for size in [1, 2, 5, 33, 1000] {
            let visited = parts(&pool, &root, size);
            assert_eq!(visited.len(), listed.0.len(), "in parts of {size}");
            let place = |bp: &Blkptr| visited.iter().position(|v| v == bp).unwrap();
            for (at, bp) in listed.0.iter().filter(|(at, _)| at.level >= 0) {
                let above = listed.0.iter().find(|(a, _)| {
                    a.object == at.object && a.level == at.level + 1 && a.blkid == at.blkid >> 5
                });
                assert!(above.is_none_or(|(_, above)| place(above) > place(bp)), "{at}");
            }
            assert_eq!(visited.last(), Some(&root));
        }
    }
}
