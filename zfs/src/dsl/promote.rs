//! Promoting a clone: the snapshots that it shares with its origin's file system become its own. Source: `dsl_dataset_promote_check`,
//! `dsl_dataset_promote_sync` (`module/zfs/dsl_dataset.c`).

use super::create::SNAPSHOT_COUNT;
use super::dataset::Dataset;
use super::deadlist::Deadlist;
use super::dir::{Delta, Dir};
use super::host::Slop;
use super::names;
use super::pool::DslPool;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::dsl::{DD_FLAG_USED_BREAKDOWN, DS_FLAG_NOPROMOTE, Space, Used};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Everything that the check finds out, newest snapshots first.
struct Plan {
    clone: Arc<Dataset>,
    /// The clone's head and its own snapshots.
    of_clone: Vec<Arc<Dataset>>,
    /// The origin and all before it in the origin's dir: what moves.
    shared: Vec<Arc<Dataset>>,
    /// The origin's head and its snapshots newer than the origin.
    of_origin: Vec<Arc<Dataset>>,
    /// The snapshot that the origin's dir was itself cloned from (`$ORIGIN` if it is no clone).
    origin_origin: Arc<Dataset>,
    /// Space that moves with the shared snapshots.
    moves: Space,
    unique: u64,
    clone_snapshots: u64,
    origin_snapshots: u64,
}

impl DslPool {
    /// Makes a clone the owner of the snapshots that it shares with its origin (`zfs promote`). [`Error::Exists`] if a snapshot of the same
    /// name is in the way.
    pub fn promote(&self, name: &str) -> Result<()> {
        names::check_dataset(name)?;
        let name = name.to_string();
        self.run_task(Slop::Reserved, move |pool, tx| {
            let plan = pool.plan_promotion(&name)?;
            pool.carry_out(tx, &plan)
        })
    }

    /// A dataset and its predecessors as long as they belong to `dir` (`snaplist_make`), stopping before `end`.
    fn chain(&self, first: &Arc<Dataset>, dir: u64, end: u64) -> Result<Vec<Arc<Dataset>>> {
        let mut chain = Vec::new();
        let mut at = Some(Arc::clone(first));
        while let Some(dataset) = at.filter(|d| d.object != end && d.phys().dir_obj == dir) {
            at = self.previous(&dataset.phys())?;
            chain.push(dataset);
        }
        Ok(chain)
    }

    fn plan_promotion(&self, name: &str) -> Result<Plan> {
        let clone = self.find(name)?;
        let origin = clone.origin()?.ok_or(Error::Invalid("only a clone can be promoted"))?;
        if clone.is_snapshot() || clone.phys().flags & DS_FLAG_NOPROMOTE != 0 {
            return Err(Error::Invalid("this dataset cannot be promoted"));
        }
        let origin_dir = origin.dir();
        self.refuse_encrypted(&origin_dir)?;
        let origin_head = self.head_of(&origin_dir)?;
        let origin_origin = self.hold_dataset(origin_dir.phys().origin_obj)?;
        let of_clone = self.chain(&clone, clone.dir().object, origin.object)?;
        let shared = self.chain(&origin, origin_dir.object, origin_origin.object)?;
        let of_origin = self.chain(&origin_head, origin_dir.object, origin.object)?;
        let oldest = of_clone.last().ok_or(Error::corrupt("promote: a clone has no head", None))?;
        let unique = Deadlist::open(&self.meta, oldest.phys().deadlist_obj)?
            .space_range(origin.phys().prev_snap_txg, u64::MAX)?
            .used;
        if self.marks_collide(&clone, &origin_head, origin.creation_txg())? {
            return Err(Error::Exists);
        }
        let moves = self.space_moved(&clone, &origin, &origin_origin, &shared)?;
        let origin_txg = origin_dir.origin_txg();
        let breakdown = |dir: &Dir| dir.phys().flags & DD_FLAG_USED_BREAKDOWN != 0;
        let mut plan = Plan {
            clone_snapshots: 0,
            origin_snapshots: 0,
            clone,
            of_clone,
            shared,
            of_origin,
            origin_origin,
            moves,
            unique,
        };
        if breakdown(&plan.clone.dir()) {
            plan.clone_snapshots =
                self.dead_space(&plan.shared, origin_txg)? + self.dead_space(&plan.of_clone, origin_txg)?;
        }
        if breakdown(&origin_dir) {
            plan.origin_snapshots = self.dead_space(&plan.of_origin, origin.creation_txg())?;
        }
        Ok(plan)
    }

    /// What the shared snapshots use: what the origin refers to, and all that died before it.
    fn space_moved(
        &self,
        clone: &Dataset,
        origin: &Dataset,
        origin_origin: &Dataset,
        shared: &[Arc<Dataset>],
    ) -> Result<Space> {
        let refers = |d: &Dataset| {
            let phys = d.phys();
            Space {
                used: phys.referenced_bytes,
                compressed: phys.compressed_bytes,
                uncompressed: phys.uncompressed_bytes,
            }
        };
        let mut moves = refers(origin);
        for snapshot in shared {
            if snapshot.is_held() {
                return Err(Error::Busy);
            }
            let name = snapshot.with(|s| s.snap_name.clone()).unwrap_or_default();
            if clone.name().len() + 1 + name.len() >= 256 {
                return Err(Error::NameTooLong);
            }
            if self.find_snapshot(clone, &name)?.is_some() {
                return Err(Error::Exists);
            }
            let phys = snapshot.phys();
            if phys.prev_snap_obj != 0 {
                moves += Deadlist::open(&self.meta, phys.deadlist_obj)?.space();
            }
        }
        moves -= refers(origin_origin);
        Ok(moves)
    }

    /// What is on the deadlists of these and was born after `txg` (`snaplist_space`).
    fn dead_space(&self, datasets: &[Arc<Dataset>], txg: u64) -> Result<u64> {
        let mut used = 0;
        for dataset in datasets {
            used += Deadlist::open(&self.meta, dataset.phys().deadlist_obj)?.space_range(txg, u64::MAX)?.used;
        }
        Ok(used)
    }

    fn carry_out(&self, tx: &Tx, plan: &Plan) -> Result<()> {
        let (clone, origin) = (&plan.clone, &plan.shared[0]);
        let (dir, origin_dir) = (clone.dir(), origin.dir());
        let origin_head = &plan.of_origin[0];
        self.drop_livelist(tx, &dir)?;
        self.drop_livelist(tx, &origin_dir)?;
        // The origin's next is the clone's oldest now, and the old next is a clone of it.
        let oldest = plan.of_clone.last().map_or(clone.object, |d| d.object);
        let old_next = origin.phys().next_snap_obj;
        origin.update(self, tx, |o| o.next_snap_obj = oldest)?;
        let clones = origin.phys().next_clones_obj;
        if clones != 0 {
            self.meta.zap_remove_int(tx, clones, oldest)?;
            self.meta.zap_add_int(tx, clones, old_next)?;
        }
        let (above, above_txg) = (origin_dir.phys().origin_obj, origin_dir.origin_txg());
        dir.update(&self.meta, tx, |d| d.origin_obj = above)?;
        dir.with_state(|s| s.origin_txg = above_txg);
        origin_dir.update(&self.meta, tx, |d| d.origin_obj = origin.object)?;
        origin_dir.with_state(|s| s.origin_txg = origin.creation_txg());
        // Who is a clone of whose dir.
        let above_dir = plan.origin_origin.dir();
        self.meta.zap_remove_int(tx, origin_dir.phys().clones, clone.object)?;
        self.add_dir_clone(tx, &above_dir, clone.object)?;
        self.meta.zap_remove_int(tx, above_dir.phys().clones, origin_head.object)?;
        self.add_dir_clone(tx, &dir, origin_head.object)?;
        self.move_marks(tx, origin_head, clone, origin.creation_txg())?;
        self.marks_next_changed(tx, clone, origin)?;
        for snapshot in &plan.shared {
            self.move_snapshot(tx, snapshot, (origin_head, &origin_dir), (clone, &dir), old_next)?;
        }
        self.move_used(tx, plan, &dir, &origin_dir)?;
        origin.update(self, tx, |o| o.unique_bytes = plan.unique)?;
        self.host().move_errors(tx, origin_head.object, clone.object, origin.creation_txg())?;
        self.host().log_internal(tx, "promote", clone.object, &clone.name(), " ")
    }

    /// One shared snapshot changes its dir.
    fn move_snapshot(
        &self,
        tx: &Tx,
        snapshot: &Arc<Dataset>,
        (old_head, old_dir): (&Dataset, &Arc<Dir>),
        (head, dir): (&Dataset, &Arc<Dir>),
        old_next: u64,
    ) -> Result<()> {
        let name = snapshot.with(|s| s.snap_name.clone()).unwrap_or_default();
        snapshot.replace_objset(None);
        self.meta.zap_remove(tx, old_head.phys().snapnames_zapobj, &name)?;
        self.adjust_count(tx, old_dir, SNAPSHOT_COUNT, -1, &name)?;
        self.meta.zap_add(tx, head.phys().snapnames_zapobj, &name, snapshot.object)?;
        self.adjust_count(tx, dir, SNAPSHOT_COUNT, 1, &name)?;
        snapshot.with(|s| s.dir = Arc::clone(dir));
        snapshot.update(self, tx, |p| p.dir_obj = dir.object)?;
        let clones = snapshot.phys().next_clones_obj;
        if clones == 0 {
            return Ok(());
        }
        for (_, object) in self.meta.zap_entries(clones)? {
            // The old head's branch is a clone since a moment ago and already in its place.
            if object != old_next {
                let other = self.hold_dataset(object)?.dir().phys().head_dataset_obj;
                self.meta.zap_remove_int(tx, old_dir.phys().clones, other)?;
                self.add_dir_clone(tx, dir, other)?;
            }
        }
        Ok(())
    }

    fn move_used(&self, tx: &Tx, plan: &Plan, dir: &Arc<Dir>, origin_dir: &Arc<Dir>) -> Result<()> {
        let snapshots = |dir: &Dir| dir.phys().used_breakdown[Used::Snap as usize] as i64;
        let moves = Delta::plus(plan.moves);
        let more = plan.clone_snapshots as i64 - snapshots(dir);
        dir.diduse(&self.meta, tx, Used::Snap, Delta::used(more))?;
        dir.diduse(&self.meta, tx, Used::Head, Delta { used: moves.used - more, ..moves })?;
        let less = plan.origin_snapshots as i64 - snapshots(origin_dir);
        origin_dir.diduse(&self.meta, tx, Used::Snap, Delta::used(less))?;
        let gone = -moves;
        origin_dir.diduse(&self.meta, tx, Used::Head, Delta { used: gone.used - less, ..gone })
    }
}
