//! Livelists: OpenZFS lists the blocks that a clone has of its own, to destroy it faster. Source: `dsl_dir_remove_livelist` (`dsl_dir.c`),
//! `dsl_process_sub_livelist` (`dsl_deadlist.c`).
//!
//! A livelist must name every block that its clone writes and frees. We keep none: before the first change of a clone its list
//! goes, as OpenZFS itself drops the lists of clones that have grown apart from their origin. Lists of clones that were
//! destroyed, but whose blocks are not freed yet, are worked off.

use super::bpobj::Bpobj;
use super::deadlist::Deadlist;
use super::dir::{Delta, Dir};
use super::mos::OBJECT_DIRECTORY;
use super::pool::DslPool;
use crate::dmu::Tx;
use crate::error::Result;
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::dsl::{Space, Used};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

const FEATURE: &str = "com.delphix:livelist";
/// The field of a clone's dir (`DD_FIELD_LIVELIST`).
const FIELD: &str = "com.delphix:livelist";
/// The object directory's entry of a ZAP of destroyed clones' lists (`DMU_POOL_DELETED_CLONES`).
const DELETED: &str = "com.delphix:deleted_clones";
/// Sub-lists that one txg works off.
const SUBLISTS_PER_TXG: usize = 4;

impl DslPool {
    /// Removes the livelist of a clone, if it has one: for everybody who changes the clone. Syncing context.
    pub(crate) fn drop_livelist(&self, tx: &Tx, dir: &Dir) -> Result<()> {
        if !self.host().feature_active(FEATURE) {
            return Ok(());
        }
        let Some(list) = self.meta.field(dir.object, FIELD)? else { return Ok(()) };
        self.meta.zap_remove(tx, dir.object, FIELD)?;
        Deadlist::destroy(&self.meta, tx, list)?;
        self.host().feature_decr(tx, FEATURE)
    }

    /// Blocks that destroyed clones have left: each list's blocks that were born and not freed again.
    pub(crate) fn visit_deleted_clones(&self, visit: &mut dyn FnMut(&Blkptr) -> Result<()>) -> Result<()> {
        let Some(deleted) = self.deleted_clones()? else { return Ok(()) };
        for (_, list) in self.meta.zap_entries(deleted)? {
            for (_, sublist) in Deadlist::open(&self.meta, list)?.lists()? {
                for bp in self.live_blocks(sublist)? {
                    visit(&bp)?;
                }
            }
        }
        Ok(())
    }

    fn deleted_clones(&self) -> Result<Option<u64>> {
        if !self.host().feature_active(FEATURE) {
            return Ok(None);
        }
        self.meta.zap_get(OBJECT_DIRECTORY, DELETED)
    }

    /// Frees blocks of destroyed clones, a bounded number of sub-lists. True if more is left.
    pub(crate) fn free_deleted_clones(&self, tx: &Tx) -> Result<bool> {
        let Some(deleted) = self.deleted_clones()? else { return Ok(false) };
        let mut budget = SUBLISTS_PER_TXG;
        for (_, object) in self.meta.zap_entries(deleted)? {
            let mut list = Deadlist::open(&self.meta, object)?;
            let mut freed = Space::default();
            while budget > 0 {
                let Some((key, sublist)) = list.lists()?.next() else { break };
                budget -= 1;
                for bp in self.live_blocks(sublist)? {
                    freed += super::bpobj::space_of(self.host(), &bp);
                    self.host().free_block(tx, &bp);
                }
                list.remove_list(tx, key)?;
            }
            self.hold_dir(self.fixed().free_dir)?.diduse(&self.meta, tx, Used::Head, Delta::minus(freed))?;
            let done = list.lists()?.next().is_none();
            if !done {
                return Ok(true);
            }
            self.meta.zap_remove_int(tx, deleted, object)?;
            Deadlist::destroy(&self.meta, tx, object)?;
            self.host().feature_decr(tx, FEATURE)?;
        }
        self.meta.zap_remove(tx, OBJECT_DIRECTORY, DELETED)?;
        self.meta.os.free(tx, deleted)?;
        Ok(false)
    }

    /// What of a sub-list was not freed again: a block that was cloned as often as it was born more than it was freed. An entry with an
    /// odd fill count is a free (`BP_GET_FREE`).
    pub(super) fn live_blocks(&self, sublist: u64) -> Result<Vec<Blkptr>> {
        let mut live: BTreeMap<[u64; 3], (i64, Blkptr)> = BTreeMap::new();
        Bpobj::open(&self.meta.os, &self.meta.host, sublist)?.for_each(&mut |bp| {
            if bp.is_embedded() {
                return Ok(());
            }
            let key = [bp.words()[0], bp.words()[1], bp.birth()];
            let entry = live.entry(key).or_insert((0, *bp));
            entry.0 += if bp.fill() & 1 == 1 { -1 } else { 1 };
            Ok(())
        })?;
        let left = live.into_values().filter(|(count, _)| *count > 0);
        Ok(left.flat_map(|(count, bp)| core::iter::repeat_n(bp, count.unsigned_abs() as usize)).collect())
    }
}
