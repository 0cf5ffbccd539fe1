//! `eventfd` and `timerfd`: numbers that are waited for as files.

use crate::errno::{Errno, Result};
use crate::inode::{Ready, Stream};
use crate::poll::wait_ready;
use crate::wait::{Waiters, wait_on};
use alloc::sync::Arc;
use platform::sync::Mutex;
use platform::thread::scheduler;

/// The number that a read fetches and a write adds to: 8 bytes in the machine's order.
const WORD: usize = 8;
/// What the counter of an `eventfd` never reaches.
const LIMIT: u64 = u64::MAX - 1;

/// `eventfd(2)`: a counter.
#[derive(Debug)]
pub struct EventFd {
    count: Mutex<u64>,
    semaphore: bool,
    waiters: Waiters,
}

impl EventFd {
    /// A counter that begins at `count`. `semaphore`: a read takes one instead of all.
    #[must_use]
    pub fn new(count: u64, semaphore: bool) -> Arc<Self> {
        Arc::new(EventFd { count: Mutex::new(count), semaphore, waiters: Waiters::new() })
    }

    fn take(&self) -> Option<u64> {
        let mut count = self.count.lock();
        let taken = if self.semaphore { (*count).min(1) } else { *count };
        *count -= taken;
        (taken > 0).then_some(taken)
    }

    fn add(&self, value: u64) -> Option<()> {
        let mut count = self.count.lock();
        let sum = count.checked_add(value).filter(|sum| *sum <= LIMIT)?;
        *count = sum;
        Some(())
    }
}

impl Stream for EventFd {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        let out = buf.first_chunk_mut::<WORD>().ok_or(Errno::EINVAL)?;
        let taken = if nonblock {
            self.take().ok_or(Errno::EAGAIN)?
        } else {
            wait_on(&[&self.waiters], None, || self.take())?
        };
        *out = taken.to_ne_bytes();
        self.waiters.wake();
        Ok(WORD)
    }

    fn write(&self, data: &[u8], nonblock: bool) -> Result<usize> {
        let value = u64::from_ne_bytes(*data.first_chunk::<WORD>().ok_or(Errno::EINVAL)?);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        if nonblock {
            self.add(value).ok_or(Errno::EAGAIN)?;
        } else {
            wait_on(&[&self.waiters], None, || self.add(value))?;
        }
        self.waiters.wake();
        Ok(WORD)
    }

    fn ready(&self) -> Ready {
        let count = *self.count.lock();
        Ready(if count > 0 { Ready::IN } else { 0 } | if count < LIMIT { Ready::OUT } else { 0 })
    }

    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.waiters)
    }
}

/// What a timer is set to: nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimerSetting {
    /// When it rings next on the scheduler's clock; 0: not at all.
    pub due: u64,
    /// After how long it rings again; 0: only once.
    pub interval: u64,
}

/// `timerfd_create(2)`: a timer.
#[derive(Debug, Default)]
pub struct TimerFd {
    setting: Mutex<TimerSetting>,
    waiters: Waiters,
}

impl TimerFd {
    /// A timer that is not set.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(TimerFd::default())
    }

    /// Sets it; what it was set to, its past rings left out.
    pub fn set(&self, new: TimerSetting) -> TimerSetting {
        let old = core::mem::replace(&mut *self.setting.lock(), new);
        self.waiters.wake();
        Self::upcoming(old)
    }

    /// What it is set to: the next time that is still to come.
    #[must_use]
    pub fn get(&self) -> TimerSetting {
        Self::upcoming(*self.setting.lock())
    }

    fn upcoming(setting: TimerSetting) -> TimerSetting {
        let due = match Self::rings(setting) {
            0 => setting.due,
            _ if setting.interval == 0 => 0,
            rings => setting.due.saturating_add(setting.interval.saturating_mul(rings)),
        };
        TimerSetting { due, ..setting }
    }

    /// How often it has rung since it was read.
    fn rings(setting: TimerSetting) -> u64 {
        let now = scheduler().monotonic_ns();
        if setting.due == 0 || now < setting.due {
            return 0;
        }
        1 + (now - setting.due).checked_div(setting.interval).unwrap_or(0)
    }

    fn take(&self) -> Option<u64> {
        let mut setting = self.setting.lock();
        let rings = Self::rings(*setting);
        if rings == 0 {
            return None;
        }
        setting.due = if setting.interval == 0 {
            0
        } else {
            setting.due.saturating_add(setting.interval.saturating_mul(rings))
        };
        Some(rings)
    }
}

impl Stream for TimerFd {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        let out = buf.first_chunk_mut::<WORD>().ok_or(Errno::EINVAL)?;
        let rings = if nonblock {
            self.take().ok_or(Errno::EAGAIN)?
        } else {
            wait_ready(&[self], None, || self.take())?
        };
        *out = rings.to_ne_bytes();
        Ok(WORD)
    }

    fn ready(&self) -> Ready {
        Ready(if Self::rings(*self.setting.lock()) > 0 { Ready::IN } else { 0 })
    }

    fn waiters(&self) -> Option<&Waiters> {
        Some(&self.waiters)
    }

    fn is_timed(&self) -> bool {
        true
    }

    fn deadline(&self) -> Option<u64> {
        let setting = *self.setting.lock();
        (setting.due != 0 && Self::rings(setting) == 0).then_some(setting.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &dyn Stream) -> Result<u64> {
        let mut buf = [0; 8];
        stream.read(&mut buf, true)?;
        Ok(u64::from_ne_bytes(buf))
    }

    #[test]
    fn a_counter_counts() {
        let event = EventFd::new(3, false);
        assert_eq!(event.write(&4u64.to_ne_bytes(), true), Ok(8));
        assert_eq!(read(&*event), Ok(7));
        assert_eq!((read(&*event), event.ready().0), (Err(Errno::EAGAIN), Ready::OUT));
        assert_eq!(event.write(&u64::MAX.to_ne_bytes(), true), Err(Errno::EINVAL));
        assert_eq!(event.write(&LIMIT.to_ne_bytes(), true), Ok(8));
        assert_eq!(event.write(&1u64.to_ne_bytes(), true), Err(Errno::EAGAIN));
        assert_eq!(event.ready().0, Ready::IN);
        assert_eq!(event.read(&mut [0; 7], true), Err(Errno::EINVAL));
    }

    #[test]
    fn a_semaphore_gives_one_at_a_time() {
        let event = EventFd::new(2, true);
        assert_eq!((read(&*event), read(&*event), read(&*event)), (Ok(1), Ok(1), Err(Errno::EAGAIN)));
    }

    #[test]
    fn a_reader_sleeps_until_somebody_writes() {
        let event = EventFd::new(0, false);
        let other = Arc::clone(&event);
        let writer = std::thread::spawn(move || other.write(&9u64.to_ne_bytes(), false));
        let mut buf = [0; 8];
        assert_eq!(event.read(&mut buf, false), Ok(8));
        assert_eq!(u64::from_ne_bytes(buf), 9);
        assert_eq!(writer.join().unwrap(), Ok(8));
    }

    #[test]
    fn a_timer_rings_and_counts() {
        let timer = TimerFd::new();
        assert_eq!((read(&*timer), timer.deadline()), (Err(Errno::EAGAIN), None));
        let now = scheduler().monotonic_ns();
        timer.set(TimerSetting { due: now.saturating_sub(10), interval: 4 });
        assert!(read(&*timer).unwrap() >= 3);
        timer.set(TimerSetting { due: now + 2_000_000, interval: 0 });
        let mut buf = [0; 8];
        assert_eq!(timer.read(&mut buf, false), Ok(8));
        assert_eq!(u64::from_ne_bytes(buf), 1);
        assert!(scheduler().monotonic_ns() >= now + 2_000_000);
        assert_eq!(timer.get(), TimerSetting::default());
    }
}
