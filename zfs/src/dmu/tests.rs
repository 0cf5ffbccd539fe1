//! Objects against a model in memory, with syncs between, on a disk that is read back with an empty cache.

use super::testing::{Below, TestPool};
use super::*;
use crate::error::Error;
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::ObjsetKind;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use platform::random::{Random, Seeded};

const FILE: ObjectType = ObjectType::PLAIN_FILE_CONTENTS;

fn file(block_size: u32) -> Allocate {
    Allocate { bonus_type: ObjectType::SA, bonus_len: 168, ..Allocate::plain(FILE, block_size) }
}

/// A fresh objset that has come to the disk once.
fn objset(pool: &TestPool) -> Arc<Objset> {
    let tx = pool.txgs.begin(0).unwrap();
    pool.create(54, ObjsetKind::Zfs, &tx)
}

fn reopen(pool: &TestPool, os: &Arc<Objset>) -> Arc<Objset> {
    Objset::open(pool.fresh_zio(), Arc::clone(&pool.txgs), os.id(), os.root()).unwrap()
}

fn read_all(dnode: &Dnode, len: usize) -> Vec<u8> {
    let mut out = vec![0xee; len];
    let n = dnode.read(0, &mut out).unwrap();
    out[n..].fill(0);
    out
}

#[test]
fn an_empty_objset_comes_back() {
    let pool = TestPool::new(64 << 20);
    let os = objset(&pool);
    pool.sync();
    pool.check(&[&os]);
    let back = reopen(&pool, &os);
    assert_eq!((back.kind(), back.object_count(), back.meta_dnode().info().levels), (ObjsetKind::Zfs, 0, 6));
    assert_eq!(back.hold(1).err(), Some(Error::NotFound));
    assert_eq!(back.next_object(0, false).unwrap(), None);
    assert_eq!(back.next_object(0, true).unwrap(), Some(1));
}

#[test]
fn data_is_readable_before_during_and_after_the_sync() {
    let pool = TestPool::new(64 << 20);
    let os = objset(&pool);
    let tx = pool.txgs.begin(0).unwrap();
    let dnode = os.allocate(&tx, &file(4096)).unwrap();
    let data: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
    dnode.write(&tx, 1000, &data).unwrap();
    drop(tx);
    let mut expected = vec![0; 1000];
    expected.extend(&data);
    assert_eq!(read_all(&dnode, 101_000), expected);
    pool.sync();
    assert_eq!(read_all(&dnode, 101_000), expected);
    pool.check(&[&os]);
    let again = reopen(&pool, &os).hold(dnode.object()).unwrap();
    assert_eq!(read_all(&again, 101_000), expected);
    assert_eq!(again.info(), dnode.info());
    assert_eq!(again.info().maxblkid, 24);
    assert!(again.used_bytes() > 0);
}

#[test]
fn what_was_written_in_a_later_txg_is_not_in_the_earlier_one() {
    let pool = TestPool::new(64 << 20);
    let os = objset(&pool);
    let tx = pool.txgs.begin(0).unwrap();
    let dnode = os.allocate(&tx, &file(4096)).unwrap();
    dnode.write(&tx, 0, &[1; 8192]).unwrap();
    let first = pool.txgs.request_sync();
    // The first txg closes while its tx is held; the second one opens and changes the same block.
    drop(tx);
    let quiesced = pool.txgs.quiesce().unwrap();
    assert_eq!(quiesced.txg, first);
    let tx = pool.txgs.begin(0).unwrap();
    assert_eq!(tx.txg(), first + 1);
    dnode.write(&tx, 10, &[2; 10]).unwrap();
    dnode.free_range(&tx, 4096, u64::MAX).unwrap();
    let ctx = SyncContext { txg: first, pass: 1, alloc: &*pool.space, owner: &Quiet };
    os.sync(&ctx).unwrap();
    pool.txgs.synced(first);
    let on_disk = reopen(&pool, &os).hold(dnode.object()).unwrap();
    assert_eq!(read_all(&on_disk, 8192), vec![1; 8192]);
    let mut newest = vec![1; 4096];
    newest[10..20].fill(2);
    assert_eq!((dnode.info().maxblkid, read_all(&dnode, 4096)), (0, newest));
}

struct Quiet;
impl BlockOwner for Quiet {
    fn born(&self, _bp: &crate::ondisk::blkptr::Blkptr) {}
    fn killed(&self, _bp: &crate::ondisk::blkptr::Blkptr) {}
    fn unused(&self, _bp: &crate::ondisk::blkptr::Blkptr) {}
}

#[test]
fn bonus_spill_and_block_size_come_back() {
    let pool = TestPool::new(64 << 20);
    let os = objset(&pool);
    let tx = pool.txgs.begin(0).unwrap();
    let dnode = os.allocate(&tx, &Allocate { slots: 2, ..file(512) }).unwrap();
    assert_eq!((dnode.max_bonus(false), dnode.max_bonus(true)), (832, 704));
    dnode.set_bonus(&tx, ObjectType::SA, &[5; 700]).unwrap();
    dnode.set_spill(&tx, &[6; 1000]).unwrap();
    assert_eq!(dnode.set_bonus(&tx, ObjectType::SA, &[5; 705]), Err(Error::TooBig));
    dnode.write(&tx, 0, &[7; 512]).unwrap();
    drop(tx);
    pool.sync();
    let tx = pool.txgs.begin(0).unwrap();
    dnode.set_block_size(&tx, 131_072).unwrap();
    dnode.write(&tx, 200_000, &[8]).unwrap();
    assert!(matches!(dnode.set_block_size(&tx, 512), Err(Error::Invalid(_))));
    drop(tx);
    pool.sync();
    pool.check(&[&os]);
    let back = reopen(&pool, &os).hold(dnode.object()).unwrap();
    assert_eq!((back.bonus(), back.info().block_size), (Bytes::from(vec![5; 700]), 131_072));
    assert_eq!(back.spill().unwrap().unwrap()[..1001], [vec![6; 1000], vec![0]].concat());
    assert_eq!(read_all(&back, 513), [vec![7; 512], vec![0]].concat());
    let tx = pool.txgs.begin(0).unwrap();
    dnode.remove_spill(&tx).unwrap();
    drop(tx);
    pool.sync();
    pool.check(&[&os]);
    assert_eq!(reopen(&pool, &os).hold(dnode.object()).unwrap().spill().unwrap(), None);
}

#[test]
fn a_tree_grows_by_levels_and_shrinks_to_nothing() {
    let pool = TestPool::new(64 << 20);
    let os = objset(&pool);
    let tx = pool.txgs.begin(0).unwrap();
    // Indirect blocks of 4 KiB hold 32 pointers.
    let dnode = os.allocate(&tx, &Allocate { indirect_shift: 12, ..file(512) }).unwrap();
    drop(tx);
    for (i, offset) in [0u64, 512, 33 * 512, 2000 * 512, 40_000 * 512].into_iter().enumerate() {
        let tx = pool.txgs.begin(0).unwrap();
        dnode.write(&tx, offset, &[i as u8 + 1; 512]).unwrap();
        drop(tx);
        pool.sync();
        pool.check(&[&os]);
    }
    assert_eq!(dnode.info().levels, 5);
    let back = reopen(&pool, &os).hold(dnode.object()).unwrap();
    for d in [&dnode, &back] {
        assert_eq!(d.next_offset(false, 34 * 512).unwrap(), Some(2000 * 512));
        assert_eq!(d.next_offset(true, 0).unwrap(), Some(1024));
        assert_eq!(d.next_offset(false, 40_001 * 512).unwrap(), None);
        let mut block = [0; 512];
        d.read(40_000 * 512, &mut block).unwrap();
        assert_eq!(block, [5; 512]);
    }
    let used = pool.space.used();
    let tx = pool.txgs.begin(0).unwrap();
    dnode.free_range(&tx, 0, u64::MAX).unwrap();
    drop(tx);
    pool.sync();
    pool.check(&[&os]);
    assert!(pool.space.used() < used);
    assert_eq!((dnode.info().maxblkid, dnode.used_bytes()), (0, 0));
}

#[test]
fn objects_are_numbered_upwards_and_freed_numbers_come_back() {
    let pool = TestPool::new(64 << 20);
    let os = objset(&pool);
    let tx = pool.txgs.begin(0).unwrap();
    for i in 1..=100u64 {
        assert_eq!(os.allocate(&tx, &file(512)).unwrap().object(), i);
    }
    drop(tx);
    pool.sync();
    let tx = pool.txgs.begin(0).unwrap();
    os.free(&tx, 7).unwrap();
    assert_eq!(os.hold(7).err(), Some(Error::NotFound));
    assert_eq!(os.claim(&tx, 7, &file(512)).err(), Some(Error::Busy));
    assert_eq!(os.claim(&tx, 8, &file(512)).err(), Some(Error::Exists));
    assert_eq!(os.next_object(6, false).unwrap(), Some(8));
    // Allocated and freed in one txg: never seen on disk.
    let passing = os.allocate(&tx, &file(512)).unwrap();
    passing.write(&tx, 0, &[1; 512]).unwrap();
    os.free(&tx, passing.object()).unwrap();
    let large = os.allocate(&tx, &Allocate { slots: 16, ..file(512) }).unwrap();
    assert!(os.has_large_dnodes() && large.object() % 32 + 16 <= 32);
    drop(tx);
    pool.sync();
    pool.check(&[&os]);
    let tx = pool.txgs.begin(0).unwrap();
    assert_eq!(os.claim(&tx, 7, &file(512)).unwrap().object(), 7);
    drop(tx);
    pool.sync();
    let back = reopen(&pool, &os);
    let mut objects = vec![];
    let mut at = 0;
    while let Some(object) = back.next_object(at, false).unwrap() {
        objects.push(object);
        at = object;
    }
    let mut expected: Vec<u64> = (1..=100).collect();
    expected.push(large.object());
    assert_eq!(objects, expected);
    assert_eq!(back.hold(large.object() + 3).err(), Some(Error::NotFound));
    let tx = pool.txgs.begin(0).unwrap();
    assert!(back.allocate(&tx, &file(512)).unwrap().object() > 100);
}

#[test]
fn a_full_pool_is_an_error_and_nothing_else() {
    let pool = TestPool::new(8 << 20);
    let os = objset(&pool);
    pool.sync();
    let before = reopen(&pool, &os);
    let random = Seeded::new(4);
    let mut noise = vec![0; 6 << 20];
    random.fill(&mut noise);
    let tx = pool.txgs.begin(0).unwrap();
    let dnode = os.allocate(&tx, &file(131_072)).unwrap();
    dnode.write(&tx, 0, &noise).unwrap();
    drop(tx);
    assert_eq!(pool.try_sync(), Err(Error::NoSpace));
    assert_eq!(before.object_count(), 0);
    assert_eq!(read_all(&dnode, noise.len()), noise);
}

/// One object of the model: bytes up to its length, zeros behind.
#[derive(Clone, Default)]
struct Model {
    data: Vec<u8>,
    bonus: Vec<u8>,
}

fn change(tx: &Tx, random: &Seeded, dnode: &Arc<Dnode>, model: &mut Model, limit: u64) {
    let at = random.below(limit) as usize;
    let len = 1 + random.below(if random.below(4) == 0 { 60_000 } else { 3000 }) as usize;
    match random.below(10) {
        0..=5 => {
            let byte = random.below(256) as u8;
            let data: Vec<u8> =
                (0..len).map(|i| if byte < 40 { 0 } else { byte.wrapping_add((i / 97) as u8) }).collect();
            dnode.write(tx, at as u64, &data).unwrap();
            if model.data.len() < at + len {
                model.data.resize(at + len, 0);
            }
            model.data[at..at + len].copy_from_slice(&data);
        }
        6 | 7 => {
            dnode.free_range(tx, at as u64, len as u64).unwrap();
            let end = model.data.len().min(at + len);
            if at < end {
                model.data[at..end].fill(0);
            }
        }
        8 => {
            dnode.free_range(tx, at as u64, u64::MAX).unwrap();
            model.data.truncate(at);
        }
        _ => {
            model.bonus = vec![random.below(256) as u8; 1 + random.below(300) as usize];
            dnode.set_bonus(tx, ObjectType::SA, &model.bonus).unwrap();
        }
    }
}

fn compare(os: &Arc<Objset>, models: &BTreeMap<u64, Model>) {
    for (&object, model) in models {
        let dnode = os.hold(object).unwrap();
        assert!(read_all(&dnode, model.data.len()) == model.data, "object {object} differs");
        assert_eq!(dnode.bonus(), model.bonus);
        let end = (dnode.info().maxblkid + 1) * u64::from(dnode.block_size());
        let mut rest = vec![1; (end as usize).saturating_sub(model.data.len())];
        let n = dnode.read(model.data.len() as u64, &mut rest).unwrap();
        assert!(rest[..n].iter().all(|&b| b == 0), "object {object}: not zeros behind its end");
        // What is no hole lies in data.
        let mut at = 0;
        while let Some(hole) = dnode.next_offset(true, at).unwrap() {
            let next = dnode.next_offset(false, hole).unwrap().unwrap_or(end);
            let to = model.data.len().min(next as usize);
            let from = to.min(hole as usize);
            assert!(model.data[from..to].iter().all(|&b| b == 0), "object {object}: data in a hole");
            at = next;
        }
    }
}

#[test]
fn random_changes_match_the_model() {
    for seed in 0..6 {
        println!("seed {seed}");
        let random = Seeded::new(seed);
        let pool = TestPool::new(256 << 20);
        let mut os = objset(&pool);
        let mut models: BTreeMap<u64, Model> = BTreeMap::new();
        for round in 0..25 {
            for _ in 0..random.below(40) {
                let tx = pool.txgs.begin(0).unwrap();
                match random.below(10) {
                    0 => {
                        let size = 512 << random.below(6);
                        let shift = 12 + random.below(6) as u8;
                        let what =
                            Allocate { indirect_shift: shift, slots: 1 << random.below(3), ..file(size) };
                        let dnode = os.allocate(&tx, &what).unwrap();
                        models.insert(dnode.object(), Model { data: vec![], bonus: vec![0; 168] });
                    }
                    1 if models.len() > 3 => {
                        let object = *models.keys().nth(random.below(models.len() as u64) as usize).unwrap();
                        os.free(&tx, object).unwrap();
                        models.remove(&object);
                    }
                    _ if !models.is_empty() => {
                        let i = random.below(models.len() as u64) as usize;
                        let (&object, model) = models.iter_mut().nth(i).unwrap();
                        let dnode = os.hold(object).unwrap();
                        change(&tx, &random, &dnode, model, 300_000);
                    }
                    _ => {}
                }
            }
            compare(&os, &models);
            pool.sync();
            compare(&os, &models);
            if round % 5 == 4 {
                pool.check(&[&os]);
                compare(&reopen(&pool, &os), &models);
            }
            if round % 10 == 9 {
                // As after an import: nothing of the objset is in memory.
                os = Objset::open(Arc::clone(&pool.zio), Arc::clone(&pool.txgs), os.id(), os.root()).unwrap();
            }
        }
    }
}

#[test]
fn readers_and_writers_go_on_while_txgs_sync() {
    let pool = TestPool::with_limits(256 << 20, Limits { dirty_max: 256 << 10, timeout_ns: None });
    let os = objset(&pool);
    let tx = pool.txgs.begin(0).unwrap();
    let dnodes: Vec<_> = (0..4).map(|_| os.allocate(&tx, &file(4096)).unwrap()).collect();
    drop(tx);
    let stop = core::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let syncer = scope.spawn(|| {
            while !stop.load(core::sync::atomic::Ordering::SeqCst) {
                pool.sync()
            }
        });
        let workers: Vec<_> = dnodes
            .iter()
            .enumerate()
            .map(|(i, dnode)| {
                let pool = &pool;
                scope.spawn(move || {
                    let random = Seeded::new(i as u64);
                    let mut model = Model { data: vec![], bonus: vec![0; 168] };
                    for _ in 0..400 {
                        let tx = pool.txgs.begin(0).unwrap();
                        change(&tx, &random, dnode, &mut model, 100_000);
                        drop(tx);
                        assert!(read_all(dnode, model.data.len()) == model.data);
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, core::sync::atomic::Ordering::SeqCst);
        syncer.join().unwrap();
        results.into_iter().for_each(|r| r.unwrap());
    });
    pool.sync();
    pool.check(&[&os]);
}

#[test]
fn a_hundred_thousand_small_objects() {
    let pool = TestPool::with_limits(512 << 20, Limits { dirty_max: 32 << 20, timeout_ns: None });
    let os = objset(&pool);
    let done = core::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(core::sync::atomic::Ordering::SeqCst) {
                pool.sync();
            }
        });
        for i in 0..100_000u64 {
            let tx = pool.txgs.begin(0).unwrap();
            let dnode = os.allocate(&tx, &file(512)).unwrap();
            assert_eq!(dnode.object(), i + 1);
            dnode.write(&tx, 0, &i.to_le_bytes()).unwrap();
        }
        done.store(true, core::sync::atomic::Ordering::SeqCst);
    });
    pool.sync();
    let back = reopen(&pool, &os);
    assert_eq!(back.object_count(), 100_000);
    let mut at = 0;
    let mut found = 0;
    while let Some(object) = back.next_object(at, false).unwrap() {
        at = object;
        found += 1;
        if object % 97 == 0 {
            let mut word = [0; 8];
            back.hold(object).unwrap().read(0, &mut word).unwrap();
            assert_eq!(u64::from_le_bytes(word), object - 1);
        }
    }
    assert_eq!(found, 100_000);
    // After an import, new numbers go on where the objset is not full.
    let tx = pool.txgs.begin(0).unwrap();
    assert!(back.allocate(&tx, &file(512)).unwrap().object() > 98_304);
}

#[test]
fn placed_blocks_are_taken_over_unless_they_changed() {
    let pool = TestPool::new(64 << 20);
    let os = objset(&pool);
    let tx = pool.txgs.begin(0).unwrap();
    let dnode = os.allocate(&tx, &file(4096)).unwrap();
    dnode.write(&tx, 0, &[1; 4 * 4096]).unwrap();
    let first = dnode.place_blocks(&tx, &*pool.space, 0..=3).unwrap().unwrap();
    // Asked again, what did not change is where it was.
    dnode.write(&tx, 4096, &[2; 10]).unwrap();
    let second = dnode.place_blocks(&tx, &*pool.space, 0..=2).unwrap().unwrap();
    assert!(first[0] == second[0] && first[1] != second[1] && first[2] == second[2]);
    dnode.write(&tx, 2 * 4096, &[3; 10]).unwrap();
    dnode.free_range(&tx, 3 * 4096, 4096).unwrap();
    assert!(
        dnode.place_blocks(&tx, &*pool.space, 3..=3).unwrap().is_none(),
        "there is no such block any more"
    );
    drop(tx);
    pool.sync();
    assert_eq!(dnode.block_pointer(0, 0).unwrap(), first[0]);
    assert_eq!(dnode.block_pointer(0, 1).unwrap(), second[1]);
    assert_ne!(dnode.block_pointer(0, 2).unwrap(), first[2]);
    let mut wanted = vec![1; 3 * 4096];
    wanted[4096..4106].fill(2);
    wanted[8192..8202].fill(3);
    assert_eq!(read_all(&dnode, 4096 * 3), wanted);
    // Nothing of this txg: the log has to hold the data itself.
    let tx = pool.txgs.begin(0).unwrap();
    assert!(dnode.place_blocks(&tx, &*pool.space, 0..=0).unwrap().is_none());
    os.free(&tx, dnode.object()).unwrap();
    drop(tx);
    pool.sync();
}

#[test]
fn primarycache_says_what_enters_the_cache() {
    use crate::arc::PrimaryCache;
    let pool = TestPool::new(64 << 20);
    let os = objset(&pool);
    let mut data = vec![0; 40 * 4096];
    Seeded::new(3).fill(&mut data);
    let tx = pool.txgs.begin(0).unwrap();
    let object = os.allocate(&tx, &file(4096)).unwrap().object();
    os.hold(object).unwrap().write(&tx, 0, &data).unwrap();
    drop(tx);
    pool.sync();
    for (what, keeps_data, keeps_metadata) in [
        (PrimaryCache::All, true, true),
        (PrimaryCache::Metadata, false, true),
        (PrimaryCache::None, false, false),
    ] {
        let back = reopen(&pool, &os);
        back.set_primary_cache(what);
        let dnode = back.hold(object).unwrap();
        let mut found = vec![0; 3 * 4096];
        assert_eq!(dnode.read(0, &mut found).unwrap(), found.len());
        assert_eq!(found, data[..found.len()]);
        let cached = |bp| back.zio().cached(&bp, Bookmark::default()).is_some();
        assert_eq!(cached(dnode.block_pointer(0, 1).unwrap()), keeps_data, "{what:?}");
        assert_eq!(cached(dnode.block_pointer(1, 0).unwrap()), keeps_metadata, "{what:?}");
        assert_eq!(cached(back.meta_dnode().block_pointer(0, 0).unwrap()), keeps_metadata, "{what:?}");
    }
    // What is written does not enter it either.
    os.set_primary_cache(PrimaryCache::Metadata);
    let tx = pool.txgs.begin(0).unwrap();
    let dnode = os.hold(object).unwrap();
    dnode.write(&tx, 0, &data).unwrap();
    drop(tx);
    pool.sync();
    let cached =
        |level| pool.zio.cached(&dnode.block_pointer(level, 0).unwrap(), Bookmark::default()).is_some();
    assert_eq!((cached(0), cached(1)), (false, true));
}

#[test]
fn a_change_in_an_older_txg_is_not_lost_behind_a_newer_one() {
    let pool = TestPool::new(64 << 20);
    let os = objset(&pool);
    let tx = pool.txgs.begin(0).unwrap();
    let dnode = os.allocate(&tx, &file(4096)).unwrap();
    dnode.write(&tx, 0, &[1; 4096]).unwrap();
    drop(tx);
    pool.sync();
    pool.with_two_txgs(|older, newer| {
        dnode.write(newer, 0, &[2; 100]).unwrap();
        dnode.set_bonus(newer, ObjectType::SA, &[2; 100]).unwrap();
        dnode.write(older, 200, &[3; 100]).unwrap();
        dnode.write(older, 5 * 4096, &[4; 100]).unwrap();
        dnode.set_bonus(older, ObjectType::SA, &[3; 100]).unwrap();
    });
    let mut wanted = vec![0; 6 * 4096];
    wanted[..4096].fill(1);
    wanted[..100].fill(2);
    wanted[200..300].fill(3);
    wanted[5 * 4096..5 * 4096 + 100].fill(4);
    assert!(read_all(&dnode, wanted.len()) == wanted);
    let back = reopen(&pool, &os).hold(dnode.object()).unwrap();
    assert!(read_all(&back, wanted.len()) == wanted);
    assert_eq!(back.bonus()[..], [3; 100]);
    pool.check(&[&os]);
}
