//! Every file, link, extended attribute and snapshot of the pools that OpenZFS wrote, read through the engine and compared
//! with what OpenZFS read.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use platform::Env;
use platform::block::BlockDevice;
use platform::host::{OsRandom, SystemClock};
use std::sync::Arc;
use tests::fixtures;
use tests::manifest::{ALL, Options, check_section, check_sections, mount, whole_hash};
use zfs::ondisk::znode::flags;
use zfs::spa::{ImportOptions, Pool};
use zfs::zvol::Zvol;

fn env() -> Env {
    Env { clock: Arc::new(SystemClock), random: Arc::new(OsRandom::open().unwrap()) }
}

fn import(name: &str) -> Arc<Pool> {
    let disks = fixtures::disks(name).unwrap();
    let disks = disks.into_iter().map(|disk| disk as Arc<dyn BlockDevice>).collect();
    Pool::import(disks, env(), ImportOptions::read_only()).unwrap()
}

fn check_pool(name: &str, manifest: &str, o: Options) {
    check_sections(&import(name), &fixtures::manifest(name, manifest).unwrap(), o);
}

#[test]
fn a_default() {
    check_pool("a-default", ".files.jsonl", ALL);
}

#[test]
fn b_without_features() {
    check_pool("b-nofeat", ".files.jsonl", ALL);
}

#[test]
fn b2_version_28_and_old_file_systems() {
    check_pool("b2-v28", ".files.jsonl", ALL);
}

#[test]
fn c_compression() {
    check_pool("c-compress", ".files.jsonl", ALL);
}

#[test]
fn d_checksums() {
    check_pool("d-checksum", ".files.jsonl", ALL);
}

#[test]
fn e_mirror() {
    check_pool("e-mirror", ".files.jsonl", ALL);
}

#[test]
fn f_and_g_raidz() {
    check_pool("f-raidz1-3", ".files.jsonl", ALL);
    check_pool("g-raidz2-5", ".files.jsonl", ALL);
    check_pool("g-raidz3-6", ".files.jsonl", ALL);
}

/// As many disks as there is parity are left out, in several ways.
#[test]
fn degraded_pools_read_as_whole_ones() {
    for (name, lost) in [
        ("e-mirror", &[0][..]),
        ("f-raidz1-3", &[1]),
        ("g-raidz2-5", &[0, 3]),
        ("g-raidz3-6", &[1, 2, 5]),
        ("p-draid1", &[2]),
        ("p-draid2s", &[0, 6]),
    ] {
        let disks = fixtures::disks(name).unwrap().into_iter().enumerate();
        let kept = disks.filter(|(n, _)| !lost.contains(n)).map(|(_, disk)| disk as Arc<dyn BlockDevice>);
        let pool = Pool::import(kept.collect(), env(), ImportOptions::read_only()).unwrap();
        check_sections(&pool, &fixtures::manifest(name, ".files.jsonl").unwrap(), ALL);
    }
}

#[test]
fn l_large_blocks_and_a_special_vdev() {
    check_pool("l-large", ".files.jsonl", ALL);
}

#[test]
fn p_draid() {
    check_pool("p-draid1", ".files.jsonl", ALL);
    check_pool("p-draid2s", ".files.jsonl", ALL);
}

#[test]
fn r_a_vdev_was_removed() {
    check_pool("r-removal", ".files.jsonl", ALL);
}

#[test]
fn s_with_a_spare_and_a_cache() {
    check_pool("s-stripe", ".files.jsonl", ALL);
}

#[test]
fn h_snapshots_and_clones() {
    check_pool("h-snaps", ".files.jsonl", ALL);
}

#[test]
fn m_ashift_9_and_12() {
    check_pool("m-ashift9", ".files.jsonl", ALL);
    check_pool("m-ashift12", ".files.jsonl", ALL);
}

#[test]
fn n_grub_compatible() {
    check_pool("n-grub", ".files.jsonl", ALL);
}

#[test]
fn u_with_a_checkpoint() {
    check_pool("u-checkpoint", ".files.jsonl", ALL);
}

#[test]
fn v_properties() {
    check_pool("v-props", ".files.jsonl", ALL);
}

/// File systems are being destroyed: what they held is on its way to be freed.
#[test]
fn x_an_asynchronous_destroy_is_under_way() {
    check_pool("x-async", ".files.jsonl", ALL);
    let freeing = import("x-async").properties().unwrap().into_iter().find(|p| p.0 == "freeing").unwrap();
    assert_eq!(freeing.1, "5762048");
}

/// One side is whole, one was resilvered, one was taken out of service by its owner and one as if it had failed.
#[test]
fn y_devices_out_of_service() {
    check_pool("y-offline", ".files.jsonl", ALL);
}

#[test]
fn z_blocks_of_16_mib() {
    check_pool("z-16m", ".files.jsonl", ALL);
    check_pool("zfs-2.3", ".files.jsonl", ALL);
}

#[test]
fn x_gang_blocks() {
    check_pool("x-gang", ".files.jsonl", ALL);
}

/// Accounts, POSIX ACLs, projects, extended attributes in spill blocks; and files that cannot be changed.
#[test]
fn w_owners_and_flags() {
    let name = "w-owners";
    let pool = import(name);
    check_sections(&pool, &fixtures::manifest(name, ".files.jsonl").unwrap(), ALL);
    let fs = mount(&pool, "w_owners/flags");
    for (file, flag) in [
        (&b"immutable"[..], flags::IMMUTABLE),
        (b"append", flags::APPENDONLY),
        (b"nodump", flags::NODUMP),
        (b"immdir", flags::IMMUTABLE),
    ] {
        let set = fs.getattr(fs.lookup(fs.root(), file).unwrap()).unwrap().flags & flags::SETTABLE;
        assert_eq!(set & !flags::ARCHIVE, flag, "{}", String::from_utf8_lossy(file));
    }
    let fs = mount(&pool, "w_owners/fs");
    for (directory, file, project) in [(&b"p7"[..], &b"b"[..], 7), (b"p8", b"c", 8), (b"u0", b"f1", 0)] {
        let directory = fs.lookup(fs.root(), directory).unwrap();
        assert_eq!(fs.getattr(fs.lookup(directory, file).unwrap()).unwrap().project, project);
    }
}

#[test]
fn q_damaged_blocks_are_errors_and_nothing_else_is() {
    let name = "q-corrupt-single";
    let pool = import(name);
    let damaged = ["/text/text-1m.txt", "/edge/size-513"];
    for (dataset, wanted) in fixtures::manifest(name, ".before.files.jsonl").unwrap() {
        let fs = mount(&pool, &dataset);
        check_section(&fs, &dataset, &wanted, |e| Options {
            content: !damaged.contains(&e.path.as_str()),
            ..ALL
        });
        for path in damaged {
            let object = path
                .split('/')
                .filter(|n| !n.is_empty())
                .try_fold(fs.root(), |dir, n| fs.lookup(dir, n.as_bytes()));
            let Ok(object) = object else { continue };
            let at = if path.ends_with("1m.txt") { 0x5_0000 } else { 0 };
            let read = fs.read(object, at, &mut [0; 512]);
            assert!(matches!(read, Err(zfs::Error::Checksum { .. })), "{path}: {read:?}");
        }
    }
}

#[test]
fn i_volumes() {
    let name = "i-zvol";
    let pool = import(name);
    let text = fixtures::text(name, ".zvols.txt").unwrap();
    let mut volumes = 0;
    for line in text.lines() {
        println!("{line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(dataset) = words.iter().find(|w| w.starts_with("i_zvol/")) else { continue };
        let Some(sum) = words.iter().find(|w| w.len() == 64) else { continue };
        let Ok(dataset_handle) = pool.dsl().lookup(dataset) else { continue };
        let volume = Zvol::open(dataset_handle.objset().unwrap()).unwrap();
        let read = |at: u64, buf: &mut [u8]| assert_eq!(volume.read(at, buf).unwrap(), buf.len());
        assert_eq!(&whole_hash(volume.size(), read), sum, "{dataset}");
        volumes += 1;
    }
    assert!(volumes > 0);
    check_pool(name, ".files.jsonl", ALL);
}
