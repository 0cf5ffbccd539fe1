//! `tarn.selftest=app`: code in the low half, as an application's: interrupts, preemption and exceptions must leave its
//! red zone and all its registers alone, and must not need its stack to be mapped.

use crate::arch::paging::{self, Flags};
use crate::arch::trap::{self, Hooks, TrapFrame};
use crate::arch::{cpu, fpu};
use crate::mm::{frame, phys};
use crate::{println, sched};
use alloc::boxed::Box;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

const CODE: u64 = 0x40_0000;
const STACK: u64 = 0x50_0000;

static FINISHED: AtomicU64 = AtomicU64::new(0);
static RETURNS: AtomicU64 = AtomicU64::new(0);

// rdi = rounds, rsi = own value, rdx = 1 if rsp is mapped; ends by int3 with rax = number of errors.
global_asm!(
    ".section .rodata.selftest_app, \"a\"",
    ".globl selftest_app_code, selftest_app_end",
    "selftest_app_code:",
    "xor eax, eax",
    "movq xmm9, rsi",
    "mov r8, rsi",
    "not r8",
    "movq xmm3, r8",
    "mov r15, rsi",
    "mov rbp, rsi",
    "2:",
    "test edx, edx",
    "je 3f",
    "mov [rsp-8], rdi",
    "mov [rsp-128], rdi",
    "3:",
    "mov ecx, 200",
    "4: dec ecx",
    "jnz 4b",
    "test edx, edx",
    "je 5f",
    "cmp [rsp-8], rdi",
    "jne 9f",
    "cmp [rsp-128], rdi",
    "jne 9f",
    "5:",
    "movq r9, xmm9",
    "cmp r9, rsi",
    "jne 9f",
    "movq r9, xmm3",
    "cmp r9, r8",
    "jne 9f",
    "cmp r15, rsi",
    "jne 9f",
    "cmp rbp, rsi",
    "jne 9f",
    "jmp 8f",
    "9: inc eax",
    "8: dec rdi",
    "jnz 2b",
    "int3",
    "selftest_app_end:",
    ".text",
);

unsafe extern "C" {
    static selftest_app_code: u8;
    static selftest_app_end: u8;
}

fn on_exception(frame: &mut TrapFrame, address: u64) -> bool {
    if frame.vector != 3 || !frame.from_app() {
        println!(
            "selftest: unexpected {} at {:#x}, address {address:#x}",
            trap::name(frame.vector),
            frame.rip
        );
        return false;
    }
    assert_eq!(frame.rax, 0, "registers or red zone of the application changed");
    FINISHED.fetch_add(1, Ordering::SeqCst);
    sched::exit()
}

fn on_return(frame: &mut TrapFrame) {
    // The code's first instructions load the register.
    let settled = frame.rip > CODE + 0x20;
    assert!(
        !settled || fpu::saved().is_some_and(|state| state.sse().0[9] as u64 == frame.rsi),
        "saved FPU state"
    );
    RETURNS.fetch_add(1, Ordering::Relaxed);
}

/// Runs application code on twice as many threads as there are processors.
pub fn run() {
    trap::set_hooks(Hooks {
        exception: on_exception,
        return_to_app: on_return,
        wants_return: || true,
        holds: || false,
        let_go: || (),
    });
    let len = &raw const selftest_app_end as usize - &raw const selftest_app_code as usize;
    let code = frame::alloc_zeroed().expect("a frame");
    // SAFETY: one frame of ours; the code is shorter.
    unsafe { core::ptr::copy_nonoverlapping(&raw const selftest_app_code, phys::to_virt(code), len) };
    paging::map_kernel(CODE, code, Flags::empty());
    let threads = cpu::count() as u64 * 2;
    for i in 0..threads {
        let mapped = i % 2;
        let stack = STACK + i * 0x2000;
        if mapped == 1 {
            let memory = frame::alloc_zeroed().expect("a frame");
            paging::map_kernel(stack, memory, Flags::WRITABLE | Flags::NO_EXECUTE);
        }
        drop(sched::spawn(
            "application",
            Box::new(move || {
                let mut frame = TrapFrame::new(CODE, stack + 0x800);
                (frame.rdi, frame.rsi, frame.rdx) = (150_000, 0x1234_5678_9abc + i, mapped);
                sched::current_thread().set_cr3(phys::kernel_pml4());
                fpu::reset();
                // SAFETY: the code is mapped and ends by an exception; this closure owns nothing.
                unsafe { trap::enter_app(&frame) }
            }),
        ));
    }
    while FINISHED.load(Ordering::SeqCst) < threads {
        sched::sleep(1_000_000);
    }
    println!("selftest: app: {threads} threads, {} returns by interrupts", RETURNS.load(Ordering::Relaxed));
}
