//! Data whose sending is put off.
//!
//! A server that answers a pipeline of requests calls `send` for each, and one that answers many clients calls it once for each of them.
//! Were every call a segment of its own with a look at the device of its own, those would cost more than the answers. So the first call
//! of a run sends at once, as what is alone must not wait, and what the same thread sends until it does something else leaves together.
//! (Linux has `tcp_autocorking` for the former: it holds small pieces back while earlier ones are still with the device.)
//!
//! # Whose duty it is
//! The layer above ends the run with [`Outbox::push`] before the thread waits for anything, and in any case soon.

use crate::tcp::Conn;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::sync::Mutex;

/// Bytes that are put off at most.
const BYTES: usize = 32 << 10;
/// Connections whose data is put off at most.
const CONNECTIONS: usize = 64;

#[derive(Default)]
struct Held {
    /// Those that have it in their buffers; in a row only once.
    conns: Vec<Arc<Conn>>,
    bytes: usize,
}

/// What one thread has put off.
#[derive(Default)]
pub struct Outbox {
    /// Something was sent in this run.
    open: AtomicBool,
    /// Something is put off.
    holds: AtomicBool,
    held: Mutex<Held>,
}

impl Outbox {
    /// Whether a run is under way.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether something is put off.
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }

    /// Ends the run: what is put off is sent.
    pub fn push(&self) {
        self.open.store(false, Ordering::Relaxed);
        self.flush();
    }

    /// Sends what is put off; the run goes on.
    pub(crate) fn flush(&self) {
        if !self.holds.swap(false, Ordering::Relaxed) {
            return;
        }
        let Held { conns, .. } = core::mem::take(&mut *self.held.lock());
        // All are there before the first is served: one look at the device for all.
        conns.iter().for_each(|conn| conn.want());
        conns.iter().for_each(|conn| conn.interface().serve_wanting());
    }

    /// Takes `bytes` bytes in the buffer of a connection, to send them now or later.
    pub(crate) fn take(&self, conn: &Arc<Conn>, bytes: usize) {
        if !self.open.swap(true, Ordering::Relaxed) {
            conn.push();
            return;
        }
        let mut held = self.held.lock();
        held.bytes += bytes;
        if !held.conns.last().is_some_and(|last| Arc::ptr_eq(last, conn)) {
            held.conns.push(Arc::clone(conn));
        }
        let full = held.bytes >= BYTES || held.conns.len() >= CONNECTIONS;
        drop(held);
        self.holds.store(true, Ordering::Relaxed);
        if full {
            self.flush();
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.push();
    }
}
