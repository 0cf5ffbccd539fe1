//! Volumes that are written to, cut off, resized and copied; and OpenZFS's log of one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::BlockDevice;
use platform::host::FileDisk;
use platform::random::Random;
use std::sync::Arc;
use tests::rig::Rig;
use tests::{fixtures, manifest, model};
use zfs::Error;
use zfs::dsl::{CreateFs, Kind};
use zfs::spa::{ImportOptions, Pool};
use zfs::zpl::Durability;
use zfs::zvol::{self, OpenZvol, Zvol};

const SIZE: u64 = 8 << 20;

fn create(pool: &Arc<Pool>, name: &str, block_size: u32, properties: &[(&str, &str)]) {
    let init = Box::new(move |os: &_, tx: &_| zvol::init(os, tx, SIZE, block_size));
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut properties: Vec<_> = properties.iter().map(own).collect();
    properties.push(("volblocksize".to_owned(), block_size.to_string()));
    pool.dsl()
        .create_dataset(name, CreateFs { kind: Kind::Volume, properties, init, parents: None })
        .unwrap();
}

fn open(pool: &Arc<Pool>, name: &str) -> Arc<OpenZvol> {
    OpenZvol::open(pool, pool.dsl().lookup(name).unwrap()).unwrap()
}

fn content(volume: &Zvol) -> Vec<u8> {
    let mut data = vec![0; volume.size() as usize];
    assert_eq!(volume.read(0, &mut data).unwrap(), data.len());
    data
}

/// Random writes and discards on a volume and on bytes in memory.
fn scribble(rig: &Rig, volume: &OpenZvol, model: &mut [u8], count: usize) {
    for _ in 0..count {
        let at = rig.random.next_u64() % model.len() as u64;
        let most = [512, 4096, 40_000, 200_000][(rig.random.next_u64() % 4) as usize];
        let len = (1 + rig.random.next_u64() % most).min(model.len() as u64 - at);
        let range = at as usize..(at + len) as usize;
        if rig.random.next_u64().is_multiple_of(4) {
            volume.discard(at, len).unwrap();
            model[range].fill(0);
        } else {
            let data = rig.noise(len as usize);
            volume.write(at, &data, Durability::Later).unwrap();
            model[range].copy_from_slice(&data);
        }
    }
}

#[test]
fn what_was_flushed_survives_and_snapshots_stay() {
    let (rig, mut pool) = Rig::with_pool(41).unwrap();
    let volumes = [
        ("t/v512", 512, &[("compression", "off")][..]),
        ("t/v8k", 8192, &[("logbias", "throughput")]),
        ("t/v64k", 64 << 10, &[("sync", "always")]),
        ("t/v128k", 128 << 10, &[]),
    ];
    for (name, block_size, properties) in volumes {
        create(&pool, name, block_size, properties);
        let volume = open(&pool, name);
        assert_eq!((volume.size(), volume.block_size()), (SIZE, block_size));
        let second = OpenZvol::open(&pool, pool.dsl().lookup(name).unwrap());
        assert_eq!(second.err(), Some(Error::Busy));
        assert_eq!(volume.write(SIZE - 1, &[1; 2], Durability::Later), Err(Error::TooBig));
        let mut model = vec![0; SIZE as usize];
        scribble(&rig, &volume, &mut model, 20);
        volume.flush().unwrap();
        pool.dsl().create_snapshots(&[&format!("{name}@s")]).unwrap();
        let snapshot = model.clone();
        for _ in 0..4 {
            scribble(&rig, &volume, &mut model, 5);
            volume.flush().unwrap();
        }
        assert!(content(&volume) == model, "{name}");
        // The power is cut; the log is all that tells of the last writes.
        drop(volume);
        drop(pool);
        pool = rig.import(ImportOptions { force: true, ..ImportOptions::default() }).unwrap();
        let volume = open(&pool, name);
        assert!(content(&volume) == model, "{name}: after replay");
        let before = Zvol::open(pool.dsl().lookup(&format!("{name}@s")).unwrap().objset().unwrap()).unwrap();
        assert!(content(&before) == snapshot, "{name}: the snapshot");
        scribble(&rig, &volume, &mut model, 3);
        volume.close().unwrap();
        assert_eq!(volume.write(0, &[1], Durability::Later), Err(Error::ReadOnly));
        assert!(content(&Zvol::open(pool.dsl().lookup(name).unwrap().objset().unwrap()).unwrap()) == model);
        let report = pool.verify(&mut |_| ()).unwrap();
        assert!(report.is_clean(), "{name}: {report:?}");
    }
    rig.close(pool).unwrap();
}

#[test]
fn an_open_volume_follows_its_size_and_its_properties() {
    let (rig, pool) = Rig::with_pool(42).unwrap();
    create(&pool, "t/v", 16 << 10, &[]);
    let volume = open(&pool, "t/v");
    volume.write(SIZE - 4096, &[7; 4096], Durability::Now).unwrap();
    pool.dsl().set_properties("t/v", &[("volsize", "16M")]).unwrap();
    assert_eq!(volume.size(), 2 * SIZE);
    volume.write(2 * SIZE - 512, &[8; 512], Durability::Now).unwrap();
    pool.dsl().set_properties("t/v", &[("volsize", "4M")]).unwrap();
    assert_eq!(
        (volume.size(), volume.write(SIZE / 2, &[1], Durability::Later)),
        (SIZE / 2, Err(Error::TooBig))
    );
    pool.dsl().set_properties("t/v", &[("volsize", "8M")]).unwrap();
    assert!(content(&volume).iter().all(|&b| b == 0), "what was cut off does not come back");
    pool.dsl().set_properties("t/v", &[("readonly", "on")]).unwrap();
    assert_eq!(volume.write(0, &[1], Durability::Later), Err(Error::ReadOnly));
    volume.close().unwrap();
    rig.close(pool).unwrap();
}

#[test]
fn a_log_of_openzfs_is_replayed() {
    let name = "k-zil-noslog";
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk0.img");
    fixtures::write_image(name, 0, &image).unwrap();
    let pool =
        model::import_pool(vec![Arc::new(FileDisk::open(&image, true).unwrap()) as Arc<dyn BlockDevice>]);
    let mut volumes = 0;
    for line in fixtures::text(name, ".after-replay.zvols.txt").unwrap().lines() {
        let (dataset, rest) = line.split_once(' ').unwrap();
        let sum = rest.split_whitespace().find(|w| w.len() == 64).unwrap();
        let volume = open(&pool, dataset);
        let read = |at: u64, buf: &mut [u8]| assert_eq!(volume.read(at, buf).unwrap(), buf.len());
        assert_eq!(manifest::whole_hash(volume.size(), read), sum, "{dataset}");
        volume.close().unwrap();
        volumes += 1;
    }
    assert!(volumes > 0);
    pool.export().unwrap();
}
