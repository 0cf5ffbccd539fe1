//! Objsets: the arrays of objects. Source: `dmu_objset.c`, `dmu_object.c`.

use crate::checksum::Checksum;
use crate::compress::Compression;
use crate::dmu::tx::{SpaceCheck, Tx, Txgs};
use crate::dmu::{Dnode, SyncContext};
use crate::error::Result;
use crate::ondisk::blkptr::Blkptr;
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::{ObjsetKind, ZIL_HEADER_SIZE};
use crate::zio::Zio;
use alloc::sync::Arc;

/// Which metadata gets one more copy (property `redundant_metadata`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedundantMetadata {
    /// All.
    All,
    /// Indirect blocks from level 2 on, and critical metadata.
    Most,
    /// Critical metadata.
    Some,
    /// None.
    None,
}

/// How the blocks of an objset are written; changed by properties, used at sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Checksum of data; metadata uses it too if it is strong enough, else fletcher4.
    pub checksum: Checksum,
    /// Compression of data; metadata is compressed with lz4.
    pub compression: Compression,
    /// Copies of data; metadata gets one more as `redundant_metadata` says, at most 3.
    pub copies: u8,
    /// Which metadata gets the extra copy.
    pub redundant_metadata: RedundantMetadata,
    /// Small blocks may live in their pointers (feature embedded_data).
    pub embedded_data: bool,
    /// Holes carry their birth txg (feature hole_birth).
    pub hole_birth: bool,
    /// Metadata may be compressed with lz4 (feature lz4_compress); else lzjb.
    pub lz4: bool,
}

/// What to allocate.
#[derive(Debug, Clone, Copy)]
pub struct Allocate {
    /// What its blocks hold.
    pub object_type: ObjectType,
    /// Data block size in bytes, a multiple of 512; 0 means 512.
    pub block_size: u32,
    /// What the bonus holds.
    pub bonus_type: ObjectType,
    /// Length of the bonus in bytes, which starts as zeros.
    pub bonus_len: u16,
    /// Slots of 512 bytes for the dnode: 1, 2, 4, 8, 16 or 32; 0 means 1.
    pub slots: u8,
    /// Base-2 logarithm of the indirect block size; 0 means 17.
    pub indirect_shift: u8,
}

impl Allocate {
    /// An object without a bonus.
    #[must_use]
    pub fn plain(object_type: ObjectType, block_size: u32) -> Self {
        Allocate {
            object_type,
            block_size,
            bonus_type: ObjectType::NONE,
            bonus_len: 0,
            slots: 1,
            indirect_shift: 0,
        }
    }
}

/// Called by [`Objset::sync`]: the intent log's part of a txg.
pub trait SyncHook: Send + Sync {
    /// Before anything of `ctx.txg` is written; may call [`Objset::set_zil_header`] with a syncing tx.
    fn syncing(&self, objset: &Arc<Objset>, ctx: &SyncContext<'_>) -> Result<()>;
}

/// An array of objects.
pub struct Objset {}

impl Objset {
    /// Opens the objset that `root` leads to. `id` is its dataset's object number, 0 of the MOS.
    pub fn open(zio: Arc<Zio>, txgs: Arc<Txgs>, id: u64, root: Blkptr) -> Result<Arc<Objset>> {
        let _ = (zio, txgs, id, root);
        todo!()
    }

    /// A new, empty objset; it is on disk after the next [`Objset::sync`] of `tx`'s txg.
    pub fn create(zio: Arc<Zio>, txgs: Arc<Txgs>, id: u64, kind: ObjsetKind, tx: &Tx) -> Result<Arc<Objset>> {
        let _ = (zio, txgs, id, kind, tx);
        todo!()
    }

    /// The dataset's object number; 0 of the MOS.
    #[must_use]
    pub fn id(&self) -> u64 {
        todo!()
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> ObjsetKind {
        todo!()
    }

    /// The root as last synced; [`Blkptr::HOLE`] of an objset that never was.
    #[must_use]
    pub fn root(&self) -> Blkptr {
        todo!()
    }

    /// The I/O engine.
    #[must_use]
    pub fn zio(&self) -> &Arc<Zio> {
        todo!()
    }

    /// The pool's txgs.
    #[must_use]
    pub fn txgs(&self) -> &Arc<Txgs> {
        todo!()
    }

    /// How blocks are written.
    #[must_use]
    pub fn settings(&self) -> Settings {
        todo!()
    }

    /// Changes how blocks are written, from the next sync on.
    pub fn set_settings(&self, settings: Settings) {
        let _ = settings;
        todo!()
    }

    /// Installs the dataset's own space check (quota), asked by [`Objset::begin`].
    pub fn set_space_check(&self, check: Option<Arc<dyn SpaceCheck>>) {
        let _ = check;
        todo!()
    }

    /// Installs the hook that is called at the start of every sync of this objset.
    pub fn set_sync_hook(&self, hook: Option<Arc<dyn SyncHook>>) {
        let _ = hook;
        todo!()
    }

    /// [`Txgs::begin`] after the objset's own space check.
    pub fn begin(&self, reserve: u64) -> Result<Tx> {
        let _ = reserve;
        todo!()
    }

    /// [`Txgs::begin_net_free`] after the objset's own space check.
    pub fn begin_net_free(&self, reserve: u64) -> Result<Tx> {
        let _ = reserve;
        todo!()
    }

    /// The object. [`crate::Error::NotFound`] if there is none of that number.
    pub fn hold(self: &Arc<Self>, object: u64) -> Result<Arc<Dnode>> {
        let _ = object;
        todo!()
    }

    /// The object, which must be of that type ([`crate::Error::Corrupt`] if it is not).
    pub fn hold_typed(self: &Arc<Self>, object: u64, object_type: ObjectType) -> Result<Arc<Dnode>> {
        let _ = (object, object_type);
        todo!()
    }

    /// A new object at a number of the objset's choice.
    pub fn allocate(self: &Arc<Self>, tx: &Tx, what: &Allocate) -> Result<Arc<Dnode>> {
        let _ = (tx, what);
        todo!()
    }

    /// A new object at the given number. [`crate::Error::Exists`] if the number is taken, [`crate::Error::Busy`] if
    /// it was freed and that is not yet on disk: wait for the txg and try again.
    pub fn claim(self: &Arc<Self>, tx: &Tx, object: u64, what: &Allocate) -> Result<Arc<Dnode>> {
        let _ = (tx, object, what);
        todo!()
    }

    /// Frees an object and all of its blocks.
    pub fn free(self: &Arc<Self>, tx: &Tx, object: u64) -> Result<()> {
        let _ = (tx, object);
        todo!()
    }

    /// The first allocated (or, with `hole`, free) object number after `after`; `None` if there is no further one.
    pub fn next_object(self: &Arc<Self>, after: u64, hole: bool) -> Result<Option<u64>> {
        let _ = (after, hole);
        todo!()
    }

    /// Objects in use, as of the last sync.
    #[must_use]
    pub fn object_count(&self) -> u64 {
        todo!()
    }

    /// The meta-dnode.
    #[must_use]
    pub fn meta_dnode(&self) -> &Arc<Dnode> {
        todo!()
    }

    /// The ZIL header as the last call of [`Objset::set_zil_header`] left it, else as on disk.
    #[must_use]
    pub fn zil_header(&self) -> [u8; ZIL_HEADER_SIZE] {
        todo!()
    }

    /// Changes the ZIL header in `tx`'s txg.
    pub fn set_zil_header(self: &Arc<Self>, tx: &Tx, header: [u8; ZIL_HEADER_SIZE]) {
        let _ = (tx, header);
        todo!()
    }

    /// `OBJSET_FLAG_*`.
    #[must_use]
    pub fn flags(&self) -> u64 {
        todo!()
    }

    /// Whether anything is dirty in `txg`.
    #[must_use]
    pub fn is_dirty(&self, txg: u64) -> bool {
        let _ = txg;
        todo!()
    }

    /// Whether any object ever allocated through this handle has a dnode larger than 512 bytes (feature large_dnode).
    #[must_use]
    pub fn has_large_dnodes(&self) -> bool {
        todo!()
    }

    /// Writes everything that is dirty in `ctx.txg`, bottom-up; answers the new root (the old one if nothing was
    /// dirty). Births and deaths of blocks are told to `ctx.owner`, the root's own included.
    ///
    /// On an error nothing is installed: the pool must not commit this txg.
    pub fn sync(self: &Arc<Self>, ctx: &SyncContext<'_>) -> Result<Blkptr> {
        let _ = ctx;
        todo!()
    }
}
