//! Counting what changed between two states of a file system. Source: `module/zfs/dmu_diff.c`.
//!
//! Only blocks of dnodes born after the earlier state are looked at; of each dnode in them both states are compared.

use super::dataset::Dataset;
use super::names;
use super::pool::DslPool;
use crate::dmu::{Objset, Traverse, Visit, traverse};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dnode::{DNODE_SIZE, DNODES_PER_BLOCK, DnodePhys};
use crate::ondisk::object_type::ObjectType;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

/// What differs between two states of a dataset, in files and directories (of a volume, in objects).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Diff {
    /// Objects that only the later one has.
    pub added: u64,
    /// Objects that only the earlier one has.
    pub removed: u64,
    /// Objects that differ.
    pub modified: u64,
}

/// Which object changed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only the later state has it.
    Added,
    /// Only the earlier state has it.
    Removed,
    /// Both have it, and its dnode differs.
    Modified,
}

/// Finds the blocks of dnodes that changed.
struct Changed {
    blocks: BTreeSet<u64>,
    /// Base-2 logarithm of the block pointers in an indirect block of the meta-dnode.
    fan_out_shift: u32,
    /// The last block of dnodes of the earlier state.
    old_last: u64,
}

impl Traverse for Changed {
    fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> Result<Visit> {
        if at.level == Bookmark::LEVEL_OBJSET {
            return Ok(Visit::Continue);
        }
        if at.object != 0 {
            return Ok(Visit::Skip);
        }
        if at.level > 0 && !bp.is_hole() {
            return Ok(Visit::Continue);
        }
        // A hole in place of an indirect block: everything below it is gone.
        let shift = self.fan_out_shift * u32::try_from(at.level.max(0)).unwrap_or(0);
        let first = at.blkid.checked_shl(shift).unwrap_or(u64::MAX);
        let last = first.saturating_add((1u64.checked_shl(shift).unwrap_or(u64::MAX)) - 1).min(self.old_last);
        if first <= last {
            self.blocks.extend(first..=last);
        } else if at.level == 0 {
            self.blocks.insert(first);
        }
        Ok(Visit::Skip)
    }

    fn dnode(&mut self, object: u64, _dnode: &DnodePhys) -> Result<Visit> {
        Ok(if object == 0 { Visit::Continue } else { Visit::Skip })
    }

    fn want_holes(&self) -> bool {
        true
    }
}

/// The dnodes of one block: each slot's 512 bytes or more, `None` where there is none.
fn dnodes(block: &Bytes) -> Result<Vec<Option<(ObjectType, Bytes)>>> {
    let mut all = alloc::vec![None; DNODES_PER_BLOCK as usize];
    let mut slot = 0;
    while slot < all.len() {
        let dnode = DnodePhys::parse(block, slot, None)?;
        let slots = usize::from(dnode.slots).max(1);
        if !dnode.is_free() {
            let end = ((slot + slots) * DNODE_SIZE).min(block.len());
            all[slot] = Some((dnode.object_type, block.slice(slot * DNODE_SIZE..end)));
        }
        slot += slots;
    }
    Ok(all)
}

/// Files, directories and volumes; what the file system keeps for itself is nobody's change.
fn counts(object_type: ObjectType) -> bool {
    matches!(object_type, ObjectType::PLAIN_FILE_CONTENTS | ObjectType::DIRECTORY_CONTENTS | ObjectType::ZVOL)
}

impl DslPool {
    /// Counts what changed from a snapshot to a later snapshot of the same file system, or to the file system as last synced
    /// (sync the pool first to see its latest changes).
    pub fn diff(&self, from: &str, to: &str) -> Result<Diff> {
        let mut diff = Diff::default();
        self.for_each_change(from, to, &mut |_, change| {
            match change {
                Change::Added => diff.added += 1,
                Change::Removed => diff.removed += 1,
                Change::Modified => diff.modified += 1,
            }
            Ok(())
        })?;
        Ok(diff)
    }

    /// Calls `visit` with every object that changed, in the order of their numbers; see [`DslPool::diff`].
    pub fn for_each_change(
        &self,
        from: &str,
        to: &str,
        visit: &mut dyn FnMut(u64, Change) -> Result<()>,
    ) -> Result<()> {
        let (earlier, later) = self.diff_ends(from, to)?;
        let mos = self.mos();
        let open =
            |d: &Dataset| Objset::open(Arc::clone(mos.zio()), Arc::clone(mos.txgs()), d.object, d.root_bp());
        let (old, new) = (open(&earlier)?, open(&later)?);
        let last = |os: &Arc<Objset>| os.meta_dnode().info().maxblkid;
        let fan_out = (new.meta_dnode().info().indirect_size as usize / BLKPTR_SIZE).max(1);
        let mut changed =
            Changed { blocks: BTreeSet::new(), fan_out_shift: fan_out.ilog2(), old_last: last(&old) };
        traverse(mos.zio(), later.object, &later.root_bp(), earlier.creation_txg(), &mut changed)?;
        // A dnode block that became a hole may not be met by the walk of an older pool: what lies past the later end is gone.
        changed.blocks.extend((last(&new) + 1)..=last(&old));
        for blkid in changed.blocks {
            let before = dnodes(&old.meta_dnode().read_block(blkid)?)?;
            let after = dnodes(&new.meta_dnode().read_block(blkid)?)?;
            for (slot, pair) in before.iter().zip(&after).enumerate() {
                let object = blkid * DNODES_PER_BLOCK + slot as u64;
                match pair {
                    (None, Some((kind, _))) if counts(*kind) => visit(object, Change::Added)?,
                    (Some((kind, _)), None) if counts(*kind) => visit(object, Change::Removed)?,
                    (Some((old_kind, old)), Some((kind, new)))
                        if old != new && (counts(*kind) || counts(*old_kind)) =>
                    {
                        visit(object, Change::Modified)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn diff_ends(&self, from: &str, to: &str) -> Result<(Arc<Dataset>, Arc<Dataset>)> {
        names::split_snapshot(from)?;
        let _config = self.read_config();
        let (earlier, later) = (self.find(from)?, self.find(to)?);
        // The earlier one must be an ancestor of the later.
        let mut at = later.phys();
        while let Some(ancestor) = self.previous(&at)? {
            if ancestor.object == earlier.object {
                return Ok((earlier, later));
            }
            at = ancestor.phys();
        }
        Err(Error::Invalid("diff: the first is not an earlier snapshot of the second"))
    }
}
