//! Blocks that are shared by clones: the tables of references, what frees them, the intent log, and what verification says of them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::BlockDevice;
use platform::mem::MemDisk;
use std::sync::Arc;
use tests::{fixtures, model};
use zfs::Error;
use zfs::dsl::{CreateFs, Kind};
use zfs::ondisk::brt::{FEATURE, FEATURE_ENDIAN, name_of};
use zfs::ondisk::zil::Record;
use zfs::spa::{CreateOptions, FeatureState, ImportOptions, Pool, Rewind};
use zfs::zap;
use zfs::zil::{Log, Payload};
use zfs::zpl::{Durability, FileKind, Filesystem, MountOptions, New};
use zfs::zvol::{self, OpenZvol};

const SIZE: usize = 128 << 20;
/// Block size of most files here.
const BLOCK: u64 = 16 << 10;

fn create_with(features: &[&str]) -> (Arc<MemDisk>, Arc<Pool>) {
    let disk = Arc::new(MemDisk::new(SIZE));
    let device = Arc::<MemDisk>::clone(&disk) as Arc<dyn BlockDevice>;
    let env = model::env();
    let now = env.clock.now();
    let init =
        Box::new(move |os: &Arc<zfs::dmu::Objset>, tx: &zfs::dmu::Tx| zfs::zpl::init(os, tx, &[], now));
    let mut options = CreateOptions::new("c", init);
    options.properties = features.iter().map(|f| (format!("feature@{f}"), "enabled".to_owned())).collect();
    options.root_properties = [("recordsize", "16384"), ("compression", "off")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    (disk, Pool::create(vec![device], env, options).unwrap())
}

fn create() -> (Arc<MemDisk>, Arc<Pool>) {
    create_with(&["block_cloning"])
}

fn import(disk: &Arc<MemDisk>, options: ImportOptions) -> zfs::Result<Arc<Pool>> {
    let device = Arc::<MemDisk>::clone(disk) as Arc<dyn BlockDevice>;
    Pool::import(vec![device], model::env(), ImportOptions { force: true, ..options })
}

fn mount(pool: &Arc<Pool>, name: &str) -> Arc<Filesystem> {
    let dataset = pool.dsl().lookup(name).unwrap();
    Filesystem::mount(pool, dataset, MountOptions { read_only: false, no_atime: true }).unwrap()
}

fn file(fs: &Filesystem, name: &str) -> u64 {
    fs.create(fs.root(), name.as_bytes(), &New::new(FileKind::Regular, 0o644)).unwrap()
}

fn write(fs: &Filesystem, name: &str, seed: u64, len: usize) -> (u64, Vec<u8>) {
    let (object, data) = (file(fs, name), tests::tree::noise(seed, len));
    fs.write(object, 0, &data, Durability::Later).unwrap();
    (object, data)
}

fn clone(fs: &Filesystem, to: (u64, u64), from: (u64, u64), len: u64) -> zfs::Result<u64> {
    fs.clone_range(to, fs, from, len, Durability::Later)
}

fn content(fs: &Filesystem, object: u64) -> Vec<u8> {
    let mut data = vec![0; fs.getattr(object).unwrap().size as usize];
    assert_eq!(fs.read(object, 0, &mut data), Ok(data.len()));
    data
}

fn clean(pool: &Pool) {
    let report = pool.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

/// Bytes used and saved, and the ratio.
fn shared(pool: &Pool) -> (u64, u64, String) {
    pool.sync().unwrap();
    let get = |name: &str| pool.get_property(name).unwrap().0;
    (get("bcloneused").parse().unwrap(), get("bclonesaved").parse().unwrap(), get("bcloneratio"))
}

fn feature(pool: &Pool, guid: &str) -> FeatureState {
    let name = zfs::ondisk::features::by_guid(guid).unwrap().name;
    pool.features().iter().find(|(n, _)| n == name).map_or(FeatureState::Disabled, |(_, state)| *state)
}

/// Waits until what was freed can be used again.
fn settle(pool: &Pool) {
    (0..4).for_each(|_| pool.sync().unwrap());
}

#[test]
fn a_clone_shares_its_blocks_until_the_last_of_them_is_freed() {
    for (features, int_size) in [(&["block_cloning"][..], 1), (&["block_cloning", "block_cloning_endian"], 8)]
    {
        let (disk, pool) = create_with(features);
        let fs = mount(&pool, "c");
        let (a, data) = write(&fs, "a", 1, 10 * BLOCK as usize + 5000);
        pool.sync().unwrap();
        let before = pool.space().allocated;
        assert_eq!((shared(&pool), feature(&pool, FEATURE)), ((0, 0, "1.00".into()), FeatureState::Enabled));
        let (b, c) = (file(&fs, "b"), file(&fs, "c"));
        assert_eq!(clone(&fs, (b, 0), (a, 0), u64::MAX), Ok(data.len() as u64));
        assert_eq!(clone(&fs, (c, 4 * BLOCK), (a, 2 * BLOCK), 3 * BLOCK), Ok(3 * BLOCK));
        let want_c =
            [&vec![0; 4 * BLOCK as usize][..], &data[2 * BLOCK as usize..5 * BLOCK as usize]].concat();
        assert!(content(&fs, b) == data && content(&fs, c) == want_c);
        // Eleven blocks, three of them referred to three times.
        assert_eq!(shared(&pool), (11 * BLOCK, 14 * BLOCK, "2.27".into()));
        assert!(content(&fs, b) == data && content(&fs, c) == want_c);
        assert!(pool.space().allocated < before + 300_000, "the data is there once");
        let (used, _) = pool.dsl().root().unwrap().space().unwrap();
        assert!(used >= 25 * BLOCK, "the dataset pays for each reference: {used}");
        clean(&pool);
        assert_eq!(feature(&pool, FEATURE), FeatureState::Active);
        let endian = if int_size == 8 { FeatureState::Active } else { FeatureState::Disabled };
        assert_eq!(feature(&pool, FEATURE_ENDIAN), endian);
        // As another implementation finds it.
        let directory = pool.mos().hold(1).unwrap();
        let head = pool.mos().hold(zap::lookup_u64(&directory, name_of(0).as_str()).unwrap()).unwrap();
        let words: Vec<u64> =
            head.bonus().as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).collect();
        assert_eq!((words[2], words[3], words[4]), (0, 11, 16 << 20));
        assert_eq!((words[5], words[6], head.block_size()), (11 * BLOCK, 14 * BLOCK, 32 << 10));
        let entries = zap::entries(&pool.mos().hold(words[0]).unwrap()).unwrap();
        let mut counts: Vec<(u8, u64)> =
            entries.iter().map(|e| (e.value.int_size, e.value.first())).collect();
        counts.sort_unstable();
        assert_eq!(counts, [vec![(int_size, 1); 8], vec![(int_size, 2); 3]].concat());
        // Another import finds the same, and frees: by overwriting, cutting short and removing.
        fs.unmount().unwrap();
        pool.export().unwrap();
        let pool = import(&disk, ImportOptions::default()).unwrap();
        let fs = mount(&pool, "c");
        assert_eq!(shared(&pool), (11 * BLOCK, 14 * BLOCK, "2.27".into()));
        fs.write(a, 2 * BLOCK + 7, b"something else", Durability::Later).unwrap();
        fs.truncate(b, 4 * BLOCK).unwrap();
        assert_eq!(shared(&pool), (4 * BLOCK + BLOCK, 6 * BLOCK, "2.20".into()));
        clean(&pool);
        fs.unlink(fs.root(), b"a").unwrap();
        clean(&pool);
        assert!(content(&fs, b) == data[..4 * BLOCK as usize] && content(&fs, c) == want_c);
        assert_eq!(shared(&pool), (2 * BLOCK, 2 * BLOCK, "2.00".into()));
        fs.unlink(fs.root(), b"c").unwrap();
        // The last entry is gone, and with it the table.
        assert_eq!((shared(&pool), feature(&pool, FEATURE)), ((0, 0, "1.00".into()), FeatureState::Enabled));
        let directory = pool.mos().hold(1).unwrap();
        assert_eq!(zap::lookup_u64(&directory, name_of(0).as_str()), Err(Error::NotFound));
        assert!(content(&fs, b) == data[..4 * BLOCK as usize]);
        fs.unlink(fs.root(), b"b").unwrap();
        clean(&pool);
        settle(&pool);
        assert!(pool.space().allocated < before, "{} is left of {before}", pool.space().allocated);
    }
}

#[test]
fn what_comes_after_a_clone_in_the_same_txg_takes_its_references_back() {
    let (_disk, pool) = create();
    let fs = mount(&pool, "c");
    let (a, data) = write(&fs, "a", 2, 8 * BLOCK as usize);
    pool.sync().unwrap();
    let b = file(&fs, "b");
    clone(&fs, (b, 0), (a, 0), 8 * BLOCK).unwrap();
    fs.write(b, BLOCK, &vec![9; BLOCK as usize], Durability::Later).unwrap();
    fs.write(b, 3 * BLOCK + 50, b"part of a block", Durability::Later).unwrap();
    fs.punch_hole(b, 5 * BLOCK, BLOCK).unwrap();
    // A clone of what is a clone itself, not on disk yet.
    let c = file(&fs, "c");
    assert_eq!(clone(&fs, (c, 0), (b, 6 * BLOCK), 2 * BLOCK), Ok(2 * BLOCK));
    let gone = file(&fs, "gone");
    clone(&fs, (gone, 0), (a, 0), 8 * BLOCK).unwrap();
    fs.unlink(fs.root(), b"gone").unwrap();
    let mut want = data.clone();
    want[BLOCK as usize..2 * BLOCK as usize].fill(9);
    want[3 * BLOCK as usize + 50..][..15].copy_from_slice(b"part of a block");
    want[5 * BLOCK as usize..6 * BLOCK as usize].fill(0);
    for _ in 0..2 {
        assert!(content(&fs, b) == want && content(&fs, c) == want[6 * BLOCK as usize..]);
        // Five blocks of the first clone, two of them once more.
        assert_eq!(shared(&pool), (5 * BLOCK, 7 * BLOCK, "2.40".into()));
        clean(&pool);
    }
    assert!(content(&fs, a) == data);
}

#[test]
fn what_is_not_on_disk_yet_is_waited_for() {
    let (_disk, pool) = create();
    let fs = mount(&pool, "c");
    let (a, data) = write(&fs, "a", 3, 3 * BLOCK as usize + 1);
    let txg = pool.txgs().open_txg();
    let b = file(&fs, "b");
    assert_eq!(clone(&fs, (b, 0), (a, 0), data.len() as u64), Ok(data.len() as u64));
    assert!(content(&fs, b) == data && pool.last_synced_txg() >= txg);
    assert_eq!(shared(&pool).0, 4 * BLOCK);
    clean(&pool);
}

#[test]
fn ranges_that_cannot_share_blocks_are_refused() {
    let (_disk, pool) = create();
    let fs = mount(&pool, "c");
    let (a, data) = write(&fs, "a", 4, 5 * BLOCK as usize + 100);
    let (small, _) = write(&fs, "small", 5, 1000);
    let (b, _) = write(&fs, "b", 6, 3 * BLOCK as usize);
    let dir = fs.create(fs.root(), b"dir", &New::new(FileKind::Directory, 0o755)).unwrap();
    pool.sync().unwrap();
    let ends = Err(Error::Invalid("a clone begins and ends where blocks do"));
    assert_eq!(clone(&fs, (b, 0), (a, 1), BLOCK), ends);
    assert_eq!(clone(&fs, (b, 1), (a, 0), BLOCK), ends);
    assert_eq!(clone(&fs, (b, 0), (a, 0), BLOCK + 1), ends);
    // The end of the source, but not of the target.
    assert_eq!(clone(&fs, (b, 0), (a, 5 * BLOCK), BLOCK), ends);
    let sizes = Err(Error::Invalid("files of different block sizes cannot share blocks"));
    assert_eq!(clone(&fs, (b, 0), (small, 0), 1000), sizes);
    let overlap = Err(Error::Invalid("a range cannot be cloned into itself"));
    assert_eq!(clone(&fs, (a, BLOCK), (a, 0), 2 * BLOCK), overlap);
    assert_eq!(clone(&fs, (dir, 0), (a, 0), BLOCK), Err(Error::IsDirectory));
    assert_eq!(clone(&fs, (b, 0), (dir, 0), BLOCK), Err(Error::IsDirectory));
    assert_eq!(clone(&fs, (b, i64::MAX as u64 / BLOCK * BLOCK), (a, 0), 2 * BLOCK), Err(Error::TooBig));
    let larger = Err(Error::Invalid("a file of several blocks should have larger ones"));
    let empty = file(&fs, "empty");
    assert_eq!(clone(&fs, (empty, 1024), (small, 0), 1000), larger);
    // Nothing of it left a trace.
    assert_eq!(shared(&pool), (0, 0, "1.00".into()));
    // Behind the end there is nothing; a small file can be cloned whole; a file into another place of itself.
    assert_eq!(clone(&fs, (b, 0), (a, 6 * BLOCK), BLOCK), Ok(0));
    assert_eq!(clone(&fs, (b, 0), (a, 0), 0), Ok(0));
    assert_eq!(clone(&fs, (empty, 0), (small, 0), 5000), Ok(1000));
    assert_eq!(clone(&fs, (a, 8 * BLOCK), (a, 0), 2 * BLOCK), Ok(2 * BLOCK));
    assert_eq!(clone(&fs, (b, 3 * BLOCK), (a, 3 * BLOCK), 2 * BLOCK), Ok(2 * BLOCK));
    assert_eq!(content(&fs, empty), content(&fs, small));
    let copied = content(&fs, a)[8 * BLOCK as usize..].to_vec();
    assert!(copied == data[..2 * BLOCK as usize]);
    clean(&pool);
}

#[test]
fn holes_and_embedded_blocks_are_copied_as_they_are() {
    let (_disk, pool) = create();
    let options = CreateFs {
        kind: Kind::Filesystem,
        properties: vec![("compression".into(), "lz4".into())],
        init: tests::rig::init(),
        parents: None,
    };
    pool.dsl().create_dataset("c/z", options).unwrap();
    let fs = mount(&pool, "c/z");
    let a = file(&fs, "a");
    fs.write(a, 0, &vec![1; BLOCK as usize], Durability::Later).unwrap();
    fs.write(a, 4 * BLOCK, &tests::tree::noise(1, BLOCK as usize), Durability::Later).unwrap();
    fs.truncate(a, 9 * BLOCK).unwrap();
    let (b, _) = write(&fs, "b", 7, 9 * BLOCK as usize);
    pool.sync().unwrap();
    assert_eq!(clone(&fs, (b, 0), (a, 0), 9 * BLOCK), Ok(9 * BLOCK));
    for _ in 0..2 {
        assert!(content(&fs, a) == content(&fs, b));
        assert_eq!(fs.next_hole(b, 0), Ok(Some(BLOCK)));
        assert_eq!(fs.next_data(b, BLOCK), Ok(Some(4 * BLOCK)));
        assert_eq!(fs.next_data(b, 5 * BLOCK), Ok(None));
        pool.sync().unwrap();
    }
    assert_eq!(shared(&pool).0, BLOCK);
    clean(&pool);
}

#[test]
fn snapshots_clones_and_destroyed_datasets_hold_and_give_back_references() {
    let (disk, pool) = create();
    let fs = mount(&pool, "c");
    let (_, data) = write(&fs, "a", 8, 20 * BLOCK as usize);
    pool.dsl().create_snapshots(&["c@one"]).unwrap();
    let before = pool.space().allocated;
    fs.unlink(fs.root(), b"a").unwrap();
    pool.sync().unwrap();
    // Out of a snapshot, into the file system and into another one.
    let options = |properties: &[(&str, &str)]| CreateFs {
        kind: Kind::Filesystem,
        properties: properties.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        init: tests::rig::init(),
        parents: None,
    };
    pool.dsl().create_dataset("c/other", options(&[])).unwrap();
    pool.dsl().create_dataset("c/sums", options(&[("checksum", "sha256")])).unwrap();
    let snapshot = model_mount(&pool, "c@one");
    let source = snapshot.lookup(snapshot.root(), b"a").unwrap();
    let (other, sums) = (mount(&pool, "c/other"), mount(&pool, "c/sums"));
    let (b, d, e) = (file(&fs, "b"), file(&other, "d"), file(&sums, "e"));
    for (fs, object) in [(&fs, b), (&other, d), (&sums, e)] {
        let done = fs.clone_range((object, 0), &snapshot, (source, 0), u64::MAX, Durability::Later);
        assert_eq!(done, Ok(20 * BLOCK));
    }
    // But between file systems whose properties differ the data must be copied.
    pool.sync().unwrap();
    let other_to_sums = sums.clone_range((e, 0), &other, (d, 0), u64::MAX, Durability::Later);
    assert_eq!(other_to_sums, Err(Error::CrossDataset));
    assert_eq!(shared(&pool), (20 * BLOCK, 60 * BLOCK, "4.00".into()));
    for (fs, object) in [(&fs, b), (&other, d), (&sums, e)] {
        assert!(content(fs, object) == data);
    }
    clean(&pool);
    // A clone of the dataset writes over half of it; its livelist, deadlists and snapshots come and go.
    pool.dsl().create_snapshots(&["c/other@two"]).unwrap();
    pool.dsl().clone_snapshot("c/other@two", "c/branch", &[]).unwrap();
    let branch = mount(&pool, "c/branch");
    branch.write(d, 0, &tests::tree::noise(9, 10 * BLOCK as usize), Durability::Later).unwrap();
    clone(&branch, (d, 20 * BLOCK), (d, 15 * BLOCK), 5 * BLOCK).unwrap();
    other.truncate(d, 5 * BLOCK).unwrap();
    clean(&pool);
    branch.unmount().unwrap();
    pool.dsl().destroy("c/branch", true, false).unwrap();
    clean(&pool);
    assert_eq!(shared(&pool), (20 * BLOCK, 60 * BLOCK, "4.00".into()));
    pool.dsl().destroy("c/other@two", false, false).unwrap();
    settle(&pool);
    assert_eq!(shared(&pool), (20 * BLOCK, 45 * BLOCK, "3.25".into()));
    drop(snapshot);
    pool.dsl().destroy("c@one", false, false).unwrap();
    settle(&pool);
    assert_eq!(shared(&pool), (20 * BLOCK, 25 * BLOCK, "2.25".into()));
    clean(&pool);
    sums.unmount().unwrap();
    pool.dsl().destroy("c/sums", true, false).unwrap();
    settle(&pool);
    assert_eq!(shared(&pool), (5 * BLOCK, 5 * BLOCK, "2.00".into()));
    other.unmount().unwrap();
    fs.unmount().unwrap();
    pool.export().unwrap();
    let pool = import(&disk, ImportOptions::default()).unwrap();
    pool.dsl().destroy("c/other", true, false).unwrap();
    settle(&pool);
    assert_eq!((shared(&pool), feature(&pool, FEATURE)), ((0, 0, "1.00".into()), FeatureState::Enabled));
    assert!(content(&mount(&pool, "c"), b) == data);
    clean(&pool);
    assert!(pool.space().allocated < before + 400_000);
}

fn model_mount(pool: &Arc<Pool>, name: &str) -> Arc<Filesystem> {
    tests::world::mount(pool, name, true).unwrap()
}

/// What was cloned and committed is there after a power cut, by the log alone; its references are those of the log until it is replayed,
/// or destroyed.
#[test]
fn the_intent_log_holds_clones() {
    let cut = || {
        let (disk, pool) = create();
        let fs = mount(&pool, "c");
        let options =
            CreateFs { kind: Kind::Filesystem, properties: vec![], init: tests::rig::init(), parents: None };
        pool.dsl().create_dataset("c/to", options).unwrap();
        let to = mount(&pool, "c/to");
        let (a, data) = write(&fs, "a", 10, 30 * BLOCK as usize + 77);
        let b = file(&to, "b");
        // The first commit of a log syncs: only the next ones write blocks.
        to.fsync(b).unwrap();
        pool.sync().unwrap();
        assert_eq!(to.clone_range((b, 0), &fs, (a, 0), 20 * BLOCK, Durability::Later), Ok(20 * BLOCK));
        let rest = to.clone_range((b, 20 * BLOCK), &fs, (a, 20 * BLOCK), u64::MAX, Durability::Later);
        assert_eq!(rest, Ok(10 * BLOCK + 77));
        to.write(b, 3, b"after it", Durability::Later).unwrap();
        to.fsync(b).unwrap();
        // What frees the source is in no log.
        fs.unlink(fs.root(), b"a").unwrap();
        drop((fs, to, pool));
        let mut want = data;
        want[3..11].copy_from_slice(b"after it");
        (disk, b, want)
    };
    let (disk, b, want) = cut();
    let read_only = import(&disk, ImportOptions { read_only: true, ..ImportOptions::default() }).unwrap();
    clean(&read_only);
    drop(read_only);
    for round in 0..2 {
        // Claimed: each block is referred to by the file and by the log.
        let pool = import(&disk, ImportOptions::default()).unwrap();
        assert_eq!(shared(&pool), (31 * BLOCK, 31 * BLOCK, "2.00".into()), "import {round}");
        clean(&pool);
        drop(pool);
    }
    let pool = import(&disk, ImportOptions::default()).unwrap();
    let fs = mount(&pool, "c");
    // The source goes before the log is replayed.
    fs.unlink(fs.root(), b"a").unwrap();
    assert_eq!(shared(&pool), (0, 0, "1.00".into()));
    clean(&pool);
    let to = mount(&pool, "c/to");
    assert!(content(&to, b) == want);
    assert_eq!(shared(&pool), (0, 0, "1.00".into()));
    clean(&pool);
    to.unlink(to.root(), b"b").unwrap();
    clean(&pool);

    let (disk, ..) = cut();
    let pool = import(&disk, ImportOptions::default()).unwrap();
    pool.dsl().destroy("c/to", true, false).unwrap();
    settle(&pool);
    assert_eq!(shared(&pool), (0, 0, "1.00".into()));
    clean(&pool);
}

/// A block of the log can hold records of several txgs. When one of these is on disk, what it cloned may be free again: its record, which
/// is not replayed any more, must not keep others from being right.
#[test]
fn a_record_that_is_out_of_date_refers_to_what_was_freed_since() {
    let (disk, pool) = create();
    let fs = mount(&pool, "c");
    let (a, _) = write(&fs, "a", 20, 6 * BLOCK as usize);
    let (b, z) = (file(&fs, "b"), file(&fs, "z"));
    fs.fsync(b).unwrap();
    pool.sync().unwrap();
    // Keeps its txg from being written, so that records of the next one come into the same block of the log.
    let held = pool.txgs().begin(0).unwrap();
    let txg = held.txg();
    clone(&fs, (b, 0), (a, 0), 6 * BLOCK).unwrap();
    fs.truncate(b, 0).unwrap();
    fs.unlink(fs.root(), b"a").unwrap();
    pool.txgs().request_sync();
    while pool.txgs().open_txg() == txg {
        std::thread::yield_now();
    }
    fs.write(z, 0, b"later", Durability::Later).unwrap();
    fs.sync().unwrap();
    drop(held);
    pool.txgs().wait_synced(txg).unwrap();
    assert_eq!(pool.last_synced_txg(), txg);
    drop((fs, pool));
    let pool = import(&disk, ImportOptions::default()).unwrap();
    clean(&pool);
    // Whoever takes the space that is free now does not get these blocks.
    let options =
        CreateFs { kind: Kind::Filesystem, properties: vec![], init: tests::rig::init(), parents: None };
    pool.dsl().create_dataset("c/other", options).unwrap();
    let other = mount(&pool, "c/other");
    write(&other, "full", 21, 2000 * BLOCK as usize);
    settle(&pool);
    clean(&pool);
    let fs = mount(&pool, "c");
    assert_eq!(fs.lookup(fs.root(), b"a"), Err(Error::NotFound));
    assert_eq!((content(&fs, b).len(), content(&fs, z)), (0, b"later".to_vec()));
    clean(&pool);
    other.unlink(other.root(), b"full").unwrap();
    settle(&pool);
    clean(&pool);
    assert_eq!(shared(&pool), (0, 0, "1.00".into()));
}

/// OpenZFS clones ranges of volumes, too: we only replay that.
#[test]
fn a_clone_in_the_log_of_a_volume_is_replayed() {
    let (disk, pool) = create();
    let init = Box::new(|os: &_, tx: &_| zvol::init(os, tx, 1 << 20, BLOCK as u32));
    let properties = vec![("volblocksize".to_owned(), BLOCK.to_string())];
    let new = CreateFs { kind: Kind::Volume, properties, init, parents: None };
    pool.dsl().create_dataset("c/v", new).unwrap();
    let dataset = pool.dsl().lookup("c/v").unwrap();
    let volume = OpenZvol::open(&pool, Arc::clone(&dataset)).unwrap();
    let data = tests::tree::noise(30, 4 * BLOCK as usize);
    volume.write(0, &data, Durability::Later).unwrap();
    volume.close().unwrap();
    let os = dataset.objset().unwrap();
    let bps = (0..4).map(|i| os.hold(1).unwrap().block_pointer(0, i).unwrap()).collect();
    let log = Log::open(Arc::clone(&os), Arc::<Pool>::clone(&pool));
    let commit = |payload| {
        let tx = os.begin(0).unwrap();
        log.assign(&tx, None, payload);
        drop(tx);
        log.commit(None).unwrap();
    };
    // The first one only begins a chain.
    commit(Payload::Barrier);
    let record = Record::CloneRange { object: 1, offset: 8 * BLOCK, len: 4 * BLOCK, block_size: BLOCK, bps };
    commit(Payload::Record(record.emit()));
    drop((log, os, dataset, volume, pool));
    let pool = import(&disk, ImportOptions::default()).unwrap();
    let once = (4 * BLOCK, 4 * BLOCK, "2.00".to_owned());
    assert_eq!(shared(&pool), once, "the log's own");
    clean(&pool);
    let volume = OpenZvol::open(&pool, pool.dsl().lookup("c/v").unwrap()).unwrap();
    let mut found = vec![0; 4 * BLOCK as usize];
    volume.read(8 * BLOCK, &mut found).unwrap();
    assert!(found == data);
    assert_eq!(shared(&pool), once, "the volume's");
    clean(&pool);
    volume.discard(0, 10 * BLOCK).unwrap();
    volume.read(8 * BLOCK, &mut found).unwrap();
    assert!(found[..2 * BLOCK as usize].iter().all(|b| *b == 0));
    assert!(found[2 * BLOCK as usize..] == data[2 * BLOCK as usize..]);
    assert_eq!(shared(&pool), (0, 0, "1.00".into()));
    clean(&pool);
}

#[test]
fn quotas_count_clones() {
    let (_disk, pool) = create();
    let fs = mount(&pool, "c");
    let (a, _) = write(&fs, "a", 11, 40 * BLOCK as usize);
    pool.sync().unwrap();
    let refquota = |value: &str| pool.dsl().set_properties("c", &[("refquota", value)]).unwrap();
    refquota("1200K");
    let b = file(&fs, "b");
    assert_eq!(clone(&fs, (b, 0), (a, 0), 40 * BLOCK), Err(Error::QuotaExceeded));
    assert_eq!(clone(&fs, (b, 0), (a, 0), 10 * BLOCK), Ok(10 * BLOCK));
    refquota("none");
    fs.set_quota(zfs::dmu::Accounted::User, false, 0, Some(1)).unwrap();
    assert_eq!(clone(&fs, (b, 0), (a, 0), 40 * BLOCK), Err(Error::QuotaExceeded));
    fs.set_quota(zfs::dmu::Accounted::User, false, 0, None).unwrap();
    // More than the pool could hold if the blocks were not shared.
    for i in 0..200 {
        let object = file(&fs, &format!("many{i}"));
        assert_eq!(clone(&fs, (object, 0), (a, 0), 40 * BLOCK), Ok(40 * BLOCK));
        pool.sync().unwrap();
    }
    let (used, saved, _) = shared(&pool);
    assert_eq!((used, saved), (40 * BLOCK, (200 * 40 + 10) * BLOCK));
    assert!(saved > SIZE as u64 / 4);
    clean(&pool);
}

#[test]
fn a_checkpoint_keeps_what_was_cloned_since() {
    let (disk, pool) = create();
    let fs = mount(&pool, "c");
    let (a, data) = write(&fs, "a", 12, 10 * BLOCK as usize);
    pool.sync().unwrap();
    pool.checkpoint().unwrap();
    let b = file(&fs, "b");
    clone(&fs, (b, 0), (a, 0), 10 * BLOCK).unwrap();
    pool.sync().unwrap();
    fs.unlink(fs.root(), b"a").unwrap();
    fs.unlink(fs.root(), b"b").unwrap();
    clean(&pool);
    settle(&pool);
    // Would take the space if it were free.
    write(&fs, "c", 13, 100 * BLOCK as usize);
    clean(&pool);
    fs.unmount().unwrap();
    pool.export().unwrap();
    let pool =
        import(&disk, ImportOptions { rewind: Rewind::Checkpoint, ..ImportOptions::default() }).unwrap();
    assert!(content(&mount(&pool, "c"), a) == data);
    clean(&pool);
}

/// Clones of deduplicated blocks are counted where those are: what OpenZFS deduplicated here, its own `zdb` judges.
#[test]
fn clones_of_deduplicated_blocks_count_in_the_dedup_table() {
    let folder = tempfile::tempdir().unwrap();
    let disks = || {
        (0..2)
            .map(|n| {
                let path = folder.path().join(format!("disk{n}.img"));
                if !path.exists() {
                    fixtures::write_image("l-large", n, &path).unwrap();
                }
                Arc::new(platform::host::FileDisk::open(&path, true).unwrap()) as Arc<dyn BlockDevice>
            })
            .collect()
    };
    let pool = model::import_pool(disks());
    pool.set_property("feature@block_cloning", "enabled").unwrap();
    let name = pool.name();
    let dataset = "l_large/dedup";
    let fs = mount(&pool, dataset);
    let dup = fs.lookup(fs.root(), b"dup").unwrap();
    let os = fs.dataset().objset().unwrap();
    let dedup = |object| os.hold(object).unwrap().block_pointer(0, 0).is_ok_and(|bp| bp.dedup());
    let files = fs.readdir(dup, 0, 1000).unwrap();
    let object = files.iter().map(|e| e.object).find(|object| dedup(*object)).unwrap();
    let data = content(&fs, object);
    let copies: Vec<u64> = (0..3).map(|i| file(&fs, &format!("clone{i}"))).collect();
    for copy in &copies {
        assert_eq!(clone(&fs, (*copy, 0), (object, 0), u64::MAX), Ok(data.len() as u64));
    }
    assert!(copies.iter().all(|copy| content(&fs, *copy) == data));
    assert_eq!((shared(&pool), feature(&pool, FEATURE)), ((0, 0, "1.00".into()), FeatureState::Enabled));
    clean(&pool);
    fs.unmount().unwrap();
    pool.export().unwrap();
    tests::tool::zdb_check(folder.path(), &name).unwrap();
    let pool = model::import_pool(disks());
    let fs = mount(&pool, dataset);
    fs.unlink(fs.root(), b"clone0").unwrap();
    fs.truncate(copies[1], 0).unwrap();
    assert!(content(&fs, copies[2]) == data && content(&fs, object) == data);
    clean(&pool);
    fs.unmount().unwrap();
    pool.export().unwrap();
    tests::tool::zdb_check(folder.path(), &name).unwrap();
}

#[test]
fn broken_tables_are_found() {
    let (disk, pool) = create();
    let fs = mount(&pool, "c");
    let (a, _) = write(&fs, "a", 14, 4 * BLOCK as usize);
    pool.sync().unwrap();
    let b = file(&fs, "b");
    clone(&fs, (b, 0), (a, 0), 4 * BLOCK).unwrap();
    fs.unmount().unwrap();
    pool.export().unwrap();
    drop(pool);
    type Damage<'a> = &'a dyn Fn(&Arc<Pool>, &zfs::dmu::Tx);
    let head = |pool: &Arc<Pool>| {
        let directory = pool.mos().hold(1).unwrap();
        pool.mos().hold(zap::lookup_u64(&directory, name_of(0).as_str()).unwrap()).unwrap()
    };
    let entries = |pool: &Arc<Pool>| {
        let bonus = head(pool).bonus();
        pool.mos().hold(u64::from_le_bytes(bonus[..8].try_into().unwrap())).unwrap()
    };
    let damaged = |damage: Damage<'_>| {
        let copy = Arc::new(MemDisk::from_vec(disk.contents()));
        let pool = import(&copy, ImportOptions::default()).unwrap();
        let tx = pool.txgs().begin(0).unwrap();
        damage(&pool, &tx);
        drop(tx);
        pool.export().unwrap();
        drop(pool);
        copy
    };
    let word = |at: usize, value: u64| {
        move |pool: &Arc<Pool>, tx: &zfs::dmu::Tx| {
            let head = head(pool);
            let mut bonus = head.bonus().to_vec();
            bonus[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
            head.set_bonus(tx, zfs::ondisk::object_type::ObjectType::OTN_UINT64_METADATA, &bonus).unwrap();
        }
    };
    for (damage, rule) in [
        (&word(1, 1 << 40) as Damage<'_>, "block reference table: more ranges than its vdev has"),
        (&word(2, 7), "block reference table: no such byte order"),
        (&word(3, 5), "block reference table: its total is not the sum of its ranges"),
        (
            &|pool: &Arc<Pool>, tx: &zfs::dmu::Tx| {
                zap::update(
                    &entries(pool),
                    tx,
                    &[1u64 << 20][..],
                    &zap::Value::bytes(&[1, 0, 0, 0, 0, 0, 0, 0]),
                )
                .unwrap();
            },
            "block reference table: its total is not the number of its entries",
        ),
    ] {
        let copy = damaged(damage);
        let failed = import(&copy, ImportOptions::default()).err();
        assert_eq!(failed, Some(Error::corrupt(rule, None)), "{rule}");
        // Whoever only reads gets his data, and is told.
        let pool = import(&copy, ImportOptions { read_only: true, ..ImportOptions::default() }).unwrap();
        let report = pool.verify(&mut |_| ()).unwrap();
        assert!(report.problems.iter().any(|p| p.contains(rule)), "{:?}", report.problems);
    }
    // An entry that counts too much, and one too little; space that is not what it was.
    let one_more = damaged(&|pool, tx| {
        let entries = entries(pool);
        let key = zap::entries(&entries).unwrap()[0].key_words();
        zap::update(&entries, tx, &key[..], &zap::Value::bytes(&[3, 0, 0, 0, 0, 0, 0, 0])).unwrap();
    });
    let report = import(&one_more, ImportOptions::default()).unwrap().verify(&mut |_| ()).unwrap();
    let text = "block reference table of vdev 0: 2 references more than there are";
    assert!(report.problems.len() == 1 && report.problems[0].starts_with(text), "{:?}", report.problems);
    let other_space = damaged(&word(5, 512));
    let report = import(&other_space, ImportOptions::default()).unwrap().verify(&mut |_| ()).unwrap();
    let text = format!(
        "vdev 0: 512 bytes used and {} saved, where it is {} and {}",
        4 * BLOCK,
        4 * BLOCK,
        4 * BLOCK
    );
    assert!(report.problems.len() == 1 && report.problems[0].ends_with(&text), "{:?}", report.problems);
}
