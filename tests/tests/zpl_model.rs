//! Random operations on a file system, compared with a model in memory; before and after export, and by zdb.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::BlockDevice;
use platform::mem::MemDisk;
use std::sync::Arc;
use tests::model::{Model, Rng, compare, create_pool, import_pool, mount_root, seed, step};

fn zdb(disk: &MemDisk) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("disk0.img"), disk.contents()).unwrap();
    tests::tool::zdb_check(folder.path(), "model").unwrap();
}

fn run(seed: u64, rounds: usize, properties: &[(&str, &str)]) {
    let mut rng = Rng::new(seed);
    let disk = Arc::new(MemDisk::new(256 << 20));
    let device: Arc<dyn BlockDevice> = Arc::<MemDisk>::clone(&disk);
    let mut model = Model::default();
    let mut pool = create_pool(vec![Arc::clone(&device)], "model", properties);
    for round in 0..rounds {
        let fs = mount_root(&pool);
        for _ in 0..150 {
            step(&fs, &mut model, &mut rng);
            match rng.below(40) {
                0 => pool.sync().unwrap(),
                1 => fs.sync().unwrap(),
                _ => {}
            }
        }
        compare(&fs, &model).unwrap();
        fs.create_snapshot(&format!("s{round}")).unwrap();
        fs.unmount().unwrap();
        drop(fs);
        pool.export().unwrap();
        drop(pool);
        zdb(&disk);
        pool = import_pool(vec![Arc::clone(&device)]);
        let fs = mount_root(&pool);
        compare(&fs, &model).unwrap();
        let snapshot = fs.mount_snapshot(&format!("s{round}")).unwrap();
        compare(&snapshot, &model).unwrap();
        snapshot.unmount().unwrap();
        fs.unmount().unwrap();
    }
    pool.export().unwrap();
    zdb(&disk);
}

#[test]
fn random_operations_with_defaults() {
    run(seed(), 3, &[]);
}

#[test]
fn random_operations_with_small_records_and_sa_xattrs() {
    run(seed(), 2, &[("recordsize", "4K"), ("xattr", "sa"), ("compression", "lz4")]);
}

#[test]
fn random_operations_always_synced() {
    run(seed(), 1, &[("sync", "always"), ("recordsize", "16K")]);
}
