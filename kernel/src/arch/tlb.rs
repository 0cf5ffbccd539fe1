//! Forgetting translations on all processors that may hold them.

use super::{IrqGuard, apic, cpu, interrupts_enabled};
use crate::sync::IrqLock;
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::VirtAddr;
use x86_64::instructions::tlb::{flush, flush_all};

/// Beyond so many pages a full flush is cheaper.
const MAX_SINGLE: u64 = 32;

static RANGE: IrqLock<()> = IrqLock::new(());
static START: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
/// Processors that have yet to answer the current request, one bit each.
static PENDING: AtomicU64 = AtomicU64::new(0);

/// Forgets the translations of `start..end` (page-aligned) on this processor.
pub fn flush_local(start: u64, end: u64) {
    if end.saturating_sub(start) / 4096 > MAX_SINGLE {
        // By reloading CR3, which keeps global translations; the kernel uses none.
        flush_all();
        return;
    }
    let mut page = start & !4095;
    while page < end {
        flush(VirtAddr::new_truncate(page));
        page += 4096;
    }
}

/// Forgets the translations of `start..end` in the address space `root` (physical address of its top table) on all
/// processors that have it loaded; `root` 0 = the kernel's half, so on all. Returns when it is done everywhere.
///
/// Not with an [`IrqLock`] held that an interrupt handler on another processor could want: this waits for them.
pub fn shootdown(root: u64, start: u64, end: u64) {
    {
        let _irq = IrqGuard::new();
        if root == 0 || cpu::this().root.load(Ordering::Relaxed) == root {
            flush_local(start, end);
        }
    }
    if cpu::count() == 1 {
        return;
    }
    // One request at a time. While waiting for the turn, answer others' requests, or two processors with interrupts
    // off would wait for each other.
    let guard = loop {
        if let Some(guard) = RANGE.try_lock() {
            break guard;
        }
        if !interrupts_enabled() {
            answer();
        }
        core::hint::spin_loop();
    };
    START.store(start, Ordering::Relaxed);
    END.store(end, Ordering::Relaxed);
    let me = cpu::this().index;
    let concerned = |c: &&cpu::PerCpu| {
        c.index != me
            && c.online.load(Ordering::Acquire)
            && (root == 0 || c.root.load(Ordering::SeqCst) == root)
    };
    let mut mask = 0;
    for cpu in cpu::all().filter(concerned) {
        mask |= 1 << cpu.index;
    }
    PENDING.store(mask, Ordering::SeqCst);
    for cpu in cpu::all().filter(|c| mask & 1 << c.index != 0) {
        apic::send(cpu, apic::FLUSH_VECTOR);
    }
    while PENDING.load(Ordering::SeqCst) != 0 {
        core::hint::spin_loop();
    }
    drop(guard);
}

/// Answers a request of another processor, if there is one.
pub fn answer() {
    let bit = 1 << cpu::this().index;
    if PENDING.load(Ordering::SeqCst) & bit != 0 {
        flush_local(START.load(Ordering::Relaxed), END.load(Ordering::Relaxed));
        PENDING.fetch_and(!bit, Ordering::SeqCst);
    }
}
