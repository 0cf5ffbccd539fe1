//! Destroyed datasets whose blocks are freed over many txgs. Source: `module/zfs/bptree.c`, `dsl_process_async_destroys` (`dsl_scan.c`).
//!
//! A destroyed head's root block goes on a list in the MOS; each txg frees a bounded number of its blocks and notes how far it came.
//!
//! # Invariants
//! - A block is freed after everything below it, so that what is left stays readable.
//! - The list's space is what its trees still hold; it is counted to `$FREE`.
//! - The feature `async_destroy` is active exactly as long as there is a list.

use super::bpobj::{BPOBJ_BLOCK_SIZE, space_of};
use super::dir::Delta;
use super::mos::OBJECT_DIRECTORY;
use super::pool::DslPool;
use crate::dmu::{Allocate, Position, Tx, Unraveled, unravel};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::dsl::{BPTREE_ENTRY_SIZE, BptreeEntry, BptreePhys, Space, Used};
use crate::ondisk::object_type::ObjectType;
use core::sync::atomic::Ordering;

const FEATURE: &str = "com.delphix:async_destroy";
/// The object directory's entry of the list (`DMU_POOL_BPTREE_OBJ`).
const LIST: &str = "bptree_obj";
/// More destroyed heads than ever wait.
const ENTRIES_MAX: u64 = 1 << 24;

impl DslPool {
    fn bptree(&self) -> Result<Option<(u64, BptreePhys)>> {
        if !self.host().feature_active(FEATURE) {
            return Ok(None);
        }
        let Some(object) = self.meta.zap_get(OBJECT_DIRECTORY, LIST)? else { return Ok(None) };
        let dnode = self.meta.os.hold(object)?;
        let phys = BptreePhys::parse(&dnode.bonus())?;
        let count = phys.end.checked_sub(phys.begin);
        if count.is_none_or(|count| count > ENTRIES_MAX)
            || phys.end > dnode.info().capacity() / BPTREE_ENTRY_SIZE as u64
        {
            return Err(Error::corrupt("bptree: fewer entries than its header says", None));
        }
        Ok(Some((object, phys)))
    }

    fn bptree_entry(&self, object: u64, index: u64) -> Result<BptreeEntry> {
        let mut bytes = [0; BPTREE_ENTRY_SIZE];
        self.meta.os.hold(object)?.read(index * BPTREE_ENTRY_SIZE as u64, &mut bytes)?;
        BptreeEntry::parse(&bytes)
    }

    /// Whether the blocks of destroyed heads are freed later.
    pub(crate) fn destroys_later(&self) -> bool {
        self.host().feature_enabled(FEATURE) && self.fixed().free_dir != 0
    }

    /// Leaves the blocks of a head to later txgs: those below `root` that were born after `min_txg`, `space` in all (`bptree_add`).
    pub(crate) fn free_later(&self, tx: &Tx, root: Blkptr, min_txg: u64, space: Space) -> Result<()> {
        let (object, mut phys) = match self.bptree()? {
            Some(list) => list,
            None => {
                let what = Allocate {
                    bonus_type: ObjectType::OTN_UINT64_METADATA,
                    bonus_len: BptreePhys::default().emit().len() as u16,
                    ..Allocate::plain(ObjectType::OTN_UINT64_METADATA, BPOBJ_BLOCK_SIZE)
                };
                let object = self.meta.os.allocate(tx, &what)?.object();
                self.meta.zap_add(tx, OBJECT_DIRECTORY, LIST, object)?;
                self.host().feature_incr(tx, FEATURE)?;
                (object, BptreePhys::default())
            }
        };
        let entry = BptreeEntry { root, min_txg, resume: None };
        let dnode = self.meta.os.hold(object)?;
        dnode.write(tx, phys.end * BPTREE_ENTRY_SIZE as u64, &entry.emit())?;
        phys.end += 1;
        phys.space += space;
        dnode.set_bonus(tx, ObjectType::OTN_UINT64_METADATA, &phys.emit())?;
        self.hold_dir(self.fixed().free_dir)?.diduse(&self.meta, tx, Used::Head, Delta::plus(space))
    }

    /// Frees at most `left` blocks of destroyed heads. True if more is left.
    pub(crate) fn free_trees(&self, tx: &Tx, mut left: u64) -> Result<bool> {
        let Some((object, mut phys)) = self.bptree()? else { return Ok(false) };
        if self.stalled.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let dnode = self.meta.os.hold(object)?;
        let mut freed = Space::default();
        while phys.begin < phys.end && left > 0 {
            let mut entry = self.bptree_entry(object, phys.begin)?;
            let from = entry.resume.map(|(object, blkid)| Position { object, blkid });
            let outcome =
                unravel(self.mos().zio(), &entry.root, entry.min_txg, from, &mut left, &mut |bp| {
                    freed += space_of(self.host(), bp);
                    if !bp.is_embedded() {
                        self.host().free_block(tx, bp);
                    }
                    Ok(())
                })?;
            let at = phys.begin * BPTREE_ENTRY_SIZE as u64;
            match outcome {
                Unraveled::Done => {
                    phys.begin += 1;
                    dnode.free_range(tx, at, BPTREE_ENTRY_SIZE as u64)?;
                }
                Unraveled::Paused(at_block) => {
                    entry.resume = Some((at_block.object, at_block.blkid));
                    dnode.write(tx, at, &entry.emit())?;
                }
                Unraveled::Unreadable(at_block, _) => {
                    // What cannot be read cannot be freed; the rest of the list waits for the next import.
                    entry.resume = Some((at_block.object, at_block.blkid));
                    dnode.write(tx, at, &entry.emit())?;
                    self.stalled.store(true, Ordering::Relaxed);
                    break;
                }
            }
        }
        phys.space -= freed;
        self.hold_dir(self.fixed().free_dir)?.diduse(&self.meta, tx, Used::Head, Delta::minus(freed))?;
        if phys.begin == phys.end {
            self.meta.zap_remove(tx, OBJECT_DIRECTORY, LIST)?;
            self.meta.os.free(tx, object)?;
            self.host().feature_decr(tx, FEATURE)?;
            return Ok(false);
        }
        dnode.set_bonus(tx, ObjectType::OTN_UINT64_METADATA, &phys.emit())?;
        Ok(!self.stalled.load(Ordering::Relaxed))
    }

    /// Blocks of destroyed heads that are not freed yet.
    pub(crate) fn visit_trees(&self, visit: &mut dyn FnMut(&Blkptr) -> Result<()>) -> Result<()> {
        let Some((object, phys)) = self.bptree()? else { return Ok(()) };
        for index in phys.begin..phys.end {
            let entry = self.bptree_entry(object, index)?;
            let mut all = u64::MAX;
            let from = entry.resume.map(|(object, blkid)| Position { object, blkid });
            match unravel(self.mos().zio(), &entry.root, entry.min_txg, from, &mut all, visit)? {
                Unraveled::Unreadable(_, error) => return Err(error),
                Unraveled::Done | Unraveled::Paused(_) => {}
            }
        }
        Ok(())
    }
}
