//! Pages of 2 MiB for anonymous memory: they come, they are split by whatever is done to a part of them, nothing is lost on the way,
//! and the figures say so. For a machine with 256 MiB.

use libc::{MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, MAP_STACK, PROT_NONE, PROT_READ, PROT_WRITE};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const LARGE: usize = 2 << 20;
const BOTH: i32 = PROT_READ | PROT_WRITE;
const PRIVATE: i32 = MAP_PRIVATE | MAP_ANONYMOUS;
const SWITCH: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

fn ensure(right: bool, what: &str) -> Result<(), String> {
    if right { Ok(()) } else { Err(format!("{what} ({})", std::io::Error::last_os_error())) }
}

/// Memory of this check's own; each page of it knows its number, counted from where it was filled.
#[derive(Clone, Copy)]
struct Area {
    at: usize,
    len: usize,
}

impl Area {
    fn map(at: usize, len: usize, prot: i32, flags: i32) -> Result<Area, String> {
        // SAFETY: fixed addresses are ours.
        let at = unsafe { libc::mmap(at as *mut _, len, prot, PRIVATE | flags, -1, 0) };
        ensure(at != MAP_FAILED, "mmap")?;
        Ok(Area { at: at as usize, len })
    }

    /// New memory that wants large pages.
    fn new(large: usize) -> Result<Area, String> {
        let area = Self::map(0, large * LARGE, BOTH, 0)?;
        ensure(area.at.is_multiple_of(LARGE), "2 MiB do not begin at a multiple of 2 MiB")?;
        area.advise(libc::MADV_HUGEPAGE)?;
        Ok(area)
    }

    fn part(self, start: usize, len: usize) -> Area {
        Area { at: self.at + start, len }
    }

    fn word(self, at: usize) -> &'static AtomicU64 {
        // SAFETY: mapped for as long as the check looks at it.
        unsafe { &*((self.at + at) as *const AtomicU64) }
    }

    fn fill(self) {
        for page in 0..self.len / PAGE {
            self.word(page * PAGE + 8 * (page % 512)).store(page as u64 + 1, Ordering::Relaxed);
        }
    }

    /// Whether the pages are those that were filled, `shift` pages further on there.
    fn is_filled(self, shift: usize) -> Result<(), String> {
        for page in 0..self.len / PAGE {
            let number = page + shift;
            let found = self.word(page * PAGE + 8 * (number % 512)).load(Ordering::Relaxed);
            ensure(found == number as u64 + 1, &format!("page {number} holds {found}"))?;
        }
        Ok(())
    }

    fn is_zero(self) -> Result<(), String> {
        let any = (0..self.len).step_by(8).find(|at| self.word(*at).load(Ordering::Relaxed) != 0);
        any.map_or(Ok(()), |at| Err(format!("not zero at {at:#x} of {:#x}", self.len)))
    }

    fn advise(self, advice: i32) -> Result<(), String> {
        // SAFETY: ours.
        ensure(unsafe { libc::madvise(self.at as *mut _, self.len, advice) } == 0, "madvise")
    }

    fn protect(self, prot: i32) -> Result<(), String> {
        // SAFETY: ours.
        ensure(unsafe { libc::mprotect(self.at as *mut _, self.len, prot) } == 0, "mprotect")
    }

    fn unmap(self) -> Result<(), String> {
        // SAFETY: ours.
        ensure(unsafe { libc::munmap(self.at as *mut _, self.len) } == 0, "munmap")
    }

    fn to(self, len: usize, flags: i32, at: usize) -> Result<Area, String> {
        // SAFETY: ours, and so is the target.
        let at = unsafe { libc::mremap(self.at as *mut _, self.len, len, flags, at) };
        ensure(at != MAP_FAILED, "mremap")?;
        Ok(Area { at: at as usize, len })
    }

    /// What `/proc/self/smaps` says of the areas that begin in it, in KiB.
    fn says(self, name: &str) -> Result<usize, String> {
        let text = std::fs::read_to_string("/proc/self/smaps").map_err(|e| e.to_string())?;
        let (mut inside, mut sum) = (false, 0);
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some((start, _)) = first.split_once('-')
                && let Ok(start) = usize::from_str_radix(start, 16)
            {
                inside = (self.at..self.at + self.len).contains(&start);
            } else if inside && first.strip_suffix(':') == Some(name) {
                sum += words.next().and_then(|n| n.parse::<usize>().ok()).ok_or(format!("{line}?"))?;
            }
        }
        Ok(sum)
    }

    /// Whether it consists of so many large pages, and how much of it is there in all.
    fn consists_of(self, large: usize, resident: usize, when: &str) -> Result<(), String> {
        let found = (self.says("AnonHugePages")? / 2048, self.says("Rss")? * 1024);
        ensure(found == (large, resident), &format!("{when}: {found:?}, not {:?}", (large, resident)))
    }
}

/// A line of a file in `/proc`: the number behind its name.
fn figure(file: &str, name: &str) -> Result<usize, String> {
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    let mut lines = text.lines().filter_map(|line| line.split_once([':', ' ']));
    let (_, value) = lines.find(|(n, _)| *n == name).ok_or(format!("{file} has no {name}"))?;
    value.split_whitespace().next().and_then(|n| n.parse().ok()).ok_or(format!("{name} is {value}"))
}

fn parts() -> Result<(), String> {
    let all = Area::new(6)?;
    all.word(3).store(0, Ordering::Relaxed);
    all.consists_of(1, LARGE, "one store")?;
    all.fill();
    all.consists_of(6, 6 * LARGE, "all filled")?;
    let each: Vec<Area> = (0..6).map(|i| all.part(i * LARGE, LARGE)).collect();
    // Rights of a whole one and of pages.
    each[0].protect(PROT_NONE)?;
    each[0].protect(BOTH)?;
    each[0].part(7 * PAGE, PAGE).protect(PROT_READ)?;
    each[0].part(7 * PAGE, PAGE).protect(BOTH)?;
    all.is_filled(0)?;
    all.consists_of(5, 6 * LARGE, "after mprotect")?;
    // Pages are unmapped, others given back, others replaced.
    each[1].part(3 * PAGE, PAGE).unmap()?;
    each[2].part(0, 2 * PAGE).advise(libc::MADV_DONTNEED)?;
    each[3].advise(libc::MADV_DONTNEED)?;
    Area::map(each[4].at + LARGE / 2, LARGE / 2, BOTH, MAP_FIXED)?;
    each[5].part(5 * PAGE, PAGE).advise(libc::MADV_FREE)?;
    let left = 6 * LARGE - 3 * PAGE - LARGE - LARGE / 2;
    all.consists_of(1, left, "parts went")?;
    each[0].is_filled(0)?;
    each[1].part(0, 3 * PAGE).is_filled(512)?;
    each[1].part(4 * PAGE, LARGE - 4 * PAGE).is_filled(512 + 4)?;
    each[2].part(0, 2 * PAGE).is_zero()?;
    each[2].part(2 * PAGE, LARGE - 2 * PAGE).is_filled(2 * 512 + 2)?;
    each[3].is_zero()?;
    each[4].part(0, LARGE / 2).is_filled(4 * 512)?;
    each[4].part(LARGE / 2, LARGE / 2).is_zero()?;
    let mut there = vec![0u8; 512];
    // SAFETY: a byte for each page.
    let known = unsafe { libc::mincore(each[2].at as *mut _, LARGE, there.as_mut_ptr()) };
    ensure(known == 0 && there.iter().all(|byte| *byte == 1), "mincore")?;
    // What is empty again becomes large again, whether it was split before or not.
    for each in [each[2], each[5]] {
        each.advise(libc::MADV_DONTNEED)?;
        let before = all.says("AnonHugePages")?;
        each.word(LARGE - 8).store(1, Ordering::Relaxed);
        let more = all.says("AnonHugePages")? - before;
        ensure(more == LARGE / 1024, &format!("a second time: {more} KiB"))?;
        each.part(0, LARGE - PAGE).is_zero()?;
    }
    all.unmap()
}

fn moves() -> Result<(), String> {
    let old = Area::new(2)?;
    old.fill();
    // It has to move to grow.
    let wall = Area::map(old.at + old.len, PAGE, PROT_NONE, libc::MAP_FIXED_NOREPLACE);
    let new = old.to(3 * LARGE, libc::MREMAP_MAYMOVE, 0)?;
    new.part(0, 2 * LARGE).is_filled(0)?;
    new.consists_of(2, 2 * LARGE, "moved by whole pages")?;
    // To where large pages cannot stay, and back.
    let target = Area::map(0, 5 * LARGE, PROT_NONE, 0)?;
    let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let odd = new.to(2 * LARGE, fixed, target.at + 33 * PAGE)?;
    odd.is_filled(0)?;
    odd.consists_of(0, 2 * LARGE, "moved by single pages")?;
    odd.part(PAGE, PAGE).protect(PROT_READ)?;
    odd.is_filled(0)?;
    if let Ok(wall) = wall {
        wall.unmap()?;
    }
    target.unmap()
}

fn exclusions() -> Result<(), String> {
    let small = |flags, what: &str| {
        let area = Area::map(0, 2 * LARGE, BOTH, flags)?;
        area.word(0).store(1, Ordering::Relaxed);
        ensure(area.says("AnonHugePages")? == 0, what)?;
        area.unmap()
    };
    small(MAP_STACK, "a stack in large pages")?;
    let area = Area::new(1)?;
    area.advise(libc::MADV_NOHUGEPAGE)?;
    area.word(0).store(1, Ordering::Relaxed);
    ensure(area.says("AnonHugePages")? == 0, "MADV_NOHUGEPAGE")?;
    area.unmap()?;
    let prctl = |option, value: u64| {
        // SAFETY: numbers only.
        unsafe { libc::prctl(option, value, 0u64, 0u64, 0u64) }
    };
    ensure(prctl(libc::PR_GET_THP_DISABLE, 0) == 0, "PR_GET_THP_DISABLE")?;
    ensure(prctl(libc::PR_SET_THP_DISABLE, 1) == 0, "PR_SET_THP_DISABLE")?;
    ensure(prctl(libc::PR_GET_THP_DISABLE, 0) == 1, "PR_GET_THP_DISABLE does not say it")?;
    let area = Area::new(1)?;
    area.word(0).store(1, Ordering::Relaxed);
    let disabled = area.says("AnonHugePages")?;
    ensure(prctl(libc::PR_SET_THP_DISABLE, 0) == 0, "PR_SET_THP_DISABLE")?;
    ensure(disabled == 0, "PR_SET_THP_DISABLE does not hold")?;
    area.unmap()?;
    let read = || std::fs::read_to_string(SWITCH).map_err(|e| format!("{SWITCH}: {e}"));
    let write = |mode: &str| std::fs::write(SWITCH, mode).map_err(|e| format!("{SWITCH}: {e}"));
    ensure(read()? == "[always] madvise never\n", "another mode than expected")?;
    write("never\n")?;
    let area = Area::new(1)?;
    area.word(0).store(1, Ordering::Relaxed);
    let (said, found) = (read()?, area.says("AnonHugePages")?);
    let nonsense = write("sometimes").is_err();
    write("always")?;
    ensure(said == "always madvise [never]\n" && found == 0 && nonsense, "the mode does not hold")?;
    area.unmap()
}

/// Two threads store to pages of large pages while the pages beside them change rights and go: no store is lost.
fn threads() -> Result<(), String> {
    const ROUNDS: usize = 60;
    let area = Area::new(2)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let count = |page: usize| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                // Not one step: another copy of the page would show.
                let word = area.word(page * PAGE);
                word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                n += 1;
            }
            (n, area.word(page * PAGE).load(Ordering::Relaxed))
        };
        let counters = [9, 600].map(|page| scope.spawn(move || count(page)));
        let mut done = Ok(());
        for round in 0..ROUNDS {
            let beside = area.part((10 + round % 490) * PAGE, 3 * PAGE);
            done = done.and(beside.protect(PROT_READ)).and(beside.protect(BOTH));
            done = done.and(beside.advise(libc::MADV_DONTNEED));
            // The other one whole, but for the page that is in use: large again the next time.
            let after = area.part(LARGE + 100 * PAGE, LARGE - 100 * PAGE);
            done = done.and(after.advise(libc::MADV_DONTNEED));
            let fresh = Area::new(1).and_then(|new| {
                new.word(0).store(1, Ordering::Relaxed);
                new.part(PAGE, PAGE).unmap()?;
                new.unmap()
            });
            done = done.and(fresh);
        }
        stop.store(true, Ordering::Relaxed);
        for counter in counters {
            let (n, found) = counter.join().map_err(|_| "a thread panicked".to_owned())?;
            done = done.and(ensure(n == found, &format!("{n} stores, {found} found")));
        }
        done
    })?;
    // Several threads that want the same page at once.
    let area = Area::new(4)?;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for large in 0..4 {
                    area.word(large * LARGE + thread * PAGE).fetch_add(thread as u64 + 1, Ordering::Relaxed);
                }
            });
        }
    });
    let right =
        |at: usize| area.word(at / 4 * LARGE + at % 4 * PAGE).load(Ordering::Relaxed) == at as u64 % 4 + 1;
    ensure((0..16).all(right), "a thread's store is lost")?;
    area.consists_of(4, 4 * LARGE, "four threads")?;
    area.unmap()
}

/// The kernel reads and writes large pages, and brings them in itself.
fn copies() -> Result<(), String> {
    let area = Area::new(3)?;
    area.fill();
    // SAFETY: ours, and nobody else looks.
    let bytes = unsafe { std::slice::from_raw_parts_mut(area.at as *mut u8, area.len) };
    let path = "/data/large";
    std::fs::File::create(path).and_then(|mut f| f.write_all(bytes)).map_err(|e| format!("write: {e}"))?;
    area.advise(libc::MADV_DONTNEED)?;
    std::fs::File::open(path).and_then(|mut f| f.read_exact(bytes)).map_err(|e| format!("read: {e}"))?;
    area.is_filled(0)?;
    area.consists_of(3, 3 * LARGE, "read into")?;
    std::fs::remove_file(path).map_err(|e| e.to_string())?;
    area.unmap()
}

/// Free memory in single pages: large ones are not to be had, and small ones take their place.
fn fragments() -> Result<usize, String> {
    let free = || figure("/proc/meminfo", "MemFree").map(|kib| kib * 1024);
    let refused = || figure("/proc/vmstat", "thp_fault_fallback");
    let holes = Area::map(0, free()? * 5 / 8 / LARGE * LARGE, BOTH, 0)?;
    holes.advise(libc::MADV_NOHUGEPAGE)?;
    holes.fill();
    for page in (0..holes.len).step_by(2 * PAGE) {
        holes.part(page, PAGE).advise(libc::MADV_DONTNEED)?;
    }
    let before = refused()?;
    let area = Area::new(free()? * 3 / 4 / LARGE)?;
    area.fill();
    area.is_filled(0)?;
    let large = area.says("AnonHugePages")? * 1024;
    ensure(refused()? > before && large < area.len, "every large page found a block")?;
    area.unmap()?;
    holes.unmap()?;
    Ok(area.len - large)
}

/// Large pages of which a word each is used, and then a program that needs the memory: it gets what they do not use.
fn pressure() -> Result<usize, String> {
    let total = figure("/proc/meminfo", "MemFree")? * 1024;
    let area = Area::new(total * 5 / 8 / LARGE)?;
    for at in (0..area.len).step_by(LARGE) {
        area.word(at + LARGE / 2 + 8).store(at as u64 + 1, Ordering::Relaxed);
    }
    let large = area.says("AnonHugePages")? * 1024;
    ensure(large > total / 3, &format!("only {large} of {total} in large pages"))?;
    let hungry = Area::map(0, (total - large / 2) / LARGE * LARGE, BOTH, 0)?;
    hungry.advise(libc::MADV_NOHUGEPAGE)?;
    hungry.fill();
    hungry.is_filled(0)?;
    for at in (0..area.len).step_by(LARGE) {
        let found = area.word(at + LARGE / 2 + 8).load(Ordering::Relaxed);
        ensure(found == at as u64 + 1, &format!("a word became {found}"))?;
        ensure(area.word(at + 8).load(Ordering::Relaxed) == 0, "zeros became something")?;
    }
    ensure(figure("/proc/vmstat", "thp_underused_split_page")? > 0, "no large page was split")?;
    hungry.unmap()?;
    area.unmap()?;
    Ok(hungry.len)
}

/// Waits until the figures of `before` are there again: the last transaction group may still hold something.
fn settles(before: &[usize; 3]) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = figures()?;
        // A page of the heap more, or the table of an area.
        let slack = [256, 0, 4096];
        if now.iter().zip(before).zip(slack).all(|((now, before), slack)| *now <= before + slack) {
            return Ok(());
        }
        ensure(Instant::now() < deadline, &format!("not given back: {before:?} before, {now:?} after"))?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Private memory, large pages, page tables, in KiB.
fn figures() -> Result<[usize; 3], String> {
    Ok([
        figure("/proc/tarn/counters", "anonymous")?,
        figure("/proc/meminfo", "AnonHugePages")?,
        figure("/proc/tarn/counters", "page_tables")?,
    ])
}

/// The check.
pub fn run() -> Result<String, String> {
    // The heap and the buffers of this program have the size that they need.
    copies()?;
    let before = figures()?;
    parts().map_err(|e| format!("parts: {e}"))?;
    moves().map_err(|e| format!("moves: {e}"))?;
    exclusions().map_err(|e| format!("exclusions: {e}"))?;
    threads().map_err(|e| format!("threads: {e}"))?;
    copies().map_err(|e| format!("copies: {e}"))?;
    settles(&before)?;
    let small = fragments().map_err(|e| format!("fragments: {e}"))?;
    let hungry = pressure().map_err(|e| format!("pressure: {e}"))?;
    settles(&before)?;
    Ok(format!("{} MiB in small pages among fragments, {} MiB got by splitting", small >> 20, hungry >> 20))
}
