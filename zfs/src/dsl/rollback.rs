//! Going back to a snapshot: a clone of it takes the head's place, and the clone with the head's old content is destroyed.
//! Source: `dsl_dataset_rollback_sync`, `dsl_dataset_clone_swap_sync_impl` (`module/zfs/dsl_dataset.c`).

use super::dataset::Dataset;
use super::deadlist::Deadlist;
use super::destroy::check_snapshot;
use super::dir::Delta;
use super::host::Slop;
use super::names;
use super::pool::DslPool;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::dsl::{DatasetPhys, Space, Used};
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Name of the clone for as long as the task runs; no user can choose it.
const TEMPORARY: &str = "%rollback";

impl DslPool {
    /// Puts the file system or volume back to its latest snapshot, or, with `destroy_newer`, to any of its snapshots.
    /// [`Error::Busy`] while it is mounted, [`Error::NotEmpty`] if there are newer snapshots or bookmarks and `destroy_newer` is not set.
    pub fn rollback(&self, name: &str, snap: &str, destroy_newer: bool) -> Result<()> {
        names::check_dataset(name)?;
        let (name, snap) = (name.to_string(), snap.to_string());
        self.run_task(Slop::ExtraReserved, move |pool, tx| {
            let head = pool.find(&name)?;
            let target = pool.find_snapshot(&head, &snap)?.ok_or(Error::NotFound)?;
            if head.is_held() {
                return Err(Error::Busy);
            }
            let newer: Vec<Arc<Dataset>> = {
                let all = pool.snapshots_of(&head)?;
                let at = all.iter().position(|s| s.object == target.object).map_or(all.len(), |i| i + 1);
                all.into_iter().skip(at).collect()
            };
            if !newer.is_empty() && !destroy_newer {
                return Err(Error::NotEmpty);
            }
            newer.iter().try_for_each(|s| check_snapshot(s))?;
            let marks = pool.marks_after(&head, target.creation_txg())?;
            if !marks.is_empty() && !destroy_newer {
                return Err(Error::NotEmpty);
            }
            // A snapshot taken in this very txg shares its birth with what would be undone.
            if head.phys().prev_snap_txg >= tx.txg() {
                return Err(Error::Busy);
            }
            pool.destroy_marks_of(tx, &head, &marks)?;
            for snapshot in newer.iter().rev() {
                pool.destroy_snapshot(tx, snapshot)?;
            }
            pool.roll_head_back(tx, &head, &target)
        })
    }

    fn roll_head_back(&self, tx: &Tx, head: &Arc<Dataset>, target: &Arc<Dataset>) -> Result<()> {
        let dir = self.create_dir(tx, Some(&head.dir()), TEMPORARY)?;
        let clone = self.create_head(tx, &dir, Some(target), 0)?;
        self.swap_clone(tx, &clone, head, target)?;
        self.zero_zil(tx, head)?;
        let text = format!("parent={}", head.dir().last_name());
        self.host().log_internal(tx, "clone swap", clone.object, &clone.name(), &text)?;
        self.destroy_head(tx, &clone)
    }

    /// Swaps the contents of a head and of a fresh clone of its latest snapshot.
    fn swap_clone(
        &self,
        tx: &Tx,
        clone: &Arc<Dataset>,
        head: &Arc<Dataset>,
        origin: &Arc<Dataset>,
    ) -> Result<()> {
        self.swap_features(tx, clone, head)?;
        self.drop_livelist(tx, &head.dir())?;
        clone.replace_objset(None);
        head.replace_objset(None);
        let (mine, theirs) = (head.phys(), clone.phys());
        let head_list = Deadlist::open(&self.meta, mine.deadlist_obj)?;
        let clone_list = Deadlist::open(&self.meta, theirs.deadlist_obj)?;
        let unique = clone_list.space_range(origin.phys().prev_snap_txg, u64::MAX)?.used;
        origin.update(self, tx, |o| o.unique_bytes = unique)?;
        // What a dir uses: what its head refers to, and all that has died.
        let mut change = Delta::plus(total(&theirs, clone_list.space()));
        change += Delta::minus(total(&mine, head_list.space()));
        head.dir().diduse(&self.meta, tx, Used::Head, change)?;
        clone.dir().diduse(&self.meta, tx, Used::Head, -change)?;
        let origin_txg = head.dir().origin_txg();
        let snapshots = clone_list.space_range(origin_txg, u64::MAX)?.used as i64
            - head_list.space_range(origin_txg, u64::MAX)?.used as i64;
        head.dir().transfer(&self.meta, tx, snapshots, Used::Head, Used::Snap)?;
        let reserved = head.with(|s| s.reserved);
        head.update(self, tx, |h| take_content(h, &theirs))?;
        clone.update(self, tx, |c| take_content(c, &mine))?;
        self.marks_next_changed(tx, head, origin)?;
        let unused = reserved.min(mine.unique_bytes) as i64 - reserved.min(theirs.unique_bytes) as i64;
        head.dir().diduse(&self.meta, tx, Used::RefReservation, Delta::used(unused))
    }

    fn swap_features(&self, tx: &Tx, clone: &Dataset, head: &Dataset) -> Result<()> {
        let of_clone = clone.deactivate_features(self, tx)?;
        let of_head = head.deactivate_features(self, tx)?;
        for feature in of_clone {
            head.activate_feature(self, tx, feature)?;
        }
        for feature in of_head {
            clone.activate_feature(self, tx, feature)?;
        }
        Ok(())
    }
}

fn total(phys: &DatasetPhys, dead: Space) -> Space {
    let mut total = Space {
        used: phys.referenced_bytes,
        compressed: phys.compressed_bytes,
        uncompressed: phys.uncompressed_bytes,
    };
    total += dead;
    total
}

fn take_content(to: &mut DatasetPhys, from: &DatasetPhys) {
    to.bp = from.bp;
    to.referenced_bytes = from.referenced_bytes;
    to.compressed_bytes = from.compressed_bytes;
    to.uncompressed_bytes = from.uncompressed_bytes;
    to.unique_bytes = from.unique_bytes;
    to.deadlist_obj = from.deadlist_obj;
}
