//! Destroying snapshots and heads. Source: `module/zfs/dsl_destroy.c`.
//!
//! What only a destroyed snapshot kept is found on the next dataset's deadlist and moves to the pool's free list as a whole. A destroyed head's
//! blocks are found by walking its tree: in later txgs, or in old pools in the same one.

use super::bpobj::space_of;
use super::create::SNAPSHOT_COUNT;
use super::dataset::Dataset;
use super::deadlist::Deadlist;
use super::dir::{Delta, Dir};
use super::host::Slop;
use super::mos::OBJECT_DIRECTORY;
use super::names;
use super::pool::DslPool;
use crate::dmu::{Traverse, Tx, Visit, traverse};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dsl::{DS_FLAG_DEFER_DESTROY, DS_FLAG_UNIQUE_ACCURATE, DatasetPhys, Space, Used};
use crate::ondisk::zil::Header;
use crate::zil;
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Frees all blocks of a tree.
struct Killer<'a> {
    pool: &'a DslPool,
    tx: &'a Tx,
    freed: Space,
}

impl Traverse for Killer<'_> {
    fn block(&mut self, bp: &Blkptr, _at: &Bookmark) -> Result<Visit> {
        self.freed += space_of(self.pool.host(), bp);
        if !bp.is_embedded() {
            self.pool.host().free_block(self.tx, bp);
        }
        Ok(Visit::Continue)
    }
}

impl DslPool {
    /// Destroys a dataset or snapshot. `recursive`: with all below it and its snapshots (of a snapshot: those of that name on all
    /// descendants, too). `defer`: a snapshot that is held or cloned goes when the last of these goes.
    ///
    /// [`Error::Busy`] if it is mounted or held, [`Error::NotEmpty`] if it has snapshots or children and `recursive` is not set.
    pub fn destroy(&self, name: &str, recursive: bool, defer: bool) -> Result<()> {
        let name = name.to_string();
        if name.contains('@') {
            names::split_snapshot(&name)?;
        } else {
            names::check_existing(&name)?;
        }
        self.run_task(Slop::ExtraReserved, move |pool, tx| {
            if name.contains('@') {
                return pool.destroy_named(tx, &name, recursive, defer);
            }
            let head = pool.find(&name)?;
            if head.dir().parent().is_none() {
                return Err(Error::Invalid("the pool's root dataset cannot be destroyed"));
            }
            let mut doomed = if recursive { pool.below(&head)? } else { alloc::vec![head] };
            doomed.reverse();
            pool.check_doomed(&doomed, recursive)?;
            for head in doomed {
                let mut snapshots = pool.snapshots_of(&head)?;
                while let Some(snapshot) = snapshots.pop() {
                    pool.destroy_snapshot(tx, &snapshot)?;
                }
                pool.destroy_head(tx, &head)?;
            }
            Ok(())
        })
    }

    /// Destroys snapshots, in one txg, all or none. `defer`: those that are held or cloned go when the last of these goes.
    ///
    /// [`Error::NotFound`], [`Error::Busy`] if one is mounted or held, [`Error::Invalid`] if one has clones.
    pub fn destroy_snapshots(&self, names: &[&str], defer: bool) -> Result<()> {
        names.iter().try_for_each(|name| names::split_snapshot(name).map(|_| ()))?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_string()).collect();
        self.run_task(Slop::ExtraReserved, move |pool, tx| {
            let doomed = names.iter().map(|name| pool.find(name)).collect::<Result<Vec<_>>>()?;
            pool.destroy_found(tx, doomed, defer)
        })
    }

    /// Bytes that destroying snapshots of one file system would free: those from `first` to `last`, in the order in which they were taken
    /// (`dsl_dataset_space_wouldfree`).
    pub fn space_would_free(&self, first: &str, last: &str) -> Result<u64> {
        let _config = self.read_config();
        let (first, last) = (self.find(first)?, self.find(last)?);
        if !first.is_snapshot() || !last.is_snapshot() || first.dir().object != last.dir().object {
            return Err(Error::Invalid("two snapshots of one file system are needed"));
        }
        // What was born after the one before the first, and died in what follows.
        let since = first.phys().prev_snap_txg;
        let mut at = self.hold_dataset(last.phys().next_snap_obj)?;
        let mut freed = 0u64;
        loop {
            let phys = at.phys();
            let dead = Deadlist::open(&self.meta, phys.deadlist_obj)?.space_range(since, u64::MAX)?;
            freed = freed.wrapping_add(dead.used);
            if phys.prev_snap_obj == first.object {
                return Ok(freed);
            }
            if phys.prev_snap_obj == 0 || phys.prev_snap_txg < first.creation_txg() {
                return Err(Error::Invalid("the first snapshot is not older than the last"));
            }
            at = self.previous(&phys)?.ok_or(Error::NotFound)?;
        }
    }

    /// Whether heads, with their snapshots, can go. Clones outside of the set forbid it.
    fn check_doomed(&self, doomed: &[Arc<Dataset>], recursive: bool) -> Result<()> {
        for head in doomed {
            if head.is_held() {
                return Err(Error::Busy);
            }
            let snapshots = self.snapshots_of(head)?;
            let children = self.meta.zap_count(head.dir().phys().child_dir_zapobj)?;
            if !recursive && (!snapshots.is_empty() || children != 0) {
                return Err(Error::NotEmpty);
            }
            for snapshot in snapshots {
                check_snapshot(&snapshot)?;
            }
        }
        Ok(())
    }

    fn destroy_named(&self, tx: &Tx, name: &str, recursive: bool, defer: bool) -> Result<()> {
        let (path, snap) = names::split_snapshot(name)?;
        let head = self.find(path)?;
        let heads = if recursive { self.below(&head)? } else { alloc::vec![head] };
        let mut doomed = Vec::new();
        for head in heads {
            doomed.extend(self.find_snapshot(&head, snap)?);
        }
        if doomed.is_empty() {
            return Err(Error::NotFound);
        }
        self.destroy_found(tx, doomed, defer)
    }

    fn destroy_found(&self, tx: &Tx, doomed: Vec<Arc<Dataset>>, defer: bool) -> Result<()> {
        for snapshot in &doomed {
            if snapshot.is_held() {
                return Err(Error::Busy);
            }
            if !defer {
                check_snapshot(snapshot)?;
            }
        }
        for snapshot in doomed {
            if check_snapshot(&snapshot).is_ok() {
                self.destroy_snapshot(tx, &snapshot)?;
            } else {
                snapshot.update(self, tx, |p| p.flags |= DS_FLAG_DEFER_DESTROY)?;
                self.host().log_internal(tx, "defer_destroy", snapshot.object, &snapshot.name(), " ")?;
            }
        }
        Ok(())
    }

    /// Destroys a snapshot that nobody holds and that has no clones (`dsl_destroy_snapshot_sync_impl`).
    pub(crate) fn destroy_snapshot(&self, tx: &Tx, snapshot: &Arc<Dataset>) -> Result<()> {
        let phys = snapshot.phys();
        let dir = snapshot.dir();
        let full_name = snapshot.name();
        let (_, name) = full_name.split_once('@').ok_or(Error::Invalid("not a snapshot"))?;
        self.host().log_internal(tx, "destroy", snapshot.object, &full_name, " ")?;
        let bookmarked = self.marks_snapshot_destroyed(tx, snapshot)?;
        snapshot.deactivate_features(self, tx)?;
        let next = self.hold_dataset(phys.next_snap_obj)?;
        let previous = match phys.prev_snap_obj {
            0 => None,
            object => Some(self.hold_dataset(object)?),
        };
        let mut after_branch = false;
        if let Some(previous) = &previous {
            after_branch = previous.phys().next_snap_obj != snapshot.object;
            self.unlink_from_previous(tx, previous, after_branch, snapshot.object, phys.next_snap_obj)?;
        }
        let old_unique = next.phys().unique_bytes;
        next.update(self, tx, |n| {
            n.prev_snap_obj = phys.prev_snap_obj;
            n.prev_snap_txg = phys.prev_snap_txg;
        })?;
        let own_previous = previous.as_ref().filter(|_| !after_branch);
        self.settle_deadlists(tx, &phys, &dir, &next, own_previous)?;
        if !bookmarked {
            self.remove_clones_key(tx, &dir, phys.creation_txg)?;
        }
        let head = self.head_of(&dir)?;
        if next.is_snapshot() {
            // What this snapshot shared with the next alone is the next's own now: it died before the one after that.
            let after = self.hold_dataset(next.phys().next_snap_obj)?;
            let shared = Deadlist::open(&self.meta, after.phys().deadlist_obj)?
                .space_range(phys.prev_snap_txg, phys.creation_txg)?;
            next.update(self, tx, |n| n.unique_bytes = n.unique_bytes.wrapping_add(shared.used))?;
            if !bookmarked {
                Deadlist::open(&self.meta, head.phys().deadlist_obj)?.remove_key(tx, phys.creation_txg)?;
            }
        } else {
            self.recompute_unique(tx, &next)?;
            let (reserved, unique) = next.with(|s| (s.reserved, s.phys.unique_bytes));
            if old_unique < reserved {
                let used_up = unique.saturating_sub(old_unique).min(reserved - old_unique);
                dir.diduse(&self.meta, tx, Used::RefReservation, Delta::used(-(used_up as i64)))?;
            }
        }
        self.meta.zap_remove(tx, head.phys().snapnames_zapobj, name)?;
        self.adjust_count(tx, &dir, SNAPSHOT_COUNT, -1, name)?;
        self.clear_bootfs(tx, snapshot.object)?;
        for zap in [phys.next_clones_obj, phys.props_obj, phys.userrefs_obj] {
            if zap != 0 {
                self.meta.os.free(tx, zap)?;
            }
        }
        self.forget_dataset(snapshot.object);
        self.meta.free_zapified(tx, snapshot.object)
    }

    /// Takes a snapshot out of its predecessor's links.
    fn unlink_from_previous(
        &self,
        tx: &Tx,
        previous: &Dataset,
        after_branch: bool,
        object: u64,
        next: u64,
    ) -> Result<()> {
        if !after_branch {
            return previous.update(self, tx, |p| p.next_snap_obj = next);
        }
        let clones = previous.phys().next_clones_obj;
        if clones != 0 {
            self.meta.zap_remove_int(tx, clones, object)?;
            if next != 0 {
                self.meta.zap_add_int(tx, clones, next)?;
            }
        }
        Ok(())
    }

    /// What died in `next` and was born after the snapshot's predecessor is free now; the rest of both deadlists becomes one.
    fn settle_deadlists(
        &self,
        tx: &Tx,
        phys: &DatasetPhys,
        dir: &Dir,
        next: &Dataset,
        own_previous: Option<&Arc<Dataset>>,
    ) -> Result<()> {
        let mut list = Deadlist::open(&self.meta, next.phys().deadlist_obj)?;
        if let Some(previous) = own_previous {
            let now_unique = list.space_range(previous.phys().prev_snap_txg, phys.prev_snap_txg)?;
            previous.update(self, tx, |p| p.unique_bytes = p.unique_bytes.wrapping_add(now_unique.used))?;
        }
        let free = list.space_range(phys.prev_snap_txg, u64::MAX)?;
        dir.diduse(&self.meta, tx, Used::Snap, Delta::minus(free))?;
        list.move_to(tx, phys.prev_snap_txg, &mut self.free_list()?)?;
        self.hold_dir(self.fixed().free_dir)?.diduse(&self.meta, tx, Used::Head, Delta::plus(free))?;
        list.merge(tx, phys.deadlist_obj)?;
        Deadlist::destroy(&self.meta, tx, phys.deadlist_obj)
    }

    /// Removes a key from the deadlists of all clones of a dir, and of their clones (`dsl_dir_remove_clones_key`).
    pub(crate) fn remove_clones_key(&self, tx: &Tx, dir: &Arc<Dir>, txg: u64) -> Result<()> {
        let mut stack = alloc::vec![Arc::clone(dir)];
        let mut seen = BTreeSet::new();
        while let Some(dir) = stack.pop() {
            let clones = dir.phys().clones;
            if clones == 0 {
                continue;
            }
            if !seen.insert(dir.object) {
                return Err(Error::corrupt("dsl_dir: a clone is its own origin", None));
            }
            for (_, object) in self.meta.zap_entries(clones)? {
                let clone = self.hold_dataset(object)?;
                if clone.dir().origin_txg() > txg {
                    Deadlist::open(&self.meta, clone.phys().deadlist_obj)?.remove_key(tx, txg)?;
                    stack.push(clone.dir());
                }
            }
        }
        Ok(())
    }

    /// What a head has and its previous snapshot has not (`dsl_dataset_recalc_head_uniq`).
    fn recompute_unique(&self, tx: &Tx, head: &Dataset) -> Result<()> {
        let phys = head.phys();
        let shared = match phys.prev_snap_obj {
            0 => 0,
            previous => {
                let dead = Deadlist::open(&self.meta, phys.deadlist_obj)?.space().used;
                self.hold_dataset(previous)?.phys().referenced_bytes.wrapping_sub(dead)
            }
        };
        head.update(self, tx, |p| {
            p.unique_bytes = p.referenced_bytes.wrapping_sub(shared);
            p.flags |= DS_FLAG_UNIQUE_ACCURATE;
        })
    }

    /// The pool property `bootfs` must not name what is gone (`spa_prop_clear_bootfs`).
    fn clear_bootfs(&self, tx: &Tx, object: u64) -> Result<()> {
        if let Some(props) = self.meta.zap_get(OBJECT_DIRECTORY, "pool_props")?
            && self.meta.zap_get(props, "bootfs")? == Some(object)
        {
            self.meta.zap_remove(tx, props, "bootfs")?;
        }
        Ok(())
    }

    /// Destroys a head without snapshots and children, and its dir (`dsl_destroy_head_sync_impl`).
    pub(crate) fn destroy_head(&self, tx: &Tx, head: &Arc<Dataset>) -> Result<()> {
        let phys = head.phys();
        let dir = head.dir();
        self.host().log_internal(tx, "destroy", head.object, &head.name(), " ")?;
        let reserved = head.with(|s| core::mem::take(&mut s.reserved));
        let unused = reserved.saturating_sub(phys.unique_bytes) as i64;
        dir.diduse(&self.meta, tx, Used::RefReservation, Delta::used(-unused))?;
        self.destroy_marks(tx, head)?;
        self.drop_livelist(tx, &dir)?;
        head.deactivate_features(self, tx)?;
        let mut origin = None;
        if phys.prev_snap_obj != 0 {
            let previous = self.hold_dataset(phys.prev_snap_obj)?;
            let clones = previous.phys().next_clones_obj;
            if clones != 0 {
                self.meta.zap_remove_int(tx, clones, head.object)?;
            }
            previous.update(self, tx, |p| p.num_children -= 1)?;
            let origin_clones = previous.dir().phys().clones;
            if origin_clones != 0 {
                self.meta.zap_remove_int(tx, origin_clones, head.object)?;
            }
            origin = Some(previous);
        }
        Deadlist::destroy(&self.meta, tx, phys.deadlist_obj)?;
        let used = dir.phys();
        let all = Space {
            used: used.used_bytes,
            compressed: used.compressed_bytes,
            uncompressed: used.uncompressed_bytes,
        };
        self.free_content(tx, head, &phys, all)?;
        dir.diduse(&self.meta, tx, Used::Head, Delta::minus(all))?;
        dir.update(&self.meta, tx, |d| d.head_dataset_obj = 0)?;
        self.meta.os.free(tx, phys.snapnames_zapobj)?;
        self.clear_bootfs(tx, head.object)?;
        self.forget_dataset(head.object);
        self.meta.free_zapified(tx, head.object)?;
        self.destroy_dir(tx, &dir)?;
        self.host().forget_errors(tx, head.object)?;
        match origin {
            Some(origin) if is_doomed(&origin) => self.destroy_snapshot(tx, &origin),
            _ => Ok(()),
        }
    }

    /// Frees the blocks of a head that no snapshot has, `space` in all, and those of its log: at once, or in later txgs.
    fn free_content(&self, tx: &Tx, head: &Arc<Dataset>, phys: &DatasetPhys, space: Space) -> Result<()> {
        if phys.bp.is_hole() {
            return Ok(());
        }
        let zio = self.mos().zio();
        let header = head.objset()?.zil_header();
        zil::free_chain(zio, &Header::from_bytes(&header), head.object, &mut |bp| {
            self.host().free_block(tx, bp);
        })?;
        if self.destroys_later() {
            return self.free_later(tx, phys.bp, phys.prev_snap_txg, space);
        }
        let mut killer = Killer { pool: self, tx, freed: Space::default() };
        traverse(zio, head.object, &phys.bp, phys.prev_snap_txg, &mut killer)
    }

    /// Removes a dir that has neither head nor children (`dsl_dir_destroy_sync`).
    fn destroy_dir(&self, tx: &Tx, dir: &Arc<Dir>) -> Result<()> {
        let parent = dir.parent().ok_or(Error::Invalid("the root dir cannot be destroyed"))?;
        let name = dir.last_name();
        self.adjust_count(tx, &parent, "com.joyent:filesystem_count", -1, &name)?;
        dir.set_reservation(&self.meta, tx, 0)?;
        let phys = dir.phys();
        for zap in [phys.child_dir_zapobj, phys.props_zapobj, phys.clones] {
            if zap != 0 {
                self.meta.os.free(tx, zap)?;
            }
        }
        if phys.deleg_zapobj != 0 {
            self.destroy_delegations(tx, phys.deleg_zapobj)?;
        }
        self.release_key(tx, dir)?;
        self.meta.zap_remove(tx, parent.phys().child_dir_zapobj, &name)?;
        self.forget_dir(dir.object);
        self.meta.free_zapified(tx, dir.object)
    }

    /// A ZAP of ZAPs (`dsl_deleg_destroy`).
    fn destroy_delegations(&self, tx: &Tx, zap: u64) -> Result<()> {
        for (_, object) in self.meta.zap_entries(zap)? {
            self.meta.os.free(tx, object)?;
        }
        self.meta.os.free(tx, zap)
    }
}

/// Whether a snapshot can go now: no mounts, no holds, no clones (`dsl_destroy_snapshot_check_impl`).
pub(crate) fn check_snapshot(snapshot: &Dataset) -> Result<()> {
    let phys = snapshot.phys();
    if snapshot.is_held() || phys.userrefs_obj != 0 && !snapshot.holds_none()? {
        return Err(Error::Busy);
    }
    if phys.num_children > 1 {
        return Err(Error::Invalid("the snapshot has clones: destroy or promote them first"));
    }
    Ok(())
}

/// Whether a snapshot waits to be destroyed and nothing hinders it any more.
pub(crate) fn is_doomed(snapshot: &Dataset) -> bool {
    snapshot.phys().flags & DS_FLAG_DEFER_DESTROY != 0 && check_snapshot(snapshot).is_ok()
}

impl Dataset {
    /// Whether nobody has put a hold on this snapshot; for those who have the names locked.
    fn holds_none(&self) -> Result<bool> {
        let zap = self.phys().userrefs_obj;
        Ok(zap == 0 || self.pool()?.meta().zap_count(zap)? == 0)
    }
}
