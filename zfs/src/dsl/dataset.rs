//! A dataset: a file system, a volume or a snapshot. Source: `dsl_dataset_t` (`module/zfs/dsl_dataset.c`).

use super::pool::DslPool;
use super::prop::Property;
use crate::dmu::{BlockOwner, Objset};
use crate::error::Result;
use crate::ondisk::blkptr::Blkptr;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

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
}

/// A dataset. Handles of one dataset are the same `Arc`.
pub struct Dataset {
    pool: Weak<DslPool>,
    object: u64,
}

/// Keeps a dataset from being destroyed or rolled back while it lives (`dsl_dataset_own`, a long hold): a mounted file system.
pub struct Owned {
    dataset: Arc<Dataset>,
}

impl Dataset {
    /// Full name: `pool/fs` or `pool/fs@snap`. Follows renames.
    pub fn name(&self) -> String {
        todo!()
    }
    /// Its object number in the MOS: also the objset's id.
    #[must_use]
    pub fn object(&self) -> u64 {
        self.object
    }
    /// The id that never changes.
    #[must_use]
    pub fn guid(&self) -> u64 {
        todo!()
    }
    /// The 56-bit id for `statfs`.
    #[must_use]
    pub fn fsid_guid(&self) -> u64 {
        todo!()
    }
    /// Whether it is a snapshot.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        todo!()
    }
    /// What it is. Reads the objset's header.
    pub fn kind(&self) -> Result<Kind> {
        todo!()
    }
    /// Half received or half destroyed: must not be mounted.
    #[must_use]
    pub fn is_inconsistent(&self) -> bool {
        todo!()
    }
    /// When it was made, in seconds since 1970.
    #[must_use]
    pub fn creation_time(&self) -> u64 {
        todo!()
    }
    /// The txg in which it was made.
    #[must_use]
    pub fn creation_txg(&self) -> u64 {
        todo!()
    }
    /// Its objset, opened once. The property values that steer writing are set on it and follow changes.
    pub fn objset(&self) -> Result<Arc<Objset>> {
        todo!()
    }
    /// Its root block as last synced.
    #[must_use]
    pub fn root_bp(&self) -> Blkptr {
        todo!()
    }
    /// The snapshot it was cloned from.
    pub fn origin(&self) -> Result<Option<Arc<Dataset>>> {
        todo!()
    }
    /// The snapshot before it, or of a clone's first the origin.
    pub fn previous_snapshot(&self) -> Result<Option<Arc<Dataset>>> {
        todo!()
    }
    /// Child file systems and volumes, by name. Empty of a snapshot.
    pub fn children(&self) -> Result<Vec<Arc<Dataset>>> {
        todo!()
    }
    /// Its snapshots, oldest first.
    pub fn snapshots(&self) -> Result<Vec<Arc<Dataset>>> {
        todo!()
    }
    /// Names of its clones.
    pub fn clones(&self) -> Result<Vec<String>> {
        todo!()
    }
    /// Its bookmarks, by name.
    pub fn bookmarks(&self) -> Result<Vec<Bookmark>> {
        todo!()
    }
    /// Holds on this snapshot.
    pub fn holds(&self) -> Result<Vec<Hold>> {
        todo!()
    }
    /// Its numbers.
    pub fn stats(&self) -> Result<Stats> {
        todo!()
    }
    /// One property, native or user (`a:b`); inherited values are followed. [`crate::Error::NotFound`] if there is none such.
    pub fn get(&self, property: &str) -> Result<Property> {
        let _ = property;
        todo!()
    }
    /// A numeric property's value (`recordsize`, `atime` as 0 or 1, `compression` as its index).
    pub fn get_number(&self, property: &str) -> Result<u64> {
        let _ = property;
        todo!()
    }
    /// Everything that `zfs get all` shows, in its order, then user properties.
    pub fn properties(&self) -> Result<Vec<Property>> {
        todo!()
    }
    /// Whether `bytes` more can be written under quotas, reservations and the pool's space: [`crate::Error::QuotaExceeded`] or
    /// [`crate::Error::NoSpace`].
    pub fn check_space(&self, bytes: u64) -> Result<()> {
        let _ = bytes;
        todo!()
    }
    /// Bytes used and available as `statfs` tells (`dsl_dataset_space`: referenced, available under refquota).
    pub fn space(&self) -> (u64, u64) {
        todo!()
    }
    /// Owns it for writing: at most one owner. [`crate::Error::Busy`] if it is owned.
    pub fn own(self: &Arc<Self>) -> Result<Owned> {
        todo!()
    }
    /// Holds it for reading: many at once, also beside an owner.
    pub fn long_hold(self: &Arc<Self>) -> Owned {
        todo!()
    }
}

impl Owned {
    /// The dataset.
    #[must_use]
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }
}

#[cfg(any())]
impl BlockOwner for Dataset {
    fn born(&self, _bp: &Blkptr) {
        let _ = &self.pool;
        todo!()
    }
    fn killed(&self, _bp: &Blkptr) {
        todo!()
    }
}
