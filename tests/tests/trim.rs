//! Devices are told what is free on them: images get holes there and nowhere else, and what is on record is what OpenZFS has.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::block::BlockDevice;
use platform::mem::MemDisk;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use tests::layout::Layout;
use tests::model::{create_pool, import_pool, mount_root, seed};
use tests::tool::{tarn_ok, zdb_check};
use tests::tree::noise;
use zfs::Error;
use zfs::spa::{ScanControl, TrimState};
use zfs::zpl::{Durability, FileKind, New};

const MIB: usize = 1 << 20;

fn occupied(folder: &Path) -> BTreeMap<String, u64> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    files.map(|f| (f.file_name().into_string().unwrap(), f.metadata().unwrap().blocks() * 512)).collect()
}

/// Every layout: files go, their space is trimmed, the other files stay as they are.
#[test]
fn images_get_holes_where_files_were() {
    for (n, vdevs) in ["a", "mirror a b", "raidz1 a b c", "raidz2 a b c d", "draid1:2d:1s a b c d", "a log b"]
        .into_iter()
        .enumerate()
    {
        let (pool, aside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = pool.path().to_str().unwrap();
        let path = |word: &str| if word.len() == 1 { format!("{disk}/{word}") } else { word.to_owned() };
        let mut args = vec!["zpool".to_owned(), "create".into(), "--size".into(), "192M".into(), "t".into()];
        args.extend(vdevs.split(' ').map(path));
        tarn_ok(&args).unwrap();
        let tarn = |line: &str| {
            let words = ["zpool", "--disk", disk].into_iter().chain(line.split(' ')).collect::<Vec<_>>();
            tarn_ok(&words)
        };
        assert_eq!(
            tarn("status -t").unwrap().matches("(untrimmed)").count(),
            vdevs.matches([' ']).count().max(1),
            "{vdevs}"
        );
        for (name, len) in [("keep1", 3), ("go", 30), ("keep2", 2)] {
            std::fs::write(aside.path().join(name), noise(n as u64 + len as u64, len * MIB)).unwrap();
            let file = aside.path().join(name);
            tarn_ok(&["cp", file.to_str().unwrap(), &format!("{disk}:/{name}")]).unwrap();
        }
        // Gone files: an older state of the root directory, by a rollback.
        tarn_ok(&["zfs", "--disk", disk, "create", "t/x"]).unwrap();
        let file = aside.path().join("go");
        tarn_ok(&["cp", file.to_str().unwrap(), &format!("{disk}:t/x:/big")]).unwrap();
        tarn_ok(&["zfs", "--disk", disk, "destroy", "t/x"]).unwrap();
        let before = occupied(pool.path());
        let text = tarn("trim -q t").unwrap();
        assert!(text.starts_with("trimmed "), "{text}");
        let after = occupied(pool.path());
        let freed = |name: &String| before[name] - after[name].min(before[name]);
        let sum: u64 = before.keys().map(freed).sum();
        assert!(sum > 30 * MIB as u64, "{vdevs}: {before:?}, {after:?}");
        let text = tarn("status -t").unwrap();
        assert!(text.contains("(100% trimmed, completed at ") && !text.contains("untrimmed"), "{text}");
        tarn("scrub --verify -q").unwrap();
        for name in ["keep1", "go", "keep2"] {
            let output = tests::tool::tarn().args(["cat", &format!("{disk}:/{name}")]).output().unwrap();
            assert!(output.stdout == std::fs::read(aside.path().join(name)).unwrap(), "{vdevs}: {name}");
        }
        zdb_check(pool.path(), "t").unwrap();
        let text = tarn("history -i").unwrap();
        assert!(
            text.contains("] trim vdev=/dev/a activated") && text.contains("trim vdev=/dev/a complete"),
            "{text}"
        );
        assert!(tarn("trim -d t").is_err() && tarn("trim -s t").is_err() && tarn("trim t nothing").is_err());
    }
}

fn disks(count: usize) -> Vec<Arc<MemDisk>> {
    (0..count).map(|_| Arc::new(MemDisk::new(160 * MIB))).collect()
}

fn handles(disks: &[Arc<MemDisk>]) -> Vec<Arc<dyn BlockDevice>> {
    disks.iter().map(|d| Arc::<MemDisk>::clone(d) as Arc<dyn BlockDevice>).collect()
}

/// A trim is suspended, goes on after an import, and is given up; a rate slows it down.
#[test]
fn a_trim_can_be_suspended_and_given_up() {
    let disks = disks(2);
    let pool = Layout::Mirror.create(handles(&disks), "t").unwrap();
    let guids: Vec<u64> = pool.zio().vdevs().leaves().iter().map(|leaf| leaf.guid).collect();
    let mut rounds = 0;
    let trimmed = pool.trim(&[], None, &mut |p| {
        rounds += 1;
        if p.done * 2 > p.total { ScanControl::Pause } else { ScanControl::Continue }
    });
    let first = trimmed.unwrap().bytes;
    let status = pool.trim_status(guids[0]).unwrap();
    assert_eq!(status.state, Some(TrimState::Suspended));
    assert!(rounds > 2 && (30..=80).contains(&status.percent), "{status:?}");
    pool.export().unwrap();
    drop(pool);
    let pool = import_pool(handles(&disks));
    assert_eq!(pool.trim_status(guids[1]).unwrap(), status, "both sides, over an import");
    let rest = pool.trim(&[guids[0]], None, &mut |_| ScanControl::Continue).unwrap().bytes;
    assert!(rest < first, "one side, from where it stopped: {first}, {rest}");
    assert_eq!(pool.trim_status(guids[0]).unwrap().state, Some(TrimState::Complete));
    assert_eq!(pool.trim_status(guids[1]).unwrap().state, Some(TrimState::Suspended));
    pool.stop_trim(&[guids[1]], false).unwrap();
    assert_eq!(pool.trim_status(guids[1]).unwrap().state, Some(TrimState::Canceled));
    assert!(matches!(pool.stop_trim(&[], false), Err(Error::Invalid(_))));
    assert_eq!(pool.trim(&[1], None, &mut |_| ScanControl::Continue), Err(Error::NotFound));
    assert_eq!(pool.trim_status(1), Err(Error::NotFound));
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
}

/// While devices are told, others write; what is trimmed automatically is free.
#[test]
fn files_come_and_go_while_free_space_is_trimmed() {
    let seed = seed();
    let disks = disks(3);
    let pool = Layout::Raidz1.create(handles(&disks), "t").unwrap();
    pool.set_property("autotrim", "on").unwrap();
    let fs = mount_root(&pool);
    let mut kept = BTreeMap::new();
    std::thread::scope(|scope| {
        let trimming = scope.spawn(|| {
            for _ in 0..6 {
                pool.trim(&[], None, &mut |_| ScanControl::Continue).unwrap();
            }
        });
        for i in 0..80u64 {
            let name = format!("file{}", i % 20);
            if kept.remove(&name).is_some() {
                fs.unlink(fs.root(), name.as_bytes()).unwrap();
            }
            let data = noise(seed.wrapping_add(i), MIB + 4096 * i as usize);
            let file = fs.create(fs.root(), name.as_bytes(), &New::new(FileKind::Regular, 0o644)).unwrap();
            fs.write(file, 0, &data, Durability::Later).unwrap();
            pool.sync().unwrap();
            kept.insert(name, data);
        }
        trimming.join().unwrap();
    });
    fs.unmount().unwrap();
    pool.export().unwrap();
    drop((fs, pool));
    let pool = import_pool(handles(&disks));
    assert_eq!(pool.get_property("autotrim").unwrap().0, "on");
    let report = pool.verify(&mut |_| ()).unwrap();
    assert!(report.is_clean(), "seed {seed}: {report:?}");
    let fs = mount_root(&pool);
    for (name, data) in &kept {
        let file = fs.lookup(fs.root(), name.as_bytes()).unwrap();
        let mut found = vec![0; data.len()];
        fs.read(file, 0, &mut found).unwrap();
        assert!(found == *data, "seed {seed}: {name}");
    }
}

/// A pool that has little room is not out of space while all of it is being told.
#[test]
fn who_needs_room_waits_for_a_trim() {
    let disk = Arc::new(MemDisk::new(64 * MIB));
    let pool = create_pool(handles(&[disk]), "t", &[]);
    let fs = mount_root(&pool);
    std::thread::scope(|scope| {
        let trimming =
            scope.spawn(|| (0..20).all(|_| pool.trim(&[], None, &mut |_| ScanControl::Continue).is_ok()));
        let file = fs.create(fs.root(), b"file", &New::new(FileKind::Regular, 0o644)).unwrap();
        for i in 0..60 {
            fs.write(file, 0, &noise(i, 4 * MIB), Durability::Later).unwrap();
            pool.sync().unwrap();
        }
        assert!(trimming.join().unwrap());
    });
    assert!(pool.verify(&mut |_| ()).unwrap().is_clean());
}
