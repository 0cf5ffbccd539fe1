//! The floating-point and vector state.
//!
//! - **Preemption** may come anywhere: it saves the *whole* state before other code runs.
//! - **System calls and exceptions** save the legacy SSE registers, which all kernel code may change. The others (x87, the upper halves
//!   of ymm, AVX-512 …) stay where they are, and most never touch them. They are put in safety by [`vacate`]
//!   at the moment somebody needs them, and come back at the end of the call. Two need them: another thread that
//!   gets the processor while this one waits, and hash or cipher code that uses AVX after asking cpuid
//!   ([`platform::thread::use_vectors`]).
//! - A voluntary switch between threads is a function call and saves only the control words.

use super::cpuid;
use alloc::boxed::Box;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::xcontrol::{XCr0, XCr0Flags};

/// All SSE exceptions masked, round to nearest.
pub const DEFAULT_MXCSR: u32 = 0x1f80;

/// Enough for x87, SSE, AVX, AVX-512 and PKRU.
const AREA_SIZE: usize = 2816;

/// A saved state. The first [`state_size`] bytes are initialised, no others.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct FpuState {
    area: [MaybeUninit<u8>; AREA_SIZE],
}

/// Components that we let the processor manage: x87, SSE, AVX, AVX-512 (3), PKRU.
const WANTED: XCr0Flags = XCr0Flags::X87
    .union(XCr0Flags::SSE)
    .union(XCr0Flags::AVX)
    .union(XCr0Flags::OPMASK)
    .union(XCr0Flags::ZMM_HI256)
    .union(XCr0Flags::HI16_ZMM)
    .union(XCr0Flags::MPK);

static FEATURES: AtomicU64 = AtomicU64::new(0);
static SIZE: AtomicU32 = AtomicU32::new(512);

/// Switches on XSAVE on the calling processor, where there is one.
pub fn init_cpu() {
    if cpuid(1, 0).ecx & 1 << 26 != 0 {
        let leaf = cpuid(0xd, 0);
        let offered = XCr0Flags::from_bits_truncate(u64::from(leaf.edx) << 32 | u64::from(leaf.eax));
        let mut features = offered & WANTED;
        loop {
            // SAFETY: XSAVE exists, and the processor offers these components (x87 and SSE always).
            unsafe {
                Cr4::update(|cr4| *cr4 |= Cr4Flags::OSXSAVE);
                XCr0::write_raw(features.bits());
            }
            let size = cpuid(0xd, 0).ebx;
            if size as usize <= AREA_SIZE {
                SIZE.store(size, Ordering::Relaxed);
                break;
            }
            // A processor with a larger layout than any known: do without AVX-512.
            features &= XCr0Flags::X87.union(XCr0Flags::SSE).union(XCr0Flags::AVX);
        }
        FEATURES.store(features.bits(), Ordering::Relaxed);
    }
    reset();
}

/// Bytes of the state that the processor writes (what a signal frame must hold).
pub fn state_size() -> usize {
    SIZE.load(Ordering::Relaxed) as usize
}

/// XCR0, or 0 without XSAVE.
pub fn features() -> u64 {
    FEATURES.load(Ordering::Relaxed)
}

/// The state of a program that starts.
pub fn reset() {
    let mxcsr = DEFAULT_MXCSR;
    // SAFETY: sets control registers to their defaults.
    unsafe { asm!("fninit", "ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack)) }
}

/// Where the legacy area keeps mxcsr and xmm0-15; the XSAVE header behind it.
const MXCSR: core::ops::Range<usize> = 24..28;
const XMM: core::ops::Range<usize> = 160..416;
const HEADER: core::ops::Range<usize> = 512..576;
/// In the header's first byte: the SSE registers are not in their initial state.
const SSE_PRESENT: u8 = 2;

impl FpuState {
    fn zeroed() -> Self {
        let mut state = FpuState { area: [MaybeUninit::uninit(); AREA_SIZE] };
        state.area[..state_size()].fill(MaybeUninit::new(0));
        state
    }

    /// The state of a program that starts.
    pub fn initial() -> Self {
        let mut state = Self::zeroed();
        state.bytes_mut()[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        state.bytes_mut()[MXCSR].copy_from_slice(&DEFAULT_MXCSR.to_le_bytes());
        state
    }

    /// The bytes in XSAVE's standard format.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: initialised by `zeroed`.
        unsafe { core::slice::from_raw_parts(self.area.as_ptr().cast(), state_size()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        unsafe { core::slice::from_raw_parts_mut(self.area.as_mut_ptr().cast(), state_size()) }
    }

    fn mxcsr(&self) -> u32 {
        self.bytes()[MXCSR].iter().rev().fold(0, |n, b| n << 8 | u32::from(*b))
    }

    /// Replaces the state by bytes in XSAVE's standard format (from a signal frame); reserved bits that would fault
    /// are cleared.
    pub fn set_bytes(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(state_size());
        let known = features().to_le_bytes();
        let area = self.bytes_mut();
        area[..n].copy_from_slice(&bytes[..n]);
        area[MXCSR.start + 2..MXCSR.end].fill(0);
        if let Some(header) = area.get_mut(HEADER) {
            for (byte, mask) in header.iter_mut().zip(known.into_iter().chain(core::iter::repeat(0))) {
                *byte &= mask;
            }
        }
    }

    /// Puts in xmm0-15 and mxcsr.
    pub fn set_sse(&mut self, xmm: &[u128; 16], mxcsr: u32) {
        let area = self.bytes_mut();
        area[MXCSR].copy_from_slice(&mxcsr.to_le_bytes());
        for (slot, value) in area[XMM].chunks_exact_mut(16).zip(xmm) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        if let Some(header) = area.get_mut(HEADER) {
            header[0] |= SSE_PRESENT;
        }
    }

    /// xmm0-15 and mxcsr.
    pub fn sse(&self) -> ([u128; 16], u32) {
        let area = self.bytes();
        let mut xmm = [0; 16];
        if area.get(HEADER).is_none_or(|header| header[0] & SSE_PRESENT != 0) {
            for (value, slot) in xmm.iter_mut().zip(area[XMM].as_chunks::<16>().0) {
                *value = u128::from_le_bytes(*slot);
            }
        }
        (xmm, self.mxcsr())
    }
}

/// Where the registers that the application had beyond SSE are while its thread is in a system call.
#[repr(u8)]
enum Place {
    /// No system call is under way: they belong to whoever runs.
    Nowhere,
    /// In the registers.
    Registers,
    /// In the thread's own memory.
    Memory,
}

/// What an application thread keeps for [`vacate`]. Touched by the thread itself alone, or by its processor with
/// interrupts off while it is switched away.
#[derive(Default)]
pub struct Beyond {
    place: AtomicU8,
    state: UnsafeCell<Option<Box<FpuState>>>,
}

/// All components but SSE, which the entry of a system call saves.
fn beyond_sse() -> u64 {
    features() & !2
}

/// A system call begins: what the application has in its registers beyond SSE stays there for now.
#[inline]
pub fn enter_call() {
    crate::sched::current_thread().beyond.place.store(Place::Registers as u8, Ordering::Relaxed);
}

/// A system call ends: the application's registers beyond SSE are as they were.
#[inline]
pub fn leave_call() {
    let beyond = &crate::sched::current_thread().beyond;
    if beyond.place.swap(Place::Nowhere as u8, Ordering::Relaxed) != Place::Memory as u8 {
        return;
    }
    // SAFETY: only this thread changes it, and not now.
    let Some(state) = (unsafe { (*beyond.state.get()).as_deref() }) else { return };
    let mask = beyond_sse();
    // SAFETY: saved by `vacate`, or made by `FpuState::initial`.
    unsafe {
        if mask != 0 {
            asm!("xrstor64 [{}]", in(reg) &raw const state.area, in("eax") mask as u32, in("edx") (mask >> 32) as u32,
                options(nostack));
        } else {
            asm!("fxrstor64 [{}]", in(reg) &raw const state.area, options(nostack));
        }
    }
}

/// The call will not go back to what the application had: its registers beyond SSE become those of a program that
/// starts.
pub fn replace_in_call() {
    let beyond = &crate::sched::current_thread().beyond;
    // SAFETY: by the thread itself; preemption does not look at it.
    unsafe { *beyond.state.get() = Some(Box::new(FpuState::initial())) };
    beyond.place.store(Place::Memory as u8, Ordering::Relaxed);
}

/// Puts the application's registers beyond SSE in safety, if they are still live in the running thread.
#[inline]
pub fn vacate() {
    let beyond = &crate::sched::current_thread().beyond;
    if beyond.place.load(Ordering::Relaxed) == Place::Registers as u8 {
        vacate_now(beyond);
    }
}

#[cold]
fn vacate_now(beyond: &Beyond) {
    let _irq = super::IrqGuard::new();
    // Zeroed: XSAVE reads the header it writes, and leaves out what is in its initial state.
    // SAFETY: by the thread itself or as it is switched away, and nobody comes between.
    let state = unsafe { (*beyond.state.get()).get_or_insert_with(|| Box::new(FpuState::zeroed())) };
    let (area, mask) = (state.area.as_mut_ptr(), beyond_sse());
    // SAFETY: as in `save`.
    unsafe {
        if mask != 0 {
            asm!("xsave64 [{}]", in(reg) area, in("eax") mask as u32, in("edx") (mask >> 32) as u32, options(nostack));
        } else {
            asm!("fxsave64 [{}]", in(reg) area, options(nostack));
        }
    }
    beyond.place.store(Place::Memory as u8, Ordering::Relaxed);
}

/// Runs `hook` while `state` is what [`saved`] gives.
pub fn publish<R>(state: &mut FpuState, hook: impl FnOnce() -> R) -> R {
    let thread = crate::sched::current_thread();
    let before = thread.saved_fpu.swap(state, Ordering::Relaxed);
    let result = hook();
    thread.saved_fpu.store(before, Ordering::Relaxed);
    result
}

/// The FPU state of the application, as its thread entered the kernel by the trap that is being handled: what a
/// signal frame shows and may change. `None` outside of the trap hooks.
pub fn saved() -> Option<&'static mut FpuState> {
    // SAFETY: set by `publish` for the time that the state lives on this very kernel stack; only the running thread
    // asks, so there is one user at a time.
    unsafe { crate::sched::current_thread().saved_fpu.load(Ordering::Relaxed).as_mut() }
}

/// Saves the calling processor's state.
#[inline]
pub fn save() -> FpuState {
    // Zeroed: XSAVE reads the header it writes, and leaves out what is in its initial state.
    let mut state = FpuState::zeroed();
    let area = state.area.as_mut_ptr();
    // SAFETY: the area is aligned and large enough (checked against cpuid in `init_cpu`).
    unsafe {
        if features() != 0 {
            asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
        } else {
            asm!("fxsave64 [{}]", in(reg) area, options(nostack));
        }
    }
    state
}

/// Restores a state on the calling processor.
#[inline]
pub fn restore(state: &FpuState) {
    // SAFETY: saved by `save`, made by `initial`, or cleaned by `set_bytes`.
    unsafe {
        if features() != 0 {
            asm!("xrstor64 [{}]", in(reg) &raw const state.area, in("eax") u32::MAX, in("edx") u32::MAX,
                options(nostack));
        } else {
            asm!("fxrstor64 [{}]", in(reg) &raw const state.area, options(nostack));
        }
    }
}
