//! Visits every block of an objset. Source: `dmu_traverse.c`.

use crate::dmu::objects::BlockMap;
use crate::dmu::tree::Tree;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dnode::{DNODE_SIZE, DNODES_PER_BLOCK, DnodePhys};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::ObjsetPhys;
use crate::zio::Zio;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

/// Metadata blocks that are read ahead of the visitor.
const READ_AHEAD: usize = 32;
/// Object numbers of the accounting objects, whose dnodes are in the root block (`DMU_USERUSED_OBJECT`, …), and where.
const ACCOUNTING: [(u64, usize); 3] = [(u64::MAX, 1024), (u64::MAX - 1, 1536), (u64::MAX - 2, 2048)];

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
    fn unreadable(&mut self, bp: &Blkptr, at: &Bookmark, error: Error) -> Result<()> {
        let _ = (bp, at);
        Err(error)
    }
}

/// Visits what the objset below `root` refers to and was born after `min_txg` (0: everything). Only metadata is read.
///
/// The order is that of the tree: the root, the meta-dnode's blocks, after each block of dnodes the blocks of its objects,
/// at last the accounting objects. The intent log is not visited.
pub fn traverse(
    zio: &Arc<Zio>,
    objset: u64,
    root: &Blkptr,
    min_txg: u64,
    visitor: &mut dyn Traverse,
) -> Result<()> {
    let mut walk = Walk { zio, objset, min_txg, visitor };
    walk.root(root).map(|_| ())
}

/// Visits the blocks of one object.
pub fn traverse_object(
    zio: &Arc<Zio>,
    objset: u64,
    object: u64,
    dnode: &DnodePhys,
    min_txg: u64,
    visitor: &mut dyn Traverse,
) -> Result<()> {
    let mut walk = Walk { zio, objset, min_txg, visitor };
    walk.dnode(object, dnode).map(|_| ())
}

struct Walk<'a> {
    zio: &'a Arc<Zio>,
    objset: u64,
    min_txg: u64,
    visitor: &'a mut dyn Traverse,
}

/// Whether to go on after what was just visited.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Stop,
}

impl Walk<'_> {
    /// Tells the visitor of a block; `None` if nothing below it is to be visited.
    fn tell(&mut self, bp: &Blkptr, at: &Bookmark) -> Result<Option<Flow>> {
        if bp.birth() <= self.min_txg {
            return Ok(None);
        }
        if bp.is_hole() {
            if bp.birth() > self.min_txg && self.visitor.want_holes() {
                return Ok((self.visitor.block(bp, at)? == Visit::Stop).then_some(Flow::Stop));
            }
            return Ok(None);
        }
        Ok(match self.visitor.block(bp, at)? {
            Visit::Continue => Some(Flow::On),
            Visit::Skip => None,
            Visit::Stop => Some(Flow::Stop),
        })
    }

    /// A metadata block; `None` if it cannot be read and the visitor goes on without.
    fn read(&mut self, bp: &Blkptr, at: &Bookmark) -> Result<Option<Bytes>> {
        match self.zio.read_structure(bp, *at) {
            Ok(block) => Ok(Some(block)),
            Err(error) => self.visitor.unreadable(bp, at, error).map(|()| None),
        }
    }

    fn root(&mut self, root: &Blkptr) -> Result<Flow> {
        let at = Bookmark::objset_root(self.objset);
        match self.tell(root, &at)? {
            None => return Ok(Flow::On),
            Some(Flow::Stop) => return Ok(Flow::Stop),
            Some(Flow::On) => {}
        }
        let Some(block) = self.read(root, &at)? else { return Ok(Flow::On) };
        let phys = match ObjsetPhys::parse(&block, Some(at)) {
            Ok(phys) => phys,
            Err(error) => return self.visitor.unreadable(root, &at, error).map(|()| Flow::On),
        };
        if self.dnode(0, &phys.meta_dnode)? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        for (object, offset) in ACCOUNTING {
            if block.len() < offset + DNODE_SIZE {
                break;
            }
            let slot = block.slice(offset..offset + DNODE_SIZE);
            if self.dnode_in((&slot, 0), object, root, &at)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::On)
    }

    /// The dnode in a slot of a block, if there is one.
    fn dnode_in(
        &mut self,
        (block, slot): (&Bytes, usize),
        object: u64,
        bp: &Blkptr,
        at: &Bookmark,
    ) -> Result<Flow> {
        match DnodePhys::parse(block, slot, Some(*at)) {
            Ok(dnode) if dnode.is_free() => Ok(Flow::On),
            Ok(dnode) => self.dnode(object, &dnode),
            Err(error) => self.visitor.unreadable(bp, at, error).map(|()| Flow::On),
        }
    }

    fn dnode(&mut self, object: u64, dnode: &DnodePhys) -> Result<Flow> {
        match self.visitor.dnode(object, dnode)? {
            Visit::Continue => {}
            Visit::Skip => return Ok(Flow::On),
            Visit::Stop => return Ok(Flow::Stop),
        }
        let tree = Tree::new(self.objset, object, dnode);
        let is_meta = dnode.object_type == ObjectType::DNODE;
        let roots: Vec<(u64, Blkptr)> =
            (0..u64::from(dnode.nblkptr)).map(|i| (i, dnode.blkptrs[i as usize])).collect();
        if self.blocks(&tree, is_meta, dnode.nlevels - 1, &roots)? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        if let Some(spill) = &dnode.spill
            && let Some(Flow::Stop) = self.tell(spill, &tree.bookmark(0, u64::MAX))?
        {
            return Ok(Flow::Stop);
        }
        Ok(Flow::On)
    }

    /// Sibling blocks at one level, with their ids.
    fn blocks(&mut self, tree: &Tree, is_meta: bool, level: u8, bps: &[(u64, Blkptr)]) -> Result<Flow> {
        let has_below = level > 0 || is_meta;
        for part in bps.chunks(READ_AHEAD) {
            if has_below && part.len() > 1 {
                let wants: Vec<_> = part
                    .iter()
                    .filter(|(_, bp)| !bp.is_hole() && !bp.is_embedded() && bp.birth() > self.min_txg)
                    .map(|(id, bp)| (*bp, tree.bookmark(level, *id)))
                    .collect();
                if wants.len() > 1 {
                    self.zio.prefetch(wants);
                }
            }
            for (id, bp) in part {
                let at = tree.bookmark(level, *id);
                match self.tell(bp, &at)? {
                    None => continue,
                    Some(Flow::Stop) => return Ok(Flow::Stop),
                    Some(Flow::On) => {}
                }
                if has_below && self.below(tree, is_meta, level, *id, bp)? == Flow::Stop {
                    return Ok(Flow::Stop);
                }
            }
        }
        Ok(Flow::On)
    }

    fn below(&mut self, tree: &Tree, is_meta: bool, level: u8, id: u64, bp: &Blkptr) -> Result<Flow> {
        let at = tree.bookmark(level, id);
        let Some(block) = self.read(bp, &at)? else { return Ok(Flow::On) };
        if level > 0 {
            let block = match tree.checked(block, level, id) {
                Ok(block) => block,
                Err(error) => return self.visitor.unreadable(bp, &at, error).map(|()| Flow::On),
            };
            let first = id << tree.epb_shift;
            let mut children = Vec::new();
            for (i, child) in (0..).map_while(|i| Blkptr::nth(&block, i)).enumerate() {
                let child_at = tree.bookmark(level - 1, first + i as u64);
                let leveled = child.is_hole() || child.level() == level - 1;
                let rule = Error::corrupt("block pointer of another level than its place", child_at);
                let verified = child.verify(Some(child_at)).and(if leveled { Ok(()) } else { Err(rule) });
                match verified {
                    Ok(()) if child == Blkptr::HOLE => {}
                    Ok(()) => children.push((first + i as u64, child)),
                    Err(error) => self.visitor.unreadable(&child, &child_at, error)?,
                }
            }
            return self.blocks(tree, is_meta, level - 1, &children);
        }
        if block.len() != DNODES_PER_BLOCK as usize * DNODE_SIZE {
            let error = Error::corrupt("dnode block of another size than 16 KiB", at);
            return self.visitor.unreadable(bp, &at, error).map(|()| Flow::On);
        }
        let heads = BlockMap::of(&block).heads;
        for slot in (0..DNODES_PER_BLOCK as usize).filter(|slot| heads & 1 << slot != 0) {
            let object = id * DNODES_PER_BLOCK + slot as u64;
            if self.dnode_in((&block, slot), object, bp, &at)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::On)
    }
}
