//! The floating-point and vector state.
//!
//! Kernel code changes only legacy SSE registers (which every trap saves in its frame) — but for checksum code that
//! uses AVX after asking cpuid. So the *whole* state is saved where the application's code, or any interrupted code,
//! makes room for arbitrary kernel code: at system calls, at page faults, at preemption. A voluntary switch between
//! threads is a function call and saves only the control words.

use super::cpuid;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// All SSE exceptions masked, round to nearest.
pub const DEFAULT_MXCSR: u32 = 0x1f80;

/// Enough for x87, SSE, AVX, AVX-512 and PKRU.
const AREA_SIZE: usize = 2816;

/// A saved state.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct FpuState {
    area: [u8; AREA_SIZE],
}

/// Components that we let the processor manage: x87, SSE, AVX, AVX-512 (3), PKRU.
const WANTED: u64 = 0b10_1110_0111;

static FEATURES: AtomicU64 = AtomicU64::new(0);
static SIZE: AtomicU32 = AtomicU32::new(512);

const CR4_OSXSAVE: u64 = 1 << 18;

/// Switches on XSAVE on the calling processor, where there is one.
pub fn init_cpu() {
    if cpuid(1, 0).ecx & 1 << 26 != 0 {
        let leaf = cpuid(0xd, 0);
        let mut features = (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & WANTED;
        loop {
            // SAFETY: XSAVE exists; x87 and SSE are in `features` (architecturally always offered).
            unsafe {
                let mut cr4: u64;
                asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
                cr4 |= CR4_OSXSAVE;
                asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
                asm!("xsetbv", in("ecx") 0, in("eax") features as u32, in("edx") (features >> 32) as u32,
                    options(nomem, nostack, preserves_flags));
            }
            let size = cpuid(0xd, 0).ebx;
            if size as usize <= AREA_SIZE {
                SIZE.store(size, Ordering::Relaxed);
                break;
            }
            // A processor with a larger layout than any known: do without AVX-512.
            features &= 0b111;
        }
        FEATURES.store(features, Ordering::Relaxed);
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

impl FpuState {
    /// The state of a program that starts.
    pub fn initial() -> Self {
        let mut state = FpuState { area: [0; AREA_SIZE] };
        state.area[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        state.area[24..28].copy_from_slice(&DEFAULT_MXCSR.to_le_bytes());
        state
    }

    /// The bytes in XSAVE's standard format.
    pub fn bytes(&self) -> &[u8] {
        &self.area[..state_size()]
    }

    /// Replaces the state by bytes in XSAVE's standard format (from a signal frame); reserved bits that would fault
    /// are cleared.
    pub fn set_bytes(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(state_size());
        self.area[..n].copy_from_slice(&bytes[..n]);
        let mxcsr = u32::from_le_bytes([self.area[24], self.area[25], self.area[26], self.area[27]]) & 0xffff;
        self.area[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        if self.area.len() > 576 {
            let mut header = [0; 8];
            header.copy_from_slice(&self.area[512..520]);
            let present = u64::from_le_bytes(header) & features();
            self.area[512..520].copy_from_slice(&present.to_le_bytes());
            self.area[520..576].fill(0);
        }
    }
}

impl FpuState {
    /// Puts in xmm0-15 and mxcsr.
    pub fn set_sse(&mut self, xmm: &[u128; 16], mxcsr: u32) {
        self.area[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        for (slot, value) in self.area[160..416].chunks_exact_mut(16).zip(xmm) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        if features() != 0 {
            // The component bitmap: SSE is present now.
            self.area[512] |= 2;
        }
    }

    /// xmm0-15 and mxcsr.
    pub fn sse(&self) -> ([u128; 16], u32) {
        let mut xmm = [0; 16];
        for (value, slot) in xmm.iter_mut().zip(self.area[160..416].chunks_exact(16)) {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(slot);
            *value = u128::from_le_bytes(bytes);
        }
        if features() != 0 && self.area[512] & 2 == 0 {
            xmm = [0; 16];
        }
        (xmm, u32::from_le_bytes([self.area[24], self.area[25], self.area[26], self.area[27]]))
    }
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
    let mut state = core::mem::MaybeUninit::<FpuState>::uninit();
    // SAFETY: the area is large and aligned enough (checked against cpuid in `init_cpu`). XSAVE reads the header it
    // writes, so the header is cleared first; bytes beyond are never read without being named in the header.
    unsafe {
        let area = state.as_mut_ptr().cast::<u8>();
        save_to(area);
        state.assume_init()
    }
}

/// # Safety
/// `area` is 64-byte aligned and holds [`state_size`] bytes.
#[inline]
unsafe fn save_to(area: *mut u8) {
    // SAFETY: promised by the caller.
    unsafe {
        if features() != 0 {
            area.add(512).write_bytes(0, 64);
            asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
        } else {
            asm!("fxsave64 [{}]", in(reg) area, options(nostack));
        }
    }
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
