//! `timer_create` and its kin: timers that send signals.
//!
//! A timer that is set waits in the process's watch ([`crate::process::workers`]). It carries the number of its setting, so that
//! one that rings after it was set anew does nothing.
//!
//! Lock order: a process's `timers` is a leaf.

use super::{Call, SysResult, user};
use crate::process::Process;
use crate::process::signals::{LAST, SIGALRM, SigInfo};
use crate::process::workers::{Outcome, Watch};
use crate::time;
use alloc::boxed::Box;
use alloc::sync::Arc;
use vfs::Errno;

/// `SI_TIMER`.
const CODE: i32 = -2;
/// Whose the watches of these timers are.
const OWNER: u64 = 1 << 62;
/// As many as one process may have.
const TIMERS_MAX: usize = 4096;

/// `SIGEV_SIGNAL`, `SIGEV_NONE`, `SIGEV_THREAD_ID`.
const SIGNAL: u32 = 0;
const NONE: u32 = 1;
const THREAD_ID: u32 = 4;

/// A timer of a process. Times are nanoseconds of the scheduler's clock.
pub struct Timer {
    realtime: bool,
    /// The signal, and the thread that gets it if not any.
    signal: Option<(u8, Option<u32>)>,
    value: u64,
    /// When it rings next; 0: not at all.
    due: u64,
    interval: u64,
    setting: u64,
    /// Rings that the last signal stands for, beyond its own.
    overrun: u32,
}

pub(super) fn timer_create(call: &mut Call<'_>) -> SysResult {
    let realtime = match call.arg(0) {
        0 | 8 | 11 => true,
        1 | 7 | 9 => false,
        // Clocks of processor time.
        2 | 3 => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    };
    let event = match call.arg(1) {
        0 => None,
        at => Some(user::read_words::<3>(at)?),
    };
    let process = call.process();
    let (value, signal) = match event {
        None => (None, Some((SIGALRM, None))),
        Some(words) => {
            let (number, notify, thread) = (words[1] as u32, (words[1] >> 32) as u32, words[2] as u32);
            let number = u8::try_from(number).ok().filter(|n| (1..=LAST).contains(n));
            let signal = match notify {
                NONE => None,
                SIGNAL => Some((number.ok_or(Errno::EINVAL)?, None)),
                THREAD_ID if process.tasks.lock().contains_key(&thread) => {
                    Some((number.ok_or(Errno::EINVAL)?, Some(thread)))
                }
                _ => return Err(Errno::EINVAL),
            };
            (Some(words[0]), signal)
        }
    };
    let mut timers = process.timers.lock();
    if timers.len() >= TIMERS_MAX {
        return Err(Errno::EAGAIN);
    }
    let id = (0..).find(|id| !timers.contains_key(id)).unwrap_or(0);
    let value = value.unwrap_or(u64::from(id));
    timers.insert(id, Timer { realtime, signal, value, due: 0, interval: 0, setting: 0, overrun: 0 });
    drop(timers);
    user::write_u32(call.arg(2), id)?;
    Ok(0)
}

/// Has timer `id` ring when it is due. [`Errno::EAGAIN`]: there is no memory for the thread that watches the process's timers.
fn arm(process: &Arc<Process>, id: u32, setting: u64, due: u64) -> Result<(), Errno> {
    let owner = Arc::downgrade(process);
    let done = move |outcome| {
        if let (Outcome::TimedOut, Some(process)) = (outcome, owner.upgrade()) {
            ring(&process, id, setting);
        }
    };
    let name = u64::from(id);
    let watch =
        Watch { owner: OWNER, name, stream: None, events: 0, deadline: Some(due), done: Box::new(done) };
    process.workers.watch(process, watch).map_err(|_| Errno::EAGAIN)
}

fn ring(process: &Arc<Process>, id: u32, setting: u64) {
    let (signal, next) = {
        let mut timers = process.timers.lock();
        let Some(timer) = timers.get_mut(&id).filter(|t| t.setting == setting && t.due != 0) else { return };
        let late = time::monotonic_ns().saturating_sub(timer.due);
        let missed = late.checked_div(timer.interval).unwrap_or(0);
        timer.overrun = u32::try_from(missed).unwrap_or(i32::MAX as u32);
        timer.due = match timer.interval {
            0 => 0,
            interval => timer.due.saturating_add(interval.saturating_mul(missed + 1)),
        };
        let info = |number| SigInfo {
            signal: number,
            code: CODE,
            pid: id,
            second: timer.overrun,
            value: timer.value,
        };
        (timer.signal.map(|(number, thread)| (info(number), thread)), timer.due)
    };
    match signal {
        Some((info, None)) => process.signal(info),
        Some((info, Some(thread))) => {
            let task = process.tasks.lock().get(&thread).cloned();
            if let Some(task) = task {
                task.signal(info);
            }
        }
        None => {}
    }
    if next != 0 {
        // By the watching thread itself, which is there.
        let _ = arm(process, id, setting, next);
    }
}

/// What is left and the interval, as a `struct itimerspec` has them.
fn write_setting(at: u64, left: u64, interval: u64) -> Result<(), Errno> {
    user::write_timespec(at, user::timespec_of(interval))?;
    user::write_timespec(at + 16, user::timespec_of(left))
}

fn left(timer: &Timer) -> u64 {
    if timer.due == 0 { 0 } else { timer.due.saturating_sub(time::monotonic_ns()).max(1) }
}

pub(super) fn timer_settime(call: &mut Call<'_>) -> SysResult {
    const ABSOLUTE: u64 = 1;
    let id = call.arg(0) as u32;
    let interval = user::duration(user::read_timespec(call.arg(2))?)?;
    let value = user::duration(user::read_timespec(call.arg(2) + 16)?)?;
    let now = time::monotonic_ns();
    let wall = user::duration(time::now())?;
    let (old, setting, due) = {
        let mut timers = call.process().timers.lock();
        let timer = timers.get_mut(&id).ok_or(Errno::EINVAL)?;
        let old = (left(timer), timer.interval);
        timer.due = match value {
            0 => 0,
            _ if call.arg(1) & ABSOLUTE == 0 => now.saturating_add(value),
            _ if timer.realtime => now.saturating_add(value.saturating_sub(wall)),
            _ => value,
        };
        timer.interval = interval;
        timer.setting += 1;
        timer.overrun = 0;
        (old, timer.setting, timer.due)
    };
    call.process().workers.cancel(OWNER, Some(u64::from(id)));
    if due != 0
        && let Err(error) = arm(&call.task.process, id, setting, due)
    {
        if let Some(timer) = call.process().timers.lock().get_mut(&id).filter(|t| t.setting == setting) {
            timer.due = 0;
        }
        return Err(error);
    }
    if call.arg(3) != 0 {
        write_setting(call.arg(3), old.0, old.1)?;
    }
    Ok(0)
}

pub(super) fn timer_gettime(call: &mut Call<'_>) -> SysResult {
    let (left, interval) = {
        let timers = call.process().timers.lock();
        let timer = timers.get(&(call.arg(0) as u32)).ok_or(Errno::EINVAL)?;
        (left(timer), timer.interval)
    };
    write_setting(call.arg(1), left, interval)?;
    Ok(0)
}

pub(super) fn timer_getoverrun(call: &mut Call<'_>) -> SysResult {
    let timers = call.process().timers.lock();
    timers.get(&(call.arg(0) as u32)).map(|t| u64::from(t.overrun)).ok_or(Errno::EINVAL)
}

pub(super) fn timer_delete(call: &mut Call<'_>) -> SysResult {
    let id = call.arg(0) as u32;
    let gone = call.process().timers.lock().remove(&id);
    gone.ok_or(Errno::EINVAL)?;
    call.process().workers.cancel(OWNER, Some(u64::from(id)));
    Ok(0)
}
