//! What wakes a thread that serves something: a bell that goes on ringing until the thread has heard it.
//!
//! A park's token alone is not enough for that: a thread that looks whether there is work and then, on its way to its park, waits for a
//! lock, uses up there a token that meant the work.

use super::{Thread, current, park, park_timeout};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering, fence};
use spin::Once;

/// A bell of one thread.
#[derive(Default)]
pub struct Bell {
    rung: AtomicBool,
    thread: Once<Arc<Thread>>,
}

impl Bell {
    /// A bell that is nobody's yet.
    pub const fn new() -> Self {
        Bell { rung: AtomicBool::new(false), thread: Once::new() }
    }

    /// The calling thread is the one that it wakes, from now on. Before that thread looks for work first: who rings earlier is heard when
    /// it first waits.
    pub fn answer(&self) {
        self.thread.call_once(current);
        // Who rings finds the thread, or the thread finds that it has rung.
        fence(Ordering::SeqCst);
    }

    /// Wakes the thread, or lets its next wait end at once. Interrupt handlers may, too.
    pub fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Sleeps until the bell rings, or `ns` nanoseconds; 0: not at all, [`u64::MAX`]: for ever. By its thread, which looks for work after that. May
    /// return early.
    pub fn wait(&self, ns: u64) {
        if !self.rung.load(Ordering::SeqCst) {
            // Nothing stands between the look and the park that could use up the token of a ring.
            match ns {
                0 => {}
                u64::MAX => park(),
                ns => park_timeout(ns),
            }
        }
        self.rung.store(false, Ordering::SeqCst);
    }
}
