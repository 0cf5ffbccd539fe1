//! Block reads and writes: what stands between block pointers and devices. Source: `zio.c`.
//!
//! Reads go hole/embedded → cache → device → checksum → decompression; writes compression → checksum → allocation →
//! device. A call takes many blocks, issues all their I/O and waits once; the computing is spread over the processors.
//!
//! # Invariants
//! - Allocation happens in the order of the call's blocks, whatever the processors do: images are reproducible.
//! - A failed write call leaves nothing allocated.
//! - Nothing here holds a lock across I/O.

mod examine;
mod gang;
mod read;
mod repair;
mod tamper;
#[cfg(test)]
mod tests;
mod verify;
mod write;
mod zil;

pub(crate) use repair::Lost;
pub use tamper::Tamper;

use crate::arc::{ArcStats, Cache, Key, PrimaryCache, Reader};
use crate::checksum::{Checksum, Salted};
use crate::compress::{Buffers, Compression, Workspace};
use crate::crypt::Keys;
use crate::error::Result;
use crate::ondisk::blkptr::{Blkptr, Dva};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::object_type::ObjectType;
use crate::vdev::VdevTree;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::sync::atomic::{AtomicBool, Ordering};
use hashbrown::HashMap;
use platform::sync::{Mutex, RwLock};

pub use verify::Verified;
pub use write::BlocksInFlight;

/// What an allocation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Data and metadata.
    Normal,
    /// Intent-log blocks.
    Log,
    /// Metadata, if the pool has vdevs for it.
    Special,
    /// Small data, if the pool has vdevs for it.
    Small,
    /// Deduplication tables, if the pool has vdevs for them.
    Dedup,
}

/// Who gives out space: `spa::metaslab`.
pub trait AllocateBlocks: Send + Sync {
    /// Allocates `copies` (1 to 3) extents for `psize` bytes in different places, for a block born in `txg`; how large they are depends
    /// on their vdevs. [`crate::Error::NoSpace`] if there is none of that size: the caller then tries a gang block.
    fn allocate(&self, txg: u64, psize: u64, copies: usize, class: Class) -> Result<Vec<Dva>>;
    /// Takes back an extent that was allocated in this very `txg` and never referred to.
    fn unallocate(&self, txg: u64, dva: &Dva);
}

/// How a block is to be written.
#[derive(Debug, Clone, Copy)]
pub struct WritePolicy {
    /// `dmu_object_type_t` that goes into the block pointer.
    pub object_type: u8,
    /// Level of the block: 0 is data.
    pub level: u8,
    /// Checksum function.
    pub checksum: Checksum,
    /// Compression function; what does not save an eighth is stored as it is.
    pub compression: Compression,
    /// How many copies, 1 to 3.
    pub copies: u8,
    /// File data of that many bytes or less goes to special vdevs (`special_small_blocks`).
    pub special_small: u64,
    /// Fill count for the block pointer.
    pub fill: u64,
    /// What compresses to 112 bytes or less may go into the block pointer (level 0 only).
    pub may_embed: bool,
    /// What is all zeros becomes a hole, with the txg as its birth. (A caller that had no block there before
    /// stores [`Blkptr::HOLE`] instead.)
    pub may_hole: bool,
    /// The pointer says that the block is authenticated: the root block of an encrypted dataset.
    pub authenticated: bool,
}

/// A block to write.
#[derive(Debug, Clone)]
pub struct Write {
    /// Logical data: its length is the logical size, a multiple of 512.
    pub data: Bytes,
    /// How.
    pub policy: WritePolicy,
    /// Where it belongs, for error messages.
    pub at: Bookmark,
    /// A block that was allocated in this same txg: overwritten in place if the new physical size equals its own,
    /// else the caller frees it.
    pub rewrite: Option<Blkptr>,
}

/// The I/O half of a pool.
pub struct Zio {
    vdevs: RwLock<Arc<VdevTree>>,
    /// Bad copies are not mended.
    read_only: AtomicBool,
    cache: Arc<Cache>,
    keys: Arc<Keys>,
    /// What is cached of the objsets of which not everything is.
    cached_parts: RwLock<HashMap<u64, PrimaryCache>>,
    salted: RwLock<Arc<Salted>>,
    shared: Arc<Shared>,
    prefetches: Mutex<Prefetches>,
    tamper: spin::Once<Tamper>,
    /// Blocks that no copy gave.
    lost: Mutex<BTreeSet<Lost>>,
}

/// What jobs on other threads need.
#[derive(Default)]
struct Shared {
    buffers: Mutex<Vec<Buffers>>,
}

impl Shared {
    /// Lends a compressor's workspace to `f`.
    fn with_workspace<R>(&self, f: impl FnOnce(&mut Workspace) -> R) -> R {
        let lent = self.buffers.lock().pop();
        let mut ws = Workspace::from_buffers(lent.unwrap_or_default());
        let result = f(&mut ws);
        self.buffers.lock().push(ws.into_buffers());
        result
    }
}

/// Blocks that wait to be read ahead.
#[derive(Default)]
struct Prefetches {
    queue: VecDeque<(Blkptr, Bookmark)>,
    running: bool,
}

/// How many blocks may wait to be read ahead; more are forgotten.
const PREFETCH_MAX: usize = 2048;
/// How many of them are taken up at once.
const PREFETCH_BATCH: usize = 128;

impl Zio {
    /// An I/O engine on `vdevs`. `salt` is the pool's checksum salt (all zeros until the MOS is read);
    /// `arc_max` bounds the cache, in bytes.
    #[must_use]
    pub fn new(vdevs: VdevTree, salt: [u8; 32], arc_max: usize) -> Arc<Zio> {
        Arc::new(Zio {
            vdevs: RwLock::new(Arc::new(vdevs)),
            read_only: AtomicBool::new(true),
            cache: Cache::new(arc_max),
            keys: Arc::default(),
            cached_parts: RwLock::default(),
            salted: RwLock::new(Arc::new(Salted::new(&salt))),
            shared: Arc::default(),
            prefetches: Mutex::default(),
            tamper: spin::Once::new(),
            lost: Mutex::default(),
        })
    }

    /// From now on `tamper` changes what is read from devices. Can be set once.
    pub fn set_tamper(&self, tamper: Tamper) {
        self.tamper.call_once(|| tamper);
    }

    /// The vdev tree as it is now.
    #[must_use]
    pub fn vdevs(&self) -> Arc<VdevTree> {
        Arc::clone(&self.vdevs.read())
    }

    /// Another vdev tree from now on. I/O that is on its way ends on the old one.
    pub fn set_vdevs(&self, vdevs: VdevTree) {
        *self.vdevs.write() = Arc::new(vdevs);
    }

    /// From now on bad copies of what is read are mended. (A new engine only reads.)
    pub fn allow_repairs(&self) {
        self.read_only.store(false, Ordering::Release);
    }

    /// The bytes of data that a block's allocated ones stand for (`bp_get_dsize`): what accounting counts.
    #[must_use]
    pub fn dsize(&self, bp: &Blkptr) -> u64 {
        let vdevs = self.vdevs();
        bp.dvas().map(|dva| vdevs.dsize(&dva)).sum()
    }

    /// Sets the salt of skein, edonr and blake3.
    pub fn set_salt(&self, salt: [u8; 32]) {
        *self.salted.write() = Arc::new(Salted::new(&salt));
    }

    fn salted(&self) -> Arc<Salted> {
        Arc::clone(&self.salted.read())
    }

    /// The keys of encrypted objsets.
    #[must_use]
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Empties the cache: to be called when a key came or went, so that nothing is served that was not checked with it, or that it is
    /// needed for.
    pub fn forget_all(&self) {
        self.cache.clear();
    }

    /// Changes the limit of the cache, in bytes; gives memory back at once.
    pub fn set_arc_max(&self, bytes: usize) {
        self.cache.set_max(bytes);
    }

    /// Gives back cached blocks of `bytes` bytes; how many went. Never waits.
    pub fn shrink_cache(&self, bytes: usize) -> usize {
        self.cache.shrink(bytes)
    }

    /// Says what is cached of an objset's blocks, those that are written too (property `primarycache`).
    pub fn set_primary_cache(&self, objset: u64, what: PrimaryCache) {
        let mut parts = self.cached_parts.write();
        match what {
            PrimaryCache::All => parts.remove(&objset),
            part => parts.insert(objset, part),
        };
    }

    /// Whether a block enters the cache.
    fn is_kept(&self, bp: &Blkptr, at: Bookmark) -> bool {
        let parts = self.cached_parts.read();
        let is_metadata = || bp.level() > 0 || ObjectType(bp.object_type()).is_metadata();
        parts.is_empty() || parts.get(&at.objset).is_none_or(|part| part.keeps(is_metadata()))
    }

    /// The cache's figures.
    #[must_use]
    pub fn stats(&self) -> ArcStats {
        self.cache.stats()
    }

    /// Makes all completed writes durable.
    pub fn flush(&self) -> Result<()> {
        self.vdevs().flush()
    }

    /// Drops a block from the cache, as its space is free again. Not needed for correctness: a new block in the same
    /// place has another birth.
    pub fn forget(&self, bp: &Blkptr) {
        if !bp.is_hole() && !bp.is_embedded() {
            self.cache.remove(&Key::of(bp));
        }
    }

    /// Starts reading blocks into the cache and does not wait. Errors are forgotten, and so is what exceeds a bound.
    pub fn prefetch(self: &Arc<Self>, wants: Vec<(Blkptr, Bookmark)>) {
        let useful = |(bp, at): &(Blkptr, Bookmark)| {
            let needs_device = !bp.is_hole() && !bp.is_embedded();
            needs_device && self.is_kept(bp, *at) && !self.cache.knows(&Key::of(bp))
        };
        let wants: Vec<_> = wants.into_iter().filter(useful).collect();
        let start = {
            let mut prefetches = self.prefetches.lock();
            let room = PREFETCH_MAX.saturating_sub(prefetches.queue.len());
            prefetches.queue.extend(wants.into_iter().take(room));
            let start = !prefetches.running && !prefetches.queue.is_empty();
            prefetches.running |= start;
            start
        };
        if start {
            let zio = Arc::clone(self);
            platform::thread::spawn("zio-prefetch", move || zio.run_prefetches());
        }
    }

    fn run_prefetches(&self) {
        loop {
            let batch: Vec<_> = {
                let mut prefetches = self.prefetches.lock();
                let count = prefetches.queue.len().min(PREFETCH_BATCH);
                if count == 0 {
                    prefetches.running = false;
                    return;
                }
                prefetches.queue.drain(..count).collect()
            };
            drop(self.read_batch(&batch, Some(Reader::Prefetch)));
        }
    }
}
