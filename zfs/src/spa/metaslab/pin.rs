//! Keeping the pool's content in place while a scan looks at it.
//!
//! A scan walks the tree of the last synced uberblock while new txgs are written, and writes good copies over bad ones. Nothing
//! that tree refers to may be given out again meanwhile. Where the pool has no other space left the pin breaks, and the scan has
//! to begin anew with what it was looking at.
//!
//! # Invariants
//! - Once [`Pins::break_all`] returns, no repair under that pin is going on, and none begins.
//!
//! # Lock order
//! Repairs hold `repairs` and need no lock of the allocator; [`Pins::break_all`] is called with the allocator's lock held.

use super::Metaslabs;
use crate::error::{Error, Result};
use core::sync::atomic::{AtomicU8, Ordering};
use platform::sync::RwLock;

/// Nobody pins.
const NONE: u8 = 0;
/// A pin is in force.
const HELD: u8 = 1;
/// There is a pin, which space was taken from.
const BROKEN: u8 = 2;

/// Whether the pool's space is pinned.
#[derive(Default)]
pub(super) struct Pins {
    state: AtomicU8,
    repairs: RwLock<()>,
}

impl Pins {
    /// Whether freed space must be held back.
    pub(super) fn in_force(&self) -> bool {
        self.state.load(Ordering::Acquire) == HELD
    }

    /// Ends the protection, as the space is needed.
    pub(super) fn break_all(&self) {
        if self.state.compare_exchange(HELD, BROKEN, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            drop(self.repairs.write());
        }
    }
}

/// Holds freed space back as long as it lives; one at a time.
pub(crate) struct Pin<'a> {
    space: &'a Metaslabs,
}

impl Pin<'_> {
    /// Whether everything that the uberblock of the time of the pin refers to is still in place.
    pub(crate) fn holds(&self) -> bool {
        self.space.pins.in_force()
    }

    /// Runs `write`, which writes to blocks in use, if the pin holds; it does until `write` returns. `None` otherwise.
    pub(crate) fn while_held<T>(&self, write: impl FnOnce() -> T) -> Option<T> {
        let _repair = self.space.pins.repairs.read();
        self.holds().then(write)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut inner = self.space.inner.lock();
        self.space.pins.state.store(NONE, Ordering::Release);
        inner.vdevs.iter_mut().flat_map(|v| &mut v.slabs).for_each(super::Metaslab::release_held);
    }
}

impl Metaslabs {
    /// Pins the space; [`Error::Busy`] if it is pinned already.
    pub(crate) fn pin(&self) -> Result<Pin<'_>> {
        let inner = self.inner.lock();
        let free = self.pins.state.compare_exchange(NONE, HELD, Ordering::AcqRel, Ordering::Acquire);
        drop(inner);
        if free.is_ok() { Ok(Pin { space: self }) } else { Err(Error::Busy) }
    }
}
