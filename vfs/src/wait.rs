//! Sleeping until something may have changed, interruptibly and on several things at once.
//!
//! # How a wake-up is never lost
//! A sleeper registers with every queue, *then* looks at the condition, then parks; a waker changes the condition,
//! *then* wakes the queue. An unpark before the park lets it return at once. Parks may return early for any reason
//! (a signal): the loop asks [`interrupted`].

use crate::errno::{Errno, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use platform::sync::Mutex;
use platform::thread::{Unpark, scheduler};

/// Somebody who is told that something may have changed.
pub trait Watcher: Send + core::marker::Sync {
    /// Told. It must not wait, and must not drop the last reference to a file: the caller may hold its locks.
    fn changed(&self);
}

struct Waiter {
    thread: Arc<dyn Unpark>,
    woken: AtomicBool,
}

impl Watcher for Waiter {
    fn changed(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// The sleepers that wait for one object.
#[derive(Default)]
pub struct Waiters {
    len: AtomicUsize,
    changes: AtomicU64,
    list: Mutex<Vec<Weak<dyn Watcher>>>,
}

impl core::fmt::Debug for Waiters {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Waiters({})", self.len.load(Ordering::Relaxed))
    }
}

impl Waiters {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Waiters { len: AtomicUsize::new(0), changes: AtomicU64::new(0), list: Mutex::new(Vec::new()) }
    }

    /// Tells `watcher` of every change from now on, until it is removed or gone.
    pub fn add(&self, watcher: Weak<dyn Watcher>) {
        let mut list = self.list.lock();
        if list.len() >= 8 {
            list.retain(|w| w.strong_count() > 0);
        }
        list.push(watcher);
        self.len.store(list.len(), Ordering::SeqCst);
    }

    /// Tells `watcher` no longer.
    pub fn remove(&self, watcher: &Weak<dyn Watcher>) {
        let mut list = self.list.lock();
        list.retain(|w| w.strong_count() > 0 && !core::ptr::addr_eq(w.as_ptr(), watcher.as_ptr()));
        self.len.store(list.len(), Ordering::SeqCst);
    }

    /// How often [`Waiters::wake`] was called: how often something changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Wakes everybody; to be called after the condition changed, with no lock of the object held that the
    /// sleepers' condition takes.
    pub fn wake(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        if self.len.load(Ordering::SeqCst) == 0 {
            return;
        }
        let woken: Vec<_> = self.list.lock().iter().filter_map(Weak::upgrade).collect();
        woken.iter().for_each(|watcher| watcher.changed());
    }
}

static INTERRUPTED: spin::Once<fn() -> bool> = spin::Once::new();

/// Tells this crate how to know that the calling thread has a signal to take. Later calls have no effect.
pub fn set_interrupted(hook: fn() -> bool) {
    INTERRUPTED.call_once(|| hook);
}

/// Whether the calling thread should give up waiting.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|hook| hook())
}

/// Sleeps until `attempt` gives a value. [`Errno::EINTR`] when a signal came, [`Errno::ETIMEDOUT`] when the
/// scheduler's clock passed `deadline` (nanoseconds).
pub fn wait_on<T>(
    queues: &[&Waiters],
    deadline: Option<u64>,
    mut attempt: impl FnMut() -> Option<T>,
) -> Result<T> {
    if let Some(value) = attempt() {
        return Ok(value);
    }
    let waiter = Arc::new(Waiter { thread: scheduler().current(), woken: AtomicBool::new(false) });
    let watcher: Weak<dyn Watcher> = Arc::downgrade(&(Arc::clone(&waiter) as Arc<dyn Watcher>));
    for queue in queues {
        queue.add(Weak::clone(&watcher));
    }
    let result = loop {
        waiter.woken.store(false, Ordering::SeqCst);
        if let Some(value) = attempt() {
            break Ok(value);
        }
        if let Err(error) = sleep(&waiter, deadline) {
            // The condition may have come true together with the end of the wait.
            break attempt().ok_or(error);
        }
    };
    for queue in queues {
        queue.remove(&watcher);
    }
    result
}

fn sleep(waiter: &Waiter, deadline: Option<u64>) -> Result<()> {
    while !waiter.woken.load(Ordering::SeqCst) {
        if interrupted() {
            return Err(Errno::EINTR);
        }
        match deadline {
            None => scheduler().park(),
            Some(deadline) => {
                let now = scheduler().monotonic_ns();
                if now >= deadline {
                    return Err(Errno::ETIMEDOUT);
                }
                scheduler().park_timeout(deadline - now);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;

    #[test]
    fn a_waker_is_not_missed() {
        let shared = Arc::new((Waiters::new(), AtomicU32::new(0)));
        for round in 1..200 {
            let other = Arc::clone(&shared);
            let thread = std::thread::spawn(move || {
                other.1.store(round, Ordering::SeqCst);
                other.0.wake();
            });
            let seen =
                wait_on(&[&shared.0], None, || (shared.1.load(Ordering::SeqCst) == round).then_some(7));
            assert_eq!(seen, Ok(7));
            thread.join().unwrap();
        }
        assert_eq!(shared.0.len.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn time_runs_out() {
        let queue = Waiters::new();
        let deadline = scheduler().monotonic_ns() + 1_000_000;
        assert_eq!(wait_on(&[&queue], Some(deadline), || None::<()>), Err(Errno::ETIMEDOUT));
    }
}
