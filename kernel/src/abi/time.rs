//! Clocks, sleeping, timers.

use super::{Call, SysResult, user};
use crate::process::signals::{SIGALRM, SigInfo};
use crate::process::{self, Process};
use crate::{sched, time};
use alloc::boxed::Box;
use alloc::sync::Arc;
use platform::clock::Timespec;
use vfs::Errno;
use vfs::wait::{Waiters, wait_on};

const SECOND: u64 = 1_000_000_000;
const REALTIME: u64 = 0;
const MONOTONIC: u64 = 1;
const PROCESS_CPU: u64 = 2;
const THREAD_CPU: u64 = 3;

fn read_clock(call: &Call<'_>, clock: u64) -> Result<Timespec, Errno> {
    Ok(match clock {
        // REALTIME_COARSE, TAI
        REALTIME | 5 | 11 => time::now(),
        // MONOTONIC_RAW, MONOTONIC_COARSE, BOOTTIME
        MONOTONIC | 4 | 6 | 7 => user::timespec_of(time::monotonic_ns()),
        PROCESS_CPU => user::timespec_of(call.process().cpu_ns()),
        THREAD_CPU => user::timespec_of(sched::current_thread().cpu_ns()),
        // Clocks of other processes and threads are negative numbers: bits 0-1 = 2, bit 2 = of a thread.
        id if (id as i32) < 0 => {
            let number = !(id as i32 >> 3) as u32;
            if id & 4 != 0 {
                let find = |p: &Arc<Process>| p.tasks.lock().get(&number).cloned();
                let task = if number == 0 { None } else { process::all().iter().find_map(find) };
                let thread = task.and_then(|t| t.thread());
                user::timespec_of(thread.map_or_else(|| sched::current_thread().cpu_ns(), |t| t.cpu_ns()))
            } else {
                let other = if number == 0 { None } else { process::find(number) };
                user::timespec_of(other.map_or_else(|| call.process().cpu_ns(), |p| p.cpu_ns()))
            }
        }
        _ => return Err(Errno::EINVAL),
    })
}

pub(super) fn clock_gettime(call: &mut Call<'_>) -> SysResult {
    let now = read_clock(call, call.arg(0))?;
    user::write_timespec(call.arg(1), now)?;
    Ok(0)
}

pub(super) fn clock_getres(call: &mut Call<'_>) -> SysResult {
    read_clock(call, call.arg(0))?;
    if call.arg(1) != 0 {
        user::write_timespec(call.arg(1), Timespec { sec: 0, nsec: 1 })?;
    }
    Ok(0)
}

pub(super) fn clock_settime(call: &mut Call<'_>) -> SysResult {
    if call.arg(0) != REALTIME {
        return Err(Errno::EINVAL);
    }
    time::set_now(user::read_timespec(call.arg(1))?);
    Ok(0)
}

pub(super) fn gettimeofday(call: &mut Call<'_>) -> SysResult {
    let now = time::now();
    if call.arg(0) != 0 {
        user::write_words(call.arg(0), &[now.sec as u64, u64::from(now.nsec / 1000)])?;
    }
    if call.arg(1) != 0 {
        user::write_u64(call.arg(1), 0)?;
    }
    Ok(0)
}

pub(super) fn time(call: &mut Call<'_>) -> SysResult {
    let now = time::now().sec as u64;
    if call.arg(0) != 0 {
        user::write_u64(call.arg(0), now)?;
    }
    Ok(now)
}

pub(super) fn times(call: &mut Call<'_>) -> SysResult {
    const TICK: u64 = SECOND / 100;
    if call.arg(0) != 0 {
        user::write_words(call.arg(0), &[call.process().cpu_ns() / TICK, 0, 0, 0])?;
    }
    Ok(time::monotonic_ns() / TICK)
}

/// Sleeps until `deadline` on the monotonic clock; what is left if a signal came.
fn sleep_until(deadline: u64) -> Result<(), u64> {
    let nobody = Waiters::new();
    match wait_on(&[&nobody], Some(deadline), || None::<()>) {
        Err(Errno::EINTR) => Err(deadline.saturating_sub(time::monotonic_ns())),
        _ => Ok(()),
    }
}

fn sleep_for(call: &Call<'_>, ns: u64, rest_at: u64) -> SysResult {
    let _ = call;
    match sleep_until(time::monotonic_ns().saturating_add(ns)) {
        Ok(()) => Ok(0),
        Err(rest) => {
            if rest_at != 0 {
                user::write_timespec(rest_at, user::timespec_of(rest))?;
            }
            Err(Errno::EINTR)
        }
    }
}

pub(super) fn nanosleep(call: &mut Call<'_>) -> SysResult {
    let ns = user::duration(user::read_timespec(call.arg(0))?)?;
    sleep_for(call, ns, call.arg(1))
}

pub(super) fn clock_nanosleep(call: &mut Call<'_>) -> SysResult {
    const ABSOLUTE: u64 = 1;
    let want = user::duration(user::read_timespec(call.arg(2))?)?;
    let now = user::duration(read_clock(call, call.arg(0))?)?;
    if call.arg(1) & ABSOLUTE == 0 {
        return sleep_for(call, want, call.arg(3));
    }
    sleep_for(call, want.saturating_sub(now), 0)
}

fn get_alarm(process: &Process) -> (u64, u64) {
    let (due, interval) = *process.alarm.lock();
    (if due == 0 { 0 } else { due.saturating_sub(time::monotonic_ns()).max(1) }, interval)
}

/// Sets when `SIGALRM` comes; what was set before, as nanoseconds left and interval.
fn set_alarm(process: &Arc<Process>, after: u64, interval: u64) -> (u64, u64) {
    let old = get_alarm(process);
    let due = if after == 0 { 0 } else { time::monotonic_ns().saturating_add(after) };
    *process.alarm.lock() = (due, interval);
    if due != 0 {
        let process = Arc::downgrade(process);
        // One short-lived thread per setting: alarms are rare. A newer setting makes older threads find nothing due.
        sched::spawn(
            "alarm",
            Box::new(move || {
                let mut due = due;
                loop {
                    sched::sleep(due.saturating_sub(time::monotonic_ns()));
                    let Some(process) = process.upgrade() else { return };
                    let mut alarm = process.alarm.lock();
                    if alarm.0 != due || process.is_exiting() {
                        return;
                    }
                    due = if alarm.1 == 0 { 0 } else { due.saturating_add(alarm.1) };
                    alarm.0 = due;
                    drop(alarm);
                    process.signal(SigInfo::kernel(SIGALRM));
                    if due == 0 {
                        return;
                    }
                }
            }),
        );
    }
    old
}

pub(super) fn alarm(call: &mut Call<'_>) -> SysResult {
    let (left, _) = set_alarm(&call.task.process, u64::from(call.arg(0) as u32) * SECOND, 0);
    Ok(left.div_ceil(SECOND))
}

fn write_itimer(at: u64, (left, interval): (u64, u64)) -> Result<(), Errno> {
    let micros = |ns: u64| [ns / SECOND, ns % SECOND / 1000];
    let ([a, b], [c, d]) = (micros(interval), micros(left));
    user::write_words(at, &[a, b, c, d])
}

pub(super) fn getitimer(call: &mut Call<'_>) -> SysResult {
    let value = if call.arg(0) == 0 { get_alarm(call.process()) } else { (0, 0) };
    write_itimer(call.arg(1), value)?;
    Ok(0)
}

pub(super) fn setitimer(call: &mut Call<'_>) -> SysResult {
    let words = user::read_words::<4>(call.arg(1))?;
    if words[1] >= 1_000_000 || words[3] >= 1_000_000 {
        return Err(Errno::EINVAL);
    }
    if call.arg(0) != 0 {
        // Timers of processor time are not kept.
        return if words == [0, 0, 0, 0] { Ok(0) } else { Err(Errno::EINVAL) };
    }
    let ns = |s: u64, us: u64| s.saturating_mul(SECOND).saturating_add(us * 1000);
    let old = set_alarm(&call.task.process, ns(words[2], words[3]), ns(words[0], words[1]));
    if call.arg(2) != 0 {
        write_itimer(call.arg(2), old)?;
    }
    Ok(0)
}
