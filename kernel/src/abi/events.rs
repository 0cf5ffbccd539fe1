//! `eventfd`, `timerfd` and `epoll`: the calls. What they are is in [`vfs::events`] and [`vfs::epoll`].

use super::fd::open_stream;
use super::poll::{after, timespec_deadline};
use super::{Call, SysResult, signal, user};
use crate::time;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use vfs::Errno;
use vfs::epoll::{Epoll, Event};
use vfs::events::{EventFd, TimerFd, TimerSetting};
use vfs::file::File;
use vfs::inode::Stream;
use vfs::types::OpenFlags;

/// Bytes of a packed `struct epoll_event`.
const EVENT_SIZE: usize = 12;
/// Most events that one call reports.
const EVENTS_MAX: usize = 4096;

/// The stream of a descriptor, if it is a `T`.
pub(super) fn stream_of<T: Stream>(call: &Call<'_>, fd: i32) -> Result<Arc<T>, Errno> {
    let file = call.process().fds.get(fd)?;
    let stream: Arc<dyn Any + Send + Sync> = Arc::clone(file.stream().ok_or(Errno::EINVAL)?) as _;
    stream.downcast().map_err(|_| Errno::EINVAL)
}

fn flags_of(bits: u64, further: u32) -> Result<OpenFlags, Errno> {
    let flags = OpenFlags::from_bits_retain(bits as u32 & !further);
    if (OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) { Ok(flags) } else { Err(Errno::EINVAL) }
}

pub(super) fn eventfd(call: &mut Call<'_>) -> SysResult {
    let event = EventFd::new(u64::from(call.arg(0) as u32), false);
    open_stream(call, event, "eventfd", OpenFlags::empty()).map(|fd| fd as u64)
}

pub(super) fn eventfd2(call: &mut Call<'_>) -> SysResult {
    const SEMAPHORE: u32 = 1;
    let flags = flags_of(call.arg(1), SEMAPHORE)?;
    let event = EventFd::new(u64::from(call.arg(0) as u32), call.arg(1) as u32 & SEMAPHORE != 0);
    open_stream(call, event, "eventfd", flags).map(|fd| fd as u64)
}

/// A timer on one of the clocks.
struct Timer {
    timer: TimerFd,
    realtime: bool,
}

impl Stream for Timer {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> vfs::Result<usize> {
        self.timer.read(buf, nonblock)
    }
    fn ready(&self) -> vfs::inode::Ready {
        self.timer.ready()
    }
    fn waiters(&self) -> Option<&vfs::wait::Waiters> {
        self.timer.waiters()
    }
    fn is_timed(&self) -> bool {
        true
    }
    fn deadline(&self) -> Option<u64> {
        self.timer.deadline()
    }
}

pub(super) fn timerfd_create(call: &mut Call<'_>) -> SysResult {
    // REALTIME and REALTIME_ALARM; MONOTONIC, BOOTTIME and BOOTTIME_ALARM.
    let realtime = match call.arg(0) {
        0 | 8 => true,
        1 | 7 | 9 => false,
        _ => return Err(Errno::EINVAL),
    };
    let flags = flags_of(call.arg(1), 0)?;
    let timer = Arc::new(Timer { timer: TimerFd::default(), realtime });
    open_stream(call, timer, "timerfd", flags).map(|fd| fd as u64)
}

/// Writes a `struct itimerspec`: interval, then what is left.
fn write_setting(at: u64, setting: TimerSetting) -> Result<(), Errno> {
    let left = if setting.due == 0 { 0 } else { setting.due.saturating_sub(time::monotonic_ns()).max(1) };
    user::write_timespec(at, user::timespec_of(setting.interval))?;
    user::write_timespec(at + 16, user::timespec_of(left))
}

pub(super) fn timerfd_settime(call: &mut Call<'_>) -> SysResult {
    const ABSOLUTE: u64 = 1;
    const CANCEL_ON_SET: u64 = 2;
    let timer: Arc<Timer> = stream_of(call, call.int(0))?;
    if call.arg(1) & !(ABSOLUTE | CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let interval = user::duration(user::read_timespec(call.arg(2))?)?;
    let value = user::duration(user::read_timespec(call.arg(2) + 16)?)?;
    let now = time::monotonic_ns();
    let due = match value {
        0 => 0,
        at if call.arg(1) & ABSOLUTE == 0 => now.saturating_add(at),
        at if timer.realtime => now.saturating_add(at.saturating_sub(user::duration(time::now())?)).max(1),
        at => at,
    };
    let old = timer.timer.set(TimerSetting { due, interval });
    if call.arg(3) != 0 {
        write_setting(call.arg(3), old)?;
    }
    Ok(0)
}

pub(super) fn timerfd_gettime(call: &mut Call<'_>) -> SysResult {
    let timer: Arc<Timer> = stream_of(call, call.int(0))?;
    write_setting(call.arg(1), timer.timer.get()).map(|()| 0)
}

fn create(call: &Call<'_>, flags: OpenFlags) -> SysResult {
    open_stream(call, Epoll::new(), "eventpoll", flags).map(|fd| fd as u64)
}

pub(super) fn epoll_create(call: &mut Call<'_>) -> SysResult {
    if call.int(0) <= 0 { Err(Errno::EINVAL) } else { create(call, OpenFlags::empty()) }
}

pub(super) fn epoll_create1(call: &mut Call<'_>) -> SysResult {
    let flags = OpenFlags::from_bits_retain(call.arg(0) as u32);
    if OpenFlags::CLOEXEC.contains(flags) { create(call, flags) } else { Err(Errno::EINVAL) }
}

fn read_event(at: u64) -> Result<Event, Errno> {
    let (events, data) = (user::read_u32(at)?, user::read_u64(at + 4)?);
    Ok(Event { events, data })
}

pub(super) fn epoll_ctl(call: &mut Call<'_>) -> SysResult {
    const ADD: i32 = 1;
    const REMOVE: i32 = 2;
    const MODIFY: i32 = 3;
    let epoll: Arc<Epoll> = stream_of(call, call.int(0))?;
    let fd = call.int(2);
    let file: Arc<File> = call.process().fds.get(fd)?;
    match call.int(1) {
        _ if call.int(0) == fd => return Err(Errno::EINVAL),
        ADD => epoll.add(fd, &file, read_event(call.arg(3))?)?,
        MODIFY => epoll.modify(fd, &file, read_event(call.arg(3))?)?,
        REMOVE => epoll.remove(fd, &file)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn wait(call: &Call<'_>, deadline: Option<u64>) -> SysResult {
    let epoll: Arc<Epoll> = stream_of(call, call.int(0))?;
    let max = usize::try_from(call.int(2)).ok().filter(|max| *max > 0).ok_or(Errno::EINVAL)?;
    let events = epoll.wait(max.min(EVENTS_MAX), deadline)?;
    let mut out = Vec::with_capacity(events.len() * EVENT_SIZE);
    for event in &events {
        out.extend_from_slice(&event.events.to_le_bytes());
        out.extend_from_slice(&event.data.to_le_bytes());
    }
    user::write(call.arg(1), &out)?;
    Ok(events.len() as u64)
}

fn in_milliseconds(call: &Call<'_>) -> Option<u64> {
    if call.int(3) < 0 { None } else { after(call.int(3) as u64 * 1_000_000) }
}

fn mask(call: &Call<'_>) -> Result<(), Errno> {
    signal::use_mask(call.task, call.arg(4), call.arg(5))
}

pub(super) fn epoll_wait(call: &mut Call<'_>) -> SysResult {
    wait(call, in_milliseconds(call))
}

pub(super) fn epoll_pwait(call: &mut Call<'_>) -> SysResult {
    mask(call)?;
    wait(call, in_milliseconds(call))
}

pub(super) fn epoll_pwait2(call: &mut Call<'_>) -> SysResult {
    let deadline = timespec_deadline(call.arg(3))?;
    mask(call)?;
    wait(call, deadline)
}
