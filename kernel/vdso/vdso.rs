//! The vDSO: clock calls that a program makes without entering the kernel.
//!
//! A small shared object that `build.rs` compiles and links, and that the kernel maps into every program, behind the page
//! [`Page`] with what it needs to know. It is position independent, has no data of its own and calls nothing.
//! What it does not know (clocks of processor time …) it asks the kernel for.
#![no_std]
#![crate_type = "lib"]

include!("page.rs");

use core::arch::asm;
use core::sync::atomic::{Ordering, fence};

const DONE: i64 = 0;
const SECOND: u64 = 1_000_000_000;
const CLOCK_GETTIME: u64 = 228;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// `struct timespec` and `struct timeval`.
#[repr(C)]
pub struct Time {
    seconds: i64,
    fraction: i64,
}

fn page() -> *const Page {
    let page: *const Page;
    // SAFETY: the linker script puts the name one page below the image, where the kernel maps the page.
    unsafe {
        asm!("lea {}, [rip + tarn_time_page]", out(reg) page, options(nomem, nostack, preserves_flags, pure))
    };
    page
}

/// Nanoseconds since boot, and since 1970.
#[inline(always)]
fn now() -> (u64, i64) {
    let page = page();
    loop {
        // SAFETY: the page is mapped for as long as the program runs; a change is noticed by the sequence number.
        let (before, read, after) = unsafe {
            let before = (&raw const (*page).sequence).read_volatile();
            fence(Ordering::Acquire);
            let read = (&raw const (*page).clock).read_volatile();
            fence(Ordering::Acquire);
            (before, read, (&raw const (*page).sequence).read_volatile())
        };
        if before == after && before % 2 == 0 {
            // SAFETY: every 64-bit processor has it.
            let tsc = unsafe { core::arch::x86_64::_rdtsc() };
            let ns = ((tsc.saturating_sub(read.base) as u128 * read.multiplier as u128) >> 32) as u64;
            return (ns, read.wall.wrapping_add(ns as i64));
        }
    }
}

#[inline(always)]
fn split(ns: i64) -> Time {
    Time { seconds: ns.div_euclid(SECOND as i64), fraction: ns.rem_euclid(SECOND as i64) }
}

/// `clock_gettime`.
///
/// # Safety
/// `to` is valid, as for the system call it need not be: the C library passes what the program gave it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_gettime(clock: i32, to: *mut Time) -> i64 {
    let time = match clock {
        // REALTIME, REALTIME_COARSE
        0 | 5 => split(now().1),
        // MONOTONIC, MONOTONIC_RAW, MONOTONIC_COARSE, BOOTTIME
        1 | 4 | 6 | 7 => split(now().0 as i64),
        _ => {
            let result: i64;
            // SAFETY: a system call that checks its arguments.
            unsafe {
                asm!("syscall", inlateout("rax") CLOCK_GETTIME => result, in("rdi") clock as i64, in("rsi") to,
                    lateout("rcx") _, lateout("r11") _, options(nostack));
            }
            return result;
        }
    };
    // SAFETY: promised by the caller.
    unsafe { to.write(time) };
    DONE
}

/// `clock_getres`: a nanosecond for the clocks that are answered here.
///
/// # Safety
/// As for `__vdso_clock_gettime`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_getres(clock: i32, to: *mut Time) -> i64 {
    if !matches!(clock, 0 | 1 | 4..=7) {
        let result: i64;
        // SAFETY: a system call that checks its arguments.
        unsafe {
            asm!("syscall", inlateout("rax") CLOCK_GETTIME + 1 => result, in("rdi") clock as i64, in("rsi") to,
                lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        return result;
    }
    if !to.is_null() {
        // SAFETY: promised by the caller.
        unsafe { to.write(Time { seconds: 0, fraction: 1 }) };
    }
    DONE
}

/// `gettimeofday`.
///
/// # Safety
/// As for `__vdso_clock_gettime`; both pointers may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_gettimeofday(to: *mut Time, zone: *mut u64) -> i64 {
    // SAFETY: promised by the caller.
    unsafe {
        if !to.is_null() {
            let time = split(now().1);
            to.write(Time { fraction: time.fraction / 1000, ..time });
        }
        if !zone.is_null() {
            zone.write(0);
        }
    }
    DONE
}

/// `time`.
///
/// # Safety
/// As for `__vdso_clock_gettime`; the pointer may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_time(to: *mut i64) -> i64 {
    let seconds = split(now().1).seconds;
    if !to.is_null() {
        // SAFETY: promised by the caller.
        unsafe { to.write(seconds) };
    }
    seconds
}

/// `getcpu`: programs run with the kernel's GS, which points to the processor's own data.
///
/// # Safety
/// As for `__vdso_clock_gettime`; the pointers may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_getcpu(cpu: *mut u32, node: *mut u32, _unused: u64) -> i64 {
    let index: u64;
    // SAFETY: reads a word of the processor's data.
    unsafe {
        asm!("mov {}, gs:[{at}]", out(reg) index, at = const CPU_INDEX_OFFSET,
            options(nostack, preserves_flags, readonly));
        if !cpu.is_null() {
            cpu.write(index as u32);
        }
        if !node.is_null() {
            node.write(0);
        }
    }
    DONE
}
