//! Making dirs, datasets, clones, and the first of them in a new pool. Source: `dsl_dir_create_sync`, `dsl_dataset_create_sync_dd`,
//! `dsl_pool_create` (`module/zfs/dsl_dir.c`, `dsl_dataset.c`, `dsl_pool.c`), `dmu_objset_create`, `dmu_objset_clone`.

use super::bpobj::Bpobj;
use super::dataset::{Dataset, Kind};
use super::deadlist::Deadlist;
use super::dir::{Dir, split_last};
use super::host::{Slop, SpaHost};
use super::mos::OBJECT_DIRECTORY;
use super::names;
use super::pool::{DslPool, InitFs};
use super::setprop::Setting;
use crate::dmu::{Allocate, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::dsl::{
    DATASET_PHYS_SIZE, DD_FLAG_USED_BREAKDOWN, DIR_PHYS_SIZE, DS_FLAG_CI_DATASET, DS_FLAG_INCONSISTENT,
    DS_FLAG_UNIQUE_ACCURATE, DatasetPhys, DirPhys,
};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::{ObjsetKind, ZIL_HEADER_SIZE};
use crate::zap;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The first txg of a pool (`TXG_INITIAL`); what `$ORIGIN` holds is older.
const TXG_INITIAL: u64 = 4;
const FILESYSTEM_COUNT: &str = "com.joyent:filesystem_count";
/// Feature by which dirs count what is below them.
const FEATURE_LIMITS: &str = "com.joyent:filesystem_limits";
pub(crate) const SNAPSHOT_COUNT: &str = "com.joyent:snapshot_count";

/// What a new file system or volume is to be.
pub struct CreateFs {
    /// [`Kind::Filesystem`] or [`Kind::Volume`].
    pub kind: Kind,
    /// Properties, as text.
    pub properties: Vec<(String, String)>,
    /// Fills the objset. It runs in syncing context with the names locked: it must not ask datasets for properties.
    pub init: InitFs,
    /// Creates missing parents, too (`-p`), each filled by what this gives; `None`: they must exist.
    pub parents: Option<Box<dyn Fn() -> InitFs + Send>>,
}

impl DslPool {
    /// Makes the root dir, `$MOS`, `$FREE`, `$ORIGIN` and the root dataset in a new MOS whose object directory (object 1) exists
    /// (`dsl_pool_create`). `root` says what the root file system is.
    pub fn create(mos: &Arc<Objset>, host: Arc<dyn SpaHost>, tx: &Tx, root: CreateFs) -> Result<Arc<Self>> {
        let pool = Self::empty(mos, host)?;
        let root_dir = pool.create_dir(tx, None, "")?;
        pool.fixed.lock().root_dir = root_dir.object;
        let mos_dir = pool.create_dir(tx, Some(&root_dir), "$MOS")?.object;
        let free_dir = pool.create_dir(tx, Some(&root_dir), "$FREE")?.object;
        let free_bpobj = Bpobj::allocate(mos, tx)?;
        pool.meta.zap_add(tx, OBJECT_DIRECTORY, "free_bpobj", free_bpobj)?;
        {
            let mut fixed = pool.fixed.lock();
            (fixed.mos_dir, fixed.free_dir, fixed.free_bpobj) = (mos_dir, free_dir, free_bpobj);
        }
        let origin_dir = pool.create_dir(tx, Some(&root_dir), "$ORIGIN")?;
        let origin_head = pool.create_head(tx, &origin_dir, None, 0)?;
        let origin = pool.snapshot_head(tx, &origin_head, "$ORIGIN", pool.now(), Some(1))?;
        pool.fixed.lock().origin_snapshot = origin.object;
        let settings = Setting::read_all(&pool, &root.properties, root.kind)?;
        pool.create_content(tx, &root_dir, root.kind, &settings, root.init)?;
        Ok(pool)
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.host().env().clock.now().sec).unwrap_or(0)
    }

    /// A random number that is not 0, of at most `bits` bits.
    fn random_id(&self, bits: u32) -> u64 {
        loop {
            let id = self.host().env().random.next_u64() >> (64 - bits);
            if id != 0 {
                return id;
            }
        }
    }

    /// A dir without a dataset (`dsl_dir_create_sync`).
    pub(crate) fn create_dir(&self, tx: &Tx, parent: Option<&Arc<Dir>>, name: &str) -> Result<Arc<Dir>> {
        let what = Allocate {
            bonus_type: ObjectType::DSL_DIR,
            bonus_len: DIR_PHYS_SIZE as u16,
            ..Allocate::plain(ObjectType::DSL_DIR, 0)
        };
        let dnode = self.meta.os.allocate(tx, &what)?;
        let object = dnode.object();
        match parent {
            Some(parent) => self.meta.zap_add(tx, parent.phys().child_dir_zapobj, name, object)?,
            None => self.meta.zap_add(tx, OBJECT_DIRECTORY, "root_dataset", object)?,
        }
        let phys = DirPhys {
            creation_time: self.now(),
            parent_obj: parent.map_or(0, |p| p.object),
            props_zapobj: self.meta.zap_create(tx, ObjectType::DSL_PROPS)?,
            child_dir_zapobj: self.meta.zap_create(tx, ObjectType::DSL_DIR_CHILD_MAP)?,
            flags: DD_FLAG_USED_BREAKDOWN,
            ..DirPhys::default()
        };
        dnode.set_bonus(tx, ObjectType::DSL_DIR, &phys.emit())?;
        if let Some(parent) = parent {
            self.adjust_count(tx, parent, FILESYSTEM_COUNT, 1, name)?;
        }
        self.hold_dir(object)
    }

    /// Counts file systems or snapshots of a dir and of all above it, where they are counted (`dsl_fs_ss_count_adjust`).
    pub(crate) fn adjust_count(
        &self,
        tx: &Tx,
        dir: &Arc<Dir>,
        field: &str,
        delta: i64,
        name: &str,
    ) -> Result<()> {
        if name.starts_with(['$', '%']) || !self.host().feature_active(FEATURE_LIMITS) {
            return Ok(());
        }
        let mut dir = Some(Arc::clone(dir));
        while let Some(this) = dir {
            let Some(count) = self.meta.field(this.object, field)? else { return Ok(()) };
            self.meta.zap_set(tx, this.object, field, count.wrapping_add_signed(delta))?;
            dir = this.parent();
        }
        Ok(())
    }

    /// The head dataset of a dir, empty or a clone of `origin` (`dsl_dataset_create_sync_dd`).
    pub(crate) fn create_head(
        &self,
        tx: &Tx,
        dir: &Arc<Dir>,
        origin: Option<&Arc<Dataset>>,
        flags: u64,
    ) -> Result<Arc<Dataset>> {
        let fallback = match (origin, self.origin_snapshot()) {
            (None, object) if object != 0 => Some(self.hold_dataset(object)?),
            _ => None,
        };
        let origin = origin.or(fallback.as_ref());
        let dnode = self.allocate_dataset(tx)?;
        let object = dnode.object();
        let mut phys = DatasetPhys {
            dir_obj: dir.object,
            flags: flags | DS_FLAG_UNIQUE_ACCURATE,
            fsid_guid: self.random_id(56),
            guid: self.random_id(64),
            snapnames_zapobj: zap::create(
                &self.meta.os,
                tx,
                ObjectType::DSL_DS_SNAP_MAP,
                &zap::CreateOptions {
                    normalization: zap::NORMALIZE_TO_UPPER,
                    ..zap::CreateOptions::default()
                },
            )?
            .object(),
            creation_time: self.now(),
            creation_txg: if tx.txg() == TXG_INITIAL { 1 } else { tx.txg() },
            ..DatasetPhys::default()
        };
        match origin {
            None => phys.deadlist_obj = Deadlist::allocate(&self.meta, tx)?,
            Some(origin) => self.graft(tx, dir, origin, object, &mut phys)?,
        }
        dnode.set_bonus(tx, ObjectType::DSL_DATASET, &phys.emit())?;
        dir.update(&self.meta, tx, |d| d.head_dataset_obj = object)?;
        let dataset = self.hold_dataset(object)?;
        if let Some(origin) = origin {
            for feature in origin.with(|s| s.features.clone()) {
                dataset.activate_feature(self, tx, feature)?;
            }
        }
        Ok(dataset)
    }

    pub(crate) fn allocate_dataset(&self, tx: &Tx) -> Result<Arc<crate::dmu::Dnode>> {
        let what = Allocate {
            bonus_type: ObjectType::DSL_DATASET,
            bonus_len: DATASET_PHYS_SIZE as u16,
            ..Allocate::plain(ObjectType::DSL_DATASET, 0)
        };
        self.meta.os.allocate(tx, &what)
    }

    /// Makes the head `object` a descendant of the snapshot `origin`.
    fn graft(
        &self,
        tx: &Tx,
        dir: &Arc<Dir>,
        origin: &Arc<Dataset>,
        object: u64,
        phys: &mut DatasetPhys,
    ) -> Result<()> {
        let from = origin.phys();
        phys.prev_snap_obj = origin.object;
        phys.prev_snap_txg = from.creation_txg;
        phys.referenced_bytes = from.referenced_bytes;
        phys.compressed_bytes = from.compressed_bytes;
        phys.uncompressed_bytes = from.uncompressed_bytes;
        phys.bp = from.bp;
        phys.flags |= from.flags & (DS_FLAG_INCONSISTENT | DS_FLAG_CI_DATASET);
        let origin_head = self.head_of(&origin.dir())?.phys();
        let list = Deadlist::open(&self.meta, origin_head.deadlist_obj)?;
        let keys = if list.is_old() { self.keys_before(origin.object)? } else { Vec::new() };
        phys.deadlist_obj = list.clone_keys(tx, phys.prev_snap_txg, &keys)?;
        let clones = match from.next_clones_obj {
            0 => self.meta.zap_create(tx, ObjectType::NEXT_CLONES)?,
            clones => clones,
        };
        origin.update(self, tx, |o| {
            o.num_children += 1;
            o.next_clones_obj = clones;
        })?;
        self.meta.zap_add_int(tx, clones, object)?;
        dir.update(&self.meta, tx, |d| d.origin_obj = origin.object)?;
        dir.with_state(|s| s.origin_txg = from.creation_txg);
        self.add_dir_clone(tx, &origin.dir(), object)
    }

    /// Notes in a dir that `object` is cloned from a snapshot of it (`dd_clones`).
    pub(crate) fn add_dir_clone(&self, tx: &Tx, dir: &Arc<Dir>, object: u64) -> Result<()> {
        let mut clones = dir.phys().clones;
        if clones == 0 {
            clones = self.meta.zap_create(tx, ObjectType::DSL_CLONES)?;
            dir.update(&self.meta, tx, |d| d.clones = clones)?;
        }
        self.meta.zap_add_int(tx, clones, object)
    }

    /// A new head in `dir` with an objset that `init` fills.
    fn create_content(
        &self,
        tx: &Tx,
        dir: &Arc<Dir>,
        kind: Kind,
        settings: &[Setting],
        init: InitFs,
    ) -> Result<Arc<Dataset>> {
        let dataset = self.create_head(tx, dir, None, 0)?;
        let kind = match kind {
            Kind::Filesystem => ObjsetKind::Zfs,
            Kind::Volume => ObjsetKind::Zvol,
            Kind::Snapshot => return Err(Error::Invalid("a snapshot is not made by create")),
        };
        let mos = self.mos();
        let objset = Objset::create(Arc::clone(mos.zio()), Arc::clone(mos.txgs()), dataset.object, kind, tx)?;
        for setting in settings {
            self.apply_setting(tx, &dataset, setting)?;
        }
        self.prepare_objset(&dataset, &objset)?;
        dataset.replace_objset(Some(Arc::clone(&objset)));
        init(&objset, tx)?;
        Ok(dataset)
    }

    /// Zeroes the log's header that a clone has from its origin (`dsl_dataset_zero_zil`).
    pub(crate) fn zero_zil(&self, tx: &Tx, dataset: &Dataset) -> Result<()> {
        if dataset.root_bp().is_hole() {
            return Ok(());
        }
        let objset = dataset.objset()?;
        if objset.zil_header() != [0; ZIL_HEADER_SIZE] {
            objset.set_zil_header(tx, [0; ZIL_HEADER_SIZE]);
        }
        Ok(())
    }

    /// The dir in which a new name may be made, which must have a head, and the last component.
    fn parent_for(&self, name: &str) -> Result<(Arc<Dir>, String)> {
        let (parent, last) = split_last(name).ok_or(Error::Exists)?;
        let dir = self.find_dir(&parent)?;
        self.refuse_encrypted(&dir)?;
        if self.head_of(&dir)?.content_kind()? == Kind::Volume {
            return Err(Error::Invalid("a volume has no children"));
        }
        if self.meta.zap_get(dir.phys().child_dir_zapobj, &last)?.is_some() {
            return Err(Error::Exists);
        }
        Ok((dir, last))
    }

    /// Where counts are kept, a new dir starts with its own.
    fn start_counts(&self, tx: &Tx, dir: &Dir) -> Result<()> {
        if self.host().feature_active(FEATURE_LIMITS) {
            self.meta.zapify(tx, dir.object)?;
            self.meta.zap_add(tx, dir.object, FILESYSTEM_COUNT, 0)?;
            self.meta.zap_add(tx, dir.object, SNAPSHOT_COUNT, 0)?;
        }
        Ok(())
    }

    /// Creates a file system or volume. [`Error::Exists`] if there is one of that name, [`Error::NotFound`] if its parent is missing.
    pub fn create_dataset(&self, name: &str, o: CreateFs) -> Result<Arc<Dataset>> {
        names::check_dataset(name)?;
        let name = String::from(name);
        self.run_task(Slop::Normal, move |pool, tx| {
            let settings = Setting::read_all(pool, &o.properties, o.kind)?;
            let mut missing = Vec::new();
            if let Some(init) = &o.parents {
                let mut path = name.as_str();
                while let Some((parent, _)) = path.rsplit_once('/') {
                    if pool.find_dir(parent).is_ok() {
                        break;
                    }
                    missing.push((parent, init()));
                    path = parent;
                }
            }
            if missing.is_empty() {
                pool.parent_for(&name)?;
            }
            let top = missing.last().map_or(name.as_str(), |(path, _)| *path);
            let (above, _) = split_last(top).ok_or(Error::Exists)?;
            pool.check_room(&*pool.find_dir(&above)?, &settings)?;
            for (path, init) in missing.into_iter().rev() {
                pool.create_at(tx, path, Kind::Filesystem, &[], init)?;
            }
            pool.create_at(tx, &name, o.kind, &settings, o.init)
        })
    }

    fn create_at(
        &self,
        tx: &Tx,
        path: &str,
        kind: Kind,
        settings: &[Setting],
        init: InitFs,
    ) -> Result<Arc<Dataset>> {
        let (parent, last) = self.parent_for(path)?;
        let dir = self.create_dir(tx, Some(&parent), &last)?;
        self.start_counts(tx, &dir)?;
        let dataset = self.create_content(tx, &dir, kind, settings, init)?;
        self.host().log_internal(tx, "create", dataset.object, path, " ")?;
        settings.iter().try_for_each(|setting| self.log_set(tx, &dataset, setting))?;
        Ok(dataset)
    }

    /// Makes `name` a clone of the snapshot.
    pub fn clone_snapshot(
        &self,
        snapshot: &str,
        name: &str,
        properties: &[(&str, &str)],
    ) -> Result<Arc<Dataset>> {
        names::split_snapshot(snapshot)?;
        names::check_dataset(name)?;
        let (snapshot, name) = (String::from(snapshot), String::from(name));
        let properties: Vec<(String, String)> =
            properties.iter().map(|(n, v)| (String::from(*n), String::from(*v))).collect();
        self.run_task(Slop::Normal, move |pool, tx| {
            let origin = pool.find(&snapshot)?;
            pool.refuse_encrypted(&origin.dir())?;
            let settings = Setting::read_all(pool, &properties, origin.content_kind()?)?;
            let (parent, last) = pool.parent_for(&name)?;
            pool.check_room(&parent, &settings)?;
            let dir = pool.create_dir(tx, Some(&parent), &last)?;
            pool.start_counts(tx, &dir)?;
            let clone = pool.create_head(tx, &dir, Some(&origin), 0)?;
            for setting in &settings {
                pool.apply_setting(tx, &clone, setting)?;
            }
            pool.zero_zil(tx, &clone)?;
            let text = alloc::format!("origin={snapshot} ({})", origin.object);
            pool.host().log_internal(tx, "clone", clone.object, &name, &text)?;
            settings.iter().try_for_each(|setting| pool.log_set(tx, &clone, setting))?;
            Ok(clone)
        })
    }
}
