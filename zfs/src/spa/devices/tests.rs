//! Devices that are lost, stale, replaced and resilvered, on disks in memory.

use super::super::{
    CreateOptions, ImportOptions, NewDevice, NewVdev, Pool, PoolState, Replacement, ScanControl, Topology,
};
use crate::dmu::Allocate;
use crate::error::Error;
use crate::ondisk::nvlist::Value;
use crate::ondisk::object_type::ObjectType;
use crate::vdev::LeafState;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::Env;
use platform::block::{BlockDevice, BlockError, BlockInfo, Request};
use platform::clock::{FixedClock, Timespec};
use platform::mem::MemDisk;
use platform::random::{Random, Seeded};

const SIZE: usize = 72 << 20;
const BLOCK: usize = 64 << 10;

/// Disks, and what a pool on them should hold.
struct Bench {
    disks: Vec<Arc<MemDisk>>,
    random: Arc<Seeded>,
    /// Objects with the blocks that were written to them.
    objects: Vec<(u64, Vec<u8>)>,
}

fn handle(disk: &Arc<MemDisk>) -> Arc<dyn BlockDevice> {
    Arc::<MemDisk>::clone(disk)
}

impl Bench {
    fn new(seed: u64, disks: usize) -> Self {
        std::println!("seed {seed}");
        let disks = (0..disks).map(|_| Arc::new(MemDisk::new(SIZE))).collect();
        Bench { disks, random: Arc::new(Seeded::new(seed)), objects: Vec::new() }
    }

    fn env(&self) -> Env {
        let now = Timespec { sec: 1_700_000_000, nsec: 0 };
        Env { clock: Arc::new(FixedClock(now)), random: Arc::<Seeded>::clone(&self.random) }
    }

    fn device(&self, n: usize) -> NewDevice {
        NewDevice { device: handle(&self.disks[n]), path: Some(alloc::format!("/dev/disk{n}")) }
    }

    fn add_disk(&mut self) -> usize {
        self.disks.push(Arc::new(MemDisk::new(SIZE)));
        self.disks.len() - 1
    }

    fn create(&self, topology: Topology) -> Arc<Pool> {
        let mut options = CreateOptions::new("tp", Box::new(|_, _| Ok(())));
        options.ashift = Some(9);
        Pool::create(topology, self.env(), options).unwrap()
    }

    fn import(&self, disks: &[usize]) -> crate::Result<Arc<Pool>> {
        let devices = disks.iter().map(|n| handle(&self.disks[*n])).collect();
        Pool::import(devices, self.env(), ImportOptions { force: true, ..ImportOptions::default() })
    }

    /// Writes another object.
    fn write(&mut self, pool: &Pool, blocks: usize) {
        let objset = pool.dsl().root().unwrap().objset().unwrap();
        let tx = pool.txgs().begin(BLOCK as u64).unwrap();
        let dnode = objset.allocate(&tx, &Allocate::plain(ObjectType::PLAIN_OTHER, BLOCK as u32)).unwrap();
        drop(tx);
        let mut noise = vec![0; BLOCK * blocks];
        self.random.fill(&mut noise);
        for (block, data) in noise.chunks(BLOCK).enumerate() {
            let tx = pool.txgs().begin(BLOCK as u64).unwrap();
            dnode.write(&tx, (block * BLOCK) as u64, data).unwrap();
        }
        pool.sync().unwrap();
        self.objects.push((dnode.object(), noise));
    }

    /// Everything reads back.
    fn compare(&self, pool: &Pool, what: &str) {
        let objset = pool.dsl().root().unwrap().objset().unwrap();
        for (object, want) in &self.objects {
            let mut found = vec![0; want.len()];
            objset.hold(*object).unwrap().read(0, &mut found).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(found == *want, "{what}: object {object}");
        }
    }

    /// Verification with every disk that is given finds nothing.
    fn assert_clean(&self, pool: &Pool, what: &str) {
        let report = pool.verify(&mut |_| ()).unwrap();
        assert!(report.is_clean(), "{what}: {report:#?}");
        self.compare(pool, what);
    }
}

/// The guid of the leaf on a disk.
fn guid(pool: &Pool, disk: usize) -> u64 {
    let path = alloc::format!("/dev/disk{disk}");
    let vdevs = pool.zio().vdevs();
    let leaf = vdevs.leaves().into_iter().find(|leaf| leaf.path.as_deref() == Some(path.as_str()));
    leaf.unwrap_or_else(|| panic!("no leaf {path}")).guid
}

fn resilver(pool: &Pool) -> Option<super::super::ScanReport> {
    let report = pool.resilver(&mut |_| ScanControl::Continue).unwrap();
    if let Some(report) = &report {
        assert!(report.problems.is_empty() && report.status.errors == 0, "{report:?}");
    }
    report
}

fn export(pool: Arc<Pool>) {
    pool.export().unwrap();
}

fn raidz(bench: &Bench, parity: u8, count: usize) -> Topology {
    let devices = (0..count).map(|n| bench.device(n)).collect();
    vec![NewVdev::Raidz { parity, devices }].into()
}

fn mirror(bench: &Bench, count: usize) -> Topology {
    vec![NewVdev::Mirror((0..count).map(|n| bench.device(n)).collect())].into()
}

fn draid(bench: &Bench, count: usize, spares: u8) -> Topology {
    let devices = (0..count).map(|n| bench.device(n)).collect();
    vec![NewVdev::Draid { parity: 1, data: Some(2), spares, devices }].into()
}

/// Every set of `lost` disks of `count`.
fn sets(count: usize, lost: u32) -> Vec<Vec<usize>> {
    let all = (0u32..1 << count).filter(|set| set.count_ones() == lost);
    all.map(|set| (0..count).filter(|n| set >> n & 1 != 0).collect()).collect()
}

/// Disks are lost, the pool is written to, each lost one is replaced by a new one; then the pool is whole on the rest and the new ones.
fn every_loss(seed: u64, count: usize, lost: u32, topology: impl Fn(&Bench) -> Topology) {
    for set in sets(count, lost) {
        let mut bench = Bench::new(seed, count);
        let pool = bench.create(topology(&bench));
        bench.write(&pool, 12);
        export(pool);
        let kept: Vec<usize> = (0..count).filter(|n| !set.contains(n)).collect();
        let pool = bench.import(&kept).unwrap();
        assert_eq!(pool.state(), PoolState::Degraded);
        bench.compare(&pool, "degraded");
        bench.write(&pool, 6);
        let mut disks = kept.clone();
        for n in &set {
            let new = bench.add_disk();
            let device = bench.device(new);
            pool.replace(guid(&pool, *n), Replacement::Device(device)).unwrap();
            disks.push(new);
        }
        bench.write(&pool, 3);
        let report = resilver(&pool).unwrap();
        assert!(report.status.processed > 0, "{report:?}");
        assert!(!pool.needs_resilver() && pool.state() == PoolState::Online, "{set:?}");
        bench.assert_clean(&pool, "resilvered");
        export(pool);
        let pool = bench.import(&disks).unwrap();
        bench.assert_clean(&pool, "imported");
        // The new ones alone bear the next losses.
        export(pool);
        let others: Vec<usize> = disks.iter().copied().skip(lost as usize).collect();
        bench.compare(&bench.import(&others).unwrap(), "others lost");
    }
}

#[test]
fn every_loss_of_a_mirror_is_made_good() {
    every_loss(1, 2, 1, |bench| mirror(bench, 2));
    every_loss(2, 3, 2, |bench| mirror(bench, 3));
}

#[test]
fn every_loss_of_raidz1_is_made_good() {
    every_loss(3, 3, 1, |bench| raidz(bench, 1, 3));
}

#[test]
fn every_pair_of_raidz2_is_made_good() {
    every_loss(4, 4, 2, |bench| raidz(bench, 2, 4));
}

#[test]
fn every_triple_of_raidz3_is_made_good() {
    every_loss(5, 5, 3, |bench| raidz(bench, 3, 5));
}

#[test]
fn every_loss_of_draid1_is_made_good() {
    every_loss(6, 4, 1, |bench| draid(bench, 4, 0));
}

#[test]
fn a_disk_that_was_away_is_not_read_for_what_it_missed() {
    for raid in [false, true] {
        let mut bench = Bench::new(7, 3);
        let pool = bench.create(if raid { raidz(&bench, 1, 3) } else { mirror(&bench, 3) });
        bench.write(&pool, 8);
        export(pool);
        let pool = bench.import(&[0, 2]).unwrap();
        // The same place again and again: what disk 1 has there is old.
        for _ in 0..4 {
            bench.write(&pool, 5);
        }
        let missed =
            pool.zio().vdevs().leaves().iter().map(|leaf| leaf.missing()).find(|m| !m.is_empty()).unwrap();
        export(pool);
        let pool = bench.import(&[0, 1, 2]).unwrap();
        let stale = guid(&pool, 1);
        let leaf_errors = |pool: &Pool| pool.zio().vdevs().leaf(stale).unwrap().errors();
        // The export missed it, too.
        let known = pool.zio().vdevs().leaf(stale).unwrap().missing();
        let both = crate::vdev::TxgRanges::in_at_least(&[known.clone(), missed.clone()], 2);
        assert_eq!(both, missed, "{known:?}");
        assert!(pool.needs_resilver());
        bench.compare(&pool, "with a stale disk");
        assert_eq!(leaf_errors(&pool), crate::vdev::ErrorCounts::default());
        if raid {
            assert_eq!(pool.offline(guid(&pool, 0), false), Err(Error::Busy));
        }
        let report = resilver(&pool).unwrap();
        // Not what it had.
        assert!(report.status.min_txg > 4 && report.status.processed > 0, "{report:?}");
        assert!(!pool.needs_resilver());
        assert!(resilver(&pool).is_none());
        export(pool);
        let pool = bench.import(if raid { &[0, 1] } else { &[1] }).unwrap();
        bench.compare(&pool, "on the resilvered one");
    }
}

#[test]
fn a_disk_becomes_a_mirror_and_is_left_on_the_other_side() {
    let mut bench = Bench::new(8, 1);
    let pool = bench.create(vec![NewVdev::Disk(bench.device(0))].into());
    bench.write(&pool, 10);
    let new = bench.add_disk();
    let first = guid(&pool, 0);
    assert!(matches!(pool.detach(first), Err(Error::Invalid(_))));
    pool.attach(first, bench.device(new)).unwrap();
    // Not before it has everything.
    assert!(matches!(pool.detach(first), Err(Error::Busy)));
    bench.write(&pool, 3);
    export(pool);
    let pool = bench.import(&[0, 1]).unwrap();
    assert!(pool.needs_resilver());
    resilver(&pool).unwrap();
    bench.assert_clean(&pool, "mirror");
    pool.detach(guid(&pool, 0)).unwrap();
    bench.write(&pool, 3);
    bench.assert_clean(&pool, "detached");
    export(pool);
    // The detached disk has no label any more.
    assert!(matches!(bench.import(&[0]), Err(Error::NoPool)));
    let pool = bench.import(&[0, 1]).unwrap();
    bench.assert_clean(&pool, "alone");
    assert_eq!(pool.zio().vdevs().leaves().len(), 1);
}

#[test]
fn offline_disks_miss_and_get_what_was_written() {
    let mut bench = Bench::new(9, 2);
    let pool = bench.create(mirror(&bench, 2));
    bench.write(&pool, 4);
    let (first, second) = (guid(&pool, 0), guid(&pool, 1));
    pool.offline(first, false).unwrap();
    assert!(matches!(pool.offline(second, false), Err(Error::Busy)));
    bench.write(&pool, 4);
    export(pool);
    let pool = bench.import(&[0, 1]).unwrap();
    assert_eq!(
        (pool.zio().vdevs().leaf(first).unwrap().state, pool.state()),
        (LeafState::Offline, PoolState::Degraded)
    );
    assert_eq!(pool.online(first, false).unwrap(), LeafState::Online);
    assert!(matches!(pool.offline(second, false), Err(Error::Busy)), "the first lacks something");
    resilver(&pool).unwrap();
    pool.offline(second, true).unwrap();
    bench.write(&pool, 4);
    export(pool);
    // That one was for the time of the import only.
    let pool = bench.import(&[0, 1]).unwrap();
    assert_eq!(pool.zio().vdevs().leaf(second).unwrap().state, LeafState::Online);
    resilver(&pool).unwrap();
    bench.assert_clean(&pool, "both");
    export(pool);
    bench.compare(&bench.import(&[1]).unwrap(), "second alone");
}

#[test]
fn a_resilver_goes_on_after_an_import() {
    let mut bench = Bench::new(10, 2);
    let pool = bench.create(mirror(&bench, 2));
    for i in 0..3 {
        bench.write(&pool, 30);
        pool.dsl().create_snapshots(&[&alloc::format!("tp@s{i}")]).unwrap();
    }
    let new = bench.add_disk();
    pool.replace(guid(&pool, 1), Replacement::Device(bench.device(new))).unwrap();
    let mut calls = 0;
    let report = pool.resilver(&mut |_| {
        calls += 1;
        if calls == 2 { ScanControl::Pause } else { ScanControl::Continue }
    });
    let report = report.unwrap().unwrap();
    assert_eq!(report.status.state, super::super::ScanState::Scanning);
    export(pool);
    let pool = bench.import(&[0, 1, 2]).unwrap();
    assert!(pool.needs_resilver());
    resilver(&pool).unwrap();
    assert_eq!(pool.zio().vdevs().leaves().len(), 2);
    bench.assert_clean(&pool, "resumed");
    export(pool);
    bench.compare(&bench.import(&[2]).unwrap(), "on the new one");
}

/// OpenZFS was resilvering one disk, and had put another off until that ends, when the pool was exported.
#[test]
fn a_resilver_that_was_put_off_is_made_up_for() {
    const GUID: &str = super::super::scan::RESILVER_DEFER;
    let mut bench = Bench::new(17, 2);
    let pool = bench.create(mirror(&bench, 2));
    bench.write(&pool, 20);
    let new = bench.add_disk();
    pool.attach(guid(&pool, 0), bench.device(new)).unwrap();
    let waiting = guid(&pool, new);
    let spa = Arc::clone(&pool.core.spa);
    let task = move |tx: &crate::dmu::Tx| {
        spa.state.lock().config.edit_vdev(waiting, &mut |list| list.insert(GUID, Value::Boolean));
        spa.change_feature(tx, GUID, 1)
    };
    pool.core.spa.run_task(task).unwrap();
    let in_use = |pool: &Pool| {
        let leaf = super::leaf_list(&pool.core.spa.state.lock().config.root, waiting).unwrap().contains(GUID);
        (leaf, pool.core.spa.features.is_active(GUID))
    };
    export(pool);
    let pool = bench.import(&[0, 1, 2]).unwrap();
    assert_eq!((in_use(&pool), pool.needs_resilver()), ((true, true), true));
    resilver(&pool).unwrap();
    assert_eq!((in_use(&pool), pool.needs_resilver()), ((false, false), false));
    export(pool);
    let pool = bench.import(&[2]).unwrap();
    assert_eq!(in_use(&pool), (false, false));
    bench.compare(&pool, "the one that waited, alone");
}

#[test]
fn a_spare_stands_in_and_is_free_again() {
    let mut bench = Bench::new(11, 4);
    let topology = Topology { spares: vec![bench.device(3)], ..raidz(&bench, 1, 3) };
    let pool = bench.create(topology);
    bench.write(&pool, 10);
    export(pool);
    let pool = bench.import(&[0, 2, 3]).unwrap();
    let spare = pool.spares().unwrap()[0].get_u64("guid").unwrap();
    let lost = guid(&pool, 1);
    pool.replace(lost, Replacement::Spare(spare)).unwrap();
    assert!(matches!(pool.replace(lost, Replacement::Spare(spare)), Err(Error::Busy)));
    resilver(&pool).unwrap();
    bench.write(&pool, 5);
    bench.assert_clean(&pool, "spared");
    export(pool);
    // Another one may be lost now.
    bench.compare(&bench.import(&[2, 3]).unwrap(), "spared, another lost");
    let pool = bench.import(&[0, 2, 3]).unwrap();
    let new = bench.add_disk();
    pool.replace(lost, Replacement::Device(bench.device(new))).unwrap();
    resilver(&pool).unwrap();
    let leaves: Vec<u64> = pool.zio().vdevs().leaves().iter().map(|leaf| leaf.guid).collect();
    assert!(leaves.len() == 3 && !leaves.contains(&spare), "{leaves:?}");
    bench.assert_clean(&pool, "replaced for good");
    export(pool);
    let pool = bench.import(&[0, 2, 3, 4]).unwrap();
    // Promoted: what it stands in for is given up.
    pool.replace(guid(&pool, 0), Replacement::Spare(spare)).unwrap();
    resilver(&pool).unwrap();
    pool.detach(guid(&pool, 0)).unwrap();
    assert!(pool.spares().unwrap().is_empty());
    bench.assert_clean(&pool, "promoted");
    export(pool);
    bench.assert_clean(&bench.import(&[2, 3, 4]).unwrap(), "promoted, imported");
}

#[test]
fn a_distributed_spare_stands_in() {
    let mut bench = Bench::new(12, 5);
    let pool = bench.create(draid(&bench, 5, 1));
    bench.write(&pool, 20);
    export(pool);
    let pool = bench.import(&[0, 1, 3, 4]).unwrap();
    let spare = pool.spares().unwrap()[0].get_u64("guid").unwrap();
    let lost = guid(&pool, 2);
    pool.replace(lost, Replacement::Spare(spare)).unwrap();
    bench.write(&pool, 4);
    let report = resilver(&pool).unwrap();
    assert!(report.status.processed > 0, "{report:?}");
    bench.assert_clean(&pool, "spared");
    export(pool);
    // Of draid with one parity, a second one.
    for second in [0, 1, 3, 4] {
        let kept: Vec<usize> = [0, 1, 3, 4].into_iter().filter(|n| *n != second).collect();
        bench.compare(&bench.import(&kept).unwrap(), "two lost");
    }
    let pool = bench.import(&[0, 1, 3, 4]).unwrap();
    let new = bench.add_disk();
    pool.replace(lost, Replacement::Device(bench.device(new))).unwrap();
    resilver(&pool).unwrap();
    bench.assert_clean(&pool, "replaced for good");
    assert_eq!(pool.state(), PoolState::Online);
    export(pool);
    bench.assert_clean(&bench.import(&[0, 1, 3, 4, new]).unwrap(), "imported");
}

#[test]
fn what_cannot_be_is_refused() {
    let mut bench = Bench::new(13, 4);
    let pool = bench.create(raidz(&bench, 1, 3));
    let first = guid(&pool, 0);
    let invalid =
        |result: crate::Result<u64>| assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    invalid(pool.attach(first, bench.device(3)));
    invalid(pool.replace(first, Replacement::Device(bench.device(1))));
    bench.disks.push(Arc::new(MemDisk::new(65 << 20)));
    invalid(pool.replace(first, Replacement::Device(bench.device(4))));
    assert_eq!(pool.replace(99, Replacement::Device(bench.device(3))), Err(Error::NotFound));
    assert_eq!(pool.replace(first, Replacement::Spare(99)), Err(Error::NotFound));
    assert!(matches!(pool.detach(first), Err(Error::Invalid(_))));
    pool.checkpoint().unwrap();
    invalid(pool.replace(first, Replacement::Device(bench.device(3))));
}

#[test]
fn a_vdev_grows_with_its_devices() {
    let mut bench = Bench::new(14, 2);
    let pool = bench.create(mirror(&bench, 2));
    bench.write(&pool, 4);
    let before = pool.space().size;
    for n in 0..2 {
        bench.disks.push(Arc::new(MemDisk::new(SIZE + (64 << 20))));
        let device = bench.device(bench.disks.len() - 1);
        pool.replace(guid(&pool, n), Replacement::Device(device)).unwrap();
        resilver(&pool).unwrap();
    }
    assert_eq!(pool.space().size, before);
    pool.online(guid(&pool, 2), true).unwrap();
    assert!(pool.space().size >= before + (48 << 20), "{}", pool.space().size);
    bench.write(&pool, 1000);
    bench.assert_clean(&pool, "grown");
    export(pool);
    bench.assert_clean(&bench.import(&[2, 3]).unwrap(), "grown, imported");
}

#[test]
fn vdevs_are_added_and_logs_and_spares_removed() {
    let mut bench = Bench::new(15, 8);
    let pool = bench.create(vec![NewVdev::Disk(bench.device(0))].into());
    bench.write(&pool, 4);
    let before = pool.space().size;
    let more = Topology {
        data: vec![NewVdev::Mirror(vec![bench.device(1), bench.device(2)])],
        logs: vec![NewVdev::Disk(bench.device(3))],
        specials: vec![NewVdev::Disk(bench.device(4))],
        spares: vec![bench.device(5)],
        caches: vec![bench.device(6)],
        ..Topology::default()
    };
    pool.add(more, None).unwrap();
    assert!(pool.space().size > before + (90 << 20));
    bench.write(&pool, 300);
    bench.assert_clean(&pool, "added");
    export(pool);
    let all: Vec<usize> = (0..8).collect();
    let pool = bench.import(&all).unwrap();
    bench.assert_clean(&pool, "added, imported");
    let (log, data) = (guid(&pool, 3), guid(&pool, 0));
    pool.remove(log).unwrap();
    assert!(matches!(pool.remove(data), Err(Error::Unsupported { .. })));
    for list in [pool.spares().unwrap(), pool.caches().unwrap()] {
        pool.remove(list[0].get_u64("guid").unwrap()).unwrap();
    }
    assert!(pool.spares().unwrap().is_empty() && pool.caches().unwrap().is_empty());
    assert_eq!(pool.remove(log), Err(Error::NotFound));
    bench.write(&pool, 10);
    bench.assert_clean(&pool, "removed");
    export(pool);
    let pool = bench.import(&all).unwrap();
    bench.assert_clean(&pool, "removed, imported");
    // The number that is free is used again; what is in the middle leaves a hole.
    pool.add(Topology { logs: vec![NewVdev::Disk(bench.device(7))], ..Topology::default() }, None).unwrap();
    pool.add(vec![NewVdev::Disk(bench.device(3))], None).unwrap();
    pool.remove(guid(&pool, 7)).unwrap();
    bench.write(&pool, 10);
    export(pool);
    let pool = bench.import(&all).unwrap();
    let kinds = |pool: &Pool| -> Vec<alloc::string::String> {
        let config = pool.config();
        let tops = config.get_nvlist("vdev_tree").and_then(|tree| tree.get_nvlists("children")).unwrap();
        tops.iter().map(|top| top.get_str("type").unwrap().into()).collect()
    };
    assert!(kinds(&pool).contains(&"hole".into()), "{:?}", kinds(&pool));
    bench.assert_clean(&pool, "with a hole");
    pool.add(vec![NewVdev::Disk(bench.device(5))], None).unwrap();
    assert!(!kinds(&pool).contains(&"hole".into()), "{:?}", kinds(&pool));
    bench.write(&pool, 100);
    bench.assert_clean(&pool, "filled");
    export(pool);
    bench.assert_clean(&bench.import(&all).unwrap(), "filled, imported");
}

/// A disk that breaks.
struct Breaking(Arc<MemDisk>, AtomicBool);

impl BlockDevice for Breaking {
    fn info(&self) -> BlockInfo {
        self.0.info()
    }

    fn submit(&self, request: Request) {
        match self.1.load(Ordering::SeqCst) {
            true => (request.done)(Err(BlockError::Io)),
            false => self.0.submit(request),
        }
    }
}

/// Waits for what a thread of the pool does.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        std::thread::sleep(core::time::Duration::from_millis(10));
    }
    panic!("{what}: it did not come to that");
}

/// Where nobody looks, a spare takes the place of a disk that is missing, or that breaks.
#[test]
fn a_guarded_pool_uses_its_spares() {
    for breaks in [false, true] {
        let mut bench = Bench::new(31, 4);
        let topology = Topology { spares: [bench.device(3)].into(), ..raidz(&bench, 1, 3) };
        let pool = bench.create(topology);
        bench.write(&pool, 20);
        let spare = pool.spares().unwrap()[0].get_u64("guid").unwrap();
        export(pool);
        let breaking = Arc::new(Breaking(Arc::clone(&bench.disks[1]), AtomicBool::new(false)));
        let mut devices: Vec<Arc<dyn BlockDevice>> = [0, 2, 3].map(|n| handle(&bench.disks[n])).into();
        if breaks {
            devices.push(Arc::<Breaking>::clone(&breaking));
        }
        let options = ImportOptions { guard_devices: true, ..ImportOptions::default() };
        let pool = Pool::import(devices, bench.env(), options).unwrap();
        let lost = guid(&pool, 1);
        let spared = || pool.zio().vdevs().leaf(spare).is_some_and(|leaf| leaf.missing().is_empty());
        if breaks {
            pool.sync().unwrap();
            assert!(!spared());
            breaking.1.store(true, Ordering::SeqCst);
            for _ in 0..4 {
                bench.write(&pool, 4);
            }
        }
        until("resilver", || spared() && !pool.needs_resilver());
        let state = pool.zio().vdevs().leaf(lost).unwrap().state;
        assert_eq!(state, if breaks { LeafState::Faulted } else { LeafState::Missing });
        bench.write(&pool, 5);
        export(pool);
        // The spare has it all: another disk may go.
        let pool = bench.import(&[2, 3]).unwrap();
        bench.compare(&pool, "without the lost disk and another");
        export(pool);
        let pool = bench.import(&[0, 2, 3]).unwrap();
        bench.assert_clean(&pool, "with the spare");
    }
}

/// What cannot be spared stays, and is said.
#[test]
fn there_may_be_nothing_to_use() {
    let mut bench = Bench::new(32, 4);
    let pool = bench.create(raidz(&bench, 1, 3));
    bench.write(&pool, 5);
    assert_eq!(pool.use_spares(), Ok(Vec::new()));
    export(pool);
    let pool = bench.import(&[0, 2]).unwrap();
    assert_eq!(pool.use_spares(), Ok(Vec::new()), "there is none");
    bench.compare(&pool, "degraded");
}
