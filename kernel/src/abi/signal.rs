//! `rt_sigaction`, `kill`, `rt_sigtimedwait` and their kin.

use super::{Call, SysResult, user};
use crate::process::signals::{self, Action, SigInfo};
use crate::process::{self, Process, Task};
use crate::time;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use vfs::Errno;
use vfs::wait::{Waiters, wait_on};

/// Tells the caller of a broken pipe by its signal, too: what an error of writing comes to.
pub(super) fn broken_pipe(task: &Task, error: Errno) -> Errno {
    if error == Errno::EPIPE {
        task.signal(SigInfo::kernel(signals::SIGPIPE));
    }
    error
}

fn valid(signal: u64) -> Result<u8, Errno> {
    u8::try_from(signal).ok().filter(|s| *s <= signals::LAST).ok_or(Errno::EINVAL)
}

pub(super) fn rt_sigaction(call: &mut Call<'_>) -> SysResult {
    let signal = valid(call.arg(0))?;
    if signal == 0 || call.arg(3) != 8 {
        return Err(Errno::EINVAL);
    }
    let new = match call.arg(1) {
        0 => None,
        at => {
            let words = user::read_words::<4>(at)?;
            Some(Action { handler: words[0], flags: words[1], restorer: words[2], mask: words[3] })
        }
    };
    if new.is_some() && signals::bit(signal) & signals::UNSTOPPABLE != 0 {
        return Err(Errno::EINVAL);
    }
    let old = {
        let mut actions = call.process().actions.lock();
        let old = actions.get(signal);
        if let Some(new) = new {
            actions.set(signal, new);
            if actions.ignores(signal) {
                call.process().pending.lock().forget(signal);
            }
        }
        old
    };
    if call.arg(2) != 0 {
        user::write_words(call.arg(2), &[old.handler, old.flags, old.restorer, old.mask])?;
    }
    Ok(0)
}

pub(super) fn rt_sigprocmask(call: &mut Call<'_>) -> SysResult {
    if call.arg(3) != 8 {
        return Err(Errno::EINVAL);
    }
    let old = call.task.mask.load(Ordering::Relaxed);
    if call.arg(1) != 0 {
        let set = user::read_u64(call.arg(1))?;
        let new = match call.arg(0) {
            0 => old | set,
            1 => old & !set,
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        call.task.mask.store(new & !signals::UNSTOPPABLE, Ordering::Relaxed);
        // What is no longer blocked is taken before the call returns.
        call.task.attention.store(true, Ordering::SeqCst);
    }
    if call.arg(2) != 0 {
        user::write_u64(call.arg(2), old)?;
    }
    Ok(0)
}

pub(super) fn rt_sigpending(call: &mut Call<'_>) -> SysResult {
    let set = call.task.pending.lock().set() | call.process().pending.lock().set();
    user::write_u64(call.arg(0), set & call.task.mask.load(Ordering::Relaxed))?;
    Ok(0)
}

pub(super) fn sigaltstack(call: &mut Call<'_>) -> SysResult {
    let (base, size, flags) = *call.task.alt_stack.lock();
    let on_it = size > 0 && call.frame.rsp > base && call.frame.rsp <= base + size;
    let new = match call.arg(0) {
        0 => None,
        at => {
            let words = user::read_words::<3>(at)?;
            Some((words[0], words[2], words[1] as u32))
        }
    };
    if call.arg(1) != 0 {
        let shown = if on_it { 1 } else { flags };
        user::write_words(call.arg(1), &[base, u64::from(shown), size])?;
    }
    if let Some((base, size, flags)) = new {
        if on_it {
            return Err(Errno::EPERM);
        }
        let disable = flags & signals::SS_DISABLE != 0;
        if !disable && size < 2048 {
            return Err(Errno::ENOMEM);
        }
        *call.task.alt_stack.lock() = if disable { (0, 0, signals::SS_DISABLE) } else { (base, size, 0) };
    }
    Ok(0)
}

fn send(process: &Arc<Process>, signal: u8, sender: u32) {
    if signal != 0 {
        process.signal(SigInfo::user(signal, 0, sender));
    }
}

pub(super) fn kill(call: &mut Call<'_>) -> SysResult {
    let signal = valid(call.arg(1))?;
    let sender = call.process().pid;
    match call.int(0) {
        pid @ 1.. => send(&process::find(pid as u32).ok_or(Errno::ESRCH)?, signal, sender),
        0 => send(&call.task.process, signal, sender),
        // All but the caller; or a group, which is one process here.
        -1 => process::all().iter().filter(|p| p.pid != sender).for_each(|p| send(p, signal, sender)),
        group => send(&process::find(group.unsigned_abs()).ok_or(Errno::ESRCH)?, signal, sender),
    }
    Ok(0)
}

fn to_thread(call: &Call<'_>, group: Option<i32>, tid: i32, signal: u64) -> SysResult {
    let signal = valid(signal)?;
    let find = |p: Arc<Process>| p.tasks.lock().get(&(tid as u32)).cloned();
    let task: Arc<Task> = match group {
        Some(pid) => process::find(pid as u32).and_then(find),
        None => process::all().into_iter().find_map(find),
    }
    .ok_or(Errno::ESRCH)?;
    if signal != 0 {
        task.signal(SigInfo::user(signal, -6, call.process().pid));
    }
    Ok(0)
}

pub(super) fn tkill(call: &mut Call<'_>) -> SysResult {
    to_thread(call, None, call.int(0), call.arg(1))
}

pub(super) fn tgkill(call: &mut Call<'_>) -> SysResult {
    to_thread(call, Some(call.int(0)), call.int(1), call.arg(2))
}

/// Sleeps until a signal comes.
fn wait_for_signal() -> Errno {
    let nobody = Waiters::new();
    match wait_on(&[&nobody], None, || None::<()>) {
        Ok(()) => Errno::EINTR,
        Err(error) => error,
    }
}

pub(super) fn pause(_call: &mut Call<'_>) -> SysResult {
    Err(wait_for_signal())
}

pub(super) fn rt_sigsuspend(call: &mut Call<'_>) -> SysResult {
    if call.arg(1) != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    replace_mask(call.task, user::read_u64(call.arg(0))?);
    Err(wait_for_signal())
}

/// Size of a set of signals, as calls name it, in bytes.
pub(super) const SET_SIZE: u64 = 8;

/// [`replace_mask`] by the mask at `at`, if that is not null, whose size the caller gives along (`set_user_sigmask` of Linux).
pub(super) fn use_mask(task: &Task, at: u64, size: u64) -> Result<(), Errno> {
    if at == 0 {
        return Ok(());
    }
    if size != SET_SIZE {
        return Err(Errno::EINVAL);
    }
    replace_mask(task, user::read_u64(at)?);
    Ok(())
}

/// Blocks `mask` until the next signal was handled or the call returns to the program.
fn replace_mask(task: &Task, mask: u64) {
    let old = task.mask.swap(mask & !signals::UNSTOPPABLE, Ordering::Relaxed);
    *task.saved_mask.lock() = Some(old);
    task.attention.store(true, Ordering::SeqCst);
}

pub(super) fn rt_sigtimedwait(call: &mut Call<'_>) -> SysResult {
    let wanted = user::read_u64(call.arg(0))? & !signals::UNSTOPPABLE;
    let deadline = match call.arg(2) {
        0 => None,
        at => Some(time::monotonic_ns().saturating_add(user::duration(user::read_timespec(at)?)?)),
    };
    let task = call.task;
    let take = || {
        let own = task.pending.lock().take(wanted);
        own.or_else(|| task.process.pending.lock().take(wanted))
    };
    // The waited-for signals are blocked, so they do not interrupt.
    let info = wait_on(&[&task.process.signalled], deadline, take).map_err(|error| match error {
        Errno::ETIMEDOUT => Errno::EAGAIN,
        error => error,
    })?;
    if call.arg(1) != 0 {
        user::write(call.arg(1), &info.bytes())?;
    }
    Ok(u64::from(info.signal))
}
