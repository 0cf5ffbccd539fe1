//! Pools on every layout of vdevs: created, written, read back with devices missing, and clean to `zdb`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::BlockDevice;
use platform::host::FileDisk;
use platform::sim::{Image, SimDisk, SimLog};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tests::layout::Layout;
use tests::model::{self, Limits, Model, Rng};
use tests::tool;
use tests::world::World;
use zfs::spa::{CreateOptions, ImportOptions, NewDevice, NewVdev, Pool, Topology};

/// Images in a folder of their own, as `zdb -p` wants them.
struct Disks {
    folder: TempDir,
    count: usize,
}

impl Disks {
    fn new(count: usize, size: u64) -> Self {
        let disks = Disks { folder: tempfile::tempdir().unwrap(), count };
        for n in 0..count {
            drop(FileDisk::create(&disks.path(n), size).unwrap());
        }
        disks
    }

    fn path(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("disk{n:02}.img"))
    }

    fn open(&self, n: usize) -> Arc<dyn BlockDevice> {
        Arc::new(FileDisk::open(&self.path(n), true).unwrap())
    }

    fn all(&self) -> Vec<Arc<dyn BlockDevice>> {
        (0..self.count).map(|n| self.open(n)).collect()
    }

    fn new_devices(&self, range: std::ops::Range<usize>) -> Vec<NewDevice> {
        range.map(|n| self.open(n).into()).collect()
    }

    fn create(&self, topology: Topology, ashift: Option<u8>) -> Arc<Pool> {
        let now = model::env().clock.now();
        let init =
            Box::new(move |os: &Arc<zfs::dmu::Objset>, tx: &zfs::dmu::Tx| zfs::zpl::init(os, tx, &[], now));
        let mut options = CreateOptions::new("tp", init);
        options.ashift = ashift;
        Pool::create(topology, model::env(), options).unwrap()
    }

    /// Random files on a new pool, compared; the pool is exported and zdb finds nothing wrong.
    fn fill(&self, topology: Topology, ashift: Option<u8>, seed: u64) -> Model {
        let pool = self.create(topology, ashift);
        let mut model = Model::default();
        let mut rng = Rng::new(seed);
        let fs = model::mount_root(&pool);
        for _ in 0..400 {
            model::step(&fs, &mut model, &mut rng);
        }
        pool.sync().unwrap();
        model::compare(&fs, &model).unwrap();
        fs.unmount().unwrap();
        drop(fs);
        pool.export().unwrap();
        drop(pool);
        tool::zdb_check(self.folder.path(), "tp").unwrap();
        model
    }

    /// The pool on all devices but `missing` holds `model`.
    fn compare(&self, missing: &[usize], model: &Model) {
        let devices = (0..self.count).filter(|n| !missing.contains(n)).map(|n| self.open(n)).collect();
        let pool = model::import_pool(devices);
        let fs = model::mount_root(&pool);
        model::compare(&fs, model).unwrap_or_else(|e| panic!("without {missing:?}: {e:#}"));
        fs.unmount().unwrap();
    }
}

#[test]
fn stripes_and_mirrors() {
    let disks = Disks::new(5, 128 << 20);
    let data = vec![NewVdev::Mirror(disks.new_devices(0..3)), NewVdev::Mirror(disks.new_devices(3..5))];
    let model = disks.fill(data.into(), None, 11);
    disks.compare(&[], &model);
    disks.compare(&[0, 2, 3], &model);
}

#[test]
fn spares_and_caches_are_labelled_and_listed() {
    let disks = Disks::new(4, 64 << 20);
    let topology = Topology {
        spares: disks.new_devices(2..3),
        caches: disks.new_devices(3..4),
        ..Topology::from(vec![NewVdev::Mirror(disks.new_devices(0..2))])
    };
    let model = disks.fill(topology, Some(9), 12);
    disks.compare(&[], &model);
    let pool = model::import_pool(disks.all());
    let kinds = |list: Vec<zfs::ondisk::nvlist::NvList>| list[0].get_str("path").unwrap().to_owned();
    assert_eq!(
        (kinds(pool.spares().unwrap()), kinds(pool.caches().unwrap())),
        ("/dev/vdc".into(), "/dev/vdd".into())
    );
}

fn raidz(parity: u8, devices: Vec<NewDevice>) -> NewVdev {
    NewVdev::Raidz { parity, devices }
}

#[test]
fn raidz_with_every_disk_lost_in_turn() {
    let disks = Disks::new(3, 96 << 20);
    let model = disks.fill(vec![raidz(1, disks.new_devices(0..3))].into(), Some(9), 13);
    for lost in 0..3 {
        disks.compare(&[lost], &model);
    }
}

#[test]
fn raidz2_and_raidz3_of_large_sectors() {
    let disks = Disks::new(5, 128 << 20);
    let model = disks.fill(vec![raidz(2, disks.new_devices(0..5))].into(), None, 14);
    disks.compare(&[1, 4], &model);
    let disks = Disks::new(6, 96 << 20);
    let model = disks.fill(vec![raidz(3, disks.new_devices(0..6))].into(), None, 15);
    disks.compare(&[0, 2, 5], &model);
}

#[test]
fn draid_with_and_without_spares() {
    let draid = |parity, data, spares, devices| NewVdev::Draid { parity, data: Some(data), spares, devices };
    let disks = Disks::new(4, 192 << 20);
    let model = disks.fill(vec![draid(1, 2, 0, disks.new_devices(0..4))].into(), None, 16);
    disks.compare(&[2], &model);
    let disks = Disks::new(7, 192 << 20);
    let model = disks.fill(vec![draid(2, 3, 1, disks.new_devices(0..7))].into(), Some(9), 17);
    disks.compare(&[0, 5], &model);
}

#[test]
fn classes_of_vdevs() {
    let disks = Disks::new(4, 128 << 20);
    let topology = Topology {
        specials: vec![NewVdev::Mirror(disks.new_devices(1..3))],
        logs: vec![NewVdev::Disk(disks.open(3).into())],
        ..Topology::from(vec![NewVdev::Disk(disks.open(0).into())])
    };
    let model = disks.fill(topology, None, 18);
    disks.compare(&[], &model);
    disks.compare(&[1], &model);
    // Metadata went to the special vdev.
    let pool = model::import_pool(disks.all());
    let root = pool.mos().root();
    assert!(root.dvas().all(|dva| dva.vdev == 1), "{root:?}");
}

/// Every loss that a layout says it bears: one disk of a mirror, raidz1 or draid1, every pair of raidz2, every triple of raidz3.
#[test]
fn whatever_can_be_lost_is_read_all_the_same() {
    const LIMITS: Limits = Limits { files: 60, length: 60_000, file_size: 300_000, long_names: false };
    for layout in Layout::ALL.into_iter().filter(|l| l.tolerance() > 0) {
        let log = SimLog::new();
        let disk = |n| Arc::new(SimDisk::new(&log, n, Image::new(96 << 20))) as Arc<dyn BlockDevice>;
        let disks: Vec<_> = (0..layout.disks()).map(disk).collect();
        let mut world = World::new(layout.create(disks.clone(), "tp").unwrap(), LIMITS);
        let mut rng = Rng::new(19);
        for _ in 0..150 {
            world.step(&mut rng).unwrap_or_else(|e| panic!("{}: {e:#}", layout.name()));
        }
        world.unmount_all().unwrap();
        world.pool().export().unwrap();
        let (state, next) = (world.state().clone(), world.next());
        drop(world);
        let mut losses = 0;
        for lost in (0u32..1 << disks.len()).filter(|l| l.count_ones() as usize == layout.tolerance()) {
            let left = disks.iter().enumerate().filter(|(n, _)| lost & 1 << n == 0);
            let left = left.map(|(_, disk)| Arc::clone(disk)).collect();
            let pool = Pool::import(left, model::env(), ImportOptions::read_only()).unwrap();
            let mut world = World::resume(pool, state.clone(), LIMITS, next);
            world.check().unwrap_or_else(|e| panic!("{} without disks {lost:#b}: {e:#}", layout.name()));
            losses += 1;
        }
        println!("{}: {losses} losses of {} disks", layout.name(), layout.tolerance());
    }
}
