//! The pool's datasets as one: opening, creating, syncing, and every operation by name. Source: `module/zfs/dsl_pool.c`.

use super::dataset::{Dataset, Kind};
use super::host::SpaHost;
use crate::dmu::{BlockOwner, Objset, Tx};
use crate::error::Result;
use crate::ondisk::blkptr::Blkptr;
use crate::zio::AllocateBlocks;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A closure that fills a new objset (the ZPL's root directory, …). Runs in syncing context.
pub type InitFs = Box<dyn FnOnce(&Arc<Objset>, &Tx) -> Result<()> + Send>;

/// What a new file system or volume is to be.
pub struct CreateFs {
    /// [`Kind::Filesystem`] or [`Kind::Volume`].
    pub kind: Kind,
    /// Properties, as text.
    pub properties: Vec<(String, String)>,
    /// Fills the objset.
    pub init: InitFs,
    /// Creates missing parents, too (`-p`); `None`: they must exist. Called once per missing parent.
    pub parents: Option<Box<dyn Fn() -> InitFs + Send>>,
}

/// What differs between two states of a dataset, in objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Diff {
    /// Objects that only the later one has.
    pub added: u64,
    /// Objects that only the earlier one has.
    pub removed: u64,
    /// Objects that differ.
    pub modified: u64,
}

/// All datasets of a pool.
pub struct DslPool {
    mos: Arc<Objset>,
}

impl DslPool {
    /// Opens from the MOS of an existing pool (`dsl_pool_open`).
    pub fn open(mos: &Arc<Objset>, host: Arc<dyn SpaHost>) -> Result<Arc<Self>> {
        let _ = (mos, host);
        todo!()
    }

    /// Makes the root dir, `$MOS`, `$FREE`, `$ORIGIN` and the root dataset in a new MOS whose object directory (object 1) exists
    /// (`dsl_pool_create`). `root` fills the root file system.
    pub fn create(mos: &Arc<Objset>, host: Arc<dyn SpaHost>, tx: &Tx, root: CreateFs) -> Result<Arc<Self>> {
        let _ = (mos, host, tx, root);
        todo!()
    }

    /// The MOS.
    #[must_use]
    pub fn mos(&self) -> &Arc<Objset> {
        &self.mos
    }

    // ----- for the sync thread -------------------------------------------------------------------------------------

    /// Writes the given dirty objsets (those that the txg's open phase dirtied in pass 1; none later) and all that sync tasks of this txg have made
    /// dirty, then deadlists, dirs and the accounts of the MOS, into the MOS. To be called once per sync pass, before the MOS is synced.
    /// In pass 1 the sync tasks run after it and before the MOS.
    pub fn sync(&self, tx: &Tx, pass: u32, alloc: &dyn AllocateBlocks, dirty: &[Arc<Objset>]) -> Result<()> {
        let _ = (tx, pass, alloc, dirty);
        todo!()
    }

    /// Who is told of the MOS's own blocks (accounted to `$MOS`, freed at once).
    pub fn mos_owner<'a>(&'a self, tx: &'a Tx) -> Box<dyn BlockOwner + 'a> {
        let _ = tx;
        todo!()
    }

    /// Frees a bounded number of blocks that destroyed datasets left behind (`dsl_process_async_destroys`); pass 1. True if more is left.
    pub fn free_some(&self, tx: &Tx) -> Result<bool> {
        let _ = tx;
        todo!()
    }

    /// Bytes waiting to be freed (the pool property `freeing`).
    pub fn freeing(&self) -> u64 {
        todo!()
    }

    /// Calls `visit` for all blocks that wait to be freed: they are allocated and in no dataset. (`free_bpobj` and the bptree.)
    pub fn visit_pending_frees(&self, visit: &mut dyn FnMut(&Blkptr) -> Result<()>) -> Result<()> {
        let _ = visit;
        todo!()
    }

    /// Calls `visit` for every objset that holds blocks: `(objset id, its root, blocks born at or before this txg belong to an earlier
    /// snapshot and can be skipped)`. Snapshots first, oldest first; each block of the pool's datasets is met once.
    pub fn visit_objsets(&self, visit: &mut dyn FnMut(u64, &Blkptr, u64) -> Result<()>) -> Result<()> {
        let _ = visit;
        todo!()
    }

    // ----- names ---------------------------------------------------------------------------------------------------

    /// The pool's root file system.
    pub fn root(&self) -> Result<Arc<Dataset>> {
        todo!()
    }
    /// By full name, `pool/fs` or `pool/fs@snap`.
    pub fn lookup(&self, name: &str) -> Result<Arc<Dataset>> {
        let _ = name;
        todo!()
    }
    /// By object number.
    pub fn lookup_object(&self, object: u64) -> Result<Arc<Dataset>> {
        let _ = object;
        todo!()
    }
    /// All file systems and volumes, parents before children, children by name.
    pub fn datasets(&self) -> Result<Vec<Arc<Dataset>>> {
        todo!()
    }

    // ----- operations: each is one sync task ---------------------------------------------------------------------------

    /// Creates a file system or volume.
    pub fn create_dataset(&self, name: &str, o: CreateFs) -> Result<Arc<Dataset>> {
        let _ = (name, o);
        todo!()
    }
    /// Takes snapshots, all in one txg or none. What was written before the call is in them.
    pub fn create_snapshots(&self, names: &[&str]) -> Result<()> {
        let _ = names;
        todo!()
    }
    /// Takes the snapshot `@snap` of `name` and of everything below it, all in one txg.
    pub fn create_snapshots_recursive(&self, name: &str, snap: &str) -> Result<()> {
        let _ = (name, snap);
        todo!()
    }
    /// Destroys a dataset or snapshot. `recursive`: with all below it and its snapshots (of a snapshot: those of that name on all descendants).
    /// `defer`: a snapshot that is held or cloned goes when the last of these goes.
    pub fn destroy(&self, name: &str, recursive: bool, defer: bool) -> Result<()> {
        let _ = (name, recursive, defer);
        todo!()
    }
    /// Puts the file system or volume back to its latest snapshot, or, with `destroy_newer`, to any of its snapshots. [`crate::Error::Busy`] while it is mounted.
    pub fn rollback(&self, name: &str, snap: &str, destroy_newer: bool) -> Result<()> {
        let _ = (name, snap, destroy_newer);
        todo!()
    }
    /// Makes `name` a clone of the snapshot.
    pub fn clone_snapshot(
        &self,
        snapshot: &str,
        name: &str,
        properties: &[(&str, &str)],
    ) -> Result<Arc<Dataset>> {
        let _ = (snapshot, name, properties);
        todo!()
    }
    /// Swaps a clone and its origin's file system (`zfs promote`).
    pub fn promote(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }
    /// Renames a dataset or (within its file system) a snapshot.
    pub fn rename(&self, from: &str, to: &str, recursive: bool) -> Result<()> {
        let _ = (from, to, recursive);
        todo!()
    }
    /// Sets properties, native or user, all or none.
    pub fn set_properties(&self, name: &str, properties: &[(&str, &str)]) -> Result<()> {
        let _ = (name, properties);
        todo!()
    }
    /// Back to the inherited or default value.
    pub fn inherit_property(&self, name: &str, property: &str, recursive: bool) -> Result<()> {
        let _ = (name, property, recursive);
        todo!()
    }
    /// Puts a hold on a snapshot.
    pub fn hold(&self, snapshot: &str, tag: &str) -> Result<()> {
        let _ = (snapshot, tag);
        todo!()
    }
    /// Releases a hold.
    pub fn release(&self, snapshot: &str, tag: &str) -> Result<()> {
        let _ = (snapshot, tag);
        todo!()
    }
    /// Counts what changed from a snapshot to a later snapshot of the same file system, or to the file system (`to`).
    pub fn diff(&self, from: &str, to: &str) -> Result<Diff> {
        let _ = (from, to);
        todo!()
    }
}
