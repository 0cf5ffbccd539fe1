//! When the kernel itself is wrong: the message, registers, a backtrace with names, and the end.

use crate::arch::trap::{self, TrapFrame};
use crate::arch::{self, cpu};
use crate::console::Unlocked;
use crate::mm::{frame, phys, stack};
use crate::{power, sched, symbols};
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

/// Exit status of a machine whose kernel panicked.
pub const PANIC_STATUS: u8 = 125;
const MAX_FRAMES: usize = 48;

static PANICKING: AtomicBool = AtomicBool::new(false);

fn begin() {
    if PANICKING.swap(true, Ordering::SeqCst) {
        // A panic while reporting one, or on a second processor.
        arch::halt();
    }
    power::stop_other_cpus();
}

fn heading() {
    let (free, total) = (frame::free_count() * 4, frame::total() * 4);
    let _ = writeln!(
        Unlocked,
        "tarn: {free} KiB of {total} are free, {} KiB in a row at most",
        frame::largest() * 4
    );
    let _ = if sched::is_running() {
        writeln!(Unlocked, "tarn: processor {}, {:?}", cpu::this().index, sched::current_thread())
    } else {
        writeln!(Unlocked, "tarn: before the first thread")
    };
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    arch::interrupts_off();
    begin();
    let _ = match info.location() {
        Some(at) => {
            writeln!(Unlocked, "\ntarn: kernel panic at {}:{}: {}", at.file(), at.line(), info.message())
        }
        None => writeln!(Unlocked, "\ntarn: kernel panic: {}", info.message()),
    };
    heading();
    let rbp: u64;
    // SAFETY: reads the frame pointer.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) }
    backtrace(None, rbp);
    power::exit(PANIC_STATUS)
}

/// The report needs more room than an IST stack or the last bytes of an overflowing one have.
#[repr(C, align(16))]
struct ReportStack([u8; 16 * 1024]);
static mut REPORT_STACK: ReportStack = ReportStack([0; 16 * 1024]);

/// An exception that nobody could handle, in the kernel or before an application exists.
pub extern "C" fn kernel_exception(frame: &TrapFrame, address: u64) -> ! {
    arch::interrupts_off();
    begin();
    let top = &raw mut REPORT_STACK as u64 + size_of::<ReportStack>() as u64;
    // SAFETY: `begin` lets one caller in, once; the frame stays where it is.
    unsafe {
        core::arch::asm!("mov rsp, {}", "call {}", in(reg) top, sym report, in("rdi") frame, in("rsi") address,
            options(noreturn));
    }
}

extern "C" fn report(frame: &TrapFrame, address: u64) -> ! {
    let _ = writeln!(Unlocked, "\ntarn: kernel exception: {} ({})", trap::name(frame.vector), frame.vector);
    if frame.vector == 14 {
        let what = match (frame.error & 16, frame.error & 2) {
            (0, 0) => "reading",
            (0, _) => "writing",
            _ => "executing",
        };
        let note = if stack::is_guard(address) { ": the kernel stack has overflowed" } else { "" };
        let _ = writeln!(Unlocked, "tarn: {what} address {address:#x}{note}");
    } else if frame.error != 0 {
        let _ = writeln!(Unlocked, "tarn: error code {:#x}", frame.error);
    }
    heading();
    let _ = writeln!(Unlocked, "{frame}");
    backtrace(Some(frame.rip), frame.rbp);
    power::exit(PANIC_STATUS)
}

/// A non-maskable interrupt: somebody (`nmi` in QEMU's monitor) asks what this processor does.
pub fn non_maskable_interrupt(frame: &TrapFrame) {
    let _ = writeln!(Unlocked, "\ntarn: non-maskable interrupt on processor {}", cpu::this().index);
    let _ = writeln!(Unlocked, "{frame}");
    backtrace(Some(frame.rip), frame.rbp);
}

/// Prints the chain of frame pointers from `rbp` on, below `first` if given. Stops at anything that is not a kernel
/// stack.
pub fn backtrace(first: Option<u64>, mut rbp: u64) {
    let mut number = 0;
    let mut show = |address: u64| {
        let _ = match symbols::find(address) {
            Some((name, offset)) => {
                writeln!(Unlocked, "tarn: {number:3}: {address:016x} {name:#}+{offset:#x}")
            }
            None => writeln!(Unlocked, "tarn: {number:3}: {address:016x}"),
        };
        number += 1;
    };
    if let Some(first) = first {
        show(first);
    }
    for _ in 0..MAX_FRAMES {
        let on_stack = (stack::REGION..stack::REGION + (1 << 39)).contains(&rbp) || rbp >= phys::KERNEL_BASE;
        if !on_stack || !rbp.is_multiple_of(8) || stack::is_guard(rbp) || rbp > u64::MAX - 4096 {
            break;
        }
        // SAFETY: a kernel stack: mapped, as it lies in the image or above a guard page of a stack in use.
        let (next, caller) = unsafe { ((rbp as *const u64).read(), ((rbp + 8) as *const u64).read()) };
        if caller == 0 {
            break;
        }
        // The call is the instruction before the return address.
        show(caller - 1);
        if next <= rbp {
            break;
        }
        rbp = next;
    }
}
