//! Per-processor data, reached through GS.

use super::gdt::{Gdt, IstStacks, Tss};
use crate::sched::Thread;
use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{FsBase, GsBase};

/// Highest number of processors: one bit each in a word.
pub const MAX_CPUS: usize = 64;

/// Offset of `kernel_stack` (top of the running thread's kernel stack) from GS: where `syscall` entries switch to.
pub const KERNEL_STACK_OFFSET: usize = 8;
/// Offset of a word that a `syscall` entry may use with interrupts off (to keep the application's `rsp`).
pub const SCRATCH_OFFSET: usize = 16;
/// Offset of `current` (the running thread) from GS.
pub const CURRENT_OFFSET: usize = 24;

/// One processor's own data.
#[repr(C)]
pub struct PerCpu {
    // The first four are read by assembly: see the offsets above.
    this: *const PerCpu,
    /// Top of the running thread's kernel stack.
    pub kernel_stack: AtomicU64,
    /// For `syscall` entries.
    pub scratch: AtomicU64,
    /// The running thread; never null once the scheduler runs.
    pub current: AtomicPtr<Thread>,
    /// Number of this processor, from 0.
    pub index: usize,
    /// Its local APIC's id.
    pub apic_id: u32,
    /// It takes part in scheduling.
    pub online: AtomicBool,
    /// The running thread has used up its slice.
    pub need_resched: AtomicBool,
    /// How deeply preemption is forbidden beyond interrupts being off.
    pub preempt_off: AtomicU32,
    /// Interrupts taken.
    pub interrupts: AtomicU64,
    /// Physical address of the loaded top page table.
    pub root: AtomicU64,
    gdt: UnsafeCell<Gdt>,
    tss: UnsafeCell<Tss>,
    stacks: UnsafeCell<IstStacks>,
}

// SAFETY: the cells are touched by their own processor alone, before it takes interrupts; the rest is atomic.
unsafe impl Sync for PerCpu {}
// SAFETY: as above.
unsafe impl Send for PerCpu {}

const _: () = {
    assert!(core::mem::offset_of!(PerCpu, current) == CURRENT_OFFSET);
    assert!(core::mem::offset_of!(PerCpu, kernel_stack) == KERNEL_STACK_OFFSET);
    assert!(core::mem::offset_of!(PerCpu, scratch) == SCRATCH_OFFSET);
};

impl PerCpu {
    const fn new(index: usize, apic_id: u32) -> Self {
        PerCpu {
            this: core::ptr::null(),
            kernel_stack: AtomicU64::new(0),
            scratch: AtomicU64::new(0),
            current: AtomicPtr::new(core::ptr::null_mut()),
            index,
            apic_id,
            online: AtomicBool::new(false),
            need_resched: AtomicBool::new(false),
            preempt_off: AtomicU32::new(0),
            interrupts: AtomicU64::new(0),
            root: AtomicU64::new(0),
            gdt: UnsafeCell::new(Gdt::empty()),
            tss: UnsafeCell::new(Tss::new()),
            stacks: UnsafeCell::new(IstStacks::new()),
        }
    }
}

static BOOT_CPU: PerCpu = PerCpu::new(0, 0);
static CPUS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Gives the boot processor its data, descriptor tables and gates. The first thing the kernel does.
pub fn init_boot_cpu() {
    super::gdt::fill_idt();
    install(&BOOT_CPU);
}

/// Makes the data of a further processor, which will call [`install`] with it.
pub fn prepare(apic_id: u32) -> Option<&'static PerCpu> {
    let index = count();
    (index < MAX_CPUS).then(|| &*Box::leak(Box::new(PerCpu::new(index, apic_id))))
}

/// Loads GS, GDT, TSS and IDT of the calling processor.
pub fn install(cpu: &'static PerCpu) {
    // SAFETY: this processor alone uses these fields, interrupts are off, and nothing reads `this` before.
    unsafe {
        let this = &raw const cpu.this as *mut *const PerCpu;
        // The field is written once, before GS points here; going through a raw pointer avoids a Cell in the layout.
        this.write(cpu);
        super::gdt::load(&mut *cpu.gdt.get(), &mut *cpu.tss.get(), &*cpu.stacks.get());
    }
    GsBase::write(VirtAddr::from_ptr(cpu));
    CPUS[cpu.index].store(cpu as *const PerCpu as *mut PerCpu, Ordering::Release);
    COUNT.fetch_max(cpu.index + 1, Ordering::AcqRel);
}

/// The calling processor's data. With interrupts on, the caller may be moved to another processor at any time.
#[inline]
pub fn this() -> &'static PerCpu {
    let this: *const PerCpu;
    // SAFETY: GS points to the processor's PerCpu from the first lines of the kernel on, and that is never freed.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, readonly));
        &*this
    }
}

/// The running thread: one load, so right even where the caller may be moved.
#[inline]
pub fn current_ptr() -> *const Thread {
    let current: *const Thread;
    // SAFETY: as in `this`.
    unsafe {
        core::arch::asm!("mov {}, gs:[{offset}]", out(reg) current, offset = const CURRENT_OFFSET,
            options(nostack, preserves_flags, readonly));
    }
    current
}

/// How many processors there are.
pub fn count() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// Processor `index`, below [`count`].
pub fn get(index: usize) -> Option<&'static PerCpu> {
    let cpu = CPUS.get(index)?.load(Ordering::Acquire);
    // SAFETY: once stored, it is never freed or changed.
    unsafe { cpu.as_ref() }
}

/// All processors.
pub fn all() -> impl Iterator<Item = &'static PerCpu> {
    (0..count()).filter_map(get)
}

/// Sets the FS base of this processor: the application's thread pointer.
#[inline]
pub fn set_fs_base(base: u64) {
    // Only programs use FS; their addresses are canonical (`arch_prctl` and `clone` look).
    FsBase::write(VirtAddr::new_truncate(base));
}
