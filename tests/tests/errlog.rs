//! The error log with the feature `head_errlog`: a lost block is listed once, and is said to be in every dataset and snapshot that has it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use tests::rig::{Rig, init};
use zfs::dsl::{CreateFs, Kind};
use zfs::ondisk::blkptr::Dva;
use zfs::spa::{ImportOptions, Pool, ScanControl, ScanState};
use zfs::zap;
use zfs::zpl::{self, Durability, FileKind, Filesystem, MountOptions, New};

/// Bytes of a record, and of the file's two.
const RECORD: usize = 128 << 10;
/// What OpenZFS 2.2 makes active in every new pool.
const FEATURES: [&str; 2] = ["head_errlog", "vdev_zaps_v2"];

fn mount(pool: &Arc<Pool>, name: &str) -> Arc<Filesystem> {
    Filesystem::mount(pool, pool.dsl().lookup(name).unwrap(), MountOptions::default()).unwrap()
}

/// A file system `t/a` with a file `f` of two records; the file, and where its second one lies.
fn with_file(rig: &Rig, pool: &Arc<Pool>) -> (u64, Dva) {
    let empty = CreateFs { kind: Kind::Filesystem, properties: Vec::new(), init: init(), parents: None };
    pool.dsl().create_dataset("t/a", empty).unwrap();
    let fs = mount(pool, "t/a");
    let object = fs.create(fs.root(), b"f", &New::new(FileKind::Regular, 0o644)).unwrap();
    fs.write(object, 0, &rig.noise(2 * RECORD), Durability::Later).unwrap();
    fs.unmount().unwrap();
    pool.sync().unwrap();
    let objset = pool.dsl().lookup("t/a").unwrap().objset().unwrap();
    (object, objset.hold(object).unwrap().block_pointer(0, 1).unwrap().dva(0))
}

fn overwrite(rig: &Rig, pool: &Arc<Pool>, name: &str, object: u64) {
    let fs = mount(pool, name);
    fs.write(object, RECORD as u64, &rig.noise(RECORD), Durability::Later).unwrap();
    fs.unmount().unwrap();
    pool.sync().unwrap();
}

fn again(rig: &Rig, pool: Arc<Pool>) -> Arc<Pool> {
    rig.close_damaged(pool).unwrap();
    rig.import(ImportOptions::default()).unwrap()
}

fn scrub(pool: &Pool) -> u64 {
    let report = pool.scrub(&mut |_| ScanControl::Continue).unwrap();
    assert_eq!(report.status.state, ScanState::Finished, "{report:?}");
    report.status.errors
}

/// The damaged files, as `dataset:path`.
fn errors(pool: &Arc<Pool>) -> Vec<String> {
    let mut errors = pool.errors().unwrap();
    zpl::name_damaged(pool, &mut errors);
    let path = |path: &Option<Vec<u8>>| String::from_utf8(path.clone().unwrap_or_default()).unwrap();
    let mut names: Vec<String> = errors.iter().map(|e| format!("{}:{}", e.dataset, path(&e.path))).collect();
    names.sort();
    names
}

/// What lies in the MOS: the heads that have a log, and how many blocks each lists.
fn on_disk(pool: &Pool) -> Vec<(String, u64)> {
    let mos = pool.mos();
    let Ok(log) = zap::lookup_u64(&mos.hold(1).unwrap(), "errlog_last") else { return Vec::new() };
    if log == 0 {
        return Vec::new();
    }
    let heads = zap::entries(&mos.hold(log).unwrap()).unwrap();
    let count = |object| zap::count(&mos.hold(object).unwrap()).unwrap();
    heads.iter().map(|e| (String::from_utf8(e.name.clone()).unwrap(), count(e.value.first()))).collect()
}

fn key(pool: &Pool, name: &str) -> String {
    format!("{:x}", pool.dsl().lookup(name).unwrap().object())
}

#[test]
fn a_lost_block_is_found_in_snapshots_and_clones() {
    let (rig, pool) = Rig::with_features(21, &FEATURES).unwrap();
    let (object, place) = with_file(&rig, &pool);
    let dsl = pool.dsl();
    dsl.create_snapshots(&["t/a@1"]).unwrap();
    dsl.clone_snapshot("t/a@1", "t/c", &[]).unwrap();
    dsl.create_snapshots(&["t/c@x"]).unwrap();
    dsl.create_snapshots(&["t/a@2"]).unwrap();
    let pool = again(&rig, pool);
    rig.damage(0, &place).unwrap();
    assert_eq!(scrub(&pool), 1);
    let (a, c) = (key(&pool, "t/a"), key(&pool, "t/c"));
    assert_eq!(on_disk(&pool), [(a.clone(), 1)]);
    assert_eq!(errors(&pool), ["t/a:/f", "t/a@1:/f", "t/a@2:/f", "t/c:/f", "t/c@x:/f"]);

    // Written anew in one of them.
    let pool = again(&rig, pool);
    overwrite(&rig, &pool, "t/a", object);
    assert_eq!(errors(&pool), ["t/a@1:/f", "t/a@2:/f", "t/c:/f", "t/c@x:/f"]);
    pool.dsl().destroy("t/a@2", false, false).unwrap();
    assert_eq!(errors(&pool), ["t/a@1:/f", "t/c:/f", "t/c@x:/f"]);

    // The snapshot goes to the clone, and what is listed with it.
    let pool = again(&rig, pool);
    pool.dsl().promote("t/c").unwrap();
    assert_eq!(on_disk(&pool), [(a, 0), (c.clone(), 1)]);
    assert_eq!(errors(&pool), ["t/c:/f", "t/c@1:/f", "t/c@x:/f"]);
    let pool = again(&rig, pool);
    pool.dsl().destroy("t/a", false, false).unwrap();
    assert_eq!(on_disk(&pool), [(c.clone(), 1)]);
    pool.dsl().destroy("t/c@x", false, false).unwrap();
    overwrite(&rig, &pool, "t/c", object);
    assert_eq!(errors(&pool), ["t/c@1:/f"]);

    // Nobody has it any more: it is forgotten without a scrub.
    let pool = again(&rig, pool);
    pool.dsl().destroy("t/c@1", false, false).unwrap();
    assert_eq!(on_disk(&pool), [(c.clone(), 1)]);
    assert_eq!(errors(&pool), Vec::<String>::new());
    assert_eq!(on_disk(&pool), [(c, 0)]);
    assert_eq!(scrub(&pool), 0);
    assert_eq!(on_disk(&pool), []);
    rig.close(pool).unwrap();
}

#[test]
fn what_a_reader_finds_is_listed_under_its_head() {
    let (rig, pool) = Rig::with_features(22, &FEATURES).unwrap();
    let (object, place) = with_file(&rig, &pool);
    pool.dsl().create_snapshots(&["t/a@1"]).unwrap();
    let pool = again(&rig, pool);
    rig.damage(0, &place).unwrap();
    for _ in 0..2 {
        let fs = mount(&pool, "t/a@1");
        fs.read(object, 0, &mut vec![0; 2 * RECORD]).unwrap_err();
        fs.unmount().unwrap();
        pool.set_property("comment", "something to write").unwrap();
        assert_eq!(on_disk(&pool), [(key(&pool, "t/a"), 1)]);
    }
    assert_eq!(errors(&pool), ["t/a:/f", "t/a@1:/f"]);
    pool.clear_errors().unwrap();
    assert_eq!((on_disk(&pool), errors(&pool)), (Vec::new(), Vec::new()));
    rig.close_damaged(pool).unwrap();
}

#[test]
fn a_scrub_that_was_paused_keeps_what_it_found() {
    let (rig, pool) = Rig::with_features(23, &FEATURES).unwrap();
    let (_, place) = with_file(&rig, &pool);
    for i in 0..4 {
        rig.files(&pool, &format!("d{i}"), 30, RECORD).unwrap();
        pool.dsl().create_snapshots(&[&format!("t@s{i}")]).unwrap();
    }
    let pool = again(&rig, pool);
    rig.damage(0, &place).unwrap();
    // Paused at every batch: the block is found once, whenever that is.
    let mut rounds = 0;
    let errors_found = loop {
        let mut calls = 0;
        let report = pool
            .scrub(&mut |_| {
                calls += 1;
                if calls == 3 { ScanControl::Pause } else { ScanControl::Continue }
            })
            .unwrap();
        rounds += 1;
        if report.status.state == ScanState::Finished || rounds == 40 {
            break report.status.errors;
        }
    };
    assert!(rounds > 1 && errors_found == 1, "{rounds} {errors_found}");
    assert_eq!(on_disk(&pool), [(key(&pool, "t/a"), 1)]);
    assert_eq!(errors(&pool), ["t/a:/f"]);
    rig.close_damaged(pool).unwrap();
}

#[test]
fn a_log_without_heads_is_taken_over_when_the_feature_is_enabled() {
    let (rig, pool) = Rig::with_pool(24).unwrap();
    let (object, place) = with_file(&rig, &pool);
    pool.dsl().create_snapshots(&["t/a@1"]).unwrap();
    let pool = again(&rig, pool);
    rig.damage(0, &place).unwrap();
    assert_eq!(scrub(&pool), 1);
    // Without heads it is known where it was found, and no more.
    assert_eq!(errors(&pool).len(), 1);
    let found = pool.errors().unwrap()[0].clone();
    assert_eq!((found.object, found.blocks[0].blkid), (object, 1));
    for feature in FEATURES {
        pool.set_property(&format!("feature@{feature}"), "enabled").unwrap();
        assert_eq!(pool.get_property(&format!("feature@{feature}")).unwrap().0, "active");
    }
    assert_eq!(on_disk(&pool), [(key(&pool, "t/a"), 1)]);
    assert_eq!(errors(&pool), ["t/a:/f", "t/a@1:/f"]);
    let pool = again(&rig, pool);
    overwrite(&rig, &pool, "t/a", object);
    assert_eq!(errors(&pool), ["t/a@1:/f"]);
    rig.close_damaged(pool).unwrap();
}
