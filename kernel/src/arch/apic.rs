//! The local APIC, by xAPIC (memory-mapped) or x2APIC (registers) access.

use super::port::{outb, rdmsr, wrmsr};
use super::{IrqGuard, cpu, cpuid};
use crate::mm::phys;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// End of a time slice, or a sleeper's alarm.
pub const TIMER_VECTOR: u8 = 0xef;
/// Another processor has put a thread into this one's queue.
pub const RESCHEDULE_VECTOR: u8 = 0xee;
/// Another processor has changed page tables.
pub const FLUSH_VECTOR: u8 = 0xed;
/// Stop for ever (power-off, panic).
pub const STOP_VECTOR: u8 = 0xec;
/// Raised by the APIC when an interrupt vanishes; takes no end-of-interrupt.
pub const SPURIOUS_VECTOR: u8 = 0xff;

const MSR_APIC_BASE: u32 = 0x1b;

const ID: u32 = 0x20;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const ICR_LOW: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;
const MASKED: u32 = 1 << 16;

static X2APIC: AtomicBool = AtomicBool::new(false);
static BASE: AtomicU64 = AtomicU64::new(0);
/// Timer ticks per nanosecond, after the division by 16, in 2⁻³².
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(0);

fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        rdmsr(0x800 + (register >> 4)) as u32
    } else {
        // SAFETY: BASE is the mapped APIC page; the register exists.
        unsafe { ((BASE.load(Ordering::Relaxed) + u64::from(register)) as *const u32).read_volatile() }
    }
}

fn write(register: u32, value: u32) {
    // SAFETY: the registers written here control interrupts of this processor alone.
    unsafe {
        if X2APIC.load(Ordering::Relaxed) {
            wrmsr(0x800 + (register >> 4), u64::from(value));
        } else {
            ((BASE.load(Ordering::Relaxed) + u64::from(register)) as *mut u32).write_volatile(value);
        }
    }
}

/// Finds the APIC, switches on the boot processor's and silences the legacy interrupt controllers.
pub fn init() {
    // The 8259s start at vector 8; a spurious interrupt of theirs must not look like a double fault.
    for (port, value) in
        [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0xa0, 0x11), (0xa1, 0x28), (0xa1, 2), (0xa1, 1)]
    {
        outb(port, value);
    }
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    let has_x2apic = cpuid(1, 0).ecx & 1 << 21 != 0;
    X2APIC.store(has_x2apic, Ordering::Relaxed);
    if !has_x2apic {
        let physical = rdmsr(MSR_APIC_BASE) & 0x000f_ffff_ffff_f000;
        BASE.store(phys::map_device(physical, 4096), Ordering::Relaxed);
    }
    init_cpu();
}

/// Switches on the calling processor's APIC.
pub fn init_cpu() {
    let mut base = rdmsr(MSR_APIC_BASE) | 1 << 11;
    if X2APIC.load(Ordering::Relaxed) {
        base |= 1 << 10;
    }
    // SAFETY: enables the APIC in the mode that `read` and `write` use.
    unsafe { wrmsr(MSR_APIC_BASE, base) };
    write(SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(TIMER_DIVIDE, 0b0011);
    write(LVT_TIMER, u32::from(TIMER_VECTOR));
}

/// The calling processor's APIC id.
pub fn id() -> u32 {
    if X2APIC.load(Ordering::Relaxed) { read(ID) } else { read(ID) >> 24 }
}

/// Ends the interrupt in service.
#[inline]
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Sends `vector` to processor `to`.
pub fn send(to: &cpu::PerCpu, vector: u8) {
    send_icr(to.apic_id, u32::from(vector));
}

/// Sends `vector` to all other processors.
pub fn send_others(vector: u8) {
    let me = cpu::this().index;
    for cpu in cpu::all().filter(|c| c.index != me && c.online.load(Ordering::Relaxed)) {
        send(cpu, vector);
    }
}

/// Writes the interrupt command register: `command` in the layout of its low word.
pub fn send_icr(apic_id: u32, command: u32) {
    let _irq = IrqGuard::new();
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: sends an interrupt to a processor that is ready for it.
        unsafe { wrmsr(0x830, u64::from(apic_id) << 32 | u64::from(command)) };
        return;
    }
    while read(ICR_LOW) & 1 << 12 != 0 {
        core::hint::spin_loop();
    }
    write(ICR_HIGH, apic_id << 24);
    write(ICR_LOW, command);
}

/// Sets the timer's frequency as found by calibration (before the division), in Hz.
pub fn set_timer_frequency(hz: u64) {
    TICKS_PER_NS.store((((u128::from(hz) / 16) << 32) / 1_000_000_000) as u64, Ordering::Relaxed);
}

/// Starts the timer at its highest count; [`timer_elapsed`] tells how far it came. For calibration.
pub fn timer_start() {
    write(LVT_TIMER, MASKED | u32::from(TIMER_VECTOR));
    write(TIMER_INITIAL, u32::MAX);
}

/// Undivided ticks since [`timer_start`].
pub fn timer_elapsed() -> u64 {
    u64::from(u32::MAX - read(TIMER_CURRENT)) * 16
}

/// Raises [`TIMER_VECTOR`] once, `ns` nanoseconds from now. One write: an emulated processor leaves its translated code for each.
pub fn set_timer(ns: u64) {
    let ticks = (u128::from(ns) * u128::from(TICKS_PER_NS.load(Ordering::Relaxed))) >> 32;
    write(TIMER_INITIAL, (ticks + 1).min(u128::from(u32::MAX)) as u32);
}

/// Ends the calibration that [`timer_start`] began.
pub fn stop_timer() {
    write(TIMER_INITIAL, 0);
    write(LVT_TIMER, u32::from(TIMER_VECTOR));
}
