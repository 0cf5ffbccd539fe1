//! `mmap` of files: shared mappings and `read`/`write` see each other, private ones keep to themselves, and a file that is
//! mapped to be read costs no second copy of it. Files are made in `/data`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PAGE: usize = 4096;

/// A mapping; unmapped when dropped.
struct Map {
    at: *mut u8,
    len: usize,
}

// SAFETY: the memory is shared with the kernel and other threads on purpose; it is touched by volatile and atomic accesses.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    fn new(file: &File, len: usize, prot: i32, flags: i32) -> Result<Map, String> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(last("mmap")) } else { Ok(Map { at: at.cast(), len }) }
    }

    fn get(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: inside the mapping.
        unsafe { self.at.add(at).read_volatile() }
    }

    fn set(&self, at: usize, value: u8) {
        assert!(at < self.len);
        // SAFETY: inside the mapping.
        unsafe { self.at.add(at).write_volatile(value) }
    }

    fn counter(&self, at: usize) -> &AtomicU64 {
        assert!(at + 8 <= self.len && at.is_multiple_of(8));
        // SAFETY: inside the mapping, aligned.
        unsafe { AtomicU64::from_ptr(self.at.add(at).cast()) }
    }

    fn protect(&self, prot: i32) -> Result<(), String> {
        // SAFETY: our own mapping.
        if unsafe { libc::mprotect(self.at.cast(), self.len, prot) } == 0 {
            Ok(())
        } else {
            Err(last("mprotect"))
        }
    }

    fn sync(&self) -> Result<(), String> {
        // SAFETY: our own mapping.
        if unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) } == 0 {
            Ok(())
        } else {
            Err(last("msync"))
        }
    }

    fn is(&self, what: &str, expected: impl Fn(usize) -> u8) -> Result<(), String> {
        match (0..self.len).find(|&i| self.get(i) != expected(i)) {
            None => Ok(()),
            Some(i) => Err(format!("{what}: byte {i} is {:#x}, not {:#x}", self.get(i), expected(i))),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

fn last(what: &str) -> String {
    format!("{what}: {}", std::io::Error::last_os_error())
}

fn pattern(i: usize) -> u8 {
    (i / 7 + i / PAGE) as u8
}

fn make(path: &str, len: usize) -> Result<File, String> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
    let mut file = file.map_err(|e| format!("{path}: {e}"))?;
    let bytes: Vec<u8> = (0..len).map(pattern).collect();
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(|e| format!("{path}: {e}"))?;
    Ok(file)
}

const READ: i32 = libc::PROT_READ;
const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Several blocks and a tail.
const LEN: usize = 5 * (128 << 10) + 3 * PAGE + 100;

fn coherence() -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    let file = make("/data/mapped", LEN)?;
    let reader = Map::new(&file, LEN, READ, libc::MAP_SHARED)?;
    let writer = Map::new(&file, LEN, BOTH, libc::MAP_SHARED)?;
    let private = Map::new(&file, LEN, READ, libc::MAP_PRIVATE)?;
    reader.is("a shared mapping", pattern)?;
    private.is("a private mapping", pattern)?;
    // write(2) shows in shared mappings, across a border of pages and of blocks.
    let at = (128 << 10) - 10;
    file.write_all_at(&[0xaa; 20], at as u64).map_err(io)?;
    let now = move |i: usize| if (at..at + 20).contains(&i) { 0xaa } else { pattern(i) };
    reader.is("after write", now)?;
    writer.is("after write, in the other mapping", now)?;
    // A store shows in the other mapping and in read(2), before and after msync.
    let stores = [0, 9 * PAGE + 5, (256 << 10) + 1, LEN - 1];
    stores.iter().for_each(|&i| writer.set(i, 0xbb));
    let now = move |i: usize| if stores.contains(&i) { 0xbb } else { now(i) };
    for step in ["after stores", "after msync"] {
        reader.is(step, now)?;
        let mut bytes = vec![0; LEN];
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        if let Some(i) = (0..LEN).find(|&i| bytes[i] != now(i)) {
            return Err(format!("{step}: read gives byte {i} as {:#x}", bytes[i]));
        }
        writer.sync()?;
    }
    // A private page that is written after all is a copy.
    private.protect(BOTH)?;
    private.set(20 * PAGE, 0xcc);
    if private.get(20 * PAGE) != 0xcc || private.get(20 * PAGE + 1) != pattern(20 * PAGE + 1) {
        return Err("a private page is not what was written".to_owned());
    }
    reader.is("after a private store", now)?;
    // A hole shows as zeros.
    let (start, len) = (3 * PAGE as i64, 5 * PAGE as i64);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a descriptor of ours.
    if unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) } != 0 {
        return Err(last("fallocate"));
    }
    reader.is("after a hole", move |i| if (3 * PAGE..8 * PAGE).contains(&i) { 0 } else { now(i) })
}

/// Threads that read a mapping while others write the file: nobody sees a page go back in time.
fn racing() -> Result<(), String> {
    const PAGES: usize = 64;
    let file = Arc::new(make("/data/raced", PAGES * PAGE)?);
    (0..PAGES)
        .try_for_each(|i| file.write_all_at(&0u64.to_ne_bytes(), (i * PAGE) as u64))
        .map_err(|e| e.to_string())?;
    let map = Arc::new(Map::new(&file, PAGES * PAGE, BOTH, libc::MAP_SHARED)?);
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (map, stop) = (Arc::clone(&map), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut seen = [0u64; PAGES];
            while !stop.load(Ordering::Relaxed) {
                for (i, seen) in seen.iter_mut().enumerate() {
                    let now = map.counter(i * PAGE).load(Ordering::SeqCst);
                    if now < *seen {
                        return Err(format!("page {i} went back from {seen} to {now}"));
                    }
                    *seen = now;
                }
            }
            Ok(())
        })
    };
    let mut result = Ok(());
    for round in 1..=40u64 {
        for i in 0..PAGES {
            // By turns through the descriptor and through the mapping.
            if (round + i as u64).is_multiple_of(2) {
                file.write_all_at(&round.to_ne_bytes(), (i * PAGE) as u64).map_err(|e| e.to_string())?;
            } else {
                map.counter(i * PAGE).store(round, Ordering::SeqCst);
            }
            let now = map.counter(i * PAGE).load(Ordering::SeqCst);
            if now != round {
                result = Err(format!("page {i} shows {now} after {round} was written"));
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    watcher.join().map_err(|_| "the watcher panicked".to_owned())??;
    result
}

/// `MemFree` in KiB.
fn free() -> Result<i64, String> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|e| e.to_string())?;
    let line = text.lines().find(|l| l.starts_with("MemFree:")).ok_or("no MemFree")?;
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).ok_or_else(|| format!("{line}?"))
}

/// A file in the cache, then mapped and touched: how much memory that took, in KiB.
fn one_cache() -> Result<i64, String> {
    const BIG: usize = 32 << 20;
    let file = make("/data/big", BIG)?;
    let mut bytes = vec![0; 1 << 20];
    for at in (0..BIG).step_by(bytes.len()) {
        file.read_exact_at(&mut bytes, at as u64).map_err(|e| e.to_string())?;
    }
    let mut worst = 0;
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        let before = free()?;
        let map = Map::new(&file, BIG, READ, flags)?;
        let sum: u64 = (0..BIG).step_by(PAGE).map(|i| u64::from(map.get(i))).sum();
        let expected: u64 = (0..BIG).step_by(PAGE).map(|i| u64::from(pattern(i))).sum();
        if sum != expected {
            return Err("a mapped page is not the file's".to_owned());
        }
        worst = worst.max(before - free()?);
    }
    if worst > 8 << 10 {
        Err(format!("{worst} KiB for a cached file of {} KiB", BIG >> 10))
    } else {
        Ok(worst)
    }
}

/// The check.
pub fn run() -> Result<String, String> {
    coherence()?;
    racing()?;
    let cost = one_cache()?;
    Ok(format!("a mapped file of 32 MiB took {cost} KiB"))
}
