//! The switch between two kernel stacks.

use core::arch::naked_asm;

/// Saves the callee-saved state on the current stack and its pointer in `*from`, and goes on with stack `to`.
///
/// # Safety
/// Interrupts are off; `to` was saved by this function or made by [`prepare`].
#[unsafe(naked)]
pub(super) unsafe extern "C" fn switch_stacks(from: *mut u64, to: u64) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "fnstcw [rsp+4]",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "ldmxcsr [rsp]",
        "fldcw [rsp+4]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// Lays out a new stack so that the first switch to it enters [`super::thread::start`]; the stack pointer to save.
///
/// # Safety
/// `top` is the 16-aligned end of an unused stack.
pub(super) unsafe fn prepare(top: u64) -> u64 {
    let start = super::thread::start as extern "C" fn() -> ! as usize as u64;
    // From below: control words, six registers, where to return to, and a zero that ends backtraces there. After the
    // return rsp is 8 below a multiple of 16, as after a call.
    let words = [0x037f_0000_1f80, 0, 0, 0, 0, 0, 0, start, 0];
    let rsp = top - size_of_val(&words) as u64;
    // SAFETY: promised by the caller.
    unsafe { (rsp as *mut [u64; 9]).write(words) };
    rsp
}
