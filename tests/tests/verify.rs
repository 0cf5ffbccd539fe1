//! Verification: what OpenZFS wrote is clean, what was damaged on purpose is found, and what we write is clean to `zdb`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::Env;
use platform::block::BlockDevice;
use platform::clock::{FixedClock, Timespec};
use platform::host::FileDisk;
use platform::random::Seeded;
use std::path::Path;
use std::sync::Arc;
use tests::{fixtures, tool};
use zfs::spa::{CreateOptions, ImportOptions, Pool, VerifyReport};

fn env() -> Env {
    let now = Timespec { sec: 1_700_000_000, nsec: 0 };
    Env { clock: Arc::new(FixedClock(now)), random: Arc::new(Seeded::new(1)) }
}

fn verify(fixture: &str) -> VerifyReport {
    let disks = fixtures::disks(fixture).unwrap().into_iter().map(|disk| disk as Arc<dyn BlockDevice>);
    let pool = Pool::import(disks.collect(), env(), ImportOptions::read_only()).unwrap();
    pool.verify(&mut |_| ()).unwrap()
}

#[test]
fn pools_of_openzfs_are_clean() {
    for fixture in [
        "a-default",
        "b-nofeat",
        "b2-v28",
        "c-compress",
        "d-checksum",
        "e-mirror",
        "f-raidz1-3",
        "g-raidz2-5",
        "g-raidz3-6",
        "h-snaps",
        "i-zvol",
        "m-ashift9",
        "m-ashift12",
        "n-grub",
        "p-draid1",
        "p-draid2s",
        "r-removal",
        "s-stripe",
        "u-checkpoint",
        "v-props",
        "x-async",
        "y-offline",
        "z-16m",
        "zfs-2.3",
    ] {
        let report = verify(fixture);
        assert!(report.is_clean() && report.blocks > 20, "{fixture}: {report:#?}");
    }
}

#[test]
fn damage_is_found_where_it_was_done() {
    let report = verify("q-corrupt-single");
    assert_eq!((report.damaged.len(), report.bad_copies), (2, 1), "{report:#?}");
    assert_eq!((report.leaked, report.unallocated, report.doubly_allocated), (0, 0, 0), "{report:#?}");
}

fn open(path: &Path) -> Vec<Arc<dyn BlockDevice>> {
    vec![Arc::new(FileDisk::open(path, true).unwrap())]
}

/// Sizes and sector sizes; between the syncs the pool is exported and imported, as `zdb` must see it at rest.
#[test]
fn zdb_finds_no_leak_in_what_we_write() {
    for (ashift, size) in [(9, 64 << 20), (12, 256 << 20), (13, 1 << 30)] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.img");
        drop(FileDisk::create(&image, size).unwrap());
        let mut options = CreateOptions::new("tp", Box::new(|_, _| Ok(())));
        options.ashift = Some(ashift);
        Pool::create(open(&image), env(), options).unwrap().export().unwrap();
        tool::zdb_check(folder.path(), "tp").unwrap();
        for round in 0..3 {
            let pool = Pool::import(open(&image), env(), ImportOptions::default()).unwrap();
            for line in 0..40 {
                pool.log_history(&format!("round {round}, line {line}")).unwrap();
            }
            pool.dsl().create_snapshots(&[&format!("tp@s{round}")]).unwrap();
            pool.set_property("comment", &format!("round {round}")).unwrap();
            pool.export().unwrap();
            tool::zdb_check(folder.path(), "tp").unwrap();
        }
    }
}
