//! A pool on image files in a folder of its own: for tests that take pools apart.

use crate::tool::{Zdb, zdb_check};
use anyhow::Result;
use platform::Env;
use platform::block::BlockDevice;
use platform::clock::Timespec;
use platform::host::{FileDisk, SystemClock};
use platform::random::{Random, Seeded};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use zfs::dsl::InitFs;
use zfs::ondisk::blkptr::{Dva, LABEL_START_SIZE};
use zfs::spa::{CreateOptions, ImportOptions, Pool};
use zfs::zpl::{self, Durability, FileKind, Filesystem, MountOptions, New};

/// Name of every rig's pool.
pub const POOL: &str = "t";
/// Size of a disk, in bytes.
pub const DISK_SIZE: u64 = 128 << 20;

/// The folder and the seed.
pub struct Rig {
    folder: tempfile::TempDir,
    /// Where all its randomness comes from.
    pub random: Seeded,
}

/// Fills a root file system.
#[must_use]
pub fn init() -> InitFs {
    Box::new(|os, tx| zpl::init(os, tx, &[], Timespec { sec: 1_000_000, nsec: 0 }))
}

impl Rig {
    /// An empty folder.
    pub fn new(seed: u64) -> Result<Self> {
        println!("seed {seed}");
        Ok(Rig { folder: tempfile::tempdir()?, random: Seeded::new(seed) })
    }

    /// A folder and a pool on one disk.
    pub fn with_pool(seed: u64) -> Result<(Self, Arc<Pool>)> {
        Rig::with_features(seed, &[])
    }

    /// The same, with features beyond those of every new pool.
    pub fn with_features(seed: u64, features: &[&str]) -> Result<(Self, Arc<Pool>)> {
        let rig = Rig::new(seed)?;
        let disk = rig.new_disk(0)?;
        let mut options = CreateOptions::new(POOL, init());
        options.properties =
            features.iter().map(|f| (format!("feature@{f}"), "enabled".to_owned())).collect();
        let pool = Pool::create(vec![disk], rig.env(), options)?;
        Ok((rig, pool))
    }

    /// Clock and randomness.
    pub fn env(&self) -> Env {
        Env { clock: Arc::new(SystemClock), random: Arc::new(Seeded::new(self.random.next_u64())) }
    }

    /// The image of disk `n`.
    #[must_use]
    pub fn image(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("disk{n}.img"))
    }

    /// A new, empty disk.
    pub fn new_disk(&self, n: usize) -> Result<Arc<dyn BlockDevice>> {
        Ok(Arc::new(FileDisk::create(&self.image(n), DISK_SIZE)?))
    }

    /// An existing disk.
    pub fn disk(&self, n: usize) -> Result<Arc<dyn BlockDevice>> {
        Ok(Arc::new(FileDisk::open(&self.image(n), true)?))
    }

    /// Imports the pool on the first disk.
    pub fn import(&self, options: ImportOptions) -> zfs::Result<Arc<Pool>> {
        let disk = self.disk(0).map_err(|_| zfs::Error::NoPool)?;
        Pool::import(vec![disk], self.env(), options)
    }

    /// Exports the pool and lets a `zdb` that understands it judge the folder.
    pub fn close(&self, pool: Arc<Pool>) -> Result<()> {
        let zdb = Zdb::of(&pool);
        pool.export()?;
        drop(pool);
        zdb.check(self.folder.path(), POOL)?;
        zdb.check_mos(self.folder.path(), POOL)
    }

    /// As [`Rig::close`] where a block is lost: `zdb` is asked about the objects of the MOS alone.
    pub fn close_damaged(&self, pool: Arc<Pool>) -> Result<()> {
        let zdb = Zdb::of(&pool);
        pool.export()?;
        drop(pool);
        zdb.check_mos(self.folder.path(), POOL)
    }

    /// `zdb -bcc` on all disks.
    pub fn judge(&self) -> Result<()> {
        zdb_check(self.folder.path(), POOL).map(|_| ())
    }

    /// Bytes of noise.
    pub fn noise(&self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.random.fill(&mut data);
        data
    }

    /// Creates `count` files `fileN` of `len` bytes of noise in a new directory; their object numbers.
    pub fn files(&self, pool: &Arc<Pool>, dir: &str, count: usize, len: usize) -> Result<Vec<u64>> {
        let fs = mount(pool)?;
        let dir = fs.create(fs.root(), dir.as_bytes(), &New::new(FileKind::Directory, 0o755))?;
        let mut objects = Vec::new();
        for i in 0..count {
            let new = New::new(FileKind::Regular, 0o644);
            let object = fs.create(dir, format!("file{i}").as_bytes(), &new)?;
            fs.write(object, 0, &self.noise(len), Durability::Later)?;
            objects.push(object);
        }
        fs.unmount()?;
        pool.sync()?;
        Ok(objects)
    }

    /// Flips bytes at the start of one copy of a block, on a vdev that is disk `n`.
    pub fn damage(&self, n: usize, dva: &Dva) -> Result<()> {
        let image = std::fs::OpenOptions::new().read(true).write(true).open(self.image(n))?;
        let mut bytes = [0; 64];
        let at = dva.offset + LABEL_START_SIZE;
        image.read_exact_at(&mut bytes, at)?;
        bytes.iter_mut().for_each(|b| *b ^= 0xff);
        Ok(image.write_all_at(&bytes, at)?)
    }
}

/// Mounts the root file system.
pub fn mount(pool: &Arc<Pool>) -> zfs::Result<Arc<Filesystem>> {
    Filesystem::mount(pool, pool.dsl().root()?, MountOptions::default())
}
