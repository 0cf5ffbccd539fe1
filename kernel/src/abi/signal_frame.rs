//! Calling a signal handler, and coming back from it: the frame on the program's stack as Linux lays it out.

use super::{Call, SYSCALL_VECTOR, SysResult, user};
use crate::arch::fpu;
use crate::arch::trap::TrapFrame;
use crate::process::signals::{self, Action, SIG_DFL, SIG_IGN, SigInfo};
use crate::process::{Ending, Task, crash};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use vfs::Errno;

/// `sizeof(struct ucontext)` with the kernel's 8-byte mask.
const UCONTEXT: usize = 304;
/// Offset of `uc_mcontext`.
const MCONTEXT: usize = 40;
const SIGINFO: usize = 128;
/// `uc_flags`: the FPU state is an XSAVE image with the magic words; SS is saved.
const UC_FLAGS: u64 = 0x1 | 0x2 | 0x4;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
const RED_ZONE: u64 = 128;
/// Arithmetic flags, direction, alignment check: what a program may change.
const FLAGS_CHANGEABLE: u64 = 0x4_0cd5 | 0x20_0000;
/// Direction and trap flag, cleared for handlers.
const FLAGS_CLEARED: u64 = 0x500;

/// Takes one waiting signal, if there is one that is not blocked. `true` if there may be more to do.
pub fn deliver(task: &'static Task, frame: &mut TrapFrame) -> bool {
    let open = !task.mask.load(Ordering::Relaxed) | signals::UNSTOPPABLE;
    let own = task.pending.lock().take(open);
    let Some(info) = own.or_else(|| task.process.pending.lock().take(open)) else {
        restart(frame, None);
        restore_mask(task);
        return false;
    };
    let action = take_action(task, info.signal);
    match action.handler {
        SIG_IGN => return true,
        SIG_DFL => {
            if !task.process.actions.lock().ignores(info.signal) {
                end_by(task, &info, frame);
            }
            return true;
        }
        _ => {}
    }
    restart(frame, Some(&action));
    if push(task, frame, &info, &action).is_err() {
        // No room for the frame: nothing else can be done than what Linux does.
        end_by(task, &SigInfo::fault(signals::SIGSEGV, 1, frame.rsp), frame);
    }
    true
}

fn take_action(task: &Task, signal: u8) -> Action {
    let mut actions = task.process.actions.lock();
    let action = actions.get(signal);
    if action.flags & signals::SA_RESETHAND != 0 && action.handler > SIG_IGN {
        actions.set(signal, Action { handler: SIG_DFL, ..action });
    }
    action
}

fn end_by(task: &Task, info: &SigInfo, frame: &TrapFrame) {
    if crash::is_crash(info) && !task.process.is_exiting() {
        crash::report(task, info, frame);
    }
    task.process.end(Ending::Signal(info.signal));
}

/// After `sigsuspend` or `ppoll` without a handler the old mask comes back.
fn restore_mask(task: &Task) {
    if let Some(mask) = task.saved_mask.lock().take() {
        task.mask.store(mask, Ordering::Relaxed);
    }
}

/// Calls that begin again when a handler with `SA_RESTART` ran, by number: read, write, ioctl, readv, writev, wait4,
/// fcntl, flock, futex, open, openat, waitid, getrandom.
const RESTARTABLE: [u64; 13] = [0, 1, 16, 19, 20, 61, 72, 73, 202, 2, 257, 247, 318];

/// If a system call was interrupted, makes it begin again after the handler, where that is right.
fn restart(frame: &mut TrapFrame, action: Option<&Action>) {
    let interrupted = i64::from(-Errno::EINTR.number()) as u64;
    if frame.vector != SYSCALL_VECTOR || frame.rax != interrupted {
        return;
    }
    let number = frame.error;
    let again = match action {
        Some(action) => action.flags & signals::SA_RESTART != 0 && RESTARTABLE.contains(&number),
        None => false,
    };
    if again {
        frame.rax = number;
        frame.rip -= 2;
    }
    // Only once, also if several signals are taken.
    frame.vector = 0;
}

fn put(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// `struct sigcontext`'s registers in order, from offset 0 of `uc_mcontext`.
fn registers(f: &TrapFrame) -> [u64; 18] {
    [
        f.r8, f.r9, f.r10, f.r11, f.r12, f.r13, f.r14, f.r15, f.rdi, f.rsi, f.rbp, f.rbx, f.rdx, f.rax,
        f.rcx, f.rsp, f.rip, f.rflags,
    ]
}

fn push(task: &Task, frame: &mut TrapFrame, info: &SigInfo, action: &Action) -> Result<(), Errno> {
    let (alt_base, alt_size, alt_flags) = *task.alt_stack.lock();
    let on_alt = alt_size > 0 && frame.rsp > alt_base && frame.rsp <= alt_base + alt_size;
    let use_alt = action.flags & signals::SA_ONSTACK != 0 && alt_flags & signals::SS_DISABLE == 0 && !on_alt;
    let mut top = if use_alt { alt_base + alt_size } else { frame.rsp - RED_ZONE };

    // The FPU state, with the words that tell sigreturn and unwinders that it is a full XSAVE image.
    let xsave: Vec<u8> = fpu::saved().map(|s| s.bytes().to_vec()).unwrap_or_default();
    let size = xsave.len();
    top = (top - (size as u64 + 4)) & !63;
    let fpstate = top;
    let mut image = xsave;
    if image.len() >= 512 {
        image[464..468].copy_from_slice(&MAGIC1.to_le_bytes());
        image[468..472].copy_from_slice(&(size as u32 + 4).to_le_bytes());
        image[472..480].copy_from_slice(&fpu::features().to_le_bytes());
        image[480..484].copy_from_slice(&(size as u32).to_le_bytes());
    }
    image.extend_from_slice(&MAGIC2.to_le_bytes());
    user::write(fpstate, &image)?;

    // As after a call: the return address at rsp, rsp + 8 aligned to 16.
    let total = 8 + UCONTEXT + SIGINFO;
    let sp = ((top - total as u64) & !15) - 8;
    let mut out = alloc::vec![0; total];
    put(&mut out, 0, action.restorer);
    let uc = &mut out[8..8 + UCONTEXT];
    put(uc, 0, UC_FLAGS);
    put(uc, 16, alt_base);
    uc[24..28].copy_from_slice(&(if on_alt { 1 } else { alt_flags }).to_le_bytes());
    put(uc, 32, alt_size);
    for (i, value) in registers(frame).iter().enumerate() {
        put(uc, MCONTEXT + i * 8, *value);
    }
    // cs, gs, fs, ss as 16-bit values; a debugger expects Linux's numbers.
    put(uc, MCONTEXT + 144, 0x33 | 0x2b << 48);
    let fault = info.code > 0;
    put(uc, MCONTEXT + 152, if fault { frame.error } else { 0 });
    put(uc, MCONTEXT + 160, if fault { frame.vector } else { 0 });
    let mask = task.saved_mask.lock().take().unwrap_or(task.mask.load(Ordering::Relaxed));
    put(uc, MCONTEXT + 168, mask);
    put(uc, MCONTEXT + 176, if fault { info.value } else { 0 });
    put(uc, MCONTEXT + 184, fpstate);
    put(uc, UCONTEXT - 8, mask);
    out[8 + UCONTEXT..].copy_from_slice(&info.bytes());
    user::write(sp, &out)?;

    let mut blocked = task.mask.load(Ordering::Relaxed) | action.mask;
    if action.flags & signals::SA_NODEFER == 0 {
        blocked |= signals::bit(info.signal);
    }
    task.mask.store(blocked & !signals::UNSTOPPABLE, Ordering::Relaxed);
    frame.rip = action.handler;
    frame.rsp = sp;
    frame.rdi = u64::from(info.signal);
    frame.rsi = sp + 8 + UCONTEXT as u64;
    frame.rdx = sp + 8;
    frame.rax = 0;
    frame.rflags &= !FLAGS_CLEARED;
    frame.vector = 0;
    Ok(())
}

/// `rt_sigreturn`: back to what the handler interrupted.
pub fn sigreturn(call: &mut Call<'_>) -> SysResult {
    let at = call.frame.rsp;
    let restored = user::read_bytes(at, UCONTEXT).and_then(|uc| restore(call, &uc));
    if restored.is_err() {
        let info = SigInfo::fault(signals::SIGSEGV, 1, at);
        call.task.process.end(Ending::Signal(info.signal));
        call.task.attention.store(true, Ordering::SeqCst);
    }
    call.registers_set = true;
    Ok(0)
}

fn restore(call: &mut Call<'_>, uc: &[u8]) -> Result<(), Errno> {
    let r = |i: usize| get(uc, MCONTEXT + i * 8);
    let f = &mut *call.frame;
    (f.r8, f.r9, f.r10, f.r11, f.r12, f.r13, f.r14, f.r15) = (r(0), r(1), r(2), r(3), r(4), r(5), r(6), r(7));
    (f.rdi, f.rsi, f.rbp, f.rbx, f.rdx, f.rax, f.rcx) = (r(8), r(9), r(10), r(11), r(12), r(13), r(14));
    f.rsp = r(15);
    if r(16) >> 47 != 0 {
        // Not an address of the program: it would be taken for the kernel.
        return Err(Errno::EFAULT);
    }
    f.rip = r(16);
    f.rflags = f.rflags & !FLAGS_CHANGEABLE | r(17) & FLAGS_CHANGEABLE;
    f.vector = 0;
    let mask = get(uc, UCONTEXT - 8);
    call.task.mask.store(mask & !signals::UNSTOPPABLE, Ordering::Relaxed);
    // Signals that were blocked during the handler may be taken now.
    call.task.attention.store(true, Ordering::SeqCst);
    let flags = u32::from_le_bytes([uc[24], uc[25], uc[26], uc[27]]);
    if flags & 1 == 0 {
        *call.task.alt_stack.lock() = (get(uc, 16), get(uc, 32), flags);
    }
    let fpstate = get(uc, MCONTEXT + 184);
    if fpstate != 0
        && let Some(state) = fpu::saved()
    {
        let bytes = user::read_bytes(fpstate, fpu::state_size())?;
        let magic = u32::from_le_bytes([bytes[464], bytes[465], bytes[466], bytes[467]]);
        // Without the magic words only the legacy part counts.
        state.set_bytes(if magic == MAGIC1 { &bytes } else { &bytes[..512] });
    }
    Ok(())
}
