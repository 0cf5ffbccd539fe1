//! Exceptions in programs and in the kernel's copies, and the moment before a program goes on.

use super::{outgoing, signal_frame};
use crate::arch::trap::{self, Hooks, TrapFrame};
use crate::arch::{interrupts_off, interrupts_on};
use crate::mm::address_space::{Access, FaultError};
use crate::mm::{frame, usercopy};
use crate::process::signals::{self, SigInfo};
use crate::process::{self, Ending, Task};
use core::sync::atomic::Ordering;

const FLAG_INTERRUPTS: u64 = 0x200;
const PAGE_FAULT: u64 = 14;

/// Installs the hooks.
pub fn install() {
    trap::set_hooks(Hooks { exception, return_to_app: back, wants_return, holds: outgoing::holds, let_go });
}

fn wants_return() -> bool {
    process::try_current().is_some_and(|task| task.attention.load(Ordering::SeqCst))
}

fn let_go() {
    interrupts_on();
    outgoing::push();
    interrupts_off();
}

fn back(frame: &mut TrapFrame) {
    interrupts_on();
    return_to_app(frame);
    interrupts_off();
}

/// Takes signals, ends the thread if its process ends. On the thread's kernel stack, with interrupts on.
pub fn return_to_app(frame: &mut TrapFrame) {
    let task = process::current();
    loop {
        if task.process.is_exiting() {
            process::exit_thread();
        }
        task.attention.store(false, Ordering::SeqCst);
        if !signal_frame::deliver(task, frame) {
            break;
        }
    }
}

fn exception(frame: &mut TrapFrame, cr2: u64) -> bool {
    if frame.rflags & FLAG_INTERRUPTS == 0 {
        // The kernel with interrupts off: nothing of ours.
        return false;
    }
    interrupts_on();
    let handled = if frame.from_app() { from_app(frame, cr2) } else { from_kernel(frame, cr2) };
    interrupts_off();
    handled
}

fn access(error: u64) -> Access {
    if error & 2 != 0 {
        Access::Write
    } else if error & 16 != 0 {
        Access::Execute
    } else {
        Access::Read
    }
}

fn from_kernel(frame: &mut TrapFrame, cr2: u64) -> bool {
    let Some(landing) = usercopy::fixup(frame.rip) else { return false };
    let task = process::try_current();
    if frame.vector == PAGE_FAULT
        && cr2 < usercopy::USER_END
        && let Some(task) = task
        && bring(task, frame, cr2).is_ok()
    {
        return true;
    }
    frame.rip = landing;
    true
}

fn from_app(frame: &mut TrapFrame, cr2: u64) -> bool {
    let Some(task) = process::try_current() else { return false };
    let info = match frame.vector {
        PAGE_FAULT => match page_fault(task, frame, cr2) {
            Ok(()) => return true,
            Err(info) => info,
        },
        0 => SigInfo::fault(signals::SIGFPE, 1, frame.rip),
        1 | 3 => SigInfo::fault(signals::SIGTRAP, 1, frame.rip),
        6 => SigInfo::fault(signals::SIGILL, 2, frame.rip),
        16 | 19 => SigInfo::fault(signals::SIGFPE, 3, frame.rip),
        _ => SigInfo::kernel(signals::SIGSEGV),
    };
    force(task, info);
    true
}

/// Brings the page at `cr2`. It may have to be read first.
fn bring(task: &Task, frame: &TrapFrame, cr2: u64) -> Result<(), FaultError> {
    if task.outbox.holds() {
        task.outbox.push();
    }
    task.process.space().fault(cr2, access(frame.error))
}

fn page_fault(task: &Task, frame: &TrapFrame, cr2: u64) -> Result<(), SigInfo> {
    if cr2 >= usercopy::USER_END {
        return Err(SigInfo::fault(signals::SIGSEGV, 1, cr2));
    }
    bring(task, frame, cr2).map_err(|error| match error {
        FaultError::NotMapped => SigInfo::fault(signals::SIGSEGV, 1, cr2),
        FaultError::Forbidden => SigInfo::fault(signals::SIGSEGV, 2, cr2),
        FaultError::Bus => SigInfo::fault(signals::SIGBUS, 2, cr2),
        FaultError::OutOfMemory => {
            let name = task.name.lock().clone();
            crate::println!(
                "out of memory: process {} ({}) is ended; {} KiB of {} are left",
                task.process.pid,
                alloc::string::String::from_utf8_lossy(&name),
                frame::free_count() * 4,
                frame::total() * 4
            );
            task.process.end(Ending::Signal(signals::SIGKILL));
            SigInfo::fault(signals::SIGKILL, 0, cr2)
        }
    })
}

/// Sends a signal that cannot be put off: if it is blocked or ignored, the default happens.
fn force(task: &Task, info: SigInfo) {
    let bit = signals::bit(info.signal);
    let blocked = task.mask.load(Ordering::Relaxed) & bit != 0;
    {
        let mut actions = task.process.actions.lock();
        if blocked || actions.get(info.signal).handler == signals::SIG_IGN {
            actions.set(info.signal, signals::Action::default());
            task.mask.fetch_and(!bit, Ordering::Relaxed);
        }
    }
    task.pending.lock().add(info);
    task.attention.store(true, Ordering::SeqCst);
}
