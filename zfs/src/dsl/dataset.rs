//! A dataset: a file system, a volume or a snapshot. Source: `dsl_dataset_t` (`module/zfs/dsl_dataset.c`).

use super::bookmark::Marks;
use super::dir::Dir;
use super::follow::Follow;
use super::pool::DslPool;
use crate::dmu::Objset;
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::dsl::{DS_FLAG_INCONSISTENT, DatasetPhys, Space};
use crate::ondisk::objset::ObjsetKind;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use platform::sync::Mutex;

/// What a dataset is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file system (`DMU_OST_ZFS`).
    Filesystem,
    /// A block volume (`DMU_OST_ZVOL`).
    Volume,
    /// A snapshot of either.
    Snapshot,
}

/// A dataset's numbers, in bytes where not said otherwise (`dsl_dataset_stats`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Used by it and everything below it; of a snapshot what only it holds.
    pub used: u64,
    /// What it may still write; 0 of a snapshot.
    pub available: u64,
    /// What it refers to.
    pub referenced: u64,
    /// The same before compression.
    pub logical_referenced: u64,
    /// `used` before compression.
    pub logical_used: u64,
    /// Compression achieved on `used`, in hundredths (100 is 1.00x).
    pub compress_ratio: u64,
    /// Compression achieved on `referenced`, in hundredths.
    pub ref_compress_ratio: u64,
    /// Used by the head alone.
    pub used_by_dataset: u64,
    /// Held by snapshots alone.
    pub used_by_snapshots: u64,
    /// Used by descendants.
    pub used_by_children: u64,
    /// Reserved by the refreservation.
    pub used_by_refreservation: u64,
    /// Referenced and born since the previous snapshot.
    pub written: u64,
}

/// A hold on a snapshot (`zfs hold`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its tag.
    pub tag: String,
    /// When it was made, in seconds since 1970.
    pub time: u64,
}

/// A bookmark (`zfs bookmark`): what is left of a snapshot for incremental sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// `pool/fs#name`.
    pub name: String,
    /// The snapshot's guid.
    pub guid: u64,
    /// The snapshot's creation txg.
    pub creation_txg: u64,
    /// The snapshot's creation time, in seconds since 1970.
    pub creation_time: u64,
    /// Of an encrypted dataset, the id of the snapshot's set of IVs; else 0.
    pub ivset_guid: u64,
    /// What the snapshot referred to, if the bookmark knows.
    pub referenced: Option<Space>,
}

/// A dataset. Handles of one dataset are the same `Arc`.
pub struct Dataset {
    pub(crate) pool: Weak<DslPool>,
    pub(crate) object: u64,
    state: Mutex<State>,
}

/// What of a dataset can change.
pub(crate) struct State {
    pub(crate) phys: DatasetPhys,
    pub(crate) dir: Arc<Dir>,
    /// Of a snapshot, what follows the `@`.
    pub(crate) snap_name: Option<String>,
    /// Per-dataset features that are active, by guid name.
    pub(crate) features: BTreeSet<&'static str>,
    /// The cached properties `refreservation` and `refquota`.
    pub(crate) reserved: u64,
    pub(crate) quota: u64,
    /// Of a head, its bookmarks, once somebody asked.
    pub(crate) marks: Option<Marks>,
    /// Who hears of changed properties.
    pub(crate) followers: Vec<Weak<dyn Follow>>,
    objset: Option<Arc<Objset>>,
    /// Who keeps it from being destroyed; one of them may be its owner.
    holds: usize,
    owned: bool,
}

/// Keeps a dataset from being destroyed or rolled back while it lives (`dsl_dataset_own`, a long hold): a mounted file system.
pub struct Owned {
    dataset: Arc<Dataset>,
    owner: bool,
}

impl Dataset {
    pub(crate) fn new(
        pool: Weak<DslPool>,
        object: u64,
        phys: DatasetPhys,
        dir: Arc<Dir>,
        snap_name: Option<String>,
    ) -> Arc<Self> {
        let state = State {
            phys,
            dir,
            snap_name,
            features: BTreeSet::new(),
            reserved: 0,
            quota: 0,
            marks: None,
            followers: Vec::new(),
            objset: None,
            holds: 0,
            owned: false,
        };
        Arc::new(Dataset { pool, object, state: Mutex::new(state) })
    }

    pub(crate) fn pool(&self) -> Result<Arc<DslPool>> {
        self.pool.upgrade().ok_or(Error::Invalid("the pool of this dataset is closed"))
    }

    /// Reads or changes the state; nothing that can block happens meanwhile.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock())
    }

    pub(crate) fn phys(&self) -> DatasetPhys {
        self.state.lock().phys.clone()
    }

    pub(crate) fn dir(&self) -> Arc<Dir> {
        Arc::clone(&self.state.lock().dir)
    }

    /// The open objset, if it is open.
    pub(crate) fn open_objset(&self) -> Option<Arc<Objset>> {
        self.state.lock().objset.clone()
    }

    /// Forgets the open objset (`dmu_objset_evict`), or puts another in its place.
    pub(crate) fn replace_objset(&self, objset: Option<Arc<Objset>>) {
        let old = core::mem::replace(&mut self.state.lock().objset, objset);
        if let Some(old) = old {
            old.set_space_check(None);
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.state.lock().holds > 0
    }

    /// Full name: `pool/fs` or `pool/fs@snap`. Follows renames.
    #[must_use]
    pub fn name(&self) -> String {
        let (dir, snap) = {
            let state = self.state.lock();
            (Arc::clone(&state.dir), state.snap_name.clone())
        };
        match snap {
            Some(snap) => format!("{}@{snap}", dir.name()),
            None => dir.name(),
        }
    }

    /// Its object number in the MOS: also the objset's id.
    #[must_use]
    pub fn object(&self) -> u64 {
        self.object
    }

    /// The id that never changes.
    #[must_use]
    pub fn guid(&self) -> u64 {
        self.state.lock().phys.guid
    }

    /// The 56-bit id for `statfs`.
    #[must_use]
    pub fn fsid_guid(&self) -> u64 {
        self.state.lock().phys.fsid_guid
    }

    /// Whether it is a snapshot.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.state.lock().phys.is_snapshot()
    }

    /// What it is. Reads the objset's header.
    pub fn kind(&self) -> Result<Kind> {
        if self.is_snapshot() {
            return Ok(Kind::Snapshot);
        }
        self.content_kind()
    }

    /// As [`Dataset::kind`], of a snapshot that of its content. What is encrypted, and its key not loaded, is taken for a file system.
    pub fn content_kind(&self) -> Result<Kind> {
        let objset = match self.objset() {
            Ok(objset) => objset,
            Err(Error::KeyNotLoaded) => return Ok(Kind::Filesystem),
            Err(error) => return Err(error),
        };
        match objset.kind() {
            ObjsetKind::Zfs => Ok(Kind::Filesystem),
            ObjsetKind::Zvol => Ok(Kind::Volume),
            ObjsetKind::Meta => Err(Error::corrupt("dataset: its objset is of type meta", None)),
        }
    }

    /// Half received or half destroyed: must not be mounted.
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        self.state.lock().phys.flags & DS_FLAG_INCONSISTENT != 0
    }

    /// When it was made, in seconds since 1970.
    #[must_use]
    pub fn creation_time(&self) -> u64 {
        self.state.lock().phys.creation_time
    }

    /// The txg in which it was made.
    #[must_use]
    pub fn creation_txg(&self) -> u64 {
        self.state.lock().phys.creation_txg
    }

    /// Its objset, opened once. The property values that steer writing are set on it and follow changes.
    pub fn objset(&self) -> Result<Arc<Objset>> {
        if let Some(objset) = self.open_objset() {
            return Ok(objset);
        }
        let pool = self.pool()?;
        let bp = self.root_bp();
        if bp.is_hole() {
            return Err(Error::corrupt("dataset: it has no objset", None));
        }
        let mos = pool.mos();
        pool.assign_key(self)?;
        let opened = Objset::open(Arc::clone(mos.zio()), Arc::clone(mos.txgs()), self.object, bp)?;
        pool.prepare_objset(self, &opened)?;
        // Somebody else may have been faster: everybody must use the same one.
        Ok(Arc::clone(self.state.lock().objset.get_or_insert(opened)))
    }

    /// Its root block as last synced.
    #[must_use]
    pub fn root_bp(&self) -> Blkptr {
        self.state.lock().phys.bp
    }

    /// The snapshot it was cloned from.
    pub fn origin(&self) -> Result<Option<Arc<Dataset>>> {
        let pool = self.pool()?;
        let object = self.dir().phys().origin_obj;
        if self.is_snapshot() || object == 0 || object == pool.origin_snapshot() {
            return Ok(None);
        }
        pool.hold_dataset(object).map(Some)
    }

    /// The snapshot before it, or of a clone's first the origin.
    pub fn previous_snapshot(&self) -> Result<Option<Arc<Dataset>>> {
        let pool = self.pool()?;
        let object = self.phys().prev_snap_obj;
        if object == 0 || object == pool.origin_snapshot() {
            return Ok(None);
        }
        pool.hold_dataset(object).map(Some)
    }

    /// Child file systems and volumes, by name. Empty of a snapshot.
    pub fn children(&self) -> Result<Vec<Arc<Dataset>>> {
        if self.is_snapshot() {
            return Ok(Vec::new());
        }
        let pool = self.pool()?;
        let _config = pool.read_config();
        pool.children_of(&self.dir())
    }

    /// Its snapshots, oldest first.
    pub fn snapshots(&self) -> Result<Vec<Arc<Dataset>>> {
        let pool = self.pool()?;
        let _config = pool.read_config();
        pool.snapshots_of(self)
    }

    /// Names of its clones, if it is a snapshot.
    pub fn clones(&self) -> Result<Vec<String>> {
        let pool = self.pool()?;
        let _config = pool.read_config();
        let mut names: Vec<String> =
            pool.branches(self)?.iter().map(|dataset| dataset.dir().name()).collect();
        names.sort();
        Ok(names)
    }

    /// What it referred to, used and has left.
    pub fn stats(&self) -> Result<Stats> {
        let pool = self.pool()?;
        let _config = pool.read_config();
        pool.stats_of(self)
    }

    /// Whether `bytes` more can be written under quotas, reservations and the pool's space: [`Error::QuotaExceeded`] or
    /// [`Error::NoSpace`].
    pub fn check_space(&self, bytes: u64) -> Result<()> {
        let pool = self.pool()?;
        let (dir, referenced, unique, quota, reserved) = self.with(|s| {
            (Arc::clone(&s.dir), s.phys.referenced_bytes, s.phys.unique_bytes, s.quota, s.reserved)
        });
        if quota != 0 && referenced.saturating_add(bytes) > quota {
            return Err(Error::QuotaExceeded);
        }
        // What the refreservation has left is ours already.
        let bytes = bytes.saturating_sub(reserved.saturating_sub(unique));
        if bytes <= dir.available(pool.meta()) {
            Ok(())
        } else if dir.limited_by_quota(bytes) {
            Err(Error::QuotaExceeded)
        } else {
            Err(Error::NoSpace)
        }
    }

    /// Bytes used and available as `statfs` tells (`dsl_dataset_space`: referenced, available under refquota).
    pub fn space(&self) -> Result<(u64, u64)> {
        let pool = self.pool()?;
        let (dir, phys, quota, reserved) =
            self.with(|s| (Arc::clone(&s.dir), s.phys.clone(), s.quota, s.reserved));
        if phys.is_snapshot() {
            return Ok((phys.referenced_bytes, 0));
        }
        let mut available =
            dir.available(pool.meta()).saturating_add(reserved.saturating_sub(phys.unique_bytes));
        if quota != 0 {
            available = available.min(quota.saturating_sub(phys.referenced_bytes));
        }
        Ok((phys.referenced_bytes, available))
    }

    /// Owns it for writing: at most one owner. [`Error::Busy`] if it is owned.
    pub fn own(self: &Arc<Self>) -> Result<Owned> {
        let mut state = self.state.lock();
        if state.owned {
            return Err(Error::Busy);
        }
        if state.phys.flags & DS_FLAG_INCONSISTENT != 0 {
            return Err(Error::Busy);
        }
        state.owned = true;
        state.holds += 1;
        Ok(Owned { dataset: Arc::clone(self), owner: true })
    }

    /// Holds it for reading: many at once, also beside an owner.
    #[must_use]
    pub fn long_hold(self: &Arc<Self>) -> Owned {
        self.state.lock().holds += 1;
        Owned { dataset: Arc::clone(self), owner: false }
    }
}

impl core::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Dataset({})", self.object)
    }
}

impl Owned {
    /// The dataset.
    #[must_use]
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let mut state = self.dataset.state.lock();
        state.holds -= 1;
        if self.owner {
            state.owned = false;
        }
    }
}
