//! The processor: entry points, descriptor tables, traps, interrupt controllers, page tables, FPU state, SMP.
//!
//! # Invariants
//! - **FS belongs to the application** (its thread pointer); **GS belongs to the kernel** and points to
//!   [`cpu::PerCpu`]. Kernel and application both run in ring 0; the kernel lives in the high half of every address
//!   space, the application in the low half.
//! - Every vector enters on an IST stack, because application code (and precompiled `core`) keeps data below `rsp`.
//! - Kernel code uses legacy SSE only, except for checksum crates that find AVX by cpuid. So whoever enters the
//!   kernel from the application and may run more than an interrupt handler saves the whole FPU state ([`fpu`]).

pub mod apic;
pub mod cpu;
pub mod fpu;
pub mod gdt;
pub mod ioapic;
pub mod irq;
pub mod memory_functions;
pub mod paging;
pub mod port;
pub mod random;
pub mod smp;
pub mod tlb;
pub mod trap;

use x86_64::instructions::interrupts;

core::arch::global_asm!(include_str!("boot.s"));

/// Lets interrupts in.
#[inline]
pub fn interrupts_on() {
    interrupts::enable();
}

/// Keeps interrupts out.
#[inline]
pub fn interrupts_off() {
    interrupts::disable();
}

/// Whether this processor takes interrupts.
#[inline]
pub fn interrupts_enabled() -> bool {
    interrupts::are_enabled()
}

/// Keeps interrupts out while it lives; nests.
pub struct IrqGuard {
    were_on: bool,
}

impl IrqGuard {
    /// Switches interrupts off.
    #[inline]
    pub fn new() -> Self {
        let were_on = interrupts_enabled();
        interrupts_off();
        IrqGuard { were_on }
    }
}

impl Default for IrqGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for IrqGuard {
    #[inline]
    fn drop(&mut self) {
        if self.were_on {
            interrupts_on();
        }
    }
}

/// Stops this processor for ever.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// The time-stamp counter.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: rdtsc exists on every 64-bit processor.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// cpuid, all zero for a leaf that the processor does not have.
pub fn cpuid(leaf: u32, subleaf: u32) -> core::arch::x86_64::CpuidResult {
    use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
    let none = CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    let base = leaf & 0xf000_0000;
    let highest = __cpuid(base).eax;
    if base == 0x4000_0000 || (highest >= leaf && highest & 0xf000_0000 == base) {
        __cpuid_count(leaf, subleaf)
    } else {
        none
    }
}

/// What is where hypervisors say who they are: of meaning only if there is one.
pub fn hypervisor() -> [u8; 12] {
    let leaf = cpuid(0x4000_0000, 0);
    let mut name = [0; 12];
    name.copy_from_slice([leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).as_flattened());
    name
}

/// Whether the machine is QEMU's emulator.
pub fn is_emulated() -> bool {
    static EMULATED: spin::LazyLock<bool> = spin::LazyLock::new(|| hypervisor() == *b"TCGTCGTCGTCG");
    *EMULATED
}
