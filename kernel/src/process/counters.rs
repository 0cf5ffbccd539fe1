//! What the kernel holds, in figures: `/proc/tarn/counters`, `/proc/meminfo`, and a line on the console every so many seconds
//! (`tarn.stats=SECONDS`).
//!
//! The figures are read one after another while the machine runs. When nothing changes they add up: what of all memory is
//! neither free nor somebody's is [`Counters::other`], the rings of devices. It does not grow, or frames are lost.

use super::{all, kstat};
use crate::abi::futex;
use crate::mm::{file_pages, frame, heap, page_table, phys, stack};
use crate::{boot, network, println, sched, time};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::fmt::Write;

const SECOND: u64 = 1_000_000_000;

/// The figures. Memory is in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// Memory that the kernel manages: all but what the boot took.
    pub total: u64,
    /// Of that, free.
    pub free: u64,
    /// Page tables.
    pub page_tables: u64,
    /// Stacks of threads, those that wait for a next thread included.
    pub stacks: u64,
    /// Heap: objects up to 2 KiB.
    pub slab: u64,
    /// Heap: larger blocks, most of them the cache's.
    pub large: u64,
    /// Data in the cache, as far as it counts towards its limit: it lies in the heap.
    pub cache: u64,
    /// Private pages of programs.
    pub anonymous: u64,
    /// Pages of programs that are shared and not the cache's own.
    pub shared: u64,
    /// What is left.
    pub other: u64,
    /// Processes.
    pub processes: u64,
    /// Threads, the kernel's included.
    pub threads: u64,
    /// Open descriptors of all processes.
    pub descriptors: u64,
    /// Threads that sleep on a word of memory.
    pub futex_waiters: u64,
    /// Alarms of sleepers, and timers of programs.
    pub timers: u64,
    /// Sockets that have a port.
    pub sockets: u64,
}

impl Counters {
    /// The figures now.
    pub fn now() -> Self {
        const KIB: u64 = phys::FRAME_SIZE / 1024;
        let (slab, large) = heap::pages();
        let (threads, alarms) = sched::counts();
        let processes = all();
        let descriptors = processes.iter().map(|p| p.fds.count()).sum::<usize>();
        let timers = alarms + processes.iter().map(|p| p.timers.lock().len()).sum::<usize>();
        let (tables, stacks) = (page_table::tables(), stack::pages());
        let (anonymous, shared) = (page_table::private_pages(), file_pages::owned_pages());
        let (total, free) = (frame::total(), frame::free_count());
        let known = free + tables + stacks + slab + large + anonymous + shared;
        Counters {
            total: total * KIB,
            free: free * KIB,
            page_tables: tables * KIB,
            stacks: stacks * KIB,
            slab: slab * KIB,
            large: large * KIB,
            cache: kstat::arc_size() / 1024,
            anonymous: anonymous * KIB,
            shared: shared * KIB,
            other: total.saturating_sub(known) * KIB,
            processes: processes.len() as u64,
            threads: threads as u64,
            descriptors: descriptors as u64,
            futex_waiters: futex::sleepers() as u64,
            timers: timers as u64,
            sockets: network::stack().bound_sockets() as u64,
        }
    }

    fn named(&self) -> [(&'static str, u64); 16] {
        [
            ("total", self.total),
            ("free", self.free),
            ("page_tables", self.page_tables),
            ("stacks", self.stacks),
            ("slab", self.slab),
            ("large", self.large),
            ("cache", self.cache),
            ("anonymous", self.anonymous),
            ("shared", self.shared),
            ("other", self.other),
            ("processes", self.processes),
            ("threads", self.threads),
            ("descriptors", self.descriptors),
            ("futex_waiters", self.futex_waiters),
            ("timers", self.timers),
            ("sockets", self.sockets),
        ]
    }

    /// One line: `name=value` with blanks between.
    fn line(&self) -> String {
        self.named().map(|(name, value)| format!("{name}={value}")).join(" ")
    }
}

/// `/proc/tarn/counters`: a name and a value a line.
pub fn file() -> String {
    Counters::now().named().map(|(name, value)| format!("{name} {value}\n")).concat()
}

/// `/proc/meminfo`, as far as Linux's lines have a meaning here: the cache is what Linux calls cached, and available, as it is
/// given back when memory is short.
pub fn meminfo() -> String {
    let c = Counters::now();
    let mut text = String::new();
    for (name, value) in [
        ("MemTotal", c.total),
        ("MemFree", c.free),
        ("MemAvailable", c.free + c.cache),
        ("Buffers", 0),
        ("Cached", c.cache),
        ("SwapCached", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("AnonPages", c.anonymous),
        ("AnonHugePages", page_table::large_pages() * page_table::LARGE / 1024),
        ("Shmem", c.shared),
        ("Slab", c.slab),
        ("KernelStack", c.stacks),
        ("PageTables", c.page_tables),
    ] {
        // A String takes everything.
        let _ = writeln!(text, "{:<15} {value:8} kB", format!("{name}:"));
    }
    // `MAP_HUGETLB` is refused: there are none of these pages.
    for name in ["Total", "Free", "Rsvd", "Surp"] {
        let _ = writeln!(text, "{:<15} {:8}", format!("HugePages_{name}:"), 0);
    }
    text.push_str("Hugepagesize:       2048 kB\nHugetlb:               0 kB\n");
    text
}

/// Prints a line from now on, if the kernel's command line says so.
pub fn start() {
    let Some(text) = boot::info().cmdline().get("tarn.stats") else { return };
    let Some(period) = text.parse::<u64>().ok().filter(|seconds| *seconds > 0) else {
        println!("tarn.stats={text} is not understood: it is a number of seconds");
        return;
    };
    let print = move || {
        let mut next = time::monotonic_ns();
        loop {
            let at = time::monotonic_ns() / (SECOND / 1000);
            println!("stats at={}.{:03} {}", at / 1000, at % 1000, Counters::now().line());
            next = next.saturating_add(period.saturating_mul(SECOND));
            sched::sleep(next.saturating_sub(time::monotonic_ns()));
        }
    };
    drop(sched::spawn("stats", Box::new(print)));
}
