//! Scrubs: bad copies are mended, lost blocks are listed by the files that they belong to, and what is recorded can be taken up.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::random::{Random, Seeded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tests::rig::{Rig, mount};
use tests::tool::tarn_ok;
use zfs::dmu::{Traverse, Visit, traverse};
use zfs::ondisk::blkptr::Blkptr;
use zfs::ondisk::bookmark::Bookmark;
use zfs::spa::{ImportOptions, Pool, ScanControl, ScanReport, ScanState};
use zfs::zpl::{self, Durability, FileKind, New};
use zfs::{Error, spa};

/// Bytes of each test file: two records.
const LENGTH: usize = 200_000;

fn scrub(pool: &Pool) -> ScanReport {
    pool.scrub(&mut |_| ScanControl::Continue).unwrap()
}

/// All blocks of an objset.
struct Blocks(Vec<(Blkptr, Bookmark)>);

impl Traverse for Blocks {
    fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> zfs::error::Result<Visit> {
        self.0.push((*bp, *at));
        Ok(Visit::Continue)
    }
}

fn blocks(pool: &Pool) -> Vec<(Blkptr, Bookmark)> {
    let root = pool.dsl().root().unwrap();
    let mut blocks = Blocks(Vec::new());
    traverse(pool.zio(), root.object(), &root.root_bp(), 0, &mut blocks).unwrap();
    blocks.0
}

#[test]
fn a_bad_copy_is_written_anew() {
    let (rig, pool) = Rig::with_pool(11).unwrap();
    rig.files(&pool, "d", 20, LENGTH).unwrap();
    let mut damaged = 0;
    for (bp, at) in blocks(&pool) {
        if bp.dvas().count() > 1 {
            // Of metadata there are two copies: one is enough.
            rig.damage(0, &bp.dva(if at.blkid % 2 == 0 { 0 } else { 1 })).unwrap();
            damaged += 1;
        }
    }
    let mos_root = pool.mos().root();
    rig.damage(0, &mos_root.dva(1)).unwrap();
    assert!(damaged > 5, "{damaged}");
    pool.export().unwrap();
    drop(pool);
    let pool = rig.import(ImportOptions::default()).unwrap();
    let found = scrub(&pool);
    assert_eq!((found.status.errors, found.status.state), (0, ScanState::Finished), "{found:?}");
    assert!(found.status.processed > 0 && found.damaged.is_empty() && found.problems.is_empty(), "{found:?}");
    let again = scrub(&pool);
    assert_eq!((again.status.processed, again.status.errors), (0, 0), "{again:?}");
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
    rig.close(pool).unwrap();
}

#[test]
fn a_lost_block_is_an_error_of_one_file_and_is_listed() {
    let (rig, pool) = Rig::with_pool(12).unwrap();
    let objects = rig.files(&pool, "some dir", 6, LENGTH).unwrap();
    let victim = objects[3];
    let (bp, _) = blocks(&pool)
        .into_iter()
        .find(|(_, at)| at.object == victim && at.level == 0 && at.blkid == 1)
        .unwrap();
    rig.damage(0, &bp.dva(0)).unwrap();
    pool.export().unwrap();
    drop(pool);

    // A reader finds it first: the error log has it with the next txg.
    let pool = rig.import(ImportOptions::default()).unwrap();
    let fs = mount(&pool).unwrap();
    for object in &objects {
        let read = fs.read(*object, 0, &mut vec![0; LENGTH]);
        match *object == victim {
            true => assert!(matches!(read, Err(Error::Checksum { .. })), "{read:?}"),
            false => assert_eq!(read.unwrap(), LENGTH),
        }
    }
    fs.unmount().unwrap();
    pool.set_property("comment", "something to write").unwrap();
    let errors = pool.errors().unwrap();
    assert_eq!(errors.iter().map(|e| e.object).collect::<Vec<_>>(), [victim]);

    let found = scrub(&pool);
    assert_eq!((found.status.errors, found.damaged.len()), (1, 1), "{found:?}");
    pool.export().unwrap();
    drop(pool);
    let text = tarn_ok(&["zpool", "--disk", rig.image(0).to_str().unwrap(), "status", "-v"]).unwrap();
    assert!(text.contains("scrub repaired 0 in") || text.contains("scrub repaired 0B in"), "{text}");
    assert!(text.contains("with 1 errors") && text.contains("t:/some dir/file3\n"), "{text}");

    // The file is removed: the next scrub finds nothing, and the log is empty.
    let pool = rig.import(ImportOptions::default()).unwrap();
    let fs = mount(&pool).unwrap();
    let dir = fs.lookup(fs.root(), b"some dir").unwrap();
    fs.unlink(dir, b"file3").unwrap();
    fs.unmount().unwrap();
    let mut errors = pool.errors().unwrap();
    zpl::name_damaged(&pool, &mut errors);
    assert_eq!(errors.iter().map(|e| e.path.clone()).collect::<Vec<_>>(), [None]);
    assert_eq!(scrub(&pool).status.errors, 0);
    assert_eq!(pool.errors().unwrap(), Vec::<spa::DamagedFile>::new());
    rig.close(pool).unwrap();
}

#[test]
fn a_paused_scrub_goes_on_and_begins_anew_if_datasets_change() {
    let (rig, pool) = Rig::with_pool(13).unwrap();
    for i in 0..4 {
        rig.files(&pool, &format!("d{i}"), 30, LENGTH).unwrap();
        pool.dsl().create_snapshots(&[&format!("t@s{i}")]).unwrap();
    }
    // Stopped at the third batch: the MOS and some of the datasets are done by then.
    let mut calls = 0;
    let mut pause = |_| {
        calls += 1;
        if calls == 4 { ScanControl::Pause } else { ScanControl::Continue }
    };
    let report = pool.scrub(&mut pause).unwrap();
    assert_eq!((report.status.state, report.status.paused), (ScanState::Scanning, true));
    let queue = report.status.queue;
    assert!(queue != 0 && report.status.examined > 0);
    rig.close(pool).unwrap();

    let pool = rig.import(ImportOptions::default()).unwrap();
    assert_eq!(pool.scan_status(), Some(report.status));
    pool.dsl().destroy("t@s1", false, false).unwrap();
    let begun_anew = pool.scan_status().unwrap();
    assert_eq!((begun_anew.examined, begun_anew.bookmark), (0, Bookmark::default()));
    let whole = scrub(&pool);
    assert_eq!((whole.status.state, whole.status.errors), (ScanState::Finished, 0));

    // Without such a change the rest is enough.
    let mut calls = 0;
    pool.scrub(&mut |_| {
        calls += 1;
        if calls == 4 { ScanControl::Pause } else { ScanControl::Continue }
    })
    .unwrap();
    let mut rest = 0;
    let done = pool
        .scrub(&mut |_| {
            rest += 1;
            ScanControl::Continue
        })
        .unwrap();
    let mut all = 0;
    pool.scrub(&mut |_| {
        all += 1;
        ScanControl::Continue
    })
    .unwrap();
    assert!(rest < all, "{rest} {all}");
    assert_eq!(done.status.state, ScanState::Finished);
    assert!(matches!(pool.control_scrub(ScanControl::Stop), Err(Error::Invalid(_))));

    pool.scrub(&mut |_| ScanControl::Pause).unwrap();
    pool.control_scrub(ScanControl::Stop).unwrap();
    assert_eq!(pool.scan_status().unwrap().state, ScanState::Canceled);
    rig.close(pool).unwrap();
}

/// Files come, go and are overwritten while it scrubs, many times over: nothing is mistaken for damage.
#[test]
fn a_scrub_beside_writers_finds_nothing() {
    let (rig, pool) = Rig::with_pool(14).unwrap();
    rig.files(&pool, "kept", 20, LENGTH).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (pool, stop, random) = (Arc::clone(&pool), Arc::clone(&stop), Seeded::new(rig.random.next_u64()));
        std::thread::spawn(move || {
            let fs = mount(&pool).unwrap();
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                for i in 0..20 {
                    let name = format!("f{i}");
                    let _ = fs.unlink(fs.root(), name.as_bytes());
                    let new = New::new(FileKind::Regular, 0o644);
                    let object = fs.create(fs.root(), name.as_bytes(), &new).unwrap();
                    let mut data = vec![0; 100_000];
                    random.fill(&mut data);
                    fs.write(object, 0, &data, Durability::Later).unwrap();
                }
                pool.sync().unwrap();
                rounds += 1;
            }
            fs.unmount().unwrap();
            rounds
        })
    };
    for _ in 0..6 {
        let report = scrub(&pool);
        assert_eq!((report.status.errors, report.status.processed), (0, 0), "{report:?}");
        assert!(report.problems.is_empty(), "{report:?}");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.join().unwrap() > 3);
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
    rig.close(pool).unwrap();
}
