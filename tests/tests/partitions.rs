//! Pools of OpenZFS on whole disks, which it gives a GUID partition table: another program's table, around a fixture's pool.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use gptman::{GPT, GPTPartitionEntry};
use platform::block::BlockDevice;
use platform::host::FileDisk;
use std::io::Cursor;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tests::{fixtures, manifest, model, tool};
use zfs::zpl::{Durability, FileKind, Filesystem, MountOptions, New};

const SECTOR: u64 = 512;
/// Where OpenZFS begins the first partition.
const FIRST: u64 = 2048;
/// Sectors of the ninth partition, which it reserves at the end.
const RESERVED: u64 = 16384;
/// 6A898CC3-1DD2-11B2-99A6-080020736631, as it lies on disk.
const OPENZFS: [u8; 16] =
    [0xc3, 0x8c, 0x89, 0x6a, 0xd2, 0x1d, 0xb2, 0x11, 0x99, 0xa6, 0x08, 0x00, 0x20, 0x73, 0x66, 0x31];
/// 6A945A3B-1DD2-11B2-99A6-080020736631: Solaris reserved.
const SOLARIS_RESERVED: [u8; 16] =
    [0x3b, 0x5a, 0x94, 0x6a, 0xd2, 0x1d, 0xb2, 0x11, 0x99, 0xa6, 0x08, 0x00, 0x20, 0x73, 0x66, 0x31];

fn partition(kind: [u8; 16], first: u64, sectors: u64) -> GPTPartitionEntry {
    GPTPartitionEntry {
        partition_type_guid: kind,
        unique_partition_guid: kind.map(|byte| !byte),
        starting_lba: first,
        ending_lba: first + sectors - 1,
        attribute_bits: 0,
        partition_name: "zfs".into(),
    }
}

/// A whole disk around `pool`.
fn whole_disk(pool: &[u8]) -> Vec<u8> {
    let sectors = pool.len() as u64 / SECTOR;
    let size = (FIRST + sectors + RESERVED + FIRST) * SECTOR;
    let mut disk = Cursor::new(vec![0; size as usize]);
    let mut table = GPT::new_from(&mut disk, SECTOR, [7; 16]).unwrap();
    table[1] = partition(OPENZFS, FIRST, sectors);
    table[9] = partition(SOLARIS_RESERVED, FIRST + sectors, RESERVED);
    table.write_into(&mut disk).unwrap();
    let mut disk = disk.into_inner();
    disk[(FIRST * SECTOR) as usize..][..pool.len()].copy_from_slice(pool);
    disk
}

/// A file of a whole disk around a fixture's pool.
struct Whole {
    folder: tempfile::TempDir,
    path: PathBuf,
    before: Vec<u8>,
    /// The partition.
    range: Range<usize>,
}

impl Whole {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole.img");
        let image = fixtures::image("m-ashift12", 0).unwrap();
        let before = whole_disk(&image);
        std::fs::write(&path, &before).unwrap();
        let start = (FIRST * SECTOR) as usize;
        Whole { folder, path, before, range: start..start + image.len() }
    }

    /// The disk as it is now, of which nothing outside the partition was touched.
    fn after(&self) -> Vec<u8> {
        let after = std::fs::read(&self.path).unwrap();
        let Range { start, end } = self.range;
        assert!(self.before[..start] == after[..start] && self.before[end..] == after[end..]);
        after
    }
}

#[test]
fn a_pool_in_a_partition_is_read_and_written() {
    let disk = Whole::new();
    let open = || vec![Arc::new(FileDisk::open(&disk.path, true).unwrap()) as Arc<dyn BlockDevice>];

    let pool = model::import_pool(open());
    let sections = fixtures::manifest("m-ashift12", ".files.jsonl").unwrap();
    manifest::check_sections(&pool, &sections, manifest::ALL);
    let head = pool.dsl().datasets().unwrap().into_iter().find(|d| !d.is_snapshot()).unwrap();
    let fs = Filesystem::mount(&pool, head, MountOptions { read_only: false, no_atime: true }).unwrap();
    let file = fs.create(fs.root(), b"new", &New::new(FileKind::Regular, 0o644)).unwrap();
    fs.write(file, 0, &tests::tree::noise(1, 300_000), Durability::Later).unwrap();
    fs.unmount().unwrap();
    let name = pool.name();
    pool.export().unwrap();

    // Nothing outside the partition was touched; the partition by itself is a sound pool.
    let after = disk.after();
    let partition = &after[disk.range.clone()];
    assert!(&disk.before[disk.range.clone()] != partition);
    std::fs::remove_file(&disk.path).unwrap();
    std::fs::write(disk.folder.path().join("partition.img"), partition).unwrap();
    tool::zdb_check(disk.folder.path(), &name).unwrap();
}

fn refused(args: &[&str], why: &str) {
    let output = tool::tarn().args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{args:?}: {said}");
}

#[test]
fn a_pool_in_a_partition_is_not_overwritten_unasked() {
    let disk = Whole::new();
    let path = disk.path.to_str().unwrap();
    refused(&["zpool", "create", "other", path], "is part of pool 'm_ashift12'");
    refused(&["zpool", "labelclear", path], "is part of pool 'm_ashift12'");
    assert!(disk.before == std::fs::read(path).unwrap());

    // With -f its labels go; the table and the partition after it stay.
    tool::tarn_ok(&["zpool", "labelclear", "-f", path]).unwrap();
    disk.after();
    refused(&["zpool", "labelclear", path], "no label");
    tool::tarn_ok(&["zpool", "create", "other", path]).unwrap();
    refused(&["zpool", "create", "third", path], "is part of pool 'other'");
}
