//! Starting the further processors.

use super::{apic, cpu, fpu};
use crate::mm::phys;
use crate::mm::stack::Stack;
use crate::{sched, time};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Physical address of the start-up code; `AP_BASE` in `boot.s`.
const TRAMPOLINE: u64 = 0x8000;
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;

/// The stack of the processor that is being started; read by `boot.s`.
#[unsafe(no_mangle)]
static AP_STACK: AtomicU64 = AtomicU64::new(0);
/// The kernel's top page table; read by `boot.s`.
#[unsafe(no_mangle)]
static AP_ROOT: AtomicU64 = AtomicU64::new(0);
static STARTING: AtomicPtr<cpu::PerCpu> = AtomicPtr::new(core::ptr::null_mut());

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
}

/// Starts the processors with these APIC ids (the calling one is skipped), at most `limit` in all.
pub fn start(apic_ids: &[u32], limit: usize) {
    let me = apic::id();
    let size = &raw const ap_trampoline_end as usize - &raw const ap_trampoline as usize;
    // SAFETY: the first MiB is reserved for this; the source lies in the image, which is linked at its physical
    // address and read through the direct map.
    unsafe {
        let code = phys::to_virt(&raw const ap_trampoline as u64);
        core::ptr::copy_nonoverlapping(code, phys::to_virt(TRAMPOLINE), size);
    }
    AP_ROOT.store(phys::kernel_pml4(), Ordering::SeqCst);
    for &apic_id in apic_ids.iter().filter(|id| **id != me) {
        if cpu::count() >= limit.min(cpu::MAX_CPUS) {
            break;
        }
        if !start_one(apic_id) {
            crate::log!(Error, "processor with APIC id {apic_id} does not start");
        }
    }
}

fn start_one(apic_id: u32) -> bool {
    let (Some(cpu), Some(stack)) = (cpu::prepare(apic_id), Stack::new()) else { return false };
    AP_STACK.store(stack.top(), Ordering::SeqCst);
    // The processor keeps its stack for ever.
    core::mem::forget(stack);
    STARTING.store(cpu as *const cpu::PerCpu as *mut cpu::PerCpu, Ordering::SeqCst);
    apic::send_icr(apic_id, INIT);
    wait(200_000);
    for _ in 0..2 {
        apic::send_icr(apic_id, STARTUP | (TRAMPOLINE >> 12) as u32);
        let deadline = time::monotonic_ns() + 500_000_000;
        while time::monotonic_ns() < deadline {
            if cpu.online.load(Ordering::Acquire) {
                return true;
            }
            core::hint::spin_loop();
        }
    }
    false
}

fn wait(ns: u64) {
    let until = time::monotonic_ns() + ns;
    while time::monotonic_ns() < until {
        core::hint::spin_loop();
    }
}

/// The first Rust code of a further processor, on its own stack and the kernel's page tables.
#[unsafe(no_mangle)]
extern "C" fn ap_entry() -> ! {
    // SAFETY: set by `start_one`, which waits for us; never freed.
    let cpu = unsafe { &*STARTING.load(Ordering::SeqCst) };
    cpu.root.store(phys::kernel_pml4(), Ordering::SeqCst);
    cpu::install(cpu);
    fpu::init_cpu();
    apic::init_cpu();
    crate::init_cpu_layers();
    sched::init_cpu();
    sched::idle_loop()
}
