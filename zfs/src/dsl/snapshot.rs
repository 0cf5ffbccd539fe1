//! Taking snapshots. Source: `dsl_dataset_snapshot_check`, `dsl_dataset_snapshot_sync_impl` (`module/zfs/dsl_dataset.c`).

use super::create::SNAPSHOT_COUNT;
use super::dataset::{Dataset, Kind};
use super::deadlist::Deadlist;
use super::dir::Delta;
use super::host::Slop;
use super::names;
use super::pool::DslPool;
use super::setprop::Setting;
use crate::dmu::Tx;
use crate::error::{Error, Result};
use crate::ondisk::dsl::{DS_FLAG_UNIQUE_ACCURATE, DatasetPhys, Used};
use crate::ondisk::object_type::ObjectType;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Two snapshots of one dataset cannot lie in one txg: how often we try the next.
const ATTEMPTS: usize = 16;

/// Outcome of the check in syncing context.
enum Check {
    Good(Vec<(Arc<Dataset>, String)>),
    /// A dataset was snapshotted or created in this very txg.
    NextTxg,
}

impl DslPool {
    /// Takes snapshots, all in one txg or none. What was written before the call is in them.
    pub fn create_snapshots(&self, names: &[&str]) -> Result<()> {
        self.create_snapshots_with(names, &[])
    }

    /// The same with user properties on each of them.
    pub fn create_snapshots_with(&self, names: &[&str], properties: &[(&str, &str)]) -> Result<()> {
        let mut wanted: Vec<(String, String)> = Vec::new();
        for name in names {
            let (path, snap) = names::split_snapshot(name)?;
            if wanted.iter().any(|(p, s)| p == path && s == snap) {
                return Err(Error::Exists);
            }
            if wanted.iter().any(|(p, _)| p == path) {
                return Err(Error::Invalid("two snapshots of one dataset cannot be taken at once"));
            }
            wanted.push((path.to_string(), snap.to_string()));
        }
        self.snapshot_all(properties, move |_| Ok(wanted.clone()))
    }

    /// Takes the snapshot `@snap` of `name` and of everything below it, all in one txg.
    pub fn create_snapshots_recursive(&self, name: &str, snap: &str) -> Result<()> {
        self.create_snapshots_recursive_with(name, snap, &[])
    }

    /// The same with user properties on each of them.
    pub fn create_snapshots_recursive_with(
        &self,
        name: &str,
        snap: &str,
        properties: &[(&str, &str)],
    ) -> Result<()> {
        names::split_snapshot(&format!("{name}@{snap}"))?;
        let (name, snap) = (name.to_string(), snap.to_string());
        self.snapshot_all(properties, move |pool| {
            let all = pool.below(&pool.find(&name)?)?;
            Ok(all.iter().map(|d| (d.name(), snap.clone())).collect())
        })
    }

    fn snapshot_all(
        &self,
        properties: &[(&str, &str)],
        wanted: impl Fn(&DslPool) -> Result<Vec<(String, String)>> + Clone + Send + 'static,
    ) -> Result<()> {
        let given: Vec<(String, String)> =
            properties.iter().map(|(n, v)| ((*n).to_string(), (*v).to_string())).collect();
        for _ in 0..ATTEMPTS {
            let (wanted, given) = (wanted.clone(), given.clone());
            let done = self.run_task(Slop::Reserved, move |pool, tx| {
                match pool.check_snapshots(tx, &wanted(pool)?)? {
                    Check::NextTxg => Ok(false),
                    Check::Good(heads) => {
                        let settings = Setting::read_all(pool, &given, Kind::Snapshot)?;
                        let now = pool.now();
                        for (head, snap) in heads {
                            let snapshot = pool.snapshot_head(tx, &head, &snap, now, None)?;
                            for setting in &settings {
                                pool.apply_setting(tx, &snapshot, setting)?;
                            }
                        }
                        Ok(true)
                    }
                }
            })?;
            if done {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    fn check_snapshots(&self, tx: &Tx, wanted: &[(String, String)]) -> Result<Check> {
        let mut heads = Vec::new();
        for (path, snap) in wanted {
            let head = self.find(path)?;
            if head.is_snapshot() {
                return Err(Error::Invalid("a snapshot has no snapshots"));
            }
            if path.len() + 1 + snap.len() >= 256 {
                return Err(Error::NameTooLong);
            }
            if self.find_snapshot(&head, snap)?.is_some() {
                return Err(Error::Exists);
            }
            let phys = head.phys();
            let unsynced = head.open_objset().is_some_and(|os| os.is_dirty(tx.txg()));
            if phys.prev_snap_txg >= tx.txg() || unsynced || phys.bp.is_hole() {
                return Ok(Check::NextTxg);
            }
            // The head keeps its refreservation and the snapshot all that it has: both must fit.
            let reserved = head.with(|s| s.reserved);
            let asked = phys.unique_bytes.min(reserved);
            if asked > head.dir().available(&self.meta) {
                return Err(Error::NoSpace);
            }
            heads.push((head, snap.clone()));
        }
        Ok(Check::Good(heads))
    }

    /// The snapshot itself (`dsl_dataset_snapshot_sync_impl`). Nothing of the head may be dirty in this txg any more.
    pub(crate) fn snapshot_head(
        &self,
        tx: &Tx,
        head: &Arc<Dataset>,
        name: &str,
        time: u64,
        txg: Option<u64>,
    ) -> Result<Arc<Dataset>> {
        let before = head.phys();
        let dir = head.dir();
        self.adjust_count(tx, &dir, SNAPSHOT_COUNT, 1, name)?;
        let dnode = self.allocate_dataset(tx)?;
        let object = dnode.object();
        let txg = txg.unwrap_or(tx.txg());
        let env = self.host().env();
        let snapshot = DatasetPhys {
            dir_obj: dir.object,
            prev_snap_obj: before.prev_snap_obj,
            prev_snap_txg: before.prev_snap_txg,
            next_snap_obj: head.object,
            num_children: 1,
            creation_time: time,
            creation_txg: txg,
            deadlist_obj: before.deadlist_obj,
            referenced_bytes: before.referenced_bytes,
            compressed_bytes: before.compressed_bytes,
            uncompressed_bytes: before.uncompressed_bytes,
            unique_bytes: 0,
            fsid_guid: (env.random.next_u64() >> 8).max(1),
            guid: env.random.next_u64().max(1),
            flags: before.flags,
            bp: before.bp,
            ..DatasetPhys::default()
        };
        dnode.set_bonus(tx, ObjectType::DSL_DATASET, &snapshot.emit())?;
        self.meta.zap_add(tx, before.snapnames_zapobj, name, object)?;
        let dataset = self.hold_dataset_named(object, Some(name))?;
        for feature in head.with(|s| s.features.clone()) {
            dataset.activate_feature(self, tx, feature)?;
        }
        self.name_ivset(tx, &dir, object)?;
        self.insert_after_previous(tx, &before, head.object, object)?;
        let reserved = head.with(|s| s.reserved);
        if reserved != 0 {
            // All that the head has is shared now, so the refreservation is charged in full again.
            let again = before.unique_bytes.min(reserved) as i64;
            dir.diduse(&self.meta, tx, Used::RefReservation, Delta::used(again))?;
        }
        let old = Deadlist::open(&self.meta, before.deadlist_obj)?;
        let keys = if old.is_old() { self.keys_before(before.prev_snap_obj)? } else { Vec::new() };
        let deadlist = old.clone_keys(tx, u64::MAX, &keys)?;
        Deadlist::open(&self.meta, deadlist)?.add_key(tx, before.prev_snap_txg)?;
        self.marks_snapshotted(tx, head, deadlist, before.prev_snap_txg)?;
        head.update(self, tx, |phys| {
            phys.deadlist_obj = deadlist;
            phys.prev_snap_obj = object;
            phys.prev_snap_txg = txg;
            phys.unique_bytes = 0;
            phys.flags |= DS_FLAG_UNIQUE_ACCURATE;
        })?;
        if !name.starts_with('$') {
            self.host().log_internal(tx, "snapshot", object, &dataset.name(), " ")?;
        }
        Ok(dataset)
    }

    /// The `prev_snap_txg` of a snapshot and of all before it: the keys of a deadlist that has none itself.
    pub(crate) fn keys_before(&self, snapshot: u64) -> Result<Vec<u64>> {
        let mut keys = Vec::new();
        let mut at = if snapshot == 0 { None } else { Some(self.hold_dataset(snapshot)?) };
        while let Some(dataset) = at {
            let phys = dataset.phys();
            keys.push(phys.prev_snap_txg);
            at = self.previous(&phys)?;
        }
        Ok(keys)
    }

    /// The previous snapshot's next is the new snapshot, not the head; of an origin, that is one of its clones.
    fn insert_after_previous(&self, tx: &Tx, before: &DatasetPhys, head: u64, object: u64) -> Result<()> {
        if before.prev_snap_obj == 0 {
            return Ok(());
        }
        let previous = self.hold_dataset(before.prev_snap_obj)?;
        let phys = previous.phys();
        if phys.next_snap_obj == head {
            previous.update(self, tx, |p| p.next_snap_obj = object)
        } else if phys.next_clones_obj != 0 {
            self.meta.zap_remove_int(tx, phys.next_clones_obj, head)?;
            self.meta.zap_add_int(tx, phys.next_clones_obj, object)
        } else {
            Ok(())
        }
    }
}
