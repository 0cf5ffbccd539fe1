//! The pool's datasets as one: opening, finding and walking. Source: `module/zfs/dsl_pool.c`, `dsl_dir.c`.

use super::bpobj::Bpobj;
use super::dataset::{Dataset, Stats};
use super::deadlist::Deadlist;
use super::dir::{Delta, Dir, DirState};
use super::host::SpaHost;
use super::mos::{Mos, OBJECT_DIRECTORY};
use crate::arc::PrimaryCache;
use crate::checksum::Checksum;
use crate::dmu::{Accounting, Objset, RedundantMetadata, Settings, SpaceCheck};
use crate::error::{Error, Result};
use crate::ondisk::dsl::{DatasetPhys, DirPhys, Used};
use crate::ondisk::object_type::ObjectType;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use platform::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The deepest tree of names: a name has at most 256 characters.
const MAX_DEPTH: usize = 128;
/// Features that are counted per dataset that uses them (`ZFEATURE_FLAG_PER_DATASET`), by guid name.
pub(crate) const DATASET_FEATURES: [&str; 12] = [
    "org.open-zfs:large_blocks",
    "org.zfsonlinux:large_dnode",
    "org.illumos:sha512",
    "org.illumos:skein",
    "org.illumos:edonr",
    "org.openzfs:blake3",
    "org.freebsd:zstd_compress",
    "org.zfsonlinux:userobj_accounting",
    "org.zfsonlinux:project_quota",
    "org.openzfs:zilsaxattr",
    LONGNAME,
    "com.klarasystems:large_microzap",
];

/// Names of files may have more than 255 bytes (`SPA_FEATURE_LONGNAME`).
pub(crate) const LONGNAME: &str = "org.zfsonlinux:longname";

/// From this SPA version on, space is accounted for by user and group (`SPA_VERSION_USERSPACE`).
const VERSION_USERSPACE: u64 = 15;

/// A closure that fills a new objset (the ZPL's root directory, …). Runs in syncing context.
pub type InitFs = Box<dyn FnOnce(&Arc<Objset>, &crate::dmu::Tx) -> Result<()> + Send>;

/// All datasets of a pool.
pub struct DslPool {
    me: Weak<DslPool>,
    pub(crate) meta: Mos,
    config: RwLock<()>,
    dirs: Mutex<BTreeMap<u64, Arc<Dir>>>,
    datasets: Mutex<BTreeMap<u64, Arc<Dataset>>>,
    /// Object numbers that never change once the pool is open.
    pub(crate) fixed: Mutex<Fixed>,
    /// Space born and killed in the MOS since it was last added to `$MOS`.
    pub(crate) mos_delta: Mutex<Delta>,
    /// A block of a destroyed head cannot be read: the rest waits for another import.
    pub(crate) stalled: AtomicBool,
}

/// Well-known objects; 0 where the pool has none (old versions).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fixed {
    pub(crate) root_dir: u64,
    pub(crate) mos_dir: u64,
    pub(crate) free_dir: u64,
    pub(crate) origin_snapshot: u64,
    pub(crate) free_bpobj: u64,
}

/// Refuses writes over a dataset's quota.
struct QuotaCheck {
    dataset: Weak<Dataset>,
}

impl SpaceCheck for QuotaCheck {
    fn check(&self, reserve: u64, _pending: u64, net_free: bool) -> Result<()> {
        match self.dataset.upgrade() {
            Some(dataset) if !net_free => dataset.check_space(reserve),
            _ => Ok(()),
        }
    }
}

impl DslPool {
    pub(crate) fn empty(mos: &Arc<Objset>, host: Arc<dyn SpaHost>) -> Result<Arc<Self>> {
        let meta = Mos::new(mos, host)?;
        Ok(Arc::new_cyclic(|me| DslPool {
            me: Weak::clone(me),
            meta,
            config: RwLock::new(()),
            dirs: Mutex::default(),
            datasets: Mutex::default(),
            fixed: Mutex::default(),
            mos_delta: Mutex::default(),
            stalled: AtomicBool::new(false),
        }))
    }

    /// Opens from the MOS of an existing pool (`dsl_pool_open`).
    pub fn open(mos: &Arc<Objset>, host: Arc<dyn SpaHost>) -> Result<Arc<Self>> {
        let pool = Self::empty(mos, host)?;
        let directory = |name| pool.meta.zap_get(OBJECT_DIRECTORY, name);
        let root_dir = directory("root_dataset")?
            .ok_or(Error::corrupt("object directory: it has no root_dataset", None))?;
        let children = pool.hold_dir(root_dir)?.phys().child_dir_zapobj;
        let special = |name| Ok::<_, Error>(pool.meta.zap_get(children, name)?.unwrap_or(0));
        let mut fixed = Fixed {
            root_dir,
            mos_dir: special("$MOS")?,
            free_dir: special("$FREE")?,
            origin_snapshot: 0,
            free_bpobj: directory("free_bpobj")?.unwrap_or(0),
        };
        let origin_dir = special("$ORIGIN")?;
        if origin_dir != 0 {
            let head = pool.hold_dir(origin_dir)?.phys().head_dataset_obj;
            fixed.origin_snapshot = pool.dataset_phys(head)?.prev_snap_obj;
        }
        *pool.fixed.lock() = fixed;
        Ok(pool)
    }

    /// The MOS.
    #[must_use]
    pub fn mos(&self) -> &Arc<Objset> {
        &self.meta.os
    }

    pub(crate) fn meta(&self) -> &Mos {
        &self.meta
    }

    pub(crate) fn host(&self) -> &dyn SpaHost {
        &*self.meta.host
    }

    pub(crate) fn me(&self) -> Arc<DslPool> {
        self.me.upgrade().expect("a method of the pool is running, so it is alive")
    }

    pub(crate) fn fixed(&self) -> Fixed {
        *self.fixed.lock()
    }

    pub(crate) fn origin_snapshot(&self) -> u64 {
        self.fixed().origin_snapshot
    }

    /// Keeps names from changing.
    pub(crate) fn read_config(&self) -> RwLockReadGuard<'_, ()> {
        self.config.read()
    }

    /// For sync tasks that change names.
    pub(crate) fn write_config(&self) -> RwLockWriteGuard<'_, ()> {
        self.config.write()
    }

    // ----- dirs and datasets by object number ----------------------------------------------------------------------

    /// A dir by its number.
    pub(crate) fn hold_dir(&self, object: u64) -> Result<Arc<Dir>> {
        self.hold_dir_at(object, None, 0)
    }

    fn hold_dir_at(&self, object: u64, name: Option<&str>, depth: usize) -> Result<Arc<Dir>> {
        if let Some(dir) = self.dirs.lock().get(&object) {
            return Ok(Arc::clone(dir));
        }
        if depth > MAX_DEPTH {
            return Err(Error::corrupt("dsl_dir: the tree of names has no root", None));
        }
        let phys = DirPhys::parse(&self.meta.os.hold(object)?.bonus())?;
        let parent = match phys.parent_obj {
            0 => None,
            parent => Some(self.hold_dir_at(parent, None, depth + 1)?),
        };
        let name = match (&parent, name) {
            (_, Some(name)) => String::from(name),
            (None, None) => self.host().pool_name(),
            (Some(parent), None) => self.name_of(parent.phys().child_dir_zapobj, object)?,
        };
        let origin_txg = match phys.origin_obj {
            0 => 0,
            origin => self.dataset_phys(origin)?.creation_txg,
        };
        let dir = Dir::new(object, DirState { phys, name, parent, origin_txg });
        Ok(Arc::clone(self.dirs.lock().entry(object).or_insert(dir)))
    }

    /// The name under which a ZAP has a value (`zap_value_search`).
    fn name_of(&self, zap: u64, object: u64) -> Result<String> {
        let entries = self.meta.zap_entries(zap)?;
        let found = entries.into_iter().find(|(_, value)| *value == object);
        found.map(|(name, _)| name).ok_or(Error::corrupt("dsl: an object has no name in its parent", None))
    }

    /// A dataset's numbers as they are in the MOS.
    fn dataset_phys(&self, object: u64) -> Result<DatasetPhys> {
        let dnode = self.meta.os.hold(object)?;
        let info = dnode.info();
        if info.bonus_type != ObjectType::DSL_DATASET {
            return Err(Error::corrupt("dsl_dataset: the object has another bonus type", None));
        }
        DatasetPhys::parse(&dnode.bonus())
    }

    /// A dataset by its number.
    /// The snapshot before a dataset whose header is `of`; `None` if it is the first. Whoever follows these comes to an end: each is
    /// older than the one before, or [`Error::Corrupt`].
    pub(crate) fn previous(&self, of: &DatasetPhys) -> Result<Option<Arc<Dataset>>> {
        if of.prev_snap_obj == 0 {
            return Ok(None);
        }
        let previous = self.hold_dataset(of.prev_snap_obj)?;
        if previous.phys().prev_snap_txg >= of.prev_snap_txg {
            return Err(Error::corrupt("dsl_dataset: a snapshot is not older than the next", None));
        }
        Ok(Some(previous))
    }

    /// What follows a snapshot in the dirs of its clones: their heads, or their oldest snapshots (`ds_next_clones_obj`).
    pub(crate) fn branches(&self, snapshot: &Dataset) -> Result<Vec<Arc<Dataset>>> {
        match snapshot.phys().next_clones_obj {
            0 => Ok(Vec::new()),
            clones => {
                let clones = self.meta.zap_entries(clones)?;
                clones.into_iter().map(|(_, object)| self.hold_dataset(object)).collect()
            }
        }
    }

    pub(crate) fn hold_dataset(&self, object: u64) -> Result<Arc<Dataset>> {
        self.hold_dataset_named(object, None)
    }

    pub(crate) fn hold_dataset_named(&self, object: u64, snap_name: Option<&str>) -> Result<Arc<Dataset>> {
        if let Some(dataset) = self.datasets.lock().get(&object) {
            return Ok(Arc::clone(dataset));
        }
        let phys = self.dataset_phys(object)?;
        let dir = self.hold_dir(phys.dir_obj)?;
        let is_snapshot = phys.is_snapshot();
        let snap_name = match (is_snapshot, snap_name) {
            (false, _) => None,
            (true, Some(name)) => Some(String::from(name)),
            (true, None) => {
                let head = self.dataset_phys(dir.phys().head_dataset_obj)?;
                Some(self.name_of(head.snapnames_zapobj, object)?)
            }
        };
        let props = dir.phys().props_zapobj;
        let dataset = Dataset::new(Weak::clone(&self.me), object, phys, dir, snap_name);
        let number = |name| Ok::<_, Error>(self.meta.zap_get(props, name)?.unwrap_or(0));
        if !is_snapshot && props != 0 {
            let (reserved, quota) = (number("refreservation")?, number("refquota")?);
            dataset.with(|s| (s.reserved, s.quota) = (reserved, quota));
        }
        if self.meta.is_zapified(object)? {
            // One look at all entries: there are few.
            let fields = self.meta.zap_values(object)?;
            let active = DATASET_FEATURES.into_iter().filter(|f| fields.iter().any(|(name, _)| name == f));
            dataset.with(|s| s.features.extend(active));
        }
        Ok(Arc::clone(self.datasets.lock().entry(object).or_insert(dataset)))
    }

    /// All datasets that are in memory.
    pub(crate) fn held_datasets(&self) -> Vec<Arc<Dataset>> {
        self.datasets.lock().values().map(Arc::clone).collect()
    }

    pub(crate) fn forget_dataset(&self, object: u64) {
        let dataset = self.datasets.lock().remove(&object);
        if let Some(dataset) = dataset {
            dataset.replace_objset(None);
        }
    }

    pub(crate) fn forget_dir(&self, object: u64) {
        self.dirs.lock().remove(&object);
    }

    /// The head of a dir.
    pub(crate) fn head_of(&self, dir: &Dir) -> Result<Arc<Dataset>> {
        match dir.phys().head_dataset_obj {
            0 => Err(Error::NotFound),
            head => self.hold_dataset(head),
        }
    }

    // ----- names ---------------------------------------------------------------------------------------------------

    /// The pool's root file system.
    pub fn root(&self) -> Result<Arc<Dataset>> {
        self.head_of(&*self.root_dir()?)
    }

    pub(crate) fn root_dir(&self) -> Result<Arc<Dir>> {
        self.hold_dir(self.fixed().root_dir)
    }

    /// By full name, `pool/fs` or `pool/fs@snap`.
    pub fn lookup(&self, name: &str) -> Result<Arc<Dataset>> {
        let _config = self.read_config();
        self.find(name)
    }

    /// By object number.
    pub fn lookup_object(&self, object: u64) -> Result<Arc<Dataset>> {
        let _config = self.read_config();
        self.hold_dataset(object)
    }

    /// As [`DslPool::lookup`], for those who have the names locked.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Dataset>> {
        let (path, snap) = match name.split_once('@') {
            Some((path, snap)) => (path, Some(snap)),
            None => (name, None),
        };
        let head = self.head_of(&*self.find_dir(path)?)?;
        match snap {
            None => Ok(head),
            Some(snap) => self.find_snapshot(&head, snap)?.ok_or(Error::NotFound),
        }
    }

    /// A snapshot of a head by what follows the `@`.
    pub(crate) fn find_snapshot(&self, head: &Dataset, snap: &str) -> Result<Option<Arc<Dataset>>> {
        match self.meta.zap_get(head.phys().snapnames_zapobj, snap)? {
            Some(object) => self.hold_dataset_named(object, Some(snap)).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn find_dir(&self, path: &str) -> Result<Arc<Dir>> {
        let mut components = path.split('/');
        let mut dir = self.root_dir()?;
        if components.next() != Some(&dir.last_name()) {
            return Err(Error::NotFound);
        }
        for name in components {
            if name.is_empty() || name.starts_with('$') {
                return Err(Error::NotFound);
            }
            let child = self.meta.zap_get(dir.phys().child_dir_zapobj, name)?.ok_or(Error::NotFound)?;
            dir = self.hold_dir_at(child, Some(name), 0)?;
        }
        Ok(dir)
    }

    /// All file systems and volumes, parents before children, children by name.
    pub fn datasets(&self) -> Result<Vec<Arc<Dataset>>> {
        let _config = self.read_config();
        self.below(&self.root()?)
    }

    /// A file system and everything below it, parents first.
    pub(crate) fn below(&self, top: &Arc<Dataset>) -> Result<Vec<Arc<Dataset>>> {
        let mut stack = alloc::vec![Arc::clone(top)];
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        while let Some(dataset) = stack.pop() {
            if !seen.insert(dataset.object) {
                return Err(Error::corrupt("dsl_dir: the tree of names has no end", None));
            }
            let mut children = self.children_of(&dataset.dir())?;
            all.push(dataset);
            children.reverse();
            stack.append(&mut children);
        }
        Ok(all)
    }

    pub(crate) fn children_of(&self, dir: &Dir) -> Result<Vec<Arc<Dataset>>> {
        let mut entries = self.meta.zap_entries(dir.phys().child_dir_zapobj)?;
        entries.sort();
        let mut children = Vec::new();
        for (name, object) in entries {
            // Names with these are the pool's own, or half-done receives and rollbacks.
            if !name.starts_with(['$', '%']) {
                children.push(self.head_of(&*self.hold_dir_at(object, Some(&name), 0)?)?);
            }
        }
        Ok(children)
    }

    pub(crate) fn snapshots_of(&self, head: &Dataset) -> Result<Vec<Arc<Dataset>>> {
        let zap = head.phys().snapnames_zapobj;
        if zap == 0 {
            return Ok(Vec::new());
        }
        let mut snapshots = Vec::new();
        for (name, object) in self.meta.zap_entries(zap)? {
            snapshots.push(self.hold_dataset_named(object, Some(&name))?);
        }
        snapshots.sort_by_key(|s| (s.creation_txg(), s.object));
        Ok(snapshots)
    }

    // ----- numbers -------------------------------------------------------------------------------------------------

    pub(crate) fn stats_of(&self, dataset: &Dataset) -> Result<Stats> {
        let (phys, dir) = (dataset.phys(), dataset.dir().phys());
        let ratio = |whole: u64, compressed: u64| {
            if compressed == 0 { 100 } else { (u128::from(whole) * 100 / u128::from(compressed)) as u64 }
        };
        let ref_ratio = ratio(phys.uncompressed_bytes, phys.compressed_bytes);
        let mut stats = Stats {
            referenced: phys.referenced_bytes,
            logical_referenced: phys.uncompressed_bytes,
            ref_compress_ratio: ref_ratio,
            written: self.written(&phys)?,
            ..Stats::default()
        };
        if phys.is_snapshot() {
            stats.used = phys.unique_bytes;
            stats.compress_ratio = ref_ratio;
            return Ok(stats);
        }
        let by = |kind: Used| dir.used_breakdown[kind as usize];
        stats.used = dir.used_bytes;
        stats.available = dataset.space()?.1;
        stats.logical_used = dir.uncompressed_bytes;
        stats.compress_ratio = ratio(dir.uncompressed_bytes, dir.compressed_bytes);
        stats.used_by_dataset = by(Used::Head);
        stats.used_by_snapshots = by(Used::Snap);
        stats.used_by_children = by(Used::Child).wrapping_add(by(Used::ChildReservation));
        stats.used_by_refreservation = by(Used::RefReservation);
        Ok(stats)
    }

    /// What was born since the previous snapshot: what it refers to, less what that did, plus what has died since
    /// (`dsl_dataset_space_written`).
    fn written(&self, phys: &DatasetPhys) -> Result<u64> {
        if phys.prev_snap_obj == 0 {
            return Ok(phys.referenced_bytes);
        }
        let previous = self.hold_dataset(phys.prev_snap_obj)?.phys();
        let dead = Deadlist::open(&self.meta, phys.deadlist_obj)?.space().used;
        Ok(phys.referenced_bytes.wrapping_sub(previous.referenced_bytes).wrapping_add(dead))
    }

    /// Bytes waiting to be freed (the pool property `freeing`).
    #[must_use]
    pub fn freeing(&self) -> u64 {
        match self.fixed().free_dir {
            0 => 0,
            dir => self.hold_dir(dir).map_or(0, |d| d.phys().used_bytes),
        }
    }

    /// The bpobj of what waits to be freed.
    pub(crate) fn free_list(&self) -> Result<Bpobj> {
        Bpobj::open(&self.meta.os, &self.meta.host, self.fixed().free_bpobj)
    }

    // ----- how objsets are written -------------------------------------------------------------------------------------

    /// Gives a freshly opened objset the settings of its dataset's properties, and the quota.
    pub(crate) fn prepare_objset(&self, dataset: &Dataset, objset: &Arc<Objset>) -> Result<()> {
        if dataset.is_snapshot() {
            // No reason not to read it, if the property cannot be.
            let what =
                self.number_of(dataset, "primarycache").map_or(PrimaryCache::All, PrimaryCache::from_raw);
            objset.set_primary_cache(what);
            return Ok(());
        }
        objset.set_settings(self.settings_of(dataset)?);
        if let Some(dataset) = self.datasets.lock().get(&dataset.object) {
            objset.set_space_check(Some(Arc::new(QuotaCheck { dataset: Arc::downgrade(dataset) })));
        }
        Ok(())
    }

    pub(crate) fn settings_of(&self, dataset: &Dataset) -> Result<Settings> {
        let number = |name| self.number_of(dataset, name);
        let lz4 = self.host().feature_active("org.illumos:lz4_compress");
        let checksum = u8::try_from(number("checksum")?).unwrap_or(u8::MAX);
        Ok(Settings {
            checksum: Checksum::from_raw(checksum)?.resolve(),
            compression: super::prop_table::compression_of(number("compression")?, lz4)?,
            copies: number("copies")?.clamp(1, 3) as u8,
            special_small: number("special_small_blocks")?,
            redundant_metadata: match number("redundant_metadata")? {
                0 => RedundantMetadata::All,
                1 => RedundantMetadata::Most,
                2 => RedundantMetadata::Some,
                _ => RedundantMetadata::None,
            },
            embedded_data: self.host().feature_active("com.delphix:embedded_data"),
            hole_birth: self.host().feature_active("com.delphix:hole_birth"),
            lz4,
            accounting: self.accounting(),
            primary_cache: PrimaryCache::from_raw(number("primarycache")?),
        })
    }

    /// What file systems account for by owner, by the pool's version and features.
    fn accounting(&self) -> Option<Accounting> {
        let enabled = |feature| self.host().feature_enabled(feature);
        (self.host().version() >= VERSION_USERSPACE).then(|| Accounting {
            objects: enabled("org.zfsonlinux:userobj_accounting"),
            projects: enabled("org.zfsonlinux:project_quota"),
        })
    }
}
