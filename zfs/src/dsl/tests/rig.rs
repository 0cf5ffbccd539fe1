//! A pool in miniature: a disk in memory, an allocator that never gives a place out twice, and a sync loop on the caller's thread. It knows
//! of every allocated extent, so that a leak, a double free or a wrong account shows at once.

use crate::dmu::{Limits, Objset, SyncContext, Traverse, Tx, Txgs, Visit, traverse};
use crate::dsl::bpobj::space_of;
use crate::dsl::{CreateFs, Dataset, DslPool, InitFs, Kind, Slop, SpaHost, SyncTask};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::{Blkptr, Dva};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dsl::{Space, Used};
use crate::ondisk::nvlist::NvList;
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::ObjsetKind;
use crate::vdev::VdevTree;
use crate::zap;
use crate::zio::{AllocateBlocks, Class, Zio};
use platform::Env;
use platform::block::BlockDevice;
use platform::clock::{FixedClock, Timespec};
use platform::mem::MemDisk;
use platform::random::Seeded;
use platform::sync::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock, Weak};

const SIZE: u64 = 1 << 30;

/// The pool above.
pub(super) struct Host {
    env: Env,
    rig: OnceLock<Weak<Rig>>,
    features: Mutex<BTreeMap<String, u64>>,
    live: Mutex<BTreeMap<u64, u64>>,
    freed: Mutex<Vec<Dva>>,
    next: Mutex<u64>,
}

impl AllocateBlocks for Host {
    fn allocate(&self, _txg: u64, asize: u64, copies: usize, _class: Class) -> Result<Vec<Dva>> {
        let mut next = self.next.lock();
        let mut out = Vec::new();
        for _ in 0..copies {
            if *next + asize > SIZE - (8 << 20) {
                return Err(Error::NoSpace);
            }
            self.live.lock().insert(*next, asize);
            out.push(Dva { vdev: 0, offset: *next, asize, gang: false });
            *next += asize;
        }
        Ok(out)
    }
    fn unallocate(&self, _txg: u64, dva: &Dva) {
        assert_eq!(self.live.lock().remove(&dva.offset), Some(dva.asize));
    }
}

impl SpaHost for Host {
    fn free_block(&self, _tx: &Tx, bp: &Blkptr) {
        for dva in bp.dvas() {
            assert_eq!(self.live.lock().get(&dva.offset), Some(&dva.asize), "freed twice: {bp:?}");
            self.freed.lock().push(dva);
        }
    }
    fn adjusted_size(&self, _check: Slop) -> u64 {
        SIZE
    }
    fn sync_task(&self, _slop: Slop, task: SyncTask) -> Result<()> {
        self.rig.get().unwrap().upgrade().unwrap().run(Some(task))
    }
    fn version(&self) -> u64 {
        5000
    }
    fn feature_enabled(&self, _feature: &str) -> bool {
        true
    }
    fn feature_active(&self, feature: &str) -> bool {
        let always = ["org.illumos:lz4_compress", "com.delphix:embedded_data", "com.delphix:hole_birth"];
        always.contains(&feature) || self.features.lock().get(feature).is_some_and(|n| *n > 0)
    }
    fn feature_add(&self, _tx: &Tx, feature: &str, delta: i64) -> Result<()> {
        let mut features = self.features.lock();
        let count = features.entry(feature.to_string()).or_default();
        *count = count.checked_add_signed(delta).unwrap();
        Ok(())
    }
    fn log_internal(&self, _tx: &Tx, _event: &str, _dataset: u64, _name: &str, _text: &str) -> Result<()> {
        Ok(())
    }
    fn forget_errors(&self, _tx: &Tx, _head: u64) -> Result<()> {
        Ok(())
    }
    fn move_errors(&self, _tx: &Tx, _from: u64, _to: u64, _until: u64) -> Result<()> {
        Ok(())
    }
    fn env(&self) -> &Env {
        &self.env
    }
    fn read_only(&self) -> bool {
        false
    }
    fn pool_name(&self) -> String {
        "p".to_string()
    }
}

/// The whole.
pub(super) struct Rig {
    pub(super) host: Arc<Host>,
    pub(super) dsl: Arc<DslPool>,
    zio: Arc<Zio>,
    txgs: Arc<Txgs>,
}

/// The object that tests write to.
pub(super) const FILE: u64 = 2;

/// A file system with one object of 4 KiB blocks.
pub(super) fn init() -> InitFs {
    Box::new(|os, tx| {
        let master = zap::create(os, tx, ObjectType::MASTER_NODE, &zap::CreateOptions::default())?;
        assert_eq!(master.object(), 1);
        let what = crate::dmu::Allocate::plain(ObjectType::PLAIN_FILE_CONTENTS, 4096);
        let dnode = os.claim(tx, FILE, &what)?;
        dnode.write(tx, 0, &[1; 4096])
    })
}

pub(super) fn file_system() -> CreateFs {
    CreateFs { kind: Kind::Filesystem, properties: Vec::new(), init: init(), parents: None }
}

impl Rig {
    pub(super) fn new(seed: u64) -> Arc<Rig> {
        let disk: Arc<dyn BlockDevice> = Arc::new(MemDisk::new(SIZE as usize));
        let config = NvList::new()
            .with("type", "disk")
            .with("id", 0u64)
            .with("guid", 10u64)
            .with("ashift", 9u64)
            .with("asize", SIZE - (5 << 20));
        let zio = Zio::new(VdevTree::open(&config, &[(10, disk)]).unwrap(), [0; 32], 32 << 20);
        let txgs = Txgs::new(3, Limits { dirty_max: 64 << 20, timeout_ns: None });
        let host = Arc::new(Host {
            env: Env {
                clock: Arc::new(FixedClock(Timespec { sec: 1_000_000, nsec: 0 })),
                random: Arc::new(Seeded::new(seed)),
            },
            rig: OnceLock::new(),
            features: Mutex::default(),
            live: Mutex::default(),
            freed: Mutex::default(),
            next: Mutex::new(0),
        });
        txgs.request_sync();
        let quiesced = txgs.quiesce().unwrap();
        let tx = Tx::syncing(&txgs, quiesced.txg);
        let mos = Objset::create(Arc::clone(&zio), Arc::clone(&txgs), 0, ObjsetKind::Meta, &tx).unwrap();
        let directory =
            zap::create(&mos, &tx, ObjectType::OBJECT_DIRECTORY, &zap::CreateOptions::default()).unwrap();
        assert_eq!(directory.object(), 1);
        let dsl = DslPool::create(&mos, Arc::clone(&host) as Arc<dyn SpaHost>, &tx, file_system()).unwrap();
        let rig = Arc::new(Rig { host, dsl, zio, txgs });
        rig.host.rig.set(Arc::downgrade(&rig)).unwrap();
        rig.sync(&tx, &[], None).unwrap();
        rig
    }

    /// One txg, with a task or without.
    pub(super) fn run(&self, task: Option<SyncTask>) -> Result<()> {
        self.txgs.request_sync();
        let quiesced = self.txgs.quiesce().unwrap();
        let tx = Tx::syncing(&self.txgs, quiesced.txg);
        self.sync(&tx, &quiesced.dirty_objsets, task)
    }

    fn sync(&self, tx: &Tx, dirty: &[Arc<Objset>], task: Option<SyncTask>) -> Result<()> {
        let alloc = &*self.host;
        self.dsl.sync(tx, 1, alloc, dirty).unwrap();
        self.dsl.free_some(tx).unwrap();
        let result = task.map_or(Ok(()), |task| task(tx));
        self.dsl.sync(tx, 1, alloc, &[]).unwrap();
        let mos = self.dsl.mos();
        let mut pass = 1;
        while mos.is_dirty(tx.txg()) {
            let owner = self.dsl.mos_owner(tx);
            mos.sync(&SyncContext { txg: tx.txg(), pass, alloc, owner: &*owner }).unwrap();
            pass += 1;
            assert!(pass < 20, "the MOS does not come to rest");
            self.dsl.sync(tx, pass, alloc, &[]).unwrap();
        }
        for dva in self.host.freed.lock().drain(..) {
            assert_eq!(self.host.live.lock().remove(&dva.offset), Some(dva.asize));
        }
        self.txgs.synced(tx.txg());
        result
    }

    /// Until nothing waits to be freed.
    pub(super) fn settle(&self) {
        while self.dsl.has_pending_frees().unwrap() {
            // A txg that has something to do.
            self.dsl.set_properties("p", &[("test:settle", "x")]).unwrap();
        }
    }

    /// Opens the pool anew, from disk.
    pub(super) fn reopen(&self) -> Arc<DslPool> {
        let root = self.dsl.mos().root();
        let mos = Objset::open(Arc::clone(&self.zio), Arc::clone(&self.txgs), 0, root).unwrap();
        DslPool::open(&mos, Arc::clone(&self.host) as Arc<dyn SpaHost>).unwrap()
    }

    /// Checks everything against what is really on disk.
    pub(super) fn check(&self) {
        Check { rig: self, dsl: self.reopen() }.all();
    }
}

/// The blocks of an objset: place (or, embedded, their own number) and birth, and space.
#[derive(Default)]
struct Blocks {
    min_birth: u64,
    blocks: Vec<(Vec<Dva>, u64, Space)>,
    host: Option<Arc<Host>>,
}

impl Traverse for Blocks {
    fn block(&mut self, bp: &Blkptr, _at: &Bookmark) -> Result<Visit> {
        assert!(bp.birth() > self.min_birth);
        let host = self.host.as_ref().unwrap();
        self.blocks.push((bp.dvas().collect(), bp.birth(), space_of(&**host, bp)));
        Ok(Visit::Continue)
    }
}

struct Check<'a> {
    rig: &'a Rig,
    dsl: Arc<DslPool>,
}

impl Check<'_> {
    fn blocks(&self, objset: u64, root: &Blkptr, min_birth: u64) -> Vec<(Vec<Dva>, u64, Space)> {
        let mut blocks = Blocks { min_birth, host: Some(Arc::clone(&self.rig.host)), ..Blocks::default() };
        if !root.is_hole() {
            traverse(&self.rig.zio, objset, root, min_birth, &mut blocks).unwrap();
        }
        blocks.blocks
    }

    fn all(&self) {
        self.space_maps();
        let mut heads = self.dsl.datasets().unwrap();
        heads.reverse();
        let mut used: BTreeMap<String, u64> = BTreeMap::new();
        for head in heads {
            self.dataset(&head, &mut used);
        }
        let counted = self.rig.host.features.lock().get("com.delphix:empty_bpobj").copied().unwrap_or(0);
        assert_eq!(self.dsl.meta.empty_bpobj() != 0, counted > 0);
    }

    /// Allocated is what is referred to, each extent once.
    fn space_maps(&self) {
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        let mut meet = |dva: &Dva, what: &str| {
            assert_eq!(seen.insert(dva.offset, dva.asize), None, "met twice: {dva:?} in {what}");
        };
        let root = self.dsl.mos().root();
        for (dvas, _, _) in self.blocks(0, &root, 0) {
            dvas.iter().for_each(|d| meet(d, "MOS"));
        }
        self.dsl
            .visit_objsets(&mut |id, bp, txg| {
                for (dvas, _, _) in self.blocks(id, bp, txg) {
                    dvas.iter().for_each(|d| meet(d, &format!("objset {id}")));
                }
                Ok(())
            })
            .unwrap();
        self.dsl
            .visit_pending_frees(&mut |bp| {
                bp.dvas().for_each(|d| meet(&d, "free list"));
                Ok(())
            })
            .unwrap();
        let live = self.rig.host.live.lock();
        let leaked: Vec<_> = live.iter().filter(|(at, _)| !seen.contains_key(at)).collect();
        let lost: Vec<_> = seen.iter().filter(|(at, _)| !live.contains_key(at)).collect();
        assert!(leaked.is_empty() && lost.is_empty(), "leaked {leaked:?}, lost {lost:?}");
    }

    /// Distinct blocks of a dataset, with their space.
    fn set(&self, dataset: &Dataset) -> BTreeMap<(u64, u64), Space> {
        let blocks = self.blocks(dataset.object(), &dataset.root_bp(), 0);
        let key =
            |(dvas, birth, _): &(Vec<Dva>, u64, Space)| (dvas.first().map_or(u64::MAX, |d| d.offset), *birth);
        blocks.iter().filter(|b| !b.0.is_empty()).map(|b| (key(b), b.2)).collect()
    }

    /// The books of a head, its snapshots and its dir.
    fn dataset(&self, head: &Arc<Dataset>, used: &mut BTreeMap<String, u64>) {
        let name = head.name();
        let dir = head.dir().phys();
        let origin_txg = head.dir().origin_txg();
        let mut chain = head.snapshots().unwrap();
        chain.push(Arc::clone(head));
        let sets: Vec<_> = chain.iter().map(|d| self.set(d)).collect();
        let mut own: BTreeMap<(u64, u64), Space> = BTreeMap::new();
        for (i, dataset) in chain.iter().enumerate() {
            let phys = dataset.phys();
            let mut all = Space::default();
            for (_, _, space) in self.blocks(dataset.object(), &dataset.root_bp(), 0) {
                all += space;
            }
            let booked = Space {
                used: phys.referenced_bytes,
                compressed: phys.compressed_bytes,
                uncompressed: phys.uncompressed_bytes,
            };
            assert_eq!(booked, all, "references of {}", dataset.name());
            let next = sets.get(i + 1);
            let unique: u64 = sets[i]
                .iter()
                .filter(|(key, _)| key.1 > phys.prev_snap_txg && next.is_none_or(|n| !n.contains_key(key)))
                .map(|(_, s)| s.used)
                .sum();
            assert_eq!(phys.unique_bytes, unique, "unique of {}", dataset.name());
            own.extend(sets[i].iter().filter(|(key, _)| key.1 > origin_txg).map(|(k, s)| (*k, *s)));
        }
        for mark in head.bookmarks().unwrap().iter().filter(|m| m.referenced.is_some()) {
            let since = |key: &(u64, u64)| key.1 > mark.creation_txg;
            let written: u64 =
                sets.last().unwrap().iter().filter(|(k, _)| since(k)).map(|(_, s)| s.used).sum();
            let short = mark.name.split_once('#').unwrap().1;
            assert_eq!(head.written_since_bookmark(short), Ok(written), "written since {}", mark.name);
        }
        let of_head: u64 =
            sets.last().unwrap().iter().filter(|(k, _)| k.1 > origin_txg).map(|(_, s)| s.used).sum();
        let total: u64 = own.values().map(|s| s.used).sum();
        let by = |kind: Used| dir.used_breakdown[kind as usize];
        assert_eq!(by(Used::Head), of_head, "used by the head of {name}");
        assert_eq!(by(Used::Snap), total - of_head, "used by the snapshots of {name}");
        let reserved = head.with(|s| s.reserved);
        assert_eq!(by(Used::RefReservation), reserved.saturating_sub(head.phys().unique_bytes), "of {name}");
        let mut children = 0;
        let mut charged = 0;
        for child in head.children().unwrap() {
            let phys = child.dir().phys();
            children += used[&child.name()];
            charged += phys.used_bytes.max(phys.reserved);
        }
        if name == "p" {
            for special in [self.dsl.fixed().mos_dir, self.dsl.fixed().free_dir] {
                let phys = self.dsl.hold_dir(special).unwrap().phys();
                children += phys.used_bytes;
                charged += phys.used_bytes;
            }
        }
        assert_eq!(by(Used::Child), children, "used by the children of {name}");
        assert_eq!(
            by(Used::Child) + by(Used::ChildReservation),
            charged,
            "reserved by the children of {name}"
        );
        assert_eq!(dir.used_bytes, dir.used_breakdown.iter().sum::<u64>(), "{name}");
        used.insert(name, dir.used_bytes);
        let keys: BTreeSet<u64> = head.snapshots().unwrap().iter().map(|s| s.phys().prev_snap_txg).collect();
        assert!(keys.len() <= chain.len());
    }
}
