//! Copies between the kernel and the application's memory, which may be missing at any moment.
//!
//! A fault inside [`copy`] that the address space cannot resolve ends it with an error instead of stopping the kernel:
//! the exception hook asks [`fixup`]. It is not `memmove`, because here a word of four or eight bytes must be one access:
//! it may be a futex that other threads change. The caller holds no lock that a page fault takes (address space, file pages).

use crate::arch::memory_functions::copy_64;
use core::arch::naked_asm;
use vfs::Errno;

/// First address behind what an application can use.
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// A raw copy of `len` bytes; 0 if it went through.
///
/// # Safety
/// One side is kernel memory of `len` bytes, the other lies below [`USER_END`].
#[unsafe(naked)]
unsafe extern "C" fn copy_raw(to: *mut u8, from: *const u8, len: usize) -> u64 {
    naked_asm!(
        ".globl tarn_user_copy_start",
        "tarn_user_copy_start:",
        "cmp rdx, 64",
        "jb 2f",
        "1:",
        copy_64!(),
        "sub rdx, 64",
        "cmp rdx, 64",
        "jae 1b",
        "2: cmp rdx, 8",
        "jb 4f",
        "3: mov rax, [rsi]",
        "mov [rdi], rax",
        "add rsi, 8",
        "add rdi, 8",
        "sub rdx, 8",
        "cmp rdx, 8",
        "jae 3b",
        // Four aligned bytes are one access: futex words are read through here.
        "4: cmp rdx, 4",
        "jb 5f",
        "mov eax, [rsi]",
        "mov [rdi], eax",
        "add rsi, 4",
        "add rdi, 4",
        "sub rdx, 4",
        "5: test rdx, rdx",
        "jz 7f",
        "6: mov al, [rsi]",
        "mov [rdi], al",
        "inc rsi",
        "inc rdi",
        "dec rdx",
        "jnz 6b",
        "7: xor eax, eax",
        "ret",
        ".globl tarn_user_copy_end",
        "tarn_user_copy_end:",
        ".globl tarn_user_copy_failed",
        "tarn_user_copy_failed:",
        "mov eax, 1",
        "ret",
    )
}

/// Stores `new` at `at` if `expected` stands there, in one step; 0 if it went through, and what stood there in `old`.
///
/// # Safety
/// `at` lies below [`USER_END`] and is a multiple of 4; `old` is kernel memory.
#[unsafe(naked)]
unsafe extern "C" fn exchange_raw(at: *mut u32, expected: u32, new: u32, old: *mut u32) -> u64 {
    naked_asm!(
        "mov eax, esi",
        ".globl tarn_user_exchange_start",
        "tarn_user_exchange_start:",
        "lock cmpxchg [rdi], edx",
        ".globl tarn_user_exchange_end",
        "tarn_user_exchange_end:",
        "mov [rcx], eax",
        "xor eax, eax",
        "ret",
        ".globl tarn_user_exchange_failed",
        "tarn_user_exchange_failed:",
        "mov eax, 1",
        "ret",
    )
}

unsafe extern "C" {
    static tarn_user_copy_start: u8;
    static tarn_user_copy_end: u8;
    static tarn_user_copy_failed: u8;
    static tarn_user_exchange_start: u8;
    static tarn_user_exchange_end: u8;
    static tarn_user_exchange_failed: u8;
}

/// Where to go on after a fault at kernel address `rip`, if that was here.
pub fn fixup(rip: u64) -> Option<u64> {
    let copy = &raw const tarn_user_copy_start as u64..&raw const tarn_user_copy_end as u64;
    let exchange = &raw const tarn_user_exchange_start as u64..&raw const tarn_user_exchange_end as u64;
    if copy.contains(&rip) {
        Some(&raw const tarn_user_copy_failed as u64)
    } else {
        exchange.contains(&rip).then_some(&raw const tarn_user_exchange_failed as u64)
    }
}

/// Checks that `len` bytes at `address` lie where an application may have memory.
pub fn check(address: u64, len: usize) -> Result<(), Errno> {
    let end = address.checked_add(len as u64).ok_or(Errno::EFAULT)?;
    if end <= USER_END { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Copies from the application.
pub fn read(from: u64, to: &mut [u8]) -> Result<(), Errno> {
    check(from, to.len())?;
    // SAFETY: `to` is kernel memory; the other side was checked.
    match unsafe { copy_raw(to.as_mut_ptr(), from as *const u8, to.len()) } {
        0 => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Copies to the application.
pub fn write(to: u64, from: &[u8]) -> Result<(), Errno> {
    check(to, from.len())?;
    // SAFETY: `from` is kernel memory; the other side was checked.
    match unsafe { copy_raw(to as *mut u8, from.as_ptr(), from.len()) } {
        0 => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Changes an aligned word that other threads may change, too, in one step; what stood there before.
pub fn update_u32(at: u64, change: impl Fn(u32) -> u32) -> Result<u32, Errno> {
    check(at, 4)?;
    if !at.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let mut word = [0; 4];
    read(at, &mut word)?;
    let mut expected = u32::from_le_bytes(word);
    loop {
        let mut old = 0;
        // SAFETY: `at` was checked, `old` is ours.
        if unsafe { exchange_raw(at as *mut u32, expected, change(expected), &raw mut old) } != 0 {
            return Err(Errno::EFAULT);
        }
        if old == expected {
            return Ok(old);
        }
        expected = old;
    }
}
