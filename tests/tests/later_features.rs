//! Features that OpenZFS 2.1 does not know, each written by us and judged by a `zdb` that knows it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use tests::rig::{POOL, Rig, mount};
use tests::tree::noise;
use zfs::Error;
use zfs::spa::{FeatureState, ImportOptions, Pool};
use zfs::zpl::{Durability, FileKind, Filesystem, New, RenameFlags};

fn file(fs: &Filesystem, name: &[u8]) -> zfs::Result<u64> {
    fs.create(fs.root(), name, &New::new(FileKind::Regular, 0o644))
}

fn state(pool: &Pool, name: &str) -> FeatureState {
    let features = pool.features();
    features.iter().find(|(n, _)| n == name).map_or(FeatureState::Disabled, |(_, state)| *state)
}

/// As after a power cut: nothing is exported.
fn cut(rig: &Rig, pool: Arc<Pool>) -> Arc<Pool> {
    drop(pool);
    rig.import(ImportOptions { force: true, ..ImportOptions::default() }).unwrap()
}

fn again(rig: &Rig, pool: Arc<Pool>) -> Arc<Pool> {
    rig.close(pool).unwrap();
    rig.import(ImportOptions::default()).unwrap()
}

#[test]
fn blocks_with_blake3_checksums() {
    let (rig, pool) = Rig::with_pool(31).unwrap();
    let refused = pool.dsl().set_properties(POOL, &[("checksum", "blake3")]);
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    pool.set_property("feature@blake3", "enabled").unwrap();
    assert_eq!(state(&pool, "blake3"), FeatureState::Enabled);
    pool.dsl().set_properties(POOL, &[("checksum", "blake3")]).unwrap();
    let objects = rig.files(&pool, "d", 10, 300_000).unwrap();
    assert_eq!(state(&pool, "blake3"), FeatureState::Active);
    let objset = pool.dsl().root().unwrap().objset().unwrap();
    let bp = objset.hold(objects[0]).unwrap().block_pointer(0, 1).unwrap();
    assert_eq!(bp.checksum_type(), 14);
    let pool = again(&rig, pool);
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
    // A changed byte does not go unnoticed.
    rig.damage(0, &bp.dva(0)).unwrap();
    assert_eq!(pool.verify(&mut |_| ()).unwrap().damaged.len(), 1);
    let fs = mount(&pool).unwrap();
    let dir = fs.lookup(fs.root(), b"d").unwrap();
    fs.unlink(dir, b"file0").unwrap();
    fs.unmount().unwrap();
    rig.close(pool).unwrap();
}

#[test]
fn names_of_1023_bytes() {
    let (rig, pool) = Rig::with_pool(32).unwrap();
    let long = |c: u8, len: usize| vec![c; len];
    let (first, second) = (long(b'a', 1023), long(b'b', 256));
    {
        let fs = mount(&pool).unwrap();
        assert_eq!(file(&fs, &second), Err(Error::NameTooLong));
        assert_eq!(fs.lookup(fs.root(), &second), Err(Error::NameTooLong));
        assert_eq!(fs.statfs().unwrap().name_max, 255);
        fs.unmount().unwrap();
    }
    assert!(pool.dsl().set_properties(POOL, &[("longname", "on")]).is_err());
    pool.set_property("feature@longname", "enabled").unwrap();
    pool.dsl().set_properties(POOL, &[("longname", "on")]).unwrap();
    let fs = mount(&pool).unwrap();
    assert_eq!(fs.statfs().unwrap().name_max, 1023);
    let object = file(&fs, &first).unwrap();
    fs.write(object, 0, &noise(1, 5000), Durability::Later).unwrap();
    assert_eq!(file(&fs, &long(b'x', 1024)), Err(Error::NameTooLong));
    assert_eq!(state(&pool, "longname"), FeatureState::Enabled);
    pool.sync().unwrap();
    assert_eq!(state(&pool, "longname"), FeatureState::Active);
    // What the intent log has of long names is replayed, also where new ones are forbidden.
    fs.rename(fs.root(), &first, fs.root(), &second, RenameFlags::default()).unwrap();
    fs.link(fs.root(), &first, object).unwrap();
    file(&fs, &long(b'c', 700)).unwrap();
    fs.fsync(object).unwrap();
    drop(fs);
    let pool = cut(&rig, pool);
    let fs = mount(&pool).unwrap();
    let mut names: Vec<_> = fs.readdir(fs.root(), 0, 100).unwrap().into_iter().map(|e| e.name).collect();
    names.sort();
    assert!(names == [first.clone(), second.clone(), long(b'c', 700)], "{}", names.len());
    assert_eq!(fs.lookup(fs.root(), &first).unwrap(), object);
    fs.unmount().unwrap();

    // Without the property there are no new ones, but the old ones can be used and removed.
    let pool = again(&rig, pool);
    pool.dsl().set_properties(POOL, &[("longname", "off")]).unwrap();
    pool.dsl().create_snapshots(&["t@s"]).unwrap();
    let fs = mount(&pool).unwrap();
    assert_eq!(file(&fs, &long(b'd', 256)), Err(Error::NameTooLong));
    assert_eq!(fs.lookup(fs.root(), &second).unwrap(), object);
    assert_eq!(fs.lookup(fs.root(), &long(b'd', 1023)), Err(Error::NotFound));
    fs.unlink(fs.root(), &first).unwrap();
    fs.rename(fs.root(), &second, fs.root(), b"short", RenameFlags::default()).unwrap();
    fs.unmount().unwrap();
    let pool = again(&rig, pool);
    let users = |pool: &Pool| state(pool, "longname");
    assert_eq!(users(&pool), FeatureState::Active);
    pool.dsl().destroy("t@s", false, false).unwrap();
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
    rig.close(pool).unwrap();
}

/// What is enabled and not used hinders nobody, whether we could write it or not.
#[test]
fn features_that_are_only_enabled_do_not_hinder() {
    let all = zfs::ondisk::features::FEATURES;
    let names: Vec<&str> = all.iter().filter(|f| f.can_enable()).map(|f| f.name).collect();
    assert_eq!(names.len(), all.len());
    let (rig, pool) = Rig::with_features(33, &names).unwrap();
    rig.files(&pool, "d", 3, 300_000).unwrap();
    for name in
        ["raidz_expansion", "fast_dedup", "dynamic_gang_header", "physical_rewrite", "redacted_datasets"]
    {
        assert_eq!(state(&pool, name), FeatureState::Enabled, "{name}");
    }
    let pool = again(&rig, pool);
    rig.files(&pool, "e", 3, 300_000).unwrap();
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
    rig.close(pool).unwrap();
}
