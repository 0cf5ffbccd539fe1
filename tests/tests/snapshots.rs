//! Snapshots, clones, rollback and their kin on whole pools, with file systems in them, and zdb as the judge after each step.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::Env;
use platform::block::BlockDevice;
use platform::clock::{Clock, Timespec};
use platform::host::{FileDisk, SystemClock};
use platform::random::{Random, Seeded};
use std::path::PathBuf;
use std::sync::Arc;
use tests::tool::zdb_check;
use zfs::Error;
use zfs::dsl::{CreateFs, InitFs, Kind};
use zfs::spa::{CreateOptions, ImportOptions, Pool};
use zfs::zpl::{self, Durability, FileKind, Filesystem, MountOptions, New};

const SIZE: u64 = 256 << 20;

struct Bench {
    folder: tempfile::TempDir,
    random: Seeded,
}

fn init() -> InitFs {
    Box::new(|os, tx| zpl::init(os, tx, &[], Timespec { sec: 1_000_000, nsec: 0 }))
}

fn file_system() -> CreateFs {
    CreateFs { kind: Kind::Filesystem, properties: Vec::new(), init: init(), parents: None }
}

impl Bench {
    fn new(seed: u64) -> (Self, Arc<Pool>) {
        println!("seed {seed}");
        let bench = Bench { folder: tempfile::tempdir().unwrap(), random: Seeded::new(seed) };
        let disk: Arc<dyn BlockDevice> = Arc::new(FileDisk::create(&bench.image(), SIZE).unwrap());
        let options = CreateOptions::new("t", init());
        let pool = Pool::create(vec![disk], bench.env(), options).unwrap();
        (bench, pool)
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("t.img")
    }

    fn env(&self) -> Env {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Env { clock, random: Arc::new(Seeded::new(self.random.next_u64())) }
    }

    /// Exports, asks zdb, imports.
    fn judge(&self, pool: Arc<Pool>) -> Arc<Pool> {
        pool.export().unwrap();
        drop(pool);
        zdb_check(self.folder.path(), "t").unwrap();
        let disk: Arc<dyn BlockDevice> = Arc::new(FileDisk::open(&self.image(), true).unwrap());
        Pool::import(vec![disk], self.env(), ImportOptions::default()).unwrap()
    }

    /// Writes files, new and old, through a mounted file system.
    fn write_files(&self, pool: &Arc<Pool>, dataset: &str, count: usize) {
        let fs = mount(pool, dataset);
        for _ in 0..count {
            let name = format!("f{}", self.random.next_u64() % 12);
            let object = match fs.lookup(fs.root(), name.as_bytes()) {
                Ok(object) => object,
                Err(Error::NotFound) => {
                    fs.create(fs.root(), name.as_bytes(), &New::new(FileKind::Regular, 0o644)).unwrap()
                }
                Err(error) => panic!("{error}"),
            };
            let mut data = vec![0; 1 + (self.random.next_u64() % 300_000) as usize];
            self.random.fill(&mut data);
            fs.write(object, self.random.next_u64() % 400_000, &data, Durability::Later).unwrap();
            if self.random.next_u64().is_multiple_of(5) {
                fs.unlink(fs.root(), name.as_bytes()).unwrap();
            }
        }
        fs.unmount().unwrap();
    }
}

fn mount(pool: &Arc<Pool>, dataset: &str) -> Arc<Filesystem> {
    Filesystem::mount(pool, pool.dsl().lookup(dataset).unwrap(), MountOptions::default()).unwrap()
}

/// Names and contents of all files.
fn listing(pool: &Arc<Pool>, dataset: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let options = MountOptions { read_only: true, ..MountOptions::default() };
    let fs = Filesystem::mount(pool, pool.dsl().lookup(dataset).unwrap(), options).unwrap();
    let mut files = Vec::new();
    for entry in fs.readdir(fs.root(), 0, usize::MAX).unwrap() {
        if entry.name != b"." && entry.name != b".." {
            let mut data = vec![0; fs.getattr(entry.object).unwrap().size as usize];
            let read = fs.read(entry.object, 0, &mut data).unwrap();
            assert_eq!(read, data.len());
            files.push((entry.name, data));
        }
    }
    files.sort();
    fs.unmount().unwrap();
    files
}

#[test]
fn zdb_agrees_after_every_kind_of_operation() {
    let (bench, pool) = Bench::new(11);
    let mut pool = bench.judge(pool);
    pool.dsl().create_dataset("t/a", file_system()).unwrap();
    bench.write_files(&pool, "t/a", 8);
    pool = bench.judge(pool);

    let mut states = Vec::new();
    for i in 0..5 {
        pool.dsl().create_snapshots(&[&format!("t/a@{i}")]).unwrap();
        states.push(listing(&pool, "t/a"));
        bench.write_files(&pool, "t/a", 6);
    }
    pool = bench.judge(pool);
    for (i, state) in states.iter().enumerate() {
        assert!(listing(&pool, &format!("t/a@{i}")) == *state, "snapshot {i}");
    }
    assert!(pool.dsl().diff("t/a@4", "t/a").unwrap().modified > 0);

    pool.dsl().destroy("t/a@1", false, false).unwrap();
    pool = bench.judge(pool);
    let mounted = mount(&pool, "t/a");
    assert_eq!(pool.dsl().rollback("t/a", "4", false), Err(Error::Busy));
    mounted.unmount().unwrap();
    drop(mounted);
    pool.dsl().rollback("t/a", "4", false).unwrap();
    assert!(listing(&pool, "t/a") == states[4]);
    bench.write_files(&pool, "t/a", 4);
    pool = bench.judge(pool);
    pool.dsl().rollback("t/a", "2", true).unwrap();
    pool = bench.judge(pool);
    assert!(listing(&pool, "t/a") == states[2]);

    pool.dsl().clone_snapshot("t/a@2", "t/c", &[]).unwrap();
    bench.write_files(&pool, "t/c", 6);
    pool.dsl().create_snapshots(&["t/a@5", "t/c@5"]).unwrap();
    bench.write_files(&pool, "t/c", 2);
    pool = bench.judge(pool);
    pool.dsl().promote("t/c").unwrap();
    pool = bench.judge(pool);
    assert!(listing(&pool, "t/a") == states[2]);
    pool.dsl().destroy("t/a", true, false).unwrap();
    pool = bench.judge(pool);
    pool.dsl().rename("t/c", "t/d", false).unwrap();
    pool.dsl().rename("t/d@5", "t/d@six", false).unwrap();
    pool.dsl().hold(&["t/d@six"], "tag").unwrap();
    pool.dsl().destroy("t/d@six", false, true).unwrap();
    let properties = [("compression", "zstd"), ("refreservation", "20M"), ("a:b", "c")];
    pool.dsl().set_properties("t/d", &properties).unwrap();
    bench.write_files(&pool, "t/d", 4);
    pool = bench.judge(pool);
    pool.dsl().release(&["t/d@six"], "tag").unwrap();
    assert!(pool.dsl().lookup("t/d@six").is_err());
    assert!(listing(&pool, "t/d@0") == states[0]);
    pool.dsl().destroy("t/d", true, false).unwrap();
    pool = bench.judge(pool);
    pool.export().unwrap();
}

#[test]
fn a_snapshot_of_a_mounted_file_system_has_what_was_written_before() {
    let (bench, pool) = Bench::new(12);
    pool.dsl().create_dataset("t/a", file_system()).unwrap();
    let fs = mount(&pool, "t/a");
    let object = fs.create(fs.root(), b"log", &New::new(FileKind::Regular, 0o644)).unwrap();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = {
        let (fs, done) = (Arc::clone(&fs), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut at = 0u64;
            while !done.load(std::sync::atomic::Ordering::SeqCst) && at < 4 << 20 {
                fs.append(object, &at.to_le_bytes(), Durability::Later).unwrap();
                at += 8;
                if at.is_multiple_of(1024) {
                    fs.fsync(object).unwrap();
                }
            }
        })
    };
    let mut sizes = Vec::new();
    for i in 0..5 {
        sizes.push(fs.getattr(object).unwrap().size);
        pool.dsl().create_snapshots(&[&format!("t/a@{i}")]).unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    writer.join().unwrap();
    fs.unmount().unwrap();
    drop(fs);
    let pool = bench.judge(pool);
    for (i, size) in sizes.iter().enumerate() {
        let files = listing(&pool, &format!("t/a@{i}"));
        let data = &files[0].1;
        assert!(data.len() as u64 >= *size);
        for (word, bytes) in data.chunks_exact(8).enumerate() {
            assert_eq!(bytes, (word as u64 * 8).to_le_bytes());
        }
    }
    pool.export().unwrap();
}

#[test]
fn changed_properties_take_effect_on_a_mounted_file_system() {
    let (bench, pool) = Bench::new(13);
    pool.dsl().create_dataset("t/a", file_system()).unwrap();
    pool.dsl().create_dataset("t/a/b", file_system()).unwrap();
    let fs = mount(&pool, "t/a/b");
    let new = New::new(FileKind::Regular, 0o644);
    let write = |name: &[u8]| {
        let object = fs.create(fs.root(), name, &new)?;
        fs.write(object, 0, &[7; 300_000], Durability::Later)?;
        fs.getattr(object)
    };
    assert_eq!(write(b"large").unwrap().block_size, 128 << 10);
    // Inherited from above.
    pool.dsl().set_properties("t/a", &[("recordsize", "4K"), ("compression", "lz4")]).unwrap();
    assert_eq!(write(b"small").unwrap().block_size, 4 << 10);
    pool.sync().unwrap();
    let object = fs.lookup(fs.root(), b"small").unwrap();
    let blocks = fs.getattr(object).unwrap().blocks;
    assert!(blocks < 200, "{blocks} blocks: not compressed");
    pool.dsl().set_properties("t/a/b", &[("quota", "2M")]).unwrap();
    let mut full = Ok(());
    for i in 0..40 {
        let object = fs.create(fs.root(), format!("q{i}").as_bytes(), &new);
        let mut data = vec![0; 300_000];
        bench.random.fill(&mut data);
        full = object.and_then(|o| fs.write(o, 0, &data, Durability::Later)).map(|_| ());
        pool.sync().unwrap();
        if full.is_err() {
            break;
        }
    }
    assert_eq!(full, Err(Error::QuotaExceeded));
    pool.dsl().set_properties("t/a/b", &[("quota", "none"), ("readonly", "on")]).unwrap();
    assert_eq!(write(b"refused").map(|_| ()), Err(Error::ReadOnly));
    pool.dsl().inherit_property("t/a/b", "readonly", false, false).unwrap();
    write(b"again").unwrap();
    // A new place in the tree has other properties to inherit.
    pool.dsl().rename("t/a/b", "t/b", false).unwrap();
    assert_eq!(write(b"elsewhere").unwrap().block_size, 128 << 10);
    fs.unmount().unwrap();
    drop(fs);
    bench.judge(pool).export().unwrap();
}
