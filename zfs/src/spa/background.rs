//! Work that a pool does beside everything else, in a thread of its own: one at a time of each kind, and none any more when the pool
//! goes away.

use core::sync::atomic::{AtomicBool, Ordering};
use platform::sync::{Condvar, Mutex};

/// One kind of work.
#[derive(Default)]
pub(crate) struct Background {
    running: Mutex<bool>,
    ended: Condvar,
    stop: AtomicBool,
}

impl Background {
    /// Whether it is to stop as soon as it can.
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Takes the place of who does it; false if somebody has it, or nobody may any more. [`Background::done`] gives it back.
    pub(crate) fn claim(&self) -> bool {
        let mut running = self.running.lock();
        let free = !*running && !self.stopping();
        *running |= free;
        free
    }

    /// It is done for now.
    pub(crate) fn done(&self) {
        *self.running.lock() = false;
        self.ended.notify_all();
    }

    /// Lets nobody begin any more, and waits for the one who has.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Release);
        let mut running = self.running.lock();
        while *running {
            running = self.ended.wait(running);
        }
    }
}
