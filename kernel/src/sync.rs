//! [`IrqLock`]: a spin lock that keeps interrupts out, for state shared with interrupt handlers.
//!
//! Lock order: `sched` run queue → nothing; timers → run queue; heap → frames. The console lock may be taken under
//! any other lock and takes none. Everything that may wait for more than some microseconds uses
//! [`platform::sync`]'s sleeping locks instead, never under an `IrqLock`.

use crate::arch::IrqGuard;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

/// Data behind a spin lock with interrupts off.
pub struct IrqLock<T: ?Sized> {
    locked: AtomicBool,
    data: UnsafeCell<T>,
}

// SAFETY: the lock gives access to one processor at a time, and interrupts are off meanwhile.
unsafe impl<T: ?Sized + Send> Sync for IrqLock<T> {}
// SAFETY: as for the data itself.
unsafe impl<T: ?Sized + Send> Send for IrqLock<T> {}

/// Access to the data of an [`IrqLock`].
pub struct IrqLockGuard<'a, T: ?Sized> {
    lock: &'a IrqLock<T>,
    // Dropped after `drop` has released the lock: interrupts come back last.
    _irq: IrqGuard,
}

impl<T> IrqLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        IrqLock { locked: AtomicBool::new(false), data: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> IrqLock<T> {
    /// Locks, spinning.
    #[inline]
    pub fn lock(&self) -> IrqLockGuard<'_, T> {
        let irq = IrqGuard::new();
        while self.locked.swap(true, Ordering::Acquire) {
            while self.locked.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        }
        IrqLockGuard { lock: self, _irq: irq }
    }

    /// Locks if nobody holds it.
    pub fn try_lock(&self) -> Option<IrqLockGuard<'_, T>> {
        let irq = IrqGuard::new();
        if self.locked.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(IrqLockGuard { lock: self, _irq: irq })
    }
}

impl<T: ?Sized> Deref for IrqLockGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized> DerefMut for IrqLockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, by this guard alone.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T: ?Sized> Drop for IrqLockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.locked.store(false, Ordering::Release);
    }
}
