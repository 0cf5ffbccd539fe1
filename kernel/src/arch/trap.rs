//! Traps: exceptions and interrupts, from the CPU's frame to a Rust function and back.
//!
//! # The way in
//! Every gate uses an IST stack, so the CPU writes nothing near the interrupted `rsp` (red zone). The entry then
//! leaves the IST stack at once, which frees it for the next trap:
//! - interrupted in the **kernel** (`rsp` in the high half): go on below the interrupted stack's red zone;
//! - interrupted in the **application** (low half): go on at the top of the thread's kernel stack. It is empty then,
//!   and the application's own stack may not even be mapped (it is paged on demand).
//!
//! So a handler may sleep, switch threads and be interrupted again.
//!
//! # Hooks for the layers above
//! [`set_hooks`]: exceptions (page faults among them), and the moment before returning to the application.

use super::{apic, fpu, irq};
use crate::sched;
use core::arch::naked_asm;
use core::fmt;
use spin::Once;
use x86_64::registers::control::Cr2;

/// The general registers of the interrupted code. Its FPU state is kept beside, see [`fpu::saved`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<TrapFrame>() == 22 * 8);

impl TrapFrame {
    /// A frame that starts code at `rip` on stack `rsp` with interrupts on and all other registers zero.
    pub fn new(rip: u64, rsp: u64) -> Self {
        TrapFrame {
            rip,
            rsp,
            cs: u64::from(super::gdt::CODE),
            ss: u64::from(super::gdt::DATA),
            rflags: 0x202,
            ..TrapFrame::default()
        }
    }

    /// Whether the application was interrupted, not the kernel.
    #[inline]
    #[expect(clippy::wrong_self_convention, reason = "it says where the frame comes from")]
    pub fn from_app(&self) -> bool {
        (self.rip as i64) >= 0
    }
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rip {:016x}  rsp {:016x}  rflags {:08x}", self.rip, self.rsp, self.rflags)?;
        writeln!(f, "rax {:016x}  rbx {:016x}  rcx {:016x}", self.rax, self.rbx, self.rcx)?;
        writeln!(f, "rdx {:016x}  rsi {:016x}  rdi {:016x}", self.rdx, self.rsi, self.rdi)?;
        writeln!(f, "rbp {:016x}  r8  {:016x}  r9  {:016x}", self.rbp, self.r8, self.r9)?;
        writeln!(f, "r10 {:016x}  r11 {:016x}  r12 {:016x}", self.r10, self.r11, self.r12)?;
        write!(f, "r13 {:016x}  r14 {:016x}  r15 {:016x}", self.r13, self.r14, self.r15)
    }
}

/// Assembly that pushes the registers of a [`TrapFrame`] from `rcx` on; `rdi`, `rsi` and `rdx` are pushed already.
macro_rules! push_further_registers {
    () => {
        concat!(
            "push rcx\n push rax\n push r8\n push r9\n push r10\n push r11\n",
            "push rbx\n push rbp\n push r12\n push r13\n push r14\n push r15\n",
        )
    };
}
pub(crate) use push_further_registers;

/// Assembly that makes a [`SavedSse`] on the stack, which is aligned to 16 bytes.
macro_rules! save_sse {
    () => {
        concat!(
            "sub rsp, 272\n",
            "movaps [rsp+0], xmm0\n",
            "movaps [rsp+16], xmm1\n",
            "movaps [rsp+32], xmm2\n",
            "movaps [rsp+48], xmm3\n",
            "movaps [rsp+64], xmm4\n",
            "movaps [rsp+80], xmm5\n",
            "movaps [rsp+96], xmm6\n",
            "movaps [rsp+112], xmm7\n",
            "movaps [rsp+128], xmm8\n",
            "movaps [rsp+144], xmm9\n",
            "movaps [rsp+160], xmm10\n",
            "movaps [rsp+176], xmm11\n",
            "movaps [rsp+192], xmm12\n",
            "movaps [rsp+208], xmm13\n",
            "movaps [rsp+224], xmm14\n",
            "movaps [rsp+240], xmm15\n",
            "stmxcsr [rsp+256]\n",
        )
    };
}
pub(crate) use save_sse;

/// Assembly that takes a [`SavedSse`] off the stack into the registers.
macro_rules! restore_sse {
    () => {
        concat!(
            "ldmxcsr [rsp+256]\n",
            "movaps xmm0, [rsp+0]\n",
            "movaps xmm1, [rsp+16]\n",
            "movaps xmm2, [rsp+32]\n",
            "movaps xmm3, [rsp+48]\n",
            "movaps xmm4, [rsp+64]\n",
            "movaps xmm5, [rsp+80]\n",
            "movaps xmm6, [rsp+96]\n",
            "movaps xmm7, [rsp+112]\n",
            "movaps xmm8, [rsp+128]\n",
            "movaps xmm9, [rsp+144]\n",
            "movaps xmm10, [rsp+160]\n",
            "movaps xmm11, [rsp+176]\n",
            "movaps xmm12, [rsp+192]\n",
            "movaps xmm13, [rsp+208]\n",
            "movaps xmm14, [rsp+224]\n",
            "movaps xmm15, [rsp+240]\n",
            "add rsp, 272\n",
        )
    };
}
pub(crate) use restore_sse;

/// The SSE registers of the interrupted code, as [`save_sse`] leaves them on the stack.
#[repr(C, align(16))]
pub struct SavedSse {
    xmm: [u128; 16],
    mxcsr: u32,
    pad: [u32; 3],
}

const _: () = assert!(size_of::<SavedSse>() == 272);

impl SavedSse {
    /// Those of a program that starts.
    pub const INITIAL: SavedSse = SavedSse { xmm: [0; 16], mxcsr: fpu::DEFAULT_MXCSR, pad: [0; 3] };

    /// Runs `hook` with the interrupted code's whole FPU state at hand (see [`fpu::saved`]), and puts back what it
    /// leaves there.
    pub fn with_whole_state<R>(&mut self, hook: impl FnOnce() -> R) -> R {
        let mut state = fpu::save();
        // Our own code has used SSE registers in the meantime; those of the interrupted code are here.
        state.set_sse(&self.xmm, self.mxcsr);
        let result = fpu::publish(&mut state, hook);
        fpu::restore(&state);
        (self.xmm, self.mxcsr) = state.sse();
        result
    }
}

/// What the layers above do with traps. They run on the thread's kernel stack with interrupts off (they may switch
/// them on if the interrupted code had them on, and may sleep then); the SSE registers are saved around them.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// An exception (vector and error code in the frame; the second argument is CR2 for page faults, else 0).
    /// `true`: go on with the frame, which the hook may have changed. `false`: nobody can help, the kernel stops.
    pub exception: fn(&mut TrapFrame, u64) -> bool,
    /// Called before an interrupt or exception returns to the application: pending signals, exit. The whole FPU state is
    /// saved around it: see [`fpu::saved`].
    pub return_to_app: fn(&mut TrapFrame),
    /// Whether `return_to_app` has something to do for the running thread. Called with interrupts off; cheap.
    pub wants_return: fn() -> bool,
    /// Whether the running thread has put off something that must not wait for its next turn. Called with interrupts off; cheap.
    pub holds: fn() -> bool,
    /// Lets that go. Called when the timer has interrupted the application, or the thread is about to lose its processor, with its whole
    /// FPU state saved.
    pub let_go: fn(),
}

static HOOKS: Once<Hooks> = Once::new();

/// Installs the hooks; once.
pub fn set_hooks(hooks: Hooks) {
    HOOKS.call_once(|| hooks);
}

/// First vector that is not an exception.
pub const FIRST_IRQ: u8 = 32;

// The stubs: 16 bytes each, so that the IDT is filled by arithmetic.
core::arch::global_asm!(
    ".section .text.trap_stubs, \"ax\"",
    ".balign 16",
    ".globl trap_stubs",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    // exceptions 8, 10-14, 17, 21, 29, 30 push an error code by themselves
    ".if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)",
    ".else",
    "push 0",
    ".endif",
    ".byte 0x68", // push imm32
    ".long vector",
    ".if vector == 8",
    "jmp {double_fault}",
    ".else",
    "jmp {common}",
    ".endif",
    ".set vector, vector + 1",
    ".endr",
    ".text",
    common = sym trap_common,
    double_fault = sym double_fault,
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// Address of the entry of `vector`.
pub fn stub(vector: u8) -> u64 {
    &raw const trap_stubs as u64 + u64::from(vector) * 16
}

#[unsafe(naked)]
unsafe extern "C" fn trap_common() {
    naked_asm!(
        // IST stack: vector, error, rip, cs, rflags, rsp, ss
        "push rdi",
        "push rsi",
        "push rdx",
        "mov rdi, [rsp+64]", // interrupted rsp
        "test rdi, rdi",
        "js 1f",
        "mov rdi, gs:[{kernel_stack}]",
        "jmp 2f",
        "1: sub rdi, 128",
        "2: and rdi, -16",
        "mov rdx, [rsp+72]",
        "mov [rdi-8], rdx",
        "mov rdx, [rsp+64]",
        "mov [rdi-16], rdx",
        "mov rdx, [rsp+56]",
        "mov [rdi-24], rdx",
        "mov rdx, [rsp+48]",
        "mov [rdi-32], rdx",
        "mov rdx, [rsp+40]",
        "mov [rdi-40], rdx",
        "mov rdx, [rsp+32]",
        "mov [rdi-48], rdx",
        "mov rdx, [rsp+24]",
        "mov [rdi-56], rdx",
        "mov rdx, [rsp+16]",
        "mov [rdi-64], rdx",
        "mov rdx, [rsp+8]",
        "mov [rdi-72], rdx",
        "mov rdx, [rsp+0]",
        "mov [rdi-80], rdx",
        "lea rsp, [rdi-80]",
        "mov rdx, [rsp]",
        push_further_registers!(),
        "mov rdi, rsp",
        save_sse!(),
        "cld",
        "mov rsi, rsp",
        "call {dispatch}",
        "cli",
        restore_sse!(),
        "jmp {ret}",
        kernel_stack = const super::cpu::KERNEL_STACK_OFFSET,
        dispatch = sym dispatch,
        ret = sym trap_return,
    )
}

/// A double fault stays on its IST stack: the interrupted one may be what is broken.
#[unsafe(naked)]
unsafe extern "C" fn double_fault() {
    naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        push_further_registers!(),
        "cld",
        "mov rdi, rsp",
        "xor esi, esi",
        "and rsp, -16",
        "call {fatal}",
        fatal = sym crate::panic::kernel_exception,
    )
}

/// Restores the general registers from the [`TrapFrame`] at `rsp` and goes on there. Interrupts must be off.
#[unsafe(naked)]
pub unsafe extern "C" fn trap_return() {
    naked_asm!(
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rax",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "add rsp, 16",
        "iretq",
    )
}

/// Leaves the kernel for the state in `frame`: how an application thread starts. The thread's kernel stack is
/// empty afterwards. The FPU keeps what it holds; call [`fpu::reset`] or [`fpu::restore`] first.
///
/// # Safety
/// `frame` describes application code that may run in the current address space, and nothing on this kernel stack
/// is needed any more (its destructors will not run).
pub unsafe fn enter_app(frame: &TrapFrame) -> ! {
    // SAFETY: interrupts are off until iretq, so nothing overwrites the frame while it is read from this stack.
    unsafe {
        core::arch::asm!("cli", "mov rsp, {0}", "jmp {1}", in(reg) frame, sym trap_return, options(noreturn));
    }
}

extern "C" fn dispatch(frame: &mut TrapFrame, sse: &mut SavedSse) {
    let vector = frame.vector as u8;
    if vector >= FIRST_IRQ {
        irq::dispatch(vector);
        if vector != apic::SPURIOUS_VECTOR {
            apic::end_of_interrupt();
        }
        if frame.from_app()
            && (vector == apic::TIMER_VECTOR || sched::is_wanted())
            && let Some(hooks) = HOOKS.get()
            && (hooks.holds)()
        {
            sse.with_whole_state(hooks.let_go);
        }
        sched::after_interrupt(frame);
    } else if vector == 2 {
        crate::panic::non_maskable_interrupt(frame);
        return;
    } else {
        exception(frame);
    }
    if frame.from_app()
        && let Some(hooks) = HOOKS.get()
        && (hooks.wants_return)()
    {
        sse.with_whole_state(|| (hooks.return_to_app)(frame));
    }
}

fn exception(frame: &mut TrapFrame) {
    let mut address = 0u64;
    if frame.vector == 14 {
        // Before anything else can fault.
        address = Cr2::read_raw();
    }
    // As in a system call: what the handler needs of the other registers, it puts in safety.
    let from_app = frame.from_app();
    if from_app {
        fpu::enter_call();
    }
    let handled = !crate::mm::stack::is_guard(address)
        && HOOKS.get().is_some_and(|hooks| (hooks.exception)(frame, address));
    if from_app {
        fpu::leave_call();
    }
    if handled {
        return;
    }
    crate::panic::kernel_exception(frame, address)
}

/// The exception's name as the manuals have it.
pub fn name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "divide error",
        "debug",
        "non-maskable interrupt",
        "breakpoint",
        "overflow",
        "bound range exceeded",
        "invalid opcode",
        "device not available",
        "double fault",
        "coprocessor segment overrun",
        "invalid TSS",
        "segment not present",
        "stack-segment fault",
        "general protection fault",
        "page fault",
        "reserved",
        "x87 floating-point error",
        "alignment check",
        "machine check",
        "SIMD floating-point error",
        "virtualisation exception",
        "control protection exception",
    ];
    NAMES.get(vector as usize).copied().unwrap_or("exception")
}
