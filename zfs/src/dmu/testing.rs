//! A pool in miniature for tests: a disk in memory, an allocator that catches double use and leaks, a sync.

use crate::dmu::{BlockOwner, Limits, Objset, SyncContext, Traverse, Tx, Txgs, Visit, traverse};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Blkptr, Dva};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::nvlist::NvList;
use crate::ondisk::objset::ObjsetKind;
use crate::vdev::VdevTree;
use crate::zio::{AllocateBlocks, Class, Zio};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::block::BlockDevice;
use platform::mem::MemDisk;
use platform::sync::Mutex;

/// Extents in use and those that become free later.
#[derive(Default)]
pub(crate) struct Space {
    /// Offset to size.
    used: BTreeMap<u64, u64>,
    /// Freed extents by the txg that freed them.
    deferred: Vec<(u64, Dva)>,
    /// How many more references than one there are to a block, by offset: of those that were cloned.
    shared: BTreeMap<u64, u64>,
    cursor: u64,
}

/// Allocator and owner of all blocks of the test pool.
pub(crate) struct TestSpace {
    pub(crate) space: Mutex<Space>,
    txg: Mutex<u64>,
    size: u64,
}

impl TestSpace {
    fn fits(space: &Space, at: u64, size: u64) -> bool {
        let before = space.used.range(..at + size).next_back();
        before.is_none_or(|(&start, &len)| start + len <= at)
    }

    fn take(&self, space: &mut Space, asize: u64) -> Option<u64> {
        let mut at = space.cursor;
        for _ in 0..2 {
            while at + asize <= self.size {
                if Self::fits(space, at, asize) {
                    space.used.insert(at, asize);
                    space.cursor = at + asize;
                    return Some(at);
                }
                let (&start, &len) = space.used.range(..at + asize).next_back()?;
                at = start + len;
            }
            at = 0;
        }
        None
    }

    fn release(&self, space: &mut Space, dva: &Dva) {
        assert_eq!(space.used.remove(&dva.offset), Some(dva.asize), "freed what was not in use: {dva:?}");
    }

    /// Counts one more reference to a block.
    pub(crate) fn refer(&self, bp: &Blkptr) {
        *self.space.lock().shared.entry(bp.dva(0).offset).or_default() += u64::from(bp.is_stored());
    }

    pub(crate) fn used(&self) -> u64 {
        let space = self.space.lock();
        space.used.values().sum::<u64>() - space.deferred.iter().map(|(_, d)| d.asize).sum::<u64>()
    }
}

impl AllocateBlocks for TestSpace {
    fn allocate(&self, _txg: u64, asize: u64, copies: usize, _class: Class) -> Result<Vec<Dva>> {
        let mut space = self.space.lock();
        let mut out: Vec<Dva> = Vec::new();
        for _ in 0..copies {
            let Some(offset) = self.take(&mut space, asize) else {
                out.iter().for_each(|d| self.release(&mut space, d));
                return Err(Error::NoSpace);
            };
            out.push(Dva { vdev: 0, offset, asize, gang: false });
        }
        Ok(out)
    }

    fn unallocate(&self, _txg: u64, dva: &Dva) {
        self.release(&mut self.space.lock(), dva);
    }
}

impl BlockOwner for TestSpace {
    fn born(&self, bp: &Blkptr) {
        assert!(!bp.is_hole());
        assert_eq!(bp.birth(), *self.txg.lock());
    }

    fn killed(&self, bp: &Blkptr) {
        assert!(!bp.is_hole());
        let txg = *self.txg.lock();
        let mut space = self.space.lock();
        if let Some(more) = space.shared.get_mut(&bp.dva(0).offset).filter(|more| **more > 0) {
            *more -= 1;
            return;
        }
        for dva in bp.dvas() {
            assert!(!space.deferred.iter().any(|(_, d)| d.offset == dva.offset), "killed twice: {bp:?}");
            space.deferred.push((txg, dva));
        }
    }

    fn unused(&self, bp: &Blkptr) {
        self.killed(bp);
    }
}

pub(crate) struct TestPool {
    pub(crate) zio: Arc<Zio>,
    pub(crate) txgs: Arc<Txgs>,
    pub(crate) space: Arc<TestSpace>,
    config: NvList,
    disk: Arc<MemDisk>,
}

pub(crate) const ARC: usize = 4 << 20;

impl TestPool {
    pub(crate) fn new(size: u64) -> Self {
        Self::with_limits(size, Limits { dirty_max: u64::MAX, timeout_ns: None })
    }

    pub(crate) fn with_limits(size: u64, limits: Limits) -> Self {
        let disk = Arc::new(MemDisk::new(size as usize));
        let config = NvList::new()
            .with("type", "disk")
            .with("id", 0u64)
            .with("guid", 10u64)
            .with("ashift", 9u64)
            .with("asize", size - (5 << 20));
        let space = TestSpace { space: Mutex::default(), txg: Mutex::new(0), size: size - (5 << 20) };
        let members = [(10, Arc::clone(&disk) as Arc<dyn BlockDevice>)];
        let zio = Zio::new(VdevTree::open(&config, &members).unwrap(), [7; 32], ARC);
        TestPool { zio, txgs: Txgs::new(3, limits), space: Arc::new(space), config, disk }
    }

    /// The same disk with an empty cache.
    pub(crate) fn fresh_zio(&self) -> Arc<Zio> {
        let members = [(10, Arc::clone(&self.disk) as Arc<dyn BlockDevice>)];
        Zio::new(VdevTree::open(&self.config, &members).unwrap(), [7; 32], ARC)
    }

    pub(crate) fn create(&self, id: u64, kind: ObjsetKind, tx: &Tx) -> Arc<Objset> {
        Objset::create(Arc::clone(&self.zio), Arc::clone(&self.txgs), id, kind, tx).unwrap()
    }

    /// Syncs the open txg: what a pool's sync thread does.
    pub(crate) fn sync(&self) {
        self.try_sync().unwrap();
    }

    /// Runs `work` with a transaction of a txg that is closing, which is synced when that ends, and one of the txg behind it; both are on
    /// disk then.
    pub(crate) fn with_two_txgs(&self, work: impl FnOnce(&Tx, &Tx)) {
        let older = self.txgs.begin(0).unwrap();
        std::thread::scope(|scope| {
            // Closes the older txg, and waits for its transaction.
            let open = self.txgs.open_txg();
            let sync = scope.spawn(|| self.sync());
            while self.txgs.open_txg() == open {
                std::thread::yield_now();
            }
            let newer = self.txgs.begin(0).unwrap();
            assert_eq!(newer.txg(), older.txg() + 1);
            work(&older, &newer);
            drop(older);
            sync.join().unwrap();
            drop(newer);
        });
        self.sync();
    }

    pub(crate) fn try_sync(&self) -> Result<()> {
        let target = self.txgs.request_sync();
        self.sync_through(target)
    }

    fn sync_through(&self, target: u64) -> Result<()> {
        while self.txgs.synced_txg() < target {
            let quiesced = self.txgs.quiesce().unwrap();
            let txg = quiesced.txg;
            *self.space.txg.lock() = txg;
            let ctx = SyncContext { txg, pass: 1, alloc: &*self.space, owner: &*self.space };
            for objset in &quiesced.dirty_objsets {
                objset.sync(&ctx)?;
            }
            // A txg's frees can be used again two txgs later.
            let mut space = self.space.space.lock();
            let (now, later): (Vec<_>, Vec<_>) =
                core::mem::take(&mut space.deferred).into_iter().partition(|(t, _)| t + 2 <= txg);
            space.deferred = later;
            for (_, dva) in now {
                self.space.release(&mut space, &dva);
            }
            drop(space);
            self.txgs.synced(txg);
        }
        Ok(())
    }

    /// What the tree refers to is exactly what is in use, and every block reads well from the disk.
    pub(crate) fn check(&self, objsets: &[&Arc<Objset>]) {
        struct Blocks<'a>(BTreeMap<u64, u64>, &'a Zio, u64, BTreeMap<u64, u64>);
        impl Traverse for Blocks<'_> {
            fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> Result<Visit> {
                for dva in bp.dvas() {
                    if self.0.insert(dva.offset, dva.asize).is_some() {
                        *self.3.entry(dva.offset).or_default() += 1;
                    }
                }
                self.1.verify(bp, *at)?;
                if at.level == 0 && bp.object_type() == 10 {
                    self.2 += bp.fill();
                }
                Ok(Visit::Continue)
            }
        }
        let zio = self.fresh_zio();
        let mut blocks = Blocks(BTreeMap::new(), &zio, 0, BTreeMap::new());
        for objset in objsets {
            blocks.2 = 0;
            traverse(&zio, objset.id(), &objset.root(), 0, &mut blocks).unwrap();
            assert_eq!(blocks.2, objset.object_count());
        }
        let space = self.space.space.lock();
        let mut used = space.used.clone();
        for (_, dva) in &space.deferred {
            used.remove(&dva.offset);
        }
        assert_eq!(blocks.0, used, "leaked or lost blocks");
        let shared = space.shared.iter().filter(|(_, more)| **more > 0).map(|(at, more)| (*at, *more));
        assert_eq!(blocks.3, shared.collect(), "blocks met more than once, by how often");
    }
}

/// Small random numbers.
pub(crate) trait Below {
    fn below(&self, limit: u64) -> u64;
}

impl Below for platform::random::Seeded {
    fn below(&self, limit: u64) -> u64 {
        platform::random::Random::next_u64(self) % limit
    }
}
