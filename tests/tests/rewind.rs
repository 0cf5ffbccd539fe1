//! Older states of a pool: checkpoints, older uberblocks, and who may import what.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tests::fixtures;
use tests::rig::{Rig, mount};
use zfs::Error;
use zfs::spa::{ImportOptions, Pool, Rewind};
use zfs::vdev::label;

const LENGTH: usize = 100_000;

fn rewind(rewind: Rewind) -> ImportOptions {
    ImportOptions { rewind, ..ImportOptions::default() }
}

/// Names in the root directory.
fn names(pool: &Arc<Pool>) -> Vec<String> {
    let fs = mount(pool).unwrap();
    let entries = fs.readdir(fs.root(), 0, 1000).unwrap();
    let mut names: Vec<String> = entries.iter().map(|e| String::from_utf8_lossy(&e.name).into()).collect();
    names.sort();
    fs.unmount().unwrap();
    names
}

fn remove(pool: &Arc<Pool>, dir: &str) {
    let fs = mount(pool).unwrap();
    let object = fs.lookup(fs.root(), dir.as_bytes()).unwrap();
    for entry in fs.readdir(object, 0, 1000).unwrap() {
        fs.unlink(object, &entry.name).unwrap();
    }
    fs.rmdir(fs.root(), dir.as_bytes()).unwrap();
    fs.unmount().unwrap();
    pool.sync().unwrap();
}

#[test]
fn a_checkpoint_is_returned_to() {
    let (rig, pool) = Rig::with_pool(21).unwrap();
    rig.files(&pool, "old", 20, LENGTH).unwrap();
    rig.files(&pool, "gone", 20, LENGTH).unwrap();
    pool.checkpoint().unwrap();
    assert_eq!(pool.checkpoint(), Err(Error::Exists));
    remove(&pool, "gone");
    for round in 0..5 {
        // Space is taken and given back many times over.
        rig.files(&pool, &format!("new{round}"), 20, LENGTH).unwrap();
        if round > 0 {
            remove(&pool, &format!("new{}", round - 1));
        }
    }
    let held = pool.checkpoint_status().unwrap();
    assert!(held.space > 20 * LENGTH as u64 && !held.discarding, "{held:?}");
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
    assert!(pool.reguid().is_err());
    rig.close(pool).unwrap();

    // Looking at it changes nothing.
    let preview = ImportOptions { rewind: Rewind::Checkpoint, ..ImportOptions::read_only() };
    assert_eq!(names(&rig.import(preview).unwrap()), ["gone", "old"]);
    let pool = rig.import(ImportOptions::default()).unwrap();
    assert_eq!(names(&pool), ["new4", "old"]);
    assert!(pool.checkpoint_status().unwrap().space >= held.space);
    pool.export().unwrap();
    drop(pool);

    let pool = rig.import(rewind(Rewind::Checkpoint)).unwrap();
    assert_eq!((names(&pool), pool.checkpoint_status()), (vec!["gone".into(), "old".into()], None));
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
    rig.files(&pool, "later", 20, LENGTH).unwrap();
    rig.close(pool).unwrap();
    let pool = rig.import(ImportOptions::default()).unwrap();
    assert_eq!(names(&pool), ["gone", "later", "old"]);
    drop(pool);
    let none = rig.import(rewind(Rewind::Checkpoint)).err();
    assert_eq!(none, Some(Error::Invalid("the pool has no checkpoint to return to")));
}

#[test]
fn a_discarded_checkpoint_gives_its_space_back() {
    let (rig, pool) = Rig::with_pool(22).unwrap();
    rig.files(&pool, "gone", 40, LENGTH).unwrap();
    let before = pool.space().allocated;
    assert_eq!(pool.discard_checkpoint(), Err(Error::NotFound));
    pool.checkpoint().unwrap();
    remove(&pool, "gone");
    assert!(pool.space().allocated >= before);
    // Cut off in the middle: the next import goes on.
    pool.discard_checkpoint().unwrap();
    drop(pool);
    let pool = rig.import(ImportOptions { force: true, ..ImportOptions::default() }).unwrap();
    for _ in 0..4 {
        pool.log_history("another txg").unwrap();
    }
    assert_eq!(pool.checkpoint_status(), None);
    assert!(pool.space().allocated < before - 39 * LENGTH as u64);
    pool.checkpoint().unwrap();
    pool.discard_checkpoint().unwrap();
    pool.sync().unwrap();
    pool.sync().unwrap();
    rig.close(pool).unwrap();
}

/// OpenZFS's own checkpoint reads as the state that it kept.
#[test]
fn a_checkpoint_of_openzfs_can_be_looked_at() {
    let disk = fixtures::disk("u-checkpoint", 0).unwrap();
    let open = |rewind| {
        let rig = Rig::new(23).unwrap();
        Pool::import(vec![disk.clone()], rig.env(), ImportOptions { rewind, ..ImportOptions::read_only() })
            .unwrap()
    };
    let pool = open(Rewind::No);
    assert!(pool.checkpoint_status().is_some_and(|c| c.space > 300_000));
    assert_eq!(names(&pool), ["edge", "links", "text", "zeros"]);
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
    let pool = open(Rewind::Checkpoint);
    assert_eq!(names(&pool), ["edge", "text"]);
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
}

#[test]
fn a_damaged_pool_is_rewound_to_the_last_whole_state() {
    let (rig, pool) = Rig::with_pool(24).unwrap();
    rig.files(&pool, "first", 5, LENGTH).unwrap();
    let whole = pool.last_synced_txg();
    rig.files(&pool, "second", 5, LENGTH).unwrap();
    let root = pool.mos().root();
    let last = pool.last_synced_txg();
    drop(pool);
    for dva in root.dvas() {
        rig.damage(0, &dva).unwrap();
    }
    let force = |rewind| ImportOptions { force: true, rewind, ..ImportOptions::default() };
    assert!(matches!(rig.import(force(Rewind::No)).err(), Some(Error::Checksum { .. })));
    let pool = rig.import(force(Rewind::Recent)).unwrap();
    assert!(pool.last_synced_txg() > last, "the lost txg's number is not used again");
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
    assert!(names(&pool).contains(&"first".to_owned()));
    rig.close(pool).unwrap();

    let rewound =
        rig.import(ImportOptions { rewind: Rewind::Txg(whole), ..ImportOptions::read_only() }).unwrap();
    assert_eq!((rewound.last_synced_txg(), names(&rewound)), (whole, vec!["first".to_owned()]));
    drop(rewound);
    assert_eq!(rig.import(force(Rewind::Txg(1))).err(), Some(Error::NotFound));
}

#[test]
fn a_pool_in_use_elsewhere_is_refused_and_can_be_renamed() {
    let (rig, pool) = Rig::with_pool(25).unwrap();
    pool.export().unwrap();
    drop(pool);
    let host = |host_id, force| ImportOptions {
        host_id,
        host_name: format!("host{host_id}"),
        force,
        ..ImportOptions::default()
    };
    let pool = rig.import(host(7, false)).unwrap();
    pool.log_history("in use").unwrap();
    drop(pool);
    assert_eq!(rig.import(host(8, false)).err(), Some(Error::InUse { host: "host7".into() }));
    drop(rig.import(host(7, false)).unwrap());
    let renamed = ImportOptions { name: Some("other".into()), ..host(8, true) };
    let pool = rig.import(renamed).unwrap();
    let old = pool.guid();
    let new = pool.reguid().unwrap();
    assert!(new != old && pool.guid() == new);
    pool.export().unwrap();
    drop(pool);
    let pool = rig.import(host(9, false)).unwrap();
    assert_eq!((pool.name(), pool.guid()), ("other".into(), new));
    let label = label::read(&*rig.disk(0).unwrap()).unwrap();
    assert_eq!(label.config.get_u64("pool_guid"), Some(new));
    drop(pool);
    // Without its labels there is no pool.
    let image = std::fs::OpenOptions::new().write(true).open(rig.image(0)).unwrap();
    let size = image.metadata().unwrap().len();
    for at in [0, size - (512 << 10)] {
        image.write_all_at(&vec![0; 512 << 10], at).unwrap();
    }
    assert_eq!(rig.import(host(9, true)).err(), Some(Error::NoPool));
}
