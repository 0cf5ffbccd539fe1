//! Whole pools in memory.

use super::*;
use crate::dmu::{Allocate, Objset};
use crate::dsl::{CreateFs, Kind, Slop};
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::Env;
use platform::block::BlockDevice;
use platform::clock::{FixedClock, Timespec};
use platform::mem::MemDisk;
use platform::random::Seeded;

const SIZE: usize = 256 << 20;

fn env(seed: u64) -> Env {
    let now = Timespec { sec: 1_700_000_000, nsec: 0 };
    Env { clock: Arc::new(FixedClock(now)), random: Arc::new(Seeded::new(seed)) }
}

fn devices(disk: &Arc<MemDisk>) -> Vec<Arc<dyn BlockDevice>> {
    let disk: Arc<dyn BlockDevice> = Arc::<MemDisk>::clone(disk);
    [disk].into()
}

fn options() -> CreateOptions {
    CreateOptions::new("tp", Box::new(|_, _| Ok(())))
}

fn created(size: usize) -> (Arc<MemDisk>, Arc<Pool>) {
    let disk = Arc::new(MemDisk::new(size));
    let pool = Pool::create(devices(&disk), env(1), options()).unwrap();
    (disk, pool)
}

fn imported(disk: &Arc<MemDisk>) -> Arc<Pool> {
    Pool::import(devices(disk), env(2), ImportOptions { force: true, ..ImportOptions::default() }).unwrap()
}

fn assert_clean(pool: &Pool) {
    let report = pool.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.allocated, pool.space().allocated);
}

fn root(pool: &Pool) -> Arc<Objset> {
    pool.dsl().root().unwrap().objset().unwrap()
}

/// Writes blocks of noise that does not compress into a new object; its number.
fn write_object(pool: &Pool, seed: u64, blocks: u64) -> Result<u64> {
    const BLOCK: u32 = 128 << 10;
    let objset = root(pool);
    let tx = pool.txgs().begin(u64::from(BLOCK))?;
    let dnode = objset.allocate(&tx, &Allocate::plain(ObjectType::PLAIN_OTHER, BLOCK))?;
    drop(tx);
    let mut noise = alloc::vec![0; BLOCK as usize];
    let random = Seeded::new(seed);
    for block in 0..blocks {
        platform::random::Random::fill(&random, &mut noise);
        let tx = pool.txgs().begin(u64::from(BLOCK))?;
        dnode.write(&tx, block * u64::from(BLOCK), &noise)?;
    }
    Ok(dnode.object())
}

#[test]
fn a_new_pool_is_clean_and_comes_back() {
    let (disk, pool) = created(SIZE);
    assert_clean(&pool);
    let (guid, allocated) = (pool.guid(), pool.space().allocated);
    assert!(allocated > 0 && pool.space().size > (SIZE as u64) * 9 / 10);
    pool.export().unwrap();
    drop(pool);
    let pool = imported(&disk);
    assert_eq!((pool.name().as_str(), pool.guid()), ("tp", guid));
    assert_clean(&pool);
    assert_eq!(pool.history().unwrap()[0].command.as_deref(), Some("zpool create tp"));
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let images: Vec<Vec<u8>> = (0..2)
        .map(|_| {
            let (disk, pool) = created(64 << 20);
            write_object(&pool, 3, 20).unwrap();
            pool.export().unwrap();
            disk.contents()
        })
        .collect();
    assert!(images[0] == images[1]);
}

#[test]
fn data_and_frees_keep_the_space_maps_true() {
    let (disk, pool) = created(SIZE);
    let mut objects = Vec::new();
    for round in 0..12 {
        objects.push(write_object(&pool, round, 40).unwrap());
        if round % 3 == 2 {
            let object = objects.remove(0);
            let tx = pool.txgs().begin_net_free(0).unwrap();
            root(&pool).free(&tx, object).unwrap();
        }
        pool.sync().unwrap();
        if round % 4 == 0 {
            assert_clean(&pool);
        }
    }
    assert_clean(&pool);
    drop(pool);
    // Not exported: as after a power cut.
    let pool = imported(&disk);
    assert_clean(&pool);
    for object in objects {
        assert!(root(&pool).hold(object).is_ok());
    }
}

#[test]
fn a_full_pool_says_so_and_recovers() {
    let (disk, pool) = created(96 << 20);
    let mut objects = Vec::new();
    let error = loop {
        match write_object(&pool, objects.len() as u64, 8) {
            Ok(object) => objects.push(object),
            Err(error) => break error,
        }
        assert!(objects.len() < 200);
    };
    assert_eq!(error, Error::NoSpace);
    pool.sync().unwrap();
    assert_clean(&pool);
    for object in objects.drain(..).skip(2) {
        let tx = pool.txgs().begin_net_free(0).unwrap();
        root(&pool).free(&tx, object).unwrap();
    }
    pool.sync().unwrap();
    write_object(&pool, 99, 8).unwrap();
    pool.export().unwrap();
    assert_clean(&imported(&disk));
}

/// Each block of 512 bytes takes a whole sector of 4 KiB on disk.
#[test]
fn tiny_blocks_fill_a_pool_without_breaking_it() {
    let (disk, pool) = created(80 << 20);
    let objset = root(&pool);
    let random = Seeded::new(4);
    let mut noise = [0; 512];
    let fill = |count: &mut u64, noise: &mut [u8; 512]| -> Result<()> {
        loop {
            platform::random::Random::fill(&random, noise);
            let tx = pool.txgs().begin(4096)?;
            objset.allocate(&tx, &Allocate::plain(ObjectType::PLAIN_OTHER, 512))?.write(&tx, 0, noise)?;
            *count += 1;
        }
    };
    let mut count = 0;
    assert_eq!(fill(&mut count, &mut noise), Err(Error::NoSpace));
    assert!(count > 5000, "{count} objects");
    pool.sync().unwrap();
    assert_clean(&pool);
    drop((objset, pool));
    assert_clean(&imported(&disk));
}

#[test]
fn properties_are_kept() {
    let (disk, pool) = created(64 << 20);
    let o = CreateFs {
        kind: Kind::Filesystem,
        properties: Vec::new(),
        init: Box::new(|_, _| Ok(())),
        parents: None,
    };
    pool.dsl().create_dataset("tp/root", o).unwrap();
    pool.set_property("bootfs", "tp/root").unwrap();
    pool.set_property("comment", "a comment").unwrap();
    pool.set_property("failmode", "panic").unwrap();
    assert_eq!(pool.set_property("bootfs", "tp/none"), Err(Error::NotFound));
    assert!(pool.set_property("size", "1").is_err() && pool.set_property("failmode", "x").is_err());
    pool.log_history("zpool set …").unwrap();
    pool.export().unwrap();
    let pool = imported(&disk);
    assert_eq!(pool.get_property("bootfs").unwrap(), ("tp/root".to_string(), "local"));
    assert_eq!(pool.get_property("comment").unwrap(), ("a comment".to_string(), "local"));
    assert_eq!(pool.get_property("failmode").unwrap(), ("panic".to_string(), "local"));
    assert_eq!(pool.get_property("autoexpand").unwrap(), ("off".to_string(), "default"));
    assert!(pool.history().unwrap().iter().any(|r| r.command.as_deref() == Some("zpool set …")));
    assert_eq!(pool.history().unwrap()[0].command.as_deref(), Some("zpool create tp"));
}

#[test]
fn a_pool_in_use_elsewhere_is_not_imported_by_accident() {
    let (disk, pool) = created(64 << 20);
    drop(pool);
    let options = ImportOptions { host_id: 7, ..ImportOptions::default() };
    let refused = Pool::import(devices(&disk), env(2), options.clone()).err();
    assert_eq!(refused, Some(Error::InUse { host: "tarn".to_string() }));
    assert!(Pool::import(devices(&disk), env(2), ImportOptions { force: true, ..options }).is_ok());
    let nothing = Arc::new(MemDisk::new(64 << 20));
    let refused = Pool::import(devices(&nothing), env(2), ImportOptions::default()).err();
    assert_eq!(refused, Some(Error::NoPool));
}

#[test]
fn reading_changes_nothing() {
    let (disk, pool) = created(64 << 20);
    pool.export().unwrap();
    let before = disk.contents();
    let pool = Pool::import(devices(&disk), env(2), ImportOptions::read_only()).unwrap();
    assert_clean(&pool);
    assert_eq!(pool.set_property("comment", "x"), Err(Error::ReadOnly));
    assert_eq!(pool.txgs().begin(0).err(), Some(Error::ReadOnly));
    pool.export().unwrap();
    let pool = imported(&disk);
    assert_clean(&pool);
    pool.export().unwrap();
    assert!(disk.contents() == before);
}

#[test]
fn a_damaged_block_is_found_and_named() {
    let (disk, pool) = created(SIZE);
    let object = write_object(&pool, 5, 4).unwrap();
    pool.sync().unwrap();
    let dnode = root(&pool).hold(object).unwrap();
    let block = dnode.read_block(2).unwrap();
    disk.damage(|bytes| {
        let at = bytes.windows(64).position(|w| *w == block[..64]).unwrap();
        bytes[at + 7] ^= 1;
    });
    let report = pool.verify(&mut |_| ()).unwrap();
    assert_eq!(report.damaged.len(), 1, "{report:#?}");
    assert_eq!((report.damaged[0].dataset.as_str(), report.damaged[0].object), ("tp", object));
    assert_eq!((report.damaged[0].blocks.len(), report.damaged[0].blocks[0].blkid), (1, 2));
    assert_eq!((report.leaked, report.unallocated), (0, 0));
    let scrub = pool.scrub(&mut |_| super::ScanControl::Continue).unwrap();
    assert_eq!((scrub.status.errors, scrub.damaged), (1, report.damaged));
    assert_eq!(pool.errors().unwrap().len(), 1);
}

#[test]
fn a_failed_task_changes_nothing() {
    let (_, pool) = created(64 << 20);
    let txg = pool.last_synced_txg();
    let failed: Result<()> = pool.sync_task(Slop::Normal, |_| Err(Error::Busy));
    assert_eq!(failed, Err(Error::Busy));
    assert_eq!(pool.last_synced_txg(), txg);
    assert_eq!(pool.sync_task(Slop::Normal, move |tx| Ok(tx.txg() > txg)), Ok(true));
}
