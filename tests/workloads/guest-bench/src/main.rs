//! `guest-bench FOLDER SECONDS PART…`: times file-system workloads in FOLDER and prints one line for each: its name, a figure,
//! its unit. The same static program runs in a guest of Tarn and in one of Linux with OpenZFS. Parts:
//! - `sequential`, `files`; `snapshots=N`, which takes and destroys so many;
//! - `random`, which takes SECONDS for each of its figures and wants a dataset of 8 KiB records;
//! - `leave`, which leaves a file behind, and `cold`, which reads it: to be run after another import of the pool.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SEQUENTIAL: usize = 128 << 20;
const RANDOM: u64 = 64 << 20;
const CHUNK: usize = 128 << 10;
const SMALL: usize = 8 << 10;
const FILES: usize = 20_000;

/// Numbers that compress no better than data of a database: half of each block is random.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, block: &mut [u8]) {
        for (i, word) in block.chunks_exact_mut(8).enumerate() {
            let value = if i % 2 == 0 { self.next() } else { i as u64 };
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
}

fn report(name: &str, figure: f64, unit: &str) {
    println!("{name}\t{figure:.1}\t{unit}");
}

fn rate(name: &str, count: usize, start: Instant) {
    report(name, count as f64 / start.elapsed().as_secs_f64(), "op/s");
}

fn throughput(name: &str, bytes: usize, start: Instant) {
    report(name, bytes as f64 / 1e6 / start.elapsed().as_secs_f64(), "MB/s");
}

fn sequential(folder: &Path) -> io::Result<()> {
    let path = folder.join("sequential");
    let mut block = vec![0; CHUNK];
    let mut noise = Noise(1);
    noise.fill(&mut block);
    let start = Instant::now();
    let mut file = File::create(&path)?;
    for i in 0..SEQUENTIAL / CHUNK {
        block[..8].copy_from_slice(&(i as u64).to_le_bytes());
        file.write_all(&block)?;
    }
    file.sync_all()?;
    throughput("sequential write, then fsync", SEQUENTIAL, start);
    drop(file);
    let start = Instant::now();
    let mut file = File::open(&path)?;
    while file.read(&mut block)? > 0 {}
    throughput("sequential read (cached)", SEQUENTIAL, start);
    fs::remove_file(path)
}

/// Runs `work` on `threads` threads for `seconds`: how many times it was done in all.
fn for_a_while(
    threads: u64,
    seconds: f64,
    work: impl Fn(u64, &mut Noise) -> io::Result<()> + Sync,
) -> io::Result<usize> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|i| {
                let (stop, count, work) = (&stop, &count, &work);
                scope.spawn(move || {
                    let mut noise = Noise(i + 77);
                    while !stop.load(Ordering::Relaxed) {
                        work(i, &mut noise)?;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<(), io::Error>(())
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs_f64(seconds));
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err(io::Error::other("panicked"))))
    })?;
    Ok(count.into_inner() as usize)
}

fn random(folder: &Path, seconds: f64) -> io::Result<()> {
    let path = folder.join("random");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    let mut block = vec![0; CHUNK];
    Noise(2).fill(&mut block);
    (0..RANDOM / CHUNK as u64).try_for_each(|i| file.write_all_at(&block, i * CHUNK as u64))?;
    file.sync_all()?;
    let place = |noise: &mut Noise| noise.next() % (RANDOM / SMALL as u64) * SMALL as u64;
    let start = Instant::now();
    let n = for_a_while(1, seconds, |_, noise| file.read_exact_at(&mut [0; SMALL], place(noise)))?;
    rate("random read 8 KiB (cached)", n, start);
    let write = |noise: &mut Noise| {
        let mut data = [0; SMALL];
        noise.fill(&mut data);
        file.write_all_at(&data, place(noise))
    };
    let start = Instant::now();
    let n = for_a_while(1, seconds, |_, noise| write(noise))?;
    rate("random write 8 KiB", n, start);
    file.sync_all()?;
    for threads in [1, 8] {
        let start = Instant::now();
        let n = for_a_while(threads, seconds, |_, noise| write(noise).and_then(|()| file.sync_data()))?;
        rate(&format!("write 8 KiB + fdatasync, threads: {threads}"), n, start);
    }
    fs::remove_file(path)
}

fn files(folder: &Path, seconds: f64) -> io::Result<()> {
    let folder = folder.join("files");
    fs::create_dir(&folder)?;
    let name = |i: usize| folder.join(format!("file-{i:06}"));
    let start = Instant::now();
    (0..FILES).try_for_each(|i| File::create(name(i))?.write_all(b"a few bytes in a small file"))?;
    rate("create (with 27 bytes)", FILES, start);
    let start = Instant::now();
    (0..FILES).try_for_each(|i| fs::metadata(name(i)).map(drop))?;
    rate("stat", FILES, start);
    let start = Instant::now();
    let mut seen = 0;
    // One pass takes some 20 ms, too short to be measured.
    while seen == 0 || start.elapsed().as_secs_f64() < seconds / 4.0 {
        seen += fs::read_dir(&folder)?.count();
    }
    rate("readdir", seen, start);
    let start = Instant::now();
    (0..FILES).try_for_each(|i| fs::remove_file(name(i)))?;
    rate("unlink", FILES, start);
    fs::remove_dir(folder)
}

/// The control directory of the dataset that `folder` lies in.
fn snapshot_folder(folder: &Path) -> io::Result<PathBuf> {
    let control = |up: &Path| Some(up.join(".zfs/snapshot")).filter(|path| path.is_dir());
    folder.ancestors().find_map(control).ok_or_else(|| io::Error::other("no .zfs/snapshot above the folder"))
}

fn snapshots(folder: &Path, count: usize) -> io::Result<()> {
    let control = snapshot_folder(folder)?;
    let name = |i: usize| control.join(format!("bench-{i:05}"));
    let start = Instant::now();
    (0..count).try_for_each(|i| fs::create_dir(name(i)))?;
    rate("snapshot", count, start);
    let start = Instant::now();
    (0..count).try_for_each(|i| fs::remove_dir(name(i)))?;
    rate("destroy a snapshot", count, start);
    Ok(())
}

fn leave(folder: &Path) -> io::Result<()> {
    let mut block = vec![0; CHUNK];
    let mut noise = Noise(3);
    let mut file = File::create(folder.join("left"))?;
    for _ in 0..SEQUENTIAL / CHUNK {
        noise.fill(&mut block);
        file.write_all(&block)?;
    }
    file.sync_all()
}

fn cold(folder: &Path) -> io::Result<()> {
    let path = folder.join("left");
    let mut block = vec![0; CHUNK];
    let start = Instant::now();
    let mut file = File::open(&path)?;
    while file.read(&mut block)? > 0 {}
    throughput("sequential read (not cached)", SEQUENTIAL, start);
    fs::remove_file(path)
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, seconds, parts @ ..] = args.as_slice() else {
        return Err(io::Error::other("usage: guest-bench FOLDER SECONDS PART…"));
    };
    let (folder, seconds) = (Path::new(folder), seconds.parse().map_err(io::Error::other)?);
    for part in parts {
        let (name, count) = part.split_once('=').unwrap_or((part, "1"));
        match name {
            "sequential" => sequential(folder)?,
            "random" => random(folder, seconds)?,
            "files" => files(folder, seconds)?,
            "snapshots" => snapshots(folder, count.parse().map_err(io::Error::other)?)?,
            "leave" => leave(folder)?,
            "cold" => cold(folder)?,
            other => return Err(io::Error::other(format!("no part is called {other}"))),
        }
    }
    Ok(())
}
