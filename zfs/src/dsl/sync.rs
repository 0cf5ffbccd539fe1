//! The dataset layer's part of a txg sync, and who hears of born and killed blocks. Source: `dsl_pool_sync`, `dsl_dataset_block_born`,
//! `dsl_dataset_block_kill` (`module/zfs/dsl_pool.c`, `dsl_dataset.c`).

use super::bpobj::space_of;
use super::dataset::Dataset;
use super::deadlist::Deadlist;
use super::dir::{Delta, Dir};
use super::pool::{DslPool, LONGNAME};
use crate::dmu::{BlockOwner, Objset, SyncContext, Tx};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::dsl::{Space, Used};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::{FLAG_PROJECTQUOTA_COMPLETE, FLAG_USEROBJACCOUNTING_COMPLETE, ObjsetKind};
use crate::zio::AllocateBlocks;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::sync::Mutex;

/// Entries of the free list that one txg frees.
const FREES_PER_TXG: u64 = 50_000;
/// Passes after which the MOS's own growth is left to the next txg, so that the passes come to an end.
const LAST_ACCOUNTED_PASS: u32 = 4;
/// The largest block before the feature large_blocks (`SPA_OLD_MAXBLOCKSIZE`).
const OLD_MAX_BLOCK_SIZE: u64 = 128 << 10;

/// Features that count the objsets in which an account is complete.
const ACCOUNTING_FEATURES: [(u64, &str); 2] = [
    (FLAG_USEROBJACCOUNTING_COMPLETE, "org.zfsonlinux:userobj_accounting"),
    (FLAG_PROJECTQUOTA_COMPLETE, "org.zfsonlinux:project_quota"),
];

/// What one sync of an objset did to its dataset.
#[derive(Default)]
struct Tally {
    born: Space,
    /// Killed and not in any snapshot.
    freed: Space,
    /// Killed and in a snapshot.
    dead: Vec<Blkptr>,
    features: BTreeSet<&'static str>,
    /// Killed, per txg of a bookmark that had it.
    lost: Vec<(u64, Space)>,
}

/// Hears of the blocks of one dataset while it is synced.
struct DatasetOwner<'a> {
    pool: &'a DslPool,
    tx: &'a Tx,
    prev_snap_txg: u64,
    tally: Mutex<Tally>,
}

impl BlockOwner for DatasetOwner<'_> {
    fn born(&self, bp: &Blkptr) {
        let space = space_of(self.pool.host(), bp);
        let mut tally = self.tally.lock();
        tally.born += space;
        if bp.lsize() > OLD_MAX_BLOCK_SIZE {
            tally.features.insert("org.open-zfs:large_blocks");
        }
        if bp.compress() == 16 {
            tally.features.insert("org.freebsd:zstd_compress");
        }
        let by_checksum = match bp.checksum_type() {
            _ if bp.is_embedded() => None,
            11 => Some("org.illumos:sha512"),
            12 => Some("org.illumos:skein"),
            13 => Some("org.illumos:edonr"),
            14 => Some("org.openzfs:blake3"),
            _ => None,
        };
        tally.features.extend(by_checksum);
    }

    fn killed(&self, bp: &Blkptr) {
        let space = space_of(self.pool.host(), bp);
        for (txg, lost) in &mut self.tally.lock().lost {
            if bp.birth() <= *txg {
                *lost += space;
            }
        }
        if bp.birth() > self.prev_snap_txg {
            if !bp.is_embedded() {
                self.pool.host().free_block(self.tx, bp);
            }
            self.tally.lock().freed += space;
        } else {
            self.tally.lock().dead.push(*bp);
        }
    }

    fn unused(&self, bp: &Blkptr) {
        self.pool.host().free_block(self.tx, bp);
    }
}

/// Hears of the MOS's own blocks: no snapshot has them, and `$MOS` pays for them.
struct MosOwner<'a> {
    pool: &'a DslPool,
    tx: &'a Tx,
}

impl BlockOwner for MosOwner<'_> {
    fn born(&self, bp: &Blkptr) {
        *self.pool.mos_delta.lock() += Delta::plus(space_of(self.pool.host(), bp));
    }

    fn killed(&self, bp: &Blkptr) {
        if !bp.is_embedded() {
            self.pool.host().free_block(self.tx, bp);
        }
        *self.pool.mos_delta.lock() += Delta::minus(space_of(self.pool.host(), bp));
    }

    fn unused(&self, bp: &Blkptr) {
        self.pool.host().free_block(self.tx, bp);
    }
}

/// The intent log has records of extended attributes among the system attributes.
const ZILSAXATTR: &str = "org.openzfs:zilsaxattr";

impl Dataset {
    /// Whether the intent log may have records of extended attributes among the system attributes: the feature is active, or becomes so
    /// with the txg that syncs.
    #[must_use]
    pub fn logs_sa_xattrs(&self) -> bool {
        self.with(|s| s.features.contains(ZILSAXATTR))
    }

    /// Whether a name of more than 255 bytes was ever given in it or in what it was cloned from.
    #[must_use]
    pub fn has_long_names(&self) -> bool {
        self.with(|s| s.features.contains(LONGNAME))
    }

    /// Changes the numbers and stores them in the MOS. Syncing context.
    pub(crate) fn update<T>(
        &self,
        pool: &DslPool,
        tx: &Tx,
        change: impl FnOnce(&mut crate::ondisk::dsl::DatasetPhys) -> T,
    ) -> Result<T> {
        let (out, bytes) = self.with(|s| (change(&mut s.phys), s.phys.emit()));
        pool.meta.os.hold(self.object)?.set_bonus(tx, ObjectType::DSL_DATASET, &bytes)?;
        Ok(out)
    }

    /// Marks a feature as used by this dataset (`dsl_dataset_activate_feature`).
    pub(crate) fn activate_feature(&self, pool: &DslPool, tx: &Tx, feature: &'static str) -> Result<()> {
        if self.with(|s| !s.features.insert(feature)) {
            return Ok(());
        }
        pool.host().feature_incr(tx, feature)?;
        pool.meta.zapify(tx, self.object)?;
        pool.meta.zap_add(tx, self.object, feature, 0)
    }

    /// The opposite (`dsl_dataset_deactivate_feature`).
    pub(crate) fn deactivate_features(&self, pool: &DslPool, tx: &Tx) -> Result<BTreeSet<&'static str>> {
        let features = self.with(|s| core::mem::take(&mut s.features));
        for feature in &features {
            pool.meta.zap_remove(tx, self.object, feature)?;
            pool.host().feature_decr(tx, feature)?;
        }
        Ok(features)
    }
}

impl DslPool {
    /// Writes the given dirty objsets (those that the txg's open phase dirtied, in the first call; none later) and all that sync tasks of
    /// this txg have made dirty, then their deadlists and accounts and that of the MOS, into the MOS. To be called in every sync pass
    /// before the MOS is synced, in pass 1 also before the sync tasks.
    pub fn sync(&self, tx: &Tx, pass: u32, alloc: &dyn AllocateBlocks, dirty: &[Arc<Objset>]) -> Result<()> {
        let mut objsets: BTreeMap<u64, Arc<Objset>> = BTreeMap::new();
        for objset in dirty.iter().map(Arc::clone).chain(self.mos().txgs().take_dirty(tx.txg())) {
            if objset.id() != 0 {
                objsets.insert(objset.id(), objset);
            }
        }
        for objset in objsets.values() {
            self.sync_dataset(tx, pass, alloc, objset)?;
        }
        // A txg in which nothing else happened must not become one that writes for this alone.
        if pass <= LAST_ACCOUNTED_PASS && (pass > 1 || self.mos().is_dirty(tx.txg())) {
            let delta = core::mem::take(&mut *self.mos_delta.lock());
            let dir = self.fixed().mos_dir;
            if delta != Delta::default() && dir != 0 {
                self.hold_dir(dir)?.diduse(&self.meta, tx, Used::Head, delta)?;
            }
        }
        Ok(())
    }

    fn sync_dataset(
        &self,
        tx: &Tx,
        pass: u32,
        alloc: &dyn AllocateBlocks,
        objset: &Arc<Objset>,
    ) -> Result<()> {
        let dataset = match self.hold_dataset(objset.id()) {
            Ok(dataset) => dataset,
            // Destroyed in an earlier txg, with changes that nobody will miss.
            Err(Error::NotFound) => return Ok(()),
            Err(error) => return Err(error),
        };
        let current = dataset.open_objset().is_some_and(|open| Arc::ptr_eq(&open, objset));
        if !current || dataset.is_snapshot() {
            return Ok(());
        }
        let lost = self.open_marks(&dataset)?.into_iter().map(|txg| (txg, Space::default())).collect();
        let owner = DatasetOwner {
            pool: self,
            tx,
            prev_snap_txg: dataset.phys().prev_snap_txg,
            tally: Mutex::new(Tally { lost, ..Tally::default() }),
        };
        let ctx = SyncContext { txg: tx.txg(), pass, alloc, owner: &owner };
        let root = objset.sync(&ctx)?;
        let mut tally = owner.tally.into_inner();
        if objset.has_large_dnodes() {
            tally.features.insert("org.zfsonlinux:large_dnode");
        }
        if objset.has_long_names() && self.host().feature_enabled(LONGNAME) {
            tally.features.insert(LONGNAME);
        }
        let flags = objset.flags();
        for (flag, feature) in ACCOUNTING_FEATURES {
            if flags & flag != 0 && self.host().feature_enabled(feature) {
                tally.features.insert(feature);
            }
        }
        // From the next txg on the intent log may have records of these.
        if objset.kind() == ObjsetKind::Zfs && self.host().feature_enabled(ZILSAXATTR) {
            tally.features.insert(ZILSAXATTR);
        }
        self.drop_livelist(tx, &dataset.dir())?;
        self.account(tx, &dataset, root, &tally)?;
        if tally.lost.iter().any(|(_, space)| *space != Space::default()) {
            self.marks_lost(tx, &dataset, &tally.lost)?;
        }
        for feature in tally.features {
            dataset.activate_feature(self, tx, feature)?;
        }
        Ok(())
    }

    /// Puts what a sync did into the books of dataset, dir and previous snapshot, and the dead blocks on the deadlist.
    fn account(&self, tx: &Tx, dataset: &Dataset, root: Blkptr, tally: &Tally) -> Result<()> {
        let host = self.host();
        let mut dead = Space::default();
        for bp in &tally.dead {
            dead += space_of(host, bp);
        }
        let mut change = Delta::plus(tally.born);
        change += Delta::minus(tally.freed);
        let reserved = dataset.with(|s| s.reserved);
        let (phys, charged) = dataset.update(self, tx, |phys| {
            phys.bp = root;
            for (field, born, gone) in [
                (&mut phys.referenced_bytes, change.used, dead.used),
                (&mut phys.compressed_bytes, change.compressed, dead.compressed),
                (&mut phys.uncompressed_bytes, change.uncompressed, dead.uncompressed),
            ] {
                *field = field.wrapping_add_signed(born).wrapping_sub(gone);
            }
            let before = phys.unique_bytes.max(reserved);
            phys.unique_bytes = phys.unique_bytes.wrapping_add_signed(change.used);
            (phys.clone(), phys.unique_bytes.max(reserved).wrapping_sub(before) as i64)
        })?;
        let dir = dataset.dir();
        // Of what the refreservation had promised, so much is used now.
        dir.diduse_transfer(
            &self.meta,
            tx,
            Delta { used: charged, ..change },
            change.used,
            (Used::RefReservation, Used::Head),
        )?;
        if tally.dead.is_empty() {
            return Ok(());
        }
        self.account_dead(tx, dataset.object, &phys, &dir, &tally.dead)?;
        Deadlist::open(&self.meta, phys.deadlist_obj)?.insert(tx, &tally.dead)
    }

    /// Blocks that only the previous snapshot has now are its own; those born in this dir count as its snapshots'.
    fn account_dead(
        &self,
        tx: &Tx,
        object: u64,
        phys: &crate::ondisk::dsl::DatasetPhys,
        dir: &Dir,
        dead: &[Blkptr],
    ) -> Result<()> {
        let previous = self.hold_dataset(phys.prev_snap_obj)?;
        let (next, previous_txg) = previous.with(|s| (s.phys.next_snap_obj, s.phys.prev_snap_txg));
        let origin_txg = dir.origin_txg();
        let (mut unique, mut moved) = (0, 0);
        for bp in dead {
            let used = space_of(self.host(), bp).used;
            if next == object && bp.birth() > previous_txg {
                unique += used;
            }
            if bp.birth() > origin_txg {
                moved += used;
            }
        }
        if unique > 0 {
            previous.update(self, tx, |p| p.unique_bytes = p.unique_bytes.wrapping_add(unique))?;
        }
        dir.transfer(&self.meta, tx, moved as i64, Used::Head, Used::Snap)
    }

    /// Who is told of the MOS's own blocks (accounted to `$MOS`, freed at once).
    pub fn mos_owner<'a>(&'a self, tx: &'a Tx) -> Box<dyn BlockOwner + 'a> {
        Box::new(MosOwner { pool: self, tx })
    }

    /// Frees a bounded number of the blocks that destroyed snapshots left behind (`dsl_process_async_destroys`); pass 1. True if
    /// more is left.
    pub fn free_some(&self, tx: &Tx) -> Result<bool> {
        let fixed = self.fixed();
        if fixed.free_bpobj == 0 {
            return Ok(false);
        }
        let more = self.free_trees(tx, FREES_PER_TXG)?;
        let more = self.free_deleted_clones(tx)? || more;
        let mut list = self.free_list()?;
        if list.is_empty() {
            return Ok(more);
        }
        let mut left = FREES_PER_TXG;
        let freed = list.take(tx, &mut left, &mut |bp| {
            if !bp.is_embedded() {
                self.host().free_block(tx, bp);
            }
            Ok(())
        })?;
        self.hold_dir(fixed.free_dir)?.diduse(&self.meta, tx, Used::Head, Delta::minus(freed))?;
        Ok(more || !list.is_empty())
    }

    /// Whether [`DslPool::free_some`] has something to do.
    pub fn has_pending_frees(&self) -> Result<bool> {
        Ok(self.fixed().free_bpobj != 0 && !self.free_list()?.is_empty())
    }

    /// Calls `visit` for all blocks that wait to be freed: they are allocated and in no dataset.
    pub fn visit_pending_frees(&self, visit: &mut dyn FnMut(&Blkptr) -> Result<()>) -> Result<()> {
        if self.fixed().free_bpobj == 0 {
            return Ok(());
        }
        self.visit_trees(visit)?;
        self.visit_deleted_clones(visit)?;
        self.free_list()?.for_each(visit)
    }

    /// Calls `visit` for every objset that holds blocks: `(objset id, its root, txg)`; blocks born at or before that txg belong to an
    /// earlier snapshot and are to be skipped. Of each dir the snapshots come first, oldest first. So each block of the pool's datasets is met once.
    pub fn visit_objsets(&self, visit: &mut dyn FnMut(u64, &Blkptr, u64) -> Result<()>) -> Result<()> {
        let mut all: Vec<Arc<Dataset>> = Vec::new();
        {
            let _config = self.read_config();
            let mut stack = alloc::vec![self.root_dir()?];
            let mut seen = BTreeSet::new();
            while let Some(dir) = stack.pop() {
                if !seen.insert(dir.object) {
                    return Err(Error::corrupt("dsl_dir: the tree of names has no end", None));
                }
                let mut children = self.meta.zap_entries(dir.phys().child_dir_zapobj)?;
                children.sort();
                for (_, object) in children.into_iter().rev() {
                    stack.push(self.hold_dir(object)?);
                }
                if dir.phys().head_dataset_obj != 0 {
                    let head = self.head_of(&dir)?;
                    all.extend(self.snapshots_of(&head)?);
                    all.push(head);
                }
            }
        }
        for dataset in all {
            let phys = dataset.phys();
            self.assign_key(&dataset)?;
            if !phys.bp.is_hole() {
                visit(dataset.object, &phys.bp, phys.prev_snap_txg)?;
            }
        }
        Ok(())
    }
}
