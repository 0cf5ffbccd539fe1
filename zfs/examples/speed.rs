//! How fast the functions of the format run on this machine, and how fast blocks are written to and verified on a new
//! image: `cargo run --release --example speed [NEW-IMAGE]`.

use bytes::Bytes;
use platform::sync::Mutex;
use std::sync::Arc;
use std::time::Instant;
use zfs::checksum::{Checksum, Salted};
use zfs::compress::{Compression, Workspace, decompress};
use zfs::ondisk::blkptr::Dva;
use zfs::ondisk::bookmark::Bookmark;
use zfs::ondisk::nvlist::NvList;
use zfs::vdev::VdevTree;
use zfs::zio::{AllocateBlocks, Class, Write, WritePolicy, Zio};

const RECORD: usize = 128 << 10;

/// Text-like records: words of a vocabulary with numbers between, which compress to about a third.
fn records(count: usize) -> Vec<Vec<u8>> {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let record = |_| {
        let mut data = Vec::with_capacity(RECORD + 32);
        while data.len() < RECORD {
            data.extend(format!("item{} = {}; ", next() % 400, next() % 100_000).bytes());
        }
        data.truncate(RECORD);
        data
    };
    (0..count).map(record).collect()
}

fn rate(bytes: usize, start: Instant) -> f64 {
    bytes as f64 / start.elapsed().as_secs_f64() / 1e6
}

/// Space from front to back.
struct Bump(Mutex<u64>);

impl AllocateBlocks for Bump {
    fn allocate(&self, _txg: u64, asize: u64, copies: usize, _class: Class) -> zfs::Result<Vec<Dva>> {
        let mut next = self.0.lock();
        let place = |i: usize| Dva { vdev: 0, offset: *next + i as u64 * asize, asize, gang: false };
        let dvas = (0..copies).map(place).collect();
        *next += copies as u64 * asize;
        Ok(dvas)
    }
    fn unallocate(&self, _txg: u64, _dva: &Dva) {}
}

fn image(path: &str, small: bool) -> Result<(), Box<dyn std::error::Error>> {
    const SIZE: u64 = 2 << 30;
    let _ = std::fs::remove_file(path);
    let disk = platform::host::FileDisk::create(path.as_ref(), SIZE)?;
    let config = NvList::new()
        .with("type", "disk")
        .with("id", 0u64)
        .with("guid", 1u64)
        .with("ashift", 12u64)
        .with("asize", SIZE - (5 << 20));
    let zio = Zio::new(VdevTree::open(&config, &[(1, Arc::new(disk))])?, [7; 32], 16 << 20);
    let policy = WritePolicy {
        object_type: 19,
        level: 0,
        checksum: Checksum::Fletcher4,
        compression: Compression::Lz4,
        copies: 1,
        special_small: 0,
        fill: 1,
        may_embed: true,
        may_hole: true,
        authenticated: false,
    };
    let data: Vec<Bytes> = records(64).into_iter().map(Bytes::from).collect();
    let alloc = Bump(Mutex::new(0));
    let start = Instant::now();
    let mut wants = Vec::new();
    let mut total = 0;
    for txg in 1..=(if small { 20 } else { 100 }) {
        let cut = |b: &Bytes| {
            if small { (0..16).map(|i| b.slice(i * 8192..(i + 1) * 8192)).collect() } else { vec![b.clone()] }
        };
        let write = |data: Bytes| Write { data, policy, at: Bookmark::default(), rewrite: None };
        let writes: Vec<_> = data.iter().flat_map(cut).map(write).collect();
        total += writes.iter().map(|w| w.data.len()).sum::<usize>();
        wants.extend(zio.write(&alloc, txg, writes)?.into_iter().map(|bp| (bp, Bookmark::default())));
    }
    println!("write  {:8.0} MB/s of {} KiB blocks", rate(total, start), if small { 8 } else { 128 });
    let start = Instant::now();
    let bytes: u64 = zio.verify_many(&wants).into_iter().map(|v| v.map_or(0, |v| v.bytes)).sum();
    println!("verify {:8.0} MB/s, {} MiB in {:?}", rate(bytes as usize, start), bytes >> 20, start.elapsed());
    let start = Instant::now();
    let mut read = 0;
    for chunk in wants.chunks(512) {
        read += zio.read_many(chunk).into_iter().map(|r| r.map_or(0, |b| b.len())).sum::<usize>();
    }
    println!("read   {:8.0} MB/s", rate(read, start));
    std::fs::remove_file(path)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(path) = std::env::args().nth(1) {
        image(&path, false)?;
        return image(&path, true);
    }
    functions();
    Ok(())
}

fn functions() {
    let data = records(64);
    let total = data.len() * RECORD;
    let salted = Salted::new(&[7; 32]);
    for function in Checksum::ALL.into_iter().skip(6) {
        let start = Instant::now();
        let mut folded = 0;
        for record in data.iter().cycle().take(4 * data.len()) {
            folded ^= salted.checksum(function, record)[0];
        }
        println!("{:12} {:8.0} MB/s  ({folded:x})", function.name(), rate(4 * total, start));
    }
    let mut ws = Workspace::default();
    let functions = [
        Compression::Lz4,
        Compression::Lzjb,
        Compression::Zle,
        Compression::Gzip(1),
        Compression::Gzip(6),
        Compression::ZstdFast(1),
        Compression::Zstd(1),
        Compression::Zstd(3),
        Compression::Zstd(9),
    ];
    for function in functions {
        let start = Instant::now();
        let packed: Vec<Vec<u8>> = data
            .iter()
            .map(|r| function.compress(r, RECORD * 2, &mut ws).map(<[u8]>::to_vec).unwrap_or_default())
            .collect();
        let compressed = rate(total, start);
        let size: usize = packed.iter().map(Vec::len).sum();
        let start = Instant::now();
        for (packed, record) in packed.iter().zip(&data) {
            assert!(decompress(function.to_raw(), packed, RECORD).is_ok_and(|d| d == *record));
        }
        println!(
            "{:14} {compressed:8.0} MB/s, ratio {:.2}, decompress {:8.0} MB/s",
            format!("{function:?}"),
            total as f64 / size as f64,
            rate(total, start)
        );
    }
}
