//! A ZFS dataset as a file system of the tree.
//!
//! # Invariants
//! - One [`inode::ZfsInode`] per object while anybody holds it; it holds the object in the engine, so that a file
//!   without names lives until the last descriptor is closed.
//! - A snapshot is mounted when it is first entered below `.zfs/snapshot`, and stays so until it is destroyed or the
//!   file system is unmounted.
//!
//! Lock order: the table of inodes alone; the table of snapshots, then the engine.

mod control;
mod inode;
mod names;

use crate::errno::{Errno, Result};
use crate::inode::{FileSystem, Inode};
use crate::types::StatFs;
use ::zfs::spa::Pool;
use ::zfs::zpl::{Filesystem, MountOptions};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use hashbrown::HashMap;
use inode::ZfsInode;
use names::Names;
use platform::sync::Mutex;

/// `ZFS_SUPER_MAGIC`.
const MAGIC: u64 = 0x2fc1_2fc1;
/// Numbers of ZFS file systems (`st_dev`) begin here; every mounted dataset and snapshot has its own.
static NEXT_DEV: AtomicU64 = AtomicU64::new(32);

/// A mounted dataset or snapshot.
struct Mounted {
    fs: Arc<Filesystem>,
    dev: u64,
    name: String,
    inodes: Mutex<HashMap<u64, Weak<ZfsInode>>>,
    names: Names,
    snapshots: Mutex<HashMap<String, Arc<Mounted>>>,
}

impl Mounted {
    fn new(fs: Arc<Filesystem>) -> Arc<Self> {
        Arc::new(Mounted {
            name: fs.dataset().name(),
            fs,
            dev: NEXT_DEV.fetch_add(1, Ordering::Relaxed),
            inodes: Mutex::new(HashMap::new()),
            names: Names::new(),
            snapshots: Mutex::new(HashMap::new()),
        })
    }

    fn root(self: &Arc<Self>) -> Result<Arc<dyn Inode>> {
        Ok(ZfsInode::get(self, self.fs.root())?)
    }

    fn statfs(&self) -> Result<StatFs> {
        let s = self.fs.statfs()?;
        Ok(StatFs {
            magic: MAGIC,
            block_size: u64::from(s.fragment_size),
            blocks: s.blocks,
            free: s.blocks_available,
            files: s.files,
            files_free: s.files_free,
            fsid: s.fsid,
            name_max: u64::from(s.name_max),
        })
    }

    /// A snapshot of this dataset, mounted.
    fn snapshot(&self, name: &str) -> Result<Arc<Mounted>> {
        let mut snapshots = self.snapshots.lock();
        if let Some(mounted) = snapshots.get(name) {
            return Ok(Arc::clone(mounted));
        }
        let mounted = Mounted::new(self.fs.mount_snapshot(name)?);
        snapshots.insert(name.into(), Arc::clone(&mounted));
        Ok(mounted)
    }

    /// Lets go of a snapshot; [`Errno::EBUSY`] if a file of it is in use.
    fn forget_snapshot(&self, name: &str) -> Result<()> {
        let mut snapshots = self.snapshots.lock();
        let Some(mounted) = snapshots.get(name) else { return Ok(()) };
        mounted.names.clear();
        if mounted.inodes.lock().values().any(|i| i.strong_count() > 0) {
            return Err(Errno::EBUSY);
        }
        mounted.fs.unmount()?;
        snapshots.remove(name);
        Ok(())
    }
}

/// The pool's root dataset, mounted: unmounting it exports the pool.
pub struct ZfsRoot {
    mounted: Arc<Mounted>,
    pool: Arc<Pool>,
    root: Arc<dyn Inode>,
}

impl ZfsRoot {
    /// Mounts dataset `name` of `pool` (`POOL/DATASET`), replaying its intent log.
    pub fn mount(pool: Arc<Pool>, name: &str) -> ::zfs::Result<Arc<Self>> {
        let dataset = pool.dsl().lookup(name)?;
        let fs = Filesystem::mount(&pool, dataset, MountOptions::default())?;
        let mounted = Mounted::new(fs);
        let root =
            mounted.root().map_err(|_| ::zfs::Error::corrupt("the root directory cannot be opened", None))?;
        Ok(Arc::new(ZfsRoot { mounted, pool, root }))
    }

    /// A user property of the dataset, if it is set there or above.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<String> {
        Some(self.mounted.fs.dataset().get(name).ok()?.text)
    }

    /// Sets how many names of files are kept in memory, each with its file's attributes: some 2 KiB.
    pub fn set_name_limit(&self, limit: usize) {
        self.mounted.names.set_limit(limit);
    }

    /// Forgets the names that are kept: memory is short.
    pub fn forget_names(&self) {
        self.mounted.names.clear();
        let snapshots: Vec<_> = self.mounted.snapshots.lock().values().cloned().collect();
        snapshots.iter().for_each(|snapshot| snapshot.names.clear());
    }

    /// The engine's file system.
    #[must_use]
    pub fn filesystem(&self) -> &Arc<Filesystem> {
        &self.mounted.fs
    }
}

impl FileSystem for ZfsRoot {
    fn root(&self) -> Arc<dyn Inode> {
        Arc::clone(&self.root)
    }

    fn type_name(&self) -> &'static str {
        "zfs"
    }

    fn source(&self) -> String {
        self.mounted.name.clone()
    }

    fn read_only(&self) -> bool {
        self.mounted.fs.read_only()
    }

    fn statfs(&self) -> Result<StatFs> {
        self.mounted.statfs()
    }

    fn sync(&self) -> Result<()> {
        crate::mapped::Mapped::write_back_all()?;
        Ok(self.mounted.fs.sync()?)
    }

    fn unmount(&self) -> Result<()> {
        // Errors do not stop the rest: what can be made durable shall be.
        let written = crate::mapped::Mapped::write_back_all();
        let snapshots = core::mem::take(&mut *self.mounted.snapshots.lock());
        self.mounted.names.clear();
        for snapshot in snapshots.values() {
            snapshot.names.clear();
            snapshot.fs.unmount()?;
        }
        let unmounted = self.mounted.fs.unmount().map_err(Errno::from);
        let exported = self.pool.export().map_err(Errno::from);
        written.and(unmounted).and(exported)
    }
}
