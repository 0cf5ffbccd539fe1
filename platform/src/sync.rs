//! Locks that sleep: [`Mutex`], [`RwLock`], [`Condvar`], [`Latch`].
//!
//! Built on `spin`'s locks for the data and on [`crate::thread`]'s parking for the waiting, so the same code runs
//! under std and in the kernel. They are *not* for interrupt handlers.
//!
//! # How a wake-up is never lost
//! A waiter queues itself, *then* tries the lock again, then parks; an owner unlocks, *then* looks at the queue.
//! Both put a sequentially consistent fence between their two steps, so at least one sees the other. Parking keeps
//! one token, so an unpark that arrives before the park is not lost either.

use crate::thread::{Unpark, scheduler};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

struct Relax;
impl spin::RelaxStrategy for Relax {
    fn relax() {
        scheduler().yield_now();
    }
}
type Spin<T> = spin::mutex::SpinMutex<T, Relax>;

struct Waiter {
    ticket: u64,
    thread: Arc<dyn Unpark>,
}

/// Threads that wait for something, first come first woken.
struct WaitQueue {
    len: AtomicUsize,
    next_ticket: AtomicU64,
    queue: Spin<VecDeque<Waiter>>,
}

impl WaitQueue {
    const fn new() -> Self {
        WaitQueue {
            len: AtomicUsize::new(0),
            next_ticket: AtomicU64::new(0),
            queue: Spin::new(VecDeque::new()),
        }
    }

    fn enqueue(&self) -> u64 {
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let waiter = Waiter { ticket, thread: scheduler().current() };
        let mut queue = self.queue.lock();
        queue.push_back(waiter);
        self.len.store(queue.len(), Ordering::SeqCst);
        drop(queue);
        fence(Ordering::SeqCst);
        ticket
    }

    /// Takes the caller out again; `false` if somebody has woken it in the meantime.
    fn cancel(&self, ticket: u64) -> bool {
        let mut queue = self.queue.lock();
        let before = queue.len();
        queue.retain(|w| w.ticket != ticket);
        self.len.store(queue.len(), Ordering::SeqCst);
        queue.len() != before
    }

    fn is_queued(&self, ticket: u64) -> bool {
        self.queue.lock().iter().any(|w| w.ticket == ticket)
    }

    #[inline]
    fn wake_one(&self) {
        fence(Ordering::SeqCst);
        if self.len.load(Ordering::SeqCst) != 0 {
            self.wake_first();
        }
    }

    #[cold]
    fn wake_first(&self) {
        let waiter = {
            let mut queue = self.queue.lock();
            let waiter = queue.pop_front();
            self.len.store(queue.len(), Ordering::SeqCst);
            waiter
        };
        if let Some(waiter) = waiter {
            waiter.thread.unpark();
        }
    }

    #[inline]
    fn wake_all(&self) {
        fence(Ordering::SeqCst);
        if self.len.load(Ordering::SeqCst) != 0 {
            self.wake_every_one();
        }
    }

    #[cold]
    fn wake_every_one(&self) {
        let woken = {
            let mut queue = self.queue.lock();
            self.len.store(0, Ordering::SeqCst);
            core::mem::take(&mut *queue)
        };
        for waiter in woken {
            waiter.thread.unpark();
        }
    }

    /// Sleeps until `attempt` gives a value; whoever makes that possible must wake this queue.
    #[inline]
    fn wait_for<R>(&self, mut attempt: impl FnMut() -> Option<R>) -> R {
        match attempt() {
            Some(value) => value,
            None => self.sleep_for(attempt),
        }
    }

    #[cold]
    fn sleep_for<R>(&self, mut attempt: impl FnMut() -> Option<R>) -> R {
        loop {
            let ticket = self.enqueue();
            if let Some(value) = attempt() {
                if !self.cancel(ticket) {
                    // Woken for something that is no longer needed here: pass it on.
                    self.wake_one();
                }
                return value;
            }
            while self.is_queued(ticket) {
                scheduler().park();
            }
            if let Some(value) = attempt() {
                return value;
            }
        }
    }
}

/// A mutual-exclusion lock whose waiters sleep.
pub struct Mutex<T: ?Sized> {
    waiters: WaitQueue,
    data: Spin<T>,
}

/// Access to a [`Mutex`]'s data; unlocks when dropped.
pub struct MutexGuard<'a, T: ?Sized> {
    // `None` only between unlocking in `drop` and the end of the guard.
    guard: Option<spin::mutex::SpinMutexGuard<'a, T, Relax>>,
    lock: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    /// An unlocked mutex.
    pub const fn new(value: T) -> Self {
        Mutex { waiters: WaitQueue::new(), data: Spin::new(value) }
    }

    /// The value, as nobody can hold the lock any more.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks, sleeping as long as another thread holds it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.waiters.wait_for(|| self.data.try_lock());
        MutexGuard { guard: Some(guard), lock: self }
    }

    /// Locks if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.data.try_lock().map(|guard| MutexGuard { guard: Some(guard), lock: self })
    }

    /// The data, as nobody else can have a reference.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.guard.as_ref().expect("the guard is taken only by drop")
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("the guard is taken only by drop")
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.guard = None;
        self.lock.waiters.wake_one();
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(guard) => f.debug_tuple("Mutex").field(&&*guard).finish(),
            None => f.write_str("Mutex(<locked>)"),
        }
    }
}

/// A condition that threads wait for while a [`Mutex`] protects its state.
pub struct Condvar {
    waiters: WaitQueue,
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

impl Condvar {
    /// A condition nobody waits for.
    #[must_use]
    pub const fn new() -> Self {
        Condvar { waiters: WaitQueue::new() }
    }

    /// Unlocks, sleeps until notified, locks again. Never returns without a notification.
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let lock = guard.lock;
        let ticket = self.waiters.enqueue();
        drop(guard);
        while self.waiters.is_queued(ticket) {
            scheduler().park();
        }
        lock.lock()
    }

    /// As [`Condvar::wait`], but at most `ns` nanoseconds; `false` if the time ran out.
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        ns: u64,
    ) -> (MutexGuard<'a, T>, bool) {
        let lock = guard.lock;
        let deadline = scheduler().monotonic_ns().saturating_add(ns);
        let ticket = self.waiters.enqueue();
        drop(guard);
        let mut notified = true;
        while self.waiters.is_queued(ticket) {
            let now = scheduler().monotonic_ns();
            if now >= deadline {
                notified = !self.waiters.cancel(ticket);
                break;
            }
            scheduler().park_timeout(deadline - now);
        }
        (lock.lock(), notified)
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.waiters.wake_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.waiters.wake_all();
    }
}

/// Many readers or one writer; waiters sleep. Writers are not starved: a waiting writer holds back new readers.
pub struct RwLock<T: ?Sized> {
    waiters: WaitQueue,
    writers_waiting: AtomicUsize,
    data: spin::rwlock::RwLock<T, Relax>,
}

/// Shared access to an [`RwLock`]'s data.
pub struct RwLockReadGuard<'a, T: ?Sized> {
    guard: Option<spin::rwlock::RwLockReadGuard<'a, T, Relax>>,
    lock: &'a RwLock<T>,
}

/// Exclusive access to an [`RwLock`]'s data.
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    guard: Option<spin::rwlock::RwLockWriteGuard<'a, T, Relax>>,
    lock: &'a RwLock<T>,
}

impl<T> RwLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        RwLock {
            waiters: WaitQueue::new(),
            writers_waiting: AtomicUsize::new(0),
            data: spin::rwlock::RwLock::new(value),
        }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Locks for reading. Not to be called by a thread that already reads: a waiting writer would block both.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let guard = self.waiters.wait_for(|| {
            if self.writers_waiting.load(Ordering::SeqCst) > 0 { None } else { self.data.try_read() }
        });
        RwLockReadGuard { guard: Some(guard), lock: self }
    }

    /// Locks for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        if let Some(guard) = self.data.try_write() {
            return RwLockWriteGuard { guard: Some(guard), lock: self };
        }
        self.writers_waiting.fetch_add(1, Ordering::SeqCst);
        let guard = self.waiters.wait_for(|| self.data.try_write());
        self.writers_waiting.fetch_sub(1, Ordering::SeqCst);
        RwLockWriteGuard { guard: Some(guard), lock: self }
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.guard.as_ref().expect("the guard is taken only by drop")
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        // Readers and writers share one queue: wake all, so that a reader woken behind a writer is not lost.
        self.lock.waiters.wake_all();
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.guard.as_ref().expect("the guard is taken only by drop")
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("the guard is taken only by drop")
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        self.lock.waiters.wake_all();
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        RwLock::new(T::default())
    }
}

impl<T: ?Sized> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}

/// Counts down to zero; waiters sleep until it is there.
#[derive(Debug)]
pub struct Latch {
    left: Mutex<usize>,
    zero: Condvar,
}

impl Latch {
    /// A latch that opens after `count` calls of [`Latch::count_down`].
    #[must_use]
    pub const fn new(count: usize) -> Self {
        Latch { left: Mutex::new(count), zero: Condvar::new() }
    }

    /// One thing less to wait for.
    pub fn count_down(&self) {
        let mut left = self.left.lock();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.zero.notify_all();
        }
    }

    /// Sleeps until the count is zero.
    pub fn wait(&self) {
        let mut left = self.left.lock();
        while *left > 0 {
            left = self.zero.wait(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contended_mutex_counts_right() {
        let counter = Arc::new(Mutex::new(0u64));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        *counter.lock() += 1;
                    }
                })
            })
            .collect();
        for t in threads {
            t.join().unwrap();
        }
        assert_eq!(*counter.lock(), 160_000);
    }

    #[test]
    fn rwlock_readers_and_writers_exclude_each_other() {
        let lock = Arc::new(RwLock::new((0u64, 0u64)));
        let threads: Vec<_> = (0..6)
            .map(|i| {
                let lock = Arc::clone(&lock);
                std::thread::spawn(move || {
                    for _ in 0..5_000 {
                        if i % 3 == 0 {
                            let mut pair = lock.write();
                            pair.0 += 1;
                            std::hint::spin_loop();
                            pair.1 += 1;
                        } else {
                            let pair = lock.read();
                            assert_eq!(pair.0, pair.1);
                        }
                    }
                })
            })
            .collect();
        for t in threads {
            t.join().unwrap();
        }
        assert_eq!(*lock.read(), (10_000, 10_000));
    }

    #[test]
    fn condvar_hands_over_every_item() {
        let shared = Arc::new((Mutex::new(VecDeque::new()), Condvar::new()));
        let consumer = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut sum = 0u64;
                for _ in 0..10_000 {
                    let mut queue = shared.0.lock();
                    while queue.is_empty() {
                        queue = shared.1.wait(queue);
                    }
                    sum += queue.pop_front().unwrap();
                }
                sum
            })
        };
        for i in 0..10_000u64 {
            shared.0.lock().push_back(i);
            shared.1.notify_one();
        }
        assert_eq!(consumer.join().unwrap(), (0..10_000).sum());
    }

    #[test]
    fn condvar_timeout_expires_without_a_notification() {
        let lock = Mutex::new(());
        let condvar = Condvar::new();
        let (_guard, notified) = condvar.wait_timeout(lock.lock(), 1_000_000);
        assert!(!notified);
    }
}
