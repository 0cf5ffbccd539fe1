//! Pools on every layout of vdevs: created, written, read back with devices missing, and clean to `zdb`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::BlockDevice;
use platform::host::FileDisk;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tests::model::{self, Model, Rng};
use tests::tool;
use zfs::spa::{CreateOptions, NewDevice, NewVdev, Pool, Topology};

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
