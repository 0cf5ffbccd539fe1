//! Pools of OpenZFS are imported for writing, changed, exported and judged by `zdb` and by our own verification: whatever features are
//! active in them, what we leave behind is consistent.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::BlockDevice;
use platform::host::FileDisk;
use std::path::Path;
use std::sync::Arc;
use tests::tool::Zdb;
use tests::{accounts, fixtures, manifest, model, tool};
use zfs::dsl::Kind;
use zfs::spa::{ImportOptions, Pool, ScanControl};
use zfs::vdev::LeafState;
use zfs::zpl::{Durability, FileKind, Filesystem, MountOptions, New, SetAttr};

fn disks(folder: &Path) -> Vec<Arc<dyn BlockDevice>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let open = |path| Arc::new(FileDisk::open(path, true).unwrap()) as Arc<dyn BlockDevice>;
    paths.iter().map(|path| open(path)).collect()
}

fn heads(pool: &Arc<Pool>) -> Vec<Arc<zfs::dsl::Dataset>> {
    let all = pool.dsl().datasets().unwrap();
    all.into_iter()
        .filter(|d| d.kind().is_ok_and(|k| k == Kind::Filesystem))
        .filter(|d| !d.root_bp().uses_crypt() && d.get_number("readonly").unwrap_or(0) == 0)
        .collect()
}

fn mount(pool: &Arc<Pool>, dataset: &Arc<zfs::dsl::Dataset>) -> Arc<Filesystem> {
    let options = MountOptions { read_only: false, no_atime: true };
    Filesystem::mount(pool, Arc::clone(dataset), options).unwrap()
}

/// New files of several owners, one that changes its owner, one that goes away again.
fn add(fs: &Arc<Filesystem>, tag: &str) {
    for (uid, size) in [(0, 100), (1000, 300_000), (54321, 40_000), (1001, 9000)] {
        let new = New { uid, gid: uid / 10, ..New::new(FileKind::Regular, 0o644) };
        let file = fs.create(fs.root(), format!("{tag}-{uid}").as_bytes(), &new).unwrap();
        fs.write(file, 0, &tests::tree::noise(u64::from(uid), size), Durability::Later).unwrap();
        if uid == 1001 {
            fs.setattr(file, &SetAttr { uid: Some(1002), ..SetAttr::default() }).unwrap();
        }
    }
    fs.unlink(fs.root(), format!("{tag}-1000").as_bytes()).unwrap();
}

/// Removes the first few regular files of the root directory, and cuts another short.
fn remove_some(fs: &Arc<Filesystem>) {
    let entries = fs.readdir(fs.root(), 0, 1000).unwrap();
    let files: Vec<_> = entries.iter().filter(|e| e.kind == Some(FileKind::Regular)).collect();
    for entry in files.iter().take(3) {
        fs.unlink(fs.root(), &entry.name).unwrap();
    }
    if let Some(entry) = files.get(3) {
        fs.truncate(entry.object, 1000).unwrap();
    }
}

fn change_everything(folder: &Path, round: u32) {
    let pool = model::import_pool(disks(folder));
    for dataset in heads(&pool) {
        let fs = mount(&pool, &dataset);
        add(&fs, &format!("new{round}"));
        pool.sync().unwrap();
        if round == 0 {
            remove_some(&fs);
        }
        pool.dsl().create_snapshots(&[&format!("{}@tarn{round}", dataset.name())]).unwrap();
        add(&fs, &format!("more{round}"));
        pool.sync().unwrap();
        accounts::check(&dataset.objset().unwrap()).unwrap_or_else(|e| panic!("{}: {e:#}", dataset.name()));
        fs.unmount().unwrap();
    }
    pool.export().unwrap();
}

/// Writes to a fixture in two imports; both times all is well afterwards.
fn survives(name: &str, count: usize) {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..count {
        fixtures::write_image(name, n, &folder.path().join(format!("disk{n}.img"))).unwrap();
    }
    let pool_name = model::import_pool(disks(folder.path())).name();
    for round in 0..2 {
        change_everything(folder.path(), round);
        let pool = model::import_pool(disks(folder.path()));
        let report = pool.verify(&mut |_| ()).unwrap();
        assert!(report.is_clean(), "{name}: {report:?}");
        let zdb = Zdb::of(&pool);
        pool.export().unwrap();
        drop(pool);
        zdb.check(folder.path(), &pool_name).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        zdb.check_mos(folder.path(), &pool_name).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    }
}

#[test]
fn default_pool() {
    survives("a-default", 1);
}

#[test]
fn pool_without_features() {
    survives("b-nofeat", 1);
}

#[test]
fn compressed_and_checksummed() {
    survives("c-compress", 1);
    survives("d-checksum", 1);
}

/// What was left to be freed of destroyed file systems is, by whoever imports the pool next.
#[test]
fn destroys_that_were_under_way() {
    survives("x-async", 1);
}

#[test]
fn blocks_of_16_mib() {
    survives("z-16m", 1);
}

/// A pool with the features that every pool of OpenZFS 2.3 has. Its large micro ZAP is filled, and becomes fat.
#[test]
fn pool_of_openzfs_2_3() {
    survives("zfs-2.3", 1);
    let folder = tempfile::tempdir().unwrap();
    fixtures::write_image("zfs-2.3", 0, &folder.path().join("disk0.img")).unwrap();
    let pool = model::import_pool(disks(folder.path()));
    let active = |name: &str| pool.get_property(&format!("feature@{name}")).unwrap().0 == "active";
    let used = ["head_errlog", "vdev_zaps_v2", "blake3", "block_cloning", "longname", "large_microzap"];
    assert!(used.into_iter().all(active));
    let fs = mount(&pool, &pool.dsl().root().unwrap());
    let big = fs.lookup(fs.root(), b"big").unwrap();
    let stats = || zfs::zap::stats(&fs.dataset().objset().unwrap().hold(big).unwrap()).unwrap();
    assert_eq!((stats().entries, stats().micro), (2200, true));
    let mut became_fat = false;
    for i in 0..300 {
        fs.create(big, format!("new{i}").as_bytes(), &New::new(FileKind::Regular, 0o644)).unwrap();
        became_fat |= !stats().micro;
    }
    assert_eq!((stats().entries, became_fat), (2500, true));
    for i in (1..=2200).step_by(37) {
        assert!(fs.lookup(big, format!("f{i}").as_bytes()).is_ok(), "{i}");
    }
    fs.unmount().unwrap();
    let zdb = Zdb::of(&pool);
    pool.export().unwrap();
    drop(pool);
    zdb.check(folder.path(), "z_23").unwrap();
    zdb.check_mos(folder.path(), "z_23").unwrap();
}

/// Two of four devices are out of service. They come back, and each of the four has everything then.
#[test]
fn devices_out_of_service_come_back() {
    let name = "y-offline";
    survives(name, 4);
    let folder = tempfile::tempdir().unwrap();
    for n in 0..4 {
        fixtures::write_image(name, n, &folder.path().join(format!("disk{n}.img"))).unwrap();
    }
    let pool = model::import_pool(disks(folder.path()));
    let vdevs = pool.zio().vdevs();
    let out = vdevs.leaves().into_iter().filter(|leaf| leaf.state != LeafState::Online).map(|leaf| leaf.guid);
    let out: Vec<u64> = out.collect();
    assert_eq!(out.len(), 2);
    for guid in out {
        assert_eq!(pool.online(guid, false).unwrap(), LeafState::Online);
    }
    let report = pool.resilver(&mut |_| ScanControl::Continue).unwrap().unwrap();
    assert_eq!((report.status.errors, pool.needs_resilver()), (0, false), "{report:?}");
    pool.export().unwrap();
    drop(pool);
    tool::zdb_check(folder.path(), "y_offline").unwrap();
    let sections = fixtures::manifest(name, ".files.jsonl").unwrap();
    for disk in disks(folder.path()) {
        let options = ImportOptions { force: true, ..ImportOptions::read_only() };
        let alone = Pool::import(vec![disk], model::env(), options).unwrap();
        manifest::check_sections(&alone, &sections, manifest::ALL);
    }
}

#[test]
fn sector_sizes() {
    survives("m-ashift9", 1);
    survives("m-ashift12", 1);
}

#[test]
fn limited_features_and_properties() {
    survives("n-grub", 1);
    survives("v-props", 1);
}

#[test]
fn gang_blocks() {
    survives("x-gang", 1);
}

#[test]
fn clones_and_bookmarks() {
    survives("h-snaps", 1);
}

#[test]
fn logs_of_openzfs_are_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk0.img");
    fixtures::write_image("k-zil-noslog", 0, &image).unwrap();
    let pool = model::import_pool(disks(folder.path()));
    for dataset in heads(&pool) {
        mount(&pool, &dataset).unmount().unwrap();
        accounts::check(&dataset.objset().unwrap()).unwrap();
    }
    // Where a write was replayed, OpenZFS took the time of the replay, and space depends on how blocks lie.
    let options = manifest::Options { mtimes: false, content: true, xattrs: true, dir_sizes: false };
    let mut sections = fixtures::manifest("k-zil-noslog", ".after-replay.files.jsonl").unwrap();
    sections.retain(|(name, _)| !name.ends_with("/enc"));
    for (_, entries) in &mut sections {
        entries.retain(|e| e.path != "/enc");
        entries.iter_mut().for_each(|e| e.blocks512 = None);
    }
    manifest::check_sections(&pool, &sections, options);
    pool.export().unwrap();
    // The logs of the encrypted file system and of the volume are claimed, and not replayed.
    tool::zdb_check(folder.path(), "k_zil_noslog").unwrap();
}
