//! What a C library and an unwinder would provide: the memory functions that LLVM calls by name.
//!
//! No `rep movsb`: an emulated processor (QEMU's TCG) runs it byte by byte, and real ones take some 30 cycles to
//! start it. Overlapping SSE2 moves are good everywhere. Written in assembly, so that LLVM cannot recognise a loop
//! as a call of itself. They only use legacy SSE, which leaves the upper halves of ymm registers alone.

use core::arch::naked_asm;

/// Assembly that copies 64 bytes from `rsi` to `rdi` and advances both; changes xmm0-3.
macro_rules! copy_64 {
    () => {
        concat!(
            "movups xmm0, [rsi]\n movups xmm1, [rsi+16]\n movups xmm2, [rsi+32]\n movups xmm3, [rsi+48]\n",
            "movups [rdi], xmm0\n movups [rdi+16], xmm1\n movups [rdi+32], xmm2\n movups [rdi+48], xmm3\n",
            "add rsi, 64\n add rdi, 64\n",
        )
    };
}
pub(crate) use copy_64;

/// `memcpy(3)`; as good as `memmove`, so it is the same code.
///
/// # Safety
/// As in C: `n` bytes readable at `s` and writable at `d`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memcpy(d: *mut u8, s: *const u8, n: usize) -> *mut u8 {
    naked_asm!("jmp {memmove}", memmove = sym memmove)
}

/// `memmove(3)`.
///
/// # Safety
/// As in C: `n` bytes readable at `s` and writable at `d`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memmove(d: *mut u8, s: *const u8, n: usize) -> *mut u8 {
    // Up to 64 bytes: everything is loaded before the first store. Longer: the end that the loop may overwrite
    // before reaching it is loaded first (xmm4-7) and stored last.
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 5f",
        "cmp rdx, 32",
        "ja 2f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi+rdx-16]",
        "movups [rdi], xmm0",
        "movups [rdi+rdx-16], xmm1",
        "ret",
        "2: cmp rdx, 64",
        "ja 2f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi+16]",
        "movups xmm2, [rsi+rdx-32]",
        "movups xmm3, [rsi+rdx-16]",
        "movups [rdi], xmm0",
        "movups [rdi+16], xmm1",
        "movups [rdi+rdx-32], xmm2",
        "movups [rdi+rdx-16], xmm3",
        "ret",
        "2: mov rcx, rdi",
        "sub rcx, rsi",
        "cmp rcx, rdx",
        "jb 4f",
        // forward
        "movups xmm4, [rsi+rdx-64]",
        "movups xmm5, [rsi+rdx-48]",
        "movups xmm6, [rsi+rdx-32]",
        "movups xmm7, [rsi+rdx-16]",
        "lea r8, [rdi+rdx-64]",
        "3:",
        copy_64!(),
        "cmp rdi, r8",
        "jb 3b",
        "movups [r8], xmm4",
        "movups [r8+16], xmm5",
        "movups [r8+32], xmm6",
        "movups [r8+48], xmm7",
        "ret",
        // backward
        "4: movups xmm4, [rsi]",
        "movups xmm5, [rsi+16]",
        "movups xmm6, [rsi+32]",
        "movups xmm7, [rsi+48]",
        "lea r8, [rdi+64]",
        "add rsi, rdx",
        "add rdi, rdx",
        "3: movups xmm0, [rsi-64]",
        "movups xmm1, [rsi-48]",
        "movups xmm2, [rsi-32]",
        "movups xmm3, [rsi-16]",
        "movups [rdi-64], xmm0",
        "movups [rdi-48], xmm1",
        "movups [rdi-32], xmm2",
        "movups [rdi-16], xmm3",
        "sub rsi, 64",
        "sub rdi, 64",
        "cmp rdi, r8",
        "ja 3b",
        "movups [rax], xmm4",
        "movups [rax+16], xmm5",
        "movups [rax+32], xmm6",
        "movups [rax+48], xmm7",
        "ret",
        // fewer than 16
        "5: cmp edx, 8",
        "jb 2f",
        "mov rcx, [rsi]",
        "mov r8, [rsi+rdx-8]",
        "mov [rdi], rcx",
        "mov [rdi+rdx-8], r8",
        "ret",
        "2: cmp edx, 4",
        "jb 2f",
        "mov ecx, [rsi]",
        "mov r8d, [rsi+rdx-4]",
        "mov [rdi], ecx",
        "mov [rdi+rdx-4], r8d",
        "ret",
        "2: test edx, edx",
        "je 2f",
        // 1, 2 or 3: the first, the middle and the last byte cover it
        "movzx ecx, byte ptr [rsi]",
        "movzx r8d, byte ptr [rsi+rdx-1]",
        "mov r10, rdx",
        "shr r10, 1",
        "movzx r9d, byte ptr [rsi+r10]",
        "mov [rdi], cl",
        "mov [rdi+r10], r9b",
        "mov [rdi+rdx-1], r8b",
        "2: ret",
    )
}

/// `memset(3)`.
///
/// # Safety
/// As in C: `n` bytes writable at `d`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memset(d: *mut u8, c: i32, n: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "movzx esi, sil",
        "movabs rcx, 0x0101010101010101",
        "imul rsi, rcx",
        "cmp rdx, 16",
        "jb 5f",
        "movq xmm0, rsi",
        "punpcklqdq xmm0, xmm0",
        "lea r8, [rdi+rdx-16]",
        "cmp rdx, 64",
        "jb 4f",
        "lea r9, [rdi+rdx-64]",
        "3: movups [rdi], xmm0",
        "movups [rdi+16], xmm0",
        "movups [rdi+32], xmm0",
        "movups [rdi+48], xmm0",
        "add rdi, 64",
        "cmp rdi, r9",
        "jbe 3b",
        "4: cmp rdi, r8",
        "jae 2f",
        "movups [rdi], xmm0",
        "add rdi, 16",
        "jmp 4b",
        "2: movups [r8], xmm0",
        "ret",
        "5: cmp edx, 8",
        "jb 2f",
        "mov [rdi], rsi",
        "mov [rdi+rdx-8], rsi",
        "ret",
        "2: cmp edx, 4",
        "jb 2f",
        "mov [rdi], esi",
        "mov [rdi+rdx-4], esi",
        "ret",
        "2: test edx, edx",
        "je 2f",
        "mov [rdi], sil",
        "mov [rdi+rdx-1], sil",
        "shr edx, 1",
        "mov [rdi+rdx], sil",
        "2: ret",
    )
}

/// `memcmp(3)`.
///
/// # Safety
/// As in C: `n` bytes readable at `a` and at `b`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    naked_asm!(
        "xor ecx, ecx",
        "2: lea r8, [rcx+8]",
        "cmp r8, rdx",
        "ja 3f",
        "mov rax, [rdi+rcx]",
        "mov r9, [rsi+rcx]",
        "mov rcx, r8",
        "cmp rax, r9",
        "je 2b",
        // the first differing byte decides: compare as big-endian numbers
        "bswap rax",
        "bswap r9",
        "cmp rax, r9",
        "sbb eax, eax",
        "or eax, 1",
        "ret",
        "3: cmp rcx, rdx",
        "jae 4f",
        "movzx eax, byte ptr [rdi+rcx]",
        "movzx r8d, byte ptr [rsi+rcx]",
        "inc rcx",
        "sub eax, r8d",
        "je 3b",
        "ret",
        "4: xor eax, eax",
        "ret",
    )
}

/// `bcmp(3)`: LLVM calls it where only equality matters.
///
/// # Safety
/// As for [`memcmp`].
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    naked_asm!("jmp {memcmp}", memcmp = sym memcmp)
}

/// `strlen(3)`.
///
/// # Safety
/// As in C: a readable string that ends with a zero byte.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn strlen(s: *const u8) -> usize {
    naked_asm!("xor eax, eax", "2: cmp byte ptr [rdi+rax], 0", "je 3f", "inc rax", "jmp 2b", "3: ret")
}

/// The precompiled `core` and `alloc` refer to it as they were built to unwind; with `panic = "abort"` nothing calls it.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() -> ! {
    panic!("unwinding in a kernel that aborts")
}

/// See [`rust_eh_personality`].
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding in a kernel that aborts")
}
